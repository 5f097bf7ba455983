"""Decoding a square of a JPEG by libjpeg-turbo; `jpeg_square.py` does without where it is not built."""

import numpy as np
import numpy.typing as npt

def open(path: str, /) -> bool:
    """Return whether a shared library has all functions that are needed, and use it from now on."""

def decode(data: bytes, left: int, top: int, side: int, out: npt.NDArray[np.uint8], /) -> bool:
    """Fill `out`, uint8 [side, side, 3], with a square of a JPEG; return whether that could be done.

    False for a JPEG with any fault, whether in the square or not. ValueError without a library, or for an
    `out` of another size.
    """
