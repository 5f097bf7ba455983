"""A pilot: a sample of the pieces, its yields, and the numbers it predicts for the whole source."""

from dataclasses import asdict
from pathlib import Path

import pytest

from pipeline import pilot
from pipeline.checked_manifest import ManifestShard, Pieces
from pipeline.cli import main
from pipeline.demo.server import Server
from pipeline.fetch.parts import Round
from pipeline.stages import Candidates
from tests.crawling import arguments, manifest, settle

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def web(small_web: Server) -> Server:
    return small_web


def test_a_sample_is_the_same_every_time_and_grows() -> None:
    pieces = [(f"{n}.wat", n) for n in range(1000)]
    tenth, half = pilot.sample(pieces, 0.1, 7), pilot.sample(pieces, 0.5, 7)
    assert len(tenth) == 100 and tenth == pilot.sample(pieces, 0.1, 7) == sorted(tenth, key=pieces.index)
    assert set(tenth) < set(half) and set(tenth) != set(pilot.sample(pieces, 0.1, 8))
    assert len(pilot.sample(pieces, 1e-9, 7)) == 1 and pilot.sample(pieces, 1.0, 7) is pieces


def candidates(found: int, rows: int) -> Candidates:
    return Candidates(pieces=(), images=found, candidates=found, rows=rows, reasons={})


def shard(number: int, samples: int, size: int) -> ManifestShard:
    digest = "0" * 64
    return ManifestShard(
        name=f"{number}.tar", samples=samples, bytes=size, sha256=digest, parquet_sha256=digest
    )


def test_yields_are_rates_and_the_whole_is_in_proportion() -> None:
    rounds = [
        Round(name="0", units=(), merged=(), images=80, bytes=8000, reasons={"": 50, "http_gone": 30}),
        Round(name="1", units=(), merged=(), images=20, bytes=2000, reasons={"": 10, "timeout": 10}),
    ]
    shards = [shard(0, 30, 600), shard(1, 15, 300)]
    found = pilot.yields(Pieces(read=2, all=500), candidates(1000, 250), rounds, shards)
    assert asdict(found) == {
        "pieces": {"read": 2, "all": 500}, "candidates_per_piece": 500.0, "matched_share": 0.25,
        "fetched_share": 0.6, "kept_share": 0.75, "received_bytes_per_try": 100.0,
        "stored_bytes_per_sample": 20.0,
        "whole": {
            "candidates": 250_000, "tries": 25_000, "samples": 11_250, "received_bytes": 2_500_000,
            "stored_bytes": 225_000,
        },
    }  # fmt: skip
    shown = dict(pilot.lines(found))
    assert shown["pieces read"] == "2 of 500" and shown["samples"] == "11,250"
    assert shown["matched, of captions"] == "25.0%" and shown["stored"] == "225.0 kB"


def test_a_pilot_that_finds_nothing_has_no_shares() -> None:
    found = pilot.yields(Pieces(read=1, all=9), candidates(0, 0), [], [])
    assert found.matched_share is found.fetched_share is found.kept_share is None
    assert dict(pilot.lines(found))["fetched, of tries"] == ""


def test_a_crawl_of_a_sample_ends_with_its_yields(
    web: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settle(web.web)
    argv = arguments(web.web, tmp_path / "run", "--piece-bytes", "4000", "--sample", "0.5", "--workers", "1")
    assert main(argv) == 0
    found = manifest(tmp_path / "run")
    yields, counts = found["pilot"], found["counts"]
    pieces = yields["pieces"]
    assert pieces["all"] > 10 and pieces["read"] == round(pieces["all"] * 0.5)
    assert counts["candidates"] < web.web.candidates()
    assert yields["candidates_per_piece"] * pieces["read"] == pytest.approx(counts["candidates"])
    assert yields["whole"]["samples"] == round(counts["samples"] * pieces["all"] / pieces["read"])
    # The truth is known: the whole web's captions, give or take four times the error of half of the pieces.
    assert yields["whole"]["candidates"] == pytest.approx(web.web.candidates(), rel=0.5)
    said = capfd.readouterr().out
    assert f"{pieces['read']} of {pieces['all']}" in said and "openwit plan --run" in said
