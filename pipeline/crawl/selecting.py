"""Drive the first two stages: read and judge the sources, then decide whom to try first."""

import math

import numpy as np

from pipeline import storage
from pipeline.crawl.extending import known_rows, known_samples, known_shared_captions, stored_samples
from pipeline.crawl.job import SLICE_ROWS, Crawl, add_counts, gather
from pipeline.crawl.paging import fetch_pages
from pipeline.flow.markers import Result, read_vector, write_vector
from pipeline.sources import Piece
from pipeline.stages.candidates import CandidatesWorker
from pipeline.stages.extend import NewShuffler
from pipeline.stages.select import AdmitWorker, DedupeShuffler, PairCounter, SharedCaptionShuffler


def candidates(crawl: Crawl, pieces: list[Piece]) -> Result:
    """Read, judge and match every piece of the sources."""
    config, folder = crawl.config, crawl.layout.stage("candidates")
    pieces = fetch_pages(crawl, pieces)
    tasks = [{"name": f"{index:06d}", "piece": list(piece)} for index, piece in enumerate(pieces)]
    worker = CandidatesWorker(
        folder=folder, queries=crawl.layout.queries, sources=config.sources,
        formats=config.images.formats, rules=config.text,
        lang=config.lang, mask=config.mask_contacts, max_captions=config.max_captions,
        root=crawl.layout.root,
        honour_pages="page" in config.fetch.opt_out, fetch=config.fetch,
    )  # fmt: skip
    results = crawl.runner.tasks("candidates", folder, tasks, worker, _seconds(pieces))
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


def select(crawl: Crawl, found: Result) -> Result:
    """Deduplicate, drop shared texts, count, and find the first round's thresholds."""
    config, layout = crawl.config, crawl.layout
    partitions = crawl.partitions(found["rows"] + (known_rows(crawl.base) if crawl.base else 0))
    files = gather([(path, rows) for path, rows in found["files"]], SLICE_ROWS * partitions)
    folder = layout.stage("select", "deduplicated")
    shuffler = DedupeShuffler(folder=folder, partitions=partitions, max_captions=config.max_captions)
    if crawl.base:
        shuffler = NewShuffler(
            folder=folder, partitions=partitions, max_captions=config.max_captions, queries=crawl.queries
        )
    known = known_samples(crawl.base) if crawl.base else []
    deduplicated = crawl.runner.shuffle("deduplicate", folder, [*files, *known], shuffler, partitions)
    shared = _shared_captions(crawl, deduplicated, partitions)
    folder = layout.stage("select", "samples")
    tasks = [{"name": r["name"], "path": r["path"]} for r in deduplicated]
    samples = crawl.runner.tasks(
        "count", folder, tasks, AdmitWorker(folder=folder, queries=crawl.queries, shared=shared)
    )
    stored = stored_samples(crawl)
    first = np.full(crawl.queries.queries, int(np.ceil(config.per_query * config.headroom)), np.int64)
    thresholds(crawl, 0, [*samples, *stored], first)
    rejected = [storage.sibling(r["path"], ".rejected.parquet") for r in [*deduplicated, *samples]]
    return {
        "samples": samples,
        "stored": stored,
        "moved": [r["moved"] for r in deduplicated if "moved" in r],
        "count": sum(r["samples"] for r in samples),
        "rejected": rejected,
        "reasons": add_counts(r["rejected"] for r in [*deduplicated, *samples]),
    }


def _shared_captions(crawl: Crawl, files: list[Result], partitions: int) -> str:
    path = crawl.layout.stage("select", "shared_captions")
    if storage.exists(path):
        return path
    hashes = [np.zeros(0, np.uint64), *(known_shared_captions(crawl.base) if crawl.base else [])]
    if crawl.config.shared_captions:
        folder = crawl.layout.stage("select", "shared")
        inputs = gather([(r["path"], r["rows"]) for r in files], SLICE_ROWS * partitions)
        shuffler = SharedCaptionShuffler(
            folder=folder, partitions=partitions, limit=crawl.config.shared_captions
        )
        results = crawl.runner.shuffle("shared captions", folder, inputs, shuffler, partitions)
        hashes += [read_vector(r["path"]) for r in results]
    write_vector(path, np.unique(np.concatenate(hashes)))
    return path


def thresholds(crawl: Crawl, number: int, samples: list[Result], rank: np.ndarray) -> str:
    """Find the thresholds of a round: each query's sample of smallest priority number `rank`."""
    folder = crawl.layout.tried(number)
    crawl.runner.thresholds(folder, samples, PairCounter(queries=crawl.queries), rank)
    return folder
