"""An index that is open for reading: its connection, its rows by id, and a time limit for questions."""

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from pipeline.index import cuts
from pipeline.index.question import Last
from pipeline.index.tables import NUMBERS

_CACHE: Final = 8_192  # kB that are not read again for the next page of the same question
_STEPS: Final = 1_000  # instructions of SQLite's machine between two looks at the clock
_COLUMNS: Final = {
    "samples": (
        "id", "uid", "key", "shard", "suffix", "offset", "length", "json_offset", "json_length", "caption",
        "url", "page_url", *NUMBERS,
    ),
    "rejects": ("id", "uid", "url", "caption", "page_url", "stage", "reason", "detail"),
}  # fmt: skip


class Reader:
    """An index that is open for reading; for one thread."""

    def __init__(self, path: Path) -> None:
        self.db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, check_same_thread=False)
        self.db.row_factory = sqlite3.Row
        self.db.execute("PRAGMA query_only=ON")
        self.db.execute(f"PRAGMA cache_size={-_CACHE}")
        info = self.db.execute("PRAGMA table_info(samples)").fetchall()
        names = [row["name"] for row in info]
        self.numbers = tuple(name for name in names if name in NUMBERS or name.startswith("score_"))
        self.name = json.loads(self.meta("name") or '""')
        self.cuts = cuts.read(self.db)

    def close(self) -> None:
        """Close the file."""
        self.db.close()

    def by_ids(
        self, ids: Sequence[int], bounds: Sequence[str] = (), values: Sequence[float] = ()
    ) -> list[Any]:
        """Return samples in the order of their ids as given, those within bounds."""
        found = dict[int, dict[str, Any]]()
        for start in range(0, len(ids), 10_000):
            some = list(ids[start : start + 10_000])
            where = " AND ".join((f"id IN ({', '.join('?' * len(some))})", *bounds))
            rows = self.db.execute(
                f"SELECT {self.columns('samples')} FROM samples WHERE {where}", [*some, *values]
            )
            found |= {row["id"]: dict(row) for row in rows}
        return [found[one] for one in ids if one in found]

    def rows(self, statement: str, values: Sequence[Any]) -> list[dict[str, Any]]:
        """Return the rows of a statement as dicts by column."""
        return [dict(row) for row in self.db.execute(statement, list(values))]

    def tuples(self, statement: str, values: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a statement as tuples, which cost a third of rows by name."""
        cursor = self.db.cursor()
        cursor.row_factory = None
        yield from cursor.execute(statement, list(values))

    def facet_count(self, kind: str, value: str, table: str = "samples") -> int:
        """Return how many samples, or rejects, have a value."""
        row = self.db.execute(
            "SELECT samples, rejects FROM facets WHERE kind = ? AND value = ?", (kind, value)
        ).fetchone()
        return int(row[table]) if row else 0

    def last(self, column: str, one: int) -> Last:
        """Return the sample after which a page begins, sorted by a column; LookupError if it is gone."""
        row = self.db.execute(f'SELECT "{column}" FROM samples WHERE id = ?', (one,)).fetchone()
        if row is None:
            raise LookupError("the set has changed: search again")
        return Last(one, row[0])

    def columns(self, table: str) -> str:
        """Return the columns that a page shows, as SQL."""
        scores = [name for name in self.numbers if name not in NUMBERS] if table == "samples" else []
        return ", ".join(f'{table}."{name}"' for name in (*_COLUMNS[table], *scores))

    def meta(self, name: str) -> str:
        """Return a text that the index notes of itself, or ""."""
        row = self.db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return str(row["value"]) if row else ""

    @contextlib.contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Let a question take so long; TimeoutError if it takes longer."""
        end = time.monotonic() + seconds
        self.db.set_progress_handler(lambda: time.monotonic() > end, _STEPS)
        try:
            yield
        except sqlite3.OperationalError as error:
            if "interrupted" not in str(error):
                raise
            raise TimeoutError("that takes too long: narrow the filter") from None
        finally:
            self.db.set_progress_handler(None, 0)
