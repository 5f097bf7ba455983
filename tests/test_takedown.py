"""Taking down: a named sample is nowhere in the run but in the tombstones, and never comes back."""

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import hashlist, tombstones
from pipeline.cli import main
from pipeline.demo.server import Server
from pipeline.hashlist import HashList
from pipeline.images.pdq import pdq
from pipeline.takedown import work
from pipeline.takedown.cli import main as takedown
from pipeline.tombstones import Tombstones
from pipeline.verify import main as verify
from tests.crawling import arguments, crawl, manifest, reasons, rejected, samples
from tests.test_resume import relocate

pytestmark = pytest.mark.timeout(900)

OPTIONS = ("--per-query", "4", "--headroom", "1", "--rounds", "2", "--workers", "1", "--keep-staging")


@pytest.fixture(scope="module")
def web(small_web: Server) -> Server:
    return small_web


@pytest.fixture(scope="module")
def finished(web: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return crawl(web.web, tmp_path_factory.mktemp("finished") / "run", *OPTIONS)


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    out = shutil.copytree(finished, tmp_path / "run")
    relocate(finished, out)
    return out


def all_bytes(root: Path) -> dict[str, bytes]:
    """Return the content of every file, compressed tables and archives unpacked as well."""
    found = {}
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        data = path.read_bytes()
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            data += repr(table.to_pylist()).encode()
            data += b"".join(
                value
                for name in table.column_names
                if pa.types.is_fixed_size_binary(table.schema.field(name).type)
                for value in table[name].to_pylist()
                if value
            )
            data += json.dumps(table.to_pylist(), default=str, ensure_ascii=False).encode()
        if path.suffix == ".tar":
            with tarfile.open(path) as tar:
                data += b"".join(f.read() for m in tar if (f := tar.extractfile(m)) is not None)
        found[str(path.relative_to(root))] = data
    return found


def settled_bytes(root: Path) -> dict[str, bytes]:
    """Return the content of every file but the lock, which says who was here last."""
    return {name: data for name, data in all_bytes(root).items() if name != "work/lock"}


def traces(root: Path, needles: list[bytes]) -> set[str]:
    """Return the files in which any of the needles occurs."""
    return {name for name, data in all_bytes(root).items() if any(needle in data for needle in needles)}


def needles_of(row: dict[str, Any]) -> list[bytes]:
    """Return the traces of a sample that must not be found: uid, URL and sha256, as text and as raw bytes."""
    digests = [bytes.fromhex(row["uid"]), bytes.fromhex(row["sha256"])]
    texts = [row["uid"].encode(), row["url"].encode(), row["sha256"].encode()]
    return [*texts, *digests]


def jpegs(run: Path, uid: str) -> list[bytes]:
    """Return the stored image of a sample."""
    row = next(r for r in samples(run) if r["uid"] == uid)
    with tarfile.open(run / "shards" / f"{row['key'][:5]}.tar") as tar:
        member = tar.extractfile(f"{row['key']}.jpg")
        assert member is not None
        return [member.read()]


def alone(run: Path) -> dict[str, Any]:
    """Return a sample whose URL is part of no other URL."""
    rows = samples(run)
    texts = [r["url"] for r in rows] + [r["url"] for r in rejected(run)]
    return next(r for r in rows if sum(r["url"] in text for text in texts) == 1)


def is_whole(run: Path) -> None:
    """The run verifies, and every candidate is accounted for."""
    assert verify(["--run", str(run)]) == 0
    counts = manifest(run)["counts"]
    assert counts["candidates"] == counts["captions"] + counts["rejected"]
    assert counts["captions"] == sum(len(row["captions"]) for row in samples(run))
    assert sum(reasons(run).values()) == counts["rejected"]


def test_nothing_is_left_of_a_sample_but_its_tombstone(run: Path, finished: Path) -> None:
    victim = alone(run)
    needles = [*needles_of(victim), *jpegs(run, victim["uid"])]
    before = traces(run, needles)
    assert len(before) > 8 and any(name.endswith(".blob") for name in before), "it is in every stage"
    assert takedown(["--run", str(run), "--url", victim["url"]]) == 0
    assert traces(run, needles) == {"tombstones.json"}
    assert victim["url"] not in (run / "tombstones.json").read_text()
    is_whole(run)
    old, new = samples(finished), samples(run)
    assert new == [row for row in old if row["uid"] != victim["uid"]], "the other rows and keys are as before"
    assert manifest(run)["counts"]["rejected_by_stage"]["candidates"]["taken_down"] >= len(victim["captions"])
    assert victim["uid"] not in {row["uid"] for row in rejected(run)}


def test_the_counts_by_query_are_those_of_what_is_left(run: Path) -> None:
    victim = alone(run)
    before = {row["query_id"]: row for row in pq.read_table(run / "query_counts.parquet").to_pylist()}
    assert takedown(["--run", str(run), "--url", victim["url"]]) == 0
    for row in pq.read_table(run / "query_counts.parquet").to_pylist():
        old = before[row["query_id"]]
        assert old["matched"] - row["matched"] == (row["query_id"] in victim["matched_query_ids"])
        assert old["present"] - row["present"] == (row["query_id"] in victim["matched_query_ids"])
        assert old["kept"] - row["kept"] == (row["query_id"] in victim["query_ids"])


def test_copies_of_the_same_bytes_go_too(run: Path) -> None:
    """Two URLs were merged into one sample: naming the URL that is not in the set removes the sample."""
    merged = next(row for row in rejected(run) if row["reason"] == "merged_into")
    survivor = next(row for row in samples(run) if row["uid"] == merged["detail"])
    assert takedown(["--run", str(run), "--url", merged["url"]]) == 0
    needles = [value.encode() for value in (merged["uid"], survivor["uid"], survivor["sha256"])]
    assert traces(run, needles) == {"tombstones.json"}
    is_whole(run)


def test_a_domain_goes_with_its_pages(run: Path, web: Server) -> None:
    host = urlsplit(alone(run)["url"]).hostname
    assert host is not None
    theirs = [row for row in samples(run) if urlsplit(row["url"]).hostname == host]
    assert theirs
    assert takedown(["--run", str(run), "--domain", host]) == 0
    assert not [row for row in samples(run) + rejected(run) if f"//{host}:" in row["url"] + row["page_url"]]
    needles = [f"//{host}:".encode(), f"//{host}/".encode(), f'"{host}"'.encode()]
    assert not traces(run, needles)
    is_whole(run)


def test_by_sha256_and_by_look(run: Path) -> None:
    first, second = samples(run)[:2]
    argv = ["--sha256", first["sha256"], "--phash", second["phash"], "--phash-distance", "0"]
    assert takedown(["--run", str(run), *argv]) == 0
    left = {row["uid"] for row in samples(run)}
    assert not {first["uid"], second["uid"]} & left and len(left) == len(samples(run))
    is_whole(run)


def test_a_run_without_its_work_folder(run: Path) -> None:
    shutil.rmtree(run / "work")
    victim = alone(run)
    assert takedown(["--run", str(run), "--url", victim["url"]]) == 0
    assert traces(run, needles_of(victim)) == {"tombstones.json"}
    is_whole(run)


def test_a_run_that_was_moved(run: Path, tmp_path: Path) -> None:
    """Its markers name the old place; the files removed lie in the new place, and nothing else goes."""
    victim = alone(run)
    moved = run.rename(tmp_path / "moved")
    before = {p.relative_to(moved) for p in (moved / "work" / "fetch").rglob("*.*")}
    assert takedown(["--run", str(moved), "--url", victim["url"]]) == 0
    assert traces(moved, needles_of(victim)) == {"tombstones.json"}
    assert {p.relative_to(moved) for p in (moved / "work" / "fetch").rglob("*.*")} == before
    is_whole(moved)


def test_an_attempt_that_came_to_no_end_is_removed(run: Path) -> None:
    stray = next((run / "work/fetch/round-0").glob("*.blob"))
    stray = Path(shutil.copy(stray, stray.with_name("00000-0000@stray.blob")))
    assert takedown(["--run", str(run), "--url", alone(run)["url"]]) == 0
    assert not stray.exists()


def test_the_slices_of_a_stopped_shuffle_are_removed(run: Path) -> None:
    spill = run / "work/select/deduplicated.spill"
    spill.mkdir()
    (spill / "000000.slices").write_bytes(b"captions of somebody")
    assert takedown(["--run", str(run), "--url", alone(run)["url"]]) == 0
    assert not spill.exists()


def test_repeating_the_command_changes_nothing(run: Path, web: Server) -> None:
    victim = alone(run)
    argv = ["--run", str(run), "--url", victim["url"]]
    assert takedown(argv) == 0
    before = settled_bytes(run)
    assert takedown(argv) == 0
    assert settled_bytes(run) == before
    start = len(web.requests())
    assert main(arguments(web.web, run, *OPTIONS)) == 0, "the run is still finished"
    assert len(web.requests()) == start


@pytest.mark.parametrize("stop", (0, 5, 19))
def test_killed_in_the_middle_and_finished(
    run: Path, tmp_path: Path, stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever file was published last, the next command ends in the same files."""
    victim = alone(run)
    untouched = shutil.copytree(run, tmp_path / "untouched")
    assert takedown(["--run", str(run), "--url", victim["url"]]) == 0
    wanted = settled_bytes(run)
    shutil.rmtree(run)
    untouched.rename(run)
    replace, left = Path.replace, stop

    def fails(self: Path, target: Path) -> Path:
        nonlocal left
        left -= 1
        if left < 0:
            raise SystemExit(9)
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fails)
        with pytest.raises(SystemExit):
            takedown(["--run", str(run), "--url", victim["url"]])
    if (run / tombstones.PENDING).exists():
        assert verify(["--run", str(run)]) == 1, "an unfinished takedown is told"
    assert takedown(["--run", str(run), "--url", victim["url"]]) == 0
    found = settled_bytes(run)
    assert found.keys() == wanted.keys()
    for name in found:
        assert found[name] == wanted[name], name


def test_a_crawl_waits_for_a_takedown_to_be_finished(run: Path, web: Server, capsys) -> None:
    (run / tombstones.PENDING).write_text("{}")
    with pytest.raises(SystemExit) as stop:
        main(arguments(web.web, run, *OPTIONS))
    assert stop.value.code == 2 and "openwit takedown --run" in capsys.readouterr().err


def test_it_does_not_come_back(run: Path, web: Server, tmp_path: Path) -> None:
    """Neither in a rerun from the sources, nor as the same bytes or the same look from elsewhere."""
    by_url, by_bytes, by_look = samples(run)[:3]
    argv = ["--url", by_url["url"], "--sha256", by_bytes["sha256"], "--phash", by_look["phash"]]
    assert takedown(["--run", str(run), *argv]) == 0
    stones = json.loads((run / "tombstones.json").read_text())
    stones["urls"] = [uid for uid in stones["urls"] if uid not in (by_bytes["uid"], by_look["uid"])]
    stones["sha256"] = [value for value in stones["sha256"] if value != by_look["sha256"]]
    (run / "tombstones.json").write_text(json.dumps(stones))  # as if they were new, from other URLs
    changed = [*OPTIONS, "--min-words", "1", "--max-captions", "15", "--restart"]
    assert main(arguments(web.web, run, *changed)) == 0
    left = {row["uid"] for row in samples(run)}
    assert not {by_url["uid"], by_bytes["uid"], by_look["uid"]} & left
    found = {row["uid"]: (row["stage"], row["reason"]) for row in rejected(run)}
    assert found[by_bytes["uid"]] == ("fetch", "taken_down")
    assert found[by_look["uid"]] == ("fetch", "taken_down")
    assert by_url["uid"] not in found, "its candidates are counted without a name"
    needles = [by_bytes["sha256"].encode(), bytes.fromhex(by_bytes["sha256"]), by_url["url"].encode()]
    assert traces(run, needles) == {"tombstones.json"}
    is_whole(run)


def test_before_anything_is_finished(web: Server, finished: Path, run: Path) -> None:
    """A takedown between two stages: it is not even asked for."""
    victim = alone(run)
    for name in ("finish", "fetch"):
        shutil.rmtree(run / "work" / name)
    for name in ("shards", "rejected"):
        shutil.rmtree(run / name)
    (run / "manifest.json").unlink()
    assert takedown(["--run", str(run), "--url", victim["url"]]) == 0
    start = len(web.requests())
    assert main(arguments(web.web, run, *OPTIONS)) == 0
    path = urlsplit(victim["url"]).path
    asked = {(r["host"], r["path"]) for r in web.requests()[start:]}
    assert asked and (urlsplit(victim["url"]).netloc, path) not in asked, "it is not even asked for"
    assert victim["uid"] not in {row["uid"] for row in samples(run)}
    assert traces(run, needles_of(victim)) == {"tombstones.json"}
    is_whole(run)


def test_an_overlap_report_is_cleaned(run: Path, tmp_path: Path) -> None:
    victim, other = samples(run)[:2]
    folder = tmp_path / "overlap"
    (folder / "work" / "match-1").mkdir(parents=True)
    table = pa.table({"uid": [victim["uid"], other["uid"]], "url": [victim["url"], other["url"]]})
    for name in ("matches.parquet", "drop.parquet", "work/match-1/shard-1.parquet"):
        pq.write_table(table, folder / name)
    (folder / "index.html").write_text(victim["url"])
    assert takedown(["--run", str(run), "--url", victim["url"], "--overlap", str(folder)]) == 0
    assert not traces(folder, needles_of(victim))
    assert pq.read_table(folder / "matches.parquet")["uid"].to_pylist() == [other["uid"]]


def test_check_writes_nothing(run: Path, capfd) -> None:
    before = settled_bytes(run)
    assert takedown(["--run", str(run), "--url", alone(run)["url"], "--check"]) == 0
    assert "1 sample would be removed" in capfd.readouterr().out
    assert settled_bytes(run) == before


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "say what to remove"),
        (["--url", "not a url"], "no URL"),
        (["--domain", "co.uk"], "public suffix"),
        (["--domain", "com"], "public suffix"),
        (["--domain", "example.org/page"], "takes a name"),
        (["--sha256", "abc"], "64 hex digits"),
        (["--phash", "0" * 64, "--phash-distance", "128"], "distance"),
    ],
)
def test_what_is_not_understood_is_refused(run: Path, argv: list[str], said: str, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        takedown(["--run", str(run), *argv])
    assert stop.value.code == 2 and said in capsys.readouterr().err


def test_tombstones_know_pages_sites_and_both_schemes() -> None:
    stones = tombstones.request(url=["https://a.test/x"], domain=["*.Example.org", "127.0.0.1"])
    assert stones.has_url("http://a.test/x") and stones.has_url("https://A.test:443/x#f")
    assert not stones.has_url("https://a.test/y")
    assert stones.has_url("https://www.deep.example.org/z") and not stones.has_url("https://notexample.org/")
    assert stones.has_url("http://127.0.0.1:8080/") and not stones.has_url("http://127.0.0.2/")
    assert not stones.has_url("") and not stones.has_url("data:image/png;base64,AA")
    again = Tombstones.from_json(json.loads(json.dumps(stones.to_json())))
    assert again == stones and bool(stones) and not Tombstones()
    text = json.dumps(stones.to_json())
    assert "a.test" not in text and "example" not in text


def test_of_two_distances_the_larger_counts() -> None:
    value = bytes(32)
    near, far = (Tombstones(images=HashList(phashes=((value, radius),))) for radius in (3, 9))
    assert (near | far).images.phashes == ((value, 9),) == (far | near).images.phashes


def test_a_hash_list_refuses_before_anything_is_stored(web: Server, finished: Path, tmp_path: Path) -> None:
    import hashlib

    def body_of(row: dict[str, Any]) -> bytes:
        """Return the file that a URL names; other answers, such as a redirect's, have none."""
        site = row["url"].split("/")[2]
        name = next(info.name for info in web.web.sites if info.address == site)
        path = web.web.folder / "sites" / name / urlsplit(row["url"]).path.lstrip("/")
        return path.read_bytes() if path.is_file() else b""

    exact, look, *others = samples(finished)
    third, fourth = [r for r in others if hashlib.sha256(body_of(r)).hexdigest() == r["sha256"]][:2]
    body = body_of(third)
    shown = cv2.imdecode(np.frombuffer(body_of(fourth), np.uint8), cv2.IMREAD_COLOR_RGB)
    near = bytearray(bytes.fromhex(look["phash"]))
    near[31] ^= 0b111
    lines = [f"# known\nsha256 {exact['sha256']}", f"phash {near.hex()} 3",
             f"{hashlib.md5(body).hexdigest()}  third.jpg",
             f"pdq {pdq(np.asarray(shown, np.uint8)).digits}"]  # fmt: skip
    (tmp_path / "list.txt").write_text("\n".join(lines))
    run = crawl(web.web, tmp_path / "run", *OPTIONS, "--hash-list", str(tmp_path / "list.txt"))
    details = {r["uid"]: r["detail"] for r in rejected(run) if r["reason"] == "hash_listed"}
    assert details[exact["uid"]] == "sha256" and details[third["uid"]] == "md5"
    assert details[look["uid"]] == "phash, 3 bits away"
    assert details[fourth["uid"]].startswith("pdq, ")
    assert not {row["uid"] for row in (exact, look, third, fourth)} & {row["uid"] for row in samples(run)}
    for row in (exact, look, third, fourth):
        assert not traces(
            run, [row["sha256"].encode(), bytes.fromhex(row["sha256"]), *jpegs(finished, row["uid"])]
        )


@pytest.mark.parametrize(
    ("line", "wrong"),
    [("xyz", "list.txt, line 2"), ("phash 12", "64 hex digits"), ("phash " + "0" * 64 + " 200", "90 bits"),
     ("md5 " + "0" * 64, "not 64 hex digits"), ("sha256", "line 2"),
     ("pdq 12", "64 hex digits")],
)  # fmt: skip
def test_a_bad_line_of_a_hash_list_is_named(line: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        hashlist.parse(["# list", line], "list.txt")


def test_an_empty_hash_list_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="lists no hash"):
        hashlist.parse(["# nothing"], "list.txt")


def test_the_default_distance_is_that_of_near_duplicates() -> None:
    from pipeline.near.groups import RADIUS

    assert hashlist.DISTANCE == RADIUS


def test_overwriting_keeps_the_other_images_in_place(tmp_path: Path) -> None:
    blob = tmp_path / "x.blob"
    blob.write_bytes(b"aaabbbbcc")
    work.overwrite(str(blob), [(3, 4)])
    assert blob.read_bytes() == b"aaa\0\0\0\0cc"
    work.overwrite(str(blob), [(0, 3), (7, 2)])
    assert blob.read_bytes() == bytes(9)
