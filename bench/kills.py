"""Kill a crawl at random, again and again, and see that what it ends in is the same.

    python -m bench.kills [--kills 100] [--seed 0]

A small web is served on loopback and crawled once undisturbed. Then crawls are started in new folders and
killed with SIGKILL, all their processes at once, after a random time; the same command goes on in the same
folder until it comes to its end, when every shard, row and count must be that of the undisturbed run. After
--kills kills the last crawl is finished, and a table of the stages that were hit and one line of JSON are
printed. Exit code 1 if any crawl ended otherwise. Processes are forked from one that has imported everything,
so that a kill hits the work and not the start.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

import pipeline.crawl
import pipeline.report  # noqa: F401 - imported before the forks
from pipeline import run
from pipeline.cli import main as crawl
from pipeline.demo.server import serve
from pipeline.demo.web import Web, build
from pipeline.run import Layout
from tests.crawling import arguments, contents, settle

_OPTIONS = (
    "--workers", "1", "--per-query", "3", "--headroom", "1", "--rounds", "2", "--unit-images", "15",
    "--partition-rows", "100", "--samples-per-shard", "20", "--piece-bytes", "4000",
)  # fmt: skip


def main() -> int:
    """Serve, crawl, kill, compare; print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="decides when the kills come")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="openwit-kills-") as folder:
        web = build(Path(folder) / "web", seed=2, n_images=60, n_sites=15)
        with serve(web):
            return repeat(web, Path(folder), options.kills, random.Random(options.seed))


def repeat(web: Web, folder: Path, kills: int, rng: random.Random) -> int:
    """Run crawls until `kills` kills have come; return the exit code."""
    settle(web)
    started = time.monotonic()
    assert life(web, folder / "undisturbed", None) == 0
    longest = time.monotonic() - started
    expected = contents(folder / "undisturbed")
    hits: Counter[str] = Counter()
    crawls = wrong = 0
    while hits.total() < kills:
        out = folder / f"crawl-{crawls}"
        while (code := life(web, out, rng.uniform(0, longest / 2))) is None:
            hits[stage_of(out)] += 1
            if hits.total() >= kills:
                code = life(web, out, None)
                break
        found = contents(out) if code == 0 else {}
        differing = [part for part in expected if found.get(part) != expected[part]]
        strays = list(out.rglob(".*.tmp*"))
        if code or differing or strays:
            wrong += 1
            sys.stderr.write(f"crawl {crawls}: exit code {code}, differs in {differing}, strays {strays}\n")
        crawls += 1
        shutil.rmtree(out)
        sys.stderr.write(f"{hits.total()} kills, {crawls} crawls, {wrong} wrong\n")
    show(hits, crawls, wrong, longest)
    return 1 if wrong else 0


def life(web: Web, out: Path, seconds: float | None) -> int | None:
    """Crawl in a process group of its own; return the exit code, or None if it was killed after `seconds`."""
    child = os.fork()
    if not child:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(null, descriptor)
        os._exit(crawl(arguments(web, out, *_OPTIONS)))
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if deadline is not None and time.monotonic() >= deadline:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.002)


def stage_of(out: Path) -> str:
    """Return in which stage a crawl was killed."""
    layout = Layout(str(out))
    done = [stage for stage in run.STAGES if run.done(layout, stage) is not None]
    begun = [stage for stage in run.STAGES if (out / "work" / stage / "begun.stage").exists()]
    if begun and begun[-1] not in done:
        return begun[-1]
    return "before the first stage" if not begun else f"after {begun[-1]}"


def show(hits: Counter[str], crawls: int, wrong: int, longest: float) -> None:
    """Print what was hit and what came of it."""
    Console().print(f"{hits.total()} kills in {crawls} crawls, of which {wrong} ended otherwise")
    table = Table()
    table.add_column("killed in")
    table.add_column("times", justify="right")
    for stage, count in sorted(hits.items(), key=lambda item: -item[1]):
        table.add_row(stage, str(count))
    Console().print(table)
    found = {"kills": hits.total(), "crawls": crawls, "wrong": wrong, "undisturbed_s": round(longest, 1)}
    print(json.dumps({**found, "killed_in": dict(sorted(hits.items()))}))


if __name__ == "__main__":
    sys.exit(main())
