"""Finish: decide what stays by metadata alone, then copy the images once into mixed shards.

The final order is h(seed, uid). Staged blobs lie in that order already, so a final shard, a range of hashes,
reads one stretch of each blob of its group.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from pipeline import balance, schemas, storage
from pipeline.data.descriptors import PACKED_BYTES
from pipeline.fetch.parts import MERGED_ROWS, Merged
from pipeline.fetch.units import worth_retrying
from pipeline.finish.parts import (
    CAPTION_ONLY,
    SAMPLE_ROWS,
    Balanced,
    Failures,
    Group,
    RejectedRows,
    RejectTask,
    ShardTask,
)
from pipeline.flow.markers import read_vector, write_vector
from pipeline.flow.worker import partition_name
from pipeline.manifest import Shard, describe_shard
from pipeline.rights.statements import COLUMNS, resolve, union
from pipeline.select.workers import QueryTable, SampleQueryPairs, concat, slices
from pipeline.shards import Sample, write_shard

# Kept samples of one group of staged blobs: 20 shards of 10,000, some 6 GB, fit a worker's disk, and hold
# thousands of sites.
GROUP_SAMPLES = 200_000


def order_captions(matched: list[list[int]], hashes: list[int], kept: set[int]) -> list[int]:
    """Return the order of a sample's captions: most queries kept first, then by hash."""
    return sorted(range(len(hashes)), key=lambda i: (-sum(q in kept for q in matched[i]), hashes[i]))


@dataclass(frozen=True, kw_only=True)
class AssembleWorker:
    """Apply the final thresholds to a merged file: one row a sample, the rest over the cap."""

    folder: str
    queries: QueryTable
    thresholds: str

    def open(self) -> None:
        """Load nothing."""

    def run(self, state: None, task: Merged) -> Balanced:
        """Write NAME.parquet, NAME.rejected.parquet and NAME.counts.

        counts, int64 [2, Q]: samples that a query keeps, and samples in the set that contain it.
        """
        table = schemas.read_table(task.path)
        pairs = SampleQueryPairs.of(table, self.queries.queries)
        keeps = pairs.within(self.queries.hashes, read_vector(self.thresholds))
        stays = pairs.any_of(keeps)
        rejected = table.filter(pa.array(pairs.rows_of(~stays, len(table))))
        base = storage.join(self.folder, task.name)
        samples = assemble(table, pairs, keeps, stays, self.queries.seed)
        schemas.write_table(f"{base}.parquet", samples)
        rejected_rows = schemas.rejected_table(rejected, "finish", "over_cap", "fetched, not needed")
        schemas.write_table(f"{base}.rejected.parquet", rejected_rows)
        count = self.queries.queries
        present = pairs.counts(count, stays[pairs.sample])
        write_vector(f"{base}.counts", np.stack([pairs.counts(count, keeps), present]))
        return Balanced(
            name=task.name, path=f"{base}.parquet", rejects=f"{base}.rejected.parquet",
            counts=f"{base}.counts", samples=len(samples),
            captions=int(pairs.rows_of(stays, len(table)).sum()),
            extra=_extra_kinds(samples["extra"].to_pylist()), fetched=_period(samples["fetched_at"]),
        )  # fmt: skip


def assemble(
    table: pa.Table, pairs: SampleQueryPairs, keeps: np.ndarray, stays: np.ndarray, seed: int
) -> pa.Table:
    """Return SAMPLE_ROWS, sorted by h(seed, uid), of the samples that stay."""
    order = balance.sample_order(pairs.uid_hash, seed)
    query_bounds = np.searchsorted(pairs.sample, np.arange(len(pairs.starts) + 1))
    stops = np.append(pairs.starts, len(table))[1:]
    columns = {name: table[name].to_pylist() for name in CAPTION_ONLY}
    captions, kept_ids, all_ids, first_rows, said = [], [], [], [], []
    pages = table["page_rights"].to_pylist()
    chosen = np.flatnonzero(stays)
    chosen = chosen[np.lexsort((chosen, order[chosen]))]
    for index in chosen.tolist():
        start, stop = int(pairs.starts[index]), int(stops[index])
        inside = slice(query_bounds[index], query_bounds[index + 1])
        queries = pairs.query[inside]
        kept = queries[keeps[inside]].tolist()
        hashes = columns["caption_hash"][start:stop]
        ranked = order_captions(columns["matched"][start:stop], hashes, set(kept))
        captions.append([columns["caption"][start + i] for i in ranked])
        kept_ids.append(kept)
        all_ids.append(queries.tolist())
        first_rows.append(start + ranked[0])  # page, source and language are the first caption's
        said.append(union(pages[start:stop]))  # all pages that show it
    rest = table.select([f.name for f in MERGED_ROWS if f.name not in CAPTION_ONLY]).take(
        pa.array(first_rows, pa.int64())
    )
    index = rest.column_names.index("page_rights")
    rest = rest.set_column(index, rest.schema.field(index), pa.array(said, pa.string()))
    lists = [
        pa.array(order[chosen]),
        pa.array(captions, pa.list_(pa.string())),
        pa.array(kept_ids, pa.list_(pa.int32())),
        pa.array(all_ids, pa.list_(pa.int32())),
    ]
    return pa.Table.from_arrays([*lists, *rest.columns], schema=SAMPLE_ROWS)


def _period(fetched_at: pa.ChunkedArray) -> tuple[str, str] | None:
    """Return the first and the last moment, ISO 8601; None for no samples."""
    ends = pc.min_max(fetched_at).as_py()
    return (ends["min"].isoformat(), ends["max"].isoformat()) if ends["min"] else None


def _extra_kinds(values: list[str]) -> dict[str, str]:
    """Return for each kept column whether its values are numbers or not: one type for all shards."""
    kinds: dict[str, str] = {}
    for value in values:
        for name, item in (orjson.loads(value) if value else {}).items():
            if item is not None:
                number = isinstance(item, int | float) and not isinstance(item, bool)
                kinds[name] = "number" if number and kinds.get(name, "number") == "number" else "text"
    return dict(sorted(kinds.items()))


@dataclass(frozen=True, kw_only=True)
class GroupShuffler:
    """Bring the samples of a group of staged blobs together, in the final order."""

    folder: str
    seed: int

    def split(self, task: Balanced, partitions: int) -> Iterator[tuple[int, bytes]]:
        """Yield a file's samples by the seeded hash of their blob."""
        table = schemas.read_table(task.path)
        names = table["blob"].combine_chunks().dictionary_encode()
        blobs = [name.partition("@")[0] for name in names.dictionary.to_pylist()]  # whatever the attempt
        seeded = [xxhash.xxh3_64_intdigest(name.encode(), seed=self.seed) >> 32 for name in blobs]
        of_blob = (np.array(seeded, np.uint64) * np.uint64(partitions) >> np.uint64(32)).astype(np.int64)
        group = of_blob[names.indices.to_numpy()] if len(table) else np.zeros(0, np.int64)
        yield from slices(table, group)

    def reduce(self, partition: int, data: Iterable[bytes]) -> Group:
        """Write NNNNN.parquet, in the final order."""
        table = concat(data, SAMPLE_ROWS).sort_by([("order", "ascending"), ("uid", "ascending")])
        name = partition_name(partition)
        path = storage.join(self.folder, f"{name}.parquet")
        schemas.write_table(path, table)
        return Group(name=name, path=path, samples=len(table))


def cut_shards(
    groups: list[Group], samples_per_shard: int, extra: tuple[tuple[str, str], ...] = (), first: int = 0
) -> list[ShardTask]:
    """Return the shards to write, from number `first`; each group evenly: no shard is a small rest."""
    tasks: list[ShardTask] = []
    for group in groups:
        count = -(-group.samples // samples_per_shard)
        bounds = [group.samples * i // count for i in range(count + 1)] if count else [0]
        for start, stop in itertools.pairwise(bounds):
            name = f"{first + len(tasks):05d}"
            tasks.append(ShardTask(name=name, group=group.path, start=start, stop=stop, extra=extra))
    return tasks


def read_blobs(staging: str, table: pa.Table, descriptors: list[bytes], block: int = 512) -> Iterator[bytes]:
    """Yield the staged image of every row in order, reading `block` at a time; append its descriptors."""
    places = list(zip(*(table[name].to_pylist() for name in ("blob", "offset", "length")), strict=True))
    for start in range(0, len(places), block):
        ranges = [
            (storage.join(staging, f"{blob}.blob"), offset, offset + length + PACKED_BYTES)
            for blob, offset, length in places[start : start + block]
        ]
        for data in storage.read_ranges(ranges):
            descriptors.append(data[-PACKED_BYTES:])
            yield data[:-PACKED_BYTES]


@dataclass(frozen=True, kw_only=True)
class WriteWorker:
    """Write one final shard: tar, Parquet and stats."""

    folder: str  # RUN/shards
    staging: str
    samples_per_shard: int
    described: bool = True
    """Whether the images were described as they were fetched."""

    def open(self) -> None:
        """Load nothing."""

    def run(self, state: None, task: ShardTask) -> Shard:
        """Write NNNNN.tar, NNNNN.parquet and NNNNN_stats.json."""
        table = schemas.read_table(task.group).slice(task.start, task.stop - task.start)
        digits = max(4, len(str(self.samples_per_shard - 1)))
        keys = [f"{task.name}{index:0{digits}d}" for index in range(len(table))]
        rows = shard_table(table, keys, task.extra)
        base = storage.join(self.folder, task.name)
        # Columns that change between runs of the same bytes stay out of the tar.
        metadata = rows.drop_columns(["fetched_at"]).to_pylist()
        descriptors: list[bytes] = []
        images = read_blobs(self.staging, table, descriptors)
        samples = (
            Sample(key, jpeg, row["caption"], orjson.dumps(row, option=orjson.OPT_SORT_KEYS))
            for key, jpeg, row in zip(keys, images, metadata, strict=True)
        )
        with storage.atomic_output(f"{base}.tar") as path:
            tar = write_shard(Path(path), samples)
        # Only in the Parquet file: KEY.json holds the fields that people read.
        if self.described:
            rows = rows.append_column("descriptor", pa.array(descriptors, pa.binary(PACKED_BYTES)))
        return describe_shard(base, task.name, rows, tar)


OPTIONAL: Final = {"iscc": pa.string(), "faces": pa.list_(pa.list_(pa.int32()))}
"""Columns that options add, beside score_*."""


def shard_table(table: pa.Table, keys: list[str], extra: Sequence[tuple[str, str]]) -> pa.Table:
    """Return a shard's Parquet rows: img2dataset's columns, then openwit's, then scores and kept columns."""
    count = len(table)
    captions = table["captions"].combine_chunks()
    columns: dict[str, object] = {
        "key": pa.array(keys, pa.string()),
        "url": table["url"],
        "caption": pc.list_element(captions, 0) if count else pa.array([], pa.string()),
        "status": pa.array(["success"] * count, pa.string()),
        "error_message": pa.nulls(count, pa.string()),
        **{name: table[name] for name in ("width", "height", "original_width", "original_height", "exif")},
        "sha256": _hex(table["sha256"]),
        "uid": _hex(table["uid"]),
        **{name: table[name] for name in ("captions", "query_ids", "matched_query_ids")},
        **{
            name: table[name]
            for name in (
                "page_url",
                "source",
                "lang",
                "lang_score",
                "lang_page",
                "phash",
                "quality",
                "format",
                "bytes",
            )
        },
        **rights_columns(table["page_rights"], table["rights"]),
        **{name: table[name] for name in ("synthetic", "synthetic_source")},
        **{name: table[name] for name in ("http_status", "fetched_at")},
    }
    scores = [json.loads(text) if text else {} for text in table["scores"].to_pylist()]
    for name in sorted(scores[0]) if scores else []:
        columns[name] = pa.array([row[name] for row in scores], OPTIONAL.get(name, pa.float32()))
    kept = [orjson.loads(text) if text else {} for text in table["extra"].to_pylist()]
    for name, kind in extra:
        label = name if name not in columns else f"{name}_"
        columns[label] = _extra_column([row.get(name) for row in kept], kind)
    return pa.table(columns)


def published(rejected: pa.Table) -> pa.Table:
    """Return rejected rows in their published form: statements on their terms as columns."""
    for name, column in rights_columns(rejected["rights"]).items():
        rejected = rejected.append_column(name, column)
    return rejected.drop_columns(["rights"])


def rights_columns(*said: pa.ChunkedArray) -> dict[str, pa.Array]:
    """Return the columns of `rights.statements.Rights` that encoded statements come to."""
    rows = [resolve(*texts) for texts in zip(*(column.to_pylist() for column in said), strict=True)]
    columns = list(zip(*rows, strict=True)) or [()] * len(COLUMNS)
    return {name: pa.array(values, pa.string()) for name, values in zip(COLUMNS, columns, strict=True)}


def _hex(column: pa.ChunkedArray) -> pa.Array:
    return pa.array([value.hex() for value in column.to_pylist()], pa.string())


def _extra_column(values: list[Any], kind: str) -> pa.Array:
    if kind == "number":
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    texts = [v if isinstance(v, str) or v is None else orjson.dumps(v).decode() for v in values]
    return pa.array(texts, pa.string())


@dataclass(frozen=True, kw_only=True)
class RejectWorker:
    """Publish rejected rows; rows that were sent to the fetcher are kept whole, the rest may be sampled."""

    folder: str
    queries: QueryTable

    def open(self) -> None:
        """Load nothing."""

    def run(self, state: None, task: RejectTask) -> RejectedRows:
        """Write NAME.parquet; the result counts every candidate by stage and reason, published or not."""
        tables = [schemas.read_table(path) for path in task.tables]
        tables += [self._failures(unit) for unit in task.units]
        table = pa.concat_tables([schemas.REJECTED_ROWS.empty_table(), *tables])
        sums = table.group_by(["stage", "reason"]).aggregate([("candidates", "sum")]).to_pylist()
        counts = {f"{row['stage']}/{row['reason']}": row["candidates_sum"] for row in sums}
        table = self._sampled(table, task.share)
        table = published(table)
        schemas.write_table(storage.join(self.folder, f"{task.name}.parquet"), table)
        return RejectedRows(name=task.name, counts=dict(sorted(counts.items())), rows=len(table))

    def _failures(self, task: Failures) -> pa.Table:
        """Return the rejected rows of a fetched unit: its failures that no later round took up."""
        unit, fetched = schemas.read_table(task.unit.unit), schemas.read_table(task.unit.path)
        final = ~pc.equal(fetched["reason"], "").to_numpy()
        if task.arrived:  # another round followed, and took the images worth it
            final &= ~worth_retrying(fetched, unit, self.queries.hashes, read_vector(task.arrived))
        starts = schemas.run_starts(unit["uid"])
        of_row = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(unit))))
        rows = final[of_row]
        rejected = schemas.rejected_table(unit.filter(pa.array(rows)), "fetch", "")
        images = fetched.select(["reason", "detail", "rights"]).take(pa.array(of_row[rows]))
        pairs = zip(rejected["rights"].to_pylist(), images["rights"].to_pylist(), strict=True)
        index = images.column_names.index("rights")
        images = images.set_column(index, "rights", pa.array([union(pair) for pair in pairs], pa.string()))
        for name in ("reason", "detail", "rights"):
            index = schemas.REJECTED_ROWS.get_field_index(name)
            rejected = rejected.set_column(index, schemas.REJECTED_ROWS.field(name), images[name])
        return rejected

    def _sampled(self, table: pa.Table, share: dict[str, float]) -> pa.Table:
        if not share or not len(table):
            return table
        fetched = table["stage"].to_pylist()
        limits = [1.0 if stage == "fetch" else share.get(reason, 1.0)
                  for stage, reason in zip(fetched, table["reason"].to_pylist(), strict=True)]  # fmt: skip
        texts = zip(table["url"].to_pylist(), table["caption"].to_pylist(), strict=True)
        hashes = [
            xxhash.xxh3_64_intdigest(f"{url}\n{text}".encode(), seed=self.queries.seed) for url, text in texts
        ]
        return table.filter(pa.array([h <= limit * 2**64 for h, limit in zip(hashes, limits, strict=True)]))
