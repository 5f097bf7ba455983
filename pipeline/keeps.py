"""Which queries keep a sample, told by what a finished run publishes: its rows and query_counts.parquet.

The column query_ids of a shard says which queries kept a sample when the shard was written. Extending the run
changes that, and the shard stays as it is.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import balance, dropped, querylist, records
from pipeline.run import Layout


@dataclass(frozen=True)
class Keeps:
    """The thresholds of a finished run, and what it has dropped."""

    hashes: balance.U64  # [Q]
    thresholds: balance.U64 | None  # [Q]; None where none are published: then query_ids are as stored
    dropped: dropped.Dropped

    def now(self, table: pa.Table) -> pa.Table:
        """Return a shard's rows (uid in hex, query_ids, matched_query_ids) with the query_ids that hold."""
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

    def set_rows(self, shard: str, table: pa.Table) -> pa.Table:
        """Return the rows of a shard that are part of the set, as they are now; `table` has the key too."""
        stays = self.dropped.stays(shard, table["key"].to_pylist())
        return self.now(table.filter(pa.array(stays)))


def load(layout: Layout, manifest: dict[str, Any]) -> Keeps:
    """Return what a finished run publishes of it."""
    table = records.read_table(layout.query_counts)
    hashes = balance.query_hashes(querylist.normalised(table["query"].to_pylist()), manifest["seed"])
    known = "threshold" in table.column_names  # not in runs of older versions
    thresholds = table["threshold"].to_numpy() if known else None
    return Keeps(hashes, thresholds, dropped.of_run(layout.root, manifest))
