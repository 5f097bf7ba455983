"""WAT and WARC: equal to the plain way of reading them, past damage, and exact wherever a file is cut."""

import contextlib
import gzip
import io
import json
import random
import zlib
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import brotli
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from warcio.archiveiterator import ArchiveIterator

from pipeline.sources import Image, Piece, SourceOptions, archive, encoding, plan, read, wat, wat_links
from pipeline.sources.http_body import decode
from pipeline.sources.records import make_image
from pipeline.urls import BadUrl, resolve
from tests import sanitized

SAMPLES = Path(__file__).resolve().parents[2] / "shared/data/web"
PAGE = "http://example.com/dir/"


def load(path: Path, **options: object) -> list[Image]:
    chosen = SourceOptions(**options)  # type: ignore[arg-type]
    return [image for piece in plan([str(path)], chosen) for image in read(piece, chosen)]


def sample(name: str) -> Path:
    path = SAMPLES / name
    if not path.exists():
        pytest.skip("no sample data beside the checkout")
    return path


def record(kind: str, uri: str, body: bytes, content_type: str, newline: bytes = b"\r\n") -> bytes:
    lines = [
        b"WARC/1.0",
        b"WARC-Type: " + kind.encode(),
        b"WARC-Target-URI: " + uri.encode(),
        b"WARC-Date: 2024-01-01T00:00:00Z",
        b"WARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-000000000000>",
        b"Content-Type: " + content_type.encode(),
        b"Content-Length: %d" % len(body),
    ]
    return newline.join([*lines, b"", body, b"", b""])


def wat_json(
    links: list[object], head: dict[str, object] | None = None, uri: str = PAGE
) -> dict[str, object]:
    """Build a record as Common Crawl's writer does: these keys, in this order."""
    response = {
        "Response-Message": {"Status": "200"},
        "Headers": {"path": "IMG@/src", "url": "/header.jpg", "Set-Cookie": ["a", "b"]},
        "HTML-Metadata": {"Head": head or {}, "Links": links},
    }
    return {
        "Container": {"Filename": "x.warc.gz"},
        "Envelope": {
            "Payload-Metadata": {"HTTP-Response-Metadata": response},
            "WARC-Header-Metadata": {"WARC-Target-URI": uri, "WARC-Type": "response"},
        },
    }


def img(url: str, **texts: str) -> dict[str, str]:
    return {"path": "IMG@/src", "url": url, **texts}


def dump(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def pages(count: int) -> list[bytes]:
    """Return one WAT record per page, the n-th with n % 3 images, between records without any."""
    found = []
    for n in range(count):
        links: list[object] = [img(f"/{n}-{i}.jpg", alt=f"picture {n} {i}") for i in range(n % 3)]
        links.append({"path": "A@/href", "url": "/x", "text": "y" * (n * 7 % 50)})
        found.append(record("metadata", f"{PAGE}{n}", dump(wat_json(links)), "application/json"))
    return [record("warcinfo", "", b"software: test\r\n", "application/warc-fields"), *found]


# WAT records


@pytest.mark.parametrize(
    ("links", "head", "expected"),
    [
        ([img("/a.jpg", alt="A")], {}, [("http://example.com/a.jpg", {"alt": "A"})]),
        ([img("a.jpg", title="T", alt="A")], {}, [(PAGE + "a.jpg", {"alt": "A", "title": "T"})]),
        ([img("a.jpg", alt=' {"x\\": [ "}')], {}, [(PAGE + "a.jpg", {"alt": '{"x\\": [ "}'})]),
        ([img("a.jpg")], {"Base": "/b/"}, [("http://example.com/b/a.jpg", {})]),
        ([{"path": "A@/href", "url": "/x", "text": '"path":"IMG@/src"'}], {}, []),
        (
            [{"alt": "A", "url": "/a.jpg", "path": "IMG@/src"}],
            {},
            [("http://example.com/a.jpg", {"alt": "A"})],
        ),
        ([], {"Metas": [{"property": "og:image", "content": "/o.jpg"}]}, [("http://example.com/o.jpg", {})]),
        (
            [img("/a.jpg")],
            {
                "Metas": [
                    {"property": "og:title", "content": "T"},
                    {"content": "/o.jpg", "property": "og:image"},
                    {"name": ["x", "y"], "content": "repeated"},
                ]
            },
            [("http://example.com/a.jpg", {}), ("http://example.com/o.jpg", {"og": "T"})],
        ),
    ],
)
def test_images_of_a_wat_record(
    links: list[object], head: dict[str, object], expected: list[tuple[str, dict[str, str]]]
) -> None:
    data = dump(wat_json(links, head))
    for images in (wat.page_images(data, PAGE), wat.page_images(data), wat.parsed_images(data)):
        assert [(i.url, dict(i.texts)) for i in images] == expected


@pytest.mark.parametrize(
    ("metas", "headers", "opt_out"),
    [
        ([{"name": "ROBOTS", "content": "NoAI"}], {}, "meta robots: noai"),
        ([{"content": "1", "name": "tdm-reservation"}], {}, "meta tdm-reservation: 1"),
        ([], {"X-Robots-Tag": ["nofollow", "noimageai"]}, "X-Robots-Tag of the page: noimageai"),
        ([{"name": "robots", "content": "noindex"}], {"X-Robots-Tag": "noindex"}, ""),
        ([{"name": "description", "content": "noai"}], {}, ""),
    ],
)
def test_a_wat_record_says_what_its_page_reserves(
    metas: list[object], headers: dict[str, object], opt_out: str
) -> None:
    value: Any = wat_json([img("/a.jpg")], {"Metas": [*metas, {"property": "og:image", "content": "/o.jpg"}]})
    value["Envelope"]["Payload-Metadata"]["HTTP-Response-Metadata"]["Headers"].update(headers)
    for images in (wat.page_images(dump(value), PAGE), wat.parsed_images(dump(value))):
        assert [image.opt_out for image in images] == [opt_out, opt_out]


@pytest.mark.parametrize(
    ("metas", "headers", "lang"),
    [
        ([], {}, ""),
        ([{"name": "HTML@/lang", "content": "pt-BR"}], {"Content-Language": "en"}, "pt-br"),
        ([{"name": "HTML@/xml:lang", "content": "de"}, {"name": "HTML@/lang", "content": "fr"}], {}, "fr"),
        ([{"http-equiv": "Content-Language", "content": " de_AT "}], {"Content-Language": "en"}, "de-at"),
        ([], {"content-language": "nl"}, "nl"),
        ([], {"Content-Language": ["nl", "fr"]}, "nl"),
        ([], {"Content-Language": "nl, fr"}, ""),
        ([{"name": "Language", "content": "English"}, {"name": "DC.Language", "content": "en"}], {}, "en"),
        ([{"property": "og:locale", "content": "es_ES"}], {}, "es-es"),
        ([{"property": "og:title", "content": '"Content-Language":"it"'}], {}, ""),
    ],
)
def test_a_wat_record_says_the_language_of_its_page(
    metas: list[object], headers: dict[str, object], lang: str
) -> None:
    value: Any = wat_json([img("/a.jpg")], {"Metas": [*metas, {"property": "og:image", "content": "/o.jpg"}]})
    value["Envelope"]["Payload-Metadata"]["HTTP-Response-Metadata"]["Headers"].update(headers)
    for images in (wat.page_images(dump(value), PAGE), wat.parsed_images(dump(value))):
        assert [image.page_lang for image in images] == [lang, lang]


text = st.text(st.characters(codec=None, exclude_categories=()), max_size=12) | st.sampled_from(
    [
        '{"path":"IMG@/src"',
        '},{"',
        "\\",
        '"',
        "[{",
        '"IMG@/src"',
        '"Metas":[',
        "og:image",
        '"Base":',
        '"Content-Language":"de"',
        "\ud83d",
    ]
)
link = st.one_of(
    st.builds(lambda u, a: img(u, alt=a), text, text),
    st.builds(lambda u, a, t: {"url": u, "alt": a, "path": "IMG@/src", "title": t}, text, text, text),
    st.builds(lambda u, a: {"path": "A@/href", "url": u, "text": a}, text, text),
    st.just({"path": "IMG@/src"}),
    st.just({"path": "IMG@/src", "url": ["/a.jpg", "/b.jpg"], "alt": 3}),
)
meta = st.builds(
    lambda k, n, c: {k: n, "content": c},
    st.sampled_from(["property", "http-equiv"]),
    st.sampled_from(["og:image", "og:title", "robots", "HTML@/lang", "content-language", "og:locale", "x"]),
    text | st.sampled_from(["noai", "NOML", "de", "en-US"]),
)
said = st.fixed_dictionaries({}, optional={"Content-Language": text | st.just("fr"), "X": text})
heads = st.fixed_dictionaries({}, optional={"Base": text, "Title": text, "Metas": st.lists(meta, max_size=4)})


@settings(max_examples=300, deadline=None)
@given(st.lists(link, max_size=4), heads, said, st.booleans(), st.sampled_from([(",", ":"), (", ", ": ")]))
def test_the_fast_path_equals_parsing(
    links: list[object],
    head: dict[str, object],
    headers: dict[str, object],
    ascii_only: bool,
    separators: tuple[str, str],
) -> None:
    value: Any = wat_json(links, head)
    value["Envelope"]["Payload-Metadata"]["HTTP-Response-Metadata"]["Headers"].update(headers)
    # Lone surrogates can only stand in JSON as escapes.
    data = json.dumps(value, separators=separators, ensure_ascii=ascii_only)
    encoded = data.encode("utf-8", "replace")
    found = wat.page_images(encoded, PAGE)
    assert found == wat.parsed_images(encoded, PAGE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wat_links, "_wat", None)
        assert found == wat.page_images(encoded, PAGE)


def test_links_are_found_in_c_as_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    module = pytest.importorskip("pipeline.sources._wat", reason="not built")
    sanitized.wat(module, np.random.default_rng(0))
    page, long = "http://x.de", "a" * 10_000
    escaped = img("/a.jpg", alt='  \x1f"\\/\t\u3000é\n ', title="\u00a0")
    ordinary = [escaped, img("/a.jpg", title=long), img("/b.svg/x?a.svg")]
    odd = [img("/b.SVGZ?x"), img("/" + long), img("/a.jpg", alt=long + "a"), img("/a.jpg", alt="\ud83d")]
    for ascii_only in (True, False):
        links = ordinary + odd[: 4 if ascii_only else 3]
        data = json.dumps(wat_json(links), separators=(",", ":"), ensure_ascii=ascii_only).encode()
        found = wat_links.links(data, page)
        assert [isinstance(link, int) for link in found[-len(links) :]] == [link in odd for link in links]
        with monkeypatch.context() as patch:
            patch.setattr(wat_links, "_wat", None)
            assert found == wat_links.links(data, page)


@settings(max_examples=200, deadline=None)
@given(st.lists(link, min_size=1, max_size=4), heads, st.data())
def test_damaged_json_is_a_value_error_or_images(
    links: list[object], head: dict[str, object], draw: st.DataObject
) -> None:
    data = bytearray(json.dumps(wat_json(links, head), separators=(",", ":")).encode())
    data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    for damaged in (bytes(data), bytes(data[: draw.draw(st.integers(0, len(data)))])):
        with contextlib.suppress(ValueError):
            assert all(isinstance(i, Image) for i in wat.page_images(damaged, PAGE))


segment = st.sampled_from(
    ["a.jpg", ".", "..", "", "é", "%2e", "x y", "it's", "A-b_c~!$&()*+,;=:@", "?", "a?b/c?", "#"]
)
host = st.sampled_from(
    ["", "https://example.org", "http://a-b.c.de", "https://xn--ls8h.la", "http://1.2.3.4", "https://a.b:80",
     "//x.de", "http://EXAMPLE.org", "https://u@a.de", "http://localhost", "https://a.xn--p1ai", "http://-.com"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    st.builds(
        lambda before, parts: before + "".join(f"/{part}" for part in parts),
        host,
        st.lists(segment, max_size=5),
    ),
    st.sampled_from(
        [PAGE, "https://u:p@a.de/x", "http://a.de:8080/x?y", "nothing", "mailto:x@y", "http://[::1]:9/"]
    ),
)
def test_a_plain_reference_is_resolved_as_any_other(reference: str, page: str) -> None:
    data = dump(wat_json([img(reference, alt="A"), img(f"{reference}.svg", title="T" * 10_001)], uri=page))
    assert list(wat.page_images(data, page)) == list(wat.parsed_images(data, page))


def test_a_cut_record_is_not_taken_for_a_page_without_images() -> None:
    data = dump(wat_json([img("/a.jpg")]))
    for end in (10, len(data) // 2, len(data) - 1):
        with pytest.raises(ValueError):
            list(wat.page_images(data[:end], PAGE))


# Files, cuts and damage

FORMS: dict[str, tuple[str, Callable[[list[bytes]], bytes]]] = {
    "gzip members": ("a.warc.wat.gz", lambda rs: b"".join(gzip.compress(r, mtime=0) for r in rs)),
    "one gzip member": ("a.wat.gz", lambda rs: gzip.compress(b"".join(rs), mtime=0)),
    "zstd frames": ("a.wat.zst", lambda rs: b"".join(zstandard.compress(r) for r in rs)),
    "plain": ("a.wat", b"".join),
}


@pytest.mark.parametrize("inflater", ["zlib", "isal.isal_zlib"])
def test_odd_members_are_read_as_fastwarc_reads_them(
    tmp_path: Path, inflater: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records that the quick way refuses, whole members around them, at any place."""
    monkeypatch.setattr(archive, "_zlib", pytest.importorskip(inflater))
    monkeypatch.setattr(wat, "MAX_RECORD", 100_000)
    good = [gzip.compress(r, mtime=0) for r in pages(6)]
    plain = pages(3)[2]
    odd = {
        "nothing": gzip.compress(b""),
        "two records": gzip.compress(plain + plain),
        "other case": gzip.compress(plain.replace(b"Content-Length", b"content-length")),
        "twice": gzip.compress(plain.replace(b"WARC-Date:", b"content-length: 1\r\nWARC-Date:")),
        "other order": gzip.compress(plain.replace(b"WARC-Type: metadata\r\n", b"").replace(
            b"WARC-Date", b"WARC-Type: metadata\r\nWARC-Date")),
        "a longer body": gzip.compress(plain[:-4] + b"   \r\n\r\n"),
        "zeros": bytes(600),
        "text": b"WARC/1.0\r\n" * 40,
        "checksum": gzip.compress(plain)[:-8] + bytes(8),
        "large": gzip.compress(record("metadata", PAGE, b" " * (wat.MAX_RECORD + 9), "application/json")),
    }  # fmt: skip
    for name, member in odd.items():
        for place in (0, 3, 6):
            path = tmp_path / "a.wat.gz"
            path.write_bytes(b"".join([*good[:place], member, *good[place:]]))
            found = load(path)
            with monkeypatch.context() as only:
                only.setattr(archive, "members", lambda *_: iter([archive.Member(0)]))
                assert found == load(path), (name, place)


@pytest.mark.parametrize("form", FORMS)
def test_every_cut_reads_every_record_once(tmp_path: Path, form: str) -> None:
    name, pack = FORMS[form]
    path = tmp_path / name
    path.write_bytes(pack(pages(5)))
    whole = load(path)
    assert [i.url for i in whole] == [
        f"http://example.com/{n}-{i}.jpg" for n in range(5) for i in range(n % 3)
    ]
    size = path.stat().st_size
    for piece_bytes in range(1, size + 2, 1 if form == "gzip members" else 3):
        assert load(path, piece_bytes=piece_bytes) == whole
    cut = len(plan([str(path)], SourceOptions(piece_bytes=300)))
    assert (cut > 1) == (form in ("gzip members", "plain"))


def test_lf_only_headers_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.wat.gz"
    data = dump(wat_json([img("/a.jpg", alt="A")]))
    path.write_bytes(gzip.compress(record("metadata", PAGE, data, "application/json", b"\n")))
    assert [i.url for i in load(path)] == ["http://example.com/a.jpg"]


def test_a_truncated_archive_ends_in_one_bad_record(tmp_path: Path) -> None:
    path = tmp_path / "a.wat.gz"
    records = pages(6)
    members = [gzip.compress(r, mtime=0) for r in records]
    whole = b"".join(members)
    path.write_bytes(whole)
    images = load(path)
    for lost in range(1, len(members[-1]) - 1):
        path.write_bytes(whole[:-lost])
        cut = load(path)
        assert [i.reason for i in cut].count("bad_record") == 1, lost
        assert cut[-1].reason == "bad_record"
        # The last page's two images are lost unless only the trailer is.
        assert cut[:-1] in (images, images[:-2]), lost


@pytest.mark.parametrize("piece_bytes", [1 << 20, 700])
def test_damage_costs_the_damaged_records_only(tmp_path: Path, piece_bytes: int) -> None:
    records = pages(9)
    members = [gzip.compress(r, mtime=0) for r in records]
    path = tmp_path / "a.wat.gz"
    path.write_bytes(b"".join(members))
    whole = load(path)
    for victim in range(1, 9):
        damaged = bytearray(members[victim])
        damaged[len(damaged) // 2 : len(damaged) // 2 + 8] = b"\xff" * 8
        path.write_bytes(b"".join([*members[:victim], damaged, *members[victim + 1 :]]))
        images = load(path, piece_bytes=piece_bytes)
        good = [i for i in images if i.reason is None]
        assert good == [i for i in whole if i.page_url != f"{PAGE}{victim - 1}"], victim
        assert len(images) - len(good) == 1, victim


def test_a_bad_record_is_told_and_the_next_is_read(tmp_path: Path) -> None:
    records = pages(3)
    records.insert(2, record("metadata", PAGE + "bad", b'{"IMG@/src', "application/json"))
    path = tmp_path / "a.wat.gz"
    path.write_bytes(b"".join(gzip.compress(r) for r in records))
    images = load(path)
    assert [i.reason for i in images] == ["bad_record", None, None, None]
    assert images[0].page_url == PAGE + "bad" and "a.wat.gz at byte" in images[0].detail


def test_random_bytes_are_no_images(tmp_path: Path) -> None:
    noise = random.Random(0).randbytes(200_000)
    for name, data in (
        ("a.wat.gz", b"\x1f\x8b\x08\0" + noise),
        ("b.warc", noise),
        ("c.warc", b"WARC/1.0\r\n" + noise),
    ):
        (tmp_path / name).write_bytes(data)
        assert {i.reason for i in load(tmp_path / name, piece_bytes=50_000)} <= {"bad_record"}


# WARC


def response(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode() + body


HTML = "<title>é</title><img src=a.jpg alt='é'>".encode()
CHUNKED = b"%x;x=1\r\n%s\r\n0\r\n\r\n" % (len(HTML), HTML)


@pytest.mark.parametrize(
    "block",
    [
        response(HTML, "Content-Type: text/html; charset=utf-8"),
        response(HTML.decode().encode("latin-1"), "content-type: TEXT/HTML;charset=iso-8859-1"),
        response(HTML, "Content-Type: application/xhtml+xml", "Set-Cookie: a", "Set-Cookie: b"),
        response(b"<!DOCTYPE html>" + HTML, "Server: none of a type"),
        response(CHUNKED, "Content-Type: text/html", "Transfer-Encoding: chunked"),
        response(HTML, "Content-Type: text/html", "Transfer-Encoding: chunked"),  # undone by the archiver
        response(gzip.compress(HTML, mtime=0), "Content-Type: text/html", "Content-Encoding: gzip"),
        response(HTML, "Content-Type: text/html", "Content-Encoding: gzip"),
        response(zlib.compress(HTML), "Content-Type: text/html", "Content-Encoding: deflate"),
        response(HTML, "Content-Type: text/html", "Content-Encoding: br"),
        response(brotli.compress(HTML), "Content-Type: text/html", "Content-Encoding: br"),
        response(zstandard.compress(HTML), "Content-Type: text/html", "Content-Encoding: zstd"),
        response(
            zstandard.compress(gzip.compress(HTML, mtime=0)),
            "Content-Type: text/html",
            "Content-Encoding: gzip",
            "Content-Encoding: zstd",
        ),
        response(
            gzip.compress(HTML, mtime=0) + b"\0junk", "Content-Type: text/html", "Content-Encoding: x-gzip"
        ),
        response(HTML, "Content-Type: text/html", "Content-Encoding: UTF-8, aws-chunked"),
        response(HTML, "Content-Type: text/html", "Content-Encoding: compress"),  # undone by the archiver
        response(gzip.compress(HTML, mtime=0), "Content-Type: text/html", "Transfer-Encoding: gzip"),
        response(HTML.decode().encode("utf-16"), "Content-Type: text/html", "Content-Encoding: gzip"),
        response(HTML, "Content-Type: text/html", status="206 Partial Content"),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_pages_of_a_warc(tmp_path: Path, block: bytes, form: str) -> None:
    name, pack = FORMS[form]
    path = tmp_path / name.replace("wat", "warc")
    others = [
        record("request", PAGE, b"GET / HTTP/1.1\r\n\r\n", "application/http; msgtype=request"),
        record(
            "response", PAGE, response(HTML, "Content-Type: text/html", status="404 No"), "application/http"
        ),
        record("response", PAGE, response(HTML, "Content-Type: image/png"), "application/http"),
        record("response", PAGE, response(b"x" + HTML, "Server: none"), "application/http"),
        record("resource", PAGE + "r/", HTML, "text/html; charset=utf-8"),
    ]
    path.write_bytes(pack([*others, record("response", PAGE, block, "application/http; msgtype=response")]))
    expected = [Image(f"{page}a.jpg", (("alt", "é"),), page) for page in (PAGE + "r/", PAGE)]
    assert load(path, source_format="warc") == expected


@pytest.mark.parametrize(
    ("body", "coding", "why"),
    [
        (b"\x28\xb5\x2f\xfd\xff\xff\xff\xff", "zstd", "zstd: "),
        (zstandard.compress(HTML * 99)[:-9], "zstd", "zstd: it ends early"),
        (b"\0\1\2\3not brotli", "br", "br: "),
        (b"\x1f\x9d\x90\0\1\2", "compress", "compress is not understood"),
        (b"\0\1\2\3", "gzip", "gzip: "),
        (gzip.compress(gzip.compress(HTML, mtime=0)[:30], mtime=0), "gzip, gzip", "gzip: it ends early"),
        (b"\xff\0\1\2", "deflate", "deflate: "),
    ],
)
@pytest.mark.parametrize("kind", ["Content-Type: text/html", "Server: none of a type"])
def test_a_coding_that_cannot_be_undone_is_a_bad_record(
    tmp_path: Path, body: bytes, coding: str, why: str, kind: str
) -> None:
    path = tmp_path / "x.warc"
    block = response(body, kind, f"Content-Encoding: {coding}")
    path.write_bytes(record("response", PAGE, block, "application/http"))
    first, *_ = load(path, source_format="warc")
    assert (first.reason, first.page_url) == ("bad_record", PAGE) and why in first.detail


@pytest.mark.parametrize(
    ("head", "type", "alt"),
    [
        ("", "text/html; charset=windows-1251", "Красная лодка"),
        ("", 'text/html;x=1; Charset="x-cp1251"', "Красная лодка"),
        ("<meta charset=koi8-r>", "text/html; charset=none", "Красная лодка"),
        ("<?xml version='1.0' encoding='koi8-r'?>", "application/xhtml+xml", "Красная лодка"),
        ("<!-- <meta charset=utf-8> --><meta charset=euc-jp>", "text/html", "①赤い"),
    ],
)
def test_records_of_a_warc_are_decoded_as_browsers_do(tmp_path: Path, head: str, type: str, alt: str) -> None:
    path = tmp_path / "x.warc"
    label = "euc_jisx0213" if "euc" in head else "cp1251" if "1251" in type else "koi8-r"
    body = f"{head}<img src=a.jpg alt='{alt}'>".encode(label)
    answer = response(body, f"Content-Type: {type}")
    path.write_bytes(
        record("resource", PAGE, body, type) + record("response", PAGE, answer, "application/http")
    )
    assert [image.texts for image in load(path, source_format="warc")] == [(("alt", alt),)] * 2


def test_a_page_of_a_warc_says_what_it_reserves(tmp_path: Path) -> None:
    path = tmp_path / "x.warc"
    meta = b"<meta name=robots content=noai>" + HTML
    blocks = [
        response(HTML, "Content-Type: text/html", "X-Robots-Tag: nofollow", "x-robots-tag: noai"),
        response(meta, "Content-Type: text/html"),
        response(HTML, "Content-Type: text/html", "X-Robots-Tag: noindex"),
    ]
    path.write_bytes(b"".join(record("response", PAGE, block, "application/http") for block in blocks))
    found = [image.opt_out for image in load(path, source_format="warc")]
    assert found == ["X-Robots-Tag of the page: noai", "meta robots: noai", ""]


def test_a_body_is_bounded_and_what_precedes_damage_is_kept() -> None:
    bomb = gzip.compress(b"x" * 10_000_000)
    assert decode(bomb, "", "gzip", 1000) == (b"x" * 1000, "")
    packed = gzip.compress(random.Random(0).randbytes(100_000))
    body, problem = decode(packed[:50_000], "", "gzip", 1 << 20)
    assert 0 < len(body) < 100_000 and problem
    assert decode(b"5\r\nhello\r\nzz", "chunked", "", 99) == (b"hello", "")


@settings(max_examples=300)
@given(
    st.binary(max_size=100),
    st.sampled_from(["", "chunked"]),
    st.sampled_from(["gzip", "deflate", "br", "zstd", "br, gzip", "gzip, gzip, gzip, gzip, gzip", "x"]),
)
def test_any_body_decodes(data: bytes, transfer: str, coding: str) -> None:
    for body in (data, gzip.compress(data)):
        plain, problem = decode(body, transfer, coding, 64)
        assert len(plain) <= 64 and isinstance(problem, str)


# Real files, against independent readers


def test_the_real_wat_record_equals_warcio_and_json() -> None:
    path = sample("CC-MAIN-sample2.warc.wat.gz")  # LF line ends; its twin's Content-Length is wrong
    expected = []
    with path.open("rb") as file:
        for entry in ArchiveIterator(file):
            value = json.loads(entry.content_stream().read())
            uri = value["Envelope"]["WARC-Header-Metadata"]["WARC-Target-URI"]
            meta = value["Envelope"]["Payload-Metadata"]["HTTP-Response-Metadata"]["HTML-Metadata"]
            for link in meta["Links"]:
                if link["path"] == "IMG@/src":
                    expected.append(make_image(link["url"], (), uri, uri))
    assert len(expected) == 27
    assert load(path) == expected
    (bad,) = load(sample("CC-MAIN-sample.warc.wat.gz"))
    assert bad.reason == "bad_record"


class Lister(HTMLParser):
    """List (src, srcset, alt) of each <img>, in the plainest way."""

    def __init__(self) -> None:
        super().__init__()
        self.base: str | None = None
        self.found: list[tuple[str, str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "base" and self.base is None:
            self.base = values.get("href")
        if tag == "img" and values.get("src"):
            self.found.append((values["src"], values.get("srcset", ""), values.get("alt", "").strip()))


def listed(path: Path) -> Iterator[tuple[str, list[str], str]]:
    """Yield (page, URLs of one element, alt) by warcio and the standard library's parser."""
    with path.open("rb") as file:
        for entry in ArchiveIterator(file):
            kind = (entry.http_headers.get_header("Content-Type") if entry.http_headers else "") or ""
            if entry.rec_type != "response" or "html" not in kind or entry.http_headers.statusline[:1] != "2":
                continue
            page = entry.rec_headers.get_header("WARC-Target-URI")
            lister = Lister()
            lister.feed(encoding.read(entry.content_stream().read(), kind, page).text)
            for src, srcset, alt in lister.found:
                references = [src, *(item.split()[0] for item in srcset.split(", ") if item.strip())]
                with contextlib.suppress(BadUrl):
                    base = resolve(lister.base or page, page)
                    yield page, [resolve(reference, base) for reference in references], alt


REAL = {
    "whirlwind.warc.gz": 8,
    "pywb-iana.warc.gz": 10,
    "resiliparse-warcfile.warc.gz": 100,
    "ia-web-commons-link-extraction-test.warc": 3,
}


@pytest.mark.parametrize("name", REAL)
def test_a_real_warc_holds_what_an_independent_reader_lists(name: str) -> None:
    path = sample(name)
    ours: set[tuple[str, str, str]] = set()
    for image in load(path):
        assert image.reason != "bad_record"
        ours.add((image.page_url, image.url, dict(image.texts).get("alt", "")))
    expected = list(listed(path))
    assert len(expected) >= REAL[name]
    for page, urls, alt in expected:
        assert any((page, url, alt) in ours for url in urls), (page, urls, alt)


def test_an_empty_stream_holds_nothing() -> None:
    assert list(wat.read(io.BytesIO(b""), Piece("wat", "x", 0, -1, "", "x"))) == []


def test_a_record_larger_than_is_held_is_one_bad_record_and_the_rest_is_read(tmp_path: Path) -> None:
    good = record("metadata", PAGE, dump(wat_json([img("/a.jpg")])), "application/json")
    size = wat.MAX_RECORD + 1
    head, _, _ = good.partition(b"Content-Length:")
    large = head + b"Content-Length: %d\r\n\r\n" % size + b"[" * size + b"\r\n\r\n"
    path = tmp_path / "a.warc.wat.gz"
    path.write_bytes(gzip.compress(large, 1) + gzip.compress(good))
    options = SourceOptions()
    first, second = (image for piece in plan([str(path)], options) for image in read(piece, options))
    assert (first.reason, f"a record of {size:,} bytes" in first.detail) == ("bad_record", True)
    assert second.reason is None
    with pytest.raises(ValueError, match="another layout"):
        wat.parsed_images(b"[" * (17 << 20))
