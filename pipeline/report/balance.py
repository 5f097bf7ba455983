"""The effect of the cap: counts per query before and after, from the rarest query to the most frequent."""

from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from pipeline import schemas, storage

_SHOWN: Final = 12  # queries of a kind,
_SHOWN_ZERO: Final = 40  # and of those without a match, which need less room
_POINTS: Final = 400  # of a curve
HEAD: Final = 0.01
"""The head: this share of the queries, those with the most matches."""


class BalanceRow(NamedTuple):
    """One query's counts, as in query_counts.parquet; fields only."""

    query: str
    matched: int
    kept: int
    present: int
    short: int


class Curve(NamedTuple):
    """Counts per query by rising count, thinned; `share` is that of the queries up to a point."""

    share: list[float]
    counts: list[int]
    cumulative: list[float]  # share of all counts up to there


@dataclass
class Balance:
    """Counts per query before (matched) and after (kept, present) the cap."""

    queries: int = 0
    per_query: int = 0
    matched: int = 0  # queries with a match, and so on
    kept: int = 0
    present: int = 0
    full: int = 0
    short: int = 0
    below_cap: float = 0.0  # share of the queries with fewer matches than the cap
    totals: dict[str, int] = field(default_factory=dict)
    head_share: dict[str, float] = field(default_factory=dict)  # of all counts, that the head has
    curves: dict[str, Curve] = field(default_factory=dict)
    head: list[BalanceRow] = field(default_factory=list)
    zero: list[BalanceRow] = field(default_factory=list)  # no match at all
    lost: list[BalanceRow] = field(default_factory=list)  # matches, but nothing in the set
    lacking: list[BalanceRow] = field(default_factory=list)  # more was there to try


def read(path: str, per_query: int) -> Balance:
    """Sum up query_counts.parquet; an empty Balance where there is none."""
    if not storage.exists(path):
        return Balance(per_query=per_query)
    table = schemas.read_table(path)
    columns = {name: table[name].to_numpy() for name in ("matched", "kept", "present", "short")}
    matched, kept, present, short = columns.values()
    names = table["query"]

    def rows(mask: np.ndarray, by: np.ndarray, count: int = _SHOWN) -> list[BalanceRow]:
        chosen = np.flatnonzero(mask)
        chosen = chosen[np.lexsort((chosen, -by[chosen]))][:count].tolist()
        return [
            BalanceRow(names[i].as_py(), *(int(values[i]) for values in columns.values())) for i in chosen
        ]

    # Queries without a match are all alike: those shown are spread evenly over the list.
    none = np.flatnonzero(matched == 0)
    spread = np.zeros(len(table), bool)
    even = np.linspace(0, max(len(none) - 1, 0), min(_SHOWN_ZERO, len(none)))
    spread[none[even.round().astype(int)]] = True
    return Balance(
        queries=len(table), per_query=per_query, matched=int((matched > 0).sum()), kept=int((kept > 0).sum()),
        present=int((present > 0).sum()), full=int((kept == per_query).sum()), short=int((short > 0).sum()),
        below_cap=float((matched < per_query).mean()) if len(table) else 0.0,
        totals={name: int(values.sum()) for name, values in columns.items()},
        head_share={name: head_share(columns[name], matched) for name in ("matched", "kept", "present")},
        curves={name: curve(columns[name]) for name in ("matched", "kept", "present")},
        head=rows(matched > 0, matched), zero=rows(spread, matched, _SHOWN_ZERO),
        lost=rows((matched > 0) & (present == 0), matched), lacking=rows(short > 0, short),
    )  # fmt: skip


def head_share(values: np.ndarray, matched: np.ndarray) -> float:
    """Return which share of all `values` the queries with the most matches have, 0 where there are none."""
    count = max(1, round(HEAD * len(matched)))
    head = np.argsort(-matched, kind="stable")[:count]
    return float(values[head].sum() / max(values.sum(), 1))


def curve(values: np.ndarray) -> Curve:
    """Return counts by rising count and their running share, at some 400 queries, the ends included."""
    if not len(values):
        return Curve([], [], [])
    ordered = np.sort(values)
    running = np.cumsum(ordered) / max(int(ordered.sum()), 1)
    # Half of the points evenly, half towards the head, where a list of 500,000 queries bends.
    n = len(ordered)
    even = np.linspace(0, n - 1, _POINTS // 2)
    towards = n - np.geomspace(1, n, _POINTS // 2)
    places = np.unique(np.concatenate([even, towards]).round().astype(int))
    return Curve(
        [round(float(i + 1) / n, 6) for i in places],
        ordered[places].tolist(),
        [round(float(share), 6) for share in running[places]],
    )
