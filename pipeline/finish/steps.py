"""Drive the last stage: the shards, the rejected rows, and the counts by query."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from pipeline import manifest, run_folder, storage
from pipeline.checked_manifest import Crawled
from pipeline.crawl import Crawl, add_counts, add_vectors
from pipeline.extend.parts import DroppedSamples
from pipeline.extend.steps import drop, write_query_counts
from pipeline.fetch.parts import Merged
from pipeline.fetch.retry_failed import merged_before
from pipeline.finish.parts import Balanced, Failures, Group, RejectedRows, RejectTask
from pipeline.finish.workers import (
    GROUP_SAMPLES,
    AssembleWorker,
    GroupShuffler,
    RejectWorker,
    WriteWorker,
    cut_shards,
)
from pipeline.flow.markers import read_vector
from pipeline.flow.runner import Runner
from pipeline.flow.steps import Shuffle, Step, Tasks, Work, results_in
from pipeline.manifest import NewSet, Shard
from pipeline.near.parts import NearMerged
from pipeline.select.parts import Samples, Untried
from pipeline.select.workers import UntriedWorker
from pipeline.stages import Candidates, Rounds, Selected

T = TypeVar("T")

_SAMPLED_ROWS_PER_REASON = 100_000
_ALL_REJECTED_UP_TO = 10_000_000  # candidates


@dataclass(frozen=True)
class _Finish:
    """The state that the steps of this stage share; picklable, as their plans are."""

    crawl: Crawl
    last: int
    """Number of the last round."""
    merged: str
    """Folder of the images that may be in the set."""
    thresholds: str

    def folder(self, name: str) -> str:
        return self.crawl.layout.stage("finish", name)

    @property
    def near(self) -> list[NearMerged]:
        """Return the merged near-duplicates, if another step found them."""
        own = self.crawl.layout.merged(self.last)
        return results_in(self.merged, NearMerged) if self.merged != own else []

    @property
    def balanced(self) -> list[Balanced]:
        return results_in(self.folder("samples"), Balanced)

    @property
    def untried(self) -> list[Untried]:
        return results_in(self.folder("untried"), Untried)


def finish(crawl: Crawl, runner: Runner) -> NewSet:
    """Write the shards, the rejected rows and the counts by query."""
    layout, last = crawl.layout, run_folder.done(crawl.layout, Rounds).last
    this = _Finish(crawl, last, layout.merged(last), storage.join(layout.arrived(last), "thresholds"))
    near = None
    if crawl.config.dedup == "near":
        from pipeline.near.steps import merge_near

        near = merge_near(crawl, runner, last)
        this = _Finish(crawl, last, near.folder, near.thresholds)
    elif merged_before(layout):
        raise ValueError(
            "the images that --dedup near has merged into others were deleted when the shards were "
            "verified, before --retry-failed: finish it with --dedup near, or crawl into a new --out"
        )
    rejected, shards, dropped = _rejected(this), _shards(this), drop(crawl, this.thresholds)
    runner.run([_balance(this), _mix(this), shards, *dropped, _untried(this), rejected])
    written = shards.results(Shard)
    if crawl.base is None:
        manifest.write_sizes(layout, (shard.entry for shard in written))
    samples, gone = this.balanced, _dropped(this)
    queries = crawl.queries.queries
    counts = {
        "untried": add_vectors((one.counts for one in this.untried), queries, 1)[0],
        "kept_present": add_vectors((one.counts for one in [*samples, *gone]), queries, 2),
    }
    periods = [one.fetched for one in samples if one.fetched]
    return NewSet(
        samples=sum(one.samples for one in samples),
        captions=sum(one.captions for one in samples),
        shards=tuple(written),
        rejected=add_counts(one.counts for one in rejected.results(RejectedRows)),
        rejected_sampled=bool(_shares(this)),
        dropped=sum(one.dropped for one in gone),
        dropped_captions=sum(one.captions for one in gone),
        dropped_rows=tuple(one.path for one in gone),
        queries=write_query_counts(crawl, counts, read_vector(this.thresholds)),
        near_duplicates=near.duplicates if near else None,
        crawled=Crawled(
            first=min((p[0] for p in periods), default=None), last=max((p[1] for p in periods), default=None)
        ),
    )


def _balance(this: _Finish) -> Step:
    """Apply the thresholds of the arrived images: which samples are in the set."""
    folder = this.folder("samples")
    worker = AssembleWorker(folder=folder, queries=this.crawl.queries, thresholds=this.thresholds)
    return Tasks(label="balance", folder=folder, plan=partial(_plan_balance, this), worker=worker)


def _plan_balance(this: _Finish) -> Work:
    return Work(tasks=results_in(this.merged, Merged))


def _mix(this: _Finish) -> Step:
    """Bring the samples of a group of staged blobs together, in the final order."""
    folder = this.folder("groups")
    shuffler = GroupShuffler(folder=folder, seed=this.crawl.config.seed)
    return Shuffle(label="mix", folder=folder, plan=partial(_plan_mix, this), shuffler=shuffler)


def _plan_mix(this: _Finish) -> Work:
    samples = this.balanced
    groups = max(1, -(-sum(one.samples for one in samples) // GROUP_SAMPLES))
    return Work(tasks=samples, partitions=groups)


def _shards(this: _Finish) -> Step:
    layout = this.crawl.layout
    worker = WriteWorker(
        folder=layout.shards, staging=layout.staging, samples_per_shard=this.crawl.config.samples_per_shard,
        described=this.crawl.config.images.describe == "now",
    )  # fmt: skip
    plan = partial(_plan_shards, this)
    return Tasks(label="shards", folder=this.folder("shards"), plan=plan, worker=worker)


def _plan_shards(this: _Finish) -> Work:
    kinds: dict[str, str] = {}
    for balanced in this.balanced:
        for name, kind in balanced.extra.items():
            kinds[name] = kind if kinds.get(name, kind) == kind else "text"
    base, extra = this.crawl.base, tuple(sorted(kinds.items()))
    groups = results_in(this.folder("groups"), Group)
    most = this.crawl.config.samples_per_shard
    return Work(tasks=cut_shards(groups, most, extra, base.next_shard if base else 0))


def _untried(this: _Finish) -> Step:
    """Find the samples that were never sent to the fetcher."""
    folder = this.folder("untried")
    tried = storage.join(this.crawl.layout.tried(this.last), "thresholds")
    worker = UntriedWorker(folder=folder, queries=this.crawl.queries, thresholds=tried)
    return Tasks(label="not fetched", folder=folder, plan=partial(_plan_untried, this), worker=worker)


def _plan_untried(this: _Finish) -> Work:
    return Work(tasks=results_in(this.crawl.layout.stage("select", "samples"), Samples))


def _rejected(this: _Finish) -> Step:
    """Publish the rejected rows of all stages."""
    worker = RejectWorker(folder=this.crawl.layout.rejected, queries=this.crawl.queries)
    plan = partial(_plan_rejected, this)
    return Tasks(label="rejected rows", folder=this.folder("rejected"), plan=plan, worker=worker)


def _plan_rejected(this: _Finish) -> Work:
    layout, last = this.crawl.layout, this.last
    candidates = run_folder.done(layout, Candidates)
    selected = run_folder.done(layout, Selected)
    fetched = run_folder.done(layout, Rounds)
    rejects = {
        "candidates": [piece.rejects for piece in candidates.pieces],
        "select": [
            *(one.rejects for one in selected.deduplicated), *(one.rejects for one in selected.samples),
            *(one.rejects for one in this.untried),
        ],
        "finish": [
            *(one.rejects for one in results_in(layout.merged(last), Merged)),
            *(one.rejects for one in this.near), *(one.rejects for one in this.balanced),
            *(one.rejects for one in _dropped(this)),
        ],
    }  # fmt: skip
    failed = [
        Failures(name=unit.name, unit=unit, arrived=_later(this, number))
        for number, one in enumerate(fetched.rounds)
        for unit in one.units
    ]
    share = _shares(this)

    def batch(stage: str, number: int) -> str:
        return f"{layout.prefix}{stage}-{number:05d}"

    tasks = [
        RejectTask(name=batch(stage, number), tables=tuple(paths), share=share)
        for stage, all_paths in rejects.items()
        for number, paths in enumerate(_batches(all_paths, 32))
    ]
    tasks += [
        RejectTask(name=batch("fetch", number), units=tuple(units), share=share)
        for number, units in enumerate(_batches(failed, 64))
    ]
    return Work(tasks=tasks)


def _dropped(this: _Finish) -> list[DroppedSamples]:
    return results_in(this.folder("dropped"), DroppedSamples) if this.crawl.base else []


def _later(this: _Finish, number: int) -> str:
    """Return the thresholds by which the next round tried failures again, "" for the last round."""
    return storage.join(this.crawl.layout.arrived(number), "thresholds") if number < this.last else ""


def _batches(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _shares(this: _Finish) -> dict[str, float]:
    """Return the share of rows to publish of each reason, where a sample is asked for or all are too many."""
    crawl = this.crawl
    found = run_folder.done(crawl.layout, Candidates)
    selected = run_folder.done(crawl.layout, Selected)
    candidates = found.candidates + (crawl.base.manifest.counts.candidates if crawl.base else 0)
    mode = crawl.config.rejected or ("all" if candidates <= _ALL_REJECTED_UP_TO else "sample")
    if mode == "all":
        return {}
    untried = (one.rejected for one in this.untried)
    reasons = add_counts([found.reasons, selected.reasons, *untried])
    return {reason: min(1.0, _SAMPLED_ROWS_PER_REASON / count) for reason, count in sorted(reasons.items())}
