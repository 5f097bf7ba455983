"""The crawl: candidates, select, fetch in rounds, finish; each durable, each continued where it stopped."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline import balance, manifest, querylist, records, storage
from pipeline.fetch_many import PUBLIC_DELAY
from pipeline.identity import requires_contact
from pipeline.options import CrawlConfig
from pipeline.run import Layout
from pipeline.sources import Piece
from pipeline.stages import graph
from pipeline.stages.candidates import CandidatesWorker
from pipeline.stages.fetch import FetchWorker
from pipeline.stages.files import Result, Task, read_vector, write_vector
from pipeline.stages.finish import (
    GROUP_SAMPLES,
    AssembleWorker,
    GroupShuffler,
    RejectWorker,
    WriteWorker,
    cut_shards,
)
from pipeline.stages.merge import MergeShuffler
from pipeline.stages.rounds import UnitShuffler
from pipeline.stages.select import (
    AdmitWorker,
    DedupeShuffler,
    PairCounter,
    QueryTable,
    SharedCaptionShuffler,
    UntriedWorker,
)

log = logging.getLogger(__name__)

# A slice of fewer rows is mostly headers; tables are gathered until the average slice has so many.
_SLICE_ROWS = 200
_REJECTED_ROWS_PER_FILE = 1_000_000
_SAMPLED_ROWS_PER_REASON = 100_000
_ALL_REJECTED_UP_TO = 10_000_000


@dataclass(frozen=True)
class Crawl:
    """What every stage of one crawl shares."""

    config: CrawlConfig
    layout: Layout
    runner: graph.Runner
    queries: QueryTable
    on_stage: Callable[[str, str, int], Any]  # told of a folder in which so many markers will appear

    def partitions(self, rows: int) -> int:
        """Return how many partitions hold so many rows."""
        return max(1, -(-rows // self.config.partition_rows))

    def at_once(self, partitions: int) -> int:
        """Return how many partitions one graph may hold: few where memory is not spilled."""
        return self.config.partitions_at_once if self.runner.is_local else partitions

    def tasks(self, label: str, folder: str, tasks: list[Task], worker: graph.Worker) -> list[Result]:
        """Run tasks with progress."""
        with self.on_stage(label, folder, len(tasks)):
            return graph.run_tasks(self.runner, folder, tasks, worker)

    def shuffle(
        self, label: str, folder: str, inputs: list[Task], make: graph.ShufflerOf, partitions: int
    ) -> list[Result]:
        """Run a shuffle with progress."""
        with self.on_stage(label, folder, partitions):
            return graph.run_shuffle(self.runner, folder, inputs, make, partitions, self.at_once(partitions))


def gather(files: list[tuple[str, int]], rows: int) -> list[Task]:
    """Group (path, rows) files into split tasks of at least so many rows."""
    tasks: list[Task] = []
    batch: list[str] = []
    total = 0
    for path, count in files:
        batch.append(path)
        total += count
        if total >= rows:
            tasks.append({"files": batch})
            batch, total = [], 0
    return [*tasks, {"files": batch}] if batch else tasks


def candidates(crawl: Crawl, pieces: list[Piece]) -> Result:
    """Read, judge and match every piece of the sources."""
    config, folder = crawl.config, crawl.layout.stage("candidates")
    tasks = [{"name": f"{index:06d}", "piece": list(piece)} for index, piece in enumerate(pieces)]
    worker = CandidatesWorker(
        folder=folder, queries=crawl.layout.queries, sources=config.sources, rules=config.text,
        lang=config.lang, mask=config.mask_contacts, max_captions=config.max_captions,
    )  # fmt: skip
    results = crawl.tasks("candidates", folder, tasks, worker)
    files = [[storage.join(folder, f"{r['name']}.parquet"), r["rows"]] for r in results]
    return {
        "files": files,
        "rejected": [storage.join(folder, f"{r['name']}.rejected.parquet") for r in results],
        "reasons": add_counts(r["rejected"] for r in results),
        **{name: sum(r[name] for r in results) for name in ("images", "candidates", "rows")},
    }


def select(crawl: Crawl, found: Result) -> Result:
    """Deduplicate, drop shared texts, count, and find the first round's thresholds."""
    config, layout = crawl.config, crawl.layout
    partitions = crawl.partitions(found["rows"])
    slice_rows = _SLICE_ROWS * crawl.at_once(partitions)
    files = gather([(path, rows) for path, rows in found["files"]], slice_rows)
    folder = layout.stage("select", "deduplicated")
    deduplicated = crawl.shuffle(
        "deduplicate", folder, files,
        lambda low, high: DedupeShuffler(
            folder=folder, partitions=partitions, low=low, high=high, max_captions=config.max_captions
        ), partitions,
    )  # fmt: skip
    shared = _shared_captions(crawl, deduplicated, partitions)
    folder = layout.stage("select", "samples")
    tasks = [{"name": r["name"], "path": r["path"]} for r in deduplicated]
    samples = crawl.tasks(
        "count", folder, tasks, AdmitWorker(folder=folder, queries=crawl.queries, shared=shared)
    )
    first = np.full(crawl.queries.queries, int(np.ceil(config.per_query * config.headroom)), np.int64)
    thresholds(crawl, 0, samples, first)
    rejected = [r["path"].replace(".parquet", ".rejected.parquet") for r in [*deduplicated, *samples]]
    return {
        "samples": samples,
        "count": sum(r["samples"] for r in samples),
        "rejected": rejected,
        "reasons": add_counts(r["rejected"] for r in [*deduplicated, *samples]),
    }


def _shared_captions(crawl: Crawl, files: list[Result], partitions: int) -> str:
    path = crawl.layout.stage("select", "shared_captions")
    if storage.exists(path):
        return path
    hashes = [np.zeros(0, np.uint64)]
    if crawl.config.shared_captions:
        folder = crawl.layout.stage("select", "shared")
        rows = _SLICE_ROWS * crawl.at_once(partitions)
        results = crawl.shuffle(
            "shared captions", folder, gather([(r["path"], r["rows"]) for r in files], rows),
            lambda low, high: SharedCaptionShuffler(
                folder=folder, partitions=partitions, low=low, high=high, limit=crawl.config.shared_captions
            ), partitions,
        )  # fmt: skip
        hashes += [read_vector(r["path"]) for r in results]
    write_vector(path, np.sort(np.concatenate(hashes)))
    return path


def thresholds(crawl: Crawl, number: int, samples: list[Result], rank: np.ndarray) -> str:
    """Find the thresholds of a round: each query's sample of smallest priority number `rank`."""
    folder = crawl.layout.stage("select", f"round-{number}")
    graph.run_thresholds(crawl.runner, folder, samples, PairCounter(queries=crawl.queries), rank)
    return folder


def fetch(crawl: Crawl, found: Result, selected: Result) -> Result:
    """Fetch in rounds until no query is short of anything that is still to be tried."""
    config, layout = crawl.config, crawl.layout
    units: list[Result] = []  # {"unit", "fetched", "round"} of all rounds
    rounds: list[Result] = []
    rank = read_vector(storage.join(layout.stage("select", "round-0"), "rank"))
    for number in range(config.rounds):
        tried = layout.stage("select", f"round-{number}")
        new = cut_units(crawl, number, selected["samples"], [u for u in units if u["round"] == number - 1])
        if not new and number:
            break
        require_contact(config.fetch.contact, [unit["path"] for unit in new])
        folder = layout.stage("fetch", f"round-{number}")
        worker = FetchWorker(
            folder=folder, fetch=config.fetch, images=config.images, seed=config.seed,
            scorer=config.scorer, keep_if=config.keep_if,
        )  # fmt: skip
        tasks = [{**u, "unit": u["path"], "blob": f"round-{number}/{u['name']}"} for u in new]
        results = crawl.tasks(f"fetch, round {number}", folder, tasks, worker)
        units += [{"unit": r["unit"], "fetched": r["fetched"], "round": number} for r in results]
        merged = _merge(crawl, number, units, tried)
        counts = read_vector(storage.join(layout.stage("fetch", f"arrived-{number}"), "counts"))
        matched = read_vector(storage.join(layout.stage("select", "round-0"), "counts"))[0]
        rounds.append(
            {
                "images": sum(r["images"] for r in results), "bytes": sum(r["bytes"] for r in results),
                "reasons": add_counts(r["reasons"] for r in results), "merged": merged,
            }
        )  # fmt: skip
        rank = balance.next_rank(
            np.minimum(rank, matched), matched, counts[1], config.per_query, config.headroom
        )
        if number + 1 < config.rounds:
            thresholds(crawl, number + 1, selected["samples"], rank)
    return {"units": units, "rounds": rounds, "last": len(rounds) - 1}


def require_contact(contact: str, units: list[str]) -> None:
    """Raise ValueError if somebody else's host is to be fetched and nobody could say to whom it belongs."""
    for path in [] if contact else units:
        if requires_contact(records.read_table(path, ["fetch_url"])["fetch_url"].to_pylist()):
            raise ValueError(
                "the candidates are on hosts of others: give --contact, a URL or a mail address for the "
                "User-Agent, so that their owners can reach you; the same command then continues"
            )


def cut_units(crawl: Crawl, number: int, samples: list[Result], before: list[Result]) -> list[Result]:
    config, layout = crawl.config, crawl.layout
    folder = layout.stage("select", f"units-{number}")
    inputs: list[Task] = [{"path": r["path"]} for r in samples]
    inputs += [{"unit": u["unit"], "fetched": u["fetched"]} for u in before]
    partitions = crawl.partitions(sum(r["samples"] for r in samples))
    delay = PUBLIC_DELAY if config.fetch.host_delay is None else config.fetch.host_delay
    results = crawl.shuffle(
        f"units, round {number}", folder, inputs,
        lambda low, high: UnitShuffler(
            folder=folder, partitions=partitions, low=low, high=high, queries=crawl.queries,
            delay=delay, limits=config.units,
            thresholds=layout.stage("select", f"round-{number}", "thresholds"),
            previous=layout.stage("select", f"round-{number - 1}", "thresholds") if number else "",
            arrived=layout.stage("fetch", f"arrived-{number - 1}", "thresholds") if number else "",
        ), partitions,
    )  # fmt: skip
    return [
        {**unit, "path": storage.join(folder, f"{unit['name']}.parquet")}
        for r in results
        for unit in r["units"]
    ]


def _merge(crawl: Crawl, number: int, units: list[Result], tried: str) -> list[Result]:
    """Merge all that arrived so far and find which samples each query keeps of it."""
    config, layout = crawl.config, crawl.layout
    folder = layout.stage("fetch", f"merged-{number}")
    partitions = crawl.partitions(len(units) * config.units.unit_images)
    merged = crawl.shuffle(
        f"merge, round {number}", folder, units,
        lambda low, high: MergeShuffler(
            folder=folder, partitions=partitions, low=low, high=high, queries=crawl.queries,
            max_captions=config.max_captions, thresholds=storage.join(tried, "thresholds"),
            placeholder_captions=config.placeholder_captions, by_bytes=config.dedup != "off",
            drop=config.drop,
        ), partitions,
    )  # fmt: skip
    rank = np.full(crawl.queries.queries, config.per_query, np.int64)
    folder = layout.stage("fetch", f"arrived-{number}")
    graph.run_thresholds(crawl.runner, folder, merged, PairCounter(queries=crawl.queries), rank)
    return merged


def finish(crawl: Crawl, found: Result, selected: Result, fetched: Result) -> Result:
    """Write the shards, the rejected rows and the counts by query."""
    config, layout = crawl.config, crawl.layout
    arrived = layout.stage("fetch", f"arrived-{fetched['last']}", "thresholds")
    folder = layout.stage("finish", "samples")
    merged = fetched["rounds"][-1]["merged"]
    worker = AssembleWorker(folder=folder, queries=crawl.queries, thresholds=arrived)
    tasks = [{"name": r["name"], "path": r["path"]} for r in merged]
    samples = crawl.tasks("balance", folder, tasks, worker)
    total = sum(r["samples"] for r in samples)
    groups = max(1, -(-total // GROUP_SAMPLES))
    folder = layout.stage("finish", "groups")
    grouped = crawl.shuffle(
        "mix", folder, samples,
        lambda low, high: GroupShuffler(folder=folder, groups=groups, low=low, high=high, seed=config.seed),
        groups,
    )  # fmt: skip
    shards = _write_shards(crawl, grouped, samples)
    untried, rejected, sampled = _reject(crawl, found, selected, fetched, samples)
    queries = manifest.write_query_counts(
        storage.join(layout.root, "query_counts.parquet"), querylist.load(layout.queries), config.per_query,
        matched=read_vector(layout.stage("select", "round-0", "counts"))[0],
        untried=add_vectors([r["counts"] for r in untried], crawl.queries.queries, 1)[0],
        kept_present=add_vectors([r["counts"] for r in samples], crawl.queries.queries, 2),
    )  # fmt: skip
    return {
        "samples": total,
        "captions": sum(r["captions"] for r in samples),
        "shards": shards,
        "rejected": rejected,
        "rejected_sampled": sampled,
        "queries": queries,
        "first_fetch": min((r["fetched"][0] for r in samples if r["fetched"]), default=None),
        "last_fetch": max((r["fetched"][1] for r in samples if r["fetched"]), default=None),
    }


def _write_shards(crawl: Crawl, groups: list[Result], samples: list[Result]) -> list[Result]:
    layout, size = crawl.layout, crawl.config.samples_per_shard
    kinds: dict[str, str] = {}
    for result in samples:
        for name, kind in result["extra"].items():
            kinds[name] = kind if kinds.get(name, kind) == kind else "text"
    worker = WriteWorker(
        folder=layout.shards,
        staging=layout.staging,
        samples_per_shard=size,
        extra=tuple(sorted(kinds.items())),
    )
    folder = layout.stage("finish", "shards")
    shards = crawl.tasks("shards", folder, cut_shards(groups, size), worker)
    sizes = {f"{r['name']}.tar": r["samples"] for r in shards}
    manifest.write_json(storage.join(layout.shards, "sizes.json"), sizes)
    return shards


def _reject(
    crawl: Crawl, found: Result, selected: Result, fetched: Result, samples: list[Result]
) -> tuple[list[Result], dict[str, int], bool]:
    """Publish rejected rows; return the untried samples, exact counts, and whether the rows are sampled."""
    layout = crawl.layout
    last = fetched["last"]
    folder = layout.stage("finish", "untried")
    tried = layout.stage("select", f"round-{last}", "thresholds")
    tasks = [{"name": r["name"], "path": r["path"]} for r in selected["samples"]]
    untried = crawl.tasks(
        "not fetched", folder, tasks, UntriedWorker(folder=folder, queries=crawl.queries, thresholds=tried)
    )
    merged = fetched["rounds"][-1]["merged"]
    finished = [r["path"].replace(".parquet", ".rejected.parquet") for r in [*merged, *samples]]
    unused = [storage.join(folder, f"{r['name']}.rejected.parquet") for r in untried]
    work = _batches("candidates", "tables", found["rejected"])
    work += _batches("select", "tables", [*selected["rejected"], *unused])
    units = [
        {**u, "arrived": _arrived(layout, u["round"]) if u["round"] < last else ""} for u in fetched["units"]
    ]
    work += _batches("fetch", "units", units)
    work += _batches("finish", "tables", finished)
    reasons = add_counts([found["reasons"], selected["reasons"], *(r["rejected"] for r in untried)])
    share = _shares(crawl, found, reasons)
    worker = RejectWorker(folder=layout.rejected, queries=crawl.queries, share=share)
    results = graph.run_tasks(crawl.runner, layout.stage("finish", "rejected"), work, worker)
    return untried, add_counts(r["counts"] for r in results), bool(share)


def _arrived(layout: Layout, number: int) -> str:
    return layout.stage("fetch", f"arrived-{number}", "thresholds")


def _batches(stage: str, kind: str, items: list[Any]) -> list[Task]:
    size = 32 if kind == "tables" else 64
    parts = [items[start : start + size] for start in range(0, len(items), size)]
    return [{"name": f"{stage}-{index:05d}", kind: part} for index, part in enumerate(parts)]


def _shares(crawl: Crawl, found: Result, reasons: dict[str, int]) -> tuple[tuple[str, float], ...]:
    """Return the share of rows to publish of each reason, where a sample is asked for or all are too many."""
    mode = crawl.config.rejected or ("all" if found["candidates"] <= _ALL_REJECTED_UP_TO else "sample")
    if mode == "all":
        return ()
    return tuple(
        (reason, min(1.0, _SAMPLED_ROWS_PER_REASON / count)) for reason, count in sorted(reasons.items())
    )


def add_counts(counts: Any) -> dict[str, int]:
    """Return the sum of dictionaries of counts, sorted by key."""
    total: dict[str, int] = {}
    for part in counts:
        for key, value in part.items():
            total[key] = total.get(key, 0) + value
    return dict(sorted(total.items()))


def add_vectors(paths: list[str], queries: int, rows: int) -> np.ndarray:
    """Return the sum of count files, int64 [rows, Q]."""
    total = np.zeros((rows, queries), np.int64)
    for path in paths:
        total += read_vector(path)
    return total


def remove_staging(layout: Layout, fetched: Result) -> None:
    """Remove the staged images of a verified run; their rows stay, and a note that the images went."""
    storage.write_bytes(layout.stage("fetch", "removed.stage"), b"true")
    for unit in fetched["units"]:
        path = unit["fetched"].removesuffix(".parquet") + ".blob"
        if storage.exists(path):
            storage.remove_tree(path)
