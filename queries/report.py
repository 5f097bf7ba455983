"""The report beside the list: one HTML file without scripts or links to elsewhere."""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pipeline import safe_html
from queries import merge, titles
from queries.merge import MergedList, Query
from queries.options import QueriesConfig

SOURCE_NAMES: Final = {
    "unigram": "Wikipedia words",
    "bigram": "Wikipedia bigrams",
    "title": "Wikipedia titles",
    "wordnet": "WordNet synsets",
    "extra": "own queries",
}
METACLIP: Final = {"unigram": 251_465, "bigram": 100_646, "title": 61_235, "wordnet": 86_654}
"""The composition of MetaCLIP's list, WordNet counted first (Xu et al. 2023, arXiv 2309.16671, table 1)."""

_MEASURES: Final = {
    "unigram": ("Words by occurrences", "occurrences: from a bar's number to below its double", "words"),
    "bigram": (
        "Bigrams with the minimum count by PMI",
        "PMI in bits: from a bar's number to below the next",
        "bigrams",
    ),
    "title": ("Articles ranked by views", "views: from a bar's number to below its double", "articles"),
}
"""Title of a distribution, and the titles of its axes."""
_MEANINGS: Final = merge.DROPPED | titles.DROPPED
_EXAMPLES: Final = 15
_MAX_DAMAGE_LINES: Final = 50


@dataclass(frozen=True)
class Bar:
    """One bar of a histogram; heights are in pixels, from the logarithm of the count."""

    label: str
    count: int
    height: float


@dataclass(frozen=True)
class Histogram:
    """A figure: bars on a logarithmic axis, with the places of its round numbers."""

    title: str
    across: str
    upwards: str
    bars: list[Bar]
    ticks: list[Bar]


def render(config: QueriesConfig, merged: MergedList, summary: dict[str, Any]) -> str:
    """Return the report's HTML."""
    statistics = summary["statistics"]
    return safe_html.render(
        Path(__file__).parent,
        config=config,
        summary=summary,
        composition=_composition(summary),
        histograms=[
            Histogram(*texts, *histogram(statistics[name]["distribution"], octaves=name != "bigram"))
            for name, texts in _MEASURES.items()
            if statistics.get(name, {}).get("distribution")
        ],
        examples=_examples(merged),
        dropped=_dropped(merged, statistics),
        damage=(statistics["wikipedia"]["damage"] + statistics.get("title", {}).get("damage", []))[
            :_MAX_DAMAGE_LINES
        ],
        statistics=statistics,
    )


def _composition(summary: dict[str, Any]) -> list[tuple[str, int, float, int]]:
    """Return name, queries, share and MetaCLIP's number of each source."""
    total = max(summary["queries"], 1)
    return [
        (SOURCE_NAMES[name], count, count / total, METACLIP.get(name, 0))
        for name, count in summary["composition"].items()
    ]


def histogram(counts: dict[str, int], *, octaves: bool) -> tuple[list[Bar], list[Bar]]:
    """Return the bars of counts by integer bin, empty bins included, and the marks of their axis."""
    by_bin = {int(label): count for label, count in counts.items()}
    most = max(by_bin.values())

    def bar(label: str, count: int) -> Bar:
        return Bar(label, count, round(160 * math.log1p(count) / math.log1p(most), 1))

    bars = [
        bar(f"{2**i:,}" if octaves else str(i), by_bin.get(i, 0)) for i in range(min(by_bin), max(by_bin) + 1)
    ]
    tens = [10**power for power in range(len(str(most)))]
    return bars, [bar(f"{count:,}", count) for count in [0, *tens] if count <= most]


def _examples(merged: MergedList) -> list[tuple[str, list[tuple[str, list[Query]]]]]:
    """Return the first, middle and last queries of each source."""
    shown = []
    for source in merge.SOURCES:
        queries = [query for query in merged.queries if query.source == source]
        if not queries:
            continue
        middle = max((len(queries) - _EXAMPLES) // 2, 0)
        parts = {
            "first": queries[:_EXAMPLES],
            "middle": queries[middle : middle + _EXAMPLES],
            "last": queries[-_EXAMPLES:],
        }
        shown.append((SOURCE_NAMES[source], list(parts.items())))
    return shown


def _dropped(merged: MergedList, statistics: dict[str, Any]) -> list[tuple[str, str, int, str, str]]:
    """Return source, reason, number, meaning and examples of everything that is not in the list."""
    rows = []
    for source in merge.SOURCES:
        counts = Counter(merged.dropped.get(source, {})) + Counter(
            statistics.get(source, {}).get("dropped", {})
        )
        for reason, count in sorted(counts.items()):
            examples = " · ".join(merged.examples.get((source, reason), []))
            rows.append((SOURCE_NAMES[source], reason, count, _MEANINGS[reason], examples))
    return rows
