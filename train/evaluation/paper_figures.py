"""Which figure of the paper shows which results."""

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from scipy import stats

from pipeline.formats import percent, points
from pipeline.intervals import Interval
from train.evaluation.bootstrap import of_correlation
from train.evaluation.charts import (
    BarRow,
    Chart,
    ChartPoint,
    against_compute,
    bars,
    curves,
    finite,
    pairs,
    scatter,
)
from train.evaluation.results import Result

SERIES: Final = 8  # colours; further models start again
_LABELS: Final = 20  # of each group that figure 18 shows


class Wins(NamedTuple):
    """Zero-shot against probes over a model's sets; fields only."""

    model: str
    wins: int
    sets: int
    mean: float
    r: float
    r_interval: Interval


def wins(probes: Sequence[Result], confidence: float) -> list[Wins]:
    """Return for each model on how many sets zero-shot beats its probe, and how the two correlate."""
    found = []
    for model in dict.fromkeys(one.model for one in probes):
        own = [one.detail for one in probes if one.model == model and "zero_shot" in one.detail]
        if not own:
            continue
        gaps = [one["zero_shot_minus_probe"] for one in own]
        r = correlation(
            [(one["zero_shot"], one["zero_shot"] - gap) for one, gap in zip(own, gaps, strict=True)]
        )
        found.append(
            Wins(model, sum(gap > 0 for gap in gaps), len(gaps), math.fsum(gaps) / len(gaps), r,
                 of_correlation(r, len(gaps), confidence))
        )  # fmt: skip
    return found


def correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Return Pearson's r, NaN below three pairs or without variation."""
    values = np.array(pairs, np.float64)
    if len(values) < 3 or np.ptp(values[:, 0]) == 0 or np.ptp(values[:, 1]) == 0:
        return math.nan
    return float(stats.pearsonr(values[:, 0], values[:, 1]).statistic)


def compute(
    zero: Sequence[Result], gflops: dict[str, float], averages: dict[tuple[str, str], Any]
) -> list[Chart]:
    """Return the error over compute, for two models or more (figure 9)."""
    rows = []
    for model, flops in gflops.items():
        own = [one for one in zero if one.model == model and finite(one.value) and one.replicates is not None]
        if not own:
            continue
        mean, (low, high) = averages.get((model, "zeroshot"), (own[0].value, own[0].interval))[:2]
        rows.append((model, flops, 1 - mean, 1 - high, 1 - low))
    return [against_compute(rows)] if len(rows) > 1 else []


def prompts(own: Sequence[Result], suffix: str) -> list[Chart]:
    """Return the gain of prompts over the bare class names (figure 4)."""
    with_prompts = [one for one in own if "prompts" in one.detail]
    charts = []
    for kind, title in (
        ("ensemble", "Gain of the prompt ensemble"),
        ("single_template", "Gain of one template"),
    ):
        rows = [
            BarRow(
                one.dataset,
                one.detail["prompts"][f"gain_{kind}"],
                *one.detail["prompts"][f"gain_{kind}_interval"],
            )
            for one in with_prompts
        ]
        if rows:
            charts.append(bars(f"{title} over the bare class name{suffix}", "points", rows))
    return charts


def probe(own: Sequence[Result], suffix: str) -> list[Chart]:
    """Return zero-shot minus probe by set (figure 5), and one against the other (figure 8)."""
    both = [one for one in own if "zero_shot" in one.detail]
    if not both:
        return []
    rows = [
        BarRow(one.dataset, one.detail["zero_shot_minus_probe"], *one.detail["difference_interval"])
        for one in both
    ]
    charts = [bars(f"Zero-shot minus linear probe{suffix}", "points", rows)]
    marks = [
        ChartPoint(one.value, one.detail["zero_shot"], low, high,
             title=f"{one.dataset}: zero-shot {percent(one.detail['zero_shot'])}, probe {percent(one.value)}")
        for one in both for low, high in [one.detail.get("zero_shot_interval", (None, None))]
    ]  # fmt: skip
    r = correlation([(mark.x, mark.y) for mark in marks])
    note = f"Pearson's r = {r:.2f} over {len(marks)} sets." if math.isfinite(r) else ""
    return [*charts, scatter(f"Zero-shot over probe{suffix}", "linear probe", "zero-shot", marks, note=note)]


def few_shot(own: Sequence[Result], suffix: str) -> list[Chart]:
    """Return the curves over shots (figure 6), and the shots that zero-shot is worth (figure 7)."""
    if not own:
        return []
    shots = sorted({row["shots"] for one in own for row in one.detail["curve"]})
    # Zero shots have no logarithm: they stand one doubling left of the first.
    zero = min(shots) / 2
    series, stars, rows, beyond = [], [], [], set()
    for number, one in enumerate(own):
        marks = [
            ChartPoint(row["shots"], row["mean"], row["low"], row["high"], number % SERIES, "dot",
                 f"{one.dataset}, {row['shots']} shots ({row['per_class']:.3g} images per class): "
                 f"{percent(row['mean'])}")
            for row in one.detail["curve"]
        ]  # fmt: skip
        series.append((one.dataset, marks))
        if "zero_shot" in one.detail:
            value, needed = one.detail["zero_shot"], one.detail["shots_to_match"]
            stars.append(ChartPoint(zero, value, None, None, number % SERIES, "star",
                              f"{one.dataset}, zero-shot: {percent(value)}"))  # fmt: skip
            if needed is None:
                needed = one.detail.get("all_examples", float(max(shots)))
                beyond.add(needed)
            rows.append(BarRow(one.dataset, needed, None, None))
    ticks = [(float(count), str(count)) for count in shots]
    charts = [
        curves(f"Few-shot probes{suffix}", "labelled examples of a class", "main metric", series,
               [(zero, "0")] * bool(stars) + ticks, log=True, extra=stars,
               note="Bars: Student's t over draws. Stars: zero-shot.")
    ]  # fmt: skip
    if rows:
        least = float(min(shots))

        def text(value: float) -> str:
            bound = "> " if value in beyond else "≤ " if value <= least else ""
            return f"{bound}{value:.2g}"

        charts.append(
            bars(f"Labelled examples of a class that zero-shot is worth{suffix}", "shots", rows,
                 text, "{:g}".format)
        )  # fmt: skip
    return charts


def robustness(own: Sequence[Result], suffix: str) -> list[Chart]:
    """Return a set's shifted over source accuracies on logit axes (figure 13), and corruptions by level."""
    charts = [_shift(one, suffix) for one in own if not one.detail["corruption"]]
    corrupted = [one for one in own if one.detail["corruption"]]
    for predictor in ("zero-shot", "probe"):
        chart = _levels(corrupted, predictor, suffix)
        charts += [chart] if chart else []
    return charts


def _mark(x: float, y: float, span: Interval, *, series: int, title: str, shape: str = "dot") -> ChartPoint:
    return ChartPoint(x, y, span[0], span[1], series, shape, title)


def _shift(result: Result, suffix: str) -> Chart:
    references = [
        ChartPoint(source, shifted, series=-1, shape="small", title="reference model")
        for source, shifted in result.detail["references"]
    ]
    predictors = result.detail["predictors"]
    marks = [
        _mark(row["source_acc1"], row["acc1"], row["acc1_interval"], series=number % SERIES,
             shape="star" if row["predictor"] == "zero-shot" else "dot",
             title=f"{row['predictor']}: source {percent(row['source_acc1'])}, here {percent(row['acc1'])}")
        for number, row in enumerate(predictors)
    ]  # fmt: skip
    line = result.detail["line"]
    through: list[tuple[float, float]] = []
    if line is not None:
        at = np.linspace(0.005, 0.995, 200)
        on = 1 / (1 + np.exp(-(line["slope"] * np.log(at / (1 - at)) + line["offset"])))
        through = list(zip(at.tolist(), on.tolist(), strict=True))
    return scatter(
        f"{result.dataset}{suffix}",
        f"accuracy on {result.detail['source']}", f"accuracy on {result.dataset}",
        references + marks, line=through, logits=True,
        note="Logit axes. Dashed: no loss." + (" Line: reference models." if line else ""),
        legend=[(number % SERIES, row["predictor"]) for number, row in enumerate(predictors)],
    )  # fmt: skip


def _levels(corrupted: Sequence[Result], predictor: str, suffix: str) -> Chart | None:
    series = []
    for number, kind in enumerate(dict.fromkeys(one.detail["corruption"] for one in corrupted)):
        own = [(one.detail, row) for one in corrupted if one.detail["corruption"] == kind
               for row in one.detail["predictors"] if row["predictor"] == predictor]  # fmt: skip
        if not own:
            continue
        first = own[0][1]
        marks = [_mark(0, first["source_acc1"], first["source_acc1_interval"], series=number % SERIES,
                      title=f"uncorrupted: {percent(first['source_acc1'])}")]  # fmt: skip
        marks += [
            _mark(detail["level"], row["acc1"], row["acc1_interval"], series=number % SERIES,
                 title=f"{kind}, level {detail['level']}: {percent(row['acc1'])} "
                 f"({points(row['acc1'] - row['source_acc1'])})")
            for detail, row in own
        ]  # fmt: skip
        series.append((kind, marks))
    if not series:
        return None
    title = f"Corruptions of {corrupted[0].detail['source']}: {predictor}{suffix}"
    return curves(title, "level", "accuracy", series, [(float(n), str(n)) for n in range(6)])


def compare(own: Sequence[Result], suffix: str) -> list[Chart]:
    """Return the model's accuracy by class over the others' (figure 16)."""
    charts = []
    for one in own:
        for name, beside in one.detail.get("compare", {}).items():
            marks = [
                ChartPoint(row["theirs"], row["ours"],
                     title=f"{row['class']}: {name} {percent(row['theirs'])}, model {percent(row['ours'])}")
                for row in beside["classes"]
            ]  # fmt: skip
            note = f"A point is a class. Pearson's r = {beside['pearson']:.2f}." if finite(
                beside["pearson"]) else "A point is a class."  # fmt: skip
            charts.append(
                scatter(f"{one.dataset}: {name} and the model{suffix}", name, "model", marks, note=note)
            )
    return charts


def labels(own: Sequence[Result], suffix: str) -> list[Chart]:
    """Return the labels that differ most between groups, for each group and threshold (figure 18).

    For two groups the 20 that are more frequent in each, else the 20 that differ most; by how frequent.
    """
    charts = []
    for one in own:
        for given in one.detail.get("labels", []):
            rows = [row for row in given["rows"] if row["chi2"] > 0]
            groups = [rate["group"] for rate in rows[0]["rates"]] if rows else []
            parts = {"": rows}
            if len(groups) == 2:
                parts = {
                    f", more of {group}": [row for row in rows if _first(row) == group] for group in groups
                }
            for part, chosen in parts.items():
                top = sorted(chosen[:_LABELS], key=lambda row: -row["count"])
                if top:
                    bars_of = [(row["class"], [rate["rate"] for rate in row["rates"]]) for row in top]
                    note = "Those that differ most by a chi-squared test, the most frequent first."
                    title = f"{one.dataset}: labels above {percent(given['threshold'])}{part}{suffix}"
                    charts.append(pairs(title, "share of images", bars_of, groups, note=note))
    return charts


def _first(row: dict[str, Any]) -> str:
    best: str = max(row["rates"], key=lambda rate: rate["rate"])["group"]
    return best
