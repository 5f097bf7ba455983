"""`openwit eval` end to end: every task, every file it leaves, the same numbers computed independently."""

import contextlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

import beam_job
from dedup.contamination import read_predictions
from tests import eval_models, train_peers, train_shards
from tests.browser import chromium
from train.evaluation import fewshot
from train.image_transforms import evaluation_image, normalise

pytestmark = pytest.mark.usefixtures("one_thread")

TASKS = ("zeroshot", "linear-probe", "few-shot", "retrieval", "robustness", "bias")
COLOURS = sorted(eval_models.COLOURS)
CLOTHING = Path(__file__).resolve().parents[2] / "shared/data/images/clothing_cc0"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with models and sets."""
    root = tmp_path_factory.mktemp("eval")
    eval_models.export(root / "imported", seed=0)
    eval_models.training_run(root / "run", seed=1)
    (root / "run" / "report.html").write_text("the page of the training")
    eval_models.colours(root / "test", 12)
    eval_models.colours(root / "train", 10, first=1000)
    (root / "test" / COLOURS[0] / "broken.jpg").write_bytes(b"\xff\xd8 not a picture")
    rows = [(colour, number) for number in range(6) for colour in COLOURS]
    table = pa.table(
        {
            "image": [train_shards.jpeg(colour, seed=500 + number) for colour, number in rows],
            "label": [colour for colour, _ in rows],
            "caption": [[f"a photo of {colour} {number}", f"{colour} paint"] for colour, number in rows],
            "group": ["left" if number % 2 else "right" for _, number in rows],
        }
    )
    pq.write_table(table, root / "faces.parquet")
    return root


def run(*arguments: object) -> int:
    return beam_job.main(["eval", *map(str, arguments), "--workers", "2"])


def results(out: Path) -> dict[tuple[str, str, str], dict]:
    rows = json.loads((out / "results.json").read_text())
    assert all({"dataset", "model", "pretrained", "task", "metrics"} <= set(row) for row in rows)
    return {(row["dataset"], row["model"], row["task"]): row for row in rows}


def whole_command(place: Path, out: Path) -> list[object]:
    """Return two models through every task."""
    beside = out.parent
    return [
        "--checkpoint", f"imported={place / 'imported'}", "--checkpoint", place / "run",
        "--data", f"colours={place / 'test'}", "--data", f"faces={place / 'faces.parquet'}",
        "--train", f"colours={place / 'train'}", "--out", out, "--shots", 1, 2, 4, "--draws", 3,
        "--gallery", 3, "--corruptions", "noise", "--bias-classes", beside / "jobs.txt",
        "--bias-added", beside / "added.txt", "--subset", f"colours={beside / 'clean' / 'colours.txt'}",
        "--compare", f"people={beside / 'people.parquet'}", "--batch-size", 16, "--save-predictions",
        "--compare", f"crowd={beside / 'crowd.csv'}",
        *(part for task in TASKS for part in ("--task", task)),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def everything(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the result of two models through every task."""
    out = tmp_path_factory.mktemp("out") / "all"
    (out.parent / "jobs.txt").write_text("red\twarm\ngreen\n")
    (out.parent / "added.txt").write_text("blue\nyellow\n")
    (out.parent / "clean").mkdir()
    ids = [f"{colour}/{number}.jpg" for colour in COLOURS for number in range(6)]
    (out.parent / "clean" / "colours.txt").write_text("\n".join(ids))
    people = pa.table({"example_id": ids, "correct": [number % 3 > 0 for number in range(len(ids))]})
    pq.write_table(people, out.parent / "people.parquet")
    answers = [f"{one},{person},{one.split('/')[0] if person < 'c' else ''},{shots}" for one in ids
               for person in "abc" for shots in (0, 1)]  # fmt: skip
    (out.parent / "crowd.csv").write_text("\n".join(["example_id,person,answer,shots", *answers]))
    assert run(*whole_command(place, out)) == 0
    return out


def test_every_task_has_its_results(everything):
    found = results(everything)
    assert {model for _, model, _ in found} == {"imported", "small-step-7"}
    for model in ("imported", "small-step-7"):
        assert {(dataset, task) for dataset, name, task in found if name == model} == {
            ("colours", "zeroshot"), ("colours/clean", "zeroshot"), ("faces", "zeroshot"),
            ("colours", "linear-probe"), ("colours/clean", "linear-probe"), ("colours", "few-shot"),
            ("faces", "robustness"), ("faces", "bias"),
            ("faces", "retrieval"),
            *((f"colours~noise-{level}", "robustness") for level in range(1, 6)),
        }  # fmt: skip
    for row in found.values():
        for name, (low, high) in row["intervals"].items():
            value = row["metrics"][name]
            assert low is None or low - 1e-9 <= value <= high + 1e-9, (row["dataset"], row["task"], name)
    probe = found["colours", "imported", "linear-probe"]
    assert probe["metrics"]["acc1"] > 0.9, "colours are separable in random features"
    zero = found["colours", "imported", "zeroshot"]
    assert zero["metrics"]["unreadable"] == 1 and zero["metrics"]["examples"] == 48
    [left_out] = zero["detail"]["unreadable"]
    assert left_out["reason"] == "not_image" and probe["detail"]["unreadable"] == [left_out]
    assert probe["detail"]["zero_shot_minus_probe"] == pytest.approx(
        zero["metrics"]["acc1"] - probe["metrics"]["acc1"]
    )
    assert probe["detail"]["zero_shot_interval"] == zero["intervals"]["acc1"]
    curve = found["colours", "imported", "few-shot"]["detail"]["curve"]
    assert [(row["shots"], len(row["draws"])) for row in curve] == [(1, 3), (2, 3), (4, 3)]
    assert found["colours", "imported", "zeroshot"]["detail"]["compare"]["people"]["examples"] == 24
    assert found["colours/clean", "imported", "zeroshot"]["metrics"]["examples"] == 24
    people = found["colours", "imported", "zeroshot"]["detail"]["people"]
    assert [(row["by"], row["shots"], row["majority"]) for row in people] == [
        ("crowd", 0, 1),
        ("crowd", 1, 1),
    ]
    assert [row["accuracy"] for row in people] == pytest.approx([2 / 3, 2 / 3])
    theirs = found["colours", "imported", "zeroshot"]["detail"]["compare"]["crowd, 1 shot"]["theirs"]
    assert theirs == pytest.approx(2 / 3)


def test_draws_are_published(everything, place):
    draws = json.loads((everything / "few_shot_draws.json").read_text())["colours"]
    assert draws["shots"] == [1, 2, 4] and len(draws["draws"]) == 3
    for draw in draws["draws"]:
        assert sorted(draw) == COLOURS
        for colour, ids in draw.items():
            assert len(set(ids)) == 4 and all((place / "train" / one).exists() for one in ids)
            assert all(one.startswith(f"{colour}/") for one in ids)


def test_robustness_compares_the_same_classes(everything):
    found = results(everything)["faces", "imported", "robustness"]["detail"]
    rows = {row["predictor"]: row for row in found["predictors"]}
    assert list(rows) == ["zero-shot", "1-shot", "2-shot", "4-shot", "probe"]
    assert rows["probe"]["relative"] == 0 and rows["zero-shot"]["effective"] is None
    zero = results(everything)["colours", "imported", "zeroshot"]["metrics"]["acc1"]
    assert rows["zero-shot"]["source_acc1"] == pytest.approx(zero)
    assert rows["zero-shot"]["drop"] == pytest.approx(zero - rows["zero-shot"]["acc1"])


def test_bias_rates_add_up_and_move_with_added_classes(everything):
    row = results(everything)["faces", "imported", "bias"]
    for kind, count in (("assigned", 2), ("assigned_with_added", 4)):
        table = row["detail"][kind]
        assert len(table) == count
        for place in range(2):
            assert sum(one["rates"][place]["rate"] for one in table) == pytest.approx(1)
    (warm,), red = row["detail"]["categories"], row["detail"]["assigned"][0]
    assert warm["class"] == "warm" and warm["rates"] == red["rates"]
    assert [one["threshold"] for one in row["detail"]["labels"]] == [0.005, 0.04]
    rates = [one["error"] for one in row["detail"]["errors"]]
    assert [one["group"] for one in row["detail"]["errors"]] == ["left", "right"]
    assert row["metrics"]["acc1"] == pytest.approx(1 - np.mean(rates)), "groups are of one size"


def test_predictions_are_what_overlap_reads(everything, place):
    path = everything / "predictions" / "imported" / "colours.parquet"
    table = pq.read_table(path)
    assert table.column_names[:4] == ["example_id", "label", "prediction", "correct"]
    ids = sorted(str(file.relative_to(place / "test")) for file in (place / "test").rglob("*.jpg"))
    ids.remove(f"{COLOURS[0]}/broken.jpg")
    with pytest.raises(ValueError, match="true or false for every example"):
        read_predictions(str(path), "colours", ids)
    correct, labels = read_predictions(str(path), "colours", ids, {f"{COLOURS[0]}/broken.jpg"})
    assert correct.mean() == results(everything)["colours", "imported", "zeroshot"]["metrics"]["acc1"]
    assert labels == [one.split("/")[0] for one in ids]
    broken = table.filter(pc.equal(table["example_id"], f"{COLOURS[0]}/broken.jpg")).to_pylist()[0]
    assert (broken["label"], broken["prediction"], broken["correct"]) == (COLOURS[0], "", None)
    assert (everything / "predictions" / "imported" / "colours.linear-probe.parquet").exists()


def test_the_same_command_encodes_nothing_again_and_gives_the_same_bytes(everything, place, monkeypatch):
    from train.evaluation import features

    before = {path: path.read_bytes() for path in everything.rglob("*") if path.is_file()}

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("encoded again")

    monkeypatch.setattr(features, "encode", refuse)
    monkeypatch.setattr("train.evaluation.zeroshot.class_embeddings", refuse)
    assert run(*whole_command(place, everything)) == 0
    assert {path: path.read_bytes() for path in everything.rglob("*") if path.is_file()} == before


def test_the_report_draws_the_figures_and_runs_nothing(everything):
    page_text = (everything / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page_text and "default-src 'none'" in page_text
    with chromium() as page:
        for width in (1280, 390):
            page.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1,
                      mobile=width < 500)  # fmt: skip
            page.open(everything / "report.html")
            assert page.run("document.documentElement.scrollWidth") <= width, "nothing hangs over the side"
        shown = page.run("document.body.textContent").lower()
        for text in ("Mean zero-shot error over compute", "Gain of the prompt ensemble",
                     "Zero-shot minus linear", "Few-shot probes", "labelled examples",
                     "Corruptions of colours", "people and the model", "on average over 2 sets",
                     "mean of 5 corrupted copies"):  # fmt: skip
            assert text.lower() in shown, text
        assert page.run("document.querySelectorAll('figure svg').length") >= 16
        assert page.run("document.querySelectorAll('.example').length") == 2 * 2 * 3
        captions = page.run(
            "[...document.querySelectorAll('.found > li')].map(li => [li.textContent, "
            "li.querySelectorAll('li').length, li.querySelectorAll('.own').length])"
        )
        assert len(captions) == 2, "a caption for each model"
        for text, pictures, own in captions:
            first = "own picture first" in text
            assert "paint" in text and own == 1 and pictures in (5, 6) and (first <= (pictures == 5))
        assert page.run("[...document.images].every(i => i.complete && i.naturalWidth > 0)") is True
        assert "nan" not in page.run("document.querySelector('main').innerText").lower().split()
        assert page.run("[...document.querySelectorAll('svg *')].some(e => [...e.attributes].some("
                        "a => /nan|inf/i.test(a.value)))") is False  # fmt: skip
        assert page.run("document.querySelector('main .soft a').getAttribute('href')").endswith(
            "/run/report.html"
        )
        assert page.problems() == [] == page.barriers()


def test_names_of_the_data_stay_text(tmp_path, place):
    evil = '<img src=x onerror="document.title=1">'
    for name in (evil.replace("/", ""), "{{ 7 * 7 }}‮"):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "a.jpg").write_bytes(train_shards.jpeg("red"))
    assert run("--checkpoint", place / "imported", "--task", "zeroshot", "--data", f"s={tmp_path / 'set'}",
               "--out", tmp_path / "out") == 0  # fmt: skip
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<img src=x" not in text and "{{ 7 * 7 }}[U+202E]" in text
    with chromium() as page:
        page.open(tmp_path / "out" / "report.html")
        assert page.run("document.title") != "1" and page.problems() == []


# ---- against other programs


@pytest.mark.skipif(not CLOTHING.exists(), reason="needs the sample data beside the checkout")
def test_zero_shot_on_photographs_equals_open_clips(tmp_path, place):
    open_clip = train_peers.open_clip()
    train_peers.transformers()
    (tmp_path / "t.txt").write_text("a photo of a {}.\nthe {}\na {} on a person\n")
    assert run("--checkpoint", f"m={place / 'imported'}", "--task", "zeroshot", "--limit", 150,
               "--data", f"clothing={CLOTHING / 'test'}", "--templates", tmp_path / "t.txt",
               "--out", tmp_path / "out", "--save-predictions") == 0  # fmt: skip
    theirs = open_clip.create_model(f"local-dir:{place / 'imported'}").eval()
    tokenize = open_clip.get_tokenizer(f"local-dir:{place / 'imported'}")
    names = sorted(path.name for path in (CLOTHING / "test").iterdir())
    templates = [lambda name, line=line: line.replace("{}", name)
                 for line in ("a photo of a {}.", "the {}", "a {} on a person")]  # fmt: skip
    weights = open_clip.build_zero_shot_classifier(theirs, tokenize, names, templates, device="cpu")
    from safetensors.numpy import load_file

    ours = load_file(tmp_path / "out" / "classifiers" / "m" / "clothing.safetensors")["weights"]
    assert np.abs(ours - weights.T.numpy()).max() < 1e-6
    table = pq.read_table(tmp_path / "out" / "predictions" / "clothing.parquet")
    pixels = np.stack([evaluation_image((CLOTHING / "test" / one).read_bytes(), 32)
                       for one in table["example_id"].to_pylist()])  # fmt: skip
    with torch.no_grad():
        logits = (
            theirs.logit_scale.exp()
            * theirs.encode_image(normalise(torch.from_numpy(pixels)), normalize=True)
            @ weights
        )
    targets = torch.tensor([names.index(one) for one in table["label"].to_pylist()])
    chances = logits.softmax(dim=1).max(dim=1).values.numpy()
    assert np.abs(table["probability"].to_numpy() - chances).max() < 1e-6
    metrics = results(tmp_path / "out")["clothing", "m", "zeroshot"]["metrics"]
    top = logits.topk(5).indices
    assert metrics["acc1"] == pytest.approx((top[:, 0] == targets).float().mean().item(), abs=1e-6)
    assert metrics["acc5"] == pytest.approx((top == targets[:, None]).any(1).float().mean().item(), abs=1e-6)
    auc = pytest.importorskip("sklearn.metrics").roc_auc_score
    expected = auc(targets, logits.double().softmax(dim=1), multi_class="ovr", average="macro")
    assert metrics["roc_auc"] == pytest.approx(expected, abs=1e-6)


def test_foreign_features_give_the_probe_of_the_features_themselves(place, everything, tmp_path):
    parts = []
    for split, name in (("train", "colours-train"), ("test", "colours")):
        path = everything / "work" / imported_folder(place) / f"{name}.parquet"
        table = pq.read_table(path, columns=["example_id", "label", "features"])
        parts.append(table.append_column("split", pa.array([split] * len(table))))
    own = tmp_path / "other.parquet"
    pq.write_table(pa.concat_tables(parts), own)
    (tmp_path / "compute.csv").write_text("encoder,gflops\nother,4.1\n")
    assert run("--features", own, "--task", "linear-probe", "--task", "few-shot", "--draws", 2, "--shots", 2,
               "--gflops", tmp_path / "compute.csv", "--out", tmp_path / "out") == 0  # fmt: skip
    assert "(4.1 GFLOPs an image)" in (tmp_path / "out" / "report.html").read_text("utf-8")
    found = results(tmp_path / "out")
    probe = results(everything)["colours", "imported", "linear-probe"]
    assert found["other", "other", "linear-probe"]["detail"]["c"] == probe["detail"]["c"]
    right = found["other", "other", "linear-probe"]["metrics"]["acc1"] * 48
    assert right == pytest.approx(probe["metrics"]["acc1"] * 48)
    assert "zero_shot" not in found["other", "other", "few-shot"]["detail"]


def imported_folder(place: Path) -> str:
    """Return the name of the folder of the imported model's features."""
    from train.evaluation import models
    from train.evaluation.options import EvalConfig

    config = EvalConfig(task=("zeroshot",), out="x", checkpoint=("a",), data=("n=p",))
    return models.load(models.ModelSource("m", str(place / "imported")), config).fingerprint[:12]


def test_retrieval_equals_a_plain_count(place, tmp_path):
    assert run("--checkpoint", f"m={place / 'imported'}", "--task", "retrieval",
               "--data", f"faces={place / 'faces.parquet'}", "--out", tmp_path / "out",
               "--retrieval-template", "a photo of {}") == 0  # fmt: skip
    row = results(tmp_path / "out")["faces", "m", "retrieval"]["metrics"]
    own, tokenizer = eval_models.model(0), eval_models.tokenizer()
    from train.evaluation.texts import encode_texts

    table = pq.read_table(place / "faces.parquet").to_pylist()
    texts = [f"a photo of {text}" for one in table for text in one["caption"]]
    pixels = np.stack([evaluation_image(one["image"], 32) for one in table])
    with torch.no_grad():
        images = own.encode_image(normalise(torch.from_numpy(pixels))).numpy()
        similar = images @ encode_texts(own, tokenizer, texts, torch.device("cpu")).numpy().T
    owner = np.repeat(np.arange(len(table)), 2)
    for k in (1, 5, 10):
        # "COLOUR paint" stands with six images: equal similarities count against the right class.
        hits = 0
        for image in range(len(table)):
            best = similar[image][owner == image].max()
            hits += (similar[image][owner != image] >= best - 1e-7).sum() < k
        assert row[f"text_retrieval_recall@{k}"] == pytest.approx(hits / len(table), abs=0.1)
        found = [(similar[:, text] > similar[owner[text], text]).sum() < k for text in range(len(texts))]
        assert row[f"image_retrieval_recall@{k}"] == pytest.approx(np.mean(found), abs=1e-6)
    assert (row["images"], row["captions"]) == (24, 48)


def test_one_report_holds_robustness_retrieval_and_probes(place, tmp_path):
    table = pq.read_table(place / "faces.parquet")
    pq.write_table(table.select(["image", "caption"]), tmp_path / "pairs.parquet")
    eval_models.colours(tmp_path / "shifted", 6, first=700)
    tasks = ("zeroshot", "robustness", "retrieval", "few-shot", "linear-probe")
    assert run("--checkpoint", f"m={place / 'imported'}", "--out", tmp_path / "out", "--gallery", 0,
               "--data", f"colours={place / 'test'}", "--data", f"shifted={tmp_path / 'shifted'}",
               "--data", f"pairs={tmp_path / 'pairs.parquet'}", "--train", f"colours={place / 'train'}",
               "--shots", 1, 2, "--draws", 2,
               *(part for task in tasks for part in ("--task", task))) == 0  # fmt: skip
    found = results(tmp_path / "out")
    assert {(name, task) for name, _, task in found} == {
        ("colours", "zeroshot"), ("shifted", "zeroshot"), ("shifted", "robustness"), ("pairs", "retrieval"),
        ("colours", "few-shot"), ("colours", "linear-probe"),
    }  # fmt: skip
    few, full = (found["colours", "m", task]["metrics"] for task in ("few-shot", "linear-probe"))
    zero_shot = found["colours", "m", "zeroshot"]["metrics"]["acc1"]
    # Ten images per class, all fitted on in the end: the full probe is the curve's last point.
    curve = [(1.0, few["acc1_1_shot"]), (2.0, few["acc1_2_shot"]), (10.0, full["acc1"])]
    expected = fewshot.shots_to_match(zero_shot, curve)
    assert few.get("shots_to_match_zero_shot") == (expected and pytest.approx(expected))
    assert full["acc1"] > few["acc1_2_shot"] or expected is None or expected <= 2


def test_superclasses_are_scored_both_ways_and_against_reference_models(place, tmp_path):
    united = {"red": "warm", "yellow": "warm", "blue": "cold"}
    for number, colour in enumerate(("red", "yellow", "blue", "blue") * 5):
        folder = tmp_path / "warmth" / united[colour]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(train_shards.jpeg(colour, seed=300 + number))
    (tmp_path / "map.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in united.items()))
    (tmp_path / "refs.csv").write_text("model,colours,warmth\na,0.3,0.2\nb,0.5,0.45\nc,0.8,0.6\nd,0.9,0.85\n")
    (tmp_path / "t.txt").write_text("a {} thing\n{}\n")
    assert run("--checkpoint", f"m={place / 'imported'}", "--task", "robustness", "--out", tmp_path / "out",
               "--data", f"colours={place / 'test'}", "--data", f"warmth={tmp_path / 'warmth'}",
               "--class-map", tmp_path / "map.tsv", "--baseline", tmp_path / "refs.csv",
               "--templates", tmp_path / "t.txt") == 0  # fmt: skip
    row = results(tmp_path / "out")["warmth", "m", "robustness"]
    own, tokenizer = eval_models.model(0), eval_models.tokenizer()

    def shares(folder: Path, names: list[str]) -> tuple[list[str], np.ndarray]:
        from train.evaluation.texts import class_embeddings

        files = [path for path in sorted(folder.rglob("*.jpg")) if path.name != "broken.jpg"]
        pixels = np.stack([evaluation_image(path.read_bytes(), 32) for path in files])
        with torch.no_grad():
            images = own.encode_image(normalise(torch.from_numpy(pixels)))
            spelled = [(name,) for name in names]
            weights = class_embeddings(own, tokenizer, spelled, ("a {} thing", "{}"), torch.device("cpu"))
        return [path.parent.name for path in files], (images @ weights.T).numpy()

    truth, scores = shares(tmp_path / "warmth", COLOURS)
    guesses = [united.get(COLOURS[one], "") for one in scores.argmax(axis=1)]
    expected = np.mean([a == b for a, b in zip(truth, guesses, strict=True)])
    assert row["metrics"]["acc1_source_classes"] == pytest.approx(expected)
    truth, scores = shares(tmp_path / "warmth", ["warm", "cold"])
    expected = np.mean([a == ("warm", "cold")[b] for a, b in zip(truth, scores.argmax(axis=1), strict=True)])
    assert row["metrics"]["acc1"] == pytest.approx(expected)
    truth, scores = shares(place / "test", COLOURS)
    # Without green, which is in no class of the shifted set; the broken picture, which is blue, is left out.
    kept = [COLOURS.index(colour) for colour in ("blue", "red", "yellow")]
    best = scores[:, kept].argmax(axis=1)
    right = [united[a] == united[COLOURS[kept[b]]] for a, b in zip(truth, best, strict=True) if a != "green"]
    assert COLOURS[0] == "blue" and row["metrics"]["source_acc1"] == pytest.approx(sum(right) / 36)
    from scipy import stats

    logit = lambda p: np.log(np.array(p) / (1 - np.array(p)))  # noqa: E731
    line = stats.linregress(logit([0.3, 0.5, 0.8, 0.9]), logit([0.2, 0.45, 0.6, 0.85]))
    source = np.clip(row["metrics"]["source_acc1"], 1e-4, 1 - 1e-4)
    predicted = 1 / (1 + np.exp(-(line.slope * logit(source) + line.intercept)))
    assert row["metrics"]["effective_robustness"] == pytest.approx(row["metrics"]["acc1"] - predicted)


def test_examples_of_several_classes_have_a_mean_average_precision(place, tmp_path):
    table = pa.table({"image": [train_shards.jpeg(colour, seed=9) for colour in COLOURS],
                      "label": ["blue|red", "green", "green|red", "yellow"]})  # fmt: skip
    pq.write_table(table, tmp_path / "voc.parquet")
    arguments = ("--checkpoint", place / "imported", "--task", "zeroshot", "--metric", "map11",
                 "--data", f"voc={tmp_path / 'voc.parquet'}", "--out", tmp_path / "out")  # fmt: skip
    assert run(*arguments) == 0
    row = results(tmp_path / "out")["voc", "imported", "zeroshot"]
    assert row["main_metric"] == "map11" and 0 < row["metrics"]["map11"] <= 1
    low, high = row["intervals"]["map11"]
    assert low <= row["metrics"]["map11"] <= high


@pytest.mark.parametrize("metric", ["acc5", "mean_per_class_recall", "roc_auc"])
def test_a_sets_own_metric_is_what_tables_and_curves_show(place, tmp_path, metric):
    assert run("--checkpoint", place / "imported", "--task", "zeroshot", "--task", "linear-probe",
               "--task", "few-shot", "--shots", 2, "--draws", 2, "--data", f"colours={place / 'test'}",
               "--train", f"colours={place / 'train'}", "--metric", f"colours={metric}",
               "--classes", six_classes(tmp_path), "--out", tmp_path / "out") == 0  # fmt: skip
    found = results(tmp_path / "out")
    for task in ("zeroshot", "linear-probe"):
        row = found["colours", "imported", task]
        assert row["main_metric"] == metric and metric in row["intervals"]
    probe = found["colours", "imported", "linear-probe"]
    assert probe["detail"]["zero_shot"] == found["colours", "imported", "zeroshot"]["metrics"][metric]
    few = found["colours", "imported", "few-shot"]
    assert few["main_metric"] == f"{metric}_2_shot" and len(few["detail"]["curve"][0]["draws"]) == 2


def six_classes(folder: Path) -> Path:
    """Write the colours and two that no example has: five of four classes could not be wrong."""
    (folder / "six.txt").write_text("\n".join([*COLOURS, "violet", "brown"]))
    return folder / "six.txt"


# ---- mistakes of users


def test_unlabelled_folders_are_predicted(place, tmp_path):
    (tmp_path / "new").mkdir()
    for number in range(4):
        (tmp_path / "new" / f"{number}.jpg").write_bytes(train_shards.jpeg("blue", seed=number))
    (tmp_path / "c.txt").write_text("\n".join(COLOURS))
    arguments = ("--checkpoint", place / "imported", "--task", "zeroshot", "--save-predictions",
                 "--data", f"new={tmp_path / 'new'}", "--out", tmp_path / "out")  # fmt: skip
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    assert stopped.value.code == 2
    assert run(*arguments, "--classes", tmp_path / "c.txt") == 0
    table = pq.read_table(tmp_path / "out" / "predictions" / "new.parquet")
    assert set(table["prediction"].to_pylist()) <= set(COLOURS) and table["correct"].null_count == 4
    assert "acc1" not in results(tmp_path / "out")["new", "imported", "zeroshot"]["metrics"]


def test_check_writes_nothing_and_shows_the_plan(place, tmp_path, capsys):
    assert run("--checkpoint", place / "run", "--task", "zeroshot", "--data", f"pets={place / 'test'}",
               "--out", tmp_path / "out", "--check") == 0  # fmt: skip
    assert not (tmp_path / "out").exists()
    printed = capsys.readouterr()
    assert 'data = ["pets=' in printed.out


SET = ("--checkpoint", "RUN", "--data", "a=TEST")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--task", "zeroshot"), "--checkpoint"),
        (("--task", "linear-probe", *SET), "--train"),
        (("--task", "robustness", *SET), "--corruptions"),
        (("--task", "zeroshot", "--checkpoint", "nowhere", "--data", "a=TEST"), "no such file"),
        (("--task", "zeroshot", *SET, "--metric", "acc3"), "mean_per_class"),
        (("--task", "zeroshot", *SET, "--templates", "b=x"), "given are a"),
        (("--task", "zeroshot", *SET, "--tempaltes", "x"), "--templates"),
        (("--task", "retrieval", *SET), "needs captions"),
        (("--task", "bias", *SET), "group"),
        (("--task", "linear-probe", *SET, "--train", "a=TEST"), "very set"),
    ],
)
def test_usage_errors_say_what_to_do(arguments, message, place, tmp_path, capsys):
    known = {"RUN": place / "run", "a=TEST": f"a={place / 'test'}"}
    with pytest.raises(SystemExit) as stopped:
        run(*(known.get(one, one) for one in arguments), "--out", tmp_path / "out")
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_a_model_with_exact_gelu_is_recognised_by_its_configuration(place, tmp_path):
    from train.evaluation import models
    from train.evaluation.options import EvalConfig

    folder = eval_models.export(tmp_path / "plain")
    path = folder / "open_clip_config.json"
    value = json.loads(path.read_text())
    config = EvalConfig(task=("zeroshot",), out="x", checkpoint=("a",), data=("n=p",))
    quick = models.load(models.ModelSource("m", str(folder)), config)
    del value["model_cfg"]["quick_gelu"]
    path.write_text(json.dumps(value))
    exact = models.load(models.ModelSource("m", str(folder)), config)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = train_peers.open_clip().create_model(f"local-dir:{folder}").eval()
        expected = theirs.encode_image(images, normalize=True)
        assert (exact.encode(images)[1] - expected).abs().max() < 1e-6
        assert (quick.encode(images)[1] - expected).abs().max() > 1e-4
    assert quick.fingerprint != exact.fingerprint
    value["preprocess_cfg"]["mean"] = [0.5, 0.5, 0.5]
    path.write_text(json.dumps(value))
    with pytest.raises(ValueError, match=r"asks for preprocess_cfg\.mean"):
        models.load(models.ModelSource("m", str(folder)), config)


def test_models_are_called_by_the_whole_names_of_their_files_and_folders(tmp_path):
    from train.evaluation import models

    (tmp_path / "clip.v1").mkdir()
    (tmp_path / "clip.v2.pt").touch()
    paths = tuple(f"{tmp_path}/{name}" for name in ("clip.v1", "clip.v1/", "clip.v2.pt"))
    assert [one.name for one in models.sources(paths[1:])] == ["clip.v1", "clip.v2"]
    with pytest.raises(ValueError, match=r"two checkpoints are called clip\.v1: name them"):
        models.sources(paths)


def test_the_training_loops_accuracy_is_the_evaluations(place, tmp_path):
    """For a set with names of its own, and a set whose folders are WordNet's ids."""
    from train import checkpoint
    from train.validation import LabelledSet, accuracy

    (tmp_path / "imagenette").mkdir()
    for name, colour in zip(("n01440764", "n02102040", "n02979186", "n03000684"), COLOURS, strict=True):
        (tmp_path / "imagenette" / name).symlink_to(place / "test" / colour)
    sets = {"faces": place / "faces.parquet", "imagenette": tmp_path / "imagenette"}
    data = [part for name, path in sets.items() for part in ("--data", f"{name}={path}")]
    assert (
        run("--checkpoint", f"m={place / 'run'}", "--task", "zeroshot", "--out", tmp_path / "out", *data) == 0
    )
    loaded = checkpoint.load_model(str(place / "run"))
    for name, path in sets.items():
        labelled = LabelledSet(f"{name}={path}", 32)
        value = accuracy(
            loaded.model, loaded.tokenizer, labelled, torch.device("cpu"), contextlib.nullcontext
        )
        assert results(tmp_path / "out")[name, "m", "zeroshot"]["metrics"]["acc1"] == value
    if importlib.util.find_spec("clip_benchmark"):
        assert labelled.classes.names[0] == "tench"
