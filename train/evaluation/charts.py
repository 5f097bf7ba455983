"""The paper's figures as shapes to draw: scales, ticks, points with intervals, lines and bars, in pixels."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pipeline.figure import Tick, percent, points

Span = tuple[float, float]


class Point(NamedTuple):
    """A mark with an interval upwards and downwards; fields only."""

    x: float
    y: float
    high: float
    low: float
    series: int
    shape: str
    """dot, star, or small for references."""
    title: str


class Path(NamedTuple):
    """A line; fields only."""

    points: str
    """As SVG's polyline takes them."""
    series: int
    dashed: bool


class Bar(NamedTuple):
    """A horizontal bar from zero, with an interval; fields only."""

    label: str
    y: float
    x: float
    width: float
    low: float
    high: float
    value: str
    better: bool


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One figure."""

    title: str
    x_label: str
    y_label: str = ""
    note: str = ""
    width: int = 460
    height: int = 340
    left: int = 72
    right: int = 30
    top: int = 14
    bottom: int = 46
    x_ticks: list[Tick] = field(default_factory=list)
    y_ticks: list[Tick] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    zero: float | None = None
    """Where a bar chart's zero is."""
    legend: list[tuple[int, str]] = field(default_factory=list)


class Axis:
    """Map values to pixels, linearly after `transform`."""

    def __init__(self, span: Span, pixels: Span, transform: Callable[[float], float] = float) -> None:
        self.transform, self._pixels = transform, pixels
        self._low, self._high = transform(span[0]), transform(span[1])

    def __call__(self, value: float) -> float:
        """Return the place of a value, one beyond the ends moved to them."""
        share = (self.transform(value) - self._low) / ((self._high - self._low) or 1)
        low, high = self._pixels
        return round(low + min(max(share, -0.02), 1.02) * (high - low), 1)


def logit(p: float) -> float:
    """Return log(p / (1 - p)) of a share, its ends moved in."""
    p = min(max(p, 0.005), 0.995)
    return math.log(p / (1 - p))


def round_step(extent: float, parts: int = 5) -> float:
    """Return 1, 2 or 5 times a power of ten that divides an extent into about so many parts."""
    if extent <= 0:
        return 1.0
    power = 10 ** math.floor(math.log10(extent / parts))
    return float(next(m * power for m in (1, 2, 5, 10) if m * power >= extent / parts - 1e-12))


def _share_span(values: Sequence[float]) -> Span:
    """Return a span of round shares that holds the values."""
    low, high = min(values), max(values)
    step = round_step(max(high - low, 0.02))
    return max(0.0, math.floor(low / step) * step), min(1.0, math.ceil(high / step) * step)


def _steps(span: Span) -> list[float]:
    step = round_step(span[1] - span[0])
    first = math.ceil(span[0] / step - 1e-9)
    return [round(n * step, 10) for n in range(first, math.floor(span[1] / step + 1e-9) + 1)]


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]


class BarRow(NamedTuple):
    """A bar to draw; fields only."""

    label: str
    value: float
    low: float | None
    high: float | None


def bars(title: str, x_label: str, rows: Sequence[BarRow], text: Callable[[float], str] = points,
         tick: Callable[[float], str] = points, note: str = "") -> Chart:  # fmt: skip
    """Return horizontal bars, the largest first, with their intervals."""
    rows = sorted(rows, key=lambda row: -row.value)
    ends = [0.0, *_known([value for row in rows for value in (row.value, row.low, row.high)])]
    step = round_step(max(max(ends) - min(ends), 0.02), 4)
    span = (math.floor(min(ends) / step) * step, math.ceil(max(ends) / step) * step or step)
    chart = Chart(
        title=title, x_label=x_label, note=note, height=52 + 26 * len(rows) + 14, left=150, right=62, top=8
    )
    x = Axis(span, (chart.left, chart.width - chart.right))
    for number, row in enumerate(rows):
        low, high = (row.value if end is None or not math.isfinite(end) else end for end in row[2:])
        start, end = sorted((x(0), x(row.value)))
        chart.bars.append(
            Bar(row.label, chart.top + 26 * number + 4, start, round(end - start, 1), x(low), x(high),
                text(row.value), row.value >= 0)
        )  # fmt: skip
    chart.x_ticks.extend(Tick(x(value), tick(value)) for value in _steps(span))
    object.__setattr__(chart, "zero", x(0))
    return chart


class ChartPoint(NamedTuple):
    """A point to draw, in values; fields only."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    series: int = 0
    shape: str = "dot"
    title: str = ""


def scatter(title: str, x_label: str, y_label: str, marks: Sequence[ChartPoint], *, note: str = "",
            lines: Sequence[tuple[Sequence[tuple[float, float]], int, bool]] = (), diagonal: bool = True,
            logits: bool = False, legend: Sequence[tuple[int, str]] = ()) -> Chart:  # fmt: skip
    """Return shares against shares on axes of one span; `lines`: points, series, dashed."""
    chart = Chart(title=title, x_label=x_label, y_label=y_label, note=note, legend=list(legend))
    values = _known([v for mark in marks for v in (mark.x, mark.y, mark.low, mark.high)])
    span = _share_span(values)
    transform = logit if logits else float
    x = Axis(span, (chart.left, chart.width - chart.right), transform)
    y = Axis(span, (chart.height - chart.bottom, chart.top), transform)
    ticks = _steps(span)
    chart.x_ticks.extend(_apart([Tick(x(value), percent(value)) for value in ticks], 44))
    chart.y_ticks.extend(_apart([Tick(y(value), percent(value)) for value in ticks], 16))
    if diagonal:
        chart.paths.append(Path(f"{x(span[0])},{y(span[0])} {x(span[1])},{y(span[1])}", -1, True))
    for line, series, dashed in lines:
        inside = [(a, b) for a, b in line if span[0] <= a <= span[1] and span[0] <= b <= span[1]]
        chart.paths.append(Path(" ".join(f"{x(a)},{y(b)}" for a, b in inside), series, dashed))
    chart.points.extend(_points(marks, x, y))
    return chart


def _apart(ticks: Sequence[Tick], pixels: float) -> list[Tick]:
    """Return the ticks whose labels do not touch: logits bring high shares close together."""
    kept: list[Tick] = []
    for tick in ticks:
        if not kept or abs(tick.at - kept[-1].at) >= pixels:
            kept.append(tick)
    return kept


def _points(marks: Sequence[ChartPoint], x: Axis, y: Axis) -> list[Point]:
    found = []
    for mark in marks:
        low, high = (mark.y if v is None or not math.isfinite(v) else v for v in (mark.low, mark.high))
        found.append(Point(x(mark.x), y(mark.y), y(high), y(low), mark.series, mark.shape, mark.title))
    return found


def curves(title: str, x_label: str, y_label: str, series: Sequence[tuple[str, Sequence[ChartPoint], bool]],
           x_values: Sequence[tuple[float, str]], *, log: bool = False, note: str = "",
           extra: Sequence[ChartPoint] = ()) -> Chart:  # fmt: skip
    """Return lines of shares over `x_values` (value, label): name, points, dashed; `extra`: lone marks.

    Lines of one name share a colour and an entry in the legend.
    """
    chart = Chart(title=title, x_label=x_label, y_label=y_label, note=note)
    transform = math.log if log else float
    places = [value for value, _ in x_values]
    x = Axis((min(places), max(places)), (chart.left + 14, chart.width - chart.right - 10), transform)
    everything = [mark for _, marks, _ in series for mark in marks] + list(extra)
    span = _share_span(_known([v for mark in everything for v in (mark.y, mark.low, mark.high)]))
    y = Axis(span, (chart.height - chart.bottom, chart.top))
    chart.x_ticks.extend(Tick(x(value), label) for value, label in x_values)
    chart.y_ticks.extend(Tick(y(value), percent(value)) for value in _steps(span))
    for _, marks, dashed in series:
        if marks:
            chart.paths.append(Path(" ".join(f"{x(m.x)},{y(m.y)}" for m in marks), marks[0].series, dashed))
            chart.points.extend(_points(marks, x, y))
    chart.points.extend(_points(extra, x, y))
    chart.legend.extend(dict.fromkeys((marks[0].series, name) for name, marks, _ in series if marks))
    return chart


def against_compute(rows: Sequence[tuple[str, float, float, float, float]]) -> Chart:
    """Return the mean error of models (name, GFLOPs of an image, error, low, high) over compute."""
    places = [row[1] for row in rows]
    decades = range(math.floor(math.log10(min(places))) - 1, math.ceil(math.log10(max(places))) + 2)
    grid = [m * 10.0**power for power in decades for m in (1, 2, 5)]
    # From a round number below the least to one above the most: both ends carry a label.
    ends = (max(v for v in grid if v <= min(places)), min(v for v in grid if v > max(places)))
    chart = Chart(
        title="Mean zero-shot error over compute", x_label="GFLOPs of an image's forward pass",
        y_label="error", note="One minus the mean main metric, as in the paper's figure 9.",
    )  # fmt: skip
    x = Axis(ends, (chart.left + 10, chart.width - chart.right - 10), math.log)
    span = _share_span(_known([v for row in rows for v in row[2:]]))
    y = Axis(span, (chart.height - chart.bottom, chart.top))
    ticks = [value for value in grid if ends[0] <= value <= ends[1]]
    chart.x_ticks.extend(Tick(x(value), f"{value:g}") for value in ticks)
    chart.y_ticks.extend(Tick(y(value), percent(value)) for value in _steps(span))
    marks = [
        ChartPoint(
            flops, error, low, high, number % 8, "dot", f"{name}: {percent(error)} at {flops:.3g} GFLOPs"
        )
        for number, (name, flops, error, low, high) in enumerate(rows)
    ]
    chart.points.extend(_points(marks, x, y))
    chart.legend.extend((number % 8, row[0]) for number, row in enumerate(rows))
    return chart


def finite(value: Any) -> bool:
    """Return whether a value is a number to draw."""
    return isinstance(value, int | float) and math.isfinite(value)
