"""Read evaluation sets, one example at a time: folders of class folders, WebDataset shards, Parquet files."""

import logging
import math
import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, Final, Literal, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import patterns, storage, untrusted
from pipeline.data import webdataset
from pipeline.data.webdataset import IMAGE_SUFFIXES
from pipeline.parquet import BoundedFile
from pipeline.storage_retry import retried

log = logging.getLogger(__name__)

Form = Literal["folder", "webdataset", "parquet"]

_PARQUET_BATCH: Final = 256  # rows; images are whole files, so 256 of 100 KB are 25 MB
SEPARATOR: Final = "|"
"""Between the classes of an example that has several."""
_LARGEST_JSON: Final = 16 << 20  # bytes of names that lie beside a set
_LINE_ENDS: Final = re.compile(r"\r\n|\r|\n")


class Example(NamedTuple):
    """One example of an evaluation set; fields only."""

    example_id: str
    """Folder: POSIX path relative to the set's; WebDataset: shard stem/key; Parquet: file stem/row number."""
    image: bytes
    """As stored, not yet decoded; empty where the example has none."""
    label: str = ""
    caption: str = ""
    """The caption, or the first of several."""
    group: str = ""
    several_captions: tuple[str, ...] = ()
    """All of them where there are several: a line each in .txt, a list in .json or Parquet."""
    several_classes: bool = False
    """Whether the label holds several classes, with SEPARATOR between them: it was a list."""

    @property
    def captions(self) -> tuple[str, ...]:
        """Return all captions, none where the example has none."""
        return self.several_captions or ((self.caption,) if self.caption else ())


class Listing(NamedTuple):
    """A set's files; fields only."""

    form: Form
    files: list[str]
    """Images of a folder, shards, or Parquet files, sorted."""
    left_out: Counter[str]
    """For a folder: the number of files that are no data, by reason."""


def form_of(path: str) -> Form:
    """Return the form of a set by its path; ValueError if it is none of the three."""
    lower = patterns.expand(path)[0].lower()
    if lower.endswith(patterns.ARCHIVES):
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
    return listing(path).files


def listing(path: str) -> Listing:
    """Return the files of a set and those left out; ValueError if there are none, or some of those named.

    Links are followed, as torchvision's ImageFolder does. Names that begin with ".", and __MACOSX, are no
    data: notebooks, file managers and archivers leave them.
    """
    form = form_of(path)
    if form != "folder":
        files = sorted(set(patterns.find(path)))
        if not files:
            raise ValueError(f"no files at {path}")
        return Listing(form, files, Counter())
    below, left_out = _below(path)
    found = Listing(form, [f"{path.rstrip('/')}/{relative}" for relative in sorted(below)], left_out)
    if not found.files:
        tars = storage.list_files(path, ".tar")
        also = f"; for its shards give '{path.rstrip('/')}/*.tar'" if tars else ""
        said = f"; {left_out_of(found)}" if left_out else ""
        raise ValueError(f"no images ({', '.join(IMAGE_SUFFIXES)}) at {path}{said}{also}")
    return found


def left_out_of(found: Listing) -> str:
    """Return a sentence on the files of a folder that are no data, "" where nothing was left out."""
    parts = [f"{count:,} {why}" for why, count in sorted(found.left_out.items()) if count]
    return f"left out: {', '.join(parts)}" if parts else ""


def _below(folder: str) -> tuple[list[str], Counter[str]]:
    """Return the images below a folder, as POSIX paths relative to it, and the files left out."""
    left_out: Counter[str] = Counter()
    if not storage.is_local(folder):
        fs, root = storage.file_system(folder)
        every = retried(lambda: fs.find(root))
        names = [str(path).removeprefix(root).lstrip("/") for path in every]
    else:
        names = list(_walk(str(storage.local_path(folder)), left_out))
    return [name for name in names if _is_image(name, left_out)], left_out


def _is_image(relative: str, left_out: Counter[str]) -> bool:
    suffix = relative.rpartition("/")[2].lower().rpartition(".")[2]
    if suffix not in IMAGE_SUFFIXES:
        left_out["files with other suffixes"] += not patterns.is_hidden(relative)
        return False
    if patterns.is_hidden(relative):
        macosx = "__MACOSX" in relative.split("/")
        left_out["below __MACOSX" if macosx else 'images with a name that begins with "."'] += 1
        return False
    try:
        relative.encode()
    except UnicodeEncodeError:
        left_out["images whose name is not UTF-8"] += 1
        return False
    return True


def _walk(root: str, left_out: Counter[str]) -> Iterator[str]:
    """Yield the files below a local folder relative to it, through links but never round in a circle."""
    stat = os.stat(root)  # noqa: PTH116 - with os.scandir
    waiting: list[tuple[str, tuple[tuple[int, int], ...]]] = [("", ((stat.st_dev, stat.st_ino),))]
    while waiting:
        folder, above = waiting.pop()
        with os.scandir(f"{root}/{folder}") as entries:
            for entry in entries:
                if entry.is_dir():
                    found = entry.stat()
                    place = (found.st_dev, found.st_ino)
                    if place in above:
                        left_out["links to a folder that they are in"] += 1
                    else:
                        waiting.append((f"{folder}{entry.name}/", (*above, place)))
                elif entry.is_file():
                    yield f"{folder}{entry.name}"
                else:  # a FIFO would never end
                    left_out["links to nothing, or no files"] += 1


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
    """Return the example id of one of a folder's files: its path in the folder, as listed."""
    return file.removeprefix(folder.rstrip("/")).lstrip("/")


def _of_shard(path: str) -> Iterator[Example]:
    stem = patterns.archive_stem(path)
    bad: Counter[str] = Counter()
    with storage.open_input(path) as file:
        try:
            for sample in webdataset.read(file, bad):
                if sample.image is not None or "json" in sample.parts or "cls" in sample.parts:
                    yield _of_sample(f"{stem}/{sample.key}", sample, bad)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    if bad := +bad:
        said = ", ".join(f"{count:,} {why}" for why, count in sorted(bad.items()))
        log.warning("%s: members left out: %s", path, said)


def _of_sample(example_id: str, sample: webdataset.WebDatasetSample, bad: Counter[str]) -> Example:
    found = row_of(sample)
    if found is None:  # the picture and the other members are as good as they were
        bad["whose JSON is no usable row"] += 1
    row = found or {}
    label, several_classes = label_of(
        _of_cls(sample.parts["cls"]) if "cls" in sample.parts else row.get("label"), example_id
    )
    caption, several = captions_of(sample, row)
    return Example(
        example_id, sample.image or b"", label, caption, _text(row.get("group")), several, several_classes
    )


def row_of(sample: webdataset.WebDatasetSample) -> dict[str, Any] | None:
    """Return the content of KEY.json, {} if it is missing, None if it is no usable row."""
    try:
        return untrusted.parse_row(sample.parts["json"]) if "json" in sample.parts else {}
    except ValueError:
        return None


def captions_of(sample: webdataset.WebDatasetSample, row: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Return the first caption, and all where there are several: of the row, or the lines of KEY.txt."""
    text = sample.parts.get("txt", b"").decode("utf-8-sig", "replace")
    lines = [line for line in _LINE_ENDS.split(text) if line.strip()]
    return _captions(row.get("captions") or lines or row.get("caption"))


def _of_cls(data: bytes) -> object:
    """Return the label of a .cls member: text, a number, or a list in JSON."""
    text = data.decode("utf-8-sig", "replace").strip()
    if text.startswith("["):
        try:
            return untrusted.parse_json(data, untrusted.MAX_ROW)
        except ValueError:
            return text
    return float(text) if re.fullmatch(r"-?[0-9]+\.0*", text) else text


def label_of(value: object, where: str) -> tuple[str, bool]:
    """Return a label as text, "" where there is none, and whether it holds several classes.

    None, NaN and -1, which the Hub's test splits have, are no label; whole floats are numbers; a list is
    several classes. ValueError, with `where` in it, for a value that cannot be a class.
    """
    if isinstance(value, list):
        parts = list(dict.fromkeys(part for one in value if (part := label_of(one, where)[0])))
        if len(parts) > 1 and (bad := [part for part in parts if SEPARATOR in part]):
            raise ValueError(f"{where}: the class {bad[0]!r} holds {SEPARATOR!r}, which separates classes")
        return SEPARATOR.join(parts), len(parts) > 1
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, float):
        if math.isnan(value):
            return "", False
        if not value.is_integer():
            raise ValueError(f"{where}: the label {value} is no class; give whole numbers or names")
        value = int(value)
    if isinstance(value, dict):
        raise ValueError(f"{where}: the label is a group of fields; give a number, a name or a list of them")
    text = _text(value).strip()
    return ("" if text == "-1" else text), False


def class_names(path: str) -> tuple[str, ...]:
    """Return the names of a set's labels 0, 1, ..., if they lie with it; ValueError.

    Parquet: the ClassLabel of Hugging Face's datasets, in the schema's metadata. WebDataset: classnames.txt,
    a line each, beside the shards or one folder up, where CLIP_benchmark has it.
    """
    form = form_of(path)
    files = [] if form == "folder" else files_of(path)
    if form == "webdataset":
        here = posixpath.dirname(files[0])
        for folder in (here, posixpath.dirname(here) if here else ".."):
            file = storage.join(folder, "classnames.txt")
            if storage.exists(file):
                return tuple(line.strip() for line in read_lines(file))
    if form == "parquet":
        every = {_class_label(file) for file in files}
        if len(every) > 1:
            raise ValueError(f"{path}: its files name their classes differently; give --classes FILE")
        return every.pop()
    return ()


def _class_label(file: str) -> tuple[str, ...]:
    with storage.open_input(file) as opened:
        metadata = pq.read_schema(opened).metadata or {}
    data = metadata.get(b"huggingface", b"")
    try:
        value: Any = orjson.loads(data) if 0 < len(data) <= _LARGEST_JSON else None
        feature = value["info"]["features"]["label"]
        while not (isinstance(feature, dict) and feature.get("_type") == "ClassLabel"):
            feature = feature[0] if isinstance(feature, list) else feature["feature"]  # of a list of labels
        names = feature["names"]
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError):
        return ()
    whole = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return tuple(names) if whole else ()


def read_lines(path: str) -> list[str]:
    """Return the lines of a text file without the blank ones."""
    return [line for line in all_lines(path) if line.strip()]


def all_lines(path: str) -> list[str]:
    """Return the lines of a text file, without the mark that Windows begins a file with; ValueError.

    Lines end as editors end them: characters that separate lines in Unicode alone are part of a name.
    """
    try:
        return _LINE_ENDS.split(storage.read_bytes(path).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8: {error}") from error


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _captions(value: object) -> tuple[str, tuple[str, ...]]:
    """Return the first caption, and all where there are several, from a text or a list of texts."""
    texts = [_text(one).strip() for one in value] if isinstance(value, list) else [_text(value)]
    texts = [text for text in texts if text]
    return (texts[0] if texts else ""), (tuple(texts) if len(texts) > 1 else ())


def _of_parquet(path: str) -> Iterator[Example]:
    stem = PurePosixPath(path).stem
    for row_number, row in enumerate(_rows_of(path)):
        image = row["image"]
        if isinstance(image, dict):  # the Image feature of Hugging Face's datasets
            image = image.get("bytes")
        if image is not None and not isinstance(image, bytes):
            raise ValueError(f"{path}: the column image holds {type(image).__name__}, not bytes")
        caption, several = _captions(row.get("caption"))
        label, several_classes = label_of(row.get("label"), f"{path}, row {row_number}")
        yield Example(
            f"{stem}/{row_number}", image or b"", label, caption,
            _text(row.get("group")), several, several_classes,
        )  # fmt: skip


def _rows_of(path: str) -> Iterator[dict[str, Any]]:
    with storage.open_input(path) as file:
        try:
            reader = BoundedFile(file)
            names = set(reader.schema.names)
            if "image" not in names or not {"label", "caption"} & names:
                missing = "image" if "image" not in names else "label"
                raise ValueError(
                    f"no column {missing!r}; an evaluation set has image (bytes), and label or caption"
                )
            columns = [name for name in ("image", "label", "caption", "group") if name in names]
            for group in range(reader.metadata.num_row_groups):
                for batch in reader.batches(columns, group, rows=_PARQUET_BATCH):
                    yield from batch.to_pylist()
        except (ValueError, pa.ArrowException) as error:
            raise ValueError(f"{path}: {error}") from error
