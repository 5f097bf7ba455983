"""Steps without Beam: where the work is done, how it ends when a process dies, and unloaded modules."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.demo.server import Server
from pipeline.flow import local
from pipeline.flow.parts import Part
from pipeline.flow.runner import Runner
from tests.crawling import arguments, settle

TASKS = [Part(name=f"{n}") for n in range(4)]


@pytest.fixture(scope="module")
def web(small_web: Server) -> Server:
    return small_web


@dataclass(frozen=True, kw_only=True)
class Done(Part):
    """Who did a task."""

    pid: int
    nth: int


@dataclass(frozen=True)
class Worker:
    """Say which process does a task; sleep, fail or die where it is told to."""

    seconds: float = 0.0
    fails: str = ""
    dies: str = ""

    def open(self) -> list[int]:
        return []

    def run(self, state: list[int], task: Part) -> Done:
        state.append(1)
        time.sleep(self.seconds)
        if task.name == self.fails:
            raise KeyError("of the worker")
        if task.name == self.dies:
            os._exit(1)
        return Done(name=task.name, pid=os.getpid(), nth=len(state))


def test_short_work_starts_no_process_and_opens_its_state_once(tmp_path: Path) -> None:
    results = Runner(workers=4).tasks("work", str(tmp_path), TASKS, Worker(), Done)
    assert {result.pid for result in results} == {os.getpid()}
    assert [result.nth for result in results] == [1, 2, 3, 4]


def test_work_that_turns_out_to_be_long_goes_on_in_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "ALONE", 0.2)
    results = Runner(workers=2).tasks("work", str(tmp_path), TASKS, Worker(seconds=0.3), Done)
    pids = [result.pid for result in results]
    assert pids[0] == os.getpid() and os.getpid() not in pids[1:]


def test_a_single_long_task_needs_no_process(tmp_path: Path) -> None:
    [result] = Runner(workers=2).tasks("work", str(tmp_path), TASKS[:1], Worker(), Done, seconds=1e9)
    assert result.pid == os.getpid()


@pytest.mark.parametrize("workers", [1, 2])
def test_any_failure_is_told_as_one_and_what_is_done_stays_done(tmp_path: Path, workers: int) -> None:
    runner = Runner(workers=workers, log=str(tmp_path / "workers.log"))
    folder = str(tmp_path / "work")
    with pytest.raises(RuntimeError, match="of the worker"):
        runner.tasks("work", folder, TASKS, Worker(fails="2"), Done, seconds=1e9)
    assert not (tmp_path / "work/2.json").exists()
    if workers == 1:
        assert (tmp_path / "work/1.json").exists()
    else:
        assert "KeyError" in (tmp_path / "workers.log").read_text(), "the traceback"
    assert len(runner.tasks("work", folder, TASKS, Worker(), Done)) == 4


def test_a_process_that_dies_is_an_error_that_says_so(tmp_path: Path) -> None:
    runner = Runner(workers=2)
    with pytest.raises(RuntimeError, match="a worker process died"):
        runner.tasks("work", str(tmp_path), TASKS, Worker(seconds=0.1, dies="1"), Done, seconds=1e9)
    assert len(runner.tasks("work", str(tmp_path), TASKS, Worker(), Done, seconds=1e9)) == 4, "another pool"


def alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_processes_end_with_the_command_however_it_ended(tmp_path: Path) -> None:
    folder = str(tmp_path)
    code = (
        "from tests.test_local import *\n"
        "if __name__ == '__main__':\n"
        f"    Runner(workers=2).tasks('work', {folder!r}, TASKS, Marking({folder!r}), Part, seconds=1e9)\n"
    )
    script = tmp_path / "command.py"
    script.write_text(code)
    environment = dict(os.environ, PYTHONPATH=str(Path(__file__).parents[1]))
    with subprocess.Popen([sys.executable, str(script)], env=environment) as command:
        deadline = time.monotonic() + 60
        while len(found := list(tmp_path.glob("*.pid"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        command.kill()
    pids = [int(path.stem) for path in found]
    assert len(pids) == 2
    deadline = time.monotonic() + 30
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, pids))


@dataclass(frozen=True)
class Marking:
    """Write this process's id down and run for long."""

    folder: str

    def open(self) -> None:
        return None

    def run(self, state: None, task: Part) -> Part:
        (Path(self.folder) / f"{os.getpid()}.pid").touch()
        time.sleep(300)
        return task


def test_flags_of_beam_want_its_runner() -> None:
    with pytest.raises(ValueError, match=r"--region is an option of Beam.*--runner"):
        Runner(flags=("--region=somewhere",))


def test_a_crawl_here_does_not_load_beam(web: Server, tmp_path: Path) -> None:
    settle(web.web)
    argv = arguments(web.web, tmp_path / "run", "--workers", "1", "--lang", "any")
    code = (
        "import sys; sys.modules['apache_beam'] = None; from pipeline.cli import main; "
        f"sys.exit(main({argv!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
