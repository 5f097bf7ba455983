"""The facts needed before the first step: samples, vocabulary, sizes, steps, weights to start from."""

import logging
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch

from pipeline.data.architectures import ARCHITECTURES, Activation, Architecture
from train import (
    checkpoint,
    convert_weights,
    flops,
    hf_tokenizer,
    shard_sources,
    training_run,
    vocabulary,
    weights,
)
from train.cache import Cache
from train.distributed import World
from train.hf_tokenizer import AnyTokenizer
from train.model import INITIAL_BIAS, INITIAL_SIGMOID_SCALE, Tower
from train.options import TrainConfig
from train.sampler import Sampler
from train.tokenizer import Tokenizer, installed_vocabulary
from train.weights import Weights

log = logging.getLogger("train")

_CAPTIONS = 1_000_000  # to learn a vocabulary from


@dataclass(frozen=True, kw_only=True)
class ClipSetup(training_run.Setup):
    """Hold everything that training CLIP starts from."""

    config: TrainConfig
    architecture: Architecture
    tokenizer: AnyTokenizer
    initial: convert_weights.State | None
    """Weights to start from, or None."""
    resize: Literal["workers", "device"]
    """Who resizes the pictures."""

    def effective(self) -> dict[str, Any]:
        """Return every option with the value that it has in this run."""
        own = {"image_size": self.architecture.image_size, "max_steps": self.steps, "resize": self.resize}
        return super().effective() | own

    def recorded(self) -> dict[str, Any]:
        """Return a checkpoint's record of the run that wrote it."""
        epochs = self.sampler.epochs
        return self.effective() | {"epoch_samples": epochs[0] if len(epochs) == 1 else epochs}

    def passes(self, tower: Tower) -> int:
        """Return a step's work in a tower, in forward passes: backward is two more, unless it is locked."""
        return 1 if self.config.lock == tower else 3

    @property
    def image_flops(self) -> float:
        """Return the floating-point operations of training on one picture."""
        return self.passes("image") * flops.image_flops(self.architecture, self.kept)

    @property
    def kept(self) -> int | None:
        """Return how many patches are kept of each picture, None for all."""
        share = self.config.patch_dropout
        return max(1, int(self.architecture.grid**2 * (1 - share))) if share else None

    def unlike_the_paper(self) -> list[str]:
        """Return the settings of runs smaller than the paper's, for the paper's models."""
        own: list[str] = []
        if self.config.model == "tiny":
            return own
        if not self.config.vocab and not self.config.init_from:
            own.append("a vocabulary of its own (CLIP's: --vocab clip)")
        if self.warmup != self.recipe.warmup:
            own.append(f"{self.warmup:,} steps of warm-up, not {self.recipe.warmup:,}")
        return own

    def summary(self) -> str:
        """Return the plan in a sentence."""
        more = [f"{self.image_flops / 1e9:,.1f} GFLOP a picture"]
        if self.kept:
            more[0] += f", of which {self.kept:,} of {self.architecture.grid**2:,} patches are looked at"
        if self.config.lock != "none":
            more.append(f"the {self.config.lock} tower is locked")
        if self.config.fsdp:
            more.append(f"each of {self.shape.ranks} processes holds its part of weights and moments")
        if self.config.ema is not None:
            more.append("weights averaged in a second copy")
        if own := self.unlike_the_paper():
            more.append(f"unlike the paper {' and '.join(own)}")
        return (
            f"{self.config.model} at {self.architecture.image_size} pixels, {self.tokenizer.vocab_size:,} "
            f"tokens; {_span(self.shape.epoch_steps)} steps per epoch, {self.steps:,} in all, "
            f"{self.warmup:,} of warm-up; micro-batches of {self.shape.micro:,} on each of "
            f"{self.shape.ranks} processes; " + "; ".join(more)
        )


def _span(numbers: tuple[int, ...]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def prepare(config: TrainConfig, world: World) -> ClipSetup:
    """Count samples, find or learn the vocabulary, divide the steps; ValueError if it cannot be."""
    cache, resumed = training_run.cache_of(config), training_run.resumed_from(config)
    start = _start(config) if config.init_from else None
    sources, tokenizer = None, None
    if world.rank == 0:
        draws = config.balance and shard_sources.Draws(
            cap=config.balance, seed=config.seed, epochs=config.recipe().epochs
        )
        fields = config.caption_fields
        sources = training_run.find_sources(config, cache, captions=fields, draws=draws or None)
        for source in sources:
            shard_sources.refuse_useless(source, cache, fields)
        tokenizer = (
            checkpoint.read_tokenizer(resumed) if resumed else _tokenizer(config, start, sources, cache)
        )
    sources, tokenizer = world.share((sources, tokenizer))
    assert sources is not None and tokenizer is not None
    architecture = replace(
        ARCHITECTURES[config.model], vocab_size=tokenizer.vocab_size,
        activation=_activation(config, resumed, start), logit_bias=config.loss == "siglip",
    )  # fmt: skip
    if config.image_size:
        architecture = replace(architecture, image_size=config.image_size)
    initial = _initial(start.weights.state, architecture) if start else None
    if not config.enlarge:
        for source in sources:
            shard_sources.refuse_small(source, architecture.image_size, cache)
    sampler = Sampler(sources, config.seed, config.shuffle)
    setup = ClipSetup(
        config=config, architecture=architecture, tokenizer=tokenizer, sampler=sampler, cache=cache,
        shape=training_run.shape_of(config, sampler, world), resumed=resumed, initial=initial,
        resize=_resize(config, resumed, world),
    )  # fmt: skip
    training_run.refuse_changes(setup, "epoch_samples")
    if architecture.is_resnet and config.patch_dropout:
        raise ValueError(f"--patch-dropout leaves out patches of a ViT, and {config.model} is a ResNet")
    if architecture.is_resnet and config.accumulate > 1 and world.rank == 0:
        log.warning(
            "--accumulate %d: %s has batch norms, which see micro-batches of %d: not quite the gradient of "
            "the whole batch (a ViT's is exact)", config.accumulate, config.model, setup.shape.micro,
        )  # fmt: skip
    return setup


class _Start(NamedTuple):
    """Hold weights to start from, and their vocabulary where it lies beside them."""

    weights: Weights
    tokenizer: AnyTokenizer | None


def _start(config: TrainConfig) -> _Start:
    path = config.init_from
    if checkpoint.is_own(path):
        folder = checkpoint.find(path)
        tensors, state = checkpoint.read_model(folder)
        found = Weights(tensors, state.architecture)
        tokenizer: AnyTokenizer | None = checkpoint.read_tokenizer(folder)
    else:
        try:
            found = weights.load(path, config.activation)
        except ValueError as error:
            raise ValueError(f"--init-from {error}") from error
        beside = checkpoint.vocabulary_beside(path, found.architecture.vocab_size)
        tokenizer = hf_tokenizer.load(beside) if beside else None
    wanted, own = ARCHITECTURES[config.model], found.architecture
    same = replace(
        own, image_size=wanted.image_size, vocab_size=wanted.vocab_size, activation=wanted.activation,
        logit_bias=wanted.logit_bias,
    )  # fmt: skip
    if same != wanted:
        raise ValueError(f"--init-from {config.init_from} holds no {config.model}, but {own}")
    return _Start(found, tokenizer)


def _initial(state: convert_weights.State, architecture: Architecture) -> convert_weights.State:
    """Return weights to start from with the positions and the scalars that the run has.

    A bias that the weights have not starts as SigLIP's does, and the scale with it: they belong together.
    """
    state = convert_weights.resize_positions(state, architecture.grid)
    if not architecture.logit_bias:
        return {name: value for name, value in state.items() if name != "logit_bias"}
    scalars = {"logit_scale": INITIAL_SIGMOID_SCALE, "logit_bias": INITIAL_BIAS}
    new = {} if "logit_bias" in state else {name: torch.tensor(value) for name, value in scalars.items()}
    return state | new


def _resize(config: TrainConfig, resumed: str, world: World) -> Literal["workers", "device"]:
    """Return who resizes: as in the run that is gone on with, else as asked for, else a GPU does."""
    asked = None if config.resize == "auto" else config.resize
    if resumed:
        found: Literal["workers", "device"] = checkpoint.read_values(resumed)["config"].get(
            "resize", "workers"
        )
        if asked not in (None, found):
            raise ValueError(f"--resize {asked}: {resumed} was trained with {found}: leave it out")
        return found
    on_gpu = world.device.type == "cuda" and config.crop == "paper"
    return asked or ("device" if on_gpu else "workers")


def _activation(config: TrainConfig, resumed: str, start: _Start | None) -> Activation:
    """Return the activation to train with: that of the initial weights, else that of the options."""
    asked = None if config.activation == "auto" else config.activation
    if resumed:
        found = checkpoint.read_state(resumed).architecture.activation
    elif start is not None:
        found = start.weights.architecture.activation
    else:
        return asked or "quick-gelu"
    if asked not in (None, found):
        raise ValueError(
            f"--activation {asked}: {resumed or config.init_from} was trained with {found}: leave it out"
        )
    return found


def _tokenizer(
    config: TrainConfig, start: _Start | None,
    sources: list[shard_sources.ShardSource], cache: Cache,
) -> AnyTokenizer:  # fmt: skip
    """Return the vocabulary asked for, that of the weights started from, or one learned from the captions."""
    if config.vocab and config.vocab != "clip":
        tokenizer: AnyTokenizer = hf_tokenizer.load(config.vocab)
    elif start is not None and start.tokenizer is not None:
        tokenizer = start.tokenizer
    elif config.vocab == "clip" or start is not None:
        path = installed_vocabulary()
        if path is None:
            raise ValueError("CLIP's vocabulary is needed: give --vocab FILE, or pip install open_clip_torch")
        tokenizer = Tokenizer.load(path)
    else:
        log.info("learning a vocabulary from the captions")
        captions = shard_sources.captions(sources, _CAPTIONS, cache, config.caption_fields)
        counts = vocabulary.count_words(captions)
        tokenizer = Tokenizer(vocabulary.learn_merges(counts))
    if start is not None and tokenizer.vocab_size != start.weights.architecture.vocab_size:
        raise ValueError(
            f"--init-from {config.init_from} has {start.weights.architecture.vocab_size} tokens, the "
            f"vocabulary {tokenizer.vocab_size}: give the weights' own with --vocab FILE"
        )
    return tokenizer
