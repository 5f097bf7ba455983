"""Tables and parts of the near-duplicates inside a set."""

from dataclasses import dataclass
from typing import Annotated, Final

import pyarrow as pa

from pipeline.extend.parts import Stored
from pipeline.fetch.parts import MERGED_ROWS, Merged
from pipeline.flow.parts import File, Part
from pipeline.schemas import UID_BYTES

EDGES: Final = pa.schema(
    [
        pa.field("a", pa.binary(UID_BYTES), nullable=False),  # the smaller uid
        pa.field("b", pa.binary(UID_BYTES), nullable=False),
        pa.field("distance", pa.int16(), nullable=False),
    ]
)
GROUPS: Final = pa.schema(
    [
        pa.field("uid", pa.binary(UID_BYTES), nullable=False),  # of a member
        pa.field("representative", pa.binary(UID_BYTES), nullable=False),
    ]
)
LOOKS: Final = pa.schema(
    [
        pa.field("uid", pa.binary(UID_BYTES), nullable=False),
        pa.field("vector", pa.binary(), nullable=False),  # d numbers and the bias, little-endian float16
    ]
)
SITES: Final = pa.schema(
    [
        pa.field("site", pa.string(), nullable=False),
        pa.field("images", pa.int64(), nullable=False),
        pa.field("removed", pa.int64(), nullable=False),
    ]
)


@dataclass(frozen=True, kw_only=True)
class NearPairs(Part):
    """The verified pairs of a range of bands."""

    path: Annotated[str, File(EDGES)]
    edges: int
    beyond: int
    """Different hashes that were not compared, since too many share a band."""


@dataclass(frozen=True, kw_only=True)
class Looks(Part):
    """The images of a file as a detector describes them."""

    path: Annotated[str, File(LOOKS)]
    images: int
    pairs: int
    """Pairs of its first images, which were all compared."""
    unrelated: tuple[float, ...]
    """The highest similarities of these, without pairs that do show the same picture."""


@dataclass(frozen=True, kw_only=True)
class CompareTask(Part):
    """A file to compare with itself and with others."""

    file: Looks
    others: tuple[Looks, ...]
    threshold: float
    """The least similarity of a pair."""


@dataclass(frozen=True, kw_only=True)
class GroupTask(Part):
    """All that is joined to groups."""

    merged: tuple[Annotated[str, File(MERGED_ROWS)], ...]
    pairs: tuple[Annotated[str, File(EDGES)], ...]
    edges: int
    """Pairs in these."""
    beyond: int
    stored: tuple[Stored, ...] = ()
    """Samples that an extended run has already: they stay, and images near them are merged into them."""
    merged_before: Annotated[str, File(GROUPS)] = ""
    """Groups that stay as they are, since only their representatives have bytes left."""


@dataclass(frozen=True, kw_only=True)
class Groups(Part):
    """The groups of near-duplicates."""

    path: Annotated[str, File(GROUPS)]
    pairs: int
    beyond: int
    removed: int
    """Images that are merged into another."""
    groups: int
    largest: int
    """Images of the largest group; 0 without any."""
    around: str
    """Its representative, or empty."""


@dataclass(frozen=True, kw_only=True)
class NearMerged(Merged):
    """The samples left in a range of hashes when near-duplicates are merged."""

    sites: Annotated[str, File(SITES)]
