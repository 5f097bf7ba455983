"""PDQ, the perceptual hash that safety organisations exchange, bit for bit as Meta's own code.

Meta, "The TMK+PDQF video-hashing algorithm and the PDQ image-hashing algorithm" (2019): blur by two box
filters in each direction, take 64 x 64 samples, and compare the 16 x 16 low frequencies of their DCT with the
median.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

SIDE: Final = 64
LEAST_QUALITY: Final = 50
"""Below it a picture has too little detail for the hash to mean anything (Meta's advice)."""
_LEAST_SIDE: Final = 5
_BITS: Final = 16

Float = npt.NDArray[np.float32]


def _dct_rows() -> Float:
    """Return float32 [16, 64]: the DCT's rows 1 to 16, rounded as Meta's table is."""
    row, column = np.arange(_BITS)[:, None], np.arange(SIDE)[None]
    scale = float(np.float32(np.sqrt(2.0 / SIDE)))
    return np.asarray(scale * np.cos((np.pi / 2.0 / SIDE) * (row + 1) * (2 * column + 1)), np.float32)


_DCT: Final = _dct_rows()


class Pdq(NamedTuple):
    """A hash and how much detail it is of; fields only."""

    digits: str
    """64 hexadecimal digits."""
    quality: int
    """0 to 100."""


def pdq(rgb: npt.NDArray[np.uint8]) -> Pdq:
    """Return the PDQ hash of uint8 [height, width, 3]; of a side under 5 pixels, zeros of quality 0."""
    height, width = rgb.shape[:2]
    if min(height, width) < _LEAST_SIDE:
        return Pdq("0" * SIDE, 0)
    luma = (rgb[..., 0] * 0.299 + rgb[..., 1] * 0.587 + rgb[..., 2] * 0.114).astype(np.float32)
    if luma.shape != (SIDE, SIDE):
        for _ in range(2):
            luma = _box(np.ascontiguousarray(luma.T), _window(width)).T
            luma = _box(np.ascontiguousarray(luma), _window(height))
        luma = luma[np.ix_(_centres(height), _centres(width))]
    low = _product(_product(_DCT, luma), _DCT.T)
    above = low.ravel() > np.partition(low.ravel(), 127)[127]
    return Pdq(np.packbits(above[::-1]).tobytes().hex(), _quality(luma))


def _window(side: int) -> int:
    return (side + 2 * SIDE - 1) // (2 * SIDE)


def _centres(side: int) -> npt.NDArray[np.int64]:
    return ((np.arange(SIDE) + 0.5) * side / SIDE).astype(np.int64)


def _box(values: Float, window: int) -> Float:
    """Return the means over `window` rows around each row of float32 [rows, columns], fewer at both ends.

    One running sum in float32, an addition before a subtraction, so that its rounding is Meta's as well.
    """
    rows, columns = values.shape
    ahead = (window + 2) // 2 - 1
    total, means = np.zeros(columns, np.float32), np.empty((rows, columns), np.float32)
    for row in range(rows + ahead):
        if row < rows:
            total += values[row]
        if row >= window:
            total -= values[row - window]
        if row >= ahead:
            means[row - ahead] = total
    last = np.minimum(np.arange(rows) + ahead, rows - 1)
    first = np.maximum(np.arange(rows) + ahead - window + 1, 0)
    means /= (last - first + 1).astype(np.float32)[:, None]
    return means


def _product(left: Float, right: Float) -> Float:
    """Return the matrix product with its sums in order, as a library's would not add them."""
    total = np.zeros((left.shape[0], right.shape[1]), np.float32)
    for k in range(left.shape[1]):
        total += left[:, k, None] * right[k]
    return total


def _quality(luma: Float) -> int:
    """Return the sum of the steps between neighbours of float32 [64, 64], in hundredths of 255, over 90."""
    steps = [np.trunc(np.diff(luma, axis=axis) * np.float32(100) / np.float32(255)) for axis in (0, 1)]
    return min(100, int(sum(np.abs(step).sum() for step in steps)) // 90)
