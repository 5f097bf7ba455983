"""Every signal in each of its places says no while all others say yes: one crawl, and one that heeds none."""

import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image

from pipeline.http.optout import reason
from pipeline.options.fetch import OPT_OUTS, OptOut
from tests.crawling import rejected, samples
from tests.test_rsl import FREE, NO, RSL_IN_XMP, content
from tests.test_terms import Site, crawl, packet

pytestmark = pytest.mark.timeout(300)

FIXTURES = Path(__file__).parent / "rights"
TDMREP = "/.well-known/tdmrep.json"
TERMS = '<link rel="license" type="application/rsl+xml" href="{}">'
LINK = '<{}>; rel="license"; type="application/rsl+xml"'
DMI = '<rdf:Description plus:DataMining="http://ns.useplus.org/ldf/vocab/DMI-{}"/>'
TDM = '<rdf:Description tdm:reservation="{}"/>'
YES_ROBOTS = (
    "User-agent: *\nAllow: /\nContent-Signal: ai-train=yes\nContent-Usage: train-ai=y\nLicense: /yes.xml\n"
)
YES_HEADERS = {
    "X-Robots-Tag": "all", "Robots-Tag": "*;all", "tdm-reservation": "0", "Content-Usage": "train-ai=y",
    "Link": LINK.format("/yes.xml"),
}  # fmt: skip
YES_PAGE = '<meta name="robots" content="all"><meta name="tdm-reservation" content="0">' + TERMS.format(
    "/yes.xml"
)


@dataclass(frozen=True)
class Case:
    """One no: where it stands; all that is not given says yes."""

    signal: OptOut
    robots: str = ""
    """Stands beside the yes, as a group or a line of its own."""
    files: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    page: str = ""
    xmp: str = ""
    picture: str = ""


BEFORE = ("robots-alias", "content-signal", "tdmrep", "ai-txt", "page")
"""Signals that are known before an image is asked for."""
CASES = {
    "alias": Case("robots-alias", "User-agent: CCBot\nDisallow: /"),
    "signal": Case("content-signal", "User-agent: *\nContent-Signal: ai-train=no"),
    "signal-of-path": Case("content-signal", "User-agent: *\nContent-Signal: /p ai-train=no"),
    "usage": Case("content-usage", "User-agent: *\nContent-Usage: train-ai=n"),
    "usage-of-answer": Case("content-usage", headers={"Content-Usage": "train-ai=n"}),
    "tdmrep": Case("tdmrep", files={TDMREP: '[{"location": "/p", "tdm-reservation": 1}]'}),
    "ai": Case("ai-txt", files={"/ai.txt": "User-Agent: *\nAllow: /\nDisallow: *.jpg"}),
    "x-robots": Case("x-robots-tag", headers={"X-Robots-Tag": "noai"}),
    "robots-tag": Case("x-robots-tag", headers={"Robots-Tag": "*;noai"}),
    "tdm": Case("tdm-reservation", headers={"tdm-reservation": "1"}),
    "page": Case("page", page='<meta name="robots" content="noimageai">'),
    "page-tdm": Case("page", page='<meta name="tdm-reservation" content="1">'),
    "page-rsl": Case("page", page=f'<script type="application/rsl+xml">{content(NO)}</script>'),
    "plus": Case("xmp", xmp=DMI.format("PROHIBITED-AIMLTRAINING")),
    "xmp-tdm": Case("xmp", xmp=TDM.format(1)),
    "cawg": Case("c2pa", picture="c2pa_notallowed.jpg"),
    "c2pa": Case("c2pa", picture="c2pa_constrained.png"),
    "jpegtrust": Case("c2pa", picture="c2pa_jpegtrust.jpg"),
    "rsl": Case("rsl", "License: /no.xml"),
    "rsl-link": Case("rsl", headers={"Link": f"{LINK.format('/no.xml')}, {LINK.format('/yes.xml')}"}),
    "rsl-page": Case("rsl", page=TERMS.format("/no.xml")),
    "rsl-xmp": Case("rsl", xmp=RSL_IN_XMP),
}  # fmt: skip


def site_of(number: int, case: Case) -> Site:
    """Return a site that says one no and every yes."""
    site, buffer = Site(), io.BytesIO()
    own = packet(DMI.format("ALLOWED") + TDM.format(0) + case.xmp)
    Image.new("RGB", (48, 40), (10 * number, 90, 250 - 9 * number)).save(buffer, "JPEG", xmp=own)
    picture = (FIXTURES / case.picture).read_bytes() if case.picture else buffer.getvalue()
    files = {
        "/robots.txt": f"{YES_ROBOTS}\n{case.robots}\n", "/ai.txt": "User-Agent: *\nAllow: /\n",
        TDMREP: '[{"location": "/", "tdm-reservation": 0}]',
        "/yes.xml": content(FREE), "/no.xml": content(NO), **case.files,
    }  # fmt: skip
    site.answers |= {path: (text.encode(), {}) for path, text in files.items()}
    site.answers["/picture.jpg"] = (picture, {**YES_HEADERS, **case.headers})
    return site


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Site], Path]]:
    pages = tmp_path_factory.mktemp("pages")
    sites = {name: site_of(number, case) for number, (name, case) in enumerate(CASES.items())}
    sites["yes"] = site_of(24, Case("page"))
    for name, site in sites.items():
        page = YES_PAGE + CASES.get(name, Case("page")).page
        text = page.replace('href="/', f'href="{site.url}/')
        (pages / f"{name}.html").write_text(
            f'{text}<img src="{site.url}/picture.jpg" alt="picture of {name}">'
        )
    yield sites, pages
    for site in sites.values():
        site.server.shutdown()


def test_a_no_in_any_place_stands_whatever_all_others_say(
    web: tuple[dict[str, Site], Path], tmp_path: Path
) -> None:
    sites, pages = web
    crawl(sites["yes"], pages, tmp_path / "run")
    assert [row["caption"] for row in samples(tmp_path / "run")] == ["picture of yes"]
    found = {row["caption"].removeprefix("picture of "): row["reason"] for row in rejected(tmp_path / "run")}
    assert found == {name: reason(case.signal) for name, case in CASES.items()}
    assert {case.signal for case in CASES.values()} == set(OPT_OUTS), "each signal has its case"
    costs = json.loads((tmp_path / "run" / "report" / "report.json").read_text())["opt_outs"]
    lost = Counter(reason(case.signal) for case in CASES.values())
    assert {one["reason"]: one["captions"] for one in costs} == lost, "the report has the cost of each"
    before = {name for name, case in CASES.items() if case.signal in BEFORE} | {"usage", "rsl", "rsl-page"}
    asked = {name for name, site in sites.items() if "/picture.jpg" in site.asked}
    assert asked == set(sites) - before, "what is refused beforehand is not asked for"


def test_none_counts_where_none_is_honoured(web: tuple[dict[str, Site], Path], tmp_path: Path) -> None:
    sites, pages = web
    for site in sites.values():
        site.asked.clear()
    crawl(sites["yes"], pages, tmp_path / "run", "--opt-out")
    assert {row["caption"] for row in samples(tmp_path / "run")} == {f"picture of {name}" for name in sites}
    assert Counter(path for site in sites.values() for path in site.asked) == {
        "/robots.txt": len(sites), "/picture.jpg": len(sites)
    }  # fmt: skip
