"""The cost of fetching a unit, by site and over time: JSON lines beside the staged shard.

They describe the crawl, not its results, so no step that decides on the set reads them.
"""

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from pipeline.http.fetch_url import Outcome

LATENCY_BINS_PER_OCTAVE: Final = 2
LATENCY_LEAST: Final = 0.001
"""Seconds, the lower edge of the first bin of answer times; each bin ends at sqrt(2) times its start."""
LATENCY_BINS: Final = 40  # up to 1 ms * 2^20, 17 minutes
_MAX_BINS: Final = 600  # of time; then two become one


def latency_bin(seconds: float) -> int:
    """Return the bin of an answer time: floor(2 log2(t / 1 ms)), within the bins there are."""
    octaves = math.log2(max(seconds, LATENCY_LEAST) / LATENCY_LEAST)
    return min(int(LATENCY_BINS_PER_OCTAVE * octaves), LATENCY_BINS - 1)


@dataclass
class _Site:
    images: int = 0
    asked: int = 0  # images for which a request was sent
    arrived: int = 0
    bytes: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)


class UnitLog:
    """Gather the figures of a unit's fetches."""

    def __init__(self) -> None:
        self._sites: dict[str, _Site] = {}
        self._latency = [0] * LATENCY_BINS
        self._statuses: Counter[int] = Counter()
        self._width = 1  # seconds; bins lie at its multiples, so that those of several units nest
        self._bins: dict[int, list[float]] = {}  # images, arrived, bytes, seconds of requests under way

    def add(self, site: str, outcome: Outcome, reason: str, size: int, ended: float) -> None:
        """Count one image; `ended` is the time (s) at which its answer of `size` bytes was there."""
        one = self._sites.setdefault(site, _Site())
        one.images += 1
        one.bytes += size
        one.arrived += not reason
        one.reasons[reason] += bool(reason)
        self._statuses[outcome.status] += 1
        self._count(ended, 0, 1)
        self._count(ended, 1, not reason)
        self._count(ended, 2, size)
        if outcome.status or outcome.elapsed > 0:  # an answer within a millisecond may count as no time
            one.asked += 1
            one.seconds += outcome.elapsed
            one.slowest = max(one.slowest, outcome.elapsed)
            self._latency[latency_bin(outcome.elapsed)] += 1
            self._under_way(ended - outcome.elapsed, ended)

    def _count(self, moment: float, column: int, value: float) -> None:
        number = int(moment // self._width)
        if number not in self._bins and len(self._bins) >= _MAX_BINS:
            self._coarsen()
            number = int(moment // self._width)
        self._bins.setdefault(number, [0, 0, 0, 0.0])[column] += value

    def _under_way(self, start: float, end: float) -> None:
        """Spread a request over the bins that it spans: sum over width is the mean in flight."""
        while start < end:
            stop = min(end, (start // self._width + 1) * self._width)
            self._count(start, 3, stop - start)
            start = stop

    def _coarsen(self) -> None:
        bins, self._bins = self._bins, {}
        self._width *= 2
        for number, values in bins.items():
            old = self._bins.setdefault(number // 2, [0, 0, 0, 0.0])
            self._bins[number // 2] = [a + b for a, b in zip(old, values, strict=True)]

    def lines(self, requests: int) -> bytes:
        """Return the JSON lines: one for the unit, with all `requests` that were sent, then one per site."""
        bins = [[number, *values[:3], round(values[3], 3)] for number, values in sorted(self._bins.items())]
        unit = {
            "kind": "unit", "requests": requests, "latency": self._latency, "width": self._width,
            "bins": bins, "statuses": {str(key): count for key, count in sorted(self._statuses.items())},
        }  # fmt: skip
        sites = [
            {
                "kind": "site", "site": name, "images": one.images, "asked": one.asked,
                "arrived": one.arrived, "bytes": one.bytes, "seconds": round(one.seconds, 3),
                "slowest": round(one.slowest, 3), "reasons": dict(sorted((+one.reasons).items())),
            }
            for name, one in sorted(self._sites.items())
        ]  # fmt: skip
        return "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in [unit, *sites]).encode()
