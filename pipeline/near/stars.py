"""Join pairs to groups around a representative, without holding the pairs.

A group is a star: every member is within the radius of its representative, so that nothing is removed because
of a chain of likenesses, which in large sets joins everything. In the order of rank (most pixels of the
original, most captions, smallest uid) an image that belongs to no group yet takes in those of its neighbours
that belong to none either. Those that stay in any case, as the samples of a run that is extended do, come
first and are taken in by none. Neighbours are the images of the same hash and, by the pairs between the first
image of each hash, those of the hashes near it.

Images that stand in a pair take some 60 bytes of memory each. Pairs are read one file at a time and lie on
disk, 16 bytes each, sorted by the rank of their first image in both directions; the walk reads them in order.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline import schemas
from pipeline.near.parts import GROUPS

MAX_GROUP: Final = 1_000
"""Members of a group; the rest begins another. Real copies are fewer, placeholders more."""

Uids = npt.NDArray[np.bytes_]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]
Tables = Callable[[], Iterable[pa.Table]]
"""Returns the tables lazily, as often as it is called."""

_UID: Final = f"S{schemas.UID_BYTES}"
_SORTED: Final = 1 << 22  # pairs that are sorted at a time, about: 32 MiB
_MOST_PIECES: Final = 512  # files open at a time


@dataclass(frozen=True, kw_only=True)
class Images:
    """The n images that stand in a pair, by uid."""

    uids: Uids
    """[n], ascending."""
    order: I32
    """[n]: the image of rank 0, 1, ..."""
    rank: I32
    """[n]: the inverse."""
    kind: I32
    """[n], by rank: the best rank among the images of the same hash."""
    stay: int
    """How many stay in any case: those of the first ranks."""


@dataclass(frozen=True, kw_only=True)
class Stars:
    """Groups of images, each of two or more."""

    groups: pa.Table
    """GROUPS, sorted by uid."""
    count: int
    largest: int
    """Images in the largest, its representative included; 0 without any."""
    around: str
    """The representative of the largest, the smallest uid among equals; hexadecimal digits."""


def uids_of(column: pa.ChunkedArray) -> Uids:
    """Return a column of uids as fixed-size bytes, [n], which numpy can sort and search."""
    array = column.combine_chunks()
    if not len(array):
        return np.zeros(0, _UID)
    whole = np.frombuffer(array.buffers()[1], _UID)
    return np.asarray(whole[array.offset : array.offset + len(array)])


def uid_array(uids: Uids) -> pa.Array:
    """Return fixed-size bytes as a column of uids."""
    raw = pa.py_buffer(np.ascontiguousarray(uids).tobytes())
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(schemas.UID_BYTES), len(uids), [None, raw])


def find_stars(
    edges: Tables, images: Tables, pairs: int, stay: Tables = tuple, before: pa.Table | None = None,
    most: int = MAX_GROUP,
) -> Stars:  # fmt: skip
    """Return the groups of at most `most` images.

    edges: tables of EDGES, `pairs` rows together. images: tables with uid (sorted), original_width and
    original_height, a row for each caption. stay: tables with the uid of images that are representatives in
    any case. before: GROUPS that are known, whose members are in no pair.
    """
    uids = _paired(edges())
    known = _images(uids, edges, images(), stay())
    with tempfile.TemporaryDirectory(prefix="openwit-near-") as folder:
        links = _linked(known, edges(), pairs, Path(folder))
        star = walk(known.kind, links, most, known.stay)
    return _stars(known, star, GROUPS.empty_table() if before is None else before)


def _paired(tables: Iterable[pa.Table]) -> Uids:
    """Return the uids of all images in a pair, ascending."""
    found, more, count = np.zeros(0, _UID), list[Uids](), 0
    for table in tables:
        more.append(np.unique(np.concatenate([uids_of(table["a"]), uids_of(table["b"])])))
        count += len(more[-1])
        if count > max(len(found), _SORTED):  # so that each uid is sorted a few times, not once a file
            found, more, count = np.unique(np.concatenate([found, *more])), [], 0
    return np.unique(np.concatenate([found, *more]))


def _images(uids: Uids, edges: Tables, images: Iterable[pa.Table], stay: Iterable[pa.Table]) -> Images:
    stays = np.zeros(len(uids), bool)
    for table in stay:
        at, here = _places(uids, uids_of(table["uid"]))
        stays[at[here]] = True
    pixels, captions = np.zeros(len(uids), np.int64), np.zeros(len(uids), np.int32)
    for table in images:
        starts = schemas.run_starts(table["uid"])
        at, here = _places(uids, uids_of(table["uid"])[starts])
        width, height = (table[f"original_{side}"].to_numpy()[starts].astype(np.int64)
                         for side in ("width", "height"))  # fmt: skip
        pixels[at[here]] = (width * height)[here]
        captions[at[here]] = np.diff(np.append(starts, len(table)))[here]
    order = np.lexsort((-captions, -pixels, ~stays)).astype(np.int32)  # stable: then by uid
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order), dtype=np.int32)
    first = np.arange(len(uids), dtype=np.int32)
    for table in edges():
        same = table["distance"].to_numpy() == 0
        first[np.searchsorted(uids, uids_of(table["b"])[same])] = np.searchsorted(
            uids, uids_of(table["a"])[same]
        )
    best = np.full(len(uids), len(uids), np.int32)
    np.minimum.at(best, first, rank)
    return Images(uids=uids, order=order, rank=rank, kind=best[first[order]], stay=int(stays.sum()))


def _places(uids: Uids, given: Uids) -> tuple[I64, I64]:
    """Return where each of k uids would stand among the n, int64 [k], and which of the k are among them."""
    at = np.minimum(np.searchsorted(uids, given), max(len(uids) - 1, 0))
    return at, np.flatnonzero(uids[at] == given) if len(uids) else np.zeros(0, np.int64)


def _linked(known: Images, edges: Iterable[pa.Table], pairs: int, folder: Path) -> U64:
    """Return, mapped from a file, which kinds are near each other: uint64 [2 * pairs at most], ascending.

    The upper half of a number is the first kind, the lower half the second.
    """
    width = max(1, -(-len(known.uids) // min(_MOST_PIECES, max(1, 2 * pairs // _SORTED))))
    pieces: dict[int, Path] = {}
    for table in edges:
        apart = table["distance"].to_numpy() > 0
        a, b = (
            known.kind[known.rank[np.searchsorted(known.uids, uids_of(table[name])[apart])]].astype(np.uint64)
            for name in ("a", "b")
        )
        links = np.sort(np.concatenate([a << np.uint64(32) | b, b << np.uint64(32) | a]))
        piece = (links >> np.uint64(32)) // np.uint64(width)
        for number in np.unique(piece).tolist():
            pieces[number] = folder / f"{number}"
            start, stop = np.searchsorted(piece, np.array([number, number + 1], np.uint64))
            with pieces[number].open("ab") as sink:
                sink.write(links[start:stop].tobytes())
    return _joined([pieces[number] for number in sorted(pieces)], folder / "all")


def _joined(pieces: Sequence[Path], path: Path) -> U64:
    """Sort each piece, and map all of them in sequence from one file."""
    with path.open("wb") as sink:
        for piece in pieces:
            sink.write(np.sort(np.fromfile(piece, np.uint64)).tobytes())
            piece.unlink()
    if not path.stat().st_size:
        return np.zeros(0, np.uint64)
    return np.asarray(np.memmap(path, np.uint64, "r"))


def walk(kind: I32, links: U64, most: int, stay: int = 0) -> I32:
    """Return the representative of each of n images, both by rank: int32 [n]; its own where it has none.

    kind: int32 [n], and `stay`, as `Images` has them. links: as `_linked` returns them.
    """
    star = np.full(len(kind), -1, np.int32)
    star[:stay] = np.arange(stay)
    alike = np.argsort(kind, kind="stable").astype(np.int32)  # images of a kind, by rank
    kinds = kind[alike]
    for image in range(len(kind)):
        if star[image] >= 0 and image >= stay:
            continue
        star[image] = image
        near = np.concatenate([[kind[image]], _neighbours(links, int(kind[image]))])
        starts, stops = (np.searchsorted(kinds, near, side) for side in ("left", "right"))
        members = np.concatenate([alike[a:b] for a, b in zip(starts.tolist(), stops.tolist(), strict=True)])
        members = members[star[members] < 0]
        if len(members):
            members.sort()
            star[members[: most - 1]] = image
    return star


def _neighbours(links: U64, kind: int) -> I32:
    start, stop = np.searchsorted(links, np.array([kind << 32, (kind + 1) << 32], np.uint64))
    return (links[start:stop] & np.uint64(0xFFFFFFFF)).astype(np.int32)


def _stars(known: Images, star: I32, before: pa.Table) -> Stars:
    by_uid = star[known.rank]
    gone = np.flatnonzero(by_uid != known.rank)
    members = np.concatenate([known.uids[gone], uids_of(before["uid"])])
    stars = np.concatenate([known.uids[known.order[by_uid[gone]]], uids_of(before["representative"])])
    order = np.argsort(members)
    columns = [uid_array(members[order]), uid_array(stars[order])]
    table = pa.Table.from_arrays(columns, schema=GROUPS)
    if not len(table):
        return Stars(groups=table, count=0, largest=0, around="")
    around, sizes = np.unique(stars, return_counts=True)
    largest = int(sizes.argmax())  # the first of equals
    uid = bytes(around[largest]).ljust(schemas.UID_BYTES, b"\0")
    return Stars(groups=table, count=len(sizes), largest=int(sizes[largest]) + 1, around=uid.hex())


def tables(paths: Sequence[str], columns: list[str] | None = None) -> Iterator[pa.Table]:
    """Yield tables singly."""
    for path in paths:
        yield schemas.read_table(path, columns)
