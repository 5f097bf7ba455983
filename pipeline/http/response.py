"""Judge an answer: status, opt-outs, encoding and length are judged before the body is read."""

import asyncio
from typing import Final, NamedTuple

import aiohttp

from pipeline.http import codings, errors, optout
from pipeline.http.gate import Gate, Stopwatch
from pipeline.http.rate_limit import retry_after
from pipeline.options import FetchOptions
from pipeline.rights.link_header import MAX_HEADER

REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})

_DRAINED: Final = 16 << 10  # bytes of an error's body worth reading in order to keep the connection
_FIRST_RESERVE: Final = 64 << 10  # bytes, for an image of undeclared length


class Reply(NamedTuple):
    """The answer to one request, as far as it was read; `redirect` is a Location header."""

    reason: str = ""
    detail: str = ""
    status: int = 0
    body: bytes = b""
    content_type: str = ""
    retry_after: float | None = None
    redirect: str | None = None
    links: str = ""
    """The header Link, as far as it may speak of licences."""


class Reader:
    """Read answers within the limits of `options`; the caller closes an answer not read to its end."""

    def __init__(self, options: FetchOptions) -> None:
        self._options = options
        self._unpacking = asyncio.Lock()  # a body at a time: its unpacked size counts in no budget until then

    async def image(self, response: aiohttp.ClientResponse, gate: Gate, watch: Stopwatch) -> Reply:
        """Read the body of everything that was asked for, an image or a page, if nothing speaks against
        it."""
        status, headers = response.status, response.headers
        reply = Reply(status=status, content_type=headers.get("Content-Type", "")[:200])
        if status == 200 or status in REDIRECTS:
            refusal = optout.check_headers(headers.items(), self._options.opt_out)
            if refusal is not None:
                return reply._replace(reason=refusal.reason, detail=refusal.detail[:300])
        if status != 200:
            await _drain(response, watch)
            if status in REDIRECTS:
                return reply._replace(redirect=headers.get("Location", ""))
            wait = retry_after(headers.get("Retry-After"), headers.get("Date"))
            return reply._replace(reason=errors.of_status(status), detail=f"HTTP {status}", retry_after=wait)
        limit = self._options.max_bytes
        declared = response.content_length
        if (declared or 0) > limit:
            return reply._replace(reason="too_large", detail=f"{declared} bytes declared")
        await gate.reserve(_FIRST_RESERVE if declared is None else declared)
        reason, detail, body = await self._body(response, gate, watch, limit)
        if not reason and (encodings := codings.named(headers.getall("Content-Encoding", []))):
            plain, detail = await self._undone(body, encodings, limit)
            reason = "bad_encoding" if detail else "" if plain else "empty_body"
            if not reason and not gate.received(max(0, len(plain) - len(body))):
                reason, detail = "deferred", "no memory for more bodies at the moment"
            body = plain
        links = "" if reason or "Link" not in headers else _links(headers.getall("Link"))
        return reply._replace(reason=reason, detail=detail[:300], body=b"" if reason else body, links=links)

    async def site_file(
        self, response: aiohttp.ClientResponse, gate: Gate, watch: Stopwatch, *, limit: int
    ) -> Reply:
        """Read a file of rules, such as robots.txt; of a long file, unless compressed, `limit` bytes."""
        status, headers = response.status, response.headers
        if status in REDIRECTS:
            await _drain(response, watch)
            return Reply(status=status, redirect=headers.get("Location", ""))
        if not 200 <= status < 300:
            await _drain(response, watch)
            return Reply(status=status)
        await gate.reserve(limit)
        reason, detail, body = await self._body(response, gate, watch, limit)
        if reason in ("too_large", "empty_body"):
            reason = ""
        encodings = codings.named(headers.getall("Content-Encoding", []))
        if encodings and body and not reason:
            plain, problem = await self._undone(body, encodings, limit)
            if problem and not _is_text(body):  # else it is as it should be: not encoded at all
                return Reply("bad_encoding", problem[:100], status)
            body = body if problem else plain
        return Reply(reason, detail, status, body)

    async def _undone(self, body: bytes, encodings: list[str], limit: int) -> tuple[bytes, str]:
        """Return `codings.undo`, off the loop: megabytes take tens of milliseconds."""
        async with self._unpacking:
            return await asyncio.to_thread(codings.undo, body, encodings, limit)

    async def _body(
        self, response: aiohttp.ClientResponse, gate: Gate, watch: Stopwatch, limit: int
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
                if seconds > self._options.read_timeout and size < self._options.min_rate * seconds:
                    return "too_slow", f"{size} bytes in {seconds:.1f} s", b""
        return "" if size else "empty_body", "", b"".join(chunks)


def _links(values: list[str]) -> str:
    """Return the headers that may speak of licences, joined."""
    found = (value for value in values if "license" in value.lower())
    return ", ".join(found)[:MAX_HEADER].encode("utf-8", "replace").decode()


def _is_text(body: bytes) -> bool:
    """Return whether a file of rules is readable as it is: UTF-8 without control characters."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        return False
    return not any(ord(c) < 32 and c not in "\t\n\f\r" for c in text)


async def _drain(response: aiohttp.ClientResponse, watch: Stopwatch) -> None:
    """Read a small declared body that nobody wants: cheaper for both sides than a new connection."""
    if response.content_length is not None and response.content_length <= _DRAINED:
        async with watch.running():
            await response.read()
