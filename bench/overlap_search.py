"""Queries per second and exactness of the search, beside faiss, on one core.

    python -m bench.overlap_search [--references 10000 100000 1000000 20000000]

Hashes are random with planted copies; references are memory-mapped from a file, as in the job. "scan" is the
search by hashes, "search" the whole of it with both mirrorings and the similarity of what is left. faiss's
IndexBinaryMultiHash is exact up to radius 31 with 16 bits a hash and one flip. Float vectors of a learned
detector are compared with faiss's IndexFlatIP at 100,000.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from bench.tables import show
from dedup import search
from dedup.search import References, Whitening
from pipeline.data.descriptors import Descriptors

SEARCH_LIMIT = 1_000_000  # references for which colours are made as well: 256 bytes each
MULTIHASH_LIMIT = 1_000_000  # its tables take some 400 bytes a reference
SECONDS = 4.0


def rate(function: Callable[[int], Any]) -> float:
    """Return queries per second of CPU time, of the fastest of three rounds of some seconds in all."""
    count, best = 8, 0.0
    began = time.process_time()
    while time.process_time() - began < SECONDS:
        start = time.process_time()
        function(count)
        spent = time.process_time() - start
        best = max(best, count / max(spent, 1e-9))
        count = min(512, max(8, int(count * min(4.0, SECONDS / 4 / max(spent, 1e-3)))))
    return best


def planted(references: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return queries: copies with up to 40 flipped bits, and random ones."""
    bits = np.unpackbits(references[rng.integers(0, len(references), count)], axis=1)
    for row in bits:
        row[rng.integers(0, 256, rng.integers(0, 41))] ^= 1
    queries = np.packbits(bits, axis=1)
    queries[1::2] = rng.integers(0, 256, queries[1::2].shape, dtype=np.uint8)
    return queries


def triples(found: search.PairsWithin) -> set[tuple[int, int]]:
    return set(zip(found.query.tolist(), found.reference.tolist(), strict=True))


def of_faiss(answer: tuple[Any, Any, Any]) -> set[tuple[int, int]]:
    limits, _, labels = answer
    return set(
        zip(
            np.repeat(np.arange(len(limits) - 1), np.diff(limits.astype(np.int64))).tolist(),
            labels.tolist(),
            strict=True,
        )
    )


def hashes(count: int) -> Iterator[tuple[str, ...]]:
    """Measure one size; yield the table's rows."""
    rng = np.random.default_rng(count)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hashes.npy"
        made = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, 32))
        for start in range(0, count, 1 << 20):
            part = made[start : start + (1 << 20)]
            part[:] = rng.integers(0, 256, part.shape, dtype=np.uint8)
        made.flush()
        references = np.load(path, mmap_mode="r")
        queries = planted(references, 512, rng)
        flat = faiss.IndexBinaryFlat(256)
        flat.add(references)
        some = 64 if count <= 1_000_000 else 8
        exact = triples(search.within(queries[:some], references, search.RADIUS)) == of_faiss(
            flat.range_search(queries[:some], search.RADIUS + 1)
        )
        for radius in (31, search.RADIUS):
            row = {
                "openwit scan": rate(lambda n, r=radius: search.within(queries[:n], references, r)),
                "faiss BinaryFlat": rate(lambda n, r=radius: flat.range_search(queries[:n], r + 1)),
                "faiss MultiHash": multi_hash(references, queries, count) if radius == 31 else None,
                "openwit search": whole(references, queries, count) if radius == search.RADIUS else None,
            }
            cells = [
                "–" if value is None else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"
                for value in row.values()
            ]
            yield f"{count:,}", str(radius), *cells, "yes" if exact else "NO"


def multi_hash(references: np.ndarray, queries: np.ndarray, count: int) -> float | None:
    if count > MULTIHASH_LIMIT:
        return None
    index = faiss.IndexBinaryMultiHash(256, 16, 16)
    index.nflip = 1
    index.add(references)
    return rate(lambda n: index.range_search(queries[:n], 32))


def whole(references: np.ndarray, queries: np.ndarray, count: int) -> float | None:
    if count > SEARCH_LIMIT:
        return None
    rng = np.random.default_rng(1)
    colours = rng.integers(-40, 41, (count, 256), dtype=np.int8)
    whitening = Whitening(np.zeros(256, np.float32), np.full(256, 100, np.float32))
    vectors = rng.integers(-200, 200, (len(queries), 256)).astype(np.int16)
    described = Descriptors(queries, queries[::-1].copy(), vectors, np.full(len(queries), 100, np.uint8))

    def run(n: int) -> search.Hits:
        return search.search(
            Descriptors(*(part[:n] for part in described)), References(references, colours, 1), whitening
        )

    return rate(run)


def floats() -> tuple[str, ...]:
    """Measure float vectors, 100,000 references of 256 dimensions; return the table's row."""
    rng = np.random.default_rng(0)
    references, queries = (rng.normal(size=(n, 256)).astype(np.float32) for n in (100_000, 512))
    queries[::2] = references[:256] + 0.7 * queries[::2]
    for vectors in (references, queries):
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = faiss.IndexFlatIP(256)
    index.add(references)
    same = triples(search.cosines(queries, references, 0.6)) == of_faiss(index.range_search(queries, 0.6))
    ours = rate(lambda n: search.cosines(queries[:n], references, 0.6))
    theirs = rate(lambda n: index.range_search(queries[:n], 0.6))
    said = "yes" if same else "NO"
    return "100,000 x 256 floats", "cosine 0.6", f"{ours:,.0f}", f"{theirs:,.0f}", "–", "–", said


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--references", type=int, nargs="+", default=[10_000, 100_000, 1_000_000, 20_000_000])
    args = parser.parse_args()
    search.use_one_thread()
    show(
        f"queries/s/core; faiss {faiss.__version__} ({faiss.get_compile_options().strip()})",
        ("references", "radius", "openwit scan", "faiss BinaryFlat", "faiss MultiHash 16x16",
         "openwit search", "same as faiss"),
        [*(row for count in args.references for row in hashes(count)), floats()],
        texts=0,
    )  # fmt: skip


if __name__ == "__main__":
    main()
