"""Run steps on a Beam runner as one job: which runner, quietly, and followed from here."""

import contextlib
import itertools
import logging
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline import storage
from pipeline.flow import beam_options
from pipeline.flow.beam_graphs import Steps
from pipeline.flow.beam_job_server import runner_of
from pipeline.flow.local import stderr_to
from pipeline.flow.steps import Step, Watch, is_planned, plan, watched

_NOTHING_SENT: Final = ("--no_save_main_session", "--experiments=disable_logging_submission_environment")
_TOLD: Final = re.compile("navigate to https://| is in state |JOB_MESSAGE_")
"""For Dataflow's notes: where a job can be looked at, its state, and its messages."""


def _is_told(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or bool(_TOLD.search(record.getMessage()))


@dataclass(frozen=True)
class BeamRunner:
    """Run graphs on the runner that the flags name; the fields are those of `runner.Runner`."""

    flags: tuple[str, ...]
    workers: int = 1
    log: str = ""
    name: str = ""

    @property
    def _is_here(self) -> bool:
        """Return whether Beam's own processes of this machine do the work."""
        named = [value for flag, value in itertools.pairwise((*self.flags, "")) if flag == "--runner"]
        named += [flag.removeprefix("--runner=") for flag in self.flags if flag.startswith("--runner=")]
        return all(name in ("DirectRunner", "FnApiRunner") for name in named)

    @property
    def is_on_dataflow(self) -> bool:
        """Return whether Google's Dataflow does the work."""
        return beam_options.runs_on_dataflow(self.flags)

    def options(self, tasks: int) -> PipelineOptions:
        """Return the pipeline options for a job whose first step has that many tasks.

        FnApiRunner is named because plain DirectRunner tries to download another engine. One task gains
        nothing from processes, which cost two seconds to start. Elsewhere workers need nothing of this
        process: neither its main module nor the list of its packages, which takes a second a job and a place
        that launcher and workers share.
        """
        flags = list(self.flags)
        if self.name and not any(flag.startswith("--job_name") for flag in flags):
            flags.append(f"--job_name={self.name}")
        if not self._is_here:
            flags[:0] = _NOTHING_SENT
        else:
            processes = min(self.workers, tasks)
            mode = "multi_processing" if processes > 1 else "in_memory"
            own = [f"--direct_running_mode={mode}", f"--direct_num_workers={max(processes, 1)}"]
            flags = [*own, *flags, "--runner=FnApiRunner"]  # the last counts
        return PipelineOptions(flags)

    def run(self, steps: Sequence[Step], watch: "Watch | None" = None) -> None:
        """Run steps as one job, of which only the first step is planned here; a failure raises RuntimeError.

        watch: shows each step while it is running.
        """
        quiet_beam()
        work = plan(steps[0])
        for step in steps[1:]:
            if step.is_known:
                plan(step)
        options = self.options(max(len(work.tasks), work.partitions))
        if self.is_on_dataflow:
            for name in ("internal.apiclient", "dataflow_runner"):
                told = logging.getLogger(f"apache_beam.runners.dataflow.{name}")
                told.setLevel(logging.INFO)
                told.addFilter(_is_told)
        pipeline = beam.Pipeline(runner=runner_of(options, self.flags), options=options)
        is_spilled = not (self._is_here or self.is_on_dataflow)
        _ = pipeline | Steps(tuple(steps), is_spilled)
        with _followed(steps, watch), stderr_to("" if self.is_on_dataflow else self.log):
            self._wait(pipeline)

    def _wait(self, pipeline: beam.Pipeline) -> None:
        level = logging.getLogger().level
        result = None
        try:
            result = pipeline.run()
            state = result.wait_until_finish()
        except KeyboardInterrupt:
            if result is not None and not self._is_here:
                with contextlib.suppress(Exception):
                    result.cancel()
            raise
        except Exception as error:  # of any type, from a worker: not for `except ValueError` of a command
            raise RuntimeError(str(error)) from error
        finally:
            logging.getLogger().setLevel(level)  # Beam's worker in this process has set it to INFO
        if state not in (None, "DONE"):
            raise RuntimeError(f"the job ended as {state}; the same command continues it")


@contextlib.contextmanager
def _followed(steps: Sequence[Step], watch: "Watch | None") -> Iterator[None]:
    """Show the steps of a job in turn while the block runs it, from the files that they leave."""
    if watch is None:
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=_follow, args=(steps, watch, ended), name="follow", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _follow(steps: Sequence[Step], watch: Watch, ended: threading.Event) -> None:
    with contextlib.suppress(_EndedError):
        for step in steps:
            _wait_for(is_planned, step, ended)
            with watched(step, watch):
                _wait_for(_is_done, step, ended)


class _EndedError(Exception):
    """The job has ended before its last step."""


def _is_done(step: Step) -> bool:
    return step.is_done


def _wait_for(is_true: Callable[[Step], bool], step: Step, ended: threading.Event) -> None:
    while not is_true(step):
        if ended.wait(0.2 if storage.is_local(step.folder) else 15.0) and not is_true(step):
            raise _EndedError


def quiet_beam() -> None:
    """Keep Beam's own messages below WARNING out of the user's terminal."""
    for name in ("apache_beam", "root"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # It logs the traceback of a task's exception; the exception itself comes back and says what to do.
    logging.getLogger("apache_beam.runners.common").setLevel(logging.CRITICAL)
    logging.getLogger("apache_beam.runners.worker.worker_pool_main").setLevel(logging.ERROR)
    logging.getLogger("apache_beam.utils.subprocess_server").setLevel(
        logging.ERROR
    )  # says that a server ends
