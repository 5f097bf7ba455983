"""The main job end to end, on a real web served on loopback, against the truth about that web."""

import io
import json
import shutil
import subprocess
import sys
import tarfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from dedup.decode_images import decode_jpeg
from dedup.training_set import read_described
from pipeline import balance, crawl_tables, querylist, run_folder
from pipeline.browse import arrived
from pipeline.browse.guard import Guard
from pipeline.browse.server import Server as Browser
from pipeline.captions.text import clean
from pipeline.cli import main
from pipeline.data import views
from pipeline.data.descriptors import describe, unpack
from pipeline.demo.server import Server
from pipeline.flow import markers
from pipeline.flow.beam_runner import BeamRunner
from pipeline.flow.kept import Kept
from pipeline.index import build
from pipeline.index.place import Dataset
from pipeline.reasons import REASONS
from pipeline.run_folder import Layout
from pipeline.stages import Rounds
from pipeline.verify import main as verify
from tests.crawling import arguments, contents, crawl, manifest, reasons, rejected, samples, settle

pytestmark = pytest.mark.timeout(900)

CAPPED = ("--per-query", "4", "--headroom", "1", "--rounds", "2")


@pytest.fixture(scope="module")
def capped(small_web: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a cap that bites."""
    out = tmp_path_factory.mktemp("capped") / "run"
    return crawl(small_web.web, out, *CAPPED, "--workers", "1")


def test_every_candidate_of_the_web_is_in_the_shards_or_rejected(web: Server, whole: Path) -> None:
    expected = Counter()
    for reference in web.web.references:
        texts = [clean(text.text) for text in reference.texts if text.text.strip()]
        for text in texts or [""]:
            expected[text[:300]] += 1
    found = Counter(row["caption"][:300] for row in rejected(whole) for _ in range(row["candidates"]))
    found.update(caption[:300] for row in samples(whole) for caption in row["captions"])
    assert found == expected
    counts = manifest(whole)["counts"]
    assert counts["candidates"] == web.web.candidates() == counts["captions"] + counts["rejected"]
    assert counts["captions"] == sum(len(row["captions"]) for row in samples(whole))


def test_every_image_ends_where_the_truth_says(web: Server, whole: Path) -> None:
    """Images with English captions that match: in the set, or out for the reason that was built into them."""
    in_set = {row["url"] for row in samples(whole)}
    out = defaultdict(set)
    for row in rejected(whole):
        out[row["url"]].add(row["reason"])
    wrong = []
    for reference in web.web.references:
        natures = {text.nature for text in reference.texts}
        if "caption" not in natures or reference.reason == "data_url":
            continue
        urls = set(reference.urls)
        reasons_found = set().union(*(out[url] for url in urls))
        if reference.reason is None:
            fine = bool(urls & in_set) or "merged_into" in reasons_found
        else:
            fine = reference.reason in reasons_found and not urls & in_set
        if not fine:
            wrong.append((reference.special, reference.reason, sorted(reasons_found), sorted(urls)[:1]))
    assert not wrong


def test_reasons_are_of_the_closed_set(whole: Path) -> None:
    found = reasons(whole)
    assert set(found) <= set(REASONS)
    assert "internal_error" not in found
    assert len(found) > 20, "the web has most kinds of failure in it"


def test_merged_images_are_traced_and_their_captions_united(web: Server, whole: Path) -> None:
    rows = {row["uid"]: row for row in samples(whole)}
    merged = [row for row in rejected(whole) if row["reason"] == "merged_into"]
    assert merged
    by_bytes = defaultdict(set)
    for reference in web.web.references:
        if reference.sha256:
            by_bytes[reference.sha256] |= {clean(text.text) for text in reference.texts}
    for row in merged:
        survivor = rows[row["detail"]]
        assert row["uid"] > survivor["uid"] and row["uid"] not in rows
    shas = Counter(row["sha256"] for row in rows.values())
    assert set(shas.values()) == {1}, "the same bytes stand twice in the set"
    known = [row for row in rows.values() if row["sha256"] in by_bytes]  # not those behind a redirect
    assert len(known) > 0.9 * len(rows)
    for row in known:
        assert set(row["captions"]) <= by_bytes[row["sha256"]]
    counted = len({row["uid"] for row in merged})
    assert json.loads((whole / "report" / "report.json").read_text())["merged_images"] == counted
    crawl_tables.show_result(Console(file=(shown := io.StringIO()), width=200), Layout(str(whole)), 1.0)
    assert f"- merged_into ({counted} images)" in shown.getvalue()


def test_each_query_keeps_exactly_what_it_may(web: Server, tmp_path: Path) -> None:
    """With rounds enough, each query has the k smallest priorities of all that can be fetched.

    Without merging and placeholders, which depend on the other images fetched.
    """
    alone = ("--workers", "1", "--dedup", "off", "--placeholder-captions", "0")
    whole = crawl(web.web, tmp_path / "whole", *alone)
    capped = crawl(
        web.web, tmp_path / "capped", "--per-query", "4", "--headroom", "1", "--rounds", "9", *alone
    )
    assert len(manifest(capped)["rounds"]) > 1, "what failed in the first round is made up for in another"
    queries = querylist.load(str(capped / "work" / "queries.parquet"))
    hashes = balance.query_hashes(querylist.normalised(queries, "openwit"), 0)
    fetchable = {row["uid"]: set(row["matched_query_ids"]) for row in samples(whole)}
    heads = {uid: np.uint64(int(uid[:16], 16)) for uid in fetchable}
    keeps = defaultdict(set)
    for query in range(len(queries)):
        uids = [uid for uid, matched in fetchable.items() if query in matched]
        if uids:
            array = np.array([heads[uid] for uid in uids], np.uint64)
            priority = balance.priorities(array, np.full(len(uids), hashes[query])).tolist()
            for _, uid in sorted(zip(priority, uids, strict=True))[:4]:
                keeps[uid].add(query)
    found = {row["uid"]: set(row["query_ids"]) for row in samples(capped)}
    assert found == keeps
    assert len(found) < len(fetchable), "the cap bites"
    over = [row for row in rejected(capped) if row["reason"] == "over_cap"]
    assert {row["stage"] for row in over} == {"select", "finish"}


def test_query_counts_say_what_the_shards_hold(capped: Path) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(capped / "query_counts.parquet").to_pylist()
    kept, present = Counter(), Counter()
    for row in samples(capped):
        kept.update(row["query_ids"])
        present.update(row["matched_query_ids"])
    for row in table:
        assert row["kept"] == kept[row["query_id"]] <= 4
        assert row["present"] == present[row["query_id"]] <= row["matched"]
        assert row["short"] == 0 or row["kept"] < 4
    assert any(row["present"] > row["kept"] for row in table)


def test_shards_are_read_by_others(whole: Path, tmp_path: Path) -> None:
    expected = samples(whole)
    shards = sorted((whole / "shards").glob("*.tar"))
    assert len(shards) >= 3
    members = []
    for shard in shards:
        with tarfile.open(shard) as tar:
            assert {m.mtime for m in tar} == {0}
            members += [m.name for m in tar]
    assert members == [f"{row['key']}.{kind}" for row in expected for kind in ("jpg", "json", "txt")]
    import webdataset

    found = list(webdataset.WebDataset([str(s) for s in shards], shardshuffle=False))
    assert [sample["__key__"] for sample in found] == [row["key"] for row in expected]
    assert [sample["txt"].decode() for sample in found] == [row["caption"] for row in expected]
    for sample, row in zip(found, expected, strict=True):
        inside = json.loads(sample["json"])
        assert "fetched_at" not in inside and inside["uid"] == row["uid"]
        assert inside["captions"] == row["captions"] and inside["sha256"] == row["sha256"]
    sizes = json.loads((whole / "shards" / "sizes.json").read_text())
    assert sum(sizes.values()) == len(expected) and max(sizes.values()) <= 100
    assert max(sizes.values()) - min(sizes.values()) <= 1


def test_descriptors_are_kept_beside_the_images(whole: Path) -> None:
    """The Parquet rows hold the values that images are compared by; KEY.json stays small."""
    for row in samples(whole)[::17]:
        with tarfile.open(whole / "shards" / f"{row['key'][:5]}.tar") as tar:
            jpeg, text = (tar.extractfile(f"{row['key']}.{suffix}") for suffix in ("jpg", "json"))
            assert jpeg is not None and text is not None
            rgb, known = decode_jpeg(jpeg.read()), json.loads(text.read())
        assert rgb is not None and "descriptor" not in known
        assert known["quality"] == row["quality"]
        kept = unpack([row["descriptor"]])
        later = describe(views.thumbnail(views.inner(rgb))[None])
        assert np.unpackbits(kept.hashes ^ later.hashes).sum() <= 24, "this is another picture's descriptor"
        assert np.unpackbits(kept.mirrored_hashes ^ later.mirrored_hashes).sum() <= 24


def test_images_may_be_described_later(small_web: Server, capped: Path, tmp_path: Path) -> None:
    """The tars are the same; overlap decodes the images where no descriptors are kept."""
    later = crawl(small_web.web, tmp_path / "run", *CAPPED, "--workers", "1", "--describe", "later")
    paths = sorted((capped / "shards").glob("*.tar"))
    for path in paths:
        other = later / "shards" / path.name
        assert other.read_bytes() == path.read_bytes()
        assert read_described(str(path), 10) is not None and read_described(str(other), 10) is None
    assert paths and verify(["--run", str(later)]) == 0


def test_an_older_webdataset_reads_them_too(whole: Path, tmp_path: Path) -> None:
    """open_clip pins webdataset up to 0.2.86."""
    target = str(tmp_path / "old")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        target,
        "webdataset==0.2.86",
    ]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("webdataset 0.2.86 cannot be had")
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import webdataset as w; assert w.__version__ == '0.2.86'\n"
        "pairs = w.WebDataset(sys.argv[2:]).decode('pil').to_tuple('__key__', 'jpg', 'txt')\n"
        "print(*(key for key, image, text in pairs if image.size and text))"
    )
    shards = [str(s) for s in sorted((whole / "shards").glob("*.tar"))]
    done = subprocess.run(
        [sys.executable, "-c", script, target, *shards], check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == [row["key"] for row in samples(whole)]


def test_shards_mix_the_sites(whole: Path) -> None:
    """With over 70 sites, the top site's share of any shard is at most twice its share of the set."""
    from pipeline.urls import site

    rows = samples(whole)
    sites = Counter(site(row["url"]) for row in rows)
    assert len(sites) > 70
    top, count = sites.most_common(1)[0]
    share = count / len(rows)
    by_shard = defaultdict(list)
    for row in rows:
        by_shard[row["key"][:5]].append(site(row["url"]) == top)
    for inside in by_shard.values():
        assert sum(inside) / len(inside) <= 2 * share


@pytest.mark.parametrize(
    "extra",
    [
        ("--workers", "2"),
        ("--workers", "1", "--partition-rows", "100", "--partitions-at-once", "2"),
        ("--runner", "FnApiRunner", "--workers", "2"),
        ("--runner", "FnApiRunner", "--workers", "1", "--direct_runner_bundle_repeat=2"),
        ("--runner", "PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK"),
        ("--workers", "1", "--unit-images", "12", "--piece-bytes", "6000"),
    ],
    ids=[
        "two workers",
        "hash ranges",
        "Beam",
        "bundles repeated",
        "portable runner",
        "other pieces and units",
    ],
)
def test_the_same_bytes_however_it_is_run(
    small_web: Server, capped: Path, tmp_path: Path, extra: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, wait = [], BeamRunner._wait

    def counted(self: BeamRunner, pipeline: object) -> None:
        jobs.append(pipeline)
        wait(self, pipeline)

    monkeypatch.setattr(BeamRunner, "_wait", counted)
    run = crawl(small_web.web, tmp_path / "run", *CAPPED, *extra)
    rounds = len(manifest(run)["rounds"])
    assert len(jobs) == (3 + rounds if "--runner" in extra else 0), "candidates, select, each round, finish"
    found, expected = contents(run), contents(capped)
    for part in expected:
        assert found[part] == expected[part], part


def test_verify_finds_a_flipped_bit_and_a_lost_row(whole: Path, tmp_path: Path, capfd) -> None:
    import shutil

    run = shutil.copytree(whole, tmp_path / "run", ignore=shutil.ignore_patterns("work"))
    assert verify(["--run", str(run)]) == 0
    told = capfd.readouterr()
    assert "every hash and count is as in the manifest" in told.out and not told.err
    tar = next(iter(sorted((run / "shards").glob("*.tar"))))
    data = bytearray(tar.read_bytes())
    data[2000] ^= 1
    tar.write_bytes(data)
    assert verify(["--run", str(run)]) == 1
    shutil.copy(whole / "shards" / tar.name, tar)
    next(iter((run / "rejected").glob("fetch*.parquet"))).unlink()
    assert verify(["--run", str(run)]) == 1


def test_verify_finds_a_lost_shard_and_a_foreign_one(whole: Path, tmp_path: Path, capfd) -> None:
    import shutil

    run = shutil.copytree(whole, tmp_path / "run", ignore=shutil.ignore_patterns("work"))
    tar = next(iter(sorted((run / "shards").glob("*.tar"))))
    foreign = tar.rename(tar.with_name("99999.tar"))
    assert verify(["--run", str(run)]) == 1
    said = capfd.readouterr().out
    assert f"{tar} is missing" in said and f"{foreign} is not in the manifest" in said


def test_a_url_list_with_kept_columns_and_a_scorer(web: Server, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(web.web.folder / "urls.parquet").slice(0, 60)
    source = tmp_path / "list.parquet"
    extra = {"similarity": [i / 100 for i in range(60)], "licence": ["cc0", None] * 30}
    for name, values in extra.items():
        table = table.append_column(name, [values])
    pq.write_table(table, source)
    settle(web.web)
    argv = arguments(web.web, tmp_path / "run", "--workers", "1", "--lang", "any")
    argv[argv.index(str(web.web.warc))] = str(source)
    scoring = ["--scorer", "pipeline.images.scoring:Sharpness", "--keep-if", "score_sharpness > 300"]
    assert main([*argv, "--keep-columns", "similarity", "--keep-columns", "licence", *scoring]) == 0
    rows = samples(tmp_path / "run")
    counts = manifest(tmp_path / "run")["counts"]
    assert counts["candidates"] == 60 == counts["captions"] + counts["rejected"]
    assert rows and all(row["score_sharpness"] > 300 for row in rows)
    blurred = [row for row in rejected(tmp_path / "run") if row["reason"] == "score_filter"]
    assert blurred and all(json.loads(row["detail"])["score_sharpness"] <= 300 for row in blurred)
    by_caption = dict(zip(table["caption"].to_pylist(), table["similarity"].to_pylist(), strict=True))
    for row in rows:
        assert row["source"] == "list.parquet" and row["licence_"] in ("cc0", None)
        assert row["similarity"] == by_caption.get(row["caption"], row["similarity"])
    assert {type(row["similarity"]) for row in rows} == {float}


def test_a_url_list_is_taken_whole_without_queries(web: Server, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(web.web.folder / "urls.parquet").slice(0, 40)
    pq.write_table(table, tmp_path / "list.parquet")
    settle(web.web)
    argv = arguments(web.web, tmp_path / "run", "--workers", "1", "--lang", "any", "--queries", "all")
    argv[argv.index(str(web.web.warc))] = str(tmp_path / "list.parquet")
    assert main([*argv, "--shared-captions", "0", "--placeholder-captions", "0"]) == 0
    assert verify(["--run", str(tmp_path / "run")]) == 0
    assert not {row["reason"] for row in rejected(tmp_path / "run")} & {"no_match", "over_cap"}
    rows = samples(tmp_path / "run")
    assert rows and all(row["query_ids"] == row["matched_query_ids"] == [0] for row in rows)
    counts = pq.read_table(tmp_path / "run" / "query_counts.parquet").to_pylist()
    assert [(row["query"], row["kept"], row["short"]) for row in counts] == [("*", len(rows), 0)]


def test_no_match_at_all_is_an_empty_but_complete_run_that_says_so(
    web: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "none.txt").write_text("xylophone quartet\n")
    settle(web.web)
    run = tmp_path / "run"
    assert main(arguments(web.web, run, "--queries", str(tmp_path / "none.txt"), "--workers", "1")) == 1
    assert "- no_match" in capfd.readouterr().out
    assert samples_or_none(run) == []
    counts = manifest(run)["counts"]
    assert counts["candidates"] == counts["rejected"] == web.web.candidates()
    assert verify(["--run", str(run)]) == 0


def samples_or_none(run: Path) -> list[dict[str, object]]:
    return samples(run) if (run / "shards").exists() else []


# ---- looked at by `openwit browse`


def stored_pictures(run: Path) -> dict[str, bytes]:
    """Return the JPEG of each sample by its uid."""
    uids = {row["key"]: row["uid"] for row in samples(run)}
    found = {}
    for path in (run / "shards").glob("*.tar"):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".jpg") and (content := tar.extractfile(member)):
                    found[uids[member.name[:-4]]] = content.read()
    return found


def test_pictures_that_are_not_in_the_set_are_shown_from_staging(whole: Path, tmp_path: Path) -> None:
    layout, stored = Layout(str(whole)), stored_pictures(whole)
    build.index_run(tmp_path / "index.sqlite", layout, lambda done, total, rows: None)
    server = Browser(Dataset(layout.root, layout), tmp_path / "index.sqlite", Guard(host="127.0.0.1", port=1))
    merged = [row for row in rejected(whole) if row["reason"] == "merged_into"]
    assert merged
    for row in merged:
        assert server._rejected(row)["picture"] == f"api/image/{row['detail']}"
        assert server._rejected(row | {"reason": "over_cap"})["picture"] == f"api/staged/{row['uid']}"
        place = server._search.staged(row["uid"])
        assert place is not None and arrived.picture(place) == stored[row["detail"]], "the same bytes came"
    assert all(server._search.staged(uid) is None for uid in stored)
    gone = next(row for row in rejected(whole) if row["stage"] == "fetch" and row["reason"] != "merged_into")
    assert "picture" not in server._rejected(gone)
    server._search.close()


def test_the_last_pictures_that_arrived_are_shown_while_it_runs(whole: Path, tmp_path: Path) -> None:
    layout, stored = Layout(str(whole)), stored_pictures(whole)
    (first, *_), folder = run_folder.done(layout, Rounds).rounds, Layout(str(tmp_path)).round(0)
    assert arrived.newest(str(tmp_path), 20) == []
    shutil.copytree(layout.round(0), folder)
    for unit in first.units:  # as they stand until their round is over
        Path(folder, f"{unit.name}.json").write_text(markers.dump(unit, layout.round(0)))
    found = arrived.newest(str(tmp_path), 20)
    assert len(found) == 20
    for known, place in found:
        assert known["url"].startswith("http") and stored.get(known["uid"]) in (None, arrived.picture(place))
    assert sum(known["uid"] in stored for known, _ in found) > 10
    assert arrived.troubled(str(tmp_path / "none"), 9) == []
    failing = arrived.troubled(str(tmp_path), 99)
    assert failing and all(0 < one["failed"] <= one["of"] for one in failing)
    pictures = list(stored.items())[:3]
    with Kept(folder, "00000-9999", "a") as store:  # a unit that is being fetched
        for number, (uid, jpeg) in enumerate(pictures):
            store.add({"key": uid, "final_url": f"https://a.test/{number}.jpg"}, jpeg)
        store.add({"key": "f" * 32, "final_url": "https://a.test/gone.jpg", "reason": "http_gone"}, b"")
        (worst,) = [one for one in arrived.troubled(str(tmp_path), 99) if one["site"] == "a.test"]
        assert worst == {"site": "a.test", "failed": 1, "of": 4, "reason": "http_gone"}
        running = arrived.newest(str(tmp_path), 3)
        assert [(known["uid"], arrived.picture(place)) for known, place in running] == pictures[::-1]
        assert running[0][0]["url"] == "https://a.test/2.jpg"
        store.remove()
    assert arrived.picture(running[0][1]) is None, "the unit has ended meanwhile"
    assert arrived.newest(str(tmp_path), 20) == found
