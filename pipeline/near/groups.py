"""Near-duplicates inside a training set: the pairs, and how much may go.

Hashes that agree in one of 16 bands of 16 bits meet; each pair that meets is verified on all 256 bits. Only
(hash, uid) is shuffled, never an image. `pipeline.near.stars` joins the pairs to groups.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schemas, storage
from pipeline.checked_manifest import SiteRemoval
from pipeline.extend.parts import Stored
from pipeline.fetch.parts import Merged
from pipeline.flow.worker import partition_name
from pipeline.near.parts import EDGES, Groups, NearPairs

BANDS: Final = 16
RADIUS: Final = 31
"""Bits of 256: ThreatExchange's threshold for PDQ hashes of confident matches, which no pair of 25.8 million
unrelated photographs reached. 16 bands find every pair up to 15 bits, and 98% of true copies up to 31."""
MIN_QUALITY: Final = 50
"""Detail, 0 to 100, below which a hash says too little to remove an image by: PDQ's users take 50."""
MAX_BUCKET: Final = 20_000
"""Different hashes that share a band and are compared with each other; those beyond are only counted."""

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
_BLOCK: Final = 1 << 18  # rows that are compared at a time: 8 MiB

NODES: Final = pa.schema(
    [
        pa.field("uid", pa.binary(schemas.UID_BYTES), nullable=False),
        pa.field("hash", pa.binary(32), nullable=False),
        pa.field("band", pa.int32(), nullable=False),  # band * 65536 + its 16 bits
        pa.field("stored", pa.bool_(), nullable=False),  # whether the image is in the set already
    ]
)


def band_keys(hashes: U8) -> npt.NDArray[np.int32]:
    """Return the band keys of hashes: uint8 [n, 32] to int32 [n, 16]; equal keys mean an equal band."""
    values = np.ascontiguousarray(hashes).view(">u2").astype(np.int32)
    return values + np.arange(BANDS, dtype=np.int32) * 65536


def near_pairs(bucket: I32, hashes: U8, radius: int = RADIUS) -> Iterator[tuple[I64, I64, I64]]:
    """Yield rows a < b of a bucket and their distance, of all pairs within the radius.

    bucket: int32 [n], ascending; hashes: uint8 [n, 32]. All rows are compared with the row `apart` rows
    below, which costs as little for a million small buckets as for a single large bucket.
    """
    words = np.ascontiguousarray(np.ascontiguousarray(hashes).view(np.uint64).T)
    stop = np.searchsorted(bucket, bucket, "right")
    for start in range(0, len(hashes), _BLOCK):
        rows, apart = np.arange(start, min(start + _BLOCK, len(hashes))), 1
        while len(rows := rows[rows + apart < stop[rows]]):
            distance = np.zeros(len(rows), np.int16)
            for word in words:
                distance += np.bitwise_count(word[rows] ^ word[rows + apart])
            near = np.flatnonzero(distance <= radius)
            if len(near):
                yield rows[near], rows[near] + apart, distance[near].astype(np.int64)
            apart += 1


def first_of_each(bucket: I32, hashes: U8) -> I64:
    """Return for each row the first row of its bucket with the same hash, or itself: int64 [n].

    bucket: int32 [n], ascending; hashes: uint8 [n, 32].
    """
    words = np.ascontiguousarray(hashes).view(np.uint64)
    order = np.lexsort((*words.T, bucket))
    changed = np.ones(len(order), bool)
    before, after = order[:-1], order[1:]
    changed[1:] = (words[before] != words[after]).any(axis=1) | (bucket[before] != bucket[after])
    first = np.empty(len(order), np.int64)
    first[order] = order[np.maximum.accumulate(np.where(changed, np.arange(len(order)), 0))]
    return first


def bucket_edges(
    bucket: I32, uids: pa.Array, hashes: U8, stored: npt.NDArray[np.bool_], radius: int = RADIUS
) -> tuple[pa.Table, int]:
    """Return EDGES of a partition's rows, sorted by bucket and uid, and how many hashes were not compared.

    Two images that are in the set already have none. Of two images that share several bands the lowest band
    has the edge. Images of one hash are joined to the first of them by edges of distance 0; it alone has
    edges to others: a placeholder on 5,000 sites has 5,000 edges, not 12 million.
    """
    first = first_of_each(bucket, hashes)
    same = np.flatnonzero((first != np.arange(len(first))) & (bucket >> 16 == 0) & ~(stored & stored[first]))
    found = [_edges(uids, first[same], same, np.zeros(len(same), np.int64))]
    rows = np.flatnonzero(first == np.arange(len(first)))
    place = np.arange(len(rows)) - np.searchsorted(bucket[rows], bucket[rows])
    beyond = int((place >= MAX_BUCKET).sum())
    rows = rows[place < MAX_BUCKET]
    keys = band_keys(hashes[rows])
    for a, b, distance in near_pairs(bucket[rows], hashes[rows], radius):
        mine = (keys[a] == keys[b]).argmax(axis=1) == bucket[rows[a]] >> 16
        mine &= ~(stored[rows[a]] & stored[rows[b]])
        found.append(_edges(uids, rows[a[mine]], rows[b[mine]], distance[mine]))
    return pa.concat_tables(found).sort_by([("a", "ascending"), ("b", "ascending")]), beyond


def _edges(uids: pa.Array, a: I64, b: I64, distance: I64) -> pa.Table:
    columns = [uids.take(pa.array(a)), uids.take(pa.array(b)), pa.array(distance.astype(np.int16))]
    return pa.Table.from_arrays(columns, schema=EDGES)


@dataclass(frozen=True, kw_only=True)
class BandShuffler:
    """Bring the hashes that share a band together, and write their verified pairs."""

    folder: str
    merged_before: str = ""
    """A table of GROUPS, or empty: images that are left out, since their groups are known."""
    radius: int = RADIUS

    def split(self, task: Merged | Stored, partitions: int) -> Iterator[tuple[int, bytes]]:
        """Yield a file's hashes by partition of their bands, once for each band; images in runs of uid."""
        is_stored = isinstance(task, Stored)
        table = stored_images(task) if isinstance(task, Stored) else arrived_images(task, self.merged_before)
        table = table.filter(pc.greater_equal(table["quality"], MIN_QUALITY))
        if not len(table):
            return
        hashes = hashes_of(table["phash"].to_pylist())
        keys = band_keys(hashes)
        # Mixed, since the bands of photographs are not uniform (Knuth's multiplicative hash).
        mixed = (keys.astype(np.uint64) * np.uint64(2654435761)) & np.uint64(0xFFFFFFFF)
        partition = (mixed * np.uint64(partitions) >> np.uint64(32)).astype(np.int64)
        raw = pa.array([row.tobytes() for row in hashes], pa.binary(32))
        for number in np.unique(partition):
            rows, bands = np.nonzero(partition == number)
            taken = pa.array(rows)
            stored = np.full(len(rows), is_stored)
            columns = [table["uid"].combine_chunks().take(taken), raw.take(taken), keys[rows, bands], stored]
            arrays = [pa.array(column, f.type) for column, f in zip(columns, NODES, strict=True)]
            yield int(number), schemas.encode(pa.Table.from_arrays(arrays, schema=NODES))

    def reduce(self, partition: int, slices: Iterable[bytes]) -> NearPairs:
        """Write NNNNN.parquet with the verified pairs of a partition."""
        table = pa.concat_tables([NODES.empty_table(), *map(schemas.decode, slices)])
        table = table.sort_by([("band", "ascending"), ("uid", "ascending")])
        hashes = np.frombuffer(b"".join(table["hash"].to_pylist()), np.uint8).reshape(-1, 32)
        edges, beyond = bucket_edges(
            table["band"].to_numpy(), table["uid"].combine_chunks(), hashes, table["stored"].to_numpy(),
            self.radius,
        )  # fmt: skip
        name = partition_name(partition)
        path = storage.join(self.folder, f"{name}.parquet")
        schemas.write_table(path, edges)
        return NearPairs(name=name, path=path, edges=len(edges), beyond=beyond)


def arrived_images(task: Merged, merged_before: str = "", more: tuple[str, ...] = ()) -> pa.Table:
    """Return uid, phash, quality and `more` columns of a file's images, sorted by uid.

    merged_before: as of `BandShuffler`.
    """
    table = schemas.read_table(task.path, ["uid", "phash", "quality", *more])
    table = table.take(pa.array(schemas.run_starts(table["uid"]), pa.int64()))
    if not merged_before:
        return table
    known = schemas.read_table(merged_before, ["uid"])["uid"].combine_chunks()
    return table.filter(pc.invert(pc.is_in(table["uid"], value_set=known)))


def stored_images(task: Stored) -> pa.Table:
    """Return uid, phash and quality of a shard's samples that are still in the set, sorted by uid."""
    table = schemas.read_table(task.shard, ["uid", "phash", "quality"])
    uids = pa.array(map(bytes.fromhex, table["uid"].to_pylist()), pa.binary(schemas.UID_BYTES))
    table = table.set_column(0, "uid", uids).sort_by("uid")
    stays = schemas.read_table(task.path, ["uid"])["uid"].combine_chunks()
    return table.filter(pc.is_in(table["uid"], value_set=stays))


def hashes_of(digits: list[str]) -> U8:
    """Return hashes from their hexadecimal digits: uint8 [n, 32]."""
    return np.frombuffer(bytes.fromhex("".join(digits)), np.uint8).reshape(-1, 32)


def check_share(images: int, found: Groups, removals: list[SiteRemoval], limit: float = 0.5) -> None:
    """Raise ValueError if more than `limit` of the set would go: that is never done silently.

    `removals`: the sites that lose images, those that lose most first.
    """
    if found.removed > limit * images:
        sites = ", ".join(f"{row.site} ({row.removed} of {row.images})" for row in removals[:3])
        raise ValueError(
            f"{found.removed} of {images} images would be removed as near-duplicates, over the limit of "
            f"{limit:.0%}; most from {sites}; the largest group, of {found.largest}, is around "
            f"{found.around}. Look at it, and raise --dedup-limit if it is right"
        )
