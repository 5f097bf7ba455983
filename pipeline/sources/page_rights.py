"""A page's statements on the terms of its images.

Of the page: rel=license on <link>, <a> and <area> (HTML Standard, 4.6.7.6), the header Link, links to
Creative Commons, <meta> of Dublin Core and its kin, schema.org's license. Of one image: schema.org's
ImageObject (license, acquireLicensePage, creator, creditText, copyrightNotice) in JSON-LD or microdata, and a
licence linked to from the <figure> around it. Markup about another image is not taken for that of this image.
"""

import functools
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import orjson
from selectolax.lexbor import LexborHTMLParser, LexborNode

from pipeline.rights.licences import identify
from pipeline.rights.link_header import RSL, licences
from pipeline.rights.statements import About, Statement, encode
from pipeline.urls import BadUrl, canonical, resolve

# A page without any of these words says nothing of terms; UTF-16 is looked into anyway.
_WORDS: Final = re.compile(rb"licen[cs]e|creativecommons|copyright|credittext|[.:_\"]rights", re.IGNORECASE)
_RELATIONS: Final = frozenset(("license", "licence", "cc:license", "dct:license", "dcterms:license"))
_META: Final = {
    **dict.fromkeys(("dcterms.license", "dc.license", "dcterms:license", "license", "licence", "cc:license",
                     "dc.rights.license"), "licence"),
    **dict.fromkeys(("dc.rights", "dcterms.rights", "dcterms:rights", "dc:rights", "rights", "copyright",
                     "dcterms.rightsholder"), "notice"),
}  # fmt: skip
_OF_PICTURE: Final = frozenset(("imageobject", "photograph", "barcode", "imageobjectsnapshot"))
_OF_PAGE: Final = frozenset(
    """webpage itempage aboutpage collectionpage qapage faqpage profilepage mediagallery imagegallery article
    newsarticle blogposting scholarlyarticle socialmediaposting techarticle report creativework website blog
    photograph visualartwork painting recipe""".split()  # noqa: SIM905
)
_URLS: Final = ("contentUrl", "url", "@id", "thumbnailUrl", "thumbnail")
_MAX_JSON: Final = 1 << 20
_MAX_SCRIPTS: Final = 32
_MAX_NODES: Final = 5_000
_MAX_LINKS: Final = 64
_MAX_PARENTS: Final = 32


def header_statements(headers: Iterable[tuple[str, str]], base: str, page_url: str) -> list[Statement]:
    """Return the licences of a page in its header Link with rel=license."""
    values = (value for name, value in headers if name.strip().lower() == "link")
    return [
        _linked("terms" if one.is_rsl else "page", absolute(one.target, base), page_url, "HTTP Link")
        for value in values
        for one in licences(value)
    ][:_MAX_LINKS]


def _linked(about: About, url: str, page_url: str, where: str) -> Statement:
    """Return the statement of a link to a licence or, with `terms`, to terms for machines."""
    if about == "terms":
        return Statement(about, f"page {where}", url, page_url)
    return Statement(about, "page link" if about == "link" else f"page {where}", url)


class PageRights:
    """The statements of one page; `of(image URL, its element)` returns those of an image, encoded."""

    def __init__(
        self, data: bytes, tree: LexborHTMLParser, base: str, page_url: str,
        metas: Iterable[tuple[str, str]], headers: Iterable[tuple[str, str]],
    ) -> None:  # fmt: skip
        self._base, self._page_url = base, page_url
        self._page = header_statements(headers, base, page_url)
        self._images: dict[str, list[Statement]] = {}
        self._scopes: dict[int, list[Statement]] = {}
        self._figures: dict[int, list[Statement]] = {}
        self._of_page = functools.lru_cache(maxsize=1)(lambda: encode(self._page))
        if _WORDS.search(data) or b"\0" in data[:64]:
            self._page += meta_statements(metas)
            self._read_links(tree)
            self._read_microdata(tree)
            self._read_json(tree)

    def of(self, url: str, node: LexborNode | None = None) -> str:
        """Return the statements about an image of the page and about the page, "" for nothing; see
        `encode`."""
        own = list(self._images.get(_key(url), ())) if self._images else []
        if node is not None and (self._scopes or self._figures):
            own += self._around(node)
        return encode([*own, *self._page]) if own else self._of_page()

    def _around(self, node: LexborNode) -> list[Statement]:
        found: list[Statement] = []
        parent = node.parent
        for _ in range(_MAX_PARENTS):
            if parent is None:
                break
            found += self._scopes.get(parent.mem_id, ())
            found += self._figures.get(parent.mem_id, ())
            if parent.tag == "figure":
                break
            parent = parent.parent
        return found

    def _url(self, reference: str) -> str:
        return absolute(reference, self._base)

    def _read_links(self, tree: LexborHTMLParser) -> None:
        """Read rel=license and Creative Commons links; within a <figure> they are of its image."""
        seen = 0
        for tag in ("link", "a", "area"):
            for node in tree.tags(tag):
                attributes = node.attributes
                href, rel, kind = (attributes.get(name) or "" for name in ("href", "rel", "type"))
                if not (about := _licensing(href, rel, kind)) or "itemprop" in attributes:
                    continue
                seen += 1
                if seen > _MAX_LINKS:
                    return
                if url := _of_other(href, self._base):
                    self._place(node, url, about)

    def _place(self, node: LexborNode, url: str, of: About) -> None:
        if of == "terms":
            self._page.append(_linked(of, url, self._page_url, "rel=license"))
            return
        where = "link" if of == "link" else "rel=license"
        if about := node.attributes.get("about"):  # RDFa: of what
            self._images.setdefault(_key(self._url(about)), []).append(
                Statement("image", "page RDFa license", url)
            )
            return
        parent = node.parent
        for _ in range(_MAX_PARENTS):
            if parent is None or node.tag == "link":
                break
            if parent.tag == "figure":
                statement = Statement("image", f"figure {where}", url)
                self._figures.setdefault(parent.mem_id, []).append(statement)
                return
            parent = parent.parent
        self._page.append(_linked(of, url, self._page_url, where))

    def _read_microdata(self, tree: LexborHTMLParser) -> None:
        """Read items of schema.org's ImageObject, and the license of items of the page itself."""
        for node in tree.css("[itemscope][itemtype]")[:_MAX_LINKS]:
            kind = (node.attributes.get("itemtype") or "").rstrip("/").rpartition("/")[2].lower()
            if kind not in _OF_PICTURE | _OF_PAGE:
                continue
            item: dict[str, list[str]] = {}
            for inner in node.css("[itemprop]")[:_MAX_LINKS]:
                if _scope(inner) == node.mem_id:
                    for name in (inner.attributes.get("itemprop") or "").split():
                        item.setdefault(name, []).append(_value(inner))
            self._take(item, kind, "microdata", node.mem_id)

    def _read_json(self, tree: LexborHTMLParser) -> None:
        """Read JSON-LD: every object that is an image or the page."""
        left = _MAX_NODES
        scripts = (node for node in tree.tags("script") if _is_json(node))
        for _, node in zip(range(_MAX_SCRIPTS), scripts, strict=False):
            text = node.text(deep=True)
            if not text or len(text) > _MAX_JSON:
                continue
            try:
                waiting: list[Any] = [orjson.loads(text.strip().strip(";"))]
            except (orjson.JSONDecodeError, UnicodeEncodeError):
                continue
            while waiting and left:
                left -= 1
                value = waiting.pop()
                if isinstance(value, list):
                    waiting += reversed(value[:_MAX_NODES])
                elif isinstance(value, dict):
                    self._take_object(value)
                    waiting += [one for one in value.values() if isinstance(one, dict | list)]

    def _take_object(self, value: dict[str, Any]) -> None:
        kinds = value.get("@type")
        for kind in kinds if isinstance(kinds, list) else [kinds]:
            if isinstance(kind, str):
                short = kind.rstrip("/").rpartition("/")[2].rpartition(":")[2].lower()
                if short in _OF_PICTURE | _OF_PAGE:
                    item = {name: list(_texts(one)) for name, one in value.items()}
                    self._take(item, short, "JSON-LD", 0)
                    return

    def _take(self, item: dict[str, list[str]], kind: str, syntax: str, scope: int) -> None:
        """Take the properties of an item of schema.org."""
        is_image = kind in _OF_PICTURE
        about: About = "image" if is_image else "page"
        who = f"{'image' if is_image else 'page'} {syntax}"
        found = [Statement(about, f"{who} license", self._terms(one)) for one in item.get("license", ())]
        found += (
            Statement(about, f"{who} copyrightNotice", notice=one) for one in item.get("copyrightNotice", ())
        )
        if is_image:
            pages = item.get("acquireLicensePage", ())
            found += (Statement(about, f"{who} acquireLicensePage", page=self._url(one)) for one in pages)
            names = item.get("creator") or item.get("author") or item.get("creditText") or ()
            found += (Statement(about, f"{who} creator", creator=one) for one in names)
        if not found:
            return
        if not is_image:
            self._page += found
            return
        urls = {_key(self._url(one)) for name in _URLS for one in item.get(name, ())} - {""}
        for url in urls:
            self._images.setdefault(url, []).extend(found)
        if scope:
            self._scopes.setdefault(scope, []).extend(found)

    def _terms(self, said: str) -> str:
        """Return a licence as it is said: a URL made absolute, or a name."""
        return self._url(said) if re.match(r"(?:https?:)?//|/|\.{1,2}/", said) else said


def of_links(
    links: Iterable[tuple[str, str, str, str]], metas: Iterable[tuple[str, str]],
    headers: Iterable[tuple[str, str]], base: str, page_url: str,
) -> str:  # fmt: skip
    """Return the statements of a page's links alone, (any, href, rel, type) of each, encoded."""
    found = header_statements(headers, base, page_url)
    found += meta_statements(metas)
    for _, href, rel, kind in links:
        if (about := _licensing(href, rel, kind)) and (url := _of_other(href, base)):
            found.append(_linked(about, url, page_url, "rel=license"))
        if len(found) > _MAX_LINKS:
            break
    return encode(found)


def _licensing(href: str, rel: str, kind: str) -> About | Literal[""]:
    """Return the subject of a link's licence: "page" or "terms" with rel=license, "link" to Creative Commons,
    or ""."""
    is_rsl = RSL in kind.lower()
    if _RELATIONS & set(rel.lower().split()):
        return "terms" if is_rsl else "page"
    if is_rsl:
        return ""
    return "link" if "creativecommons.org/" in href and identify(href) else ""


def _of_other(href: str, base: str) -> str:
    """Return a reference made absolute, "" if it leads to the page itself."""
    url = absolute(href, base)
    return "" if url == base.partition("#")[0] else url


def absolute(reference: str, base: str) -> str:
    """Return a reference made absolute, "" for none."""
    try:
        return resolve(reference, base)
    except BadUrl:
        return ""


def meta_statements(metas: Iterable[tuple[str, str]]) -> list[Statement]:
    """Return the statements of <meta> about a page's terms, from (name, content) pairs."""
    found: list[Statement] = []
    for name, content in metas:
        name, content = name.strip().lower(), content.strip()
        kind = _META.get(name)
        if kind and content:
            if kind == "licence" or identify(content):
                found.append(Statement("page", f"page meta {name}", content))
            else:
                found.append(Statement("page", f"page meta {name}", notice=content))
    return found[:_MAX_LINKS]


def _key(url: str) -> str:
    """Return the key that two references to the same image share: its canonical URL, whatever the scheme."""
    try:
        parts = urlsplit(canonical(url))
    except (BadUrl, ValueError):
        return ""
    return parts._replace(scheme="").geturl()


def _scope(node: LexborNode) -> int:
    """Return which item an element with itemprop belongs to: the nearest itemscope above it."""
    parent = node.parent
    for _ in range(_MAX_PARENTS):
        if parent is None:
            return 0
        if "itemscope" in parent.attributes:
            return parent.mem_id
        parent = parent.parent
    return 0


def _value(node: LexborNode) -> str:
    attributes = node.attributes
    for name in ("content", "href", "src"):
        if value := attributes.get(name):
            return value.strip()
    return (node.text() or "").strip()


def _is_json(node: LexborNode) -> bool:
    return (node.attributes.get("type") or "").partition(";")[0].strip().lower() == "application/ld+json"


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts of a property: itself, or of an object its URL, or else its name."""
    for one in value[:16] if isinstance(value, list) else [value]:
        if isinstance(one, dict):
            one = one.get("name") or one.get("url") or one.get("@id")
        if isinstance(one, str) and one.strip():
            yield one.strip()
