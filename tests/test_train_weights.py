"""Weights of any origin: damage is one sentence, and declared sizes are checked before memory is taken."""

import gzip
import io
import json
import os
import pickle
import re
import stat
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save, save_file

from dedup.detector import detector_file as detector_weights
from dedup.detector.model import DetectorNetwork, ResNetArchitecture
from dedup.detector.normalise import Normaliser
from tests import eval_models
from tests.test_train_model import SMALL_RESNET, SMALL_VIT, scrambled
from train import checkpoint, cli, convert_weights, weights
from train.evaluation import models
from train.evaluation.options import EvalConfig
from train.model import CLIP, MLP, QuickGELU
from train.tokenizer import Tokenizer

State = dict[str, torch.Tensor]


def torch_bytes(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def script() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), buffer)
    return buffer.getvalue()


def header_of(tensors: dict[str, Any], data: bytes = b"") -> bytes:
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text + data


def deflated(data: bytes) -> bytes:
    """The same archive with its parts compressed: a kilobyte may stand for gigabytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for one in old.infolist():
            new.writestr(one.filename, old.read(one))
    return buffer.getvalue()


class Evil:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, ("touch /tmp/openwit-test-ran",)


def without(state: State, *names: str) -> State:
    return {name: value for name, value in state.items() if name not in names}


def wide(state: State) -> State:
    """A tensor of a million million numbers, of which a single number is stored."""
    return state | {"token_embedding.weight": torch.zeros(1).expand(1_000_000, 1_000_000)}


DAMAGE: dict[str, tuple[str, Callable[[State], bytes], str]] = {
    "lfs": ("safetensors", lambda s: b"version https://git-lfs.github.com/spec/v1\noid sha256:a\nsize 3\n",
            "is a pointer of git-lfs, not the weights: fetch them with `git lfs pull`"),
    "lfs pt": ("pt", lambda s: b"version https://git-lfs.github.com/spec/v1\noid sha256:a\n", "git-lfs"),
    "page": ("pt", lambda s: b"\n<!DOCTYPE html><html>404", "is a web page, not weights"),
    "page st": ("safetensors", lambda s: b"<html>404</html>", "is a web page, not weights"),
    "json": ("safetensors", lambda s: b'{"error": "Repository not found"}', "is JSON, not weights"),
    "empty": ("safetensors", lambda s: b"", "is empty"),
    "short": ("safetensors", lambda s: b"abc", "is no safetensors file"),
    "long header": ("safetensors", lambda s: struct.pack("<Q", 1 << 40) + b"{}", "its header would have"),
    "cut header": ("safetensors", lambda s: save(s)[:100], "is cut in its header"),
    "cut": ("safetensors", lambda s: save(s)[:-5], "is cut: .* bytes where its header has"),
    "longer": ("safetensors", lambda s: save(s) + b"x", "is longer than it says"),
    "no json": ("safetensors", lambda s: struct.pack("<Q", 4) + b"{{{{", "is no safetensors file"),
    "deep": ("safetensors", lambda s: struct.pack("<Q", 90_001) + b"{" + b"[" * 90_000, "nested too deeply"),
    "list": ("safetensors", lambda s: struct.pack("<Q", 2) + b"[]", "is no safetensors file"),
    "type": ("safetensors", lambda s: header_of({"a": {"dtype": "X", "shape": [], "data_offsets": [0, 0]}}),
             "a has the type 'X'"),
    "shape": ("safetensors", lambda s: header_of({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}
                                                  },
                                                 b"1234"), "a takes 4 bytes, which its shape does not"),
    "negative": ("safetensors", lambda s: header_of({"a": {"dtype": "F32", "shape": [-1],
                                                           "data_offsets": [0, -4]}}), "is not valid"),
    "overlap": ("safetensors", lambda s: header_of({
        "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        "c": {"dtype": "F32", "shape": [1], "data_offsets": [8, 12]}}, b"0" * 12), "overlap or leave gaps"),
    "cut zip": ("pt", lambda s: torch_bytes(s)[:-200], "is cut or damaged: the download is not whole"),
    "deflated": ("pt", lambda s: deflated(torch_bytes(s)), "its parts are compressed"),
    "script": ("pt", lambda s: script(), "is a TorchScript archive, which is a program"),
    "objects": ("pt", lambda s: pickle.dumps(Evil()), "pickle of objects, which is a program and is not run"),
    "noise": ("pt", lambda s: b"\x93\x01" * 300, "is not a plain file of weights"),
    "number": ("pt", lambda s: torch_bytes(3), "holds no weights by name, but int"),
    "sparse": ("pt", lambda s: torch_bytes(s | {"ln_final.bias": torch.ones(3).to_sparse()}), "no plain"),
    "wide": ("pt", lambda s: torch_bytes(wide(s)), "token_embedding.weight is larger than its stored bytes"),
    "other": ("safetensors", lambda s: save({"encoder.weight": torch.zeros(2)}), "not CLIP's weights in Op"),
    "missing": ("pt", lambda s: torch_bytes(without(s, "ln_final.bias")),
                "is not whole: it lacks ln_final.bias"),
    "missing width": ("pt", lambda s: torch_bytes(without(s, "ln_final.weight")),
                      "lacks 'ln_final.weight'"),
    "siglip": ("pt", lambda s: torch_bytes(s | {"logit_bias": torch.zeros(3)}),
               r"logit_bias has the shape \[3\] where \[\] is wanted"),
    "misshapen": ("safetensors", lambda s: save(s | {"ln_final.bias": torch.zeros(7)}),
                  r"ln_final.bias has the shape \[7\] where \[128\] is wanted"),
    "flat": ("safetensors", lambda s: save(s | {"visual.conv1.weight": torch.zeros(8)}),
             "no CLIP of these layouts"),
    "integers": ("safetensors", lambda s: save(s | {"ln_final.bias": torch.zeros(128, dtype=torch.int32)}),
                 "ln_final.bias has the type torch.int32"),
    "nan": ("safetensors", lambda s: save(s | {"ln_final.bias": torch.full((128,), float("nan"))}),
            "ln_final.bias holds numbers that are not finite"),
    "infinite half": ("pt", lambda s: torch_bytes(
        {n: value.half() for n, value in s.items()} | {"text_projection": torch.full((128, 64), 1e9).half()}
    ), "text_projection holds numbers that are not finite"),
}  # fmt: skip


@pytest.fixture(scope="module")
def state() -> State:
    return eval_models.model().state_dict()


@pytest.mark.parametrize("kind", DAMAGE)
def test_every_damage_is_one_sentence_that_names_the_file(kind: str, state: State, tmp_path: Path) -> None:
    suffix, make, said = DAMAGE[kind]
    path = tmp_path / f"model.{suffix}"
    path.write_bytes(make(state))
    for given in (path, tmp_path):
        with pytest.raises(ValueError, match=said) as raised:
            weights.load(str(given))
        assert str(path) in str(raised.value) and "\n" not in str(raised.value)
    assert not Path("/tmp/openwit-test-ran").exists()


def test_what_trainers_wrap_around_weights_is_taken_off(state: State, tmp_path: Path) -> None:
    def named(prefix: str) -> State:
        return {prefix + name: value for name, value in state.items()}

    for value in (
        {"epoch": 3, "name": "x", "state_dict": named("module."), "optimizer": {"a": 1}},
        {"state_dict": named("module._orig_mod.")}, {"model": state}, {"model_state_dict": named("model.")},
        {"state_dict": {"model": named("clip.")}}, state | {"logit_scale": state["logit_scale"].reshape(1)},
    ):  # fmt: skip
        torch.save(value, tmp_path / "m.pt")
        found = weights.load(str(tmp_path / "m.pt")).state
        assert found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in state)
    with pytest.raises(ValueError, match="no such file or folder"):
        weights.load(str(tmp_path / "none"))
    with pytest.raises(ValueError, match="must lie on this machine"):
        weights.load("s3://bucket/model.pt")


# ---- configurations


def exact(folder: Path, activation: str = "gelu", layout: str = "open_clip") -> Path:
    """Write a model of random weights with this activation."""
    own = eval_models.model()
    architecture = replace(own.architecture, activation=activation)  # type: ignore[arg-type]
    convert_weights.export(own.state_dict(), architecture, eval_models.tokenizer(), layout, folder)
    return folder


@pytest.mark.parametrize("layout", ["open_clip", "hf"])
@pytest.mark.parametrize("activation", ["gelu", "quick-gelu"])
def test_an_export_says_its_activation_and_is_read_back(activation: str, layout: str, tmp_path: Path) -> None:
    folder = exact(tmp_path / "x", activation, layout)
    assert weights.load(str(folder)).architecture.activation == activation
    assert weights.load(str(folder), "gelu").architecture.activation == "gelu", "who asks gets it"
    config = EvalConfig(task=("zeroshot",), out="x", checkpoint=("a",), data=("n=p",))
    encoder = models.load(models.ModelSource("m", str(folder)), config)
    quick = {type(module.gelu) is QuickGELU for module in encoder.model.modules() if isinstance(module, MLP)}
    assert quick == {activation == "quick-gelu"}


def test_openais_layout_has_no_exact_gelu(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="knows only quick-gelu"):
        exact(tmp_path / "x", layout="openai")
    assert not (tmp_path / "x").exists()


def test_what_is_assumed_without_a_configuration_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    exact(tmp_path / "x", "quick-gelu", "openai")
    assert weights.load(str(tmp_path / "x")).architecture.activation == "quick-gelu"
    assert "OpenAI's quick-gelu is assumed" in caplog.text
    caplog.clear()
    assert weights.load(str(tmp_path / "x/model.pt"), "gelu").architecture.activation == "gelu"
    weights.load(str(exact(tmp_path / "y")))
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("layout", "key", "value", "said"),
    [
        ("open_clip", "model_cfg.vision_cfg.timm_model_name", "vit", "asks for model_cfg.vision_cfg.timm_"),
        ("open_clip", "model_cfg.custom_text", True, "asks for model_cfg.custom_text = true, which "),
        ("open_clip", "model_cfg.text_cfg.heads", 4, "text_cfg.heads = 4, and openwit's CLIP has 2"),
        ("open_clip", "model_cfg.text_cfg.tokenizer_kwargs", {"clean": "x"}, "tokenizer_kwargs"),
        ("open_clip", "model_cfg.vision_cfg.head_width", 32, "head_width = 32"),
        ("open_clip", "preprocess_cfg.resize_mode", "squash", "resize_mode = \"squash\", and openwit's"),
        ("open_clip", "preprocess_cfg.std", [1, 1, 1], "preprocess_cfg.std"),
        ("hf", "text_config.num_attention_heads", 8, "text_config.num_attention_heads = 8"),
        ("hf", "vision_config.hidden_act", "gelu", "asks for the activation gelu and quick_gelu"),
        ("hf", "vision_config.layer_norm_eps", 1e-6, "layer_norm_eps"),
        ("hf", "model_type", "siglip", "model_type = \"siglip\""),
    ],
)  # fmt: skip
def test_a_configuration_of_another_model_is_refused(
    layout: str, key: str, value: object, said: str, tmp_path: Path
) -> None:
    folder = exact(tmp_path / "x", "quick-gelu", layout)
    path = folder / ("config.json" if layout == "hf" else "open_clip_config.json")
    given = inner = json.loads(path.read_text())
    *groups, name = key.split(".")
    for group in groups:
        inner = inner[group]
    inner[name] = None  # off, as null says
    path.write_text(json.dumps(given))
    weights.load(str(folder))
    inner[name] = value
    path.write_text(json.dumps(given))
    with pytest.raises(ValueError, match=re.escape(said)) as raised:
        weights.load(str(folder))
    assert str(path) in str(raised.value)


# ---- our own checkpoints


def spoil(folder: Path, **values: object) -> None:
    path = folder / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def sizes(folder: Path, **values: object) -> None:
    spoil(folder, architecture=json.loads((folder / "state.json").read_text())["architecture"] | values)


OWN: dict[str, tuple[Callable[[Path], object], str]] = {
    "tokens": (lambda f: sizes(f, vocab_size=2_000_000_000), "vocab_size is 2000000000 there and"),
    "width": (lambda f: sizes(f, vision_width=60_000), "vision_width is 60000 there and 128 in the weights"),
    "layers": (lambda f: sizes(f, text_layers=3_000_000), "text_layers is 3000000 there and"),
    "resnet": (lambda f: sizes(f, vision_layers=[1, 1, 1, 1]), "does not fit|not hold the architecture"),
    "three": (lambda f: sizes(f, vision_layers=[1, 1, 1]), "does not hold the architecture of a CLIP"),
    "text": (lambda f: sizes(f, text_width="64"), "does not hold the architecture of a CLIP"),
    "zero": (lambda f: sizes(f, patch_size=0), "does not hold the architecture of a CLIP"),
    "unknown": (lambda f: sizes(f, colour=1), "does not hold the architecture of a CLIP"),
    "activation": (lambda f: sizes(f, activation="relu"), "the activation 'relu' is not one of openwit's"),
    "step": (lambda f: spoil(f, step="7"), "is not the state of a checkpoint: it has no usable 'step'"),
    "counts": (lambda f: spoil(f, counts={"a": "b"}), "is not the state of a checkpoint"),
    "list": (lambda f: (f / "state.json").write_text("[]"), "is not the state of a checkpoint"),
    "no json": (lambda f: (f / "state.json").write_text("<html>"), "state.json is not JSON"),
    "deep": (lambda f: (f / "state.json").write_text("[" * 200_000), "state.json is not JSON: nested"),
    "cut": (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]),
            "model.safetensors is cut"),
    "gone": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors: no such file"),
    "nan": (lambda f: save_file(
        load_file(f / "model.safetensors") | {"ln_final.bias": torch.full((128,), torch.nan)},
        f / "model.safetensors",
    ), "ln_final.bias holds numbers that are not finite"),
    "vocabulary": (lambda f: (f / "bpe_vocab.txt.gz").write_bytes(gzip.compress(b"#version: 0.2\na b")),
                   "bpe_vocab.txt.gz has .* tokens, the weights beside it"),
    "cut vocabulary": (
        lambda f: (f / "bpe_vocab.txt.gz").write_bytes((f / "bpe_vocab.txt.gz").read_bytes()[:60]),
        "bpe_vocab.txt.gz is no vocabulary",
    ),
    "bomb": (lambda f: (f / "bpe_vocab.txt.gz").write_bytes(gzip.compress(b"a b\n" * (8 << 20))),
             "bpe_vocab.txt.gz is no vocabulary.* more than"),
    "no vocabulary": (lambda f: (f / "bpe_vocab.txt.gz").unlink(), "there is no such vocabulary"),
    "latest": (lambda f: (f.parent / "latest").write_text("../../elsewhere"), "latest names no checkpoint"),
    "latest gone": (lambda f: (f.parent / "latest").write_text("step-00000099"), "which is missing or"),
}  # fmt: skip


@pytest.mark.parametrize("kind", OWN)
def test_every_damage_of_a_checkpoint_is_one_sentence(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = eval_models.training_run(tmp_path / "run")
    [folder] = (run / "checkpoints").glob("step-*")
    harm, said = OWN[kind]
    harm(folder)
    with pytest.raises(ValueError, match=said) as raised:
        checkpoint.load_model(str(run))
    assert str(run) in str(raised.value) and "\n" not in str(raised.value)
    config = EvalConfig(task=("zeroshot",), out="x", checkpoint=("a",), data=("n=p",))
    with pytest.raises(ValueError, match=said):
        models.load(models.ModelSource("m", str(run)), config)
    assert cli.export_main(["--checkpoint", str(run), "--format", "hf", "--out", str(tmp_path / "x")]) == 2
    assert re.search(said, capsys.readouterr().err) and not (tmp_path / "x").exists()


def test_older_checkpoints_have_quick_gelu_and_a_folder_may_have_brackets(tmp_path: Path) -> None:
    run = eval_models.training_run(tmp_path / "run [1]")
    [folder] = (run / "checkpoints").glob("step-*")
    values = json.loads((folder / "state.json").read_text())
    del values["architecture"]["activation"]
    (folder / "state.json").write_text(json.dumps(values))
    assert checkpoint.load_model(str(run)).model.architecture.activation == "quick-gelu"
    assert checkpoint.complete(str(run / "checkpoints")) == [folder.name]


def test_restoring_takes_only_what_is_of_the_same_run(tmp_path: Path) -> None:
    model = scrambled(SMALL_VIT)
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    writer = checkpoint.Writer(str(tmp_path), {}, 3)
    facts: dict[str, Any] = {"model": "m", "seconds": 1.0, "counts": {}, "config": {}}
    moments = checkpoint.moments(model, optimizer)
    kept = {"model": checkpoint.copies(model.state_dict()), "optimizer": checkpoint.copies(moments)}
    writer.save(lambda: kept, checkpoint.State(step=1, architecture=SMALL_VIT, **facts))
    writer.wait()
    folder = tmp_path / "checkpoints/step-00000001"
    fresh = CLIP(SMALL_VIT)
    fresh.load_state_dict(checkpoint.read_like(str(folder), "model", fresh.state_dict()))
    checkpoint.restore_moments(str(folder), fresh, torch.optim.AdamW(fresh.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), model.parameters(), strict=True))
    other = CLIP(SMALL_RESNET)
    with pytest.raises(ValueError, match=r"model.safetensors: visual.conv1.weight has the shape"):
        checkpoint.read_like(str(folder), "model", other.state_dict())
    moments = load_file(folder / "optimizer.safetensors")
    for spoilt, said in (
        (
            without(moments, "step.ln_final.bias"),
            "optimizer.safetensors is not whole: it lacks step.ln_final.bias",
        ),
        (
            moments | {"exp_avg.ln_final.bias": torch.full((128,), torch.inf)},
            "optimizer.safetensors: .* not finite",
        ),
        (moments | {"exp_avg.ln_final.bias": torch.zeros(1)}, "optimizer.safetensors: .* has the shape"),
    ):
        save_file(spoilt, folder / "optimizer.safetensors")
        with pytest.raises(ValueError, match=said):
            checkpoint.restore_moments(str(folder), fresh, torch.optim.AdamW(fresh.parameters()))


# ---- the detector's file


def test_a_detectors_file_is_believed_only_where_its_tensors_agree(tmp_path: Path) -> None:
    architecture = ResNetArchitecture(side=32, layers=(1, 1, 1, 1), width=8, dims=16)
    normaliser = Normaliser(np.zeros(16, np.float32), np.ones((20, 16), np.float32))
    path = str(tmp_path / "d.safetensors")
    detector_weights.write(path, DetectorNetwork(architecture), normaliser, {"step": 1})
    assert detector_weights.read(path).dims == 16
    good = load_file(path)
    facts = json.loads(weights.header(path).metadata["openwit"])

    def refused(said: str, tensors: State | None = None, **changed: object) -> None:
        about = facts | {"architecture": facts["architecture"] | changed}
        save_file(tensors or good, path, {"openwit": json.dumps(about)})
        with pytest.raises(ValueError, match=f"--detector .*d.safetensors is no detector.*{said}"):
            detector_weights.read(path)

    refused("has the shape", width=1 << 20)
    refused("layers in", layers=[1_000_000_000 >> 8, 1, 1, 1])
    refused("its sizes are not valid", layers=[1, 1, 1])
    refused("its sizes are not valid", dims=0)
    refused("its sizes are not valid", side="32")
    refused("not of 16 numbers", good | {"mean": torch.zeros(3)})
    refused("not finite", good | {"mean": torch.full((16,), torch.nan)})
    refused("mean", without(good, "mean"))
    refused("lacks head.bias", without(good, "network.head.bias"))
    (tmp_path / "d.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match="pointer of git-lfs"):
        detector_weights.read(path)


# ---- modes of files


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
@pytest.mark.parametrize("layout", convert_weights.FORMATS)
def test_exported_files_are_as_open_as_the_umask_says(
    layout: str, umask: int, mode: int, tmp_path: Path
) -> None:
    before = os.umask(umask)
    try:
        exact(tmp_path / "x", "quick-gelu", layout)
    finally:
        os.umask(before)
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "x").iterdir()}
    assert set(found.values()) == {mode}, found


def test_vocabularies_of_any_damage_are_named(tmp_path: Path) -> None:
    path = tmp_path / "v.txt"
    for data in (b"\x1f\x8bgarbage", gzip.compress(b"a b\n")[:-4], b"\xff\xfe\x00", b"x" * (17 << 20)):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"v.txt is no vocabulary"):
            Tokenizer.load(path)
