"""Run the steps that are not done yet, on this machine or as one job of a Beam runner."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, TypeVar

from pipeline import storage
from pipeline.flow import local
from pipeline.flow.parts import Part
from pipeline.flow.spill import spill_folder
from pipeline.flow.steps import Step, Tasks, Watch, Work, plan, unwatched, watched
from pipeline.flow.worker import Worker

if TYPE_CHECKING:
    from pipeline.flow.beam_runner import BeamRunner


P = TypeVar("P", bound=Part)


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
    """The name of the jobs on a cluster, unless a flag gives another. Dataflow refuses a second job of the
    same name: so no new launcher begins a stage while the job of a lost launcher is still running on it."""
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
        """Return the runner of a Beam graph."""
        from pipeline.flow.beam_runner import BeamRunner

        return BeamRunner(self.flags, self.workers, self.log, self.name)

    def run(self, steps: Sequence[Step]) -> None:
        """Do the steps that are not done, in order: here in turn, on a Beam runner as a single job."""
        for number, step in enumerate(steps):
            if step.is_done:
                with watched(step, self.watch):  # as done
                    pass
            elif self.is_local:
                work = plan(step)
                with watched(step, self.watch):
                    local.run(self.pool, step, work, self.at_once)
            else:
                self.beam.run(steps[number:], self.watch)
                break
        # Not before: a runner that has lost a worker may do again whatever it did, of any step of the job.
        for step in steps:
            if not isinstance(step, Tasks):
                storage.remove_tree(spill_folder(step.folder))

    def tasks(
        self, label: str, folder: str, tasks: Sequence[Part], worker: Worker, kind: type[P],
        seconds: float = 0.0,
    ) -> list[P]:  # fmt: skip
        """Run the tasks that have no marker yet and return the results of all, in the order of the tasks.

        kind: of the results. seconds: the time of all of them on one core, if that is known. Unlike the tasks
        of a step, these may become more from one command to the next.
        """
        step = Tasks(label=label, folder=folder, plan=partial(_given, tasks, seconds), worker=worker)
        names = {task.name for task in tasks}
        if step.is_done and not names <= {result.name for result in step.results(kind)}:
            step.reopen()
        self.run([step])
        done = {result.name: result for result in step.results(kind)}
        return [done[task.name] for task in tasks]


def _given(tasks: Sequence[Part], seconds: float) -> Work:
    return Work(tasks=tasks, seconds=seconds)
