"""Ask an index: pages of samples and rejects by text, query and facets; queries, sites, one sample.

Every question has a time limit, since a search for "a" over a hundred million captions may be asked by a
typing error: what has been counted by then is a lower bound, and says so.
"""

import contextlib
import json
import re
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from pipeline import balance
from pipeline.index.build import NUMBERS

SECONDS: Final = 0.2
"""For one count; pages of rows have ten times as long."""
MOST: Final = 200
"""Rows of a page."""
_STEPS: Final = 10_000  # instructions of SQLite's machine between two looks at the clock
_FIRST: Final = 50_000  # samples of a query that are ranked
_WORD: Final = re.compile(r'-?"[^"]*"|\S+')
_COLUMNS: Final = {
    "samples": (
        "id", "uid", "key", "shard", "suffix", "offset", "length", "json_offset", "json_length", "caption",
        "url", "page_url", *NUMBERS,
    ),
    "rejects": ("id", "uid", "url", "caption", "page_url", "stage", "reason", "detail"),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Say which samples, or which rejected rows, are wanted."""

    text: str = ""
    """Words that caption or URL must have; "several words" in a row; -word must not be there."""
    query: int | None = None
    """Number of a query that the caption matches."""
    facets: Mapping[str, str] = field(default_factory=dict)
    """Value by kind, such as site: example.com."""
    least: Mapping[str, float] = field(default_factory=dict)
    """Least value by numeric column."""
    most: Mapping[str, float] = field(default_factory=dict)
    sort: str = ""
    """A numeric column, or one after "-" for the largest first; else in the order of the set."""


class Page(NamedTuple):
    """Rows of one page, as dicts by column; `total` is a lower bound unless `is_exact`."""

    rows: list[dict[str, Any]]
    total: int
    is_exact: bool


def match_expression(text: str) -> str:
    """Return words as an expression of FTS5, in which nothing that people type has a meaning of its own.

    Example: `dog "on a beach" -cat` asks for captions or URLs with the word and the phrase, without the last.
    """
    wanted, refused = list[str](), list[str]()
    for word in _WORD.findall(text):
        inner = word.removeprefix("-").strip('"').translate({0: " ", ord('"'): " "})
        if any(letter.isalnum() for letter in inner):
            (refused if word.startswith("-") else wanted).append(f'{{caption url}} : "{inner}"')
    if not wanted:
        return ""
    return " AND ".join(f"({part})" for part in wanted) + "".join(f" NOT ({part})" for part in refused)


class Search:
    """An index that is open for reading; for one thread."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, check_same_thread=False)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA query_only=ON")
        info = self._db.execute("PRAGMA table_info(samples)").fetchall()
        names = [row["name"] for row in info]
        self.numbers = tuple(name for name in names if name in NUMBERS or name.startswith("score_"))
        self.name = json.loads(self._meta("name") or '""')

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def page(self, wanted: Filter, offset: int, limit: int, table: str = "samples") -> Page:
        """Return one page of samples, or of rejects, and how many there are.

        ValueError for the name of a column that is not there, TimeoutError for a filter that takes too long.
        """
        limit, offset = max(0, min(limit, MOST)), max(0, offset)
        source, values = self._source(wanted, table)
        order = f"{source.split()[0]}.{'rowid' if ' JOIN ' in source else 'id'}"
        if wanted.sort:
            column = wanted.sort.removeprefix("-")
            if column not in self.numbers or table != "samples":
                raise ValueError(f"there is no column {column} to sort by")
            order = f'{table}."{column}" {"DESC" if wanted.sort.startswith("-") else "ASC"}, {table}.id'
        total, is_exact = self._total(wanted, table)
        end, more = f"ORDER BY {order} LIMIT ? OFFSET ?", [limit, offset]
        if source == table and not wanted.sort and (first := self._dense(table)):
            end, more = "WHERE id >= ? ORDER BY id LIMIT ?", [first + offset, limit]
        with self._within(10 * SECONDS):
            rows = self._db.execute(
                f"SELECT {self._columns(table)} FROM {source} {end}", [*values, *more]
            ).fetchall()
        return Page([dict(row) for row in rows], total, is_exact)

    def _columns(self, table: str) -> str:
        scores = [name for name in self.numbers if name not in NUMBERS] if table == "samples" else []
        return ", ".join(f'{table}."{name}"' for name in (*_COLUMNS[table], *scores))

    def _source(self, wanted: Filter, table: str) -> tuple[str, list[Any]]:
        """Return what stands after FROM for a filter, and its values.

        Where there are words or tags the posting lists lead: they come in the order of ids, one by one, so
        that a page costs what it shows.
        """
        match = match_expression(wanted.text)
        tags = list[str]()
        for kind, value in wanted.facets.items():
            found = self._db.execute("SELECT id FROM facets WHERE kind = ? AND value = ?", (kind, value))
            row = found.fetchone()
            tags.append(f"v{row['id']}" if row else "v0")
        if wanted.query is not None:
            tags.append(f"q{wanted.query}")
        parts = [f"tags : {tag}" for tag in tags] + ([match] if match else [])
        source, conditions, values = table, list[str](), list[Any]()
        if parts:
            source = f"{table}_text CROSS JOIN {table} ON {table}.id = {table}_text.rowid"
            conditions.append(f"{table}_text MATCH ?")
            values.append(" AND ".join(f"({part})" for part in parts))
        elif wanted.text.strip():
            conditions.append("0")  # words without a letter
        for sign, bounds in ((">=", wanted.least), ("<=", wanted.most)):
            for name, bound in bounds.items():
                if name not in self.numbers or table != "samples":
                    raise ValueError(f"there is no column {name} to cut at")
                conditions.append(f'{table}."{name}" {sign} ?')
                values.append(bound)
        return (f"{source} WHERE {' AND '.join(conditions)}" if conditions else source), values

    def _total(self, wanted: Filter, table: str) -> tuple[int, bool]:
        """Return how many rows a filter leaves: as noted where it is one facet or none, else counted."""
        source, values = self._source(wanted, table)
        if source == table:
            return int(self._meta(table) or 0), True
        has_bounds = bool(wanted.least or wanted.most)
        if not wanted.text and wanted.query is None and not has_bounds and len(wanted.facets) == 1:
            ((kind, value),) = wanted.facets.items()
            return self.facet_count(kind, value, table), True
        if not has_bounds:
            source = source.replace(f" CROSS JOIN {table} ON {table}.id = {table}_text.rowid", "")
        total = 0
        with contextlib.suppress(TimeoutError), self._within(SECONDS):
            for _ in self._db.execute(f"SELECT 1 FROM {source}", values):
                total += 1
            return total, True
        return total, False

    def _dense(self, table: str) -> int:
        """Return the first id if ids follow one another, else 0."""
        row = self._db.execute(f"SELECT min(id) AS low, max(id) AS high FROM {table}").fetchone()
        count = int(self._meta(table) or 0)
        return int(row["low"]) if count and row["high"] - row["low"] + 1 == count else 0

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

    def facet_count(self, kind: str, value: str, table: str = "samples") -> int:
        """Return how many samples, or rejects, have a value."""
        row = self._db.execute(
            "SELECT samples, rejects FROM facets WHERE kind = ? AND value = ?", (kind, value)
        ).fetchone()
        return int(row[table]) if row else 0

    def facets(self, kind: str, limit: int, table: str = "samples", like: str = "") -> list[dict[str, Any]]:
        """Return the commonest values of a facet with their counts, or those that begin with a text."""
        assert table in ("samples", "rejects")
        rows = self._db.execute(
            f"SELECT value, samples, rejects FROM facets WHERE kind = ? AND {table} > 0 AND "
            f"value >= ? AND value < ? ORDER BY {table} DESC, value LIMIT ?",
            (kind, like, like + "\U0010ffff", min(limit, 10 * MOST)),
        )
        return [dict(row) for row in rows]

    def sample(self, uid: str) -> dict[str, Any] | None:
        """Return a sample's row, or None."""
        row = self._db.execute("SELECT * FROM samples WHERE uid = ?", (uid,)).fetchone()
        return dict(row) if row else None

    def shard(self, number: int) -> str:
        """Return a shard's path."""
        return str(self._db.execute("SELECT path FROM shards WHERE id = ?", (number,)).fetchone()["path"])

    def queries_of(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """Return rows of the query list by their numbers."""
        marks = ", ".join("?" * len(numbers))
        rows = self._db.execute(
            f"SELECT id, query, matched, kept, present, short FROM queries WHERE id IN ({marks})",
            list(numbers),
        )
        return [dict(row) for row in rows]

    def queries(self, text: str, limit: int, offset: int = 0, sort: str = "-kept") -> list[dict[str, Any]]:
        """Return queries that have words beginning with those of a text, or all."""
        column = sort.removeprefix("-")
        if column not in ("kept", "matched", "present", "short", "query", "id"):
            raise ValueError(f"cannot sort queries by {column}")
        words = " AND ".join(f'"{word}"*' for word in re.findall(r"\w+", text))
        where = "WHERE id IN (SELECT rowid FROM queries_text WHERE queries_text MATCH ?)" if words else ""
        order = f"{column} {'DESC' if sort.startswith('-') else 'ASC'}, id"
        rows = self._db.execute(
            f"SELECT id, query, matched, kept, present, short FROM queries {where} ORDER BY {order} "
            "LIMIT ? OFFSET ?",
            [*([words] if words else []), min(limit, MOST), offset],
        )
        return [dict(row) for row in rows]

    def query_number(self, query: str) -> int | None:
        """Return the number of a query by its text or number, or None."""
        if query.isdigit():
            row = self._db.execute("SELECT id FROM queries WHERE id = ?", (int(query),)).fetchone()
            if row:
                return int(row["id"])
        row = self._db.execute("SELECT id FROM queries WHERE query = ?", (query,)).fetchone()
        return int(row["id"]) if row else None

    def ranked(self, query: int) -> list[dict[str, Any]]:
        """Return (id, uid, priority in 0..1, kept) of a query by priority, of its first 50,000 samples.

        A query keeps the samples whose h(seed, uid, query) is at most its threshold; the others are there
        for the sake of other queries.
        """
        row = self._db.execute("SELECT hash, threshold FROM queries WHERE id = ?", (query,)).fetchone()
        if row is None:
            return []
        found = self._db.execute(
            "SELECT id, uid FROM samples WHERE id IN "
            "(SELECT rowid FROM samples_text WHERE samples_text MATCH ? LIMIT ?)",
            (f'tags : "q{query}"', _FIRST),
        ).fetchall()
        high = np.array([int(one["uid"][:16], 16) for one in found], np.uint64)
        hashed = np.full(len(found), int.from_bytes(row["hash"], "big"), np.uint64)
        priority = balance.priorities(high, hashed)
        threshold = None if row["threshold"] is None else int.from_bytes(row["threshold"], "big")
        return [
            {"id": found[i]["id"], "uid": found[i]["uid"], "priority": float(priority[i]) / 2**64,
             "kept": threshold is None or int(priority[i]) <= threshold}
            for i in np.argsort(priority, kind="stable")
        ]  # fmt: skip

    def by_ids(self, ids: Sequence[int]) -> list[dict[str, Any]]:
        """Return samples in the order of their ids as given."""
        marks = ", ".join("?" * len(ids))
        rows = self._db.execute(
            f"SELECT {self._columns('samples')} FROM samples WHERE id IN ({marks})", list(ids)
        )
        found = {row["id"]: dict(row) for row in rows}
        return [found[one] for one in ids if one in found]

    def rejects_of(self, uid: str) -> list[dict[str, Any]]:
        """Return the rejected rows of an image, and those that were merged into it."""
        columns = self._columns("rejects")
        rows = self._db.execute(
            f"SELECT {columns} FROM rejects WHERE uid = ? UNION ALL "
            f"SELECT {columns} FROM rejects WHERE reason = 'merged_into' AND detail = ? LIMIT ?",
            (uid, uid, MOST),
        )
        return [dict(row) for row in rows]

    def uids(self, wanted: Filter) -> Iterator[str]:
        """Yield the uids of all samples that a filter leaves, however many."""
        source, values = self._source(wanted, "samples")
        for row in self._db.execute(f"SELECT samples.uid FROM {source}", values):
            yield row["uid"]

    def histogram(self, column: str, bins: int = 40) -> list[tuple[float, int]]:
        """Return (lower bound, samples) of equal bins between a column's least and largest value."""
        if column not in self.numbers:
            raise ValueError(f"there is no column {column}")
        low, high = self._db.execute(f'SELECT min("{column}"), max("{column}") FROM samples').fetchone()
        if low is None:
            return []
        width = (high - low) / bins or 1.0  # one value: one bin has it
        with self._within(10 * SECONDS):
            rows = self._db.execute(
                f'SELECT min(cast(("{column}" - ?) / ? AS INTEGER), ?) AS bin, count(*) AS n FROM samples '
                f'WHERE "{column}" IS NOT NULL GROUP BY bin',
                (low, width, bins - 1),
            ).fetchall()
        counts = {row["bin"]: row["n"] for row in rows}
        return [(low + width * n, counts.get(n, 0)) for n in range(bins)]
