"""Yields for plans without a pilot, chosen to agree with published figures about Common Crawl.

MetaCLIP (arXiv:2309.16671) reports 1.6 billion matched pairs for 500,000 queries, 3.5 matches a text, 16,000
queries above 20,000 matches that hold 94.5% of all matches, 114,000 queries without any, the most frequent
one 120 million times, and 400 million pairs after the balance at 20,000. The shape below reproduces these to
about 10%. Sites follow a law of Zipf and Mandelbrot over as many as LAION-400M has, fitted to how many of
them random rows of it show (rom1504/img2dataset issues 43 and 101).
"""

import tomllib
from importlib import resources
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.plan.yields import PilotPairs, Yields

SAMPLES: Final = 200_000
MATCHES: Final = 3.5  # a text, a mean
_EXPONENTS: Final = (
    0.35,
    1.15,
    2.0,
)  # of popularity, to either break and beyond
_BREAKS: Final = (20, 0.032)  # the second one as a share of the queries: 16,000 of 500,000
_USED: Final = 0.772  # share of the queries that match anything: 386,000 of 500,000
_DISPERSION: Final = 0.15  # of the negative binomial number of matches: long texts match far more than short
_SITES: Final = 5_000_000
_SITE_EXPONENT: Final = -1.12  # of rank + 2: 4,622 sites in 10,000 images, 30,898 in 100,000, 186,972 in 10^6


def popularity(queries: int) -> NDArray[np.float64]:
    """Return the share of all matches that each query has, most frequent first, float64 [queries]."""
    rank = np.arange(1, queries + 1, dtype=float)
    ends = min(_BREAKS[0], queries), max(_BREAKS[0] + 1, _BREAKS[1] * queries)
    first, second, third = _EXPONENTS
    shape = np.minimum(rank, ends[0]) ** -first
    shape *= (np.clip(rank, ends[0], ends[1]) / ends[0]) ** -second
    shape *= (np.maximum(rank, ends[1]) / ends[1]) ** -third
    shape[max(1, int(_USED * queries)) :] = 0
    share: NDArray[np.float64] = shape / shape.sum()
    return share


def balance(queries: int) -> PilotPairs:
    """Draw the matches of a pilot; `matched` holds expectations, not counts, so that tails scale."""
    rng = np.random.default_rng(0)
    share = popularity(queries)
    more = rng.negative_binomial(_DISPERSION, _DISPERSION / (_DISPERSION + MATCHES - 1), SAMPLES)
    sample = np.repeat(np.arange(SAMPLES), 1 + more)
    query = np.searchsorted(np.cumsum(share), rng.random(len(sample)))
    keys = np.unique(sample * queries + np.minimum(query, queries - 1))
    law = (np.arange(1, _SITES + 1) + 2.0) ** _SITE_EXPONENT
    return PilotPairs(keys // queries, keys % queries, share * len(keys), law / law.sum() * SAMPLES, SAMPLES)


def common_crawl(queries: int) -> Yields:
    """Return the inputs and the outcome of `SAMPLES` matched images of Common Crawl's WAT files."""
    figures = tomllib.loads(resources.files("pipeline.plan").joinpath("common_crawl.toml").read_text())
    candidates = SAMPLES / (figures["distinct"] * figures["matched"])
    pieces = candidates / figures["candidates"]
    arrived = figures["arrived"] * SAMPLES
    drawn = balance(queries)
    return Yields(
        pieces=pieces, source_bytes=pieces * figures["source_bytes"], format="wat", candidates=candidates,
        rows=candidates * figures["matched"], novelty=1.0, tried=SAMPLES, arrived=arrived,
        fetched_bytes=arrived * figures["answer_bytes"], samples=arrived,
        stored_bytes=arrived * figures["stored_bytes"], row_bytes=figures["row_bytes"], per_query=0,
        balance=drawn,
    )  # fmt: skip
