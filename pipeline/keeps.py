"""Which queries keep a sample, told by what a finished run publishes: its rows and query_counts.parquet.

The column query_ids of a shard says which queries kept a sample when the shard was written; extending the run
may only take some of them away.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import balance, dropped, querylist, records, storage
from pipeline.run import Layout


@dataclass(frozen=True)
class Keeps:
    """The thresholds of a finished run, and what it has dropped."""

    hashes: balance.U64  # [Q]
    thresholds: balance.U64  # [Q]
    dropped: dropped.Dropped

    def now(self, table: pa.Table) -> pa.Table:
        """Return a shard's rows (uid in hex, query_ids) with the query_ids that hold."""
        ids = table["query_ids"].combine_chunks()
        offsets = ids.offsets.to_numpy()
        query = ids.flatten().to_numpy()
        row = np.repeat(np.arange(len(table)), np.diff(offsets))
        uids = np.array([int(uid[:16], 16) for uid in table["uid"].to_pylist()], np.uint64)
        stays = balance.priorities(uids[row], self.hashes[query]) <= self.thresholds[query]
        if stays.all():
            return table
        lengths = np.bincount(row[stays], minlength=len(table))
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        lists = pa.ListArray.from_arrays(pa.array(starts), pa.array(query[stays], pa.int32()))
        index = table.column_names.index("query_ids")
        return table.set_column(index, table.schema.field("query_ids"), lists.cast(ids.type))

    def set_rows(self, shard: str, table: pa.Table) -> pa.Table:
        """Return the rows of a shard (key, uid, query_ids) that are part of the set, as they are now."""
        stays = self.dropped.stays(shard, table["key"].to_pylist())
        return self.now(table.filter(pa.array(stays)))


def load(layout: Layout, manifest: dict[str, Any]) -> Keeps:
    """Return what a finished run publishes of it; every query keeps what it kept where that is nothing."""
    table = records.read_table(storage.join(layout.root, "query_counts.parquet"))
    hashes = balance.query_hashes(querylist.normalised(table["query"].to_pylist()), manifest["seed"])
    known = "threshold" in table.column_names  # not in runs of older versions
    thresholds = table["threshold"].to_numpy() if known else np.full(len(table), balance.EVERYTHING)
    return Keeps(hashes, thresholds, dropped.of_run(layout.root, manifest))
