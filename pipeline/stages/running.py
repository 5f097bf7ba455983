"""How the graphs are run: on which runner, quietly, and only for what is not done yet."""

import contextlib
import itertools
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from pipeline import storage
from pipeline.balance import I64
from pipeline.stages.files import (
    Result,
    Task,
    finished,
    marker_path,
    read_lines,
    read_marker,
    write_json,
    write_tasks,
    write_vector,
)
from pipeline.stages.graph import Counter, Shuffle, Tasks, Thresholds, Worker
from pipeline.stages.job_server import runner_of
from pipeline.stages.spill import Shuffler, SpilledShuffler, SpillWorker


@dataclass(frozen=True, kw_only=True)
class Runner:
    """Run graphs: locally on FnApiRunner, or wherever the Beam flags say."""

    flags: tuple[str, ...] = ()
    workers: int = 1
    log: str = ""
    """Local file for what worker processes write to stderr; they inherit ours without it."""
    name: str = ""
    """Of the jobs on a cluster, unless a flag gives one. Dataflow refuses a second job of the same name: so
    no new launcher begins a stage on which the job of a lost one is still at work."""

    @property
    def is_local(self) -> bool:
        """Return whether the graphs run on this machine, where memory between stages is not spilled."""
        named = [value for flag, value in itertools.pairwise((*self.flags, "")) if flag == "--runner"]
        named += [flag.removeprefix("--runner=") for flag in self.flags if flag.startswith("--runner=")]
        return all(name in ("DirectRunner", "FnApiRunner") for name in named)

    def options(self, tasks: int) -> PipelineOptions:
        """Return the pipeline options for a graph of so many tasks.

        FnApiRunner is named because plain DirectRunner tries to download another engine. One task gains
        nothing from processes, which cost two seconds to start.
        """
        flags = list(self.flags)
        if self.name and not any(flag.startswith("--job_name") for flag in flags):
            flags.append(f"--job_name={self.name}")
        if self.is_local:
            processes = min(self.workers, tasks)
            mode = "multi_processing" if processes > 1 else "in_memory"
            own = [f"--direct_running_mode={mode}", f"--direct_num_workers={max(processes, 1)}"]
            flags = [*own, *flags, "--runner=FnApiRunner"]  # the last one counts
        return PipelineOptions(flags)

    def run(self, graph: beam.PTransform, tasks: int) -> None:
        """Run a graph to its end; a failure raises."""
        quiet_beam()
        options = self.options(tasks)
        on_dataflow = options.view_as(StandardOptions).runner == "DataflowRunner"
        if on_dataflow:  # says where the job can be looked at
            logging.getLogger("apache_beam.runners.dataflow").setLevel(logging.INFO)
        pipeline = beam.Pipeline(runner=runner_of(options, self.flags), options=options)
        _ = pipeline | type(graph).__name__ >> graph
        level = logging.getLogger().level
        result = None
        try:
            with stderr_to("" if on_dataflow else self.log):
                result = pipeline.run()
                state = result.wait_until_finish()
        except KeyboardInterrupt:
            if result is not None and not self.is_local:
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
def stderr_to(path: str) -> Iterator[None]:
    """Let file descriptor 2 write to a local file while worker processes are started and at work.

    Beam's workers log every step to the stderr that they inherit; what matters comes back as an exception.
    """
    if not path:
        yield
        return
    kept = os.dup(2)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:  # noqa: PTH123 - a descriptor is wanted
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def quiet_beam() -> None:
    """Keep Beam's own messages below WARNING out of the user's terminal."""
    for name in ("apache_beam", "root"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # It logs the traceback of what a task raised; the exception itself comes back and says what to do.
    logging.getLogger("apache_beam.runners.common").setLevel(logging.CRITICAL)
    logging.getLogger("apache_beam.runners.worker.worker_pool_main").setLevel(logging.ERROR)


def run_tasks(runner: Runner, folder: str, tasks: list[Task], worker: Worker) -> list[Result]:
    """Run the tasks that have no marker yet and return all results, in the order of the tasks."""
    done = finished(folder)
    missing = [task for task in tasks if task["name"] not in done]
    if missing:
        write_tasks(storage.join(folder, "tasks.jsonl"), missing)
        runner.run(Tasks(folder, worker), len(missing))
        lines = read_lines(storage.join(folder, "results.jsonl"))
        done |= {result["name"]: result for result in map(json.loads, lines)}
    return [done[task["name"]] for task in tasks]


def run_shuffle(
    runner: Runner, folder: str, inputs: list[Task], shuffler: Shuffler, partitions: int, at_once: int
) -> list[Result]:
    """Run a shuffle over ranges of at most `at_once` partitions each, skipping ranges already done.

    Several ranges share one split of the inputs, on disk. A partition without rows has no result.
    """
    bounds = [(low, min(low + at_once, partitions)) for low in range(0, partitions, at_once)]
    ranges = {f"range-{low:05d}-{high:05d}": (low, high) for low, high in bounds}
    missing = [name for name in ranges if read_marker(folder, name) is None]
    spill = f"{folder}.spill"
    if missing and len(ranges) > 1:
        worker = SpillWorker(folder=spill, shuffler=shuffler)
        named = [{"name": f"{number:06d}", "task": task} for number, task in enumerate(inputs)]
        inputs = run_tasks(runner, spill, named, worker)
    for name in missing:
        low, high = ranges[name]
        own = shuffler if len(ranges) == 1 else SpilledShuffler(shuffler=shuffler, low=low, high=high)
        tasks = storage.join(folder, f"{name}.tasks")
        count = write_tasks(tasks, inputs)
        runner.run(Shuffle(folder, tasks, own), max(count, high - low))
        write_json(marker_path(folder, name), {"name": name})
    storage.remove_tree(spill)
    return [result for name, result in sorted(finished(folder).items()) if not name.startswith("range-")]


def run_thresholds(runner: Runner, folder: str, tasks: list[Task], counter: Counter, rank: I64) -> None:
    """Write `counts` and `thresholds` for the samples of the tasks, unless they are there."""
    if storage.exists(storage.join(folder, "thresholds")):
        return
    write_vector(storage.join(folder, "rank"), rank)
    count = write_tasks(storage.join(folder, "tasks.jsonl"), tasks)
    runner.run(Thresholds(folder, counter, storage.join(folder, "rank")), count)
