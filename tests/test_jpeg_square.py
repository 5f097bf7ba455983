"""A square that is decoded alone is that of the whole picture; damage is found as before."""

import io

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.images import jpeg_square, pixels
from pipeline.images.decode import BadImage, Pixels
from pipeline.images.headers import usual_jpeg_size

module = pytest.mark.skipif(not jpeg_square.is_there(), reason="no C module, or no libjpeg-turbo")
SAMPLINGS = ("444", "422", "420", "440", "411", "Gray")


def encoded(width: int, height: int, quality: int = 90, sampling: str = "420", seed: int = 0) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return simplejpeg.encode_jpeg(noise, quality, colorsubsampling=sampling)


def decoded(data: bytes) -> Pixels:
    return simplejpeg.decode_jpeg(data, "RGB", fastdct=True, fastupsample=True)


def room(side: int) -> Pixels:
    return np.empty((side, side, 3), np.uint8)


def square(data: bytes, shorter: int, along: float, *, whole: bool = False) -> Pixels | str:
    """Return a square, or for which reason there is none; whole: of the picture decoded as a whole."""
    with pytest.MonkeyPatch.context() as patch:
        if whole:
            patch.setattr(jpeg_square, "is_there", lambda: False)
        try:
            return pixels.decode_square(
                data, shorter, lambda height, width: int(along * abs(height - width)), room
            ).copy()
        except BadImage as bad:
            return bad.reason


@module
@settings(max_examples=150, deadline=None)
@given(st.integers(1, 99), st.integers(1, 99), st.integers(1, 100), st.sampled_from(SAMPLINGS), st.data())
def test_any_square_is_as_in_the_whole_picture(
    width: int, height: int, quality: int, sampling: str, draw: st.DataObject
) -> None:
    data = encoded(width, height, quality, sampling)
    side = draw.draw(st.integers(1, min(width, height)))
    left, top = draw.draw(st.integers(0, width - side)), draw.draw(st.integers(0, height - side))
    out = room(side)
    assert jpeg_square.decode(data, left, top, out)
    assert np.array_equal(out, decoded(data)[top : top + side, left : left + side])


@module
@pytest.mark.parametrize(
    ("left", "top", "side"), [(0, 0, 41), (31, 0, 30), (0, 11, 30), (60, 40, 1), (2**32 - 1, 0, 2)]
)
def test_a_square_beyond_the_picture_is_none(left: int, top: int, side: int) -> None:
    assert not jpeg_square.decode(encoded(60, 40), left, top, room(side))


@module
@settings(max_examples=150, deadline=None)
@given(st.integers(0, 5000), st.integers(0, 255), st.booleans(), st.floats(0, 1))
def test_damage_is_found_wherever_it_is(at: int, byte: int, cut: bool, along: float) -> None:
    data = encoded(40, 64)
    at %= len(data)
    data = data[:at] if cut else data[:at] + bytes([byte]) + data[at + 1 :]
    found, expected = (square(data, 40, along, whole=whole) for whole in (False, True))
    assert np.array_equal(found, expected), found if isinstance(found, str) else "other pixels"


@pytest.mark.parametrize("size", [(64, 40), (40, 64), (40, 40), (90, 200)])
@pytest.mark.parametrize("kind", ["JPEG", "progressive", "Exif", "L", "PNG"])
def test_other_pictures_are_decoded_as_a_whole(kind: str, size: tuple[int, int]) -> None:
    image, file = Image.fromarray(decoded(encoded(*size))), io.BytesIO()
    tags = Image.Exif()
    tags[0x0112] = 6
    match kind:
        case "PNG":
            image.save(file, "PNG")
        case "Exif":
            image.save(file, "JPEG", exif=tags)
        case _:
            image.convert("L" if kind == "L" else "RGB").save(file, "JPEG", progressive=kind == "progressive")
    data = file.getvalue()
    assert (usual_jpeg_size(data) == size) == (kind == "JPEG")
    for shorter in (20, 40, 60):  # of the first the picture may be scaled down
        rgb = pixels.decode(data, shorter)
        side, more = min(rgb.shape[:2]), abs(rgb.shape[0] - rgb.shape[1])
        at = int(0.6 * more)
        expected = rgb[at : at + side] if rgb.shape[0] > side else rgb[:, at : at + side]
        assert np.array_equal(square(data, shorter, 0.6), expected)


def test_a_picture_of_no_height_or_too_large_a_one_is_bad() -> None:
    data = encoded(40, 64)
    at = data.index(b"\xff\xc0") + 5
    for height, reason in ((b"\0\0", "decode_error"), (b"\xff\xff", "bad_aspect")):
        changed = data[:at] + height + data[at + 2 :]
        assert square(changed, 40, 0) == square(changed, 40, 0, whole=True) == reason


@module
def test_a_library_that_lacks_a_function_is_not_used() -> None:
    assert jpeg_square._jpeg is not None
    assert not jpeg_square._jpeg.open("libc.so.6") and not jpeg_square._jpeg.open("/nowhere/libjpeg.so.62")
    assert jpeg_square.decode(encoded(40, 64), 0, 0, room(40)), "the one before is kept"
