"""Other ways than comparing all hashes: their speed on one core, and how many exact candidates they keep.

    python -m bench.overlap_ways --sources PHOTOS_DIR --negatives DIR_OR_TAR ... [--count 300]

All views of sources and unrelated photographs are the references, altered copies of the sources the queries,
each as it is and mirrored. A candidate is a copy and its source, of which the exact search finds a view at
0.35; a way keeps it if it comes to any such view. Hash and colours are taken together as a vector of 512
numbers, whose product is twice the similarity:

- cells: k-means of other photographs' views; the kernel scans the cells nearest to a query;
- PQ: faiss's fast scan of 64 codes of 4 bits, the best 0.5% compared again exactly;
- PCA: 64 numbers of the 512, by matrix products, the best 0.5% likewise;
- int8: the vectors themselves as whole numbers, by torch's integer product.

The hours are those of the scan of 400 million images among 94 views of 600,000 examples, without their crops.
"""

import argparse
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import faiss
import numpy as np
import torch

from bench.overlap_recall import described, photographs
from bench.overlap_search import best_of
from bench.tables import show
from dedup import search
from dedup.distortions import DISTORTIONS
from dedup.search import References, Whitening, quantised
from pipeline.data import views
from pipeline.data.descriptors import Descriptors, mirrored_descriptors

KINDS = ("mixed", "crop 75%", "crop 50%", "width crop", "rotation 5 to 10")
CELLS, REST = 1_024, 0.005
VIEWS = len(views.VIEWS)
PAIRS = 2 * 400e6 * 600_000 * VIEWS


def joined(hashes: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Return vectors [n, 512] whose product is twice the similarity."""
    signs = (np.unpackbits(hashes, axis=-1).astype(np.float32) * 2 - 1) / 16
    return np.concatenate([signs, colours.astype(np.float32)], axis=-1)


class Measured:
    """References, queries and the exact candidates among them."""

    def __init__(self, sources: list[np.ndarray], others: list[np.ndarray]) -> None:
        shown = [described(views.thumbnails(views.inner(rgb))) for rgb in (*sources, *others)]
        colours = np.concatenate([one.colours for one in shown])
        self.whitening = Whitening.fit(colours[::VIEWS])
        self.exact = References(
            np.concatenate([one.hashes for one in shown]), quantised(self.whitening.apply(colours)), VIEWS
        )
        self.references = joined(self.exact.hashes, self.exact.colours / np.float32(240))
        rng, copies = np.random.default_rng(7), []
        for kind in KINDS:
            copies += [np.ascontiguousarray(DISTORTIONS[kind](rgb, rng)) for rgb in sources]
        self.queries = described(np.stack([views.thumbnail(views.inner(rgb)) for rgb in copies]))
        self.vectors = np.stack(
            [self._vector(one) for one in (self.queries, mirrored_descriptors(self.queries))]
        )
        self.own = [self._own(n, n % len(sources)) for n in range(len(copies))]
        self.candidates = sum(1 for one in self.own if len(one))

    def _vector(self, one: Descriptors) -> np.ndarray:
        return joined(one.hashes, self.whitening.apply(one.colours))

    def _own(self, query: int, source: int) -> np.ndarray:
        """Return the views of a copy's source that the exact search finds, as rows of the references."""
        rows = np.arange(source * VIEWS, (source + 1) * VIEWS)
        best = (self.references[rows] @ self.vectors[:, query].T).max(axis=1) / 2
        return rows[best >= search.FLOOR]

    def kept(self, seen: Callable[[int], np.ndarray]) -> float:
        """Return the share of the candidates of which a way sees a view: bool [rows] of a query."""
        return sum(bool(seen(n)[own].any()) for n, own in enumerate(self.own) if len(own)) / self.candidates


def row(name: str, rate: float, scanned: float, kept: float) -> tuple[str, ...]:
    hours = f"{PAIRS * scanned / rate / 3600:,.0f}" if scanned else "–"
    return name, f"{rate / 1e6:,.0f}", f"{scanned:.1%}", f"{kept:.4f}", hours


def by_cells(data: Measured, rate: float, sources: int, seed: int) -> list[tuple[str, ...]]:
    """Measure cells whose centres are of other photographs than the sources."""
    others = data.references[sources * VIEWS :]
    means = faiss.Kmeans(512, CELLS, niter=6, seed=seed, spherical=True, max_points_per_centroid=64,
                         min_points_per_centroid=1)  # fmt: skip
    means.train(others)
    cell = np.concatenate([
        (data.references[n : n + 20_000] @ means.centroids.T).argmax(1)
        for n in range(0, len(data.references), 20_000)
    ])  # fmt: skip
    sizes, near = np.bincount(cell, minlength=CELLS), data.vectors @ means.centroids.T
    found = []
    for share in (0.05, 0.1, 0.2):
        count = int(share * CELLS)
        chosen = (near >= -np.partition(-near, count - 1, axis=2)[:, :, count - 1 : count]).any(axis=0)
        scanned = float((chosen @ sizes).mean() / len(cell))
        kept = data.kept(lambda n, chosen=chosen: chosen[n][cell])  # type: ignore[misc]
        found.append(row(f"cells, seed {seed}, {share:.0%} as it is and mirrored", rate, scanned, kept))
    return found


def by_numbers(data: Measured, numbers: int) -> tuple[str, ...]:
    """Measure products of fewer numbers, of which the best are compared again."""
    _, _, axes = np.linalg.svd(data.references[:: VIEWS // 4], full_matrices=False)
    short = np.ascontiguousarray(axes[:numbers].T)
    codes = np.ascontiguousarray((data.references @ short).T)
    rest, some = int(REST * len(data.references)), data.vectors[0, :64]
    rate = len(some) * len(data.references) / best_of(lambda: some @ short @ codes)

    def seen(query: int) -> np.ndarray:
        scores = data.vectors[:, query] @ short @ codes
        return (scores >= -np.partition(-scores, rest, axis=1)[:, rest : rest + 1]).any(axis=0)

    return row(f"PCA, {numbers} numbers", rate, 1, data.kept(seen))


def by_integers(data: Measured) -> tuple[str, ...]:
    """Measure torch's product of whole numbers, which is the exact one but for its rounding."""
    whole, some = (
        torch.from_numpy(np.rint(one * 127).astype(np.int8))
        for one in (data.references[: 64 * VIEWS], data.vectors[0, :64])
    )
    rate = len(some) * len(whole) / best_of(lambda: torch._int_mm(some, whole.T))
    return row("int8 products of 512", rate, 1, 1)


def by_codes(data: Measured) -> tuple[str, ...]:
    """Measure faiss's fast scan."""
    index = faiss.IndexPQFastScan(512, 64, 4, faiss.METRIC_INNER_PRODUCT)
    index.train(data.references[::4])
    index.add(data.references)
    rest, some = int(REST * len(data.references)), np.ascontiguousarray(data.vectors[0, :64])
    rate = len(some) * len(data.references) / best_of(lambda: index.search(some, 10))

    def seen(query: int) -> np.ndarray:
        chosen = np.zeros(len(data.references), bool)
        chosen[index.search(np.ascontiguousarray(data.vectors[:, query]), rest)[1].ravel()] = True
        return chosen

    return row("PQ fast scan, 64 codes of 4 bits", rate, 1, data.kept(seen))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sources", type=Path, nargs="+", required=True)
    parser.add_argument("--negatives", type=Path, nargs="+", required=True)
    parser.add_argument("--count", type=int, default=300, help="sources at most")
    parser.add_argument("--negative-count", type=int, default=500, help="of each collection at most")
    args = parser.parse_args()
    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)
    sources = [rgb for path in args.sources for rgb in photographs(path)][: args.count]
    others = [rgb for path in args.negatives for rgb in islice(photographs(path), args.negative_count)]
    data = Measured(sources, others)
    some = Descriptors(*(column[:256] for column in data.queries))
    vectors = np.stack([data.whitening.apply(one.colours) for one in (some, mirrored_descriptors(some))])
    spent = best_of(lambda: search.candidates(some, data.exact, vectors, search.FLOOR, search.RADIUS))
    rate = 2 * 256 * len(data.references) / spent
    near = [search.candidates(
        Descriptors(*(column[n : n + 1] for column in data.queries)), data.exact, None, 0.0, search.RADIUS
    ).reference for n in range(len(data.own))]  # fmt: skip
    exact = row("all hashes, by the kernel", rate, 1, data.kept(
        lambda n: np.isin(np.arange(len(data.references)), near[n])
    ))  # fmt: skip
    show(
        f"{len(data.references):,} references, {data.candidates:,} candidates",
        ("way", "million pairs/s", "scanned", "candidates kept", "core-hours of the scan"),
        [
            exact,
            *(one for seed in (1, 2) for one in by_cells(data, rate, len(sources), seed)),
            by_codes(data),
            by_numbers(data, 64),
            by_numbers(data, 32),
            by_integers(data),
        ],
    )


if __name__ == "__main__":
    main()
