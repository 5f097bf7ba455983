"""Robustness to natural shifts (section 3.3): the part of a source's accuracy that remains on a shifted set.

Relative robustness is the accuracy on the shifted set minus that of a reference, here the same model's probe
fitted on the source. Effective robustness is the part above the accuracy that the source predicts, by a line
through reference models in logit space (Taori et al. 2020, arXiv:2007.00644).
"""

import csv
import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline import storage
from pipeline.data import evalsets

Scores = npt.NDArray[np.floating]
_EDGE = 1e-4  # accuracies of 0 and 1 have no logit: they are read as this far inside


class ClassMap(NamedTuple):
    """How a shifted set's classes come from the source's; fields only."""

    classes: list[str]
    """The set's, in the order of the file."""
    target: npt.NDArray[np.int64]
    """[source classes]: the set's class of each, -1 where it has none."""

    def pool(self, scores: Scores) -> Scores:
        """Return the set's scores [n, classes]: the highest of the source's classes that make up each."""
        pooled = np.full((len(scores), len(self.classes)), -np.inf, scores.dtype)
        for source, own in enumerate(self.target):
            if own >= 0:
                pooled[:, own] = np.maximum(pooled[:, own], scores[:, source])
        return pooled

    def mapped(self, scores: Scores) -> Scores:
        """Return scores [n, classes + 1] among all of the source's classes, those outside the set's last."""
        outside = self.target < 0
        rest = scores[:, outside].max(axis=1, keepdims=True) if outside.any() else None
        pooled = self.pool(scores)
        return pooled if rest is None else np.concatenate([pooled, rest], axis=1)


def read_class_map(path: str, source: Sequence[str]) -> ClassMap:
    """Return the map of a file with a source class, a tab and the set's class on each line; ValueError."""
    index = {label: number for number, label in enumerate(source)}
    pairs: list[tuple[str, str]] = []
    for number, line in enumerate(evalsets.all_lines(path), 1):
        if not line.strip():
            continue
        left, tab, right = line.partition("\t")
        if not tab or not right.strip():
            raise ValueError(f"{path}, line {number}: expected a source class, a tab and the set's class")
        if left.strip() not in index:
            raise ValueError(f"{path}, line {number}: {left.strip()!r} is no class of the source")
        pairs.append((left.strip(), right.strip()))
    classes = list(dict.fromkeys(own for _, own in pairs))
    if len({left for left, _ in pairs}) < len(pairs):
        raise ValueError(f"{path} maps a class of the source twice")
    if len(classes) < 2:
        raise ValueError(f"{path} must lead to two classes or more")
    target = np.full(len(source), -1, np.int64)
    for left, own in pairs:
        target[index[left]] = classes.index(own)
    return ClassMap(classes, target)


def same_classes(labels: Sequence[str], source: Sequence[str], name: str) -> ClassMap:
    """Return the map of a set whose labels are some or all of the source's; ValueError for others."""
    found = {label for label in labels if label}
    if strange := sorted(found - set(source)):
        raise ValueError(
            f"{name} has the class {strange[0]!r}, which the source has not: say with --class-map "
            f"{name}=FILE which of the source's classes are which of its own"
        )
    classes = [label for label in source if label in found]
    if len(classes) < 2:
        raise ValueError(f"{name} needs examples of two classes or more")
    index = {label: number for number, label in enumerate(classes)}
    return ClassMap(classes, np.array([index.get(label, -1) for label in source]))


class LogitLine(NamedTuple):
    """A line in logit space through reference models; fields only."""

    slope: float
    offset: float
    models: int
    r: float
    """Pearson's correlation of the logits."""

    def predict(self, source: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return the accuracy on the shifted set, float64 [n], that accuracies [n] on the source predict."""
        return 1 / (1 + np.exp(-(self.slope * logit(source) + self.offset)))


def logit(accuracy: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return log(p / (1 - p)) of shares [n], the ends moved in a little."""
    p = np.clip(np.asarray(accuracy, np.float64), _EDGE, 1 - _EDGE)
    return np.log(p / (1 - p))


def read_baseline(path: str) -> dict[str, dict[str, float]]:
    """Return reference models' accuracies by model and set, from CSV with a column model; ValueError."""
    reader = csv.DictReader(io.StringIO(storage.read_bytes(path).decode("utf-8-sig")))
    if "model" not in (reader.fieldnames or []):
        raise ValueError(f"{path} needs a column model, and one for each set with accuracies from 0 to 1")
    found: dict[str, dict[str, float]] = {}
    for row in reader:
        name = str(row.pop("model"))
        try:
            found[name] = {str(key): float(value) for key, value in row.items() if value and value.strip()}
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{path}, model {name}: {error}") from error
        if bad := [value for value in found[name].values() if not 0 <= value <= 1]:
            raise ValueError(
                f"{path}, model {name}: {bad[0]} is no accuracy from 0 to 1; divide percents by 100"
            )
    return found


def fit_line(baseline: dict[str, dict[str, float]], source: str, shifted: str) -> LogitLine | None:
    """Return the least-squares line in logit space, None without three models that have both sets."""
    pairs = [(row[source], row[shifted]) for row in baseline.values() if source in row and shifted in row]
    if len(pairs) < 3:
        return None
    x, y = logit([pair[0] for pair in pairs]), logit([pair[1] for pair in pairs])
    if np.ptp(x) < 1e-9:
        return None
    slope, offset = np.polyfit(x, y, 1)
    r = float(np.corrcoef(x, y)[0, 1]) if np.ptp(y) else math.nan
    return LogitLine(float(slope), float(offset), len(pairs), r)


def effective(
    line: LogitLine, source: tuple[int, int], shifted: tuple[int, int], confidence: float, seed: int
) -> dict[str, Any]:
    """Return effective robustness and its interval, from (correct, examples) of both sets.

    The interval is a parametric bootstrap of both accuracies, given the line.
    """
    (hits, n), (shifted_hits, m) = source, shifted
    random = np.random.default_rng([seed, n, m])
    drawn = random.binomial(m, shifted_hits / m, 2_000) / m - line.predict(
        random.binomial(n, hits / n, 2_000) / n
    )
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    value = shifted_hits / m - float(line.predict(hits / n))
    return {"value": value, "low": float(low), "high": float(high), "models": line.models, "r": line.r}
