"""Turn untrusted bytes into a small clean JPEG and a description, or into a reason why not.

`process` runs inside the decoding child (`pipeline.images.decoder`), which bounds its time and memory; what a
header tells is judged here before any pixel is decoded. JPEG is decoded scaled, by the inverse DCT itself
(libjpeg-turbo's m/8 factors), to the smallest size that is not under the target, and resized from there.
Pillow takes every other format, CMYK, and JPEG that libjpeg-turbo objects to. Output is always encoded
afresh, so only the pixels of the source survive: no metadata, no trailer, no second file in the first.
"""

import io
import math
import re
import warnings
from typing import Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from dedup import views
from dedup.descriptors import SIDE, describe, pack, quality, sign_hash
from pipeline.images import exif
from pipeline.images.headers import JPEG_END, jpeg_markers, sniff, webp_size
from pipeline.options.images import MAX_JPEG_SIDE, ImageOptions

Pixels = npt.NDArray[np.uint8]

_AREA_FROM: Final = 1.4
"""Ratio from which averaging areas comes nearer to Lanczos than cubic interpolation; below, it blurs."""
_TO_8_BITS: Final = np.round(np.arange(1 << 16) / 257).astype(np.uint8)
_MAX_DETAIL: Final = 200
_ADDRESS: Final = re.compile(r" <[^<>]* at 0x[0-9a-f]+>")  # would differ from run to run


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
    """64 hexadecimal digits, `dedup.descriptors.sign_hash` of `luma_thumbnail`."""
    quality: int = 0
    """0 to 100, how much detail the thumbnail has: `dedup.descriptors.quality`."""
    descriptor: str = ""
    """Hexadecimal digits of `dedup.descriptors.pack`, of the stored picture without its border."""


class RefusedError(Exception):
    """Carry the reason for which an image is not taken."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


class Decoded(NamedTuple):
    """Hold decoded pixels, still in the stored orientation and perhaps already scaled down."""

    rgb: Pixels
    width: int
    """Of the original, in the stored orientation."""
    height: int
    extent: tuple[float, float]
    """Columns and rows of `rgb` that the original covers: 481 at 4/8 is 240.5 columns, decoded as 241."""
    tags: Image.Exif


def process(data: bytes, options: ImageOptions) -> Processed:
    """Return the stored form of an image, or why there is none. The same bytes in give the same bytes out.

    Whatever the decoders raise becomes a reason. MemoryError is raised when memory runs out after decoding.
    """
    name = ""
    try:
        if not data:
            raise RefusedError("empty_body")
        if len(data) < options.min_bytes:
            raise RefusedError("too_few_bytes", f"{len(data)} bytes")
        name = sniff(data)
        if name not in options.formats:
            raise RefusedError("not_image", name or f"starts with {data[:8]!r}")
        decoded = _decode_jpeg(data, options) if name == "jpeg" else _decode_other(data, name, options)
    except RefusedError as refused:
        return Processed(reason=refused.reason, detail=refused.detail[:_MAX_DETAIL], format=name)
    orientation = exif.orientation(decoded.tags)
    width, height = decoded.width, decoded.height
    small = exif.upright(_resize(decoded.rgb, decoded.extent, *_target(width, height, options)), orientation)
    if options.resize_mode == "square":
        small = _centre(small)
    luma = exif.upright(luma_thumbnail(decoded.rgb, decoded.extent), orientation)
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
        descriptor=_descriptor(small).hex(),
    )


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
    luma = _resize(luma, extent or (width, height), min(width, SIDE), min(height, SIDE))
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
    """Refuse an original by its size, which a header tells before any pixel is decoded."""
    size = f"{width} x {height} pixels"
    if width < 1 or height < 1:
        raise RefusedError("decode_error", size)
    if width * height > options.max_pixels:
        raise RefusedError("too_many_pixels", size)
    if min(width, height) < options.min_side:
        raise RefusedError("too_small", size)
    if max(width, height) > options.max_aspect * min(width, height):
        raise RefusedError("bad_aspect", size)
    if max(_target(width, height, options)) > MAX_JPEG_SIDE:
        raise RefusedError("too_many_pixels", f"{size}; a JPEG has at most {MAX_JPEG_SIDE} a side")


def _target(width: int, height: int, options: ImageOptions) -> tuple[int, int]:
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
    target_width, target_height = _target(width, height, options)
    return max(target_width, min(width, SIDE)), max(target_height, min(height, SIDE))


def _resize(pixels: Pixels, extent: tuple[float, float], width: int, height: int) -> Pixels:
    """Resize the first `extent` columns and rows of `pixels` to `width` x `height`."""
    columns, rows = extent
    if pixels.shape[:2] == (height, width) == (rows, columns):
        return pixels
    ratio = max(columns / width, rows / height)
    method = cv2.INTER_AREA if ratio >= _AREA_FROM else cv2.INTER_CUBIC
    # Factors instead of a size: the fraction of the last column and row must not stretch the picture.
    resized = cv2.resize(pixels, None, fx=width / columns, fy=height / rows, interpolation=method)
    return np.asarray(resized, np.uint8)[:height, :width]


def _centre(rgb: Pixels) -> Pixels:
    side = min(rgb.shape[:2])
    top, left = (rgb.shape[0] - side) // 2, (rgb.shape[1] - side) // 2
    return rgb[top : top + side, left : left + side]


def _decode_jpeg(data: bytes, options: ImageOptions) -> Decoded:
    markers = jpeg_markers(data, options.max_scans)
    if markers.scans > options.max_scans:
        raise RefusedError("too_many_scans", f"more than {options.max_scans}")
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except Exception:  # noqa: BLE001 - ValueError, KeyError, ...: Pillow says what is wrong with it
        return _decode_other(data, "jpeg", options, markers.exif)
    _check_size(width, height, options)
    if colorspace in ("YCbCr", "RGB", "Gray"):
        eighths = _eighths(width, height, _least(width, height, options))
        extent = width * eighths / 8, height * eighths / 8
        try:
            rgb = simplejpeg.decode_jpeg(
                data if markers.ended else data + JPEG_END,
                "RGB",
                min_width=math.ceil(extent[0]),
                min_height=math.ceil(extent[1]),
                min_factor=1,
            )
        except Exception:  # noqa: BLE001, S110 - Pillow tells harmless stray bytes from the cut and the broken
            pass
        else:
            return Decoded(rgb, width, height, extent, exif.parse(markers.exif))
    return _decode_other(data, "jpeg", options, markers.exif)


def _eighths(width: int, height: int, least: tuple[int, int]) -> int:
    """Return the m of the m/8 at which a JPEG is decoded to no less than `least`.

    libjpeg-turbo has SIMD code for 1, 2, 4 and 8 only. 7 costs more than decoding in full and resizing from
    there; 5 and 6 save that much of the resizing.
    """
    for eighths in (1, 2, 3, 4, 5, 6):
        if math.ceil(width * eighths / 8) >= least[0] and math.ceil(height * eighths / 8) >= least[1]:
            return eighths
    return 8


def _decode_other(data: bytes, name: str, options: ImageOptions, jpeg_exif: bytes | None = None) -> Decoded:
    """Decode with Pillow; `jpeg_exif` is what the markers of a JPEG gave."""
    if name == "webp" and (size := webp_size(data)):  # Pillow allocates 8 bytes a pixel on opening
        _check_size(*size, options)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=[name.upper()]) as image:
                width, height = image.size
                _check_size(width, height, options)
                drafted = None
                if jpeg_exif is not None:
                    drafted = image.draft(image.mode, _least(width, height, options))
                elif getattr(image, "is_animated", False) and not options.allow_animated:
                    raise RefusedError("animated")
                image.load()
                tags = image.getexif() if jpeg_exif is None else exif.parse(jpeg_exif)
                extent = (drafted[1][2], drafted[1][3]) if drafted else (width, height)
                return Decoded(_rgb(image), width, height, extent, tags)
    except RefusedError:
        raise
    except Image.DecompressionBombError as error:
        raise RefusedError("too_many_pixels", str(error)) from error
    except Exception as error:  # over ten classes were seen to leave Pillow on hostile files
        detail = _ADDRESS.sub("", f"{type(error).__name__}: {error}")
        raise RefusedError(_decoding_reason(error), detail) from error


def _decoding_reason(error: Exception) -> str:
    text = str(error).lower()
    if isinstance(error, MemoryError) or "out of memory" in text or "insufficient memory" in text:
        return "decode_memory"
    if isinstance(error, EOFError) or "truncated" in text:
        return "truncated"
    return "decode_error"


def _rgb(image: Image.Image) -> Pixels:
    """Return uint8 [height, width, 3]: transparency over white, 16 bits scaled to 8, CMYK converted."""
    if image.mode.startswith("I"):  # Pillow's own conversion clips 16 bits at 255
        grey = np.asarray(image)
        scaled = _TO_8_BITS[grey if grey.dtype.itemsize == 2 else np.clip(grey, 0, 65535)]
        clear = image.info.get("transparency")
        if isinstance(clear, int):
            scaled[grey == clear] = 255
        return np.repeat(scaled[..., None], 3, axis=2)
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB"))
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    canvas = Image.new("RGB", rgba.size, "white")
    canvas.paste(rgba, mask=rgba.getchannel("A"))
    return np.asarray(canvas)
