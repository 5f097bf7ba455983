"""Decode, crop and normalise pictures for CLIP.

"A random square crop from resized images is the only data augmentation" (arXiv:2103.00020, section 2.4):
the shorter side is resized to N, and N x N pixels are taken at random.
"""

import functools
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from pipeline.images.decode import BadImage, Pixels
from pipeline.images.pixels import centre, decode, decode_square, size_of, square_at
from train.squares import Collected

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

Crop = Literal["paper", "crop", "random-resized"]
CROPS: tuple[Crop, ...] = get_args(Crop)

__all__ = ["BadImage", "Pixels", "decode", "evaluation_image", "normalise", "size_of", "training_image"]


def _resize(pixels: Pixels, height: int, width: int) -> Pixels:
    """Resample with an antialiased bicubic kernel, as Pillow's."""
    image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]
    resized = F.interpolate(image, size=(height, width), mode="bicubic", antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


def _offset(height: int, width: int, size: int, random: np.random.Generator) -> int:
    """Draw where the square begins of which a random N x N crop of a picture is made, resized to a shorter
    side of N."""
    shorter, longer = sorted((height, width))
    # It is drawn on the resized picture's grid, and looked up in the original.
    spare = round(longer * size / shorter) - size
    return min(round(int(random.integers(spare + 1)) * shorter / size), longer - shorter)


def _cut(pixels: Pixels, size: int, random: np.random.Generator) -> Pixels:
    """Take N x N pixels at random without resizing, unless the picture is too small."""
    height, width, _ = pixels.shape
    if min(height, width) < size:
        return _resize(square_at(pixels, _offset(height, width, size, random)), size, size)
    top = int(random.integers(height - size + 1))
    left = int(random.integers(width - size + 1))
    return pixels[top : top + size, left : left + size]


def _random_resized(pixels: Pixels, size: int, random: np.random.Generator) -> Pixels:
    """Take 90 to 100% of the area at 3/4 to 4/3 aspect and resize it, as open_clip does by default."""
    height, width, _ = pixels.shape
    for _ in range(10):
        area = height * width * random.uniform(0.9, 1.0)
        aspect = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            top, left = int(random.integers(height - h + 1)), int(random.integers(width - w + 1))
            return _resize(pixels[top : top + h, left : left + w], size, size)
    return _resize(pixels, size, size)


_CROPPERS = {"crop": _cut, "random-resized": _random_resized}


def training_image(
    data: bytes, size: int, crop: Crop, random: np.random.Generator, collected: Collected | None = None
) -> tuple[Pixels, bool]:
    """Decode and crop one picture to uint8 [N, N, 3], and say whether it was too small; raises BadImage.

    The paper's crop is not resized where `collected` takes it as it is: uint8 [S, S, 3]. The result may lie
    in the memory of `collected`.
    """
    collected = collected or Collected(1, size)
    if crop == "paper":
        offset = functools.partial(_offset, size=size, random=random)
        square = decode_square(data, size, offset, collected.room, collected.scratch)
        side = len(square)
        return square if collected.takes(side) else _resize(square, size, size), side < size
    pixels = decode(data, 0 if crop == "crop" else size, collected.scratch)
    return _CROPPERS[crop](pixels, size, random), min(pixels.shape[:2]) < size


evaluation_image = centre
"""Make the square that a model is shown when it is evaluated; see `pipeline.images.pixels`."""


def normalise(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Map uint8 images [B, N, N, 3] to CLIP's normalised [B, 3, N, N] on the same device."""
    mean = torch.tensor(MEAN, device=images.device) * 255
    std = torch.tensor(STD, device=images.device) * 255
    return ((images - mean) / std).to(dtype).permute(0, 3, 1, 2)
