"""The paper's figure 17: the effect of the overlap on accuracy, over its size."""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from dedup.findings import SetFindings
from pipeline.charts import NONE, SOFT, STRONG, WEAK, draw, explain, words
from pipeline.formats import percent, points

_NAMED: Final = 8
"""Sets up to which each has its name beside its mark; with more they would lie on one another."""


class Panel(NamedTuple):
    """One scatter plot; fields only."""

    title: str
    svg: Markup


class _Mark(NamedTuple):
    """A set's mark: a difference of accuracies with its interval."""

    middle: float
    low: float
    high: float


def figure(datasets: Sequence[SetFindings]) -> list[Panel]:
    """Return the panels, Overlap - Clean and All - Clean over the overlap; none where nothing was tested."""
    tested = [one for one in datasets if one.p_value is not None]
    if not tested:
        return []
    return [
        _panel("Accuracy on Overlap minus Clean", "overlap", tested, _against_clean),
        _panel("Accuracy on All minus Clean", "all", tested, _of_all),
    ]


def _against_clean(one: SetFindings) -> _Mark:
    assert None not in (one.acc_overlap, one.acc_clean, one.ci_low, one.ci_high)
    clean = one.acc_clean or 0.0
    return _Mark((one.acc_overlap or 0.0) - clean, (one.ci_low or 0.0) - clean, (one.ci_high or 0.0) - clean)


def _of_all(one: SetFindings) -> _Mark:
    assert None not in (one.delta, one.delta_low, one.delta_high)
    return _Mark(one.delta or 0.0, one.delta_low or 0.0, one.delta_high or 0.0)


def _panel(
    title: str, name: str, tested: list[SetFindings], mark_of: Callable[[SetFindings], _Mark]
) -> Panel:
    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axhline(0, color=SOFT, linewidth=1)
        most = max(one.contamination for one in tested) or 1
        for one in tested:
            mark, colour = mark_of(one), _colour(one)
            axes.vlines(one.contamination, mark.low, mark.high, color=colour, linewidth=1.5)
            (dot,) = axes.plot([one.contamination], [mark.middle], "o", color=colour, clip_on=False)
            explain(dot, f"{one.name}: {percent(one.contamination)} overlap, {points(mark.middle)} points")
            if len(tested) <= _NAMED:
                is_left = one.contamination <= most / 2
                axes.annotate(
                    words(one.name, 24), (one.contamination, mark.middle), (7 if is_left else -7, 4),
                    textcoords="offset points", ha="left" if is_left else "right", color=SOFT,
                )  # fmt: skip
        axes.set_xlim(0, 1.05 * most)
        values = [0.0, *(value for one in tested for value in mark_of(one))]
        margin = 0.1 * (max(values) - min(values)) or 0.01
        axes.set_ylim(min(values) - margin, max(values) + margin)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(value)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: points(value)))
        axes.set_xlabel("examples that overlap")
        axes.set_ylabel("percentage points of accuracy")

    return Panel(title, draw(paint, f"{title}, in points, over the share of examples that overlap", name))


def _colour(one: SetFindings) -> str:
    assert one.p_value is not None
    return STRONG if one.significant else WEAK if one.p_value <= 0.05 else NONE
