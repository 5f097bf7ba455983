"""Pages and counts that are worked out from lists, whatever the words, the cuts and the order.

Samples are looked at in the order of the page until it is full: those of the way that reads least (`ways`),
by the lists of the other words, and by their rows where lists cannot say all, as of four words in a row. A
page that has read its share ends with the rows that it has, and says where the next goes on.
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
from pipeline.index.question import Question, in_order
from pipeline.index.reader import Reader
from pipeline.index.terms import Ids
from pipeline.index.ways import MOST, ROW, Asked, Way, bytes_read, cheapest, is_by_ids

_SPARE: Final = 10  # samples that are looked at beyond those that are missing
_DENSE: Final = 20  # samples of a part of an order, whose ids lie together
_ALL: Final = sys.maxsize


class Page(NamedTuple):
    """Rows of one page, as dicts by column; `total` is a lower bound unless `is_exact`.

    next: the id after which the next page begins, or 0 if this is the last. A page that has one may have
    fewer rows than were asked for.
    """

    rows: list[dict[str, Any]]
    total: int
    is_exact: bool
    next: int = 0


class _Some(NamedTuple):
    """Samples by rising place in the order of a page; `ids` if they are known."""

    places: Places
    is_unsure: Mask
    ids: Ids | None = None

    def only(self, mask: Any) -> "_Some":
        """Return those of a mask, or of an order."""
        return _Some(self.places[mask], self.is_unsure[mask], None if self.ids is None else self.ids[mask])


def page(reader: Reader, lists: Lists, of: Asked, limit: int) -> Page | None:
    """Return a page; None if no list is short enough and no order is written down."""
    if of.is_none:
        return Page([], 0, True)
    way = cheapest(lists, of, limit)
    if way is None:
        return None
    if way.lists and way.lists[0].first is None:
        return _by_rows(reader, lists, of, way, limit)
    blocks, kept, end = _blocks(lists, of, way, limit), list[_Some](), None
    count = refused = 0

    def rows_left() -> int:
        """Return how many rows of samples that are meant may be read."""
        return (MOST - lists.bytes_read()) // ROW - refused

    for block, edge in blocks:
        some, place = _narrowed(lists, of, block, way), 0
        while place < len(some.places) and count < limit and (not place or rows_left() > count):
            size = len(some.places)
            if some.is_unsure.any():
                size = min(limit - count + _SPARE, max(rows_left() - count, 1))
            stop = place + size
            own = some.only(slice(place, stop) if not of.is_falling else slice(-place - 1, -stop - 1, -1))
            sure = _sure(lists, of, own)
            kept.append(own.only(sure))
            count, refused = count + int(sure.sum()), refused + int((~sure).sum())
            place, end = stop, int(own.places[-1])
        rest = max(len(some.places) - place, 0)
        end = edge if end is None or not rest else end
        if count >= limit or rows_left() <= count:
            break
    else:
        end = None
    found, is_whole = count, end is None
    if end is not None and way.lists and way.is_early and not way.step:
        if _is_settled(of, way) and all(word.is_exact for word in of.needed):
            count, rest = count + rest, 0
        is_whole = not rest and not any(len(block.places) for block, _ in blocks)
    ids, known = _shown(lists, of, kept, min(limit, max(rows_left(), 1))), _known(lists, of)
    ids, follows = ids[: max(rows_left(), 1)], 0  # their ids were read, too
    if ids and (len(ids) == limit or len(ids) < found):
        follows = ids[-1]
    elif limit and end is not None:
        follows = int(lists.ids_at(of.column, np.array([end]))[0])
    total, is_exact = (count, is_whole and not of.after) if known is None else (known, True)
    return Page(reader.by_ids(ids), total, is_exact, follows)


def _shown(lists: Lists, of: Asked, kept: Sequence[_Some], limit: int) -> list[int]:
    """Return the ids of the first samples that were found."""
    ids = list[int]()
    for some in kept:
        ids += _ids_of(lists, of, some.only(slice(limit - len(ids)))).tolist()
    return ids


def count(lists: Lists, of: Asked) -> int | None:
    """Return how many samples a filter leaves, if its lists say so without a look at rows."""
    known = 0 if of.is_none else _known(lists, of)
    way = None if known is not None else cheapest(lists, of, _ALL, math.inf)
    if way is None or (way.lists and way.lists[0].first is None):
        return known
    found = 0
    for block, _ in _blocks(lists, of, way, _ALL):
        some = _narrowed(lists, of, block, way)
        if some.is_unsure.any():
            return None
        found += len(some.places)
    return found


def _known(lists: Lists, of: Asked) -> int | None:
    """Return how many samples are asked for, if that is all or those of one word or tag."""
    if of.refused or of.bounds or len(of.needed) > 1:
        return None
    if not of.needed:
        return lists.samples
    (word,) = of.needed
    return word.size if len(word.lists) == 1 and word.is_exact else None


def _is_settled(of: Asked, way: Way) -> bool:
    """Return whether no list is left to look at for samples of a way's lists, though rows may be."""
    return way.is_early and not way.left and all(word.sign is not None for word in of.refused)


def _blocks(lists: Lists, of: Asked, way: Way, rows: int) -> Iterator[tuple[_Some, int]]:
    """Yield samples that may be meant, block by block in the order of the page, and where each block ends."""
    for first, last in _ranges(of, way):
        some = _listed(lists, of, way, first, last) if way.lists else None
        is_one = way.lists and (rows == _ALL or _is_settled(of, way))
        size = 8 * orders.BYTES
        if is_one:
            size = max(last, 1)
        parts = range(first // size, -(-last // size))
        for number in reversed(parts) if of.is_falling else parts:
            low, high = max(number * size, first), min((number + 1) * size, last)
            if some is not None:
                own = some.only(slice(*np.searchsorted(some.places, (low, high)).tolist()))
            else:
                has_gaps = not of.column and not of.needed and lists.samples < lists.last()
                own = _Some(np.arange(low, high), np.full(high - low, has_gaps))
            yield own, low if of.is_falling else high - 1


def _ranges(of: Asked, way: Way) -> Iterator[tuple[int, int]]:
    """Yield from and below which places of the order samples of lists are looked at together."""
    low, high = of.span
    size = int(1.5 * way.passed) + 1 if way.step else high - low
    while low < high:
        size = min(size, way.step or size, high - low)
        yield (high - size, high) if of.is_falling else (low, low + size)
        low, high = (low, high - size) if of.is_falling else (low + size, high)
        size += size // 2


def _listed(lists: Lists, of: Asked, way: Way, first: int, last: int) -> _Some:
    """Return samples of lists from and below some places of the order."""
    at = np.arange(sum(one.size for one in way.lists)) if of.column else _near(way.lists, first, last)
    at, places = _within(lists, of, way, at)
    ids = None
    if way.looked_up or way.is_early or not of.column:
        ids = _of_each(way.lists, at, lists.ids)
        if not of.column:
            ids = ids[(ids >= first) & (ids < last)]
            places = ids.astype(np.int64)
        for one in way.looked_up:
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


def _within(lists: Lists, of: Asked, way: Way, at: Places) -> tuple[Places, Places]:
    """Return at which of some places of lists in a row samples have the commonest terms that are needed, and
    none that is refused, and are within the bounds; and their places in the order of the page's column.
    """
    start, places = way.lists, at
    if way.is_early:
        needed = {(one.sign, True) for word in of.needed for one in word.lists if one.sign is not None}
        refused = {(sign, False) for word in of.refused if (sign := word.sign) is not None}
        for sign, is_needed in sorted(needed | refused, reverse=True):  # the rarest first
            at = at[_of_each(start, at, functools.partial(lists.signed, sign)) == is_needed]
    for name, (low, high) in of.columns.items():
        if way.is_early or name == of.column:
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


def _narrowed(lists: Lists, of: Asked, some: _Some, way: Way) -> _Some:
    """Return samples without those that a list shows not to be meant, and note which have to be looked at."""
    for one in way.left:
        some, has = _has(lists, of, some, one, way)
        some = some.only(has)
    if not all(word.is_exact for word in of.needed):
        some.is_unsure[:] = True
    some = _refused(lists, of, some, way, is_common=True)
    for name in () if way.is_early else of.others:
        may_be, is_edge = lists.within(of.column, name, of.bounds[name], some.places)
        some = some.only(may_be)
        some.is_unsure[is_edge] = True
    return _refused(lists, of, some, way, is_common=False)


def _is_common(word: Word) -> bool:
    return all(one.common is not None for one in word.lists)


def _refused(lists: Lists, of: Asked, some: _Some, way: Way, *, is_common: bool) -> _Some:
    """Return samples without those that have a refused word, of the words that are common or those not."""
    for word in of.refused:
        if is_common != _is_common(word) or (way.is_early and word.sign is not None):
            continue
        if not is_common and some.ids is None and len(some.places) < _DENSE:
            some.is_unsure[:] = True  # a row costs no more than to learn the id
            continue
        has = np.ones(len(some.places), bool)
        for one in word.lists:
            if has.any():
                some, own = _has(lists, of, some, one, way)
                has &= own
        if word.is_exact:
            some = some.only(~has)
        else:
            some.is_unsure[has] = True
    return some


def _has(lists: Lists, of: Asked, some: _Some, one: List, way: Way) -> tuple[_Some, Mask]:
    """Return samples, with their ids if these had to be known, and which of them are in a list."""
    if one.common is not None and (some.ids is None or not is_by_ids(lists, one, way.passed)):
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


def _by_rows(reader: Reader, lists: Lists, of: Asked, way: Way, limit: int) -> Page:
    """Return a page of samples of rare terms, whose rows say where they stand."""
    ids = functools.reduce(np.intersect1d, map(rare, way.lists))
    if not of.column:
        ids = ids[slice(*np.searchsorted(ids, of.span).tolist())]
    every = [one for word in of.needed for one in word.lists if one.first is not None]
    for one in sorted(every, key=lambda one: one.size):
        spared = len(ids) * ROW * (1 - one.size / lists.samples)
        if bytes_read(lists, Word((one,), True), len(ids), lists.samples) < spared:
            ids = ids[lists.among(one, ids)]
    is_whole, follows = True, 0
    if of.column:
        ids = np.array(lists.confirmed(ids, of.question), np.uint32)
    else:  # no more rows than are shown
        ids, kept, place = ids[::-1] if of.is_falling else ids, list[int](), 0
        most = min(len(ids), max(MOST // ROW, 1))
        while place < most and len(kept) < limit:
            end = min(place + limit - len(kept) + _SPARE, most)
            kept += lists.confirmed(ids[place:end], of.question)
            place = end
        is_whole = place >= len(ids) and not of.after
        follows = int(ids[place - 1]) if limit and place < len(ids) else 0
        ids = np.array(kept, np.uint32)
    bounds = ("id IN (SELECT value FROM json_each(?))",)
    last = reader.last(of.column, of.after) if of.column and of.after else None
    found = Question("samples", "", bounds, (json.dumps(ids.tolist()),)).after(of.question.wanted.sort, last)
    statement = f"SELECT id FROM {found.source} {in_order(of.question.wanted.sort)} LIMIT ?"
    shown = [row[0] for row in reader.tuples(statement, [*found.values, limit])]
    return Page(reader.by_ids(shown), len(ids), is_whole, shown[-1] if 0 < limit == len(shown) else follows)
