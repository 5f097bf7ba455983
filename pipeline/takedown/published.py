"""Remove the named samples from the finished set: shards, rejected rows, counts, manifest.

Keys keep their numbers.
"""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import checked_manifest, dropped_samples, finished_set, manifest, run_folder, schemas, storage
from pipeline.checked_manifest import Counts, Manifest, ManifestShard, QueryTotals
from pipeline.finish.workers import published
from pipeline.finished_set import FinishedSet
from pipeline.flow.markers import read_vector
from pipeline.run_folder import Layout
from pipeline.stages import Rounds, Selected
from pipeline.takedown import tables
from pipeline.takedown.tables import REASON
from pipeline.tombstones import Tombstones

_ACCOUNT = f"candidates/{REASON}"


def scrub_shard(state: FinishedSet, name: str, tombstones: Tombstones) -> ManifestShard:
    """Rewrite a shard, NNNNN.tar, without the things that was taken down; return its entry for the
    manifest."""
    shard = storage.stem(name)
    table = state.table(shard)
    left = table.filter(pa.array(~tables.hits(table, tombstones)))
    return state.rewrite(shard, left, state.folder).entry


def scrub_rejected(layout: Layout, tombstones: Tombstones, taken_down: int) -> None:
    """Remove rejected rows; one file accounts for those `taken_down` that no other row stands for."""
    own = storage.join(layout.rejected, "taken_down.parquet")
    accounted = 0
    for path in storage.list_files(layout.rejected, ".parquet"):
        if path == own:
            continue
        tables.rewrite(path, tombstones)
        accounted += _reclassified(schemas.read_table(path, ["stage", "reason", "candidates"])).get(
            _ACCOUNT, 0
        )
    if taken_down > accounted:
        schemas.write_table(own, published(tables.taken_down_rows(taken_down - accounted)))


def _reclassified(rows: pa.Table) -> dict[str, int]:
    """Return the candidates of rejected rows by stage/reason."""
    sums = rows.group_by(["stage", "reason"]).aggregate([("candidates", "sum")]).to_pylist()
    return {f"{row['stage']}/{row['reason']}": row["candidates_sum"] for row in sums}


def planned_counts(layout: Layout, tombstones: Tombstones) -> tuple[Counts, list[str]]:
    """Return the manifest's counts as they will be, and the names of the shards that hold something."""
    stored = checked_manifest.of(layout.root)
    counts, touched = stored.counts, []
    state = finished_set.load(layout, stored)
    captions = samples = 0
    for shard in state.shards:
        table = state.table(shard, ["key", "uid", "url", "page_url", "captions"])
        gone = tables.hits(table, tombstones)
        if gone.any():
            touched.append(f"{shard}.tar")
        table = table.filter(pa.array(state.stays(shard, table) & ~gone))
        samples += len(table)
        captions += int(pc.sum(pc.list_value_length(table["captions"])).as_py() or 0)
    rejected = counts.by_stage_and_reason
    for path in manifest.rejected_files(layout, stored):
        rows = schemas.read_table(path)
        rows = rows.filter(pa.array(tables.hits(rows, tombstones)))
        for key, count in _reclassified(rows).items():
            rejected[key] -= count
    rejected[_ACCOUNT] = 0
    rejected[_ACCOUNT] = counts.candidates - captions - sum(rejected.values())
    return manifest.counts_of(counts.candidates, captions, samples, rejected), touched


def scrub_manifest(
    layout: Layout, tombstones: Tombstones, shards: list[ManifestShard], counts: Counts
) -> None:
    """Publish dropped.parquet, sizes.json, query_counts.parquet and, last, the manifest."""
    stored = checked_manifest.of(layout.root)
    new = {shard.name: shard for shard in shards}
    stored = replace(
        stored, shards=tuple(new.get(shard.name, shard) for shard in stored.shards), counts=counts
    )
    manifest.write_sizes(layout, stored.shards)
    if storage.exists(storage.join(layout.root, dropped_samples.FILE)):
        tables.rewrite(storage.join(layout.root, dropped_samples.FILE), tombstones)
    manifest.write(layout.manifest, replace(stored, queries=_scrub_query_counts(layout, stored)))


def _scrub_query_counts(layout: Layout, stored: Manifest) -> QueryTotals:
    """Count samples by query again, from the shards and the remaining files of the work folder."""
    path = storage.join(layout.root, "query_counts.parquet")
    old = schemas.read_table(path)
    matched, present, short = (old[name].to_numpy().copy() for name in ("matched", "present", "short"))
    kept_now, present_now = _kept_present(layout, stored, len(old))
    untried = None if stored.extensions else _untried(layout, len(old))
    if untried is None:  # removed rows that were never fetched are not known or not told apart
        matched -= present - present_now
        untried = old["untried"].to_numpy() if "untried" in old.column_names else short
    else:
        matched = read_vector(storage.join(layout.tried(0), "counts"))[0]
    return manifest.write_query_counts(
        path, old["query"].to_pylist(), stored.per_query,
        matched=matched, untried=untried, kept_present=np.stack([kept_now, present_now]),
        thresholds=old["threshold"].to_numpy() if "threshold" in old.column_names else None,
    )  # fmt: skip


def _kept_present(layout: Layout, stored: Manifest, queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Return how many samples of the shards each query keeps, and how many contain it: int64 [Q] each."""
    totals, state = np.zeros((2, queries), np.int64), finished_set.load(layout, stored)
    for shard in state.shards:
        table = state.rows(shard, ["key", "uid", "query_ids", "matched_query_ids"])
        for row, name in enumerate(("query_ids", "matched_query_ids")):
            ids = pc.list_flatten(table[name]).to_numpy()
            totals[row] += np.bincount(ids.astype(np.int64), minlength=queries)
    return totals[0], totals[1]


def _untried(layout: Layout, queries: int) -> np.ndarray | None:
    """Return for each query how many samples were never tried, int64 [Q]; None without the work folder."""
    from pipeline.select.workers import QueryTable, SampleQueryPairs, chosen

    if not run_folder.is_done(layout, "fetch") or not storage.exists(storage.join(layout.tried(0), "counts")):
        return None
    table = QueryTable(
        path=layout.queries, seed=run_folder.seed(layout), queries=queries, rule=run_folder.rule(layout)
    )
    limits = read_vector(storage.join(layout.tried(run_folder.done(layout, Rounds).last), "thresholds"))
    total = np.zeros(queries, np.int64)
    for samples in run_folder.done(layout, Selected).samples:
        pairs = SampleQueryPairs.of(schemas.read_table(samples.path, ["uid", "matched"]), queries)
        never = ~chosen(pairs, table.hashes, limits)
        total += pairs.counts(queries, never[pairs.sample])
    return total
