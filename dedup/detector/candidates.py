"""Bring the learned detector into the overlap analysis: describe the index, set thresholds, find candidates.

Beside the index of hashes lie the detector's descriptors of all views of every example, and one threshold
for each set. What the detector finds above it is verified like what the hashes find, without the first gate:
that compares aligned thumbnails, which the deep crops that only the detector finds are not.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from dedup import training
from dedup.detector import search, thresholds, weights
from dedup.detector.search import Described, Hits
from dedup.detector.weights import LearnedDetector
from dedup.index import Index
from dedup.pictures import Pictures, Pixels
from dedup.verify import features, verify
from pipeline import storage
from pipeline.data import views
from pipeline.data.descriptors import describe
from pipeline.data.views import VIEWS

CHUNK: Final = 1_000  # examples that one task describes
_VECTORS, _BIASES, _THRESHOLDS = "vectors.npy", "biases.npy", "thresholds.json"
_SAMPLE: Final = 2_500  # images of a shard that thresholds are set by
_HIGHEST: Final = 400  # similarities of a set that a sampled shard reports; as many pairs are verified
_BATCH: Final = 256


def _loaded(path: str) -> LearnedDetector:
    torch.set_num_threads(1)  # workers are as many as cores already
    return weights.read(path)


def shown(pictures: list[Pixels], side: int, chosen: tuple[views.View, ...] = VIEWS[:1]) -> Pixels:
    """Return the thumbnails of pictures without borders: uint8 [pictures * views, side, side, 3]."""
    return np.concatenate([views.thumbnails(rgb, chosen, side) for rgb in pictures])


def described(detector: LearnedDetector, thumbnails: Pixels) -> Described:
    """Describe thumbnails."""
    vectors = detector.embed(thumbnails)
    return Described(vectors, detector.biases(vectors))


def plan(compared: int) -> list[dict[str, Any]]:
    """Return the tasks that describe so many examples."""
    starts = range(0, compared, CHUNK)
    return [
        {"name": f"{n:06d}", "start": start, "stop": min(start + CHUNK, compared)}
        for n, start in enumerate(starts)
    ]


@dataclass(frozen=True)
class State:
    """What a worker process keeps."""

    index: Index
    detector: LearnedDetector
    examples: Described | None
    pictures: Pictures


@dataclass(frozen=True, kw_only=True)
class ExampleWorker:
    """Describe the views of a part of the index."""

    folder: str
    index: str
    detector: str

    def open(self) -> State:
        """Map the index and load the network, once a process."""
        return State(Index(self.index), _loaded(self.detector), None, Pictures())

    def run(self, state: State, task: dict[str, Any]) -> dict[str, object]:
        """Write NAME.npy, float16 [n * views, d + 1]: vectors, and the bias last."""
        index, detector = state.index, state.detector
        parts = []
        for start in range(task["start"], task["stop"], 64):
            pictures = [index.pixels(row) for row in range(start, min(start + 64, task["stop"]))]
            found = described(detector, shown(pictures, detector.side, VIEWS))
            parts.append(np.column_stack([found.vectors, found.biases]).astype(np.float16))
        path = storage.join(self.folder, f"{task['name']}.npy")
        with storage.atomic_output(path) as temporary, temporary.open("wb") as sink:
            np.save(sink, np.concatenate(parts))
        return {"path": path}


def join(folder: str, parts: list[dict[str, Any]], dims: int) -> None:
    """Join the parts, in order, into memory-mapped arrays below `folder`."""
    arrays = [np.zeros((0, dims + 1), np.float16)]
    for part in parts:
        with storage.open_input(part["path"]) as file:
            arrays.append(np.lib.format.read_array(file, allow_pickle=False))
    whole = np.concatenate(arrays)
    for name, value in (
        (_VECTORS, np.ascontiguousarray(whole[:, :-1])),
        (_BIASES, whole[:, -1].astype(np.float32)),
    ):
        with storage.atomic_output(storage.join(folder, name)) as temporary, temporary.open("wb") as sink:
            np.save(sink, value)


def _mapped(folder: str, name: str) -> npt.NDArray[Any]:
    path = storage.join(folder, name)
    if storage.is_local(path) and Path(storage.local_path(path)).stat().st_size > 128:
        return np.load(storage.local_path(path), mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
    with storage.open_input(path) as file:
        found: npt.NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
        return found


class LearnedSearch:
    """Find what a detector takes for copies; one a process."""

    def __init__(self, folder: str, detector: str, index: Index, floor: float) -> None:
        """Map the descriptors below `folder`; `floor`: where the scale of the hashes begins."""
        self.detector, self.floor = _loaded(detector), floor
        self.examples = Described(_mapped(folder, _VECTORS), _mapped(folder, _BIASES))
        chosen = read_thresholds(folder)
        self.thresholds = np.array([chosen[name] for name in index.names], np.float32)[index.dataset]

    def search(self, pictures: list[Pixels]) -> Hits:
        """Return the pairs above the sets' thresholds, by similarity on the scale of the hashes."""
        queries = described(self.detector, shown(pictures, self.detector.side))
        hits = search.within(queries, self.examples, len(VIEWS), self.thresholds)
        scaled = thresholds.on_scale(hits.similarity, self.thresholds[hits.example], self.floor)
        return hits._replace(similarity=np.minimum(scaled, 1))


@dataclass(frozen=True, kw_only=True)
class SampleWorker:
    """Find the most similar pairs of a shard's first images and each set, without those that are verified."""

    folder: str
    index: str
    detector: str
    is_run: bool
    min_quality: int

    def open(self) -> State:
        """Map what is compared, once a process."""
        examples = Described(_mapped(self.folder, _VECTORS), _mapped(self.folder, _BIASES))
        return State(Index(self.index), _loaded(self.detector), examples, Pictures())

    def run(self, state: State, task: dict[str, Any]) -> dict[str, object]:
        """Return the images that were compared, and by set the highest similarities of unrelated pairs."""
        index, detector, examples = state.index, state.detector, state.examples
        assert examples is not None
        highest: dict[str, list[float]] = {name: [] for name in index.names}
        images, sizes = 0, list[int]()
        for batch in self._pictures(state.pictures, task["shard"], sizes):
            images += len(batch)
            queries = described(detector, shown(batch, detector.side))
            for number, name in enumerate(index.names):
                rows = np.flatnonzero(index.dataset == number)
                highest[name] += self._unrelated(index, batch, queries, examples, rows)
        top = {name: _top(values) for name, values in highest.items()}
        return {"images": images, "read": len(sizes), "bytes": sum(sizes), "highest": top}

    def _pictures(self, pictures: Pictures, shard: str, sizes: list[int]) -> Iterator[list[Pixels]]:
        """Yield batches of pictures with detail; the size of every image that was read goes into `sizes`."""
        samples = [sample.image for sample in islice(training.read(shard, self.is_run), _SAMPLE)]
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
    ) -> list[float]:
        """Return the highest similarities of a batch and one set's examples, verified pairs left out."""
        first, last = int(rows[0]) * len(VIEWS), (int(rows[-1]) + 1) * len(VIEWS)  # a set's rows lie together
        theirs = np.asarray(examples.vectors[first:last], np.float32)
        products = queries.vectors @ theirs.T - queries.biases[:, None] - examples.biases[first:last]
        best = products.reshape(len(batch), -1, len(VIEWS)).max(axis=2)
        share = max(8, _HIGHEST * _BATCH // _SAMPLE)
        flat = np.argsort(-best, axis=None, kind="stable")[:share]
        known: dict[int, list[Any]] = {}
        found = []
        for query, example in zip(*np.unravel_index(flat, best.shape), strict=True):
            if query not in known:
                known[query] = [
                    features(np.ascontiguousarray(one)) for one in (batch[query], batch[query][:, ::-1])
                ]
            reference = features(index.pixels(int(rows[example])))
            if not any(verify(one, reference).verified for one in known[query]):
                found.append(round(float(best[query, example]), 6))
        return found


def _top(values: list[float]) -> list[float]:
    return sorted(values, reverse=True)[:_HIGHEST]


def save_thresholds(
    folder: str, index: Index, sampled: list[dict[str, Any]], size: int, precision: float
) -> None:
    """Publish each set's threshold for a training set of `size` bytes."""
    chosen = {}
    seen = sum(result["images"] for result in sampled)
    read, held = (sum(result[name] for result in sampled) for name in ("read", "bytes"))
    images = round(size / (held / read)) if held else 1  # captions and tar headers count too: a few more
    for number, name in enumerate(index.names):
        examples = int((index.dataset == number).sum())
        highest = [value for result in sampled for value in result["highest"][name]]
        unrelated = np.array(_top(highest), np.float32)
        chosen[name] = round(thresholds.threshold(unrelated, seen * examples, examples, images, precision), 6)
    storage.write_bytes(storage.join(folder, _THRESHOLDS), json.dumps(chosen, indent=1).encode())


def read_thresholds(folder: str) -> dict[str, float]:
    """Return each set's threshold."""
    values: dict[str, float] = json.loads(storage.read_bytes(storage.join(folder, _THRESHOLDS)))
    return values
