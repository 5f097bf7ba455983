"""Merge near-duplicates: the images of a group become its representative, with the captions of all.

Which images are a group is known by then, from their hashes alone (`pipeline.near.groups`).
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schemas, storage, urls
from pipeline.fetch.merge import merge
from pipeline.fetch.parts import MERGED_ROWS, Merged
from pipeline.flow.markers import write_vector
from pipeline.flow.worker import partition_name
from pipeline.near import groups as near
from pipeline.near.parts import EDGES, GROUPS, SITES, Groups, GroupTask, NearMerged
from pipeline.select.workers import QueryTable, SampleQueryPairs, concat, slices


@lru_cache(maxsize=2)
def _groups(path: str) -> pa.Table:
    return schemas.read_table(path).combine_chunks()


def representatives(uids: pa.ChunkedArray, groups: pa.Table) -> pa.ChunkedArray:
    """Return the uid that each image is merged into, its own if it is in no group or represents one."""
    place = pc.index_in(uids, groups["uid"].combine_chunks())
    return pc.coalesce(groups["representative"].take(place), uids)


@dataclass(frozen=True, kw_only=True)
class GroupWorker:
    """Join the pairs to groups around a representative."""

    folder: str

    def open(self) -> None:
        """Load nothing."""

    def run(self, state: None, task: GroupTask) -> Groups:
        """Write `groups`, a table of GROUPS, from the tables of `merged` images and of `pairs`."""
        edges = pa.concat_tables([EDGES.empty_table(), *map(schemas.read_table, task.pairs)])
        wanted = pc.unique(pa.chunked_array([*edges["a"].chunks, *edges["b"].chunks]))
        same = edges.filter(pc.equal(edges["distance"], 0))
        like = {b.hex(): a.hex() for a, b in zip(same["a"].to_pylist(), same["b"].to_pylist(), strict=True)}
        columns = ["uid", "original_width", "original_height"]
        members = [
            near.Member(*member, like=like.get(member[0], ""))
            for path in task.merged
            for member in members_of(schemas.read_table(path, columns), wanted)
        ]
        others = edges.filter(pc.greater(edges["distance"], 0))
        pairs = zip(others["a"].to_pylist(), others["b"].to_pylist(), strict=True)
        found = near.stars(members, ((a.hex(), b.hex()) for a, b in pairs))
        rows = sorted(
            (bytes.fromhex(uid), bytes.fromhex(star)) for star, gone in found.items() for uid in gone
        )
        path = groups_path(self.folder)
        schemas.write_table(path, schemas.to_table(rows, GROUPS))
        return Groups(name=task.name, path=path, pairs=len(edges), beyond=task.beyond)


def groups_path(folder: str) -> str:
    """Return where the table of all groups is."""
    return storage.join(folder, "groups")


@dataclass(frozen=True, kw_only=True)
class NearShuffler:
    """Bring the images of a group together."""

    folder: str
    queries: QueryTable
    round: int
    groups: str  # a file of GROUPS
    max_captions: int
    placeholder_captions: int

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
        merged, rejected = merge(
            table.append_column("survivor", survivor),
            "survivor",
            self.max_captions,
            self.placeholder_captions,
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


def members_of(table: pa.Table, wanted: pa.Array) -> Iterator[tuple[str, int, int]]:
    """Yield uid, pixels of the original and captions of the images of a merged file that are wanted."""
    starts = schemas.run_starts(table["uid"])
    captions = np.diff(np.append(starts, len(table)))
    first = table.take(pa.array(starts, pa.int64()))
    chosen = pc.is_in(first["uid"], value_set=wanted).to_numpy()
    first = first.filter(pa.array(chosen))
    columns = (first[name].to_pylist() for name in ("uid", "original_width", "original_height"))
    for uid, width, height, count in zip(*columns, captions[chosen].tolist(), strict=True):
        yield uid.hex(), width * height, count
