"""Paths: a file is found beside another by one function, whatever its folder is called."""

import ast
import json
import re
from pathlib import Path
from typing import Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline import storage
from pipeline.cli import main
from pipeline.compact import main as compact
from pipeline.demo.server import Server
from pipeline.plan.yields import of_run
from pipeline.status import main as status
from pipeline.takedown.cli import main as takedown
from pipeline.verify import main as verify
from tests.crawling import arguments, contents, crawl, samples

ROOT: Final = Path(__file__).resolve().parents[1]
SOURCES: Final = sorted(
    path
    for folder in ("openwit", "pipeline", "queries", "dedup", "train")
    for path in (ROOT / folder).rglob("*.py")
)
ENDING: Final = re.compile(r"\\?\.[a-z][a-z0-9_]*(\.[a-z0-9]+)*\$?")
"""The endings of a file's name, as a string or a pattern in the code."""
EDITS: Final = frozenset(
    ("replace", "removesuffix", "rstrip", "strip", "sub", "split", "rsplit", "partition", "rpartition")
)
ALLOWED: Final = {
    ("pipeline/sources/sitemap.py", ".gz"): "asks for the kind of a URL; no path is made of it",
}
NASTY: Final = "coyo.parquet.tar.json.work/range-0/round-0@1 [x] #50%/merged-1.rejected.parquet.run"


@pytest.fixture(scope="module")
def web(small_web: Server) -> Server:
    return small_web


def endings_edited(source: str) -> set[str]:
    """Return the endings that code takes off, or replaces in, a string."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    edits = [c for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr in EDITS]
    texts = [arg.value for call in edits for arg in call.args if isinstance(arg, ast.Constant)]
    return {text for text in texts if isinstance(text, str) and ENDING.fullmatch(text)}


def test_no_path_is_made_by_editing_the_text_of_another() -> None:
    found = {
        (path.relative_to(ROOT).as_posix(), ending)
        for path in SOURCES
        for ending in endings_edited(path.read_text())
    }
    assert found - ALLOWED.keys() == set(), "storage.stem and storage.sibling are for that"
    assert ALLOWED.keys() <= found, "an exception that is needed no more"


@pytest.mark.parametrize(
    "line",
    [
        "p.replace('.parquet', '.rejected.parquet')",
        "f\"{p.removesuffix('.tar')}.json\"",
        "re.sub(r'\\.tar$', '.json', p)",
        "p.split('.tar')[0]",
    ],
)
def test_the_search_of_the_code_finds_what_it_is_for(line: str) -> None:
    assert endings_edited(line)


names = st.text("ab.-@ ", min_size=1).filter(lambda name: name.strip(". ") != "")


@given(
    folder=st.lists(names, max_size=3),
    stem=st.text("ab0-_", min_size=1),
    scheme=st.sampled_from(["", "s3://b/"]),
)
@example(folder=["runs", "coyo.parquet.run"], stem="00000", scheme="")
def test_siblings_share_folder_and_stem(folder: list[str], stem: str, scheme: str) -> None:
    where = scheme + "/".join(folder)
    path = storage.join(where, f"{stem}.parquet") if where else f"{stem}.parquet"
    assert storage.stem(path) == stem
    for ending in (".rejected.parquet", ".tar", "_stats.json", ".counts"):
        beside = storage.sibling(path, ending)
        assert beside == path[: -len(".parquet")] + ending
    assert storage.sibling(storage.sibling(path, ".tar"), ".parquet") == path


def test_a_folder_may_be_called_like_what_lies_in_it(
    web: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Crawl, continue, retry, take down, compact, verify and plan under the worst of names."""
    out = tmp_path / NASTY
    options = ("--per-query", "6", "--headroom", "1", "--rounds", "2", "--workers", "1")
    plain = crawl(web.web, tmp_path / "run", *options)
    crawl(web.web, out, *options)
    assert contents(out) == contents(plain)
    # The moments of fetching take more room or less.
    assert abs(of_run(str(out)).stored_bytes - of_run(str(plain)).stored_bytes) < 1000
    assert main([*arguments(web.web, out, *options), "--retry-failed"]) == 0
    assert verify(["--run", str(out)]) == 0
    url = samples(out)[0]["url"]
    assert takedown(["--run", str(out), "--url", url]) == 0
    assert url not in {row["url"] for row in samples(out)}
    assert verify(["--run", str(out)]) == 0
    assert compact(["--run", str(out), "--out", str(out.parent / "00000.tar.parquet")]) == 0
    capsys.readouterr()
    assert status(["--run", str(out), "--json"]) == 0
    steps = {step["step"]: step for step in json.loads(capsys.readouterr().out)["steps"]}
    assert steps["fetch, round 0"]["tasks"] > 0, "the markers are read"
