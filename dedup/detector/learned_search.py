"""Bring the learned detector into the overlap analysis: describe the index, set thresholds, find candidates.

Beside the index of hashes lie the detector's descriptors of all views of every example, and one threshold for
each set. Pairs that the detector finds above it are verified like those of the hashes, without the first
gate: that compares aligned thumbnails, and deep crops, which only the detector finds, are not aligned.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dedup import training_set
from dedup.decode_images import Pictures, Pixels
from dedup.detector import neighbours, thresholds
from dedup.detector.detector_file import AnyDetector, for_worker
from dedup.detector.neighbours import Described, NeighbourHits
from dedup.index import Index, joined, load, new_array, save
from dedup.parts import (
    ExampleRows,
    Joining,
    LearnedIndex,
    LearnedThresholds,
    RowVectors,
    TrainingShard,
    UnrelatedPairs,
)
from dedup.same_picture import MIN_INLIERS, PictureFeatures, features, verify
from pipeline import storage
from pipeline.data import views
from pipeline.data.descriptors import describe
from pipeline.data.views import VIEWS
from pipeline.flow.steps import Work, results_in

CHUNK: Final = 1_000  # examples per describing task
_SAMPLE: Final = 2_500  # images of a shard that thresholds are set by
_HIGHEST: Final = 400  # similarities of a set that a sampled shard reports; as many pairs are verified
_BATCH: Final = 256


def shown(pictures: list[Pixels], side: int, chosen: tuple[views.View, ...] = VIEWS[:1]) -> Pixels:
    """Return the thumbnails of pictures without borders: uint8 [pictures * views, side, side, 3]."""
    return np.concatenate([views.thumbnails(rgb, chosen, side) for rgb in pictures])


def described(detector: AnyDetector, thumbnails: Pixels) -> Described:
    """Describe thumbnails."""
    vectors = detector.embed(thumbnails)
    return Described(vectors, detector.biases(vectors))


def plan(index: str) -> Work:
    """Plan to describe the index that lies in a folder."""
    compared = joined(index).compared
    return Work(
        tasks=[
            ExampleRows(name=f"{n:06d}", start=start, stop=min(start + CHUNK, compared))
            for n, start in enumerate(range(0, compared, CHUNK))
        ]
    )


@dataclass(frozen=True)
class LearnedState:
    """The state of a worker process."""

    index: Index
    detector: AnyDetector
    examples: Described | None
    pictures: Pictures


@dataclass(frozen=True, kw_only=True)
class ExampleWorker:
    """Describe the views of some rows of the index."""

    folder: str
    index: str
    """Folder of the index."""
    detector: str
    """Its file."""

    def open(self) -> LearnedState:
        """Map the index and load the network, once a process."""
        return LearnedState(Index(joined(self.index)), for_worker(self.detector), None, Pictures())

    def run(self, state: LearnedState, task: ExampleRows) -> RowVectors:
        """Write NAME.npy."""
        index, detector = state.index, state.detector
        parts = []
        for start in range(task.start, task.stop, 64):
            pictures = [index.pixels(row) for row in range(start, min(start + 64, task.stop))]
            found = described(detector, shown(pictures, detector.side, detector.views))
            parts.append(np.column_stack([found.vectors, found.biases]).astype(np.float16))
        path = storage.join(self.folder, f"{task.name}.npy")
        vectors = np.concatenate(parts)
        save(path, vectors)
        return RowVectors(name=task.name, path=path, rows=len(vectors))


@dataclass(frozen=True, kw_only=True)
class LearnedJoinWorker:
    """Join the described rows, in order, into memory-mapped arrays."""

    folder: str
    rows: str
    """Folder of the described rows."""
    dims: int
    """Of the detector's vectors."""

    def open(self) -> list[RowVectors]:
        """Return the described rows, in order."""
        return results_in(self.rows, RowVectors)

    def run(self, described_rows: list[RowVectors], task: Joining) -> LearnedIndex:
        """Write vectors.npy [n, dims] and biases.npy [n], float32, which products take as they are."""
        index = LearnedIndex(
            name=task.name,
            vectors=storage.join(self.folder, "vectors.npy"),
            biases=storage.join(self.folder, "biases.npy"),
        )
        count = sum(one.rows for one in described_rows)
        with storage.atomic_output(index.vectors) as to, storage.atomic_output(index.biases) as beside:
            vectors = new_array(to, (count, self.dims), np.float32)
            biases, start = new_array(beside, (count,), np.float32), 0
            for one in described_rows:
                rows = load(one.path)
                part = slice(start, start + len(rows))
                vectors[part], biases[part], start = rows[:, :-1], rows[:, -1], part.stop
            del vectors, biases
        return index


def _learned(folder: str) -> Described:
    """Return the files of `LearnedJoinWorker` in a folder."""
    [learned] = results_in(folder, LearnedIndex)
    return Described(_mapped(learned.vectors), _mapped(learned.biases))


def _mapped(path: str) -> npt.NDArray[Any]:
    if storage.is_local(path) and Path(storage.local_path(path)).stat().st_size > 128:
        return np.load(storage.local_path(path), mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
    return load(path)


class LearnedSearch:
    """Find pairs that a detector takes for copies; one per process."""

    def __init__(self, learned: str, settled: str, detector: str, index: Index, floor: float) -> None:
        """Map the detector's vectors of the index.

        learned, settled: folders of that and of its thresholds. floor: where the scale of the hashes begins.
        """
        self.detector, self.floor = for_worker(detector), floor
        self.examples = _learned(learned)
        chosen = read_thresholds(settled)
        self.thresholds = np.array([chosen[name] for name in index.names], np.float32)[index.dataset]

    def among(self, pictures: list[Pixels], rows: list[int]) -> "LearnedSearch":
        """Return the same with other examples, each at the threshold of the example `rows` names."""
        other = copy.copy(self)
        other.examples = described(self.detector, shown(pictures, self.detector.side, self.detector.views))
        other.thresholds = self.thresholds[rows]
        return other

    def search(self, pictures: list[Pixels]) -> NeighbourHits:
        """Return the pairs above the sets' thresholds, by similarity on the scale of the hashes.

        Their views are places in `VIEWS`, of which the detector may take a few.
        """
        queries = described(self.detector, shown(pictures, self.detector.side))
        hits = neighbours.within(queries, self.examples, len(self.detector.views), self.thresholds)
        scaled = thresholds.on_scale(hits.similarity, self.thresholds[hits.example], self.floor)
        places = np.array([VIEWS.index(view) for view in self.detector.views])
        return hits._replace(similarity=np.minimum(scaled, 1), view=places[hits.view])


@dataclass(frozen=True, kw_only=True)
class LearnedSampleWorker:
    """Find the most similar pairs of a shard's first images and each set that share no picture."""

    index: str
    """Folder of the index."""
    learned: str
    """Folder of the detector's vectors of the index."""
    detector: str
    """Its file."""
    is_run: bool
    min_quality: int

    def open(self) -> LearnedState:
        """Map the vectors to compare, once per process."""
        index = Index(joined(self.index))
        return LearnedState(index, for_worker(self.detector), _learned(self.learned), Pictures())

    def run(self, state: LearnedState, task: TrainingShard) -> UnrelatedPairs:
        """Return the highest similarities by set; no file but the marker."""
        index, detector, examples = state.index, state.detector, state.examples
        assert examples is not None
        highest: dict[str, list[float]] = {name: [] for name in index.names}
        images, sizes = 0, list[int]()
        for batch in self._pictures(state.pictures, task.path, sizes):
            images += len(batch)
            queries = described(detector, shown(batch, detector.side))
            for number, name in enumerate(index.names):
                rows = np.flatnonzero(index.dataset == number)
                highest[name] += self._unrelated(index, batch, queries, examples, rows, len(detector.views))
        top = {name: tuple(_top(values)) for name, values in highest.items()}
        return UnrelatedPairs(name=task.name, images=images, read=len(sizes), bytes=sum(sizes), highest=top)

    def _pictures(self, pictures: Pictures, shard: str, sizes: list[int]) -> Iterator[list[Pixels]]:
        """Yield batches of pictures with detail; the size of every image that was read goes into `sizes`."""
        samples = [sample.image for sample in islice(training_set.read(shard, self.is_run), _SAMPLE)]
        sizes += map(len, samples)
        decoded = (pictures.decode_or_none(image, ours=self.is_run) for image in samples)
        inner = (views.inner(rgb) for rgb in decoded if rgb is not None)
        detailed = (
            rgb for rgb in inner if describe(views.thumbnail(rgb)[None]).qualities[0] >= self.min_quality
        )
        while batch := list(islice(detailed, _BATCH)):
            yield batch

    def _unrelated(
        self,
        index: Index,
        batch: list[Pixels],
        queries: Described,
        examples: Described,
        rows: npt.NDArray[np.int64],
        shown_views: int,
    ) -> list[float]:
        """Return the highest similarities of a batch and one set's examples that share no picture.

        Pairs whose keypoints agree are left out, whether verified or not: a copy under a text is no unrelated
        image, and verification has the last word on two photographs of one person.
        """
        first, last = int(rows[0]) * shown_views, (int(rows[-1]) + 1) * shown_views  # a set's lie together
        theirs = Described(examples.vectors[first:last], examples.biases[first:last])
        wanted = max(8, _HIGHEST * _BATCH // _SAMPLE)
        hits = neighbours.highest(queries, theirs, shown_views, wanted + len(batch))  # a copy of each at most
        known: dict[int, list[PictureFeatures]] = {}
        references: dict[int, PictureFeatures] = {}
        found: list[float] = []
        for query, example, similarity in zip(hits.query, hits.example, hits.similarity, strict=True):
            if len(found) == wanted:
                break
            if query not in known:
                known[query] = [
                    features(np.ascontiguousarray(one)) for one in (batch[query], batch[query][:, ::-1])
                ]
            if example not in references:
                references[example] = features(index.pixels(int(rows[example])))
            if all(verify(one, references[example]).inliers < MIN_INLIERS for one in known[query]):
                found.append(round(float(similarity), 6))
        return found


def _top(values: list[float]) -> list[float]:
    return sorted(values, reverse=True)[:_HIGHEST]


@dataclass(frozen=True, kw_only=True)
class ThresholdWorker:
    """Set each set's threshold."""

    index: str
    """Folder of the index."""
    pairs: str
    """Folder of the most similar unrelated pairs."""
    size: int
    """Of the whole training set, in bytes."""
    precision: float

    def open(self) -> Index:
        """Map the index."""
        return Index(joined(self.index))

    def run(self, index: Index, task: Joining) -> LearnedThresholds:
        """Return the thresholds; no file but the marker."""
        sampled = results_in(self.pairs, UnrelatedPairs)
        chosen = {}
        seen = sum(one.images for one in sampled)
        read, held = sum(one.read for one in sampled), sum(one.bytes for one in sampled)
        # Captions and tar headers count too: a few images more.
        images = round(self.size / (held / read)) if held else 1
        for number, name in enumerate(index.names):
            examples = int((index.dataset == number).sum())
            unrelated = np.array(_top([x for one in sampled for x in one.highest[name]]), np.float32)
            chosen[name] = round(
                thresholds.threshold(unrelated, seen * examples, examples, images, self.precision), 6
            )
        return LearnedThresholds(name=task.name, thresholds=chosen)


def read_thresholds(folder: str) -> dict[str, float]:
    """Return each set's threshold, as `ThresholdWorker` left it in a folder."""
    return results_in(folder, LearnedThresholds)[0].thresholds
