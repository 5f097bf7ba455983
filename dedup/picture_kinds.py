"""Name pictures that look like many others because of their kind: blank, tiny, text pages, logos.

Such pictures are near each other without being copies. The overlap report counts them by these names, so that
a reader sees that they were looked at, and why none of them is an overlap.
"""

from typing import Final, Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt

from dedup.same_picture import MIN_PLAIN, plain_share
from pipeline.data import views
from pipeline.data.descriptors import SIDE, quality

Pixels = npt.NDArray[np.uint8]

Kind = Literal["tiny", "blank", "gradient", "text page", "plain ground", ""]
NAMED: Final = tuple(kind for kind in get_args(Kind) if kind)

_TINY: Final = 32  # of the shorter side: MNIST's pictures have 28, CIFAR's 32
_DETAIL: Final = 25  # as `openwit overlap --min-quality` has it by default
_BLANK: Final = 4.0  # grey levels and chroma of deviation, which JPEG leaves in one colour
_GREY: Final = 6.0  # chroma of text on paper
_INK: Final = (0.02, 0.4)  # share of a text page that is written on
_LINES: Final = 5
_GROUND: Final = 0.25  # share of a plain ground that is of one level in 32


def kind_of(rgb: Pixels) -> Kind:
    """Return the kind of a picture, uint8 RGB [height, width, 3]; empty for a photograph or a drawing.

    tiny: a side of 32 pixels or fewer. blank: one colour. gradient: without detail, or smooth and of no one
    level. text page: lines of writing. plain ground: a logo, a placeholder, or a thing before a wall.
    """
    if min(rgb.shape[:2]) <= _TINY:
        return "tiny"
    thumbnail = views.squeeze(rgb, SIDE)
    ycc = np.asarray(cv2.cvtColor(thumbnail, cv2.COLOR_RGB2YCrCb), np.float32)
    if max(float(ycc[..., channel].std()) for channel in range(3)) < _BLANK:
        return "blank"
    if quality(np.asarray(ycc[..., 0], np.uint8)) < _DETAIL:
        return "gradient"
    luma = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)
    if float(np.abs(ycc[..., 1:] - 128).mean()) < _GREY and _is_written(luma):
        return "text page"
    if plain_share(luma) < MIN_PLAIN:
        return ""
    levels = np.bincount(luma.ravel() >> 3, minlength=32)
    return "plain ground" if levels.max() >= _GROUND * luma.size else "gradient"


def _is_written(luma: Pixels) -> bool:
    """Return whether dark lines of writing, or light ones, lie between empty ones."""
    _, light = cv2.threshold(luma, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    ink = light if light.mean() < 0.5 else 1 - light
    rows = ink.mean(axis=1)
    written = rows > 0.02
    lines = int((written[1:] & ~written[:-1]).sum())
    return bool(_INK[0] <= ink.mean() <= _INK[1] and lines >= _LINES and (rows < 0.005).mean() >= 0.1)
