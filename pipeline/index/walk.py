"""Pages and counts that are worked out from lists, whatever the words, the cuts and the order.

There are three ways, of which the one is taken that reads least: the shortest list of a word; the lists of
the few parts of a column within its bounds; or the order itself, from its end, if many samples are meant.
Samples are looked at in the order of the page until it is full, by the lists of the other words, and by their
rows where lists cannot say all, as of four words in a row.
"""

import functools
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from pipeline.index import orders, postings
from pipeline.index.lists import List, Lists, Mask, Places, Word
from pipeline.index.question import Filter, Question, phrases
from pipeline.index.reader import Reader
from pipeline.index.terms import Ids

_FEW: Final = 1_200  # samples of rare terms of which lists are asked, if there are too many to read all rows
_TOGETHER: Final = 8  # parts of a column that are read for a cut
_SPARE: Final = 10  # samples that are looked at beyond those that are missing
_ROW: Final = 8_500  # bytes that are read for a row of ten million
_DENSE: Final = 20  # samples of a part of an order, whose ids lie together
_READ: Final = 4_096  # bytes for a part of a list
_ALL: Final = sys.maxsize


class Page(NamedTuple):
    """Rows of one page, as dicts by column; `total` is a lower bound unless `is_exact`."""

    rows: list[dict[str, Any]]
    total: int
    is_exact: bool


class Asked(NamedTuple):
    """A question whose words are lists: those that are needed, and those that are refused."""

    wanted: Filter
    question: Question
    needed: tuple[Word, ...]
    refused: tuple[Word, ...]
    column: str
    """The one to sort by, or "" for the order of the set."""
    bounds: dict[str, tuple[int, int]]
    """From and below which places of a column, for each that is cut."""

    @property
    def is_falling(self) -> bool:
        """Return whether the largest are wanted first."""
        return self.wanted.sort.startswith("-")


class _Some(NamedTuple):
    """Samples by rising place in the order of a page; `ids` if they are known."""

    places: Places
    is_unsure: Mask
    ids: Ids | None = None

    def only(self, mask: Any) -> "_Some":
        """Return those of a mask, or of an order."""
        return _Some(self.places[mask], self.is_unsure[mask], None if self.ids is None else self.ids[mask])


def asked(lists: Lists, wanted: Filter, question: Question) -> Asked | None:
    """Return a question with its words as lists; None if these cannot answer it."""
    column, columns = wanted.sort.removeprefix("-"), {*wanted.least, *wanted.most}
    if not lists.are_there or not columns <= {*lists.columns}:
        return None
    column = column if column in lists.columns else ""  # a column of one number
    given = [(is_refused, lists.word(inner)) for is_refused, inner in phrases(wanted.text)]
    needed = [word for is_refused, word in given if word and not is_refused]
    if any(word is None for _, word in given) or "0" in question.bounds:
        return None
    refused = [word for is_refused, word in given if word and is_refused and needed]  # as FTS5 has it
    needed += [lists.tagged(tag) for tag in question.tags]
    needed = [
        word for word in needed if word.size < lists.samples or not word.is_exact
    ]  # others have all samples
    bounds = {name: lists.cut(wanted, name) for name in columns}
    if not needed and not bounds and not refused:
        return None  # the whole set in its order
    return Asked(wanted, question, tuple(needed), tuple(refused), column, bounds)


def page(reader: Reader, lists: Lists, of: Asked, offset: int, limit: int) -> Page | None:
    """Return a page; None if no list is short enough and no order is written down."""
    start = _cheapest(lists, of, offset + limit)
    if start is None:
        return None
    if start and start[0].first is None:
        return _by_rows(reader, lists, of, start, offset, limit)
    count, place, kept = 0, 0, [np.zeros(0, np.int64)]
    blocks, is_whole = _blocks(lists, of, start, offset + limit), True
    part = _part(lists, of, offset + limit)
    for block in blocks:
        some, place = _narrowed(lists, of, block, start, part), 0
        while place < len(some.places) and (missing := offset + limit - count) > 0:
            end = place + missing + _SPARE if some.is_unsure.any() else len(some.places)
            own = some.only(slice(place, end) if not of.is_falling else slice(-place - 1, -end - 1, -1))
            own = own.only(_sure(lists, of, own))
            kept.append(own.places)
            count, place = count + len(own.places), end
        if count >= offset + limit:
            rest = len(some.places) - place + sum(len(block.places) for block in blocks) if start else 1
            is_whole = not rest or _are_all(of, start)
            count += rest if is_whole else 0
            break
    found = np.concatenate(kept)[offset : offset + limit]
    known = _known(of)
    total = count if known is None else known
    return Page(reader.by_ids(_ids_at(lists, of, found).tolist()), total, is_whole or known is not None)


def count(lists: Lists, of: Asked) -> int | None:
    """Return how many samples a filter leaves, if its lists say so without a look at rows."""
    start, known = _cheapest(lists, of, _ALL), _known(of)
    if known is not None or start is None or (start and start[0].first is None):
        return known
    found = 0
    for block in _blocks(lists, of, start, _ALL):
        some = _narrowed(lists, of, block, start, 1.0)
        if some.is_unsure.any():
            return None
        found += len(some.places)
    return found


def _known(of: Asked) -> int | None:
    """Return how many samples one word has, or one tag, if that is all that is asked for."""
    is_one = len(of.needed) == 1 and not of.refused and not of.bounds and len(of.needed[0].lists) == 1
    return of.needed[0].size if is_one and of.needed[0].is_exact else None


def _are_all(of: Asked, start: Sequence[List]) -> bool:
    """Return whether what some lists and the bounds leave is all that is asked for."""
    are_exact = all(set(one.lists) <= set(start) and one.is_exact for one in of.needed)
    return bool(start) and not of.refused and are_exact


def _part(lists: Lists, of: Asked, rows: int) -> float:
    """Return about which part of all samples are looked at for so many that are meant."""
    share = 1.0
    for size in [word.size for word in of.needed] + [high - low for low, high in of.bounds.values()]:
        share *= max(size, 0.5) / lists.samples
    return min(rows / (share * lists.samples), 1.0)


def _cheapest(lists: Lists, of: Asked, rows: int) -> list[List] | None:
    """Return the lists to begin with, [] for the order itself, or None if all cost too much."""
    every = [one for word in of.needed for one in word.lists]
    if few := [one for one in every if one.first is None]:
        return few if min(one.size for one in few) <= _FEW else None
    found = _ways(lists, of, every, rows)
    return min(found, key=lambda way: way[0])[1] if found else None


def _ways(lists: Lists, of: Asked, every: Sequence[List], rows: int) -> list[tuple[float, list[List]]]:
    """Return the lists to begin with, [] for the order itself, and the bytes that are read for each."""
    part = _part(lists, of, rows)
    columns = len({*of.bounds, *filter(None, [of.column])})
    ways = list[tuple[float, list[List]]]()
    for some in (sorted(one for one in every if one.data)[:1], _parts_of_a_cut(lists, of)):
        if some and (size := sum(one.size for one in some)) <= lists.samples // postings.COMMON:
            rest = [
                word for word in of.needed if not set(word.lists) & set(some) and word.lists[0].sign is None
            ]
            rest += [word for word in of.refused if _sign(word) is None]
            cost = (2 + 2 + 3 * columns) * size + sum(_bytes(lists, word, size, part) for word in rest)
            ways.append((cost, some))
    if all(one.common is not None for one in every):
        walked = part * lists.samples
        cost = walked * len(every) / 8
        for word in of.needed:
            walked *= word.size / lists.samples
        for low, high in [bounds for name, bounds in of.bounds.items() if name != of.column]:
            cost += min(part * lists.samples, walked * _READ)
            walked *= (high - low) / lists.samples
            cost += _ROW * walked * min(1, 2 * lists.samples / 256 / max(high - low, 1))
        ways.append((cost + sum(_bytes(lists, word, int(walked), part) for word in of.refused), []))
    return ways


def _bytes(lists: Lists, word: Word, ids: int, part: float) -> float:
    """Return about how many bytes it takes to look a part of so many samples up in a word's lists."""
    sizes = [
        min(_size(lists, one) if one.data else np.inf, part * lists.samples / 8 if one.common else np.inf)
        for one in word.lists if one.first is not None
    ]  # fmt: skip
    return float(min(sum(sizes), part * ids * _READ * len(sizes)))


def _size(lists: Lists, one: List) -> int:
    """Return about how many bytes the ids of a list take."""
    return one.size * (1 if 32 * one.size > lists.samples else 2)


def _parts_of_a_cut(lists: Lists, of: Asked) -> list[List]:
    """Return the lists of the parts of a column within a filter's bounds, if they are few."""
    best = list[List]()
    for name in {*of.bounds} & {*lists.cuts}:
        own = lists.cuts[name]
        bounds = (of.wanted.least.get(name, -np.inf), of.wanted.most.get(name, np.inf))
        low, high = own.parts(bounds).tolist()
        if 0 <= high - low < _TOGETHER:
            some = [lists.tagged(own.tag(part)).lists[0] for part in range(low, high + 1)]
            if all(one.data and one.first for one in some):
                best = min(best or some, some, key=lambda found: sum(one.size for one in found))
    return best


def _blocks(lists: Lists, of: Asked, start: Sequence[List], rows: int) -> Iterator[_Some]:
    """Yield samples that may be meant, block by block in the order of the page."""
    low, high = of.bounds.get(of.column, (0, lists.samples) if of.column else (1, lists.last() + 1))
    if not start:
        size = 8 * orders.BYTES
        parts = range(low // size, -(-high // size))
        for part in reversed(parts) if of.is_falling else parts:
            places = np.arange(max(part * size, low), min((part + 1) * size, high))
            has_gaps = not of.column and not of.needed and lists.samples < lists.last()
            yield _Some(places, np.full(len(places), has_gaps))
        return
    ids = np.concatenate([lists.ids(one) for one in start])
    stays, places = _signed(lists, of, start, len(ids)), ids.astype(np.int64)
    for name in {*of.bounds, *filter(None, [of.column])}:
        own = np.concatenate([lists.places(one, name) for one in start])
        first, last = of.bounds.get(name, (0, lists.samples))
        stays &= (own >= first) & (own < last)
        places = own if name == of.column else places
    ids, places = ids[stays], places[stays]
    order = np.argsort(ids, kind="stable")
    for one in sorted({one for word in of.needed for one in word.lists} - {*start}):
        if one.sign is None and _is_by_ids(lists, one, _part(lists, of, rows)):
            order = order[lists.among(one, ids[order])]
    ids, places = ids[order], places[order]
    order = np.argsort(places, kind="stable")
    ids, places = ids[order], places[order]
    size, done = min(max(4 * rows, 500), len(ids)), 0
    while done < len(ids):
        some = (
            slice(max(len(ids) - done - size, 0), len(ids) - done)
            if of.is_falling
            else slice(done, done + size)
        )
        yield _Some(places[some], np.zeros(len(places[some]), bool), ids[some])
        size, done = 2 * size, done + size


def _signed(lists: Lists, of: Asked, start: Sequence[List], number: int) -> Mask:
    """Return which samples of lists have the commonest terms that are needed, and none that is refused."""
    needed = sum({1 << one.sign for word in of.needed for one in word.lists if one.sign is not None})
    refused = sum({1 << sign for word in of.refused if (sign := _sign(word)) is not None})
    if not needed | refused:
        return np.ones(number, bool)
    signs = np.concatenate([lists.signs(one) for one in start])
    found: Mask = (signs & np.uint16(needed) == needed) & (signs & np.uint16(refused) == 0)
    return found


def _sign(word: Word) -> int | None:
    """Return the sign of a word that is refused, if that says which samples have it."""
    return word.lists[0].sign if len(word.lists) == 1 and word.is_exact else None


def _narrowed(lists: Lists, of: Asked, some: _Some, start: Sequence[List], part: float) -> _Some:
    """Return samples without those that a list shows not to be meant, and note which have to be looked at.

    part: of all samples, are looked at for the page.
    """
    for word in sorted(of.needed, key=lambda word: word.size):
        for one in sorted(word.lists, key=lambda one: one.size):
            if not start or (one not in start and one.sign is None and not _is_by_ids(lists, one, part)):
                some, has = _has(lists, of, some, one, part)
                some = some.only(has)
        if not word.is_exact:
            some.is_unsure[:] = True
    some = _refused(lists, of, some, start, part, is_common=True)
    for name, bounds in of.bounds.items():
        if not start and name != of.column:
            may_be, is_edge = lists.within(of.column, name, bounds, some.places)
            some = some.only(may_be)
            some.is_unsure[is_edge] = True
    return _refused(lists, of, some, start, part, is_common=False)


def _refused(
    lists: Lists, of: Asked, some: _Some, start: Sequence[List], part: float, *, is_common: bool
) -> _Some:
    """Return samples without those that have a refused word, of the words that are common or those not."""
    for word in of.refused:
        if is_common != all(one.common is not None for one in word.lists) or (
            start and _sign(word) is not None
        ):
            continue
        if not is_common and some.ids is None and len(some.places) < _DENSE:
            some.is_unsure[:] = True  # a row costs no more than to learn the id
            continue
        has = np.ones(len(some.places), bool)
        for one in word.lists:
            some, own = _has(lists, of, some, one, part)
            has &= own
        if word.is_exact:
            some = some.only(~has)
        else:
            some.is_unsure[has] = True
    return some


def _has(lists: Lists, of: Asked, some: _Some, one: List, part: float) -> tuple[_Some, Mask]:
    """Return samples, with their ids if these had to be known, and which of them are in a list."""
    if one.common is not None and (some.ids is None or not _is_by_ids(lists, one, part)):
        return some, lists.bits(one, of.column, some.places)
    ids = lists.ids_at(of.column, some.places) if some.ids is None else some.ids
    order = np.argsort(ids, kind="stable")
    found = np.zeros(len(ids), bool)
    found[order] = lists.among(one, ids[order])
    return some._replace(ids=ids), found


def _is_by_ids(lists: Lists, one: List, part: float) -> bool:
    """Return whether a list is shorter than the part of its bitmap that a page reads, or has none."""
    return one.common is None or (bool(one.data) and _size(lists, one) < part * lists.samples / 8)


def _sure(lists: Lists, of: Asked, some: _Some) -> Mask:
    """Return which samples are meant: those that are not unsure, and those whose rows say so."""
    found = ~some.is_unsure
    if some.is_unsure.any():
        ids = _ids_at(lists, of, some.places[some.is_unsure])
        found[some.is_unsure] = np.isin(ids, lists.confirmed(ids, of.question))
    return found


def _ids_at(lists: Lists, of: Asked, places: Places) -> Ids:
    """Return the ids at places in the order of a page."""
    if of.is_falling:
        return lists.ids_at(of.column, places[::-1])[::-1]
    return lists.ids_at(of.column, places)


def _by_rows(
    reader: Reader, lists: Lists, of: Asked, start: Sequence[List], offset: int, limit: int
) -> Page | None:
    """Return a page of samples of rare terms, whose rows say where they stand; None for too many."""
    ids = functools.reduce(np.intersect1d, map(lists.ids, start))
    every = [one for word in of.needed for one in word.lists if one.first is not None]
    for one in sorted(every, key=lambda one: one.size):
        spared = len(ids) * _ROW * (1 - one.size / lists.samples)
        if _bytes(lists, Word((one,), True), len(ids), 1.0) < spared:
            ids = ids[lists.among(one, ids)]
    if len(ids) <= offset:
        return Page([], 0, not len(ids))
    ids, is_whole = ids[::-1] if of.is_falling and not of.column else ids, True
    if not of.column:  # no more rows than are shown
        kept, place = list[int](), 0
        while place < len(ids) and len(kept) < offset + limit:
            end = place + offset + limit - len(kept) + _SPARE
            kept += lists.confirmed(ids[place:end], of.question)
            place = end
        is_whole = place >= len(ids)
        ids = np.array(kept, np.uint32)
    else:
        ids = np.array(lists.confirmed(ids, of.question), np.uint32)
    way = "DESC" if of.is_falling else "ASC"
    order = f'"{of.column}" {way}, id {way}' if of.column else f"id {way}"
    statement = "SELECT id FROM samples WHERE id IN (SELECT value FROM json_each(?))"
    paged = f"{statement} ORDER BY {order} LIMIT ? OFFSET ?"
    rows = reader.tuples(paged, [json.dumps(ids.tolist()), limit, offset])
    return Page(reader.by_ids([row[0] for row in rows]), len(ids), is_whole)
