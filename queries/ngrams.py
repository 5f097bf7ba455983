"""Count words and bigrams exactly, in memory that does not grow with the dump.

Words first: the blocks' vocabularies are cut by word, and each partition is added up. Then bigrams, only of
words that are frequent enough: a bigram is one 64-bit number, a block's bigrams are sorted and counted by
runs, cut by first word, and each partition is merged. Nothing is estimated and nothing is pruned on the way.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]

WORD_COUNTS: Final = pa.schema(
    [pa.field("word", pa.string(), nullable=False), pa.field("count", pa.int64(), nullable=False)]
)
PAIR_COUNTS: Final = pa.schema(
    [pa.field("pair", pa.uint64(), nullable=False), pa.field("count", pa.int64(), nullable=False)]
)
PARTITION_WORDS: Final = 16_000_000
"""Occurrences of first words in a partition of bigrams: bounds its rows before they are merged."""

_MERGE_ROWS: Final = 16_000_000  # rows that are held before they are added up: 400 MB with the sort's copies


class Bigrams(NamedTuple):
    """Hold distinct bigrams, ascending, and how often each occurs; a bigram is first << 32 | second."""

    pairs: U64
    counts: I64


def add_words(tables: Iterable[pa.Table]) -> pa.Table:
    """Return the total count of each word of WORD_COUNTS tables, by word."""
    total = (
        pa.concat_tables([WORD_COUNTS.empty_table(), *tables]).group_by("word").aggregate([("count", "sum")])
    )
    return total.rename_columns({"count_sum": "count"}).sort_by("word").cast(WORD_COUNTS)


def frequent(words: pa.Table, min_count: int) -> pa.Table:
    """Return the words seen at least `min_count` times."""
    return words.filter(pc.greater_equal(words["count"], min_count))


def frequent_ids(words: Sequence[str], vocabulary: dict[str, int]) -> U32:
    """Return, for the ids of a block, those of the vocabulary; 0 for a break and for a word not in it."""
    return np.fromiter((0, *(vocabulary.get(word, 0) for word in words)), np.uint32, len(words) + 1)


def count_pairs(stream: U32, ids: U32) -> Bigrams:
    """Count the bigrams of a stream whose words both have an id that is not 0."""
    words = ids[stream].astype(np.uint64)
    first, second = words[:-1], words[1:]
    pairs = ((first << np.uint64(32)) | second)[(first != 0) & (second != 0)]
    pairs.sort()
    return _runs(pairs, np.ones(pairs.size, np.int64))


def merge_pairs(parts: Iterable[Bigrams], merge_rows: int = _MERGE_ROWS) -> Bigrams:
    """Add up bigram counts, holding at most `merge_rows` rows more than the result."""
    held: list[Bigrams] = []
    rows = settled = 0
    for part in parts:
        held.append(part)
        rows += part.pairs.size
        if rows - settled > merge_rows:
            held = [_add_up(held)]
            rows = settled = held[0].pairs.size
    return _add_up(held)


def _add_up(parts: Sequence[Bigrams]) -> Bigrams:
    pairs = np.concatenate([np.zeros(0, np.uint64), *(part.pairs for part in parts)])
    counts = np.concatenate([np.zeros(0, np.int64), *(part.counts for part in parts)])
    order = np.argsort(pairs, kind="stable")  # for sorted runs this is a merge
    return _runs(pairs[order], counts[order])


def _runs(pairs: U64, counts: I64) -> Bigrams:
    """Add up the counts of equal neighbours."""
    if not pairs.size:
        return Bigrams(pairs, counts)
    starts = np.flatnonzero(np.concatenate([[True], pairs[1:] != pairs[:-1]]))
    return Bigrams(pairs[starts], np.add.reduceat(counts, starts))


def partition_bounds(word_counts: I64, partition_words: int = PARTITION_WORDS) -> I64:
    """Return the first word id of each partition of bigrams and, last, one more than the highest id.

    A word begins at most as many bigrams as it occurs; so cutting the running sum of counts limits the size
    of a partition, except that a single word is never cut.
    """
    before = np.cumsum(word_counts) - word_counts
    new = np.flatnonzero(np.diff(before // partition_words)) + 1
    return np.concatenate([[1], new + 1, [word_counts.size + 1]]).astype(np.int64)


def cut_pairs(counted: Bigrams, bounds: I64) -> list[pa.Table]:
    """Return the bigrams of each partition as PAIR_COUNTS tables."""
    places = np.searchsorted(counted.pairs, bounds.astype(np.uint64) << np.uint64(32))
    table = pa.table([counted.pairs, counted.counts], PAIR_COUNTS)
    return [table.slice(low, high - low) for low, high in itertools.pairwise(places)]


def pmi(pair_counts: I64, first_counts: I64, second_counts: I64, words: int) -> F64:
    """Return the pointwise mutual information of bigrams, in bits (Church and Hanks 1990).

    log2(P(xy) / (P(x) P(y))) with every probability a count over the number of `words`, as nltk's
    `BigramAssocMeasures.pmi` has it. Rounded to 10 decimals: log2 may differ in its last bit between
    processors, and the ranking must not.
    """
    bits = np.log2(pair_counts) + np.log2(words) - np.log2(first_counts) - np.log2(second_counts)
    rounded: F64 = np.round(bits, 10) + 0.0  # + 0.0: no negative zero
    return rounded


def best_pairs(
    counted: Bigrams, word_counts: I64, words: int, min_count: int, limit: int
) -> tuple[Bigrams, F64, int]:
    """Return the `limit` bigrams of highest PMI among those seen `min_count` times, best first; their PMI;
    and how many there were to choose from.

    word_counts[i] is that of word id i+1, and ids ascend with the words, so that equal scores are in
    alphabetical order. PMI alone would rank bigrams that occur once: it is at most log2(words / count).
    Bigrams of PMI 0 or less occur together no more often than by chance and are no candidates, however few
    there are.
    """
    enough = counted.counts >= min_count
    pairs, counts = counted.pairs[enough], counted.counts[enough]
    first = word_counts[(pairs >> np.uint64(32)).astype(np.int64) - 1]
    second = word_counts[(pairs & np.uint64(0xFFFFFFFF)).astype(np.int64) - 1]
    scores = pmi(counts, first, second, words)
    associated = int(np.count_nonzero(scores > 0))
    order = np.argsort(-scores, kind="stable")[: min(limit, associated)]
    return Bigrams(pairs[order], counts[order]), scores[order], associated
