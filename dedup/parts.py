"""The inputs and results of the overlap analysis's steps, the learned detector's among them."""

from dataclasses import dataclass, field
from typing import Annotated, Final

import pyarrow as pa

from pipeline.data.evalsets import Form
from pipeline.flow.parts import Blob, File, Part

EXAMPLES: Final = pa.schema(
    [
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("example_id", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("state", pa.string(), nullable=False),  # compared, unreadable or low_information
        pa.field("row", pa.int64(), nullable=False),  # among those compared, -1 for the others
        pa.field("offset", pa.int64(), nullable=False),  # of its JPEG in images.bin
        pa.field("length", pa.int32(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),  # for which it is unreadable
        pa.field("kind", pa.string(), nullable=False),  # `picture_kinds.kind_of`
    ]
)
MATCHES: Final = pa.schema(
    [
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("example_id", pa.string(), nullable=False),
        pa.field("uid", pa.string(), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("similarity", pa.float32(), nullable=False),
        pa.field("verified", pa.bool_(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),  # 1: the most similar training image of an example
        pa.field("refused", pa.string(), nullable=False),  # the check that failed; empty if verified
        pa.field("inliers", pa.int32(), nullable=False),
        pa.field("correlation", pa.float32(), nullable=False),
        pa.field("view", pa.string(), nullable=False),  # of the evaluation image that was found
        pa.field("mirrored", pa.bool_(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("hashes", pa.float32()),  # similarity by hash and colour; null if these did not find it
        pa.field("learned", pa.float32()),  # by the detector, on the same scale; null likewise
    ]
)
# The published columns of a match, but for its rank, which is not known yet; and a WebP of the training
# image.
FOUND: Final = MATCHES.remove(MATCHES.get_field_index("rank")).append(
    pa.field("preview", pa.binary(), nullable=False)
)
TEXT_MATCHES: Final = pa.schema(
    [
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),  # caption or prompt
        pa.field("example_id", pa.string(), nullable=False),  # the first with this text
        pa.field("text", pa.string(), nullable=False),
        pa.field("uid", pa.string(), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("jaccard", pa.float32(), nullable=False),
    ]
)


@dataclass(frozen=True, kw_only=True)
class TrainingShard(Part):
    """A shard of the training set."""

    path: str
    """As the user or the run names it."""


@dataclass(frozen=True, kw_only=True)
class SampledColours(Part):
    """Colour terms of a shard's first images."""

    path: Blob
    """int16 [n, 256], .npy."""


@dataclass(frozen=True, kw_only=True)
class Joining(Part):
    """The only task of a step that joins the files of another step."""


@dataclass(frozen=True, kw_only=True)
class FittedWhitening(Part):
    """A `search.Whitening`."""

    mean: tuple[float, ...]
    """[256]"""
    deviation: tuple[float, ...]
    """[256]"""


@dataclass(frozen=True, kw_only=True)
class ExampleFiles(Part):
    """Some files of an evaluation set."""

    dataset: str
    path: str
    """Of the set, as the user names it."""
    form: Form
    start: int
    """Number of the first file among the set's."""
    stop: int
    """Number after the last."""


@dataclass(frozen=True, kw_only=True)
class _Described(Part):
    """Examples, described; row and offset in their table are places in the other files."""

    examples: Annotated[str, File(EXAMPLES)]
    images: Blob
    """JPEGs in sequence."""
    hashes: Blob
    """uint8 [compared * views, 32], .npy."""
    colours: Blob
    """[compared * views, 256], .npy."""
    compared: int
    """Examples that are."""


@dataclass(frozen=True, kw_only=True)
class DescribedExamples(_Described):
    """Described examples of a set; colours are int16, not whitened."""


@dataclass(frozen=True, kw_only=True)
class ExampleIndex(_Described):
    """All examples of all sets; colours are int8: `search.quantised`."""


@dataclass(frozen=True, kw_only=True)
class ExampleRows(Part):
    """Some rows of the index, for the learned detector to describe."""

    start: int
    stop: int
    """Row after the last."""


@dataclass(frozen=True, kw_only=True)
class RowVectors(Part):
    """The learned detector's vectors of some rows of the index."""

    path: Blob
    """float16 [rows * views, d + 1], .npy: vectors, and the bias last."""
    rows: int
    """Of the file."""


@dataclass(frozen=True, kw_only=True)
class LearnedIndex(Part):
    """The learned detector's vectors of the whole index."""

    vectors: Blob
    """float32 [compared * views, d], .npy."""
    biases: Blob
    """float32 [compared * views], .npy."""


@dataclass(frozen=True, kw_only=True)
class UnrelatedPairs(Part):
    """The most similar pairs of a shard's first images and each set that share no picture."""

    images: int
    """That were compared."""
    read: int
    """Images, also those that cannot be compared."""
    bytes: int
    """Of these."""
    highest: dict[str, tuple[float, ...]]
    """Similarities by set, falling."""


@dataclass(frozen=True, kw_only=True)
class LearnedThresholds(Part):
    """Where the learned detector takes a pair for a copy."""

    thresholds: dict[str, float]
    """Similarities by set."""


@dataclass(frozen=True, kw_only=True)
class PlantedCopies(Part):
    """Altered copies of some examples of a set, to be searched for."""

    dataset: str
    reversed: bool = False
    """Whether the copies are the evaluation images, and the examples stand in the training set."""


@dataclass(frozen=True, kw_only=True)
class MatchedShard(Part):
    """The matches of a shard with the evaluation sets."""

    found: Annotated[str, File(FOUND)]
    texts: Annotated[str, File(TEXT_MATCHES)]
    """Empty where texts are not compared."""
    counts: dict[str, int]
    unreadable: tuple[tuple[str, str], ...]
    """Key and reason of the first images that cannot be decoded."""


@dataclass(frozen=True, kw_only=True)
class FoundCopies(Part):
    """Similarities of planted copies by distortion, -1 for a copy that was not verified."""

    either: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """The higher of both."""
    hashes: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """By hash and colour."""
    learned: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """By the learned detector."""
    note: str = ""
    """Why they could not be measured, if so."""
