"""The paper's figures of averages over sets, and of one encoder against another: 4 to 6 and 10 to 12.

Models are compared over the sets that all of them were measured on. Another encoder is given by its features
(`--features`), a ResNet-50's for instance; its compute comes from `--gflops`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from pipeline.formats import count, percent
from pipeline.intervals import Interval
from train.evaluation import bootstrap, known_sets
from train.evaluation.averages import mean
from train.evaluation.charts import BarRow, Chart, ChartPoint, bars, curves, finite, over_compute, scatter
from train.evaluation.results import Result

TRANSFER: Final = frozenset({
    "Food101", "CIFAR-10", "CIFAR-100", "Birdsnap", "SUN397", "Stanford Cars", "FGVC Aircraft", "VOC2007",
    "DTD", "Oxford-IIIT Pets", "Caltech101", "Flowers102",
})  # fmt: skip
"""The 12 sets of Kornblith et al. (2019), by their titles in known_sets."""

ByModel = dict[str, dict[str, Result]]
"""Results by model and set."""


def shared(found: Sequence[Result], wanted: Callable[[str], bool] = lambda name: True) -> ByModel:
    """Return the results with a main metric, on the sets that every model has and that are `wanted`."""
    by_model: ByModel = {}
    for one in found:
        if finite(one.value) and one.replicates is not None and not one.split_of and wanted(one.dataset):
            by_model.setdefault(one.model, {})[one.dataset] = one
    common = set.intersection(*(set(own) for own in by_model.values())) if by_model else set()
    return {model: {name: own[name] for name in own if name in common} for model, own in by_model.items()
            if common}  # fmt: skip


def prompts(zero: Sequence[Result], gflops: Mapping[str, float]) -> list[Chart]:
    """Return figure 4: the average with and without prompts, over compute, for two models or more."""
    models = {model: own for model, own in shared([one for one in zero if "prompts" in one.detail]).items()
              if model in gflops}  # fmt: skip
    if len({gflops[model] for model in models}) < 2:
        return []
    sets = len(next(iter(models.values())))
    series = []
    kinds = (("bare class names", "class_name"), ("prompts and their ensemble", "ensemble"))
    for number, (label, kind) in enumerate(kinds):
        marks = []
        for model, own in sorted(models.items(), key=lambda pair: gflops[pair[0]]):
            value = math.fsum(one.detail["prompts"][kind] for one in own.values()) / sets
            title = f"{model}, {label}: {percent(value)} at {gflops[model]:.3g} GFLOPs"
            marks.append(ChartPoint(gflops[model], value, None, None, number, "dot", title))
        series.append((label, marks))
    gains = [[one.detail["prompts"]["gain_ensemble"] for one in own.values()] for own in models.values()]
    gain = f"{100 * float(np.mean(gains)):+.2f} points"
    note = f"Averages over {count(sets, 'set')}. Prompts gain {gain} over sets and models (figure 4)."
    return [over_compute("Gain of prompts over compute", "average score", series, note=note)]


def against_encoders(
    zero: Sequence[Result], probes: Sequence[Result], encoders: Sequence[str], confidence: float
) -> list[Chart]:
    """Return figure 5: zero-shot minus a probe on each other encoder's features, by set."""
    charts = []
    for model in dict.fromkeys(one.model for one in zero):
        for encoder in encoders:
            ours = {one.dataset: one for one in zero if one.model == model}
            theirs = {one.dataset: one for one in probes if one.model == encoder}
            title = f"Zero-shot of {model} minus a linear probe on {encoder}"
            charts += _differences(title, ours, theirs, confidence)
    return charts


def set_by_set(probes: Sequence[Result], encoders: Sequence[str], confidence: float) -> list[Chart]:
    """Return figure 11: the probe of the best model minus that of the best other encoder, by set.

    The best has the highest average over the sets that all of them have.
    """
    models = shared(probes)

    def best(names: Sequence[str]) -> str:
        return max(names, key=lambda name: math.fsum(one.value for one in models[name].values()))

    ours, theirs = ([name for name in models if (name in encoders) is other] for other in (False, True))
    if not ours or not theirs:
        return []
    own, other = best(ours), best(theirs)
    title = f"Linear probe of {own} minus that of {other}"
    return _differences(title, models[own], models[other], confidence)


def _differences(
    title: str, ours: Mapping[str, Result], theirs: Mapping[str, Result], confidence: float
) -> list[Chart]:
    both = [
        name for name in ours if name in theirs and finite(ours[name].value) and finite(theirs[name].value)
    ]
    if not both:
        return []
    rows = [
        BarRow(name, ours[name].value - theirs[name].value, *difference(ours[name], theirs[name], confidence))
        for name in both
    ]
    ahead = sum(row.value > 0 for row in rows)
    average = math.fsum(row.value for row in rows) / len(rows)
    note = f"Ahead on {ahead} of {count(len(rows), 'set')}; {100 * average:+.2f} points on average."
    return [bars(title, "points", rows, note=note)]


def difference(ours: Result, theirs: Result, confidence: float) -> Interval:
    """Return the interval of a difference of main metrics: paired where both are of the same examples."""
    if ours.replicates is None or theirs.replicates is None:
        return Interval(math.nan, math.nan)
    common = min(len(ours.replicates), len(theirs.replicates))
    # Resamples follow from the seed and the number of examples: for other examples the pairs mean nothing.
    own = ours.examples and ours.examples == theirs.examples
    other = theirs.replicates[:common] if own else np.roll(theirs.replicates[:common], 1)
    return bootstrap.percentile(np.asarray(ours.replicates[:common] - other), confidence)


def few_shot(few: Sequence[Result], confidence: float) -> list[Chart]:
    """Return figure 6: the average over sets by shots, a curve for each encoder, for two sets or more."""
    by_model: dict[str, dict[str, Result]] = {}
    for one in few:
        by_model.setdefault(one.model, {})[one.dataset] = one
    common = set.intersection(*(set(own) for own in by_model.values())) if by_model else set()
    if len(common) < 2:
        return []
    own = [one for one in few if one.dataset in common]
    shots = sorted(set.intersection(*({row["shots"] for row in one.detail["curve"]} for one in own)))
    if not shots:
        return []
    zero, series, stars = min(shots) / 2, [], []
    for number, (model, results) in enumerate(by_model.items()):
        sets = [results[name] for name in sorted(common)]
        marks = []
        for some in shots:
            draws = np.mean([_row(one, some)["draws"] for one in sets], axis=0)
            low, high = bootstrap.of_mean(draws.tolist(), confidence)
            title = f"{model}, {some} shots: {percent(float(draws.mean()))}"
            marks.append(ChartPoint(some, float(draws.mean()), low, high, number, "dot", title))
        series.append((model, marks))
        if all("zero_shot" in one.detail for one in sets):
            value = math.fsum(one.detail["zero_shot"] for one in sets) / len(sets)
            stars.append(ChartPoint(zero, value, None, None, number, "star",
                                    f"{model}, zero-shot: {percent(value)}"))  # fmt: skip
    ticks = [(zero, "0")] * bool(stars) + [(float(some), str(some)) for some in shots]
    note = f"Averages over {len(common)} sets. Bars: Student's t over draws. Stars: zero-shot (figure 6)."
    return [curves("Few-shot probes on average", "labelled examples of a class", "average score", series,
                   ticks, log=True, extra=stars, note=note)]  # fmt: skip


def _row(one: Result, shots: int) -> dict[str, list[float]]:
    row: dict[str, list[float]] = next(row for row in one.detail["curve"] if row["shots"] == shots)
    return row


def probes_over_compute(
    probes: Sequence[Result], gflops: Mapping[str, float], encoders: Sequence[str], confidence: float
) -> list[Chart]:
    """Return figure 10: the average of linear probes over compute; over the 12 sets of Kornblith et al. too.

    The models are one series, the other encoders another, those of unknown compute left out.
    """
    measured = [one for one in probes if one.model in gflops]
    charts = []
    for what, wanted in (("the 12 sets of Kornblith et al.", _is_transfer), ("all sets", lambda name: True)):
        models = shared(measured, wanted)
        every = shared(measured)
        if len(models) < 2 or (wanted is _is_transfer and _sets(models) == _sets(every)):
            continue
        series = []
        for number, (label, names) in enumerate(
            (("models", [m for m in models if m not in encoders]), ("other encoders", list(encoders)))
        ):
            marks = []
            for model in sorted((m for m in names if m in models), key=lambda name: gflops[name]):
                results = list(models[model].values())
                value, (low, high) = mean(
                    [one.value for one in results],
                    [one.replicates for one in results if one.replicates is not None], confidence,
                )  # fmt: skip
                title = f"{model}: {percent(value)} at {gflops[model]:.3g} GFLOPs"
                marks.append(ChartPoint(gflops[model], value, low, high, number, "dot", title))
            series.append((label, marks))
        some = (
            f"{len(_sets(models))} of {what}" if wanted is _is_transfer else count(len(_sets(models)), "set")
        )
        note = f"Averages over {some} (figure 10)."
        charts.append(over_compute(f"Linear probes over compute, {what}", "average score", series, note=note))
    return charts


def _is_transfer(name: str) -> bool:
    return _title(name) in TRANSFER


def _title(name: str) -> str:
    known = known_sets.find(name)
    return known.title if known else ""


def _sets(models: ByModel) -> set[str]:
    return {name for own in models.values() for name in own}


def against_imagenet(probes: Sequence[Result], encoders: Sequence[str]) -> list[Chart]:
    """Return figure 12: the average of linear probes over the other sets, over the probe on ImageNet."""
    models = shared(probes)
    imagenet = [name for name in _sets(models) if _title(name) == "ImageNet"]
    if len(models) < 2 or len(imagenet) != 1 or len(_sets(models)) < 2:
        return []
    marks = []
    for model, own in models.items():
        others = [one.value for name, one in own.items() if name != imagenet[0]]
        value, source = math.fsum(others) / len(others), own[imagenet[0]].value
        title = f"{model}: {percent(value)} on average, {percent(source)} on ImageNet"
        marks.append(ChartPoint(source, value, series=int(model in encoders), title=title))
    note = f"Averages over {count(len(_sets(models)) - 1, 'other set')} (figure 12)."
    legend = [(0, "models"), (1, "other encoders")] if any(m.series for m in marks) else []
    return [scatter("Linear probes over ImageNet's", "probe on ImageNet", "average score", marks, note=note,
                    legend=legend)]  # fmt: skip
