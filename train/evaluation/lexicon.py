"""Classes of its own for each image: IIIT5K's lexicons (table 14), answers to choose among (section 7.2)."""

import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline import storage
from train.evaluation.metrics import Scores


def read(path: str, example_ids: Sequence[str]) -> list[list[str]]:
    """Return the names that each example may have, of JSON {example id: [names]}; ValueError."""
    try:
        value = json.loads(storage.read_bytes(path))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must be a JSON object of example ids and lists of names")
    found = []
    for one in example_ids:
        names = value.get(one)
        if not isinstance(names, list) or len(names) < 2 or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{path}: {one!r} needs a list of two names or more")
        found.append(list(dict.fromkeys(names)))
    return found


def hits(
    scores: Scores, given: Sequence[Sequence[str]], names: Sequence[str], labels: Sequence[str]
) -> npt.NDArray[np.bool_]:
    """Return bool [n]: whether an example's label is the best of its own names; of equals the first.

    scores: [n, names]. An example whose label is not among its names is wrong.
    """
    place = {name: number for number, name in enumerate(names)}
    right = []
    for row, (own, label) in enumerate(zip(given, labels, strict=True)):
        columns = [place[name] for name in own]
        right.append(own[int(scores[row, columns].argmax())] == label)
    return np.array(right, np.bool_)
