"""Decode images for comparison: upright, opaque RGB with a shorter side of 256 pixels at most."""

import io
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from pipeline.data.views import COMPARED_SIDE, bounded
from pipeline.images.decode import BadImage
from pipeline.images.decoder import Decoder
from pipeline.images.headers import FORMATS, jpeg_markers
from pipeline.options import ImageOptions

Pixels = npt.NDArray[np.uint8]

MIN_SIDE: Final = 8
"""Thumbnails below this only match by chance."""
_OPTIONS: Final = ImageOptions(
    image_size=COMPARED_SIDE, min_side=MIN_SIDE, max_aspect=100.0, quality=95, allow_animated=True,
    formats=FORMATS,
)  # fmt: skip


class Pictures:
    """Decode pictures from anywhere; files not written by openwit go through a killable child process."""

    def __init__(self) -> None:
        self._decoder: Decoder | None = None

    def normalised(self, data: bytes) -> bytes:
        """Return any supported image as an upright JPEG of bounded size; BadImage."""
        if self._decoder is None:
            self._decoder = Decoder(_OPTIONS)
        found = self._decoder.process(data)
        if found.reason:
            raise BadImage(found.reason, found.detail)
        return found.jpeg

    def decode(self, data: bytes, *, ours: bool) -> Pixels:
        """Return uint8 RGB [height, width, 3]; BadImage. `ours`: openwit wrote it, or so it is said."""
        rgb = decode_jpeg(data) if ours and is_plain_jpeg(data) else None
        if rgb is None:
            rgb = decode_jpeg(self.normalised(data))
        if rgb is None:
            raise BadImage("too_small", f"a side under {MIN_SIDE} pixels")
        return rgb

    def decode_or_none(self, data: bytes, *, ours: bool) -> Pixels | None:
        """Return the same, or None, where the caller leaves out images that cannot be decoded."""
        try:
            return self.decode(data, ours=ours)
        except BadImage:
            return None

    def close(self) -> None:
        """End the child process."""
        if self._decoder is not None:
            self._decoder.close()


def is_plain_jpeg(data: bytes) -> bool:
    """Return whether a JPEG's headers bound the cost of decoding it, as those of openwit's own files do."""
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except Exception:  # noqa: BLE001 - libjpeg's many ways to refuse
        return False
    return jpeg_markers(data, 1, whole=False).scans == 1 and height * width <= _OPTIONS.max_pixels


def decode_jpeg(data: bytes) -> Pixels | None:
    """Return the pixels of a JPEG that openwit wrote, or None if it is damaged."""
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        least = min(COMPARED_SIDE, height, width)
        rgb = np.asarray(
            simplejpeg.decode_jpeg(data, "RGB", min_height=least, min_width=least, min_factor=1), np.uint8
        )
    except Exception:  # noqa: BLE001 - libjpeg's many ways to refuse; the caller counts it
        return None
    return bounded(rgb) if min(rgb.shape[:2]) >= MIN_SIDE else None


def preview(rgb: Pixels, side: int = 160) -> bytes:
    """Return a small WebP of at most `side` pixels for the report, some 3 KB."""
    scale = side / max(rgb.shape[:2])
    if scale < 1:
        height, width = (max(1, round(n * scale)) for n in rgb.shape[:2])
        rgb = np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    sink = io.BytesIO()
    Image.fromarray(rgb).save(sink, "WEBP", quality=60, method=2)
    return sink.getvalue()
