"""Short lists of the samples that have a term, each with where its samples stand in every order.

FTS5's lists hold positions, and to sort what they leave each row has to be read: 24 MB for a phrase of a
common and a rare word in ten million samples. Here a list holds ids, of one byte or two each, and beside them
the sample's place in the order of each column of numbers, three bytes each, and a bitmap for each of the 40
commonest terms. So a page that is sorted and cut is worked out from the lists of its rarest terms, and only
the rows that it shows are read. Two or three words in a row are a term of their own. Terms that every
sixteenth sample has are bitmaps (see `orders`), and terms of few samples are ids alone. Of the rarest, single
words are left to FTS5, and several words share their lists with others.
"""

import itertools
import json
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pipeline.index import orders, packing
from pipeline.index.terms import Ids, Keys, Terms

LEAST: Final = 500_000
"""Samples below which an index has no such lists, since FTS5's are short."""
COMMON: Final = 16
"""One sample in 16 has a term that has a bitmap in place of a list."""
FEW: Final = 160
"""Samples that have a term with places beside its ids: the rows of fewer are as soon read."""
SIGNS: Final = 40
"""Terms of which each list says which of its samples have them."""
_LOOKED_AT: Final = 8  # one sample in eight is looked at to see which terms are common
_SPAN: Final = 16_384  # ids that are worked on at a time
_SORTED: Final = 4_000_000  # pairs of a term and an id that are sorted at a time
_TERMS: Final = 40  # of a sample that are sorted, about
_PAIR: Final = np.dtype([("key", "<u8"), ("id", "<u4")])
_BITS: Final = 63  # of a term
TABLES: Final = """
CREATE TABLE terms (key INTEGER PRIMARY KEY, size INTEGER, first INTEGER, data BLOB);
CREATE TABLE lists (place INTEGER PRIMARY KEY, data BLOB);
CREATE TABLE common (key INTEGER PRIMARY KEY, first INTEGER);
"""


def shared(key: int, samples: int) -> int:
    """Return the key of the list that a rare term of several words shares with others."""
    return key >> _low(samples) << _low(samples) | 1


def _low(samples: int) -> int:
    """Return the bits that the terms of a shared list differ in."""
    return _BITS - max(8, samples.bit_length() - 2)


def renew(db: sqlite3.Connection, columns: Sequence[str], samples: int) -> None:
    """Write the lists again, if the index has changed."""
    if db.execute("SELECT 1 FROM meta WHERE name = 'lists'").fetchone():
        return
    for name in ("terms", "lists", "common"):
        db.execute(f"DROP TABLE IF EXISTS {name}")
    for statement in filter(str.strip, TABLES.split(";")):
        db.execute(statement)
    places = None
    if samples >= LEAST:
        last = int(db.execute("SELECT max(id) FROM samples").fetchone()[0])
        every = {name: found for name in columns if (found := _ordered(db, name, samples)) is not None}
        with tempfile.TemporaryDirectory(dir=_folder(db)) as folder:
            writer = _Writer(db, samples, last, every, Path(folder))
            writer.write()
            places = orders.write(db, every, writer.places, writer.common()) | writer.signs
    db.execute("INSERT INTO meta VALUES ('lists', ?)", (json.dumps(places),))


def _folder(db: sqlite3.Connection) -> str | None:
    path = db.execute("PRAGMA database_list").fetchone()[2]
    return str(Path(path).parent) if path else None


def _ordered(db: sqlite3.Connection, name: str, samples: int) -> Ids | None:
    """Return the ids in the order of a column, uint32 [samples]; None if it has one value."""
    ends = [f'(SELECT "{name}" FROM samples ORDER BY "{name}" {way} LIMIT 1)' for way in ("", "DESC")]
    if db.execute(f"SELECT {' IS '.join(ends)}").fetchone()[0]:
        return None
    every = db.execute(f'SELECT id FROM samples ORDER BY "{name}", id')
    return np.fromiter((row[0] for row in every), np.uint32, samples)


class _Writer:
    """Writes the lists of an index: samples in all, the last id, and the ids in the order of each column."""

    def __init__(
        self, db: sqlite3.Connection, samples: int, last: int, ordered: dict[str, Ids], folder: Path
    ) -> None:
        self._db, self._samples, self._last = db, samples, last
        self.places = {name: np.zeros(last + 1, np.uint32) for name in ordered}
        for name, ids in ordered.items():
            self.places[name][ids] = np.arange(samples, dtype=np.uint32)
        self._slots = max(8, samples.bit_length() - 1)  # bits
        self._parts = (samples * _TERMS // _SORTED).bit_length()  # bits
        self._files = [folder / str(n) for n in range(1 << self._parts)]
        self._place = 1
        self._wide = dict[int, tuple[int, bytes]]()
        self._signs, self.signs = np.zeros(last + 1, "<u8"), dict[str, int]()

    def write(self) -> None:
        """Count terms in some samples, sort all of those that are to have a list, and write the lists."""
        terms = Terms()
        counts, keys = np.zeros(1 << self._slots, np.int32), np.zeros(0, np.uint64)
        for _, rows in _batches(self._db, f"id % {_LOOKED_AT} = 0", _LOOKED_AT * _SPAN, self._last):
            keys, _ids = terms.of(rows)
            counts += np.bincount(self._slot(keys), minlength=len(counts)).astype(np.int32)
        self._is_own = counts >= FEW * 3 // 4 // _LOOKED_AT  # else seldom as many
        common = counts[self._slot(keys)] >= max(self._samples // (COMMON * _LOOKED_AT), 1)
        self._common = np.unique(keys[common])
        self._bitmaps = np.zeros((len(self._common), -(-(self._last + 1) // _SPAN) * _SPAN // 8), np.uint8)
        for start, rows in _batches(self._db, "1", _SPAN, self._last):
            self._sort_out(start, *terms.of(rows))
        sizes = np.bitwise_count(self._bitmaps).sum(axis=1, dtype=np.int64).tolist()
        whole = list(zip(self._common.tolist(), sizes, strict=True))
        self._db.executemany("INSERT INTO terms VALUES (?, ?, 0, NULL)", whole)
        self._sign(sizes)
        for file in self._files:
            if file.exists():
                self._write_lists(np.fromfile(file, _PAIR))
                file.unlink()

    def _sign(self, sizes: Sequence[int]) -> None:
        """Choose the commonest terms, but not those that all samples have; the same samples are one sign."""
        bits = dict[bytes, int]()
        for row in np.argsort(sizes, kind="stable")[::-1].tolist():
            own = self._bitmaps[row].tobytes()
            if sizes[row] == self._samples or (own not in bits and len(bits) == SIGNS):
                continue
            bit = bits.setdefault(own, len(bits))
            self.signs[f"sign {self._common[row]}"] = bit
            has = np.unpackbits(self._bitmaps[row])[: self._last + 1].astype(np.uint64)
            self._signs |= has << np.uint64(bit)

    def common(self) -> Iterator[tuple[int, npt.NDArray[np.bool_]]]:
        """Yield each common term and which ids have it, bool [last + 1]."""
        for key, packed_bits in zip(self._common.tolist(), self._bitmaps, strict=True):
            yield key, np.unpackbits(packed_bits)[: self._last + 1].astype(bool)
        for key, (first, data) in self._wide.items():
            bits = np.zeros(self._last + 1, bool)
            bits[whole(self._db, first, data)] = True
            yield key, bits

    def _slot(self, keys: Keys) -> npt.NDArray[np.int64]:
        return (keys >> np.uint64(_BITS - self._slots)).astype(np.int64)

    def _sort_out(self, start: int, keys: Keys, ids: Ids) -> None:
        """Note the terms of samples from `start` on: in bitmaps, or in the files to be sorted."""
        at = np.minimum(np.searchsorted(self._common, keys), max(len(self._common) - 1, 0))
        is_common = self._common[at] == keys if len(self._common) else np.zeros(len(keys), bool)
        bits = np.zeros((len(self._common), _SPAN), bool)
        bits[at[is_common], ids[is_common] - np.uint32(start)] = True
        self._bitmaps[:, start // 8 : (start + _SPAN) // 8] = np.packbits(bits, axis=1)
        is_own = self._is_own[self._slot(keys)]
        rare, low = ~is_own & (keys & np.uint64(1)).astype(bool), np.uint64(_low(self._samples))
        keys[rare] = keys[rare] >> low << low | np.uint64(1)
        stays = ~is_common & (is_own | rare)
        keys, ids = keys[stays], ids[stays]
        order = np.argsort((ids - np.uint32(start)).astype(np.uint16), kind="stable")
        part = (keys[order] >> np.uint64(_BITS - self._parts)).astype(np.uint16)
        order = order[np.argsort(part, kind="stable")]
        found = np.empty(len(order), _PAIR)
        found["key"], found["id"] = keys[order], ids[order]
        bounds = np.searchsorted(np.sort(part, kind="stable"), np.arange(len(self._files) + 1))
        for file, (first, last) in zip(self._files, itertools.pairwise(bounds.tolist()), strict=True):
            if first < last:
                with file.open("ab") as opened:
                    opened.write(found[first:last].tobytes())

    def _write_lists(self, found: npt.NDArray[Any]) -> None:
        """Write the lists of pairs of a term and an id, in the order of ids."""
        found = found[np.argsort(found["key"], kind="stable")]
        keys, ids = found["key"], found["id"]
        is_new = np.append(True, (keys[1:] != keys[:-1]) | (ids[1:] != ids[:-1]))
        keys, ids = keys[is_new], ids[is_new]
        starts = np.append(np.flatnonzero(np.append(True, keys[1:] != keys[:-1])), len(keys)).tolist()
        low = (1 << _low(self._samples)) - 1
        rows, blobs = list[tuple[int, int, int | None, bytes]](), list[bytes]()
        for first, last in itertools.pairwise(starts):
            key, own, place = int(keys[first]), ids[first:last], self._place + len(blobs)
            if key & low == 1 or len(own) < FEW:
                rows.append((key, last - first, None, own.tobytes()))
            else:
                data = own[:: packing.PART].tobytes()
                rows.append((key, last - first, place, data))
                if len(own) >= self._samples // orders.SHARE:
                    self._wide[key] = place, data
                blobs += self._parts_of(own)
        self._db.executemany("INSERT INTO terms VALUES (?, ?, ?, ?)", rows)
        self._db.executemany("INSERT INTO lists VALUES (?, ?)", enumerate(blobs, self._place))
        self._place += len(blobs)

    def _parts_of(self, ids: Ids) -> Iterator[bytes]:
        """Yield the parts of a list: of its ids, then of the places in each column, then of the bitmaps."""
        parts = [ids[start : start + packing.PART] for start in range(0, len(ids), packing.PART)]
        yield from map(packing.packed, parts)
        for own in self.places.values():
            yield from (packing.shortened(own[part], self._samples) for part in parts)
        signs = self._signs[ids].view(np.uint8).reshape(-1, 8)[:, : SIGNS // 8]
        signs = np.unpackbits(signs, axis=1, bitorder="little")
        data = np.packbits(np.ascontiguousarray(signs.T), axis=1).tobytes()
        yield from (data[start : start + orders.BYTES] for start in range(0, len(data), orders.BYTES))


def whole(db: sqlite3.Connection, first: int, data: bytes) -> Ids:
    """Return the ids of a list: the place of its first part, and the first id of each part."""
    firsts = np.frombuffer(data, np.uint32).tolist()
    statement = "SELECT data FROM lists WHERE place >= ? ORDER BY place LIMIT ?"
    rows = db.execute(statement, (first, len(firsts)))
    return np.concatenate([packing.unpacked(start, row[0]) for start, row in zip(firsts, rows, strict=True)])


def _batches(
    db: sqlite3.Connection, where: str, span: int, last: int
) -> Iterator[tuple[int, list[tuple[Any, ...]]]]:
    """Yield the first id of each span of ids, and its rows."""
    for start in range(0, last + 1, span):
        rows = db.execute(
            f"SELECT id, caption, url, tags FROM samples WHERE id >= ? AND id < ? AND {where} ORDER BY id",
            (start, start + span),
        ).fetchall()
        if rows:
            yield start, rows
