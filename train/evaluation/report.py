"""The evaluation's report: one HTML file with the paper's tables and figures, without any script."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Final, NamedTuple, get_args

import numpy as np

from pipeline import safe_html
from pipeline.formats import percent, points
from train.evaluation import average_figures, paper_figures
from train.evaluation.averages import Average
from train.evaluation.charts import Chart
from train.evaluation.options import EvalConfig, Task
from train.evaluation.results import Result

METRIC_NAMES: Final = {
    "acc1": "accuracy", "acc5": "top-5 accuracy",
    "mean_top1_top5": "mean of top-1 and top-5", "mean_per_class_recall": "mean per class",
    "roc_auc": "ROC AUC", "map11": "11-point mAP",
    "mean_average_precision": "mAP", "image_retrieval_recall@5": "text to image R@5",
}  # fmt: skip

Averages = dict[tuple[str, str], Average]


class Figures(NamedTuple):
    """The charts by section; fields only."""

    compute: list[Chart]
    prompts: list[Chart]
    probe: list[Chart]
    few: list[Chart]
    shifts: list[Chart]
    compare: list[Chart]
    labels: list[Chart]


def render(
    found: Sequence[Result], config: EvalConfig, gflops: dict[str, float], averages: Averages,
    links: Sequence[tuple[str, str]] = (),
) -> str:  # fmt: skip
    """Return the page."""
    by_task = {str(task): [one for one in found if one.task == task] for task in get_args(Task)}
    models = list(dict.fromkeys(one.model for one in found))
    corrupted = {one.dataset for one in found if one.detail.get("corruption")}
    return safe_html.render(
        Path(__file__).parent,
        {"percent": _percent, "points": _points, "metric": metric_name, "value": _value, "shots": _shots},
        models=[(name, gflops.get(name)) for name in models],
        sets=list(
            dict.fromkeys(one.dataset for one in found if one.dataset not in corrupted and not one.split_of)
        ),
        corrupted=len(corrupted), lead=lead(by_task, models, averages),
        corrupted_means=corrupted_means(by_task.get("robustness", [])),
        tasks=by_task, averages=averages, figures=_figures(by_task, models, gflops, averages, config),
        confidence=f"{100 * config.confidence:g}%", draws=config.draws, seed=config.seed, limit=config.limit,
        baseline=bool(config.baseline), links=links,
        wins=paper_figures.wins(by_task.get("linear-probe", []), config.confidence),
    )  # fmt: skip


def lead(by_task: dict[str, list[Result]], models: Sequence[str], averages: Averages) -> list[str]:
    """Return a sentence per model with its zero-shot and probe results, averages where there are several."""
    lines = []
    for model in models:
        parts = []
        for task, name in (("zeroshot", "zero-shot"), ("linear-probe", "linear probe")):
            own = [one for one in by_task.get(task, []) if one.model == model and not one.split_of]
            if (model, task) in averages:
                average = averages[model, task]
                parts.append(f"{name} {_percent(average.mean)} on average over {average.sets} sets")
            elif own:
                parts.append(
                    f"{name} {_percent(own[0].value)} ({metric_name(own[0].main)}) on {own[0].dataset}"
                )
        if parts:
            lines.append(f"{model}: {'; '.join(parts)}.")
    return lines


def corrupted_means(results: Sequence[Result]) -> list[tuple[str, int, list[float]]]:
    """Return per model its corrupted copies and the mean accuracy on them, for each predictor."""
    found = dict[str, list[list[float]]]()
    for one in results:
        if one.detail.get("corruption") and not one.detail["foreign"]:
            found.setdefault(one.model, []).append([row["acc1"] for row in one.detail["predictors"]])
    return [
        (model, len(rows), [fmean(column) for column in zip(*rows, strict=True)])
        for model, rows in found.items()
        if len(rows) > 1
    ]


def _figures(
    by_task: dict[str, list[Result]], models: list[str], gflops: dict[str, float], averages: Averages,
    config: EvalConfig,
) -> Figures:  # fmt: skip
    zero, probe, few, shifted = (
        by_task.get(task, []) for task in ("zeroshot", "linear-probe", "few-shot", "robustness")
    )

    def each(draw: Any, own: Sequence[Result]) -> list[Chart]:
        """Draw a model's charts for every model, its name in the title where there are several."""
        charts = []
        for model in models:
            suffix = f", {model}" if len(models) > 1 else ""
            charts += draw([one for one in own if one.model == model], suffix)
        return charts

    few = [one for one in few if not one.split_of]  # the mean over its splits stands for a set
    encoders, confidence = [name for name, _ in config.encoders], config.confidence
    return Figures(
        compute=paper_figures.compute(zero, gflops, averages),
        prompts=[*average_figures.prompts(zero, gflops), *each(paper_figures.prompts, zero)],
        probe=[
            *average_figures.probes_over_compute(probe, gflops, encoders, confidence),
            *average_figures.against_imagenet(probe, encoders),
            *average_figures.set_by_set(probe, encoders, confidence),
            *average_figures.against_encoders(zero, probe, encoders, confidence),
            *each(paper_figures.probe, probe),
        ],
        few=[*average_figures.few_shot(few, confidence), *each(paper_figures.few_shot, few)],
        shifts=each(paper_figures.robustness, shifted),
        compare=each(paper_figures.compare, zero),
        labels=each(paper_figures.labels, by_task.get("bias", [])),
    )


def metric_name(name: str) -> str:
    """Return a metric in words."""
    if name in METRIC_NAMES:
        return METRIC_NAMES[name]
    if name.endswith("_shot"):
        main, count, _ = name.rsplit("_", 2)
        return f"{METRIC_NAMES.get(main, main)}, {count} shots"
    return name.replace("_", " ")


def main_name(result: Result) -> str:
    """Return a result's main metric in words, with the real count of shots that some classes have not."""
    name, curve = metric_name(result.main), result.detail.get("curve")
    short = curve and curve[-1]["per_class"] < curve[-1]["shots"]
    return f"{name} ({curve[-1]['per_class']:.3g} per class)" if curve and short else name


def _percent(value: float | None) -> str:
    return "–" if value is None or not np.isfinite(value) else percent(value)


def _points(value: float | None) -> str:
    return "–" if value is None or not np.isfinite(value) else points(value)


def _value(value: float | None) -> str:
    return "–" if value is None or not np.isfinite(value) else f"{value:.3f}"


def _shots(detail: dict[str, Any]) -> str:
    """Return the shots that zero-shot is worth, a bound where the curve does not reach it or starts above."""
    if "zero_shot" not in detail:
        return "–"
    curve, needed = detail["curve"], detail["shots_to_match"]
    if needed is None:
        return f"> {curve[-1]['shots']}"
    below = curve[0]["mean"] >= detail["zero_shot"]
    return f"≤ {curve[0]['shots']}" if below else f"{needed:.2g}"
