"""Seconds that a job takes to start on a runner, and the time that each task adds.

    python -m bench.job_start --runner flink [--standalone] [--tasks 1 1000]

Jobs of tasks that do nothing, a job for each number of tasks; the first job starts the job server. Prints a
line of JSON for each job: seconds from its submission to its first task and to its end, and the CPU seconds
of all descendants of this process.
"""

import argparse
import contextlib
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench import cluster, usage
from pipeline.flow.parts import Part
from pipeline.flow.runner import Runner


@dataclass(frozen=True)
class Idle:
    """A worker that does nothing: when it did is the time of its marker."""

    def open(self) -> None:
        """Load nothing."""

    def run(self, state: None, task: Part) -> Part:
        """Return the task."""
        return task


def job(folder: Path, number: int, flags: tuple[str, ...], tasks: int) -> dict[str, object]:
    """Run one job and return its times."""
    given = [Part(name=f"{number:06d}") for number in range(tasks)]
    before, cpu = time.time(), usage.cpu_seconds()
    out = folder / f"job-{number}"
    Runner(flags=flags, name=f"start-{number}").tasks("idle", str(out), given, Idle(), Part)
    first = min((out / f"{task.name}.json").stat().st_mtime for task in given)
    return {
        "job": "first of its command" if not number else "next",
        "tasks": tasks,
        "first_task_s": round(first - before, 1),
        "end_s": round(time.time() - before, 1),
        "cpu_s": round(usage.cpu_seconds() - cpu, 1),
    }


def main() -> None:
    """Measure each number of tasks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runner", choices=list(cluster.KINDS), required=True)
    parser.add_argument("--standalone", action="store_true", help="on a cluster of several processes")
    parser.add_argument("--tasks", type=int, nargs="+", default=[1, 1000])
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="openwit-start-")))
        runner = cluster.started(options.runner, folder, is_standalone=options.standalone)
        flags, _ = stack.enter_context(runner)
        for number, tasks in enumerate(options.tasks):
            found = job(folder, number, flags, tasks)
            print(json.dumps({"bench": "job_start", "runner": options.runner, **found}), flush=True)


if __name__ == "__main__":
    from bench import job_start  # workers know its classes by that name

    job_start.main()
