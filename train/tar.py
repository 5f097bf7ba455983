"""Find the samples of a WebDataset shard by walking its tar headers, without copying the members.

Members with one key, the path up to the first dot of its last component, that stand together are one sample,
as webdataset reads them.
"""

from collections import Counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline import tarwalk
from pipeline.images.headers import SUFFIXES
from pipeline.patterns import is_hidden

COLUMNS = 6  # offset and size of the image, of the text, of the JSON; size 0 where there is none


class TarIndex(NamedTuple):
    """Hold one row of COLUMNS int64 per sample with an image and a text, in order; and the faults."""

    rows: NDArray[np.int64]
    left_out: Counter[str]
    """Samples without an image (`no_image`) or with neither text nor JSON (`no_caption`), and how often a key
    comes again after others (`again`): its parts do not stand together."""
    suffixes: Counter[str]
    """Of all members, from the first dot of their names on."""
    damage: str
    """Why the walk ended early, or empty."""


class _Buffer:
    """A mapped archive as a stream."""

    def __init__(self, buffer: memoryview) -> None:
        self.buffer, self.position = buffer, 0

    def read(self, size: int) -> bytes:
        start = self.position
        self.position = min(start + size, len(self.buffer))
        return bytes(self.buffer[start : self.position])

    def skip(self, size: int) -> None:
        if self.position + size > len(self.buffer):
            raise ValueError(f"the member at byte {self.position:,} reaches past the end: the archive is cut")
        self.position += size


def index(buffer: memoryview) -> TarIndex:
    """Return where each sample's parts are; a damaged archive gives the samples before the damage."""
    rows: list[list[int]] = []
    left_out: Counter[str] = Counter()
    suffixes: Counter[str] = Counter()
    damage = ""
    keys: set[str] = set()
    key: str | None = None
    row = [0] * COLUMNS
    stream = _Buffer(buffer)
    try:
        for member in tarwalk.members(stream):
            offset = stream.position
            stream.skip(member.size)
            if not member.is_file:
                continue
            folder, slash, base = member.name.rpartition("/")
            stem, dot, suffix = base.partition(".")
            if not dot or is_hidden(member.name):
                continue
            if (folder + slash + stem) != key:
                if key is not None:
                    rows.append(row)
                key, row = folder + slash + stem, [0] * COLUMNS
                left_out["again"] += key in keys
                keys.add(key)
            suffix = suffix.lower()
            suffixes[suffix] += 1
            column = 0 if suffix in SUFFIXES else {"txt": 2, "json": 4}.get(suffix, -1)
            if column >= 0 and not row[column + 1]:
                row[column], row[column + 1] = offset, member.size
    except ValueError as error:
        damage = str(error)
    if key is not None:
        rows.append(row)
    table = np.array(rows, np.int64).reshape(-1, COLUMNS)
    pictured, told = table[:, 1] > 0, (table[:, 3] > 0) | (table[:, 5] > 0)
    left_out["no_image"] = int((~pictured).sum())
    left_out["no_caption"] = int((pictured & ~told).sum())
    return TarIndex(table[pictured & told], +left_out, suffixes, damage)
