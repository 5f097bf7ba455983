"""The verbs of a run: tasks, shuffle, thresholds; here or as a Beam job, and only if not done yet."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from pipeline import storage
from pipeline.balance import I64
from pipeline.flow import local
from pipeline.flow.markers import Result, Task, finished, write_vector
from pipeline.flow.worker import Counter, Shuffler, Worker

if TYPE_CHECKING:
    from pipeline.flow.beam_runner import BeamRunner

_SHUFFLED = "shuffled"
"""Marker of a whole shuffle: partitions without rows have none."""


class Watch(Protocol):
    """Show the progress of a step while it runs, as `progress.ShowProgress` does."""

    def __call__(self, label: str, folder: str, total: int, images: int = 0) -> AbstractContextManager[None]:
        """Follow a step in whose folder `total` markers appear; its tasks have so many images, if known."""
        ...


def unwatched(label: str, folder: str, total: int, images: int = 0) -> AbstractContextManager[None]:
    """Show nothing."""
    return nullcontext()


@dataclass(frozen=True, kw_only=True)
class Runner:
    """Run steps on this machine, or on the Beam runner that the flags name."""

    flags: tuple[str, ...] = ()
    """Beam's; --runner is among them unless there are none."""
    workers: int = 1
    """Processes on this machine."""
    at_once: int = 2
    """Partitions of a shuffle that this machine holds in memory at a time; a cluster has all at once."""
    log: str = ""
    """Local file for the standard error of worker processes; they inherit ours without it."""
    name: str = ""
    """Of the jobs on a cluster, unless a flag gives one. Dataflow refuses a second job of the same name: so
    no new launcher begins a stage on which the job of a lost one is still at work."""
    watch: Watch = unwatched

    def __post_init__(self) -> None:
        """Refuse flags of Beam without its runner."""
        names = [flag.partition("=")[0] for flag in self.flags]
        if names and "--runner" not in names:
            raise ValueError(
                f"{names[0]} is an option of Beam: give --runner as well (FnApiRunner is Beam's runner for "
                "this machine); without it openwit runs here by itself"
            )

    @property
    def is_local(self) -> bool:
        """Return whether steps run on this machine without Beam."""
        return not self.flags

    @cached_property
    def pool(self) -> local.Pool:
        """Return the processes of this machine, which live as long as the command."""
        return local.Pool(self.workers, self.log)

    @cached_property
    def beam(self) -> "BeamRunner":
        """Return what runs a graph of Beam's."""
        from pipeline.flow.beam_runner import BeamRunner

        return BeamRunner(self.flags, self.workers, self.log, self.name)

    def tasks(
        self, label: str, folder: str, tasks: list[Task], worker: Worker, seconds: float = 0.0
    ) -> list[Result]:
        """Run the tasks that have no marker yet and return all results, in the order of the tasks.

        seconds: how long all of them take one after the other, if that is known.
        """
        images = sum(int(task.get("images", 0)) for task in tasks)
        with self.watch(label, folder, len(tasks), images):
            if self.is_local:
                return local.run_tasks(self.pool, folder, tasks, worker, seconds)
            return self.beam.tasks(folder, tasks, worker)

    def shuffle(
        self, label: str, folder: str, inputs: list[Task], shuffler: Shuffler, partitions: int
    ) -> list[Result]:
        """Return the results of a shuffle, in the order of the partitions; one without rows has none."""
        marker = storage.join(folder, _SHUFFLED)
        with self.watch(label, folder, partitions):
            if not storage.exists(marker):
                if self.is_local:
                    local.run_shuffle(self.pool, folder, inputs, shuffler, partitions, self.at_once)
                else:
                    self.beam.shuffle(folder, inputs, shuffler, partitions)
                storage.write_bytes(marker, b"")
                storage.remove_tree(f"{folder}.spill")
        return [result for _, result in sorted(finished(folder).items())]

    def thresholds(self, folder: str, tasks: list[Task], counter: Counter, rank: I64) -> None:
        """Write `counts` and `thresholds` for the samples of the tasks, unless they are there."""
        if storage.exists(storage.join(folder, "thresholds")):
            return
        write_vector(storage.join(folder, "rank"), rank)
        if self.is_local:
            local.run_thresholds(self.pool, folder, tasks, counter, rank)
        else:
            self.beam.thresholds(folder, tasks, counter)
