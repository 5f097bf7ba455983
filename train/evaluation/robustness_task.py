"""The robustness task: zero-shot, k-shot and full probe of a source on every shifted set, in one table."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline import storage
from pipeline.intervals import Interval
from train.evaluation import bootstrap, class_maps, classes, frames, robustness, zeroshot
from train.evaluation.classes import Classes
from train.evaluation.encoded_model import EncodedModel, labelled
from train.evaluation.features import Features
from train.evaluation.metrics import Scores, top
from train.evaluation.options import EvalConfig
from train.evaluation.probe_tasks import Fitting
from train.evaluation.results import Result
from train.evaluation.robustness import ClassMap
from train.evaluation.zeroshot_task import is_classified


class Shift(NamedTuple):
    """A shifted set, encoded; fields only."""

    name: str
    features: Features
    class_map: ClassMap
    own: npt.NDArray[np.float32]
    """Zero-shot classifier of the set's own classes, [classes, E]; of another encoder none, [0, 0]."""
    corruption: str = ""
    level: int = 0
    anchors: frames.Anchors | None = None
    """Of a set of videos' frames."""


class ZeroShot(NamedTuple):
    """A model's zero-shot scores, [n, classes]; fields only."""

    source: Scores
    shifted: Scores
    own: Scores
    """Of the shifted set, among its own classes."""


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
    others = [name for name in others if name in config.shifted or not config.shifted]
    if config.several(source):
        raise ValueError(f"{source}: robustness compares accuracies, so each example needs one class")
    names = [name for name in others if is_classified(encoded, name)]
    known, clean = encoded.classes(source), encoded.features(source)
    weights = encoded.classifier(source, known, encoded.prompts(source).ensemble)
    scale = encoded.encoder.scale
    found: list[Result] = []
    for shift in _shifts(encoded, source, known, names):
        pairs = (clean, weights), (shift.features, weights), (shift.features, shift.own)
        zero = ZeroShot(*(zeroshot.logits(part.embeddings, one, scale) for part, one in pairs))
        detail = _compare(config, source, clean, known, shift, zero, fitting)
        found.append(_result(encoded.name, shift, detail))
    return found


def run_foreign(fitting: Fitting, shifted: Mapping[str, Features]) -> list[Result]:
    """Return a result for each shifted set of another encoder's probes, fitted on the source."""
    found = []
    for name, features in shifted.items():
        path = fitting.config.for_set("class_map", name)
        class_map = _class_map(path, features.labels, fitting.known.labels, name)
        shift = Shift(name, _within(features, class_map, path, name), class_map, np.zeros((0, 0), np.float32))
        detail = _compare(fitting.config, fitting.dataset, fitting.test, fitting.known, shift, None, fitting)
        found.append(_result(fitting.model, shift, detail))
    return found


def _result(model: str, shift: Shift, detail: dict[str, Any]) -> Result:
    """Return the metrics of the first predictor, zero-shot if there is text, and the others' accuracies."""
    first = detail["predictors"][0]
    metrics = {"acc1": first["acc1"], "acc1_source_classes": first["acc1_source_classes"],
               "source_acc1": first["source_acc1"], "drop": first["drop"],
               "examples": len(labelled(shift.features))}  # fmt: skip
    spans = {"acc1": first["acc1_interval"], "source_acc1": first["source_acc1_interval"]}
    for name in ("pm0", "pm10"):
        if name in first:
            metrics[name], spans[name] = first[name], first[f"{name}_interval"]
    if first["effective"] is not None:
        metrics["effective_robustness"] = first["effective"]["value"]
        spans["effective_robustness"] = Interval(first["effective"]["low"], first["effective"]["high"])
    for other in detail["predictors"][1:]:
        label = other["predictor"].replace("-", "_")
        metrics[f"{label}_acc1"], spans[f"{label}_acc1"] = other["acc1"], other["acc1_interval"]
        if other["predictor"] == "probe":
            metrics["relative_robustness"] = first["relative"]
    return Result(dataset=shift.name, model=model, task="robustness", metrics=metrics, intervals=spans,
                  detail=detail)  # fmt: skip


def _class_map(path: str, labels: Sequence[str], source: Sequence[str], name: str) -> ClassMap:
    """Return the map of a file, or of labels that are some of the source's, or ImageNet's by other names."""
    if path:
        return class_maps.read(path, source)
    if not {label for label in labels if label} <= set(source) and (
        found := class_maps.by_number(labels, source)
    ):
        return found
    return robustness.same_classes(labels, source, name)


def _within(features: Features, class_map: ClassMap, path: str, name: str) -> Features:
    """Return the features without labels that ObjectNet's map leaves out; ValueError where others are."""
    strange = {label for label in features.labels if label} - set(class_map.classes)
    if not strange:
        return features
    if not storage.is_folder(path):
        raise ValueError(f"{path} does not lead to {min(strange)!r}, which is a class of {name}")
    kept = features.take(np.arange(len(features)))
    kept.labels[:] = ["" if label in strange else label for label in features.labels]
    return kept


def _shifts(encoded: EncodedModel, source: str, known: Classes, names: list[str]) -> list[Shift]:
    config, shifts = encoded.config, []
    for name in names:
        found, anchors = encoded.features(name), None
        if path := config.for_set("frames", name):
            anchors = frames.read(path, found)
        path = config.for_set("class_map", name)
        class_map = _class_map(path, found.labels, known.labels, name)
        found = _within(found, class_map, path, name)
        given = config.for_set("templates", name)
        templates = encoded.prompts(name if given or path else source).ensemble
        if path:
            given = config.for_set("classes", name)
            numbered = () if given else encoded.numbered(name)
            own = classes.of(name, class_map.classes, given, numbered=numbered, language=config.language)
            own = own.take(class_map.classes)
        else:
            first = {own: source for source, own in reversed(list(enumerate(class_map.target.tolist())))}
            own = known.take([known.labels[first[number]] for number in range(len(class_map.classes))])
            own = own.called(class_map.classes)
        weights = encoded.classifier(name, own, templates, ".own")
        shifts.append(Shift(name, found, class_map, weights, anchors=anchors))
    weights = encoded.classifier(source, known, encoded.prompts(source).ensemble)
    for kind, level in config.corrupted:
        found = encoded.corrupted(source, kind, level)
        class_map = ClassMap(known.labels, np.arange(len(known.labels)))
        shifts.append(Shift(f"{source}~{kind}-{level}", found, class_map, weights, kind, level))
    return shifts


def _compare(
    config: EvalConfig, source: str, clean: Features, known: Classes, shift: Shift, zero: ZeroShot | None,
    fitting: Fitting | None,
) -> dict[str, Any]:  # fmt: skip
    """Return the predictors' accuracies on the source and on a shifted set, and their robustness."""
    baseline = robustness.read_baseline(config.baseline) if config.baseline else {}
    shifted, class_map = shift.features, shift.class_map
    rows: list[dict[str, Any]] = []

    def add(predictor: str, on_source: Logits, on_shifted: Logits, own: Logits) -> None:
        share = functools.partial(_accuracy, config.confidence)
        whole = share(on_source, clean, known.labels)
        mapped = share([class_map.pool(one) for one in on_source], _as_mapped(clean, known, class_map),
                       class_map.classes)  # fmt: skip
        outside = [class_map.mapped(one) for one in on_shifted]
        theirs = share(outside, shifted, class_map.classes)
        row = _row(predictor, whole, mapped, theirs, share(own, shifted, class_map.classes))
        if shift.anchors is not None:
            row |= _pm(shift.anchors, shifted, own, class_map.classes, config.confidence)
        rows.append(row)

    if zero is not None:
        add("zero-shot", [zero.source], [zero.shifted], [zero.own])
    if fitting is not None:
        probes = {f"{count}-shot": found for count, found in fitting.few.items()}
        for predictor, found in (probes | {"probe": [fitting.full[0]]}).items():
            on_shifted = [one.logits(shifted.features) for one in found]
            pooled = [class_map.pool(one) for one in on_shifted]
            add(predictor, [one.logits(clean.features) for one in found], on_shifted, pooled)
    if zero is None:
        rows.insert(0, rows.pop())  # another encoder is judged by the full probe
    line, source_column = _line(baseline, source, shift.name)
    for row in rows:
        probe = next((one for one in rows if one["predictor"] == "probe"), None)
        row["relative"] = row["acc1"] - probe["acc1"] if probe is not None else None
        row["effective"] = robustness.effective(
            line, row["source_counts"], row["counts"], config.confidence, config.seed
        ) if line is not None else None  # fmt: skip
    references = [[row[source_column], row[shift.name]] for row in baseline.values()
                  if source_column in row and shift.name in row]  # fmt: skip
    return {"source": source, "foreign": zero is None, "corruption": shift.corruption,
            "level": shift.level, "predictors": rows,
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


def _pm(
    anchors: frames.Anchors, features: Features, own: Logits, names: list[str], confidence: float
) -> dict[str, Any]:
    """Return PM-0 and PM-10, over draws their means."""
    counted = [frames.pm(anchors, features, top(one, 1)[:, 0], names) for one in own]
    found: dict[str, Any] = {}
    for name, several in zip(("pm0", "pm10"), zip(*counted, strict=True), strict=True):
        shares = [one / len(anchors.near) for one in several]
        found[name] = float(np.mean(shares))
        found[f"{name}_interval"] = (
            bootstrap.exact(several[0], len(anchors.near), confidence)
            if len(shares) == 1
            else bootstrap.of_mean(shares, confidence)
        )
    return found


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


def _accuracy(confidence: float, logits: Logits, features: Features, names: list[str]) -> Accuracy:
    """Return the share of labelled examples that are right: an exact interval, over draws Student's t."""
    rows = labelled(features)
    if not len(rows):
        raise ValueError("no example of the source has a class of the shifted set")
    index = {label: number for number, label in enumerate(names)}
    targets = np.array([index[features.labels[row]] for row in rows])
    shares = [float((top(one[rows], 1)[:, 0] == targets).mean()) for one in logits]
    value = float(np.mean(shares))
    correct = round(value * len(rows))
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
