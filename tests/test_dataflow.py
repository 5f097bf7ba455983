"""Every job of every command on a service that speaks Dataflow's API: submitted graphs and results."""

import json
import signal
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("google.cloud.dataflow_v1beta3", reason="the extra gcp is not installed")
from google.cloud.dataflow import JobType
from google.cloud.dataflow import WorkerIPAddressConfiguration as Addresses

from dedup.cli import main as overlap
from pipeline.cli import main as crawl
from pipeline.compact import main as compact
from pipeline.demo.server import serve as serve_web
from pipeline.demo.web import Web, build
from pipeline.flow import beam_options
from pipeline.flow.parts import Part
from pipeline.flow.runner import Runner
from queries.cli import main as queries
from tests import dataflow
from tests.crawling import contents
from tests.jobs import arguments_of, write_inputs, written
from tests.test_running_docs import FILES

pytestmark = pytest.mark.timeout(900)

DOCUMENTED = tomllib.loads(FILES["dataflow.toml"])["beam"]
STAGES = ("candidates", "select", "fetch", "finish")


@pytest.fixture
def service() -> Iterator[dataflow.Service]:
    with dataflow.serve() as found:
        yield found


def commands(root: Path, web: Web, out: Path) -> list[tuple[Callable[[list[str]], int], list[str]]]:
    """Return all that runs as jobs, command by command, in the order in which one needs another."""
    base = [*arguments_of("crawl", root, web, out), "--per-query", "4", "--headroom", "1"]
    near = [*base, "--dedup", "near", "--out", str(out / "near")]
    more = ["--extend", str(out / "run"), "--source", str(root / "more.parquet")]
    return [
        (queries, arguments_of("queries", root, web, out)),
        *((crawl, [*base, "--stage", stage]) for stage in STAGES),
        (crawl, [*base, "--retry-failed"]),
        (crawl, more),
        (crawl, near),
        (overlap, ["--run", str(out / "run"), "--eval", f"e={root}/eval", "--planted", "1",
                   "--out", str(out / "overlap")]),
        (compact, ["--run", str(out / "run"), "--out", str(out / "compacted")]),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[dataflow.Job]]]:
    """Run all commands on the service and on this machine; return the folder, and each command's jobs."""
    root = tmp_path_factory.mktemp("dataflow")
    web = build(root / "web", seed=1, n_images=80, n_sites=20, evaluation_sets=False)
    with serve_web(web):
        write_inputs(root, web)
    table = pq.read_table(web.folder / "urls.parquet")
    pq.write_table(table.slice(40), root / "more.parquet")
    (late,) = (one for one in web.references if one.url.endswith("/throttled_once.jpg"))
    failing = pa.table({"url": [late.url], "caption": [late.texts[0].text]})
    first = table.slice(0, 40).select(failing.column_names)
    pq.write_table(pa.concat_tables([first, failing]), root / "urls.parquet")
    jobs = []
    for name in ("service", "local"):
        out = root / name
        out.mkdir()
        # A new server: it refuses an image the first time, so that there is something to retry.
        with serve_web(web), dataflow.serve() as found:
            for main, argv in commands(root, web, out):
                before = len(found.jobs)
                flags = found.flags(root / "staged") if name == "service" else ("--workers", "1")
                assert main([*argv, *flags]) == 0, argv
                jobs.append(found.jobs[before:])
    return root, jobs[: len(jobs) // 2]


def test_every_file_is_that_of_one_machine(runs: tuple[Path, list[list[dataflow.Job]]]) -> None:
    service, local = runs[0] / "service", runs[0] / "local"
    assert written("queries", service) == written("queries", local)
    found, expected = (written("overlap", folder) for folder in (service, local))
    for files in (found, expected):  # where the set is, and when it was fetched
        report = json.loads(files["report.json"])
        files["report.json"] = {key: report[key] for key in report.keys() - {"training_set", "last_fetch"}}
    assert found == expected
    for run in ("run", "near"):
        found, expected = contents(service / run), contents(local / run)
        for part in expected:
            assert found[part] == expected[part], (run, part)
    ours, theirs = (
        {path.name: path.read_bytes() for path in (folder / "compacted" / "shards").glob("*.tar")}
        for folder in (service, local)
    )
    assert ours and ours == theirs


def test_every_command_has_sent_its_jobs(runs: tuple[Path, list[list[dataflow.Job]]]) -> None:
    counts = [len(jobs) for jobs in runs[1]]
    assert all(counts), counts
    assert counts[:6] == [1, 1, 1, 2, 1, 3], (
        "queries; candidates, select, units and round, finish; units, a round more, finish"
    )
    for jobs in runs[1]:
        assert [job.state for job in jobs] == ["JOB_STATE_DONE"] * len(jobs)
        assert len({job.request["name"] for job in jobs}) == 1


def test_no_job_is_large(runs: tuple[Path, list[list[dataflow.Job]]]) -> None:
    for job in (job for jobs in runs[1] for job in jobs):
        assert job.graph.ByteSize() < 200_000 and job.size < 100_000, job.request["name"]


def test_a_job_says_what_was_asked_for(runs: tuple[Path, list[list[dataflow.Job]]]) -> None:
    for job in (job for jobs in runs[1] for job in jobs):
        assert job.request["type"] == JobType.JOB_TYPE_BATCH
        assert job.images == {dataflow.IMAGE}
        environments = job.graph.components.environments.values()
        assert not [one for one in environments if one.dependencies], "the image has all that a worker needs"


class _Job:
    """One task, and a service on which it is done as a test wants it."""

    def __init__(self, service: dataflow.Service, folder: Path, *flags: str) -> None:
        self.runner = Runner(flags=(*service.flags(folder / "staged"), *flags), name="openwit-test")
        self.folder = str(folder / "steps")

    def run(self) -> list[Part]:
        return self.runner.tasks("tasks", self.folder, [Part(name="1")], Echo(), Part)


@dataclass(frozen=True)
class Echo:
    """A worker that does nothing."""

    def open(self) -> None:
        """Load nothing."""

    def run(self, state: None, task: Part) -> Part:
        """Return the task, unless it is the task that fails."""
        return task


def test_the_documented_flags_reach_the_service(service: dataflow.Service, tmp_path: Path) -> None:
    ours = {"runner", "project", "region", "temp_location", "sdk_container_image"}
    flags = beam_options.of_table({key: DOCUMENTED[key] for key in DOCUMENTED if key not in ours})
    job = _Job(service, tmp_path, *flags, "--num_workers=3", "--experiments=one")
    assert job.run() == [Part(name="1")]
    (found,) = service.jobs
    assert found.request["name"] == "openwit-test"
    assert found.pool["machineType"] == DOCUMENTED["machine_type"]
    assert found.pool["diskSizeGb"] == DOCUMENTED["disk_size_gb"]
    assert found.pool["numThreadsPerWorker"] == DOCUMENTED["number_of_worker_harness_threads"]
    assert found.pool["autoscalingSettings"]["maxNumWorkers"] == DOCUMENTED["max_num_workers"]
    assert found.pool["numWorkers"] == 3 and found.pool["ipConfiguration"] == Addresses.WORKER_IP_PUBLIC
    environment = found.request["environment"]
    assert environment["serviceAccountEmail"] == DOCUMENTED["service_account_email"]
    assert {"one", "use_runner_v2"} <= set(environment["experiments"])


def test_a_failed_job_says_what_failed(
    service: dataflow.Service, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(job: dataflow.Job) -> None:
        raise OSError("[Errno 28] No space left on device")

    service.work = fail
    with pytest.raises(RuntimeError) as failure:
        _Job(service, tmp_path).run()
    assert str(failure.value).strip().splitlines()[-1].endswith("No space left on device")
    told = [record.getMessage() for record in caplog.records if "dataflow" in record.name]
    assert any("https://console.cloud.google.com/dataflow/jobs/us-central1/" in text for text in told)
    assert not any("sdk_pipeline_options" in text or "Staging" in text for text in told)


def test_an_interrupt_cancels_the_job(service: dataflow.Service, tmp_path: Path) -> None:
    def wait(job: dataflow.Job) -> None:
        while not job.asked:
            time.sleep(0.05)
        signal.raise_signal(signal.SIGINT)  # to the main thread, which waits for the job
        while job.state not in dataflow.ENDED:
            time.sleep(0.05)

    service.work = wait
    with pytest.raises(KeyboardInterrupt):
        _Job(service, tmp_path).run()
    assert service.jobs[0].state == "JOB_STATE_CANCELLED"


def test_a_job_that_is_still_at_work_keeps_a_second_launcher_out(
    service: dataflow.Service, tmp_path: Path
) -> None:
    begun, over = threading.Event(), threading.Event()

    def wait(job: dataflow.Job) -> None:
        begun.set()
        over.wait(60)
        dataflow.run(job)

    service.work = wait
    first = threading.Thread(target=_Job(service, tmp_path).run)
    first.start()
    assert begun.wait(60)
    with pytest.raises(RuntimeError, match="There is already an active job named openwit-test"):
        _Job(service, tmp_path).run()
    over.set()
    first.join(60)
    assert [job.state for job in service.jobs] == ["JOB_STATE_DONE"]
    assert _Job(service, tmp_path).run() == [Part(name="1")], "the same command goes on from its files"
    assert len(service.jobs) == 1
