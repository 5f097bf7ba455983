"""An event loop in a thread of its own, for callers that are not asynchronous: Beam's workers.

Results come to the calling thread as it asks for them, so that images are decoded there; bodies that wait
count against the pool's memory, and no new request starts while too many do.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from queue import SimpleQueue
from typing import Final

from pipeline.http import dns, fd_limits
from pipeline.http.byte_budget import AnswersInFlight
from pipeline.http.fetch_url import Fetcher, LinkedTerms, Outcome
from pipeline.http.scheduler import Counts, SharedLimits, fetch_many
from pipeline.options import FetchOptions

_Item = tuple[object, Outcome]
_AT_ONCE: Final = 4
"""Answers that were dealt with before the loop, which is woken for it, is told."""


class FetchLoop:
    """One HTTP client in one thread; several threads may `run` units at once. Close it, or use `with`."""

    def __init__(self, options: FetchOptions, lookup: dns.Lookup | None = None) -> None:
        self._options = options
        self._lookup = lookup
        self._loop = _new_loop()
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._has_body = False  # whether an answer with a body was dealt with
        self._thread = threading.Thread(target=self._work, name="openwit-fetch", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            raise self._error

    def __enter__(self) -> "FetchLoop":
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def run(
        self,
        rows: Iterable[tuple[object, str]],
        *,
        shares: Mapping[str, float] | None = None,
        deadline: float | None = None,
        counts: Counts | None = None,
        terms: Mapping[object, LinkedTerms] | None = None,
    ) -> Iterator[_Item]:
        """Yield (key, outcome) for each (key, URL), in the order they finish; see `fetch_many`.

        `counts`, if given, is complete when the iteration is. Leaving it early cancels the fetches that are
        under way.
        """
        if self._loop.is_closed():
            raise RuntimeError("this FetchLoop is closed")
        rows = list(rows)  # read here: the caller's iterator may not be moved to another thread
        queue: SimpleQueue[_Item | asyncio.Task[Counts]] = SimpleQueue()
        tasks: list[asyncio.Task[Counts]] = []

        def begin() -> None:
            work = fetch_many(
                self._fetcher,
                rows,
                lambda key, outcome: queue.put((key, outcome)),
                shares=shares,
                deadline=deadline,
                counts=counts,
                pool=self._pool,
                terms=terms,
            )
            tasks.append(self._loop.create_task(work))
            tasks[0].add_done_callback(queue.put)  # the last item, however the task ends

        self._loop.call_soon_threadsafe(begin)
        item = None
        done: list[tuple[Outcome, float | None]] = []
        try:
            while True:
                if len(done) >= _AT_ONCE or queue.empty():
                    self._release(done)
                if isinstance(item := queue.get(), asyncio.Task):
                    break
                started = time.monotonic()
                try:
                    yield item
                finally:
                    done.append((item[1], time.monotonic() - started))
            item.result()
        finally:
            if not isinstance(item, asyncio.Task):
                self._loop.call_soon_threadsafe(lambda: tasks[0].cancel())
                while not isinstance(item := queue.get(), asyncio.Task):
                    done.append((item[1], None))
            self._release(done)

    def close(self) -> None:
        """Stop the loop and wait for its thread; units under way fail."""
        if not self._loop.is_closed():
            with contextlib.suppress(RuntimeError):  # it closed meanwhile
                self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def _release(self, done: list[tuple[Outcome, float | None]]) -> None:
        """Let others take the places of answers, each with the seconds that the caller needed for it."""
        if done:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                self._loop.call_soon_threadsafe(self._dealt_with, done[:])
            done.clear()

    def _dealt_with(self, done: list[tuple[Outcome, float | None]]) -> None:
        for outcome, seconds in done:
            self._pool.memory.release(len(outcome.body))
            self._window.leave()
            self._has_body |= bool(outcome.body)
            if seconds is not None and self._has_body and outcome.elapsed:
                self._window.learn(seconds, outcome.elapsed)

    def _work(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits for the start
            self._error = error
        finally:
            self._loop.close()
            self._ready.set()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        async with Fetcher(self._options, self._lookup) as self._fetcher:
            self._window = AnswersInFlight(fd_limits.requests_at_once(self._options))
            self._pool = SharedLimits(self._options, self._window)
            self._ready.set()
            await self._stop.wait()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)


def _new_loop() -> asyncio.AbstractEventLoop:
    """Return uvloop's loop where it is installed: half the CPU time a request."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    make: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return make()
