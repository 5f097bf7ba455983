"""Another option on the same folder: nothing finished goes unasked, or before its successor is there."""

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import config, restart, run_folder, storage
from pipeline.cli import main
from pipeline.demo.server import Server
from pipeline.options import CrawlConfig
from pipeline.takedown.cli import main as takedown
from pipeline.verify import main as verify
from tests.crawling import arguments, contents, crawl, manifest, refused, samples, settle

pytestmark = pytest.mark.timeout(900)

OPTIONS = ("--workers", "1", "--per-query", "4", "--headroom", "1", "--rounds", "2", "--image-size", "96")
OTHER = ("--image-size", "64")


@pytest.fixture(scope="module")
def web(small_web: Server) -> Server:
    return small_web


def state(folder: Path) -> dict[str, bytes]:
    """Return every file of a run's set by name."""
    files = [
        path for path in folder.rglob("*") if path.is_file() and "work" not in path.relative_to(folder).parts
    ]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def other(web: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was made with the other option from the start."""
    return crawl(web.web, tmp_path_factory.mktemp("other") / "run", *OPTIONS, *OTHER)


def test_a_finished_set_stays_until_it_is_asked_for_and_replaced(
    web: Server, other: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = crawl(web.web, tmp_path / "run", *OPTIONS)
    before, count = state(out), manifest(out)["counts"]["samples"]
    tried = sum(one["images"] for one in manifest(out)["rounds"])
    start = len(web.requests())
    for more in ((), ("--check",)):
        said = refused(capfd, [*arguments(web.web, out, *OPTIONS, *OTHER), *more])
        assert "--image-size 96 -> 64" in said and "--restart" in said
        assert f"{count:,} samples" in said and f"{tried:,} images" in said
        assert "--per-query" not in said and "--quality" not in said, "nothing but what changed"
    assert state(out) == before and len(web.requests()) == start
    assert main([*arguments(web.web, out, *OPTIONS, *OTHER, "--restart"), "--check"]) == 0
    assert "--image-size 96 -> 64" in capfd.readouterr().err
    assert state(out) == before
    settle(web.web)
    assert main(arguments(web.web, out, *OPTIONS, *OTHER, "--restart")) == 0
    assert contents(out) == contents(other)
    assert verify(["--run", str(out)]) == 0
    assert not (out / "next").exists() and len(web.requests()) > start
    start = len(web.requests())
    assert main(arguments(web.web, out, *OPTIONS, *OTHER, "--restart")) == 0, "the same command again"
    assert len(web.requests()) == start, "fetches nothing"


def test_whenever_it_is_killed_one_set_is_whole_and_the_same_command_goes_on(
    web: Server, tmp_path: Path
) -> None:
    out = crawl(web.web, tmp_path / "run", *OPTIONS)
    url = samples(out)[0]["url"]
    assert takedown(["--run", str(out), "--url", url]) == 0
    before = state(out)
    command = [
        sys.executable,
        "-m",
        "beam_job",
        "crawl",
        *arguments(web.web, out, *OPTIONS, *OTHER, "--restart"),
    ]
    for pattern in (
        "work/replaces.stage",
        "work/fetch/units-0/*.parquet",
        "work/fetch/round-0/*.json",
        "work/fetch/merged-0/*.json",
        "next/shards/*.tar",
        "next/rejected/*.parquet",
        "next/manifest.json",
    ):
        child = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 300
        while not list(out.glob(pattern)) and child.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        assert child.poll() is None, f"it ended before {pattern} was there"
        subprocess.os.killpg(child.pid, signal.SIGKILL)  # type: ignore[attr-defined]
        child.wait()
        now = {name: data for name, data in state(out).items() if not name.startswith("next/")}
        now = {name: data for name, data in now.items() if not Path(name).name.startswith(".")}
        if pattern != "next/manifest.json":
            assert now == before, pattern
    assert main(arguments(web.web, out, *OPTIONS, *OTHER, "--restart")) == 0
    assert verify(["--run", str(out)]) == 0
    assert url not in {row["url"] for row in samples(out)}, "what was taken down stays out"


class Killed(BaseException):
    """Stands for kill -9."""


def test_the_exchange_may_stop_at_any_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each step either set is whole, where it was made or where it belongs, and doing it again ends it."""
    names = {
        True: (
            "shards/00000.tar",
            "shards/00000.parquet",
            "rejected/a.parquet",
            "manifest.json",
            "README.md",
        ),
        False: (
            *("shards/00000.tar", "shards/00000.parquet", "shards/00001.tar", "shards/00001.parquet"),
            *(
                "rejected/a.parquet",
                "rejected/b.parquet",
                "manifest.json",
                "README.md",
                "near_duplicates.parquet",
            ),
        ),
    }

    def build(root: Path) -> run_folder.Layout:
        for name in names[False]:
            storage.write_bytes(str(root / name), b"old " + name.encode())
        layout = run_folder.keep_until_replaced(run_folder.Layout(str(root)))
        assert layout.replaces and run_folder.current(str(root)) == layout
        for name in names[True]:
            storage.write_bytes(str(root / "next" / name), b"new " + name.encode())
        return layout

    def whole(folder: Path, is_new: bool) -> bool:
        word = b"new " if is_new else b"old "
        return all(
            (folder / n).exists() and (folder / n).read_bytes() == word + n.encode() for n in names[is_new]
        )

    steps = 0
    while True:
        root = tmp_path / f"run-{steps}"
        layout, left = build(root), steps
        with monkeypatch.context() as patch:
            for name in ("link", "remove_tree"):
                real = getattr(storage, name)

                def limited(*paths: str, real: object = real) -> None:
                    nonlocal left
                    if not left:
                        raise Killed
                    left -= 1
                    real(*paths)  # type: ignore[operator]

                patch.setattr(storage, name, limited)
            try:
                run_folder.publish_next(layout)
            except Killed:
                pass
            else:
                break
        assert whole(root, False) or whole(root, True) or whole(root / "next", True), steps
        if (root / "manifest.json").exists():
            assert whole(root, (root / "manifest.json").read_bytes().startswith(b"new")), (
                "a manifest tells a set"
            )
        if run_folder.current(str(root)).replaces:
            run_folder.publish_next(run_folder.current(str(root)))
        assert whole(root, True)
        assert not (root / "shards/00001.tar").exists() and not (root / "near_duplicates.parquet").exists()
        steps += 1
    assert steps > 8 and whole(root, True) and not (root / "next").exists()


def test_an_unfinished_run_asks_before_fetched_images_go(
    web: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    first = (*OPTIONS, "--unit-images", "40")
    command = [sys.executable, "-m", "beam_job", "crawl", *arguments(web.web, out, *first)]
    child = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list(out.glob("work/fetch/round-0/0*.json")):
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.01)
    subprocess.os.killpg(child.pid, signal.SIGKILL)  # type: ignore[attr-defined]
    child.wait()
    blobs = sorted(out.glob("work/fetch/round-0/*.blob"))
    said = refused(capfd, arguments(web.web, out, *first, *OTHER))
    assert "--image-size 96 -> 64" in said and "again" in said and "--restart" in said and "images" in said
    assert sorted(out.glob("work/fetch/round-0/*.blob")) == blobs
    said = refused(capfd, arguments(web.web, out, *first, "--lang", "any"))
    assert "--lang en -> any" in said and "candidates" in said
    assert main(arguments(web.web, out, *first, *OTHER, "--restart")) == 0
    assert verify(["--run", str(out)]) == 0


def test_a_retry_keeps_the_set_until_another_is_verified(
    web: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = crawl(web.web, tmp_path / "run", *OPTIONS)
    before = state(out)
    from pipeline.finish import steps as finishing

    def stop(*_: object) -> None:
        raise RuntimeError("killed before the shards were written")

    with monkeypatch.context() as patch:
        patch.setattr(finishing, "_plan_shards", stop)
        code = main([*arguments(web.web, out, *OPTIONS), "--retry-failed"])
    if code == 0:
        pytest.skip("nothing of this web is worth another try")
    assert {n: d for n, d in state(out).items() if not n.startswith("next/")} == before
    assert main([*arguments(web.web, out, *OPTIONS), "--retry-failed"]) == 0
    assert verify(["--run", str(out)]) == 0 and not (out / "next").exists()


def test_every_semantic_option_is_named_as_it_is_typed() -> None:
    options = CrawlConfig(queries="q.txt", source=("a.parquet",), out="run")
    known = {f"--{name.replace('_', '-')}" for name, _ in config.fields(CrawlConfig)}
    semantics = options.semantics()
    named = {option for option, _ in restart._typed(semantics, frozenset())}
    assert named <= known
    other = dataclasses.replace(
        options, lang="any", dedup="near", fetch=dataclasses.replace(options.fetch, opt_out=("xmp",)),
        text=dataclasses.replace(options.text, file_names=False), scorer=("a:B",), drop="drop.parquet",
    )  # fmt: skip
    assert [str(one) for one in restart.changes(semantics, other.semantics())] == [
        "--dedup exact -> near", "--drop off -> on", "--file-names on -> off", "--lang en -> any",
        f"--opt-out {' '.join(sorted(options.fetch.opt_out))} -> xmp", "--scorer none -> a:B",
    ]  # fmt: skip
    assert json.dumps(semantics)
    first = {"candidates": {**semantics["candidates"], "queries": "0123"}}
    again = {"candidates": {**semantics["candidates"], "queries": "4567"}}
    assert [str(one) for one in restart.changes(first, again)] == ["another --queries"], (
        "a digest tells nobody anything"
    )
