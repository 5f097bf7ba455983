"""Sets that are known by name: metrics of the paper's table 9, prompts and class names as published."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import beam_job
from tests import eval_models, train_peers, train_shards
from tests.test_eval_cli import results
from train.evaluation import classes, known_sets, prompts, texts
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
    monkeypatch.setattr(known_sets, "_files", lambda language: ({}, {}))
    known_sets._of_synsets.cache_clear()
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
    known_sets._of_synsets.cache_clear()
    numbers = classes.of("f", [str(number) for number in range(1, 103)], "").labels
    assert known_sets.class_names("flowers", numbers)[0] == "pink primrose"
    assert known_sets.class_names("flowers", [f"name {number}" for number in range(102)]) == ()
    assert known_sets.class_names("clevr", ["3", "4", "5", "6", "7", "8", "9", "10"])[-1] == "ten"
    thousand = [str(number) for number in range(1000)]
    assert known_sets.class_names("imagenet-v2", thousand)[:2] == ("tench", "goldfish")
    assert known_sets.class_names("imagenet", thousand[:-1]) == (), "which of them are missing is not known"
    assert known_sets.class_names("food101", ["apple_pie"] * 101) == ()
    emotions = ["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"]
    assert known_sets.class_names("fer2013", emotions)[1] == "disgusted"
    assert known_sets.class_names("fer2013", [str(number) for number in range(7)]) == (), "Kaggle's order"
    caltech = ["Faces", "Faces_easy", "Leopards", "Motorbikes", *(f"x{'y' * n}" for n in range(97))]
    assert known_sets.class_names("caltech101", caltech)[:3] == (
        "off-center face",
        "centered face",
        "leopard",
    )


def test_wordnets_ids_become_imagenets_names() -> None:
    """As open_clip's names, which are in the order of the ids, for the whole, subsets and shifted sets."""
    pytest.importorskip("clip_benchmark")
    known_sets._of_synsets.cache_clear()
    names = train_peers.open_clip().IMAGENET_CLASSNAMES
    assert known_sets.class_names("whatever", sorted(known_sets._of_synsets("en"))) == tuple(names)
    found = classes.of("imagenette", ["n03888257", "n01440764"], "")
    assert found.names == ["tench", "parachute"]
    assert not classes.warning_of_codes("imagenette", found, "a photo of a {}.")
    by_number = classes.of("s", ["1"], "", numbered=("n01440764", "n01443537"))
    assert by_number.names == ["tench", "goldfish"]
    italian = classes.of("imagenette", ["n03888257", "n01440764"], "", language="it")
    assert italian.names == ["una tinca", "un paracadute"]
    assert prompts.for_set("imagenet", "it").ensemble[0] != prompts.for_set("imagenet").ensemble[0]
    with pytest.raises(ValueError, match="no prompts in it for pets; give --templates and --classes"):
        prompts.for_set("pets", "it")
    strange = classes.of("s", ["n00000001", "n01440764"], "")
    said = classes.warning_of_codes("s", strange, "a photo of a {}.")
    assert "prompts say 'a photo of a n00000001.'; name them" in said


def test_several_names_of_a_class_are_averaged(tmp_path: Path) -> None:
    """FER2013's notebook: the mean over all names' prompts, made a unit vector."""
    path = tmp_path / "fer.txt"
    path.write_text("3\thappy\n3\tsmiling\n4\tsad\n")
    found = classes.read(str(path), ["3", "4"])
    assert found.labels == ["3", "4"] and found.names == ["happy", "sad"]
    assert found.spellings == [("happy", "smiling"), ("sad",)]
    model, tokenizer, device = eval_models.model(), eval_models.tokenizer(), torch.device("cpu")
    texts.encode_texts(model, tokenizer, ["a"], device)
    templates = ("a photo of {}", "{} paint")
    both = texts.class_embeddings(model, tokenizer, found.spellings, templates, device)
    each = texts.encode_texts(
        model, tokenizer, [t.replace("{}", n) for n in ("happy", "smiling") for t in templates], device
    )
    mean = each.mean(dim=0)
    torch.testing.assert_close(both[0], mean / mean.norm())
    path.write_text("3\thappy\n3\thappy\n")
    with pytest.raises(ValueError, match="holds '3' twice with the name 'happy'"):
        classes.read(str(path), ["3"])


def top_shares(output: torch.Tensor, target: torch.Tensor, topk: tuple[int, ...]) -> list[float]:
    """Return the result of clip-benchmark's `accuracy`, whose last step NumPy 2.4 refuses."""
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


def several_colours(path: Path, count: int, seed: int) -> list[list[str]]:
    """Write pictures of one colour each whose labels hold one to three, as VOC2007's do."""
    random = np.random.default_rng(seed)
    labels = []
    for number in range(count):
        first = eval_models.COLOURS[number % 4]
        others = [one for one in eval_models.COLOURS if one != first and random.random() < 0.4]
        labels.append([first, *others[:2]])
    images = [train_shards.jpeg(own[0], seed=seed + number) for number, own in enumerate(labels)]
    pq.write_table(pa.table({"image": images, "label": labels}), path)
    return labels


def test_sets_of_several_classes_and_of_several_splits(tmp_path: Path) -> None:
    """VOC2007's shape through zero-shot, probe and few-shot; UCF101's splits averaged."""
    open_clip = train_peers.open_clip()
    theirs = pytest.importorskip("clip_benchmark.metrics.zeroshot_classification")
    labels = several_colours(tmp_path / "test.parquet", 24, 0)
    several_colours(tmp_path / "train.parquet", 40, 100)
    for split in (1, 2):
        eval_models.colours(tmp_path / f"test-{split}", 2, first=10 * split)
        eval_models.colours(tmp_path / f"train-{split}", 3, first=1000 * split)
    eval_models.export(tmp_path / "model", seed=3)
    sets = {"voc2007": "{}.parquet", "ucf101-split1": "{}-1", "ucf101-split2": "{}-2"}
    assert beam_job.main(
        ["eval", "--checkpoint", f"m={tmp_path / 'model'}", "--out", str(tmp_path / "out"), "--workers", "1",
         *(part for task in ("zeroshot", "linear-probe", "few-shot") for part in ("--task", task)),
         *(part for name, path in sets.items() for option, split in (("--data", "test"), ("--train", "train"))
           for part in (option, f"{name}={tmp_path / path.format(split)}")),
         "--shots", "1", "2", "--draws", "2", "--gallery", "0"]
    ) == 0  # fmt: skip
    found = results(tmp_path / "out")
    names = sorted(eval_models.COLOURS)
    table = pq.read_table(tmp_path / "test.parquet")["image"].to_pylist()
    pictures = [normalise(torch.from_numpy(evaluation_image(data, 32)[None]))[0] for data in table]
    targets = [torch.tensor([name in own for name in names]) for own in labels]
    published = known_sets.published("voc2007")
    assert published is not None
    pairs = type("Named", (list,), {"classes": names})(zip(pictures, targets, strict=True))
    expected = theirs.evaluate(
        open_clip.create_model(f"local-dir:{tmp_path / 'model'}").eval(),
        torch.utils.data.DataLoader(pairs, batch_size=16),
        open_clip.get_tokenizer(f"local-dir:{tmp_path / 'model'}"), names,
        [prompt.replace("{}", "{c}") for prompt in published.prompts], "cpu", amp=False,
    )  # fmt: skip
    row = found["voc2007", "m", "zeroshot"]
    metric = "mean_average_precision"
    assert row["metrics"][metric] == pytest.approx(expected[metric], abs=1e-6)
    probe, few = (found["voc2007", "m", task] for task in ("linear-probe", "few-shot"))
    assert row["main_metric"] == probe["main_metric"] == "map11" and few["main_metric"] == "map11_2_shot"
    assert probe["detail"]["fitted_on"] == 40 and 0.5 < probe["metrics"]["map11"] <= 1
    for task in ("zeroshot", "linear-probe"):
        one, two = (found[f"ucf101-split{number}", "m", task]["metrics"]["acc1"] for number in (1, 2))
        mean = found["ucf101", "m", task]
        assert mean["metrics"]["acc1"] == pytest.approx((one + two) / 2, abs=1e-12)
        assert mean["metrics"]["splits"] == 2 and mean["intervals"]["acc1"][0] <= (one + two) / 2
        text = (tmp_path / "out" / "report.html").read_text()
    few = found["ucf101", "m", "few-shot"]
    splits = [found[f"ucf101-split{number}", "m", "few-shot"] for number in (1, 2)]
    for place, shown in enumerate(few["detail"]["curve"]):
        expected_mean = sum(one["detail"]["curve"][place]["mean"] for one in splits) / 2
        assert shown["mean"] == pytest.approx(expected_mean) and len(shown["draws"]) == 2
    assert few["main_metric"] == "acc1_2_shot" and few["detail"]["all_examples"] > 0
    over = (row["metrics"]["map11"] + found["ucf101", "m", "zeroshot"]["metrics"]["acc1"]) / 2
    assert "mean of 2 sets" in text and f"<td>{100 * over:.1f}%" in text
