"""Statements about data mining in an image's own metadata.

The Data Mining property of PLUS (IPTC Photo Metadata Standard 2023.1) is in the XMP packet, a piece of XML
that is plain text in every format but for PNG's compressed iTXt. So the file is searched for the value, and
only where it occurs is its surrounding read.
"""

import re
import zlib
from typing import Final

_PROHIBITED: Final = b"DMI-PROHIBITED"
_MAX_XMP: Final = 1 << 20
_MAX_CHUNKS: Final = 1000
# As an attribute, as an element, and as an element that refers to the value, whatever the prefix.
_PROPERTY: Final = re.compile(
    rb"\bDataMining\b(?:\s*=\s*[\"']|\s*>|\s[^<>]{0,100}?resource\s*=\s*[\"'])[^\"'<>]{0,200}?(DMI-PROHIBITED[A-Z-]*)"
)
_RESERVED: Final = re.compile(rb"\btdm:reservation(?:\s*=\s*[\"']|\s*>)\s*1\b")


def prohibited(data: bytes) -> str:
    """Return the property of an image's XMP that prohibits data mining, such as `DMI-PROHIBITED`, or
    nothing."""
    for text in (data, _compressed_xmp(data)):
        if _PROHIBITED in text and (found := _PROPERTY.search(text)):
            return f"plus:DataMining: {found[1].decode('ascii')}"
        if b"tdm:reservation" in text and _RESERVED.search(text):
            return "tdm:reservation: 1"
    return ""


def _compressed_xmp(data: bytes) -> bytes:
    """Return the XMP packet of a PNG (PNG, third edition, section 11.3.3.4) if it is compressed."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return b""
    position = 8
    for _ in range(_MAX_CHUNKS):
        length = int.from_bytes(data[position : position + 4], "big")
        kind, body = data[position + 4 : position + 8], data[position + 8 : position + 8 + length]
        if kind in (b"", b"IEND"):
            break
        if kind == b"iTXt" and body.startswith(b"XML:com.adobe.xmp\0\1\0"):
            packed = body[20:].split(b"\0", 2)[-1]  # after the language and the translated keyword
            try:
                return zlib.decompressobj().decompress(packed, _MAX_XMP)
            except zlib.error:
                return b""
        position += 12 + length
    return b""
