"""One URL at a time against a server that misbehaves: the reason, an end, and a good fetch afterwards."""

import asyncio
import contextlib
import gzip
import socket
import threading
import zlib
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import brotli
import pytest
import zstandard

from pipeline.http import dns
from pipeline.http.fetch_url import Fetcher, Outcome
from pipeline.http.user_agent import requires_contact, user_agent
from pipeline.options import FetchOptions
from pipeline.options.fetch import OPT_OUTS
from tests import certificates
from tests.misbehaving import IMAGE, Server, refusing_port, status

NAMES = {
    "www.example.com": "127.0.0.2",
    "img.example.com": "127.0.0.2",
    "other.example.net": "127.0.0.2",
    "localhost": "127.0.0.1",
    "secret.example.com": "127.0.0.1",
    "v6.example.com": "::1",
    "mapped.example.com": "::ffff:127.0.0.1",
}
OF_ANSWERS = tuple(name for name in OPT_OUTS if name not in ("tdmrep", "ai-txt"))  # two requests less
NO_ENCODINGS = (
    "none", "UTF-8", "binary", "aws-chunked", "8bit", "identity, identity", "", "image/jpeg", "identity;q=1",
    "rot13", " , ",
)  # fmt: skip
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress, "br": brotli.compress,
    "zstd": zstandard.compress,
}  # fmt: skip
HANG = 15  # seconds until a test counts as hanging


def lookup(host: str, family: socket.AddressFamily) -> dns.Answer:
    """Resolve the names above; no packet leaves the machine."""
    if host not in NAMES:
        raise OSError("Name or service not known")
    ip = NAMES[host]
    return (((socket.AF_INET6 if ":" in ip else socket.AF_INET), ip),)


def options(**changes: Any) -> FetchOptions:
    values: dict[str, Any] = {
        "contact": "https://example.org/crawl", "allow_network": ("127.0.0.2/32",), "timeout": 1.2,
        "connect_timeout": 0.6, "read_timeout": 0.4, "max_bytes": 100_000, "max_held_bytes": 1 << 20,
        "opt_out": OF_ANSWERS,
    }  # fmt: skip
    return FetchOptions(**(values | changes))


def run(work: Callable[[Fetcher], Coroutine[Any, Any, Any]], **changes: Any) -> Any:
    async def main() -> Any:
        async with Fetcher(options(**changes), lookup) as fetcher:
            return await asyncio.wait_for(work(fetcher), HANG)

    return asyncio.run(main())


def fetch(*urls: str, **changes: Any) -> list[Outcome]:
    async def work(fetcher: Fetcher) -> list[Outcome]:
        return [await fetcher.fetch(url) for url in urls]

    return run(work, **changes)  # type: ignore[no-any-return]


Client = Callable[..., list[Outcome]]


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Give a `fetch` whose client lives as long as the module: no server harms a later test's server."""
    with asyncio.Runner() as runner:
        fetcher = runner.run(Fetcher(options(), lookup).__aenter__())

        async def work(urls: tuple[str, ...]) -> list[Outcome]:
            return [await asyncio.wait_for(fetcher.fetch(url), HANG) for url in urls]

        yield lambda *urls: runner.run(work(urls))
        runner.run(fetcher.__aexit__())


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture(scope="module")
def secret() -> Iterator[Server]:
    """Listen on the loopback address that the policy does not open."""
    with Server("127.0.0.1") as running:
        yield running


def test_a_good_fetch(server: Server) -> None:
    url = server.url("good?q=%7e%20+x")
    [outcome] = fetch(url)
    assert outcome._replace(elapsed=0) == Outcome(
        url, url, "", "", 200, IMAGE, "image/jpeg", 0, "127.0.0.2", None
    )
    assert 0 < outcome.elapsed < 1.2
    [request] = server.asked("good")
    assert request.path == "/good?q=%7e%20+x"  # as written
    assert request.headers["user-agent"] == user_agent("https://example.org/crawl")
    assert request.headers["accept-encoding"] == "identity"
    assert "cookie" not in request.headers


def test_refusals_close_the_connection_before_the_body(server: Server) -> None:
    for path in ("opted_out_endless", "cl_10tb", "endless"):
        before = len(server.requests)
        fetch(server.url(path), server.url("good"))
        robots, bad, good = server.requests[before:]
        assert robots.connection == bad.connection != good.connection


def test_small_error_bodies_leave_the_connection_open(server: Server) -> None:
    before = len(server.requests)
    fetch(server.url("denied"), server.url("redirect?/good"), server.url("server_error"), server.url("good"))
    assert len({request.connection for request in server.requests[before:]}) == 1


def test_without_keep_alive_the_server_is_told() -> None:
    async def work(fetcher: Fetcher) -> Outcome:
        return await fetcher.fetch(server.url("good"), keep_alive=False)

    with Server() as server:
        assert run(work).reason == ""
        robots, good = server.requests
        assert robots.headers.get("connection") != "close"
        assert good.headers["connection"] == "close"


def test_the_session_neither_unpacks_nor_remembers_nor_reads_the_environment() -> None:
    async def work(fetcher: Fetcher) -> None:
        session = fetcher._client.session
        assert not session.auto_decompress  # the client would unpack a bomb while its header is judged
        assert not session.trust_env
        assert isinstance(session.cookie_jar, aiohttp.DummyCookieJar)

    run(work)


def test_details_say_what_happened(server: Server) -> None:
    opted, gone, slow = fetch(server.url("opted_out_endless"), server.url("gone"), server.url("slow_body"))
    assert opted.detail == "X-Robots-Tag: noai"
    assert gone.detail == "HTTP 404"
    assert "bytes in" in slow.detail


@pytest.mark.parametrize(
    ("path", "seconds"),
    [("throttled", 1.0), ("throttled_for_long", 99999999999.0), ("throttled_without_time", None)],
)
def test_retry_after_is_passed_on(server: Server, path: str, seconds: float | None) -> None:
    assert fetch(server.url(path))[0].retry_after == seconds


def test_a_request_is_sent_once_even_if_it_is_dropped() -> None:
    with Server() as server:
        [outcome] = fetch(server.url("close_at_once"))
        assert outcome.reason == "disconnected"
        # The first may have met the kept connection of robots.txt; a second goes over a new one, no third.
        assert len(server.asked("close_at_once")) <= 2


def test_a_stale_connection_is_replaced() -> None:
    with Server() as server:
        first, second = fetch(server.url("kept_then_dropped"), server.url("good"))
        assert (first.reason, second.reason) == ("", "")


def test_another_site_is_left_to_the_next_round(server: Server) -> None:
    target = server.url("good", "other.example.net")
    before = len(server.requests)
    [outcome] = fetch(server.url(f"redirect?{quote(target)}"))
    assert (outcome.reason, outcome.final_url, outcome.status) == ("redirect_elsewhere", target, 302)
    assert len(server.requests) - before == 2  # robots.txt and the redirect


def test_another_host_of_the_site_is_asked_for_its_own_robots_txt(server: Server) -> None:
    before = len(server.requests)
    target = server.url("good", "img.example.com")
    [outcome] = fetch(server.url(f"redirect?{quote(target)}", "www.example.com"))
    assert (outcome.reason, outcome.final_url) == ("", target)
    asked = [
        (r.path.partition("?")[0], r.headers["host"].partition(":")[0]) for r in server.requests[before:]
    ]
    assert asked == [
        ("/robots.txt", "www.example.com"),
        ("/redirect", "www.example.com"),
        ("/robots.txt", "img.example.com"),
        ("/good", "img.example.com"),
    ]


# The address policy, over real sockets.

DISGUISES = [
    "http://127.0.0.1:{port}/good",
    "http://localhost:{port}/good",
    "http://2130706433:{port}/good",
    "http://0x7f000001:{port}/good",
    "http://0177.0.0.1:{port}/good",
    "http://127.1:{port}/good",
    "http://127.0.0.1.:{port}/good",
    "http://[::ffff:127.0.0.1]:{port}/good",
    "http://[::ffff:7f00:1]:{port}/good",
    "http://[::1]:{port}/good",
    "http://0.0.0.0:{port}/good",
    "http://①②⑦.⓪.⓪.①:{port}/good",
    "http://secret.example.com:{port}/good",
    "http://v6.example.com:{port}/good",
    "http://mapped.example.com:{port}/good",
]


@pytest.mark.parametrize("disguise", DISGUISES)
def test_the_secret_server_is_never_connected_to(
    client: Client, server: Server, secret: Server, disguise: str
) -> None:
    url = disguise.format(port=secret.port)
    direct, hop, schemeless, good = client(
        url,
        server.url(f"redirect?{quote(url)}"),
        server.url(f"redirect?{quote(url.removeprefix('http:'))}"),
        server.url("good"),
    )
    assert direct.reason == "address_blocked"
    for outcome in (hop, schemeless):  # names are judged when asked for, in the next round
        assert outcome.reason in ("address_blocked", "redirect_elsewhere")
    if hop.reason == "redirect_elsewhere":
        assert client(hop.final_url)[0].reason == "address_blocked"
    assert secret.accepted == 0
    assert good.reason == ""


def test_a_redirect_within_the_site_to_a_blocked_name_is_blocked(server: Server, secret: Server) -> None:
    assert server.port != secret.port
    target = f"http://secret.example.com:{secret.port}/good"
    [outcome] = fetch(server.url(f"redirect?{quote(target)}", "www.example.com"))
    assert outcome.reason == "address_blocked"
    assert secret.accepted == 0


def test_a_name_that_changes_its_address_is_judged_at_each_connection(server: Server, secret: Server) -> None:
    answers = iter(["127.0.0.2", "127.0.0.1", "127.0.0.1"])
    clock_jumps = dns.FOUND_SECONDS + 1

    def rebinding(host: str, family: socket.AddressFamily) -> dns.Answer:
        return ((socket.AF_INET, next(answers)),)

    async def main() -> list[str]:
        async with Fetcher(options(), rebinding) as fetcher:
            url = server.url("kept_then_dropped", "rebinding.example.com")
            first = await fetcher.fetch(url, keep_alive=False)
            fetcher._resolver._clock = lambda: asyncio.get_running_loop().time() + clock_jumps
            second = await fetcher.fetch(url)
            return [first.reason, second.reason]

    assert asyncio.run(main()) == ["", "address_blocked"]
    assert secret.accepted == 0


def test_of_several_addresses_a_public_one_is_used(server: Server, secret: Server) -> None:
    def mixed(host: str, family: socket.AddressFamily) -> dns.Answer:
        return ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "10.0.0.1"), (socket.AF_INET, "127.0.0.2"))

    def blocked(host: str, family: socket.AddressFamily) -> dns.Answer:
        return ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "10.0.0.1"))

    async def main(names: dns.Lookup) -> Outcome:
        async with Fetcher(options(), names) as fetcher:
            return await fetcher.fetch(server.url("good", "mixed.example.com"))

    used = asyncio.run(main(mixed))
    assert (used.reason, used.address) == ("", "127.0.0.2")
    assert asyncio.run(main(blocked)).reason == "address_blocked"
    assert secret.accepted == 0


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "bad_url"),
        ("http://", "bad_url"),
        ("http://[", "bad_url"),
        ("http://a b/", "bad_url"),
        ("http://127.0.0.2:99999/", "bad_url"),
        ("http://user:password@127.0.0.2/", "bad_url"),
        ("http://127.0.0.2/" + "a" * 2083, "bad_url"),
        ("file:///etc/passwd", "bad_scheme"),
        ("data:image/gif;base64,R0lGODlhAQABAAAAACw=", "data_url"),
        ("http://8.8.8.8:25/", "port_blocked"),
        ("http://169.254.169.254/latest/meta-data", "address_blocked"),
        ("http://no-such-name.example.com/a.jpg", "dns_error"),
        ("http://a..b/a.jpg", "dns_error"),
        ("http://" + "a" * 64 + ".example.com/a.jpg", "dns_error"),
        ("http://\udcff.example.com/", "bad_url"),
    ],
)
def test_urls_that_lead_nowhere(client: Client, url: str, reason: str) -> None:
    [outcome] = client(url)
    assert (outcome.reason, outcome.status, outcome.address) == (reason, 0, ""), outcome.detail


def test_nobody_listens() -> None:
    with refusing_port() as port:
        assert fetch(f"http://127.0.0.2:{port}/")[0].reason == "connect_error"


def test_a_name_server_that_does_not_answer() -> None:
    release = threading.Event()

    def stuck(host: str, family: socket.AddressFamily) -> dns.Answer:
        release.wait(HANG)
        raise OSError("timed out")

    async def main() -> Outcome:
        async with Fetcher(options(), stuck) as fetcher:
            return await fetcher.fetch("http://slow-name.example.com/")

    try:
        assert asyncio.run(main()).reason == "dns_error"
    finally:
        release.set()


def test_plain_http_where_tls_is_expected() -> None:
    async def main() -> Outcome:
        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        async with (
            await asyncio.start_server(refuse, "127.0.0.2", 0) as plain,
            Fetcher(options(), lookup) as fetcher,
        ):
            port = plain.sockets[0].getsockname()[1]
            return await fetcher.fetch(f"https://127.0.0.2:{port}/good")

    assert asyncio.run(main()).reason == "tls_error"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificates.self_signed(tmp_path_factory.mktemp("tls") / "certificate.pem", "www.example.com")


@pytest.mark.parametrize(
    ("trusted", "host", "reason"),
    [
        (True, "www.example.com", ""),
        (True, "img.example.com", "tls_error"),  # the certificate is another host's
        (False, "www.example.com", "tls_error"),  # nobody vouches for it
    ],
)
def test_certificates(
    certificate: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool, host: str, reason: str
) -> None:
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with Server(tls=certificates.server_context(certificate)) as server:
        [outcome] = fetch(server.url("good", host))
    assert (outcome.reason, outcome.body) == (reason, b"" if reason else IMAGE), outcome.detail


# robots.txt as a server may serve it.

ALL_DENIED = "User-agent: *\nDisallow: /"


@pytest.mark.parametrize(
    ("robots", "reason"),
    [
        ("User-agent: *\nDisallow: /private/", ""),
        (ALL_DENIED, "robots_disallow"),
        ("User-agent: openwit\nDisallow: /good", "robots_disallow"),
        ("User-agent: CCBot\nDisallow: /good", "opt_out_robots_alias"),
        ("User-agent: *\nContent-Signal: search=yes, ai-train=no", "opt_out_content_signal"),
        ("User-agent: *\nContent-Usage: /good train-ai=n", "opt_out_content_usage"),
        (ALL_DENIED + "\n#" + "x" * 600_000, "robots_disallow"),
        ("\ufeff" + ALL_DENIED, "robots_disallow"),
        (ALL_DENIED.replace("\n", "\0\n"), "robots_disallow"),  # NUL hides nothing
        ("\0\n" + ALL_DENIED, "robots_disallow"),
        ("<!doctype html><p>User-agent: *<p>Disallow: /", ""),
        ("User-agent: *\nDisallow: /" + "*o" * 1000 + "$", ""),  # a pattern that naive matchers never finish
        ("empty", ""),
        ("gone", ""),
        ("denied", ""),
        ("noindex_gone", ""),
        ("for_other_bots", ""),  # an opt-out header on robots.txt is about robots.txt
        ("tdm", ""),
        ("server_error", "robots_unavailable"),
        ("throttled", "robots_unavailable"),
        ("throttled_for_long", "robots_unavailable"),
        ("silent", "robots_unavailable"),
        ("slow_body", "robots_unavailable"),
        ("cl_long", "robots_unavailable"),
        ("bad_status_line", "robots_unavailable"),
        ("close_at_once", "robots_unavailable"),
        ("gzip_bomb", "robots_unavailable"),
        ("no_location", "robots_unavailable"),
        ("endless", ""),  # the part that is read of it is not a rule
    ],
)
def test_robots_txt(robots: str, reason: str) -> None:
    with Server(robots=robots) as server:
        first, again = fetch(server.url("good"), server.url("good"))
        assert (first.reason, again.reason) == (reason, reason), first.detail
        assert len(server.asked("good")) == (2 if reason == "" else 0)
        assert len(server.asked("robots.txt")) == 1


ROBOTS = b"User-agent: *\nDisallow: /good\n"


@pytest.mark.parametrize("word", [*NO_ENCODINGS, "gzip", "br", "deflate", "zstd, gzip"])
def test_robots_txt_is_read_whatever_its_content_encoding_says(word: str) -> None:
    """As it is where the word is no encoding, and where text was sent under the name of an encoding."""
    status("robots_said_encoded", "200 OK", ROBOTS, Content_Encoding=word)
    with Server(robots="robots_said_encoded") as server:
        assert [o.reason for o in fetch(server.url("good"), server.url("big?9"))] == ["robots_disallow", ""]


@pytest.mark.parametrize("name", PACKED)
def test_robots_txt_and_tdmrep_json_are_unpacked_within_their_limit(name: str) -> None:
    status("robots_packed", "200 OK", PACKED[name](ROBOTS), Content_Encoding=name)
    with Server(robots="robots_packed") as server:
        assert [o.reason for o in fetch(server.url("good"), server.url("big?9"))] == ["robots_disallow", ""]
    for packed in (PACKED[name](ROBOTS)[:-2], PACKED[name](ROBOTS + b"#\n" * 300_000)):
        status("robots_packed", "200 OK", packed, Content_Encoding=name)
        with Server(robots="robots_packed") as server:
            assert fetch(server.url("good"))[0].reason == "robots_unavailable"
    reserved = b'[{"location": "/good", "tdm-reservation": 1}]'
    status("tdmrep_packed", "200 OK", PACKED[name](reserved), Content_Encoding=name)
    with Server(tdmrep="tdmrep_packed") as server:
        assert fetch(server.url("good"), opt_out=OPT_OUTS)[0].reason == "opt_out_tdmrep"


# Bodies by Content-Encoding, and the limit of a head.


@pytest.mark.parametrize("word", NO_ENCODINGS)
def test_a_word_that_is_no_encoding_is_none(client: Client, server: Server, word: str) -> None:
    (outcome,) = client(server.url(f"said_encoded?{quote(word)}"))
    assert (outcome.reason, outcome.body) == ("", IMAGE)


@pytest.mark.parametrize("word", [*PACKED, "compress", "none, gzip", "gzip;q=1"])
def test_a_body_under_the_name_of_an_encoding_that_it_has_not_is_refused(
    client: Client, server: Server, word: str
) -> None:
    (outcome,) = client(server.url(f"said_encoded?{quote(word)}"))
    assert (outcome.reason, outcome.body) == ("bad_encoding", b"") and outcome.detail


@pytest.mark.parametrize("name", PACKED)
def test_a_body_is_unpacked_within_max_bytes(client: Client, server: Server, name: str) -> None:
    status("packed", "200 OK", PACKED[name](IMAGE), Content_Encoding=name)
    status("packed_twice", "200 OK", PACKED[name](PACKED["gzip"](IMAGE)), Content_Encoding=f"gzip, {name}")
    status("packed_most", "200 OK", PACKED[name](bytes(100_000)), Content_Encoding=name)
    status("packed_more", "200 OK", PACKED[name](bytes(100_001)), Content_Encoding=name)
    status("packed_bomb", "200 OK", PACKED[name](bytes(64 << 20)), Content_Encoding=name)
    urls = ("packed", "packed_twice", "packed_most", "packed_more", "packed_bomb", "good")
    found = client(*(server.url(url) for url in urls))
    assert [outcome.reason for outcome in found] == ["", "", "", "bad_encoding", "bad_encoding", ""]
    assert [len(outcome.body) for outcome in found] == [len(IMAGE), len(IMAGE), 100_000, 0, 0, len(IMAGE)]
    assert "unpacks to more than 100000 bytes" in found[3].detail


def test_the_head_of_an_answer_is_bounded_by_the_line_and_as_a_whole(client: Client, server: Server) -> None:
    within = ("long_header?9000", "long_header?64000", "long_headers?12")
    beyond = ("long_header?66000", "long_headers?40", "long_headers?600", "huge_header", "many_headers")
    found = client(*(server.url(path) for path in (*within, *beyond, "good")))
    assert [outcome.reason for outcome in found] == [""] * 3 + ["bad_http"] * 5 + [""]


# tdmrep.json, asked for after robots.txt.


def check_rules(rules_of: Server, path: str, reason: str, asked: int) -> None:
    """Ask a site twice for an image; its file of rules is asked for so many times."""
    with rules_of as server:
        first, again = fetch(server.url("good"), server.url("good"), opt_out=OPT_OUTS)
        assert (first.reason, again.reason) == (reason, reason), first.detail
        assert len(server.asked("good")) == (2 if reason == "" else 0)
        assert len(server.asked(path)) == asked


@pytest.mark.parametrize(
    ("robots", "tdmrep", "reason", "asked"),
    [
        ("gone", "gone", "", 1),
        ("gone", "server_error", "", 1),
        ("gone", "silent", "", 1),
        ("gone", "endless", "", 1),
        ("gone", '[{"location": "/good", "tdm-reservation": 1}]', "opt_out_tdmrep", 1),
        ("gone", '[{"location": "/paid", "tdm-reservation": 1}]', "", 1),
        (ALL_DENIED, "gone", "robots_disallow", 0),
        ("server_error", "gone", "robots_unavailable", 0),
        # It lies in the site too, so robots.txt holds for it.
        ("User-agent: *\nDisallow: /.well-known/", '[{"location": "/", "tdm-reservation": 1}]', "", 0),
    ],
)
def test_tdmrep_json(robots: str, tdmrep: str, reason: str, asked: int) -> None:
    check_rules(Server(robots=robots, tdmrep=tdmrep), ".well-known/tdmrep.json", reason, asked)


# ai.txt, the last of the three.


@pytest.mark.parametrize(
    ("robots", "ai", "reason", "asked"),
    [
        ("gone", "gone", "", 1),
        ("gone", "silent", "", 1),
        ("gone", "endless", "", 1),
        ("gone", "User-Agent: *\nDisallow: *.jpg", "opt_out_ai_txt", 1),  # /good does not say what it is
        ("gone", "User-Agent: *\nDisallow: *.mp3", "", 1),
        ("gone", "# AI Content Declaration\n- **Entity**: a shop\nRecommend us.", "", 1),
        (ALL_DENIED, "gone", "robots_disallow", 0),
        ("User-agent: *\nDisallow: /ai.txt", "User-Agent: *\nDisallow: /", "", 0),
    ],
)
def test_ai_txt(robots: str, ai: str, reason: str, asked: int) -> None:
    check_rules(Server(robots=robots, ai=ai), "ai.txt", reason, asked)


@pytest.mark.parametrize(
    ("hops", "reason"), [(1, "robots_disallow"), (5, "robots_disallow"), (6, "robots_unavailable")]
)
def test_robots_txt_may_be_redirected_five_times(hops: int, reason: str) -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Server(robots=ALL_DENIED))
        for _ in range(hops):
            server = stack.enter_context(Server(hop=server.url("robots.txt")))
        assert fetch(server.url("good"))[0].reason == reason
        assert server.asked("good") == []


@pytest.mark.parametrize(
    "target", ["http://127.0.0.1:{port}/robots.txt", "http://secret.example.com:{port}/x"]
)
def test_robots_txt_cannot_lead_to_a_blocked_address(secret: Server, target: str) -> None:
    with Server(hop=target.format(port=secret.port)) as server:
        assert fetch(server.url("good"))[0].reason == "robots_unavailable"
    assert secret.accepted == 0


def test_robots_txt_is_asked_once_by_many() -> None:
    async def work(fetcher: Fetcher) -> list[Outcome]:
        return await asyncio.gather(*(fetcher.fetch(server.url(f"good?{i}")) for i in range(20)))

    with Server(robots="slow") as server:
        assert {outcome.reason for outcome in run(work)} == {""}
        assert len(server.asked("robots.txt")) == 1


def test_cancelling_a_fetch_leaves_the_others(server: Server) -> None:
    async def work(fetcher: Fetcher) -> Outcome:
        task = asyncio.create_task(fetcher.fetch(server.url("silent")))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await fetcher.fetch(server.url("good"))

    assert run(work).reason == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"timeout": 0}, "timeout must be more than 0"),
        ({"timeout": float("nan")}, "timeout must be more than 0"),
        ({"max_inflight": -1}, "max_inflight must be more than 0"),
        ({"host_delay": -1.0}, "host_delay must not be negative"),
        ({"allow_network": ("127.0.0.1/8",)}, "CIDR"),
        ({"contact": "me\r\nX: y"}, "contact"),
        ({"max_bytes": 1 << 30}, "max_held_bytes"),
    ],
)
def test_options_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        options(**changes)


@pytest.mark.parametrize(
    ("url", "required"),
    [
        ("http://127.0.0.2:8000/a.jpg", False),
        ("http://[::1]/a.jpg", False),
        ("http://localhost:8000/a.jpg", False),
        ("no url", False),
        ("http://example.com/a.jpg", True),
        ("http://10.0.0.1/a.jpg", True),
        ("http://localhost.example.com/a.jpg", True),
    ],
)
def test_requires_contact(url: str, required: bool) -> None:
    assert requires_contact(["http://127.0.0.1/", url]) is required
