"""Ids and places in as few bytes as they need, and in parts that fill pages of the file."""

from typing import Final

import numpy as np

from pipeline.index.terms import Ids

PART: Final = 1_984
"""Ids of a part of a list, which fill a page of the file, and places, which fill one and a half."""


def packed(ids: Ids) -> bytes:
    """Return ids as the distances between them, in as many bytes each as the first byte says.

    Of one byte each, 255 says that the distance goes on in the next.
    """
    apart = np.diff(ids)
    more = apart // 255
    if (size := len(apart) + int(more.sum(dtype=np.int64))) <= 2 * len(apart):
        single = np.full(size, 255, np.uint8)
        single[np.cumsum(more + 1, dtype=np.int64) - 1] = apart % 255
        return b"\1" + single.tobytes()
    width = 2 if int(apart.max()) < 1 << 16 else 4
    return bytes([width]) + apart.astype(f"<u{width}").tobytes()


def unpacked(first: int, data: bytes) -> Ids:
    """Return the ids that begin with `first`, uint32 [n]."""
    apart = np.frombuffer(data, f"<u{data[0]}", offset=1)
    ids = np.cumsum(np.append(np.uint32(first), apart), dtype=np.uint32)
    return ids[np.append(True, apart != 255)] if data[0] == 1 else ids


def width(samples: int) -> int:
    """Return the bytes of a place among so many samples."""
    return 3 if samples < 1 << 24 else 4


def shortened(places: Ids, samples: int) -> bytes:
    """Return places, uint32 [n], in the bytes that they need."""
    return places.astype("<u4").view(np.uint8).reshape(-1, 4)[:, : width(samples)].tobytes()


def lengthened(data: bytes, samples: int) -> Ids:
    """Return places again, uint32 [n]."""
    own = np.frombuffer(data, np.uint8).reshape(-1, width(samples))
    return np.pad(own, ((0, 0), (0, 4 - own.shape[1]))).view("<u4").ravel()
