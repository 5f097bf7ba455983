"""Match one shard with the index: a shard in, one table of matches out.

A shard is read once and in batches, so memory does not grow with it. Images written by openwit were described
when they were fetched: only candidates among them are decoded, for verification. Altered copies of evaluation
images are searched for in the same way (`planted.py`).
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from dedup import planted, search, training_set
from dedup.decode_images import Pictures, preview
from dedup.index import Index, joined, load, read_whitening, save
from dedup.matcher import (
    BATCH,
    VIEWS_AND_CROPS,
    CandidatePair,
    ImageMatcher,
    Learned,
    TrainingPicture,
    picture_of,
)
from dedup.near_captions import TextIndex, texts_of
from dedup.parts import (
    FOUND,
    TEXT_MATCHES,
    FittedWhitening,
    FoundCopies,
    Joining,
    MatchedShard,
    PlantedCopies,
    SampledColours,
    TrainingShard,
)
from dedup.search import Hits, Whitening
from pipeline import schemas, storage
from pipeline.data.descriptors import COLOUR_TERMS, describe
from pipeline.flow.steps import results_in
from pipeline.images.decode import BadImage

_SAMPLE: Final = 2_500  # images of a shard from which the whitening is fitted
_CAPTION: Final = 500
_NAMED: Final = 20  # images of a shard that cannot be decoded


@dataclass(frozen=True)
class MatchState:
    """The state of a worker process."""

    pictures: Pictures
    index: Index | None
    whitening: Whitening | None
    texts: TextIndex | None = None
    learned: Learned | None = None


def _one_thread() -> None:
    search.use_one_thread()
    cv2.setNumThreads(1)


@dataclass(frozen=True, kw_only=True)
class SampleWorker:
    """Describe the first images of a shard, for fitting the whitening."""

    folder: str
    is_run: bool

    def open(self) -> MatchState:
        """Return the decoder, one per process."""
        _one_thread()
        return MatchState(Pictures(), None, None)

    def run(self, state: MatchState, task: TrainingShard) -> SampledColours:
        """Write NAME.npy."""
        colours = [np.zeros((0, COLOUR_TERMS), np.int16)]
        stored = training_set.read_described(task.path, _SAMPLE) if self.is_run else None
        if stored is not None:
            colours += [part.descriptors.colours for part in islice(stored, 1)]
        else:
            samples = islice(training_set.read(task.path, self.is_run), _SAMPLE)
            for batch in _batches(_decoded(samples, state.pictures, self.is_run, Counter(), [])):
                colours.append(describe(np.stack([picture.thumbnail for picture in batch])).colours)
        path = storage.join(self.folder, f"{task.name}.npy")
        save(path, np.concatenate(colours))
        return SampledColours(name=task.name, path=path)


@dataclass(frozen=True, kw_only=True)
class WhiteningWorker:
    """Fit the whitening to the sampled colours."""

    sample: str
    """Folder of the sampled colours."""
    training_set: str
    """The training set, as the user names it."""

    def open(self) -> list[npt.NDArray[np.int16]]:
        """Return the sampled colours of each shard, int16 [n, 256]."""
        return [load(sampled.path) for sampled in results_in(self.sample, SampledColours)]

    def run(self, sampled: list[npt.NDArray[np.int16]], task: Joining) -> FittedWhitening:
        """Return mean and deviation of the sampled colours, int16 [k, 256] each; no file but the marker.

        ValueError for fewer than two images.
        """
        colours = np.concatenate(sampled)
        if len(colours) < 2:
            raise ValueError(
                f"fewer than two images of {self.training_set} can be decoded; there is nothing to compare"
            )
        fitted = Whitening.fit(colours)
        return FittedWhitening(
            name=task.name, mean=tuple(fitted.mean.tolist()), deviation=tuple(fitted.deviation.tolist())
        )


def _decoded(
    samples: Iterator[training_set.TrainingImage], pictures: Pictures, ours: bool, counts: Counter[str],
    lost: list[tuple[str, str]],
) -> Iterator[TrainingPicture]:  # fmt: skip
    for sample in samples:
        counts["images"] += 1
        try:
            rgb = pictures.decode(sample.image, ours=ours)
        except BadImage as bad:
            _count_bad(counts, lost, sample.key, bad)
        else:
            yield picture_of(sample._replace(image=b""), rgb)


def _count_bad(counts: Counter[str], lost: list[tuple[str, str]], key: str, bad: BadImage) -> None:
    """Count an image that cannot be decoded, and name the first of a shard."""
    counts["unreadable"] += 1
    if len(lost) < _NAMED:
        lost.append((_printable(key), bad.reason))


def _batches(pictures: Iterator[TrainingPicture]) -> Iterator[list[TrainingPicture]]:
    while batch := list(islice(pictures, BATCH)):
        yield batch


@dataclass(frozen=True, kw_only=True)
class MatchWorker:
    """Match one shard, or planted copies of one evaluation set."""

    folder: str
    index: str
    """Folder of the index."""
    whitening: str
    """Folder of the fitted whitening."""
    is_run: bool
    floor: float
    min_quality: int
    planted: int
    seed: int
    text_threshold: float | None
    """Jaccard similarity of texts, or None to leave texts out."""
    detector: str = ""
    """A learned detector's file, or empty."""
    learned: str = ""
    """Folder of the detector's vectors of the index."""
    thresholds: str = ""
    """Folder of its thresholds."""
    hashes: bool = True
    """Whether hashes and colours are compared, or vectors of the detector alone."""
    crops: bool = True
    """Whether hashes of crops of training images are compared as well."""
    device: str = ""
    """Where hashes are compared, or empty for the CPU."""

    def open(self) -> MatchState:
        """Map the index, once a process."""
        _one_thread()
        if self.hashes and not self.device:
            search.warn_without_kernel()
        texts, files = None, joined(self.index)
        if self.text_threshold is not None:
            texts = TextIndex(texts_of(schemas.read_table(files.examples)), self.text_threshold)
        index = Index(files, self.device)
        learned = self._learned(index) if self.detector else None
        return MatchState(Pictures(), index, read_whitening(self.whitening), texts, learned)

    def _learned(self, index: Index) -> Learned:
        from dedup.detector.learned_search import LearnedSearch  # imports torch

        return LearnedSearch(self.learned, self.thresholds, self.detector, index, self.floor)

    def run(self, state: MatchState, task: TrainingShard | PlantedCopies) -> MatchedShard | FoundCopies:
        """Write NAME.parquet with a shard's candidates, NAME.text.parquet, or find a set's copies."""
        assert state.index is not None and state.whitening is not None
        matcher = ImageMatcher(
            state.index, state.whitening, self.floor, self.min_quality, state.learned, self.hashes, self.crops
        )
        if isinstance(task, TrainingShard):
            return self._match(state, matcher, task)
        try:
            return planted.find(matcher, state.index, task, self.planted, self.seed)
        except Exception as error:  # noqa: BLE001 - a measurement beside the result must not cost it
            note = f"{type(error).__name__}: {error}"[:300]
            return FoundCopies(name=task.name, note=note)

    def _match(self, state: MatchState, matcher: ImageMatcher, task: TrainingShard) -> MatchedShard:
        assert state.index is not None
        bad: Counter[str] = Counter()
        lost: list[tuple[str, str]] = []
        rows: list[tuple[object, ...]] = []
        text_rows: list[tuple[object, ...]] = []
        # A learned detector looks at every image itself, and so do crops.
        is_described = self.is_run and state.learned is None and not self.crops
        stored = training_set.read_described(task.path, BATCH) if is_described else None
        if stored is not None:
            rows += self._match_stored(state, matcher, task.path, stored, bad, text_rows, lost)
        else:
            samples = _with_texts(training_set.read(task.path, self.is_run, bad), state.texts, text_rows)
            for batch in _batches(_decoded(samples, state.pictures, self.is_run, matcher.counts, lost)):
                rows += _rows(state.index, batch, matcher.match(batch), task.path)
        found = storage.join(self.folder, f"{task.name}.parquet")
        schemas.write_table(found, schemas.to_table(rows, FOUND), row_group_size=1024)
        texts = ""
        if state.texts is not None:
            texts = storage.join(self.folder, f"{task.name}.text.parquet")
            schemas.write_table(texts, schemas.to_table(text_rows, TEXT_MATCHES))
        counts = {**matcher.counts, **{f"member_{word}": n for word, n in bad.items()}}
        return MatchedShard(
            name=task.name, found=found, texts=texts, counts=dict(sorted(counts.items())),
            unreadable=tuple(lost),
        )  # fmt: skip

    def _match_stored(
        self,
        state: MatchState,
        matcher: ImageMatcher,
        shard: str,
        stored: Iterator[training_set.StoredDescriptors],
        bad: Counter[str],
        text_rows: list[tuple[object, ...]],
        lost: list[tuple[str, str]],
    ) -> Iterator[tuple[object, ...]]:
        """Search by the descriptors of a run, then decode the candidates alone; yield FOUND rows."""
        assert state.index is not None
        hits_of: dict[str, tuple[training_set.TrainingImage, int, Hits]] = {}
        for part in stored:
            matcher.counts["images"] += len(part.samples)
            text_rows += _near_texts(part.samples, state.texts)
            _, hits = matcher.search(part.descriptors)
            for number in np.unique(hits.query).tolist():
                hits_of[part.samples[number].key] = part.samples[number], number, hits
        if not hits_of:
            return
        for sample in training_set.read(shard, self.is_run, bad):
            if sample.key not in hits_of:
                continue
            known, number, hits = hits_of[sample.key]
            try:
                rgb = state.pictures.decode(sample.image, ours=True)
            except BadImage as bad_image:
                _count_bad(matcher.counts, lost, sample.key, bad_image)
                continue
            picture = picture_of(known, rgb)
            found = [one._replace(picture=0) for one in matcher.verify(number, picture, hits, {})]
            yield from _rows(state.index, [picture], found, shard)


def _with_texts(
    samples: Iterator[training_set.TrainingImage], texts: TextIndex | None, rows: list[tuple[object, ...]]
) -> Iterator[training_set.TrainingImage]:
    """Pass samples on, adding the texts that their captions are near to `rows`."""
    while batch := list(islice(samples, BATCH)):
        rows += _near_texts(batch, texts)
        yield from batch


def _near_texts(
    samples: list[training_set.TrainingImage], texts: TextIndex | None
) -> Iterator[tuple[object, ...]]:
    """Yield TEXT_MATCHES rows of the samples' captions."""
    if texts is None:
        return
    captions = [(sample, caption) for sample in samples for caption in sample.captions]
    for hit in texts.search([caption for _, caption in captions]):
        sample, caption = captions[hit.query]
        target = (hit.target.dataset, hit.target.kind, hit.target.example_id, hit.target.text)
        shown = (_printable(sample.url), _printable(caption)[:_CAPTION])
        yield (*target, sample.uid, *shown, round(hit.jaccard, 4))


def _rows(
    index: Index, batch: list[TrainingPicture], candidates: list[CandidatePair], shard: str
) -> Iterator[tuple[object, ...]]:
    for one in candidates:
        picture, verdict = batch[one.picture], one.verdict
        sample = picture.sample
        caption = sample.captions[0][:_CAPTION] if sample.captions else ""
        yield (
            index.names[index.dataset[one.example]], index.example_ids[one.example].as_py(), sample.uid,
            _printable(sample.url), round(one.similarity, 4), verdict.verified, verdict.reason,
            verdict.inliers, round(verdict.correlation, 3), VIEWS_AND_CROPS[one.view].name, one.mirrored,
            _printable(caption), shard, sample.key, _digits(one.hashes), _digits(one.learned),
            preview(picture.rgb),
        )  # fmt: skip


def _digits(similarity: float | None) -> float | None:
    return None if similarity is None else round(similarity, 4)


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()  # lone surrogates cannot be stored
