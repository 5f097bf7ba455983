"""A run that dies is continued by the same command: same bytes, nothing finished is fetched again."""

import json
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.demo.server import Server
from pipeline.fetch.parts import Fetched
from pipeline.flow import markers
from tests.crawling import arguments, contents, crawl

pytestmark = pytest.mark.timeout(900)

OPTIONS = (
    "--per-query", "4", "--headroom", "1", "--rounds", "2", "--workers", "1", "--unit-images", "60",
    "--samples-per-shard", "60",
)  # fmt: skip


@pytest.fixture(scope="module")
def web(small_web: Server) -> Server:
    return small_web


@pytest.fixture(scope="module")
def undisturbed(web: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return crawl(web.web, tmp_path_factory.mktemp("undisturbed") / "run", *OPTIONS, "--keep-staging")


def kill_when(command: list[str], seen: Path, pattern: str) -> None:
    """Start the command in a process group and kill -9 it as soon as a file matches."""
    child = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(seen.glob(pattern)):
        assert child.poll() is None, f"it ended before {pattern} was there"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    subprocess.os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def fetched_urls(server: Server, start: int) -> Counter[tuple[str, str]]:
    """Return how often each image was asked for since a place in the access log."""
    requests = server.requests()[start:]
    return Counter((r["host"], r["path"]) for r in requests if not str(r["path"]).endswith("robots.txt"))


def test_kill_in_every_stage_and_continue(web: Server, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "beam_job",
        "crawl",
        *arguments(web.web, out, *OPTIONS, "--keep-staging"),
    ]
    for pattern in (
        "work/candidates/*.parquet",
        "work/select/deduplicated/*.parquet",
        "work/fetch/units-0/*.parquet",
        "work/fetch/round-0/00000-0001.json",
        "work/fetch/merged-0/*.json",
        "shards/00001.tar",
        "rejected/*.parquet",
    ):
        kill_when(command, out, pattern)
        if "round-0" in pattern:
            start = len(web.requests())
            finished = list(markers.finished(f"{out}/work/fetch/round-0").values())
    assert main(arguments(web.web, out, *OPTIONS, "--keep-staging")) == 0
    found, expected = contents(out), contents(undisturbed)
    for part in expected:
        assert found[part] == expected[part], part
    again = fetched_urls(web, start)
    for result in finished:
        for host, path in done_urls(result):
            assert again[host, path] <= transient(undisturbed, host, path), (
                "a finished unit was fetched again"
            )
    assert not list(out.rglob(".*.tmp*")), "what a kill left half-written is removed"


def done_urls(result: Fetched) -> list[tuple[str, str]]:
    """Return (host, path) of the URLs of a fetched unit."""
    from urllib.parse import urlsplit

    from pipeline import schemas

    urls = set(schemas.read_table(result.unit, ["fetch_url"])["fetch_url"].to_pylist())
    parts = [urlsplit(url) for url in urls]
    return [(part.netloc.split(":")[0], part.path) for part in parts]


def transient(run: Path, host: str, path: str) -> int:
    """Return how often an undisturbed run asked for a URL after the first round: retries are right."""
    from pipeline import schemas

    count = 0
    for unit in (run / "work/fetch/units-1").glob("*.parquet"):
        urls = schemas.read_table(str(unit), ["fetch_url"])["fetch_url"].to_pylist()
        count += any(host in url and url.endswith(path) for url in urls) * 3  # redirects within a site
    return count


def test_a_shard_without_its_marker_is_written_again(web: Server, undisturbed: Path, tmp_path: Path) -> None:
    """Killed between publishing a shard and its marker, in fetch and in finish."""
    out = shutil.copytree(undisturbed, tmp_path / "run")
    relocate(undisturbed, out)
    expected = contents(out)
    for name in ("shards/00000.json", "shards/results.jsonl", "rejected/fetch-00000.json",
                 "rejected/results.jsonl", "done.stage"):  # fmt: skip
        (out / "work/finish" / name).unlink()
    (out / "manifest.json").unlink()
    (out / "shards/00000.tar").write_bytes(b"half of it")
    assert main(arguments(web.web, out, *OPTIONS, "--keep-staging")) == 0
    assert contents(out) == expected


def relocate(old: Path, new: Path) -> None:
    """Let a copied run's markers point to the copy."""
    for path in [path for part in ("work", "extensions") for path in (new / part).rglob("*")]:
        if path.suffix in (".json", ".stage", ".jsonl", ".tasks"):
            path.write_text(path.read_text().replace(str(old), str(new)))


def test_a_finished_run_does_nothing(web: Server, undisturbed: Path) -> None:
    before, start = contents(undisturbed), len(web.requests())
    assert main(arguments(web.web, undisturbed, *OPTIONS, "--keep-staging")) == 0
    assert contents(undisturbed) == before and len(web.requests()) == start


def test_a_changed_option_reruns_from_its_stage(web: Server, undisturbed: Path, tmp_path: Path) -> None:
    out = shutil.copytree(undisturbed, tmp_path / "run")
    relocate(undisturbed, out)
    start = len(web.requests())
    changed = (*OPTIONS, "--keep-staging", "--samples-per-shard", "40")
    with pytest.raises(SystemExit, match="2"):
        main(arguments(web.web, out, *changed))
    assert main(arguments(web.web, out, *changed, "--restart")) == 0
    assert len(web.requests()) == start, "another shard size needs no fetching"
    rows = [{**row, "key": ""} for row in contents(out)["rows"]]
    assert rows == [{**row, "key": ""} for row in contents(undisturbed)["rows"]]
    assert len(list((out / "shards").glob("*.tar"))) > len(list((undisturbed / "shards").glob("*.tar")))


def test_operational_options_are_outside_the_fingerprint(web: Server, undisturbed: Path) -> None:
    start = len(web.requests())
    changed = (
        "--timeout",
        "9",
        "--workers",
        "2",
        "--max-inflight",
        "10",
        "--host-delay",
        "0.5",
        "--contact",
        "a@b.c",
    )
    assert main(arguments(web.web, undisturbed, *OPTIONS, "--keep-staging", *changed)) == 0
    assert len(web.requests()) == start


def test_changed_inputs_are_refused(web: Server, undisturbed: Path, tmp_path: Path, capsys) -> None:
    out = shutil.copytree(undisturbed, tmp_path / "run")
    relocate(undisturbed, out)
    other = shutil.copy(web.web.warc, tmp_path / "other.warc.gz")
    with pytest.raises(SystemExit) as stop:
        main(arguments(web.web, out, *OPTIONS, "--source", str(other)))
    assert stop.value.code == 2
    assert f"{other} is new" in capsys.readouterr().err


def test_finish_options_cannot_change_once_the_images_are_gone(
    web: Server, undisturbed: Path, tmp_path, capsys
) -> None:
    out = shutil.copytree(undisturbed, tmp_path / "run")
    relocate(undisturbed, out)
    (out / "work/fetch/removed.stage").write_text("true")
    with pytest.raises(SystemExit) as stop:
        main(arguments(web.web, out, *OPTIONS, "--samples-per-shard", "50"))
    assert stop.value.code == 2 and "--keep-staging" in capsys.readouterr().err


def test_two_launchers_do_not_work_on_one_run(web: Server, tmp_path: Path, capsys) -> None:
    import fcntl

    out = tmp_path / "run"
    (out / "work").mkdir(parents=True)
    with (out / "work" / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(SystemExit) as stop:
            main(arguments(web.web, out))
    assert stop.value.code == 2 and "another openwit is at work" in capsys.readouterr().err


def test_a_failing_disk_is_reported_and_continued(
    web: Server, undisturbed: Path, tmp_path: Path, capfd
) -> None:
    """A stage that cannot write ends the run with 1 and says how to go on; the next start does."""
    out = shutil.copytree(undisturbed, tmp_path / "run")
    relocate(undisturbed, out)
    expected = contents(out)
    for name in ("done.stage", "shards/00000.json", "shards/results.jsonl"):
        (out / "work/finish" / name).unlink()
    (out / "shards/00000.tar").unlink()
    (out / "shards/00000.tar").mkdir()  # cannot be replaced by a file
    assert main(arguments(web.web, out, *OPTIONS, "--keep-staging")) == 1
    said = capfd.readouterr().err
    assert "failed" in said and "the same command" in said
    (out / "shards/00000.tar").rmdir()
    assert main(arguments(web.web, out, *OPTIONS, "--keep-staging")) == 0
    assert contents(out) == expected


@pytest.fixture(params=["tmpfs", "quota"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """Give a folder with little room, and a function that makes more."""
    if request.param == "quota":  # a file may not grow beyond 60 kB
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))
        try:
            yield tmp_path, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        return
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("no right to mount a small file system")
    try:
        yield disk, lambda: subprocess.run(["mount", "-o", "remount,size=300m", str(disk)], check=True)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_stops_the_run_and_the_same_command_goes_on(
    web: Server, undisturbed: Path, small_disk: tuple[Path, Callable[[], None]], capfd
) -> None:
    folder, make_room = small_disk
    argv = arguments(web.web, folder / "run", *OPTIONS, "--keep-staging")
    assert main(argv) == 1
    said = capfd.readouterr().err
    assert "The disk is full" in said and "the same command" in said
    assert not (folder / "run" / "manifest.json").exists()
    for marker in (folder / "run" / "work").rglob("*.json"):  # a file that counts is whole
        assert json.loads(marker.read_text())
    make_room()
    assert main(argv) == 0
    found, expected = contents(folder / "run"), contents(undisturbed)
    for part in expected:
        assert found[part] == expected[part], part
    assert not list((folder / "run").rglob(".*.tmp*"))


def test_a_changed_fetch_option_forgets_the_later_rounds(
    web: Server, undisturbed: Path, tmp_path: Path
) -> None:
    """Which samples a later round tries follows from the images fetched under the same options."""
    out = shutil.copytree(undisturbed, tmp_path / "run")
    relocate(undisturbed, out)
    changed = (*OPTIONS, "--min-side", "300")
    assert main(arguments(web.web, out, *changed, "--restart")) == 0
    assert contents(out) == contents(crawl(web.web, tmp_path / "fresh", *changed))
