"""A budget of bytes that many fetches share."""

import asyncio
import contextlib
from collections import deque


class Memory:
    """Bytes of bodies held by all units of an event loop, at most `limit`.

    A body of declared length is reserved whole before it is read, first come first served, so whoever holds
    some can finish. New requests start only while less than half is held: then those in flight rarely wait.
    """

    def __init__(self, limit: int) -> None:
        self.held = 0
        self.limit = limit
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._room = asyncio.Event()
        self._room.set()

    async def room(self) -> None:
        """Return when a new request may start."""
        await self._room.wait()

    async def reserve(self, size: int) -> None:
        """Return when `size` bytes, at most `limit`, are reserved."""
        assert size <= self.limit
        if not self._queue and self.try_reserve(size):
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (size, granted)
        self._queue.append(entry)
        try:
            await granted
        except asyncio.CancelledError:
            with contextlib.suppress(ValueError):
                self._queue.remove(entry)
            self.release(0 if granted.cancelled() else size)
            raise

    def try_reserve(self, size: int) -> bool:
        """Reserve `size` bytes if there are so many."""
        if self.held + size > self.limit:
            return False
        self._add(size)
        return True

    def release(self, size: int) -> None:
        """Give `size` bytes back and let those go on who wait for them."""
        self._add(-size)
        while self._queue and (self._queue[0][1].done() or self.try_reserve(self._queue[0][0])):
            size, granted = self._queue.popleft()
            if not granted.done():
                granted.set_result(None)

    def _add(self, size: int) -> None:
        self.held += size
        assert 0 <= self.held <= self.limit
        if self.held < self.limit // 2:
            self._room.set()
        else:
            self._room.clear()
