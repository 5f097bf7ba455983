"""The inputs and results of the query job's steps."""

from dataclasses import dataclass
from typing import Annotated, Final

import pyarrow as pa

from pipeline.flow.parts import Blob, File, Part
from queries.ngrams import PAIR_COUNTS, WORD_COUNTS
from queries.titles import PAGES, VIEWS

RANKED_PAIRS: Final = pa.schema(
    [
        pa.field("pair", pa.uint64(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
    ]
)


@dataclass(frozen=True, kw_only=True)
class DumpPiece(Part):
    """Some bytes of a dump's file."""

    path: str
    """As the user names it."""
    start: int
    end: int
    """Byte after the last."""


@dataclass(frozen=True, kw_only=True)
class TextBlock(Part):
    """A `token_blocks.TokenBlock` as files."""

    words: Annotated[str, File(WORD_COUNTS)]
    """By partition; word i + 1 of the stream is in row i."""
    stream: Blob
    """uint32, as `markers.write_vector` writes it."""
    occurrences: int


@dataclass(frozen=True, kw_only=True)
class EncodedPiece(Part):
    """The contents of a piece of the dump."""

    blocks: tuple[TextBlock, ...]
    pages: tuple[Annotated[str, File(PAGES)], ...]
    kinds: dict[str, int]
    """Pages by kind."""
    damage: tuple[str, ...]
    """A line for each fault."""
    wikitext_characters: int
    text_characters: int


@dataclass(frozen=True, kw_only=True)
class TablePartition(Part):
    """One partition of the tables that the steps before have left."""

    partition: int


@dataclass(frozen=True, kw_only=True)
class FrequentWords(Part):
    """The frequent words of a partition."""

    path: Annotated[str, File(WORD_COUNTS)]
    distinct: int
    kept: int
    octaves: dict[str, int]
    """Words kept that occur 2**i times or more, fewer than 2**(i + 1), by i."""


@dataclass(frozen=True, kw_only=True)
class BlockBigrams(Part):
    """The counted bigrams of a block of text."""

    path: Annotated[str, File(PAIR_COUNTS)]
    rows: int


@dataclass(frozen=True, kw_only=True)
class RankedBigrams(Part):
    """The best bigrams of a partition."""

    path: Annotated[str, File(RANKED_PAIRS)]
    distinct: int
    enough: int
    """Of these, those that occur --min-bigram-count times."""
    associated: int
    """Of these, those that occur more often than by chance."""
    bits: dict[str, int]
    """Bigrams in the file by whole bits of their PMI."""


@dataclass(frozen=True, kw_only=True)
class ViewsFile(Part):
    """A file of page views."""

    path: str
    """As the user names it."""


@dataclass(frozen=True, kw_only=True)
class ViewedTitles(Part):
    """The views of a file by title."""

    path: Annotated[str, File(VIEWS)]
    views: int
    malformed: int
    """Lines."""
    damage: tuple[str, ...]
    """A line for each fault."""


@dataclass(frozen=True, kw_only=True)
class ViewedArticles(Part):
    """The views of a partition of titles by their articles."""

    path: Annotated[str, File(VIEWS)]
    titles: int
    dropped: dict[str, int]
    """Titles by reason of `titles.DROPPED`."""


@dataclass(frozen=True, kw_only=True)
class RankedTitles(Part):
    """The most viewed articles of a partition."""

    path: Annotated[str, File(VIEWS)]
    enough: int
    """Articles with --min-views."""
    octaves: dict[str, int]
    """Articles in the file with 2**i views or more, fewer than 2**(i + 1), by i."""
    dropped: dict[str, int]
    """Articles by reason of `titles.DROPPED`."""
