"""Where training samples come from: finished runs and plain WebDatasets, counted exactly before training."""

import contextlib
import functools
import logging
import mmap
import os
import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline import checked_manifest, dropped_samples, patterns, storage, untrusted
from pipeline.dropped_samples import Dropped
from pipeline.images.headers import SUFFIXES
from train import image_transforms, online_balance, tar
from train.cache import Cache
from train.caption_fields import CaptionFields
from train.online_balance import OnlineBalance
from train.score_filter import Listed, ScoreFilter

log = logging.getLogger(__name__)

OWN = CaptionFields()
_THREADS = 8
_PROBES = 32
_SUFFIXES = 8  # that a message names


@dataclass(frozen=True, eq=False)
class CountedShard:
    """Name a tar and the samples taken of it: the first `samples`, or those at the places `kept` (int32)."""

    path: str
    samples: int
    kept: NDArray[np.int32] | None = None

    @property
    def count(self) -> int:
        """Return how many samples are taken."""
        return self.samples if self.kept is None else len(self.kept)


@dataclass(frozen=True, eq=False)
class ShardSource:
    """Hold one `--shards` argument: its shards, and how often an epoch passes over its samples."""

    name: str
    shards: tuple[CountedShard, ...]
    weight: float = 1.0
    left_out: str = ""
    """The reasons for which samples of its shards cannot be trained on, in words."""
    balance: OnlineBalance | None = None
    """Which samples each epoch takes, where they are drawn again."""

    @property
    def count(self) -> int:
        """Return how many samples the source has."""
        return sum(shard.count for shard in self.shards)

    @property
    def epochs(self) -> int:
        """Return after how many epochs nothing new is to be said of them."""
        return len(self.balance.sizes) if self.balance else 1

    def share(self, epoch: int) -> int:
        """Return the number of samples per epoch."""
        return int(self.counts(epoch).sum()) if self.balance else round(self.count * self.weight)

    def counts(self, turn: int) -> NDArray[np.int64]:
        """Return how many samples of each shard a pass takes, int64 [shards]."""
        counts = self.balance.sizes[turn] if self.balance else [shard.count for shard in self.shards]
        return np.asarray(counts, np.int64)

    def places(self, shard: int, turn: int, low: int, high: int) -> NDArray[np.int32]:
        """Return the places in a shard of the samples `low` to `high` that a pass takes of it."""
        kept = self.balance.drawn(shard, turn) if self.balance else self.shards[shard].kept
        return np.arange(low, high, dtype=np.int32) if kept is None else kept[low:high]


class Subset:
    """Decide what is taken: by uid, from Parquet files with a column `uid`, and by scores."""

    def __init__(self, drop: Sequence[str], keep: Sequence[str], scores: ScoreFilter | None) -> None:
        self._drop = _uids(drop) if drop else None
        self._keep = _uids(keep) if keep else None
        self.scores = scores

    def __bool__(self) -> bool:
        """Return whether anything is to be decided."""
        return self._drop is not None or self._keep is not None or self.scores is not None

    def taken(self, uids: Sequence[str]) -> NDArray[np.int32]:
        """Return the places of the uids that are taken, int32 [k]."""
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


@dataclass(kw_only=True)
class Seen:
    """Add up the oddities of a source's shards beside its samples."""

    left_out: Counter[str] = field(default_factory=Counter)
    """As `tar.TarIndex` has it, and `no_text`: JSON without a caption."""
    suffixes: Counter[str] = field(default_factory=Counter)
    keys: tuple[str, ...] = ()
    """Of a JSON without a caption."""
    damage: str = ""
    """Of the first damaged shard."""

    def __iadd__(self, other: "Seen") -> "Seen":
        """Add the counts of another shard."""
        self.left_out += other.left_out
        self.suffixes += other.suffixes
        self.keys, self.damage = self.keys or other.keys, self.damage or other.damage
        return self

    def __str__(self) -> str:
        """Return the sources that cannot be trained on and why, empty if there are none."""
        causes = {
            "no_image": "{:,} without an image",
            "no_caption": "{:,} images without a caption",
            "no_text": f"{{:,}} whose .json has no caption (it has {', '.join(self.keys) or 'nothing'})",
            "again": "{:,} keys that come again (the parts of a sample must stand together)",
        }
        said = [text.format(self.left_out[why]) for why, text in causes.items() if self.left_out[why]]
        if self.left_out["no_image"] or self.left_out["no_caption"]:
            found = [f".{suffix} ({count:,})" for suffix, count in self.suffixes.most_common(_SUFFIXES)]
            said.append(
                f"suffixes found: {', '.join(found)}; wanted: .txt or .json, and one of "
                f".{', .'.join(SUFFIXES)}, from the first dot of the name on"
            )
        return "; ".join([*said, *([self.damage] if self.damage else [])])


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Say how samples are drawn again in each epoch."""

    cap: int
    """Samples that an epoch draws for a query, on average, where more contain it."""
    seed: int
    epochs: int


def resolve(
    shards: Sequence[str], weights: Sequence[float], drop: Sequence[str], keep: Sequence[str], cache: Cache,
    *, keep_if: str = "", captions: CaptionFields | None = OWN, draws: Draws | None = None,
) -> list[ShardSource]:  # fmt: skip
    """Return the sources that `--shards` names, every sample counted; ValueError if a source has none.

    captions: leave out samples without a caption in these fields, where that is to be looked up. keep_if: as
    `score_filter` reads it.
    """
    if weights and len(weights) != len(shards):
        raise ValueError(
            f"--weights has {len(weights)} numbers for {len(shards)} --shards: give one for each"
        )
    if any(weight <= 0 for weight in weights):
        raise ValueError("--weights must be positive: how often an epoch passes over each --shards")
    listed = [_list(name) for name in shards]
    scores = None
    if keep_if:
        named = zip(shards, listed, strict=True)
        every = [Listed(name, tuple(one.path for one in found), gone) for name, (found, gone) in named]
        scores = ScoreFilter(keep_if, every)
    subset = Subset(drop, keep, scores)
    sources = []
    for index, (name, (found, gone)) in enumerate(zip(shards, listed, strict=True)):
        count = functools.partial(_count, subset=subset, gone=gone, cache=cache, captions=captions)
        seen = Seen()
        with ThreadPoolExecutor(_THREADS) as pool:
            counted = []
            for shard, own in pool.map(count, found):
                counted.append(shard)
                seen += own
        weight, left_out = weights[index] if weights else 1.0, str(seen)
        source = ShardSource(name, tuple(s for s in counted if s.count), weight, left_out)
        if not source.shards:
            why = f": {left_out}" if left_out else ""
            raise ValueError(
                f"--shards {name}: {len(found)} {'shard' if len(found) == 1 else 'shards'}, "
                f"but no sample to train on{why}"
            )
        if left_out:
            log.warning("--shards %s: left out: %s", name, left_out)
        sources.append(replace(source, balance=_balance(source, draws)) if draws else source)
    return sources


def _balance(source: ShardSource, draws: Draws) -> OnlineBalance:
    """Return which samples each epoch draws of a run; ValueError for anything that is no run of openwit."""
    counts = storage.join(source.name, "query_counts.parquet")
    if not storage.exists(counts):
        raise ValueError(
            f"--balance draws by queries, and --shards {source.name} has no query_counts.parquet: "
            "give the folder of a finished run of openwit"
        )
    with storage.open_input(counts) as file:
        table = pq.read_table(file, columns=["query_id", "query"])
    if not table["query_id"].equals(pa.chunked_array([pa.array(range(len(table)), pa.int32())])):
        raise ValueError(f"{counts}: its query ids are not 0, 1, 2, ...")
    found = online_balance.of_shards(
        [storage.sibling(shard.path, ".parquet") for shard in source.shards],
        [shard.kept for shard in source.shards], table["query"].to_pylist(), draws.cap,
        seed=draws.seed, epochs=draws.epochs,
    )  # fmt: skip
    if not found.sizes.sum(axis=1).all():
        raise ValueError(f"--shards {source.name}: none of its samples contains a query that it knows")
    return found


def _list(name: str) -> tuple[list[CountedShard], Dropped]:
    """Return a source's shards, and the samples of a run's shards that were dropped when it was extended.

    Shards that are not counted by a manifest or sizes.json have -1 samples.
    """
    folder = not name.endswith((".tar", ".gz", ".tgz", "}"))
    if folder and storage.exists(storage.join(name, "manifest.json")):
        run = checked_manifest.shards_of(name)
        listed = [
            CountedShard(
                storage.join(name, "shards", shard.name), -1 if shard.samples is None else shard.samples
            )
            for shard in run.shards
        ]
        return listed, dropped_samples.load(name, len(run.extensions))
    if folder and storage.exists(storage.join(name, "shards")):
        raise ValueError(f"--shards {name}: the run has no manifest.json; finish it with `openwit crawl`")
    paths = patterns.find(name, ".tar")
    if not paths:
        raise ValueError(
            f"--shards {name}: nothing is there; give a run's folder, a .tar or a pattern of them"
        )
    sizes = {folder: _sizes(folder) for folder in {posixpath.dirname(path) for path in paths}}
    shards = [CountedShard(p, sizes[posixpath.dirname(p)].get(posixpath.basename(p), -1)) for p in paths]
    return shards, dropped_samples.NOTHING


def _sizes(folder: str) -> dict[str, int]:
    path = storage.join(folder, "sizes.json") if folder else "sizes.json"
    sizes = untrusted.read_json(path)
    if not isinstance(sizes, dict):
        return {}  # of another writer: the samples are counted
    return {name: n for name, n in sizes.items() if isinstance(n, int) and n >= 0}


def _count(
    shard: CountedShard, *, subset: Subset, gone: Dropped, cache: Cache, captions: CaptionFields | None
) -> tuple[CountedShard, Seen]:
    name = posixpath.basename(shard.path)
    decided = bool(subset) or bool(gone.keys(name))
    if not decided and shard.samples >= 0:
        return shard, Seen()

    def taken(uids: list[str], keys: list[str]) -> NDArray[np.int32]:
        places = subset.taken(uids) if subset else np.arange(len(uids), dtype=np.int32)
        if subset.scores is not None:
            good = subset.scores.keys(shard.path)
            places = places[np.array([keys[place] in good for place in places], bool)]
        return places[gone.stays(name, keys)[places]]

    parquet = storage.sibling(shard.path, ".parquet")
    if shard.samples >= 0 and storage.exists(parquet):
        with storage.open_input(parquet) as file:
            table = pq.ParquetFile(file)
            if table.metadata.num_rows == shard.samples and {"uid", "key"} <= set(table.schema_arrow.names):
                rows = table.read(["uid", "key"])
                uids, keys = rows["uid"].to_pylist(), rows["key"].to_pylist()
                return CountedShard(shard.path, shard.samples, taken(uids, keys)), Seen()
    with OpenShard(str(cache.local(shard.path))) as opened:
        damage = f"{shard.path}: {opened.damage}" if opened.damage else ""
        seen = Seen(left_out=opened.left_out, suffixes=opened.suffixes, damage=damage)
        every = np.arange(len(opened), dtype=np.int32)
        kept = every
        if decided:
            found = [opened.row(i) for i in range(len(opened))]
            uids, keys = ([str(row.get(column, "")) for row in found] for column in ("uid", "key"))
            kept = taken(uids, keys)
        if captions is not None:
            kept = _captioned(opened, kept, seen, captions)
        return CountedShard(shard.path, len(opened), None if len(kept) == len(every) else kept), seen


def _captioned(
    opened: "OpenShard", places: NDArray[np.int32], seen: Seen, fields: CaptionFields
) -> NDArray[np.int32]:
    """Return the places with a caption; samples with neither a text nor a caption in JSON are counted."""
    without = []
    for place in places if fields.weights else places[~opened.has_text[places]]:
        row = opened.row(place)
        if not opened.captions(place, row, fields):
            without.append(place)
            seen.keys = seen.keys or tuple(sorted(row)[:_SUFFIXES])
    seen.left_out["no_text"] += len(without)
    return places[~np.isin(places, without)] if without else places


class OpenShard:
    """Read samples of a local tar at random, through a memory map."""

    def __init__(self, path: str) -> None:
        """Walk the tar's headers; an empty file is one without samples."""
        with open(path, "rb") as file:  # noqa: PTH123 - a descriptor for mmap
            size = os.fstat(file.fileno()).st_size
            flags = mmap.ACCESS_READ
            self._map = mmap.mmap(file.fileno(), 0, access=flags) if size else mmap.mmap(-1, 1, access=flags)
        with memoryview(self._map) as view:
            self._rows, self.left_out, self.suffixes, self.damage = tar.index(view)
        if not size:
            self.damage = "the file is empty"
        if hasattr(mmap, "MADV_WILLNEED"):
            self._map.madvise(mmap.MADV_WILLNEED)

    def __enter__(self) -> "OpenShard":
        return self

    def __exit__(self, *error: object) -> None:
        self._map.close()

    def __len__(self) -> int:
        """Return the samples that have an image and a text."""
        return len(self._rows)

    @property
    def has_text(self) -> NDArray[np.bool_]:
        """Return which samples have a text member that is not empty: bool [samples]."""
        found: NDArray[np.bool_] = self._rows[:, 3] > 0
        return found

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

    def captions(self, place: int, row: dict[str, object], fields: CaptionFields = OWN) -> list[str]:
        """Return the captions that are not blank of the fields.

        Without fields: of the row's `captions`, else of the text, else of its `caption`.
        """
        if fields.weights:
            return [text for own in fields.texts(row, self.text(place)) for text in own]
        listed = row.get("captions")
        found = listed if isinstance(listed, list) and listed else [self.text(place) or row.get("caption")]
        return [text for text in found if isinstance(text, str) and text.strip()]

    def caption(
        self, place: int, row: dict[str, object], fields: CaptionFields, random: np.random.Generator
    ) -> str | None:
        """Draw one of a sample's captions; None if it has none."""
        if fields.weights:
            return fields.draw(row, self.text(place), random)
        found = self.captions(place, row)
        if len(found) < 2:  # a draw among one leaves the generator as it was
            return found[0] if found else None
        return found[int(random.integers(len(found)))]

    def _part(self, place: int, column: int) -> bytes:
        offset, size = self._rows[place, column : column + 2].tolist()
        return self._map[offset : offset + size]


def captions(
    sources: Sequence[ShardSource], limit: int, cache: Cache, fields: CaptionFields = OWN
) -> Iterator[str]:
    """Yield about `limit` captions, the same number from the start of every shard (at most 1,000 shards)."""
    every = [shard for source in sources for shard in source.shards]
    chosen = every[:: max(1, len(every) // 1_000)]
    for shard in chosen:
        with OpenShard(str(cache.local(shard.path))) as opened:
            places = range(len(opened)) if shard.kept is None else shard.kept
            for place in places[: -(-limit // len(chosen))]:
                yield from opened.captions(place, opened.row(place), fields)


def refuse_small(source: ShardSource, size: int, cache: Cache) -> None:
    """Raise ValueError if half the pictures of a source are smaller than the model's resolution."""
    sides = []
    for image, _ in _probed(source, cache):
        with contextlib.suppress(image_transforms.BadImage):
            sides.append(min(image_transforms.size_of(image)))
    if sides and np.median(sides) < size:
        raise ValueError(
            f"--shards {source.name}: pictures with a shorter side of about {np.median(sides):.0f} pixels "
            f"for a model of {size}; crawl with --image-size {size} or more, train with a smaller "
            "--image-size, or enlarge them with --enlarge"
        )


def refuse_useless(source: ShardSource, cache: Cache, fields: CaptionFields = OWN) -> None:
    """Raise ValueError if of a source's first samples none has a picture that can be read, or a caption."""
    probed = list(_probed(source, cache, fields))
    wrong = []
    for image, captions in probed:
        if not captions:
            wrong.append("no caption")
            continue
        try:
            image_transforms.size_of(image)
        except image_transforms.BadImage as error:
            wrong.append(f"a picture that cannot be read ({error})")
    if probed and len(wrong) == len(probed):
        raise ValueError(
            f"--shards {source.name}: of {len(probed)} samples tried none can be trained on; the first has "
            f"{wrong[0]}"
        )


def _probed(
    source: ShardSource, cache: Cache, fields: CaptionFields = OWN
) -> Iterator[tuple[bytes, list[str]]]:
    """Yield the image and the captions of some samples of a source's first shard, evenly taken."""
    shard = source.shards[0]
    with OpenShard(str(cache.local(shard.path))) as opened:
        places = np.arange(len(opened)) if shard.kept is None else shard.kept
        places = places[places < len(opened)]
        for place in places[np.linspace(0, max(len(places) - 1, 0), min(_PROBES, len(places))).astype(int)]:
            yield opened.image(place), opened.captions(place, opened.row(place), fields)
