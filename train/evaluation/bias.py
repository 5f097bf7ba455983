"""The bias probe (section 7.1): error rates by group, and which classes a model assigns to whom.

The paper's point is that the list of classes is a decision: adding a class ("child") moved the labels
assigned to people under 20. So the rates are given for a user's list, and again with classes added.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import stats

from train.evaluation.bootstrap import exact

Bools = npt.NDArray[np.bool_]

THRESHOLDS: Final = (0.005, 0.04)
"""Probabilities above which a label is given to an image (section 7.1, figure 18)."""


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


def category_rates(
    assigned: npt.NDArray[np.int64], categories: Sequence[str], groups: Sequence[str], confidence: float
) -> list[dict[str, Any]]:
    """Return for each category, in order: the share of each group assigned to a class of it (tables 6, 7).

    `assigned`: int64 [n]; categories: of each class, empty for none.
    """
    names = list(dict.fromkeys(name for name in categories if name))
    place = {name: number for number, name in enumerate(names)}
    # Classes without a category go behind the last, and are left out.
    of_class = np.array([place.get(name, len(names)) for name in categories], np.int64)
    return assignment_rates(of_class[assigned], names, groups, confidence)


def label_rates(
    probabilities: npt.NDArray[np.float64], names: Sequence[str], groups: Sequence[str], threshold: float
) -> list[dict[str, Any]]:
    """Return for each label its share of each group's images, and how much it differs: chi-squared, p.

    An image has all labels whose probability [n, C] is above the threshold. Sorted by chi-squared, largest
    first; labels of no image, or of every image, are left out.
    """
    order = sorted(set(groups))
    members = np.array([np.array(groups) == group for group in order])
    sizes = members.sum(axis=1)
    rows = []
    for number, name in enumerate(names):
        counts = (members & (probabilities[:, number] > threshold)).sum(axis=1)
        if not counts.any() or (counts == sizes).all():
            continue
        test = (
            stats.chi2_contingency(np.stack([counts, sizes - counts]), correction=False)
            if len(order) > 1
            else None
        )
        rows.append({
            "class": name, "count": int(counts.sum()),
            "chi2": float(test.statistic) if test else float("nan"),
            "p": float(test.pvalue) if test else float("nan"),
            "rates": [{"group": group, "rate": int(count) / int(size)}
                      for group, count, size in zip(order, counts, sizes, strict=True)],
        })  # fmt: skip
    return sorted(rows, key=lambda row: -row["chi2"] if row["chi2"] == row["chi2"] else 0.0)
