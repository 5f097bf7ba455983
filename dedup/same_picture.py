"""Judge whether two images show the same picture, not merely a similar picture or the same logo.

Three steps, the cheapest first: correlation after a small affine alignment of the thumbnails that the search
found alike; then SIFT keypoints (Lowe, 2004) under one affine map found by RANSAC, at least 12 of them and
spread over the shared area; then correlation of the pixels under that map, which tells a copy from another
photograph of the same scene.
"""

from typing import Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Plane = npt.NDArray[np.float32]
Affine = npt.NDArray[np.float64]
"""[2, 3]: maps points of the query into the reference."""

MIN_INLIERS: Final = 12
"""Keypoints under a single affine map. 40,500 pairs of unrelated photographs reached 6 at most."""
GATE: Final = 0.4
"""Correlation of the aligned thumbnails below which keypoints are not looked for."""
MIN_CORRELATION: Final = 0.6
"""Correlation of the pixels under the map of the keypoints, where these are many."""
SURE_CORRELATION: Final = 0.93
"""Correlation asked for where keypoints are few or in one place. 99% of altered copies of photographs reach
it; those that do not, under text, have 80 keypoints or more. Drawings of one kind share 25 and reach 0.92."""
MANY_INLIERS: Final = 40
MIN_CHROMA: Final = 0.3
"""Cosine of the chroma under the map, if both are coloured; a hue turned by 18 degrees leaves 0.95."""
MIN_PLAIN: Final = 0.5
"""Share of plain ground from which an image is a drawing or a thing before a wall, as a photograph in 60 is.
There all that is to be seen must agree: logos, placeholders and products of one cut differ in a word or a
print, as a photograph does over which words were written."""
PLAIN_DIFFERENCE: Final = 0.8
"""Squared difference of one place, in variances. Copies of such images reach 0.65, another word 2."""
PLAIN_CHROMA: Final = 0.8
MIN_SPREAD: Final = 0.3
"""Share of the common area that the keypoints' bounding box covers; a shared logo covers less."""
MIN_COMMON: Final = 0.4
"""Share of one image that the map puts inside the other; a shared logo in different places shares little."""

_SIDE: Final = 256  # the shorter side for SIFT; smaller images are enlarged, or they would have no keypoints
_KEYPOINTS: Final = 400
_RATIO: Final = 0.8  # of the nearest to the second nearest descriptor (Lowe, 2004, section 7.1)
_TOLERANCE: Final = 4.0  # pixels, of the reprojection
_MOST_STRETCH: Final = 2.5  # of one axis against the other
_COMPARED: Final = 96  # side at which pixels are compared: finer detail does not survive recompression
_COLOURED: Final = 6.0  # root mean square of Cb and Cr; of JPEG's grey photographs it is 1 to 3
_PLACE: Final = 8  # pixels of a place that is looked at on its own
_PLAIN: Final = 2.5  # grey levels of deviation below which nothing is to be seen there
_BLUR: Final = 6.0  # pixels at that size: slower changes are lighting


class PictureFeatures(NamedTuple):
    """The features of an image that verification needs; fields only."""

    rgb: Pixels
    """[height, width, 3], the shorter side 256."""
    luma: Pixels
    """[height, width]"""
    points: Plane
    """[n, 2], x and y of the keypoints."""
    descriptors: Plane
    """[n, 128]."""


class Verification(NamedTuple):
    """The outcome for a pair; fields only."""

    verified: bool
    reason: str = ""
    """The failed check: gate, inliers, shape, common, spread, correlation, content or colour; or empty."""
    inliers: int = 0
    correlation: float = 0.0


def features(rgb: Pixels) -> PictureFeatures:
    """Return the keypoints of an image, uint8 RGB [height, width, 3]."""
    scale = _SIDE / min(rgb.shape[:2])
    if scale != 1:
        # No side may be stretched without limit: the longer side of a 1 x 1000 strip.
        size = tuple(min(4 * _SIDE, max(1, round(side * scale))) for side in rgb.shape[1::-1])
        rgb = np.asarray(
            cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        )
    rgb = np.ascontiguousarray(rgb)
    luma = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)
    found, descriptors = _sift().detectAndCompute(luma, None)
    points = np.array([keypoint.pt for keypoint in found], np.float32).reshape(-1, 2)
    if descriptors is None:
        descriptors = np.zeros((0, 128), np.float32)
    return PictureFeatures(rgb, luma, points, np.asarray(descriptors, np.float32))


def _sift() -> cv2.SIFT:
    return cv2.SIFT.create(nfeatures=_KEYPOINTS, contrastThreshold=0.02)


def aligned_correlation(query: Pixels, reference: Pixels) -> float:
    """Return the correlation, -1 to 1, of two RGB thumbnails [64, 64, 3] after a small affine alignment."""
    a, b = (_high_passed(_luma(one), 5.0) for one in (query, reference))
    warp = np.eye(2, 3, dtype=np.float32)
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-3)
    try:
        _, found = cv2.findTransformECC(b, a, warp, cv2.MOTION_AFFINE, stop, np.ones(b.shape, np.uint8), 3)
    except cv2.error:  # it did not converge: compared as they are
        return _correlation(a, b, np.ones(a.shape, bool))
    return _correlation_under(a, b, np.asarray(found, np.float64))


def verify(query: PictureFeatures, reference: PictureFeatures) -> Verification:
    """Judge a pair by keypoints and by the pixels under their common map."""
    pairs = _mutual_matches(query.descriptors, reference.descriptors)
    if len(pairs) < MIN_INLIERS:
        return Verification(False, "inliers", len(pairs))
    source, target = query.points[pairs[:, 0]], reference.points[pairs[:, 1]]
    found, mask = cv2.estimateAffine2D(source, target, method=cv2.RANSAC, ransacReprojThreshold=_TOLERANCE)
    if found is None:
        return Verification(False, "inliers")
    affine = np.asarray(found, np.float64)
    inside = mask.ravel().astype(bool)
    inliers = int(inside.sum())
    if inliers < MIN_INLIERS:
        return Verification(False, "inliers", inliers)
    if not _is_plausible(affine):
        return Verification(False, "shape", inliers)
    common, shared = _common_area(affine, query.luma, reference.luma)
    if shared < MIN_COMMON:
        return Verification(False, "common", inliers)
    box = target[inside].max(0) - target[inside].min(0)
    correlation, difference = _compared(query.luma, reference.luma, affine)
    # Of a thing before a plain ground the ground has no keypoints, but its pixels agree; around a logo not.
    if box[0] * box[1] < MIN_SPREAD * common and correlation < SURE_CORRELATION:
        return Verification(False, "spread", inliers, correlation)
    if correlation < (MIN_CORRELATION if inliers >= MANY_INLIERS else SURE_CORRELATION):
        return Verification(False, "correlation", inliers, correlation)
    plain = min(plain_share(query.luma), plain_share(reference.luma)) >= MIN_PLAIN
    if plain and difference > PLAIN_DIFFERENCE:
        return Verification(False, "content", inliers, correlation)
    chroma = _chroma_cosine(query.rgb, reference.rgb, affine)
    if chroma < (PLAIN_CHROMA if plain else MIN_CHROMA):
        return Verification(False, "colour", inliers, correlation)
    return Verification(True, "", inliers, correlation)


def _mutual_matches(a: Plane, b: Plane) -> npt.NDArray[np.int64]:
    """Return index pairs [m, 2] that are each other's nearest, and much nearer than the second."""
    if len(a) < 2 or len(b) < 2:
        return np.zeros((0, 2), np.int64)
    squared = (a * a).sum(1)[:, None] + (b * b).sum(1)[None, :] - 2 * (a @ b.T)
    nearest = squared.argmin(1)
    two = np.partition(squared, 1, axis=1)[:, :2]
    rows = np.arange(len(a))
    good = (two[:, 0] < _RATIO**2 * two[:, 1]) & (squared.argmin(0)[nearest] == rows)
    return np.stack([rows[good], nearest[good]], axis=1)


def _is_plausible(affine: Affine) -> bool:
    """Tell a scaled, turned, somewhat squeezed copy from a map that folds or flattens the picture."""
    large, small = np.linalg.svd(affine[:, :2], compute_uv=False)
    return bool(
        np.linalg.det(affine[:, :2]) > 0 and small > 0.1 and large < 10 and large < _MOST_STRETCH * small
    )


def _common_area(affine: Affine, query: Pixels, reference: Pixels) -> tuple[float, float]:
    """Return the area that both show, in the reference's pixels, and its share of the smaller image."""
    (height, width), (h, w) = query.shape, reference.shape
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    mapped = (corners @ affine[:, :2].T + affine[:, 2]).astype(np.float32)
    frame = np.array([[0, 0], [w, 0], [w, h], [0, h]], np.float32)
    common, _ = cv2.intersectConvexConvex(mapped, frame)
    smaller = min(float(cv2.contourArea(mapped)), float(w * h))
    return float(common), float(common) / smaller if smaller else 0.0


def plain_share(luma: Pixels) -> float:
    """Return the share of an image's places in which nothing is to be seen."""
    height, width = (side // _PLACE * _PLACE for side in luma.shape)
    places = (
        luma[:height, :width].astype(np.float32).reshape(height // _PLACE, _PLACE, width // _PLACE, _PLACE)
    )
    return float((places.std(axis=(1, 3)) < _PLAIN).mean())


def _compared(query: Pixels, reference: Pixels, affine: Affine) -> tuple[float, float]:
    """Compare both images, at 96 pixels, where the mapped query covers the reference.

    Return their correlation, and how much they differ in the place where they differ most: the mean squared
    difference there, as a share of the whole image's variance.
    """
    h, w = reference.shape
    down = np.diag([_COMPARED / w, _COMPARED / h])
    half = (np.diag(down) - 1) / 2  # pixel i covers i - 0.5 to i + 0.5
    small = np.asarray(
        cv2.resize(reference, (_COMPARED, _COMPARED), interpolation=cv2.INTER_AREA), np.float32
    )
    # The query is blurred to the grid first: a warp samples points, it does not average areas.
    scale = np.sqrt(abs(np.linalg.det(down @ affine[:, :2])))
    softened = cv2.GaussianBlur(query, (0, 0), max(0.3, 0.4 / max(scale, 0.05))).astype(np.float32)
    warp = down @ affine + np.array([[0, 0, half[0]], [0, 0, half[1]]])
    warped = np.asarray(
        cv2.warpAffine(
            softened, warp, (_COMPARED, _COMPARED), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        ),
        np.float32,
    )
    covered = (
        cv2.warpAffine(np.ones(query.shape, np.uint8), warp, (_COMPARED, _COMPARED), flags=cv2.INTER_NEAREST)
        > 0
    )
    covered = cv2.erode(covered.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    a, b = _high_passed(warped, _BLUR), _high_passed(small, _BLUR)
    scaled = [plane / max(float(np.sqrt((plane[covered] ** 2).mean())), 1e-3) for plane in (a, b)]
    n = _COMPARED // _PLACE
    squares, inside = (
        plane.reshape(n, _PLACE, n, _PLACE).mean(axis=(1, 3))
        for plane in ((scaled[0] - scaled[1]) ** 2, covered.astype(np.float32))
    )
    return _correlation(a, b, covered), float(np.where(inside > 0.75, squares, 0).max())


def _chroma_cosine(query: Pixels, reference: Pixels, affine: Affine) -> float:
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


def _luma(rgb: Pixels) -> Plane:
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.float32)


def _high_passed(plane: Plane, sigma: float) -> Plane:
    return np.asarray(plane - cv2.GaussianBlur(plane, (0, 0), sigma), np.float32)


def _correlation_under(a: Plane, b: Plane, warp: Affine) -> float:
    size, flags = (a.shape[1], a.shape[0]), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(a, warp, size, flags=flags)
    covered = (
        cv2.warpAffine(np.ones(a.shape, np.uint8), warp, size, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)
        > 0
    )
    return _correlation(np.asarray(warped, np.float32), b, covered)


def _correlation(a: Plane, b: Plane, where: npt.NDArray[np.bool_]) -> float:
    """Return Pearson's correlation over a mask; 0 if it is under a tenth of the area or one side is flat."""
    if where.sum() < 0.1 * where.size:
        return 0.0
    x, y = a[where] - a[where].mean(), b[where] - b[where].mean()
    norm = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / norm if norm > 1e-3 else 0.0
