"""Pages and counts that are worked out from lists, whatever the words, the cuts and the order.

Samples are looked at in the order of the page until it is full: those of the way that reads least (`ways`),
by the lists of the other words, and by their rows where lists cannot say all, as of four words in a row.
"""

import functools
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from pipeline.index import orders
from pipeline.index.lists import List, Lists, Mask, Places, Word
from pipeline.index.reader import Reader
from pipeline.index.terms import Ids
from pipeline.index.ways import ROW, Asked, bytes_read, cheapest, is_by_ids, share_read

_SPARE: Final = 10  # samples that are looked at beyond those that are missing
_DENSE: Final = 20  # samples of a part of an order, whose ids lie together
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
    start = cheapest(lists, of, offset + limit)
    if start is None:
        return None
    if start and start[0].first is None:
        return _by_rows(reader, lists, of, start, offset, limit)
    count, place, kept = 0, 0, [np.zeros(0, np.int64)]
    blocks, is_whole = _blocks(lists, of, start, offset + limit), True
    part = share_read(lists, of, offset + limit)
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
    start, known = cheapest(lists, of, _ALL), _known(of)
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
    share = share_read(lists, of, rows)
    for one in sorted({one for word in of.needed for one in word.lists} - {*start}):
        if one.sign is None and is_by_ids(lists, one, share):
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
    refused = sum({1 << sign for word in of.refused if (sign := word.sign) is not None})
    if not needed | refused:
        return np.ones(number, bool)
    signs = np.concatenate([lists.signs(one) for one in start])
    found: Mask = (signs & np.uint16(needed) == needed) & (signs & np.uint16(refused) == 0)
    return found


def _narrowed(lists: Lists, of: Asked, some: _Some, start: Sequence[List], part: float) -> _Some:
    """Return samples without those that a list shows not to be meant, and note which have to be looked at.

    part: of all samples, are looked at for the page.
    """
    for word in sorted(of.needed, key=lambda word: word.size):
        for one in sorted(word.lists, key=lambda one: one.size):
            if not start or (one not in start and one.sign is None and not is_by_ids(lists, one, part)):
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
