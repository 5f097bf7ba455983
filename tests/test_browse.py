"""`openwit browse`: a real server, a real browser, and people who should not get in."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline import schemas
from pipeline.browse.cli import serve
from pipeline.browse.guard import Guard
from pipeline.index import place
from pipeline.options.finished import BrowseConfig
from tests import finished_run
from tests.browser import Page, chromium

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

    def ask(self, path: str, method: str = "GET", body: str = "", **headers: str) -> tuple[int, str]:
        """Return status and text of an answer."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body or None, names)
        answer = connection.getresponse()
        found = answer.status, answer.read().decode("utf-8", "replace")
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
    rows = [("1" * 32, text, text, text, "candidates", "bad_url", text, 1) for text in HOSTILE]
    schemas.write_table(f"{folder}/rejected/b.parquet", schemas.to_table(rows, schemas.REJECTED_ROWS))
    of = place.dataset(str(folder))
    path, _ = place.renew(of, lambda done, total, rows: None)
    port = free_port()
    options = BrowseConfig(run=str(folder), port=port, open=False)
    loop = asyncio.new_event_loop()
    task = loop.create_task(serve(of, path, options))
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
    yield Served(port, folder)
    loop.call_soon_threadsafe(task.cancel)
    thread.join()
    loop.close()


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with chromium() as found:
        yield found


def test_pages_of_samples(served: Served) -> None:
    found = served.json("/api/samples?q=umbrella&offset=60&limit=20")
    assert found["total"] == 70 and len(found["samples"]) == 10
    assert set(found["samples"][0]) >= {"uid", "key", "url", "caption"}
    assert served.json("/api/samples?query=dog&limit=1")["total"] == served.json("/api/info")["samples"]
    assert served.json("/api/samples?site=a.test&q=snow")["samples"][0]["caption"] == "a dog in snow"
    rejected = served.json("/api/samples?reason=robots_disallow&limit=1")
    assert rejected["samples"][0]["reason"] == "robots_disallow" and rejected["total"] > 70
    uid = found["samples"][0]["uid"]
    status, _ = served.ask(f"/api/image/{uid}")
    assert status == 200 and served.headers["Content-Type"] == "image/jpeg"
    assert served.json(f"/api/sample/{uid}")["queries"][0]["query"] == "beach"
    assert served.json("/api/query/beach?limit=3")["total"] == served.json("/api/info")["samples"]
    assert served.json("/api/live")["state"] == "complete"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/samples?query=no+such", 400), ("/api/samples?min_width=wide", 400),
        ("/api/samples?sort=uid", 400),
        ("/api/samples?offset=-1", 400), ("/api/sample/none", 404), ("/api/image/none", 404),
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
    assert sorted(path.name for path in (served.folder / "selections").iterdir()) == ["umbrellas.parquet"]


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
    for view, condition in (
        ("/samples", f"{cells} >= 60"), ("/samples?q=snow", f"{cells} == 1"), ("/query/0", f"{cells} >= 60"),
        ("/queries", f"{rows} == 3"), ("/sites", f"{rows} == 1"), ("/rejects", f"{rows} >= 60"),
        ("/numbers", "document.querySelectorAll('.plot i').length == 40"),
        ("/live", "document.querySelector('h1')?.textContent == 'The run is complete'"),
        ("/sample/000000007", "document.querySelector('.sample img')?.naturalWidth > 0"),
        ("/sample/none", "document.querySelector('.error')?.textContent == 'no such sample'"),
    ):  # fmt: skip
        shown(page, served, view, condition)
        page.wait("document.documentElement.scrollWidth <= innerWidth")
        expected = ["404"] if view.endswith("none") else []
        problems = page.problems(served.url)
        assert len(problems) == len(expected), problems


def test_search_filter_keys_and_selection(page: Page, served: Served) -> None:
    page.call("Emulation.clearDeviceMetricsOverride")
    shown(page, served, "/samples", "document.querySelectorAll('.cell').length >= 60")
    page.key("/")
    assert page.run("document.activeElement.id") == "words"
    page.run("words.value = 'umbrella beach -7'; document.getElementById('search').requestSubmit()")
    page.wait("document.querySelector('.bar strong')?.textContent == '69'")
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
