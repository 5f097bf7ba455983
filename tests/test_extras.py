"""A missing package is named, with the line that installs it: at the start, and deep inside the work."""

import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

import pytest

import beam_job
from pipeline import extras
from pipeline.cli_runtime import guarded
from pipeline.terminal import terminal
from tests import finished_run

ROOT: Final = Path(__file__).resolve().parents[1]
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OPTIONAL: Final = {
    extra: [re.split(r"[>=<; ]", requirement)[0] for requirement in requirements]
    for extra, requirements in PROJECT["optional-dependencies"].items()
    if extra not in ("docs", "test", "all")
}
HIDDEN: Final = sorted(
    {extras.import_name(name.split("[")[0]) for names in OPTIONAL.values() for name in names}
)
HIDE: Final = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
hidden = set(sys.argv[1].split(","))
sys.meta_path.insert(0, Hide())
import beam_job
"""
EACH: Final = """
import contextlib, io, json
found = {}
for argv in json.loads(sys.argv[2]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try: code = beam_job.main(argv)
        except SystemExit as stop: code = stop.code
    found[" ".join(argv)] = code, out.getvalue(), err.getvalue()
print(json.dumps(found))
"""


def without(hidden: list[str], *commands: list[str]) -> dict[str, tuple[int, str, str]]:
    """Return exit code, standard output and error of commands where some modules cannot be imported."""
    done = subprocess.run(
        [sys.executable, "-c", HIDE + EACH, ",".join(hidden), json.dumps(commands)],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {name: tuple(said) for name, said in json.loads(done.stdout.splitlines()[-1]).items()}


def test_every_package_of_the_extras_is_known_by_its_module() -> None:
    for extra, names in OPTIONAL.items():
        if extra in ("nsfw", "iscc", "search") and not any(map(extras.is_installed, names)):
            continue  # that an environment made before it was declared lacks
        for name in names:
            assert extras.is_installed(name.split("[")[0]), name


def test_the_extras_are_those_of_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = [
        f"{requirement.partition(';')[0].strip()}; extra == '{extra}'"
        for extra, requirements in PROJECT["optional-dependencies"].items()
        for requirement in requirements
    ]
    declared += ["rich>=14", "uvloop>=0.21; (sys_platform != 'win32') and extra == 'crawl'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: declared)
    extras.packages.cache_clear()
    try:
        found = extras.packages()
    finally:
        extras.packages.cache_clear()
    assert {extra: set(found[extra]) for extra in OPTIONAL} == {
        e: set(names) for e, names in OPTIONAL.items()
    }
    assert set(found["all"]) == {name for e in ("crawl", "overlap", "train") for name in OPTIONAL[e]}
    assert "rich" not in {name for names in found.values() for name in names}


def test_the_core_explains_every_command() -> None:
    commands = [[name, "--help"] for name in beam_job.COMMANDS]
    commands += [
        ["detector", "train", "--help"],
        ["detector", "embed", "--help"],
        ["help", "crawl"],
        ["help"],
    ]
    for name, (code, out, err) in without(HIDDEN, *commands).items():
        assert (code, err) == (0, ""), name
        assert "usage: openwit" in out, name


def test_the_core_says_what_else_a_command_needs() -> None:
    found = without(HIDDEN, *([name, "--anything", "x"] for name in beam_job.COMMANDS))
    for name, (module, _, _, needed) in beam_job.COMMANDS.items():
        code, _, err = found[f"{name} --anything x"]
        assert code == 2
        if needed:
            assert re.fullmatch(rf"openwit {name} needs [\w-]+: pip install 'openwit\[{needed}\]'\n", err), (
                module
            )
        else:
            assert "--anything" in err


def test_the_core_reads_runs_and_plans(tmp_path: Path) -> None:
    """The figures of these on a real run are checked in .ci/installs.py, whose core has nothing else."""
    run = finished_run.build(tmp_path / "run", ["a dog"]).root
    planned = ["plan", "--pairs", "1e6", "--workers", "4", "--cores", "4"]
    found = without(
        HIDDEN, ["status", "--run", run], ["verify", "--run", run], planned,
        ["verify", "--run", "s3://bucket/run"], ["status", "--run", "gs://bucket/run"],
    )  # fmt: skip
    status, verify, plan, s3, gcp = found.values()
    assert status[0] == plan[0] == 0, found
    assert "needs" not in verify[2] and "Traceback" not in verify[2]
    assert (s3[0], s3[2]) == (2, "openwit verify needs s3fs: pip install 'openwit[s3]'\n")
    assert (gcp[0], gcp[2]) == (2, "openwit status needs gcsfs: pip install 'openwit[gcp]'\n")


def test_crawl_alone_names_what_measuring_needs() -> None:
    hidden = sorted({extras.import_name(n) for e in ("overlap", "train") for n in OPTIONAL[e]}
                    - {extras.import_name(n) for n in OPTIONAL["crawl"]})  # fmt: skip
    found = without(hidden, ["overlap", "--run", "r"], ["eval", "--checkpoint", "c"], ["demo", "--out", "d"])
    for err, line in zip([err for _, _, err in found.values()], [
        r"openwit overlap needs [\w-]+: pip install 'openwit\[overlap\]'\n",
        r"openwit eval needs [\w-]+: pip install 'openwit\[train\]'\n",
        r"openwit demo needs [\w-]+: pip install 'openwit\[all\]'\n",
    ], strict=True):  # fmt: skip
        assert re.fullmatch(line, err)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            ModuleNotFoundError("No module named 'datasketch.b_bit'", name="datasketch.b_bit"),
            "needs datasketch: pip install 'openwit[overlap]'",
        ),
        (ImportError("Install s3fs to access S3"), "needs s3fs: pip install 'openwit[s3]'"),
        (
            RuntimeError("in a worker\nModuleNotFoundError: No module named 'cv2'\n"),
            "needs opencv-python-headless: pip install 'openwit[overlap]'",
        ),
        (
            ImportError("Google Cloud runner not available, please install apache_beam[gcp]"),
            "needs apache-beam[gcp]: pip install 'openwit[gcp]'",
        ),
        (ModuleNotFoundError("No module named 'their_scorer'", name="their_scorer"), ""),
        (ModuleNotFoundError("No module named 'pipeline.nowhere'", name="pipeline.nowhere"), ""),
        (RuntimeError("the word torch alone"), ""),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_failure_inside_the_work_names_the_package(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    error: Exception,
    says: str,
) -> None:
    assert extras.advice("openwit crawl", error) == (f"openwit crawl {says}\n" if "apache" in says else ""), (
        "what is installed is not the cause"
    )
    monkeypatch.setattr(extras, "is_installed", lambda package: False)

    def action() -> int:
        raise error

    code = guarded("openwit crawl", terminal(), str(tmp_path), action)
    said = capfd.readouterr().err
    if says:
        assert (code, said) == (2, f"openwit crawl {says}\n")
    else:
        assert code == 1 and "failed" in said and "pip install" not in said
