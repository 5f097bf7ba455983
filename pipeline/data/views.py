"""Show the reference side from many sides: crops and rotations of each evaluation image.

A training image is described once, as it is. It may be a part of an evaluation image, a turned copy of it, or
a picture that it is a part of; these are found by describing views of the evaluation images, which are few.
Mirroring needs no views of its own: the query is mirrored instead, by a change of signs. Nor do borders: they
are cut off both sides.
"""

from typing import Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.data.descriptors import SIDE
from pipeline.images.resample import shrink

Pixels = npt.NDArray[np.uint8]


class View(NamedTuple):
    """A part of an image, in shares of its sides; fields only."""

    name: str
    left: float = 0.0
    top: float = 0.0
    right: float = 1.0
    bottom: float = 1.0
    outside: float = 0.0
    """Share of each side that lies outside the image, which is continued there by its outermost pixels."""
    x: float = 0.5
    """The share of the area outside that is on the left, 0 to 1."""
    y: float = 0.5
    degrees: float = 0.0
    """Counter-clockwise; areas that the turned image does not cover are black."""


def _crop(width: float, height: float, x: float, y: float, name: str = "crop") -> View:
    """Return a crop of a given size whose slack is divided as x : 1 - x and y : 1 - y."""
    left, top = (1 - width) * x, (1 - height) * y
    label = f"{name} {width:.0%} x {height:.0%} at {x:.0%}, {y:.0%}"
    return View(label, left, top, left + width, top + height)


def _turned(degrees: float, *sizes: float) -> list[View]:
    """Return the given shares of the sides of the turned image, around its centre."""
    name = f"turned {degrees:+.0f} degrees"
    return [_crop(size, size, 0.5, 0.5, f"{name},")._replace(degrees=degrees) for size in sizes]


PARTS: Final[tuple[View, ...]] = (
    # A hash finds a crop that differs by 5% of a side. So 71% of the sides, half of the area, and such steps
    # that no place is further than that from one of them.
    *(_crop(0.71, 0.71, x / 4, y / 4) for y in range(5) for x in range(5)),
    # The squares inside 3:2 and 16:9, at any place along the width; of upright pictures they cut less.
    *(_crop(0.62, 1, x / 5, 0.5) for x in range(6)),
    *(_crop(0.53, 1, x / 8, 0.5) for x in range(9)),
    # Wide pictures out of upright or square ones.
    *(_crop(1, 0.6, 0.5, y / 3) for y in range(4)),
)
"""Crops that keep half of an image or little more."""

VIEWS: Final[tuple[View, ...]] = (
    View("whole"),
    # A hash finds a crop that differs by 5% of a side. So two sizes, 87% and 78%, that leave 75% and 60% of
    # the area, and such steps that no place is further than that from one of them.
    *(_crop(0.87, 0.87, x, y) for y in (0, 1 / 2, 1) for x in (0, 1 / 2, 1)),
    *(_crop(0.78, 0.78, x, y) for y in (0, 1 / 3, 2 / 3, 1) for x in (0, 1 / 3, 2 / 3, 1)),
    *PARTS,
    # An evaluation image that is itself a crop of a training image.
    *(
        View(f"crop of {1 - outside:.0%} x {1 - outside:.0%} at {x:.0%}, {y:.0%}", outside=outside, x=x, y=y)
        for outside in (0.13, 0.2)
        for y in (0, 1 / 2, 1)
        for x in (0, 1 / 2, 1)
    ),
    # With the black corners, and without them: pictures that were turned are often cropped as well.
    *(View(f"turned {degrees:+.0f} degrees", degrees=degrees) for degrees in (6, -6)),
    *(view for degrees in (8, -8) for view in _turned(degrees, 0.82, 0.7)),
)
"""The views of an evaluation image. The first is the image itself."""

FEW: Final[tuple[View, ...]] = (VIEWS[0], PARTS[0], PARTS[12])
"""The whole, and 71% of the sides at one corner and in the centre, for a detector that needs few."""

COMPARED_SIDE: Final = 256
"""Pixels that the shorter side of a compared image has at most."""
_FLAT: Final = 6.0
"""Standard deviation of luma below which a row or column belongs to a border: JPEG leaves 1 to 3."""
_LEAST_BORDER: Final = 0.03
_MOST_BORDER: Final = 0.35


def thumbnail(rgb: Pixels, view: View = VIEWS[0], side: int = SIDE) -> Pixels:
    """Squeeze a view of an image into a thumbnail: uint8 [height, width, 3] to [side, side, 3]."""
    height, width = rgb.shape[:2]
    if view.degrees:
        turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), view.degrees, 1)
        rgb = np.asarray(cv2.warpAffine(rgb, turn, (width, height), flags=cv2.INTER_LINEAR), np.uint8)
    if view.outside:
        rgb = _continued(rgb, view)
        height, width = rgb.shape[:2]
    left, right = round(view.left * width), max(round(view.right * width), round(view.left * width) + 1)
    top, bottom = round(view.top * height), max(round(view.bottom * height), round(view.top * height) + 1)
    return squeeze(rgb[top:bottom, left:right], side)


def _continued(rgb: Pixels, view: View) -> Pixels:
    """Return the image with its outermost pixels repeated around it."""
    height, width = rgb.shape[:2]
    more_y, more_x = (round(side * view.outside / (1 - view.outside)) for side in (height, width))
    top, left = round(more_y * view.y), round(more_x * view.x)
    return np.asarray(
        cv2.copyMakeBorder(rgb, top, more_y - top, left, more_x - left, cv2.BORDER_REPLICATE), np.uint8
    )


def squeeze(rgb: Pixels, side: int) -> Pixels:
    """Resize to a square: sides that shrink are averaged over areas, those that grow interpolated."""
    height, width = rgb.shape[:2]
    if height > side or width > side:
        size = (min(width, side), min(height, side))
        rgb = shrink(rgb, (width, height), *size, "area")
    if rgb.shape[:2] != (side, side):
        rgb = np.asarray(cv2.resize(rgb, (side, side), interpolation=cv2.INTER_LINEAR), np.uint8)
    return rgb


def thumbnails(rgb: Pixels, views: tuple[View, ...] = VIEWS, side: int = SIDE) -> Pixels:
    """Return the thumbnails of all views: uint8 [views, side, side, 3]."""
    return np.stack([thumbnail(rgb, view, side) for view in views])


def bounded(rgb: Pixels) -> Pixels:
    """Return the image with a shorter side of `COMPARED_SIDE` pixels at most."""
    scale = COMPARED_SIDE / min(rgb.shape[:2])
    if scale >= 1:
        return rgb
    return np.asarray(cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)


def without_border(rgb: Pixels) -> Pixels | None:
    """Return the picture inside a border of one colour, or None if there is no border around it.

    A border is at least 3% of a side wide, on two opposite sides or more. It may take up to 35% on each, so
    that a small thing on a white ground is not blown up.
    """
    ends = (rgb[:1], rgb[-1:]), (rgb[:, :1], rgb[:, -1:])
    if not any(_may_be_flat(first) and _may_be_flat(last) for first, last in ends):
        return None  # as most pictures
    luma = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY).astype(np.float32)
    top, bottom = _flat_ends(luma)
    left, right = _flat_ends(luma.T)
    height, width = luma.shape
    if not (min(top, bottom) >= _LEAST_BORDER * height or min(left, right) >= _LEAST_BORDER * width):
        return None
    if max(top, bottom) > _MOST_BORDER * height or max(left, right) > _MOST_BORDER * width:
        return None
    return rgb[top : height - bottom, left : width - right]


def inner(rgb: Pixels) -> Pixels:
    """Return the picture without its border, or the picture itself: both sides are compared in this form."""
    inside = without_border(rgb)
    return rgb if inside is None else inside


def _may_be_flat(line: Pixels) -> bool:
    """Return False for a row or column that `_flat_ends` will not find flat, at a tenth of the cost."""
    _, deviation = cv2.meanStdDev(cv2.cvtColor(line, cv2.COLOR_RGB2GRAY))
    return bool(deviation[0, 0] < _FLAT + 0.01)  # which is more than float32 may be off


def _flat_ends(luma: npt.NDArray[np.float32]) -> tuple[int, int]:
    """Return how many rows at either end are flat and of the same shade as the outermost."""
    ends = []
    for rows in (luma, luma[::-1]):
        if rows[0].std() >= _FLAT:  # as of most pictures: the rest need not be looked at
            ends.append(0)
            continue
        same = (rows.std(axis=1) < _FLAT) & (np.abs(rows.mean(axis=1) - rows[0].mean()) < _FLAT)
        ends.append(len(rows) if same.all() else int(np.argmin(same)))
    return ends[0], ends[1]
