"""Pages and sitemaps as a source: fetched by the rules that hold for images, and read as any HTML is."""

import gzip
import json
import socketserver
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.candidates.page_worker import judge
from pipeline.cli import main
from pipeline.demo.server import Server
from pipeline.http.fetch_url import Outcome
from pipeline.options import SourceOptions
from pipeline.sources import Image, page_tables, sitemap
from pipeline.sources.links import links
from tests.crawling import arguments

pytestmark = pytest.mark.timeout(600)

URLSET = '<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{}</urlset>'
INDEX = '<sitemapindex xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{}</sitemapindex>'


def locs(*urls: str, tag: str = "url") -> str:
    return "".join(f"<{tag}><loc>{url}</loc></{tag}>" for url in urls)


def test_images_of_pages_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    found = [
        Image("http://a.test/1.jpg", (("alt", "A"), ("og", "é")), "http://a.test/", page_lang="de"),
        Image("x", (), "http://a.test/", None, "bad_url", "no scheme", "meta robots: noai"),
    ]
    page_tables.write(str(tmp_path / "images.parquet"), enumerate(found))
    assert list(page_tables.read(str(tmp_path / "images.parquet"))) == found


# Sitemaps


@pytest.mark.parametrize(
    ("text", "kind", "urls"),
    [
        (URLSET.format(locs("http://a.test/1", "http://a.test/2?x=1&amp;y=2")), "pages",
         ["http://a.test/1", "http://a.test/2?x=1&y=2"]),
        ('\ufeff<?xml version="1.0"?>\n' + INDEX.format(locs("http://a.test/s.xml", tag="sitemap")), "index",
         ["http://a.test/s.xml"]),
        (URLSET.format("<url><loc> http://a.test/1\n</loc><image:image xmlns:image='i'><image:loc>http://a.test/"
                       "i.jpg</image:loc></image:image></url>"), "pages", ["http://a.test/1"]),
        ("<rss><channel><link>http://a.test/</link><item><link>http://a.test/1</link></item></channel></rss>",
         "pages", ["http://a.test/1"]),
        ('<feed xmlns="http://www.w3.org/2005/Atom"><entry><link href="http://a.test/1"/>'
         '<link rel="edit" href="http://a.test/2"/></entry></feed>', "pages", ["http://a.test/1"]),
        ("http://a.test/1\r\n\r\nhttps://a.test/2\n", "pages", ["http://a.test/1", "https://a.test/2"]),
    ],
    ids=["urlset", "index", "image sitemap", "rss", "atom", "text"],
)  # fmt: skip
def test_every_form_of_sitemap(text: str, kind: str, urls: list[str]) -> None:
    for data in (text.encode(), gzip.compress(text.encode())):
        assert sitemap.parse(data) == sitemap.Sitemap(kind, urls)
    if text.startswith("<urlset"):
        utf16 = ('<?xml version="1.0" encoding="utf-16"?>' + text).encode("utf-16")
        assert sitemap.parse(utf16) == sitemap.Sitemap(kind, urls)


def test_sitemaps_are_in_the_webs_encodings() -> None:
    url = "http://a.test/ж"
    xml = URLSET.format(locs(url))
    for data, content_type in (
        (f"<?xml version='1.0' encoding='x-cp1251'?>{xml}".encode("cp1251"), ""),
        (xml.encode("koi8-r"), "text/xml; charset=koi8-r"),
        (f"<?xml version='1.0' encoding='shift_jis'?>{xml}".encode("shift_jis"), "text/xml"),
        (url.encode("cp1251"), "text/plain; charset=windows-1251"),
        (url.encode("utf-16"), "text/plain"),
    ):
        assert sitemap.parse(data, content_type) == sitemap.Sitemap("pages", [url])
    damaged = xml.replace("</urlset>", "<url><loc>http://a.test/\udcff</loc></url></urlset>")
    found = sitemap.parse(damaged.encode("utf-8", "surrogateescape"))
    assert found is not None and found.urls == [url, "http://a.test/\ufffd"]


@pytest.mark.parametrize(
    "data", [b"", b"<html><body>urlset</body></html>", b"<p>", b"\x89PNG\r\n", b"hello\nhttp://a.test/"]
)
def test_what_is_no_sitemap(data: bytes) -> None:
    assert sitemap.parse(data) is None


def test_no_entity_is_ever_expanded(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE b [<!ENTITY a "ha">' + "".join(
        f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(9)
    )
    found = sitemap.parse((bomb + "]>" + URLSET.format(locs("http://a.test/&j;"))).encode())
    assert found is not None and found.urls == [] and "document type" in found.problem
    secret = tmp_path / "secret"
    secret.write_text("http://a.test/secret")
    outside = f'<!DOCTYPE u [<!ENTITY x SYSTEM "file://{secret}">]>' + URLSET.format(locs("&x;"))
    found = sitemap.parse(outside.encode())
    assert found is not None and found.urls == []


def test_of_a_broken_sitemap_the_beginning_counts() -> None:
    found = sitemap.parse(URLSET.format(locs("http://a.test/1") + "<url><loc>http://a.test/?a&b").encode())
    assert found is not None and found.urls == ["http://a.test/1"] and found.problem
    cut = gzip.compress(URLSET.format(locs(*(f"http://a.test/{i:05d}" for i in range(9000)))).encode())[
        :-3000
    ]
    found = sitemap.parse(cut)
    assert found is not None and 0 < len(found.urls) < 9000 and found.problem


def test_limits_of_a_sitemap(monkeypatch: pytest.MonkeyPatch) -> None:
    many = URLSET.format(locs(*(f"http://a.test/{i}" for i in range(sitemap.MAX_URLS + 5)))).encode()
    found = sitemap.parse(many)
    assert found is not None and len(found.urls) == sitemap.MAX_URLS and "more than" in found.problem
    found = sitemap.parse(b"http://a.test/1\n" * (sitemap.MAX_URLS + 1))
    assert found is not None and len(found.urls) == sitemap.MAX_URLS and found.problem
    found = sitemap.parse(("<urlset>" + "<a>" * 100_000).encode())
    assert found is not None and "deep" in found.problem
    found = sitemap.parse(
        URLSET.format(locs("http://a.test/" + "x" * 10_000_000, "http://a.test/2")).encode()
    )
    assert found is not None and found.urls == ["http://a.test/2"]
    monkeypatch.setattr(sitemap, "MAX_BYTES", 100_000)
    found = sitemap.parse(gzip.compress(b"<urlset>" + b" " * 50_000_000))
    assert found is not None and found.urls == [] and found.problem


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda t: f"<urlset>{t}".encode())))
def test_a_sitemap_never_raises(data: bytes) -> None:
    found = sitemap.parse(data)
    assert found is None or all(isinstance(url, str) for url in found.urls)


# Links


def test_links_of_a_page() -> None:
    page = b"""<base href="/b/"><a href="1.html">1</a><a href="1.html#x">again</a><area href="//c.test/2">
    <a href="http://a.test/b.jpg">a picture</a><a rel="x nofollow" href="3">no</a><a href="mailto:x@y.z">m</a>
    <a href="javascript:alert(1)">j</a><a>none</a><a href="/4?p=x.jpg">4</a><a href="http://e.zip">5</a>"""
    assert links(page, "http://a.test/") == [
        "http://a.test/b/1.html", "http://a.test/4?p=x.jpg", "http://e.zip/", "http://c.test/2"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("meta", "count"),
    [('name="robots" content="index, NOFOLLOW"', 0), ('name="Robots" content="none"', 0),
     ('name="openwit" content="nofollow"', 0), ('name="otherbot" content="nofollow"', 1),
     ('name="robots" content="index,follow"', 1)],
)  # fmt: skip
def test_meta_robots_says_whether_links_are_followed(meta: str, count: int) -> None:
    assert len(links(f'<meta {meta}><a href="/1">1</a>'.encode(), "http://a.test/")) == count


# One answer


def answer(body: bytes = b"", reason: str = "", media_type: str = "text/html", final: str = "") -> Outcome:
    return Outcome("", final or "http://a.test/p", reason, "", 200, body, media_type, 0.0, "", None)


def row(kind: str = "page", depth: int = 0, tries: int = 0) -> dict[str, object]:
    return {"url": "http://a.test/p", "kind": kind, "depth": depth, "tries": tries}


def test_a_passing_failure_is_tried_once_more() -> None:
    images, found = judge(row(), answer(reason="read_timeout"), 0)
    assert not images and [(f.url, f.tries) for f in found] == [("http://a.test/p", 1)]
    images, found = judge(row(tries=1), answer(reason="read_timeout"), 0)
    assert not found and (images[0].reason, images[0].detail) == ("page_unavailable", "read_timeout")
    images, found = judge(row(), answer(reason="http_gone"), 0)
    assert not found and images[0].reason == "page_unavailable"


def test_a_redirect_to_another_site_is_tried_there_but_not_from_a_link() -> None:
    elsewhere = answer(reason="redirect_elsewhere", final="http://b.test/q")
    assert [f.url for f in judge(row(), elsewhere, 2)[1]] == ["http://b.test/q"]
    images, found = judge(row(depth=1), elsewhere, 2)
    assert not found and images[0].reason == "page_unavailable"


def test_what_is_no_page() -> None:
    for media_type in ("image/png", "application/pdf"):
        (image,), found = judge(row(), answer(b"%PDF", media_type=media_type), 1)
        assert image.detail == f"not a page: {media_type}" and not found
    for media_type in ("", "*/*", "unknown/unknown"):
        (image,), found = judge(row(), answer(b"\x00\x01 no page", media_type=media_type), 1)
        assert image.reason == "page_unavailable" and image.detail.startswith("not a page: ") and not found
    (image,), _ = judge(row("sitemap"), answer(b"<html>404</html>"), 1)
    assert image.detail == "not a sitemap"


@pytest.mark.parametrize(
    "media_type",
    [
        "",
        "html",
        '"text/html"',
        "text/plain, text/html;charset=utf-8",
        "TEXT/HTML;;;=",
        "*/*",
        "x, Text/Html ; a",
    ],
)
def test_an_odd_content_type_hides_no_page(media_type: str) -> None:
    page = answer(b'<!DOCTYPE html>\n<img src="/i.jpg" alt="x">', media_type=media_type)
    assert [image.url for image in judge(row(), page, 0)[0]] == ["http://a.test/i.jpg"]


@pytest.mark.parametrize("media_type", ["text/plain", "image/jpeg", "text/html, image/jpeg", "text/xml"])
def test_a_page_of_another_type_leaves_a_row(media_type: str) -> None:
    (image,), found = judge(row(), answer(b"<p>no", media_type=media_type), 0)
    assert (image.reason, image.page_url) == ("page_unavailable", "http://a.test/p")
    assert not found


def test_an_index_of_indexes_ends() -> None:
    index = answer(INDEX.format(locs("http://a.test/s.xml", tag="sitemap")).encode(), media_type="text/xml")
    depths = [[f.depth for f in judge(row("sitemap", depth), index, 0)[1]] for depth in range(4)]
    assert depths == [[1], [2], [], []]
    images, _ = judge(row("sitemap", 2), index, 0)
    assert images[0].reason == "bad_record"


def test_links_of_a_page_are_found_down_to_the_depth() -> None:
    page = answer(b'<img src="/i.jpg" alt="x"><a href="/2">2</a>')
    assert [len(judge(row(depth=depth), page, 1)[1]) for depth in (0, 1, 2)] == [1, 0, 0]


# A whole crawl, of a site that sets traps


class Site(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Serve pages from a function, and keep a log of the requests."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def page(self, path: str) -> tuple[int, str, bytes]:
        """Return status, media type and body."""
        links_to = lambda *to: "".join(f'<a href="{one}">x</a>' for one in to)  # noqa: E731
        html = "text/html; charset=utf-8"
        image = f'<img src="/i{path.replace("/", "-")}.jpg" alt="a red flower in the garden">'
        pages: dict[str, tuple[int, str, bytes]] = {
            "/robots.txt": (200, "text/plain", b"User-agent: *\nDisallow: /private\n"),
            "/sitemap.xml": (200, "text/xml", URLSET.format(
                locs(f"{self.root}/", f"{self.root}/gone", f"{self.root}/private/1", "http://127.0.0.9/x",
                     f"{self.root}/feed.pdf", f"{self.root}/reserved")).encode()),
            "/": (200, html, (image + links_to("/", "/#a", "/a", "/calendar/1", "http://127.0.0.9/")).encode()),
            "/a": (200, html, (image + links_to("/", "/b")).encode()),
            "/b": (200, html, (image + links_to("/c")).encode()),
            "/private/1": (200, html, image.encode()),
            "/reserved": (200, html, f'<meta name="robots" content="noai">{image}'.encode()),
            "/feed.pdf": (200, "application/pdf", b"%PDF"),
        }  # fmt: skip
        if path.startswith("/calendar/"):
            day = int(path.rpartition("/")[2])
            return 200, html, (image + links_to(*(f"/calendar/{day * 3 + i}" for i in (0, 1, 2)))).encode()
        return pages.get(path, (404, html, b"gone"))


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Site)
        self.server.asked[self.path] += 1
        status, media_type, body = self.server.page(self.path)
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        if "sitemap" in self.path:
            self.send_header("X-Robots-Tag", "noindex, follow")  # as WordPress sends it: no opt-out of ours
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[Site]:
    server = Site()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def crawl_pages(source: str, out: Path, *extra: str) -> Path:
    """Run the first stage alone, on one query."""
    queries = out.parent / "queries.txt"
    queries.write_text("flower\n")
    argv = ["--queries", str(queries), "--source", source, "--source-format", "pages", "--out", str(out),
            "--allow-network", "127.0.0.0/8", "--workers", "1", "--stage", "candidates", *extra]  # fmt: skip
    assert main(argv) == 0
    return out


def pages_of(site: Site) -> Counter[str]:
    """Return the requests but for those of robots.txt and other rules."""
    rules = ("/robots.txt", "/.well-known/tdmrep.json", "/ai.txt")
    return Counter({path: n for path, n in site.asked.items() if path not in rules})


def rows_of(out: Path) -> tuple[set[str], Counter[tuple[str, str, str]]]:
    """Return the pages with accepted candidates, and the rejected rows by page, reason and detail."""
    import pyarrow.parquet as pq

    accepted: set[str] = set()
    bad: Counter[tuple[str, str, str]] = Counter()
    for path in (out / "work" / "candidates").glob("*.parquet"):
        for one in pq.read_table(path).to_pylist():
            if "reason" in one:
                bad[one["page_url"], one["reason"], one["detail"]] += 1
            else:
                accepted.add(one["page_url"])
    return accepted, bad


def test_a_sitemap_is_crawled_politely_and_no_trap_holds(site: Site, tmp_path: Path) -> None:
    out = crawl_pages(f"{site.root}/sitemap.xml", tmp_path / "run", "--depth", "3", "--max-site-pages", "20")
    accepted, bad = rows_of(out)
    paths = {url.removeprefix(site.root) for url in accepted}
    assert {"/", "/a", "/b"} <= paths, "links are followed three deep"
    assert any(path.startswith("/calendar/") for path in paths)
    assert 0 < site.asked["/robots.txt"] <= 6, "at most once a pass and client"
    assert max(pages_of(site).values()) == 1, "nothing is asked for twice, however it is linked"
    assert not any(path.startswith("/private") for path in site.asked), "robots.txt holds for pages"
    assert sum(pages_of(site).values()) <= 20
    assert bad[f"{site.root}/private/1", "page_unavailable", "robots_disallow"] == 1
    assert bad[f"{site.root}/gone", "page_unavailable", "http_gone: HTTP 404"] == 1
    assert bad[f"{site.root}/feed.pdf", "page_unavailable", "not a page: application/pdf"] == 1
    assert bad[f"{site.root}/reserved", "opt_out_page", "meta robots: noai"] == 1
    assert [key[2] for key in bad if key[1] == "page_limit"], "what was left out is told"
    assert not any("127.0.0.9" in str(key) for key in bad if key[1] != "page_unavailable"), (
        "links stay inside"
    )


def test_depth_nought_follows_no_link(site: Site, tmp_path: Path) -> None:
    crawl_pages(f"{site.root}/", tmp_path / "run")
    assert set(pages_of(site)) == {"/"}


def test_a_local_list_of_pages(site: Site, tmp_path: Path) -> None:
    listed = tmp_path / "pages.txt"
    listed.write_text(f"{site.root}/a\n{site.root}/b\n")
    accepted, _ = rows_of(crawl_pages(str(listed), tmp_path / "run"))
    assert accepted == {f"{site.root}/a", f"{site.root}/b"}
    again, _ = rows_of(crawl_pages(f"@{listed}", tmp_path / "again"))
    assert again == accepted


def test_the_whole_limit_counts_over_sites(site: Site, tmp_path: Path) -> None:
    crawl_pages(f"{site.root}/sitemap.xml", tmp_path / "run", "--depth", "9", "--max-pages", "5")
    assert sum(pages_of(site).values()) <= 5


def test_a_finished_pass_is_not_fetched_again(site: Site, tmp_path: Path) -> None:
    out = crawl_pages(f"{site.root}/sitemap.xml", tmp_path / "run", "--depth", "2", "--max-site-pages", "12")
    expected = rows_of(out)
    (out / "work" / "candidates" / "done.stage").unlink()
    read = out / "work" / "candidates"
    for path in (read / "results.jsonl", *read.glob("*.json")):  # as a stop leaves it: the last files first
        path.unlink()
    asked = pages_of(site)
    last = max((out / "work" / "candidates" / "pages").glob("pass-*"), key=lambda p: int(p.name[5:]))
    for path in (last / "results.jsonl", *last.glob("*.json")):
        path.unlink()
    crawl_pages(f"{site.root}/sitemap.xml", out, "--depth", "2", "--max-site-pages", "12")
    assert rows_of(out) == expected
    again = pages_of(site) - asked
    unit = json.loads((last.parent / f"units-{last.name[5:]}" / "units.json").read_text())
    assert len(unit["units"]) == 1 and 0 < sum(again.values()) < sum(asked.values()) / 2


def test_a_site_of_others_needs_a_contact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "queries.txt").write_text("flower\n")
    argv = ["--queries", str(tmp_path / "queries.txt"), "--source", "https://example.org/sitemap.xml",
            "--source-format", "pages", "--out", str(tmp_path / "run"), "--workers", "1"]  # fmt: skip
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2 and "--contact" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [{"depth": -1}, {"max_pages": 0}, {"depth": 1, "source_format": "html"}])
def test_options_that_make_no_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"depth|max_pages"):
        SourceOptions(**{"source_format": "pages", **wrong})  # type: ignore[arg-type]


def test_the_demo_web_from_one_sitemap(web: Server, tmp_path: Path) -> None:
    """An index of all sites' sitemaps finds the images of the WARC file, but for sites that are closed."""
    import pyarrow.parquet as pq

    argv = arguments(web.web, tmp_path / "run", "--workers", "1", "--source-format", "pages")
    argv[argv.index(str(web.web.warc))] = web.web.sitemap
    assert main([*argv, "--stage", "candidates"]) == 0
    rows = [
        row
        for path in (tmp_path / "run" / "work" / "candidates").glob("*.parquet")
        for row in pq.read_table(path, columns=["url", "page_url"]).to_pylist()
    ]
    found = {row["url"] for row in rows}
    open_sites = tuple(web.url_of(s.name) for s in web.web.sites if s.role in ("ordinary", "robots_partial"))
    pages = [r for r in web.web.references if r.page.startswith(open_sites) and r.reason is None]
    assert len(pages) > 300 and not [r for r in pages if not found & set(r.urls)]
    _, bad = rows_of(tmp_path / "run")
    refused = [page for page, reason, _ in bad if reason == "page_unavailable"]
    for role in ("robots_disallow", "noai", "robots_unavailable"):
        (closed,) = (web.url_of(s.name) for s in web.web.sites if s.role == role)
        assert [page for page in refused if page.startswith(closed)], role
        assert not [url for url in found if url.startswith(closed)], role
    start = len(web.requests())
    assert main([*argv, "--stage", "candidates"]) == 0 and len(web.requests()) == start


def test_a_pass_that_stopped_asks_for_no_page_twice(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = rows_of(crawl_pages(f"{site.root}/sitemap.xml", tmp_path / "whole"))
    asked = pages_of(site)

    def stop(path: str, images: object) -> int:
        raise OSError("no room")

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.candidates.page_worker.page_tables.write", stop)
        with pytest.raises(AssertionError):
            crawl_pages(f"{site.root}/sitemap.xml", tmp_path / "run")
    assert list((tmp_path / "run").glob("work/candidates/pages/pass-*/kept/*/*.part"))
    assert rows_of(crawl_pages(f"{site.root}/sitemap.xml", tmp_path / "run")) == expected
    assert pages_of(site) - asked == asked
    assert not list((tmp_path / "run").rglob("kept"))
