"""Draw a training run's loss and accuracy as one SVG file."""

import json
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from pipeline.charts import ONE, THREE, percent_axis, picture
from pipeline.formats import short


class _Logged(NamedTuple):
    """The values in a line of metrics.jsonl."""

    samples: int
    loss: float
    accuracy: float


def svg(lines: Sequence[str]) -> str:
    """Return the picture of metrics.jsonl's lines: loss on the left axis, proxy accuracy on the right."""
    found = map(json.loads, lines)
    rows = [_Logged(row["samples"], row["loss"], row["accuracy"]) for row in found if row.keys() >= _KEYS]

    def paint(figure: Figure) -> None:
        left = figure.subplots()
        right = left.twinx()
        seen = [row.samples for row in rows]
        left.plot(seen, [row.loss for row in rows], color=ONE)
        right.plot(seen, [row.accuracy for row in rows], color=THREE)
        left.set_ylim(bottom=0)
        right.set_ylim(0, 1)
        right.grid(visible=False)
        percent_axis(right.yaxis)
        left.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
        left.set_xlabel("photographs seen")
        left.set_ylabel(f"loss, {rows[-1].loss:.3f} at the end" if rows else "loss", color=ONE)
        right.set_ylabel(f"accuracy, {rows[-1].accuracy:.3f} at the end" if rows else "accuracy", color=THREE)

    return picture(paint, "Loss and proxy accuracy over photographs seen", size=(8.0, 3.5))


_KEYS = {*_Logged._fields}
