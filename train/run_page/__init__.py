"""The page of a training run, RUN/report.html: its curves while it trains, and beside those of other runs."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from markupsafe import Markup, escape

from pipeline import safe_html, storage, untrusted
from pipeline.formats import duration, percent, short

Row = dict[str, Any]
Point = tuple[float, float]

MOST: Final = 4
"""Other runs that are drawn beside a run."""
_WIDTH, _HEIGHT, _LEFT = 480, 240, 56
_FEW: Final = 20  # points of a curve that are drawn as dots, too
_LEAST: Final = 10.0  # seconds between two writings
_DIGITS: Final = 5  # most decimals beside a tick
_POINTS: Final = 400  # of a curve; longer ones are drawn as means of neighbours
_MOST_BYTES: Final = 256 << 20  # of a metrics.jsonl
_CURVES: Final = {
    "loss": ("Loss", "nats", "linear"),
    "lr": ("Learning rate", "", "linear"),
    "scale": ("Logit scale", "factor on cosines, at most 100", "linear"),
    "grad_norm": ("Length of the gradient", "", "log"),
    "samples_per_second": ("Throughput", "samples a second", "linear"),
    "pairs_per_second": ("Throughput", "pairs a second", "linear"),
    "data_wait": ("Share of the time spent waiting for data", "", "share"),
    "memory_gb": ("Most memory held, of the device or this process", "GB", "linear"),
}
"""Title, unit and axis by the name in metrics.jsonl; accuracies come after them."""


class Run(NamedTuple):
    """A run's name and the lines of its metrics.jsonl; fields only."""

    name: str
    rows: Sequence[Row]


class Chart(NamedTuple):
    """One figure; fields only."""

    title: str
    svg: Markup


def read(folder: str) -> Run:
    """Return another run's lines; ValueError if the folder holds none."""
    path = storage.join(folder, "metrics.jsonl")
    if not storage.exists(path) or storage.file_info(path).size > _MOST_BYTES:
        raise ValueError(f"--compare {folder}: no metrics.jsonl of a training run in it")
    rows = [untrusted.parse_json(line) for line in storage.read_bytes(path).splitlines() if line]
    return Run(
        storage.stem(folder.rstrip("/")) or folder,
        [row for row in rows if isinstance(row, dict) and isinstance(row.get("step"), int)],
    )


def render(
    runs: Sequence[Run], steps: int, chance: Mapping[str, float], *, running: bool, links: Sequence[Any] = ()
) -> str:
    """Return the page of the first run, of `steps` steps, with the others' curves beside.

    chance: accuracy of always answering the commonest class, by evaluation set.
    """
    own = runs[0].rows
    last = next((row for row in reversed(own) if "loss" in row), {})
    return safe_html.render(
        Path(__file__).parent, name=runs[0].name, running=running, tiles=_tiles(own, last, steps, running),
        charts=list(_charts(runs, chance)), links=links, lead=_lead(own, last, steps, running),
        legend=[(n, run.name) for n, run in enumerate(runs)] if len(runs) > 1 else [],
        bad=sorted((last.get("bad") or {}).items(), key=lambda item: (-item[1], item[0])),
    )  # fmt: skip


def _lead(rows: Sequence[Row], last: Row, steps: int, running: bool) -> str:
    if not last:
        return f"No step of {steps:,} is logged yet."
    done = last["step"]
    text = f"Step {done:,} of {steps:,}, loss {last['loss']:.4g}."
    found = _accuracies(rows)
    if found:
        text += " Zero-shot: " + ", ".join(f"{name} {percent(value)}" for name, value in found.items()) + "."
    return text if running or done >= steps else f"{text} It stopped before its last step."


def _accuracies(rows: Sequence[Row]) -> dict[str, float]:
    """Return the last accuracy on each set."""
    return {
        name.removeprefix("accuracy/"): value
        for row in rows for name, value in row.items() if name.startswith("accuracy/")
    }  # fmt: skip


def _tiles(rows: Sequence[Row], last: Row, steps: int, running: bool) -> list[tuple[str, str]]:
    if not last:
        return []
    found = [(percent(last["step"] / max(steps, 1)), "of the steps")]
    seconds = last.get("seconds")
    if seconds:
        found.append((duration(seconds), "trained"))
        if running and last["step"]:
            found.append((duration(seconds / last["step"] * (steps - last["step"])), "left"))
    for name, unit in (("samples_per_second", "samples a second"), ("pairs_per_second", "pairs a second")):
        if name in last:
            found.append((short(last[name]), unit))
    if "memory_gb" in last:
        found.append((f"{last['memory_gb']:.1f} GB", "held at most"))
    if "mfu" in last:
        found.append((percent(last["mfu"]), "of the device's peak"))
    return found


def _charts(runs: Sequence[Run], chance: Mapping[str, float]) -> list[Chart]:
    names = [name for name in _CURVES if any(name in row for run in runs for row in run.rows)]
    charts = [
        _chart(runs, name, f"{title}, {unit}" if unit else title, scale)
        for name, (title, unit, scale) in _CURVES.items()
        if name in names
    ]
    keys = dict.fromkeys(key for run in runs for row in run.rows for key in row)
    for key in filter(lambda key: key.startswith("accuracy/"), keys):
        name = key.removeprefix("accuracy/")
        charts.append(_chart(runs, key, f"Zero-shot accuracy on {name}", "share", chance.get(name)))
    return charts


def _chart(runs: Sequence[Run], name: str, title: str, scale: str, chance: float | None = None) -> Chart:
    curves = [curve(run.rows, name) for run in runs]
    if scale == "log":
        curves = [[(step, math.log10(value)) for step, value in points if value > 0] for points in curves]
    at = f"; chance is {percent(chance)}, dashed" if chance is not None else ""
    return Chart(f"{title}{at}", _svg(curves, scale, f"{title} over the steps", chance))


def _svg(curves: Sequence[Sequence[Point]], scale: str, label: str, chance: float | None) -> Markup:
    """Return curves as an SVG element: drawn here, since a run that trains has no time for matplotlib."""
    points = [point for one in curves for point in one]
    if not points:
        return Markup()
    low, high = (edge(value for _, value in points) for edge in (min, max))
    if scale == "share":
        low, high = 0.0, 1.0
    ticks = _ticks(low, high)
    bottom, top = min(low, ticks[0]), max(high, ticks[-1])
    end = max(step for step, _ in points)

    def place(step: float, value: float) -> tuple[float, float]:
        return (
            round(_LEFT + (_WIDTH - _LEFT - 12) * step / end, 1),
            round(8 + (_HEIGHT - 42) * (top - value) / ((top - bottom) or 1), 1),
        )

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">']
    for value, text in zip(ticks, _labels(ticks, scale), strict=True):
        _, y = place(0, value)
        parts.append(f'<path class="grid" d="M{_LEFT} {y}H{_WIDTH - 12}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{text}</text>')
    for step in _ticks(0, end):
        x, _ = place(step, bottom)
        parts.append(f'<text x="{x}" y="{_HEIGHT - 20}" text-anchor="middle">{short(step)}</text>')
    parts.append(f'<text x="{(_LEFT + _WIDTH) // 2}" y="{_HEIGHT - 4}" text-anchor="middle">step</text>')
    if chance is not None:
        parts.append(f'<path class="chance" d="M{_LEFT} {place(0, chance)[1]}H{_WIDTH - 12}"/>')
    for number, one in enumerate(curves):
        places = [place(*point) for point in one]
        line = "L".join(f"{x} {y}" for x, y in places)
        parts.append(f'<path class="curve s{number}" d="M{line}"/>' if line else "")
        if len(places) < _FEW:
            parts += [f'<circle class="s{number}" cx="{x}" cy="{y}" r="3"/>' for x, y in places]
    return safe_html.trusted("".join([*parts, "</svg>"]))


def _ticks(low: float, high: float) -> list[float]:
    """Return four to seven round values that cover a range."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


def _labels(ticks: Sequence[float], scale: str) -> list[str]:
    """Return the numbers beside ticks, with as many digits as tell them apart."""
    if scale == "share":
        return [f"{100 * value:.0f}%" for value in ticks]
    if scale == "log":
        return [short(10**value) for value in ticks]
    step = ticks[-1] - ticks[-2] if len(ticks) > 1 else 0.0
    digits = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else _DIGITS + 1
    if digits > _DIGITS or max(map(abs, ticks)) >= 1000:
        return [short(value) for value in ticks]
    return [f"{value:.{digits}f}" for value in ticks]


def curve(rows: Sequence[Row], name: str) -> list[Point]:
    """Return (step, value) of a metric; of many the means of equal stretches, 400 at most."""
    found = [
        (row["step"], row[name]) for row in rows
        if isinstance(row.get(name), int | float) and math.isfinite(row[name])
    ]  # fmt: skip
    if not found:
        return []
    parts = np.array_split(np.array(found, np.float64), min(_POINTS, len(found)))
    return [(float(part[-1, 0]), float(part[:, 1].mean())) for part in parts]


class Writer:
    """Write the page of a run as it goes, in one hundredth of its time."""

    def __init__(
        self, out: str, steps: int, *, compare: Sequence[str], shards: Sequence[str],
        chance: Mapping[str, float],
    ) -> None:  # fmt: skip
        """ValueError where `compare` names a folder that is no training run; shards: the training data."""
        if len(compare) > MOST:
            raise ValueError(f"--compare: at most {MOST} runs are drawn beside one, not {len(compare)}")
        self._out, self._steps, self._next = out.rstrip("/"), steps, 0.0
        self._path = storage.join(self._out, "report.html")
        self._others = [read(folder) for folder in compare]
        self._datasets = [storage.join(folder, "report", "index.html") for folder in shards]
        self._links = [
            one for page in self._datasets for one in safe_html.link(self._path, page, "the dataset")
        ]
        self._chance = chance

    def write(self, lines: Sequence[str], *, running: bool) -> None:
        """Write the page of these lines of metrics.jsonl, unless it was written a moment ago."""
        started = time.monotonic()
        if running and started < self._next:
            return
        own = Run(storage.stem(self._out) or self._out, [json.loads(line) for line in lines])
        page = render([own, *self._others], self._steps, self._chance, running=running, links=self._links)
        storage.write_bytes(self._path, page.encode())
        for dataset in () if running else self._datasets:
            safe_html.link_back(dataset, self._path, f"the training of {own.name}")
        ended = time.monotonic()
        self._next = ended + max(_LEAST, 100 * (ended - started))
