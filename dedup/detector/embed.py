"""`openwit detector embed`: descriptors of every shard and evaluation set as Parquet, then the neighbours.

A shard's file is written whole when the shard is done, named by the shard's version and the detector: run
again, the command describes new shards. Worker processes decode; the network runs in the main process.
"""

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from dedup import training_set
from dedup.decode_images import Pictures, Pixels
from dedup.detector import detector_file
from dedup.detector.detector_file import AnyDetector, LearnedDetector
from dedup.detector.neighbours import Described, NearestSearch
from dedup.detector.options import DetectorEmbedConfig
from dedup.training_set import TrainingSet
from pipeline import schemas, storage
from pipeline.data import evalsets, views
from pipeline.data.descriptors import SIDE, quality
from pipeline.patterns import archive_stem
from pipeline.processes import end_with_parent

log = logging.getLogger("dedup.detector")

MIN_QUALITY: Final = 25
"""Least detail of an image that is searched for, as in the overlap analysis."""
_PIECE: Final = 256  # images that travel from a worker together
NEIGHBOURS: Final = pa.schema(
    [
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("example_id", pa.string(), nullable=False),
        pa.field("uid", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("similarity", pa.float32(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),  # 1: the most similar training image
    ]
)


def schema(dims: int) -> pa.Schema:
    """Return the columns of a file of descriptors."""
    return pa.schema(
        [
            pa.field("uid", pa.string(), nullable=False),  # of an evaluation set: the example_id
            pa.field("key", pa.string(), nullable=False),  # of an evaluation set: the view
            pa.field("quality", pa.uint8(), nullable=False),
            pa.field("bias", pa.float32(), nullable=False),
            pa.field("embedding", pa.list_(pa.float16(), dims), nullable=False),
        ]
    )


class EmbedPiece(NamedTuple):
    """Some images of one task; fields only."""

    task: int
    last: bool
    ids: list[tuple[str, str]]
    thumbnails: npt.NDArray[np.uint8]
    qualities: list[int]


@dataclass(frozen=True)
class Task:
    """One file to write."""

    path: str
    """Of the result."""
    source: str
    """A shard, or an evaluation set's path."""
    is_run: bool = False
    is_set: bool = False


class _Decoded(IterableDataset[EmbedPiece]):
    """Decode the images of tasks, each task in one worker."""

    def __init__(self, tasks: list[Task], side: int, shown: tuple[views.View, ...]) -> None:
        self.tasks, self.side, self.shown = tasks, side, shown

    def __iter__(self) -> Iterator[EmbedPiece]:
        worker = get_worker_info()
        cv2.setNumThreads(1)
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for number in range(first, len(self.tasks), step):
            yield from self._pieces(number, self.tasks[number])

    def _pieces(self, number: int, task: Task) -> Iterator[EmbedPiece]:
        ids: list[tuple[str, str]] = []
        thumbnails: list[Pixels] = []
        qualities: list[int] = []
        for (name, key), rgb in _images(task):
            inner = views.inner(rgb)
            luma = cv2.cvtColor(views.thumbnail(inner, side=SIDE), cv2.COLOR_RGB2GRAY)
            detail = quality(np.asarray(luma, np.uint8))
            for view in self.shown if task.is_set else self.shown[:1]:
                ids.append((name, view.name if task.is_set else key))
                thumbnails.append(views.thumbnail(inner, view, self.side))
                qualities.append(detail)
            if len(ids) >= _PIECE:
                yield EmbedPiece(number, False, ids, np.stack(thumbnails), qualities)
                ids, thumbnails, qualities = [], [], []
        empty = np.zeros((0, self.side, self.side, 3), np.uint8)
        yield EmbedPiece(number, True, ids, np.stack(thumbnails) if thumbnails else empty, qualities)


def _images(task: Task) -> Iterator[tuple[tuple[str, str], Pixels]]:
    pictures = Pictures()
    try:
        if task.is_set:
            for example in evalsets.read(task.source):
                rgb = pictures.decode_or_none(example.image, ours=False)
                if rgb is not None:
                    yield (example.example_id, ""), rgb
        else:
            for sample in training_set.read(task.source, task.is_run):
                rgb = pictures.decode_or_none(sample.image, ours=task.is_run)
                if rgb is not None:
                    yield (sample.uid, sample.key), rgb
    finally:
        pictures.close()


def _as_is(piece: Any) -> Any:
    return piece


@dataclass(frozen=True, kw_only=True)
class EmbedPlan:
    """The shards and sets to describe."""

    training: TrainingSet
    shards: list[Task]
    sets: list[Task]

    @property
    def missing(self) -> list[Task]:
        """Return the tasks that are not done."""
        return [task for task in (*self.shards, *self.sets) if not storage.exists(task.path)]


def plan(config: DetectorEmbedConfig, detector: AnyDetector) -> EmbedPlan:
    """Return the files to write; they are named by their inputs."""
    training = training_set.find(config.run)
    shards = []
    for shard in training.shards:
        name = _name(detector.name, [storage.file_info(shard)], shard)
        shards.append(Task(storage.join(config.out, "shards", name), shard, training.is_run))
    sets = []
    for one in config.sets:
        files = [storage.file_info(file) for file in evalsets.files_of(one.path)]
        name = _name(detector.name, [*files, [view._asdict() for view in detector.views]], one.name)
        sets.append(Task(storage.join(config.out, "eval", name), one.path, is_set=True))
    return EmbedPlan(training=training, shards=shards, sets=sets)


def _name(detector: str, made_from: list[Any], label: str) -> str:
    digest = hashlib.sha256(repr([detector, [repr(one) for one in made_from], label]).encode()).hexdigest()
    return f"{archive_stem(label)}-{digest[:12]}.parquet"


def describe(tasks: list[Task], detector: AnyDetector, config: DetectorEmbedConfig) -> Iterator[Task]:
    """Write the files of some tasks; yields each when it is written."""
    workers = min(config.workers, len(tasks))
    loader = DataLoader(
        _Decoded(tasks, detector.side, detector.views), batch_size=None, num_workers=workers,
        collate_fn=_as_is, prefetch_factor=4 if workers else None,
        # OpenCV's and torch's threads do not survive a fork, and this process may have used them.
        multiprocessing_context="forkserver" if workers else None,
        worker_init_fn=end_with_parent,
    )  # fmt: skip
    tables: dict[int, list[pa.Table]] = {}
    for piece in loader:
        vectors = detector.embed(piece.thumbnails)
        tables.setdefault(piece.task, []).append(_table(piece, vectors, detector.biases(vectors)))
        if piece.last:
            task = tasks[piece.task]
            schemas.write_table(task.path, pa.concat_tables(tables.pop(piece.task)))
            yield task


def _table(piece: EmbedPiece, vectors: npt.NDArray[np.float32], biases: npt.NDArray[np.float32]) -> pa.Table:
    flat = pa.array(vectors.astype(np.float16).ravel(), pa.float16())
    columns = [
        pa.array([name for name, _ in piece.ids], pa.string()),
        pa.array([key for _, key in piece.ids], pa.string()),
        pa.array(piece.qualities, pa.uint8()),
        pa.array(biases, pa.float32()),
        pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
    ]
    return pa.Table.from_arrays(columns, schema=schema(vectors.shape[1]))


def read_described(table: pa.Table) -> Described:
    """Return the descriptors of a table as it was written."""
    flat = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    dims = table.schema.field("embedding").type.list_size
    return Described(flat.reshape(len(table), dims), table["bias"].to_numpy())


def neighbours(config: DetectorEmbedConfig, files: EmbedPlan, shown: int, device: torch.device | str) -> int:
    """Search every set through all shards and write neighbours.parquet; return the number of rows.

    shown: how many views of each example are described.
    ValueError if no image of the sets can be compared.
    """
    sets = [schemas.read_table(task.path) for task in files.sets]
    kept = [table.filter(pc.greater_equal(table["quality"], MIN_QUALITY)) for table in sets]
    if not sum(map(len, kept)):
        raise ValueError("no image of the evaluation sets can be compared")
    described = [read_described(table) for table in kept]
    examples = Described(*(np.concatenate(column) for column in zip(*described, strict=True)))
    search = NearestSearch(examples, shown, config.neighbours, device)
    ids: list[pa.Table] = []
    for number, task in enumerate(files.shards):
        table = schemas.read_table(task.path)
        table = table.filter(pc.greater_equal(table["quality"], MIN_QUALITY))
        search.add(read_described(table))
        shard = pa.array(np.full(len(table), number, np.int32))
        ids.append(table.select(["uid", "key"]).append_column("shard", shard))
    result = search.result()
    names = [(one.name, example) for one, table in zip(config.sets, kept, strict=True)
             for example in table["uid"].to_pylist()[::shown]]  # fmt: skip
    example, place = np.nonzero(result.row >= 0)
    found = pa.concat_tables(ids).take(pa.array(result.row[example, place]))
    table = pa.Table.from_arrays(
        [
            pa.array([names[row][0] for row in example], pa.string()),
            pa.array([names[row][1] for row in example], pa.string()),
            found["uid"].combine_chunks(),
            pa.array([files.shards[n].source for n in found["shard"].to_pylist()], pa.string()),
            found["key"].combine_chunks(),
            pa.array(result.similarity[example, place], pa.float32()),
            pa.array(place + 1, pa.int32()),
        ],
        schema=NEIGHBOURS,
    )
    schemas.write_table(storage.join(config.out, "neighbours.parquet"), table)
    return len(table)


def rows_of(path: str) -> int:
    """Return the number of rows of a Parquet file."""
    with storage.open_input(path) as file:
        return int(pq.ParquetFile(file).metadata.num_rows)


def load(config: DetectorEmbedConfig) -> tuple[AnyDetector, str]:
    """Return the detector and the device that was asked for; ValueError where there is no such device.

    An encoder of others runs on the CPU, in its child process.
    """
    detector = detector_file.of_any_kind(config.detector)
    cuda = torch.cuda.is_available() if config.device == "auto" else config.device == "cuda"
    if cuda and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no GPU here")
    device = "cuda" if cuda else "cpu"
    if isinstance(detector, LearnedDetector):
        detector.network.to(device)
    return detector, device
