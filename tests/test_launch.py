"""Every job on every kind of runner: processes, an external worker pool, Dataflow up to submission."""

import base64
import contextlib
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import DirectOptions, StandardOptions

from bench import image
from pipeline import extras
from pipeline.candidates.parts import PieceTask
from pipeline.cli_runtime import job_name
from pipeline.demo.server import Server
from pipeline.flow.beam_graphs import Steps
from pipeline.flow.beam_runner import BeamRunner
from pipeline.flow.parts import Part
from pipeline.flow.runner import Runner
from pipeline.flow.steps import Shuffle, Step, Tasks, Thresholds, Watch, Work, plan
from pipeline.options import CrawlConfig
from pipeline.select.workers import PairCounter
from pipeline.sources import Piece
from tests import pool
from tests.jobs import QUICK, run, write_inputs, written
from tests.test_extras import HIDE

pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).resolve().parents[1]
TOPS = ("openwit", "pipeline", "queries", "dedup", "train")
RUNNING = (ROOT / "docs" / "running.md").read_text()
DATAFLOW = (
    "--runner=DataflowRunner", "--project=some-project", "--region=us-central1",
    "--temp_location=gs://some-bucket/temp", "--staging_location=gs://some-bucket/staging",
    "--sdk_container_image=us-central1-docker.pkg.dev/some-project/openwit/worker:1",
    "--sdk_location=container", "--no_save_main_session", "--no_auth", "--dry_run=True",
)  # fmt: skip
HERE = ("--runner=FnApiRunner",)


# --- processes of this machine


@pytest.fixture(scope="module")
def web(small_web: Server) -> Server:
    return small_web


def test_several_cores_are_used_by_default() -> None:
    workers = CrawlConfig(queries="q", source=("s",), out="o").workers
    assert workers == os.cpu_count()
    several = BeamRunner(HERE, workers=4).options(tasks=9)
    assert several.view_as(StandardOptions).runner == "FnApiRunner"
    direct = several.view_as(DirectOptions)
    assert (direct.direct_running_mode, direct.direct_num_workers) == ("multi_processing", 4)
    few = BeamRunner(HERE, workers=4).options(tasks=3).view_as(DirectOptions)
    assert few.direct_num_workers == 3, "no more processes than tasks"
    one = BeamRunner(HERE, workers=4).options(tasks=1).view_as(DirectOptions)
    assert (one.direct_running_mode, one.direct_num_workers) == ("in_memory", 1)


@dataclass(frozen=True, kw_only=True)
class Process(Part):
    """Who did a task."""

    pid: int


class _WhoAmI:
    """A worker that waits until another process is running too."""

    def __init__(self, folder: str, processes: int) -> None:
        self.folder, self.processes = folder, processes

    def open(self) -> "_WhoAmI":
        return self

    def run(self, state: "_WhoAmI", task: Part) -> Process:
        seen = Path(self.folder) / "seen"
        seen.mkdir(exist_ok=True)
        (seen / str(os.getpid())).touch()
        for _ in range(600):
            if len(list(seen.iterdir())) >= self.processes:
                break
            time.sleep(0.1)
        return Process(name=task.name, pid=os.getpid())


@pytest.mark.parametrize("flags", [(), HERE], ids=["openwit", "beam"])
def test_so_many_processes_are_at_work_at_a_time(tmp_path: Path, flags: tuple[str, ...]) -> None:
    tasks = [Part(name=f"{n}") for n in range(6)]
    runner, worker = Runner(flags=flags, workers=2), _WhoAmI(str(tmp_path), 2)
    results = runner.tasks("tasks", str(tmp_path), tasks, worker, Process, seconds=60)
    pids = {one.pid for one in results}
    assert len(pids) == 2 and os.getpid() not in pids


# --- jobs on a cluster


def test_a_run_has_one_name_for_its_jobs() -> None:
    name = job_name("crawl", "gs://bucket/Run_1/")
    assert name == job_name("crawl", "gs://bucket/Run_1") != job_name("crawl", "gs://bucket/Run_2")
    assert re.fullmatch("[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name), "Dataflow's and Kubernetes's rule"
    options = BeamRunner(DATAFLOW, name=name).options(9).get_all_options()
    assert options["job_name"] == name and options["runner"] == "DataflowRunner"
    assert "direct_num_workers" not in BeamRunner(DATAFLOW).options(9).get_all_options(drop_default=True)
    own = BeamRunner((*DATAFLOW, "--job_name=mine"), name=name).options(9)
    assert own.get_all_options()["job_name"] == "mine"


def nothing() -> Work:
    return Work(tasks=[])


class _Remote:
    """A job elsewhere that is interrupted from here."""

    def __init__(self) -> None:
        self.cancelled = False

    def wait_until_finish(self) -> None:
        raise KeyboardInterrupt

    def cancel(self) -> None:
        self.cancelled = True


def test_an_interrupted_launcher_cancels_its_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    job = _Remote()
    monkeypatch.setattr(beam.Pipeline, "run", lambda self: job)
    flags = ("--runner=PortableRunner", "--job_endpoint=localhost:1", "--environment_type=LOOPBACK")
    with pytest.raises(KeyboardInterrupt):
        BeamRunner(flags).run(
            [Tasks(label="tasks", folder=str(tmp_path), plan=nothing, worker=_WhoAmI("", 0))]
        )
    assert job.cancelled


def test_the_documented_pool_starts_workers(tmp_path: Path) -> None:
    documented = re.search(r"^python (-m \S*worker_pool_main --service_port=)\d+$", RUNNING, re.MULTILINE)
    assert documented
    start = documented[1].replace("=", "={port}").split()
    with pool.listening(tmp_path, *start) as port, pool.processes(2):
        assert at_work((*pool.PORTABLE, *pool.flags(port)), tmp_path / "run", 2) == 2


def at_work(flags: tuple[str, ...], folder: Path, processes: int) -> int:
    """Return how many processes took one task each, at the same time."""
    folder.mkdir()
    tasks = [Part(name=f"{n}") for n in range(processes)]
    runner, worker = Runner(flags=flags), _WhoAmI(str(folder), processes)
    results = runner.tasks("tasks", str(folder), tasks, worker, Process)
    pids = {one.pid for one in results}
    assert os.getpid() not in pids
    return len(pids)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ...]]:
    """Split every stage of a job over two processes of an external worker pool; yields the flags."""
    with pool.listening(tmp_path_factory.mktemp("pool")) as port, pool.processes(2):
        yield (*pool.PORTABLE, *pool.flags(port))


def test_two_processes_of_a_pool_are_at_work_at_a_time(split: tuple[str, ...], tmp_path: Path) -> None:
    assert at_work(split, tmp_path / "run", 2) == 2


@pytest.fixture(scope="module")
def graphs() -> Iterator[dict[str, Step]]:
    """Yield all steps that jobs run, by kind and action; filled by `record`."""
    found: dict[str, Step] = {}
    original = BeamRunner.run

    def record(self: BeamRunner, steps: Sequence[Step], watch: Watch | None = None) -> None:
        for step in steps:
            inner = next(getattr(step, n) for n in ("worker", "shuffler", "counter") if hasattr(step, n))
            found.setdefault(f"{type(step).__name__} {type(inner).__name__}", step)
        original(self, steps, watch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BeamRunner, "run", record)
        yield found


@pytest.fixture(scope="module")
def jobs(
    web: Server, split: tuple[str, ...], graphs: dict[str, Step], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Run every job with the workers of the pool; return the folder of their inputs and results."""
    root = tmp_path_factory.mktemp("jobs")
    write_inputs(root, web.web)
    for job in QUICK:
        run(job, root, web.web, root / "split", *split)
    return root


def test_two_processes_of_an_external_pool_give_the_same_files(web: Server, jobs: Path) -> None:
    for job in QUICK:
        run(job, jobs, web.web, jobs / "alone", "--workers", "1")
        found, expected = written(job, jobs / "split"), written(job, jobs / "alone")
        for part in expected:
            assert found[part] == expected[part], (job, part)


# --- Dataflow, up to the submission


def dry_run(steps: dict[str, Step]) -> Any:
    """Return the proto of one job of these steps, as it would be submitted."""
    pytest.importorskip("apache_beam.runners.dataflow.internal.apiclient")
    pytest.importorskip("google.cloud.dataflow_v1beta3", reason="the extra gcp is not installed")
    pipeline = beam.Pipeline(options=BeamRunner(DATAFLOW, name="openwit-test").options(100))
    _ = pipeline | Steps(tuple(dataclasses.replace(step, label=label) for label, step in steps.items()))
    pipeline.run()
    return pipeline.runner.proto_pipeline


@pytest.fixture(scope="module")
def proto(jobs: Path, graphs: dict[str, Step]) -> Any:
    return dry_run(graphs)


def test_every_graph_of_every_job_is_accepted(proto: Any, graphs: dict[str, Step]) -> None:
    from pipeline.candidates import judge
    from pipeline.fetch import merge, units, worker
    from pipeline.finish import workers as finishing
    from pipeline.select import workers as selecting
    from queries import workers

    modules = (judge, selecting, units, worker, merge, finishing, workers)
    kinds = {
        name
        for module in modules
        for name, one in vars(module).items()
        if name.endswith(("Worker", "Shuffler", "Counter")) and one.__module__ == module.__name__
    }
    assert kinds - {label.split()[1] for label in graphs} == set(), "a graph that no job of this test has run"
    assert {"Tasks IndexWorker", "Tasks MatchWorker", "Tasks SampleWorker"} <= set(graphs)
    names = (transform.unique_name.split("/") for transform in proto.components.transforms.values())
    used = {name[1] for name in names if len(name) > 1}
    assert set(graphs) <= used
    assert proto.ByteSize() < 1_000_000, "all of them together"


def test_a_graph_does_not_grow_with_its_input(graphs: dict[str, Step], jobs: Path) -> None:
    """90,000 WAT files and 500,000 queries: tasks and lists are read from files by the workers."""

    def job(files: int, queries: int) -> int:
        candidates, thresholds = graphs["Tasks CandidatesWorker"], graphs["Thresholds PairCounter"]
        assert isinstance(candidates, Tasks) and isinstance(thresholds, Thresholds)
        path = "s3://commoncrawl/crawl-data/CC-MAIN-2024-22/segments/171597/wat/CC-MAIN-{}.warc.wat.gz"
        pieces = (Piece("wat", path.format(n), 0, -1, "", "") for n in range(files))
        tasks = (PieceTask(name=f"{n:06d}", piece=piece) for n, piece in enumerate(pieces))
        assert (
            len(plan(dataclasses.replace(candidates, plan=partial(Work, tasks=list(tasks)))).tasks) == files
        )
        table = dataclasses.replace(thresholds.counter.queries, queries=queries)
        assert isinstance(thresholds.counter, PairCounter)
        counter = dataclasses.replace(thresholds.counter, queries=table)
        larger = dataclasses.replace(thresholds, counter=counter)
        return int(dry_run({"candidates": candidates, "thresholds": larger}).ByteSize())

    small, large = job(3, 10), job(90_000, 500_000)
    assert abs(large - small) < 200 and large < 200_000


UNPICKLE = """
import json, sys
wheel, site, folder, payloads = sys.argv[1:]
sys.path[:] = [p for p in sys.path if "site-packages" not in p] + [wheel, site]
from apache_beam.coders.coders import deserialize_coder
from apache_beam.internal import pickler
for payload in json.load(open(payloads)):
    load = deserialize_coder if "$" in payload else pickler.loads
    load(payload.encode("latin-1"))
own = ("openwit", "pipeline", "queries", "dedup", "train", "tests", "beam_job")
files = {name: getattr(m, "__file__", None) for name, m in sys.modules.items() if name.split(".")[0] in own}
json.dump(files, sys.stdout)
"""


def payloads_of(proto: Any) -> list[bytes]:
    """Return every pickle of a job: functions, combiners, windows and coders."""
    from apache_beam.portability import common_urns, python_urns
    from apache_beam.portability.api import beam_runner_api_pb2 as api

    found = []
    for transform in proto.components.transforms.values():
        if transform.spec.urn == common_urns.primitives.PAR_DO.urn:
            function = api.ParDoPayload.FromString(transform.spec.payload).do_fn
        elif transform.spec.urn == common_urns.composites.COMBINE_PER_KEY.urn:
            function = api.CombinePayload.FromString(transform.spec.payload).combine_fn
        else:
            continue
        if "pickled_python" not in function.urn:  # Beam's own, such as the key of a global combine
            assert function.urn == "beam:dofn:python_key_with_none:v1", function.urn
            continue
        found.append(function.payload)
    for coder in proto.components.coders.values():
        if coder.spec.urn in (python_urns.PICKLED_CODER,):
            found.append(coder.spec.payload)
    return found


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel and unpack it: all of openwit that a worker has."""
    pytest.importorskip("setuptools", "77")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # setuptools builds beside the source
    for name in (*TOPS, "beam_job.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        source.mkdir(exist_ok=True)
        copy(ROOT / name, source / name)
    build = "import setuptools.build_meta, sys; setuptools.build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(folder)], cwd=source, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "installed")
    assert (folder / "installed/dedup/detector/lite.safetensors").exists()
    return folder / "installed"


def test_a_worker_that_has_only_the_package_unpickles_everything(
    proto: Any, installed: Path, tmp_path: Path
) -> None:
    import pyarrow

    payloads = payloads_of(proto)
    assert len(payloads) > 60
    assert not [p for p in payloads if b"__main__" in plain(p) or b"tests." in plain(p)]
    (tmp_path / "payloads").write_text(json.dumps([payload.decode("latin-1") for payload in payloads]))
    site = str(Path(pyarrow.__file__).parents[1])
    command = [
        # -S: without the .pth file of an editable installation; -I: without this folder and the environment.
        sys.executable, "-I", "-S", "-c", UNPICKLE, str(installed), site, str(tmp_path),
        str(tmp_path / "payloads"),
    ]  # fmt: skip
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    modules = json.loads(done.stdout)
    ours = {"pipeline.flow.beam_graphs", "pipeline.fetch.worker", "queries.workers", "dedup.match_shards"}
    assert ours <= set(modules)
    assert all(file is None or file.startswith(str(installed)) for file in modules.values())


def plain(payload: bytes) -> bytes:
    """Return a pickle without Beam's packing."""
    import bz2
    import zlib

    data = base64.b64decode(payload.rpartition(b"$")[2])  # a coder's name goes before its pickle
    for unpack in (zlib.decompress, bz2.decompress):
        with contextlib.suppress(zlib.error, OSError):
            return unpack(data)
    return data


# --- the image


def test_the_image_has_what_a_worker_needs() -> None:
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    words = [line.split() for line in lines if line and not line.startswith("#")]
    constraints = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    given, base = (word for word in words if word[0] == "FROM")
    boot = next(word for word in words if word[0] == "COPY" and word[1].startswith("--from="))
    assert ["ARG", "BEAM_SDK"] in words, "no default: a tag moves, and its digest is to be looked up"
    assert given == ["FROM", "${BEAM_SDK}", "AS", "beam"] and boot[1] == "--from=beam"
    sdk = f"apache/beam_python3.11_sdk:{constraints['apache-beam']}"
    for text in ((ROOT / "Dockerfile").read_text(), RUNNING):
        assert f"BEAM_SDK={sdk}@sha256:" in text, "the worker's Beam is the launcher's"
    assert re.fullmatch(r"python:3\.11[\w.-]*@sha256:[0-9a-f]{64}", base[1])
    assert [word for word in words if word[0] == "USER"] == [["USER", "${WORKER}"]]
    (worker,) = (word[1] for word in words if word[0] == "ARG" and word[1].startswith("WORKER="))
    assert re.fullmatch("WORKER=[1-9][0-9]*", worker), "Kubernetes sees by the number that it is not root"
    assert ["ENV", "RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1"] in words, "else workers write below /opt"
    home = words.index(["WORKDIR", "/home/worker"])
    assert any("useradd" in word for word in words[:home]), "else the home would be root's"
    assert ["ENTRYPOINT", '["/opt/apache/beam/boot"]'] in words and boot[2] == "/opt/apache/beam"
    copied = {name for word in words if word[0] == "COPY" and word is not boot for name in word[1:-1]}
    assert all((ROOT / name).exists() for name in copied)
    assert [f"{name}*" for name in TOPS] == project["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {*TOPS, "beam_job.py", "pyproject.toml", "constraints.txt"} <= copied
    assert {project["project"]["readme"], *project["project"]["license-files"]} <= copied
    allowed = {
        line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"
    }
    assert copied <= allowed, ".dockerignore keeps a file out that the image copies"
    install = next(line for line in lines if "pip install" in line)
    assert "install -y --no-install-recommends gcc" in install, "the C modules are built"
    wanted = re.search(r'"\.\[(.*?)\]"', install)
    assert wanted and set(wanted[1].split(",")) <= set(project["project"]["optional-dependencies"])
    assert "--constraint constraints.txt" in install and "&& pip check" in install
    (tried,) = re.findall(r'^RUN python -c "(.*)"$', "\n".join(lines[-4:]), re.MULTILINE)
    there = {module for name in wanted[1].split(",") for module in modules_of(project, name)}
    hidden = sorted(
        (modules_of(project, "train") - there) | {"pandas", "mlcroissant", "transformers", "pytest"}
    )
    # Not among those: any other packages of this environment.
    subprocess.run([sys.executable, "-c", HIDE + tried, ",".join(hidden)], check=True, cwd=ROOT)


def test_the_image_is_followed_without_an_engine(tmp_path: Path) -> None:
    """All but its programs, which `make image` runs: the places of files, the user, the first command."""
    (tmp_path / "boot").touch()
    found = image.Image(tmp_path / "root", tmp_path / "boot")
    lines = image.instructions((ROOT / "Dockerfile").read_text())
    for name, rest in lines:
        if name != "RUN":
            found.follow(name, rest)
    assert {name for name, _ in lines} >= {"RUN", "COPY", "USER", "ENV"}
    assert (found.user, found.folder, found.entry) == ("10001", "/home/worker", ["/opt/apache/beam/boot"])
    assert (found.root / "opt/apache/beam/boot").exists()
    assert (found.root / "openwit/pipeline/cli.py").exists() and (found.root / "openwit/beam_job.py").exists()
    command = found.command(["python", "-V"], A="b c")
    assert "--userspec=10001:10001" in command and "A=b c" in command
    with pytest.raises(ValueError, match=r"VOLUME, which bench/image\.py does not follow"):
        found.follow("VOLUME", "/data")


def modules_of(project: dict[str, Any], extra: str) -> set[str]:
    """Return the modules of an extra's packages."""
    names = project["project"]["optional-dependencies"][extra]
    return {extras.import_name(re.split(r"[>=<;\[ ]", name)[0]) for name in names}


def test_the_record_of_graphs_is_of_dataclasses(graphs: dict[str, Step], jobs: Path) -> None:
    """A graph carries small frozen options, no tables and no open files."""
    for label, step in graphs.items():
        if isinstance(step, Tasks | Shuffle):
            inner = step.worker if isinstance(step, Tasks) else step.shuffler
            assert dataclasses.is_dataclass(inner), label
