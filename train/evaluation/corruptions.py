"""Corruptions at five levels, for users who have no shifted set (after arXiv:1903.12261).

They act on the picture that the model would see, so that lengths are shares of its side and mean the same at
every resolution. Each picture's randomness follows from the seed, the corruption and its id, not the level:
the levels of one picture differ in strength alone.
"""

import hashlib
import io
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from train.evaluation.options import Corruption
from train.image_transforms import Pixels

Floats = npt.NDArray[np.float64]

STRENGTHS: Final[dict[Corruption, tuple[float, ...]]] = {
    "noise": (0.04, 0.08, 0.14, 0.22, 0.32),  # standard deviation, of 1
    "blur": (0.012, 0.018, 0.025, 0.034, 0.045),  # standard deviation, of the side: 0.4 to 1.4 pixels of 32
    "fog": (0.30, 0.45, 0.60, 0.72, 0.84),  # how much the densest fog hides
    "snow": (0.02, 0.04, 0.07, 0.10, 0.14),  # share of the pixels that flakes cover
    "jpeg": (25, 18, 15, 10, 7),  # quality, as in ImageNet-C
}
"""By level."""


def corrupt(pixels: Pixels, kind: Corruption, level: int, seed: int, example_id: str) -> Pixels:
    """Return a corrupted copy of uint8 [N, N, 3]; the same arguments give the same picture.

    ValueError for a level that is not 1 to 5.
    """
    if level not in range(1, 6):
        raise ValueError(f"levels are 1 to 5, not {level}")
    digest = hashlib.blake2b(f"{seed}/{kind}/{example_id}".encode(), digest_size=8).digest()
    random = np.random.default_rng(int.from_bytes(digest))
    return _KINDS[kind](pixels, STRENGTHS[kind][level - 1], random)


def _noise(pixels: Pixels, strength: float, random: np.random.Generator) -> Pixels:
    return _to_pixels(pixels / 255 + random.normal(0, strength, pixels.shape))


def _blur(pixels: Pixels, strength: float, random: np.random.Generator) -> Pixels:
    spread = strength * len(pixels)
    return _to_pixels(ndimage.gaussian_filter(pixels / 255, (spread, spread, 0), mode="nearest"))


def _fog(pixels: Pixels, strength: float, random: np.random.Generator) -> Pixels:
    """Blend towards light grey, more where a smooth random field is high."""
    density = strength * (0.5 + 0.5 * _clouds(len(pixels), random))[:, :, None]
    return _to_pixels(pixels / 255 * (1 - density) + 0.9 * density)


def _snow(pixels: Pixels, strength: float, random: np.random.Generator) -> Pixels:
    """Whiten the scene and add flakes, smeared along one direction."""
    side = len(pixels)
    white = 0.05 + 2.7 * strength  # 0.1 to 0.43
    length = max(1, round(side / 24))
    angle = random.uniform(-0.5, 0.5)
    seeds = (random.random((side, side)) < strength / length).astype(np.float64)
    flakes = np.zeros_like(seeds)
    for step in range(length):
        flakes = np.maximum(flakes, np.roll(seeds, (step, round(step * angle)), axis=(0, 1)))
    grey = pixels.mean(axis=2, keepdims=True) / 255
    scene = (1 - white) * (pixels / 255) + white * (0.4 + 0.6 * grey)
    return _to_pixels(np.maximum(scene, 0.95 * flakes[:, :, None]))


def _jpeg(pixels: Pixels, strength: float, random: np.random.Generator) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=int(strength))
    with Image.open(buffer) as image:
        return np.array(image.convert("RGB"))


def _clouds(side: int, random: np.random.Generator) -> Floats:
    """Return a smooth field [side, side] from 0 to 1: noise at scales from the whole side to an eighth."""
    field = np.zeros((side, side))
    for octave in range(1, 4):
        cells = random.random((2**octave + 1, 2**octave + 1)).astype(np.float32)
        layer = Image.fromarray(cells).resize((side, side), Image.Resampling.BICUBIC)
        field += np.asarray(layer, np.float64) / 2**octave
    field -= field.min()
    return field / max(float(field.max()), 1e-9)


def _to_pixels(values: Floats) -> Pixels:
    pixels: Pixels = np.rint(values.clip(0, 1) * 255).astype(np.uint8)
    return pixels


_KINDS: Final[dict[Corruption, Callable[[Pixels, float, np.random.Generator], Pixels]]] = {
    "noise": _noise, "blur": _blur, "fog": _fog, "snow": _snow, "jpeg": _jpeg,
}  # fmt: skip
