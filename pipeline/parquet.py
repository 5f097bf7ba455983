"""Read a stranger's Parquet file in batches that are bounded by bytes, however its cells are packed.

A row of a few bytes may hold gigabytes: one large value of a dictionary that every row refers to, or pages of
long runs that compress to nothing. So how many rows a batch may have is known beforehand, from the sizes that
pages declare. (Arrow's dictionaries are no way out: within a row group they grow from batch to batch.)
"""

from collections.abc import Iterator, Sequence
from typing import IO, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

BATCH_ROWS: Final = 1024
BATCH_BYTES: Final = 64 << 20
"""Most bytes that a batch's cells should have; a single row may have more."""
MAX_PAGE: Final = 256 << 20
"""Bytes of a page, which is unpacked whole."""

_REPEATED_BYTES: Final = 256 << 20  # of a batch all of whose rows name the largest value of a dictionary

_READ_AHEAD: Final = 4 << 20  # bytes held of a column: some writers make one row group of a whole file
_SMALL_CHUNK: Final = 64 << 20  # unpacked bytes of a column of a row group that need no closer look
_MOST_CELLS: Final = 1 << 22  # of a batch, of lists
_HEADER: Final = 1 << 12
_MAX_HEADER: Final = 1 << 20
_MAX_DEPTH: Final = 16


class ParquetPage(NamedTuple):
    """The fields of a page's header; `values` is 0 for a dictionary's."""

    unpacked: int
    packed: int
    values: int


class BoundedFile:
    """Read the row groups of a Parquet file; ValueError or pa.ArrowException for anything that is none."""

    def __init__(self, file: IO[bytes], *, max_page: int = MAX_PAGE) -> None:
        self._file, self._max_page = file, max_page
        opened = pq.ParquetFile(file)
        self.schema: pa.Schema = opened.schema_arrow
        self.metadata = opened.metadata
        leaves = (self.metadata.schema.column(i) for i in range(self.metadata.num_columns))
        self._widths = {leaf.path: max(1, leaf.length) for leaf in leaves}

    def batches(
        self, columns: Sequence[str], group: int, *, rows: int = BATCH_ROWS, limit: int = BATCH_BYTES
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a row group in order; ValueError where a page is larger than `max_page`."""
        for chunk in self._chunks(columns, group):
            rows = min(rows, self._rows(group, chunk, limit))
        file = pq.ParquetFile(self._file, metadata=self.metadata, buffer_size=_READ_AHEAD, pre_buffer=False)
        yield from file.iter_batches(rows, [group], list(columns), use_threads=False)

    def _chunks(self, columns: Sequence[str], group: int) -> list[pq.ColumnChunkMetaData]:
        found = self.metadata.row_group(group)
        every = (found.column(i) for i in range(found.num_columns))
        return [c for c in every if any(f"{c.path_in_schema}.".startswith(f"{name}.") for name in columns)]

    def _rows(self, group: int, chunk: pq.ColumnChunkMetaData, limit: int) -> int:
        """Return how many rows of a column have at most `limit` bytes, however they are spread."""
        rows: int = self.metadata.row_group(group).num_rows
        each: int = max(1, chunk.num_values // max(1, rows))  # of a list's
        if chunk.physical_type == "FIXED_LEN_BYTE_ARRAY":
            return max(1, limit // (each * int(self._widths[chunk.path_in_schema])))
        most = 0.0  # bytes of a cell of a page, on average
        repeated = 0  # of a dictionary, which one value may fill
        for page in pages(self._file, chunk):
            if page.unpacked > self._max_page:
                raise ValueError(
                    f"a page of the column {chunk.path_in_schema!r} has {page.unpacked:,} bytes unpacked; "
                    f"at most {self._max_page:,} are read"
                )
            if not page.values:
                repeated = page.unpacked
            if chunk.total_uncompressed_size <= _SMALL_CHUNK:
                most = limit / _MOST_CELLS  # all its pages together have no more than a batch may have
                break
            most = max(most, page.unpacked / max(page.values, 1) if page.values else 0.0)
        else:
            most = max(most, 1.0)
        return max(1, int(min(limit / (most * each), _REPEATED_BYTES / (max(repeated, 1) * each))))


def pages(file: IO[bytes], chunk: pq.ColumnChunkMetaData) -> Iterator[ParquetPage]:
    """Yield the pages of a column chunk by their headers alone; ValueError where there is no header."""
    at = chunk.data_page_offset
    if chunk.dictionary_page_offset:
        at = min(at, chunk.dictionary_page_offset)
    end, seen = at + chunk.total_compressed_size, 0
    while at < end and seen < chunk.num_values:
        page, size = _page_at(file, at, end)
        yield page
        seen += page.values
        at += size + page.packed


def _page_at(file: IO[bytes], at: int, end: int) -> tuple[ParquetPage, int]:
    """Return a page's header and how many bytes it has."""
    length = _HEADER
    while True:
        file.seek(at)
        data = file.read(min(length, end - at))
        try:
            return _parse(data)
        except IndexError:
            length *= 8
            if len(data) >= end - at or length > _MAX_HEADER:
                raise ValueError("a page without a header") from None


def _parse(data: bytes) -> tuple[ParquetPage, int]:
    """Read a PageHeader of Parquet's Thrift definition in the compact protocol; IndexError if it is cut."""
    reader = _Thrift(data)
    values: dict[int, int] = {}
    for field, kind in reader.fields():
        if kind == _STRUCT and field in (5, 8):  # DataPageHeader, DataPageHeaderV2
            for inner, inner_kind in reader.fields():
                if inner == 1:
                    values[0] = reader.number()
                else:
                    reader.skip(inner_kind)
        elif field in (2, 3):
            values[field] = reader.number()
        else:
            reader.skip(kind)
    if min(values.get(2, -1), values.get(3, -1), values.get(0, 0)) < 0:
        raise ValueError("a page without a size")
    return ParquetPage(values[2], values[3], values.get(0, 0)), reader.at


_BINARY, _LIST, _SET, _MAP, _STRUCT = 8, 9, 10, 11, 12


class _Thrift:
    """A cursor over Thrift's compact protocol."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def fields(self) -> Iterator[tuple[int, int]]:
        """Yield (id, type) of a struct's fields; the caller reads each value before the next."""
        field = 0
        while (byte := self._byte()) != 0:
            field = field + (byte >> 4) if byte >> 4 else self.number()
            yield field, byte & 15

    def number(self) -> int:
        """Read a zigzag integer."""
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def skip(self, kind: int, depth: int = 0) -> None:
        """Pass over a value."""
        if depth > _MAX_DEPTH:
            raise ValueError("a page header nested too deeply")
        if kind in (1, 2):
            return
        if kind == 3:
            self._byte()
        elif kind in (4, 5, 6):
            self._varint()
        elif kind == 7:
            self._pass(8)
        elif kind == _BINARY:
            self._pass(self._varint())
        elif kind in (_LIST, _SET):
            byte = self._byte()
            for _ in range(self._varint() if byte >> 4 == 15 else byte >> 4):
                self._byte() if byte & 15 in (1, 2) else self.skip(byte & 15, depth + 1)
        elif kind == _STRUCT:
            for _, inner in self.fields():
                self.skip(inner, depth + 1)
        else:
            raise ValueError("no page header")

    def _byte(self) -> int:
        self.at += 1
        return self._data[self.at - 1]

    def _varint(self) -> int:
        value = shift = 0
        while shift < 64:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
        raise ValueError("no page header")

    def _pass(self, size: int) -> None:
        self.at += size
        if self.at > len(self._data):
            raise IndexError


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    )


def cut(column: pa.Array, size: int, items: int) -> pa.Array:
    """Return a column whose texts and bytes have at most `size` bytes, and whose lists at most `items`.

    Texts come as bytes, for they may not be the UTF-8 that they claim to be. Dictionaries are resolved, once
    their values are cut.
    """
    kind = column.type
    if isinstance(column, pa.DictionaryArray):
        return cut(column.dictionary, size, items).take(column.indices)
    if isinstance(column, pa.ExtensionArray) and _is_text(column.storage.type):
        return cut(column.storage, size, items)
    if pa.types.is_string(kind) or pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        return pc.binary_slice(column.cast(pa.binary()), 0, size)
    if pa.types.is_large_string(kind) or pa.types.is_large_binary(kind):
        return pc.binary_slice(column.cast(pa.large_binary()), 0, size)
    if pa.types.is_binary(kind):
        return pc.binary_slice(column, 0, size)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        short = pc.list_slice(column, 0, items, return_fixed_size_list=False)
        values = cut(short.values, size, items)
        return type(short).from_arrays(short.offsets, values, mask=short.is_null())
    return column
