"""Kill commands at random, again and again, and compare the results with undisturbed commands.

    python -m bench.kills [--kills 100] [--seed 0] [--job crawl --job pages ...]

A small web is served on loopback. Six jobs on it are done once undisturbed: a crawl of its pages in a WARC
file, a crawl that fetches the pages itself from a sitemap, a crawl that looks for near-duplicates,
`--retry-failed` on a run whose sites were deferred, `--extend` of a run of half of the images by the others,
and a takedown. Then each is started again, in turn, from the same state, and killed with SIGKILL, all its
processes at once, after a random time; the same command continues in the same folder until it comes to its
end, when every shard, row and count must be that of the undisturbed job. After --kills kills a table of the
killed steps and one line of JSON are printed. Exit code 1 if anything ended otherwise. Processes are forked
from a process that has imported everything, so that a kill hits the work and not the start.
"""

import argparse
import contextlib
import itertools
import json
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

import pipeline.candidates.steps
import pipeline.finish.steps
import pipeline.report  # noqa: F401 - imported before the forks
from bench import tables
from pipeline import extend, run_folder
from pipeline.cli import main as crawl
from pipeline.demo.server import serve
from pipeline.demo.web import Web, build
from pipeline.run_folder import Layout
from pipeline.takedown.cli import main as takedown
from tests.crawling import arguments, contents, samples, settle

_OPTIONS = (
    "--workers", "1", "--per-query", "3", "--headroom", "1", "--rounds", "3", "--unit-images", "15",
    "--partition-rows", "100", "--samples-per-shard", "20", "--piece-bytes", "4000",
)  # fmt: skip
_PUT_OFF = ("--host-delay", "0.02", "--unit-seconds", "0.04")
"""Two images of a site per round: the rest is for --retry-failed."""

_MOST = 6  # kills of one job, then it may end: a machine that is busier than at first would never let it
JOBS = ("crawl", "pages", "near", "retry", "extend", "takedown")


@dataclass(frozen=True, kw_only=True)
class Job:
    """A command on one folder, and its expected result."""

    name: str
    out: Path
    command: Callable[..., int]
    """Takes flags for Beam; returns the exit code."""
    before: Path | None = None
    """State of the folder before the command."""
    seconds: float = 0.0
    """Its time undisturbed."""
    expected: dict[str, Any] = field(default_factory=dict)

    def reset(self) -> None:
        """Put the folder into its state before."""
        shutil.rmtree(self.out, ignore_errors=True)
        if self.before is not None:
            shutil.copytree(self.before, self.out)

    def found(self) -> dict[str, Any]:
        """Return the files and rows that must be equal."""
        if self.name != "takedown":
            return contents(self.out)
        return {
            str(path.relative_to(self.out)): path.read_bytes()
            for path in sorted(self.out.rglob("*"))
            if path.is_file() and path.name not in ("workers.log", "lock")
        }


def main() -> int:
    """Serve, do, kill, compare; print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="decides when the kills come")
    parser.add_argument("--job", action="append", choices=JOBS, help="only this one; may be repeated")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="openwit-kills-") as folder:
        web = build(Path(folder) / "web", seed=2, n_images=60, n_sites=15, evaluation_sets=False)
        with serve(web):
            settle(web)
            jobs = list(undisturbed(web, Path(folder), options.job or JOBS))
            found = repeat(jobs, options.kills, random.Random(options.seed))
    show(*found)
    return 1 if found[2] else 0


def undisturbed(web: Web, folder: Path, names: Sequence[str]) -> Iterator[Job]:
    """Yield the jobs, each done once."""
    out = folder / "run"
    argv = arguments(web, out, *_OPTIONS)
    pages = ["--source", web.sitemap, "--source-format", "pages"]
    once = [*argv, "--rounds", "1", *_PUT_OFF]
    assert life(lambda: crawl(once)) == 0
    out.rename(folder / "put-off")
    first, second = halves(web, folder)
    assert life(lambda: crawl([*without_source(argv), "--source", first])) == 0
    out.rename(folder / "half")
    victim = sorted(samples(folder / "put-off"), key=lambda row: row["uid"])[0]["url"]
    near = ("--dedup", "near", "--dedup-limit", "1")
    commands: dict[str, Callable[..., int]] = {
        "crawl": lambda *more: crawl([*argv, *more]),
        "pages": lambda *more: crawl([*without_source(argv), *pages, *more]),
        "near": lambda *more: crawl([*argv, *near, *more]),
        "retry": lambda *more: crawl([*argv, "--rounds", "1", "--retry-failed", *more]),
        "extend": lambda *more: (
            crawl(["--extend", str(out), "--source", second, *more]) if is_to_extend(out) else 0
        ),
        "takedown": lambda: takedown(["--run", str(out), "--url", victim]),
    }
    for name in names:
        state = {"retry": "put-off", "takedown": "put-off", "extend": "half"}.get(name)
        before = folder / state if state else None
        job = Job(name=name, out=out, command=commands[name], before=before)
        job.reset()
        started = time.monotonic()
        assert life(job.command) == 0, f"{name} fails undisturbed"
        seconds = time.monotonic() - started
        yield Job(
            name=name, out=out, command=job.command, before=before, seconds=seconds, expected=job.found()
        )


def is_to_extend(out: Path) -> bool:
    """Return whether an extension that was killed has not come to its end; after it, it would be refused."""
    manifest = json.loads((out / "manifest.json").read_text())
    return not manifest.get("extensions") or extend.under_way(str(out)) is not None


def halves(web: Web, folder: Path) -> tuple[str, str]:
    """Write the web's list of images as two, and return their paths."""
    table = pq.read_table(web.folder / "urls.parquet")
    paths = [str(folder / f"{name}.parquet") for name in ("first", "second")]
    for path, part in zip(paths, (table[: len(table) // 2], table[len(table) // 2 :]), strict=True):
        pq.write_table(part, path)
    return paths[0], paths[1]


def without_source(argv: list[str]) -> list[str]:
    """Return the arguments without --source and its value."""
    at = argv.index("--source")
    return argv[:at] + argv[at + 2 :]


def repeat(
    jobs: list[Job], kills: int, rng: random.Random
) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """Do the jobs in turn until `kills` kills have come; return hits, and jobs done and ended otherwise."""
    hits: Counter[str] = Counter()
    done: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for job in itertools.cycle(jobs):
        if hits.total() >= kills:
            return hits, done, wrong
        job.reset()
        # A takedown begins again each time, so a later takedown must be able to come to its end.
        reach = job.seconds * (1.5 if job.name == "takedown" else 0.6)
        code, lives = None, 0
        while code is None:
            lives += 1
            is_last = hits.total() >= kills or lives > _MOST
            code = life(job.command, () if is_last else (rng.uniform(0, reach),))
            if code is None:
                hits[f"{job.name}: {stage_of(job)}"] += 1
        found = job.found() if code == 0 else {}
        differing = [
            name for name in job.expected.keys() | found.keys() if found.get(name) != job.expected.get(name)
        ]
        strays = list(job.out.rglob(".*.tmp*"))
        done[job.name] += 1
        if code or differing or strays:
            wrong[job.name] += 1
            sys.stderr.write(f"{job.name}: exit code {code}, differs in {differing[:9]}, strays {strays}\n")
        sys.stderr.write(f"{hits.total()} kills, {done.total()} jobs, {wrong.total()} wrong\n")
    raise AssertionError("a cycle has no end")


def life(
    command: Callable[[], int], waits: Iterable[float] = (), strike: Callable[[int], bool] | None = None
) -> int | None:
    """Do it in a process group of its own; return the exit code, or None if it was killed.

    waits: seconds until it is killed.
    strike: called after each of them with the group's id instead, to kill something else; returns whether it
    was this.
    """
    seconds = iter(waits)
    child = os.fork()
    if not child:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(null, descriptor)
        try:
            os._exit(command())
        finally:  # whatever it raises is not for the callers, whose folders and servers are the parent's
            os._exit(1)
    deadline = time.monotonic() + next(seconds, math.inf)
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            with contextlib.suppress(ProcessLookupError):  # a job server that it would have ended at its exit
                kill_group(child)
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline:
            if (strike or kill_group)(child):
                os.waitpid(child, 0)
                return None
            deadline = time.monotonic() + next(seconds, math.inf)
        time.sleep(0.002)


def is_running(child: int) -> bool:
    """Return whether a process that `life` has started goes on; that it has ended stays for `life` to see."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def kill_group(group: int) -> bool:
    """Kill all processes of a group."""
    os.killpg(group, signal.SIGKILL)
    return True


def stage_of(job: Job) -> str:
    """Return in which stage a command was killed."""
    if job.name == "takedown":
        return "under way" if (job.out / "takedown.json").exists() else "before or after"
    layout = extend.under_way(str(job.out)) or Layout(str(job.out))
    done = [stage for stage in run_folder.STAGES if run_folder.is_done(layout, stage)]
    begun = [stage for stage in run_folder.STAGES if Path(layout.stage(stage, "begun.stage")).exists()]
    if begun and begun[-1] not in done:
        return begun[-1]
    return "before the first stage" if not begun else f"after {begun[-1]}"


def show(hits: Counter[str], done: Counter[str], wrong: Counter[str]) -> None:
    """Print the killed steps and the results."""
    title = f"{hits.total()} kills in {done.total()} jobs, of which {wrong.total()} ended otherwise"
    tables.show(title, ("killed in", "times"), [(stage, str(n)) for stage, n in sorted(hits.items())])
    found = {"kills": hits.total(), "jobs": dict(done), "wrong": dict(wrong)}
    print(json.dumps({**found, "killed_in": dict(sorted(hits.items()))}))


if __name__ == "__main__":
    sys.exit(main())
