"""The steps of a round: the images to try, the units, their answers, and the images that each query keeps."""

from functools import partial

import numpy as np

from pipeline import balance, storage
from pipeline.crawl import Crawl
from pipeline.extend.parts import Stored, StoredCounts
from pipeline.extend.steps import count_stored, stored_of
from pipeline.fetch.merge import MergeShuffler
from pipeline.fetch.parts import Fetched, Merged, Unit, Units
from pipeline.fetch.retry_failed import repeat_thresholds, retries
from pipeline.fetch.units import UnitShuffler
from pipeline.fetch.worker import FetchWorker
from pipeline.flow.markers import read_vector
from pipeline.flow.steps import Shuffle, Step, Tasks, Thresholds, Work, results_in
from pipeline.rights import licences
from pipeline.select.parts import Samples, SampleTable
from pipeline.select.workers import PairCounter

SECONDS_PER_IMAGE = 0.005
"""Of one core, to fetch and store an image (docs/benchmarks.md)."""


def steps_of(crawl: Crawl, number: int, *, is_last: bool) -> list[Step]:
    """Return the steps of a round whose units are cut; those of the next round, unless it is the last."""
    steps = [_fetch(crawl, number), _merge(crawl, number)]
    steps += [*count_stored(crawl, number), _arrived(crawl, number)]
    if not is_last:
        if number + 1 not in retries(crawl.layout):
            steps.append(thresholds(crawl, number + 1))
        steps.append(cut_units(crawl, number + 1))
    return steps


def thresholds(crawl: Crawl, number: int) -> Step:
    """Find up to which priority a round tries the samples of each query."""
    return Thresholds(
        label=f"thresholds, round {number}", folder=crawl.layout.tried(number),
        plan=partial(_plan_thresholds, crawl, number), counter=PairCounter(queries=crawl.queries),
    )  # fmt: skip


def _plan_thresholds(crawl: Crawl, number: int) -> Work:
    config, layout = crawl.config, crawl.layout
    if not number:
        rank = np.full(crawl.queries.queries, int(np.ceil(config.per_query * config.headroom)), np.int64)
        return Work(tasks=_samples(crawl), rank=rank)
    before = layout.tried(number - 1)
    matched = read_vector(storage.join(layout.tried(0), "counts"))[0]
    counts = read_vector(storage.join(crawl.layout.arrived(number - 1), "counts"))
    tried = np.minimum(read_vector(storage.join(before, "rank")), matched)
    rank = balance.next_rank(tried, matched, counts[-1], config.per_query, config.headroom)
    return Work(tasks=_samples(crawl), rank=rank)


def _samples(crawl: Crawl) -> list[SampleTable]:
    """Return the samples that may be tried, and those that an extended run has already."""
    return [*results_in(crawl.layout.stage("select", "samples"), Samples), *stored_of(crawl)]


def cut_units(crawl: Crawl, number: int) -> Step:
    """Cut a round's work units: samples not yet tried, and retries of the units of the round before."""
    config, layout = crawl.config, crawl.layout
    folder = crawl.layout.units(number)
    shuffler = UnitShuffler(
        folder=folder, queries=crawl.queries, fetch=config.fetch,
        limits=config.units, number=number,
        thresholds=storage.join(layout.tried(number), "thresholds"),
        previous=storage.join(layout.tried(number - 1), "thresholds") if number else "",
        arrived=storage.join(crawl.layout.arrived(number - 1), "thresholds") if number else "",
    )  # fmt: skip
    plan = partial(_plan_units, crawl, number)
    return Shuffle(label=f"units, round {number}", folder=folder, plan=plan, shuffler=shuffler)


def _plan_units(crawl: Crawl, number: int) -> Work:
    if number in retries(crawl.layout):
        repeat_thresholds(crawl.layout, number)
    samples = results_in(crawl.layout.stage("select", "samples"), Samples)
    failed = fetched_in(crawl, number - 1) if number else []
    partitions = crawl.partitions(sum(one.samples for one in samples))
    return Work(tasks=[*samples, *failed], partitions=partitions)


def units_of(crawl: Crawl, number: int) -> list[Unit]:
    """Return the units of a round that were cut."""
    return [unit for part in results_in(crawl.layout.units(number), Units) for unit in part.units]


def fetched_in(crawl: Crawl, number: int) -> list[Fetched]:
    """Return the units of a round that were fetched."""
    return results_in(crawl.layout.round(number), Fetched)


def _fetch(crawl: Crawl, number: int) -> Step:
    config = crawl.config
    folder = crawl.layout.round(number)
    worker = FetchWorker(
        folder=folder, blobs=f"round-{number}", fetch=config.fetch, images=config.images, seed=config.seed,
        scorer=config.scorer, keep_if=config.keep_if, hash_list=config.hash_list, root=crawl.layout.root,
        licences=licences.wanted(config.licence), drop_synthetic=config.drop_synthetic,
    )  # fmt: skip
    plan = partial(_plan_fetch, crawl, number)
    return Tasks(label=f"fetch, round {number}", folder=folder, plan=plan, worker=worker)


def _plan_fetch(crawl: Crawl, number: int) -> Work:
    tasks = units_of(crawl, number)
    seconds = sum(max(unit.seconds, unit.images * SECONDS_PER_IMAGE) for unit in tasks)
    return Work(tasks=tasks, seconds=seconds)


def _merge(crawl: Crawl, number: int) -> Step:
    """Merge all images that arrived so far; those of the same bytes are joined."""
    config = crawl.config
    folder = crawl.layout.merged(number)
    shuffler = MergeShuffler(
        folder=folder, queries=crawl.queries, max_captions=config.max_captions, round=number,
        thresholds=storage.join(crawl.layout.tried(number), "thresholds"),
        placeholder_captions=config.placeholder_captions, by_bytes=config.dedup != "off", drop=config.drop,
        licences=licences.wanted(config.licence),
    )  # fmt: skip
    plan = partial(_plan_merge, crawl, number)
    return Shuffle(label=f"merge, round {number}", folder=folder, plan=plan, shuffler=shuffler)


def _plan_merge(crawl: Crawl, number: int) -> Work:
    units = [unit for earlier in range(number + 1) for unit in fetched_in(crawl, earlier)]
    stored = stored_of(crawl) if crawl.config.dedup != "off" else []
    inputs: list[Fetched | Stored] = [*units, *stored]
    rows = len(units) * crawl.config.units.unit_images + sum(one.samples for one in stored)
    return Work(tasks=inputs, partitions=crawl.partitions(rows))


def _arrived(crawl: Crawl, number: int) -> Step:
    """Find which samples each query keeps of all that arrived so far."""
    return Thresholds(
        label=f"arrived, round {number}", folder=crawl.layout.arrived(number),
        plan=partial(_plan_arrived, crawl, number), counter=PairCounter(queries=crawl.queries),
    )  # fmt: skip


def _plan_arrived(crawl: Crawl, number: int) -> Work:
    counted = [result for step in count_stored(crawl, number) for result in step.results(StoredCounts)]
    rank = np.full(crawl.queries.queries, crawl.config.per_query, np.int64)
    return Work(tasks=[*results_in(crawl.layout.merged(number), Merged), *counted], rank=rank)
