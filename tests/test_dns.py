"""Names: the wire format of a stub resolver, dead names beside healthy ones, and an outage that stops."""

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.http import dns, dns_client, fd_limits
from pipeline.http.dns_client import DnsClient, UnansweredError, parse, query
from pipeline.http.fetch_thread import FetchLoop
from pipeline.http.fetch_url import Fetcher, Outcome
from pipeline.http.scheduler import fetch_many
from pipeline.options import FetchOptions
from pipeline.options.fetch import split_address
from tests.misbehaving import Server
from tests.nameserver import SILENT, NameServer

HANG = 30
QUICK = (0.2, 0.2, 0.2)


def options(**changes: Any) -> FetchOptions:
    values: dict[str, Any] = {
        "contact": "https://example.org/crawl", "allow_network": ("127.0.0.0/8",), "host_delay": 0.0,
        "timeout": 5.0, "opt_out": (),
    }  # fmt: skip
    return FetchOptions(**(values | changes))


def ask(host: str, *servers: str, tries: tuple[float, ...] = QUICK) -> object:
    """Return the addresses of a name, or the class and text of the error."""

    async def main() -> object:
        try:
            found = await DnsClient([split_address(s) for s in servers], tries).ask(host, socket.AF_UNSPEC)
        except OSError as error:
            return type(error), str(error)
        return [address for _, address in found]

    return asyncio.run(asyncio.wait_for(main(), HANG))


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("good.test", ["127.0.0.2"]),
        ("GOOD.test.", ["127.0.0.2"]),
        ("none.test", (OSError, "no such name")),
        ("empty.test", (OSError, "no addresses")),
        ("broken.test", (UnansweredError, "127.0.0.1: response code 2")),
        ("dead.test", (UnansweredError, "127.0.0.1: TimeoutError")),
        ("a..test", (OSError, "not a host name: an empty or too long label")),
        ("ä.test", (OSError, "not a host name: not ASCII")),
        ("a" * 64 + ".test", (OSError, "not a host name: an empty or too long label")),
        (".".join(["abcdefg"] * 40), (OSError, "not a host name: an empty or too long label")),
    ],
)
def test_names(host: str, found: object) -> None:
    with NameServer() as server:
        assert ask(host, server.address) == found


def test_a_thousand_addresses_come_over_tcp() -> None:
    many = [f"10.0.{i // 250}.{i % 250}" for i in range(1000)]
    with NameServer(lambda _: many, cut=True) as server:
        assert ask("many.test", server.address) == many
        assert [transport for transport, _, _ in server.asked] == ["udp", "tcp"]


def test_a_second_server_is_asked_when_the_first_is_silent_or_not_there() -> None:
    with NameServer(lambda _: SILENT) as silent, NameServer() as server:
        assert ask("good.test", silent.address, server.address) == ["127.0.0.2"]
        assert ask("good.test", "127.0.0.1:1", server.address) == ["127.0.0.2"]


def response(
    asked: bytes, *records: tuple[str, int, bytes], flags: int = 0x8180, count: int | None = None
) -> bytes:
    answers = b"".join(
        query(owner, kind, 0)[12:-4] + struct.pack(">HHIH", kind, 1, 60, len(data)) + data
        for owner, kind, data in records
    )
    head = asked[:2] + struct.pack(">HHHHH", flags, 1, len(records) if count is None else count, 0, 0)
    return head + asked[12:] + answers


ASKED = query("www.example.com", 1, 7)
IP = bytes([8, 8, 8, 8])


def alias(name: str) -> bytes:
    return query(name, 5, 0)[12:-4]


@pytest.mark.parametrize(
    ("records", "addresses"),
    [
        ([("www.example.com", 1, IP)], ("8.8.8.8",)),
        ([("www.example.com", 5, alias("a.test")), ("a.test", 1, IP)], ("8.8.8.8",)),
        ([("a.test", 1, IP), ("www.example.com", 5, alias("a.test"))], ("8.8.8.8",)),
        ([("www.example.com", 5, alias("www.example.com"))], ()),  # an alias of itself
        ([("other.test", 1, IP)], ()),  # an answer to another question
        ([("www.example.com", 28, bytes(16))], ()),
        ([("www.example.com", 1, IP + IP)], ()),
        ([], ()),
    ],
)
def test_responses(records: list[tuple[str, int, bytes]], addresses: tuple[str, ...]) -> None:
    assert parse(response(ASKED, *records), ASKED).addresses == addresses


@pytest.mark.parametrize(
    "message",
    [
        b"",
        ASKED,  # a query is no response
        response(query("www.example.com", 1, 8), ("www.example.com", 1, IP)),  # another number
        response(query("www.example.org", 1, 7), ("www.example.com", 1, IP)),  # another question
        response(query("www.example.com", 28, 7)),
        response(ASKED, ("www.example.com", 1, IP), count=2),
        response(ASKED)[:-1],
        ASKED[:2] + struct.pack(">HHHHH", 0x8180, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1",  # points at itself
        ASKED[:2] + struct.pack(">HHHHH", 0x8180, 1, 0, 0, 0) + b"\xc0\xff\0\1\0\1",  # points forward
    ],
)
def test_malformed_responses_are_value_errors(message: bytes) -> None:
    with pytest.raises(ValueError):
        parse(message, ASKED)


@given(st.binary(max_size=80), st.integers(0, 60), st.integers(0, 255))
def test_no_response_does_harm(noise: bytes, place: int, byte: int) -> None:
    good = bytearray(response(ASKED, ("www.example.com", 5, alias("a.test")), ("a.test", 1, IP)))
    good[place % len(good)] = byte
    for message in (noise, ASKED[:12] + noise, bytes(good)):
        try:
            found = parse(message, ASKED)
        except ValueError:
            continue
        assert all(socket.inet_aton(address) for address in found.addresses)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("9.9.9.9", ("9.9.9.9", 53)), ("127.0.0.1:5353", ("127.0.0.1", 5353)), ("::1", ("::1", 53)),
        ("[::1]", ("::1", 53)), ("[::1]:5353", ("::1", 5353)),
    ],
)  # fmt: skip
def test_name_servers_as_options(text: str, found: tuple[str, int]) -> None:
    assert split_address(text) == found


@pytest.mark.parametrize("text", ["", "dns.google", "1.2.3.4:", "1.2.3.4:0", "1.2.3.4:99999", "1.2.3:53"])
def test_what_is_no_name_server_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="numeric address"):
        options(dns_server=(text,))


# Dead names beside healthy ones.


def fetch_all(urls: list[str], lookup: dns.Lookup | None = None, **changes: Any) -> list[Outcome]:
    found: list[Outcome] = []

    async def main() -> None:
        async with Fetcher(options(**changes), lookup) as fetcher:
            await fetch_many(fetcher, enumerate(urls), lambda _, outcome: found.append(outcome))

    asyncio.run(asyncio.wait_for(main(), HANG))
    return found


def test_a_crawl_by_our_own_resolver() -> None:
    with Server() as server, NameServer() as names:
        urls = [server.url("good", host) for host in ("a.test", "b.test", "none.test")]
        found = {outcome.url: outcome.reason for outcome in fetch_all(urls, dns_server=(names.address,))}
        assert [found[url] for url in urls] == ["", "", "dns_error"]


def test_dead_names_hold_none_of_the_places_for_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a single place, forty names that nobody answers come first; the healthy sites do not wait."""
    monkeypatch.setattr(dns_client, "TRIES", (3.0,))
    with Server() as server, NameServer() as names:
        urls = [server.url(f"good?{i}", f"dead{i}.test") for i in range(40)]
        urls += [server.url(f"good?{i}", f"site{i}.test") for i in range(10)]
        found = fetch_all(urls, dns_server=(names.address,), max_inflight=1)
    assert [outcome.reason for outcome in found] == [""] * 10 + ["dns_error"] * 40


def test_lookups_are_as_many_at_a_time_as_requests() -> None:
    chosen = options(max_inflight=300)
    threads = dns.source(chosen)
    assert isinstance(threads, dns.Threads)
    assert threads._pool._max_workers == fd_limits.lookups_at_once(chosen) == 300

    async def main() -> int:
        async with Fetcher(chosen) as fetcher:
            return fetcher._resolver._places._value

    assert asyncio.run(main()) == 300


def test_a_million_names_do_not_stay() -> None:
    async def main() -> tuple[int, int]:
        resolver = dns.Resolver(Sure(), max_names=100)
        for i in range(1000):
            await resolver.find(f"{'dead' if i % 2 else 'good'}{i}.test")
        assert resolver.known("good998.test") is not None
        assert resolver.known("good0.test") is None
        return len(resolver._found._values), len(resolver._failed._values)

    assert asyncio.run(main()) == (100, 100)


class Sure:
    """Answer at once: dead* with no such name, unanswered* not at all."""

    def __init__(self, control: Callable[[], bool] = lambda: True) -> None:
        self.control = control
        self.asked: Counter[str] = Counter()

    async def ask(self, host: str, family: socket.AddressFamily) -> dns_client.Answer:
        self.asked[host] += 1
        if host.startswith("unanswered") or (host == dns.CONTROL and not self.control()):
            raise UnansweredError("timed out")
        if host.startswith("dead"):
            raise OSError("no such name")
        return ((socket.AF_INET, "127.0.0.2"),)

    def close(self) -> None:
        pass


# An outage.


def find_many(source: Sure, name: str, count: int, **changes: Any) -> str:
    """Ask for `count` names; return "" or the message of the outage."""

    async def main() -> str:
        resolver = dns.Resolver(source, **changes)
        try:
            for i in range(count):
                await resolver.find(f"{name}{i}.test")
            await resolver.find("last.test")
        except dns.OutageError as error:
            return str(error)
        finally:
            await resolver.close()
        return ""

    return asyncio.run(asyncio.wait_for(main(), HANG))


def test_an_outage_is_told_and_ends_the_lookups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns, "CONTROL_SECONDS", 0.001)
    source = Sure(control=lambda: False)
    said = find_many(source, "unanswered", 500)
    assert "100% of the last 20 names got no answer" in said
    assert "--dns-server" in said
    assert sum(source.asked.values()) == dns.FIRST_WINDOW + dns.CONTROL_TRIES  # not one name more is burnt


def test_names_of_dead_servers_are_no_outage() -> None:
    source = Sure()  # the control name is answered
    assert find_many(source, "unanswered", 500) == ""
    assert source.asked[dns.CONTROL] == 3  # asked again after each window
    assert source.asked["unanswered499.test"] == 1


def test_names_that_do_not_exist_are_no_outage() -> None:
    source = Sure(control=lambda: False)
    assert find_many(source, "dead", 500) == ""
    assert source.asked[dns.CONTROL] == 0


def test_a_short_outage_is_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns, "CONTROL_SECONDS", 0.001)
    answers = iter([False] * 5 + [True] * 100)
    source = Sure(control=lambda: next(answers))
    assert find_many(source, "unanswered", 200) == ""
    assert source.asked[dns.CONTROL] == 6
    assert source.asked["last.test"] == 1


def test_the_threshold_is_an_option() -> None:
    source = Sure(control=lambda: False)
    assert find_many(source, "unanswered", 250, max_failures=1.0) == ""


def test_an_outage_stops_the_unit_and_burns_no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns, "CONTROL_SECONDS", 0.001)

    def down(host: str, family: socket.AddressFamily) -> dns_client.Answer:
        raise UnansweredError("Temporary failure in name resolution")

    rows = [(i, f"http://site{i}.test/") for i in range(3000)]
    answered = 0
    with FetchLoop(options(), down) as loop, pytest.raises(dns.OutageError, match="check the name servers"):
        for _ in loop.run(rows):
            answered += 1
    assert answered <= dns.WINDOW + 256  # those under way when it was noticed; the unit is fetched again
