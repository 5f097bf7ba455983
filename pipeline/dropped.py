"""The samples that extending a run has dropped: they lie in its shards and are no part of the set.

`RUN/dropped.parquet` names them. Rows are only ever added, each with the number of the extension that dropped
it, and the manifest says how many extensions count: so a reader sees a run before or after an extension, and
never between.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline import storage

FILE: Final = "dropped.parquet"
ROWS: Final = pa.schema(
    [
        pa.field("uid", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),  # NNNNN, without .tar
        pa.field("reason", pa.string(), nullable=False),
        pa.field("captions", pa.int32(), nullable=False),
        pa.field("extension", pa.int32(), nullable=False),
    ]
)


class Dropped:
    """What of each shard is no part of the set."""

    def __init__(self, keys: dict[str, frozenset[str]]) -> None:
        self._keys = keys

    def keys(self, shard: str) -> frozenset[str]:
        """Return the keys of a shard, NNNNN or NNNNN.tar, that are dropped."""
        return self._keys.get(shard.removesuffix(".tar"), frozenset())

    def stays(self, shard: str, keys: Sequence[str]) -> NDArray[np.bool_]:
        """Return which of a shard's keys are part of the set, bool [keys]."""
        gone = self.keys(shard)
        return np.array([key not in gone for key in keys], bool)


def load(root: str, extensions: int) -> Dropped:
    """Return what a run's first so many `extensions` dropped, as `rows`."""
    keys: dict[str, set[str]] = {}
    table = rows(root, extensions)
    for shard, key in zip(table["shard"].to_pylist(), table["key"].to_pylist(), strict=True):
        keys.setdefault(shard, set()).add(key)
    return Dropped({shard: frozenset(found) for shard, found in keys.items()})


def of_run(root: str, manifest: dict[str, Any]) -> Dropped:
    """Return what is dropped of a finished run; nothing for one that was never extended."""
    return load(root, len(manifest.get("extensions", [])))


def rows(root: str, extensions: int) -> pa.Table:
    """Return the ROWS that a run's first so many extensions wrote."""
    if not extensions:
        return ROWS.empty_table()
    with storage.open_input(storage.join(root, FILE)) as file:
        table = pq.read_table(file)
    return table.filter(pa.compute.less_equal(table["extension"], extensions))
