"""The workers of `openwit detector embed`: one describes images, the other finds the neighbours of examples.

Decoding and network share a process: what a batch costs to decode is of the order of what it costs to
describe, and so nothing waits, or travels between processes.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dedup import index, training_set
from dedup.decode_images import Pictures, Pixels
from dedup.detector import detector_file
from dedup.detector.detector_file import AnyDetector, Device
from dedup.detector.learned_search import described, shown
from dedup.detector.neighbours import Described, NearestSearch
from dedup.detector.parts import (
    NEIGHBOURS,
    DescribedImages,
    EmbeddedFiles,
    FoundNeighbours,
    Searched,
    descriptors,
)
from dedup.parts import ExampleFiles, TrainingShard
from pipeline import schemas, storage
from pipeline.data import views
from pipeline.data.descriptors import SIDE, quality
from pipeline.flow.markers import read_marker
from pipeline.flow.parts import only
from pipeline.images.decode import BadImage

MIN_QUALITY: Final = 25
"""Least detail of an image that is searched for, as in the overlap analysis."""
_BATCH: Final = 256  # thumbnails that the network takes at once, or a few more


class _Picture(NamedTuple):
    """A decoded image without its border; fields only."""

    uid: str
    """Of an evaluation set: the example_id."""
    key: str
    rgb: Pixels


@dataclass(frozen=True)
class DescribeState:
    """The state of a worker process."""

    detector: AnyDetector
    pictures: Pictures


@dataclass(frozen=True, kw_only=True)
class DescribeWorker:
    """Describe the images of a shard, or of some files of an evaluation set."""

    out: str
    detector: str
    """Its file."""
    is_run: bool
    device: Device

    def open(self) -> DescribeState:
        """Load the detector, once a process."""
        cv2.setNumThreads(1)
        return DescribeState(detector_file.for_worker(self.detector, self.device), Pictures())

    def run(self, state: DescribeState, task: TrainingShard | ExampleFiles) -> DescribedImages:
        """Write shards/NAME.parquet or eval/NAME.parquet."""
        detector, is_set = state.detector, isinstance(task, ExampleFiles)
        chosen = detector.views if is_set else detector.views[:1]
        tables, reasons, images = [descriptors(detector.dims).empty_table()], Counter[str](), 0
        pictures = self._pictures(state.pictures, task, reasons)
        while batch := list(islice(pictures, -(-_BATCH // len(chosen)))):
            images += len(batch)
            tables.append(_table(detector, batch, chosen, is_set))
        table = pa.concat_tables(tables)
        path = storage.join(self.out, "eval" if is_set else "shards", f"{task.name}.parquet")
        schemas.write_table(path, table)
        return DescribedImages(
            name=task.name, path=path, rows=len(table), detailed=len(_detailed(table)), images=images,
            reasons=dict(sorted(reasons.items())),
            source=task.dataset if isinstance(task, ExampleFiles) else task.path,
        )  # fmt: skip

    def _pictures(
        self, pictures: Pictures, task: TrainingShard | ExampleFiles, reasons: Counter[str]
    ) -> Iterator[_Picture]:
        """Yield the images that can be decoded; the others are counted in `reasons`."""
        ours = self.is_run and isinstance(task, TrainingShard)
        for uid, key, image in self._images(task):
            try:
                rgb = pictures.decode(image, ours=ours)
            except BadImage as bad:
                reasons[bad.reason] += 1
                continue
            yield _Picture(uid, key, views.inner(rgb))

    def _images(self, task: TrainingShard | ExampleFiles) -> Iterator[tuple[str, str, bytes]]:
        if isinstance(task, ExampleFiles):
            for example in index.examples(task):
                yield example.example_id, "", example.image
        else:
            for sample in training_set.read(task.path, self.is_run):
                yield sample.uid, sample.key, sample.image


def _table(
    detector: AnyDetector, batch: list[_Picture], chosen: tuple[views.View, ...], is_set: bool
) -> pa.Table:
    """Return the descriptors of a batch, in `chosen` views each, whose names are the keys of a set."""
    names = [view.name for view in chosen] if is_set else []
    found = described(detector, shown([one.rgb for one in batch], detector.side, chosen))
    flat = pa.array(np.asarray(found.vectors, np.float16).ravel(), pa.float16())
    qualities = np.repeat(np.array([_quality(one.rgb) for one in batch], np.uint8), len(chosen))
    columns = [
        pa.array([one.uid for one in batch for _ in chosen], pa.string()),
        pa.array([key for one in batch for key in names or [one.key]], pa.string()),
        pa.array(qualities, pa.uint8()),
        pa.array(found.biases, pa.float32()),
        pa.FixedSizeListArray.from_arrays(flat, detector.dims),
    ]
    return pa.Table.from_arrays(columns, schema=descriptors(detector.dims))


def _quality(rgb: Pixels) -> int:
    luma = cv2.cvtColor(views.thumbnail(rgb, side=SIDE), cv2.COLOR_RGB2GRAY)
    return quality(np.asarray(luma, np.uint8))


def _detailed(table: pa.Table) -> pa.Table:
    return table.filter(pc.greater_equal(table["quality"], MIN_QUALITY))


@dataclass(frozen=True, kw_only=True)
class NeighboursWorker:
    """Search for examples in all shards."""

    folder: str
    files: tuple[str, str]
    """Folder and name of the marker with the shards' descriptors."""
    views: int
    """In which each example is described."""
    most: int
    """Neighbours of an example."""
    device: Device

    def open(self) -> tuple[DescribedImages, ...]:
        """Return the shards' descriptors."""
        return only(read_marker(*self.files), EmbeddedFiles).shards

    def run(self, shards: tuple[DescribedImages, ...], task: Searched) -> FoundNeighbours:
        """Write NAME.parquet: NEIGHBOURS sorted as the examples are, then by rank."""
        tables = [_detailed(schemas.read_table(one.path)) for one in task.examples]
        examples = Described(*map(np.concatenate, zip(*map(read_described, tables), strict=True)))
        search = NearestSearch(examples, self.views, self.most, detector_file.device_of(self.device))
        for shard in shards:
            search.add(read_described(_detailed(schemas.read_table(shard.path))))
        result = search.result()
        example, place = np.nonzero(result.row >= 0)
        found = _rows_of(shards, result.row[example, place])
        ids = pa.chunked_array([table["uid"].combine_chunks() for table in tables])
        sizes = [len(table) // self.views for table in tables]
        sets = np.repeat(np.arange(len(tables), dtype=np.int32), sizes)
        columns = [
            pa.array([one.source for one in task.examples], pa.string()).take(pa.array(sets[example])),
            ids.take(pa.array(example * self.views)),
            found["uid"],
            found["shard"],
            found["key"],
            pa.array(result.similarity[example, place], pa.float32()),
            pa.array(place + 1, pa.int32()),
        ]
        path = storage.join(self.folder, f"{task.name}.parquet")
        schemas.write_table(path, pa.Table.from_arrays(columns, schema=NEIGHBOURS))
        return FoundNeighbours(name=task.name, path=path, pairs=len(example))


def read_described(table: pa.Table) -> Described:
    """Return the descriptors of a table as it was written: [n, d] and [n]."""
    flat = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    dims = table.schema.field("embedding").type.list_size
    return Described(flat.reshape(len(table), dims), table["bias"].to_numpy())


def _rows_of(shards: tuple[DescribedImages, ...], rows: npt.NDArray[np.int64]) -> pa.Table:
    """Return uid, key and shard of rows [n], which count the detailed images of all shards in turn.

    The names of a shard's images are read only now, so memory does not grow with the training set.
    """
    wanted, back = np.unique(rows, return_inverse=True)
    bounds = np.cumsum([0, *(one.detailed for one in shards)])
    cuts = np.searchsorted(wanted, bounds)
    schema = pa.schema([NEIGHBOURS.field(name) for name in ("uid", "key", "shard")])
    tables = [schema.empty_table()]
    for shard, before, start, stop in zip(shards, bounds, cuts, cuts[1:], strict=False):
        if start < stop:
            names = _detailed(schemas.read_table(shard.path, ["uid", "key", "quality"])).drop(["quality"])
            chosen = names.take(pa.array(wanted[start:stop] - before))
            source = pa.array([shard.source], pa.string()).take(pa.array(np.zeros(stop - start, np.int64)))
            tables.append(pa.Table.from_arrays([chosen["uid"], chosen["key"], source], schema=schema))
    return pa.concat_tables(tables).take(pa.array(back.reshape(-1)))
