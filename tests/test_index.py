"""The index of a dataset: against reading everything, and after whatever changes a set."""

import io
import itertools
import json
import re
import sqlite3
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_job import main
from pipeline import balance
from pipeline.index import build, by_column, place, query_list, tables, vectors
from pipeline.index import near as near_groups
from pipeline.index import pages as query
from pipeline.index import search as asking
from pipeline.index.cli import index
from pipeline.index.offsets import write_energon, write_webshart
from pipeline.index.question import Filter, match_expression
from pipeline.index.search import Search
from pipeline.index.walk import Page
from pipeline.options.finished import IndexConfig
from tests import finished_run
from tests.scenes import jpeg, scene

CAPTIONS = [
    *(f"umbrella on a beach number {n}" for n in range(30)),
    "a beach on umbrella", "dogs, cats & co.", "Straße in Köln", "two\ttabs", "OR NOT AND", 'a "quoted" word',
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("indexed") / "run"
    finished_run.build(folder, CAPTIONS, ["beach", "dogs"])
    assert index(IndexConfig(run=str(folder))) == 0
    return folder


@pytest.fixture
def search(run: Path) -> Iterator[Search]:
    found = Search(run / "index" / "index.sqlite")
    yield found
    found.close()


def captions(search: Search, wanted: Filter, table: str = "samples") -> list[str]:
    page = search.page(wanted, 200, table=table)
    assert page.total == len(page.rows) and page.is_exact
    return [row["caption"] for row in page.rows]


def followed(search: Search, wanted: Filter, limit: int, after: int = 0) -> Iterator[Page]:
    """Yield pages of samples as a browser asks for them."""
    return all_pages(lambda after: search.page(wanted, limit, after), after)


def all_pages(load: Callable[[int], Page], after: int = 0) -> Iterator[Page]:
    """Yield pages as a browser asks for them, one after the other."""
    while True:
        page = load(after)
        yield page
        if not (after := page.next):
            return


def test_every_picture_is_where_the_index_says(run: Path, search: Search) -> None:
    found = {}
    for shard in sorted((run / "shards").glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                if member.name.endswith(".jpg"):
                    content = tar.extractfile(member)
                    assert content is not None
                    found[member.name[:-4]] = content.read()
    rows = search.page(Filter(), 200).rows
    assert [row["caption"] for row in rows] == CAPTIONS
    for row in rows:
        data = Path(search.shard(row["shard"])).read_bytes()
        assert data[row["offset"] : row["offset"] + row["length"]] == found[row["key"]]
        part = data[row["json_offset"] : row["json_offset"] + row["json_length"]]
        assert json.loads(part) == {}


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("umbrella", r"\bumbrella\b"), ("Umbrella BEACH", r"umbrella.*beach|beach.*umbrella"),
        ('"on a beach"', "on a beach"), ("strasse köln", "$^"), ("Straße", "Straße"), ("koln", "Köln"),
        ("OR", r"\bOR\b"), ('"quoted"', "quoted"), ("umbrella -number", "on umbrella"), ("tabs", "tabs"),
        ("num*", "$^"), ("caption:dogs", "$^"), ("&", "$^"), ("-umbrella", "^(?!.*umbrella)"),
        ('-beach -"two dogs" -nobody', "^(?!.*(beach|two dogs))"),
    ],
)  # fmt: skip
def test_words_find_what_has_them(search: Search, text: str, pattern: str) -> None:
    flags = re.IGNORECASE if text != "OR" else 0
    expected = [one for one in CAPTIONS if re.search(pattern, one, flags)]
    assert captions(search, Filter(text=text)) == expected


@given(st.text(max_size=40))
def test_whatever_people_type_is_an_expression(text: str) -> None:
    db = sqlite3.connect(":memory:")
    db.execute("CREATE VIRTUAL TABLE t USING fts5 (caption, url, tags, content='')")
    if expression := match_expression(text):
        db.execute("SELECT rowid FROM t WHERE t MATCH ?", (expression,)).fetchall()
    db.close()


def test_filters_sorting_and_pages(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(captions(search, Filter(query=0))) == len(CAPTIONS)
    assert captions(search, Filter(facets={"site": "a.test", "shard": "00001"})) == CAPTIONS[10:20]
    assert captions(search, Filter(facets={"site": "b.test"})) == []
    assert captions(search, Filter(facets={"reason": "language"}), "rejects") == CAPTIONS
    assert captions(search, Filter(text="dogs", facets={"reason": "language"}), "rejects") == CAPTIONS[31:32]
    assert captions(search, Filter(text="-dogs", facets={"reason": "language"}), "rejects") == [
        one for one in CAPTIONS if "dogs" not in one
    ]
    without = [one for one in CAPTIONS if "umbrella" not in one]
    for sort in ("", "bytes", "-width"):
        assert sorted(captions(search, Filter(text="-umbrella", query=0, sort=sort))) == sorted(without)
    assert 0 < len(without) == len([*search.uids(Filter(text="-umbrella"))]) < len(CAPTIONS)
    least = Filter(least={"bytes": 1007}, most={"bytes": 1008})
    assert captions(search, least) == [CAPTIONS[shard + n] for shard in (0, 10, 20) for n in (7, 8)]
    largest = search.page(Filter(sort="-bytes"), 3).rows
    assert [row["bytes"] for row in largest] == [1009, 1009, 1009]
    pages = list(followed(search, Filter(text="umbrella"), 7))
    assert [row["caption"] for page in pages for row in page.rows] == CAPTIONS[:31] and len(pages) == 5
    largest = search.page(Filter(text="umbrella", sort="-bytes"), 40).rows
    for module, name in ((query, "_LOOKED_UP"), (query, "_TRIED"), (by_column, "WALKED")):
        monkeypatch.setattr(module, name, 3)
    assert search.page(Filter(text="umbrella", sort="-bytes"), 40).rows == largest
    least = Filter(text="umbrella", least={"bytes": 1003})
    assert search.page(least, 40)[1:] == (21, False, 0) and search.count(least) == ([], 21, True, 0)
    for wanted in (Filter(sort="caption"), Filter(least={"uid": 0})):
        with pytest.raises(ValueError, match="there is no column"):
            search.page(wanted, 1)


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Search, list[dict[str, Any]]]:
    """An index of 1,200 samples in two shards, and their numbers: some missing, many the same."""
    path, rng = tmp_path_factory.mktemp("numbered") / "index.sqlite", np.random.default_rng(0)
    width = np.where(rng.random(1_200) < 0.5, 256, rng.integers(257, 900, 1_200))
    rows = [
        {"id": n + 1, "width": int(width[n]), "height": int(rng.integers(1, 5)), "bytes": n % 7,
         "lang_score": None if n % 5 == 0 else float(rng.normal()),
         "caption": "some word" if n % 6 == 0 else "often word" if n % 3 else "word"}
        for n in range(1_200)
    ]  # fmt: skip
    index = tables.Index(path)

    def add(source: tables.Source, number: int) -> None:
        half = rows[:600] if source.name == "a" else rows[600:]
        index.insert("samples", tables.SAMPLE_COLUMNS, (
            [f"{row['id']:032x}", "", number, "jpg", 0, 1, 0, 0, row["caption"], "", "", "",
             row["width"], row["height"], row["bytes"], row["lang_score"], None] for row in half
        ))  # fmt: skip

    shards = [tables.Source(name, name, "1") for name in "ab"]
    index.renew("samples", shards, add, lambda done, total, found: None)
    tables.finish(index, "numbered")
    index.close()
    return Search(path), rows


@pytest.mark.parametrize("asked", [0, 10_000])
@pytest.mark.parametrize("sort", ["", "-width", "width", "-lang_score", "lang_score"])
@pytest.mark.parametrize(
    ("least", "most"),
    [({}, {}), ({"width": 880}, {}), ({"width": 300}, {"lang_score": 0.1}), ({}, {"lang_score": -2.5}),
     ({"bytes": 2}, {"bytes": 2}), ({"width": 9000}, {})],
)  # fmt: skip
def test_any_order_and_cut_is_that_of_all_rows(
    numbered: tuple[Search, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch, asked: int, sort: str,
    least: dict[str, float], most: dict[str, float],
) -> None:  # fmt: skip
    search, rows = numbered
    monkeypatch.setattr(query, "_LOOKED_UP", 5)
    monkeypatch.setattr(by_column, "_ASKED", asked)
    if sort[:1] == "-":  # read each word's list with each part, and look single rows up
        monkeypatch.setattr(by_column, "WALKED", 100)
        monkeypatch.setattr(by_column, "_LOOKED_UP", 10_000)
    for text in ("", "some", '"often word"', "word"):
        left = [
            row for row in rows
            if text.strip('"') in row["caption"]
            and all(row[name] is not None and row[name] >= bound for name, bound in least.items())
            and all(row[name] is not None and row[name] <= bound for name, bound in most.items())
        ]  # fmt: skip
        if column := sort.removeprefix("-"):
            left.sort(key=lambda row: (row[column] is not None, row[column] or 0, row["id"]))
            left = left[::-1] if sort[0] == "-" else left
        wanted = Filter(text=text, least=least, most=most, sort=sort)
        pages = list(followed(search, wanted, 40))
        assert [row["id"] for page in pages for row in page.rows] == [row["id"] for row in left]
        for page in pages:
            assert page.total <= len(left) and (page.total == len(left) or not page.is_exact)
        assert search.count(wanted) == ([], len(left), True, 0)


def test_a_query_keeps_the_smallest_hashes(search: Search) -> None:
    ranked = search.ranked(0, 100).rows
    assert len(ranked) == len(CAPTIONS) and all(0 <= one["priority"] < 1 for one in ranked)
    assert [one["priority"] for one in ranked] == sorted(one["priority"] for one in ranked)
    kept = [one["kept"] for one in ranked]
    assert kept == sorted(kept, reverse=True)
    assert search.query_number("dogs") == 1 and search.query_number("cats") is None
    assert [row["query"] for row in search.queries("be", 9)] == ["beach"]
    pages = [*all_pages(lambda after: search.ranked(0, 7, after))]
    assert [len(page.rows) for page in pages] == [7, 7, 7, 7, 7, 1]
    assert [row for page in pages for row in page.rows] == ranked and search.ranked(9, 7) == ([], 0, True, 0)


def test_pages_of_a_long_query_are_all_its_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By lists of few samples each, also once a shard is gone, and whatever captions say."""
    rng, known = np.random.default_rng(0), dict[str, int]()
    hashes = balance.query_hashes(["sea", "seas"], 0)

    def add(source: tables.Source, number: int) -> None:
        uids = rng.integers(0, 1 << 63, 2_000, np.uint64) * np.uint64(2)
        ranks = query_list.rank_tags(np.zeros(len(uids), np.int64), uids, hashes)
        for uid, priority in zip(uids.tolist(), balance.priorities(uids, hashes[:1]).tolist(), strict=True):
            known[f"{source.name}{uid:016x}"] = priority
        index.insert("samples", tables.SAMPLE_COLUMNS, [
            [f"{uid:016x}", source.name, number, "jpg", 0, 1, 0, 0, f"{tag} r0x0000", "", "", f"q0 {tag}",
             1, 1, 5, 0.9, None]
            for uid, tag in zip(uids.tolist(), ranks, strict=True)
        ])  # fmt: skip

    index = tables.Index(tmp_path / "index.sqlite")
    for names in ("abc", "ac"):
        shards = [tables.Source(name, name, "1") for name in names]
        index.renew("samples", shards, add, lambda done, total, found: None)
        query_list.write(index.db, [(0, "sea", 1, 1, 1, 0, int(hashes[0]).to_bytes(8, "big"), None)])
        tables.finish(index, "long")
    index.close()
    every = sorted(priority for name, priority in known.items() if name[0] != "b")
    search = Search(tmp_path / "index.sqlite")
    for limit, most in ((60, 200), (4_000, 200), (7, 9), (60, 3)):
        monkeypatch.setattr(asking, "_SORTED", most)
        pages = [*all_pages(lambda after, limit=limit: search.ranked(0, limit, after))]
        assert all(0 < len(page.rows) <= min(limit, max(most, 60)) for page in pages)
        found = [one["priority"] for page in pages for one in page.rows]
        assert sorted(found) == [priority / 2**64 for priority in every]
        assert (found == sorted(found)) == (most > 3)  # else long lists are in the order of the set
        far = max(abs(a - b) for a, b in zip(found, sorted(found), strict=True))
        assert far <= 2**-10
    search.close()


def test_histograms_count_every_sample(search: Search) -> None:
    for name in search.numbers:
        assert sum(count for _, count in search.histogram(name)) == len(CAPTIONS)


def test_nothing_is_read_again_until_a_shard_changes(run: Path, tmp_path: Path) -> None:
    of = place.dataset(str(run))
    seen: list[int] = []
    before = (run / "index" / "index.sqlite").read_bytes()
    place.renew(of, lambda done, total, rows: seen.append(done))
    assert seen == [4, 1] and len(before) == (run / "index" / "index.sqlite").stat().st_size


def test_what_is_taken_down_is_in_no_byte_of_the_index(tmp_path: Path) -> None:
    run = tmp_path / "run"
    finished_run.build(run, [f"secretword{n} dog" for n in range(12)], url="https://gone.test/y.jpg")
    assert main(["index", str(run)]) == 0
    assert main(["takedown", "--run", str(run), "--url", "https://gone.test/y.jpg"]) == 0
    data = (run / "index" / "index.sqlite").read_bytes()
    assert b"secretword" not in data and b"gone.test" not in data
    search = Search(run / "index" / "index.sqlite")
    assert search.page(Filter(), 9).rows == [] and search.facets("site", 9) == []
    search.close()


def others(folder: Path) -> str:
    folder.mkdir()
    with tarfile.open(folder / "x-000.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in (
            ("sub/é1.png", b"\x89PNG\r\n\x1a\n"),
            ("sub/é1.json", b'{"url": "https://s.test/1", "width": 7}'),
            ("sub/é1.txt", "ein Café".encode()), ("2.webp", b"RIFF"), ("2.json", b"[1"),
            ("only.txt", b"text"),
            ("3.jpg", jpeg(scene(0, 8, 8))),
        ):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    (folder / "x-001.tar").write_bytes(b"\x1f\x8bno tar at all")
    (folder / "x-002.tar").write_bytes((folder / "x-000.tar").read_bytes()[:8000])
    return str(folder / "*.tar")


def test_anybodys_webdataset_is_indexed_and_what_cannot_be_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pattern = others(tmp_path / "sets")
    assert index(IndexConfig(run=pattern)) == 1
    said = capsys.readouterr().out
    assert "x-001.tar is compressed" in said and "x-002.tar: the archive is cut; the samples before" in said
    path, _ = place.renew(place.dataset(pattern), lambda done, total, rows: None)
    search = Search(path)
    rows = search.page(Filter(facets={"shard": "x-000"}), 9).rows
    assert search.page(Filter(facets={"shard": "x-002"}), 9).rows[0]["key"] == rows[0]["key"]
    assert [(row["key"], row["caption"], row["url"], row["width"]) for row in rows] == [
        ("sub/é1", "ein Café", "https://s.test/1", 7), ("2", "", "", None), ("3", "", "", None)
    ]  # fmt: skip
    assert [row["key"] for row in search.page(Filter(text="cafe"), 9).rows] == 2 * ["sub/é1"]
    assert [row["value"] for row in search.facets("site", 9)] == ["s.test"]
    search.close()


def test_offsets_as_webshart_reads_them(run: Path, tmp_path: Path) -> None:
    assert write_webshart(sorted(map(str, (run / "shards").glob("*.tar"))), str(tmp_path)) == 4
    found = json.loads((tmp_path / "00000.json").read_text())
    data = (run / "shards" / "00000.tar").read_bytes()
    assert found["filesize"] == len(data) and len(found["files"]) == 30
    with tarfile.open(run / "shards" / "00000.tar") as tar:
        for member in tar:
            assert found["files"][member.name] == {"offset": member.offset_data, "length": member.size}


def test_offsets_as_energon_reads_them(run: Path, tmp_path: Path) -> None:
    tars = sorted(map(str, (run / "shards").glob("*.tar")))
    assert write_energon(tars, str(tmp_path)) == 4
    starts = np.fromfile(tmp_path / "00000.tar.idx", "<u8").tolist()
    data = (run / "shards" / "00000.tar").read_bytes()
    assert len(starts) == 11 and data[starts[-1] :].strip(b"\0") == b""
    for start, end in itertools.pairwise(starts):  # a part of an archive is an archive
        with tarfile.open(fileobj=io.BytesIO(data[start:end])) as tar:
            keys = {name.partition(".")[0] for name in tar.getnames()}
        assert len(keys) == 1


def test_the_nearest_vectors_with_and_without_a_graph(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "index.sqlite"
    path.write_bytes((run / "index" / "index.sqlite").read_bytes())
    search, rng = Search(path), np.random.default_rng(1)

    def encode(pictures: list[bytes]) -> tuple[np.ndarray, list[int]]:
        made = rng.normal(size=(len(pictures), 16)).astype(np.float32)
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        return made[1:], list(range(1, len(pictures)))  # the first cannot be decoded

    found = vectors.Vectors(path, "f" * 64, 16)
    assert found.renew(search, encode, lambda done, total: None) == len(CAPTIONS)
    assert len(found) == len(CAPTIONS) - 1
    stored = np.fromfile(tmp_path / "index-ffffffffffffffff.f16", np.float16).reshape(-1, 16)
    uids = np.fromfile(tmp_path / "index-ffffffffffffffff.uid", "S32")
    query = stored[3].astype(np.float32)
    order = np.argsort(-(stored.astype(np.float32) @ query), kind="stable")
    monkeypatch.setattr(vectors, "_BLOCK", 7)
    assert [one.uid for one in found.nearest(query, 5)] == [uids[row].decode() for row in order[:5]]
    found.make_graph()  # where usearch is installed
    assert [one.uid for one in found.nearest(query, 5)] == [uids[row].decode() for row in order[:5]]
    db = sqlite3.connect(path)
    db.execute("DELETE FROM samples WHERE uid = ?", (uids[3].decode(),))
    db.execute("UPDATE meta SET value = value - 1 WHERE name = 'samples'")
    db.commit()
    db.close()
    vectors.forget(path, search)
    assert len(found) == len(CAPTIONS) - 2
    assert [one.uid for one in found.nearest(query, 5)] == [uids[row].decode() for row in order[1:6]]
    search.close()


def test_pictures_that_look_alike_are_stars() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 256, (2, 32), np.uint8)
    near, far = one.copy(), one.copy()
    near[3] ^= 7
    far[1::2] ^= 3  # 32 bits: beyond the radius of the first
    rows = np.stack([other, near, one, far, one, rng.integers(0, 256, 32, np.uint8)])
    found = near_groups.stars(rows)
    assert sorted(found) == sorted([(1, 1, 0), (2, 1, 3), (4, 1, 3)]) or sorted(found) == sorted(
        [(2, 2, 0), (1, 2, 3), (4, 2, 0)]
    )


def test_a_stopped_build_goes_on(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    layout = place.dataset(str(run)).layout
    assert layout is not None

    def stop(done: int, total: int, rows: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build.index_run(path, layout, stop)
    seen: list[int] = []
    build.index_run(path, layout, lambda done, total, rows: seen.append(done))
    assert seen[0] == 2
    search = Search(path)
    assert captions(search, Filter()) == CAPTIONS
    search.close()
