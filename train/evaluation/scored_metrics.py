"""All metrics of one set with their intervals, from logits."""

from typing import Final, NamedTuple

import numpy as np

from pipeline.intervals import Interval
from train.evaluation import bootstrap
from train.evaluation.bootstrap import Replicates
from train.evaluation.metrics import RANKED, Bools, Scores, hits, measures

_MOST_CLASSES: Final = 100  # ROC AUC and mAP of more classes only where they are the main metric


class ScoredMetrics(NamedTuple):
    """A set's metrics; fields only."""

    metrics: dict[str, float]
    intervals: dict[str, Interval]
    replicates: Replicates
    """Of the main metric."""


def score(logits: Scores, truth: Bools, main: str, confidence: float, seed: int) -> ScoredMetrics:
    """Return every metric of n labelled examples; ValueError for a `main` that the classes are too few for.

    logits: [n, C]; truth: bool [n, C].

    Shares of examples have exact intervals, the others bootstrap percentiles.
    """
    n, classes = logits.shape
    found = measures(logits, truth, ranked=main in RANKED or classes <= _MOST_CLASSES)
    if main != "mean_top1_top5":
        found.pop("mean_top1_top5", None)  # it says nothing that the two do not
    if main not in found:
        raise ValueError(f"--metric {main} needs more than {classes} classes")
    values: dict[str, float] = {name: measure(None) for name, measure in found.items()}
    spans: dict[str, Interval] = {}
    drawn: dict[str, Replicates] = {}
    for name, measure in found.items():
        count = bootstrap.RANKED_REPLICATES if name in RANKED else bootstrap.REPLICATES
        if name not in ("acc1", "acc5") or name == main:
            drawn[name] = bootstrap.replicates(measure, n, seed, count)
            spans[name] = bootstrap.percentile(drawn[name], confidence)
    for name, count in (("acc1", 1), ("acc5", 5)):
        if name in found:
            right = int(hits(logits, truth, count).sum())
            spans[name] = bootstrap.exact(right, n, confidence)
    values["examples"] = n
    return ScoredMetrics(values, spans, drawn[main])


def main_only(logits: Scores, truth: Bools, main: str, seed: int) -> tuple[float, Replicates]:
    """Return the main metric of [n, C] logits and its replicates, paired with those of `score`."""
    measure = measures(logits, truth, ranked=main in RANKED)[main]
    count = bootstrap.RANKED_REPLICATES if main in RANKED else bootstrap.REPLICATES
    return measure(None), bootstrap.replicates(measure, len(logits), seed, count)


def difference(a: Replicates, b: Replicates, confidence: float) -> Interval:
    """Return the interval of a difference of two predictors on the same examples, replicates [r] paired."""
    return bootstrap.percentile(np.asarray(a - b), confidence)
