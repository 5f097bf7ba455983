"""Text encodings: the web's labels, decoders and prescan, and the detection where nothing is declared."""

import hashlib
import itertools
import json
import random
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.reasons import REASONS
from pipeline.sources import encoding
from pipeline.sources.page_images import images, parse
from tests.browser import chromium

PAGE = "http://example.com/"

# Of each encoding of the Encoding Standard: its name, the first 12 digits of the SHA-256 of all sequences of
# one and two bytes as Chromium 156 decodes them, each followed by a line feed, and its labels. Chromium errs
# in the four pairs of Big5 that are two code points: there the standard's text counts.
ENCODINGS = """
big5 906bd0fbc6bd big5 big5-hkscs cn-big5 csbig5 x-x-big5
euc-jp a1177ea3412b cseucpkdfmtjapanese euc-jp x-euc-jp
euc-kr 450f8a6a39cd cseuckr csksc56011987 euc-kr iso-ir-149 korean ks_c_5601-1987 ks_c_5601-1989 ksc5601
    ksc_5601 windows-949
gb18030 7ffe45fac098 gb18030
gbk 7ffe45fac098 chinese csgb2312 csiso58gb231280 gb2312 gb_2312 gb_2312-80 gbk iso-ir-58 x-gbk
ibm866 d784d7ebb459 866 cp866 csibm866 ibm866
iso-2022-jp f5c8afd937ea csiso2022jp iso-2022-jp
iso-8859-10 c9f601a6d785 csisolatin6 iso-8859-10 iso-ir-157 iso8859-10 iso885910 l6 latin6
iso-8859-13 104d0e044e9e iso-8859-13 iso8859-13 iso885913
iso-8859-14 f36e47bdec09 iso-8859-14 iso8859-14 iso885914
iso-8859-15 e47d2d3a5519 csisolatin9 iso-8859-15 iso8859-15 iso885915 iso_8859-15 l9
iso-8859-16 264f07aa5a5d iso-8859-16
iso-8859-2 66811121417c csisolatin2 iso-8859-2 iso-ir-101 iso8859-2 iso88592 iso_8859-2 iso_8859-2:1987 l2
    latin2
iso-8859-3 daa4c7bdcb23 csisolatin3 iso-8859-3 iso-ir-109 iso8859-3 iso88593 iso_8859-3 iso_8859-3:1988 l3
    latin3
iso-8859-4 4c4ba69b4435 csisolatin4 iso-8859-4 iso-ir-110 iso8859-4 iso88594 iso_8859-4 iso_8859-4:1988 l4
    latin4
iso-8859-5 d04f0969fb94 csisolatincyrillic cyrillic iso-8859-5 iso-ir-144 iso8859-5 iso88595 iso_8859-5
    iso_8859-5:1988
iso-8859-6 cd13c7990f07 arabic asmo-708 csiso88596e csiso88596i csisolatinarabic ecma-114 iso-8859-6
    iso-8859-6-e iso-8859-6-i iso-ir-127 iso8859-6 iso88596 iso_8859-6 iso_8859-6:1987
iso-8859-7 8eb9fdc80db0 csisolatingreek ecma-118 elot_928 greek greek8 iso-8859-7 iso-ir-126 iso8859-7
    iso88597 iso_8859-7 iso_8859-7:1987 sun_eu_greek
iso-8859-8 2937f05196cf csiso88598e csisolatinhebrew hebrew iso-8859-8 iso-8859-8-e iso-ir-138 iso8859-8
    iso88598 iso_8859-8 iso_8859-8:1988 visual
iso-8859-8-i 2937f05196cf csiso88598i iso-8859-8-i logical
koi8-r f28f7a9612f7 cskoi8r koi koi8 koi8-r koi8_r
koi8-u 30cbcfab916e koi8-ru koi8-u
macintosh 30b62ee9a380 csmacintosh mac macintosh x-mac-roman
replacement 214dd36bc3ed csiso2022kr hz-gb-2312 iso-2022-cn iso-2022-cn-ext iso-2022-kr replacement
shift_jis 417d239e5ead csshiftjis ms932 ms_kanji shift-jis shift_jis sjis windows-31j x-sjis
utf-16be b53b9b4a8a40 unicodefffe utf-16be
utf-16le 5f33c5a2546b csunicode iso-10646-ucs-2 ucs-2 unicode unicodefeff utf-16 utf-16le
utf-8 3eea2f783a44 unicode-1-1-utf-8 unicode11utf8 unicode20utf8 utf-8 utf8 x-unicode20utf8
windows-1250 8310b202de8c cp1250 windows-1250 x-cp1250
windows-1251 43c41b9ae03e cp1251 windows-1251 x-cp1251
windows-1252 3dcd75dc2cec ansi_x3.4-1968 ascii cp1252 cp819 csisolatin1 ibm819 iso-8859-1 iso-ir-100
    iso8859-1 iso88591 iso_8859-1 iso_8859-1:1987 l1 latin1 us-ascii windows-1252 x-cp1252
windows-1253 901d8d966254 cp1253 windows-1253 x-cp1253
windows-1254 3ba996494b18 cp1254 csisolatin5 iso-8859-9 iso-ir-148 iso8859-9 iso88599 iso_8859-9
    iso_8859-9:1989 l5 latin5 windows-1254 x-cp1254
windows-1255 e3ac95f99c8b cp1255 windows-1255 x-cp1255
windows-1256 dab2c5dac001 cp1256 windows-1256 x-cp1256
windows-1257 1cb4a266de2c cp1257 windows-1257 x-cp1257
windows-1258 ca1224a7af91 cp1258 windows-1258 x-cp1258
windows-874 a378b2be682e dos-874 iso-8859-11 iso8859-11 iso885911 tis-620 windows-874
x-mac-cyrillic 8ccf734f725a x-mac-cyrillic x-mac-ukrainian
x-user-defined 8e60b1534f8b x-user-defined
"""

TABLE = [line.split() for line in ENCODINGS.strip().replace("\n    ", " ").splitlines()]
MULTI_BYTE = "big5 euc-jp euc-kr gbk iso-2022-jp shift_jis utf-8 utf-16le".split()  # noqa: SIM905
NAMES = [name for name, *_ in TABLE if name != "replacement"]
BIG5_PAIRS = {
    b"\x88\x62": "\xca\u0304",
    b"\x88\x64": "\xca\u030c",
    b"\x88\xa3": "\xea\u0304",
    b"\x88\xa5": "\xea\u030c",
}


def test_every_label_of_the_standard_is_known_and_no_other() -> None:
    labels = [label for _, _, *labels in TABLE for label in labels]
    assert (len(TABLE), len(labels), len(set(labels))) == (40, 228, 228)
    for label in labels:
        assert encoding.known(label) == encoding.known(f"\t{label.upper()}\r\n ") == label
    for other in (
        "",
        "none",
        "utf",
        "base64",
        "unicode_escape",
        "cp1252x",
        "latin-1",
        "utf-32",
        "é",
        "x" * 200,
        "utf-7",
    ):
        assert encoding.known(other) is None


@pytest.mark.parametrize(("name", "digest"), [row[:2] for row in TABLE])
def test_all_short_sequences_decode_as_in_a_browser(name: str, digest: str) -> None:
    known = hashlib.sha256()
    for first in range(256):
        known.update((encoding.decode(bytes((first,)), name) + "\n").encode())
        for second in range(256):
            known.update((encoding.decode(bytes((first, second)), name) + "\n").encode())
    assert known.hexdigest()[:12] == digest


def test_a_browser_decodes_alike() -> None:
    """Labels, all pairs, and longer sequences with escapes, lone leads and four-byte characters."""
    rng = random.Random(0)
    pairs = [bytes(pair) for pair in itertools.product(range(256), repeat=2)]
    singles = [bytes((byte,)) for byte in range(256)]
    sequences = {name: list(pairs if name in MULTI_BYTE else singles) for name in NAMES}
    sequences["gbk"] += [
        bytes(
            (rng.randrange(129, 255), rng.randrange(48, 58), rng.randrange(129, 255), rng.randrange(48, 58))
        )
        for _ in range(5000)
    ]
    sequences["iso-2022-jp"] += [
        b"\x1b$B" + bytes(pair) + b"\x1b(B" for pair in itertools.product(range(0x21, 0x7F), repeat=2)
    ]
    for name in ("shift_jis", "euc-kr", "gbk", "utf-8", "utf-16le", "utf-16be", "windows-1252"):
        sequences[name] += [rng.randbytes(rng.randrange(3, 12)) for _ in range(3000)]
    with chromium() as page:
        for name, _, *labels in TABLE:
            if name == "replacement":
                continue
            for label in labels:
                assert page.run(f"new TextDecoder({json.dumps(label)}).encoding") == name
            hexes = json.dumps([sequence.hex() for sequence in sequences[name]])
            theirs = page.run(
                f"{hexes}.map(hex => new TextDecoder('{name}', {{ignoreBOM: true}})"
                ".decode(Uint8Array.from(hex.match(/../g), byte => parseInt(byte, 16))))"
            )
            for sequence, text in zip(sequences[name], theirs, strict=True):
                expected = BIG5_PAIRS.get(sequence, text) if name == "big5" else text
                assert encoding.decode(sequence, name) == expected, (name, sequence)


@pytest.mark.parametrize(
    ("label", "text", "damage"),
    [
        ("utf-8", "Красная лодка 日本語", b"\xa9"),
        ("windows-874", "เรือสีแดง", b"\xdb"),
        ("euc-jp", "①赤いボート 写真", b"\xff"),
        ("shift_jis", "①赤いボート 写真", b"\xff"),
        ("gbk", "红色的船 €25", b"\xff"),
        ("big5", "紅色的船", b"\xff"),
        ("euc-kr", "빨간 배", b"\xff"),
        ("iso-8859-7", "κόκκινη βάρκα", b"\xff"),
        ("windows-1253", "κόκκινη βάρκα", b"\xff"),
    ],
)
def test_one_invalid_byte_is_one_mark_and_garbles_nothing_else(label: str, text: str, damage: bytes) -> None:
    python = {"windows-874": "cp874", "euc-jp": "euc_jisx0213", "shift_jis": "cp932", "gbk": "gb18030"}
    data = text.encode(python.get(label, label)).replace(b"\xa2\xe3", b"\x80")  # GBK's euro sign on the web
    page = b"<meta charset=%s><img src=a.jpg alt='%s'><p>%s</p><img src=b.jpg alt='%s'>"
    found = list(images(page % (label.encode(), data, damage, data), PAGE))
    assert [dict(image.texts)["alt"] for image in found] == [text, text]
    assert encoding.decode(b"a" + damage + b"b" + data, label) == "a\ufffdb" + text


META = b"<meta charset=koi8-r>"
HEADS: list[tuple[bytes, str | None]] = [
    (META, "koi8-r"),
    (b"<META CHARSET = 'KOI8-R' >", "koi8-r"),
    (b"<meta/charset=\"koi8-r\"/>", "koi8-r"),
    (b"<meta charset=koi8-r", None),  # out of bytes
    (b"<meta charset=koi8-r/>", None),  # the slash belongs to the value
    (b"<!-- <meta charset=utf-8> -->" + META, "koi8-r"),
    (b"<!--><meta charset=koi8-r> --><meta charset=utf-8>", "koi8-r"),
    (b"<!-- <meta charset=utf-8>", None),
    (b"<meta charset=none>" + META, "koi8-r"),
    (b"<meta name=x data-charset=utf-8>" + META, "koi8-r"),
    (b"<meta name=description content='text/html; charset=gbk'>" + META, "koi8-r"),
    (b"<meta http-equiv=Content-Type content='text/html; charset=koi8-r'>", "koi8-r"),
    (b"<meta content='text/html; charset = \"koi8-r\" x' http-equiv=content-type>", "koi8-r"),
    (b"<meta http-equiv=content-type content='charset charset=koi8-r;charset=gbk'>", "koi8-r"),
    (b"<meta http-equiv=content-type content='charset=\"koi8-r'>", None),
    (b"<meta http-equiv=refresh content='1; charset=gbk'>", None),
    (b"<meta http-equiv=content-type charset=koi8-r content='charset=gbk'>", "koi8-r"),
    (b"<meta charset=koi8-r charset=gbk>", "koi8-r"),
    (b"<a title='<meta charset=gbk>'>" + META, "koi8-r"),
    (b"</a <meta charset=gbk>>" + META, "koi8-r"),
    (b"<!doctype html <meta charset=gbk>" + META, "koi8-r"),  # the tag inside ends the declaration
    (b"<?php <meta charset=gbk>" + META, "koi8-r"),
    (b"<metal charset=gbk>" + META, "koi8-r"),
    (b"< meta charset=gbk>" + META, "koi8-r"),
    (b"<meta charset=utf-16>", "utf-8"),
    (b"<meta charset=unicode>", "utf-8"),
    (b"<meta charset=x-user-defined>", "windows-1252"),
    (b"<?xml version='1.0' encoding='koi8-r'?><p>", "koi8-r"),
    (b"<?xml encoding = \"koi8-r\" ?>", "koi8-r"),
    (b"<?xml encoding='ucs-2'?>", "utf-8"),
    (b"<?xml encoding='koi8-r'", None),
    (b"<?xml encoding='koi8-r'?><meta charset=gbk>", "gbk"),
    ("<?xml version='1.0'?>".encode("utf-16-le"), "utf-16le"),
    ("<?xml version='1.0'?>".encode("utf-16-be"), "utf-16be"),
    (b"<p>" * 340 + META, None),  # the tag crosses the 1024th byte
]  # fmt: skip


@pytest.mark.parametrize(("head", "declared"), HEADS)
def test_the_prescan_is_the_standards(head: bytes, declared: str | None) -> None:
    assert encoding.prescan(head[:1024]) == declared


def test_a_browser_reads_the_declarations_of_pages_alike(tmp_path: Path) -> None:
    """Of prescan and tree together, where anything is declared: Chromium's document.characterSet."""
    # Chromium takes the last of several attributes of one name; the standard's the first.
    pages = [head for head, declared in HEADS if declared and b"charset=koi8-r charset" not in head]
    pages += [
        b"<script>write('<meta charset=gbk>')</script>" + META,
        b"<title><meta charset=gbk></title>" + META,
        b"<style>" + b" " * 2000 + b"</style>" + META,
        b"<meta charset=utf-8><body><p>" + META,
    ]
    with chromium() as browser:
        for number, head in enumerate(pages):
            data = head + "<p>Ж".encode("koi8-r")
            path = tmp_path / f"{number}.html"
            path.write_bytes(data)
            browser.open(path)
            theirs = browser.run("document.characterSet").lower()
            assert parse(data, PAGE).encoding == theirs, data


PARTS = "<meta |charset=|'|\"|gbk|>|/|<!--|-->|<?xml |encoding=| |content=|http-equiv=|content-type|<a |<|=|;"


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(PARTS.split("|"))), st.binary(max_size=20))
def test_any_head_is_scanned(parts: list[str], data: bytes) -> None:
    found = encoding.prescan("".join(parts).encode() + data)
    assert found is None or encoding.known(found) == found


# Where nothing is declared

FRENCH = ["La forêt en été près de la rivière", "Un garçon à vélo, très pressé", "Le château de la fée"]
RUSSIAN = ["Красная лодка на берегу озера", "Маленькая собака играет в саду", "Старый дом у реки"]
HUNGARIAN = ["Vörös csónak a tó partján", "Őszi erdő reggeli ködben", "Szürke ló fut a mezőn"]
JAPANESE = ["湖の岸にある赤いボート", "庭で遊んでいる小さな犬", "川のそばの古い家"]


def page_of(captions: list[str], label: str, html: str = "<html>") -> bytes:
    body = "".join(f"<img src={i}.jpg alt='{caption}'>" for i, caption in enumerate(captions))
    return f"{html}{body}<img src=x.jpg alt='A plain caption'>".encode(label)


@pytest.mark.parametrize(
    ("captions", "label", "url", "html"),
    [
        (RUSSIAN, "utf-8", PAGE, "<html>"),
        (RUSSIAN, "cp1251", PAGE, "<html>"),
        (RUSSIAN, "koi8-r", PAGE, "<html>"),
        (JAPANESE, "shift_jis", PAGE, "<html>"),
        (JAPANESE, "euc-jp", PAGE, "<html>"),
        (JAPANESE, "iso2022_jp", PAGE, "<html>"),
        (FRENCH, "cp1252", "http://example.fr/", "<html>"),
        (FRENCH, "cp1252", PAGE, "<html lang=fr>"),
        (HUNGARIAN, "cp1250", "http://example.hu/", "<html lang=en>"),
        (HUNGARIAN, "cp1250", PAGE, "<html class=x lang='hu-HU'>"),
        (["紅色的船在湖邊", "花園裡的小狗"], "big5", PAGE, "<html lang=zh-Hant-TW>"),
        (RUSSIAN, "utf-16-le", PAGE, "<html>"),
        (RUSSIAN, "utf-16-be", PAGE, "<html>"),
    ],
)
def test_an_encoding_is_told_where_none_is_declared(
    captions: list[str], label: str, url: str, html: str
) -> None:
    found = [
        (image.reason, dict(image.texts)["alt"]) for image in images(page_of(captions, label, html), url)
    ]
    assert found == [(None, caption) for caption in [*captions, "A plain caption"]]


def test_stray_bytes_do_not_make_utf_8_another_encoding() -> None:
    page = page_of(RUSSIAN, "utf-8") + b"<p>Copyright \xa9 <img src=y.jpg alt='\xe9t\xe9'>"
    found = [dict(image.texts)["alt"] for image in images(page, PAGE)]
    assert found == [*RUSSIAN, "A plain caption", "\ufffdt\ufffd"]


@pytest.mark.parametrize(
    "page",
    [
        page_of(["Vörös ló", "Őszi tó"], "cp1250"),  # few letters, no language: German would look alike
        b"<img src=a.jpg alt='caf\xc3\xa9 cr\xc3\xa8me \xe9t\xe9'><img src=x.jpg alt='A plain caption'>",
    ],
)
def test_captions_are_garbled_where_no_encoding_can_be_told(page: bytes) -> None:
    found = list(images(page, PAGE))
    assert (found[-1].reason, dict(found[-1].texts)) == (None, {"alt": "A plain caption"})
    assert {image.reason for image in found[:-1]} == {"garbled"} and "garbled" in REASONS


def test_of_an_image_only_the_garbled_text_is_refused() -> None:
    page = b"<img src=a.jpg alt='\xd5szi t\xf3' title='A lake'>"
    first, second = images(page, PAGE)
    assert (first.reason, first.texts) == (None, (("title", "A lake"),))
    assert (second.reason, [kind for kind, _ in second.texts]) == ("garbled", ["alt"])


def test_text_that_the_declared_encoding_does_not_decode_is_refused() -> None:
    page = "<meta charset=utf-8><img src=a.jpg alt='Красная лодка'><img src=b.jpg alt='A café'>".encode(
        "cp1251", "xmlcharrefreplace"
    )
    first, second = images(page.replace(b"&#233;", b"\xe9"), PAGE)
    assert (first.reason, second.reason, second.texts) == ("garbled", None, (("alt", "A caf\ufffd"),))


def test_a_refused_encoding_is_a_bad_record() -> None:
    (image,) = images(b"<meta charset=iso-2022-kr><img src=a.jpg alt=A>", PAGE)
    assert image.reason == "bad_record" and "iso-2022-kr" in image.detail


def test_xml_goes_by_its_declaration_and_html_by_its_meta() -> None:
    page = "<?xml version='1.0' encoding='koi8-r'?><meta charset='windows-1251'/><img src='a' alt='Ж'/>"
    for kind, label in (("application/xhtml+xml", "koi8-r"), ("text/html", "windows-1251")):
        (image,) = images(page.encode(label), PAGE, kind)
        assert image.texts == (("alt", "Ж"),)


@settings(max_examples=300, deadline=None)
@example(b"\x1b$", PAGE)
@given(st.binary(max_size=400), st.sampled_from([PAGE, "", "http://[", "http://a.jp/"]))
def test_any_bytes_have_an_encoding(data: bytes, url: str) -> None:
    label, _ = encoding.guess(data, url)
    assert encoding.known(label) and isinstance(encoding.read(data, "", url).text, str)
