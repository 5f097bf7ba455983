"""Beam's flags, typed or in the table [beam] of --config: faults in them are reported in one line."""

from pathlib import Path

import pytest

pytest.importorskip("google.cloud.dataflow_v1beta3", reason="the extra gcp is not installed")

from pipeline import config
from pipeline.cli import main as crawl
from pipeline.demo.server import Server
from pipeline.flow import beam_options
from pipeline.flow.beam_runner import BeamRunner
from pipeline.options import CrawlConfig
from queries.cli import main as queries
from tests.crawling import arguments

TABLE = """
[crawl]
queries = "gs://my-bucket/queries.parquet"
source = ["gs://my-bucket/urls.parquet"]
out = "gs://my-bucket/run"

[beam]
runner = "DataflowRunner"
project = "my-project"
region = "us-central1"
temp_location = "gs://my-bucket/temp"
sdk_container_image = "us-central1-docker.pkg.dev/my-project/openwit/worker:1"
max_num_workers = 20
use_public_ips = false
no_save_main_session = true
streaming = false
experiments = ["one", "two"]
labels = { team = "data" }
"""


def parsed(tmp_path: Path, table: str, *typed: str) -> tuple[str, ...]:
    """Return Beam's flags of a file, and of the flags typed beside it."""
    (tmp_path / "run.toml").write_text(table)
    argv = ["--config", str(tmp_path / "run.toml"), *typed]
    return config.parse(CrawlConfig, argv, prog="openwit crawl", beam=True)[1]


def refusal(capsys: pytest.CaptureFixture[str], tmp_path: Path, table: str, *typed: str) -> str:
    """Return the line with which a table and flags are refused."""
    with pytest.raises(SystemExit) as stop:
        parsed(tmp_path, table, *typed)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.startswith("openwit crawl: error: ") and said.count("\n") == 1, said
    return said


def test_beam_reads_the_table_as_it_is_meant(tmp_path: Path) -> None:
    flags = parsed(tmp_path, TABLE, "--machine_type", "n2-highmem-4", "--max_num_workers=9")
    found = BeamRunner(flags).options(5).get_all_options(drop_default=True)
    assert {"one", "two"} <= {*found["experiments"]} and found["labels"] == ['{"team": "data"}']
    assert found["use_public_ips"] is False and found["save_main_session"] is False
    assert "streaming" not in found, "false, where that is how it is"
    assert found["machine_type"] == "n2-highmem-4"
    assert found["max_num_workers"] == 9, "what is typed wins"
    assert (
        BeamRunner(parsed(tmp_path, TABLE, "--use_public_ips")).options(5).get_all_options()["use_public_ips"]
    )


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (TABLE.replace("max_num", "max_nun"), "--max_nun_workers; did you mean --max_num_workers?"),
        (TABLE.replace("streaming", "streeming"), "unknown option --no_streeming"),
        (TABLE.replace("[beam]", "[bean]"), "unknown table [bean]; did you mean [beam]?"),
        (TABLE.replace("[crawl]", "[craw]"), "unknown table [craw]; did you mean [crawl]?"),
        (TABLE.replace("= 20", '= "many"'), "--max_num_workers: invalid int value: 'many'"),
    ],
)  # fmt: skip
def test_a_fault_in_the_table_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, table: str, says: str
) -> None:
    assert says in refusal(capsys, tmp_path, table)


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (("--regoin", "us-east1"), "did you mean --region?"),
        (("--num_workers=x",), "num_workers: invalid int value: 'x'"),
        (("--num_workers=30",), "num_workers (30) cannot exceed max_num_workers (20)"),
        (("--max_num_workers=0",), "max_num_workers. Value needs to be positive"),
        (("--worker_region=us-east1", "--worker_zone=us-east1-b"), "mutually exclusive"),
        (("--flexrs_goal=CHEAP",), "--flexrs_goal: invalid choice: 'CHEAP'"),
        (("--job_name=My_Job",), "Invalid job_name (My_Job)"),
        (("--project=123456789",), "Project ID, not project number"),
        (("--temp_location=my-bucket/temp",), "--temp_location: Invalid GCS path"),
        (("--temp_location=gs://my-bucket",), "Give a folder in a bucket"),
        (("--staging_location=s3://my-bucket/x",), "--staging_location: Invalid GCS path"),
        (("--dry_run=True",), "--dry_run leaves the work undone: leave it out; --check says"),
        (("--template_location=gs://my-bucket/t",), "openwit waits for its jobs: leave it out"),
        (("--streaming",), "--streaming is for jobs without an end: leave it out"),
        (("--flink_master=flink:8081",), "--flink_master is for other runners than Dataflow: leave it out"),
        (("--environment_type=EXTERNAL",), "--environment_type is for other runners than Dataflow"),
    ],
)
def test_what_dataflow_cannot_do_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, typed: tuple[str, ...], says: str
) -> None:
    assert says in refusal(capsys, tmp_path, TABLE, *typed)


def test_what_dataflow_lacks_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CLOUDSDK_COMPUTE_REGION", raising=False)
    monkeypatch.setenv("PATH", "")  # gcloud may know a region
    head, _, beam = TABLE.partition("[beam]")
    said = refusal(capsys, tmp_path, head + '[beam]\nrunner = "DataflowRunner"\n')
    assert "--project and --region and --temp_location and --sdk_container_image are missing" in said
    for name in ("project", "region", "temp_location", "sdk_container_image"):
        one = "\n".join(line for line in beam.splitlines() if not line.startswith(f"{name} ="))
        assert f"--{name} is missing" in refusal(capsys, tmp_path, f"{head}[beam]{one}")
    monkeypatch.setenv("CLOUDSDK_COMPUTE_REGION", "us-central1")
    parsed(tmp_path, TABLE.replace('region = "us-central1"', ""))


def test_other_runners_are_checked_by_beam(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    head = TABLE.partition("[beam]")[0]
    parsed(tmp_path, head, "--runner=FlinkRunner", "--flink_master=flink:8081", "--environment_type=EXTERNAL",
           "--environment_config=localhost:50000")  # fmt: skip
    said = refusal(capsys, tmp_path, head, "--runner=FlinkRunner", "--environment_type=EXTERNAL")
    assert "external_service_address is required for environment type EXTERNAL" in said


def test_paths_of_this_machine_are_refused_where_workers_are_elsewhere(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, small_web: Server
) -> None:
    (tmp_path / "beam.toml").write_text(TABLE.partition("[beam]")[1] + TABLE.partition("[beam]")[2])
    given = ["--config", str(tmp_path / "beam.toml")]
    (tmp_path / "words.txt").write_text("dog\n")
    for main, argv in (
        (crawl, arguments(small_web.web, tmp_path / "run")),
        (queries, ["--extra", str(tmp_path / "words.txt"), "--out", "gs://my-bucket/queries.parquet"]),
    ):
        with pytest.raises(SystemExit) as stop:
            main([*argv, *given])
        said = capsys.readouterr().err
        assert stop.value.code == 2 and "is on this machine, where Dataflow's workers cannot reach it" in said
    assert not (tmp_path / "run").exists()
    beam_options.require_shared(("--runner=FlinkRunner",), [str(tmp_path)])  # may be the same file system
