"""Every job on Flink, Spark and Prism where they are, and how a launcher keeps their job servers."""

import os
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench import cluster, engines
from pipeline.cli_runtime import stoppable
from pipeline.demo.server import Server
from pipeline.flow.parts import Part
from pipeline.flow.runner import Runner
from tests.jobs import QUICK, arguments_of, run, write_inputs, written

pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).resolve().parents[1]
# Takes the arguments of Flink's job server and serves as a job server: Beam's own, in Python.
JOB_SERVER = """#!{python}
import os, sys
from apache_beam.runners.portability import local_job_service, local_job_service_main

def note(line):
    with open({log!r}, "a") as file:
        file.write(f"{{line}}\\n")

def cancel(self, request, context=None):
    note("cancelled")
    return original(self, request, context)

original = local_job_service.LocalJobServicer.Cancel
local_job_service.LocalJobServicer.Cancel = cancel
note(os.getpid())
local_job_service_main.run(["--port", sys.argv[sys.argv.index("--job-port") + 1]])
"""


@pytest.fixture(scope="module")
def web(small_web: Server) -> Server:
    return small_web


# Prism is one program, and its jobs take seconds.
@pytest.mark.parametrize(
    "name", ["prism", *(pytest.param(name, marks=pytest.mark.slow) for name in ("flink", "spark"))]
)
def test_every_job_gives_the_same_files_on(name: str, web: Server, tmp_path: Path) -> None:
    try:
        file = cluster.file_of(name)
    except ValueError as error:
        pytest.skip(str(error))
    write_inputs(tmp_path, web.web)
    with cluster.started(name, tmp_path, file=file) as (flags, _):
        assert cluster.compare(name, flags, tmp_path, web.web, QUICK)["differing"] == []
    assert not list(tmp_path.rglob("*.spill")), "what was shuffled through files is gone with its step"


def test_what_a_runner_lacks_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("OPENWIT_FLINK_JAR", raising=False)
    monkeypatch.setattr(engines, "FOLDER", tmp_path / "none")
    with pytest.raises(ValueError, match=r"Flink job server.* --at or in OPENWIT_FLINK_JAR"):
        cluster.file_of("flink")
    monkeypatch.setenv("OPENWIT_PRISM", str(tmp_path / "prism"))
    with pytest.raises(ValueError, match="prism: no such file"):
        cluster.file_of("prism")
    (tmp_path / "prism").touch()
    assert cluster.file_of("prism") == str(tmp_path / "prism") and cluster.file_of("portable") == ""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="java is not installed"):
        cluster.file_of("spark", str(tmp_path / "prism"))


def test_what_cannot_be_fetched_is_left_out_and_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engines, "FOLDER", tmp_path / "engines")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert engines.main([]) == 0 and engines.main(["prism"]) == 1
    said = capfd.readouterr().err.splitlines()
    assert said[0] == "prism: left out, go is not installed" == said[-1]
    assert {line.partition(":")[0] for line in said} == {"prism", "flink", "spark"}
    # A service with another module under the same version is found out.
    go = tmp_path / "go"
    go.write_text(f'#!{sys.executable}\nprint(\'{{"Sum": "h1:another="}}\')\n')
    go.chmod(0o755)
    with pytest.raises(ValueError, match="has the hash h1:another="):
        engines.prism("2.77.0")


# Of Maven's goals knows copy-dependencies alone, which finds these jars.
MAVEN = """#!{python}
import pathlib, sys
goal, where, *_ = sys.argv[5:]
if goal != "dependency:copy-dependencies":
    sys.exit("no such artifact")
folder = pathlib.Path(where.partition("=")[2])
folder.mkdir()
for name in ("one", "two" * 30):
    (folder / f"{{name}}.jar").write_text(name)
"""


def test_where_there_is_no_job_server_libraries_are_made_into_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    maven = tmp_path / "mvn"
    maven.write_text(MAVEN.format(python=sys.executable))
    maven.chmod(0o755)
    monkeypatch.setattr(engines, "FOLDER", tmp_path / "engines")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert engines.main(["flink"]) == 1
    assert "flink: left out" in capfd.readouterr().err, "these are not the jars whose digest is known"
    found = engines.CLASS_PATHS["flink"]._replace(digest=engines.digest(tmp_path / "engines/flink"))
    monkeypatch.setitem(engines.CLASS_PATHS, "flink", found)
    assert engines.main(["flink"]) == 0
    jar = Path(capfd.readouterr().out.split()[-1])
    assert list(engines.FOLDER.glob(cluster.KINDS["flink"].pattern)) == [jar]
    lines = zipfile.ZipFile(jar).read("META-INF/MANIFEST.MF").split(b"\r\n")
    assert max(map(len, lines)) <= 70 and b"Main-Class: " + found.main.encode() in lines
    (at,) = (number for number, line in enumerate(lines) if line.startswith(b"Class-Path: "))
    assert lines[at] + lines[at + 1][1:] == b"Class-Path: flink/one.jar flink/" + b"two" * 30 + b".jar"


@pytest.fixture
def job_server(tmp_path: Path) -> tuple[Path, tuple[str, ...]]:
    """Return the log of a job server's starts, and the flags with which FlinkRunner starts it."""
    log, launcher, jar = tmp_path / "starts", tmp_path / "java", tmp_path / "job-server.jar"
    launcher.write_text(JOB_SERVER.format(python=sys.executable, log=str(log)))
    launcher.chmod(0o755)
    jar.touch()
    flags = (
        "--runner=FlinkRunner",
        f"--flink_job_server_jar={jar}",
        f"--job_server_java_launcher={launcher}",
    )
    return log, flags


def command(job: str, root: Path, web: Server, out: Path) -> list[str]:
    return [sys.executable, "-m", "beam_job", job, *arguments_of(job, root, web.web, out)]


def gone(pid: int) -> bool:
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists():
            return True
        time.sleep(0.1)
    return False


def test_one_job_server_serves_all_graphs_of_a_command(
    web: Server, tmp_path: Path, job_server: tuple[Path, tuple[str, ...]]
) -> None:
    """Beam by itself would start one for each graph, and keep them all to the end."""
    log, flags = job_server
    write_inputs(tmp_path, web.web)
    (tmp_path / "flink").mkdir()
    done = subprocess.run(
        [*command("queries", tmp_path, web, tmp_path / "flink"), *flags],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (pid,) = log.read_text().split()
    assert gone(int(pid)), "it ends with the command"
    run("queries", tmp_path, web.web, tmp_path / "local", "--workers", "1")
    assert written("queries", tmp_path / "flink") == written("queries", tmp_path / "local")


@dataclass(frozen=True)
class Waiting:
    """A worker that goes on until its job is cancelled."""

    log: str

    def open(self) -> None:
        """Load nothing."""

    def run(self, state: None, task: Part) -> Part:
        """Say that the task has begun, and wait."""
        Path(f"{self.log}.begun").touch()
        while "cancelled" not in Path(self.log).read_text():
            time.sleep(0.1)
        return task


def wait_in_a_job(log: str, folder: str, *flags: str) -> None:
    """Run one task on a cluster, as a command does."""
    with stoppable():
        Runner(flags=flags).tasks("tasks", folder, [Part(name="1")], Waiting(log), Part)


def test_ctrl_c_cancels_the_job_before_its_server_ends(
    tmp_path: Path, job_server: tuple[Path, tuple[str, ...]]
) -> None:
    log, flags = job_server
    (tmp_path / "run").mkdir()
    code = "import sys; from tests.test_cluster import wait_in_a_job; wait_in_a_job(*sys.argv[1:])"
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(log), str(tmp_path / "run"), *flags],
        cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    for _ in range(600):
        if Path(f"{log}.begun").exists() or child.poll() is not None:
            break
        time.sleep(0.1)
    os.killpg(child.pid, signal.SIGINT)  # a terminal tells all processes of its foreground
    errors = child.communicate(timeout=60)[1]
    pid, *rest = log.read_text().split()
    assert rest == ["cancelled"], errors[-3000:]
    assert gone(int(pid))
