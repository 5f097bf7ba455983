"""Cut the images of a partition of sites into work units, packed by time.

A unit is what one worker fetches in one go. Sites stay together, so robots.txt, names and connections are
paid once; a site that needs longer than a unit may take is cut into lanes, each with a fixed share of its
rate, so that the rate holds however many lanes run at once. Small sites fill units up to a number of images.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import xxhash


@dataclass(frozen=True, kw_only=True)
class UnitLimits:
    """Say how large a unit may grow."""

    unit_images: int = 2_000
    """Images in a work unit; a worker fetches one unit at a time and loses at most one when it dies."""
    unit_seconds: float = 300.0
    """Time that a site may need in one unit at its rate; a site that needs longer is cut into lanes."""
    unit_lanes: int = 8
    """Lanes of one site at most; each has an equal share of its rate."""

    def __post_init__(self) -> None:
        """Refuse what would make no unit."""
        if self.unit_images < 1 or self.unit_seconds <= 0 or self.unit_lanes < 1:
            raise ValueError("a unit holds at least one image, lasts some seconds and has at least one lane")


class Lane(NamedTuple):
    """A share of one site: which of its images, and of how many lanes it is one."""

    site: str
    images: np.ndarray  # int64 indices
    lanes: int
    order: int  # where it is packed, a hash


def lanes_of(site: str, images: np.ndarray, delay: float, limits: UnitLimits) -> Iterator[Lane]:
    """Yield a site's lanes; images are dealt out in turn, so that each lane is a fair sample of the site."""
    by_size = -(-len(images) // limits.unit_images)
    by_time = int(-(-len(images) * delay // limits.unit_seconds))
    # With a rate to keep, more lanes than may run at once would each be slower, not faster: then they are
    # longer.
    count = max(1, min(max(by_size, by_time), limits.unit_lanes) if delay > 0 else by_size)
    for lane in range(count):
        order = xxhash.xxh3_64_intdigest(f"{site}\n{lane}".encode())
        yield Lane(site, images[lane::count], count, order)


def cut(sites: np.ndarray, delay: float, limits: UnitLimits) -> list[list[Lane]]:
    """Return the units of a partition: sites is an array of str [images], its indices the images.

    The same images give the same units, in whatever order the workers meet them.
    """
    order = np.argsort(sites, kind="stable")
    names, starts = np.unique(sites[order], return_index=True)
    lanes = [
        lane
        for name, images in zip(names.tolist(), np.split(order, starts[1:]), strict=True)
        for lane in lanes_of(name, images, delay, limits)
    ]
    units: list[list[Lane]] = []
    room = 0
    for lane in sorted(lanes, key=lambda lane: (lane.order, lane.site)):
        if len(lane.images) > room or any(other.site == lane.site for other in units[-1]):
            units.append([])
            room = limits.unit_images
        units[-1].append(lane)
        room -= len(lane.images)
    return units
