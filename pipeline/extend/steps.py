"""Drive the steps only `--extend` has: the run's existing samples, those it drops, and their publication."""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa

from pipeline import dropped_samples, extend, manifest, querylist, run_folder, schemas, storage
from pipeline.checked_manifest import (
    Crawled,
    Extension,
    Manifest,
    NearDuplicates,
    QueryTotals,
    SiteRemoval,
)
from pipeline.crawl import Crawl, add_counts, add_vectors
from pipeline.extend.parts import Known, Stored, StoredShard
from pipeline.extend.workers import DropWorker, StoredCountWorker, StoredWorker
from pipeline.flow.markers import read_vector
from pipeline.flow.steps import Step, Tasks, Work, results_in
from pipeline.manifest import NewSet
from pipeline.run_folder import Layout
from pipeline.stages import Candidates, Rounds, Selected


@dataclass(frozen=True)
class Base:
    """A finished run as its extension finds it."""

    part: Layout
    """Where the extension works."""
    parts: tuple[Layout, ...]
    """Where the run and its earlier extensions worked, in order."""

    @property
    def manifest(self) -> Manifest:
        """Return the manifest of the run before the extension."""
        return extend.manifest_before(self.part)

    @property
    def next_shard(self) -> int:
        """Return the number of the first shard to add."""
        numbers = [int(storage.stem(shard.name)) for shard in self.manifest.shards]
        return max(numbers, default=-1) + 1


def stored_samples(crawl: Crawl) -> list[Step]:
    """Read the samples that count in the balance from the run's shards; nothing where no run is extended."""
    if crawl.base is None:
        return []
    layout, folder = crawl.layout, crawl.layout.stage("select", "stored")
    worker = StoredWorker(
        folder=folder, root=layout.root, extensions=layout.extension - 1, queries=crawl.queries
    )
    plan = partial(_plan_stored, crawl)
    return [Tasks(label="stored samples", folder=folder, plan=plan, worker=worker)]


def _plan_stored(crawl: Crawl) -> Work:
    assert crawl.base is not None
    names = [storage.stem(shard.name) for shard in crawl.base.manifest.shards]
    shards = crawl.layout.shards
    return Work(tasks=[StoredShard(name=n, rows=storage.join(shards, f"{n}.parquet")) for n in names])


def stored_of(crawl: Crawl) -> list[Stored]:
    """Return the samples that were taken from the shards of the extended run."""
    return results_in(crawl.layout.stage("select", "stored"), Stored) if crawl.base else []


def known_samples(base: Base) -> list[Known]:
    """Return the files of samples that the run knows, each with the thresholds up to which it tried them."""
    tasks: list[Known] = []
    for part in base.parts:
        selected, fetched = run_folder.done(part, Selected), run_folder.done(part, Rounds)
        tried = storage.join(part.tried(fetched.last), "thresholds")
        tasks += [
            Known(
                name=samples.name,
                path=samples.path,
                tried=tried,
                extension=part.extension,
                shared=samples.shared,
            )
            for samples in selected.samples
        ]
    return tasks


def known_rows(base: Base) -> int:
    """Return how many rows the files of samples have that the run knows."""
    summaries = (run_folder.done(part, Selected) for part in base.parts)
    return sum(samples.rows for summary in summaries for samples in summary.samples)


def known_shared_captions(base: Base) -> list[np.ndarray]:
    """Return the hashes of the texts that stood at too many images of the run already."""
    return [read_vector(part.stage("select", "shared_captions")) for part in base.parts]


def count_stored(crawl: Crawl, number: int) -> list[Step]:
    """Count the stored samples by query, and those within a round's thresholds."""
    if crawl.base is None:
        return []
    folder = crawl.layout.stage("fetch", f"stored-{number}")
    thresholds = storage.join(crawl.layout.tried(number), "thresholds")
    worker = StoredCountWorker(folder=folder, queries=crawl.queries, thresholds=thresholds)
    plan = partial(_plan_count_stored, crawl)
    return [Tasks(label=f"stored samples, round {number}", folder=folder, plan=plan, worker=worker)]


def _plan_count_stored(crawl: Crawl) -> Work:
    return Work(tasks=stored_of(crawl))


def drop(crawl: Crawl, thresholds: str) -> list[Step]:
    """Find the stored samples that no query keeps any more."""
    if crawl.base is None:
        return []
    folder = crawl.layout.stage("finish", "dropped")
    worker = DropWorker(
        folder=folder, queries=crawl.queries, thresholds=thresholds, extension=crawl.layout.extension
    )
    return [Tasks(label="drop", folder=folder, plan=partial(_plan_drop, crawl), worker=worker)]


def _plan_drop(crawl: Crawl) -> Work:
    return Work(tasks=stored_of(crawl))


def write_query_counts(crawl: Crawl, counts: dict[str, np.ndarray], thresholds: np.ndarray) -> QueryTotals:
    """Publish query_counts.parquet; where a run is extended, its own counts are added.

    counts: `untried` of the new samples, `kept_present` of the whole set.
    """
    path, queries = crawl.layout.query_counts, crawl.queries.queries
    selected = run_folder.done(crawl.layout, Selected)
    matched = add_vectors((samples.counts for samples in selected.samples), queries, 1)[0]
    untried = counts["untried"]
    if crawl.base is not None:
        path = crawl.layout.stage("finish", "query_counts.parquet")
        old = schemas.read_table(storage.join(crawl.layout.work, extend.COUNTS))
        moved = add_vectors((one.moved for one in selected.deduplicated), queries, 1)[0]
        matched = matched + old["matched"].to_numpy() - moved
        untried = untried + old["untried"].to_numpy() - moved
    return manifest.write_query_counts(
        path, querylist.load(crawl.layout.queries), crawl.config.per_query, matched=matched, untried=untried,
        kept_present=counts["kept_present"], thresholds=thresholds,
    )  # fmt: skip


def near_duplicates_path(crawl: Crawl) -> str:
    """Return the file where finish counts `--dedup near`'s removals by site: for an extension, its own."""
    layout = crawl.layout
    return layout.stage("finish", "near_duplicates.parquet") if crawl.base else layout.near_duplicates


def _near_duplicates(crawl: Crawl, before: NearDuplicates | None, own: NearDuplicates) -> NearDuplicates:
    """Publish near_duplicates.parquet of the grown run; return its entry for the manifest."""
    known, files = storage.join(crawl.layout.work, extend.NEAR), [near_duplicates_path(crawl)]
    files += [known] if storage.exists(known) else []
    sums = pa.concat_tables(map(schemas.read_table, files)).group_by("site").aggregate(
        [("images", "sum"), ("removed", "sum")]
    )  # fmt: skip
    sites = sums.rename_columns(["site", "images", "removed"]).sort_by(
        [("removed", "descending"), ("site", "ascending")]
    )
    schemas.write_table(crawl.layout.near_duplicates, sites)
    if before is None:
        return own
    most = max(len(before.sites), len(own.sites))
    return NearDuplicates(
        pairs=before.pairs + own.pairs, beyond=before.beyond + own.beyond,
        images=before.images + own.images, removed=before.removed + own.removed,
        groups=before.groups + own.groups, largest_group=max(before.largest_group, own.largest_group),
        sites=tuple(SiteRemoval(**row) for row in sites.slice(0, most).to_pylist()),
    )  # fmt: skip


def publish(crawl: Crawl, found: NewSet, entry: Extension) -> None:
    """Publish an extension: its dropped samples, its counts and, last, the manifest that names its shards.

    `entry`: the manifest's entry for the extension, without its figures. Doing it again writes the same.
    """
    base, layout = crawl.base, crawl.layout
    assert base is not None
    before = base.manifest
    manifest.write_json(storage.join(layout.work, extend.PUBLISHING), {})
    _publish_dropped(crawl, found)
    near = before.near_duplicates
    if found.near_duplicates is not None:
        near = _near_duplicates(crawl, near, found.near_duplicates)
    counts_file = layout.stage("finish", "query_counts.parquet")
    storage.copy_file(counts_file, layout.query_counts)
    read, fetched = run_folder.done(layout, Candidates), run_folder.done(layout, Rounds)
    added = tuple(shard.entry for shard in found.shards)
    shards = (*before.shards, *added)
    manifest.write_sizes(layout, shards)
    periods = (before.crawled, found.crawled)
    counts = manifest.counts_of(
        before.counts.candidates + read.candidates,
        before.counts.captions - found.dropped_captions + found.captions,
        before.counts.samples - found.dropped + found.samples,
        add_counts([before.counts.by_stage_and_reason, found.rejected]),
    )
    whole = replace(
        entry, versions=manifest.versions(), samples=found.samples, captions=found.captions,
        candidates=read.candidates, dropped=found.dropped, dropped_captions=found.dropped_captions,
        rounds=len(fetched.rounds), shards=tuple(shard.name for shard in added),
    )  # fmt: skip
    grown = replace(
        before, counts=counts,
        crawled=Crawled(
            first=min((p.first for p in periods if p.first), default=None),
            last=max((p.last for p in periods if p.last), default=None),
        ),
        rejected_sampled=before.rejected_sampled or found.rejected_sampled,
        images_seen=before.images_seen + read.images,
        rounds=(*before.rounds, *manifest.round_entries(fetched.rounds)), queries=found.queries,
        shards=shards, extensions=(*before.extensions, whole), near_duplicates=near,
    )  # fmt: skip
    manifest.write(layout.manifest, grown)


def _publish_dropped(crawl: Crawl, new_set: NewSet) -> None:
    """Add the rows of this extension to those of earlier ones, which a reader of the old manifest skips."""
    assert crawl.base is not None
    path = storage.join(crawl.layout.root, dropped_samples.FILE)
    before = dropped_samples.rows(crawl.layout.root, crawl.layout.extension - 1)
    tables = [schemas.read_table(file) for file in new_set.dropped_rows]
    table = pa.concat_tables([before, *tables])
    schemas.write_table(path, table.sort_by([("shard", "ascending"), ("key", "ascending")]))
