"""A server for tests, in an event loop and thread of its own."""

import asyncio
import contextlib
import threading
from typing import Self


class ThreadServer:
    """Run `serve` while a `with` block takes; it sets `started` when it listens, and waits for `stop`."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.started = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self.started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.stop.set)
        self._thread.join(10)

    def _work(self) -> None:
        with contextlib.closing(self.loop):
            self.loop.run_until_complete(self._begin())

    async def _begin(self) -> None:
        self.stop = asyncio.Event()
        await self.serve()

    async def serve(self) -> None:
        raise NotImplementedError
