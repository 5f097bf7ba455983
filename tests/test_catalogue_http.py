"""The catalogue of servers, names and URLs that misbehave: H1 to H47, each with its outcome.

Each case ends in its reason within its time and memory, the next good fetch of the same client succeeds, no
error is left without a class, and no address that the policy refuses is ever connected to: every connection
that this process tries is in a log of the interpreter's own.
"""

import asyncio
import contextlib
import ipaddress
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import http_exceptions

from pipeline.http import dns, errors, fd_limits
from pipeline.http.address_policy import Attempts
from pipeline.http.fetch_url import Fetcher, Outcome
from pipeline.http.scheduler import fetch_many
from pipeline.images.process import process
from pipeline.options import FetchOptions, ImageOptions
from pipeline.reasons import REASONS
from tests import certificates
from tests.misbehaving import IMAGE, Server
from tests.test_fetch import (
    DISGUISES,
    HANG,
    Client,
    client,
    fetch,
    lookup,
    options,
    secret,
    server,
)

__all__ = ["client", "secret", "server"]

MEMORY = 64 << 20
"""Bytes by which a case may raise the process's peak; bodies are bounded by 100,000 bytes here."""

_CONNECTIONS: list[tuple[Any, ...]] = []
sys.addaudithook(lambda event, args: _CONNECTIONS.append(args) if event == "socket.connect" else None)


@pytest.fixture(autouse=True)
def bounds(secret: Server) -> Iterator[None]:
    """Check after each case the invariants that hold for all of them."""
    _CONNECTIONS.clear()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY >> 10
    allowed = ipaddress.ip_network("127.0.0.2/32")
    tried = {address[0] for _, address in _CONNECTIONS if isinstance(address, tuple)}
    assert all(ipaddress.ip_address(address) in allowed for address in tried), tried
    assert secret.accepted == 0


SERVERS = [
    ("H1", "silent", "read_timeout", 0),
    ("H1", "stalled_body", "read_timeout", 200),
    ("H2", "slow_header", "total_timeout", 0),
    ("H3", "slow_body", "too_slow", 200),
    ("H4", "endless", "too_large", 200),
    ("H5", "endless_chunks", "too_large", 200),
    ("H6", "tiny_chunks", "too_large", 200),
    ("H7", "flood_1xx", "bad_http", 0),
    ("H8", "cl_10tb", "too_large", 200),
    ("H9", "cl_1e30", "bad_http", 0),
    ("H9", "cl_negative", "bad_http", 0),
    ("H9", "cl_not_a_number", "bad_http", 0),
    ("H9", "cl_twice", "bad_http", 0),
    ("H9", "cl_and_chunked", "bad_http", 0),
    ("H10", "cl_long", "incomplete_body", 200),
    ("H11", "cl_short", "bad_http", 0),
    ("H12", "empty", "empty_body", 200),
    ("H13", "huge_header", "bad_http", 0),
    ("H13", "endless_header", "bad_http", 0),
    ("H13", "many_headers", "bad_http", 0),
    ("H13", "endless_headers", "bad_http", 0),
    ("H14", "nul_in_header", "bad_http", 0),
    ("H15", "bad_status_line", "bad_http", 0),
    ("H15", "http_09", "bad_http", 0),
    ("H16", "strange", "http_error", 999),
    ("H16", "partial", "http_error", 206),
    ("H16", "no_content_with_body", "bad_http", 0),
    ("H16", "switching", "http_error", 101),
    ("H16", "teapot", "http_error", 418),
    ("H16", "gone", "http_gone", 404),
    ("H16", "gone_for_good", "http_gone", 410),
    ("H16", "denied", "http_denied", 403),
    ("H16", "legal", "http_denied", 451),
    ("H16", "server_error", "http_server_error", 500),
    ("H17", "throttled", "http_throttled", 429),
    ("H17", "throttled_for_long", "http_throttled", 503),
    ("H18", "reset_in_body", "incomplete_body", 200),
    ("H19", "close_at_once", "disconnected", 0),
    ("H19", "reset", "disconnected", 0),
    ("H19", "close_in_headers", "disconnected", 0),
    ("H19", "close_after_headers", "incomplete_body", 200),
    ("H20", "chunk_cut", "incomplete_body", 200),
    ("H20", "chunk_size_bad", "bad_http", 0),
    ("H20", "chunk_size_huge", "bad_http", 0),
    ("H21", "chunk_extension", "", 200),
    ("H21", "endless_extension", "total_timeout", 200),
    ("H22", "endless_trailers", "bad_http", None),  # with the headers or after them
    ("H23", "gzip_bomb", "bad_encoding", 200),
    ("H23", "deflate_bomb", "bad_encoding", 200),
    ("H23", "br_bomb", "bad_encoding", 200),
    ("H23", "zstd_bomb", "bad_encoding", 200),
    ("H24", "gzip_members", "bad_encoding", 200),
    ("H25", "encoded_twice", "bad_encoding", 200),
    ("H25", "encoded_unknown", "", 200),  # no encoding that there is
    ("H25", "encoded_registered", "bad_encoding", 200),
    ("H26", "gzip_cut", "bad_encoding", 200),
    ("H27", "gzip_label", "bad_encoding", 200),
    ("H28", "redirect_to_self", "redirect_loop", 301),
    ("H28", "loop_a", "redirect_loop", 302),
    ("H28", "redirect_chain?5", "", 200),
    ("H28", "redirect_chain?6", "too_many_redirects", 302),
    ("H28", "redirect_chain?30", "too_many_redirects", 302),
    ("H28", "no_location", "bad_redirect", 302),
    ("H28", "redirect?http://[", "bad_redirect", 302),
    ("H28", "redirect?http://user:password@127.0.0.2/", "bad_redirect", 302),
    ("H28", "redirect_nul", "bad_http", 0),
    ("H29", "redirect_with_endless_body", "", 200),
    ("H30", "redirect?file:///etc/passwd", "bad_redirect", 302),
    ("H30", "redirect?data:image/png;base64,AA", "bad_redirect", 302),
    ("H30", "redirect?gopher://127.0.0.1/", "bad_redirect", 302),
    ("H40", "cookies_90", "", 200),
    ("H41", "two_answers", "", 200),
    ("H42", "redirect?http://8.8.8.8:22/", "port_blocked", 302),
    ("opt-out", "opted_out_endless", "opt_out_x_robots_tag", 200),
    ("opt-out", "tdm", "opt_out_tdm_reservation", 200),
    ("opt-out", "usage", "opt_out_content_usage", 200),
    ("plain", "chunked", "", 200),
    ("plain", "identity", "", 200),
    ("plain", "big?100000", "", 200),
    ("plain", "big?100001", "too_large", 200),
    ("plain", "for_other_bots", "", 200),
    ("plain", "noindex_gone", "http_gone", 404),
]


def check(bad: Outcome, good: Outcome, reason: str) -> None:
    """Assert a case's reason, and that the next good fetch succeeds."""
    assert bad.reason == reason, (bad.reason, bad.detail)
    assert reason == "" or (reason in REASONS and reason != "internal_error")
    assert bool(bad.body) is (reason == "")
    assert bad.elapsed < 1.2 + 3.0  # --timeout here, and the delay of a busy machine
    assert (good.reason, good.body) == ("", IMAGE), good.detail


@pytest.mark.parametrize(
    ("path", "reason", "status"),
    [case[1:] for case in SERVERS],
    ids=[f"{h}-{p[:40]}" for h, p, *_ in SERVERS],
)
def test_servers(client: Client, server: Server, path: str, reason: str, status: int | None) -> None:
    bad, good = client(server.url(path), server.url("good"))
    check(bad, good, reason)
    assert status is None or bad.status == status


# Where a redirect or a URL may not lead, in every disguise.


@pytest.mark.parametrize("how", ["H32-direct", "H31-redirect", "H31-schemeless"])
@pytest.mark.parametrize("disguise", DISGUISES)
def test_addresses(client: Client, server: Server, secret: Server, disguise: str, how: str) -> None:
    url = disguise.format(port=secret.port)
    if how == "H32-direct":
        bad, good = client(url, server.url("good"))
    else:
        target = url if how == "H31-redirect" else url.removeprefix("http:")
        bad, good = client(server.url(f"redirect?{quote(target)}"), server.url("good"))
        if bad.reason == "redirect_elsewhere":  # a name is judged when it is asked for, in the next round
            bad, good = client(bad.final_url, server.url("good"))
    check(bad, good, "address_blocked")


URLS = [
    ("H31", "http://169.254.169.254/latest/meta-data", "address_blocked"),
    ("H31", "http://user:password@127.0.0.2/", "bad_url"),
    ("H42", "http://8.8.8.8:22/", "port_blocked"),
    ("H42", "http://8.8.8.8:25/", "port_blocked"),
    ("H42", "http://8.8.8.8:6379/", "port_blocked"),
    ("H43", "http://127.0.0.2:99999/", "bad_url"),
    ("H43", "http://[]/", "bad_url"),
    ("H43", "http://xn--a/", "bad_url"),
    ("H43", "http://a\0b/", "bad_url"),
    ("H43", "http://a b/", "bad_url"),
    ("H43", "http://\udcff.example.com/", "bad_url"),
    ("H43", "http://" + "a" * 64 + ".example.com/", "dns_error"),
    ("H43", "http://a..b/", "dns_error"),
    ("H44", "http://127.0.0.2/" + "a" * 2083, "bad_url"),
    ("scheme", "file:///etc/passwd", "bad_scheme"),
    ("scheme", "gopher://127.0.0.1/", "bad_scheme"),
    ("scheme", "data:image/gif;base64,R0lGODlhAQABAAAAACw=", "data_url"),
]


@pytest.mark.parametrize(
    ("url", "reason"), [case[1:] for case in URLS], ids=[f"{h}-{u[:30]!a}" for h, u, _ in URLS]
)
def test_urls(client: Client, server: Server, url: str, reason: str) -> None:
    bad, good = client(url, server.url("good"))
    check(bad, good, reason)


# TLS.


@pytest.mark.parametrize(
    ("certificate", "trusted", "reason"),
    [
        pytest.param(("www.example.com", (-1, 1)), True, "", id="H39-good"),
        pytest.param(("www.example.com", (-1, 1)), False, "tls_error", id="H39-self-signed"),
        pytest.param(("www.example.com", (-9, -1)), True, "tls_error", id="H39-expired"),
        pytest.param(("www.example.com", (1, 9)), True, "tls_error", id="H39-of-tomorrow"),
        pytest.param(("other.example.net", (-1, 1)), True, "tls_error", id="H39-wrong-host"),
    ],
)
def test_certificates(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    certificate: Any,
    trusted: bool,
    reason: str,
) -> None:
    path = certificates.self_signed(tmp_path / "certificate.pem", *certificate)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
    with Server(tls=certificates.server_context(path)) as secure:
        bad, good = fetch(secure.url("good", "www.example.com"), server.url("good"))
        assert bool(secure.requests) is (reason == ""), "nothing is sent to whom we cannot know"
    check(bad, good, reason)


@pytest.mark.parametrize("says", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x16\x03\x03", b""])
@pytest.mark.parametrize("then", ["closes", "stalls"])
def test_what_is_no_tls(client: Client, server: Server, says: bytes, then: str) -> None:
    """H39: plain HTTP where TLS is expected, and a handshake that begins, or not even that, and stalls."""

    def answer() -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = listener.accept()
                held.append(peer)
                peer.recv(1)
                peer.sendall(says)
                if then == "closes":
                    peer.close()

    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.2", 0)) as listener:
        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        bad, good = client(f"https://127.0.0.2:{listener.getsockname()[1]}/good", server.url("good"))
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        for peer in held:
            peer.close()
    is_answer = says.startswith(b"HTTP")
    expected = {"tls_error"} if is_answer else {"connect_timeout"}
    if then == "closes" and not is_answer:
        expected = {"tls_error", "connect_error", "disconnected"}
    assert bad.reason in expected, (bad.reason, bad.detail)
    check(bad, good, bad.reason)


# Answers for names.


def by_name(answers: dict[str, list[dns.Answer]], *urls: str) -> list[Outcome]:
    """Fetch with a resolver that gives each name its answers in turn, then the last answer forever."""

    def ask(host: str, family: socket.AddressFamily) -> dns.Answer:
        if host not in answers:
            return lookup(host, family)
        found = answers[host]
        return found.pop(0) if len(found) > 1 else found[0]

    async def main() -> list[Outcome]:
        async with Fetcher(options(), ask) as fetcher:
            fetcher._resolver._found._seconds = 0.0  # every request asks again
            return [await asyncio.wait_for(fetcher.fetch(url), HANG) for url in urls]

    return asyncio.run(main())


def v4(*addresses: str) -> dns.Answer:
    return tuple((socket.AF_INET, address) for address in addresses)


NOT_OPEN = v4("127.0.0.1")
OPEN = v4("127.0.0.2")
NAME = "tricky.example.com"


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        pytest.param([NOT_OPEN], "address_blocked", id="H33-private"),
        pytest.param([((socket.AF_INET6, "::1"),)], "address_blocked", id="H33-v6"),
        pytest.param([((socket.AF_INET6, "::ffff:127.0.0.1"),)], "address_blocked", id="H33-mapped"),
        pytest.param([v4("127.0.0.1", "10.0.0.1", "127.0.0.2")], "", id="H35-mixed"),
        pytest.param([v4(*["10.0.0.1"] * 7, "127.0.0.2", *["10.0.0.1"] * 992)], "", id="H36-thousand"),
        pytest.param([v4(*["10.0.0.1"] * 1000)], "address_blocked", id="H36-thousand-private"),
        pytest.param([()], "dns_error", id="H38-none"),
    ],
)
def test_names(server: Server, answers: list[dns.Answer], reason: str) -> None:
    bad, good = by_name({NAME: answers}, server.url("good", NAME), server.url("good"))
    assert (bad.reason, good.reason) == (reason, "")


def test_names_h34_rebinding(server: Server) -> None:
    answers = {NAME: [OPEN, NOT_OPEN, NOT_OPEN, OPEN, NOT_OPEN]}
    found = by_name(answers, *[server.url("kept_then_dropped", NAME)] * 4, server.url("good"))
    assert "address_blocked" in {outcome.reason for outcome in found[:-1]}
    assert {outcome.reason for outcome in found} <= {"", "address_blocked", "disconnected"}
    assert found[-1].reason == ""


def test_names_h37_no_answer_at_all(server: Server) -> None:
    def silent(host: str, family: socket.AddressFamily) -> dns.Answer:
        raise dns.UnansweredError("Temporary failure in name resolution")

    async def main() -> list[Outcome]:
        async with Fetcher(options(), silent) as fetcher:
            return [await fetcher.fetch(url) for url in ("http://silent.example.com/", server.url("good"))]

    bad, good = asyncio.run(main())
    assert (bad.reason, good.reason) == ("dns_error", "")


def test_h22_trailers_without_end_are_not_a_short_body_whenever_they_arrive() -> None:
    """Trailers that come after the headers were read are wrapped by aiohttp, as a short body is."""
    wrapped = aiohttp.ClientPayloadError("Response payload is not completed")
    wrapped.__cause__ = http_exceptions.BadHttpMessage("Too many headers received")
    assert errors.of_exception(wrapped, Attempts())[0] == "bad_http"
    wrapped.__cause__ = http_exceptions.ContentLengthError("Not enough data to satisfy content length header")
    assert errors.of_exception(wrapped, Attempts())[0] == "incomplete_body"


def test_h46_thousands_of_sites_on_one_address(server: Server) -> None:
    """However many names lead to an address, no more requests are there at a time than it may have."""
    found: list[str] = []
    limit, now, most = 3, 0, 0

    class Counting(Fetcher):
        async def fetch(self, *args: Any, **keywords: Any) -> Outcome:
            nonlocal now, most
            now += 1
            most = max(most, now)
            try:
                return await super().fetch(*args, **keywords)
            finally:
                now -= 1

    def one(host: str, family: socket.AddressFamily) -> dns.Answer:
        return OPEN

    async def main() -> None:
        patient = options(
            address_concurrency=limit, host_delay=0.0, timeout=60, connect_timeout=60, read_timeout=60
        )
        async with Counting(patient, one) as fetcher:
            urls = [server.url("slow" if i < 40 else "good", f"site{i}.test") for i in range(120)]
            urls += [f"http://site{i}.test:1/" for i in range(2_000)]  # of which no connection comes about
            await fetch_many(fetcher, enumerate(urls), lambda _, outcome: found.append(outcome.reason))

    asyncio.run(asyncio.wait_for(main(), 120))
    assert most == limit
    assert found.count("") == 120
    assert found.count("connect_error") == 2_000


def test_h45_a_page_that_says_it_is_a_picture(client: Client, server: Server) -> None:
    [outcome] = client(server.url("html_as_png"))
    assert outcome.reason == ""  # the header is not believed either way
    assert process(outcome.body, ImageOptions()).reason == "not_image"


def test_w8_few_open_files_are_waited_for() -> None:
    """With 256 open files in all: 400 sites that keep their connections, and not one fetch fails for it."""
    script = """
import collections, resource, socket, sys
from pipeline.http.fetch_thread import FetchLoop
from pipeline.options import FetchOptions

resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
rows = [(i, f"http://site{i % 400}.test:{sys.argv[1]}/good?{i}") for i in range(800)]
options = FetchOptions(contact="a@b.test", allow_network=("127.0.0.2/32",), host_delay=1.0, opt_out=())
with FetchLoop(options, lambda host, family: ((socket.AF_INET, "127.0.0.2"),)) as loop:
    print(dict(collections.Counter(outcome.reason for _, outcome in loop.run(rows))))
"""
    with Server() as server:
        argv = [sys.executable, "-c", script, str(server.port)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
    assert (done.stdout.strip(), done.returncode) == ("{'': 800}", 0), done.stderr


def test_as_many_files_as_needed_are_asked_for_and_no_more() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = FetchOptions(contact="a@b.test", max_inflight=8)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        assert fd_limits.requests_at_once(few) == 8 and fd_limits.lookups_at_once(few) == 64
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (fd_limits.RESERVED + 8 * 64, hard)
        assert fd_limits.requests_at_once(FetchOptions(contact="a@b.test", max_inflight=10)) == 10
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# A flood from some servers must not keep the others from being fetched.


@pytest.mark.parametrize("flood", ["H7-flood_1xx", "H6-tiny_chunks", "H22-endless_trailers"])
def test_the_loop_goes_on_while_twenty_servers_flood(flood: str) -> None:
    reasons: list[str] = []
    turns: list[float] = []

    async def watch() -> None:
        """Note the CPU time of this thread between the loop's turns: the servers' own threads take more."""
        while True:
            before = time.thread_time()
            await asyncio.sleep(0.02)
            turns.append(time.thread_time() - before)

    async def main() -> None:
        async with Fetcher(options(timeout=5.0, read_timeout=5.0, connect_timeout=5.0), lookup) as fetcher:
            floods = [noisy.url(f"{flood.partition('-')[2]}?{i}") for i in range(20)]
            goods = [quiet.url(f"good?{i}") for i in range(100)]
            watcher = asyncio.create_task(watch())
            noise = [asyncio.create_task(fetcher.fetch(url)) for url in floods]
            for good in await asyncio.gather(*(fetcher.fetch(url) for url in goods)):
                reasons.append(good.reason)
            await asyncio.gather(*noise)
            watcher.cancel()

    with Server() as noisy, Server() as quiet:
        asyncio.run(asyncio.wait_for(main(), HANG))
    assert reasons == [""] * 100
    assert max(turns) < 1.0
