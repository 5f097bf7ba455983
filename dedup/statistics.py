"""The statistics of section 5 of CLIP: did the overlap of training and evaluation data help?

An evaluation set (All) is split into the examples that were found in the training set (Overlap) and the rest
(Clean). With c = |Overlap| / |All|, All - Clean = c * (Overlap - Clean): the gain in reported accuracy. Its
significance is a single-tailed binomial test of Overlap's accuracy against Clean's, beside a two-sided 99.5%
Clopper-Pearson interval (Radford et al. 2021, arXiv 2103.00020, section 5).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from pipeline.intervals import Interval, check_counts, clopper_pearson, wilson

ALPHA: Final = 0.05
"""Level of the test, for all sets together."""
POWER: Final = 0.8
"""Probability with which the smallest detectable effect would be detected."""

Flags = npt.NDArray[np.bool_]


def binomial_p(successes: int, trials: int, null: float) -> float:
    """Return P[Binomial(trials, null) >= successes], the p-value of the upper tail; 1 for no trials."""
    check_counts(successes, trials)
    return float(stats.binom.sf(successes - 1, trials, null))


def bonferroni(p_values: Sequence[float], tests: int) -> list[float]:
    """Return p-values multiplied by the declared number of tests, at most 1."""
    _check_tests(p_values, tests)
    return [min(1.0, p * tests) for p in p_values]


def holm(p_values: Sequence[float], tests: int) -> list[float]:
    """Return step-down adjusted p-values (Holm, 1979); declared tests that are not given count as p = 1."""
    _check_tests(p_values, tests)
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, p_values[index] * (tests - rank)))
        adjusted[index] = highest
    return adjusted


def _check_tests(p_values: Sequence[float], tests: int) -> None:
    if tests < len(p_values):
        raise ValueError(f"{len(p_values)} tests were made, but only {tests} declared")


def smallest_detectable(trials: int, null: float, alpha: float, power: float = POWER) -> float | None:
    """Return the smallest gain over `null` that the binomial test finds with probability `power`.

    The gain is a difference of accuracies. None: even an accuracy of 1 would not be significant, so from this
    many examples nothing at all follows.
    """
    if not trials or not 0 <= null < 1:
        return None
    # The smallest count that is significant: P[Bin(n, null) >= critical] <= alpha.
    critical = int(stats.binom.isf(alpha, trials, null)) + 1
    if critical > trials:
        return None
    # P[Bin(n, p) >= k] >= power is p >= the `power` quantile of Beta(k, n - k + 1).
    return float(max(0.0, stats.beta.ppf(power, critical, trials - critical + 1) - null))


class Stratified(NamedTuple):
    """Clean's accuracy reweighted to the classes of Overlap."""

    accuracy: float | None
    """Mean over Overlap's examples of Clean's accuracy in their classes; None without a comparable class."""
    covered: float
    """Share of Overlap's examples whose class is in Clean as well; the others cannot be compared."""


NOT_STRATIFIED: Final = Stratified(None, 0.0)


def stratified_clean(correct: Flags, overlap: Flags, labels: Sequence[str]) -> Stratified:
    """Return Clean's accuracy on Overlap's mix of classes: Overlap may hold easier classes than the rest.

    correct, overlap: bool [n]; labels: the classes of the n examples.
    """
    if not overlap.any():
        return NOT_STRATIFIED
    _, label = np.unique(np.asarray(labels), return_inverse=True)
    classes = int(label.max()) + 1
    weight = np.bincount(label[overlap], minlength=classes)
    size = np.bincount(label[~overlap], minlength=classes)
    right = np.bincount(label[~overlap & correct], minlength=classes)
    shared = (weight > 0) & (size > 0)
    covered = int(weight[shared].sum())
    if not covered:
        return NOT_STRATIFIED
    accuracy = float((weight[shared] * right[shared] / size[shared]).sum() / covered)
    return Stratified(accuracy, covered / int(weight.sum()))


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All, Overlap and Clean of one evaluation set; accuracies are None where there is nothing to count."""

    examples: int
    overlap: int
    contamination: float
    contamination_interval: Interval
    """Wilson's 95% interval of the share of overlapping examples."""
    correct_all: int | None = None
    correct_overlap: int | None = None
    acc_all: float | None = None
    acc_overlap: float | None = None
    acc_clean: float | None = None
    delta: float | None = None
    """All - Clean."""
    p_value: float | None = None
    interval: Interval | None = None
    """Two-sided Clopper-Pearson of Overlap's accuracy."""
    delta_interval: Interval | None = None
    """The same, as All - Clean: contamination * (interval - Clean)."""
    fisher_p: float | None = None
    """Fisher's exact test (greater) of Overlap and Clean: Clean's accuracy is an estimate too."""
    detectable: float | None = None
    """Smallest Overlap - Clean that this many examples can show at the corrected level; None: none can."""
    stratified: Stratified = field(default=NOT_STRATIFIED)


def compare(
    overlap: Flags,
    correct: Flags | None = None,
    labels: Sequence[str] | None = None,
    *,
    tests: int = 1,
) -> Comparison:
    """Return the comparison of one evaluation set.

    `overlap` and `correct` are bool [n], `labels` the classes of the n examples; `tests` is the number of
    evaluation sets that were declared, by which the smallest detectable effect is corrected. ValueError for
    other lengths.
    """
    n, k = len(overlap), int(overlap.sum())
    share = k / n if n else 0.0
    counted = {"examples": n, "overlap": k, "contamination": share, "contamination_interval": wilson(k, n)}
    if correct is None or not n:
        return Comparison(**counted)  # type: ignore[arg-type]
    if len(correct) != n or (labels is not None and len(labels) != n):
        raise ValueError("overlap, correct and labels must be of one length")
    right, hits = int(correct.sum()), int((correct & overlap).sum())
    clean = (right - hits) / (n - k) if k < n else None
    found = dict(
        counted,
        correct_all=right,
        correct_overlap=hits,
        acc_all=right / n,
        acc_overlap=hits / k if k else None,
        acc_clean=clean,
        stratified=stratified_clean(correct, overlap, labels) if labels is not None else NOT_STRATIFIED,
    )
    if clean is None:
        return Comparison(**found)  # type: ignore[arg-type]
    found["delta"] = right / n - clean
    if k:
        interval = clopper_pearson(hits, k)
        table = [[hits, k - hits], [right - hits, n - k - right + hits]]
        found |= {
            "p_value": binomial_p(hits, k, clean),
            "interval": interval,
            "delta_interval": Interval(share * (interval.low - clean), share * (interval.high - clean)),
            "fisher_p": float(stats.fisher_exact(table, alternative="greater").pvalue),
            "detectable": smallest_detectable(k, clean, ALPHA / tests),
        }
    return Comparison(**found)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class SweepPoint:
    """The comparison at one threshold."""

    threshold: float
    overlap: int
    contamination: float
    delta: float | None


def sweep(
    similarity: npt.NDArray[np.float64], correct: Flags | None, thresholds: Sequence[float]
) -> list[SweepPoint]:
    """Return contamination and All - Clean at each threshold.

    similarity: float64 [n], -inf where there is no match; correct: bool [n].
    """
    points = []
    for threshold in thresholds:
        found = compare(similarity >= threshold, correct)
        points.append(
            SweepPoint(
                threshold=threshold, overlap=found.overlap, contamination=found.contamination,
                delta=found.delta,
            )
        )  # fmt: skip
    return points
