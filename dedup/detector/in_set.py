"""Describe the images of a set for `--dedup near`, which names this module: `pipeline.near.learned`."""

import functools
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

import numpy as np

from dedup.decode_images import Pictures, Pixels
from dedup.detector import detector_file
from dedup.detector.learned_search import described, shown
from dedup.same_picture import PictureFeatures, features, verify
from pipeline.data import views
from pipeline.near.learned import F32, Described

_BATCH: Final = 256
_SAMPLE: Final = 400
"""First images of a file that are compared with each other; uids are hashes, so they are any images."""
_HIGHEST: Final = 100
"""Most similar of these pairs that are looked at,"""
_TAIL: Final = 10
"""and one in so many of few pairs: the threshold continues a tail, which all pairs have not."""


class SetDetector:
    """A detector in this process, or an encoder in its own; a `pipeline.near.learned.Detector`."""

    def __init__(self, path: str) -> None:
        """Load it; ValueError, in one line, if that fails."""
        self._detector, self._pictures = detector_file.for_worker(path), Pictures()
        self.name = self._detector.name

    def describe(self, images: Iterable[bytes]) -> Described:
        """Describe openwit's own JPEGs, and find the most similar of pairs that do not match."""
        first: list[Pixels] = []
        parts = [np.zeros((0, self._detector.dims + 1), np.float32)]
        remaining = iter(images)
        while batch := list(islice(remaining, _BATCH)):
            parts.append(self._batch(batch, first))
        rows = np.concatenate(parts)
        vectors, biases = rows[:, :-1], rows[:, -1]
        sample = np.flatnonzero(np.isfinite(biases))[: len(first)]
        similarity = vectors[sample] @ vectors[sample].T - biases[sample, None] - biases[sample]
        unrelated = tuple(_unrelated(first, similarity))
        return Described(vectors, biases, len(sample) * (len(sample) - 1) // 2, unrelated)

    def close(self) -> None:
        """End its processes."""
        self._detector.close()
        self._pictures.close()

    def _batch(self, images: list[bytes], first: list[Pixels]) -> F32:
        """Return vectors and biases, [n, d + 1]; the first pictures of all go into `first`."""
        decoded = [self._pictures.decode_or_none(image, ours=True) for image in images]
        good = [n for n, rgb in enumerate(decoded) if rgb is not None]
        pictures = [views.inner(rgb) for rgb in decoded if rgb is not None]
        first += pictures[: max(0, _SAMPLE - len(first))]
        rows = np.zeros((len(images), self._detector.dims + 1), np.float32)
        rows[:, -1] = np.inf
        if pictures:
            found = described(self._detector, shown(pictures, self._detector.side))
            rows[good] = np.column_stack([found.vectors, found.biases])
        return rows


def _unrelated(pictures: list[Pixels], similarity: F32) -> Iterator[float]:
    """Yield the highest similarities of pictures [n, n], falling, without pairs that are verified."""

    @functools.cache
    def looks(number: int, mirrored: bool) -> PictureFeatures:
        rgb = pictures[number]
        return features(np.ascontiguousarray(rgb[:, ::-1]) if mirrored else rgb)

    a, b = np.triu_indices(len(pictures), 1)
    for place in np.argsort(-similarity[a, b], kind="stable")[: min(_HIGHEST, len(a) // _TAIL)]:
        one, other = int(a[place]), int(b[place])
        if not any(verify(looks(one, turned), looks(other, False)).verified for turned in (False, True)):
            yield round(float(similarity[one, other]), 6)
