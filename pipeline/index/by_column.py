"""Pages of samples in the order of a column of numbers."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Final

from pipeline.index.cuts import NONE, Cuts
from pipeline.index.question import Question
from pipeline.index.reader import Reader

LOOKED_UP: Final = 100
"""Rows that are looked up singly for a page: 0.5 MB of a large index."""
_ASKED: Final = 500  # samples of a sorted column of which each is asked whether a filter leaves it
_SPARE: Final = 10  # rows looked up beyond those that are missing, since bounds leave some out


def few(reader: Reader, asked: Question, sort: str, offset: int, limit: int) -> list[dict[str, Any]]:
    """Return a page of few samples, which are sorted, or of all within bounds by the column's index.

    sort: a column, with "-" before it for the largest first.
    """
    column, way = sort.removeprefix("-"), _way(sort)
    source = asked.source
    if not asked.match:
        source = source.replace("samples", f'samples INDEXED BY "sort_{column}"', 1)
    order = f'ORDER BY samples."{column}" {way}, samples.id {way} LIMIT ? OFFSET ?'
    statement = f"SELECT {reader.columns('samples')} FROM {source} {order}"
    return reader.rows(statement, [*asked.all_values, limit, offset])


def many(
    reader: Reader, asked: Question, sort: str, share: float, offset: int, limit: int
) -> list[dict[str, Any]]:
    """Return a page of many samples that a match finds, about a share of all, in the order of a column.

    Where about every eighth sample is found the column is walked, and of each sample is asked whether it
    is found. Else each part of the column is matched together with the filter.
    """
    column, way = sort.removeprefix("-"), _way(sort)
    if offset + limit <= _ASKED * share or column not in reader.cuts:
        among = "EXISTS (SELECT 1 FROM samples_text WHERE samples_text MATCH ? AND rowid = samples.id)"
        where = " AND ".join((*asked.bounds, among))
        return reader.rows(
            f'SELECT {reader.columns("samples")} FROM samples INDEXED BY "sort_{column}" WHERE {where} '
            f'ORDER BY "{column}" {way}, id {way} LIMIT ? OFFSET ?',
            [*asked.values, asked.match, limit, offset],
        )
    if not asked.bounds:
        return reader.by_ids(list(itertools.islice(_by_parts(reader, asked, sort, offset), limit)))
    ids, rows, wanted = _by_parts(reader, asked, sort, 0), list[dict[str, Any]](), offset + limit
    while len(rows) < wanted and (some := list(itertools.islice(ids, wanted - len(rows) + _SPARE))):
        rows += reader.by_ids(some, asked.bounds, asked.values)
    return rows[offset:wanted]


def _by_parts(reader: Reader, asked: Question, sort: str, skip: int) -> Iterator[int]:
    """Yield the ids of samples that a match finds in the order of a column, without the first."""
    column, way = sort.removeprefix("-"), _way(sort)
    own = reader.cuts[column]
    parts = [NONE, *range(len(own.starts) + 1)]
    for part in parts if way == "ASC" else reversed(parts):
        found = reader.db.execute(
            f"SELECT rowid FROM samples_text WHERE samples_text MATCH ? ORDER BY rowid {way}",
            (f"({asked.match}) AND (tags : {own.tag(part)})",),
        )
        ids: Iterator[int] = (row[0] for row in found)
        if part != NONE and not _is_one_value(reader, column, own, part):
            known = list(ids)
            if len(known) <= skip:
                skip -= len(known)
                continue
            ids = _ordered(reader, known, column, own, part, way)
        for one in ids:
            if skip:
                skip -= 1
            else:
                yield one


def _is_one_value(reader: Reader, column: str, own: Cuts, part: int) -> bool:
    """Return whether all samples of a part have the same value, as the sides of resized pictures have."""
    low, high = (
        reader.db.execute(
            f'SELECT {side}("{column}") FROM samples WHERE "{column}" >= ? AND "{column}" < ?',
            own.bounds(part),
        ).fetchone()[0]
        for side in ("min", "max")
    )
    return bool(low == high)


def _ordered(
    reader: Reader, ids: Sequence[int], column: str, own: Cuts, part: int, way: str
) -> Iterator[int]:
    """Yield ids of one part in the order of a column: few by looking them up, many by its index."""
    order = f'ORDER BY "{column}" {way}, id {way}'
    if len(ids) <= LOOKED_UP:
        marks = ", ".join("?" * len(ids))
        rows = reader.db.execute(f"SELECT id FROM samples WHERE id IN ({marks}) {order}", list(ids))
        yield from (row[0] for row in rows)
        return
    wanted = set(ids)
    between = f'"{column}" >= ? AND "{column}" < ?'
    for row in reader.db.execute(f"SELECT id FROM samples WHERE {between} {order}", own.bounds(part)):
        if row[0] in wanted:
            yield row[0]


def _way(sort: str) -> str:
    return "DESC" if sort.startswith("-") else "ASC"
