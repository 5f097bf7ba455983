"""The page of the comparison: a table of arms, their differences to raw, and accuracy by class."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from pipeline import charts
from pipeline.safe_html import render

CONFIDENCE = 0.95
RIGHT = ("clean", "again")  # kinds of pairs whose caption names the picture's class
RARE = ", rare"  # after the kind of a right pair of a rare class
LABELS = {
    "raw": "everything", "basic": "captions of three words and six characters or more",
    "text": "basic, and a query in the caption", "balanced": "text, each query capped",
    "online": "text, drawn anew each epoch", "score": "text, the best half by its own model",
    "dedup": "everything, one of pictures that look alike",
    "random": "everything, as many at random as balanced keeps",
}  # fmt: skip


class Line(NamedTuple):
    """Hold an arm's line of the table; accuracies and differences in percent; fields only."""

    arm: str
    what: str
    samples: int
    seeds: int
    macro: float
    head: float
    tail: float
    gain: str
    tail_gain: str
    size_gain: str
    """Over random, which has as many pairs."""
    noise: str
    """Shares of the kinds of pairs, in words."""


def accuracies(found: Mapping[str, Any]) -> dict[str, float]:
    """Return the accuracy of each class of all sets of a result."""
    return {
        label if len(found["classes"]) == 1 else f"{name}/{label}": right / total
        for name, classes in found["classes"].items()
        for label, (right, total) in classes.items()
    }


def macro(found: Mapping[str, Any]) -> float:
    """Return the mean of the classes' accuracies."""
    return float(np.mean(list(accuracies(found).values())))


def rare(counts: Mapping[str, int]) -> list[str]:
    """Return the rarer half of the classes, the rarest first."""
    return sorted(counts, key=lambda name: (counts[name], name))[: len(counts) // 2]


def shares(kinds: Mapping[str, int]) -> str:
    """Return how many pairs are of which kind, and of none that fits, in words; empty of no kinds."""
    pairs = sum(kinds.values())
    if not pairs:
        return ""
    by_kind: Counter[str] = Counter()
    for kind, count in kinds.items():
        by_kind[kind.removesuffix(RARE)] += count
    right = sum(by_kind[kind] for kind in RIGHT)
    rarer = sum(count for kind, count in kinds.items() if kind.endswith(RARE))
    each = ", ".join(f"{kind} {count / pairs:.1%}" for kind, count in sorted(by_kind.items()))
    said = f"{pairs:,} pairs, noise {(pairs - right) / pairs:.1%} ({each})"
    return f"{said}; rare classes {rarer / right:.1%} of the right pairs" if right else said


def interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean of paired differences and its interval's ends; of one difference, it thrice."""
    mean = float(np.mean(differences))
    if len(differences) < 2:
        return mean, mean, mean
    error = stats.sem(differences) * stats.t.ppf((1 + CONFIDENCE) / 2, len(differences) - 1)
    return mean, mean - float(error), mean + float(error)


def said(differences: Sequence[float]) -> str:
    """Return a difference in points with its interval."""
    if not differences:
        return "–"
    mean, low, high = interval(differences)
    return f"{mean:+.1f}" if len(differences) < 2 else f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def lines(
    results: Sequence[Mapping[str, Any]], sizes: Mapping[str, int], tail: set[str],
    kinds: Mapping[str, Mapping[str, int]],
) -> list[Line]:  # fmt: skip
    """Return the table, arms in the order of LABELS."""
    by_arm: dict[str, dict[int, dict[str, float]]] = defaultdict(dict)
    for one in results:
        by_arm[one["arm"]][one["seed"]] = accuracies(one)

    def mean(classes: Mapping[str, float], wanted: set[str]) -> float:
        return 100 * float(np.mean([value for name, value in classes.items() if name in wanted] or [np.nan]))

    table = []
    for arm in LABELS:
        own, raw, same = (by_arm.get(name, {}) for name in (arm, "raw", "random"))
        if not own:
            continue
        every = set(next(iter(own.values())))
        both = [] if arm == "raw" else sorted(own.keys() & raw.keys())
        rarer = tail or every
        parts = (every, every - tail, rarer)
        total, head, rare = (float(np.mean([mean(one, names) for one in own.values()])) for names in parts)
        table.append(Line(
            arm=arm, what=LABELS[arm], seeds=len(own), macro=total, head=head, tail=rare,
            samples=sizes.get("text" if arm in ("online", "score") else arm, 0),
            gain=said([mean(own[seed], every) - mean(raw[seed], every) for seed in both]),
            tail_gain=said([mean(own[seed], rarer) - mean(raw[seed], rarer) for seed in both]),
            size_gain=said([mean(own[seed], every) - mean(same[seed], every) for seed in same if seed in own])
            if arm in ("balanced", "online") else "–",
            noise=shares(kinds.get(arm, {})),
        ))  # fmt: skip
    return table


def _gains(results: Sequence[Mapping[str, Any]]) -> Any:
    """Draw the differences to raw with their intervals."""
    by_arm: dict[str, dict[int, float]] = defaultdict(dict)
    for one in results:
        by_arm[one["arm"]][one["seed"]] = 100 * macro(one)
    arms = [arm for arm in LABELS if arm != "raw" and by_arm[arm].keys() & by_arm["raw"].keys()]

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axhline(0, color=charts.SOFT, linewidth=1)
        for place, arm in enumerate(arms):
            shared = sorted(by_arm[arm].keys() & by_arm["raw"].keys())
            mean, low, high = interval([by_arm[arm][seed] - by_arm["raw"][seed] for seed in shared])
            axes.plot([place, place], [low, high], color=charts.ONE)
            axes.plot([place], [mean], "o", color=charts.ONE)
        axes.set_xticks(range(len(arms)), arms)
        axes.set_ylabel("points over raw")

    return charts.draw(paint, "Macro accuracy over raw, by selection")


def _classes(results: Sequence[Mapping[str, Any]], counts: Mapping[str, int]) -> Any:
    """Draw accuracy by the number of a class's photographs in the pool, for raw and the balanced arms."""
    drawn = [arm for arm in ("raw", "balanced", "online") if any(one["arm"] == arm for one in results)]

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for arm, colour in zip(drawn, (charts.SOFT, charts.ONE, charts.TWO), strict=False):
            own = [accuracies(one) for one in results if one["arm"] == arm]
            names = sorted((name for name in own[0] if name in counts), key=lambda name: counts[name])
            means = [100 * float(np.mean([one[name] for one in own])) for name in names]
            axes.plot([counts[name] for name in names], means, "o-", color=colour, label=arm, markersize=4)
        axes.set_xscale("log")
        axes.set_xlabel("photographs of the class in the pool")
        axes.set_ylabel("accuracy, %")
        axes.legend()

    return charts.draw(paint, "Accuracy of each class by how many photographs of it the pool has")


def write(
    path: Path, results: Sequence[Mapping[str, Any]], sizes: Mapping[str, int], counts: Mapping[str, int],
    kinds: Mapping[str, Mapping[str, int]], command: str, pool: int,
) -> None:  # fmt: skip
    """Write the page."""
    rarer = rare(counts)
    page = render(
        Path(__file__).parent, lines=lines(results, sizes, set(rarer), kinds), rare=rarer, counts=counts,
        pool=pool, command=f"python -m bench.curation {command}", gains=_gains(results),
        classes=_classes(results, counts) if counts and results else "",
    )  # fmt: skip
    path.write_text(page, encoding="utf-8")
