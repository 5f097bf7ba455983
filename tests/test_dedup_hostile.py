"""Pictures that look alike and are not the same: no pair of them is an overlap, and their copies are."""

from collections import Counter

import cv2
import numpy as np
import pytest

from dedup import planted, training_set
from dedup.contamination import Dataset, conclude
from dedup.findings import LookAlikes, look_alikes
from dedup.matcher import ImageMatcher, picture_of
from dedup.parts import EXAMPLES, MATCHES
from dedup.picture_kinds import kind_of
from dedup.search import Whitening
from pipeline import schemas
from pipeline.data import views
from pipeline.data.descriptors import describe
from tests.scenes import scene

WORDS = (
    "annual",
    "report",
    "garden",
    "winter",
    "school",
    "harbour",
    "notice",
    "market",
    "letters",
    "quarter",
)


def blank(n: int) -> np.ndarray:
    return np.full((200, 240, 3), (n * 37 % 256, n * 91 % 256, n * 53 % 256), np.uint8)


def gradient(n: int) -> np.ndarray:
    y, x = np.mgrid[0:200, 0:240]
    angle = n * 0.35
    ramp = (x * np.cos(angle) + y * np.sin(angle)) % 400
    return np.stack([ramp * 0.5 + 20 * c + 5 * n for c in range(3)], axis=-1).clip(0, 255).astype(np.uint8)


def written(canvas: np.ndarray, text: str, at: tuple[int, int], size: float, shade: tuple[int, ...]) -> None:
    cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_DUPLEX, size, shade, max(1, round(size * 1.5)))


def logo(n: int) -> np.ndarray:
    canvas, rng = np.full((220, 220, 3), 255, np.uint8), np.random.default_rng(n)
    shade = tuple(int(v) for v in rng.integers(0, 200, 3))
    cv2.circle(canvas, (110, 90), 60, shade, -1)
    cv2.circle(canvas, (110, 90), 42, (255, 255, 255), -1)
    written(canvas, WORDS[n][:2].upper(), (80, 102), 1.1, shade)
    written(canvas, WORDS[n], (50, 190), 0.9, shade)
    return canvas


def text_page(n: int) -> np.ndarray:
    canvas, rng = np.full((340, 250, 3), 250, np.uint8), np.random.default_rng(n)
    for line in range(16):
        words = " ".join(WORDS[k] for k in rng.integers(0, len(WORDS), 4))
        written(canvas, words, (14, 24 + 20 * line), 0.4, (30, 30, 30))
    return canvas


def placeholder(n: int) -> np.ndarray:
    """Return the same grey picture of a camera with another word under it."""
    canvas = np.full((220, 260, 3), 225, np.uint8)
    cv2.rectangle(canvas, (80, 60), (180, 130), (150, 150, 150), -1)
    cv2.circle(canvas, (130, 95), 25, (225, 225, 225), -1)
    written(canvas, f"no {WORDS[n]}", (50, 180), 0.9, (120, 120, 120))
    return canvas


def digit(n: int) -> np.ndarray:
    canvas = np.zeros((28, 28, 3), np.uint8)
    written(canvas, str(n), (4 + n % 3, 22), 0.8, (255, 255, 255))
    return cv2.GaussianBlur(canvas, (0, 0), 0.6)


def tiny(n: int) -> np.ndarray:
    return cv2.resize(scene(n), (32, 32), interpolation=cv2.INTER_AREA)


def product(n: int) -> np.ndarray:
    """Return a shirt before white, each of the same cut and in its own colour with its own print.

    In another shade of grey and without a print it would be a copy that was made lighter.
    """
    canvas, rng = np.full((260, 220, 3), 252, np.uint8), np.random.default_rng(n)
    shade = tuple(int(v) for v in rng.integers(30, 220, 3))
    shape = np.array([[70, 40], [150, 40], [200, 80], [175, 110], [155, 95], [155, 220], [65, 220], [65, 95],
                      [45, 110], [20, 80]])  # fmt: skip
    cv2.fillPoly(canvas, [shape], shade)
    cv2.ellipse(canvas, (110, 40), (22, 12), 0, 0, 180, (252, 252, 252), -1)
    written(canvas, WORDS[n][:4], (75, 140), 0.9, (255,) * 3 if sum(shade) < 380 else (0,) * 3)
    return canvas


GROUPS = {one.__name__: one for one in (blank, gradient, logo, text_page, placeholder, digit, tiny, product)}


KINDS = {
    "blank": "blank", "gradient": "gradient", "text_page": "text page", "digit": "tiny", "tiny": "tiny",
    "logo": "plain ground", "placeholder": "plain ground", "product": "plain ground",
}  # fmt: skip


@pytest.mark.parametrize("group", GROUPS)
def test_such_pictures_are_named(group):
    assert {kind_of(GROUPS[group](n)) for n in range(10)} == {KINDS[group]}


def test_photographs_have_no_such_name():
    assert Counter(kind_of(scene(n)) for n in range(20)) == {"": 20}


def test_the_report_counts_them_with_an_example():
    names = ["a", "b", "c", "d", "e", "f"]
    kinds = ["tiny", "tiny", "tiny", "plain ground", "", "blank"]
    rows = [("x", name, "", "", "", "compared", 0, 0, 0, "", kind)
            for name, kind in zip(names, kinds, strict=True)]  # fmt: skip
    # a overlaps; b and d have a candidate that was refused, and so has e, which is a photograph.
    pairs = [("a", "u1", 0.9, ""), ("b", "u2", 0.5, "inliers"), ("d", "u3", 0.8, "content"),
             ("e", "u4", 0.6, "spread")]  # fmt: skip
    found = [
        (
            "x",
            name,
            uid,
            "",
            value,
            not refused,
            1,
            refused,
            0,
            0.0,
            "whole",
            False,
            "",
            "s",
            uid,
            value,
            None,
        )
        for name, uid, value, refused in pairs
    ]
    similarity = np.array([0.9, *[-np.inf] * 5])
    dataset = Dataset("x", names, [""] * 6, 1, similarity, None, [])
    [concluded] = conclude([dataset], {}, 0.35, 1)
    told = look_alikes(concluded, schemas.to_table(rows, EXAMPLES), schemas.to_table(found, MATCHES))
    assert told == (
        LookAlikes(kind="tiny", examples=2, refused=1, example_id="b", uid="u2", reason="inliers"),
        LookAlikes(kind="blank", examples=1, refused=0, example_id="f", uid="", reason=""),
        LookAlikes(kind="plain ground", examples=1, refused=1, example_id="d", uid="u3", reason="content"),
    )


@pytest.fixture(scope="module")
def whitening() -> Whitening:
    return Whitening.fit(describe(np.stack([views.thumbnail(scene(n)) for n in range(700, 740)])).colours)


@pytest.mark.parametrize("group", GROUPS)
def test_what_looks_alike_is_no_overlap(group, whitening):
    pictures = [GROUPS[group](n) for n in range(10)]
    examples = planted.Copies(pictures[:5], whitening, 25)
    matcher = ImageMatcher(examples, whitening, 0.35, 25)
    nobody = training_set.TrainingImage("", "", "", (), b"")
    pairs = matcher.match([picture_of(nobody, rgb) for rgb in pictures])
    found = {(one.picture, examples.numbers[one.example]) for one in pairs if one.verdict.verified}
    assert {pair for pair in found if pair[0] != pair[1]} == set()
    if group in ("logo", "placeholder", "product"):
        assert len(found) == 5, "and each is found in itself"
