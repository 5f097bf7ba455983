"""Pages and counts that are worked out from lists, whatever the words, the cuts and the order.

Samples are looked at in the order of the page until it is full: those of the way that reads least (`ways`),
by the lists of the other words, and by their rows where lists cannot say all, as of four words in a row.
"""

import functools
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from pipeline.index import orders, packing
from pipeline.index.lists import List, Lists, Mask, Places, Word, rare
from pipeline.index.reader import Reader
from pipeline.index.terms import Ids
from pipeline.index.ways import ROW, Asked, bytes_read, cheapest, is_by_ids, is_stepwise, share_read

_SPARE: Final = 10  # samples that are looked at beyond those that are missing
_DENSE: Final = 20  # samples of a part of an order, whose ids lie together
_PARTS: Final = 120  # of lists, whose ids are read at once; of more they are read for the rows that are shown
_ALL: Final = sys.maxsize


class Page(NamedTuple):
    """Rows of one page, as dicts by column; `total` is a lower bound unless `is_exact`."""

    rows: list[dict[str, Any]]
    total: int
    is_exact: bool


class _Some(NamedTuple):
    """Samples by rising place in the order of a page; `ids` if they are known."""

    places: Places
    is_unsure: Mask
    ids: Ids | None = None

    def only(self, mask: Any) -> "_Some":
        """Return those of a mask, or of an order."""
        return _Some(self.places[mask], self.is_unsure[mask], None if self.ids is None else self.ids[mask])


def page(reader: Reader, lists: Lists, of: Asked, offset: int, limit: int) -> Page | None:
    """Return a page; None if no list is short enough and no order is written down."""
    if of.is_none:
        return Page([], 0, True)
    start = cheapest(lists, of, offset + limit)
    if start is None:
        return None
    if start and start[0].first is None:
        return _by_rows(reader, lists, of, start, offset, limit)
    count, place, kept = 0, 0, list[_Some]()
    blocks, is_whole = _blocks(lists, of, start, offset + limit), True
    part = share_read(lists, of, offset + limit)
    for block in blocks:
        some, place = _narrowed(lists, of, block, start, part), 0
        while place < len(some.places) and (missing := offset + limit - count) > 0:
            end = place + missing + _SPARE if some.is_unsure.any() else len(some.places)
            own = some.only(slice(place, end) if not of.is_falling else slice(-place - 1, -end - 1, -1))
            own = own.only(_sure(lists, of, own))
            kept.append(own)
            count, place = count + len(own.places), end
        if count >= offset + limit:
            is_listed = bool(start) and not is_stepwise(of, start)
            rest = max(len(some.places) - place, 0) if is_listed else 1
            rest += sum(len(block.places) for block in blocks) if is_listed else 0
            is_whole = not rest or (is_listed and _are_all(lists, of, start, part))
            count += rest if is_whole else 0
            break
    ids, known = _shown(lists, of, kept, offset, limit), _known(of)
    total = count if known is None else known
    return Page(reader.by_ids(ids), total, is_whole or known is not None)


def _shown(lists: Lists, of: Asked, kept: Sequence[_Some], offset: int, limit: int) -> list[int]:
    """Return the ids of a page's samples, of those that were found up to its end."""
    ids = list[int]()
    for some in kept:
        some, offset = some.only(slice(offset, offset + limit - len(ids))), max(offset - len(some.places), 0)
        ids += _ids_of(lists, of, some).tolist()
    return ids


def count(lists: Lists, of: Asked) -> int | None:
    """Return how many samples a filter leaves, if its lists say so without a look at rows."""
    start, known = cheapest(lists, of, _ALL), 0 if of.is_none else _known(of)
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


def _are_all(lists: Lists, of: Asked, start: Sequence[List], part: float) -> bool:
    """Return whether the blocks of some lists are all that is asked for."""
    are_exact = all(word.is_exact for word in of.needed)
    refused = [word for word in of.refused if word.sign is None]
    return are_exact and not refused and not _left(lists, of, start, part)


def _left(lists: Lists, of: Asked, start: Sequence[List], part: float) -> list[List]:
    """Return the lists of words needed by which the blocks of others, or of an order, are narrowed."""
    words = sorted(of.needed, key=lambda word: word.size)
    every = [one for word in words for one in sorted(word.lists, key=lambda one: one.size)]
    if not start:
        return every
    return [one for one in every if one not in start and one.sign is None and not is_by_ids(lists, one, part)]


def _blocks(lists: Lists, of: Asked, start: Sequence[List], rows: int) -> Iterator[_Some]:
    """Yield samples that may be meant, block by block in the order of the page."""
    low, high = of.bounds.get(of.column, (0, lists.samples) if of.column else (1, lists.last() + 1))
    if not start:
        size = 8 * orders.BYTES
        parts = range(low // size, -(-high // size))
        for number in reversed(parts) if of.is_falling else parts:
            places = np.arange(max(number * size, low), min((number + 1) * size, high))
            has_gaps = not of.column and not of.needed and lists.samples < lists.last()
            yield _Some(places, np.full(len(places), has_gaps))
        return
    part = share_read(lists, of, rows)
    stays = math.prod(one.size / lists.samples for one in _left(lists, of, start, part))
    size = int(min(_enough(rows) / max(stays, 1e-9), lists.samples)) + 1
    for first, last in _ranges(lists, of, start, rows):
        some, done, step = _listed(lists, of, start, first, last, part), 0, size
        while done < len(some.places):
            end = len(some.places) - done
            yield some.only(slice(max(end - step, 0), end) if of.is_falling else slice(done, done + step))
            done, step = done + step, (done + step) // 2 + 1


def _ranges(lists: Lists, of: Asked, start: Sequence[List], rows: int) -> Iterator[tuple[int, int]]:
    """Yield from and below which ids samples of lists are looked at together."""
    end, done = lists.last() + 1, 0
    step = int(share_read(lists, of, _enough(rows)) * end) + 1 if is_stepwise(of, start) else end
    while done < end:
        yield (max(end - done - step, 0), end - done) if of.is_falling else (done, min(done + step, end))
        done, step = done + step, (done + step) // 2 + 1


def _enough(rows: int) -> int:
    """Return how many samples to look at for so many, if about so many are meant."""
    return rows + 3 * math.isqrt(rows)


def _listed(lists: Lists, of: Asked, start: Sequence[List], first: int, last: int, part: float) -> _Some:
    """Return samples of lists, with ids from and below some if they are in the order of the set."""
    at, places = _within(lists, of, start, _near(start, first, last))
    others = [one for one in sorted({one for word in of.needed for one in word.lists} - {*start})
              if one.sign is None and is_by_ids(lists, one, part)]  # fmt: skip
    ids, needs = None, not of.column or any(one.common is None for word in of.refused for one in word.lists)
    if others or needs or len(np.unique(at // packing.PART)) <= _PARTS:
        ids = _of_each(start, at, lists.ids)
        if not of.column:
            ids = ids[(ids >= first) & (ids < last)]
            places = ids.astype(np.int64)
        for one in others:
            order = np.argsort(ids, kind="stable")
            order = order[lists.among(one, ids[order])]
            ids, places = ids[order], places[order]
    order = np.argsort(places, kind="stable")
    return _Some(places, np.zeros(len(places), bool), ids).only(order)


def _near(start: Sequence[List], first: int, last: int) -> Places:
    """Return the places of lists in a row where ids from and below some may be, by whole parts."""
    found, before = list[Places](), 0
    for one in start:
        firsts = np.frombuffer(one.data or b"", np.uint32)
        low = max(int(np.searchsorted(firsts, first, side="right")) - 1, 0) * packing.PART
        high = min(int(np.searchsorted(firsts, last)) * packing.PART, one.size)
        found.append(np.arange(before + low, before + high))
        before += one.size
    return np.concatenate(found)


def _within(lists: Lists, of: Asked, start: Sequence[List], at: Places) -> tuple[Places, Places]:
    """Return at which of some places of lists in a row samples have the commonest terms that are needed, and
    none that is refused, and are within the bounds; and their places in the order of the page's column.
    """
    places = at
    needed = {(one.sign, True) for word in of.needed for one in word.lists if one.sign is not None}
    refused = {(sign, False) for word in of.refused if (sign := word.sign) is not None}
    for sign, is_needed in sorted(needed | refused, reverse=True):  # the rarest first
        at = at[_of_each(start, at, functools.partial(lists.signed, sign)) == is_needed]
    for name in of.columns:
        low, high = of.bounds.get(name, (0, lists.samples))
        places = _of_each(start, at, functools.partial(lists.places, name, low))
        stays = (places >= low) & (places < high)
        at, places = at[stays], places[stays]
    return at, places


def _of_each(start: Sequence[List], at: Places, read: Callable[[List, Places], Any]) -> Any:
    """Return what is read of those at rising places of lists in a row, list by list."""
    bounds = np.cumsum([0, *(one.size for one in start)]).tolist()
    edges = np.searchsorted(at, bounds).tolist()
    runs = zip(start, bounds[:-1], itertools.pairwise(edges), strict=True)
    return np.concatenate([read(one, at[first:last] - low) for one, low, (first, last) in runs])


def _narrowed(lists: Lists, of: Asked, some: _Some, start: Sequence[List], part: float) -> _Some:
    """Return samples without those that a list shows not to be meant, and note which have to be looked at.

    part: of all samples, are looked at for the page.
    """
    for one in _left(lists, of, start, part):
        some, has = _has(lists, of, some, one, part)
        some = some.only(has)
    if not all(word.is_exact for word in of.needed):
        some.is_unsure[:] = True
    some = _refused(lists, of, some, start, part, is_common=True)
    for name in () if start else of.columns:  # the narrowest first
        if name != of.column:
            may_be, is_edge = lists.within(of.column, name, of.bounds[name], some.places)
            some = some.only(may_be)
            some.is_unsure[is_edge] = True
    return _refused(lists, of, some, start, part, is_common=False)


def _refused(
    lists: Lists, of: Asked, some: _Some, start: Sequence[List], part: float, *, is_common: bool
) -> _Some:
    """Return samples without those that have a refused word, of the words that are common or those not."""
    for word in of.refused:
        if is_common != all(one.common is not None for one in word.lists) or (
            start and word.sign is not None
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
    if one.common is not None and (some.ids is None or not is_by_ids(lists, one, part)):
        return some, lists.bits(one, of.column, some.places)
    ids = lists.ids_at(of.column, some.places) if some.ids is None else some.ids
    order = np.argsort(ids, kind="stable")
    found = np.zeros(len(ids), bool)
    found[order] = lists.among(one, ids[order])
    return some._replace(ids=ids), found


def _sure(lists: Lists, of: Asked, some: _Some) -> Mask:
    """Return which samples are meant: those that are not unsure, and those whose rows say so."""
    found = ~some.is_unsure
    if some.is_unsure.any():
        ids = _ids_of(lists, of, some.only(some.is_unsure))
        found[some.is_unsure] = np.isin(ids, lists.confirmed(ids, of.question))
    return found


def _ids_of(lists: Lists, of: Asked, some: _Some) -> Ids:
    """Return the ids of samples in the order of a page."""
    if some.ids is not None:
        return some.ids
    if of.is_falling:
        return lists.ids_at(of.column, some.places[::-1])[::-1]
    return lists.ids_at(of.column, some.places)


def _by_rows(
    reader: Reader, lists: Lists, of: Asked, start: Sequence[List], offset: int, limit: int
) -> Page | None:
    """Return a page of samples of rare terms, whose rows say where they stand; None for too many."""
    ids = functools.reduce(np.intersect1d, map(rare, start))
    every = [one for word in of.needed for one in word.lists if one.first is not None]
    for one in sorted(every, key=lambda one: one.size):
        spared = len(ids) * ROW * (1 - one.size / lists.samples)
        if bytes_read(lists, Word((one,), True), len(ids), 1.0) < spared:
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
