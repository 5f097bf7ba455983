"""Learn a byte-pair vocabulary from captions (Sennrich et al. 2016, arXiv:1508.07909)."""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise

from train.tokenizer import BYTES, CLIP_MERGES, clean, shorten, words

_RAREST = 2  # a pair seen once teaches nothing


def count_words(captions: Iterable[str]) -> Counter[str]:
    """Count the words of captions, cleaned and split as the tokenizer does."""
    chunks: Counter[str] = Counter()
    for caption in captions:
        chunks.update(clean(shorten(caption)).split())
    counts: Counter[str] = Counter()
    for chunk, count in chunks.items():
        for word in words(chunk):
            counts[word] += count
    return counts


def learn_merges(counts: Counter[str], most: int = CLIP_MERGES) -> list[tuple[str, str]]:
    """Return up to `most` merges, the most frequent pair first; ties go to the first in order of characters.

    Each merge touches only the words that hold its pair, found through an index; the heap may hold outdated
    counts, which are put back corrected when they come up.
    """
    spellings = [[BYTES[byte] for byte in word.encode("utf-8")] for word in sorted(counts)]
    weights = [counts[word] for word in sorted(counts)]
    for spelling in spellings:
        spelling[-1] += "</w>"
    pairs: Counter[tuple[str, str]] = Counter()
    where: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for index, spelling in enumerate(spellings):
        for pair in pairwise(spelling):
            pairs[pair] += weights[index]
            where[pair].add(index)
    heap = [(-count, pair) for pair, count in pairs.items()]
    heapq.heapify(heap)
    merges: list[tuple[str, str]] = []
    while heap and len(merges) < most:
        negative, best = heapq.heappop(heap)
        if pairs[best] != -negative:
            if pairs[best] >= _RAREST:
                heapq.heappush(heap, (-pairs[best], best))
            continue
        if -negative < _RAREST:
            break
        merges.append(best)
        changed: set[tuple[str, str]] = set()
        for index in where.pop(best):
            old = spellings[index]
            new = spellings[index] = _join(old, best)
            for pair in pairwise(old):
                pairs[pair] -= weights[index]
            for pair in pairwise(new):
                pairs[pair] += weights[index]
                where[pair].add(index)
                changed.add(pair)
        del pairs[best]
        for pair in changed:
            heapq.heappush(heap, (-pairs[pair], pair))
    return merges


def _join(spelling: list[str], pair: tuple[str, str]) -> list[str]:
    joined: list[str] = []
    index = 0
    while index < len(spelling):
        if tuple(spelling[index : index + 2]) == pair:
            joined.append(pair[0] + pair[1])
            index += 2
        else:
            joined.append(spelling[index])
            index += 1
    return joined
