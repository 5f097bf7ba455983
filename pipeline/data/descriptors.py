"""Describe an image by the low frequencies of a 64 x 64 thumbnail: 256 signs of luma, 256 numbers of colour.

The signs are the usual DCT hash, at 16 x 16 frequencies, 32 bytes per image. Re-encoding, resizing, squeezing
and colour changes leave most bits alone; crops, rotations beyond a few degrees and mirroring do not, so the
reference side has views. The numbers, 512 bytes per image, tell apart images that the signs confuse. Only
numpy is needed; where `_descriptors.c` is built it gives the same bytes in a quarter of the time.
"""

from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

try:
    from pipeline.data import _descriptors
except ImportError:
    _descriptors = None  # type: ignore[assignment]

SIDE: Final = 64
"""Side of the thumbnail in pixels."""
FREQUENCIES: Final = 16
"""Frequencies 0..15 of each axis make the 256 bits."""

LUMA_TERMS: Final = 168
"""Luma frequencies in the colour vector: those nearest to, and without, the mean."""
CHROMA_TERMS: Final = 44
"""Frequencies in the colour vector of each chroma channel, the mean included."""
COLOUR_TERMS: Final = LUMA_TERMS + 2 * CHROMA_TERMS

Thumbnails = npt.NDArray[np.uint8]
Luma = npt.NDArray[np.uint8] | npt.NDArray[np.float32]
Coefficients = npt.NDArray[np.float64]


def basis() -> Coefficients:
    """Return the first 16 rows of the orthonormal DCT-II of length 64: float64 [16, 64]."""
    k = np.arange(FREQUENCIES)[:, None]
    n = np.arange(SIDE)[None, :]
    rows: Coefficients = np.sqrt(2 / SIDE) * np.cos(np.pi * (2 * n + 1) * k / (2 * SIDE))
    rows[0] /= np.sqrt(2)
    return rows


_BASIS: Final = basis()
# The exact zeros of flat and of symmetric pictures leave a matrix product as +-1e-13, with signs that depend
# on the BLAS and on the batch. Rounded they are zeros again; a grey level is 1.0, so nothing visible is lost.
_DECIMALS: Final = 3


def low_frequencies(luma: Luma) -> Coefficients:
    """Return the low-frequency block of the orthonormal two-dimensional DCT-II; ValueError for other shapes.

    `luma` is [..., 64, 64]; the result is float64 [..., 16, 16], vertical frequency first, rounded to 0.001.
    """
    if luma.shape[-2:] != (SIDE, SIDE):
        raise ValueError(f"expected [..., {SIDE}, {SIDE}] luma, got {list(luma.shape)}")
    horizontal = luma.astype(np.float64) @ _BASIS.T
    return np.round(_BASIS @ horizontal, _DECIMALS)


def mirrored(coefficients: Coefficients) -> Coefficients:
    """Return the coefficients of the left-right mirrored image: odd horizontal frequencies change sign."""
    return coefficients * np.where(np.arange(FREQUENCIES) % 2, -1.0, 1.0)


def signs(coefficients: Coefficients) -> npt.NDArray[np.uint8]:
    """Return which coefficients exceed the median as packed bits: [..., 16, 16] to uint8 [..., 32].

    The median is that of the 255 terms without the mean; the mean's own bit, the first, is always 0. Bits
    are in row order, most significant first.
    """
    flat = coefficients.reshape(*coefficients.shape[:-2], FREQUENCIES * FREQUENCIES)
    # The 128th of 255 values; np.median does the same, and checks that cost it five times as much.
    bits = flat > np.partition(flat[..., 1:], 127, axis=-1)[..., 127:128]
    bits[..., 0] = False
    return np.packbits(bits, axis=-1)


def sign_hashes(luma: Luma) -> npt.NDArray[np.uint8]:
    """Return the hashes of a batch: [n, 64, 64] to uint8 [n, 32]. A batch takes about 50 KB an image."""
    return signs(low_frequencies(luma))


def sign_hash(luma: Luma) -> bytes:
    """Return the 32-byte hash of one [64, 64] luma thumbnail (ITU-R BT.601 luma, 0..255)."""
    return signs(low_frequencies(luma)).tobytes()


def hamming(a: bytes, b: bytes) -> int:
    """Return the number of different bits of two hashes; ValueError unless they are of one length."""
    if len(a) != len(b):
        raise ValueError(f"hashes of {len(a)} and {len(b)} bytes cannot be compared")
    return (int.from_bytes(a, "big") ^ int.from_bytes(b, "big")).bit_count()


_PERCENT: Final = np.arange(256) * 100 // 255


def quality(luma: Thumbnails) -> int:
    """Return 0 (flat) to 100 (detailed): how much a hash of this [64, 64] luma can be trusted.

    The measure of PDQ ("The TMK+PDQF Video-Hashing Algorithm and the PDQ Image-Hashing Algorithm", 2019): the
    differences of neighbours in whole percent of the range, summed over both axes, divided by 90. PDQ's users
    ignore matches under 50.
    """
    values = luma.astype(np.int16)
    differences = values[1:] - values[:-1], values[:, 1:] - values[:, :-1]
    down, across = (np.bincount(np.abs(one).ravel(), minlength=256) for one in differences)
    return min(100, int((down + across) @ _PERCENT) // 90)


class Descriptors(NamedTuple):
    """The descriptors of n images; fields only."""

    hashes: npt.NDArray[np.uint8]
    """[n, 32]: `sign_hash`."""
    mirrored_hashes: npt.NDArray[np.uint8]
    """[n, 32]: those of the left-right mirrored images."""
    colours: npt.NDArray[np.int16]
    """[n, 256]: `colour_vectors`."""
    qualities: npt.NDArray[np.uint8]
    """[n]: `quality`."""


class Detector(Protocol):
    """Embed thumbnails so that near-duplicates have a high cosine: the interface of a learned detector."""

    name: str
    side: int
    """Of the square RGB thumbnails that `embed` takes, in pixels."""

    def embed(self, thumbnails: Thumbnails) -> npt.NDArray[np.float32]:
        """Return unit vectors: uint8 [n, side, side, 3] to float32 [n, d]."""
        ...


def describe(thumbnails: Thumbnails) -> Descriptors:
    """Describe squeezed RGB thumbnails, uint8 [n, 64, 64, 3]."""
    if _descriptors is not None:
        return _split(_rows(_descriptors.describe(np.ascontiguousarray(thumbnails), _BASIS, _PLACES, True)))
    return _in_numpy(thumbnails)


def _in_numpy(thumbnails: Thumbnails) -> Descriptors:
    ycc = luma_chroma(thumbnails)
    seen = _levels(ycc)
    qualities = np.array([quality(one) for one in seen], np.uint8)
    frequencies = low_frequencies(seen)
    return Descriptors(signs(frequencies), signs(mirrored(frequencies)), _colour_vectors(ycc), qualities)


def packed(thumbnail: Thumbnails) -> bytes:
    """Return `pack` of `describe` of a single squeezed RGB thumbnail, uint8 [64, 64, 3]."""
    if _descriptors is not None:
        return bytes(_descriptors.describe(np.ascontiguousarray(thumbnail), _BASIS, _PLACES, True))
    return pack(describe(thumbnail[None]))[0]


def hash_and_quality(thumbnail: Thumbnails) -> tuple[bytes, int]:
    """Return the hash and the quality of `describe` of a single squeezed RGB thumbnail, uint8 [64, 64, 3]."""
    if _descriptors is not None:
        made = _descriptors.describe(np.ascontiguousarray(thumbnail), _BASIS, _PLACES, False)
        return bytes(made[:32]), made[-1]
    seen = luma(thumbnail)
    return sign_hash(seen), quality(seen)


def luma(thumbnails: Thumbnails) -> Thumbnails:
    """Return the input of the hash of `describe`: uint8 [..., 64, 64, 3] to [..., 64, 64]."""
    return _levels(luma_chroma(thumbnails))


def luma_chroma(thumbnails: Thumbnails) -> npt.NDArray[np.float32]:
    """Return ITU-R BT.601 full-range luma and chroma, the latter around 0: float32 [..., h, w, 3].

    Rounded to float32 after each channel, as BLAS with fused multiplication does: the same on every machine.
    """
    red, green, blue = np.moveaxis(thumbnails, -1, 0).astype(np.float64)
    ycc = np.empty(thumbnails.shape, np.float32)
    for channel, by in enumerate(_YCC):
        mixed = (red * by[0]).astype(np.float32)
        mixed = (mixed + green * by[1]).astype(np.float32)
        ycc[..., channel] = mixed + blue * by[2]
    return ycc


def _levels(ycc: npt.NDArray[np.float32]) -> Thumbnails:
    return np.rint(ycc[..., 0]).astype(np.uint8)


_YCC: Final = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32
).astype(np.float64)


def _nearest_frequencies() -> npt.NDArray[np.int64]:
    """Return the 256 (vertical, horizontal) frequencies by distance from the mean: int64 [256, 2]."""
    vertical, horizontal = np.divmod(np.arange(FREQUENCIES**2), FREQUENCIES)
    order = np.lexsort((vertical, vertical**2 + horizontal**2))
    return np.stack([vertical, horizontal], axis=1)[order]


_NEAREST: Final = _nearest_frequencies()
_PLACES: Final = (_NEAREST @ (FREQUENCIES, 1)).astype(np.uint8)
_LUMA_AT: Final = _NEAREST[1 : LUMA_TERMS + 1]
_CHROMA_AT: Final = _NEAREST[:CHROMA_TERMS]


def _colour_vectors(ycc: npt.NDArray[np.float32]) -> npt.NDArray[np.int16]:
    """Return luma, Cb and Cr coefficients, rounded to whole ones: int16 [n, 256].

    A coefficient lies within +-64 * 255 = 16,320. Rounding adds an error of 0.29, of which the standard
    deviation of the smallest coefficients over photographs is over 50 times as much.
    """
    return colours_of(low_frequencies(np.moveaxis(ycc, -1, 0)))


def colours_of(blocks: Coefficients) -> npt.NDArray[np.int16]:
    """Return the stored part of the low frequencies of luma, Cb and Cr: [3, n, 16, 16] to int16 [n, 256]."""
    places = (_LUMA_AT, _CHROMA_AT, _CHROMA_AT)
    parts = [block[:, at[:, 0], at[:, 1]] for block, at in zip(blocks, places, strict=True)]
    vectors: npt.NDArray[np.int16] = np.rint(np.concatenate(parts, axis=1)).astype(np.int16)
    return vectors


ODD_TERMS: Final = np.concatenate([at[:, 1] % 2 == 1 for at in (_LUMA_AT, _CHROMA_AT, _CHROMA_AT)])
"""Which of the 256 terms of a colour vector change sign when the image is mirrored: bool [256]."""


def mirrored_descriptors(descriptors: Descriptors) -> Descriptors:
    """Return the descriptors of the left-right mirrored images, [n] as the given ones."""
    return Descriptors(
        descriptors.mirrored_hashes,
        descriptors.hashes,
        np.where(ODD_TERMS, -descriptors.colours, descriptors.colours),
        descriptors.qualities,
    )


PACKED_BYTES: Final = 32 + 32 + 2 * COLOUR_TERMS + 1
"""Of one image, as a run's shards and staging keep it."""


NOT_DESCRIBED: Final = bytes(PACKED_BYTES)
"""Stands in staging for the descriptors of an image that is to be described later."""


def pack(descriptors: Descriptors) -> list[bytes]:
    """Return the descriptors of n images as bytes: hash, mirrored hash, colours (little-endian), quality."""
    parts = (
        descriptors.hashes,
        descriptors.mirrored_hashes,
        np.ascontiguousarray(descriptors.colours, "<i2").view(np.uint8),
        descriptors.qualities[:, None],
    )
    return [row.tobytes() for row in np.concatenate(parts, axis=1)]


def unpack(packed: list[bytes]) -> Descriptors:
    """Undo `pack`: return the descriptors of n images; ValueError for anything of another length."""
    if any(len(one) != PACKED_BYTES for one in packed):
        raise ValueError(f"a descriptor is {PACKED_BYTES} bytes")
    return _split(_rows(b"".join(packed)))


def _rows(packed: bytes | bytearray) -> npt.NDArray[np.uint8]:
    return np.frombuffer(packed, np.uint8).reshape(-1, PACKED_BYTES)


def _split(rows: npt.NDArray[np.uint8]) -> Descriptors:
    """Return the parts of packed descriptors: uint8 [n, 577]."""
    hashes, mirrored, colours, qualities = np.split(rows, np.cumsum((32, 32, 2 * COLOUR_TERMS)), axis=1)
    return Descriptors(
        np.ascontiguousarray(hashes),
        np.ascontiguousarray(mirrored),
        np.ascontiguousarray(colours).view("<i2").astype(np.int16),
        qualities[:, 0].copy(),
    )


def take(descriptors: Descriptors, rows: slice | npt.NDArray[np.int64]) -> Descriptors:
    """Return the descriptors of some images: `rows`, int64 [k] or a slice of the n."""
    return Descriptors(
        descriptors.hashes[rows],
        descriptors.mirrored_hashes[rows],
        descriptors.colours[rows],
        descriptors.qualities[rows],
    )
