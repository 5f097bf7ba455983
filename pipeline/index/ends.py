"""The first samples of each column of numbers, upwards and downwards, in full-text lists of their own.

The widest samples with two common words in a row are among the widest of all, yet the posting lists of
all samples are in the order of the set: there the positions of both words are read to find them, 4 MB of a
million rows. In the ends of a column, each a hundredth of the set or 20,000 samples, the same lists are short
and in the order of the column.
"""

import json
import sqlite3
from collections.abc import Sequence
from typing import Final

LEAST: Final = 500_000
"""Samples below which an index has no ends, since its lists are short."""
SHORTEST: Final = 20_000
"""Samples of an end at least: 0.3% of them fill a page."""
_SHARE: Final = 128  # of the samples, one in 128 is at an end
_APART: Final = 1 << 40  # between the ids of two ends
TABLES: Final = """
CREATE TABLE ends (id INTEGER PRIMARY KEY, sample INTEGER);
CREATE VIRTUAL TABLE ends_text USING fts5 (tags, caption, url, content='');
"""


def renew(db: sqlite3.Connection, columns: Sequence[str], samples: int) -> None:
    """Write the ends of columns again, if the index has changed, and note which ids of `ends` are which."""
    if db.execute("SELECT 1 FROM meta WHERE name = 'ends'").fetchone():
        return
    for name in ("ends", "ends_text"):
        db.execute(f"DROP TABLE {name}")
    for statement in filter(str.strip, TABLES.split(";")):
        db.execute(statement)
    found = dict[str, tuple[int, int]]()
    for column in columns if samples >= LEAST else ():
        for sort, way in ((f"-{column}", "DESC"), (column, "ASC")):
            order = f'ORDER BY "{column}" {way}, id {way} LIMIT {max(SHORTEST, samples // _SHARE)}'
            ids = [row[0] for row in db.execute(f"SELECT id FROM samples {order}")]
            first = len(found) * _APART + 1
            db.executemany("INSERT INTO ends VALUES (?, ?)", list(enumerate(ids, first)))
            found[sort] = first, first + len(ids) - 1
    db.execute(
        "INSERT INTO ends_text (rowid, caption, url, tags) SELECT ends.id, caption, url, tags "
        "FROM ends CROSS JOIN samples ON samples.id = sample ORDER BY ends.id"
    )
    db.execute("INSERT INTO ends_text (ends_text) VALUES ('optimize')")
    db.execute("INSERT INTO meta VALUES ('ends', ?)", (json.dumps(found),))
