"""The manifest of a finished run: its inputs, options and versions, and the check that its counts add up."""

import importlib.metadata
import json
import platform
import re
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from pipeline import checked_manifest, config, pilot, publishing, run_folder, schemas, storage
from pipeline.balance import EVERYTHING
from pipeline.checked_manifest import (
    Counts,
    Crawled,
    Manifest,
    ManifestRound,
    ManifestShard,
    NearDuplicates,
    QueryTotals,
)
from pipeline.fetch.parts import Round
from pipeline.flow.parts import Part
from pipeline.options import CrawlConfig
from pipeline.publishing import StageOptions
from pipeline.reasons import REASONS
from pipeline.run_folder import Layout
from pipeline.shards import ShardFile, read_shard
from pipeline.stages import Candidates, Rounds

QUERY_COUNTS: Final = pa.schema(
    [
        ("query_id", pa.int32()), ("query", pa.string()), ("matched", pa.int64()), ("kept", pa.int64()),
        ("present", pa.int64()), ("short", pa.int64()), ("untried", pa.int64()), ("threshold", pa.uint64()),
    ]
)  # fmt: skip
_EXTENSION = re.compile(r"/extension-(\d+)-[^/]*$")
_PACKAGES = [
    "aiohttp", "apache-beam", "can-ada", "fasttext-predict", "fastwarc", "numpy", "opencv-python-headless",
    "pillow", "protego", "publicsuffixlist", "pyarrow", "selectolax", "simplejpeg",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Shard(Part):
    """A shard that was written; its files are in the folder of shards, as the manifest lists them."""

    samples: int
    bytes: int
    sha256: str
    parquet_sha256: str

    @property
    def entry(self) -> ManifestShard:
        """Return its entry in the manifest."""
        return ManifestShard(**{**asdict(self), "name": f"{self.name}.tar"})


@dataclass(frozen=True, kw_only=True)
class NewSet:
    """The samples that a crawl or an extension has written, before the manifest names them."""

    samples: int
    captions: int
    shards: tuple[Shard, ...]
    rejected: dict[str, int]
    """Candidates by "stage/reason"."""
    rejected_sampled: bool
    dropped: int
    """Samples of the run that an extension drops."""
    dropped_captions: int
    dropped_rows: tuple[str, ...]
    """Tables of them."""
    queries: QueryTotals
    near_duplicates: NearDuplicates | None
    crawled: Crawled


def versions() -> dict[str, str]:
    """Return the versions of the packages that may change the bytes of a run."""
    found = {"python": platform.python_version(), "machine": platform.machine(), "openwit": own_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def own_version() -> str:
    """Return openwit's version, or 0 where it is not installed."""
    try:
        return importlib.metadata.version("openwit")
    except importlib.metadata.PackageNotFoundError:
        return "0"


def write_json(path: str, value: object) -> None:
    """Publish readable JSON with sorted keys."""
    storage.write_bytes(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def write(path: str, manifest: Manifest) -> None:
    """Publish a manifest, after all that it names."""
    write_json(path, checked_manifest.encode(manifest))


def write_sizes(layout: Layout, shards: Iterable[ManifestShard]) -> None:
    """Publish sizes.json: the samples of each shard by its name, as other readers of shards take them."""
    sizes = {shard.name: shard.samples for shard in shards}
    write_json(storage.join(layout.shards, "sizes.json"), sizes)


def counts_of(candidates: int, captions: int, samples: int, rejected: dict[str, int]) -> Counts:
    """Return the manifest's counts; RuntimeError if a candidate is lost or counted twice.

    rejected: candidates by "stage/reason".
    """
    by_stage: dict[str, dict[str, int]] = {}
    for key, count in rejected.items():
        stage, _, reason = key.partition("/")
        assert reason in REASONS, f"{reason} is not in the closed set of reasons"
        by_stage.setdefault(stage, {})[reason] = count
    total = sum(rejected.values())
    if candidates != captions + total:
        raise RuntimeError(
            f"the counts do not add up: {candidates} candidates, but {captions} captions in shards and "
            f"{total} rejected; please report this, and keep the run's work/ folder"
        )
    return Counts(
        candidates=candidates, captions=captions, samples=samples, rejected=total, rejected_by_stage=by_stage
    )


def write_query_counts(
    path: str,
    queries: list[str],
    per_query: int,
    *,
    matched: np.ndarray,
    untried: np.ndarray,
    kept_present: np.ndarray,
    thresholds: np.ndarray | None = None,
) -> QueryTotals:
    """Publish query_counts.parquet and return its totals.

    short: the samples a query lacks although there was more to try, min(per_query - kept, untried); untried:
    matched - tried. threshold: a query keeps the samples of the set whose priority is not above it (all of
    them, if `thresholds` is not given).
    """
    kept, present = kept_present
    assert (kept <= per_query).all(), "a query keeps more than --per-query samples"
    short = np.minimum(per_query - kept, untried)
    thresholds = np.full(len(queries), EVERYTHING) if thresholds is None else thresholds
    columns = [np.arange(len(queries)), queries, matched, kept, present, short, untried, thresholds]
    arrays = [pa.array(column, kind) for column, kind in zip(columns, QUERY_COUNTS.types, strict=True)]
    table = pa.Table.from_arrays(arrays, schema=QUERY_COUNTS)
    schemas.write_table(path, table)
    return QueryTotals(
        queries=len(queries), matched=int((matched > 0).sum()), full=int((kept == per_query).sum()),
        short=int((short > 0).sum()),
    )  # fmt: skip


def describe_shard(base: str, name: str, rows: pa.Table, tar: ShardFile) -> Shard:
    """Write BASE_stats.json and BASE.parquet beside a written tar."""
    stats = {
        "count": len(rows), "successes": len(rows), "failed_to_download": 0, "failed_to_resize": 0,
        "status_dict": {"success": len(rows)}, "tar_bytes": tar.bytes, "tar_sha256": tar.sha256,
    }  # fmt: skip
    storage.write_bytes(f"{base}_stats.json", json.dumps(stats, sort_keys=True, indent=1).encode())
    schemas.write_table(f"{base}.parquet", rows)  # last: it says that the shard holds something
    parquet = storage.sha256_file(f"{base}.parquet")
    return Shard(name=name, samples=len(rows), bytes=tar.bytes, sha256=tar.sha256, parquet_sha256=parquet)


def round_entries(rounds: Iterable[Round]) -> tuple[ManifestRound, ...]:
    """Return the manifest's entries for rounds of fetching."""
    return tuple(ManifestRound(images=one.images, bytes=one.bytes, reasons=one.reasons) for one in rounds)


def rejected_files(layout: Layout, manifest: Manifest) -> list[str]:
    """Return the files of rejected rows that count; an unfinished extension may have left others."""
    count = len(manifest.extensions)
    return [
        path
        for path in storage.list_files(layout.rejected, ".parquet")
        if (number := _EXTENSION.search(path)) is None or int(number[1]) <= count
    ]


def of_crawl(
    layout: Layout, options: CrawlConfig, new_set: NewSet, fingerprints: dict[str, str],
    semantics: StageOptions,
) -> Manifest:  # fmt: skip
    """Return the manifest of a run that was not extended."""
    candidates = run_folder.done(layout, Candidates)
    rounds = run_folder.done(layout, Rounds).rounds
    shards = tuple(shard.entry for shard in new_set.shards)
    yields = None
    if options.sample < 1:
        yields = pilot.yields(pilot.pieces_read(layout), candidates, rounds, shards)
    return Manifest(
        configuration=publishing.publishable(config.effective(options)), semantics=semantics,
        fingerprints=fingerprints, versions=versions(), seed=options.seed, crawled=new_set.crawled,
        counts=counts_of(candidates.candidates, new_set.captions, new_set.samples, new_set.rejected),
        rejected_sampled=new_set.rejected_sampled, images_seen=candidates.images,
        rounds=round_entries(rounds), queries=new_set.queries, near_duplicates=new_set.near_duplicates,
        shards=shards, pilot=yields,
    )  # fmt: skip


def verify_shards(layout: Layout, names: Collection[str] | None = None) -> list[str]:
    """Return the faults of the shards: hashes, counts, tar against Parquet; [] if nothing.

    names: of the shards to look at, all if it is not given.
    """
    problems: list[str] = []
    for shard in _shards(layout):
        if names is not None and shard.name not in names:
            continue
        tar = storage.join(layout.shards, shard.name)
        parquet = storage.sibling(tar, ".parquet")
        wrong = []
        for path, expected in ((tar, shard.sha256), (parquet, shard.parquet_sha256)):
            if not storage.exists(path):
                wrong.append(f"{path} is missing")
            elif storage.sha256_file(path) != expected:
                wrong.append(f"{path} has another sha256 than the manifest")
        problems += wrong
        if not wrong:
            keys = schemas.read_table(parquet, ["key"])["key"].to_pylist()
            with storage.open_input(tar) as file:
                inside = [sample.key for sample in read_shard(file)]
            if keys != inside or len(keys) != shard.samples:
                problems.append(f"{tar} and {parquet} do not hold the same {shard.samples} keys")
    return problems


def _shards(layout: Layout) -> tuple[ManifestShard, ...]:
    manifest = checked_manifest.read(layout.published)
    return manifest.shards if manifest is not None else ()


def stray_shards(layout: Layout) -> list[str]:
    """Return the faults of the names in the folder of the shards; [] if nothing."""
    stems = {storage.stem(shard.name) for shard in _shards(layout)}
    return [
        f"{path} is not in the manifest"
        for kind in (".tar", ".parquet")
        for path in storage.list_files(layout.shards, kind)
        if storage.stem(path) not in stems
    ]
