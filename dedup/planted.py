"""Plant altered copies of a set's own images, to measure the recall on that very set, in both directions.

A copy in the training set is an evaluation image as a page has altered it: cropped, turned, written over. The
other direction is as common: the evaluation image is the copy, cut out of a photograph that the training set
holds whole. Then the evaluation image lacks parts that the training image shows, and a search that knows
views of the evaluation image alone finds little; so both are measured, and neither stands for the other.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np
import xxhash

from dedup import distortions, training_set
from dedup.decode_images import Pixels
from dedup.index import Index
from dedup.matcher import BATCH, CandidatePair, ImageMatcher, picture_of
from dedup.parts import FoundCopies, PlantedCopies
from dedup.search import References, Whitening, quantised, wholes
from pipeline.data import views
from pipeline.data.descriptors import COLOUR_TERMS, describe

REVERSED: Final = (
    "crop 90%", "crop 75%", "crop 50%", "width crop", "rotation to 5", "rotation 5 to 10", "mixed",
)  # fmt: skip
"""Alterations after which a copy lacks a part of the original: of the others both directions are alike."""


_NOT_FOUND: Final = -1.0


class Copies:
    """Pictures as evaluation images of their own: the part of an index that `ImageMatcher` needs."""

    def __init__(self, pictures: list[Pixels], whitening: Whitening, min_quality: int) -> None:
        """Describe pictures, without those that have no detail; `numbers` says which are left."""
        inner = [views.inner(rgb) for rgb in pictures]
        described = [describe(views.thumbnails(rgb)) for rgb in inner]
        self.numbers = [n for n, one in enumerate(described) if one.qualities[0] >= min_quality]
        self.pictures = [inner[n] for n in self.numbers]
        kept = [described[n] for n in self.numbers]
        hashes = [np.zeros((0, 32), np.uint8), *(one.hashes for one in kept)]
        colours = [np.zeros((0, COLOUR_TERMS), np.int8)]
        colours += [quantised(whitening.apply(one.colours)) for one in kept]
        self.references = References(np.concatenate(hashes), np.concatenate(colours), len(views.VIEWS))
        self.wholes = wholes(self.references)

    def pixels(self, row: int) -> Pixels:
        """Return a picture as it is compared."""
        return self.pictures[row]


def find(matcher: ImageMatcher, index: Index, task: PlantedCopies, count: int, seed: int) -> FoundCopies:
    """Search for altered copies of `count` examples of a set; return their similarities by alteration."""
    rows = rows_of(index, task.dataset, count, seed)
    originals = [index.pixels(row) for row in rows]
    found: dict[str, dict[str, tuple[float, ...]]] = {"either": {}, "hashes": {}, "learned": {}}
    for name in REVERSED if task.reversed else distortions.DISTORTIONS:
        copies = list(_altered(originals, rows, name, seed))
        pairs = (
            _among_examples(matcher, originals, copies, rows)
            if task.reversed
            else _in_training(matcher, copies, rows)
        )
        similarity = {by: [_NOT_FOUND] * len(rows) for by in found}
        for number, one in pairs:
            values = {"either": one.similarity, "hashes": one.hashes, "learned": one.learned}
            for by, value in values.items():
                similarity[by][number] = _NOT_FOUND if value is None else round(value, 4)
        for by, values_by in similarity.items():
            found[by][name] = tuple(values_by)
    return FoundCopies(
        name=task.name, either=found["either"], hashes=found["hashes"], learned=found["learned"]
    )


def _altered(originals: list[Pixels], rows: list[int], name: str, seed: int) -> Iterator[Pixels]:
    number = xxhash.xxh3_64_intdigest(name.encode(), seed=seed) & 0xFFFFFFFF
    for row, rgb in zip(rows, originals, strict=True):
        rng = np.random.default_rng([seed, number, row])
        yield np.ascontiguousarray(distortions.DISTORTIONS[name](rgb, rng))


def _in_training(
    matcher: ImageMatcher, copies: list[Pixels], rows: list[int]
) -> Iterator[tuple[int, CandidatePair]]:
    """Yield the numbers of the copies that are found as training images, with their pairs."""
    for number, one in _verified(matcher, copies):
        if one.example == rows[number]:
            yield number, one


def _among_examples(
    matcher: ImageMatcher, originals: list[Pixels], copies: list[Pixels], rows: list[int]
) -> Iterator[tuple[int, CandidatePair]]:
    """Yield the numbers of the originals for which the copy is found among the evaluation images."""
    examples = Copies(copies, matcher.whitening, matcher.min_quality)
    learned = None
    if matcher.learned is not None:
        learned = matcher.learned.among(examples.pictures, [rows[n] for n in examples.numbers])
    other = replace(matcher, index=examples, learned=learned, counts=Counter(), features=OrderedDict())
    for number, one in _verified(other, originals):
        if examples.numbers[one.example] == number:
            yield number, one


def _verified(matcher: ImageMatcher, pictures: list[Pixels]) -> Iterator[tuple[int, CandidatePair]]:
    nobody = training_set.TrainingImage("", "", "", (), b"")
    prepared = [picture_of(nobody, rgb) for rgb in pictures]
    for start in range(0, len(prepared), BATCH):
        for one in matcher.match(prepared[start : start + BATCH]):
            if one.verdict.verified:
                yield start + one.picture, one


def rows_of(index: Index, dataset: str, count: int, seed: int) -> list[int]:
    """Return the examples of a set that copies are made of, chosen by hash."""
    if dataset not in index.names:
        return []
    rows = np.flatnonzero(index.dataset == index.names.index(dataset)).tolist()
    rows.sort(key=lambda row: xxhash.xxh3_64_intdigest(index.example_ids[row].as_py().encode(), seed=seed))
    return sorted(rows[:count])
