"""Parts of select."""

from dataclasses import dataclass
from typing import Annotated

from pipeline.flow.parts import Blob, Counted, File, Part
from pipeline.schemas import CAPTION_ROWS, REJECTED_ROWS


@dataclass(frozen=True, kw_only=True)
class CaptionFiles(Part):
    """Files of captions that a task splits."""

    paths: tuple[Annotated[str, File(CAPTION_ROWS)], ...]


@dataclass(frozen=True, kw_only=True)
class Deduplicated(Part):
    """A range of uids: each URL once, each of its captions once."""

    path: Annotated[str, File(CAPTION_ROWS)]
    rejects: Annotated[str, File(REJECTED_ROWS)]
    rows: int
    rejected: dict[str, int]
    moved: Blob = ""
    """int64 [1, Q], of an extension: samples of the run that are new ones from now on, by query."""


@dataclass(frozen=True, kw_only=True)
class SharedCaptions(Part):
    """The texts of a range of hashes that stand at too many images."""

    path: Blob
    """uint64 [shared], hashes, ascending."""
    shared: int


@dataclass(frozen=True, kw_only=True)
class SampleTable(Counted):
    """A table of samples, with the columns uid and matched, that are counted by query."""

    path: Blob


@dataclass(frozen=True, kw_only=True)
class Samples(SampleTable):
    """The samples that may be fetched, in a range of uids."""

    path: Annotated[str, File(CAPTION_ROWS)]
    rejects: Annotated[str, File(REJECTED_ROWS)]
    rows: int
    samples: int
    rejected: dict[str, int]
    shared: Blob = ""
    """uint64: the hashes of texts that were rejected, whose rows are still in the file; "" for none."""


@dataclass(frozen=True, kw_only=True)
class Untried(Counted):
    """The samples of a range of uids that were never sent to the fetcher."""

    rejects: Annotated[str, File(REJECTED_ROWS)]
    rejected: dict[str, int]
