"""Real pages, crawled from loopback: an independent reader says what is there; nothing may be lost."""

import threading
from collections import Counter
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, urljoin

import pytest

from pipeline.captions.text import clean
from pipeline.cli import main
from tests.crawling import manifest, reasons, rejected, samples

PAGES = Path("/usr/share/doc/python-skimage-doc/html")  # Debian: python-skimage-doc
WORDNET = Path("/usr/share/wordnet")  # Debian: wordnet-base

pytestmark = pytest.mark.skipif(
    not (PAGES.exists() and WORDNET.exists()), reason="needs Debian's python-skimage-doc and wordnet-base"
)


class Reader(HTMLParser):
    """List (URL, text) of every img: alt, title, and the caption of the figure around it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.page, self.found = page, []
        self.figures: list[dict] = []
        self.in_caption = 0

    def handle_starttag(self, tag, attrs) -> None:
        values = {name: value or "" for name, value in reversed(attrs)}
        if tag == "figure":
            self.figures.append({"urls": [], "text": "", "texts": []})
        elif tag == "figcaption" and self.figures:
            self.in_caption += 1
        elif tag == "img":
            url = urljoin(self.page, values.get("src", "").strip()).partition("#")[0]
            texts = [values[name] for name in ("alt", "title") if values.get(name, "").strip()]
            if self.figures:
                self.figures[-1]["urls"].append((url, texts))
            else:
                self.found.append((url, texts))

    def handle_data(self, data: str) -> None:
        if self.in_caption:
            self.figures[-1]["text"] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "figcaption" and self.in_caption:
            self.in_caption -= 1
        elif tag == "figure" and self.figures:
            figure = self.figures.pop()
            caption = [figure["text"]] if figure["text"].strip() else []
            self.found += [(url, texts + caption) for url, texts in figure["urls"]]


def independent(base: str) -> list[tuple[str, list[str]]]:
    found = []
    for page in sorted(PAGES.rglob("*.html")):
        reader = Reader(base + quote(str(page.relative_to(PAGES))))
        reader.feed(page.read_text("utf-8", "replace"))
        found += reader.found
    return found


@pytest.fixture(scope="module")
def served():
    class Quiet(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(PAGES)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


def test_no_image_with_text_is_lost(served: str, tmp_path: Path) -> None:
    lemmas = {
        line.split()[4].partition("(")[0].replace("_", " ")
        for part in ("noun", "verb", "adj", "adv")
        for line in (WORDNET / f"data.{part}").read_text("latin-1").splitlines()
        if not line.startswith("  ")
    }
    (tmp_path / "wordnet.txt").write_text("\n".join(sorted(lemmas)) + "\n")
    run = tmp_path / "run"
    argv = [
        "--queries", str(tmp_path / "wordnet.txt"), "--source", str(PAGES), "--base-url", served,
        "--out", str(run),
        "--allow-network", "127.0.0.0/8", "--per-query", "3", "--lang", "any", "--workers", "1",
        "--host-concurrency", "8", "--no-file-names",
    ]  # fmt: skip
    assert main(argv) == 0

    expected = independent(served)
    texts = Counter(clean(text) for _, own in expected for text in own or [""])
    found = Counter(row["caption"] for row in rejected(run) for _ in range(row["candidates"]))
    rows = samples(run)
    found.update(caption for row in rows for caption in row["captions"])
    missing, extra = texts - found, found - texts
    assert not missing
    # Parts that the reader does not look at: og:image, and the sources of <picture>.
    assert sum(extra.values()) <= 0.05 * sum(texts.values())
    urls = {row["url"] for row in rows} | {row["url"] for row in rejected(run)}
    assert {url for url, own in expected if own} <= urls

    counts = manifest(run)["counts"]
    assert counts["candidates"] == counts["captions"] + counts["rejected"] == sum(found.values())
    assert len(rows) > 50 and reasons(run)["over_cap"] > 0, "the cap bites"
    assert len({row["uid"] for row in rows}) == len(rows)


def test_the_independent_reader_sees_what_debian_ships(served: str) -> None:
    found = independent(served)
    assert len({url for url, _ in found}) > 300
    assert sum(len(own) for _, own in found) > 800
