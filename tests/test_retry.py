"""`--retry-failed`: another round for transient failures, on a run that is finished."""

import json
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.cli import main
from pipeline.demo.server import Server
from pipeline.fetch.merge import MERGED_ROWS, merge
from pipeline.reasons import REASONS
from pipeline.takedown.cli import main as takedown
from pipeline.verify import main as verify
from tests.crawling import arguments, contents, manifest, reasons, rejected, samples, settle
from tests.test_resume import kill_when, relocate

pytestmark = pytest.mark.timeout(900)

OPTIONS = ("--rounds", "1", "--workers", "1")


@pytest.fixture(scope="module")
def web(small_web: Server) -> Server:
    return small_web


def transient(run: Path) -> set[str]:
    """Return the uids of transient failures."""
    return {
        row["uid"] for row in rejected(run) if row["stage"] == "fetch" and REASONS[row["reason"]].transient
    }


def break_units(run: Path, share: int = 3) -> set[str]:
    """Turn every third image that arrived in a first round into a transient failure."""
    broken = set()
    for path in (run / "work/fetch/round-0").glob("*.parquet"):
        table = pq.read_table(path)
        rows = table.to_pylist()
        for index, row in enumerate(rows):
            if index % share == 0 and not row["reason"]:
                row.update(reason="read_timeout", detail="", blob="", offset=0, length=0, sha256=None)
                broken.add(row["uid"].hex())
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    return broken


@pytest.fixture(scope="module")
def broken(web: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, set[str]]:
    """Two finished runs of one round: one whole, the other with transient failures."""
    whole = tmp_path_factory.mktemp("whole") / "run"
    settle(web.web)
    assert main(arguments(web.web, whole, *OPTIONS, "--stage", "candidates")) == 0
    for stage in ("select", "fetch"):
        assert main(arguments(web.web, whole, *OPTIONS, "--stage", stage)) == 0
    out = shutil.copytree(whole, tmp_path_factory.mktemp("broken") / "run")
    relocate(whole, out)
    failed = break_units(out)
    for name in ("merged-0", "arrived-0", "done.stage"):
        path = out / "work" / "fetch" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert main(arguments(web.web, whole, *OPTIONS)) == 0
    assert main(arguments(web.web, out, *OPTIONS)) == 0
    assert failed <= transient(out) and len(failed) > 30
    return whole, out, failed


@pytest.fixture
def run(broken: tuple[Path, Path, set[str]], tmp_path: Path) -> Path:
    out = shutil.copytree(broken[1], tmp_path / "run")
    relocate(broken[1], out)
    return out


def rows_of(run: Path) -> list[dict[str, object]]:
    """Return the samples without the columns that depend on their number and time."""
    rows = [{**row, "key": "", "fetched_at": None} for row in samples(run)]
    return sorted(rows, key=lambda row: str(row["uid"]))


def is_whole(run: Path) -> None:
    assert verify(["--run", str(run)]) == 0
    counts = manifest(run)["counts"]
    assert (
        counts["candidates"]
        == counts["captions"] + counts["rejected"]
        == counts["captions"] + sum(reasons(run).values())
    )


@pytest.fixture(scope="module")
def retried(web: Server, broken: tuple[Path, Path, set[str]]) -> Path:
    """The run in which nothing was broken, retried as well: redirects to other sites are followed then."""
    assert main(arguments(web.web, broken[0], *OPTIONS, "--retry-failed")) == 0
    return broken[0]


def asked_for(web: Server, start: int) -> set[tuple[str, str]]:
    """Return (host:port, path) of the images asked for since a place in the access log."""
    pairs = {(str(r["host"]), str(r["path"])) for r in web.requests()[start:]}
    return {pair for pair in pairs if not pair[1].startswith(("/robots.txt", "/.well-known", "/ai.txt"))}


def places(urls: set[str]) -> set[tuple[str, str]]:
    return {(urlsplit(url).netloc, urlsplit(url).path) for url in urls}


def test_only_what_failed_in_passing_is_fetched_again(
    web: Server, run: Path, broken: tuple[Path, Path, set[str]], retried: Path
) -> None:
    assert not list((run / "work").rglob("*.blob")), "the images were removed when the run was finished"
    expected, start = transient(run), len(web.requests())
    arrived = {row["url"] for row in samples(run)}
    assert main(arguments(web.web, run, *OPTIONS, "--retry-failed")) == 0
    asked = asked_for(web, start)
    tried = {row["fetch_url"] for row in tables(run, "units-1")} | {
        row["final_url"] for row in tables(run, "round-1")
    }
    assert {row["uid"].hex() for row in tables(run, "units-1")} == expected
    assert asked and asked <= places(tried)
    assert not asked & (places(arrived) - places(tried)), "what is there is not fetched again"
    assert rows_of(run) == rows_of(retried), "as if nothing had ever failed"
    is_whole(run)
    assert [r["images"] for r in manifest(run)["rounds"]][1] == len(expected)
    assert not list((run / "work").rglob("*.blob")), "and they are removed again"


def tables(run: Path, folder: str) -> list[dict[str, Any]]:
    """Return the rows of a folder of the fetch stage."""
    paths = sorted((run / "work" / "fetch" / folder).glob("*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def test_redirects_to_other_sites_are_followed_in_their_own_unit(
    web: Server, run: Path, broken: tuple[Path, Path, set[str]]
) -> None:
    before = {row["uid"] for row in rejected(run) if row["reason"] == "redirect_elsewhere"}
    assert before
    assert main(arguments(web.web, run, *OPTIONS, "--retry-failed")) == 0
    gone = {row["uid"] for row in rejected(run) if row["reason"] == "redirect_elsewhere"}
    assert not before & gone
    for path in (run / "work/fetch/units-1").glob("*.parquet"):
        for row in pq.read_table(path).to_pylist():
            if row["uid"].hex() in before:
                assert urlsplit(row["fetch_url"]).hostname == row["site"] != urlsplit(row["url"]).hostname


def test_a_second_retry_tries_what_is_left_or_leaves_the_run_alone(web: Server, run: Path) -> None:
    argv = arguments(web.web, run, *OPTIONS, "--retry-failed")
    assert main(argv) == 0
    before = contents(run)
    for _ in range(4):
        start = len(web.requests())
        left = len(transient(run))
        assert main(argv) == 0
        if len(web.requests()) == start:
            break
        assert left, "a round was run although nothing was left"
    is_whole(run)
    assert contents(run)["rows"] == before["rows"]


def test_a_retry_that_is_killed_is_continued(web: Server, run: Path, retried: Path) -> None:
    import sys

    argv = arguments(web.web, run, *OPTIONS, "--retry-failed")
    command = [sys.executable, "-m", "beam_job", "crawl", *argv]
    kill_when(command, run, "work/fetch/restored/*.blob")
    kill_when(command, run, "work/fetch/round-1/*.json")
    continued = [argument for argument in argv if argument != "--retry-failed"]
    assert main(continued) == 0, "the retry that has begun needs no flag to be finished"
    assert rows_of(run) == rows_of(retried)
    is_whole(run)


@pytest.mark.parametrize(
    "place",
    [
        "pipeline.run_folder.discard_from",
        "pipeline.fetch.steps.cut_units",
        "pipeline.crawl_tables.show_result",
    ],
)
def test_a_retry_that_is_stopped_at_an_awkward_place_is_the_same_one_when_continued(
    web: Server, run: Path, retried: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the run is open again, with the markers of both stages gone, and when all is done but said."""
    argv = arguments(web.web, run, *OPTIONS, "--retry-failed")

    def die(*_: object) -> None:
        raise SystemExit(9)

    with monkeypatch.context() as patch:
        patch.setattr(place, die)
        with pytest.raises(SystemExit):
            main(argv)
    start = len(web.requests())
    assert main(argv) == 0
    assert rows_of(run) == rows_of(retried)
    assert ("show_result" in place) is (len(web.requests()) == start), "each round is done once"
    is_whole(run)


def test_what_was_taken_down_is_not_retried(
    web: Server, run: Path, broken: tuple[Path, Path, set[str]]
) -> None:
    failed = sorted(broken[2])
    by_uid = {row["uid"]: row["url"] for row in rejected(run)}
    url = next(by_uid[uid] for uid in failed if by_uid[uid].count("?") == 0)
    assert takedown(["--run", str(run), "--url", url]) == 0
    start = len(web.requests())
    assert main(arguments(web.web, run, *OPTIONS, "--retry-failed")) == 0
    asked = asked_for(web, start)
    assert asked and not asked & places({url})
    assert url not in {row["url"] for row in samples(run) + rejected(run)}
    is_whole(run)


def test_a_retry_under_a_cap_keeps_the_balance_exact(web: Server, tmp_path: Path) -> None:
    """With staging kept or not, a retried run has the same samples, and no query has more than its share."""
    options = ("--per-query", "4", "--headroom", "1", "--rounds", "1", "--workers", "1")
    found = []
    for name, extra in (("kept", ("--keep-staging",)), ("removed", ())):
        run = tmp_path / name
        settle(web.web)
        assert main(arguments(web.web, run, *options, *extra)) == 0
        assert main(arguments(web.web, run, *options, *extra, "--retry-failed")) == 0
        is_whole(run)
        found.append(rows_of(run))
        assert all(row["kept"] <= 4 for row in pq.read_table(run / "query_counts.parquet").to_pylist())
    assert found[0] == found[1]


def test_a_group_without_staged_images_stays_rejected() -> None:
    from tests.test_merge import table_of

    rows = [(f"https://a.test/{i}", f"a picture of a house {i}", "same") for i in range(3)]
    table = table_of(rows)
    index = table.column_names.index("length")
    gone = table.set_column(index, MERGED_ROWS.field("length"), pa.array([0, 0, 0]))
    merged, lost = merge(gone, "sha256", 16, 10)
    assert not len(merged) and lost["reason"].to_pylist() == ["placeholder"] * 3
    some = table.sort_by("uid")
    lengths = np.array([0, 5, 5])
    some = some.set_column(index, MERGED_ROWS.field("length"), pa.array(lengths))
    merged, _ = merge(some, "sha256", 16, 10)
    assert set(merged["length"].to_pylist()) == {5}
    assert set(merged["blob"].to_pylist()) == {some["blob"][1].as_py()}, "the image of one that has it"
    assert set(merged["uid"].to_pylist()) == {min(some["uid"].to_pylist())}


def test_clocks_that_jump_change_nothing_but_the_dates(
    web: Server, retried: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wall clock leaps an hour back and forth; pace, deadlines and order do not follow it."""
    import importlib
    import itertools
    import time
    from types import SimpleNamespace

    leaps = itertools.cycle((0.0, 3600.0, -3600.0))
    leaping = SimpleNamespace(**{**vars(time), "time": lambda: time.time() + next(leaps)})
    names = ("fetch.worker", "http.scheduler", "http.rate_limit", "http.dns", "http.robots", "lock")
    for name in names:
        module = importlib.import_module(f"pipeline.{name}")
        if hasattr(module, "time"):
            monkeypatch.setattr(module, "time", leaping)
    run = tmp_path / "run"
    settle(web.web)
    assert main(arguments(web.web, run, *OPTIONS, "--retry-failed")) == 0, "of a new run: nothing to reopen"
    assert main(arguments(web.web, run, *OPTIONS, "--retry-failed")) == 0
    assert rows_of(run) == rows_of(retried)
    unit = next((run / "work/fetch/round-0").glob("*.json"))
    assert 0 <= json.loads(unit.read_text())["seconds"] < 3000, "durations are of the steady clock"
