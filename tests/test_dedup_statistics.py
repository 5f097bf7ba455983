"""The overlap statistics, against scipy's own tests and against exact arithmetic."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dedup import statistics
from dedup.statistics import binomial_p, bonferroni, compare, holm, smallest_detectable
from pipeline.intervals import clopper_pearson

counts = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


def exact_upper_tail(k: int, n: int, p: Fraction) -> float:
    return float(sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1)))


@given(counts)
def test_clopper_pearson_is_scipys_two_sided_exact_interval(count):
    k, n = count
    expected = stats.binomtest(k, n).proportion_ci(0.995, "exact")
    assert clopper_pearson(k, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_clopper_pearson_is_not_the_interval_of_the_one_sided_test():
    # scipy gives a single-sided interval with that test: its upper end is 1.
    trap = stats.binomtest(70, 100, 0.6, alternative="greater").proportion_ci(0.995, "exact")
    assert trap.high == 1.0
    assert clopper_pearson(70, 100) == pytest.approx((0.558, 0.819), abs=5e-4)
    assert clopper_pearson(0, 0) == (0.0, 1.0)
    assert clopper_pearson(0, 5).low == 0.0
    assert clopper_pearson(5, 5).high == 1.0


@given(counts, st.floats(0.01, 0.99))
def test_binomial_p_is_scipys_one_tailed_test(count, null):
    k, n = count
    assert binomial_p(k, n, null) == pytest.approx(
        stats.binomtest(k, n, null, alternative="greater").pvalue, rel=1e-9, abs=1e-300
    )


def test_binomial_p_is_the_exact_sum():
    assert binomial_p(9, 10, 0.5) == pytest.approx(exact_upper_tail(9, 10, Fraction(1, 2)), rel=1e-12)
    assert binomial_p(9, 10, 0.5) == 11 / 1024
    assert binomial_p(0, 10, 0.5) == 1.0
    assert binomial_p(0, 0, 0.5) == 1.0
    assert binomial_p(10, 10, 1.0) == 1.0


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="6 successes in 5 trials"):
        clopper_pearson(6, 5)
    with pytest.raises(ValueError, match="2 tests were made, but only 1 declared"):
        bonferroni([0.1, 0.2], 1)


@given(counts)
def test_wilson_is_scipys(count):
    k, n = count
    expected = stats.binomtest(k, n).proportion_ci(0.95, "wilson")
    assert statistics.wilson(k, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_bonferroni_and_holm_by_hand():
    assert bonferroni([0.01, 0.2, 0.5], 4) == pytest.approx([0.04, 0.8, 1.0])
    # Holm over 4 declared: .01*4, then max(.04, .02*3), then max(.06, .03*2).
    assert holm([0.03, 0.01, 0.02], 4) == pytest.approx([0.06, 0.04, 0.06])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.integers(0, 20))
def test_holm_lies_between_the_raw_and_the_bonferroni_values(p_values, undeclared):
    tests = len(p_values) + undeclared
    for raw, stepped, bonf in zip(p_values, holm(p_values, tests), bonferroni(p_values, tests), strict=True):
        assert raw <= stepped <= bonf


@given(st.integers(5, 300), st.floats(0.05, 0.9), st.sampled_from([0.05, 0.05 / 35]))
def test_smallest_detectable_has_just_the_power_it_claims(n, null, alpha):
    gain = smallest_detectable(n, null, alpha)
    critical = next((k for k in range(n + 2) if stats.binom.sf(k - 1, n, null) <= alpha), None)
    if critical == n + 1:
        assert gain is None
        return
    assert gain is not None
    power = stats.binom.sf(critical - 1, n, null + gain)
    assert power >= 0.8 - 1e-9
    if gain > 1e-3:
        assert stats.binom.sf(critical - 1, n, null + gain - 1e-3) < 0.8


def test_ten_examples_show_nothing():
    assert smallest_detectable(10, 0.6, 0.05 / 35) is None
    assert smallest_detectable(0, 0.6, 0.05) is None
    assert smallest_detectable(100, 1.0, 0.05) is None
    # 18 points from 100 examples at 35 declared sets.
    assert smallest_detectable(100, 0.6, 0.05 / 35) == pytest.approx(0.18, abs=0.01)


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.sampled_from("abc")), min_size=2, max_size=200))
def test_all_minus_clean_is_contamination_times_overlap_minus_clean(rows):
    overlap, correct = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    found = compare(overlap, correct, [r[2] for r in rows], tests=3)
    assert found.acc_all == correct.mean()
    if overlap.all():
        assert found.acc_clean is None and found.delta is None and found.p_value is None
        return
    assert found.delta == pytest.approx(correct.mean() - correct[~overlap].mean(), abs=1e-12)
    if overlap.any():
        difference = found.acc_overlap - found.acc_clean
        assert found.delta == pytest.approx(found.contamination * difference, abs=1e-12)
        assert found.delta_interval.low <= found.delta + 1e-12
        assert found.delta_interval.high >= found.delta - 1e-12
        k, hits = int(overlap.sum()), int((overlap & correct).sum())
        expected = stats.binomtest(hits, k, found.acc_clean, alternative="greater").pvalue
        assert found.p_value == pytest.approx(expected, rel=1e-9, abs=1e-300)
    else:
        assert found.delta == 0 and found.p_value is None and found.interval is None


def test_a_set_without_predictions_has_counts_only():
    found = compare(np.array([True, False, False, False]))
    assert (found.examples, found.overlap, found.contamination) == (4, 1, 0.25)
    assert found.acc_all is None and found.delta is None and found.p_value is None
    assert compare(np.zeros(0, bool)).contamination == 0


def test_stratified_clean_undoes_a_difference_of_classes():
    # The easy class is always right, the hard one never. Overlap is all easy: no gain within a class.
    labels = ["easy"] * 20 + ["hard"] * 20
    correct = np.array([True] * 20 + [False] * 20)
    overlap = np.array([True] * 10 + [False] * 30)
    found = compare(overlap, correct, labels)
    assert found.acc_overlap == 1.0
    assert found.acc_clean == pytest.approx(1 / 3)
    assert found.p_value < 1e-4  # the paper's test alone would call this significant
    assert found.stratified.accuracy == 1.0
    assert found.stratified.covered == 1.0


def test_stratified_clean_says_what_it_could_not_compare():
    labels = ["a", "a", "b", "b"]
    found = statistics.stratified_clean(
        np.array([True, False, True, True]), np.array([True, False, True, True]), labels
    )
    assert found == (0.0, pytest.approx(1 / 3))


def test_sweep_counts_at_and_above_the_threshold():
    similarity = np.array([0.9, 0.5, -np.inf, 0.7])
    correct = np.array([True, False, False, True])
    points = statistics.sweep(similarity, correct, [0.5, 0.7, 0.95])
    assert [p.overlap for p in points] == [3, 2, 0]
    assert [p.contamination for p in points] == [0.75, 0.5, 0.0]
    assert points[1].delta == pytest.approx(0.5 - 0.0)
