"""Common terms, the cuts and the ids in every order of a set: its own, and that of each column of numbers.

What many samples have is found soon, whichever order they are looked through in, if it is written down in
that order: a bitmap for each term that every sixty-fourth sample has, the ids, and in which 256th of every
other order each sample is, and in which 256th of that. That is 0.13 bytes a sample for each term and order,
and two for each two orders.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pipeline.index import packing
from pipeline.index.terms import Ids

SHARE: Final = 64
"""One sample in 64 has a term that has a bitmap in each order."""
BYTES: Final = 4_000
"""Of a part of a bitmap."""
IDS: Final = 992
"""Ids of a part."""


def parts(last: int) -> int:
    """Return the parts of a bitmap of ids up to the last."""
    return -(-(last + 1) // (8 * BYTES))


def about(places: npt.NDArray[Any], samples: int) -> npt.NDArray[np.uint16]:
    """Return in which 65,536th of an order places, [n], are, uint16 [n]."""
    return (places.astype(np.int64) * 65_536 // samples).astype(np.uint16)


def write(
    db: sqlite3.Connection, ordered: Mapping[str, Ids], places: Mapping[str, Ids],
    common: Iterable[tuple[int, npt.NDArray[np.bool_]]],
) -> dict[str, int]:  # fmt: skip
    """Write ids, places and bitmaps in every order; return where each begins, by "ORDER WHAT".

    ordered: the ids in the order of each column, uint32 [samples]; places: uint32 [last + 1] by id; common:
    terms, and which ids have them, bool [last + 1].
    """
    place = int(db.execute("SELECT coalesce(max(place), 0) + 1 FROM lists").fetchone()[0])
    found = dict[str, int]()

    def put(data: bytes, size: int) -> int:
        nonlocal place
        blobs = [data[start : start + size] for start in range(0, len(data), size)]
        db.executemany("INSERT INTO lists VALUES (?, ?)", list(enumerate(blobs, place)))
        place += len(blobs)
        return place - len(blobs)

    for name, ids in ordered.items():
        found[f"{name} ids"] = put(ids.tobytes(), 4 * IDS)
    for column, own in places.items():
        samples = len(ordered[column])
        found[f" {column}"] = put(packing.shortened(own, samples), packing.PART * packing.width(samples))
        for name, ids in {"": np.arange(len(own), dtype=np.uint32), **ordered}.items():
            if name != column:
                both = about(own[ids], samples)
                found[f"{name} {column} about"] = put((both >> 8).astype(np.uint8).tobytes(), BYTES)
                found[f"{name} {column} closer"] = put(both.astype(np.uint8).tobytes(), BYTES)
    known = dict[bytes, int]()
    for key, bits in common:
        packed, size = np.packbits(bits).tobytes(), BYTES * parts(len(bits) - 1)
        if packed not in known:  # such as for each part of a site's name
            known[packed] = place
            put(packed.ljust(size, b"\0"), BYTES)
            for some in ordered.values():
                put(np.packbits(bits[some]).tobytes().ljust(size, b"\0"), BYTES)
        db.execute("INSERT INTO common VALUES (?, ?)", (key, known[packed]))
    return found
