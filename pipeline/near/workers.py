"""Merge near-duplicates: the images of a group become its representative, with the captions of all.

Which images are a group is known by then, from their hashes alone (`pipeline.near.groups`).
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schemas, storage, urls
from pipeline.fetch.merge import merge
from pipeline.fetch.parts import MERGED_ROWS, Merged
from pipeline.flow.markers import write_vector
from pipeline.flow.worker import partition_name
from pipeline.near.parts import SITES, Groups, GroupTask, NearMerged
from pipeline.near.stars import find_stars, tables, uid_array, uids_of
from pipeline.select.workers import QueryTable, SampleQueryPairs, concat, slices


def _groups(path: str) -> pa.Table:
    return _read_groups(storage.file_info(path))


@lru_cache(maxsize=2)
def _read_groups(file: storage.FileInfo) -> pa.Table:
    return schemas.read_table(file.path).combine_chunks()  # a retry writes others to the same path


def representatives(uids: pa.ChunkedArray, groups: pa.Table) -> pa.ChunkedArray:
    """Return the uid that each image is merged into, its own if it is in no group or represents a group.

    groups: GROUPS, sorted by uid. Searched and not hashed: a hash table is as large again, for each call.
    """
    if not len(groups) or not len(uids):
        return uids
    given, members = uids_of(uids), uids_of(groups["uid"])
    at = np.minimum(np.searchsorted(members, given), len(members) - 1)
    stars = uids_of(groups["representative"])[at]
    return pa.chunked_array([uid_array(np.where(members[at] == given, stars, given))])


@dataclass(frozen=True, kw_only=True)
class GroupWorker:
    """Join the pairs to groups around a representative."""

    path: str
    """Of the table of all groups."""

    def open(self) -> None:
        """Load nothing."""

    def run(self, state: None, task: GroupTask) -> Groups:
        """Write a table of GROUPS from the tables of `merged` images and of `pairs`."""
        columns = ["uid", "original_width", "original_height"]
        before = schemas.read_table(task.merged_before) if task.merged_before else None
        found = find_stars(
            partial(tables, task.pairs), partial(tables, task.merged, columns), task.edges,
            partial(_staying, task, before), before,
        )  # fmt: skip
        schemas.write_table(self.path, found.groups)
        return Groups(
            name=task.name, path=self.path, pairs=task.edges, beyond=task.beyond, removed=len(found.groups),
            groups=found.count, largest=found.largest, around=found.around,
        )  # fmt: skip


def _staying(task: GroupTask, before: pa.Table | None) -> Iterator[pa.Table]:
    """Yield the uids of images that stay: stored images, and those that others were merged into before."""
    yield from tables([one.path for one in task.stored], ["uid"])
    if before is not None:
        yield before.select(["representative"]).rename_columns(["uid"])


@dataclass(frozen=True, kw_only=True)
class NearShuffler:
    """Bring the images of a group together."""

    folder: str
    queries: QueryTable
    round: int
    groups: str  # a file of GROUPS
    max_captions: int
    placeholder_captions: int
    licences: tuple[str, ...] = ()

    def split(self, task: Merged, partitions: int) -> Iterator[tuple[int, bytes]]:
        """Yield a merged file's rows by partition of the image that they are merged into."""
        table = schemas.read_table(task.path)
        if not len(table):
            return
        high = schemas.high_bits(representatives(table["uid"], _groups(self.groups)))
        partition = schemas.partition_of(high, partitions)
        yield from slices(table, partition)

    def reduce(self, partition: int, data: Iterable[bytes]) -> NearMerged:
        """Write NNNNN.parquet, NNNNN.rejected.parquet, NNNNN.counts and NNNNN.sites.

        counts, int64 [1, Q]: samples of each query; sites: a table of SITES.
        """
        table = concat(data, MERGED_ROWS)
        survivor = representatives(table["uid"], _groups(self.groups))
        known = table.append_column("survivor", survivor)
        # A representative that did not arrive is a stored sample, which keeps its captions.
        arrived = pc.is_in(survivor, value_set=table["uid"].combine_chunks())
        given = known.filter(pc.invert(arrived))
        merged, rejected = merge(
            known.filter(arrived),
            "survivor",
            self.max_captions,
            self.placeholder_captions,
            licences=self.licences,
        )
        targets = [uid.hex() for uid in given["survivor"].to_pylist()]
        rejected = pa.concat_tables(
            [schemas.rejected_table(given, "finish", "merged_into", targets), rejected]
        )
        pairs = SampleQueryPairs.of(merged, self.queries.queries)
        name = partition_name(partition)
        base = storage.join(self.folder, name)
        schemas.write_table(f"{base}.parquet", merged)
        schemas.write_table(f"{base}.rejected.parquet", rejected)
        write_vector(f"{base}.counts", pairs.counts(self.queries.queries)[None])
        schemas.write_table(f"{base}.sites", count_sites(table, survivor))
        return NearMerged(
            name=name, round=self.round, path=f"{base}.parquet", rejects=f"{base}.rejected.parquet",
            counts=f"{base}.counts", sites=f"{base}.sites", rows=len(merged), samples=len(pairs.starts),
            rejected=schemas.count_reasons(rejected),
        )  # fmt: skip


def count_sites(table: pa.Table, survivor: pa.ChunkedArray) -> pa.Table:
    """Return SITES: how many of each site's images are merged into another; sorted by site."""
    gone = pc.not_equal(table["uid"], survivor)
    images = table.select(["uid", "url"]).append_column("gone", gone).sort_by("uid")
    images = images.take(pa.array(schemas.run_starts(images["uid"]), pa.int64()))
    total: Counter[str] = Counter()
    removed: Counter[str] = Counter()
    for url, is_gone in zip(images["url"].to_pylist(), images["gone"].to_pylist(), strict=True):
        site = urls.site(url)
        total[site] += 1
        removed[site] += is_gone
    rows = ((site, total[site], removed[site]) for site in sorted(total))
    return schemas.to_table(rows, SITES)


def add_sites(tables: Iterable[pa.Table]) -> pa.Table:
    """Return SITES of all parts, only sites that lose images, those that lose most first."""
    table = pa.concat_tables([SITES.empty_table(), *tables])
    sums = table.group_by("site").aggregate([("images", "sum"), ("removed", "sum")])
    table = pa.table([sums[name] for name in ("site", "images_sum", "removed_sum")], schema=SITES)
    table = table.filter(pa.array(table["removed"].to_numpy() > 0, pa.bool_()))
    return table.sort_by([("removed", "descending"), ("site", "ascending")])
