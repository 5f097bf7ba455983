"""`--dedup near`: look-alikes become one sample, everything is accounted for, and nothing goes silently."""

import io
import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pipeline import schemas
from pipeline.cli import main
from pipeline.fetch.merge import merge
from pipeline.near.groups import RADIUS
from pipeline.near.workers import add_sites, count_sites, representatives
from pipeline.verify import main as verify
from tests.crawling import manifest, reasons, rejected, samples
from tests.rows import uid_of
from tests.scenes import scene
from tests.test_detector_encoder import torchscript
from tests.test_merge import table_of


def survivors(table: pa.Table, groups: dict[str, str]) -> pa.ChunkedArray:
    """Return the sample that each row is merged into, by URL."""
    pairs = sorted((uid_of(member), uid_of(star)) for member, star in groups.items())
    return representatives(table["uid"], schemas.to_table(pairs, pa.schema(
        [pa.field("uid", pa.binary(16)), pa.field("representative", pa.binary(16))]
    )))  # fmt: skip


def test_a_group_becomes_its_representative_with_the_captions_of_all():
    a, b, c = (f"https://{name}.test/x" for name in "abc")
    rows = [(a, "one", "1"), (a, "two", "1"), (b, "two", "2"), (b, "three", "2"), (c, "other", "3")]
    table = table_of(rows)
    # Both ways, so that it is not the smaller uid that stays.
    for star, member in ((a, b), (b, a)):
        known = table.append_column("survivor", survivors(table, {member: star}))
        merged, gone = merge(known, "survivor", 16, 0)
        found = {(row["uid"], row["caption"]) for row in merged.to_pylist()}
        assert found == {(uid_of(star), text) for text in ("one", "two", "three")} | {(uid_of(c), "other")}
        assert {row["blob"] for row in merged.to_pylist()} == {f"blob-{star}", f"blob-{c}"}
        assert merged.schema.names == table.schema.names
        (row,) = gone.to_pylist()
        assert (row["uid"], row["reason"], row["detail"], row["candidates"]) == (
            uid_of(member).hex(), "merged_into", uid_of(star).hex(), 1,
        )  # fmt: skip
        sites = count_sites(table, known["survivor"])
        assert add_sites([sites, sites]).to_pylist() == [
            {"site": f"{member[8]}.test", "images": 2, "removed": 2}
        ]


CAPTIONS = ["a red fox in the snow", "the fox at dawn", "snow and a fox"]


def encoded(rgb: np.ndarray, scale: float = 1.0, quality: int = 90) -> bytes:
    image = Image.fromarray(rgb)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=quality)
    return sink.getvalue()


def pictures() -> dict[str, bytes]:
    """Return path and bytes: six photographs in three sizes each, ten others, and two blanks."""
    found = {}
    for n in range(6):
        rgb = scene(n, 300, 400)
        versions = encoded(rgb), encoded(rgb, 0.8, 70), encoded(rgb, 0.7, 40)
        found |= {f"/{n}-{size}.jpg": data for size, data in enumerate(versions)}
    found |= {f"/other-{n}.jpg": encoded(scene(100 + n, 300, 400)) for n in range(10)}
    found |= {f"/blank-{n}.jpg": encoded(np.full((300, 300, 3), 250 + n, np.uint8)) for n in range(2)}
    return found


@pytest.fixture(scope="module")
def served() -> Iterator[SimpleNamespace]:
    """Serve the pictures on loopback; .hits counts the requests."""
    files, hits, broken = pictures(), Counter(), set()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hits[self.path] += 1
            data = files.get(self.path, b"") if self.path not in broken else b""
            self.send_response(503 if self.path in broken else 200 if data else 404)
            self.send_header("Content-Type", "image/jpeg")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield SimpleNamespace(files=files, hits=hits, broken=broken, port=server.server_port)
    server.shutdown()
    server.server_close()


def argv(served: SimpleNamespace, folder: Path, *more: str) -> list[str]:
    rows = [
        {"url": f"http://127.0.0.1:{served.port}{path}", "caption": f"{CAPTIONS[n % 3]} {n // 3}"}
        for n, path in enumerate(served.files)
    ]
    if not (folder / "list.jsonl").exists():  # a changed input is another run
        (folder / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "queries.txt").write_text("fox\nsnow\n")
    return [
        "--queries", str(folder / "queries.txt"), "--source", str(folder / "list.jsonl"),
        "--out", str(folder / "run"), "--allow-network", "127.0.0.0/8", "--host-delay", "0", "--lang", "any",
        "--workers", "1", "--timeout", "60", "--min-side", "100", "--per-query", "9", "--headroom", "10",
        *more,
    ]  # fmt: skip


def code(arguments: list[str]) -> int:
    try:
        return main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.mark.timeout(600)
def test_a_crawl_merges_look_alikes_and_accounts_for_all(served, tmp_path, capfd):
    kept = ("--keep-staging",)
    assert main(argv(served, tmp_path, *kept)) == 0
    run = tmp_path / "run"
    count = len(served.files)
    fetched = sum(served.hits.values())
    assert manifest(run)["counts"]["candidates"] == count and manifest(run)["near_duplicates"] is None

    # Over the limit the finished set stays; the same images serve again, none is fetched again.
    near_at = (*kept, "--dedup", "near", "--restart")
    assert code(argv(served, tmp_path, *near_at, "--dedup-limit", "0.2")) == 2
    message = " ".join(capfd.readouterr().err.split())
    assert f"12 of {count} images would be removed" in message and "--dedup-limit" in message
    assert manifest(run)["near_duplicates"] is None and verify(["--run", str(run)]) == 0
    assert main(argv(served, tmp_path, *near_at)) == 0
    assert sum(served.hits.values()) == fetched
    assert verify(["--run", str(run)]) == 0

    found = manifest(run)
    near = found["near_duplicates"]
    assert (near["images"], near["removed"], near["groups"], near["largest_group"]) == (count, 12, 6, 3)
    assert near["sites"] == [{"site": "127.0.0.1", "images": count, "removed": 12}] and near["beyond"] == 0
    assert pq.read_table(run / "near_duplicates.parquet").to_pylist() == near["sites"]
    assert "12 of 30 images are merged into 6 others" in " ".join(capfd.readouterr().out.split())

    by_path = {row["url"].rpartition("/")[2]: row for row in samples(run)}
    gone = {row["url"].rpartition("/")[2]: row for row in rejected(run) if row["reason"] == "merged_into"}
    assert set(gone) == {f"{n}-{size}.jpg" for n in range(6) for size in (1, 2)}
    for n in range(6):
        largest = uid_of(f"http://127.0.0.1:{served.port}/{n}-0.jpg").hex()
        assert {gone[f"{n}-{size}.jpg"]["detail"] for size in (1, 2)} == {largest}
        if f"{n}-0.jpg" in by_path:
            assert sorted(by_path[f"{n}-0.jpg"]["captions"]) == sorted(f"{text} {n}" for text in CAPTIONS)
    assert not any(path in by_path for path in gone)
    # Captions of the merged are in the shards or over the cap with their group, each once.
    counts = found["counts"]
    assert counts["candidates"] == counts["captions"] + counts["rejected"] == count
    assert set(reasons(run)) <= {"merged_into", "over_cap"}
    # The queries are filled from the remaining images: 18, 9 for each query.
    kept_rows = pq.read_table(run / "query_counts.parquet").to_pylist()
    assert {row["kept"] for row in kept_rows} == {9}


def merged_into(run: Path) -> dict[str, str]:
    """Return, by the name of each merged picture, the uid of the picture it was merged into."""
    rows = (row for row in rejected(run) if row["reason"] == "merged_into")
    return {row["url"].rpartition("/")[2]: row["detail"] for row in rows}


@pytest.mark.timeout(600)
def test_look_alikes_are_merged_in_a_retry_and_in_an_extension(served, tmp_path, capfd):
    def uid(path: str) -> str:
        return uid_of(f"http://127.0.0.1:{served.port}/{path}").hex()

    # Of one photograph the largest copy fails at first, of another the smallest.
    served.broken.update(("/0-0.jpg", "/1-2.jpg", "/other-0.jpg"))
    near = ("--dedup", "near", "--per-query", "50", "--rounds", "1", "--placeholder-captions", "0")
    runs = {}
    for name, more in (("alone", ()), ("staged", ("--keep-staging",))):
        folder = tmp_path / name
        folder.mkdir()
        runs[name] = folder / "run"
        served.broken.update(("/0-0.jpg", "/1-2.jpg", "/other-0.jpg"))
        assert main(argv(served, folder, *near, *more)) == 0
        assert merged_into(runs[name])["0-2.jpg"] == uid("0-1.jpg")
        served.broken.clear()
        assert main(argv(served, folder, *near, *more, "--retry-failed")) == 0
        assert verify(["--run", str(runs[name])]) == 0
    found = {name: merged_into(run) for name, run in runs.items()}
    assert found["staged"].pop("0-1.jpg") == found["staged"].pop("0-2.jpg") == uid("0-0.jpg")
    # Where 0-2 has no bytes any more, the image it was merged into stays, though a larger image has come.
    assert found["alone"].pop("0-0.jpg") == found["alone"].pop("0-2.jpg") == uid("0-1.jpg")
    assert found["alone"] == found["staged"] and found["alone"]["1-2.jpg"] == uid("1-0.jpg")
    rows = {name: {row["uid"]: row for row in samples(run)} for name, run in runs.items()}
    assert rows["alone"].pop(uid("0-1.jpg"))["captions"] == rows["staged"].pop(uid("0-0.jpg"))["captions"]
    for one in (*rows["alone"].values(), *rows["staged"].values()):
        one.update(key="", fetched_at=None)
    assert rows["alone"] == rows["staged"] and uid("other-0.jpg") in rows["alone"]

    run, before = runs["alone"], manifest(runs["alone"])
    stored = {path: path.read_bytes() for path in (run / "shards").glob("0*.tar")}
    new = {
        "/late-0.jpg": encoded(scene(0, 300, 400), 1.5), "/late-1.jpg": encoded(scene(1, 300, 400), 0.6),
        "/late-2.jpg": encoded(scene(50, 300, 400)), "/late-3.jpg": encoded(scene(50, 300, 400), 0.8),
    }  # fmt: skip
    served.files.update(new)
    try:
        urls = [{"url": f"http://127.0.0.1:{served.port}{p}", "caption": f"a late fox {p[6]}"} for p in new]
        (tmp_path / "late.jsonl").write_text("".join(json.dumps(row) + "\n" for row in urls))
        more = ["--source", str(tmp_path / "late.jsonl"), "--workers", "1", "--dedup-limit", "0.8"]
        assert main(["--extend", str(run), *more]) == 0
    finally:
        for path in new:
            del served.files[path]
    assert verify(["--run", str(run)]) == 0
    assert {path: path.read_bytes() for path in stored} == stored, "what is stored stays"
    # Larger or smaller, a new picture goes to the stored picture; among new pictures the larger stays.
    late = {name: star for name, star in merged_into(run).items() if name.startswith("late")}
    assert late == {
        "late-0.jpg": uid("0-1.jpg"), "late-1.jpg": uid("1-0.jpg"), "late-3.jpg": uid("late-2.jpg")
    }  # fmt: skip
    grown = manifest(run)
    assert grown["counts"]["samples"] == before["counts"]["samples"] + 1
    assert grown["counts"]["candidates"] == grown["counts"]["captions"] + grown["counts"]["rejected"]
    was, now = before["near_duplicates"], grown["near_duplicates"]
    assert (now["images"], now["removed"]) == (was["images"] + 4, was["removed"] + 3)
    assert pq.read_table(run / "near_duplicates.parquet").to_pylist() == now["sites"]
    assert now["sites"] == [{"site": "127.0.0.1", "images": now["images"], "removed": now["removed"]}]


class MirrorBlind(torch.nn.Module):
    """Means of 4 x 4 blocks of a picture and its mirror image together, around their mean."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        means = torch.nn.functional.avg_pool2d(x + x.flip(3), 4).flatten(1)
        return means - means.mean(1, keepdim=True)


@pytest.mark.timeout(600)
def test_a_detector_finds_what_hashes_miss_in_a_crawl_a_retry_and_an_extension(served, tmp_path, capsys):
    def uid(path: str) -> str:
        return uid_of(f"http://127.0.0.1:{served.port}{path}").hex()

    detector = torchscript(tmp_path, MirrorBlind())
    first, again, late = (f"/turned-{n}.jpg" for n in range(3))
    turned = {
        path: encoded(np.ascontiguousarray(scene(100 + n, 300, 400)[:, ::-1]), 0.8)
        for n, path in enumerate((first, again, late))
    }
    near = ("--dedup", "near", "--per-query", "50", "--rounds", "1", "--placeholder-captions", "0",
            "--detector", detector)  # fmt: skip
    run = tmp_path / "run"
    served.files.update({path: turned[path] for path in (first, again)})
    served.broken.add(again)
    try:
        assert main(argv(served, tmp_path, *near)) == 0
        tables = map(pq.read_table, (run / "work/fetch").glob("merged-*/00000.parquet"))
        hashes = {row["url"]: int(row["phash"], 16) for table in tables for row in table.to_pylist()}
        one, other = (hashes[f"http://127.0.0.1:{served.port}{path}"] for path in (first, "/other-0.jpg"))
        assert (one ^ other).bit_count() > RADIUS, "its hash says nothing of a mirror image"
        by_hashes = {f"{n}-{size}.jpg": uid(f"/{n}-0.jpg") for n in range(6) for size in (1, 2)}
        found = by_hashes | {"turned-0.jpg": uid("/other-0.jpg")}
        assert merged_into(run) == found and manifest(run)["near_duplicates"]["removed"] == len(found)
        served.broken.clear()
        assert main(argv(served, tmp_path, *near, "--retry-failed")) == 0
        found |= {"turned-1.jpg": uid("/other-1.jpg")}
        assert merged_into(run) == found and verify(["--run", str(run)]) == 0
        served.files[late] = turned[late]
        row = {"url": f"http://127.0.0.1:{served.port}{late}", "caption": "a late fox"}
        (tmp_path / "late.jsonl").write_text(json.dumps(row) + "\n")
        more = ["--source", str(tmp_path / "late.jsonl"), "--workers", "1", "--dedup-limit", "1"]
        assert main(["--extend", str(run), *more]) == 0
        found |= {"turned-2.jpg": uid("/other-2.jpg")}
        assert merged_into(run) == found and verify(["--run", str(run)]) == 0
    finally:
        served.broken.clear()
        for path in turned:
            served.files.pop(path, None)


def test_a_detector_needs_near_and_a_file_that_is_one(served, tmp_path, capsys):
    before = sum(served.hits.values())
    assert code(argv(served, tmp_path, "--detector", "d.safetensors")) == 2
    assert "--dedup near as well" in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert code(argv(served, tmp_path, "--dedup", "near", "--detector", "d.safetensors")) == 2
    assert "d.safetensors: no such file" in " ".join(capsys.readouterr().err.split())
    assert sum(served.hits.values()) == before, "nothing was asked for"


def test_options_are_checked(served, tmp_path, capsys):
    assert code(argv(served, tmp_path, "--dedup", "near", "--dedup-limit", "0")) == 2
    assert "--dedup-limit must be a share" in capsys.readouterr().err
