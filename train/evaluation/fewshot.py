"""Few-shot probes: how many labelled examples of a class zero-shot is worth (section 3.1.5)."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]


def draw(members: Bools, most: int, seed: int, number: int) -> list[npt.NDArray[np.int64]]:
    """Return for each class the rows of draw `number`, int64 [up to most], in the order they are taken.

    members: bool [n, classes], which classes each example has. k shots are the first k of each class: the
    larger samples of a draw hold its smaller samples.
    """
    random = np.random.default_rng([seed, number])
    return [random.permutation(np.flatnonzero(column))[:most] for column in members.T]


def shots(drawn: Sequence[npt.NDArray[np.int64]], count: int) -> npt.NDArray[np.int64]:
    """Return the rows, int64 [k], of `count` shots of each class; of a class with fewer all of them.

    An example of several classes is taken once.
    """
    found = np.concatenate([rows[:count] for rows in drawn])
    return found[np.sort(np.unique(found, return_index=True)[1])]


def shots_to_match(target: float, curve: Sequence[tuple[float, float]]) -> float | None:
    """Return the shots at which a curve of (shots, accuracy) first reaches `target`, log-linear in between.

    None: never up to the last. The first value already reached is a bound from above. Figure 7 interpolates
    the same way, and its last point is the probe on all examples.
    """
    points = sorted(curve)
    if not points:
        return None
    if points[0][1] >= target:
        return float(points[0][0])
    for (few, low), (many, high) in pairwise(points):
        if high >= target:
            part = (target - low) / (high - low)
            return math.exp(math.log(few) + part * (math.log(many) - math.log(few)))
    return None
