"""Fetch the URLs of one work unit: as many at a time as allowed, each site at its own pace, no barriers."""

import asyncio
import contextlib
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from pipeline import urls
from pipeline.http import dns, errors, fd_limits
from pipeline.http.byte_budget import AnswersInFlight, Memory
from pipeline.http.client import KEEP_ALIVE_SECONDS, authority
from pipeline.http.fetch_url import Fetcher, LinkedTerms, Outcome
from pipeline.http.optout import Refusal
from pipeline.http.rate_limit import (
    ADDRESS_CONCURRENCY,
    LONGEST_PAUSE,
    Addresses,
    Lane,
    QueuedUrl,
    Schedule,
    site_delay,
    turn,
)
from pipeline.options import FetchOptions

MAX_FAILURES: Final = 5
"""Requests in a row without an answer before an authority's other URLs are left to a later round."""

MAX_THROTTLED: Final = 5
"""Answers in a row of 429 or 503 before a site's other URLs are left to a later round."""

MAX_OPT_OUTS: Final = 10
"""Answers in a row that opt out before an authority's other URLs are not asked for."""

_GROWTH: Final = 256 << 10  # bytes reserved at a time while a body of undeclared length grows

OnOutcome = Callable[[object, Outcome], None]


@dataclass
class Counts:
    """The cost and yield of a unit: requests (robots.txt, redirects included), bytes of bodies, reasons."""

    requests: int = 0
    bytes: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


class SharedLimits:
    """The common resources of the units of an event loop: requests in flight, memory, and the pace of
    sites."""

    def __init__(self, options: FetchOptions, window: AnswersInFlight | None = None) -> None:
        self.window = window
        """Given by a caller who says when it is done with each answer."""
        self.addresses = Addresses(options.address_concurrency or ADDRESS_CONCURRENCY)
        self.slots = asyncio.Semaphore(fd_limits.requests_at_once(options))
        self.memory = Memory(options.max_held_bytes)
        self.next_starts: dict[str, float] = {}

    def remember(self, lanes: Iterable[Lane], now: float) -> None:
        """Keep the pace of sites for the units to come."""
        self.next_starts = {site: start for site, start in self.next_starts.items() if start > now}
        self.next_starts.update((lane.site, lane.next_start) for lane in lanes if lane.next_start > now)


async def fetch_many(
    fetcher: Fetcher,
    rows: Iterable[tuple[object, str]],
    on_outcome: OnOutcome,
    *,
    shares: Mapping[str, float] | None = None,
    deadline: float | None = None,
    counts: Counts | None = None,
    pool: SharedLimits | None = None,
    terms: Mapping[object, LinkedTerms] | None = None,
) -> Counts:
    """Fetch all (key, URL) `rows` and call `on_outcome(key, outcome)` for each, in the order they finish.

    `shares` says for a site which part of its rate this unit has (1 where it says nothing): starts are then
    delay / share seconds apart, and with 0 the site is `deferred`. After `deadline` seconds no request starts
    and the remaining rows are `deferred`. With a `pool` of the caller's, the caller releases each body's
    bytes from its memory when done with it. `counts`, if given, is kept up to date on the way, and returned.
    `terms` are the terms for machines that the pages of a key link to.
    """
    unit = _Unit(fetcher, on_outcome, counts or Counts(), pool, shares or {}, terms or {})
    await unit.run(rows, math.inf if deadline is None else time.monotonic() + deadline)
    return unit.counts


class _Ticket:
    """One fetch's gate: its lane's pace and its share of memory."""

    def __init__(self, lane: Lane, counts: Counts, memory: Memory) -> None:
        self._lane = lane
        self._counts = counts
        self._memory = memory
        self._granted = True  # the schedule has chosen the moment of the first request
        self._reserved = 0
        self._used = 0

    async def request(self) -> None:
        """Wait for the next start in the lane, except for the first request."""
        if not self._granted:
            await asyncio.sleep(turn(self._lane, time.monotonic()))
        self._granted = False
        self._counts.requests += 1

    async def reserve(self, size: int) -> None:
        """Reserve memory for a body; the previous body is gone."""
        self.keep(0)
        await self._memory.reserve(size)
        self._reserved = size

    def received(self, size: int) -> bool:
        """Count bytes, reserving more in steps where the length was not declared."""
        self._counts.bytes += size
        self._used += size
        if self._used <= self._reserved:
            return True
        step = max(_GROWTH, self._used - self._reserved)
        if not self._memory.try_reserve(step):
            return False
        self._reserved += step
        return True

    def keep(self, size: int) -> None:
        """Give back all but `size` bytes."""
        self._memory.release(self._reserved - size)
        self._reserved = self._used = size


class _Unit:
    """The state of one `fetch_many`."""

    def __init__(
        self,
        fetcher: Fetcher,
        on_outcome: OnOutcome,
        counts: Counts,
        pool: SharedLimits | None,
        shares: Mapping[str, float],
        terms: Mapping[object, LinkedTerms],
    ) -> None:
        self.counts = counts
        self._terms = terms
        self._fetcher = fetcher
        self._on_outcome = on_outcome
        self._pool = pool or SharedLimits(fetcher.options)
        self._caller_releases = pool is not None
        self._shares = shares
        self._failures: Counter[str] = Counter()  # in a row, by authority
        self._opt_outs: Counter[str] = Counter()  # likewise
        self._wake = asyncio.Event()

    async def run(self, rows: Iterable[tuple[object, str]], end: float) -> None:
        """Fetch everything until `end`, a time of the monotonic clock."""
        self._schedule = Schedule(self._lanes(rows))
        try:
            async with asyncio.TaskGroup() as group:
                while self._schedule.left:
                    await self._step(group, end)
        except* dns.OutageError as outage:
            raise outage.exceptions[0] from None
        finally:
            for lane in self._schedule.lanes:
                self._withdraw(lane)
            self._pool.remember(self._schedule.lanes, time.monotonic())

    async def _step(self, group: asyncio.TaskGroup, end: float) -> None:
        """Start one request, or wait until one may start."""
        await self._pool.memory.room()
        if self._pool.window is not None:
            await self._pool.window.room()
        await self._pool.slots.acquire()
        now = time.monotonic()
        lane = self._schedule.take(now) if now < end else None
        row = None if lane is None else self._next_row(lane)
        if lane is not None and row is not None and self._begin(group, lane, row, now):
            return  # with the slot
        self._pool.slots.release()
        if now >= end:
            for each in self._schedule.lanes:
                self._defer(each, "the unit's time was used up")
        elif lane is None:
            await self._sleep(min(self._schedule.seconds_to_next(now), end - now))

    def _begin(self, group: asyncio.TaskGroup, lane: Lane, row: QueuedUrl, now: float) -> bool:
        """Start the next action for `row`, the lane's first; return whether that is a request.

        A name is looked up without one of the places for requests: dead ones take long and are many. So is a
        busy address waited for.
        """
        address = self._fetcher.address(row.href)
        if address is None:
            lane.loading = True
            group.create_task(self._find_address(lane, row))
            return False
        assert isinstance(address, str), "a row whose name does not resolve is answered"
        if not self._enter(address, lane):
            return False
        work = self._fetch if self._fetcher.knows_rules(row.href) else self._load_rules
        if work == self._fetch:
            self._schedule.pop(lane)
            self._enter_window()
        lane.loading = work == self._load_rules
        self._schedule.started(lane, now)
        group.create_task(self._run(work, lane, row, address))
        return True

    async def _sleep(self, seconds: float) -> None:
        """Wait, at most until a request ends."""
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if math.isinf(seconds) else seconds):
                await self._wake.wait()

    async def _run(
        self,
        work: Callable[[Lane, QueuedUrl, _Ticket], Awaitable[None]],
        lane: Lane,
        row: QueuedUrl,
        address: str,
    ) -> None:
        ticket = _Ticket(lane, self.counts, self._pool.memory)
        try:
            await work(lane, row, ticket)
        except BaseException:
            ticket.keep(0)
            if work == self._fetch and self._pool.window is not None:
                self._pool.window.leave()  # its answer will not come
            raise
        finally:
            self._pool.slots.release()
            self._leave(address)
            self._schedule.finished(lane)
            self._wake.set()

    async def _find_address(self, lane: Lane, row: QueuedUrl) -> None:
        """Look up the name that `row`, still in the lane, waits for."""
        try:
            await self._fetcher.find_address(row.href)
        finally:
            self._resume(lane)

    async def _load_rules(self, lane: Lane, row: QueuedUrl, ticket: _Ticket) -> None:
        """Fetch the next file of rules that `row`, still in the lane, waits for."""
        try:
            await self._fetcher.load_rules(row.href, ticket)
        except Exception as error:  # noqa: BLE001 - a fault of ours must not end the unit; it is a counted row
            self._schedule.pop(lane)
            self._answer(row, "internal_error", f"{type(error).__name__}: {error}"[:300])
        finally:
            lane.loading = False
        ticket.keep(0)
        self._slow_down(lane, row)
        # From its end, since on a new connection it may have reached the server long after its start.
        lane.next_start = max(lane.next_start, time.monotonic() + lane.delay)

    async def _fetch(self, lane: Lane, row: QueuedUrl, ticket: _Ticket) -> None:
        keep_alive = bool(lane.pending) and lane.delay < KEEP_ALIVE_SECONDS
        terms = self._terms.get(row.key, ())
        outcome = await self._fetcher.fetch(row.url, ticket, keep_alive=keep_alive, terms=terms)
        ticket.keep(len(outcome.body))
        self._learn(lane, row, outcome)
        self._report(row, outcome)
        if not self._caller_releases:
            ticket.keep(0)

    def _lanes(self, rows: Iterable[tuple[object, str]]) -> Iterable[Lane]:
        """Group the rows by site; a malformed URL is answered at once."""
        lanes: dict[str, Lane] = {}
        for key, url in rows:
            try:
                href = urls.resolve(url)
                site = urls.site(href)
            except urls.BadUrl as error:
                self._answer(QueuedUrl(key, url, url), error.reason, str(error))
                continue
            if self._shares.get(site) == 0:
                detail = "deferred: the site's time in this round is used up"
                self._answer(QueuedUrl(key, url, href), "deferred", detail)
                continue
            if site not in lanes:
                lanes[site] = self._lane(site)
            lanes[site].pending.append(QueuedUrl(key, url, href))
        return lanes.values()

    def _lane(self, site: str) -> Lane:
        return Lane(
            site=site,
            delay=site_delay(site, self._fetcher.options) / self._shares.get(site, 1.0),
            concurrency=self._fetcher.options.host_concurrency,
            next_start=self._pool.next_starts.get(site, 0.0),
        )

    def _next_row(self, lane: Lane) -> QueuedUrl | None:
        """Return the first row that needs a request, still in the lane; the rows before it are answered."""
        while lane.pending:
            row = lane.pending[0]
            refusal = self._refuse(row)
            if refusal is None:
                self._slow_down(lane, row)
                return row
            self._answer(self._schedule.pop(lane), refusal.reason, refusal.detail)
        self._withdraw(lane)
        return None

    def _refuse(self, row: QueuedUrl) -> Refusal | None:
        """Return why `row` is answered without a request, as far as is known."""
        address = self._fetcher.address(row.href)
        if refusal := self._fetcher.refuse(row.href) or (address if isinstance(address, Refusal) else None):
            return refusal
        failed, opted_out = (count[authority(row.href)] for count in (self._failures, self._opt_outs))
        if failed >= MAX_FAILURES:
            return Refusal("deferred", f"{failed} requests in a row without an answer")
        if opted_out >= MAX_OPT_OUTS:
            return Refusal("opt_out_site", f"the last {opted_out} answers opted out")
        return None

    def _slow_down(self, lane: Lane, row: QueuedUrl) -> None:
        """Apply the Crawl-delay that holds for `row`; a site's slowest authority sets its pace."""
        delay = self._fetcher.crawl_delay(row.href) / self._shares.get(lane.site, 1.0)
        lane.delay = max(lane.delay, delay)

    def _learn(self, lane: Lane, row: QueuedUrl, outcome: Outcome) -> None:
        """Count failures in a row, and give the site the pause that it asks for."""
        origin = authority(row.href)
        if outcome.reason in errors.SILENT:
            self._failures[origin] += 1
            return
        self._failures[origin] = 0
        if outcome.status and outcome.reason.startswith("opt_out_"):
            self._opt_outs[origin] += 1
        elif not outcome.reason:
            self._opt_outs[origin] = 0
        if outcome.reason != "http_throttled":
            lane.throttled = 0
            return
        lane.throttled += 1
        pause = 2.0**lane.throttled if outcome.retry_after is None else outcome.retry_after
        lane.next_start = max(lane.next_start, time.monotonic() + min(max(pause, 1.0), LONGEST_PAUSE))
        if pause > LONGEST_PAUSE:
            self._defer(lane, f"the server asked to wait for {pause:.0f} s")
        elif lane.throttled >= MAX_THROTTLED:
            self._defer(lane, f"{outcome.detail} {lane.throttled} times in a row")

    def _defer(self, lane: Lane, detail: str) -> None:
        while lane.pending:
            self._answer(self._schedule.pop(lane), "deferred", detail)
        self._withdraw(lane)

    def _is_limited(self, address: str) -> bool:
        is_asked_for = self._fetcher.options.address_concurrency is not None
        return is_asked_for or not self._fetcher.policy.opens(address)

    def _enter(self, address: str, lane: Lane) -> bool:
        """Count a request to `address`, or leave the lane waiting for one to end."""
        if not self._is_limited(address):
            return True
        lane.address = address
        return self._pool.addresses.enter(address, lane, lambda: self._resume(lane))

    def _leave(self, address: str) -> None:
        if self._is_limited(address):
            self._pool.addresses.leave(address)

    def _withdraw(self, lane: Lane) -> None:
        if lane.address:
            self._pool.addresses.withdraw(lane.address, lane)

    def _resume(self, lane: Lane) -> None:
        self._schedule.resume(lane)
        self._wake.set()

    def _answer(self, row: QueuedUrl, reason: str, detail: str) -> None:
        """Report a row for which no request was sent."""
        self._enter_window()
        self._report(row, Outcome(row.url, row.href, reason, detail, 0, b"", "", 0.0, "", None))

    def _enter_window(self) -> None:
        if self._pool.window is not None:
            self._pool.window.enter()

    def _report(self, row: QueuedUrl, outcome: Outcome) -> None:
        self.counts.reasons[outcome.reason] += 1
        self._on_outcome(row.key, outcome)
