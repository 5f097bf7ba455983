"""Pages of the samples, or the rejected rows, that a filter leaves, and how many there are.

Every question has a time limit, since a search for "a" over a hundred million captions may be asked by a
typing error: the count at that moment is a lower bound, and says so. A page reads little more than the rows
it shows, whichever filter and order it has.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from pipeline.index import by_column, walk, ways
from pipeline.index.lists import Lists
from pipeline.index.question import Filter, Question, question
from pipeline.index.reader import Reader
from pipeline.index.walk import Page

SECONDS: Final = 1.5
"""For a page, and for a count that is asked for alone."""
_BESIDE: Final = 0.01  # seconds for a count beside a page: in them 1 MB of posting lists is read
MOST: Final = 200
"""Rows of a page."""
_LOOKED_UP: Final = 100  # rows that are looked up singly for a count, if they are all: 0.5 MB at most
_TRIED: Final = 25  # rows that are looked up to see which share of them is within bounds


class _Count(NamedTuple):
    """Rows counted, whether these are all, and about which share of all rows they are."""

    total: int
    is_exact: bool
    share: float = 1.0


class Pages(Reader):
    """An index that is open for reading, page by page; for one thread."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.lists = Lists(self)

    def close(self) -> None:
        """Close the file."""
        self.lists.close()
        super().close()

    def page(self, wanted: Filter, limit: int, after: int = 0, table: str = "samples") -> Page:
        """Return one page of samples, or of rejects, and how many there are.

        after: `next` of the page before. ValueError for the name of a column that is missing, LookupError if
        the set has changed since the page before, TimeoutError for a filter that takes too long.
        """
        limit = max(0, min(limit, MOST))
        asked = question(self.db, wanted, table, self.numbers, self.cuts)
        wanted = asked.wanted
        if wanted.sort and (table != "samples" or wanted.sort.removeprefix("-") not in self.numbers):
            raise ValueError(f"there is no column {wanted.sort.removeprefix('-')} to sort by")
        of = ways.asked(self.lists, asked, after) if table == "samples" else None
        if of is not None:
            with self.within(SECONDS):
                if (page := walk.page(self, self.lists, of, limit)) is not None:
                    return page
        ids = self._inside(wanted)
        if ids is not None and not (wanted.text or wanted.facets or wanted.query is not None):
            count = _Count(len(ids), True)
        else:
            count = self._total(asked)
        last = self.last(wanted.sort.removeprefix("-"), after) if wanted.sort and after else None
        with self.within(SECONDS):
            if not wanted.sort:
                rows = self._in_set_order(asked, after, limit)
            elif count.is_exact and by_column.are_few(self, count.total, limit):
                rows = by_column.few(self, asked, wanted.sort, last, limit)
            elif ids is not None:
                rows = by_column.among(self, ids, asked, wanted.sort, last, count.share, limit)
            elif asked.match:
                rows = by_column.many(self, asked, wanted.sort, last, count.share, limit)
            else:
                rows = by_column.few(self, asked, wanted.sort, last, limit)
        total = max(count.total, len(rows))  # a count may have stopped before the first of them
        return Page(rows, total, count.is_exact, rows[-1]["id"] if 0 < limit == len(rows) else 0)

    def _inside(self, wanted: Filter) -> set[int] | None:
        """Return the ids within bounds where another column orders the page, and few are within."""
        columns = {*wanted.least, *wanted.most}
        column = wanted.sort.removeprefix("-")
        if not columns or column in columns or not {column, *columns} <= {*self.cuts}:
            return None
        with self.within(SECONDS):
            return by_column.within(self, wanted)

    def count(self, wanted: Filter, table: str = "samples") -> Page:
        """Return how many rows a filter leaves, counted for up to one and a half seconds, and no rows."""
        asked = question(self.db, replace(wanted, sort=""), table, self.numbers, self.cuts)
        of = ways.asked(self.lists, asked) if table == "samples" else None
        if of is not None and (number := walk.count(self.lists, of)) is not None:
            return Page([], number, True)
        count = self._total(asked)
        if not count.is_exact:
            source = asked.source if asked.bounds else f"{table}_text WHERE {asked.text}"
            count = self._counted(f"SELECT 1 FROM {source}", asked.all_values, SECONDS)
        return Page([], count.total, count.is_exact)

    def uids(self, wanted: Filter) -> Iterator[str]:
        """Yield the uids of all samples that a filter leaves, however many."""
        asked = question(self.db, wanted, "samples", self.numbers, self.cuts)
        for row in self.db.execute(f"SELECT samples.uid FROM {asked.source}", asked.all_values):
            yield row["uid"]

    def _in_set_order(self, asked: Question, after: int, limit: int) -> list[dict[str, Any]]:
        """Return a page in the order of the set: posting lists have it, so it costs no more than its rows."""
        table = asked.table
        columns = self.columns(table)
        if asked.match:
            statement = f"{asked.source} AND {table}_text.rowid > ? ORDER BY {table}_text.rowid LIMIT ?"
            return self.rows(f"SELECT {columns} FROM {statement}", [*asked.all_values, after, limit])
        where = " AND ".join((*asked.bounds, "id > ?"))
        statement = f"SELECT {columns} FROM {table} NOT INDEXED WHERE {where} ORDER BY id LIMIT ?"
        return self.rows(statement, [*asked.values, after, limit])

    def _total(self, asked: Question) -> _Count:
        """Return how many rows a filter leaves: as noted where it is one facet or none, else counted.

        A count reads no more than a page does; if it has to stop it is a lower bound.
        """
        table, wanted = asked.table, asked.wanted
        every = int(self.meta(table) or 0)
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
            most = by_column.WALKED if len(columns) == 1 else _LOOKED_UP
            statement = f"SELECT 1 FROM {asked.source} LIMIT {most + 1}"
            count = self._counted(statement, asked.values, _BESIDE)
            return _Count(min(count.total, most), count.is_exact and count.total <= most)
        looked = self._counted(f"{found} ORDER BY rowid LIMIT {_LOOKED_UP}", [asked.match], _BESIDE)
        are_all = looked.is_exact and looked.total < _LOOKED_UP
        tried = _LOOKED_UP if are_all else _TRIED
        some = f"{found} ORDER BY rowid LIMIT {tried}"
        count = self._counted(
            f"SELECT id FROM {table} WHERE id IN ({some}) AND {' AND '.join(asked.bounds)}",
            [asked.match, *asked.values], _BESIDE,
        )  # fmt: skip
        share = looked.share * count.total / max(min(looked.total, tried), 1)
        return _Count(count.total, are_all and count.is_exact, share)

    def _counted(self, statement: str, values: Sequence[Any], seconds: float) -> _Count:
        """Count the rows of a statement for so long; `share` if it gives ids in their order."""
        total, last, is_exact = 0, 1, False
        with contextlib.suppress(TimeoutError), self.within(seconds):
            for row in self.db.execute(statement, list(values)):
                total, last = total + 1, row[0]
            is_exact = True
        return _Count(total, is_exact, total / max(last, 1))
