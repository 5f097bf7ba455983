"""Run every job on Flink, Spark, Prism or Beam's portable job service, and compare with a local run.

    python -m bench.engines
    python -m bench.cluster
    python -m bench.cluster --runner flink --at .engines/beam-runners-flink-1.19-2.62.0.jar

The Python code runs in four processes of a worker pool (EXTERNAL), as on the nodes of a cluster; Flink and
Spark run inside their job servers unless a flag names a master. Without --runner all that are here are run,
and for each that is not, a line says what is missing: `bench.engines` fetches its file, or --at or the
environment names it. Other flags go to Beam, such as --flink_master. Prints one line of JSON a runner; exit
code 1 if a file differs or a job failed.
"""

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from bench import engines, standalone
from pipeline.demo.server import serve
from pipeline.demo.web import Web, build
from tests import pool
from tests.jobs import COMMANDS, run, write_inputs, written

PROCESSES: Final = 4


class Kind(NamedTuple):
    """Say what a runner needs, and the flags that use it."""

    variable: str
    """Of the environment, with the path of the file that it needs; empty if it needs none."""
    pattern: str
    """Of the file in .engines/."""
    file: str
    flags: tuple[str, ...]
    needs_java: bool


KINDS: Final = {
    "flink": Kind(
        "OPENWIT_FLINK_JAR", "beam-runners-flink-*.jar", "Beam's Flink job server, a .jar",
        ("--runner=FlinkRunner", "--flink_job_server_jar={file}", f"--parallelism={PROCESSES}",
         f"--sdk_worker_parallelism={PROCESSES}"), True,
    ),
    "spark": Kind(
        "OPENWIT_SPARK_JAR", "beam-runners-spark-*.jar", "Beam's Spark job server, a .jar",
        ("--runner=SparkRunner", "--spark_job_server_jar={file}",
         f"--sdk_worker_parallelism={PROCESSES}"), True,
    ),
    "prism": Kind("OPENWIT_PRISM", "prism", "Beam's Prism, a program", ("--runner=PrismRunner",
                  "--prism_location={file}"), False),
    "portable": Kind("", "", "", pool.PORTABLE, False),
}  # fmt: skip


def file_of(name: str, given: str = "") -> str:
    """Return the path of the file that a runner needs, or "" if none; ValueError if it is not here."""
    kind = KINDS[name]
    if not kind.variable:
        return ""
    fetched = [str(path) for path in engines.FOLDER.glob(kind.pattern)]
    path = given or os.environ.get(kind.variable, "") or max(fetched, default="")
    if not path:
        raise ValueError(
            f"{kind.file} is needed: fetch it by `make engines`, or give its path with --at or in "
            f"{kind.variable}"
        )
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file")
    if kind.needs_java and not shutil.which("java"):
        raise ValueError("java is not installed")
    return path


@contextlib.contextmanager
def started(
    name: str, folder: Path, *, file: str = "", is_standalone: bool = False, start: Sequence[str] = ()
) -> Iterator[tuple[tuple[str, ...], standalone.Standalone | None]]:
    """Start a worker pool, and a cluster of several processes if asked to; yield the flags that use them.

    Their files go into `folder`; `file` is a file that the runner needs, found by `file_of` unless given;
    `start` the arguments of another pool than the tests' own.
    """
    flags = [flag.format(file=file or file_of(name)) for flag in KINDS[name].flags]
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(pool.listening(folder, *start))
        stack.enter_context(pool.processes(PROCESSES))
        nodes = None
        if is_standalone:
            nodes = stack.enter_context(standalone.cluster(name, folder / f"cluster-{name}"))
        yield (*flags, *pool.flags(port), *(nodes.flags if nodes else ())), nodes


def compare(
    name: str, flags: Sequence[str], root: Path, web: Web, jobs: Sequence[str] = tuple(COMMANDS)
) -> dict[str, object]:
    """Run jobs on a runner and, where that has not been done, locally; return the results."""
    differing, seconds = list[str](), dict[str, float]()
    for job in jobs:
        if not (root / "local" / f"{job}.done").exists():
            run(job, root, web, root / "local", "--workers", "1")
            (root / "local" / f"{job}.done").touch()
        start = time.monotonic()
        run(job, root, web, root / name, *flags)
        seconds[job] = round(time.monotonic() - start, 1)
        found, expected = written(job, root / name), written(job, root / "local")
        differing += [f"{job}: {part}" for part in expected if found[part] != expected[part]]
    return {"bench": "cluster", "runner": name, "seconds": seconds, "differing": differing}


def main() -> int:
    """Run the jobs on the runners that are here; return 1 if a file differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runner", choices=list(KINDS), help="by default every one that is here")
    parser.add_argument("--at", default="", help="path of the file that --runner needs")
    parser.add_argument(
        "--standalone", action="store_true", help="start a cluster of --runner, flink or spark, for it"
    )
    parser.add_argument("--job", action="append", choices=COMMANDS, help="only this one; may be repeated")
    given, more = parser.parse_known_args()
    if given.at and not given.runner:
        parser.error("--at goes with --runner")
    failed = False
    with tempfile.TemporaryDirectory(prefix="openwit-cluster-") as folder:
        root = Path(folder)
        with serve(build(root / "web", seed=1, n_images=520, n_sites=130)) as server:
            write_inputs(root, server.web)
            for name in [given.runner] if given.runner else KINDS:
                try:
                    file = file_of(name, given.at)
                except ValueError as error:
                    sys.stderr.write(f"{name}: skipped, {error}\n")
                    continue
                with started(name, root, file=file, is_standalone=given.standalone) as (flags, _):
                    jobs = given.job or tuple(COMMANDS)
                    result = compare(name, (*flags, *more), root, server.web, jobs)
                print(json.dumps(result), flush=True)
                failed |= bool(result["differing"])
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
