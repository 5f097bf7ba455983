"""Common Crawl WAT files: the <img> elements and og:image of each page, as the crawl's own parser found them.

A WAT record is one line of JSON per WARC record; a page's images are the IMG@/src objects of
Envelope.Payload-Metadata.HTTP-Response-Metadata.HTML-Metadata.Links, with alt and title, its metadata are in
Head. Lazy attributes, srcset and figcaption are not in a WAT: the WARC has them.

Most of the bytes are <a> links. So the IMG@/src objects are cut out by a regular expression that knows
JSON's strings, and only they are parsed; what does not look as the writer of WATs writes it is parsed whole.
"""

import json
import re
from collections.abc import Iterator
from typing import IO, Any, Final, NamedTuple

import orjson
from fastwarc.warc import WarcRecord, WarcRecordType

from pipeline.sources import archive
from pipeline.sources.html import open_graph
from pipeline.sources.records import Image, Kind, Piece, bad_record, make_image, scalar
from pipeline.urls import BadUrl, resolve

_IMG: Final = "IMG@/src"
_IMG_VALUE: Final = b'"IMG@/src"'
_STRING: Final = rb'"(?:[^"\\]++|\\.)*+"'
_PAIRS: Final = rb"(?:," + _STRING + rb":" + _STRING + rb")*+"
# An element of an array: a member of an object, such as a server's own header, would follow a colon.
_IMG_OBJECT: Final = re.compile(rb'(?<=[\[,])\{"path":"IMG@/src"' + _PAIRS + rb"\}")
_METAS: Final = re.compile(rb'"Metas":(\[(?:\{' + _STRING + rb":" + _STRING + _PAIRS + rb"\},?)*+\])")


class _Record(NamedTuple):
    uri: str
    offset: int
    data: bytes


def read(file: IO[bytes], piece: Piece) -> Iterator[Image]:
    """Yield the images of the pages in a piece of a WAT file; an unreadable record is a bad_record."""
    for record in archive.records(file, piece.start, piece.end, WarcRecordType.metadata, _load):
        if isinstance(record, archive.Damage):
            yield bad_record(f"{piece.source} at byte {record.offset}: {record.why}")
            continue
        try:
            yield from page_images(record.data, record.uri)
        except ValueError as error:
            yield bad_record(f"{piece.source} at byte {record.offset}: {error}", scalar(record.uri))


def page_images(data: bytes, uri: str = "") -> Iterator[Image]:
    """Yield the images of one WAT record, `data` being its JSON; ValueError if it is none.

    `uri` is the record's WARC-Target-URI; without it, the JSON's own is taken. The result is that of
    `parsed_images`, sooner.
    """
    has_images = _IMG_VALUE in data
    has_graph = b"og:image" in data
    if not has_images and not has_graph:
        if not data.rstrip().endswith(b"}"):
            _parse(data)  # cut short, or no JSON at all: raises
        return
    links = orjson.loads(b"[" + b",".join(_IMG_OBJECT.findall(data)) + b"]") if has_images else []
    metas = _METAS.findall(data) if has_graph else []
    if (
        not uri
        or len(links) != data.count(_IMG_VALUE)  # other spacing or order, or the value stands elsewhere
        or len(metas) != (data.count(b'"Metas":') if has_graph else 0)
        or len(metas) > 1
        or b'"Base":' in data
        or not data.rstrip().endswith(b"}")
    ):
        yield from parsed_images(data, uri)
        return
    for link in links:
        yield _link_image(link, uri, uri)
    if metas:
        yield from open_graph(_properties(orjson.loads(metas[0])), uri, uri)


def parsed_images(data: bytes, uri: str = "") -> Iterator[Image]:
    """Yield the images of one WAT record by parsing all of its JSON; ValueError if it is none."""
    envelope = _get(_parse(data), "Envelope")
    uri = uri or _text(_get(envelope, "WARC-Header-Metadata").get("WARC-Target-URI"))
    html = _get(_get(_get(envelope, "Payload-Metadata"), "HTTP-Response-Metadata"), "HTML-Metadata")
    head = _get(html, "Head")
    base = uri
    if head.get("Base"):
        try:
            base = resolve(_text(head["Base"]), uri)
        except BadUrl:
            base = uri
    for link in _objects(html.get("Links")):
        if link.get("path") == _IMG:
            yield _link_image(link, uri, base)
    yield from open_graph(_properties(head.get("Metas")), uri, base)


def _load(record: WarcRecord) -> _Record:
    return _Record(record.headers.get("WARC-Target-URI") or "", record.stream_pos, archive.body(record))


def _link_image(link: dict[str, Any], uri: str, base: str) -> Image:
    texts: list[tuple[Kind, str]] = []
    if alt := _text(link.get("alt")).strip():
        texts.append(("alt", alt))
    if title := _text(link.get("title")).strip():
        texts.append(("title", title))
    return make_image(_text(link.get("url")), tuple(texts), uri, base)


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
    if isinstance(value, list):
        value = value[0] if value else ""
    return value if isinstance(value, str) else ""
