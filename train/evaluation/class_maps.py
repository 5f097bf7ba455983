"""Which of ImageNet's classes are which of a shifted set's, as the sets are published (section 3.3).

ImageNet, -A, -R and Sketch have WordNet's ids as folders, ImageNetV2 numbers: one leads to the other by the
order of ImageNet's classes, which clip-benchmark ships. ObjectNet comes with a folder `mappings`;
ImageNet-Vid-Robust and YTBB-Robust with JSON of the set's classes and ImageNet's numbers.
"""

import ast
import functools
import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from pipeline import storage
from pipeline.data import evalsets
from train.evaluation.robustness import ClassMap, read_class_map

_WORDNET: Final = re.compile(r"n[0-9]{8}")
_CLASSES: Final = 1_000


@functools.cache
def wordnet_ids() -> tuple[str, ...]:
    """Return the WordNet ids of ImageNet's classes in their order; none without clip-benchmark."""
    spec = importlib.util.find_spec("clip_benchmark")
    if spec is None or not spec.submodule_search_locations:
        return ()
    # A literal in a module that needs torchvision: read, not run.
    source = (Path(spec.submodule_search_locations[0]) / "datasets" / "builder.py").read_text("utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "all_imagenet_wordnet_ids":
            return tuple(ast.literal_eval(node.value))
    return ()


def numbers(labels: Sequence[str]) -> dict[str, int]:
    """Return ImageNet's number of each label, WordNet ids or numbers; nothing where they are neither."""
    if all(label.isascii() and label.isdigit() and int(label) < _CLASSES for label in labels):
        return {label: int(label) for label in labels}
    if not all(_WORDNET.fullmatch(label) for label in labels):
        return {}
    # ImageNet's classes are in the order of their WordNet ids.
    known = wordnet_ids() or (tuple(sorted(labels)) if len(labels) == _CLASSES else ())
    place = {one: number for number, one in enumerate(known)}
    return {label: place[label] for label in labels} if set(labels) <= set(place) else {}


def by_number(labels: Sequence[str], source: Sequence[str]) -> ClassMap | None:
    """Return the map of a set whose labels name ImageNet's classes otherwise than the source's do."""
    found = sorted({label for label in labels if label})
    own, theirs = numbers(found), numbers(source)
    if not own or not theirs or not set(own.values()) <= set(theirs.values()):
        return None
    return _map(found, source, {theirs_label: label for label, number in own.items()
                                for theirs_label, other in theirs.items() if other == number})  # fmt: skip


def read(path: str, source: Sequence[str]) -> ClassMap:
    """Return the map of a file, or of ObjectNet's folder `mappings`; ValueError.

    Lines of a source class, a tab and the set's class; or JSON, {set's class: [ImageNet's numbers]}.
    """
    if path.lower().endswith(".json"):
        given = {one: several for one, several in _json(path).items() if isinstance(several, list)}
        return _numbered(path, given, source)
    if storage.is_folder(path):
        return _numbered(path, _objectnet(path), source)
    return read_class_map(path, source)


def _numbered(path: str, given: Mapping[str, Sequence[int]], source: Sequence[str]) -> ClassMap:
    theirs = {number: label for label, number in numbers(source).items()}
    if not theirs:
        raise ValueError(
            f"{path} has ImageNet's numbers: the source's classes must be WordNet ids or numbers"
        )
    if len(given) < 2:
        raise ValueError(f"{path} must lead to two classes or more: {{set's class: [numbers]}}")
    missing = [number for several in given.values() for number in several if number not in theirs]
    if missing:
        raise ValueError(f"{path}: the source has no class {missing[0]}")
    own = {theirs[number]: one for one, several in given.items() for number in several}
    return _map(list(given), source, own)


def _objectnet(folder: str) -> dict[str, list[int]]:
    """Return ImageNet's numbers of each of ObjectNet's folders, from the files that come with the set."""
    folders = {label: name for name, label in _json(f"{folder}/folder_to_objectnet_label.json").items()}
    lines = evalsets.all_lines(f"{folder}/imagenet_to_label_2012_v2")
    by_2012 = {int(number): int(index) for index, number in
               _json(f"{folder}/pytorch_to_imagenet_2012_id.json").items()}  # fmt: skip
    number_of = {line.strip(): by_2012[number] for number, line in enumerate(lines) if number in by_2012}
    found = {}
    for label, names in _json(f"{folder}/objectnet_to_imagenet_1k.json").items():
        found[folders[label]] = [number_of[name] for name in names.split("; ")]
    return found


def _json(path: str) -> dict[str, Any]:
    try:
        value = json.loads(storage.read_bytes(path))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must be a JSON object")
    return value


def _map(classes: list[str], source: Sequence[str], own: Mapping[str, str]) -> ClassMap:
    place = {label: number for number, label in enumerate(classes)}
    return ClassMap(classes, np.array([place[own[label]] if label in own else -1 for label in source]))
