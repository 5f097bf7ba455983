"""`openwit overlap` reads the predictions of `openwit eval`: contamination, then accuracy on both parts."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import beam_job
from tests import eval_models
from tests.train_shards import member


def photograph(seed: int, colour: int) -> Image.Image:
    """Return a picture with enough detail to be recognised: blocks at three scales under a tint."""
    random = np.random.default_rng(seed)
    canvas = np.zeros((128, 128, 3))
    for cells in (4, 16, 32):
        layer = random.integers(0, 255, (cells, cells, 3)).astype(np.uint8)
        canvas += np.asarray(Image.fromarray(layer).resize((128, 128), Image.Resampling.BICUBIC)) / 3
    canvas[:, :, colour] = 0.5 * canvas[:, :, colour] + 110
    return Image.fromarray(canvas.clip(0, 255).astype(np.uint8))


def test_predictions_go_into_the_overlap_report_and_its_subsets_come_back(tmp_path: Path) -> None:
    import io
    import tarfile

    pytest.importorskip("faiss")
    for number in range(18):
        folder = tmp_path / "set" / ("red", "green", "blue")[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        photograph(number, number % 3).save(folder / f"{number}.jpg", quality=92)
    with tarfile.open(tmp_path / "train-000.tar", "w") as tar:
        for key, seed in enumerate([0, 1, 2, 3, *range(100, 140)]):  # four of the set, and others
            buffer = io.BytesIO()
            photograph(seed, seed % 3).save(buffer, "JPEG", quality=85)
            member(tar, f"{key:06d}.jpg", buffer.getvalue())
            member(tar, f"{key:06d}.txt", b"a picture")
    eval_models.export(tmp_path / "model")
    common = [
        "eval",
        "--checkpoint",
        f"m={tmp_path / 'model'}",
        "--task",
        "zeroshot",
        "--data",
        f"own={tmp_path / 'set'}",
    ]
    assert beam_job.main([*common, "--out", str(tmp_path / "eval"), "--save-predictions"]) == 0
    whole = json.loads((tmp_path / "eval" / "results.json").read_text())[0]["metrics"]["acc1"]
    assert beam_job.main(
        ["overlap", "--run", str(tmp_path / "train-*.tar"), "--eval", f"own={tmp_path / 'set'}",
         "--predictions", f"own={tmp_path / 'eval' / 'predictions' / 'own.parquet'}", "--planted", "0",
         "--workers", "1", "--out", str(tmp_path / "overlap")]
    ) == 0  # fmt: skip
    (report,) = json.loads((tmp_path / "overlap" / "report.json").read_text())["datasets"]
    assert report["overlap"] == 4 and report["acc_all"] == pytest.approx(whole)
    page = (tmp_path / "overlap" / "index.html").read_text()
    assert '<a href="./../eval/report.html">the evaluation</a>' in page
    parts = [part for name in ("clean", "overlap")
             for part in ("--subset", f"own={tmp_path / 'overlap' / name / 'own.txt'}")]  # fmt: skip
    assert beam_job.main([*common, "--out", str(tmp_path / "eval"), *parts]) == 0
    rows = {
        row["dataset"]: row["metrics"] for row in json.loads((tmp_path / "eval/results.json").read_text())
    }
    assert rows["own/clean"]["acc1"] == pytest.approx(report["acc_clean"])
    assert rows["own/overlap"]["acc1"] == pytest.approx(report["acc_overlap"])
    assert rows["own/overlap"]["examples"] == 4
