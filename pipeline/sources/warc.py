"""WARC files: the HTML pages among the responses, each read as `page_images` reads a page."""

from collections.abc import Collection, Iterator
from typing import IO, Final, NamedTuple

from fastwarc.warc import WarcRecord, WarcRecordType

from pipeline.images.headers import FORMATS
from pipeline.schemas import Piece
from pipeline.sources import archive, http_body, page_images
from pipeline.sources.records import Image, bad_record, scalar

_HTML_TYPES: Final = ("text/html", "application/xhtml+xml")
_SNIFFED: Final = (b"<!doctype html", b"<html")
_TYPES: Final = WarcRecordType.response | WarcRecordType.resource


class _Page(NamedTuple):
    uri: str
    offset: int
    data: bytes
    problem: str
    content_type: str = ""
    headers: tuple[tuple[str, str], ...] = ()


def read(file: IO[bytes], piece: Piece, formats: Collection[str] = FORMATS) -> Iterator[Image]:
    """Yield the images of the HTML pages in a piece of a WARC file.

    Pages are answers with a 2xx status and an HTML type, or none and a body that begins as HTML does. An
    unreadable record is a bad_record.
    """
    for page in archive.records(file, piece.start, piece.end, _TYPES, _load):
        if isinstance(page, archive.Damage):
            yield bad_record(f"{piece.source} at byte {page.offset}: {page.why}")
        elif page is not None:
            if page.problem:
                yield bad_record(f"{piece.source} at byte {page.offset}: {page.problem}", scalar(page.uri))
            yield from page_images.images(page.data, page.uri, page.content_type, page.headers, formats)


def _load(record: WarcRecord) -> _Page | None:
    """Return the page in a record, decoded as far as it is parsed; None where there is none."""
    uri = scalar(record.headers.get("WARC-Target-URI") or "").strip("<>")
    transfer = codings = ""
    said: tuple[tuple[str, str], ...] = ()
    if record.is_http:
        try:
            record.parse_http(quirks_mode=True)
        except OSError as error:
            return _Page(uri, record.stream_pos, b"", f"HTTP header: {error}")
        headers = record.http_headers
        if headers.status_code is not None and not 200 <= headers.status_code < 300:
            return None
        said = tuple((scalar(name), scalar(value)) for name, value in headers.astuples())
        transfer, codings = (
            ",".join(value for name, value in said if name.lower() == wanted)
            for wanted in ("transfer-encoding", "content-encoding")
        )
        content_type = headers.get("Content-Type") or ""
    else:
        content_type = record.headers.get("Content-Type") or ""
    kind = content_type.partition(";")[0].strip().lower()
    if kind and kind not in _HTML_TYPES:
        return None
    declared: int = record.content_length
    data: bytes = record.reader.read(page_images.MAX_HTML)
    problem = "" if len(data) >= min(declared, page_images.MAX_HTML) else "the record is cut short"
    data, undecoded = http_body.decode(data, transfer, codings, page_images.MAX_HTML)
    if not kind and not undecoded and not data[:512].lstrip().lower().startswith(_SNIFFED):
        return None
    return _Page(uri, record.stream_pos, data, problem or undecoded, scalar(content_type), said)
