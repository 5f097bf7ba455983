"""Intervals: exact for proportions, bootstrap for everything else (Efron, 1979).

Resamples are drawn from a seed and the number of examples alone: two predictors of the same examples get the
same resamples, so that the difference of their replicates is the paired bootstrap of their difference.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import stats

from pipeline.intervals import Interval, clopper_pearson
from train.evaluation.metrics import Measure, Weights

REPLICATES: Final = 1_000
RANKED_REPLICATES: Final = 200
"""Of metrics that cost a pass over all classes."""

Replicates = npt.NDArray[np.float64]


def exact(successes: int, trials: int, confidence: float) -> Interval:
    """Return the Clopper-Pearson interval of a proportion."""
    return clopper_pearson(successes, trials, confidence)


def seed_of(seed: int, dataset: str) -> int:
    """Return a set's own seed: resamples of different sets must not go together."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{dataset}".encode(), digest_size=7).digest())


def resamples(n: int, seed: int, count: int = REPLICATES) -> Iterator[Weights]:
    """Yield how often each of n examples is drawn in each of `count` resamples: float64 [n]."""
    random = np.random.default_rng([seed, n])
    for _ in range(count):
        yield np.bincount(random.integers(n, size=n), minlength=n).astype(np.float64)


def replicates(measure: Measure, n: int, seed: int, count: int = REPLICATES) -> Replicates:
    """Return the metric of each resample: float64 [count]."""
    return np.array([measure(weights) for weights in resamples(n, seed, count)])


def percentile(values: Replicates, confidence: float) -> Interval:
    """Return the middle share of replicates [r], those without a value left out."""
    values = values[np.isfinite(values)]
    if not len(values):
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def clustered(values: npt.NDArray[np.float64], clusters: npt.NDArray[np.int64], seed: int) -> Replicates:
    """Return replicates [r] of the mean of values [n]; clusters [n] (an image's captions) go together."""
    sums, sizes = np.bincount(clusters, values), np.bincount(clusters)
    return replicates(
        lambda w: float((w @ sums) / (w @ sizes)) if w is not None else float(values.mean()), len(sums), seed
    )


def of_mean(values: Sequence[float], confidence: float) -> Interval:
    """Return Student's t interval of the mean of independent draws; unknown for a single draw."""
    if len(values) < 2:
        return Interval(float("nan"), float("nan"))
    mean, error = float(np.mean(values)), float(stats.sem(values))
    half = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1)) * error
    return Interval(mean - half, mean + half)


def of_correlation(r: float, n: int, confidence: float) -> Interval:
    """Return the interval of Pearson's r by Fisher's transformation; unknown below four pairs."""
    if n < 4 or not np.isfinite(r):
        return Interval(float("nan"), float("nan"))
    if abs(r) >= 1:
        return Interval(r, r)
    half = float(stats.norm.ppf((1 + confidence) / 2)) / np.sqrt(n - 3)
    middle = np.arctanh(r)
    return Interval(float(np.tanh(middle - half)), float(np.tanh(middle + half)))
