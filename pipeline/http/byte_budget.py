"""Limits that many fetches share: a budget of bytes, and a number of answers in flight."""

import asyncio
import contextlib
from collections import deque
from typing import Final

_FEWEST: Final = 16
"""Answers that may be under way or waiting, even if the caller takes long for each."""

_AHEAD: Final = 0.25
"""Seconds of the caller's work that may wait for it."""

_REMEMBERED: Final = 50  # answers, over which times are averaged


class Memory:
    """Bytes of bodies held by all units of an event loop, at most `limit`.

    A body of declared length is reserved whole before it is read, first come first served, so anyone who
    holds some can finish. New requests start only while less than half is held: then those in flight rarely
    wait.
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
        """Reserve `size` bytes if there are that many."""
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


class AnswersInFlight:
    """The answers that were asked for and not dealt with yet: enough to keep the caller busy, and not more.

    An answer that waits to be decoded is lost if the process ends, and would be asked for again. So, by
    Little's law, as many requests are let out as the caller deals with in an answer's time on the network,
    and a quarter of a second more; at most `most`.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = min(_FEWEST, most)
        self._out = 0
        self._work = self._network = 0.0  # mean seconds an answer
        self._seen = 0
        self._room = asyncio.Event()
        self._room.set()

    async def room(self) -> None:
        """Return when one more may be asked for."""
        await self._room.wait()

    def enter(self) -> None:
        """Count an answer that is asked for, or given without asking."""
        self._out += 1
        self._set()

    def leave(self) -> None:
        """Count an answer that was dealt with, or that will never come."""
        self._out -= 1
        self._set()

    def learn(self, work: float, network: float) -> None:
        """Note how long one took, in seconds: the caller, and the network.

        The first answer should have a body: times of answers without a body say nothing on those that have.
        """
        self._seen = min(self._seen + 1, _REMEMBERED)
        self._work += (work - self._work) / self._seen
        self._network += (network - self._network) / self._seen
        wanted = (self._network + _AHEAD) / max(self._work, 1e-6)
        self._limit = min(max(_FEWEST, int(wanted)), self._most)
        self._set()

    def _set(self) -> None:
        if self._out < self._limit:
            self._room.set()
        else:
            self._room.clear()
