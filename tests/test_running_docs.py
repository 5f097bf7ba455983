"""docs/running.md: every command and file of options is complete, and openwit's own parser takes it."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from pipeline import config
from pipeline.reference import config_of

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "running.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
LINES = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines() if line]
FILES = dict(re.findall(r"^```toml\n# (\S+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))
OWN = [line for line in LINES if re.match(r"(nohup )?(openwit|python beam_job\.py) ", line)]


def parsed(line: str) -> tuple[str, object, tuple[str, ...]]:
    """Return command, options and Beam's flags of a line, as the program itself reads them."""
    line = re.sub(r"^nohup |> \S+ 2>&1 &$", "", line)
    words = shlex.split(line)
    name, *argv = words[1:] if words[0] == "openwit" else words[2:]
    options, flags = config.parse(
        config_of(name), argv, prog=f"openwit {name}", beam=name in ("queries", "crawl", "overlap")
    )
    return name, options, flags


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work where the document's files of options are."""
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)


@pytest.mark.parametrize("line", OWN)
def test_every_command_parses(line: str) -> None:
    _, _, flags = parsed(line)
    if not flags:
        return
    from apache_beam.options.pipeline_options import PipelineOptions

    options = PipelineOptions(list(flags))
    known = options.get_all_options(drop_default=True, retain_unknown_options=False)
    given = {flag.lstrip("-").partition("=")[0] for flag in flags if flag.startswith("--")}
    negated = {name for name in given if name.startswith("no_")}
    assert given - negated <= set(known), "Beam reads every flag, with a value of its type"


def test_every_table_is_that_of_a_command() -> None:
    assert len(FILES) == TEXT.count("```toml"), "each begins with its name"
    used = {}
    for line in OWN:
        if name := re.search(r"--config (\S+)", line):
            job, _, flags = parsed(line)
            used.setdefault(name[1], set()).update({job, *(["beam"] if flags else [])})
    assert used == {name: set(tomllib.loads(text)) for name, text in FILES.items()}


def test_every_job_is_shown_on_every_cluster() -> None:
    from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

    shown: set[tuple[str, str]] = set()
    for line in OWN:
        name, _, flags = parsed(line)
        shown.add((name, PipelineOptions(list(flags)).view_as(StandardOptions).runner or ""))
    for runner in ("", "DataflowRunner", "FlinkRunner"):
        assert {(job, runner) for job in ("queries", "crawl", "overlap")} <= shown
    spark = {job for job, runner in shown if runner in ("SparkRunner", "PortableRunner")}
    assert spark == {"queries", "crawl", "overlap"}


def test_other_programs_commands_are_of_the_versions_that_are_pinned() -> None:
    pinned = re.search(r"^apache-beam==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned
    assert set(re.findall(r"apache/beam\w+:([\d.]+)", TEXT)) == {pinned[1]}
    from apache_beam.options.pipeline_options import FlinkRunnerOptions

    versions = set(re.findall(r"--flink_version (\S+)", TEXT))
    assert versions <= set(FlinkRunnerOptions.PUBLISHED_FLINK_VERSIONS)
    starts = {line.split()[0] for line in LINES if line not in OWN}
    assert starts == {"gcloud", "docker", "python", "make", "kubectl", "sbatch"}
    files = set(re.findall(r"docs/deploy/[\w./-]+", TEXT))
    assert files and all((ROOT / name).exists() for name in files)
    images = set(re.findall(r"us-central1-docker[^\s\"]+", TEXT))
    assert images == {"us-central1-docker.pkg.dev/my-project/openwit/worker:1", "us-central1-docker.pkg.dev"}


def test_every_section_is_linked() -> None:
    sections = re.findall(r"^## (.*)$", TEXT, re.MULTILINE)
    links = re.findall(r"^- \[(.*)\]\(#(.*)\)$", TEXT, re.MULTILINE)
    assert links == [(name, name.lower().replace(" ", "-")) for name in sections]
