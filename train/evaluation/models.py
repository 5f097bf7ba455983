"""Checkpoints to evaluate: a training run's, or weights of OpenAI, open_clip and Hugging Face."""

import contextlib
import hashlib
from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline import storage
from train import checkpoint, flops, hf_tokenizer, weights
from train.evaluation.options import EvalConfig
from train.hf_tokenizer import AnyTokenizer
from train.model import CLIP, VisionTransformer
from train.tokenizer import installed_vocabulary


class ModelSource(NamedTuple):
    """The place of a model and its name; fields only."""

    name: str
    path: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoder:
    """Hold a model ready to encode, and who it is."""

    name: str
    path: str
    model: CLIP
    tokenizer: AnyTokenizer
    device: torch.device
    precision: str
    fingerprint: str
    """Of the weights and the vocabulary, hex."""

    @property
    def gflops(self) -> float:
        """Return billions of FLOPs of one image's forward pass; a multiply-add is two."""
        return flops.image_flops(self.model.architecture) / 1e9

    @property
    def size(self) -> int:
        """Return the side of the images, in pixels."""
        return self.model.architecture.image_size

    @property
    def scale(self) -> float:
        """Return the factor from cosines to logits."""
        return float(self.model.logit_scale.detach().exp())

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context to encode in."""
        if self.precision == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return contextlib.nullcontext()

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images [B, 3, N, N] to features [B, D] before the projection, and to unit vectors [B, E].

        Of a ViT the class position's features (section 3.2 measures probes on them); a ResNet's attention
        pool has no projection after it, so its output serves for both.
        """
        visual = self.model.visual
        features = visual.features(images) if isinstance(visual, VisionTransformer) else visual(images)
        outputs = features @ visual.proj if isinstance(visual, VisionTransformer) else features
        return features.float(), nn.functional.normalize(outputs.float(), dim=-1)


def sources(arguments: tuple[str, ...]) -> list[ModelSource]:
    """Return the checkpoints of PATH or NAME=PATH arguments, each under a name of its own; ValueError."""
    found = []
    for argument in arguments:
        name, equals, path = argument.partition("=")
        named = bool(equals and path) and "/" not in name and not storage.exists(argument)
        path = path if named else argument
        if not storage.exists(path):
            raise ValueError(f"--checkpoint {path}: no such file or folder")
        found.append(ModelSource(name if named else _default_name(path), path))
    twice = [name for name, count in Counter(one.name for one in found).items() if count > 1]
    if twice:
        raise ValueError(f"two checkpoints are called {twice[0]}: name them with --checkpoint NAME=PATH")
    return found


def _default_name(path: str) -> str:
    """Return a training run's model and step, else the file's or folder's name."""
    if not checkpoint.is_own(path):
        name = path.rstrip("/").rpartition("/")[2]
        return name if storage.is_folder(path) else storage.stem(name)
    state = checkpoint.read_state(checkpoint.find(path))
    return f"{state.model}-step-{state.step}"


def device_of(asked: str) -> torch.device:
    """Return the device asked for, auto, cuda or cpu; ValueError if there is none."""
    if asked not in ("auto", "cuda", "cpu"):
        raise ValueError(f"device must be auto, cuda or cpu, not {asked!r}")
    if asked == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch finds no GPU here")
    cuda = asked == "cuda" or (asked == "auto" and torch.cuda.is_available())
    return torch.device("cuda" if cuda else "cpu")


def load(source: ModelSource, config: EvalConfig) -> Encoder:
    """Load a checkpoint in evaluation mode; ValueError for anything that is none."""
    return ready(source, config.device, config.activation, config.vocab, config.precision)


def ready(
    source: ModelSource, device: str = "auto", activation: weights.Asked = "auto", vocab: str = "",
    precision: str = "fp32",
) -> Encoder:  # fmt: skip
    """Load a model in evaluation mode on a device; ValueError for anything that is none."""
    place = device_of(device)
    model, tokenizer = read(source.path, activation, vocab)
    scale = model.logit_scale.detach().exp()
    if not scale.isfinite():
        raise ValueError(f"{source.path}: the factor of its logits, exp(logit_scale), is infinite")
    fingerprint = fingerprint_of(model, tokenizer)
    return Encoder(
        name=source.name, path=source.path, model=model.to(place).eval(), tokenizer=tokenizer, device=place,
        precision=precision, fingerprint=fingerprint,
    )  # fmt: skip


def read(path: str, activation: weights.Asked = "auto", vocab: str = "") -> tuple[CLIP, AnyTokenizer]:
    """Return the model and the vocabulary of a training run, a checkpoint in it, or imported weights.

    activation, vocab: of imported weights; by default those of the files beside them. ValueError for anything
    that is none.
    """
    if checkpoint.is_own(path):
        loaded = checkpoint.load_model(path)
        return loaded.model, loaded.tokenizer
    found = weights.load(path, activation)
    beside = checkpoint.vocabulary_beside(path, found.architecture.vocab_size)
    vocabulary = Path(vocab) if vocab else beside or installed_vocabulary()
    if vocabulary is None:
        raise ValueError("CLIP's vocabulary is needed: give --vocab FILE, or pip install open_clip_torch")
    tokenizer = hf_tokenizer.load(vocabulary)
    if tokenizer.vocab_size != found.architecture.vocab_size:
        raise ValueError(
            f"{path} has {found.architecture.vocab_size} tokens, {vocabulary} {tokenizer.vocab_size}: "
            "give the weights' own vocabulary with --vocab FILE"
        )
    model = CLIP(found.architecture)
    model.load_state_dict(found.state)
    return model, tokenizer


def fingerprint_of(model: CLIP, tokenizer: AnyTokenizer) -> str:
    """Return a fingerprint, hex, of weights and vocabulary."""
    digest = hashlib.sha256(repr(model.architecture).encode() + tokenizer.to_bytes())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def describe(path: str) -> str:
    """Return the description of a checkpoint, without loading its weights."""
    if not checkpoint.is_own(path):
        file = weights.weights_file(Path(path))
        if file.suffix == ".safetensors":
            weights.header(str(file))
        return "weights to import"
    folder = checkpoint.find(path)
    state = checkpoint.read_state(folder)
    checkpoint.refuse_predictive(path, state)
    weights.refuse_others(checkpoint.weights_file(folder), state.architecture)
    return f"{state.model} after step {state.step:,}"
