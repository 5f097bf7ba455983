"""The comparison with published zero-shot figures, as far as it goes without real weights."""

import json
from pathlib import Path

import pytest

from bench import real
from tests import eval_models


def test_published_figures_are_found_by_model_and_set() -> None:
    found = real.read(real.PUBLISHED, "ViT-B-32")
    assert found["open_clip"]["imagenet"] == 0.6332 and found["paper"] == {"imagenet": 0.632}
    rows = [
        {"dataset": "ImageNet-val", "task": "zeroshot", "main_metric": "acc1", "metrics": {"acc1": 0.6341}},
        {"dataset": "pets", "task": "zeroshot", "main_metric": "acc1", "metrics": {"acc1": 0.5}},
        {"dataset": "mine", "task": "zeroshot", "main_metric": "acc1", "metrics": {"acc1": 0.5}},
        {"dataset": "pets", "task": "linear-probe", "main_metric": "acc1", "metrics": {"acc1": 0.9}},
    ]
    beside = real.beside(rows, found)
    assert [(row.dataset, row.differs(0.003)) for row in beside] == [
        ("ImageNet-val", False), ("pets", True), ("mine", False)
    ]  # fmt: skip
    assert beside[0].published == {"open_clip": 0.6332, "paper": 0.632}
    with pytest.raises(ValueError, match="figures are known of RN50, RN101"):
        real.read(real.PUBLISHED, "mine")


@pytest.mark.usefixtures("one_thread")
def test_a_checkpoint_is_measured_and_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = eval_models.export(tmp_path / "model")
    eval_models.colours(tmp_path / "cifar10", 3)
    published = ["--published", str(tmp_path / "p.csv")]
    arguments = [str(model), "--model", "tiny", "--out", str(tmp_path / "out"), *published,
                 "--data", f"cifar10={tmp_path / 'cifar10'}"]  # fmt: skip
    (tmp_path / "p.csv").write_text("model,source,cifar10\ntiny,open_clip,2\n")
    assert real.main(arguments) == 1 and "differs" in capsys.readouterr().out
    row = json.loads((tmp_path / "out" / "results.json").read_text())[0]
    (tmp_path / "p.csv").write_text(f"model,source,cifar10\ntiny,open_clip,{row['metrics']['acc1']}\n")
    assert real.main(arguments) == 0 and "as published" in capsys.readouterr().out
