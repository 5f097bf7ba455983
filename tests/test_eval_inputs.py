"""`openwit eval` on sets as people have them: class names, marks of Windows, links, few examples, NaN."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

import beam_job
from tests import eval_models, train_shards
from train import checkpoint
from train.evaluation import classes, features, prompts

pytestmark = pytest.mark.usefixtures("one_thread")

COLOURS = sorted(eval_models.COLOURS)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return eval_models.training_run(tmp_path_factory.mktemp("eval") / "run")


def run(model: Path, out: Path, *arguments: object, task: str = "zeroshot") -> list[dict]:
    words = ["eval", "--checkpoint", f"m={model}", "--task", task, "--gallery", 0, *arguments, "--out", out]
    assert beam_job.main([*map(str, words), "--workers", "2"]) == 0
    return json.loads((out / "results.json").read_text())


def refused(model: Path, out: Path, *arguments: object, task: str = "zeroshot") -> None:
    with pytest.raises(SystemExit) as stopped:
        run(model, out, *arguments, task=task)
    assert stopped.value.code == 2


def parquet(path: Path, labels: list[object], names: list[str] | None = None, first: int = 0) -> Path:
    """Write pictures whose colour their label's place in COLOURS gives."""

    def colour(label: object) -> str:
        return COLOURS[int(label)] if isinstance(label, int | float) and label >= 0 else COLOURS[0]

    images = [train_shards.jpeg(colour(label), seed=first + row) for row, label in enumerate(labels)]
    table = pa.table({"image": images, "label": pa.array(labels)})
    if names is not None:
        feature = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(feature)})
    pq.write_table(table, path)
    return path


def probabilities(out: Path) -> list[float]:
    return pq.read_table(out / "predictions/s.parquet")["probability"].to_pylist()


def test_names_that_lie_with_numbered_labels_are_what_prompts_say(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    numbers = [row % 4 for row in range(16)]
    named = parquet(tmp_path / "named.parquet", [*numbers, -1], COLOURS)
    [one] = run(model, tmp_path / "a", "--data", f"s={named}", "--save-predictions")
    assert one["metrics"]["examples"] == 16 and "1 of 17 images have no label (or -1)" in caplog.text
    (tmp_path / "c.txt").write_bytes("\ufeff".encode() + "\r\n".join(COLOURS).encode())
    plain = parquet(tmp_path / "plain.parquet", [float(number) for number in [*numbers, -1]])
    [two] = run(model, tmp_path / "b", "--data", f"s={plain}", "--classes", tmp_path / "c.txt",
                "--save-predictions")  # fmt: skip
    assert "are numbers" not in caplog.text
    assert two["metrics"] == one["metrics"] and probabilities(tmp_path / "a") == probabilities(tmp_path / "b")
    run(model, tmp_path / "c", "--data", f"s={plain}", "--save-predictions")
    assert "s: its classes are numbers, so that prompts say 'a photo of a 0.'; name them with" in caplog.text
    assert probabilities(tmp_path / "c") != probabilities(tmp_path / "a")
    # The model may choose a class that no example has.
    more = parquet(tmp_path / "more.parquet", numbers, [*COLOURS, "a fifth"])
    [five] = run(model, tmp_path / "d", "--data", f"s={more}")
    assert json.loads(bytes(json.dumps(five), "utf-8"))["metrics"]["examples"] == 16
    weights = load_file(tmp_path / "d/classifiers/m/s.safetensors")["weights"]
    assert len(weights) == 5


def test_classes_are_refused_or_taken_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"s has the label 4, but its names are those of 0 to 2"):
        classes.of("s", ["0", "4"], "", numbered=("a", "b", "c"))
    assert classes.of("s", ["0", "2"], "", numbered=("crane", "a_b", "crane"))[:2] == (
        ["0", "1", "2"], ["crane", "a b", "crane"],
    )  # fmt: skip
    assert classes.of("s", [], "", numbered=("a", "b")).labels == ["0", "1"], "a test split without labels"
    assert classes.of("s", ["x", "y"], "", numbered=("a", "b")).names == ["x", "y"]
    assert classes.of("s", ["00", "01"], "", numbered=("a", "b")).names == ["00", "01"]
    assert (
        classes.are_codes(["0", "17"]) and classes.are_codes(["n01440764"]) and not classes.are_codes(["a"])
    )
    assert prompts.are_digits("MNIST") and not prompts.are_digits("cars")
    (tmp_path / "t.txt").write_bytes("\ufeff# mine\r\na photo of {}.\r\n".encode())
    assert prompts.read(str(tmp_path / "t.txt")).ensemble == ("a photo of {}.",)


def test_several_classes_are_refused_where_one_is_asked_for(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = [["red", "blue"], ["green"], ["yellow"], ["red"]]
    path = parquet(tmp_path / "v.parquet", labels)
    for out in ("a", "a"):  # again: nothing of a refused set is kept
        refused(model, tmp_path / out, "--data", f"s={path}")
        assert "s: v/0 has several classes: give --metric s=map11" in capsys.readouterr().err
    [one] = run(model, tmp_path / "b", "--data", f"s={path}", "--metric", "map11")
    assert one["metrics"]["examples"] == 4
    refused(model, tmp_path / "b", "--data", f"s={path}")  # where map11 has encoded it before
    assert "several classes" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["ppm", "tif", "avif", "jpg"])
def test_a_set_of_which_nothing_can_be_decoded_is_refused_in_one_line(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    for colour in COLOURS:
        (tmp_path / "set" / colour).mkdir(parents=True)
        (tmp_path / "set" / colour / f"0.{suffix}").write_bytes(b"no picture at all")
    refused(model, tmp_path / "out", "--data", f"s={tmp_path / 'set'}")
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"openwit eval: error: s: none of its images ({len(COLOURS)}) can be decoded: ")
    assert f"0.{suffix} (not_image)" in said


def test_a_folder_of_links_with_hidden_files_scores_as_the_plain_one(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    plain = eval_models.colours(tmp_path / "plain", 4)
    linked = tmp_path / "linked"
    linked.mkdir()
    for colour in COLOURS:
        (linked / colour).symlink_to(plain / colour)
    [expected] = run(model, tmp_path / "a", "--data", f"s={plain}")
    (plain / COLOURS[0] / "._0.jpg").write_bytes(b"x")
    (linked / "__MACOSX").mkdir()
    (linked / "__MACOSX/1.jpg").write_bytes(b"x")
    [found] = run(model, tmp_path / "b", "--data", f"s={linked}")
    assert found["metrics"] == expected["metrics"]
    assert f"{linked}: left out: 1 below __MACOSX, 1 images with a name that begins with" in caplog.text
    run_check = ["eval", "--checkpoint", str(model), "--task", "zeroshot", "--data", f"s={linked}", "--check"]
    assert beam_job.main([*run_check, "--out", str(tmp_path / "c")]) == 0
    assert "16 images; left out: 1 below __MACOSX" in re.sub(r"\s+", " ", capfd.readouterr().err)


def test_shots_that_no_class_has_are_left_out_and_others_say_the_real_count(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    test = parquet(tmp_path / "test.parquet", [row % 4 for row in range(12)], COLOURS)
    two = parquet(tmp_path / "two.parquet", [row % 4 for row in range(8)], COLOURS, 100)
    sets = ["--data", f"s={test}", "--draws", 2]
    [one] = run(
        model, tmp_path / "a", *sets, "--train", f"s={two}", "--shots", 1, "--shots", 4, 16, task="few-shot"
    )
    assert [row["shots"] for row in one["detail"]["curve"]] == [1] and one["main_metric"] == "acc1_1_shot"
    assert "no class has more than 1 images to fit on (a fifth of --train is kept" in caplog.text
    assert "4, 16 shots are left out" in caplog.text
    assert json.loads((tmp_path / "a/few_shot_draws.json").read_text())["s"]["shots"] == [1]
    refused(model, tmp_path / "b", *sets, "--train", f"s={two}", "--shots", 4, 16, task="few-shot")
    assert "--shots 4 16 cannot be drawn" in capfd.readouterr().err
    # One class has five, the others one or two: of four shots there are 1.75 a class.
    uneven = parquet(tmp_path / "u.parquet", [0] * 6 + [1, 1, 2, 2, 3, 3], COLOURS, 200)
    [one] = run(model, tmp_path / "c", *sets, "--train", f"s={uneven}", "--shots", 1, 4, task="few-shot")
    assert [(row["shots"], row["per_class"]) for row in one["detail"]["curve"]] == [(1, 1), (4, 1.75)]
    assert (
        one["metrics"]["images_per_class_4_shot"] == 1.75 and "images_per_class_1_shot" not in one["metrics"]
    )
    assert "3 of 4 classes have fewer than 4 images to fit on" in caplog.text
    assert "4 shots (1.75 per class)" in re.sub(r"\s+", " ", capfd.readouterr().out)


def test_classes_that_training_images_do_not_show_are_named(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    test = parquet(tmp_path / "test.parquet", [row % 4 for row in range(12)], COLOURS)
    three = parquet(tmp_path / "three.parquet", [row % 3 for row in range(9)], COLOURS, 100)
    run(model, tmp_path / "a", "--data", f"s={test}", "--train", f"s={three}", task="linear-probe")
    assert "no image to fit on shows 1 of 4 classes, which a probe can then never predict: 3" in caplog.text
    single = parquet(tmp_path / "one.parquet", [2] * 6, COLOURS, 100)
    refused(model, tmp_path / "b", "--data", f"s={test}", "--train", f"s={single}", task="linear-probe")
    assert "the images to fit on for s show only one class: '2'" in capsys.readouterr().err


def test_numbers_that_are_not_finite_are_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    test = parquet(tmp_path / "test.parquet", [0, 1, 2, 3], COLOURS)
    state = checkpoint.load_model(str(model)).model.state_dict()
    bad = tmp_path / "nan"
    bad.mkdir()
    save_file(
        state | {"visual.conv1.weight": state["visual.conv1.weight"] * torch.nan}, bad / "m.safetensors"
    )
    refused(bad / "m.safetensors", tmp_path / "a", "--data", f"s={test}")
    assert "m.safetensors: visual.conv1.weight holds numbers that are not finite" in capsys.readouterr().err
    # Finite weights may still overflow.
    save_file(state | {"visual.proj": torch.full_like(state["visual.proj"], 3e38)}, bad / "m.safetensors")
    (bad / checkpoint.VOCABULARY).write_bytes(eval_models.tokenizer().to_bytes())
    refused(bad / "m.safetensors", tmp_path / "b", "--data", f"s={test}")
    assert "the model's features are no finite numbers" in capsys.readouterr().err
    save_file(state | {"logit_scale": torch.tensor(999.0)}, bad / "m.safetensors")
    refused(bad / "m.safetensors", tmp_path / "c", "--data", f"s={test}")
    assert "the factor of its logits, exp(logit_scale), is infinite" in capsys.readouterr().err


def test_labels_of_other_encoders_are_examined_too(tmp_path: Path) -> None:
    table = pa.table({"features": [[1.0], [2.0]], "label": [0.0, -1.0], "split": ["train", "test"]})
    pq.write_table(table, tmp_path / "f.parquet")
    found = features.read_foreign(str(tmp_path / "f.parquet"))
    assert found["", "train"].labels == ["0"] and found["", "test"].labels == [""]
