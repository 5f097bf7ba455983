"""Make synthetic positives: two views of each photograph, altered as copies on the web are.

The kinds are those of arXiv 2103.00020, appendix C: random crop, zoom, aspect distortion, down- and
up-scaling with interpolation drawn from all kinds, small rotations, JPEG compression, HSV jitter; beside them
mirroring, and the alterations of the image similarity challenge (Douze et al. 2021, arXiv 2106.09672): text,
pictures laid over, borders, and the photograph as a part of another picture. All of a batch is altered at
once, on the device that trains: 16 cores decode for a GPU, but could not alter for it.

Photographs come as `source` makes them, squeezed to squares: crop, zoom, aspect, rotation and mirroring are
one affine map, by which a photograph is resampled once.
"""

import functools
import math
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from pipeline.data.views import inner, squeeze

Pixels = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

_PART: Final = 256  # photographs that are altered at a time; chunks of it are rescaled alike
_CHUNKS: Final = 16
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!?&%@#*+"
_WORDS: Final = 256
_MOST_WORDS: Final = 3
_YIQ: Final = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_YCC: Final = torch.tensor([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]])
_LUMA: Final = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
_CHROMA: Final = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99, *[99] * 32,
)  # fmt: skip
"""The quantisation tables of JPEG's annex K (ITU-T T.81)."""


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
    """Of crop, rotation, mirroring, scaling, colour and JPEG each."""
    added: float
    """Chance of text, of a picture laid over it, and of a ground that it is laid on, each."""


# Copies on the web are often cut, rarely turned; an evaluation image is mostly the whole picture. So one view
# is near the original and the other may be anything: that is the comparison that the search makes.
MILD: Final = Strength(area=0.6, stretch=1.2, degrees=4, hue=10, tone=0.2, chance=0.3, added=0.02)
STRONG: Final = Strength(area=0.3, stretch=1.8, degrees=14, hue=30, tone=0.5, chance=0.6, added=0.15)


def source(rgb: Pixels, side: int) -> tuple[Pixels, float]:
    """Return a photograph as `pair` takes it, without its border, and its width per height.

    uint8 [height, width, 3] to [S, S, 3], where S is one and a half of a view's side: the affine map samples,
    it does not average, so it may shrink the photograph by little.
    """
    rgb = inner(rgb)
    return squeeze(rgb, source_side(side)), rgb.shape[1] / rgb.shape[0]


def source_side(side: int) -> int:
    """Return the side of the photographs that views of a side are made from."""
    return side * 3 // 2


def pair(photographs: Tensor, aspects: F32, side: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return two views of each photograph, one mild and one strong.

    photographs: uint8 [B, S, S, 3]; aspects: width per height [B]. uint8 [B, side, side, 3] twice, on the
    photographs' device.
    """
    made = [
        [view(photographs[part], aspects[part], side, strength, rng) for strength in (MILD, STRONG)]
        for part in (slice(n, n + _PART) for n in range(0, len(photographs), _PART))
    ]
    first, second = (torch.cat(views) for views in zip(*made, strict=True))
    return first, second


def view(
    photographs: Tensor, aspects: F32, side: int, strength: Strength, rng: np.random.Generator
) -> Tensor:
    """Return one altered view of each photograph: uint8 [B, side, side, 3]."""
    count = len(photographs)
    done = rng.random((count, 6)) < strength.chance  # crop, rotation, mirroring, scale, colour, JPEG
    added = rng.random((count, 3)) < strength.added  # ground, picture, text
    rgb = photographs.permute(0, 3, 1, 2).float()
    rgb = _mapped(rgb, aspects, side, strength, done, added[:, 0], rng)
    rgb = _laid_over(rgb, added[:, 1], rng)
    rgb = _written_on(rgb, added[:, 2], rng)
    rgb = _recoloured(rgb, done[:, 4], strength, rng)
    rgb = _rescaled(rgb, strength.chance, rng)
    rgb = _compressed(rgb, done[:, 5], rng)
    return rgb.add(0.5).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _on(device: torch.device, *values: npt.NDArray[np.floating]) -> Tensor:
    """Return the numbers of each photograph on the device, [B, len(values)] of float32."""
    return torch.from_numpy(np.stack(values, axis=1).astype(np.float32)).to(device)


def _mapped(
    rgb: Tensor, aspects: F32, side: int, strength: Strength, done: Mask, on_ground: Mask,
    rng: np.random.Generator,
) -> Tensor:  # fmt: skip
    """Return crops, perhaps turned, mirrored or laid on a ground: float32 [B, 3, side, side]."""
    count = len(rgb)
    w, h, x, y = _windows(strength, done[:, 0], on_ground, rng)
    turn = np.radians(rng.uniform(-strength.degrees, strength.degrees, count)) * done[:, 1]
    # The largest part of the turned picture that has no empty corners (for a square).
    within = np.where(rng.random(count) < 0.5, 1 / (np.cos(turn) + np.abs(np.sin(turn))), 1.0)
    w, h, x, y = w * within, h * within, x * within, y * within
    across = np.where(done[:, 2], -w, w)
    cos, sin = np.cos(turn), np.sin(turn)
    theta = _on(
        rgb.device,
        cos * across, -sin / aspects * h, cos * x - sin / aspects * y,
        sin * aspects * across, cos * h, sin * aspects * x + cos * y,
    ).view(count, 2, 3)  # fmt: skip
    grid = F.affine_grid(theta, [count, 3, side, side], align_corners=False)
    mapped = F.grid_sample(rgb, grid, "bilinear", "border", align_corners=False)
    outside = (grid.abs() > 1).any(dim=3)[:, None]
    # Turned pictures have black corners; others lie on one colour or on another photograph.
    shade = np.where(done[:, 1] & ~on_ground, 0.0, 1.0)[:, None] * rng.choice((0, 128, 255), (count, 3))
    ground = _on(rgb.device, *shade.T)[:, :, None, None].expand(-1, -1, *mapped.shape[2:])
    busy = on_ground & (rng.random(count) < 0.5)
    if busy.any():
        ground = ground.clone()
        chosen = torch.from_numpy(np.flatnonzero(busy)).to(rgb.device)
        ground[chosen] = F.interpolate(rgb.roll(1, 0)[chosen], size=mapped.shape[2:], mode="bilinear")
    return torch.where(outside, ground, mapped)


def _windows(
    strength: Strength, cropped: Mask, on_ground: Mask, rng: np.random.Generator
) -> tuple[npt.NDArray[np.float64], ...]:
    """Return half the width and height of each view, and its centre, where the photograph spans -1 to 1."""
    count = len(cropped)
    area = np.where(cropped, rng.uniform(strength.area, 1, count), 1.0)
    stretch = np.exp(rng.uniform(-1, 1, count) * math.log(strength.stretch) * cropped)
    w, h = np.minimum(1, np.sqrt(area * stretch)), np.minimum(1, np.sqrt(area / stretch))
    # On a ground it is seen whole: from nearly all of the view down to a third of it.
    w = np.where(on_ground, rng.uniform(1.05, 1.7, count), w)
    h = np.where(on_ground, rng.uniform(1.05, 1.7, count), h)
    x, y = rng.uniform(-1, 1, (2, count))
    return w, h, x * (1 - w), y * (1 - h)


def _laid_over(rgb: Tensor, chosen: Mask, rng: np.random.Generator) -> Tensor:
    """Lay a part of another photograph over some, as a rectangle or an ellipse of up to a quarter."""
    where = np.flatnonzero(chosen)
    if not len(where):
        return rgb
    count, side = len(where), rgb.shape[2]
    w, h = rng.uniform(0.2, 0.5, (2, count))
    x, y = rng.uniform(-1, 1, (2, count)) * (1 - np.stack([w, h]))
    line = (torch.arange(side, device=rgb.device) + 0.5) * (2 / side) - 1
    size = _on(rgb.device, w, h, x, y)[:, :, None]
    across = ((line[None] - size[:, 2]) / size[:, 0]).abs()[:, None]
    down = ((line[None] - size[:, 3]) / size[:, 1]).abs()[:, :, None]
    round_ones = torch.from_numpy(rng.random(count) < 0.5).to(rgb.device)[:, None, None]
    covered = torch.where(round_ones, across**2 + down**2 < 1, torch.maximum(across, down) < 1)[:, None]
    index = torch.from_numpy(where).to(rgb.device)
    rgb[index] = torch.where(covered, rgb.roll(1, 0)[index], rgb[index])
    return rgb


@functools.cache
def _words() -> F32:
    """Return masks of words, from 0 to 1: float32 [_WORDS, 1, 32, 160]."""
    rng = np.random.default_rng(0)
    fonts = (cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_TRIPLEX, cv2.FONT_ITALIC)
    masks = np.zeros((_WORDS, 32, 160), np.uint8)
    for mask in masks:
        word = "".join(rng.choice(list(_LETTERS), rng.integers(3, 10)))
        font, thick = int(rng.choice(fonts)), int(rng.integers(1, 4))
        (width, _), _ = cv2.getTextSize(word, font, 1, thick)
        cv2.putText(mask, word, (2, 24), font, min(0.9, 150 / width), 255, thick, cv2.LINE_AA)
    return np.asarray(masks[:, None] / 255, np.float32)


def _written_on(rgb: Tensor, chosen: Mask, rng: np.random.Generator) -> Tensor:
    """Write up to three words on some, each in a colour of its own."""
    where = np.flatnonzero(chosen)
    if not len(where):
        return rgb
    count, index = len(where), torch.from_numpy(where).to(rgb.device)
    part = rgb[index]
    for _ in range(_MOST_WORDS):
        words = torch.from_numpy(_words()[rng.integers(_WORDS, size=count)]).to(rgb.device)
        h = np.exp(rng.uniform(math.log(0.05), math.log(0.25), count))  # of the view, of half of it
        w = h * 5 * rng.uniform(0.7, 1.3, count)
        x, y = rng.uniform(-0.9, 0.6, count), rng.uniform(-0.9, 0.9, count)
        nought = np.zeros(count)
        theta = _on(rgb.device, 1 / w, nought, -x / w - 1, nought, 1 / h, -y / h).view(count, 2, 3)
        grid = F.affine_grid(theta, [count, 1, *rgb.shape[2:]], align_corners=False)
        ink = F.grid_sample(words, grid, "bilinear", "zeros", align_corners=False)
        ink = ink * _on(rgb.device, rng.uniform(0.6, 1, count) * (rng.random(count) < 0.7))[:, :, None, None]
        part += ink * (_on(rgb.device, *rng.uniform(0, 256, (3, count)))[:, :, None, None] - part)
    rgb[index] = part
    return rgb


def _recoloured(rgb: Tensor, chosen: Mask, strength: Strength, rng: np.random.Generator) -> Tensor:
    """Turn the hue of some, and scale saturation and value, as a matrix for each; a tenth become grey."""
    where = np.flatnonzero(chosen)
    if not len(where):
        return rgb
    count, index = len(where), torch.from_numpy(where).to(rgb.device)
    turn = np.radians(rng.uniform(-strength.hue, strength.hue, count))
    colour, value = rng.uniform(1 - strength.tone, 1 + strength.tone, (2, count))
    colour = np.where(rng.random(count) < strength.tone / 5, 0.0, colour)
    cos, sin, nought = colour * np.cos(turn), colour * np.sin(turn), np.zeros(count)
    turned = _on(
        rgb.device, np.ones(count), nought, nought, nought, cos, -sin, nought, sin, cos
    ).view(count, 3, 3) * _on(rgb.device, value)[:, :, None]  # fmt: skip
    to = _YIQ.to(rgb.device)
    matrix = torch.linalg.inv(_YIQ).to(rgb.device) @ turned @ to
    rgb[index] = torch.einsum("bij,bjhw->bihw", matrix, rgb[index]).clamp(0, 255)
    return rgb


def _rescaled(rgb: Tensor, chance: float, rng: np.random.Generator) -> Tensor:
    """Scale chunks of the batch down and up again, each by an interpolation of its own."""
    side, parts = rgb.shape[2], []
    for part in rgb.chunk(_CHUNKS):
        size = max(8, round(side * math.exp(rng.uniform(math.log(0.3), math.log(0.9)))))
        down, up = rng.integers(4), rng.integers(3)
        if rng.random() < chance:
            mode = ("bilinear", "bicubic", "area", "nearest")[down]
            smooth = {"antialias": True} if down < 2 else {}
            small = F.interpolate(part, size=(size, size), mode=mode, **smooth)
            part = F.interpolate(small, size=(side, side), mode=("bilinear", "bicubic", "nearest")[up])
        parts.append(part)
    return torch.cat(parts).clamp(0, 255)


def _compressed(rgb: Tensor, chosen: Mask, rng: np.random.Generator) -> Tensor:
    """Round some as JPEG does at qualities of 20 to 95, with half of the colours' resolution."""
    where = np.flatnonzero(chosen)
    if not len(where):
        return rgb
    quality, index = rng.uniform(20, 95, len(where)), torch.from_numpy(where).to(rgb.device)
    factor = np.where(quality < 50, 50 / quality, 2 - quality / 50)  # as libjpeg scales its tables
    to = _YCC.to(rgb.device)
    planes = torch.einsum("ij,bjhw->bihw", to, rgb[index])
    luma = _quantised(planes[:, :1] - 128, _LUMA, _on(rgb.device, factor)) + 128
    colours = _quantised(F.avg_pool2d(planes[:, 1:], 2), _CHROMA, _on(rgb.device, factor))
    planes = torch.cat([luma, F.interpolate(colours, scale_factor=2, mode="bilinear")], dim=1)
    rgb[index] = torch.einsum("ij,bjhw->bihw", torch.linalg.inv(_YCC).to(rgb.device), planes).clamp(0, 255)
    return rgb


def _quantised(planes: Tensor, table: tuple[int, ...], factor: Tensor) -> Tensor:
    """Round the cosine coefficients of 8 x 8 blocks: float32 [B, C, H, W], H and W multiples of 8."""
    n = torch.arange(8, dtype=torch.float32, device=planes.device)
    cosines = torch.cos((2 * n[None] + 1) * n[:, None] * (math.pi / 16)) / 2
    cosines[0] /= math.sqrt(2)
    b, c, h, w = planes.shape
    blocks = planes.view(b, c, h // 8, 8, w // 8, 8).transpose(3, 4)
    steps = torch.tensor(table, dtype=torch.float32, device=planes.device).view(8, 8) * factor[:, :, None]
    steps = steps.clamp(min=1).view(b, 1, 1, 1, 8, 8)
    rounded = torch.round(cosines @ blocks @ cosines.T / steps) * steps
    return (cosines.T @ rounded @ cosines).transpose(3, 4).reshape(b, c, h, w)
