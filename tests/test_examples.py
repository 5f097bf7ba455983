"""The examples run in turn in one folder, and the notebooks show their output."""

import contextlib
import io
import json
import re
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ("own_list.ipynb", "overlap_audit.ipynb")
SCRIPTS = ("match_and_balance.py", "train_loop.py")


def cells(name: str) -> list[dict[str, Any]]:
    """Return a notebook's cells of code."""
    found = json.loads((ROOT / "examples" / name).read_text())["cells"]
    return [cell for cell in found if cell["cell_type"] == "code"]


def printed(cell: dict[str, Any]) -> str:
    """Return the output of a cell, as stored."""
    streams = (one for one in cell["outputs"] if one["output_type"] == "stream" and one["name"] == "stdout")
    return "".join("".join(one["text"]) for one in streams)


def test_every_example_is_in_the_list_and_the_notebooks_were_executed() -> None:
    listed = re.findall(r"^\| \[([\w.]+)\]", (ROOT / "examples" / "README.md").read_text(), re.MULTILINE)
    assert listed == [*NOTEBOOKS, *SCRIPTS]
    for name in NOTEBOOKS:
        assert [cell["execution_count"] for cell in cells(name)] == list(range(1, len(cells(name)) + 1))
        assert not any(one["output_type"] == "error" for cell in cells(name) for one in cell["outputs"])
        assert (ROOT / "examples" / name).stat().st_size < 200_000


@pytest.mark.slow
def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))
    for name in NOTEBOOKS:
        names: dict[str, object] = {"__name__": "notebook"}
        for cell in cells(name):
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                exec("".join(cell["source"]), names)
            assert said.getvalue() == printed(cell), f"{name} prints something else than it shows"
    for name in SCRIPTS:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            runpy.run_path(str(place / name), run_name="__main__")
        assert said.getvalue()
    assert "seen twice: 0" in said.getvalue()
