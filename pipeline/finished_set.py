"""A finished set: its shards, and the mask that says which samples it has and which queries keep them.

Whatever changes a finished run changes the mask, or writes shards again by it. Extending a run leaves its
shards as they are: dropped.parquet names the samples that it drops; the thresholds in query_counts.parquet
say which queries keep a sample now, for the column query_ids is of the time when the shard was written.
`openwit compact` and `openwit takedown` write shards again, both by `rewrite`.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import balance, dropped_samples, querylist, schemas, storage
from pipeline.checked_manifest import Manifest
from pipeline.manifest import Shard, describe_shard
from pipeline.run_folder import Layout
from pipeline.shards import read_shard, write_shard


@dataclass(frozen=True)
class FinishedSet:
    """The shards of a finished run, named NNNNN, and the mask of its samples."""

    folder: str
    """Of the shards."""
    shards: tuple[str, ...]
    hashes: balance.U64  # [Q]
    thresholds: balance.U64 | None  # [Q]; None where none are published: then query_ids are as stored
    dropped: dropped_samples.Dropped

    def table(self, shard: str, columns: list[str] | None = None) -> pa.Table:
        """Return the rows of a shard as they are stored."""
        return schemas.read_table(storage.join(self.folder, f"{shard}.parquet"), columns)

    def stays(self, shard: str, table: pa.Table) -> NDArray[np.bool_]:
        """Return which rows of a shard are part of the set, bool [rows]; by their column key."""
        return self.dropped.stays(shard, table["key"].to_pylist())

    def now(self, table: pa.Table) -> pa.Table:
        """Return rows (uid in hex, query_ids, matched_query_ids) with the query_ids that hold."""
        if self.thresholds is None or not len(table):
            return table
        matched = pa.concat_arrays(table["matched_query_ids"].chunks)
        query = matched.flatten().to_numpy()
        row = np.repeat(np.arange(len(table)), matched.value_lengths().to_numpy())
        uids = np.array([int(uid[:16], 16) for uid in table["uid"].to_pylist()], np.uint64)
        keeps = balance.priorities(uids[row], self.hashes[query]) <= self.thresholds[query]
        lengths = np.bincount(row[keeps], minlength=len(table))
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
        field = table.schema.field("query_ids")
        lists = pa.ListArray.from_arrays(offsets, pa.array(query[keeps])).cast(field.type)
        return table.set_column(table.column_names.index("query_ids"), field, lists)

    def rows(self, shard: str, columns: list[str] | None = None) -> pa.Table:
        """Return the rows of a shard that are part of the set, as they are now; key is among the columns."""
        table = self.table(shard, columns)
        return self.now(table.filter(pa.array(self.stays(shard, table))))

    def rewrite(self, shard: str, rows: pa.Table, folder: str) -> Shard:
        """Write a shard again with those of its samples that have a row, in this folder or another.

        rows: of its Parquet file from now on; their query_ids go into KEY.json. The tar is written first and
        the Parquet file last, since its rows say that a shard holds something. RuntimeError if the two do not
        hold the same samples.
        """
        source, base = storage.join(self.folder, f"{shard}.tar"), storage.join(folder, shard)
        query_ids = dict(zip(rows["key"].to_pylist(), rows["query_ids"].to_pylist(), strict=True))
        with storage.open_input(source) as file, storage.atomic_output(f"{base}.tar") as path:
            kept = (
                sample._replace(json=_with_query_ids(sample.json, query_ids[sample.key]))
                for sample in read_shard(file)
                if sample.key in query_ids
            )
            tar = write_shard(Path(path), kept)
        if tar.samples != len(rows):
            raise RuntimeError(f"{source} and its Parquet file differ: openwit verify says more")
        return describe_shard(base, shard, rows, tar)


def load(layout: Layout, manifest: Manifest) -> FinishedSet:
    """Return the set of a finished run."""
    table = schemas.read_table(layout.query_counts)
    known = "threshold" in table.column_names  # not in runs of older versions
    return FinishedSet(
        folder=layout.shards, shards=tuple(storage.stem(shard.name) for shard in manifest.shards),
        hashes=balance.query_hashes(
            querylist.normalised(table["query"].to_pylist(), manifest.rule), manifest.seed
        ),
        thresholds=table["threshold"].to_numpy() if known else None,
        dropped=dropped_samples.load(layout.root, len(manifest.extensions)),
    )  # fmt: skip


def _with_query_ids(row: bytes, query_ids: list[int]) -> bytes:
    """Return KEY.json with the query_ids that hold; the same bytes if they are the same."""
    found = orjson.loads(row)
    if found.get("query_ids") == query_ids:
        return row
    return orjson.dumps({**found, "query_ids": query_ids}, option=orjson.OPT_SORT_KEYS)
