"""Which of the references that an <img> offers is its picture: srcset, lazy attributes, <source>, src.

Scripts that load images late keep the real reference in attributes of their own while `src` holds a
placeholder. No list of these attributes is complete, so beside a placeholder any attribute counts whose value
looks like an image's URL, as in Mozilla's Readability; beside a good `src` only those of known meaning do.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from itertools import pairwise
from typing import Final

from pipeline.images.headers import FORMATS
from pipeline.sources import srcset
from pipeline.urls import MAX_LENGTH

Attributes = Mapping[str, str | None]

# lazysizes, lozad, Unveil, WordPress (Jetpack, Rocket, a3), Magento, Flickity, Squarespace and their like.
LAZY_SRC: Final = (
    *("data-src", "data-original", "data-lazy-src", "data-lazy", "data-img-src", "data-orig-file"),
    *("data-large-file", "data-lazyload", "data-lateloadsrc", "data-gt-lazy-src", "data-flickity-lazyload"),
    *("data-image", "data-echo", "data-hi-res-src", "data-src-fg", "lazy-src"),
)
LAZY_SRCSET: Final = ("data-srcset", "data-lazy-srcset", "data-original-set", "lazy-srcset")

_TYPES: Final = {
    **{f"image/{name}": name for name in FORMATS},
    **dict.fromkeys(("image/jpg", "image/pjpeg"), "jpeg"),
    **dict.fromkeys(("image/x-png", "image/apng", "image/vnd.mozilla.apng"), "png"),
    "image/avif-sequence": "avif",
}
_ENDINGS: Final = {
    **{name: name for name in FORMATS},
    **dict.fromkeys(("jpg", "jpe", "jfif", "pjpeg", "pjp"), "jpeg"),
    "apng": "png",
}
# Endings of files that are no picture, or a picture that we do not decode.
_NO_PICTURES: Final = frozenset(
    """svg svgz jxl heic heif tif tiff bmp ico cur psd eps ai pdf jp2 j2k jpx wdp jxr dng raw html htm js css
    json xml txt mp4 webm mov m4v avi mp3 woff woff2""".split()  # noqa: SIM905
)
_NAMED: Final = re.compile(rf"[^/\s]\.(?:{'|'.join(_ENDINGS)})(?![a-z0-9])", re.IGNORECASE)
_NOT_IN_URL: Final = re.compile(r"[\s<>\"{}\[\]]")
_URL: Final = re.compile(r"(?:https?:)?//[^\s/]|\.{0,2}/[^\s]|[^\s/]+/[^\s]", re.IGNORECASE)
_NUMBER: Final = re.compile(r"[\d.,:/ -]+")
_DESCRIPTOR: Final = re.compile(r"\d+(?:\.\d+)?[wx],?")
_MAX_VALUE: Final = 4 * MAX_LENGTH  # characters of an attribute that may be a list

# Names in braces that a script fills in; {3F2504E0-...} is a file name.
_TEMPLATE: Final = re.compile(
    r"\{\{|\$\{|\{%|<%|#\{|\[\[|(?:\{|%7b)\s*_?(?:width|w|height|h|size|quality|q|format|fmt|ext|dpr|density|url"
    r"|src|id|name|image|img|path|file|crop|ratio|scale)\s*(?:\}|%7d)",
    re.IGNORECASE,
)
_WIDTH: Final = re.compile(r"(?:\{|%7b)\s*_?(?:width|w|size)\s*(?:\}|%7d)", re.IGNORECASE)
_WHOLE: Final = re.compile(r"(?<![\d.])[1-9]\d{0,4}(?![\d.%])")
_MAX_WIDTH: Final = 2048  # pixels asked of a server that scales images
_GUESSED_WIDTH: Final = 1024  # where the page does not say

_NO_REFERENCES: Final = ("data:", "about:", "blob:", "javascript:")
# A file name made of these words, numbers aside, says that the picture comes later.
_PLACEHOLDERS: Final = frozenset(
    """blank spacer placeholder transparent trans clear empty dot loading loader load preloader spinner pixel
    px 1px lazy lazyload shim grey gray white space spaceball null none noimage nopic dummy""".split()  # noqa: SIM905
)
_FILLING: Final = frozenset(
    """image images img gif ajax icon bg background default x pic photo picture thumb no""".split()  # noqa: SIM905
)
_STEM_PARTS: Final = re.compile(r"[^a-z0-9]+")
_SIZE: Final = re.compile(r"\d+(?:x\d+)?|[0-9a-f]{8,}")

# Attributes that never hold the picture, and attributes that hold a smaller copy.
_OTHER_MEANING: Final = re.compile(
    r"src|srcset|alt|title|class|id|style|sizes|usemap|longdesc|cite|href|ping|srcdoc|on.*|aria-.*|item.*"
    r"|data-(?:caption|title|alt|description|image-(?:title|caption|meta|description)|permalink|link|href|page|page-?url)"
)
_LESSER: Final = re.compile(
    r"(?:^|[-_])(?:fallback|placeholder|default|thumb|small|tiny|low|lqip|preview|blur|error|loading|noimage"
    r"|no-image|hover|over|avatar|icon|mobile|mini)"
)


def references(
    attributes: Attributes, sources: list[srcset.ImageCandidate], formats: Collection[str] = FORMATS
) -> list[str]:
    """Return the pictures that an element may show, best first: of usable formats by their names,
    placeholders last.

    `sources` are the candidates of the <picture> around it. The largest comes first: by w, then by x, then
    the image of a lazy loader, then src.
    """
    src = attributes.get("src")
    has_src = src is not None and not is_placeholder(src) and not _is_unusable(src, formats)
    own = candidates(attributes, is_lazy=not has_src)
    lazy = _lazy(attributes, src if has_src else None)
    if not has_src and not lazy:
        lazy = _any(attributes)
    plain = [*lazy, *([src] if src is not None else [])]
    found = own + sources
    ranked = [c.url for c in sorted(found, key=lambda c: (-c.width, -c.density))]  # stable: our own first
    # A lone src counts as 1x, so it stays before a <source> that is no larger.
    is_larger = bool(own) or any(c.width or c.density > 1 for c in sources)
    urls = [*ranked, *plain] if is_larger or not (has_src or lazy) else [*plain, *ranked]
    return sorted(urls, key=lambda url: 2 * is_placeholder(url) + _is_unusable(url, formats))


def candidates(attributes: Attributes, *, is_lazy: bool) -> list[srcset.ImageCandidate]:
    """Return the pictures of an element's srcset and its lazy variants; `is_lazy` looks into all
    attributes."""
    lazy = _listed(attributes.get(name) for name in LAZY_SRCSET)
    listed = [
        c for c in lazy if _is_image(c.url) or (_is_url(c.url) and (is_lazy or c.width or c.density != 1))
    ]
    listed += _listed([attributes.get("srcset")])
    if is_lazy and all(is_placeholder(c.url) for c in listed):
        others = (value for name, value in attributes.items() if value and not _is_other(name))
        listed += _listed(value for value in others if _is_srcset(value))
    return listed


def _listed(values: Iterable[str | None]) -> list[srcset.ImageCandidate]:
    """Return the candidates of some lists; a width that a template leaves open is that of its descriptor."""
    found = (c for value in values if value for c in srcset.parse(value))
    filled = (c._replace(url=_filled(c.url, [c.width] if c.width else [])) for c in found)
    return [c for c in filled if c.url]


def is_usable_type(media_type: str, formats: Collection[str]) -> bool:
    """Return whether a <source> of a type, "" for none, may be of a format that is taken."""
    media_type = media_type.partition(";")[0].strip().lower()
    return not media_type or _TYPES.get(media_type) in formats


def is_template(url: str) -> bool:
    """Return whether a reference has a name in it that a script replaces: `x_{width}.jpg`, `{{ src }}`."""
    return _TEMPLATE.search(url[:MAX_LENGTH]) is not None


def is_placeholder(url: str) -> bool:
    """Return whether a reference is none, or by its name a picture that says nothing."""
    url = url[:MAX_LENGTH].strip()
    if not url or url[0] == "#" or url[:11].lower().startswith(_NO_REFERENCES) or is_template(url):
        return True
    stem = _path(url).rpartition("/")[2].rpartition(".")[0].lower()
    parts = [part for part in _STEM_PARTS.split(stem) if part and not _SIZE.fullmatch(part)]
    if not parts:
        return stem in ("1x1", "1", "0")
    return not _PLACEHOLDERS.isdisjoint(parts) and (_PLACEHOLDERS | _FILLING).issuperset(parts)


def _lazy(attributes: Attributes, src: str | None) -> list[str]:
    """Return the values of lazy attributes of known meaning; a good src gives way only to images by name."""
    is_named = src is not None and _ending(src) in _ENDINGS
    widths = _widths(attributes, may_guess=src is None)
    values = (value.strip() for name in LAZY_SRC if (value := attributes.get(name)))
    # Filled in, a template is a guess at a server's files; beside another file a good src is better.
    urls = (
        _filled(v, widths) for v in values if src is None or not is_template(v) or _is_of_template(src, v)
    )
    accepts = _is_image if is_named else _is_url
    return [url for url in urls if accepts(url) and not is_placeholder(url)]


def _any(attributes: Attributes) -> list[str]:
    """Return the values of all other attributes that look like images' URLs, lesser versions last."""
    found: list[tuple[bool, str]] = []
    widths = _widths(attributes, may_guess=True)
    for name, value in attributes.items():
        if value and not _is_other(name):
            url = _filled(value.strip(), widths)
            accepts = _is_url if "src" in name else _is_image
            if accepts(url) and not is_placeholder(url):
                found.append((_LESSER.search(name) is not None, url))
    return [url for _, url in sorted(found, key=lambda one: one[0])]  # stable: else in the element's order


def _widths(attributes: Attributes, *, may_guess: bool) -> list[int]:
    """Return the widths that a template may be filled in with: those of lazysizes, or that of the element."""
    names = ("data-widths", "width") if may_guess else ("data-widths",)
    for name in names:
        if numbers := _WHOLE.findall((attributes.get(name) or "")[:1000]):
            return [int(number) for number in numbers]
    return [_GUESSED_WIDTH] if may_guess else []


def _is_of_template(src: str, template: str) -> bool:
    """Return whether a file name is that of a template at some width."""
    pattern = r"\d+".join(map(re.escape, _WIDTH.split(_path(template).rpartition("/")[2])))
    return re.fullmatch(pattern, _path(src).rpartition("/")[2]) is not None


def _filled(url: str, widths: list[int]) -> str:
    """Put the largest sensible width into a template; "" where that does not fill it."""
    if not is_template(url):
        return url
    if widths:
        url = _WIDTH.sub(str(max((w for w in widths if w <= _MAX_WIDTH), default=min(widths))), url)
    return "" if is_template(url) else url


def _is_image(value: str) -> bool:
    """Return whether a value is a URL that names an image."""
    if not value or len(value) > MAX_LENGTH or _NAMED.search(value) is None:
        return False
    # Spaces in file names are common, descriptions that end in one are not.
    return _NOT_IN_URL.search(value) is None or (value[0] in "/.h" and _is_spaced_path(value))


def _is_spaced_path(value: str) -> bool:
    return _NOT_IN_URL.search(value.replace(" ", "")) is None and _ending(value) in _ENDINGS


def _is_url(value: str) -> bool:
    """Return whether a value that may also be true, a number or {json} is a URL that may be an image's."""
    if _is_image(value):
        return True
    if not value or len(value) > MAX_LENGTH or value[0] in "{[<(" or _NUMBER.fullmatch(value):
        return False
    return bool(_URL.match(value)) and not _NOT_IN_URL.search(value) and _ending(value) not in _NO_PICTURES


def _is_srcset(value: str) -> bool:
    """Return whether a value lists images with their widths or densities."""
    words = value[:_MAX_VALUE].split()
    return any(_DESCRIPTOR.fullmatch(word) and _NAMED.search(before) for before, word in pairwise(words))


def _is_other(name: str) -> bool:
    return _OTHER_MEANING.fullmatch(name) is not None


def _is_unusable(url: str, formats: Collection[str]) -> bool:
    """Return whether a URL ends like a file that is not taken."""
    ending = _ending(url)
    return ending in _NO_PICTURES or (ending in _ENDINGS and _ENDINGS[ending] not in formats)


def _ending(url: str) -> str:
    name = _path(url).rpartition("/")[2]
    return name.rpartition(".")[2].lower() if "." in name else ""


def _path(url: str) -> str:
    return url[:MAX_LENGTH].strip().partition("#")[0].partition("?")[0]
