"""The report's figures.

They hold numbers and words of our own only; text of the web goes into HTML, where any script can be shown.
"""

import math
from datetime import UTC, datetime
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from pipeline.charts import INK, ONE, PAPER, SOFT, THREE, TWO, draw, percent_axis, short_axis
from pipeline.formats import seconds
from pipeline.report.balance import Balance
from pipeline.report.network import CrawlFigures, edge, quantile
from pipeline.report.samples import ASPECT_OCTAVES, ASPECTS_PER_OCTAVE, SampleFigures

_SIDES_PER_OCTAVE: Final = 4
_SERIES: Final = (
    ("matched", "matched, before the cap", TWO),
    ("present", "in the set and contain it", THREE),
    ("kept", "kept for the query", ONE),
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
        percent_axis(axes.xaxis)
        if balance.per_query <= 1.6 * top:
            axes.axhline(balance.per_query, color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
            axes.text(0.005, balance.per_query * 1.12, f"cap {balance.per_query:,}", color=SOFT, va="bottom")
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
    short_axis(axes.yaxis)
    axes.set_ylim(0, 1.9 * top)


def _legend(axes: Axes, columns: int = 1) -> None:
    """Name the series above the drawing, where they cannot cover it."""
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=columns, borderaxespad=0.2,
                handlelength=1.4, labelspacing=0.25)  # fmt: skip


def running_share(balance: Balance) -> str:
    """Return the running share of all samples from tail to head, before and after the cap."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle=(0, (4, 3)), label="all queries equal")
        for name, label, colour in (_SERIES[0], _SERIES[2]):
            curve = balance.curves[name]
            axes.plot([0, *curve.share], [0, *curve.cumulative], color=colour, label=label)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        percent_axis(axes.xaxis)
        percent_axis(axes.yaxis)
        axes.set_xlabel("queries, from the rarest to the most frequent")
        axes.set_ylabel("share of all samples up to there")
        _legend(axes)

    label = "Running share of samples over the queries, from the rarest to the most frequent"
    return draw(paint, label, "share", lines=3)


def _bars(axes: Axes, left: np.ndarray, width: np.ndarray, counts: np.ndarray) -> None:
    axes.bar(left, counts, width=width, align="edge", color=ONE, edgecolor=PAPER, linewidth=0.6)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    short_axis(axes.yaxis)


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

    return draw(paint, "Captions by their number of words", "words", lines=0)


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
            axes.axvline(stored, color=INK, linewidth=1, linestyle=(0, (4, 3)))
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

    return draw(paint, "Images by width over height", "aspects", lines=0)


def pace(network: CrawlFigures) -> str:
    """Return images per second and requests under way over time."""

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
            edges, images / network.width, step="post", color=TWO, linewidth=0, label="answered"
        )
        above.fill_between(
            edges, arrived / network.width, step="post", color=ONE, linewidth=0, label="good images"
        )
        _legend(above, columns=2)
        above.set_ylabel("images/s")
        below.fill_between(edges, under_way, step="post", color=THREE, linewidth=0)
        below.set_ylabel("in flight")
        below.set_xlabel(f"{unit} since {datetime.fromtimestamp(start, UTC):%Y-%m-%d %H:%M} UTC")
        for axes in (above, below):
            axes.set_ylim(bottom=0)
            axes.set_xlim(edges[0], edges[-1])
            axes.yaxis.set_major_locator(MaxNLocator(3))
            short_axis(axes.yaxis)

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
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: seconds(value)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        for share, label in ((0.5, "half"), (0.95, "95%")):
            at = quantile(network.latency, share)
            assert at is not None
            axes.axvline(at, color=INK, linewidth=1, linestyle=(0, (4, 3)))
            axes.text(at, 1.0, f"{label} ", transform=axes.get_xaxis_transform(), va="bottom", ha="center")
        axes.set_xlabel("time from request to last byte")
        axes.set_ylabel("images")

    return draw(paint, "Images by the time that their answer took", "latency", lines=1)


def sites(figures: SampleFigures) -> str:
    """Return the running share of the samples over the sites, the largest first."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        counts = np.sort(figures.sites["samples"].to_numpy())[::-1]
        running = np.cumsum(counts) / counts.sum()
        places = np.unique(np.geomspace(1, len(counts), 300).round().astype(int))
        axes.plot(places, running[places - 1], color=ONE)
        axes.set_xscale("log")
        axes.set_xlim(1, len(counts))
        axes.set_ylim(0, 1)
        percent_axis(axes.yaxis)
        axes.xaxis.set_minor_formatter(NullFormatter())
        short_axis(axes.xaxis)
        axes.set_xlabel("sites, the largest first")
        axes.set_ylabel("share of the samples")

    return draw(paint, "Running share of the samples over the sites, the largest first", "sites", lines=0)
