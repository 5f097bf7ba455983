"""The steps of select: each URL once, no shared texts, and whom to try first."""

from functools import partial

import numpy as np

from pipeline import run_folder
from pipeline.crawl import SLICE_ROWS, Crawl, add_counts, gather
from pipeline.extend.steps import known_rows, known_samples, known_shared_captions, stored_samples
from pipeline.extend.workers import NewShuffler
from pipeline.fetch.rounds import cut_units, thresholds
from pipeline.flow.markers import read_vector, write_vector
from pipeline.flow.runner import Runner
from pipeline.flow.steps import Shuffle, Step, Tasks, Work, results_in
from pipeline.select.parts import Deduplicated, Samples, SharedCaptions
from pipeline.select.workers import AdmitWorker, DedupeShuffler, SharedCaptionShuffler
from pipeline.stages import Candidates, Selected


def select(crawl: Crawl, runner: Runner) -> Selected:
    """Deduplicate, drop shared texts, count, and find the first round's thresholds, and its units."""
    config, layout = crawl.config, crawl.layout
    deduplicated = _deduplicate(crawl)
    shared = _shared_captions(crawl)
    folder = layout.stage("select", "samples")
    count = Tasks(
        label="count", folder=folder, plan=partial(_plan_count, crawl),
        worker=AdmitWorker(folder=folder, queries=crawl.queries, shared=_shared_path(crawl)),
    )  # fmt: skip
    steps = [deduplicated, *shared, count, *stored_samples(crawl), thresholds(crawl, 0)]
    if config.stage == "all":  # one job less
        steps.append(cut_units(crawl, 0))
    runner.run(steps)
    by_url, samples = deduplicated.results(Deduplicated), count.results(Samples)
    return Selected(
        deduplicated=tuple(by_url), samples=tuple(samples), count=sum(one.samples for one in samples),
        reasons=add_counts([*(one.rejected for one in by_url), *(one.rejected for one in samples)]),
    )  # fmt: skip


def _deduplicate(crawl: Crawl) -> Step:
    folder, most = crawl.layout.stage("select", "deduplicated"), crawl.config.max_captions
    shuffler = DedupeShuffler(folder=folder, max_captions=most)
    if crawl.base:
        shuffler = NewShuffler(folder=folder, max_captions=most, queries=crawl.queries)
    plan = partial(_plan_deduplicate, crawl)
    return Shuffle(label="deduplicate", folder=folder, plan=plan, shuffler=shuffler)


def _partitions(crawl: Crawl, candidates: Candidates) -> int:
    return crawl.partitions(candidates.rows + (known_rows(crawl.base) if crawl.base else 0))


def _plan_deduplicate(crawl: Crawl) -> Work:
    candidates = run_folder.done(crawl.layout, Candidates)
    partitions = _partitions(crawl, candidates)
    files = gather(((piece.path, piece.rows) for piece in candidates.pieces), SLICE_ROWS * partitions)
    known = known_samples(crawl.base) if crawl.base else []
    return Work(tasks=[*files, *known], partitions=partitions)


def _shared_path(crawl: Crawl) -> str:
    return crawl.layout.stage("select", "shared_captions")


def _shared_captions(crawl: Crawl) -> list[Step]:
    """Return the steps that find the texts at too many images, if they are to be dropped."""
    if not crawl.config.shared_captions:
        return []
    folder = crawl.layout.stage("select", "shared")
    shuffler = SharedCaptionShuffler(folder=folder, limit=crawl.config.shared_captions)
    plan = partial(_plan_shared, crawl)
    return [Shuffle(label="shared captions", folder=folder, plan=plan, shuffler=shuffler)]


def _plan_shared(crawl: Crawl) -> Work:
    partitions = _partitions(crawl, run_folder.done(crawl.layout, Candidates))
    deduplicated = results_in(crawl.layout.stage("select", "deduplicated"), Deduplicated)
    inputs = gather(((one.path, one.rows) for one in deduplicated), SLICE_ROWS * partitions)
    return Work(tasks=inputs, partitions=partitions)


def _plan_count(crawl: Crawl) -> Work:
    """Join the texts that are shared in the sources or were in the run, for all tasks."""
    hashes = [np.zeros(0, np.uint64), *(known_shared_captions(crawl.base) if crawl.base else [])]
    if crawl.config.shared_captions:
        shared = results_in(crawl.layout.stage("select", "shared"), SharedCaptions)
        hashes += [read_vector(one.path) for one in shared]
    write_vector(_shared_path(crawl), np.unique(np.concatenate(hashes)))
    return Work(tasks=results_in(crawl.layout.stage("select", "deduplicated"), Deduplicated))
