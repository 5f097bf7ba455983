"""Common Crawl WAT files: the <img> elements and og:image of each page, as the crawl's own parser found them.

A WAT record is one line of JSON per WARC record; a page's images are the IMG@/src objects of
Envelope.Payload-Metadata.HTTP-Response-Metadata.HTML-Metadata.Links, with alt and title, its metadata are in
Head. Lazy attributes, srcset and figcaption are not in a WAT: the WARC has them.

Most of the bytes are <a> links. So the IMG@/src objects are cut out by a regular expression that knows
JSON's strings, and only they are parsed; what does not look as the writer of WATs writes it is parsed whole.
"""

import itertools
import json
import re
from collections.abc import Iterator
from typing import IO, Any, Final, NamedTuple

import orjson
from fastwarc.warc import WarcRecord, WarcRecordType

from pipeline.http.optout import check_page
from pipeline.schemas import Piece
from pipeline.sources import archive, page_language
from pipeline.sources.page_images import open_graph
from pipeline.sources.records import Image, Kind, bad_record, make_image, scalar
from pipeline.urls import BadUrl, resolve

_IMG: Final = "IMG@/src"
_IMG_VALUE: Final = b'"IMG@/src"'
_IMG_KEYS: Final = (
    b'[{"path":',
    b',{"path":',
)  # an element of an array; a header that looks alike follows a colon
_STRING: Final = rb'"(?:[^"\\]++|\\.)*+"'
_PAIRS: Final = rb"(?:," + _STRING + rb":" + _STRING + rb")*+"
_IMG_REST: Final = re.compile(_PAIRS + rb"\}")
_RESERVING: Final = (b"noai", b"noimage", b"noml", b"tdm-reservation")  # what check_page looks for
_USED_METAS: Final = (b"og:image", b"html@", b"language", b"og:locale")
_HEADER_LANGUAGE: Final = re.compile(rb'"content-language":(?:"([^"\\]*)")?')
_METAS: Final = re.compile(rb'"Metas":(\[(?:\{' + _STRING + rb":" + _STRING + _PAIRS + rb"\},?)*+\])")


MAX_RECORD: Final = 64 << 20
"""Bytes of a record that are held: the largest that Common Crawl writes have a few megabytes."""
_MAX_PARSED: Final = 16 << 20  # of a record that is parsed whole, whose objects take many times its bytes


class _Record(NamedTuple):
    uri: str
    offset: int
    data: bytes | int
    """Its block; of one that is too large, how many bytes it has."""


def read(file: IO[bytes], piece: Piece) -> Iterator[Image]:
    """Yield the images of the pages in a piece of a WAT file; an unreadable record is a bad_record."""
    for record in archive.records(file, piece.start, piece.end, WarcRecordType.metadata, _load):
        if isinstance(record, archive.Damage):
            yield bad_record(f"{piece.source} at byte {record.offset}: {record.why}")
            continue
        try:
            if isinstance(record.data, int):
                raise ValueError(f"a record of {record.data:,} bytes; at most {MAX_RECORD:,} are read")
            yield from page_images(record.data, record.uri)
        except ValueError as error:
            yield bad_record(f"{piece.source} at byte {record.offset}: {error}", scalar(record.uri))


def page_images(data: bytes, uri: str = "") -> list[Image]:
    """Return the images of one WAT record, `data` being its JSON; ValueError if it is none.

    `uri` is the record's WARC-Target-URI; without it, the JSON's own is taken. The result is that of
    `parsed_images`, sooner.
    """
    try:
        if not uri or not data.rstrip().endswith(b"}"):
            raise LookupError
        if b'"HTML-Metadata"' not in data:  # two of three records: a request, or the crawler's own notes
            return []
        parts = data.split(_IMG_VALUE)
        metas, header = _metas(parts)
        links = _links(parts)
    except (LookupError, orjson.JSONDecodeError):  # another layout, lone surrogates, or no JSON
        return parsed_images(data, uri)
    properties = _properties(metas)
    lang = _language(metas, properties, [("content-language", header)]) if metas or header else ""
    images = [_link_image(link, uri, uri, lang) for link in links]
    if metas:
        images += open_graph(properties, uri, uri, lang)
    return images


def _metas(parts: list[bytes]) -> tuple[list[dict[str, Any]], str]:
    """Parse Head.Metas if og:image or a language is named there, and the header Content-Language.

    LookupError for a <base>, for what may be an opt-out of the page, or where that cannot be told.
    """
    first = parts[0]
    links = first.find(b'"Links":[')
    head = first.find(b'"HTML-Metadata":{"Head":{', 0, max(links, 0))
    said = [first[: max(links, 0)].lower()]
    if head >= 0 and first[links - 2 : links] == b"},":
        # As Common Crawl writes it: headers, all of Head, then the links; so Head is among what was said.
        edges, of_head = [first[head:links]], [said[0][head:]]
    else:
        edges = parts if len(parts) == 1 else [first, parts[-1]]  # at least not between two images
        of_head = [edge.lower() for edge in edges]
        said += of_head
    if any(b'"Base":' in edge for edge in edges) or any(word in text for text in said for word in _RESERVING):
        raise LookupError
    stated = _HEADER_LANGUAGE.findall(said[0])
    is_told = len(stated) < 2 and b"" not in stated  # not repeated, no list, no escapes
    if not is_told or (head < 0 and any(b"content-language" in text for text in of_head)):
        raise LookupError
    header = stated[0].decode("utf-8", "replace") if stated else ""
    if not any(word in text for text in of_head for word in _USED_METAS):
        return [], header
    found = [match for edge in edges for match in _METAS.finditer(edge)]
    if len(found) != 1 or sum(edge.count(b'"Metas":') for edge in edges) != 1:
        raise LookupError
    metas: list[dict[str, Any]] = orjson.loads(found[0][1])
    return metas, header


def _links(parts: list[bytes]) -> list[dict[str, Any]]:
    """Parse the IMG@/src objects of a record split at that value; LookupError where one looks unusual."""
    if len(parts) == 1:
        return []
    objects: list[bytes] = []
    for before, after in itertools.pairwise(parts):
        match = _IMG_REST.match(after)
        if match is None or not before.endswith(_IMG_KEYS):
            raise LookupError
        objects.append(b'{"path":"IMG@/src"' + match[0])
    links: list[dict[str, Any]] = orjson.loads(b"[" + b",".join(objects) + b"]")
    return links


def parsed_images(data: bytes, uri: str = "") -> list[Image]:
    """Return the images of one WAT record by parsing all of its JSON; ValueError if it is none."""
    if len(data) > _MAX_PARSED:
        raise ValueError(f"a record of {len(data):,} bytes in another layout than Common Crawl's")
    envelope = _get(_parse(data), "Envelope")
    uri = uri or _text(_get(envelope, "WARC-Header-Metadata").get("WARC-Target-URI"))
    response = _get(_get(envelope, "Payload-Metadata"), "HTTP-Response-Metadata")
    html = _get(response, "HTML-Metadata")
    head = _get(html, "Head")
    base = uri
    if head.get("Base"):
        try:
            base = resolve(_text(head["Base"]), uri)
        except BadUrl:
            base = uri
    links = [link for link in _objects(html.get("Links")) if link.get("path") == _IMG]
    metas, headers = _properties(head.get("Metas")), _headers(response)
    lang = _language(head.get("Metas"), metas, headers)
    images = [_link_image(link, uri, base, lang) for link in links]
    images += open_graph(metas, uri, base, lang)
    if opt_out := check_page(metas, headers):
        images = [image._replace(opt_out=scalar(opt_out)) for image in images]
    return images


def _language(metas: object, properties: list[tuple[str, str]], headers: list[tuple[str, str]]) -> str:
    """Return what a page declares; since 2024 its <html lang> stands among the metas."""
    attributes = [
        content
        for wanted in page_language.HTML_LANG
        for name, content in properties
        if name.lower() == wanted
    ]
    pragmas = [(_text(meta.get("http-equiv")), _text(meta.get("content"))) for meta in _objects(metas)]
    return page_language.declared(attributes, pragmas, headers, properties)


def _headers(response: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the page's headers; since 2024 what is repeated is a list."""
    return [
        (name, _text(value))
        for name, values in _get(response, "Headers").items()
        for value in (values if isinstance(values, list) else [values])
    ]


def _load(record: WarcRecord) -> _Record:
    uri, declared = record.headers.get("WARC-Target-URI") or "", int(record.content_length)
    if declared > MAX_RECORD:
        return _Record(uri, record.stream_pos, declared)
    return _Record(uri, record.stream_pos, archive.body(record))


def _link_image(link: dict[str, Any], uri: str, base: str, lang: str) -> Image:
    url = link.get("url")
    if url.__class__ is not str:
        url = _text(url)
    texts: tuple[tuple[Kind, str], ...] = ()
    if "alt" in link and (alt := _text(link["alt"]).strip()):
        texts = (("alt", alt),)
    if "title" in link and (title := _text(link["title"]).strip()):
        texts = (*texts, ("title", title))
    return make_image(url, texts, uri, base, None, lang)


def _properties(metas: object) -> list[tuple[str, str]]:
    return [(_text(m.get("property") or m.get("name")), _text(m.get("content"))) for m in _objects(metas)]


def _parse(data: bytes) -> object:
    """Parse JSON; orjson refuses lone surrogates, which Common Crawl's writer cuts emoji into."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        try:
            return json.loads(data)
        except RecursionError:
            raise ValueError("JSON nested too deeply") from None


def _get(value: object, key: str) -> dict[str, Any]:
    inner = value.get(key) if isinstance(value, dict) else None
    return inner if isinstance(inner, dict) else {}


def _objects(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _text(value: object) -> str:
    """Return a string; the first of a list, which is what repeated headers and attributes became in 2024."""
    if isinstance(value, str):
        return value
    return _text(value[0]) if isinstance(value, list) and value else ""
