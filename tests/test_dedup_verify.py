"""Verification: copies pass, and the reasons for pairs that fail."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from dedup import distortions, same_picture
from pipeline.data import views
from tests.scenes import scene

PHOTOS = sorted((Path(__file__).resolve().parents[2] / "shared/data/images/bsds500").glob("*/*.jpg"))


@pytest.mark.parametrize("name", [n for n in distortions.DISTORTIONS if n not in ("flip", "border", "mixed")])
def test_an_altered_copy_is_verified(name):
    original = scene(1)
    copy = distortions.DISTORTIONS[name](original, np.random.default_rng(5))
    verdict = same_picture.verify(same_picture.features(copy), same_picture.features(original))
    assert verdict.verified, verdict
    assert verdict.inliers >= same_picture.MIN_INLIERS and verdict.correlation > 0.75


def test_another_picture_has_no_inliers():
    verdict = same_picture.verify(same_picture.features(scene(1)), same_picture.features(scene(2)))
    assert not verdict.verified and verdict.reason == "inliers"


@pytest.mark.parametrize(
    ("places", "reason"), [(((10, 15), (150, 220)), "common"), (((20, 200), (22, 205)), "spread")]
)
def test_a_shared_logo_is_not_a_duplicate(places, reason):
    logo = scene(7, 80, 90)
    pair = []
    for seed, (y, x) in zip((11, 12), places, strict=True):
        picture = cv2.GaussianBlur(scene(seed), (0, 0), 6)
        picture[y : y + 80, x : x + 90] = logo
        pair.append(same_picture.features(picture))
    verdict = same_picture.verify(*pair)
    assert verdict.inliers >= same_picture.MIN_INLIERS, "the logo itself is found, or this tests nothing"
    assert not verdict.verified and verdict.reason == reason


def test_another_take_of_a_scene_is_not_a_duplicate():
    # The same objects, each moved by its own parallax, under other light.
    takes = []
    for take in range(2):
        rng, move = np.random.default_rng(3), np.random.default_rng(100 + take)
        canvas = np.full((256, 340, 3), 90 + 30 * take, np.uint8)
        for _ in range(90):
            x, y = rng.integers(0, (330, 250)) + move.integers(-12, 13, 2)
            shade = tuple(int(v) for v in rng.integers(0, 256, 3))
            side = int(rng.integers(6, 30))
            cv2.rectangle(canvas, (int(x), int(y)), (int(x) + side, int(y) + side), shade, -1)
        takes.append(same_picture.features(canvas))
    assert not same_picture.verify(*takes).verified


def test_one_person_before_two_walls_is_not_a_duplicate():
    # The figure fills the middle and holds nearly all keypoints; the second time it has turned a little.
    y, x = np.mgrid[0:256, 0:340].astype(np.float32)
    inside = (((x - 170) / 95) ** 2 + ((y - 140) / 130) ** 2 < 1)[..., None]
    figure = np.vstack([np.hstack([scene(10 * row + n, 128, 170) for n in range(2)]) for row in (5, 6)])
    turned = x + 2 * np.sin(y / 40), y + 2 * np.sin(x / 40)
    moved = cv2.remap(figure, *turned, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    walls = [cv2.GaussianBlur(scene(n), (0, 0), 8) for n in (32, 33)]
    first, second = np.where(inside, figure, walls[0]), np.where(inside, moved, walls[1])
    verdict = same_picture.verify(same_picture.features(second), same_picture.features(first))
    assert verdict.inliers >= 40 and verdict.correlation > 0.6, "nearly the same, or this tests nothing"
    assert not verdict.verified
    part = np.ascontiguousarray(first[:, 70:270])
    assert same_picture.verify(same_picture.features(part), same_picture.features(first)).verified


def test_blank_and_tiny_images_are_not_verified():
    blank, black = np.full((256, 256, 3), 255, np.uint8), np.zeros((256, 256, 3), np.uint8)
    for pair in ((blank, blank), (black, blank), (blank[:1, :1], black[:2, :200])):
        verdict = same_picture.verify(*(same_picture.features(one) for one in pair))
        assert not verdict.verified and verdict.reason == "inliers"


def test_the_gate_tells_copies_from_others():
    a, b = scene(1), scene(2)
    moved = views.thumbnail(distortions.crop(0.95, 0.95)(a, np.random.default_rng(0)))
    assert same_picture.aligned_correlation(moved, views.thumbnail(a)) > 0.9
    assert same_picture.aligned_correlation(views.thumbnail(b), views.thumbnail(a)) < same_picture.GATE
    flat = np.zeros((64, 64, 3), np.uint8)
    assert same_picture.aligned_correlation(flat, flat) == 0


def test_the_same_pair_gets_the_same_verdict():
    a, b = scene(4), distortions.mixed(scene(4), np.random.default_rng(2))
    assert same_picture.verify(same_picture.features(b), same_picture.features(a)) == same_picture.verify(
        same_picture.features(b), same_picture.features(a)
    )


@pytest.mark.skipif(not PHOTOS, reason="needs the sample photographs beside the checkout")
def test_photographs_and_their_copies():
    photos = [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in PHOTOS[:24]]
    known = [same_picture.features(photo) for photo in photos]
    kept = 0
    for index, photo in enumerate(photos):
        copy = distortions.jpeg(
            distortions.crop(0.75, 1)(photo, np.random.default_rng(index)), np.random.default_rng(index)
        )
        found = same_picture.features(copy)
        kept += same_picture.verify(found, known[index]).verified
        assert not same_picture.verify(found, known[index - 1]).verified
    assert kept >= 22


def test_the_same_drawing_in_other_colours_is_not_a_duplicate():
    original = scene(21)
    ycc = cv2.cvtColor(original, cv2.COLOR_RGB2YCrCb)
    ycc[..., 1:] = 255 - ycc[..., 1:]
    other = cv2.cvtColor(ycc, cv2.COLOR_YCrCb2RGB)
    verdict = same_picture.verify(same_picture.features(other), same_picture.features(original))
    assert not verdict.verified and verdict.reason == "colour"
    grey = np.repeat(cv2.cvtColor(original, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    assert same_picture.verify(same_picture.features(grey), same_picture.features(original)).verified


def test_a_thing_before_a_plain_ground_is_a_duplicate():
    picture = np.full((256, 340, 3), (200, 190, 170), np.uint8)
    picture[90:160, 120:210] = scene(8, 70, 90)
    copy = distortions.jpeg(picture, np.random.default_rng(1))
    assert same_picture.verify(same_picture.features(copy), same_picture.features(picture)).verified


def letter(canvas: np.ndarray) -> np.ndarray:
    outline = [(40, 100), (260, 100), (260, 160), (110, 160), (110, 220), (230, 220), (230, 270), (110, 270),
               (110, 330), (260, 330), (260, 390), (40, 390)]  # fmt: skip
    return np.asarray(cv2.polylines(canvas, [np.array(outline)], True, (0, 0, 0), 14), np.uint8)


def small(picture: np.ndarray, share: float) -> np.ndarray:
    """Return a picture as a site shows it at another size."""
    made = cv2.resize(picture, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
    return distortions.jpeg(np.ascontiguousarray(made), np.random.default_rng(2))


@pytest.mark.parametrize("share", [1, 0.3])
def test_a_letter_is_not_the_same_with_dots_over_it(share):
    dotted, alone = (letter(np.full((400, 300, 3), 255, np.uint8)) for _ in range(2))
    for x in (70, 180):
        cv2.rectangle(dotted, (x, 15), (x + 50, 65), (0, 0, 0), 12)
    known = same_picture.features(small(dotted, share))
    other = same_picture.features(small(np.ascontiguousarray(alone[80:]), share))
    for pair in ((known, other), (other, known)):
        verdict = same_picture.verify(*pair)
        assert not verdict.verified and (share < 1 or verdict.reason == "content"), verdict
    copy = distortions.jpeg(dotted, np.random.default_rng(1))
    assert share < 1 or same_picture.verify(same_picture.features(copy), known).verified


@pytest.mark.parametrize("share", [1, 0.3])
def test_a_letter_upside_down_or_mirrored_is_another(share):
    known = same_picture.features(small(letter(np.full((400, 300, 3), 255, np.uint8)), share))
    turned = same_picture.features(np.ascontiguousarray(known.rgb[::-1, ::-1]))
    assert same_picture.verify(known, known).verified
    assert same_picture.verify(turned, known).reason == "content"
    assert same_picture.verify(known, known, mirrored=True).reason == "content"


def test_a_copy_of_one_channel_is_verified():
    original = scene(4)
    copy = np.repeat(original[..., 1:2], 3, axis=2)
    verdict = same_picture.verify(same_picture.features(copy), same_picture.features(original))
    assert verdict.verified and verdict.correlation > 0.99
