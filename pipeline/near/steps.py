"""Drive `--dedup near`: pairs by hash, groups, and their merging; all before an image is copied."""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from pipeline import schemas, storage
from pipeline.checked_manifest import NearDuplicates, SiteRemoval
from pipeline.crawl import Crawl
from pipeline.extend.parts import StoredCounts
from pipeline.extend.steps import count_stored, near_duplicates_path, stored_of
from pipeline.fetch.parts import Merged
from pipeline.fetch.retry_failed import merged_before
from pipeline.flow.runner import Runner
from pipeline.flow.steps import Shuffle, Step, Tasks, Thresholds, Work, results_in
from pipeline.near import groups as near
from pipeline.near.learned import CompareWorker, LooksWorker, compare_tasks
from pipeline.near.parts import SITES, Groups, GroupTask, Looks, NearMerged, NearPairs
from pipeline.near.workers import GroupWorker, NearShuffler, add_sites
from pipeline.rights import licences
from pipeline.select.workers import PairCounter

_SITES_IN_MANIFEST = 50


class Near(NamedTuple):
    """The result that finish uses; fields only."""

    folder: str
    """Of the merged images."""
    thresholds: str
    duplicates: NearDuplicates


def merge_near(crawl: Crawl, runner: Runner, last: int) -> Near:
    """Merge near-duplicates and find again which samples each query keeps; `last`: the last round.

    A job of its own, since its removals are judged before anything is written: ValueError if more than
    --dedup-limit of the images would go. One worker joins the pairs to groups, with some 60 bytes of memory
    for each image that stands in one (`pipeline.near.stars`).
    """
    config, layout = crawl.config, crawl.layout
    pairs_folder, groups_folder = layout.stage("finish", "near-pairs"), layout.stage("finish", "near-groups")
    folder, arrived = layout.stage("finish", "near"), layout.stage("finish", "near-arrived")
    pairs = Shuffle(
        label="near-duplicate pairs", folder=pairs_folder, plan=partial(_plan_pairs, crawl, last),
        shuffler=near.BandShuffler(folder=pairs_folder, merged_before=merged_before(layout)),
    )  # fmt: skip
    groups = Tasks(
        label="near-duplicate groups", folder=groups_folder, plan=partial(_plan_groups, crawl, last),
        worker=GroupWorker(path=layout.near_groups),
    )  # fmt: skip
    shuffler = NearShuffler(
        folder=folder, queries=crawl.queries, round=last, groups=layout.near_groups,
        max_captions=config.max_captions, placeholder_captions=config.placeholder_captions,
        licences=licences.wanted(config.licence),
    )  # fmt: skip
    merge = Shuffle(
        label="merge near-duplicates",
        folder=folder,
        plan=partial(_plan_merge, crawl, last),
        shuffler=shuffler,
    )
    thresholds = Thresholds(
        label="arrived, without near-duplicates", folder=arrived, plan=partial(_plan_arrived, crawl, last),
        counter=PairCounter(queries=crawl.queries),
    )  # fmt: skip
    runner.run([pairs, *_learned(crawl, last), groups, merge, thresholds])
    images = sum(one.samples for one in results_in(layout.merged(last), Merged))
    sites = add_sites(schemas.read_table(one.sites) for one in merge.results(NearMerged))
    removals = [SiteRemoval(**row) for row in sites.slice(0, _SITES_IN_MANIFEST).to_pylist()]
    [found] = groups.results(Groups)
    near.check_share(images, found, removals, config.dedup_limit)
    schemas.write_table(near_duplicates_path(crawl), sites.cast(SITES))
    duplicates = NearDuplicates(
        pairs=found.pairs, beyond=found.beyond, images=images, removed=found.removed, groups=found.groups,
        largest_group=found.largest, sites=tuple(removals),
    )  # fmt: skip
    return Near(folder, storage.join(arrived, "thresholds"), duplicates)


def _learned(crawl: Crawl, last: int) -> list[Step]:
    """Find pairs by a detector as well, if there is one."""
    config, layout = crawl.config, crawl.layout
    if not config.detector:
        return []
    arrived, stored = (layout.stage("finish", f"near-looks-{name}") for name in ("arrived", "stored"))
    pairs = layout.stage("finish", "near-learned")
    worker = LooksWorker(
        folder=arrived, staging=layout.staging, detector=config.detector, merged_before=merged_before(layout)
    )
    looks = Tasks(label="looks", folder=arrived, plan=partial(_plan_looks, crawl, last), worker=worker)
    of_stored = Tasks(
        label="looks of stored samples", folder=stored, plan=partial(_plan_stored_looks, crawl),
        worker=replace(worker, folder=stored),
    )  # fmt: skip
    folders = (arrived, stored) if crawl.base else (arrived,)
    compare = Tasks(
        label="pairs by look", folder=pairs, plan=partial(_plan_compared, folders),
        worker=CompareWorker(folder=pairs),
    )  # fmt: skip
    return [looks, *([of_stored] if crawl.base else []), compare]


def _plan_looks(crawl: Crawl, last: int) -> Work:
    return Work(tasks=results_in(crawl.layout.merged(last), Merged))


def _plan_stored_looks(crawl: Crawl) -> Work:
    return Work(tasks=stored_of(crawl))


def _plan_compared(folders: tuple[str, ...]) -> Work:
    return Work(tasks=compare_tasks(*(results_in(folder, Looks) for folder in folders)))


def _plan_pairs(crawl: Crawl, last: int) -> Work:
    merged, stored = results_in(crawl.layout.merged(last), Merged), stored_of(crawl)
    images = sum(one.samples for one in merged) + sum(one.samples for one in stored)
    return Work(tasks=[*merged, *stored], partitions=crawl.partitions(near.BANDS * images))


def _plan_merge(crawl: Crawl, last: int) -> Work:
    merged = results_in(crawl.layout.merged(last), Merged)
    return Work(tasks=merged, partitions=crawl.partitions(sum(one.samples for one in merged)))


def _plan_groups(crawl: Crawl, last: int) -> Work:
    found = ("near-pairs", *(["near-learned"] if crawl.config.detector else []))
    pairs = [one for name in found for one in results_in(crawl.layout.stage("finish", name), NearPairs)]
    merged = results_in(crawl.layout.merged(last), Merged)
    task = GroupTask(
        name="groups", merged=tuple(one.path for one in merged), pairs=tuple(one.path for one in pairs),
        edges=sum(one.edges for one in pairs), beyond=sum(one.beyond for one in pairs),
        stored=tuple(stored_of(crawl)), merged_before=merged_before(crawl.layout),
    )  # fmt: skip
    return Work(tasks=[task])


def _plan_arrived(crawl: Crawl, last: int) -> Work:
    rank = np.full(crawl.queries.queries, crawl.config.per_query, np.int64)
    counted = [result for step in count_stored(crawl, last) for result in step.results(StoredCounts)]
    return Work(tasks=[*results_in(crawl.layout.stage("finish", "near"), NearMerged), *counted], rank=rank)
