"""Many URLs: pace, pauses, circuit breaker, deadlines and memory, read from the server's own log."""

import asyncio
import itertools
import socket
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.http import dns, rate_limit
from pipeline.http import scheduler as module
from pipeline.http.byte_budget import AnswersInFlight, Memory
from pipeline.http.fetch_thread import FetchLoop
from pipeline.http.fetch_url import Fetcher, Outcome
from pipeline.http.rate_limit import Lane, QueuedUrl, Schedule, retry_after, turn
from pipeline.http.scheduler import Counts, SharedLimits, fetch_many
from pipeline.options import FetchOptions
from pipeline.options.fetch import OPT_OUTS
from tests.misbehaving import IMAGE, Request, Server, refusing_port

HANG = 30  # seconds until a test counts as hanging
EARLY = 0.02  # seconds by which a timer may be early


def lookup(host: str, family: socket.AddressFamily) -> dns.Answer:
    """Resolve every name under example.com and .test to the test server."""
    if not host.endswith(("example.com", ".test")):
        raise OSError("Name or service not known")
    return ((socket.AF_INET, "127.0.0.2"),)


def options(**changes: Any) -> FetchOptions:
    values: dict[str, Any] = {
        "contact": "https://example.org/crawl", "allow_network": ("127.0.0.0/8",), "timeout": 5.0,
        "connect_timeout": 2.0, "read_timeout": 2.0, "host_delay": 0.0, "max_bytes": 1 << 20,
        "max_held_bytes": 4 << 20,
        "opt_out": tuple(name for name in OPT_OUTS if name not in ("tdmrep", "ai-txt")),  # two requests less
    }  # fmt: skip
    return FetchOptions(**(values | changes))


def run(urls: list[str], *, keywords: Any = None, **changes: Any) -> tuple[dict[int, Outcome], Counts]:
    """Fetch `urls` as one unit; return the outcomes by place, each exactly once."""
    outcomes: dict[int, Outcome] = {}

    def keep(key: object, outcome: Outcome) -> None:
        assert isinstance(key, int)
        assert key not in outcomes
        outcomes[key] = outcome

    async def main() -> Counts:
        async with Fetcher(options(**changes), lookup) as fetcher:
            unit = fetch_many(fetcher, enumerate(urls), keep, **(keywords or {}))
            return await asyncio.wait_for(unit, HANG)

    counts = asyncio.run(main())
    assert sorted(outcomes) == list(range(len(urls)))
    assert counts.reasons == Counter(outcome.reason for outcome in outcomes.values())
    return outcomes, counts


class Pace:
    """Know for which moment each request to a site was decided, whatever a busy machine then adds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.starts: list[float] = []
        started = Schedule.started

        def first(schedule: Schedule, lane: Lane, now: float) -> None:
            self.starts.append(now)
            started(schedule, lane, now)

        def later(lane: Lane, now: float) -> float:
            seconds = turn(lane, now)
            self.starts.append(now + seconds)
            return seconds

        monkeypatch.setattr(Schedule, "started", first)
        monkeypatch.setattr(module, "turn", later)

    def check(self, requests: list[Request], delay: float) -> None:
        """Assert that each of the requests was decided, `delay` seconds after the previous request.

        The server's log must agree but for half of the whole, a margin for anything that holds a process up.
        """
        assert len(self.starts) == len(requests) > 1
        assert min(later - earlier for earlier, later in itertools.pairwise(self.starts)) >= delay - 1e-6
        assert requests[-1].time - requests[0].time >= delay * (len(requests) - 1) / 2


@pytest.fixture
def pace(monkeypatch: pytest.MonkeyPatch) -> Pace:
    return Pace(monkeypatch)


def test_a_unit_of_good_and_bad_urls() -> None:
    with Server() as server:
        urls = [server.url("good"), "no url", server.url("gone"), "file:///x", "http://nowhere.example.net/"]
        outcomes, counts = run(urls)
        assert [outcomes[i].reason for i in range(5)] == [
            "",
            "bad_url",
            "http_gone",
            "bad_scheme",
            "dns_error",
        ]
        assert outcomes[0].body == IMAGE
        assert [outcomes[i].url for i in range(5)] == urls
        assert len(server.requests) == 3  # robots.txt counts
        assert counts.requests == 3  # an address that cannot be found is not asked
        assert counts.bytes == len(IMAGE)


def test_an_empty_unit_ends() -> None:
    assert run([]) == ({}, Counts())


def test_starts_at_a_site_keep_their_distance_robots_and_redirects_included(pace: Pace) -> None:
    with Server() as server:
        hosts = ["www.example.com", "img.example.com"]  # one site, two authorities
        urls = [server.url(f"good?{i}", hosts[i % 2]) for i in range(4)]
        urls.append(server.url("redirect?/good?redirected", hosts[0]))
        outcomes, counts = run(urls, host_delay=0.2)
        assert {outcome.reason for outcome in outcomes.values()} == {""}
        assert counts.requests == len(server.requests) == 8
        pace.check(server.requests, 0.2)


def test_a_share_of_the_rate_stretches_the_delay(pace: Pace) -> None:
    with Server() as server:
        urls = [server.url(f"good?{i}", "www.example.com") for i in range(2)]
        run(urls, host_delay=0.1, keywords={"shares": {"example.com": 0.25}})
        pace.check(server.requests, 0.4)


def test_crawl_delay_slows_a_site_down(pace: Pace) -> None:
    with Server(robots="User-agent: *\nCrawl-delay: 0.3") as server:
        run([server.url(f"good?{i}") for i in range(3)])
        assert len(server.requests) == 4
        pace.check(server.requests, 0.3)


def test_the_default_delay_is_a_second_for_names_and_none_for_opened_addresses(
    monkeypatch: pytest.MonkeyPatch, pace: Pace
) -> None:
    monkeypatch.setattr(rate_limit, "PUBLIC_DELAY", 0.3)
    with Server() as server:
        run([server.url(f"good?{i}", "www.example.com") for i in range(2)], host_delay=None)
        pace.check(server.requests, 0.3)
    unit = module._Unit(Fetcher(options(host_delay=None)), lambda *_: None, Counts(), None, {}, {})
    assert unit._lane("127.0.0.2").delay == 0.0
    assert unit._lane("8.8.8.8").delay == 0.3


def test_no_more_at_a_time_than_a_site_may_have() -> None:
    with Server() as server:
        outcomes, _ = run([server.url(f"slow?{i}") for i in range(6)], host_concurrency=2)
        assert {outcome.reason for outcome in outcomes.values()} == {""}
        # Each answer takes 0.15 s: of three requests in a row, two cannot have ended before the third came.
        starts = [request.time for request in server.asked("slow")]
        assert all(third - first >= 0.15 - EARLY for first, third in zip(starts, starts[2:], strict=False))
        assert len({request.connection for request in server.requests}) <= 2


def test_no_more_at_a_time_than_in_flight() -> None:
    with Server() as server:
        urls = [server.url("slow", f"site{i}-example.com") for i in range(4)]
        run(urls, max_inflight=1)
        starts = [request.time for request in server.asked("slow")]
        assert len(starts) == 4
        assert all(
            gap >= 0.15 - EARLY for gap in itertools.starmap(lambda a, b: b - a, itertools.pairwise(starts))
        )


def test_sites_do_not_wait_for_each_other() -> None:
    with Server() as slow, Server("127.0.0.3") as quick:
        urls = [slow.url("silent"), *(quick.url(f"good?{i}") for i in range(20))]
        order: list[object] = []

        async def main() -> None:
            async with Fetcher(options(read_timeout=0.5), lookup) as fetcher:
                await fetch_many(fetcher, enumerate(urls), lambda key, _: order.append(key))

        asyncio.run(asyncio.wait_for(main(), HANG))
        assert order[-1] == 0


def test_retry_after_pauses_the_site_and_then_it_goes_on() -> None:
    with Server() as server:
        outcomes, _ = run([server.url("throttled"), server.url("good")], host_concurrency=1)
        assert [outcomes[i].reason for i in range(2)] == ["http_throttled", ""]
        [throttled], [good] = server.asked("throttled"), server.asked("good")
        assert good.time - throttled.time >= 1.0 - EARLY


def test_a_site_that_asks_for_hours_is_left_alone() -> None:
    with Server() as server:
        urls = [server.url("throttled_for_long"), *(server.url(f"good?{i}") for i in range(5))]
        outcomes, counts = run(urls, host_concurrency=1)
        assert outcomes[0].reason == "http_throttled"
        assert {outcomes[i].reason for i in range(1, 6)} == {"deferred"}
        assert "99999999999 s" in outcomes[1].detail
        assert counts.requests == len(server.requests) == 2


def test_the_pace_of_a_site_outlives_the_unit(pace: Pace) -> None:
    async def main() -> None:
        async with Fetcher(options(host_delay=0.3), lookup) as fetcher:
            pool = SharedLimits(fetcher.options)
            for _ in range(2):
                await fetch_many(fetcher, [(0, server.url("good"))], lambda *_: None, pool=pool)
                pool.memory.release(len(IMAGE))
            assert pool.memory.held == 0

    with Server() as server:
        asyncio.run(main())
        assert len(server.requests) == 3
        pace.check(server.requests, 0.3)


def test_a_server_that_stops_answering_is_given_up() -> None:
    with Server() as server:
        outcomes, _ = run([server.url(f"close_at_once?{i}") for i in range(20)], host_concurrency=1)
        reasons = [outcomes[i].reason for i in range(20)]
        assert reasons == ["disconnected"] * module.MAX_FAILURES + ["deferred"] * (20 - module.MAX_FAILURES)
        assert "in a row without an answer" in outcomes[19].detail


def test_an_answer_between_failures_resets_the_breaker() -> None:
    with Server() as server:
        urls = [server.url("gone" if i % 4 == 3 else f"close_at_once?{i}") for i in range(16)]
        outcomes, _ = run(urls, host_concurrency=1)
        assert Counter(o.reason for o in outcomes.values()) == {"disconnected": 12, "http_gone": 4}


def test_a_server_that_opts_out_everywhere_is_left_alone() -> None:
    with Server() as server:
        outcomes, counts = run([server.url(f"opted_out?{i}") for i in range(50)], host_concurrency=1)
        reasons = [outcomes[i].reason for i in range(50)]
        asked = module.MAX_OPT_OUTS
        assert reasons == ["opt_out_x_robots_tag"] * asked + ["opt_out_site"] * (50 - asked)
        assert outcomes[49].detail == f"the last {asked} answers opted out"
        assert counts.requests == len(server.requests) == asked + 1


def test_an_image_between_opt_outs_resets_the_breaker() -> None:
    with Server() as server:
        urls = [server.url("good" if i % 9 == 8 else f"opted_out?{i}") for i in range(36)]
        outcomes, _ = run(urls, host_concurrency=1)
        assert Counter(o.reason for o in outcomes.values()) == {"opt_out_x_robots_tag": 32, "": 4}


def test_a_sites_other_files_are_asked_for_at_the_pace_of_the_site_crawl_delay_included(pace: Pace) -> None:
    with Server(robots="User-agent: *\nCrawl-delay: 0.3") as server:
        outcomes, counts = run([server.url(f"good?{i}") for i in range(2)], opt_out=OPT_OUTS)
        assert {outcome.reason for outcome in outcomes.values()} == {""}
        paths = [request.path for request in server.requests]
        assert paths[:3] == ["/robots.txt", "/.well-known/tdmrep.json", "/ai.txt"]
        assert counts.requests == len(server.requests) == 5
        pace.check(server.requests, 0.3)


def test_a_machine_that_is_down_costs_one_connection() -> None:
    with refusing_port() as port:
        outcomes, counts = run([f"http://127.0.0.2:{port}/{i}" for i in range(50)])
    assert {outcome.reason for outcome in outcomes.values()} == {"connect_error"}
    assert counts.requests == 1


def test_what_robots_txt_denies_costs_one_request() -> None:
    with Server(robots="User-agent: *\nDisallow: /good") as server:
        outcomes, counts = run([server.url(f"good?{i}") for i in range(50)], host_delay=1.0)
        assert {outcome.reason for outcome in outcomes.values()} == {"robots_disallow"}
        assert counts.requests == len(server.requests) == 1


def test_after_the_deadline_the_rest_is_deferred() -> None:
    with Server() as server:
        urls = [server.url(f"good?{i}") for i in range(30)]
        outcomes, _ = run(urls, host_delay=0.6, keywords={"deadline": 1.5})
        reasons = Counter(outcome.reason for outcome in outcomes.values())
        assert set(reasons) == {"", "deferred"}
        assert 1 <= reasons[""] <= 3
        assert len(server.requests) == reasons[""] + 1


def test_the_last_request_to_a_site_closes_the_connection() -> None:
    with Server() as server:
        run([server.url(f"good?{i}") for i in range(3)], host_concurrency=1)
        said = [request.headers.get("connection") == "close" for request in server.requests]
        assert said == [False, False, False, True]


def test_thousands_of_sites_in_a_unit() -> None:
    with Server() as server:
        urls = [server.url(f"good?{j}", f"www.site{i}.test") for i in range(500) for j in range(2)]
        urls += [f"http://dead{i}.net/{j}" for i in range(3000) for j in range(2)]
        urls += [f"http://10.{i // 250}.{i % 250}.1/" for i in range(1500)]
        _, counts = run(urls, host_delay=0.05)
        assert counts.reasons == {"": 1000, "dns_error": 6000, "address_blocked": 1500}
        assert len(server.requests) == 1500
        assert counts.requests == 1500  # neither a dead name nor a blocked address costs one


def test_memory_bounds_what_is_held_and_all_arrive() -> None:
    size, limit = 200_000, 1_000_000
    held: list[int] = []

    async def main() -> Counter[str]:
        reasons: Counter[str] = Counter()
        async with Fetcher(options(max_bytes=size, max_held_bytes=limit), lookup) as fetcher:
            pool = SharedLimits(fetcher.options)

            def consume(_: object, outcome: Outcome) -> None:
                reasons[outcome.reason] += 1
                held.append(pool.memory.held)
                asyncio.get_running_loop().call_later(0.02, pool.memory.release, len(outcome.body))

            rows = [(i, server.url(f"big?{size}", f"site{i}.com.example.com")) for i in range(5)]
            rows += [(i, server.url(f"big?{size}")) for i in range(20)]
            await asyncio.wait_for(fetch_many(fetcher, rows, consume, pool=pool), HANG)
            await asyncio.sleep(0.1)
            assert pool.memory.held == 0
        return reasons

    with Server() as server:
        assert asyncio.run(main()) == {"": 25}
    assert max(held) <= limit


@pytest.mark.parametrize(
    "path", ["good", "chunked", "cl_long", "stalled_body", "endless", "gone", "redirect?/good"]
)
def test_memory_is_given_back_however_a_fetch_ends(path: str) -> None:
    async def main() -> int:
        async with Fetcher(options(read_timeout=0.2), lookup) as fetcher:
            pool = SharedLimits(fetcher.options)

            def consume(_: object, outcome: Outcome) -> None:
                pool.memory.release(len(outcome.body))

            await fetch_many(fetcher, [(0, server.url(path))], consume, pool=pool)
            return pool.memory.held

    with Server() as server:
        assert asyncio.run(main()) == 0


def test_a_callback_that_fails_ends_the_unit_with_its_error() -> None:
    def fail(_: object, __: Outcome) -> None:
        raise LookupError("mine")

    async def main() -> None:
        async with Fetcher(options(), lookup) as fetcher:
            await fetch_many(fetcher, [(i, server.url("good")) for i in range(5)], fail)

    with Server() as server, pytest.raises(ExceptionGroup) as caught:
        asyncio.run(main())
    assert caught.group_contains(LookupError, match="mine")


# The loop in its thread.


def test_results_come_to_the_calling_thread() -> None:
    counts = Counts()
    with Server() as server, FetchLoop(options(), lookup) as loop:
        rows = [(f"key{i}", server.url(f"good?{i}")) for i in range(30)]
        found = {key: outcome.body for key, outcome in loop.run(iter(rows), counts=counts)}
        assert found == {key: IMAGE for key, _ in rows}
        assert counts.requests == 31
        assert [outcome.reason for _, outcome in loop.run([(0, server.url("gone"))])] == ["http_gone"]


def test_bodies_that_wait_to_be_taken_hold_the_fetching_back() -> None:
    size = 100_000
    with Server() as server, FetchLoop(options(max_bytes=size, max_held_bytes=600_000), lookup) as loop:
        rows = [(i, server.url(f"big?{size}")) for i in range(40)]
        results = loop.run(rows)
        next(results)
        threading.Event().wait(0.5)  # the caller is busy
        assert len(server.asked("big")) <= 7  # 600 kB, and the body that was taken
        assert sum(1 for _ in results) == 39


def test_leaving_early_gives_everything_back() -> None:
    with Server() as server, FetchLoop(options(), lookup) as loop:
        rows = [(i, server.url(f"big?{50_000 + i}")) for i in range(40)]
        results = loop.run(rows)
        next(results)
        results.close()
        assert [outcome.reason for _, outcome in loop.run([(0, server.url("good"))])] == [""]
        while loop._pool.memory.held:  # the last release is on its way to the loop
            threading.Event().wait(0.01)
        assert len(server.asked("big")) < 40


def test_several_threads_share_a_loop() -> None:
    found: Counter[str] = Counter()

    def work(server: Server) -> None:
        for _, outcome in loop.run([(i, server.url(f"good?{i}")) for i in range(20)]):
            found[outcome.reason] += 1

    with Server() as one, Server("127.0.0.3") as two, FetchLoop(options(), lookup) as loop:
        threads = [threading.Thread(target=work, args=(server,)) for server in (one, two)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(HANG)
    assert found == {"": 40}


def test_a_closed_loop_says_so() -> None:
    loop = FetchLoop(options(), lookup)
    loop.close()
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        next(loop.run([(0, "http://127.0.0.2/")]))


def test_closing_ends_a_unit_under_way() -> None:
    with Server() as server:
        loop = FetchLoop(options(), lookup)
        results = loop.run([(0, server.url("good")), (1, server.url("silent"))])
        next(results)
        loop.close()
        with pytest.raises(asyncio.CancelledError):
            next(results)


# The bookkeeping, without a network.


def lane(site: str, urls: int, **changes: Any) -> Lane:
    values: dict[str, Any] = {"site": site, "delay": 1.0, "concurrency": 1}
    made = Lane(**(values | changes))
    made.pending.extend(QueuedUrl(i, "", "") for i in range(urls))
    return made


def test_the_longest_lane_comes_first_and_waits_its_delay() -> None:
    schedule = Schedule([lane("short", 1), lane("long", 3), lane("none", 0)])
    log = []
    now = 0.0
    while schedule.left:
        if found := schedule.take(now):
            schedule.pop(found)
            schedule.started(found, now)
            schedule.finished(found)
            log.append((now, found.site))
        else:
            now += schedule.seconds_to_next(now)
    assert log == [(0.0, "long"), (0.0, "short"), (1.0, "long"), (2.0, "long")]


def test_a_pause_postpones_a_lane_that_waits() -> None:
    schedule = Schedule([lane("a", 2)])
    only = schedule.lanes[0]
    only.next_start = 5.0
    assert schedule.take(4.9) is None
    assert schedule.take(5.0) is only


def test_nothing_starts_while_robots_txt_is_under_way() -> None:
    schedule = Schedule([lane("a", 2, concurrency=2, delay=0.0)])
    only = schedule.take(0.0)
    assert only is not None
    only.loading = True
    schedule.started(only, 0.0)
    assert schedule.take(1.0) is None
    only.loading = False
    schedule.finished(only)
    assert schedule.take(1.0) is only


def test_a_further_request_takes_the_next_start() -> None:
    busy = lane("a", 1, next_start=10.0)
    assert turn(busy, 8.0) == 2.0
    assert busy.next_start == 11.0
    assert turn(busy, 20.0) == 0.0
    assert busy.next_start == 21.0


@given(
    st.lists(st.tuples(st.integers(0, 6), st.sampled_from([0.0, 0.5, 2.0]), st.integers(1, 3)), max_size=6),
    st.lists(st.integers(0, 9), min_size=1, max_size=200),
)
def test_schedules_keep_every_pace_and_lose_nothing(
    shapes: list[tuple[int, float, int]], choices: list[int]
) -> None:
    lanes = [lane(str(i), n, delay=delay, concurrency=c) for i, (n, delay, c) in enumerate(shapes)]
    schedule, flying = Schedule(lanes), []
    starts: dict[str, list[float]] = {each.site: [] for each in lanes}
    now, step = 0.0, itertools.cycle(choices)
    while schedule.left or flying:
        found = schedule.take(now)
        if found is not None:
            schedule.pop(found)
            schedule.started(found, now)
            starts[found.site].append(now)
            flying.append(found)
            assert found.in_flight <= found.concurrency
        elif flying:
            schedule.finished(flying.pop(next(step) % len(flying)))
        else:
            seconds = schedule.seconds_to_next(now)
            assert 0 < seconds <= 2.0
            now += seconds
    for each, (urls, delay, _) in zip(lanes, shapes, strict=True):
        assert len(starts[each.site]) == urls
        assert all(later - earlier >= delay for earlier, later in itertools.pairwise(starts[each.site]))


@pytest.mark.parametrize(
    ("value", "date", "seconds"),
    [
        (None, None, None),
        ("120", None, 120.0),
        (" 0 ", None, 0.0),
        ("-5", None, None),
        ("1.5", None, None),
        ("soon", None, None),
        ("", None, None),
        ("٣", None, None),
        ("9" * 400, None, 999999999999.0),
        ("Wed, 21 Oct 2026 07:28:30 GMT", "Wed, 21 Oct 2026 07:28:00 GMT", 30.0),
        ("Wed, 21 Oct 2026 07:28:30", "Wed, 21 Oct 2026 07:28:00 GMT", 30.0),
        ("Wed, 21 Oct 2026 07:27:00 GMT", "Wed, 21 Oct 2026 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 1999 07:28:30 GMT", None, 0.0),
        ("Wed, 99 Oct 2026 07:28:30 GMT", None, None),
    ],
)
def test_retry_after(value: str | None, date: str | None, seconds: float | None) -> None:
    assert retry_after(value, date) == seconds


@given(st.text(), st.text())
def test_retry_after_never_raises(value: str, date: str) -> None:
    retry_after(value, date)


def test_memory_is_given_in_order_and_cancelled_waiting_costs_nothing() -> None:
    async def main() -> None:
        memory = Memory(100)
        await memory.reserve(80)
        first, second, third = (asyncio.create_task(memory.reserve(size)) for size in (60, 30, 10))
        await asyncio.sleep(0)
        assert [task.done() for task in (first, second, third)] == [False, False, False]
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await asyncio.sleep(0)
        assert not second.done()  # 80 + 30 > 100, and the third stands behind it
        memory.release(80)
        await asyncio.gather(second, third)
        assert memory.held == 40

    asyncio.run(asyncio.wait_for(main(), HANG))


def test_a_cancelled_head_of_the_queue_lets_the_next_one_through() -> None:
    async def main() -> None:
        memory = Memory(100)
        await memory.reserve(80)
        head, small = (asyncio.create_task(memory.reserve(size)) for size in (60, 20))
        await asyncio.sleep(0)
        head.cancel()
        await small
        assert memory.held == 100

    asyncio.run(asyncio.wait_for(main(), HANG))


# Names.


def resolve(
    times: list[float], answer: Callable[[str], dns.Answer], host: str = "a.example.com"
) -> list[object]:
    """Resolve at each of the times of a clock; return numbers of answers, or the error, and the lookups."""
    calls: list[str] = []

    def count(name: str, family: socket.AddressFamily) -> dns.Answer:
        calls.append(name)
        return answer(name)

    async def main() -> list[object]:
        now = [0.0]
        resolver = dns.Resolver(dns.Threads(2, count), clock=lambda: now[0])
        found: list[object] = []
        for now[0] in times:
            try:
                found.append(len(await resolver.resolve(host, 80)))
            except OSError as error:
                found.append(str(error))
        await resolver.close()
        return [*found, len(calls)]

    return asyncio.run(main())


def test_answers_are_kept_for_a_while_and_capped() -> None:
    many: dns.Answer = tuple((socket.AF_INET, f"8.8.{i // 250}.{i % 250}") for i in range(1000))
    assert resolve([0, 299, 301], lambda _: many) == [8, 8, 8, 2]


def test_failures_are_kept_for_a_while() -> None:
    def fail(_: str) -> dns.Answer:
        raise OSError(-2, "Name or service not known")

    message = "Name or service not known"
    assert resolve([0, 59, 61], fail) == [message, message, message, 2]


def test_no_addresses_is_an_error() -> None:
    assert resolve([0], lambda _: ()) == ["no addresses", 1]


def test_the_system_resolver_knows_this_machine_and_refuses_nonsense() -> None:
    assert "127.0.0.1" in [ip for _, ip in dns.lookup("127.0.0.1", socket.AF_UNSPEC)]
    for name in ("a" * 64 + ".example", "ä", "a\0b"):
        with pytest.raises(OSError):
            dns.lookup(name, socket.AF_UNSPEC)


def test_one_lookup_for_all_who_ask_at_once() -> None:
    calls: list[str] = []

    def slow(name: str, family: socket.AddressFamily) -> dns.Answer:
        calls.append(name)
        threading.Event().wait(0.05)
        return ((socket.AF_INET, "8.8.8.8"),)

    async def main() -> None:
        resolver = dns.Resolver(dns.Threads(4, slow))
        tasks = [asyncio.create_task(resolver.resolve("a.example.com")) for _ in range(10)]
        await asyncio.sleep(0.01)
        tasks[0].cancel()  # who gives up does not take the answer from the others
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError)
        assert all(isinstance(each, list) for each in found[1:])
        await resolver.close()

    asyncio.run(main())
    assert calls == ["a.example.com"]


def test_no_more_is_asked_for_than_the_caller_deals_with() -> None:
    """Answers that wait for a slow caller would be lost with the process."""
    with Server() as server, FetchLoop(options(host_concurrency=64), lookup) as loop:
        results = loop.run([(i, server.url(f"good?{i}")) for i in range(120)])
        next(results)
        for taken in range(1, 6):
            threading.Event().wait(0.2)
            assert len(server.asked("good")) <= taken + 16
            next(results)
        assert sum(1 for _ in results) == 114
        gone = loop.run([(i, server.url(f"gone?{i}")) for i in range(100)])
        assert sum(outcome.reason == "http_gone" for _, outcome in gone) == 100


def test_the_window_is_what_keeps_the_caller_busy() -> None:
    async def main() -> None:
        window = AnswersInFlight(256)
        for work, network, limit in ((0.003, 0.2, 150), (0.003, 2.0, 256), (0.5, 0.2, 16), (0.02, 0.75, 50)):
            for _ in range(1000):
                window.learn(work, network)
            assert abs(window._limit - limit) <= 1
        for _ in range(window._limit):
            await asyncio.wait_for(window.room(), 5)
            window.enter()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(window.room(), 0.01)
        window.leave()
        await asyncio.wait_for(window.room(), 5)

    asyncio.run(main())
