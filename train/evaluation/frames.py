"""Frames of videos: PM-0 and PM-10 of ImageNet-Vid-Robust and YTBB-Robust (Shankar et al. 2019; table 16).

PM-0 is the accuracy on anchor frames; for PM-10 every frame within ten of the anchor that looks alike must be
right as well. Which these are is published with the sets, in pmsets.json, and their classes in labels.json.
"""

import json
import posixpath
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline import storage
from train.evaluation.features import Features


class Anchors(NamedTuple):
    """Frames that are scored together; fields only."""

    near: dict[str, list[str]]
    """By anchor, the example ids of the frames near it."""
    labels: dict[str, set[str]]
    """By example, the classes that are right; empty without labels.json."""


def read(path: str, found: Features) -> Anchors:
    """Return the frames of a pmsets.json, {anchor: [frames]}, all of example ids; ValueError.

    labels.json beside it says {frame: [classes]}; without it an example's own label counts.
    """
    near = _read(path)
    known = set(found.example_ids)
    if lost := [one for anchor, frames in near.items() for one in (anchor, *frames) if one not in known]:
        raise ValueError(
            f"{path} names {lost[0]!r}, which is no example of the set ({len(lost):,} are missing)"
        )
    beside = posixpath.join(posixpath.dirname(path), "labels.json")
    given = _read(beside) if storage.exists(beside) else {}
    return Anchors(near, {one: set(several) for one, several in given.items()})


def _read(path: str) -> dict[str, list[str]]:
    try:
        value = json.loads(storage.read_bytes(path))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(value, dict) or not all(isinstance(one, list) for one in value.values()) or not value:
        raise ValueError(f"{path} must be a JSON object of lists")
    return {key: [str(one) for one in several] for key, several in value.items()}


def relabelled(found: Features, labels: Mapping[str, set[str]]) -> Features:
    """Return the features with the first of each example's classes as its label, where they are given."""
    if not labels:
        return found
    kept = found.take(np.arange(len(found)))
    kept.labels[:] = [min(labels.get(one, {""})) for one in found.example_ids]
    return kept


def pm(
    anchors: Anchors, found: Features, guesses: npt.NDArray[np.int64], classes: Sequence[str]
) -> tuple[int, int]:
    """Return how many anchors are right, and how many with all frames near them; guesses int64 [n]."""
    right = {}
    for one, label, guess in zip(found.example_ids, found.labels, guesses, strict=True):
        name = classes[guess] if guess < len(classes) else ""
        right[one] = name in anchors.labels[one] if one in anchors.labels else name == label
    alone = [right[anchor] for anchor in anchors.near]
    together = [
        right[anchor] and all(right[one] for one in frames) for anchor, frames in anchors.near.items()
    ]
    return sum(alone), sum(together)
