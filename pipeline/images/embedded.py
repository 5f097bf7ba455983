"""Find the metadata that a picture carries, without decoding it: XMP, IPTC-IIM, Exif, JUMBF and PNG's texts.

Sizes that a file declares are not believed: a part that does not fit ends the search. Never raises.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple

from pipeline.images.headers import EXIF_PREFIX, sniff
from pipeline.images.xmp import MAX_PACKET

_XMP_PREFIX: Final = b"http://ns.adobe.com/xap/1.0/\0"
_PHOTOSHOP: Final = b"Photoshop 3.0\0"
_XMP_KEY: Final = b"XML:com.adobe.xmp"
_C2PA_BOX: Final = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
_MAX_SEGMENTS: Final = 2_000
_MAX_CHUNKS: Final = 2_000
_MAX_TEXT: Final = 64 << 10
_MAX_TEXTS: Final = 64
MAX_JUMBF: Final = 16 << 20
"""Bytes of a manifest store that are read."""
_EXIF_TEXTS: Final = {
    0x010E: "description", 0x0131: "software", 0x013B: "artist", 0x8298: "copyright", 0x9286: "comment"
}  # fmt: skip
_EXIF_DIRECTORY: Final = 0x8769
_MAX_ENTRIES: Final = 500
_IPTC_TEXTS: Final = {40: "instructions", 80: "creator", 110: "credit", 116: "notice"}
_PACKET: Final = re.compile(rb"<x:xmpmeta[\s>].{0,1048576}?</x:xmpmeta\s*>", re.DOTALL)


class Embedded(NamedTuple):
    """The metadata of a picture as found; fields only."""

    xmp: bytes = b""
    iptc: bytes = b""
    """Data sets of IPTC-IIM 4."""
    exif: bytes = b""
    """From the TIFF header on."""
    jumbf: bytes = b""
    """Boxes of ISO/IEC 19566-5, in which C2PA and JPEG Trust keep manifests."""
    texts: tuple[tuple[str, str], ...] = ()
    """(keyword, text) of a PNG, or of a JPEG's and GIF's comments, whose keyword is ""."""


def find(data: bytes) -> Embedded:
    """Return the metadata of a picture of any format; broken parts count as absent."""
    name = sniff(data)
    found = {"jpeg": _jpeg, "png": _png, "webp": _webp, "avif": _boxes}.get(name, lambda _: Embedded())(data)
    if not found.xmp and name not in ("jpeg", "png") and (packet := _PACKET.search(data)):
        found = found._replace(xmp=packet[0])
    return found


def _jpeg(data: bytes) -> Embedded:
    position = 2
    xmp = iptc = exif = b""
    parts: dict[int, list[tuple[int, bytes]]] = {}
    texts: list[tuple[str, str]] = []
    for _ in range(_MAX_SEGMENTS):
        if data[position : position + 1] != b"\xff":
            break
        code = data[position + 1 : position + 2]
        if code == b"\xff":
            position += 1
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if not code or code in (b"\xda", b"\xd9") or length < 2:
            break
        body = data[position + 4 : position + 2 + length]
        position += 2 + length
        if code == b"\xe1" and body.startswith(_XMP_PREFIX):
            xmp = xmp or body[len(_XMP_PREFIX) :]
        elif code == b"\xe1" and body.startswith(EXIF_PREFIX):
            exif = exif or body[len(EXIF_PREFIX) :]
        elif code == b"\xed" and body.startswith(_PHOTOSHOP):
            iptc = iptc or _resource(body[len(_PHOTOSHOP) :])
        elif code == b"\xeb" and body.startswith(b"JP") and len(body) > 16:
            number, order = struct.unpack_from(">HI", body, 2)
            parts.setdefault(number, []).append((order, body[8:]))
        elif code == b"\xfe" and len(texts) < _MAX_TEXTS:
            texts.append(("", _text(body)))
    jumbf = b"".join(_joined(sorted(parts[number], key=lambda part: part[0])) for number in sorted(parts))
    return Embedded(xmp, iptc, exif, jumbf[:MAX_JUMBF], tuple(texts))


def _joined(parts: list[tuple[int, bytes]]) -> bytes:
    """Join the segments of one box (ISO/IEC 19566-5, annex D): each repeats the box's length and type."""
    first = parts[0][1]
    header = 16 if first[:4] == b"\0\0\0\1" else 8
    return first + b"".join(part[header:] for _, part in parts[1:])


def _resource(data: bytes) -> bytes:
    """Return the image resource 0x0404, IPTC-IIM, of Photoshop's resources."""
    position = 0
    while data[position : position + 4] == b"8BIM" and position + 12 <= len(data):
        kind, name = struct.unpack_from(">HB", data, position + 4)
        start = position + 6 + (name + 2) // 2 * 2
        length = int.from_bytes(data[start : start + 4], "big")
        if kind == 0x0404:
            return data[start + 4 : start + 4 + length]
        position = start + 4 + length + length % 2
    return b""


def _png(data: bytes) -> Embedded:
    position = 8
    xmp = exif = jumbf = b""
    texts: list[tuple[str, str]] = []
    for _ in range(_MAX_CHUNKS):
        if position + 12 > len(data):
            break
        length = int.from_bytes(data[position : position + 4], "big")
        kind, body = data[position + 4 : position + 8], data[position + 8 : position + 8 + length]
        position += 12 + length
        if kind == b"IEND":
            break
        if kind == b"caBX":
            jumbf = jumbf or body[:MAX_JUMBF]
        elif kind == b"eXIf":
            exif = exif or body
        elif kind in (b"tEXt", b"zTXt", b"iTXt") and len(texts) < _MAX_TEXTS:
            key, text = _chunk_text(kind, body)
            if key == _XMP_KEY:
                xmp = xmp or text
            elif key:
                texts.append((_text(key), _text(text)))
    return Embedded(xmp, b"", exif, jumbf, tuple(texts))


def _chunk_text(kind: bytes, body: bytes) -> tuple[bytes, bytes]:
    """Return keyword and text of a textual chunk (PNG, third edition, section 11.3.3)."""
    key, zero, rest = body.partition(b"\0")
    if not zero or len(key) > 79:
        return b"", b""
    limit = MAX_PACKET if key == _XMP_KEY else _MAX_TEXT
    if kind == b"tEXt":
        return key, rest[:limit]
    packed = kind == b"zTXt" or rest[:1] == b"\1"
    text = rest[1:] if kind == b"zTXt" else rest[2:].split(b"\0", 2)[-1]
    if packed:
        try:
            text = zlib.decompressobj().decompress(text, limit)
        except zlib.error:
            return key, b""
    return key, text[:limit]


def _webp(data: bytes) -> Embedded:
    position, chunks = 12, dict[bytes, bytes]()
    for _ in range(_MAX_CHUNKS):
        kind, length = (
            data[position : position + 4],
            int.from_bytes(data[position + 4 : position + 8], "little"),
        )
        if len(kind) < 4:
            break
        if kind in (b"XMP ", b"EXIF", b"C2PA"):
            chunks.setdefault(kind, data[position + 8 : position + 8 + length][:MAX_JUMBF])
        position += 8 + length + length % 2
    return Embedded(
        chunks.get(b"XMP ", b""),
        b"",
        chunks.get(b"EXIF", b"").removeprefix(EXIF_PREFIX),
        chunks.get(b"C2PA", b""),
    )


def boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[bytes, int, int]]:
    """Yield (type, start, end) of the contents of boxes (ISO/IEC 14496-12, 4.2) as far as they fit."""
    end = len(data) if end is None else end
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        header = 8
        if size == 1 and start + 16 <= end:
            size, header = int.from_bytes(data[start + 8 : start + 16], "big"), 16
        elif size == 0:
            size = end - start
        if size < header or start + size > end:
            return
        yield kind, start + header, start + size
        start += size


def _boxes(data: bytes) -> Embedded:
    """Return the C2PA manifest store of an AVIF: box uuid, the purpose `manifest`, an offset, the store."""
    for kind, start, end in boxes(data):
        if kind == b"uuid" and data[start : start + 16] == _C2PA_BOX:
            purpose, zero, rest = data[start + 20 : end].partition(b"\0")  # after version and flags
            if zero and purpose == b"manifest":
                return Embedded(jumbf=rest[8:][:MAX_JUMBF])
    return Embedded()


def _text(data: bytes) -> str:
    try:
        return data[:_MAX_TEXT].decode()
    except UnicodeDecodeError:
        return data[:_MAX_TEXT].decode("latin-1")


def exif_texts(exif: bytes) -> dict[str, str]:
    """Return artist, copyright, software, description and comment of Exif (CIPA DC-008), as far as stated."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return {}
    found: dict[str, str] = {}
    waiting, seen = [int.from_bytes(exif[4:8], "little" if order == "<" else "big")], set[int]()
    while waiting and len(seen) < 3:
        start = waiting.pop()
        if start in seen or start + 2 > len(exif):
            continue
        seen.add(start)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        for index in range(min(count, _MAX_ENTRIES)):
            if start + 14 + 12 * index > len(exif):
                break
            tag, kind, length, value = struct.unpack_from(f"{order}HHII", exif, start + 2 + 12 * index)
            if tag == _EXIF_DIRECTORY:
                waiting.append(value)
            elif tag in _EXIF_TEXTS and kind in (1, 2, 7, 129):
                at = start + 10 + 12 * index if length <= 4 else value
                text = _exif_text(exif[at : at + min(length, _MAX_TEXT)], order, is_comment=tag == 0x9286)
                if text:
                    found.setdefault(_EXIF_TEXTS[tag], text)
    return found


def _exif_text(data: bytes, order: str, *, is_comment: bool) -> str:
    if is_comment:
        code, data = data[:8], data[8:]
        if code.startswith(b"UNICODE"):
            return data.decode("utf-16-le" if order == "<" else "utf-16-be", "replace").strip("\0 ")
    return "; ".join(part for part in (one.strip() for one in _text(data).split("\0")) if part)


def iptc_texts(iptc: bytes) -> dict[str, str]:
    """Return creator, credit, notice and instructions of IPTC-IIM (4.2, record 2), as far as stated."""
    found: dict[str, list[str]] = {}
    position = 0
    while position + 5 <= len(iptc) and iptc[position] == 0x1C:
        record, dataset, length = struct.unpack_from(">BBH", iptc, position + 1)
        if length & 0x8000:  # an extended data set: none of those that are read
            break
        if record == 2 and dataset in _IPTC_TEXTS:
            text = _text(iptc[position + 5 : position + 5 + length]).strip("\0 ")
            if text:
                found.setdefault(_IPTC_TEXTS[dataset], []).append(text)
        position += 5 + length
    return {name: "; ".join(texts) for name, texts in found.items()}
