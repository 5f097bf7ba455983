"""Balance against a straightforward oracle, and the properties that users rely on."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import balance
from pipeline.select.workers import QueryTable

samples_of_queries = st.lists(st.frozensets(st.integers(0, 5), min_size=1), min_size=0, max_size=60)


def pairs_of(samples: list[frozenset[int]]) -> tuple[np.ndarray, np.ndarray]:
    flat = [(index, query) for index, queries in enumerate(samples) for query in sorted(queries)]
    sample, query = zip(*flat, strict=True) if flat else ((), ())
    return np.array(sample, np.int64), np.array(query, np.int32)


def tables(samples: list[frozenset[int]], seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    sample, query = pairs_of(samples)
    uid_hash = balance.mix(np.arange(len(samples), dtype=np.uint64) + np.uint64(7))
    hashes = balance.query_hashes([f"q{i}" for i in range(6)], seed)
    return sample, query, balance.priorities(uid_hash[sample], hashes[query])


def find_thresholds(query: np.ndarray, priority: np.ndarray, k: int) -> np.ndarray:
    counts = np.bincount(query, minlength=6).astype(np.int64)
    rank = np.full(6, k, np.int64)
    return balance.thresholds(
        *balance.largest(*balance.head_pairs(query, priority, counts, rank)), counts, rank
    )


@given(samples_of_queries, st.integers(1, 8), st.integers(0, 3))
def test_each_query_keeps_exactly_its_k_smallest(samples: list[frozenset[int]], k: int, seed: int) -> None:
    sample, query, priority = tables(samples, seed)
    keeps = priority <= find_thresholds(query, priority, k)[query]
    by_query = defaultdict(list)
    for s, q, p in zip(sample.tolist(), query.tolist(), priority.tolist(), strict=True):
        by_query[q].append((p, s))
    for q, members in by_query.items():
        expected = {s for _, s in sorted(members)[:k]}
        assert set(sample[keeps & (query == q)].tolist()) == expected


@given(samples_of_queries, st.integers(1, 8), st.randoms(use_true_random=False), st.integers(1, 5))
def test_neither_order_nor_batches_change_the_thresholds(samples, k, random, parts) -> None:
    _, query, priority = tables(samples, 1)
    counts = np.bincount(query, minlength=6).astype(np.int64)
    rank = np.full(6, k, np.int64)
    order = list(range(len(query)))
    random.shuffle(order)
    slices = [np.array(order[i::parts], np.int64) for i in range(parts)]
    heads = [balance.head_pairs(query[s], priority[s], counts, rank) for s in slices]
    merged = balance.smallest(
        np.concatenate([h[0] for h in heads]), np.concatenate([h[1] for h in heads]), rank
    )
    expected = find_thresholds(query, priority, k)
    assert (balance.thresholds(*balance.largest(*merged), counts, rank) == expected).all()


@given(samples_of_queries, st.integers(1, 4))
def test_more_samples_only_tighten(samples: list[frozenset[int]], k: int) -> None:
    """A sample that is out stays out when others are added: the thresholds never rise."""
    sample, query, priority = tables(samples, 0)
    half = sample < len(samples) // 2
    before = find_thresholds(query[half], priority[half], k)
    assert (find_thresholds(query, priority, k) <= before).all()


def test_priorities_are_uniform_and_independent_between_queries() -> None:
    uid_hash = balance.mix(np.arange(100_000, dtype=np.uint64))
    hashes = balance.query_hashes(["cat", "dog"], 0)
    cat, dog = (balance.priorities(uid_hash, np.full(len(uid_hash), h)) / 2.0**64 for h in hashes)
    for column in (cat, dog):
        histogram, _ = np.histogram(column, bins=100, range=(0, 1))
        assert ((histogram - 1000) ** 2 / 1000).sum() < 160  # chi-square, 99 degrees of freedom: p = 1e-4
    assert abs(np.corrcoef(cat, dog)[0, 1]) < 0.02


def test_known_values_do_not_change() -> None:
    """Priorities decide who is in a published set: another formula is another set."""
    hashes = balance.query_hashes(["cat", "st . louis"], 42)
    uid_hash = np.array([0, 1, 2**64 - 1], np.uint64)
    assert balance.priorities(uid_hash, hashes[[0, 0, 1]]).tolist() == KNOWN_PRIORITIES
    assert balance.sample_order(uid_hash, 42).tolist() == KNOWN_ORDER


def test_prefilter_never_cuts_at_the_extremes() -> None:
    generator = np.random.default_rng(0)
    for count, k in ((2_000_000, 1), (2_000_000, 20_000), (20_001, 20_000), (5, 1)):
        priority = generator.integers(0, 2**64, count, np.uint64, endpoint=False)
        counts, rank = np.array([count]), np.array([k])
        limit = balance.prefilter(counts, rank)[0]
        assert (priority <= limit).sum() >= k
        assert (priority <= limit).sum() <= max(1.3 * k + 100, 0) or limit == balance.EVERYTHING


def test_a_cut_prefilter_is_noticed() -> None:
    with pytest.raises(AssertionError, match="prefilter"):
        one = balance.largest(np.zeros(1, np.int32), np.ones(1, np.uint64))
        balance.thresholds(*one, np.array([5]), np.array([2]))


@settings(max_examples=200)
@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(1, 100), st.floats(0, 1))
def test_next_rank_asks_only_for_what_is_missing(tried: int, more: int, per_query: int, share: float) -> None:
    rank, matched = np.array([tried]), np.array([tried + more])
    within = np.array([int(tried * share)])
    new = balance.next_rank(rank, matched, within, per_query, 1.25)[0]
    assert tried <= new <= tried + more
    if within[0] >= per_query or not more:
        assert new == tried
    elif within[0] < per_query:
        assert new >= min(tried + more, tried + per_query - within[0])


def test_unique_pairs_counts_a_query_once_a_sample() -> None:
    sample, query = balance.unique_pairs(np.array([0, 0, 1, 0]), np.array([3, 1, 3, 3], np.int32), 6)
    assert list(zip(sample.tolist(), query.tolist(), strict=True)) == [(0, 1), (0, 3), (1, 3)]


KNOWN_PRIORITIES = [9244494185464820089, 11685430732322765134, 7852795324876897031]
KNOWN_ORDER = [12361366269325605300, 4813373647245539942, 13585531272985513769]


def test_under_metaclips_rule_queries_of_another_case_have_priorities_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "queries.txt").write_text("Dog\ndog\n")
    path = str(tmp_path / "queries.txt")
    alike = QueryTable(path=path, seed=0, queries=2).hashes
    apart = QueryTable(path=path, seed=0, queries=2, rule="metaclip").hashes
    assert alike[0] == alike[1] == apart[1] != apart[0]
