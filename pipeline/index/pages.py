"""Pages of the samples, or the rejected rows, that a filter leaves, and how many there are.

Every question has a time limit, since a search for "a" over a hundred million captions may be asked by a
typing error: the count at that moment is a lower bound, and says so. A page reads little more than the rows
it shows, whichever filter and order it has.
"""

import contextlib
import itertools
import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from pipeline.index import cuts
from pipeline.index.cuts import NONE, Cuts
from pipeline.index.question import Filter, Question, question
from pipeline.index.tables import NUMBERS

SECONDS: Final = 1.5
"""For a page, and for a count that is asked for alone."""
_BESIDE: Final = 0.02  # seconds for a count beside a page: in them 2 MB of posting lists are read
MOST: Final = 200
"""Rows of a page."""
_STEPS: Final = 10_000  # instructions of SQLite's machine between two looks at the clock
_LOOKED_UP: Final = 100  # rows that are looked up singly for a page or a count: 1 MB at most
_WALKED: Final = 100_000  # entries of a sorted column that a count walks
_ASKED: Final = 500  # samples of a sorted column of which each is asked whether a filter leaves it
_COLUMNS: Final = {
    "samples": (
        "id", "uid", "key", "shard", "suffix", "offset", "length", "json_offset", "json_length", "caption",
        "url", "page_url", *NUMBERS,
    ),
    "rejects": ("id", "uid", "url", "caption", "page_url", "stage", "reason", "detail"),
}  # fmt: skip


class Page(NamedTuple):
    """Rows of one page, as dicts by column; `total` is a lower bound unless `is_exact`."""

    rows: list[dict[str, Any]]
    total: int
    is_exact: bool


class _Count(NamedTuple):
    """Rows counted, whether these are all, and about which share of all rows they are."""

    total: int
    is_exact: bool
    share: float = 1.0


class Pages:
    """An index that is open for reading, page by page; for one thread."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, check_same_thread=False)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA query_only=ON")
        info = self._db.execute("PRAGMA table_info(samples)").fetchall()
        names = [row["name"] for row in info]
        self.numbers = tuple(name for name in names if name in NUMBERS or name.startswith("score_"))
        self.name = json.loads(self._meta("name") or '""')
        self._cuts = cuts.read(self._db)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def page(self, wanted: Filter, offset: int, limit: int, table: str = "samples") -> Page:
        """Return one page of samples, or of rejects, and how many there are.

        ValueError for the name of a column that is missing, TimeoutError for a filter that takes too long.
        """
        limit, offset = max(0, min(limit, MOST)), max(0, offset)
        asked = question(self._db, wanted, table, self.numbers, self._cuts)
        if wanted.sort and (table != "samples" or wanted.sort.removeprefix("-") not in self.numbers):
            raise ValueError(f"there is no column {wanted.sort.removeprefix('-')} to sort by")
        count = self._total(wanted, asked)
        if count.is_exact and offset >= count.total:
            return Page([], count.total, True)
        with self._within(SECONDS):
            if not wanted.sort:
                rows = self._in_set_order(asked, offset, limit)
            elif asked.match and not (count.is_exact and count.total <= _LOOKED_UP):
                rows = self._sorted(asked, wanted.sort, count.share, offset, limit)
            else:
                rows = self._by_index(asked, wanted.sort, offset, limit)
        return Page(rows, count.total, count.is_exact)

    def count(self, wanted: Filter, table: str = "samples") -> Page:
        """Return how many rows a filter leaves, counted for up to one and a half seconds, and no rows."""
        asked = question(self._db, wanted, table, self.numbers, self._cuts)
        count = self._total(wanted, asked)
        if not count.is_exact:
            source = asked.source if asked.bounds else f"{table}_text WHERE {asked.text}"
            count = self._counted(f"SELECT 1 FROM {source}", asked.all_values, SECONDS)
        return Page([], count.total, count.is_exact)

    def uids(self, wanted: Filter) -> Iterator[str]:
        """Yield the uids of all samples that a filter leaves, however many."""
        asked = question(self._db, wanted, "samples", self.numbers, self._cuts)
        for row in self._db.execute(f"SELECT samples.uid FROM {asked.source}", asked.all_values):
            yield row["uid"]

    def by_ids(
        self, ids: Sequence[int], bounds: Sequence[str] = (), values: Sequence[float] = ()
    ) -> list[Any]:
        """Return samples in the order of their ids as given, those within bounds."""
        found = dict[int, dict[str, Any]]()
        for start in range(0, len(ids), 10_000):
            some = list(ids[start : start + 10_000])
            where = " AND ".join((f"id IN ({', '.join('?' * len(some))})", *bounds))
            rows = self._db.execute(
                f"SELECT {self._columns('samples')} FROM samples WHERE {where}", [*some, *values]
            )
            found |= {row["id"]: dict(row) for row in rows}
        return [found[one] for one in ids if one in found]

    def _rows(self, statement: str, values: Sequence[Any]) -> list[dict[str, Any]]:
        return [dict(row) for row in self._db.execute(statement, list(values))]

    def _in_set_order(self, asked: Question, offset: int, limit: int) -> list[dict[str, Any]]:
        """Return a page in the order of the set: posting lists have it, so it costs no more than its rows."""
        table, paged = asked.table, [limit, offset]
        columns = self._columns(table)
        shown = f"SELECT {columns} FROM {table}"
        if asked.match and not asked.bounds:
            found = f"SELECT rowid FROM {table}_text WHERE {asked.text} ORDER BY rowid LIMIT ? OFFSET ?"
            return self._rows(f"{shown} WHERE id IN ({found}) ORDER BY id", [asked.match, *paged])
        if asked.match:
            by = f"ORDER BY {table}_text.rowid LIMIT ? OFFSET ?"
            return self._rows(f"SELECT {columns} FROM {asked.source} {by}", [*asked.all_values, *paged])
        if not asked.bounds and (first := self._dense(table)):
            return self._rows(f"{shown} WHERE id >= ? ORDER BY id LIMIT ?", [first + offset, limit])
        where = f"WHERE {' AND '.join(asked.bounds)}" if asked.bounds else ""
        walked = f"{shown} NOT INDEXED {where} ORDER BY id LIMIT ? OFFSET ?"
        return self._rows(walked, [*asked.values, *paged])

    def _by_index(self, asked: Question, sort: str, offset: int, limit: int) -> list[dict[str, Any]]:
        """Return a page in the order of a column: of few samples, which are sorted, or by its index."""
        column, way = sort.removeprefix("-"), _way(sort)
        order = f'ORDER BY samples."{column}" {way}, samples.id {way} LIMIT ? OFFSET ?'
        source = asked.source
        if not asked.match:
            source = source.replace("samples", f'samples INDEXED BY "sort_{column}"', 1)
        statement = f"SELECT {self._columns('samples')} FROM {source} {order}"
        return self._rows(statement, [*asked.all_values, limit, offset])

    def _sorted(
        self, asked: Question, sort: str, share: float, offset: int, limit: int
    ) -> list[dict[str, Any]]:
        """Return a page of many samples that a match finds, in the order of a column.

        Where about every eighth sample is found the column is walked, and of each sample is asked whether it
        is found. Else each part of the column is matched together with the filter.
        """
        column, way = sort.removeprefix("-"), _way(sort)
        if offset + limit <= _ASKED * share or column not in self._cuts:
            among = "EXISTS (SELECT 1 FROM samples_text WHERE samples_text MATCH ? AND rowid = samples.id)"
            where = " AND ".join((*asked.bounds, among))
            return self._rows(
                f'SELECT {self._columns("samples")} FROM samples INDEXED BY "sort_{column}" WHERE {where} '
                f'ORDER BY "{column}" {way}, id {way} LIMIT ? OFFSET ?',
                [*asked.values, asked.match, limit, offset],
            )
        if not asked.bounds:
            return self.by_ids(list(itertools.islice(self._by_parts(asked, sort, offset), limit)))
        ids, rows = self._by_parts(asked, sort, 0), list[dict[str, Any]]()
        while len(rows) < offset + limit and (some := list(itertools.islice(ids, limit))):
            rows += self.by_ids(some, asked.bounds, asked.values)
        return rows[offset : offset + limit]

    def _by_parts(self, asked: Question, sort: str, skip: int) -> Iterator[int]:
        """Yield the ids of samples that a match finds in the order of a column, without the first."""
        column, way = sort.removeprefix("-"), _way(sort)
        own = self._cuts[column]
        parts = [NONE, *range(len(own.starts) + 1)]
        for part in parts if way == "ASC" else reversed(parts):
            rows = self._db.execute(
                f"SELECT rowid FROM samples_text WHERE samples_text MATCH ? ORDER BY rowid {way}",
                (f"({asked.match}) AND (tags : {own.tag(part)})",),
            )
            ids: Iterator[int] = (row[0] for row in rows)
            if part != NONE and not self._is_one_value(column, own, part):
                known = list(ids)
                if len(known) <= skip:
                    skip -= len(known)
                    continue
                ids = self._ordered(known, column, own, part, way)
            for one in ids:
                if skip:
                    skip -= 1
                else:
                    yield one

    def _is_one_value(self, column: str, own: Cuts, part: int) -> bool:
        """Return whether all samples of a part have the same value, as the sides of resized pictures have."""
        low, high = (
            self._db.execute(
                f'SELECT {side}("{column}") FROM samples WHERE "{column}" >= ? AND "{column}" < ?',
                own.bounds(part),
            ).fetchone()[0]
            for side in ("min", "max")
        )
        return bool(low == high)

    def _ordered(self, ids: Sequence[int], column: str, own: Cuts, part: int, way: str) -> Iterator[int]:
        """Yield ids of one part in the order of a column: few by looking them up, many by its index."""
        order = f'ORDER BY "{column}" {way}, id {way}'
        if len(ids) <= _LOOKED_UP:
            marks = ", ".join("?" * len(ids))
            rows = self._db.execute(f"SELECT id FROM samples WHERE id IN ({marks}) {order}", list(ids))
            yield from (row[0] for row in rows)
            return
        wanted = set(ids)
        between = f'"{column}" >= ? AND "{column}" < ?'
        for row in self._db.execute(f"SELECT id FROM samples WHERE {between} {order}", own.bounds(part)):
            if row[0] in wanted:
                yield row[0]

    def _total(self, wanted: Filter, asked: Question) -> _Count:
        """Return how many rows a filter leaves: as noted where it is one facet or none, else counted.

        A count reads no more than a page does; if it has to stop it is a lower bound.
        """
        table = asked.table
        every = int(self._meta(table) or 0)
        if not asked.match and not asked.bounds:
            return _Count(every, True)
        if not wanted.text and wanted.query is None and not asked.bounds and len(wanted.facets) == 1:
            ((kind, value),) = wanted.facets.items()
            total = self.facet_count(kind, value, table)
            return _Count(total, True, total / max(every, 1))
        found = f"SELECT rowid FROM {table}_text WHERE {asked.text}"
        if not asked.bounds:
            return self._counted(f"{found} ORDER BY rowid", [asked.match], _BESIDE)
        if not asked.match:
            columns = {*wanted.least, *wanted.most}
            most = _WALKED if len(columns) == 1 else _LOOKED_UP
            statement = f"SELECT 1 FROM {asked.source} LIMIT {most + 1}"
            count = self._counted(statement, asked.values, _BESIDE)
            return _Count(min(count.total, most), count.is_exact and count.total <= most)
        some = f"{found} ORDER BY rowid LIMIT {_LOOKED_UP}"
        looked = self._counted(some, [asked.match], _BESIDE)
        count = self._counted(
            f"SELECT id FROM {table} WHERE id IN ({some}) AND {' AND '.join(asked.bounds)}",
            [asked.match, *asked.values], _BESIDE,
        )  # fmt: skip
        is_exact = looked.is_exact and count.is_exact and looked.total < _LOOKED_UP
        return _Count(count.total, is_exact, looked.share * count.total / max(looked.total, 1))

    def _counted(self, statement: str, values: Sequence[Any], seconds: float) -> _Count:
        """Count the rows of a statement for so long; `share` if it gives ids in their order."""
        total, last, is_exact = 0, 1, False
        with contextlib.suppress(TimeoutError), self._within(seconds):
            for row in self._db.execute(statement, list(values)):
                total, last = total + 1, row[0]
            is_exact = True
        return _Count(total, is_exact, total / max(last, 1))

    def facet_count(self, kind: str, value: str, table: str = "samples") -> int:
        """Return how many samples, or rejects, have a value."""
        row = self._db.execute(
            "SELECT samples, rejects FROM facets WHERE kind = ? AND value = ?", (kind, value)
        ).fetchone()
        return int(row[table]) if row else 0

    def _columns(self, table: str) -> str:
        scores = [name for name in self.numbers if name not in NUMBERS] if table == "samples" else []
        return ", ".join(f'{table}."{name}"' for name in (*_COLUMNS[table], *scores))

    def _dense(self, table: str) -> int:
        """Return the first id if ids follow one another, else 0."""
        low, high = (  # singly: both in one statement read the whole table
            self._db.execute(f"SELECT {side}(id) FROM {table}").fetchone()[0] for side in ("min", "max")
        )
        count = int(self._meta(table) or 0)
        return int(low) if count and high - low + 1 == count else 0

    def _meta(self, name: str) -> str:
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return str(row["value"]) if row else ""

    @contextlib.contextmanager
    def _within(self, seconds: float) -> Iterator[None]:
        """Let a question take so long; TimeoutError if it takes longer."""
        end = time.monotonic() + seconds
        self._db.set_progress_handler(lambda: time.monotonic() > end, _STEPS)
        try:
            yield
        except sqlite3.OperationalError as error:
            if "interrupted" not in str(error):
                raise
            raise TimeoutError("that takes too long: narrow the filter") from None
        finally:
            self._db.set_progress_handler(None, 0)


def _way(sort: str) -> str:
    return "DESC" if sort.startswith("-") else "ASC"
