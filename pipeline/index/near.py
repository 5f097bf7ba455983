"""Pictures of a set that look alike, as groups to look at.

Groups are stars, as in `--dedup near`: every member is within the radius of its first picture. Nothing is
removed by them.
"""

from typing import Any, Final

import numpy as np

from pipeline.index.tables import Index
from pipeline.near.groups import BANDS, MAX_BUCKET, U8, near_pairs

MOST: Final = 2_000_000
"""Samples with a hash up to which groups are made: every two pictures that share 16 bits are compared."""


def renew(index: Index) -> None:
    """Group the samples of an index that has changed by their perceptual hashes."""
    if not index.has_changed:
        return
    db = index.db
    with db:
        db.execute("DELETE FROM near")
        hashed = db.execute("SELECT count(phash) FROM samples").fetchone()[0]
        if not 2 <= hashed <= MOST:
            return
        rows = db.execute("SELECT id, phash FROM samples WHERE phash IS NOT NULL ORDER BY id").fetchall()
        ids = [row[0] for row in rows]
        hashes = np.frombuffer(b"".join(row[1] for row in rows), np.uint8).reshape(-1, 32)
        db.executemany(
            "INSERT INTO near VALUES (?, ?, ?)",
            [(ids[member], ids[first], distance) for member, first, distance in stars(hashes)],
        )


def stars(hashes: U8) -> list[tuple[int, int, int]]:
    """Return (member, first member of its group, distance) of rows that have near ones: uint8 [n, 32].

    The row with the most neighbours begins a group, and takes its neighbours that are free; then the next.
    """
    near = dict[int, dict[int, int]]()
    for a, b, distance in _pairs(hashes):
        near.setdefault(a, {})[b] = near.setdefault(b, {})[a] = distance
    taken, found = set[int](), list[tuple[int, int, int]]()
    for first in sorted(near, key=lambda row: (-len(near[row]), row)):
        free = [(row, distance) for row, distance in sorted(near[first].items()) if row not in taken]
        if first not in taken and free:
            found += [(first, first, 0), *((row, first, distance) for row, distance in free)]
            taken |= {first, *(row for row, _ in free)}
    return found


def _pairs(hashes: U8) -> Any:
    """Yield row, row and distance of near pairs that share a band; of equal hashes the first alone."""
    _, first, which = np.unique(
        np.ascontiguousarray(hashes).view("V32").ravel(), return_index=True, return_inverse=True
    )
    for row, same in enumerate(first[which].tolist()):
        if row != same:
            yield same, row, 0
    rows = np.sort(first)
    words = np.ascontiguousarray(hashes[rows]).view(">u2")
    for band in range(BANDS):
        order = np.argsort(words[:, band], kind="stable")
        keys = words[order, band].astype(np.int32)
        compared = np.arange(len(keys)) - np.searchsorted(keys, keys) < MAX_BUCKET
        own = rows[order[compared]]
        for a, b, distance in near_pairs(keys[compared], hashes[own]):
            yield from zip(own[a].tolist(), own[b].tolist(), distance.tolist(), strict=True)
