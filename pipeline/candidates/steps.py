"""The steps of candidates: fetch the pages, then read, judge and match every piece of the sources."""

import math

from pipeline import storage
from pipeline.candidates.judge import CandidatesWorker
from pipeline.candidates.page_passes import fetch_pages
from pipeline.candidates.parts import JudgedPiece, PieceTask
from pipeline.crawl import Crawl, add_counts
from pipeline.flow.runner import Runner
from pipeline.sources import Piece
from pipeline.stages import Candidates


def candidates(crawl: Crawl, runner: Runner, pieces: list[Piece]) -> Candidates:
    """Read, judge and match every piece of the sources."""
    config, folder = crawl.config, crawl.layout.stage("candidates")
    pieces = fetch_pages(crawl, runner, pieces)
    tasks = [PieceTask(name=f"{index:06d}", piece=piece) for index, piece in enumerate(pieces)]
    worker = CandidatesWorker(
        folder=folder, queries=crawl.layout.queries, sources=config.sources,
        formats=config.images.formats, rules=config.text,
        lang=config.lang, mask=config.mask_contacts, max_captions=config.max_captions,
        root=crawl.layout.root,
        honour_pages="page" in config.fetch.opt_out, fetch=config.fetch, rule=config.rule,
    )  # fmt: skip
    judged = runner.tasks("candidates", folder, tasks, worker, JudgedPiece, _seconds(pieces))
    return Candidates(
        pieces=tuple(judged), reasons=add_counts(piece.rejected for piece in judged),
        images=sum(piece.images for piece in judged),
        candidates=sum(piece.candidates for piece in judged), rows=sum(piece.rows for piece in judged),
    )  # fmt: skip


def _seconds(pieces: list[Piece]) -> float:
    """Return how long the pieces take one core to read, at 10 MB/s or 500 pages/s; remote ones take long."""
    if any(not storage.is_local(piece.path) for piece in pieces):
        return math.inf
    files = {piece.path for piece in pieces if piece.format != "html"}
    pages = sum(piece.end - piece.start for piece in pieces if piece.format == "html")
    return sum(storage.file_info(path).size for path in files) / 1e7 + pages / 500
