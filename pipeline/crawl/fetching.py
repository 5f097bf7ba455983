"""Drive the fetching: rounds of work units, until no query is short of anything that is still to be tried."""

import numpy as np

from pipeline import balance, storage
from pipeline.crawl.extending import count_stored
from pipeline.crawl.job import Crawl, add_counts, require_contact
from pipeline.crawl.retrying import RESTORED, repeat_thresholds, retries
from pipeline.crawl.selecting import thresholds
from pipeline.flow import kept
from pipeline.flow.markers import Result, Task, read_vector
from pipeline.run import Layout
from pipeline.stages.fetch import FetchWorker
from pipeline.stages.merge import MergeShuffler
from pipeline.stages.rounds import UnitShuffler
from pipeline.stages.select import PairCounter

SECONDS_PER_IMAGE = 0.005
"""Of one core, to fetch and store an image (docs/benchmarks.md)."""


def fetch(crawl: Crawl, selected: Result) -> Result:
    """Fetch in rounds until no query is short of anything that is still to be tried."""
    config, layout = crawl.config, crawl.layout
    units: list[Result] = []  # {"unit", "fetched", "round"} of all rounds
    rounds: list[Result] = []
    rank = read_vector(storage.join(layout.tried(0), "rank"))
    stored = selected.get("stored", [])  # of a run that is extended: they have arrived already
    again = retries(layout)  # rounds after the last one that --rounds allowed or needed
    for number in range(again[-1] + 1 if again else config.rounds):
        tried = layout.tried(number)
        new = cut_units(crawl, number, selected["samples"], [u for u in units if u["round"] == number - 1])
        if not new and number:
            break
        require_contact(config.fetch, [unit["path"] for unit in new])
        folder = layout.stage("fetch", f"round-{number}")
        worker = FetchWorker(
            folder=folder, fetch=config.fetch, images=config.images, seed=config.seed,
            scorer=config.scorer, keep_if=config.keep_if, hash_list=config.hash_list, root=layout.root,
        )  # fmt: skip
        tasks = [{**u, "unit": u["path"], "blob": f"round-{number}/{u['name']}"} for u in new]
        seconds = sum(max(task["seconds"], task["images"] * SECONDS_PER_IMAGE) for task in tasks)
        results = crawl.runner.tasks(f"fetch, round {number}", folder, tasks, worker, seconds)
        kept.remove(folder)
        units += [{"unit": r["unit"], "fetched": r["fetched"], "round": number} for r in results]
        merged = _merge(crawl, number, units, tried, stored)
        counts = read_vector(layout.stage("fetch", f"arrived-{number}", "counts"))
        matched = read_vector(storage.join(layout.tried(0), "counts"))[0]
        rounds.append(
            {
                "images": sum(r["images"] for r in results), "bytes": sum(r["bytes"] for r in results),
                "reasons": add_counts(r["reasons"] for r in results), "merged": merged,
            }
        )  # fmt: skip
        rank = balance.next_rank(
            np.minimum(rank, matched), matched, counts[-1], config.per_query, config.headroom
        )
        if number + 1 in again:
            repeat_thresholds(layout, number + 1)
        elif number + 1 < (again[0] if again else config.rounds):
            thresholds(crawl, number + 1, [*selected["samples"], *stored], rank)
    return {"units": units, "rounds": rounds, "last": len(rounds) - 1}


def cut_units(crawl: Crawl, number: int, samples: list[Result], before: list[Result]) -> list[Result]:
    """Cut a round's work units: samples not yet tried, and retries of the units of the round before."""
    config, layout = crawl.config, crawl.layout
    folder = layout.stage("fetch", f"units-{number}")
    inputs: list[Task] = [{"path": r["path"]} for r in samples]
    inputs += [{"unit": u["unit"], "fetched": u["fetched"]} for u in before]
    partitions = crawl.partitions(sum(r["samples"] for r in samples))
    shuffler = UnitShuffler(
        folder=folder, partitions=partitions, queries=crawl.queries, fetch=config.fetch,
        limits=config.units, number=number,
        thresholds=storage.join(layout.tried(number), "thresholds"),
        previous=storage.join(layout.tried(number - 1), "thresholds") if number else "",
        arrived=layout.stage("fetch", f"arrived-{number - 1}", "thresholds") if number else "",
    )  # fmt: skip
    results = crawl.runner.shuffle(f"units, round {number}", folder, inputs, shuffler, partitions)
    return [
        {**unit, "path": storage.join(folder, f"{unit['name']}.parquet")}
        for r in results
        for unit in r["units"]
    ]


def _merge(crawl: Crawl, number: int, units: list[Result], tried: str, stored: list[Result]) -> list[Result]:
    """Merge all that arrived so far and find which samples each query keeps of it."""
    config, layout = crawl.config, crawl.layout
    folder = layout.stage("fetch", f"merged-{number}")
    by_bytes = config.dedup != "off"
    inputs = [*units, *({"stored": r["path"]} for r in stored if by_bytes)]
    stored_rows = sum(r["samples"] for r in stored if by_bytes)
    partitions = crawl.partitions(len(units) * config.units.unit_images + stored_rows)
    shuffler = MergeShuffler(
        folder=folder, partitions=partitions, queries=crawl.queries,
        max_captions=config.max_captions, thresholds=storage.join(tried, "thresholds"),
        placeholder_captions=config.placeholder_captions, by_bytes=by_bytes, drop=config.drop,
    )  # fmt: skip
    merged = crawl.runner.shuffle(f"merge, round {number}", folder, inputs, shuffler, partitions)
    rank = np.full(crawl.queries.queries, config.per_query, np.int64)
    folder = layout.stage("fetch", f"arrived-{number}")
    arrived = [*merged, *count_stored(crawl, number, stored, tried)]
    crawl.runner.thresholds(folder, arrived, PairCounter(queries=crawl.queries), rank)
    return merged


def remove_staging(layout: Layout, fetched: Result) -> None:
    """Remove the staged images of a verified run; their rows stay, and a note that the images went."""
    storage.write_bytes(layout.stage("fetch", "removed.stage"), b"true")
    for number in range(fetched["last"] + 1):
        for path in storage.list_files(layout.stage("fetch", f"round-{number}"), ".blob"):
            storage.remove_tree(path)
    storage.remove_tree(layout.stage("fetch", RESTORED))
