"""Alter photographs as the web does, to measure the recall of the search.

The kinds are those of CLIP's duplicate detector (Radford et al. 2021, arXiv 2103.00020, appendix C): crops,
aspect, rescaling, small rotations, JPEG and colour, together in `mixed`; beside them mirroring, borders and
text, which pages add. Every function takes and returns uint8 RGB [height, width, 3] and a seeded generator.
"""

import math
from collections.abc import Callable
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Distortion = Callable[[Pixels, np.random.Generator], Pixels]

_INTERPOLATIONS: Final = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)
_LONGEST: Final = 4_096
_WORDS: Final = ("SALE", "breaking news", "photo: a reader", "Monday mood", "NEW", "read more")


def _resized(rgb: Pixels, width: int, height: int, method: int) -> Pixels:
    return np.asarray(cv2.resize(rgb, (max(width, 1), max(height, 1)), interpolation=method), np.uint8)


def crop(low: float, high: float) -> Distortion:
    """Return a crop at a random place that keeps a share of the area between `low` and `high`."""

    def apply(rgb: Pixels, rng: np.random.Generator) -> Pixels:
        scale = math.sqrt(rng.uniform(low, high))
        height, width = rgb.shape[:2]
        h, w = max(1, round(height * scale)), max(1, round(width * scale))
        top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
        return rgb[top : top + h, left : left + w]

    return apply


def width_crop(rgb: Pixels, rng: np.random.Generator) -> Pixels:
    """Keep half to three quarters of the width and all of the height."""
    width = rgb.shape[1]
    w = max(1, round(width * rng.uniform(0.5, 0.75)))
    left = rng.integers(0, width - w + 1)
    return rgb[:, left : left + w]


def aspect(rgb: Pixels, rng: np.random.Generator) -> Pixels:
    """Squeeze one side by a factor of 1.25 to 1.5."""
    factor = rng.uniform(1.25, 1.5)
    height, width = rgb.shape[:2]
    if rng.random() < 0.5:
        return _resized(rgb, round(width / factor), height, cv2.INTER_AREA)
    return _resized(rgb, width, round(height / factor), cv2.INTER_AREA)


def resize(rgb: Pixels, rng: np.random.Generator) -> Pixels:
    """Rescale so that the shorter side has 64 to 512 pixels, the longer side 4,096 at most."""
    side = math.exp(rng.uniform(math.log(64), math.log(512)))
    scale = min(side / min(rgb.shape[:2]), _LONGEST / max(rgb.shape[:2]))
    method = _INTERPOLATIONS[rng.integers(len(_INTERPOLATIONS))]
    return _resized(rgb, round(rgb.shape[1] * scale), round(rgb.shape[0] * scale), method)


def rotation(low: float, high: float) -> Distortion:
    """Return a turn by `low` to `high` degrees either way; half of them cut off the empty corners.

    Where that would leave nothing, as of a panorama, the corners stay.
    """

    def apply(rgb: Pixels, rng: np.random.Generator) -> Pixels:
        degrees = rng.uniform(low, high) * rng.choice((-1, 1))
        height, width = rgb.shape[:2]
        turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1)
        turned = np.asarray(cv2.warpAffine(rgb, turn, (width, height), flags=cv2.INTER_LINEAR), np.uint8)
        if rng.random() < 0.5:
            return turned
        radians = math.radians(abs(degrees))
        x = math.ceil(height * math.sin(radians) / 2)
        y = math.ceil(width * math.sin(radians) / 2)
        inside = turned[y : height - y, x : width - x]
        return inside if inside.size else turned  # of a long picture nothing may be left

    return apply


def jpeg(rgb: Pixels, rng: np.random.Generator) -> Pixels:
    """Encode as JPEG of quality 30 to 90."""
    quality = int(rng.integers(30, 91))
    _, data = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None, "freshly encoded bytes can be decoded"
    return np.ascontiguousarray(decoded[..., ::-1])


def hsv(rgb: Pixels, rng: np.random.Generator) -> Pixels:
    """Turn the hue by up to 18 degrees, and scale saturation and value by 0.6 to 1.4."""
    values = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV).astype(np.float32)
    values[..., 0] = (values[..., 0] + rng.uniform(-9, 9)) % 180  # OpenCV counts hue in steps of 2 degrees
    values[..., 1:] = np.clip(values[..., 1:] * rng.uniform(0.6, 1.4, 2), 0, 255)
    return np.asarray(cv2.cvtColor(values.astype(np.uint8), cv2.COLOR_HSV2RGB), np.uint8)


def flip(rgb: Pixels, rng: np.random.Generator) -> Pixels:
    """Mirror left and right."""
    return np.ascontiguousarray(rgb[:, ::-1])


def border(rgb: Pixels, rng: np.random.Generator) -> Pixels:
    """Add a border of one colour, 5 to 12% of each side."""
    share, shade = rng.uniform(0.05, 0.12), int(rng.choice((0, 255)))
    y, x = round(rgb.shape[0] * share), round(rgb.shape[1] * share)
    return np.pad(rgb, ((y, y), (x, x), (0, 0)), constant_values=shade)


def text(rgb: Pixels, rng: np.random.Generator) -> Pixels:
    """Write two or three words in a band over the picture."""
    written = rgb.copy()
    height, width = rgb.shape[:2]
    size = height / 256
    for _ in range(rng.integers(2, 4)):
        word = _WORDS[rng.integers(len(_WORDS))]
        at = int(rng.integers(0, max(1, width // 2))), int(rng.integers(height // 8, height))
        shade = tuple(int(v) for v in rng.integers(0, 256, 3))
        cv2.putText(written, word, at, cv2.FONT_HERSHEY_DUPLEX, size, shade, max(1, round(2 * size)))
    return written


def mixed(rgb: Pixels, rng: np.random.Generator) -> Pixels:
    """Turn, crop, squeeze, recolour and mirror, each half of the time, then rescale and encode."""
    for distortion in (rotation(0, 10), crop(0.5, 1), aspect, hsv, flip):
        if rng.random() < 0.5:
            rgb = distortion(rgb, rng)
    return jpeg(resize(np.ascontiguousarray(rgb), rng), rng)


DISTORTIONS: Final[dict[str, Distortion]] = {
    "crop 90%": crop(0.9, 0.9),
    "crop 75%": crop(0.75, 0.75),
    "crop 50%": crop(0.5, 0.5),
    "width crop": width_crop,
    "aspect": aspect,
    "resize": resize,
    "rotation to 5": rotation(0, 5),
    "rotation 5 to 10": rotation(5, 10),
    "jpeg": jpeg,
    "hsv": hsv,
    "flip": flip,
    "border": border,
    "text": text,
    "mixed": mixed,
}
"""The measured distortions by name; percentages are shares of the area."""
