"""Figures of averages over sets, and of one encoder against another: 4 to 6 and 10 to 12 of the paper."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from tests.test_eval_parts import drawn
from train.evaluation import average_figures, confusion
from train.evaluation.charts import Chart
from train.evaluation.results import Result

GFLOPS = {"small": 0.3, "large": 30.0, "resnet50": 8.2, "effnet": 0.8}
MODELS, ENCODERS = ("small", "large"), ("resnet50", "effnet")


def result(model: str, dataset: str, task: str, value: float, **detail: object) -> Result:
    spread = np.random.default_rng(len(model)).normal(0, 0.01, 50)
    return Result(dataset=dataset, model=model, task=task, metrics={"acc1": value}, detail=detail,
                  replicates=value + spread, examples=dataset)  # fmt: skip


def titles(chart: Chart) -> list[str]:
    return drawn(chart)[1]


def test_prompts_gain_over_compute() -> None:
    """Figure 4: two curves, each the average over the sets that all models have."""
    scores = {"small": {"a": (0.2, 0.3), "b": (0.4, 0.44), "only": (0.9, 0.9)},
              "large": {"a": (0.5, 0.6), "b": (0.6, 0.7)}}  # fmt: skip
    zero = [
        result(model, name, "zeroshot", with_prompts,
               prompts={"class_name": bare, "ensemble": with_prompts, "gain_ensemble": with_prompts - bare})
        for model, own in scores.items() for name, (bare, with_prompts) in own.items()
    ]  # fmt: skip
    (chart,) = average_figures.prompts(zero, GFLOPS)
    assert titles(chart) == [
        "small, bare class names: 30.0% at 0.3 GFLOPs", "large, bare class names: 55.0% at 30 GFLOPs",
        "small, prompts and their ensemble: 37.0% at 0.3 GFLOPs",
        "large, prompts and their ensemble: 65.0% at 30 GFLOPs",
    ]  # fmt: skip
    assert "2 sets" in chart.note and "+8.50 points" in chart.note
    assert average_figures.prompts([one for one in zero if one.model == "small"], GFLOPS) == []


def test_zero_shot_against_another_encoders_probe() -> None:
    """Figure 5: the difference by set, and who is ahead."""
    zero = [result("small", name, "zeroshot", value) for name, value in (("a", 0.7), ("b", 0.4), ("c", 0.9))]
    probes = [result("resnet50", name, "linear-probe", value) for name, value in (("a", 0.6), ("b", 0.55))]
    (chart,) = average_figures.against_encoders(zero, probes, ["resnet50"], 0.95)
    assert titles(chart) == ["a: +10.00", "b: -15.00"] and "Ahead on 1 of 2 sets" in chart.note
    assert average_figures.against_encoders(zero, probes, ["effnet"], 0.95) == []


def test_differences_are_paired_where_the_examples_are_the_same() -> None:
    random = np.random.default_rng(0)
    common = random.normal(0, 0.05, 1000)
    first, second = (
        Result(dataset="a", model="m", task="t", metrics={"acc1": value}, replicates=value + common,
               examples="these")
        for value in (0.6, 0.5)
    )  # fmt: skip
    low, high = average_figures.difference(first, second, 0.95)
    assert (low, high) == pytest.approx((0.1, 0.1))
    others = Result(dataset="a", model="m", task="t", metrics={"acc1": 0.5}, replicates=0.5 + common,
                    examples="others")  # fmt: skip
    low, high = average_figures.difference(first, others, 0.95)
    assert high - low == pytest.approx(2 * 1.96 * 0.05 * np.sqrt(2), rel=0.15)


def test_few_shot_curves_are_averaged_over_sets() -> None:
    """Figure 6: a curve for each encoder; zero-shot is a star where the model has text."""
    draws = {("small", "a"): [[0.3, 0.4], [0.6, 0.7]], ("small", "b"): [[0.5, 0.4], [0.8, 0.9]],
             ("resnet50", "a"): [[0.2, 0.2], [0.5, 0.5]],
             ("resnet50", "b"): [[0.2, 0.2], [0.7, 0.7]]}  # fmt: skip
    few = [
        Result(dataset=name, model=model, task="few-shot", metrics={},
               detail={"curve": [{"shots": 1, "draws": both[0]}, {"shots": 4, "draws": both[1]}]}
               | ({"zero_shot": 0.5} if model == "small" else {}))
        for (model, name), both in draws.items()
    ]  # fmt: skip
    (chart,) = average_figures.few_shot(few, 0.95)
    assert sorted(titles(chart)) == [
        "resnet50, 1 shots: 20.0%", "resnet50, 4 shots: 60.0%", "small, 1 shots: 40.0%",
        "small, 4 shots: 75.0%",
        "small, zero-shot: 50.0%",
    ]  # fmt: skip
    assert [name for _, name in chart.legend] == ["small", "resnet50"]
    assert average_figures.few_shot([one for one in few if one.dataset == "a"], 0.95) == []


PROBES = [
    result(model, name, "linear-probe", value)
    for name, values in {"food101": (0.6, 0.8, 0.7, 0.5), "cifar10": (0.8, 0.9, 0.85, 0.75),
                         "eurosat": (0.9, 0.95, 0.9, 0.9), "imagenet": (0.5, 0.7, 0.75, 0.65)}.items()
    for model, value in zip((*MODELS, *ENCODERS), values, strict=True)
]  # fmt: skip


def test_probes_over_compute_have_the_12_sets_and_all() -> None:
    """Figure 10: models are one line, other encoders another."""
    twelve, every = average_figures.probes_over_compute(PROBES, GFLOPS, ENCODERS, 0.95)
    assert titles(twelve) == [
        "small: 70.0% at 0.3 GFLOPs", "large: 85.0% at 30 GFLOPs",
        "effnet: 62.5% at 0.8 GFLOPs", "resnet50: 77.5% at 8.2 GFLOPs",
    ]  # fmt: skip
    assert "over 2 of the 12 sets" in twelve.note and "over 4 sets" in every.note
    assert [name for _, name in every.legend] == ["models", "other encoders"]
    marks = [g for g in ET.fromstring(every.svg).iter("g") if g.find("title") is not None]
    small, large = (float(next(g.iter("use")).get("x")) for g in marks[:2])
    assert small < large
    unknown = {name: value for name, value in GFLOPS.items() if name == "small"}
    assert average_figures.probes_over_compute(PROBES, unknown, ENCODERS, 0.95) == []


def test_the_best_model_is_set_beside_the_best_other_encoder() -> None:
    """Figure 11: large, and resnet50, have the highest averages."""
    (chart,) = average_figures.set_by_set(PROBES, ENCODERS, 0.95)
    assert chart.title == "Linear probe of large minus that of resnet50"
    assert titles(chart) == ["food101: +10.00", "cifar10: +5.00", "eurosat: +5.00", "imagenet: -5.00"]
    assert average_figures.set_by_set(PROBES, (), 0.95) == []


def test_transfer_is_shown_over_imagenet() -> None:
    """Figure 12: the average over the other sets, over the probe on ImageNet itself."""
    (chart,) = average_figures.against_imagenet(PROBES, ENCODERS)
    assert "large: 88.3% on average, 70.0% on ImageNet" in titles(chart)
    assert [name for _, name in chart.legend] == ["models", "other encoders"] and "3 other sets" in chart.note
    assert average_figures.against_imagenet([p for p in PROBES if p.dataset != "imagenet"], ENCODERS) == []


def test_accuracy_by_class_and_what_each_is_taken_for() -> None:
    truth = np.eye(3, dtype=bool)[[0, 0, 0, 1, 2]]
    logits = np.eye(3)[[0, 1, 1, 1, 0]]
    found = confusion.by_class(truth, logits, ["cat", "dog", "owl"])
    assert found["chance"] == 3 / 5 and found["matrix"] == [[1, 2, 0], [0, 1, 0], [1, 0, 0]]
    assert [(row["name"], row["accuracy"], row["taken_for"], row["mistakes"]) for row in found["rows"]] == [
        ("owl", 0.0, "cat", 1), ("cat", pytest.approx(1 / 3), "dog", 2), ("dog", 1.0, "", 0)
    ]  # fmt: skip
    assert found["shades"][0] == [2, 4, 0]
    assert confusion.by_class(np.ones((2, 3), bool), logits[:2], ["a", "b", "c"]) == {}
