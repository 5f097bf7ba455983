"""Parts: they come back as they were, move with their run, and say which tables have a column."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, NamedTuple

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import run_folder, storage
from pipeline.flow import markers, parts
from pipeline.flow.parts import Blob, Counted, File, Part
from pipeline.run_folder import Layout
from pipeline.stages import Finished
from pipeline.takedown.cli import main as takedown
from pipeline.tombstones import PENDING

PICTURES = pa.schema([("uid", pa.string()), ("url", pa.string())])
NUMBERS = pa.schema([("n", pa.int64())])


class Span(NamedTuple):
    """Fields only."""

    first: int
    last: int


@dataclass(frozen=True, kw_only=True)
class Leaf(Part):
    """A part of all that parts are made of."""

    path: Annotated[str, File(PICTURES)]
    share: float
    reasons: dict[str, int]
    span: Span
    said: tuple[str, str] | None


@dataclass(frozen=True, kw_only=True)
class Branch(Counted):
    """A part of parts."""

    leaves: tuple[Leaf, ...]
    one: Leaf | None
    numbers: tuple[Annotated[str, File(NUMBERS)], ...]
    maybe: Blob = ""


names = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=9).filter(
    lambda name: name not in (".", "..") and "://" not in name
)
paths = st.lists(names, min_size=1, max_size=3).map(lambda words: "run/work/" + "/".join(words))
leaves = st.builds(
    Leaf, name=names, path=paths, share=st.floats(allow_nan=False, allow_infinity=False),
    reasons=st.dictionaries(st.text(max_size=5), st.integers(0, 2**50), max_size=3),
    span=st.builds(Span, st.integers(0, 9), st.integers(0, 9)),
    said=st.none() | st.tuples(st.text(max_size=3), st.text(max_size=3)),
)  # fmt: skip
branches = st.builds(
    Branch, name=names, counts=paths, leaves=st.lists(leaves, max_size=3).map(tuple),
    one=st.none() | leaves, numbers=st.lists(paths, max_size=2).map(tuple), maybe=st.just("") | paths,
)  # fmt: skip


@given(branches)
def test_a_part_comes_back_and_moves_with_its_run(branch: Branch) -> None:
    line = markers.dump(branch, "run/work/fetch")
    assert markers.load(line, "run/work/fetch") == branch
    assert json.loads(line)["kind"] == "tests.test_parts.Branch" and "run/work" not in line
    for place in ("/elsewhere", "s3://bucket/of"):
        moved = markers.load(line, f"{place}/run/work/fetch")
        assert [path for path, _ in parts.files(moved)] == [
            f"{place}/{path}" for path, _ in parts.files(branch)
        ]
        assert markers.dump(moved, f"{place}/run/work/fetch") == line


def leaf(path: str) -> Leaf:
    return Leaf(name="leaf", path=path, share=0.5, reasons={"": 1}, span=Span(0, 1), said=None)


def test_tables_are_asked_for_by_column() -> None:
    branch = Branch(
        name="b", counts="run/c", leaves=(leaf("run/1"), leaf("run/2")), one=leaf("run/3"), numbers=("run/n",)
    )
    assert list(parts.tables(branch, "url", "page_url")) == ["run/1", "run/2", "run/3"]
    assert list(parts.tables(branch, "n")) == ["run/n"] and not list(parts.tables(branch, "caption"))
    assert {path for path, _ in parts.files(branch)} == {"run/c", "run/1", "run/2", "run/3", "run/n"}


def test_a_path_on_another_file_system_stays() -> None:
    for path in ("s3://bucket/a.parquet", "/data/a.parquet"):
        for folder in ("gs://other/run/work", "s3://bucket/run", "/runs/1/work"):
            assert storage.absolute(storage.relative(path, folder), folder) == path


@pytest.mark.parametrize(
    "damage",
    [{"kind": "tests.test_parts.Other"}, {"kind": "os.parts.X"}, {"kind": 7}, {"share": "x"}, {"more": 1}],
)
def test_what_is_no_part_of_this_version_is_refused(damage: dict[str, object]) -> None:
    value = {**parts.encode(leaf("run/1"), "run"), **damage}
    if damage == {"more": 1}:  # a later version may say more
        assert parts.decode(value, "run") == leaf("run/1")
        return
    with pytest.raises(ValueError, match=r"run.*(another version of openwit|a damaged Leaf)"):
        parts.decode(value, "run")


def test_the_first_writer_of_a_marker_wins(tmp_path: Path) -> None:
    first = leaf(str(tmp_path / "a"))
    assert markers.commit(str(tmp_path), first) == first
    assert markers.commit(str(tmp_path), replace(first, share=1.0)) == first
    assert markers.finished(str(tmp_path)) == {"leaf": first}


def test_a_run_of_another_version_says_what_to_do(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    layout = Layout(str(tmp_path / "run"))
    run_folder.finish_stage(layout, Finished(samples=0, captions=0))
    old = {"name": "000000", "rows": 3, "rejected": {}}
    storage.write_bytes(layout.stage("candidates", "000000.json"), json.dumps(old).encode())
    with pytest.raises(SystemExit):
        takedown(["--run", layout.root, "--url", "https://a.test/x.jpg"])
    said = " ".join(capfd.readouterr().err.split())
    assert "written by another version of openwit" in said and "remove that folder" in said
    assert not storage.exists(storage.join(layout.root, PENDING)), "before anything is written down"
