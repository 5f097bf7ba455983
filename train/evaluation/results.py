"""The files of an evaluation: results.json in CLIP_benchmark's shape, and predictions by example."""

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.intervals import Interval
from train.evaluation.bootstrap import Replicates
from train.evaluation.classes import Classes
from train.evaluation.features import Features
from train.evaluation.metrics import Bools, Scores, softmax, top

PREDICTIONS = pa.schema(
    [
        pa.field("example_id", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("prediction", pa.string(), nullable=False),  # empty where the image cannot be decoded
        pa.field("correct", pa.bool_()),  # null without a label or a picture
        pa.field("probability", pa.float32(), nullable=False),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Result:
    """One model on one set in one task."""

    dataset: str
    model: str
    task: str
    metrics: dict[str, float]
    intervals: dict[str, Interval] = field(default_factory=dict)
    main: str = "acc1"
    """The metric that tables show."""
    detail: dict[str, Any] = field(default_factory=dict)
    """The data of figures, in results.json as well."""
    replicates: Replicates | None = None
    """Of the main metric, to be averaged over sets."""
    examples: str = ""
    """Digest of the examples that were scored, in order: equal where two predictors can be paired."""
    split_of: str = ""
    """The set whose splits are averaged in a result of their own, where this is one of them."""
    gallery: list[dict[str, Any]] = field(default_factory=list)

    @property
    def value(self) -> float:
        """Return the main metric, NaN where there is none."""
        return self.metrics.get(self.main, math.nan)

    @property
    def interval(self) -> Interval:
        """Return the main metric's interval."""
        return self.intervals.get(self.main, Interval(math.nan, math.nan))


def digest(example_ids: Iterable[str]) -> str:
    """Return a digest of examples in their order."""
    return hashlib.blake2b("\n".join(example_ids).encode(), digest_size=8).hexdigest()


def to_json(results: Sequence[Result], paths: dict[str, str], language: str) -> bytes:
    """Return results.json: rows of dataset, model, pretrained, task, language, metrics, and our intervals."""
    rows = [
        {
            "dataset": one.dataset, "model": one.model, "pretrained": paths[one.model], "task": one.task,
            "language": language, "metrics": one.metrics, "intervals": one.intervals, "main_metric": one.main,
            "detail": one.detail,
        }
        for one in results
    ]  # fmt: skip
    return (json.dumps(finite(rows), indent=1) + "\n").encode()


def finite(value: Any) -> Any:
    """Return the same with null for numbers that JSON has not."""
    if isinstance(value, dict):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def predictions(features: Features, logits: Scores, classes: Classes, truth: Bools) -> pa.Table:
    """Return PREDICTIONS of a set, a row for each example; those that cannot be decoded come last.

    logits: [n, C]; truth: bool [n, C].
    """
    first = top(logits, 1)[:, 0]
    probability = softmax(logits)[np.arange(len(features)), first]
    labelled = truth.any(axis=1)
    right = truth[np.arange(len(features)), first]
    none = len(features.unreadable)
    columns = [
        pa.array([*features.example_ids, *(one.example_id for one in features.unreadable)]),
        pa.array([*features.labels, *(one.label for one in features.unreadable)]),
        pa.array([*(classes.labels[one] for one in first), *[""] * none]),
        pa.array([*right.tolist(), *[False] * none], mask=np.append(~labelled, np.ones(none, np.bool_))),
        pa.array(np.append(probability, np.zeros(none)).astype(np.float32)),
    ]
    return pa.Table.from_arrays(columns, schema=PREDICTIONS)


def write_table(path: str, table: pa.Table) -> None:
    """Publish a Parquet file."""
    with storage.atomic_output(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
