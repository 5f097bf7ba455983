"""A few of the kills of bench/kills.py, on the jobs beside the crawl itself (for it see test_resume.py)."""

import random
import socket
from pathlib import Path

import pytest

from bench.kills import life, repeat, undisturbed
from pipeline.demo.server import serve
from pipeline.demo.web import build
from tests.crawling import settle


@pytest.mark.timeout(600)
def test_whatever_is_killed_ends_the_same(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    web = build(tmp_path / "web", seed=2, n_images=60, n_sites=15, port=port, evaluation_sets=False)
    with serve(web):
        settle(web)
        jobs = list(undisturbed(web, tmp_path, ("retry", "pages")))
        hits, done, wrong = repeat(jobs, 2, random.Random(3))
    assert hits.total() == 2 and done and not wrong


def test_what_a_command_raises_ends_its_own_process_alone() -> None:
    def fail() -> int:
        raise SystemExit(2)

    assert life(fail) == 1
