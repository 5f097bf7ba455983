"""The page of a training run: written as it trains, beside other runs, in a browser."""

import json
from pathlib import Path

import pytest

from tests.browser import chromium
from train import run_page
from train.run_page import Run, Writer, curve, render

ROWS = [
    {"step": step, "loss": 5 / step, "lr": 1e-3, "scale": 14.3, "grad_norm": 2.0 / step,
     "seconds": 2.0 * step, "samples_per_second": 100.0, "memory_gb": 1.25, "data_wait": 0.01,
     "bad": {"<b>": 3}}
    for step in range(1, 1001)
]  # fmt: skip
ROWS.append({"step": 1000, "accuracy/toys": 0.5})


def writer(out: Path, **given: object) -> Writer:
    defaults = {"compare": (), "shards": (), "chance": {"toys": 0.1}}
    return Writer(str(out), 2000, **(defaults | given))  # type: ignore[arg-type]


def lines(rows: list[dict[str, object]]) -> list[str]:
    return [json.dumps(row) for row in rows]


def test_the_page_is_written_as_the_run_goes(tmp_path: Path) -> None:
    page, path = writer(tmp_path / "run"), tmp_path / "run" / "report.html"
    page.write(lines(ROWS[:10]), running=True)
    first = path.read_text()
    assert "Step 10 of 2,000, loss 0.5." in first and 'http-equiv="refresh"' in first
    page.write(lines(ROWS), running=True)
    assert path.read_text() == first, "it was written a moment ago"
    page.write(lines(ROWS), running=False)
    last = path.read_text()
    assert "Step 1,000 of 2,000" in last and "toys 50.0%" in last and "refresh" not in last
    assert "It stopped before its last step" in last and "&lt;b&gt;" in last
    writer(tmp_path / "other").write([], running=True)
    assert "No step of 2,000 is logged yet." in (tmp_path / "other" / "report.html").read_text()


def test_a_long_curve_is_means_of_neighbours() -> None:
    points = curve(ROWS, "loss")
    assert len(points) == 400 and points[-1][0] == 1000
    assert points[0] == (3, pytest.approx((5 + 5 / 2 + 5 / 3) / 3))
    assert curve([{"step": 1, "loss": float("nan")}, {"step": 2, "loss": 1}], "loss") == [(2, 1)]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (3.2, 3.21), (-4, 5e6), (7, 7), (0, 0), (1e-9, 2e-9)])
def test_ticks_are_round_and_cover_the_range(low: float, high: float) -> None:
    ticks = run_page._ticks(low, high)
    assert 1 <= len(ticks) <= 8 and ticks[0] <= low * (1 + 1e-9) + 1e-12 and ticks[-1] >= high * (1 - 1e-9)


def test_what_is_compared_must_be_a_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no metrics"):
        writer(tmp_path / "a", compare=(str(tmp_path),))
    with pytest.raises(ValueError, match="at most 4"):
        writer(tmp_path / "a", compare=("x",) * 5)


def test_the_page_in_a_browser(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines(ROWS[:300])) + "[1]\n")
    (tmp_path / "data" / "report").mkdir(parents=True)
    (tmp_path / "data" / "report" / "index.html").write_text("x")
    page = writer(tmp_path / "run", compare=(str(other),), shards=(str(tmp_path / "data"),))
    page.write(lines(ROWS), running=False)
    with chromium() as browser:
        for width in (1280, 390):
            browser.call(
                "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1,
                mobile=width < 400,
            )  # fmt: skip
            browser.open(tmp_path / "run" / "report.html")
            assert browser.run("document.querySelectorAll('figure svg .curve').length") == 15
            assert browser.run("document.documentElement.scrollWidth <= innerWidth")
            assert browser.run("document.querySelector('main a').getAttribute('href')") == (
                "./../data/report/index.html"
            )
            assert browser.problems() == [] == browser.barriers()
    assert (tmp_path / "data" / "report" / "index.html").read_text() == "x", "no page of ours: left as it is"


def test_a_name_is_only_text() -> None:
    assert "<script>" not in render([Run("<script>", ROWS[:3])], 3, {}, running=False).partition("<body")[2]
