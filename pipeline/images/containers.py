"""Take a file apart: keep the parts that its pixels need, its Exif and its colour profile, and drop the rest.

Browsers show a picture whatever is wrong with its comments, and decoders differ in which of them they mind.
So decoders are given no more than pixels need, and metadata is read here: a broken or too large part counts
as absent.
"""

import re
import zlib
from typing import Final, NamedTuple

from pipeline.images.headers import jpeg_markers

MAX_PROFILE: Final = 4 << 20
"""Most bytes of a colour profile; those of presses have some 2 MB."""
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_END: Final = b"\0\0\0\0IEND\xaeB`\x82"
_KIND: Final = re.compile(rb"[A-Za-z]{4}")
# Transparent colours by colour type (PNG, third edition, section 11.3.2.1): bytes of a tRNS chunk.
_CLEAR: Final = {0: range(2, 3), 2: range(6, 7), 3: range(257)}
_MOST_FRAMES: Final = 1 << 31
_WEBP_PIXELS: Final = (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")
_WEBP_METADATA: Final = 0x20 | 0x08 | 0x04
"""Flags of VP8X (RFC 9649, section 2.7.1): a profile, Exif, XMP."""
# An item of HEIF (ISO/IEC 14496-12, section 8.11.6): its version, flags, number, protection and type.
_ITEM: Final = re.compile(rb"(infe\x02\0\0.(?:..|....)\0\0)(?:Exif|mime)", re.DOTALL)


class Parts(NamedTuple):
    """Hold a file taken apart; fields only."""

    pixels: bytes
    """The file without the things that its pixels do not need."""
    exif: bytes = b""
    """With or without the prefix of JPEG."""
    profile: bytes = b""
    """An ICC profile."""
    animated: bool = False
    """Whether it was an animation of which `pixels` holds one picture."""


def jpeg(data: bytes) -> Parts:
    """Return a JPEG without comments and application segments but those of JFIF and Adobe."""
    markers = jpeg_markers(data, len(data))
    kept, position = [], 0
    for start, stop in markers.metadata:
        kept.append(data[position:start])
        position = stop
    return Parts(b"".join([*kept, data[position:]]), markers.exif, markers.profile)


def png(data: bytes) -> Parts:
    """Return a PNG with nothing but IHDR, PLTE, tRNS and IDAT: of an animation, the picture that IDAT holds.

    Ancillary chunks with a wrong checksum or length are left out, as the standard's section 13.1 asks. A
    chunk whose length leads nowhere is passed over as far as the pixels.
    """
    kept, found = [_PNG], Parts(data)
    position, colour, seen = len(_PNG), -1, False
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        kind, end = data[position + 4 : position + 8], position + 12 + length
        if kind == b"IEND":
            break
        ancillary = not kind[:1].isupper()
        if not _KIND.fullmatch(kind) or (ancillary and not _leads_on(data, end)):
            if seen:
                break
            position = _first_pixels(data, position)
            if position < 0:
                return Parts(data)  # its decoder says what is wrong
            continue
        chunk = data[position:end]
        if not ancillary:
            kept.append(chunk)
            seen = seen or kind == b"IDAT"
            if kind == b"IHDR" and length == 13:
                colour = chunk[17]
            if end > len(data):  # cut: its decoder says so
                return found._replace(pixels=b"".join(kept))
        elif zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big"):
            body = chunk[8:-4]
            if kind == b"tRNS" and not seen and length in _CLEAR.get(colour, ()):
                kept.append(chunk)
            elif kind == b"eXIf" and not found.exif:
                found = found._replace(exif=body)
            elif kind == b"iCCP" and not found.profile:
                found = found._replace(profile=_profile(body))
            elif kind == b"acTL" and not seen and length == 8:
                found = found._replace(animated=1 < int.from_bytes(body[:4], "big") <= _MOST_FRAMES)
        position = end
    return found._replace(pixels=b"".join([*kept, _END]))


def _leads_on(data: bytes, end: int) -> bool:
    """Return whether a chunk that ends here is followed by another chunk or by nothing."""
    return end == len(data) or bool(_KIND.match(data, end + 4))


def _first_pixels(data: bytes, position: int) -> int:
    """Return where the first IDAT chunk with the right checksum begins after `position`, else -1."""
    while (found := data.find(b"IDAT", position + 5)) >= 0:
        position = found - 4
        end = found + 4 + int.from_bytes(data[position:found], "big")
        if end + 4 <= len(data) and zlib.crc32(data[found:end]) == int.from_bytes(data[end : end + 4], "big"):
            return position
    return -1


def _profile(body: bytes) -> bytes:
    """Return the profile of an iCCP chunk: a name, the method 0 (deflate), and compressed bytes."""
    name, zero, rest = body.partition(b"\0")
    if not (name and zero and rest[:1] == b"\0"):
        return b""
    inflater = zlib.decompressobj()
    try:
        profile = inflater.decompress(rest[1:], MAX_PROFILE)
    except zlib.error:
        return b""
    return profile if inflater.eof else b""


def webp(data: bytes) -> Parts:
    """Return a WebP without metadata and unknown chunks."""
    kept, metadata = [], dict[bytes, bytes]()
    position = 12
    while position + 8 <= len(data):
        kind, length = (
            data[position : position + 4],
            int.from_bytes(data[position + 4 : position + 8], "little"),
        )
        end = position + 8 + length
        if kind == b"VP8X" and length >= 10:
            flags = data[position + 8] & ~_WEBP_METADATA
            kept.append(data[position : position + 8] + bytes([flags]) + data[position + 9 : end])
        elif kind in _WEBP_PIXELS:
            kept.append(data[position:end])
        elif end <= len(data):
            metadata.setdefault(kind, data[position + 8 : end])
        if kind in _WEBP_PIXELS and length % 2:
            kept.append(b"\0")
        position = end + length % 2
    body = b"WEBP" + b"".join(kept)
    pixels = b"RIFF" + len(body).to_bytes(4, "little") + body
    profile = metadata.get(b"ICCP", b"")
    return Parts(pixels, metadata.get(b"EXIF", b""), profile if len(profile) <= MAX_PROFILE else b"")


def avif_without_metadata(data: bytes) -> bytes:
    """Return an AVIF whose Exif and XMP are hidden, in place, so that every offset stays."""
    return _ITEM.sub(rb"\1skip", data, count=8)
