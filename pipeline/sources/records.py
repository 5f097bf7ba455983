"""The rows of every source, and the name of a unit of reading. Plain fields only: they cross processes."""

from typing import Final, Literal, NamedTuple

from pipeline.urls import BadUrl, resolve

Kind = Literal["alt", "title", "figcaption", "og", "caption"]

MAX_TEXT: Final = 10_000
"""Characters kept of a text: far above any caption, so that a hostile page cannot multiply a long text."""
_MAX_SHOWN: Final = 256  # characters of an unusable reference that are worth keeping


class Image(NamedTuple):
    """One image reference and the texts that stand with it; or, with a `reason`, why it is unusable."""

    url: str
    texts: tuple[tuple[Kind, str], ...] = ()
    page_url: str = ""
    extra: dict[str, object] | None = None
    reason: str | None = None
    detail: str = ""
    opt_out: str = ""
    """Its page's refusal to let its images be used, such as `meta robots: noai`."""
    page_lang: str = ""
    """The language that its page says it is in: a tag of BCP 47 in lower case, or "" where it says none."""
    rights: str = ""
    """Its page's statements on its terms, as `rights.statements.encode` writes them."""


def sound_image(
    url: str, texts: tuple[tuple[Kind, str], ...], page_url: str, extra: dict[str, object] | None,
    page_lang: str,
) -> Image:  # fmt: skip
    """Return an image of a resolved URL that may be fetched."""
    # Its own __new__ takes four times as long.
    return tuple.__new__(Image, (url, texts, page_url, extra, None, "", "", page_lang, ""))


def make_image(
    reference: str,
    texts: tuple[tuple[Kind, str], ...],
    page_url: str,
    base: str | None,
    extra: dict[str, object] | None = None,
    page_lang: str = "",
) -> Image:
    """Resolve `reference` against `base`; a URL that cannot be fetched becomes an Image with its reason."""
    for _, text in texts:
        if len(text) > MAX_TEXT or not text.isascii():
            texts = tuple((kind, scalar(text[:MAX_TEXT])) for kind, text in texts)
            break
    try:
        url = resolve(reference, base)
    except BadUrl as error:
        url, detail = scalar(reference[:_MAX_SHOWN]), scalar(str(error))
        return Image(url, texts, page_url, extra, error.reason, detail, "", page_lang)
    if "svg" in url.lower() and url.partition("?")[0].lower().endswith((".svg", ".svgz")):
        return Image(url, texts, page_url, extra, "svg", "by its name", "", page_lang)
    return sound_image(url, texts, page_url, extra, page_lang)


def bad_record(detail: str, page_url: str = "") -> Image:
    """Stand for a record that could not be read; `detail` says where and why."""
    return Image("", (), page_url, None, "bad_record", scalar(detail[:_MAX_SHOWN]))


def scalar(text: str) -> str:
    """Replace lone surrogates, which JSON's escapes can hold and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
