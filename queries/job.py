"""The query job: steps of independent tasks over durable files, run by Beam, continued where they stopped.

Each step lies in a folder named after the fingerprint of its options, its inputs and the steps before it. So
a changed option reruns from the first step that it touches, and the same command continues what was
interrupted.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline import querylist, storage
from pipeline.captions.match import Matcher
from pipeline.flow.markers import Result, Task, write_json
from pipeline.flow.runner import Runner
from queries import inputs, merge, ngrams, report, steps, titles, wikipedia, wordnet
from queries.inputs import SCHEMA_VERSION, Inputs, digest
from queries.merge import Candidate
from queries.options import QueriesConfig
from queries.wikipedia import Piece, Site


@dataclass
class Job:
    """Run the steps of one configuration."""

    config: QueriesConfig
    inputs: Inputs
    runner: Runner
    statistics: dict[str, Any] = field(default_factory=dict)
    """What each source read and offered, for the report."""
    spare: int = 0

    def run(self) -> Result:
        """Write the list, the report and the summary; return the summary."""
        config = self.config
        sources = self._given()
        excluded = [query for path in config.exclude for query in querylist.load(path)]
        merge.merge(sources, config.size, excluded)  # what does not fit is told now, not after hours
        # Bigrams and titles beyond their places that may be needed, because these take none or are left out.
        self.spare = sum(map(len, sources.values())) + len(excluded)
        pieces = wikipedia.plan(self.inputs.wikipedia)
        site = wikipedia.read_site(pieces[0].path) if pieces else Site()
        encoded, encode_print = self._encode(pieces, site)
        if pieces:
            vocabulary, words_print = self._words(encoded, encode_print)
            sources["unigram"] = list(word_candidates(steps.read_table(vocabulary)))
            sources["bigram"] = self._bigrams(encoded, vocabulary, words_print)
        if self.inputs.pageviews:
            sources["title"] = self._titles(encoded, encode_print, site)
        return self._publish(merge.merge(sources, config.size, excluded))

    def _given(self) -> dict[str, list[Candidate]]:
        """Return the sources that are complete whatever their number: WordNet and the user's own queries."""
        config = self.config
        names: dict[str, int] = {}
        if config.wordnet:
            names = wordnet.names(wordnet.read_lemmas(config.wordnet), config.wordnet_lemmas)
        extra = [query for path in config.extra for query in querylist.load(path)]
        self.statistics |= {"wordnet": {"offered": len(names)}, "extra": {"offered": len(extra)}}
        return {
            "wordnet": [Candidate(name, count, float(count)) for name, count in names.items()],
            "extra": [Candidate(query, 0, 0.0) for query in extra],
        }

    def _encode(self, pieces: list[Piece], site: Site) -> tuple[list[Result], str]:
        partitions = self.inputs.partitions
        files = self.inputs.infos(self.inputs.wikipedia)
        fingerprint = digest(SCHEMA_VERSION, files, wikipedia.PIECE_BYTES, self.config.lang, partitions)
        folder = self._folder("encode", fingerprint)
        worker = steps.EncodeWorker(
            folder=folder, site=site, language=self.config.lang, partitions=partitions
        )
        tasks: list[Task] = [{"name": f"{i:05d}", "piece": list(piece)} for i, piece in enumerate(pieces)]
        results = self.runner.tasks("encode", folder, tasks, worker)
        self.statistics["wikipedia"] = {
            "kinds": sum_counts(result["kinds"] for result in results),
            "damage": [line for result in results for line in result["damage"]],
            **{
                name: sum(result[name] for result in results)
                for name in ("wikitext_characters", "text_characters")
            },
        }
        return results, fingerprint

    def _words(self, encoded: list[Result], upstream: str) -> tuple[str, str]:
        """Return the path of the vocabulary: the frequent words and their counts, in alphabetical order."""
        fingerprint = digest(upstream, self.config.min_count)
        folder = self._folder("words", fingerprint)
        worker = steps.WordsWorker(
            folder=folder,
            files=tuple(part["words"] for part in _parts(encoded)),
            partitions=self.inputs.partitions,
            min_count=self.config.min_count,
        )
        results = self.runner.tasks("words", folder, _partition_tasks(self.inputs.partitions), worker)
        path = storage.join(folder, "vocabulary.parquet")
        if not storage.exists(path):
            words = pa.concat_tables([steps.read_table(result["path"]) for result in results])
            steps.publish(words.sort_by("word"), path)
        distinct, kept = (sum(result[name] for result in results) for name in ("distinct", "kept"))
        self.statistics["unigram"] = {
            "occurrences": sum(part["occurrences"] for part in _parts(encoded)),
            "distinct": distinct,
            "offered": kept,
            "distribution": sum_counts(result["octaves"] for result in results),
            "dropped": {"too_rare": distinct - kept},
        }
        return path, fingerprint

    def _bigrams(self, encoded: list[Result], vocabulary: str, upstream: str) -> list[Candidate]:
        table = steps.read_table(vocabulary)
        bounds = ngrams.partition_bounds(table["count"].to_numpy())
        folder = self._folder("bigrams", upstream)
        pairs = steps.PairsWorker(folder=folder, vocabulary=vocabulary, bounds=tuple(bounds.tolist()))
        tasks: list[Task] = [{"name": f"{i:05d}", **part} for i, part in enumerate(_parts(encoded))]
        counted = self.runner.tasks("bigrams", folder, tasks, pairs)
        limit = self.config.size + self.spare
        folder = self._folder("ranks", digest(upstream, self.config.min_bigram_count, limit))
        ranks = steps.RankPairsWorker(
            folder=folder,
            files=tuple(result["path"] for result in counted),
            partitions=len(bounds) - 1,
            vocabulary=vocabulary,
            words=self.statistics["unigram"]["occurrences"],
            min_count=self.config.min_bigram_count,
            limit=limit,
        )
        results = self.runner.tasks("rank bigrams", folder, _partition_tasks(len(bounds) - 1), ranks)
        distinct, enough, associated = (
            sum(result[name] for result in results) for name in ("distinct", "enough", "associated")
        )
        self.statistics["bigram"] = {
            "distinct": distinct,
            "offered": associated,
            "distribution": sum_counts(result["bits"] for result in results),
            "dropped": {
                "too_rare": distinct - enough,
                "by_chance": enough - associated,
                "over_budget": max(associated - limit, 0),
            },
        }
        paths = [result["path"] for result in results]
        best = best_rows(paths, [("score", "descending"), ("pair", "ascending")], limit)
        return list(pair_candidates(best, table["word"].to_pylist()))

    def _titles(self, encoded: list[Result], encode_print: str, site: Site) -> list[Candidate]:
        partitions = self.inputs.partitions
        files = self.inputs.infos(self.inputs.pageviews)
        views_print = digest(SCHEMA_VERSION, files, self.config.lang, partitions)
        folder = self._folder("views", views_print)
        views = steps.ViewsWorker(folder=folder, language=self.config.lang, partitions=partitions)
        tasks: list[Task] = [
            {"name": f"{i:05d}", "path": path} for i, path in enumerate(self.inputs.pageviews)
        ]
        read = self.runner.tasks("page views", folder, tasks, views)
        pages = tuple(path for result in encoded for path in result["pages"])
        resolve_print = digest(views_print, encode_print)
        folder = self._folder("redirects", resolve_print)
        resolve = steps.ResolveWorker(
            folder=folder,
            files=tuple(result["path"] for result in read),
            pages=pages,
            partitions=partitions,
            site=site,
            language=self.config.lang,
        )
        resolved = self.runner.tasks("redirects", folder, _partition_tasks(partitions), resolve)
        # A title may be a word or a bigram already, or share its name with another article.
        limit = 2 * self.config.size + self.spare
        folder = self._folder("titles", digest(resolve_print, self.config.min_views, limit))
        rank = steps.RankTitlesWorker(
            folder=folder,
            files=tuple(result["path"] for result in resolved),
            pages=pages,
            partitions=partitions,
            min_views=self.config.min_views,
            limit=limit,
        )
        results = self.runner.tasks("titles", folder, _partition_tasks(partitions), rank)
        offered = sum(result["enough"] for result in results)
        dropped = sum_counts(result["dropped"] for result in [*resolved, *results])
        self.statistics["title"] = {
            "views": sum(result["views"] for result in read),
            "malformed": sum(result["malformed"] for result in read),
            "damage": [line for result in read for line in result["damage"]],
            "distinct": sum(result["titles"] for result in resolved),
            "offered": offered,
            "distribution": sum_counts(result["octaves"] for result in results),
            "dropped": {**dropped, "over_budget": max(offered - limit, 0)},
        }
        paths = [result["path"] for result in results]
        best = best_rows(paths, [("views", "descending"), ("title", "ascending")], limit)
        rows = zip(best["title"].to_pylist(), best["views"].to_pylist(), strict=True)
        return [Candidate(titles.without_qualifier(title), count, float(count)) for title, count in rows]

    def _publish(self, merged: merge.Merged) -> Result:
        listed = [query.query for query in merged.queries]
        dead = Matcher(listed).dead
        assert not dead, [listed[i] for i in dead]  # `merge` leaves out what has no word
        steps.publish(merged.table(), self.config.out)
        summary = {
            "fingerprint": inputs.of_list(self.config, self.inputs),
            "queries": len(listed),
            "dead": len(dead),
            "composition": {name: sum(q.source == name for q in merged.queries) for name in merge.SOURCES},
            "dropped": {name: dict(sorted(reasons.items())) for name, reasons in merged.dropped.items()},
            "statistics": self.statistics,
            "inputs": [list(info) for info in self.inputs.files],
            "sha256": storage.sha256_file(self.config.out),
        }
        storage.write_bytes(self.config.report, report.render(self.config, merged, summary).encode())
        write_json(self.config.summary, summary)
        if not self.config.keep_work:
            storage.remove_tree(self.config.work)
        return summary

    def _folder(self, step: str, fingerprint: str) -> str:
        return storage.join(self.config.work, f"{step}-{fingerprint[:16]}")


def finished_summary(config: QueriesConfig, found: Inputs) -> Result | None:
    """Return the summary of the list that these options and inputs have given before, or None."""
    if not (storage.exists(config.summary) and storage.exists(config.out)):
        return None
    summary: Result = json.loads(storage.read_bytes(config.summary))
    same = summary["fingerprint"] == inputs.of_list(config, found)
    return summary if same and summary["sha256"] == storage.sha256_file(config.out) else None


def best_rows(paths: list[str], order: list[tuple[str, str]], limit: int) -> pa.Table:
    """Return the first `limit` rows of several files by an order, holding twice as many and one file."""
    tables: list[pa.Table] = []
    for path in paths:
        tables.append(steps.read_table(path))
        if sum(table.num_rows for table in tables) > 2 * limit:
            tables = [pa.concat_tables(tables).sort_by(order)[:limit]]
    return pa.concat_tables(tables).sort_by(order)[:limit]


def word_candidates(vocabulary: pa.Table) -> Iterator[Candidate]:
    """Yield the words of WORD_COUNTS, the most frequent first, then alphabetically."""
    ranked = vocabulary.sort_by([("count", "descending"), ("word", "ascending")])
    for word, count in zip(ranked["word"].to_pylist(), ranked["count"].to_pylist(), strict=True):
        yield Candidate(word, count, float(count))


def pair_candidates(ranked: pa.Table, words: list[str]) -> Iterator[Candidate]:
    """Yield bigrams of RANKED_PAIRS in their order; words[i] is that of id i+1."""
    columns = (ranked[name].to_pylist() for name in ("pair", "count", "score"))
    for pair, count, score in zip(*columns, strict=True):
        yield Candidate(f"{words[(pair >> 32) - 1]} {words[(pair & 0xFFFFFFFF) - 1]}", count, score)


def _parts(encoded: list[Result]) -> list[dict[str, Any]]:
    return [part for result in encoded for part in result["parts"]]


def _partition_tasks(partitions: int) -> list[Task]:
    return [{"name": f"{p:05d}", "partition": p} for p in range(partitions)]


def sum_counts(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """Return the sum of dictionaries of counts."""
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items()))
