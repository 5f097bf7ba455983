"""Ids and places in as few bytes as they need, and in parts that fill pages of the file."""

from typing import Final

import numpy as np

from pipeline.index.terms import Ids

PART: Final = 1_984
"""Ids of a part of a list, which fill a page of the file, and places, which fill one and a half."""


def packed(ids: Ids) -> bytes:
    """Return ids as the distances between them, in as many bytes each as the first byte says."""
    apart = np.diff(ids)
    width = next(width for width in (1, 2, 4) if not len(apart) or int(apart.max()) < 1 << 8 * width)
    return bytes([width]) + apart.astype(f"<u{width}").tobytes()


def unpacked(first: int, data: bytes) -> Ids:
    """Return the ids that begin with `first`, uint32 [n]."""
    apart = np.frombuffer(data, f"<u{data[0]}", offset=1)
    return np.cumsum(np.append(np.uint32(first), apart), dtype=np.uint32)


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
