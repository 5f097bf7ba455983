"""Decode anybody's pictures for training and evaluation: RGB as pages show it, in bounds of size and time.

Ordinary JPEG is decoded by the caller, since its headers bound its cost; everything else in a child process
that is killed when it takes too long. Both give the same pixels.
"""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from pipeline.images import exif, jpeg_square
from pipeline.images.child import Child, ChildFailedError
from pipeline.images.decode import (
    BadImage,
    Pixels,
    check_scans,
    check_size,
    format_of,
    jpeg_tags,
    measure,
    open_picture,
    whole_jpeg,
)
from pipeline.images.headers import FORMATS, JpegMarkers, jpeg_markers, usual_jpeg_size
from pipeline.options.images import ImageOptions
from pipeline.reasons import REASONS

LIMITS: Final = ImageOptions(formats=FORMATS, min_side=1, max_aspect=1000.0, allow_animated=True)
"""Which of anybody's pictures are decoded: the crawl's limits, but for small, long and moving ones."""
_MEMORY: Final = 3 << 29
_SECONDS: Final = 10.0
_QUICK: Final = 64_000_000
"""Most pixels times scans of a JPEG that is decoded in the process that asks, about a second."""
_SCANS, _MOST = 20, 200_000_000
"""Encoders write up to 18 scans; with more, most pixels times scans, three seconds."""
_LONG: Final = 16
"""Times its side squared that a picture may be resized to before the centre is cut out."""
_PLAIN: Final[dict[bytes, None]] = {}
"""Profiles that were found to change nothing."""
_MOST_PLAIN: Final = 256


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Describe the outputs for a picture."""

    form: Literal["whole", "centre", "size"]
    """whole: all of it; centre: resized and cut to a square; size: nothing, it is only measured."""
    side: int = 0
    """whole: the size to which a JPEG's shorter side may be scaled down; centre: of the square."""


class Made(NamedTuple):
    """Hold the outcome; fields only."""

    reason: str = ""
    detail: str = ""
    width: int = 0
    height: int = 0
    plain: bool = False
    """Whether the picture's profile changes nothing."""
    pixels: bytes = b""
    """uint8 [height, width, 3]; nothing for `size`."""


def make(data: bytes, wanted: Wanted) -> Made:
    """Process a picture: this runs in the child."""
    try:
        if wanted.form == "centre":
            square = centre(data, wanted.side)
            return Made(width=wanted.side, height=wanted.side, pixels=square.tobytes())
        if wanted.form == "size":
            width, height = size(data)
            return Made(width=width, height=height)
        rgb, plain = _whole(data, wanted.side)
        return Made(width=rgb.shape[1], height=rgb.shape[0], plain=plain, pixels=rgb.tobytes())
    except BadImage as bad:
        return Made(reason=bad.reason, detail=bad.detail[:200])


class PixelDecoder:
    """Decode pictures in a child process, which starts with the first of them."""

    def __init__(self, wanted: Wanted, *, seconds: float = _SECONDS, memory_bytes: int = _MEMORY) -> None:
        self._child = Child("pipeline.images.pixels:make", wanted, memory_bytes=memory_bytes, seconds=seconds)

    def decode(self, data: bytes) -> Pixels:
        """Return uint8 [height, width, 3]; BadImage."""
        made = self._made(data)
        if made.plain and len(_PLAIN) < _MOST_PLAIN:
            _PLAIN[jpeg_markers(data, 1, whole=False).profile] = None
        return np.frombuffer(made.pixels, np.uint8).reshape(made.height, made.width, 3).copy()

    def size(self, data: bytes) -> tuple[int, int]:
        """Return width and height as stored; BadImage."""
        made = self._made(data)
        return made.width, made.height

    def close(self) -> None:
        """End the child."""
        self._child.close()

    def _made(self, data: bytes) -> Made:
        try:
            made = _parse(*self._child.ask(data))
        except ChildFailedError as failure:
            raise BadImage(failure.reason, failure.detail) from None
        except ValueError as error:
            self._child.replace()
            raise BadImage("decode_crash", f"an answer that is not a result: {error}") from error
        if made.reason:
            raise BadImage(made.reason, made.detail)
        return made


def _parse(fields: dict[str, Any], pixels: bytes) -> Made:
    """Return a result after checking it; ValueError for anything else."""
    defaults = Made()._asdict()
    del defaults["pixels"]
    if fields.keys() != defaults.keys():
        raise ValueError("other fields than a result has")
    if any(type(fields[name]) is not type(default) for name, default in defaults.items()):
        raise ValueError("a field of another type")
    made = Made(pixels=pixels, **fields)
    made.detail.encode()  # UnicodeEncodeError, a ValueError, for lone surrogates
    if made.reason:
        if made.reason not in REASONS or pixels:
            raise ValueError("no such reason")
    elif min(made.width, made.height) < 1 or len(pixels) not in (0, made.width * made.height * 3):
        raise ValueError("pixels of another size")
    return made


def quick(data: bytes, side: int = 0, scratch: NDArray[np.uint8] | None = None) -> Pixels | None:
    """Decode a picture at once if it is a JPEG whose headers say that this is safe, else return None.

    Its shorter side may be scaled down to `side`. BadImage as of `PixelDecoder`. The result may lie in
    `scratch`, uint8 [bytes]: memory that is fresh for each picture costs a fifteenth of its decoding.
    """
    if format_of(data, LIMITS) != "jpeg":
        return None
    markers = jpeg_markers(data, LIMITS.max_scans, whole=False)
    check_scans(markers, LIMITS)
    if markers.profile and markers.profile not in _PLAIN:
        return None
    return _jpeg(data, side, markers, _QUICK, scratch)[0]


def _whole(data: bytes, side: int) -> tuple[Pixels, bool]:
    """Return a picture upright and in sRGB, and whether its profile changed nothing."""
    name = format_of(data, LIMITS)
    if name == "jpeg":
        markers = jpeg_markers(data, LIMITS.max_scans, whole=False)
        check_scans(markers, LIMITS)
        rgb, plain = _jpeg(data, side, markers)
        if rgb is not None:
            return rgb, plain
    opened = open_picture(data, name, LIMITS, _check, lambda width, height: (width, height))
    image = opened.image if opened.conversion is None else opened.conversion.image(opened.image)
    return exif.upright(np.asarray(image), exif.orientation(opened.tags)), False


def _jpeg(
    data: bytes, side: int, markers: JpegMarkers, most: int = LIMITS.max_pixels * LIMITS.max_scans,
    scratch: NDArray[np.uint8] | None = None,
) -> tuple[Pixels | None, bool]:  # fmt: skip
    """Decode an ordinary JPEG of at most that many pixels times scans, None for another."""
    try:
        height, width, colourspace, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None, False
    _check(width, height)
    if markers.scans > _SCANS and width * height * markers.scans > _MOST:
        raise BadImage("too_many_scans", f"{markers.scans} of {width} x {height} pixels")
    if colourspace not in ("YCbCr", "RGB", "Gray") or width * height * markers.scans > most:
        return None, False
    # Scaling by a half, a quarter or an eighth is quick; other ratios are slower than a resize.
    least = side if 0 < 2 * side <= min(width, height) else 0
    # The fast transforms differ from the exact ones by a grey level or so, and are half as expensive.
    buffer = scratch if scratch is not None and 3 * width * height <= len(scratch) else None
    options = {
        "fastdct": True, "fastupsample": True, "min_height": least, "min_width": least, "buffer": buffer,
    }  # fmt: skip
    try:
        rgb = simplejpeg.decode_jpeg(data, "RGB", **options)
    except ValueError:
        if most <= _QUICK or (found := jpeg_markers(data, LIMITS.max_scans)).ended:
            return None, False  # Pillow says what is wrong with it
        try:
            rgb = simplejpeg.decode_jpeg(whole_jpeg(data, found), "RGB", **options)
        except ValueError:
            return None, False
    if not markers.exif and not markers.profile:  # as most
        return rgb, False
    tags, conversion = jpeg_tags(markers, colourspace)
    if conversion is not None:
        rgb = conversion.pixels(rgb)
    return exif.upright(rgb, exif.orientation(tags)), conversion is None


def _check(width: int, height: int) -> None:
    check_size(width, height, LIMITS)


def centre(data: bytes, side: int) -> Pixels:
    """Return the picture resized to a shorter side of `side` and cut to a square: uint8 [side, side, 3].

    To the pixel the result of OpenAI's code and open_clip by torchvision's Resize and CenterCrop: Pillow's
    exact decoder and bicubic filter, and RGB only after the crop, so that a palette and single bits are
    resized to the nearest, and transparent pixels show the colours below. Unlike theirs, pictures are upright
    and in sRGB, and greys of 16 bits are scaled. Only the part of a long picture about its centre is resized.
    Raises BadImage.
    """
    opened = open_picture(
        data, format_of(data, LIMITS), LIMITS, _check, lambda width, height: (width, height), stored=True
    )
    image = opened.image
    if (turn := exif.TURNS[exif.orientation(opened.tags)]) is not None:
        image = image.transpose(turn)
    cut, conversion = _cut(image, side), opened.conversion
    if conversion is None or conversion.mode != "CMYK":
        cut = cut.convert("RGB")
    return np.array(cut if conversion is None else conversion.image(cut))


def square(image: Image.Image, side: int) -> Pixels:
    """Return an RGB picture resized and cut in the same way: uint8 [side, side, 3]."""
    return np.array(_cut(image, side))


def _cut(image: Image.Image, side: int) -> Image.Image:
    width, height = (side * length // min(image.size) for length in image.size)
    left, top = round((width - side) / 2), round((height - side) / 2)
    if width * height > _LONG * side * side:
        columns, rows = image.width / width, image.height / height
        box = left * columns, top * rows, (left + side) * columns, (top + side) * rows
        return image.resize((side, side), Image.Resampling.BICUBIC, box)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    return image.crop((left, top, left + side, top + side))


def size(data: bytes) -> tuple[int, int]:
    """Return width and height as stored, from the headers; BadImage."""
    return measure(data, format_of(data, LIMITS), _check)


def size_of(data: bytes) -> tuple[int, int]:
    """Return width and height from the header; raises BadImage."""
    return _child_of(os.getpid(), "size", 0).size(data)


def decode(data: bytes, shorter: int = 0, scratch: NDArray[np.uint8] | None = None) -> Pixels:
    """Decode to RGB [H, W, 3]; a JPEG may come out scaled down while its shorter side is at least `shorter`.

    A picture whose cost its headers do not bound is decoded in a child process. Raises BadImage. The result
    may lie in `scratch`, uint8 [bytes].
    """
    found = quick(data, shorter, scratch)
    return _child_of(os.getpid(), "whole", shorter).decode(data) if found is None else found


def decode_square(
    data: bytes, shorter: int, offset: Callable[[int, int], int], room: Callable[[int], Pixels],
    scratch: NDArray[np.uint8] | None = None,
) -> Pixels:  # fmt: skip
    """Decode as `decode` does, and take the square of the shorter side S: uint8 [S, S, 3].

    offset: where it begins on the longer side, of height and width. The result may lie in `room(S)`, uint8
    [S, S, 3], or in `scratch`. Raises BadImage.
    """
    along = None
    usual = usual_jpeg_size(data) if jpeg_square.is_there() and len(data) >= LIMITS.min_bytes else None
    if usual is not None and (side := min(usual)) and not 0 < 2 * shorter <= side:
        width, height = usual
        _check(width, height)
        along = offset(height, width)
        if width * height <= _QUICK and jpeg_square.decode(
            data, along if width > height else 0, along if height > width else 0, out := room(side)
        ):
            return out
    rgb = decode(data, shorter, scratch)
    height, width, _ = rgb.shape
    # A damaged picture's place is drawn once.
    return square_at(rgb, offset(height, width) if along is None else along)


def square_at(pixels: Pixels, along: int) -> Pixels:
    """Return the square of the shorter side that begins at a place of the longer."""
    height, width, _ = pixels.shape
    if height > width:
        return pixels[along : along + width]
    return pixels[:, along : along + height]


@functools.cache
def _child_of(process: int, form: Literal["whole", "size"], side: int) -> PixelDecoder:
    """Return the child of a process: those of before a fork are its parent's."""
    return PixelDecoder(Wanted(form=form, side=side))
