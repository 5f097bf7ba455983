"""Names to addresses: as many lookups at a time as requests, remembered, and an outage that is noticed.

The system's resolver is asked in threads of our own: asyncio's default executor has min(32, cores + 4), and
one slow name server fills them. With --dns-server it is asked directly (`pipeline.http.dns_client`). Dead
names are a fifth of an old URL list, so failures are remembered too, apart from answers: neither pushes the
other out.
"""

import asyncio
import logging
import socket
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Generic, Protocol, TypeVar

from aiohttp.abc import AbstractResolver, ResolveResult

from pipeline.http import dns_client, fd_limits
from pipeline.http.dns_client import Answer, UnansweredError
from pipeline.options import FetchOptions
from pipeline.options.fetch import split_address

_LOG = logging.getLogger(__name__)

MAX_ANSWERS: Final = 8
"""Addresses tried of one name; an answer with a thousand would use up the time."""

FOUND_SECONDS: Final = 300.0
FAILED_SECONDS: Final = 60.0

WINDOW: Final = 200
"""Number of last lookups that an outage is judged by: an outage if too many of them got no answer at all."""

FIRST_WINDOW: Final = 20
"""The same at the start, for lists of few names and for a run that never had a name server."""

CONTROL: Final = "example.com"
"""Asked in case of doubt: IANA keeps it (RFC 2606), so without an answer the fault is on our side."""

CONTROL_TRIES: Final = 12
CONTROL_SECONDS: Final = 5.0
"""Between two tries: an outage of a minute is waited out, a longer outage ends the run."""

Value = TypeVar("Value")
Key = tuple[str, int]
Lookup = Callable[[str, socket.AddressFamily], Answer]


class OutageError(Exception):
    """No name server answers any more; fetches in the meantime would fail for nothing."""


class NameSource(Protocol):
    """Who is asked for names."""

    async def ask(self, host: str, family: socket.AddressFamily) -> Answer:
        """Return addresses; OSError if there are none, UnansweredError (an OSError) if no server answers."""

    def close(self) -> None:
        """Drop the waiting lookups."""


def lookup(host: str, family: socket.AddressFamily) -> Answer:
    """Return (family, numeric address) pairs by the system's resolver; OSError if there are none."""
    try:
        found = socket.getaddrinfo(
            host.encode("ascii"), None, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
        )
    except ValueError as error:  # UnicodeError among them
        raise OSError(f"not a host name: {error}") from None
    except socket.gaierror as error:
        if error.errno == socket.EAI_AGAIN:
            raise UnansweredError(error.strerror or str(error)) from error
        raise
    return tuple((kind, str(address[0])) for kind, _, _, _, address in found)


class Threads:
    """Blocking lookups, `threads` at a time; those under way at the end finish by themselves."""

    def __init__(self, threads: int, lookup: Lookup = lookup) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="openwit-dns")
        self._lookup = lookup

    async def ask(self, host: str, family: socket.AddressFamily) -> Answer:
        """Look up in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._lookup, host, family)

    def close(self) -> None:
        """Drop the waiting lookups."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def source(options: FetchOptions, instead: Lookup | None = None) -> NameSource:
    """Return who is asked for names."""
    if instead is None and options.dns_server:
        return dns_client.DnsClient([split_address(text) for text in options.dns_server])
    return Threads(fd_limits.lookups_at_once(options), instead or lookup)


class Resolver(AbstractResolver):
    """Resolve for the scheduler and aiohttp's connector; never an empty list, on which that would fail.

    Whether an address may be used is not asked here but where the socket is made (`address_policy`). Each
    cache holds `max_names`, some 400 bytes each; units are cut by site, so a name that was pushed out is
    hardly ever asked for again, however many millions of names a crawl has.
    """

    def __init__(
        self,
        source: NameSource,
        *,
        at_once: int = 64,
        max_failures: float = 0.5,
        max_names: int = 100_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._places = asyncio.Semaphore(at_once)
        self._max_failures = max_failures
        self._clock = clock
        self._found: _Cache[Answer] = _Cache(max_names, FOUND_SECONDS)
        self._failed: _Cache[str] = _Cache(max_names, FAILED_SECONDS)
        self._running: dict[Key, asyncio.Task[Answer | str]] = {}
        self._unanswered: deque[bool] = deque(maxlen=WINDOW)
        self._window = FIRST_WINDOW
        self._healthy = asyncio.Event()
        self._healthy.set()
        self._check: asyncio.Task[None] | None = None
        self._outage = ""

    def known(self, host: str, family: int = socket.AF_UNSPEC) -> Answer | str | None:
        """Return the cached answer for a name: addresses, why there are none, or None."""
        key, now = (host, int(family)), self._clock()
        return self._found.get(key, now) or self._failed.get(key, now)

    async def find(self, host: str, family: int = socket.AF_UNSPEC) -> Answer | str:
        """Return addresses, at most MAX_ANSWERS, or why there are none; raises OutageError."""
        answer = self.known(host, family)
        return await self._ask((host, int(family))) if answer is None else answer

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return at most MAX_ANSWERS addresses; raises OSError, from the cache too."""
        answer = await self.find(host, family)
        if isinstance(answer, str):
            raise OSError(answer)
        return [
            ResolveResult(
                hostname=host, host=ip, port=port, family=kind, proto=0, flags=socket.AI_NUMERICHOST
            )
            for kind, ip in answer
        ]

    async def close(self) -> None:
        """Drop the waiting lookups."""
        tasks = [task for task in (*self._running.values(), self._check) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._source.close()

    async def _ask(self, key: Key) -> Answer | str:
        if key not in self._running:
            self._running[key] = asyncio.create_task(self._look_up(key))
        return await asyncio.shield(self._running[key])  # one who gives up leaves the answer to the others

    async def _look_up(self, key: Key) -> Answer | str:
        unanswered = False
        answer: Answer | str
        try:
            async with self._places:
                await self._until_healthy()
                answer = (await self._source.ask(key[0], socket.AddressFamily(key[1])))[:MAX_ANSWERS]
                answer = answer or "no addresses"
        except OSError as error:
            unanswered = isinstance(error, UnansweredError)
            answer = error.strerror or str(error) or type(error).__name__
        finally:
            del self._running[key]
        if isinstance(answer, str):
            self._failed.put(key, answer, self._clock())
        else:
            self._found.put(key, answer, self._clock())
        self._count(unanswered)
        if unanswered:  # in an outage no verdict on the name
            await self._until_healthy()
        return answer

    async def _until_healthy(self) -> None:
        """Wait while an outage is looked into; raises OutageError if it is real."""
        await self._healthy.wait()
        if self._outage:
            raise OutageError(self._outage)

    def _count(self, unanswered: bool) -> None:
        """Look into it when too many of the last lookups got no answer, not even that there is no name."""
        self._unanswered.append(unanswered)
        count = len(self._unanswered)
        share = sum(self._unanswered) / count
        if count >= self._window and self._healthy.is_set() and share > self._max_failures:
            self._healthy.clear()
            self._check = asyncio.create_task(self._ask_control(share, count))

    async def _ask_control(self, share: float, count: int) -> None:
        """Hold all lookups until the control name is answered, or give up.

        Names whose own servers are dead get no answer either, so their share alone does not tell.
        """
        said = f"{100 * share:.0f}% of the last {count} names got no answer"
        for attempt in range(CONTROL_TRIES):
            if attempt:
                await asyncio.sleep(CONTROL_SECONDS)
            if await self._is_answered(CONTROL):
                break
            if not attempt:
                _LOG.warning("%s, nor did %s: waiting for the name servers", said, CONTROL)
        else:
            self._outage = (
                f"{said}, nor did {CONTROL} for a minute: check the name servers, or name others with "
                "--dns-server; the same command then continues"
            )
        self._unanswered.clear()
        self._window = WINDOW
        self._healthy.set()

    async def _is_answered(self, host: str) -> bool:
        try:
            await self._source.ask(host, socket.AF_UNSPEC)
        except OSError as error:
            return not isinstance(error, UnansweredError)
        return True


class _Cache(Generic[Value]):
    """Values for a while, the oldest forgotten first."""

    def __init__(self, size: int, seconds: float) -> None:
        self._size = size
        self._seconds = seconds
        self._values: OrderedDict[Key, tuple[float, Value]] = OrderedDict()

    def get(self, key: Key, now: float) -> Value | None:
        found = self._values.get(key)
        return found[1] if found is not None and now < found[0] else None

    def put(self, key: Key, value: Value, now: float) -> None:
        self._values[key] = (now + self._seconds, value)
        self._values.move_to_end(key)
        if len(self._values) > self._size:
            self._values.popitem(last=False)
