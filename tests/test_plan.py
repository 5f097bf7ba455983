"""The cost model: each formula against a simulation, the whole against a real run."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.views import PARTS, VIEWS
from pipeline.demo.server import Server
from pipeline.plan import expected, prediction, published_yields
from pipeline.plan.cli import main
from pipeline.plan.options import PlanConfig
from pipeline.plan.training import implied_mfu, training
from pipeline.plan.yields import PilotPairs, of_run, smoothed
from tests import crawling

RATES = tomllib.loads((Path(prediction.__file__).parent / "rates.toml").read_text())


@pytest.fixture(scope="module")
def web(small_web: Server) -> Server:
    return small_web


@pytest.fixture(scope="module")
def crawled(web: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a cap that bites, without later rounds to replace missing images."""
    out = tmp_path_factory.mktemp("plan") / "run"
    caps = ["--per-query", "6", "--headroom", "1", "--rounds", "3", "--placeholder-captions", "0"]
    return crawling.crawl(web.web, out, *caps, "--workers", "1")


def drawn(samples: int, queries: int, seed: int = 0) -> PilotPairs:
    """Return samples that match three queries each, some queries far more often than others."""
    rng = np.random.default_rng(seed)
    query = np.minimum((rng.pareto(0.7, (samples, 3)) * 2).astype(int), queries - 1)
    keys = np.unique(np.repeat(np.arange(samples), 3) * queries + query.ravel())
    query = keys % queries
    return PilotPairs(
        keys // queries, query, np.bincount(query, minlength=queries).astype(float), np.ones(1), samples
    )


def simulate(balance: PilotPairs, per_query: int, share: float, rng: np.random.Generator) -> int:
    """Keep each query's `per_query` of smallest priority among those that arrive, as the crawl does."""
    arrived = rng.random(balance.samples) < share
    priority = rng.random(len(balance.sample))
    priority[~arrived[balance.sample]] = 2
    order = np.lexsort((priority, balance.query))
    start = np.searchsorted(balance.query[order], balance.query[order])
    chosen = (np.arange(len(order)) - start < per_query) & (priority[order] < 2)
    return len(np.unique(balance.sample[order][chosen]))


@pytest.mark.parametrize("per_query", [1, 20, 300, 10_000])
@pytest.mark.parametrize("share", [1.0, 0.6])
def test_the_expected_set_is_the_mean_of_simulated_ones(per_query: int, share: float) -> None:
    balance = drawn(4000, 60)
    rng = np.random.default_rng(1)
    found = [simulate(balance, per_query, share, rng) for _ in range(20)]
    # Chances are taken as independent of each other; with one sample a query that is off by a sample or two.
    margin = 4 * np.std(found) / np.sqrt(20) + 0.01 * np.mean(found) + 2
    assert expected.kept(balance, 1.0, per_query, share) == pytest.approx(np.mean(found), abs=margin)


def test_a_part_of_a_source_foretells_the_whole() -> None:
    whole = drawn(40_000, 60)
    first = whole.sample < 4000
    part = PilotPairs(
        whole.sample[first], whole.query[first],
        np.bincount(whole.query[first], minlength=60).astype(float), np.ones(1), 4000,
    )  # fmt: skip
    for per_query in (50, 500, 5000):
        assert expected.kept(part, 10.0, per_query) == pytest.approx(
            expected.kept(whole, 1.0, per_query), rel=0.05
        )


def test_pieces_are_found_for_a_wish_or_it_is_said_that_none_do() -> None:
    balance = drawn(4000, 60)
    times = expected.pieces_for(balance, 0.8, 500, 0.7, 9000)
    assert times is not None
    assert expected.kept(balance, expected.growth(times, 0.8), 500, 0.7) == pytest.approx(9000, rel=1e-6)
    assert expected.pieces_for(balance, 1.0, 10, 0.7, 1e6) is None  # 60 queries of 10 give 600 at most


def test_new_images_become_rarer_as_a_law_of_powers_says() -> None:
    rng = np.random.default_rng(0)
    draws = rng.zipf(1.7, 200_000)
    few, times = draws[:20_000], np.unique(draws[:20_000], return_counts=True)[1]
    found = len(np.unique(draws)) / len(np.unique(few))
    assert expected.growth(10, float((times == 1).mean())) == pytest.approx(found, rel=0.15)
    assert expected.growth(0.5, 0.3) == 0.5  # inside the part that was read, nothing is new twice


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=30), st.floats(0.1, 5), st.sampled_from([0.9, 0.99, 1])
)
def test_politeness_is_what_counting_seconds_gives(sites: list[int], delay: float, share: float) -> None:
    seconds = expected.politeness(np.array(sites, float), delay)[f"{round(share * 100)}%"]
    asked = sum(min(n, seconds / delay) for n in sites)
    assert asked == pytest.approx(share * sum(sites), rel=1e-6)
    assert expected.reached(np.array(sites, float), seconds, delay) == pytest.approx(share, rel=1e-6)


def test_sites_that_a_sample_shows_foretell_how_much_is_reached_in_time() -> None:
    rng = np.random.default_rng(0)
    weight = (np.arange(1, 50_001) + 2.0) ** -1.12
    draws = rng.choice(len(weight), 200_000, p=weight / weight.sum())
    few, all_of_them = (np.unique(part, return_counts=True)[1] for part in (draws[:10_000], draws))
    sites = smoothed(few)
    assert sites.sum() == pytest.approx(few.sum())
    for seconds in (20, 100, 1000):
        found = expected.reached(all_of_them.astype(float), seconds, 1.0)
        assert expected.reached(sites * 20, seconds, 1.0) == pytest.approx(found, abs=0.05)


def test_the_drawn_pilot_agrees_with_what_was_published() -> None:
    balance = published_yields.balance(500_000)
    scale = 1.6e9 / balance.samples
    matched = balance.matched * scale
    assert matched.sum() == pytest.approx(5.6e9, rel=0.1)
    assert (matched >= 20_000).sum() == pytest.approx(16_000, rel=0.1)
    assert matched[:16_000].sum() / matched.sum() == pytest.approx(0.945, abs=0.02)
    assert matched.max() == pytest.approx(120e6, rel=0.15)
    assert (matched == 0).sum() == pytest.approx(114_000, rel=0.01)
    assert expected.kept(balance, scale, 20_000) == pytest.approx(400e6, rel=0.1)


def test_one_share_of_the_peak_gives_the_days_of_both_of_the_papers_runs() -> None:
    for name, gpus, days in (("ViT-L-14", 256, 12), ("RN50x64", 592, 18)):
        found = training(name, 400e6, 0, "V100", 0.0, RATES["gpu"])
        assert found.samples_seen == 12.8e9
        assert found.gpu_days / gpus == pytest.approx(days, rel=0.1)
        assert implied_mfu(name, 400e6, gpus, days, "V100", RATES["gpu"]) == pytest.approx(0.19, abs=0.02)


def test_a_run_is_foretold_from_itself(crawled: Path) -> None:
    found = of_run(str(crawled))
    manifest = crawling.manifest(crawled)
    config = PlanConfig(
        run=str(crawled), pieces=int(found.pieces), per_query=manifest["configuration"]["per_query"]
    )
    scale = prediction.scale_of(found, config)
    assert scale.samples == pytest.approx(manifest["counts"]["samples"], rel=0.02)
    assert scale.tried == pytest.approx(sum(r["images"] for r in manifest["rounds"]), rel=0.08)
    assert scale.fetched_bytes == pytest.approx(sum(r["bytes"] for r in manifest["rounds"]), rel=0.08)
    files = [*(crawled / "shards").glob("*.tar"), *(crawled / "shards").glob("0*.parquet")]
    assert scale.stored_bytes == pytest.approx(sum(path.stat().st_size for path in files), rel=0.02)


def test_stages_are_bound_by_what_is_slowest(crawled: Path) -> None:
    found = of_run(str(crawled))
    few = PlanConfig(pieces=1000, workers=1, cores=1, host_delay=0, request_seconds=0.001)
    slow = PlanConfig(pieces=1000, workers=1, cores=1, host_delay=0, request_seconds=60.0)
    polite = PlanConfig(pieces=1000, workers=100, cores=8, host_delay=10)
    scale = prediction.scale_of(found, few)
    for config, bound in ((few, "cores"), (slow, "requests in flight"), (polite, "politeness")):
        fetch = prediction.stages(scale, "warc", config, RATES)[2]
        assert (fetch.name, fetch.bound) == ("fetch", bound)


def test_the_command_writes_what_it_shows(crawled: Path, tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    code = main(["--run", str(crawled), "--pieces", "5000", "--workers", "4", "--out", str(out)])
    found = json.loads(out.read_text())
    assert code == 0
    assert found["scale"]["pieces"] == 5000
    assert list(found["stages"]) == ["candidates", "select", "fetch", "finish"]
    assert found["training"]["gpu_days"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--pairs 400e6"),
        (["--pairs", "1e6", "--pieces", "3"], "not both"),
        (["--pairs", "1e6", "--model", "ViT-B-23"], "did you mean ViT-B-32"),
        (["--pairs", "1e6", "--gpu", "H20"], "did you mean H200"),
        (["--pairs", "1e6", "--run", "nowhere"], "not a finished run"),
        (["--pairs", "1e6", "--prices", "prices.toml"], "did you mean core_hour"),
        (["--pairs", "1e6", "--rates", "rates.toml"], "did you mean caption_us"),
        (["--pairs", "1e15"], "use more queries, a larger --per-query"),
    ],
)
def test_what_cannot_be_planned_is_refused_with_what_can(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("prices.toml").write_text("core_hours = 1\n")
    Path("rates.toml").write_text("[candidates]\ncaption_ms = 1\n")
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_the_overlap_analysis_is_planned_with_both_looks(tmp_path: Path) -> None:
    assert RATES["overlap"]["views"] == len(VIEWS) and RATES["overlap"]["crops"] == len(PARTS)
    rate = {
        "views": 58,
        "crops": 2,
        "pairs_per_s": 2e9,
        "share": 1e-3,
        "second_look_ns": 100,
        "describe_ms": 5,
    }
    pairs = 2 * 400e6 * 600_000 * 60
    scan, second = pairs / 2e9, pairs * 1e-3 * 100e-9
    assert prediction.overlap_seconds(400e6, 600_000, rate) == pytest.approx(scan + second + 400e6 * 5e-3)
    by_detector = prediction.overlap_seconds(400e6, 600_000, RATES["overlap"], "lite")
    rate = RATES["overlap"]
    assert by_detector == pytest.approx(
        400e6 * (600_000 * 3 / rate["detector_pairs_per_s"] + rate["detector_describe_ms"] * 1e-3)
    )
    argv = ["--pieces", "3", "--queries", "1000", "--model", "", "--runner", "FlinkRunner", "--rounds", "1"]
    planned = {}
    for images in ("0", "1000", "10000", "19000"):
        out = tmp_path / f"{images}.json"
        assert main([*argv, "--eval-images", images, "--out", str(out)]) == 0
        planned[images] = json.loads(out.read_text())
    assert "overlap" not in planned["0"]["stages"]
    assert planned["1000"]["jobs"]["starts"] == planned["0"]["jobs"]["starts"] + 2
    out = tmp_path / "lite.json"
    assert main([*argv, "--eval-images", "19000", "--overlap-by", "lite", "--out", str(out)]) == 0
    by_lite = json.loads(out.read_text())["stages"]["overlap"]["core_hours"]
    assert by_lite < planned["19000"]["stages"]["overlap"]["core_hours"]
    few, many, more = (planned[n]["stages"]["overlap"]["core_hours"] for n in ("1000", "10000", "19000"))
    assert more - many == pytest.approx(many - few, rel=1e-6) and many > few


def test_starts_of_jobs_are_counted_for_the_runner(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    argv = ["--pieces", "3", "--queries", "1000", "--model", "", "--rounds", "2"]
    hours = {}
    for runner in ("", "DataflowRunner"):
        out = tmp_path / f"{runner}.json"
        assert main([*argv, "--out", str(out), *(("--runner", runner) if runner else ())]) == 0
        found = json.loads(out.read_text())
        assert found["jobs"]["starts"] == 5, "candidates, select, two rounds, finish"
        hours[runner] = sum(stage["wall_hours"] for stage in found["stages"].values()), found["jobs"]["hours"]
    assert hours[""][1] == 0 and hours["DataflowRunner"][1] == pytest.approx(5 * 270 / 3600)
    assert hours["DataflowRunner"][0] == pytest.approx(hours[""][0] + 5 * 270 / 3600)
    assert "22 minutes of waiting for DataflowRunner" in capfd.readouterr().out
    with pytest.raises(SystemExit):
        main([*argv, "--runner", "DataflwRunner"])
    assert "did you mean DataflowRunner?" in capfd.readouterr().err
