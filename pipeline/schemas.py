"""The rows that travel between stages, as Arrow schemas, and their codec for shuffles.

A row is one caption of one image: a *caption row*. All caption rows of an image share its uid, and tables are
sorted by (uid, caption_hash), so that a sample is a run of rows and every decision is a vectorised pass.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from pipeline import storage
from pipeline.rights.statements import union

UID_BYTES = 16

CAPTION_ROWS = pa.schema(
    [
        pa.field("uid", pa.binary(UID_BYTES), nullable=False),  # first half of sha256(canonical URL)
        pa.field("url", pa.string(), nullable=False),  # as found, absolute: this is fetched
        pa.field("caption", pa.string(), nullable=False),
        pa.field("caption_hash", pa.uint64(), nullable=False),
        pa.field("matched", pa.list_(pa.int32()), nullable=False),  # query ids, sorted
        pa.field("lang", pa.string(), nullable=False),
        pa.field("lang_score", pa.float32(), nullable=False),
        pa.field("lang_page", pa.string(), nullable=False),  # as the page declares it, or empty
        pa.field("page_url", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("extra", pa.string(), nullable=False),  # JSON of the kept columns, or empty
        pa.field("page_rights", pa.string(), nullable=False),  # of rights.statements.encode
    ]
)

# One row accounts for `candidates` candidates: 1, or 0 for an image whose captions all went to the image it
# was merged into. The sum over all rows plus the captions in the shards is the number of candidates.
REJECTED_ROWS = pa.schema(
    [
        pa.field("uid", pa.string(), nullable=False),  # empty where the URL is not valid
        pa.field("url", pa.string(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("page_url", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("candidates", pa.int32(), nullable=False),
        pa.field("rights", pa.string(), nullable=False),  # statements on its terms; published as columns
    ]
)

# The fetched images, one row per image. blob, offset and length say where its bytes are staged; its
# descriptors (pipeline.data.descriptors.pack) follow them there, so that they do not travel through the
# shuffles.
FETCHED_ROWS = pa.schema(
    [
        pa.field("uid", pa.binary(UID_BYTES), nullable=False),
        pa.field("reason", pa.string(), nullable=False),  # empty: fetched
        pa.field("detail", pa.string(), nullable=False),
        pa.field("final_url", pa.string(), nullable=False),
        pa.field("http_status", pa.int16(), nullable=False),
        pa.field("fetched_at", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.binary(32), nullable=True),
        pa.field("format", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("original_width", pa.int32(), nullable=False),
        pa.field("original_height", pa.int32(), nullable=False),
        pa.field("exif", pa.string(), nullable=False),
        pa.field("phash", pa.string(), nullable=False),
        pa.field("quality", pa.int16(), nullable=False),  # 0 to 100: how much detail phash was made from
        pa.field("scores", pa.string(), nullable=False),  # JSON object of score_*, iscc and faces
        pa.field("rights", pa.string(), nullable=False),  # what the picture and its answer say of its terms
        pa.field("synthetic", pa.string(), nullable=False),  # whether a machine made it
        pa.field("synthetic_source", pa.string(), nullable=False),
        pa.field("blob", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("length", pa.int64(), nullable=False),
    ]
)

_IPC = pa.ipc.IpcWriteOptions(compression="zstd")
DETAIL_CHARACTERS = 300


# Of pages that the crawl fetched itself.
IMAGE_ROWS = pa.schema(
    [
        pa.field("position", pa.int64(), nullable=False),  # of the page among those fetched with it
        pa.field("url", pa.string(), nullable=False),
        pa.field("kinds", pa.list_(pa.string()), nullable=False),
        pa.field("texts", pa.list_(pa.string()), nullable=False),
        pa.field("page_url", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("opt_out", pa.string(), nullable=False),  # the page's refusal to let its images be used
        pa.field("page_lang", pa.string(), nullable=False),
        pa.field("rights", pa.string(), nullable=False),  # the page's statements on its terms
    ]
)


class Piece(NamedTuple):
    """One unit of parallel reading: row groups, bytes or files `start` to `end` (-1: the last) of `path`."""

    format: str
    path: str
    start: int
    end: int
    base_url: str
    source: str


def caption_hash(caption: str) -> int:
    """Return the 64-bit identity of a caption's text."""
    return xxhash.xxh3_64_intdigest(caption.encode("utf-8"))


def to_table(rows: Iterable[tuple[object, ...]], schema: pa.Schema) -> pa.Table:
    """Build a table from row tuples in schema order."""
    columns: list[Sequence[object]] = list(zip(*rows, strict=True)) or [() for _ in schema]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def encode(table: pa.Table) -> bytes:
    """Return Arrow IPC with zstd: the only form in which tables cross a shuffle.

    A pickled slice would carry its parent's whole buffers (65 times the bytes for 156 of 10,000 rows).
    """
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=_IPC) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def decode(data: bytes) -> pa.Table:
    """Return the table that `encode` wrote."""
    return pa.ipc.open_stream(data).read_all()


def write_table(path: str, table: pa.Table, row_group_size: int = 16_384) -> None:
    """Publish a Parquet file whose bytes depend on nothing but the table and the library's version."""
    with storage.atomic_output(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=row_group_size)


def read_table(path: str, columns: list[str] | None = None) -> pa.Table:
    """Return a whole Parquet file."""
    with storage.open_input(path) as file:
        return pq.read_table(file, columns=columns)


def high_bits(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Return the first 8 bytes of each fixed-size binary value as uint64 [n], in the same order."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):  # pyarrow returns this for several chunks of zero length
        array = pa.concat_arrays(array.chunks)
    width = array.type.byte_width
    raw = np.frombuffer(array.buffers()[1] or b"", np.uint8)[
        array.offset * width : (array.offset + len(array)) * width
    ]
    first = np.ascontiguousarray(raw.reshape(len(array), width)[:, :8])
    return first.view(">u8").reshape(-1).astype(np.uint64)


def partition_of(high: np.ndarray, partitions: int) -> np.ndarray:
    """Map uint64 hashes [n] to 0..partitions-1 as int64, by contiguous ranges of equal width.

    floor(hash * P / 2^64), computed on the upper 32 bits: exact for P < 2^32 up to a range's edge, which is
    all that is asked: the same hash always goes to the same, monotone, partition.
    """
    assert 0 < partitions < 1 << 31
    return ((high >> np.uint64(32)) * np.uint64(partitions) >> np.uint64(32)).astype(np.int64)


def sort_rows(table: pa.Table) -> pa.Table:
    """Return caption rows sorted by (uid, caption_hash, url, page_url): one order for equal sets."""
    keys = [(name, "ascending") for name in ("uid", "caption_hash", "url", "page_url", "source")]
    return table.sort_by(keys)


def run_starts(column: pa.ChunkedArray) -> np.ndarray:
    """Return the index of the first row of every run of equal values, int64, for a sorted column."""
    if len(column) == 0:
        return np.zeros(0, np.int64)
    array = column.combine_chunks()
    width = array.type.byte_width
    raw = np.frombuffer(array.buffers()[1], np.uint8)[
        array.offset * width : (array.offset + len(array)) * width
    ]
    raw = raw.reshape(len(array), width)
    changed = np.ones(len(array), bool)
    changed[1:] = (raw[1:] != raw[:-1]).any(axis=1)
    return np.flatnonzero(changed)


def rejected_table(
    table: pa.Table, stage: str, reason: str, detail: str | list[str] = "", candidates: int = 1
) -> pa.Table:
    """Turn caption rows into rejected rows with one reason."""
    n = len(table)
    details = [detail] * n if isinstance(detail, str) else detail
    return pa.Table.from_arrays(
        [
            pa.array([u.hex() for u in table["uid"].to_pylist()], pa.string()),
            table["url"].combine_chunks(),
            table["caption"].combine_chunks(),
            table["page_url"].combine_chunks(),
            pa.array([stage] * n, pa.string()),
            pa.array([reason] * n, pa.string()),
            pa.array([d[:DETAIL_CHARACTERS] for d in details], pa.string()),
            pa.array([candidates] * n, pa.int32()),
            _rights(table),
        ],
        schema=REJECTED_ROWS,
    )


def _rights(table: pa.Table) -> pa.Array | pa.ChunkedArray:
    """Return the statements about the terms of caption rows, and of their pictures if those were looked
    at."""
    pages = table["page_rights"]
    if "rights" not in table.column_names or not pc.any(pc.not_equal(table["rights"], "")).as_py():
        return pages.combine_chunks()
    pairs = zip(pages.to_pylist(), table["rights"].to_pylist(), strict=True)
    return pa.array([union(pair) for pair in pairs], pa.string())


def count_reasons(rejected: pa.Table) -> dict[str, int]:
    """Return the number of candidates by reason, sorted by reason."""
    if not len(rejected):
        return {}
    sums = rejected.group_by("reason").aggregate([("candidates", "sum")])
    pairs = zip(sums["reason"].to_pylist(), sums["candidates_sum"].to_pylist(), strict=True)
    return dict(sorted(pairs))
