"""Drive the fetching of pages, pass by pass: pages the user named, pages in sitemaps, linked pages.

Each pass is cut into units that are fetched politely and leave durable files, as images are; between passes
the launcher decides what comes next, so that no page is asked for twice and no site's calendar without end.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline import schemas, storage, tombstones, urls
from pipeline.candidates.page_worker import FoundLink, PagesWorker
from pipeline.candidates.parts import FOUND_ROWS, PAGE_ROWS, FetchedPages, PageLimits, PageUnit, PageUnits
from pipeline.crawl import Crawl, require_contact
from pipeline.fetch.lanes import cut
from pipeline.flow import kept
from pipeline.flow.markers import mark, read_marker
from pipeline.flow.parts import only
from pipeline.flow.runner import Runner
from pipeline.http.rate_limit import site_delay
from pipeline.sources import Piece, page_tables, sitemap
from pipeline.sources.inputs import is_web
from pipeline.sources.records import Image
from pipeline.tombstones import Tombstones

FORMAT: Final = "pages"


class Wanted(NamedTuple):
    """The pages to fetch: the columns of PAGE_ROWS between position and lanes."""

    url: str
    kind: str
    depth: int
    tries: int
    site: str


def fetch_pages(crawl: Crawl, runner: Runner, pieces: list[Piece]) -> list[Piece]:
    """Fetch the pages that the pieces name and lead to; return pieces that hold their images instead."""
    named = [piece.path for piece in pieces if piece.format == FORMAT]
    if not named:
        return pieces
    frontier = Frontier(crawl)
    images: list[str] = []
    wave = frontier.admit((0, one) for path in named for one in _named(path))
    number = 0
    while wave:
        results, wave = _pass(crawl, runner, number, wave)
        images += [result.path for result in results]
        wave += frontier.admit(_found(results))
        number += 1
    images.append(frontier.write_limits())
    others = [piece for piece in pieces if piece.format != FORMAT]
    return [*others, *(Piece(FORMAT, path, 0, -1, "", FORMAT) for path in images)]


def _named(path: str) -> Iterator[FoundLink]:
    """Yield the URLs that a source names: itself, or the URLs in a local list or sitemap."""
    if is_web(path):
        yield FoundLink(url=path, kind="source", any_site=True)
        return
    listed = sitemap.parse(storage.read_bytes(path))
    if listed is None or not listed.urls:
        raise ValueError(f"{path} is neither a sitemap nor a list of URLs, one per line")
    for url in listed.urls:
        yield FoundLink(url=url, kind="source", any_site=True)


def _found(results: list[FetchedPages]) -> Iterator[tuple[int, FoundLink]]:
    """Yield (position, result) in the order of the pages, however they were cut into units."""
    tables = [schemas.read_table(result.found) for result in results]
    table = pa.concat_tables([FOUND_ROWS.empty_table(), *tables])
    order = np.argsort(table["position"].to_numpy(), kind="stable")
    for row in table.take(pa.array(order)).to_pylist():
        yield row.pop("position"), FoundLink(**row)


class Frontier:
    """The pages asked for so far, and the room left under the limits."""

    def __init__(self, crawl: Crawl) -> None:
        self._crawl = crawl
        self._tombstones: Tombstones = tombstones.load(crawl.layout.root)
        self._seen: set[bytes] = set()
        self._by_site: Counter[str] = Counter()
        self._total = 0
        self._refused: Counter[str] = Counter()  # by site
        self._bad: list[Image] = []

    def admit(self, found: Iterable[tuple[int, FoundLink]]) -> list[Wanted]:
        """Return the URLs to fetch, each once, within its site unless it may leave it."""
        options, wave = self._crawl.config.sources, []
        for _, one in found:
            try:
                url = urls.resolve(one.url, one.page_url or None)
                site = urls.site(url)
                identity = bytes.fromhex(urls.uid(urls.canonical(url)))
            except urls.BadUrl as error:
                if one.kind != "page" or not one.depth:  # named by the user or a sitemap, not a mere link
                    self._bad.append(Image(one.url[:256], (), one.page_url, None, error.reason, str(error)))
                continue
            if not one.any_site and urls.site(one.page_url) != site:
                continue
            is_again = one.tries and one.url == one.page_url
            if (identity in self._seen and not is_again) or self._tombstones.has_url(url):
                continue
            is_new = identity not in self._seen
            self._seen.add(identity)
            if is_new and (self._total >= options.max_pages or self._by_site[site] >= options.max_site_pages):
                self._refused[site] += 1
                continue
            self._total += is_new
            self._by_site[site] += is_new
            wave.append(Wanted(url, one.kind, one.depth, one.tries, site))
        return wave

    def write_limits(self) -> str:
        """Publish rows for addresses not fetched: malformed URLs, and by site the number beyond a limit."""
        beyond = [
            Image("", (), f"http://{site}/", None, "page_limit", f"{count} pages more")
            for site, count in sorted(self._refused.items())
        ]
        folder = self._crawl.layout.stage("candidates", "pages")
        limits = PageLimits(name="limits", path=storage.join(folder, "limits.parquet"))
        if read_marker(folder, limits.name) is None:
            page_tables.write(limits.path, ((0, image) for image in [*self._bad, *beyond]))
            mark(folder, limits)
        return limits.path


def _pass(
    crawl: Crawl, runner: Runner, number: int, wave: list[Wanted]
) -> tuple[list[FetchedPages], list[Wanted]]:
    """Fetch the sitemaps of a wave or, if there are none, all of it; return the results and the pages left.

    Not both at once: in two units of one pass a site would be asked at twice its rate.
    """
    sitemaps = [one for one in wave if one.kind == "sitemap"]
    now, later = (sitemaps, [one for one in wave if one.kind != "sitemap"]) if sitemaps else (wave, [])
    tasks = _cut(crawl, number, now)
    require_contact(crawl.config.fetch, [task.path for task in tasks], "url")
    folder = crawl.layout.stage("candidates", "pages", f"pass-{number}")
    config = crawl.config
    worker = PagesWorker(
        folder=folder, fetch=config.fetch, depth=config.sources.depth, formats=config.images.formats
    )
    results = runner.tasks(f"pages, pass {number}", folder, tasks, worker, FetchedPages, seconds=math.inf)
    kept.remove(folder)
    return results, later


def _cut(crawl: Crawl, number: int, wave: list[Wanted]) -> tuple[PageUnit, ...]:
    """Write a pass's units, once."""
    folder = crawl.layout.stage("candidates", "pages", f"units-{number}")
    marker = read_marker(folder, "units")
    if marker is not None:
        return only(marker, PageUnits).units
    # Passes follow links, so deferred pages would be lost: each site has the time that it needs.
    fetch, limits = crawl.config.fetch, replace(crawl.config.units, unit_seconds=math.inf)
    sites = pa.array([one.site for one in wave], pa.string())
    units = []
    for index, lanes in enumerate(cut(sites, lambda site: site_delay(site, fetch), limits)):
        rows = sorted((int(i), lane.lanes) for lane in lanes for i in lane.images)
        name = f"{index:06d}"
        unit = PageUnit(name=name, path=storage.join(folder, f"{name}.parquet"))
        table = schemas.to_table(((i, *wave[i], count) for i, count in rows), PAGE_ROWS)
        schemas.write_table(unit.path, table)
        units.append(unit)
    mark(folder, PageUnits(name="units", units=tuple(units)))
    return tuple(units)
