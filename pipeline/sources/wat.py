"""Common Crawl WAT files: the <img> elements and og:image of each page, as the crawl's own parser found them.

Of a page's terms a WAT has the <meta>, the <link> and <a> with their rel, and the headers; JSON-LD, microdata
and the text around an image are not in it.

A WAT record is one line of JSON per WARC record; a page's images are the IMG@/src objects of
Envelope.Payload-Metadata.HTTP-Response-Metadata.HTML-Metadata.Links, with alt and title, its metadata are in
Head. Lazy attributes, srcset and figcaption are not in a WAT: the WARC has them.

Most of the bytes are <a> links. So the image links are cut out of the JSON (`wat_links`), and beside them
at most Head is parsed; a record that does not look like the WAT writer's is parsed whole.
"""

import json
import re
from collections.abc import Iterator
from typing import IO, Any, Final, NamedTuple

import orjson
from fastwarc.warc import WarcRecord, WarcRecordType

from pipeline.http.optout import check_page
from pipeline.schemas import Piece
from pipeline.sources import archive, page_language, page_rights, wat_links
from pipeline.sources.page_images import open_graph
from pipeline.sources.records import Image, Kind, bad_record, make_image, scalar, sound_image
from pipeline.sources.wat_links import IMG, PAIRS, STRING
from pipeline.urls import BadUrl, origin, resolve

_RESERVING: Final = (b"noai", b"noimage", b"noml", b"tdm-reservation")  # the words that check_page looks for
_LICENSING: Final = (b"creativecommons.org/", b'"rel":"license')  # of links; other spellings are rare
_OF_HEAD: Final = (b"licen", b"rights", b"copyright")
_OF_IMAGES: Final = (b'"base":', b"og:image", b"html@", b"language", b"og:locale")
_LANGUAGE_HEADER: Final = b'"content-language":'
_WORDS: Final = (*_RESERVING, *_OF_HEAD, *_OF_IMAGES, _LANGUAGE_HEADER)
_HEADER_LANGUAGE: Final = re.compile(_LANGUAGE_HEADER + rb'(?:"([^"\\]*)")?')
_HEAD: Final = b'"HTML-Metadata":{"Head":{'
_LINKS: Final = b'"Links":['
_METAS: Final = re.compile(rb'"Metas":(\[(?:\{' + STRING + rb":" + STRING + PAIRS + rb"\},?)*+\])")

MAX_RECORD: Final = 64 << 20
"""Bytes of a record that are held: the largest that Common Crawl writes have a few megabytes."""
_MAX_PARSED: Final = 16 << 20  # of a record that is parsed whole, whose objects take many times its bytes
_OTHER_HEADERS: Final = rb"(?:(?!(?i:content-length|warc-type|warc-target-uri):)[\w-]++: [ -~]*+\r\n)*+"
_HEADERS: Final = re.compile(
    rb"WARC/1\.\d\r\nWARC-Type: ([a-z]++)\r\n(?:WARC-Target-URI: ([!-;=-~]++)\r\n)?"
    + _OTHER_HEADERS + rb"Content-Length: (\d{1,9}+)\r\n" + _OTHER_HEADERS + rb"\r\n"
)  # fmt: skip
_TYPES: Final = frozenset(
    (b"metadata", b"warcinfo", b"request", b"response", b"resource", b"conversion", b"revisit")
)


class _Record(NamedTuple):
    uri: str
    offset: int
    data: bytes | int
    """Its block; for a block that is too large, its number of bytes."""


def read(file: IO[bytes], piece: Piece) -> Iterator[Image]:
    """Yield the images of the pages in a piece of a WAT file; an unreadable record is a bad_record."""
    before = -1
    for member in archive.members(file, piece.start, piece.end, MAX_RECORD):
        is_plain, record = _plain_record(member)
        if not is_plain:
            break
        before = member.offset
        if record is not None:
            yield from _images(record, piece.source)
    else:
        return
    # From the last member that was read on, anything is expected.
    kind = WarcRecordType.metadata
    for found in archive.records(file, max(before, piece.start), piece.end, kind, _load):
        if isinstance(found, archive.Damage):
            yield bad_record(f"{piece.source} at byte {found.offset}: {found.why}")
        elif found.offset > before:
            yield from _images(found, piece.source)


def _images(record: _Record, source: str) -> list[Image]:
    try:
        if isinstance(record.data, int):
            raise ValueError(f"a record of {record.data:,} bytes; at most {MAX_RECORD:,} are read")
        return page_images(record.data, record.uri)
    except ValueError as error:
        return [bad_record(f"{source} at byte {record.offset}: {error}", scalar(record.uri))]


def _plain_record(member: archive.Member) -> tuple[bool, _Record | None]:
    """Return whether a gzip member is one record with the usual headers; and the record, if metadata."""
    data = member.data
    head = _HEADERS.match(data)
    if head is None or head[1] not in _TYPES:
        return False, None
    start, stop = head.end(), head.end() + int(head[3])
    if not 0 < stop - start <= MAX_RECORD or stop != len(data) - 4 or not data.endswith(b"\r\n\r\n"):
        return False, None
    if head[1] != b"metadata":
        return True, None
    return True, _Record((head[2] or b"").decode(), member.offset, data[start:stop])


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
        links = data.find(_LINKS)
        if data.find(IMG, 0, max(links, 0)) >= 0:
            links = -1
        said = wat_links.words(data, max(links, 0), _WORDS)
        head, header = _head(data, links, said)
        metas = _properties(head.get("Metas"))
        base = _base(head, uri)
        language = (
            _language(head.get("Metas"), metas, [("content-language", header)]) if metas or header else ""
        )
        images = _link_images(data, uri, base, language)
    except (LookupError, orjson.JSONDecodeError, UnicodeDecodeError):  # another layout, or no JSON
        return parsed_images(data, uri)
    if metas:
        images += open_graph(metas, uri, base, language)
    if any(image.texts for image in images) and _may_name_terms(data, links, said):
        return _with_rights(images, _response(_parse(data)), base, uri)
    return images


def _may_name_terms(data: bytes, links: int, said: list[bytes]) -> bool:
    """Return whether a page's links, <meta> or headers may speak of its terms: few do.

    said: words up to the links, unless those do not precede the first image.
    """
    if any(wat_links.has(data, word) for word in _LICENSING):
        return True
    if links < 0:
        said = wat_links.words(data, max(data.find(_LINKS), 0), _OF_HEAD)
    return any(word in said for word in _OF_HEAD)


def _with_rights(images: list[Image], response: dict[str, Any], base: str, uri: str) -> list[Image]:
    html = _get(response, "HTML-Metadata")
    head = _get(html, "Head")
    links = [*_objects(head.get("Link")), *_objects(html.get("Links"))]
    said = page_rights.of_links(
        (
            (_text(one["path"]), _text(one.get("url")), _text(one.get("rel")), _text(one.get("type")))
            for one in links
            # Nothing else in a link says a licence; most pages have hundreds.
            if ("rel" in one or "creativecommons.org/" in _text(one.get("url")))
            and one.get("path") in ("LINK@/href", "A@/href", "AREA@/href")
        ),
        _properties(head.get("Metas")), _headers(response), base, uri,
    )  # fmt: skip
    return [image._replace(rights=said) for image in images] if said else images


def _head(data: bytes, links: int, said: list[bytes]) -> tuple[dict[str, Any], str]:
    """Parse Head if a base, og:image or a language is named there; and the header Content-Language.

    links: where they start, or -1 where they do not before the first image; said: words before them.
    LookupError for a possible opt-out of the page, or where that cannot be told.
    """
    at = data.find(_HEAD, 0, max(links, 0))
    if at < 0 or data[links - 2 : links] != b"},":
        return _scattered_head(data, links, at < 0)
    # As Common Crawl writes it: headers, all of Head, then the links.
    if any(word in said for word in _RESERVING):
        raise LookupError
    header = _header_language(data[:links]) if _LANGUAGE_HEADER in said else ""
    if not any(word in said for word in _OF_IMAGES):
        return {}, header
    head: dict[str, Any] = orjson.loads(memoryview(data)[at + len(_HEAD) - 1 : links - 1])
    return head, header


def _scattered_head(data: bytes, links: int, is_unseen: bool) -> tuple[dict[str, Any], str]:
    """Do the same where Head is not as Common Crawl writes it: at least not between two images.

    is_unseen: whether it does not start before the links.
    """
    said, parts = data[: max(links, 0)], data.split(IMG)
    edges = parts if len(parts) == 1 else [parts[0], parts[-1]]
    of_head = [edge.lower() for edge in edges]
    if any(b'"Base":' in edge for edge in edges) or any(
        word in text for text in (said.lower(), *of_head) for word in _RESERVING
    ):
        raise LookupError
    header = _header_language(said)
    if is_unseen and any(b"content-language" in text for text in of_head):
        raise LookupError
    if not any(word in text for text in of_head for word in _OF_IMAGES):
        return {}, header
    found = [match for edge in edges for match in _METAS.finditer(edge)]
    if len(found) != 1 or sum(edge.count(b'"Metas":') for edge in edges) != 1:
        raise LookupError
    return {"Metas": orjson.loads(found[0][1])}, header


def _header_language(said: bytes) -> str:
    """Return Content-Language as JSON says it; LookupError if repeated, a list, or escaped."""
    stated = _HEADER_LANGUAGE.findall(said.lower())
    if len(stated) > 1 or b"" in stated:
        raise LookupError
    return stated[0].decode("utf-8", "replace") if stated else ""


def _link_images(data: bytes, uri: str, base: str, lang: str) -> list[Image]:
    """Return the images of a record; LookupError where an object looks unusual."""
    images: list[Image] = []
    for link in wat_links.links(data, origin(base)):
        if isinstance(link, int):
            images.append(_link_image(wat_links.parsed(data, link), uri, base, lang))
        else:
            url, texts = link
            images.append(sound_image(url, texts, uri, None, lang))
    return images


def parsed_images(data: bytes, uri: str = "") -> list[Image]:
    """Return the images of one WAT record by parsing all of its JSON; ValueError if it is none."""
    if len(data) > _MAX_PARSED:
        raise ValueError(f"a record of {len(data):,} bytes in another layout than Common Crawl's")
    record = _parse(data)
    envelope = _get(record, "Envelope")
    uri = uri or _text(_get(envelope, "WARC-Header-Metadata").get("WARC-Target-URI"))
    response = _response(record)
    html = _get(response, "HTML-Metadata")
    head = _get(html, "Head")
    base = _base(head, uri)
    links = [link for link in _objects(html.get("Links")) if link.get("path") == "IMG@/src"]
    metas, headers = _properties(head.get("Metas")), _headers(response)
    lang = _language(head.get("Metas"), metas, headers)
    images = [_link_image(link, uri, base, lang) for link in links]
    images += open_graph(metas, uri, base, lang)
    if opt_out := check_page(metas, headers):
        images = [image._replace(opt_out=scalar(opt_out)) for image in images]
    if any(image.texts for image in images):
        images = _with_rights(images, response, base, uri)
    return images


def _base(head: dict[str, Any], uri: str) -> str:
    """Return the URL that a page's references are relative to."""
    if not head.get("Base"):
        return uri
    try:
        return resolve(_text(head["Base"]), uri)
    except BadUrl:
        return uri


def _response(record: object) -> dict[str, Any]:
    return _get(_get(_get(record, "Envelope"), "Payload-Metadata"), "HTTP-Response-Metadata")


def _language(metas: object, properties: list[tuple[str, str]], headers: list[tuple[str, str]]) -> str:
    """Return the language that a page declares; since 2024 its <html lang> stands among the metas."""
    named = [(name.lower(), content) for name, content in properties]
    attributes = [content for wanted in page_language.HTML_LANG for name, content in named if name == wanted]
    pragmas = [
        (_text(meta["http-equiv"]), _text(meta.get("content")))
        for meta in _objects(metas)
        if "http-equiv" in meta
    ]
    return page_language.declared(attributes, pragmas, headers, properties)


def _headers(response: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the page's headers; since 2024 a repeated header is a list."""
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
    """Return a string; the first of a list, since repeated headers and attributes became lists in 2024."""
    if isinstance(value, str):
        return value
    return _text(value[0]) if isinstance(value, list) and value else ""
