"""The stages as Beam transforms: the documented pipeline beside a crawl, and the exact cap."""

import json
import tarfile
from collections import defaultdict
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing.util import assert_that, equal_to

from pipeline import balance, querylist
from pipeline.demo.server import Server
from pipeline.options import FetchOptions
from pipeline.transforms import FetchImages, KeepSmallest, MatchQueries, ReadCandidates, Rejected, Sample
from tests.crawling import rejected, samples, settle

pytestmark = pytest.mark.timeout(900)

DOCUMENTED = (Path(__file__).resolve().parents[1] / "docs" / "transforms.md").read_text()


def images_of(tars: list[Path]) -> dict[str, tuple[str, bytes, str]]:
    """Return URL, JPEG and text of each uid in some shards."""
    found = {}
    for path in tars:
        members: dict[str, dict[str, bytes]] = defaultdict(dict)
        with tarfile.open(path) as archive:
            for member in archive:
                file = archive.extractfile(member)
                assert file is not None
                key, _, suffix = member.name.partition(".")
                members[key][suffix] = file.read()
        for own in members.values():
            row = json.loads(own["json"])
            found[row["uid"]] = row["url"], own["jpg"], own["txt"].decode()
    return found


def test_the_documented_pipeline_stores_the_images_of_a_crawl(
    web: Server, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(web.web)
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "0.warc.gz").symlink_to(web.web.warc)
    (tmp_path / "queries.txt").symlink_to(web.web.queries)
    monkeypatch.chdir(tmp_path)
    code = DOCUMENTED.split("```python\n")[1].split("```")[0]
    assert len(code.strip().splitlines()) < 20
    at = 'contact="you@example.org"'
    assert at in code
    exec(code.replace(at, f'{at}, allow_network=("127.0.0.0/8",), host_delay=0.0, timeout=90.0'), {})
    found = images_of(sorted((tmp_path / "shards").glob("*.tar")))
    crawled = images_of(sorted((whole / "shards").glob("*.tar")))
    # A crawl merges images of the same bytes, and leaves out shared captions and placeholders.
    same = crawled.keys() & found.keys()
    assert len(same) > 0.9 * len(crawled) and len(found) >= len(same) > 100
    assert all(found[uid][:2] == crawled[uid][:2] for uid in same), "the same bytes at the same URL"
    elsewhere = {row["uid"] for row in rejected(whole)} | {row["uid"] for row in samples(whole)}
    assert found.keys() <= elsewhere, "all that a crawl knows, too"


QUERIES = ["red house", "lake", "boat"]


@pytest.fixture
def queries(tmp_path: Path) -> str:
    path = tmp_path / "queries.txt"
    path.write_text("".join(f"{query}\n" for query in QUERIES))
    return str(path)


def test_each_query_keeps_its_smallest(queries: str) -> None:
    rng = np.random.default_rng(0)
    given = [
        Sample(rng.bytes(16).hex(), f"http://h.example/{n}.jpg", [f"text {n}"], sorted({n % 3, n % 2}))
        for n in range(200)
    ]
    hashes = balance.query_hashes(querylist.normalised(QUERIES, "openwit"), 7)
    kept: dict[str, list[int]] = defaultdict(list)
    for query in range(3):
        ranked = sorted(
            (int(balance.priorities(np.array([int(s.uid[:16], 16)], np.uint64), hashes[[query]])[0]), s.uid)
            for s in given
            if query in s.queries
        )
        for _, uid in ranked[:9]:
            kept[uid].append(query)
    expected = [s._replace(queries=kept[s.uid]) for s in given if s.uid in kept]
    assert 9 <= len(expected) <= 27
    with beam.Pipeline(runner="FnApiRunner") as p:
        assert_that(p | beam.Create(given) | KeepSmallest(9, queries, seed=7), equal_to(expected))


def test_a_url_is_one_sample_and_everything_else_has_a_reason(queries: str, tmp_path: Path) -> None:
    rows = [
        ("http://h.example/1.jpg", "a red house at the lake shore"),
        ("http://H.example/1.jpg#x", "the boat on the lake at night"),
        ("http://h.example/1.jpg", "a red house at the lake shore"),
        ("http://h.example/2.jpg", "nothing that is asked for here"),
        ("http://h.example/3.jpg", "ok"),
        ("ftp://h.example/4.jpg", "a boat on the lake"),
        ("http://me:secret@h.example/5.jpg", "nothing that is asked for here either"),
    ]
    source = tmp_path / "list.jsonl"
    source.write_text("".join(json.dumps({"url": url, "caption": text}) + "\n" for url, text in rows))
    with beam.Pipeline(runner="FnApiRunner") as p:
        found = p | ReadCandidates([str(source)])
        matched = found["accepted"] | MatchQueries(queries)
        rejected = (found["rejected"], matched["rejected"]) | beam.Flatten()
        reasons = rejected | beam.Map(_reason)
        named = rejected | "URLs" >> beam.Map(lambda row: "secret" in row.url)
        assert_that(named | beam.Distinct(), equal_to([False]), "no password in any row")
        assert_that(matched["accepted"] | beam.Map(_short), equal_to([(1, 2, [0, 1, 2])]), "samples")
        assert_that(reasons, equal_to(REASONS), "reasons")


REASONS = [("2", "no_match"), ("3", "no_match"), ("4", "bad_scheme"), ("5", "bad_url")]


def _reason(row: Rejected) -> tuple[str, str]:
    return row.url.rpartition("/")[2].partition(".")[0], row.reason


def _short(sample: Sample) -> tuple[int, int, list[int]]:
    return 1, len(sample.captions), sample.queries


def test_a_source_that_is_not_there_and_a_missing_contact_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"matches no file|no such file|not found"):
        ReadCandidates([str(tmp_path / "*.warc.gz")])
    with pytest.raises(ValueError, match="contact"):
        FetchImages(FetchOptions())
