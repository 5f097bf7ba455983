"""Encoders of others as detectors: the same vectors as in their own runtime, and nothing but vectors."""

import importlib.util
import json
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from dedup import distortions
from dedup.cli import main
from dedup.detector import encoder, torchscript_child
from dedup.detector.encoder import EncoderDetector
from tests.scenes import sample, scene, write_folder, write_run

SIDE = 32
PICTURES = np.stack([scene(n, SIDE, SIDE) for n in range(5)])
needs_onnx = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime") is None, reason="needs the extra openwit[onnx]"
)


class Mean(torch.nn.Module):
    """Means of 8 x 8 blocks: 48 numbers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(x, 8).flatten(1)


class Forever(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        while bool((x == x).all()):
            x = x + 1
        return x


class Reads(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.from_file("/etc/passwd", False, 48, dtype=torch.uint8).float() + x[:, 0, 0, :1]


def torchscript(folder: Path, module: torch.nn.Module, text: str = f"side = {SIDE}\n") -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would rather export in other ways
        torch.jit.save(torch.jit.script(module), str(folder / "encoder.pt"))
    (folder / "encoder.toml").write_text(text)
    return str(folder / "encoder.pt")


def field(number: int, value: int | bytes | str) -> bytes:
    """Return a field of a protocol buffer."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def onnx(folder: Path, *, kind: int = 1, shape: tuple[int | str, ...] = ("n", 3, SIDE, SIDE)) -> str:
    """Write an ONNX model equal to `Mean`; kind: 1 for float32, 2 for uint8 as it comes."""

    def tensor(name: str, of: int, sides: tuple[int | str, ...]) -> bytes:
        dims = b"".join(field(1, field(1 if isinstance(s, int) else 2, s)) for s in sides)
        return field(1, name) + field(2, field(1, field(1, of) + field(2, dims)))

    def node(kind: str, given: str, made: str, *attributes: bytes) -> bytes:
        named = field(1, given) + field(2, made) + field(4, kind)
        return field(1, named + b"".join(field(5, one) for one in attributes))

    def ints(name: str, *values: int) -> bytes:
        return field(1, name) + b"".join(field(8, value) for value in values) + field(20, 7)

    cast = field(1, "to") + field(3, 1) + field(20, 2)
    nodes = node("Cast", "x", "f", cast)
    nodes += node("AveragePool", "f", "p", ints("kernel_shape", 8, 8), ints("strides", 8, 8))
    nodes += node("Flatten", "p", "y")
    graph = nodes + field(2, "g") + field(11, tensor("x", kind, shape)) + field(12, tensor("y", 1, ("n", 48)))
    model = field(1, 8) + field(7, graph) + field(8, field(2, 13))
    (folder / "encoder.onnx").write_bytes(model)
    (folder / "encoder.toml").write_text(f"side = {SIDE}\n")
    return str(folder / "encoder.onnx")


def expected(pictures: np.ndarray, mean: float = 0, deviation: float = 1) -> np.ndarray:
    given = torch.from_numpy((pictures.astype(np.float32) / 255 - mean) / deviation).permute(0, 3, 1, 2)
    found = Mean()(given).numpy()
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_a_torchscript_encoder_gives_what_torch_gives(tmp_path):
    path = torchscript(
        tmp_path, Mean(), f"side = {SIDE}\nmean = [0.5, 0.5, 0.5]\ndeviation = [0.2, 0.2, 0.2]\n"
    )
    detector = EncoderDetector(path)
    assert (detector.dims, detector.side, len(detector.views)) == (48, SIDE, 1)
    assert np.allclose(detector.embed(PICTURES), expected(PICTURES, 0.5, 0.2), atol=1e-5)
    assert not detector.biases(detector.embed(PICTURES)).any()
    detector.close()


@needs_onnx
@pytest.mark.parametrize(
    ("kind", "shape"), [(1, ("n", 3, SIDE, SIDE)), (1, (2, 3, "h", "w")), (2, ("n", 3, "h", "w"))]
)
def test_an_onnx_encoder_gives_the_same(tmp_path, kind, shape):
    detector = EncoderDetector(onnx(tmp_path, kind=kind, shape=shape))
    assert np.allclose(detector.embed(PICTURES), expected(PICTURES), atol=1e-5)
    assert detector.embed(PICTURES[:0]).shape == (0, 48)
    text = f'side = {SIDE}\nmean = [0.5, 0.5, 0.5]\nsimilarity = "signs"\nviews = "all"\n'
    (tmp_path / "encoder.toml").write_text(text)
    other = EncoderDetector(detector.path)
    assert other.name != detector.name, "the settings count"
    if kind == 1:  # uint8 goes in as it is
        signs = np.where(expected(PICTURES, 0.5) > 0, 1, -1) / np.sqrt(48)
        assert np.allclose(other.embed(PICTURES), signs) and len(other.views) > 50
    for one in (detector, other):
        one.close()


@needs_onnx
def test_an_onnx_file_that_cannot_be_used_is_refused_in_one_line(tmp_path):
    path = Path(onnx(tmp_path))
    whole = path.read_bytes()
    (tmp_path / "encoder.toml").write_text("side = 64\n")
    refused(str(path), "but its TOML says side = 64")
    (tmp_path / "encoder.toml").write_text(f"side = {SIDE}\n")
    for damaged in (whole[: len(whole) // 2], b"", b"<html>", whole.replace(b"Flatten", b"Flattes")):
        path.write_bytes(damaged)
        refused(str(path), "cannot be used")
    refused(onnx(tmp_path, shape=("n", 5, SIDE, SIDE)), "instead of pictures")


def refused(path: str, said: str) -> None:
    with pytest.raises(ValueError) as error:
        detector = EncoderDetector(path)
        detector.embed(PICTURES)
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("module", "said"), [(Reads(), "Too many open files"), (Forever(), "took too long")])
def test_what_a_program_does_ends_in_its_process(tmp_path, monkeypatch, module, said):
    monkeypatch.setattr(encoder, "_SECONDS", 5.0 if "long" in said else 120.0)
    refused(torchscript(tmp_path, module), said)


class Answers:
    """A child that gives the answers it is told to give."""

    def __init__(self, fields: dict[str, object], data: bytes) -> None:
        self.answer = fields, data

    def ask(self, request: bytes) -> tuple[dict[str, object], bytes]:
        return self.answer

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("fields", "data", "said"),
    [
        ({"dims": 2}, np.array([np.nan, 1], "<f4").tobytes(), "not finite"),
        ({"dims": 1 << 20}, b"", "numbers per picture"),
        ({"dims": 3}, bytes(8), "numbers per picture"),
        ({"dims": True}, bytes(4), "numbers per picture"),
        ({}, b"", "numbers per picture"),
    ],
)
def test_an_answer_is_checked(tmp_path, monkeypatch, fields, data, said):
    monkeypatch.setattr(encoder, "Child", lambda *_, **__: Answers(fields, data))
    (tmp_path / "encoder.pt").write_bytes(b"")
    (tmp_path / "encoder.toml").write_text(f"side = {SIDE}\n")
    refused(str(tmp_path / "encoder.pt"), said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "there is no"),
        ("side = 32\nside", "encoder.toml: "),
        ("mean = [0, 0, 0]", "side is missing"),
        ("side = 4", "side must be a whole number from 8"),
        ("side = 32\nsize = 3", "'size' is none of side, mean"),
        ("side = 32\nmean = [1, 2]", "mean must be three numbers"),
        ("side = 32\ndeviation = [0, 1, 1]", "deviation must be above 0"),
        ("side = 32\nmean = 7", "encoder.toml: "),
        ('side = 32\nsimilarity = "l2"', "similarity must be cosine or signs"),
    ],
)
def test_settings_are_checked_before_anything_starts(tmp_path, text, said, capsys):
    (tmp_path / "encoder.pt").write_bytes(b"not looked at")
    if text is not None:
        (tmp_path / "encoder.toml").write_text(text)
    with pytest.raises(ValueError) as error:
        encoder.settings(str(tmp_path / "encoder.pt"))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_what_is_pickled_is_not_read(tmp_path):
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "touched",))

    torch.save({"state": Evil()}, tmp_path / "encoder.pt")
    settings = encoder.EncoderSettings(side=SIDE)
    for model, said in (
        ((tmp_path / "encoder.pt").read_bytes(), "it holds no program, as a pickled checkpoint does"),
        (pickle.dumps(Evil()), "it is no TorchScript archive"),
    ):
        with pytest.raises(ValueError, match=said):
            torchscript_child.answer(b"M" + model, settings)
    assert not (tmp_path / "touched").exists()


@needs_onnx
def test_an_encoder_finds_copies_beside_the_hashes(tmp_path):
    write_folder(tmp_path / "set", {f"a/{n}.jpg": scene(n) for n in range(6)})
    copies = [distortions.jpeg(scene(n), np.random.default_rng(n)) for n in range(4)]
    pictures = [*copies, *(scene(n) for n in range(600, 616))]
    samples = [sample(f"{n:09d}", rgb, f"https://a.test/{n}.jpg", "") for n, rgb in enumerate(pictures)]
    write_run(tmp_path / "run", [samples])
    path = onnx(tmp_path)
    (tmp_path / "encoder.toml").write_text(f"side = {SIDE}\nmean = [0.5, 0.5, 0.5]\n")
    arguments = ["--run", f"{tmp_path}/run", "--eval", f"set={tmp_path}/set", "--workers", "1",
                 "--planted", "0"]  # fmt: skip
    assert main([*arguments, "--out", f"{tmp_path}/out", "--detector", path]) == 0
    entry = json.loads((tmp_path / "out/report.json").read_text())["datasets"][0]
    assert entry["overlap"] == 4 and entry["detectors"]["learned"]["overlap"] == 4
