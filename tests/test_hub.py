"""A run goes to a Hub on loopback and back, through huggingface_hub; stopped on the way, too."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import beam_job
import openwit
from pipeline import report
from tests import finished_run, hub_server
from tests.hub_server import Server

constants = pytest.importorskip("huggingface_hub.constants")
pytestmark = [pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore::DeprecationWarning:httpx2")]
PLACE = "hf://datasets/owner/name"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with hub_server.serve() as server:
        # As HF_ENDPOINT would, if it were set before the package is imported.
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        # Xet is a service of its own; its files go as large files of git here.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)
        monkeypatch.chdir(tmp_path)
        yield server


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "run"
    report.write(finished_run.build(folder, [f"a dog number {n}" for n in range(13)]))
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def files(folder: Path) -> dict[str, bytes]:
    """Return the files that a run publishes."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    names = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    return {name: data for name, data in names.items() if not name.startswith(("work/", ".cache/"))}


def test_a_run_goes_to_the_hub_and_back(
    hub: Server, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert beam_job.main(["push", "run", "--to", PLACE, "--check"]) == 0 and not hub.repository.files
    assert beam_job.main(["push", "run", "--to", PLACE]) == 0
    assert hub.repository.files == files(run)
    assert len(hub.repository.commits) == 2 and "manifest.json" in hub.repository.sent[-3:]
    assert beam_job.main(["pull", PLACE, "--out", "copy"]) == 0
    assert "every hash and count" in capsys.readouterr().out and files(tmp_path / "copy") == files(run)
    keys = [sample.key for sample in openwit.open("run").samples()]
    assert [sample.key for sample in openwit.open("copy").samples()] == keys
    assert [sample.key for sample in openwit.open(PLACE).samples()] == keys, "read where it lies"
    assert openwit.open(PLACE).manifest == openwit.open("run").manifest
    before = len(hub.repository.sent)
    assert beam_job.main(["push", "run", "--to", PLACE]) == 0 and len(hub.repository.sent) == before


def test_a_push_that_was_stopped_sends_the_rest(hub: Server, run: Path) -> None:
    hub.repository.fail_after = 3
    assert beam_job.main(["push", "--run", "run", "--to", PLACE]) == 1
    assert "manifest.json" not in hub.repository.files
    arrived = set(hub.repository.objects)
    hub.repository.fail_after, hub.repository.sent = None, []
    assert beam_job.main(["push", "--run", "run", "--to", PLACE]) == 0
    assert arrived and hub.repository.files == files(run) and not arrived & set(hub.repository.sent)


def test_a_pull_that_was_stopped_fetches_the_rest(hub: Server, run: Path, tmp_path: Path) -> None:
    assert beam_job.main(["push", "run", "--to", PLACE]) == 0
    hub.repository.fail_after, hub.repository.sent = 4, []
    assert beam_job.main(["pull", PLACE, "--out", "copy"]) == 1
    first, hub.repository.sent, hub.repository.fail_after = set(hub.repository.sent), [], None
    assert beam_job.main(["pull", PLACE, "--out", "copy"]) == 0
    assert first and not first & set(hub.repository.sent) and files(tmp_path / "copy") == files(run)


def test_what_the_run_has_no_more_goes_from_the_hub(hub: Server, run: Path) -> None:
    assert beam_job.main(["push", "run", "--to", PLACE]) == 0
    hub.repository.files["notes.md"] = b"of the owner"
    found = json.loads((run / "manifest.json").read_text())
    found["shards"] = found["shards"][:1]
    (run / "manifest.json").write_text(json.dumps(found))
    assert beam_job.main(["push", "run", "--to", PLACE, "--forget-history"]) == 0
    left = {name for name in hub.repository.files if name.startswith("shards/")}
    assert left == {"shards/00000.tar", "shards/00000.parquet"}
    assert hub.repository.files["notes.md"] == b"of the owner" and hub.repository.commits == ["squashed"]


def test_what_is_no_run_or_no_repository_is_told(
    hub: Server, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for argv, said in (
        (["push", "run", "--to", "owner/name"], "give the repository as hf://datasets/OWNER/NAME"),
        (["push", "run", "--to", "hf://datasets/../x"], "give the repository as"),
        (["push", "nothing", "--to", PLACE], "nothing"),
        (["pull", PLACE, "--out", "empty"], "it has no manifest.json"),
        (["pull", PLACE, "--out", "run"], "choose another --out"),
    ):
        with pytest.raises(SystemExit) as stop:
            beam_job.main(argv)
        assert stop.value.code == 2 and said in capsys.readouterr().err
    assert beam_job.main(["push", "run", "--to", PLACE]) == 0
    hub.repository.files["shards/00000.tar"] += b"x"
    assert beam_job.main(["pull", PLACE, "--out", "changed"]) == 1
    assert "wrong: " in capsys.readouterr().out
