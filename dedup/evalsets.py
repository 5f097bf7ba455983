"""Read evaluation sets, one example at a time: folders of class folders, WebDataset shards, Parquet files."""

import posixpath
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, Final, Literal, NamedTuple

import orjson
import pyarrow.parquet as pq

from dedup import webdataset
from dedup.webdataset import IMAGE_SUFFIXES
from pipeline import storage

Form = Literal["folder", "webdataset", "parquet"]

_PARQUET_BATCH: Final = 256  # rows; images are whole files, so 256 of 100 KB are 25 MB
_TAR_SUFFIXES: Final = (".tar", ".tar.gz", ".tgz")


class Example(NamedTuple):
    """One example of an evaluation set; fields only."""

    example_id: str
    """Folder: POSIX path relative to the set's; WebDataset: shard stem/key; Parquet: file stem/row number."""
    image: bytes
    """As stored, not yet decoded; empty where the example has none."""
    label: str = ""
    caption: str = ""
    """The only one, or the first."""
    group: str = ""
    several_captions: tuple[str, ...] = ()
    """All of them where there are several: a line each in .txt, a list in .json or Parquet."""

    @property
    def captions(self) -> tuple[str, ...]:
        """Return all captions, none where the example has none."""
        return self.several_captions or ((self.caption,) if self.caption else ())


class EvalSet(NamedTuple):
    """A set as named on the command line; fields only."""

    name: str
    path: str


def parse(argument: str) -> EvalSet:
    """Return the set that NAME=PATH names; ValueError if it is anything else."""
    name, equals, path = argument.partition("=")
    if not (name and equals and path):
        raise ValueError(f"an evaluation set is given as NAME=PATH, not {argument!r}")
    if not all(c.isalnum() or c in "._-" for c in name) or name.startswith("."):
        raise ValueError(
            f"{name!r} cannot name a set: it becomes a file name, so use letters, digits, '.', '_' and '-'"
        )
    return EvalSet(name, path)


def parse_all(arguments: tuple[str, ...]) -> list[EvalSet]:
    """Return the sets in order; ValueError if a name is given twice."""
    found = [parse(argument) for argument in arguments]
    twice = [name for name, count in Counter(one.name for one in found).items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0]} is given twice; every evaluation set needs a name of its own")
    return found


def form_of(path: str) -> Form:
    """Return the form of a set by its path; ValueError if it is none of the three."""
    lower = path.lower()
    if lower.endswith(_TAR_SUFFIXES):
        return "webdataset"
    if lower.endswith(".parquet"):
        return "parquet"
    if storage.exists(path):
        return "folder"
    raise ValueError(
        f"{path} is neither a folder, nor a glob of .tar shards, nor a .parquet file that exists"
    )


def files_of(path: str) -> list[str]:
    """Return the files of a set, sorted: images of a folder, shards, or Parquet files; ValueError if none."""
    form = form_of(path)
    found = _images_below(path) if form == "folder" else storage.glob(path)
    if not found:
        wanted = "images (" + ", ".join(IMAGE_SUFFIXES) + ")" if form == "folder" else "files"
        raise ValueError(f"no {wanted} at {path}")
    return found


def _images_below(folder: str) -> list[str]:
    everything = storage.glob(posixpath.join(folder.rstrip("/"), "**"))
    return [name for name in everything if name.lower().rpartition(".")[2] in IMAGE_SUFFIXES]


def read(path: str) -> Iterator[Example]:
    """Yield the examples of a set, in the order of its sorted files; memory stays flat."""
    form = form_of(path)
    for file in files_of(path):
        yield from read_file(path, form, file)


def read_file(path: str, form: Form, file: str) -> Iterator[Example]:
    """Yield the examples of one of a set's files."""
    if form == "folder":
        yield _of_folder(path, file)
    elif form == "webdataset":
        yield from _of_shard(file)
    else:
        yield from _of_parquet(file)


def _of_folder(folder: str, file: str) -> Example:
    relative = example_id_in(folder, file)
    label = PurePosixPath(relative).parts[0] if "/" in relative else ""
    return Example(relative, storage.read_bytes(file), label)


def example_id_in(folder: str, file: str) -> str:
    """Return the example id of one of a folder's files."""
    root = str(storage.local_path(folder).resolve()) if storage.is_local(folder) else folder.rstrip("/")
    full = str(storage.local_path(file).resolve()) if storage.is_local(file) else file
    # A link may lead out of the folder: then the name is what was listed.
    relative = full if full.startswith(root + "/") else file
    return relative.removeprefix(root).removeprefix(folder.rstrip("/")).lstrip("/")


def _of_shard(path: str) -> Iterator[Example]:
    stem = posixpath.basename(path).split(".")[0]
    with storage.open_input(path) as file:
        try:
            for sample in webdataset.read(file):
                if sample.image is not None or "json" in sample.parts or "cls" in sample.parts:
                    yield _of_sample(f"{stem}/{sample.key}", sample)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def _of_sample(example_id: str, sample: webdataset.Sample) -> Example:
    row: Any = {}
    if "json" in sample.parts:
        try:
            row = orjson.loads(sample.parts["json"])
        except orjson.JSONDecodeError as error:
            raise ValueError(f"{example_id}.json is not JSON: {error}") from error
    row = row if isinstance(row, dict) else {}
    label = (
        sample.parts["cls"].decode("utf-8", "replace").strip() if "cls" in sample.parts else row.get("label")
    )
    text = sample.parts["txt"].decode("utf-8", "replace").splitlines() if "txt" in sample.parts else None
    caption, several = _captions(row.get("captions") or text or row.get("caption"))
    return Example(example_id, sample.image or b"", _text(label), caption, _text(row.get("group")), several)


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _captions(value: object) -> tuple[str, tuple[str, ...]]:
    """Return the first caption, and all where there are several, from a text or a list of texts."""
    texts = [_text(one).strip() for one in value] if isinstance(value, list) else [_text(value)]
    texts = [text for text in texts if text]
    return (texts[0] if texts else ""), (tuple(texts) if len(texts) > 1 else ())


def _of_parquet(path: str) -> Iterator[Example]:
    stem = PurePosixPath(path).stem
    with storage.open_input(path) as file:
        reader = pq.ParquetFile(file)
        names = set(reader.schema_arrow.names)
        if missing := {"image", "label"} - names:
            raise ValueError(
                f"{path} has no column {sorted(missing)[0]!r}; an evaluation set has image (bytes) and label"
            )
        columns = [name for name in ("image", "label", "caption", "group") if name in names]
        row_number = 0
        for batch in reader.iter_batches(_PARQUET_BATCH, columns=columns):
            for row in batch.to_pylist():
                image = row["image"]
                if isinstance(image, dict):  # the Image feature of Hugging Face's datasets
                    image = image.get("bytes")
                if image is not None and not isinstance(image, bytes):
                    raise ValueError(f"{path}: the column image holds {type(image).__name__}, not bytes")
                caption, several = _captions(row.get("caption"))
                yield Example(
                    f"{stem}/{row_number}", image or b"", _text(row["label"]), caption,
                    _text(row.get("group")), several,
                )  # fmt: skip
                row_number += 1
