"""An external shuffle: rows are split once, and lie in files by partition until their turn."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np

from pipeline import storage
from pipeline.flow.markers import read_vector, write_vector
from pipeline.flow.parts import Blob, Part
from pipeline.flow.worker import Shuffler

Range = tuple[str, int, int]
"""A slice on disk: path, first byte, byte after the last."""
_READ_AT_ONCE = 64
"""Slices; each may be in a file of its own, and a process has some 1,000 descriptors."""


def spill_folder(folder: str) -> str:
    """Return where the slices of a step lie that has a folder."""
    return f"{folder}.spill"


@dataclass(frozen=True, kw_only=True)
class Spill(Part):
    """A task to be split; it is never written down."""

    task: Any


@dataclass(frozen=True, kw_only=True)
class Slices(Part):
    """The slices of a task, sorted by partition."""

    slices: Blob
    index: Blob
    """int64 [slices, 3]: partition, first byte, byte after the last."""


@dataclass(frozen=True, kw_only=True)
class SpillWorker:
    """Split a task and write its slices down, sorted by partition."""

    folder: str
    shuffler: Shuffler
    partitions: int

    def open(self) -> None:
        """Load nothing."""

    def run(self, state: None, task: Spill) -> Slices:
        """Write NAME.slices and NAME.index."""
        base = storage.join(self.folder, task.name)
        index = []
        with storage.atomic_output(f"{base}.slices") as temporary, temporary.open("wb") as sink:
            for partition, data in sorted(self.shuffler.split(task.task, self.partitions), key=itemgetter(0)):
                start = sink.tell()
                sink.write(data)
                index.append((partition, start, sink.tell()))
        write_vector(f"{base}.index", np.array(index, np.int64).reshape(-1, 3))
        return Slices(name=task.name, slices=f"{base}.slices", index=f"{base}.index")


def ranges_of(spilled: list[Slices]) -> dict[int, list[Range]]:
    """Return each partition's slices, in the order in which they were split."""
    found = defaultdict[int, list[Range]](list)
    for result in spilled:
        for partition, start, stop in read_vector(result.index).tolist():
            found[partition].append((result.slices, start, stop))
    return dict(sorted(found.items()))


def read_slices(ranges: list[Range]) -> Iterator[bytes]:
    """Yield the bytes of slices."""
    for first in range(0, len(ranges), _READ_AT_ONCE):
        yield from storage.read_ranges(ranges[first : first + _READ_AT_ONCE])
