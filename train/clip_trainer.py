"""Train CLIP (arXiv:2103.00020, section 2.5)."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.data.architectures import Architecture
from train import checkpoint, distributed, flops, gradcache, packing, predictive, sharding
from train.average import Average
from train.data import Batch, Pieces
from train.distributed import World
from train.image_transforms import normalise
from train.loss import contrastive_loss, count_equal_pairs, sigmoid_loss
from train.model import CLIP, Transformer
from train.options import TrainConfig
from train.packing import PackedText
from train.predictive import MODELS
from train.prepare import ClipSetup, prepare
from train.trainer import Evaluate, Trainer, run
from train.training_run import TrainingResult
from train.validation import LabelledSet, accuracy


class OnPixels(nn.Module):
    """Let a model take pixels as stored: uint8 crosses to the device, a fourth of float32's bytes."""

    def __init__(self, model: CLIP, compiled: bool) -> None:
        super().__init__()
        self.model = model
        self.normalise = torch.compile(normalise) if compiled else normalise

    def forward(self, pixels: Tensor, *more: PackedText | Tensor) -> Any:
        """Normalise uint8 [B, N, N, 3] and return the model's output; `more`: its further arguments."""
        return self.model(self.normalise(pixels), *more)


def compile_blocks(model: CLIP) -> None:
    """Compile block by block: all blocks of a tower are alike, so little is compiled and soon."""
    packing.prepare_to_compile()
    for module in model.modules():
        if isinstance(module, Transformer):
            for block in module.resblocks:
                block.compile()
    if model.architecture.is_resnet:
        model.visual.compile()


class ClipTrainer(Trainer[Batch]):
    """Hold a run of CLIP in progress."""

    model: CLIP
    setup: ClipSetup

    def __init__(self, setup: ClipSetup, world: World) -> None:
        config = setup.config
        model = MODELS[config.objective](setup.architecture).initialise(config.seed)
        if setup.initial is not None:
            model.load_state_dict(setup.initial)
        self.sharded = config.fsdp and world.ranks > 1
        # Convolutions over pixels as they come: a fifth faster, and not for tensors sharded by rows.
        if setup.architecture.is_resnet and not self.sharded:
            model.visual.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.lock != "none":
            model.lock(config.lock)
        model.set_checkpointing(config.checkpointing)
        compiled = config.compiles(world.device.type)
        wrapped = OnPixels(model, compiled)
        if compiled:
            compile_blocks(model)
        super().__init__(model, wrapped, setup, world)
        self.loss_of = sigmoid_loss if config.loss == "siglip" else contrastive_loss
        self.average = None if config.ema is None else Average(model, config.ema)
        if self.average is not None and setup.resumed:
            kept = checkpoint.read_like(setup.resumed, "average", self.average.tensors)
            for name, value in self.average.tensors.items():
                sharding.fill(value, kept[name])

    def parallel(self, wrapped: nn.Module) -> nn.Module:
        """Return the module to call, so that the processes train together."""
        if not self.sharded:
            return super().parallel(wrapped)
        sharding.shard(self.model, self.world.device)
        return wrapped

    def backward(self, batch: Batch) -> Tensor:
        """Add a step's gradient to the parameters; return its loss [], still on the device."""
        if isinstance(self.model, predictive.Predictor):
            terms = self.model.terms(batch.tokens, len(batch.uids))
            loss = predictive.backward(self.wrapped, batch.micro, self.autocast, terms)
        else:
            loss = gradcache.backward(self.wrapped, batch.micro, self.autocast, self.loss_of)
        if self.sharded:
            sharding.average_scalars(self.model)
        return loss

    def after_step(self) -> None:
        """Keep the scale where the paper keeps it, and average."""
        self.model.clamp_scale()
        if self.average is not None:
            self.average.update(self.model)

    def snapshot(self) -> checkpoint.Tensors:
        """Return copies in main memory of the tensors that a checkpoint holds."""
        kept = super().snapshot()
        return kept if self.average is None else kept | {"average": checkpoint.copies(self.average.tensors)}

    def evaluated(self) -> CLIP:
        """Return the model to measure: its weights averaged over time, where they are.

        Where they are shared out, all processes must call this together.
        """
        if self.average is None and not self.sharded:
            return self.model
        tensors = self.model.state_dict() if self.average is None else self.average.tensors
        model = MODELS[self.setup.config.objective](self.setup.architecture)
        model.load_state_dict({name: sharding.whole(value) for name, value in tensors.items()})
        return model.to(self.world.device)

    def architecture(self) -> Architecture:
        """Return the model's sizes."""
        return self.setup.architecture

    def own_metrics(self, batch: Batch) -> dict[str, Any]:
        """Return the metrics of a step that only CLIP's training has."""
        shape = self.setup.shape
        epoch, inside = shape.epoch_of(self.step)
        steps = shape.epoch_steps[min(epoch, len(shape.epoch_steps) - 1)]
        return {
            "epoch": round(epoch + inside / steps, 3),
            "scale": float(self.model.logit_scale.detach().exp()),
            "equal_captions": count_equal_pairs(batch.captions),
        }

    def step_flops(self, batch: Batch) -> float:
        """Return three forward passes' floating-point operations, of a locked tower a single pass's."""
        p, a = self.setup, self.setup.architecture
        samples = p.shape.batch // p.shape.ranks
        uses_tower = not isinstance(self.model, predictive.BagOfWords)
        text = flops.text_flops(a, batch.tokens, batch.squares, samples) if uses_tower else 0.0
        if isinstance(self.model, predictive.Predictor):
            text += self.model.text_flops(batch.tokens, samples)
        return samples * p.image_flops + text * p.passes("text")


def fit(config: TrainConfig) -> TrainingResult:
    """Train as configured and return the result; ValueError if the options contradict each other."""
    return distributed.joined(config.device, lambda world: _fit(config, world))


def check(config: TrainConfig, world: World) -> ClipSetup:
    """Return the start of a run, after checking everything that training would refuse."""
    setup = prepare(config, world)
    for name in config.eval if world.rank == 0 else ():
        LabelledSet(name, setup.architecture.image_size)
    return setup


def _fit(config: TrainConfig, world: World) -> TrainingResult:
    p = prepare(config, world)
    trainer = ClipTrainer(p, world)
    size = p.architecture.image_size
    labelled = [LabelledSet(name, size) for name in config.eval] if world.rank == 0 else []
    pieces = Pieces(
        p.sampler, p.shape, p.tokenizer, size, config.crop, p.cache, p.architecture.context_length,
        fields=config.caption_fields, patches=(p.kept, p.architecture.grid**2) if p.kept else None,
        on_device=p.resize == "device",
    )  # fmt: skip
    files = checkpoint.vocabulary_file(p.tokenizer)
    chance = {one.name: one.chance for one in labelled}
    result = run(trainer, pieces, files=files, evaluate=_evaluation(trainer, labelled), chance=chance)
    return replace(result, chance=chance)


def _evaluation(trainer: ClipTrainer, labelled: list[LabelledSet]) -> Evaluate | None:
    """Return the function for the accuracies of this rank's sets, if it has any."""

    def accuracies() -> dict[str, float]:
        tokenizer, device = trainer.setup.tokenizer, trainer.world.device
        model = trainer.evaluated()
        return {s.name: accuracy(model, tokenizer, s, device, trainer.autocast) for s in labelled}

    return accuracies if labelled or (trainer.sharded and trainer.setup.config.eval) else None
