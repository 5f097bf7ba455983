"""Look at the first rows of the sources before anything is written: columns, verdicts, what to expect."""

import itertools
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pipeline import storage, urls
from pipeline.foreign_text import DAMAGED
from pipeline.formats import count, size
from pipeline.http.rate_limit import site_delay
from pipeline.http.user_agent import requires_contact
from pipeline.options import CrawlConfig
from pipeline.options.presets import ALL
from pipeline.sources import Image, Piece, columns, read, sitemap
from pipeline.sources.inputs import is_web

if TYPE_CHECKING:
    from pipeline.candidates.judge import CaptionJudge

LOOKED_AT: Final = 1000
"""Captions that are looked at."""
_LISTS: Final = ("parquet", "csv", "tsv", "jsonl", "txt")
_STORED_BYTES: Final = 22_000  # of a sample at 256 pixels, as in plan/common_crawl.toml
_SLICE: Final = 1 << 20  # bytes of a text list from which its rows are estimated
_MOST_FILES: Final = 200  # Parquet files whose footers are read to count rows
_REASONS: Final = 4  # that are shown


@dataclass
class Preview:
    """A forecast of a run from the first captions of its sources."""

    columns: list[str] = field(default_factory=list)
    """For each kind of list: the columns that are read, and their use."""
    rows: int | None = None
    """Of all lists, None where that is not known."""
    captions: int = 0
    accepted: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    hosts: list[str] = field(default_factory=list)
    """URLs of the images that would be fetched."""

    @property
    def expected(self) -> int | None:
        """Return the number of images in all rows if the first rows are typical."""
        return None if self.rows is None or not self.captions else self.rows * self.accepted // self.captions


def first_images(pieces: list[Piece], config: CrawlConfig) -> Iterator[Image]:
    """Yield the images of the pieces that can be read without being downloaded whole; pages as their URLs."""
    for piece in pieces:
        if is_web(piece.path):
            continue
        try:
            if piece.format == "pages":
                listed = sitemap.parse(storage.read_bytes(piece.path))
                yield from (Image(url) for url in (listed.urls if listed else ()))
            else:
                yield from read(piece, config.sources)
        except DAMAGED:
            continue  # the run says what is wrong with it


def look(pieces: list[Piece], config: CrawlConfig, judge: "CaptionJudge") -> Preview:
    """Judge the first thousand captions."""
    from pipeline.candidates.judge import judge_image

    found = Preview(columns=_columns(pieces, config), rows=_rows(pieces, config))
    for image in first_images([piece for piece in pieces if piece.format != "pages"], config):
        for row, accepted in judge_image(image, "", judge):
            found.captions += 1
            if accepted:
                found.accepted += 1
                found.hosts.append(image.url)
            else:
                found.reasons[str(row[5])] += 1
        if found.captions >= LOOKED_AT:
            break
    return found


def _columns(pieces: list[Piece], config: CrawlConfig) -> list[str]:
    said: dict[str, None] = {}
    for listed in _listed(pieces, config):
        read_of = listed.columns
        kept = f", kept {', '.join(map(repr, read_of.kept))}" if read_of.kept else ""
        captions = "no captions" if read_of.caption is None else f"captions from {read_of.caption!r}"
        said[f"image URLs from {read_of.url!r}, {captions}{kept}"] = None
    return list(said)


def _listed(pieces: list[Piece], config: CrawlConfig) -> Iterator[columns.Listed]:
    """Yield the rows of the first lists that can be read at once."""
    for piece in itertools.islice((p for p in pieces if p.format in _LISTS and not is_web(p.path)), 50):
        if found := columns.listed(piece.path, piece.format, config.sources):
            yield found


def without_captions(pieces: list[Piece], config: CrawlConfig) -> str:
    """Return the note about lists whose rows are taken without captions though they have further columns."""
    if not config.sources.empty_captions:
        return ""
    for listed in _listed(pieces, config):
        if listed.columns.caption is None and len(listed.names) > 1:
            others = [name for name in listed.names if name != listed.columns.url]
            shown = ", ".join(map(repr, others[:20]))
            return f"no column looks like captions: none are taken; --caption-col names one of {shown}"
    return ""


def _rows(pieces: list[Piece], config: CrawlConfig) -> int | None:
    """Return the rows of the lists: exactly of Parquet, about of other local lists; None if not known."""
    import pyarrow.parquet as pq

    files = sorted({(piece.path, piece.format) for piece in pieces})
    if any(kind not in _LISTS or is_web(path) for path, kind in files) or len(files) > _MOST_FILES:
        return None
    total = 0
    for path, kind in files:
        with storage.open_input(path) as file:
            if kind == "parquet":
                total += pq.ParquetFile(file).metadata.num_rows
                continue
            if path.lower().endswith((".gz", ".zst", ".zstd")):
                return None
            head = file.read(_SLICE)
        lines = head.count(b"\n") + (not head.endswith(b"\n"))
        whole = storage.file_info(path).size
        total += lines if len(head) == whole else round(lines * whole / max(len(head), 1))
        listed = columns.listed(path, kind, config.sources) if kind in ("csv", "tsv") else None
        total -= listed is not None and listed.has_header
    return round(total * config.sample)


def needs_contact(pieces: list[Piece], config: CrawlConfig) -> bool:
    """Return whether somebody else's host is among the first images; False where it cannot be known yet."""
    references = (image.url for image in first_images(pieces, config) if not image.reason and image.url)
    return requires_contact(itertools.islice(references, LOOKED_AT), config.fetch.allow_network)


def expectations(preview: Preview, config: CrawlConfig, root: str) -> list[tuple[str, str]]:
    """Return (name, amount) rows: samples, time under the sites' rates, disk."""
    expected = preview.expected
    if expected is None:
        return [("samples", "not known before the sources are read; `--sample` makes a pilot")]
    rows = [("samples", f"at most {expected:,}, if every image is still there and none is a repeat")]
    if config.queries != ALL:
        rows[0] = ("samples", f"{rows[0][1]}; --per-query {config.per_query:,} may leave more out")
    rows.append(("time", _time(preview, expected, config)))
    stored = expected * _STORED_BYTES * (config.images.image_size / 256) ** 2
    free = _free(root)
    space = f"about {size(stored)} of shards, and as much again while they are made"
    rows.append(("disk", space if free is None else f"{space}; {size(free)} are free"))
    return rows


def _time(preview: Preview, expected: int, config: CrawlConfig) -> str:
    """Return how long the busiest site takes at its rate, by its share of the first images."""
    sites = Counter(map(_site, preview.hosts))
    slowest, images = 0.0, 0
    for site, seen in sites.most_common(20):
        share = expected * seen // max(len(preview.hosts), 1)
        if share * site_delay(site, config.fetch) > slowest and (seen > 1 or len(preview.hosts) < LOOKED_AT):
            slowest, images = share * site_delay(site, config.fetch), share
    if not slowest:
        return "no site's rate is in the way"
    limit = config.units.unit_seconds * config.rounds
    cut = f", cut at --rounds times --unit-seconds, {_long(limit)}" if slowest > limit else ""
    return f"about {_long(min(slowest, limit))}: the busiest site has some {count(images, 'image')}{cut}"


def _long(seconds: float) -> str:
    """Return a time in words."""
    for unit, length in (("days", 86_400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:,.0f} seconds"


def _site(url: str) -> str:
    try:
        return urls.site(urls.canonical(url))
    except urls.BadUrl:
        return ""


def _free(root: str) -> int | None:
    """Return the free bytes of a local folder's disk."""
    if not storage.is_local(root):
        return None
    folder = storage.local_path(root).absolute()
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free


def verdicts(preview: Preview) -> str:
    """Return which share of the captions is taken, and why others are not."""
    if not preview.captions:
        return "none was looked at: the sources are of the web, and are read when the run begins"
    share = preview.accepted / preview.captions
    others = ", ".join(f"{reason} {number:,}" for reason, number in preview.reasons.most_common(_REASONS))
    return f"{share:.0%} of the first {preview.captions:,} match and are taken" + (
        f"; not the others: {others}" if others else ""
    )
