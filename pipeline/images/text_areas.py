"""Find text in pictures and paint it over, by a detector in ONNX of the user's.

A network of Liao et al. 2020 (differentiable binarization, arXiv:1911.08947), as of PaddleOCR: it takes
[1, 3, H, W], sides in multiples of 32, and returns [1, 1, H, W], how probably each pixel is the core of text.
"""

from collections.abc import Callable
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.images.decode import Pixels

Detector = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]

_SIDE: Final = 480
"""The longer side of the picture that the detector sees; 736 finds a fiftieth more in 2.5 times the time."""
_CORE: Final = 0.3
_SURE: Final = 0.5
_GROWTH: Final = 1.6
"""The core of a line is its area shrunk by area * (1 - 0.4^2) / perimeter; growing by 1.6 takes it back."""
_AROUND: Final = 5
"""Pixels about a piece of text whose mean it is painted with."""


def mask_of(image: Pixels, detector: Detector) -> npt.NDArray[np.bool_]:
    """Return where text is, bool [height, width]."""
    height, width = image.shape[:2]
    scale = _SIDE / max(height, width)
    rows, columns = (max(32, round(side * scale / 32) * 32) for side in (height, width))
    resized = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_LINEAR)
    batch = (resized[:, :, ::-1].astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)[None]
    found = detector(batch)
    if found.shape != (1, 1, rows, columns):
        raise ValueError(
            f"the detector answers with an array {[*found.shape]}, not [1, 1, {rows}, {columns}]"
        )
    mask = np.zeros((rows, columns), np.uint8)
    count, pieces = cv2.connectedComponents((found[0, 0] > _CORE).astype(np.uint8))
    for piece in range(1, count):
        inside = pieces == piece
        if found[0, 0][inside].mean() < _SURE:
            continue
        (_, sides, _) = box = cv2.minAreaRect(np.argwhere(inside)[:, ::-1].astype(np.float32))
        a, b = (side + 1 for side in sides)
        grown = a * b * _GROWTH / (2 * (a + b))
        corners = cv2.boxPoints((box[0], (a + 2 * grown, b + 2 * grown), box[2]))
        cv2.fillPoly(mask, [np.round(corners).astype(np.int32)], 1)
    return cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST).astype(bool)


def painted_over(image: Pixels, mask: npt.NDArray[np.bool_]) -> Pixels:
    """Return the picture with each piece of the mask in the mean colour about it; itself where there is none.

    As Maini et al. 2024 (T-MARS, arXiv:2307.03132) do.
    """
    if not mask.any():
        return image
    result = image.copy()
    count, pieces = cv2.connectedComponents(mask.astype(np.uint8))
    kernel = np.ones((2 * _AROUND + 1, 2 * _AROUND + 1), np.uint8)
    for piece in range(1, count):
        inside = pieces == piece
        around = cv2.dilate(inside.astype(np.uint8), kernel).astype(bool) & ~mask
        if around.any():
            result[inside] = image[around].mean(axis=0).round().astype(np.uint8)
        else:
            result[inside] = 128
    return result
