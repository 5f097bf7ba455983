"""Near-duplicates inside a set at several sizes: CPU seconds and peak memory of the pairs and of the groups.

    python -m bench.near_groups --hashes 100000 1000000 --images 1000000 10000000

--hashes: sets of random hashes, of which three in ten images are copies of another with up to 15 other bits;
the pairs are found as `--dedup near` finds them. --images: sets whose pairs are given, one for each copy and
one image in a thousand with 200 copies, joined to groups. Each size runs in a process of its own, so that its
peak memory is its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from bench.tables import show
from pipeline import schemas
from pipeline.balance import mix
from pipeline.fetch.parts import Merged
from pipeline.flow.runner import Runner
from pipeline.flow.steps import Shuffle, Step, Tasks, Work
from pipeline.near.groups import BANDS, BandShuffler
from pipeline.near.parts import EDGES, Groups, GroupTask, NearPairs
from pipeline.near.stars import uid_array
from pipeline.near.workers import GroupWorker

FILE_ROWS = 250_000
PARTITION_ROWS = 1_000_000


def uids(numbers: np.ndarray) -> np.ndarray:
    """Return a uid for each number, S16 [n]."""
    halves = np.stack(
        [mix(numbers.astype(np.uint64)), mix(numbers.astype(np.uint64) + np.uint64(1 << 40))], 1
    )
    return np.ascontiguousarray(halves).astype(">u8").view("S16").ravel()


def originals(count: int) -> np.ndarray:
    """Return for each image the image that it is a copy of, or itself; int64 [count]."""
    generator, number = np.random.default_rng(1), np.arange(count)
    source = np.where(generator.random(count) < 0.3, generator.integers(0, count, count), number)
    hubs = generator.integers(0, count, (max(1, count // 200_000), 1))
    copies = generator.integers(0, count, (len(hubs), 200))
    source[copies] = hubs
    return np.where(source[source] == source, source, number)  # a copy of a copy would be another


def write_images(folder: Path, count: int, hashed: bool) -> list[Merged]:
    """Write merged images, one caption each, and their hashes if these are wanted."""
    source, found = originals(count), []
    for start in range(0, count, FILE_ROWS):
        number = np.arange(start, min(start + FILE_ROWS, count))
        own = uids(number)
        order = np.argsort(own)
        side = pa.array((256 + number % 1_777).astype(np.int32)[order])
        columns = {"uid": uid_array(own[order]), "original_width": side, "original_height": side}
        if hashed:
            rows = hashes(source[number], number)[order]
            columns["phash"] = pa.array([row.tobytes().hex() for row in rows])
            columns["quality"] = pa.array(np.full(len(number), 100, np.int16))
        path = str(folder / f"images-{start:012d}.parquet")
        schemas.write_table(path, pa.table(columns))
        found.append(
            Merged(
                name=f"{start:012d}", round=0, path=path, rejects="", counts="", rows=len(number),
                samples=len(number), rejected={},
            )
        )  # fmt: skip
    return found


def hashes(source: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Return the hash of each image's original with up to 15 other bits, uint8 [n, 32]."""
    words = np.stack([mix(source.astype(np.uint64) + np.uint64((k + 1) << 42)) for k in range(4)], 1)
    for k in range(15):
        turned = mix(number.astype(np.uint64) + np.uint64((k + 9) << 42))
        bit = np.where(source == number, np.uint64(0), np.uint64(1)) << (turned & np.uint64(63))
        words[np.arange(len(number)), (turned >> np.uint64(6)) % np.uint64(4)] ^= bit
    return np.ascontiguousarray(words).view(np.uint8)


def write_pairs(folder: Path, count: int) -> Iterator[NearPairs]:
    """Write the pair of each copy and its original."""
    source = originals(count)
    copies = np.flatnonzero(source != np.arange(count))
    for start in range(0, len(copies), FILE_ROWS):
        part = copies[start : start + FILE_ROWS]
        a, b = uids(source[part]), uids(part)
        first, last = np.where(a < b, a, b), np.where(a < b, b, a)
        columns = [uid_array(first), uid_array(last), pa.array(np.full(len(part), 9, np.int16))]
        path = str(folder / f"pairs-{start:012d}.parquet")
        schemas.write_table(path, pa.Table.from_arrays(columns, schema=EDGES))
        yield NearPairs(name=f"{start:012d}", path=path, edges=len(part), beyond=0)


def measured(step: Step) -> tuple[float, float]:
    """Run a step here; return its CPU seconds and this process's peak memory in MB."""
    began = time.process_time()
    Runner(workers=1).run([step])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return time.process_time() - began, peak


def find_pairs(folder: Path, count: int) -> dict[str, float]:
    tasks, out = write_images(folder, count, hashed=True), str(folder / "pairs")
    partitions = -(-BANDS * count // PARTITION_ROWS)
    step = Shuffle(
        label="pairs", folder=out, plan=lambda: Work(tasks=tasks, partitions=partitions),
        shuffler=BandShuffler(folder=out),
    )  # fmt: skip
    seconds, peak = measured(step)
    return {"seconds": seconds, "peak": peak, "pairs": sum(one.edges for one in step.results(NearPairs))}


def find_groups(folder: Path, count: int) -> dict[str, float]:
    merged, pairs = write_images(folder, count, hashed=False), list(write_pairs(folder, count))
    task = GroupTask(
        name="groups", merged=tuple(one.path for one in merged), pairs=tuple(one.path for one in pairs),
        edges=sum(one.edges for one in pairs), beyond=0,
    )  # fmt: skip
    out = str(folder / "groups")
    step = Tasks(
        label="groups", folder=out, plan=lambda: Work(tasks=[task]), worker=GroupWorker(path=f"{out}/groups")
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds, peak = measured(step)
    [found] = step.results(Groups)
    return {
        "seconds": seconds, "peak": peak, "before": before, "pairs": found.pairs, "groups": found.groups,
        "removed": found.removed,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hashes", type=int, nargs="*", default=[])
    parser.add_argument("--images", type=int, nargs="*", default=[])
    parser.add_argument("--one", choices=("pairs", "groups"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        with tempfile.TemporaryDirectory() as folder:
            work = find_pairs if args.one == "pairs" else find_groups
            print(json.dumps(work(Path(folder), (args.hashes or args.images)[0])))
        return
    rows = []
    for kind, flag, counts in (("pairs", "--hashes", args.hashes), ("groups", "--images", args.images)):
        for count in counts:
            argv = [sys.executable, "-m", "bench.near_groups", "--one", kind, flag, str(count)]
            said = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
            found = json.loads(said.splitlines()[-1])
            each, before = 1e6 * found["seconds"] / count, found.get("before", 0)
            figures = (f"{found['pairs']:,}", f"{found['seconds']:,.1f}", f"{each:.2f}")
            rows.append((kind, f"{count:,}", *figures, f"{found['peak']:,.0f}", f"{before:,.0f}"))
    columns = ("step", "images", "pairs", "CPU s", "us an image", "peak MB", "of these before")
    show("near-duplicates inside a set", columns, rows)


if __name__ == "__main__":
    main()
