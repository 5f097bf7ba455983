"""Kill parts of a cluster at random while jobs run on it, and compare the results with undisturbed jobs.

    python -m bench.cluster_kills --runner flink [--kills 10] [--seed 0] [--job crawl --job retry ...]

The jobs are those of `bench.kills`, done once undisturbed on this machine. Then each is done on the runner:
Prism, or a cluster of Flink or Spark of several processes here (`bench.standalone`), the Python code in the
worker processes of a pool; first undisturbed, then again and again: after a random time a victim, chosen at
random, is killed with SIGKILL: a worker process, at once or when it has hung for a while (SIGSTOP), a task
manager (Flink) or executor (Spark), the job server, or the launcher. A task manager is started again, as
Kubernetes would; where the launcher or the job server was killed, the rest of the job is cancelled, as
docs/running.md asks. The same command goes on until the job is done, when every shard, row and count must be
that of the run on this machine. The server's log says how many images and pages were asked for again. Prints
tables and one line of JSON; exit code 1 if anything ended otherwise.
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench import cluster, kills, standalone, tables
from pipeline.demo.server import Server, serve
from pipeline.demo.web import build
from pipeline.processes import descendants
from tests.crawling import settle

JOBS: Final = ("crawl", "pages", "near", "retry", "extend")
VICTIMS: Final = ("worker", "worker that hung", "task manager", "executor", "job server", "launcher")
_LIVES: Final = 4  # of one job, then nothing is killed any more
_HANGS: Final = 20.0  # seconds until somebody kills it
_KILLS: Final = 2  # in one life: Flink and Spark give a task three more attempts


@dataclass
class Cluster:
    """A runner whose parts are killed, and the results."""

    name: str
    flags: tuple[str, ...]
    pool: int
    """Process id of the worker pool."""
    nodes: standalone.Standalone | None
    rng: random.Random
    kinds: tuple[str, ...] = ()
    """The victims that are wanted, of all by default."""
    hits: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    """How commands went on after a kill."""

    def strike(self, launcher: int, job: kills.Job) -> bool:
        """Kill something; return whether it was the launcher."""
        victims = self.victims(launcher)
        while self.kinds and not victims.keys() & set(self.kinds) and kills.is_running(launcher):
            time.sleep(0.1)  # between two jobs there is none
            victims = self.victims(launcher)
        victims = {kind: pids for kind, pids in victims.items() if kind in (self.kinds or victims)}
        if not victims:
            return False
        kind = self.rng.choice(sorted(victims))
        victim = self.rng.choice(victims[kind])
        self.hits[f"{kind}, in {kills.stage_of(job)}"] += 1
        if kind == "launcher":
            return kills.kill_group(launcher)  # with its job server
        with contextlib.suppress(ProcessLookupError):
            if kind == "worker that hung":
                os.kill(victim, signal.SIGSTOP)
                time.sleep(_HANGS)
            os.kill(victim, signal.SIGKILL)
        if kind == "task manager":
            assert self.nodes
            for name, process in self.nodes.running.items():
                if process.pid == victim:
                    process.wait()
                    self.nodes.start(name)
                    break
        return False

    def victims(self, launcher: int) -> dict[str, list[int]]:
        """Return the processes that can be killed now, by kind."""
        below = {pid: _command(pid) for pid in descendants(launcher)}
        servers = [pid for pid, command in below.items() if "job-port" in command or "job_port" in command]
        # Below the pool stands a process that imports everything once and forks the workers.
        workers = {pid for child in descendants(self.pool) for pid in descendants(child)}
        found = {
            "worker": sorted(workers),
            "worker that hung": sorted(workers),
            "job server": servers,
            "launcher": [launcher],
        }
        if self.name == "flink" and self.nodes:
            running = self.nodes.running
            found["task manager"] = [running[name].pid for name in running if name.startswith("task")]
        if self.name == "spark":
            everything = descendants()
            found["executor"] = [p for p in everything if "CoarseGrainedExecutorBackend" in _command(p)]
        return {kind: pids for kind, pids in found.items() if pids}

    def do(self, job: kills.Job, seconds: float, to_come: int) -> int:
        """Do a job to its end, with up to `to_come` kills, some `seconds` apart; return the exit code."""
        last = self.hits.total() + to_come
        for number in itertools.count():
            hits = self.hits.total()
            most = min(last - hits, _KILLS) if number < _LIVES else 0
            waits = [self.rng.uniform(0, 0.6 * seconds / (1 + kill)) for kill in range(most)]
            code = kills.life(
                lambda: job.command(*self.flags), waits, lambda launcher: self.strike(launcher, job)
            )
            if self.hits.total() > hits:
                self.ended["went on" if code == 0 else "the same command again"] += 1
                if code != 0 and self.nodes:
                    self.nodes.cancel_jobs()
            if code == 0 or not most:
                return code or 0
        raise AssertionError("the last life is left alone")


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return ""


def asked(server: Server) -> int:
    """Return how many images and pages have been asked for so far."""
    return sum(not str(request["path"]).endswith("robots.txt") for request in server.requests())


def differing(job: kills.Job, code: int) -> list[str]:
    """Return the differences between a job's files and those of the undisturbed job."""
    found = job.found() if code == 0 else {}
    return [name for name, value in job.expected.items() if found.get(name) != value]


def disturb(
    runner: Cluster, jobs: Sequence[kills.Job], server: Server, wanted: int
) -> tuple[Counter[str], int, dict[str, float]]:
    """Do all jobs undisturbed, then in turn until `wanted` kills.

    Returns the jobs that ended otherwise, how often something was asked for again, and each job's seconds.
    """
    wrong, again = Counter[str](), 0
    once, seconds = dict[str, int](), dict[str, float]()
    for job in itertools.chain(jobs, itertools.cycle(jobs)):
        left = wanted - runner.hits.total() if len(once) == len(jobs) else 0
        if len(once) == len(jobs) and left <= 0:
            break
        job.reset()
        before, started = asked(server), time.monotonic()
        code = runner.do(job, seconds.get(job.name, 0.0), left)
        requests = asked(server) - before
        seconds.setdefault(job.name, round(time.monotonic() - started, 1))
        again += requests - once.setdefault(job.name, requests)
        different = differing(job, code)
        wrong[job.name] += bool(code or different)
        said = f"exit code {code}, differs in {different}, {requests} requests of {once[job.name]}"
        sys.stderr.write(f"{runner.hits.total()} kills {dict(runner.hits)}, {job.name}: {said}\n")
    return wrong, again, seconds


def main() -> int:
    """Serve, do, kill, compare; print tables and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runner", choices=("flink", "spark", "prism"), required=True)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="decides what is killed, and when")
    parser.add_argument("--job", action="append", choices=JOBS, help="only this one; may be repeated")
    parser.add_argument("--victim", action="append", choices=VICTIMS, help="only this one; may be repeated")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="openwit-kills-")))
        [port] = standalone.free_ports(1)
        web = build(folder / "web", seed=2, n_images=60, n_sites=15, port=port, evaluation_sets=False)
        server = stack.enter_context(serve(web))
        settle(web)
        jobs = list(kills.undisturbed(web, folder, options.job or JOBS))
        is_standalone = options.runner != "prism"
        started = cluster.started(options.runner, folder, is_standalone=is_standalone)
        flags, nodes = stack.enter_context(started)
        rng = random.Random(options.seed)
        [listener] = [pid for pid in descendants() if "tests.pool" in _command(pid)]
        runner = Cluster(options.runner, flags, listener, nodes, rng, tuple(options.victim or ()))
        wrong, again, seconds = disturb(runner, jobs, server, options.kills)
    for title, found in (("killed", runner.hits), ("the command then", runner.ended)):
        rows = [(what, str(count)) for what, count in sorted(found.items())]
        tables.show(f"{runner.name}: {runner.hits.total()} kills", (title, "times"), rows)
    print(json.dumps({
        "bench": "cluster_kills", "runner": runner.name, "kills": runner.hits.total(), "hits": runner.hits,
        "ended": runner.ended, "wrong": wrong, "asked again": again, "seconds": seconds,
    }))  # fmt: skip
    return 1 if wrong.total() else 0


if __name__ == "__main__":
    sys.exit(main())
