"""Really Simple Licensing, the examples of AIPREF's drafts, and signals with values that differ."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.fetch.terms import Terms
from pipeline.http import optout, robots, rsl
from pipeline.http.fetch_url import Outcome
from pipeline.images import said
from pipeline.options.fetch import OPT_OUTS, FetchOptions
from pipeline.rights.statements import Statement, encode, resolve, terms, union
from pipeline.sources import page_images, wat
from tests.crawling import rejected, samples
from tests.test_terms import Site, by_name, crawl, packet, picture

SITE = "https://a.test"
FREE = '<license><permits type="usage">ai-train</permits></license>'
NO = '<license><prohibits type="usage">ai-train</prohibits></license>'


RSL_IN_XMP = (  # as https://rslstandard.org/guide/file-embedding has it
    '<rdf:Description xmlns:rsl="https://rslstandard.org/rsl"><rsl:rsl>'
    '<rsl:content url="https://press.example/portraits/7"><rsl:license><rsl:permits type="usage">ai-train'
    '</rsl:permits><rsl:payment type="royalty"/></rsl:license></rsl:content></rsl:rsl></rdf:Description>'
)


def content(inner: str, url: str = "/") -> str:
    return f'<rsl xmlns="https://rslstandard.org/rsl"><content url="{url}">{inner}</content></rsl>'


@pytest.mark.parametrize(
    ("inner", "reserved"),
    [
        (FREE, False), (NO, True), ("", False), ("<license/>", False), (NO + FREE, False),
        ('<license><prohibits type="usage">all</prohibits></license>', True),
        ('<license><prohibits type="usage">ai-all</prohibits></license>', True),
        ('<license><prohibits type="usage">search ai-input</prohibits></license>', False),
        ('<license><permits type="usage">search</permits></license>', True),
        ('<license><permits type="usage">search, train-ai</permits></license>', False),
        ('<license><permits type="usage">all</permits></license>', False),
        ("<license><permits>all</permits><prohibits>ai-train</prohibits></license>", True),
        ('<license><permits>ai-train</permits><payment type="subscription"/></license>', True),
        ('<license><permits>ai-train</permits><payment type="training">1</payment></license>', True),
        ('<license><permits>ai-train</permits><payment type="free"/></license>', False),
        ('<license><permits>ai-train</permits><payment type="attribution"/></license>', False),
        ('<license><permits>ai-train</permits><payment type="crawl"/></license>' + FREE, False),
        ('<license><permits>ai-train</permits><permits type="user">education</permits></license>', True),
        ('<license><permits>ai-train</permits><permits type="geo">EU</permits></license>', True),
        ("<copyright>x</copyright><terms>y</terms>" + FREE, False),
    ],
)  # fmt: skip
def test_offers(inner: str, reserved: bool) -> None:
    terms = rsl.parse(content(inner).encode(), f"{SITE}/license.xml")
    assert terms == [rsl.Term(SITE, "/", reserved)]


@pytest.mark.parametrize(
    ("contents", "path", "pattern"),
    [
        ([("/", NO), ("/open/", FREE)], "/open/1.jpg", None),
        ([("/", NO), ("/open/", FREE)], "/x.jpg", "/"),
        ([("/", FREE), ("/", NO)], "/x.jpg", "/"),  # equal paths: the strictest
        ([("/*.jpg$", NO)], "/a/x.jpg", "/*.jpg$"),
        ([("/*.jpg$", NO)], "/a/x.png", None),
        ([(f"{SITE}/photos/*", NO)], "/photos/1.jpg", "/photos/*"),
        ([("https://b.test/", NO)], "/photos/1.jpg", None),
        ([("http://a.test/", NO)], "/photos/1.jpg", "/"),
    ],
)
def test_which_content_a_url_is(contents: list[tuple[str, str]], path: str, pattern: str | None) -> None:
    text = "<rsl>" + "".join(f'<content url="{url}">{inner}</content>' for url, inner in contents) + "</rsl>"
    terms = rsl.parse(text.encode(), f"{SITE}/l.xml")
    assert terms is not None
    assert rsl.rules(terms, SITE).reserving(SITE + path) == pattern


@given(st.binary(max_size=200), st.text(max_size=30))
def test_no_file_of_terms_is_a_crash(noise: bytes, url: str) -> None:
    assert rsl.parse(noise, SITE) in (None, [])
    found = rsl.parse(b'<rsl><content url="' + url.encode("utf-8", "replace") + b'">' + noise, SITE)
    assert found is None
    rsl.rules(rsl.parse(content(NO, "//[").encode(), SITE) or [], SITE)
    assert rsl.parse(b'<!DOCTYPE rsl [<!ENTITY a "b">]><rsl/>', SITE) is None
    assert rsl.parse(b"<rsl>" + b"<a>" * 100_000, SITE) is None


def test_where_robots_txt_names_terms() -> None:
    def licences(text: str) -> tuple[str, ...]:
        return robots.parse(text.encode()).licences

    assert licences("License: https://a.test/l.xml") == ("https://a.test/l.xml",)
    assert licences("license: /a.xml\nUser-agent: *\nAllow: /\nLicense: /b.xml") == ("/b.xml", "/a.xml")
    assert licences("User-agent: GPTBot\nLicense: /a.xml\nDisallow: /") == ()
    assert licences("User-agent: GPTBot\nUser-agent: openwit\nLicense: /a.xml\nDisallow: /x") == ("/a.xml",)
    assert len(licences("License: /a.xml\n" * 9 + "".join(f"License: /{n}\n" for n in range(99)))) == 4
    assert licences("User-agent: *\nDisallow: /") == ()


# draft-ietf-aipref-attach-05, figures 1 and 2

DRAFT = """User-Agent: *
Allow: /
Disallow: /never/
Content-Usage: {0}train-ai=n
Content-Usage: /ai-ok/ train-ai=y

User-Agent: {1}
Allow: /
Content-Usage: {0}train-ai=y
"""


@pytest.mark.parametrize("first", ["", "/ ", "/\t"])  # -04 asks for a path, -05 does not
def test_the_drafts_examples(first: str) -> None:
    rules = robots.parse(DRAFT.format(first, "ExampleBot").encode())
    reasons = {path: rules.refusal(SITE + path) for path in ("/test", "/never/test", "/ai-ok/test")}
    assert {path: found and found.reason for path, found in reasons.items()} == {
        "/test": "opt_out_content_usage", "/never/test": "robots_disallow", "/ai-ok/test": None,
    }  # fmt: skip
    own = robots.parse(DRAFT.format(first, "openwit").encode())
    assert own.refusal(f"{SITE}/test") is None and own.refusal(f"{SITE}/never/test") is None
    found = optout.check_headers([("Content-Usage", "train-ai=n")])
    assert found is not None and found.reason == "opt_out_content_usage"


@pytest.mark.parametrize(
    ("value", "preference"),
    [
        ("train-ai=n", True),  # -attach, Examples: a header, a line of robots.txt
        ("train-ai=y, search=n", False),  # -vocab, Exemplary Serialization Format
        # Multiple Preferences: unknown, by the last value of each key, which is no token. Here a `y` allows;
        # both let the image be fetched.
        ('train-ai=y, train-ai, search=n, search="n"', False),
        ("train-ai;allow=n, train-ai=y", False),  # Preference Parameters: they say nothing
        ('train-ai;has;parameters="?"', None), ('train-ai;has;parameters="?";', None),
        ("search=n", None), ("", None),
        # By the draft the last value of a key counts, and a key in capitals is none; here the no stands.
        ("train-ai=n, train-ai=y", True), ("Train-AI=n", True),
    ],
)  # fmt: skip
def test_the_vocabularys_examples(value: str, preference: bool | None) -> None:
    """The examples of draft-ietf-aipref-vocab as of August 2026, in the header and in robots.txt."""
    assert optout.usage_preference(value.lower()) is preference
    found = optout.check_headers([("Content-Type", "text/plain"), ("Content-Usage", value)])
    rules = robots.parse(f"User-Agent: *\nAllow: /\nContent-Usage: {value}\n".encode())
    assert (found is not None) is (rules.refusal(f"{SITE}/x") is not None) is (preference is True)


@pytest.mark.parametrize(
    ("first", "second", "refused"),
    [("n", "y", True), ("y", "n", True), ("n", "n", True), ("n", "", True),
     ("y", "y", False), ("y", "", False), ("", "", False)],
)  # fmt: skip
def test_statements_combine_to_the_strictest(first: str, second: str, refused: bool) -> None:
    """draft-ietf-aipref-vocab, Combining Preferences: any no is a no, whichever of two statements it is."""
    one, other = (f"train-ai={value}" if value else "search=n" for value in (first, second))
    headers = [("Content-Usage", one), ("Content-Usage", other)]
    assert (optout.check_headers(headers) is not None) is refused
    text = f"User-Agent: *\nContent-Usage: /a/ {one}\nContent-Usage: /a/ {other}"
    assert (robots.parse(text.encode()).refusal(f"{SITE}/a/b") is not None) is refused


@pytest.mark.parametrize(
    ("value", "reserves"),
    [
        ("train-ai=n", True), ("train-ai=y", False), ("train-ai=y, search=n", False),
        ("train-ai=y;exceptions=x", False),
        ("train-ai=n, train-ai=y", True), ("train-ai", False), ("search=n", False), ("train-ai=\"n\"", True),
        ("train-ai=maybe", False), ("ai=n", True), ("ai=n, train-ai=y", False),
    ],
)  # fmt: skip
def test_preferences_and_conflicts(value: str, reserves: bool) -> None:
    """Equal paths, and a header that says both, combine to the strictest (vocab-08, section 7.1)."""
    assert (optout.check_headers([("Content-Usage", value)]) is not None) is reserves
    text = f"User-agent: *\nContent-Usage: /p/ {value}\nContent-Usage: / train-ai=y\nAllow: /"
    assert (robots.parse(text.encode()).refusal(f"{SITE}/p/1") is not None) is reserves
    twice = f"User-agent: *\nContent-Usage: /p/ train-ai=n\nContent-Usage: /p/ {value}"
    assert robots.parse(twice.encode()).refusal(f"{SITE}/p/1") is not None


# Signals, places, values that differ

DMI = '<rdf:Description plus:DataMining="http://ns.useplus.org/ldf/vocab/DMI-{0}"/>'
FIXTURES = Path(__file__).parent / "rights"
NO_ROBOTS = {
    "robots-alias": "User-agent: CCBot\nDisallow: /",
    "content-signal": "User-agent: *\nContent-Signal: ai-train=no",
    "content-usage": "User-agent: *\nContent-Usage: train-ai=n",
}  # fmt: skip
NO_HEADER = {
    "x-robots-tag": ("X-Robots-Tag", "noai"), "tdm-reservation": ("tdm-reservation", "1"),
    "content-usage": ("Content-Usage", "train-ai=n"),
}  # fmt: skip
YES_HEADER = [("X-Robots-Tag", "all"), ("tdm-reservation", "0"), ("Content-Usage", "train-ai=y")]
YES_ROBOTS = "\nUser-agent: *\nAllow: /\nContent-Signal: ai-train=yes\nContent-Usage: train-ai=y"
NO_PICTURE = {
    "xmp": picture("JPEG", xmp=packet(DMI.format("PROHIBITED"))),
    "c2pa": (FIXTURES / "c2pa_notallowed.jpg").read_bytes(),
}


@pytest.mark.parametrize("signal", [*NO_ROBOTS, *NO_HEADER, *NO_PICTURE])
def test_a_no_in_one_place_stands_whatever_the_others_say(signal: str) -> None:
    """Each no, alone and beside every other place's yes; and nothing is refused where it is not honoured."""
    others = tuple(name for name in OPT_OUTS if name != signal)
    allowed = picture("JPEG", xmp=packet(DMI.format("ALLOWED")))
    assert said.read(allowed).prohibited == "" and optout.check_headers(YES_HEADER) is None
    assert robots.parse(YES_ROBOTS.encode()).refusal(f"{SITE}/x") is None
    reason = optout.reason(signal)  # type: ignore[arg-type]
    if text := NO_ROBOTS.get(signal):
        for whole in (text, text + YES_ROBOTS, YES_ROBOTS + "\n" + text):
            rules = robots.parse(whole.encode())
            found = rules.refusal(f"{SITE}/x")
            assert found is not None and found.reason == reason
            assert rules.refusal(f"{SITE}/x", others) is None
    if header := NO_HEADER.get(signal):
        for headers in ([header], [*YES_HEADER, header], [header, *YES_HEADER]):
            found = optout.check_headers(headers)
            assert found is not None and found.reason == reason
            assert optout.check_headers(headers, others) is None
    if data := NO_PICTURE.get(signal):
        answer = Outcome("u", "u", "", "", 200, data, "", 0.1, "", None)
        assert Terms().judge(b"", answer, said.read(data)).reason == reason
        assert Terms(others).judge(b"", answer, said.read(data)).reason == ""


PAGE = f"{SITE}/a/b.html"
NAMED = [
    ('<link rel="license" type="application/rsl+xml" href="../l.xml">', []),
    (f'<base href="https://c.test/"><link rel=license type="Application/RSL+xml" href="{SITE}/l.xml">', []),
    ('<a rel="license nofollow" type="application/rsl+xml" href="/l.xml">terms</a>', []),
    ("", [("Link", '<../l.xml>; rel="license"; type="application/rsl+xml"')]),
]  # fmt: skip


@pytest.mark.parametrize(("head", "headers"), NAMED)
def test_a_page_names_terms_in_its_html_and_its_headers(head: str, headers: list[tuple[str, str]]) -> None:
    html = f'{head}<link rel=license href="/human.html"><img src="/1.jpg" alt="one">'.encode()
    [image] = page_images.images(html, PAGE, "text/html", headers)
    assert terms(image.rights) == [(f"{SITE}/l.xml", PAGE)]
    assert resolve(image.rights).licence_url.endswith("/human.html"), "terms for machines are no licence"
    many = union([image.rights, *(encode([Statement("image", f"w{n}", f"l{n}")]) for n in range(40))])
    assert terms(many) == terms(image.rights), "they are kept before all other statements"


@pytest.mark.parametrize("place", ["Link", "Headers"])
def test_a_wat_names_terms(place: str) -> None:
    head: dict[str, Any] = {"Metas": [{"name": "x", "content": "y"}]}
    sent: dict[str, str] = {"Content-Type": "text/html"}
    if place == "Link":
        head["Link"] = [
            {"path": "LINK@/href", "url": "/l.xml", "rel": "license", "type": "application/rsl+xml"}
        ]
    else:
        sent["Link"] = '</l.xml>; rel="license"; type="application/rsl+xml"'
    html = {"Head": head, "Links": [{"path": "IMG@/src", "url": "/1.jpg", "alt": "one"}]}
    answer = {"HTTP-Response-Metadata": {"Headers": sent, "HTML-Metadata": html}}
    data = json.dumps({"Envelope": {"Payload-Metadata": answer}}, separators=(",", ":")).encode()
    [image] = wat.page_images(data, PAGE)
    assert image == wat.parsed_images(data, PAGE)[0] and terms(image.rights) == [(f"{SITE}/l.xml", PAGE)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (content(NO), "reserves /"), (content(FREE), ""), (content(NO, "/a/"), "reserves /a/"),
        (content(NO, f"{SITE}/1.jpg"), "reserves /1.jpg"), (content(NO, "/other/"), ""),
        ("<rsl", "terms that cannot be read"), ("", "terms that cannot be read"),
    ],
)  # fmt: skip
def test_terms_inside_a_page(text: str, found: str) -> None:
    html = f'<script type="application/rsl+xml">{text}</script><img src="/1.jpg" alt="one">'
    [image] = page_images.images(html.encode(), PAGE)
    assert image.opt_out == (f"RSL in the page: {found}" if found else "")


def test_a_later_signal_does_not_make_an_earlier_run_another_one() -> None:
    told = FetchOptions.__dataclass_fields__["opt_out"].metadata["decides"]["fetch"]
    first = [name for name in OPT_OUTS if name not in ("c2pa", "rsl", "ai-txt")]
    assert told(OPT_OUTS) == tuple(sorted(first))
    assert told(tuple(first)) == (*sorted(first), "no c2pa", "no rsl", "no ai-txt")


def test_a_crawl_asks_for_terms_and_honours_them(tmp_path: Path) -> None:
    site, pages = Site(), tmp_path / "pages"
    pages.mkdir()
    paths = ["open/1.jpg", "closed/2.jpg", "open/3.jpg", "open/4.jpg"]
    for number, path in enumerate(paths):
        buffer = io.BytesIO()
        Image.new("RGB", (48, 40), (50 * number, 90, 30)).save(buffer, "JPEG")
        site.answers[f"/{path}"] = (buffer.getvalue(), {})
    link = '<{0}>; rel="license"; type="application/rsl+xml"'
    site.answers["/open/3.jpg"][1]["Link"] = link.format("/strict.xml")
    site.answers["/open/4.jpg"][1]["Link"] = link.format("/lost.xml")
    terms = f'<rsl><content url="/">{NO}</content><content url="/open/">{FREE}</content></rsl>'
    site.answers["/robots.txt"] = (f"License: {site.url}/terms.xml\n".encode(), {})
    site.answers["/terms.xml"] = (terms.encode(), {})
    site.answers["/strict.xml"] = (content(NO).encode(), {})
    (pages / "a.html").write_text(
        "".join(f'<img src="/{path}" alt="picture of {path[:4]}">' for path in paths)
    )
    # Statements of pages: by a link, in a script; and a picture's own.
    named = '<link rel="license" type="application/rsl+xml" href="{}">'
    heads = {
        "b5": named.format("/strict.xml"), "c6": named.format("/lost.xml"), "d7": named.format("/free.xml"),
        "e8": f'<script type="application/rsl+xml">{content(NO)}</script>',
        "f9": f'<script type="application/rsl+xml">{content(NO, "/other/")}</script>',
        "g0": "",
    }  # fmt: skip
    site.answers["/free.xml"] = (content(FREE).encode(), {})
    for number, (page, head) in enumerate(heads.items()):
        buffer = io.BytesIO()
        own = packet(RSL_IN_XMP) if page == "g0" else b""
        Image.new("RGB", (48, 40), (40 * number, 20, 130)).save(buffer, "JPEG", xmp=own)
        site.answers[f"/open/{page}.jpg"] = (buffer.getvalue(), {})
        (pages / f"{page}.html").write_text(f'{head}<img src="/open/{page}.jpg" alt="picture of {page}">')
    try:
        crawl(site, pages, tmp_path / "run")
    finally:
        site.server.shutdown()
    assert sorted(by_name(samples(tmp_path / "run"))) == ["1.jpg", "d7.jpg", "f9.jpg"]
    rows = by_name(rejected(tmp_path / "run"))
    assert {name: row["reason"] for name, row in rows.items()} == dict.fromkeys(
        ("2.jpg", "3.jpg", "4.jpg", "b5.jpg", "c6.jpg", "g0.jpg"), "opt_out_rsl"
    ) | {"e8.jpg": "opt_out_page"}
    assert rows["b5.jpg"]["detail"] == f"its page: the terms at {site.url}/strict.xml reserve /"
    assert rows["e8.jpg"]["detail"] == "RSL in the page: reserves /"
    assert rows["g0.jpg"]["detail"] == "its XMP reserves /portraits/7"
    assert "/open/b5.jpg" not in site.asked, "a page's terms are asked for before its images"
    assert rows["2.jpg"]["detail"] == "the License of robots.txt reserves /"
    assert "strict.xml reserve /" in rows["3.jpg"]["detail"] and "cannot be read" in rows["4.jpg"]["detail"]
