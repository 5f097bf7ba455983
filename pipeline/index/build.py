"""Build or renew the index of a finished run, or of any WebDataset.

One SQLite file. `samples` has a row per sample in the order of the set: where its members lie in the tar, and
the columns that a page of pictures shows. `rejects` has one per rejected row. Each has a full-text table over
caption, URL and tags, without a copy of the text. A tag stands for a value of a facet (a site, a language, a
reason), vNUMBER, or for a query that the caption matches, qNUMBER; so a filter and a search are one look-up
of posting lists, whose cost grows with what they find and not with the set.

Renewing compares shards by their hashes and looks only at those that changed, as `--extend`, `compact` and
`takedown` change them. A shard is one transaction, so a build that is stopped goes on where it was.
"""

import json
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from pipeline import (
    checked_manifest,
    finished_set,
    manifest,
    schemas,
    score_files,
    storage,
    tarwalk,
    untrusted,
    urls,
)
from pipeline.checked_manifest import Manifest, ManifestShard
from pipeline.data.webdataset import IMAGE_SUFFIXES, split_name
from pipeline.finished_set import FinishedSet
from pipeline.patterns import is_hidden
from pipeline.run_folder import Layout
from pipeline.score_files import ScoreSet

VERSION: Final = 1
FACETS: Final = ("site", "lang", "source", "format", "licence", "synthetic", "shard")
"""Columns of samples by whose values one can filter."""
NUMBERS: Final = ("width", "height", "bytes", "lang_score")
"""Columns to sort by and to cut at, beside every score_*."""
_BATCH: Final = 50_000
_SCORE: Final = re.compile(r"score_\w+", re.ASCII)
_PACKED: Final = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")

_TABLES: Final = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE shards (id INTEGER PRIMARY KEY, name TEXT UNIQUE, path TEXT, state TEXT);
CREATE TABLE facets (
    id INTEGER PRIMARY KEY, kind TEXT, value TEXT, samples INTEGER DEFAULT 0, rejects INTEGER DEFAULT 0,
    UNIQUE (kind, value)
);
CREATE INDEX by_count ON facets (kind, samples DESC);
CREATE TABLE queries (
    id INTEGER PRIMARY KEY, query TEXT, matched INTEGER, kept INTEGER, present INTEGER, short INTEGER,
    hash BLOB, threshold BLOB
);
CREATE VIRTUAL TABLE queries_text USING fts5 (query, content='', prefix='2 3');
CREATE TABLE samples (
    id INTEGER PRIMARY KEY, uid TEXT, key TEXT, shard INTEGER, suffix TEXT,
    "offset" INTEGER, length INTEGER, json_offset INTEGER, json_length INTEGER,
    caption TEXT, url TEXT, page_url TEXT, tags TEXT, width INTEGER, height INTEGER, bytes INTEGER,
    lang_score REAL
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
CREATE VIRTUAL TABLE samples_text USING fts5 (caption, url, tags, content='');
CREATE VIRTUAL TABLE rejects_text USING fts5 (caption, url, tags, content='');
"""

Progress = Callable[[int, int, int], None]
"""Called with shards done, shards in all, and samples so far."""


class Place(NamedTuple):
    """Where a sample's members lie in its tar, in bytes."""

    suffix: str
    offset: int
    length: int
    json_offset: int = 0
    json_length: int = 0
    text_offset: int = 0
    text_length: int = 0


class _Seekable:
    """A tar archive of which only headers are read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = file.seek(0, 2)
        self.position = file.seek(0)

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self.position += len(data)
        return data

    def skip(self, size: int) -> None:
        if self.position + size > self.size:
            raise ValueError("the archive is cut")
        self.position = self._file.seek(size, 1)


def places(file: IO[bytes]) -> Iterator[tuple[str, Place]]:
    """Yield key and place of each sample with a picture; ValueError for what is no plain tar archive."""
    stream = _Seekable(file)
    key, found = "", dict[str, tuple[int, int]]()
    try:
        for member in tarwalk.members(stream):
            name = split_name(member.name)
            if member.is_file and not is_hidden(member.name):
                if name.key != key:
                    yield from _place(key, found)
                    key, found = name.key, {}
                found.setdefault(name.suffix, (stream.position, member.size))
            stream.skip(member.size)
    except tarwalk.UnendedError:
        pass
    yield from _place(key, found)


def _place(key: str, found: dict[str, tuple[int, int]]) -> Iterator[tuple[str, Place]]:
    suffix = next((suffix for suffix in IMAGE_SUFFIXES if suffix in found), "")
    if suffix:
        nothing = (0, 0)
        yield key, Place(suffix, *found[suffix], *found.get("json", nothing), *found.get("txt", nothing))


class Source(NamedTuple):
    """A shard to look at: its name, path, and a text that changes when its rows do."""

    name: str
    path: str
    state: str


class Index:
    """An index that is open for writing."""

    def __init__(self, path: Path) -> None:
        self.db = connect(path)
        self._facets: dict[tuple[str, str], int] = {}
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
                with self.db:
                    self._remove(table, number)
                    self._write_counts()
        missing = [source for source in sources if known.get(source.name, (0, ""))[1] != source.state]
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

        def write() -> None:
            nonlocal start
            numbered = [(start + n, *row) for n, row in enumerate(batch)]
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
    """Open an index for writing, made anew where there is none of this version."""
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
            db.executescript(_TABLES)
            db.execute("INSERT INTO meta VALUES ('version', ?)", (str(VERSION),))
    # What is taken down must not stay in free pages; a build that the power ends is built again.
    for pragma in ("secure_delete=ON", "journal_mode=DELETE", "synchronous=OFF", "cache_size=-65536"):
        db.execute(f"PRAGMA {pragma}")
    return db


def index_run(path: Path, layout: Layout, progress: Progress) -> None:
    """Renew the index of a finished run."""
    stored = checked_manifest.of(layout.root)
    whole = finished_set.load(layout, stored)
    with closing(Index(path)) as index:
        scored = _score_sets(layout, stored)
        scores = _score_columns(index, layout, stored, scored)
        shards = [_shard_source(layout, whole, shard, scored) for shard in stored.shards]

        def add(source: Source, number: int) -> None:
            rows = _run_rows(index, source, number, _with_scores(layout, whole, source, scored), scores)
            index.insert("samples", (*_COLUMNS, *scores), rows)

        index.renew("samples", shards, add, progress)
        files = [
            Source(f"rejected/{storage.stem(file)}", file, str(storage.file_info(file).size))
            for file in manifest.rejected_files(layout, stored)
        ]

        def add_rejects(source: Source, number: int) -> None:
            index.insert("rejects", _REJECT_COLUMNS, _rejected_rows(index, source, number))

        index.renew("rejects", files, add_rejects, progress)
        _write_queries(index.db, layout, whole)
        _finish(index.db, layout.root)


_COLUMNS: Final = (
    "uid", "key", "shard", "suffix", "offset", "length", "json_offset", "json_length", "caption", "url",
    "page_url", "tags", "width", "height", "bytes", "lang_score",
)  # fmt: skip
_REJECT_COLUMNS: Final = (
    "file", "uid", "url", "caption", "page_url", "stage", "reason", "detail", "tags"
)  # fmt: skip


def _score_sets(layout: Layout, stored: Manifest) -> dict[str, ScoreSet]:
    """Return the sets of `openwit score` that cover the run as it is, by name."""
    found = {name: score_files.read(layout.root, name) for name in score_files.names(layout.root)}
    return {name: one for name, one in found.items() if one is not None and not one.stale(stored)}


def _shard_source(
    layout: Layout, whole: FinishedSet, shard: ManifestShard, scored: Mapping[str, ScoreSet]
) -> Source:
    name = storage.stem(shard.name)
    gone = "\n".join(sorted(whole.dropped.keys(name)))
    tables = (
        table.sha256 for one in scored.values() for table in one.tables if table.name == f"{name}.parquet"
    )
    state = " ".join((shard.sha256, xxhash.xxh3_64_hexdigest(gone.encode()), *tables))
    return Source(name, storage.join(layout.shards, shard.name), state)


def _score_columns(
    index: Index, layout: Layout, stored: Manifest, scored: Mapping[str, ScoreSet]
) -> list[str]:
    """Return the names of the columns of scores, of the crawl and later ones, which the table gets."""
    found = {column for one in scored.values() for column in one.columns}
    for shard in stored.shards[:1]:
        with storage.open_input(storage.join(layout.shards, f"{storage.stem(shard.name)}.parquet")) as file:
            found |= {name for name in pq.read_schema(file).names if _SCORE.fullmatch(name)}
    known = {row[1] for row in index.db.execute("PRAGMA table_info(samples)")}
    for name in sorted(found - known):
        index.db.execute(f'ALTER TABLE samples ADD COLUMN "{name}" REAL')
    return sorted(found)


def _with_scores(
    layout: Layout, whole: FinishedSet, source: Source, scored: Mapping[str, ScoreSet]
) -> pa.Table:
    """Return the rows of a shard that are part of the set, with all their scores."""
    table = whole.table(source.name)
    for name, one in scored.items():
        path = score_files.folder(layout.root, name, f"{source.name}.parquet")
        later = schemas.read_table(path, list(one.columns))
        for column in one.columns:
            if column not in table.column_names:
                table = table.append_column(column, later[column])
    return table.filter(pa.array(whole.stays(source.name, table)))


def _run_rows(
    index: Index, source: Source, number: int, table: pa.Table, scores: Sequence[str]
) -> Iterator[Sequence[object]]:
    """Yield the rows of a shard of a run."""
    with storage.open_input(source.path) as file:
        by_key = dict(places(file))
    names = set(table.column_names)
    for row in table.to_pylist():
        if (place := by_key.get(row["key"])) is None:
            continue  # `openwit verify` says that tar and Parquet differ
        values = {name: row[name] for name in FACETS if name in names}
        values |= {"site": _site(row["url"]), "shard": source.name}
        tags = [index.tag("samples", kind, str(value)) for kind, value in values.items() if value]
        tags += [f"q{query}" for query in row["matched_query_ids"]]
        yield (
            row["uid"], row["key"], number, *place[:5], "\n".join(row["captions"]), row["url"],
            row["page_url"], " ".join(tags), row["width"], row["height"], row["bytes"], row["lang_score"],
            *(row.get(name) for name in scores),
        )  # fmt: skip


def _rejected_rows(index: Index, source: Source, number: int) -> Iterator[Sequence[object]]:
    with storage.open_input(source.path) as file:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=16_384):
            for row in batch.to_pylist():
                values = {"site": _site(row["url"]), "reason": row["reason"], "stage": row["stage"]}
                tags = [index.tag("rejects", kind, value) for kind, value in values.items() if value]
                yield (
                    number, row["uid"], row["url"], row["caption"], row["page_url"], row["stage"],
                    row["reason"], row["detail"], " ".join(tags),
                )  # fmt: skip


def index_shards(path: Path, name: str, shards: Sequence[str], progress: Progress) -> list[str]:
    """Renew the index of anybody's WebDataset; return a sentence for each archive that is not whole."""
    refused = list[str]()
    with closing(Index(path)) as index:

        def add(source: Source, number: int) -> None:
            index.insert("samples", _COLUMNS, _foreign_rows(index, source, number, refused))

        index.renew("samples", [_described(shard) for shard in shards], add, progress)
        _finish(index.db, name)
    return refused


def _described(path: str) -> Source:
    info = storage.file_info(path)
    return Source(path, path, f"{info.size} {info.etag}")


def _foreign_rows(
    index: Index, source: Source, number: int, refused: list[str]
) -> Iterator[Sequence[object]]:
    """Yield the rows of an archive: caption from KEY.txt, and what KEY.json has by openwit's names."""
    with storage.open_input(source.path) as file, storage.open_input(source.path) as content:
        if file.read(6).startswith(_PACKED):
            refused.append(f"{source.path} is compressed, so no single picture can be read: unpack it")
            return
        try:
            for key, place in places(file):
                yield _foreign_row(index, source, number, key, place, content)
        except ValueError as error:
            refused.append(f"{source.path}: {error}; what stands before that is indexed")


def _foreign_row(
    index: Index, source: Source, number: int, key: str, place: Place, content: IO[bytes]
) -> Sequence[object]:
    known = _json_of(content, place)
    text = _read(content, place.text_offset, place.text_length).decode("utf-8", "replace")
    caption, url = text or _text(known, "caption"), _text(known, "url")
    uid = _text(known, "uid") or xxhash.xxh3_128_hexdigest(f"{source.path}\n{key}".encode())
    values = {kind: _text(known, kind) for kind in FACETS}
    values |= {"site": _site(url), "shard": storage.stem(source.path)}
    tags = " ".join(index.tag("samples", kind, value) for kind, value in values.items() if value)
    return (
        uid, key, number, *place[:5], caption, url, _text(known, "page_url"), tags,
        _number(known, "width"), _number(known, "height"), place.length, None,
    )  # fmt: skip


def _json_of(content: IO[bytes], place: Place) -> dict[str, Any]:
    try:
        return untrusted.parse_row(_read(content, place.json_offset, place.json_length) or b"{}")
    except ValueError:
        return {}


def _read(file: IO[bytes], offset: int, length: int) -> bytes:
    if not length or length > untrusted.MAX_JSON:
        return b""
    file.seek(offset)
    return file.read(length)


def _text(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    return value if isinstance(value, str) else ""


def _number(row: dict[str, Any], name: str) -> int | None:
    value = row.get(name)
    return value if isinstance(value, int) and abs(value) < 1 << 40 else None


def _write_queries(db: sqlite3.Connection, layout: Layout, whole: FinishedSet) -> None:
    """Write the query list with its counts, its hashes and its thresholds anew."""
    table = schemas.read_table(layout.query_counts)
    columns = [
        table[name].to_pylist() for name in ("query_id", "query", "matched", "kept", "present", "short")
    ]
    hashes = [int(value).to_bytes(8, "big") for value in whole.hashes]
    unknown = [None] * len(hashes)
    thresholds = (
        unknown if whole.thresholds is None else [int(value).to_bytes(8, "big") for value in whole.thresholds]
    )
    with db:
        db.execute("DELETE FROM queries")
        db.execute("DROP TABLE queries_text")
        db.execute("CREATE VIRTUAL TABLE queries_text USING fts5 (query, content='', prefix='2 3')")
        rows = list(zip(*columns, hashes, thresholds, strict=True))
        db.executemany("INSERT INTO queries VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        db.executemany("INSERT INTO queries_text (rowid, query) VALUES (?, ?)", [row[:2] for row in rows])


def _finish(db: sqlite3.Connection, name: str) -> None:
    """Make what sorting needs, merge the posting lists, and note what the index is of."""
    numbers = [row[1] for row in db.execute("PRAGMA table_info(samples)") if row[1].startswith("score_")]
    with db:
        for column in (*NUMBERS, *numbers):
            db.execute(f'CREATE INDEX IF NOT EXISTS "sort_{column}" ON samples ("{column}")')
        db.execute("DELETE FROM facets WHERE samples <= 0 AND rejects <= 0")
        for table in ("samples_text", "rejects_text"):
            db.execute(f"INSERT INTO {table} ({table}) VALUES ('optimize')")
        db.execute("INSERT OR REPLACE INTO meta VALUES ('name', ?)", (json.dumps(name),))


def _site(url: str) -> str:
    try:
        return urls.site(url) if url else ""
    except urls.BadUrl:
        return ""  # such as of a row that was rejected for it
