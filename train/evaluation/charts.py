"""The kinds of charts that the paper's figures are: bars, shares against shares, curves."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from scipy.special import expit, logit

from pipeline.charts import INK, SERIES, SIZE, SOFT, draw, explain, words
from pipeline.formats import percent, points

Span = tuple[float, float]

_LABEL: Final = 22  # characters of a bar's label
_NAMED: Final = 10  # marks up to which they have their names beside them
_LEAST: Final = 0.005  # share whose logit is drawn; that of 0 is nowhere
_MARKERS: Final = {"dot": ("o", 5.5), "small": ("o", 3.0), "star": ("*", 10.0)}


class Chart(NamedTuple):
    """One figure; fields only."""

    title: str
    note: str
    svg: Markup
    legend: list[tuple[int, str]]
    """Series and its name, where there are several."""


class BarRow(NamedTuple):
    """A bar to draw; fields only."""

    label: str
    value: float
    low: float | None
    high: float | None


class ChartPoint(NamedTuple):
    """A point to draw, in values; fields only."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    series: int = 0
    shape: str = "dot"
    """dot, star, or small for references."""
    title: str = ""


def round_step(extent: float, parts: int = 5) -> float:
    """Return 1, 2 or 5 times a power of ten that divides an extent into about that many parts."""
    if extent <= 0:
        return 1.0
    power = 10 ** math.floor(math.log10(extent / parts))
    return float(next(m * power for m in (1, 2, 5, 10) if m * power >= extent / parts - 1e-12))


def bars(title: str, x_label: str, rows: Sequence[BarRow], text: Callable[[float], str] = points,
         tick: Callable[[float], str] = points, note: str = "") -> Chart:  # fmt: skip
    """Return horizontal bars, the largest first, with their intervals."""
    rows = sorted(rows, key=lambda row: -row.value)
    ends = [0.0, *_known([value for row in rows for value in (row.value, row.low, row.high)])]
    step = round_step(max(max(ends) - min(ends), 0.02), 4)
    span = (math.floor(min(ends) / step) * step, math.ceil(max(ends) / step) * step or step)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.grid(axis="y", visible=False)
        axes.grid(axis="x")
        for place, row in enumerate(rows):
            colour = SERIES[0] if row.value >= 0 else SERIES[1]
            (bar,) = axes.barh(place, row.value, height=0.62, color=colour, alpha=0.75)
            explain(bar, f"{row.label}: {text(row.value)}")
            if row.low is not None and row.high is not None:
                axes.hlines(place, *_finite((row.low, row.high), row.value), color=INK, linewidth=1.2)
            axes.text(1.02, place, text(row.value), transform=axes.get_yaxis_transform(), va="center")
        axes.axvline(0, color=SOFT, linewidth=1)
        axes.set_yticks(range(len(rows)), [_short(row.label) for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(span)
        _ticks(axes.xaxis, _steps(span), tick)
        axes.set_xlabel(words(x_label))

    height = 0.75 + 0.27 * len(rows)
    return _chart(title, f"{x_label} by set", paint, note=note, size=(SIZE[0], height))


def pairs(title: str, x_label: str, rows: Sequence[tuple[str, Sequence[float]]], names: Sequence[str],
          note: str = "") -> Chart:  # fmt: skip
    """Return horizontal bars of shares in groups: rows of a label and a share for each of `names`."""
    most = max([0.01, *(value for _, values in rows for value in values)])
    step = round_step(most, 3)
    span = (0.0, math.ceil(most / step) * step)
    thickness = 0.8 / len(names)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.grid(axis="y", visible=False)
        axes.grid(axis="x")
        for place, (label, values) in enumerate(rows):
            for number, (name, value) in enumerate(zip(names, values, strict=True)):
                at = place + (number - (len(names) - 1) / 2) * thickness
                (bar,) = axes.barh(at, value, height=thickness, color=_colour(number), alpha=0.85)
                explain(bar, f"{label}, {name}: {percent(value)}")
        axes.set_yticks(range(len(rows)), [_short(label) for label, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(span)
        _ticks(axes.xaxis, [step * number for number in range(round(span[1] / step) + 1)], percent)
        axes.set_xlabel(words(x_label))

    height = 0.75 + max(0.27, 0.13 * len(names)) * len(rows)
    legend = [(number % len(SERIES), name) for number, name in enumerate(names)]
    return _chart(title, f"{x_label} by label", paint, note=note, legend=legend, size=(SIZE[0], height))


def scatter(title: str, x_label: str, y_label: str, marks: Sequence[ChartPoint], *, note: str = "",
            line: Sequence[tuple[float, float]] = (), logits: bool = False,
            legend: Sequence[tuple[int, str]] = ()) -> Chart:  # fmt: skip
    """Return shares against shares on axes of one span, with the diagonal, and a line through the rest."""
    span = _share_span(_known([v for mark in marks for v in (mark.x, mark.y, mark.low, mark.high)]))
    transform = _logit if logits else np.asarray

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.grid(axis="x")
        if logits:
            axes.set_xscale("function", functions=(_logit, expit))
            axes.set_yscale("function", functions=(_logit, expit))
        axes.plot(span, span, color=SOFT, linewidth=1, linestyle=(0, (5, 4)))
        axes.plot([x for x, _ in line], [y for _, y in line], color=SOFT, linewidth=1.5)
        _paint(axes, marks)
        _name(axes, marks, span)
        axes.set_xlim(span)
        axes.set_ylim(span)
        places = transform(np.array(_steps(span)))
        for axis, least in ((axes.xaxis, 0.14), (axes.yaxis, 0.08)):
            _ticks(axis, [_steps(span)[n] for n in _apart(places, least * np.ptp(transform(span)))], percent)
        axes.set_xlabel(words(x_label))
        axes.set_ylabel(words(y_label))

    return _chart(title, f"{y_label} over {x_label}", paint, note=note, legend=legend, size=(SIZE[0], 3.5))


def curves(title: str, x_label: str, y_label: str, series: Sequence[tuple[str, Sequence[ChartPoint]]],
           x_values: Sequence[tuple[float, str]], *, log: bool = False, note: str = "",
           extra: Sequence[ChartPoint] = ()) -> Chart:  # fmt: skip
    """Return lines of shares over `x_values` (value, label): name, points; `extra`: lone marks.

    Lines of one name share a colour and an entry in the legend.
    """
    everything = [mark for _, marks in series for mark in marks] + list(extra)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        if log:
            axes.set_xscale("log", base=2)
        for _, marks in series:
            if marks:
                axes.plot([m.x for m in marks], [m.y for m in marks], color=_colour(marks[0].series),
                          linewidth=1.5)  # fmt: skip
        _paint(axes, everything)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks([value for value, _ in x_values], [label for _, label in x_values])
        _share_axis(axes, everything)
        axes.set_xlabel(words(x_label))
        axes.set_ylabel(words(y_label))

    legend = list(dict.fromkeys((marks[0].series, name) for name, marks in series if marks))
    return _chart(title, f"{y_label} over {x_label}", paint, note=note, legend=legend)


def against_compute(rows: Sequence[tuple[str, float, float, float, float]]) -> Chart:
    """Return the mean error of models (name, GFLOPs of an image, error, low, high) over compute."""
    series = []
    for number, (name, flops, error, low, high) in enumerate(rows):
        title = f"{name}: {percent(error)} at {flops:.3g} GFLOPs"
        series.append((name, [ChartPoint(flops, error, low, high, number % len(SERIES), "dot", title)]))
    note = "One minus the mean main metric, as in the paper's figure 9."
    return over_compute("Mean zero-shot error over compute", "error", series, note=note)


def over_compute(
    title: str, y_label: str, series: Sequence[tuple[str, Sequence[ChartPoint]]], *, note: str = ""
) -> Chart:
    """Return lines of shares over the GFLOPs of an image, each a name and its points in order of x."""
    marks = [mark for _, own in series for mark in own]
    places = [mark.x for mark in marks]
    decades = range(math.floor(math.log10(min(places))) - 1, math.ceil(math.log10(max(places))) + 2)
    grid = [m * 10.0**power for power in decades for m in (1, 2, 5)]
    # From a round number below the least to one above the most: both ends carry a label.
    ends = (max(v for v in grid if v <= min(places)), min(v for v in grid if v > max(places)))
    ticks = [value for value in grid if ends[0] <= value <= ends[1]]

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.set_xscale("log")
        for _, own in series:
            if len(own) > 1:
                axes.plot([m.x for m in own], [m.y for m in own], color=_colour(own[0].series), linewidth=1.5)
        _paint(axes, marks)
        axes.set_xlim(ends)
        apart = _apart(np.log(ticks), 0.13 * math.log(ends[1] / ends[0]))
        _ticks(axes.xaxis, [ticks[n] for n in apart], "{:g}".format)
        _share_axis(axes, marks)
        axes.set_xlabel("GFLOPs of an image's forward pass")
        axes.set_ylabel(words(y_label))

    legend = [(own[0].series, name) for name, own in series if own]
    return _chart(
        title, f"{y_label} over the GFLOPs of an image's forward pass", paint, note=note, legend=legend
    )


def _chart(title: str, what: str, paint: Callable[[Figure], None], *, note: str = "",
           legend: Sequence[tuple[int, str]] = (), size: tuple[float, float] = SIZE) -> Chart:  # fmt: skip
    svg = draw(paint, words(f"{title}: {what}", 300), size=size)
    return Chart(title, note, svg, list(legend))


def _paint(axes: Axes, marks: Sequence[ChartPoint]) -> None:
    for mark in marks:
        colour, (marker, side) = _colour(mark.series), _MARKERS[mark.shape]
        low, high = _finite((mark.low, mark.high), mark.y)
        if low != high:
            axes.vlines(mark.x, low, high, color=colour, linewidth=1.2)
        (dot,) = axes.plot(
            [mark.x], [mark.y], marker, color=colour, markersize=side, markeredgewidth=0, clip_on=False
        )  # 0% and 100% lie on the edge
        if mark.title:
            explain(dot, mark.title)


def _name(axes: Axes, marks: Sequence[ChartPoint], span: Span) -> None:
    """Write the names of a few marks beside them, where they do not lie on one another."""
    named, extent, middle = list[ChartPoint](), span[1] - span[0], sum(span) / 2
    own = [mark for mark in marks if mark.title and mark.shape != "small"]
    for mark in own if len(own) <= _NAMED else ():
        if any(abs(mark.x - n.x) < 0.3 * extent and abs(mark.y - n.y) < 0.07 * extent for n in named):
            continue
        named.append(mark)
        side, rise = 1 if mark.x < middle else -1, 4 if mark.y < middle else -11
        axes.annotate(
            words(mark.title.partition(":")[0], 18), (mark.x, mark.y), (7 * side, rise),
            textcoords="offset points", ha="left" if side > 0 else "right", color=SOFT, fontsize="small",
        )  # fmt: skip


def _short(label: str) -> str:
    """Return a bar's label: long ones leave no room for the bars, and are whole where the mouse rests."""
    return words(label if len(label) <= _LABEL else f"{label[: _LABEL - 1]}…")


def _colour(series: int) -> str:
    return SOFT if series < 0 else SERIES[series % len(SERIES)]


def _finite(ends: tuple[float | None, float | None], middle: float) -> Span:
    """Return the ends of an interval, with its middle for an end that is not known."""
    low, high = (middle if end is None or not math.isfinite(end) else end for end in ends)
    return low, high


def _share_axis(axes: Axes, marks: Sequence[ChartPoint]) -> None:
    """Let the y axis hold all marks, between round shares."""
    span = _share_span(_known([v for mark in marks for v in (mark.y, mark.low, mark.high)]))
    axes.set_ylim(span)
    _ticks(axes.yaxis, _steps(span), percent)


def _ticks(axis: Axis, values: Sequence[float], text: Callable[[float], str]) -> None:
    axis.set_major_locator(FixedLocator(values))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(round(value, 10))))


def _share_span(values: Sequence[float]) -> Span:
    """Return a span of round shares that holds the values."""
    low, high = min(values), max(values)
    step = round_step(max(high - low, 0.02))
    least, most = max(0.0, math.floor(low / step) * step), min(1.0, math.ceil(high / step) * step)
    return (least, most) if least < most else (max(0.0, least - step), min(1.0, most + step))


def _steps(span: Span) -> list[float]:
    step = round_step(span[1] - span[0])
    first = math.ceil(span[0] / step - 1e-9)
    return [round(n * step, 10) for n in range(first, math.floor(span[1] / step + 1e-9) + 1)]


def _apart(places: Sequence[float] | np.ndarray, least: float) -> list[int]:
    """Return which of some ticks have labels that do not touch: logits bring high shares close together."""
    kept: list[int] = []
    for number, place in enumerate(places):
        if not kept or place - places[kept[-1]] >= least:
            kept.append(number)
    return kept


def _logit(share: Any) -> Any:
    return logit(np.clip(share, _LEAST, 1 - _LEAST))


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]


def finite(value: Any) -> bool:
    """Return whether a value is a number to draw."""
    return isinstance(value, int | float) and math.isfinite(value)
