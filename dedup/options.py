"""The options of `openwit overlap`."""

import datetime
import os
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import tyro

from pipeline.config import named
from pipeline.data import named_sets
from pipeline.data.named_sets import EvalSet

Several = tyro.conf.UseAppendAction[tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class OverlapConfig:
    """Find evaluation images in a training set, and their effect on the reported accuracy.

    Run the same command again to continue where it stopped, or with other thresholds or predictions.
    """

    COMMON: ClassVar = frozenset(
        {
            "run",
            "eval",
            "out",
            "predictions",
            "thresholds",
            "decontaminate",
            "detector",
            "text",
            "workers",
            "check",
        }
    )
    """Options that --help explains."""
    EXAMPLES: ClassVar = (
        "openwit overlap --run run --eval cifar10=eval/cifar10 --out overlap --detector lite",
        "openwit overlap --run 'cc12m/*.tar' --eval pets=pets.parquet --decontaminate pets --out found",
    )
    """Lines of the help."""

    run: str
    """The training set: the folder of an openwit run, or a glob of any WebDataset's .tar shards."""
    eval: Several
    """Evaluation set as NAME=PATH: a folder of class folders, a glob of .tar shards, or a Parquet file with
    image and label. May be given several times."""
    out: str
    """Folder of the result."""
    predictions: Several = ()
    """NAME=FILE: Parquet with example_id and correct, as `openwit eval --save-predictions` writes it."""
    thresholds: str = ""
    """JSON with a similarity for each set, as exported by the report; matches below it are not counted."""
    decontaminate: Several = ()
    """Name of a set whose overlaps go into drop.parquet, for `openwit crawl --drop` and `train --drop`."""
    published: Several = ()
    """NAME=YYYY-MM-DD: when a set was published. Sets from after the crawl are marked."""
    text: bool = False
    """Compare captions with the sets' captions and class names as well; reported apart from the images."""
    text_threshold: float = 0.7
    """Jaccard similarity of word pairs from which texts count as alike."""
    declared_sets: int = 0
    """Evaluation sets that were decided on, by which p-values are corrected; 0: those that are given."""
    detector: str = ""
    """Detector that finds pairs which hashes miss, reported beside them: lite, which ships with openwit
    unless there is a file of that name (`pip install openwit[train]`); detector.safetensors of `openwit
    detector train`; or any encoder as .onnx (`pip install openwit[onnx]`) or TorchScript .pt, with a .toml of
    its name beside it that says side = 288, and mean, deviation, similarity or views where they matter."""
    hashes: bool = True
    """Compare hashes and colours. --no-hashes leaves the search to --detector: a third of the cost for 400
    million images."""
    detector_precision: float = 0.0
    """Share of a set's examples that unrelated images shall leave alone before verification, which sets the
    detector's threshold for each set. At 0 about one unrelated image is looked at for each example."""
    training_crops: bool = True
    """Search for evaluation images that are a part of a training image, by crops of each. Without them the
    search takes two thirds of the time, and the images of a run are not decoded, which takes 5 ms each."""
    floor: float = 0.35
    """Smallest similarity of a candidate. Of unrelated photographs three pairs in 100,000 are above 0.35."""
    min_quality: int = 25
    """Least detail, 0 to 100, of an image that is compared; black frames and blanks match each other."""
    neighbours: int = 20
    """Training images that are kept for an evaluation image, the most similar ones."""
    planted: int = 100
    """Images of each set whose altered copies are searched for, to measure the recall: as if the copies stood
    in the training set, and reversed, as if they were the evaluation images."""
    gallery: int = 100
    """Pairs that the report shows of each set, evenly from the most to the least similar."""
    seed: int = 0
    """Decides which copies are planted and from which images the whitening is fitted."""
    device: Literal["", "cuda", "cpu"] = ""
    """cuda compares hashes on a GPU, by torch (`pip install openwit[train]`), with --workers 1: each process
    has a copy of the index there, 288 bytes a view. cpu is the same on the CPU, to try it."""
    check: bool = False
    """Match the inputs, print the plan and the effective configuration, and write nothing."""
    log_json: str = ""
    """Local file to which progress is appended, a JSON object per line; - is standard output."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Processes on this machine; on a cluster Beam's own flags decide."""

    def __post_init__(self) -> None:
        """Raise ValueError, which names the alternative, for options that cannot be carried out."""
        sets = [one.name for one in self.sets]
        if not sets:
            raise ValueError("give at least one --eval NAME=PATH")
        for option in ("predictions", "published"):
            for name, _ in named(getattr(self, option), option):
                _check_name(name, sets, option)
        for name in self.decontaminate:
            _check_name(name, sets, "decontaminate")
        for name, value in named(self.published, "published"):
            try:
                datetime.date.fromisoformat(value)
            except ValueError:
                raise ValueError(f"--published {name}={value}: not a date like 2021-02-26") from None
        for option in ("workers", "neighbours"):
            if getattr(self, option) < 1:
                raise ValueError(f"{option} must be at least 1, not {getattr(self, option)}")
        for option in ("declared_sets", "planted", "gallery", "seed"):
            if getattr(self, option) < 0:
                raise ValueError(f"{option} must not be negative, but is {getattr(self, option)}")
        if 0 < self.declared_sets < len(sets):
            raise ValueError(f"{len(sets)} sets are given, but only {self.declared_sets} declared")
        if not 0 <= self.floor <= 1 or not 0 < self.text_threshold <= 1:
            raise ValueError("floor and text_threshold are similarities, from 0 to 1")
        if not self.hashes and not self.detector:
            raise ValueError("--no-hashes leaves nothing to compare by: add --detector lite")
        if not 0 <= self.detector_precision < 1:
            raise ValueError(f"detector_precision must be from 0 to below 1, not {self.detector_precision}")
        if not 0 <= self.min_quality <= 100:
            raise ValueError(f"min_quality must be from 0 to 100, not {self.min_quality}")

    @property
    def sets(self) -> list[EvalSet]:
        """Return the evaluation sets in the order given."""
        return named_sets.parse_all(self.eval)

    @property
    def tests(self) -> int:
        """Return the declared number of sets."""
        return self.declared_sets or len(self.sets)


def _check_name(name: str, sets: list[str], option: str) -> None:
    if name not in sets:
        raise ValueError(f"--{option} {name}: there is no such --eval; given are {', '.join(sets)}")
