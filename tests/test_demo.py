"""`openwit demo`, small and without training: the command that newcomers type first."""

import json
import logging
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest

import beam_job
from pipeline import checked_manifest
from pipeline.checked_manifest import Crawled, Manifest, ManifestShard, QueryTotals
from pipeline.demo import labelled_sets, run
from pipeline.demo.draw import COLOURS
from pipeline.demo.evalsets import PER_CLASS
from pipeline.demo.run import EVALUATION_SETS as SETS
from pipeline.demo.web import load
from pipeline.manifest import counts_of
from tests import eval_models
from tests.crawling import manifest, samples
from train.evaluation.options import Task

pytestmark = pytest.mark.timeout(900)


@pytest.mark.slow
def test_the_demo_builds_checks_and_compares(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, smaller in (("clean", 12), ("contaminated", 10)):
        monkeypatch.setitem(PER_CLASS, name, smaller)
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
    told, said = capfd.readouterr()
    assert "captions in shards" in told
    last = told[told.rindex("openwit demo, ") :]
    for page in ("run/report/index.html", "overlap/index.html"):
        assert str(out / page) in last.replace("\n", ""), "the last table names every page"
    assert said.index("Look at it now: file://") < said.index("2 of 3: verify"), "as soon as it is there"
    noise = "INFO" in told + said or "apitools" in told + said
    assert not noise, "no noise of the engine on the terminal"
    assert beam_job.main(argv) == 0, "again: nothing to do"


def every_task_is_measured(out: Path) -> None:
    """Measure a model that learned nothing in the place of a model trained for two minutes."""
    eval_models.training_run(out / "model")
    assert run.measure(load(out / "web"), out, run.DemoConfig(out=str(out), full=True)) == 0
    rows = json.loads((out / "evaluation/results.json").read_text())
    tasks = set(get_args(Task)) - {"geolocation"}  # drawn pictures were taken nowhere
    assert {row["task"] for row in rows} == tasks
    by_task = {row["task"]: row for row in rows if row["dataset"] in SETS or row["dataset"] == "renditions"}
    probe = by_task["linear-probe"]
    assert (
        probe["dataset"] == "clean" and probe["detail"]["fitted_on"] == 10 * labelled_sets.LABELLED_PER_CLASS
    )
    assert probe["metrics"]["acc1"] > 0.15, "even random features tell some drawings apart"
    assert {one["group"] for one in by_task["bias"]["detail"]["errors"]} == set(labelled_sets.RENDITIONS)
    assert len(by_task["bias"]["detail"]["assigned_with_added"]) == len(COLOURS)
    assert (
        by_task["robustness"]["dataset"] == "renditions" and by_task["retrieval"]["metrics"]["images"] == 120
    )
    corrupted = {row["dataset"] for row in rows if row["detail"].get("corruption")}
    assert len(corrupted) == 5 * 5
    page = (out / "evaluation/report.html").read_text("utf-8")
    assert all(f'id="{task}"' in page for task in tasks)
    assert "clean: nearest and the model" in page, "which classes are hard for whom"


def planted_copies_are_found_all_and_only(out: Path) -> None:
    """Compare with the truth: copies of pictures in the set, no other drawing, no hard negative."""
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


def write_manifest(path: Path, digest: str, samples: int) -> None:
    shard = ManifestShard(name="0.tar", samples=samples, bytes=0, sha256=digest, parquet_sha256=digest)
    found = Manifest(
        configuration={"queries": "q", "per_query": 1, "source": ("s",)}, seed=0, shards=(shard,),
        crawled=Crawled(first=None, last=None), counts=counts_of(samples, samples, samples, {}),
        rejected_sampled=False, rounds=(), queries=QueryTotals(),
    )  # fmt: skip
    path.write_text(json.dumps(checked_manifest.encode(found)))


def test_a_second_run_does_not_train_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr("train.cli.main", lambda argv: asked.append(list(argv)) or 0)
    (tmp_path / "run").mkdir()
    manifest = tmp_path / "run" / "manifest.json"
    write_manifest(manifest, "a" * 64, 300)
    web = SimpleNamespace(folder=tmp_path / "web")

    def minutes(**options: object) -> list[str]:
        asked.clear()
        assert run.train(web, tmp_path, run.DemoConfig(out=str(tmp_path), **options)) == 0
        return [argv[argv.index("--max-minutes") + 1] for argv in asked]

    root = logging.getLogger()
    before = root.handlers[:], root.level
    assert minutes() == ["1.0"]
    assert asked[0][asked[0].index("--batch-size") + 1] == "128"
    assert minutes() == []
    assert "trained before, for 1 min; --fresh begins again" in capfd.readouterr().err
    assert minutes(full=True) == ["1.0"], "one more, and it says so"
    assert "trained before, for 1 min; 1 min more" in capfd.readouterr().err
    assert minutes(full=True) == []
    (tmp_path / "model").mkdir()
    write_manifest(manifest, "c" * 64, 40)
    assert minutes() == ["1.0"], "of another dataset, another model"
    assert asked[0][asked[0].index("--batch-size") + 1] == "20", "a set of 40 fills no batch of 128"
    assert not (tmp_path / "model").exists()
    assert (root.handlers[:], root.level) == before


def test_the_short_demo_measures_zero_shot_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr("train.evaluation.cli.main", lambda argv: asked.append(list(argv)) or 0)
    web = SimpleNamespace(folder=tmp_path / "web")
    options = run.DemoConfig(out=str(tmp_path))
    assert run.measure(web, tmp_path, options) == 0
    (tasks,) = [[after for word, after in pairwise(argv) if word == "--task"] for argv in asked]
    assert tasks == ["zeroshot"]
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "report.html").touch()
    assert run.measure(web, tmp_path, options) == 0 and len(asked) == 1, "measured before"
    assert [name for name, _ in run.steps_of(options)] == [
        "crawl the web", "verify the dataset", "compare it with evaluation sets",
        "train a tiny CLIP on it for 1 min", "measure the model",
    ]  # fmt: skip
    assert options.size == (600, 60)
    assert run.DemoConfig(out="x", full=True).size == (1500, 150)
    with pytest.raises(ValueError, match="four times as many"):
        run.DemoConfig(out="x", images=100, sites=60)


def test_check_says_what_would_be_done(tmp_path: Path) -> None:
    assert beam_job.main(["demo", "--out", str(tmp_path / "demo"), "--check"]) == 0
    assert not (tmp_path / "demo").exists()
