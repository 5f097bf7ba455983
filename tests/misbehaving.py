"""A web server on loopback that misbehaves on request: `http://HOST:PORT/BEHAVIOUR`.

Raw sockets in an event loop and thread of its own, since HTTP libraries do not let one break HTTP. Every
request is logged with its time, every connection counted.
"""

import asyncio
import contextlib
import gzip
import itertools
import socket
import ssl
import struct
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import NamedTuple
from urllib.parse import unquote

from tests.threadserver import ThreadServer

IMAGE = b"\xff\xd8\xff" + bytes(range(256)) * 16  # 4,099 bytes; the fetcher does not look inside


class Request(NamedTuple):
    """One request as it arrived; `time` on the monotonic clock, header names in lower case."""

    time: float
    path: str
    headers: dict[str, str]
    connection: int


class Peer:
    """The server's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def reply(self, status: str = "200 OK", body: bytes = IMAGE, **headers: str) -> bool:
        """Send a correct answer; header names with _ for -. Return True: the connection may be kept."""
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        return True


Behaviour = Callable[[Peer, Request], Awaitable[bool | None]]
BEHAVIOURS: dict[str, Behaviour] = {}
OK = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n"


def behaviour(function: Behaviour) -> Behaviour:
    """Serve `function` under its name; it returns True where the connection may be kept."""
    BEHAVIOURS[function.__name__] = function
    return function


def raw(name: str, data: bytes) -> None:
    """Serve `data` as it is under `name`, then close."""

    async def answer(peer: Peer, _: Request) -> None:
        await peer.send(data)

    BEHAVIOURS[name] = answer


def status(name: str, line: str, body: bytes = IMAGE, **headers: str) -> None:
    """Serve a correct answer with that status line, body and headers under `name`."""

    async def answer(peer: Peer, _: Request) -> bool:
        return await peer.reply(line, body, **headers)

    BEHAVIOURS[name] = answer


@behaviour
async def good(peer: Peer, _: Request) -> bool:
    return await peer.reply(Content_Type="image/jpeg")


@behaviour
async def chunked(peer: Peer, _: Request) -> bool:
    size = f"{len(IMAGE):x}".encode()
    await peer.send(OK + b"Transfer-Encoding: chunked\r\n\r\n" + size + b"\r\n" + IMAGE + b"\r\n0\r\n\r\n")
    return True


@behaviour
async def slow(peer: Peer, _: Request) -> bool:
    await asyncio.sleep(0.15)
    return await peer.reply()


@behaviour
async def big(peer: Peer, request: Request) -> bool:
    """Serve as many bytes as the query string says."""
    return await peer.reply(body=bytes(int(request.path.partition("?")[2])))


@behaviour
async def said_encoded(peer: Peer, request: Request) -> bool:
    """Serve the image as it is under the Content-Encoding of the query string."""
    return await peer.reply(Content_Encoding=unquote(request.path.partition("?")[2]))


@behaviour
async def long_header(peer: Peer, request: Request) -> bool:
    """Serve a header of as many bytes as the query string says."""
    return await peer.reply(Content_Security_Policy="y" * int(request.path.partition("?")[2]))


@behaviour
async def long_headers(peer: Peer, request: Request) -> bool:
    """Serve as many headers of 20,000 bytes as the query string says."""
    count = int(request.path.partition("?")[2])
    return await peer.reply(**{f"X-{number}": "y" * 20_000 for number in range(count)})


@behaviour
async def empty(peer: Peer, _: Request) -> bool:
    return await peer.reply(body=b"")


@behaviour
async def silent(peer: Peer, _: Request) -> None:
    await peer.reader.read()


@behaviour
async def slow_header(peer: Peer, _: Request) -> None:
    await peer.send(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        await peer.send(b"y")
        await asyncio.sleep(0.05)


@behaviour
async def slow_body(peer: Peer, _: Request) -> None:
    await peer.send(OK + b"Content-Length: 100000\r\n\r\n")
    while True:
        await peer.send(b"y")
        await asyncio.sleep(0.05)


@behaviour
async def stalled_body(peer: Peer, _: Request) -> None:
    await peer.send(OK + b"Content-Length: 100000\r\n\r\nyyyy")
    await peer.reader.read()


@behaviour
async def endless(peer: Peer, _: Request) -> None:
    await peer.send(OK + b"\r\n")
    while True:
        await peer.send(bytes(65536))


@behaviour
async def endless_chunks(peer: Peer, _: Request) -> None:
    await peer.send(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    while True:
        await peer.send(b"10000\r\n" + bytes(65536) + b"\r\n")


@behaviour
async def tiny_chunks(peer: Peer, _: Request) -> None:
    await peer.send(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    while True:
        await peer.send(b"1\r\ny\r\n" * 1000)


@behaviour
async def flood_1xx(peer: Peer, _: Request) -> None:
    while True:
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)
        await asyncio.sleep(0.001)


@behaviour
async def endless_header(peer: Peer, _: Request) -> None:
    await peer.send(OK + b"X: ")
    while True:
        await peer.send(b"y" * 4096)


@behaviour
async def endless_headers(peer: Peer, _: Request) -> None:
    await peer.send(OK)
    while True:
        await peer.send(b"X: y\r\n" * 1000)


@behaviour
async def endless_extension(peer: Peer, _: Request) -> None:
    """Begin a chunk and never come to the end of its extension."""
    await peer.send(OK + b"Transfer-Encoding: chunked\r\n\r\n4;x=")
    while True:
        await peer.send(b"y" * 65536)
        await asyncio.sleep(0.001)


@behaviour
async def endless_trailers(peer: Peer, _: Request) -> None:
    await peer.send(OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\nyyyy\r\n0\r\n")
    while True:
        await peer.send(b"X: y\r\n" * 1000)
        await asyncio.sleep(0.001)


@behaviour
async def reset_in_body(peer: Peer, _: Request) -> None:
    await peer.send(OK + b"Content-Length: 100000\r\n\r\n" + bytes(1000))
    await asyncio.sleep(0.05)
    _reset(peer)


@behaviour
async def reset(peer: Peer, _: Request) -> None:
    _reset(peer)


@behaviour
async def close_at_once(peer: Peer, _: Request) -> None:
    """Close without an answer."""


@behaviour
async def kept_then_dropped(peer: Peer, _: Request) -> None:
    """Answer as if the connection were kept, and close it at the next request on it."""
    await peer.reply()
    await peer.reader.readuntil(b"\r\n\r\n")


@behaviour
async def redirect(peer: Peer, request: Request) -> bool:
    """Redirect to the query string."""
    return await peer.reply("302 Found", body=b"moved", Location=unquote(request.path.partition("?")[2]))


@behaviour
async def redirect_chain(peer: Peer, request: Request) -> bool:
    hops = int(request.path.partition("?")[2])
    return await peer.reply("302 Found", Location=f"/redirect_chain?{hops - 1}" if hops > 1 else "/good")


@behaviour
async def redirect_with_endless_body(peer: Peer, _: Request) -> None:
    await peer.send(b"HTTP/1.1 302 Found\r\nLocation: /good\r\n\r\n")
    while True:
        await peer.send(bytes(65536))


@behaviour
async def opted_out_endless(peer: Peer, _: Request) -> None:
    await peer.send(OK + b"X-Robots-Tag: otherbot: all\r\nX-Robots-Tag: noai\r\n\r\n")
    while True:
        await peer.send(bytes(65536))


raw("cl_10tb", OK + b"Content-Length: 10000000000000\r\n\r\nyyyy")
raw("cl_1e30", OK + b"Content-Length: 1" + b"0" * 30 + b"\r\n\r\nyyyy")
raw("cl_negative", OK + b"Content-Length: -1\r\n\r\nyyyy")
raw("cl_not_a_number", OK + b"Content-Length: +4\r\n\r\nyyyy")
raw("cl_twice", OK + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nyyyyy")
raw("cl_and_chunked", OK + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nyyyy\r\n0\r\n\r\n")
raw("cl_long", OK + b"Content-Length: 100\r\n\r\nyyyy")
raw("cl_short", OK + b"Content-Length: 4\r\n\r\nyyyyzzzz")
raw("chunk_cut", OK + b"Transfer-Encoding: chunked\r\n\r\n100\r\nyyyy")
raw("chunk_size_bad", OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nyyyy\r\n0\r\n\r\n")
raw("chunk_size_huge", OK + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nyyyy\r\n")
raw("bad_status_line", b"HELLO 200\r\n\r\nyyyy")
raw("http_09", b"<html>yyyy</html>")
raw(
    "chunk_extension",
    OK + b"Transfer-Encoding: chunked\r\n\r\n4;x=" + b"y" * (1 << 20) + b"\r\nyyyy\r\n0\r\n\r\n",
)
raw("no_content_with_body", b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nyyyy")
raw("close_after_headers", OK + b"Content-Length: 4\r\n\r\n")
raw("redirect_nul", b"HTTP/1.1 302 Found\r\nLocation: /go\0od\r\nContent-Length: 0\r\n\r\n")
raw(
    "cookies_90",
    OK + b"".join(b"Set-Cookie: a%d=b\r\n" % i for i in range(90)) + b"Content-Length: 4\r\n\r\nyyyy",
)
raw("close_in_headers", b"HTTP/1.1 200 OK\r\nContent-")
raw("nul_in_header", OK + b"X: a\0b\r\nContent-Length: 4\r\n\r\nyyyy")
raw("huge_header", OK + b"X: " + b"y" * (1 << 20) + b"\r\nContent-Length: 4\r\n\r\nyyyy")
raw("many_headers", OK + b"X: y\r\n" * 10_000 + b"Content-Length: 4\r\n\r\nyyyy")
raw("switching", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
raw("no_location", b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n")
raw(
    "two_answers",
    b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nyyyyHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
)
status("redirect_to_self", "301 Moved Permanently", Location="/redirect_to_self")
status("loop_a", "302 Found", Location="/loop_b")
status("loop_b", "302 Found", Location="/loop_a")
status("gone", "404 Not Found")
status("gone_for_good", "410 Gone")
status("denied", "403 Forbidden")
status("legal", "451 Unavailable For Legal Reasons")
status("teapot", "418 I'm a teapot")
status("partial", "206 Partial Content")
status("strange", "999 Request denied")
status("server_error", "500 Oops")
status("throttled", "429 Too Many Requests", Retry_After="1")
status("throttled_for_long", "503 Service Unavailable", Retry_After="99999999999")
status("throttled_without_time", "429 Too Many Requests")
status("gzip_bomb", "200 OK", gzip.compress(bytes(16 << 20)), Content_Encoding="gzip")
for _name in ("deflate", "br", "zstd"):  # zeros are none of these
    status(f"{_name}_bomb", "200 OK", bytes(1000), Content_Encoding=_name)
status("gzip_members", "200 OK", gzip.compress(b"y") * 4000, Content_Encoding="gzip")
status("gzip_cut", "200 OK", gzip.compress(bytes(range(256)) * 64)[:200], Content_Encoding="gzip")
status("gzip_label", "200 OK", Content_Encoding="gzip")
status("html_as_png", "200 OK", b"<!doctype html><p>no picture", Content_Type="image/png")
status("identity", "200 OK", Content_Encoding="identity")
status("encoded_twice", "200 OK", Content_Encoding="gzip, gzip")
status("encoded_unknown", "200 OK", Content_Encoding="rot13")
status("encoded_registered", "200 OK", Content_Encoding="compress")
status("cookies", "200 OK", Set_Cookie="a=b")
status("opted_out", "200 OK", X_Robots_Tag="noimageai")
status("tdm", "200 OK", tdm_reservation="1")
status("usage", "200 OK", Content_Usage="train-ai=n")
status("noindex_gone", "404 Not Found", X_Robots_Tag="noindex")
status("for_other_bots", "200 OK", X_Robots_Tag="otherbot: noai")


class Server(ThreadServer):
    """A misbehaving server; `robots` is the behaviour, or the text with status 200, behind /robots.txt.

    `tdmrep` likewise behind /.well-known/, `ai` behind /ai.txt. With `hop` /robots.txt is redirected there.
    """

    def __init__(
        self,
        host: str = "127.0.0.2",
        robots: str = "gone",
        *,
        hop: str = "",
        tdmrep: str = "gone",
        ai: str = "gone",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__()
        self.host = host
        self.robots = robots
        self.hop = hop
        self.tdmrep = tdmrep
        self.ai = ai
        self.port = 0
        self._tls = tls
        self.accepted = 0
        self.requests: list[Request] = []

    def url(self, path: str, host: str | None = None) -> str:
        """Return the URL of a behaviour, under another name of the machine if given."""
        return f"http{'s' if self._tls else ''}://{host or self.host}:{self.port}/{path}"

    def asked(self, path: str) -> list[Request]:
        """Return the requests for a behaviour, in order."""
        return [request for request in self.requests if request.path.partition("?")[0] == f"/{path}"]

    async def serve(self) -> None:
        self._numbers = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._accept, self.host, 0, backlog=1024, ssl=self._tls)
        self.port = server.sockets[0].getsockname()[1]
        self.started.set()
        async with server:
            await self.stop.wait()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._talk(Peer(reader, writer), next(self._numbers))
        finally:
            self._tasks.discard(task)
            with contextlib.suppress(OSError):
                writer.transport.abort() if self.stop.is_set() else writer.close()

    async def _talk(self, peer: Peer, number: int) -> None:
        while True:
            head = (await peer.reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
            headers = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])
            }
            request = Request(time.monotonic(), head[0].split(" ")[1], headers, number)
            self.requests.append(request)
            keep = await self._answer(peer, request)
            if not keep or headers.get("connection") == "close":
                return

    async def _answer(self, peer: Peer, request: Request) -> bool | None:
        name = request.path[1:].partition("?")[0].partition("/")[0]
        if name == "robots.txt" and self.hop:
            return await peer.reply("301 Moved Permanently", Location=self.hop)
        rules = {"robots.txt": self.robots, ".well-known": self.tdmrep, "ai.txt": self.ai}
        if name in rules:
            name = rules[name]
            if name not in BEHAVIOURS:
                return await peer.reply(body=name.encode())
        return await BEHAVIOURS.get(name, BEHAVIOURS["gone"])(peer, request)


@contextlib.contextmanager
def refusing_port(host: str = "127.0.0.2") -> Iterator[int]:
    """Yield a port on which nobody listens."""
    with socket.socket() as taken:
        taken.bind((host, 0))
        yield taken.getsockname()[1]


def _reset(peer: Peer) -> None:
    """Close with RST instead of FIN."""
    sock = peer.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.writer.transport.abort()
