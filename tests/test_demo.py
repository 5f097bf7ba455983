"""`openwit demo`, small and without training: the command that newcomers type first."""

import json
from pathlib import Path
from typing import get_args

import pytest

import beam_job
from pipeline.demo import measured, run
from pipeline.demo.draw import COLOURS
from pipeline.demo.run import EVALUATION_SETS as SETS
from pipeline.demo.web import load
from tests import eval_models
from tests.crawling import manifest, samples
from train.evaluation.options import Task

pytestmark = pytest.mark.timeout(900)


def test_the_demo_builds_checks_and_compares(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    argv = ["demo", "--out", str(out), "--images", "64", "--sites", "16", "--train-minutes", "0"]
    assert beam_job.main(argv) == 0
    assert len(samples(out / "run")) > 30
    counts = manifest(out / "run")["counts"]
    assert counts["candidates"] == counts["captions"] + counts["rejected"]
    for path in ("overlap/index.html", "overlap/report.json", "run/shards/00000.tar"):
        assert (out / path).exists()
    planted_copies_are_found_all_and_only(out)
    every_task_is_measured(out)
    said = capfd.readouterr().err
    assert "captions in shards" in said and "overlap with evaluation sets" in said
    assert "INFO" not in said and "apitools" not in said, "no noise of the engine on the terminal"
    assert beam_job.main(argv) == 0, "again: nothing to do"


def every_task_is_measured(out: Path) -> None:
    """Measure a model that learned nothing in the place of the one that two minutes of training leave."""
    eval_models.training_run(out / "model")
    assert run.measure(load(out / "web"), out, run.DemoConfig(out=str(out))) == 0
    rows = json.loads((out / "evaluation/results.json").read_text())
    assert {row["task"] for row in rows} == set(get_args(Task))
    by_task = {row["task"]: row for row in rows if row["dataset"] in SETS or row["dataset"] == "renditions"}
    probe = by_task["linear-probe"]
    assert probe["dataset"] == "clean" and probe["detail"]["fitted_on"] == 10 * measured.LABELLED_PER_CLASS
    assert probe["metrics"]["acc1"] > 0.15, "even random features tell some drawings apart"
    assert {one["group"] for one in by_task["bias"]["detail"]["errors"]} == set(measured.RENDITIONS)
    assert len(by_task["bias"]["detail"]["assigned_with_added"]) == len(COLOURS)
    assert (
        by_task["robustness"]["dataset"] == "renditions" and by_task["retrieval"]["metrics"]["images"] == 120
    )
    corrupted = {row["dataset"] for row in rows if row["detail"].get("corruption")}
    assert len(corrupted) == 5 * 5
    page = (out / "evaluation/report.html").read_text("utf-8")
    assert all(f'id="{task}"' in page for task in get_args(Task))
    assert "clean: nearest and the model" in page, "which classes are hard for whom"


def planted_copies_are_found_all_and_only(out: Path) -> None:
    """Compare with the truth: copies of what is in the set, no other drawing, no hard negative."""
    fetched = {row["url"] for row in samples(out / "run")}
    # A page may offer a picture in several encodings; any of them is that picture.
    lines = (out / "web/truth.jsonl").read_text("utf-8").splitlines()
    offered = {row["url"]: {row["url"], *row["alternatives"]} for row in map(json.loads, lines)}
    truth = [json.loads(line) for line in (out / "web/eval/truth.jsonl").read_text("utf-8").splitlines()]
    found = {name: set((out / f"overlap/overlap/{name}.txt").read_text().split()) for name in SETS}
    planted = {one["example_id"] for one in truth if one["copy_of"] and offered[one["copy_of"]] & fetched}
    assert len(planted) >= 15
    assert found == {"clean": set(), "contaminated": planted}
    report = json.loads((out / "overlap/report.json").read_text())["datasets"]
    clean, contaminated = sorted(report, key=lambda one: one["name"])
    assert (
        contaminated["significant"] and contaminated["delta"] > 0.05 and contaminated["p_bonferroni"] < 0.001
    )
    assert not clean["significant"] and clean["delta"] == 0
    assert {one["likeness"] for one in truth if one["like"]} == {"same_scene", "same_logo"}


def test_check_says_what_would_be_done(tmp_path: Path) -> None:
    assert beam_job.main(["demo", "--out", str(tmp_path / "demo"), "--check"]) == 0
    assert not (tmp_path / "demo").exists()
