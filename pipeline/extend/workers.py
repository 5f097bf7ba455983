"""Extend: the effect of a finished run's samples on those that are added to it.

The run's own samples stay as they are stored. They count in the balance, they take the place of new images
with the same bytes, and tightened thresholds drop some of them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import dropped_samples, schemas, storage
from pipeline.extend.parts import (
    KNOWN_ROWS,
    STORED_ROWS,
    DroppedSamples,
    Known,
    Stored,
    StoredCounts,
    StoredShard,
)
from pipeline.flow.markers import read_vector, write_vector
from pipeline.flow.worker import partition_name
from pipeline.select.parts import CaptionFiles, Deduplicated
from pipeline.select.workers import DedupeShuffler, QueryTable, SampleQueryPairs, chosen, read_samples, slices


@dataclass(frozen=True, kw_only=True)
class StoredWorker:
    """Read the samples of a shard of the run, without those that were dropped before."""

    folder: str
    root: str
    extensions: int
    """How many extensions the run has had."""
    queries: QueryTable

    def open(self) -> dropped_samples.Dropped:
        """Load the samples that were dropped before."""
        return dropped_samples.load(self.root, self.extensions)

    def run(self, state: dropped_samples.Dropped, task: StoredShard) -> Stored:
        """Write NAME.parquet, STORED_ROWS sorted by uid, and NAME.counts, int64 [1, Q]."""
        table = schemas.read_table(task.rows, ["key", "uid", "matched_query_ids", "sha256"])
        table = table.filter(pa.array(state.stays(task.name, table["key"].to_pylist())))
        rows = zip(
            (bytes.fromhex(uid) for uid in table["uid"].to_pylist()), table["matched_query_ids"].to_pylist(),
            (bytes.fromhex(digest) for digest in table["sha256"].to_pylist()), strict=True,
        )  # fmt: skip
        stored = schemas.to_table(sorted(rows), STORED_ROWS)
        pairs = SampleQueryPairs.of(stored, self.queries.queries)
        base = storage.join(self.folder, task.name)
        schemas.write_table(f"{base}.parquet", stored)
        write_vector(f"{base}.counts", pairs.counts(self.queries.queries)[None])
        return Stored(
            name=task.name, path=f"{base}.parquet", shard=task.rows, counts=f"{base}.counts",
            samples=len(stored),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class StoredCountWorker:
    """Count stored samples as `MergeShuffler` counts arrived images."""

    folder: str
    queries: QueryTable
    thresholds: str  # up to which samples were tried

    def open(self) -> None:
        """Load nothing."""

    def run(self, state: None, task: Stored) -> StoredCounts:
        """Write NAME.counts, int64 [2, Q]: samples of each query, and those of them within the thresholds."""
        pairs = SampleQueryPairs.of(schemas.read_table(task.path, ["uid", "matched"]), self.queries.queries)
        within = pairs.within(self.queries.hashes, read_vector(self.thresholds))
        count, path = self.queries.queries, storage.join(self.folder, f"{task.name}.counts")
        write_vector(path, np.stack([pairs.counts(count), pairs.counts(count, within)]))
        return StoredCounts(name=task.name, path=task.path, counts=path)


@dataclass(frozen=True, kw_only=True)
class DropWorker:
    """Find the stored samples that no query keeps any more."""

    folder: str
    queries: QueryTable
    thresholds: str
    extension: int

    def open(self) -> None:
        """Load nothing."""

    def run(self, state: None, task: Stored) -> DroppedSamples:
        """Write NAME.parquet (dropped.ROWS), NAME.rejected.parquet, and NAME.counts as `AssembleWorker`."""
        stored = schemas.read_table(task.path)
        pairs = SampleQueryPairs.of(stored, self.queries.queries)
        keeps = pairs.within(self.queries.hashes, read_vector(self.thresholds))
        stays = pairs.any_of(keeps)
        gone = {uid.hex() for uid in stored["uid"].filter(pa.array(~stays)).to_pylist()}
        columns = ["uid", "key", "url", "captions", "page_url"]
        table = schemas.read_table(task.shard, columns)
        rows = [row for row in table.to_pylist() if row["uid"] in gone]
        base, name = storage.join(self.folder, task.name), task.name
        dropped_rows = [
            (row["uid"], row["key"], name, "over_cap", len(row["captions"]), self.extension) for row in rows
        ]
        detail = f"stored before, dropped by extension {self.extension}"
        rejected_rows = [
            (row["uid"], row["url"], caption, row["page_url"], "finish", "over_cap", detail, 1, "")
            for row in rows
            for caption in row["captions"]
        ]
        schemas.write_table(f"{base}.parquet", schemas.to_table(dropped_rows, dropped_samples.ROWS))
        schemas.write_table(
            f"{base}.rejected.parquet", schemas.to_table(rejected_rows, schemas.REJECTED_ROWS)
        )
        count = self.queries.queries
        counts = [pairs.counts(count, keeps), pairs.counts(count, stays[pairs.sample])]
        write_vector(f"{base}.counts", np.stack(counts))
        return DroppedSamples(
            name=name, path=f"{base}.parquet", rejects=f"{base}.rejected.parquet", counts=f"{base}.counts",
            dropped=len(rows), captions=len(rejected_rows),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class NewShuffler(DedupeShuffler):
    """Bring all rows of a URL together, and leave out the URLs that the run has tried.

    A URL that the run knew and never tried is decided again, by its captions in the new sources.
    """

    queries: QueryTable

    def split(self, task: CaptionFiles | Known, partitions: int) -> Iterator[tuple[int, bytes]]:
        """Yield the rows of candidates files, or of a file of samples of the run."""
        if isinstance(task, CaptionFiles):
            yield from super().split(task, partitions)
            return
        table = read_samples(task.path, task.shared, ["uid", "matched"])
        table = known_rows(table, self.queries, read_vector(task.tried), task.extension)
        yield from slices(table, schemas.partition_of(schemas.high_bits(table["uid"]), partitions))

    def reduce(self, partition: int, data: Iterable[bytes]) -> Deduplicated:
        """Write NNNNN.parquet, NNNNN.rejected.parquet, and NNNNN.moved, int64 [1, Q].

        moved: samples of the run that are new ones from now on, by query.
        """
        tables = [schemas.decode(part) for part in data]
        known = pa.concat_tables(
            [KNOWN_ROWS.empty_table(), *(t for t in tables if "tried" in t.column_names)]
        )
        found = [t for t in tables if "tried" not in t.column_names]
        table = schemas.sort_rows(pa.concat_tables([schemas.CAPTION_ROWS.empty_table(), *found]))
        again = pc.is_in(table["uid"], value_set=known.filter(known["tried"])["uid"].combine_chunks())
        rejected = schemas.rejected_table(table.filter(again), "select", "known_url")
        table = table.filter(pc.invert(again))
        result = self.write(partition, table, [rejected])
        moved = moved_counts(known, table["uid"], self.queries.queries)
        path = storage.join(self.folder, f"{partition_name(partition)}.moved")
        write_vector(path, moved[None])
        return replace(result, moved=path)


def known_rows(table: pa.Table, queries: QueryTable, thresholds: np.ndarray, extension: int) -> pa.Table:
    """Return KNOWN_ROWS for a run's samples, sorted by uid; `thresholds`: up to which they were tried."""
    if not len(table):
        return KNOWN_ROWS.empty_table()
    pairs = SampleQueryPairs.of(table, queries.queries)
    tried = chosen(pairs, queries.hashes, thresholds)
    of_row = pairs.rows_of(tried, len(table))
    first = np.zeros(len(table), bool)
    first[pairs.starts] = True
    wanted = pa.array(first | ~of_row)
    matched = table["matched"].combine_chunks()
    matched = pc.if_else(pa.array(~of_row), matched, pa.array([[]], matched.type)[0])
    columns = [table["uid"], matched, pa.array(of_row), pa.array([extension] * len(table), pa.int32())]
    return pa.Table.from_arrays(columns, schema=KNOWN_ROWS).filter(wanted)


def moved_counts(known: pa.Table, found: pa.ChunkedArray, queries: int) -> np.ndarray:
    """Return by query the samples of the run that were never tried and are among the `found` uids, int64 [Q].

    If a sample was moved before, the extension that has it now counts.
    """
    known = known.filter(pc.is_in(known["uid"], value_set=pc.unique(found)))
    known = known.filter(pc.invert(known["tried"])).sort_by("uid").combine_chunks()
    starts = schemas.run_starts(known["uid"])
    if not len(starts):
        return np.zeros(queries, np.int64)
    extension = known["extension"].to_numpy()
    latest = np.repeat(np.maximum.reduceat(extension, starts), np.diff(np.append(starts, len(known))))
    return SampleQueryPairs.of(known.filter(pa.array(extension == latest)), queries).counts(queries)
