"""The classes that a model tells apart: accuracy by class, its confusions, the matrix of few classes."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

MATRIX: Final = 20
"""Classes up to which the whole matrix is given."""
_MOST: Final = 1_000  # classes that are listed, those with the lowest accuracy
_SHADES: Final = 5


def by_class(truth: npt.NDArray[np.bool_], logits: npt.NDArray[Any], names: list[str]) -> dict[str, Any]:
    """Return chance, a row per class by rising accuracy, and the matrix of few classes.

    truth: bool [n, C], logits: [n, C]. chance is the accuracy of always answering the commonest class. {}
    where examples have several classes.
    """
    if not len(truth) or (truth.sum(axis=1) != 1).any():
        return {}
    own, answered, count = truth.argmax(axis=1), logits.argmax(axis=1), len(names)
    matrix = np.zeros((count, count), np.int64) if count <= 4096 else None
    if matrix is None:
        return {"chance": float(np.bincount(own).max() / len(own))}
    np.add.at(matrix, (own, answered), 1)
    examples = matrix.sum(axis=1)
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    rows = [
        {"name": names[n], "examples": int(examples[n]), "accuracy": float(matrix[n, n] / examples[n]),
         "taken_for": names[int(wrong[n].argmax())] if wrong[n].any() else "",
         "mistakes": int(wrong[n].max())}
        for n in np.flatnonzero(examples)
    ]  # fmt: skip
    rows.sort(key=lambda row: (row["accuracy"], row["name"]))
    found: dict[str, Any] = {"chance": float(examples.max() / len(own)), "rows": rows[:_MOST]}
    if count <= MATRIX:
        share = matrix / np.maximum(examples, 1)[:, None]
        found["matrix"] = matrix.tolist()
        found["shades"] = np.ceil(share * _SHADES).astype(int).tolist()
        found["names"] = names
    return found
