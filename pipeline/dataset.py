"""A dataset as Python sees it: a finished run with its mask, or the archives of any WebDataset."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import checked_manifest, finished_set, manifest, schemas, storage, tombstones
from pipeline.checked_manifest import Manifest
from pipeline.config import nearest
from pipeline.data import evalsets, webdataset
from pipeline.finished_set import FinishedSet
from pipeline.index import place
from pipeline.reasons import REASONS
from pipeline.run_folder import Layout
from pipeline.shards import read_shard

_MASK: Final = ("key", "uid", "query_ids", "matched_query_ids")
"""Columns by which a run says which rows hold, and by which queries."""
Row = Mapping[str, Any]


def find(path: str) -> tuple[str, tuple[str, ...], tuple[Manifest, FinishedSet] | None]:
    """Return name, .tar files and, of a run, manifest and mask; ValueError where there is no finished set."""
    found = place.dataset(path)
    if found.layout is None:
        return found.name, found.shards, None
    layout = found.layout
    if not storage.exists(layout.manifest):
        raise ValueError(
            f"{layout.root} is not finished: openwit status --run {layout.root} says how far it is"
        )
    if message := tombstones.pending(layout.root):
        raise ValueError(message)
    stored = checked_manifest.of(layout.root)
    whole = finished_set.load(layout, stored)
    return (
        layout.root,
        tuple(storage.join(whole.folder, f"{name}.tar") for name in whole.shards),
        (stored, whole),
    )


def samples(
    shards: Sequence[str], of_run: FinishedSet | None
) -> Iterator[tuple[str, bytes, tuple[str, ...], Row]]:
    """Yield key, image file, captions and row of each sample; ValueError for a broken archive."""
    for path in shards:
        if of_run is None:
            yield from _foreign(path)
            continue
        rows = {row["key"]: row for row in of_run.rows(storage.stem(path)).to_pylist()}
        with storage.open_input(path) as file:
            for sample in read_shard(file):
                if sample.key in rows:
                    row = rows[sample.key]
                    yield sample.key, sample.jpg, tuple(row["captions"]), row


def _foreign(path: str) -> Iterator[tuple[str, bytes, tuple[str, ...], Row]]:
    try:
        with storage.open_input(path) as file:
            for sample in webdataset.read(file):
                row = evalsets.row_of(sample) or {}
                first, several = evalsets.captions_of(sample, row)
                yield sample.key, sample.image or b"", several or ((first,) if first else ()), row
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def table(shards: Sequence[str], of_run: FinishedSet | None, columns: Sequence[str] | None) -> pa.Table:
    """Return the rows of all samples: from the Parquet files beside the shards, else from the archives."""
    tables = [_rows(path, of_run, columns) for path in shards]
    return pa.concat_tables(tables, promote_options="permissive") if tables else pa.table({})


def _rows(path: str, of_run: FinishedSet | None, columns: Sequence[str] | None) -> pa.Table:
    beside = storage.sibling(path, ".parquet")
    if of_run is None and not storage.exists(beside):
        rows = [{"key": key, "caption": next(iter(captions), None), **row, "captions": list(captions)}
                for key, _, captions, row in _foreign(path)]  # fmt: skip
        found = pa.Table.from_pylist(rows)
        _refuse_missing(path, columns, found.column_names)
        return found if columns is None else found.select(list(columns))
    if columns is not None:
        with storage.open_input(beside) as file:
            _refuse_missing(beside, columns, pq.read_schema(file).names)
    if of_run is None:
        return schemas.read_table(beside, None if columns is None else list(columns))
    wanted = None if columns is None else list(dict.fromkeys((*columns, *_MASK)))
    found = of_run.rows(storage.stem(path), wanted)
    return found if columns is None else found.select(list(columns))


def _refuse_missing(path: str, columns: Sequence[str] | None, there: Sequence[str]) -> None:
    for name in columns or ():
        if name not in there:
            raise ValueError(f"{path} has no column {name}{nearest(name, there)}; it has {', '.join(there)}")


def rejected(root: str, stored: Manifest, reason: str) -> pa.Table:
    """Return a run's rejected rows, or those of one reason; ValueError for a word that is none."""
    if reason and reason not in REASONS:
        raise ValueError(f"there is no reason {reason}{nearest(reason, list(REASONS))}")
    tables = [schemas.read_table(path) for path in manifest.rejected_files(Layout(root), stored)]
    found = pa.concat_tables([schemas.REJECTED_ROWS.empty_table(), *tables], promote_options="permissive")
    return found.filter(pc.equal(found["reason"], reason)) if reason else found
