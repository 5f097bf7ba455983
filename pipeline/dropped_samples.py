"""The samples that extending a run has dropped: they lie in its shards and are no part of the set.

`RUN/dropped.parquet` names them. Rows are only ever added, each with the number of the extension that dropped
it, and the manifest says how many extensions count: so a reader sees a run before or after an extension, and
never between.
"""

import itertools
from collections.abc import Sequence
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
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
    """The dropped samples of each shard."""

    def __init__(self, table: pa.Table | None = None) -> None:
        """Take rows (shard, key) that are sorted by shard; 20 bytes of memory for each."""
        self._places: dict[str, tuple[int, int]] = {}
        if table is None:  # no array is made: Arrow would import pandas, where it is installed, to make one
            return
        runs = pc.run_end_encode(table["shard"].combine_chunks())
        places = itertools.pairwise([0, *runs.run_ends.to_pylist()])
        self._keys = table["key"].combine_chunks()
        self._places = dict(zip(runs.values.to_pylist(), places, strict=True))

    def keys(self, shard: str) -> frozenset[str]:
        """Return the keys of a shard, NNNNN or NNNNN.tar, that are dropped."""
        place = self._places.get(storage.stem(shard))
        if place is None:
            return frozenset()
        return frozenset(self._keys.slice(place[0], place[1] - place[0]).to_pylist())

    def stays(self, shard: str, keys: Sequence[str]) -> NDArray[np.bool_]:
        """Return which of a shard's keys are part of the set, bool [keys]."""
        gone = self.keys(shard)
        return np.array([key not in gone for key in keys], bool)


NOTHING: Final = Dropped()


def load(root: str, extensions: int) -> Dropped:
    """Return the samples that a run's first `extensions` extensions dropped."""
    return Dropped(rows(root, extensions, ["shard", "key", "extension"])) if extensions else NOTHING


def rows(root: str, extensions: int, columns: list[str] | None = None) -> pa.Table:
    """Return the ROWS, or some of their columns, that a run's first extensions wrote."""
    if not extensions:
        return ROWS.empty_table()
    with storage.open_input(storage.join(root, FILE)) as file:
        table = pq.read_table(file, columns=columns)
    return table.filter(pc.less_equal(table["extension"], extensions))
