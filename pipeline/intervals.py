"""Intervals of a proportion: the exact one of Clopper and Pearson, and Wilson's."""

import math
from typing import Final, NamedTuple

from scipy import stats

CONFIDENCE: Final = 0.995
"""Of the Clopper-Pearson intervals (Radford et al. 2021, section 5)."""
_WILSON: Final = 0.95


class Interval(NamedTuple):
    """Two ends, both included."""

    low: float
    high: float


def clopper_pearson(successes: int, trials: int, confidence: float = CONFIDENCE) -> Interval:
    """Return the exact two-sided interval of a proportion, [0, 1] for no trials (Clopper, Pearson 1934)."""
    check_counts(successes, trials)
    tail = (1 - confidence) / 2
    low = float(stats.beta.ppf(tail, successes, trials - successes + 1)) if successes else 0.0
    high = float(stats.beta.ppf(1 - tail, successes + 1, trials - successes)) if successes < trials else 1.0
    return Interval(low, high)


def wilson(successes: int, trials: int, confidence: float = _WILSON) -> Interval:
    """Return Wilson's score interval of a proportion; [0, 1] for no trials (Wilson, 1927)."""
    check_counts(successes, trials)
    if not trials:
        return Interval(0.0, 1.0)
    z = float(stats.norm.ppf((1 + confidence) / 2))
    share, weight = successes / trials, z * z / trials
    middle = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / trials + weight / (4 * trials))
    # At the ends of the range rounding would leave 1e-17 instead of the exact 0 or 1.
    return Interval(
        0.0 if successes == 0 else max(0.0, middle - half),
        1.0 if successes == trials else min(1.0, middle + half),
    )


def check_counts(successes: int, trials: int) -> None:
    """Raise ValueError for more successes than trials, or fewer than none."""
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials")
