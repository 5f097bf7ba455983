"""Making pictures smaller in C; `resample.py` does the same in numpy where it is not built."""

import numpy as np
import numpy.typing as npt

def shrink(
    pixels: npt.NDArray[np.uint8],
    columns: float,
    rows: float,
    width: int,
    height: int,
    area: bool,
    with_avx2: bool = ...,
    /,
) -> bytearray:
    """Return the first columns and rows of a picture, uint8 [h, w, 3], as one of [height, width, 3].

    By areas, or by the bicubic filter. Without `with_avx2` plain C does it, with the same bytes. ValueError
    for another shape, an extent beyond the picture, or a larger result.
    """
