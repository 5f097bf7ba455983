"""The options of `openwit eval`; importing this needs no torch."""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import ClassVar, Final, Literal, get_args

import tyro

from pipeline.config import named
from pipeline.data import named_sets
from pipeline.data.named_sets import EvalSet
from train.evaluation import known_sets

Task = Literal["zeroshot", "linear-probe", "few-shot", "retrieval", "robustness", "bias", "geolocation"]
Metric = Literal["acc1", "acc5", "mean_top1_top5", "mean_per_class_recall", "roc_auc", "map11"]
Corruption = Literal["noise", "blur", "fog", "snow", "jpeg"]
LEVELS: Final = (1, 2, 3, 4, 5)
FitSplit = Literal["train", "validation"]
OfSet = Literal["classes", "templates", "metric", "class_map", "frames", "options", "actions"]
Several = tyro.conf.UseAppendAction[tuple[str, ...]]

_FITTED: Final = ("linear-probe", "few-shot")


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Measure checkpoints as CLIP's paper does: results.json, predictions and report.html, with intervals.

    Run the same command again to continue where it stopped: features and classifiers are kept in --out.
    """

    COMMON: ClassVar = frozenset(
        {
            "task",
            "out",
            "checkpoint",
            "data",
            "train",
            "classes",
            "templates",
            "metric",
            "shots",
            "save_predictions",
            "batch_size",
            "device",
            "check",
        }
    )
    """Options that --help explains."""
    EXAMPLES: ClassVar = (
        "openwit eval --checkpoint model --task zeroshot --data pets=eval/pets --out evaluation",
        "openwit eval --checkpoint model --task retrieval --data 'coco=coco/*.tar' --out retrieval",
    )
    """Lines of the help."""

    task: tyro.conf.UseAppendAction[tuple[Task, ...]]
    """Task to measure. May be given several times: one report has them all."""
    out: str
    """Folder of the result."""
    checkpoint: Several = ()
    """A training run's folder, a checkpoint in it, or weights in OpenAI's, open_clip's or Hugging Face's
    layout; PATH or NAME=PATH. May be given several times."""
    data: Several = ()
    """Evaluation set as NAME=PATH: a folder of class folders (or of images alone, to be predicted), a glob of
    .tar shards, or a Parquet file with image, label and optionally caption, group. May be given several
    times. Sets named NAME-split1, NAME-split2, ... are also averaged, as NAME."""
    train: Several = ()
    """NAME=PATH: labelled images that a set's probe is fitted on, never those it is scored on; for
    geolocation the reference images."""
    validation: Several = ()
    """NAME=PATH: images on which a probe's regularisation is chosen; by default a fifth of --train."""
    features: Several = ()
    """FILE or ENCODER=FILE: Parquet with features, label, split (train, validation, test) and optionally
    dataset, example_id: another encoder's features, for linear-probe, few-shot and robustness, where sets
    without train rows are shifted ones; no checkpoint needed."""
    gflops: str = ""
    """CSV with encoder and gflops, those of one image's forward pass, a multiply-add counted twice: places
    other encoders (--features) in the figures over compute."""
    check: bool = False
    """Match the inputs, print the plan and the effective configuration, and write nothing."""

    classes: Several = ()
    """Class names, FILE for all sets or NAME=FILE: a line each, or the set's label, a tab and the name; a
    label on several lines has all their names, which are averaged. By default as the set has them, or as
    published: WordNet ids (n01440764) are ImageNet's classes, in its subsets and shifted sets too."""
    language: str = "en"
    """Language of the published class names and prompts; clip-benchmark has ImageNet's in ar, cn, it, jp."""
    templates: Several = ()
    """Prompts, FILE for all sets or NAME=FILE: one per line, {} for the class. By default those published for
    a set of that name, where clip-benchmark is installed (pip install --no-deps clip-benchmark), else
    openwit's own; generic ones for other sets."""
    metric: Several = ()
    """Main metric, for all sets or NAME=METRIC: acc1, acc5, mean_top1_top5, mean_per_class_recall, roc_auc,
    or map11 (labels may then hold several classes, separated by |). By default the paper's (table 9) for its
    sets, told by their whole names, else acc1."""
    subset: Several = ()
    """Score these examples apart as well, for zeroshot and linear-probe: FILE or NAME=FILE with an example_id
    a line, such as the clean/NAME.txt of `openwit overlap`. May be given several times."""
    compare: Several = ()
    """NAME=FILE: other predictions as Parquet with example_id and correct or prediction, and dataset where
    several sets share ids; or people's answers as CSV with example_id, person, answer (empty: does not know)
    and shots, how many examples of each class the person was shown."""

    shots: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Labelled examples of each class for few-shot, and for robustness."""
    draws: int = 5
    """Random draws of the few-shot examples; which were drawn is in few_shot_draws.json."""
    shifted: Several = ()
    """Set of --data that robustness measures as a shifted copy of the first set, the source. May be given
    several times; by default every set but the first."""
    class_map: Several = ()
    """FILE for all shifted sets or NAME=FILE, where a set's classes are some of the source's, or unite them:
    each line holds a class of the source, a tab, and the set's class; JSON of the set's classes and
    ImageNet's numbers; or ObjectNet's folder mappings. ImageNet-A, -R, V2 and Sketch need none."""
    frames: Several = ()
    """NAME=pmsets.json of ImageNet-Vid-Robust or YTBB-Robust, labels.json beside it: a shifted set's frames
    by anchor, example ids, for PM-0 and PM-10."""
    options: Several = ()
    """NAME=FILE: JSON of example ids and lists of names, each image's own classes to choose among (IIIT5K's
    lexicons): a zero-shot result beside that with the set's classes."""
    actions: Several = ()
    """NAME=rareact.csv, for a set whose images are named by its ids, such as 14.jpg: mWAP and mSAP."""
    baseline: str = ""
    """CSV with model, SOURCE and shifted sets as columns, accuracies from 0 to 1: the reference models from
    which effective robustness is measured."""
    corruptions: tyro.conf.UseAppendAction[tuple[Corruption | Literal["all"], ...]] = ()
    """Corruption of the source set at five levels, as further shifted sets. May be given several times."""
    bias_classes: str = ""
    """File with a class name a line, such as occupations: how often each is assigned to each group. A tab and
    a category after the name, such as crime: their sums as well."""
    bias_added: str = ""
    """File with further class names: the rates again with these added to --bias-classes."""
    retrieval_template: str = "{}"
    """Prompt around every caption in retrieval; the paper's is "a photo of {}"."""

    limit: int = 0
    """Evaluate at most this many examples per set, those of smallest hash; 0: all."""
    gallery: int = 24
    """Examples of each set that the report shows, drawn at random; in retrieval a third as many captions."""
    confidence: float = 0.95
    """Of all intervals."""
    seed: int = 0
    """Decides few-shot draws, the validation split, bootstrap samples, corruptions and the gallery."""
    save_predictions: bool = False
    """Write predictions/NAME.parquet, which `openwit overlap --predictions` reads."""

    vocab: str = ""
    """Vocabulary of imported weights: a file of merges; by default that beside them, else CLIP's own from an
    installed open_clip_torch."""
    activation: Literal["auto", "quick-gelu", "gelu"] = "auto"
    """Activation of imported weights; auto: as their configuration says, else OpenAI's quick-gelu."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto: the GPU if there is any."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: autocast, faster on a GPU, accuracies differ by a tenth of a point or so."""
    batch_size: int = 256
    """Images encoded at once."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Threads that decode images."""

    def __post_init__(self) -> None:
        """Raise ValueError for options that contradict each other."""
        self._check_inputs()
        self._check_names()
        for name in ("draws", "batch_size", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(self, name)}")
        for name in ("limit", "gallery", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name} must not be negative, but is {getattr(self, name)}")
        if not 0.5 <= self.confidence < 1:
            raise ValueError(f"--confidence must be from 0.5 to below 1, not {self.confidence}")
        if not self.shots or min(self.shots) < 1 or len(set(self.shots)) < len(self.shots):
            raise ValueError("--shots takes different numbers from 1, such as --shots 1 2 4 8 16")
        if "{}" not in self.retrieval_template:
            raise ValueError("--retrieval-template needs {} where the caption goes")

    def _check_inputs(self) -> None:
        if not self.task:
            raise ValueError(f"--task is needed: one or more of {', '.join(get_args(Task))}")
        if not self.checkpoint and not self.features:
            raise ValueError("give at least one --checkpoint, or --features for another encoder's probe")
        if self.features and not any(task in (*_FITTED, "robustness") for task in self.task):
            raise ValueError("--features are for --task linear-probe, few-shot and robustness")
        if self.gflops and not self.features:
            raise ValueError("--gflops is of other encoders: give --features as well")
        if self.checkpoint and not self.data:
            raise ValueError("give at least one --data NAME=PATH")
        if self.checkpoint and any(task in _FITTED for task in self.task) and not self.train:
            raise ValueError("linear-probe and few-shot need --train NAME=PATH: the images to fit on")
        robust = "robustness" in self.task
        if robust and self.checkpoint and len(self.sets) < 2 and not self.corruptions:
            raise ValueError("robustness needs a second --data, the shifted set, or --corruptions")
        for name in ("shifted", "class_map", "baseline", "corruptions", "frames"):
            if getattr(self, name) and not robust:
                raise ValueError(f"--{name.replace('_', '-')} is for --task robustness")
        for name in ("bias_classes", "bias_added"):
            if getattr(self, name) and "bias" not in self.task:
                raise ValueError(f"--{name.replace('_', '-')} is for --task bias")
        if self.bias_added and not self.bias_classes:
            raise ValueError("--bias-added adds to --bias-classes: give both")
        if self.subset and not {"zeroshot", "linear-probe"} & set(self.task):
            raise ValueError("--subset is for --task zeroshot and linear-probe")
        for name in ("options", "actions"):
            if getattr(self, name) and "zeroshot" not in self.task:
                raise ValueError(f"--{name} is for --task zeroshot")
        if "geolocation" in self.task and not self.train:
            raise ValueError("geolocation needs --train NAME=PATH: reference images with places")
        if self.compare and "zeroshot" not in self.task:
            raise ValueError("--compare puts predictions beside zero-shot ones: add --task zeroshot")

    def _check_names(self) -> None:
        known = [one.name for one in self.sets]
        for option in ("train", "validation"):
            names = [name for name, _ in named(getattr(self, option), option.replace("_", "-"))]
            twice = [name for name, count in Counter(names).items() if count > 1]
            if twice:
                raise ValueError(f"--{option.replace('_', '-')} {twice[0]} is given twice")
            for name in names:
                _known(name, known, option)
        for name in self.shifted:
            _known(name, known[1:], "shifted")
        for option in ("frames", "options", "actions"):
            for name, _ in named(getattr(self, option), option):
                _known(name, known, option)
        for option in ("classes", "templates", "metric", "subset", "class_map"):
            for value in getattr(self, option):
                name, equals, _ = value.partition("=")
                if equals:
                    _known(name, known, option)
        if any("=" not in value for value in self.subset) and len(known) > 1:
            raise ValueError("--subset FILE: say which set it is of, --subset NAME=FILE")
        for value in self.metric:
            metric = value.rpartition("=")[2]
            if metric not in get_args(Metric):
                raise ValueError(f"--metric {metric}: choose one of {', '.join(get_args(Metric))}")
        named(self.compare, "compare")
        twice = [name for name, count in Counter(name for name, _ in self.encoders).items() if count > 1]
        if twice:
            raise ValueError(f"two --features are called {twice[0]}: name them, ENCODER=FILE")

    @property
    def sets(self) -> list[EvalSet]:
        """Return the evaluation sets in the order given."""
        return named_sets.parse_all(self.data)

    @property
    def encoders(self) -> list[tuple[str, str]]:
        """Return name and file of each of --features; without a name the file's."""
        pairs = [value.rpartition("=") for value in self.features]
        return [(name or PurePosixPath(path).stem, path) for name, _, path in pairs]

    def split(self, option: FitSplit, name: str) -> str:
        """Return the path of a set's training or validation images, "" if none was given."""
        return dict(named(getattr(self, option), option)).get(name, "")

    def for_set(self, option: OfSet, name: str) -> str:
        """Return a set's own value of an option, else that for all sets, else ""."""
        values = [value.partition("=") for value in getattr(self, option)]
        own = [rest for key, equals, rest in values if equals and key == name]
        common = [key for key, equals, _ in values if not equals]
        last: str = (own or common or [""])[-1]
        return last

    def main_metric(self, name: str) -> str:
        """Return a set's main metric, which tables and figures show: the paper's for its sets, else acc1."""
        return self.for_set("metric", name) or known_sets.metric(name)

    def several(self, name: str) -> bool:
        """Return whether a set's examples may have several classes."""
        return self.main_metric(name) == "map11"

    def fits(self, name: str) -> bool:
        """Return whether probes are fitted for a set."""
        wanted = {*_FITTED, *(("robustness",) if name == self.sets[0].name else ())}
        return bool(self.split("train", name)) and bool(wanted & set(self.task))

    @property
    def corrupted(self) -> list[tuple[Corruption, int]]:
        """Return the corruptions asked for, each with its levels."""
        kinds: tuple[Corruption, ...] = get_args(Corruption)
        wanted = [kind for kind in kinds if kind in self.corruptions or "all" in self.corruptions]
        return [(kind, level) for kind in wanted for level in LEVELS]


def _known(name: str, known: list[str], option: str) -> None:
    if name not in known:
        flag = option.replace("_", "-")
        raise ValueError(f"--{flag} {name}: there is no such --data; given are {', '.join(known)}")
