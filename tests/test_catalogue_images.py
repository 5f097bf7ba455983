"""The catalogue of hostile and odd images, I1 to I24, made here byte by byte; each with its outcome.

Every case goes through the decoding child with its limits of time and memory; the next good image decodes.
"""

import io
import struct
import zlib
from collections.abc import Callable, Iterator

import pytest
from PIL import Image

from pipeline.images.decoder import Decoder
from pipeline.images.process import Processed, process
from pipeline.options import ImageOptions
from pipeline.reasons import REASONS

SECONDS = 5
MEMORY = 1 << 30
OPTIONS = ImageOptions()


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(mode: str = "RGB", size: tuple[int, int] = (80, 60)) -> Image.Image:
    return Image.radial_gradient("L").resize(size).convert(mode)


JPEG = encoded(picture(), "JPEG")
PNG = encoded(picture(), "PNG")
GIF = encoded(picture("P"), "GIF")


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, bits: int, colour: int, rows: bytes = b"", *chunks: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    packed = chunk(b"IDAT", zlib.compress(rows, 1))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + packed + chunk(b"IEND", b"")


def with_chunks(*chunks: bytes) -> bytes:
    """Put chunks after the header of a good PNG."""
    return PNG[:33] + b"".join(chunks) + PNG[33:]


def webp(width: int, height: int) -> bytes:
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + size + b"VP8 " + struct.pack("<I", 10) + bytes(10)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def avif(width: int, height: int) -> bytes:
    """Give a small AVIF another size in its ispe property (ISO/IEC 23008-12)."""
    data = encoded(picture(), "AVIF")
    old = b"ispe" + bytes(4) + struct.pack(">II", 80, 60)
    assert data.count(old) >= 1
    return data.replace(old, b"ispe" + bytes(4) + struct.pack(">II", width, height))


FRAME = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\2\2\x44\1\0"  # of one pixel


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + FRAME + b"\x3b"


def gif_of_frames(count: int) -> bytes:
    return GIF[:-1] + FRAME * count + b"\x3b"


def scans(count: int) -> bytes:
    """Repeat the last scan of a progressive JPEG."""
    data = encoded(picture(size=(400, 300)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + b"\xff\xd9"


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture(), "JPEG", exif=exif)


def icc(profile: bytes) -> bytes:
    return encoded(picture(), "JPEG", icc_profile=profile)


def telling() -> bytes:
    exif = Image.Exif()
    exif[0x010E] = "<script>alert(1)</script>"
    exif.get_ifd(0x8825)[1] = "N"
    return encoded(picture(), "JPEG", exif=exif)


def itxt(size: int) -> bytes:
    return chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(size), 9))


CASES: list[tuple[str, Callable[[], bytes], set[str]]] = [
    ("I1-64250x64250", lambda: png(64250, 64250, 8, 2), {"too_many_pixels"}),
    ("I2-13000x13000-1bit", lambda: png(13000, 13000, 1, 0, bytes(1626 * 100)), {"too_many_pixels"}),
    ("I3-13000x13000-webp", lambda: webp(13000, 13000), {"too_many_pixels"}),
    ("I4-9400x9400-avif", lambda: avif(9400, 9400), {"too_many_pixels", "decode_error"}),
    ("I5-1x80000000", lambda: png(1, 80_000_000, 1, 0), {"too_many_pixels"}),
    ("I6-gif-screen-9000", lambda: gif(9000, 9000), {"too_many_pixels"}),
    ("I7-1005-scans", lambda: scans(1005), {"too_many_scans"}),
    ("I8-10006-scans", lambda: scans(10_006), {"too_many_scans"}),
    ("I9-gif-200000-frames", lambda: gif_of_frames(200_000), {"animated"}),
    (
        "I10-apng-2e31-frames",
        lambda: with_chunks(chunk(b"acTL", struct.pack(">II", 1 << 31, 0))),
        {"", "animated", "decode_error"},
    ),
    ("I11-ztxt-bomb", lambda: with_chunks(itxt(80 << 20)), {""}),
    ("I11-many-ztxt-bombs", lambda: with_chunks(*[itxt(1 << 20)] * 200), {""}),
    (
        "I11-iccp-bomb",
        lambda: with_chunks(chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(80 << 20)))),
        {"", "decode_error"},
    ),
    ("I12-100000-png-chunks", lambda: with_chunks(chunk(b"teXt", b"") * 100_000), {""}),
    ("I12-500000-com-markers", lambda: JPEG[:2] + b"\xff\xfe\0\2" * 500_000 + JPEG[2:], {""}),
    ("I13-truncated-jpeg", lambda: JPEG[: len(JPEG) // 2], {"truncated"}),
    ("I13-truncated-png", lambda: PNG[: len(PNG) // 2], {"truncated"}),
    ("I14-bad-crc", lambda: PNG[:-20] + bytes([PNG[-20] ^ 1]) + PNG[-19:], {"decode_error", "truncated"}),
    ("I15-0-bytes", lambda: b"", {"empty_body"}),
    ("I15-1-byte", lambda: b"\xff", {"not_image"}),
    ("I15-nul", lambda: bytes(1 << 20), {"not_image"}),
    ("I15-html", lambda: b"<!doctype html><img src=x onerror=alert(1)>", {"not_image"}),
    ("I15-svg", lambda: b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", {"not_image"}),
    (
        "I15-billion-laughs",
        lambda: b"<!DOCTYPE svg [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;'>]><svg>&b;</svg>",
        {"not_image"},
    ),
    ("I15-pdf", lambda: b"%PDF-1.7\n1 0 obj<</JS(app.alert(1))>>", {"not_image"}),
    ("I16-eps", lambda: encoded(picture(), "EPS"), {"not_image"}),
    ("I17-blp", lambda: b"BLP2" + bytes(280), {"not_image"}),
    ("I17-tiff", lambda: encoded(picture(), "TIFF"), {"not_image"}),
    ("I17-psd", lambda: b"8BPS\0\1" + bytes(300), {"not_image"}),
    ("I18-jpeg-zip", lambda: JPEG + b"PK\3\4" + bytes(100), {""}),
    (
        "I18-gif-js",
        lambda: b"GIF89a/*" + bytes(20) + b"*/=1;alert(1)",
        {"truncated", "decode_error", "too_many_pixels"},
    ),
    *[(f"I19-orientation-{n}", lambda n=n: turned(n), {""}) for n in range(10)],
    ("I20-cmyk", lambda: encoded(picture("CMYK"), "JPEG"), {""}),
    ("I20-16bit", lambda: encoded(picture("I;16"), "PNG"), {""}),
    ("I20-palette-trns", lambda: encoded(picture("P"), "PNG", transparency=bytes(256)), {""}),
    ("I20-transparent", lambda: encoded(Image.new("RGBA", (80, 60)), "PNG"), {""}),
    ("I21-junk-icc", lambda: icc(b"junk" * 125_000), {""}),
    ("I22-exif", telling, {""}),
    ("I23-tracker", lambda: encoded(Image.new("RGB", (1, 1)), "GIF"), {"too_small"}),
    ("I24-crash", lambda: b"crash ", {"decode_crash"}),
    ("I24-loop", lambda: b"loop_in_c ", {"decode_timeout"}),
    ("I24-memory", lambda: b"allocate ", {"decode_memory"}),
]


@pytest.fixture(scope="module")
def child() -> Iterator[Decoder]:
    with Decoder(
        OPTIONS, seconds=SECONDS, memory_bytes=MEMORY, function="tests.decoder_hooks:obey"
    ) as decoder:
        yield decoder


@pytest.mark.parametrize(("make", "reasons"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_images(child: Decoder, make: Callable[[], bytes], reasons: set[str]) -> None:
    data = make()
    outcome = child.process(data)
    assert outcome.reason in reasons, outcome
    assert outcome.reason == "" or outcome.reason in REASONS
    if not outcome.reason:
        check_stored(outcome)
    assert child.process(JPEG) == process(JPEG, OPTIONS)
    assert int(child.process(b"peak ").detail) < MEMORY * 1.25 / 1024


def check_stored(outcome: Processed) -> None:
    """Nothing but the pixels is stored."""
    with Image.open(io.BytesIO(outcome.jpeg), formats=["JPEG"]) as stored:
        stored.load()
        assert stored.mode == "RGB"
        assert not stored.info.keys() & {"exif", "icc_profile", "comment", "xmp"}
    for foreign in (b"script", b"PK\3\4", b"junk", b"alert"):
        assert foreign not in outcome.jpeg
    assert outcome.exif == ""


def test_i19_all_orientations_show_the_same_picture() -> None:
    sizes = [process(turned(n), OPTIONS) for n in range(10)]
    assert [(p.width, p.height) for p in sizes] == [(80, 60)] * 5 + [(60, 80)] * 4 + [(80, 60)]
