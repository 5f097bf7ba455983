"""Training: it learns, resumes to the bit, stops on SIGTERM, runs on several processes, exports."""

import contextlib
import dataclasses
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline import config as options
from pipeline.data import architectures
from pipeline.data.architectures import ARCHITECTURES, RECIPES
from tests import eval_models, train_shards
from train import checkpoint, cli, clip_trainer, distributed, optimizer
from train.clip_trainer import fit
from train.model import CLIP
from train.options import TrainConfig
from train.prepare import ClipSetup, prepare
from train.trainer import Diverged
from train.training_run import TrainingResult

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `tiny` smaller still: these tests are about the loop."""
    small = replace(ARCHITECTURES["tiny"], vision_width=8, text_width=64, embed_dim=32)
    monkeypatch.setitem(architectures.ARCHITECTURES, "tiny", small)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return train_shards.write_run(tmp_path / "run", [20, 24, 20])


def config(run: Path, out: Path, **given: object) -> TrainConfig:
    defaults = {"model": "tiny", "batch_size": 16, "max_steps": 12, "checkpoint_every": 5, "log_every": 3,
                "workers": 0, "epochs": 100, "warmup": 2}  # fmt: skip
    return TrainConfig(shards=(str(run),), out=str(out), **(defaults | given))  # type: ignore[arg-type]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(Path(checkpoint.find(str(out))) / "model.safetensors")


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(v, right[k]) for k, v in left.items())


def prepared(given: TrainConfig) -> ClipSetup:
    return distributed.joined("cpu", lambda world: prepare(given, world))


def lines(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


# ---- the optimiser


def test_schedule_warms_up_and_follows_a_cosine_to_zero() -> None:
    rates = [optimizer.learning_rate(s, 100, 2.0, 10) for s in range(101)]
    assert rates[0] == pytest.approx(0.2) and rates[9] == pytest.approx(2.0) == rates[10]
    assert rates[55] == pytest.approx(1.0) and rates[100] == pytest.approx(0.0)
    assert all(a >= b for a, b in pairwise(rates[10:]))
    assert optimizer.learning_rate(0, 5, 1.0, 0) == 1.0


def test_gains_biases_and_the_scale_do_not_decay() -> None:
    model = CLIP(ARCHITECTURES["tiny"]).initialise(0)
    decayed, plain = optimizer.parameter_groups(model, 0.2)
    names = {id(p): n for n, p in model.named_parameters()}
    without = {names[id(p)] for p in plain["params"]}  # type: ignore[attr-defined]
    assert decayed["weight_decay"] == 0.2 and plain["weight_decay"] == 0.0
    assert without == {n for n in names.values() if n.endswith(("bias", "logit_scale"))} | {
        n for n, p in model.named_parameters() if p.ndim == 1
    }
    assert {"logit_scale", "ln_final.weight", "visual.bn1.weight"} <= without
    assert not {"positional_embedding", "text_projection", "visual.conv1.weight"} & without
    adam = optimizer.make_optimizer(model, RECIPES["ViT-B-32"])
    assert adam.defaults["betas"] == (0.9, 0.98) and adam.defaults["eps"] == 1e-6


# ---- a run


def test_training_learns_and_says_so(run: Path, tmp_path: Path) -> None:
    evaluation = tmp_path / "eval"
    for colour in train_shards.COLOURS:
        (evaluation / colour).mkdir(parents=True)
        for index in range(5):
            (evaluation / colour / f"{index}.jpg").write_bytes(train_shards.jpeg(colour, seed=1000 + index))
    out = tmp_path / "out"
    result = fit(config(run, out, max_steps=40, lr=3e-3, eval=(f"colours={evaluation}",), eval_every=20))
    assert isinstance(result, TrainingResult) and result.complete and result.steps == result.planned == 40
    assert result.chance == {"colours": 0.25} and result.accuracy["colours"] >= 0.75
    logged = [line for line in lines(out) if "loss" in line]
    assert logged[-1]["loss"] < 0.8 * logged[0]["loss"]  # type: ignore[operator]
    assert {"step", "scale", "lr", "samples_per_second", "data_wait", "memory_gb", "equal_captions", "bad",
            "grad_norm", "equal_uids"} <= logged[0].keys()  # fmt: skip
    assert [line["step"] for line in lines(out) if "accuracy/colours" in line] == [20, 40]
    effective = (out / "config.toml").read_text()
    assert "max_steps = 40" in effective and "weight_decay = 0.1" in effective
    loaded = checkpoint.load_model(str(out))
    assert loaded.state.step == 40 and not loaded.model.training
    assert loaded.tokenizer.vocab_size == loaded.state.architecture.vocab_size < 1000


def test_resuming_in_the_middle_of_an_epoch_is_exact(run: Path, tmp_path: Path) -> None:
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    first = fit(config(run, whole, keep_checkpoints=9))
    # The second run dies after step 5 of the 4-step epochs: later rows that it had written are gone.
    shutil.copytree(whole, halved)
    for name in ("step-00000010", "step-00000012"):
        shutil.rmtree(halved / "checkpoints" / name)
    (halved / "checkpoints" / "latest").write_text("step-00000005")
    second = fit(config(run, halved, resume=True, workers=1))  # another number of workers
    assert second.steps == 12 and second.loss == first.loss
    assert equal(weights(whole), weights(halved))
    for name in ("model", "optimizer"):
        files = [
            (p / "checkpoints/step-00000012" / f"{name}.safetensors").read_bytes() for p in (whole, halved)
        ]
        assert files[0] == files[1]
    steps = [line["step"] for line in lines(halved)]
    assert steps == [3, 6, 9, 12]  # the lines after the checkpoint were replaced, not repeated
    losses = [[line["loss"] for line in lines(out)] for out in (whole, halved)]
    assert losses[0] == losses[1]


def test_a_run_that_is_balanced_online_resumes_exactly(run: Path, tmp_path: Path) -> None:
    for index, (first, size) in enumerate([(0, 20), (20, 24), (44, 20)]):
        numbers = range(first, first + size)
        rows = {
            "uid": [f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}{number:016x}" for number in numbers],
            "matched_query_ids": pa.array([[number % 4] for number in numbers], pa.list_(pa.int32())),
        }
        pq.write_table(pa.table(rows), run / "shards" / f"{index:05d}.parquet")
    counts = {"query_id": pa.array(range(4), pa.int32()), "query": list(train_shards.COLOURS)}
    pq.write_table(pa.table(counts), run / "query_counts.parquet")
    given = {"balance": 8, "epochs": 5, "max_steps": None, "checkpoint_every": 3, "keep_checkpoints": 9}
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    first = fit(config(run, whole, **given))
    setup = prepared(config(run, tmp_path / "other", **given))
    epochs = setup.sampler.epochs
    assert len(epochs) == 5 and len(set(epochs)) > 1 and 16 <= min(epochs) <= max(epochs) <= 48
    assert first.steps == first.planned == sum(samples // 16 for samples in epochs)
    assert lines(whole)[-1]["epoch"] == 5
    shutil.copytree(whole, halved)
    for path in (halved / "checkpoints").glob("step-*"):
        if path.name != "step-00000003":
            shutil.rmtree(path)
    (halved / "checkpoints" / "latest").write_text("step-00000003")
    assert fit(config(run, halved, resume=True, workers=1, **given)).loss == first.loss
    assert equal(weights(whole), weights(halved))
    with pytest.raises(ValueError, match=r"balance \(was 8, is 9\)"):
        fit(config(run, halved, resume=True, **given | {"balance": 9}))


def test_two_runs_are_alike_and_seeds_differ(run: Path, tmp_path: Path) -> None:
    for name, seed in [("a", 0), ("b", 0), ("c", 1)]:
        fit(config(run, tmp_path / name, max_steps=3, seed=seed))
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not equal(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_another_run_is_not_resumed(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fit(config(run, out, max_steps=2))
    with pytest.raises(ValueError, match="continue it with --resume"):
        fit(config(run, out, max_steps=2))
    with pytest.raises(ValueError, match=r"lr \(was 0.002, is 0.5\)"):
        fit(config(run, out, max_steps=2, lr=0.5, resume=True))
    train_shards.write_run(run, [20, 24, 21])
    with pytest.raises(ValueError, match=r"epoch_samples \(was 64, is 65\)"):
        fit(config(run, out, max_steps=2, resume=True))


def test_old_checkpoints_go_and_unfinished_ones_are_ignored(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fit(config(run, out, checkpoint_every=2, keep_checkpoints=2, max_steps=7))
    assert checkpoint.complete(str(out / "checkpoints")) == ["step-00000006", "step-00000007"]
    (out / "checkpoints/step-00000099").mkdir()
    (out / "checkpoints/step-00000099/model.safetensors").write_bytes(b"half")
    assert checkpoint.find(str(out)).endswith("step-00000007")
    assert checkpoint.find(str(out / "checkpoints/step-00000006")).endswith("06")
    with pytest.raises(ValueError, match="no checkpoint there"):
        checkpoint.find(str(tmp_path))


def test_a_failed_write_is_not_silent(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "checkpoints").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="checkpoints"):
        fit(config(run, out, max_steps=2))


def test_time_is_a_limit(run: Path, tmp_path: Path) -> None:
    result = fit(config(run, tmp_path / "out", max_steps=10_000, epochs=5_000, max_minutes=0.001))
    assert 0 < result.steps < result.planned and result.complete
    assert checkpoint.load_model(str(tmp_path / "out")).state.step == result.steps


@pytest.mark.parametrize("accumulate", [1, 4])
def test_accumulation_trains_a_vit_alike(
    accumulate: int, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vit = replace(ARCHITECTURES["tiny"], vision_layers=1, patch_size=16, vision_width=64, text_layers=1)
    monkeypatch.setitem(architectures.ARCHITECTURES, "tiny", vit)
    fit(config(run, tmp_path / "a", max_steps=4, log_every=1))
    fit(
        config(
            run, tmp_path / "b", max_steps=4, log_every=1, accumulate=accumulate, checkpointing=accumulate > 1
        )
    )
    # Losses, not weights: the keys' biases have no gradient, and Adam makes a step of its rounding error.
    losses = [[line["loss"] for line in lines(tmp_path / name)] for name in "ab"]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and len(losses[0]) == 4


def test_resuming_a_finished_run_tells_its_last_figures(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faces = eval_models.colours(tmp_path / "faces", 2)
    command = [*arguments(run, tmp_path / "out"), "--eval", f"f={faces}"]

    def rows() -> list[str]:
        printed = capsys.readouterr().out
        return [row for row in printed.splitlines() if "loss" in row or "accuracy" in row]

    assert cli.main(command) == 0
    first, before = rows(), lines(tmp_path / "out")
    assert len(first) == 2
    assert cli.main([*command, "--resume"]) == 0
    assert rows() == first and lines(tmp_path / "out") == before
    (tmp_path / "out/metrics.jsonl").unlink()
    assert cli.main([*command, "--resume"]) == 0
    assert rows() == [], "where nothing tells them, there are no rows"


def test_batch_norms_that_see_micro_batches_are_warned_of(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepared(config(run, tmp_path / "a"))
    assert "batch norms" not in caplog.text
    prepared(config(run, tmp_path / "a", accumulate=4))
    assert "--accumulate 4: tiny has batch norms, which see micro-batches of 4" in caplog.text


@pytest.mark.parametrize("activation", ["gelu", "quick-gelu"])
def test_an_activation_goes_from_weights_through_training_to_the_export(
    activation: str, run: Path, tmp_path: Path
) -> None:
    own = fit(config(run, tmp_path / "own", activation=activation, max_steps=2))
    assert checkpoint.load_model(own.out).model.architecture.activation == activation
    export = ["--checkpoint", own.out, "--format", "open_clip", "--out", str(tmp_path / "x")]
    assert cli.export_main(export) == 0
    says = json.loads((tmp_path / "x/open_clip_config.json").read_text())["model_cfg"]["quick_gelu"]
    assert says == (activation == "quick-gelu")
    for start in (own.out, str(tmp_path / "x")):
        out = tmp_path / f"from-{Path(start).name}"
        assert prepared(config(run, out, init_from=start)).architecture.activation == activation
    going = config(run, tmp_path / "own", resume=True, max_steps=2)
    assert prepared(going).architecture.activation == activation, "a resumed run has its own"
    other = "gelu" if activation == "quick-gelu" else "quick-gelu"
    with pytest.raises(ValueError, match=f"--activation {other}: .* was trained with {activation}"):
        prepared(config(run, tmp_path / "b", init_from=own.out, activation=other))


def test_who_resizes_goes_on_with_a_run(run: Path, tmp_path: Path) -> None:
    fit(config(run, tmp_path / "own", resize="device", max_steps=2))
    going = config(run, tmp_path / "own", resume=True, max_steps=2)
    assert prepared(going).resize == "device"
    assert prepared(config(run, tmp_path / "other")).resize == "workers", "on a CPU"
    with pytest.raises(ValueError, match=r"--resize workers: .* was trained with device: leave it out"):
        prepared(dataclasses.replace(going, resize="workers"))
    with pytest.raises(ValueError, match="--resize device is for --crop paper"):
        config(run, tmp_path / "own", resize="device", crop="crop")


def test_damaged_weights_to_start_or_go_on_from_are_refused(run: Path, tmp_path: Path) -> None:
    done = fit(config(run, tmp_path / "own", max_steps=2))
    [folder] = (tmp_path / "own/checkpoints").glob("step-*")
    state = load_file(folder / "model.safetensors")
    save_file(state | {"ln_final.bias": state["ln_final.bias"] * torch.inf}, folder / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"model.safetensors: ln_final.bias holds numbers that are not finite"
    ):
        fit(config(run, tmp_path / "b", init_from=done.out))
    with pytest.raises(
        ValueError, match=r"model.safetensors: ln_final.bias holds numbers that are not finite"
    ):
        fit(config(run, tmp_path / "own", resume=True, max_steps=2))
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match=r"--init-from .* is a pointer of git-lfs"):
        fit(config(run, tmp_path / "b", init_from=str(folder / "model.safetensors")))


def test_check_looks_at_the_evaluation_sets_too(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one/red").mkdir(parents=True)
    (tmp_path / "one/red/1.jpg").write_bytes(train_shards.jpeg("red"))
    command = [*arguments(run, tmp_path / "out", "--check"), "--eval", f"one={tmp_path / 'one'}"]
    assert cli.main(command) == 2 and "--eval one has only one class, 'red'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["train", "export"])
def test_a_folder_that_cannot_be_written_is_one_sentence(
    command: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x")
    out = tmp_path / "file/out"
    model = eval_models.training_run(tmp_path / "model")
    code = (
        cli.main(arguments(run, out)) if command == "train"
        else cli.export_main(["--checkpoint", str(model), "--format", "hf", "--out", str(out)])
    )  # fmt: skip
    error = capsys.readouterr().err
    [line] = [line for line in error.splitlines() if "INFO" not in line]
    assert code == 2 and line.startswith(f"openwit {command}: error: {tmp_path}/file")


def test_divergence_is_said(run: Path, tmp_path: Path) -> None:
    from train.trainer import Diverged

    with pytest.raises(Diverged, match="the loss is nan after step"):
        fit(config(run, tmp_path / "out", lr=1e30, max_steps=9))


# ---- starting from weights


def test_starting_from_weights_at_another_resolution(run: Path, tmp_path: Path) -> None:
    fit(config(run, tmp_path / "a", max_steps=3))
    result = fit(
        config(
            run,
            tmp_path / "b",
            init_from=str(tmp_path / "a"),
            image_size=64,
            enlarge=True,
            max_steps=1,
            lr=1e-9,
        )
    )
    assert result.counts["enlarged"] == 16
    before, after = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert before["visual.attnpool.positional_embedding"].shape[0] == 2
    assert after["visual.attnpool.positional_embedding"].shape[0] == 5
    torch.testing.assert_close(before["text_projection"], after["text_projection"], rtol=0, atol=1e-7)
    vocabularies = [
        (Path(checkpoint.find(str(tmp_path / x))) / checkpoint.VOCABULARY).read_bytes() for x in "ab"
    ]
    assert vocabularies[0] == vocabularies[1]


def test_starting_from_exported_weights(run: Path, tmp_path: Path) -> None:
    fit(config(run, tmp_path / "a", max_steps=2))
    for form in ("open_clip", "openai"):
        code = cli.export_main(
            ["--checkpoint", str(tmp_path / "a"), "--format", form, "--out", str(tmp_path / form)]
        )
        assert code == 0
        out = tmp_path / f"from-{form}"
        fit(config(run, out, init_from=str(tmp_path / form), max_steps=1, lr=1e-12, weight_decay=0.0))
        torch.testing.assert_close(
            weights(out)["text_projection"], weights(tmp_path / "a")["text_projection"]
        )


def test_weights_that_do_not_fit_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        fit(config(run, tmp_path / "b", init_from=str(tmp_path / "nothing.safetensors")))
    fit(config(run, tmp_path / "a", max_steps=1))
    with pytest.raises(ValueError, match="holds no RN50"):
        fit(config(run, tmp_path / "b", init_from=str(tmp_path / "a"), model="RN50"))
    with pytest.raises(ValueError, match=r"tokens, the vocabulary 515"):
        (tmp_path / "v.txt").write_text("#version\na b\n")
        fit(config(run, tmp_path / "b", init_from=str(tmp_path / "a"), vocab=str(tmp_path / "v.txt")))


# ---- the commands


def arguments(run: Path, out: Path, *more: str) -> list[str]:
    return ["--shards", str(run), "--out", str(out), "--model", "tiny", "--batch-size", "16",
            "--max-steps", "4", "--workers", "0", *more]  # fmt: skip


def test_check_prints_the_plan_and_writes_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drop = tmp_path / "drop.parquet"
    pq.write_table(pa.table({"uid": [f"{n:032x}" for n in range(4)]}), drop)
    assert cli.main(arguments(run, tmp_path / "out", "--check", "--drop", str(drop))) == 0
    printed = capsys.readouterr().out
    assert "3 steps per epoch, 4 in all" in printed and 'model = "tiny"' in printed
    assert not (tmp_path / "out").exists()


def test_usage_errors_end_with_2(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([*arguments(run, tmp_path / "out"), "--batchsize", "3"])
    assert caught.value.code == 2
    assert cli.main(arguments(run, tmp_path / "out", "--image-size", "224")) == 2
    assert "pixels for a model of 224" in capsys.readouterr().err
    assert cli.main(arguments(run, tmp_path / "out", "--image-size", "100")) == 2
    assert "not a multiple of 32" in capsys.readouterr().err
    assert cli.main(arguments(tmp_path / "none", tmp_path / "out")) == 2
    assert cli.export_main(["--checkpoint", str(tmp_path), "--format", "hf", "--out", str(tmp_path)]) == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"shards": ()}, "--shards is needed"),
        ({"accumulate": 0}, "--accumulate must be at least 1"),
        ({"lr": -1.0}, "--lr must be positive"),
        ({"resume": True, "init_from": "x"}, "give one of them"),
    ],
)
def test_options_that_cannot_be_meant(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**({"shards": ("x",), "out": "y"} | given))  # type: ignore[arg-type]


def test_every_option_has_help_and_survives_toml(run: Path, tmp_path: Path) -> None:
    before = config(run, tmp_path / "out", weights=(0.5, 2.0), drop=("a", "b"))
    (tmp_path / "c.toml").write_text(options.to_toml(options.effective(before)))
    after, _ = options.parse(TrainConfig, ["--config", str(tmp_path / "c.toml")], prog="openwit train")
    assert after == before
    out = subprocess.run(
        [sys.executable, "-m", "train", "--help-all"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in options.effective(before):
        assert f"--{name.replace('_', '-')}" in out


def test_options_cost_no_torch_and_training_needs_no_beam() -> None:
    code = (
        "import sys, train, train.cli, train.options; assert 'torch' not in sys.modules;"
        "sys.modules['apache_beam'] = None; import train.clip_trainer; assert 'webdataset' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# ---- processes


def spawn(arguments: list[str], **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "train", *arguments], cwd=ROOT, text=True, stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )  # fmt: skip


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    for _ in range(1200):
        if condition() or process.poll() is not None:
            break
        time.sleep(0.1)
    assert condition(), process.communicate()[1][-3000:]


def test_sigterm_saves_and_the_run_goes_on(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = arguments(run, out, "--log-every", "1", "--max-steps", "100000", "--epochs", "100000")
    process = spawn(command)
    metrics = out / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") > 2, process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 1  # not complete
    state = checkpoint.read_state(checkpoint.find(str(out)))
    assert state.step == lines(out)[-1]["step"] >= 3
    process = spawn([*command, "--resume"])
    wait_for(lambda: lines(out)[-1]["step"] > state.step + 1, process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert checkpoint.read_state(checkpoint.find(str(out))).step > state.step


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_gone_before_the_process_group(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """Else processes now and then wait for themselves for ever when all is done."""
    models: list[weakref.ref[object]] = []
    left: list[object] = []
    made = clip_trainer.ClipTrainer.__init__

    def remember(self: clip_trainer.ClipTrainer, *given: Any) -> None:
        made(self, *given)
        models.append(weakref.ref(self.wrapped))

    def diverge(self: clip_trainer.ClipTrainer) -> None:
        raise Diverged("no number")

    monkeypatch.setattr(clip_trainer.ClipTrainer, "__init__", remember)
    monkeypatch.setattr(distributed, "leave", lambda: left.extend(model() for model in models))
    if fails:
        monkeypatch.setattr(clip_trainer.ClipTrainer, "after_step", diverge)
    with pytest.raises(Diverged) if fails else contextlib.nullcontext():
        clip_trainer.fit(config(run, tmp_path / "out", max_steps=2))
    assert left == [None]


def test_two_processes_train_as_one(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch norms see half a batch each, so losses are near; test_train_loss.py shows exactness."""
    monkeypatch.undo()  # processes have the model as it is
    model = ["--model", "tiny", "--max-steps", "4", "--log-every", "1"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": "2",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    out = tmp_path / "two"
    processes = [
        spawn([*arguments(run, out), *model], **environment, RANK=str(r), LOCAL_RANK=str(r)) for r in range(2)
    ]
    for process in processes:
        errors = process.communicate(timeout=240)[1]
        assert process.returncode == 0, errors[-3000:]
    assert cli.main([*arguments(run, tmp_path / "one"), *model]) == 0
    left, right = ([line["loss"] for line in lines(x)] for x in (out, tmp_path / "one"))
    assert left[0] == pytest.approx(right[0], rel=0.15) and len(left) == len(right) == 4
    assert lines(out)[-1]["equal_captions"] == lines(tmp_path / "one")[-1]["equal_captions"]
    assert math.isfinite(left[-1]) and checkpoint.load_model(str(out)).state.step == 4
