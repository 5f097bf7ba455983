"""`--rule metaclip` beside MetaCLIP's own scripts: the same matches, and sets of the same size.

    git clone https://github.com/facebookresearch/MetaCLIP
    python -m bench.metaclip --scripts MetaCLIP/metaclip/metaclip1 --queries queries.json \
        --captions alts.parquet --captions flickr.en.txt.gz --count 1000000

Their `substr_matching_ahocorasick` (pip install pyahocorasick) matches, their `balance_sampling` draws, at
random; openwit's index matches, and each query keeps its --per-query smallest priorities. The captions are
those given, then texts that a seeded chain of their words makes up to --count, with their case and marks.
"""

import argparse
import gzip
import hashlib
import importlib.util
import itertools
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.match import read
from bench.tables import show
from pipeline import balance, querylist
from pipeline.captions.match import Matcher

DRAWS = 3  # of their balance, whose sizes differ a little


def captions(paths: Sequence[Path], count: int) -> list[str]:
    """Return the texts of files, and as many more as are wanted, made by a chain of their words."""
    texts: list[str] = []
    for path in paths:
        if path.suffix == ".gz":
            texts += gzip.decompress(path.read_bytes()).decode().splitlines()
        else:
            texts += read(path, ["TEXT", "caption", "text"])
    texts = [" ".join(text.split()) for text in texts if text.strip()][:count]
    follows: dict[str, list[str]] = {}
    for text in texts:
        words = ["", *text.split(), ""]
        for word, following in itertools.pairwise(words):
            follows.setdefault(word, []).append(following)
    draw = random.Random(0)

    def made() -> Iterator[str]:
        word = draw.choice(follows[""])
        while word:
            yield word
            word = draw.choice(follows[word])

    return texts + [" ".join(made()) for _ in range(count - len(texts))]


def pairs(match: Callable[[str], list[int]], texts: Sequence[str]) -> NDArray[np.int64]:
    """Return int64 [n, 2]: query and text of each match, by text, then query."""
    found = [sorted(match(text)) for text in texts]
    owner = np.repeat(np.arange(len(texts)), [len(one) for one in found])
    return np.stack([np.array([query for one in found for query in one], np.int64), owner], axis=1)


def kept(matches: NDArray[np.int64], queries: list[str], per_query: int) -> int:
    """Return how many texts openwit keeps where each is a sample of its own."""
    owners = int(matches[:, 1].max()) + 1
    digests = (hashlib.sha256(b"http://example.org/%d" % i).digest() for i in range(owners))
    uids = np.array([int.from_bytes(digest[:8], "big") for digest in digests], np.uint64)
    hashes = balance.query_hashes(querylist.normalised(queries, "metaclip"), 0)
    priorities = balance.priorities(uids[matches[:, 1]], hashes[matches[:, 0]])
    order = np.lexsort((priorities, matches[:, 0]))
    query = matches[order, 0]
    starts = np.flatnonzero(np.append(True, query[1:] != query[:-1]))
    rank = np.arange(len(query)) - np.repeat(starts, np.diff(np.append(starts, len(query))))
    return len(np.unique(matches[order[rank < per_query], 1]))


def script(path: Path) -> ModuleType:
    """Return one of MetaCLIP's files as a module."""
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Return the value of a call, and its CPU seconds."""
    start = time.process_time()
    return call(), time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scripts", type=Path, required=True, help="metaclip/metaclip1 of their repository")
    parser.add_argument("--queries", type=Path, required=True)
    parser.add_argument("--captions", type=Path, action="append", required=True)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--per-query", type=int, nargs="+", default=[20, 200, 2_000, 20_000])
    args = parser.parse_args()
    queries, texts = read(args.queries, ["query"]), captions(args.captions, args.count)
    matching = script(args.scripts / "substr_matching_ahocorasick.py")
    sampling = script(args.scripts / "indexing" / "balance_sampling.py")
    matching.substr_matching("", queries)  # builds the automaton
    theirs, their_seconds = timed(lambda: pairs(lambda text: matching.substr_matching(text, queries), texts))
    matcher = Matcher(queries, "metaclip")
    ours, seconds = timed(lambda: pairs(matcher.match, texts))
    same = ours.shape == theirs.shape and bool((ours == theirs).all())
    print(
        f"{len(queries):,} queries, {len(matcher.dead):,} of them can match nothing; {len(texts):,} texts: "
        f"{len(theirs):,} matches by MetaCLIP's script, {len(ours):,} by openwit, "
        f"{'the same' if same else 'NOT THE SAME'}; {1e6 * their_seconds / len(texts):.1f} and "
        f"{1e6 * seconds / len(texts):.1f} CPU us a caption"
    )
    counts = np.bincount(theirs[:, 0], minlength=len(queries)).astype(np.uint64)
    rows = []
    for most in args.per_query:
        np.random.seed(0)
        sizes = [len(sampling.balance_sampling(counts, theirs, most)) for _ in range(DRAWS)]
        own, mean = kept(ours, queries, most), float(np.mean(sizes))
        spread = f"{min(sizes):,} to {max(sizes):,}"
        rows.append((f"{most:,}", f"{mean:,.0f}", spread, f"{own:,}", f"{own / mean - 1:+.3%}"))
    show("pairs kept", ("per query", "MetaCLIP's script", f"{DRAWS} draws", "openwit", "difference"), rows)


if __name__ == "__main__":
    main()
