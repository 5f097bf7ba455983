"""Decode a square of an ordinary JPEG: the rest of the picture is read and checked, but makes no pixels.

`_jpeg.c` does it by the libjpeg-turbo that Pillow's wheels carry, since no package for Python has its partial
decoding. The pixels are those of the whole picture as `simplejpeg` decodes it by the fast transforms.
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import PIL
import simplejpeg

from pipeline.images.decode import Pixels

try:
    from pipeline.images import _jpeg
except ImportError:
    _jpeg = None  # type: ignore[assignment]

_TRIED: Final = (48, 80)  # height and width of the picture by which two decoders are compared


@functools.cache
def is_there() -> bool:
    """Return whether there is a libjpeg-turbo, and it makes the same pixels as `simplejpeg`."""
    if _jpeg is None or not any(map(_jpeg.open, _libraries())):
        return False
    height, width = _TRIED
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    data = simplejpeg.encode_jpeg(noise, quality=90, colorsubsampling="420")
    whole = simplejpeg.decode_jpeg(data, "RGB", fastdct=True, fastupsample=True)
    square = np.empty((height - 9, height - 9, 3), np.uint8)
    return decode(data, 21, 5, square) and np.array_equal(square, whole[5:-4, 21 : 21 + height - 9])


def _libraries() -> Iterator[str]:
    """Yield where libjpeg-turbo may be: in Pillow's wheel for Linux or macOS, or in the system."""
    package = Path(PIL.__file__).parent
    for folder in (package.parent / "pillow.libs", package / ".dylibs"):
        yield from map(str, sorted(folder.glob("libjpeg*")))
    yield "libjpeg.so.62"


def decode(data: bytes, left: int, top: int, out: Pixels) -> bool:
    """Fill `out`, uint8 [S, S, 3], with a square of a JPEG; return False, for any fault of it, if not."""
    return _jpeg.decode(data, left, top, len(out), out)
