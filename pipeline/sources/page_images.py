"""Images and their texts on one HTML page.

Elements: <img> and <amp-img> (with the <source>s of an enclosing <picture>, and the <figcaption> of the
nearest <figure>), and og:image. An element's texts are its alt and title and that figcaption; og:image has
og:image:alt, or else og:title. Which URL it is of those that the element offers: `sources.reference`.
"""

import functools
from collections.abc import Collection, Iterable, Iterator
from typing import Final, NamedTuple

from selectolax.lexbor import LexborHTMLParser, LexborNode

from pipeline.captions.text import is_undecoded
from pipeline.http import rsl
from pipeline.http.optout import check_page
from pipeline.images.headers import FORMATS
from pipeline.rights.link_header import RSL
from pipeline.sources import encoding, image_reference, page_language, srcset
from pipeline.sources.htmlguard import tame
from pipeline.sources.page_rights import PageRights
from pipeline.sources.records import MAX_TEXT, Image, Kind, bad_record, make_image, scalar
from pipeline.urls import BadUrl, resolve

MAX_HTML: Final = 8 << 20
"""Bytes parsed of a page; the rest is not read. Common Crawl cuts pages at 1 MiB, since 2025 at 5 MiB."""

_MAX_SOURCES: Final = 16  # of a <picture>, and candidates of each: an author writes three
_MAX_TERMS: Final = 4  # scripts with terms for machines that are read
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


class Page(NamedTuple):
    """A parsed page; `problem` goes into the row that reports it."""

    tree: LexborHTMLParser
    encoding: str
    is_trusted: bool
    """Whether characters outside ASCII are those that the author meant; see `encoding.Text`."""
    problem: str


@functools.lru_cache(maxsize=1)  # a page is searched for images, then for links
def parse(data: bytes, page_url: str, content_type: str = "") -> Page:
    """Decode and parse a page, bounded in size and time; never raises."""
    data = data[:MAX_HTML]
    read = encoding.read(data, content_type, page_url)
    text, reduced = tame(read.text)
    tree = LexborHTMLParser(text)
    is_trusted = read.is_trusted
    if not read.is_certain and not read.encoding.startswith("utf-16"):
        # The standard's "change the encoding": the prescan may have met a <meta> in a script, or none.
        declared = filter(None, (encoding.meta_encoding(node.attributes) for node in tree.tags("meta")))
        if label := next(declared, None):
            is_trusted = True
            if label != read.encoding:
                read = encoding.Text(encoding.decode(data, label), label, True, True)
                text, reduced = tame(read.text)
                tree = LexborHTMLParser(text)
    problem = "page nested too deeply; only its <img> and <meta> were read" if reduced else ""
    if encoding.is_refused(read.encoding):
        problem = f"the encoding {read.encoding}, which browsers refuse to decode"
    return Page(tree, read.encoding, is_trusted, problem)


def images(
    data: bytes,
    page_url: str,
    content_type: str = "",
    headers: Iterable[tuple[str, str]] = (),
    formats: Collection[str] = FORMATS,
) -> Iterator[Image]:
    """Yield the images of a page in document order, og:image last; never raises, whatever the bytes.

    `content_type` and all `headers` are those that the page came with. The page's own <base> is honoured.
    `formats` are those of images that are taken. Texts whose characters cannot be relied on are `garbled`.
    """
    page = parse(data, page_url, content_type)
    if page.problem:
        yield bad_record(page.problem, page_url)
    headers = list(headers)
    tags = [node.attributes for node in page.tree.tags("meta")]
    metas = [(tag.get("property") or tag.get("name") or "", tag.get("content") or "") for tag in tags]
    pragmas = [(tag.get("http-equiv") or "", tag.get("content") or "") for tag in tags]
    root = page.tree.root
    attributes = [] if root is None else [root.attributes.get(name) or "" for name in ("lang", "xml:lang")]
    base = base_url(page.tree, page_url)
    rights = PageRights(data[:MAX_HTML], page.tree, base, page_url, metas, headers)
    lang = page_language.declared(attributes, pragmas, headers, metas)
    found = _images(page.tree, metas, _Context(page_url, base, lang, formats, {}, {}, rights))
    if opt_out := check_page(metas, headers):
        found = (image._replace(opt_out=scalar(opt_out)) for image in found)
    elif RSL.encode() in data:
        found = _by_inline_terms(found, page.tree, page_url)
    for image in found:
        yield from _without_garbled(image, page.is_trusted)


def _by_inline_terms(images: Iterator[Image], tree: LexborHTMLParser, page_url: str) -> Iterator[Image]:
    """Yield the images, those marked that terms of Really Simple Licensing inside the page reserve."""
    scripts = (node for node in tree.tags("script") if (node.attributes.get("type") or "").lower() == RSL)
    texts = [(node.text(deep=True) or "").encode("utf-8", "replace") for node in scripts][:_MAX_TERMS]
    for image in images:
        found = next(filter(None, (rsl.reserving(text, page_url, image.url) for text in texts)), "")
        yield image._replace(opt_out=scalar(f"RSL in the page: {found}")) if found else image


def _without_garbled(image: Image, is_trusted: bool) -> Iterator[Image]:
    """Part an image's texts from those that could not be decoded, or that may have been decoded wrongly."""
    good: list[tuple[Kind, str]] = []
    garbled: list[tuple[Kind, str]] = []
    for kind, text in image.texts:
        is_good = text.isascii() or (is_trusted and not is_undecoded(text))
        (good if is_good else garbled).append((kind, text))
    if not garbled:
        yield image
        return
    if good:
        yield image._replace(texts=tuple(good))
    image = image._replace(texts=tuple(garbled))
    detail = (
        "the encoding is not the declared one" if is_trusted else "no encoding is declared, and none told"
    )
    yield image if image.reason else image._replace(reason="garbled", detail=detail)


def _images(tree: LexborHTMLParser, metas: list[tuple[str, str]], context: "_Context") -> Iterator[Image]:
    seen: set[tuple[str, tuple[tuple[Kind, str], ...]]] = set()
    for tag in ("img", "amp-img"):
        for node in tree.tags(tag):
            image = _element(node, context)
            # Lazy loaders repeat the element for readers without scripts: still one reference.
            if (image.url, image.texts) not in seen or not _in_noscript(node):
                seen.add((image.url, image.texts))
                said = context.rights.of(image.url, node)
                yield image._replace(rights=said) if said else image
    for image in open_graph(metas, context.page_url, context.base, context.lang):
        said = context.rights.of(image.url)
        yield image._replace(rights=said) if said else image


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


class _Context(NamedTuple):
    """State that the elements of a page share; both dicts are by node, and each node is read only once."""

    page_url: str
    base: str
    lang: str
    formats: Collection[str]
    captions: dict[int, str]
    sources: dict[int, list[srcset.ImageCandidate]]
    rights: PageRights


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
    sources = [] if picture is None else _sources(picture, context)
    first: Image | None = None
    for url in image_reference.references(attributes, sources, context.formats):
        image = make_image(url, tuple(texts), context.page_url, context.base, None, context.lang)
        if image.reason is None and image_reference.is_template(url):
            image = image._replace(reason="bad_url", detail="a template that a script fills in")
        if image.reason is None:
            return image
        first = first or image
    return first or make_image("", tuple(texts), context.page_url, context.base, None, context.lang)


def _sources(picture: LexborNode, context: _Context) -> list[srcset.ImageCandidate]:
    known = context.sources
    if picture.mem_id not in known:
        known[picture.mem_id] = [
            candidate
            for attributes in (source.attributes for source in picture.css("source")[:_MAX_SOURCES])
            if image_reference.is_usable_type(attributes.get("type") or "", context.formats)
            for candidate in image_reference.candidates(attributes, is_lazy=True)[:_MAX_SOURCES]
        ]
    return known[picture.mem_id]


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
        if href is not None:  # the first with href counts
            try:
                return resolve(href, page_url)
            except BadUrl:
                break
    return page_url
