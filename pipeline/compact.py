"""`openwit compact`: write the shards of an extended run again, without the samples that it has dropped.

Anyone who reads shards without openwit, such as webdataset, sees all that is in them. Keys and the names of
shards stay, so a sample is found again; the column query_ids says what holds now; shards of which nothing is
left are left out.
"""

import posixpath
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final

from pipeline import (
    checked_manifest,
    dropped_samples,
    extend,
    finished_set,
    manifest,
    schemas,
    storage,
    tombstones,
)
from pipeline import config as parser
from pipeline.checked_manifest import Manifest, ManifestShard
from pipeline.cli_runtime import guarded, job_name, worker_log
from pipeline.finished_set import FinishedSet
from pipeline.flow import beam_options
from pipeline.flow.parts import Part
from pipeline.formats import count
from pipeline.lock import lock
from pipeline.manifest import Shard
from pipeline.options.finished import CompactConfig
from pipeline.run_folder import Layout, read_json
from pipeline.score import files as score_files
from pipeline.terminal import output, terminal
from pipeline.verify import problems_of

_COPIED: Final = ("config.toml", "query_counts.parquet", tombstones.FILE)


def main(argv: Sequence[str], prog: str = "openwit compact") -> int:
    """Compact a run; return 0 when the new run is whole."""
    options, beam_flags = parser.parse(CompactConfig, argv, prog=prog, beam=True)
    console, work = terminal(), Layout(options.out.rstrip("/")).work
    return guarded(prog, console, work, lambda: compact(options, beam_flags))


def compact(options: CompactConfig, beam_flags: tuple[str, ...]) -> int:
    """Write the new shards, then all that speaks of them, then the manifest.

    ValueError for a run that is not finished, and for an --out that holds something else.
    """
    source, target = Layout(options.run.rstrip("/")), Layout(options.out.rstrip("/"))
    stored = checked_manifest.of(source.root)
    beam_options.require_shared(beam_flags, [source.root, target.root])
    if message := tombstones.pending(source.root) or extend.interrupted(source.root):
        raise ValueError(message)
    stamp = storage.join(target.work, "compacted.json")
    if storage.exists(target.root) and not storage.exists(stamp) and storage.list_files(target.root):
        raise ValueError(f"{target.root} is not empty; choose another --out")
    with lock(target.work):
        begun, listed = read_json(stamp), [asdict(shard) for shard in stored.shards]
        if begun is not None and begun != listed:
            raise ValueError(f"{source.root} has changed since {target.root} was begun; choose another --out")
        manifest.write_json(stamp, listed)
        shards = _write_shards(options, beam_flags, source, target, stored)
        _write_rest(source, target, stored, shards)
    problems = problems_of(target)
    if problems:
        raise RuntimeError(f"the new shards do not match their manifest: {problems[0]}")
    from pipeline import report  # draws

    report.write(target)
    output().print(
        f"{target.root}: {count(len(shards), 'shard')}, {count(stored.counts.samples, 'sample')}, "
        f"as in {source.root} "
        "without those that were dropped",
        highlight=False, soft_wrap=True, markup=False,
    )  # fmt: skip
    return 0


def _write_shards(
    options: CompactConfig, beam_flags: tuple[str, ...], source: Layout, target: Layout, stored: Manifest
) -> tuple[ManifestShard, ...]:
    """Write the shards of which something is left; return their entries for the manifest."""
    from pipeline.flow.runner import Runner

    worker = CompactWorker(source=source.root, folder=target.shards)
    tasks = [Part(name=storage.stem(shard.name)) for shard in stored.shards]
    runner = Runner(
        flags=beam_flags, workers=options.workers, log=worker_log(target.work),
        name=job_name("compact", target.root),
    )  # fmt: skip
    written = runner.tasks("shards", storage.join(target.work, "shards"), tasks, worker, Shard)
    return tuple(shard.entry for shard in written if shard.samples)


def _write_rest(
    source: Layout, target: Layout, stored: Manifest, shards: tuple[ManifestShard, ...]
) -> None:  # fmt: skip
    """Copy the files that stay the same, and publish the manifest last."""
    for name in _COPIED:
        if storage.exists(storage.join(source.root, name)):
            storage.copy_file(storage.join(source.root, name), storage.join(target.root, name))
    for path in manifest.rejected_files(source, stored):
        storage.copy_file(path, storage.join(target.rejected, posixpath.basename(path)))
    schemas.write_table(storage.join(target.root, dropped_samples.FILE), dropped_samples.ROWS.empty_table())
    manifest.write_sizes(target, shards)
    manifest.write(target.manifest, replace(stored, shards=shards, compacted=True))
    score_files.copy(source.root, target.root)


@dataclass(frozen=True, kw_only=True)
class CompactWorker:
    """Write one shard without the things that was dropped from it."""

    source: str
    """Folder of the run."""
    folder: str

    def open(self) -> FinishedSet:
        """Load the run's facts about all its samples."""
        layout = Layout(self.source)
        return finished_set.load(layout, checked_manifest.of(layout.root))

    def run(self, state: FinishedSet, task: Part) -> Shard:
        """Write NNNNN.tar, NNNNN.parquet and NNNNN_stats.json, if anything is left of it."""
        rows = state.rows(task.name)
        if not len(rows):
            return Shard(name=task.name, samples=0, bytes=0, sha256="", parquet_sha256="")
        return state.rewrite(task.name, rows, self.folder)
