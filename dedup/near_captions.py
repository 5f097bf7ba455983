"""Find captions that are near an evaluation set's captions or class prompts.

Texts are compared by the Jaccard similarity of their words and word pairs. datasketch defines the sketches
and holds the evaluation side in its LSH; the digests are computed for many texts at once, bit for bit as
`datasketch.MinHash` would; every hit is verified on the sets themselves.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datasketch import MinHash, MinHashLSH

from pipeline.captions.match import tokens

PERMUTATIONS: Final = 128
SEED: Final = 1
SCHEME: Final = "affine32"
BANDS: Final = (25, 5)
"""Bands and rows: 99% of pairs of Jaccard 0.7 meet in a band. datasketch's own choice for 0.7, (14, 9),
weighs false hits as much as lost ones and finds 44%; here hits are verified, so that only losses count."""
PARAMETERS: Final = {
    "scheme": SCHEME, "seed": SEED, "permutations": PERMUTATIONS, "bands": BANDS[0], "rows": BANDS[1],
    "hash": "sha1, first 4 bytes, little-endian", "shingles": "words and word pairs of captions.match",
}  # fmt: skip
PROMPT: Final = "a photo of a {}"

U32 = npt.NDArray[np.uint32]
Shingles = frozenset[str]


def shingles(text: str) -> Shingles:
    """Return the words and word pairs of a text."""
    words = tokens(text)
    return frozenset(words) | {f"{a} {b}" for a, b in pairwise(words)}


def jaccard(a: Shingles, b: Shingles) -> float:
    """Return the share of common elements; 0 for two empty sets."""
    union = len(a | b)
    return len(a & b) / union if union else 0.0


class Sketcher:
    """Compute the digests of many sets at once."""

    def __init__(self) -> None:
        self._permutations = MinHash(num_perm=PERMUTATIONS, seed=SEED, scheme=SCHEME).permutations
        self._hashes: dict[str, int] = {}

    def digests(self, sets: Sequence[Iterable[str]]) -> U32:
        """Return uint32 [n, 128], the result of `MinHash.update_batch` for each set's UTF-8 elements.

        Sets of the same size are a matrix of hashes, whose columns are permuted and reduced in turn.
        """
        a, b = (values.astype(np.uint32) for values in self._permutations)
        found = np.full((len(sets), PERMUTATIONS), 0xFFFFFFFF, np.uint32)
        hashed = [[self._hash(one) for one in elements] for elements in sets]
        sizes = np.array([len(elements) for elements in hashed])
        for size in np.unique(sizes[sizes > 0]).tolist():
            rows = np.flatnonzero(sizes == size)
            for block in np.array_split(rows, -(-len(rows) // 4096)):
                mixed = _fmix(np.array([hashed[row] for row in block.tolist()], np.uint32))
                lowest = mixed[:, 0, None] * a + b
                for column in range(1, size):
                    np.minimum(lowest, mixed[:, column, None] * a + b, out=lowest)
                found[block] = lowest
        return found

    def minhash(self, digest: U32) -> MinHash:
        """Return datasketch's object for a digest, uint32 [permutations]."""
        return MinHash(
            num_perm=PERMUTATIONS,
            seed=SEED,
            scheme=SCHEME,
            hashvalues=digest,
            permutations=self._permutations,
        )

    def _hash(self, element: str) -> int:
        value = self._hashes.get(element)
        if value is None:
            digest = hashlib.sha1(element.encode("utf-8", "replace"), usedforsecurity=False).digest()
            value = int.from_bytes(digest[:4], "little")
            if len(self._hashes) >= 1_000_000:
                self._hashes.clear()
            self._hashes[element] = value
        return value


def _fmix(values: U32) -> U32:
    """Return MurmurHash3's 32-bit finaliser of each value, datasketch's first step."""
    values = values ^ (values >> np.uint32(16))
    values *= np.uint32(0x85EBCA6B)
    values ^= values >> np.uint32(13)
    values *= np.uint32(0xC2B2AE35)
    return values ^ (values >> np.uint32(16))


class EvalText(NamedTuple):
    """A text of an evaluation set; fields only."""

    dataset: str
    kind: str
    example_id: str
    text: str


class TextHit(NamedTuple):
    """A verified pair of texts; fields only."""

    query: int
    target: EvalText
    jaccard: float


def texts_of(examples: pa.Table) -> list[EvalText]:
    """Return each set's distinct captions, and a prompt for each class that has a name."""
    columns = (examples[name].to_pylist() for name in ("dataset", "example_id", "label", "caption"))
    found: dict[tuple[str, str, str], EvalText] = {}
    for dataset, example_id, label, caption in zip(*columns, strict=True):
        if caption:
            found.setdefault((dataset, "caption", caption), EvalText(dataset, "caption", example_id, caption))
        if label and not label.isdigit():
            prompt = PROMPT.format(label.replace("_", " "))
            found.setdefault((dataset, "prompt", prompt), EvalText(dataset, "prompt", example_id, prompt))
    return list(found.values())


class TextIndex:
    """The evaluation side's texts, in datasketch's LSH."""

    def __init__(self, texts: list[EvalText], threshold: float) -> None:
        self._texts, self._threshold = texts, threshold
        self._sketcher = Sketcher()
        self._sets = [shingles(one.text) for one in texts]
        self._lsh = MinHashLSH(params=BANDS, num_perm=PERMUTATIONS)
        for row, digest in enumerate(self._sketcher.digests(self._sets)):
            if self._sets[row]:
                self._lsh.insert(row, self._sketcher.minhash(digest))

    def search(self, captions: Sequence[str]) -> Iterator[TextHit]:
        """Yield the texts at or above the threshold for each caption, most similar first."""
        sets = [shingles(caption) for caption in captions]
        for query, digest in enumerate(self._sketcher.digests(sets)):
            if not sets[query]:
                continue
            rows = self._lsh.query(self._sketcher.minhash(digest))
            hits = [(jaccard(sets[query], self._sets[row]), row) for row in rows]
            for value, row in sorted(hits, key=lambda hit: (-hit[0], hit[1])):
                if value >= self._threshold:
                    yield TextHit(query, self._texts[row], value)
