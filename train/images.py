"""Decode, crop and normalise pictures for CLIP.

"A random square crop from resized images is the only data augmentation" (arXiv:2103.00020, section 2.4):
the shorter side is resized to N, and N x N pixels are taken at random.
"""

import io
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

try:
    import simplejpeg
except ImportError:  # Pillow decodes everything, at about half the speed
    simplejpeg = None

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

Crop = Literal["paper", "crop", "random-resized"]
CROPS: tuple[Crop, ...] = get_args(Crop)
Pixels = NDArray[np.uint8]

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
_MAX_PIXELS = 64_000_000


class BadImage(ValueError):  # noqa: N818
    """Say why a picture cannot be used; `reason` is one word of a small set."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


def size_of(data: bytes) -> tuple[int, int]:
    """Return width and height from the header; raises BadImage."""
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            return image.size
    except Exception as error:
        raise BadImage("not_an_image", str(error)) from error


def decode(data: bytes, shorter: int = 0) -> Pixels:
    """Decode to RGB [H, W, 3]; a JPEG may come out scaled down while its shorter side is at least `shorter`.

    Raises BadImage: `not_an_image`, `too_large`, `corrupt`.
    """
    quick = simplejpeg is not None and data[:2] == b"\xff\xd8"
    try:
        width, height = simplejpeg.decode_jpeg_header(data)[1::-1] if quick else size_of(data)
    except BadImage:
        raise
    except ValueError as error:
        raise BadImage("not_an_image", str(error)) from error
    if width * height > _MAX_PIXELS:
        raise BadImage("too_large", f"{width} x {height}")
    if quick:
        # Scaling by a half, a quarter or an eighth is quick; other ratios are slower than a resize.
        least = shorter if 0 < 2 * shorter <= min(width, height) else 0
        try:
            # The fast transforms differ from the exact ones by a grey level or so, and are half as expensive.
            return simplejpeg.decode_jpeg(  # type: ignore[no-any-return]
                data, "RGB", fastdct=True, fastupsample=True, min_height=least, min_width=least
            )
        except ValueError:
            pass  # CMYK and the like: Pillow's to decide
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            return np.array(image.convert("RGB"))
    except Exception as error:
        raise BadImage("corrupt", str(error)) from error


def _resize(pixels: Pixels, height: int, width: int) -> Pixels:
    """Resample with an antialiased bicubic kernel, as Pillow's."""
    image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]
    resized = F.interpolate(image, size=(height, width), mode="bicubic", antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


def _fit(pixels: Pixels, size: int, random: np.random.Generator) -> Pixels:
    """Take a random N x N crop of the picture resized to a shorter side of N, resizing only the crop."""
    height, width, _ = pixels.shape
    side = min(height, width)
    # The offset is drawn on the resized picture's grid, and looked up in the original.
    spare = round(max(height, width) * size / side) - size
    offset = round(int(random.integers(spare + 1)) * side / size)
    offset = min(offset, max(height, width) - side)
    square = pixels[offset : offset + side] if height > width else pixels[:, offset : offset + side]
    return square if side == size else _resize(square, size, size)


def _cut(pixels: Pixels, size: int, random: np.random.Generator) -> Pixels:
    """Take N x N pixels at random without resizing, unless the picture is too small."""
    height, width, _ = pixels.shape
    if min(height, width) < size:
        return _fit(pixels, size, random)
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


_CROPPERS = {"paper": _fit, "crop": _cut, "random-resized": _random_resized}


def training_image(data: bytes, size: int, crop: Crop, random: np.random.Generator) -> tuple[Pixels, bool]:
    """Decode and crop one picture to uint8 [N, N, 3], and say whether it was too small; raises BadImage."""
    pixels = decode(data, 0 if crop == "crop" else size)
    return _CROPPERS[crop](pixels, size, random), min(pixels.shape[:2]) < size


def evaluation_image(data: bytes, size: int) -> Pixels:
    """Decode, resize the shorter side to N (bicubic), take the centre: uint8 [N, N, 3]; raises BadImage."""
    size_of(data)
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
            image = opened.convert("RGB")
    except Exception as error:
        raise BadImage("corrupt", str(error)) from error
    scale = size / min(image.size)
    width, height = (max(size, int(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.array(image.crop((left, top, left + size, top + size)))


def normalise(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Map uint8 images [B, N, N, 3] to CLIP's normalised [B, 3, N, N] on the same device."""
    mean = torch.tensor(MEAN, device=images.device) * 255
    std = torch.tensor(STD, device=images.device) * 255
    return ((images - mean) / std).to(dtype).permute(0, 3, 1, 2)
