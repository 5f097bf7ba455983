"""Content-Encoding (RFC 9110, section 8.4): which words name an encoding, and how one is undone in bounds.

Servers write many a word there that is none: `none`, `UTF-8`, `binary`, `aws-chunked`, `image/jpeg`.
Browsers, curl and urllib take such a body as it is, and so do we. A few kilobytes may unpack to gigabytes, so
nothing is unpacked beyond a limit, whatever the encoded body says of its size.
"""

import io
import zlib
from collections.abc import Callable, Iterable
from typing import Final

MAX_LAYERS: Final = 3
"""Encodings of one body, one upon the other, that are undone."""

# https://www.iana.org/assignments/http-parameters (content codings) but for those that `_UNDO` has.
_OTHERS: Final = frozenset({"aes128gcm", "compress", "dcb", "dcz", "exi", "pack200-gzip", "x-compress"})
_ZSTD_WINDOW: Final = 8 << 20  # bytes; RFC 9659: no more for a Content-Encoding
_ZSTD_STEP: Final = 64  # bytes of input at a time, which unpack to 2 MiB at most


def named(values: Iterable[str]) -> list[str]:
    """Return the encodings among the words of all Content-Encoding headers, in the order of their use."""
    words = (word.partition(";")[0].strip().lower() for value in values for word in value.split(","))
    return [word for word in words if word in _UNDO or word in _OTHERS]


def undo(body: bytes, encodings: list[str], limit: int) -> tuple[bytes, str]:
    """Return the plain body of at most `limit` bytes and "", or nothing and what is wrong; never raises."""
    if len(encodings) > MAX_LAYERS:
        return b"", f"{len(encodings)} encodings"
    for encoding in reversed(encodings):
        if encoding not in _UNDO:
            return b"", f"{encoding} is not understood"
        body, problem = _UNDO[encoding](body, limit + 1)
        if len(body) > limit:
            problem = f"it unpacks to more than {limit} bytes"
        if problem:
            return b"", f"{encoding}: {problem}"
    return body, ""


def _inflated(body: bytes, most: int, window_bits: int = 31) -> tuple[bytes, str]:
    inflater = zlib.decompressobj(window_bits)
    try:
        plain = inflater.decompress(body, most)
    except zlib.error as error:
        return b"", str(error)
    if len(plain) == most:
        return plain, ""
    if not inflater.eof:
        return plain, "it ends early"
    return plain, "something follows its end" if inflater.unused_data else ""


def _deflated(body: bytes, most: int) -> tuple[bytes, str]:
    """Inflate zlib's format, as the RFC says, or the raw one, which some servers send."""
    found = _inflated(body, most, 15)
    raw = _inflated(body, most, -15) if found[1] else found
    return found if raw[1] else raw


def _unbrotlied(body: bytes, most: int) -> tuple[bytes, str]:
    from fastwarc.stream_io import BrotliReader

    try:
        return BrotliReader(io.BytesIO(body)).read(most), ""
    except OSError as error:
        return b"", str(error)


def _unzstded(body: bytes, most: int) -> tuple[bytes, str]:
    import zstandard

    reader = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj()
    parts: list[bytes] = []
    size = 0
    for start in range(0, len(body), _ZSTD_STEP):
        try:
            parts.append(reader.decompress(body[start : start + _ZSTD_STEP]))
        except zstandard.ZstdError as error:
            return b"", str(error)
        size += len(parts[-1])
        if size >= most:
            return b"".join(parts)[:most], ""
        if reader.eof:
            more = reader.unused_data or body[start + _ZSTD_STEP :]
            return b"".join(parts), "something follows its end" if more else ""
    return b"", "it ends early"


_UNDO: Final[dict[str, Callable[[bytes, int], tuple[bytes, str]]]] = {
    "gzip": _inflated,
    "x-gzip": _inflated,
    "deflate": _deflated,
    "br": _unbrotlied,
    "zstd": _unzstded,
}
