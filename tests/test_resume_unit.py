"""A crawl that is stopped inside a unit goes on inside it: the server's log says what was asked for twice."""

import contextlib
import http.server
import io
import os
import random
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc
import pytest
from PIL import Image

from pipeline import schemas, storage
from pipeline.cli import main
from pipeline.fetch import worker as fetching
from pipeline.fetch.parts import UNIT_ROWS, Fetched, Unit
from pipeline.fetch.terms import Terms
from pipeline.fetch.worker import FetchWorker, Refused, receive
from pipeline.flow import kept
from pipeline.flow.markers import finished
from pipeline.http.fetch_url import Outcome
from pipeline.images.process import Processed
from pipeline.options import FetchOptions, ImageOptions
from pipeline.processes import _processes
from pipeline.takedown.cli import main as takedown
from tests.crawling import contents, manifest
from tests.rows import caption_row, uid_of

pytestmark = pytest.mark.timeout(900)

SITES, PICTURES = 6, 240
IN_FLIGHT = 2 * SITES  # --host-concurrency


def picture(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 255, (16, 20, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((160, 128), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


class SlowWeb(NamedTuple):
    """A web that takes its time, and notes its requests."""

    port: int
    log: list[str]
    """Of pictures: HOST/PATH, as they were asked for."""

    def url(self, number: int) -> str:
        return f"http://127.0.0.{10 + number % SITES}:{self.port}/{number}.jpg"

    def asked(self, start: int = 0, stop: int | None = None) -> Counter[str]:
        return Counter(f"http://{line}" for line in self.log[start:stop])


@pytest.fixture(scope="module")
def slow() -> Iterator[SlowWeb]:
    log: list[str] = []
    pictures = {f"/{number}.jpg": picture(number) for number in range(PICTURES)}

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = pictures.get(self.path, b"")
            if body:
                log.append(f"{self.headers['Host']}{self.path}")
                time.sleep(0.15)
            number = int(self.path[1:-4]) if body else 0
            status = 404 if not body or number % 20 == 3 else 500 if number % 20 == 4 else 200
            body = b"no picture" if number % 20 == 5 else b"" if status != 200 else body
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Threads(socketserver.ThreadingMixIn, http.server.HTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *_: object) -> None:
            """The tests kill clients."""

    server = Threads(("0.0.0.0", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield SlowWeb(server.server_address[1], log)
    server.shutdown()
    server.server_close()


def arguments(slow: SlowWeb, out: Path, *extra: str) -> list[str]:
    source = out.parent / "urls.csv"
    if not source.exists():
        rows = "".join(f"{slow.url(n)},picture number {n} of the web\n" for n in range(PICTURES))
        source.write_text("url,caption\n" + rows)
    return [
        "--queries", "all", "--source", str(source), "--out", str(out), "--lang", "any", "--rounds", "1",
        "--allow-network", "127.0.0.0/8", "--host-delay", "0", "--samples-per-shard", "100",
        "--timeout", "90", "--connect-timeout", "60", "--read-timeout", "60", "--min-rate", "0", *extra,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(slow: SlowWeb, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    start = len(slow.log)
    assert main(arguments(slow, out, "--workers", "1")) == 0
    assert slow.asked(start) == Counter(slow.url(n) for n in range(PICTURES))
    assert manifest(out)["rounds"][0]["reasons"] == {
        "": PICTURES - 36, "http_gone": 12, "http_server_error": 12, "not_image": 12
    }  # fmt: skip
    return contents(out)


def tree(pid: int) -> list[int]:
    """Return a process and all below it."""
    found, pairs = [pid], _processes()
    for one in found:
        found += [child for child, parent in pairs if parent == one]
    return found


def start_and_stop(slow: SlowWeb, argv: list[str], number: int, share: float = 0.7) -> tuple[int, str]:
    """Stop a crawl when `share` of its pictures was asked for; return how many were, and its output.

    SIGKILL goes to every process of it, in any order, the others to the launcher alone.
    """
    start = len(slow.log)
    child = subprocess.Popen(
        [sys.executable, "-m", "beam_job", "crawl", *argv], stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while len(slow.log) - start < share * PICTURES:
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    pids = tree(child.pid) if number == signal.SIGKILL else [child.pid]
    random.Random(len(pids)).shuffle(pids)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    _, said = child.communicate(timeout=100)
    time.sleep(0.5)  # requests that were under way at the server
    return len(slow.log), said


@pytest.mark.parametrize(
    ("number", "workers"),
    [(signal.SIGINT, "1"), (signal.SIGTERM, "2"), (signal.SIGKILL, "1"), (signal.SIGKILL, "2")],
    ids=["SIGINT-1", "SIGTERM-2", "SIGKILL-1", "SIGKILL-2"],
)
def test_what_was_fetched_is_not_asked_for_again(
    slow: SlowWeb, undisturbed: dict[str, Any], tmp_path: Path, number: signal.Signals, workers: str
) -> None:
    out = tmp_path / "run"
    argv = arguments(slow, out, "--workers", workers, "--unit-images", str(PICTURES // int(workers)))
    start = len(slow.log)
    stopped, said = start_and_stop(slow, argv, number)
    before = slow.asked(start, stopped)
    assert not list(out.glob("work/fetch/round-0/*.json")) or workers == "2", "in the middle of the only unit"
    there = kept.count(str(out / "work/fetch/round-0"))
    assert there >= len(before) - 2 * IN_FLIGHT or workers == "2"
    if number != signal.SIGKILL:
        assert f" of {PICTURES} images are kept" in said and "Traceback" not in said
    assert main(argv) == 0
    after = slow.asked(stopped)
    twice = before & after
    figures = f"{len(before)} before, {len(after)} after, {len(twice)} of them again"
    sys.stdout.write(f"{number.name}, {workers} workers: {figures}\n")
    assert before | after == Counter(slow.url(n) for n in range(PICTURES)), figures
    assert before.total() == len(before) and after.total() == len(after) and len(twice) <= 2 * IN_FLIGHT
    found = contents(out)
    for part in undisturbed:
        assert found[part] == undisturbed[part], part
    assert not list(out.rglob("kept")) and not list(out.rglob("*.part"))


def test_a_takedown_reaches_what_is_kept(slow: SlowWeb, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "run"
    argv = arguments(slow, out, "--workers", "1")
    stopped, _ = start_and_stop(slow, argv, signal.SIGKILL)
    headers = [h for path in out.glob("work/fetch/round-0/kept/*/*.part") for h in kept.headers(str(path))]
    by_url, by_bytes = [h for h in headers if h["sha256"] and not h["reason"]][:2]
    names = {uid_of(slow.url(n)).hex(): n for n in range(PICTURES)}
    gone = [names[h["key"]] for h in (by_url, by_bytes)]
    argv_down = ["--run", str(out), "--url", slow.url(gone[0]), "--sha256", by_bytes["sha256"]]
    assert takedown(argv_down) == 0
    left = [h for path in out.glob("work/fetch/round-0/kept/*/*.part") for h in kept.headers(str(path))]
    keys = {by_url["key"], by_bytes["key"]}
    assert [h["key"] for h in left] == [h["key"] for h in headers if h["key"] not in keys]
    for path in out.rglob("*.part"):
        for key in keys:
            assert key.encode() not in path.read_bytes()
    assert main(argv) == 0
    after = slow.asked(stopped)
    assert not {slow.url(n) for n in gone} & set(after)
    assert not {slow.url(names[h["key"]]) for h in left} & set(after)
    expected = [row for row in undisturbed["rows"] if row["url"] not in {slow.url(n) for n in gone}]
    found = [{**row, "key": ""} for row in contents(out)["rows"]]
    assert sorted(found, key=str) == sorted(({**row, "key": ""} for row in expected), key=str)


# One unit, without a crawl around it.


def unit(slow: SlowWeb, folder: Path, numbers: range) -> Unit:
    rows = [
        (*caption_row(slow.url(n), f"picture {n}", [0]), slow.url(n), f"127.0.0.{10 + n % SITES}", 1)
        for n in numbers
    ]
    table = schemas.to_table(rows, UNIT_ROWS).sort_by("uid")
    schemas.write_table(str(folder / "unit.parquet"), table)
    return Unit(name="0", path=str(folder / "unit.parquet"), images=len(numbers), seconds=1.0)


def worker(folder: Path, **options: Any) -> FetchWorker:
    fetch = FetchOptions(allow_network=("127.0.0.0/8",), host_delay=0.0)
    return FetchWorker(
        folder=str(folder), blobs="round-0", fetch=fetch, images=ImageOptions(), seed=0, **options
    )


def test_two_attempts_at_once_end_with_one_result(slow: SlowWeb, tmp_path: Path) -> None:
    task = unit(slow, tmp_path, range(40))
    results: list[Fetched] = []

    def attempt() -> None:
        one = worker(tmp_path / "round-0")
        results.append(one.run(one.open(), task))

    threads = [threading.Thread(target=attempt) for _ in range(2)]
    for thread in threads:
        thread.start()
        time.sleep(0.3)
    for thread in threads:
        thread.join(200)
    assert len(results) == 2 and results[0] == results[1] == finished(str(tmp_path / "round-0"))["0"]
    assert results[0].images == 40
    table = schemas.read_table(results[0].path)
    blob = storage.read_bytes(results[0].blob)
    for row in table.to_pylist():
        stored = blob[row["offset"] : row["offset"] + row["length"]]
        assert (row["reason"] == "") == stored.startswith(b"\xff\xd8\xff")
    assert not list(tmp_path.rglob("*.part"))


def test_a_resumed_unit_has_what_is_left_of_its_time(slow: SlowWeb, tmp_path: Path) -> None:
    """Its images that are kept count, failures too, and all of its requests."""
    task = unit(slow, tmp_path, range(30))
    one = worker(tmp_path / "round-0")
    outcome = Outcome("", slow.url(0), "http_gone", "HTTP 404", 404, b"", "", 0.5, "", None)
    row = fetching._Row(uid_of(slow.url(0)), outcome, reason="http_gone", detail="HTTP 404", fetched_at=7)
    with kept.Kept(one.folder, "0", "earlier") as store:
        store.spent = 1e6
        store.add(row.header(), b"", requests=31)
        store.add({**row.header(), "key": uid_of("http://taken.down/").hex()}, b"")
    start = len(slow.log)
    result = one.run(one.open(), task)
    assert result.reasons == {"deferred": 29, "http_gone": 1} and len(slow.log) == start
    assert result.seconds > 1e6
    table = schemas.read_table(result.path)
    (old,) = table.filter(pc.equal(table["reason"], "http_gone")).to_pylist()
    assert old["uid"] == uid_of(slow.url(0)) and old["fetched_at"].timestamp() == 0.007
    log = storage.read_bytes(result.log).decode()
    assert '"requests":31' in log and '"404":1' in log


class Edit:
    """A scorer that paints every picture black, and scores it."""

    columns = ("score_one",)

    def score(self, images: list[Any], captions: list[list[str]]) -> dict[str, Any]:
        assert all(len(texts) == 1 for texts in captions)
        return {"score_one": np.array([float(image.mean()) for image in images])}

    def edit(self, images: list[Any]) -> list[Any]:
        return [np.zeros_like(image) for image in images]


def test_a_scorer_sees_the_whole_unit_however_often_it_was_stopped(slow: SlowWeb, tmp_path: Path) -> None:
    task = unit(slow, tmp_path, range(24))
    options = {"scorer": ("tests.test_resume_unit:Edit",), "keep_if": "score_one > 0"}
    whole = worker(tmp_path / "whole", **options)
    expected = whole.run(whole.open(), task)
    stopped = worker(tmp_path / "stopped", **options)
    state = stopped.open()
    with kept.Kept(stopped.folder, "0", "earlier") as store:
        first = schemas.read_table(task.path).slice(0, 10)
        log, counts = fetching.UnitLog(), fetching.Counts()
        rows = stopped._receive_all(state, first, store, log, counts, 300.0, Terms())
        assert len(list(rows)) == 10
    start = len(slow.log)
    found = stopped.run(state, task)
    assert len(slow.log) - start == 14
    blobs = [storage.read_bytes(r.blob) for r in (expected, found)]
    assert blobs[0] == blobs[1]
    tables = [schemas.read_table(r.path).drop_columns(["fetched_at", "blob"]) for r in (expected, found)]
    assert tables[0].equals(tables[1]) and found.reasons == expected.reasons


def test_a_decoder_that_dies_is_asked_once_more() -> None:
    """Any end of a crawl may end its decoder first: that says nothing about the picture."""

    class Decoder:
        def __init__(self, *reasons: str) -> None:
            self.left = list(reasons)

        def process(self, _: bytes) -> Processed:
            return Processed(reason=self.left.pop(0))

    outcome = Outcome("u", "u", "", "", 200, b"x", "", 0.1, "", None)
    for reason in ("decode_crash", "decode_memory"):  # the latter: SIGKILL
        for second in ("", reason):
            row = receive(b"", outcome, Decoder(reason, second), 0, Refused())  # type: ignore[arg-type]
            assert row.reason == second
