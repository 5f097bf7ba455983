"""What is asked for by lists, and where to begin.

Of three ways the one is taken that reads least: the shortest list of a word; the lists of the few parts of a
column within its bounds; or the order itself, from its end, if many samples are meant.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from pipeline.index import postings
from pipeline.index.lists import List, Lists, Word
from pipeline.index.question import Filter, Question, phrases

ROW: Final = 8_500  # bytes that are read for a row of ten million
_FEW: Final = 1_200  # samples of rare terms of which lists are asked, if there are too many to read all rows
_TOGETHER: Final = 8  # parts of a column that are read for a cut
_READ: Final = 4_096  # bytes for a part of a list


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
    columns = len({*of.bounds, *filter(None, [of.column])})
    ways = list[tuple[float, list[List]]]()
    for some in (sorted(one for one in every if one.data)[:1], _parts_of_a_cut(lists, of)):
        if some and (size := sum(one.size for one in some)) <= lists.samples // postings.COMMON:
            rest = [
                word for word in of.needed if not set(word.lists) & set(some) and word.lists[0].sign is None
            ]
            rest += [word for word in of.refused if word.sign is None]
            cost = (2 + 2 + 3 * columns) * size + sum(bytes_read(lists, word, size, part) for word in rest)
            ways.append((cost, some))
    if all(one.common is not None for one in every):
        walked = part * lists.samples
        cost = walked * len(every) / 8
        for word in of.needed:
            walked *= word.size / lists.samples
        for low, high in [bounds for name, bounds in of.bounds.items() if name != of.column]:
            cost += min(part * lists.samples, walked * _READ)
            walked *= (high - low) / lists.samples
            cost += ROW * walked * min(1, 2 * lists.samples / 256 / max(high - low, 1))
        ways.append((cost + sum(bytes_read(lists, word, int(walked), part) for word in of.refused), []))
    return ways


def bytes_read(lists: Lists, word: Word, ids: int, part: float) -> float:
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


def is_by_ids(lists: Lists, one: List, part: float) -> bool:
    """Return whether a list is shorter than the part of its bitmap that a page reads, or has none."""
    return one.common is None or (bool(one.data) and _size(lists, one) < part * lists.samples / 8)
