"""Content-Encoding (RFC 9110, section 8.4): the words that name an encoding, and decoding within limits.

Servers write many a word there that is none: `none`, `UTF-8`, `binary`, `aws-chunked`, `image/jpeg`.
Browsers, curl and urllib take such a body as it is, and so do we. A few kilobytes may unpack to gigabytes, so
nothing is unpacked beyond a limit, whatever the encoded body says of its size.
"""

import io
import re
import zlib
from collections.abc import Callable, Iterable
from typing import Final

MAX_LAYERS: Final = 3
"""Encodings of one body, one upon the other, that are undone."""

# https://www.iana.org/assignments/http-parameters (content codings) but for those that `_UNDO` has.
_OTHERS: Final = frozenset({"aes128gcm", "compress", "dcb", "dcz", "exi", "pack200-gzip", "x-compress"})
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_ZSTD_WINDOW: Final = 8 << 20  # bytes; RFC 9659: no more for a Content-Encoding
_STEP: Final = 1 << 14  # bytes
_TRAILER: Final = "something follows its end"
_MARKUP: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*<")
_CONTROL: Final = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]")  # but for ESC, which ISO-2022-JP has
_ZSTD_STEP: Final = 64  # bytes of input at a time, which unpack to 2 MiB at most


def named(values: Iterable[str]) -> list[str]:
    """Return the encodings among the words of all Content-Encoding headers, in the order of their use."""
    words = (word.partition(";")[0].strip().lower() for value in values for word in value.split(","))
    return [word for word in words if word in _UNDO or word in _OTHERS]


def undo(body: bytes, encodings: list[str], limit: int) -> tuple[bytes, str]:
    """Return the plain body of at most `limit` bytes and "", or nothing and the fault; never raises."""
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


def salvage(body: bytes, encodings: list[str], limit: int) -> tuple[bytes, str]:
    """Return at most `limit` bytes of the body that an archive kept, and the fault ("" if there is none).

    Archives differ from the headers that they keep: many hold the body unpacked already. So text is left as
    it is. If a body is damaged, the part before the damage is returned; bytes after the end of a compressed
    body do not count.
    """
    for layer, encoding in reversed([*enumerate(encodings)][-MAX_LAYERS:]):
        is_text = _is_text(body)
        if is_text and (encoding not in _UNDO or _MARKUP.match(body)):
            break
        if encoding not in _UNDO:
            return b"", f"{encoding} is not understood"
        plain, problem = _UNDO[encoding](body, limit)
        if problem and problem != _TRAILER:
            if is_text:
                break
            return (b"" if layer else plain), f"{encoding}: {problem}"
        body = plain
    if len(encodings) > MAX_LAYERS and not _is_text(body):
        return b"", f"{len(encodings)} encodings"
    return body[:limit], ""


def _is_text(body: bytes) -> bool:
    """Return whether bytes begin as text does, in UTF-16 perhaps: a compressed body begins otherwise."""
    if body.startswith((b"\xff\xfe", b"\xfe\xff", b"<\0", b"\0<")):
        return True
    return _CONTROL.search(body, 0, 512) is None and not body.startswith(_ZSTD)


def _inflated(body: bytes, most: int, window_bits: int = 31) -> tuple[bytes, str]:
    inflater = zlib.decompressobj(window_bits)
    parts: list[bytes] = []
    size = 0
    for start in range(0, len(body), _STEP):  # in steps, so that bytes before damage are kept
        try:
            parts.append(inflater.decompress(body[start : start + _STEP], most - size))
        except zlib.error as error:
            return b"".join(parts), str(error)
        size += len(parts[-1])
        if size >= most:
            return b"".join(parts), ""
        if inflater.eof:
            more = inflater.unused_data or body[start + _STEP :]
            return b"".join(parts), _TRAILER if more else ""
    return b"".join(parts), "it ends early"


def _deflated(body: bytes, most: int) -> tuple[bytes, str]:
    """Inflate zlib's format, as the RFC says, or the raw format, which some servers send."""
    found = _inflated(body, most, 15)
    raw = _inflated(body, most, -15) if found[1] and not found[0] else found
    return found if raw[1] and not raw[0] else raw


def _unbrotlied(body: bytes, most: int) -> tuple[bytes, str]:
    from fastwarc.stream_io import BrotliReader

    reader = BrotliReader(io.BytesIO(body))
    parts: list[bytes] = []
    size = 0
    try:
        while size < most and (part := reader.read(min(_STEP, most - size))):
            parts.append(part)
            size += len(part)
    except OSError as error:
        return b"".join(parts), str(error)
    return b"".join(parts), ""


def _unzstded(body: bytes, most: int) -> tuple[bytes, str]:
    import zstandard

    reader = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj()
    parts: list[bytes] = []
    size = 0
    for start in range(0, len(body), _ZSTD_STEP):
        try:
            parts.append(reader.decompress(body[start : start + _ZSTD_STEP]))
        except zstandard.ZstdError as error:
            return b"".join(parts), str(error)
        size += len(parts[-1])
        if size >= most:
            return b"".join(parts)[:most], ""
        if reader.eof:
            more = reader.unused_data or body[start + _ZSTD_STEP :]
            return b"".join(parts), _TRAILER if more else ""
    return b"".join(parts), "it ends early"


_UNDO: Final[dict[str, Callable[[bytes, int], tuple[bytes, str]]]] = {
    "gzip": _inflated,
    "x-gzip": _inflated,
    "deflate": _deflated,
    "br": _unbrotlied,
    "zstd": _unzstded,
}
