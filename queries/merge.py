"""Put the sources together to a list of a given size.

The order is that of the paper (Radford et al. 2021, section 2.2): words of Wikipedia, bigrams, article
titles, then all WordNet synsets not already in the list; a user's own queries last. A query counts under the
first source that has it. WordNet and the user's queries are always complete, so their places are set aside
first. Of the rest words have their share at least, the most frequent first, and so have bigrams and titles,
in MetaCLIP's proportions; places that a source cannot fill go to the others, to words first.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa

from pipeline.captions.match import tokens
from queries.token_blocks import is_word

_WORDS, _BIGRAMS, _TITLES = 251_465, 100_646, 61_235
"""MetaCLIP's counts (Xu et al. 2023, table 1)."""
WORD_SHARE: Final = _WORDS / (_WORDS + _BIGRAMS + _TITLES)
"""Share of words beside WordNet and the user's queries, where bigrams and titles fill theirs."""
BIGRAM_SHARE: Final = _BIGRAMS / (_BIGRAMS + _TITLES)
"""Share of bigrams among bigrams and titles together."""

SOURCES: Final = ("unigram", "bigram", "title", "wordnet", "extra")

QUERIES: Final = pa.schema(
    [
        pa.field("query_id", pa.int32(), nullable=False),
        pa.field("query", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
    ]
)

DROPPED: Final = {
    "duplicate": "the same words as a higher entry of the same source",
    "earlier_source": "in the list, under an earlier source",
    "no_word": "no letter or digit is left of it",
    "too_rare": "occurs less often than --min-count or --min-bigram-count",
    "by_chance": "its words follow each other no more often than by chance (PMI of 0 or less)",
    "excluded": "listed in --exclude",
    "over_budget": "ranks below the places of its source",
}
"""Why a candidate is not in the list."""


_EXAMPLES: Final = 12


@dataclass(frozen=True, slots=True)
class RankedEntry:
    """Hold one query that a source offers, best first within the source.

    count: occurrences in Wikipedia, views, or synsets; score: the value that the source ranks by, PMI in bits
    for bigrams.
    """

    query: str
    count: int
    score: float


@dataclass(frozen=True, slots=True)
class Query:
    """Hold one query of the list; key is its tokens joined by spaces, which no other query shares."""

    key: str
    query: str
    source: str
    count: int
    score: float


@dataclass(kw_only=True)
class MergedList:
    """Hold the list, and the offers of sources that are not in it or not under their name."""

    queries: list[Query] = field(default_factory=list)
    dropped: dict[str, Counter[str]] = field(default_factory=dict)
    """Number by source and reason of DROPPED."""
    examples: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    """The first few by (source, reason)."""

    def drop(self, source: str, reason: str, query: str) -> None:
        """Count a candidate that is left out."""
        self.dropped.setdefault(source, Counter())[reason] += 1
        examples = self.examples.setdefault((source, reason), [])
        if len(examples) < _EXAMPLES:
            examples.append(query)

    def table(self) -> pa.Table:
        """Return the list as QUERIES."""
        columns = [[getattr(query, name) for query in self.queries] for name in QUERIES.names[1:]]
        return pa.table([list(range(len(self.queries))), *columns], QUERIES)


def key_of(query: str) -> str:
    """Return the identity of a query: the tokens by which captions are matched."""
    return " ".join(tokens(query))


def merge(sources: Mapping[str, Iterable[RankedEntry]], size: int, exclude: Iterable[str] = ()) -> MergedList:
    """Return the list of at most `size` queries, by source and rank.

    sources: candidates by a name of SOURCES, best first; a source may be left out. ValueError where WordNet
    and the user's own queries alone are more than `size`.
    """
    merged = MergedList()
    excluded = {key_of(query) for query in exclude}
    offers = {name: _distinct(name, sources.get(name, ()), excluded, merged) for name in SOURCES}
    words, bigrams, titles = (list(offers[name]) for name in ("unigram", "bigram", "title"))
    present = offers["wordnet"].keys() | offers["extra"].keys()
    if len(present) > size:
        raise ValueError(
            f"WordNet and --extra, which are always complete, make {len(present):,} queries; "
            f"--size must be at least that, not {size:,}"
        )
    ends = dict.fromkeys(SOURCES, size)
    ends["unigram"] = _fill(words, 0, present, len(present) + round((size - len(present)) * WORD_SHARE))
    rest = size - len(present)  # more than their share where words are few
    of_bigrams = round(rest * BIGRAM_SHARE)
    ends["bigram"] = _fill(bigrams, 0, present, len(present) + of_bigrams)
    ends["title"] = _fill(titles, 0, present, len(present) + rest - of_bigrams)
    for name, keys in (("unigram", words), ("title", titles), ("bigram", bigrams)):  # places that others left
        ends[name] = _fill(keys, ends[name], present, size)
    listed: set[str] = set()
    for name in SOURCES:
        for rank, (key, candidate) in enumerate(offers[name].items()):
            if key in listed:
                merged.drop(name, "earlier_source", candidate.query)
            elif rank < ends[name]:
                listed.add(key)
                merged.queries.append(Query(key, candidate.query, name, candidate.count, candidate.score))
            else:
                merged.drop(name, "over_budget", candidate.query)
    return merged


def _distinct(
    source: str, candidates: Iterable[RankedEntry], excluded: set[str], merged: MergedList
) -> dict[str, RankedEntry]:
    """Return the first candidate of each key, in order."""
    distinct: dict[str, RankedEntry] = {}
    for candidate in candidates:
        words = tokens(candidate.query)
        key = " ".join(words)
        if not any(map(is_word, words)):
            merged.drop(source, "no_word", candidate.query)
        elif key in excluded:
            merged.drop(source, "excluded", candidate.query)
        elif distinct.setdefault(key, candidate) is not candidate:
            merged.drop(source, "duplicate", candidate.query)
    return distinct


def _fill(keys: Sequence[str], start: int, present: set[str], size: int) -> int:
    """Add keys from `start` on to `present` up to `size`; return the place of the first left out."""
    for end in range(start, len(keys)):
        if keys[end] not in present:
            if len(present) >= size:
                return end
            present.add(keys[end])
    return len(keys)
