"""Text near-duplicates beside datasketch: digests per second, their equality, and the bands' pairs.

    python -m bench.overlap_text --captions FILE [--column TEXT] [--count 10000]

FILE is Parquet with a column of captions, or text with one per line. Digests are of words and word pairs, 128
permutations. For recall, each caption of eight words or more is indexed, and searched for by a copy in which
one to four of its words are others; pairs are counted by their true Jaccard similarity.
"""

import argparse
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from datasketch import MinHash, MinHashLSH

from bench.tables import show
from dedup.near_captions import (
    BANDS,
    PERMUTATIONS,
    SCHEME,
    SEED,
    EvalText,
    Sketcher,
    TextIndex,
    jaccard,
    shingles,
)
from pipeline.captions.match import tokens

THRESHOLD = 0.7


def captions_of(path: Path, column: str, count: int) -> list[str]:
    if path.suffix == ".parquet":
        texts = pq.read_table(path, columns=[column])[column].to_pylist()
    else:
        texts = path.read_text("utf-8").splitlines()
    return list(dict.fromkeys(text for text in texts if text and tokens(text)))[:count]


def best(function: Callable[[], Any]) -> tuple[float, Any]:
    """Return seconds of CPU time, of the faster of two rounds, and the function's value."""
    spent = []
    for _ in range(2):
        start = time.process_time()
        found = function()
        spent.append(time.process_time() - start)
    return min(spent), found


def by_token(sets: Sequence[frozenset[str]]) -> np.ndarray:
    rows = []
    for elements in sets:
        one = MinHash(num_perm=PERMUTATIONS, seed=SEED, scheme=SCHEME)
        for element in elements:
            one.update(element.encode())
        rows.append(one.hashvalues)
    return np.stack(rows)


def in_bulk(sets: Sequence[frozenset[str]]) -> np.ndarray:
    encoded = [[element.encode() for element in elements] for elements in sets]
    made = MinHash.bulk(encoded, num_perm=PERMUTATIONS, seed=SEED, scheme=SCHEME)
    return np.stack([one.hashvalues for one in made])


def altered(text: str, rng: random.Random) -> str:
    words = tokens(text)
    for place in rng.sample(range(len(words)), rng.randint(1, min(4, len(words) // 3))):
        words[place] = f"other{rng.randrange(10**6)}"
    return " ".join(words)


def recall(captions: list[str]) -> None:
    rng = random.Random(0)
    originals = [text for text in captions if len(tokens(text)) >= 8]
    copies = [altered(text, rng) for text in originals]
    near = np.array([jaccard(shingles(a), shingles(b)) for a, b in zip(originals, copies, strict=True)])
    seconds, index = best(
        lambda: TextIndex([EvalText("d", "caption", str(n), t) for n, t in enumerate(originals)], THRESHOLD)
    )
    searching, hits = best(lambda: list(index.search(copies)))
    ours = {hit.query for hit in hits if int(hit.target.example_id) == hit.query}
    false = sum(hit.jaccard < THRESHOLD for hit in hits)
    sketcher = Sketcher()
    theirs: set[int] = set()
    lsh = MinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS)
    for row, digest in enumerate(sketcher.digests([shingles(text) for text in originals])):
        lsh.insert(row, sketcher.minhash(digest))
    for row, digest in enumerate(sketcher.digests([shingles(text) for text in copies])):
        if row in lsh.query(sketcher.minhash(digest)):
            theirs.add(row)
    cells = []
    for low, high in ((0.7, 0.75), (0.75, 0.8), (0.8, 0.9), (0.9, 1.01), (0.7, 1.01)):
        rows = set(np.flatnonzero((near >= low) & (near < high)).tolist())
        shares = [f"{len(found & rows) / max(len(rows), 1):.3f}" for found in (ours, theirs)]
        cells.append((f"{low} to {min(high, 1)}", f"{len(rows):,}", *shares))
    show(
        f"recall of altered copies among {len(originals):,} captions",
        ("Jaccard", "pairs", f"openwit {BANDS}", f"datasketch's choice ({lsh.b}, {lsh.r})"),
        cells,
    )
    print(
        f"{false} of {len(hits):,} hits under {THRESHOLD}; index {len(originals) / seconds:,.0f} texts/s, "
        f"search {len(copies) / searching:,.0f} captions/s with words, digests, bands and exact Jaccard"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--captions", type=Path, required=True)
    parser.add_argument("--column", default="TEXT")
    parser.add_argument("--count", type=int, default=10_000)
    args = parser.parse_args()
    captions = captions_of(args.captions, args.column, args.count)
    spent, sets = best(lambda: [shingles(text) for text in captions])
    title = f"{len(captions):,} captions, {np.mean([len(s) for s in sets]):.1f} elements each"
    cells = [("words and word pairs alone", f"{len(captions) / spent:,.0f}", "")]
    expected = None
    methods = (("MinHash.update", by_token), ("MinHash.bulk", in_bulk), ("openwit", Sketcher().digests))
    for label, function in methods:
        spent, found = best(lambda function=function: function(sets))  # type: ignore[misc]
        expected = found if expected is None else expected
        same = found.dtype == expected.dtype and bool((found == expected).all())
        cells.append((label, f"{len(captions) / spent:,.0f}", "yes" if same else "NO"))
    show(title, ("digests, 128 permutations", "captions/s/core", "same as update()"), cells)
    recall(captions)


if __name__ == "__main__":
    main()
