"""Ask an index: pages of samples and rejects by text, query and facets; queries, sites, one sample.

Every question has a time limit, since a search for "a" over a hundred million captions may be a typing error:
the count at that moment is a lower bound, and says so.
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
import numpy.typing as npt

from pipeline import balance, storage
from pipeline.index.tables import NUMBERS, ZEROS

SECONDS: Final = 0.15
"""For one count; pages of rows have ten times as long."""
MOST: Final = 200
"""Rows of a page."""
_STEPS: Final = 10_000  # instructions of SQLite's machine between two looks at the clock
_LOOKED_UP: Final = 400  # rows that a count beside a page looks up singly: 2 MB at most
_WALKED: Final = 100_000  # and entries of a sorted column that it counts
_SORTED: Final = 10_000  # samples up to which a filter's own are sorted, rather than the whole set walked
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
    """A numeric column, with "-" before it for the largest first; else in the order of the set."""


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

        ValueError for the name of a column that is missing, TimeoutError for a filter that takes too long.
        """
        limit, offset = max(0, min(limit, MOST)), max(0, offset)
        question = self._question(wanted, table)
        total, is_exact = self._total(wanted, question)
        with self._within(10 * SECONDS):
            rows = self._db.execute(*self._page(wanted, question, total, offset, limit)).fetchall()
        return Page([dict(row) for row in rows], total, is_exact)

    def _page(
        self, wanted: Filter, question: "_Question", total: int, offset: int, limit: int
    ) -> tuple[str, list[Any]]:
        """Return the statement for a page, and its values.

        Posting lists come in the order of ids, lazily, so that a page costs no more than the rows it shows.
        The largest rows under a filter are found by sorting the rows it leaves, or, where these are many, by
        walking the sorted column and checking each row against them.
        """
        table, paged = question.table, [limit, offset]
        columns = self._columns(table)
        shown = f"SELECT {columns} FROM {table}"
        joined = f"SELECT {columns} FROM {question.source}"
        if wanted.sort:
            order = self._order(wanted.sort, table)
            if not question.match or total <= _SORTED:
                return f"{joined} {order} LIMIT ? OFFSET ?", [*question.all_values, *paged]
            among = f"SELECT 1 FROM {table}_text WHERE {question.text} AND {table}_text.rowid = {table}.id"
            where = " AND ".join((*question.bounds, f"EXISTS ({among})"))
            values = [*question.values, question.match, *paged]
            return f"{shown} WHERE {where} {order} LIMIT ? OFFSET ?", values
        if question.match and not question.bounds:
            found = f"SELECT rowid FROM {table}_text WHERE {question.text} ORDER BY rowid LIMIT ? OFFSET ?"
            return f"{shown} WHERE id IN ({found}) ORDER BY id", [question.match, *paged]
        if not question.match and not question.bounds and (first := self._dense(table)):
            return f"{shown} WHERE id >= ? ORDER BY id LIMIT ?", [first + offset, limit]
        by = f"{table}_text.rowid" if question.match else f"{table}.id"
        return f"{joined} ORDER BY {by} LIMIT ? OFFSET ?", [*question.all_values, *paged]

    def _order(self, sort: str, table: str) -> str:
        column, down = sort.removeprefix("-"), sort.startswith("-")
        if column not in self.numbers or table != "samples":
            raise ValueError(f"there is no column {column} to sort by")
        return (
            f'ORDER BY {table}."{column}" {"DESC" if down else "ASC"}, {table}.id {"DESC" if down else "ASC"}'
        )

    def count(self, wanted: Filter, table: str = "samples") -> Page:
        """Return how many rows a filter leaves, counted for up to two seconds, and no rows."""
        question = self._question(wanted, table)
        total, is_exact = self._total(wanted, question)
        if is_exact:
            return Page([], total, True)
        return Page([], *self._counted(question.source, question.all_values, 10 * SECONDS))

    def _counted(self, source: str, values: Sequence[Any], seconds: float) -> tuple[int, bool]:
        total = 0
        with contextlib.suppress(TimeoutError), self._within(seconds):
            for _ in self._db.execute(f"SELECT 1 FROM {source}", list(values)):
                total += 1
            return total, True
        return total, False

    def _columns(self, table: str) -> str:
        scores = [name for name in self.numbers if name not in NUMBERS] if table == "samples" else []
        return ", ".join(f'{table}."{name}"' for name in (*_COLUMNS[table], *scores))

    def _question(self, wanted: Filter, table: str) -> "_Question":
        """Return a filter as parts of a statement."""
        match = match_expression(wanted.text)
        tags = list[str]()
        for kind, value in wanted.facets.items():
            found = self._db.execute("SELECT id FROM facets WHERE kind = ? AND value = ?", (kind, value))
            row = found.fetchone()
            tags.append(f"v{row['id']}" if row else "v0")
        if wanted.query is not None:
            tags.append(f"q{wanted.query}")
        parts = [f"tags : {tag}" for tag in tags] + ([match] if match else [])
        bounds, values = list[str](), list[float]()
        for sign, given in ((">=", wanted.least), ("<=", wanted.most)):
            for name, bound in given.items():
                if name not in self.numbers or table != "samples":
                    raise ValueError(f"there is no column {name} to cut at")
                bounds.append(f'{table}."{name}" {sign} ?')
                values.append(bound)
        if not parts and wanted.text.strip():
            bounds.append("0")  # words without a letter
        return _Question(table, " AND ".join(f"({part})" for part in parts), tuple(bounds), tuple(values))

    def _total(self, wanted: Filter, question: "_Question") -> tuple[int, bool]:
        """Return how many rows a filter leaves: as noted where it is one facet or none, else counted.

        A count reads no more than a page does; if it has to stop it is a lower bound.
        """
        table = question.table
        if not question.match and not question.bounds:
            return int(self._meta(table) or 0), True
        if not wanted.text and wanted.query is None and not question.bounds and len(wanted.facets) == 1:
            ((kind, value),) = wanted.facets.items()
            return self.facet_count(kind, value, table), True
        if not question.bounds:
            return self._counted(f"{table}_text WHERE {question.text}", [question.match], SECONDS)
        if not question.match:
            columns = {*wanted.least, *wanted.most}
            most = _WALKED if len(columns) == 1 else _LOOKED_UP
            total, is_exact = self._counted(f"{question.source} LIMIT {most + 1}", question.values, SECONDS)
            return min(total, most), is_exact and total <= most
        some = f"SELECT rowid FROM {table}_text WHERE {question.text} LIMIT {_LOOKED_UP}"
        found = len(self._db.execute(some, [question.match]).fetchall())
        total, is_exact = self._counted(
            f"{table} WHERE id IN ({some}) AND {' AND '.join(question.bounds)}",
            [question.match, *question.values], SECONDS,
        )  # fmt: skip
        return total, is_exact and found < _LOOKED_UP

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
        return {name: row[name] for name in row.keys() if name != "phash"} if row else None  # noqa: SIM118

    def by_uids(self, uids: Sequence[str]) -> list[dict[str, Any]]:
        """Return samples in the order of their uids as given; those that are missing are left out."""
        marks = ", ".join("?" * len(uids))
        rows = self._db.execute(
            f"SELECT {self._columns('samples')} FROM samples WHERE uid IN ({marks})", list(uids)
        )
        found = {row["uid"]: dict(row) for row in rows}
        return [found[uid] for uid in uids if uid in found]

    def all_uids(self) -> npt.NDArray[np.bytes_]:
        """Return the uids of all samples, S32 [n]."""
        count = int(self._meta("samples") or 0)
        rows = self._db.execute("SELECT uid FROM samples")
        return np.fromiter((row[0].encode() for row in rows), "S32", count)

    def pictures(self, uids: Sequence[str]) -> list[bytes]:
        """Return the stored pictures of samples, in the order of their uids; b"" for anything that is
        missing."""
        rows = {row["uid"]: row for row in self.by_uids(uids)}
        known = [uid for uid in uids if uid in rows]
        found = storage.read_ranges([self.place(rows[uid]) for uid in known])
        data = dict(zip(known, found, strict=True))
        return [data.get(uid, b"") for uid in uids]

    def place(self, row: Mapping[str, Any], part: str = "") -> tuple[str, int, int]:
        """Return path, start and end of a sample's picture, or of its part "json_"."""
        start = row[f"{part}offset"]
        return self.shard(row["shard"]), start, start + row[f"{part}length"]

    def staged(self, uid: str) -> tuple[str, int, int] | None:
        """Return path, start and end of a picture that was fetched but is not in the set, if it is kept."""
        row = self._db.execute("SELECT path, start, length FROM staged WHERE uid = ?", (uid,)).fetchone()
        return None if row is None else (row["path"], row["start"], row["start"] + row["length"])

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
        given: list[Any] = [*([words] if words else []), min(limit, MOST), offset]
        found = "SELECT rowid FROM queries_text WHERE queries_text MATCH ?"
        if words and sort == "-kept":  # as they stand in the full-text table
            statement = f"WHERE place IN ({found} ORDER BY rowid LIMIT ? OFFSET ?) ORDER BY place"
        else:
            order = (
                "place" if sort == "-kept" else f"{column} {'DESC' if sort.startswith('-') else 'ASC'}, id"
            )
            where = f"WHERE place IN ({found})" if words else ""
            statement = f"{where} ORDER BY {order} LIMIT ? OFFSET ?"
        with self._within(10 * SECONDS):
            rows = self._db.execute(
                f"SELECT id, query, matched, kept, present, short FROM queries {statement}", given
            ).fetchall()
        return [dict(row) for row in rows]

    def query_number(self, query: str) -> int | None:
        """Return the number of a query by its text or number, or None."""
        if query.isdigit():
            row = self._db.execute("SELECT id FROM queries WHERE id = ?", (int(query),)).fetchone()
            if row:
                return int(row["id"])
        row = self._db.execute("SELECT id FROM queries WHERE query = ?", (query,)).fetchone()
        return int(row["id"]) if row else None

    def ranked(self, query: int, offset: int, limit: int) -> list[dict[str, Any]]:
        """Return samples of a query in the order in which it takes them, with priority in 0..1 and kept.

        A query keeps the samples whose h(seed, uid, query) is at most its threshold; the others are there for
        the sake of other queries. Samples are tagged by the leading zeros of that number, so that the first
        samples are a short list.
        """
        row = self._db.execute("SELECT hash, threshold FROM queries WHERE id = ?", (query,)).fetchone()
        if row is None:
            return []
        threshold = None if row["threshold"] is None else int.from_bytes(row["threshold"], "big")
        skipped, ids = 0, list[int]()
        with self._within(10 * SECONDS):
            for zeros in range(ZEROS, -1, -1):
                own = self._db.execute(
                    "SELECT rowid FROM samples_text WHERE samples_text MATCH ?",
                    (f'tags : "r{query}x{zeros}"',),
                ).fetchall()
                if not ids and skipped + len(own) <= offset:
                    skipped += len(own)
                    continue
                ids += [one[0] for one in own]
                if skipped + len(ids) >= offset + limit:
                    break
            found = self.by_ids(ids)
        uids = np.array([int(one["uid"][:16], 16) for one in found], np.uint64)
        hashed = np.full(len(found), int.from_bytes(row["hash"], "big"), np.uint64)
        priority = balance.priorities(uids, hashed).tolist()
        order = sorted(range(len(found)), key=lambda n: (priority[n], found[n]["id"]))
        return [
            found[n]
            | {"priority": priority[n] / 2**64, "kept": threshold is None or priority[n] <= threshold}
            for n in order[offset - skipped : offset - skipped + limit]
        ]

    def by_ids(self, ids: Sequence[int]) -> list[dict[str, Any]]:
        """Return samples in the order of their ids as given."""
        found = dict[int, dict[str, Any]]()
        for start in range(0, len(ids), 10_000):
            some = list(ids[start : start + 10_000])
            marks = ", ".join("?" * len(some))
            rows = self._db.execute(
                f"SELECT {self._columns('samples')} FROM samples WHERE id IN ({marks})", some
            )
            found |= {row["id"]: dict(row) for row in rows}
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
        question = self._question(wanted, "samples")
        for row in self._db.execute(f"SELECT samples.uid FROM {question.source}", question.all_values):
            yield row["uid"]

    def histogram(self, column: str) -> list[tuple[float, int]]:
        """Return (lower bound, samples) of equal bins between a column's least and largest value."""
        if column not in self.numbers:
            raise ValueError(f"there is no column {column}")
        return [(low, count) for low, count in json.loads(self._meta("histograms")).get(column, [])]

    def stars(self, offset: int, limit: int) -> list[list[dict[str, Any]]]:
        """Return groups of pictures that look alike, the largest first, as samples with their distance."""
        groups = self._db.execute(
            "SELECT star, count(*) AS members FROM near GROUP BY star ORDER BY members DESC, star "
            "LIMIT ? OFFSET ?",
            (min(limit, MOST), offset),
        ).fetchall()
        found = []
        for group in groups:
            members = self._db.execute(
                "SELECT sample, distance FROM near WHERE star = ? ORDER BY distance, sample LIMIT ?",
                (group["star"], MOST),
            ).fetchall()
            rows = {row["id"]: row for row in self.by_ids([one["sample"] for one in members])}
            found.append(
                [rows[one["sample"]] | {"distance": one["distance"], "members": group["members"]}
                 for one in members if one["sample"] in rows]
            )  # fmt: skip
        return found


class _Question(NamedTuple):
    """A filter as parts of a statement."""

    table: str
    match: str
    """For the full-text table; empty: all."""
    bounds: tuple[str, ...]
    values: tuple[float, ...]

    @property
    def text(self) -> str:
        """Return the condition on the full-text table."""
        return f"{self.table}_text MATCH ?"

    @property
    def all_values(self) -> list[Any]:
        """Return the values of `source`."""
        return [self.match, *self.values] if self.match else [*self.values]

    @property
    def source(self) -> str:
        """Return the SQL after FROM: the posting lists lead where there are words or tags."""
        if not self.match:
            return f"{self.table} WHERE {' AND '.join(self.bounds)}" if self.bounds else self.table
        joined = f"{self.table}_text CROSS JOIN {self.table} ON {self.table}.id = {self.table}_text.rowid"
        return f"{joined} WHERE {' AND '.join((self.text, *self.bounds))}"
