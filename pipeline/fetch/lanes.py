"""Cut the images of a partition of sites into work units, packed by time.

A unit is the work that one worker fetches in one go. Sites stay together, so robots.txt, names and
connections are paid once, and a site is in one unit of a round only, so its rate holds however many workers
there are. With a rate to keep, a unit takes as long as its longest site, so sites that take equally long
share units, and the longer they take the more of them: then no worker waits for one site. Images that a site
cannot give within a unit's time are deferred to the next round. bench/politeness_simulation.py shows the
reasons for the figures below.

A site of ten million images must not be ten million rows of one partition: most of its images are deferred,
and that is known before they are together (`beyond`).
"""

from collections.abc import Callable, Iterator
from math import ceil, log2, sqrt
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import xxhash

from pipeline.options.fetch import UnitLimits

PUT_OFF_IMAGES = 100_000
"""Of a unit of which nothing is asked for. Large, since the next round gets a site's first images of each."""


class SiteShare(NamedTuple):
    """A share of one site: its images, and the number of lanes it is one of; 0 lanes if it is deferred."""

    site: str
    images: np.ndarray  # int64 indices
    lanes: int
    seconds: float  # at its share of the rate
    order: int  # where it is packed, a hash


def share(lanes: int) -> float:
    """Return the share of a site's rate per lane."""
    return 1 / lanes if lanes else 0.0


def lane_sizes(images: int, delay: float, limits: UnitLimits) -> tuple[int, int, int]:
    """Return a site's images in a round, the number of their lanes, and the number of deferred images."""
    if delay <= 0:
        return images, ceil(images / limits.unit_images), 0
    taken = images if images * delay <= limits.unit_seconds else max(1, int(limits.unit_seconds / delay))
    return taken, min(limits.unit_lanes, ceil(taken / limits.unit_images)), images - taken


def lanes_of(site: str, images: np.ndarray, delay: float, limits: UnitLimits) -> Iterator[SiteShare]:
    """Yield a site's lanes; images are dealt out in turn, so that each lane is a fair sample of the site."""
    taken, count, _ = lane_sizes(len(images), delay, limits)
    parts = [(images[:taken][lane::count], count) for lane in range(count)]
    parts += [(part, 0) for part in put_off_parts(images[taken:])]
    for number, (part, lanes) in enumerate(parts):
        order = xxhash.xxh3_64_intdigest(f"{site}\n{number}".encode())
        yield SiteShare(site, part, lanes, len(part) * delay * lanes, order)


def put_off_parts(images: np.ndarray) -> list[np.ndarray]:
    """Return the deferred images, cut into a part per unit."""
    return [images[start : start + PUT_OFF_IMAGES] for start in range(0, len(images), PUT_OFF_IMAGES)]


def room(seconds: float, limits: UnitLimits) -> int:
    """Return the most images in a unit whose sites take about `seconds`: the limit of its class."""
    return max(limits.unit_images, int(limits.unit_rate * 2 ** duration_class(seconds)))


def deadline(seconds: float, images: int) -> float:
    """Return the seconds after which a unit planned for `seconds` defers the images that are left.

    Twice as long is enough for sites that answer slowly, and a tenth of a second per image for a machine that
    does; a site that asks for more, by Crawl-delay or 429, would hold up a worker.
    """
    return 300.0 + 2 * seconds + min(images, 20_000) / 10


def duration_class(seconds: float) -> int:
    """Return the class of lanes that share units: up to 1 s, 2 s, 4 s, ..."""
    return ceil(log2(max(1.0, seconds)))


def by_site(sites: pa.Array) -> tuple[list[str], list[np.ndarray]]:
    """Return the names of the sites and the indices of the images of each, ascending: str [images]."""
    # As codes: ten million strings of one large host would be gigabytes.
    encoded = sites.dictionary_encode()
    codes = encoded.indices.to_numpy()
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(len(encoded.dictionary)))
    return encoded.dictionary.to_pylist(), np.split(order, starts)[1:]


def beyond(
    sites: pa.Array, hashes: np.ndarray, delay: Callable[[str], float], limits: UnitLimits, earlier: int
) -> np.ndarray:
    """Return which of some images `cut` will deferred whatever others there are, bool [images].

    sites: str [images]; hashes: uint64 [images], first bits of uids, ascending: the order of `cut`. A site's
    time goes to its first images, so an image that is too late among these is too late among all. And the
    images are those of one range of hashes: where a site has n of them in a hundredth of all hashes it has
    about as many in each hundredth before, but for those that `earlier` rounds took. Eight standard
    deviations are left for chance.
    """
    late = np.zeros(len(sites), bool)
    start, stop = (hashes[[0, -1]] / 2.0**64).tolist() if len(hashes) else (0.0, 0.0)
    for site, images in zip(*by_site(sites), strict=True):
        seconds = delay(site)
        if seconds <= 0:
            continue
        most = int(limits.unit_seconds / seconds) + 1
        ahead = 0.0
        if start < stop:
            ahead = at_least(at_least(len(images)) * start / (stop - start)) - earlier * most
        late[images[max(0, most - int(max(0.0, ahead))) :]] = True
    return late


def at_least(found: float) -> float:
    """Return the least expected number, given the number found (Poisson, 8 deviations)."""
    return max(0.0, found - 8 * sqrt(found))


def cut(sites: pa.Array, delay: Callable[[str], float], limits: UnitLimits) -> list[list[SiteShare]]:
    """Return the units of a partition: sites is an array of str [images], its indices the images.

    `delay` gives the seconds between two requests to a site.
    The units that take longest come first. The same images give the same units, in whatever order the
    workers meet them.
    """
    lanes = [
        lane
        for site, images in zip(*by_site(sites), strict=True)
        for lane in lanes_of(site, images, delay(site), limits)
    ]
    units: list[list[SiteShare]] = []
    left, inside = 0, set[str]()
    for lane in sorted(lanes, key=lambda lane: (-duration_class(lane.seconds), lane.order, lane.site)):
        if len(lane.images) > left or lane.site in inside:
            units.append([])
            left, inside = room(lane.seconds, limits), set()
        units[-1].append(lane)
        inside.add(lane.site)
        left -= len(lane.images)
    return units
