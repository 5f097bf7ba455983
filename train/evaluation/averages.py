"""Averages: over a set's splits (UCF101, DTD), and over sets, as the paper and CLIP_benchmark take them."""

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any, Final, NamedTuple

import numpy as np

from pipeline.intervals import Interval
from train.evaluation import bootstrap, fewshot, known_sets
from train.evaluation.bootstrap import Replicates
from train.evaluation.results import Result

_SPLIT_TASKS: Final = ("zeroshot", "linear-probe", "few-shot")


class Average(NamedTuple):
    """A model's average over sets in one task; fields only."""

    mean: float
    """Of each set's main metric, as the paper's tables average."""
    interval: Interval
    sets: int
    accuracy: float
    """Mean of CLIP_benchmark's measure: accuracy, or mAP where examples have several classes. NaN for tasks
    without it."""


def mean(values: Sequence[float], drawn: Sequence[Replicates], confidence: float) -> tuple[float, Interval]:
    """Return the mean over sets of a metric, and its interval from each set's replicates [r]."""
    averaged = _averaged(drawn)
    return fmean(values), bootstrap.percentile(averaged, confidence)


def _averaged(drawn: Sequence[Replicates]) -> Replicates:
    count = min(len(one) for one in drawn)
    found: Replicates = np.mean([one[:count] for one in drawn], axis=0)
    return found


def with_splits(found: Sequence[Result], confidence: float) -> list[Result]:
    """Return the results and, where a set was given in several splits, also the mean over them.

    The splits of one set are named as ucf101-split1, ucf101-split2; their results say whose they are.
    """
    groups: dict[tuple[str, str, str], list[Result]] = {}
    taken = {one.dataset for one in found}
    for one in found:
        whole = known_sets.whole(one.dataset) if one.task in _SPLIT_TASKS else ""
        if whole and whole not in taken and math.isfinite(one.value):
            groups.setdefault((whole, one.model, one.task), []).append(one)
    out: list[Result] = []
    for one in found:
        key = (known_sets.whole(one.dataset), one.model, one.task)
        own = groups.get(key, [])
        if len(own) < 2 or not any(one is other for other in own) or len({other.main for other in own}) > 1:
            out.append(one)
            continue
        out.append(replace(one, split_of=key[0]))
        if one is own[-1]:
            out.append(_mean_of_splits(key[0], own, confidence))
    return out


def _mean_of_splits(whole: str, own: Sequence[Result], confidence: float) -> Result:
    first = own[0]
    names = [name for name in first.metrics if all(name in one.metrics for one in own)]
    metrics = {name: fmean(one.metrics[name] for one in own) for name in names}
    drawn = [one.replicates for one in own if one.replicates is not None]
    replicates = _averaged(drawn) if len(drawn) == len(own) else None
    spans = {} if replicates is None else {first.main: bootstrap.percentile(replicates, confidence)}
    detail: dict[str, Any] = {"splits": [one.dataset for one in own]}
    if first.task == "few-shot":
        detail |= _mean_curve([one.detail for one in own], confidence)
        metric = first.main.removesuffix("_shot").rpartition("_")[0]
        spans = {
            f"{metric}_{row['shots']}_shot": Interval(row["low"], row["high"]) for row in detail["curve"]
        }
        metrics.pop("shots_to_match_zero_shot", None)
        if detail.get("shots_to_match") is not None:
            metrics["shots_to_match_zero_shot"] = detail["shots_to_match"]
    return Result(
        dataset=whole, model=first.model, task=first.task, metrics=metrics | {"splits": len(own)},
        intervals=spans, main=first.main, detail=detail, replicates=replicates,
    )  # fmt: skip


def _mean_curve(splits: Sequence[dict[str, Any]], confidence: float) -> dict[str, Any]:
    """Return the few-shot curve of the mean over splits, draw by draw, and the shots zero-shot is worth."""
    curve = []
    for rows in zip(*(one["curve"] for one in splits), strict=True):  # of one run, so of the same shots
        draws = np.mean([row["draws"] for row in rows], axis=0)
        low, high = bootstrap.of_mean(draws.tolist(), confidence)
        curve.append({
            "shots": rows[0]["shots"], "per_class": fmean([row["per_class"] for row in rows]),
            "mean": float(draws.mean()), "low": low, "high": high, "draws": draws.tolist(),
        })  # fmt: skip
    found: dict[str, Any] = {"curve": curve}
    if all("zero_shot" in one for one in splits):
        found["zero_shot"] = fmean([one["zero_shot"] for one in splits])
        points = [(row["per_class"], row["mean"]) for row in curve]
        if all("all_examples" in one for one in splits):
            found |= {name: fmean([one[name] for one in splits])
                      for name in ("all_examples", "all_examples_score")}  # fmt: skip
            points.append((found["all_examples"], found["all_examples_score"]))
        found["shots_to_match"] = fewshot.shots_to_match(found["zero_shot"], points)
    return found


def over_sets(found: Sequence[Result], confidence: float) -> dict[tuple[str, str], Average]:
    """Return by model and task the average over two sets or more; splits count as the set that they are of.

    The sets are given, their examples drawn: each set's replicates are averaged with the others'.
    """
    averages = {}
    for model, task in dict.fromkeys((one.model, one.task) for one in found):
        every = [one for one in found if (one.model, one.task) == (model, task) and not one.split_of]
        own = [one for one in every if one.replicates is not None]
        if len(own) < 2:
            continue
        drawn = [one.replicates for one in own if one.replicates is not None]
        value, interval = mean([one.value for one in own], drawn, confidence)
        theirs = [one.metrics.get("mean_average_precision", one.metrics.get("acc1", math.nan)) for one in own]
        averages[model, task] = Average(value, interval, len(own), fmean(theirs))
    return averages
