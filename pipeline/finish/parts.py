"""Tables and parts of the last stage."""

from dataclasses import dataclass
from typing import Annotated, Final

import pyarrow as pa

from pipeline.fetch.parts import MERGED_ROWS, Fetched
from pipeline.flow.parts import Blob, Counted, File, Part
from pipeline.schemas import REJECTED_ROWS

CAPTION_ONLY: Final = ("caption", "caption_hash", "matched")
SAMPLE_ROWS: Final = pa.schema(
    [
        pa.field("order", pa.uint64(), nullable=False),
        pa.field("captions", pa.list_(pa.string()), nullable=False),
        pa.field("query_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("matched_query_ids", pa.list_(pa.int32()), nullable=False),
        *(field for field in MERGED_ROWS if field.name not in CAPTION_ONLY),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Balanced(Counted):
    """The samples of a merged file that the set keeps; counts, int64 [2, Q]: kept, and present."""

    path: Annotated[str, File(SAMPLE_ROWS)]
    rejects: Annotated[str, File(REJECTED_ROWS)]
    samples: int
    captions: int
    extra: dict[str, str]
    """Kind of each kept column, "number" or "text"."""
    fetched: tuple[str, str] | None
    """First and last moment, ISO 8601; None without samples."""


@dataclass(frozen=True, kw_only=True)
class Group(Part):
    """The samples of a group of shards, in the final order."""

    path: Annotated[str, File(SAMPLE_ROWS)]
    samples: int


@dataclass(frozen=True, kw_only=True)
class ShardTask(Part):
    """A shard to be written: rows `start` to `stop` - 1 of a group."""

    group: Annotated[str, File(SAMPLE_ROWS)]
    start: int
    stop: int
    extra: tuple[tuple[str, str], ...]
    """Names and kinds of the kept columns."""


@dataclass(frozen=True, kw_only=True)
class Failures(Part):
    """A fetched unit, whose failures are to be published."""

    unit: Fetched
    arrived: Blob = ""
    """The thresholds by which the next round tried failures again; "" in the last round."""


@dataclass(frozen=True, kw_only=True)
class RejectTask(Part):
    """Rejected rows to be published in one file: those of tables, or the failures of units."""

    tables: tuple[Annotated[str, File(REJECTED_ROWS)], ...] = ()
    units: tuple[Failures, ...] = ()
    share: dict[str, float]
    """Of the rows of each reason that are published, all of those that are not named."""


@dataclass(frozen=True, kw_only=True)
class RejectedRows(Part):
    """The contents of a file of rejected rows."""

    counts: dict[str, int]
    """Candidates by "stage/reason", published or not."""
    rows: int
    """That are published."""
