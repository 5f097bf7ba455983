"""`openwit demo`, small and without training: the command that newcomers type first."""

from pathlib import Path

import pytest

import beam_job
from tests.crawling import manifest, samples

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
    said = capfd.readouterr().err
    assert "captions in shards" in said and "overlap with evaluation sets" in said
    assert "INFO" not in said and "apitools" not in said, "no noise of the engine on the terminal"
    assert beam_job.main(argv) == 0, "again: nothing to do"


def test_check_says_what_would_be_done(tmp_path: Path) -> None:
    assert beam_job.main(["demo", "--out", str(tmp_path / "demo"), "--check"]) == 0
    assert not (tmp_path / "demo").exists()
