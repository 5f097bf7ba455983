"""Whatever arrives, a parser answers as it may: never another exception, never an unknown reason.

Less than half a minute of CPU time in all; `make fuzz` tries two hundred times as many inputs.
"""

import gzip
import io
import json
import math
import unicodedata

import numpy as np
import pytest
import simplejpeg
from PIL import Image as Pillow

from pipeline import hashlist, shards, tombstones, urls
from pipeline.captions import contacts
from pipeline.captions.match import Matcher, tokens
from pipeline.captions.text import TextRules, check, clean
from pipeline.http import aitxt, optout, robots, tdmrep
from pipeline.http.address_policy import AddressPolicy, check_url
from pipeline.http.rate_limit import retry_after
from pipeline.images import rights
from pipeline.images.process import process
from pipeline.options import ImageOptions
from pipeline.reasons import REASONS
from pipeline.sources import Piece, http_body, page_images, sitemap, srcset, warc, wat
from pipeline.sources.links import links
from pipeline.sources.records import MAX_TEXT, Image
from tests import fuzzing
from tests.fuzzing import Target

pytestmark = pytest.mark.timeout(0 if fuzzing.SCALE > 1 else 600)

PAGE = "http://a.test/dir/page.html"
POLICY = AddressPolicy.from_text(())
PIECE = Piece("warc", "x", 0, -1, "", "x")
IMAGES = ImageOptions(max_pixels=4_000_000, keep_exif=True)
RULES = TextRules()
MATCHER = Matcher(["red flower", "a", "new york city", "b-52", "caf\u00e9", "\u82b1"])


def text_of(data: bytes) -> str:
    """Return the input as text, with lone surrogates where it is no UTF-8."""
    return data.decode("utf-8", "surrogateescape")


def is_sound(image: Image) -> None:
    """The images of a source can be stored, and have a known reason or a URL that can be asked for."""
    for text in (image.url, image.page_url, image.detail, image.opt_out, *(text for _, text in image.texts)):
        text.encode()  # raises where Parquet would
    assert all(len(text) <= MAX_TEXT for _, text in image.texts)
    if image.reason is None:
        assert urls.resolve(image.url) == image.url
    else:
        assert image.reason in REASONS


def check_one_url(data: bytes) -> None:
    text = text_of(data)
    for base in (None, PAGE):
        try:
            found = urls.resolve(text, base)
        except urls.BadUrl as error:
            assert error.reason in REASONS
            continue
        assert found.isascii() and urls.resolve(found) == found and len(found) <= urls.MAX_LENGTH
        canonical = urls.canonical(text, base)
        assert urls.canonical(canonical) == canonical and len(urls.uid(canonical)) == 32
        assert urls.site(found) and urls.host(found)
        assert check_url(found, POLICY) in (None, *REASONS)
    tombstones.request(domain=["a.test"]).has_url(text)
    sitemap.is_named_like_one(text)


def check_headers(data: bytes) -> None:
    text = text_of(data)
    headers = [(name, value) for line in text.split("\n") for name, _, value in [line.partition(":")]]
    refusal = optout.check_headers(headers)
    assert refusal is None or refusal.reason in REASONS
    page = optout.check_page(headers, headers)
    assert page is None or page
    for _, value in headers:
        wait = retry_after(value, value)
        assert wait is None or (math.isfinite(wait) and wait >= 0)


def check_robots(data: bytes) -> None:
    rules = robots.parse(data)
    assert math.isfinite(rules.crawl_delay) and rules.crawl_delay >= 0
    for path in ("/", "/a/b.jpg?x=1", "/%7Ejoe/index.html", "/" + "a" * 300):
        refusal = rules.refusal(f"http://a.test{path}")
        assert refusal is None or refusal.reason in REASONS
        tdmrep.parse(data).reserving(f"http://a.test{path}")
        aitxt.parse(data).reserving(f"http://a.test{path}")


def check_html(data: bytes) -> None:
    for image in page_images.images(data, PAGE, "text/html; charset=utf-8" if len(data) % 2 else ""):
        is_sound(image)
    for url in links(data, PAGE):
        assert urls.resolve(url) == url
    for candidate in srcset.parse(text_of(data[:2000])):
        assert candidate.width >= 0 and candidate.density >= 0


def check_wat_record(data: bytes) -> None:
    try:
        images = wat.page_images(data, PAGE)
    except ValueError:
        return
    for image in images:
        is_sound(image)


def check_archive(data: bytes) -> None:
    for reader in (wat.read, warc.read):
        for packed in (data, gzip.compress(data, 1)):
            for image in reader(io.BytesIO(packed), PIECE):
                is_sound(image)


def check_body(data: bytes) -> None:
    head, _, body = data.partition(b"\n\n")
    transfer, _, codings = text_of(head).partition("\n")
    plain, _ = http_body.decode(body, transfer, codings, 100_000)
    assert len(plain) <= 100_000


def check_image(data: bytes) -> None:
    rights.prohibited(data)
    found = process(data, IMAGES)
    assert found.reason in ("", *REASONS)
    if not found.reason:
        height, width, *_ = simplejpeg.decode_jpeg_header(found.jpeg)
        assert (width, height) == (found.width, found.height) and min(width, height) <= IMAGES.image_size
        json.loads(found.exif or "{}")
        assert len(found.phash) == 64


def check_sitemap(data: bytes) -> None:
    found = sitemap.parse(gzip.compress(data, 1) if len(data) % 2 else data)
    assert found is None or (len(found.urls) <= sitemap.MAX_URLS and all(found.urls))


def check_caption(data: bytes) -> None:
    text = text_of(data)
    cleaned = clean(text)
    cleaned.encode()
    assert unicodedata.is_normalized("NFC", cleaned) and " ".join(cleaned.split()) == cleaned
    assert not {unicodedata.category(char) for char in cleaned} & {"Cc", "Cs", "Co"}
    assert check(cleaned, RULES) in (None, *REASONS)
    contacts.mask(cleaned).encode()
    ids = MATCHER.match(cleaned)
    assert ids == sorted(set(ids)) and all(0 <= one < 6 for one in ids)
    assert all(tokens(cleaned))


def check_shard(data: bytes) -> None:
    try:
        for sample in shards.read_shard(io.BytesIO(data)):
            assert sample.key.isdigit()
    except shards.ShardError:
        pass


def check_hash_list(data: bytes) -> None:
    try:
        found = hashlist.parse(text_of(data).splitlines(), "x")
    except ValueError as error:
        assert str(error).startswith("x")
        return
    assert found.of_bytes(b"", bytes(32)) in ("", "sha256")
    found.of_picture("0" * 64)


def pictures() -> tuple[bytes, ...]:
    """Return small pictures of every format that is taken, with metadata, and some that are not."""
    rng = np.random.default_rng(0)
    smooth = np.add.outer(np.arange(48), np.arange(64))[..., None] * np.array([1, 2, 3]) % 256
    array = (smooth + rng.integers(0, 20, smooth.shape)).clip(0, 255).astype(np.uint8)
    picture = Pillow.fromarray(array)
    exif = Pillow.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    found = []
    for name, options in (
        ("jpeg", {"exif": exif, "quality": 80}), ("jpeg", {"progressive": True}), ("png", {"exif": exif}),
        ("webp", {"exif": exif}), ("webp", {"lossless": True}), ("gif", {}), ("avif", {}), ("bmp", {}),
        ("tiff", {"compression": "tiff_lzw"}),
    ):  # fmt: skip
        sink = io.BytesIO()
        picture.save(sink, name, **options)
        found.append(sink.getvalue())
    for mode in ("CMYK", "L"):
        sink = io.BytesIO()
        picture.convert(mode).save(sink, "jpeg")
        found.append(sink.getvalue())
    sink = io.BytesIO()
    picture.quantize(16).save(sink, "png", transparency=3)
    return (*found, sink.getvalue())


def record(kind: str, body: bytes, content_type: str) -> bytes:
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {PAGE}\r\nContent-Type: {content_type}\r\n"
        f"WARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-000000000000>\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body + b"\r\n\r\n"


HTML = (
    b"<!doctype html><html><head><base href=/b/><meta charset=utf-8>"
    b"<meta name=robots content='noai, nofollow'>"
    b"<meta property=og:image content=/og.jpg><meta property=og:title content='A title'></head><body>"
    b"<figure><picture><source srcset='a.webp 1x, b.webp 2x'><img src=c.jpg alt='A red flower'"
    b" title=x data-src=d.jpg></picture><figcaption>In <b>the</b> garden</figcaption></figure>"
    b"<noscript><img src=e.jpg></noscript><a href='2.html' rel=nofollow>2</a><a href=/3>3</a></body></html>",
    "<img src=\"//a.test/\u82b1.jpg\" alt='caf\u00e9 &amp; &#x1F600; &bogus;'>".encode(),
    "<html><body><p>Fran\u00e7ais<img srcset='x 480w, y 2e3w' alt=ea></p>".encode("latin-1"),
)
WAT = json.dumps(
    {"Envelope": {"WARC-Header-Metadata": {"WARC-Target-URI": PAGE}, "Payload-Metadata": {
        "HTTP-Response-Metadata": {"Headers": {"X-Robots-Tag": "noai"}, "HTML-Metadata": {
            "Head": {"Base": "/b/", "Title": "T", "Metas": [{"property": "og:image", "content": "/o.jpg"}]},
            "Links": [{"path": "IMG@/src", "url": "a.jpg", "alt": "A red flower", "title": "T"},
                      {"path": "A@/href", "url": "/2"}, {"path": "IMG@/src", "url": "b.jpg", "alt": ""}]}}}}},
    separators=(",", ":"),
).encode()  # fmt: skip
HTTP = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKED = (
    b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (HTML[0][:90], HTML[0][90:])) + b"0\r\n\r\n"
)
WARC = record("response", HTTP + CHUNKED, "application/http; msgtype=response")
URLSET = b'<?xml version="1.0"?><urlset><url><loc>http://a.test/1?a=1&amp;b=2</loc></url></urlset>'


def one_shard(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("fuzz") / "x.tar"
    shards.write_shard(path, (shards.Sample(f"{i:04d}", b"jpeg" * 20, "text", b"{}") for i in range(2)))
    return path.read_bytes()


TARGETS = [
    Target(
        name="url",
        check=check_one_url,
        rounds=20_000,
        seeds=(
            b"http://a.test/b?c=d#e",
            b"https://user:pass@[::1]:8080/%7e/../x",
            b"//b.test\\c",
            b"data:image/png;base64,AA",
            "http://b\u00fccher.example/\u82b1?\u00e9".encode(),
            b"http://127.1/",
            b"HTTP://A.TEST:80/./a%2fb",
            b"../x y",
        ),
        words=(
            b"http://",
            b"//",
            b"\\",
            b"%00",
            b"%",
            b"@",
            b":",
            b"[",
            b"]",
            b"\t",
            b"#",
            b"..",
            b"xn--",
            "\u2460\u3002".encode(),
            b"169.254.169.254",
            b"0x7f000001",
            b"\xed\xa0\x80",
        ),
    ),
    Target(
        name="header",
        check=check_headers,
        rounds=20_000,
        seeds=(
            b"X-Robots-Tag: otherbot: noindex, openwit: noai, nofollow\nRetry-After: 120",
            b"X-Robots-Tag: unavailable_after: 25 Jun 2030 15:00:00 PST, noai\nTDM-Reservation: 1",
            b"Content-Usage: train-ai=n;exp=1, ai=y\nRetry-After: Wed, 21 Oct 2026 07:28:00 GMT",
            b"Robots-Tag: openwit;noai, *=noindex\nrobots: noai\nX-Robots-Tag:",
        ),
        words=(
            b"noai",
            b":",
            b",",
            b";",
            b"=",
            b"*",
            b"unavailable_after",
            b"\n",
            b"-1",
            b"9999",
            b"GMT",
            b'"',
        ),
    ),
    Target(
        name="robots",
        check=check_robots,
        rounds=3_000,
        seeds=(
            b"User-agent: *\nDisallow: /a*b$\nAllow: /\nCrawl-delay: 5\nSitemap: http://a.test/s.xml\n",
            b"\xef\xbb\xbfUser-Agent: openwit\r\nUser-agent: CCBot\r\nDisallow:\r\n\r\n"
            b"user-agent:*\rdisallow:/",
            b"User-agent: *\nContent-Signal: ai-train=no\nContent-Usage: /a train-ai=n\nDisallow: /%7Ejoe",
            b'[{"location": "/a*", "tdm-reservation": 1, "tdm-policy": "/p"}, {"location": "/"}]',
        ),
        words=(
            b"User-agent:",
            b"Disallow:",
            b"Allow:",
            b"*",
            b"$",
            b"Crawl-delay:",
            b"1e999",
            b"nan",
            b"\n",
            b"Content-Signal: ai-train=no",
            b"#",
            b"\0",
            b"****",
            b"%",
        ),
    ),
    Target(
        name="html",
        check=check_html,
        rounds=5_000,
        seeds=HTML,
        words=(
            b"<img src=",
            b"<b>",
            b"</p>",
            b"<table><tr>",
            b"<!--",
            b"-->",
            b"<script>",
            b"<svg>",
            b"<base href=",
            b"srcset=",
            b"&#x110000;",
            b"&#0;",
            b"\0",
            b"<picture>",
            b"<figure>",
            b"'",
            b'"',
            b">",
            b"<template>",
        ),
    ),
    Target(
        name="wat",
        check=check_wat_record,
        rounds=30_000,
        seeds=(WAT, WAT.replace(b'"Base":"/b/",', b"")),
        words=(
            b'{"path":"IMG@/src"',
            b'"',
            b"{",
            b"}",
            b"[",
            b"]",
            b",",
            b":",
            b"\\ud83d",
            b"null",
            b"true",
            b"\\",
            b'"Metas":[',
            b'"Links":[',
            b'"Head":{',
            b"1e400",
        ),
    ),
    Target(
        name="archive",
        check=check_archive,
        rounds=2_000,
        seeds=(
            WARC,
            record("metadata", WAT, "application/json") * 2,
            record("warcinfo", b"x: y\r\n", "application/warc-fields") + WARC,
        ),
        words=(
            b"WARC/1.0\r\n",
            b"Content-Length: ",
            b"\r\n\r\n",
            b"\n\n",
            b"HTTP/1.1 ",
            b"0\r\n\r\n",
            b"gzip",
        ),
    ),
    Target(
        name="body",
        check=check_body,
        rounds=15_000,
        seeds=(
            b"chunked\ngzip\n\n" + gzip.compress(HTML[0]),
            b"\ndeflate\n\n" + HTML[0],
            b"chunked\nbr\n\n" + CHUNKED,
            b"\ngzip, gzip\n\n" + gzip.compress(gzip.compress(bytes(100_000))),
        ),
        words=(b"gzip,", b"br,", b"chunked", b"ffffffff\r\n", b"0\r\n", b"\x1f\x8b"),
    ),
    Target(
        name="image",
        check=check_image,
        rounds=6_000,
        seeds=pictures(),
        words=(
            b"\xff\xd8\xff",
            b"\xff\xda",
            b"\xff\xe1",
            b"Exif\0\0",
            b"\x89PNG\r\n\x1a\n",
            b"IDAT",
            b"acTL",
            b"iCCP",
            b"zTXt",
            b"RIFF",
            b"WEBPVP8X",
            b"ftypavif",
            b"GIF89a",
            b"\0\0\0\0IEND",
            b"plus:DataMining",
        ),
    ),
    Target(
        name="sitemap",
        check=check_sitemap,
        rounds=15_000,
        seeds=(
            URLSET,
            URLSET.replace(b"urlset", b"sitemapindex").replace(b"url>", b"sitemap>"),
            b"http://a.test/1\nhttp://a.test/2",
            b"<rss><channel><item><link>http://a.test/1</link></item></channel></rss>",
            URLSET.decode().replace("?>", ' encoding="utf-16"?>').encode("utf-16"),
        ),
        words=(
            b"<!DOCTYPE x [<!ENTITY a 'b'>]>",
            b"&a;",
            b"<loc>",
            b"</loc>",
            b"<![CDATA[",
            b"]]>",
            b"<?xml",
            b"encoding=",
            b"<x:urlset xmlns:x='y'>",
            b"\xff\xfe",
            b"\0",
        ),
    ),
    Target(
        name="caption",
        check=check_caption,
        rounds=20_000,
        seeds=(
            b"A red flower in the garden of New York City",
            "caf\u00e9 &amp; b-52 \u82b1 \U0001f600 \u202e abc".encode(),
            b"IMG_1234.JPG 1/250 sec f/2.8",
            b"call +44 20 7946 0958 or mail a.b@example.org",
            b"&#xD800;&lt;b&gt;&nbsp;x",
        ),
        words=(
            b"&amp;",
            b"&#",
            b";",
            "\u0301".encode() * 8,
            "\u200b".encode(),
            b"\xed\xa0\x80",
            b"\x1b[31m",
            b"\r\n",
            b"@",
            b".jpg",
            "\ufdfa".encode(),
            "\u0130".encode(),
            b"<",
            b"http://",
        ),
    ),
    Target(
        name="hash list",
        check=check_hash_list,
        rounds=15_000,
        seeds=(
            b"sha256 " + b"0" * 64 + b"\nmd5 " + b"f" * 32 + b"\nphash " + b"a" * 64 + b" 12",
            b"# x\n" + b"0" * 32 + b"  name",
        ),
        words=(b"phash", b"md5", b" ", b"\n", b"\t", "\u0660".encode(), b"-1", b"#"),
    ),
]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_no_input_gets_past(target: Target) -> None:
    assert fuzzing.run(target) == len(target.seeds) + target.rounds * fuzzing.SCALE


def test_no_archive_gets_past_the_shard_reader(tmp_path_factory: pytest.TempPathFactory) -> None:
    target = Target(
        name="shard", check=check_shard, rounds=7_500, seeds=(one_shard(tmp_path_factory),),
        words=(b"0000.jpg", b"../x", b"ustar\0", b"0000644", bytes(512)),
    )  # fmt: skip
    assert fuzzing.run(target) > target.rounds


def test_every_seed_reaches_what_it_is_to_test() -> None:
    """A fuzzer whose seeds are refused at the door finds nothing."""
    found = [process(data, IMAGES) for data in pictures()]
    refused = {one.detail for one in found if one.reason}
    assert [one.reason for one in found].count("") == len(found) - len(refused), refused
    assert {one.format for one in found if not one.reason} == {"jpeg", "png", "webp", "gif", "avif"}
    assert all(list(page_images.images(data, PAGE)) for data in HTML)
    assert list(warc.read(io.BytesIO(WARC), PIECE)) and wat.page_images(WAT, PAGE)[0].opt_out
    assert sitemap.parse(URLSET) == sitemap.Sitemap("pages", ["http://a.test/1?a=1&b=2"])


def test_inputs_follow_from_their_number() -> None:
    target = TARGETS[0]
    first = dict(fuzzing.inputs(target, 1))
    again = dict(zip(range(200), (data for _, data in fuzzing.inputs(target, 3)), strict=False))
    assert all(first[number] == again[number] for number in range(200))
    assert len(set(first.values())) > 0.7 * len(first)


def test_a_failure_shows_its_input() -> None:
    def fails(data: bytes) -> None:
        assert b"x" not in data

    target = Target(name="x", check=fails, seeds=(b"abc",), words=(b"x",), rounds=500)
    with pytest.raises(AssertionError, match=r"^x, input \d+ \(\d+ bytes\): b'"):
        fuzzing.run(target)
