"""Embeddings of a set's pictures as a column beside its index, and the nearest of them.

NAME.f16 holds unit vectors float16 [samples, E] in sequence, NAME.uid the samples' uids in the same order, 32
bytes each, filled up with zeros. Both are appended to, and mapped into memory, never read whole. All are
compared, in blocks; above a million usearch's graph (HNSW) is asked first, where it is installed, and the
best that it names are compared exactly.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.index.search import Search

EXACT: Final = 1_000_000
"""Vectors up to which all are compared."""
_BLOCK: Final = 16_384  # vectors that are compared at a time: 16 MB at 512 numbers each
_READ: Final = 64  # pictures that are read and encoded at a time
_EXTRA: Final = 4  # times the vectors wanted that are compared again in single precision
_NAMED: Final = 16  # times the vectors wanted that the graph names, which are all compared
_UID: Final = np.dtype("S32")

Floats = npt.NDArray[np.float32]
Encode = Callable[[list[bytes]], tuple[Floats, list[int]]]
"""Maps pictures to unit vectors float32 [n, E] of those that can be decoded, and their places in the list."""


class Found(NamedTuple):
    """A sample and its cosine with the question; fields only."""

    uid: str
    similarity: float


class Vectors:
    """The vectors of one model, E numbers each, beside an index."""

    def __init__(self, index: Path, fingerprint: str, width: int) -> None:
        base = f"{index.stem}-{fingerprint[:16]}"
        self._index, self._width = index, width
        self.vectors, self.uids, self._graph = (
            index.with_name(f"{base}.{suffix}") for suffix in ("f16", "uid", "usearch")
        )
        self._open: Any = None

    def __len__(self) -> int:
        """Return how many there are."""
        return self.uids.stat().st_size // _UID.itemsize if self.uids.exists() else 0

    def _mapped(self) -> tuple[npt.NDArray[np.bytes_], npt.NDArray[np.float16]]:
        if not len(self):
            return np.zeros(0, _UID), np.zeros((0, self._width), np.float16)
        return (
            np.memmap(self.uids, _UID, "r", shape=(len(self),)),
            np.memmap(self.vectors, np.float16, "r", shape=(len(self), self._width)),
        )

    def renew(self, search: Search, encode: Encode, progress: Callable[[int, int], None]) -> int:
        """Encode the samples that have no vector yet, and drop those that have gone; return the new ones.

        Encoded vectors are kept if this is stopped. progress: called with vectors done and in all.
        """
        wanted = np.unique(search.all_uids())
        prune(self.uids, self.vectors, wanted)
        known, _ = self._mapped()
        missing = np.setdiff1d(wanted, known)
        del known
        if len(missing):
            self._graph.unlink(missing_ok=True)
            with self.vectors.open("ab") as vectors, self.uids.open("ab") as uids:
                vectors.truncate(uids.tell() * self._width * 2 // _UID.itemsize)
                vectors.seek(0, 2)
                for start in range(0, len(missing), _READ):
                    some = missing[start : start + _READ]
                    found, places = encode(search.pictures([uid.decode() for uid in some]))
                    vectors.write(found.astype(np.float16).tobytes())
                    vectors.flush()
                    uids.write(some[places].tobytes())
                    progress(min(start + _READ, len(missing)), len(missing))
        if len(self) > EXACT:
            self.make_graph()
        return len(missing)

    def make_graph(self) -> None:
        """Build the graph where usearch is installed and there is none."""
        if self._graph.exists():
            return
        with contextlib.suppress(ImportError):
            from usearch.index import Index

            graph = Index(ndim=self._width, metric="ip", dtype="f16")
            _, vectors = self._mapped()
            for start in range(0, len(vectors), _BLOCK):
                block = np.asarray(vectors[start : start + _BLOCK])
                graph.add(np.arange(start, start + len(block)), block)
            temporary = self._graph.with_suffix(".new")
            graph.save(str(temporary))
            temporary.replace(self._graph)  # never half a graph
            self._open = None

    def row(self, number: int) -> npt.NDArray[np.float16]:
        """Return the vector of a row, float16 [E]."""
        _, vectors = self._mapped()
        found: npt.NDArray[np.float16] = vectors[number]
        return found

    def nearest(self, vector: Floats, count: int) -> list[Found]:
        """Return the samples whose vectors have the largest cosine with a unit vector float32 [E]."""
        uids, vectors = self._mapped()
        rows = self._candidates(vector, count)
        if rows is None:
            rows, scores = _largest(vectors, vector, count)
        else:
            scores = vectors[rows].astype(np.float32) @ vector
            order = np.argsort(-scores, kind="stable")[:count]
            rows, scores = rows[order], scores[order]
        return [
            Found(uids[row].decode(), round(float(score), 4)) for row, score in zip(rows, scores, strict=True)
        ]

    def _candidates(self, vector: Floats, count: int) -> npt.NDArray[np.int64] | None:
        """Return rows that the graph names, or None where there is no graph or nothing to read it with."""
        if not self._graph.exists():
            return None
        try:
            from usearch.index import Index
        except ImportError:
            return None
        if self._open is None:
            self._open = Index.restore(str(self._graph), view=True)
        return np.asarray(self._open.search(vector, _NAMED * count).keys, np.int64)


def _largest(
    vectors: npt.NDArray[np.float16], vector: Floats, count: int
) -> tuple[npt.NDArray[np.int64], Floats]:
    """Return rows and cosines of the largest, by falling cosine.

    All are compared in half precision, a tenth of the time where the processor has it, and the best four
    times as many as are wanted again in single.
    """
    import torch  # which encoded them

    query, some = torch.from_numpy(vector).half(), _EXTRA * count
    rows, scores = np.zeros(0, np.int64), np.zeros(0, np.float32)
    for start in range(0, len(vectors), _BLOCK):
        own = (torch.from_numpy(np.array(vectors[start : start + _BLOCK])) @ query).float().numpy()
        scores = np.concatenate([scores, own])
        rows = np.concatenate([rows, np.arange(start, start + len(own))])
        if len(rows) > some:
            best = np.argpartition(-scores, some - 1)[:some]
            rows, scores = rows[best], scores[best]
    rows.sort()
    scores = vectors[rows].astype(np.float32) @ vector
    order = np.argsort(-scores, kind="stable")[:count]
    return rows[order], scores[order]


def prune(uids: Path, vectors: Path, wanted: npt.NDArray[np.bytes_]) -> None:
    """Write the files of vectors again without samples that are not wanted: sorted, S32 [n]."""
    if not uids.exists() or not uids.stat().st_size:
        return
    known = np.fromfile(uids, _UID)
    stays = np.isin(known, wanted)
    if stays.all():
        return
    width = vectors.stat().st_size // len(known) // 2
    whole = np.memmap(vectors, np.float16, "r", shape=(len(known), width))
    temporary = vectors.with_suffix(".new")
    with temporary.open("wb") as file:
        for start in range(0, len(known), _BLOCK):
            file.write(whole[start : start + _BLOCK][stays[start : start + _BLOCK]].tobytes())
    del whole
    temporary.replace(vectors)
    known[stays].tofile(uids)
    uids.with_suffix(".usearch").unlink(missing_ok=True)


def forget(index: Path, search: Search) -> None:
    """Take out of all vectors beside an index those of samples that it has no more."""
    found = sorted(index.parent.glob(f"{index.stem}-*.uid"))
    if found:
        wanted = np.unique(search.all_uids())
        for uids in found:
            prune(uids, uids.with_suffix(".f16"), wanted)
