"""Find and remove rows of everything that was taken down, in any of a run's tables."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import schemas, storage
from pipeline.flow import parts
from pipeline.flow.parts import Part
from pipeline.tombstones import Tombstones

Mask = npt.NDArray[np.bool_]

URL_COLUMNS: Final = ("url", "page_url", "fetch_url", "final_url")
REASON: Final = "taken_down"
_KEPT_ROWS: Final = pa.schema(
    [
        pa.field("uid", pa.binary(schemas.UID_BYTES)),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("final_url", pa.string(), nullable=False),
        pa.field("sha256", pa.binary(32)),
        pa.field("phash", pa.string(), nullable=False),
    ]
)
_NAMED: Final = re.compile(r"https?://[^\s\"'<>]+|\b[0-9a-f]{32}\b")
_MOST_CANDIDATES: Final = 2**31 - 1  # of one row


def find_files(folder: str, suffix: str) -> list[str]:
    """Return the files in `folder` and below whose names end in `suffix`, sorted; [] if there is none."""
    return [storage.join(folder, name) for name in storage.find_files(folder) if name.endswith(suffix)]


def named_in(part: Part) -> Iterator[str]:
    """Yield the tables of a part that may name removed samples."""
    return parts.tables(part, "uid", "detail", *URL_COLUMNS)


def columns_of(path: str) -> list[str]:
    """Return the names of a Parquet file's columns."""
    with storage.open_input(path) as file:
        return list(pq.ParquetFile(file).schema_arrow.names)


def hits(table: pa.Table, tombstones: Tombstones) -> Mask:
    """Return which rows are of an image or a page that was taken down, by whatever columns name it."""
    mask = np.zeros(len(table), bool)
    if "uid" in table.column_names:
        mask |= _among(table["uid"], lambda value: _hex(value) in tombstones.urls)
    for name in URL_COLUMNS:
        if name in table.column_names:
            mask |= _among(table[name], tombstones.has_url)
    return mask


def image_hits(table: pa.Table, tombstones: Tombstones) -> Mask:
    """Return which rows are of a picture that was taken down, by their columns sha256 and phash."""
    mask = np.zeros(len(table), bool)
    if "sha256" in table.column_names:
        mask |= _among(table["sha256"], lambda value: _raw(value) in tombstones.images.sha256)
    if "phash" in table.column_names and tombstones.images.phashes:
        mask |= _among(table["phash"], lambda value: bool(tombstones.images.of_picture(value)))
    return mask


def _among(column: pa.ChunkedArray, is_hit: Callable[[Any], bool]) -> Mask:
    """Return which values are hits, checking each distinct value once."""
    found = [value for value in column.unique().to_pylist() if value is not None and is_hit(value)]
    mask: Mask = pc.is_in(column, value_set=pa.array(found, column.type)).to_numpy()
    return mask


def _hex(value: bytes | str) -> str:
    return value.hex() if isinstance(value, bytes) else value


def _raw(value: bytes | str) -> bytes:
    return value if isinstance(value, bytes) else bytes.fromhex(value)


def without(table: pa.Table, mask: Mask, tombstones: Tombstones) -> pa.Table:
    """Return the other rows; details of them that name the removed rows go too."""
    table = table.filter(pa.array(~mask))
    if "detail" not in table.column_names:
        return table
    silent = [text for text in table["detail"].unique().to_pylist() if text and _tells(text, tombstones)]
    if not silent:
        return table
    told = pc.is_in(table["detail"], value_set=pa.array(silent))
    index = table.column_names.index("detail")
    blank = pc.if_else(told, "", table["detail"])
    return table.set_column(index, table.schema.field("detail"), blank)


def _tells(text: str, tombstones: Tombstones) -> bool:
    return any(
        word in tombstones.urls or ("//" in word and tombstones.has_url(word))
        for word in _NAMED.findall(text)
    )


def kept_rows(headers: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return a table of the identities of kept images (`fetch.worker`), from their headers."""
    rows = (
        (
            bytes.fromhex(header["key"]), _utf8(header["detail"]), _utf8(header["final_url"]),
            bytes.fromhex(header["sha256"]) or None, (header["processed"] or {}).get("phash", ""),
        )
        for header in headers
    )  # fmt: skip
    return schemas.to_table(rows, _KEPT_ROWS)


def _utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def taken_down_rows(candidates: int) -> pa.Table:
    """Return rejected rows that stand for that many candidates and tell nothing else."""
    counts = [_MOST_CANDIDATES] * (candidates // _MOST_CANDIDATES) + [candidates % _MOST_CANDIDATES]
    rows = [("", "", "", "", "candidates", REASON, "", count, "") for count in counts if count]
    return schemas.to_table(rows, schemas.REJECTED_ROWS)


def rewrite(path: str, tombstones: Tombstones) -> pa.Table | None:
    """Remove the hits from a Parquet file; return the removed rows, or None if nothing had to change.

    Column types, metadata and the order of rows stay.
    """
    names = columns_of(path)
    if not {"uid", "detail", *URL_COLUMNS} & set(names):
        return None
    looked_at: list[str] = [name for name in ("uid", "detail", *URL_COLUMNS) if name in names]
    narrow = schemas.read_table(path, looked_at)
    mask = hits(narrow, tombstones)
    if not mask.any() and without(narrow, mask, tombstones).equals(narrow):
        return None
    table = schemas.read_table(path)
    schemas.write_table(path, without(table, mask, tombstones))
    return table.filter(pa.array(mask))
