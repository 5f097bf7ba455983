"""The report in a real browser: inert whatever the web put into it, and usable by keyboard."""

import json
import re
import time
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dedup import contamination, decode_images, figures, findings, report
from dedup.contamination import Dataset
from dedup.findings import Findings, SetFindings
from dedup.parts import EXAMPLES, FOUND, MATCHES, ExampleIndex, FoundCopies, MatchedShard
from pipeline import formats, schemas
from tests.browser import chromium
from tests.scenes import jpeg, scene

HOSTILE = (
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "<!--<script>",
    "javascript:document.title='owned'",
    "{{ 7 * 7 }} ]]> ' \" & \\ \u2028 \u202e",
)


def build(folder: Path, sets: int, matched: int, examples: int, gallery: int = 20) -> str:
    """Return a page of synthetic sets; every match's texts are hostile."""
    jpegs = [jpeg(scene(n, 96, 128)) for n in range(3)]
    (folder / "images.bin").write_bytes(b"".join(jpegs))
    offsets = np.cumsum([0, *map(len, jpegs)])
    rows, pairs, datasets = [], [], []
    preview = decode_images.preview(scene(9, 96, 128))
    rng = np.random.default_rng(0)
    for number in range(sets):
        name = f"set-{number:02d}"
        ids = [f"{HOSTILE[n % len(HOSTILE)]}/{n}" for n in range(examples)]
        similarity = np.full(examples, -np.inf)
        similarity[:matched] = np.round(np.linspace(0.98, 0.36, matched), 4)
        correct = rng.random(examples) < np.where(np.isfinite(similarity), 0.9, 0.5)
        datasets.append(Dataset(name, ids, ["x"] * examples, 0, similarity, correct, []))
        for n, one in enumerate(ids):
            rows.append(
                (
                    name,
                    one,
                    HOSTILE[1],
                    "",
                    "",
                    "compared",
                    n,
                    int(offsets[n % 3]),
                    len(jpegs[n % 3]),
                    "",
                    "tiny",
                )
            )
        for n in range(matched):
            text = HOSTILE[n % len(HOSTILE)]
            checked = (similarity[n], True, "", 20, 0.9, "whole", False)
            by = (similarity[n], None)  # hashes, learned
            pairs.append((name, ids[n], f"uid{n}", text, *checked, text, "s", f"{n}", *by, preview))
    schemas.write_table(str(folder / "examples.parquet"), schemas.to_table(rows, EXAMPLES))
    table = schemas.to_table(pairs, FOUND)
    schemas.write_table(str(folder / "found.parquet"), table)
    matches = contamination.ranked(table, 5)
    assert matches.schema == MATCHES
    concluded = contamination.conclude(datasets, {"set-00": 0.5}, 0.35, sets)
    copies = findings.Planted(
        plain=FoundCopies(name="", either={"mixed": (1.0,) * 9 + (-1.0,)}),
        reversed=FoundCopies(name="", either={"mixed": (1.0,) + (-1.0,) * 3, "crop 50%": (0.9, -1.0)}),
    )
    found = Findings(
        datasets=tuple(findings.of_set(one, copies) for one in concluded), training_set=HOSTILE[0], shards=1,
        counts={"images": 5}, unreadable=(), declared_sets=sets, floor=0.35, min_quality=25, last_fetch=None,
        seed=0, text=None,
    )  # fmt: skip
    files = ExampleIndex(
        name="", examples=str(folder / "examples.parquet"), images=str(folder / "images.bin"), hashes="",
        colours="", compared=examples,
    )  # fmt: skip
    matched = MatchedShard(name="", found=str(folder / "found.parquet"), texts="", counts={}, unreadable=())
    return report.render(found, concluded, matches, [matched], files, gallery)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    path = folder / "index.html"
    path.write_text(build(folder, 3, 40, 120), encoding="utf-8")
    return path


def test_no_text_of_the_web_becomes_markup(page_file):
    html = page_file.read_text(encoding="utf-8")
    assert html.count("<script") == 1 + 2 * 3, "the page's own script, and two blocks of data a set"
    assert "<img" not in html and "<!--" not in html
    assert "{{ 7 * 7 }}" in html, "a template in a caption is text as well"
    assert "default-src 'none'" in html and "unsafe-inline" not in html


def test_hostile_texts_are_inert_and_nothing_is_loaded(page_file):
    with chromium() as page:
        page.open(page_file)
        assert page.run("document.title").startswith("Overlap of </script><script>")
        assert page.run("document.querySelectorAll('.card').length") == 20
        assert page.run("document.querySelector('.card dd.long').textContent") in HOSTILE
        assert page.run("document.querySelectorAll('a, iframe, object, form').length") == 0
        for number in range(3):
            page.run(f"document.querySelectorAll('button.open')[{number}].click()")
        assert (
            page.run("[...document.images].every(i => i.src.startsWith('data:image/webp;base64,'))") is True
        )
        assert page.run("document.images[0].naturalWidth") > 0
        assert page.problems() == []


def test_both_recalls_stand_beside_each_other(page_file):
    html = page_file.read_text(encoding="utf-8")
    row = html[html.index("<h2>All, Overlap") :].replace("\n", "")
    assert "<td>90.0%<small>of 10 planted</small></td><td>25.0%<small>half crop 50.0%</small></td>" in row
    assert "<tr><td>the evaluation image</td><td>25.0%</td></tr>" in row


def test_a_phone_shows_all_of_it(page_file):
    with chromium() as page:
        page.call(
            "Emulation.setDeviceMetricsOverride", width=390, height=900, deviceScaleFactor=1, mobile=True
        )
        page.open(page_file)
        assert page.run("document.documentElement.scrollWidth") == 390
        assert page.run("document.querySelector('.sweep p').textContent").startswith(
            "0.35contamination, 0 to "
        )
        assert page.barriers() == []
        assert page.run(
            "[...document.querySelectorAll('.figure svg, .sweep')]"
            ".every(one => one.getBoundingClientRect().right <= 390)"
        )
        page.run(
            "document.querySelector('.card header').lastChild.textContent = 'x'.repeat(8) + ' y'.repeat(60)"
        )
        first, last = (
            page.run(f"document.querySelector('.card header').{one}.getBoundingClientRect().{side}")
            for one, side in (("firstChild", "right"), ("lastChild", "left"))
        )
        assert last - first >= 8, "the similarity and the verdict are apart"


def test_the_policy_stops_what_the_page_did_not_bring(page_file):
    with chromium() as page:
        page.open(page_file)
        page.run("var s = document.createElement('script'); s.textContent = 'document.title = 1'")
        page.run("document.body.append(s)")
        page.run("var i = document.createElement('img'); i.src = 'http://127.0.0.1:9/x.png'")
        page.run("document.body.append(i)")
        assert page.run("document.title") != "1"
        assert any("Content Security Policy" in problem for problem in page.problems())
        failed = [e["params"] for e in page.events if e.get("method") == "Network.loadingFailed"]
        assert [one["blockedReason"] for one in failed] == ["csp"]


def set_threshold(page, value: float) -> None:
    page.run(f"var f = document.getElementById('field'); f.value = '{value}'")
    page.run("f.dispatchEvent(new Event('change'))")


def shown(page) -> tuple[str, str, str]:
    return tuple(
        page.run(f"document.getElementById('{name}').textContent")
        for name in ("overlap", "contamination", "delta")
    )


def test_the_slider_counts_as_the_report_does(page_file, tmp_path):
    folder = page_file.parent
    similarity = np.full(120, -np.inf)
    similarity[:40] = np.round(np.linspace(0.98, 0.36, 40), 4)
    rng = np.random.default_rng(0)
    correct = rng.random(120) < np.where(np.isfinite(similarity), 0.9, 0.5)
    data = Dataset("set-00", ["x"] * 120, ["x"] * 120, 0, similarity, correct, [])
    with chromium() as page:
        page.open(folder / "index.html")
        page.key("p")
        assert page.run("document.getElementById('field').value") == "0.5000"
        for threshold in (0.35, 0.5, 0.7, 0.9641, 0.98, 1.0):
            set_threshold(page, threshold)
            [one] = contamination.conclude([data], {"set-00": threshold}, 0.35, 1)
            expected = one.comparison
            overlap, contaminated, delta = shown(page)
            assert overlap == f"{expected.overlap} of 120"
            assert contaminated == formats.percent(expected.contamination)
            assert delta == formats.points(expected.delta)
        assert page.problems() == []


def test_everything_works_by_keyboard(page_file):
    with chromium() as page:
        page.open(page_file)
        page.key("p")
        page.run("document.getElementById('slider').focus()")
        page.key("ArrowRight", 39)
        assert page.run("document.getElementById('field').value") == "0.5001"
        assert page.run("document.getElementById('slider').getAttribute('aria-valuetext')").startswith(
            "similarity 0.5001"
        )
        page.run("document.activeElement.blur()")
        page.key("j")
        page.key("j")
        page.key("j")
        page.key("k")
        assert page.run("document.activeElement.getAttribute('aria-label')").startswith("Pair 2 of 20")
        page.key("t")
        second = page.run("document.querySelectorAll('.card')[1].similarity")
        assert page.run("Number(document.getElementById('field').value) * 10000") == pytest.approx(second)
        assert page.run("document.querySelectorAll('.card.below').length") == 18
        page.key("n")
        assert page.run("document.getElementById('set').selectedOptions[0].textContent") == "set-01"
        page.key("p")
        assert page.run("document.getElementById('set').value") == "0"
        assert page.run("document.getElementById('field').value") == f"{second / 10000:.4f}", (
            "it is remembered"
        )
        page.run("document.getElementById('slider').focus()")
        page.key("Tab", 9)
        assert page.run("document.activeElement.id") == "field"


def test_exported_thresholds_are_read_by_the_next_run(page_file, tmp_path):
    with chromium() as page:
        page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
        page.open(page_file)
        page.key("p")
        set_threshold(page, 0.61)
        assert page.run("document.getElementById('export').textContent") == "Export thresholds (1 changed)"
        page.run("document.getElementById('export').click()")
        deadline = time.monotonic() + 30
        while not (tmp_path / "thresholds.json").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
    exported = contamination.read_thresholds(
        str(tmp_path / "thresholds.json"), [f"set-0{n}" for n in range(3)]
    )
    assert exported == {"set-00": 0.61, "set-01": 0.35, "set-02": 0.35}


def test_twenty_sets_and_forty_thousand_matches(tmp_path):
    path = tmp_path / "index.html"
    path.write_text(build(tmp_path, 20, 2000, 3000, gallery=100), encoding="utf-8")
    assert path.stat().st_size < 24e6
    with chromium() as page:
        page.open(path)
        page.run("document.querySelectorAll('button.open')[19].click()")
        for shown_cards in (24, 48, 72, 96, 100):
            assert page.run("document.querySelectorAll('.card').length") == shown_cards
            page.run("document.getElementById('more').click()")
        assert page.run("document.getElementById('more').hidden")
        assert "evenly from the most to the least similar of 2,000" in page.run(
            "document.getElementById('shown').textContent"
        )
        page.run("document.getElementById('slider').focus()")
        page.key("End", 35)
        assert shown(page)[0] == "0 of 3,000"
        assert page.problems() == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"), ("[]", "must hold"), ('{"thresholds": {"x": 0.5}}', "names the set 'x'"),
        ('{"a": 1.5}', "from 0 to 1"), ('{"a": true}', "from 0 to 1"), ('{"a": "0.5"}', "from 0 to 1"),
    ],
)  # fmt: skip
def test_thresholds_that_cannot_be_meant_are_refused(tmp_path, text, message):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        contamination.read_thresholds(str(tmp_path / "t.json"), ["a"])


def test_it_opens_on_the_set_that_overlaps_most_and_its_first_line_is_the_answer(page_file):
    with chromium() as page:
        page.open(page_file)
        assert page.run("document.getElementById('set').selectedOptions[0].textContent") == "set-01", (
            "set-00 has a higher threshold"
        )
        assert page.run("document.querySelector('h1').nextElementSibling.textContent").startswith(
            "40 of the 120 examples of set-01, 33.3% (95% interval 25.5% to 42.2%), the most of 3 sets; "
            "overlap in 3. The overlap raises accuracy significantly on "
        )


def found_of(name: str, **known: object) -> SetFindings:
    nothing = dict.fromkeys(
        ("acc_all", "acc_overlap", "acc_clean", "delta", "p_value", "p_bonferroni", "p_holm", "fisher_p",
         "ci_low", "ci_high", "delta_low", "delta_high", "significant", "smallest_detectable",
         "acc_clean_stratified", "published", "published_after_crawl", "recall_note")
    )  # fmt: skip
    counts = {
        "examples": 100, "overlap": 0, "contamination": 0.0, "contamination_low": 0.0,
        "contamination_high": 0.036, "threshold": 0.5, "stratified_share": 0.0, "unreadable": 0,
        "unreadable_examples": (), "low_information": 0, "sweep": (), "recall": {},
        "recall_reversed": {}, "planted": 0,
    }  # fmt: skip
    return SetFindings(name=name, **(nothing | counts | known))


def test_the_answer_says_what_was_found_and_tested():
    clean = found_of("clean")
    leak = found_of("leak", examples=1, overlap=1, contamination=1.0, significant=True)
    assert report.answer([clean]) == "None of it: no training image shows an example of the set."
    assert report.answer([clean] * 2).endswith("an example of any of the 2 sets.")
    assert report.answer([leak]) == "1 of the 1 example of leak, 100% (95% interval 0% to 3.6%)."
    tested = [clean, replace(leak, p_value=0.001)]
    assert report.worst(tested) == 1
    assert report.answer(tested).endswith(
        "the most of 2 sets; overlap in 1. The overlap raises accuracy significantly on leak."
    )
    assert report.answer([replace(leak, p_value=0.2, significant=False)]).endswith("on no set.")


def test_the_figure_places_marks_where_its_axes_say():
    tested = {"ci_low": 0.5, "ci_high": 0.8, "delta_low": -0.01, "delta_high": 0.02, "acc_clean": 0.6}
    sets = [
        found_of("a<b $x$", contamination=0.1, acc_overlap=0.7, delta=0.01, p_value=0.03, **tested),
        found_of("none", contamination=0.05, acc_overlap=0.6, delta=0.0, p_value=0.5, **tested),
        found_of("untested", contamination=0.9),
    ]
    for panel, value in zip(figures.figure(sets), (0.1, 0.01), strict=True):
        root = ET.fromstring(panel.svg)
        marks = {g.find("title").text: g for g in root.iter("g") if g.find("title") is not None}
        assert list(marks) == [
            f"a<b $x$: 10.0% overlap, {100 * value:+.2f} points", "none: 5.0% overlap, 0 points"
        ]  # fmt: skip
        high, zero = (float(next(mark.iter("use")).get("y")) for mark in marks.values())
        assert "var(--weak)" in ET.tostring(next(iter(marks.values())), encoding="unicode")
        labels = {
            text.text: float(re.search(r"translate\([-\d.]+ ([-\d.]+)\)|$", text.get("transform", ""))[1]
                             or text.get("y"))
            for text in root.iter("text") if re.fullmatch(r"0|[-+]\d+\.\d\d", text.text)
        }  # fmt: skip
        top = max(labels, key=float)
        share = (zero - high) / (labels["0"] - labels[top])
        assert share == pytest.approx(value / (float(top) / 100), abs=0.01)
    assert figures.figure(sets[2:]) == []


def test_numbers_are_read_as_they_are_meant():
    assert [formats.percent(v) for v in (0, 1, 0.5, 0.9995, 0.0001, 0.00001, None)] == [
        "0%", "100%", "50.0%", "> 99.9%", "0.01%", "< 0.01%", "–"
    ]  # fmt: skip
    assert [formats.p_value(v) for v in (0.0, 5e-324, 1e-9, 0.04, None)] == [
        "< 1e-300", "< 1e-300", "1e-09", "0.040", "–"
    ]  # fmt: skip
    assert (
        formats.count(1, "image") == "1 image" and formats.count(2000, "query", "queries") == "2,000 queries"
    )
    assert [formats.size(v) for v in (999, 1e3, 2.5e9, 3e15)] == ["999 B", "1.0 kB", "2.5 GB", "3.0 PB"]


def test_sites_are_counted_by_registrable_domain():
    urls = [
        "https://a.example.co.uk/1",
        "https://b.example.co.uk/2",
        "https://b.example.co.uk/2",
        "",
        "http://[bad",
    ]
    uids = ["u0", "u1", "u1", "u3", "u4"]
    rows = [
        ("d", str(n), uid, url, 0.9, True, 1, "", 1, 1.0, "", False, "", "", "", 0.9, None)
        for n, (uid, url) in enumerate(zip(uids, urls, strict=True))
    ]
    data = Dataset("d", ["0"], [""], 0, np.array([0.9]), None, [])
    [one] = contamination.conclude([data], {}, 0.35, 1)
    assert report.sites(schemas.to_table(rows, MATCHES), one) == [("example.co.uk", 2), ("no URL", 2)]
    assert json.dumps(report.numbers(one))
