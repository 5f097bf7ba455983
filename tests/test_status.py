"""While it runs: the output on a terminal, in a log, for machines, by `openwit status`; how it is stopped."""

import io
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from pipeline import lock, processes
from pipeline.cli import main
from pipeline.demo.server import Server
from pipeline.flow import heartbeat
from pipeline.flow.parts import Part
from pipeline.flow.runner import Runner
from pipeline.formats import duration, size
from pipeline.progress import MarkerReader, Notes, Pace, ShowProgress, StepProgress, Tally, bar_line, describe
from pipeline.status import main as status
from pipeline.status import state_of
from tests.crawling import arguments, contents, manifest, settle

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def web(small_web: Server) -> Server:
    return small_web


def mark(folder: Path, name: str, **result: Any) -> None:
    """Leave a task's marker."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({"name": name, **result}))


# --- the contents of the files


def test_markers_are_summed_each_once(tmp_path: Path) -> None:
    reader = MarkerReader(str(tmp_path))
    assert reader.read() == Tally()
    mark(tmp_path, "0", images=10, bytes=5000, reasons={"": 7, "http_404": 3})
    assert reader.read() == Tally(1, 10, 5000, {"": 7, "http_404": 3}, [])
    mark(tmp_path, "1", images=2, rejected={"no_match": 4})
    mark(tmp_path, "2", samples=5, bytes=1)
    (tmp_path / "0.json").write_text("not read again")
    (tmp_path / "2.running").write_text(json.dumps({"name": "2", "images": 100}))  # of a killed attempt
    sign = {"name": "3", "host": "h", "started": 1.0, "beat": 2.0, "images": 30, "bytes": 9}
    (tmp_path / "3.running").write_text(json.dumps(sign))
    assert reader.read() == Tally(3, 47, 5010, {"": 7, "http_404": 3, "no_match": 4}, [sign])


def test_the_rate_is_that_of_the_last_minutes_and_the_time_left_follows() -> None:
    step = StepProgress("fetch", "f", total=10, images=1000)
    pace = Pace(step)
    assert pace.at(0, Tally(done=2, images=200)) == (0, "tasks", None), "what was there before is no speed"
    assert pace.at(10, Tally(done=3, images=300)) == (10, "images", 70)
    assert pace.at(1000, Tally(done=3, images=300))[0] < 10
    rate, _, left = pace.at(1010, Tally(done=4, images=400))
    assert rate == pytest.approx(100 / 1000) and left == pytest.approx(6000)
    assert Pace(StepProgress("count", "c", 4)).at(5, Tally()) == (0, "tasks", None)


def test_a_line_says_all_that_is_known() -> None:
    tally = Tally(3, 1500, 2_500_000, {"": 1000, "http_404": 400, "timeout": 60, "a": 39, "b": 1})
    assert describe(StepProgress("fetch", "f", 9, images=4500), tally, 25.0, "images", 120) == (
        "1,500/4,500 images · 25.0 images/s · 2.5 MB · "
        "fetched 1,000, http_404 400, timeout 60, a 39 · 2:00 left"
    )
    assert describe(StepProgress("count", "c", 9), Tally(1), 0.0, "tasks", None) == ""
    assert [duration(s) for s in (5, 65, 3_700, 400_000)] == ["0:05", "1:05", "1:01:40", "4.6 days"]
    assert [size(n) for n in (12, 12_345, 5e9, 7e15)] == ["12 B", "12.3 kB", "5.0 GB", "7.0 PB"]


@pytest.mark.parametrize("columns", range(8, 120))
def test_a_bar_counts_images_and_its_text_fits_in_whole_words(columns: int) -> None:
    """A single task has one marker, at its end; its images come all the while."""
    tally = Tally(0, 1500, 2_500_000, {"": 1000, "http_server_error": 400, "connect_timeout": 60, "a": 39})
    step = StepProgress("fetch, round 0", "f", 1, images=4500)
    done, total, text = bar_line(step, tally, 25.0, "images", 120, columns)
    assert (done, total) == (1500, 4500)
    parts = text.split(" · ")
    assert parts[0] == "1,500/4,500" and (len(text) <= columns or len(parts) == 1)
    assert set(parts[1:]) <= {
        "25.0 images/s", "2:00 left", "fetched 1,000", "http_server_error 400", "connect_timeout 60", "a 39",
        "2.5 MB",
    }  # fmt: skip
    if columns >= 39:
        assert "2:00 left" in parts
    assert bar_line(StepProgress("count", "c", 9), Tally(2), 0.0, "tasks", None, columns) == (2, 9, "2/9")


def test_at_78_columns_there_is_a_bar_that_moves_within_a_task(tmp_path: Path) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=78, color_system=None)
    show = ShowProgress(console, str(tmp_path))
    folder = tmp_path / "fetch/round-0"
    folder.mkdir(parents=True)
    sign = {"name": "0", "images": 173, "bytes": 10**6, "host": "h", "started": 1.0, "beat": 1.0, "pid": 1}
    with show("fetch, round 0", str(folder), 1, images=240):
        (folder / "0.running").write_text(json.dumps(sign))
        deadline = time.monotonic() + 60
        while "173/240" not in file.getvalue():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        mark(folder, "0", images=240, reasons={"": 200, "http_server_error": 30, "connect_timeout": 10})
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue()))
    moving = next(line for line in lines if "173/240" in line)
    assert 13 <= moving.count("━") <= 15, "173 of 240, of 20 columns"
    assert all(len(line.rstrip()) <= 78 for line in lines)
    assert "240/240" in file.getvalue()
    for word in re.findall(r"[a-z_]+_[a-z_]*", file.getvalue()):
        assert word in ("http_server_error", "connect_timeout")


def test_notes_forget_what_was_discarded(tmp_path: Path) -> None:
    def step(folder: str, before: int = 0, ended: float = 0.0) -> StepProgress:
        return StepProgress(folder, folder, total=2, before=before, started=1.0, ended=ended)

    first = Notes(str(tmp_path))
    for folder in ("candidates", "select/samples", "fetch/round-0", "fetch/round-1", "finish/shards"):
        noted = first.begin(step(folder))
        noted.ended = 9.0
        first.write()
    second = Notes(str(tmp_path))  # continues in fetch: finished steps stay as they are noted
    assert second.begin(step("fetch/round-0", before=2)).ended == 9.0
    second.begin(step("fetch/round-1", before=1))
    assert [s.folder for s in second.steps] == [
        "candidates",
        "select/samples",
        "fetch/round-0",
        "fetch/round-1",
    ]
    third = Notes(str(tmp_path))  # starts again from candidates
    third.begin(step("candidates"))
    assert [s.folder for s in Notes(str(tmp_path)).steps] == ["candidates"]


@dataclass(frozen=True, kw_only=True)
class Seen(Part):
    """The signs that a task has given."""

    signs: tuple[dict[str, Any], ...]
    images: int


class _Slow:
    """A worker that takes long, and counts."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def open(self) -> "_Slow":
        return self

    def run(self, state: "_Slow", task: Part) -> Seen:
        heartbeat.count(images=3, bytes=20)
        heartbeat.count(images=4)
        deadline = time.monotonic() + 60
        while not (found := heartbeat.signs(self.folder)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return Seen(name=task.name, signs=tuple(found), images=7)


def test_a_task_that_takes_long_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "interval", lambda folder: 0.05)
    folder, started = str(tmp_path), time.time()
    (result,) = Runner().tasks("tasks", folder, [Part(name="7")], _Slow(folder), Seen)
    (sign,) = result.signs
    assert (sign["name"], sign["images"], sign["bytes"], sign["pid"]) == ("7", 7, 20, os.getpid())
    assert started <= sign["started"] <= sign["beat"] <= time.time()
    assert not list(tmp_path.glob("*.running"))
    heartbeat.count(images=1)  # outside of a task


# --- openwit status


@pytest.fixture
def crawling(tmp_path: Path) -> Path:
    """A run in its first round of fetching, from its files."""
    run, now = tmp_path / "run", time.time()
    for number in range(3):
        mark(
            run / "work/fetch/round-0",
            f"00000-000{number}",
            images=100,
            bytes=10**6,
            reasons={"": 80, "http_404": 20},
        )
    for name, age, beat in (("00000-0003", 600, 2), ("00000-0004", 60, 1)):
        sign = {
            "name": name,
            "host": "w1",
            "pid": 7,
            "started": now - age,
            "beat": now - beat,
            "images": 25,
            "bytes": 9,
        }
        (run / f"work/fetch/round-0/{name}.running").write_text(json.dumps(sign))
    tally = {"done": 2, "images": 900, "bytes": 0, "reasons": {"no_match": 500}}
    steps = [
        StepProgress("candidates", "candidates", 2, 0, 0, now - 900, now - 800, tally),
        StepProgress("fetch, round 0", "fetch/round-0", 10, 1000, 1, now - 100),
    ]
    (run / "work/candidates").mkdir()
    (run / "work/candidates/done.stage").write_text("{}")
    notes = Notes(str(run / "work"))
    notes.steps = steps
    notes.write()
    return run


def test_status_of_a_run_at_work(crawling: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with lock.lock(str(crawling / "work")):
        found = state_of(str(crawling), time.time())
        assert status(["--run", str(crawling)]) == 0
    assert found["state"] == "running" and found["stages_done"] == ["candidates"]
    first, second = found["steps"]
    assert first["ended"] and first["seconds"] == pytest.approx(100, abs=1)
    assert (second["tasks"], second["images"], second["images_total"]) == (3, 350, 1000)
    assert second["reasons"] == {"": 240, "http_404": 60}
    assert second["rate"] == pytest.approx(3.5, rel=0.05) and second["seconds_left"] == pytest.approx(
        186, rel=0.1
    )
    assert [task["task"] for task in second["running"]] == ["00000-0003", "00000-0004"], "the slowest first"
    said = capfd.readouterr().out
    assert "fetch, round 0" in said and "350/1,000" in said and "fetched 240, http_404 60" in said
    assert "task 00000-0003: 10:00 running on w1, 25 images" in said
    assert f"process {os.getpid()}" in said and "not alive" not in said


def test_status_of_a_run_whose_launcher_has_gone(crawling: Path, capfd: pytest.CaptureFixture[str]) -> None:
    script = f"from pipeline import lock\nwith lock.lock({str(crawling / 'work')!r}): pass"
    subprocess.run([sys.executable, "-c", script, "crawl", "--queries", "my list.txt"], check=True)
    assert state_of(str(crawling), time.time())["state"] == "detached"
    later = state_of(str(crawling), time.time() + 3600)
    assert later["state"] == "stopped" and all(task["silent"] for task in later["steps"][1]["running"])
    assert later["steps"][1]["seconds_left"] is None
    assert later["launcher"]["alive"] is False
    assert shlex.split(later["command"]) == ["openwit", "crawl", "--queries", "my list.txt"]
    for sign in (crawling / "work/fetch/round-0").glob("*.running"):
        sign.unlink()
    assert status(["--run", str(crawling)]) == 0
    said = capfd.readouterr().out
    assert "stopped" in said and "is not alive" in said
    assert "To continue: openwit crawl --queries 'my list.txt'" in said


def test_status_for_machines_and_of_nothing(
    crawling: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert status(["--run", str(crawling), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["state"] == "detached"
    with pytest.raises(SystemExit) as stop:
        status(["--run", str(tmp_path / "nowhere")])
    assert stop.value.code == 2 and "holds no run" in capfd.readouterr().err


# --- a real run


@pytest.fixture(scope="module")
def source(web: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settle(web.web)
    path = tmp_path_factory.mktemp("source") / "urls.parquet"
    pq.write_table(pq.read_table(web.web.folder / "urls.parquet").slice(0, 60), path)
    return path


def options(web: Server, source: Path, out: Path, *extra: str) -> list[str]:
    argv = arguments(web.web, out, "--lang", "any", "--unit-images", "30", *extra)
    argv[argv.index(str(web.web.warc))] = str(source)
    return argv


@pytest.fixture(scope="module")
def whole(web: Server, source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run without a terminal, under a long name: its output, and its JSON lines."""
    out = tmp_path_factory.mktemp("a-long-name-" + "x" * 100) / "run"
    argv = options(web, source, out, "--workers", "1", "--log-json", "-")
    done = subprocess.run(
        [sys.executable, "-m", "beam_job", "crawl", *argv], capture_output=True, text=True, check=True
    )
    return {"out": out, "said": done.stderr, "lines": [json.loads(line) for line in done.stdout.splitlines()]}


def test_without_a_terminal_it_is_quiet_and_plain(whole: dict[str, Any]) -> None:
    said = whole["said"]
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", said), "no control characters"
    lines = said.splitlines()
    assert sum("fetch, round 0: " in line for line in lines) == 1, "one line a step, unless it takes minutes"
    assert re.search(
        r"^\d\d:\d\d:\d\d fetch, round 0: (\d)/\1 · (\d+)/\2 images · .* in \d:\d\d$", said, re.M
    )
    assert str(whole["out"]) in lines, "a long path is not folded"
    assert any(line.endswith(f"{whole['out']}/shards") for line in lines)


def test_json_lines_follow_every_step(whole: dict[str, Any]) -> None:
    lines = whole["lines"]
    begun = [line["step"] for line in lines if line["event"] == "begin"]
    ended = {line["step"]: line for line in lines if line["event"] == "end"}
    assert begun == list(ended) and {"candidates", "fetch, round 0", "shards", "rejected rows"} <= set(ended)
    counts = manifest(whole["out"])["counts"]
    fetched = manifest(whole["out"])["rounds"][0]
    assert ended["fetch, round 0"]["images"] == fetched["images"] > 30
    assert ended["fetch, round 0"]["bytes"] == fetched["bytes"]
    assert ended["fetch, round 0"]["reasons"] == fetched["reasons"]
    assert ended["shards"]["images"] == counts["samples"]
    assert all(line["tasks"] == line["tasks_total"] for line in ended.values())


def test_status_of_a_finished_run(whole: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    assert status(["--run", str(whole["out"])]) == 0
    said = capfd.readouterr().out
    counts = manifest(whole["out"])["counts"]
    assert f"{whole['out']}: complete" in said
    assert f"{counts['samples']:,} samples of {counts['candidates']:,} candidates" in said
    assert state_of(str(whole["out"]), time.time())["launcher"]["alive"] is False


def test_on_a_terminal_there_are_bars(web: Server, source: Path, tmp_path: Path) -> None:
    own, other = pty.openpty()
    argv = options(web, source, tmp_path / "run", "--workers", "1")
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "150"}
    child = subprocess.Popen(
        [sys.executable, "-m", "beam_job", "crawl", *argv], stderr=other, env=environment
    )
    os.close(other)
    shown = b""
    while True:
        try:
            block = os.read(own, 65536)
        except OSError:  # the other end is closed
            break
        if not block:
            break
        shown += block
    assert child.wait() == 0
    text = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", shown).decode()
    assert b"\x1b[" in shown and "━" in text
    assert re.search(r"fetch, round 0 .*\b(\d+)/\1\b", text)


def session_of(pid: int) -> list[int]:
    """Return the living processes of a session."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == pid and fields[0] != "Z":
            found.append(int(folder.name))
    return found


@pytest.mark.parametrize(
    ("number", "code", "workers"),
    [(signal.SIGTERM, 143, "2"), (signal.SIGINT, 130, "1")],
    ids=["term", "int"],
)
def test_a_signal_ends_it_soon_and_the_same_command_continues(
    web: Server, source: Path, whole: dict[str, Any], tmp_path: Path, number: int, code: int, workers: str
) -> None:
    """In the middle of fetching from slow hosts: the launcher alone gets the signal."""
    out = tmp_path / "run"
    argv = options(web, source, out, "--workers", workers)
    slow = [sys.executable, "-m", "beam_job", "crawl", *argv, "--host-delay", "60"]
    child = subprocess.Popen(slow, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 200
    while not list(out.glob("work/fetch/round-0/kept/*/*.part")):
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    sent = time.monotonic()
    child.send_signal(number)
    _, said = child.communicate(timeout=100)
    assert time.monotonic() - sent < 30, "a promise to whoever runs it, not a measurement"
    assert child.returncode == code
    assert "Run the same command again to continue." in said and "Traceback" not in said
    assert session_of(child.pid) == [], "no worker stays behind"
    assert state_of(str(out), time.time())["state"] in ("stopped", "detached")
    assert main(argv) == 0
    found, expected = contents(out), contents(whole["out"])
    for part in expected:
        assert found[part] == expected[part], part


def test_descendants_are_found_and_killed() -> None:
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(300)'])"
    before = set(processes.descendants())
    child = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 60
    while len(set(processes.descendants()) - before) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    grandchildren = set(processes.descendants()) - before
    keep = threading.Event()
    for pid in sorted(
        grandchildren, key=lambda pid: pid != child.pid
    ):  # it would end by itself after its own
        os.kill(pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL and not keep.is_set()


def test_a_watch_that_cannot_read_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=(tmp_path / "log").open("w"))
    show = ShowProgress(console, str(tmp_path / "work"), str(tmp_path / "lines.jsonl"))
    monkeypatch.setattr(show, "_interval", lambda: 0.01)
    folder = tmp_path / "work" / "x"
    with show("x", str(folder), 2):
        mark(folder, "0")
        (folder / "1.json").write_text("{broken")
        time.sleep(0.1)
        mark(folder, "1")
    lines = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
    assert lines[-1]["event"] == "end" and lines[-1]["tasks"] == 2
