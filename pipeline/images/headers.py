"""Read what the first bytes and the markers of an image file say, without decoding it."""

import re
import struct
from typing import Final, NamedTuple

FORMATS: Final = ("jpeg", "png", "webp", "gif", "avif")
"""What browsers show. Most security notices of image decoders concern formats that are not among these."""

EXIF_PREFIX: Final = b"Exif\0\0"
_APP1: Final = 0xE1
_SOS: Final = 0xDA
JPEG_END: Final = b"\xff\xd9"
# What ends entropy-coded data or begins a segment: not a stuffed 0xFF00, a fill byte, TEM, RSTn or SOI.
_MARKER: Final = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")


class JpegMarkers(NamedTuple):
    """Hold what the markers of a JPEG say; fields only."""

    scans: int
    """Scans up to the end of the image, counted to at most one more than asked for."""
    ended: bool
    """Whether the end marker was seen; some writers forget it, and the picture is whole."""
    exif: bytes
    """The first Exif segment with its prefix, or nothing."""


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
    return ""


def jpeg_markers(data: bytes, max_scans: int) -> JpegMarkers:
    """Return the number of scans and the Exif segment of a JPEG (ITU-T T.81, annex B).

    Counting stops after `max_scans` + 1. Segments are skipped by their lengths, so a thumbnail inside Exif
    does not count, nor does what follows the end of the image (a film, a second picture, an archive). A
    broken stream gives what could be read of it.
    """
    scans, ended, exif, position = 0, False, b"", 2
    while (found := _MARKER.search(data, position)) is not None:
        code, position = data[found.end() - 1], found.end()
        if code == JPEG_END[1]:
            ended = True
            break
        length = max(2, int.from_bytes(data[position : position + 2], "big"))
        if code == _SOS:
            scans += 1
            if scans > max_scans:
                break
        elif code == _APP1 and not exif and data.startswith(EXIF_PREFIX, position + 2):
            exif = data[position + 2 : position + length]
        position += length
    return JpegMarkers(scans, ended, exif)


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
