"""`openwit score`: score a finished run, so that training and browsing can choose by it.

Shards stay as they are: the scores are tables beside them (`score_files`), which `openwit train --keep-if`
reads. Run again after the run was extended, it scores the new samples.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import xxhash
from rich.table import Table

from pipeline import (
    checked_manifest,
    extend,
    manifest,
    publishing,
    schemas,
    storage,
    tombstones,
)
from pipeline import config as parser
from pipeline.checked_manifest import Manifest
from pipeline.cli_runtime import guarded, job_name, worker_log
from pipeline.flow import beam_options
from pipeline.flow.parts import Part
from pipeline.lock import lock
from pipeline.options.finished import ScoreConfig
from pipeline.run_folder import Layout, read_json
from pipeline.score import files as score_files
from pipeline.score import names as scorer_names
from pipeline.score.files import ScoredShard, ScoreSet, ScoreTable
from pipeline.score.keep_if import least_of
from pipeline.terminal import output, terminal

_SHOWN: Final = (0.05, 0.25, 0.5, 0.75, 0.95)
_BEST: Final = 0.3  # the share that DataComp keeps by CLIP score


def main(argv: Sequence[str], prog: str = "openwit score") -> int:
    """Score a run; return 0 when every sample has its scores."""
    options, beam_flags = parser.parse(ScoreConfig, argv, prog=prog, beam=True)
    work = Layout(options.run.rstrip("/")).work
    return guarded(prog, terminal(), work, lambda: score(options, beam_flags))


def score(options: ScoreConfig, beam_flags: tuple[str, ...]) -> int:
    """Score the shards that these scorers have not scored yet, then publish the tables.

    ValueError for a run that is not finished, or for columns that it has already.
    """
    layout = Layout(options.run.rstrip("/"))
    stored = checked_manifest.of(layout.root)
    files = [path for spec in options.scorer for path in scorer_names.files_of(spec)]
    beam_options.require_shared(beam_flags, [layout.root, *files])
    if message := tombstones.pending(layout.root) or extend.interrupted(layout.root):
        raise ValueError(message)
    wanted = [_wanted(spec) for spec in options.scorer]
    _refuse_known(layout, stored, options.scorer, wanted)
    with lock(layout.work, publishing.typed()):
        _score(options, beam_flags, layout, stored, wanted)
    _show(layout.root, options.scorer)
    return 0


def _wanted(spec: str) -> ScoreSet:
    """Return the content of scores.json, without tables; ValueError for a scorer that cannot be had."""
    from pipeline.images import scoring

    files = ",".join(map(publishing.public, scorer_names.files_of(spec)))
    said = spec.partition("=")[0] + (f"={files}" if files else "")
    return ScoreSet(
        scorer=said, fingerprint=scoring.identity(spec), columns=scoring.load(spec).columns, tables=()
    )


def _refuse_known(layout: Layout, stored: Manifest, specs: Sequence[str], wanted: Sequence[ScoreSet]) -> None:
    """Raise ValueError for a column that the shards, or scores of another name, have."""
    from pipeline.images import scoring

    scoring.load(*specs)  # together
    known = dict[str, str]()
    if stored.shards:
        first = storage.sibling(storage.join(layout.shards, stored.shards[0].name), ".parquet")
        known = dict.fromkeys(schemas.read_table(first).column_names, "each shard's Parquet file")
    own = {*map(scorer_names.name_of, specs)}
    for name in score_files.names(layout.root):
        if name not in own and (found := score_files.read(layout.root, name)):
            known |= dict.fromkeys(found.columns, score_files.folder(layout.root, name))
    for column in (column for scores in wanted for column in scores.columns):
        if column in known:
            raise ValueError(f"there is a column {column} already: {known[column]} has it")


def _score(
    options: ScoreConfig, beam_flags: tuple[str, ...], layout: Layout, stored: Manifest,
    wanted: Sequence[ScoreSet],
) -> None:  # fmt: skip
    from pipeline.flow.runner import Runner
    from pipeline.score.worker import ScoreWorker

    names, root = [*map(scorer_names.name_of, options.scorer)], layout.root
    missing = set[str]()
    before = []
    for name, scores in zip(names, wanted, strict=True):
        found = score_files.read(root, name)
        if found is not None and found.fingerprint != scores.fingerprint:
            storage.remove_tree(score_files.folder(root, name))  # readers are not to take one for the other
            found = None
        before.append(found or scores)
        missing.update(before[-1].stale(stored))
    sums = {storage.stem(shard.name): shard.sha256 for shard in stored.shards}
    tasks = [Part(name=stem) for stem in sums if stem in missing]
    work = score_files.folder(root, score_files.WORK)
    planned = [[scores.fingerprint for scores in wanted], [[task.name, sums[task.name]] for task in tasks]]
    key = xxhash.xxh3_64_hexdigest(repr(planned).encode())
    if read_json(storage.join(work, "key.json")) != key:  # of other scorers, or of other shards
        storage.remove_tree(work)
        manifest.write_json(storage.join(work, "key.json"), key)
    runner = Runner(
        flags=beam_flags, workers=options.workers, log=worker_log(layout.work), name=job_name("score", root)
    )
    worker = ScoreWorker(root=root, scorer=options.scorer)
    done = runner.tasks("score", storage.join(work, "shards"), tasks, worker, ScoredShard)
    for index, (name, old, scores) in enumerate(zip(names, before, wanted, strict=True)):
        tables = {storage.stem(table.name): table for table in old.tables}
        tables |= {one.name: _table(one, index) for one in done}
        kept = tuple(tables[stem] for stem in sums)
        score_files.write(root, name, replace(scores, tables=kept))
    storage.remove_tree(work)


def _table(shard: ScoredShard, index: int) -> ScoreTable:
    return ScoreTable(name=f"{shard.name}.parquet", rows=shard.rows, sha256=shard.sha256[index], of=shard.of)


def _show(root: str, specs: Sequence[str]) -> None:
    """Print how the scores are spread, and from which one on the best are."""
    table = Table("column", "samples", *(f"{share:.0%}" for share in _SHOWN), f"best {_BEST:.0%} from")
    for name in map(scorer_names.name_of, specs):
        scores = score_files.read(root, name)
        assert scores is not None, "scores.json was written"
        paths = [score_files.folder(root, name, one.name) for one in scores.tables]
        for column in scores.columns:
            parts = [schemas.read_table(path, [column])[column].to_numpy() for path in paths]
            values = np.concatenate([np.zeros(0, np.float32), *parts])
            known = values[~np.isnan(values)]
            spread = np.quantile(known, _SHOWN) if len(known) else [math.nan] * len(_SHOWN)
            best = f"{least_of(values, _BEST):.4f}"
            table.add_row(column, f"{len(values):,}", *(f"{value:.4f}" for value in spread), best)
    output().print(table)
    output().print(f"openwit train --shards {root} --keep-if ... reads them", highlight=False, markup=False)
