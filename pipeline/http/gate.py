"""The conditions a fetch waits for: its turn and memory, which the caller imposes, and its own time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
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
