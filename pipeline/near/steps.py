"""Drive `--dedup near`: pairs by hash, groups, and their merging; all before an image is copied."""

from functools import partial
from typing import NamedTuple

import numpy as np

from pipeline import records, storage
from pipeline.crawl import Crawl
from pipeline.fetch.rounds import merged_folder
from pipeline.flow.markers import Result
from pipeline.flow.runner import Runner
from pipeline.flow.steps import Shuffle, Tasks, Thresholds, Work, results_in
from pipeline.near import groups as near
from pipeline.near.workers import GROUPS, SITES, GroupWorker, NearShuffler, add_sites
from pipeline.select.workers import PairCounter

_SITES_IN_MANIFEST = 50


class Near(NamedTuple):
    """What finish goes on with; fields only."""

    folder: str
    """Of the merged images."""
    thresholds: str
    summary: Result


def merge_near(crawl: Crawl, runner: Runner, last: int) -> Near:
    """Merge near-duplicates and find again which samples each query keeps; `last`: the last round.

    A job of its own, since what it takes out is judged before anything is written: ValueError if more than
    --dedup-limit of the images would go. One worker joins the pairs to groups, with some 300 bytes of memory
    for each.
    """
    config, layout = crawl.config, crawl.layout
    pairs_folder, groups_folder = layout.stage("finish", "near-pairs"), layout.stage("finish", "near-groups")
    folder, arrived = layout.stage("finish", "near"), layout.stage("finish", "near-arrived")
    pairs = Shuffle(
        label="near-duplicate pairs", folder=pairs_folder, plan=partial(_plan, crawl, last, near.BANDS),
        shuffler=near.BandShuffler(folder=pairs_folder),
    )  # fmt: skip
    groups = Tasks(
        label="near-duplicate groups", folder=groups_folder, plan=partial(_plan_groups, crawl, last),
        worker=GroupWorker(folder=groups_folder),
    )  # fmt: skip
    shuffler = NearShuffler(
        folder=folder, queries=crawl.queries, groups=storage.join(groups_folder, "groups"),
        max_captions=config.max_captions, placeholder_captions=config.placeholder_captions,
    )  # fmt: skip
    merge = Shuffle(
        label="merge near-duplicates", folder=folder, plan=partial(_plan, crawl, last, 1), shuffler=shuffler
    )
    thresholds = Thresholds(
        label="arrived, without near-duplicates", folder=arrived, plan=partial(_plan_arrived, crawl),
        counter=PairCounter(queries=crawl.queries),
    )  # fmt: skip
    runner.run([pairs, groups, merge, thresholds])
    images = sum(result["samples"] for result in results_in(merged_folder(crawl, last)))
    sites = add_sites(records.read_table(result["sites"]) for result in merge.results())
    removals = [near.SiteRemoval(**row) for row in sites.slice(0, _SITES_IN_MANIFEST).to_pylist()]
    known = records.read_table(storage.join(groups_folder, "groups"))
    members: dict[str, list[str]] = {}
    for uid, representative in zip(*(known[name].to_pylist() for name in GROUPS.names), strict=True):
        members.setdefault(representative.hex(), []).append(uid.hex())
    near.check_share(images, members, removals, config.dedup_limit)
    records.write_table(layout.near_duplicates, sites.cast(SITES))
    [counts] = groups.results()
    summary = {
        "pairs": counts["pairs"], "beyond": counts["beyond"],
        "images": images, "removed": len(known), "groups": len(members),
        "largest_group": max(map(len, members.values()), default=0) + bool(members),
        "sites": [row._asdict() for row in removals],
    }  # fmt: skip
    return Near(folder, storage.join(arrived, "thresholds"), summary)


def _plan(crawl: Crawl, last: int, rows_each: int) -> Work:
    merged = results_in(merged_folder(crawl, last))
    rows = rows_each * sum(result["samples"] for result in merged)
    return Work(tasks=merged, partitions=crawl.partitions(rows))


def _plan_groups(crawl: Crawl, last: int) -> Work:
    pairs = results_in(crawl.layout.stage("finish", "near-pairs"))
    task = {
        "name": "counts", "merged": [r["path"] for r in results_in(merged_folder(crawl, last))],
        "pairs": [r["path"] for r in pairs], "beyond": sum(r["beyond"] for r in pairs),
    }  # fmt: skip
    return Work(tasks=[task])


def _plan_arrived(crawl: Crawl) -> Work:
    rank = np.full(crawl.queries.queries, crawl.config.per_query, np.int64)
    return Work(tasks=results_in(crawl.layout.stage("finish", "near")), rank=rank)
