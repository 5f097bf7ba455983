"""Decode untrusted pictures: judged by their headers first, then opaque RGB, and how to turn and colour it.

One way for the crawl, for training and evaluation sets. Ordinary JPEG is simplejpeg's (libjpeg-turbo's), and
its callers know how fast and how exact it has to be; everything else is Pillow's. Work that may take long or
crash runs in a process that can be killed (`pipeline.images.decoder`).
"""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.images import containers, exif, profiles
from pipeline.images.headers import JPEG_END, JpegMarkers, jpeg_markers, sniff, webp_size
from pipeline.images.profiles import Conversion
from pipeline.options.images import ImageOptions

T = TypeVar("T")
Pixels = npt.NDArray[np.uint8]
Check = Callable[[int, int], None]
"""Raises BadImage for a width and a height that are not taken."""

_CONTAINERS: Final = {"jpeg": containers.jpeg, "png": containers.png, "webp": containers.webp}
_TO_8_BITS: Final = np.round(np.arange(1 << 16) / 257).astype(np.uint8)
_ADDRESS: Final = re.compile(r" <[^<>]* at 0x[0-9a-f]+>")  # would differ from run to run


class BadImage(ValueError):  # noqa: N818
    """Say why a picture cannot be used; `reason` is a word of `pipeline.reasons`."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class Unreadable(NamedTuple):
    """Name an example that cannot be decoded; fields only."""

    example_id: str
    label: str
    reason: str
    """A word of `pipeline.reasons`."""


def named(unreadable: Sequence[Unreadable], most: int = 3) -> str:
    """Return the first of them with their reasons, for a message."""
    names = [f"{one.example_id} ({one.reason})" for one in unreadable[:most]]
    return ", ".join(names) + (", ..." if len(unreadable) > most else "")


class Decoded(NamedTuple):
    """Hold decoded pixels, still in the stored orientation and colours and perhaps already scaled down."""

    rgb: Pixels
    width: int
    """Of the original, in the stored orientation."""
    height: int
    extent: tuple[float, float]
    """Columns and rows of `rgb` that the original covers: 481 at 4/8 is 240.5 columns, decoded as 241."""
    tags: Image.Exif
    conversion: Conversion | None = None
    """To sRGB; None where `rgb` is in sRGB."""


class Opened(NamedTuple):
    """Hold an image that Pillow decoded, as `Decoded` does."""

    image: Image.Image
    """Opaque RGB, or as stored where that was asked for."""
    width: int
    height: int
    extent: tuple[float, float]
    tags: Image.Exif
    conversion: Conversion | None

    def decoded(self) -> Decoded:
        """Return the same with an array."""
        return Decoded(np.asarray(self.image), *self[1:])


def format_of(data: bytes, options: ImageOptions) -> str:
    """Return the format of a file that is to be decoded; BadImage for anything that is none of
    `options.formats`."""
    if not data:
        raise BadImage("empty_body")
    if len(data) < options.min_bytes:
        raise BadImage("too_few_bytes", f"{len(data)} bytes")
    name = sniff(data)
    if name not in options.formats:
        raise BadImage("not_image", name or f"starts with {data[:8]!r}")
    return name


def check_size(width: int, height: int, options: ImageOptions) -> None:
    """Refuse an original by its size, which a header tells before any pixel is decoded."""
    if width < 1 or height < 1:
        reason = "decode_error"
    elif width * height > options.max_pixels:
        reason = "too_many_pixels"
    elif min(width, height) < options.min_side:
        reason = "too_small"
    elif max(width, height) > options.max_aspect * min(width, height):
        reason = "bad_aspect"
    else:
        return
    raise BadImage(reason, f"{width} x {height} pixels")


def check_scans(markers: JpegMarkers, options: ImageOptions) -> None:
    """Refuse a JPEG by its number of scans, each of which costs a pass over all pixels."""
    if markers.scans > options.max_scans:
        raise BadImage("too_many_scans", f"more than {options.max_scans}")


def jpeg_tags(markers: JpegMarkers, colourspace: str) -> tuple[Image.Exif, Conversion | None]:
    """Return the Exif of a JPEG and its conversion to sRGB."""
    mode = "L" if colourspace == "Gray" else "RGB"
    return exif.parse(markers.exif), profiles.conversion(markers.profile, mode)


def whole_jpeg(data: bytes, markers: JpegMarkers) -> bytes:
    """Return a JPEG with its end marker, which some writers forget."""
    return data if markers.ended else data + JPEG_END


def open_picture(
    data: bytes, name: str, options: ImageOptions, check: Check,
    least: Callable[[int, int], tuple[int, int]], *, stored: bool = False,
) -> Opened:  # fmt: skip
    """Decode with Pillow; a JPEG may come out scaled down to no less than `least` of its size.

    stored: leave a palette, alpha, single bits and CMYK as they are.
    """
    if name == "jpeg":
        check_scans(jpeg_markers(data, options.max_scans), options)

    def work() -> Opened:
        return _opened(data, name, options, check, least, stored=stored)

    return _judged(data, name, check, work)


def measure(data: bytes, name: str, check: Check) -> tuple[int, int]:
    """Return width and height from the headers."""

    def work() -> tuple[int, int]:
        with _header(_parts(data, name).pixels, name) as image:
            check(*image.size)
            return image.size

    return _judged(data, name, check, work)


def _judged(data: bytes, name: str, check: Check, work: Callable[[], T]) -> T:
    """Run `work` with Pillow; any exception of it becomes a BadImage."""
    if name == "webp" and (size := webp_size(data)):  # Pillow allocates 8 bytes a pixel on opening
        check(*size)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return work()
    except BadImage:
        raise
    except Image.DecompressionBombError as error:
        raise BadImage("too_many_pixels", str(error)) from error
    except Exception as error:  # over ten classes were seen to leave Pillow on hostile files
        detail = _ADDRESS.sub("", f"{type(error).__name__}: {error}")
        raise BadImage(_decoding_reason(error), detail) from error


def _parts(data: bytes, name: str) -> containers.Parts:
    take_apart = _CONTAINERS.get(name)
    return containers.Parts(data) if take_apart is None else take_apart(data)


def _opened(
    data: bytes, name: str, options: ImageOptions, check: Check,
    least: Callable[[int, int], tuple[int, int]], *, stored: bool,
) -> Opened:  # fmt: skip
    parts = _parts(data, name)
    with _header(parts.pixels, name) as image:
        width, height = image.size
        check(width, height)
        if not options.allow_animated and (parts.animated or getattr(image, "is_animated", False)):
            raise BadImage("animated")
        drafted = image.draft(image.mode, least(width, height)) if name == "jpeg" else None
        for packet in ("xmp", "XML:com.adobe.xmp"):  # whose tiff:Orientation Pillow would follow
            image.info.pop(packet, None)
        image.load()
        if name == "tiff":  # turned by Pillow
            width, height = image.size
        extent = (drafted[1][2], drafted[1][3]) if drafted else (width, height)
        tags, profile = parts.exif, parts.profile
        if name not in _CONTAINERS:
            tags, profile = (image.info.get(key) or b"" for key in ("exif", "icc_profile"))
        taken, conversion = _stored(image, profile) if stored else _opaque(image, profile)
        return Opened(taken, width, height, extent, exif.parse(tags), conversion)


def _header(data: bytes, name: str) -> Image.Image:
    """Open a file, without its metadata if they prevent it."""
    try:
        return Image.open(io.BytesIO(data), formats=[name.upper()])
    except Exception:
        if name != "avif":
            raise
        return Image.open(io.BytesIO(containers.avif_without_metadata(data)), formats=["AVIF"])


def _decoding_reason(error: Exception) -> str:
    text = str(error).lower()
    if isinstance(error, MemoryError) or "out of memory" in text or "insufficient memory" in text:
        return "decode_memory"
    if isinstance(error, EOFError) or "truncated" in text:
        return "truncated"
    return "decode_error"


def _opaque(image: Image.Image, profile: bytes) -> tuple[Image.Image, Conversion | None]:
    """Return RGB, transparency over white, 16 bits scaled to 8; and the conversion that it still needs.

    Pictures that are not RGB or grey by nature (CMYK, Lab) are converted here.
    """
    if image.mode.startswith("I") or image.mode == "F":  # Pillow's own conversion clips at 255
        return Image.fromarray(np.repeat(_to_8_bits(image)[..., None], 3, axis=2)), profiles.conversion(
            profile, "L"
        )
    if image.mode == "CMYK":
        conversion = profiles.conversion(profile, "CMYK")
        return (image.convert("RGB") if conversion is None else conversion.image(image)), None
    if image.mode == "LAB":
        return profiles.from_lab(image), None
    conversion = profiles.conversion(profile, "L" if image.mode in ("1", "L", "LA", "La") else "RGB")
    if not image.has_transparency_data:
        return image.convert("RGB"), conversion
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    canvas = Image.new("RGB", rgba.size, "white")
    canvas.paste(rgba, mask=rgba.getchannel("A"))
    return canvas, conversion


def _stored(image: Image.Image, profile: bytes) -> tuple[Image.Image, Conversion | None]:
    """Return an image that Pillow can resize and then convert to RGB; modes that it would clip or refuse,
    opaque."""
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"):
        return _opaque(image, profile)
    image.info.pop("transparency", None)  # changes no pixel in a conversion to RGB, but warns
    kind = image.mode if image.mode == "CMYK" else "L" if image.mode in ("1", "L", "LA") else "RGB"
    return image, profiles.conversion(profile, kind)


def _to_8_bits(image: Image.Image) -> Pixels:
    """Return greys of 16 bits or more as uint8 [height, width], transparent pixels as white."""
    grey = np.asarray(image)
    if image.mode == "F":  # no standard says what is white
        finite = np.nan_to_num(grey, nan=0, posinf=0, neginf=0)
        white = next((top for top in (1, 255, 65535) if finite.max() <= top), float(finite.max()))
        return np.asarray(np.rint(finite.clip(0, white) * (255 / white)), np.uint8)
    scaled: Pixels = _TO_8_BITS[grey if grey.dtype.itemsize == 2 else np.clip(grey, 0, 65535)]
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        scaled[grey == clear] = 255
    return scaled
