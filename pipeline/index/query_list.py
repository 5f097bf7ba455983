"""The query list in an index, and the tags that say how soon a query takes a sample."""

import sqlite3
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pipeline import balance

_BITS: Final = 10  # of a priority that are told apart, after the first that is not zero
TABLES: Final = """
CREATE TABLE queries (
    id INTEGER PRIMARY KEY, place INTEGER UNIQUE, query TEXT, matched INTEGER, kept INTEGER, present INTEGER,
    short INTEGER, hash BLOB, threshold BLOB
);
CREATE VIRTUAL TABLE queries_text USING fts5 (query, content='', prefix='2 3');
CREATE INDEX queries_by_query ON queries (query);
CREATE INDEX queries_by_matched ON queries (matched);
CREATE INDEX queries_by_present ON queries (present);
CREATE INDEX queries_by_short ON queries (short);
"""


def rank_tags(queries: npt.NDArray[Any], uids: npt.NDArray[np.uint64], hashes: balance.U64) -> list[str]:
    """Return the tag that says how soon a query takes a sample, for each pair: query [n], uid's hash [n]."""
    ranks = _ranks(balance.priorities(uids, hashes[queries]))
    return [f"r{query}x{rank:04x}" for query, rank in zip(queries.tolist(), ranks.tolist(), strict=True)]


def rank_terms(query: int, rank: int) -> tuple[str, str]:
    """Return from and below which term a query's tags are from a rank on; they sort as the priorities do."""
    return f"r{query}x{rank:04x}", f"r{query}y"


def rank_of(term: str) -> int:
    """Return the rank of a query's tag."""
    return int(term.rpartition("x")[2], 16)


def _ranks(priorities: balance.U64) -> npt.NDArray[np.int64]:
    """Return numbers of 16 bits that rise with priorities, as finely as floating point does.

    Of a query's first n samples a thousandth or less share a number, so that to sort a page few rows are
    read.
    """
    bits = (priorities >> np.uint64(11)).astype(np.float64).view(np.int64) >> (52 - _BITS)
    ranks: npt.NDArray[np.int64] = np.maximum(bits - (1022 << _BITS), 0)
    return ranks


def write(
    db: sqlite3.Connection, rows: Iterable[tuple[int, str, int, int, int, int, bytes, bytes | None]]
) -> None:
    """Write the query list again: id, query, matched, kept, present, short, hash, threshold.

    A query's `place` is its rank by the samples it keeps, and the full-text table is in that order: so
    queries that begin with a word are found with the largest first, without sorting.
    """
    ordered = sorted(rows, key=lambda row: (-row[3], row[0]))
    with db:
        for name in ("queries", "queries_text"):
            db.execute(f"DROP TABLE IF EXISTS {name}")
        for statement in filter(str.strip, TABLES.split(";")):
            db.execute(statement)
        db.executemany(
            "INSERT INTO queries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [(row[0], place, *row[1:]) for place, row in enumerate(ordered)],
        )
        db.executemany(
            "INSERT INTO queries_text (rowid, query) VALUES (?, ?)",
            [(place, row[1]) for place, row in enumerate(ordered)],
        )
