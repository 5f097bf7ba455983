"""The effect of a query list on captions: share matched and queries per caption, beside MetaCLIP's rule.

    python -m bench.queries_match --queries queries.parquet --captions captions.parquet

MetaCLIP's paper (arXiv 2309.16671, section 3) reports that about half of the English texts match, with 3.5
queries a text. The same captions go through our normaliser and through its rule (text spaced around seven
marks, case kept, whole spaced tokens), and, to see which rules keep texts out, through the candidates'
filters.
"""

import argparse
from collections import Counter
from collections.abc import Callable

import pyarrow.parquet as pq

from pipeline import querylist
from pipeline.captions.language import Identifier
from pipeline.captions.match import Matcher
from pipeline.captions.text import TextRules, check, clean

_SPACED = ",.;:?!`"


class MetaclipRule:
    """MetaCLIP's rule, by a look-up of each run of tokens instead of a search for each query."""

    def __init__(self, queries: list[str]) -> None:
        self._queries = {query: i for i, query in enumerate(queries)}
        self._longest = max(len(query.split(" ")) for query in queries)

    def match(self, text: str) -> set[int]:
        """Return the ids of the queries that the rule finds."""
        for mark in _SPACED:
            text = text.replace(mark, f" {mark} ")
        words = " ".join(text.split()).split(" ")
        runs = (
            " ".join(words[start:end])
            for start in range(len(words))
            for end in range(start + 1, min(start + self._longest, len(words)) + 1)
        )
        return {self._queries[run] for run in runs if run in self._queries}


def captions_of(path: str) -> list[str]:
    """Return the texts of a Parquet file's caption column."""
    schema = pq.read_schema(path)
    column = next(name for name in ("TEXT", "caption", "text") if name in schema.names)
    return [text for text in pq.read_table(path, columns=[column])[column].to_pylist() if text]


def show(name: str, texts: list[str], match: Callable[[str], object]) -> None:
    """Print the share of texts matched, and queries per text."""
    counts = [len(match(text)) for text in texts]  # type: ignore[arg-type]
    matched = sum(count > 0 for count in counts)
    share, queries = 100 * matched / len(texts), sum(counts) / max(matched, 1)
    print(f"{name:<48} {share:6.2f} % matched, {queries:5.2f} queries per matched text")


def main() -> None:
    """Match by both rules, then filter."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--queries", required=True)
    parser.add_argument("--captions", required=True)
    arguments = parser.parse_args()
    queries, texts = querylist.load(arguments.queries), captions_of(arguments.captions)
    matcher, rule, identifier, rules = Matcher(queries), MetaclipRule(queries), Identifier(), TextRules()
    print(f"{len(queries):,} queries, {len(texts):,} texts; MetaCLIP published: about 50 %, 3.5")
    show("MetaCLIP's rule", texts, rule.match)
    show("MetaCLIP's rule, text in lower case", [text.lower() for text in texts], rule.match)
    show("our normaliser", texts, matcher.match)
    reasons: Counter[str] = Counter()
    accepted = []
    for text in texts:
        caption = clean(text)
        reason = check(caption, rules) if caption else "no_caption"
        if not reason and identifier.identify(caption)[0] != "en":
            reason = "language"
        reasons[reason or "accepted"] += 1
        if not reason:
            accepted.append(caption)
    show("our normaliser, of texts that pass the filters", accepted, matcher.match)
    matched = sum(bool(matcher.match(text)) for text in accepted)
    print(f"{'of all texts, filters and matching':<44} {100 * matched / len(texts):6.2f} % kept")
    for reason, count in reasons.most_common():
        print(f"  {reason:<42} {100 * count / len(texts):6.2f} %")
    hits = Counter(query for text in accepted for query in matcher.match(text))
    common = ", ".join(f"{queries[query]} {count}" for query, count in hits.most_common(20))
    print(f"  most frequent queries: {common}")


if __name__ == "__main__":
    main()
