"""Images: a stored image is Pillow's picture at the right size; a refused image has the right reason."""

import functools
import io
import json
import random
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps

from dedup.decode_images import decode_jpeg
from pipeline.data import views
from pipeline.data.descriptors import describe, hamming, unpack
from pipeline.images import headers
from pipeline.images import process as images
from pipeline.images.headers import FORMATS, sniff
from pipeline.images.process import Processed, process
from pipeline.options import ImageOptions
from pipeline.reasons import REASONS

ANY_SIZE = ImageOptions(min_side=1, max_aspect=1e9)


def photo(width: int = 640, height: int = 480, seed: int = 0) -> Image.Image:
    """Return a smooth, colourful, asymmetric picture: a few octaves of seeded noise."""
    return _photo(width, height, seed).copy()


@functools.lru_cache(maxsize=16)
def _photo(width: int, height: int, seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for cells in (3, 6, 12, 24):
        grid = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC), float) / cells
    total -= total.min()
    return Image.fromarray((total * (255 / total.max())).astype(np.uint8))


def encoded(image: Image.Image, name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def jpeg(image: Image.Image, **options: object) -> bytes:
    return encoded(image, "JPEG", **{"quality": 92, **options})


def pixels(processed: Processed) -> npt.NDArray[np.uint8]:
    assert processed.reason == "", processed
    with Image.open(io.BytesIO(processed.jpeg)) as image:
        assert (image.format, image.mode) == ("JPEG", "RGB")
        assert image.size == (processed.width, processed.height)
        return np.asarray(image)


def mean_difference(processed: Processed, expected: Image.Image) -> float:
    """Return the mean absolute difference in grey levels to Pillow's version of `expected`.

    That is the same size by Lanczos, and the same JPEG settings, so that only resizing and colours count.
    """
    size = (processed.width, processed.height)
    reference = expected.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    reference = reopened(encoded(reference, "JPEG", quality=90, subsampling="4:2:0"))
    return float(np.abs(pixels(processed).astype(int) - np.asarray(reference).astype(int)).mean())


# --- the picture is right ---


def cmyk_photo() -> Image.Image:
    return photo().convert("CMYK")


def sixteen_bit() -> Image.Image:
    grey = np.asarray(photo().convert("L")).astype(np.uint16) * 257
    return Image.fromarray(grey)


def with_alpha() -> Image.Image:
    image = photo().convert("RGBA")
    image.putalpha(photo(seed=1).convert("L"))
    return image


def over_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def palette_with_transparency() -> bytes:
    image = photo().quantize(64)
    return encoded(image, "PNG", transparency=bytes(range(0, 256, 4)))


def reopened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


KINDS: dict[str, Callable[[], tuple[bytes, Image.Image]]] = {
    "jpeg": lambda: (jpeg(photo()), photo()),
    "jpeg 4:4:4": lambda: (jpeg(photo(), subsampling=0), photo()),
    "jpeg progressive": lambda: (jpeg(photo(), progressive=True), photo()),
    "jpeg grey": lambda: (jpeg(photo().convert("L")), photo().convert("L")),
    "jpeg rgb": lambda: (jpeg(photo(), keep_rgb=True), photo()),
    "jpeg cmyk": lambda: (jpeg(cmyk_photo()), cmyk_photo()),
    "jpeg odd": lambda: (jpeg(photo(641, 479)), photo(641, 479)),
    "jpeg large": lambda: (jpeg(photo(1600, 1200)), photo(1600, 1200)),
    "png": lambda: (encoded(photo(), "PNG"), photo()),
    "png grey": lambda: (encoded(photo().convert("L"), "PNG"), photo().convert("L")),
    "png 1 bit": lambda: (
        encoded(photo().convert("1", dither=Image.Dither.NONE), "PNG"),
        photo().convert("1", dither=Image.Dither.NONE),
    ),
    "png 16 bit": lambda: (encoded(sixteen_bit(), "PNG"), photo().convert("L")),
    "png palette": lambda: (encoded(photo().quantize(64), "PNG"), photo().quantize(64)),
    "png rgba": lambda: (encoded(with_alpha(), "PNG"), over_white(with_alpha())),
    "png la": lambda: (encoded(with_alpha().convert("LA"), "PNG"), over_white(with_alpha().convert("LA"))),
    "png palette+tRNS": lambda: (
        palette_with_transparency(),
        over_white(reopened(palette_with_transparency())),
    ),
    "webp": lambda: (encoded(photo(), "WEBP", quality=95), photo()),
    "webp lossless alpha": lambda: (
        encoded(with_alpha(), "WEBP", lossless=True, exact=True),
        over_white(with_alpha()),
    ),
    "gif": lambda: (encoded(photo(), "GIF"), reopened(encoded(photo(), "GIF"))),
    "avif": lambda: (encoded(photo(), "AVIF", quality=90), photo()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_picture_is_pillows(kind: str) -> None:
    data, expected = KINDS[kind]()
    processed = process(data, ImageOptions())
    assert min(processed.width, processed.height) == 256
    assert (processed.original_width, processed.original_height) == expected.size
    assert processed.format == kind.split()[0]
    assert mean_difference(processed, expected) < 2.5


def with_adobe_transform(data: bytes, transform: int) -> bytes:
    """Return a JPEG with the colour transform of its Adobe segment replaced (2: YCCK, 0: CMYK)."""
    at = data.index(b"Adobe") + 11
    return data[:at] + bytes([transform]) + data[at + 1 :]


def test_ycck_is_converted_as_pillow_does() -> None:
    """Pillow writes CMYK only; the same file flagged as YCCK is a picture in wrong but defined colours."""
    data = with_adobe_transform(jpeg(cmyk_photo()), 2)
    assert mean_difference(process(data, ImageOptions()), reopened(data)) < 2.5
    assert mean_difference(process(data, ImageOptions()), photo()) > 20


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(name: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = photo(400, 300)
    data = encoded(stored, name, exif=exif, quality=95)
    expected = ImageOps.exif_transpose(reopened(data))
    assert expected is not None
    processed = process(data, ImageOptions())
    assert (processed.original_width, processed.original_height) == expected.size
    assert expected.size == ((400, 300) if orientation < 5 else (300, 400))
    assert mean_difference(processed, expected) < 3
    upright = process(jpeg(expected, quality=95), ImageOptions())
    assert hamming(bytes.fromhex(processed.phash), bytes.fromhex(upright.phash)) <= 16


@pytest.mark.parametrize("mode", ["shorter", "square", "keep"])
@pytest.mark.parametrize("border", [0, 60])
def test_the_descriptor_is_that_of_the_stored_picture(mode: str, border: int) -> None:
    """The descriptors kept by the fetch are those of the overlap job when it decodes the stored JPEG."""
    data = jpeg(ImageOps.expand(photo(seed=3), border, "white"), quality=92)
    processed = process(data, ImageOptions(resize_mode=mode))  # type: ignore[arg-type]
    kept = unpack([bytes.fromhex(processed.descriptor)])
    rgb = decode_jpeg(processed.jpeg)
    assert rgb is not None
    later = describe(views.thumbnail(views.inner(rgb))[None])
    for name in ("hashes", "mirrored_hashes"):
        bits = np.unpackbits(getattr(kept, name) ^ getattr(later, name)).sum()
        assert bits <= 16, f"{bits} of 256 bits of {name} differ"
    one, other = (found.colours[0].astype(float) for found in (kept, later))
    assert one @ other > 0.999 * np.linalg.norm(one) * np.linalg.norm(other)
    assert abs(int(kept.qualities[0]) - int(later.qualities[0])) <= 3


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_undefined_orientations_are_upright(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    assert mean_difference(process(jpeg(photo(), exif=exif), ImageOptions()), photo()) < 2.5


@pytest.mark.parametrize(
    "segment",
    [b"", b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff" + b"\x01" * 60, b"\0" * 99],
)
def test_broken_exif_does_not_lose_the_image(segment: bytes) -> None:
    data = jpeg(photo())
    payload = b"Exif\0\0" + segment
    broken = data[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + data[2:]
    assert mean_difference(process(broken, ImageOptions(keep_exif=True)), photo()) < 2.5


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_exif_payload_is_survived(payload: bytes) -> None:
    tags = images.exif.parse(b"Exif\0\0" + payload)
    assert 1 <= images.exif.orientation(tags) <= 8
    assert isinstance(images.exif.as_json(tags), str)


def test_16_bit_is_scaled_and_its_transparent_grey_is_white() -> None:
    grey = np.full((100, 100), 0x8080, np.uint16)
    grey[:50] = 0x1000
    plain = pixels(process(encoded(Image.fromarray(grey), "PNG"), ImageOptions()))
    assert abs(int(plain[75, 50, 0]) - 128) <= 1
    assert abs(int(plain[25, 50, 0]) - 16) <= 1
    clear = pixels(process(encoded(Image.fromarray(grey), "PNG", transparency=0x1000), ImageOptions()))
    assert clear[25, 50, 0] >= 254
    assert abs(int(clear[75, 50, 0]) - 128) <= 1


def test_fully_transparent_is_white_and_says_nothing() -> None:
    processed = process(encoded(Image.new("RGBA", (64, 64), (9, 9, 9, 0)), "PNG"), ImageOptions())
    assert pixels(processed).min() >= 254
    assert (processed.quality, processed.phash) == (0, "0" * 64)


# --- sizes ---


@pytest.mark.parametrize(
    ("mode", "original", "expected"),
    [
        ("shorter", (640, 480), (341, 256)),
        ("shorter", (480, 640), (256, 341)),
        ("shorter", (200, 100), (200, 100)),
        ("shorter", (256, 300), (256, 300)),
        ("longer", (640, 480), (256, 192)),
        ("longer", (200, 100), (200, 100)),
        ("longer", (2000, 2), (256, 1)),
        ("square", (640, 480), (256, 256)),
        ("square", (300, 200), (200, 200)),
        ("keep", (1001, 333), (1001, 333)),
        ("shorter", (1, 1), (1, 1)),
        ("shorter", (3000, 3), (3000, 3)),
    ],
)
@pytest.mark.parametrize("name", ["JPEG", "PNG"])
def test_resize_modes(mode: str, original: tuple[int, int], expected: tuple[int, int], name: str) -> None:
    options = ImageOptions(resize_mode=mode, min_side=1, max_aspect=1e9)  # type: ignore[arg-type]
    processed = process(encoded(photo(*original), name, quality=95), options)
    assert (processed.width, processed.height) == expected
    assert (processed.original_width, processed.original_height) == original
    assert pixels(processed).shape == (expected[1], expected[0], 3)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 700),
    st.integers(1, 700),
    st.integers(1, 300),
    st.sampled_from(["shorter", "longer", "square", "keep"]),
)
def test_sizes_obey_the_mode(width: int, height: int, size: int, mode: str) -> None:
    options = ImageOptions(image_size=size, resize_mode=mode, min_side=1, max_aspect=1e9)  # type: ignore[arg-type]
    processed = process(jpeg(Image.new("RGB", (width, height), "red")), options)
    assert processed.width <= width
    assert processed.height <= height
    if mode == "shorter":
        assert min(processed.width, processed.height) == min(size, width, height)
    elif mode == "longer":
        assert max(processed.width, processed.height) == min(size, max(width, height))
    elif mode == "square":
        assert processed.width == processed.height == min(size, width, height)
    else:
        assert (processed.width, processed.height) == (width, height)


def test_square_keeps_the_centre() -> None:
    stripes = Image.new("RGB", (900, 300), "red")
    stripes.paste("blue", (300, 0, 600, 300))
    middle = pixels(process(jpeg(stripes), ImageOptions(resize_mode="square")))
    assert (middle[:, 10:-10, 2] > 200).all()


@pytest.mark.parametrize("size", [32, 128, 256, 512])
def test_phash_hardly_depends_on_size_and_mode(size: int) -> None:
    data = jpeg(photo(1600, 1200))
    reference = bytes.fromhex(process(data, ImageOptions(resize_mode="keep")).phash)
    for mode in ("shorter", "longer", "square"):
        options = ImageOptions(image_size=size, resize_mode=mode)  # type: ignore[arg-type]
        assert hamming(bytes.fromhex(process(data, options).phash), reference) <= 8


# --- nothing but pixels gets through ---


def test_metadata_and_trailers_vanish() -> None:
    exif = Image.Exif()
    exif[0x010E] = "<script>alert(1)</script>"
    exif.get_ifd(0x8825)[1] = "N"
    data = (
        jpeg(photo(256, 256), exif=exif, icc_profile=b"junk" * 50_000, comment=b"secret") + b"PK\x03\x04zip"
    )
    out = process(data, ImageOptions()).jpeg
    for text in (b"script", b"junk", b"secret", b"PK\x03\x04", b"Exif", b"ICC_PROFILE"):
        assert text in data
        assert text not in out


def test_exif_is_stored_only_on_request() -> None:
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8825)[1] = "N"
    exif.get_ifd(0x8769)[0x9003] = "2020:01:01 00:00:00"
    data = jpeg(photo(), exif=exif)
    assert process(data, ImageOptions()).exif == ""
    assert json.loads(process(data, ImageOptions(keep_exif=True)).exif) == {
        "DateTimeOriginal": "2020:01:01 00:00:00",
        "ExifOffset": json.loads(process(data, ImageOptions(keep_exif=True)).exif)["ExifOffset"],
        "GPSInfo": json.loads(process(data, ImageOptions(keep_exif=True)).exif)["GPSInfo"],
        "GPSLatitudeRef": "N",
        "Make": "Maker",
    }


@pytest.mark.parametrize("kind", ["jpeg", "jpeg cmyk", "png palette+tRNS", "webp", "avif"])
def test_same_bytes_in_same_bytes_out(kind: str) -> None:
    data, _ = KINDS[kind]()
    assert process(data, ImageOptions()) == process(bytes(bytearray(data)), ImageOptions())


def test_stray_bytes_are_tolerated_as_browsers_do() -> None:
    data = jpeg(photo())
    at = data.index(b"\xff\xdb")
    assert mean_difference(process(data[:at] + b"stray" + data[at:], ImageOptions()), photo()) < 2.5


def test_a_forgotten_end_marker_is_tolerated_and_a_cut_is_not() -> None:
    for data in (jpeg(photo()), jpeg(photo(), progressive=True)):
        assert mean_difference(process(data[:-2], ImageOptions()), photo()) < 2.5
        for cut in (10, 100, len(data) // 2):
            assert process(data[:-cut], ImageOptions()).reason == "truncated"


@pytest.mark.parametrize("width", [481, 487, 511, 513, 641])
def test_fractions_of_a_scaled_decode_do_not_stretch_the_picture(width: int) -> None:
    """A line stays where it is although, say, 481 columns at 4/8 are decoded as 241 instead of 240.5."""
    image = Image.new("RGB", (width, 400), "black")
    at = width - 20
    image.paste("white", (at, 0, width, 400))
    processed = process(jpeg(image, quality=98), ImageOptions(image_size=200))
    row = pixels(processed)[100].mean(axis=1) / 255
    edge = processed.width - row.sum()
    assert abs(edge - at * processed.width / width) < 0.15


# --- refusals, each with its reason ---


def png_header(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100)))


def jpeg_with_scans(count: int) -> bytes:
    data = jpeg(photo(64, 64), progressive=True)
    last = data.rindex(b"\xff\xda")
    end = len(data) - 2
    have = headers.jpeg_markers(data, 10_000).scans
    return data[:last] + data[last:end] * (count - have + 1) + data[end:]


def webp_header(width: int, height: int) -> bytes:
    body = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + body


def gif_screen(width: int, height: int) -> bytes:
    data = encoded(Image.new("L", (8, 8)), "GIF")
    return data[:6] + struct.pack("<HH", width, height) + data[10:]


def bad_crc() -> bytes:
    data = bytearray(encoded(photo(64, 64), "PNG"))
    data[29] ^= 1  # of the header chunk, which starts at 8 and holds 13 bytes
    return bytes(data)


def animation(name: str, **options: object) -> bytes:
    return encoded(photo(), name, save_all=True, append_images=[photo(seed=1), photo(seed=2)], **options)


REFUSALS: dict[str, tuple[bytes | Callable[[], bytes], str]] = {
    "nothing": (b"", "empty_body"),
    "one byte": (b"\xff", "not_image"),
    "zeros": (bytes(1 << 20), "not_image"),
    "html": (b"<!doctype html><html>", "not_image"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_image"),
    "pdf": (b"%PDF-1.7 ...", "not_image"),
    "bmp": (lambda: encoded(photo(), "BMP"), "not_image"),
    "tiff": (lambda: encoded(photo(), "TIFF"), "not_image"),
    "png of 4 gigapixels": (png_header(65_000, 65_000), "too_many_pixels"),
    "png of 80 megapixels in one column": (png_header(1, 80_000_000, 1, 0), "too_many_pixels"),
    "webp of 268 megapixels": (webp_header(16_384, 16_384), "too_many_pixels"),
    "gif screen of 4 gigapixels": (gif_screen(65_000, 65_000), "too_many_pixels"),
    "jpeg of 100 megapixels": (lambda: jpeg(Image.new("L", (10_000, 10_000))), "too_many_pixels"),
    "101 scans": (lambda: jpeg_with_scans(101), "too_many_scans"),
    "animated gif": (lambda: animation("GIF"), "animated"),
    "animated webp": (lambda: animation("WEBP"), "animated"),
    "animated png": (lambda: animation("PNG"), "animated"),
    "animated avif": (lambda: animation("AVIF"), "animated"),
    "tracker": (encoded(Image.new("RGB", (1, 1)), "GIF"), "too_small"),
    "banner": (jpeg(Image.new("RGB", (728, 60))), "bad_aspect"),
    "half a jpeg": (lambda: jpeg(photo())[:9000], "truncated"),
    "half a progressive jpeg": (lambda: jpeg(photo(), progressive=True)[:9000], "truncated"),
    "half a cmyk jpeg": (lambda: jpeg(cmyk_photo())[:9000], "truncated"),
    "half a png": (lambda: encoded(photo(), "PNG")[:9000], "truncated"),
    "half a gif": (lambda: encoded(photo(), "GIF")[:9000], "truncated"),
    "bad crc": (bad_crc, "decode_error"),
    "jpeg header only": (b"\xff\xd8\xff\xe0", "decode_error"),
    "png header only": (b"\x89PNG\r\n\x1a\n", "decode_error"),
    "gif header only": (b"GIF89a", "decode_error"),
    "webp header only": (b"RIFF\x04\0\0\0WEBP", "decode_error"),
    "avif header only": (b"\0\0\0\x18ftypavif\0\0\0\0avifmif1", "decode_error"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refused_with_its_reason(case: str) -> None:
    made, reason = REFUSALS[case]
    data = made() if callable(made) else made
    processed = process(data, ImageOptions())
    assert processed.reason == reason, processed.detail
    assert processed == process(data, ImageOptions())  # the detail too
    assert processed.reason in REASONS
    assert processed.jpeg == b""
    assert len(processed.detail) <= 200


def test_limits_are_inclusive() -> None:
    data = jpeg(photo(100, 50))
    exact = ImageOptions(min_side=50, max_aspect=2, max_pixels=5000, min_bytes=len(data))
    assert process(data, exact).reason == ""
    for name, value, reason in (
        ("min_side", 51, "too_small"),
        ("max_aspect", 1.99, "bad_aspect"),
        ("max_pixels", 4999, "too_many_pixels"),
        ("min_bytes", len(data) + 1, "too_few_bytes"),
        ("formats", ("png",), "not_image"),
    ):
        assert process(data, ImageOptions(**{name: value})).reason == reason  # type: ignore[arg-type]
    assert process(jpeg_with_scans(100), ImageOptions()).reason == ""


def test_a_side_that_jpeg_cannot_hold_is_refused_before_decoding() -> None:
    processed = process(png_header(70_000, 40), ImageOptions(max_aspect=1e9))
    assert (processed.reason, "65500" in processed.detail) == ("too_many_pixels", True)


def test_size_is_judged_before_any_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        pytest.fail("pixels were decoded")

    files = jpeg(photo(64, 600)), encoded(photo(64, 600), "PNG"), encoded(photo(64, 600), "WEBP")
    monkeypatch.setattr(images.simplejpeg, "decode_jpeg", never)
    monkeypatch.setattr(Image.Image, "load", never)
    monkeypatch.setattr(ImageFile.ImageFile, "load", never)
    for data in files:
        assert process(data, ImageOptions(max_aspect=2)).reason == "bad_aspect"
        assert process(data, ImageOptions(min_side=65)).reason == "too_small"


@pytest.mark.parametrize("name", ["GIF", "WEBP", "PNG", "AVIF"])
def test_first_frame_of_an_animation_on_request(name: str) -> None:
    processed = process(animation(name, quality=90), ImageOptions(allow_animated=True))
    assert mean_difference(processed, photo()) < 6


def test_apng_claiming_two_billion_frames_is_not_walked() -> None:
    data = bytearray(encoded(photo(), "PNG"))
    body = b"acTL" + struct.pack(">II", 2**31 - 1, 0)
    data[33:33] = struct.pack(">I", 8) + body + struct.pack(">I", zlib.crc32(body))
    assert process(bytes(data), ImageOptions()).reason == "animated"
    assert process(bytes(data), ImageOptions(allow_animated=True)).reason == ""


def test_memory_errors_of_a_decoder_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image, "open", exhausted)
    assert process(encoded(photo(), "PNG"), ImageOptions()).reason == "decode_memory"


# --- headers ---


@pytest.mark.parametrize("name", FORMATS)
def test_sniff_knows_what_pillow_writes(name: str) -> None:
    assert sniff(encoded(photo(32, 32), name.upper())) == name


def test_sniff_wants_avif_among_the_brands() -> None:
    assert sniff(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf") == "avif"
    assert sniff(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic") == ""
    assert sniff(b"\0\0\0\x18ftypisom\0\0\0\0mp41isomavif") == ""  # the box ended before


def test_scans_of_thumbnails_and_of_trailers_do_not_count() -> None:
    plain, thumbnail = jpeg(photo()), jpeg(photo(64, 64), progressive=True)
    payload = b"Exif\0\0" + thumbnail
    segment = b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload
    markers = headers.jpeg_markers(plain[:2] + segment + plain[2:] + thumbnail * 50, 100)
    assert (markers.scans, markers.ended, markers.exif) == (1, True, payload)


def test_scans_hidden_behind_a_false_end_in_a_comment_count() -> None:
    data = jpeg_with_scans(150)
    last = data.rindex(b"\xff\xda")
    first = data.index(b"\xff\xda", data.index(b"\xff\xda") + 1)
    comment = b"\xff\xfe\x00\x04\xff\xd9"
    assert last > first
    assert headers.jpeg_markers(data[:first] + comment + data[first:], 100).scans == 101


def test_the_usual_headers_are_known_at_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = random.Random(0)
    plain = [jpeg(photo(64, 48)), jpeg(photo(64, 48), optimize=True), jpeg(photo(64, 48), progressive=True)]
    damaged = [bytearray(plain[0]) for _ in range(300)]
    for data in damaged:
        data[drawn.randrange(2, 640)] = drawn.choice((0, 0x11, 0x43, 0xC0, 0xDA, 0xE1, 0xFE, 0xFF))
    files = [*plain, *map(bytes, damaged), plain[0][:600]]
    assert headers._USUAL.match(plain[0])
    quick = [headers.jpeg_markers(data, 9, whole=False) for data in files]
    monkeypatch.setattr(headers, "_USUAL", re.compile(rb"(?!)"))
    assert quick == [headers.jpeg_markers(data, 9, whole=False) for data in files]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_headers_of_garbage(data: bytes) -> None:
    assert sniff(data) in ("", *FORMATS)
    assert headers.jpeg_markers(data, 5).scans <= 6
    size = headers.webp_size(b"RIFF0000WEBPVP8 " + data)
    assert size is None or min(size) >= 0


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (257, 33), (16_383, 2)])
def test_webp_sizes_are_pillows(lossless: bool, alpha: bool, size: tuple[int, int]) -> None:
    image = Image.new("RGBA" if alpha else "RGB", size, (1, 2, 3, 4) if alpha else (1, 2, 3))
    assert headers.webp_size(encoded(image, "WEBP", lossless=lossless)) == size


# --- damage ---


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("jpeg large", "jpeg odd")])
def test_damaged_files_end_in_a_reason(kind: str) -> None:
    data, _ = KINDS[kind]()
    rng = random.Random(kind)
    for _ in range(12):
        broken = bytearray(data)
        for _ in range(rng.choice((1, 4, 32))):
            broken[rng.randrange(len(broken) if rng.random() < 0.5 else 400)] = rng.randrange(256)
        if rng.random() < 0.3:
            del broken[rng.randrange(len(broken)) :]
        processed = process(bytes(broken), ANY_SIZE)
        assert processed.reason in {"", *REASONS}
        assert bool(processed.jpeg) == (processed.reason == "")


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_size": 0},
        {"resize_mode": "border"},
        {"min_side": -1},
        {"max_aspect": 0.5},
        {"max_aspect": float("nan")},
        {"max_pixels": 0},
        {"max_pixels": 10**9},
        {"quality": 101},
        {"formats": ("jpeg", "svg")},
        {"formats": ()},
        {"max_scans": 0},
    ],
)
def test_options_out_of_range(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ImageOptions(**wrong)  # type: ignore[arg-type]


# --- real photographs ---

DATA = Path(__file__).resolve().parents[2] / "shared/data"


@pytest.mark.skipif(not DATA.exists(), reason="no sample data beside the checkout")
def test_real_photographs_look_as_pillow_shows_them() -> None:
    found = sorted(DATA.glob("images/bsds500/test/*.jpg"))[:20]
    assert found
    for path in found:
        processed = process(path.read_bytes(), ImageOptions())
        with Image.open(path) as image:
            assert mean_difference(processed, image) < 5, path.name
