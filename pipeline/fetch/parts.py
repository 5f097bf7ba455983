"""Tables and parts of fetch."""

from dataclasses import dataclass
from typing import Annotated, Final

import pyarrow as pa

from pipeline.flow.parts import Blob, File, Part
from pipeline.schemas import CAPTION_ROWS, FETCHED_ROWS, REJECTED_ROWS
from pipeline.select.parts import SampleTable

UNIT_ROWS: Final = (
    CAPTION_ROWS.append(pa.field("fetch_url", pa.string(), nullable=False))
    .append(pa.field("site", pa.string(), nullable=False))
    .append(pa.field("lanes", pa.int16(), nullable=False))
)
FETCHED: Final = [field for field in FETCHED_ROWS if field.name not in ("uid", "reason", "detail")]
MERGED_ROWS: Final = pa.schema([*CAPTION_ROWS, *FETCHED])


@dataclass(frozen=True, kw_only=True)
class Unit(Part):
    """The images of one task."""

    path: Annotated[str, File(UNIT_ROWS)]
    images: int
    seconds: float
    """That its slowest site takes at its rate."""


@dataclass(frozen=True, kw_only=True)
class Units(Part):
    """The units of a partition."""

    units: tuple[Unit, ...]


@dataclass(frozen=True, kw_only=True)
class Fetched(Part):
    """The result of a unit: a row for each of its images, and the arrived images, staged."""

    unit: Annotated[str, File(UNIT_ROWS)]
    path: Annotated[str, File(FETCHED_ROWS)]
    blob: Blob
    log: Blob
    """JSON lines of `unit_log.UnitLog`."""
    images: int
    bytes: int
    seconds: float
    reasons: dict[str, int]
    """Images by reason, "" for those that arrived."""


@dataclass(frozen=True, kw_only=True)
class Merged(SampleTable):
    """The arrived images after a round, in a range of hashes; images of the same bytes are joined."""

    round: int
    path: Annotated[str, File(MERGED_ROWS)]
    rejects: Annotated[str, File(REJECTED_ROWS)]
    rows: int
    samples: int
    rejected: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Round(Part):
    """The result of a round."""

    units: tuple[Fetched, ...]
    merged: tuple[Merged, ...]
    images: int
    bytes: int
    reasons: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Restored(Part):
    """The images of a shard, staged again for `--retry-failed`."""

    blob: Blob
