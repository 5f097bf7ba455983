"""Make synthetic positives: two views of one photograph, altered as copies on the web are.

The kinds are those of arXiv 2103.00020, appendix C: random crop, zoom, aspect distortion, down- and
up-scaling with interpolation drawn from all kinds, small rotations, JPEG compression, HSV jitter; beside them
mirroring. Crop, zoom, aspect, rotation, mirroring and scale are one affine map, so a view is resampled once,
however much is done to it, and once more to its final size. Images are uint8 RGB [height, width, 3].
"""

import math
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.data.views import squeeze

Pixels = npt.NDArray[np.uint8]

_INTERPOLATIONS: Final = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)
_SHRINKING: Final = (cv2.INTER_AREA, cv2.INTER_AREA, *_INTERPOLATIONS)


@dataclass(frozen=True, kw_only=True)
class Strength:
    """Say how much a view is altered."""

    area: float
    """Least share of the area that a crop keeps."""
    stretch: float
    """Largest factor between the shares of width and of height that a crop keeps."""
    degrees: float
    """Most rotation either way."""
    hue: float
    """Most turn of the hue either way, in degrees."""
    tone: float
    """Saturation and value are scaled by 1 - tone to 1 + tone."""
    chance: float
    """Of each kind of alteration."""


# Copies on the web are often cut, rarely turned; an evaluation image is mostly the whole picture. So one view
# is near the original and the other may be anything: that is the comparison that the search makes.
MILD: Final = Strength(area=0.6, stretch=1.2, degrees=4, hue=10, tone=0.2, chance=0.3)
STRONG: Final = Strength(area=0.3, stretch=1.6, degrees=12, hue=25, tone=0.5, chance=0.6)


def pair(rgb: Pixels, side: int, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    """Return two views of a photograph, each squeezed to [side, side, 3]."""
    rgb = _shrunk(rgb, side)
    return view(rgb, side, MILD, rng), view(rgb, side, STRONG, rng)


def _shrunk(rgb: Pixels, side: int) -> Pixels:
    """Return the photograph at twice a view's size at most: the affine map samples, it does not average."""
    scale = 2 * side / min(rgb.shape[:2])
    if scale >= 1:
        return rgb
    return np.asarray(cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)


def view(rgb: Pixels, side: int, strength: Strength, rng: np.random.Generator) -> Pixels:
    """Return one altered view of a photograph, [side, side, 3]."""
    done = rng.random(6) < strength.chance  # crop, rotation, mirroring, scale, colour, JPEG
    scale = math.exp(rng.uniform(math.log(0.5), math.log(1.5))) if done[3] else 1.0
    size = max(8, round(side * scale))
    rgb = _mapped(rgb, size, strength, done, rng)
    if done[4]:
        rgb = recoloured(rgb, strength, rng)
    if done[5]:
        rgb = compressed(rgb, int(rng.integers(25, 96)))
    if size > side:
        method = _SHRINKING[rng.integers(len(_SHRINKING))]
    else:
        method = _INTERPOLATIONS[rng.integers(len(_INTERPOLATIONS))]
    return rgb if size == side else np.asarray(cv2.resize(rgb, (side, side), interpolation=method), np.uint8)


def _mapped(
    rgb: Pixels, size: int, strength: Strength, done: npt.NDArray[np.bool_], rng: np.random.Generator
) -> Pixels:
    """Return a crop, perhaps turned and mirrored, squeezed to [size, size, 3]."""
    height, width = rgb.shape[:2]
    w, h, x, y = _window(strength, rng) if done[0] else (1.0, 1.0, 0.0, 0.0)
    radians = math.radians(rng.uniform(-strength.degrees, strength.degrees)) if done[1] else 0.0
    if not (done[0] or done[1]):
        whole = squeeze(rgb, size)
        return np.ascontiguousarray(whole[:, ::-1]) if done[2] else whole
    if radians and rng.random() < 0.5:
        # The largest part of the turned picture that has no empty corners (for a square).
        inner = 1 / (math.cos(radians) + abs(math.sin(radians)))
        w, h, x, y = w * inner, h * inner, (1 - inner) / 2 + x * inner, (1 - inner) / 2 + y * inner
    # From the view's pixels to the crop's, in pixels of the picture around its centre; then turned.
    across, down = w * width / size, h * height / size
    if done[2]:
        across = -across
    left, top = (
        (x + w / 2 - 0.5) * width - across * (size - 1) / 2,
        (y + h / 2 - 0.5) * height - down * (size - 1) / 2,
    )
    cos, sin = math.cos(radians), math.sin(radians)
    turn = np.array(
        [
            [cos * across, -sin * down, cos * left - sin * top + (width - 1) / 2],
            [sin * across, cos * down, sin * left + cos * top + (height - 1) / 2],
        ]
    )
    method = _INTERPOLATIONS[rng.integers(len(_INTERPOLATIONS))]
    edge = cv2.BORDER_CONSTANT if done[1] else cv2.BORDER_REPLICATE
    flags = method | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(rgb, turn, (size, size), flags=flags, borderMode=edge), np.uint8)


def _window(strength: Strength, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Return width, height, left and top of a crop, in shares of the sides."""
    area = rng.uniform(strength.area, 1)
    stretch = math.exp(rng.uniform(-1, 1) * math.log(strength.stretch))
    w, h = min(1.0, math.sqrt(area * stretch)), min(1.0, math.sqrt(area / stretch))
    return w, h, rng.uniform(0, 1 - w), rng.uniform(0, 1 - h)


def recoloured(rgb: Pixels, strength: Strength, rng: np.random.Generator) -> Pixels:
    """Turn the hue and scale saturation and value, by a table: 256 entries for each channel."""
    levels = np.arange(256, dtype=np.float32)
    hue = (levels + rng.uniform(-strength.hue, strength.hue) / 2) % 180  # OpenCV counts steps of 2 degrees
    tones = [np.clip(levels * rng.uniform(1 - strength.tone, 1 + strength.tone), 0, 255) for _ in range(2)]
    table = np.stack([hue, *tones], axis=1).astype(np.uint8)[None]
    hsv = cv2.LUT(cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV), table)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)


def compressed(rgb: Pixels, quality: int) -> Pixels:
    """Encode as JPEG and decode."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None, "freshly encoded bytes can be decoded"
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)
