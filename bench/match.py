"""Captions per second of the query index beside MetaCLIP's published rule, in CPU time of one core.

    python bench/match.py --captions captions.parquet --queries queries.json

Captions: parquet (column TEXT, caption or text) or one per line; queries: a JSON list, parquet (column query)
or one per line. Without files, both are made up from a seeded Zipf-like vocabulary. MetaCLIP's fast branch,
an Aho-Corasick automaton for the same rule, is measured where pyahocorasick is installed. The peers keep case
and find fewer matches; ours also does the work of normalising.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.tables import show
from pipeline.captions import match
from pipeline.captions.match import Matcher, tokens

REPEATS = 5
PEER_CAPTIONS = 50  # the published rule reads every query for every caption: about 25 captions per second


class Row(NamedTuple):
    engine: str
    captions: int
    build_s: float
    per_s: float
    matches_per_caption: float


def read(path: Path, columns: Sequence[str]) -> list[str]:
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        file = pq.ParquetFile(path)
        column = next(name for name in columns if name in file.schema_arrow.names)
        return [text for text in file.read([column])[column].to_pylist() if text]
    text = path.read_text()
    return list(json.loads(text)) if path.suffix == ".json" else text.splitlines()


def synthetic(queries: int, captions: int) -> tuple[list[str], list[str]]:
    """Return queries of 1 to 3 words and captions of about 10, from words with a Zipf-like frequency."""
    draw = random.Random(0)
    letters = "etaoinshrdlu"
    words = sorted({"".join(draw.choices(letters, k=draw.randint(2, 9))) for _ in range(queries)})
    draw.shuffle(words)

    def phrase(length: int) -> str:
        # exp of a uniform variable: rank r has a probability proportional to 1 / r
        return " ".join(words[int(len(words) ** draw.random()) - 1] for _ in range(length))

    made = dict.fromkeys(
        [*words[: queries * 2 // 3], *(phrase(draw.choice((2, 2, 2, 3))) for _ in range(queries))]
    )
    return list(made)[:queries], [phrase(draw.randint(4, 16)).capitalize() + "." for _ in range(captions)]


def peer_spacing(text: str) -> str:
    """Space a text by MetaCLIP's published rule: padded, seven marks set apart, white space to spaces."""
    for mark in ",.;:?!`":
        text = text.replace(mark, f" {mark} ")
    for blank in "\t\r\n":
        text = text.replace(blank, " ")
    return f" {text} "


def published_rule(queries: Sequence[str]) -> Callable[[str], list[int]]:
    padded = [f" {query} " for query in queries]

    def match(text: str) -> list[int]:
        spaced = peer_spacing(text)
        return [i for i, query in enumerate(padded) if query in spaced]

    return match


def aho_corasick(queries: Sequence[str]) -> Callable[[str], list[int]]:
    import ahocorasick  # type: ignore[import-not-found, unused-ignore]

    automaton = ahocorasick.Automaton(ahocorasick.STORE_INTS)
    for i, query in enumerate(queries):
        automaton.add_word(f" {query} ", i)
    automaton.make_automaton()

    def match(text: str) -> list[int]:
        return sorted({i for _, i in automaton.iter(peer_spacing(text))})

    return match


def measure(
    engine: str,
    build: Callable[[Sequence[str]], Callable[[str], list[int]]],
    queries: Sequence[str],
    texts: list[str],
) -> Row:
    """Build an engine, and match every text `REPEATS` times (the best counts), in CPU seconds."""
    start = time.process_time()
    find = build(queries)
    built = time.process_time() - start
    best = float("inf")
    for _ in range(1 if engine.startswith("published") else REPEATS):
        start = time.process_time()
        matches = sum(len(find(text)) for text in texts)
        best = min(best, time.process_time() - start)
    return Row(engine, len(texts), built, len(texts) / best, matches / len(texts))


def normalise_only(queries: Sequence[str]) -> Callable[[str], list[int]]:
    def match(text: str) -> list[int]:
        tokens(text)
        return []

    return match


def in_python(queries: Sequence[str]) -> Callable[[str], list[int]]:
    """Return the matcher of an installation without the C module."""
    module, match._match = match._match, None
    try:
        return Matcher(queries).match
    finally:
        match._match = module


def machine() -> dict[str, object]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    cpu = next(iter(names), platform.processor())
    fast = importlib.util.find_spec("ahocorasick") is not None
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "pyahocorasick": importlib.metadata.version("pyahocorasick") if fast else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--captions", type=Path, help="texts to match; made up without")
    parser.add_argument("--queries", type=Path, help="the query list; made up without")
    parser.add_argument("--size", type=int, default=500_000, help="queries to make up")
    args = parser.parse_args()
    made_queries, made_captions = (
        synthetic(args.size, 10_000) if not (args.queries and args.captions) else ([], [])
    )
    given = read(args.queries, ["query"]) if args.queries else made_queries
    texts = read(args.captions, ["TEXT", "caption", "text"]) if args.captions else made_captions
    # Lists that differ in case only would count a match several times; a built list holds one of each form.
    queries = list({" ".join(tokens(query)): query for query in reversed(given)}.values())[::-1]
    rows = [
        measure("openwit: normalise only", normalise_only, queries, texts),
        measure("openwit: normalise and match", lambda q: Matcher(q).match, queries, texts),
        measure("openwit: the same without the C module", in_python, queries, texts),
    ]
    few = queries[:: len(queries) // 50_000 or 1]
    rows.append(measure(f"openwit: {len(few):,} queries", lambda q: Matcher(q).match, few, texts))
    fast, slow = Matcher(given).match, in_python(given)
    differ = sum(fast(text) != slow(text) for text in texts)
    if len(queries) < len(given):
        rows.append(measure("openwit: list as given", lambda q: Matcher(q).match, given, texts))
    if importlib.util.find_spec("ahocorasick"):
        rows.append(measure("Aho-Corasick on the published rule", aho_corasick, queries, texts))
    rows.append(measure("published rule", published_rule, queries, texts[:PEER_CAPTIONS]))

    show(
        f"{len(queries):,} queries ({len(given):,} given), {len(texts):,} captions, one core; "
        f"{differ} captions have other matches without the C module",
        ("engine", "captions", "build s", "captions/s", "matches/caption"),
        [
            (row.engine, f"{row.captions:,}", f"{row.build_s:.2f}", f"{row.per_s:,.0f}",
             f"{row.matches_per_caption:.2f}")
            for row in rows
        ],
        stderr=True,
    )  # fmt: skip
    print(json.dumps({"bench": "match", "machine": machine(), "rows": [row._asdict() for row in rows]}))


if __name__ == "__main__":
    main()
