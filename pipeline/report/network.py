"""How the crawl went: the logs of all fetched units, summed by site and over time."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
import pyarrow as pa

from pipeline import run_folder, storage
from pipeline.fetch.unit_log import LATENCY_BINS, LATENCY_BINS_PER_OCTAVE, LATENCY_LEAST
from pipeline.report.totals import Totals
from pipeline.run_folder import Layout
from pipeline.stages import Rounds

_MAX_BINS: Final = 2_000  # of time; then two become one
_SITE: Final = {
    name: pa.int64() for name in ("images", "asked", "arrived", "bytes")
} | {"seconds": pa.float64(), "slowest": pa.float64()}  # fmt: skip


@dataclass
class CrawlFigures:
    """The contents of the units' logs; empty for a run that kept none."""

    units: int = 0
    requests: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    latency: list[int] = field(default_factory=lambda: [0] * LATENCY_BINS)
    width: int = 1
    """Seconds of a bin of `pace`."""
    pace: list[tuple[int, int, int, int, float]] = field(default_factory=list)
    """(start as seconds of Unix time, images, arrived, bytes, mean requests under way) by time."""
    sites: pa.Table = field(default_factory=lambda: Totals({"site": pa.string()}, _SITE).table())
    failures: pa.Table = field(default_factory=lambda: _failures().table())
    """site, reason, images."""


def _failures() -> Totals:
    return Totals({"site": pa.string(), "reason": pa.string()}, {"images": pa.int64()})


class TimeBins:
    """Values over time, in at most that many bins."""

    def __init__(self) -> None:
        self.width = 1
        self._bins: dict[int, list[float]] = {}

    def add(self, width: int, bins: list[list[float]]) -> None:
        """Add [number, values...] bins of `width` seconds, a power of two."""
        self._coarsen(width)
        for number, *values in bins:
            self._put(int(number) * width // self.width, values)
        while len(self._bins) > _MAX_BINS:
            self._coarsen(2 * self.width)

    def _put(self, number: int, values: list[float]) -> None:
        old = self._bins.get(number)
        self._bins[number] = values if old is None else [a + b for a, b in zip(old, values, strict=True)]

    def _coarsen(self, width: int) -> None:
        while self.width < width:
            bins, self._bins, self.width = self._bins, {}, 2 * self.width
            for number, values in bins.items():
                self._put(number // 2, values)

    def rows(self) -> list[tuple[int, int, int, int, float]]:
        """Return `Network.pace`."""
        return [
            (number * self.width, int(v[0]), int(v[1]), int(v[2]), v[3] / self.width)
            for number, v in sorted(self._bins.items())
        ]


def read(layout: Layout, extensions: int = 0) -> CrawlFigures:
    """Sum the logs of all rounds of a run, and of its first extensions."""
    found, pace = CrawlFigures(), TimeBins()
    sites, failures = Totals({"site": pa.string()}, _SITE, maxima=("slowest",)), _failures()
    parts = [Layout(layout.root, number) for number in range(extensions + 1)]
    for path in (path for part in parts for path in _logs(part)):
        lines = [orjson.loads(line) for line in storage.read_bytes(path).splitlines()]
        for unit in (line for line in lines if line["kind"] == "unit"):
            found.units += 1
            found.requests += unit["requests"]
            found.statuses.update(unit["statuses"])
            found.latency = [a + b for a, b in zip(found.latency, unit["latency"], strict=True)]
            pace.add(unit["width"], unit["bins"])
        own: list[dict[str, Any]] = [line for line in lines if line["kind"] == "site"]
        sites.add(own)
        failures.add(
            [
                {"site": line["site"], "reason": reason, "images": count}
                for line in own
                for reason, count in line["reasons"].items()
            ]
        )
    found.width, found.pace = pace.width, pace.rows()
    found.sites, found.failures = sites.table(), failures.table()
    return found


def _logs(layout: Layout) -> Iterator[str]:
    """Yield the logs of the units that count."""
    for unit in run_folder.done(layout, Rounds).units if run_folder.is_done(layout, "fetch") else ():
        if storage.exists(unit.log):
            yield unit.log


def quantile(latency: list[int], share: float) -> float | None:
    """Return the answer time, seconds, below which a share of the answers lies: its bin's upper edge."""
    total = sum(latency)
    reached = 0
    for number, count in enumerate(latency):
        reached += count
        if total and reached >= share * total:
            return edge(number + 1)
    return None


def edge(number: int) -> float:
    """Return the lower edge of a bin of answer times, seconds."""
    return float(LATENCY_LEAST * 2 ** (number / LATENCY_BINS_PER_OCTAVE))
