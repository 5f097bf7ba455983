"""The options of `openwit detector train` and `openwit detector embed`; importing this needs no torch."""

import os
from dataclasses import dataclass, field
from typing import Final, Literal

import tyro

from dedup import evalsets
from dedup.evalsets import EvalSet
from train.architectures import Recipe

Model = Literal["RN50", "small"]
Paths = tyro.conf.UseAppendAction[tuple[str, ...]]

SAMPLES: Final[dict[Model, int]] = {"RN50": 30_000_000, "small": 192_000}
"""Photographs seen in training. The paper's about 30 million (appendix C); 192,000 take half a CPU hour."""
RECIPES: Final[dict[Model, Recipe]] = {
    # The batch is the paper's; it names no learning rate, and this one is AdamW's usual for a ResNet-50.
    "RN50": Recipe(batch_size=1_712, lr=1e-3, beta2=0.999, eps=1e-8, weight_decay=0.05, warmup=1_000),
    "small": Recipe(batch_size=256, lr=2e-3, beta2=0.99, eps=1e-8, weight_decay=0.05, warmup=60),
}


@dataclass(frozen=True, kw_only=True)
class DetectorTrainConfig:
    """Train the near-duplicate detector of CLIP's appendix C on your own images; no pretrained weights.

    Options left out are the paper's for the model. Several GPUs: `torchrun ... -m dedup.detector train ...`.
    """

    shards: Paths
    """A run's folder, or a WebDataset as a pattern of tars. May be given several times."""
    out: str
    """Folder of the training run: checkpoints/, metrics.jsonl, config.toml and detector.safetensors."""
    model: Model = "RN50"
    """RN50: the paper's, 224 pixels and 512 numbers; small: 64 pixels and 128 numbers, for a CPU."""
    check: bool = False
    """Find and count the images, print the plan and the effective configuration, and write nothing."""

    image_size: int | None = None
    """Side of the squeezed images that the network takes, a multiple of 32."""
    batch_size: int | None = None
    """Photographs of a step over all processes, each in two views."""
    accumulate: int = 1
    """Micro-batches of a step on each process: less memory, a third more time, the same gradient."""
    samples: int | None = None
    """Photographs to train on, repeated if the shards have fewer."""
    max_minutes: float | None = None
    """Save and stop after so much time in this process; the schedule does not change."""
    lr: float | None = None
    """Peak learning rate."""
    warmup: int | None = None
    """Steps of linear warm-up; never more than a tenth of the run unless given."""
    weight_decay: float | None = None
    """Decoupled weight decay of what is neither gain nor bias."""
    grad_clip: float | None = 5.0
    """Clip the gradient's norm: without batch norm it has peaks."""
    seed: int = 0
    """Decides initial weights, order and alterations."""

    resume: bool = False
    """Continue from the newest checkpoint in --out; start anew where there is none."""
    checkpoint_every: int = 1_000
    """Steps between checkpoints; one is always written at the end and on SIGTERM."""
    keep_checkpoints: int = 3
    """Newest checkpoints to keep."""
    background: int = 20_000
    """Images whose descriptors are kept with the detector, for centring and score normalisation."""

    weights: tyro.conf.UseAppendAction[tuple[float, ...]] = ()
    """How often an epoch passes over a --shards, given once for each."""
    drop: Paths = ()
    """Parquet file whose column uid names samples to leave out. May be given several times."""
    keep: Paths = ()
    """Parquet file whose column uid names the only samples to take. May be given several times."""
    shuffle: int = 131_072
    """Samples that are shuffled together."""
    workers: int | None = None
    """Processes that decode and alter, for each training process; by default the CPUs, shared out."""
    cache: str = ""
    """Local folder for copies of remote shards; by default in the temporary folder."""
    cache_gb: int = 200
    """Most space for copies of remote shards."""

    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """auto: bf16 autocast on a GPU, fp32 on a CPU."""
    compile: bool | None = None
    """Compile the network; by default on a GPU."""
    checkpointing: bool = False
    """Recompute activations in backward: far less memory, a third more arithmetic."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto: the GPU of this process if there is one."""

    eval: Paths = ()
    """NAME=PATH of photographs that are not trained on: how often a view finds its other view among them."""
    eval_every: int = 1_000
    """Steps between evaluations; one always follows the last step."""
    log_every: int = 10
    """Steps between lines of the log and of metrics.jsonl."""
    tensorboard: bool = False
    """Write TensorBoard's event files, too."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if not self.shards:
            raise ValueError("--shards is needed: a run's folder or a pattern of tars")
        for name in (
            "accumulate", "checkpoint_every", "keep_checkpoints", "eval_every", "log_every", "shuffle",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1")
        for name in ("batch_size", "samples", "max_minutes", "lr"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"--{name.replace('_', '-')} must be positive")
        if self.background < 16:
            raise ValueError("--background must be at least 16 images")
        evalsets.parse_all(self.eval)

    def recipe(self) -> Recipe:
        """Return the model's recipe with the options that were given."""
        values = dict(vars(RECIPES[self.model]))
        for name in ("batch_size", "lr", "weight_decay"):
            values[name] = values[name] if getattr(self, name) is None else getattr(self, name)
        return Recipe(**values)


@dataclass(frozen=True, kw_only=True)
class DetectorEmbedConfig:
    """Describe all images of a training set, and evaluation sets, with a trained detector; find neighbours.

    Run the same command again to continue where it stopped.
    """

    detector: str
    """detector.safetensors, as `openwit detector train` writes it."""
    run: str
    """The training set: the folder of an openwit run, or a glob of any WebDataset's .tar shards."""
    out: str
    """Folder of the result: shards/*.parquet, eval/*.parquet and neighbours.parquet."""
    eval: Paths = ()
    """Evaluation set as NAME=PATH: its images are described from several sides, and searched for."""
    neighbours: int = 20
    """Training images that are kept for an evaluation image, the most similar ones."""
    batch: int = 512
    """Images that the network takes at once."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Processes that decode."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto: the GPU if there is one."""
    check: bool = False
    """Match the inputs, print the plan and the effective configuration, and write nothing."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        for name in ("neighbours", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1")
        if self.workers < 0:
            raise ValueError("--workers must not be negative")
        evalsets.parse_all(self.eval)

    @property
    def sets(self) -> list[EvalSet]:
        """Return the evaluation sets in the order given."""
        return evalsets.parse_all(self.eval)
