"""Encode evaluation sets, and keep the features: every task but the text side starts from here.

The file is Parquet with `example_id, label, several_classes, group, captions, features, embedding`; other
encoders' features come in through the same columns, of which only `features` and `label` are needed.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from pipeline import storage
from pipeline.data import evalsets
from pipeline.data.evalsets import Example
from pipeline.images.decode import BadImage, Pixels, Unreadable, named
from pipeline.images.pixels import PixelDecoder
from train.evaluation import sets
from train.evaluation.models import Encoder
from train.image_transforms import normalise

Floats = npt.NDArray[np.float32]
_VERSION = 4  # of the file; raised when its columns or the preprocessing change
_ROWS = 4_096


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """Hold n encoded examples of a set."""

    example_ids: list[str]
    labels: list[str]
    groups: list[str]
    captions: list[tuple[str, ...]]
    features: Floats
    """[n, D], before the projection."""
    embeddings: Floats
    """[n, E] unit vectors; E is 0 for a foreign encoder."""
    several: npt.NDArray[np.bool_]
    """[n]: whether the label holds several classes."""
    unreadable: tuple[Unreadable, ...] = ()
    """Examples of the set beside these n whose pictures cannot be decoded."""

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.example_ids)

    def take(self, rows: npt.NDArray[np.int64]) -> "Features":
        """Return some of the examples, in the order of `rows`, int64 [k]."""
        return Features(
            example_ids=[self.example_ids[row] for row in rows], labels=[self.labels[row] for row in rows],
            groups=[self.groups[row] for row in rows], captions=[self.captions[row] for row in rows],
            features=self.features[rows], embeddings=self.embeddings[rows], several=self.several[rows],
            unreadable=self.unreadable,
        )  # fmt: skip


def encode(
    encoder: Encoder, name: str, found: Iterator[Example], batch: int, decoders: Sequence[PixelDecoder],
    change: sets.Change | None = None, tell: Callable[[int], None] = lambda done: None,
) -> Features:  # fmt: skip
    """Encode a set's examples in batches; ValueError if none can be decoded. `tell` hears of progress."""
    rows: list[Example] = []
    unreadable: list[Unreadable] = []
    parts: list[tuple[Floats, Floats]] = []
    pixels: list[Pixels] = []

    def flush() -> None:
        if pixels:
            parts.append(_encode(encoder, pixels))
            pixels.clear()
            tell(len(rows) + len(unreadable))

    for example, picture in sets.pictures(found, decoders, change):
        if isinstance(picture, BadImage):
            unreadable.append(Unreadable(example.example_id, example.label, picture.reason))
            continue
        rows.append(example)
        pixels.append(picture)
        if len(pixels) == batch:
            flush()
    flush()
    if not rows and unreadable:
        raise ValueError(
            f"{name}: none of its images ({len(unreadable):,}) can be decoded: {named(unreadable)}"
        )
    if not rows:
        raise ValueError(f"{name}: this evaluation set has no examples")
    return Features(
        example_ids=[one.example_id for one in rows], labels=[one.label for one in rows],
        groups=[one.group for one in rows], captions=[one.captions for one in rows],
        features=np.concatenate([part[0] for part in parts]),
        embeddings=np.concatenate([part[1] for part in parts]),
        several=np.array([one.several_classes for one in rows]), unreadable=tuple(unreadable),
    )  # fmt: skip


@torch.no_grad()
def _encode(encoder: Encoder, pixels: list[Pixels]) -> tuple[Floats, Floats]:
    images = normalise(torch.from_numpy(np.stack(pixels)).to(encoder.device))
    with encoder.autocast():
        found = encoder.encode(images)
    features, embeddings = (part.cpu().numpy() for part in found)
    if not (np.isfinite(features).all() and np.isfinite(embeddings).all()):
        raise ValueError(
            f"{encoder.path}: the model's features are no finite numbers: its weights are damaged, or too "
            f"large for --precision {encoder.precision}"
        )
    return features, embeddings


def write(path: str, features: Features, key: str) -> None:
    """Publish features under the key of their inputs."""
    table = pa.table(
        {
            "example_id": features.example_ids,
            "label": features.labels,
            "several_classes": features.several,
            "group": features.groups,
            "captions": pa.array([list(some) for some in features.captions], pa.list_(pa.string())),
            "features": _vectors(features.features),
            "embedding": _vectors(features.embeddings),
        }
    ).replace_schema_metadata({"openwit_key": key, "openwit_unreadable": json.dumps(features.unreadable)})
    with storage.atomic_output(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=_ROWS)


def key_of(*made_from: Any) -> str:
    """Return the key of features, from everything that decides their values."""
    return json.dumps([_VERSION, *made_from], default=str)


def read(path: str, key: str) -> Features | None:
    """Return features written under this key, None if there are none or they are others."""
    if not storage.exists(path):
        return None
    with storage.open_input(path) as file:
        reader = pq.ParquetFile(file)
        metadata = reader.schema_arrow.metadata or {}
        if metadata.get(b"openwit_key", b"").decode() != key:
            return None
        table = reader.read()
    unreadable = json.loads(metadata[b"openwit_unreadable"])
    return Features(
        example_ids=table["example_id"].to_pylist(), labels=table["label"].to_pylist(),
        groups=table["group"].to_pylist(), captions=[tuple(some) for some in table["captions"].to_pylist()],
        features=matrix(table["features"], path), embeddings=matrix(table["embedding"], path),
        several=np.array(table["several_classes"].to_pylist(), np.bool_),
        unreadable=tuple(Unreadable(*one) for one in unreadable),
    )  # fmt: skip


def read_foreign(path: str) -> dict[tuple[str, str], Features]:
    """Return another encoder's features by dataset ("" without such a column) and split; ValueError."""
    with storage.open_input(path) as file:
        table = pq.read_table(file)
    if missing := {"features", "label", "split"} - set(table.column_names):
        raise ValueError(f"{path} has no column {sorted(missing)[0]!r}; features have features, label, split")
    size = len(table)
    splits = [str(value) for value in table["split"].to_pylist()]
    if unknown := sorted(set(splits) - {"train", "validation", "test"}):
        raise ValueError(f"{path}: split must be train, validation or test, not {unknown[0]!r}")
    names = _texts(table, "dataset", [""] * size)
    stem = storage.stem(path)
    labels = [
        evalsets.label_of(value, f"{path}, row {row}") for row, value in enumerate(table["label"].to_pylist())
    ]
    everything = Features(
        example_ids=_texts(table, "example_id", [f"{stem}/{row}" for row in range(size)]),
        labels=[label for label, _ in labels], groups=[""] * size, captions=[()] * size,
        features=matrix(table["features"], path),
        embeddings=np.zeros((size, 0), np.float32), several=np.array([several for _, several in labels]),
    )  # fmt: skip
    places: dict[tuple[str, str], list[int]] = {}
    for row, place in enumerate(zip(names, splits, strict=True)):
        places.setdefault(place, []).append(row)
    return {place: everything.take(np.array(rows)) for place, rows in places.items()}


def read_gflops(path: str, encoders: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Return the GFLOPs of encoders (name, file) that a CSV with encoder and gflops has; ValueError."""
    names = {name for name, _ in encoders}
    reader = csv.DictReader(io.StringIO(storage.read_bytes(path).decode("utf-8-sig")))
    if {"encoder", "gflops"} - set(reader.fieldnames or []):
        raise ValueError(f"{path} needs the columns encoder and gflops")
    found: dict[str, float] = {}
    for row in reader:
        name = str(row["encoder"])
        try:
            found[name] = float(row["gflops"])
        except (TypeError, ValueError):
            raise ValueError(f"{path}: {row['gflops']!r} are no GFLOPs of {name}") from None
        if name not in names:
            raise ValueError(f"{path} has {name!r}, but --features are {', '.join(sorted(names))}")
        if not 0 < found[name] < float("inf"):
            raise ValueError(f"{path}: the GFLOPs of {name} must be a positive number")
    return found


def _texts(table: pa.Table, name: str, default: list[str]) -> list[str]:
    if name not in table.column_names:
        return default
    return ["" if value is None else str(value) for value in table[name].to_pylist()]


def _vectors(values: Floats) -> pa.Array:
    flat = pa.array(values.ravel())
    return (
        pa.FixedSizeListArray.from_arrays(flat, values.shape[1]) if values.shape[1] else pa.nulls(len(values))
    )


def matrix(column: pa.ChunkedArray, path: str) -> Floats:
    """Return a column of vectors as float32 [n, D]; ValueError where lengths differ or values are missing."""
    if pa.types.is_null(column.type):
        return np.zeros((len(column), 0), np.float32)
    if not (pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type)
            or pa.types.is_large_list(column.type)):  # fmt: skip
        raise ValueError(f"{path}: features must be lists of numbers, not {column.type}")
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    lengths = np.unique([len(column)] if not len(column) else np.array(pc.list_value_length(column)))
    if column.null_count or len(lengths) != 1 or not len(column):
        raise ValueError(f"{path}: every row needs features of the same length")
    if not np.isfinite(flat).all():
        raise ValueError(f"{path}: features must be finite numbers")
    found: Floats = flat.reshape(len(column), -1)
    return found
