"""Statements about data mining in images' own metadata, in every place where XMP is kept."""

import io
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from pipeline.fetch.terms import Terms
from pipeline.http.fetch_url import Outcome
from pipeline.images import said
from pipeline.images.rights import prohibited

VOCABULARY = "http://ns.useplus.org/ldf/vocab/"
PACKET = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:plus="http://ns.useplus.org/ldf/xmp/1.0/" {0}>{1}</rdf:Description>'
    "</rdf:RDF></x:xmpmeta>"
)


def packet(value: str) -> str:
    return PACKET.format(f'plus:DataMining="{VOCABULARY}{value}"', "")


def image(kind: str, xmp: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40)).save(buffer, kind, xmp=xmp.encode())
    return buffer.getvalue()


def png(xmp: str, *, compressed: bool) -> bytes:
    buffer, info = io.BytesIO(), PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp, zip=compressed)
    Image.new("RGB", (40, 40)).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF"])
def test_formats(kind: str) -> None:
    data = image(kind, packet("DMI-PROHIBITED"))
    assert prohibited(data) == "plus:DataMining: DMI-PROHIBITED"
    assert prohibited(image(kind, packet("DMI-ALLOWED"))) == ""


@pytest.mark.parametrize("compressed", [False, True])
def test_png(compressed: bool) -> None:
    found = prohibited(png(packet("DMI-PROHIBITED-AIMLTRAINING"), compressed=compressed))
    assert found == "plus:DataMining: DMI-PROHIBITED-AIMLTRAINING"
    assert prohibited(png(packet("DMI-UNSPECIFIED"), compressed=compressed)) == ""


@pytest.mark.parametrize(
    ("attributes", "content"),
    [
        (f"plus:DataMining='{VOCABULARY}DMI-PROHIBITED'", ""),
        ("", f"<plus:DataMining>{VOCABULARY}DMI-PROHIBITED</plus:DataMining>"),
        ("", f'<plus:DataMining rdf:resource="{VOCABULARY}DMI-PROHIBITED"/>'),
        ("", f'<p:DataMining\n rdf:resource = "{VOCABULARY}DMI-PROHIBITED"/>'),
    ],
)
def test_ways_to_write_it(attributes: str, content: str) -> None:
    assert prohibited(image("JPEG", PACKET.format(attributes, content))) == "plus:DataMining: DMI-PROHIBITED"


def test_a_tdm_reservation_in_xmp() -> None:
    reserved = 'xmlns:tdm="http://www.w3.org/ns/tdmrep/" tdm:reservation="{}"'
    assert prohibited(image("JPEG", PACKET.format(reserved.format(1), ""))) == "tdm:reservation: 1"
    assert prohibited(image("JPEG", PACKET.format(reserved.format(0), ""))) == ""


def test_the_value_alone_is_no_statement() -> None:
    assert prohibited(image("JPEG", PACKET.format("", "about DMI-PROHIBITED and DataMining"))) == ""


def test_a_bomb_in_a_compressed_packet_is_not_unpacked() -> None:
    packed = zlib.compress(bytes(64 << 20))
    body = b"XML:com.adobe.xmp\0\1\0\0\0" + packed
    data = b"\x89PNG\r\n\x1a\n" + len(body).to_bytes(4, "big") + b"iTXt" + body
    assert prohibited(data) == ""


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_never_raises(before: bytes, after: bytes) -> None:
    for start in (b"", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n\0\0\0\x20iTXtXML:com.adobe.xmp\0\1\0"):
        prohibited(start + before + b"DataMining=DMI-PROHIBITED" + after)


def test_a_reserved_answer_has_its_reason() -> None:
    body = image("JPEG", packet("DMI-PROHIBITED"))
    outcome = Outcome("u", "u", "", "", 200, body, "", 0.1, "", None)
    refused = Terms().judge(b"", outcome, said.read(body))
    assert (refused.reason, refused.detail) == ("opt_out_xmp", "plus:DataMining: DMI-PROHIBITED")
    assert Terms().judge(b"", outcome, said.read(b"x")).reason == ""
    assert Terms(opt_out=("page",)).judge(b"", outcome, said.read(body)).reason == ""
