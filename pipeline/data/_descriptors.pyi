"""Describing thumbnails in C; `descriptors.py` does the same in numpy where it is not built."""

import numpy as np
import numpy.typing as npt

def describe(
    thumbnails: npt.NDArray[np.uint8],
    basis: npt.NDArray[np.float64],
    places: npt.NDArray[np.uint8],
    with_colours: bool,
    with_avx2: bool = ...,
    /,
) -> bytearray:
    """Return the packed descriptors of squeezed RGB thumbnails, uint8 [n, 64, 64, 3]: 577 bytes each.

    basis: the DCT's first 16 rows, float64 [16, 64]. places: 16 v + h of the frequencies by distance from the
    mean, uint8 [256]. Without `with_colours` mirrored hash and colours are zeros; without `with_avx2` plain C
    does it, with the same bytes. ValueError for other shapes.
    """
