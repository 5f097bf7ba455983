"""The options of any training run, of `openwit train` and `openwit export`; importing this needs no torch."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import tyro

from pipeline.data.architectures import ARCHITECTURES, RECIPES, Recipe
from train.caption_fields import CaptionFields

Model = Literal[
    "RN50", "RN101", "RN50x4", "RN50x16", "RN50x64",
    "ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336", "tiny",
]  # fmt: skip
Paths = tyro.conf.UseAppendAction[tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class RunConfig(ABC):
    """The options of every training run, whatever is trained."""

    recipes: ClassVar[Mapping[str, Recipe]]
    """The published recipe of each model: the defaults of the options of the same names."""
    semantic: ClassVar[tuple[str, ...]] = (
        "shards", "model", "image_size", "batch_size", "lr", "warmup", "weight_decay", "grad_clip", "seed",
        "weights", "drop", "keep", "keep_if", "shuffle",
    )  # fmt: skip
    """Options that decide the result: a run is resumed with the same values."""

    shards: Paths
    """A run's folder, or a WebDataset as a pattern of tars. May be given several times."""
    out: str
    """Folder of the training run: checkpoints/, report.html, metrics.jsonl, config.toml."""
    model: str
    """Which model."""
    check: bool = False
    """Find and count the samples, print the plan and the effective configuration, and write nothing."""

    image_size: int | None = None
    """Side in pixels of the images that the network takes."""
    batch_size: int | None = None
    """Samples of a step over all processes."""
    accumulate: int = 1
    """Micro-batches of a step on each process: less memory, a third more time. The gradient stays the same,
    but where there are batch norms (CLIP's ResNets and tiny): those see micro-batches alone."""
    max_minutes: float | None = None
    """Save and stop after so much time in this process; the schedule does not change."""
    lr: float | None = None
    """Peak learning rate."""
    warmup: int | None = None
    """Steps of linear warm-up; by default CLIP's 2,000 in runs of 10,000 steps or more, at most a tenth
    of a shorter run."""
    weight_decay: float | None = None
    """Decoupled weight decay of all parameters but gains and biases."""
    grad_clip: float | None = None
    """Clip the gradient's norm; the paper does not."""
    seed: int = 0
    """Decides initial weights, order and how each sample is altered."""

    resume: bool = False
    """Continue from the newest checkpoint in --out; start from the beginning if there is none."""
    checkpoint_every: int = 1_000
    """Steps between checkpoints; the last step and SIGTERM always write a checkpoint."""
    keep_checkpoints: int = 3
    """Newest checkpoints to keep."""

    weights: tyro.conf.UseAppendAction[tuple[float, ...]] = ()
    """How often an epoch passes over a --shards, given once for each; 0.5 takes each half in turn."""
    drop: Paths = ()
    """Parquet file whose column uid names samples to leave out. May be given several times."""
    keep: Paths = ()
    """Parquet file whose column uid names the only samples to take. May be given several times."""
    keep_if: str | None = None
    """Condition on numbers of the shards' Parquet files, and on scores that `openwit score` has added, that a
    sample must satisfy: "score_clip >= 0.28 and width > 255"; top(score_clip, 0.3) takes the best 30%."""
    shuffle: int = 131_072
    """Samples that are shuffled together."""
    workers: int | None = None
    """Processes that decode, for each training process; by default the CPUs, shared out."""
    cache: str = ""
    """Local folder for copies of remote shards; by default ~/.cache/openwit/shards."""
    cache_gb: int = 200
    """Most space for copies of remote shards."""

    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """auto: bf16 autocast on a GPU, fp32 on a CPU."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the network, transformers block by block; auto: on a GPU."""
    checkpointing: bool = False
    """Recompute activations in backward: far less memory, a third more arithmetic."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto: the GPU of this process if there is any."""

    eval: Paths = ()
    """NAME=PATH of an evaluation set. May be given several times."""
    eval_every: int = 1_000
    """Steps between evaluations; one always follows the last step."""
    log_every: int = 10
    """Steps between lines of the log and of metrics.jsonl."""
    tensorboard: bool = False
    """Write TensorBoard's event files, too."""
    compare: Paths = ()
    """Folder of another training run, whose curves are drawn beside in report.html, at most four. May be
    given several times."""

    def __post_init__(self) -> None:
        """Raise ValueError for options that contradict each other."""
        if not self.shards:
            raise ValueError("--shards is needed: a run's folder or a pattern of tars")
        for name in (
            "accumulate", "checkpoint_every", "keep_checkpoints", "eval_every", "log_every", "shuffle",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1")
        self.refuse_not_positive("batch_size", "max_minutes", "lr")

    def refuse_not_positive(self, *names: str) -> None:
        """Raise ValueError if one of these options is given and not above 0."""
        for name in names:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"--{name.replace('_', '-')} must be positive")

    def recipe(self) -> Recipe:
        """Return the model's recipe with the options that were given."""
        published = vars(self.recipes[self.model])
        given = {name: getattr(self, name, None) for name in published}
        return Recipe(**{name: published[name] if v is None else v for name, v in given.items()})

    @abstractmethod
    def planned_steps(self, epoch_steps: Sequence[int]) -> int:
        """Return the steps of the whole run, given those of each epoch; the last holds for later epochs."""

    def compiles(self, device: str) -> bool:
        """Return whether to compile on this type of device."""
        return device == "cuda" if self.compile == "auto" else self.compile == "on"

    def uses_bf16(self, device: str) -> bool:
        """Return whether to run the network in bf16 autocast on this type of device."""
        return device == "cuda" if self.precision == "auto" else self.precision == "bf16"


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """Train CLIP on finished runs or any WebDataset.

    Options left out are the paper's for the model. Several GPUs: `torchrun --nproc-per-node N -m train ...`.
    """

    COMMON: ClassVar = frozenset(
        {
            "shards",
            "out",
            "model",
            "batch_size",
            "epochs",
            "max_steps",
            "max_minutes",
            "lr",
            "seed",
            "resume",
            "init_from",
            "eval",
            "check",
        }
    )
    """Options that --help explains."""
    EXAMPLES: ClassVar = (
        "openwit train --shards run --model ViT-B-32 --out model",
        "openwit train --shards 'other/{00000..00041}.tar' --model tiny --out small --max-minutes 10",
    )
    """Lines of the help."""

    recipes = RECIPES
    semantic = (
        *RunConfig.semantic, "epochs", "max_steps", "beta1", "beta2", "eps", "crop", "enlarge",
        "balance", "loss", "lock", "ema", "patch_dropout", "captions",
        "objective",
    )  # fmt: skip

    model: Model = "ViT-B-32"
    """Which of CLIP's nine models, or `tiny` for a CPU."""
    image_size: int | None = None
    """Resolution in pixels; another than the model's own changes its position embeddings alone."""
    eval: Paths = ()
    """NAME=PATH of a labelled set for zero-shot accuracy while training. May be given several times."""

    epochs: int | None = None
    """Passes over the sources."""
    max_steps: int | None = None
    """Stop after this many steps; the schedule ends there too."""
    beta1: float | None = None
    """Adam's decay of the mean."""
    beta2: float | None = None
    """Adam's decay of the squares."""
    eps: float | None = None
    """Adam's epsilon."""
    init_from: str = ""
    """Start from these weights: a run, a checkpoint, or weights in OpenAI's, open_clip's or HF's layout."""
    activation: Literal["auto", "quick-gelu", "gelu"] = "auto"
    """Activation of the transformers; auto: that of --init-from by its configuration, else OpenAI's
    quick-gelu. Most of open_clip's own weights need gelu."""
    crop: Literal["paper", "crop", "random-resized"] = "paper"
    """paper: shorter side to N, then N x N; crop: N x N as stored; random-resized: 90 to 100% of the area."""
    resize: Literal["auto", "workers", "device"] = "auto"
    """Who resizes the paper's crop: the processes that decode, or the device, in batches, which spares them
    half of their work; auto: a GPU does. Pixels differ by roundings, so a run keeps to its way."""
    balance: int | None = None
    """Draw samples again in each epoch: a query takes each sample with probability BALANCE over the samples
    that contain the query (MetaCLIP's online balance). Crawl the run with a larger --per-query."""
    objective: Literal["contrastive", "bag-of-words", "caption"] = "contrastive"
    """The task to learn: which caption belongs to which picture; or, the paper's baselines (section 2.3),
    which words a picture's caption has, or the caption word for word. --eval measures the accuracy of all
    three."""
    loss: Literal["clip", "siglip"] = "clip"
    """clip: the paper's, a softmax over the batch; siglip: each pair judged by itself (arXiv:2303.15343)."""
    lock: Literal["none", "image", "text"] = "none"
    """A tower of --init-from to keep as it is while the other is trained (image: LiT, arXiv:2111.07991)."""
    patch_dropout: float = 0.0
    """Leave out this share of each picture's patches, another at each epoch (0.5: arXiv:2212.00794): a ViT's
    image tower costs so much less. Best followed by a short run without it, from --init-from."""
    captions: Paths = ()
    """NAME=WEIGHT: a field of the samples' JSON to draw captions from, and how often; txt is the text itself.
    May be given several times. By default one of a sample's `captions`, all alike, or its text."""
    fsdp: bool = False
    """Share weights, gradients and moments out over the processes (FSDP2), where one GPU cannot hold them."""
    ema: float | None = None
    """Average the weights over time, for example 0.9999: the share of the average that each step keeps.
    Evaluations and exports take it."""
    enlarge: bool = False
    """Accept shards whose pictures are smaller than the model's resolution."""
    vocab: str = ""
    """Vocabulary: a file of merges, Hugging Face's tokenizer.json, or `clip` for that of an installed
    open_clip_torch; else it is learned."""

    def __post_init__(self) -> None:
        """Raise ValueError for options that contradict each other."""
        super().__post_init__()
        self.refuse_not_positive("epochs", "max_steps", "balance")
        if self.balance and self.weights:
            raise ValueError("--balance says how much of each --shards an epoch takes, and so does --weights")
        if self.resize == "device" and self.crop != "paper":
            raise ValueError(f"--resize device is for --crop paper: leave it out with --crop {self.crop}")
        if self.resume and self.init_from:
            raise ValueError("--resume continues a run and --init-from starts one: give one of them")
        if self.lock != "none" and not (self.init_from or self.resume):
            raise ValueError(f"--lock {self.lock} keeps a trained tower: give its weights with --init-from")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"--ema {self.ema} must lie between 0 and 1, as 0.9999 does")
        if not 0 <= self.patch_dropout < 1:
            raise ValueError(f"--patch-dropout {self.patch_dropout} must be at least 0 and below 1")
        if self.patch_dropout and self.lock == "image":
            raise ValueError(
                "--patch-dropout makes training an image tower cheaper, and --lock image trains none"
            )
        if self.objective != "contrastive" and self.loss != "clip":
            raise ValueError(f"--loss {self.loss} is of the contrastive objective: leave one of them out")
        CaptionFields.parse(self.captions)

    @property
    def caption_fields(self) -> CaptionFields:
        """Return the fields to draw captions from."""
        return CaptionFields.parse(self.captions)

    def planned_steps(self, epoch_steps: Sequence[int]) -> int:
        """Return the steps of all epochs, or --max-steps if those are fewer."""
        epochs = self.recipe().epochs
        steps = sum(epoch_steps[:epochs]) + max(0, epochs - len(epoch_steps)) * epoch_steps[-1]
        return min(steps, self.max_steps) if self.max_steps else steps


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a checkpoint's weights for open_clip, OpenAI's code or Hugging Face."""

    EXAMPLES: ClassVar = ("openwit export --checkpoint model --format open_clip --out weights",)
    """Lines of the help."""

    checkpoint: str
    """A training run's folder, or a checkpoint in it."""
    format: Literal["open_clip", "openai", "hf"]
    """open_clip: loads as local-dir:OUT; openai: a state_dict; hf: a folder for CLIPModel.from_pretrained."""
    out: str
    """Folder to write, local."""


assert set(ARCHITECTURES) == set(Model.__args__)  # type: ignore[attr-defined]
