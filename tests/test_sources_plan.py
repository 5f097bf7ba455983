"""Planning: formats by name, lists, globs, folders of HTML, errors that help; real downloads."""

import contextlib
import gzip
import io
import itertools
import socketserver
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.http import named
from pipeline.http.named import download
from pipeline.options import FetchOptions
from pipeline.options.sources import format_of
from pipeline.sources import Image, Piece, SourceOptions, plan, read
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


# Redirects, rates and sizes: by the crawl's policy, for any source of the URL.


@pytest.fixture(autouse=True)
def no_policy() -> Iterator[None]:
    named.configure(None)
    yield
    named.configure(None)


class Elsewhere(Flaky):
    """A server at another address of this machine, which must not be asked."""


@pytest.fixture
def elsewhere() -> Iterator[Flaky]:
    with Elsewhere(("127.5.0.9", 0), Answer) as secret:
        secret.script = itertools.repeat((200, {}, LINE % 9))
        thread = threading.Thread(target=secret.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield secret
        secret.shutdown()
        thread.join()


OPEN = FetchOptions(allow_network=("127.0.0.1/32",), read_timeout=0.5, min_rate=1000)


@pytest.mark.parametrize("options", [OPEN, None])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_where_the_policy_does_not_lead_is_not_followed(
    server: Flaky, elsewhere: Flaky, options: FetchOptions | None, status: int
) -> None:
    """With a crawl's options, and for commands that have none and trust the address that was named."""
    named.configure(options)
    base = f"http://127.0.0.1:{server.server_port}"
    targets = [
        f"http://127.5.0.9:{elsewhere.server_port}/list.jsonl", "http://169.254.169.254/", "http://10.0.0.1/",
        "ftp://127.0.0.1/x", "file:///etc/passwd", "http://[::ffff:127.5.0.9]/", "gopher://x.test/",
    ]  # fmt: skip
    for target in targets:
        server.script = iter([(status, {"Location": target}, b"")])
        with pytest.raises(OSError, match=r"address_blocked.*--allow-network|no http\(s\) URL|port_blocked"):
            list(read(Piece("jsonl", f"{base}/list.jsonl", 0, -1, "", "list.jsonl"), SourceOptions()))
        server.script = iter([(status, {"Location": target}, b"")])
        with pytest.raises(OSError, match=r"blocked|no http"):
            plan([f"@{base}/paths"], SourceOptions())
        server.script = iter([(status, {"Location": target}, b"")])
        with pytest.raises(OSError, match=r"blocked|no http"):
            storage.open_input(f"{base}/queries.parquet")
    assert elsewhere.seen == 0
    server.script = iter([(status, {"Location": "/there"}, b""), (200, {}, LINE % 1)])
    (image,) = read(Piece("jsonl", f"{base}/list.jsonl", 0, -1, "", "list.jsonl"), SourceOptions())
    assert image.url == "http://example.com/1.jpg"


def test_what_the_crawl_may_not_reach_is_not_asked_for(elsewhere: Flaky) -> None:
    named.configure(OPEN)
    url = f"http://127.5.0.9:{elsewhere.server_port}/x"
    with pytest.raises(OSError, match="address_blocked"):
        download(url, cast(IO[bytes], io.BytesIO()))
    assert elsewhere.seen == 0
    named.configure(FetchOptions(allow_network=("127.0.0.0/8",)))
    download(url, cast(IO[bytes], io.BytesIO()))
    assert elsewhere.seen == 1


def test_proxies_of_the_environment_are_not_asked(
    server: Flaky, elsewhere: Flaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.5.0.9:{elsewhere.server_port}")
    server.script = iter([(200, {}, b"data")])
    assert fetch(server)[0] == b"data"
    assert elsewhere.seen == 0


def test_redirects_end(server: Flaky) -> None:
    server.script = itertools.repeat((302, {"Location": "/again"}, b""))
    with pytest.raises(OSError, match="more than 5 redirects"):
        fetch(server)


def test_what_a_server_says_is_not_repeated(server: Flaky) -> None:
    server.script = itertools.repeat((404, {"X": "\x1b[2J"}, b"\x1b]0;title\x07"))
    with pytest.raises(OSError) as caught:
        fetch(server)
    assert str(caught.value).isprintable() and "status 404" in str(caught.value)


def test_slow_and_large_answers_are_given_up(server: Flaky, monkeypatch: pytest.MonkeyPatch) -> None:
    named.configure(OPEN)
    monkeypatch.setattr(named, "MAX_BYTES", 1000)
    server.script = iter([(200, {"Content-Length": "1001"}, b"x" * 1001)])
    with pytest.raises(OSError, match="has 1,001 bytes"):
        fetch(server)
    with socketserver.TCPServer(("127.0.0.1", 0), Dripping) as dripping:
        thread = threading.Thread(target=dripping.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            port = dripping.server_address[1]
            with pytest.raises(OSError, match="comes too slowly"):
                download(f"http://127.0.0.1:{port}/", cast(IO[bytes], io.BytesIO()))
        finally:
            dripping.shutdown()
            thread.join()


class Dripping(socketserver.BaseRequestHandler):
    """Send a byte a tenth of a second, without end."""

    def handle(self) -> None:
        self.request.recv(1 << 16)
        self.request.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        with contextlib.suppress(OSError):
            while True:
                self.request.sendall(b"x")
                time.sleep(0.1)


class Ranges(BaseHTTPRequestHandler):
    """Serve `data` in ranges, as object stores do."""

    data = b""

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        if self.path != "/data.parquet":
            self.send_error(404)
            return
        first, last = 0, len(self.data) - 1
        if wanted:
            first, last = (int(part) for part in wanted.removeprefix("bytes=").split("-"))
            last = min(last, len(self.data) - 1)
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(self.data)}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        self.wfile.write(self.data[first : last + 1])

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def test_files_of_the_web_are_read_in_ranges_or_whole(server: Flaky) -> None:
    table = pa.table({"query": [f"query {i}" for i in range(1000)]})
    sink = io.BytesIO()
    pq.write_table(table, sink)
    Ranges.data = sink.getvalue()
    with ThreadingHTTPServer(("127.0.0.1", 0), Ranges) as ranges:
        thread = threading.Thread(target=ranges.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            base = f"http://127.0.0.1:{ranges.server_port}"
            with storage.open_input(f"{base}/data.parquet") as file:
                assert pq.read_table(file) == table
            assert storage.file_info(f"{base}/data.parquet").size == len(Ranges.data)
            assert storage.read_bytes(f"{base}/data.parquet") == Ranges.data
            assert storage.glob(f"{base}/data.parquet") == [f"{base}/data.parquet"]
            assert not storage.exists(f"{base}/none")
            with pytest.raises(ValueError, match="cannot be a pattern"):
                storage.glob(f"{base}/*.parquet")
        finally:
            ranges.shutdown()
            thread.join()
    server.script = itertools.repeat((200, {}, Ranges.data))  # knows no ranges
    with storage.open_input(f"http://127.0.0.1:{server.server_port}/x.parquet") as file:
        assert pq.read_table(file) == table
