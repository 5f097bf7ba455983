"""What is asked for by lists, and where to begin.

Of four ways the one is taken that reads least: the shortest list of a word, or the lists of the few parts of
a column within its bounds, of whose samples most is told by what stands beside their ids, before they are
sorted; the order itself, from where the page before ended; or the shortest list, sorted at once. The last two
can end at any sample, as can long lists in the order of the set: they go before ways that read more than a
page may.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from pipeline.index import cuts, postings
from pipeline.index.lists import List, Lists, Word
from pipeline.index.question import Question, phrases

MOST: Final = 1_600_000
"""Bytes after which a page ends with the rows that it has."""
_AT_ONCE: Final = 1_000_000  # of them before the page can end
ROW: Final = 8_500
"""Bytes that are read for a row of ten million."""
_FEW: Final = 1_200  # samples of rare terms of which lists are asked, if there are too many to read all rows
_READ: Final = 4_096  # bytes for a part of a list
_PLACES: Final = 8_192  # bytes for a part of its places


class Asked(NamedTuple):
    """A question whose words are lists: those that are needed, and those that are refused."""

    question: Question
    needed: tuple[Word, ...]
    refused: tuple[Word, ...]
    column: str
    """The one to sort by, or "" for the order of the set."""
    bounds: dict[str, tuple[int, int]]
    """From and below which places of a column, for each that is cut."""
    after: int
    """The id of the sample after which the page begins, or 0."""
    span: tuple[int, int]
    """From and below which places of the order, without those of the pages before."""

    @property
    def is_falling(self) -> bool:
        """Return whether the largest are wanted first."""
        return self.question.wanted.sort.startswith("-")

    @property
    def is_none(self) -> bool:
        """Return whether no sample can be meant: a word is needed and refused, or bounds leave nothing."""
        are_none = any(low >= high for low, high in self.bounds.values())
        return are_none or any(word.is_exact and word in self.needed for word in self.refused)

    @property
    def others(self) -> list[str]:
        """Return the columns that are cut but not sorted by, the narrowest first."""
        width = {name: high - low for name, (low, high) in self.bounds.items() if name != self.column}
        return sorted(width, key=lambda name: (width[name], name))

    @property
    def columns(self) -> dict[str, tuple[int, int]]:
        """Return from and below which places of columns samples are: of those cut, then of the order's."""
        found = {name: self.bounds[name] for name in self.others}
        return found | ({self.column: self.span} if self.column else {})


class Way(NamedTuple):
    """Lists to begin with, none for the order itself, and how far they are read."""

    lists: tuple[List, ...]
    looked_up: tuple[List, ...] = ()
    """Of other words, in which all samples of the lists are looked up by their ids."""
    left: tuple[List, ...] = ()
    """Of other words, in which samples are looked up in the order of the page, as many as it needs."""
    is_early: bool = True
    """Whether the bitmaps and places beside the ids of the lists are read before they are sorted."""
    cost: float = 0
    """Bytes that are read, about."""
    at_once: float = 0
    """Bytes that are read before the page can end."""
    passed: float = 0
    """Places of the order up to the end of the page, about."""
    step: int = 0
    """Ids of lists that are looked at together, at most; 0 for all."""


def asked(lists: Lists, question: Question, after: int = 0) -> Asked | None:
    """Return a question, for what follows a sample, with its words as lists; None if they cannot answer it.

    LookupError if that sample is gone.
    """
    wanted = question.wanted
    column, columns = wanted.sort.removeprefix("-"), {*wanted.least, *wanted.most}
    lists.forget()
    if not lists.are_there or not columns <= {*lists.columns}:
        return None
    column = column if column in lists.columns else ""  # a column of one number
    given = [(is_refused, lists.word(inner)) for is_refused, inner in phrases(wanted.text)]
    needed = [word for is_refused, word in given if word and not is_refused]
    if any(word is None for _, word in given):
        return None
    refused = [word for is_refused, word in given if word and is_refused]
    needed += [lists.tagged(tag) for tag in question.tags]
    needed = [
        word for word in needed if word.size < lists.samples or not word.is_exact
    ]  # others have all samples
    bounds = {name: lists.cut(wanted, name) for name in columns}
    if not needed and not bounds and not refused and not wanted.sort:
        return None  # the whole set in its order
    low, high = bounds.get(column, lists.span(column))
    if after and wanted.sort.startswith("-"):
        high = max(min(high, lists.place(column, after)), low)
    elif after:
        low = min(max(low, lists.place(column, after) + 1), high)
    return Asked(question, tuple(needed), tuple(refused), column, bounds, after, (low, high))


def cheapest(lists: Lists, of: Asked, rows: int, most: float = _AT_ONCE) -> Way | None:
    """Return the way that reads least for so many rows; None if all cost too much.

    most: bytes that may be read before the page can end, if there is a way that reads less.
    """
    every = [one for word in of.needed for one in word.lists]
    if few := [one for one in every if one.first is None]:
        return Way(tuple(few)) if min(one.size for one in few) <= _FEW else None
    found = _ways(lists, of, every, rows)
    return min(found, key=lambda way: (max(way.at_once, most), way.cost), default=None)


def _ways(lists: Lists, of: Asked, every: Sequence[List], rows: int) -> list[Way]:
    """Return the ways to begin."""
    part = _share_read(lists, of, rows)
    ways = list[Way]()
    if all(one.common is not None for one in every):
        ways.append(_late(lists, of, (), part))
    if some := tuple(sorted(one for one in every if one.data)[:1]):
        ways.append(_early(lists, of, some, part))
        if ways[-1].at_once > _AT_ONCE:
            ways.append(_late(lists, of, some, part))
    most = min((way.cost for way in ways), default=np.inf)
    if some := tuple(_parts_of_a_cut(lists, of, part, most)):
        ways.append(_early(lists, of, some, part))
    return ways


def _share_read(lists: Lists, of: Asked, rows: int) -> float:
    """Return about which part of the samples of an order are looked at for so many that are meant."""
    share = 1.0
    cut = [high - low for low, high in map(of.bounds.__getitem__, of.others)]
    for size in [*(word.size for word in of.needed), *cut]:
        share *= max(size, 0.5) / lists.samples
    return min(rows / (share * max(of.span[1] - of.span[0], 0.5)), 1.0)


def _way(lists: Lists, of: Asked, start: tuple[List, ...], passed: float, is_early: bool) -> Way:
    """Return a way without its cost."""
    words = sorted(of.needed, key=lambda word: word.size)
    every = [one for word in words for one in sorted(word.lists, key=lambda one: one.size)]
    every = [one for one in every if one not in start and not (is_early and one.sign is not None)]
    looked_up = [one for one in every if start and is_by_ids(lists, one, passed)]
    left = [one for one in every if one not in looked_up]
    return Way(start, tuple(dict.fromkeys(looked_up)), tuple(left), is_early, passed=passed)


def _late(lists: Lists, of: Asked, start: tuple[List, ...], part: float) -> Way:
    """Return the way through an order, or through lists in it, and about how many bytes it reads."""
    passed = part * (of.span[1] - of.span[0])
    way = _way(lists, of, start, passed, is_early=False)
    at_once = float(sum(3 * one.size for one in start) + sum(_size(lists, one) for one in way.looked_up))
    at_once += sum(_size(lists, one) for one in start) if way.looked_up else 0
    walked = passed
    for one in (*start, *way.looked_up):
        walked *= one.size / lists.samples
    cost = sum(min(passed / 8, walked * _READ) for _ in way.left)
    for one in way.left:
        walked *= one.size / lists.samples
    for low, high in map(of.bounds.__getitem__, of.others):
        cost += min(passed, walked * _READ)
        walked *= (high - low) / lists.samples
        edge = 2 * lists.samples / max(high - low, 1)
        cost += min(passed, walked * min(edge / 256, 1) * _READ)
        cost += ROW * walked * min(edge / 65_536, 1)
    cost += sum(bytes_read(lists, word, walked, passed) for word in of.refused)
    return way._replace(cost=at_once + cost, at_once=at_once)


def _early(lists: Lists, of: Asked, some: tuple[List, ...], part: float) -> Way:
    """Return the way through some lists, and about how many bytes are read of them and for their samples."""
    size, own = sum(one.size for one in some), {*some}
    passed = part * (of.span[1] - of.span[0])
    way = _way(lists, of, some, passed, is_early=True)
    words = [word for word in (*of.needed, *of.refused) if not own & {*word.lists}]
    signed = [word for word in words if word.lists[0].sign is not None]
    cost, left = len(signed) * size / 8, float(size)
    for word in signed:
        share = word.size / lists.samples
        left *= share if word in of.needed else 1 - share
    for name, (low, high) in of.columns.items():
        inside = sum(one.size for one in some if one.inside == name)
        cost += min(3 * (size - inside), left * _PLACES)
        left *= min((high - low) / (size if inside else lists.samples), 1)
    cost += min(sum(_size(lists, one) for one in some), left * _READ)
    looked_up = sum(bytes_read(lists, word, part * left, passed) for word in words if word not in signed)
    if of.column or cost <= _AT_ONCE:
        return way._replace(cost=cost + looked_up, at_once=cost + looked_up)
    order = lists.span("")[1]
    least = _READ * len(some) * (2 + len(signed) + 3 * len(of.columns))
    step = int(order * _AT_ONCE / (4 * cost)) + 1
    return way._replace(cost=max(passed / order * cost, least) + looked_up, at_once=least, step=step)


def bytes_read(lists: Lists, word: Word, ids: float, passed: float) -> float:
    """Return about how many bytes it takes to look so many samples up in a word's lists."""
    sizes = [
        min(_size(lists, one) if one.data else np.inf, passed / 8 if one.common else np.inf)
        for one in word.lists if one.first is not None
    ]  # fmt: skip
    return float(min(sum(sizes), ids * _READ * len(sizes)))


def _size(lists: Lists, one: List) -> int:
    """Return about how many bytes the ids of a list take."""
    return one.size * (1 if 200 * one.size > lists.samples else 2)


def _parts_of_a_cut(lists: Lists, of: Asked, share: float, most: float) -> list[List]:
    """Return the lists of the parts of a column within a filter's bounds, if they are few.

    share: of the samples, are looked at for the page; most: bytes that another way reads.
    """
    best = list[List]()
    few = cuts.PARTS / postings.COMMON * (1 if of.column else 1 / max(share, 0.5))
    for name in {*of.bounds} & {*lists.cuts}:
        own = lists.cuts[name]
        bounds = (of.question.wanted.least.get(name, -np.inf), of.question.wanted.most.get(name, np.inf))
        low, high = own.parts(bounds).tolist()
        if 0 <= high - low < min(few, most / (4 * _READ)):
            some = [lists.tagged(own.tag(part)).lists[0] for part in range(low, high + 1)]
            if all(one.data and one.first for one in some):
                some = [
                    one._replace(inside=name) if own.is_inside(part, bounds) and name != of.column else one
                    for part, one in enumerate(some, low)
                ]
                best = min(best or some, some, key=lambda found: sum(one.size for one in found))
    return best


def is_by_ids(lists: Lists, one: List, passed: float) -> bool:
    """Return whether a list is shorter than what is passed of its bitmap, or has none."""
    return one.common is None or (bool(one.data) and _size(lists, one) < passed / 8)
