"""What must be known before the first step: samples, vocabulary, sizes, steps, weights to start from."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from train import checkpoint, interchange, run, sources, vocabulary
from train.architectures import ARCHITECTURES, Architecture
from train.cache import Cache
from train.config import TrainConfig
from train.distributed import World
from train.plan import Plan
from train.tokenizer import Tokenizer, installed_vocabulary

log = logging.getLogger("train")

_CAPTIONS = 1_000_000  # to learn a vocabulary from


@dataclass(frozen=True, kw_only=True)
class Prepared(run.Prepared):
    """Hold everything that training CLIP starts from."""

    config: TrainConfig
    architecture: Architecture
    tokenizer: Tokenizer
    initial: interchange.State | None
    """Weights to start from, or None."""

    def effective(self) -> dict[str, Any]:
        """Return every option with the value that it has in this run."""
        return super().effective() | {"image_size": self.architecture.image_size, "max_steps": self.steps}

    def recorded(self) -> dict[str, Any]:
        """Return what a checkpoint says of the run that wrote it."""
        return self.effective() | {"epoch_samples": self.plan.epoch_samples}

    def summary(self) -> str:
        """Return the plan in a sentence."""
        return (
            f"{self.config.model} at {self.architecture.image_size} pixels, {self.tokenizer.vocab_size:,} "
            f"tokens; {self.shape.epoch_steps:,} steps an epoch, {self.steps:,} in all, {self.warmup:,} of "
            f"warm-up; micro-batches of {self.shape.micro:,} on each of {self.shape.ranks} processes"
        )


def prepare(config: TrainConfig, world: World) -> Prepared:
    """Count samples, find or learn the vocabulary, divide the steps; ValueError if it cannot be."""
    cache, resumed = run.cache_of(config), run.resumed_from(config)
    start = _start(config) if config.init_from else None
    found, tokenizer = None, None
    if world.rank == 0:
        found = run.find_sources(config, cache)
        for source in found:
            sources.refuse_useless(source, cache)
        tokenizer = checkpoint.read_tokenizer(resumed) if resumed else _tokenizer(config, start, found, cache)
    found, tokenizer = world.share((found, tokenizer))
    assert found is not None and tokenizer is not None
    architecture = replace(ARCHITECTURES[config.model], vocab_size=tokenizer.vocab_size)
    if config.image_size:
        architecture = replace(architecture, image_size=config.image_size)
    initial = interchange.resize_positions(start.state, architecture.grid) if start else None
    if not config.enlarge:
        for source in found:
            sources.refuse_small(source, architecture.image_size, cache)
    plan = Plan(found, config.seed, config.shuffle)
    prepared = Prepared(
        config=config, architecture=architecture, tokenizer=tokenizer, plan=plan, cache=cache,
        shape=run.shape_of(config, plan, world), resumed=resumed, initial=initial,
    )  # fmt: skip
    run.refuse_changes(prepared, "epoch_samples")
    return prepared


class _Start(NamedTuple):
    """Hold weights to start from, and their vocabulary where it lies beside them."""

    state: interchange.State
    tokenizer: Tokenizer | None
    vocab_size: int


def _start(config: TrainConfig) -> _Start:
    try:
        folder = checkpoint.find(config.init_from)
    except ValueError:
        path = Path(config.init_from)
        if not path.exists():
            raise ValueError(f"--init-from {path}: no such file or folder") from None
        state = interchange.to_native(interchange.read_state(path))
        beside = (path if path.is_dir() else path.parent) / checkpoint.VOCABULARY
        tokenizer = Tokenizer.load(beside) if beside.exists() else None
    else:
        state = interchange.to_native(checkpoint.read_tensors(folder, "model.safetensors"))
        tokenizer = checkpoint.read_tokenizer(folder)
    architecture = interchange.architecture_of(state)
    wanted = ARCHITECTURES[config.model]
    same = replace(architecture, image_size=wanted.image_size, vocab_size=wanted.vocab_size)
    if same != wanted:
        raise ValueError(f"--init-from {config.init_from} holds no {config.model}, but {architecture}")
    return _Start(state, tokenizer, architecture.vocab_size)


def _tokenizer(
    config: TrainConfig, start: _Start | None,
    found: list[sources.Source], cache: Cache,
) -> Tokenizer:  # fmt: skip
    """Return the vocabulary asked for, that of the weights started from, or one learned from the captions."""
    if config.vocab and config.vocab != "clip":
        tokenizer = Tokenizer.load(Path(config.vocab))
    elif start is not None and start.tokenizer is not None:
        tokenizer = start.tokenizer
    elif config.vocab == "clip" or start is not None:
        path = installed_vocabulary()
        if path is None:
            raise ValueError("CLIP's vocabulary is needed: give --vocab FILE, or pip install open_clip_torch")
        tokenizer = Tokenizer.load(path)
    else:
        log.info("learning a vocabulary from the captions")
        counts = vocabulary.count_words(sources.captions(found, _CAPTIONS, cache))
        tokenizer = Tokenizer(vocabulary.learn_merges(counts))
    if start is not None and tokenizer.vocab_size != start.vocab_size:
        raise ValueError(
            f"--init-from {config.init_from} has {start.vocab_size} tokens, the vocabulary "
            f"{tokenizer.vocab_size}: give the weights' own with --vocab FILE"
        )
    return tokenizer
