"""Words and bigrams: exact against a straightforward count, however they are cut and merged."""

import itertools
import math
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from queries import ngrams
from queries.ngrams import Bigrams

STREAMS = st.lists(st.lists(st.integers(0, 6), max_size=40), max_size=5)


def _as_dict(counted: Bigrams) -> dict[tuple[int, int], int]:
    pairs = counted.pairs.tolist()
    assert pairs == sorted(set(pairs))
    return {
        (pair >> 32, pair & 0xFFFFFFFF): n for pair, n in zip(pairs, counted.counts.tolist(), strict=True)
    }


@given(STREAMS, st.lists(st.integers(0, 9), min_size=6, max_size=6), st.integers(1, 20))
def test_pairs_are_counted_and_merged_exactly(
    streams: list[list[int]], ids: list[int], merge_rows: int
) -> None:
    table = np.array([0, *ids], np.uint32)
    expected: Counter[tuple[int, int]] = Counter()
    for stream in streams:
        renamed = [int(table[i]) for i in stream]
        expected.update((a, b) for a, b in itertools.pairwise(renamed) if a and b)
    counted = [ngrams.count_pairs(np.array(stream, np.uint32), table) for stream in streams]
    assert _as_dict(ngrams.merge_pairs(counted, merge_rows)) == expected


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 60))
def test_every_word_lies_in_one_partition_of_bounded_size(counts: list[int], partition_words: int) -> None:
    bounds = ngrams.partition_bounds(np.array(counts), partition_words)
    assert bounds[0] == 1
    assert bounds[-1] == len(counts) + 1
    for low, high in itertools.pairwise(bounds.tolist()):
        inside = counts[low - 1 : high - 1]
        assert inside
        assert sum(inside[:-1]) <= partition_words


def test_cutting_keeps_every_pair_and_its_partition() -> None:
    stream = np.array([1, 2, 3, 1, 3, 3, 2], np.uint32)
    counted = ngrams.count_pairs(stream, np.arange(4, dtype=np.uint32))
    tables = ngrams.cut_pairs(counted, np.array([1, 2, 4]))
    assert [[pair >> 32 for pair in table["pair"].to_pylist()] for table in tables] == [[1, 1], [2, 3, 3, 3]]


def test_words_are_added_up_and_the_frequent_kept() -> None:
    tables = [
        pa.table([["b", "a"], [2, 3]], ngrams.WORD_COUNTS),
        pa.table([["a", "c"], [4, 6]], ngrams.WORD_COUNTS),
    ]
    total = ngrams.add_words(tables)
    assert total.to_pydict() == {"word": ["a", "b", "c"], "count": [7, 2, 6]}
    assert ngrams.frequent(total, 6)["word"].to_pylist() == ["a", "c"]
    assert ngrams.add_words([]).num_rows == 0


def test_ids_of_words_that_are_not_frequent_are_breaks() -> None:
    assert ngrams.frequent_ids(["x", "the", "y"], {"the": 5}).tolist() == [0, 0, 5, 0]


def test_pmi_is_that_of_the_textbook() -> None:
    scores = ngrams.pmi(np.array([20, 1]), np.array([50, 3]), np.array([25, 7]), 1000)
    expected = [math.log2(20 / 1000 / (50 / 1000 * 25 / 1000)), math.log2(1 * 1000 / (3 * 7))]
    assert scores.tolist() == pytest.approx(expected, abs=1e-9)


def test_the_best_pairs_are_frequent_associated_and_in_order() -> None:
    word_counts = np.array([100, 10, 10, 10])
    counted = Bigrams(
        np.array([(1 << 32) | 2, (2 << 32) | 3, (2 << 32) | 4, (3 << 32) | 4, (4 << 32) | 4], np.uint64),
        np.array([1, 5, 5, 9, 2]),
    )
    best, scores, associated = ngrams.best_pairs(counted, word_counts, 130, 2, 10)
    assert [(p >> 32, p & 7) for p in best.pairs.tolist()] == [
        (3, 4),
        (2, 3),
        (2, 4),
        (4, 4),
    ]  # equal: by word
    assert scores.tolist() == sorted(scores.tolist(), reverse=True)
    assert associated == 4
    few, _, associated = ngrams.best_pairs(counted, word_counts, 130, 2, 1)
    assert few.pairs.tolist() == [(3 << 32) | 4]
    # 1 of 130 words, expected 100 * 10 / 130 times: less often than by chance
    assert associated == 4
    every, _, _ = ngrams.best_pairs(counted, word_counts, 130, 1, 10)
    assert (1 << 32) | 2 not in every.pairs.tolist()
