"""Search exactly: every query and its mirror image against every view of every reference, in two looks.

The first look compares hashes, 32 bytes a view, by exclusive-or and population count; no hash within the
radius is missed. The second computes a similarity for the pairs that the first left: the mean of the cosines
of signs and of whitened colour terms, which is the cosine of both vectors joined. References are
memory-mapped arrays, which all processes of a machine share: 288 bytes a view, 16 GB for 94 views of 600,000
images.

`_kernels.c` scans for both mirrorings in one pass, and passes on to the second look only pairs that, by a
bound in integers, may reach the floor. Where it is not built, or the processor lacks AVX2, faiss and numpy
give the same hits.
"""

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.data.descriptors import ODD_TERMS, Descriptors, mirrored_descriptors, take

if TYPE_CHECKING:
    from dedup.gpu_search import DeviceReferences  # imports torch

try:
    from dedup import _kernels
except ImportError:
    _kernels = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

RADIUS: Final = 100
"""Bits of 256. Unrelated photographs pass in 7 of 10,000 comparisons; see `bench/overlap_recall.py`."""
FLOOR: Final = 0.35
"""Similarity of a candidate. Of 3.8 million unrelated pairs 3.5e-5 reach it, and 1e-6 reach 0.44."""
_QUANTUM: Final = 240.0  # unit vectors are stored as int8 in steps of 1/240, up to 0.53
BATCH: Final = 256  # queries that pass over the references together
_WEIGHT: Final = 32_767  # whitened colours of a query are int16 in steps of this for the bound
_MARGIN: Final = 0.004  # rounding them moves a cosine by at most 256 * 128 / 2 / 32,767 / 240 = 0.0021
_KERNEL_RADIUS: Final = 254  # the kernel keeps distances in bytes

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Whitening:
    """Bring colour terms to one scale: the mean and deviation of each over a sample of the training set."""

    mean: F32
    """[256]; 0 for the terms that mirroring negates, so that whitening and mirroring commute."""
    deviation: F32
    """[256]"""

    @classmethod
    def fit(cls, colours: npt.NDArray[np.int16]) -> "Whitening":
        """Fit to a sample, int16 [n, 256]; ValueError for too few."""
        if len(colours) < 2:
            raise ValueError(f"{len(colours)} images are too few to fit a whitening to")
        mean = colours.mean(axis=0, dtype=np.float64)
        mean[ODD_TERMS] = 0
        # A term that hardly varies in a small sample would count without bound; 1 is a rounding step.
        deviation = np.maximum(np.sqrt(((colours - mean) ** 2).mean(axis=0)), 1.0)
        return cls(mean.astype(np.float32), deviation.astype(np.float32))

    def apply(self, colours: npt.NDArray[np.int16]) -> F32:
        """Return whitened unit vectors, float32 [n, 256]."""
        scaled = (colours - self.mean) / self.deviation
        length = np.linalg.norm(scaled, axis=1, keepdims=True)
        return np.asarray(scaled / np.maximum(length, 1e-6), np.float32)


def quantised(vectors: F32) -> npt.NDArray[np.int8]:
    """Store unit vectors [n, d] in 8 bits; a cosine changes by 0.001 (standard deviation of the rounding)."""
    return np.asarray(np.clip(np.rint(vectors * _QUANTUM), -127, 127), np.int8)


class References(NamedTuple):
    """The views of n examples, those of an example together; arrays may be memory-mapped. Fields only."""

    hashes: npt.NDArray[np.uint8]
    """[n * views, 32]"""
    colours: npt.NDArray[np.int8]
    """[n * views, 256]: `quantised`."""
    views: int
    device: "DeviceReferences | None" = None
    """The same in a GPU's memory, if the search is to be there."""


def wholes(references: References) -> References:
    """Return the first view of each example alone, the example as it is."""
    device = None if references.device is None else references.device.every(references.views)
    step = references.views
    hashes, colours = references.hashes[::step], references.colours[::step]
    return References(np.ascontiguousarray(hashes), np.ascontiguousarray(colours), 1, device)


class Hits(NamedTuple):
    """The best view of each (query, example) pair that is similar enough; sorted by query, then example."""

    query: I64
    example: I64
    similarity: F32
    view: I64
    mirrored: npt.NDArray[np.bool_]


class Pairs(NamedTuple):
    """Pairs of a query, as it is or mirrored, and a row of the references."""

    query: I64
    reference: I64
    distance: I64
    mirrored: npt.NDArray[np.bool_]


class PairsWithin(NamedTuple):
    """Pairs of rows within the radius."""

    query: I64
    reference: I64
    distance: I64


def within(queries: npt.NDArray[np.uint8], references: npt.NDArray[np.uint8], radius: int) -> PairsWithin:
    """Return all pairs at a Hamming distance of at most `radius`: uint8 [q, 32] and [n, 32]."""
    assert queries.dtype == references.dtype == np.uint8
    assert queries.flags.c_contiguous and references.flags.c_contiguous
    if not len(queries) or not len(references):
        return PairsWithin(*(np.zeros(0, np.int64) for _ in range(3)))
    import faiss  # type: ignore[import-untyped, unused-ignore]

    found = faiss.RangeSearchResult(len(queries))
    # The function behind IndexBinaryFlat, called on the arrays where they are: the index would copy them.
    faiss.hamming_range_search(  # type: ignore[attr-defined, unused-ignore]
        faiss.swig_ptr(queries), faiss.swig_ptr(references), len(queries), len(references),
        radius + 1, queries.shape[1], found,
    )  # fmt: skip
    limits = faiss.rev_swig_ptr(found.lims, len(queries) + 1).astype(np.int64)
    count = int(limits[-1])
    if not count:
        return PairsWithin(*(np.zeros(0, np.int64) for _ in range(3)))
    reference = faiss.rev_swig_ptr(found.labels, count).astype(np.int64)
    distance = faiss.rev_swig_ptr(found.distances, count).astype(np.int64)
    return PairsWithin(np.repeat(np.arange(len(queries)), np.diff(limits)), reference, distance)


def use_one_thread() -> None:
    """Keep faiss to one thread in this process: workers are as many as cores already."""
    if _kernels is None:
        import faiss  # type: ignore[import-untyped, unused-ignore]

        faiss.omp_set_num_threads(1)


def warn_without_kernel() -> None:
    """Log a line where faiss does the work of the kernel."""
    if _kernels is None:
        log.warning(
            "images are compared by faiss, a fifth as fast: openwit was installed without a C compiler, or "
            "this processor has no AVX2"
        )


def search(
    queries: Descriptors,
    references: References,
    whitening: Whitening,
    *,
    floor: float = FLOOR,
    radius: int = RADIUS,
) -> Hits:
    """Return the pairs [m] with a similarity of at least `floor`, each of n queries as it is and mirrored."""
    found = []
    for start in range(0, len(queries.hashes), BATCH):
        batch = take(queries, slice(start, start + BATCH))
        both = (batch, mirrored_descriptors(batch))
        vectors = np.stack([whitening.apply(one.colours) for one in both])
        pairs = candidates(batch, references, vectors, floor, radius)
        similarity = _similarity(pairs, vectors, references.colours)
        keep = similarity >= floor
        found.append(
            (pairs.query[keep] + start, pairs.reference[keep], similarity[keep], pairs.mirrored[keep])
        )
    if not found:
        found = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, bool))]
    query, reference, similarity, flags = (np.concatenate(column) for column in zip(*found, strict=True))
    return best(query, reference, similarity, flags, references.views)


def candidates(
    queries: Descriptors, references: References, vectors: F32 | None, floor: float, radius: int
) -> Pairs:
    """Return pairs within the radius, all those among them that reach the floor, in any order.

    vectors: float32 [2, q, 256], the whitened colours as they are and mirrored; None for all pairs within.
    """
    hashes, mirrored = (np.ascontiguousarray(one) for one in (queries.hashes, queries.mirrored_hashes))
    if references.device is not None:
        both, whitened = (
            np.concatenate([hashes, mirrored]),
            None if vectors is None else np.concatenate(vectors),
        )
        query, reference, distance = references.device.candidates(both, whitened, floor, radius, _QUANTUM).T
        return Pairs(query % len(hashes), reference, distance, query >= len(hashes))
    if _kernels is None or radius > _KERNEL_RADIUS:
        found = [within(one, references.hashes, radius) for one in (hashes, mirrored)]
        flags = np.repeat([False, True], [len(one.query) for one in found])
        query, reference, distance = (np.concatenate(column) for column in zip(*found, strict=True))
        return Pairs(query, reference, distance, flags)
    weights = colours = least = None
    if vectors is not None:
        weights = np.clip(np.rint(vectors * _WEIGHT), -_WEIGHT, _WEIGHT).astype(np.int16, order="C")
        colours = np.ascontiguousarray(references.colours)
        cosine = 2 * floor - 1 + np.arange(hashes.shape[1] * 8 + 1) / (hashes.shape[1] * 4) - _MARGIN
        least = np.floor(cosine * (_WEIGHT * _QUANTUM)).astype(np.int32)
    packed = _kernels.scan(hashes, mirrored, references.hashes, radius, weights, colours, least)
    rows = np.frombuffer(packed, _PAIR)
    return Pairs(
        rows["query"].astype(np.int64), rows["reference"], rows["distance"].astype(np.int64),
        rows["mirrored"].astype(bool),
    )  # fmt: skip


_PAIR: Final = np.dtype([("reference", "i8"), ("query", "i4"), ("distance", "i2"), ("mirrored", "i2")])


def _similarity(pairs: Pairs, vectors: F32, colours: npt.NDArray[np.int8]) -> F32:
    signs = 1 - 2 * pairs.distance.astype(np.float32) / 256
    cosine = np.empty(len(signs), np.float32)
    flags = pairs.mirrored.astype(np.int64)
    for start in range(0, len(signs), 1 << 16):  # 64 MiB of gathered vectors at a time
        part = slice(start, start + (1 << 16))
        rows = colours[pairs.reference[part]].astype(np.float32)
        cosine[part] = np.einsum("ij,ij->i", vectors[flags[part], pairs.query[part]], rows) / _QUANTUM
    # Rounding takes the cosine of equal images over 1.
    return np.asarray(np.minimum((signs + cosine) / 2, 1), np.float32)


def best(query: I64, reference: I64, similarity: F32, mirrored: npt.NDArray[np.bool_], views: int) -> Hits:
    """Keep the most similar view of each (query, example); ties go to the first view, unmirrored."""
    example = reference // views
    order = np.lexsort((mirrored, reference, -similarity, example, query))
    query, example, reference = query[order], example[order], reference[order]
    first = np.ones(len(order), bool)
    first[1:] = (query[1:] != query[:-1]) | (example[1:] != example[:-1])
    chosen = order[first]
    return Hits(query[first], example[first], similarity[chosen], reference[first] % views, mirrored[chosen])
