"""The bias probe (section 7.1): error rates by group, and which classes a model assigns to whom.

The paper's point is that the list of classes is a decision: adding one ("child") moved what was assigned to
people under 20. So the rates are given for a user's list, and again with classes added.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from train.evaluation.bootstrap import exact

Bools = npt.NDArray[np.bool_]


def error_rates(correct: Bools, groups: Sequence[str], confidence: float) -> list[dict[str, Any]]:
    """Return for each group, in order of name: examples, error rate and its exact interval.

    correct: bool [n]; groups: those of the n examples.
    """
    rows = []
    for group in sorted(set(groups)):
        own = correct[np.array(groups) == group]
        wrong = int((~own).sum())
        low, high = exact(wrong, len(own), confidence)
        rows.append(
            {"group": group, "examples": len(own), "error": wrong / len(own), "low": low, "high": high}
        )
    return rows


def assignment_rates(
    assigned: npt.NDArray[np.int64], names: Sequence[str], groups: Sequence[str], confidence: float
) -> list[dict[str, Any]]:
    """Return for each class, in order: the share of each group assigned to it, with exact intervals.

    `assigned`: int64 [n], the class of highest score of each example.
    """
    order = sorted(set(groups))
    members = {group: np.array(groups) == group for group in order}
    rows = []
    for number, name in enumerate(names):
        rates = []
        for group in order:
            count, total = int((assigned[members[group]] == number).sum()), int(members[group].sum())
            low, high = exact(count, total, confidence)
            rates.append({"group": group, "rate": count / total, "low": low, "high": high})
        rows.append({"class": name, "rates": rates})
    return rows
