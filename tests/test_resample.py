"""Resizing is Pillow's bicubic and OpenCV's areas, the same to the byte in C, without AVX2 and in numpy."""

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.images import resample
from pipeline.images.resample import Filter, shrink

Pixels = npt.NDArray[np.uint8]
FILTERS: tuple[Filter, ...] = ("cubic", "area")
module = pytest.mark.skipif(resample._resample is None, reason="the C module is not built")


def picture(width: int, height: int, seed: int = 0) -> Pixels:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return np.asarray(cv2.GaussianBlur(noise, (5, 5), 1.2) if seed % 2 else noise, np.uint8)


def plainly(*arguments: object) -> Pixels:
    """Return numpy's result."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resample, "_resample", None)
        return shrink(*arguments)  # type: ignore[arg-type]


SIDES = st.integers(1, 90)


@settings(max_examples=40, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 9))
def test_it_is_pillows_bicubic_and_opencvs_areas(w: int, h: int, width: int, height: int, seed: int) -> None:
    pixels, size = picture(w, h, seed), (min(w, width), min(h, height))
    turned = Image.fromarray(np.ascontiguousarray(pixels.swapaxes(0, 1)))  # Pillow begins with columns
    cubic = np.asarray(turned.resize(size[::-1], Image.Resampling.BICUBIC)).swapaxes(0, 1)
    area = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    for by, expected in zip(FILTERS, (cubic, area), strict=True):
        assert np.abs(shrink(pixels, (w, h), *size, by).astype(int) - expected).max() <= 2


@module
@settings(max_examples=40, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.floats(0, 0.99), st.integers(0, 9))
def test_c_and_numpy_give_the_same(w: int, h: int, width: int, height: int, less: float, seed: int) -> None:
    pixels, size = picture(w, h, seed)[:, ::-1], (min(w, width), min(h, height))
    extent = max(w - less, size[0]), max(h - less, size[1])
    for by in FILTERS:
        made = shrink(pixels, extent, *size, by)
        assert np.array_equal(made, plainly(pixels, extent, *size, by))
        given = (np.ascontiguousarray(pixels), *extent, *size, by == "area", False)
        assert resample._resample.shrink(*given) == made.tobytes()


@pytest.mark.parametrize("by", FILTERS)
@pytest.mark.parametrize("level", [0, 1, 127, 255])
def test_a_flat_picture_stays_as_it_is(by: Filter, level: int) -> None:
    flat = np.full((70, 101, 3), level, np.uint8)
    for make in (shrink, plainly):
        assert (make(flat, (100.5, 70), 33, 21, by) == level).all()
        assert np.array_equal(make(picture(9, 7), (9, 7), 9, 7, by), picture(9, 7))


@module
@pytest.mark.parametrize(
    "wrong",
    [(5.5, 4, 2, 2), (5, 4, 6, 2), (5, 4, 2, 0), (5, float("nan"), 2, 2)],
    ids=["beyond the picture", "larger", "nothing", "no number"],
)
def test_what_cannot_be_made_is_an_error(wrong: tuple[float, float, int, int]) -> None:
    with pytest.raises(ValueError, match="smaller"):
        resample._resample.shrink(picture(5, 4), *wrong, True)
    with pytest.raises(ValueError, match="uint8"):
        resample._resample.shrink(picture(5, 4)[:, :, :2], 5, 4, 2, 2, True)
