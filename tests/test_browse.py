"""`openwit browse`: a real server, a real browser, and people who should not get in."""

import asyncio
import io
import json
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dedup.parts import EXAMPLES, MATCHES, ExampleIndex
from pipeline import schemas
from pipeline.browse.cli import serve
from pipeline.browse.guard import Guard
from pipeline.browse.pairs import Pairs
from pipeline.browse.semantic import Semantic
from pipeline.browse.server import Server
from pipeline.flow import markers
from pipeline.flow.kept import Kept
from pipeline.index import pages, place, search
from pipeline.index.place import Dataset
from pipeline.index.search import Search
from pipeline.lock import lock
from pipeline.options.finished import BrowseConfig
from pipeline.progress import Notes, StepProgress
from pipeline.run_folder import Layout
from pipeline.shards import read_shard
from tests import eval_models, finished_run
from tests.browser import Page, chromium
from tests.scenes import jpeg, scene

BEFORE = ("", '">', "'>", "</script>", "<!--", "]]>", "javascript:x//", "</title>", "${x}", "\0")
TAGS = ("img src=x", "svg", "iframe", "body", "details open", "video src=x", "a", "math", "script", "p")
NAMES = ("onerror", "onload", "ontoggle", "onfocus", "onclick", "onbegin", "style", "src", "href", "is")
CODE = ("alert(1)", "document.title='owned'", "fetch('//evil.test')")
HOSTILE = [f"{b}<{tag} {name}={code}>" for b in BEFORE for tag in TAGS for name in NAMES for code in CODE]


@dataclass
class Served:
    """A dataset that is served."""

    port: int
    folder: Path
    token: str = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self, path: str, method: str = "GET", body: str | bytes = "", raw: bytes = b"", **headers: str
    ) -> tuple[int, str]:
        """Return status and text of an answer, whose bytes are to be `raw` if that is given."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body or None, names)
        answer = connection.getresponse()
        data = answer.read()
        assert not raw or data == raw
        found = answer.status, data.decode("utf-8", "replace")
        self.headers = dict(answer.getheaders())
        connection.close()
        return found

    def json(self, path: str) -> Any:
        """Return the value of an answer."""
        status, text = self.ask(path)
        assert status == 200, text
        return json.loads(text)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("browsed") / "run"
    texts = [f"umbrella on a beach {n}" for n in range(70)] + ["a dog in snow"] + HOSTILE[::100]
    finished_run.build(folder, texts, ["beach", "dog", "<img src=x onerror=alert(1)>"], per_shard=500)
    rows = [("1" * 32, text, text, text, "candidates", "bad_url", text, 1, "") for text in HOSTILE]
    schemas.write_table(f"{folder}/rejected/b.parquet", schemas.to_table(rows, schemas.REJECTED_ROWS))
    merged = ("2" * 32, "https://a.test/copy.jpg", "a copy", "", "fetch", "merged_into", "000000007", 1, "")
    schemas.write_table(f"{folder}/rejected/c.parquet", schemas.to_table([merged], schemas.REJECTED_ROWS))
    overlap_report(folder.parent / "overlap")
    of = place.dataset(str(folder))
    path, _ = place.renew(of, lambda done, total, rows: None)
    db = sqlite3.connect(path)  # pictures of one scene have the fixture's same hash: none
    db.executemany("INSERT INTO near VALUES (?, 1, ?)", [(1, 0), (6, 3)])
    db.execute("UPDATE samples SET phash = zeroblob(32)")
    db.commit()
    db.close()
    model = Semantic(path, str(eval_models.training_run(folder.parent / "model")))
    search = Search(path)
    assert model.renew(search, lambda done, total: None) == len(texts)
    assert model.renew(search, lambda done, total: None) == 0
    search.close()
    with serving(of, path, [Pairs(str(folder.parent / "overlap"))], model) as found:
        yield found
    model.close()


@contextmanager
def serving(
    of: Dataset, path: Path | None, overlaps: Sequence[Pairs] = (), model: Semantic | None = None
) -> Iterator[Served]:
    """Serve a dataset on a port of its own."""
    port = free_port()
    options = BrowseConfig(run=of.name, port=port, open=False)
    loop = asyncio.new_event_loop()
    task = loop.create_task(serve(of, path, options, overlaps, model))
    thread = threading.Thread(target=lambda: loop.run_until_complete(asyncio.wait([task])))
    thread.start()
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    yield Served(port, Path(of.name))
    loop.call_soon_threadsafe(task.cancel)
    thread.join()
    loop.close()


def overlap_report(folder: Path) -> None:
    """Write the files that `openwit overlap` leaves for two examples with a pair each."""
    pictures = [jpeg(scene(n, 32, 32)) for n in range(2)]
    common = {
        "dataset": "toys", "url": "", "rank": 1, "mirrored": False, "caption": "a toy", "shard": "00000",
    }  # fmt: skip
    rows = [
        common | {"example_id": "a/1.jpg", "uid": "000000001", "similarity": 0.98, "verified": True,
                  "refused": "", "inliers": 40, "correlation": 0.9, "view": "whole", "key": "000000001",
                  "hashes": 0.98, "learned": None},
        common | {"example_id": "a/2.jpg", "uid": "000000002", "similarity": 0.71, "verified": False,
                  "refused": "content", "inliers": 3, "correlation": 0.1, "view": "whole", "key": "000000002",
                  "hashes": 0.71, "learned": None},
    ]  # fmt: skip
    schemas.write_table(f"{folder}/matches.parquet", pa.Table.from_pylist(rows, MATCHES))
    report = {"datasets": [{"name": "toys", "examples": 9, "threshold": 0.8}]}
    (folder / "report.json").write_text(json.dumps(report))
    work = folder / "work" / "index-0"
    work.mkdir(parents=True)
    (work / "images.bin").write_bytes(b"".join(pictures))
    examples = [
        {"dataset": "toys", "example_id": f"a/{n + 1}.jpg", "label": "", "caption": "", "group": "",
         "state": "compared", "row": n, "offset": n * len(pictures[0]), "length": len(pictures[n]),
         "reason": "", "kind": ""}
        for n in range(2)
    ]  # fmt: skip
    schemas.write_table(str(work / "examples.parquet"), pa.Table.from_pylist(examples, EXAMPLES))
    index = ExampleIndex(
        name="index", examples=str(work / "examples.parquet"), images=str(work / "images.bin"), compared=2,
        hashes="", colours="",
    )  # fmt: skip
    markers.write_lines(str(work / "results.jsonl"), [markers.dump(index, str(work))])


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with chromium() as found:
        yield found


def test_pages_of_samples(served: Served) -> None:
    found = served.json("/api/samples?q=umbrella&limit=60")
    assert found["total"] == 70 and len(found["samples"]) == 60
    found = served.json(f"/api/samples?q=umbrella&limit=60&after={found['next']}")
    assert len(found["samples"]) == 10 and found["next"] == 0
    assert set(found["samples"][0]) >= {"uid", "key", "url", "caption"}
    assert served.json("/api/samples?query=dog&limit=1")["total"] == served.json("/api/info")["samples"]
    assert served.json("/api/samples?site=a.test&q=snow")["samples"][0]["caption"] == "a dog in snow"
    rejected = served.json("/api/samples?reason=robots_disallow&limit=1")
    assert rejected["samples"][0]["reason"] == "robots_disallow" and rejected["total"] > 70
    uid = found["samples"][0]["uid"]
    status, _ = served.ask(f"/api/image/{uid}")
    assert status == 200 and served.headers["Content-Type"] == "image/jpeg"
    assert served.json(f"/api/sample/{uid}")["queries"][0]["query"] == "beach"
    first = served.json("/api/query/beach?limit=3")
    assert first["total"] == served.json("/api/info")["samples"] and len(first["samples"]) == 3
    rest = served.json(f"/api/query/beach?limit=200&after={first['next']}")
    assert len(rest["samples"]) == first["total"] - 3 and rest["next"] == 0
    assert served.json("/api/live")["state"] == "complete"


def test_a_shard_that_is_gone_costs_its_pictures_alone(served: Served) -> None:
    uid = served.json("/api/samples?limit=1")["samples"][0]["uid"]
    shards = list(served.folder.rglob("*.tar"))
    for shard in shards:
        shard.rename(shard.with_suffix(".gone"))
    assert served.ask(f"/api/image/{uid}") == (404, "its shard is gone")
    assert served.json(f"/api/sample/{uid}")["stored"] == {}
    for shard in shards:
        shard.with_suffix(".gone").rename(shard)
    assert served.ask(f"/api/image/{uid}")[0] == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/samples?query=no+such", 400), ("/api/samples?min_width=wide", 400),
        ("/api/samples?sort=uid", 400),
        ("/api/samples?after=-1", 400), ("/api/samples?after=99999&sort=bytes", 404),
        ("/api/sample/none", 404), ("/api/image/none", 404),
        ("/api/query/none", 404), ("/api/image/..%2f..%2fmanifest.json", 404), ("/../pyproject.toml", 404),
        ("/api/histogram?column=uid", 400), ("/server.py", 404),
    ],
)  # fmt: skip
def test_what_is_not_there_is_said(served: Served, path: str, status: int) -> None:
    assert served.ask(path)[0] == status


@pytest.mark.parametrize(
    ("headers", "method", "status"),
    [
        ({"Host": "evil.test"}, "GET", 403), ({"Host": "evil.test:80"}, "GET", 403),
        ({"Host": ""}, "GET", 403),
        ({"Host": "127.0.0.1.evil.test"}, "GET", 403), ({"Sec_Fetch_Site": "cross-site"}, "GET", 403),
        ({"Origin": "http://evil.test"}, "POST", 403), ({"Origin": "null"}, "POST", 403), ({}, "POST", 403),
        ({}, "DELETE", 403), ({"Origin": "http://evil.test"}, "GET", 200), ({}, "GET", 200),
    ],
)  # fmt: skip
def test_other_sites_and_names_get_nothing(
    served: Served, headers: dict[str, str], method: str, status: int
) -> None:
    """Rebinding: another name for this address; and pages of other sites that send requests here."""
    path = "/api/export" if method == "POST" else "/api/info"
    body = '{"name": "stolen", "uids": ["1"]}' if method == "POST" else ""
    found, text = served.ask(path, method, body, **headers)
    assert found == status and (status == 200 or "samples" not in text)
    assert "Access-Control-Allow-Origin" not in served.headers
    assert served.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert not (served.folder / "selections" / "stolen.parquet").exists()


def test_other_addresses_need_the_token() -> None:
    guard = Guard(host="0.0.0.0", port=1)
    assert guard.needs_token and guard.token in guard.url and len(guard.token) > 30
    assert not Guard(host="127.0.0.1", port=1).needs_token


def test_lists_for_other_commands(served: Served) -> None:
    own = {"Origin": served.url, "Content_Type": "application/json"}
    status, text = served.ask("/api/export", "POST", '{"name": "umbrellas", "q": "umbrella"}', **own)
    assert status == 200 and json.loads(text)["samples"] == 70
    table = pq.read_table(served.folder / "selections" / "umbrellas.parquet")
    assert table.column_names == ["uid"] and len(table) == 70
    for body in ('{"name": "../x"}', '{"name": 1}', "[]", '{"name": "x", "uids": "all"}', '{"uids": []}'):
        assert served.ask("/api/export", "POST", body, **own)[0] == 400
    body = '{"name": "small", "form": "webdataset", "uids": ["000000003", "000000001", "none"]}'
    status, text = served.ask("/api/export", "POST", body, **own)
    assert status == 200 and json.loads(text)["samples"] == 2
    tar = served.folder / "selections" / "small" / "00000.tar"
    first, second = read_shard(io.BytesIO(tar.read_bytes()))
    assert first.txt == "umbrella on a beach 3" and second.txt == "umbrella on a beach 1"
    assert served.ask("/api/image/000000003", raw=first.jpg)[0] == 200
    view = '{"name": "toys", "view": "#/samples?q=toy"}'
    assert served.ask("/api/views", "POST", view, **own)[1] == '{"toys": "#/samples?q=toy"}'
    assert served.ask("/api/views", "POST", '{"name": "x", "view": "javascript:1"}', **own)[0] == 400
    assert served.json("/api/views") == {"toys": "#/samples?q=toy"}
    listed = sorted(path.name for path in (served.folder / "selections").iterdir())
    assert listed == ["small", "umbrellas.parquet", "views.json"]


def test_pairs_of_an_overlap_report(served: Served) -> None:
    ((one,),) = [report["sets"] for report in served.json("/api/overlap")]
    assert one["name"] == "toys" and one["pairs"] == 2 and sum(one["bins"]) == 1
    page = served.json("/api/overlap/0?dataset=toys&most=1")
    assert page["above"] == 0 and [pair["example_id"] for pair in page["pairs"]] == ["a/1.jpg", "a/2.jpg"]
    page = served.json("/api/overlap/0?dataset=toys&most=0.8")
    assert page["above"] == 1 and [pair["refused"] for pair in page["pairs"]] == ["content"]
    picture = "/api/overlap/0/picture?dataset=toys&example=a/2.jpg"
    assert served.ask(picture, raw=jpeg(scene(1, 32, 32)))[0] == 200
    for path in ("1?dataset=toys", "0/picture?dataset=toys&example=b", "x?dataset=toys"):
        assert served.ask(f"/api/overlap/{path}")[0] in (400, 404)


def test_what_looks_like_a_picture_comes_first(served: Served) -> None:
    found = served.json("/api/similar?uid=000000004&limit=3")["samples"]
    assert len(found) == 3 and found[0]["similarity"] == pytest.approx(1, abs=0.002)
    again = served.json("/api/similar?uid=000000004&limit=2&offset=1")["samples"]
    assert again == found[1:]
    text = served.json("/api/similar?text=red&limit=200")["samples"]
    falling = [one["similarity"] for one in text]
    assert len(text) == served.json("/api/info")["samples"] and falling == sorted(falling, reverse=True)
    status, answer = served.ask("/api/similar", "POST", jpeg(scene(4, 96, 128)), Origin=served.url)
    assert status == 200 and json.loads(answer)["samples"][0]["similarity"] > 0.99
    assert served.ask("/api/similar", "POST", b"no picture", Origin=served.url)[0] == 400


def test_contact_data_is_masked_unless_asked_for(served: Served) -> None:
    of = Dataset("x", None)
    guard = Guard(host="127.0.0.1", port=1)
    row = {"caption": "mail me@shop.test", "captions": ["call +1 555 123 4567"], "id": 1}
    masked = {"caption": "mail [email]", "captions": ["call [phone]"]}
    assert Server(of, None, guard)._shown(row) == masked
    assert Server(of, None, guard, mask=False)._shown(row)["caption"] == "mail me@shop.test"


def shown(page: Page, served: Served, view: str, condition: str) -> None:
    page.open("about:blank")
    page.open(f"{served.url}/#{view}")
    page.wait(condition)


@pytest.mark.parametrize("width", [1280, 390])
def test_every_view_is_shown_without_an_error(page: Page, served: Served, width: int) -> None:
    page.call(
        "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 400
    )
    cells = "document.querySelectorAll('.cell').length"
    rows = "document.querySelectorAll('tbody tr').length"
    pairs = "[...document.querySelectorAll('.pair img')]"
    for view, condition in (
        ("/samples", f"{cells} >= 60"), ("/samples?q=snow", f"{cells} == 1"), ("/query/0", f"{cells} >= 60"),
        ("/alike", f"{cells} == 2"),
        ("/overlap?at=1", f"{pairs}.filter((one) => one.naturalWidth).length == 4"),
        ("/similar?text=red", f"{cells} >= 60"), ("/similar?uid=000000001", f"{cells} >= 60"),
        ("/views", "document.querySelector('main li, main p') !== null"),
        ("/rejects?reason=merged_into", "document.querySelector('.thumb')?.naturalWidth > 0"),
        ("/queries", f"{rows} == 3"), ("/sites", f"{rows} == 1"), ("/rejects", f"{rows} >= 60"),
        ("/numbers", f"document.querySelectorAll('.plot i').length == 40 && {cells} >= 12"),
        ("/live", "document.querySelector('h1')?.textContent == 'The run is complete'"),
        ("/sample/000000007", "document.querySelector('.sample img')?.naturalWidth > 0"),
        ("/sample/none", "document.querySelector('.error')?.textContent == 'no such sample'"),
    ):  # fmt: skip
        shown(page, served, view, condition)
        page.wait("document.documentElement.scrollWidth <= innerWidth")
        expected = ["404"] if view.endswith("none") else []
        assert page.barriers() == []
        problems = page.problems(served.url)
        assert len(problems) == len(expected), problems


def test_search_filter_keys_and_selection(page: Page, served: Served) -> None:
    page.call("Emulation.clearDeviceMetricsOverride")
    shown(page, served, "/samples", "document.querySelectorAll('.cell').length >= 60")
    page.key("/")
    assert page.run("document.activeElement.id") == "words"
    page.run("words.value = 'umbrella beach -7'; document.getElementById('search').requestSubmit()")
    page.wait("document.querySelector('.bar strong')?.textContent == '69'")
    site = "document.querySelector('select[aria-label=site]')"
    page.run(f"{site}.value = 'a.test'; {site}.dispatchEvent(new Event('change'))")
    page.wait("location.hash.includes('site=a.test') && document.querySelectorAll('.cell').length >= 60")
    page.run("document.activeElement.blur()")
    page.key("ArrowRight", 39)
    page.key("ArrowRight", 39)
    first = page.run("document.activeElement.dataset.uid")
    assert first == "000000001"
    page.key("ArrowDown", 40)
    assert page.run("document.activeElement.dataset.uid") not in (first, None)
    page.key("x")
    assert page.run("document.querySelector('footer strong').textContent") == "1 selected"
    page.run("document.querySelector('footer button').click()")
    page.wait("document.querySelector('footer output')?.textContent.startsWith('1 uids in')")
    assert pq.read_table(served.folder / "selections" / "selection-1.parquet").num_rows == 1
    page.run("document.activeElement.click()")
    page.wait("document.querySelector('.sample img')?.naturalWidth > 0")
    page.key("Escape", 27)
    page.wait("document.querySelectorAll('.cell').length >= 60")
    assert page.problems(served.url) == []


@pytest.mark.parametrize("most", [pages.MOST, 7])
@pytest.mark.parametrize(
    "view", ["samples?q=umbrella&sort=-bytes&min_width=1", "samples?sort=height", "query/0?"]
)
def test_a_list_is_scrolled_to_its_end(
    page: Page, served: Served, monkeypatch: pytest.MonkeyPatch, view: str, most: int
) -> None:
    """Each sample is shown once and in order, also by pages of fewer samples than were asked for."""
    page.call("Emulation.clearDeviceMetricsOverride")
    every = [row["uid"] for row in served.json(f"/api/{view}&limit=200")["samples"]]
    monkeypatch.setattr(pages, "MOST", most)
    monkeypatch.setattr(search, "_SORTED", most)
    cells = "[...document.querySelectorAll('.cell')]"
    shown(page, served, f"/{view}", f"{cells}.length >= 7")
    page.wait(f"scrollTo(0, document.body.scrollHeight), {cells}.length >= {len(every)}")
    assert page.run(f"{cells}.map((one) => one.dataset.uid)") == every and len(every) >= 70
    if view.startswith("samples"):
        assert page.run("document.querySelector('.bar strong').textContent") == str(len(every))
    assert page.problems(served.url) == []


def test_a_crawl_is_watched_while_it_runs(page: Page, tmp_path: Path) -> None:
    work, folder = Layout(str(tmp_path)).work, Layout(str(tmp_path)).round(0)
    Notes(work).begin(StepProgress("fetch, round 0", "fetch/round-0", 9, images=400, started=time.time()))
    of = place.dataset(str(tmp_path))
    with lock(work), Kept(folder, "00000-0001", "a") as store, serving(of, None) as running:
        for n in range(3):
            store.add({"key": f"{n:032x}", "final_url": f"https://a.test/{n}.jpg"}, jpeg(scene(n, 32, 32)))
        store.add({"key": "f" * 32, "final_url": "https://b.test/x.jpg", "reason": "http_gone"}, b"")
        for width in (1280, 390):
            page.resize(width)
            pictures = "[...document.querySelectorAll('img.arrived')].filter((one) => one.naturalWidth)"
            shown(page, running, "/live", f"{pictures}.length == 3")
            assert page.run("document.querySelector('h1').textContent") == "The run is running"
            assert page.run("document.querySelector('main').textContent").count("http_gone, most often") == 1
            page.wait("document.documentElement.scrollWidth <= innerWidth")
            assert page.barriers() == [] == page.problems(running.url)
        store.remove()


def test_texts_of_the_web_do_nothing(page: Page, served: Served) -> None:
    for view, item, count in (
        ("/samples", ".cell", 101), ("/query/2", ".cell", 101),
        ("/rejects?reason=bad_url", "tbody tr", len(HOSTILE)),
    ):  # fmt: skip
        rows = f"document.querySelectorAll('{item}').length"
        shown(page, served, view, f"{rows} >= 60")
        page.wait(f"scrollTo(0, document.body.scrollHeight), {rows} >= {count}", 60)
        assert page.run(rows) == count
        assert page.problems(served.url) == [] and page.run("document.title").endswith("openwit browse")
        assert page.run("document.querySelectorAll('main :is(script, iframe, svg, style, math)').length") == 0
        links = "[...document.querySelectorAll('main a')].map((a) => a.getAttribute('href'))"
        assert all(link.startswith(("#/", "http")) for link in page.run(links))
