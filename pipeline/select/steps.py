"""The steps of select: each URL once, no shared texts, and whom to try first."""

from functools import partial

import numpy as np

from pipeline import run, storage
from pipeline.crawl import SLICE_ROWS, Crawl, add_counts, gather, tasks_of
from pipeline.extend.steps import known_rows, known_samples, known_shared_captions, stored_samples
from pipeline.extend.workers import NewShuffler
from pipeline.fetch.rounds import cut_units, thresholds
from pipeline.flow.markers import Result, read_vector, write_vector
from pipeline.flow.runner import Runner
from pipeline.flow.steps import Shuffle, Step, Tasks, Work, results_in
from pipeline.select.workers import AdmitWorker, DedupeShuffler, SharedCaptionShuffler


def select(crawl: Crawl, runner: Runner) -> Result:
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
    by_url, samples = deduplicated.results(), count.results()
    return {
        "samples": samples,
        "moved": [r["moved"] for r in by_url if "moved" in r],
        "count": sum(r["samples"] for r in samples),
        "rejected": [storage.sibling(r["path"], ".rejected.parquet") for r in [*by_url, *samples]],
        "reasons": add_counts(r["rejected"] for r in [*by_url, *samples]),
    }


def _deduplicate(crawl: Crawl) -> Step:
    folder, most = crawl.layout.stage("select", "deduplicated"), crawl.config.max_captions
    shuffler = DedupeShuffler(folder=folder, max_captions=most)
    if crawl.base:
        shuffler = NewShuffler(folder=folder, max_captions=most, queries=crawl.queries)
    plan = partial(_plan_deduplicate, crawl)
    return Shuffle(label="deduplicate", folder=folder, plan=plan, shuffler=shuffler)


def _partitions(crawl: Crawl, found: Result) -> int:
    return crawl.partitions(found["rows"] + (known_rows(crawl.base) if crawl.base else 0))


def _plan_deduplicate(crawl: Crawl) -> Work:
    found = run.done(crawl.layout, "candidates")
    assert found is not None, "the stage before"
    partitions = _partitions(crawl, found)
    files = gather([(path, rows) for path, rows in found["files"]], SLICE_ROWS * partitions)
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
    found = run.done(crawl.layout, "candidates")
    assert found is not None, "the stage before"
    partitions = _partitions(crawl, found)
    deduplicated = results_in(crawl.layout.stage("select", "deduplicated"))
    inputs = gather([(r["path"], r["rows"]) for r in deduplicated], SLICE_ROWS * partitions)
    return Work(tasks=inputs, partitions=partitions)


def _plan_count(crawl: Crawl) -> Work:
    """Join the texts that are shared in the sources or were in the run, for all tasks."""
    hashes = [np.zeros(0, np.uint64), *(known_shared_captions(crawl.base) if crawl.base else [])]
    if crawl.config.shared_captions:
        hashes += [read_vector(r["path"]) for r in results_in(crawl.layout.stage("select", "shared"))]
    write_vector(_shared_path(crawl), np.unique(np.concatenate(hashes)))
    return Work(tasks=tasks_of(results_in(crawl.layout.stage("select", "deduplicated"))))
