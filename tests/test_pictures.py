"""Pictures as pages show them: colours by their profile, upright by Exif, whatever else their metadata is."""

import functools
import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from pipeline.images import containers, exif
from pipeline.images.headers import FORMATS, SUFFIXES, sniff
from pipeline.images.process import Processed, process
from pipeline.images.profiles import conversion
from pipeline.options import ImageOptions
from tests import profiles, test_images
from tests.test_images import encoded

photo = functools.cache(test_images.photo)
EVERYTHING = ImageOptions(formats=FORMATS, allow_animated=True)


def pixels(processed: Processed) -> npt.NDArray[np.int64]:
    assert processed.reason == "", (processed.reason, processed.detail)
    return np.asarray(Image.open(io.BytesIO(processed.jpeg))).astype(int)


def distance(processed: Processed, expected: Image.Image) -> float:
    """Return the mean absolute difference to a picture, of levels of 255."""
    found = pixels(processed)
    reference = expected.convert("RGB").resize((found.shape[1], found.shape[0]), Image.Resampling.LANCZOS)
    return float(np.abs(found - np.asarray(reference).astype(int)).mean())


def as_meant(image: Image.Image, profile: bytes) -> Image.Image:
    """Return LittleCMS's conversion of a picture by its profile."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    found = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert found is not None
    return found


# --- colours ---

WIDE = {
    "adobe": profiles.rgb(profiles.ADOBE_RGB, profiles.curve(2.19921875)),
    "p3": profiles.rgb(profiles.DISPLAY_P3, profiles.srgb_curve()),
    "prophoto": profiles.rgb(profiles.PROPHOTO, profiles.curve(1.8)),
    "swapped": profiles.swapped(),
}


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize("wide", WIDE)
def test_rgb_profiles_are_applied(name: str, wide: str) -> None:
    options = {} if name in ("PNG", "TIFF") else {"quality": 95}
    data = encoded(photo(), name, icc_profile=WIDE[wide], **options)
    expected = as_meant(photo(), WIDE[wide])
    assert distance(process(data, EVERYTHING), expected) < 3
    apart = np.abs(np.asarray(expected).astype(int) - np.asarray(photo())).mean()
    assert apart > 4, "the profile changes nothing, so the test shows nothing"


def test_profiles_are_applied_whatever_else_happens_to_the_picture() -> None:
    """Scaling, turning, cropping, palettes and transparency: each meets the profile at another place."""
    profile = WIDE["swapped"]
    tags = Image.Exif()
    tags[0x0112] = 6
    turned = encoded(photo(900, 600), "JPEG", icc_profile=profile, exif=tags, quality=95)
    meant = as_meant(photo(900, 600), profile)
    expected = meant.transpose(Image.Transpose.ROTATE_270)
    assert distance(process(turned, EVERYTHING), expected) < 3
    square = process(turned, ImageOptions(resize_mode="square"))
    assert distance(square, expected.crop((0, 150, 600, 750))) < 3
    palette = photo().quantize(64)
    assert distance(
        process(encoded(palette, "PNG", icc_profile=profile), EVERYTHING),
        as_meant(palette.convert("RGB"), profile),
    ) < 2.5  # fmt: skip
    clear = photo().convert("RGBA")
    clear.putalpha(0)
    assert pixels(process(encoded(clear, "PNG", icc_profile=profile), EVERYTHING)).min() >= 250


def test_the_hash_is_that_of_the_picture_as_meant() -> None:
    plain = process(encoded(as_meant(photo(), WIDE["swapped"]), "PNG"), EVERYTHING)
    tagged = process(encoded(photo(), "PNG", icc_profile=WIDE["swapped"]), EVERYTHING)
    differing = int.from_bytes(bytes.fromhex(plain.phash)) ^ int.from_bytes(bytes.fromhex(tagged.phash))
    assert differing.bit_count() <= 8


@pytest.mark.parametrize("name", ["JPEG", "PNG"])
def test_grey_profiles_are_applied(name: str) -> None:
    grey = photo().convert("L")
    data = encoded(grey, name, icc_profile=profiles.grey(1.0))
    assert distance(process(data, EVERYTHING), as_meant(grey, profiles.grey(1.0))) < 2.5
    assert np.abs(pixels(process(data, EVERYTHING)).mean() - np.asarray(grey).mean()) > 30


def test_cmyk_profiles_are_applied() -> None:
    inks = photo().convert("CMYK")
    data = encoded(inks, "JPEG", icc_profile=profiles.cmyk(), quality=95)
    expected = as_meant(Image.open(io.BytesIO(data)), profiles.cmyk())
    assert distance(process(data, EVERYTHING), expected) < 2.5
    assert distance(process(encoded(inks, "JPEG", quality=95), EVERYTHING), expected) > 15


@pytest.mark.parametrize(
    "profile",
    [
        profiles.rgb(profiles.SRGB, profiles.srgb_curve()),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    ],
    ids=["table", "formula"],
)
def test_variants_of_srgb_cost_nothing(profile: bytes) -> None:
    assert conversion(profile, "RGB") is None
    assert process(encoded(photo(), "JPEG", icc_profile=profile), ImageOptions()) == process(
        encoded(photo(), "JPEG"), ImageOptions()
    )


def flat() -> bytes:
    return profiles.rgb(profiles.SRGB, b"curv\0\0\0\0" + struct.pack(">IHH", 2, 30_000, 30_000))


def upside_down() -> bytes:
    return profiles.rgb(profiles.SRGB, b"curv\0\0\0\0" + struct.pack(">IHH", 2, 65535, 0))


@pytest.mark.parametrize(
    "profile",
    [
        b"",
        b"junk" * 200,
        WIDE["adobe"][:300],
        WIDE["adobe"].replace(b"acsp", b"ascp"),
        WIDE["adobe"].replace(b"RGB ", b"7CLR"),
        profiles.grey(1.0),
        profiles.cmyk(),
        profiles.profile(b"RGB ", {}),
        flat(),
        upside_down(),
    ],
)
def test_profiles_that_cannot_be_meant_are_ignored(profile: bytes) -> None:
    assert conversion(profile, "RGB") is None
    assert distance(process(encoded(photo(), "JPEG", icc_profile=profile), ImageOptions()), photo()) < 2.5


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 600), st.binary(min_size=1, max_size=8))
def test_damaged_profiles_are_survived(at: int, damage: bytes) -> None:
    for whole, mode in ((WIDE["adobe"], "RGB"), (profiles.grey(1.8), "L"), (profiles.cmyk(), "CMYK")):
        conversion(whole[:at] + damage + whole[at + len(damage) :], mode)


# --- metadata never loses a picture ---


def chunk(kind: bytes, body: bytes, *, length: int | None = None, good: bool = True) -> bytes:
    crc = zlib.crc32(kind + body) ^ (0 if good else 1)
    return struct.pack(">I", len(body) if length is None else length) + kind + body + struct.pack(">I", crc)


def png_with(*chunks: bytes, after: bool = False) -> bytes:
    """Return a PNG with chunks before its pixels, or after them."""
    data = encoded(photo(300, 260), "PNG")
    at = data.rindex(b"IEND") - 4 if after else 33
    return data[:at] + b"".join(chunks) + data[at:]


ZEROS = zlib.compress(bytes(80 << 20))
XMP = b"XML:com.adobe.xmp\0"
CHUNKS: dict[str, bytes] = {
    **{f"checksum of {kind.decode()}": chunk(kind, body, good=False) for kind, body in (
        (b"tEXt", b"Comment\0hello"), (b"zTXt", b"k\0\0" + zlib.compress(b"text")), (b"iTXt", XMP + bytes(5)),
        (b"iCCP", b"x\0\0" + zlib.compress(WIDE["swapped"])), (b"eXIf", b"II*\0\x08\0\0\0\0\0"),
        (b"pHYs", bytes(9)), (b"gAMA", struct.pack(">I", 45455)), (b"cHRM", bytes(32)), (b"sRGB", b"\0"),
        (b"acTL", struct.pack(">II", 3, 0)), (b"tIME", bytes(7)), (b"tRNS", bytes(6)), (b"vpAg", bytes(9)),
    )},
    **{f"length of {kind.decode()}": chunk(kind, b"\1") for kind in (
        b"acTL", b"cHRM", b"fcTL", b"fdAT", b"gAMA", b"iCCP", b"pHYs", b"sBIT", b"tIME", b"tRNS", b"hIST",
        b"eXIf", b"iTXt", b"zTXt", b"tEXt", b"bKGD", b"cICP", b"mDCv", b"sPLT",
    )},
    **{f"empty {kind.decode()}": chunk(kind, b"") for kind in (
        b"acTL", b"cHRM", b"gAMA", b"iCCP", b"pHYs", b"sRGB", b"tRNS", b"eXIf", b"iTXt", b"zTXt", b"tEXt",
    )},
    "compressed iTXt of 80 MB": chunk(b"iTXt", XMP + b"\1\0\0\0" + ZEROS),
    "zTXt of 80 MB": chunk(b"zTXt", b"Raw profile type exif\0\0" + ZEROS),
    "iCCP of 80 MB": chunk(b"iCCP", b"big\0\0" + ZEROS),
    "tEXt of 9 MB": chunk(b"tEXt", b"Comment\0" + b"x" * (9 << 20)),
    "iCCP by another method": chunk(b"iCCP", b"name\0\1" + zlib.compress(WIDE["adobe"])),
    "iCCP cut": chunk(b"iCCP", b"name\0\0" + zlib.compress(WIDE["swapped"])[:-20]),
    "zTXt by another method": chunk(b"zTXt", b"k\0\5abc"),
    "Exif that is none": chunk(b"eXIf", b"garbage, not Exif"),
    "Exif as text that is none": chunk(b"tEXt", b"Raw profile type exif\0\nexif\n  8\nnothex!!"),
    "a length that leads nowhere": chunk(b"tEXt", b"Comment\0hello", length=12_345_678),
    "a length too short by one": chunk(b"tEXt", b"Comment\0hello", length=12),
    "100,000 empty chunks": chunk(b"abCd", b"") * 100_000,
}  # fmt: skip


@pytest.mark.parametrize("name", CHUNKS)
def test_ancillary_chunks_of_a_png_never_lose_the_picture(name: str) -> None:
    plain = process(png_with(), ImageOptions())
    assert process(png_with(CHUNKS[name]), ImageOptions()) == plain
    assert process(png_with(CHUNKS[name], after=True), ImageOptions()) == plain


def test_what_is_wrong_with_the_pixels_still_loses_it() -> None:
    whole = png_with()
    assert process(whole[:-200], ImageOptions()).reason == "truncated"
    assert process(png_with(chunk(b"tEXt", b"x", length=9999))[:-200], ImageOptions()).reason in (
        "truncated",
        "decode_error",
    )
    palette = encoded(photo().quantize(16), "PNG")
    at = palette.index(b"PLTE")
    broken = palette[: at - 4] + palette[at + 4 + 48 + 4 :]
    assert process(broken, ImageOptions()).reason != ""


@pytest.mark.parametrize("transparency", [0, 40, 255])
def test_transparent_colours_of_a_png_are_kept(transparency: int) -> None:
    image = Image.fromarray(np.full((64, 64), transparency, np.uint8))
    assert pixels(process(encoded(image, "PNG", transparency=transparency), ImageOptions())).min() >= 253


def riff(*chunks: tuple[bytes, bytes], base: Image.Image | None = None) -> bytes:
    """Return a WebP of the extended form with chunks after the picture's own."""
    simple = encoded(base or photo(300, 260), "WEBP", quality=95)
    body = simple[12:]
    size = (300 - 1).to_bytes(3, "little") + (260 - 1).to_bytes(3, "little")
    flags = sum({b"ICCP": 32, b"EXIF": 8, b"XMP ": 4}.get(kind, 0) for kind, _ in chunks)
    extended = b"VP8X" + struct.pack("<I", 10) + bytes([flags, 0, 0, 0]) + size
    first = b"".join(_riff_chunk(*one) for one in chunks if one[0] == b"ICCP")
    last = b"".join(_riff_chunk(*one) for one in chunks if one[0] != b"ICCP")
    content = b"WEBP" + extended + first + body + last
    return b"RIFF" + struct.pack("<I", len(content)) + content


def _riff_chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


@pytest.mark.parametrize(
    "chunks",
    [
        [(b"EXIF", b"garbage, not Exif")],
        [(b"EXIF", b"")],
        [(b"XMP ", b"<x:xmpmeta")],
        [(b"ICCP", b"junk" * 99)],
        [(b"ICCP", b""), (b"EXIF", b"II*\0\xff\xff\xff\xff"), (b"XMP ", b"\0" * 99)],
        [(b"\0\1\2\3", b"unknown")],
    ],
)
def test_metadata_of_a_webp_never_lose_the_picture(chunks: list[tuple[bytes, bytes]]) -> None:
    plain = process(riff(), ImageOptions())
    assert plain.reason == ""
    assert process(riff(*chunks), ImageOptions()) == plain
    if chunks[-1][0] != b"ICCP":  # which stands before the picture
        cut = riff(*chunks)[:-1]
        assert process(cut, ImageOptions()) == plain


@pytest.mark.parametrize(
    "payload", [b"garbage, not Exif", b"Exif\0\0", b"II*\0\xff\xff\xff\xff", b"\xff" * 80, bytes(40)]
)
def test_exif_of_an_avif_never_loses_the_picture(payload: bytes) -> None:
    tags = Image.Exif()
    tags[0x010E] = "x" * 100
    data = encoded(photo(300, 260), "AVIF", quality=90, exif=tags)
    at = data.index(tags.tobytes()[6:])
    data = data[:at] + payload.ljust(len(tags.tobytes()) - 6, b"\0") + data[at + len(tags.tobytes()) - 6 :]
    assert distance(process(data, ImageOptions()), photo(300, 260)) < 3


@pytest.mark.parametrize(
    "segments",
    [
        [b"\xff\xe2\x00\x10ICC_PROFILE\0\0\0"],
        [b"\xff\xe2\x00\x0aMPF\0II*\0"],
        [b"\xff\xe1\x00\x0aExif\0\0II", b"\xff\xe1\x00\x22http://ns.adobe.com/xap/1.0/\0<x:"],
        [b"\xff\xed\x00\x10Photoshop 3.0\0"],
        [b"\xff\xfe\x00\x02", b"\xff\xec\x00\x02"],
        [b"\xff\xed\x00\x04too short\0\4\6", b"\xff\xe1\x00\x02a"],
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_segments_of_a_jpeg_never_lose_the_picture(segments: list[bytes], mode: str) -> None:
    data = encoded(photo().convert(mode), "JPEG", quality=92)
    odd = process(data[:2] + b"".join(segments) + data[2:], ImageOptions())
    assert distance(odd, Image.open(io.BytesIO(process(data, ImageOptions()).jpeg))) < 1


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["png", "webp", "jpeg"]), st.integers(8, 700), st.binary(max_size=30))
def test_any_damage_to_a_container_is_survived(name: str, at: int, damage: bytes) -> None:
    data = SMALL[name][:at] + damage + SMALL[name][at + len(damage) :]
    parts = {"png": containers.png, "webp": containers.webp, "jpeg": containers.jpeg}[name](data)
    assert sniff(parts.pixels) == name


SMALL = {
    name: encoded(photo(40, 30), name.upper(), icc_profile=WIDE["p3"]) for name in ("png", "webp", "jpeg")
}


def test_taking_apart_changes_no_pixel() -> None:
    for name, take in (("png", containers.png), ("webp", containers.webp), ("jpeg", containers.jpeg)):
        parts = take(SMALL[name])
        assert parts.profile == WIDE["p3"]
        assert WIDE["p3"] not in parts.pixels
        before, after = (np.asarray(Image.open(io.BytesIO(data))) for data in (SMALL[name], parts.pixels))
        assert (before == after).all()


# --- upright by Exif alone ---

TURNED_XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    b"</rdf:RDF></x:xmpmeta>"
)


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
def test_orientation_in_xmp_is_not_followed(name: str) -> None:
    if name == "PNG":
        data = png_with(chunk(b"iTXt", XMP + bytes(4) + TURNED_XMP))
    elif name == "TIFF":
        data = encoded(photo(300, 260), name, tiffinfo={700: TURNED_XMP})
    else:
        data = encoded(photo(300, 260), name, xmp=TURNED_XMP)
    processed = process(data, EVERYTHING)
    assert (processed.original_width, processed.original_height) == (300, 260)
    assert distance(processed, photo(300, 260)) < 4


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_in_exif_is_followed_alike(name: str, orientation: int) -> None:
    tags = Image.Exif()
    tags[0x0112] = orientation
    stored = photo(400, 300)
    data = encoded(stored, name, exif=tags)
    expected = Image.fromarray(exif.upright(np.asarray(stored), orientation))
    processed = process(data, EVERYTHING)
    assert (processed.original_width, processed.original_height) == expected.size
    assert distance(processed, expected) < 4


def test_exif_as_text_of_a_png_turns_nothing() -> None:
    tags = Image.Exif()
    tags[0x0112] = 6
    raw = tags.tobytes()
    text = b"Raw profile type exif\0\nexif\n%8d\n%s\n" % (len(raw), raw.hex().encode())
    assert process(png_with(chunk(b"tEXt", text)), ImageOptions()).original_width == 300


# --- every format ---


def sixteen_bits() -> Image.Image:
    return Image.fromarray(np.asarray(photo().convert("L")).astype(np.uint16) * 257)


def one_bit() -> Image.Image:
    return photo().convert("1", dither=Image.Dither.NONE)


FORMS: dict[str, Callable[[], tuple[bytes, Image.Image]]] = {
    "bmp": lambda: (encoded(photo(), "BMP"), photo()),
    "bmp palette": lambda: (encoded(photo().quantize(64), "BMP"), photo().quantize(64)),
    "bmp 1 bit": lambda: (encoded(one_bit(), "BMP"), one_bit()),
    "tiff": lambda: (encoded(photo(), "TIFF"), photo()),
    "tiff lzw": lambda: (encoded(photo(), "TIFF", compression="tiff_lzw"), photo()),
    "tiff deflate": lambda: (encoded(photo(), "TIFF", compression="tiff_adobe_deflate"), photo()),
    "tiff jpeg": lambda: (encoded(photo(), "TIFF", compression="jpeg", quality=95), photo()),
    "tiff 16 bit": lambda: (encoded(sixteen_bits(), "TIFF"), photo().convert("L")),
    "tiff 32 bit": lambda: (
        encoded(Image.fromarray(np.asarray(sixteen_bits()).astype(np.int32)), "TIFF"), photo().convert("L"),
    ),
    "tiff float": lambda: (
        encoded(Image.fromarray(np.asarray(photo().convert("L")).astype(np.float32) / 255), "TIFF"),
        photo().convert("L"),
    ),
    "tiff cmyk": lambda: (encoded(photo().convert("CMYK"), "TIFF"), photo()),
    "tiff lab": lambda: (
        encoded(
            ImageCms.profileToProfile(
                photo(), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
            ),  # type: ignore[arg-type]
            "TIFF",
        ),
        photo(),
    ),
    "tiff 1 bit": lambda: (encoded(one_bit(), "TIFF", compression="group4"), one_bit()),
    "tiff of two pages": lambda: (
        encoded(photo(), "TIFF", save_all=True, append_images=[photo(seed=5)]), photo(),
    ),
    "tiff alpha": lambda: (
        encoded(Image.merge("RGBA", [*photo().split(), Image.new("L", photo().size, 255)]), "TIFF"), photo(),
    ),
    "ppm": lambda: (encoded(photo(), "PPM"), photo()),
    "ppm grey": lambda: (encoded(photo().convert("L"), "PPM"), photo().convert("L")),
    "ppm 1 bit": lambda: (encoded(one_bit(), "PPM"), one_bit()),
    "ppm 16 bit": lambda: (
        b"P5\n640 480\n65535\n" + np.asarray(sixteen_bits()).astype(">u2").tobytes(), photo().convert("L"),
    ),
    "ppm plain": lambda: (
        b"P3\n# plain\n640 480\n255\n" + b" ".join(b"%d" % v for v in np.asarray(photo()).ravel()), photo(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_format_of_the_table_is_decoded_where_it_is_asked_for(form: str) -> None:
    data, expected = FORMS[form]()
    assert sniff(data) == form.split()[0]
    assert distance(process(data, EVERYTHING), expected) < 4
    assert process(data, ImageOptions()).reason == "not_image"


def test_every_suffix_of_the_table_names_a_format() -> None:
    for suffix in SUFFIXES:
        by_pillow = {"jfif": "JPEG", "jpe": "JPEG"}.get(suffix) or Image.registered_extensions()[f".{suffix}"]
        assert by_pillow.lower() in FORMATS
