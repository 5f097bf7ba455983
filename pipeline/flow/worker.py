"""The work of a step: workers for tasks, shufflers and counters, and how one piece of it is done.

Whatever runs a step, this machine (`local`) or a Beam runner (`beam_graphs`), does each piece through the
functions here, and so leaves the same files.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np

from pipeline.balance import I64
from pipeline.flow.heartbeat import heartbeat
from pipeline.flow.markers import Result, Task, commit, marker_path, read_marker, write_json


# Beam checks annotated arguments against their classes while a graph is built: hence runtime_checkable.
@runtime_checkable
class Worker(Protocol):
    """Do one kind of task; picklable: whatever is expensive to load is in the state that `open` returns."""

    def open(self) -> object:
        """Return the state that is loaded once per process."""
        ...

    def run(self, state: Any, task: Task) -> Result:
        """Write the task's files and return its result, a JSON object; running it twice gives the same."""
        ...


@runtime_checkable
class Shuffler(Protocol):
    """Split input tasks into slices by partition, and make one output of all slices of a partition."""

    def split(self, task: Task, partitions: int) -> Iterator[tuple[int, bytes]]:
        """Yield (partition, encoded table) slices; partitions are 0 to `partitions` - 1."""
        ...

    def reduce(self, partition: int, slices: Iterable[bytes]) -> Result:
        """Write the partition's files and return its result, a JSON object."""
        ...


@runtime_checkable
class Counter(Protocol):
    """Give the (query, priority) pairs of one task's samples."""

    def pairs(self, task: Task, counts: I64, rank: I64) -> tuple[np.ndarray, np.ndarray]:
        """Return the head pairs of `balance.head_pairs`."""
        ...


def run_task(worker: Worker, state: object, folder: str, task: Task) -> Result:
    """Run a task unless its marker says that it is done; return the result that counts."""
    done = read_marker(folder, task["name"])
    if done is not None:
        return done
    with heartbeat(folder, task["name"]):
        result = {"name": task["name"], **worker.run(state, task)}
    return commit(folder, task["name"], result)


def reduce_partition(shuffler: Shuffler, folder: str, partition: int, slices: Iterable[bytes]) -> Result:
    """Reduce one partition and write its marker, last of its files."""
    name = f"{partition:05d}"
    result = {"name": name, "partition": partition, **shuffler.reduce(partition, slices)}
    write_json(marker_path(folder, name), result)
    return result
