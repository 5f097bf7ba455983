"""An external shuffle for one machine: rows are split once, and lie on disk by partition until their turn.

A local runner holds a shuffle in memory, so few partitions are reduced at a time. To read and split all input
anew for each of those turns would take time that grows with the square of the rows.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import Protocol, runtime_checkable

import numpy as np

from pipeline import storage
from pipeline.stages.files import Result, Task, read_vector, write_vector
from pipeline.stages.select import Nothing


# Beam checks annotated arguments against their classes while a graph is built: hence runtime_checkable.
@runtime_checkable
class Shuffler(Protocol):
    """Split input tasks into slices by partition, and make one output of all slices of a partition."""

    def split(self, task: Task) -> Iterator[tuple[int, bytes]]:
        """Yield (partition, encoded table) slices."""
        ...

    def reduce(self, partition: int, slices: Iterable[bytes]) -> Result:
        """Write the partition's files and return its result, a JSON object."""
        ...


@dataclass(frozen=True, kw_only=True)
class SpillWorker:
    """Split a task and write its slices down, sorted by partition."""

    folder: str
    shuffler: Shuffler

    def open(self) -> Nothing:
        """Load nothing."""
        return Nothing()

    def run(self, state: Nothing, task: Task) -> Result:
        """Write NAME.slices and NAME.index, int64 [slices, 3]: partition, first byte, byte after the last."""
        base = storage.join(self.folder, task["name"])
        index = []
        with storage.atomic_output(f"{base}.slices") as temporary, temporary.open("wb") as sink:
            for partition, data in sorted(self.shuffler.split(task["task"]), key=itemgetter(0)):
                start = sink.tell()
                sink.write(data)
                index.append((partition, start, sink.tell()))
        write_vector(f"{base}.index", np.array(index, np.int64).reshape(-1, 3))
        return {"slices": f"{base}.slices", "index": f"{base}.index"}


@dataclass(frozen=True, kw_only=True)
class SpilledShuffler:
    """Reduce partitions low..high-1 of what `SpillWorker` wrote."""

    shuffler: Shuffler
    low: int
    high: int

    def split(self, task: Task) -> Iterator[tuple[int, bytes]]:
        """Yield the range's slices in the order in which they were split."""
        index = read_vector(task["index"])
        index = index[(index[:, 0] >= self.low) & (index[:, 0] < self.high)]
        if len(index):
            begin = int(index[0, 1])
            [data] = storage.read_ranges([(task["slices"], begin, int(index[-1, 2]))])
            for partition, start, stop in index.tolist():
                yield partition, data[start - begin : stop - begin]

    def reduce(self, partition: int, slices: Iterable[bytes]) -> Result:
        """Reduce as the shuffler itself does."""
        return self.shuffler.reduce(partition, slices)
