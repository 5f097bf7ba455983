"""Near-duplicates inside a training set: groups around a representative, never chains.

Hashes that agree in one of 16 bands of 16 bits meet; each pair that meets is verified on all 256 bits. A
group is a star: every member is within the radius of its representative, so that nothing is removed because
of a chain of likenesses, which in large sets joins everything. Only (hash, uid) is shuffled, never an image.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dedup import search
from pipeline import records, storage, urls

BANDS: Final = 16
RADIUS: Final = 31
"""Bits of 256: ThreatExchange's threshold for PDQ hashes of confident matches, which no pair of 25.8 million
unrelated photographs reached. 16 bands find every pair up to 15 bits, and 98% of true copies up to 31."""
MAX_GROUP: Final = 1_000
"""Members of a group; the rest begins another. Real copies are fewer, placeholders more."""
MAX_BUCKET: Final = 20_000
"""Images that share a band and are compared with each other; what is beyond is counted, not compared."""

NODES: Final = pa.schema(
    [
        pa.field("uid", pa.string(), nullable=False),
        pa.field("hash", pa.binary(32), nullable=False),
        pa.field("band", pa.int32(), nullable=False),  # band * 65536 + its 16 bits
    ]
)
EDGES: Final = pa.schema(
    [
        pa.field("a", pa.string(), nullable=False),
        pa.field("b", pa.string(), nullable=False),
        pa.field("distance", pa.int16(), nullable=False),
    ]
)


class Member(NamedTuple):
    """What the choice of a representative looks at; fields only."""

    uid: str
    pixels: int
    """Of the original."""
    captions: int


def band_keys(hashes: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """Return the band keys of hashes: uint8 [n, 32] to int32 [n, 16]; equal keys mean an equal band."""
    values = np.ascontiguousarray(hashes).view(">u2").astype(np.int32)
    return values + np.arange(BANDS, dtype=np.int32) * 65536


def edges_of(
    uids: list[str], hashes: npt.NDArray[np.uint8], radius: int = RADIUS
) -> Iterator[tuple[str, str, int]]:
    """Yield (a, b, distance), a < b, of all pairs of a bucket within the radius."""
    found = search.within(hashes, hashes, radius)
    for a, b, distance in zip(*(column.tolist() for column in found), strict=True):
        if uids[a] < uids[b]:
            yield uids[a], uids[b], distance


@dataclass(frozen=True, kw_only=True)
class BandShuffler:
    """Bring the hashes that share a band together, and write their verified pairs."""

    folder: str
    partitions: int
    low: int
    high: int
    radius: int = RADIUS

    def split(self, task: dict[str, str]) -> Iterator[tuple[int, bytes]]:
        """Yield a shard's hashes by partition of their bands, once for each band."""
        table = records.read_table(task["path"], ["uid", "phash"])
        hashes = hashes_of(table["phash"].to_pylist())
        keys = band_keys(hashes)
        # Mixed, since the bands of photographs are not uniform (Knuth's multiplicative hash).
        mixed = (keys.astype(np.uint64) * np.uint64(2654435761)) & np.uint64(0xFFFFFFFF)
        partition = (mixed * np.uint64(self.partitions) >> np.uint64(32)).astype(np.int64)
        uids, raw = table["uid"].to_pylist(), [row.tobytes() for row in hashes]
        for number in np.unique(partition):
            if self.low <= number < self.high:
                rows, bands = np.nonzero(partition == number)
                columns = [uids[row] for row in rows], [raw[row] for row in rows], keys[rows, bands].tolist()
                arrays = [pa.array(column, f.type) for column, f in zip(columns, NODES, strict=True)]
                yield int(number), records.encode(pa.Table.from_arrays(arrays, schema=NODES))

    def reduce(self, partition: int, slices: Iterable[bytes]) -> dict[str, object]:
        """Write NNNNN.parquet with the verified pairs of a partition, each once."""
        table = pa.concat_tables([NODES.empty_table(), *map(records.decode, slices)])
        table = table.sort_by([("band", "ascending"), ("uid", "ascending")])
        bands, uids = table["band"].to_numpy(), table["uid"].to_pylist()
        hashes = np.frombuffer(b"".join(table["hash"].to_pylist()), np.uint8).reshape(-1, 32)
        starts = np.flatnonzero(np.append(True, bands[1:] != bands[:-1])) if len(bands) else np.zeros(0, int)
        edges: set[tuple[str, str, int]] = set()
        beyond = 0
        for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(bands)], strict=True):
            beyond += max(0, stop - start - MAX_BUCKET)
            stop = min(stop, start + MAX_BUCKET)
            if stop - start > 1:
                edges.update(edges_of(uids[start:stop], hashes[start:stop], self.radius))
        path = storage.join(self.folder, f"{partition:05d}.parquet")
        records.write_table(path, records.to_table(sorted(edges), EDGES))
        return {"path": path, "edges": len(edges), "beyond": beyond}


def hashes_of(digits: list[str]) -> npt.NDArray[np.uint8]:
    """Return hashes from their hexadecimal digits: uint8 [n, 32]."""
    return np.frombuffer(bytes.fromhex("".join(digits)), np.uint8).reshape(-1, 32)


def rank(member: Member) -> tuple[int, int, str]:
    """Return the order of representatives: most pixels of the original, most captions, smallest uid."""
    return -member.pixels, -member.captions, member.uid


def stars(
    members: Iterable[Member], edges: Iterable[tuple[str, str]], most: int = MAX_GROUP
) -> dict[str, list[str]]:
    """Return the members of each group by representative, sorted; groups of one are left out.

    In the order of `rank`, an image that belongs to no group yet takes in those of its neighbours that belong
    to none either, up to `most` with itself.
    """
    order = sorted(members, key=rank)
    place = {member.uid: number for number, member in enumerate(order)}
    neighbours: dict[str, list[str]] = {}
    for a, b in sorted(set(edges)):
        neighbours.setdefault(a, []).append(b)
        neighbours.setdefault(b, []).append(a)
    taken: set[str] = set()
    groups: dict[str, list[str]] = {}
    for member in order:
        if member.uid in taken:
            continue
        free = [uid for uid in set(neighbours.get(member.uid, ())) if uid not in taken and uid in place]
        chosen = sorted(free, key=place.__getitem__)[: most - 1]
        if chosen:
            taken |= {member.uid, *chosen}
            groups[member.uid] = sorted(chosen)
    return groups


def merged(rows: dict[str, dict[str, Any]], groups: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    """Return the rows that stay: representatives with the captions and matched queries of their groups.

    Rows hold `captions` and `matched_query_ids`; a representative's own captions come first.
    """
    gone = {uid for members in groups.values() for uid in members}
    kept = {uid: dict(row) for uid, row in rows.items() if uid not in gone}
    for representative, members in groups.items():
        group = [rows[uid] for uid in (representative, *members)]
        kept[representative]["captions"] = list(dict.fromkeys(c for row in group for c in row["captions"]))
        kept[representative]["matched_query_ids"] = sorted(
            {q for row in group for q in row["matched_query_ids"]}
        )
    return kept


class SiteRemoval(NamedTuple):
    """How much of a site is removed; fields only."""

    site: str
    images: int
    removed: int


def removals(url_of: dict[str, str], groups: dict[str, list[str]]) -> list[SiteRemoval]:
    """Return the sites that lose images, those that lose most first."""
    gone = {uid for members in groups.values() for uid in members}
    images: Counter[str] = Counter()
    removed: Counter[str] = Counter()
    for uid, url in url_of.items():
        site = urls.site(url)
        images[site] += 1
        removed[site] += uid in gone
    rows = [SiteRemoval(site, images[site], count) for site, count in removed.items() if count]
    return sorted(rows, key=lambda row: (-row.removed, row.site))


def check_share(url_of: dict[str, str], groups: dict[str, list[str]], limit: float = 0.5) -> None:
    """Raise ValueError if more than `limit` of the set would go: that is never done silently."""
    gone = sum(len(members) for members in groups.values())
    if gone > limit * len(url_of):
        largest = max(groups.items(), key=lambda item: len(item[1]))
        sites = ", ".join(
            f"{row.site} ({row.removed} of {row.images})" for row in removals(url_of, groups)[:3]
        )
        raise ValueError(
            f"{gone} of {len(url_of)} images would be removed as near-duplicates, over the limit of "
            f"{limit:.0%}; most from {sites}; the largest group, of {len(largest[1]) + 1}, is around "
            f"{largest[0]}. Look at it, and raise the limit if it is right"
        )
