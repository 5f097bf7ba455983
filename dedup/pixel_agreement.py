"""Compare the pixels of two images under an affine map that their keypoints gave, and refine that map.

The images are compared as a whole and place by place. Copies agree in nearly all places, or, where a part is
written over, in most of them exactly; two photographs of one thing agree roughly, and nowhere exactly.
"""

from typing import Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Plane = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Affine = npt.NDArray[np.float64]
"""[2, 3]: maps points of the query into the reference."""

PLACE: Final = 8
"""Pixels of a side of a place that is looked at on its own."""
_COMPARED: Final = 96  # side at which pixels are compared: finer detail does not survive recompression
_BLUR: Final = 6.0  # pixels at that size: slower changes are lighting
_SOFT: Final = 0.8  # likewise: finer detail is lost in copies of 64 pixels
_TO_SEE: Final = 0.15  # share of the image's variance from which there is something to compare in a place
_BLOWN_OUT: Final = 250.0  # grey levels of the brightest channel
_BRIGHT: Final = 170.0  # likewise: 1.4 times as bright it is blown out
_COLOURED: Final = 6.0  # root mean square of Cb and Cr; of JPEG's grey photographs it is 1 to 3


class Agreement(NamedTuple):
    """How two images agree where the mapped query covers the reference; fields only."""

    correlation: float
    """Of the whole."""
    median: float
    """Of the correlations of the places in which there is something to see."""
    quarter: float
    """Their lower quartile."""
    difference: float
    """Squared difference in the place where it is largest, as a share of the whole image's variance."""


class Overlay(NamedTuple):
    """A query that was mapped into a reference, at 96 pixels; fields only."""

    warped: Plane
    """The query."""
    small: Plane
    """The reference."""
    covered: Mask
    """Where the one covers the other."""
    grid: Affine
    """[3, 3]: maps points of the reference to these pixels."""


def overlaid(query: Pixels, reference: Pixels, affine: Affine) -> Overlay:
    """Lay two planes of luma, uint8 [height, width], over each other."""
    h, w = reference.shape
    grid = np.diag([_COMPARED / w, _COMPARED / h, 1])
    grid[:2, 2] = (np.diag(grid)[:2] - 1) / 2  # pixel i covers i - 0.5 to i + 0.5
    size = (_COMPARED, _COMPARED)
    small = np.asarray(cv2.resize(reference, size, interpolation=cv2.INTER_AREA), np.float32)
    warp = (grid @ _square(affine))[:2]
    warped = _warped(query, warp)
    covered = cv2.warpAffine(np.ones(query.shape, np.uint8), warp, size, flags=cv2.INTER_NEAREST)
    covered = cv2.erode(covered, np.ones((3, 3), np.uint8))
    return Overlay(warped, small, np.asarray(covered > 0), grid)


def _warped(query: Pixels, warp: Affine) -> Plane:
    """Return the query on the grid, blurred to it first: a warp samples points, it does not average areas."""
    scale = np.sqrt(abs(np.linalg.det(warp[:, :2])))
    softened = cv2.GaussianBlur(query, (0, 0), max(0.3, 0.4 / max(scale, 0.05))).astype(np.float32)
    size, border = (_COMPARED, _COMPARED), cv2.BORDER_REPLICATE
    return np.asarray(
        cv2.warpAffine(softened, warp, size, flags=cv2.INTER_LINEAR, borderMode=border), np.float32
    )


def agreement(over: Overlay) -> Agreement:
    """Compare the pixels of an overlay."""
    warped, small, covered, _ = over
    if not covered.any():
        return Agreement(0.0, 0.0, 0.0, 0.0)
    n = _COMPARED // PLACE
    inside = covered.astype(np.float32).reshape(n, PLACE, n, PLACE).mean(axis=(1, 3)) > 0.75
    sharp = [high_passed(plane, _BLUR) for plane in (warped, small)]
    soft = [
        high_passed(np.asarray(cv2.GaussianBlur(plane, (0, 0), _SOFT), np.float32), _BLUR)
        for plane in (warped, small)
    ]
    difference = np.where(inside, _by_place(sharp, covered)[1], 0).max()
    correlations, _, energy = _by_place(soft, covered)
    places = correlations[inside & (energy > _TO_SEE)]
    if not len(places):
        places = np.zeros(1, np.float32)
    quarter, median = np.quantile(places, (0.25, 0.5))
    return Agreement(correlation(soft[0], soft[1], covered), float(median), float(quarter), float(difference))


def recoloured(query: Pixels, reference: Pixels, over: Overlay, affine: Affine) -> Agreement:
    """Compare RGB images as `agreement` does their overlay, whatever was done to the colours of one of them.

    Other hues, saturations and exposures change the luma of some colours more than that of others. So the
    luma of either image is fitted, by least squares, by a sum of the other's red, green and blue; the better
    fit counts. Where one is blown out and the other bright as well, there is nothing to compare.
    """
    size = (_COMPARED, _COMPARED)
    colours = (
        _warped(query, (over.grid @ _square(affine))[:2]),
        np.asarray(cv2.resize(reference, size, interpolation=cv2.INTER_AREA), np.float32),
    )
    most = np.stack([rgb.max(axis=2) for rgb in colours])
    covered = over.covered & ~((most.max(axis=0) > _BLOWN_OUT) & (most.min(axis=0) > _BRIGHT))
    if covered.sum() < 0.1 * covered.size:
        return agreement(over)
    targets, found = (over.small, over.warped), []
    for n, rgb in enumerate(colours):
        channels = high_passed(rgb, _BLUR)[covered]
        weights = np.linalg.lstsq(channels, high_passed(targets[n], _BLUR)[covered], rcond=None)[0]
        pair = [targets[n], targets[n]]
        pair[n] = np.asarray(rgb @ weights, np.float32)
        found.append(agreement(Overlay(pair[0], pair[1], covered, over.grid)))
    return max(found, key=lambda one: one.correlation)


def beside(over: Overlay) -> float:
    """Return the share of what is to be seen in the reference that the query does not cover."""
    energy = high_passed(over.small, _BLUR) ** 2
    near = cv2.dilate(over.covered.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    return float(energy[~near].sum() / max(float(energy.sum()), 1e-6))


def refined(over: Overlay, affine: Affine) -> Affine | None:
    """Return the map that aligns the pixels, near that of the overlay, or None if there is none.

    Keypoints in one corner know little of the others.
    """
    a, b = (high_passed(plane, _BLUR) for plane in (over.warped, over.small))
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 50, 1e-4)
    start, mask = np.eye(2, 3, dtype=np.float32), over.covered.astype(np.uint8)
    try:
        _, found = cv2.findTransformECC(b, a, start, cv2.MOTION_AFFINE, stop, mask, 3)
    except cv2.error:  # it did not converge
        return None
    if abs(np.linalg.det(found[:, :2])) < 0.1:
        return None
    step = np.linalg.inv(over.grid) @ np.linalg.inv(_square(np.asarray(found, np.float64))) @ over.grid
    closer: Affine = (step @ _square(affine))[:2]
    return closer


def _square(affine: Affine) -> Affine:
    return np.vstack([affine, [0, 0, 1]])


def _by_place(planes: list[Plane], covered: Mask) -> tuple[Plane, Plane, Plane]:
    """Return the correlation, mean squared difference and larger energy of each place, in variances."""
    n = _COMPARED // PLACE
    a, b = (plane / max(float(np.sqrt((plane[covered] ** 2).mean())), 1e-3) for plane in planes)
    square_a, square_b, product, difference = (
        plane.reshape(n, PLACE, n, PLACE).mean(axis=(1, 3)) for plane in (a * a, b * b, a * b, (a - b) ** 2)
    )
    correlation = product / np.sqrt(np.maximum(square_a * square_b, 1e-9))
    return correlation, difference, np.maximum(square_a, square_b)


def chroma_cosine(query: Pixels, reference: Pixels, affine: Affine) -> float:
    """Return the cosine of Cb and Cr where the images lie over each other; 1 if one of them is grey."""
    h, w = reference.shape[:2]
    down = np.diag([_COMPARED / w, _COMPARED / h])
    size, planes = (_COMPARED, _COMPARED), []
    softened = cv2.GaussianBlur(query, (0, 0), 2)
    warped = cv2.warpAffine(softened, down @ affine, size, flags=cv2.INTER_LINEAR)
    ones = np.ones(query.shape[:2], np.uint8)
    covered = cv2.warpAffine(ones, down @ affine, size, flags=cv2.INTER_NEAREST) > 0
    for rgb in (warped, cv2.resize(reference, size, interpolation=cv2.INTER_AREA)):
        planes.append(np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb), np.float32)[covered, 1:] - 128)
    strength = [float(np.sqrt((plane**2).mean())) for plane in planes]
    if min(strength) < _COLOURED:
        return 1.0
    return float((planes[0] * planes[1]).mean()) / (strength[0] * strength[1])


def high_passed(plane: Plane, sigma: float) -> Plane:
    return np.asarray(plane - cv2.GaussianBlur(plane, (0, 0), sigma), np.float32)


def correlation(a: Plane, b: Plane, where: Mask) -> float:
    """Return Pearson's correlation over a mask; 0 if it is under a tenth of the area or one side is flat."""
    if where.sum() < 0.1 * where.size:
        return 0.0
    x, y = a[where] - a[where].mean(), b[where] - b[where].mean()
    norm = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / norm if norm > 1e-3 else 0.0
