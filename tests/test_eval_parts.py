"""Prompts, classes, retrieval, class maps, effective robustness, corruptions, bias rates, comparisons."""

import io
import json
import tarfile
import xml.etree.ElementTree as ET
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipeline.data import evalsets
from tests import train_shards
from train.evaluation import (
    averages,
    bias,
    charts,
    classes,
    compare,
    corruptions,
    paper_figures,
    prompts,
    retrieval,
    robustness,
)
from train.evaluation.options import LEVELS, Corruption
from train.evaluation.results import Result

# ---- prompts and classes


def test_braces_in_a_name_are_text():
    assert prompts.fill("a {}.", "{brace} {}") == "a {brace} {}."


def test_prompt_files(tmp_path):
    (tmp_path / "p.txt").write_text("# mine\na {}!\n\nthe {}\n")
    assert prompts.read(str(tmp_path / "p.txt")) == prompts.Prompts("a {}!", ("a {}!", "the {}"))
    (tmp_path / "p.txt").write_text("a thing")
    with pytest.raises(ValueError, match="has no"):
        prompts.read(str(tmp_path / "p.txt"))


def test_class_files(tmp_path):
    path = tmp_path / "c.txt"
    path.write_text("n01\tsea horse\nn02\tcrane bird\n")
    assert classes.of("s", ["n02", "n01"], str(path))[:2] == (["n01", "n02"], ["sea horse", "crane bird"])
    path.write_text("sea_horse\ncrane\n")
    assert classes.of("s", ["1", "0"], str(path))[:2] == (["0", "1"], ["sea horse", "crane"]), (
        "numbers are lines"
    )
    assert classes.of("s", ["crane"], str(path)).labels == ["sea_horse", "crane"]
    assert classes.of("s", [], str(path)).names == ["sea horse", "crane"]
    with pytest.raises(ValueError, match="does not name 'dog'"):
        classes.of("s", ["dog", "crane"], str(path))
    path.write_text("a\tx\nb\n")
    with pytest.raises(ValueError, match="1 of 2 lines"):
        classes.of("s", [], str(path))
    with pytest.raises(ValueError, match="--classes"):
        classes.of("s", ["", ""], "")


def test_numbers_are_in_order_of_size_and_several_classes_are_split():
    assert classes.of("s", ["10", "9", "1"], "").labels == ["1", "9", "10"]
    assert classes.of("s", ["dog|cat", "cat"], "", several=True).labels == ["cat", "dog"]
    table = classes.truth(["dog|cat", "", "cat"], ["cat", "dog"], several=True)
    assert table.tolist() == [[True, True], [False, False], [True, False]]


# ---- retrieval


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 9))
def test_ranks_are_those_of_a_full_sort(seed, chunk):
    random = np.random.default_rng(seed)
    owner = random.permutation(np.concatenate([np.arange(12), random.integers(12, size=20)]))
    images, texts = random.normal(size=(12, 4)), random.normal(size=(32, 4))
    found = retrieval.ranks(*map(torch.from_numpy, (images, texts, owner)), chunk)
    similar = images @ texts.T
    for image in range(12):
        order = np.argsort(-similar[image])
        assert found[0][image] == np.flatnonzero(owner[order] == image)[0]
    for text in range(32):
        order = np.argsort(-similar[:, text])
        assert found[1][text] == np.flatnonzero(order == owner[text])[0]


def test_a_tie_is_no_success_and_an_image_needs_a_caption():
    same = torch.ones(4, 2)
    ranks = retrieval.ranks(same, same, torch.arange(4))
    assert ranks[0].tolist() == ranks[1].tolist() == [3] * 4
    with pytest.raises(ValueError, match="needs a caption"):
        retrieval.ranks(same, same, torch.tensor([0, 1, 2, 2]))


def test_several_captions_are_read_from_each_form(tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for name, data in (("1.jpg", b"J"), ("1.txt", b"one\ntwo\n"), ("2.jpg", b"J"),
                           ("2.json", json.dumps({"captions": ["three", "four"]}).encode()),
                           ("3.jpg", b"J"), ("3.txt", b"five")):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    found = [example.captions for example in evalsets.read(str(tmp_path / "s.tar"))]
    assert found == [("one", "two"), ("three", "four"), ("five",)]
    table = pa.table({"image": [b"a", b"b"], "label": ["", ""], "caption": [["six", "seven"], []]})
    pq.write_table(table, tmp_path / "s.parquet")
    found = list(evalsets.read(str(tmp_path / "s.parquet")))
    assert [example.captions for example in found] == [("six", "seven"), ()]
    assert found[0].caption == "six"


# ---- robustness


def test_class_maps_pool_by_the_maximum(tmp_path):
    path = tmp_path / "map.tsv"
    path.write_text("tabby\tcat\nbeagle\tdog\npersian\tcat\n")
    found = robustness.read_class_map(str(path), ["beagle", "persian", "plane", "tabby"])
    assert found.classes == ["cat", "dog"] and found.target.tolist() == [1, 0, -1, 0]
    scores = np.array([[1.0, 2.0, 9.0, 3.0], [5.0, 4.0, 0.0, 1.0]])
    assert found.pool(scores).tolist() == [[3.0, 1.0], [4.0, 5.0]]
    assert found.mapped(scores).tolist() == [[3.0, 1.0, 9.0], [4.0, 5.0, 0.0]]
    for text, message in (
        ("tabby\tcat\nlion\tcat\n", "line 2: 'lion'"), ("tabby cat\n", "expected a source"),
        ("tabby\tcat\ntabby\tdog\n", "twice"), ("tabby\tcat\n", "two classes"),
    ):  # fmt: skip
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            robustness.read_class_map(str(path), ["tabby", "beagle"])


def test_a_subset_of_the_sources_classes_needs_no_map():
    found = robustness.same_classes(["b", "c", ""], ["a", "b", "c"], "s")
    assert found.classes == ["b", "c"] and found.target.tolist() == [-1, 0, 1]
    with pytest.raises(ValueError, match="--class-map s=FILE"):
        robustness.same_classes(["z", "a"], ["a", "b"], "s")


def test_effective_robustness_is_the_residual_to_a_line_in_logit_space(tmp_path):
    random = np.random.default_rng(0)
    source = random.uniform(0.3, 0.9, 12)
    shifted = 1 / (1 + np.exp(-(0.9 * np.log(source / (1 - source)) - 0.6 + 0.05 * random.normal(size=12))))
    path = tmp_path / "b.csv"
    rows = [f"m{n},{a:.6f},{b:.6f}" for n, (a, b) in enumerate(zip(source, shifted, strict=True))]
    path.write_text("\n".join(["model,src,new", *rows, "half,0.5,"]) + "\n")
    line = robustness.fit_line(robustness.read_baseline(str(path)), "src", "new")
    x, y = (robustness.logit(np.round(part, 6)) for part in (source, shifted))
    expected = stats.linregress(x, y)
    assert (line.slope, line.offset, line.r) == pytest.approx(
        (expected.slope, expected.intercept, expected.rvalue), abs=1e-9
    )
    assert line.models == 12
    found = robustness.effective(line, (700, 1000), (650, 1000), 0.95, 0)
    assert found["value"] == pytest.approx(0.65 - float(line.predict(0.7)), abs=1e-12)
    assert found["low"] < found["value"] < found["high"]
    # The line's own accuracy has none.
    assert robustness.effective(line, (700, 1000), (round(1000 * float(line.predict(0.7))), 1000), 0.95, 0)[
        "value"
    ] == pytest.approx(0, abs=5e-4)
    assert robustness.fit_line({"a": {"x": 0.5, "y": 0.4}}, "x", "y") is None
    path.write_text("model,src\nm,55\n")
    with pytest.raises(ValueError, match="divide percents"):
        robustness.read_baseline(str(path))


@pytest.mark.parametrize("kind", Corruption.__args__)
@pytest.mark.parametrize("size", [32, 96])
def test_corruptions_grow_with_the_level_and_repeat(kind, size):
    from train.image_transforms import evaluation_image

    files = [train_shards.jpeg(colour, 120, 110, seed=4) for colour in train_shards.COLOURS]
    base = np.stack([evaluation_image(file, size) for file in files])
    ramp = np.linspace(0, 200, size, dtype=np.uint8)[None, None, :, None] // 2
    pictures = (base // 2 + ramp).astype(np.uint8)
    losses = []
    for level in LEVELS:
        made = np.stack([corruptions.corrupt(p, kind, level, 0, str(n)) for n, p in enumerate(pictures)])
        assert made.shape == pictures.shape and made.dtype == np.uint8
        losses.append(float(((made.astype(float) - pictures) ** 2).mean()))
    assert all(low < 1.02 * high for low, high in pairwise(losses)), losses
    assert losses[-1] > 1.3 * losses[0] > 0, losses
    one = corruptions.corrupt(pictures[0], kind, 3, 0, "a")
    assert (one == corruptions.corrupt(pictures[0], kind, 3, 0, "a")).all()
    if kind in ("noise", "fog", "snow"):
        assert (one != corruptions.corrupt(pictures[0], kind, 3, 1, "a")).any()
        assert (one != corruptions.corrupt(pictures[0], kind, 3, 0, "b")).any()
    with pytest.raises(ValueError, match="levels"):
        corruptions.corrupt(pictures[0], kind, 6, 0, "a")


# ---- bias and comparisons


def test_rates_by_group_and_their_intervals():
    correct = np.array([True, False, False, True, True])
    groups = ["b", "a", "a", "a", "b"]
    found = bias.error_rates(correct, groups, 0.95)
    assert [(row["group"], row["examples"], row["error"]) for row in found] == [
        ("a", 3, 2 / 3),
        ("b", 2, 0.0),
    ]
    expected = stats.binomtest(2, 3).proportion_ci(0.95, method="exact")
    assert (found[0]["low"], found[0]["high"]) == pytest.approx(tuple(expected))
    rates = bias.assignment_rates(np.array([0, 1, 1, 0, 0]), ["doctor", "nurse"], groups, 0.95)
    assert [(row["class"], [rate["rate"] for rate in row["rates"]]) for row in rates] == [
        ("doctor", [pytest.approx(1 / 3), 1.0]), ("nurse", [pytest.approx(2 / 3), 0.0])
    ]  # fmt: skip


def test_other_predictions_find_their_set(tmp_path):
    labels = {"one": {"a/1": "a", "b/1": "b"}, "two": {"x/1": "x", "a/1": "a"}}
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"example_id": ["b/1", "zzz"], "prediction": ["b", "b"]}), path)
    assert compare.read(str(path), labels) == {"one": {"b/1": 1.0}}
    pq.write_table(pa.table({"example_id": ["a/1"], "correct": [False]}), path)
    with pytest.raises(ValueError, match="add a column dataset"):
        compare.read(str(path), labels)
    pq.write_table(pa.table({"example_id": ["a/1"], "correct": [False], "dataset": ["two"]}), path)
    assert compare.read(str(path), labels) == {"two": {"a/1": 0.0}}
    pq.write_table(pa.table({"example_id": ["q"], "correct": [False]}), path)
    with pytest.raises(ValueError, match="no example"):
        compare.read(str(path), labels)


def test_difficulty_by_class_is_correlated():
    random = np.random.default_rng(0)
    labels = [str(number) for number in range(6) for _ in range(200)]
    hard = np.repeat(np.linspace(0.2, 0.9, 6), 200)
    ours, theirs = random.random(1200) < hard, random.random(1200) < np.sqrt(hard)
    found = compare.beside(ours, theirs, labels, 0.95, 0)
    by_class = [side.reshape(6, 200).mean(axis=1) for side in (ours, theirs)]
    assert found["pearson"] == pytest.approx(stats.pearsonr(*by_class).statistic)
    assert found["spearman"] == pytest.approx(stats.spearmanr(*by_class).statistic)
    low, high = found["difference_interval"]
    assert low < found["difference"] < high and found["difference"] == ours.mean() - theirs.mean()


# ---- figures


def drawn(chart: charts.Chart) -> tuple[list[str], list[str]]:
    """Return the texts of a chart, and those that a mouse finds at its marks."""
    root = ET.fromstring(chart.svg)
    return [one.text for one in root.iter("text")], [one.text for one in root.iter("title")]


def test_bars_have_their_values_and_names_that_nothing_is_made_of():
    rows = [
        charts.BarRow("b $\\frac$", -0.2, None, float("nan")), charts.BarRow("a\0<i>", 0.1, 0.05, 0.2)
    ]  # fmt: skip
    texts, marks = drawn(charts.bars("t", "x", rows))
    assert marks == ["a[U+0000]<i>: +10.00", "b $\\frac$: -20.00"], "the largest first"
    assert {"a[U+0000]<i>", "b $\\frac$", "+10.00", "-20.00", "0", "x"} <= {*texts}
    assert charts.round_step(1.0) == 0.2 and charts.round_step(0.07) == 0.02


def test_labels_of_a_logit_axis_do_not_touch():
    marks = [charts.ChartPoint(0.02, 0.001, title="p"), charts.ChartPoint(0.249, 0.12)]
    chart = charts.scatter("t", "x", "y", marks, logits=True)
    texts, titles = drawn(chart)
    assert titles == ["p"] and len([text for text in texts if text.endswith("%")]) >= 6
    assert charts._apart([0.0, 0.5, 1.0, 1.4, 3.0], 1.0) == [0, 2, 4]


def test_zero_shot_against_probes_over_sets():
    zero, probe = [0.5, 0.7, 0.3, 0.9, 0.6], [0.6, 0.65, 0.5, 0.95, 0.55]
    rows = [
        Result(dataset=str(number), model="m", task="linear-probe", metrics={"acc1": b},
               detail={"zero_shot": a, "zero_shot_minus_probe": a - b, "difference_interval": (a - b, a - b)})
        for number, (a, b) in enumerate(zip(zero, probe, strict=True))
    ]  # fmt: skip
    (found,) = paper_figures.wins(rows, 0.9)
    assert (found.wins, found.sets) == (2, 5) and found.mean == pytest.approx(np.mean(zero) - np.mean(probe))
    expected = stats.pearsonr(zero, probe)
    assert found.r == pytest.approx(expected.statistic)
    assert found.r_interval == pytest.approx(tuple(expected.confidence_interval(0.9)))
    gaps, both = paper_figures.probe(rows, "")
    assert [title[0] for title in drawn(gaps)[1]] == ["1", "4", "3", "0", "2"], "the largest gain first"
    assert len(drawn(both)[1]) == 5 and "over 5 sets" in both.note


def test_error_over_compute_has_a_point_for_each_model():
    values = {"small": (0.25, 0.5), "medium": (2.5, 0.7), "large": (25.0, 0.9)}
    zero = [
        Result(dataset=name, model=model, task="zeroshot", metrics={"acc1": accuracy + shift},
               intervals={"acc1": (accuracy, accuracy)}, replicates=np.zeros(3))
        for model, (_, accuracy) in values.items() for name, shift in (("a", -0.05), ("b", 0.05))
    ]  # fmt: skip
    means = {(model, "zeroshot"): (accuracy, (accuracy - 0.02, accuracy + 0.01), 2)
             for model, (_, accuracy) in values.items()}  # fmt: skip
    gflops = {model: flops for model, (flops, _) in values.items()}
    (chart,) = paper_figures.compute(zero, gflops, means)
    dots = [g for g in ET.fromstring(chart.svg).iter("g") if g.find("title") is not None]
    assert next(g.find("title").text for g in dots) == "small: 50.0% at 0.25 GFLOPs"
    small, medium, large = ([float(next(g.iter("use")).get(one)) for one in "xy"] for g in dots)
    assert medium[0] - small[0] == pytest.approx(large[0] - medium[0], abs=0.2), "a decade is a decade"
    assert small[1] < medium[1] < large[1], "less error is further down"
    assert [name for _, name in chart.legend] == list(values)
    texts = drawn(chart)[0]
    assert [texts[0], "2" in texts, "20" in texts] == ["0.2", True, True]
    (alike,) = paper_figures.compute(zero, {"small": 0.022, "large": 0.022}, means)
    assert drawn(alike)[0][:2] == ["0.02", "0.05"], "two checkpoints of one model"
    assert paper_figures.compute(zero[:2], {"small": 0.25}, means) == [], "one model has no curve"


def test_averages_are_of_main_metrics_and_of_clip_benchmarks():
    def one(name, main, metrics, drawn):
        return Result(dataset=name, model="m", task="zeroshot", metrics=metrics, main=main,
                      replicates=np.array(drawn))  # fmt: skip

    found = averages.with_splits(
        [one("dtd-split1", "acc1", {"acc1": 0.5}, [0.4, 0.6]),
         one("dtd-split2", "acc1", {"acc1": 0.7}, [0.7, 0.7]),
         one("pets", "mean_per_class_recall", {"acc1": 0.8, "mean_per_class_recall": 0.6}, [0.6, 0.6, 0.6]),
         one("voc2007", "map11", {"map11": 0.5, "mean_average_precision": 0.4}, [0.5, 0.5])], 0.95,
    )  # fmt: skip
    assert [(row.dataset, row.split_of) for row in found] == [
        ("dtd-split1", "dtd"), ("dtd-split2", "dtd"), ("dtd", ""), ("pets", ""), ("voc2007", "")
    ]  # fmt: skip
    assert found[2].value == pytest.approx(0.6) and found[2].replicates.tolist() == pytest.approx(
        [0.55, 0.65]
    )
    [average] = averages.over_sets(found, 0.95).values()
    assert average.mean == pytest.approx((0.6 + 0.6 + 0.5) / 3) and average.sets == 3
    assert average.accuracy == pytest.approx((0.6 + 0.8 + 0.4) / 3)


def test_recall_is_clip_benchmarks():
    theirs = pytest.importorskip("clip_benchmark.metrics.zeroshot_retrieval")
    random = torch.Generator().manual_seed(0)
    images = torch.nn.functional.normalize(torch.randn(30, 8, generator=random), dim=1)
    owner = torch.tensor([image for image in range(30) for _ in range(1 + image % 4)])
    noise = 0.5 * torch.randn(len(owner), 8, generator=random)
    captions = torch.nn.functional.normalize(images[owner] + noise, dim=1)

    class AsGiven:
        encode_image = encode_text = staticmethod(lambda vectors: vectors)

    batches = [(images[at : at + 8], [list(captions[owner == image]) for image in range(at, min(at + 8, 30))])
               for at in range(0, 30, 8)]  # fmt: skip
    expected = theirs.evaluate(AsGiven(), batches, torch.stack, "cpu", amp=False, recall_k_list=[1, 5, 10])
    image_ranks, text_ranks = retrieval.ranks(images, captions, owner)
    for k in (1, 5, 10):
        assert (image_ranks < k).mean() == pytest.approx(expected[f"text_retrieval_recall@{k}"], abs=1e-6)
        assert (text_ranks < k).mean() == pytest.approx(expected[f"image_retrieval_recall@{k}"], abs=1e-6)
