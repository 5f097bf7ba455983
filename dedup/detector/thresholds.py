"""Choose each evaluation set's threshold from pairs that do not match.

Clothing before a white wall is nearer to other such clothing than a landscape is to anything: one threshold
for all sets would either flood one of them or miss copies in the others. So similarities of a sample of
training images with the set are taken, without those that verification says show the same picture, and the
tail of everything that is left is continued to the number of pairs that the whole training set makes.
"""

import math
from typing import Final

import numpy as np
import numpy.typing as npt

_FITTED: Final = 100
"""Highest similarities that the tail is fitted to: their spread is known to a tenth."""


def threshold(
    unrelated: npt.NDArray[np.float32], pairs: int, examples: int, images: int, precision: float
) -> float:
    """Return the similarity above which unrelated images leave `precision` of the examples alone.

    `unrelated`: the highest similarities, float32 [m] in any order, among `pairs` pairs that do not match;
    `images`: of the whole training set. Expected false pairs there are at most (1 - precision) x examples.
    Beyond the sample an exponential tail is assumed, whose rate is the mean excess of the highest
    similarities over the next highest (Hill's estimator for the exponential domain; Embrechts et al. 1997,
    section 6.4). ValueError for a precision that is not from 0 to below 1.
    """
    if not 0 <= precision < 1:
        raise ValueError(f"a precision lies from 0 to below 1, not at {precision}")
    falling = np.sort(np.asarray(unrelated, np.float64))[::-1]
    allowed = (1 - precision) * examples * pairs / max(1, examples * images)  # in the sample
    if len(falling) < 2:
        return float(falling[0]) if len(falling) else 0.0
    if allowed >= len(falling):
        return float(falling[-1])
    if allowed >= _FITTED:
        return float(falling[int(allowed)])
    used = min(_FITTED, len(falling) - 1)
    spread = float((falling[:used] - falling[used]).mean())
    return min(1.0, float(falling[used]) + spread * math.log(used / allowed))


def on_scale(
    similarity: npt.NDArray[np.float32], threshold: npt.NDArray[np.float32], floor: float
) -> npt.NDArray[np.float32]:
    """Return similarities of the detector on the scale of the hashes: its threshold at `floor`, 1 at 1.

    similarity: float32 [n]; threshold: that of each image's set, float32 [n]. So one slider and one file of
    thresholds serve both.
    """
    share = (similarity - threshold) / np.maximum(1 - threshold, 1e-6)
    return np.asarray(floor + share * (1 - floor), np.float32)
