"""The training loop, whatever is trained: take steps, tell, evaluate, save, stop.

A model is trained here if its forward pass gives two sets of features, paired by row, and their scale: CLIP's
images and texts, or a duplicate detector's two views of one image.
"""

import math
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from train import checkpoint, distributed, gradcache
from train.architectures import Recipe
from train.distributed import World
from train.optimizer import learning_rate, make_optimizer
from train.report import Report


class Diverged(RuntimeError):  # noqa: N818
    """Say that the loss is no number any more."""


class Step(Protocol):
    """One rank's part of a step."""

    @property
    def micro(self) -> list[Any]:
        """Return the micro-batches: the arguments of the model's forward pass."""
        ...

    @property
    def counts(self) -> Counter[str]:
        """Return the bad samples by reason."""
        ...


B = TypeVar("B", bound=Step)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Say how long and how often."""

    recipe: Recipe
    steps: int
    warmup: int
    grad_clip: float | None
    log_every: int
    checkpoint_every: int
    eval_every: int


class Stepper(ABC, Generic[B]):
    """Hold a run in progress: model, optimiser, where it is, and how long it took."""

    def __init__(
        self, model: nn.Module, wrapped: nn.Module, world: World, schedule: Schedule, resumed: str, bf16: bool
    ) -> None:
        """Take over a model, and `wrapped`, which is called; `resumed`: a checkpoint's folder, or empty."""
        self.model, self.world, self.schedule, self.bf16 = model, world, schedule, bf16
        cuda = world.device.type == "cuda"
        if cuda:
            torch.set_float32_matmul_precision("high")  # TF32 for the loss; the towers run in bf16
        self.model.to(world.device).train()
        self.optimizer = make_optimizer(self.model, schedule.recipe)
        self.step, self.seconds = 0, 0.0
        self.counts_before: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()  # of this rank, since this process began
        if resumed:
            checkpoint.restore(resumed, self.model, self.optimizer)
            values = checkpoint.read_values(resumed)
            self.step, self.seconds = values["step"], values["seconds"]
            self.counts_before = Counter(values["counts"])
        self.wrapped = wrapped.to(world.device)
        if world.ranks > 1:
            ids = [world.device.index] if cuda else None
            self.wrapped = DistributedDataParallel(self.wrapped, device_ids=ids, gradient_as_bucket_view=True)

    @abstractmethod
    def state(self) -> checkpoint.Progress:
        """Return what a checkpoint holds beside the tensors; all ranks must call it together."""

    @abstractmethod
    def metrics(self, batch: B, loss: Tensor, steps: int, seconds: float, waited: float) -> dict[str, Any]:
        """Return a log line's figures, for `steps` steps that took `seconds`; the same call on every rank."""

    def after_step(self) -> None:
        """Put the parameters where they may be."""

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context of a forward pass."""
        return torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.bf16)

    def train_step(self, batch: B) -> Tensor:
        """Take one step and return its loss, still on the device."""
        s = self.schedule
        rate = learning_rate(self.step, s.steps, s.recipe.lr, s.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss = gradcache.backward(self.wrapped, batch.micro, self.autocast)
        if s.grad_clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), s.grad_clip)
        self.optimizer.step()
        self.after_step()
        self.step += 1
        self.counts += batch.counts
        return loss

    def total_counts(self) -> dict[str, int]:
        """Return the bad samples of all ranks since the run began; all ranks must call it together."""
        total = self.counts_before + Counter()
        for counts in self.world.gather(self.counts):
            total += counts
        return dict(sorted(total.items()))

    def grad_norm(self) -> float:
        """Return the length of the last step's gradient."""
        gradients = [parameter.grad for parameter in self.model.parameters()]
        return float(nn.utils.get_total_norm([g for g in gradients if g is not None]))


def take_steps(
    stepper: Stepper[B], batches: Iterator[B], writer: checkpoint.Writer, report: Report,
    stop: distributed.Stop, evaluate: Callable[[], dict[str, float]] | None = None,
) -> tuple[float, dict[str, float]]:  # fmt: skip
    """Take the remaining steps; return the last loss and what the last evaluation gave."""
    schedule, world = stepper.schedule, stepper.world
    loss_value, accuracies = math.nan, dict[str, float]()
    began = window_began = time.monotonic()
    before, logged, waited = stepper.seconds, stepper.step, 0.0
    while stepper.step < schedule.steps:
        asked = time.monotonic()
        batch = next(batches)
        waited += time.monotonic() - asked
        loss = stepper.train_step(batch)
        stepper.seconds = before + time.monotonic() - began
        last = stop.now() or stepper.step == schedule.steps
        report.step(stepper.step)
        if last or stepper.step % schedule.log_every == 0:
            loss_value = float(loss)
            now = time.monotonic()
            report.tell(stepper.metrics(batch, loss, stepper.step - logged, now - window_began, waited))
            _refuse_divergence(loss_value, stepper.step)
            window_began, logged, waited = time.monotonic(), stepper.step, 0.0
        if evaluate is not None and (last or stepper.step % schedule.eval_every == 0):
            accuracies = evaluate()
            report.tell({"step": stepper.step} | {f"accuracy/{k}": v for k, v in accuracies.items()})
            window_began, waited = time.monotonic(), 0.0
        if last or stepper.step % schedule.checkpoint_every == 0:
            state = stepper.state()
            if world.rank == 0:
                writer.save(stepper.model, stepper.optimizer, state)
                report.flush()
            if last:
                break
    return loss_value, accuracies


def _refuse_divergence(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise Diverged(
            f"the loss is {loss} after step {step}: start from the last checkpoint with "
            "--init-from, a lower --lr or a --grad-clip, and another --out"
        )
