"""The training loop (arXiv:2103.00020, section 2.5)."""

import logging
import math
import time
from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline import config as options
from pipeline import storage
from train import checkpoint, distributed, flops, gradcache
from train.config import TrainConfig
from train.data import Batch, Pieces, load
from train.distributed import World
from train.images import normalise
from train.loss import count_equal_pairs
from train.model import CLIP, Transformer
from train.optimizer import learning_rate, make_optimizer
from train.packing import PackedText
from train.prepare import Prepared, default_workers, prepare
from train.report import Report, peak_memory_gb
from train.zeroshot import LabelledSet, accuracy

log = logging.getLogger("train")


@dataclass(frozen=True, kw_only=True)
class Result:
    """Say what a run came to."""

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
    """Zero-shot accuracy after the last step, by --eval NAME."""
    chance: dict[str, float] = field(default_factory=dict)
    """Accuracy of always answering the commonest class."""
    counts: dict[str, int] = field(default_factory=dict)
    """Bad samples by reason, and pictures that were enlarged."""


class Diverged(RuntimeError):  # noqa: N818
    """Say that the loss is no number any more."""


class OnPixels(nn.Module):
    """Let a model take pixels as stored: uint8 crosses to the device, a fourth of float32's bytes."""

    def __init__(self, model: CLIP, compiled: bool) -> None:
        super().__init__()
        self.model = model
        self.normalise = torch.compile(normalise) if compiled else normalise

    def forward(self, pixels: Tensor, text: PackedText) -> tuple[Tensor, Tensor, Tensor]:
        """Normalise uint8 [B, N, N, 3] and return the model's features and scale."""
        features: tuple[Tensor, Tensor, Tensor] = self.model(self.normalise(pixels), text)
        return features


def compile_blocks(model: CLIP) -> None:
    """Compile block by block: all blocks of a tower are alike, so little is compiled and soon."""
    for module in model.modules():
        if isinstance(module, Transformer):
            for block in module.resblocks:
                block.compile()
    if model.architecture.is_resnet:
        model.visual.compile()


class Trainer:
    """Hold a run in progress: model, optimiser, where it is, and how long it took."""

    def __init__(self, prepared: Prepared, world: World) -> None:
        self.prepared, self.world, config = prepared, world, prepared.config
        cuda = world.device.type == "cuda"
        if cuda:
            torch.set_float32_matmul_precision("high")  # TF32 for the loss; the towers run in bf16
        self.model = CLIP(prepared.architecture).initialise(config.seed)
        if prepared.initial is not None:
            self.model.load_state_dict(prepared.initial)
        self.model.to(world.device).train()
        if prepared.architecture.is_resnet:  # convolutions over pixels as they come: a fifth faster
            self.model.visual.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model.set_checkpointing(config.checkpointing)
        self.optimizer = make_optimizer(self.model, prepared.recipe)
        self.step, self.seconds = 0, 0.0
        self.counts_before: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()  # of this rank, since this process began
        if prepared.resumed:
            checkpoint.restore(prepared.resumed, self.model, self.optimizer)
            state = checkpoint.read_state(prepared.resumed)
            self.step, self.seconds, self.counts_before = state.step, state.seconds, Counter(state.counts)
        compiled = cuda if config.compile is None else config.compile
        if compiled:
            compile_blocks(self.model)
        self.wrapped: nn.Module = OnPixels(self.model, compiled)
        if world.ranks > 1:
            ids = [world.device.index] if cuda else None
            self.wrapped = DistributedDataParallel(self.wrapped, device_ids=ids, gradient_as_bucket_view=True)
        self.bf16 = cuda if config.precision == "auto" else config.precision == "bf16"

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context of a forward pass."""
        return torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.bf16)

    def train_step(self, batch: Batch) -> Tensor:
        """Take one step and return its loss, still on the device."""
        p = self.prepared
        rate = learning_rate(self.step, p.steps, p.recipe.lr, p.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss = gradcache.backward(self.wrapped, batch.micro, self.autocast)
        if p.config.grad_clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), p.config.grad_clip)
        self.optimizer.step()
        self.model.clamp_scale()
        self.step += 1
        self.counts += batch.counts
        return loss

    def total_counts(self) -> dict[str, int]:
        """Return the bad samples of all ranks since the run began; all ranks must call it together."""
        total = self.counts_before + Counter()
        for counts in self.world.gather(self.counts):
            total += counts
        return dict(sorted(total.items()))

    def state(self) -> checkpoint.State:
        """Return what a checkpoint holds beside the tensors; all ranks must call it together."""
        p = self.prepared
        return checkpoint.State(
            step=self.step, model=p.config.model, architecture=p.architecture, seconds=self.seconds,
            counts=self.total_counts(), config=p.effective() | {"epoch_samples": p.plan.epoch_samples},
        )  # fmt: skip

    def metrics(
        self, batch: Batch, loss: Tensor, steps: int, seconds: float, waited: float
    ) -> dict[str, Any]:
        """Return a log line's figures, for `steps` steps that took `seconds`; the same call on every rank."""
        p, a = self.prepared, self.prepared.architecture
        samples = p.shape.batch // p.shape.ranks
        work = 3 * (
            samples * flops.image_flops(a) + flops.text_flops(a, batch.tokens, batch.squares, samples)
        )
        peak = flops.peak_flops(self.world.device)
        norm = nn.utils.get_total_norm(
            [g for g in (x.grad for x in self.model.parameters()) if g is not None]
        )
        figures: dict[str, Any] = {
            "step": self.step,
            "epoch": round(self.step / p.shape.epoch_steps, 3),
            "loss": float(loss),
            "scale": float(self.model.logit_scale.detach().exp()),
            "lr": self.optimizer.param_groups[0]["lr"],
            "grad_norm": float(norm),
            "samples_per_second": round(p.shape.batch * steps / seconds, 2),
            "data_wait": round(waited / seconds, 4),
            "memory_gb": round(peak_memory_gb(self.world.device), 3),
            "equal_captions": count_equal_pairs(batch.captions),
            "equal_uids": count_equal_pairs(batch.uids),
            "bad": self.total_counts(),
        }
        if peak is not None:
            figures["mfu"] = round(work * steps / seconds / peak, 4)
        return figures


def fit(config: TrainConfig) -> Result:
    """Train as configured and return what came of it; ValueError if the options cannot be meant."""
    world = distributed.join(config)
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
    labelled = [LabelledSet(name, prepared.architecture.image_size) for name in config.eval] if first else []
    writer = checkpoint.Writer(config.out, prepared.tokenizer, config.keep_checkpoints)
    report = Report(config.out, trainer.step, prepared.steps, config.tensorboard, silent=not first)
    stop = distributed.Stop(world, config.max_minutes)
    try:
        loss, accuracies = _train(trainer, labelled, writer, report, stop)
        writer.wait()
    finally:
        stop.close()
        report.close()
    return Result(
        out=config.out, steps=trainer.step, planned=prepared.steps, loss=loss, seconds=trainer.seconds,
        complete=trainer.step == prepared.steps or stop.timed_out,
        accuracy=accuracies, chance={s.name: s.chance for s in labelled}, counts=trainer.total_counts(),
    )  # fmt: skip


def _train(
    trainer: Trainer, labelled: list[LabelledSet], writer: checkpoint.Writer, report: Report,
    stop: distributed.Stop,
) -> tuple[float, dict[str, float]]:  # fmt: skip
    """Take the remaining steps; return the last loss and accuracies."""
    p, config, world = trainer.prepared, trainer.prepared.config, trainer.world
    pieces = Pieces(
        p.plan, p.shape, p.tokenizer, p.architecture.image_size, config.crop, p.cache,
        p.architecture.context_length,
    )  # fmt: skip
    batches = load(pieces, trainer.step, p.steps, default_workers(config, world), world.device)
    loss_value, accuracies = math.nan, dict[str, float]()
    began = window_began = time.monotonic()
    before, logged, waited = trainer.seconds, trainer.step, 0.0
    while trainer.step < p.steps:
        asked = time.monotonic()
        batch = next(batches)
        waited += time.monotonic() - asked
        loss = trainer.train_step(batch)
        trainer.seconds = before + time.monotonic() - began
        last = stop.now() or trainer.step == p.steps
        report.step(trainer.step)
        if last or trainer.step % config.log_every == 0:
            loss_value = float(loss)
            now = time.monotonic()
            report.tell(trainer.metrics(batch, loss, trainer.step - logged, now - window_began, waited))
            _refuse_divergence(loss_value, trainer)
            window_began, logged, waited = time.monotonic(), trainer.step, 0.0
        if labelled and (last or trainer.step % config.eval_every == 0):
            accuracies = {
                s.name: accuracy(trainer.model, p.tokenizer, s, world.device, trainer.autocast)
                for s in labelled
            }
            report.tell({"step": trainer.step} | {f"accuracy/{k}": v for k, v in accuracies.items()})
            window_began, waited = time.monotonic(), 0.0
        if last or trainer.step % config.checkpoint_every == 0:
            state = trainer.state()
            if world.rank == 0:
                writer.save(trainer.model, trainer.optimizer, state)
                report.flush()
            if last:
                break
    return loss_value, accuracies


def _refuse_divergence(loss: float, trainer: Trainer) -> None:
    if not math.isfinite(loss):
        raise Diverged(
            f"the loss is {loss} after step {trainer.step}: start from the last checkpoint with "
            "--init-from, a lower --lr or a --grad-clip, and another --out"
        )
