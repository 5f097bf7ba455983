"""The C modules under gcc's sanitizers of addresses and undefined behaviour; `make fuzz` tries far more."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests import fuzzing

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(path for top in ("pipeline", "dedup") for path in (ROOT / top).rglob("*.c"))
ROUNDS = 50

pytestmark = pytest.mark.timeout(0 if fuzzing.SCALE > 1 else 600)


def sanitizer() -> str:
    """Return the path of gcc's AddressSanitizer, or skip."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc")
    asked = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    if not Path(asked.stdout.strip()).is_absolute():
        pytest.skip("gcc without AddressSanitizer")
    return asked.stdout.strip()


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_module_survives_hostile_input(source: Path, tmp_path: Path) -> None:
    preloaded, built = sanitizer(), tmp_path / f"{source.stem}.so"
    flags = [
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
        "-fno-omit-frame-pointer",
        "-g",
        "-O1",
    ]
    include = f"-I{sysconfig.get_path('include')}"
    command = ["gcc", *flags, "-shared", "-fPIC", include, str(source), "-o", str(built)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "Python.h" in done.stderr:
        pytest.skip("no headers of Python")
    assert done.returncode == 0, done.stderr
    # Python frees little when it ends, and its own allocator would hide a module's faults in memory.
    variables = {"LD_PRELOAD": preloaded, "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.sanitized", str(built), str(ROUNDS * fuzzing.SCALE)],
        cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"{ROUNDS * fuzzing.SCALE} rounds" in done.stdout
