"""A training run, for any objective: the facts known before its first step, and its result."""

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline import config as parser
from pipeline import storage
from pipeline.data.architectures import Recipe
from train import checkpoint, shard_sources
from train.cache import Cache
from train.caption_fields import CaptionFields
from train.data import Shape
from train.distributed import World
from train.optimizer import warmup_steps
from train.options import RunConfig
from train.sampler import Sampler


@dataclass(frozen=True, kw_only=True)
class Setup(ABC):
    """Hold the common start of every run."""

    config: RunConfig
    sampler: Sampler
    shape: Shape
    cache: Cache
    resumed: str
    """Folder of the checkpoint to go on from, or empty."""

    @cached_property
    def recipe(self) -> Recipe:
        """Return the hyper-parameters of this run."""
        return self.config.recipe()

    @cached_property
    def steps(self) -> int:
        """Return the steps of the whole run."""
        return self.config.planned_steps(self.shape.epoch_steps)

    @cached_property
    def warmup(self) -> int:
        """Return the steps of linear warm-up."""
        given = self.config.warmup
        return warmup_steps(self.recipe.warmup, self.steps) if given is None else given

    def effective(self) -> dict[str, Any]:
        """Return every option with the value that it has in this run."""
        values = parser.effective(self.config)
        recipe = {name: value for name, value in vars(self.recipe).items() if name in values}
        return values | recipe | {"warmup": self.warmup}

    def recorded(self) -> dict[str, Any]:
        """Return a checkpoint's record of the run that wrote it."""
        return self.effective()

    @abstractmethod
    def summary(self) -> str:
        """Return the plan in a sentence."""


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """Hold the outcome of a run."""

    out: str
    steps: int
    """Steps done."""
    planned: int
    """Steps of the whole run; more than `steps` if it was stopped."""
    complete: bool
    """Whether all was done that was asked for: every step, or --max-minutes."""
    loss: float
    seconds: float
    """Time trained, earlier parts of a resumed run included."""
    accuracy: dict[str, float] = field(default_factory=dict)
    """Accuracy after the last step, by --eval NAME."""
    chance: dict[str, float] = field(default_factory=dict)
    """Accuracy of always answering the commonest class, where there are classes."""
    counts: dict[str, int] = field(default_factory=dict)
    """Bad samples by reason, and pictures that were enlarged."""


def cache_of(config: RunConfig) -> Cache:
    """Return the place of local copies of remote shards."""
    return Cache(Path(config.cache) if config.cache else None, config.cache_gb << 30)


def find_sources(
    config: RunConfig, cache: Cache, *, captions: CaptionFields | None = shard_sources.OWN,
    draws: shard_sources.Draws | None = None,
) -> list[shard_sources.ShardSource]:  # fmt: skip
    """Find and count the samples, with captions in these fields unless None; ValueError if there are none."""
    return shard_sources.resolve(
        config.shards, config.weights, config.drop, config.keep, cache,
        keep_if=config.keep_if or "", captions=captions, draws=draws,
    )  # fmt: skip


def shape_of(config: RunConfig, sampler: Sampler, world: World) -> Shape:
    """Divide the steps over the processes; ValueError if it cannot be."""
    return Shape(
        batch=config.recipe().batch_size, ranks=world.ranks, rank=world.rank, accumulate=config.accumulate,
        epochs=sampler.epochs,
    )  # fmt: skip


def resumed_from(config: RunConfig) -> str:
    """Return the folder of the checkpoint to go on from, or empty; ValueError if a run is in the way."""
    out = config.out
    if not storage.exists(storage.join(out, "checkpoints", "latest")):
        return ""
    if not config.resume and not config.check:
        raise ValueError(f"--out {out} holds a training run: continue it with --resume, or give another")
    return checkpoint.find(out) if config.resume else ""


def refuse_changes(setup: Setup, *more: str) -> None:
    """Raise ValueError if the run to resume had other semantic options, or others under these names."""
    if not setup.resumed:
        return
    before = checkpoint.read_values(setup.resumed)["config"]
    recorded = setup.recorded()
    now = {name: list(value) if isinstance(value, tuple) else value for name, value in recorded.items()}
    names = (*setup.config.semantic, *more)
    # A run of before an option was there had its default.
    defaults = {one.name: one.default for one in fields(setup.config)}
    before = {name: list(v) if isinstance(v, tuple) else v for name, v in defaults.items()} | before
    changed = [name for name in names if before.get(name) != now.get(name)]
    if changed:
        raise ValueError(
            "--resume continues the same run, but these are others now: "
            + ", ".join(f"{name} (was {before.get(name)}, is {now.get(name)})" for name in changed)
            + "; train into another --out (openwit train starts from this one's weights with --init-from)"
        )


def default_workers(wanted: int | None, world: World) -> int:
    """Return how many processes decode for this process: its share of the CPUs; 1 where it trains on them."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if wanted is not None:
        return wanted
    return max(1, cpus // world.local_ranks) if world.device.type == "cuda" else min(1, cpus - 1)
