"""Mutation fuzzing: damage good inputs in seeded ways, and check that a parser only ever does things it may.

A target has seeds, words worth inserting, and a check that raises when something is wrong. The same target
has the same inputs every time; FUZZ_SCALE multiplies their number (`make fuzz` sets it).
"""

import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

SCALE: Final = int(os.environ.get("FUZZ_SCALE", "1"))
_MOST: Final = 1 << 16  # bytes of an input, but for seeds that are larger themselves
_NUMBERS: Final = (
    b"0",
    b"-1",
    b"1e999",
    b"65536",
    b"2147483648",
    b"9" * 30,
    b"\x00\x00\x00\x00",
    b"\xff\xff\xff\xff",
)


@dataclass(frozen=True, kw_only=True)
class Target:
    """A parser of strangers' bytes."""

    name: str
    check: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...] = ()
    rounds: int
    """Inputs at FUZZ_SCALE 1."""


def mutate(rng: random.Random, data: bytes, seeds: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """Return the input after one to eight changes."""
    limit = max(_MOST, len(data))
    for _ in range(rng.choice((1, 1, 2, 3, 5, 8))):
        at = rng.randrange(len(data) + 1)
        size = min(rng.choice((1, 2, 4, 16, 256)), len(data) - at)
        match rng.randrange(9):
            case 0 if size:  # flip a bit
                data = data[:at] + bytes((data[at] ^ 1 << rng.randrange(8),)) + data[at + 1 :]
            case 1:  # insert anything
                data = data[:at] + rng.randbytes(rng.choice((1, 2, 8, 64))) + data[at:]
            case 2:  # leave out
                data = data[:at] + data[at + size :]
            case 3:  # repeat
                data = data[:at] + data[at : at + size] * rng.choice((2, 3, 50)) + data[at + size :]
            case 4 if words:
                data = data[:at] + rng.choice(words) + data[at:]
            case 5:
                data = data[:at] + rng.choice(_NUMBERS) + data[at + size :]
            case 6:  # cut
                data = data[:at] if rng.random() < 0.5 else data[at:]
            case 7:  # cross with another
                other = rng.choice(seeds)
                data = data[:at] + other[rng.randrange(len(other) + 1) :]
            case _:  # overwrite
                data = data[:at] + rng.randbytes(size) + data[at + size :]
        data = data[:limit]
    return data


def inputs(target: Target, scale: int = SCALE) -> Iterator[tuple[int, bytes]]:
    """Yield (number, input): the seeds as they are, then mutations; each follows from its number alone."""
    yield from enumerate(target.seeds)
    for number in range(len(target.seeds), len(target.seeds) + target.rounds * scale):
        rng = random.Random(f"{target.name}/{number}")
        yield number, mutate(rng, rng.choice(target.seeds), target.seeds, target.words)


def run(target: Target, scale: int = SCALE) -> int:
    """Check every input; AssertionError shows the input that failed. Return how many there were."""
    count = 0
    for number, data in inputs(target, scale):
        try:
            target.check(data)
        except Exception as error:
            shown = data if len(data) <= 2000 else data[:2000] + b"..."
            raise AssertionError(f"{target.name}, input {number} ({len(data)} bytes): {shown!r}") from error
        count += 1
    return count
