"""The findings of a pilot: how much of its source became candidates, samples, images, bytes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline import checked_manifest, run_folder, schemas, storage
from pipeline.balance import I64
from pipeline.checked_manifest import Manifest
from pipeline.options.sources import format_of
from pipeline.run_folder import Layout, read_json
from pipeline.select.workers import SampleQueryPairs
from pipeline.stages import Candidates, Rounds, Selected

_FEW = 6  # times; more frequent sites are taken as they are


@dataclass(frozen=True)
class PilotPairs:
    """The matched samples of a pilot as (sample, query) pairs sorted by sample, and their sites."""

    sample: I64  # [pairs] 0 to samples - 1
    query: I64  # [pairs]
    matched: NDArray[np.float64]  # [Q] samples of each query
    sites: NDArray[np.float64]  # [sites] expected samples of each site, those not seen included
    samples: int


@dataclass(frozen=True, kw_only=True)
class Yields:
    """The results of the pieces that a pilot read."""

    pieces: float
    source_bytes: float
    """Stored bytes of the pieces."""
    format: str
    candidates: float
    """Captions found, good or bad."""
    rows: float
    """Captions that were accepted and matched, before URLs were deduplicated."""
    novelty: float
    """Share of the distinct URLs that were seen once: how fast reading more finds new ones."""
    tried: float
    """Images that were asked for."""
    arrived: float
    """Images that were fetched, decoded and kept by every filter."""
    fetched_bytes: float
    samples: float
    """Samples in the set."""
    stored_bytes: float
    """Bytes of the shards."""
    row_bytes: float
    """Bytes that cross shuffles for each row, compressed."""
    per_query: int
    balance: PilotPairs


def of_run(root: str) -> Yields:
    """Return the yields of a finished run; ValueError if it is not finished, or empty."""
    layout = Layout(root)
    manifest = checked_manifest.read(root)
    if manifest is not None and manifest.extensions:
        raise ValueError(f"{root} has been extended; take a run that was not, such as a pilot (--sample)")
    if manifest is None or not all(run_folder.is_done(layout, stage) for stage in run_folder.STAGES):
        raise ValueError(f"{root} is not a finished run: finish it with the command that began it")
    candidates, select, fetch = (
        run_folder.done(layout, Candidates),
        run_folder.done(layout, Selected),
        run_folder.done(layout, Rounds),
    )
    balance = balance_of([samples.path for samples in select.samples], manifest.queries.queries)
    if not balance.samples or not manifest.counts.samples:
        raise ValueError(f"{root} has no samples to learn from: try a larger share, or other queries")
    shards = [storage.join(layout.shards, shard.name) for shard in manifest.shards]
    parquet = sum(storage.file_info(storage.sibling(path, ".parquet")).size for path in shards)
    return Yields(
        pieces=len(candidates.pieces), source_bytes=source_bytes(layout),
        format=piece_format(layout, manifest), candidates=candidates.candidates, rows=candidates.rows,
        novelty=novelty([piece.path for piece in candidates.pieces]),
        tried=sum(one.images for one in manifest.rounds),
        arrived=sum(one.good for one in manifest.rounds),
        fetched_bytes=sum(one.bytes for one in manifest.rounds), samples=manifest.counts.samples,
        stored_bytes=sum(shard.bytes for shard in manifest.shards) + parquet,
        row_bytes=sum(storage.file_info(path).size for path in shuffled(candidates, select, fetch))
        / candidates.rows,
        per_query=manifest.per_query, balance=balance,
    )  # fmt: skip


def shuffled(candidates: Candidates, select: Selected, fetch: Rounds) -> list[str]:
    """Return the files whose rows cross a shuffle: candidates, samples into units, fetched images."""
    files = [piece.path for piece in candidates.pieces]
    files += [samples.path for samples in select.samples]
    return files + [unit.path for unit in fetch.units]


def balance_of(paths: list[str], queries: int) -> PilotPairs:
    """Read the samples that select found, of all partitions."""
    samples, query, sites = [], [], []
    total = 0
    for path in paths:
        table = schemas.read_table(path, ["uid", "url", "matched"])
        pairs = SampleQueryPairs.of(table, queries)
        samples.append(pairs.sample + total)
        query.append(pairs.query)
        total += len(pairs.starts)
        sites += site_names(table["url"].take(pairs.starts).to_pylist())
    of_pair = np.concatenate([np.zeros(0, np.int64), *samples])
    of_query = np.concatenate([np.zeros(0, np.int64), *query]).astype(np.int64)
    counts = np.unique(np.array(sites, object), return_counts=True)[1] if sites else np.zeros(0, np.int64)
    matched = np.bincount(of_query, minlength=queries).astype(float)
    return PilotPairs(of_pair, of_query, matched, smoothed(counts), total)


def smoothed(counts: np.ndarray) -> NDArray[np.float64]:
    """Return the expected images of each site, float64, for the counts of a sample.

    A site seen r times, r small, stands for (r + 1) f(r+1) / f(r), where f(r) sites were seen r times (Good
    1953); the remainder is on sites that were not seen, of which there are f1^2 / 2 f2 or more (Chao).
    """
    sizes = counts.astype(float)
    seen = np.bincount(np.minimum(counts, _FEW + 1), minlength=_FEW + 2)
    for times in range(1, _FEW):
        if seen[times] and seen[times + 1]:
            sizes[counts == times] = min(times, (times + 1) * seen[times + 1] / seen[times])
    left = counts.sum() - sizes.sum()
    unseen = max(1, round(seen[1] ** 2 / (2 * max(seen[2], 1))))
    return np.append(sizes, np.full(unseen, left / unseen)) if left > 0 else sizes


def site_names(addresses: list[str]) -> list[str]:
    """Return the registrable domain of each URL."""
    from pipeline.urls import canonical, site

    return [site(canonical(address)) for address in addresses]


def novelty(paths: list[str]) -> float:
    """Return the share of distinct (image, caption) rows' images that occur in one row of one piece only."""
    uids = [schemas.high_bits(schemas.read_table(path, ["uid"])["uid"]) for path in paths]
    _, pieces = np.unique(np.concatenate([np.unique(part) for part in uids]), return_counts=True)
    return float((pieces == 1).mean()) if len(pieces) and len(paths) > 1 else 1.0


def source_bytes(layout: Layout) -> int:
    """Return the stored bytes of the inputs, as far as they are known."""
    return sum(max(0, size) for _, size, _ in read_json(layout.stage("candidates", "inputs.list")) or [])


def piece_format(layout: Layout, manifest: Manifest) -> str:
    """Return the format of the sources: as it was given, or by the name of the first source."""
    given = manifest.configuration.get("source_format", "auto")
    inputs = read_json(layout.stage("candidates", "inputs.list")) or [["", 0, ""]]
    return str(given) if given != "auto" else format_of(str(inputs[0][0])) or "html"
