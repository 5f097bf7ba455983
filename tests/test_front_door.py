"""The first minutes with `openwit crawl`: plans, contacts, presets, empty runs, and private data."""

import http.server
import json
import threading
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import config, outcome, publishing, reasons, run_folder
from pipeline.checked_manifest import Counts
from pipeline.cli import main
from pipeline.options import CrawlConfig, presets
from pipeline.status import main as status
from pipeline.verify import main as verify
from tests.crawling import manifest, refused, rejected, samples
from tests.scenes import jpeg, scene

pytestmark = pytest.mark.timeout(600)

WORDS = ("red", "green", "blue", "yellow", "white", "brown", "small", "large", "old", "new")


class _Pictures(http.server.BaseHTTPRequestHandler):
    """Answer every path with a picture of its own; /same with one and the same."""

    protocol_version = "HTTP/1.1"
    agents: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.agents.append(self.headers.get("User-Agent", ""))
        missing = self.path == "/robots.txt" or self.path.startswith("/gone")
        seed = 0 if self.path.startswith("/same") else zlib.crc32(self.path.encode()) % 1000
        body = b"" if missing else jpeg(scene(seed, 48, 64))
        self.send_response(404 if missing else 200)
        self.send_header("Content-Type", "image/jpeg")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def pictures() -> Iterator[str]:
    """Serve pictures on loopback; yields the URL."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Pictures)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def write_list(path: Path, rows: Sequence[tuple[str | None, Any]]) -> Path:
    pq.write_table(pa.table({"url": [u for u, _ in rows], "caption": [c for _, c in rows]}), path)
    return path


def options(source: Path, out: Path, *more: str) -> list[str]:
    return ["--source", str(source), "--out", str(out), "--workers", "1", *more]


OPEN = ("--allow-network", "127.0.0.0/8")


# --- every row

EVERY_KIND: list[str | None] = [
    "a red boat on the sea", "IMG_2034.JPG", "DSC_0123", "f/2.8 1/250 ISO 400", "click to enlarge", "x",
    "ha ha ha ha ha ha ha ha", "Ein kleiner Hund im Garten", "少女と犬", "word " * 400, "y" * 9000,
    "https://example.org/a.jpg", "550e8400-e29b-41d4-a716-446655440000", "7", "", None, "   ", "&nbsp;",
    "stock photo", "Image may contain: dog", *["the same text"] * 30,
]  # fmt: skip


@pytest.mark.parametrize("how", [("--queries", "all"), ("--preset", "img2dataset")], ids=["all", "preset"])
def test_every_row_that_arrives_is_taken(pictures: str, tmp_path: Path, how: tuple[str, str]) -> None:
    rows = [(f"{pictures}/{index}.jpg", text) for index, text in enumerate(EVERY_KIND)]
    rows += [(f"{pictures}/same/{index}.jpg", f"{WORDS[index % 10]} thing {index}") for index in range(40)]
    rows += [(f"{pictures}/many.jpg", f"caption number {index}") for index in range(40)]
    out = tmp_path / "run"
    assert main(options(write_list(tmp_path / "a.parquet", rows), out, *how, *OPEN)) == 0
    assert rejected(out) == []
    found = samples(out)
    assert sum(len(row["captions"]) for row in found) == len(rows)
    assert len(found) == len({url for url, _ in rows}), "pictures of the same bytes are samples of their own"
    assert sum(row["captions"] == [""] for row in found) == 4
    assert verify(["--run", str(out)]) == 0


def test_rows_without_a_usable_url_are_rejected_with_a_reason(pictures: str, tmp_path: Path) -> None:
    rows = [(None, "no URL"), ("", "empty"), ("not a url", "words"), ("ftp://a.test/x.jpg", "ftp")]
    rows += [
        ("data:image/png;base64,AAAA", "inline"),
        (f"{pictures}/gone.jpg", "gone"),
        (f"{pictures}/a", "a"),
    ]
    out = tmp_path / "run"
    source = write_list(tmp_path / "a.parquet", rows)
    assert main(options(source, out, "--preset", "img2dataset", *OPEN)) == 0
    assert len(samples(out)) == 1
    assert manifest(out)["counts"]["candidates"] == len(rows)
    assert sum(row["candidates"] for row in rejected(out)) == len(rows) - 1


def test_what_is_typed_wins_over_a_preset(tmp_path: Path) -> None:
    def parsed(*argv: str) -> CrawlConfig:
        found, _ = config.parse(
            CrawlConfig, ["--source", "a", "--out", "b", *argv], prog="x crawl", implied=presets.implied
        )
        return found

    every = parsed("--queries", "all")
    for name, value in presets.EVERY_ROW.items():
        assert config.effective(every)[name] == value, name
    found = parsed("--preset", "img2dataset", "--min-words", "3", "--file-names", "--dedup", "exact")
    assert (found.queries, found.text.min_words, found.text.file_names, found.dedup) == (
        "all",
        3,
        True,
        "exact",
    )
    assert not found.text.boilerplate and found.images.quality == 95
    file = tmp_path / "c.toml"
    file.write_text('preset = "img2dataset"\nmin_words = 4\nquality = 80\n')
    found = parsed("--config", str(file), "--quality", "70")
    assert (found.text.min_words, found.images.quality, found.lang) == (4, 70, "any")
    assert parsed("--queries", "q.txt").lang == "en"


def test_a_preset_names_what_exists() -> None:
    known = {name for name, _ in config.fields(CrawlConfig)}
    for values in (presets.EVERY_ROW, *presets.PRESETS.values()):
        assert set(values) <= known
    assert not known & {*presets.IMG2DATASET.flags}, "else it would never be shown"
    with pytest.raises(ValueError, match="img2dataset"):
        presets.implied(["--preset", "img2datset"])


# --- before anything is written


def test_a_contact_is_asked_for_at_the_start(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    source = write_list(tmp_path / "a.parquet", [("http://127.0.0.1/a", "a"), ("https://example.org/b", "b")])
    argv = options(source, out, "--queries", "all")
    for more in ((), ("--check",), ("--allow-network", "127.0.0.0/8"), ("--stage", "all")):
        assert "--contact" in refused(capfd, [*argv, *more])
        assert not out.exists()
    assert main([*argv, "--check", "--contact", "a@example.org"]) == 0
    assert main([*argv, "--stage", "candidates"]) == 0, "nothing is fetched yet"
    own = write_list(tmp_path / "b.parquet", [("http://10.1.2.3/a", "a"), ("http://localhost/b", "b")])
    argv = options(own, tmp_path / "b", "--queries", "all", "--check")
    assert "--contact" in refused(capfd, argv)
    assert main([*argv, "--allow-network", "10.0.0.0/8"]) == 0


def test_check_is_a_plan(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = [
        (f"https://s{i % 7}.example.org/{i}", "a red boat" if i % 4 else "eine Katze im Haus")
        for i in range(400)
    ]
    table = pa.table({"ImgURL": [u for u, _ in rows], "TEXT": [c for _, c in rows], "n": list(range(400))})
    pq.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "q.txt").write_text("boat\n")
    out = tmp_path / "run"
    argv = options(tmp_path / "a.parquet", out, "--contact", "a@example.org", "--check")
    assert main([*argv, "--queries", str(tmp_path / "q.txt"), "--lang", "any"]) == 0
    shown = capfd.readouterr()
    assert "'ImgURL'" in shown.err and "'TEXT'" in shown.err and "400 rows" in shown.err
    assert "1 query" in shown.err and "75% of the first 400" in shown.err and "no_match 100" in shown.err
    assert "at most 300" in shown.err and "disk" in shown.err and "a@example.org" in shown.err
    assert "the busiest site has some 42 images" in shown.err or "images" in shown.err
    assert 'lang = "any"' in shown.out and "max_redirects" not in shown.out
    assert main([*argv, "--queries", "all"]) == 0
    shown = capfd.readouterr()
    assert "every row is wanted" in shown.err and "1 quer" not in shown.err
    assert "1099511627776" not in shown.out + shown.err
    assert not out.exists()


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--url_list", "a"], "--source"),
        (["--image_size", "64", "--encode_quality", "95"], "--quality"),
        (["--keep-columns", "n", "m"], "--keep-columns n --keep-columns m"),
        (["--queries", "/nowhere/q.txt"], "--queries /nowhere/q.txt: there is no such file"),
        (["--queries", "/"], "--queries / is a folder, where a file is needed"),
        (["--config", "/nowhere/c.toml"], "/nowhere/c.toml: there is no such file"),
        (["--config", "/"], "/ is a folder, where a file is needed"),
        (["--drop", "/nowhere/d.parquet"], "/nowhere/d.parquet: there is no such file"),
        (["--drop", "/"], "/ is a folder, where a file is needed"),
        (["--hash-list", "/"], "/ is a folder, where a file is needed"),
        (["--preset", "img2datset"], "img2dataset"),
    ],
)
def test_messages_say_what_to_type(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], argv: list[str], says: str
) -> None:
    source = write_list(tmp_path / "a.parquet", [("http://127.0.0.1/a", "a")])
    said = refused(capfd, [*options(source, tmp_path / "run", "--queries", "all"), *argv])
    assert says in said and "Traceback" not in said and "Errno" not in said


def test_what_is_required_is_named_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert refused(capfd, []).splitlines() == [
        "openwit crawl: error: --queries and --out are missing; `openwit crawl --help` has examples"
    ]
    assert "--out is missing" in refused(capfd, ["--preset", "img2dataset", "--source=a.parquet"])


def test_check_counts_rows_without_the_header(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text("url,caption\n" + "http://127.0.0.1/a,a\n" * 3)
    (tmp_path / "b.txt").write_text("http://127.0.0.1/a\n" * 5)
    (tmp_path / "c.csv").write_text("url,width\n" + "http://127.0.0.1/a,3\n" * 4)
    for name, says in (("a.csv", "3 rows"), ("b.txt", "5 rows"), ("c.csv", "4 rows")):
        argv = options(tmp_path / name, tmp_path / "run", "--preset", "img2dataset", "--check")
        assert main([*argv, "--allow-network", "127.0.0.0/8"]) == 0
        said = capfd.readouterr().err
        assert says in said and ("no captions" in said) is (name != "a.csv")
        assert ("--caption-col names one of 'width'" in said) is (name == "c.csv"), "the preset may be wrong"


def test_a_folder_below_a_file_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = write_list(tmp_path / "a.parquet", [("http://127.0.0.1/a", "a")])
    for out in (source, source / "run" / "deep"):
        assert "is a file, not a folder" in refused(capfd, options(source, out, "--queries", "all"))


# --- when nothing arrives


def test_an_empty_run_fails_and_says_what_to_do(
    pictures: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = write_list(tmp_path / "a.parquet", [(f"{pictures}/{i}", f"boat {i}") for i in range(20)])
    out = tmp_path / "run"
    argv = options(source, out, "--queries", "all")
    assert main(argv) == 1
    said = capfd.readouterr().err
    assert "20 of 20 candidates are address_blocked" in said and "--allow-network" in said
    assert main([*argv, *OPEN]) == 1, "what is finished is not begun anew unasked"
    assert main([*argv, *OPEN, "--restart"]) == 0
    assert len(samples(out)) == 20 and verify(["--run", str(out)]) == 0


def test_what_takes_most_of_a_stage_is_warned_of(
    pictures: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = [(f"{pictures}/{'gone/' if i % 3 else ''}{i}", f"{WORDS[i % 10]} boat {i}") for i in range(30)]
    source = write_list(tmp_path / "a.parquet", rows)
    assert main(options(source, tmp_path / "run", "--queries", "all", *OPEN)) == 0
    assert "67% of the rows that entered fetch are http_gone" in capfd.readouterr().err


def counts(number: int, **rejected: dict[str, int]) -> Counts:
    gone = sum(sum(stage.values()) for stage in rejected.values())
    left = number - gone
    return Counts(
        candidates=number, captions=left, samples=left, rejected=gone, rejected_by_stage=rejected
    )  # fmt: skip


def test_what_is_usual_for_pages_is_no_news() -> None:
    found = counts(100, candidates={"no_match": 80}, finish={"over_cap": 15})
    assert outcome.warnings(found, ["wat"]) == []
    assert len(outcome.warnings(found, ["parquet"])) == 1
    assert "no_match" in outcome.nothing(counts(5, candidates={"no_match": 5}))
    assert outcome.nothing(counts(5)) == "" and "no candidate" in outcome.nothing(counts(0))
    transient = outcome.nothing(counts(5, fetch={"dns_error": 5}))
    assert "--retry-failed" in transient and "--restart" not in transient


def test_remedies_are_of_reasons_and_of_options() -> None:
    known = {f"--{name.replace('_', '-')}" for name, _ in config.fields(CrawlConfig)}
    assert reasons.REMEDIES.keys() | reasons.USUAL_OF_PAGES <= reasons.REASONS.keys()
    for word in reasons.REASONS:
        text = reasons.remedy(word)
        flags = {part.strip("(),;:.?") for part in text.split() if part.startswith(("--", "(--"))}
        negated = {f"--{flag.removeprefix('--no-')}" if flag.startswith("--no-") else flag for flag in flags}
        assert negated <= known, text


# --- one stage after the other


def test_a_finished_stage_says_what_comes_next(
    pictures: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_list(tmp_path / "a.parquet", [(f"{pictures}/{i}", f"boat {i}") for i in range(5)])
    argv = options(source, tmp_path / "run", "--queries", "all", *OPEN)
    for stage, after in (("candidates", "select"), ("select", "fetch")):
        monkeypatch.setattr("sys.argv", ["openwit", "crawl", *argv, "--stage", stage])
        assert main([*argv, "--stage", stage]) == 0
        assert f"--stage {after}" in capfd.readouterr().err
        assert status(["--run", str(tmp_path / "run"), "--json"]) == 0
        found = json.loads(capfd.readouterr().out)
        assert found["state"] == "between stages" and f"--stage {after}" in found["command"]
        assert f"--stage {stage}" not in found["command"]
    assert status(["--run", str(tmp_path / "run")]) == 0
    said = capfd.readouterr().out
    assert "done: candidates, select" in said and "--stage fetch" in said
    assert main(argv) == 0


# --- published files


SECRET = "X-Amz-Credential=AKIASECRET&X-Amz-Signature=deadbeef&X-Amz-Date=20260101T000000Z"


def test_signatures_and_contacts_are_in_no_published_file(pictures: str, tmp_path: Path) -> None:
    folder = tmp_path / "lists"
    folder.mkdir()
    write_list(folder / "a.parquet", [(f"{pictures}/{i}", f"{WORDS[i]} boat {i}") for i in range(10)])
    handler = type("H", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0),
        lambda *a, **k: handler(*a, directory=str(folder), **k),
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    out = tmp_path / "run"
    address = f"http://127.0.0.1:{server.server_port}/a.parquet"
    try:
        argv = [
            "--out", str(out), "--workers", "1", "--queries", "all", "--contact", "private@example.org",
            *OPEN,
        ]  # fmt: skip
        assert main([*argv, "--source", f"{address}?{SECRET}"]) == 0
        found = config.parse(CrawlConfig, ["--config", str(out / "config.toml")], prog="x crawl")[0]
        assert found.source == (address,) and found.fetch.contact == ""
        assert (
            "--contact" in (out / "config.toml").read_text()
            and "--source" in (out / "config.toml").read_text()
        )
        again = SECRET.replace("deadbeef", "cafecafe").replace("0101", "0202")
        assert main([*argv, "--source", f"{address}?{again}"]) == 0, "signed anew, it is the same source"
    finally:
        server.shutdown()
    published = [
        path for path in out.rglob("*") if path.is_file() and "work" not in path.relative_to(out).parts
    ]
    assert {"README.md", "croissant.json", "manifest.json", "config.toml", "index.html"} <= {
        path.name for path in published
    }
    for path in published:
        data = path.read_bytes()
        for word in (b"AKIASECRET", b"deadbeef", b"cafecafe", b"private@example.org"):
            assert word not in data, (path, word)
    assert any("private@example.org" in agent for agent in _Pictures.agents), "hosts are told"
    assert b"AKIASECRET" not in (out / "work" / "candidates" / "inputs.list").read_bytes()


def test_a_contact_is_published_where_that_is_asked_for(pictures: str, tmp_path: Path) -> None:
    source = write_list(tmp_path / "a.parquet", [(f"{pictures}/{i}", f"boat {i}") for i in range(3)])
    argv = options(source, tmp_path / "run", "--queries", "all", *OPEN, "--contact", "team@example.org")
    assert main([*argv, "--publish-contact"]) == 0
    assert "Write to team@example.org" in (tmp_path / "run" / "README.md").read_text()


def test_what_signs_a_request_is_known_by_its_name() -> None:
    base = "https://h.test/a.parquet"
    for signed in (
        SECRET, "sig=abc&se=2026&sp=r&sv=2024-01-01", "Expires=1&Signature=x&Key-Pair-Id=k", "token=t",
        "X-Goog-Signature=aa&X-Goog-Credential=b",
    ):  # fmt: skip
        assert publishing.unsigned(f"{base}?{signed}") == base
        assert publishing.unsigned(f"{base}?part=2&{signed}") == f"{base}?part=2"
        assert publishing.public(f"@{base}?{signed}") == f"@{base}"
    assert publishing.unsigned(f"{base}?a=1") != publishing.unsigned(f"{base}?a=2")
    assert publishing.public("data/what?[x].parquet") == "data/what?[x].parquet"
    assert run_folder.Layout("r").config == "r/config.toml"
