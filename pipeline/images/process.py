"""Turn untrusted bytes into a small clean JPEG and a description, or into a reason why not.

`process` runs inside the decoding child (`pipeline.images.decoder`), which bounds its time and memory; what a
header tells is judged here before any pixel is decoded. JPEG is decoded scaled, by the inverse DCT itself
(libjpeg-turbo's m/8 factors), where that costs next to no detail, and resized from there.
Pillow takes every other format, CMYK, and JPEG that libjpeg-turbo objects to. Output is always encoded
afresh, so only the pixels of the source survive: no metadata, no trailer, no second file in the first.
"""

import math
from dataclasses import replace
from typing import Final, NamedTuple

import cv2
import numpy as np
import simplejpeg

from pipeline.data import views
from pipeline.data.descriptors import SIDE, describe, pack, quality, sign_hash
from pipeline.images import exif
from pipeline.images.decode import (
    BadImage,
    Decoded,
    Pixels,
    check_scans,
    check_size,
    format_of,
    jpeg_tags,
    open_picture,
    whole_jpeg,
)
from pipeline.images.headers import jpeg_markers, sniff
from pipeline.images.pdq import LEAST_QUALITY, pdq
from pipeline.options.images import MAX_JPEG_SIDE, ImageOptions

_BLUR_FROM: Final = 1.3
"""Ratio from which pixels that cubic interpolation passes over would alias: they are blurred before."""
_AREA_FROM: Final = 3.0
"""Ratio from which averaging areas costs less and comes as near to Lanczos."""
_FINE: Final = 1.75
"""Ratio that has to be left to resize after a scaled decode, whose own filter is sharp but not smooth."""
_NEAR: Final = (1.05, 1.25)
"""Ratios that may be left after 5/8 and 6/8 as well, which keep more than the picture needs."""
_MAX_DETAIL: Final = 200
_PDQ_SIDE: Final = 256
"""Least shorter side that PDQ is computed at: 6 bits of 256 from the full decode, at most 14, as from 512; at
128 it is 9, at most 22 (150 photographs of BSDS500, enlarged threefold)."""


class Processed(NamedTuple):
    """Hold the outcome for one image; fields only."""

    reason: str = ""
    """A word of `pipeline.reasons`, or nothing when the image is good."""
    detail: str = ""
    jpeg: bytes = b""
    width: int = 0
    height: int = 0
    original_width: int = 0
    """Of the original as it is meant to be seen, that is, after its Exif orientation."""
    original_height: int = 0
    format: str = ""
    exif: str = ""
    phash: str = ""
    """64 hexadecimal digits, `pipeline.data.descriptors.sign_hash` of `luma_thumbnail`."""
    quality: int = 0
    """0 to 100, how much detail the thumbnail has: `pipeline.data.descriptors.quality`."""
    descriptor: str = ""
    """Hexadecimal digits of `pipeline.data.descriptors.pack`, of the stored picture without its border; empty
    where it is to be described later."""
    pdq: str = ""
    """64 hexadecimal digits, of `process_with_pdq`, unless the picture has too little detail for it."""


def process_with_pdq(data: bytes, options: ImageOptions) -> Processed:
    """Return what `process` does, and the PDQ hash of the whole picture: 3 to 10 ms more.

    What is stored stays the same. A large JPEG is decoded scaled for the hash, too.
    """
    return process(data, options, with_pdq=True)


def process(data: bytes, options: ImageOptions, *, with_pdq: bool = False) -> Processed:
    """Return the stored form of an image, or why there is none. The same bytes in give the same bytes out.

    Whatever the decoders raise becomes a reason. MemoryError is raised when memory runs out after decoding.
    """
    name = ""
    try:
        name = sniff(data)
        format_of(data, options)
        decoded = _decode(data, name, options)
    except BadImage as refused:
        return Processed(reason=refused.reason, detail=refused.detail[:_MAX_DETAIL], format=name)
    orientation = exif.orientation(decoded.tags)
    width, height = decoded.width, decoded.height
    small = resize(decoded.rgb, decoded.extent, *target(width, height, options))
    if options.resize_mode == "square":
        small = _centre(small)
    luma_from, extent = decoded.rgb, decoded.extent
    if decoded.conversion is not None:
        # After resizing: a tenth of the pixels, and half a grey level at most edges from doing it before.
        small = decoded.conversion.pixels(small)
        luma_from = resize(luma_from, extent, min(width, SIDE), min(height, SIDE))
        luma_from, extent = decoded.conversion.pixels(luma_from), luma_from.shape[1::-1]
    small = exif.upright(small, orientation)
    luma = exif.upright(luma_thumbnail(luma_from, extent), orientation)
    if orientation >= 5:
        width, height = height, width
    return Processed(
        jpeg=encode_jpeg(small, options.quality),
        width=small.shape[1],
        height=small.shape[0],
        original_width=width,
        original_height=height,
        format=name,
        exif=exif.as_json(decoded.tags) if options.keep_exif else "",
        phash=sign_hash(luma).hex(),
        quality=quality(luma),
        descriptor=_descriptor(small).hex() if options.describe == "now" else "",
        pdq=_pdq(data, name, decoded, options) if with_pdq else "",
    )


def _pdq(data: bytes, name: str, decoded: Decoded, options: ImageOptions) -> str:
    """Return the PDQ hash of the whole picture, decoded again where that was below what the hash needs."""
    if min(decoded.extent) < min(_PDQ_SIDE, decoded.width, decoded.height):
        decoded = _decode(data, name, replace(options, resize_mode="square", image_size=_PDQ_SIDE))
    columns, rows = map(int, decoded.extent)
    rgb = decoded.rgb[:rows, :columns]
    if decoded.conversion is not None:
        rgb = decoded.conversion.pixels(rgb)
    found = pdq(exif.upright(rgb, exif.orientation(decoded.tags)))
    return found.digits if found.quality >= LEAST_QUALITY else ""


def _descriptor(stored: Pixels) -> bytes:
    """Describe what is stored, as `openwit overlap` would after decoding it again."""
    inner = views.inner(views.bounded(np.ascontiguousarray(stored)))
    return pack(describe(views.thumbnail(inner)[None]))[0]


def luma_thumbnail(rgb: Pixels, extent: tuple[float, float] | None = None) -> Pixels:
    """Squeeze an image into the 64 x 64 luma (BT.601) that the perceptual hash is computed from.

    `rgb` is uint8 [height, width, 3] of the whole picture, before any crop; `extent` the columns and rows
    that count, all unless given. In `process` it is the scaled decode, so the hash hardly depends on
    `image_size` and not at all on the crop of `square`.
    """
    height, width = rgb.shape[:2]
    luma = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)
    luma = resize(luma, extent or (width, height), min(width, SIDE), min(height, SIDE))
    if luma.shape != (SIDE, SIDE):  # what is too short; areas are averaged only where both sides shrink
        luma = np.asarray(cv2.resize(luma, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR), np.uint8)
    return luma


def encode_jpeg(rgb: Pixels, jpeg_quality: int) -> bytes:
    """Encode uint8 [height, width, 3] as a baseline 4:2:0 JPEG without metadata."""
    encoded: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(rgb),
        quality=jpeg_quality,
        colorspace="RGB",
        colorsubsampling="420",
        fastdct=False,
    )
    return encoded


def _check_size(width: int, height: int, options: ImageOptions) -> None:
    """Refuse an original by its size, and one that no JPEG could hold."""
    check_size(width, height, options)
    if max(target(width, height, options)) > MAX_JPEG_SIDE:
        size = f"{width} x {height} pixels"
        raise BadImage("too_many_pixels", f"{size}; a JPEG has at most {MAX_JPEG_SIDE} a side")


def target(width: int, height: int, options: ImageOptions) -> tuple[int, int]:
    """Return width and height after resizing, before the crop of `square`; never above the original."""
    if options.resize_mode == "keep":
        return width, height
    reference = max(width, height) if options.resize_mode == "longer" else min(width, height)
    if reference <= options.image_size:
        return width, height
    scale = options.image_size / reference
    return max(1, round(width * scale)), max(1, round(height * scale))


def _least(width: int, height: int, options: ImageOptions) -> tuple[int, int]:
    """Return the size that a scaled decode must not go under: enough for the result and for the hash."""
    target_width, target_height = target(width, height, options)
    return max(target_width, min(width, SIDE)), max(target_height, min(height, SIDE))


def resize(pixels: Pixels, extent: tuple[float, float], width: int, height: int) -> Pixels:
    """Resize the first `extent` columns and rows of `pixels` to `width` x `height`."""
    columns, rows = extent
    if pixels.shape[:2] == (height, width) == (rows, columns):
        return pixels
    ratio = max(columns / width, rows / height)
    method = cv2.INTER_AREA if ratio >= _AREA_FROM else cv2.INTER_CUBIC
    if _BLUR_FROM <= ratio < _AREA_FROM:
        sigma = 0.4 * math.sqrt(ratio * ratio - 1)
        pixels = np.asarray(cv2.GaussianBlur(pixels, (2 * round(2 * sigma) + 1,) * 2, sigma), np.uint8)
    # Factors instead of a size: the fraction of the last column and row must not stretch the picture.
    resized = cv2.resize(pixels, None, fx=width / columns, fy=height / rows, interpolation=method)
    return np.asarray(resized, np.uint8)[:height, :width]


def _centre(rgb: Pixels) -> Pixels:
    side = min(rgb.shape[:2])
    top, left = (rgb.shape[0] - side) // 2, (rgb.shape[1] - side) // 2
    return rgb[top : top + side, left : left + side]


def _decode(data: bytes, name: str, options: ImageOptions) -> Decoded:
    return decode_jpeg(data, options) if name == "jpeg" else _decode_other(data, name, options)


def decode_jpeg(data: bytes, options: ImageOptions) -> Decoded:
    """Decode a JPEG, scaled down as far as costs no detail; BadImage."""
    markers = jpeg_markers(data, options.max_scans)
    check_scans(markers, options)
    try:
        height, width, colourspace, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except Exception:  # noqa: BLE001 - ValueError, KeyError, ...: Pillow says what is wrong with it
        return _decode_other(data, "jpeg", options)
    _check_size(width, height, options)
    if colourspace in ("YCbCr", "RGB", "Gray"):
        eighths = _eighths(width, height, _least(width, height, options))
        extent = width * eighths / 8, height * eighths / 8
        try:
            rgb = simplejpeg.decode_jpeg(
                whole_jpeg(data, markers),
                "RGB",
                min_width=math.ceil(extent[0]),
                min_height=math.ceil(extent[1]),
                min_factor=1,
            )
        except Exception:  # noqa: BLE001, S110 - Pillow tells harmless stray bytes from the cut and the broken
            pass
        else:
            return Decoded(rgb, width, height, extent, *jpeg_tags(markers, colourspace))
    return _decode_other(data, "jpeg", options)


def _decode_other(data: bytes, name: str, options: ImageOptions) -> Decoded:
    def check(width: int, height: int) -> None:
        _check_size(width, height, options)

    def least(width: int, height: int) -> tuple[int, int]:
        return _least(width, height, options)

    return open_picture(data, name, options, check, least).decoded()


def _eighths(width: int, height: int, least: tuple[int, int]) -> int:
    """Return the m of the m/8 at which a JPEG is decoded to no less than `least`.

    The smallest that loses less than 1 dB against a full decode of photographs (docs/benchmarks.md): one that
    leaves nothing to resize, or enough. libjpeg-turbo has SIMD code for 1, 2, 4 and 8 only. 7 costs more than
    decoding in full and resizing from there; 5 and 6 save that much of the resizing.
    """
    for eighths in (1, 2, 3, 4, 5, 6):
        size = width * eighths / 8, height * eighths / 8
        left = min(size[0] / least[0], size[1] / least[1])
        if left >= _FINE or size == least or (eighths >= 5 and _NEAR[0] <= left <= _NEAR[1]):
            return eighths
    return 8
