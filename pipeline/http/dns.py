"""Names to addresses: blocking lookups in threads of our own, with a cache that also remembers failures.

asyncio's default executor has min(32, cores + 4) threads; one slow name server fills them, and every fetch
waits for names. Dead names are a fifth of an old URL list, so failures are cached too.
"""

import asyncio
import socket
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from aiohttp.abc import AbstractResolver, ResolveResult

MAX_ANSWERS: Final = 8
"""Addresses tried of one name; an answer with a thousand would use up the time."""

FOUND_SECONDS: Final = 300.0
FAILED_SECONDS: Final = 60.0

Answer = tuple[tuple[socket.AddressFamily, str], ...]
Lookup = Callable[[str, socket.AddressFamily], Answer]


def lookup(host: str, family: socket.AddressFamily) -> Answer:
    """Return (family, numeric address) pairs by the system's resolver; OSError if there are none."""
    try:
        found = socket.getaddrinfo(
            host.encode("ascii"), None, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
        )
    except ValueError as error:  # UnicodeError among them
        raise OSError(f"not a host name: {error}") from None
    return tuple((kind, str(address[0])) for kind, _, _, _, address in found)


class Resolver(AbstractResolver):
    """Resolve for aiohttp's connector; never returns an empty list, on which the connector would fail.

    Whether an address may be used is not asked here but where the socket is made (`pipeline.http.policy`).
    """

    def __init__(
        self,
        threads: int,
        max_names: int = 100_000,
        lookup: Lookup = lookup,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="openwit-dns")
        self._max_names = max_names
        self._lookup = lookup
        self._clock = clock
        self._answers: OrderedDict[tuple[str, int], tuple[float, Answer | str]] = OrderedDict()
        self._running: dict[tuple[str, int], asyncio.Future[Answer | str]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return at most MAX_ANSWERS addresses; raises OSError, from the cache too."""
        key = (host, int(family))
        expires, answer = self._answers.get(key, (0.0, ""))
        if self._clock() >= expires:
            answer = await self._ask(key)
        if isinstance(answer, str):
            raise OSError(answer)
        return [
            ResolveResult(
                hostname=host, host=ip, port=port, family=kind, proto=0, flags=socket.AI_NUMERICHOST
            )
            for kind, ip in answer
        ]

    async def close(self) -> None:
        """Drop what waits; lookups under way end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _ask(self, key: tuple[str, int]) -> Answer | str:
        running = self._running.get(key)
        if running is None:
            loop = asyncio.get_running_loop()
            running = loop.run_in_executor(self._threads, self._try, key)
            self._running[key] = running
            running.add_done_callback(lambda done: self._store(key, done))
        return await asyncio.shield(running)  # one who gives up must not take the answer from the others

    def _try(self, key: tuple[str, int]) -> Answer | str:
        host, family = key
        try:
            return self._lookup(host, socket.AddressFamily(family))[:MAX_ANSWERS] or "no addresses"
        except OSError as error:
            return error.strerror or str(error) or type(error).__name__

    def _store(self, key: tuple[str, int], done: "asyncio.Future[Answer | str]") -> None:
        del self._running[key]
        if done.cancelled():
            return
        answer = done.result()
        seconds = FAILED_SECONDS if isinstance(answer, str) else FOUND_SECONDS
        self._answers[key] = (self._clock() + seconds, answer)
        self._answers.move_to_end(key)
        if len(self._answers) > self._max_names:
            self._answers.popitem(last=False)
