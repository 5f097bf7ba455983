"""The evaluation side as files: descriptors of all views, and the images that verification looks at.

Files of the sets are described in parallel, then joined into memory-mapped arrays, row by row: the views of
one example lie together. Images that cannot be decoded and those without detail are listed, but not searched.
"""

import functools
import hashlib
import posixpath
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dedup.decode_images import Pictures, Pixels, decode_jpeg
from dedup.parts import (
    EXAMPLES,
    DescribedExamples,
    ExampleFiles,
    ExampleIndex,
    FittedWhitening,
    Joining,
)
from dedup.picture_kinds import kind_of
from dedup.search import References, Whitening, quantised, wholes
from pipeline import private, schemas, storage
from pipeline.data import evalsets, views
from pipeline.data.descriptors import COLOUR_TERMS, describe
from pipeline.data.evalsets import Example
from pipeline.data.named_sets import EvalSet
from pipeline.flow.steps import Work, results_in
from pipeline.images.decode import BadImage

_OLD: Final = 86_400.0  # seconds after which a copy of a version that is gone is removed
FOLDER_CHUNK: Final = 2_000  # images of a folder that a task describes


def plan(sets: list[EvalSet], at_once: int = FOLDER_CHUNK) -> Work:
    """Plan to describe all sets: a shard or Parquet file at a time, folders in pieces of `at_once` images."""
    tasks = []
    for place, one in enumerate(sets):  # results come in the order of their names
        form, files = evalsets.form_of(one.path), evalsets.files_of(one.path)
        step = at_once if form == "folder" else 1
        for number, start in enumerate(range(0, len(files), step)):
            tasks.append(
                ExampleFiles(
                    name=f"{place:03d}-{number:05d}", dataset=one.name, path=one.path, form=form, start=start,
                    stop=start + step,
                )
            )  # fmt: skip
    return Work(tasks=tasks)


@dataclass(frozen=True, kw_only=True)
class IndexWorker:
    """Describe some files of an evaluation set."""

    folder: str
    min_quality: int

    def open(self) -> Pictures:
        """Return the decoder, one per process."""
        return Pictures()

    def run(self, state: Pictures, task: ExampleFiles) -> DescribedExamples:
        """Write NAME.examples.parquet, NAME.images, NAME.hashes.npy and NAME.colours.npy."""
        base = storage.join(self.folder, task.name)
        rows: list[tuple[object, ...]] = []
        hashes, colours = [], []
        with storage.atomic_output(f"{base}.images") as images, images.open("wb") as sink:
            for example in examples(task):
                jpeg, reason, kind = b"", "", ""
                try:
                    jpeg = state.normalised(example.image)
                    rgb = state.decode(jpeg, ours=True)
                    kind, found = kind_of(rgb), describe(views.thumbnails(views.inner(rgb)))
                except BadImage as bad:
                    jpeg, reason = b"", bad.reason
                if reason:
                    state_word = "unreadable"
                elif found.qualities[0] < self.min_quality:
                    state_word = "low_information"
                else:
                    state_word = "compared"
                    hashes.append(found.hashes)
                    colours.append(found.colours)
                row = len(hashes) - 1 if state_word == "compared" else -1
                texts = (example.example_id, example.label, example.caption, example.group)
                rows.append((task.dataset, *texts, state_word, row, sink.tell(), len(jpeg), reason, kind))
                sink.write(jpeg)
        described = DescribedExamples(
            name=task.name, examples=f"{base}.examples.parquet", images=f"{base}.images",
            hashes=f"{base}.hashes.npy", colours=f"{base}.colours.npy", compared=len(hashes),
        )  # fmt: skip
        save(described.hashes, np.concatenate([np.zeros((0, 32), np.uint8), *hashes]))
        save(described.colours, np.concatenate([np.zeros((0, COLOUR_TERMS), np.int16), *colours]))
        schemas.write_table(described.examples, schemas.to_table(rows, EXAMPLES))
        return described


def examples(task: ExampleFiles) -> Iterator[Example]:
    """Yield the examples of some files of a set."""
    for file in evalsets.files_of(task.path)[task.start : task.stop]:
        yield from evalsets.read_file(task.path, task.form, file)


def save(path: str, array: npt.NDArray[Any]) -> None:
    """Write a .npy file."""
    with storage.atomic_output(path) as temporary, temporary.open("wb") as sink:
        np.save(sink, array)


@dataclass(frozen=True, kw_only=True)
class JoinWorker:
    """Join the descriptions of all sets into one index."""

    folder: str
    examples: str
    """Folder of the described examples."""
    whitening: str
    """Folder of the fitted whitening."""

    def open(self) -> Whitening:
        """Return the whitening."""
        return read_whitening(self.whitening)

    def run(self, whitening: Whitening, task: Joining) -> ExampleIndex:
        """Write examples.parquet, images.bin, hashes.npy and colours.npy."""
        described = results_in(self.examples, DescribedExamples)
        index = ExampleIndex(
            name=task.name,
            examples=storage.join(self.folder, "examples.parquet"),
            images=storage.join(self.folder, "images.bin"),
            hashes=storage.join(self.folder, "hashes.npy"),
            colours=storage.join(self.folder, "colours.npy"),
            compared=sum(one.compared for one in described),
        )
        _join(described, index, whitening)
        return index


def _join(described: list[DescribedExamples], index: ExampleIndex, whitening: Whitening) -> None:
    rows = index.compared * len(views.VIEWS)
    with (
        storage.atomic_output(index.hashes) as hashes_path,
        storage.atomic_output(index.colours) as colours_path,
        storage.atomic_output(index.images) as images_path,
    ):
        hashes = new_array(hashes_path, (rows, 32), np.uint8)
        colours = new_array(colours_path, (rows, COLOUR_TERMS), np.int8)
        tables, row, offset = [], 0, 0
        with images_path.open("wb") as images:
            for one in described:
                table = schemas.read_table(one.examples)
                own_hashes, own_colours = load(one.hashes), load(one.colours)
                stop = row + len(own_hashes)
                if len(own_hashes):
                    hashes[row:stop] = own_hashes
                    colours[row:stop] = quantised(whitening.apply(own_colours))
                data = storage.read_bytes(one.images)
                images.write(data)
                tables.append(_moved(table, row // len(views.VIEWS), offset))
                row, offset = stop, offset + len(data)
        del hashes, colours
    schemas.write_table(index.examples, pa.concat_tables(tables))


def new_array(path: Path, shape: tuple[int, ...], dtype: type) -> Any:
    """Return an array of zeros that is mapped from a .npy file, which is made."""
    if shape[0]:
        return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    with path.open("wb") as file:  # nothing cannot be mapped
        np.save(file, np.zeros(shape, dtype))
    return np.zeros(shape, dtype)


def _moved(table: pa.Table, rows: int, offset: int) -> pa.Table:
    """Return described examples with places in the joined files."""
    row = table["row"].to_numpy()
    changed = {"row": np.where(row >= 0, row + rows, -1), "offset": table["offset"].to_numpy() + offset}
    for name, values in changed.items():
        index = EXAMPLES.get_field_index(name)
        table = table.set_column(index, EXAMPLES.field(name), pa.array(values, pa.int64()))
    return table


def load(path: str) -> npt.NDArray[Any]:
    """Return the array of a .npy file."""
    with storage.open_input(path) as file:
        found: npt.NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
        return found


class Index:
    """The joined index, memory-mapped: processes of one machine share its pages."""

    def __init__(self, files: ExampleIndex, device: str = "") -> None:
        """Map the arrays; `device` takes those of the search into a GPU's memory as well."""
        local = _local_copy(files)
        hashes, colours, copy = _map(local.hashes), _map(local.colours), None
        if device:
            from dedup.gpu_search import DeviceReferences  # imports torch

            copy = DeviceReferences(hashes, colours, device)
        self.references = References(hashes, colours, len(views.VIEWS), copy)
        table = schemas.read_table(local.examples)
        compared = table.filter(pc.greater_equal(table["row"], 0)).sort_by("row")
        self.dataset: npt.NDArray[np.int64]
        names, self.dataset = np.unique(
            compared["dataset"].to_numpy(zero_copy_only=False), return_inverse=True
        )
        self.names = [str(name) for name in names]
        self.example_ids: pa.Array = compared["example_id"].combine_chunks()
        self._offset, self._length = compared["offset"].to_numpy(), compared["length"].to_numpy()
        self._images = storage.local_path(local.images)

    @functools.cached_property
    def wholes(self) -> References:
        """Return the references without the views but the first, copied when they are first asked for."""
        return wholes(self.references)

    def __len__(self) -> int:
        """Return the number of examples that are compared."""
        return len(self._offset)

    def jpeg(self, row: int) -> bytes:
        """Return the stored image of an example."""
        with self._images.open("rb") as file:
            file.seek(int(self._offset[row]))
            return file.read(int(self._length[row]))

    def pixels(self, row: int) -> Pixels:
        """Return the image of an example as it is compared, without a border."""
        rgb = decode_jpeg(self.jpeg(row))
        assert rgb is not None, "the index holds decodable images only"
        return views.inner(rgb)


def joined(folder: str) -> ExampleIndex:
    """Return the files of `JoinWorker` in a folder."""
    return results_in(folder, ExampleIndex)[0]


def read_jpegs(files: ExampleIndex, places: list[tuple[int, int]]) -> list[bytes]:
    """Return stored images by (offset, length)."""
    return storage.read_ranges([(files.images, offset, offset + length) for offset, length in places])


def _map(file: str) -> npt.NDArray[Any]:
    path = storage.local_path(file)
    if path.stat().st_size <= 128:  # numpy's header alone
        return np.load(path, allow_pickle=False)  # type: ignore[no-any-return]
    return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]


def _local_copy(files: ExampleIndex) -> ExampleIndex:
    """Return the files themselves if local, else copies that the processes of this machine share."""
    if storage.is_local(files.images):
        return files
    paths = (files.hashes, files.colours, files.images, files.examples)
    versions = [storage.file_info(path) for path in paths]
    own, place = _digest(files.images), private.folder("index")
    target = place / f"{own}-{_digest(repr(versions))}"
    for old in place.glob(f"{own}-*"):  # of a version that is gone
        if old != target and time.time() - old.stat().st_mtime > _OLD:
            shutil.rmtree(old, ignore_errors=True)
    copies = [target / posixpath.basename(path) for path in paths]
    for path, copy in zip(paths, copies, strict=True):
        if not copy.exists():
            with (
                storage.open_input(path) as source,
                storage.atomic_output(str(copy)) as temporary,
                temporary.open("wb") as sink,
            ):
                shutil.copyfileobj(source, sink, 1 << 22)
    hashes, colours, images, examples = map(str, copies)
    return replace(files, hashes=hashes, colours=colours, images=images, examples=examples)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_whitening(folder: str) -> Whitening:
    """Return the whitening that was fitted in a folder."""
    [fitted] = results_in(folder, FittedWhitening)
    return Whitening(np.array(fitted.mean, np.float32), np.array(fitted.deviation, np.float32))
