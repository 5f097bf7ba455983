"""Which fields of a sample's JSON hold its captions, and how often each is drawn.

A caption of the web and a caption that a model wrote are best mixed: each epoch draws one again.
"""

import itertools
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

TEXT = "txt"
"""The name of the text member, which is no field."""


@dataclass(frozen=True)
class CaptionFields:
    """Hold fields' names and weights; none means the captions that openwit's own shards have, all alike."""

    weights: tuple[tuple[str, float], ...] = ()

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> "CaptionFields":
        """Read NAME or NAME=WEIGHT arguments; ValueError for anything else."""
        found: dict[str, float] = {}
        for argument in arguments:
            name, equals, weight = argument.partition("=")
            try:
                value = float(weight) if equals else 1.0
            except ValueError:
                value = math.nan
            if not name or name in found or not 0 <= value < math.inf:
                raise ValueError(
                    f"--captions {argument}: give NAME=WEIGHT, each name once, as in --captions caption=0.3 "
                    "--captions recaption=0.7"
                )
            found[name] = value
        if found and not any(found.values()):
            raise ValueError("--captions: one weight must be above 0")
        return cls(tuple(found.items()))

    def texts(self, row: dict[str, object], text: str) -> list[list[str]]:
        """Return each field's captions that are not blank; `text` is the text member's."""
        values = [text if name == TEXT else row.get(name) for name, _ in self.weights]
        return [_filled(value) for value in values]

    def draw(self, row: dict[str, object], text: str, random: "np.random.Generator") -> str | None:
        """Return a caption, None where all fields are empty.

        Fields that are empty leave their share to the others; one of weight 0 is drawn where all of these are
        empty, the first in order. A field that is a list gives one of its captions.
        """
        found = [(weight, own) for (_, weight), own in zip(self.weights, self.texts(row, text), strict=True)]
        filled = [(weight, own) for weight, own in found if own]
        if not filled:
            return None
        ends = list(itertools.accumulate(weight for weight, _ in filled))
        place = bisect_right(ends, random.random() * ends[-1]) if ends[-1] else 0
        own = filled[min(place, len(filled) - 1)][1]
        return own[int(random.integers(len(own)))]


def _filled(value: object) -> list[str]:
    listed = value if isinstance(value, list) else [value]
    return [one for one in listed if isinstance(one, str) and one.strip()]
