"""The evaluation side as files: descriptors of all views, and the images that verification looks at.

Parts of a set are described in parallel, then joined into memory-mapped arrays, row by row: the views of one
example lie together. Images that cannot be decoded and those without detail are listed, but not searched.
"""

import hashlib
import json
import posixpath
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dedup.pictures import Pictures, Pixels, decode_jpeg
from dedup.search import References, Whitening, quantised
from pipeline import private, records, storage
from pipeline.data import evalsets, views
from pipeline.data.descriptors import COLOUR_TERMS, describe
from pipeline.data.evalsets import EvalSet, Example
from pipeline.images.decode import BadImage

EXAMPLES: Final = pa.schema(
    [
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("example_id", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("state", pa.string(), nullable=False),  # compared, unreadable or low_information
        pa.field("row", pa.int64(), nullable=False),  # among those compared, -1 for the others
        pa.field("offset", pa.int64(), nullable=False),  # of its JPEG in images.bin
        pa.field("length", pa.int32(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),  # for which it is unreadable
    ]
)
_OLD: Final = 86_400.0  # seconds after which a copy of a version that is gone is removed
FOLDER_CHUNK: Final = 2_000  # images of a folder that one task describes
_HASHES, _COLOURS, _IMAGES, _EXAMPLES = "hashes.npy", "colours.npy", "images.bin", "examples.parquet"


def plan(sets: list[EvalSet]) -> list[dict[str, Any]]:
    """Return the tasks: a shard or Parquet file each, folders in pieces."""
    tasks = []
    for one in sets:
        form, files = evalsets.form_of(one.path), evalsets.files_of(one.path)
        step = FOLDER_CHUNK if form == "folder" else 1
        for number, start in enumerate(range(0, len(files), step)):
            tasks.append(
                {"name": f"{one.name}-{number:05d}", "dataset": one.name, "path": one.path, "form": form,
                 "start": start, "stop": start + step}
            )  # fmt: skip
    return tasks


@dataclass(frozen=True, kw_only=True)
class IndexWorker:
    """Describe a part of an evaluation set."""

    folder: str
    min_quality: int

    def open(self) -> Pictures:
        """Return the decoder, one a process."""
        return Pictures()

    def run(self, state: Pictures, task: dict[str, Any]) -> dict[str, object]:
        """Write NAME.examples.parquet, NAME.images, NAME.hashes.npy and NAME.colours.npy (not whitened)."""
        base = storage.join(self.folder, task["name"])
        rows: list[tuple[object, ...]] = []
        hashes, colours = [], []
        with storage.atomic_output(f"{base}.images") as images, images.open("wb") as sink:
            for example in _examples(task):
                jpeg, reason = b"", ""
                try:
                    jpeg = state.normalised(example.image)
                    found = describe(views.thumbnails(views.inner(state.decode(jpeg, ours=True))))
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
                rows.append((task["dataset"], *texts, state_word, row, sink.tell(), len(jpeg), reason))
                sink.write(jpeg)
        _save(f"{base}.hashes.npy", np.concatenate([np.zeros((0, 32), np.uint8), *hashes]))
        _save(f"{base}.colours.npy", np.concatenate([np.zeros((0, COLOUR_TERMS), np.int16), *colours]))
        records.write_table(f"{base}.examples.parquet", records.to_table(rows, EXAMPLES))
        return {"base": base, "examples": len(rows), "compared": len(hashes)}


def _examples(task: dict[str, Any]) -> Iterator[Example]:
    files = evalsets.files_of(task["path"])[task["start"] : task["stop"]]
    for file in files:
        yield from evalsets.read_file(task["path"], task["form"], file)


def _save(path: str, array: npt.NDArray[Any]) -> None:
    with storage.atomic_output(path) as temporary, temporary.open("wb") as sink:
        np.save(sink, array)


def join(folder: str, parts: list[dict[str, Any]], whitening: Whitening) -> None:
    """Join the parts, in order, into one index below `folder`."""
    compared = sum(part["compared"] for part in parts)
    rows = compared * len(views.VIEWS)
    with (
        storage.atomic_output(storage.join(folder, _HASHES)) as hashes_path,
        storage.atomic_output(storage.join(folder, _COLOURS)) as colours_path,
        storage.atomic_output(storage.join(folder, _IMAGES)) as images_path,
    ):
        hashes = _new_array(hashes_path, (rows, 32), np.uint8)
        colours = _new_array(colours_path, (rows, COLOUR_TERMS), np.int8)
        tables, row, offset = [], 0, 0
        with images_path.open("wb") as images:
            for part in parts:
                table = records.read_table(f"{part['base']}.examples.parquet")
                part_hashes, part_colours = (_load(f"{part['base']}.{name}") for name in (_HASHES, _COLOURS))
                stop = row + len(part_hashes)
                if len(part_hashes):
                    hashes[row:stop] = part_hashes
                    colours[row:stop] = quantised(whitening.apply(part_colours))
                data = storage.read_bytes(f"{part['base']}.images")
                images.write(data)
                tables.append(_moved(table, row // len(views.VIEWS), offset))
                row, offset = stop, offset + len(data)
        del hashes, colours
    records.write_table(storage.join(folder, _EXAMPLES), pa.concat_tables(tables))


def _new_array(path: Path, shape: tuple[int, int], dtype: type) -> Any:
    if shape[0]:
        return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    with path.open("wb") as file:  # nothing cannot be mapped
        np.save(file, np.zeros(shape, dtype))
    return np.zeros(shape, dtype)


def _moved(table: pa.Table, rows: int, offset: int) -> pa.Table:
    """Return a part's examples with places in the joined files."""
    row = table["row"].to_numpy()
    changed = {"row": np.where(row >= 0, row + rows, -1), "offset": table["offset"].to_numpy() + offset}
    for name, values in changed.items():
        index = EXAMPLES.get_field_index(name)
        table = table.set_column(index, EXAMPLES.field(name), pa.array(values, pa.int64()))
    return table


def _load(path: str) -> npt.NDArray[Any]:
    with storage.open_input(path) as file:
        found: npt.NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
        return found


class Index:
    """The joined index, memory-mapped: processes of one machine share its pages."""

    def __init__(self, folder: str) -> None:
        local = _local_copy(folder)
        self.references = References(_map(local / _HASHES), _map(local / _COLOURS), len(views.VIEWS))
        table = pq.read_table(local / _EXAMPLES)
        compared = table.filter(pc.greater_equal(table["row"], 0)).sort_by("row")
        self.dataset: npt.NDArray[np.int64]
        names, self.dataset = np.unique(
            compared["dataset"].to_numpy(zero_copy_only=False), return_inverse=True
        )
        self.names = [str(name) for name in names]
        self.example_ids: pa.Array = compared["example_id"].combine_chunks()
        self._offset, self._length = compared["offset"].to_numpy(), compared["length"].to_numpy()
        self._images = local / _IMAGES

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
        assert rgb is not None, "the index holds what could be decoded"
        return views.inner(rgb)


def read_examples(folder: str) -> pa.Table:
    """Return all examples of all sets, in order, compared or not."""
    return records.read_table(storage.join(folder, _EXAMPLES))


def read_jpegs(folder: str, places: list[tuple[int, int]]) -> list[bytes]:
    """Return stored images by (offset, length)."""
    path = storage.join(folder, _IMAGES)
    return storage.read_ranges([(path, offset, offset + length) for offset, length in places])


def _map(path: Path) -> npt.NDArray[Any]:
    if path.stat().st_size <= 128:  # numpy's header alone
        return np.load(path, allow_pickle=False)  # type: ignore[no-any-return]
    return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]


def _local_copy(folder: str) -> Path:
    """Return the folder itself if local, else a copy that the processes of this machine share."""
    if storage.is_local(folder):
        return storage.local_path(folder)
    names = (_HASHES, _COLOURS, _IMAGES, _EXAMPLES)
    versions = [storage.file_info(posixpath.join(folder, name)) for name in names]
    own, place = _digest(folder), private.folder("index")
    target = place / f"{own}-{_digest(repr(versions))}"
    for old in place.glob(f"{own}-*"):  # of a version that is gone
        if old != target and time.time() - old.stat().st_mtime > _OLD:
            shutil.rmtree(old, ignore_errors=True)
    for name in names:
        if not (target / name).exists():
            with (
                storage.open_input(posixpath.join(folder, name)) as source,
                storage.atomic_output(str(target / name)) as path,
                path.open("wb") as sink,
            ):
                shutil.copyfileobj(source, sink, 1 << 22)
    return target


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def save_whitening(path: str, whitening: Whitening, images: int) -> None:
    """Publish a whitening and the number of images that it was fitted to."""
    value = {"mean": whitening.mean.tolist(), "deviation": whitening.deviation.tolist(), "images": images}
    storage.write_bytes(path, json.dumps(value).encode())


def load_whitening(path: str) -> Whitening:
    """Return what `save_whitening` published."""
    value = json.loads(storage.read_bytes(path))
    return Whitening(*(np.array(value[name], np.float32) for name in ("mean", "deviation")))
