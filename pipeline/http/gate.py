"""The conditions a fetch waits for: its turn and memory, which the caller imposes, and its own time."""

import asyncio
from types import TracebackType
from typing import Protocol


class Gate(Protocol):
    """The caller's conditions for a fetch: its turn at the site, and memory."""

    async def request(self) -> None:
        """Return when a request may be sent; called before each, robots.txt and redirects included."""

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


class Stopwatch:
    """Seconds left of a URL's time, running only while the network is waited for."""

    def __init__(self, seconds: float) -> None:
        self.left = seconds

    def running(self) -> "_Running":
        """Return a context manager that raises TimeoutError in its block when the time is used up."""
        return _Running(self)


class _Running:
    def __init__(self, watch: Stopwatch) -> None:
        self._watch, self._clock = watch, asyncio.get_running_loop().time

    async def __aenter__(self) -> None:
        self._started = self._clock()
        self._timeout = asyncio.timeout_at(self._started + self._watch.left)
        await self._timeout.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, error, trace)
        finally:
            self._watch.left -= self._clock() - self._started
