"""Tags that say how large a sample's numbers are, so that a search that is sorted or cut reads little.

A column of numbers is cut into 256 parts by the quantiles of the first samples that came in, and each sample
is tagged nCOLUMNxPART. So "the widest of those with this word" is the posting list of the word and of the
highest part, and not every sample that has the word. Where later samples are of other sizes the parts are
uneven, which only costs time.
"""

import json
import sqlite3
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

PARTS: Final = 256
NONE: Final = PARTS
"""The part of samples without a value."""


class Cuts(NamedTuple):
    """How a column is cut: its number in the table, and where each part after the first begins."""

    column: int
    starts: list[float]

    def parts(self, values: Sequence[float | None]) -> npt.NDArray[np.int64]:
        """Return the part of each value, int64 [n]."""
        numbers = np.array(values, np.float64)
        found = np.searchsorted(self.starts, numbers, side="right")
        return np.where(np.isnan(numbers), NONE, found)

    def tag(self, part: int) -> str:
        """Return the tag of a part."""
        return f"n{self.column}x{part}"

    def bounds(self, part: int) -> tuple[float, float]:
        """Return from which value a part is, and below which."""
        edges = [-np.inf, *self.starts, np.inf]
        return edges[part], edges[part + 1]

    def is_inside(self, part: int, bounds: tuple[float, float]) -> bool:
        """Return whether all values of a part are at least the first bound, and at most the second."""
        low, high = self.bounds(part)
        return bounds[0] <= low and high <= bounds[1]


def read(db: sqlite3.Connection) -> dict[str, Cuts]:
    """Return how the columns of an index are cut, by name."""
    found = db.execute("SELECT value FROM meta WHERE name = 'cuts'").fetchone()
    return {name: Cuts(*value) for name, value in json.loads(found[0] if found else "{}").items()}


def tags(
    db: sqlite3.Connection, cuts: dict[str, Cuts], names: Sequence[str], rows: Sequence[Sequence[Any]]
) -> list[str]:
    """Return the tags of rows of numbers, one column per name; cut the columns that are not cut yet."""
    found = list[list[str]]()
    for name, values in zip(names, zip(*rows, strict=True), strict=True) if rows else ():
        if name not in cuts and (known := [value for value in values if value is not None]):
            _cut(db, cuts, name, known)
        if name in cuts:
            own = cuts[name]
            texts = [own.tag(part) for part in range(PARTS + 1)]
            found.append([texts[part] for part in own.parts(values).tolist()])
    return [" ".join(one) for one in zip(*found, strict=True)] if found else [""] * len(rows)


def _cut(db: sqlite3.Connection, cuts: dict[str, Cuts], name: str, values: Sequence[float]) -> None:
    columns = {row[1]: row[0] for row in db.execute("PRAGMA table_info(samples)")}
    starts = np.unique(np.quantile(values, np.arange(1, PARTS) / PARTS)).tolist()
    cuts[name] = Cuts(columns[name], starts)
    db.execute("INSERT OR REPLACE INTO meta VALUES ('cuts', ?)", (json.dumps(cuts),))
