"""`openwit detector embed`: describe every shard and evaluation set, then find each example's neighbours.

Descriptors are named by the version of what they describe and the detector: run again, the command describes
new shards. Each piece of a set is searched for in all shards on its own; on a GPU all pieces at once, since
there the shards' descriptors take longer to read than to compare.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any, Final

import pyarrow as pa

from dedup import index, training_set
from dedup.detector import detector_file
from dedup.detector.embed_workers import DescribeWorker, NeighboursWorker
from dedup.detector.options import DetectorEmbedConfig
from dedup.detector.parts import NEIGHBOURS, DescribedImages, EmbeddedFiles, FoundNeighbours, Searched
from dedup.parts import ExampleFiles, TrainingShard
from pipeline import schemas, storage
from pipeline.data import evalsets
from pipeline.data.views import View
from pipeline.flow.markers import finished, mark
from pipeline.flow.parts import only
from pipeline.flow.runner import Runner
from pipeline.patterns import archive_stem

VERSION: Final = 1  # of the steps' files; raised when they change
VIEWS_AT_ONCE: Final = 25_000
"""Of a folder's images, that a task describes: some ten seconds by the small network."""
_PACE: Final = 5e6  # bytes of pictures that a core describes in a second, by the small network


@dataclass(frozen=True, kw_only=True)
class EmbedPlan:
    """The shards and sets to describe, and with what."""

    config: DetectorEmbedConfig
    detector: str
    """Of its content."""
    views: tuple[View, ...]
    """In which it wants evaluation images."""
    is_run: bool
    shards: tuple[TrainingShard, ...]
    sets: tuple[ExampleFiles, ...]
    bytes: int
    """Of the shards."""

    @property
    def out(self) -> str:
        """Return the folder of the result."""
        return self.config.out.rstrip("/")

    def folder(self, step: str, *made_from: object) -> str:
        """Return the folder of a step with these inputs."""
        text = json.dumps([VERSION, self.detector, self.views, *made_from])
        return storage.join(self.config.work, f"{step}-{_hash(text)}")

    @property
    def described(self) -> str:
        """Return the folder of the markers of all that this detector has described here."""
        return self.folder("described")

    @property
    def missing(self) -> int:
        """Return how many shards and pieces of sets are not described yet."""
        done = finished(self.described)
        return sum(task.name not in done for task in (*self.shards, *self.sets))


def plan(config: DetectorEmbedConfig) -> EmbedPlan:
    """Match the inputs and load the detector, to know its name; ValueError where something is missing."""
    detector = detector_file.of_any_kind(config.detector)
    detector.close()
    training = training_set.find(config.run)
    infos = [storage.file_info(shard) for shard in training.shards]
    shards = (TrainingShard(name=_name(detector.name, [info], info.path), path=info.path) for info in infos)
    return EmbedPlan(
        config=config, detector=detector.name, views=detector.views, is_run=training.is_run,
        shards=tuple(shards), sets=tuple(_pieces(config, detector.name, detector.views)),
        bytes=sum(info.size for info in infos),
    )  # fmt: skip


def _pieces(config: DetectorEmbedConfig, detector: str, views: tuple[View, ...]) -> list[ExampleFiles]:
    """Return the pieces of all sets, named by their content."""
    at_once = min(index.FOLDER_CHUNK, max(1, VIEWS_AT_ONCE // len(views)))
    pieces = [only(piece, ExampleFiles) for piece in index.plan(config.sets, at_once).tasks]
    found = []
    for one in config.sets:
        own = [piece for piece in pieces if piece.dataset == one.name]
        files = evalsets.files_of(one.path)
        for number, piece in enumerate(own):
            versions = [storage.file_info(file) for file in files[piece.start : piece.stop]]
            label = one.name if len(own) == 1 else f"{one.name}-{number:05d}"
            name = _name(detector, [*versions, [view._asdict() for view in views]], label)
            found.append(replace(piece, name=name))
    return found


def _name(detector: str, made_from: list[Any], label: str) -> str:
    return f"{archive_stem(label)}-{_hash(repr([detector, [repr(one) for one in made_from], label]))}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def run(files: EmbedPlan, runner: Runner) -> tuple[EmbeddedFiles, int]:
    """Describe what is missing, then search; return all descriptors and the number of neighbours' rows.

    Two jobs on a cluster. ValueError if no image of the sets can be compared.
    """
    config, folder = files.config, files.described
    worker = DescribeWorker(
        out=files.out, detector=config.detector, is_run=files.is_run, device=config.device
    )
    # Sets first: a piece of one may take longest, in all its views.
    tasks = [*files.sets, *files.shards]
    found = runner.tasks("describe", folder, tasks, worker, DescribedImages, files.bytes / _PACE)
    sets, shards = found[: len(files.sets)], found[len(files.sets) :]
    described = EmbeddedFiles(name="described", shards=tuple(shards), sets=tuple(sets))
    return described, _search(files, described, runner) if sets else 0


def _search(files: EmbedPlan, described: EmbeddedFiles, runner: Runner) -> int:
    """Write neighbours.parquet; return the number of its rows."""
    config = files.config
    compared = [one for one in described.sets if one.detailed]
    if not compared:
        raise ValueError("no image of the evaluation sets can be compared")
    names = [[one.name for one in part] for part in (described.shards, described.sets)]
    given, folder = files.folder("files", names), files.folder("neighbours", names, config.neighbours)
    mark(given, described)
    device = detector_file.device_of(config.device) if runner.is_local else config.device
    at_once = len(compared) if device == "cuda" else 1
    tasks = [
        Searched(name=f"{start:05d}", examples=tuple(compared[start : start + at_once]))
        for start in range(0, len(compared), at_once)
    ]
    worker = NeighboursWorker(
        folder=folder, files=(given, described.name), views=len(files.views), most=config.neighbours,
        device=config.device,
    )  # fmt: skip
    found = runner.tasks("neighbours", folder, tasks, worker, FoundNeighbours)
    tables = [NEIGHBOURS.empty_table(), *(schemas.read_table(one.path) for one in found)]
    schemas.write_table(storage.join(files.out, "neighbours.parquet"), pa.concat_tables(tables))
    return sum(one.pairs for one in found)
