"""Which sample stands where: a pure function of the seed, the epoch and the position in it.

Each source is an endless stream: pass after pass over its shards, each pass in another order of shards. An
epoch takes the next `weight` passes' worth, so that half an epoch's share is the other half next time. The
epoch is cut into windows; each takes its proportional, consecutive part of every stream, and is shuffled as a
whole. So a batch mixes all sources and many shards, while reading touches few shards at a time. Nothing
depends on the number of ranks or workers: each takes its exact share, and a run resumes at any step.
"""

import bisect
import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from train.shard_sources import ShardSource

_ORDER, _WINDOW, _SAMPLE = 1, 2, 3  # keep the streams of random numbers apart


class Window(NamedTuple):
    """Hold the samples of a window in training order: source, shard and place in the shard, int32 each."""

    source: NDArray[np.int32]
    shard: NDArray[np.int32]
    place: NDArray[np.int32]


class Sampler:
    """Answer where the sample at a position of an epoch is."""

    def __init__(self, sources: Sequence[ShardSource], seed: int, window: int) -> None:
        self.sources, self.seed, self.window = sources, seed, window
        self.epoch_samples = sum(source.share for source in sources)
        self.windows = max(1, round(self.epoch_samples / window))
        self._starts = [
            sum(source.share * k // self.windows for source in sources) for k in range(self.windows + 1)
        ]
        self._window = functools.lru_cache(maxsize=3)(self._make_window)
        self._order = functools.lru_cache(maxsize=2 * len(sources))(self._make_order)

    def __reduce__(self) -> tuple[type["Sampler"], tuple[Sequence[ShardSource], int, int]]:
        """Travel to worker processes without the memory of past windows."""
        return Sampler, (self.sources, self.seed, self.window)

    def locate(self, epoch: int, position: int) -> tuple[int, int, int]:
        """Return source, shard and place in the shard of the sample at a position of an epoch."""
        number = bisect.bisect_right(self._starts, position) - 1
        window, inside = self._window(epoch, number), position - self._starts[number]
        return int(window.source[inside]), int(window.shard[inside]), int(window.place[inside])

    def replacement(self, epoch: int, position: int, attempt: int) -> int:
        """Return another position of the same window, to stand in for a bad sample."""
        number = bisect.bisect_right(self._starts, position) - 1
        start, stop = self._starts[number : number + 2]
        return int(self.random(epoch, position, attempt).integers(start, stop))

    def random(self, epoch: int, position: int, attempt: int = 0) -> np.random.Generator:
        """Return the random numbers of one sample: its crop and its choice of caption."""
        return np.random.default_rng([self.seed, _SAMPLE, epoch, position, attempt])

    def _make_order(self, source: int, turn: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return a pass's order of shards, and where each starts in the pass."""
        counts = np.array([shard.count for shard in self.sources[source].shards], np.int64)
        order = np.random.default_rng([self.seed, _ORDER, source, turn]).permutation(len(counts))
        return order, np.concatenate([[0], np.cumsum(counts[order])])

    def _stream(self, source: int, start: int, stop: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return shard and place of the samples `start` to `stop` of a source's endless stream."""
        count = self.sources[source].count
        shards, places = [], []
        for turn in range(start // count, -(-stop // count)):
            order, starts = self._order(source, turn)
            first, last = max(start - turn * count, 0), min(stop - turn * count, count)
            begin, end = np.searchsorted(starts, [first, last - 1], side="right") - 1
            for slot in range(begin, end + 1):
                shard = int(order[slot])
                low, high = max(first - starts[slot], 0), min(last, starts[slot + 1]) - starts[slot]
                kept = self.sources[source].shards[shard].kept
                places.append(np.arange(low, high, dtype=np.int32) if kept is None else kept[low:high])
                shards.append(np.full(high - low, shard, np.int32))
        empty = [np.empty(0, np.int32)]
        return np.concatenate(shards or empty), np.concatenate(places or empty)

    def _make_window(self, epoch: int, number: int) -> Window:
        parts = []
        for index, source in enumerate(self.sources):
            base = epoch * source.share
            start, stop = (base + source.share * k // self.windows for k in (number, number + 1))
            shards, places = self._stream(index, start, stop)
            parts.append((np.full(len(places), index, np.int32), shards, places))
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        order = np.random.default_rng([self.seed, _WINDOW, epoch, number]).permutation(len(columns[0]))
        return Window(*(column[order] for column in columns))
