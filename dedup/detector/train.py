"""Train the detector with the loop, loader, loss and checkpoints of CLIP's own training."""

import contextlib
import logging
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from dedup.detector import augment, curve, detector_file
from dedup.detector.lite import LiteTrunk
from dedup.detector.loss import with_entropy
from dedup.detector.model import ARCHITECTURES, DetectorArchitecture, DetectorNetwork, OnPairs
from dedup.detector.normalise import Normaliser
from dedup.detector.options import DetectorTrainConfig
from dedup.detector.pairs import AugmentedPairs, PairBatch
from pipeline import storage
from pipeline.data import evalsets, named_sets, shipped_detector
from pipeline.data.views import inner, squeeze
from train import distributed, gradcache, image_transforms, training_run, weights
from train.distributed import World
from train.sampler import Sampler
from train.trainer import Evaluate, Trainer, run
from train.training_run import TrainingResult

log = logging.getLogger("train")

DETECTOR: Final = "detector.safetensors"
_INITIAL: Final = 256  # photographs by which gains and biases are set
_DESCRIBED: Final = 1_024  # photographs whose principal components the last layer of published weights gives
_PROXY: Final = 1_712  # photographs of an evaluation at most: the paper's batch


@dataclass(frozen=True, kw_only=True)
class DetectorSetup(training_run.Setup):
    """Hold everything that training the detector starts from."""

    config: DetectorTrainConfig
    architecture: DetectorArchitecture

    def effective(self) -> dict[str, Any]:
        """Return every option with the value that it has in this run."""
        sizes = {"image_size": self.architecture.side, "samples": self.steps * self.shape.batch}
        return super().effective() | sizes

    def summary(self) -> str:
        """Return the plan in a sentence."""
        a, batch = self.architecture, self.shape.batch
        return (
            f"{self.config.model} at {a.side} pixels, {a.dims} numbers, {forward_flops(a) / 1e6:,.0f} MFLOP "
            f"an image; {self.steps:,} steps of {batch:,} pairs, "
            f"{self.steps * batch / self.sampler.epochs[0]:,.1f} epochs, {self.warmup:,} steps of warm-up"
        )


def prepare(config: DetectorTrainConfig, world: World) -> DetectorSetup:
    """Count images and divide the steps; ValueError if it cannot be."""
    cache, resumed = training_run.cache_of(config), training_run.resumed_from(config)
    found = world.share(training_run.find_sources(config, cache, captions=None) if world.rank == 0 else None)
    architecture = ARCHITECTURES[config.model]
    if config.image_size:
        architecture = replace(architecture, side=config.image_size)
    sampler = Sampler(found, config.seed, config.shuffle)
    setup = DetectorSetup(
        config=config, architecture=architecture, sampler=sampler, cache=cache, resumed=resumed,
        shape=training_run.shape_of(config, sampler, world),
    )  # fmt: skip
    training_run.refuse_changes(setup)
    return setup


class DetectorTrainer(Trainer[PairBatch]):
    """Hold a run of the detector in progress."""

    model: DetectorNetwork
    setup: DetectorSetup
    unit = "pairs"

    def __init__(self, setup: DetectorSetup, world: World) -> None:
        config = setup.config
        network = DetectorNetwork(setup.architecture)
        if not setup.resumed:
            _start(network, setup)
        network.trunk.checkpointing = config.checkpointing
        network.laid_out()
        if config.compiles(world.device.type):
            network.compile()
        self.on_pairs = OnPairs(network)
        super().__init__(network, self.on_pairs, setup, world)

    def architecture(self) -> DetectorArchitecture:
        """Return the network's sizes."""
        return self.setup.architecture

    def backward(self, batch: PairBatch) -> Tensor:
        """Make two views of each photograph, and add the gradient of their loss; return it []."""
        config, micro = self.setup.config, self.setup.shape.micro
        photographs = torch.cat([part for part, _ in batch.micro])
        aspects = np.concatenate([part for _, part in batch.micro])
        rng = np.random.default_rng([config.seed, self.step, self.world.rank])
        first, second = augment.pair(photographs, aspects, self.setup.architecture.side, rng)
        views = [(first[n : n + micro], second[n : n + micro]) for n in range(0, len(first), micro)]
        return gradcache.backward(self.wrapped, views, self.autocast, with_entropy(config.entropy))

    def own_metrics(self, batch: PairBatch) -> dict[str, Any]:
        """Return the metrics of a step that only the detector's training has."""
        first, second = self.on_pairs.last
        samples = self.step * self.setup.shape.batch
        return {"samples": samples, "accuracy": proxy_accuracy(first, second)}

    def step_flops(self, batch: PairBatch) -> float:
        """Return the floating-point operations of two views, forward and, twice as many, backward."""
        shape = self.setup.shape
        return 3 * 2 * (shape.batch // shape.ranks) * forward_flops(self.setup.architecture)


def _start(network: DetectorNetwork, setup: DetectorSetup) -> None:
    """Give a network the weights that it is trained from; ValueError if --init-from holds none for it."""
    path = setup.config.init_from
    if path.endswith(".safetensors") or shipped_detector.is_named(path):
        detector_file.fill(network, path)
    elif isinstance(network.trunk, LiteTrunk):
        network.trunk.load_published(weights.read(weights.weights_file(storage.local_path(path))), path)
        network.fit_head(torch.from_numpy(thumbnails(setup, _DESCRIBED)))
    elif path:
        raise ValueError(f"--init-from {path}: {setup.config.model} starts from a detector.safetensors alone")
    else:
        network.initialise(setup.config.seed, torch.from_numpy(thumbnails(setup, _INITIAL)))


def proxy_accuracy(first: Tensor, second: Tensor) -> float:
    """Return how often each of B images' first view is nearest to its own second view, and the reverse.

    first, second: vectors [B, d], row i of both of image i.
    """
    similarity = first.float() @ second.float().T
    own = torch.arange(len(first), device=first.device)
    right = (similarity.argmax(1) == own).float() + (similarity.argmax(0) == own).float()
    return float(right.mean()) / 2


def forward_flops(architecture: DetectorArchitecture) -> int:
    """Return the floating-point operations of embedding one image, a multiplication with its sum as two."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        side = architecture.side
        DetectorNetwork(architecture).trunk.pooled(torch.empty(1, side, side, 3))
    return int(counter.get_total_flops())


def thumbnails(setup: DetectorSetup, count: int) -> augment.Pixels:
    """Return squeezed images of the training set, the first `count` in training order, as they are stored.

    ValueError if none can be decoded.

    uint8 [n, side, side, 3]; fewer if that many cannot be decoded.
    """
    sampler, side = setup.sampler, setup.architecture.side
    pieces = AugmentedPairs(sampler, setup.shape, setup.cache, side)
    found = []
    for position in range(min(count, sampler.epochs[0])):
        rgb = pieces.original(position)
        if rgb is not None:
            found.append(squeeze(inner(rgb), side))
    if not found:
        raise ValueError(f"none of the first {count} images of --shards can be decoded")
    return np.stack(found)


def fit(config: DetectorTrainConfig) -> TrainingResult:
    """Train as configured and write the detector; ValueError if the options contradict each other."""
    return distributed.joined(config.device, lambda world: _fit(config, world))


def _fit(config: DetectorTrainConfig, world: World) -> TrainingResult:
    setup = prepare(config, world)
    trainer = DetectorTrainer(setup, world)
    first, side = world.rank == 0, setup.architecture.side
    found = named_sets.parse_all(config.eval) if first else []
    sets = {one.name: unseen_pairs(one.path, side) for one in found}
    pieces = AugmentedPairs(setup.sampler, setup.shape, setup.cache, side)
    result = run(trainer, pieces, evaluate=_evaluation(trainer, sets))
    if first:
        lines = storage.read_bytes(storage.join(config.out, "metrics.jsonl")).decode().splitlines()
        storage.write_bytes(storage.join(config.out, "training.svg"), curve.svg(lines).encode())
    if first and result.complete:  # the sender of SIGTERM does not wait for it; --resume continues to it
        write_detector(storage.join(config.out, DETECTOR), trainer.model, setup, trainer.step)
    return result


def write_detector(path: str, network: DetectorNetwork, setup: DetectorSetup, step: int) -> None:
    """Fit the centre and the background to the training set, and write the detector's file."""
    log.info("describing %s background images", f"{setup.config.background:,}")
    network.eval()
    vectors = network.embed(thumbnails(setup, setup.config.background))
    about = {"model": setup.config.model, "step": step, "samples": step * setup.shape.batch}
    detector_file.write(path, network, Normaliser.fit(vectors), about)


def unseen_pairs(path: str, side: int) -> tuple[Tensor, Tensor]:
    """Return two views of each photograph of a set: uint8 [n, side, side, 3] twice.

    ValueError for fewer than two that can be decoded.
    """
    found: list[tuple[augment.Pixels, float]] = []
    for example in evalsets.read(path):
        if len(found) == _PROXY:
            break
        with contextlib.suppress(image_transforms.BadImage):
            found.append(augment.source(image_transforms.decode(example.image, 2 * side), side))
    if len(found) < 2:
        raise ValueError(f"--eval {path}: fewer than two images that can be decoded")
    return views_of(found, side)


def views_of(photographs: list[tuple[augment.Pixels, float]], side: int) -> tuple[Tensor, Tensor]:
    """Return two views of each photograph that `augment.source` gives, always the same ones."""
    pixels, aspects = zip(*photographs, strict=True)
    rng = np.random.default_rng(1)
    return augment.pair(torch.from_numpy(np.stack(pixels)), np.asarray(aspects, np.float32), side, rng)


def _evaluation(trainer: DetectorTrainer, sets: dict[str, tuple[Tensor, Tensor]]) -> Evaluate | None:
    """Return the function for the proxy task's accuracy on this rank's sets, if it has any."""

    def accuracies() -> dict[str, float]:
        trainer.model.eval()
        found = {
            name: proxy_accuracy(*(torch.from_numpy(trainer.model.embed(v.numpy())) for v in views))
            for name, views in sets.items()
        }
        trainer.model.train()
        return found

    return accuracies if sets else None
