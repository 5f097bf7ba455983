"""`openwit detector train`: the loop, checkpoints and gradients of CLIP's training, on pairs of views."""

import json
import shutil
import tarfile
from pathlib import Path

import pytest
import torch

from dedup.detector import detector_file
from dedup.detector.cli import main
from dedup.detector.options import SAMPLES, DetectorTrainConfig
from dedup.detector.pairs import AugmentedPairs
from dedup.detector.train import DetectorTrainer, prepare
from tests.scenes import jpeg, scene, write_folder
from tests.train_shards import member
from train import distributed
from train.data import load


def shards(root: Path, pictures: range) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    with tarfile.open(root / "00000.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for n in pictures:
            member(tar, f"{n:09d}.jpg", b"not a jpeg" if n == pictures[5] else jpeg(scene(n, 80, 110)))
            member(tar, f"{n:09d}.json", json.dumps({"uid": f"{n:032x}"}).encode())
    return root


TRAIN = ("--model", "small", "--image-size", "32", "--batch-size", "16", "--workers", "0", "--log-every", "1",
         "--shuffle", "64", "--background", "24", "--device", "cpu", "--lr", "0.002")  # fmt: skip


def losses(out: Path) -> list[float]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Return the folder of a training run of 6 steps, in one go."""
    root = tmp_path_factory.mktemp("train")
    shards(root / "shards", range(48))
    write_folder(root / "unseen", {f"{n}.jpg": scene(n) for n in range(900, 906)})
    code = main(
        ["train", "--shards", str(root / "shards"), "--out", str(root / "out"), "--samples", "96", *TRAIN,
         "--checkpoint-every", "3", "--eval", f"unseen={root}/unseen", "--workers", "1"]
    )  # fmt: skip
    assert code == 0
    return root


def test_training_writes_what_the_other_commands_read(trained):
    detector = detector_file.read(str(trained / "out/detector.safetensors"))
    assert detector.about == {"model": "small", "step": 6, "samples": 96}
    assert (detector.side, detector.dims, len(detector.normaliser.background)) == (32, 128, 23)
    rows = [json.loads(line) for line in (trained / "out/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6, 6]
    assert 0 <= rows[-1]["accuracy/unseen"] <= 1
    assert rows[-2]["bad"]["not_image"] >= 1 and rows[0]["equal_uids"] <= 1
    assert "loss" in (trained / "out/training.svg").read_text()


def test_a_resumed_run_is_the_same_run(trained, tmp_path):
    """Stop after step 3, as if the later checkpoint had never been written; and decode without a worker."""
    shutil.copytree(trained / "out", tmp_path / "out")
    shutil.rmtree(tmp_path / "out/checkpoints/step-00000006")
    (tmp_path / "out/checkpoints/latest").write_text("step-00000003")
    (tmp_path / "out/detector.safetensors").unlink()
    arguments = ["train", "--shards", str(trained / "shards"), "--out", str(tmp_path / "out"),
                 "--samples", "96", *TRAIN, "--checkpoint-every", "3",
                 "--eval", f"unseen={trained}/unseen"]  # fmt: skip
    assert main(arguments) == 2, "a run is only continued on request"
    assert main([*arguments, "--resume"]) == 0
    assert losses(tmp_path / "out") == losses(trained / "out")
    before, after = (folder / "out/detector.safetensors" for folder in (trained, tmp_path))
    assert before.read_bytes() == after.read_bytes()


def test_resuming_another_run_is_refused(trained, capsys):
    code = main(
        ["train", "--shards", str(trained / "shards"), "--out", str(trained / "out"), "--samples", "960",
         *TRAIN, "--checkpoint-every", "3", "--resume"]
    )  # fmt: skip
    assert code == 2 and "samples (was 96, is 960)" in capsys.readouterr().err


def test_micro_batches_give_the_whole_batchs_gradient(trained):
    """Gradient caching is exact here: weight norm leaves no batch statistics to differ."""
    gradients = []
    for accumulate in (1, 4):
        config = DetectorTrainConfig(
            shards=(str(trained / "shards"),), out=str(trained / "none"), model="small", image_size=32,
            batch_size=16, accumulate=accumulate, samples=32, workers=0, grad_clip=None,
        )  # fmt: skip
        world = distributed.join("cpu")
        setup = prepare(config, world)
        trainer = DetectorTrainer(setup, world)
        pairs = AugmentedPairs(setup.sampler, setup.shape, setup.cache, 32)
        trainer.train_step(next(load(pairs, 0, 1, 0, world.device)))
        gradients.append(
            {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
        )
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 40
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=2e-5, rtol=1e-3), name


def test_check_prints_the_plan_and_writes_nothing(trained, tmp_path, capsys):
    code = main(
        ["train", "--shards", str(trained / "shards"), "--out", str(tmp_path / "none"), "--samples", "96",
         *TRAIN, "--check"]
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert code == 0 and "6 steps of 16 pairs" in printed and "batch_size = 16" in printed
    assert not (tmp_path / "none").exists()


def test_the_papers_setting_is_the_default():
    config = DetectorTrainConfig(shards=("x",), out="y")
    assert config.model == "RN50" and config.recipe().batch_size == 1_712 and SAMPLES["RN50"] == 30_000_000


@pytest.mark.parametrize("arguments", [[], ["learn"], ["train"], ["embed", "--detectr", "x"]])
def test_usage_errors(arguments):
    try:
        code = main(arguments)
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
