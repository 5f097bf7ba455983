"""Whose turn it is: a lane for each site, and the order in which lanes may start requests.

Pure bookkeeping on a monotonic clock that the caller reads. A lane stands in at most one heap, so that
thousands of sites cost nothing while they wait and a site without URLs costs nothing at all.
"""

import email.utils
import heapq
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, NamedTuple

from pipeline.http.address_policy import AddressPolicy
from pipeline.options import FetchOptions

ADDRESS_CONCURRENCY: Final = 32
"""Requests at a time to a public address unless told otherwise: a CDN's serves thousands of sites."""

PUBLIC_DELAY: Final = 1.0
"""Seconds between requests to a site unless told otherwise."""

LONGEST_PAUSE: Final = 60.0
"""Longest wait, in seconds, that a site may ask a unit for; beyond it its URLs go to a later round."""


def site_delay(site: str, options: FetchOptions) -> float:
    """Return the seconds between two requests to a site, before its robots.txt is known."""
    if options.host_delay is not None:
        return options.host_delay
    policy = AddressPolicy.from_text(options.allow_network)
    return 0.0 if policy.opens(site.strip("[]")) else PUBLIC_DELAY


class QueuedUrl(NamedTuple):
    """One URL to fetch: the caller's key, the URL as given, and as resolved."""

    key: object
    url: str
    href: str


@dataclass(eq=False)
class Lane:
    """The URLs of one site and its pace; `delay` in seconds between starts."""

    site: str
    delay: float
    concurrency: int
    pending: deque[QueuedUrl] = field(default_factory=deque)
    next_start: float = 0.0
    in_flight: int = 0
    loading: bool = False
    """Whether its name or its robots.txt is under way; until it is here nothing else may start."""
    address: str = ""
    """Where it was last sent to, if that is limited."""
    parked: bool = False
    """Whether it waits until fewer requests to its address are in flight."""
    throttled: int = 0
    """Answers in a row that asked for less."""
    queued: bool = False

    @property
    def open(self) -> bool:
        """Return whether it may start another request when its time comes."""
        held = self.loading or self.parked
        return bool(self.pending) and not held and self.in_flight < self.concurrency


class Schedule:
    """Hand out lanes whose time has come.

    Of several, the lane that had the most URLs to begin with comes first: long lanes decide when a unit ends,
    and while they can use all the capacity no other site holds a connection open.
    """

    def __init__(self, lanes: Iterable[Lane]) -> None:
        ranked = sorted(lanes, key=lambda lane: -len(lane.pending))
        self.lanes = [lane for lane in ranked if lane.pending]
        self.left = sum(len(lane.pending) for lane in self.lanes)
        self._rank = {lane: rank for rank, lane in enumerate(self.lanes)}
        self._waiting: list[tuple[float, int, Lane]] = []
        self._ready: list[tuple[int, Lane]] = []
        for lane in self.lanes:
            self._queue(lane)

    def pop(self, lane: Lane) -> QueuedUrl:
        """Take the lane's first URL out."""
        self.left -= 1
        return lane.pending.popleft()

    def take(self, now: float) -> Lane | None:
        """Return a lane that may start a request now; if it does, the caller calls `started`.

        A lane from which the caller has popped all URLs instead is done with.
        """
        while self._waiting and self._waiting[0][0] <= now:
            _, rank, lane = heapq.heappop(self._waiting)
            if lane.next_start > now:  # it was postponed meanwhile
                heapq.heappush(self._waiting, (lane.next_start, rank, lane))
            else:
                heapq.heappush(self._ready, (rank, lane))
        while self._ready:
            _, lane = heapq.heappop(self._ready)
            lane.queued = False
            if not lane.open:
                continue
            if lane.next_start <= now:
                return lane
            self._queue(lane)
        return None

    def started(self, lane: Lane, now: float) -> None:
        """Count a request that starts now."""
        lane.in_flight += 1
        lane.next_start = now + lane.delay
        self._queue(lane)

    def finished(self, lane: Lane) -> None:
        """Count the end of a request."""
        lane.in_flight -= 1
        self._queue(lane)

    def resume(self, lane: Lane) -> None:
        """Let a lane go on that was loading or parked."""
        lane.loading = lane.parked = False
        self._queue(lane)

    def seconds_to_next(self, now: float) -> float:
        """Return how long no lane will be ready, infinity if only the end of a request can change that."""
        if self._ready:
            return 0.0
        return max(0.0, self._waiting[0][0] - now) if self._waiting else math.inf

    def _queue(self, lane: Lane) -> None:
        if lane.open and not lane.queued:
            lane.queued = True
            heapq.heappush(self._waiting, (lane.next_start, self._rank[lane], lane))


class Addresses:
    """Bound the requests in flight to one address, however many sites lead there.

    A lane that finds its address busy is parked: it holds nothing while it waits, and is woken in turn.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._in_flight: Counter[str] = Counter()
        self._parked: dict[str, dict[Lane, Callable[[], None]]] = {}

    def enter(self, address: str, lane: Lane, wake: Callable[[], None]) -> bool:
        """Count a request that starts; or park the lane until `wake` is called, and return False."""
        if self._in_flight[address] < self._limit:
            self._in_flight[address] += 1
            return True
        lane.parked = True
        self._parked.setdefault(address, {})[lane] = wake
        return False

    def leave(self, address: str) -> None:
        """Count the end of a request and wake the lane that waits longest."""
        self._in_flight[address] -= 1
        if not self._in_flight[address]:
            del self._in_flight[address]
        self._wake(address)

    def withdraw(self, address: str, lane: Lane) -> None:
        """Forget a lane that has nothing left to ask; should it have been woken, wake the next."""
        self._parked.get(address, {}).pop(lane, None)
        self._wake(address)

    def _wake(self, address: str) -> None:
        waiting = self._parked.get(address)
        if waiting and self._in_flight[address] < self._limit:
            waiting.pop(next(iter(waiting)))()
        if not waiting:
            self._parked.pop(address, None)


def turn(lane: Lane, now: float) -> float:
    """Take the lane's next start for a further request of the same URL; return the seconds to wait for it."""
    start = max(now, lane.next_start)
    lane.next_start = start + lane.delay
    return start - now


def retry_after(value: str | None, date: str | None = None) -> float | None:
    """Read Retry-After (RFC 9110, section 10.2.3), seconds or a date, as seconds; None if there is none.

    A date is compared with the server's own Date if the server sends it, since clocks differ.
    """
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:12])
    until, now = _date(value), _date(date or "") or datetime.now(UTC)
    return None if until is None else max(0.0, (until - now).total_seconds())


def _date(value: str) -> datetime | None:
    try:
        parsed = email.utils.parsedate_to_datetime(value)
    except (ValueError, IndexError, OverflowError):
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
