"""Steps: a run is a list of them. Each plans its work when those before it are done, and leaves its results.

A step's files lie in its folder: one NAME.json for each finished task, its marker; results.jsonl, the results
of all of them, written last and the marker of the whole step; for thresholds `counts`, `rank`, `thresholds`.
"""

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol, TypeVar

from pipeline import storage
from pipeline.balance import I64
from pipeline.flow.markers import dump, load, read_lines, write_lines, write_vector
from pipeline.flow.parts import Part, only
from pipeline.flow.worker import Counter, Shuffler, Worker

P = TypeVar("P", bound=Part)

_RESULTS: Final = "results.jsonl"
TASKS: Final = "tasks.jsonl"


@dataclass(frozen=True, kw_only=True)
class Work:
    """The work of a step."""

    tasks: Sequence[Part]
    partitions: int = 1
    """Of a shuffle."""
    rank: I64 | None = None
    """For thresholds, [Q]: per query, the rank by priority of the last sample that is within."""
    seconds: float = 0.0
    """How long all tasks take one core, where that is known; 0 where it is not."""

    @property
    def images(self) -> int:
        """Return how many images all tasks have together; 0 where that is not known."""
        return sum(getattr(task, "images", 0) for task in self.tasks)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a run; picklable, so that a cluster's workers plan it."""

    label: str
    folder: str
    plan: Callable[[], Work]
    """Find the work, from the files that the steps before have left; the same each time."""
    is_known: bool = False
    """Whether its work is known before any other is done: a long list that is no part of a graph."""
    marker: ClassVar[str] = _RESULTS

    @property
    def is_done(self) -> bool:
        """Return whether all of the step's files are there."""
        return storage.exists(storage.join(self.folder, self.marker))

    def reopen(self) -> None:
        """Mark a finished step as not finished: it has more tasks now."""
        storage.remove_tree(storage.join(self.folder, self.marker))

    def results(self, kind: type[P]) -> list[P]:
        """Return the results of a finished step, sorted by the names of its tasks."""
        return results_in(self.folder, kind)


@dataclass(frozen=True, kw_only=True)
class Tasks(Step):
    """Do each task on its own."""

    worker: Worker


@dataclass(frozen=True, kw_only=True)
class Shuffle(Step):
    """Split the tasks' tables by partition and reduce each partition; one without rows leaves no result."""

    shuffler: Shuffler


@dataclass(frozen=True, kw_only=True)
class Thresholds(Step):
    """Add up the tasks' counts and find each query's priority number `rank`: `counts` and `thresholds`."""

    counter: Counter
    marker: ClassVar[str] = "thresholds"


def results_in(folder: str, kind: type[P]) -> list[P]:
    """Return the results of the finished step that lies in a folder, parts of a kind."""
    lines = read_lines(storage.join(folder, _RESULTS))
    return [only(load(line, folder), kind) for line in lines]


def tasks_in(folder: str) -> list[Part]:
    """Return the tasks of the planned step that lies in a folder; none if it was not planned."""
    path = storage.join(folder, TASKS)
    lines = read_lines(path)[1:] if storage.exists(path) else []
    return [load(line, folder) for line in lines]


def leftovers(folder: str, known: Collection[str]) -> list[str]:
    """Return the tables, blobs and logs of tasks that came to no end, or not first; known: files of parts."""
    return [
        path
        for ending in (".parquet", ".blob", ".jsonl")
        for path in storage.list_files(folder, ending)
        if path not in known and not path.endswith((f"/{_RESULTS}", f"/{TASKS}"))
    ]


def write_results(folder: str, results: Iterable[Part]) -> None:
    """Publish the results of a whole step, and so mark it as done."""
    by_name = {result.name: result for result in results}
    lines = (dump(result, folder) for _, result in sorted(by_name.items()))
    write_lines(storage.join(folder, _RESULTS), lines)


def plan(step: Step) -> Work:
    """Plan a step; note its work in tasks.jsonl, for those who do it elsewhere and those who follow it."""
    work = step.plan()
    if work.rank is not None:
        write_vector(rank_path(step), work.rank)
    total = work.partitions if isinstance(step, Shuffle) else len(work.tasks)
    head = json.dumps({"total": total, "images": work.images, "partitions": work.partitions})
    write_lines(_tasks_path(step), [head, *(dump(task, step.folder) for task in work.tasks)])
    return work


def noted(step: Step) -> tuple[dict[str, int], list[str]]:
    """Return the numbers of a planned step's work, `total` markers, `images`, `partitions`, and its tasks."""
    head, *lines = read_lines(_tasks_path(step))
    return json.loads(head), lines


def is_planned(step: Step) -> bool:
    """Return whether a step's work is noted."""
    return storage.exists(_tasks_path(step))


def _tasks_path(step: Step) -> str:
    return storage.join(step.folder, TASKS)


def rank_path(step: Step) -> str:
    """Return where the rank of planned thresholds is."""
    return storage.join(step.folder, "rank")


class Watch(Protocol):
    """Show the progress of a step while it runs, as `progress.ShowProgress` does."""

    def __call__(self, label: str, folder: str, total: int, images: int = 0) -> AbstractContextManager[None]:
        """Follow a step in whose folder `total` markers appear; its tasks have that many images, if known."""
        ...


def watched(step: Step, watch: Watch) -> AbstractContextManager[None]:
    """Follow a planned step; thresholds leave no markers to be followed."""
    if isinstance(step, Thresholds):
        return nullcontext()
    numbers, _ = noted(step)
    return watch(step.label, step.folder, numbers["total"], numbers["images"])


def unwatched(label: str, folder: str, total: int, images: int = 0) -> AbstractContextManager[None]:
    """Show nothing."""
    return nullcontext()
