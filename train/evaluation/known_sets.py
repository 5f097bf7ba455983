"""What is known of an evaluation set by its name: its main metric, prompts and class names.

The 27 sets of the paper with their metrics (arXiv:2103.00020, table 9), and the sets that share ImageNet's
prompts. The published prompts and class names are read from an installed clip-benchmark, which ships them;
without it the prompts are openwit's own.
"""

import functools
import importlib.metadata
import importlib.util
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

PACKAGE: Final = "clip-benchmark"


class KnownSet(NamedTuple):
    """A set that many people evaluate on; fields only."""

    title: str
    names: str
    """What people call it, in lower-case letters and digits, separated by spaces."""
    benchmark: str = ""
    """Its key in clip-benchmark's files; empty where they do not have it."""
    metric: str = "acc1"
    in_order: bool = False
    """Whether its usual labels, in order, are those of the published class names."""


_KNOWN: Final = (
    KnownSet("Food101", "food101 food", "food101"),
    KnownSet("CIFAR-10", "cifar10", "cifar10"),
    KnownSet("CIFAR-100", "cifar100", "cifar100"),
    KnownSet("Birdsnap", "birdsnap"),
    KnownSet("SUN397", "sun397 sun", "sun397"),
    KnownSet("Stanford Cars", "cars stanfordcars cars196", "cars"),
    KnownSet("FGVC Aircraft", "fgvcaircraft aircraft", "fgvc_aircraft", "mean_per_class_recall"),
    KnownSet("VOC2007", "voc2007 pascalvoc2007 voc07", "voc2007_multilabel", "map11"),
    KnownSet("DTD", "dtd describabletextures describabletexturesdataset textures", "dtd"),
    KnownSet("Oxford-IIIT Pets", "pets pet oxfordpets oxfordpet oxfordiiitpets oxfordiiitpet", "pets",
             "mean_per_class_recall"),
    KnownSet("Caltech101", "caltech101 caltech", "caltech101", "mean_per_class_recall"),
    KnownSet("Flowers102", "flowers102 flowers oxfordflowers oxfordflowers102 flower102", "flowers",
             "mean_per_class_recall", in_order=True),
    KnownSet("MNIST", "mnist", "mnist", in_order=True),
    KnownSet("FER2013", "fer2013 fer", "fer2013", in_order=True),
    KnownSet("STL-10", "stl10", "stl10"),
    KnownSet("EuroSAT", "eurosat", "eurosat", in_order=True),
    KnownSet("RESISC45", "resisc45 resisc", "resisc45"),
    KnownSet("GTSRB", "gtsrb", "gtsrb", in_order=True),
    KnownSet("KITTI Distance", "kitti kittidistance kitticlosestvehicledistance",
             "kitti_closest_vehicle_distance", in_order=True),
    KnownSet("Country211", "country211", "country211", in_order=True),
    KnownSet("PatchCamelyon", "pcam patchcamelyon", "pcam", in_order=True),
    KnownSet("UCF101", "ucf101"),
    KnownSet("Kinetics700", "kinetics700 kinetics7002019 k700", metric="mean_top1_top5"),
    KnownSet("CLEVR Counts", "clevrcounts clevr clevrcountall", "clevr_count_all", in_order=True),
    KnownSet("Hateful Memes", "hatefulmemes", metric="roc_auc"),
    KnownSet("Rendered SST2", "renderedsst2 sst2", "renderedsst2"),
    KnownSet("ImageNet", "imagenet imagenet1k ilsvrc2012 in1k", "imagenet1k", in_order=True),
    KnownSet("ImageNet's shifted sets", "imagenetv2 imagenetsketch imagenetr imageneta objectnet",
             "imagenet1k"),
    KnownSet("SVHN", "svhn", "svhn", in_order=True),
)  # fmt: skip
_BY_NAME: Final = {name: known for known in _KNOWN for name in known.names.split()}
_SPLIT: Final = re.compile(r"(?:test|validation|valid|val|dev|train)$")


class Published(NamedTuple):
    """What clip-benchmark ships of a set; fields only."""

    prompts: tuple[str, ...]
    """With {} for the class."""
    classes: tuple[str, ...]


def plain(name: str) -> str:
    """Return a set's name in lower-case letters and digits, without the split at its end."""
    letters = re.sub(r"[^a-z0-9]", "", name.lower())
    return _SPLIT.sub("", letters) or letters


def find(name: str) -> KnownSet | None:
    """Return the set that goes by this whole name, or None."""
    return _BY_NAME.get(plain(name))


def metric(name: str) -> str:
    """Return the main metric of a set: the paper's for its sets, else accuracy."""
    known = find(name)
    return known.metric if known else "acc1"


def published(name: str) -> Published | None:
    """Return a set's published prompts and class names; None for other sets, or without clip-benchmark."""
    known = find(name)
    prompts, classes = _files()
    if not known or known.benchmark not in prompts:
        return None
    filled = tuple(prompt.replace("{c}", "{}") for prompt in prompts[known.benchmark])
    return Published(filled, tuple(classes.get(known.benchmark, ())))


def class_names(name: str, labels: Sequence[str]) -> tuple[str, ...]:
    """Return the published names of a set's labels, in their order; none where they cannot be told.

    labels: all of the set, sorted.
    """
    known, found = find(name), published(name)
    if not known or not known.in_order or not found or len(found.classes) != len(labels):
        return ()
    return found.classes


def source() -> str:
    """Return which package the published prompts are from, "" without it."""
    return f"{PACKAGE} {importlib.metadata.version(PACKAGE)}" if _files()[0] else ""


@functools.cache
def _files() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return prompts and class names by clip-benchmark's keys; nothing where it is not installed."""
    spec = importlib.util.find_spec("clip_benchmark")
    if spec is None or not spec.submodule_search_locations:
        return {}, {}
    folder = Path(spec.submodule_search_locations[0]) / "datasets"
    prompts, classes = (
        json.loads((folder / f"en_{name}.json").read_text("utf-8"))
        for name in ("zeroshot_classification_templates", "classnames")
    )
    return prompts, classes
