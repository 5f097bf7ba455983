"""The zero-shot task: metrics, prompts compared, subsets, other predictions, and a gallery, for each set."""

from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline import storage
from pipeline.config import named
from pipeline.data import evalsets
from pipeline.formats import count
from train.evaluation import (
    actions,
    bootstrap,
    classes,
    compare,
    confusion,
    gallery,
    geolocation,
    lexicon,
    people,
    results,
    zeroshot,
)
from train.evaluation.bootstrap import Replicates
from train.evaluation.classes import Classes
from train.evaluation.encoded_model import EncodedModel, file_name, labelled
from train.evaluation.features import Features
from train.evaluation.metrics import Bools, Scores
from train.evaluation.options import EvalConfig
from train.evaluation.results import Result
from train.evaluation.scored_metrics import ScoredMetrics, difference, main_only, score


class ExampleSubset(NamedTuple):
    """Some examples of a set that are scored apart; fields only."""

    name: str
    """As it stands in results: SET/clean, for instance."""
    rows: npt.NDArray[np.int64]


class Others(NamedTuple):
    """Other predictions of the same examples, by their name; fields only."""

    right: dict[str, dict[str, dict[str, float]]]
    """By set and example: 1, 0, or the share of people's answers that are right."""
    answers: dict[str, dict[int, list[people.Answer]]]
    """People's, by shots."""


def others(config: EvalConfig, labels: dict[str, dict[str, str]]) -> Others:
    """Read the --compare files; `labels`: by set and example. ValueError."""
    right: dict[str, dict[str, dict[str, float]]] = {}
    answers: dict[str, dict[int, list[people.Answer]]] = {}
    for name, path in named(config.compare, "compare"):
        if not path.lower().endswith(".csv"):
            right[name] = compare.read(path, labels)
            continue
        answers[name] = people.read(path)
        for shots, given in answers[name].items():
            by_set = {one: people.shares(given, own) for one, own in labels.items()}
            if not any(by_set.values()):
                raise ValueError(f"{path} holds no labelled example of the sets that are evaluated")
            right[f"{name}, {count(shots, 'shot')}"] = {one: own for one, own in by_set.items() if own}
    return Others(right, answers)


def run(encoded: EncodedModel, beside: Others, labels: dict[str, dict[str, str]]) -> list[Result]:
    """Return the zero-shot results of every set; `labels`: by set and example, where others are compared."""
    found = []
    for name in [one.name for one in encoded.config.sets if is_classified(encoded, one.name)]:
        if encoded.config.for_set("actions", name):
            found.append(_actions(encoded, name))
            continue
        own = _one(encoded, name, beside.right)
        seed = bootstrap.seed_of(encoded.config.seed, name)
        table = [
            {"by": who, "shots": shots, **people.score(given, labels[name], encoded.config.confidence, seed)}
            for who, by_shots in beside.answers.items() for shots, given in sorted(by_shots.items())
            if name in beside.right[f"{who}, {count(shots, 'shot')}"]
        ]  # fmt: skip
        if table:
            own[0].detail["people"] = table
        found += own
    return found


def is_classified(encoded: EncodedModel, name: str) -> bool:
    """Return whether a set's examples have classes, and not captions or places alone, which have tasks."""
    found, task = encoded.features(name), encoded.config.task
    if any(found.labels) or encoded.config.for_set("classes", name):
        return not ("geolocation" in task and geolocation.are_places(found.labels))
    return not ("retrieval" in task and any(found.captions))


def reference(encoded: EncodedModel, name: str) -> Result | None:
    """Return a set's zero-shot result as probes are compared with it; None without labels."""
    found, truth, logits = _predict(encoded, name)
    rows = labelled(found)
    if not len(rows):
        return None
    return _measured(encoded, name, found, _score(encoded, name, logits, truth, found, rows))


def _predict(encoded: EncodedModel, name: str) -> tuple[Features, Bools, Scores]:
    found, known = encoded.features(name), encoded.classes(name)
    truth = classes.truth(found.labels, known.labels, several=encoded.several(name))
    return found, truth, encoded.zero_shot(name)


def _measured(encoded: EncodedModel, name: str, found: Features, scored: ScoredMetrics) -> Result:
    return Result(
        dataset=name, model=encoded.name, task="zeroshot", metrics=scored.metrics,
        intervals=scored.intervals, main=encoded.config.main_metric(name), replicates=scored.replicates,
        examples=results.digest(found.example_ids[row] for row in labelled(found)),
    )  # fmt: skip


def _one(encoded: EncodedModel, name: str, others: dict[str, dict[str, dict[str, float]]]) -> list[Result]:
    config, known = encoded.config, encoded.classes(name)
    found, truth, logits = _predict(encoded, name)
    if config.save_predictions:
        table = results.predictions(found, logits, known, truth)
        save_predictions(config, encoded.name, name, "zeroshot", table)
    cards = gallery.draw(encoded.path(name), found, logits, known, truth, config.gallery, config.seed)
    rows = labelled(found)
    if not len(rows):
        counts: dict[str, float] = {"examples": len(found), "unlabelled": len(found)}
        return [Result(dataset=name, model=encoded.name, task="zeroshot", metrics=counts, gallery=cards)]
    scored = _score(encoded, name, logits, truth, found, rows)
    detail: dict[str, Any] = {"prompts": _prompts(encoded, name, truth, found, rows, scored)}
    beside = {
        other: _beside(encoded, by_set[name], found, logits, truth, rows)
        for other, by_set in others.items() if name in by_set
    }  # fmt: skip
    if beside:
        detail["compare"] = beside
    if told := confusion.by_class(truth[rows], logits[rows], known.names):
        detail["classes"] = told
    kinds = ("class_name", "single_template")
    metrics = {f"{config.main_metric(name)}_{kind}": detail["prompts"][kind] for kind in kinds}
    whole = _measured(encoded, name, found, scored)
    whole = replace(whole, metrics=whole.metrics | metrics, detail=detail, gallery=cards)
    parts = scored_subsets(encoded, name, "zeroshot", logits, truth, found)
    return [whole, *parts, *([_options(encoded, name)] if config.for_set("options", name) else [])]


def _actions(encoded: EncodedModel, name: str) -> Result:
    """Return RareAct's mWAP and mSAP of a set whose images are the middle frames of its clips."""
    config, found = encoded.config, encoded.features(name)
    clips = actions.read(config.for_set("actions", name))
    place = {PurePosixPath(one).stem: row for row, one in enumerate(found.example_ids)}
    if missing := [one.id for one in clips if one.id not in place]:
        raise ValueError(f"{name} has no image of clip {missing[0]} ({len(missing):,} are missing)")
    names = actions.actions(clips)
    weights = encoded.classifier(name, Classes(names, names), encoded.prompts(name).ensemble, ".actions")
    rows = [place[one.id] for one in clips]
    scores = zeroshot.logits(found.embeddings[rows], weights, encoded.encoder.scale)
    metrics = {"mwap": actions.mwap(clips, scores), "msap": actions.msap(clips, scores, config.seed),
               "examples": len(clips)}  # fmt: skip
    return Result(dataset=name, model=encoded.name, task="zeroshot", metrics=metrics, main="mwap")


def _options(encoded: EncodedModel, name: str) -> Result:
    """Return the accuracy where each image has classes of its own to choose among."""
    found, path = encoded.features(name), encoded.config.for_set("options", name)
    rows = [int(row) for row in labelled(found)]
    given = lexicon.read(path, [found.example_ids[row] for row in rows])
    names = sorted({one for several in given for one in several})
    known = Classes(names, [classes.display(one) for one in names])
    weights = encoded.classifier(name, known, encoded.prompts(name).ensemble, ".options")
    scores = found.embeddings[rows] @ weights.T
    right = lexicon.hits(scores, given, names, [found.labels[row] for row in rows])
    share, offered = float(right.mean()), float(np.mean([len(one) for one in given]))
    return Result(
        dataset=f"{name}/options", model=encoded.name, task="zeroshot",
        metrics={"acc1": share, "examples": len(rows), "options": offered},
        intervals={"acc1": bootstrap.exact(int(right.sum()), len(rows), encoded.config.confidence)},
    )  # fmt: skip


def _score(
    encoded: EncodedModel,
    name: str,
    logits: Scores,
    truth: Bools,
    features: Features,
    rows: npt.NDArray[np.int64],
) -> ScoredMetrics:
    config, main = encoded.config, encoded.config.main_metric(name)
    seed = bootstrap.seed_of(config.seed, name)
    return score(logits[rows], truth[rows], main, config.confidence, seed)


def _prompts(
    encoded: EncodedModel,
    name: str,
    truth: Bools,
    features: Features,
    rows: npt.NDArray[np.int64],
    best: ScoredMetrics,
) -> dict[str, Any]:
    """Return the main metric with the bare class names and one template, and the gains over the names."""
    main, confidence = encoded.config.main_metric(name), encoded.config.confidence
    given, seed = encoded.prompts(name), bootstrap.seed_of(encoded.config.seed, name)
    values: dict[str, Any] = {"ensemble": best.metrics[main], "templates": len(given.ensemble)}
    values["template"] = given.single

    def measured(kind: Literal[".class-name", ".single-template"]) -> tuple[float, Replicates]:
        logits = encoded.zero_shot(name, kind)[rows]
        return main_only(logits, truth[rows], main, seed)

    bare, bare_drawn = measured(".class-name")
    single, single_drawn = measured(".single-template")
    values |= {"class_name": bare, "single_template": single}
    for kind, value, drawn in (
        ("single_template", single, single_drawn),
        ("ensemble", best.metrics[main], best.replicates),
    ):
        values[f"gain_{kind}"] = value - bare
        values[f"gain_{kind}_interval"] = difference(drawn, bare_drawn, confidence)
    return values


def _beside(
    encoded: EncodedModel, theirs: dict[str, float], features: Features, logits: Scores, truth: Bools,
    rows: npt.NDArray[np.int64],
) -> dict[str, Any]:  # fmt: skip
    """Return the comparison on the labelled examples that the other predictions hold."""
    own = np.array([row for row in rows if features.example_ids[row] in theirs])
    ours = truth[own, logits[own].argmax(axis=1)]
    right = np.array([theirs[features.example_ids[row]] for row in own])
    labels = [features.labels[row] for row in own]
    return compare.beside(ours, right, labels, encoded.config.confidence, encoded.config.seed)


def scored_subsets(
    encoded: EncodedModel, name: str, task: str, logits: Scores, truth: Bools, features: Features
) -> list[Result]:
    """Return the results of a set's --subset files, of its logits [n, C] and truth, bool [n, C]."""
    main = encoded.config.main_metric(name)
    out = []
    for subset in _subsets(encoded, name, features):
        scored = _score(encoded, name, logits, truth, features, subset.rows)
        out.append(
            Result(
                dataset=subset.name, model=encoded.name, task=task, metrics=scored.metrics,
                intervals=scored.intervals, main=main,
            )
        )  # fmt: skip
    return out


def _subsets(encoded: EncodedModel, name: str, features: Features) -> list[ExampleSubset]:
    place = {example_id: row for row, example_id in enumerate(features.example_ids)}
    subsets = []
    for value in encoded.config.subset:
        own, equals, path = value.partition("=")
        if equals and own != name:
            continue
        path = path if equals else value
        ids = evalsets.read_lines(path)
        # With --limit the rest of a subset is not evaluated; otherwise every id must be there.
        known = place.keys() | {one.example_id for one in features.unreadable}
        strange = [one for one in ids if one not in known]
        if strange and not encoded.config.limit:
            raise ValueError(f"{path}: {len(strange)} ids are not in {name}, such as {strange[0]!r}")
        rows = np.array(
            sorted({place[one] for one in ids if one in place} & set(labelled(features).tolist()))
        )
        if not len(rows):
            raise ValueError(f"{path} names no labelled example of {name}")
        parts = PurePosixPath(path)
        # clean/NAME.txt is written by `openwit overlap`: the folder says which part it is.
        subsets.append(
            ExampleSubset(f"{name}/{parts.parent.name if parts.stem == name else parts.stem}", rows)
        )
    return subsets


def save_predictions(config: EvalConfig, model: str, name: str, task: str, table: pa.Table) -> None:
    """Write predictions/NAME.parquet, in a folder for each model where there are several.

    Where zero-shot predicts as well, other tasks' are NAME.TASK.parquet.
    """
    folder = storage.join(config.out, "predictions")
    if len(config.checkpoint) + len(config.features) > 1:
        folder = storage.join(folder, file_name(model))
    suffix = f".{task}" if task != "zeroshot" and "zeroshot" in config.task else ""
    results.write_table(storage.join(folder, f"{name}{suffix}.parquet"), table)
