"""The tables, tasks and results of `openwit detector embed`."""

from dataclasses import dataclass
from typing import Annotated, Final

import pyarrow as pa

from pipeline.flow.parts import File, Part

DESCRIPTORS: Final = pa.schema(
    [
        pa.field("uid", pa.string(), nullable=False),  # of an evaluation set: the example_id
        pa.field("key", pa.string(), nullable=False),  # of an evaluation set: the view
        pa.field("quality", pa.uint8(), nullable=False),
        pa.field("bias", pa.float32(), nullable=False),
        pa.field("embedding", pa.list_(pa.float16()), nullable=False),  # in a file of the detector's length
    ]
)
NEIGHBOURS: Final = pa.schema(
    [
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("example_id", pa.string(), nullable=False),
        pa.field("uid", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("similarity", pa.float32(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),  # 1: the most similar training image
    ]
)


def descriptors(dims: int) -> pa.Schema:
    """Return DESCRIPTORS with the length of a detector's vectors."""
    place = DESCRIPTORS.get_field_index("embedding")
    return DESCRIPTORS.set(place, pa.field("embedding", pa.list_(pa.float16(), dims), nullable=False))


@dataclass(frozen=True, kw_only=True)
class DescribedImages(Part):
    """The descriptors of a shard, or of some files of an evaluation set."""

    path: Annotated[str, File(DESCRIPTORS)]
    source: str
    """The shard, or the evaluation set's name."""
    rows: int
    """Of a set, those of an example's views lie together."""
    detailed: int
    """Rows with enough detail to be compared."""
    images: int
    """That are described."""
    reasons: dict[str, int]
    """Images that cannot be decoded, and so are left out, by reason."""


@dataclass(frozen=True, kw_only=True)
class EmbeddedFiles(Part):
    """The files of all that a command has described."""

    shards: tuple[DescribedImages, ...]
    sets: tuple[DescribedImages, ...]


@dataclass(frozen=True, kw_only=True)
class Searched(Part):
    """Examples whose neighbours a task finds."""

    examples: tuple[DescribedImages, ...]


@dataclass(frozen=True, kw_only=True)
class FoundNeighbours(Part):
    """The most similar training images of some examples."""

    path: Annotated[str, File(NEIGHBOURS)]
    pairs: int
