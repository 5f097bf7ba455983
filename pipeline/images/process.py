"""Turn untrusted bytes into a small clean JPEG and a description, or into a reason why not.

`process` runs inside the decoding child (`pipeline.images.decoder`), which bounds its time and memory; the
header is judged here before any pixel is decoded. JPEG is decoded scaled, by the inverse DCT itself
(libjpeg-turbo's 1/8, 1/4 and 1/2), where that costs no detail to speak of, and resized from there. Pillow
takes every other format, CMYK, and JPEG that libjpeg-turbo objects to. Output is always encoded afresh, so
only the pixels of the source survive: no metadata, no trailer, no second file in the first.
"""

import math
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
import simplejpeg

from pipeline.data import views
from pipeline.data.descriptors import SIDE, hash_and_quality, packed
from pipeline.images import exif, iscc
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
from pipeline.images.resample import shrink
from pipeline.options.images import MAX_JPEG_SIDE, ImageOptions

_FINE: Final = 1.5
"""Ratio that has to be left to resize after a scaled decode, whose own filter is sharp but not smooth. From
there on chroma may be upsampled by repeating it, too."""
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
    """Of the original as viewers show it, that is, after its Exif orientation."""
    original_height: int = 0
    format: str = ""
    exif: str = ""
    phash: str = ""
    """64 hexadecimal digits, `pipeline.data.descriptors.sign_hash` of the picture in its stored size, before
    the crop of `square`."""
    quality: int = 0
    """0 to 100, how much detail the thumbnail has: `pipeline.data.descriptors.quality`."""
    descriptor: str = ""
    """Hexadecimal digits of `pipeline.data.descriptors.pack`, of the stored picture without its border; empty
    where it is to be described later."""
    iscc: str = ""
    """"ISCC:..." with --iscc: `pipeline.images.iscc.code`."""
    pdq: str = ""
    """64 hexadecimal digits, of `process_with_pdq`, unless the picture has too little detail for it."""


def process_with_pdq(data: bytes, options: ImageOptions) -> Processed:
    """Return the result of `process`, and the PDQ hash of the whole picture: 3 to 10 ms more.

    The stored image stays the same. A large JPEG is decoded scaled for the hash, too.
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
    whole = resize(decoded.rgb, decoded.extent, *target(width, height, options))
    if decoded.conversion is not None:
        # After resizing: a tenth of the pixels, and half a grey level at most edges from doing it before.
        whole = decoded.conversion.pixels(whole)
    whole = exif.upright(whole, orientation)
    stored = _centre(whole) if options.resize_mode == "square" else whole
    phash, detail, descriptor = _look(whole, stored, options)
    if orientation >= 5:
        width, height = height, width
    return Processed(
        jpeg=encode_jpeg(stored, options.quality),
        width=stored.shape[1],
        height=stored.shape[0],
        original_width=width,
        original_height=height,
        format=name,
        exif=exif.as_json(decoded.tags) if options.keep_exif else "",
        phash=phash.hex(),
        quality=detail,
        descriptor=descriptor.hex(),
        iscc=iscc.code(whole, data) if options.iscc else "",
        pdq=_pdq(data, name, decoded, options) if with_pdq else "",
    )


def _pdq(data: bytes, name: str, decoded: Decoded, options: ImageOptions) -> str:
    """Return the PDQ hash of the whole picture, decoded again if the pixels are too few for the hash."""
    if min(decoded.extent) < min(_PDQ_SIDE, decoded.width, decoded.height):
        decoded = _decode(data, name, replace(options, resize_mode="square", image_size=_PDQ_SIDE))
    columns, rows = map(int, decoded.extent)
    rgb = decoded.rgb[:rows, :columns]
    if decoded.conversion is not None:
        rgb = decoded.conversion.pixels(rgb)
    found = pdq(exif.upright(rgb, exif.orientation(decoded.tags)))
    return found.digits if found.quality >= LEAST_QUALITY else ""


def _look(whole: Pixels, stored: Pixels, options: ImageOptions) -> tuple[bytes, int, bytes]:
    """Return perceptual hash and quality of the whole, and the descriptor of everything that is stored or
    nothing.

    The descriptor equals that of `openwit overlap` after decoding again. Most pictures have no border: one
    thumbnail is enough for both.
    """
    thumbnail = views.squeeze(whole, SIDE)
    if options.describe == "later":
        return *hash_and_quality(thumbnail), b""
    described = outer = packed(thumbnail)
    inner = views.inner(views.bounded(stored))
    if inner is not whole:
        described = packed(views.squeeze(inner, SIDE))
    return outer[:32], outer[-1], described


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
    """Refuse an original by its size, and a size that no JPEG could hold."""
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


def resize(pixels: Pixels, extent: tuple[float, float], width: int, height: int) -> Pixels:
    """Resize the first `extent` columns and rows of `pixels` to `width` x `height`, which is never larger."""
    if pixels.shape[:2] == (height, width) == extent[::-1]:
        return pixels
    return shrink(pixels, extent, width, height, "cubic")


def _centre(rgb: Pixels) -> Pixels:
    side = min(rgb.shape[:2])
    if rgb.shape[:2] == (side, side):
        return rgb
    top, left = (rgb.shape[0] - side) // 2, (rgb.shape[1] - side) // 2
    return np.ascontiguousarray(rgb[top : top + side, left : left + side])


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
        least = target(width, height, options)
        eighths = _eighths(width, height, least)
        extent = width * eighths / 8, height * eighths / 8
        try:
            rgb = simplejpeg.decode_jpeg(
                whole_jpeg(data, markers),
                "RGB",
                fastupsample=_left(extent, least) >= _FINE,
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
        return target(width, height, options)

    return open_picture(data, name, options, check, least).decoded()


def _left(size: tuple[float, float], least: tuple[int, int]) -> float:
    """Return the ratio by which a decoded picture is still to be resized."""
    return min(size[0] / least[0], size[1] / least[1])


def _eighths(width: int, height: int, least: tuple[int, int]) -> int:
    """Return the m of the m/8 at which a JPEG is decoded: the smallest that leaves enough to resize.

    The others have no SIMD code in libjpeg-turbo, and save next to nothing.
    """
    for eighths in (1, 2, 4):
        if _left((width * eighths / 8, height * eighths / 8), least) >= _FINE:
            return eighths
    return 8
