"""The external shuffle: every task is split once for any number of ranges, and each gets its own rows."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pipeline.flow import local
from pipeline.flow.markers import read_vector
from pipeline.flow.parts import Part
from pipeline.flow.runner import Runner
from pipeline.flow.spill import Spill, SpillWorker, ranges_of, read_slices
from pipeline.flow.steps import Shuffle, Work
from pipeline.flow.worker import partition_name

PARTITIONS = 7


@dataclass(frozen=True, kw_only=True)
class Hundred(Part):
    """A hundred numbers."""

    first: int


@dataclass(frozen=True, kw_only=True)
class Residue(Part):
    """The numbers of a residue."""

    numbers: str


@dataclass(frozen=True)
class Numbers:
    """Bring numbers of one residue together; logs each split and fails where it is told to."""

    folder: str
    fail: int = -1

    def split(self, task: Hundred, partitions: int) -> Iterator[tuple[int, bytes]]:
        with Path(self.folder, "splits").open("a") as log:
            log.write(f"{task.first}\n")
        for number in range(task.first, task.first + 100):
            yield number % partitions, f"{number},".encode()

    def reduce(self, partition: int, slices: Iterable[bytes]) -> Residue:
        if partition == self.fail:
            raise ValueError("told to")
        return Residue(name=partition_name(partition), numbers=b"".join(slices).decode())


TASKS = [Hundred(name=f"{first}", first=first) for first in (0, 100, 5000)]


def shuffle(folder: Path, at_once: int, fail: int = -1, workers: int = 1) -> list[Residue]:
    runner, shuffler = Runner(workers=workers, at_once=at_once), Numbers(str(folder), fail)
    plan = partial(Work, tasks=TASKS, partitions=PARTITIONS)
    step = Shuffle(label="numbers", folder=str(folder / "out"), plan=plan, shuffler=shuffler)
    runner.run([step])
    return step.results(Residue)


@pytest.mark.parametrize("workers", [1, 2])
def test_each_task_is_split_once_and_each_partition_has_all_that_is_its(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(local, "ALONE", -1.0)
    whole = shuffle(tmp_path, at_once=2, workers=workers)
    assert [one.name for one in whole] == list(map(partition_name, range(PARTITIONS)))
    for partition, result in enumerate(whole):
        numbers = [int(n) for n in result.numbers.split(",") if n]
        every = (n for task in TASKS for n in range(task.first, task.first + 100))
        own = [n for n in every if n % PARTITIONS == partition]
        assert numbers == own, "in the order in which they were split"
    splits = (tmp_path / "splits").read_text().splitlines()
    assert sorted(splits) == sorted(str(task.first) for task in TASKS)
    assert not list(tmp_path.glob("*.spill"))


def test_a_stopped_shuffle_goes_on_where_it_was(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="told to"):
        shuffle(tmp_path, 2, fail=4)
    assert (tmp_path / "out.spill").is_dir()  # of four partitions done, and three to come
    assert len(list((tmp_path / "out").glob("*.json"))) == 4
    results = shuffle(tmp_path, 2)
    assert len((tmp_path / "splits").read_text().splitlines()) == len(TASKS)
    (tmp_path / "whole").mkdir()
    assert results == shuffle(tmp_path / "whole", PARTITIONS)
    assert not (tmp_path / "out.spill").exists()
    (tmp_path / "out.spill").mkdir()  # of a command that was killed between the results and this
    assert shuffle(tmp_path, 2) == results  # all done: nothing is split again
    assert not (tmp_path / "out.spill").exists()
    assert len((tmp_path / "splits").read_text().splitlines()) == len(TASKS)


def test_slices_keep_their_order_and_their_bounds(tmp_path: Path) -> None:
    worker = SpillWorker(folder=str(tmp_path), shuffler=Numbers(str(tmp_path)), partitions=PARTITIONS)
    result = worker.run(None, Spill(name="a", task=TASKS[1]))
    index = read_vector(result.index)
    assert (np.diff(index[:, 0]) >= 0).all() and (index[1:, 1] == index[:-1, 2]).all()
    ranges = ranges_of([result])
    assert list(ranges) == list(range(PARTITIONS))
    for partition, own in ranges.items():
        assert list(read_slices(own)) == [
            f"{n},".encode() for n in range(100, 200) if n % PARTITIONS == partition
        ]
