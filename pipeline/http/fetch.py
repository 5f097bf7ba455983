"""Fetch one URL as a well-behaved stranger: robots.txt, opt-outs, bounds on everything, no exceptions.

In this order: the URL's policy, robots.txt, the request (its address is judged where the socket is made),
status, opt-out headers, encoding, declared length, body. What may not be read is not read: the connection is
closed. Redirects are followed by hand, each hop through all of it. Many URLs at once: `fetch_many`.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, NamedTuple, Protocol

import aiohttp
from yarl import URL

from pipeline import urls
from pipeline.http import dns, failures, optout, robots
from pipeline.http.identity import user_agent
from pipeline.http.policy import ATTEMPTS, AddressPolicy, Attempts, check_url, socket_factory
from pipeline.http.politeness import retry_after
from pipeline.http.robots import RobotsCache, Verdict
from pipeline.options import FetchOptions

REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
ROBOTS_REDIRECTS: Final = 5
"""RFC 9309, section 2.3.1.2: at least five."""

_DRAINED: Final = 16 << 10  # bytes of an error's body worth reading in order to keep the connection
KEEP_ALIVE_SECONDS: Final = 15.0
"""For how long an idle connection is kept."""

_FIRST_RESERVE: Final = 64 << 10  # bytes, for an image of undeclared length
_MAX_ADDRESSES: Final = 1 << 16


class Outcome(NamedTuple):
    """What came of one URL; `reason` is a word of `pipeline.reasons`, "" where `body` is what was asked for.

    `url` is as given, `final_url` the last one asked or, with `redirect_elsewhere`, the one to ask next;
    `status` that of the last answer or 0; `elapsed` seconds on the network; `address` the numeric address;
    `retry_after` the seconds that the server asked for with 429 or 503.
    """

    url: str
    final_url: str
    reason: str
    detail: str
    status: int
    body: bytes
    content_type: str
    elapsed: float
    address: str
    retry_after: float | None


class Gate(Protocol):
    """What the caller imposes on a fetch: its turn at the site, and memory."""

    async def request(self) -> None:
        """Return when a request may be sent; called before each one, robots.txt and redirects included."""

    async def reserve(self, size: int) -> None:
        """Return when `size` bytes of a body may be held; called before each body."""

    def received(self, size: int) -> bool:
        """Count `size` bytes of body; False if more than reserved arrived and there is no memory for it."""


class OpenGate:
    """Impose nothing."""

    async def request(self) -> None:
        """Return at once."""

    async def reserve(self, size: int) -> None:
        """Return at once."""

    def received(self, size: int) -> bool:
        """Allow it."""
        return True


class Refusal(NamedTuple):
    """Why a URL is not asked for."""

    reason: str
    detail: str


class _Reply(NamedTuple):
    """The answer to one request, as far as it was read; `redirect` is a Location header."""

    reason: str = ""
    detail: str = ""
    status: int = 0
    body: bytes = b""
    content_type: str = ""
    retry_after: float | None = None
    redirect: str | None = None


class _Stopwatch:
    """Seconds left of a URL's time, running only while the network is waited for."""

    def __init__(self, seconds: float) -> None:
        self.left = seconds

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Raise TimeoutError in the block when the time is used up."""
        clock = asyncio.get_running_loop().time
        started = clock()
        try:
            async with asyncio.timeout(self.left):
                yield
        finally:
            self.left -= clock() - started


_Reader = Callable[[aiohttp.ClientResponse, Gate, _Stopwatch], Awaitable[_Reply]]


class Fetcher:
    """One HTTP client with its caches, for one event loop; an async context manager."""

    def __init__(self, options: FetchOptions, lookup: dns.Lookup = dns.lookup) -> None:
        self.options = options
        self._lookup = lookup
        self.policy = AddressPolicy.from_text(options.allow_network)
        self._robots = RobotsCache()
        self._addresses: dict[str, str] = {}

    async def __aenter__(self) -> "Fetcher":
        """Open the session."""
        options = self.options
        self._resolver = dns.Resolver(threads=max(64, options.max_inflight), lookup=self._lookup)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,  # the callers bound what is in flight
                resolver=self._resolver,
                use_dns_cache=False,  # the resolver has one
                socket_factory=socket_factory(self.policy),
                ssl=ssl.create_default_context(),  # once: building one takes tens of milliseconds
                keepalive_timeout=KEEP_ALIVE_SECONDS,
            ),
            headers={"User-Agent": user_agent(options.contact), "Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(
                total=None, connect=options.connect_timeout, sock_read=options.read_timeout
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # a few kilobytes can unpack to gigabytes
            trust_env=False,  # behind a proxy the policy would see the proxy's address alone
            middlewares=(_no_hidden_retry,),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close all connections."""
        await self._session.close()
        await self._resolver.close()

    async def fetch(self, url: str, gate: Gate | None = None, *, keep_alive: bool = True) -> Outcome:
        """Fetch `url`; what goes wrong is a reason. Without `keep_alive` the connection ends with it."""
        watch, attempts, final_url = _Stopwatch(self.options.timeout), Attempts(), url
        token = ATTEMPTS.set(attempts)
        try:
            final_url, reply = await self._follow(url, gate or OpenGate(), watch, keep_alive)
        except Exception as error:  # noqa: BLE001 - one URL must not end the others; it becomes a counted row
            reply = _Reply("internal_error", f"{type(error).__name__}: {error}"[:300])
        finally:
            ATTEMPTS.reset(token)
        elapsed = self.options.timeout - watch.left
        address = attempts.address or self._addresses.get(authority(final_url), "") if reply.status else ""
        return Outcome(url, final_url, *reply[:5], elapsed, address, reply.retry_after)

    def refuse(self, href: str) -> Refusal | None:
        """Return why a resolved URL is not to be asked for, by policy and the robots.txt if it is at hand."""
        reason = check_url(href, self.policy)
        if reason is not None:
            return Refusal(reason, "")
        verdict = self._robots.known(authority(href))
        if verdict is None:
            return None
        if verdict.rules is None:
            return Refusal(verdict.reason, verdict.detail)
        return None if verdict.rules.allows(href) else Refusal("robots_disallow", "")

    def knows_robots(self, href: str) -> bool:
        """Return whether the robots.txt that holds for a resolved URL is at hand."""
        return self._robots.known(authority(href)) is not None

    def crawl_delay(self, href: str) -> float:
        """Return the Crawl-delay in seconds that is known for a resolved URL, or 0."""
        verdict = self._robots.known(authority(href))
        return verdict.rules.crawl_delay if verdict and verdict.rules else 0.0

    async def load_robots(self, href: str, gate: Gate) -> None:
        """Fetch the robots.txt that holds for a resolved URL, unless it is at hand or under way."""
        origin = authority(href)
        await self._robots.get(origin, lambda: self._fetch_robots(origin, gate))

    async def _follow(self, url: str, gate: Gate, watch: _Stopwatch, keep_alive: bool) -> tuple[str, _Reply]:
        """Return the last URL of a chain of redirects, and its answer."""
        try:
            href = urls.resolve(url)
        except urls.BadUrl as error:
            return url, _Reply(error.reason, str(error))
        seen: list[str] = []
        while True:
            if refusal := await self._refuse_with_robots(href, gate):
                via = f"redirected from {seen[-1]}" if seen else ""
                return href, _Reply(refusal.reason, (refusal.detail or via)[:300])
            reply = await self._ask(href, gate, watch, self._read_image, keep_alive=keep_alive)
            if reply.redirect is None:
                return href, reply
            seen.append(href)
            try:
                target = urls.resolve(reply.redirect, href)
            except urls.BadUrl as error:
                return href, reply._replace(reason="bad_redirect", detail=f"{error.reason}: {error}"[:300])
            if target in seen:
                return target, reply._replace(reason="redirect_loop", detail=f"back to {target}"[:300])
            if blocked := check_url(target, self.policy):
                return target, reply._replace(reason=blocked, detail=f"redirected from {href}"[:300])
            if urls.site(target) != urls.site(href):
                return target, reply._replace(reason="redirect_elsewhere", detail=target[:300])
            if len(seen) > self.options.max_redirects:
                return target, reply._replace(reason="too_many_redirects", detail=f"{len(seen)} redirects")
            href = target

    async def _refuse_with_robots(self, href: str, gate: Gate) -> Refusal | None:
        refusal = self.refuse(href)
        if refusal is None and not self.knows_robots(href):
            await self.load_robots(href, gate)
            refusal = self.refuse(href)
        return refusal

    async def _fetch_robots(self, origin: str, gate: Gate) -> Verdict:
        """Ask for robots.txt; whatever the redirects, the answer holds for `origin`."""
        href, watch, attempts = f"{origin}/robots.txt", _Stopwatch(self.options.timeout), Attempts()
        token = ATTEMPTS.set(attempts)
        try:
            for _ in range(ROBOTS_REDIRECTS + 1):
                reply = await self._ask(href, gate, watch, self._read_robots)
                if reply.redirect is None:
                    break
                target = urls.resolve(reply.redirect, href)
                if check_url(target, self.policy) is not None:
                    break
                href = target
        except urls.BadUrl as error:
            reply = _Reply("bad_redirect", str(error), reply.status)
        finally:
            ATTEMPTS.reset(token)
        if reply.status and not reply.reason:
            return await robots.verdict_off_loop(reply.status, reply.body)
        if reply.reason in failures.UNREACHABLE and href.startswith(f"{origin}/"):
            return Verdict(None, reply.reason, reply.detail)  # the name or the machine, not its robots.txt
        return Verdict(None, "robots_unavailable", f"robots.txt: {reply.reason} {reply.detail}"[:300])

    async def _ask(
        self, href: str, gate: Gate, watch: _Stopwatch, read: _Reader, *, keep_alive: bool = True
    ) -> _Reply:
        """Send one request and let `read` judge the answer; what is not read to its end is closed."""
        attempts = ATTEMPTS.get() or Attempts()
        attempts.opened, attempts.blocked = 0, ""
        response: aiohttp.ClientResponse | None = None
        try:
            response = await self._send(href, gate, watch, attempts, keep_alive)
            return await read(response, gate, watch)
        except Exception as error:  # noqa: BLE001 - the client raises many classes; each becomes a reason
            reason, detail = failures.of_exception(error, attempts)
            return _Reply(reason, detail, response.status if response else 0)
        finally:
            if response is not None:
                response.close()  # of no effect on the connection when the body was read

    async def _send(
        self, href: str, gate: Gate, watch: _Stopwatch, attempts: Attempts, keep_alive: bool
    ) -> aiohttp.ClientResponse:
        """Return the response with its headers; ask again once if a kept connection had gone stale."""
        url = URL(href, encoded=True)  # as it is: servers compare signed URLs byte by byte
        headers = None if keep_alive else {"Connection": "close"}
        again = False
        while True:
            await gate.request()
            try:
                async with watch.running():
                    response = await self._session.get(url, headers=headers, allow_redirects=False)
            except failures.Dropped:
                if attempts.opened or again:
                    raise
                again = True
                continue
            if attempts.opened:
                self._remember_address(authority(href), attempts.address)
            return response

    def _remember_address(self, origin: str, address: str) -> None:
        """Keep it for requests that reuse the connection: by then aiohttp may have let go of the socket."""
        if len(self._addresses) >= _MAX_ADDRESSES:
            self._addresses.clear()
        self._addresses[origin] = address

    async def _read_image(self, response: aiohttp.ClientResponse, gate: Gate, watch: _Stopwatch) -> _Reply:
        status, headers = response.status, response.headers
        reply = _Reply(status=status, content_type=headers.get("Content-Type", "")[:200])
        if status == 200 or status in REDIRECTS:
            refused = optout.check_headers(headers.items())
            if refused is not None:
                return reply._replace(reason="opt_out", detail=refused[:300])
        if status != 200:
            await _drain(response, watch)
            if status in REDIRECTS:
                return reply._replace(redirect=headers.get("Location", ""))
            wait = retry_after(headers.get("Retry-After"), headers.get("Date"))
            return reply._replace(
                reason=failures.of_status(status), detail=f"HTTP {status}", retry_after=wait
            )
        encoding = headers.get("Content-Encoding", "").strip().lower()
        if encoding not in ("", "identity"):
            return reply._replace(reason="bad_encoding", detail=f"Content-Encoding: {encoding}"[:300])
        if (response.content_length or 0) > self.options.max_bytes:
            return reply._replace(reason="too_large", detail=f"{response.content_length} bytes declared")
        declared = response.content_length
        await gate.reserve(_FIRST_RESERVE if declared is None else declared)
        reason, detail, body = await self._read_body(response, gate, watch, self.options.max_bytes)
        return reply._replace(reason=reason, detail=detail, body=b"" if reason else body)

    async def _read_robots(self, response: aiohttp.ClientResponse, gate: Gate, watch: _Stopwatch) -> _Reply:
        status, headers = response.status, response.headers
        if status in REDIRECTS:
            await _drain(response, watch)
            return _Reply(status=status, redirect=headers.get("Location", ""))
        if not 200 <= status < 300:
            await _drain(response, watch)
            return _Reply(status=status)
        if headers.get("Content-Encoding", "").strip().lower() not in ("", "identity"):
            return _Reply("bad_encoding", headers["Content-Encoding"][:100], status)
        await gate.reserve(robots.MAX_BYTES)
        reason, detail, body = await self._read_body(response, gate, watch, robots.MAX_BYTES)
        if reason in ("too_large", "empty_body"):  # of a longer file the beginning counts
            reason = ""
        return _Reply(reason, detail, status, body)

    async def _read_body(
        self, response: aiohttp.ClientResponse, gate: Gate, watch: _Stopwatch, limit: int
    ) -> tuple[str, str, bytes]:
        """Return (reason, detail, bytes), stopping at the first chunk beyond `limit`."""
        chunks: list[bytes] = []
        size = 0
        clock = asyncio.get_running_loop().time
        async with watch.running():
            started = clock()
            async for chunk in response.content.iter_any():
                size += len(chunk)
                chunks.append(chunk)
                seconds = clock() - started
                if size > limit:
                    return "too_large", f"more than {limit} bytes", b"".join(chunks)
                if not gate.received(len(chunk)):
                    return "deferred", "no memory for more bodies at the moment", b""
                if seconds > self.options.read_timeout and size < self.options.min_rate * seconds:
                    return "too_slow", f"{size} bytes in {seconds:.1f} s", b""
        return "" if size else "empty_body", "", b"".join(chunks)


async def _drain(response: aiohttp.ClientResponse, watch: _Stopwatch) -> None:
    """Read a small declared body that nobody wants: cheaper for both sides than a new connection."""
    if response.content_length is not None and response.content_length <= _DRAINED:
        async with watch.running():
            await response.read()


async def _no_hidden_retry(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep the client from sending a request twice on its own: each has to wait for its turn."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (
        aiohttp.ClientOSError,
        aiohttp.ClientConnectionResetError,
        aiohttp.ServerDisconnectedError,
    ) as error:
        raise failures.Dropped(str(error)) from error


def authority(href: str) -> str:
    """Return scheme://host[:port] of a resolved URL: what a robots.txt and a connection belong to."""
    return "/".join(href.split("/", 3)[:3])
