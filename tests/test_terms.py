"""Licences, creators and notices: as pages, answers and pictures state them, in the columns of a set."""

import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from pipeline.cli import main
from pipeline.images import embedded, said, xmp
from pipeline.rights import licences, link_header
from pipeline.rights.statements import Rights, Statement, decode, encode, resolve, union
from pipeline.sources import page_images, wat
from tests.crawling import rejected, samples

FIXTURES = Path(__file__).parent / "rights"
CC = "https://creativecommons.org/licenses"
PAGE = "https://a.test/p"


@pytest.mark.parametrize(
    ("text", "identifier"),
    [
        (f"{CC}/by/4.0/", "CC-BY-4.0"),
        ("http://www.creativecommons.org/licenses/by-sa/3.0/de/", "CC-BY-SA-3.0-DE"),
        (f"{CC}/by-nc-nd/2.5/legalcode", "CC-BY-NC-ND-2.5"), (f"{CC}/by/4.0/deed.de", "CC-BY-4.0"),
        (f"{CC}/by-nd-nc/1.0/", "CC-BY-NC-ND-1.0"), (f"{CC}/by/", "CC-BY"), (f"{CC}/", ""),
        ("//creativecommons.org/publicdomain/zero/1.0/", "CC0-1.0"),
        ("https://creativecommons.org/publicdomain/mark/1.0/", "CC-PDM-1.0"),
        ("https://creativecommons.org/", ""),
        ("CC BY-SA 4.0", "CC-BY-SA-4.0"), ("cc0", "CC0-1.0"), ("CC BY", "CC-BY"),
        ("Creative Commons Attribution-ShareAlike 4.0 International", "CC-BY-SA-4.0"),
        ("Creative Commons Attribution Non Commercial 2.0 Generic", "CC-BY-NC-2.0"),
        ("https://spdx.org/licenses/MIT.html", "MIT"),
        ("https://www.gnu.org/licenses/fdl-1.3.html", "GFDL-1.3"),
        ("https://rightsstatements.org/vocab/InC/1.0/", "RS-InC-1.0"), ("All rights reserved", ""),
        ("free to use", ""), ("https://example.org/licenses/by/4.0/", ""), ("", ""),
    ],
)  # fmt: skip
def test_identifiers(text: str, identifier: str) -> None:
    assert licences.identify(text) == identifier
    assert not identifier or licences.is_among(identifier, [licences.family(identifier)])


def test_what_is_wanted() -> None:
    assert licences.wanted("cc0, CC-BY,CC-BY-SA-4.0, MIT") == ("cc0", "cc-by", "cc-by-sa-4.0", "mit")
    assert licences.wanted("") == ()
    with pytest.raises(ValueError, match="did you mean cc-by"):
        licences.wanted("ccby")
    wanted = licences.wanted("cc-by,cc0")
    assert [licences.is_among(one, wanted) for one in ("CC-BY-3.0-DE", "CC0-1.0", "CC-BY")] == [True] * 3
    assert not any(licences.is_among(one, wanted) for one in ("CC-BY-NC-4.0", "conflict", "other", "", "MIT"))


BY, ZERO = f"{CC}/by/4.0/", "https://creativecommons.org/publicdomain/zero/1.0/"


@pytest.mark.parametrize(
    ("statements", "licence", "url", "source"),
    [
        ([], "", "", ""),
        ([Statement("page", "page rel=license", BY)], "CC-BY-4.0", BY, "page rel=license"),
        ([Statement("page", "a", BY), Statement("page", "b", "CC BY")], "CC-BY-4.0", BY, "a, b"),
        ([Statement("page", "a", BY), Statement("page", "b", ZERO)], "conflict", "",
         "b=CC0-1.0, a=CC-BY-4.0"),
        ([Statement("page", "a", BY), Statement("image", "b", ZERO)], "CC0-1.0", ZERO, "b; not a=CC-BY-4.0"),
        ([Statement("link", "a", BY), Statement("page", "b", ZERO)], "CC0-1.0", ZERO, "b; not a=CC-BY-4.0"),
        ([Statement("image", "a", "https://x.test/t")], "other", "https://x.test/t", "a"),
        ([Statement("image", "a", BY), Statement("image", "b", "Ours")], "conflict", "",
         "b=Ours, a=CC-BY-4.0"),
        ([Statement("image", "a", page="https://x.test/t")], "", "https://x.test/t", "a"),
        ([Statement("image", "a", page=BY)], "CC-BY-4.0", BY, "a"),
        ([Statement("image", "a", page="https://x.test/t"), Statement("page", "b", BY)], "CC-BY-4.0", BY,
         "b"),
    ],
)  # fmt: skip
def test_statements_come_to_a_licence(
    statements: list[Statement], licence: str, url: str, source: str
) -> None:
    found = resolve(encode(statements))
    assert found.licence == licence and found.licence_url == url
    assert sorted(found.licence_source.split(", ")) == sorted(source.split(", "))
    halves = [encode(statements[:1]), encode(statements[1:])]
    assert union(halves) == encode(statements) and resolve(*halves)[:2] == (licence, url)


@given(
    st.lists(st.tuples(st.sampled_from(["image", "page", "link"]), *[st.text(max_size=40)] * 5), max_size=20)
)
def test_any_statements_are_kept_within_bounds(rows: list[tuple[Any, ...]]) -> None:
    text = encode(Statement(*row) for row in rows)
    assert len(text) < 40_000 and encode(decode(text)) == text
    text.encode()
    assert all(len(value) <= 500 for value in resolve(text))


def rights_of(html: str, headers: tuple[tuple[str, str], ...] = ()) -> dict[str, Rights]:
    found = page_images.images(html.encode(), PAGE, "text/html; charset=utf-8", headers)
    return {image.url.rpartition("/")[2]: resolve(image.rights) for image in found}


def ld(value: object) -> str:
    return f'<script type="application/ld+json">{json.dumps(value)}</script>'


IMG = '<img src="/1.jpg" alt="one"><img src="/2.jpg" alt="two">'
OBJECT = {
    "@context": "https://schema.org", "@type": "ImageObject", "contentUrl": "https://a.test/1.jpg",
    "license": BY,
    "acquireLicensePage": "/buy", "creditText": "Lab", "creator": {"@type": "Person", "name": "Ann"},
    "copyrightNotice": "Ann 2024",
}  # fmt: skip


@pytest.mark.parametrize(
    ("html", "source"),
    [
        (f'<link rel=license href="{BY}">', "page rel=license"),
        (f'<a rel="nofollow license" href="{BY}">CC</a>', "page rel=license"),
        (f'<a href="{BY}">CC</a>', "page link"),
        (f'<meta name="dcterms.license" content="{BY}">', "page meta dcterms.license"),
        ('<meta name="DC.rights" content="CC BY 4.0">', "page meta dc.rights"),
        (ld({"@type": "Article", "license": BY}), "page JSON-LD license"),
        (ld({"@graph": [{"@type": ["WebPage"], "license": {"@id": BY}}]}), "page JSON-LD license"),
        (f'<div itemscope itemtype="http://schema.org/Article"><link itemprop=license href="{BY}"></div>',
         "page microdata license"),
    ],
)  # fmt: skip
def test_a_page_licenses_its_images(html: str, source: str) -> None:
    expected = Rights("CC-BY-4.0", BY if "CC BY 4.0" not in html else "", source)
    assert rights_of(html + IMG) == {"1.jpg": expected, "2.jpg": expected}


def test_a_header_licenses_the_images_of_its_page() -> None:
    rsl = '<https://a.test/l.xml>; rel="license"; type="application/rsl+xml"'
    found = rights_of(IMG, (("Link", f'</style.css>; rel=preload, <{BY}>; rel="license", {rsl}'),))
    assert found["1.jpg"] == Rights("CC-BY-4.0", BY, "page HTTP Link")
    assert rights_of(IMG, (("Link", rsl),))["1.jpg"] == Rights()


def test_markup_about_one_image_is_of_that_image() -> None:
    own = Rights("CC-BY-4.0", BY, "image JSON-LD license", "Ann", "Ann 2024")
    assert rights_of(ld(OBJECT) + IMG) == {"1.jpg": own, "2.jpg": Rights()}
    figure = f'<figure><img src="/1.jpg" alt="one"><a rel=license href="{BY}">CC</a></figure>'
    found = rights_of(figure + '<img src="/2.jpg" alt="two">')
    assert found == {"1.jpg": Rights("CC-BY-4.0", BY, "figure rel=license"), "2.jpg": Rights()}
    item = (
        '<div itemscope itemtype="https://schema.org/ImageObject">'
        f'<img itemprop=contentUrl src="/1.jpg" alt=a><a itemprop=license href="{BY}">CC</a>'
        "<span itemprop=creator itemscope><b itemprop=name>Bo</b></span></div>"
    )
    assert rights_of(item + '<img src="/2.jpg" alt="two">')["1.jpg"].licence == "CC-BY-4.0"
    about = f'<a about="/1.jpg" rel=license href="{BY}">CC</a>'
    assert rights_of(about + IMG)["1.jpg"].licence_source == "page RDFa license"


def test_what_differs_is_a_conflict_and_what_is_silent_unknown() -> None:
    found = rights_of(f'<link rel=license href="{BY}"><a rel=license href="{ZERO}">x</a>' + IMG)["1.jpg"]
    assert found.licence == "conflict" and "CC0-1.0" in found.licence_source
    silent = '<p>licence</p><a href="https://creativecommons.org/">about</a><a rel=license href="#">x</a>'
    assert rights_of(silent + IMG)["1.jpg"] == Rights()
    many = "".join(f'<a rel=license href="/l{n}">x</a>' for n in range(5000))
    assert rights_of(many + IMG)["1.jpg"].licence == "conflict"
    assert rights_of(ld(json.loads("[" * 500 + "]" * 500)) + ld("x") + IMG)["1.jpg"] == Rights()


@given(st.text(max_size=300))
def test_any_json_is_survived(text: str) -> None:
    rights_of(f'<script type="application/ld+json">{text}</script><meta name=copyright content=x>' + IMG)
    list(link_header.licences(text))
    licences.identify(text)


def test_a_wat_has_links_metas_and_headers() -> None:
    links = [{"path": "IMG@/src", "url": "/1.jpg", "alt": "one"}]
    head: dict[str, Any] = {"Metas": [{"name": "copyright", "content": "(c) Ann"}]}
    html: dict[str, Any] = {"Head": head, "Links": links}
    response: dict[str, Any] = {"Headers": {"Content-Type": "text/html"}, "HTML-Metadata": html}
    envelope = {"Envelope": {"Payload-Metadata": {"HTTP-Response-Metadata": response}}}

    def found() -> Rights:
        data = json.dumps(envelope, separators=(",", ":")).encode()
        images = wat.page_images(data, PAGE)
        assert images == wat.parsed_images(data, PAGE)
        return resolve(images[0].rights)

    assert found() == Rights("", "", "", "", "(c) Ann")
    links.append({"path": "A@/href", "url": BY, "text": "CC"})
    assert found() == Rights("CC-BY-4.0", BY, "page link", "", "(c) Ann")
    links.append({"path": "A@/href", "url": ZERO, "rel": "license"})
    assert found().licence == "CC0-1.0"
    head["Link"] = [{"path": "LINK@/href", "url": BY, "rel": "license"}]
    assert found().licence == "conflict"
    links[1:], head["Metas"] = [], []
    response["Headers"]["Link"] = f'<{BY}>; rel="license"'
    assert found() == Rights("CC-BY-4.0", BY, "page HTTP Link, page rel=license")


NC = f"{CC}/by-nc/4.0/"


@pytest.mark.parametrize("name", ["xmp.jpg", "xmp.png", "xmp.webp", "iptc.jpg", "exif.jpg"])
def test_what_exiftool_writes_is_read(name: str) -> None:
    found = resolve(said.read((FIXTURES / name).read_bytes()).rights)
    if name.startswith("xmp"):
        assert found == Rights("CC-BY-NC-4.0", NC, "xmp cc:license", "Ann Li; Bo Em", "(c) 2024 Ann Li")
    else:
        assert found == Rights("", "", "", "Ann Li", "(c) 2024 Ann Li")


def picture(kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40), "teal").save(buffer, kind, **options)
    return buffer.getvalue()


def packet(content: str) -> bytes:
    named = {prefix: space for space, prefix in reversed(xmp.PREFIXES.items())}
    spaces = "".join(f' xmlns:{prefix}="{space}"' for prefix, space in named.items())
    return (
        '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF'
        f' xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"{spaces}>{content}</rdf:RDF></x:xmpmeta>'
        '<?xpacket end="w"?>'
    ).encode()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_a_web_statement_names_a_licence_where_it_can_be_told(kind: str) -> None:
    for url, licence in ((BY, "CC-BY-4.0"), ("https://x.test/terms", "")):
        data = packet(f'<rdf:Description rdf:about="" xmpRights:WebStatement="{url}"/>')
        if kind == "PNG":
            info = PngImagePlugin.PngInfo()
            info.add_itxt("XML:com.adobe.xmp", data.decode(), zip=True)
            tagged = picture(kind, pnginfo=info)
        else:
            tagged = picture(kind, xmp=data)
        assert resolve(said.read(tagged).rights) == Rights(licence, url, "xmp xmpRights:WebStatement"), url


def test_pngs_texts_and_an_answers_link() -> None:
    info = PngImagePlugin.PngInfo()
    for key, text in (("Author", "Ann"), ("Copyright", "(c) Ann"), ("License", BY)):
        info.add_text(key, text, zip=key == "Author")
    assert resolve(said.read(picture("PNG", pnginfo=info)).rights)[:5] == Rights(
        "CC-BY-4.0", BY, "png License", "Ann", "(c) Ann"
    )
    assert resolve(said.read(picture(), f"<{BY}>; rel=license").rights) == Rights(
        "CC-BY-4.0", BY, "HTTP Link"
    )


def test_hostile_packets_give_nothing() -> None:
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaa">]>' + packet('<rdf:Description cc:license="&a;"/>')
    assert xmp.read(bomb) == {}
    deep = packet("<dc:rights>" * 5000)
    assert xmp.read(deep) == {}
    cut = packet(f'<rdf:Description cc:license="{BY}"/><dc:rights>A & B')[:-45]
    assert xmp.read(cut) == {"cc:license": [BY]}


@given(st.binary(max_size=200), st.sampled_from(sorted(FIXTURES.glob("*.*g"))), st.integers(0, 4200))
def test_any_bytes_are_survived(noise: bytes, path: Path, place: int) -> None:
    data = path.read_bytes()
    hostile = data[:place] + noise + data[place + len(noise) :]
    for start in (noise, hostile, data[:place], b"\xff\xd8" + noise, b"II*\0" + noise):
        said.read(start, noise.decode("latin-1"))
        xmp.read(start)
        embedded.exif_texts(start)
        embedded.iptc_texts(b"\x1c\x02" + start)


# A whole crawl


class Site:
    """A server of a few pictures, each with headers of its own."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[bytes, dict[str, str]]] = {}
        self.asked: list[str] = []
        answers, asked = self.answers, self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                body, headers = answers.get(self.path, (b"", {}))
                self.send_response(200 if body else 404)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"


def crawl(site: Site, pages: Path, out: Path, *extra: str) -> None:
    argv = ["--queries", "all", "--source", str(pages), "--base-url", site.url, "--out", str(out),
            "--lang", "any",
            "--allow-network", "127.0.0.0/8", "--workers", "1", "--dedup", "exact", *extra]  # fmt: skip
    assert main(argv) == 0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Path]]:
    found, pages = Site(), tmp_path_factory.mktemp("pages")
    for number in range(5):
        color = (40 * number, 90, 200 - 30 * number)
        buffer = io.BytesIO()
        Image.new("RGB", (48, 40), color).save(buffer, "JPEG")
        found.answers[f"/{number}.jpg"] = (buffer.getvalue(), {})
    found.answers["/1.jpg"] = ((FIXTURES / "xmp.jpg").read_bytes(), {})
    found.answers["/2.jpg"] = (found.answers["/2.jpg"][0], {"Link": f'<{ZERO}>; rel="license"'})
    found.answers["/4.jpg"] = found.answers["/3.jpg"]  # the same bytes, of two pages
    images = [f'<img src="/{number}.jpg" alt="picture number {number}">' for number in range(5)]
    (pages / "a.html").write_text("".join(images[:3]))
    (pages / "b.html").write_text(f'<link rel=license href="{BY}">{images[3]}')
    (pages / "c.html").write_text(f'<link rel=license href="{ZERO}">{images[4]}')
    yield found, pages
    found.server.shutdown()


def by_name(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["url"].rpartition("/")[2]: row for row in rows}


def test_the_columns_reach_shards_and_card(site: tuple[Site, Path], tmp_path: Path) -> None:
    crawl(*site, tmp_path / "run")
    rows = by_name(samples(tmp_path / "run"))
    merged = rows.pop("3.jpg", None) or rows.pop("4.jpg")
    assert merged["licence"] == "conflict", "one picture, two pages, two licences"
    assert {name: (row["licence"], row["licence_source"]) for name, row in rows.items()} == {
        "0.jpg": ("", ""), "1.jpg": ("CC-BY-NC-4.0", "xmp cc:license"), "2.jpg": ("CC0-1.0", "HTTP Link"),
    }  # fmt: skip
    assert rows["1.jpg"]["creator"] == "Ann Li; Bo Em" and rows["1.jpg"]["licence_url"] == NC
    assert rows["1.jpg"]["copyright_notice"] == "(c) 2024 Ann Li"
    [gone] = [row for row in rejected(tmp_path / "run") if row["reason"] == "merged_into"]
    assert gone["licence"] in ("CC-BY-4.0", "CC0-1.0") and gone["licence_source"] == "page rel=license"
    card = (tmp_path / "run" / "README.md").read_text()
    assert "| `CC0-1.0` | 1 |" in card and "| `conflict` | 1 |" in card and "| not stated | 1 |" in card
    assert json.loads((tmp_path / "run/report/report.json").read_text())["licences"]["CC-BY-NC-4.0"] == 1


def test_only_licences_that_are_named_are_kept(site: tuple[Site, Path], tmp_path: Path) -> None:
    crawl(*site, tmp_path / "run", "--licence", "cc0,cc-by")
    assert list(by_name(samples(tmp_path / "run"))) == ["2.jpg"]
    rows = [row for row in rejected(tmp_path / "run") if row["reason"] == "licence"]
    details = {row["url"].rpartition("/")[2]: (row["stage"], row["detail"]) for row in rows}
    assert details["0.jpg"] == ("fetch", "none is stated")
    assert details["1.jpg"] == ("fetch", "CC-BY-NC-4.0: xmp cc:license")
    assert details["3.jpg"][0] == details["4.jpg"][0] == "finish", "each page was fine, both together are not"
    assert next(row for row in rows if row["url"].endswith("/1.jpg"))["licence"] == "CC-BY-NC-4.0"
    names = pq.read_schema(next((tmp_path / "run" / "shards").glob("*.parquet"))).names
    assert {*Rights._fields, "synthetic", "synthetic_source"} <= {*names}
