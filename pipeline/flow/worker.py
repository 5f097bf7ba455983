"""The work of a step: workers for tasks, shufflers and counters, and how one piece of it is done.

Whatever runs a step, this machine (`local`) or a Beam runner (`beam_graphs`), does each piece through the
functions here, and so leaves the same files.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np

from pipeline.balance import I64
from pipeline.flow.heartbeat import heartbeat
from pipeline.flow.markers import commit, mark, read_marker
from pipeline.flow.parts import Part


# Beam checks annotated arguments against their classes while a graph is built: hence runtime_checkable.
@runtime_checkable
class Worker(Protocol):
    """Do one kind of task; picklable: whatever is expensive to load is in the state that `open` returns."""

    def open(self) -> object:
        """Return the state that is loaded once per process."""
        ...

    def run(self, state: Any, task: Any) -> Part:
        """Write a part's files and return the result, a part of the same name; twice gives the same."""
        ...


@runtime_checkable
class Shuffler(Protocol):
    """Split input tasks into slices by partition, and make one output of all slices of a partition."""

    def split(self, task: Any, partitions: int) -> Iterator[tuple[int, bytes]]:
        """Yield (partition, encoded table) slices; partitions are 0 to `partitions` - 1."""
        ...

    def reduce(self, partition: int, slices: Iterable[bytes]) -> Part:
        """Write the partition's files and return the result, a part called `partition_name`."""
        ...


@runtime_checkable
class Counter(Protocol):
    """Give the (query, priority) pairs of one task's samples."""

    def pairs(self, task: Any, counts: I64, rank: I64) -> tuple[np.ndarray, np.ndarray]:
        """Return the head pairs of `balance.head_pairs`."""
        ...


def run_task(worker: Worker, state: object, folder: str, task: Part) -> Part:
    """Run a task unless its marker says that it is done; return the result that counts."""
    done = read_marker(folder, task.name)
    if done is not None:
        return done
    with heartbeat(folder, task.name):
        result = worker.run(state, task)
    assert result.name == task.name, "a result has the name of its task"
    return commit(folder, result)


def partition_name(partition: int) -> str:
    """Return the name of a partition's result, and of its files."""
    return f"{partition:05d}"


def reduce_partition(shuffler: Shuffler, folder: str, partition: int, slices: Iterable[bytes]) -> Part:
    """Reduce one partition unless its marker says that it is done; write its marker, last of its files."""
    done = read_marker(folder, partition_name(partition))
    if done is not None:
        return done
    result = shuffler.reduce(partition, slices)
    assert result.name == partition_name(partition), "a result has the name of its partition"
    mark(folder, result)
    return result
