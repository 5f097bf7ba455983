"""Evaluation images that are a part of a training image."""

import numpy as np

from dedup import planted, training_crops, training_set
from dedup.matcher import VIEWS_AND_CROPS, ImageMatcher, picture_of
from dedup.search import Whitening
from pipeline.data import views
from pipeline.data.descriptors import describe
from tests.scenes import scene


def test_crops_are_described_as_their_thumbnails_are():
    shown = [scene(n, 200 + 30 * n, 300) for n in range(3)]
    found = training_crops.describe_crops(shown)
    expected = describe(np.concatenate([views.thumbnails(rgb, training_crops.CROPS) for rgb in shown]))
    for one, other in (
        (found.hashes, expected.hashes),
        (found.mirrored_hashes, expected.mirrored_hashes),
    ):
        bits = np.unpackbits(one ^ other, axis=1).sum(axis=1)
        assert bits.mean() < 6 and bits.max() < 25, "another way of averaging"
    error = np.abs(found.colours - expected.colours.astype(int)).mean()
    assert error < 0.05 * np.abs(expected.colours.astype(int)).mean()


def test_an_evaluation_image_that_is_a_part_of_a_training_image_is_found():
    whitening = Whitening.fit(
        describe(np.stack([views.thumbnail(scene(n)) for n in range(700, 740)])).colours
    )
    whole = [scene(n) for n in range(6)]
    parts = [rgb[40:222, 60:301] for rgb in whole[:3]]  # half of the area
    nobody = training_set.TrainingImage("", "", "", (), b"")
    seen = [picture_of(nobody, rgb) for rgb in [*whole[:5], np.ascontiguousarray(whole[1][:, ::-1])]]
    found = {}
    for crops in (True, False):
        matcher = ImageMatcher(planted.Copies(parts, whitening, 25), whitening, 0.35, 25, crops=crops)
        pairs = [one for one in matcher.match(seen) if one.verdict.verified]
        found[crops] = {(one.picture, one.example, one.mirrored) for one in pairs}
        assert all("of the training image" in VIEWS_AND_CROPS[one.view].name for one in pairs)
    assert found == {True: {(0, 0, False), (1, 1, False), (2, 2, False), (5, 1, True)}, False: set()}
