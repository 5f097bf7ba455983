"""The page of the comparison: a table of arms, their differences to raw, and accuracy by class."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from scipy import stats

from pipeline import charts
from pipeline.safe_html import render

CONFIDENCE = 0.95
RIGHT = ("clean", "again")  # kinds of pairs whose caption names the picture's class
DRAWN = ("balanced", "online", "random")  # by class
RARE = ", rare"  # after the kind of a right pair of a rare class
LABELS = {
    "raw": "everything", "basic": "captions of three words and six characters or more",
    "text": "basic, and a query in the caption", "balanced": "text, each query capped",
    "online": "text, drawn anew each epoch", "score": "text, in the pool's better half by its own model",
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


class Kinds(NamedTuple):
    """Hold the pairs of a choice by their kinds, in percent; fields only."""

    arm: str
    pairs: int
    shares: dict[str, float]
    """Of the pairs, by kind."""
    noise: float
    rare: float
    """Share of the right pairs that rare classes have; 0 where there are none."""


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


def kinds_of(arm: str, counts: Mapping[str, int]) -> Kinds | None:
    """Return a choice's shares of each kind, of noise and of rare classes; None of no kinds."""
    pairs = sum(counts.values())
    if not pairs:
        return None
    by_kind: Counter[str] = Counter()
    for kind, count in counts.items():
        by_kind[kind.removesuffix(RARE)] += count
    right = sum(by_kind[kind] for kind in RIGHT)
    rarer = sum(count for kind, count in counts.items() if kind.endswith(RARE))
    each = {kind: 100 * count / pairs for kind, count in sorted(by_kind.items())}
    return Kinds(arm, pairs, each, 100 * (pairs - right) / pairs, 100 * rarer / max(right, 1))


def shares(arm: str, counts: Mapping[str, int]) -> str:
    """Return a choice's kinds of pairs in words, as a line; empty of no kinds."""
    found = kinds_of(arm, counts)
    if not found:
        return ""
    each = ", ".join(f"{kind} {share:.1f}%" for kind, share in found.shares.items())
    rarer = f"rare classes {found.rare:.1f}% of the right pairs"
    return f"{arm}: {found.pairs:,} pairs, noise {found.noise:.1f}% ({each}); {rarer}\n"


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


def _by_arm(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, dict[str, float]]]:
    """Return the accuracy of each class by arm and seed."""
    found: dict[str, dict[int, dict[str, float]]] = defaultdict(dict)
    for one in results:
        found[one["arm"]][one["seed"]] = accuracies(one)
    return found


def lines(results: Sequence[Mapping[str, Any]], sizes: Mapping[str, int], tail: set[str]) -> list[Line]:
    """Return the table, arms in the order of LABELS."""
    by_arm = _by_arm(results)

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
            samples=sizes.get(arm) or sizes.get("text", 0),  # of a run of your own: what they choose from
            gain=said([mean(own[seed], every) - mean(raw[seed], every) for seed in both]),
            tail_gain=said([mean(own[seed], rarer) - mean(raw[seed], rarer) for seed in both]),
            size_gain=said([mean(own[seed], every) - mean(same[seed], every) for seed in same if seed in own])
            if arm in ("balanced", "online") else "–",
        ))  # fmt: skip
    return table


def _gains(results: Sequence[Mapping[str, Any]]) -> Callable[[Figure], None]:
    """Return the painter of the differences to raw with their intervals."""
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

    return paint


def _classes(results: Sequence[Mapping[str, Any]], counts: Mapping[str, int]) -> Callable[[Figure], None]:
    """Return the painter of each class's difference to raw, by the class's photographs in the pool."""
    by_arm = _by_arm(results)
    raw = by_arm["raw"]

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axhline(0, color=charts.SOFT, linewidth=1)
        for arm, colour, shape in zip(DRAWN, (charts.ONE, charts.TWO, charts.SOFT), "osx", strict=True):
            own = by_arm[arm]
            if seeds := sorted(own.keys() & raw.keys()):
                each = ([own[seed][name] - raw[seed][name] for seed in seeds] for name in counts)
                gains = [100 * float(np.mean(one)) for one in each]
                axes.plot([*counts.values()], gains, shape, color=colour, label=arm, markersize=5)
        axes.set_xscale("log")
        charts.short_axis(axes.xaxis)
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("photographs of the class in the pool")
        axes.set_ylabel("points over raw")
        if axes.get_legend_handles_labels()[0]:
            axes.legend()

    return paint


def write(
    path: Path, results: Sequence[Mapping[str, Any]], sizes: Mapping[str, int], counts: Mapping[str, int],
    kinds: Mapping[str, Mapping[str, int]], command: str, pool: int,
) -> None:  # fmt: skip
    """Write the page, and its charts as files beside it, gains.svg and classes.svg."""
    rarer = rare(counts)
    charted = {"gains": (_gains(results), "Macro accuracy over raw, by choice of the data")}
    if counts and any(one["arm"] == "raw" for one in results):
        label = "Each class's accuracy over raw, by its photographs in the pool"
        charted["classes"] = (_classes(results, counts), label)
    for name, (paint, label) in charted.items():
        path.with_name(f"{name}.svg").write_text(charts.picture(paint, label), encoding="utf-8")
    drawn = {name: charts.draw(paint, label) for name, (paint, label) in charted.items()}
    chosen = [found for arm in LABELS if (found := kinds_of(arm, kinds.get(arm, {})))]
    page = render(
        Path(__file__).parent, lines=lines(results, sizes, set(rarer)), rare=rarer, counts=counts, pool=pool,
        chosen=chosen, command=f"python -m bench.curation {command}",
        gains=drawn["gains"], classes=drawn.get("classes", ""),
    )  # fmt: skip
    path.write_text(page, encoding="utf-8")
