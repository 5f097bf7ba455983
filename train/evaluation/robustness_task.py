"""The robustness task: zero-shot, k-shot and full probe of a source on every shifted set, in one table."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.intervals import Interval
from train.evaluation import bootstrap, classes, robustness, zeroshot
from train.evaluation.classes import Classes
from train.evaluation.encoded_model import EncodedModel, labelled
from train.evaluation.features import Features
from train.evaluation.metrics import Scores, top
from train.evaluation.probe_tasks import Fitting
from train.evaluation.results import Result
from train.evaluation.robustness import ClassMap
from train.evaluation.zeroshot_task import for_retrieval


class Shift(NamedTuple):
    """A shifted set, encoded; fields only."""

    name: str
    features: Features
    class_map: ClassMap
    own: npt.NDArray[np.float32]
    """Zero-shot classifier of the set's own classes, [classes, E]."""
    corruption: str
    level: int


class Accuracy(NamedTuple):
    """An accuracy, over draws where there are several; fields only."""

    value: float
    interval: Interval
    correct: int
    """Rounded from the mean over draws."""
    examples: int


Logits = Sequence[Scores]
"""A predictor's scores of a set: one array, or one for each draw."""


def run(encoded: EncodedModel, fitting: Fitting | None) -> list[Result]:
    """Return a result for each shifted set; `fitting`: the source's probes, None where nothing is fitted."""
    config = encoded.config
    source, *others = (one.name for one in config.sets)
    names = [name for name in others if not for_retrieval(encoded, name)]
    known = encoded.classes(source)
    baseline = robustness.read_baseline(config.baseline) if config.baseline else {}
    found: list[Result] = []
    for shift in _shifts(encoded, source, known, names):
        detail = _compare(encoded, source, known, shift, fitting, baseline)
        zero = detail["predictors"][0]
        metrics = {"acc1": zero["acc1"], "acc1_source_classes": zero["acc1_source_classes"],
                   "source_acc1": zero["source_acc1"], "drop": zero["drop"],
                   "examples": len(labelled(shift.features))}  # fmt: skip
        spans = {"acc1": zero["acc1_interval"], "source_acc1": zero["source_acc1_interval"]}
        if zero["effective"] is not None:
            metrics["effective_robustness"] = zero["effective"]["value"]
            spans["effective_robustness"] = Interval(zero["effective"]["low"], zero["effective"]["high"])
        for other in detail["predictors"][1:]:
            label = other["predictor"].replace("-", "_")
            metrics[f"{label}_acc1"], spans[f"{label}_acc1"] = other["acc1"], other["acc1_interval"]
            if other["predictor"] == "probe":
                metrics["relative_robustness"] = zero["relative"]
        found.append(
            Result(
                dataset=shift.name,
                model=encoded.name,
                task="robustness",
                metrics=metrics,
                intervals=spans,
                detail=detail,
            )
        )
    return found


def _shifts(encoded: EncodedModel, source: str, known: Classes, names: list[str]) -> list[Shift]:
    config, shifts = encoded.config, []
    for name in names:
        found = encoded.features(name)
        path = config.for_set("class_map", name)
        if path:
            class_map = robustness.read_class_map(path, known.labels)
            given = config.for_set("classes", name)
            numbered = () if given else encoded.numbered(name)
            own = classes.of(name, [*class_map.classes, *found.labels], given, numbered=numbered)
            if strange := sorted({label for label in found.labels if label} - set(class_map.classes)):
                raise ValueError(f"{path} does not lead to {strange[0]!r}, which is a class of {name}")
            order = [own.labels.index(label) for label in class_map.classes]
            own = Classes(class_map.classes, [own.names[one] for one in order])
            templates = encoded.prompts(name).ensemble
        else:
            class_map = robustness.same_classes(found.labels, known.labels, name)
            named = dict(zip(known.labels, known.names, strict=True))
            own = Classes(class_map.classes, [named[label] for label in class_map.classes])
            given = config.for_set("templates", name)
            templates = encoded.prompts(name if given else source).ensemble
        weights = encoded.classifier(name, own, templates, ".own")
        shifts.append(Shift(name, found, class_map, weights, "", 0))
    weights = encoded.classifier(source, known, encoded.prompts(source).ensemble)
    for kind, level in config.corrupted:
        found = encoded.corrupted(source, kind, level)
        class_map = ClassMap(known.labels, np.arange(len(known.labels)))
        shifts.append(Shift(f"{source}~{kind}-{level}", found, class_map, weights, kind, level))
    return shifts


def _compare(
    encoded: EncodedModel, source: str, known: Classes, shift: Shift, fitting: Fitting | None,
    baseline: dict[str, dict[str, float]],
) -> dict[str, Any]:  # fmt: skip
    """Return the predictors' accuracies on the source and on a shifted set, and their robustness."""
    clean, shifted = encoded.features(source), shift.features
    weights = encoded.classifier(source, known, encoded.prompts(source).ensemble)
    scale = encoded.encoder.scale
    rows: list[dict[str, Any]] = []

    def add(predictor: str, on_source: Logits, on_shifted: Logits, own: Logits) -> None:
        whole = _accuracy(encoded, on_source, clean, known.labels)
        mapped = _accuracy(encoded, [shift.class_map.pool(one) for one in on_source],
                           _as_mapped(clean, known, shift.class_map), shift.class_map.classes)  # fmt: skip
        outside = [shift.class_map.mapped(one) for one in on_shifted]
        theirs = _accuracy(encoded, outside, shifted, shift.class_map.classes)
        adapted = _accuracy(encoded, own, shifted, shift.class_map.classes)
        rows.append(_row(predictor, whole, mapped, theirs, adapted))

    add("zero-shot", [zeroshot.logits(clean.embeddings, weights, scale)],
        [zeroshot.logits(shifted.embeddings, weights, scale)],
        [zeroshot.logits(shifted.embeddings, shift.own, scale)])  # fmt: skip
    if fitting is not None:
        probes = {f"{count}-shot": found for count, found in fitting.few.items()}
        for predictor, found in (probes | {"probe": [fitting.full[0]]}).items():
            on_shifted = [one.logits(shifted.features) for one in found]
            pooled = [shift.class_map.pool(one) for one in on_shifted]
            add(predictor, [one.logits(clean.features) for one in found], on_shifted, pooled)
    line, source_column = _line(baseline, source, shift.name)
    for row in rows:
        row["relative"] = row["acc1"] - rows[-1]["acc1"] if fitting is not None else None
        row["effective"] = robustness.effective(
            line, row["source_counts"], row["counts"], encoded.config.confidence, encoded.config.seed
        ) if line is not None else None  # fmt: skip
    references = [[row[source_column], row[shift.name]] for row in baseline.values()
                  if source_column in row and shift.name in row]  # fmt: skip
    return {"source": source, "corruption": shift.corruption, "level": shift.level, "predictors": rows,
            "line": None if line is None else line._asdict(), "references": references,
            "classes": len(shift.class_map.classes), "source_classes": len(known.labels)}  # fmt: skip


def _row(
    predictor: str, whole: Accuracy, mapped: Accuracy, theirs: Accuracy, adapted: Accuracy
) -> dict[str, Any]:
    return {
        "predictor": predictor,
        "source_all_acc1": whole.value, "source_all_interval": whole.interval,
        "source_acc1": mapped.value, "source_acc1_interval": mapped.interval,
        "acc1": adapted.value, "acc1_interval": adapted.interval,
        "acc1_source_classes": theirs.value, "acc1_source_classes_interval": theirs.interval,
        "drop": mapped.value - adapted.value,
        "source_counts": (mapped.correct, mapped.examples), "counts": (adapted.correct, adapted.examples),
    }  # fmt: skip


def _as_mapped(clean: Features, known: Classes, class_map: ClassMap) -> Features:
    """Return the source's examples under the set's classes; those without one lose their label."""
    index = {label: number for number, label in enumerate(known.labels)}
    labels = []
    for label in clean.labels:
        own = class_map.target[index[label]] if label else -1
        labels.append(class_map.classes[own] if own >= 0 else "")
    rows = np.arange(len(clean))
    kept = clean.take(rows)
    kept.labels[:] = labels
    return kept


def _accuracy(encoded: EncodedModel, logits: Logits, features: Features, names: list[str]) -> Accuracy:
    """Return the share of labelled examples that are right: an exact interval, over draws Student's t."""
    rows = labelled(features)
    if not len(rows):
        raise ValueError("no example of the source has a class of the shifted set")
    index = {label: number for number, label in enumerate(names)}
    targets = np.array([index[features.labels[row]] for row in rows])
    shares = [float((top(one[rows], 1)[:, 0] == targets).mean()) for one in logits]
    value = float(np.mean(shares))
    correct = round(value * len(rows))
    confidence = encoded.config.confidence
    interval = (
        bootstrap.exact(correct, len(rows), confidence)
        if len(shares) == 1
        else bootstrap.of_mean(shares, confidence)
    )
    return Accuracy(value, interval, correct, len(rows))


def _line(
    baseline: dict[str, dict[str, float]], source: str, shifted: str
) -> tuple[robustness.LogitLine | None, str]:
    """Return the reference models' line; SOURCE@SET is a column of the source on the set's classes."""
    own = f"{source}@{shifted}"
    column = own if any(own in row for row in baseline.values()) else source
    return robustness.fit_line(baseline, column, shifted), column
