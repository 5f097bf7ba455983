"""The training loop, whatever is trained: take steps, log, evaluate, save, stop.

A model is trained here if its forward pass gives two sets of features, paired by row, and their scale: CLIP's
images and texts, or a duplicate detector's two views of one image.
"""

import math
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline import config as parser
from pipeline import storage
from train import checkpoint, distributed, flops, gradcache, sharding
from train.data import OnDevice, SampleDataset, load
from train.distributed import World
from train.loss import count_equal_pairs
from train.metrics_logger import MetricsLogger, peak_memory_gb
from train.optimizer import learning_rate, make_optimizer
from train.run_page import Writer
from train.training_run import Setup, TrainingResult, default_workers

Evaluate = Callable[[], dict[str, float]]
"""Computes the accuracies on the evaluation sets, by their names."""


class Diverged(RuntimeError):  # noqa: N818
    """Say that the loss is no number any more."""


class StepBatch(OnDevice, Protocol):
    """One rank's part of a step."""

    @property
    def micro(self) -> list[Any]:
        """Return the micro-batches: the arguments of the model's forward pass."""
        ...

    @property
    def counts(self) -> Counter[str]:
        """Return the bad samples by reason."""
        ...

    @property
    def uids(self) -> Tensor:
        """Return int64 [B] keys of the samples' uids."""
        ...


B = TypeVar("B", bound=StepBatch)


class Trainer(ABC, Generic[B]):
    """Hold a run in progress: model, optimiser, where it is, and how long it took."""

    unit: ClassVar[str] = "samples"
    """The unit of a batch."""
    sharded: bool = False
    """Whether the parameters are shared out over the processes."""

    def __init__(self, model: nn.Module, wrapped: nn.Module, setup: Setup, world: World) -> None:
        """Take over a model, and `wrapped`, which is called."""
        self.model, self.setup, self.world = model, setup, world
        cuda = world.device.type == "cuda"
        self.bf16 = setup.config.uses_bf16(world.device.type)
        if cuda:
            torch.set_float32_matmul_precision("high")  # TF32 for the loss; the towers run in bf16
        self.model.to(world.device).train()
        if setup.resumed:
            kept = checkpoint.read_like(setup.resumed, "model", self.model.state_dict())
            self.model.load_state_dict(kept)
        self.wrapped = self.parallel(wrapped.to(world.device))
        self.optimizer = make_optimizer(self.model, setup.recipe)
        self.step, self.seconds = 0, 0.0
        self.counts_before: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()  # of this rank, since this process began
        if setup.resumed:
            checkpoint.restore_moments(setup.resumed, self.model, self.optimizer)
            values = checkpoint.read_values(setup.resumed)
            self.step, self.seconds = values["step"], values["seconds"]
            self.counts_before = Counter(values["counts"])

    def parallel(self, wrapped: nn.Module) -> nn.Module:
        """Return the module to call, so that the processes train together."""
        if self.world.ranks == 1:
            return wrapped
        device = self.world.device
        ids = [device.index] if device.type == "cuda" else None
        return DistributedDataParallel(wrapped, device_ids=ids, gradient_as_bucket_view=True)

    def gradients(self) -> list[Tensor]:
        """Return the last step's gradients."""
        return [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]

    @abstractmethod
    def architecture(self) -> Any:
        """Return the model's sizes, a dataclass."""

    @abstractmethod
    def own_metrics(self, batch: B) -> dict[str, Any]:
        """Return the metrics of a step that only this kind of run has; the same call on every rank."""

    @abstractmethod
    def step_flops(self, batch: B) -> float:
        """Return the floating-point operations of this rank's part of a step."""

    def after_step(self) -> None:
        """Put the parameters where they may be."""

    def backward(self, batch: B) -> Tensor:
        """Add a step's gradient to the parameters; return its loss [], still on the device."""
        return gradcache.backward(self.wrapped, batch.micro, self.autocast)

    def snapshot(self) -> checkpoint.Tensors:
        """Return copies in main memory of the tensors that a checkpoint holds."""
        moments = checkpoint.moments(self.model, self.optimizer)
        return {"model": checkpoint.copies(self.model.state_dict()), "optimizer": checkpoint.copies(moments)}

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context of a forward pass."""
        return torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.bf16)

    def train_step(self, batch: B) -> Tensor:
        """Take one step and return its loss [], still on the device."""
        p = self.setup
        rate = learning_rate(self.step, p.steps, p.recipe.lr, p.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.backward(batch)
        if p.config.grad_clip is not None:
            if self.sharded:
                sharding.clip(self.gradients(), p.config.grad_clip)
            else:
                nn.utils.clip_grad_norm_(self.model.parameters(), p.config.grad_clip)
        self.optimizer.step()
        self.after_step()
        self.step += 1
        self.counts += batch.counts
        return loss

    def state(self) -> checkpoint.State[Any]:
        """Return the content of a checkpoint beside the tensors; all ranks must call it together."""
        p = self.setup
        return checkpoint.State(
            step=self.step, model=p.config.model, architecture=self.architecture(), seconds=self.seconds,
            counts=self.total_counts(), config=p.recorded(),
        )  # fmt: skip

    def metrics(self, batch: B, loss: Tensor, steps: int, seconds: float, waited: float) -> dict[str, Any]:
        """Return a log line's figures, for `steps` steps that took `seconds`; the same call on every rank."""
        figures: dict[str, Any] = {
            "step": self.step,
            "loss": float(loss),
            **self.own_metrics(batch),
            "seconds": round(self.seconds, 1),
            "lr": self.optimizer.param_groups[0]["lr"],
            "grad_norm": self.grad_norm(),
            f"{self.unit}_per_second": round(self.setup.shape.batch * steps / seconds, 2),
            "data_wait": round(waited / seconds, 4),
            "memory_gb": round(peak_memory_gb(self.world.device), 3),
            "equal_uids": count_equal_pairs(batch.uids),
            "bad": self.total_counts(),
        }
        peak = flops.peak_flops(self.world.device)
        if peak is not None:
            figures["mfu"] = round(self.step_flops(batch) * steps / seconds / peak, 4)
        return figures

    def total_counts(self) -> dict[str, int]:
        """Return the bad samples of all ranks since the run began; all ranks must call it together."""
        total = self.counts_before + Counter()
        for counts in self.world.gather(self.counts):
            total += counts
        return dict(sorted(total.items()))

    def grad_norm(self) -> float:
        """Return the length of the last step's gradient."""
        length = sharding.norm if self.sharded else nn.utils.get_total_norm
        return float(length(self.gradients()))


def run(
    trainer: Trainer[B], pieces: SampleDataset[Any, B], *,
    files: dict[str, bytes] | None = None, evaluate: Evaluate | None = None,
    chance: dict[str, float] | None = None,
) -> TrainingResult:  # fmt: skip
    """Take all steps that are left, with everything around them; `files` go into every checkpoint.

    chance: accuracy of always answering the commonest class, by evaluation set, for the page.
    """
    p, world = trainer.setup, trainer.world
    config, first = p.config, world.rank == 0
    if first:
        text = parser.to_toml(p.effective())
        storage.write_bytes(storage.join(config.out, "config.toml"), text.encode())
    writer = checkpoint.Writer(config.out, files or {}, config.keep_checkpoints)
    page = (
        Writer(config.out, p.steps, compare=config.compare, shards=config.shards, chance=chance or {})
        if first
        else None
    )
    logger = MetricsLogger(config.out, trainer.step, p.steps, config.tensorboard, silent=not first, page=page)
    stop = distributed.SharedStop(world, config.max_minutes)
    try:
        workers = default_workers(config.workers, world)
        batches = load(pieces, trainer.step, p.steps, workers, world.device)
        loss, accuracies = take_steps(trainer, batches, writer, logger, stop, evaluate)
        if not accuracies:
            loss, accuracies = logger.last(loss)  # a run that was finished already took no step
        writer.wait()
    finally:
        stop.close()
        logger.close()
    return TrainingResult(
        out=config.out, steps=trainer.step, planned=p.steps, loss=loss, seconds=trainer.seconds,
        complete=trainer.step == p.steps or stop.timed_out, accuracy=accuracies,
        counts=trainer.total_counts(),
    )  # fmt: skip


def take_steps(
    trainer: Trainer[B], batches: Iterator[B], writer: checkpoint.Writer, logger: MetricsLogger,
    stop: distributed.SharedStop, evaluate: Evaluate | None = None,
) -> tuple[float, dict[str, float]]:  # fmt: skip
    """Take the remaining steps; return the last loss and the last evaluation's result."""
    steps, config = trainer.setup.steps, trainer.setup.config
    loss_value, accuracies = math.nan, dict[str, float]()
    began = window_began = time.monotonic()
    before, logged, waited = trainer.seconds, trainer.step, 0.0
    while trainer.step < steps:
        asked = time.monotonic()
        batch = next(batches)
        waited += time.monotonic() - asked
        loss = trainer.train_step(batch)
        trainer.seconds = before + time.monotonic() - began
        last = stop.now() or trainer.step == steps
        logger.step(trainer.step)
        if last or trainer.step % config.log_every == 0:
            loss_value = float(loss)
            now = time.monotonic()
            logger.log(trainer.metrics(batch, loss, trainer.step - logged, now - window_began, waited))
            _refuse_divergence(loss_value, trainer.step)
            window_began, logged, waited = time.monotonic(), trainer.step, 0.0
        if evaluate is not None and (last or trainer.step % config.eval_every == 0):
            accuracies = evaluate()
            logger.log({"step": trainer.step} | {f"accuracy/{k}": v for k, v in accuracies.items()})
            window_began, waited = time.monotonic(), 0.0
        if last or trainer.step % config.checkpoint_every == 0:
            state = trainer.state()
            if trainer.world.rank == 0:
                writer.save(trainer.snapshot, state)
                logger.flush()
            elif trainer.sharded:
                trainer.snapshot()  # the first process gathers the others' parts
            if last:
                break
    return loss_value, accuracies


def _refuse_divergence(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise Diverged(
            f"the loss is {loss} after step {step}: train into another --out with a lower --lr or a "
            "--grad-clip (openwit train starts from the last checkpoint with --init-from)"
        )
