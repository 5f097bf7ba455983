"""Select: deduplicate by URL, count, find thresholds, and cut the samples to fetch into work units.

Everything is a pass over caption rows sorted by (uid, caption_hash): a sample is a run of rows.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa

from pipeline import balance, querylist, schemas, storage
from pipeline.balance import I64, U64
from pipeline.captions.match import Rule
from pipeline.flow.markers import read_vector, write_vector
from pipeline.flow.worker import partition_name
from pipeline.select.parts import CaptionFiles, Deduplicated, Samples, SampleTable, SharedCaptions, Untried


def few_captions(table: pa.Table, max_captions: int) -> tuple[pa.Table, pa.Table]:
    """Keep the first of equal (uid, caption_hash) rows of a sorted table, and `max_captions` of each sample.

    Those of smallest hash are kept. Returns (kept, rejected).
    """
    starts = schemas.run_starts(table["uid"])
    if not len(starts):
        return table, schemas.REJECTED_ROWS.empty_table()
    first = np.zeros(len(table), bool)
    first[starts] = True
    hashes = table["caption_hash"].to_numpy()
    first[1:] |= hashes[1:] != hashes[:-1]
    place = np.cumsum(first)  # 1, 2, ... over all samples
    inside = place - np.repeat(place[starts], np.diff(np.append(starts, len(table)))) < max_captions
    rejected = [
        schemas.rejected_table(table.filter(pa.array(rows)), "select", reason)
        for rows, reason in ((~first, "duplicate"), (first & ~inside, "too_many_captions"))
    ]
    return table.filter(pa.array(first & inside)), pa.concat_tables(rejected)


def one_url(table: pa.Table) -> pa.Table:
    """Give all rows of a sample its first row's URL: spellings of one canonical URL are fetched once."""
    starts = schemas.run_starts(table["uid"])
    first = np.repeat(starts, np.diff(np.append(starts, len(table))))
    index = table.column_names.index("url")
    return table.set_column(index, table.schema.field("url"), table["url"].take(pa.array(first)))


@dataclass(frozen=True)
class SampleQueryPairs:
    """The (sample, query) pairs of a table, each once, with the samples' first rows."""

    starts: I64  # [samples] first row of each sample
    uid_hash: U64  # [samples]
    sample: I64  # [pairs] index into starts
    query: np.ndarray  # int32 [pairs]

    @classmethod
    def of(cls, table: pa.Table, queries: int) -> "SampleQueryPairs":
        """Flatten `matched`; pairs come sorted by (sample, query)."""
        starts = schemas.run_starts(table["uid"])
        matched = table["matched"].combine_chunks()
        if isinstance(matched, pa.ChunkedArray):
            matched = pa.concat_arrays(matched.chunks) if matched.num_chunks else pa.array([], matched.type)
        rows = np.repeat(np.arange(len(table)), np.diff(matched.offsets.to_numpy()))
        query = matched.flatten().to_numpy().astype(np.int32, copy=False)
        of_row = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(table))))
        sample, query = balance.unique_pairs(of_row[rows], query, queries)
        uid_hash = schemas.high_bits(table["uid"])[starts]
        return cls(starts, uid_hash, sample, query)

    def priorities(self, query_hash: U64) -> U64:
        """Return each pair's priority, uint64 [pairs]."""
        return balance.priorities(self.uid_hash[self.sample], query_hash[self.query])

    def within(self, query_hash: U64, thresholds: U64) -> np.ndarray:
        """Return which pairs their query's threshold lets in, bool [pairs]."""
        admitted: np.ndarray = self.priorities(query_hash) <= thresholds[self.query]
        return admitted

    def counts(self, queries: int, where: np.ndarray | None = None) -> I64:
        """Return the number of samples of each query, int64 [Q], of the pairs in `where`."""
        query = self.query if where is None else self.query[where]
        return np.bincount(query, minlength=queries).astype(np.int64)

    def any_of(self, where: np.ndarray) -> np.ndarray:
        """Return for each sample whether any of its pairs is in `where`, bool [samples]."""
        result = np.zeros(len(self.starts), bool)
        result[self.sample[where]] = True
        return result

    def rows_of(self, samples: np.ndarray, rows: int) -> np.ndarray:
        """Return the mask of rows, bool [rows], that belong to the samples in the mask."""
        return np.repeat(samples, np.diff(np.append(self.starts, rows)))


@lru_cache(maxsize=4)
def _query_hashes(path: str, seed: int, rule: Rule) -> U64:
    return balance.query_hashes(querylist.normalised(querylist.load(path), rule), seed)


@lru_cache(maxsize=8)
def _vector(path: str) -> np.ndarray:
    return read_vector(path)


@dataclass(frozen=True, kw_only=True)
class QueryTable:
    """The query list as workers need it: how many, and their hashes; loaded once a process."""

    path: str
    seed: int
    queries: int
    rule: Rule = "openwit"

    @property
    def hashes(self) -> U64:
        """Return uint64 [Q]."""
        return _query_hashes(self.path, self.seed, self.rule)


def slices(table: pa.Table, partition: np.ndarray) -> Iterator[tuple[int, bytes]]:
    """Yield (partition, encoded rows) for each partition that occurs in `partition`, int64 [rows]."""
    if not len(table):
        return
    if (partition[1:] < partition[:-1]).any():
        order = np.argsort(partition, kind="stable")
        partition = partition[order]
        table = table.take(pa.array(order))
    starts = np.flatnonzero(np.append(True, partition[1:] != partition[:-1]))
    for start, stop in zip(starts, np.append(starts[1:], len(partition)), strict=True):
        yield int(partition[start]), schemas.encode(table.slice(start, stop - start))


def concat(data: Iterable[bytes], schema: pa.Schema) -> pa.Table:
    """Return the table of all slices of a partition."""
    return pa.concat_tables([schema.empty_table(), *(schemas.decode(part) for part in data)])


@dataclass(frozen=True, kw_only=True)
class DedupeShuffler:
    """Bring all rows of a URL together: each caption once, at most `max_captions`."""

    folder: str
    max_captions: int

    def split(self, task: CaptionFiles, partitions: int) -> Iterator[tuple[int, bytes]]:
        """Yield the rows of several candidates files."""
        table = pa.concat_tables(schemas.read_table(path) for path in task.paths)
        yield from slices(table, schemas.partition_of(schemas.high_bits(table["uid"]), partitions))

    def reduce(self, partition: int, data: Iterable[bytes]) -> Deduplicated:
        """Write NNNNN.parquet and NNNNN.rejected.parquet."""
        return self.write(partition, schemas.sort_rows(concat(data, schemas.CAPTION_ROWS)), [])

    def write(self, partition: int, table: pa.Table, rejected: list[pa.Table]) -> Deduplicated:
        """Write a partition's files from its sorted rows; `rejected`: rows that were rejected already."""
        table, over = few_captions(table, self.max_captions)
        table = one_url(table)
        name = partition_name(partition)
        base = storage.join(self.folder, name)
        refused = pa.concat_tables([*rejected, over])
        schemas.write_table(f"{base}.parquet", table)
        schemas.write_table(f"{base}.rejected.parquet", refused)
        return Deduplicated(
            name=name, path=f"{base}.parquet", rejects=f"{base}.rejected.parquet", rows=len(table),
            rejected=schemas.count_reasons(refused),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SharedCaptionShuffler:
    """Find the texts that stand at more than `limit` images (ALIGN and COYO drop at 10)."""

    folder: str
    limit: int

    def split(self, task: CaptionFiles, partitions: int) -> Iterator[tuple[int, bytes]]:
        """Yield the caption hashes; a deduplicated file has each (image, text) once."""
        columns = [schemas.read_table(path, ["caption_hash"])["caption_hash"] for path in task.paths]
        hashes = np.concatenate([column.to_numpy() for column in columns])
        partition = schemas.partition_of(hashes, partitions)
        yield from slices(pa.table({"caption_hash": hashes}), partition)

    def reduce(self, partition: int, data: Iterable[bytes]) -> SharedCaptions:
        """Write the shared texts' hashes, sorted."""
        table = concat(data, pa.schema([("caption_hash", pa.uint64())]))
        hashes, images = np.unique(table["caption_hash"].to_numpy(), return_counts=True)
        name, shared = partition_name(partition), hashes[images > self.limit]
        path = storage.join(self.folder, f"{name}.shared")
        write_vector(path, shared)
        return SharedCaptions(name=name, path=path, shared=len(shared))


def read_samples(path: str, shared: str, columns: list[str] | None = None) -> pa.Table:
    """Return columns of a file of samples, without the rows of texts whose hashes the file `shared` holds."""
    if not shared:
        return schemas.read_table(path, columns)
    table = schemas.read_table(path, columns and [*columns, "caption_hash"])
    keeps = np.isin(table["caption_hash"].to_numpy(), _vector(shared), invert=True)
    table = table.filter(pa.array(keeps))
    return table.select(columns) if columns else table


@dataclass(frozen=True, kw_only=True)
class AdmitWorker:
    """Take the shared captions out of a deduplicated file and count the remaining samples by query."""

    folder: str
    queries: QueryTable
    shared: str

    def open(self) -> None:
        """Load nothing."""

    def run(self, state: None, task: Deduplicated) -> Samples:
        """Write NAME.parquet, NAME.rejected.parquet and NAME.counts, int64 [1, Q]."""
        base = storage.join(self.folder, task.name)
        hashes = schemas.read_table(task.path, ["caption_hash"])["caption_hash"].to_numpy()
        is_shared = np.isin(hashes, _vector(self.shared))
        rejected, shared = schemas.REJECTED_ROWS.empty_table(), ""
        if is_shared.any():
            rows = schemas.read_table(task.path, ["uid", "url", "caption", "page_url", "page_rights"])
            rejected = schemas.rejected_table(rows.filter(pa.array(is_shared)), "select", "shared_caption")
            shared = self.shared
        storage.link(task.path, f"{base}.parquet")  # whose columns are not moved before rows are chosen
        schemas.write_table(f"{base}.rejected.parquet", rejected)
        table = read_samples(task.path, shared, ["uid", "matched"])
        pairs = SampleQueryPairs.of(table, self.queries.queries)
        write_vector(f"{base}.counts", pairs.counts(self.queries.queries)[None])
        return Samples(
            name=task.name, path=f"{base}.parquet", rejects=f"{base}.rejected.parquet",
            counts=f"{base}.counts", rows=len(table), samples=len(pairs.starts),
            rejected=schemas.count_reasons(rejected), shared=shared,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PairCounter:
    """Give a samples file's pairs to the threshold graph."""

    queries: QueryTable

    def pairs(self, task: SampleTable, counts: I64, rank: I64) -> tuple[np.ndarray, U64]:
        """Return the pairs that may decide a threshold."""
        shared = task.shared if isinstance(task, Samples) else ""
        table = read_samples(task.path, shared, ["uid", "matched"])
        pairs = SampleQueryPairs.of(table, self.queries.queries)
        return balance.head_pairs(pairs.query, pairs.priorities(self.queries.hashes), counts, rank)


def chosen(pairs: SampleQueryPairs, query_hash: U64, thresholds: U64) -> np.ndarray:
    """Return for each sample whether any of its queries keeps it, bool [samples]."""
    return pairs.any_of(pairs.within(query_hash, thresholds))


@dataclass(frozen=True, kw_only=True)
class UntriedWorker:
    """Reject the samples that were never sent to the fetcher, and count them by query."""

    folder: str
    queries: QueryTable
    thresholds: str  # of the last round

    def open(self) -> None:
        """Load nothing."""

    def run(self, state: None, task: Samples) -> Untried:
        """Write NAME.rejected.parquet and NAME.counts, int64 [1, Q]."""
        table = read_samples(task.path, task.shared)
        pairs = SampleQueryPairs.of(table, self.queries.queries)
        untried = ~chosen(pairs, self.queries.hashes, _vector(self.thresholds))
        base = storage.join(self.folder, task.name)
        rows = table.filter(pa.array(pairs.rows_of(untried, len(table))))
        rejected = schemas.rejected_table(rows, "select", "over_cap", "not fetched")
        schemas.write_table(f"{base}.rejected.parquet", rejected)
        write_vector(f"{base}.counts", pairs.counts(self.queries.queries, untried[pairs.sample])[None])
        return Untried(
            name=task.name, rejects=f"{base}.rejected.parquet", counts=f"{base}.counts",
            rejected=schemas.count_reasons(rejected),
        )  # fmt: skip
