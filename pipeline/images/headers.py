"""Say of a file's first bytes and markers which format it is and how large, without decoding it."""

import re
import struct
from typing import Final, NamedTuple

WEB_FORMATS: Final = ("jpeg", "png", "webp", "gif", "avif")
"""Formats that browsers show. Most security notices of image decoders concern other formats."""
FORMATS: Final = (*WEB_FORMATS, "bmp", "tiff", "ppm")
"""The formats that can be decoded: by the crawl where `formats` says so, in training and evaluation sets
always.

`ppm` stands for the binary and plain forms of PBM, PGM and PPM.
"""
SUFFIXES: Final = (
    "jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "avif", "bmp", "tif", "tiff", "ppm", "pgm", "pbm",
    "pnm",
)  # fmt: skip
"""Suffixes of files, and of members of archives, that are taken for images; their content decides."""

EXIF_PREFIX: Final = b"Exif\0\0"
JPEG_END: Final = b"\xff\xd9"
_ICC_PREFIX: Final = b"ICC_PROFILE\0"
_APP0, _APP1, _APP2, _APP14, _APP15, _COM = 0xE0, 0xE1, 0xE2, 0xEE, 0xEF, 0xFE
_SOS: Final = 0xDA
_SEQUENTIAL: Final = (0xC0, 0xC1)
# Markers that end entropy-coded data or begin a segment: not a stuffed 0xFF00, a fill byte, TEM, RSTn or SOI.
_MARKER: Final = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
# As encoders write pictures of three components: JFIF's segment, tables of quantisation, the frame, Huffman
# tables of the sizes of annex K, a scan of all components.
_USUAL: Final = re.compile(
    rb"\xff\xd8(?:\xff\xe0\0\x10.{14})?(?:\xff\xdb\0(?:\x43.{65}|\x84.{130}))+"
    rb"\xff[\xc0\xc1]\0\x11\x08(..)(..)\x03.{9}(?:\xff\xc4(?:\0\x1f.{29}|\0\xb5.{179}|\x01\xa2.{416}))*\xff\xda..\x03",
    re.DOTALL,
)
_BMP_HEADERS: Final = (12, 16, 40, 52, 56, 64, 108, 124)
_PPM: Final = re.compile(rb"P[1-6]\s")


class JpegMarkers(NamedTuple):
    """Hold the contents of a JPEG's markers; fields only."""

    scans: int
    """Scans up to the end of the image, counted to at most one more than asked for."""
    ended: bool
    """Whether the end marker was seen; some writers forget it, and the picture is whole."""
    exif: bytes
    """The first Exif segment with its prefix, or nothing."""
    profile: bytes
    """The ICC profile (ICC.1, annex B.4) if all of its segments are there, or nothing."""
    metadata: tuple[tuple[int, int], ...]
    """From where to where segments lie that no decoder needs."""


def sniff(data: bytes) -> str:
    """Return the format that the first bytes announce (one of FORMATS), or nothing."""
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "webp"
    if data[4:8] == b"ftyp":  # ISO/IEC 14496-12: box size, type, major brand, version, compatible brands
        brands = data[8 : min(int.from_bytes(data[:4], "big"), 256)]
        if brands[:4] in (b"avif", b"avis") or b"avif" in brands[8:]:
            return "avif"
    if data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in _BMP_HEADERS:
        return "bmp"
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "tiff"
    return "ppm" if _PPM.match(data) else ""


def jpeg_markers(data: bytes, max_scans: int, *, whole: bool = True) -> JpegMarkers:
    """Return the contents of a JPEG's markers (ITU-T T.81, annex B).

    Counting stops after `max_scans` + 1. Segments are skipped by their lengths, so a thumbnail inside Exif
    does not count, nor do bytes after the end of the image (a film, a second picture, an archive). A broken
    stream gives the part that could be read. Unless `whole`, a sequential image whose first scan has all
    components is not looked at further: decoders take no second scan, and `ended` is not known.
    """
    if not whole and _USUAL.match(data):
        return _ONE_SCAN
    scans, ended, exif, position, components = 0, False, b"", 2, 0
    profile: dict[int, bytes] = {}
    metadata: list[tuple[int, int]] = []
    while (found := _MARKER.search(data, position)) is not None:
        if found.start() > position and metadata and metadata[-1][1] == position:
            metadata[-1] = (metadata[-1][0], found.start())  # its length was too short: the rest is its own
        code, position = data[found.end() - 1], found.end()
        if code == JPEG_END[1]:
            ended = True
            break
        length = max(2, int.from_bytes(data[position : position + 2], "big"))
        if code == _SOS:
            scans += 1
            complete = not whole and data[position + 2 : position + 3] == bytes([components])
            if scans > max_scans or complete:
                break
        elif code in _SEQUENTIAL:
            components = (data[position + 7 : position + 8] or b"\0")[0]
        elif code == _COM or (_APP0 < code <= _APP15 and code != _APP14):
            metadata.append((found.start(), position + length))
            if code == _APP1 and not exif and data.startswith(EXIF_PREFIX, position + 2):
                exif = data[position + 2 : position + length]
            elif code == _APP2 and data.startswith(_ICC_PREFIX, position + 2) and length >= 16:
                number = int.from_bytes(data[position + 14 : position + 15])
                profile[number] = data[position + 16 : position + length]
        position += length
    return JpegMarkers(scans, ended, exif, _joined(profile), tuple(metadata))


_ONE_SCAN: Final = JpegMarkers(1, False, b"", b"", ())


def _joined(parts: dict[int, bytes]) -> bytes:
    """Return the profile made of these numbered parts, nothing if a part is missing."""
    numbers = sorted(parts)
    return b"".join(parts[n] for n in numbers) if numbers == list(range(1, len(parts) + 1)) else b""


def usual_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height of a JPEG of one scan, three components and no metadata; None for another."""
    found = _USUAL.match(data)
    return found and (int.from_bytes(found[2]), int.from_bytes(found[1]))


def webp_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height from the first chunk of a WebP (RFC 9649), or None without such a chunk."""
    chunk, body = data[12:16], data[20:30]
    if len(body) < 10:
        return None
    if chunk == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if chunk == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if chunk == b"VP8 ":
        width, height = struct.unpack_from("<HH", body, 6)
        return width & 0x3FFF, height & 0x3FFF
    return None
