"""Train the detector with the loop, loader, loss and checkpoints of CLIP's own training."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from dedup import evalsets
from dedup.detector import augment, curve, weights
from dedup.detector.model import ARCHITECTURES, Architecture, Network, OnPairs
from dedup.detector.normalise import Normaliser
from dedup.detector.options import SAMPLES, DetectorTrainConfig
from dedup.detector.pairs import PairBatch, Pairs
from dedup.views import inner, squeeze
from pipeline import config as options
from pipeline import storage
from train import checkpoint, distributed, flops, images, sources
from train.architectures import Recipe
from train.cache import Cache
from train.data import Shape, load
from train.distributed import World
from train.loss import count_equal_pairs
from train.plan import Plan
from train.prepare import default_workers, refuse_changes, resumed_from
from train.report import Report, peak_memory_gb
from train.steps import Schedule, Stepper, take_steps

log = logging.getLogger("train")

DETECTOR: Final = "detector.safetensors"
_INITIAL: Final = 256  # photographs by which gains and biases are set
_PROXY: Final = 1_712  # photographs of an evaluation at most: the paper's batch
# Options that decide what is learned: a run is resumed with the same ones.
_SEMANTIC: Final = (
    "shards", "model", "image_size", "batch_size", "samples", "lr", "warmup", "weight_decay", "grad_clip",
    "seed", "weights", "drop", "keep", "shuffle",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class State:
    """Hold what a run needs to go on, beside weights and moments."""

    step: int
    model: str
    architecture: Architecture
    seconds: float
    counts: dict[str, int]
    config: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Hold everything that training starts from."""

    config: DetectorTrainConfig
    architecture: Architecture
    recipe: Recipe
    plan: Plan
    shape: Shape
    cache: Cache
    steps: int
    warmup: int
    resumed: str
    """Folder of the checkpoint to go on from, or empty."""

    def effective(self) -> dict[str, Any]:
        """Return every option with the value that it has in this run."""
        values = options.effective(self.config)
        recipe = {name: value for name, value in vars(self.recipe).items() if name in values}
        sizes = {"image_size": self.architecture.side, "warmup": self.warmup}
        return values | recipe | sizes | {"samples": self.steps * self.shape.batch}


@dataclass(frozen=True, kw_only=True)
class Result:
    """Say what a run came to."""

    detector: str
    """The file that was written, if all was done."""
    steps: int
    planned: int
    complete: bool
    loss: float
    seconds: float
    accuracy: dict[str, float] = field(default_factory=dict)
    """How often a view finds its other view, by --eval NAME."""
    counts: dict[str, int] = field(default_factory=dict)


def prepare(config: DetectorTrainConfig, world: World) -> Prepared:
    """Count images and divide the steps; ValueError if it cannot be."""
    cache = Cache(Path(config.cache) if config.cache else None, config.cache_gb << 30)
    resumed = resumed_from(config.out, config.resume, config.check)
    found = None
    if world.rank == 0:
        found = sources.resolve(config.shards, config.weights, config.drop, config.keep, cache)
    found = world.share(found)
    assert found is not None
    architecture = ARCHITECTURES[config.model]
    if config.image_size:
        architecture = replace(architecture, side=config.image_size)
    recipe = config.recipe()
    plan = Plan(found, config.seed, config.shuffle)
    shape = Shape(
        batch=recipe.batch_size, ranks=world.ranks, rank=world.rank, accumulate=config.accumulate,
        epoch_samples=plan.epoch_samples,
    )  # fmt: skip
    steps = max(1, (config.samples or SAMPLES[config.model]) // recipe.batch_size)
    warmup = min(recipe.warmup, steps // 10) if config.warmup is None else config.warmup
    prepared = Prepared(
        config=config, architecture=architecture, recipe=recipe, plan=plan, shape=shape, cache=cache,
        steps=steps, warmup=warmup, resumed=resumed,
    )  # fmt: skip
    if resumed:
        refuse_changes(resumed, prepared.effective(), _SEMANTIC)
    return prepared


class Trainer(Stepper[PairBatch]):
    """Hold a run of the detector in progress."""

    model: Network

    def __init__(self, prepared: Prepared, world: World) -> None:
        self.prepared, config = prepared, prepared.config
        cuda = world.device.type == "cuda"
        network = Network(prepared.architecture)
        if not prepared.resumed:
            network.initialise(config.seed, torch.from_numpy(thumbnails(prepared, _INITIAL)))
        network.trunk.checkpointing = config.checkpointing
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if cuda if config.compile is None else config.compile:
            network.compile()
        self.on_pairs = OnPairs(network)
        schedule = Schedule(
            recipe=prepared.recipe, steps=prepared.steps, warmup=prepared.warmup,
            grad_clip=config.grad_clip, log_every=config.log_every,
            checkpoint_every=config.checkpoint_every, eval_every=config.eval_every,
        )  # fmt: skip
        bf16 = cuda if config.precision == "auto" else config.precision == "bf16"
        super().__init__(network, self.on_pairs, world, schedule, prepared.resumed, bf16)

    def state(self) -> State:
        """Return what a checkpoint holds beside the tensors; all ranks must call it together."""
        p = self.prepared
        return State(
            step=self.step, model=p.config.model, architecture=p.architecture, seconds=self.seconds,
            counts=self.total_counts(), config=p.effective(),
        )  # fmt: skip

    def metrics(
        self, batch: PairBatch, loss: Tensor, steps: int, seconds: float, waited: float
    ) -> dict[str, Any]:
        """Return a log line's figures, for `steps` steps that took `seconds`; the same call on every rank."""
        shape = self.prepared.shape
        first, second = self.on_pairs.last
        figures: dict[str, Any] = {
            "step": self.step,
            "samples": self.step * shape.batch,
            "loss": float(loss),
            "accuracy": proxy_accuracy(first, second),
            "lr": self.optimizer.param_groups[0]["lr"],
            "grad_norm": self.grad_norm(),
            "pairs_per_second": round(shape.batch * steps / seconds, 2),
            "data_wait": round(waited / seconds, 4),
            "memory_gb": round(peak_memory_gb(self.world.device), 3),
            "equal_uids": count_equal_pairs(batch.uids),
            "bad": self.total_counts(),
        }
        peak = flops.peak_flops(self.world.device)
        if peak is not None:  # two views, and twice a forward pass's arithmetic in backward
            work = 3 * 2 * (shape.batch // shape.ranks) * forward_flops(self.prepared.architecture)
            figures["mfu"] = round(work * steps / seconds / peak, 4)
        return figures


def proxy_accuracy(first: Tensor, second: Tensor) -> float:
    """Return how often each of B images' first view is nearest to its own second one, and the reverse."""
    similarity = first.float() @ second.float().T
    own = torch.arange(len(first), device=first.device)
    right = (similarity.argmax(1) == own).float() + (similarity.argmax(0) == own).float()
    return float(right.mean()) / 2


def forward_flops(architecture: Architecture) -> int:
    """Return the floating-point operations of embedding one image, a multiplication with its sum as two."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        side = architecture.side
        Network(architecture).trunk.features(torch.empty(1, 3, side, side))
    return int(counter.get_total_flops())


def thumbnails(prepared: Prepared, count: int) -> augment.Pixels:
    """Return squeezed images of the training set, the first `count` in training order, as they are stored.

    uint8 [n, side, side, 3]; fewer if so many cannot be decoded.
    """
    plan, side = prepared.plan, prepared.architecture.side
    pieces = Pairs(plan, prepared.shape, prepared.cache, side)
    found = []
    for position in range(min(count, plan.epoch_samples)):
        rgb = pieces.original(position)
        if rgb is not None:
            found.append(squeeze(inner(rgb), side))
    if not found:
        raise ValueError(f"none of the first {count} images of --shards can be decoded")
    return np.stack(found)


def fit(config: DetectorTrainConfig) -> Result:
    """Train as configured and write the detector; ValueError if the options cannot be meant."""
    world = distributed.join(config.device)
    try:
        return _fit(prepare(config, world), world)
    finally:
        distributed.leave()


def _fit(prepared: Prepared, world: World) -> Result:
    config, first = prepared.config, world.rank == 0
    if first:
        text = options.to_toml(prepared.effective())
        storage.write_bytes(storage.join(config.out, "config.toml"), text.encode())
    trainer = Trainer(prepared, world)
    side = prepared.architecture.side
    sets = (
        {one.name: unseen_pairs(one.path, side) for one in evalsets.parse_all(config.eval)} if first else {}
    )
    writer = checkpoint.Writer(config.out, {}, config.keep_checkpoints)
    report = Report(config.out, trainer.step, prepared.steps, config.tensorboard, silent=not first)
    stop = distributed.Stop(world, config.max_minutes)
    pieces = Pairs(prepared.plan, prepared.shape, prepared.cache, side)
    workers = default_workers(config.workers, world)
    batches = load(pieces, trainer.step, prepared.steps, workers, world.device)
    try:
        loss, accuracies = take_steps(trainer, batches, writer, report, stop, _evaluation(trainer, sets))
        writer.wait()
    finally:
        stop.close()
        report.close()
    if first:
        lines = storage.read_bytes(storage.join(config.out, "metrics.jsonl")).decode().splitlines()
        storage.write_bytes(storage.join(config.out, "training.svg"), curve.svg(lines).encode())
    complete = trainer.step == prepared.steps or stop.timed_out
    path = storage.join(config.out, DETECTOR)
    if first and complete:  # whoever sends SIGTERM does not wait for it; --resume goes on to it
        write_detector(path, trainer.model, prepared, trainer.step)
    return Result(
        detector=path, steps=trainer.step, planned=prepared.steps, complete=complete, loss=loss,
        seconds=trainer.seconds, accuracy=accuracies, counts=trainer.total_counts(),
    )  # fmt: skip


def write_detector(path: str, network: Network, prepared: Prepared, step: int) -> None:
    """Fit the centre and the background to the training set, and write the detector's file."""
    log.info("describing %s background images", f"{prepared.config.background:,}")
    network.eval()
    vectors = network.embed(thumbnails(prepared, prepared.config.background))
    about = {"model": prepared.config.model, "step": step, "samples": step * prepared.shape.batch}
    weights.write(path, network, Normaliser.fit(vectors), about)


def unseen_pairs(path: str, side: int) -> tuple[Tensor, Tensor]:
    """Return two views of each photograph of a set: uint8 [n, side, side, 3] twice."""
    views: list[tuple[augment.Pixels, augment.Pixels]] = []
    for number, example in enumerate(evalsets.read(path)):
        if len(views) == _PROXY:
            break
        try:
            rgb = images.decode(example.image, 2 * side)
        except images.BadImage:
            continue
        views.append(augment.pair(inner(rgb), side, np.random.default_rng([number, 1])))
    if len(views) < 2:
        raise ValueError(f"--eval {path}: fewer than two images that can be decoded")
    first, second = (torch.from_numpy(np.stack(column)) for column in zip(*views, strict=True))
    return first, second


def _evaluation(
    trainer: Trainer, sets: dict[str, tuple[Tensor, Tensor]]
) -> Callable[[], dict[str, float]] | None:
    """Return what computes the proxy task's accuracy on this rank's sets, if it has any."""

    def accuracies() -> dict[str, float]:
        trainer.model.eval()
        found = {
            name: proxy_accuracy(*(torch.from_numpy(trainer.model.embed(v.numpy())) for v in views))
            for name, views in sets.items()
        }
        trainer.model.train()
        return found

    return accuracies if sets else None
