"""Drive `--dedup near`: pairs by hash, groups, and their merging; all before an image is copied."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dedup import groups as near
from pipeline import records, storage
from pipeline.crawl.job import Crawl
from pipeline.flow.markers import Result, marker_path, read_marker, write_json
from pipeline.stages.near import GROUPS, SITES, NearShuffler, add_sites, members_of
from pipeline.stages.select import PairCounter

_SITES_IN_MANIFEST = 50


class Near(NamedTuple):
    """What finish goes on with; fields only."""

    merged: list[Result]
    thresholds: str
    summary: Result


def merge_near(crawl: Crawl, merged: list[Result]) -> Near:
    """Merge near-duplicates and find anew which samples each query keeps.

    ValueError if more than --dedup-limit of the images would go. The pairs are joined to groups on this
    machine, with some 300 bytes of memory for each.
    """
    config, layout = crawl.config, crawl.layout
    images = sum(result["samples"] for result in merged)
    groups_path, found = _groups(crawl, merged, images)
    folder = layout.stage("finish", "near")
    partitions = crawl.partitions(images)
    shuffler = NearShuffler(
        folder=folder, partitions=partitions, queries=crawl.queries, groups=groups_path,
        max_captions=config.max_captions, placeholder_captions=config.placeholder_captions,
    )  # fmt: skip
    results = crawl.runner.shuffle("merge near-duplicates", folder, merged, shuffler, partitions)
    sites = add_sites(records.read_table(result["sites"]) for result in results)
    removals = [near.SiteRemoval(**row) for row in sites.slice(0, _SITES_IN_MANIFEST).to_pylist()]
    known = records.read_table(groups_path)
    groups: dict[str, list[str]] = {}
    for uid, representative in zip(*(known[name].to_pylist() for name in GROUPS.names), strict=True):
        groups.setdefault(representative.hex(), []).append(uid.hex())
    near.check_share(images, groups, removals, config.dedup_limit)
    records.write_table(layout.near_duplicates, sites.cast(SITES))
    rank = np.full(crawl.queries.queries, config.per_query, np.int64)
    folder = layout.stage("finish", "near-arrived")
    crawl.runner.thresholds(folder, results, PairCounter(queries=crawl.queries), rank)
    summary = {
        **found, "images": images, "removed": len(known), "groups": len(groups),
        "largest_group": max(map(len, groups.values()), default=0) + bool(groups),
        "sites": [row._asdict() for row in removals],
    }  # fmt: skip
    return Near(results, storage.join(folder, "thresholds"), summary)


def _groups(crawl: Crawl, merged: list[Result], images: int) -> tuple[str, Result]:
    """Find the groups, once; return their file, and the counts of pairs."""
    folder, groups = crawl.layout.stage("finish", "near-pairs"), crawl.layout.stage("finish", "near-groups")
    path = storage.join(groups, "groups")
    done = read_marker(groups, "counts")
    if done is not None:
        return path, done
    partitions = crawl.partitions(near.BANDS * images)
    shuffler = near.BandShuffler(folder=folder, partitions=partitions)
    results = crawl.runner.shuffle("near-duplicate pairs", folder, merged, shuffler, partitions)
    tables = [near.EDGES.empty_table(), *(records.read_table(result["path"]) for result in results)]
    edges = pa.concat_tables(tables)
    wanted = pc.unique(pa.chunked_array([*edges["a"].chunks, *edges["b"].chunks]))
    same = edges.filter(pc.equal(edges["distance"], 0))
    like = {b.hex(): a.hex() for a, b in zip(same["a"].to_pylist(), same["b"].to_pylist(), strict=True)}
    columns = ["uid", "original_width", "original_height"]
    members = [
        near.Member(*member, like=like.get(member[0], ""))
        for result in merged
        for member in members_of(records.read_table(result["path"], columns), wanted)
    ]
    others = edges.filter(pc.greater(edges["distance"], 0))
    pairs = zip(others["a"].to_pylist(), others["b"].to_pylist(), strict=True)
    found = near.stars(members, ((a.hex(), b.hex()) for a, b in pairs))
    rows = sorted((bytes.fromhex(uid), bytes.fromhex(star)) for star, gone in found.items() for uid in gone)
    records.write_table(path, records.to_table(rows, GROUPS))
    counts = {"pairs": len(edges), "beyond": sum(result["beyond"] for result in results)}
    write_json(marker_path(groups, "counts"), counts)
    return path, counts
