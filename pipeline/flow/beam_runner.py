"""Run the graphs on a Beam runner: which one, quietly, and with a task file for each."""

import contextlib
import itertools
import json
import logging
from dataclasses import dataclass

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from pipeline import storage
from pipeline.flow.beam_graphs import Shuffle, Tasks, Thresholds
from pipeline.flow.beam_job_server import runner_of
from pipeline.flow.local import stderr_to
from pipeline.flow.markers import Result, Task, finished, read_lines, write_tasks
from pipeline.flow.worker import Counter, Shuffler, Worker


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

    def options(self, tasks: int) -> PipelineOptions:
        """Return the pipeline options for a graph of so many tasks.

        FnApiRunner is named because plain DirectRunner tries to download another engine. One task gains
        nothing from processes, which cost two seconds to start.
        """
        flags = list(self.flags)
        if self.name and not any(flag.startswith("--job_name") for flag in flags):
            flags.append(f"--job_name={self.name}")
        if self._is_here:
            processes = min(self.workers, tasks)
            mode = "multi_processing" if processes > 1 else "in_memory"
            own = [f"--direct_running_mode={mode}", f"--direct_num_workers={max(processes, 1)}"]
            flags = [*own, *flags, "--runner=FnApiRunner"]  # the last one counts
        return PipelineOptions(flags)

    def run(self, graph: beam.PTransform, tasks: int) -> None:
        """Run a graph to its end; a failure raises RuntimeError."""
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

    def tasks(self, folder: str, tasks: list[Task], worker: Worker) -> list[Result]:
        """Run the tasks that have no marker yet and return all results, in the order of the tasks."""
        done = finished(folder)
        missing = [task for task in tasks if task["name"] not in done]
        if missing:
            write_tasks(storage.join(folder, "tasks.jsonl"), missing)
            self.run(Tasks(folder, worker), len(missing))
            lines = read_lines(storage.join(folder, "results.jsonl"))
            done |= {result["name"]: result for result in map(json.loads, lines)}
        return [done[task["name"]] for task in tasks]

    def shuffle(self, folder: str, inputs: list[Task], shuffler: Shuffler, partitions: int) -> None:
        """Split the inputs and reduce each partition that has rows."""
        tasks = storage.join(folder, "tasks.jsonl")
        count = write_tasks(tasks, inputs)
        self.run(Shuffle(folder, tasks, shuffler), max(count, partitions))

    def thresholds(self, folder: str, tasks: list[Task], counter: Counter) -> None:
        """Write `counts` and `thresholds`; `rank` lies in the folder already."""
        count = write_tasks(storage.join(folder, "tasks.jsonl"), tasks)
        self.run(Thresholds(folder, counter, storage.join(folder, "rank")), count)


def quiet_beam() -> None:
    """Keep Beam's own messages below WARNING out of the user's terminal."""
    for name in ("apache_beam", "root"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # It logs the traceback of what a task raised; the exception itself comes back and says what to do.
    logging.getLogger("apache_beam.runners.common").setLevel(logging.CRITICAL)
    logging.getLogger("apache_beam.runners.worker.worker_pool_main").setLevel(logging.ERROR)
