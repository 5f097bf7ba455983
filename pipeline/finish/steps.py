"""Drive the last stage: the shards, the rejected rows, and the counts by query."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from pipeline import manifest, run, storage
from pipeline.crawl import Crawl, add_counts, add_vectors, tasks_of
from pipeline.extend.steps import drop, write_query_counts
from pipeline.fetch.rounds import arrived_folder, merged_folder
from pipeline.finish.workers import (
    GROUP_SAMPLES,
    AssembleWorker,
    GroupShuffler,
    RejectWorker,
    WriteWorker,
    cut_shards,
)
from pipeline.flow.markers import Result, Task, read_vector
from pipeline.flow.runner import Runner
from pipeline.flow.steps import Shuffle, Step, Tasks, Work, results_in
from pipeline.select.workers import UntriedWorker

_SAMPLED_ROWS_PER_REASON = 100_000
_ALL_REJECTED_UP_TO = 10_000_000  # candidates


@dataclass(frozen=True)
class _Finish:
    """What the steps of this stage share; picklable, as their plans are."""

    crawl: Crawl
    last: int
    """Number of the last round."""
    merged: str
    """Folder of the images that may be in the set."""
    thresholds: str

    def folder(self, name: str) -> str:
        return self.crawl.layout.stage("finish", name)

    @property
    def near(self) -> list[Result]:
        """Return what was merged as near-duplicates, if that is another step's result."""
        own = merged_folder(self.crawl, self.last)
        return results_in(self.merged) if self.merged != own else []


def finish(crawl: Crawl, runner: Runner) -> Result:
    """Write the shards, the rejected rows and the counts by query."""
    fetched = run.done(crawl.layout, "fetch")
    assert fetched is not None, "the stage before"
    last = fetched["last"]
    arrived = storage.join(arrived_folder(crawl, last), "thresholds")
    this, near = _Finish(crawl, last, merged_folder(crawl, last), arrived), None
    if crawl.config.dedup == "near":
        from pipeline.near.steps import merge_near

        near = merge_near(crawl, runner, last)
        this = _Finish(crawl, last, near.folder, near.thresholds)
    balance, untried, rejected, shards = _balance(this), _untried(this), _rejected(this), _shards(this)
    dropped = drop(crawl, this.thresholds)
    runner.run([balance, _mix(this), shards, *dropped, untried, rejected])
    if crawl.base is None:
        sizes = {f"{r['name']}.tar": r["samples"] for r in shards.results()}
        manifest.write_json(storage.join(crawl.layout.shards, "sizes.json"), sizes)
    samples, gone = balance.results(), [result for step in dropped for result in step.results()]
    queries = crawl.queries.queries
    counts = {
        "untried": add_vectors([r["counts"] for r in untried.results()], queries, 1)[0],
        "kept_present": add_vectors([r["counts"] for r in [*samples, *gone]], queries, 2),
    }
    return {
        "samples": sum(r["samples"] for r in samples),
        "captions": sum(r["captions"] for r in samples),
        "shards": shards.results(),
        "rejected": add_counts(r["counts"] for r in rejected.results()),
        "rejected_sampled": bool(_shares(this)),
        "dropped": sum(r["dropped"] for r in gone),
        "dropped_captions": sum(r["captions"] for r in gone),
        "dropped_rows": [r["path"] for r in gone],
        "queries": write_query_counts(crawl, counts, read_vector(this.thresholds)),
        "near_duplicates": near.summary if near else None,
        "first_fetch": min((r["fetched"][0] for r in samples if r["fetched"]), default=None),
        "last_fetch": max((r["fetched"][1] for r in samples if r["fetched"]), default=None),
    }


def _balance(this: _Finish) -> Step:
    """Apply the thresholds of what arrived: which samples are in the set."""
    folder = this.folder("samples")
    worker = AssembleWorker(folder=folder, queries=this.crawl.queries, thresholds=this.thresholds)
    return Tasks(label="balance", folder=folder, plan=partial(_plan_balance, this), worker=worker)


def _plan_balance(this: _Finish) -> Work:
    return Work(tasks=tasks_of(results_in(this.merged)))


def _mix(this: _Finish) -> Step:
    """Bring the samples of a group of staged blobs together, in the final order."""
    folder = this.folder("groups")
    shuffler = GroupShuffler(folder=folder, seed=this.crawl.config.seed)
    return Shuffle(label="mix", folder=folder, plan=partial(_plan_mix, this), shuffler=shuffler)


def _plan_mix(this: _Finish) -> Work:
    samples = results_in(this.folder("samples"))
    groups = max(1, -(-sum(r["samples"] for r in samples) // GROUP_SAMPLES))
    return Work(tasks=samples, partitions=groups)


def _shards(this: _Finish) -> Step:
    layout = this.crawl.layout
    worker = WriteWorker(
        folder=layout.shards, staging=layout.staging, samples_per_shard=this.crawl.config.samples_per_shard,
    )  # fmt: skip
    plan = partial(_plan_shards, this)
    return Tasks(label="shards", folder=this.folder("shards"), plan=plan, worker=worker)


def _plan_shards(this: _Finish) -> Work:
    kinds: dict[str, str] = {}
    for result in results_in(this.folder("samples")):
        for name, kind in result["extra"].items():
            kinds[name] = kind if kinds.get(name, kind) == kind else "text"
    extra = sorted(kinds.items())
    base = this.crawl.base
    groups = results_in(this.folder("groups"))
    cut = cut_shards(groups, this.crawl.config.samples_per_shard, base.next_shard if base else 0)
    return Work(tasks=[{**task, "extra": extra} for task in cut])


def _untried(this: _Finish) -> Step:
    """Find the samples that were never sent to the fetcher."""
    folder = this.folder("untried")
    tried = storage.join(this.crawl.layout.tried(this.last), "thresholds")
    worker = UntriedWorker(folder=folder, queries=this.crawl.queries, thresholds=tried)
    return Tasks(label="not fetched", folder=folder, plan=partial(_plan_untried, this), worker=worker)


def _plan_untried(this: _Finish) -> Work:
    return Work(tasks=tasks_of(results_in(this.crawl.layout.stage("select", "samples"))))


def _rejected(this: _Finish) -> Step:
    """Publish the rejected rows of all stages."""
    worker = RejectWorker(folder=this.crawl.layout.rejected, queries=this.crawl.queries)
    plan = partial(_plan_rejected, this)
    return Tasks(label="rejected rows", folder=this.folder("rejected"), plan=plan, worker=worker)


def _plan_rejected(this: _Finish) -> Work:
    layout, last = this.crawl.layout, this.last
    found, selected, fetched = (run.done(layout, stage) for stage in ("candidates", "select", "fetch"))
    assert found is not None and selected is not None and fetched is not None, "the stages before"
    dropped = results_in(this.folder("dropped")) if this.crawl.base else []
    written = [*results_in(merged_folder(this.crawl, last)), *this.near, *results_in(this.folder("samples"))]
    finished = [storage.sibling(r["path"], ".rejected.parquet") for r in [*written, *dropped]]
    folder = this.folder("untried")
    unused = [storage.join(folder, f"{r['name']}.rejected.parquet") for r in results_in(folder)]
    units = [{**u, "arrived": _later(this, u["round"])} for u in fetched["units"]]
    work = [
        *_batches("candidates", "tables", found["rejected"]),
        *_batches("select", "tables", [*selected["rejected"], *unused]),
        *_batches("fetch", "units", units),
        *_batches("finish", "tables", finished),
    ]
    share = _shares(this)
    return Work(tasks=[{**task, "name": f"{layout.prefix}{task['name']}", "share": share} for task in work])


def _later(this: _Finish, number: int) -> str:
    """Return the thresholds by which the round after took up what had failed, "" for the last round."""
    return storage.join(arrived_folder(this.crawl, number), "thresholds") if number < this.last else ""


def _batches(stage: str, kind: str, items: list[Any]) -> list[Task]:
    size = 32 if kind == "tables" else 64
    parts = [items[start : start + size] for start in range(0, len(items), size)]
    return [{"name": f"{stage}-{index:05d}", kind: part} for index, part in enumerate(parts)]


def _shares(this: _Finish) -> dict[str, float]:
    """Return the share of rows to publish of each reason, where a sample is asked for or all are too many."""
    crawl = this.crawl
    found, selected = run.done(crawl.layout, "candidates"), run.done(crawl.layout, "select")
    assert found is not None and selected is not None, "the stages before"
    candidates = found["candidates"] + (crawl.base.manifest["counts"]["candidates"] if crawl.base else 0)
    mode = crawl.config.rejected or ("all" if candidates <= _ALL_REJECTED_UP_TO else "sample")
    if mode == "all":
        return {}
    untried = (r["rejected"] for r in results_in(this.folder("untried")))
    reasons = add_counts([found["reasons"], selected["reasons"], *untried])
    return {reason: min(1.0, _SAMPLED_ROWS_PER_REASON / count) for reason, count in sorted(reasons.items())}
