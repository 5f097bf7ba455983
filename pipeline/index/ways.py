"""What is asked for by lists, and where to begin.

Of three ways the one is taken that reads least: the shortest list of a word; the lists of the few parts of a
column within its bounds; or the order itself, from its end, if many samples are meant.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from pipeline.index import cuts, postings
from pipeline.index.lists import List, Lists, Word
from pipeline.index.question import Filter, Question, phrases

ROW: Final = 8_500  # bytes that are read for a row of ten million
_FEW: Final = 1_200  # samples of rare terms of which lists are asked, if there are too many to read all rows
_LONG: Final = 100_000  # samples of lists
_READ: Final = 4_096  # bytes for a part of a list
_PLACES: Final = 8_192  # bytes for a part of its places


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

    @property
    def is_none(self) -> bool:
        """Return whether no sample can be meant: a word is needed and refused, or bounds leave nothing."""
        are_none = any(low >= high for low, high in self.bounds.values())
        return are_none or any(word.is_exact and word in self.needed for word in self.refused)

    @property
    def columns(self) -> list[str]:
        """Return the columns that are cut or sorted by, in the order in which lists' places are read."""
        names = {*self.bounds, self.column} - {""}
        width = {name: high - low for name, (low, high) in self.bounds.items()}
        return sorted(names, key=lambda name: (name == self.column, width.get(name, 0), name))


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


def share_read(lists: Lists, of: Asked, rows: int) -> float:
    """Return about which part of all samples are looked at for so many that are meant."""
    share = 1.0
    for size in [word.size for word in of.needed] + [high - low for low, high in of.bounds.values()]:
        share *= max(size, 0.5) / lists.samples
    return min(rows / (share * lists.samples), 1.0)


def cheapest(lists: Lists, of: Asked, rows: int) -> list[List] | None:
    """Return the lists to begin with, [] for the order itself, or None if all cost too much."""
    every = [one for word in of.needed for one in word.lists]
    if few := [one for one in every if one.first is None]:
        return few if min(one.size for one in few) <= _FEW else None
    found = _ways(lists, of, every, rows)
    return min(found, key=lambda way: way[0])[1] if found else None


def _ways(lists: Lists, of: Asked, every: Sequence[List], rows: int) -> list[tuple[float, list[List]]]:
    """Return the lists to begin with, [] for the order itself, and the bytes that are read for each."""
    part = share_read(lists, of, rows)
    ways = list[tuple[float, list[List]]]()
    if all(one.common is not None for one in every):
        ways.append((_walked(lists, of, len(every), part), []))
    if some := sorted(one for one in every if one.data)[:1]:
        ways.append((_looked_through(lists, of, some, part), some))
    most = min((cost for cost, _ in ways), default=np.inf)
    if some := _parts_of_a_cut(lists, of, part, most):
        ways.append((_looked_through(lists, of, some, part), some))
    return [way for way in ways if _size_read(of, way[1], part) <= lists.samples // postings.COMMON]


def _walked(lists: Lists, of: Asked, bitmaps: int, part: float) -> float:
    """Return about how many bytes are read of an order, and of so many bitmaps in it."""
    walked = part * lists.samples
    cost = walked * bitmaps / 8
    for word in of.needed:
        walked *= word.size / lists.samples
    for low, high in [bounds for name, bounds in of.bounds.items() if name != of.column]:
        cost += min(part * lists.samples, walked * _READ)
        walked *= (high - low) / lists.samples
        edge = 2 * lists.samples / max(high - low, 1)
        cost += min(part * lists.samples, walked * min(edge / 256, 1) * _READ)
        cost += ROW * walked * min(edge / 65_536, 1)
    if any(one.common is None for word in of.refused for one in word.lists):
        cost += min(4 * part * lists.samples, walked * _READ)  # for the ids
    return cost + sum(bytes_read(lists, word, int(walked), part) for word in of.refused)


def _looked_through(lists: Lists, of: Asked, some: Sequence[List], part: float) -> float:
    """Return about how many bytes are read of some lists, and of those of other words for their samples."""
    size, own = sum(one.size for one in some), {*some}
    words = [word for word in (*of.needed, *of.refused) if not own & {*word.lists}]
    signed = [word for word in words if word.lists[0].sign is not None]
    cost, left = len(signed) * size / 8, float(size)
    for word in signed:
        share = word.size / lists.samples
        left *= share if word in of.needed else 1 - share
    for name in of.columns:
        low, high = of.bounds.get(name, (0, lists.samples))
        inside = sum(one.size for one in some if one.inside == name)
        cost += min(3 * (size - inside), left * _PLACES)
        left *= min((high - low) / (size if inside else lists.samples), 1)
    cost += min(sum(_size(lists, one) for one in some), left * _READ)
    if is_stepwise(of, some):
        cost = max(part * cost, _READ * len(some) * (2 + len(signed) + len(of.columns)))
    return cost + sum(bytes_read(lists, word, int(left), part) for word in words if word not in signed)


def _size_read(of: Asked, some: Sequence[List], part: float) -> float:
    size = sum(one.size for one in some)
    return part * size if is_stepwise(of, some) else size


def is_stepwise(of: Asked, start: Sequence[List]) -> bool:
    """Return whether lists are read no further than a page needs: long ones in the order of the set."""
    return bool(start) and not of.column and sum(one.size for one in start) >= _LONG


def bytes_read(lists: Lists, word: Word, ids: int, part: float) -> float:
    """Return about how many bytes it takes to look a part of so many samples up in a word's lists."""
    sizes = [
        min(_size(lists, one) if one.data else np.inf, part * lists.samples / 8 if one.common else np.inf)
        for one in word.lists if one.first is not None
    ]  # fmt: skip
    return float(min(sum(sizes), part * ids * _READ * len(sizes)))


def _size(lists: Lists, one: List) -> int:
    """Return about how many bytes the ids of a list take."""
    return one.size * (1 if 200 * one.size > lists.samples else 2)


def _parts_of_a_cut(lists: Lists, of: Asked, share: float, most: float) -> list[List]:
    """Return the lists of the parts of a column within a filter's bounds, if they are few.

    share: of all samples, are looked at for the page; most: bytes that another way reads.
    """
    best = list[List]()
    few = cuts.PARTS / postings.COMMON * (1 if of.column else 1 / max(share, 0.5))
    for name in {*of.bounds} & {*lists.cuts}:
        own = lists.cuts[name]
        bounds = (of.wanted.least.get(name, -np.inf), of.wanted.most.get(name, np.inf))
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


def is_by_ids(lists: Lists, one: List, part: float) -> bool:
    """Return whether a list is shorter than the part of its bitmap that a page reads, or has none."""
    return one.common is None or (bool(one.data) and _size(lists, one) < part * lists.samples / 8)
