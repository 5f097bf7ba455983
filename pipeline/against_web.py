"""Ask some of a set's URLs again: does a URL still show the picture that was fetched?

A set that is passed on as URLs can be poisoned by anyone who buys a domain that has run out (split-view
poisoning, Carlini et al. 2023, arXiv 2302.10149). The same client as the crawl's asks, under the same
robots.txt, opt-outs and delays; nothing is written, and no picture kept.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa

from pipeline import hashlist
from pipeline.finished_set import FinishedSet
from pipeline.http.fetch_url import Outcome
from pipeline.options import FetchOptions, ImageOptions

SAME_BYTES: Final = "same bytes"
SAME_PICTURE: Final = "same picture, other bytes"
OTHER_PICTURE: Final = "another picture"
REFUSED: Final = "opted out since"
_ELSEWHERE: Final = 2  # redirects to other sites that are followed, as many as the crawl's default rounds
_COLUMNS: Final = ["key", "uid", "url", "sha256", "phash"]


@dataclass
class Comparison:
    """The outcome of asking for URLs again."""

    verdicts: Counter[str] = field(default_factory=Counter)
    """URLs by one of the words above, or the reason why nothing came."""
    others: list[tuple[str, str, int]] = field(default_factory=list)
    """(uid, URL, differing bits of 256) of those that show another picture."""
    refused: list[tuple[str, str]] = field(default_factory=list)
    """(uid, URL) of those that may not be asked any more: candidates for a takedown."""


def choose(state: FinishedSet, wanted: int, seed: int) -> list[dict[str, Any]]:
    """Return rows of that many samples, each equally likely, in the order of the shards."""
    masks = [state.stays(shard, state.table(shard, ["key"])) for shard in state.shards]
    ends = np.cumsum([int(mask.sum()) for mask in masks])
    total = int(ends[-1]) if len(ends) else 0
    chosen = np.sort(np.random.default_rng(seed).choice(total, min(wanted, total), replace=False))
    rows: list[dict[str, Any]] = []
    for number, (shard, mask) in enumerate(zip(state.shards, masks, strict=True)):
        first = int(ends[number - 1]) if number else 0
        own = chosen[(chosen >= first) & (chosen < ends[number])] - first
        if len(own):
            rows += state.table(shard, _COLUMNS).filter(pa.array(mask)).take(pa.array(own)).to_pylist()
    return rows


def compare(rows: list[dict[str, Any]], fetch: FetchOptions, images: ImageOptions) -> Comparison:
    """Fetch the URLs of rows and compare each answer with the row's hashes."""
    from pipeline.fetch.terms import Terms
    from pipeline.http.fetch_thread import FetchLoop
    from pipeline.images import said
    from pipeline.images.decoder import Decoder

    found = Comparison()
    wanted = [(n, str(row["url"])) for n, row in enumerate(rows)]
    with FetchLoop(fetch) as loop, Decoder(images) as decoder:
        for last in (False,) * _ELSEWHERE + (True,):
            elsewhere: list[tuple[int, str]] = []
            for number, outcome in loop.run(wanted):
                assert isinstance(number, int)
                if outcome.reason == "redirect_elsewhere" and not last:
                    elsewhere.append((number, outcome.final_url))
                    continue
                terms, about = Terms(fetch.opt_out), said.read(outcome.body, outcome.links)
                answer = terms.judge(b"", outcome, about)
                _judge(found, rows[number], answer, decoder)
            wanted = elsewhere
    found.others.sort()
    found.refused.sort()
    return found


def _judge(found: Comparison, row: dict[str, Any], outcome: Outcome, decoder: Any) -> None:
    if outcome.reason.startswith(("robots_disallow", "opt_out")):
        found.verdicts[REFUSED] += 1
        found.refused.append((row["uid"], row["url"]))
    elif outcome.reason:
        found.verdicts[outcome.reason] += 1
    elif hashlib.sha256(outcome.body).hexdigest() == row["sha256"]:
        found.verdicts[SAME_BYTES] += 1
    else:
        processed = decoder.process(outcome.body)
        differing = _differing(processed.phash, row["phash"])
        is_same = not processed.reason and differing <= hashlist.DISTANCE
        found.verdicts[SAME_PICTURE if is_same else processed.reason or OTHER_PICTURE] += 1
        if not is_same and not processed.reason:
            found.others.append((row["uid"], row["url"], differing))


def _differing(one: str, other: str) -> int:
    """Return in how many bits two perceptual hashes differ, 256 where there is none."""
    if len(one) != 64 or len(other) != 64:
        return 256
    return (int(one, 16) ^ int(other, 16)).bit_count()
