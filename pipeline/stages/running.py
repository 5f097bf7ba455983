"""The verbs of a run: tasks, shuffle, thresholds; here or as a Beam job, and only if not done yet."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from pipeline import storage
from pipeline.balance import I64
from pipeline.stages import local
from pipeline.stages.files import Result, Task, finished, write_vector
from pipeline.stages.worker import Counter, Shuffler, Worker

if TYPE_CHECKING:
    from pipeline.stages.beam_runner import BeamRunner

_SHUFFLED = "shuffled"
"""Marker of a whole shuffle: partitions without rows have none."""


@dataclass(frozen=True, kw_only=True)
class Runner:
    """Where steps run: on this machine, or on the Beam runner that the flags name."""

    flags: tuple[str, ...] = ()
    """Beam's; --runner is among them unless there are none."""
    workers: int = 1
    """Processes on this machine."""
    log: str = ""
    """Local file for the standard error of worker processes; they inherit ours without it."""
    name: str = ""
    """Of the jobs on a cluster, unless a flag gives one. Dataflow refuses a second job of the same name: so
    no new launcher begins a stage on which the job of a lost one is still at work."""

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
        from pipeline.stages.beam_runner import BeamRunner

        return BeamRunner(self.flags, self.workers, self.log, self.name)


def run_tasks(
    runner: Runner, folder: str, tasks: list[Task], worker: Worker, seconds: float = 0.0
) -> list[Result]:
    """Run the tasks that have no marker yet and return all results, in the order of the tasks.

    seconds: how long all of them take one after the other, if that is known.
    """
    if runner.is_local:
        return local.run_tasks(runner.pool, folder, tasks, worker, seconds)
    return runner.beam.tasks(folder, tasks, worker)


def run_shuffle(
    runner: Runner, folder: str, inputs: list[Task], shuffler: Shuffler, partitions: int, at_once: int
) -> list[Result]:
    """Return the results of a shuffle, in the order of the partitions; one without rows has none.

    at_once: partitions that this machine holds in memory at a time; a cluster has all at once.
    """
    marker = storage.join(folder, _SHUFFLED)
    if not storage.exists(marker):
        if runner.is_local:
            local.run_shuffle(runner.pool, folder, inputs, shuffler, partitions, at_once)
        else:
            runner.beam.shuffle(folder, inputs, shuffler, partitions)
        storage.write_bytes(marker, b"")
        storage.remove_tree(f"{folder}.spill")
    return [result for _, result in sorted(finished(folder).items())]


def run_thresholds(runner: Runner, folder: str, tasks: list[Task], counter: Counter, rank: I64) -> None:
    """Write `counts` and `thresholds` for the samples of the tasks, unless they are there."""
    if storage.exists(storage.join(folder, "thresholds")):
        return
    write_vector(storage.join(folder, "rank"), rank)
    if runner.is_local:
        local.run_thresholds(runner.pool, folder, tasks, counter, rank)
    else:
        runner.beam.thresholds(folder, tasks, counter)
