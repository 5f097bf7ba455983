"""Merge: the arrived images, with images of the same bytes joined.

It runs after every round, because only then is known which queries are still short; finish writes the result
after the last round.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schemas, storage
from pipeline.captions.match import tokens
from pipeline.extend.parts import Stored
from pipeline.fetch.parts import FETCHED, MERGED_ROWS, Fetched, Merged
from pipeline.fetch.terms import unlicensed
from pipeline.flow.markers import read_vector, write_vector
from pipeline.flow.worker import partition_name
from pipeline.select.workers import QueryTable, SampleQueryPairs, slices

# One picture under many captions, of which pairs on average share less than a fifth of their words, says
# "image not available" or shows a logo. (ALIGN, Jia et al. 2021, drops images with over 1,000 texts, related
# or not.)
PLACEHOLDER_SIMILARITY = 0.2
_COMPARED = 32


def is_placeholder(captions: list[str], limit: int) -> bool:
    """Return whether `limit` or more captions are unrelated: mean Jaccard of token sets over all pairs."""
    distinct = sorted(set(captions))
    if not limit or len(distinct) < limit:
        return False
    sets = [
        frozenset(tokens(caption)) for caption in distinct[:: max(1, len(distinct) // _COMPARED)][:_COMPARED]
    ]
    similarities = [len(a & b) / max(len(a | b), 1) for i, a in enumerate(sets) for b in sets[:i]]
    return float(np.mean(similarities)) < PLACEHOLDER_SIMILARITY


@lru_cache(maxsize=2)
def dropped_uids(path: str) -> frozenset[bytes]:
    """Return the uids of a `--drop` file: Parquet with a column uid of 32 hex digits, else ValueError."""
    if not path:
        return frozenset()
    table = schemas.read_table(path)
    if "uid" not in table.column_names:
        raise ValueError(f"{path} has no column 'uid'; it has {', '.join(table.column_names)}")
    return frozenset(bytes.fromhex(uid) for uid in table["uid"].to_pylist())


@dataclass(frozen=True, kw_only=True)
class MergeShuffler:
    """Bring the images of the same bytes together."""

    folder: str
    queries: QueryTable
    max_captions: int
    round: int
    thresholds: str  # up to which samples were tried
    placeholder_captions: int
    by_bytes: bool = True
    drop: str = ""
    licences: tuple[str, ...] = ()
    """Those that are kept, or () for all: a merged image has the pages of all, which may differ."""

    @property
    def _key(self) -> str:
        return "sha256" if self.by_bytes else "uid"

    def split(self, task: Fetched | Stored, partitions: int) -> Iterator[tuple[int, bytes]]:
        """Yield the caption rows of a unit's arrived images, with the facts known of each image.

        For a file of stored samples, which an extended run already has, yield their uids and hashes.
        """
        if isinstance(task, Stored):
            stored = schemas.read_table(task.path, ["uid", "sha256"])
            partition = schemas.partition_of(schemas.high_bits(stored["sha256"]), partitions)
            yield from slices(stored, partition)
            return
        unit, fetched = schemas.read_table(task.unit), schemas.read_table(task.path)
        starts = schemas.run_starts(unit["uid"])
        of_row = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(unit))))
        arrived = pc.equal(fetched["reason"], "").to_numpy()
        partition = np.zeros(len(fetched), np.int64)
        hashes = schemas.high_bits(fetched[self._key].filter(pa.array(arrived)))
        partition[arrived] = schemas.partition_of(hashes, partitions)
        rows = of_row[arrived[of_row]]
        unit = unit.filter(pa.array(arrived[of_row])).select(schemas.CAPTION_ROWS.names)
        images = fetched.select([field.name for field in FETCHED]).take(pa.array(rows))
        table = pa.Table.from_arrays([*unit.columns, *images.columns], schema=MERGED_ROWS)
        yield from slices(table, partition[rows])

    def reduce(self, partition: int, data: Iterable[bytes]) -> Merged:
        """Write NNNNN.parquet, NNNNN.rejected.parquet and NNNNN.counts.

        counts, int64 [2, Q]: samples of each query that arrived, and those of them within the thresholds.
        """
        tables = [schemas.decode(part) for part in data]
        stored = [table for table in tables if "caption" not in table.column_names]
        found = pa.concat_tables(
            [MERGED_ROWS.empty_table(), *(table for table in tables if "caption" in table.column_names)]
        )
        found, given = merge_into_stored(found, stored)
        table, rejected = merge(
            found, self._key, self.max_captions, self.placeholder_captions, dropped_uids(self.drop),
            self.licences,
        )  # fmt: skip
        rejected = pa.concat_tables([given, rejected])
        pairs = SampleQueryPairs.of(table, self.queries.queries)
        within = pairs.within(self.queries.hashes, read_vector(self.thresholds))
        count = self.queries.queries
        name = partition_name(partition)
        base = storage.join(self.folder, name)
        schemas.write_table(f"{base}.parquet", table)
        schemas.write_table(f"{base}.rejected.parquet", rejected)
        write_vector(f"{base}.counts", np.stack([pairs.counts(count), pairs.counts(count, within)]))
        return Merged(
            name=name, round=self.round, path=f"{base}.parquet", rejects=f"{base}.rejected.parquet",
            counts=f"{base}.counts", rows=len(table), samples=len(pairs.starts),
            rejected=schemas.count_reasons(rejected),
        )  # fmt: skip


def merge_into_stored(table: pa.Table, stored: list[pa.Table]) -> tuple[pa.Table, pa.Table]:
    """Take out the images whose bytes are stored already; return (the other rows, rejected rows).

    A stored sample keeps its captions, so each caption of such an image is rejected.
    """
    if not stored:
        return table, schemas.REJECTED_ROWS.empty_table()
    known = pa.concat_tables(stored).combine_chunks()
    places = pc.index_in(table["sha256"], value_set=known["sha256"].combine_chunks())
    same = pc.is_valid(places)
    targets = [uid.hex() for uid in known["uid"].take(places.filter(same)).to_pylist()]
    rejected = schemas.rejected_table(table.filter(same), "finish", "merged_into", targets)
    return table.filter(pc.invert(same)), rejected


def merge(
    table: pa.Table,
    key: str,
    max_captions: int,
    placeholder_captions: int,
    dropped: frozenset[bytes] = frozenset(),
    licences: tuple[str, ...] = (),
) -> tuple[pa.Table, pa.Table]:
    """Merge images of equal `key` into the smallest uid; return (merged rows sorted by uid, rejected rows).

    key: sha256; uid to merge nothing; or survivor, a column of the table that names the uid to merge into.

    The union of captions keeps the `max_captions` of smallest hash. Every row of the input is a row of one of
    the two outputs, and an image that gave away all its captions has a rejected row for zero candidates.
    """
    names = [key, "uid", "caption_hash"]
    if key == "survivor":  # which comes first in its group
        table = table.append_column("given", pc.not_equal(table["uid"], table[key]))
        names.insert(1, "given")
    table = table.sort_by([(name, "ascending") for name in dict.fromkeys(names)]).combine_chunks()
    group_starts = schemas.run_starts(table[key])
    if not len(group_starts):
        return MERGED_ROWS.empty_table(), schemas.REJECTED_ROWS.empty_table()
    sizes = np.diff(np.append(group_starts, len(table)))
    group = np.repeat(np.arange(len(group_starts)), sizes)
    survivor = pa.array(np.repeat(group_starts, sizes))
    survivor_uid = table["uid"].take(survivor)
    is_survivor = pc.equal(table["uid"], survivor_uid).to_numpy()
    whole = _whole_groups(table, group_starts, sizes, placeholder_captions, dropped, licences)
    lost = whole[group] != ""

    # The union: in each group each caption once, the smallest hashes; a survivor's own caption goes first.
    hashes = table["caption_hash"].to_numpy()
    order = np.lexsort((np.arange(len(table)), ~is_survivor, hashes, group))
    again = np.zeros(len(table), bool)
    again[order[1:]] = (hashes[order[1:]] == hashes[order[:-1]]) & (group[order[1:]] == group[order[:-1]])
    distinct = order[~again[order]]
    first = np.searchsorted(group[distinct], group[distinct], side="left")
    over = np.zeros(len(table), bool)
    over[distinct[np.arange(len(distinct)) - first >= max_captions]] = True
    kept = ~(again | over | lost)

    rejected = [
        schemas.rejected_table(table.filter(pa.array(lost & (whole[group] == reason))), "finish", reason)
        for reason in ("dropped", "licence", "placeholder")
    ]
    own = ~lost & over & is_survivor
    rejected.append(schemas.rejected_table(table.filter(pa.array(own)), "finish", "too_many_captions"))
    given = ~lost & ~kept & ~is_survivor
    rejected.append(_merged_into(table, given, survivor_uid, 1))
    starts = schemas.run_starts(table["uid"])  # runs of uid: within a group they follow each other
    rejects_any = np.logical_or.reduceat(given | lost, starts)
    traces = np.zeros(len(table), bool)
    traces[starts[~rejects_any & ~is_survivor[starts]]] = True
    rejected.append(_merged_into(table, traces, survivor_uid, 0))

    columns = {name: table[name] for name in MERGED_ROWS.names}
    columns |= {name: table[name].take(survivor) for name in ("uid", "url")}
    staged = pa.array(np.repeat(_staged(table, group_starts), sizes))
    columns |= {field.name: table[field.name].take(staged) for field in FETCHED}
    merged = pa.table(columns, schema=MERGED_ROWS).filter(pa.array(kept))
    return merged.sort_by([("uid", "ascending"), ("caption_hash", "ascending")]), pa.concat_tables(rejected)


def _staged(table: pa.Table, starts: np.ndarray) -> np.ndarray:
    """Return for each group its first row whose image is staged, or else its first row, int64 [groups].

    After a retry of a finished run, images that were merged into others have no bytes of their own.
    """
    rows = np.where(table["length"].to_numpy() > 0, np.arange(len(table)), len(table))
    first = np.minimum.reduceat(rows, starts)
    return np.where(first < len(table), first, starts)


def _whole_groups(
    table: pa.Table, starts: np.ndarray, sizes: np.ndarray, limit: int, dropped: frozenset[bytes],
    licences: tuple[str, ...],
) -> np.ndarray:  # fmt: skip
    """Return the reason for which a whole group goes, or "", str [groups]."""
    reasons = np.full(len(starts), "", dtype=object)
    if dropped:
        uids = table["uid"].to_pylist()
        for index, (start, size) in enumerate(zip(starts, sizes, strict=True)):
            if any(uid in dropped for uid in uids[start : start + size]):
                reasons[index] = "dropped"
    if licences:
        reasons[(reasons == "") & np.array(unlicensed(table, starts.tolist(), licences), bool)] = "licence"
    # Of a group that was rejected before a retry of the finished run, nothing is staged any more. An image
    # merged as a near-duplicate has none either (`retry_failed.NO_BYTES`), and is not rejected for that.
    staged = np.logical_or.reduceat(table["length"].to_numpy() != 0, starts)
    reasons[(reasons == "") & ~staged] = "placeholder"
    for group in np.flatnonzero((sizes >= max(limit, 2)) & (reasons == "")).tolist():
        if is_placeholder(table["caption"].slice(int(starts[group]), int(sizes[group])).to_pylist(), limit):
            reasons[group] = "placeholder"
    return reasons


def _merged_into(table: pa.Table, rows: np.ndarray, survivor: pa.ChunkedArray, candidates: int) -> pa.Table:
    chosen = pa.array(rows)
    targets = [uid.hex() for uid in survivor.filter(chosen).to_pylist()]
    return schemas.rejected_table(table.filter(chosen), "finish", "merged_into", targets, candidates)
