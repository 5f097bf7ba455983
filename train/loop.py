"""Train CLIP (arXiv:2103.00020, section 2.5)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pipeline import config as options
from pipeline import storage
from train import checkpoint, distributed, flops
from train.config import TrainConfig
from train.data import Batch, Pieces, load
from train.distributed import World
from train.images import normalise
from train.loss import count_equal_pairs
from train.model import CLIP, Transformer
from train.packing import PackedText
from train.prepare import Prepared, default_workers, prepare
from train.report import Report, peak_memory_gb
from train.steps import Schedule, Stepper, take_steps
from train.zeroshot import LabelledSet, accuracy


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


class Trainer(Stepper[Batch]):
    """Hold a run of CLIP in progress."""

    model: CLIP

    def __init__(self, prepared: Prepared, world: World) -> None:
        self.prepared, config = prepared, prepared.config
        cuda = world.device.type == "cuda"
        model = CLIP(prepared.architecture).initialise(config.seed)
        if prepared.initial is not None:
            model.load_state_dict(prepared.initial)
        if prepared.architecture.is_resnet:  # convolutions over pixels as they come: a fifth faster
            model.visual.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        model.set_checkpointing(config.checkpointing)
        compiled = cuda if config.compile is None else config.compile
        wrapped = OnPixels(model, compiled)
        schedule = Schedule(
            recipe=prepared.recipe, steps=prepared.steps, warmup=prepared.warmup,
            grad_clip=config.grad_clip, log_every=config.log_every,
            checkpoint_every=config.checkpoint_every, eval_every=config.eval_every,
        )  # fmt: skip
        bf16 = cuda if config.precision == "auto" else config.precision == "bf16"
        if compiled:
            compile_blocks(model)
        super().__init__(model, wrapped, world, schedule, prepared.resumed, bf16)

    def after_step(self) -> None:
        """Keep the scale where the paper keeps it."""
        self.model.clamp_scale()

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
        figures: dict[str, Any] = {
            "step": self.step,
            "epoch": round(self.step / p.shape.epoch_steps, 3),
            "loss": float(loss),
            "scale": float(self.model.logit_scale.detach().exp()),
            "lr": self.optimizer.param_groups[0]["lr"],
            "grad_norm": self.grad_norm(),
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
    labelled = [LabelledSet(name, prepared.architecture.image_size) for name in config.eval] if first else []
    files = checkpoint.vocabulary_file(prepared.tokenizer)
    writer = checkpoint.Writer(config.out, files, config.keep_checkpoints)
    report = Report(config.out, trainer.step, prepared.steps, config.tensorboard, silent=not first)
    stop = distributed.Stop(world, config.max_minutes)
    try:
        loss, accuracies = take_steps(
            trainer, _batches(trainer), writer, report, stop, _evaluation(trainer, labelled)
        )
        writer.wait()
    finally:
        stop.close()
        report.close()
    return Result(
        out=config.out, steps=trainer.step, planned=prepared.steps, loss=loss, seconds=trainer.seconds,
        complete=trainer.step == prepared.steps or stop.timed_out,
        accuracy=accuracies, chance={s.name: s.chance for s in labelled}, counts=trainer.total_counts(),
    )  # fmt: skip


def _batches(trainer: Trainer) -> Iterator[Batch]:
    p, config, world = trainer.prepared, trainer.prepared.config, trainer.world
    pieces = Pieces(
        p.plan, p.shape, p.tokenizer, p.architecture.image_size, config.crop, p.cache,
        p.architecture.context_length,
    )  # fmt: skip
    return load(pieces, trainer.step, p.steps, default_workers(config.workers, world), world.device)


def _evaluation(trainer: Trainer, labelled: list[LabelledSet]) -> Callable[[], dict[str, float]] | None:
    """Return what computes the accuracies of this rank's sets, if it has any."""

    def accuracies() -> dict[str, float]:
        tokenizer, device = trainer.prepared.tokenizer, trainer.world.device
        return {s.name: accuracy(trainer.model, tokenizer, s, device, trainer.autocast) for s in labelled}

    return accuracies if labelled else None
