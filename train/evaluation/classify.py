"""The zero-shot task: metrics, prompts compared, subsets, other predictions, and a gallery, for each set."""

from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline import storage
from pipeline.data import evalsets
from train.evaluation import classes, compare, gallery, intervals, results
from train.evaluation.features import Features
from train.evaluation.intervals import Replicates
from train.evaluation.metrics import Bools, Scores
from train.evaluation.options import EvalConfig
from train.evaluation.results import Result
from train.evaluation.scoring import Scored, difference, main_only, score
from train.evaluation.subject import Subject, file_name, labelled


class Subset(NamedTuple):
    """Some examples of a set that are scored apart; fields only."""

    name: str
    """As it stands in results: SET/clean, for instance."""
    rows: npt.NDArray[np.int64]


def run(subject: Subject, others: dict[str, dict[str, dict[str, bool]]]) -> list[Result]:
    """Return the zero-shot results of every set; `others`: predictions by their name, set and example."""
    names = [one.name for one in subject.config.sets if not _for_retrieval(subject, one.name)]
    return [result for name in names for result in _one(subject, name, others)]


def _for_retrieval(subject: Subject, name: str) -> bool:
    """Return whether a set has captions and no classes, beside others in a run that measures both."""
    found = subject.features(name)
    classless = not any(found.labels) and not subject.config.for_set("classes", name)
    return classless and any(found.captions) and "retrieval" in subject.config.task


def reference(subject: Subject, name: str) -> Result | None:
    """Return a set's zero-shot result as probes are compared with it; None without labels."""
    found, truth, logits = _predict(subject, name)
    rows = labelled(found)
    return _measured(subject, name, _score(subject, name, logits, truth, found, rows)) if len(rows) else None


def _predict(subject: Subject, name: str) -> tuple[Features, Bools, Scores]:
    found, known = subject.features(name), subject.classes(name)
    truth = classes.truth(found.labels, known.labels, several=subject.several(name))
    return found, truth, subject.zero_shot(name)


def _measured(subject: Subject, name: str, scored: Scored) -> Result:
    return Result(
        dataset=name, model=subject.name, task="zeroshot", metrics=scored.metrics,
        intervals=scored.intervals, main=subject.config.main_metric(name), replicates=scored.replicates,
    )  # fmt: skip


def _one(subject: Subject, name: str, others: dict[str, dict[str, dict[str, bool]]]) -> list[Result]:
    config, known = subject.config, subject.classes(name)
    found, truth, logits = _predict(subject, name)
    if config.save_predictions:
        table = results.predictions(found, logits, known, truth)
        save_predictions(config, subject.name, name, "zeroshot", table)
    cards = gallery.draw(subject.path(name), found, logits, known, truth, config.gallery, config.seed)
    rows = labelled(found)
    if not len(rows):
        counts: dict[str, float] = {"examples": len(found), "unlabelled": len(found)}
        return [Result(dataset=name, model=subject.name, task="zeroshot", metrics=counts, gallery=cards)]
    scored = _score(subject, name, logits, truth, found, rows)
    detail: dict[str, Any] = {"prompts": _prompts(subject, name, truth, found, rows, scored)}
    beside = {
        other: _beside(subject, by_set[name], found, logits, truth, rows)
        for other, by_set in others.items() if name in by_set
    }  # fmt: skip
    if beside:
        detail["compare"] = beside
    kinds = ("class_name", "single_template")
    metrics = {f"{config.main_metric(name)}_{kind}": detail["prompts"][kind] for kind in kinds}
    whole = _measured(subject, name, scored)
    whole = replace(whole, metrics=whole.metrics | metrics, detail=detail, gallery=cards)
    return [whole, *scored_subsets(subject, name, "zeroshot", logits, truth, found)]


def _score(
    subject: Subject, name: str, logits: Scores, truth: Bools, found: Features, rows: npt.NDArray[np.int64]
) -> Scored:
    config, main = subject.config, subject.config.main_metric(name)
    seed = intervals.seed_of(config.seed, name)
    return score(logits[rows], truth[rows], main, config.confidence, seed)


def _prompts(
    subject: Subject, name: str, truth: Bools, found: Features, rows: npt.NDArray[np.int64], best: Scored
) -> dict[str, Any]:
    """Return the main metric with the bare class names and one template, and the gains over the names."""
    main, confidence = subject.config.main_metric(name), subject.config.confidence
    given, seed = subject.prompts(name), intervals.seed_of(subject.config.seed, name)
    values: dict[str, Any] = {"ensemble": best.metrics[main], "templates": len(given.ensemble)}
    values["template"] = given.single

    def measured(kind: Literal[".class-name", ".single-template"]) -> tuple[float, Replicates]:
        logits = subject.zero_shot(name, kind)[rows]
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
    subject: Subject, theirs: dict[str, bool], found: Features, logits: Scores, truth: Bools,
    rows: npt.NDArray[np.int64],
) -> dict[str, Any]:  # fmt: skip
    """Return the comparison on the labelled examples that the other predictions hold."""
    own = np.array([row for row in rows if found.example_ids[row] in theirs])
    ours = truth[own, logits[own].argmax(axis=1)]
    right = np.array([theirs[found.example_ids[row]] for row in own])
    labels = [found.labels[row] for row in own]
    return compare.beside(ours, right, labels, subject.config.confidence, subject.config.seed)


def scored_subsets(
    subject: Subject, name: str, task: str, logits: Scores, truth: Bools, found: Features
) -> list[Result]:
    """Return the results of a set's --subset files."""
    main = subject.config.main_metric(name)
    out = []
    for subset in _subsets(subject, name, found):
        scored = _score(subject, name, logits, truth, found, subset.rows)
        out.append(
            Result(
                dataset=subset.name, model=subject.name, task=task, metrics=scored.metrics,
                intervals=scored.intervals, main=main,
            )
        )  # fmt: skip
    return out


def _subsets(subject: Subject, name: str, found: Features) -> list[Subset]:
    place = {example_id: row for row, example_id in enumerate(found.example_ids)}
    subsets = []
    for value in subject.config.subset:
        own, equals, path = value.partition("=")
        if equals and own != name:
            continue
        path = path if equals else value
        ids = evalsets.read_lines(path)
        # With --limit the rest of a subset is not evaluated; otherwise every id must be there.
        known = place.keys() | {one.example_id for one in found.unreadable}
        strange = [one for one in ids if one not in known]
        if strange and not subject.config.limit:
            raise ValueError(f"{path}: {len(strange)} ids are not in {name}, such as {strange[0]!r}")
        rows = np.array(sorted({place[one] for one in ids if one in place} & set(labelled(found).tolist())))
        if not len(rows):
            raise ValueError(f"{path} names no labelled example of {name}")
        parts = PurePosixPath(path)
        # clean/NAME.txt is what `openwit overlap` writes: the folder says which part it is.
        subsets.append(Subset(f"{name}/{parts.parent.name if parts.stem == name else parts.stem}", rows))
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
