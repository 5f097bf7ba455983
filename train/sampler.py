"""Which sample stands where: a pure function of the seed, the epoch and the position in it.

Each source is an endless stream: pass after pass over its shards, each pass in another order of shards. An
epoch takes the next `weight` passes' worth, so that half an epoch's share is the other half next time; of a
source that is balanced online, it takes the epoch's own draw. The epoch is cut into windows; each takes its
proportional, consecutive part of every stream, and is shuffled as a whole. So a batch mixes all sources and
many shards, while reading touches few shards at a time. Nothing depends on the number of ranks or workers:
each takes its exact share, and a run resumes at any step.
"""

import bisect
import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray

from train.shard_sources import ShardSource

_ORDER, _WINDOW, _SAMPLE = 1, 2, 3  # keep the streams of random numbers apart
_BLOCK = 256  # positions that are seeded together


class Window(NamedTuple):
    """Hold the samples of a window in training order: source, shard and place in the shard, int32 each."""

    source: NDArray[np.int32]
    shard: NDArray[np.int32]
    place: NDArray[np.int32]


class Sampler:
    """Answer where the sample at a position of an epoch is."""

    def __init__(self, sources: Sequence[ShardSource], seed: int, window: int) -> None:
        self.sources, self.seed, self.window = sources, seed, window
        planned = max((source.epochs for source in sources), default=1)
        self.epochs = tuple(sum(source.share(epoch) for source in sources) for epoch in range(planned))
        """Samples of each epoch; the last number holds for those that follow."""
        self._starts = functools.lru_cache(maxsize=3)(self._make_starts)
        self._window = functools.lru_cache(maxsize=3)(self._make_window)
        self._order = functools.lru_cache(maxsize=2 * len(sources))(self._make_order)
        self._seeded = functools.lru_cache(maxsize=3)(self._make_seeded)

    def __reduce__(self) -> tuple[type["Sampler"], tuple[Sequence[ShardSource], int, int]]:
        """Travel to worker processes without the memory of past windows."""
        return Sampler, (self.sources, self.seed, self.window)

    def locate(self, epoch: int, position: int) -> tuple[int, int, int]:
        """Return source, shard and place in the shard of the sample at a position of an epoch."""
        starts = self._starts(epoch)
        number = bisect.bisect_right(starts, position) - 1
        window, inside = self._window(epoch, number), position - starts[number]
        return int(window.source[inside]), int(window.shard[inside]), int(window.place[inside])

    def replacement(self, epoch: int, position: int, attempt: int) -> int:
        """Return another position of the same window, to stand in for a bad sample."""
        starts = self._starts(epoch)
        number = bisect.bisect_right(starts, position) - 1
        start, stop = starts[number : number + 2]
        return int(self.random(epoch, position, attempt).integers(start, stop))

    def random(self, epoch: int, position: int, attempt: int = 0) -> np.random.Generator:
        """Return the random numbers of one sample: its crop and its choice of caption."""
        if attempt == 0 and max(self.seed, position) < 1 << 32:
            block, place = divmod(position, _BLOCK)
            seed: Any = self._seeded(epoch, block)[place]  # numpy's stub leaves out ISeedSequence
            return np.random.Generator(np.random.PCG64(seed))
        return np.random.default_rng([self.seed, _SAMPLE, epoch, position, attempt])

    def _make_seeded(self, epoch: int, block: int) -> list["_Seeded"]:
        positions = np.arange(block * _BLOCK, (block + 1) * _BLOCK, dtype=np.uint32)
        return [_Seeded(state) for state in seed_states([self.seed, _SAMPLE, epoch, positions, 0])]

    def _make_starts(self, epoch: int) -> list[int]:
        """Return the position at which each window of an epoch starts, and the epoch's end."""
        shares = [source.share(epoch) for source in self.sources]
        windows = max(1, round(sum(shares) / self.window))
        return [sum(share * k // windows for share in shares) for k in range(windows + 1)]

    def _make_order(self, source: int, turn: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return a pass's order of shards, and where each starts in the pass."""
        counts = self.sources[source].counts(turn)
        order = np.random.default_rng([self.seed, _ORDER, source, turn]).permutation(len(counts))
        return order, np.concatenate([[0], np.cumsum(counts[order])])

    def _stream(self, source: int, start: int, stop: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return shard and place of the samples `start` to `stop` of a source's endless stream."""
        count = self.sources[source].count
        parts = [
            self._pass(source, turn, max(start - turn * count, 0), min(stop - turn * count, count))
            for turn in range(start // count, -(-stop // count))
        ]
        empty = [np.empty(0, np.int32)]
        shards, places = zip(*parts, strict=True) if parts else (empty, empty)
        return np.concatenate(shards), np.concatenate(places)

    def _pass(
        self, source: int, turn: int, first: int, last: int
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return shard and place of the samples `first` to `last` of a pass over a source."""
        shards, places = [np.empty(0, np.int32)], [np.empty(0, np.int32)]
        order, starts = self._order(source, turn)
        begin, end = np.searchsorted(starts, [first, last - 1], side="right") - 1
        for slot in range(begin, end + 1):
            shard = int(order[slot])
            low, high = max(first - starts[slot], 0), min(last, starts[slot + 1]) - starts[slot]
            places.append(self.sources[source].places(shard, turn, low, high))
            shards.append(np.full(len(places[-1]), shard, np.int32))
        return np.concatenate(shards), np.concatenate(places)

    def _make_window(self, epoch: int, number: int) -> Window:
        parts, windows = [], len(self._starts(epoch)) - 1
        for index, source in enumerate(self.sources):
            share = source.share(epoch)
            start, stop = (share * k // windows for k in (number, number + 1))
            if source.balance:
                shards, places = self._pass(index, epoch, start, stop)
            else:
                shards, places = self._stream(index, epoch * share + start, epoch * share + stop)
            parts.append((np.full(len(places), index, np.int32), shards, places))
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        order = np.random.default_rng([self.seed, _WINDOW, epoch, number]).permutation(len(columns[0]))
        return Window(*(column[order] for column in columns))


class _Seeded(ISeedSequence):
    """Hand over the state that `numpy.random.SeedSequence` would."""

    def __init__(self, state: NDArray[np.uint64]) -> None:
        self.state = state

    def generate_state(self, n_words: int, dtype: Any = np.uint64) -> NDArray[np.uint64]:
        return self.state


def seed_states(entropy: Sequence[int | NDArray[np.uint32]]) -> NDArray[np.uint64]:
    """Return the four words that `SeedSequence` makes of numbers below 2^32, for many at once: [n, 4].

    NumPy takes ten times as long to make them of one after the other. M. O'Neill, "Developing a seed_seq
    alternative" (2015); NumPy keeps to the numbers of its version 1.17.
    """
    words = [np.atleast_1d(np.asarray(word, np.uint32)) for word in entropy]
    constant = 0x43B0D7E5

    def hashed(value: NDArray[np.uint32], by: int) -> NDArray[np.uint32]:
        nonlocal constant
        value = value ^ np.uint32(constant)
        constant = constant * by & 0xFFFFFFFF
        value = value * np.uint32(constant)
        return value ^ value >> np.uint32(16)

    def mix(into: int, value: NDArray[np.uint32]) -> None:
        mixed = pool[into] * np.uint32(0xCA01F9DD) - hashed(value, 0x931E8875) * np.uint32(0x4973F715)
        pool[into] = mixed ^ mixed >> np.uint32(16)

    pool = [hashed(word, 0x931E8875) for word in words[:4]]
    for source, target in itertools.permutations(range(4), 2):
        mix(target, pool[source])
    for word in words[4:]:
        for target in range(4):
            mix(target, word)
    constant = 0x8B51F9DD
    state = np.stack([hashed(pool[n % 4], 0x58F38DED) for n in range(8)], axis=1)
    return state.astype("<u4").view("<u8").astype(np.uint64)
