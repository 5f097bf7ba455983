"""`--extend`: sources added to a finished run give the set that a single run over all of them gives."""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset

from dedup import training_set
from pipeline import balance, checked_manifest, dropped_samples, finished_set, schemas, urls
from pipeline import manifest as manifest_module
from pipeline.captions.match import tokens
from pipeline.cli import main
from pipeline.compact import main as compact
from pipeline.demo.markup import Reference
from pipeline.demo.server import Server
from pipeline.extend.workers import KNOWN_ROWS, STORED_ROWS, NewShuffler, known_rows, moved_counts
from pipeline.fetch.merge import MERGED_ROWS, merge_into_stored
from pipeline.finished_set import FinishedSet
from pipeline.flow.markers import read_vector
from pipeline.reasons import REASONS
from pipeline.run_folder import Layout
from pipeline.score.cli import main as score
from pipeline.select.workers import QueryTable
from pipeline.takedown.cli import main as takedown
from pipeline.verify import main as verify
from tests.crawling import arguments, manifest, reasons, rejected, samples, settle
from tests.test_resume import kill_when, relocate
from tests.test_retry import asked_for
from train import shard_sources
from train.cache import Cache

pytestmark = pytest.mark.timeout(900)

# Rounds enough for every query, and nothing that depends on the texts of the whole set.
OPTIONS = (
    "--per-query", "5", "--headroom", "1", "--rounds", "9", "--workers", "1", "--unit-images", "60",
    "--shared-captions", "0", "--placeholder-captions", "0",
)  # fmt: skip


@pytest.fixture(scope="module")
def web(small_web: Server) -> Server:
    return small_web


Row = tuple[str, str]  # url, caption


def identity(reference: Reference) -> str:
    return reference.sha256 or urls.uid(urls.canonical(reference.url))


def write_list(path: Path, rows: Iterable[Row]) -> Path:
    found = list(rows)
    pq.write_table(pa.table({"url": [r[0] for r in found], "caption": [r[1] for r in found]}), path)
    return path


def split(web: Server, folder: Path, parts: int) -> list[Path]:
    """Write URL lists of the web's images, and queries.txt: the words that most of their texts have.

    Of images with the same bytes only one is kept: which captions they unite depends on which of them are
    tried. URLs that keep failing are left out: they would only cost rounds.
    """
    lists: list[list[Row]] = [[] for _ in range(parts)]
    words: Counter[str] = Counter()
    url_of: dict[str, str] = {}
    for reference in web.web.references:
        if reference.reason in ("bad_url", "bad_scheme", "data_url") or is_transient(reference.reason):
            continue
        if url_of.setdefault(identity(reference), reference.url) != reference.url:
            continue
        rows = [(reference.url, text.text) for text in reference.texts]
        lists[int(identity(reference)[:8], 16) % parts] += rows
        words.update(word for _, text in rows for word in {*tokens(text)} if word.isalpha())
    common = sorted(words, key=lambda word: (-words[word], word))[:16]
    (folder / "queries.txt").write_text("\n".join(common))
    return [write_list(folder / f"part-{number}.parquet", rows) for number, rows in enumerate(lists)]


def is_transient(reason: str | None) -> bool:
    return reason is not None and REASONS[reason].transient


def command(web: Server, sources: Iterable[Path], *extra: str) -> list[str]:
    """Return `openwit crawl` arguments, without --out."""
    first, *_ = sources = list(sources)
    argv = arguments(web.web, Path("unused"), "--queries", str(first.parent / "queries.txt"), *extra)
    for flag in ("--out", "--source"):
        place = argv.index(flag)
        del argv[place : place + 2]
    return [*argv, *(part for path in sources for part in ("--source", str(path)))]


def crawl(web: Server, out: Path, sources: Iterable[Path], *extra: str) -> Path:
    settle(web.web)
    assert main(["--out", str(out), *command(web, sources, *OPTIONS, *extra)]) == 0
    return out


def extension(run: Path, sources: Iterable[Path], *extra: str) -> list[str]:
    return ["--extend", str(run), *(part for path in sources for part in ("--source", str(path))), *extra]


def extend(run: Path, *sources: Path) -> None:
    assert main(extension(run, sources)) == 0


def is_whole(run: Path) -> None:
    assert verify(["--run", str(run)]) == 0
    found = manifest(run)
    gone = sum(dropped_samples.rows(str(run), len(found.get("extensions", [])))["captions"].to_pylist())
    captions = sum(len(row["captions"]) for row in samples(run))
    counts = found["counts"]
    assert counts["captions"] == captions - gone
    assert counts["candidates"] == counts["captions"] + sum(reasons(run).values())


def the_set(run: Path) -> dict[str, tuple[frozenset[str], frozenset[int], frozenset[int]]]:
    """Return captions, query_ids and matched_query_ids by uid."""
    names = ("captions", "query_ids", "matched_query_ids")
    return {row["uid"]: tuple(frozenset(row[name]) for name in names) for row in samples(run)}  # type: ignore[misc]


def keys_of(run: Path, shard: str) -> list[str]:
    return pq.read_table(run / "shards" / shard.replace(".tar", ".parquet"))["key"].to_pylist()  # type: ignore[no-any-return]


def counts_by_query(run: Path) -> list[dict[str, Any]]:
    """Return query_counts.parquet; a grown run has tried images that one run over all sources would not."""
    table = pq.read_table(run / "query_counts.parquet").drop_columns(["untried"])
    return table.to_pylist()  # type: ignore[no-any-return]


def shard_bytes(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((run / "shards").glob("0*"))}


@pytest.fixture(scope="module")
def parts(web: Server, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return split(web, tmp_path_factory.mktemp("parts"), 3)


@pytest.fixture(scope="module")
def base(web: Server, parts: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run over the first part."""
    return crawl(web, tmp_path_factory.mktemp("base") / "run", parts[:1])


@pytest.fixture
def run(base: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be changed."""
    out = shutil.copytree(base, tmp_path / "run")
    relocate(base, out)
    return out


def times_extended(run: Path) -> int:
    return len(manifest(run).get("extensions", []))


def stop(*_: object) -> None:
    raise RuntimeError("stopped here")


@pytest.fixture(scope="module")
def grown(web: Server, base: Path, parts: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run over the first part, extended by the second and then by the third; killed on the way."""
    out = shutil.copytree(base, tmp_path_factory.mktemp("grown") / "run")
    relocate(base, out)
    before, shown = shard_bytes(out), manifest(out)
    argv = [sys.executable, "-m", "beam_job", "crawl", *extension(out, parts[1:2])]
    kill_when(argv, out, "extensions/1/fetch/round-0/*.json")
    assert manifest(out) == shown and not (out / dropped_samples.FILE).exists(), "a reader sees the old set"
    assert verify(["--run", str(out)]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest_module, "counts_of", stop)  # the last step but the manifest itself
        assert main(extension(out, parts[1:2])) != 0
    gone = dropped_samples.load(str(out), times_extended(out))
    there = [
        gone.stays(shard["name"], keys_of(out, shard["name"])).sum() for shard in manifest(out)["shards"]
    ]
    assert manifest(out) == shown and sum(there) == shown["counts"]["samples"], "still the old set"
    assert verify(["--run", str(out)]) == 1, "it says how to go on"
    extend(out, parts[1])
    is_whole(out)
    extend(out, parts[2])
    after = shard_bytes(out)
    assert before.items() <= after.items() and len(after) > len(before), "old shards keep names and bytes"
    return out


def test_a_grown_run_is_the_run_over_all_sources(
    web: Server, grown: Path, parts: list[Path], tmp_path: Path
) -> None:
    is_whole(grown)
    scratch = crawl(web, tmp_path / "scratch", parts)
    assert compact(["--run", str(grown), "--out", str(tmp_path / "compacted")]) == 0
    assert the_set(tmp_path / "compacted") == the_set(scratch)
    assert counts_by_query(grown) == counts_by_query(scratch)
    assert manifest(grown)["counts"]["candidates"] == manifest(scratch)["counts"]["candidates"]
    entries = manifest(grown)["extensions"]
    assert [entry["source"] for entry in entries] == [[str(parts[1])], [str(parts[2])]]
    assert all(entry["dropped"] for entry in entries), "the cap bites"
    gone = dropped_samples.rows(str(grown), 2)
    assert set(gone["reason"].to_pylist()) == {"over_cap"}
    assert not {*gone["uid"].to_pylist()} & {*the_set(scratch)}


def wanted_spelling(run: Path, row: dict[str, Any]) -> str:
    """Return another URL of a sample's bytes, which its queries would keep."""
    state = finished_set.load(Layout(str(run)), checked_manifest.of(str(run)))
    assert state.thresholds is not None
    ids = row["matched_query_ids"]
    for number in range(10_000):
        url = f"{row['url']}?copy={number}"
        head = np.full(len(ids), int(urls.uid(urls.canonical(url))[:16], 16), np.uint64)
        if (balance.priorities(head, state.hashes[ids]) < state.thresholds[ids]).any():
            return url
    raise AssertionError("no query keeps any")


def test_a_known_url_is_not_asked_for_again_and_known_bytes_are_not_stored_twice(
    web: Server, run: Path, tmp_path: Path
) -> None:
    """How the new source meets the run: a stored URL, a failed URL, a URL over the cap, a copy."""
    before, counted = the_set(run), counts_by_query(run)
    # One request each: "moved" is a redirect.
    single = [row for row in samples(run) if len(row["captions"]) == 1 and "/moved" not in row["url"]]
    stored, copied = single[:2]
    copy_url = wanted_spelling(run, copied)
    # The web's ports decide whether a URL fails, and whether another is over its cap.
    failed = [row for row in rejected(run) if row["stage"] == "fetch"][:1]
    times = Counter(row["uid"] for row in rejected(run))
    spare = [row for row in rejected(run) if row["detail"] == "not fetched" and times[row["uid"]] == 1]
    over = spare[:1]  # with the only caption that is in the new source again
    more = write_list(
        tmp_path / "more.parquet",
        [
            (stored["url"], f"{stored['caption']} again"), *((row["url"], row["caption"]) for row in failed),
            *((row["url"], row["caption"]) for row in over), (copy_url, copied["caption"]),
        ],
    )  # fmt: skip
    start = len(web.requests())
    extend(run, more)
    assert {path.partition("?")[0] for _, path in asked_for(web, start)} == {urlsplit(copied["url"]).path}
    assert len(asked_for(web, start)) == 1
    is_whole(run)
    new = [row for row in rejected(run) if (row["stage"], row["reason"]) == ("select", "known_url")]
    assert {(row["uid"], row["caption"]) for row in new} == {
        (stored["uid"], f"{stored['caption']} again"), *((row["uid"], row["caption"]) for row in failed)
    }  # fmt: skip
    merged = [row for row in rejected(run) if row["url"] == copy_url]
    assert [(row["reason"], row["detail"], row["candidates"]) for row in merged] == [
        ("merged_into", copied["uid"], 1)
    ]
    assert the_set(run) == before and not dropped_samples.rows(str(run), 1).num_rows
    # A copy is one more URL that matched; the copy over the cap was counted already.
    matches = set(copied["matched_query_ids"])
    for old, now in zip(counted, counts_by_query(run), strict=True):
        assert now["matched"] - old["matched"] == (old["query_id"] in matches)
        assert (now["kept"], now["present"]) == (old["kept"], old["present"])


@pytest.mark.slow
def test_without_merging_it_is_the_run_over_all_sources_too(
    web: Server, parts: list[Path], tmp_path: Path
) -> None:
    """The same pictures are in both parts here, under URLs of their own."""
    rows = [list(zip(*pq.read_table(path).to_pydict().values(), strict=True)) for path in parts[:2]]
    copies = [(f"{url}?copy", f"{caption} twice") for url, caption in rows[0][::3]]
    second = write_list(tmp_path / "second.parquet", [*rows[1], *copies])
    run = crawl(web, tmp_path / "run", parts[:1], "--dedup", "off", "--partition-rows", "100")
    extend(run, second)
    assert len(list((run / "extensions/1/select/samples").glob("*.counts"))) > 4, "of many partitions"
    is_whole(run)
    scratch = crawl(web, tmp_path / "scratch", [parts[0], second], "--dedup", "off")
    assert compact(["--run", str(run), "--out", str(tmp_path / "compacted")]) == 0
    assert the_set(tmp_path / "compacted") == the_set(scratch)
    assert counts_by_query(run) == counts_by_query(scratch)


def test_readers_leave_out_what_was_dropped(grown: Path, tmp_path: Path) -> None:
    gone = dropped_samples.load(str(grown), times_extended(grown))
    expected = [row for row in samples(grown) if row["key"] not in gone.keys(row["key"][:5])]
    assert len(expected) == manifest(grown)["counts"]["samples"] < len(samples(grown))
    [source] = shard_sources.resolve([str(grown)], (), (), (), Cache(tmp_path / "cache"))
    trained = []
    for shard in source.shards:
        with shard_sources.OpenShard(shard.path) as opened:
            places = range(len(opened)) if shard.kept is None else shard.kept
            trained += [opened.row(int(place))["uid"] for place in places]
    assert source.count == len(trained) and trained == [row["uid"] for row in expected]
    compared, described = [], []
    for path in training_set.find(str(grown)).shards:
        compared += [sample.uid for sample in training_set.read(path, is_run=True)]
        for part in training_set.read_described(path, 64) or ():
            assert len(part.samples) == len(part.descriptors.hashes)
            described += [sample.uid for sample in part.samples]
    assert compared == described == trained
    report = json.loads((grown / "report" / "report.json").read_text())
    assert report["samples"] == len(expected)


def test_compacted_shards_are_those_of_the_set(grown: Path, tmp_path: Path) -> None:
    out, again = tmp_path / "compacted", tmp_path / "again"
    for folder in (out, again):
        assert compact(["--run", str(grown), "--out", str(folder)]) == 0
    assert shard_bytes(out) == shard_bytes(again) and manifest(out)["counts"] == manifest(grown)["counts"]
    is_whole(out)
    gone = dropped_samples.load(str(grown), times_extended(grown))
    kept = [row for row in samples(grown) if row["key"] not in gone.keys(row["key"][:5])]
    tars = [str(path) for path in sorted((out / "shards").glob("*.tar"))]
    found = list(webdataset.WebDataset(tars, shardshuffle=False))
    assert [sample["__key__"] for sample in found] == [row["key"] for row in kept]
    rows = {row["key"]: row for row in samples(out)}
    for sample in found:
        inside, row = json.loads(sample["json"]), rows[sample["__key__"]]
        assert inside["query_ids"] == row["query_ids"] and sample["txt"].decode() == row["caption"]
    counted = Counter(query for row in rows.values() for query in row["query_ids"])
    assert all(row["kept"] == counted[row["query_id"]] for row in counts_by_query(grown))


@pytest.fixture
def scrubbed(grown: Path, tmp_path: Path) -> tuple[Path, list[Row]]:
    """The grown run without a sample that it had dropped and a sample of an extension; and these two."""
    run = shutil.copytree(grown, tmp_path / "run")
    relocate(grown, run)
    gone = dropped_samples.load(str(run), times_extended(run))
    rows = [row for row in samples(run) if row["url"].startswith("http://")]
    old = next(row for row in rows if row["key"] in gone.keys(row["key"][:5]))
    new = next(row for row in reversed(rows) if row["key"] not in gone.keys(row["key"][:5]))
    assert takedown(["--run", str(run), "--url", old["url"], "--url", new["url"]]) == 0
    return run, [(row["url"], row["caption"]) for row in (old, new)]


def test_takedown_removes_what_was_dropped_and_what_was_added(
    grown: Path, scrubbed: tuple[Path, list[Row]]
) -> None:
    run, removed = scrubbed
    is_whole(run)
    gone = {urls.uid(urls.canonical(url)) for url, _ in removed}
    left = {row["uid"] for row in samples(run)} | {*dropped_samples.rows(str(run), 2)["uid"].to_pylist()}
    assert len(gone) == 2 and not left & gone
    before, now = manifest(grown)["counts"], manifest(run)["counts"]
    assert (now["candidates"], now["samples"]) == (before["candidates"], before["samples"] - 1)


@pytest.mark.slow
def test_what_was_taken_down_does_not_come_back(
    web: Server, scrubbed: tuple[Path, list[Row]], tmp_path: Path
) -> None:
    run, removed = scrubbed
    start = len(web.requests())
    extend(run, write_list(tmp_path / "more.parquet", removed))
    is_whole(run)
    assert not asked_for(web, start) and not {row["url"] for row in samples(run)} & {*dict(removed)}


def test_the_first_command_of_a_grown_run_changes_nothing(
    web: Server, grown: Path, parts: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    before = shard_bytes(grown), manifest(grown)
    out = ["--out", str(grown), *command(web, parts[:1], *OPTIONS)]
    assert main(out) == 0
    for argv, said in (
        ([*out, "--retry-failed"], "--retry-failed would write the shards of this run again"),
        ([*out, "--per-query", "6"], "--per-query 5 -> 6 would build this run again"),
        (["--out", str(grown), *command(web, parts[1:2], *OPTIONS)], "--extend"),
        (extension(grown, parts[:2]), f"has read {parts[0]}, {parts[1]} already"),
    ):
        refused(argv, said, capsys)
    assert (shard_bytes(grown), manifest(grown)) == before


def refused(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str], command: Callable[..., int] = main
) -> None:
    capsys.readouterr()
    try:
        assert command(argv) == 2
    except SystemExit as error:
        assert error.code == 2
    assert said in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (("--per-query", "6"), "--per-query 5 -> 6"),
        (("--lang", "any", "--min-words", "3"), "--lang en -> any, --min-words 1 -> 3"),
        (("--dedup", "near"), "--dedup exact -> near"),
        (("--stage", "fetch"), "cannot be combined with --retry-failed"),
        (("--sample", "0.5"), "pilot"),
        (("--out", "elsewhere"), "leave --out out"),
    ],
)
def test_what_decides_the_content_cannot_differ(
    run: Path, parts: list[Path], extra: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(extension(run, parts[1:2], *extra), said, capsys)
    assert not (run / "extensions").exists()


def test_a_run_that_is_not_finished_is_not_extended(
    web: Server, run: Path, parts: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(extension(tmp_path, parts[1:2]), "is not a finished run", capsys)
    shutil.rmtree(run / "work" / "select")
    refused(extension(run, parts[1:2]), "where the run noted which URLs it has tried", capsys)


def test_another_extension_waits_for_the_one_under_way(
    run: Path, parts: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [sys.executable, "-m", "beam_job", "crawl", *extension(run, parts[1:2])]
    kill_when(argv, run, "extensions/1/candidates/*.parquet")
    said = f"finish it with: openwit crawl --extend {run} --source {parts[1]}"
    refused(extension(run, parts[2:3]), said, capsys)
    refused(["--run", str(run), "--url", "http://example.org/"], said, capsys, takedown)


def test_of_a_url_that_was_moved_before_the_latest_captions_count() -> None:
    a, b, c = (bytes([number]) * 16 for number in range(3))
    known = schemas.to_table(
        [(a, [0, 2], False, 0), (a, [1], False, 1), (a, [2], False, 1), (b, [0], False, 0), (c, [], True, 0)],
        KNOWN_ROWS,
    )
    found = pa.chunked_array([pa.array([a, a, c], pa.binary(16))])
    assert moved_counts(known, found, 3).tolist() == [0, 1, 1]
    assert moved_counts(known, found.slice(0, 0), 3).tolist() == [0, 0, 0]


def test_the_thresholds_say_which_queries_keep_a_stored_row() -> None:
    uids = [f"{number:032x}" for number in (1 << 120, 2 << 120, 3 << 120)]
    matched = pa.array([[0, 1], [1], []], pa.list_(pa.int32()))
    table = pa.table({"uid": uids, "query_ids": matched, "matched_query_ids": matched})
    hashes = balance.query_hashes(["a", "b"], 0)
    heads = np.array([int(uid[:16], 16) for uid in uids], np.uint64)
    limit = balance.priorities(heads[:1], hashes[1:])[0]  # the second query keeps the first, not the second
    thresholds = np.array([balance.EVERYTHING, limit], np.uint64)
    larger = balance.priorities(heads[1:2], hashes[1:])[0] > limit
    now = FinishedSet("", (), hashes, thresholds, dropped_samples.NOTHING).now(table)
    assert now["query_ids"].to_pylist() == [[0, 1], [] if larger else [1], []]
    nothing = FinishedSet("", (), hashes, np.zeros(2, np.uint64), dropped_samples.NOTHING).now(table)
    assert nothing["query_ids"].to_pylist() == [[], [], []] and nothing.schema == table.schema


def test_known_rows_say_what_was_tried(tmp_path: Path) -> None:
    (tmp_path / "queries.txt").write_text("a\nb")
    table = QueryTable(path=str(tmp_path / "queries.txt"), seed=0, queries=2)
    uids = [bytes([number]) * 16 for number in (1, 1, 2)]
    columns = [pa.array(uids, pa.binary(16)), pa.array([[0], [1], [1]], pa.list_(pa.int32()))]
    rows = pa.Table.from_arrays(columns, names=["uid", "matched"])
    limits = np.array([balance.EVERYTHING, 0], np.uint64)  # all of the first query, none of the second
    found = known_rows(rows, table, limits, 3).to_pylist()
    assert [(row["uid"], row["matched"], row["tried"], row["extension"]) for row in found] == [
        (uids[0], [], True, 3), (uids[2], [1], False, 3)
    ]  # fmt: skip
    assert known_rows(rows.slice(0, 0), table, limits, 3).schema == KNOWN_ROWS


def test_new_rows_meet_what_the_run_knows(tmp_path: Path) -> None:
    (tmp_path / "queries.txt").write_text("a\nb")
    table = QueryTable(path=str(tmp_path / "queries.txt"), seed=0, queries=2)
    shuffler = NewShuffler(folder=str(tmp_path), max_captions=16, queries=table)
    tried, untried, new = (bytes([number]) * 16 for number in (1, 2, 3))
    known = schemas.to_table([(tried, [], True, 0), (untried, [1], False, 0)], KNOWN_ROWS)
    rows = schemas.to_table(
        [
            (uid, "http://h/", "text", 7, [0], "en", 0.5, "", "http://p/", "s", "", "")
            for uid in (tried, untried, new, new)
        ],
        schemas.CAPTION_ROWS,
    )
    result = shuffler.reduce(0, [schemas.encode(known), schemas.encode(rows)])
    assert result.rejected == {"duplicate": 1, "known_url": 1} and result.rows == 2
    assert schemas.read_table(result.path)["uid"].to_pylist() == [untried, new]
    assert read_vector(result.moved).tolist() == [[0, 1]]


def test_what_is_stored_takes_the_place_of_new_images_with_its_bytes() -> None:
    stored = schemas.to_table(
        [(b"s" * 16, b"x" * 32)], pa.schema([STORED_ROWS.field("uid"), STORED_ROWS.field("sha256")])
    )
    row = {
        **dict.fromkeys(MERGED_ROWS.names, ""),
        "caption_hash": 1,
        "matched": [0],
        "lang_score": 0.0,
        "http_status": 200,
        "fetched_at": 0,
        "quality": 0,
    }
    for name in ("bytes", "width", "height", "original_width", "original_height", "offset", "length"):
        row[name] = 1
    images = [{**row, "uid": uid * 16, "sha256": digest * 32} for uid, digest in ((b"a", b"x"), (b"b", b"y"))]
    table = pa.Table.from_pylist(images, schema=MERGED_ROWS)
    rest, rejected_rows = merge_into_stored(table, [stored])
    assert rest["uid"].to_pylist() == [b"b" * 16]
    assert [(r["reason"], r["detail"], r["candidates"]) for r in rejected_rows.to_pylist()] == [
        ("merged_into", (b"s" * 16).hex(), 1)
    ]
    assert merge_into_stored(table, [])[0] is table


def test_a_reader_sees_the_extensions_that_the_manifest_counts(tmp_path: Path) -> None:
    rows = [
        ("u1", "000000001", "00000", "over_cap", 1, 1), ("u2", "000000004", "00000", "over_cap", 2, 2),
        ("u3", "000010000", "00001", "over_cap", 1, 2),
    ]  # fmt: skip
    schemas.write_table(str(tmp_path / dropped_samples.FILE), schemas.to_table(rows, dropped_samples.ROWS))
    found = [dropped_samples.load(str(tmp_path), count) for count in range(3)]
    assert [sorted(one.keys("00000.tar")) for one in found] == [
        [], ["000000001"], ["000000001", "000000004"]
    ]  # fmt: skip
    assert [sorted(one.keys("00001")) for one in found] == [[], [], ["000010000"]]
    assert found[2].stays("00000", ["000000000", "000000004"]).tolist() == [True, False]
    assert not found[2].keys("00002")


def test_scores_follow_an_extension_a_takedown_and_compaction(grown: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "compacted"
    shutil.copytree(grown, run)
    relocate(grown, run)
    scoring = ["--run", str(run), "--workers", "1", "--scorer", "tests.test_scoring:Brightness"]
    assert score(scoring) == 0
    is_whole(run)
    name = "tests.test_scoring.Brightness"
    victim = next(row for row in samples(run) if row["key"].endswith("0001"))
    assert takedown(["--run", str(run), "--url", victim["url"]]) == 0
    is_whole(run)
    uids = [uid for path in sorted((run / "scores" / name).glob("*.parquet"))
            for uid in pq.read_table(path)["uid"].to_pylist()]  # fmt: skip
    assert victim["uid"] not in uids and uids == [row["uid"] for row in samples(run)]
    assert compact(["--run", str(run), "--out", str(out)]) == 0
    is_whole(out)
    for path in sorted((out / "scores" / name).glob("*.parquet")):
        there, before = pq.read_table(path), pq.read_table(run / "scores" / name / path.name)
        scores = dict(zip(before["key"].to_pylist(), before["score_level"].to_pylist(), strict=True))
        assert there["score_level"].to_pylist() == [scores[key] for key in there["key"].to_pylist()]
        assert len(there) <= len(before)
    cache = Cache(tmp_path / "cache")
    counts = [shard_sources.resolve([str(at)], (), (), (), cache, keep_if="top(score_level, 0.5)")[0].count
              for at in (run, out)]  # fmt: skip
    assert counts[0] == counts[1] > 0, "what was dropped is no part of the half"
