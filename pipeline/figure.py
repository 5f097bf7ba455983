"""The paper's figure on overlap, as numbers to draw, and the formats that the report shares with it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

Values = Callable[[dict[str, Any]], tuple[float, ...]]
"""Gives the middle, low and high value of a set."""


class Mark(NamedTuple):
    """A point of the figure with its interval, in pixels; fields only."""

    x: float
    y: float
    top: float
    bottom: float
    kind: str
    """strong: significant after correction; weak: only before; none: neither; untested."""
    title: str


class Tick(NamedTuple):
    """A labelled place on an axis, in pixels; fields only."""

    at: float
    label: str


@dataclass(frozen=True)
class Panel:
    """One scatter plot: values over the share of overlap."""

    title: str
    y_label: str
    marks: list[Mark]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    zero: float
    width: int = 460
    height: int = 320
    left: int = 64
    right: int = 26
    top: int = 14
    bottom: int = 46


def figure(datasets: list[dict[str, Any]]) -> list[Panel]:
    """Return the two panels of the paper's figure 17: Overlap - Clean, and All - Clean, over the overlap."""
    tested = [d for d in datasets if d["p_value"] is not None]
    if not tested:
        return []
    widest = max(d["contamination"] for d in tested) or 1.0
    left = _panel(
        "Accuracy on Overlap minus Clean", "points", tested, widest,
        lambda d: tuple(d[name] - d["acc_clean"] for name in ("acc_overlap", "ci_low", "ci_high")),
    )  # fmt: skip
    right = _panel(
        "Accuracy on All minus Clean", "points", tested, widest,
        lambda d: (d["delta"], d["delta_low"], d["delta_high"]),
    )  # fmt: skip
    return [left, right]


def _panel(title: str, y_label: str, tested: list[dict[str, Any]], widest: float, values: Values) -> Panel:
    frame = Panel(title, y_label, [], [], [], 0)
    x_step, y_extent = _step(widest), max(abs(v) for d in tested for v in values(d)) or 0.01
    y_step = _step(y_extent)
    x_top, y_top = math.ceil(widest / x_step) * x_step, math.ceil(y_extent / y_step) * y_step

    def x(value: float) -> float:
        return round(frame.left + value / x_top * (frame.width - frame.left - frame.right), 1)

    def y(value: float) -> float:
        return round(frame.top + (y_top - value) / (2 * y_top) * (frame.height - frame.top - frame.bottom), 1)

    marks = []
    for one in tested:
        middle, low, high = values(one)
        title_text = f"{one['name']}: {percent(one['contamination'])} overlap, {points(middle)} points"
        marks.append(Mark(x(one["contamination"]), y(middle), y(high), y(low), _kind(one), title_text))
    x_ticks = [Tick(x(i * x_step), percent(i * x_step)) for i in range(round(x_top / x_step) + 1)]
    count = round(y_top / y_step)
    y_ticks = [Tick(y(i * y_step), points(i * y_step)) for i in range(-count, count + 1)]
    return Panel(title, y_label, marks, x_ticks, y_ticks, y(0))


def _kind(one: dict[str, Any]) -> str:
    if one["significant"]:
        return "strong"
    return "weak" if one["p_value"] <= 0.05 else "none"


def _step(extent: float) -> float:
    """Return a round step, 1, 2 or 5 times a power of ten, that divides an axis into about four."""
    power = 10 ** math.floor(math.log10(extent / 4))
    return float(next(m * power for m in (1, 2, 5, 10) if m * power >= extent / 4 - 1e-12))


def percent(value: float | None) -> str:
    """Return a share in percent, a dash for none."""
    if value is None:
        return "–"
    share = 100 * value
    return f"{share:.1f}%" if abs(share) >= 1 or share == 0 else f"{share:.2g}%"


def points(value: float | None) -> str:
    """Return a difference of accuracies in percentage points, with its sign."""
    if value is None:
        return "–"
    text = f"{100 * value:+.2f}"
    return "0" if float(text) == 0 else text


def p_value(value: float | None) -> str:
    """Return a p-value, a dash for none."""
    if value is None:
        return "–"
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"
