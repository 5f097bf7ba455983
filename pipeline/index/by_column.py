"""Pages of samples in the order of a column of numbers, of an index without lists (see `walk`)."""

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from pipeline.index.cuts import NONE, PARTS, Cuts
from pipeline.index.question import Filter, Last, Question, in_order
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


def few(reader: Reader, asked: Question, sort: str, last: Last | None, limit: int) -> list[dict[str, Any]]:
    """Return a page of few samples, which are sorted, or of all within bounds by the column's index.

    sort: a column, with "-" before it for the largest first.
    """
    column, rest = sort.removeprefix("-"), asked.after(sort, last)
    source = rest.source
    if not asked.match:
        source = source.replace("samples", f'samples INDEXED BY "sort_{column}"', 1)
    statement = f"SELECT {reader.columns('samples')} FROM {source} {in_order(sort)} LIMIT ?"
    return reader.rows(statement, [*rest.all_values, limit])


def among(
    reader: Reader, ids: set[int], asked: Question, sort: str, last: Last | None, share: float, limit: int
) -> list[dict[str, Any]]:
    """Return a page of those of some samples that a match finds, or of all, in the order of a column."""
    if (found := _matched(reader, asked, share, limit)) is not None:
        ids, asked = ids & found, asked._replace(match="")
        if are_few(reader, len(ids), limit):
            return _looked_up(reader, ids, asked, sort, last, limit)
    return reader.by_ids(list(itertools.islice(_by_parts(reader, asked, sort, last, ids), limit)))


def many(
    reader: Reader, asked: Question, sort: str, last: Last | None, share: float, limit: int
) -> list[dict[str, Any]]:
    """Return a page of many samples that a match finds, about a share of all, in the order of a column.

    Where about every eighth sample is found the column is walked, and of each sample is asked whether it is
    found. Else each part of the column is matched together with the filter, or read beside a phrase's ids.
    """
    column = sort.removeprefix("-")
    if limit <= _ASKED * share or column not in reader.cuts:
        is_found = "EXISTS (SELECT 1 FROM samples_text WHERE samples_text MATCH ? AND rowid = samples.id)"
        rest = asked.after(sort, last)
        where = " AND ".join((*rest.bounds, is_found))
        return reader.rows(
            f'SELECT {reader.columns("samples")} FROM samples INDEXED BY "sort_{column}" WHERE {where} '
            f"{in_order(sort)} LIMIT ?",
            [*rest.values, asked.match, limit],
        )
    found = _matched(reader, asked, share, limit)
    if found is not None and are_few(reader, len(found), limit):
        return _looked_up(reader, found, asked, sort, last, limit)
    of = asked if found is None else asked._replace(match="")
    ids, rows = _by_parts(reader, of, sort, last, found), list[dict[str, Any]]()
    while len(rows) < limit and (
        some := list(itertools.islice(ids, limit - len(rows) + (_SPARE if asked.bounds else 0)))
    ):
        rows += reader.by_ids(some, asked.bounds, asked.values)
    return rows[:limit]


def _looked_up(
    reader: Reader, ids: set[int], asked: Question, sort: str, last: Last | None, limit: int
) -> list[dict[str, Any]]:
    """Return a page of few samples that are known, sorted by a column, without those out of bounds."""
    rest = asked.after(sort, last)
    where = " AND ".join(("id IN (SELECT value FROM json_each(?))", *rest.bounds))
    return reader.rows(
        f"SELECT {reader.columns('samples')} FROM samples WHERE {where} {in_order(sort)} LIMIT ?",
        [json.dumps([*ids]), *rest.values, limit],
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
    reader: Reader, asked: Question, sort: str, last: Last | None, among: set[int] | None = None
) -> Iterator[int]:
    """Yield the ids of samples that a match finds in the order of a column, from after a sample on."""
    column, falls = sort.removeprefix("-"), sort.startswith("-")
    own = reader.cuts[column]
    parts = [NONE, *range(len(own.starts) + 1)][:: -1 if falls else 1]
    for part in parts[parts.index(int(own.parts([last.value])[0])) if last else 0 :]:
        tag = f"tags : {own.tag(part)}"
        found = reader.tuples(
            f"SELECT rowid FROM samples_text WHERE samples_text MATCH ? ORDER BY rowid {_way(sort)}",
            (f"({asked.match}) AND ({tag})" if asked.match else tag,),
        )
        ids: Iterator[int] = itertools.chain.from_iterable(found)
        if among is not None:
            ids = filter(among.__contains__, ids)
        if not _is_sorted(reader, column, own, part):
            ids = _ordered(reader, list(ids), own, part, sort, last)
        elif last:
            ids = filter(last.id.__gt__ if falls else last.id.__lt__, ids)
        yield from ids
        last = None


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
    reader: Reader, ids: Sequence[int], own: Cuts, part: int, sort: str, last: Last | None
) -> Iterator[int]:
    """Yield ids of one part in the order of a column: few by looking them up, many by its index."""
    column = sort.removeprefix("-")
    asked = Question("samples", "", (f'"{column}" >= ?', f'"{column}" < ?'), own.bounds(part))
    if len(ids) <= _LOOKED_UP:
        asked = asked._replace(bounds=(f"id IN ({', '.join('?' * len(ids))})",), values=tuple(ids))
    rest = asked.after(sort, last)
    wanted = set(ids)
    for row in reader.tuples(f"SELECT id FROM {rest.source} {in_order(sort)}", rest.values):
        if row[0] in wanted:
            yield row[0]


def _every(reader: Reader) -> int:
    return int(reader.meta("samples") or 0)


def _way(sort: str) -> str:
    return "DESC" if sort.startswith("-") else "ASC"
