"""Balance: at most k samples per query, exact, deterministic, growable.

Every (sample, query) pair has a priority, a uniform 64-bit hash of (seed, uid, query). A query keeps its k
smallest priorities; a sample is in the set if any of its queries keeps it. So the decision is a pure
function of the sample and a table of one threshold a query, no matter in which order, batch or worker
samples are seen (bottom-k sketches, Cohen and Kaplan 2007; the published rule, Xu et al. 2023, Algorithm 1,
draws at random instead). A tie at a threshold would keep one sample too many: n^2 / 2^65, 3e-8 for a million
samples.
"""

from collections.abc import Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
EVERYTHING = np.uint64(2**64 - 1)
_GOLDEN = 0x9E3779B97F4A7C15
_ORDER = 0x6F7264657273686D  # separates the order of samples in the set from the priorities


def mix(x: U64) -> U64:
    """Return splitmix64's finaliser of every value (Steele, Lea and Flood 2014)."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def query_hashes(normalised: Sequence[str], seed: int) -> U64:
    """Return uint64 [Q] for queries as normalised: their text counts, not their place in the list."""
    seeded = (seed * _GOLDEN) % 2**64
    return np.array([xxhash.xxh3_64_intdigest(q.encode(), seed=seeded) for q in normalised], np.uint64)


def priorities(uid_hash: U64, query_hash: U64) -> U64:
    """Return the priority of each (sample, query) pair from the uid's and the query's hashes, uint64 [n]."""
    with np.errstate(over="ignore"):
        return mix(mix(uid_hash + np.uint64(_GOLDEN)) ^ query_hash)


def sample_order(uid_hash: U64, seed: int) -> U64:
    """Return h(seed, uid), by which the finished set is ordered, uint64 [n]."""
    start = np.uint64((seed * _GOLDEN + _ORDER) % 2**64)
    with np.errstate(over="ignore"):
        return mix(mix(uid_hash + np.uint64(_GOLDEN)) ^ mix(np.full(1, start))[0])


def unique_pairs(sample: I64, query: NDArray[np.int32], queries: int) -> tuple[I64, NDArray[np.int32]]:
    """Return each (sample, query) pair once, sorted; several captions may match the same query."""
    keys = np.sort(sample * queries + query)  # np.unique hashes first, at five times the cost
    keys = keys[np.append(True, keys[1:] != keys[:-1])] if len(keys) else keys
    found = keys // queries
    return found, (keys - found * queries).astype(np.int32)


def prefilter(counts: I64, rank: I64) -> U64:
    """Return uint64 [Q]: priorities above it cannot be among a query's `rank` smallest of `counts`.

    The number below p = m/n is binomial with mean m = rank + 12 sqrt(rank) + 60; fewer than `rank` of them
    has probability exp(-(m - rank)^2 / 2m) or less: e^-35 for rank 1, e^-71 for rank 20,000. `thresholds`
    checks it.
    """
    mean = rank + 12 * np.sqrt(rank) + 60
    share = mean / np.maximum(counts, 1)
    limit = np.where(share >= 1, 0.0, share) * 2.0**64
    return np.where(share >= 1, EVERYTHING, limit.astype(np.uint64))


def head_pairs(
    query: NDArray[np.int32], priority: U64, counts: I64, rank: I64
) -> tuple[NDArray[np.int32], U64]:
    """Return the pairs that may decide a threshold: of queries with more than `rank` samples, sorted."""
    wanted = (counts > rank)[query] & (priority <= prefilter(counts, rank)[query])
    return smallest(query[wanted], priority[wanted], rank)


def smallest(query: NDArray[np.int32], priority: U64, rank: I64) -> tuple[NDArray[np.int32], U64]:
    """Return for each query its `rank[query]` smallest priorities, sorted by (query, priority)."""
    order = np.lexsort((priority, query))
    query, priority = query[order], priority[order]
    first = np.searchsorted(query, query, side="left")
    keep = np.arange(len(query)) - first < rank[query]
    return query[keep], priority[keep]


def largest(query: NDArray[np.int32], priority: U64) -> tuple[NDArray[np.int32], I64, U64]:
    """Return (queries, how many pairs each has, its largest priority); pairs are sorted by both."""
    last = np.flatnonzero(np.append(query[1:] != query[:-1], True)[: len(query)])
    return query[last], np.diff(last, prepend=-1), priority[last]


def thresholds(query: NDArray[np.int32], found: I64, priority: U64, counts: I64, rank: I64) -> U64:
    """Return uint64 [Q]: a query keeps priorities up to its threshold; queries within `rank` keep everything.

    The first three are the result of `largest` on the pairs that `smallest` kept of all head pairs.
    """
    heads = counts > rank
    per_query = np.zeros(len(counts), np.int64)
    per_query[query] = found
    assert (per_query[heads] == rank[heads]).all(), "the prefilter cut into a query's smallest priorities"
    result = np.where(heads, np.uint64(0), EVERYTHING)
    result[query] = priority
    return result


def next_rank(rank: I64, matched: I64, within: I64, per_query: int, headroom: float) -> I64:
    """Return how many of each query's samples, smallest priorities first, are to be tried after this round.

    rank: tried so far; matched: samples there are; within: of those tried, how many arrived. A query still
    short takes as many more as its own yield (not below a twentieth, so that a dead site cannot ask for
    everything at once) says, times the headroom. Queries with enough, or with nothing left, stay.
    """
    missing = per_query - within
    share = np.maximum((within + 1) / (rank + 1), 0.05)
    more = np.ceil(missing / share * headroom).astype(np.int64)
    short = (missing > 0) & (rank < matched)
    return np.where(short, np.minimum(matched, rank + more), rank)


def keepers(
    uids: Sequence[str], matches: Sequence[Sequence[int]], query_hash: U64, per_query: int
) -> list[list[int]]:
    """Return for each sample the queries that keep it, ascending; uids in hex, `matches` by sample."""
    lengths = [len(one) for one in matches]
    if len(uids) != len(lengths):
        raise ValueError(f"there are {len(uids):,} uids, but matches of {len(lengths):,} samples")
    query = np.array([number for one in matches for number in one], np.int32)
    if len(query) and not 0 <= query.min() <= query.max() < len(query_hash):
        raise ValueError(f"matches hold the numbers of queries, 0 to {len(query_hash) - 1}")
    sample, query = unique_pairs(np.repeat(np.arange(len(uids)), lengths), query, len(query_hash))
    uid_hash = np.array([int(uid[:16], 16) for uid in uids], np.uint64)
    priority = priorities(uid_hash[sample], query_hash[query])
    counts, rank = np.bincount(query, minlength=len(query_hash)), np.full(len(query_hash), per_query)
    limits = thresholds(*largest(*head_pairs(query, priority, counts, rank)), counts, rank)
    kept: list[list[int]] = [[] for _ in uids]
    for row, number in zip(
        *(part[priority <= limits[query]].tolist() for part in (sample, query)), strict=True
    ):
        kept[row].append(number)
    return kept
