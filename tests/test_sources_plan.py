"""Planning: formats by name, lists, globs, folders of HTML, errors that help; real downloads."""

import gzip
import io
import itertools
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, cast

import pytest

from pipeline.options.sources import format_of
from pipeline.sources import Image, Piece, SourceOptions, plan, read
from pipeline.sources.inputs import download
from pipeline.sources.plan import page_url

LINE = b'{"url": "http://example.com/%d.jpg", "caption": "c"}\n'


def paths(pieces: list[Piece]) -> list[str]:
    return [Path(piece.path).name for piece in pieces]


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("CC-MAIN-1.warc.wat.gz", "wat"),
        ("x.WARC.GZ", "warc"),
        ("x.warc.zst", "warc"),
        ("part-0.parquet", "parquet"),
        ("x.csv.gz", "csv"),
        ("x.ndjson", "jsonl"),
        ("https://example.com/a/x.tsv.gz?sig=1.csv", "tsv"),
        ("x.gz", None),
        ("x.json", None),
    ],
)
def test_the_name_tells_the_format(name: str, format: str | None) -> None:
    assert format_of(name) == format


def test_sources_keep_their_order_globs_are_sorted_and_nothing_is_read_twice(tmp_path: Path) -> None:
    for i in (2, 1, 3):
        (tmp_path / f"{i}.jsonl").write_bytes(LINE % i)
    (tmp_path / "0.jsonl").write_bytes(b"")  # empty: no piece
    pieces = plan([str(tmp_path / "3.jsonl"), str(tmp_path / "*.jsonl")], SourceOptions())
    assert paths(pieces) == ["3.jsonl", "1.jsonl", "2.jsonl"]
    assert [p.source for p in pieces] == ["3.jsonl", "1.jsonl", "2.jsonl"]
    assert all(isinstance(value, str | int) for piece in pieces for value in piece)


def test_lists_give_a_path_a_line_with_the_prefix(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINE % 1)
    (tmp_path / "b.jsonl").write_bytes(LINE % 2)
    listing = b"\n# comment\n b.jsonl \r\na.jsonl\n"
    (tmp_path / "paths").write_bytes(listing)
    (tmp_path / "paths.gz").write_bytes(gzip.compress(listing))
    for name in ("paths", "paths.gz"):
        options = SourceOptions(source_prefix=f"{tmp_path}/")
        assert paths(plan([f"@{tmp_path / name}"], options)) == ["b.jsonl", "a.jsonl"]
    options = SourceOptions(source_prefix="https://data.example/", source_format="wat")
    assert [p.path for p in plan([f"@{tmp_path / 'paths'}"], options)] == [
        "https://data.example/b.jsonl",
        "https://data.example/a.jsonl",
    ]


@pytest.mark.parametrize(
    ("sources", "options", "message"),
    [
        (["none.jsonl"], {}, "no such file"),
        (["none*.jsonl"], {}, "matches nothing"),
        (["x.bin"], {}, "--source-format"),
        (["@none"], {}, "no such list"),
        (["empty.jsonl"], {}, "nothing to read"),
        (["pages"], {}, "--base-url"),
        (["."], {"base_url": "http://x.y"}, "--source-format"),
        (["."], {"source_format": "parquet"}, "no parquet files"),
        (["@x.bin"], {}, "not text"),
    ],
)
def test_errors_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sources: list[str], options: dict[str, str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.bin").write_bytes(b"\xff\xfe")
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "pages").mkdir()
    with pytest.raises(ValueError, match=message):
        plan(sources, SourceOptions(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"source_format": "xml"}, {"piece_bytes": 0}, {"base_url": "ftp://x"}])
def test_options_are_validated(tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        plan([str(tmp_path)], SourceOptions(**options))  # type: ignore[arg-type]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    for name in ("b.html", "a b/ü?#.HTM", "a b/c/d.xhtml", "e.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("<img src=i.jpg>")
    return folder


def test_a_folder_of_html_has_the_urls_it_was_served_under(site: Path) -> None:
    options = SourceOptions(base_url="http://example.com/root/")
    expected = [
        Image("http://example.com/root/a%20b/i.jpg", (), "http://example.com/root/a%20b/c/d.xhtml"),
        Image("http://example.com/root/a%20b/i.jpg", (), "http://example.com/root/a%20b/%C3%BC%3F%23.HTM"),
        Image("http://example.com/root/i.jpg", (), "http://example.com/root/b.html"),
    ]
    expected[0] = expected[0]._replace(url="http://example.com/root/a%20b/c/i.jpg")
    for size, count in ((1, 3), (30, 2), (1 << 20, 1)):
        cut = SourceOptions(base_url=options.base_url, piece_bytes=size)
        pieces = plan([str(site)], cut)
        assert len(pieces) == count
        assert [image for piece in pieces for image in read(piece, cut)] == expected
    (piece,) = plan([str(site / "b.html")], options)
    assert list(read(piece, options)) == expected[2:]
    (piece,) = plan([f"{site}/**/*.xhtml"], options)
    assert [image.page_url for image in read(piece, options)] == [
        page_url("http://example.com/root", "a b/c/d.xhtml")
    ]


def test_a_missing_file_is_an_error_of_the_piece_not_a_bad_record(tmp_path: Path) -> None:
    for format in ("wat", "warc", "jsonl", "csv", "parquet"):
        with pytest.raises(OSError):
            list(read(Piece(format, str(tmp_path / "gone"), 0, -1, "", "gone"), SourceOptions()))


class Flaky(ThreadingHTTPServer):
    """Answer each request with the next of `script`: a status, headers and a body."""

    script: Iterator[tuple[int, dict[str, str], bytes]]
    seen: int = 0


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = cast(Flaky, self.server)
        server.seen += 1
        status, headers, body = next(server.script)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Flaky]:
    with Flaky(("127.0.0.1", 0), Answer) as flaky:
        thread = threading.Thread(target=flaky.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield flaky
        flaky.shutdown()
        thread.join()


def fetch(server: Flaky, name: str = "x") -> tuple[bytes, list[float]]:
    waits: list[float] = []
    sink = io.BytesIO()
    download(f"http://127.0.0.1:{server.server_port}/{name}", cast(IO[bytes], sink), waits.append)
    return sink.getvalue(), waits


def test_a_busy_server_is_asked_again_after_what_it_says(server: Flaky) -> None:
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 100))
    script = [(503, {}, b"busy" * 99), (503, {"Retry-After": "7"}, b""), (429, {"Retry-After": date}, b"")]
    script += [(403, {"Retry-After": "99999"}, b""), (500, {"Retry-After": "soon"}, b""), (200, {}, b"data")]
    server.script = iter(script)
    data, waits = fetch(server)
    assert data == b"data"
    assert waits[:2] == [1.0, 7.0]
    assert 90 < waits[2] <= 100
    assert waits[3:] == [300.0, 16.0]


def test_a_short_answer_is_not_taken_for_the_file(server: Flaky) -> None:
    server.script = iter([(200, {"Content-Length": "99"}, b"short"), (200, {}, b"whole")])
    assert fetch(server) == (b"whole", [1.0])


def test_tries_are_bounded_and_some_statuses_are_final(server: Flaky) -> None:
    server.script = itertools.repeat((503, {}, b""))
    with pytest.raises(OSError, match="gave up after 8 tries"):
        fetch(server)
    assert server.seen == 8
    server.script = itertools.repeat((404, {}, b""))
    with pytest.raises(OSError, match="404"):
        fetch(server)
    assert server.seen == 9


def test_sources_of_the_web_are_downloaded_and_read(server: Flaky) -> None:
    base = f"http://127.0.0.1:{server.server_port}/"
    rows = gzip.compress(LINE % 1 + LINE % 2)
    server.script = iter(
        [(200, {}, gzip.compress(b"part.jsonl.gz\n")), (503, {"Retry-After": "0"}, b""), (200, {}, rows)]
    )
    options = SourceOptions(source_prefix=base)
    pieces = plan([f"@{base}paths.gz"], options)
    assert pieces == [Piece("jsonl", f"{base}part.jsonl.gz", 0, -1, "", "part.jsonl.gz")]
    assert [i.url for i in read(pieces[0], options)] == [
        "http://example.com/1.jpg",
        "http://example.com/2.jpg",
    ]
    server.script = iter([(200, {}, b"<img src=/i.jpg>")])
    (piece,) = plan([f"{base}index.html"], options)
    assert [(i.url, i.page_url) for i in read(piece, options)] == [(f"{base}i.jpg", f"{base}index.html")]
