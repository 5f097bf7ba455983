"""The paper's metrics of one set, from scores and the true classes, each with optional example weights.

Weights are how often an example is drawn: the bootstrap (bootstrap.py) calls the same functions with them.
Shapes: n examples, C classes; `scores` float [n, C], `truth` bool [n, C].
"""

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.floating]
Weights = npt.NDArray[np.float64]
Measure = Callable[[Weights | None], float]
"""Returns the metric's value for examples drawn so often; None: each once."""

RANKED: Final = ("roc_auc", "map11", "mean_average_precision")
"""Metrics of whole rankings: they cost a sort for each class."""


def top(scores: Scores, count: int) -> npt.NDArray[np.int64]:
    """Return the classes of highest score, best first: int64 [n, count]; of equals the first class."""
    if count == 1:
        return np.asarray(scores.argmax(axis=1)[:, None])
    if scores.shape[1] > 4 * count:
        # Few are wanted: sort only those at or above the count-th score. Ties there stay in order of class.
        kth = -np.partition(-scores, count - 1, axis=1)[:, count - 1 : count]
        found = np.empty((len(scores), count), np.int64)
        for row, (values, limit) in enumerate(zip(scores, kth, strict=True)):
            places = np.flatnonzero(values >= limit)
            found[row] = places[np.argsort(-values[places], kind="stable")][:count]
        return found
    return np.argsort(-scores, axis=1, kind="stable")[:, :count]


def hits(scores: Scores, truth: Bools, count: int) -> Bools:
    """Return bool [n]: whether a true class is among the `count` best."""
    best = np.take_along_axis(truth, top(scores, min(count, scores.shape[1])), axis=1)
    return np.asarray(best.any(axis=1))


def share(correct: Bools, weights: Weights | None = None) -> float:
    """Return the share of correct examples: bool [n], weights float64 [n]."""
    return float(np.average(correct, weights=weights))


def mean_per_class(recalled: Bools, truth: Bools) -> Measure:
    """Return the mean over the classes that occur of the share of their examples in `recalled`.

    `recalled`: bool [n, C], the classes that were predicted.
    """
    rows, columns = np.nonzero(truth)
    found, classes = recalled[rows, columns], truth.shape[1]

    def measure(weights: Weights | None = None) -> float:
        w = np.ones(len(rows)) if weights is None else weights[rows]
        occurs = np.bincount(columns, w, minlength=classes)
        right = np.bincount(columns, w * found, minlength=classes)
        return float((right[occurs > 0] / occurs[occurs > 0]).mean())

    return measure


def predicted(scores: Scores) -> Bools:
    """Return bool [n, C]: the class of highest score."""
    table = np.zeros(scores.shape, np.bool_)
    table[np.arange(len(scores)), top(scores, 1)[:, 0]] = True
    return table


def roc_auc(scores: Scores, truth: Bools) -> Measure:
    """Return the area under the ROC curve [n, C], each class against the rest, averaged over those with both.

    Equal scores count half. `scores` are probabilities where classes exclude each other.
    """
    order = np.argsort(scores, axis=0, kind="stable")
    ranked, ranked_truth = np.take_along_axis(scores, order, 0), np.take_along_axis(truth, order, 0)
    # The last place of each run of equal scores.
    last = np.ones(ranked.shape, np.bool_)
    last[:-1] = ranked[1:] != ranked[:-1]

    def measure(weights: Weights | None = None) -> float:
        w = np.ones(len(truth)) if weights is None else weights
        areas = []
        for column in range(truth.shape[1]):
            drawn, positive = w[order[:, column]], ranked_truth[:, column]
            ends = last[:, column]
            below_pos = np.cumsum(drawn * positive)[ends]
            below_neg = np.cumsum(drawn * ~positive)[ends]
            if not below_pos[-1] or not below_neg[-1]:
                continue
            tied_pos = np.diff(below_pos, prepend=0)
            tied_neg = np.diff(below_neg, prepend=0)
            won = tied_pos @ (below_neg - tied_neg / 2)
            areas.append(won / (below_pos[-1] * below_neg[-1]))
        return float(np.mean(areas)) if areas else float("nan")

    return measure


def map11(scores: Scores, truth: Bools) -> Measure:
    """Return PASCAL VOC 2007's mean average precision of [n, C]: the best precision at 11 levels of recall.

    Precision counts whole runs of equal scores, so that it does not depend on the order of examples.
    """
    levels = np.linspace(0, 1, 11)

    def value(positive: Weights, precision: Weights) -> float:
        best = np.maximum.accumulate(precision[::-1])[::-1]
        # Shares of whole numbers: half a part in a billion keeps 3/10 at the level 0.3.
        first = np.searchsorted(positive / positive[-1], levels - 5e-10)
        return float(best[first].mean())

    return _mean_over_precisions(scores, truth, value)


def mean_average_precision(scores: Scores, truth: Bools) -> Measure:
    """Return the mean over classes of scikit-learn's average precision of [n, C], CLIP_benchmark's metric.

    Classes that do not occur are left out; runs of equal scores count as one step.
    """
    return _mean_over_precisions(
        scores, truth,
        lambda positive, precision: float(np.diff(positive, prepend=0) @ precision / positive[-1]),
    )  # fmt: skip


def _mean_over_precisions(
    scores: Scores, truth: Bools, value: Callable[[Weights, Weights], float]
) -> Measure:
    """Return the mean over the classes that occur of `value`(positives, precisions) down to each score."""
    order = np.argsort(-scores, axis=0, kind="stable")
    ranked, ranked_truth = np.take_along_axis(scores, order, 0), np.take_along_axis(truth, order, 0)
    last = np.ones(ranked.shape, np.bool_)
    last[:-1] = ranked[1:] != ranked[:-1]

    def measure(weights: Weights | None = None) -> float:
        w = np.ones(len(truth)) if weights is None else weights
        values = []
        for column in range(truth.shape[1]):
            drawn, ends = w[order[:, column]], last[:, column]
            positive = np.cumsum(drawn * ranked_truth[:, column])[ends]
            total = np.cumsum(drawn)[ends]
            if positive[-1]:
                precision = np.divide(positive, total, out=np.zeros_like(positive), where=total > 0)
                values.append(value(positive, precision))
        return float(np.mean(values)) if values else float("nan")

    return measure


def softmax(logits: Scores) -> npt.NDArray[np.float64]:
    """Return probabilities [n, C]."""
    values = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return values / values.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]


def measures(logits: Scores, truth: Bools, *, ranked: bool = True) -> dict[str, Measure]:
    """Return every metric of [n, C], ready to be weighted; `ranked`: those that sort each class as well.

    Classes exclude each other unless some example has several; then ROC AUC ranks logits, not probabilities.
    """
    first = hits(logits, truth, 1)
    found: dict[str, Measure] = {"acc1": lambda w: share(first, w)}
    if logits.shape[1] > 5:
        five = hits(logits, truth, 5)
        found["acc5"] = lambda w: share(five, w)
        found["mean_top1_top5"] = lambda w: (share(first, w) + share(five, w)) / 2
    found["mean_per_class_recall"] = mean_per_class(predicted(logits), truth)
    if ranked:
        exclusive = bool((truth.sum(axis=1) <= 1).all())
        found["roc_auc"] = roc_auc(softmax(logits) if exclusive else logits, truth)
        found["map11"] = map11(logits, truth)
        if not exclusive:
            found["mean_average_precision"] = mean_average_precision(logits, truth)
    return found
