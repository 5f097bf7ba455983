"""robots.txt: RFC 9309's grouping and matching as they concern us, and the cache."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.http import robots
from pipeline.http.origin_cache import CACHE_SECONDS, RETRY_SECONDS, AuthorityCache
from pipeline.http.robots import RobotsVerdict, Rules, parse, verdict_for_status
from pipeline.http.site_rules import _keep_verdict

SITE = "http://example.com"


def allows(rules: Rules, url: str) -> bool:
    return rules.refusal(url) is None


@pytest.mark.parametrize(
    ("text", "path", "allowed"),
    [
        ("", "/a.jpg", True),
        ("User-agent: *\nDisallow: /", "/a.jpg", False),
        ("User-agent: *\nDisallow:", "/a.jpg", True),
        ("User-agent: *\nDisallow: /\nAllow: /img/", "/img/a.jpg", True),  # the longest match wins
        ("User-agent: *\nDisallow: /\nAllow: /img/", "/a.jpg", False),
        ("User-agent: *\nAllow: /p\nDisallow: /", "/page", True),
        ("User-agent: *\nDisallow: /*.gif$", "/a.gif", False),
        ("User-agent: *\nDisallow: /*.gif$", "/a.gif?x", True),
        ("User-agent: *\nDisallow: /a%3cd.html", "/a%3Cd.html", False),
        ("Disallow: /", "/a.jpg", True),  # no group
        # Our own group stands instead of "*".
        ("User-agent: *\nDisallow: /\n\nUser-agent: openwit\nDisallow: /x/", "/a.jpg", True),
        ("User-agent: OpenWIT/1.0\nDisallow: /", "/a.jpg", False),
        ("User-agent: openwit\nDisallow: /a\n\nUser-agent: openwit\nDisallow: /b", "/b", False),
        # Names that merely begin alike are other robots.
        ("User-agent: open\nDisallow: /", "/a.jpg", True),
        ("User-agent: openwitness\nDisallow: /", "/a.jpg", True),
        ("User-agent: o\nDisallow: /\nUser-agent: *\nAllow: /", "/a.jpg", True),
        # Aliases count where they are named, and never free us from our own rules.
        ("User-agent: img2dataset\nDisallow: /", "/a.jpg", False),
        ("User-agent: LAIONDownloader\nDisallow: /", "/a.jpg", False),
        ("User-agent: CCBot/2.0 (https://commoncrawl.org/faq/)\nDisallow: /", "/a.jpg", False),
        ("User-agent: CCBot\nAllow: /\n\nUser-agent: *\nDisallow: /", "/a.jpg", False),
        ("User-agent: openwit\nAllow: /\n\nUser-agent: CCBot\nDisallow: /", "/a.jpg", False),
        ("User-agent: CCBot\nDisallow:\n\nUser-agent: GPTBot\nDisallow: /", "/a.jpg", True),
        ("User-agent: GPTBot\nDisallow: /", "/a.jpg", True),
        # Lines that are not of the RFC neither end nor join groups.
        ("User-agent: CCBot\nContent-Signal: ai-train=no\nUser-agent: X\nDisallow: /", "/a.jpg", False),
        ("User-agent: CCBot\nSitemap: http://example.com/s\nUser-agent: X\nDisallow: /", "/a.jpg", False),
        ("User-agent: *\nCrawl-delay: 5\nUser-agent: X\nDisallow: /", "/a.jpg", False),
        ("User-agent: *\nHost: example.com\nNoindex: /a\nDisallow: /b", "/a", True),
        # As people write them.
        ("\ufeffUser-agent: *\nDisallow: /", "/a.jpg", False),
        ("user-agent:*\r\ndisallow:/\r\n", "/a.jpg", False),
        ("USER-AGENT: *\rDISALLOW: /", "/a.jpg", False),
        ("Useragent: *\nDissalow: /", "/a.jpg", False),
        ("User-agent *\nDisallow /", "/a.jpg", False),
        ("  User-agent : *  # all\n  Disallow : /x # comment", "/x", False),
        ("User-agent: *\n\n\nDisallow: /", "/a.jpg", False),
        ("User-agent: *\nDisallow: /a\u2028Allow: /a", "/a", True),  # one odd path, not two rules
        ("<html><body>User-agent: *\nDisallow: /</body></html>", "/a.jpg", True),
    ],
)
def test_allows(text: str, path: str, allowed: bool) -> None:
    assert allows(parse(text.encode()), SITE + path) is allowed


def test_another_encoding_still_says_what_it_says_in_ascii() -> None:
    rules = parse("# größe\nUser-agent: *\nDisallow: /x".encode("latin-1"))
    assert not allows(rules, SITE + "/x")
    for encoding in ("utf-16", "utf-8-sig"):  # with their marks
        assert not allows(parse("User-agent: *\nDisallow: /x".encode(encoding)), SITE + "/x")


@pytest.mark.parametrize(
    ("text", "delay"),
    [
        ("", 0.0),
        ("User-agent: *\nCrawl-delay: 2.5\nDisallow: /x", 2.5),
        ("User-agent: *\nCrawl-delay: 1e9", robots.MAX_CRAWL_DELAY),
        ("User-agent: *\nCrawl-delay: -3", 0.0),
        ("User-agent: *\nCrawl-delay: nan", 0.0),
        ("User-agent: *\nCrawl-delay: soon", 0.0),
        ("User-agent: *\nCrawl-delay: 9\n\nUser-agent: openwit\nCrawl-delay: 3\nDisallow: /x", 3.0),
        ("User-agent: *\nCrawl-delay: 9\n\nUser-agent: X\nCrawl-delay: 3\nDisallow: /x", 9.0),
        ("User-agent: *\nCrawl-delay: 9\nDisallow: /y\n\nUser-agent: openwit\nCrawl-delay: 3", 3.0),
        ("User-agent: *\nDisallow: /y\n\nUser-agent: CCBot\nCrawl-delay: 7", 7.0),
        ("User-agent: Slurp\nCrawl-delay: 7\nDisallow: /", 0.0),
    ],
)
def test_crawl_delay(text: str, delay: float) -> None:
    assert parse(text.encode()).crawl_delay == delay


def test_a_long_file_is_cut_at_a_line() -> None:
    head = b"User-agent: *\nDisallow: /early\n"
    filler = b"# " + b"x" * 97 + b"\n"
    body = head + filler * ((robots.MAX_BYTES - len(head)) // len(filler))
    body += b"#" * (robots.MAX_BYTES - len(body) - 12) + b"\n"
    assert len(body) == robots.MAX_BYTES - 11
    rules = parse(body + b"Disallow: /" + b"late\n")  # the limit lies right after the slash
    assert not allows(rules, SITE + "/early")
    assert allows(rules, SITE + "/late")
    assert allows(rules, SITE + "/")


def test_only_what_concerns_us_is_kept() -> None:
    others = "".join(f"User-agent: bot{i}\nDisallow: /{i}\n\n" for i in range(5000))
    rules = parse((others + "User-agent: *\nDisallow: /x\n").encode())
    assert rules.size < 100
    assert not allows(rules, SITE + "/x")


@given(st.binary(max_size=400))
def test_parse_takes_any_bytes(body: bytes) -> None:
    rules = parse(body)
    allows(rules, "http://example.com/a%20b?c=d")
    assert 0 <= rules.crawl_delay <= robots.MAX_CRAWL_DELAY


_LINES = st.sampled_from(
    ["User-agent: *", "User-agent: openwit", "User-agent: CCBot", "User-agent: other", "Disallow: /",
     "Disallow:", "Allow: /", "Disallow: /a", "Allow: /a", "Sitemap: x", "Crawl-delay: 3", "", "# note",
     "Junk: y"]
)  # fmt: skip


@given(st.lists(_LINES, max_size=12))
def test_grouping_agrees_with_the_rfc_read_line_by_line(lines: list[str]) -> None:
    assert allows(parse("\n".join(lines).encode()), SITE + "/a") is _oracle(lines)


def _oracle(lines: list[str]) -> bool:
    """RFC 9309 for the path /a and the lines above, written down without regard to speed."""
    rules: dict[str, list[tuple[int, bool]]] = {}
    names: list[str] = []
    in_rules = False
    for key, _, value in (line.partition(": ") for line in lines):
        if key == "User-agent":
            names = [] if in_rules else names
            in_rules = False
            names.append(value)
            rules.setdefault(value, [])
        elif key in ("Allow", "Disallow", "Disallow:"):
            in_rules = in_rules or bool(names)
            for name in names:
                rules[name] += [(len(value), key == "Allow")] if value else []
    own = "openwit" if "openwit" in rules else "*"
    # The longest match wins, allow before disallow; without one it is allowed.
    return all(max(rules.get(name, []), default=(0, True))[1] for name in (own, "CCBot"))


@pytest.mark.parametrize("status", [200, 204, 299])
def test_success_is_parsed(status: int) -> None:
    rules = verdict_for_status(status, b"User-agent: *\nDisallow: /").rules
    assert rules is not None
    assert not allows(rules, SITE + "/")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451, 499])
def test_client_errors_allow_all_whatever_their_body(status: int) -> None:
    rules = verdict_for_status(status, b"User-agent: *\nDisallow: /").rules
    assert rules is not None
    assert allows(rules, SITE + "/")


@pytest.mark.parametrize("status", [429, 500, 503, 599, 301, 304, 999])
def test_other_statuses_disallow_for_now(status: int) -> None:
    assert verdict_for_status(status, b"") == (None, "robots_unavailable", f"robots.txt: HTTP {status}")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Loader:
    """Answer with `verdict` and count how often."""

    def __init__(self, verdict: RobotsVerdict) -> None:
        self.verdict = verdict
        self.calls = 0

    async def __call__(self) -> RobotsVerdict:
        self.calls += 1
        await asyncio.sleep(0.01)
        return self.verdict


def test_one_request_for_all_who_ask_at_once() -> None:
    async def run() -> int:
        cache, load = AuthorityCache(_keep_verdict), Loader(verdict_for_status(404, b""))
        verdicts = await asyncio.gather(*(cache.get("http://a:80", load) for _ in range(20)))
        assert len({id(v) for v in verdicts}) == 1
        return load.calls

    assert asyncio.run(run()) == 1


def test_when_the_one_who_asks_is_cancelled_another_takes_over() -> None:
    async def run() -> int:
        cache, load = AuthorityCache(_keep_verdict), Loader(verdict_for_status(404, b""))
        first, second = (asyncio.create_task(cache.get("http://a:80", load)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).rules is not None
        return load.calls

    assert asyncio.run(run()) == 2


@pytest.mark.parametrize(
    ("status", "age"), [(200, CACHE_SECONDS), (404, CACHE_SECONDS), (503, RETRY_SECONDS)]
)
def test_how_long_a_verdict_stands(status: int, age: float) -> None:
    async def run() -> list[int]:
        clock, load = Clock(), Loader(verdict_for_status(status, b""))
        cache, calls = AuthorityCache(_keep_verdict, clock=clock), []
        for clock.now in (0.0, age - 1, age):
            await cache.get("http://a:80", load)
            calls.append(load.calls)
        return calls

    assert asyncio.run(run()) == [1, 1, 2]


def test_the_least_recently_used_is_forgotten() -> None:
    async def run() -> list[bool]:
        cache, load = AuthorityCache(_keep_verdict, max_authorities=2), Loader(verdict_for_status(404, b""))
        await cache.get("a", load)
        await cache.get("b", load)
        assert cache.known("a") is not None
        await cache.get("c", load)
        return [cache.known(name) is not None for name in "abc"]

    assert asyncio.run(run()) == [True, False, True]


def test_large_files_push_others_out() -> None:
    async def run() -> list[bool]:
        cache = AuthorityCache(_keep_verdict, max_characters=100)
        for name in "ab":
            await cache.get(name, Loader(verdict_for_status(200, b"User-agent: *\nDisallow: /" + b"x" * 40)))
        return [cache.known(name) is not None for name in "ab"]

    assert asyncio.run(run()) == [False, True]


def test_a_large_file_is_parsed_the_same_off_the_loop() -> None:
    body = b"User-agent: *\n" + b"".join(b"Disallow: /%d\n" % i for i in range(5000))
    rules = asyncio.run(robots.verdict_off_loop(200, body)).rules
    assert rules is not None
    assert not allows(rules, SITE + "/4999")
