"""Balance again in every epoch, by the probabilities of Xu et al. 2023 (MetaCLIP, Algorithm 1).

A pair of a sample and a query that it contains is drawn with probability min(1, K / samples that contain the
query), and a sample is taken if one of its pairs is. The draw is a hash of (seed, epoch, uid, query), so it
is the same on any number of processes, and after any stop.
"""

import functools
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline import balance, storage
from pipeline.balance import U64

_THREADS = 8
_COLUMNS = ["uid", "matched_query_ids"]


class Pairs(NamedTuple):
    """Hold the samples of a shard and the queries that they contain."""

    always: NDArray[np.int32]
    """Places in the shard of samples that every epoch takes, int32 [a]."""
    places: NDArray[np.int32]
    """Of all others that contain a query, int32 [n]; so are the first bits of their uids, uint64 [n]."""
    uids: U64
    sample: NDArray[np.int32]
    """Of each pair the index among `places`, and the query's number, int32 [m] each."""
    query: NDArray[np.int32]


@dataclass(frozen=True, eq=False, kw_only=True)
class OnlineBalance:
    """Say which samples of each shard an epoch takes."""

    shards: tuple[Pairs, ...]
    limits: U64
    """Greatest hash of a pair that is drawn, by query, uint64 [Q]."""
    hashes: U64
    """Of each query's text and the seed, uint64 [Q]."""
    sizes: NDArray[np.int64]
    """Samples of each epoch in each shard, int64 [epochs, shards]."""

    def drawn(self, shard: int, epoch: int) -> NDArray[np.int32]:
        """Return the places in a shard of the samples that an epoch takes, rising."""
        return _drawn(self.shards[shard], self.limits, _epoch_hashes(self.hashes, epoch))


def of_shards(
    paths: Sequence[str], kept: Iterable[NDArray[np.int32] | None], queries: Sequence[str], cap: int, *,
    seed: int, epochs: int,
) -> OnlineBalance:  # fmt: skip
    """Count the queries in the samples that are kept of each shard, and how many of them each epoch draws.

    paths: of the shards' Parquet files. queries: texts by number. cap: samples that an epoch draws for a
    query, on average. ValueError for a file that has other columns, or other queries.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        read = list(pool.map(functools.partial(_read, queries=len(queries)), paths, kept))
    counts = sum((np.bincount(part.query, minlength=len(queries)) for part in read), np.zeros(len(queries)))
    share = cap / np.maximum(counts, 1)
    below = (np.where(share >= 1, 0.0, share) * 2.0**64).astype(np.uint64)
    limits: U64 = np.where(share >= 1, balance.EVERYTHING, below)
    hashes = balance.query_hashes(queries, seed)
    shards = tuple(_split(part, share >= 1) for part in read)
    sizes = np.array(
        [
            [len(_drawn(part, limits, own)) for part in shards]
            for own in (_epoch_hashes(hashes, epoch) for epoch in range(epochs))
        ],
        np.int64,
    ).reshape(epochs, len(shards))
    return OnlineBalance(shards=shards, limits=limits, hashes=hashes, sizes=sizes)


def _read(path: str, kept: NDArray[np.int32] | None, queries: int) -> Pairs:
    """Return a shard's kept samples, none of them taken always yet; places of those without a query, too."""
    with storage.open_input(path) as file:
        parquet = pq.ParquetFile(file)
        if not set(_COLUMNS) <= set(parquet.schema_arrow.names):
            raise ValueError(f"{path} has no columns uid and matched_query_ids, which --balance needs")
        rows = parquet.read(_COLUMNS)
    places = np.arange(len(rows), dtype=np.int32) if kept is None else kept
    rows = rows.take(pa.array(places))
    listed = rows["matched_query_ids"].combine_chunks()
    query = pc.list_flatten(listed).cast(pa.int32()).to_numpy(zero_copy_only=False)
    if len(query) and not 0 <= query.min() <= query.max() < queries:
        raise ValueError(f"{path}: query ids that query_counts.parquet does not have")
    lengths = pc.fill_null(pc.list_value_length(listed), 0).to_numpy(zero_copy_only=False)
    sample = np.repeat(np.arange(len(rows), dtype=np.int32), lengths)
    try:
        uids = np.array([int(uid[:16], 16) for uid in rows["uid"].to_pylist()], np.uint64)
    except (TypeError, ValueError):
        raise ValueError(f"{path}: uids that are not hexadecimal, as openwit writes them") from None
    return Pairs(np.empty(0, np.int32), places, uids, sample, query)


def _split(part: Pairs, is_small: NDArray[np.bool_]) -> Pairs:
    """Keep pairs of the samples that may be drawn: with queries, of which none is within the cap."""
    always = np.zeros(len(part.places), bool)
    always[part.sample[is_small[part.query]]] = True
    drawn = ~always
    drawn &= np.bincount(part.sample, minlength=len(part.places)) > 0
    index = (np.cumsum(drawn) - 1).astype(np.int32)
    pairs = drawn[part.sample]
    return Pairs(
        part.places[always], part.places[drawn], part.uids[drawn], index[part.sample[pairs]],
        part.query[pairs],
    )  # fmt: skip


def _epoch_hashes(hashes: U64, epoch: int) -> U64:
    return balance.mix(hashes ^ balance.mix(np.full(1, epoch + 1, np.uint64))[0])


def _drawn(part: Pairs, limits: U64, hashes: U64) -> NDArray[np.int32]:
    hit = balance.priorities(part.uids[part.sample], hashes[part.query]) <= limits[part.query]
    is_drawn = np.zeros(len(part.places), bool)
    is_drawn[part.sample[hit]] = True
    return np.sort(np.concatenate([part.always, part.places[is_drawn]]))
