"""Describe an image by the signs of its low frequencies: a 256-bit hash of a 64 x 64 luma thumbnail.

It is the usual DCT hash, at 16 x 16 frequencies. Re-encoding, resizing, squeezing and colour changes leave
most bits alone; crops, rotations beyond a few degrees and mirroring do not, which is what views of the
reference side are for. Only numpy is needed.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

SIDE: Final = 64
"""Side of the thumbnail in pixels."""
FREQUENCIES: Final = 16
"""Frequencies 0..15 of each axis make the 256 bits."""

Luma = npt.NDArray[np.uint8] | npt.NDArray[np.float32]
Coefficients = npt.NDArray[np.float64]


def _basis() -> Coefficients:
    """Return the first 16 rows of the orthonormal DCT-II of length 64: float64 [16, 64]."""
    k = np.arange(FREQUENCIES)[:, None]
    n = np.arange(SIDE)[None, :]
    rows: Coefficients = np.sqrt(2 / SIDE) * np.cos(np.pi * (2 * n + 1) * k / (2 * SIDE))
    rows[0] /= np.sqrt(2)
    return rows


_BASIS: Final = _basis()
# The exact zeros of flat and of symmetric pictures leave a matrix product as +-1e-13, with signs that depend
# on the BLAS and on the batch. Rounded they are zeros again; a grey level is 1.0, so nothing visible is lost.
_DECIMALS: Final = 3


def low_frequencies(luma: Luma) -> Coefficients:
    """Return the low-frequency block of the orthonormal two-dimensional DCT-II.

    `luma` is [..., 64, 64]; the result is float64 [..., 16, 16], vertical frequency first, rounded to 0.001.
    """
    if luma.shape[-2:] != (SIDE, SIDE):
        raise ValueError(f"expected [..., {SIDE}, {SIDE}] luma, got {list(luma.shape)}")
    horizontal = luma.astype(np.float64) @ _BASIS.T
    return np.round(_BASIS @ horizontal, _DECIMALS)


def mirrored(coefficients: Coefficients) -> Coefficients:
    """Return the coefficients of the left-right mirrored image: odd horizontal frequencies change sign."""
    return coefficients * np.where(np.arange(FREQUENCIES) % 2, -1.0, 1.0)


def signs(coefficients: Coefficients) -> npt.NDArray[np.uint8]:
    """Return which coefficients exceed the median as packed bits: [..., 16, 16] to uint8 [..., 32].

    The median is that of the 255 terms without the mean; the mean's own bit, the first, is always 0. Bits
    are in row order, most significant first.
    """
    flat = coefficients.reshape(*coefficients.shape[:-2], FREQUENCIES * FREQUENCIES)
    bits = flat > np.median(flat[..., 1:], axis=-1, keepdims=True)
    bits[..., 0] = False
    return np.packbits(bits, axis=-1)


def sign_hashes(luma: Luma) -> npt.NDArray[np.uint8]:
    """Return the hashes of a batch: [n, 64, 64] to uint8 [n, 32]. A batch takes about 50 KB an image."""
    return signs(low_frequencies(luma))


def sign_hash(luma: Luma) -> bytes:
    """Return the 32-byte hash of one [64, 64] luma thumbnail (ITU-R BT.601 luma, 0..255)."""
    return signs(low_frequencies(luma)).tobytes()


def hamming(a: bytes, b: bytes) -> int:
    """Return the number of different bits of two hashes of equal length."""
    if len(a) != len(b):
        raise ValueError(f"hashes of {len(a)} and {len(b)} bytes cannot be compared")
    return (int.from_bytes(a, "big") ^ int.from_bytes(b, "big")).bit_count()


def quality(luma: Luma) -> int:
    """Return 0 (flat) to 100 (detailed): how much a hash of this [64, 64] luma can be trusted.

    The measure of PDQ ("The TMK+PDQF Video-Hashing Algorithm and the PDQ Image-Hashing Algorithm", 2019): the
    differences of neighbours in whole percent of the range, summed over both axes, divided by 90. PDQ's users
    ignore matches under 50.
    """
    values = luma.astype(np.float64)
    steps = sum(int(np.trunc(np.abs(np.diff(values, axis=axis)) * 100 / 255).sum()) for axis in (0, 1))
    return min(100, steps // 90)
