"""Tables and parts of candidates."""

from dataclasses import dataclass
from typing import Annotated, Final

import pyarrow as pa

from pipeline.flow.parts import File, Part
from pipeline.schemas import CAPTION_ROWS, IMAGE_ROWS, REJECTED_ROWS, Piece

# The pages to fetch. kind: "sitemap", "page", or "source" for the user's own URLs, which may be either.
PAGE_ROWS: Final = pa.schema(
    [
        pa.field("position", pa.int64(), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("depth", pa.int16(), nullable=False),  # links from a page of the source
        pa.field("tries", pa.int16(), nullable=False),  # before this one
        pa.field("site", pa.string(), nullable=False),
        pa.field("lanes", pa.int16(), nullable=False),
    ]
)
# The pages found, in the order to fetch them. parent: the URL of the page or sitemap.
FOUND_ROWS: Final = pa.schema(
    [
        pa.field("position", pa.int64(), nullable=False),  # of the parent
        pa.field("url", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("depth", pa.int16(), nullable=False),
        pa.field("tries", pa.int16(), nullable=False),
        pa.field("page_url", pa.string(), nullable=False),  # where it was found
        pa.field("any_site", pa.bool_(), nullable=False),  # whether it may be on another site
    ]
)


@dataclass(frozen=True, kw_only=True)
class PieceTask(Part):
    """A piece of a source to be read."""

    piece: Piece


@dataclass(frozen=True, kw_only=True)
class JudgedPiece(Part):
    """The captions of a piece that match, and the rejected rows; together all of its candidates."""

    path: Annotated[str, File(CAPTION_ROWS)]
    rejects: Annotated[str, File(REJECTED_ROWS)]
    images: int
    candidates: int
    rows: int
    """Of `path`."""
    rejected: dict[str, int]
    """Candidates by reason."""


@dataclass(frozen=True, kw_only=True)
class PageUnit(Part):
    """Pages per task."""

    path: Annotated[str, File(PAGE_ROWS)]


@dataclass(frozen=True, kw_only=True)
class PageUnits(Part):
    """The units of one pass."""

    units: tuple[PageUnit, ...]


@dataclass(frozen=True, kw_only=True)
class FetchedPages(Part):
    """The images of a unit of pages, and the pages to fetch next."""

    path: Annotated[str, File(IMAGE_ROWS)]
    found: Annotated[str, File(FOUND_ROWS)]
    pages: int
    images: int


@dataclass(frozen=True, kw_only=True)
class PageLimits(Part):
    """A row for each URL that is none, and for each site of which more pages were known than are fetched."""

    path: Annotated[str, File(IMAGE_ROWS)]
