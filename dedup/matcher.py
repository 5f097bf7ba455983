"""Compare a batch of training images with the index: search by every detector, then verify each pair."""

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from dedup import search, training_set
from dedup.decode_images import Pixels
from dedup.same_picture import GATE, PictureFeatures, Verification, aligned_correlation, features, verify
from dedup.search import Hits, Whitening
from dedup.training_crops import CROPS, describe_crops
from pipeline.data import views
from pipeline.data.descriptors import Descriptors, describe, take

BATCH: Final = 256
_CACHED_FEATURES: Final = 500  # of evaluation images, 0.3 MB each with 400 keypoints
_MOST_CANDIDATES: Final = 50  # verified for one training image, the most similar ones


VIEWS_AND_CROPS: Final = (
    *views.VIEWS,
    *(crop._replace(name=f"whole, as a {crop.name} of the training image") for crop in CROPS),
)
"""All views, in the order of a candidate's `view`."""


class TrainingPicture(NamedTuple):
    """A training image on its way through the search; fields only."""

    sample: training_set.TrainingImage
    rgb: Pixels
    """Without its border."""
    thumbnail: Pixels


class CandidatePair(NamedTuple):
    """A pair and the result of its verification; fields only."""

    picture: int
    example: int
    similarity: float
    view: int
    mirrored: bool
    verdict: Verification
    hashes: float | None
    """Similarity by hash and colour, if they found the pair."""
    learned: float | None
    """Similarity by the learned detector, on the same scale, if it found the pair."""


class LearnedHits(Protocol):
    """Pairs of pictures and examples that a learned detector found; by picture."""

    @property
    def query(self) -> npt.NDArray[np.int64]: ...
    @property
    def example(self) -> npt.NDArray[np.int64]: ...
    @property
    def similarity(self) -> npt.NDArray[np.float32]: ...
    @property
    def view(self) -> npt.NDArray[np.int64]: ...  # among `views.VIEWS`


class Examples(Protocol):
    """The evaluation images that are searched for: an `Index`, or a few in memory."""

    @property
    def references(self) -> search.References: ...
    @property
    def wholes(self) -> search.References: ...  # without the views but the first

    def pixels(self, row: int) -> Pixels:
        """Return the image of an example as it is compared, without a border."""
        ...


class Learned(Protocol):
    """A learned detector with the examples that it described."""

    def search(self, pictures: list[Pixels]) -> LearnedHits:
        """Return the matches above the sets' thresholds, with similarities on the scale of the hashes."""
        ...

    def among(self, pictures: list[Pixels], rows: list[int]) -> "Learned":
        """Return the same with other examples, each at the threshold of the example `rows` names."""
        ...


@dataclass
class ImageMatcher:
    """Find and verify the evaluation images that pictures contain."""

    index: Examples
    whitening: Whitening
    floor: float
    min_quality: int
    learned: Learned | None = None
    hashes: bool = True
    """Whether to search by hashes and colours."""
    crops: bool = True
    """Whether hashes search for evaluation images that are a part of a picture."""
    counts: Counter[str] = field(default_factory=Counter)
    features: OrderedDict[int, PictureFeatures] = field(default_factory=OrderedDict)

    def match(self, pictures: list[TrainingPicture]) -> list[CandidatePair]:
        """Return the candidates among a batch, each with its verdict."""
        if not pictures:
            return []
        described = describe(np.stack([picture.thumbnail for picture in pictures]))
        rows, hits = self.search(described)
        if self.hashes and self.crops and len(rows):
            hits = self._with_crops([pictures[row] for row in rows], rows, hits)
        learned = self._learned_hits([pictures[row].rgb for row in rows])
        found: list[CandidatePair] = []
        for place, picture in enumerate(rows.tolist()):
            known: dict[bool, PictureFeatures] = {}
            by_hash = list(self.verify(picture, pictures[picture], hits, known))
            found += self._with_learned(picture, pictures[picture].rgb, by_hash, learned[place], known)
        return found

    def search(self, described: Descriptors) -> tuple[npt.NDArray[np.int64], Hits]:
        """Return which of n described images have enough detail, int64 [m], and the candidates among them."""
        rows = np.flatnonzero(described.qualities >= self.min_quality)
        self.counts["low_information"] += len(described.qualities) - len(rows)
        compared = take(described, rows if self.hashes else rows[:0])
        hits = search.search(compared, self.index.references, self.whitening, floor=self.floor)
        return rows, hits._replace(query=rows[hits.query])

    def _with_crops(self, pictures: list[TrainingPicture], rows: npt.NDArray[np.int64], hits: Hits) -> Hits:
        """Join the hits of pictures and of their crops; the crops' numbers come after those of the views."""
        found = search.search(
            describe_crops([one.rgb for one in pictures]), self.index.wholes, self.whitening, floor=self.floor
        )
        number, crop = np.divmod(found.query, len(CROPS))
        pairs = zip(number.tolist(), crop.tolist(), strict=True)
        shown = [views.thumbnail(pictures[n].rgb, CROPS[one]) for n, one in pairs]
        keep = np.array([describe(one[None]).qualities[0] >= self.min_quality for one in shown], bool)
        places = len(views.VIEWS) + len(CROPS)
        return search.best(
            np.concatenate([hits.query, rows[number[keep]]]),
            np.concatenate(
                [hits.example * places + hits.view, (found.example * places + len(views.VIEWS) + crop)[keep]]
            ),
            np.concatenate([hits.similarity, found.similarity[keep]]),
            np.concatenate([hits.mirrored, found.mirrored[keep]]),
            places,
        )

    def _learned_hits(self, pictures: list[Pixels]) -> list[dict[int, tuple[float, int]]]:
        """Return for each picture the examples that the detector finds, with similarity and view."""
        found: list[dict[int, tuple[float, int]]] = [{} for _ in pictures]
        if self.learned is not None and pictures:
            hits = self.learned.search(pictures)
            columns = (hits.query, hits.example, hits.similarity, hits.view)
            for query, example, similarity, view in zip(*(c.tolist() for c in columns), strict=True):
                found[query][example] = (similarity, view)
        return found

    def _with_learned(
        self,
        number: int,
        rgb: Pixels,
        by_hash: list[CandidatePair],
        learned: dict[int, tuple[float, int]],
        known: dict[bool, PictureFeatures],
    ) -> Iterator[CandidatePair]:
        """Add the detector's finds to the candidates of a picture, and verify them."""
        best = sorted(learned, key=lambda example: (-learned[example][0], example))
        self.counts["learned_candidates"] += len(best)
        self.counts["candidates_not_verified"] += max(0, len(best) - _MOST_CANDIDATES)
        kept = set(best[:_MOST_CANDIDATES])
        for one in by_hash:
            if one.example in kept:
                kept.discard(one.example)
                similarity, view = learned[one.example]
                one = one._replace(similarity=max(one.similarity, similarity), learned=similarity)
                if not one.verdict.verified:
                    one = self._judged_anew(one, rgb, known)
                    self.counts["verified"] += one.verdict.verified
            yield one
        for example in sorted(kept):
            similarity, view = learned[example]
            none = Verification(False, "inliers")
            one = CandidatePair(number, example, similarity, view, False, none, None, similarity)
            one = self._judged_anew(one, rgb, known)
            self.counts["verified"] += one.verdict.verified
            yield one

    def _judged_anew(
        self, one: CandidatePair, rgb: Pixels, known: dict[bool, PictureFeatures]
    ) -> CandidatePair:
        """Judge a pair by keypoints, as it is and mirrored: the detector does not say which it is."""
        reference = self._reference_features(one.example, self.index.pixels(one.example))
        for mirrored in (False, True):
            verdict = verify(_features(rgb, mirrored, known), reference, mirrored)
            if verdict.verified or verdict.inliers > one.verdict.inliers:
                one = one._replace(verdict=verdict, mirrored=mirrored)
            if verdict.verified:
                break
        return one

    def verify(
        self, number: int, picture: TrainingPicture, hits: Hits, known: dict[bool, PictureFeatures]
    ) -> Iterator[CandidatePair]:
        """Yield the matches of image `number` by hashes, each with its verdict.

        `known` keeps the keypoints of the image and of its mirror image.
        """
        mine = np.flatnonzero(hits.query == number)
        mine = mine[np.argsort(-hits.similarity[mine], kind="stable")]
        self.counts["candidates"] += len(mine)
        self.counts["candidates_not_verified"] += max(0, len(mine) - _MOST_CANDIDATES)
        for hit in mine[:_MOST_CANDIDATES].tolist():
            example, view, mirrored = (int(c[hit]) for c in (hits.example, hits.view, hits.mirrored))
            verdict = self._judge(picture, example, view, bool(mirrored), known)
            self.counts["verified"] += verdict.verified
            similarity = float(hits.similarity[hit])
            yield CandidatePair(number, example, similarity, view, bool(mirrored), verdict, similarity, None)

    def _judge(
        self,
        picture: TrainingPicture,
        example: int,
        view: int,
        mirrored: bool,
        known: dict[bool, PictureFeatures],
    ) -> Verification:
        reference = self.index.pixels(example)
        thumbnail, shown = picture.thumbnail, views.thumbnail(reference, VIEWS_AND_CROPS[view])
        if view >= len(views.VIEWS):
            thumbnail = views.thumbnail(picture.rgb, VIEWS_AND_CROPS[view])
            shown = views.thumbnail(reference)
        thumbnail = np.ascontiguousarray(thumbnail[:, ::-1] if mirrored else thumbnail)
        correlation = aligned_correlation(thumbnail, shown)
        if correlation < GATE:
            return Verification(False, "gate", 0, correlation)
        found = self._reference_features(example, reference)
        verdict = verify(_features(picture.rgb, mirrored, known), found, mirrored)
        if mirrored and verdict.reason == "content":  # it may be its own mirror image, as the letter A is
            verdict = verify(_features(picture.rgb, False, known), found)
        return verdict

    def _reference_features(self, example: int, rgb: Pixels) -> PictureFeatures:
        if example in self.features:
            self.features.move_to_end(example)
        else:
            self.features[example] = features(rgb)
            if len(self.features) > _CACHED_FEATURES:
                self.features.popitem(last=False)
        return self.features[example]


def picture_of(sample: training_set.TrainingImage, rgb: Pixels) -> TrainingPicture:
    """Prepare a decoded image, cutting off a border of one colour."""
    rgb = views.inner(rgb)
    return TrainingPicture(sample, rgb, views.thumbnail(rgb))


def _features(rgb: Pixels, mirrored: bool, known: dict[bool, PictureFeatures]) -> PictureFeatures:
    """Return the features of a picture or its mirror image, computed once."""
    if mirrored not in known:
        known[mirrored] = features(np.ascontiguousarray(rgb[:, ::-1]) if mirrored else rgb)
    return known[mirrored]
