"""The EU's summary: its sums are those of the shards, and fields only a person can fill are left open."""

import json
import math
import shutil
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import beam_job
from pipeline import checked_manifest, report, verify
from pipeline.captions import contacts
from pipeline.report import eu_summary
from pipeline.report.eu_summary import sections
from pipeline.report.samples import Summary
from pipeline.run_folder import Layout
from pipeline.urls import canonical, site
from tests import finished_run
from tests.browser import chromium
from tests.crawling import samples
from tests.test_report import TEXTS

pytestmark = pytest.mark.timeout(900)

_CAPTIONS = st.sampled_from(["a dog", "犬と猫", "mail me@a.test", "Tel: 030 901820", ""])
_ROWS = st.lists(
    st.tuples(
        st.sampled_from(["a.test", "b.test", "c.co.uk", "img.c.co.uk", "d.test", "1.2.3.4"]),
        st.lists(_CAPTIONS, min_size=1, max_size=3),
        st.integers(1, 10**9),
        st.sampled_from(["en", "de"]),
        st.integers(0, 10**6),
    ),
    max_size=40,
)  # fmt: skip


def fields(summary: dict[str, Any]) -> dict[str, Any]:
    """Return the values of all fields by their names."""
    return {field["id"]: field["value"] for section in summary["sections"] for field in section["fields"]}


def table(rows: list[Any]) -> pa.Table:
    """Return rows as a shard's Parquet file has them."""
    count = len(rows)
    ids = pa.array([[0]] * count, pa.list_(pa.int32()))
    return pa.table({
        "key": [f"{n:09d}" for n in range(count)], "uid": [f"{n:032x}" for n in range(count)],
        "url": [f"https://{row[0]}/{n}.jpg" for n, row in enumerate(rows)],
        "caption": [row[1][0] for row in rows], "captions": [row[1] for row in rows], "query_ids": ids,
        "matched_query_ids": ids, "source": ["x"] * count, "lang": [row[3] for row in rows],
        "lang_score": pa.array([1.0] * count, pa.float32()), "format": ["jpeg"] * count,
        "bytes": pa.array([row[2] for row in rows], pa.int64()),
        "original_width": pa.array([9] * count, pa.int32()),
        "original_height": pa.array([9] * count, pa.int32()),
        "fetched_at": pa.array([datetime.fromtimestamp(1.7e9 + 3e2 * row[4], UTC) for row in rows],
                               pa.timestamp("ms", "UTC")),
    })  # fmt: skip


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> checked_manifest.Manifest:
    return checked_manifest.of(finished_run.build(tmp_path_factory.mktemp("m") / "run", ["a dog"]).root)


@settings(max_examples=60, deadline=None)
@given(rows=_ROWS, cut=st.integers(0, 40), sme=st.booleans())
def test_sums_are_those_of_the_shards(
    manifest: checked_manifest.Manifest, rows: list[Any], cut: int, sme: bool
) -> None:
    summary = Summary()
    for part in (rows[:cut], rows[cut:]):
        if part:
            summary.add("00000", table(part))
    found = sections.of(manifest, summary.found(), sme=sme)
    said = fields({"sections": found})
    texts = [text for row in rows for text in row[1]]
    assert said["image_size"]["images"] == len(rows)
    assert said["image_size"]["bytes_as_fetched"] == sum(row[2] for row in rows)
    assert said["text_size"]["captions"] == len(texts)
    assert said["text_size"]["words"] == sum(len(text.split()) for text in texts)
    assert said["text_size"]["bytes"] == sum(len(text.encode()) for text in texts)
    assert said["languages"] == Counter(row[3] for row in rows)
    kinds = Counter(kind for text in texts for kind in contacts.kinds(text))
    assert [*said["contacts_found"].values()] == [kinds[name] for name in contacts.KINDS]
    content: Counter[str] = Counter()
    for row in rows:
        content[site(canonical(f"https://{row[0]}/"))] += row[2] + sum(len(text.encode()) for text in row[1])
    domains = said["domains"]
    assert domains["domains"] == len(content) and domains["bytes"] == sum(content.values())
    assert domains["shown"] == len(domains["list"]) == sections.shown_domains(len(content), sme=sme)
    assert [(-one["bytes"], one["domain"]) for one in domains["list"]] == sorted(
        (-number, name) for name, number in content.items()
    )[: domains["shown"]]
    assert domains["shown_samples"] == sum(one["samples"] for one in domains["list"])
    months = sorted(datetime.fromtimestamp(1.7e9 + 3e2 * row[4], UTC) for row in rows)
    ends = [moment.strftime("%m/%Y") for moment in (months[0], months[-1])] if rows else ["", ""]
    assert [*said["period"].values()] == ends and said["latest_date"] == ends[1]


@pytest.mark.parametrize(
    ("domains", "large", "small"), [(0, 0, 0), (1, 1, 1), (10, 1, 1), (11, 2, 1), (5000, 500, 250),
                                    (20_000, 2_000, 1_000), (10**6, 10**5, 1_000)],
)  # fmt: skip
def test_the_cut_is_the_templates(domains: int, large: int, small: int) -> None:
    assert sections.shown_domains(domains, sme=False) == large == math.ceil(domains / 10)
    assert sections.shown_domains(domains, sme=True) == small


def test_a_crawls_summary_is_what_its_shards_say(whole: Path, tmp_path: Path, capsys: Any) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run", ignore=shutil.ignore_patterns("work")))
    file = run / "report" / "eu-training-summary.json"
    stored = json.loads(file.read_text())
    said, rows = fields(stored), samples(run)
    assert said["image_size"]["images"] == len(rows)
    assert said["image_size"]["bytes_as_fetched"] == sum(row["bytes"] for row in rows)
    assert said["domains"]["domains"] == len({site(canonical(row["url"])) for row in rows})
    assert said["crawler_name"] == "openwit" and "tdmrep" in said["protocols"] and said["left_out"]
    assert {section["number"] for section in stored["sections"]} == {
        "1.1", "1.2", "1.3", "2.1", "2.2", "2.3", "2.4", "2.5", "2.6", "3.1", "3.2", "3.3"
    }  # fmt: skip
    assert verify.problems_of(Layout(str(run))) == []
    said["domains"]["list"][0]["bytes"] += 1  # the same objects as in `stored`
    file.write_text(json.dumps(stored))
    assert beam_job.main(["verify", "--run", str(run)]) == 1
    assert "does not match the shards (domains)" in capsys.readouterr().out.replace("\n", " ")


def test_answers_stay_until_others_are_given(tmp_path: Path, capsys: Any) -> None:
    layout = finished_run.build(tmp_path / "run", ["a dog"] * 3)
    report.write(layout)
    asked = eu_summary.unanswered(eu_summary.read(layout) or {})
    assert {"provider", "model", "crawler_operator"} <= set(asked)
    (tmp_path / "answers.toml").write_text('provider = "Example Ltd <b>"\nmodel = "one-1"\n')
    arguments = ["summary", "--run", layout.root]
    assert beam_job.main([*arguments, "--answers", str(tmp_path / "answers.toml"), "--sme"]) == 0
    report.write(layout)
    stored = eu_summary.read(layout)
    assert stored is not None and stored["sme"] and fields(stored)["provider"] == "Example Ltd <b>"
    assert set(eu_summary.unanswered(stored)) == set(asked) - {"provider", "model"}
    assert eu_summary.problems(layout) == []
    page = Path(eu_summary.path(layout, "html")).read_text()
    assert "Example Ltd &lt;b&gt;" in page and f"{len(asked) - 2} wait for a person" in page
    (tmp_path / "answers.toml").write_text('crawler_name = "another"\n')
    with pytest.raises(SystemExit) as stop:
        beam_job.main([*arguments, "--answers", str(tmp_path / "answers.toml")])
    assert stop.value.code == 2 and "is not a field that a person fills" in capsys.readouterr().err


def test_the_page_shows_all_and_loads_nothing(tmp_path: Path) -> None:
    layout = finished_run.build(tmp_path / "<b>run", TEXTS, TEXTS, url="javascript:document.title='owned'//")
    report.write(layout)
    with chromium() as page:
        page.open(Path(eu_summary.path(layout, "html")))
        assert page.problems() == []
        assert page.run("document.title") != "owned"
        assert page.run("document.querySelectorAll('dl.fields > dd').length") == len(
            fields(eu_summary.read(layout) or {})
        )
        assert page.run("document.documentElement.scrollWidth <= innerWidth")
        page.call(
            "Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=2, mobile=True
        )
        assert page.run("document.documentElement.scrollWidth <= innerWidth")
        assert page.barriers() == []
