"""Sitemaps (https://www.sitemaps.org/protocol.html): XML, gzipped XML, plain text, and RSS or Atom feeds.

Answers may be hostile. XML is parsed as a stream, up to limits of bytes, URLs and depth; a document type
declaration ends it at once, so that no entity is ever expanded. If a file is broken further on, the URLs
before count.
"""

import re
import zlib
from typing import Final, Literal, NamedTuple
from xml.parsers import expat

from pipeline.sources import encoding

MAX_BYTES: Final = 50 << 20
"""Of a sitemap as unpacked: the protocol's own limit."""
MAX_URLS: Final = 50_000
"""In one sitemap: the protocol's own limit."""
_MAX_DEPTH: Final = 16  # of elements; a news sitemap has 5
_MAX_URL: Final = 4096  # characters of one <loc>; longer ones are no URLs that can be fetched
_STEP: Final = 1 << 16
_GZIP: Final = b"\x1f\x8b"
_ROOT: Final = re.compile(r"<(?:[a-z0-9_.-]{1,64}:)?(urlset|sitemapindex|rss|feed|rdf)[\s>/]", re.IGNORECASE)
_LINE: Final = re.compile(r"https?://[^\s<>\"]+")

# Where a URL stands, by the local names of the last elements. <image:loc> stands in <image:image>.
_URL_PATHS: Final = frozenset((("url", "loc"), ("sitemap", "loc"), ("item", "link")))


class Sitemap(NamedTuple):
    """The URLs of a sitemap in their order, as written; of an index they are sitemaps, else pages."""

    kind: Literal["index", "pages"]
    urls: list[str]
    problem: str = ""


def is_named_like_one(url: str) -> bool:
    """Return whether a URL looks like that of a sitemap."""
    path = url.partition("?")[0].partition("#")[0].lower().removesuffix(".gz")
    return path.endswith((".xml", ".rss", ".atom")) or "sitemap" in path.rpartition("/")[2]


def parse(data: bytes, content_type: str = "") -> Sitemap | None:
    """Return the URLs that a sitemap lists, or None where the bytes are no sitemap; never raises.

    Without a charset in the Content-Type, an XML declaration counts.
    """
    problem = ""
    if data.startswith(_GZIP):
        data, problem = _inflated(data)
    if len(data) > MAX_BYTES:
        data, problem = data[:MAX_BYTES], f"more than {MAX_BYTES} bytes"
    text = (
        encoding.read(data, f"application/xml;{content_type}", "")
        .text.removeprefix("\ufeff")
        .lstrip(" \t\r\n")
    )
    if text.startswith("<"):
        root = _ROOT.search(text, 0, 4096)
        if root is None:
            return None
        kind: Literal["index", "pages"] = "index" if root[1].lower() == "sitemapindex" else "pages"
        urls, wrong = _xml(text)
        return Sitemap(kind, urls, wrong or problem)
    return _text(text, problem)


def _inflated(data: bytes) -> tuple[bytes, str]:
    inflater = zlib.decompressobj(31)
    try:
        plain = inflater.decompress(data, MAX_BYTES + 1)
    except zlib.error as error:
        return b"", str(error)
    if len(plain) <= MAX_BYTES and not inflater.eof:
        return plain, "the compressed file ends early"
    return plain, ""


def _text(text: str, problem: str) -> Sitemap | None:
    """Read one URL per line; None where the first line that says something is no URL."""
    # Split at LF, or CR alone: str.splitlines would also end a line at U+2028, NEL and their like.
    lines = (line.strip() for line in re.split("[\r\n]", text))
    urls: list[str] = []
    for line in lines:
        if not line or line.startswith("#"):
            continue
        if not _LINE.fullmatch(line):
            if not urls:
                return None
            problem = problem or "a line is no URL"
        elif len(urls) >= MAX_URLS:
            return Sitemap("pages", urls, f"more than {MAX_URLS} URLs")
        else:
            urls.append(line)
    return Sitemap("pages", urls, problem) if urls else None


class _Stop(Exception):  # noqa: N818 - ends the parsing, nothing more
    pass


class _Reader:
    """Gather the URLs that the parser comes across."""

    def __init__(self) -> None:
        self.urls: list[str] = []
        self._path: list[str] = []
        self._text: list[str] = []
        self._length = 0
        parser = expat.ParserCreate("utf-8")  # whatever the declaration says: the text is decoded already
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.StartDoctypeDeclHandler = self._doctype
        self.parser = parser

    def _doctype(self, *_: object) -> None:
        raise _Stop("a document type declaration, which no sitemap has")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._path.append(name.rpartition(":")[2].lower())
        if len(self._path) > _MAX_DEPTH:
            raise _Stop(f"elements nested more than {_MAX_DEPTH} deep")
        self._text, self._length = [], 0
        if self._path[-2:] == ["entry", "link"] and attributes.get("rel", "alternate") == "alternate":
            self._found(attributes.get("href", ""))  # Atom

    def _characters(self, text: str) -> None:
        self._length += len(text)
        if self._length <= _MAX_URL:
            self._text.append(text)

    def _end(self, name: str) -> None:
        if tuple(self._path[-2:]) in _URL_PATHS and self._length <= _MAX_URL:
            self._found("".join(self._text))
        self._path.pop()

    def _found(self, url: str) -> None:
        if len(self.urls) >= MAX_URLS:
            raise _Stop(f"more than {MAX_URLS} URLs")
        if url.strip():
            self.urls.append(url.strip())


def _xml(text: str) -> tuple[list[str], str]:
    """Return the URLs up to the first fault, and that fault ("" if there is none)."""
    reader = _Reader()
    try:
        for start in range(0, len(text), _STEP):
            reader.parser.Parse(text[start : start + _STEP].encode(), False)
        reader.parser.Parse(b"", True)
    except (_Stop, expat.ExpatError) as error:
        return reader.urls, str(error)
    return reader.urls, ""
