"""Pages of samples in the order of a column of numbers, of an index without lists (see `walk`)."""

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from pipeline.index.cuts import NONE, PARTS, Cuts
from pipeline.index.question import Filter, Question
from pipeline.index.reader import Reader

WALKED: Final = 100_000
"""Entries of a sorted column that a page walks for a bound or a count: 1.2 MB."""
_ROW, _TAG = 4_500, 4
"""Bytes that are read for a row that is looked up, and for a sample in a part's posting list."""
_LOOKED_UP: Final = 100  # rows of a part that are looked up singly
_ASKED: Final = 500  # samples of a sorted column of which each is asked whether a filter leaves it
_SPARE: Final = 10  # rows looked up beyond those that are missing, since bounds leave some out


def within(reader: Reader, wanted: Filter) -> set[int] | None:
    """Return the ids of the samples within a filter's bounds, or None if a bound leaves too many to walk."""
    found: set[int] | None = None
    in_a_part = _every(reader) / PARTS
    for name in {**wanted.least, **wanted.most}:
        bounds = (wanted.least.get(name, float("-inf")), wanted.most.get(name, float("inf")))
        low, high = reader.cuts[name].parts(bounds)
        if (high - low - 1) * in_a_part > WALKED:
            return None
        rows = reader.tuples(
            f'SELECT id FROM samples WHERE "{name}" >= ? AND "{name}" <= ? LIMIT {WALKED + 1}', bounds
        )
        own = set(itertools.chain.from_iterable(rows))
        if len(own) > WALKED:
            return None
        found = own if found is None else found & own
    return found


def are_few(reader: Reader, found: int, wanted: int) -> bool:
    """Return whether to look all up and sort them: the parts of the column that have the first cost more.

    found, wanted: how many samples a filter leaves, and how many of them in order a page needs.
    """
    return found * found * _ROW <= wanted * _TAG * _every(reader)


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


def among(
    reader: Reader, ids: set[int], asked: Question, sort: str, share: float, offset: int, limit: int
) -> list[dict[str, Any]]:
    """Return a page of those of some samples that a match finds, or of all, in the order of a column."""
    if (found := _matched(reader, asked, share, offset + limit)) is not None:
        ids, asked = ids & found, asked._replace(match="")
        if are_few(reader, len(ids), offset + limit):
            return _looked_up(reader, ids, asked, sort, offset, limit)
    return reader.by_ids(list(itertools.islice(_by_parts(reader, asked, sort, offset, ids), limit)))


def many(
    reader: Reader, asked: Question, sort: str, share: float, offset: int, limit: int
) -> list[dict[str, Any]]:
    """Return a page of many samples that a match finds, about a share of all, in the order of a column.

    Where about every eighth sample is found the column is walked, and of each sample is asked whether it is
    found. Else each part of the column is matched together with the filter, or read beside a phrase's ids.
    """
    column, way = sort.removeprefix("-"), _way(sort)
    if offset + limit <= _ASKED * share or column not in reader.cuts:
        is_found = "EXISTS (SELECT 1 FROM samples_text WHERE samples_text MATCH ? AND rowid = samples.id)"
        where = " AND ".join((*asked.bounds, is_found))
        return reader.rows(
            f'SELECT {reader.columns("samples")} FROM samples INDEXED BY "sort_{column}" WHERE {where} '
            f'ORDER BY "{column}" {way}, id {way} LIMIT ? OFFSET ?',
            [*asked.values, asked.match, limit, offset],
        )
    found = _matched(reader, asked, share, offset + limit)
    if found is not None and are_few(reader, len(found), offset + limit):
        return _looked_up(reader, found, asked, sort, offset, limit)
    of = asked if found is None else asked._replace(match="")
    if not asked.bounds:
        return reader.by_ids(list(itertools.islice(_by_parts(reader, of, sort, offset, found), limit)))
    ids, rows, wanted = _by_parts(reader, of, sort, 0, found), list[dict[str, Any]](), offset + limit
    while len(rows) < wanted and (some := list(itertools.islice(ids, wanted - len(rows) + _SPARE))):
        rows += reader.by_ids(some, asked.bounds, asked.values)
    return rows[offset:wanted]


def _looked_up(
    reader: Reader, ids: set[int], asked: Question, sort: str, offset: int, limit: int
) -> list[dict[str, Any]]:
    """Return a page of few samples that are known, sorted by a column, without those out of bounds."""
    column, way = sort.removeprefix("-"), _way(sort)
    where = " AND ".join(("id IN (SELECT value FROM json_each(?))", *asked.bounds))
    return reader.rows(
        f"SELECT {reader.columns('samples')} FROM samples WHERE {where} "
        f'ORDER BY "{column}" {way}, id {way} LIMIT ? OFFSET ?',
        [json.dumps([*ids]), *asked.values, limit, offset],
    )


def _matched(reader: Reader, asked: Question, share: float, wanted: int) -> set[int] | None:
    """Return the ids that a match with a phrase finds, about a share of all; None without one or for many.

    A phrase reads the positions of all its words, however few samples have it. Where these fill a page with
    every part of a column they are read with the part, which is as little.
    """
    most = min(WALKED, PARTS * wanted)
    if not asked.has_phrase or share * _every(reader) > most:
        return None
    statement = f"SELECT rowid FROM samples_text WHERE {asked.text} LIMIT {most + 1}"
    found = set(itertools.chain.from_iterable(reader.tuples(statement, [asked.match])))
    return found if len(found) <= most else None


def _by_parts(
    reader: Reader, asked: Question, sort: str, skip: int, among: set[int] | None = None
) -> Iterator[int]:
    """Yield the ids of samples that a match finds in the order of a column, without the first."""
    column, way = sort.removeprefix("-"), _way(sort)
    own = reader.cuts[column]
    parts = [NONE, *range(len(own.starts) + 1)]
    for part in parts if way == "ASC" else reversed(parts):
        tag = f"tags : {own.tag(part)}"
        found = reader.tuples(
            f"SELECT rowid FROM samples_text WHERE samples_text MATCH ? ORDER BY rowid {way}",
            (f"({asked.match}) AND ({tag})" if asked.match else tag,),
        )
        ids: Iterator[int] = itertools.chain.from_iterable(found)
        if among is not None:
            ids = filter(among.__contains__, ids)
        if among is not None or not _is_sorted(reader, column, own, part):
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


def _is_sorted(reader: Reader, column: str, own: Cuts, part: int) -> bool:
    """Return whether a part's samples have no value or all the same, as sides of resized pictures have."""
    if part == NONE:
        return True
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
    if _is_sorted(reader, column, own, part):
        yield from ids
        return
    order = f'"{column}" {way}, id {way}'
    if len(ids) <= _LOOKED_UP:
        marks = ", ".join("?" * len(ids))
        rows = reader.tuples(f"SELECT id FROM samples WHERE id IN ({marks}) ORDER BY {order}", ids)
        yield from itertools.chain.from_iterable(rows)
        return
    wanted = set(ids)
    between = f'"{column}" >= ? AND "{column}" < ?'
    for row in reader.db.execute(
        f"SELECT id FROM samples WHERE {between} ORDER BY {order}", own.bounds(part)
    ):
        if row[0] in wanted:
            yield row[0]


def _every(reader: Reader) -> int:
    return int(reader.meta("samples") or 0)


def _way(sort: str) -> str:
    return "DESC" if sort.startswith("-") else "ASC"
