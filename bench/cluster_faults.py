"""Let a worker's disk be full, and the object store be gone, while a crawl runs on a cluster.

    python -m bench.cluster_faults --runner flink [--fault disk --fault store]

A small crawl, whose files go to an object store on loopback (moto), is done on this machine; then, for each
fault, on the runner: Prism, or a cluster of Flink or Spark of several processes here. disk: every second
worker process has no room for temporary files (a tmpfs: needs root), until the command has failed. store:
once units are being fetched the store closes each connection without an answer, for a minute. The same
command goes on until it is done, when every shard, row and count must be that of the run on this machine.
Prints a line of JSON for each fault; exit code 1 if anything ended otherwise.
"""

import argparse
import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from bench import cluster, standalone
from pipeline.cli import main as crawl
from pipeline.demo.server import serve
from pipeline.demo.web import Web, build
from tests import pool, s3
from tests.crawling import arguments, contents, settle

FAULTS: Final = ("disk", "store")
_GONE: Final = 60.0  # seconds
_LIVES: Final = 4
_ROOM: Final = 16_384  # bytes, for a marker and not for a table


class Cramped(pool.Forking):
    """A pool of which every second worker has no room for temporary files."""

    folder = ""
    """A file system that is full."""
    started = 0

    def target(self) -> Callable[[str, str], None]:
        """Return the next worker's task."""
        self.started += 1
        return functools.partial(cramped, self.folder) if self.started % 2 else pool.work


def cramped(folder: str, control: str, worker: str) -> None:
    """Be a worker whose temporary files go into a folder."""
    tempfile.tempdir = folder
    pool.work(control, worker)


def cramped_pool(folder: str, port: int) -> None:
    """Serve until killed."""
    Cramped.folder = folder
    _kept = Cramped.start(port=port)
    threading.Event().wait()


@contextlib.contextmanager
def full(folder: Path) -> Iterator[Path]:
    """Make a file system in a new folder that is full; yield the file that fills it."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], check=True)
    try:
        filler, free = folder / "filler", os.statvfs(folder)
        filler.write_bytes(bytes(free.f_bavail * free.f_frsize - _ROOM))
        yield filler
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def command(argv: Sequence[str]) -> tuple[int, str]:
    """Crawl in a process of its own; return the exit code and its last words."""
    words = [sys.executable, "-m", "beam_job", "crawl", *argv]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.returncode, " ".join(done.stderr.strip().splitlines()[-3:])[:400] if done.returncode else ""


def until_done(
    argv: Sequence[str], nodes: standalone.Standalone | None, mend: Callable[[], None]
) -> list[tuple[int, str]]:
    """Run the same command until it is done; `mend` is called when it has failed."""
    codes = [command(argv)]
    while codes[-1][0] and len(codes) < _LIVES:
        mend()
        if nodes:
            nodes.cancel_jobs()
        codes.append(command(argv))
    return codes


def disk(name: str, folder: Path, argv: list[str], store: s3.Store) -> list[tuple[int, str]]:
    """Crawl with a pool whose workers have no room, until they have."""
    where = folder / "full"
    code = f"from bench.cluster_faults import cramped_pool; cramped_pool({str(where)!r}, {{port}})"
    with full(where) as filler, _started(name, folder, "-c", code) as (flags, nodes):
        return until_done([*argv, *flags], nodes, lambda: filler.unlink(missing_ok=True))


def gone(store: s3.Store, prefix: str) -> None:
    """Let the store answer nothing for a while, from when something with that prefix is there."""
    while not store.keys(prefix):
        time.sleep(0.2)
    sys.stderr.write("the store is gone\n")
    store.proxy.lose = lambda number, method, path: True
    time.sleep(_GONE)
    store.proxy.lose = lambda number, method, path: False
    sys.stderr.write("the store is back\n")


def lost(name: str, folder: Path, argv: list[str], store: s3.Store) -> list[tuple[int, str]]:
    """Crawl while the store is gone for a minute."""
    with _started(name, folder) as (flags, nodes):
        threading.Thread(target=gone, args=(store, "store/work/fetch/round-0/"), daemon=True).start()
        return until_done([*argv, *flags], nodes, lambda: None)


@contextlib.contextmanager
def _started(
    name: str, folder: Path, *start: str
) -> Iterator[tuple[tuple[str, ...], standalone.Standalone | None]]:
    with cluster.started(name, folder, is_standalone=name != "prism", start=start) as found:
        yield found


def arguments_of(web: Web, store: s3.Store, name: str) -> list[str]:
    """Return the arguments of the crawl whose run has that name."""
    argv = arguments(
        web, Path("unused"), "--workers", "1", "--lang", "any", "--per-query", "3", "--rounds", "2",
        "--unit-images", "15", "--partition-rows", "100", "--samples-per-shard", "20",
    )  # fmt: skip
    argv[argv.index(str(web.queries))] = f"{store.url}/queries.txt"
    argv[argv.index(str(web.warc))] = f"{store.url}/urls.parquet"
    argv[argv.index("--out") + 1] = f"{store.url}/{name}"
    return argv


def main() -> int:
    """Crawl with each fault; return 1 if a run ended otherwise than undisturbed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runner", choices=("flink", "spark", "prism"), required=True)
    parser.add_argument("--fault", action="append", choices=FAULTS, help="only this one; may be repeated")
    options = parser.parse_args()
    is_wrong = False
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="openwit-faults-")))
        [port] = standalone.free_ports(1)
        web = build(folder / "web", seed=2, n_images=60, n_sites=15, port=port, evaluation_sets=False)
        stack.enter_context(serve(web))
        store = stack.enter_context(s3.serve())
        settle(web)
        for name in ("queries.txt", "urls.parquet"):
            store.client.upload_file(str(web.folder / name), s3.BUCKET, name)
        assert crawl(arguments_of(web, store, "local")) == 0
        expected = contents(store.download("local", folder))
        for fault in options.fault or FAULTS:
            (folder / f"of-{fault}").mkdir()
            run = {"disk": disk, "store": lost}[fault]
            started = time.monotonic()
            codes = run(options.runner, folder / f"of-{fault}", arguments_of(web, store, fault), store)
            found: dict[str, Any] = {} if codes[-1][0] else contents(store.download(fault, folder))
            differing = [part for part in expected if found.get(part) != expected[part]]
            is_wrong |= bool(differing)
            print(json.dumps({
                "bench": "cluster_faults", "runner": options.runner, "fault": fault, "commands": codes,
                "seconds": round(time.monotonic() - started), "differing": differing,
            }), flush=True)  # fmt: skip
    return 1 if is_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
