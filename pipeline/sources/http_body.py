"""The body of an archived HTTP answer: chunks joined, content decoded, at most so many bytes.

Archives differ from their headers: some tools keep the headers of the wire beside a decoded body (pywb's
own samples claim chunks that are not there). So a coding is undone only where the bytes show it.
"""

import io
import zlib
from typing import Final

from fastwarc.stream_io import BrotliReader

_GZIP: Final = b"\x1f\x8b"
_MAX_CODINGS: Final = 4


def decode(data: bytes, transfer: str, codings: str, limit: int) -> tuple[bytes, str]:
    """Return the decoded body, cut at `limit` bytes, and what was wrong with it ("" if nothing).

    `transfer` and `codings` are the Transfer-Encoding and Content-Encoding headers. Of a damaged body the
    part before the damage is returned.
    """
    problem = ""
    if "chunked" in transfer.lower():
        data = _joined(data)
    names = [name.strip().lower() for name in codings.split(",")]
    for name in reversed(names[:_MAX_CODINGS]):
        if name in ("gzip", "x-gzip") and data.startswith(_GZIP):
            data, problem = _inflated(data, 31, limit)
        elif name == "deflate" and data:
            data, problem = _deflated(data, limit)
        elif name == "br" and data:
            data, problem = _unbrotlied(data, limit)
    return data[:limit], problem


def _joined(data: bytes) -> bytes:
    """Join chunks (RFC 9112, section 7.1); what does not begin with a chunk size is returned as it is."""
    parts: list[bytes] = []
    at = 0
    while at < len(data):
        end = data.find(b"\n", at, at + 1024)
        size = data[at:end].partition(b";")[0].strip() if end >= 0 else b""
        if not 0 < len(size) <= 8 or size.strip(b"0123456789abcdefABCDEF"):
            return data if not parts else b"".join(parts)
        length = int(size, 16)
        if length == 0:
            break
        parts.append(data[end + 1 : end + 1 + length])
        at = end + 1 + length
        at += 2 if data[at : at + 2] == b"\r\n" else 1
    return b"".join(parts)


def _inflated(data: bytes, window_bits: int, limit: int) -> tuple[bytes, str]:
    inflater = zlib.decompressobj(window_bits)
    parts: list[bytes] = []
    size = 0
    try:
        # In steps, so that what precedes damage is kept; max_length bounds a bomb.
        for start in range(0, len(data), 1 << 14):
            parts.append(inflater.decompress(data[start : start + (1 << 14)], limit - size))
            size += len(parts[-1])
            if size >= limit or inflater.eof:
                return b"".join(parts), ""
    except zlib.error as error:
        return b"".join(parts), str(error)
    return b"".join(parts), "the compressed body ends early"


def _deflated(data: bytes, limit: int) -> tuple[bytes, str]:
    """Inflate; servers send zlib as RFC 9110 says, or raw deflate, or have it undone already."""
    for window_bits in (15, -15):
        plain, problem = _inflated(data, window_bits, limit)
        if not problem:
            return plain, ""
    return data, ""


def _unbrotlied(data: bytes, limit: int) -> tuple[bytes, str]:
    """Undo brotli, which has no magic number: a body that is HTML already is left alone."""
    if data.lstrip()[:1] == b"<":
        return data, ""
    try:
        return BrotliReader(io.BytesIO(data)).read(limit), ""
    except OSError as error:
        return b"", str(error)
