"""Where training samples come from: finished runs and plain WebDatasets, counted exactly before training."""

import functools
import logging
import mmap
import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline import dropped, finished, storage, untrusted
from pipeline.dropped import Dropped
from train import images, tar
from train.cache import Cache

log = logging.getLogger(__name__)

_THREADS = 8
_PROBES = 32


@dataclass(frozen=True, eq=False)
class Shard:
    """Name a tar and the samples taken of it: the first `samples`, or those at the places `kept` (int32)."""

    path: str
    samples: int
    kept: NDArray[np.int32] | None = None

    @property
    def count(self) -> int:
        """Return how many samples are taken."""
        return self.samples if self.kept is None else len(self.kept)


@dataclass(frozen=True, eq=False)
class Source:
    """Hold one `--shards` argument: its shards, and how often an epoch passes over its samples."""

    name: str
    shards: tuple[Shard, ...]
    weight: float = 1.0

    @property
    def count(self) -> int:
        """Return how many samples the source has."""
        return sum(shard.count for shard in self.shards)

    @property
    def share(self) -> int:
        """Return how many samples an epoch takes."""
        return round(self.count * self.weight)


class Subset:
    """Decide by uid what is taken, from Parquet files with a column `uid`."""

    def __init__(self, drop: Sequence[str], keep: Sequence[str]) -> None:
        self._drop = _uids(drop) if drop else None
        self._keep = _uids(keep) if keep else None

    def __bool__(self) -> bool:
        """Return whether anything is to be decided."""
        return self._drop is not None or self._keep is not None

    def taken(self, uids: Sequence[str]) -> NDArray[np.int32]:
        """Return the places of the uids that are taken."""
        wanted = np.ones(len(uids), bool)
        asked = np.array(uids, dtype="S64")
        if self._drop is not None:
            wanted &= ~_isin(asked, self._drop)
        if self._keep is not None:
            wanted &= _isin(asked, self._keep)
        return np.flatnonzero(wanted).astype(np.int32)


def _uids(paths: Sequence[str]) -> NDArray[np.bytes_]:
    parts = []
    for path in paths:
        files = storage.glob(path)
        if not files:
            raise ValueError(f"{path}: no such file")
        for file in files:
            with storage.open_input(file) as opened:
                parquet = pq.ParquetFile(opened)
                if "uid" not in parquet.schema_arrow.names:
                    raise ValueError(
                        f"{file} has no column uid; it has {', '.join(parquet.schema_arrow.names)}"
                    )
                parts.append(parquet.read(["uid"])["uid"].cast(pa.binary()).to_numpy().astype("S64"))
    return np.unique(np.concatenate(parts))


def _isin(asked: NDArray[np.bytes_], values: NDArray[np.bytes_]) -> NDArray[np.bool_]:
    if not len(values):
        return np.zeros(len(asked), bool)
    places = np.searchsorted(values, asked).clip(max=len(values) - 1)
    found: NDArray[np.bool_] = values[places] == asked
    return found


def resolve(
    shards: Sequence[str], weights: Sequence[float], drop: Sequence[str], keep: Sequence[str], cache: Cache
) -> list[Source]:
    """Return the sources that `--shards` names, every sample counted; ValueError if one has none."""
    if weights and len(weights) != len(shards):
        raise ValueError(
            f"--weights has {len(weights)} numbers for {len(shards)} --shards: give one for each"
        )
    if any(weight <= 0 for weight in weights):
        raise ValueError("--weights must be positive: how often an epoch passes over each --shards")
    subset = Subset(drop, keep)
    sources = []
    for index, name in enumerate(shards):
        found, gone = _list(name)
        with ThreadPoolExecutor(_THREADS) as pool:
            counted = list(pool.map(functools.partial(_count, subset=subset, gone=gone, cache=cache), found))
        source = Source(name, tuple(s for s in counted if s.count), weights[index] if weights else 1.0)
        if not source.shards:
            raise ValueError(f"--shards {name}: {len(found)} shards, but no sample to train on")
        sources.append(source)
    return sources


def _list(name: str) -> tuple[list[Shard], Dropped]:
    """Return a source's shards, and what of a run's shards was dropped when it was extended.

    Shards that are not counted by a manifest or sizes.json have -1 samples.
    """
    folder = not name.endswith((".tar", ".gz", ".tgz"))
    if folder and storage.exists(storage.join(name, "manifest.json")):
        manifest = finished.of(name, whole=False)
        listed = [
            Shard(storage.join(name, "shards", shard["name"]), shard.get("samples", -1))
            for shard in manifest["shards"]
        ]
        return listed, dropped.of_run(name, manifest)
    if folder and storage.exists(storage.join(name, "shards")):
        raise ValueError(f"--shards {name}: the run has no manifest.json; finish it with `openwit crawl`")
    paths = [path for part in name.split("::") for one in _expand(part) for path in _files(one)]
    if not paths:
        raise ValueError(
            f"--shards {name}: nothing is there; give a run's folder, a .tar or a pattern of them"
        )
    sizes = {folder: _sizes(folder) for folder in {posixpath.dirname(path) for path in paths}}
    shards = [Shard(p, sizes[posixpath.dirname(p)].get(posixpath.basename(p), -1)) for p in paths]
    return shards, dropped.NOTHING


def _expand(pattern: str) -> list[str]:
    from braceexpand import braceexpand

    return list(braceexpand(pattern))


def _files(path: str) -> list[str]:
    if not path.endswith((".tar", ".gz", ".tgz")) and not any(c in path for c in "*?["):
        return storage.list_files(path, ".tar")
    return storage.glob(path)


def _sizes(folder: str) -> dict[str, int]:
    path = storage.join(folder, "sizes.json") if folder else "sizes.json"
    sizes = untrusted.read_json(path)
    if not isinstance(sizes, dict):
        return {}  # of another writer: the samples are counted
    return {name: n for name, n in sizes.items() if isinstance(n, int) and n >= 0}


def _count(shard: Shard, subset: Subset, gone: Dropped, cache: Cache) -> Shard:
    name = posixpath.basename(shard.path)
    decided = bool(subset) or bool(gone.keys(name))
    if not decided and shard.samples >= 0:
        return shard

    def taken(uids: list[str], keys: list[str]) -> NDArray[np.int32]:
        places = subset.taken(uids) if subset else np.arange(len(uids), dtype=np.int32)
        return places[gone.stays(name, keys)[places]]

    parquet = storage.sibling(shard.path, ".parquet")
    if shard.samples >= 0 and storage.exists(parquet):
        with storage.open_input(parquet) as file:
            table = pq.ParquetFile(file)
            if table.metadata.num_rows == shard.samples and {"uid", "key"} <= set(table.schema_arrow.names):
                rows = table.read(["uid", "key"])
                return Shard(
                    shard.path, shard.samples, taken(rows["uid"].to_pylist(), rows["key"].to_pylist())
                )
    with OpenShard(str(cache.local(shard.path))) as opened:
        if opened.damage:
            log.warning("%s: %s", shard.path, opened.damage)
        if not decided:
            return Shard(shard.path, len(opened))
        found = [opened.row(i) for i in range(len(opened))]
        uids, keys = ([str(row.get(column, "")) for row in found] for column in ("uid", "key"))
        return Shard(shard.path, len(opened), taken(uids, keys))


class OpenShard:
    """Read samples of a local tar at random, through a memory map."""

    def __init__(self, path: str) -> None:
        with open(path, "rb") as file:  # noqa: PTH123 - a descriptor for mmap
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with memoryview(self._map) as view:
            self._rows, self.incomplete, self.damage = tar.index(view)
        if hasattr(mmap, "MADV_WILLNEED"):
            self._map.madvise(mmap.MADV_WILLNEED)

    def __enter__(self) -> "OpenShard":
        return self

    def __exit__(self, *error: object) -> None:
        self._map.close()

    def __len__(self) -> int:
        """Return the samples that have an image and a text."""
        return len(self._rows)

    def image(self, place: int) -> bytes:
        """Return the encoded image."""
        return self._part(place, 0)

    def text(self, place: int) -> str:
        """Return the text member, or an empty string."""
        return self._part(place, 2).decode("utf-8", "replace")

    def row(self, place: int, bad: Counter[str] | None = None) -> dict[str, object]:
        """Return the JSON member; an empty row where there is none, or, counted in `bad`, it is no object."""
        try:
            return untrusted.parse_row(self._part(place, 4) or b"{}")
        except ValueError:
            if bad is not None:
                bad["bad_json"] += 1
            return {}

    def captions(self, place: int, row: dict[str, object]) -> list[str]:
        """Return what is not blank of the row's `captions`, else of the text, else of its `caption`."""
        listed = row.get("captions")
        found = listed if isinstance(listed, list) and listed else [self.text(place) or row.get("caption")]
        return [text for text in found if isinstance(text, str) and text.strip()]

    def _part(self, place: int, column: int) -> bytes:
        offset, size = self._rows[place, column : column + 2]
        return self._map[offset : offset + size]


def captions(sources: Sequence[Source], limit: int, cache: Cache) -> Iterator[str]:
    """Yield about `limit` captions, the same number from the start of every shard (at most 1,000 shards)."""
    every = [shard for source in sources for shard in source.shards]
    chosen = every[:: max(1, len(every) // 1_000)]
    for shard in chosen:
        with OpenShard(str(cache.local(shard.path))) as opened:
            places = range(len(opened)) if shard.kept is None else shard.kept
            for place in places[: -(-limit // len(chosen))]:
                yield from opened.captions(place, opened.row(place))


def refuse_small(source: Source, size: int, cache: Cache) -> None:
    """Raise ValueError if half the pictures of a source are smaller than the model's resolution."""
    shard = source.shards[0]
    with OpenShard(str(cache.local(shard.path))) as opened:
        places = np.linspace(0, max(len(opened) - 1, 0), min(_PROBES, len(opened))).astype(int)
        sides = []
        for place in places:
            try:
                sides.append(min(images.size_of(opened.image(place))))
            except images.BadImage:
                continue
    if sides and np.median(sides) < size:
        raise ValueError(
            f"--shards {source.name}: pictures with a shorter side of about {np.median(sides):.0f} pixels "
            f"for a model of {size}; crawl with --image-size {size} or more, train with a smaller "
            "--image-size, or enlarge them with --enlarge"
        )
