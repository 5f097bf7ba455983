"""URL lists: parquet, csv, tsv and jsonl with a column of image URLs and one of captions."""

import csv
import datetime
import decimal
import itertools
import json
import math
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import IO, Final, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.options.sources import SourceOptions
from pipeline.sources.inputs import DAMAGED, file_size, open_plain, open_stored
from pipeline.sources.records import Image, Kind, Piece, bad_record, make_image, scalar
from pipeline.storage import is_local

MAX_LINE: Final = 1 << 20
"""Bytes of one record; a longer one is bad."""

# Compared in lower case without _, - and spaces, first hit wins: LAION (URL, TEXT), DataComp and COYO
# (url, text), img2dataset (url, caption), RedCaps, WIT (image_url, caption_reference_description).
URL_NAMES: Final = ("url", "imageurl", "imgurl", "imagelink", "photoimageurl", "src", "image")
CAPTION_NAMES: Final = (
    *("caption", "text", "alttext", "alt", "imagecaption", "captions", "texts"),
    *("captionreferencedescription", "captionalttextdescription", "description", "title"),
)
_BATCH_ROWS: Final = 1024
_READ_AHEAD: Final = 4 << 20  # bytes held of a column: some writers make one row group of a whole file
_TABLE_ERRORS: Final = (pa.ArrowException, OSError, ValueError)


class Columns(NamedTuple):
    """The columns of one file that are read, by name."""

    url: str
    caption: str
    kept: tuple[str, ...]


def find_columns(names: Sequence[str], options: SourceOptions) -> Columns:
    """Choose the URL and caption columns; ValueError names the columns that are there."""
    return _find_columns(tuple(names), options.url_col, options.caption_col, options.keep_columns)


def header(path: str, format: str, options: SourceOptions) -> Columns | None:
    """Return the columns of a file, or None if it is empty; ValueError if they are not there."""
    if format == "parquet":
        with open_stored(path) as file:
            try:
                names = pq.ParquetFile(file).schema_arrow.names
            except pa.ArrowException as error:
                raise ValueError(f"{path} is not a parquet file: {error}") from None
            return find_columns(names, options)
    with open_plain(path) as file:
        if format == "jsonl":
            keys = next((list(r) for _, line in _lines(file) if isinstance(r := _json(line), dict)), None)
            return None if keys is None else find_columns(keys, options)
        first = next(records(file, format), None)
        return None if first is None else find_columns(_names(first[1], format)[0], options)


def read(piece: Piece, options: SourceOptions) -> Iterator[Image]:
    """Yield the rows of a piece; a row that cannot be read is a bad_record with its line or row."""
    if piece.format == "parquet":
        yield from _read_parquet(piece, options)
        return
    rows = _read_jsonl if piece.format == "jsonl" else _read_delimited
    with open_plain(piece.path) as file:  # raises where there is no such file
        try:
            yield from rows(file, piece, options)
        except DAMAGED as error:
            yield bad_record(f"{piece.source} is damaged or ends early: {error}")


def boundaries(path: str, format: str, piece_bytes: int) -> list[int]:
    """Return where a file may be cut so that each piece holds about `piece_bytes`; [] leaves it whole.

    Row groups for parquet; bytes for text that is not compressed. A csv file, whose quotes may hold line
    ends, is read through once to find its records, so only a local one is cut.
    """
    if format == "parquet":
        return _group_boundaries(path, piece_bytes)
    if path.lower().endswith((".gz", ".zst", ".zstd")):
        return []
    if format == "jsonl":
        return list(range(piece_bytes, file_size(path), piece_bytes))
    if not is_local(path) or file_size(path) <= piece_bytes:
        return []
    cuts: list[int] = []
    at = last = 0
    with open_plain(path) as file:
        for stored, _ in records(file, format):
            if at - last >= piece_bytes:
                cuts.append(at)
                last = at
            at += stored
    return cuts


def _group_boundaries(path: str, piece_bytes: int) -> list[int]:
    cuts: list[int] = []
    size = 0
    with open_stored(path) as file:
        metadata = pq.ParquetFile(file).metadata
        for i in range(metadata.num_row_groups):
            group = metadata.row_group(i)
            if size >= piece_bytes:
                cuts.append(i)
                size = 0
            size += sum(group.column(c).total_compressed_size for c in range(group.num_columns))
    return cuts


def records(file: IO[bytes], format: str) -> Iterator[tuple[int, bytes | None]]:
    """Yield (bytes read, record) of a csv or tsv file; None for one longer than MAX_LINE.

    A csv record goes on over line ends as long as its quotes are odd in number (RFC 4180, section 2.6). A tsv
    record is a line: the type has no quoting, and real lists (CC12M) hold stray quotes.
    """
    if format == "tsv":
        yield from _lines(file)
        return
    held: list[bytes | None] = []
    size = length = quotes = 0
    for stored, line in _lines(file):
        size += stored
        length += stored
        held.append(line)
        quotes += 0 if line is None else line.count(b'"')
        if line is None or length > MAX_LINE:
            yield size, None
        elif quotes % 2:
            continue
        else:
            yield size, line if len(held) == 1 else b"".join(part for part in held if part is not None)
        held, size, length, quotes = [], 0, 0, 0
    if held:
        yield size, None  # a quote that never closes


def _read_parquet(piece: Piece, options: SourceOptions) -> Iterator[Image]:
    with open_stored(piece.path) as file:
        try:
            table = pq.ParquetFile(file, buffer_size=_READ_AHEAD, pre_buffer=False)
            columns = find_columns(table.schema_arrow.names, options)
        except _TABLE_ERRORS as error:
            yield bad_record(f"{piece.source}: {error}")
            return
        end = table.num_row_groups if piece.end < 0 else piece.end
        for group in range(piece.start, end):
            try:  # a damaged row group leaves the others readable
                wanted = list(dict.fromkeys((columns.url, columns.caption, *columns.kept)))
                for batch in table.iter_batches(_BATCH_ROWS, [group], wanted, use_threads=False):
                    for row in batch.to_pylist():
                        yield _row(row, columns)
            except _TABLE_ERRORS as error:
                yield bad_record(f"row group {group}: {error}")


def _read_jsonl(file: IO[bytes], piece: Piece, options: SourceOptions) -> Iterator[Image]:
    at = piece.start
    if at > 0:  # the line that began before this piece belongs to the one before
        file.seek(at - 1)
        at += next((stored for stored, _ in _lines(file)), 1) - 1
    for number, (stored, line) in enumerate(_lines(file), 1):
        if 0 <= piece.end <= at:
            return
        at += stored
        if line is not None and not line.strip():
            continue
        row = _json(line)
        if not isinstance(row, dict):
            yield bad_record(_where(piece, number, "no JSON object, or more than 1 MiB"))
            continue
        try:
            columns = find_columns(list(row), options)
        except ValueError as error:
            yield bad_record(_where(piece, number, str(error)))
            continue
        yield _row(row, columns)


def _read_delimited(file: IO[bytes], piece: Piece, options: SourceOptions) -> Iterator[Image]:
    rows = records(file, piece.format)
    first = next(rows, None)
    if first is None:
        return
    names, is_header = _names(first[1], piece.format)
    try:
        columns = find_columns(names, options)
    except ValueError as error:
        yield bad_record(f"{piece.source}: {error}")
        return
    at, number = (first[0], 2) if is_header else (0, 1)
    if piece.start > at:
        file.seek(piece.start)
        at, rows = piece.start, records(file, piece.format)
    elif not is_header:
        rows = itertools.chain([first], rows)
    for number, (stored, record) in enumerate(rows, number):  # noqa: B020 - counts from where it stands
        if 0 <= piece.end <= at:
            return
        at += stored
        if record is not None and not record.strip():
            continue
        fields = _fields(record, piece.format)
        if fields is None or len(fields) != len(names):
            found = "unreadable" if fields is None else f"{len(fields)} fields instead of {len(names)}"
            yield bad_record(_where(piece, number, found))
            continue
        yield _row(dict(zip(names, fields, strict=True)), columns)


def _row(row: dict[str, object], columns: Columns) -> Image:
    value = row.get(columns.caption)
    texts: tuple[tuple[Kind, str], ...] = tuple(("caption", text) for text in _texts(value))
    extra = {name: _plain(row.get(name)) for name in columns.kept} if columns.kept else None
    url = row.get(columns.url)
    reference = (
        url.decode("utf-8", "replace") if isinstance(url, bytes) else url if isinstance(url, str) else ""
    )
    return make_image(reference, texts, "", None, extra)


def _texts(value: object) -> list[str]:
    """Return the captions of a cell: none for NULL, several for a list."""
    if isinstance(value, str):
        return [value] if value.strip() else []
    if isinstance(value, list | tuple):
        return [text for item in value for text in _texts(item)]
    if isinstance(value, bytes):
        return _texts(value.decode("utf-8", "replace"))
    if value is None or isinstance(value, bool | dict) or (isinstance(value, float) and math.isnan(value)):
        return []
    return [str(value)]


def _plain(value: object) -> object:
    """Return `value` as JSON can hold it."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return scalar(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {scalar(str(key)): _plain(item) for key, item in value.items()}
    assert isinstance(value, datetime.date | datetime.time | datetime.timedelta | decimal.Decimal)
    return str(value)


def _lines(file: IO[bytes]) -> Iterator[tuple[int, bytes | None]]:
    """Yield (bytes read, line) with line None where longer than MAX_LINE, of which no more is held."""
    while line := file.readline(MAX_LINE + 1):
        stored = len(line)
        if stored > MAX_LINE and not line.endswith(b"\n"):
            while rest := file.readline(MAX_LINE):
                stored += len(rest)
                if rest.endswith(b"\n"):
                    break
            yield stored, None
        else:
            yield stored, line


def _json(line: bytes | None) -> object:
    """Parse one line; None if it is no JSON. orjson is 4 times faster but refuses lone surrogates."""
    if line is None:
        return None
    line = line.removeprefix(b"\xef\xbb\xbf")
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        try:
            return json.loads(line)
        except (ValueError, RecursionError):
            return None


def _names(record: bytes | None, format: str) -> tuple[list[str], bool]:
    """Return the column names, and whether the first record holds them: a URL there means that it is data."""
    fields = _fields(record, format) or []
    if any(re.match("https?://", field.strip(), re.IGNORECASE) for field in fields):
        names = [f"column {i}" for i in range(1, len(fields) + 1)]
        url = next(i for i, field in enumerate(fields) if re.match("https?://", field.strip(), re.IGNORECASE))
        # CC12M is url, caption and CC3M caption, url: the first other column is taken for the caption.
        caption = next((i for i in range(len(fields)) if i != url), None)
        names[url] = "url"
        if caption is not None:
            names[caption] = "caption"
        return names, False
    return [field.strip() for field in fields], True


def _fields(record: bytes | None, format: str) -> list[str] | None:
    if record is None:
        return None
    try:
        text = record.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        return None
    if format == "tsv":
        return [_unquoted(field) for field in text.split("\t")]
    try:
        return next(csv.reader([*text.splitlines(keepends=True)], strict=True), [])
    except csv.Error:
        return None


def _unquoted(field: str) -> str:
    """Undo the quotes that spreadsheet writers put around a tsv field; others are part of the text."""
    inner = field[1:-1]
    if len(field) >= 2 and field[0] == field[-1] == '"' and '"' not in inner.replace('""', ""):
        return inner.replace('""', '"')
    return field


def _where(piece: Piece, number: int, what: str) -> str:
    return f"line {number}{f' after byte {piece.start}' if piece.start else ''}: {what}"


@lru_cache(maxsize=256)  # once per file, and per set of keys in jsonl
def _find_columns(
    names: tuple[str, ...], url_col: str | None, caption_col: str | None, kept: tuple[str, ...]
) -> Columns:
    there = f"the columns are: {', '.join(map(repr, names)) or 'none'}"
    for column in (url_col, caption_col, *kept):
        if column is not None and column not in names:
            raise ValueError(f"there is no column {column!r}; {there}")
    simple: dict[str, str] = {}
    for name in names:
        simple.setdefault(re.sub(r"[\s_-]", "", name).lower(), name)
    url = url_col or next((simple[name] for name in URL_NAMES if name in simple), None)
    if url is None:
        raise ValueError(f"no column looks like image URLs; {there}; name one with --url-col")
    caption = caption_col or next(
        (simple[n] for n in CAPTION_NAMES if n in simple and simple[n] != url), None
    )
    if caption is None:
        raise ValueError(f"no column looks like captions; {there}; name one with --caption-col")
    return Columns(url, caption, kept)
