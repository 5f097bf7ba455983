"""One HTTP client for one event loop: a request out, an answer in, and no surprise on the way.

No hidden retries, redirects, cookies, proxies or unpacking; addresses are judged where the sockets are made.
"""

import asyncio
import functools
import os
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Final

import aiohttp
from aiohttp import client_proto, http_exceptions
from yarl import URL

from pipeline import keys
from pipeline.http import dns, errors, fd_limits
from pipeline.http.address_policy import ATTEMPTS, AddressPolicy, Attempts, socket_factory
from pipeline.http.gate import Gate, Stopwatch
from pipeline.http.response import Reply
from pipeline.http.signing import Signer
from pipeline.http.user_agent import user_agent
from pipeline.options import FetchOptions

KEEP_ALIVE_SECONDS: Final = 15.0
"""For how long an idle connection is kept."""

MAX_INTERIM: Final = 16
"""Interim answers (1xx) before the final answer; RFC 9110, section 15.2, sets no limit."""

MAX_HEADER: Final = 64 << 10
"""Bytes of one line of an answer's head, name and value; security policies alone take 9 KiB at some sites."""

MAX_HEAD: Final = 256 << 10
"""Bytes of the head of an answer, all its lines together; as Chromium's limit."""

_MAX_HEADERS: Final = 512
_MAX_ADDRESSES: Final = 1 << 16

Read = Callable[[aiohttp.ClientResponse, Gate, Stopwatch], Awaitable[Reply]]


@functools.cache
def _ssl_context(file: str | None, folder: str | None) -> ssl.SSLContext:
    """Return this process's context, since reading the machine's certificates takes tens of milliseconds."""
    return ssl.create_default_context()


class Client:
    """A session with its name resolver; `close` it."""

    def __init__(self, options: FetchOptions, policy: AddressPolicy, resolver: dns.Resolver) -> None:
        self._addresses: dict[str, str] = {}
        self._sockets = fd_limits.Sockets(options)
        self._signer = Signer(keys.load(options.sign_with)) if options.sign_with else None
        self.session = aiohttp.ClientSession(
            connector=_Connector(
                limit=0,  # the callers limit the requests in flight
                resolver=resolver,
                use_dns_cache=False,  # the resolver has one
                socket_factory=socket_factory(policy, self._sockets.add),
                ssl=_ssl_context(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")),
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
            response_class=_Response,
            max_line_size=MAX_HEADER,
            max_field_size=MAX_HEADER,
            max_headers=_MAX_HEADERS,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self.session.close()

    def address_of(self, origin: str) -> str:
        """Return the address that an authority was last reached at, or nothing."""
        return self._addresses.get(origin, "")

    async def ask(
        self, href: str, gate: Gate, watch: Stopwatch, read: Read, *, keep_alive: bool = True
    ) -> Reply:
        """Send a request and let `read` judge the answer; an answer not read to its end is closed."""
        attempts = ATTEMPTS.get() or Attempts()
        attempts.opened, attempts.blocked = 0, ""
        response: aiohttp.ClientResponse | None = None
        try:
            response = await self._send(href, gate, watch, attempts, keep_alive)
            return await read(response, gate, watch)
        except Exception as error:  # noqa: BLE001 - the client raises many classes; each becomes a reason
            reason, detail = errors.of_exception(error, attempts)
            return Reply(reason, detail, response.status if response else 0)
        finally:
            if response is not None:
                response.close()  # of no effect on the connection when the body was read

    async def _send(
        self, href: str, gate: Gate, watch: Stopwatch, attempts: Attempts, keep_alive: bool
    ) -> aiohttp.ClientResponse:
        """Return the response with its headers; ask again once if a kept connection had gone stale."""
        url = URL(href, encoded=True)  # as it is: servers compare signed URLs byte by byte
        headers = {} if keep_alive and not self._sockets.are_many() else {"Connection": "close"}
        again = False
        while True:
            await gate.request()
            if self._signer is not None:
                headers |= self._signer.headers(url)  # after the wait: it holds for minutes
            try:
                async with watch.running():
                    response = await self.session.get(url, headers=headers, allow_redirects=False)
            except errors.ConnectionDropped:
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


class _Response(aiohttp.ClientResponse):
    """Give up on a server that sends interim answers without end: twenty hold up the loop for seconds."""

    _interim = 0

    @property
    def _continue(self) -> None:
        """Count: aiohttp looks here once for each interim answer, for who waits for 100 Continue."""
        self._interim += 1
        if self._interim > MAX_INTERIM:
            raise http_exceptions.BadHttpMessage(f"more than {MAX_INTERIM} interim answers")

    @_continue.setter
    def _continue(self, _: object) -> None:
        """Nobody waits: only GET is sent."""


class _Handler(client_proto.ResponseHandler):
    """Give up on a head of more than MAX_HEAD bytes: aiohttp bounds each line, and so only their product."""

    _head: int | None = None
    """Bytes of the head that is being received; None while there is none."""

    def set_response_params(self, **params: Any) -> None:
        """Begin to count: a request was sent."""
        self._head = 0
        super().set_response_params(**params)

    def feed_data(self, data: Any, size: int = 0) -> None:
        """Count again after an interim answer, and no more after the head that counts."""
        self._head = 0 if data[0].code < 200 else None
        super().feed_data(data, size)

    def data_received(self, data: bytes) -> None:
        """Count the bytes before the head's end."""
        super().data_received(data)
        if self._head is not None:
            self._head += len(data)
            if self._head > MAX_HEAD:
                self.set_exception(http_exceptions.BadHttpMessage(f"a head of more than {MAX_HEAD} bytes"))
                self.close()


class _Connector(aiohttp.TCPConnector):
    """Let its connections bound the head of an answer."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        make: Any = functools.partial(_Handler, loop=asyncio.get_running_loop())
        self._factory = make


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
        raise errors.ConnectionDropped(str(error)) from error


def authority(href: str) -> str:
    """Return scheme://host[:port] of a resolved URL: the owner of a robots.txt and of a connection."""
    return "/".join(href.split("/", 3)[:3])
