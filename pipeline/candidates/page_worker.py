"""Fetch pages and sitemaps: one unit in; the images of its pages, and the pages to fetch next, out.

The client is that of images, and so are its rules: robots.txt, opt-outs, addresses, pace, sizes.
"""

import re
import weakref
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import pyarrow as pa
import zstandard

from pipeline import schemas, storage
from pipeline.candidates.parts import FOUND_ROWS, FetchedPages, PageUnit
from pipeline.fetch.lanes import share
from pipeline.flow import kept
from pipeline.http.fetch_thread import FetchLoop
from pipeline.http.fetch_url import Outcome
from pipeline.images.headers import FORMATS
from pipeline.options import FetchOptions
from pipeline.reasons import REASONS
from pipeline.sources import page_images, page_tables, sitemap
from pipeline.sources.links import links
from pipeline.sources.page_tables import unavailable
from pipeline.sources.records import Image, bad_record

TRIES: Final = 2
_KEPT: Final = (
    "final_url",
    "reason",
    "detail",
    "status",
    "content_type",
    "links",
)  # of an answer, beside its body
_HTML_TYPES: Final = ("text/html", "application/xhtml+xml")
_TYPE: Final = re.compile(r"([\w!#$%&'*+.^`|~-]+/[\w!#$%&'*+.^`|~-]+)\s*(?:;|$)", re.ASCII)
_UNKNOWN_TYPES: Final = ("", "unknown/unknown", "application/unknown", "*/*")
_LIKE_HTML: Final = re.compile(
    rb"(?:\xef\xbb\xbf)?[\t\n\f\r ]*<(?:!--|\?xml|(?:!doctype html|html|head|script|iframe|h1|div|font|table"
    rb"|a|style|title|b|body|br|p|meta|link|img|span|ul|section|main|nav|header|article)[\s>])",
    re.IGNORECASE,
)
_MAX_INDEXES: Final = 3  # sitemaps in indexes in indexes; the protocol has one level


@dataclass(frozen=True, kw_only=True)
class FoundLink:
    """Something to be fetched."""

    url: str
    kind: str
    depth: int = 0
    tries: int = 0
    page_url: str = ""
    any_site: bool = False


def is_sitemap(row: dict[str, object]) -> bool:
    """Return whether a row is known, or by its name expected, to be of a sitemap."""
    return row["kind"] == "sitemap" or (
        row["kind"] == "source" and sitemap.is_named_like_one(str(row["url"]))
    )


def judge(
    row: dict[str, object], outcome: Outcome, depth: int, formats: Collection[str] = FORMATS
) -> tuple[list[Image], list[FoundLink]]:
    """Return the images in the answer to one row of PAGE_ROWS, and the pages to fetch after it.

    depth: how far links are followed; formats: those of images that are taken. A page that cannot be had is
    one Image with a reason, unless it is to be tried again.
    """
    url, kind, here, tries = str(row["url"]), str(row["kind"]), int(str(row["depth"])), int(str(row["tries"]))
    if outcome.reason:
        elsewhere = outcome.reason == "redirect_elsewhere"
        leaves = elsewhere and here > 0 and kind == "page"  # a link's target: --depth stays inside the site
        if REASONS[outcome.reason].transient and tries + 1 < TRIES and not leaves:
            target = outcome.final_url if elsewhere else url
            again = FoundLink(url=target, kind=kind, depth=here, tries=tries + 1, page_url=url, any_site=True)
            return [], [again]
        return [unavailable(url, f"{outcome.reason}: {outcome.detail}".removesuffix(": "))], []
    if kind != "page":
        found = sitemap.parse(outcome.body, outcome.content_type)
        if found is not None:
            return _listed(outcome.final_url, found, kind, here)
        if is_sitemap(row):
            return [unavailable(url, "not a sitemap")], []
    if problem := _no_page(outcome.content_type, outcome.body):
        return [unavailable(url, f"not a page: {problem}")], []
    said = [("Link", outcome.links)] if outcome.links else []
    images = list(page_images.images(outcome.body, outcome.final_url, outcome.content_type, said, formats))
    if here >= depth:
        return images, []
    targets = links(outcome.body, outcome.final_url, outcome.content_type)
    return images, [
        FoundLink(url=target, kind="page", depth=here + 1, page_url=outcome.final_url) for target in targets
    ]


def _no_page(content_type: str, body: bytes) -> str:
    """Return "" for HTML, or else the type of the file.

    Of several types the last counts (https://fetch.spec.whatwg.org/#concept-header-extract-mime-type); where
    none is a type, the bytes decide as in browsers (https://mimesniff.spec.whatwg.org).
    """
    found = [match[1].lower() for part in content_type.split(",") if (match := _TYPE.match(part.strip()))]
    media_type = found[-1] if found else ""
    if media_type in _HTML_TYPES or (media_type in _UNKNOWN_TYPES and _LIKE_HTML.match(body)):
        return ""
    return (media_type or content_type.strip() or "no Content-Type, and the bytes are not HTML")[:100]


def _listed(url: str, found: sitemap.Sitemap, kind: str, depth: int) -> tuple[list[Image], list[FoundLink]]:
    """Return the URLs that a sitemap lists. A sitemap that the user named may list other sites, as an index
    of many does."""
    images = [bad_record(f"sitemap: {found.problem}", url)] if found.problem else []
    if found.kind == "pages":
        below = [
            FoundLink(url=one, kind="page", page_url=url, any_site=kind == "source") for one in found.urls
        ]
    elif depth + 1 < _MAX_INDEXES:
        below = [
            FoundLink(url=one, kind="sitemap", depth=depth + 1, page_url=url, any_site=kind == "source")
            for one in found.urls
        ]
    else:
        below = []
        images.append(bad_record(f"sitemap: an index more than {_MAX_INDEXES} deep", url))
    return images, below


class _State:
    """The state of a worker process between units: an event loop with its caches."""

    def __init__(self, fetch: FetchOptions) -> None:
        self._fetch = fetch
        self._loops: dict[bool, FetchLoop] = {}

    def loop(self, for_sitemaps: bool) -> FetchLoop:
        """Return the client for pages, or for sitemaps, which many sites keep out of indexes as such."""
        if for_sitemaps not in self._loops:
            honoured = tuple(name for name in self._fetch.opt_out if name != "x-robots-tag")
            options = replace(self._fetch, opt_out=honoured) if for_sitemaps else self._fetch
            self._loops[for_sitemaps] = FetchLoop(options)
            weakref.finalize(self, self._loops[for_sitemaps].close)
        return self._loops[for_sitemaps]


@dataclass(frozen=True, kw_only=True)
class PagesWorker:
    """Fetch one unit of pages."""

    folder: str
    fetch: FetchOptions
    depth: int
    formats: tuple[str, ...]

    def open(self) -> _State:
        """Start the loop, once a process."""
        return _State(self.fetch)

    def run(self, state: _State, task: PageUnit) -> FetchedPages:
        """Write NAME@ATTEMPT.images.parquet and .found.parquet, by the pages' positions, and the marker."""
        return kept.attempt(self.folder, task.name, partial(self._fetch, state, task))

    def _fetch(self, state: _State, task: PageUnit, attempt: str, store: kept.Kept) -> FetchedPages:
        unit = schemas.read_table(task.path)
        images: list[tuple[int, Image]] = []
        found: list[tuple[int, FoundLink]] = []
        judged = sorted(self._fetched(state, unit, store), key=lambda one: one[0])
        for position, its_images, its_found in judged:
            images += ((position, image) for image in its_images)
            found += ((position, one) for one in its_found)
        # Another attempt may see other pages; the files that count are those that the marker names.
        base = storage.join(self.folder, task.name) + attempt
        page_tables.write(f"{base}.images.parquet", images)
        rows = (
            (position, one.url, one.kind, one.depth, one.tries, one.page_url, one.any_site)
            for position, one in found
        )
        schemas.write_table(f"{base}.found.parquet", schemas.to_table(rows, FOUND_ROWS))
        return FetchedPages(
            name=task.name, path=f"{base}.images.parquet", found=f"{base}.found.parquet", pages=len(unit),
            images=len(images),
        )  # fmt: skip

    def _fetched(
        self, state: _State, unit: pa.Table, store: kept.Kept
    ) -> Iterator[tuple[int, list[Image], list[FoundLink]]]:
        rows = {row["position"]: row for row in unit.to_pylist()}
        shares = {row["site"]: share(row["lanes"]) for row in rows.values()}
        for record in store.records:
            position = record.header["key"]
            yield position, *self._judged(rows.pop(position), _kept_answer(record, store))
        for kind in (True, False):  # in turn: each client keeps a pace of its own
            wanted = [(position, row["url"]) for position, row in rows.items() if is_sitemap(row) == kind]
            for position, outcome in state.loop(kind).run(wanted, shares=shares) if wanted else ():
                assert isinstance(position, int)
                if outcome.reason not in kept.NO_VERDICTS:
                    _keep(store, position, outcome)
                yield position, *self._judged(rows[position], outcome)

    def _judged(self, row: dict[str, object], outcome: Outcome) -> tuple[list[Image], list[FoundLink]]:
        try:
            return judge(row, outcome, self.depth, self.formats)
        except Exception as error:  # noqa: BLE001 - one page must not end a unit: it is counted
            detail = f"internal_error: {type(error).__name__}: {error}"
            return [unavailable(str(row["url"]), detail)], []


def _keep(store: kept.Kept, position: int, outcome: Outcome) -> None:
    header = {"key": position, **{name: getattr(outcome, name) for name in _KEPT}}
    store.add(header, zstandard.compress(outcome.body, 1))


def _kept_answer(record: kept.KeptRecord, store: kept.Kept) -> Outcome:
    known = {name: record.header.get(name, "") for name in _KEPT}
    body = zstandard.decompress(store.body(record.place))
    return Outcome(url="", body=body, elapsed=0.0, address="", retry_after=None, **known)
