"""Exact nearest neighbours by blocked matrix products, streaming over the training set.

The evaluation side is held, the training side passes by once in blocks of any number of rows, and the k most
similar of each example are kept; memory does not grow with the training set. A tile of products is compared
with the neighbours so far, and only rows with a better neighbour are sorted: after the first blocks hardly
any.

Arithmetic for 400 million images, 600,000 examples of one view and 512 numbers on one H200: 2 x 4e8 x 6e5 x
512 = 2.5e17 operations, 311 s at the 790 TFLOP/s that such a GPU measures in half precision; the products in
single precision, written once and read twice, 2.9e15 bytes, 600 s at 4.8 TB/s where they do not stay in the
cache; descriptors to read, 410 GB. So some 15 minutes a view, and `bench/detector_gpu.py` measures it.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

F32 = npt.NDArray[np.float32]

_TILE_CPU: Final = 1 << 18  # products at a time: 1 MiB stays in a core's cache
_TILE_GPU: Final = 1 << 25


class Described(NamedTuple):
    """Descriptors of n images or views; fields only."""

    vectors: npt.NDArray[np.float16] | F32
    """[n, d]: centred unit vectors."""
    biases: F32
    """[n]: the amounts subtracted from their similarities."""


class Neighbours(NamedTuple):
    """The most similar training images of each example, best first; fields only."""

    similarity: F32
    """[e, k]; -inf where there are fewer."""
    row: npt.NDArray[np.int64]
    """[e, k]: of the training image, in the order of the blocks; -1 where there are fewer."""


class NearestSearch:
    """Find the k most similar training images of each of e examples, shown in `views` views each."""

    def __init__(self, examples: Described, views: int, k: int, device: torch.device | str = "cpu") -> None:
        """Take [e * views, d] descriptors, an example's views together."""
        assert len(examples.vectors) % views == 0
        self.views, self.k, self.device = views, k, torch.device(device)
        self._half = self.device.type == "cuda"
        self._vectors, self._biases = self._moved(examples)
        count = len(examples.vectors) // views
        self._similarity = torch.full((count, k), -torch.inf, device=self.device)
        self._row = torch.full((count, k), -1, dtype=torch.int64, device=self.device)
        self._seen = 0

    def _moved(self, described: Described) -> tuple[Tensor, Tensor]:
        vectors = torch.from_numpy(np.array(described.vectors)).to(self.device)
        biases = torch.from_numpy(np.array(described.biases, np.float32)).to(self.device)
        return vectors.half() if self._half else vectors.float(), biases

    @torch.inference_mode()
    def add(self, block: Described) -> None:
        """Compare the next training images, [n, d] descriptors, with every example."""
        vectors, biases = self._moved(block)
        tile = _TILE_GPU if self._half else _TILE_CPU
        columns = min(len(vectors), 8192 if self._half else 256)
        rows = max(1, tile // max(1, columns) // self.views)
        for column in range(0, len(vectors), columns or 1):
            part = slice(column, column + columns)
            for first in range(0, len(self._similarity), rows):
                last = min(first + rows, len(self._similarity))
                self._compare(first, last, vectors[part], biases[part], self._seen + column)
        self._seen += len(vectors)

    def _compare(self, first: int, last: int, vectors: Tensor, biases: Tensor, start: int) -> None:
        mine = slice(first * self.views, last * self.views)
        if self._half:  # products of half-precision numbers, summed and kept in single precision
            products = torch.mm(self._vectors[mine], vectors.T, out_dtype=torch.float32).sub_(biases)
        else:
            products = torch.addmm(biases, self._vectors[mine], vectors.T, beta=-1)
        if self.views > 1:
            products -= self._biases[mine, None]
            products = products.view(last - first, self.views, -1).amax(1)
            best = products.amax(1)
        else:  # a row's bias shifts the row: the few that are kept pay it
            best = products.amax(1) - self._biases[mine]
        better = torch.nonzero(best > self._similarity[first:last, -1])[:, 0]
        if not len(better):
            return
        rows = better + first
        found = products[better]
        if self.views == 1:
            found = found - self._biases[rows, None]
        top = found.topk(min(self.k, found.shape[1]), dim=1)
        similarity = torch.cat([self._similarity[rows], top.values], dim=1)
        row = torch.cat([self._row[rows], top.indices + start], dim=1)
        # Stable: of equal similarities the earlier image stays first.
        order = similarity.sort(dim=1, descending=True, stable=True).indices[:, : self.k]
        self._similarity[rows], self._row[rows] = similarity.gather(1, order), row.gather(1, order)

    def result(self) -> Neighbours:
        """Return the matches of all blocks so far."""
        return Neighbours(self._similarity.cpu().numpy(), self._row.cpu().numpy())


class NeighbourHits(NamedTuple):
    """The best view of each (query, example) pair that is similar enough; sorted by query, then example."""

    query: npt.NDArray[np.int64]
    example: npt.NDArray[np.int64]
    similarity: F32
    view: npt.NDArray[np.int64]


def within(queries: Described, examples: Described, views: int, floors: F32) -> NeighbourHits:
    """Return the pairs at or above each example's floor: [q, d], [e * views, d] and [e].

    Examples may be memory-mapped, and pass by in tiles.
    """
    found = [(np.zeros(0, np.int64),) * 2 + (np.zeros(0, np.float32), np.zeros(0, np.int64))]
    for start, products in _tiles(queries, examples, views):
        best = products.max(axis=1)
        example, query = np.nonzero(best >= floors[start : start + len(best), None])
        view = products[example, :, query].argmax(axis=1)
        found.append((query, example + start, best[example, query], view))
    query, example, similarity, view = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.lexsort((example, query))
    return NeighbourHits(query[order], example[order], similarity[order], view[order])


def highest(queries: Described, examples: Described, views: int, count: int) -> NeighbourHits:
    """Return the `count` most similar pairs of all, best first: [q, d] and [e * views, d]."""
    query, example, view = (np.zeros(0, np.int64) for _ in range(3))
    similarity = np.zeros(0, np.float32)
    for start, products in _tiles(queries, examples, views):
        best = products.max(axis=1)
        least = similarity[-1] if len(similarity) == count else -np.inf
        new_example, new_query = np.nonzero(best > least)
        view = np.append(view, products[new_example, :, new_query].argmax(axis=1))
        query, example = np.append(query, new_query), np.append(example, new_example + start)
        similarity = np.append(similarity, best[new_example, new_query])
        order = np.lexsort((example, query, -similarity))[:count]
        query, example, similarity, view = query[order], example[order], similarity[order], view[order]
    return NeighbourHits(query, example, similarity, view)


def _tiles(queries: Described, examples: Described, views: int) -> Iterator[tuple[int, F32]]:
    """Yield the number of a tile's first example and its similarities, float32 [e, views, q]."""
    step = max(1, _TILE_CPU // max(1, len(queries.vectors)) // views)
    mine = np.ascontiguousarray(np.asarray(queries.vectors, np.float32).T)
    for start in range(0, len(examples.vectors) // views, step):
        part = slice(start * views, (start + step) * views)
        # The examples' rows first: so the best of their views is taken of whole rows of queries.
        products = np.asarray(examples.vectors[part], np.float32) @ mine
        products -= examples.biases[part, None]
        products -= queries.biases
        yield start, products.reshape(len(products) // views, views, mine.shape[1])
