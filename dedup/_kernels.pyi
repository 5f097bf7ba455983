"""The exact search in C; `search.py` does without where it is not built."""

import numpy as np
import numpy.typing as npt

LEVEL: int
"""2 where the processor has AVX-512 with BITALG, 1 with AVX2."""

def scan(
    hashes: npt.NDArray[np.uint8],
    mirrored: npt.NDArray[np.uint8] | None,
    references: npt.NDArray[np.uint8],
    radius: int,
    weights: npt.NDArray[np.int16] | None,
    colours: npt.NDArray[np.int8] | None,
    least: npt.NDArray[np.int32] | None,
    level: int = ...,
    /,
) -> bytes:
    """Return the pairs within the radius, 0 to 254, whose sum of products is at least what it has to be.

    hashes and mirrored: uint8 [q, 32]; references: uint8 [n, 32]; weights: int16 [2, q, 256], colours: int8
    [n, 256] and least: int32 [257], by distance, or None for all pairs. A pair has 16 bytes: reference
    (int64), query (int32), distance and whether mirrored (int16 each). ValueError for other sizes.
    """
