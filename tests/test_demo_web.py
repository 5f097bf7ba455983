"""The demonstration web: the same bytes for a seed, a truth its pages bear out, a server that behaves."""

import asyncio
import hashlib
import html.parser
import io
import json
import math
import random
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import aiohttp
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps
from warcio.archiveiterator import ArchiveIterator

from pipeline.demo import captions, draw, subjects
from pipeline.demo.markup import (
    LAZY_ATTRIBUTES,
    TRANSPARENT_GIF,
    DrawnPage,
    ImageElement,
    ImageText,
    references,
    render,
)
from pipeline.demo.server import Server, serve
from pipeline.demo.web import LARGEST_SHARE, Web, addresses, build, load, site_sizes
from pipeline.reasons import REASONS

SEED, IMAGES, SITES = 5, 160, 40


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Web:
    folder = tmp_path_factory.mktemp("demo") / "web"
    return build(folder, seed=SEED, n_images=IMAGES, n_sites=SITES, port=free_port())


@pytest.fixture(scope="module")
def small_web(tmp_path_factory: pytest.TempPathFactory) -> Web:
    folder = tmp_path_factory.mktemp("demo") / "small"
    return build(folder, seed=SEED + 1, n_images=60, n_sites=12, port=free_port(), evaluation_sets=False)


@pytest.fixture(scope="module")
def server(web: Web) -> Iterator[Server]:
    with serve(web) as running:
        yield running


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "access.jsonl")
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def file_of(web: Web, url: str) -> Path:
    """Return the file behind a URL that is answered with 200, by the site whose address it names."""
    parts = urlsplit(url)
    site = next(site for site in web.sites if site.address == parts.netloc)
    return web.folder / "sites" / site.name / parts.path.removeprefix("/")


# Drawings


def random_specs(count: int, seed: int = 0) -> list[draw.PictureSpec]:
    rng = random.Random(seed)
    return [draw.random_spec(rng) for _ in range(count)]


def test_a_drawing_is_decided_by_its_spec() -> None:
    for spec in random_specs(5):
        first, second = draw.draw(spec), draw.draw(spec)
        assert first.size == (spec.width, spec.height)
        assert first.mode == "RGB"
        assert first.tobytes() == second.tobytes()
        assert draw.draw(replace(spec, seed=spec.seed + 1)).tobytes() != first.tobytes()


@pytest.mark.parametrize(
    "change", [{"label": "zeppelin"}, {"colour": "beige"}, {"scene": "moon"}, {"width": 3}, {"height": 0}]
)
def test_a_spec_that_cannot_be_drawn_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"cannot draw|at least 16 pixels"):
        replace(random_specs(1)[0], **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("label", draw.CLASSES)
def test_no_subject_leaves_the_tile_it_is_drawn_on(label: str) -> None:
    reached = []

    class Ruler(subjects.Pen):
        def _pixels(self, points: object) -> list[tuple[float, float]]:
            reached.extend(points := list(points))  # type: ignore[call-overload]
            return super()._pixels(points)

    for seed in range(4):
        canvas = Image.new("RGB", (64, 64))
        subjects.SUBJECTS[label](Ruler(canvas, (32, 32), 20, 0), (200, 30, 30), np.random.default_rng(seed))
    assert 0.85 < max(math.hypot(x, y) for x, y in reached) < 1.22


def test_the_colour_asked_for_is_seen() -> None:
    for colour, wanted in draw.COLOURS.items():
        spec = replace(random_specs(1)[0], label="ball", colour=colour, size=0.8, x=0.5, y=0.5, scene="sky")
        image = draw.draw(spec)
        centre = np.asarray(image.crop([image.width // 2 - 9, image.height // 2 - 45, image.width // 2 + 9,
                                        image.height // 2 - 27]), dtype=float)  # fmt: skip
        seen = centre.reshape(-1, 3).mean(axis=0)
        nearest = min(draw.COLOURS, key=lambda name: float(np.abs(seen - draw.COLOURS[name]).sum()))
        assert nearest == colour, (seen, wanted)


def test_classes_can_be_told_apart_from_few_pixels() -> None:
    """Ridge regression on 24x18 edge strengths, far weaker than a network, must beat the 10% of chance."""
    specs = random_specs(700, seed=3)

    def features(spec: draw.PictureSpec) -> np.ndarray:
        image = draw.draw(replace(spec, width=96, height=72, size=0.8, x=0.5, y=0.5))
        luma = np.asarray(image.convert("L").resize((24, 18), Image.Resampling.BOX), dtype=float)
        edges = np.hypot(np.diff(luma, axis=0)[:, :-1], np.diff(luma, axis=1)[:-1])
        return np.concatenate([luma.ravel() / 255, edges.ravel() / 64, [1.0]])

    x = np.stack([features(spec) for spec in specs])
    labels = np.array([draw.CLASSES.index(spec.label) for spec in specs])
    train, test = slice(0, 550), slice(550, None)
    targets = np.eye(10)[labels[train]]
    weights = np.linalg.solve(x[train].T @ x[train] + 20 * np.eye(x.shape[1]), x[train].T @ targets)
    accuracy = float((np.argmax(x[test] @ weights, axis=1) == labels[test]).mean())
    assert accuracy > 0.4


def test_different_drawings_are_not_near_duplicates() -> None:
    """The signs of the 16x16 lowest DCT frequencies of unrelated pictures differ in many of 256 bits."""
    n = np.arange(64)
    basis = np.cos(np.pi * (2 * n[None, :] + 1) * np.arange(1, 17)[:, None] / 128)
    signs = []
    for spec in random_specs(300, seed=7):
        luma = np.asarray(draw.draw(spec).convert("L").resize((64, 64), Image.Resampling.BOX), dtype=float)
        signs.append(np.sign(basis @ luma @ basis.T).ravel())
    agreement = np.stack(signs) @ np.stack(signs).T
    distances = ((256 - agreement) / 2)[np.triu_indices(300, 1)]
    assert distances.min() > 45


# Captions


def test_captions_name_the_colour_and_the_class() -> None:
    rng = random.Random(1)
    for spec in random_specs(200):
        text = captions.english(spec, rng).lower()
        assert f"{spec.colour} {spec.label}" in text
        assert not [other for other in draw.CLASSES if other != spec.label and other in text.split()]
        assert " a orange" not in text
        assert " an red" not in text


def test_german_and_french_agree_in_gender() -> None:
    rng = random.Random(1)
    spec = replace(random_specs(1)[0], label="cup", colour="white", scene="table")
    assert "eine weiße Tasse auf einem Holztisch".lower() in captions.german(spec, rng).lower()
    assert "une tasse blanche sur une table en bois" in captions.french(spec, rng).lower()


def test_queries_are_unique_and_some_never_match() -> None:
    queries = captions.queries()
    assert len(queries) == len(set(queries))
    assert {"boat", "red", "red boat", "lake", "zeppelin"} <= set(queries)
    rng = random.Random(0)
    texts = " ".join(captions.english(spec, rng) for spec in random_specs(3000)).lower()
    assert [query for query in queries if query.lower() not in texts] == [
        "zeppelin", "quantum chromodynamics", "St. Petersburg", "hippopotamus", "purple rhinoceros",
    ]  # fmt: skip


# The truth against the pages


class Images(html.parser.HTMLParser):
    """Collect (markup hints, address, texts by kind) of each image, without any code of the builder's."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.base, self.found, self.srcset, self.caption = page, [], [], None  # type: ignore[var-annotated]
        self.page = page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        get = dict(attrs).get
        if tag == "base":
            self.base = urljoin(self.page, get("href") or "")
        elif tag == "source":
            self.srcset = self.resolve(get("srcset"))
        elif tag == "meta" and get("property") == "og:image":
            self.found.append([self.absolute(get("content")), {}, []])
        elif tag == "meta" and get("property") == "og:image:alt":
            self.found[-1][1]["og"] = get("content")
        elif tag == "img":
            lazy = [get(name) for name in LAZY_ATTRIBUTES if get(name)]
            assert not lazy or get("src") == TRANSPARENT_GIF
            texts = {kind: get(kind) for kind in ("alt", "title") if get(kind) is not None}
            self.found.append([self.absolute(lazy[0] if lazy else get("src")), texts,
                               self.resolve(get("srcset")) or self.srcset])  # fmt: skip
            self.srcset = []
        elif tag == "figcaption":
            self.caption = ""
        elif tag == "script":
            raise AssertionError("a caption has become markup")

    def handle_data(self, data: str) -> None:
        if self.caption is not None:
            self.caption += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "figcaption":
            self.found[-1][1]["figcaption"] = self.caption
            self.caption = None

    def absolute(self, href: str | None) -> str:
        assert href
        return href if href.startswith("data:") else urljoin(self.base, href).split("#")[0]

    def resolve(self, srcset: str | None) -> list[str]:
        return [self.absolute(part.split()[0]) for part in (srcset or "").split(", ") if part]


def warc_pages(web: Web) -> list[tuple[str, str, bytes]]:
    """Return (URL, charset, body) of each response record."""
    pages = []
    with web.warc.open("rb") as file:
        for record in ArchiveIterator(file):
            if record.rec_type == "response":
                charset = record.http_headers.get_header("Content-Type").split("charset=")[1]
                url = record.rec_headers.get_header("WARC-Target-URI")
                pages.append((url, charset, record.content_stream().read()))
    return pages


def test_the_truth_is_what_an_independent_parser_finds(web: Web) -> None:
    found = []
    for url, charset, body in warc_pages(web):
        parser = Images(url)
        parser.feed(body.decode(charset))
        parser.close()
        found += [(url, address, texts, srcset) for address, texts, srcset in parser.found]
    told = [
        (r.page, r.url, {text.kind: text.text for text in r.texts}, list(r.alternatives))
        for r in web.references
    ]
    assert found == told
    assert len(told) > IMAGES


def test_the_warc_holds_the_pages_that_the_sites_serve(web: Web) -> None:
    pages = warc_pages(web)
    files = {}
    for site in web.sites:
        folder = web.folder / "sites" / site.name
        for path in folder.rglob("*.html"):
            files[web.url_of(site.name) + path.relative_to(folder).as_posix()] = path.read_bytes()
    assert {url: body for url, _, body in pages} == files
    assert {charset for _, charset, _ in pages} == {"utf-8", "iso-8859-1"}


def test_digests_and_reasons_in_the_truth_hold(web: Web) -> None:
    for reference in web.references:
        assert reference.reason is None or reference.reason in REASONS
        if reference.reason is None:
            assert reference.sha256, reference
        # A label promises that the picture shows it: an unusable picture has none, save where not allowed.
        refused = (None, "robots_disallow", "robots_unavailable", "opt_out_x_robots_tag",
                   "opt_out_tdm_reservation")  # fmt: skip
        if reference.reason not in refused:
            assert reference.label is None, reference
    plain = [r for r in web.references if r.reason is None and "moved" not in " ".join(r.special)]
    for reference in plain:
        data = file_of(web, reference.url).read_bytes()
        assert hashlib.sha256(data).hexdigest() == reference.sha256
        with Image.open(io.BytesIO(data), formats=["JPEG", "PNG", "WEBP", "GIF"]) as image:
            image.load()
            assert min(image.size) >= 90
        assert all(file_of(web, url).exists() for url in reference.urls)


def test_the_web_has_everything_that_a_crawl_must_cope_with(web: Web) -> None:
    special = Counter(word for r in web.references for word in r.special)
    assert special["placeholder"] == 30
    assert special["dead_link"] >= 2
    assert special["moved"] >= 2
    assert special["moved_to_other_site"] >= 2
    reasons = {r.reason for r in web.references if r.reason}
    assert reasons >= {
        "animated", "bad_aspect", "bad_redirect", "data_url", "empty_body", "http_denied", "http_gone",
        "http_server_error", "not_image", "opt_out_tdm_reservation", "opt_out_x_robots_tag", "placeholder",
        "redirect_loop", "robots_disallow", "robots_unavailable", "svg", "too_many_pixels", "too_small",
        "truncated",
    }  # fmt: skip
    assert {r.markup for r in web.references} == {"img", "figure", "picture", "srcset", "lazy", "og"}
    natures = {text.nature for r in web.references for text in r.texts}
    assert natures >= {
        "caption",
        "german",
        "french",
        "file_name",
        "camera",
        "boilerplate",
        "hostile",
        "unrelated",
    }
    assert any(not r.texts for r in web.references)
    assert {r.label for r in web.references} >= set(draw.CLASSES)


def test_one_url_has_many_captions_and_one_picture_many_urls(web: Web) -> None:
    shared = [r for r in web.references if "shared_url" in r.special]
    by_url = Counter(r.url for r in shared)
    assert min(by_url.values()) >= 2
    for url in by_url:
        assert len({r.site for r in shared if r.url == url}) >= 2
    copies: dict[str | None, set[str]] = {}
    for r in web.references:
        if "same_bytes" in r.special:
            copies.setdefault(r.sha256, set()).add(r.url)
    assert copies
    assert all(len({urlsplit(url).netloc for url in urls}) >= 2 for urls in copies.values())
    pictures = [r.sha256 for r in web.references if "placeholder" in r.special]
    assert len(set(pictures)) == 1
    ordinary = {r.url: r.sha256 for r in web.references if r.reason is None and not r.special}
    assert len(set(ordinary.values())) == len(ordinary)


def test_candidates_are_counted_in_captions(web: Web) -> None:
    with_texts = sum(1 for r in web.references for text in r.texts if text.text.strip())
    without = sum(1 for r in web.references if not any(text.text.strip() for text in r.texts))
    assert web.candidates() == with_texts + without
    assert without > 0


def test_hostile_text_stays_text() -> None:
    nasty = 'x" onerror="alert(1)"><script>&amp;</script>\n\u202e🚀'
    mark = ImageElement(
        href="a.jpg", texts=(ImageText("alt", nasty, "hostile"), ImageText("figcaption", nasty, "hostile"))
    )
    for charset in ("utf-8", "iso-8859-1"):
        page = DrawnPage(
            url="http://127.0.1.1/p/index.html", title="T", marks=(mark,), charset=charset, base="/images/"
        )
        parser = Images(page.url)
        parser.feed(render(page).decode(charset))
        assert parser.found == [["http://127.0.1.1/images/a.jpg", {"alt": nasty, "figcaption": nasty}, []]]
        assert references("s", page, {}.get)[0].url == "http://127.0.1.1/images/a.jpg"


# The files beside


def test_two_builds_give_the_same_bytes_and_another_seed_others(
    web: Web, small_web: Web, tmp_path: Path
) -> None:
    port = web.sites[0].port
    again = build(tmp_path / "again", seed=SEED, n_images=IMAGES, n_sites=SITES, port=port)
    assert hashes(again.folder) == hashes(web.folder)
    assert again.references == web.references == load(web.folder).references
    others = {r.sha256 for r in small_web.references if r.label}
    assert others
    assert not others & {r.sha256 for r in web.references if r.label}


def test_site_sizes_have_a_heavy_tail_and_sum_up() -> None:
    for n_images, n_sites in ((1500, 150), (60, 12), (261, 40)):
        sizes = site_sizes(n_images, n_sites)
        assert sum(sizes) == n_images
        assert len(sizes) == n_sites
        assert sizes[0] == round(LARGEST_SHARE * n_images) == max(sizes)
        assert min(sizes) >= 1
    small = [size for size in site_sizes(1500, 150) if size <= 10]
    assert len(small) > 100


def test_the_url_table_repeats_the_truth(web: Web) -> None:
    rows = pq.read_table(web.folder / "urls.parquet").to_pylist()
    told = {(r.url, text.text) for r in web.references for text in r.texts}
    assert rows
    assert all((row["url"], row["caption"]) in told for row in rows)
    assert web.queries.read_text("utf-8").splitlines() == captions.queries()


def thumbnail(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB").resize((16, 16), Image.Resampling.BOX), dtype=float).ravel()


def altered(image: Image.Image, alteration: str) -> list[Image.Image]:
    """Return the views of `image` among which the altered copy must nearly be."""
    if alteration == "crop":
        width, height = image.width * 7 // 8, image.height * 7 // 8
        corners = [(i * image.width // 64, j * image.height // 64) for i in range(9) for j in range(9)]
        return [image.crop((x, y, x + width, y + height)) for x, y in corners]
    if alteration == "rotate":
        turned = [image.rotate(sign * angle) for sign in (-1, 1) for angle in (4, 5.5, 7)]
        return [ImageOps.crop(view, int(0.07 * max(image.size))) for view in turned]
    return [ImageOps.mirror(image)] if alteration == "flip" else [image]


def test_planted_copies_resemble_their_originals_and_the_rest_are_new(web: Web) -> None:
    truth = [json.loads(line) for line in (web.folder / "eval/truth.jsonl").read_text("utf-8").splitlines()]
    files = {p.relative_to(web.folder / "eval").as_posix() for p in (web.folder / "eval").rglob("*.png")}
    assert files == {f"{example['dataset']}/{example['example_id']}" for example in truth}
    planted = [example for example in truth if example["copy_of"]]
    assert {example["dataset"] for example in planted} == {"contaminated"}
    assert {example["alteration"] for example in planted} == {"crop", "rotate", "flip", "recompress"}
    on_pages = {r.url: r for r in web.references}

    for example in planted:
        source = on_pages[example["copy_of"]]
        assert (source.label, source.sha256, source.reason) == (example["label"], example["sha256"], None)
        with Image.open(web.folder / "eval" / example["dataset"] / example["example_id"]) as copy:
            small = thumbnail(copy)
        with Image.open(file_of(web, source.url)) as original:
            views = altered(original.convert("RGB"), example["alteration"])
        likeness = max(float(np.corrcoef(small, thumbnail(view))[0, 1]) for view in views)
        assert likeness > 0.9, example
    assert len({example["copy_of"] for example in planted}) == len(planted)

    alike = [example for example in truth if example["like"]]
    assert {example["dataset"] for example in alike} == {"clean"}
    assert {example["likeness"] for example in alike} == {"same_scene", "same_logo"}
    for example in alike:
        assert on_pages[example["like"]].label == example["label"] and example["copy_of"] is None


def test_a_folder_in_use_and_a_web_too_small_are_refused(web: Web, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not empty"):
        build(web.folder)
    with pytest.raises(ValueError, match="at least 12 sites"):
        build(tmp_path / "new", n_images=40, n_sites=11)
    assert not (tmp_path / "new").exists()


# The server


class Answered:
    """The answer to one request, the body read."""

    def __init__(self, response: aiohttp.ClientResponse, body: bytes) -> None:
        self.status, self.headers, self.body = response.status, response.headers, body


def get(*urls: str, headers: dict[str, str] | None = None) -> list[Answered]:
    async def run() -> list[Answered]:
        async with aiohttp.ClientSession() as session:
            answers = []
            for url in urls:
                async with session.get(url, allow_redirects=False, headers=headers) as response:
                    answers.append(Answered(response, await response.read()))
            return answers

    return asyncio.run(run())


def reference_with(web: Web, special: str) -> str:
    return next(r.url for r in web.references if special in r.special)


def test_every_url_of_the_truth_is_answered_as_told(web: Web, server: Server) -> None:
    statuses = {
        "http_gone": (404, 410),
        "http_denied": (403,),
        "http_server_error": (500,),
        "bad_redirect": (302,),
        "redirect_loop": (302,),
    }
    apart = {"slow_answer", "throttled_once", "data_uri"}
    told = {r.url: r for r in web.references if not apart & set(r.special)}
    for reference, answer in zip(told.values(), get(*told), strict=True):
        if reference.special in (("moved",), ("moved_to_other_site",)):
            assert answer.status in (301, 302)
            [answer] = get(urljoin(reference.url, answer.headers["Location"]))
        expected = statuses.get(reference.reason or "", (200,))
        assert answer.status in expected, reference
        if answer.status == 200:
            assert hashlib.sha256(answer.body).hexdigest() == reference.sha256


def test_redirects_lead_inside_and_outside_the_site(web: Web, server: Server) -> None:
    moved, elsewhere, loop = get(
        *(reference_with(web, s) for s in ("moved", "moved_to_other_site", "redirect_loop"))
    )
    assert moved.status == 301
    assert urlsplit(moved.headers["Location"]).netloc == ""
    here = urlsplit(reference_with(web, "moved_to_other_site")).netloc
    assert elsewhere.status == 302
    assert urlsplit(elsewhere.headers["Location"]).netloc not in ("", here)
    [back] = get(urljoin(reference_with(web, "redirect_loop"), loop.headers["Location"]))
    assert back.status == 302
    assert reference_with(web, "redirect_loop").endswith(back.headers["Location"])
    [without] = get(reference_with(web, "redirect_without_target"))
    assert without.status == 302
    assert "Location" not in without.headers


def test_robots_and_opt_outs_are_as_the_roles_say(web: Web, server: Server) -> None:
    by_role = {site.role: web.url_of(site.name) for site in reversed(web.sites)}
    disallow, partial, noai, unavailable = get(
        *(
            by_role[role] + "robots.txt"
            for role in ("robots_disallow", "robots_partial", "noai", "robots_unavailable")
        )
    )
    assert b"Disallow: /\n" in disallow.body
    assert b"Disallow: /private/\n" in partial.body
    assert noai.headers["X-Robots-Tag"] == "noai, noimageai"
    assert unavailable.status == 503
    image = next(r.url for r in web.references if r.reason == "opt_out_x_robots_tag" and not r.special)
    assert get(image)[0].headers["X-Robots-Tag"] == "noai, noimageai"
    noai_image, tdm_image = get(reference_with(web, "noai_header"), reference_with(web, "tdm_header"))
    assert noai_image.headers["X-Robots-Tag"] == "noimageai"
    assert tdm_image.headers["tdm-reservation"] == "1"
    private = [r for r in web.references if "/private/" in r.url]
    assert all(r.reason == "robots_disallow" for r in private)


def test_types_charsets_and_pages(web: Web, server: Server) -> None:
    latin = next(site for site in web.sites if site.charset == "iso-8859-1")
    root, index, sitemap = get(*(web.url_of(latin.name) + path for path in ("", "index.html", "sitemap.xml")))
    assert root.body == index.body
    assert index.headers["Content-Type"] == "text/html; charset=iso-8859-1"
    assert b"<loc>" + (web.url_of(latin.name) + "index.html").encode() in sitemap.body
    png, wrong = get(reference_with(web, "html_as_png"), reference_with(web, "wrong_type_header"))
    assert png.headers["Content-Type"] == "image/png"
    assert png.body.startswith(b"<!DOCTYPE html>")
    assert wrong.headers["Content-Type"].startswith("text/plain")


def test_a_throttled_answer_comes_the_second_time(web: Web, server: Server) -> None:
    url = reference_with(web, "throttled_once")
    first, second = get(url, url)
    assert (first.status, first.headers["Retry-After"], second.status) == (503, "1", 200)


def test_nothing_outside_the_sites_is_served(web: Web, server: Server) -> None:
    root = server.url_of("site-000")
    for path in ("../../web.json", "%2e%2e/%2e%2e/web.json", "..%2f..%2fweb.json", "images/", "/etc/passwd"):
        assert get(root + path)[0].status == 404
    assert get(root, headers={"Host": "example.org"})[0].status == 421


def test_the_log_has_each_request_when_its_answer_arrives(web: Web, server: Server) -> None:
    before = len(server.requests())
    get(server.url_of("site-001") + "images/none.jpg?a=1", headers={"User-Agent": "tester/1.0"})
    [line] = server.requests()[before:]
    address = next(site.address for site in web.sites if site.name == "site-001")
    assert line["time"]
    del line["time"]
    path = "/images/none.jpg?a=1"
    assert line == {"host": address, "method": "GET", "path": path, "status": 404, "agent": "tester/1.0"}


def test_the_sites_addresses_and_no_others_are_listened_on(web: Web, server: Server) -> None:
    assert len({site.address for site in web.sites}) == SITES
    # Nobody's address: a listener on all interfaces would answer here, and so to the network.
    with pytest.raises(OSError), socket.create_connection(("127.0.200.200", web.sites[0].port), timeout=5):
        pass


def test_sites_differ_by_port_where_there_is_one_loopback_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "pipeline.demo.web._can_bind", lambda host, port: host == "127.0.0.1" and port != 28081
    )
    assert addresses(3) == ["127.0.0.1:28082", "127.0.0.1:28083", "127.0.0.1:28084"]
    assert addresses(2, 9000) == ["127.0.0.1:9000", "127.0.0.1:9001"]


def test_the_server_ends_with_its_block_and_reports_a_port_in_use(
    small_web: Web, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with serve(small_web, tmp_path / "log.jsonl") as running:
        assert get(running.url_of("site-000"))[0].status == 200
        assert len(running.requests()) == 1
        with pytest.raises(RuntimeError, match=r"another port"), serve(small_web):
            pass
        assert "cannot serve" in capfd.readouterr().err
    with pytest.raises(aiohttp.ClientConnectionError):
        get(small_web.url_of("site-000"))
