"""Drive the last stage: the shards, the rejected rows, and the counts by query."""

from typing import Any, NamedTuple

from pipeline import manifest, storage
from pipeline.crawl.extending import drop, write_query_counts
from pipeline.crawl.job import Crawl, add_counts, add_vectors
from pipeline.flow.markers import Result, Task, read_vector
from pipeline.run import Layout
from pipeline.stages.finish import (
    GROUP_SAMPLES,
    AssembleWorker,
    GroupShuffler,
    RejectWorker,
    WriteWorker,
    cut_shards,
)
from pipeline.stages.select import UntriedWorker

_SAMPLED_ROWS_PER_REASON = 100_000
_ALL_REJECTED_UP_TO = 10_000_000  # candidates


def finish(crawl: Crawl, found: Result, selected: Result, fetched: Result) -> Result:
    """Write the shards, the rejected rows and the counts by query."""
    config, layout = crawl.config, crawl.layout
    arrived = layout.stage("fetch", f"arrived-{fetched['last']}", "thresholds")
    folder = layout.stage("finish", "samples")
    near = _near(crawl, fetched["rounds"][-1]["merged"], arrived)
    worker = AssembleWorker(folder=folder, queries=crawl.queries, thresholds=near.thresholds)
    tasks = [{"name": r["name"], "path": r["path"]} for r in near.merged]
    samples = crawl.runner.tasks("balance", folder, tasks, worker)
    total = sum(r["samples"] for r in samples)
    groups = max(1, -(-total // GROUP_SAMPLES))
    folder = layout.stage("finish", "groups")
    shuffler = GroupShuffler(folder=folder, groups=groups, seed=config.seed)
    grouped = crawl.runner.shuffle("mix", folder, samples, shuffler, groups)
    shards = _write_shards(crawl, grouped, samples)
    dropped = drop(crawl, selected.get("stored", []), near.thresholds)
    written = [*near.rejected, *samples, *dropped]
    untried, rejected, sampled = _reject(crawl, found, selected, fetched, written)
    counts = {
        "untried": add_vectors([r["counts"] for r in untried], crawl.queries.queries, 1)[0],
        "kept_present": add_vectors([r["counts"] for r in [*samples, *dropped]], crawl.queries.queries, 2),
    }
    queries = write_query_counts(crawl, selected, counts, read_vector(near.thresholds))
    return {
        "samples": total,
        "captions": sum(r["captions"] for r in samples),
        "shards": shards,
        "rejected": rejected,
        "rejected_sampled": sampled,
        "dropped": sum(r["dropped"] for r in dropped),
        "dropped_captions": sum(r["captions"] for r in dropped),
        "dropped_rows": [r["path"] for r in dropped],
        "queries": queries,
        "near_duplicates": near.summary,
        "first_fetch": min((r["fetched"][0] for r in samples if r["fetched"]), default=None),
        "last_fetch": max((r["fetched"][1] for r in samples if r["fetched"]), default=None),
    }


class _Near(NamedTuple):
    merged: list[Result]
    thresholds: str
    rejected: list[Result]
    summary: Result | None


def _near(crawl: Crawl, merged: list[Result], arrived: str) -> _Near:
    """Merge near-duplicates if that is asked for."""
    if crawl.config.dedup != "near":
        return _Near(merged, arrived, [], None)
    from pipeline.crawl.near import merge_near

    found = merge_near(crawl, merged)
    return _Near(found.merged, found.thresholds, found.merged, found.summary)


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
    first = crawl.base.next_shard if crawl.base else 0
    shards = crawl.runner.tasks("shards", folder, cut_shards(groups, size, first), worker)
    if crawl.base is None:
        sizes = {f"{r['name']}.tar": r["samples"] for r in shards}
        manifest.write_json(storage.join(layout.shards, "sizes.json"), sizes)
    return shards


def _reject(
    crawl: Crawl, found: Result, selected: Result, fetched: Result, written: list[Result]
) -> tuple[list[Result], dict[str, int], bool]:
    """Publish rejected rows; return the untried samples, exact counts, and whether the rows are sampled.

    `written`: what finish wrote with rejected rows of its own beside it.
    """
    layout = crawl.layout
    last = fetched["last"]
    folder = layout.stage("finish", "untried")
    tried = storage.join(layout.tried(last), "thresholds")
    tasks = [{"name": r["name"], "path": r["path"]} for r in selected["samples"]]
    untried = crawl.runner.tasks(
        "not fetched", folder, tasks, UntriedWorker(folder=folder, queries=crawl.queries, thresholds=tried)
    )
    merged = fetched["rounds"][-1]["merged"]
    finished = [storage.sibling(r["path"], ".rejected.parquet") for r in [*merged, *written]]
    unused = [storage.join(folder, f"{r['name']}.rejected.parquet") for r in untried]
    work = _batches("candidates", "tables", found["rejected"])
    work += _batches("select", "tables", [*selected["rejected"], *unused])
    units = [
        {**u, "arrived": _arrived(layout, u["round"]) if u["round"] < last else ""} for u in fetched["units"]
    ]
    work += _batches("fetch", "units", units)
    work += _batches("finish", "tables", finished)
    work = [{**task, "name": f"{layout.prefix}{task['name']}"} for task in work]
    reasons = add_counts([found["reasons"], selected["reasons"], *(r["rejected"] for r in untried)])
    share = _shares(crawl, found, reasons)
    worker = RejectWorker(folder=layout.rejected, queries=crawl.queries, share=share)
    results = crawl.runner.tasks("rejected rows", layout.stage("finish", "rejected"), work, worker)
    return untried, add_counts(r["counts"] for r in results), bool(share)


def _arrived(layout: Layout, number: int) -> str:
    return layout.stage("fetch", f"arrived-{number}", "thresholds")


def _batches(stage: str, kind: str, items: list[Any]) -> list[Task]:
    size = 32 if kind == "tables" else 64
    parts = [items[start : start + size] for start in range(0, len(items), size)]
    return [{"name": f"{stage}-{index:05d}", kind: part} for index, part in enumerate(parts)]


def _shares(crawl: Crawl, found: Result, reasons: dict[str, int]) -> tuple[tuple[str, float], ...]:
    """Return the share of rows to publish of each reason, where a sample is asked for or all are too many."""
    candidates = found["candidates"] + (crawl.base.manifest["counts"]["candidates"] if crawl.base else 0)
    mode = crawl.config.rejected or ("all" if candidates <= _ALL_REJECTED_UP_TO else "sample")
    if mode == "all":
        return ()
    return tuple(
        (reason, min(1.0, _SAMPLED_ROWS_PER_REASON / count)) for reason, count in sorted(reasons.items())
    )
