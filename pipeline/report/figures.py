"""The report's figures: drawn by matplotlib, written as SVG that takes its colours from the page.

They hold numbers and words of our own only; text of the web goes into HTML, where any script can be shown.
The same figures are the same bytes: no dates, no random ids.
"""

import io
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from pipeline.report.balance import Balance
from pipeline.report.network import CrawlFigures, edge, quantile
from pipeline.report.samples import ASPECT_OCTAVES, ASPECTS_PER_OCTAVE, SampleFigures

# Colours stand for the page's variables, so that light and dark are one drawing.
_VARIABLES: Final = {
    "#0000f1": "var(--ink)", "#0000f2": "var(--soft)", "#0000f3": "var(--line)", "#0000f4": "var(--one)",
    "#0000f5": "var(--two)", "#0000f6": "var(--three)", "#0000f7": "var(--paper)",
}  # fmt: skip
_INK, _SOFT, _LINE, _ONE, _TWO, _THREE, _PAPER = _VARIABLES
_STYLE: Final = {
    "svg.hashsalt": "openwit", "svg.fonttype": "none", "font.family": "DejaVu Sans", "font.size": 10.5,
    "axes.edgecolor": _SOFT, "axes.labelcolor": _SOFT, "text.color": _INK, "xtick.color": _SOFT,
    "ytick.color": _SOFT, "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False,
    "axes.grid": True, "axes.grid.axis": "y", "grid.color": _LINE, "grid.linewidth": 0.8,
    "axes.axisbelow": True, "ytick.major.size": 0, "xtick.major.size": 3, "axes.linewidth": 0.8,
    "legend.frameon": False, "legend.fontsize": 10.5, "lines.linewidth": 2.0, "figure.facecolor": "none",
    "axes.facecolor": "none", "axes.titlesize": 10.5, "axes.unicode_minus": False,
}  # fmt: skip
_SIZE: Final = (4.9, 3.1)  # inches of 72 units: one column of a telephone
_LEFT, _RIGHT, _BOTTOM, _TOP, _LINE_HEIGHT = 54, 18, 35, 8, 15  # units; left of the axes is room for 1.25M
_SIDES_PER_OCTAVE: Final = 4
_SVG: Final = "{http://www.w3.org/2000/svg}"
_DROPPED: Final = frozenset({"font", "font-family", "font-variant", "font-stretch", "font-style"})


def short(value: float) -> str:
    """Return a number in three or four characters: 950, 12k, 1.5M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def draw(paint: Callable[[Figure], None], label: str, name: str, *, lines: int = 0) -> str:
    """Return an SVG element with what `paint` draws; `label` is read aloud, `name` keeps its ids apart.

    lines: of text above the axes.
    """
    width, height = (72 * inches for inches in _SIZE)
    with mpl.rc_context({**mpl.rcParamsDefault, **_STYLE}):  # type: ignore[dict-item]
        figure = Figure(figsize=_SIZE, dpi=72)
        # Labels have a known size; a layout that measures them takes as long as the drawing.
        figure.subplots_adjust(
            left=_LEFT / width, right=1 - _RIGHT / width, bottom=_BOTTOM / height,
            top=1 - (_TOP + _LINE_HEIGHT * lines) / height, hspace=0.17,
        )  # fmt: skip
        paint(figure)
        sink = io.StringIO()
        # Not savefig, which draws everything once more beforehand, to no effect here.
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(sink, metadata=metadata)  # type: ignore[no-untyped-call]
    return inline(sink.getvalue(), label, name)


def inline(svg: str, label: str, name: str) -> str:
    """Return matplotlib's SVG as an element for HTML, without style attributes, which the page forbids."""
    root = ET.fromstring(svg)  # noqa: S314 - our own drawing
    for parent in list(root.iter()):
        for child in [c for c in parent if c.tag.endswith(("metadata", "style"))]:
            parent.remove(child)
    for node in root.iter():
        node.tag = node.tag.removeprefix(_SVG)
        node.tail = None
        style = node.attrib.pop("style", "")
        for declaration in filter(None, (part.strip() for part in style.split(";"))):
            key, _, value = (part.strip() for part in declaration.partition(":"))
            if key not in _DROPPED:
                node.set(key, value)
            elif key == "font" and (size := re.search(r"([0-9.]+)px", value)):
                node.set("font-size", size[1])
        for key, value in list(node.attrib.items()):
            if key.startswith("{"):  # xlink:href
                del node.attrib[key]
                key = key.partition("}")[2]
            if key in ("fill", "stroke"):
                value = _VARIABLES.get(value, value)
            if key == "href":
                value = f"#{name}-{value[1:]}"
            value = value.replace("url(#", f"url(#{name}-")
            node.set(key, f"{name}-{value}" if key == "id" else value)
    referenced = set(re.findall(rf"{name}-[\w-]+", " ".join(
        value for node in root.iter() for key, value in node.attrib.items() if key != "id"
    )))  # fmt: skip
    for node in root.iter():
        if node.get("id") not in referenced:
            node.attrib.pop("id", None)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("role", "img")
    root.set("aria-label", label)
    return ET.tostring(root, encoding="unicode")


def _short_axis(axis: Axis) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def _percent_axis(axis: Axis) -> None:
    axis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}%"))


_SERIES: Final = (
    ("matched", "matched, before the cap", _TWO),
    ("present", "in the set and contain it", _THREE),
    ("kept", "kept for the query", _ONE),
)


def counts_per_query(balance: Balance) -> str:
    """Return the counts per query from tail to head, before and after the cap."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for name, label, colour in _SERIES:
            curve = balance.curves[name]
            axes.plot(curve.share, curve.counts, color=colour, label=label)
        top = max(1, *(max(curve.counts) for curve in balance.curves.values()))
        # Linear from 0 to 1, logarithmic above: queries without a match have their place.
        axes.set_yscale("symlog", linthresh=1, linscale=0.35)
        _decades(axes, top)
        axes.set_xlim(0, 1)
        _percent_axis(axes.xaxis)
        if balance.per_query <= 1.6 * top:
            axes.axhline(balance.per_query, color=_SOFT, linewidth=1, linestyle=(0, (4, 3)))
            axes.text(0.005, balance.per_query * 1.12, f"cap {balance.per_query:,}", color=_SOFT, va="bottom")
        axes.set_xlabel("queries, from the rarest to the most frequent")
        axes.set_ylabel("samples per query")
        _legend(axes)

    return draw(
        paint, "Samples per query, sorted from the rarest to the most frequent query", "counts", lines=3
    )


def _decades(axes: Axes, top: float) -> None:
    decades = [10.0**n for n in range(math.ceil(math.log10(top)) + 1)]
    axes.yaxis.set_major_locator(FixedLocator([0, *decades]))
    axes.yaxis.set_minor_locator(NullLocator())
    _short_axis(axes.yaxis)
    axes.set_ylim(0, 1.9 * top)


def _legend(axes: Axes, columns: int = 1) -> None:
    """Name the series above the drawing, where they cannot cover it."""
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=columns, borderaxespad=0.2,
                handlelength=1.4, labelspacing=0.25)  # fmt: skip


def running_share(balance: Balance) -> str:
    """Return the running share of all samples from tail to head, before and after the cap."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=_SOFT, linewidth=1, linestyle=(0, (4, 3)), label="all queries equal")
        for name, label, colour in (_SERIES[0], _SERIES[2]):
            curve = balance.curves[name]
            axes.plot([0, *curve.share], [0, *curve.cumulative], color=colour, label=label)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        _percent_axis(axes.xaxis)
        _percent_axis(axes.yaxis)
        axes.set_xlabel("queries, from the rarest to the most frequent")
        axes.set_ylabel("share of all samples up to there")
        _legend(axes)

    label = "Running share of samples over the queries, from the rarest to the most frequent"
    return draw(paint, label, "share", lines=3)


def _bars(axes: Axes, left: np.ndarray, width: np.ndarray, counts: np.ndarray) -> None:
    axes.bar(left, counts, width=width, align="edge", color=_ONE, edgecolor=_PAPER, linewidth=0.6)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    _short_axis(axes.yaxis)


def words(figures: SampleFigures) -> str:
    """Return the captions by their number of words."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        last = int(np.flatnonzero(figures.by_words).max(initial=8)) + 1
        places = np.arange(last)
        _bars(axes, places - 0.5, np.ones(last), figures.by_words[:last])
        axes.set_xlim(0.5 if not figures.by_words[0] else -0.5, last - 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        full = len(figures.by_words) - 1
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{full}+" if v == full else f"{v:g}"))
        axes.set_xlabel("words in a caption")
        axes.set_ylabel("captions")

    return draw(paint, "Captions by their number of words", "words")


def sides(figures: SampleFigures, stored: int) -> str:
    """Return the images by their shorter side as served; `stored` is the side that the shards hold."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        filled = np.flatnonzero(figures.by_side)
        low, high = int(np.log2(max(filled.min(), 1))), int(np.log2(max(filled.max(), 1))) + 1
        low = min(low, high - 3)
        edges = 2.0 ** np.linspace(low, high, _SIDES_PER_OCTAVE * (high - low) + 1)
        of_bin = np.searchsorted(edges, np.arange(len(figures.by_side)), side="right") - 1
        counts = np.bincount(np.maximum(of_bin, 0), figures.by_side, minlength=len(edges))[: len(edges) - 1]
        axes.set_xscale("log", base=2)
        _bars(axes, edges[:-1], np.diff(edges), counts)
        axes.set_xlim(edges[0], edges[-1])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        if stored and edges[0] <= stored <= edges[-1]:
            axes.axvline(stored, color=_INK, linewidth=1, linestyle=(0, (4, 3)))
            axes.text(stored, 1.0, f" stored {stored}", transform=axes.get_xaxis_transform(), va="bottom")
        axes.set_xlabel("shorter side as served, pixels")
        axes.set_ylabel("images")

    return draw(paint, "Images by their shorter side as served", "sides", lines=1)


def aspects(figures: SampleFigures) -> str:
    """Return the images by width over height."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        middle = ASPECT_OCTAVES * ASPECTS_PER_OCTAVE
        reach = (
            int(np.abs(np.flatnonzero(figures.by_aspect) + 0.5 - middle).max(initial=ASPECTS_PER_OCTAVE)) + 1
        )
        first, last = max(0, middle - reach), min(2 * middle, middle + reach)
        edges = np.arange(first - middle, last - middle + 1) / ASPECTS_PER_OCTAVE
        _bars(axes, edges[:-1], np.diff(edges), figures.by_aspect[first:last])
        axes.set_xlim(edges[0], edges[-1])
        ratios = [(1, 8), (1, 4), (1, 2), (2, 3), (1, 1), (3, 2), (2, 1), (4, 1), (8, 1)]
        shown = [(w, h) for w, h in ratios if edges[0] <= math.log2(w / h) <= edges[-1]]
        axes.xaxis.set_major_locator(FixedLocator([math.log2(w / h) for w, h in shown]))
        labels = {round(math.log2(w / h), 6): f"{w}:{h}" for w, h in shown}
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: labels.get(round(value, 6), "")))
        axes.set_xlabel("width : height, as served")
        axes.set_ylabel("images")

    return draw(paint, "Images by width over height", "aspects")


def pace(network: CrawlFigures) -> str:
    """Return images a second and requests under way over time."""

    def paint(figure: Figure) -> None:
        above, below = figure.subplots(2, sharex=True)
        start = network.pace[0][0]
        last = network.pace[-1][0] + network.width
        bins = {row[0]: row for row in network.pace}
        times = np.arange(start, last, network.width)
        unit, seconds = _time_unit(last - start)
        edges = (np.append(times, last) - start) / seconds
        none = (0, 0, 0, 0, 0.0)
        columns = [np.array([bins.get(int(time), none)[i] for time in times]) for i in (1, 2, 4)]
        images, arrived, under_way = (np.append(c, c[-1]) for c in columns)
        above.fill_between(
            edges, images / network.width, step="post", color=_TWO, linewidth=0, label="answered"
        )
        above.fill_between(
            edges, arrived / network.width, step="post", color=_ONE, linewidth=0, label="good images"
        )
        _legend(above, columns=2)
        above.set_ylabel("images/s")
        below.fill_between(edges, under_way, step="post", color=_THREE, linewidth=0)
        below.set_ylabel("in flight")
        below.set_xlabel(f"{unit} since {datetime.fromtimestamp(start, UTC):%Y-%m-%d %H:%M} UTC")
        for axes in (above, below):
            axes.set_ylim(bottom=0)
            axes.set_xlim(edges[0], edges[-1])
            axes.yaxis.set_major_locator(MaxNLocator(3))
            _short_axis(axes.yaxis)

    return draw(paint, "Images answered a second, and requests under way, over time", "pace", lines=1)


def _time_unit(seconds: float) -> tuple[str, int]:
    return next(
        ((unit, size) for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60))
         if seconds >= 2 * size), ("seconds", 1),
    )  # fmt: skip


def latency(network: CrawlFigures) -> str:
    """Return the answer times, half an octave a bar, with their median and 95th percentile."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        counts = np.array(network.latency)
        filled = np.flatnonzero(counts)
        first, last = int(filled.min()), int(filled.max()) + 1
        last = max(last, first + 8)
        edges = np.array([edge(number) for number in range(first, last + 1)])
        axes.set_xscale("log")
        _bars(axes, edges[:-1], np.diff(edges), np.append(counts, np.zeros(last, int))[first:last])
        axes.set_xlim(edges[0], edges[-1])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _duration(value)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        for share, label in ((0.5, "half"), (0.95, "95%")):
            at = quantile(network.latency, share)
            assert at is not None
            axes.axvline(at, color=_INK, linewidth=1, linestyle=(0, (4, 3)))
            axes.text(at, 1.0, f"{label} ", transform=axes.get_xaxis_transform(), va="bottom", ha="center")
        axes.set_xlabel("time from request to last byte")
        axes.set_ylabel("images")

    return draw(paint, "Images by the time that their answer took", "latency", lines=1)


def _duration(seconds: float) -> str:
    return f"{1000 * seconds:g} ms" if seconds < 1 else f"{seconds:g} s"


def sites(figures: SampleFigures) -> str:
    """Return the running share of the samples over the sites, the largest first."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        counts = np.sort(figures.sites["samples"].to_numpy())[::-1]
        running = np.cumsum(counts) / counts.sum()
        places = np.unique(np.geomspace(1, len(counts), 300).round().astype(int))
        axes.plot(places, running[places - 1], color=_ONE)
        axes.set_xscale("log")
        axes.set_xlim(1, len(counts))
        axes.set_ylim(0, 1)
        _percent_axis(axes.yaxis)
        axes.xaxis.set_minor_formatter(NullFormatter())
        _short_axis(axes.xaxis)
        axes.set_xlabel("sites, the largest first")
        axes.set_ylabel("share of the samples")

    return draw(paint, "Running share of the samples over the sites, the largest first", "sites")
