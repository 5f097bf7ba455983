"""Images and their texts on one HTML page.

Elements: <img> and <amp-img> (with the <source>s of an enclosing <picture>, and the <figcaption> of the
nearest <figure>), and og:image. An element's texts are its alt and title and that figcaption; og:image has
og:image:alt, or else og:title. The URL is the largest of all that the element offers: srcset by w, then by x,
then what a lazy loader would take, then src.
"""

import codecs
import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from selectolax.lexbor import LexborHTMLParser, LexborNode

from pipeline.http.optout import check_page
from pipeline.sources import page_language, srcset
from pipeline.sources.htmlguard import tame
from pipeline.sources.records import MAX_TEXT, Image, Kind, bad_record, make_image, scalar
from pipeline.urls import BadUrl, resolve

MAX_HTML: Final = 8 << 20
"""Bytes parsed of a page; what follows is not read. Common Crawl cuts pages at 1 MiB, since 2025 at 5 MiB."""

# Where scripts that load images late keep the real reference while src or srcset holds a placeholder:
# lazysizes, lozad, Unveil, WordPress (Jetpack, Rocket, a3), Magento, Flickity, Squarespace and their like.
LAZY_SRC: Final = (
    *("data-src", "data-original", "data-lazy-src", "data-lazy", "data-img-src", "data-orig-file"),
    *("data-large-file", "data-lazyload", "data-lateloadsrc", "data-gt-lazy-src", "data-flickity-lazyload"),
    *("data-image", "data-echo", "data-hi-res-src", "data-src-fg", "lazy-src"),
)
LAZY_SRCSET: Final = ("data-srcset", "data-lazy-srcset", "data-original-set", "lazy-srcset")

_MAX_SOURCES: Final = 16  # of a <picture>, and candidates of each: an author writes three
_MAX_PARENTS: Final = 32  # how far up a <figure> is looked for; bounds the walk in hostile nesting
_BLOCKS: Final = frozenset(
    (
        "br",
        "p",
        "div",
        "li",
        "ul",
        "ol",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "dt",
        "dd",
        "tr",
        "td",
        "th",
        "section",
    )
)
_SILENT: Final = frozenset(("script", "style", "noscript", "template"))
_META_CHARSET: Final = re.compile(
    rb"<meta[^>]{0,512}?charset\s*=\s*[\"']?\s*([a-z0-9_:.\-]{1,40})", re.IGNORECASE
)
_BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

# Labels that mean another encoding on the web than in Python (WHATWG Encoding Standard, section 4.2).
_LABELS: Final = {
    **dict.fromkeys(("ascii", "us-ascii", "latin1", "latin-1", "iso-8859-1", "iso8859-1", "l1"), "cp1252"),
    **dict.fromkeys(("iso-8859-9", "latin5"), "cp1254"),
    **dict.fromkeys(("gb2312", "gbk", "x-gbk", "gb_2312-80", "chinese"), "gb18030"),
    **dict.fromkeys(("shift_jis", "shift-jis", "sjis", "x-sjis", "ms_kanji", "windows-31j"), "cp932"),
    **dict.fromkeys(("euc-kr", "ks_c_5601-1987", "korean", "ksc5601"), "cp949"),
    **dict.fromkeys(("big5", "big5-hkscs", "x-x-big5", "cn-big5"), "big5hkscs"),
    **dict.fromkeys(("tis-620", "iso-8859-11", "windows-874"), "cp874"),
    **dict.fromkeys(("utf8", "unicode-1-1-utf-8", "utf-16", "utf-16le", "utf-16be"), "utf-8"),
}
_ENCODING: Final = re.compile(
    r"utf-8|cp\d+|windows-125\d|iso-?8859-\d+|koi8-[ru]|euc-jp|iso-2022-jp|gb18030|big5hkscs|macintosh|x-mac-cyrillic"
)


def images(
    data: bytes, page_url: str, charset: str | None = None, headers: Iterable[tuple[str, str]] = ()
) -> Iterator[Image]:
    """Yield the images of a page in document order, og:image last; never raises, whatever the bytes.

    `headers` are those that the page came with, `charset` the one that they name. The page's own <base> is
    honoured.
    """
    text, reduced = tame(decode(data[:MAX_HTML], charset))
    if reduced:
        yield bad_record("page nested too deeply; only its <img> and <meta> were read", page_url)
    tree = LexborHTMLParser(text)
    headers = list(headers)
    tags = [node.attributes for node in tree.tags("meta")]
    metas = [(tag.get("property") or tag.get("name") or "", tag.get("content") or "") for tag in tags]
    pragmas = [(tag.get("http-equiv") or "", tag.get("content") or "") for tag in tags]
    root = (
        [] if tree.root is None else [tree.root.attributes.get(name) or "" for name in ("lang", "xml:lang")]
    )
    found = _images(tree, page_url, metas, page_language.declared(root, pragmas, headers, metas))
    if opt_out := check_page(metas, headers):
        found = (image._replace(opt_out=scalar(opt_out)) for image in found)
    yield from found


def _images(
    tree: LexborHTMLParser, page_url: str, metas: list[tuple[str, str]], lang: str
) -> Iterator[Image]:
    base = base_url(tree, page_url)
    seen: set[tuple[str, tuple[tuple[Kind, str], ...]]] = set()
    context = _Context(page_url, base, lang, {}, {})
    for tag in ("img", "amp-img"):
        for node in tree.tags(tag):
            image = _element(node, context)
            # Lazy loaders repeat the element for readers without scripts: still one reference.
            if (image.url, image.texts) not in seen or not _in_noscript(node):
                seen.add((image.url, image.texts))
                yield image
    yield from open_graph(metas, page_url, base, lang)


def open_graph(
    metas: list[tuple[str, str]], page_url: str, base: str | None, page_lang: str = ""
) -> list[Image]:
    """Return the og:image references among (property, content) pairs, each with its alt or the title.

    Arrays follow https://ogp.me: an og:image:alt belongs to the og:image before it.
    """
    found: list[tuple[str, str]] = []
    title = ""
    for name, content in metas:
        name = name.strip().lower()
        if name == "og:image" and content.strip():
            found.append((content, ""))
        elif name == "og:image:alt" and found and not found[-1][1]:
            found[-1] = (found[-1][0], content.strip())
        elif name == "og:title":
            title = title or content.strip()
    return [
        make_image(url, (("og", alt or title),) if alt or title else (), page_url, base, None, page_lang)
        for url, alt in found
    ]


def decode(data: bytes, charset: str | None) -> str:
    """Decode a page: byte-order mark, HTTP header, <meta> in the first 1024 bytes, UTF-8, windows-1252."""
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    meta = _META_CHARSET.search(data, 0, 1024)
    for label in (charset, meta[1].decode("ascii") if meta else None):
        codec = _python_encoding(label)
        if codec is not None:
            return data.decode(codec, "replace")
    try:
        # A page cut in the middle of a character is still UTF-8.
        return codecs.getincrementaldecoder("utf-8")("strict").decode(data)
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def _python_encoding(label: str | None) -> str | None:
    """Return the codec for a label of the web, None for an unknown one: Python's `base64` is no charset."""
    name = (label or "").strip("\"' \t").lower()
    name = _LABELS.get(name, name)
    if not _ENCODING.fullmatch(name):
        return None
    try:
        return codecs.lookup(name.removeprefix("x-")).name
    except LookupError:
        return None


class _Context(NamedTuple):
    """What the elements of a page share; both dicts are by node, each read once however many ask."""

    page_url: str
    base: str
    lang: str
    captions: dict[int, str]
    sources: dict[int, list[srcset.Candidate]]


def _element(node: LexborNode, context: _Context) -> Image:
    attributes = node.attributes
    picture, figure = _ancestors(node)
    texts: list[tuple[Kind, str]] = []
    if alt := (attributes.get("alt") or "").strip():
        texts.append(("alt", alt))
    if title := (attributes.get("title") or "").strip():
        texts.append(("title", title))
    if figure is not None and (caption := _figcaption(figure, context.captions)):
        texts.append(("figcaption", caption))
    sources = [] if picture is None else _sources(picture, context.sources)
    first: Image | None = None
    for reference in _references(attributes, sources):
        image = make_image(reference, tuple(texts), context.page_url, context.base, None, context.lang)
        if image.reason is None:
            return image
        first = first or image
    return first or make_image("", tuple(texts), context.page_url, context.base, None, context.lang)


def _references(attributes: dict[str, str | None], sources: list[srcset.Candidate]) -> list[str]:
    """Return what an element may show, best first: its own srcset and the picture's, lazy attributes, src."""
    own = _candidates(attributes)
    candidates = own + sources
    lazy = [
        value
        for name in LAZY_SRC
        if (value := (attributes.get(name) or "").strip()) and _looks_like_url(value)
    ]
    src = attributes.get("src")
    plain = [*lazy, *([src] if src is not None else [])]
    # A lone src counts as 1x, so it stays before a <source> that is no larger.
    if plain and not any(c.width or c.density > 1 for c in candidates) and not own:
        return [*plain, *(c.url for c in candidates)]
    ranked = sorted(candidates, key=lambda c: (-c.width, -c.density))  # stable: the element's own come first
    return [*(c.url for c in ranked), *plain]


def _sources(picture: LexborNode, known: dict[int, list[srcset.Candidate]]) -> list[srcset.Candidate]:
    if picture.mem_id not in known:
        known[picture.mem_id] = [
            candidate
            for source in picture.css("source")[:_MAX_SOURCES]
            if (source.attributes.get("type") or "").strip().lower() != "image/svg+xml"
            for candidate in _candidates(source.attributes)[:_MAX_SOURCES]
        ]
    return known[picture.mem_id]


def _candidates(attributes: dict[str, str | None]) -> list[srcset.Candidate]:
    return [
        c for name in (*LAZY_SRCSET, "srcset") if (value := attributes.get(name)) for c in srcset.parse(value)
    ]


def _looks_like_url(value: str) -> bool:
    """Return whether a data attribute, which may hold true or {json}, holds a reference."""
    return ("/" in value or "." in value) and value[0] not in "{[<"


def _ancestors(node: LexborNode) -> tuple[LexborNode | None, LexborNode | None]:
    """Return the <picture> and the nearest <figure> around a node."""
    picture, parent = None, node.parent
    for _ in range(_MAX_PARENTS):
        if parent is None:
            break
        tag = parent.tag
        if tag == "figure":
            return picture, parent
        if tag == "picture" and picture is None:
            picture = parent
        parent = parent.parent
    return picture, None


def _in_noscript(node: LexborNode) -> bool:
    parent = node.parent
    for _ in range(_MAX_PARENTS):
        if parent is None:
            return False
        if parent.tag == "noscript":
            return True
        parent = parent.parent
    return False


def _figcaption(figure: LexborNode, known: dict[int, str]) -> str:
    if figure.mem_id not in known:
        caption = figure.css_first("figcaption")
        known[figure.mem_id] = "" if caption is None else _text(caption)
    return known[figure.mem_id]


def _text(node: LexborNode) -> str:
    """Return the visible text, blocks apart, white space collapsed, at most MAX_TEXT characters."""
    parts: list[str] = []
    length = 0
    for child in node.traverse(include_text=True):
        if child.is_text_node:
            parent = child.parent
            if parent is not None and parent.tag in _SILENT:
                continue
            text = child.text_content or ""
            parts.append(text)
            length += len(text)
            if length > MAX_TEXT:
                break
        elif child.tag in _BLOCKS:
            parts.append(" ")
    return " ".join("".join(parts).split())


def base_url(tree: LexborHTMLParser, page_url: str) -> str:
    """Return the URL that a page's references are relative to: its <base>, or its own."""
    for node in tree.tags("base"):
        href = node.attributes.get("href")
        if href is not None:  # the first one with href counts
            try:
                return resolve(href, page_url)
            except BadUrl:
                break
    return page_url
