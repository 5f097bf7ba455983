"""Sets that are known by name: metrics of the paper's table 9, prompts and class names as published."""

from pathlib import Path

import numpy as np
import pytest
import torch

import beam_job
from tests import eval_models, train_peers, train_shards
from tests.test_eval_cli import results
from train.evaluation import classes, known_sets, prompts
from train.evaluation.options import EvalConfig
from train.image_transforms import evaluation_image, normalise

pytestmark = pytest.mark.usefixtures("one_thread")


def config(*names: str) -> EvalConfig:
    data = tuple(f"{name}=/{name}" for name in names)
    return EvalConfig(task=("zeroshot",), checkpoint=("c",), data=data, out="o")


def test_the_main_metric_is_the_papers() -> None:
    wanted = {
        "Caltech-101": "mean_per_class_recall", "oxford_pets": "mean_per_class_recall",
        "flowers102_test": "mean_per_class_recall", "FGVC-Aircraft": "mean_per_class_recall",
        "hateful_memes": "roc_auc", "voc2007": "map11", "kinetics_700": "mean_top1_top5",
        "cifar10": "acc1", "imagenet": "acc1", "mine": "acc1", "carpets": "acc1",
    }  # fmt: skip
    found = config(*wanted)
    assert {name: found.main_metric(name) for name in wanted} == wanted
    assert (
        len([one for one in known_sets._KNOWN if one.title not in ("SVHN", "ImageNet's shifted sets")]) == 27
    )


def test_sets_are_known_by_their_whole_names() -> None:
    assert (
        known_sets.find("textures") is known_sets.find("Describable-Textures") is known_sets.find("dtd-val")
    )
    for name in ("carpets", "competition", "petrified", "transaction", "context", "text", "imagenet22k", ""):
        assert known_sets.find(name) is None and prompts.for_set(name) is prompts.GENERIC
    assert (
        prompts.are_digits("MNIST") and prompts.are_digits("svhn-test") and not prompts.are_digits("emnist2")
    )


def test_published_prompts_are_clip_benchmarks() -> None:
    pytest.importorskip("clip_benchmark")
    assert known_sets.source().startswith("clip-benchmark 1.")
    assert prompts.for_set("sst2").ensemble == ("a {} review of a movie.",)
    assert prompts.for_set("pets").ensemble == ("a photo of a {}, a type of pet.",)
    assert prompts.for_set("textures").single == "a photo of a {} texture."
    imagenet = prompts.for_set("imagenet")
    assert len(imagenet.ensemble) == 80 and imagenet.single == "a photo of a {}."
    assert prompts.for_set("imagenet-sketch") == imagenet
    open_clip = train_peers.open_clip()
    assert {p.replace("{}", "x") for p in imagenet.ensemble} == {
        template("x") for template in open_clip.OPENAI_IMAGENET_TEMPLATES
    }
    assert known_sets.published("imagenet").classes == tuple(open_clip.IMAGENET_CLASSNAMES)


def test_without_the_package_the_prompts_are_openwits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_sets, "_files", lambda: ({}, {}))
    assert known_sets.published("pets") is None and known_sets.source() == ""
    assert prompts.for_set("pets").single == "a photo of a {}, a type of pet."
    assert prompts.for_set("imagenet") is prompts.GENERIC
    assert known_sets.class_names("eurosat", ["a"] * 10) == ()
    titles = {known.title for known in known_sets._KNOWN}
    assert set(prompts._OWN) <= titles
    for found in (prompts.GENERIC, *prompts._OWN.values()):
        assert len(set(found.ensemble)) == len(found.ensemble)
        assert all(line.count("{}") == 1 for line in (found.single, *found.ensemble))


def test_labels_that_say_nothing_get_the_published_names() -> None:
    pytest.importorskip("clip_benchmark")
    codes = classes.of("i", [f"n{number:08d}" for number in range(1000)], "").labels
    assert known_sets.class_names("imagenet", codes)[:2] == ("tench", "goldfish")
    numbers = classes.of("f", [str(number) for number in range(1, 103)], "").labels
    assert known_sets.class_names("flowers", numbers)[0] == "pink primrose"
    assert known_sets.class_names("clevr", ["3", "4", "5", "6", "7", "8", "9", "10"])[-1] == "ten"
    assert known_sets.class_names("imagenet", codes[:-1]) == (), "which of them are missing is not known"
    assert known_sets.class_names("food101", ["apple_pie"] * 101) == ()


def top_shares(output: torch.Tensor, target: torch.Tensor, topk: tuple[int, ...]) -> list[float]:
    """Return what clip-benchmark's `accuracy` does, whose last step NumPy 2.4 refuses."""
    best = output.topk(max(topk), dim=1).indices == target[:, None]
    return [best[:, :count].any(dim=1).double().mean().item() for count in topk]


def test_a_known_set_scores_as_clip_benchmark_scores_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_clip = train_peers.open_clip()
    theirs = pytest.importorskip("clip_benchmark.metrics.zeroshot_classification")
    monkeypatch.setattr(theirs, "accuracy", top_shares)
    folder = tmp_path / "test"
    pictures, targets = [], []
    for number in range(10):
        (folder / f"{number}").mkdir(parents=True)
        for index in range(4 + number % 3):
            colour = eval_models.COLOURS[(number + index) % 4]
            data = train_shards.jpeg(colour, seed=100 * number + index)
            (folder / f"{number}" / f"{index}.jpg").write_bytes(data)
            pictures.append(normalise(torch.from_numpy(evaluation_image(data, 32)[None]))[0])
            targets.append(number)
    eval_models.export(tmp_path / "model", seed=3)
    for name in ("eurosat", "flowers102"):  # ten published names; and a set of another size keeps its labels
        out = tmp_path / name
        assert beam_job.main(
            ["eval", "--checkpoint", f"m={tmp_path / 'model'}", "--task", "zeroshot", "--out", str(out),
             "--data", f"{name}={folder}", "--workers", "1"]
        ) == 0  # fmt: skip
        published = known_sets.published(name)
        assert published is not None
        names = list(published.classes) if name == "eurosat" else [str(number) for number in range(10)]
        model = open_clip.create_model(f"local-dir:{tmp_path / 'model'}").eval()
        pairs = type("Named", (list,), {"classes": names})(zip(pictures, targets, strict=True))
        loader = torch.utils.data.DataLoader(pairs, batch_size=16)
        expected = theirs.evaluate(
            model, loader, open_clip.get_tokenizer(f"local-dir:{tmp_path / 'model'}"), names,
            [prompt.replace("{}", "{c}") for prompt in published.prompts], "cpu", amp=False,
        )  # fmt: skip
        row = results(out)[name, "m", "zeroshot"]
        for metric, value in expected.items():
            assert row["metrics"][metric] == pytest.approx(value, abs=1e-6), metric
        assert row["metrics"]["mean_per_class_recall"] > 0 and np.isfinite(row["metrics"]["acc5"])
