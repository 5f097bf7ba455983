"""Judge whether two images show the same picture, not merely a similar picture or the same logo.

Three steps, the cheapest first: correlation after a small affine alignment of the thumbnails that the search
found alike; then SIFT keypoints (Lowe, 2004) under one affine map found by RANSAC, at least 12 of them and
spread over the shared area; then correlation of the pixels under that map, once it is refined, as a whole and
place by place. That tells a copy from another photograph of the same scene or person: people who sit for two
photographs before two walls share 100 keypoints of face and shirt.
"""

from typing import Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from dedup.pixel_agreement import (
    PLACE,
    Affine,
    Agreement,
    Overlay,
    Pixels,
    Plane,
    agreement,
    beside,
    chroma_cosine,
    correlation,
    high_passed,
    overlaid,
    recoloured,
    refined,
)

MIN_INLIERS: Final = 12
"""Keypoints under a single affine map. 40,500 pairs of unrelated photographs reached 6 at most."""
GATE: Final = 0.4
"""Correlation of the aligned thumbnails below which keypoints are not looked for."""
MIN_CORRELATION: Final = 0.96
"""Correlation of the pixels under the refined map. Of copies after other alterations than text 49 in 50 have
it; of 506 pairs of two photographs of one person, which share 12 to 115 keypoints, none has both this and the
next."""
MIN_TIGHT: Final = 0.94
"""The same, after other hues and exposures are undone, where the keypoints are closer to the map, `TIGHT`. Of
the 2,859 pairs of two photographs of one person that share 12 keypoints none that are so close have 0.76."""
MIN_QUARTER: Final = 0.93
"""Correlation that three of four places reach, each by itself."""
COVERED: Final = ((150, 0.93), (100, 0.97), (60, 0.993))
"""Keypoints from which a part may be covered, as by text, and the correlation that half of the places reach
then. Of 100 copies under text 98 are verified by it; of the 506 pairs none, which have 115 keypoints at most,
the nearest (85, 0.982) and (59, 0.987)."""
MOST_OFF: Final = 1.0
"""Median distance of the keypoints from where the map has them, in pixels of 256; where the image's own are
larger, by half as much more. Of copies it is 0.2, and 1.1 at most; of two photographs of one person 0.75 to
1.9, for a face that turns does not follow a single map."""
TIGHT: Final = 0.7
"""The same where a part is covered, or the colours are others. Of copies under text it is 0.62 at most."""
MIN_CHROMA: Final = 0.3
"""Cosine of the chroma under the map, if both are coloured; a hue turned by 18 degrees leaves 0.95."""
MIN_PLAIN: Final = 0.5
"""Share of plain ground from which an image is a drawing or a thing before a wall, as a photograph in 60 is.
There all that is to be seen must agree: logos, placeholders and products of one cut differ in a word or a
print, as a photograph does over which words were written."""
PLAIN_DIFFERENCE: Final = 0.8
"""Squared difference of one place, in variances. Copies of such images reach 0.65, another word 2."""
TWO_SHADES: Final = 0.995
"""Share of the variance of luma, but at edges, that two shades explain, from which a picture is a sign.
Nineteen of 20 letters of 64 pixels and more have it as JPEGs, and one photograph of clothing in 200. With an
accent, upside down or mirrored a letter is another. So no part of a sign is the sign, unless they share as
many keypoints as may be covered."""
MOST_BESIDE: Final = 0.12
"""Of what is to be seen in a sign, beside the part that both show; dots over a letter are 0.19 and more."""
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
_PLAIN: Final = 2.5  # grey levels of deviation below which nothing is to be seen there
_LEAST_KEPT: Final = 0.8  # of the common area, under the refined map
_EDGE: Final = 16  # grey levels that differ around a pixel, above which it lies at an edge
_LEAST_SHADES: Final = 0.4  # of the pixels, which are not at edges: letters have 0.44


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
    enlarged: float
    """Pixels of this per pixel of the image, 1 at least."""


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
    return PictureFeatures(rgb, luma, points, np.asarray(descriptors, np.float32), max(scale, 1.0))


def _sift() -> cv2.SIFT:
    return cv2.SIFT.create(nfeatures=_KEYPOINTS, contrastThreshold=0.02)


def aligned_correlation(query: Pixels, reference: Pixels) -> float:
    """Return the correlation, -1 to 1, of two RGB thumbnails [64, 64, 3] after a small affine alignment."""
    a, b = (high_passed(_luma(one), 5.0) for one in (query, reference))
    warp = np.eye(2, 3, dtype=np.float32)
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-3)
    try:
        _, found = cv2.findTransformECC(b, a, warp, cv2.MOTION_AFFINE, stop, np.ones(b.shape, np.uint8), 3)
    except cv2.error:  # it did not converge: compared as they are
        return correlation(a, b, np.ones(a.shape, bool))
    return _correlation_under(a, b, np.asarray(found, np.float64))


def verify(query: PictureFeatures, reference: PictureFeatures, mirrored: bool = False) -> Verification:
    """Judge a pair by keypoints and by the pixels under their common map.

    mirrored: whether the query is the mirror image of a picture, which of a letter is another letter.
    """
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
    affine, over, seen = _aligned(query.luma, reference.luma, affine, common)
    off = _off(query, reference, affine, source[inside], target[inside])
    agrees = seen.correlation >= MIN_CORRELATION and seen.quarter >= MIN_QUARTER
    if not agrees and off <= TIGHT:
        for other in (seen, recoloured(query.rgb, reference.rgb, over, affine)):
            if other.correlation >= MIN_TIGHT and other.quarter >= MIN_QUARTER:
                seen, agrees = other, True
    # Of a thing before a plain ground the ground has no keypoints, but its pixels agree; around a logo not.
    if box[0] * box[1] < MIN_SPREAD * common and seen.correlation < MIN_CORRELATION:
        return Verification(False, "spread", inliers, seen.correlation)
    if off > MOST_OFF:
        return Verification(False, "shape", inliers, seen.correlation)
    covered = any(inliers >= many and seen.median >= least for many, least in COVERED)
    if not agrees and not (covered and off <= TIGHT):
        return Verification(False, "correlation", inliers, seen.correlation)
    plain = min(plain_share(query.luma), plain_share(reference.luma)) >= MIN_PLAIN
    sign = min(two_shades(query.luma), two_shades(reference.luma)) >= TWO_SHADES
    if sign and (mirrored or affine[0, 0] < 0):
        return Verification(False, "content", inliers, seen.correlation)
    if sign and inliers < COVERED[0][0] and _shows_more(query.luma, reference.luma, affine, over):
        return Verification(False, "content", inliers, seen.correlation)
    if plain and seen.difference > PLAIN_DIFFERENCE:
        return Verification(False, "content", inliers, seen.correlation)
    chroma = chroma_cosine(query.rgb, reference.rgb, affine)
    if chroma < (PLAIN_CHROMA if plain else MIN_CHROMA):
        return Verification(False, "colour", inliers, seen.correlation)
    return Verification(True, "", inliers, seen.correlation)


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


def _aligned(
    query: Pixels, reference: Pixels, affine: Affine, common: float
) -> tuple[Affine, Overlay, Agreement]:
    """Return the given map or its refinement, under which the pixels agree more, and how they do."""
    given = overlaid(query, reference, affine)
    seen, closer = agreement(given), refined(given, affine)
    if closer is None or not _is_plausible(closer):
        return affine, given, seen
    if _common_area(closer, query, reference)[0] < _LEAST_KEPT * common:
        return affine, given, seen
    laid = overlaid(query, reference, closer)
    better = agreement(laid)
    return (closer, laid, better) if better.correlation > seen.correlation else (affine, given, seen)


def _off(
    query: PictureFeatures, reference: PictureFeatures, affine: Affine, source: Plane, target: Plane
) -> float:
    """Return the keypoints' median distance from where the map has them, for the finest detail there is."""
    apart = np.linalg.norm(source @ affine[:, :2].T + affine[:, 2] - target, axis=1)
    larger = float(np.sqrt(abs(np.linalg.det(affine[:, :2]))))
    pixel = max(1.0, query.enlarged * larger, reference.enlarged)
    return float(np.median(apart)) / (0.5 + 0.5 * pixel)


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
    height, width = (side // PLACE * PLACE for side in luma.shape)
    places = luma[:height, :width].astype(np.float32).reshape(height // PLACE, PLACE, width // PLACE, PLACE)
    return float((places.std(axis=(1, 3)) < _PLAIN).mean())


def _shows_more(query: Pixels, reference: Pixels, affine: Affine, over: Overlay) -> bool:
    """Return whether one of two pictures, laid over each other, shows more than what both show."""
    inverse = np.asarray(cv2.invertAffineTransform(affine), np.float64)
    return max(beside(over), beside(overlaid(reference, query, inverse))) > MOST_BESIDE


def two_shades(luma: Pixels) -> float:
    """Return the share of the variance of luma that is between two shades (Otsu, 1979), edges apart.

    0 where most of a picture is edges.
    """
    around = np.ones((5, 5), np.uint8)
    shades = luma[cv2.dilate(luma, around) - cv2.erode(luma, around) <= _EDGE]
    if len(shades) < _LEAST_SHADES * luma.size:
        return 0.0
    threshold, _ = cv2.threshold(shades, 0, 255, cv2.THRESH_OTSU)
    parts = [shades[shades <= threshold], shades[shades > threshold]]
    within = sum(len(part) * float(part.var()) for part in parts if len(part)) / len(shades)
    return 1 - within / max(float(shades.var()), 1.0)


def _luma(rgb: Pixels) -> Plane:
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.float32)


def _correlation_under(a: Plane, b: Plane, warp: Affine) -> float:
    size, flags = (a.shape[1], a.shape[0]), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(a, warp, size, flags=flags)
    covered = (
        cv2.warpAffine(np.ones(a.shape, np.uint8), warp, size, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)
        > 0
    )
    return correlation(np.asarray(warped, np.float32), b, covered)
