"""The features that make training fast on a GPU, on a CPU: compiled networks, bf16, the fused optimiser."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dedup.detector.cli import main as train_detector
from pipeline.data import architectures
from pipeline.data.architectures import ARCHITECTURES, RECIPES
from tests import train_shards
from tests.test_detector_train import TRAIN, shards
from train import checkpoint
from train.cli import main as train_clip
from train.model import CLIP
from train.optimizer import make_optimizer, parameter_groups

STEPS = 6
COMPILED = 1e-4
"""Relative: compiled arithmetic is fp32 too, in another order; measured up to 1e-5."""
BF16 = 0.02
"""Relative: bf16 has 8 bits of mantissa, 0.4% a rounding; measured up to 0.009."""

Losses = Callable[..., list[float]]


@pytest.fixture(params=["ResNet", "ViT"])
def clip(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Losses:
    """Return a function that trains a small CLIP by `openwit train` with more flags, giving its losses."""
    small = replace(ARCHITECTURES["tiny"], vision_width=8, text_width=64, embed_dim=32)
    if request.param == "ViT":
        small = replace(small, vision_layers=2, patch_size=16, vision_width=64)
    monkeypatch.setitem(architectures.ARCHITECTURES, "tiny", small)
    run = train_shards.write_run(tmp_path / "run", [20, 24, 20])

    def losses(name: str, *flags: str) -> list[float]:
        argv = ["--shards", str(run), "--out", str(tmp_path / name), "--model", "tiny", "--batch-size", "32",
                "--max-steps", str(STEPS), "--warmup", "2", "--lr", "2e-4", "--log-every", "1",
                "--workers", "0"]  # fmt: skip
        assert train_clip([*argv, *flags]) == 0
        return read(tmp_path / name)

    return losses


def read(out: Path) -> list[float]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def test_bf16_trains_as_fp32_does(clip: Losses) -> None:
    exact, rounded = clip("fp32"), clip("bf16", "--precision", "bf16")
    assert rounded == pytest.approx(exact, rel=BF16) and len(exact) == STEPS
    assert rounded != exact, "another arithmetic"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_blocks_train_as_eager_ones_do(clip: Losses, tmp_path: Path) -> None:
    eager, compiled = clip("eager"), clip("compiled", "--compile", "on")
    assert compiled == pytest.approx(eager, rel=COMPILED)
    both = clip("both", "--compile", "on", "--precision", "bf16")
    assert both == pytest.approx(eager, rel=BF16)
    models = [checkpoint.load_model(str(tmp_path / name)).model for name in ("eager", "compiled")]
    parameters = [list(model.state_dict()) for model in models]
    assert parameters[0] == parameters[1], "a compiled run's checkpoint is as any other"


@pytest.fixture
def detector(tmp_path: Path) -> Losses:
    """Return a function that trains a small detector with more flags, and returns its losses."""
    shards(tmp_path / "shards", range(48))

    def losses(name: str, *flags: str) -> list[float]:
        argv = [
            "train",
            "--shards",
            str(tmp_path / "shards"),
            "--out",
            str(tmp_path / name),
            "--samples",
            "64",
        ]
        assert train_detector([*argv, *TRAIN, *flags]) == 0
        return read(tmp_path / name)

    return losses


def test_the_detector_trains_in_bf16(detector: Losses) -> None:
    exact, rounded = detector("fp32"), detector("bf16", "--precision", "bf16")
    assert rounded == pytest.approx(exact, rel=BF16) and rounded != exact


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_the_detector_trains_compiled(detector: Losses) -> None:
    assert detector("compiled", "--compile", "on") == pytest.approx(detector("eager"), rel=COMPILED)


def test_the_fused_optimiser_steps_as_the_plain_one() -> None:
    """One kernel for all parameters, as AdamW's paper (arXiv:1711.05101, algorithm 2) has it."""
    recipe = RECIPES["ViT-B-32"]
    fused, plain = (CLIP(ARCHITECTURES["tiny"]).initialise(0) for _ in range(2))
    ours = make_optimizer(fused, recipe)
    theirs = torch.optim.AdamW(
        parameter_groups(plain, recipe.weight_decay), lr=recipe.lr, betas=(recipe.beta1, recipe.beta2),
        eps=recipe.eps, fused=False, foreach=False,
    )  # fmt: skip
    assert ours.defaults["fused"] and not theirs.defaults["fused"]
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        for a, b in zip(fused.parameters(), plain.parameters(), strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        ours.step()
        theirs.step()
    for (name, a), b in zip(fused.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7, msg=name)
