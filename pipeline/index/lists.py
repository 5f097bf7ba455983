"""The lists of terms and orders of an index that is open for reading."""

import functools
import json
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.index import orders, packing, postings, terms
from pipeline.index.question import Filter, Question
from pipeline.index.reader import Reader
from pipeline.index.terms import Ids

Mask = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]
_PAGE: Final = 4_096  # bytes of a page of the file
_LED_TO: Final = 400  # parts by one page
Numbers = npt.NDArray[np.uint8] | npt.NDArray[np.uint32]


class List(NamedTuple):
    """The samples of a term.

    first: the place of its first part, or None if `data` has the ids; data: the first id of each part, None
    for a bitmap; common: the place of its bitmaps in each order, if it is common; sign: the bitmap of other
    lists that says which of their samples it has; inside: the column within whose bounds all its samples are.
    """

    size: int
    first: int | None
    data: bytes | None
    common: int | None = None
    sign: int | None = None
    inside: str = ""


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
        self._was_read = dict[tuple[str, int], int]()  # bytes of the terms and parts
        self._some = sqlite3.connect(":memory:", check_same_thread=False)
        self._some.execute("CREATE VIRTUAL TABLE some USING fts5 (tags, caption, url, content='')")

    def close(self) -> None:
        """Forget what rows were looked at."""
        self._some.close()

    def forget(self) -> None:
        """Count what is read from now on."""
        self._was_read.clear()

    def bytes_read(self) -> int:
        """Return about how many bytes were read of the file, each page once."""
        return sum(self._was_read.values())

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
        single = [one for key in keys.tolist() if (one := self._list(key))] if shared else []
        rarest = sorted(one for one in single if one.common is None)[:1]  # tells the others of a shared list
        return Word((*own, *shared, *rarest), len(found) <= 3 and not shared)

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
        self._was_read["term", key] = 2 * _PAGE
        if row is None:
            return None
        size, first, data, common = row
        return List(size, first, data, common, self._signs.get(key))

    def _parts(self, first: int, numbers: Sequence[int]) -> Iterator[bytes]:
        """Yield parts by their rising numbers; those that follow one another by one statement."""
        statement, start = "SELECT data FROM lists WHERE place >= ? ORDER BY place LIMIT ?", 0
        for end, number in enumerate(numbers, 1):
            if end == len(numbers) or numbers[end] != number + 1:
                rows = self._reader.tuples(statement, [first + numbers[start], end - start])
                for place, (data,) in enumerate(rows, first + numbers[start]):
                    self._was_read["part", place] = max(len(data), _PAGE)
                    self._was_read["leads to parts", place // _LED_TO] = _PAGE
                    yield data
                start = end

    def _read(self, first: int, size: int, at: Places, numbers: Callable[[int, bytes], Numbers]) -> Ids:
        """Return the numbers at rising places, of which only the parts are read that have one of them.

        first: the place of the first part; size: numbers of a part; numbers: returns those of a part.
        """
        found, runs = np.zeros(len(at), np.uint32), list(_runs(at // size))
        for (part, start, end), data in zip(runs, self._parts(first, [run[0] for run in runs]), strict=True):
            found[start:end] = numbers(part, data)[at[start:end] - size * part]
        return found

    def ids(self, one: List, at: Places) -> Ids:
        """Return the ids of those at rising places of a list that is no bitmap."""
        if one.first is None:
            return rare(one)[at]
        assert one.data is not None
        firsts = np.frombuffer(one.data, np.uint32).tolist()
        return self._read(
            one.first, packing.PART, at, lambda part, data: packing.unpacked(firsts[part], data)
        )

    def places(self, column: str, low: int, one: List, at: Places) -> Places:
        """Return the place in the order of a column of those at rising places of a list."""
        if one.inside == column:
            return np.full(len(at), low)
        first = self._beside(one, 1 + self.columns.index(column))
        return self._read(first, packing.PART, at, self._long).astype(np.int64)

    def signed(self, sign: int, one: List, at: Places) -> Mask:
        """Return which of those at rising places of a list have one of the commonest terms."""
        return self._bits(self._beside(one, 1 + len(self.columns)), at + sign * -(-one.size // 8) * 8)

    def _beside(self, one: List, number: int) -> int:
        assert one.first is not None and one.data
        return one.first + len(one.data) // 4 * number

    def _bits(self, first: int, at: Places) -> Mask:
        bits = self._read(first, 8 * orders.BYTES, at, lambda part, data: np.unpackbits(_bytes(part, data)))
        return bits.astype(bool)

    def _long(self, _: int, data: bytes) -> Ids:
        return packing.lengthened(data, self.samples)

    def among(self, one: List, ids: Ids) -> Mask:
        """Return which ids, rising, are in a list, of which only the parts are read that may have them."""
        if one.first is None or not len(ids):
            return np.isin(ids, rare(one))
        if one.data is None:
            return self.bits(one, "", ids.astype(np.int64))
        firsts = np.frombuffer(one.data, np.uint32)
        found = np.zeros(len(ids), bool)
        runs = [run for run in _runs(np.searchsorted(firsts, ids, side="right") - 1) if run[0] >= 0]
        for (part, start, end), data in zip(
            runs, self._parts(one.first, [run[0] for run in runs]), strict=True
        ):
            own, some = packing.unpacked(int(firsts[part]), data), ids[start:end]
            found[start:end] = own[np.minimum(np.searchsorted(own, some), len(own) - 1)] == some
        return found

    def bits(self, one: List, order: str, places: Places) -> Mask:
        """Return which places, rising, of an order have samples of a common list."""
        assert one.common is not None
        number = 0 if not order else 1 + self.columns.index(order)
        return self._bits(one.common + number * orders.parts(self.last()), places)

    def ids_at(self, order: str, places: Places) -> Ids:
        """Return the ids at places, rising, of an order."""
        if not order:
            return places.astype(np.uint32)
        first = self._first[f"{order} ids"]
        return self._read(first, orders.IDS, places, lambda _, data: np.frombuffer(data, "<u4"))

    def span(self, order: str) -> tuple[int, int]:
        """Return from and below which places of an order samples are."""
        return (0, self.samples) if order else (1, self.last() + 1)

    def place(self, order: str, one: int) -> int:
        """Return the place of an id in an order; LookupError if it has none."""
        if not order:
            return one
        place = self._read(
            self._first[f" {order}"], packing.PART, np.array([min(one, self.last())]), self._long
        )
        if self.ids_at(order, place.astype(np.int64)) != one:
            raise LookupError("the set has changed: search again")
        return int(place[0])

    def within(self, order: str, column: str, bounds: tuple[int, int], places: Places) -> tuple[Mask, Mask]:
        """Return which samples at places, rising, of an order may be within the places of another column, and
        which of these may be outside.
        """
        about, closer = (
            functools.partial(self._read, self._first[f"{order} {column} {name}"], orders.BYTES)
            for name in ("about", "closer")
        )
        low, high = orders.about(np.array([bounds[0], max(bounds[1] - 1, 0)]), self.samples).tolist()
        found = about(places, _bytes)
        may_be: Mask = (found >= low >> 8) & (found <= high >> 8)
        edge = np.flatnonzero(may_be & ((found == low >> 8) | (found == high >> 8)))
        found[edge] = found[edge] << 8 | closer(places[edge], _bytes)
        may_be[edge] = (found[edge] >= low) & (found[edge] <= high)
        is_edge = np.zeros(len(places), bool)
        is_edge[edge] = (found[edge] == low) | (found[edge] == high)
        return may_be, is_edge[may_be]

    def cut(self, wanted: Filter, column: str) -> tuple[int, int]:
        """Return from and below which places of a column samples are within a filter's bounds."""
        self._was_read["of the column's index", self.columns.index(column)] = 20 * _PAGE
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


def rare(one: List) -> Ids:
    """Return the ids of a list that stand with its term, rising."""
    return np.frombuffer(one.data or b"", np.uint32)


def _bytes(_: int, data: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)


def _runs(numbers: npt.NDArray[Any]) -> Iterator[tuple[int, int, int]]:
    """Yield each number of rising ones with its first and last place."""
    starts = np.flatnonzero(np.append(True, numbers[1:] != numbers[:-1])).tolist() if len(numbers) else []
    for start, end in zip(starts, [*starts[1:], len(numbers)] if starts else [], strict=True):
        yield int(numbers[start]), start, end
