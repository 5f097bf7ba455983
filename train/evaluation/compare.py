"""Other predictions beside the model's, people's for instance: are the same classes hard (figure 16)?"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from scipy import stats

from pipeline import storage
from pipeline.intervals import Interval
from train.evaluation import bootstrap

Bools = npt.NDArray[np.bool_]
Shares = npt.NDArray[np.float64]


def read(path: str, labels: dict[str, dict[str, str]]) -> dict[str, dict[str, float]]:
    """Return the examples of each dataset that a file gets right, 1 or 0; ValueError if it cannot be told.

    `labels`: by dataset, the label of each example id. The file has `correct`, or `prediction` to compare
    with the label; `dataset` is needed where several sets have its ids.
    """
    with storage.open_input(path) as file:
        table = pq.read_table(file)
    columns = set(table.column_names)
    if "example_id" not in columns or not columns & {"correct", "prediction"}:
        raise ValueError(f"{path} needs the columns example_id, and correct or prediction")
    ids = [str(value) for value in table["example_id"].to_pylist()]
    names = _datasets(path, table["dataset"].to_pylist() if "dataset" in columns else None, ids, labels)
    found: dict[str, dict[str, float]] = {}
    values = table["correct" if "correct" in columns else "prediction"].to_pylist()
    for name, example_id, value in zip(names, ids, values, strict=True):
        if name not in labels or example_id not in labels[name] or value is None:
            continue
        right = value if isinstance(value, bool) else str(value) == labels[name][example_id]
        if example_id in found.setdefault(name, {}):
            raise ValueError(f"{path} holds the example {example_id!r} twice")
        found[name][example_id] = float(right)
    if not found:
        raise ValueError(f"{path} holds no example of the sets that are evaluated")
    return found


def _datasets(
    path: str, given: list[Any] | None, ids: list[str], labels: dict[str, dict[str, str]]
) -> list[str]:
    if given is not None:
        return [str(name) for name in given]
    fitting = [name for name, own in labels.items() if any(one in own for one in ids)]
    if len(fitting) > 1:
        raise ValueError(f"{path} fits {' and '.join(fitting)}: add a column dataset")
    return [fitting[0] if fitting else ""] * len(ids)


def beside(
    ours: Bools, theirs: Shares, labels: Sequence[str], confidence: float, seed: int
) -> dict[str, Any]:
    """Return both accuracies, their paired difference, and the correlation of their accuracies by class.

    `ours`: bool [n], whether each example is right; `theirs`: float64 [n], the same, or the share of several
    people's answers to it that are.
    """
    n = len(ours)
    names, place = np.unique(np.asarray(labels), return_inverse=True)
    sizes = np.bincount(place)
    by_class = [np.bincount(place, side) / sizes for side in (ours, theirs)]
    difference, theirs_interval = _mean_interval(ours.astype(float) - theirs, confidence, seed), None
    if np.isin(theirs, (0, 1)).all():
        theirs_interval = bootstrap.exact(int(theirs.sum()), n, confidence)
    varied = len(names) > 2 and all(np.ptp(side) > 0 for side in by_class)
    r = float(stats.pearsonr(*by_class).statistic) if varied else float("nan")
    rho = float(stats.spearmanr(*by_class).statistic) if varied else float("nan")
    return {
        "examples": n, "ours": float(ours.mean()), "theirs": float(theirs.mean()),
        "ours_interval": bootstrap.exact(int(ours.sum()), n, confidence),
        "theirs_interval": theirs_interval or _mean_interval(theirs, confidence, seed),
        "difference": float(ours.mean() - theirs.mean()),
        "difference_interval": difference,
        "agreement": 1 - float(np.abs(ours.astype(float) - theirs).mean()),
        "pearson": r, "pearson_interval": bootstrap.of_correlation(r, len(names), confidence),
        "spearman": rho,
        "classes": [
            {"class": str(name), "examples": int(size), "ours": float(a), "theirs": float(b)}
            for name, size, a, b in zip(names, sizes, *by_class, strict=True)
        ],
    }  # fmt: skip


def _mean_interval(values: Shares, confidence: float, seed: int) -> Interval:
    drawn = bootstrap.replicates(lambda w: float(np.average(values, weights=w)), len(values), seed)
    return bootstrap.percentile(drawn, confidence)
