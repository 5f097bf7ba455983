"""Metrics against scikit-learn and plain loops; intervals against scipy and their promised coverage."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from train.evaluation import bootstrap, metrics
from train.evaluation.metrics import hits, map11, mean_per_class, predicted, roc_auc, softmax, top

sklearn_metrics = pytest.importorskip("sklearn.metrics")


def example(n: int = 200, classes: int = 7, seed: int = 0, levels: int = 0):
    random = np.random.default_rng(seed)
    targets = random.integers(classes, size=n)
    scores = random.normal(size=(n, classes)) + 1.5 * np.eye(classes)[targets]
    if levels:
        scores = np.round(scores * levels) / levels
    return scores, np.eye(classes, dtype=bool)[targets], targets


@pytest.mark.parametrize("levels", [0, 2])
def test_all_metrics_equal_scikit_learns(levels):
    scores, truth, targets = example(levels=levels)
    first = top(scores, 1)[:, 0]
    found = {name: measure(None) for name, measure in metrics.measures(scores, truth).items()}
    assert found["acc1"] == sklearn_metrics.accuracy_score(targets, first)
    recall = sklearn_metrics.recall_score(targets, first, average="macro")
    assert found["mean_per_class_recall"] == pytest.approx(recall, abs=1e-12)
    auc = sklearn_metrics.roc_auc_score(targets, softmax(scores), multi_class="ovr", average="macro")
    assert found["roc_auc"] == pytest.approx(auc, abs=1e-12)
    if not levels:
        five = sklearn_metrics.top_k_accuracy_score(targets, scores, k=5)
        assert found["acc5"] == pytest.approx(five, abs=1e-12)


def test_a_binary_set_has_one_roc_auc():
    scores, truth, targets = example(classes=2)
    expected = sklearn_metrics.roc_auc_score(targets, softmax(scores)[:, 1])
    assert roc_auc(softmax(scores), truth)(None) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 6), st.sampled_from([0, 1, 3]))
def test_weights_are_repetitions(seed, classes, levels):
    scores, truth, _ = example(40, classes, seed, levels)
    weights = np.random.default_rng(seed).integers(0, 3, 40)
    rows = np.repeat(np.arange(40), weights)
    once = metrics.measures(scores, truth)
    again = metrics.measures(scores[rows], truth[rows])
    for name in once:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert once[name](weights.astype(float)) == pytest.approx(
                again[name](None), abs=1e-12, nan_ok=True
            )


def eleven_points(scores, truth):
    """Return VOC 2007's average precision as its development kit defines it, for scores without ties."""
    order = np.argsort(-scores)
    right = truth[order]
    recall = np.cumsum(right) / right.sum()
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    return sum(max(precision[recall >= tenth / 10 - 1e-12], default=0.0) for tenth in range(11)) / 11


def test_map11_is_the_development_kits():
    random = np.random.default_rng(3)
    scores, truth = random.normal(size=(90, 5)), random.random((90, 5)) < 0.3
    expected = np.mean([eleven_points(scores[:, c], truth[:, c]) for c in range(5)])
    assert map11(scores, truth)(None) == pytest.approx(expected, abs=1e-12)
    # Three of ten found first: the level 0.3 is reached exactly there.
    one = np.array([True] * 3 + [False] * 10 + [True] * 7)[:, None]
    falling = -np.arange(20.0)[:, None]
    assert map11(falling, one)(None) == pytest.approx(eleven_points(falling[:, 0], one[:, 0]), abs=1e-12)
    assert map11(np.zeros((20, 1)), one)(None) == pytest.approx(0.5), "equal scores tell nothing"


def test_mean_average_precision_is_scikit_learns_and_clip_benchmarks():
    zeroshot = pytest.importorskip("clip_benchmark.metrics.zeroshot_classification")
    random = np.random.default_rng(4)
    scores, truth = random.normal(size=(90, 5)), random.random((90, 5)) < 0.3
    own = metrics.measures(scores, truth)["mean_average_precision"](None)
    assert own == pytest.approx(sklearn_metrics.average_precision_score(truth, scores), abs=1e-12)
    theirs = zeroshot.average_precision_per_class(torch.from_numpy(scores), torch.from_numpy(truth))
    assert own == pytest.approx(theirs.mean().item(), abs=1e-6)
    tied = np.round(scores)
    own = metrics.measures(tied, truth)["mean_average_precision"](None)
    assert own == pytest.approx(sklearn_metrics.average_precision_score(truth, tied), abs=1e-12)


def test_ties_go_to_the_first_class():
    scores = np.array([[1.0, 1.0], [1.0, 1.0], [0.0, 1.0]])
    truth = np.array([[True, False], [False, True], [False, True]])
    assert hits(scores, truth, 1).tolist() == [True, False, True]
    assert mean_per_class(predicted(scores), truth)(None) == 0.75


@given(st.integers(0, 2**31), st.integers(1, 7))
@settings(max_examples=30, deadline=None)
def test_the_best_of_many_classes_are_those_of_a_full_sort(seed, count):
    scores = np.random.default_rng(seed).integers(0, 4, (9, 40)).astype(float)
    assert (top(scores, count) == np.argsort(-scores, axis=1, kind="stable")[:, :count]).all()


# ---- intervals


@pytest.mark.parametrize(("hits_", "n"), [(0, 10), (3, 10), (10, 10), (713, 1000)])
def test_shares_have_exact_intervals(hits_, n):
    expected = stats.binomtest(hits_, n).proportion_ci(0.95, method="exact")
    assert bootstrap.exact(hits_, n, 0.95) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_bootstrap_agrees_with_the_normal_approximation_of_a_mean():
    correct = np.random.default_rng(0).random(2_000) < 0.7
    drawn = bootstrap.replicates(lambda w: metrics.share(correct, w), 2_000, 5)
    error = correct.std() / np.sqrt(2_000)
    assert drawn.std() == pytest.approx(error, rel=0.1)
    low, high = bootstrap.percentile(drawn, 0.95)
    assert (low, high) == pytest.approx(
        (correct.mean() - 1.96 * error, correct.mean() + 1.96 * error), abs=4e-3
    )


def test_replicates_of_the_same_examples_are_paired():
    ours = np.random.default_rng(0).random(500) < 0.6
    drawn = [bootstrap.replicates(lambda w: metrics.share(ours, w), 500, 1) for _ in range(2)]
    assert (drawn[0] == drawn[1]).all()
    other = bootstrap.replicates(lambda w: metrics.share(ours, w), 500, bootstrap.seed_of(1, "other"))
    assert abs(np.corrcoef(drawn[0], other)[0, 1]) < 0.15


def test_examples_of_one_cluster_are_drawn_together():
    random = np.random.default_rng(0)
    values = np.repeat(random.random(100) < 0.5, 5).astype(float)
    together = bootstrap.clustered(values, np.repeat(np.arange(100), 5), 0)
    alone = bootstrap.clustered(values, np.arange(500), 0)
    assert together.std() / alone.std() == pytest.approx(np.sqrt(5), rel=0.15)


def test_intervals_of_draws_and_correlations_are_scipys():
    draws = [0.4, 0.5, 0.45, 0.61]
    expected = stats.t.interval(0.9, 3, loc=np.mean(draws), scale=stats.sem(draws))
    assert bootstrap.of_mean(draws, 0.9) == pytest.approx(expected, abs=1e-12)
    assert np.isnan(bootstrap.of_mean([0.5], 0.95)).all()
    x, y = np.random.default_rng(0).normal(size=(2, 30))
    found = stats.pearsonr(x, x + y)
    low, high = found.confidence_interval(0.95)
    assert bootstrap.of_correlation(found.statistic, 30, 0.95) == pytest.approx((low, high), abs=1e-12)
