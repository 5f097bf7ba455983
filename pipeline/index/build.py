"""Build or renew the index of a finished run.

Renewing compares shards by their hashes and looks only at those that changed, as `--extend`, `compact` and
`takedown` change them. A shard is one transaction, so a build that is stopped goes on where it was.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from pipeline import checked_manifest, finished_set, manifest, run_folder, schemas, storage
from pipeline.checked_manifest import Manifest, ManifestShard
from pipeline.fetch.parts import Fetched
from pipeline.finished_set import FinishedSet
from pipeline.index import near, query_list
from pipeline.index.offsets import places
from pipeline.index.tables import (
    FACETS,
    REJECT_COLUMNS,
    SAMPLE_COLUMNS,
    Index,
    Progress,
    Source,
    finish,
)
from pipeline.index.values import hash_of, site_of
from pipeline.run_folder import Layout
from pipeline.score import files as score_files
from pipeline.score.files import ScoreSet
from pipeline.stages import Rounds

_SCORE: Final = re.compile(r"score_\w+", re.ASCII)


def index_run(path: Path, layout: Layout, progress: Progress) -> None:
    """Renew the index of a finished run."""
    stored = checked_manifest.of(layout.root)
    whole = finished_set.load(layout, stored)
    with closing(Index(path)) as index:
        scored = _score_sets(layout, stored)
        scores = _score_columns(index, layout, stored, scored)
        shards = [_shard_source(layout, whole, shard, scored) for shard in stored.shards]

        def add(source: Source, number: int) -> None:
            rows = _run_rows(
                index, source, number, _with_scores(layout, whole, source, scored), scores, whole
            )
            index.insert("samples", (*SAMPLE_COLUMNS, *scores), rows)

        index.renew("samples", shards, add, progress)
        files = [
            Source(f"rejected/{storage.stem(file)}", file, str(storage.file_info(file).size))
            for file in manifest.rejected_files(layout, stored)
        ]

        def add_rejects(source: Source, number: int) -> None:
            index.insert("rejects", REJECT_COLUMNS, _rejected_rows(index, source, number))

        index.renew("rejects", files, add_rejects, progress)
        query_list.write(index.db, _queries(layout, whole))
        if index.has_changed:
            _note_staged(index, layout)
        near.renew(index)
        finish(index, layout.root)


def _score_sets(layout: Layout, stored: Manifest) -> dict[str, ScoreSet]:
    """Return the sets of `openwit score` that cover the run as it is, by name."""
    found = {name: score_files.read(layout.root, name) for name in score_files.names(layout.root)}
    return {name: one for name, one in found.items() if one is not None and not one.stale(stored)}


def _shard_source(
    layout: Layout, whole: FinishedSet, shard: ManifestShard, scored: Mapping[str, ScoreSet]
) -> Source:
    name = storage.stem(shard.name)
    gone = "\n".join(sorted(whole.dropped.keys(name)))
    tables = (
        table.sha256 for one in scored.values() for table in one.tables if table.name == f"{name}.parquet"
    )
    state = " ".join((shard.sha256, xxhash.xxh3_64_hexdigest(gone.encode()), *tables))
    return Source(name, storage.join(layout.shards, shard.name), state)


def _score_columns(
    index: Index, layout: Layout, stored: Manifest, scored: Mapping[str, ScoreSet]
) -> list[str]:
    """Return the names of the columns of scores, from the crawl and added later, which the table gets."""
    found = {column for one in scored.values() for column in one.columns}
    for shard in stored.shards[:1]:
        with storage.open_input(storage.join(layout.shards, f"{storage.stem(shard.name)}.parquet")) as file:
            found |= {name for name in pq.read_schema(file).names if _SCORE.fullmatch(name)}
    known = {row[1] for row in index.db.execute("PRAGMA table_info(samples)")}
    for name in sorted(found - known):
        index.db.execute(f'ALTER TABLE samples ADD COLUMN "{name}" REAL')
    return sorted(found)


def _with_scores(
    layout: Layout, whole: FinishedSet, source: Source, scored: Mapping[str, ScoreSet]
) -> pa.Table:
    """Return the rows of a shard that are part of the set, with all their scores."""
    table = whole.table(source.name)
    for name, one in scored.items():
        path = score_files.folder(layout.root, name, f"{source.name}.parquet")
        later = schemas.read_table(path, list(one.columns))
        for column in one.columns:
            if column not in table.column_names:
                table = table.append_column(column, later[column])
    return table.filter(pa.array(whole.stays(source.name, table)))


def _run_rows(
    index: Index, source: Source, number: int, table: pa.Table, scores: Sequence[str], whole: FinishedSet
) -> Iterator[Sequence[object]]:
    """Yield the rows of a shard of a run."""
    with storage.open_input(source.path) as file:
        by_key = dict(places(file))
    names = set(table.column_names)
    for row, ranks in zip(table.to_pylist(), _ranks(table, whole), strict=True):
        if (place := by_key.get(row["key"])) is None:
            continue  # `openwit verify` says that tar and Parquet differ
        values = {name: row[name] for name in FACETS if name in names}
        values |= {"site": site_of(row["url"]), "shard": source.name}
        tags = [index.tag("samples", kind, str(value)) for kind, value in values.items() if value]
        tags += [f"q{query}" for query in row["matched_query_ids"]] + ranks
        yield (
            row["uid"], row["key"], number, *place[:5], "\n".join(row["captions"]), row["url"],
            row["page_url"], " ".join(tags), row["width"], row["height"], row["bytes"], row["lang_score"],
            hash_of(row["phash"]), *(row.get(name) for name in scores),
        )  # fmt: skip


def _ranks(table: pa.Table, whole: FinishedSet) -> Iterator[list[str]]:
    """Yield the rank tags of each row."""
    if not len(table):
        return
    matched = pa.concat_arrays(table["matched_query_ids"].chunks)
    lengths = matched.value_lengths().to_numpy()
    uids = np.array([int(uid[:16], 16) for uid in table["uid"].to_pylist()], np.uint64)
    tags = query_list.rank_tags(matched.flatten().to_numpy(), np.repeat(uids, lengths), whole.hashes)
    ends = np.cumsum(lengths).tolist()
    for start, end in zip([0, *ends], ends, strict=False):
        yield tags[start:end]


def _rejected_rows(index: Index, source: Source, number: int) -> Iterator[Sequence[object]]:
    with storage.open_input(source.path) as file:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=16_384):
            for row in batch.to_pylist():
                values = {"site": site_of(row["url"]), "reason": row["reason"], "stage": row["stage"]}
                tags = [index.tag("rejects", kind, value) for kind, value in values.items() if value]
                yield (
                    number, row["uid"], row["url"], row["caption"], row["page_url"], row["stage"],
                    row["reason"], row["detail"], " ".join(tags),
                )  # fmt: skip


def _note_staged(index: Index, layout: Layout) -> None:
    """Note where the pictures lie that were fetched but are not in the set, if the crawl kept them."""
    with index.db:
        index.db.execute("DELETE FROM staged")
        if not run_folder.is_done(layout, "fetch"):
            return
        for one in run_folder.done(layout, Rounds).rounds:
            for unit in one.units:
                if unit.blob.endswith(".blob") and storage.exists(unit.blob):
                    index.db.executemany(
                        "INSERT OR IGNORE INTO staged VALUES (?, ?, ?, ?)", _staged(index, unit)
                    )


def _staged(index: Index, unit: Fetched) -> Iterator[tuple[str, str, int, int]]:
    table = schemas.read_table(unit.path, ["uid", "reason", "offset", "length"])
    for row in table.filter(pc.equal(table["reason"], "")).to_pylist():
        uid = row["uid"].hex()
        if not index.db.execute("SELECT 1 FROM samples WHERE uid = ?", (uid,)).fetchone():
            yield uid, unit.blob, row["offset"], row["length"]


def _queries(
    layout: Layout, whole: FinishedSet
) -> Iterator[tuple[int, str, int, int, int, int, bytes, bytes | None]]:
    """Yield each query with its counts, its hash and its threshold."""
    table = schemas.read_table(layout.query_counts)
    columns = [
        table[name].to_pylist() for name in ("query_id", "query", "matched", "kept", "present", "short")
    ]
    thresholds = [None] * len(table) if whole.thresholds is None else whole.thresholds.tolist()
    for *counts, own, threshold in zip(*columns, whole.hashes.tolist(), thresholds, strict=True):
        number, query, matched, kept, present, short = counts
        limit = None if threshold is None else threshold.to_bytes(8, "big")
        yield number, query, matched, kept, present, short, own.to_bytes(8, "big"), limit
