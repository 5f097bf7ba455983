"""The command: --check, the table, exit codes, usage errors."""

import bz2
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from queries.cli import main
from tests.queries_dump import Written, plain
from tests.test_queries_wordnet import write_wordnet

pytest.importorskip("apache_beam")


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    path = tmp_path / "x-pages-articles.xml.bz2"
    path.write_bytes(bz2.compress(plain([Written("A", "the red fox and the red hen " * 9)])))
    return path


def test_check_writes_nothing(tmp_path: Path, dump: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out" / "q.parquet"
    assert main(["--wikipedia", str(dump), "--out", str(out), "--check"]) == 0
    shown = capfd.readouterr()
    assert "1 of Wikipedia in 1 pieces" in " ".join(shown.err.split())
    assert "min_count = 100" in shown.out
    assert not out.parent.exists()


def test_a_complete_list_is_exit_code_0_and_a_second_run_only_shows_it(
    tmp_path: Path, dump: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wordnet").mkdir()
    out = tmp_path / "out" / "q.parquet"
    options = [
        "--wikipedia",
        str(dump),
        "--wordnet",
        str(write_wordnet(tmp_path / "wordnet")),
        "--out",
        str(out),
    ]
    options += ["--min-count", "5", "--min-bigram-count", "5", "--size", "12"]
    assert main(options) == 0
    shown = capfd.readouterr().out
    assert "WordNet synsets" in shown
    assert "q_report.html" in shown
    assert pq.read_table(out)["query"].to_pylist()[:2] == ["red", "the"]
    written = out.stat().st_mtime_ns
    assert main(options) == 0
    assert out.stat().st_mtime_ns == written


def test_a_damaged_dump_gives_a_list_and_exit_code_1(
    tmp_path: Path, dump: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = Written("A", "the red fox and the red hen " * 9)
    plain_dump = tmp_path / "y.xml"
    plain_dump.write_bytes(plain([whole, Written("B", "cut")])[:-60])
    out = tmp_path / "q.parquet"
    assert main(["--wikipedia", str(plain_dump), "--min-count", "5", "--out", str(out)]) == 1
    assert "the last page is cut off" in capfd.readouterr().out
    assert "red" in pq.read_table(out)["query"].to_pylist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "q.parquet"], "no source"),
        (["--out", "q.parquet", "--wordnet", "/no/such/folder"], "does not exist"),
        (["--out", "q.parquet", "--min-cuont", "3", "--extra", "x"], "min-count"),
        (["--out", "q.parquet", "--wikipedia", "/no/such/*.bz2"], "matches no file"),
    ],
)
def test_usage_errors_are_exit_code_2(
    options: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(options)
    assert stopped.value.code == 2
    assert message in capfd.readouterr().err
