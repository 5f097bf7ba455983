"""The body of an archived HTTP answer: chunks joined, content decoded, at most that many bytes.

Archives differ from their headers: some tools keep the headers of the wire beside a decoded body (pywb's
own samples claim chunks that are missing). So a coding is undone only where the bytes show it.
"""

from pipeline.http import codings


def decode(data: bytes, transfer: str, encoding: str, limit: int) -> tuple[bytes, str]:
    """Return the decoded body, cut at `limit` bytes, and its fault ("" if there is none).

    `transfer` and `encoding` are the Transfer-Encoding and Content-Encoding headers. Of a damaged body the
    part before the damage is returned.
    """
    if "chunked" in transfer.lower():
        data = _joined(data)
    return codings.salvage(data, codings.named((encoding, transfer)), limit)


def _joined(data: bytes) -> bytes:
    """Join chunks (RFC 9112, section 7.1); a body without a chunk size at its start is returned as it is."""
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
