"""What must be known before the first step: samples, vocabulary, sizes, steps, weights to start from."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import config as options
from pipeline import storage
from train import checkpoint, interchange, sources, vocabulary
from train.architectures import ARCHITECTURES, Architecture, Recipe
from train.cache import Cache
from train.config import TrainConfig
from train.data import Shape
from train.distributed import World
from train.plan import Plan
from train.tokenizer import Tokenizer, installed_vocabulary

log = logging.getLogger("train")

_CAPTIONS = 1_000_000  # to learn a vocabulary from
# Options that decide what is learned: a run is resumed with the same ones.
_SEMANTIC = (
    "shards", "model", "image_size", "batch_size", "epochs", "max_steps", "lr", "warmup", "weight_decay",
    "beta1", "beta2", "eps", "grad_clip", "seed", "weights", "drop", "keep", "crop", "enlarge", "shuffle",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Hold everything that training starts from."""

    config: TrainConfig
    recipe: Recipe
    architecture: Architecture
    tokenizer: Tokenizer
    plan: Plan
    shape: Shape
    cache: Cache
    steps: int
    warmup: int
    resumed: str
    """Folder of the checkpoint to go on from, or empty."""
    initial: interchange.State | None
    """Weights to start from, or None."""

    def effective(self) -> dict[str, Any]:
        """Return every option with the value that it has in this run."""
        values = options.effective(self.config) | vars(self.recipe)
        values |= {"image_size": self.architecture.image_size, "warmup": self.warmup}
        return values | {"max_steps": self.steps}


def prepare(config: TrainConfig, world: World) -> Prepared:
    """Count samples, find or learn the vocabulary, divide the steps; ValueError if it cannot be."""
    cache = Cache(Path(config.cache) if config.cache else None, config.cache_gb << 30)
    resumed = resumed_from(config.out, config.resume, config.check)
    start = _start(config) if config.init_from else None
    found, tokenizer = None, None
    if world.rank == 0:
        found = sources.resolve(config.shards, config.weights, config.drop, config.keep, cache)
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
    recipe = config.recipe()
    plan = Plan(found, config.seed, config.shuffle)
    shape = Shape(
        batch=recipe.batch_size, ranks=world.ranks, rank=world.rank, accumulate=config.accumulate,
        epoch_samples=plan.epoch_samples,
    )  # fmt: skip
    steps = recipe.epochs * shape.epoch_steps
    steps = min(steps, config.max_steps) if config.max_steps else steps
    warmup = min(recipe.warmup, steps // 10) if config.warmup is None else config.warmup
    prepared = Prepared(
        config=config, recipe=recipe, architecture=architecture, tokenizer=tokenizer, plan=plan, shape=shape,
        cache=cache, steps=steps, warmup=warmup, resumed=resumed, initial=initial,
    )  # fmt: skip
    if resumed:
        now = prepared.effective() | {"epoch_samples": plan.epoch_samples}
        refuse_changes(resumed, now, (*_SEMANTIC, "epoch_samples"))
    return prepared


def resumed_from(out: str, resume: bool, check: bool) -> str:
    """Return the folder of the checkpoint to go on from, or empty; ValueError if a run is in the way."""
    folder = storage.join(out, "checkpoints")
    if not storage.exists(storage.join(folder, "latest")):
        return ""
    if not resume and not check:
        raise ValueError(f"--out {out} holds a training run: continue it with --resume, or give another")
    return checkpoint.find(out) if resume else ""


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


def refuse_changes(resumed: str, now: dict[str, Any], names: Sequence[str]) -> None:
    """Raise ValueError if the run to resume had other values under these names."""
    before = checkpoint.read_values(resumed)["config"]
    now = {name: list(value) if isinstance(value, tuple) else value for name, value in now.items()}
    changed = [name for name in names if before.get(name) != now.get(name)]
    if changed:
        raise ValueError(
            "--resume continues the same run, but these are others now: "
            + ", ".join(f"{name} (was {before.get(name)}, is {now.get(name)})" for name in changed)
            + "; train into another --out, with --init-from this one if wanted"
        )


def default_workers(wanted: int | None, world: World) -> int:
    """Return how many processes decode for this one: its share of the CPUs; one where it trains on them."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if wanted is not None:
        return wanted
    return max(1, cpus // world.local_ranks) if world.device.type == "cuda" else min(1, cpus - 1)
