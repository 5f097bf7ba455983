"""How sources are read."""

import posixpath
from dataclasses import dataclass
from typing import Final, Literal, get_args
from urllib.parse import urlsplit

from tyro.conf import UseAppendAction

Format = Literal["auto", "wat", "warc", "html", "pages", "parquet", "csv", "tsv", "jsonl", "txt"]
_FORMATS: Final = {
    ".wat": "wat",
    ".warc": "warc",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
_COMPRESSED: Final = (".gz", ".zst", ".zstd", ".bz2")


def format_of(name: str) -> str | None:
    """Return the format that a file name tells, also under .gz or .zst; None if it tells none."""
    return _FORMATS.get(_ending(name))


def format_of_list(name: str) -> str | None:
    """Return the format that the name of a single file tells: .txt is a list of URLs, not so in a folder."""
    return "txt" if _ending(name) == ".txt" else format_of(name)


def _ending(name: str) -> str:
    name = urlsplit(name).path.lower() if name.startswith(("https://", "http://")) else name.lower()
    for ending in _COMPRESSED:
        name = name.removesuffix(ending)
    return posixpath.splitext(name)[1]


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """How sources are read."""

    source_format: Format = "auto"
    """Format of the sources; auto goes by the file name, and a folder is HTML. pages: URLs of pages and of
    sitemaps, which the crawl fetches by the rules that hold for images. txt: image URLs, one per line,
    without captions."""
    url_col: str | None = None
    """Column that holds the image URL; found among the usual names when not given."""
    caption_col: str | None = None
    """Column that holds the caption or a list of captions; found among the usual names when not given."""
    keep_columns: UseAppendAction[tuple[str, ...]] = ()
    """Further column to carry along. May be given several times."""
    empty_captions: bool = False
    """Also take rows without a caption, with an empty caption, and lists without captions."""
    base_url: str | None = None
    """URL under which a folder of HTML was served; a page's URL is this plus its relative path."""
    source_prefix: str = ""
    """Put before each line of an @FILE list, such as https://data.commoncrawl.org/."""
    depth: int = 0
    """Links that are followed from a page of --source-format pages, within its site."""
    max_pages: int = 1_000_000
    """Pages and sitemaps fetched in all."""
    max_site_pages: int = 10_000
    """Pages and sitemaps fetched of one site: calendars have no end."""
    piece_bytes: int = 64 << 20
    """Aim for pieces of this many stored bytes, where a format can be cut."""

    def __post_init__(self) -> None:
        if self.source_format not in get_args(Format):
            raise ValueError(
                f"unknown source format {self.source_format!r}; choose from {', '.join(get_args(Format))}"
            )
        for name in ("piece_bytes", "max_pages", "max_site_pages"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        if self.depth < 0:
            raise ValueError(f"depth must not be negative, but is {self.depth}")
        if self.depth and self.source_format != "pages":
            raise ValueError(
                "--depth follows the links of pages that the crawl fetches: --source-format pages"
            )
