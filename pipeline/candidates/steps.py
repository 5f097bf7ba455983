"""The steps of candidates: fetch the pages, then read, judge and match every piece of the sources."""

import math

from pipeline import storage
from pipeline.candidates.judge import CandidatesWorker
from pipeline.candidates.paging import fetch_pages
from pipeline.crawl import Crawl, add_counts
from pipeline.flow.markers import Result, Task
from pipeline.flow.runner import Runner
from pipeline.sources import Piece


def candidates(crawl: Crawl, runner: Runner, pieces: list[Piece]) -> Result:
    """Read, judge and match every piece of the sources."""
    config, folder = crawl.config, crawl.layout.stage("candidates")
    pieces = fetch_pages(crawl, runner, pieces)
    tasks: list[Task] = [{"name": f"{index:06d}", "piece": list(piece)} for index, piece in enumerate(pieces)]
    worker = CandidatesWorker(
        folder=folder, queries=crawl.layout.queries, sources=config.sources,
        formats=config.images.formats, rules=config.text,
        lang=config.lang, mask=config.mask_contacts, max_captions=config.max_captions,
        root=crawl.layout.root,
        honour_pages="page" in config.fetch.opt_out, fetch=config.fetch,
    )  # fmt: skip
    results = runner.tasks("candidates", folder, tasks, worker, _seconds(pieces))
    files = [[storage.join(folder, f"{r['name']}.parquet"), r["rows"]] for r in results]
    return {
        "files": files,
        "rejected": [storage.join(folder, f"{r['name']}.rejected.parquet") for r in results],
        "reasons": add_counts(r["rejected"] for r in results),
        **{name: sum(r[name] for r in results) for name in ("images", "candidates", "rows")},
    }


def _seconds(pieces: list[Piece]) -> float:
    """Return how long the pieces take one core to read, at 10 MB/s or 500 pages/s; remote ones take long."""
    if any(not storage.is_local(piece.path) for piece in pieces):
        return math.inf
    files = {piece.path for piece in pieces if piece.format != "html"}
    pages = sum(piece.end - piece.start for piece in pieces if piece.format == "html")
    return sum(storage.file_info(path).size for path in files) / 1e7 + pages / 500
