"""Tables and parts of an extension: the effect of the finished run on the samples that are added to it."""

from dataclasses import dataclass
from typing import Annotated, Final

import pyarrow as pa

from pipeline import dropped_samples
from pipeline.flow.parts import Blob, Counted, File, Part
from pipeline.schemas import CAPTION_ROWS, REJECTED_ROWS, UID_BYTES
from pipeline.select.parts import SampleTable

STORED_ROWS: Final = pa.schema(
    [
        pa.field("uid", pa.binary(UID_BYTES), nullable=False),
        pa.field("matched", pa.list_(pa.int32()), nullable=False),
        pa.field("sha256", pa.binary(32), nullable=False),
    ]
)

# A URL of the run that is extended. `matched`: of an image that was not tried, a row for each of its
# captions.
KNOWN_ROWS: Final = pa.schema(
    [
        pa.field("uid", pa.binary(UID_BYTES), nullable=False),
        pa.field("matched", pa.list_(pa.int32()), nullable=False),
        pa.field("tried", pa.bool_(), nullable=False),
        pa.field("extension", pa.int32(), nullable=False),
    ]
)


@dataclass(frozen=True, kw_only=True)
class StoredShard(Part):
    """A shard of the run, named as in its manifest but for the ending."""

    rows: Blob
    """Its Parquet file."""


@dataclass(frozen=True, kw_only=True)
class Stored(SampleTable):
    """The samples of a shard that are still in the set."""

    path: Annotated[str, File(STORED_ROWS)]
    shard: Blob
    """The shard's Parquet file."""
    samples: int


@dataclass(frozen=True, kw_only=True)
class StoredCounts(SampleTable):
    """The samples of a shard, in the form in which a round counts arrived images."""

    path: Annotated[str, File(STORED_ROWS)]


@dataclass(frozen=True, kw_only=True)
class Known(Part):
    """Samples that the run has found before."""

    path: Annotated[str, File(CAPTION_ROWS)]
    tried: Blob
    """The thresholds up to which it tried them."""
    extension: int
    """Which of its extensions has found them, 0 for the run itself."""
    shared: Blob = ""
    """As of `Samples`."""


@dataclass(frozen=True, kw_only=True)
class DroppedSamples(Counted):
    """The samples of a shard that no query keeps any more."""

    path: Annotated[str, File(dropped_samples.ROWS)]
    rejects: Annotated[str, File(REJECTED_ROWS)]
    dropped: int
    captions: int
