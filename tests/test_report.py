"""The report: its numbers are those of the files, and a browser shows it whatever the web put into it."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import charts, querylist, report, safe_html, untrusted
from pipeline.formats import count
from pipeline.report import collect, funnel, network, numbers, page
from pipeline.report.funnel import Cause
from pipeline.report.samples import RepeatedTexts, sites_of
from pipeline.report.totals import Totals
from pipeline.run_folder import Layout
from pipeline.urls import canonical, site
from tests import finished_run
from tests.browser import Page, chromium
from tests.crawling import manifest, rejected, samples

pytestmark = pytest.mark.timeout(900)

HOSTILE = (
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "</style><style>body{display:none}</style><!-- <title>",
    "javascript:document.title='owned'",
    "{{ 7 * 7 }} {% raw %} ]]> ' \" & \\ \u2028 $\\frac{1}{2}$",
    "\u202egnp.exe\u202c \u2066isolate",
    "a\u0301\u0302\u0303\u0304\u0305\u0306\u0307\u0308\u0309\u030a" * 40,
    "\x00\x1b]0;owned\x07 \ud83d",
    "huge " * 20_000,
    "x" * 9_000,
    "犬と猫 🐕‍🦺 كلب",
)
_COUNTED = ("by_words", "by_side", "by_aspect")
# Arrow and JSON hold no lone surrogates: text that reaches a shard has none.
TEXTS = tuple(text.encode("utf-8", "replace").decode() for text in HOSTILE)


@pytest.fixture(scope="module")
def collected(whole: Path) -> collect.Collected:
    return collect.collect(Layout(str(whole)))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run in which every text of the web is hostile."""
    folder = tmp_path_factory.mktemp("hostile") / "<b>run"
    layout = finished_run.build(folder, TEXTS, TEXTS, url="javascript:document.title='owned'//", sites=TEXTS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report.write(layout)
    return folder / "report" / "index.html"


def test_counts_are_those_of_the_shards(whole: Path, collected: collect.Collected) -> None:
    rows, found = samples(whole), collected.samples
    texts = [caption for row in rows for caption in row["captions"]]
    assert found.samples == len(rows) and found.captions == len(texts)
    assert found.words == sum(len(text.split()) for text in texts)
    assert found.text_bytes == sum(len(text.encode()) for text in texts)
    assert found.image_bytes == sum(row["bytes"] for row in rows)
    assert found.formats == Counter(row["format"] for row in rows)
    assert found.languages == Counter(row["lang"] for row in rows)
    sides = Counter(min(row["original_width"], row["original_height"]) for row in rows)
    assert {int(n): int(found.by_side[n]) for n in found.by_side.nonzero()[0]} == sides
    assert found.by_aspect.sum() == found.by_words.sum() - len(texts) + len(rows)
    lengths = Counter(min(len(text.split()), 60) for text in texts)
    assert {int(n): int(found.by_words[n]) for n in found.by_words.nonzero()[0]} == lengths
    names = Counter(site(canonical(row["url"])) for row in rows)
    assert {row["site"]: row["samples"] for row in found.sites.to_pylist()} == names
    repeated = Counter(texts)
    assert all(repeated[text] == count > 1 for text, count in found.repeated)
    assert len(found.repeated) == min(12, sum(count > 1 for count in repeated.values()))


def test_contacts_are_counted_and_masked_on_the_page(tmp_path: Path) -> None:
    texts = ["a dog, mail joe@example.org", "call +44 20 7946 0958", "IBAN GB82WEST12345698765432", "a dog"]
    layout = finished_run.build(tmp_path / "run", texts, url="https://a.test/joe@example.org.jpg")
    report.write(layout)
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert "mail addresses in 1 caption, telephone numbers in 1 caption" in page
    assert "--mask-contacts replaces them, and is recommended here" in page
    assert not [secret for secret in ("joe@", "7946", "GB82WEST") if secret in page]
    found = json.loads((tmp_path / "run" / "report" / "report.json").read_text())
    assert found["captions_with_contacts"] == {"email": 1, "phone": 1, "id": 1}


def test_the_rows_to_look_at_are_the_extreme_ones(whole: Path, collected: collect.Collected) -> None:
    rows = samples(whole)
    expected = {
        "longest_caption": sorted((-len(row["caption"]), row["key"]) for row in rows),
        "shortest_caption": sorted((len(row["caption"]), row["key"]) for row in rows),
        "most_queries": sorted((-len(row["matched_query_ids"]), row["key"]) for row in rows),
        "least_certain_language": sorted((row["lang_score"], row["key"]) for row in rows),
        "largest": sorted((-row["original_width"] * row["original_height"], row["key"]) for row in rows),
        "emptiest": sorted(
            (row["bytes"] * 8 / row["original_width"] / row["original_height"], row["key"]) for row in rows
        ),
    }
    found = {
        measure.name: [picture.row["key"] for _, picture in pictures]
        for measure, pictures in collected.extremes
    }
    for name, order in expected.items():
        assert found[name] == [key for _, key in order[:6]], name
    assert len({picture.row["key"] for picture in collected.gallery}) == 48
    assert all(picture.thumbnail.startswith(b"\xff\xd8") for picture in collected.gallery)


def test_the_funnel_loses_nobody(whole: Path, collected: collect.Collected) -> None:
    counts, entered = manifest(whole)["counts"], manifest(whole)["counts"]["candidates"]
    for step in collected.steps:
        assert step.entered == entered
        entered -= sum(cause.captions for cause in step.causes)
        assert step.left == entered
    assert entered == counts["captions"]
    by_reason = Counter()
    for row in rejected(whole):
        by_reason[row["stage"], row["reason"]] += row["candidates"]
    shown = {(s.stage, c.reason): c.captions for s in collected.steps for c in s.causes}
    assert shown == dict(by_reason)
    assert set(collected.rejected) == {row["reason"] for row in rejected(whole)}


def test_sites_and_moments_add_up_to_the_rounds(whole: Path, collected: collect.Collected, tmp_path) -> None:
    run = shutil.copytree(whole, tmp_path / "run", ignore=shutil.ignore_patterns("*.blob"))
    report.write(Layout(str(run)))
    rounds = manifest(run)["rounds"]
    sites = [json.loads(line) for line in (run / "report/sites.jsonl").read_text().splitlines()]
    moments = [json.loads(line) for line in (run / "report/pace.jsonl").read_text().splitlines()]
    for rows in (sites, moments):
        assert sum(row["images"] for row in rows) == sum(one["images"] for one in rounds)
        assert sum(row["bytes"] for row in rows) == sum(one["bytes"] for one in rounds)
    assert sum(row["samples"] for row in sites) == len(samples(run))
    assert [row["site"] for row in sites] == sorted({row["site"] for row in sites})
    good = sum(one["reasons"][""] for one in rounds if "" in one["reasons"])
    assert sum(row["arrived"] for row in sites) == good
    failures = collected.network.failures
    assert sum(failures["images"].to_pylist()) == sum(one["images"] for one in rounds) - good
    costs = {one.reason: one for one in numbers.opt_out_costs(collected)}
    assert costs and all(funnel.is_opt_out(reason) for reason in costs)
    assert costs["robots_disallow"].sites == len(
        {row["site"] for row in failures.to_pylist() if row["reason"] == "robots_disallow"}
    )
    written = json.loads((run / "report/report.json").read_text())
    assert written["counts"] == manifest(run)["counts"] and written["words"] == collected.samples.words


def test_the_same_run_gives_the_same_bytes_anywhere(whole: Path, tmp_path: Path) -> None:
    """In another process, time zone, language and hash seed, and with matplotlib set up otherwise."""
    run = shutil.copytree(whole, tmp_path / "run", ignore=shutil.ignore_patterns("*.blob"))
    (tmp_path / "matplotlibrc").write_text("font.size: 30\naxes.grid: False\n")
    digests = []
    for number, zone in enumerate(("UTC", "Asia/Tokyo")):
        code = "import sys; from pipeline import report, run_folder as f; report.write(f.Layout(sys.argv[1]))"
        extra = {"PYTHONHASHSEED": str(number), "TZ": zone, "LC_ALL": "C.UTF-8" if number else "C"}
        if number:
            extra["MATPLOTLIBRC"] = str(tmp_path / "matplotlibrc")
        subprocess.run([sys.executable, "-c", code, str(run)], check=True, env={**os.environ, **extra})
        files = [*sorted((run / "report").iterdir()), run / "README.md", run / "croissant.json"]
        digests.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files})
    assert digests[0] == digests[1]
    assert set(digests[0]) == {
        "index.html", "report.json", "sites.jsonl", "pace.jsonl", "README.md", "croissant.json",
        "eu-training-summary.html", "eu-training-summary.json",
    }  # fmt: skip


@pytest.mark.parametrize("captions", [(), ("a dog",)], ids=["no sample", "one sample"])
def test_small_runs_have_a_report(tmp_path: Path, captions: tuple[str, ...]) -> None:
    layout = finished_run.build(tmp_path / "run", captions)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report.write(layout)
    text = (tmp_path / "run/report/index.html").read_text()
    assert f"</bdi>: {count(len(captions), 'image-text sample')}</h1>" in text
    assert ("No sample is in the set" in text) == (not captions)
    shutil.rmtree(tmp_path / "run/work")  # a set that was moved without it
    shutil.rmtree(tmp_path / "run/rejected")
    report.write(layout)
    assert "logs of the fetched units are gone" in (tmp_path / "run/report/index.html").read_text()


def sentences(page_text: str) -> str:
    """Return the text of a report outside its figures and its configuration."""
    kinds = "|".join(rf"<{name}\b.*?</{name}>" for name in ("style", "script", "svg"))
    shown = re.sub(rf"{kinds}|<[^>]+>", " ", page_text, flags=re.DOTALL)
    return re.sub(r"\s+", " ", shown).partition("How to make it again")[0]


def test_without_a_query_list_nothing_is_said_of_queries(tmp_path: Path) -> None:
    everything = {"per_query": querylist.NO_CAP, "dedup": "off"}
    for name, queries, options in (("all", querylist.EVERYTHING, everything), ("list", ["dog", "cat"], {})):
        report.write(finished_run.build(tmp_path / name, ["a dog", "a cat"], queries, **options))
        text = (tmp_path / name / "report/index.html").read_text()
        card = (tmp_path / name / "README.md").read_text()
        shown = sentences(text)
        for said in (
            "quer", "chosen among 6 candidates for 2 of 2 queries", "of the queries are in the set",
            "and match a query", "Balance over", "Queries that keep a sample", "#balance",
            "In the set, after merging equal images and the exact balance",
        ):  # fmt: skip
            assert (said in (text if said.startswith("#") else shown)) is (name == "list"), said
        assert ("keep as many samples as they may" in card) is (name == "list")
        assert ("follows the queries" in card) is (name == "list")
        assert "No query list was given" in card or name == "list"


def test_one_of_a_thing_is_not_called_several_nor_drawn_as_a_curve(tmp_path: Path) -> None:
    report.write(finished_run.build(tmp_path / "run", ["dog"], per_query=1))
    text = (tmp_path / "run/report/index.html").read_text()
    shown, card = sentences(text), (tmp_path / "run/README.md").read_text()
    assert not re.findall(r"\b1 (?:samples|captions|words|sites|queries|images|requests)\b", shown + card)
    assert "1 site " in shown and "Of 1 query: 1 with a match" in shown
    assert "of the samples over the sites" not in text and "Samples per query, sorted" not in text


def test_an_empty_shard_and_a_broken_picture_are_shown_as_such(tmp_path: Path) -> None:
    from pipeline.report.thumbnails import thumbnail

    layout = finished_run.build(tmp_path / "run", ["a dog"] * 3, per_shard=3)
    found = json.loads(Path(layout.manifest).read_text())
    empty = {"name": "00001.tar", "samples": 0, "bytes": 0, "sha256": "0" * 64, "parquet_sha256": "0" * 64}
    table = pq.read_table(f"{layout.shards}/00000.parquet")
    pq.write_table(table.slice(0, 0), f"{layout.shards}/00001.parquet")
    shutil.copy(f"{layout.shards}/00000.tar", f"{layout.shards}/00001.tar")
    Path(layout.manifest).write_text(json.dumps(found | {"shards": [*found["shards"], empty]}))
    assert collect.collect(layout).samples.samples == 3
    assert thumbnail(b"\xff\xd8 not a picture") == b"" == thumbnail(b"")


def test_it_leads_to_the_report_of_its_queries(tmp_path: Path) -> None:
    layout = finished_run.build(tmp_path / "run", ["a dog"], queries_path=str(tmp_path / "q.parquet"))
    own = Path(f"{layout.report}/index.html")
    report.write(layout)
    assert "See also" not in own.read_text()
    theirs = tmp_path / "q_report.html"
    theirs.write_text('<p class="soft" id="links" hidden></p><p class="soft" id="links">')
    for _ in range(2):
        report.write(layout)
        assert '<a href="./../../q_report.html">the queries</a>' in own.read_text()
    back = '<a href="./run/report/index.html">the dataset run</a>'
    assert theirs.read_text() == f'<p class="soft" id="links">See also {back}.</p><p class="soft" id="links">'
    safe_html.link_back(str(theirs), str(own.with_name("report.json")), "<numbers>")
    assert f'{back}, <a href="./run/report/report.json">&lt;numbers&gt;</a>.</p>' in theirs.read_text()


def test_rare_reasons_are_folded() -> None:
    causes = [
        Cause(f"r{n}", count, 0.0, 0.0, False, "") for n, count in enumerate([900, 50, 40, 9, 5, 4, 2, 0])
    ]
    assert page.folded(causes) == (causes[:5], causes[5:])
    assert page.folded(causes[:7]) == (causes[:7], []) and page.folded([]) == ([], [])
    assert page.folded(causes[:1] * 9) == (causes[:1] * 9, [])
    few = causes[5:] * 3  # of which a hundredth is less than a caption
    assert page.folded(sorted(few, key=lambda cause: -cause.captions))[1] == [*causes[6:7], *causes[7:] * 3]


def test_an_unfinished_run_has_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is the run finished"):
        report.write(Layout(str(tmp_path)))


def test_no_text_of_the_web_becomes_markup(hostile: Path) -> None:
    text = hostile.read_text(encoding="utf-8")
    assert text.count("<script") == 1 == text.count("<style"), "the page's own"
    assert "<!--" not in text and "<img src=x" not in text and 'href="javascript' not in text
    assert "{{ 7 * 7 }}" in text, "a template in a caption is text as well"
    assert "default-src 'none'" in text and "unsafe-inline" not in text
    assert not re.search(r"\sstyle=", text), "the policy would refuse it"
    assert not re.search("[\u202a-\u202e\u2066-\u2069]", text) and "[U+202E]" in text
    assert len(text) < 3_000_000, "huge captions are cut"


def test_hostile_texts_are_inert_and_nothing_is_loaded(hostile: Path) -> None:
    with chromium() as tab:
        tab.open(hostile)
        assert tab.run("document.title").startswith("<b>run: ")
        assert tab.run("[...document.links].every(a => a.getAttribute('href').startsWith('#'))") is True
        assert tab.run("document.querySelectorAll('iframe, object, form, embed, base').length") == 0
        assert tab.run("[...document.images].every(i => i.src.startsWith('data:image/jpeg;base64,'))") is True
        tab.run("document.querySelectorAll('details').forEach(d => { d.open = true })")
        tab.run("document.querySelectorAll('th button').forEach(b => b.click())")
        assert tab.run("getComputedStyle(document.body).display") == "block"
        shown = tab.run("document.body.innerText")
        assert "<img src=x onerror=" in shown and "javascript:document.title" in shown and "犬と猫" in shown
        width = tab.run("Math.max(...[...document.querySelectorAll('.cards li')].map(e => e.offsetWidth))")
        assert width < 400, "a word without spaces does not stretch its card"
        assert tab.run("document.documentElement.scrollWidth <= innerWidth") is True
        assert tab.problems() == []


def test_the_policy_stops_what_the_page_did_not_bring(hostile: Path) -> None:
    with chromium() as tab:
        tab.open(hostile)
        tab.run("var s = document.createElement('script'); s.textContent = 'document.title = 1'")
        tab.run("document.body.append(s)")
        tab.run("var i = document.createElement('img'); i.src = 'http://127.0.0.1:9/x.png'")
        tab.run("document.body.append(i)")
        assert tab.run("document.title") != "1"
        assert any("Content Security Policy" in problem for problem in tab.problems())
        failed = [e["params"] for e in tab.events if e.get("method") == "Network.loadingFailed"]
        assert [one["blockedReason"] for one in failed] == ["csp"]


@pytest.fixture(scope="module")
def tab(whole: Path) -> Page:
    with chromium() as opened:
        opened.open(whole / "report" / "index.html")
        yield opened


def test_a_crawl_leaves_a_report_that_shows_its_figures(whole: Path, tab: Page) -> None:
    assert tab.run("document.querySelectorAll('figure svg').length") == 8
    assert tab.run("[...document.querySelectorAll('figure svg')].every(s => s.clientHeight > 150)") is True
    assert tab.run("document.querySelectorAll('#gallery ~ * .cards li, #gallery ~ .cards li').length") > 60
    shown = tab.run("document.body.innerText")
    counts = manifest(whole)["counts"]
    for number in (counts["candidates"], counts["captions"], counts["samples"]):
        assert f"{number:,}" in shown
    for reasons in counts["rejected_by_stage"].values():
        assert all(reason in tab.run("document.body.textContent") for reason in reasons), "rare ones folded"
    ids = tab.run("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids)), "the figures' ids keep apart"
    paints = tab.run(
        "[...document.querySelectorAll('figure svg path')].map(p => getComputedStyle(p).fill + "
        "getComputedStyle(p).stroke)"
    )
    assert "rgb(36, 87, 197)" in " ".join(paints), "colours are those of the page"
    assert tab.problems() == []


def test_it_fits_a_telephone(tab: Page) -> None:
    tab.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=2, mobile=True)
    tab.run("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert tab.run("document.documentElement.scrollWidth") == 390
    sizes = tab.run("[...document.querySelectorAll('figure svg')].map(s => s.clientWidth)")
    assert all(300 < size <= 390 for size in sizes)
    assert tab.barriers() == []
    tab.call("Emulation.clearDeviceMetricsOverride")


def test_it_is_used_by_keyboard(tab: Page) -> None:
    tab.run("scrollTo(0, 0); document.activeElement.blur()")
    for _ in range(3):
        tab.key("Tab", 9)
    assert tab.run("document.activeElement.getAttribute('href')") == "#balance"
    tab.run(
        "document.querySelector('.cards summary').focus(); document.activeElement.parentElement.open = false"
    )
    tab.call("Input.dispatchKeyEvent", type="keyDown", key="Enter", text="\r", windowsVirtualKeyCode=13)
    tab.call("Input.dispatchKeyEvent", type="keyUp", key="Enter", windowsVirtualKeyCode=13)
    assert tab.run("document.activeElement.parentElement.open") is True
    values = (
        "[...document.querySelectorAll('table.sortable tbody tr')].map(r => Number(r.cells[1].dataset.value))"
    )
    names = "[...document.querySelectorAll('table.sortable tbody tr')].map(r => r.cells[0].textContent)"
    tab.run("document.querySelectorAll('table.sortable th button')[1].focus()")
    for direction in ("descending", "ascending"):
        tab.run("document.activeElement.click()")  # Enter and Space click a button
        shown = tab.run(values)
        assert shown == sorted(shown, reverse=direction == "descending")
        assert tab.run("document.activeElement.parentElement.getAttribute('aria-sort')") == direction
    tab.run("document.querySelectorAll('table.sortable th button')[0].click()")
    assert len(set(tab.run(names))) == len(shown) > 20


def test_figures_keep_to_the_policy_and_to_themselves(collected: collect.Collected) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = page.drawings(collected)
        assert page.drawings(collected) == drawn
    ids = []
    for svg in drawn.values():
        nodes = list(ET.fromstring(svg).iter())
        assert not any("style" in node.attrib or "{" in node.tag for node in nodes)
        ids += [node.attrib["id"] for node in nodes if "id" in node.attrib]
        used = re.findall(r"(?:href=\"#|url\(#)([\w-]+)", svg)
        assert set(used) <= set(ids)
    assert len(ids) == len(set(ids))
    assert all("#0000f" not in svg for svg in drawn.values()), "every colour is a variable of the page"


@pytest.mark.parametrize("times", [1, 1_234_567])
def test_every_text_of_a_figure_has_room(
    collected: collect.Collected, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """Also where numbers have as many digits as they can."""
    drawn = []
    original = charts.Figure

    def noted(**options: Any) -> charts.Figure:
        drawn.append(original(**options))
        return drawn[-1]

    monkeypatch.setattr(charts, "Figure", noted)
    shown, crawl, balance = collected.samples, collected.network, collected.balance
    larger = replace(
        collected,
        samples=replace(shown, **{name: getattr(shown, name) * times for name in _COUNTED}),
        balance=replace(balance, curves={
            name: curve._replace(counts=[times * count for count in curve.counts])
            for name, curve in balance.curves.items()
        }),
        network=replace(
            crawl, latency=[times * count for count in crawl.latency],
            pace=[(start, *(times * value for value in row)) for start, *row in crawl.pace],
        ),
    )  # fmt: skip
    page.drawings(larger)
    assert len(drawn) == 8
    for figure in drawn:
        box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert 0 <= box.x0 < box.x1 <= width and 0 <= box.y0 < box.y1 <= height, figure.axes[0].get_ylabel()


def test_texts_are_shown_as_what_they_are() -> None:
    assert untrusted.visible("a\u202eb\x00c\u200bd") == "a[U+202E]b[U+0000]c[U+200B]d"
    assert untrusted.visible("👩\u200d👩\u200d👧 क्\u200dष") == "👩\u200d👩\u200d👧 क्\u200dष", "joiners stay"
    assert untrusted.visible("x" * 1000, 10) == "x" * 10 + "… (1,000 characters)"
    assert untrusted.visible("e" + "\u0301" * 500, 40) == "e" + "\u0301" * 4
    assert untrusted.visible("\ud800").encode() == b"[U+D800]"


def test_sites_of_urls_of_any_kind() -> None:
    urls = [
        "https://images.example.co.uk/a",
        "HTTP://Example.ORG:8080/b",
        "http://127.0.0.1/c",
        "javascript:x",
        "",
    ]
    found = sites_of(pa.chunked_array([urls])).to_pylist()
    assert found == ["example.co.uk", "example.org", "127.0.0.1", "no URL", "no URL"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=20), max_size=10), st.integers(1, 8))
def test_repeated_texts_are_counted_exactly_in_bounded_memory(shards: list[list[str]], most: int) -> None:
    texts = RepeatedTexts(most)
    for shard in shards:
        texts.add(pa.array(shard, pa.string()))
    truth = Counter(text for shard in shards for text in shard)
    found = dict(texts.most(100))
    assert all(truth[text] == count for text, count in found.items())
    assert texts._totals.rows <= 2 * most + 20
    if len(truth) <= most:
        assert found == {text: count for text, count in truth.items() if count > 1}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.floats(0, 9)), max_size=50))
def test_totals_are_sums_and_maxima_by_key(rows: list[tuple[str, int, float]]) -> None:
    totals = Totals({"k": pa.string()}, {"n": pa.int64(), "m": pa.float64()}, maxima=("m",))
    for start in range(0, len(rows), 7):
        totals.add([dict(zip("knm", row, strict=True)) for row in rows[start : start + 7]])
        totals.table()
    expected = [
        {"k": k, "n": sum(n for key, n, _ in rows if key == k), "m": max(m for key, _, m in rows if key == k)}
        for k in sorted({row[0] for row in rows})
    ]
    assert totals.table().to_pylist() == expected


def test_long_crawls_have_few_moments() -> None:
    pace = network.TimeBins()
    rng = np.random.default_rng(0)
    for start in rng.integers(0, 10_000_000, 3000).tolist():
        pace.add(2, [[start // 2, 3, 2, 10, 1.5]])
    rows = pace.rows()
    assert len(rows) <= 2000 and pace.width >= 4096
    assert sum(row[1] for row in rows) == 9000 and sum(row[3] for row in rows) == 30_000
    assert sum(row[4] for row in rows) * pace.width == pytest.approx(4500)


def test_answer_times_at_a_share() -> None:
    counts = [0] * 40
    counts[10], counts[20] = 95, 5
    assert network.quantile(counts, 0.5) == network.edge(11) == network.quantile(counts, 0.95)
    assert network.quantile(counts, 0.96) == network.edge(21)
    assert network.quantile([0] * 40, 0.5) is None


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0%"), (1, "100%"), (0.99999, "> 99.9%"), (0.5, "50.0%"), (0.00321, "0.32%"), (1e-6, "< 0.01%")],
)
def test_shares_never_say_all_or_nothing_where_it_is_not_so(share: float, text: str) -> None:
    assert page.percent(share) == text
