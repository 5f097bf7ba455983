"""The results of each finished stage of a crawl, where later stages and commands find its tables."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from pipeline.candidates.parts import JudgedPiece
from pipeline.fetch.parts import Fetched, Round
from pipeline.run_folder import Stage
from pipeline.select.parts import Deduplicated, Samples


@dataclass(frozen=True, kw_only=True)
class Candidates(Stage):
    """All pieces of the sources, judged."""

    stage: ClassVar[str] = "candidates"
    pieces: tuple[JudgedPiece, ...]
    images: int
    candidates: int
    rows: int
    reasons: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Selected(Stage):
    """The samples that may be fetched."""

    stage: ClassVar[str] = "select"
    deduplicated: tuple[Deduplicated, ...]
    samples: tuple[Samples, ...]
    count: int
    """Of samples."""
    reasons: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Rounds(Stage):
    """All that was fetched."""

    stage: ClassVar[str] = "fetch"
    rounds: tuple[Round, ...]

    @property
    def last(self) -> int:
        """Return the number of the last round."""
        return len(self.rounds) - 1

    @property
    def units(self) -> Iterator[Fetched]:
        """Yield the units of all rounds."""
        for one in self.rounds:
            yield from one.units


@dataclass(frozen=True, kw_only=True)
class Finished(Stage):
    """The set is whole."""

    stage: ClassVar[str] = "finish"
    samples: int
    captions: int
