"""Make pictures smaller: by the antialiased bicubic filter of Pillow and torchvision, or by averaging areas.

Both are weighted sums of rows, then of columns, in whole numbers, so that every machine gives the same bytes.
`_resample.c` computes them; where it is not built numpy does, with the same bytes, thirty times as slowly.
"""

from typing import Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

try:
    from pipeline.images import _resample
except ImportError:
    _resample = None  # type: ignore[assignment]

Pixels = npt.NDArray[np.uint8]
Filter = Literal["cubic", "area"]

_BITS: Final = 14
_SUPPORT: Final = {"cubic": 2.0, "area": 0.5}
"""How far a filter reaches to either side, in pixels of the result."""
_SLOPE: Final = -0.5
"""Of the bicubic filter at distance 1: Keys's ("Cubic Convolution Interpolation", 1981), as in Pillow."""


class Table(NamedTuple):
    """The source pixels and weights of each row, or column, of a result; fields only."""

    starts: npt.NDArray[np.int32]
    """[n] the first of those it is made of."""
    weights: npt.NDArray[np.int16]
    """[n, 4 k] theirs, in parts of 2^14."""


def shrink(pixels: Pixels, extent: tuple[float, float], width: int, height: int, by: Filter) -> Pixels:
    """Resize the first `extent` columns and rows to `width` x `height`, of which neither may be larger.

    uint8 [rows, columns, 3] to [height, width, 3].
    """
    if _resample is None:
        rows = _table(pixels.shape[0], extent[1], height, by)
        columns = _table(pixels.shape[1], extent[0], width, by)
        return _weighed(_weighed(pixels, rows).transpose(1, 0, 2), columns).transpose(1, 0, 2)
    if pixels.strides[1:] != (3, 1):
        pixels = np.ascontiguousarray(pixels)
    made = _resample.shrink(pixels, *extent, width, height, by == "area")
    return np.frombuffer(made, np.uint8).reshape(height, width, 3)


def _table(pixels: int, extent: float, count: int, by: Filter) -> Table:
    """Return how the first `extent` of that many pixels make `count`."""
    scale = extent / count
    support = _SUPPORT[by] * scale
    centres = (np.arange(count)[:, None] + 0.5) * scale
    first = np.maximum(np.floor(centres - support + 1e-6), 0)
    taps = int(np.ceil(2 * support)) + 1
    places = first + np.arange(taps + -taps % 4)
    if by == "cubic":
        weights = _cubic(np.abs(places + 0.5 - centres) / scale)
    else:
        ends = np.minimum(places + 1, centres + support) - np.maximum(places, centres - support)
        weights = np.maximum(ends, 0)
    weights[places >= pixels] = 0
    totals = np.cumsum(weights, 1)[:, -1:]  # in turn, as in C
    parts = np.rint(weights * ((1 << _BITS) / totals))
    # The remainder of rounding goes to the largest, so that a flat picture stays as it is.
    parts[np.arange(count), weights.argmax(1)] += (1 << _BITS) - parts.sum(1)
    return Table(first[:, 0].astype(np.int32), parts.astype(np.int16))


def _cubic(distances: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the bicubic filter at distances of 0 or more."""
    near = ((_SLOPE + 2) * distances - (_SLOPE + 3)) * distances * distances + 1
    far = _SLOPE * (((distances - 5) * distances + 8) * distances - 4)
    return np.where(distances < 1, near, np.where(distances < 2, far, 0.0))


def _weighed(pixels: Pixels, table: Table) -> Pixels:
    """Return sums of rows: uint8 [rows, columns, 3] to [n, columns, 3]."""
    sums = np.full((len(table.starts), *pixels.shape[1:]), 1 << (_BITS - 1), np.int32)
    for tap, weights in enumerate(table.weights.T.astype(np.int32)):
        sums += weights[:, None, None] * pixels[np.minimum(table.starts + tap, len(pixels) - 1)]
    made: Pixels = np.clip(sums >> _BITS, 0, 255).astype(np.uint8)
    return made
