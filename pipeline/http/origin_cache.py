"""A cache of values by authority (scheme, host, port), limited in time and size."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

CACHE_SECONDS: Final = 24 * 3600.0
"""For how long rules stand; RFC 9309, section 2.4: not longer than 24 hours."""

RETRY_SECONDS: Final = 600.0
"""For how long an answer that was no answer stands."""

Value = TypeVar("Value")


class AuthorityCache(Generic[Value]):
    """Values by authority, least recently used ones forgotten first.

    `keep` returns for how many seconds a value stands and its weight in characters; `max_characters` bounds
    the sum. Parsed rules take some ten times that in memory.
    """

    def __init__(
        self,
        keep: Callable[[Value], tuple[float, int]],
        max_authorities: int = 50_000,
        max_characters: int = 8 << 20,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keep = keep
        self._max_authorities = max_authorities
        self._max_characters = max_characters
        self._clock = clock
        self._characters = 0
        self._values: OrderedDict[str, tuple[float, int, Value]] = OrderedDict()
        self._loading: dict[str, asyncio.Event] = {}

    def known(self, authority: str) -> Value | None:
        """Return the value of `authority` if it was loaded and is not too old."""
        found = self._values.get(authority)
        if found is None:
            return None
        expires, _, value = found
        if self._clock() >= expires:
            self._forget(authority)
            return None
        self._values.move_to_end(authority)
        return value

    async def get(self, authority: str, load: Callable[[], Awaitable[Value]]) -> Value:
        """Return the value of `authority`, from `load` if need be; anyone who asks meanwhile waits for it."""
        while (value := self.known(authority)) is None:
            if (loading := self._loading.get(authority)) is not None:
                await loading.wait()
                continue  # if that request was cancelled, one of the waiting takes over
            self._loading[authority] = asyncio.Event()
            try:
                value = await load()
                self._remember(authority, value)
                return value
            finally:
                self._loading.pop(authority).set()
        return value

    def _remember(self, authority: str, value: Value) -> None:
        seconds, size = self._keep(value)
        self._values[authority] = (self._clock() + seconds, size, value)
        self._characters += size
        while len(self._values) > self._max_authorities or self._characters > self._max_characters:
            self._forget(next(iter(self._values)))

    def _forget(self, authority: str) -> None:
        self._characters -= self._values.pop(authority)[1]
