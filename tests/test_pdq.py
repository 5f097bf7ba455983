"""PDQ: bits and quality as of Meta's code, by values of pdqhash, and beside it where it is installed."""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from pipeline.hashlist import DISTANCE
from pipeline.images.decoder import Decoder
from pipeline.images.pdq import pdq
from pipeline.images.process import encode_jpeg, process, process_with_pdq
from pipeline.options import ImageOptions

# Height, width, quality and hash of `waves(seed, height, width)` for seed 0, 1, ..., by pdqhash 0.2.8.
PDQHASH = [
    (64, 64, 100, "8ebfd8ca1e9b13c752cb919ead68fd264af12545c69630c77427771058654335"),
    (5, 5, 29, "695a6cd994a593249e2794a5ce636b5a61d86cdb695a6cd996a593249e2794a5"),
    (6, 300, 100, "c6e2fa5c1e08213ec6e2c648f1f705a3391db977f1f74688c6e2fa5c0e08213f"),
    (300, 7, 100, "9ed2c2d78b26618fb58ae18f1924c277692dc2d7ce71c2373d28cb259b24952e"),
    (128, 129, 100, "9669339e23cc1cbae140fb156b8b58cbcb6887d82c7056655b5edb229d464fa4"),
    (200, 333, 100, "8918898f0a967de220c0ad8e5a55bf9e90469d6e91ba8f815b77a0abeb1b39e5"),
    (257, 640, 100, "a86f587aabd0536a6e89ef392e116476969b510dcc3406e6faa3262e956a20fb"),
    (480, 640, 100, "204ae0f62a3cffc34c97f4ab6291dce1ccafb74b0d6eb2335b01c444a80cd36f"),
]


def waves(seed: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Return a picture of waves and noise, uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    planes = [
        128
        + 60 * np.sin(x * rng.uniform(0, 0.3) + rng.uniform(0, 6))
        + 60 * np.cos(y * rng.uniform(0, 0.3) + rng.uniform(0, 6))
        for _ in range(3)
    ]
    noise = rng.normal(0, 20, (height, width, 3))
    return np.asarray(np.clip(np.stack(planes, -1) + noise, 0, 255), np.uint8)


@pytest.mark.parametrize(("seed", "row"), list(enumerate(PDQHASH)))
def test_pictures_of_any_shape_have_the_hash_that_pdqhash_gives_them(
    seed: int, row: tuple[int, int, int, str]
) -> None:
    height, width, quality, digits = row
    assert pdq(waves(seed, height, width)) == (digits, quality)


def test_too_small_or_blank_pictures_have_no_quality() -> None:
    assert pdq(np.zeros((4, 900, 3), np.uint8)) == ("0" * 64, 0)
    assert pdq(np.full((300, 400, 3), 200, np.uint8)).quality == 0


def distance(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()


def test_a_fetched_picture_is_near_its_original_whatever_became_of_its_bytes() -> None:
    # Smooth, as photographs are: JPEG and resizing take noise away.
    original = cv2.resize(waves(11, 60, 80), (1600, 1200), interpolation=cv2.INTER_CUBIC)
    listed = pdq(original).digits
    options = ImageOptions(image_size=64)
    for quality, scale in ((95, 1), (60, 0.5), (60, 0.3)):
        small = cv2.resize(original, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        found = process_with_pdq(encode_jpeg(small, quality), options)
        assert found.reason == "" and distance(found.pdq, listed) <= DISTANCE
    assert process(encode_jpeg(original, 95), options).pdq == ""


def test_the_child_process_answers_with_the_hash_and_leaves_it_out_where_it_means_nothing() -> None:
    function = "pipeline.images.process:process_with_pdq"
    with Decoder(ImageOptions(min_side=1), function=function) as child:
        found = child.process(encode_jpeg(waves(5, 200, 333), 100))
        assert distance(found.pdq, PDQHASH[5][3]) <= 4
        blank = child.process(encode_jpeg(np.full((200, 300, 3), 90, np.uint8), 90))
        assert blank.reason == "" and blank.pdq == ""


def test_photographs_have_the_hash_that_pdqhash_gives_them(sample_data: Path) -> None:
    pdqhash = pytest.importorskip("pdqhash")
    for path in sorted(sample_data.glob("images/**/*.jpg"))[:1000]:
        rgb = np.ascontiguousarray(cv2.imread(str(path))[..., ::-1])
        vector, quality = pdqhash.compute(rgb)
        assert pdq(rgb) == (np.packbits(vector.astype(np.uint8)).tobytes().hex(), quality), path.name
