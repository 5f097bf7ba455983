"""Pairs that a detector finds in a set, beside those of hashes: `--dedup near --detector FILE`.

Each image is described once, whole, and all pairs are compared exactly: mirrored images and crops, which
share no band of their hashes, are found too. The detectors belong to `dedup`, which stands on this package,
so they are named here and imported when they are needed.
"""

import pkgutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schemas, storage
from pipeline.extend.parts import Stored
from pipeline.fetch.parts import Merged
from pipeline.near.groups import MIN_QUALITY, RADIUS, arrived_images, stored_images
from pipeline.near.parts import EDGES, LOOKS, CompareTask, Looks, NearPairs
from pipeline.near.stars import uid_array, uids_of
from pipeline.shards import read_shard

WRONG: Final = 0.001
"""Images, as a share of the set, that may be merged into an unlike image: the threshold's meaning."""
_DETECTOR: Final = "dedup.detector.in_set:SetDetector"
_THRESHOLD: Final = "dedup.detector.thresholds:threshold"
_TILE: Final = 2_048  # images compared at a time with as many: 16 MiB of products

F32 = npt.NDArray[np.float32]
F16 = npt.NDArray[np.float16]


class Described(NamedTuple):
    """A file's n images; fields only."""

    vectors: F32
    """[n, d]: unit vectors."""
    biases: F32
    """[n]: the amounts subtracted from their similarities; infinite for an image that cannot be decoded."""
    pairs: int
    """Pairs of the first images, which were all compared."""
    unrelated: tuple[float, ...]
    """The highest similarities of these, without pairs that do show the same picture."""


class Detector(Protocol):
    """A detector as `dedup.detector.in_set` has it."""

    name: str
    """Of its content."""

    def describe(self, images: Iterable[bytes]) -> Described:
        """Describe images, each the bytes of a JPEG; ValueError if the detector fails."""

    def close(self) -> None:
        """End its process."""


def load(path: str) -> Detector:
    """Return the detector in a file; ValueError, in one line, if it cannot be used."""
    try:
        found: Detector = pkgutil.resolve_name(_DETECTOR)(path)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"--detector {path} needs {error.name}: pip install 'openwit[crawl,overlap,train]'"
        ) from error
    return found


def threshold(files: Iterable[Looks]) -> float:
    """Return the least similarity at which at most `WRONG` of the images have an unlike partner."""
    files = list(files)
    images = sum(one.images for one in files)
    unrelated = np.array([x for one in files for x in one.unrelated], np.float32)
    if not len(unrelated):
        return 1.0
    # Every image is compared with half of the others.
    found = pkgutil.resolve_name(_THRESHOLD)(
        unrelated, sum(one.pairs for one in files), images, max(1, images // 2), 1 - WRONG
    )
    return round(float(found), 6)


@dataclass(frozen=True, kw_only=True)
class LooksWorker:
    """Describe the images of a file, those of equal hashes once."""

    folder: str
    staging: str
    detector: str
    """Its file."""
    merged_before: str = ""
    """As of `BandShuffler`."""

    def open(self) -> Detector:
        """Load the detector, once a process."""
        return load(self.detector)

    def run(self, detector: Detector, task: Merged | Stored) -> Looks:
        """Write NAME.parquet."""
        if isinstance(task, Stored):
            table = _distinct(stored_images(task))
            images = _in_shard(task.shard, table)
        else:
            table = _distinct(arrived_images(task, self.merged_before, ("blob", "offset", "length")))
            table = table.filter(pc.greater(table["length"], 0))  # after a retry some have no bytes
            images = _staged(self.staging, table)
        found = detector.describe(images)
        rows = np.column_stack([found.vectors, found.biases]).astype("<f2")
        path = storage.join(self.folder, f"{task.name}.parquet")
        vectors = pa.array([row.tobytes() for row in rows], pa.binary())
        uids = table["uid"].combine_chunks()
        schemas.write_table(path, pa.Table.from_arrays([uids, vectors], schema=LOOKS))
        return Looks(
            name=task.name, path=path, images=len(table),
            pairs=found.pairs, unrelated=found.unrelated,
        )  # fmt: skip


def _distinct(table: pa.Table) -> pa.Table:
    """Return the images with enough detail, the first of each hash: the others are joined to it already."""
    table = table.filter(pc.greater_equal(table["quality"], MIN_QUALITY))
    _, first = np.unique(np.array(table["phash"].to_pylist(), "S64"), return_index=True)
    return table.take(pa.array(np.sort(first), pa.int64()))


def _staged(staging: str, table: pa.Table, block: int = 256) -> Iterator[bytes]:
    places = [table[name].to_pylist() for name in ("blob", "offset", "length")]
    ranges = [(storage.join(staging, f"{b}.blob"), at, at + n) for b, at, n in zip(*places, strict=True)]
    for start in range(0, len(ranges), block):
        yield from storage.read_ranges(ranges[start : start + block])


def _in_shard(rows: str, table: pa.Table) -> Iterator[bytes]:
    """Yield the images of a table, in its order, from the tar beside a shard's Parquet file."""
    wanted = {uid.hex() for uid in table["uid"].to_pylist()}
    uids = schemas.read_table(rows, ["uid"])["uid"].to_pylist()
    with storage.open_input(storage.sibling(rows, ".tar")) as file:
        samples = zip(uids, read_shard(file), strict=True)
        found = {uid: sample.jpg for uid, sample in samples if uid in wanted}
    for uid in table["uid"].to_pylist():
        yield found[uid.hex()]


@dataclass(frozen=True, kw_only=True)
class CompareWorker:
    """Compare all images of a file with those of itself and of others."""

    folder: str

    def open(self) -> None:
        """Load nothing."""

    def run(self, state: None, task: CompareTask) -> NearPairs:
        """Write NAME.parquet with the pairs."""
        uids, vectors, biases = _read(task.file)
        tables = [EDGES.empty_table()]
        for other in (task.file, *task.others):
            theirs = (uids, vectors, biases) if other is task.file else _read(other)
            for a, b in _similar((vectors, biases), theirs[1:], task.threshold):
                if other is task.file:
                    a, b = a[a < b], b[a < b]
                tables.append(_edges(uids[a], theirs[0][b]))
        edges = pa.concat_tables(tables).sort_by([("a", "ascending"), ("b", "ascending")])
        path = storage.join(self.folder, f"{task.name}.parquet")
        schemas.write_table(path, edges)
        return NearPairs(name=task.name, path=path, edges=len(edges), beyond=0)


def compare_tasks(arrived: list[Looks], stored: Sequence[Looks] = ()) -> list[CompareTask]:
    """Return a task for each file of arrived images, with the files that it is compared with."""
    least = threshold([*arrived, *stored])
    return [
        CompareTask(name=one.name, file=one, others=(*arrived[n + 1 :], *stored), threshold=least)
        for n, one in enumerate(arrived)
    ]


def _read(file: Looks) -> tuple[npt.NDArray[np.bytes_], F16, F16]:
    """Return uids [n], vectors [n, d] and biases [n]."""
    table = schemas.read_table(file.path)
    raw = b"".join(table["vector"].to_pylist())
    rows = np.frombuffer(raw, "<f2").reshape(len(table), -1 if len(table) else 1)
    return uids_of(table["uid"]), rows[:, :-1], rows[:, -1]


def _similar(
    ours: tuple[F16, F16], theirs: tuple[F16, F16], least: float
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Yield the rows of pairs at or above a similarity: ([n, d], [n]) against ([m, d], [m])."""
    for first in range(0, len(ours[0]), _TILE):
        mine = [part[first : first + _TILE].astype(np.float32) for part in ours]
        for start in range(0, len(theirs[0]), _TILE):
            other = [part[start : start + _TILE].astype(np.float32) for part in theirs]
            products = mine[0] @ other[0].T
            products -= mine[1][:, None] + other[1]
            a, b = np.nonzero(products >= least)
            yield a + first, b + start


def _edges(one: npt.NDArray[np.bytes_], other: npt.NDArray[np.bytes_]) -> pa.Table:
    """Return EDGES, at the largest distance that hashes have: they only say that two are not the same."""
    swap = one > other
    first, second = np.where(swap, other, one), np.where(swap, one, other)
    distance = pa.array(np.full(len(first), RADIUS, np.int16))
    return pa.Table.from_arrays([uid_array(first), uid_array(second), distance], schema=EDGES)
