"""The file of an index, open for writing: its tables, and how rows come in and go out.

One SQLite file. `samples` has a row per sample in the order of the set: where its members lie in the tar, and
the columns that a page of pictures shows. `rejects` has one per rejected row. Each has a full-text table over
caption, URL and tags, without a copy of the text. A tag stands for a value of a facet (a site, a language, a
reason), vNUMBER; for a query that the caption matches, qNUMBER; or for how soon such a query takes the
sample, rNUMBERxRANK, by the first bits of the priority. So a filter and a search are one look-up of posting
lists, whose cost grows with the rows they find and not with the set, and any samples of a query are a few
short lists. Tags stand in the first column, whose posting lists do not name it: two bytes less for each.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from pipeline.index import cuts, postings, query_list

VERSION: Final = 7
FACETS: Final = ("site", "lang", "source", "format", "licence", "synthetic", "shard")
"""Columns of samples by whose values one can filter."""
NUMBERS: Final = ("width", "height", "bytes", "lang_score")
"""Columns to sort by and to cut at, beside every score_*."""
SAMPLE_COLUMNS: Final = (
    "uid", "key", "shard", "suffix", "offset", "length", "json_offset", "json_length", "caption", "url",
    "page_url", "tags", "width", "height", "bytes", "lang_score", "phash",
)  # fmt: skip
"""Of every sample, in the order in which rows are inserted; scores follow."""
REJECT_COLUMNS: Final = (
    "file", "uid", "url", "caption", "page_url", "stage", "reason", "detail", "tags"
)  # fmt: skip
BINS: Final = 40
"""Of a histogram."""
_BATCH: Final = 50_000
_AT_ONCE: Final = 32 << 20  # bytes of posting lists that are sorted before they are written

_TABLES: Final = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE shards (id INTEGER PRIMARY KEY, name TEXT UNIQUE, path TEXT, state TEXT);
CREATE TABLE facets (
    id INTEGER PRIMARY KEY, kind TEXT, value TEXT, samples INTEGER DEFAULT 0, rejects INTEGER DEFAULT 0,
    UNIQUE (kind, value)
);
CREATE INDEX by_count ON facets (kind, samples DESC);
CREATE TABLE staged (uid TEXT PRIMARY KEY, path TEXT, start INTEGER, length INTEGER) WITHOUT ROWID;
CREATE TABLE near (sample INTEGER PRIMARY KEY, star INTEGER, distance INTEGER);
CREATE INDEX near_by_star ON near (star);
CREATE TABLE samples (
    id INTEGER PRIMARY KEY, uid TEXT, key TEXT, shard INTEGER, suffix TEXT,
    "offset" INTEGER, length INTEGER, json_offset INTEGER, json_length INTEGER,
    caption TEXT, url TEXT, page_url TEXT, tags TEXT, width INTEGER, height INTEGER, bytes INTEGER,
    lang_score REAL, phash BLOB
);
CREATE INDEX by_uid ON samples (uid);
CREATE INDEX by_shard ON samples (shard);
CREATE TABLE rejects (
    id INTEGER PRIMARY KEY, file INTEGER, uid TEXT, url TEXT, caption TEXT, page_url TEXT, stage TEXT,
    reason TEXT, detail TEXT, tags TEXT
);
CREATE INDEX rejects_by_uid ON rejects (uid);
CREATE INDEX rejects_by_detail ON rejects (detail) WHERE reason = 'merged_into';
CREATE INDEX rejects_by_file ON rejects (file);
CREATE VIRTUAL TABLE samples_text USING fts5 (tags, caption, url, content='');
CREATE VIRTUAL TABLE samples_terms USING fts5vocab (samples_text, col);
CREATE VIRTUAL TABLE rejects_text USING fts5 (tags, caption, url, content='');
"""

Progress = Callable[[int, int, int], None]
"""Called with shards done, shards in all, and samples so far."""


class Source(NamedTuple):
    """A shard to look at: its name, path, and a text that changes when its rows do."""

    name: str
    path: str
    state: str


class Index:
    """An index that is open for writing."""

    def __init__(self, path: Path) -> None:
        self.db = connect(path)
        self.has_changed = False
        self._facets: dict[tuple[str, str], int] = {}
        self._cuts = cuts.read(self.db)
        self._counts: dict[str, Counter[int]] = {"samples": Counter(), "rejects": Counter()}

    def close(self) -> None:
        """Close the file."""
        self.db.close()

    def renew(
        self, table: str, sources: Sequence[Source], add: Callable[[Source, int], None], progress: Progress
    ) -> None:
        """Take out the rows of shards that are gone or changed, and add those of new ones."""
        kind = "" if table == "samples" else "rejected/"
        known = {
            name: (number, state)
            for number, name, state in self.db.execute("SELECT id, name, state FROM shards")
            if name.startswith("rejected/") == bool(kind)
        }
        wanted = {source.name: source.state for source in sources}
        for name, (number, state) in known.items():
            if wanted.get(name) != state:
                self.has_changed = True
                with self.db:
                    self._remove(table, number)
                    self._write_counts()
        missing = [source for source in sources if known.get(source.name, (0, ""))[1] != source.state]
        self.has_changed = self.has_changed or bool(missing)
        for done, source in enumerate(missing):
            progress(len(sources) - len(missing) + done, len(sources), self.count(table))
            with self.db:
                number = self._next("shards")
                add(source, number)
                self.db.execute("INSERT INTO shards VALUES (?, ?, ?, ?)", (number, *source))
                self._write_counts()
        progress(len(sources), len(sources), self.count(table))

    def count(self, table: str) -> int:
        """Return the rows of a table."""
        found = self.db.execute("SELECT value FROM meta WHERE name = ?", (table,)).fetchone()
        return int(found[0]) if found else 0

    def tag(self, table: str, kind: str, value: str) -> str:
        """Return the tag of a facet's value, counted once more."""
        number = self._facets.get((kind, value))
        if number is None:
            self.db.execute("INSERT OR IGNORE INTO facets (kind, value) VALUES (?, ?)", (kind, value))
            found = self.db.execute("SELECT id FROM facets WHERE kind = ? AND value = ?", (kind, value))
            number = self._facets[kind, value] = int(found.fetchone()[0])
        self._counts[table][number] += 1
        return f"v{number}"

    def insert(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Insert rows (columns; caption, url and tags among them) and their texts."""
        names = ", ".join(f'"{name}"' for name in columns)
        marks = ", ".join("?" * (len(columns) + 1))
        at = [columns.index(name) for name in ("caption", "url", "tags")]
        start = self._next(table)
        batch = list[Sequence[object]]()
        own = [name for name in columns if name in NUMBERS or name.startswith("score_")]

        def write() -> None:
            nonlocal start
            numbered = [[start + n, *row] for n, row in enumerate(batch)]
            if own:
                numbers = [[row[columns.index(name)] for name in own] for row in batch]
                for row, more in zip(numbered, cuts.tags(self.db, self._cuts, own, numbers), strict=True):
                    row[1 + at[2]] = f"{row[1 + at[2]]} {more}"
            self.db.executemany(f"INSERT INTO {table} (id, {names}) VALUES ({marks})", numbered)
            self.db.executemany(
                f"INSERT INTO {table}_text (rowid, caption, url, tags) VALUES (?, ?, ?, ?)",
                [(row[0], *(row[1 + place] for place in at)) for row in numbered],
            )
            start += len(batch)
            self._add(table, len(batch))
            batch.clear()

        for row in rows:
            batch.append(row)
            if len(batch) == _BATCH:
                write()
        write()

    def _next(self, table: str) -> int:
        return int(self.db.execute(f"SELECT coalesce(max(id), 0) + 1 FROM {table}").fetchone()[0])

    def _add(self, table: str, number: int) -> None:
        self.db.execute("DELETE FROM meta WHERE name = 'lists'")  # written again once the index is whole
        self.db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (table, str(self.count(table) + number)))

    def _remove(self, table: str, shard: int) -> None:
        """Remove a shard's rows, their texts and their counts."""
        column = "shard" if table == "samples" else "file"
        where = f"FROM {table} WHERE {column} = ?"
        rows = self.db.execute(f"SELECT id, caption, url, tags {where}", (shard,)).fetchall()
        self.db.executemany(
            f"INSERT INTO {table}_text ({table}_text, rowid, caption, url, tags) "
            "VALUES ('delete', ?, ?, ?, ?)",
            rows,
        )
        for *_, tags in rows:
            self._counts[table].subtract(int(tag[1:]) for tag in tags.split() if tag[0] == "v")
        self.db.execute(f"DELETE {where}", (shard,))
        self.db.execute("DELETE FROM shards WHERE id = ?", (shard,))
        self._add(table, -len(rows))

    def _write_counts(self) -> None:
        for table, counts in self._counts.items():
            self.db.executemany(
                f"UPDATE facets SET {table} = {table} + ? WHERE id = ?", [(n, i) for i, n in counts.items()]
            )
            counts.clear()


def connect(path: Path) -> sqlite3.Connection:
    """Open an index for writing, made again where there is none of this version."""
    db = sqlite3.connect(path)
    try:
        version = db.execute("SELECT value FROM meta WHERE name = 'version'").fetchone()
    except sqlite3.DatabaseError:
        version = None
    if version != (str(VERSION),):
        db.close()
        path.unlink(missing_ok=True)
        db = sqlite3.connect(path)
        with db:
            db.executescript(_TABLES + query_list.TABLES + postings.TABLES)
            db.execute("INSERT INTO meta VALUES ('version', ?)", (str(VERSION),))
            for table in ("samples_text", "rejects_text"):
                db.execute(f"INSERT INTO {table} ({table}, rank) VALUES ('hashsize', ?)", (_AT_ONCE,))
    # Removed rows must not stay in free pages; a build that the power ends is built again.
    for pragma in ("secure_delete=ON", "journal_mode=DELETE", "synchronous=OFF", "cache_size=-65536"):
        db.execute(f"PRAGMA {pragma}")
    return db


def finish(index: "Index", name: str) -> None:
    """Make the indexes for sorting, merge the posting lists, and note which files the index is of."""
    db = index.db
    columns = [row[1] for row in db.execute("PRAGMA table_info(samples)")]
    numbers = [column for column in columns if column in NUMBERS or column.startswith("score_")]
    with db:
        for column in numbers:
            db.execute(f'CREATE INDEX IF NOT EXISTS "sort_{column}" ON samples ("{column}")')
        postings.renew(db, list(cuts.read(db)), index.count("samples"))
        db.execute("DELETE FROM facets WHERE samples <= 0 AND rejects <= 0")
        for table in ("samples_text", "rejects_text"):
            db.execute(f"INSERT INTO {table} ({table}) VALUES ('optimize')")
        bins = {column: _histogram(db, column) for column in numbers}
        for key, value in (("name", name), ("histograms", bins)):
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value)))


def _histogram(db: sqlite3.Connection, column: str) -> list[tuple[float, int]]:
    """Return (lower bound, samples) of equal bins between a column's least and largest value."""
    low, high = (
        db.execute(f'SELECT {side}("{column}") FROM samples').fetchone()[0] for side in ("min", "max")
    )
    if low is None:
        return []
    width = (high - low) / BINS or 1.0  # one value: one bin has it
    rows = db.execute(
        f'SELECT min(cast(("{column}" - ?) / ? AS INTEGER), ?) AS bin, count(*) FROM samples '
        f'WHERE "{column}" IS NOT NULL GROUP BY bin',
        (low, width, BINS - 1),
    )
    counts = dict(rows.fetchall())
    return [(low + width * n, counts.get(n, 0)) for n in range(BINS)]
