"""How long polite fetching takes at 400 million images on 5 million sites, and how to cut it into units.

    python -m bench.politeness_simulation [--images 400000000] [--sites 5000000] [--workers 100]

Takes half a minute of one core and 0.7 GB at that size.

A discrete simulation at full size: sites of a Zipf-Mandelbrot law fitted to published counts of LAION-400M
(400M URLs on 5M domains; 4,622 domains in 10,000 shuffled rows, 30,898 in 100,000, 186,972 in 10^6:
img2dataset issues 43 and 101), hashed into partitions, cut into units by `pipeline.fetch.lanes`, and given to
workers one unit at a time. A share of the sites is dead, slow, or asks for less; images that miss a unit's
deadline or fail for a transient reason come again in the next round.

Bounds: no crawl ends before the images divided by the number that all workers can decode (`bound`, hours),
and none gets more from a site than its rate allows in the time that it runs (`could`, the share of all
images).
"""

import argparse
import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pipeline.fetch.lanes import deadline, duration_class, lane_sizes, room
from pipeline.options.fetch import UnitLimits

DELAY = 1.0
WORKER_RATE = 150.0  # images per second that a process fetches, decodes and resizes (bench/resize.py)
DEAD, SLOW, THROTTLED = (
    0.10,
    0.05,
    0.01,
)  # shares of the sites: no answer; 8 s an answer; a minute's pause each 10
PASSING = 0.03  # share of images that fail for a transient reason and succeed the next time


def site_sizes(images: int, sites: int) -> np.ndarray:
    """Return images by site, the largest first: p(rank) ~ (rank + 2)^-1.12 gives the published counts."""
    weights = (np.arange(1, sites + 1) + 2) ** -1.12
    sizes = np.maximum(1, weights / weights.sum() * images)
    return (sizes * (images / sizes.sum())).round().astype(np.int64).clip(1)


def fit(sizes: np.ndarray) -> str:
    """Return distinct sites in samples of the sizes for which they are published."""
    share = sizes / sizes.sum()
    distinct = [int((1 - np.exp(-share * rows)).sum()) for rows in (10**4, 10**5, 10**6)]
    return f"distinct sites in 10^4, 10^5, 10^6 rows: {distinct} (published: [4622, 30898, 186972])"


@dataclass
class Round:
    """The result of one round."""

    seconds: float
    busy: float  # share of the workers' time
    longest: float
    units: int
    largest: int
    left: np.ndarray  # images by site


def simulate(
    left: np.ndarray,
    kinds: np.ndarray,
    limits: UnitLimits,
    workers: int,
    rng: np.random.Generator,
    packed: bool,
) -> Round:
    """Fetch the remaining images of each site, as far as one round allows."""
    partition = rng.integers(0, max(1, int(left.sum()) // 1_000_000), len(left))
    order = rng.permutation(len(left))
    lanes = lanes_of(order[left[order] > 0.5], left, kinds, limits, packed)
    if packed:  # as pipeline.fetch.lanes.cut packs them
        lanes = lanes.take(np.lexsort((-by_value(duration_class, lanes.planned), partition[lanes.site])))
    else:
        lanes = lanes.take(np.argsort(partition[lanes.site], kind="stable"))
    starts = np.array(unit_starts(lanes, partition[lanes.site], limits, packed))
    counts = np.diff(np.append(starts, len(lanes.site)))
    images = np.add.reduceat(lanes.images, starts)
    unlimited = np.full(len(starts), np.inf)
    planned = np.maximum.reduceat(lanes.planned, starts)
    limit = by_unit(deadline, planned, images.astype(int)) if packed else unlimited
    durations = np.maximum(np.minimum(np.maximum.reduceat(lanes.needed, starts), limit), images / WORKER_RATE)
    promised = deadline(lanes.planned[starts], limits.unit_images) if packed else unlimited
    got = lanes.images * np.minimum(1.0, np.repeat(promised, counts) / lanes.needed)
    got[kinds[lanes.site] == 1] = 0.0
    after = left - np.bincount(lanes.site, got, len(left)) * (1 - PASSING)
    free = [0.0] * workers
    for seconds in durations.tolist():  # the launcher hands them out in this order
        heapq.heapreplace(free, free[0] + seconds)
    total = max(free)
    busy = lanes.images.sum() / WORKER_RATE / (total * workers)
    return Round(total, busy, durations.max(), len(starts), int(images.max()), after.clip(0))


class Lanes(NamedTuple):
    """Lanes, one per place of the arrays: images, seconds planned and seconds needed."""

    site: np.ndarray
    images: np.ndarray
    planned: np.ndarray
    needed: np.ndarray

    def take(self, order: np.ndarray) -> "Lanes":
        """Return them in another order."""
        return Lanes(*(values[order] for values in self))


def lanes_of(
    sites: np.ndarray, left: np.ndarray, kinds: np.ndarray, limits: UnitLimits, packed: bool
) -> Lanes:
    """Return the lanes of the sites that are left, those of a site side by side."""
    sizes, place = np.unique(left[sites].round().astype(int), return_inverse=True)
    cuts = [lane_sizes(size, DELAY, limits) if packed else uncut(size, limits) for size in sizes.tolist()]
    taken, count = (np.array([cut[part] for cut in cuts])[place] for part in (0, 1))
    images, lanes, site = (np.repeat(values, count) for values in (taken / count, count, sites))
    slowest = np.array([0.0, 0.0, 4.0, 7.0])[kinds[site]]
    needed = np.where(kinds[site] == 1, 50.0, (images + 2) * np.maximum(DELAY * lanes, slowest))
    return Lanes(site, images, images * DELAY * lanes, needed)


def unit_starts(lanes: Lanes, partition: np.ndarray, limits: UnitLimits, packed: bool) -> list[int]:
    """Return at which lane each unit begins: it takes the lanes that follow as long as it has room."""
    before = np.append(0.0, np.cumsum(lanes.images))
    ends = np.append(np.flatnonzero(np.diff(partition)) + 1, len(partition))
    starts, start = [], 0
    for end in ends.tolist():
        while start < end:
            starts.append(start)
            size = room(lanes.planned[start], limits) if packed else limits.unit_images
            full = int(np.searchsorted(before, before[start] + size + 1e-6, side="right")) - 1
            start = min(max(full, start + 1), end)
    return starts


def by_value(function: Callable[[float], int], values: np.ndarray) -> np.ndarray:
    """Apply a function of `pipeline.fetch.lanes` to each value, once to equal ones."""
    distinct, place = np.unique(values, return_inverse=True)
    return np.array([function(value) for value in distinct.tolist()])[place]


def by_unit(function: Callable[[float, int], float], planned: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Apply a function of `pipeline.fetch.lanes` to each unit's time and size."""
    return np.array([function(*unit) for unit in zip(planned.tolist(), images.tolist(), strict=True)])


def uncut(size: int, limits: UnitLimits) -> tuple[int, int, int]:
    """Return the result of `lane_sizes` as it was before units were packed by time."""
    return size, max(1, min(-(-size // limits.unit_images), limits.unit_lanes)), 0


def report(name: str, sizes: np.ndarray, limits: UnitLimits, rounds: int, workers: int, packed: bool) -> None:
    """Print one way of cutting: its duration, the arrived images, and the bounds."""
    rng = np.random.default_rng(0)
    kinds = rng.choice(4, len(sizes), p=[1 - DEAD - SLOW - THROTTLED, DEAD, SLOW, THROTTLED])
    left, results = sizes.astype(float), []
    for _ in range(rounds):
        results.append(simulate(left, kinds, limits, workers, rng, packed))
        left = results[-1].left
    seconds = sum(each.seconds for each in results)
    alive = sizes * (kinds != 1)
    could = np.minimum(alive, seconds / DELAY).sum() / sizes.sum()
    bound = sizes.sum() / WORKER_RATE / workers
    print(
        f"{name:34s} | {seconds / 3600:8.1f} | {bound / 3600:5.1f} | {1 - left.sum() / sizes.sum():7.1%} "
        f"| {could:6.1%} | {results[0].busy:5.0%} | {results[0].units:8,} | {results[0].largest:9,} "
        f"| {results[0].longest / 3600:7.2f}",
        flush=True,
    )


def main() -> None:
    """Compare ways of cutting."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=400_000_000)
    parser.add_argument("--sites", type=int, default=5_000_000)
    parser.add_argument("--workers", type=int, default=100)
    args = parser.parse_args()
    sizes = site_sizes(args.images, args.sites)
    print(f"{sizes.sum():,} images on {len(sizes):,} sites; {fit(sizes)}; largest {sizes[0]:,}")
    print(
        f"{'':34s} |    hours | bound | arrived |  could |  busy |    units |   largest | longest"
        " (hours; busy, units, largest and longest are of the first round)"
    )
    ways: list[tuple[str, dict[str, Any], int, bool]] = [
        ("2,000 images, 8 lanes, no deadline", {"unit_lanes": 8}, 1, False),
        ("the defaults, 1 round", {}, 1, True),
        ("the defaults, 3 rounds", {}, 3, True),
        ("the defaults, 6 rounds", {}, 6, True),
        ("a site's time 10 min, 3 rounds", {"unit_seconds": 600.0}, 3, True),
        ("a site's time 30 min, 3 rounds", {"unit_seconds": 1800.0}, 3, True),
        ("a site's time 6 h, 3 rounds", {"unit_seconds": 6 * 3600.0}, 3, True),
        ("20 images/s a unit, 3 rounds", {"unit_rate": 20.0}, 3, True),
        ("400 images/s a unit, 3 rounds", {"unit_rate": 400.0}, 3, True),
        ("8 lanes, 3 rounds", {"unit_lanes": 8}, 3, True),
    ]
    for name, changes, rounds, packed in ways:
        report(name, sizes, UnitLimits(**changes), rounds, args.workers, packed)


if __name__ == "__main__":
    main()
