"""The lists of terms and orders of an index that is open for reading."""

import functools
import json
import sqlite3
import sys
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.index import orders, packing, postings, terms
from pipeline.index.question import Filter, Question
from pipeline.index.reader import Reader
from pipeline.index.terms import Ids

Mask = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]
_PAGE: Final = 4_096  # bytes that are read for a part of a list


class List(NamedTuple):
    """The samples of a term.

    first: the place of its first part, or None if `data` has the ids; data: the first id of each part, None
    for a bitmap; common: the place of its bitmaps in each order, if it is common; sign: the bit of the signs
    of other lists that says which samples it has.
    """

    size: int
    first: int | None
    data: bytes | None
    common: int | None = None
    sign: int | None = None


class Word(NamedTuple):
    """A word, tag or phrase as the lists in all of which its samples are.

    is_exact: whether all that are in its lists have it.
    """

    lists: tuple[List, ...]
    is_exact: bool

    @property
    def size(self) -> int:
        """Return the samples of its shortest list."""
        return min(one.size for one in self.lists)

    @property
    def sign(self) -> int | None:
        """Return the sign that says which samples have it, if there is one."""
        return self.lists[0].sign if len(self.lists) == 1 and self.is_exact else None


class Lists:
    """The lists of an index that is open for reading; for one thread."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        first: dict[str, int] | None = json.loads(reader.meta("lists") or "null")
        self.are_there = first is not None
        self._first = first or {}
        self._signs = {int(name[5:]): bit for name, bit in self._first.items() if name.startswith("sign ")}
        self.columns = [name.removesuffix(" ids") for name in self._first if name.endswith(" ids")]
        self.samples = int(reader.meta("samples") or 0)
        self.cuts = reader.cuts
        self.last = functools.cache(lambda: int(self._value("SELECT max(id) FROM samples", []) or 0))
        self._some = sqlite3.connect(":memory:", check_same_thread=False)
        self._some.execute("CREATE VIRTUAL TABLE some USING fts5 (tags, caption, url, content='')")

    def close(self) -> None:
        """Forget what rows were looked at."""
        self._some.close()

    def _value(self, statement: str, values: list[Any]) -> Any:
        return next(self._reader.tuples(statement, values), (None,))[0]

    def word(self, inner: str) -> Word | None:
        """Return a word or several in a row; None for one without a word."""
        (found,) = terms.words([inner])
        if not found:
            return None
        keys = np.array([terms.word(one) for one in found], np.uint64)
        if len(found) == 1:
            return self._single(int(keys[0]), f'{{caption url}} : "{inner}"')
        rows = terms.pairs(keys[:-1], keys[1:])
        if len(found) > 2:
            rows = terms.pairs(rows[:-1], keys[2:])
        known = [(self._list(key), key) for key in rows.tolist()]
        own = [one for one, _ in known if one]
        shared = [self._list(postings.shared(key, self.samples)) or List(0, None, b"")
                  for one, key in known if one is None]  # fmt: skip
        return Word((*own, *shared), len(found) <= 3 and not shared)

    def tagged(self, tag: str) -> Word:
        """Return the samples with a tag."""
        return self._single(terms.tag(tag), f"tags : {tag}")

    def _single(self, key: int, match: str) -> Word:
        """Return a word or tag, whose samples FTS5 knows if they are few."""
        found = self._list(key)
        if found is None:
            statement = "SELECT rowid FROM samples_text WHERE samples_text MATCH ? ORDER BY rowid"
            ids = np.array([row[0] for row in self._reader.tuples(statement, [match])], np.uint32)
            found = List(len(ids), None, ids.tobytes())
        return Word((found,), True)

    def _list(self, key: int) -> List | None:
        statement = "SELECT size, terms.first, data, common.first FROM terms LEFT JOIN common USING (key)"
        row = next(self._reader.tuples(f"{statement} WHERE key = ?", [key]), None)
        if row is None:
            return None
        size, first, data, common = row
        return List(size, first, data, common, self._signs.get(key))

    def _parts(self, first: int, number: int) -> list[bytes]:
        statement = "SELECT data FROM lists WHERE place >= ? AND place < ? ORDER BY place"
        return [row[0] for row in self._reader.tuples(statement, [first, first + number])]

    def ids(self, one: List) -> Ids:
        """Return the ids of a list that is no bitmap, rising."""
        if one.first is None:
            return np.frombuffer(one.data or b"", np.uint32)
        assert one.data is not None
        return postings.whole(self._reader.db, one.first, one.data)

    def places(self, one: List, column: str) -> Places:
        """Return the place in the order of a column of each sample of a list."""
        assert one.first is not None and one.data
        number = len(one.data) // 4
        first = one.first + number * (1 + self.columns.index(column))
        return self._long(b"".join(self._parts(first, number)))

    def signs(self, one: List) -> npt.NDArray[np.uint16]:
        """Return which of the commonest terms each sample of a list has, as bits."""
        assert one.first is not None and one.data
        statement = "SELECT data FROM signs WHERE place >= ? AND place < ? ORDER BY place"
        rows = self._reader.tuples(statement, [one.first, one.first + len(one.data) // 4])
        return np.frombuffer(b"".join(row[0] for row in rows), np.uint16)

    def _long(self, data: bytes) -> Places:
        return packing.lengthened(data, self.samples).astype(np.int64)

    def among(self, one: List, ids: Ids) -> Mask:
        """Return which ids, rising, are in a list, of which only the parts are read that may have them."""
        if one.first is None or not len(ids):
            return np.isin(ids, np.frombuffer(one.data or b"", np.uint32))
        if one.data is None:
            return self.bits(one, "", ids.astype(np.int64))
        firsts = np.frombuffer(one.data, np.uint32)
        found = np.zeros(len(ids), bool)
        for part, start, end in _runs(np.searchsorted(firsts, ids, side="right") - 1):
            if part >= 0:
                (data,) = self._parts(one.first + part, 1)
                own, some = packing.unpacked(int(firsts[part]), data), ids[start:end]
                found[start:end] = own[np.minimum(np.searchsorted(own, some), len(own) - 1)] == some
        return found

    def bits(self, one: List, order: str, places: Places) -> Mask:
        """Return which places, rising, of an order have samples of a common list."""
        assert one.common is not None
        number = 0 if not order else 1 + self.columns.index(order)
        first = one.common + number * orders.parts(self.last())
        found = np.zeros(len(places), bool)
        for part, start, end in _runs(places // (8 * orders.BYTES)):
            (data,) = self._parts(first + part, 1)
            at = places[start:end] - 8 * orders.BYTES * part
            found[start:end] = (np.frombuffer(data, np.uint8)[at >> 3] >> (7 - (at & 7)).astype(np.uint8)) & 1
        return found

    def ids_at(self, order: str, places: Places) -> Ids:
        """Return the ids at places, rising, of an order."""
        if not order:
            return places.astype(np.uint32)
        found = np.zeros(len(places), np.uint32)
        for part, start, end in _runs(places // orders.IDS):
            (data,) = self._parts(self._first[f"{order} ids"] + part, 1)
            found[start:end] = np.frombuffer(data, "<u4")[places[start:end] - orders.IDS * part]
        return found

    def place(self, column: str, one: int) -> int:
        """Return the place of an id in the order of a column."""
        (data,) = self._parts(self._first[f" {column}"] + one // packing.PART, 1)
        return int(self._long(data)[one % packing.PART])

    def within(self, order: str, column: str, bounds: tuple[int, int], places: Places) -> tuple[Mask, Mask]:
        """Return which samples at places, rising, of an order may be within the places of another column, and
        which of these may be outside.
        """
        found = np.zeros(len(places), np.uint8)
        for part, start, end in _runs(places // orders.BYTES):
            (data,) = self._parts(self._first[f"{order} {column} about"] + part, 1)
            found[start:end] = np.frombuffer(data, np.uint8)[places[start:end] - orders.BYTES * part]
        low, high = orders.about(np.array([bounds[0], max(bounds[1] - 1, 0)]), self.samples).tolist()
        may_be: Mask = (found >= low) & (found <= high)
        return may_be, ((found == low) | (found == high))[may_be]

    def cut(self, wanted: Filter, column: str) -> tuple[int, int]:
        """Return from and below which places of a column samples are within a filter's bounds."""
        least = max(wanted.least.get(column, -np.inf), -sys.float_info.max)  # else one without a value, too
        most = wanted.most.get(column, np.inf)
        first, last = (
            self._value(f'SELECT id FROM samples WHERE "{column}" {sign} ? ORDER BY {order} LIMIT 1', [bound])
            for sign, bound, order in (
                (">=", least, f'"{column}", id'), ("<=", most, f'"{column}" DESC, id DESC')
            )
        )  # fmt: skip
        if first is None or last is None:
            return 0, 0
        return self.place(column, first), self.place(column, last) + 1

    def confirmed(self, ids: Ids, asked: Question) -> list[int]:
        """Return the ids of those samples whose rows show that they are meant."""
        where = " AND ".join(("id IN (SELECT value FROM json_each(?))", *asked.bounds))
        values = [json.dumps(ids.tolist()), *asked.values]
        rows = list(self._reader.tuples(f"SELECT id, tags, caption, url FROM samples WHERE {where}", values))
        if not asked.match:
            return [row[0] for row in rows]
        self._some.execute("INSERT INTO some (some) VALUES ('delete-all')")
        self._some.executemany("INSERT INTO some (rowid, tags, caption, url) VALUES (?, ?, ?, ?)", rows)
        found = self._some.execute("SELECT rowid FROM some WHERE some MATCH ?", (asked.match,))
        return [row[0] for row in found]


def _runs(numbers: npt.NDArray[Any]) -> Iterator[tuple[int, int, int]]:
    """Yield each number of rising ones with its first and last place."""
    starts = np.flatnonzero(np.append(True, numbers[1:] != numbers[:-1])).tolist() if len(numbers) else []
    for start, end in zip(starts, [*starts[1:], len(numbers)] if starts else [], strict=True):
        yield int(numbers[start]), start, end
