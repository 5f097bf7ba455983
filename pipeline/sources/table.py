"""URL lists: parquet, csv, tsv and jsonl with a column of image URLs and one of captions; txt of URLs."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import IO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.foreign_text import DAMAGED, Line, Lines, text_of
from pipeline.options.sources import SourceOptions
from pipeline.parquet import BoundedFile, cut
from pipeline.schemas import Piece
from pipeline.sources import delimited
from pipeline.sources.cells import parsed, plain, plain_column
from pipeline.sources.columns import Columns, Listed, find_columns, hive_values, of_text
from pipeline.sources.inputs import file_size, open_stored
from pipeline.sources.records import MAX_TEXT, Image, Kind, bad_record, make_image
from pipeline.storage import is_local

MAX_KEPT: Final = 1 << 16
"""Bytes of one text in a further column that are carried along."""

_MAX_TEXT_BYTES: Final = 4 * MAX_TEXT
_MAX_CAPTIONS: Final = 1000  # of one cell
_MAX_ITEMS: Final = 1 << 16  # of a list in a further column
_MAX_DEPTH: Final = 8  # lists in lists of captions
_TABLE_ERRORS: Final = (pa.ArrowException, OSError, ValueError)


def read(piece: Piece, options: SourceOptions) -> Iterator[Image]:
    """Yield the rows of a piece; a row that cannot be read is a bad_record with its line or row."""
    with open_stored(piece.path) as file:  # raises where there is no such file
        if piece.format == "parquet":
            yield from _read_parquet(file, piece, options)
            return
        rows = {"jsonl": _read_jsonl, "txt": _read_urls}.get(piece.format, _read_delimited)
        try:
            looked = replace(options, keep_columns=()) if piece.format == "jsonl" else options
            with text_of(file) as (text, _):
                found = of_text(text, piece.source, piece.format, looked)
            if found is None:
                return
            with text_of(file) as (text, is_as_stored):
                yield from rows(
                    text, piece if is_as_stored else piece._replace(start=0, end=-1), options, found
                )
        except DAMAGED as error:
            yield bad_record(f"{piece.source} is damaged or ends early: {error}")
        except ValueError as error:  # of its columns, unseen by the plan, as of a web file
            yield bad_record(str(error) if piece.source in str(error) else f"{piece.source}: {error}")


def boundaries(path: str, format: str, piece_bytes: int) -> list[int]:
    """Return where a file may be cut so that each piece holds about `piece_bytes`; [] leaves it whole.

    Row groups for parquet; bytes for UTF-8 that is not compressed. A csv or tsv file, whose quotes may hold
    line ends, is read through once to find its records, so only a local file is cut.
    """
    if format == "parquet":
        return _group_boundaries(path, piece_bytes)
    size = file_size(path)
    if size <= piece_bytes or (format not in ("jsonl", "txt") and not is_local(path)):
        return []
    cuts: list[int] = []
    last = 0
    with open_stored(path) as file, text_of(file) as (text, is_as_stored):
        if not is_as_stored:
            return []
        lines = Lines(text)
        if format in ("jsonl", "txt"):
            lines.read()
            return [] if lines.ends_at_returns else list(range(piece_bytes, size, piece_bytes))
        for record in delimited.records(lines, format):
            if lines.ends_at_returns:
                return []
            if record.offset - last >= piece_bytes:
                cuts.append(record.offset)
                last = record.offset
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


def _read_parquet(file: IO[bytes], piece: Piece, options: SourceOptions) -> Iterator[Image]:
    try:
        table = BoundedFile(file)
        stored = table.schema.names
        hive = {name: value for name, value in hive_values(piece.path).items() if name not in stored}
        columns = find_columns([*stored, *hive], options)
    except _TABLE_ERRORS as error:
        yield bad_record(f"{piece.source}: {error}")
        return
    read_of = [name for name in (columns.url, columns.caption, *columns.kept) if name is not None]
    wanted = [name for name in dict.fromkeys(read_of) if name in stored]
    for group in range(piece.start, table.metadata.num_row_groups if piece.end < 0 else piece.end):
        rows = table.metadata.row_group(group).num_rows
        try:  # a damaged row group leaves the others readable
            for batch in table.batches(wanted, group):
                rows -= len(batch)
                yield from _rows_of(batch, columns, hive)
        except _TABLE_ERRORS as error:
            yield bad_record(f"row group {group}, {rows} rows: {error}")


def _rows_of(batch: pa.RecordBatch, columns: Columns, hive: dict[str, str | None]) -> Iterator[Image]:
    cells: dict[str, list[object]] = {name: [value] * len(batch) for name, value in hive.items()}
    for name in (columns.url, columns.caption):
        if name is not None and name in batch.schema.names:
            cells[name] = plain_column(cut(batch[name], _MAX_TEXT_BYTES, _MAX_CAPTIONS))
    kept = {
        name: plain_column(cut(batch[name], MAX_KEPT, _MAX_ITEMS))
        if name in batch.schema.names
        else cells[name]
        for name in columns.kept
    }
    captions = [None] * len(batch) if columns.caption is None else cells[columns.caption]
    for i, (url, caption) in enumerate(zip(cells[columns.url], captions, strict=True)):
        yield _image(url, caption, {name: kept[name][i] for name in kept} if kept else None)


def _read_jsonl(text: IO[bytes], piece: Piece, options: SourceOptions, found: Listed) -> Iterator[Image]:
    for line in _lines(text, piece):
        row = parsed(line.data)
        if not isinstance(row, dict):
            yield bad_record(_where(piece, line.number, "no JSON object, or more than 1 MiB"))
            continue
        columns = found.columns._replace(kept=options.keep_columns)
        # An absent key is null, but these may be other people's rows.
        if columns.url not in row or columns.caption is None:
            try:
                columns = find_columns([*row, *(k for k in options.keep_columns if k not in row)], options)
            except ValueError as error:
                yield bad_record(_where(piece, line.number, str(error)))
                continue
        kept = {name: plain(row.get(name)) for name in columns.kept}
        caption = None if columns.caption is None else row.get(columns.caption)
        yield _image(row.get(columns.url), caption, kept or None)


def _read_urls(text: IO[bytes], piece: Piece, _: SourceOptions, found: Listed) -> Iterator[Image]:
    for line in _lines(text, piece):
        if line.data is None:
            yield bad_record(_where(piece, line.number, "more than 1 MiB"))
        else:
            yield _image(line.data.strip(), None, None)


def _lines(text: IO[bytes], piece: Piece) -> Iterator[Line]:
    """Yield the lines of a piece that are not blank."""
    start = piece.start
    if start > 0:  # the line that began before this piece belongs to the previous piece
        text.seek(start - 1)
        before = Lines(text, start - 1)
        before.read()
        start = before.offset
        text.seek(start)
    lines = Lines(text, start)
    while True:
        lines.skip_blank()
        if 0 <= piece.end <= lines.offset or (line := lines.read()) is None:
            return
        if line.data is None or line.data.strip(b" \t\r\n"):
            yield line


def _read_delimited(text: IO[bytes], piece: Piece, _: SourceOptions, found: Listed) -> Iterator[Image]:
    names, columns = found.names, found.columns
    if piece.start:
        text.seek(piece.start)
    rows = delimited.records(Lines(text, piece.start), piece.format, len(names) if piece.start else 0)
    if found.has_header and not piece.start:
        next(rows)
    url = names.index(columns.url)
    caption = -1 if columns.caption is None else names.index(columns.caption)
    kept = [(name, names.index(name)) for name in columns.kept]
    for record in rows:
        if 0 <= piece.end <= record.offset:
            return
        cells = delimited.fields(record, piece.format)
        if len(cells) != len(names) and piece.format == "tsv" and not isinstance(cells, str):
            cells = delimited.plain_fields(record)
        if isinstance(cells, str) or len(cells) != len(names):
            what = cells if isinstance(cells, str) else f"{len(cells)} fields instead of {len(names)}"
            yield bad_record(_where(piece, record.number, what))
            continue
        yield _image(
            cells[url],
            None if caption < 0 else cells[caption],
            {name: plain(cells[i]) for name, i in kept} if kept else None,
        )


def _image(url: object, caption: object, extra: dict[str, object] | None) -> Image:
    texts: tuple[tuple[Kind, str], ...]
    if isinstance(caption, str):  # as nearly all are
        texts = (("caption", caption),) if caption and not caption.isspace() else ()
    else:
        texts = tuple(("caption", text) for text in itertools.islice(_texts(caption), _MAX_CAPTIONS))
    if isinstance(url, bytes):
        url = url.decode("utf-8", "replace")
    if isinstance(url, list | dict):
        kind = "a list" if isinstance(url, list) else "an object"
        return Image("", texts, "", extra, "bad_url", f"{kind} instead of a URL")
    return make_image(url if isinstance(url, str) else "", texts, "", None, extra)


def _texts(value: object, depth: int = 0) -> Iterator[str]:
    """Yield the captions of a cell: none for null, several for a list."""
    if isinstance(value, str):
        if value.strip():
            yield value
    elif isinstance(value, list | tuple):
        for item in value if depth < _MAX_DEPTH else ():
            yield from _texts(item, depth + 1)
    elif isinstance(value, bytes):
        yield from _texts(value.decode("utf-8", "replace"))
    elif not (
        value is None or isinstance(value, bool | dict) or (isinstance(value, float) and math.isnan(value))
    ):
        yield str(value)


def _where(piece: Piece, number: int, what: str) -> str:
    return f"line {number}{f' after byte {piece.start}' if piece.start else ''}: {what}"
