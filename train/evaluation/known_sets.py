"""The facts known of an evaluation set by its name: its main metric, splits, prompts and class names.

The 27 sets of the paper with their metrics and splits (arXiv:2103.00020, table 9), and the sets that share
ImageNet's prompts. The published prompts and class names are read from an installed clip-benchmark, which
ships them; without it the prompts are openwit's own.
"""

import ast
import functools
import importlib.metadata
import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

PACKAGE: Final = "clip-benchmark"
_NUMBERS: Final = "[0-9]+"
_EUROSAT: Final = (
    "AnnualCrop|Forest|HerbaceousVegetation|Highway|Industrial|Pasture|PermanentCrop|Residential|River"
    "|SeaLake"
)


class KnownSet(NamedTuple):
    """A set that many people evaluate on; fields only."""

    title: str
    names: str
    """Its usual names, in lower-case letters and digits, separated by spaces."""
    sizes: tuple[int, int] = (0, 0)
    """How many images the paper fits a probe on and scores (table 9); zeros where it has no such set."""
    split: str = ""
    """The names of those splits, where they are not "train" and "test"."""
    benchmark: str = ""
    """Its key in clip-benchmark's files; empty where they do not have it."""
    metric: str = "acc1"
    labels: str = ""
    """Pattern of its usual labels that, in order, have the published class names; empty where none have."""


_MEAN: Final = "mean_per_class_recall"
_KNOWN: Final = (
    KnownSet("Food101", "food101 food", (75_750, 25_250), "", "food101"),
    KnownSet("CIFAR-10", "cifar10", (50_000, 10_000), "", "cifar10"),
    KnownSet("CIFAR-100", "cifar100", (50_000, 10_000), "", "cifar100"),
    KnownSet("Birdsnap", "birdsnap", (42_283, 2_149)),
    KnownSet("SUN397", "sun397 sun", (19_850, 19_850), "the first of its splits", "sun397"),
    KnownSet("Stanford Cars", "cars stanfordcars cars196", (8_144, 8_041), "", "cars"),
    KnownSet("FGVC Aircraft", "fgvcaircraft aircraft", (6_667, 3_333), "fit on train and validation",
             "fgvc_aircraft", _MEAN),
    KnownSet("VOC2007", "voc2007 pascalvoc2007 voc07", (5_011, 4_952), "fit on train and validation",
             "voc2007_multilabel", "map11"),
    KnownSet("DTD", "dtd describabletextures describabletexturesdataset textures", (3_760, 1_880),
             "fit on train and validation", "dtd"),
    KnownSet("Oxford-IIIT Pets", "pets pet oxfordpets oxfordpet oxfordiiitpets oxfordiiitpet", (3_680, 3_669),
             "fit on trainval", "pets", _MEAN, _NUMBERS),
    KnownSet("Caltech101", "caltech101 caltech", (3_060, 6_085), "fit on 30 of each class, score the others",
             "caltech101", _MEAN, "BACKGROUND_Google|Faces|Faces_easy|Leopards|Motorbikes|[a-z_]+"),
    KnownSet("Flowers102", "flowers102 flowers oxfordflowers oxfordflowers102 flower102", (2_040, 6_149),
             "fit on train and validation", "flowers", _MEAN, _NUMBERS),
    KnownSet("MNIST", "mnist", (60_000, 10_000), "", "mnist", labels=_NUMBERS),
    KnownSet("FER2013", "fer2013 fer", (32_140, 3_574), "", "fer2013",
             labels="angry|disgust|fear|happy|neutral|sad|surprise"),
    KnownSet("STL-10", "stl10", (1_000, 8_000), "fit on a fold of 1,000", "stl10"),
    KnownSet("EuroSAT", "eurosat", (10_000, 5_000), "drawn at random", "eurosat",
             labels=f"{_NUMBERS}|{_EUROSAT}"),
    KnownSet("RESISC45", "resisc45 resisc", (3_150, 25_200), "drawn at random", "resisc45"),
    KnownSet("GTSRB", "gtsrb", (26_640, 12_630), "", "gtsrb", labels=_NUMBERS),
    KnownSet("KITTI Distance", "kitti kittidistance kitticlosestvehicledistance", (6_770, 711), "",
             "kitti_closest_vehicle_distance", labels=_NUMBERS),
    KnownSet("Country211", "country211", (43_200, 21_100), "fit on train and validation", "country211",
             labels=f"{_NUMBERS}|[A-Z][A-Z]"),
    KnownSet("PatchCamelyon", "pcam patchcamelyon", (294_912, 32_768), "fit on train and validation", "pcam",
             labels=_NUMBERS),
    KnownSet("UCF101", "ucf101", (9_537, 1_794), "middle frames; the mean of its three splits"),
    KnownSet("Kinetics700", "kinetics700 kinetics7002019 k700", (494_801, 31_669), "middle frames",
             metric="mean_top1_top5"),
    KnownSet("CLEVR Counts", "clevrcounts clevr clevrcountall", (2_000, 500), "drawn at random",
             "clevr_count_all", labels=_NUMBERS),
    KnownSet("Hateful Memes", "hatefulmemes", (8_500, 500), "score dev", metric="roc_auc"),
    KnownSet("Rendered SST2", "renderedsst2 sst2", (7_792, 1_821), "fit on train and validation",
             "renderedsst2"),
    KnownSet("ImageNet", "imagenet imagenet1k ilsvrc2012 in1k", (1_281_167, 50_000), "score validation",
             "imagenet1k", labels=_NUMBERS),
    KnownSet("ImageNet's shifted sets", "imagenetv2 imagenetsketch imagenetr imageneta objectnet",
             benchmark="imagenet1k", labels=_NUMBERS),
    KnownSet("SVHN", "svhn", benchmark="svhn", labels=_NUMBERS),
)  # fmt: skip
_BY_NAME: Final = {name: known for known in _KNOWN for name in known.names.split()}
_SPLIT: Final = re.compile(r"(?:test|validation|valid|val|dev|train|(?:split|fold)[0-9]{1,2})+$")
_NUMBERED: Final = re.compile(r"(.+?)[-_.](?:split|fold)[-_.]?[0-9]{1,2}$", re.IGNORECASE)


class Published(NamedTuple):
    """The files on a set that clip-benchmark ships; fields only."""

    prompts: tuple[str, ...]
    """With {} for the class."""
    classes: tuple[str, ...]


def plain(name: str) -> str:
    """Return a set's name in lower-case letters and digits, without the split at its end."""
    letters = re.sub(r"[^a-z0-9]", "", name.lower())
    return _SPLIT.sub("", letters) or letters


def whole(name: str) -> str:
    """Return the set that a split belongs to: "ucf101" for "ucf101-split2"; "" for any other name."""
    found = _NUMBERED.match(name)
    return found[1] if found else ""


def find(name: str) -> KnownSet | None:
    """Return the set that goes by this whole name, or None."""
    return _BY_NAME.get(plain(name))


def metric(name: str) -> str:
    """Return the main metric of a set: the paper's for its sets, else accuracy."""
    known = find(name)
    return known.metric if known else "acc1"


def published(name: str, language: str = "en") -> Published | None:
    """Return a set's published prompts and class names; None for other sets, or without clip-benchmark.

    ValueError for a language other than English that has none for this set.
    """
    known = find(name)
    prompts, classes = _files(language)
    if not known or known.benchmark not in prompts:
        if language != "en":
            raise ValueError(
                f"--language {language}: {PACKAGE} has no prompts in it for {name}; "
                "give --templates and --classes"
            )
        return None
    filled = tuple(prompt.replace("{c}", "{}") for prompt in prompts[known.benchmark])
    return Published(filled, tuple(classes.get(known.benchmark, ())))


def class_names(name: str, labels: Sequence[str], language: str = "en") -> tuple[str, ...]:
    """Return the published names of a set's labels, in their order; none where they cannot be told.

    labels: all of the set, sorted. WordNet ids are ImageNet's, of whatever set and however many.
    """
    by_id = _of_synsets(language)
    if labels and all(label in by_id for label in labels):
        return tuple(by_id[label] for label in labels)
    known = find(name)
    if not known or not known.labels or not all(re.fullmatch(known.labels, label) for label in labels):
        return ()
    found = _files(language)[1].get(known.benchmark, [])
    if known.title == "Caltech101" and len(labels) == len(found) - 1:
        found = found[1:]  # without the background
    return tuple(found) if len(found) == len(labels) else ()


def source() -> str:
    """Return which package the published prompts are from, "" without it."""
    return f"{PACKAGE} {importlib.metadata.version(PACKAGE)}" if _files("en")[0] else ""


@functools.cache
def _folder() -> Path | None:
    spec = importlib.util.find_spec("clip_benchmark")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / "datasets"


@functools.cache
def _files(language: str) -> tuple[Mapping[str, list[str]], Mapping[str, list[str]]]:
    """Return prompts and class names by key; nothing where the package or the language is missing."""
    folder = _folder()
    if folder is None or not re.fullmatch("[a-z]{2,3}", language):
        return {}, {}
    if not (folder / f"{language}_classnames.json").exists():
        return {}, {}
    prompts, classes = (
        json.loads((folder / f"{language}_{name}.json").read_text("utf-8"))
        for name in ("zeroshot_classification_templates", "classnames")
    )
    return prompts, classes


@functools.cache
def _of_synsets(language: str) -> Mapping[str, str]:
    """Return ImageNet's class names by WordNet id, whose order clip-benchmark has in its code."""
    folder, names = _folder(), _files(language)[1].get("imagenet1k", [])
    if folder is None or not names:
        return {}
    for node in ast.parse((folder / "builder.py").read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "all_imagenet_wordnet_ids":
            return dict(zip(ast.literal_eval(node.value), names, strict=True))
    return {}
