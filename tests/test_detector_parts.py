"""The detector's parts: alterations, network, normalisation, thresholds, file."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dedup.detector import augment, detector_file, thresholds
from dedup.detector.loss import entropy_term, with_entropy
from dedup.detector.model import (
    ARCHITECTURES,
    DetectorNetwork,
    OnPairs,
    ResNetArchitecture,
    WeightNormConv2d,
)
from dedup.detector.normalise import NEAREST, WEIGHT, Normaliser
from dedup.detector.train import forward_flops, proxy_accuracy
from pipeline.data.descriptors import Detector
from pipeline.data.views import squeeze
from tests.scenes import scene

TINY = ResNetArchitecture(side=32, layers=(1, 1, 1, 1), width=8, dims=16)
NOTHING = augment.Strength(area=0.99, stretch=1.0, degrees=0, hue=0, tone=0, chance=0.0, added=0.0)


def pixels(count: int, side: int = 32) -> np.ndarray:
    return np.stack([squeeze(scene(n), side) for n in range(count)])


def network(seed: int = 0) -> DetectorNetwork:
    return DetectorNetwork(TINY).initialise(seed, torch.from_numpy(pixels(16))).eval()


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


# Alterations


def photographs(*pictures: np.ndarray, side: int = 64) -> tuple[torch.Tensor, np.ndarray]:
    made = [augment.source(rgb, side) for rgb in pictures]
    return torch.from_numpy(np.stack([rgb for rgb, _ in made])), np.float32([aspect for _, aspect in made])


def smoothed(rgb: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(rgb, (9, 9), 2)


def test_both_views_are_squares_made_from_the_seed_alone():
    given = photographs(*(scene(n) for n in range(5)))
    first, again, other = (augment.pair(*given, 64, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert all(views.shape == (5, 64, 64, 3) and views.dtype == torch.uint8 for views in first)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_a_view_without_alterations_is_the_squeezed_picture():
    rgb = smoothed(scene(2))
    (seen,) = augment.view(*photographs(rgb), 64, NOTHING, np.random.default_rng(0)).numpy()
    assert np.abs(seen.astype(int) - squeeze(rgb, 64)).mean() < 1.5


@pytest.mark.parametrize(
    ("index", "low"), [(0, 0.2), (1, 0.3), (2, 0.9), (3, 0.8), (4, 0.4), (5, 0.9), (7, 0.5), (8, 0.5)],
    ids=["crop", "rotation", "mirror", "scale", "colour", "jpeg", "picture", "text"],
)  # fmt: skip
def test_each_alteration_changes_the_picture_and_keeps_it_recognisable(index, low):
    class Only(np.random.Generator):
        """Let one kind happen, and the others not."""

        def random(self, size=None):
            if size is None:
                return 0.0 if index == 3 else 1.0
            kinds = {6: np.arange(6) == index, 3: np.arange(6, 9) == index}
            if isinstance(size, tuple):
                return np.broadcast_to(np.where(kinds[size[1]], 0.0, 1.0), size)
            return super().random(size)

    rng = Only(np.random.PCG64(3))
    strength = augment.Strength(area=0.8, stretch=1.1, degrees=8, hue=20, tone=0.4, chance=0.5, added=0.5)
    pictures = [smoothed(scene(n)) for n in (3, 4)]
    altered = augment.view(*photographs(*pictures), 64, strength, rng).numpy()
    for seen, rgb in zip(altered, pictures, strict=True):
        plain = squeeze(rgb, 64)
        assert np.abs(seen.astype(int) - plain).mean() > 1
        assert correlation(seen[:, ::-1] if index == 2 else seen, plain) > low


def shown(rgb: np.ndarray, done: list[bool], rng: np.random.Generator, **strength: float) -> np.ndarray:
    """Return a picture of 80 pixels as one map shows it at 40, float32 [40, 40, 3]."""
    given, aspects = photographs(rgb, side=40)
    known = {"area": 1.0, "degrees": 10, "chance": 1} | strength
    found = augment._mapped(
        given.permute(0, 3, 1, 2).float(), aspects, 40, replace(NOTHING, **known),
        np.array([[*done, False, False, False]]), np.array([False]), rng,
    )  # fmt: skip
    return found[0].permute(1, 2, 0).numpy()


def test_a_mirrored_crop_shows_the_mirrored_part():
    """Of a picture whose left half is black a crop keeps the black on the right when mirrored."""
    rgb = np.zeros((80, 80, 3), np.uint8)
    rgb[:, 40:] = 255
    seen = shown(rgb, [True, False, True], np.random.default_rng(0), area=0.98)
    assert seen[:, :15].mean() > 200 and seen[:, 25:].mean() < 50


def test_a_turn_goes_about_the_centre_and_leaves_corners_black_or_none():
    rgb = np.full((100, 140, 3), 200, np.uint8)
    corners = []
    for seed in range(30):
        seen = shown(rgb, [False, True, False], np.random.default_rng(seed))
        assert seen[16:24, 16:24].min() > 190
        corners.append(seen[[0, 0, -1, -1], [0, -1, 0, -1]].min() < 100)
    assert 3 < sum(corners) < 27


def test_a_turn_keeps_shapes_of_pictures_that_were_squeezed():
    """A disc in a picture of 2:1 is, squeezed, half as wide as high; turned by some degrees it is so too."""
    rgb = cv2.circle(np.zeros((80, 160, 3), np.uint8), (80, 40), 20, (255, 255, 255), -1)
    for seed in range(4):
        weights = shown(rgb, [False, True, False], np.random.default_rng(seed))[..., 0]
        spread = np.cov(np.indices((40, 40)).reshape(2, -1), aweights=weights.ravel())
        assert spread[0, 0] / spread[1, 1] == pytest.approx(4, rel=0.1) and abs(spread[0, 1]) < 0.5


def test_compression_is_that_of_libjpeg():
    """Our blocks, rounded, against those of OpenCV's encoder at the same quality, on smooth scenes."""

    class Quality(np.random.Generator):
        def uniform(self, low=0.0, high=1.0, size=None):
            return np.full(size, 30.0)

    rgb = np.stack([squeeze(scene(n), 64) for n in range(4)])
    planes = torch.from_numpy(rgb).permute(0, 3, 1, 2).float()
    ours = augment._compressed(planes, np.ones(4, bool), Quality(np.random.PCG64(0)))
    for plain, one in zip(rgb, ours.permute(0, 2, 3, 1).numpy(), strict=True):
        _, data = cv2.imencode(".jpg", plain[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 30])
        theirs = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]
        lost = np.abs(theirs.astype(float) - plain).mean()
        assert lost > 1 and np.abs(theirs - one).mean() < 0.25 * lost


@given(st.integers(8, 90), st.integers(8, 90), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_any_picture_gives_views(height, width, seed):
    rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    views = augment.pair(*photographs(rgb, side=32), 32, np.random.default_rng(seed))
    assert [view.shape for view in views] == [(1, 32, 32, 3)] * 2


def test_the_entropy_term_is_least_where_vectors_are_spread():
    """Minus the mean logarithm of the distance to the nearest other, which is 0 at right angles."""
    spread = torch.eye(4)
    near = torch.nn.functional.normalize(torch.eye(4) * 0.1 + 1, dim=1)
    assert float(entropy_term(spread, spread)) == pytest.approx(0, abs=1e-6)
    assert float(entropy_term(near, near)) > float(entropy_term(spread, spread)) + 1
    both = near.clone().requires_grad_()
    with_entropy(1.0)(both, both, torch.tensor(10.0)).backward()
    assert torch.isfinite(both.grad).all() and float(both.grad.abs().max()) > 0


# Network


def test_nothing_depends_on_the_rest_of_the_batch():
    """The purpose of weight norm (appendix C): batch norm would let duplicates be told by the batch."""
    one = network().train()
    together = one(torch.from_numpy(pixels(8)))
    alone = torch.cat([one(torch.from_numpy(pixels(8)[n : n + 1])) for n in range(8)])
    assert torch.allclose(together, alone, atol=1e-5)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in one.modules())


def test_descriptors_are_unit_vectors_of_the_promised_size():
    vectors = network().embed(pixels(5), batch=2)
    assert vectors.shape == (5, 16) and vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert network().embed(pixels(1)[:0]).shape == (0, 16)


def test_initial_outputs_have_mean_zero_and_deviation_one():
    """The data-dependent initialisation of weight norm's authors, section 3."""
    one = DetectorNetwork(TINY)
    batch = torch.from_numpy(pixels(16))
    one.initialise(0, batch)
    seen = []
    hook = one.trunk.conv1.register_forward_hook(lambda module, inputs, output: seen.append(output))
    one(batch)
    hook.remove()
    deviation, mean = torch.std_mean(seen[0], dim=(0, 2, 3))
    assert torch.allclose(mean, torch.zeros_like(mean), atol=1e-4)
    assert torch.allclose(deviation, torch.ones_like(deviation), atol=1e-3)


def test_weight_norm_is_torchs():
    ours = WeightNormConv2d(3, 5, 3, padding=1)
    theirs = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv2d(3, 5, 3, padding=1))
    with torch.no_grad():
        ours.direction.normal_()
        ours.gain.uniform_(0.5, 2)
        theirs.parametrizations.weight.original0.copy_(ours.gain[:, None, None, None])
        theirs.parametrizations.weight.original1.copy_(ours.direction)
        theirs.bias.copy_(ours.bias)
    x = torch.randn(2, 3, 8, 8)
    assert torch.allclose(ours(x), theirs(x), atol=1e-5)


def test_the_two_architectures_have_the_documented_sizes():
    sizes = {
        name: sum(p.numel() for p in DetectorNetwork(a).parameters()) for name, a in ARCHITECTURES.items()
    }
    assert 1.2e6 < sizes["small"] < 1.4e6
    assert 23e6 < sizes["RN50"] < 26e6, "a ResNet-50 without its classifier"
    assert forward_flops(ARCHITECTURES["small"]) == pytest.approx(64e6, rel=0.05)
    assert 8e9 < forward_flops(ARCHITECTURES["RN50"]) < 12e9
    with pytest.raises(ValueError, match="multiple of 32"):
        ResNetArchitecture(side=50, layers=(1, 1, 1, 1), width=8, dims=16)


def test_the_temperature_is_the_papers():
    first, second, scale = OnPairs(network())(torch.from_numpy(pixels(3)), torch.from_numpy(pixels(3)))
    assert float(scale) == pytest.approx(1 / 0.07)
    assert torch.allclose(first, second)


def test_proxy_accuracy_counts_both_directions():
    first = torch.eye(3)
    assert proxy_accuracy(first, first) == 1.0
    assert proxy_accuracy(first, first[[0, 2, 1]]) == pytest.approx(1 / 3)


# Normalisation


def test_centring_takes_off_what_all_vectors_share():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(500, 16)).astype(np.float32) + 3
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert (vectors @ vectors.T).mean() > 0.8
    centred = Normaliser.fit(vectors).centred(vectors)
    assert abs((centred @ centred.T).mean()) < 0.02
    assert np.allclose(np.linalg.norm(centred, axis=1), 1, atol=1e-5)


def test_a_bias_is_a_share_of_the_mean_of_the_nearest_background_images():
    rng = np.random.default_rng(1)
    normaliser = Normaliser.fit(_unit(rng.normal(size=(200, 8))))
    queries = normaliser.centred(_unit(rng.normal(size=(7, 8))))
    expected = np.sort(queries @ normaliser.background.T, axis=1)[:, -NEAREST:].mean(1) * WEIGHT
    assert np.allclose(normaliser.biases(queries), expected, atol=1e-6)
    with pytest.raises(ValueError, match="too few"):
        Normaliser.fit(normaliser.background[:NEAREST])


def _unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


# Thresholds


def test_a_threshold_within_reach_of_the_sample_is_a_quantile():
    scores = np.linspace(0, 1, 10_001).astype(np.float32)
    # 100 examples x 100 images sampled of 100: 10% of the examples are 10 pairs... of a tail of 1,000 known.
    found = thresholds.threshold(scores, pairs=10_000, examples=100, images=100, precision=0.5)
    assert found == pytest.approx(1 - 50 / 10_000, abs=0.01)


def test_an_exponential_tail_is_continued():
    rng = np.random.default_rng(2)
    scores = rng.exponential(0.05, 1_000_000).astype(np.float32)
    # 1,000 images sampled and 1,000 examples; the set has 100,000 images: at most 100 pairs of 1e8, 1e-6.
    found = thresholds.threshold(scores, pairs=1_000_000, examples=1_000, images=100_000, precision=0.9)
    assert found == pytest.approx(-0.05 * np.log(1e-6), rel=0.12)


@given(st.integers(1_000, 10**9), st.floats(0.5, 0.99))
def test_thresholds_rise_with_the_training_set_and_the_precision(images, precision):
    scores = np.random.default_rng(3).exponential(0.03, 2_000).astype(np.float32)
    low = thresholds.threshold(scores, 200_000, 200, images, precision)
    assert low <= thresholds.threshold(scores, 200_000, 200, 2 * images, precision)
    assert low <= thresholds.threshold(scores, 200_000, 200, images, (1 + precision) / 2)


def test_the_scale_of_the_hashes_begins_at_the_threshold():
    values = thresholds.on_scale(np.array([0.6, 0.8, 1.0], np.float32), np.array([0.6] * 3, np.float32), 0.35)
    assert np.allclose(values, [0.35, 0.675, 1.0])


def test_an_impossible_precision_is_refused():
    with pytest.raises(ValueError, match="from 0 to below 1"):
        thresholds.threshold(np.zeros(5, np.float32), 5, 5, 5, 1.0)


# File


def test_a_file_gives_the_same_descriptors_and_its_content_names_it(tmp_path):
    one, path = network(), str(tmp_path / "detector.safetensors")
    normaliser = Normaliser.fit(one.embed(pixels(20)))
    detector_file.write(path, one, normaliser, {"step": 7})
    read: Detector = detector_file.read(path)
    assert isinstance(read, detector_file.LearnedDetector) and read.about == {"step": 7}
    assert (read.side, read.dims) == (32, 16)
    assert np.allclose(read.embed(pixels(4)), normaliser.centred(one.embed(pixels(4))), atol=1e-6)
    before = read.name
    detector_file.write(path, one, normaliser, {"step": 7})
    assert detector_file.read(path).name == before
    detector_file.write(path, network(1), normaliser, {"step": 7})
    assert detector_file.read(path).name != before


@pytest.mark.parametrize("data", [b"", b"x" * 7, b"\xff" * 100, json.dumps({}).encode()])
def test_what_is_no_detector_is_refused(tmp_path, data):
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match="is no detector"):
        detector_file.read(str(tmp_path / "x.safetensors"))
    with pytest.raises(ValueError, match="no such file"):
        detector_file.read(str(tmp_path / "y.safetensors"))


def test_weights_of_another_program_are_refused(tmp_path):
    from safetensors.torch import save

    (tmp_path / "x.safetensors").write_bytes(save({"a": torch.zeros(2)}))
    with pytest.raises(ValueError, match="format is None"):
        detector_file.read(str(tmp_path / "x.safetensors"))
