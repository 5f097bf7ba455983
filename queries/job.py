"""The query job: steps of independent tasks over durable files, run by Beam, continued where they stopped.

Each step lies in a folder named after the fingerprint of its options, its inputs and the steps before it. So
a changed option reruns from the first step that it touches, and the same command continues an interrupted
job.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa

from pipeline import querylist, storage
from pipeline.captions.match import Matcher
from pipeline.flow.markers import write_json
from pipeline.flow.runner import Runner
from pipeline.flow.steps import Tasks, Work, results_in
from pipeline.flow.worker import partition_name
from queries import inputs, merge, report, titles, wikipedia, wordnet, workers
from queries.inputs import SCHEMA_VERSION, Inputs, digest
from queries.merge import RankedEntry
from queries.options import QueriesConfig
from queries.parts import (
    DumpPiece,
    EncodedPiece,
    FrequentWords,
    RankedBigrams,
    RankedTitles,
    TablePartition,
    ViewedArticles,
    ViewedTitles,
    ViewsFile,
)
from queries.wikipedia import Wiki


@dataclass
class QueryJob:
    """Run the steps of one configuration."""

    config: QueriesConfig
    inputs: Inputs
    runner: Runner
    statistics: dict[str, Any] = field(default_factory=dict)
    """The pages each source read and the queries it offered, for the report."""

    def run(self) -> dict[str, Any]:
        """Write the list, the report and the summary; return the summary."""
        config = self.config
        sources = self._given()
        excluded = [query for path in config.exclude for query in querylist.load(path)]
        merge.merge(sources, config.size, excluded)  # a contradiction is reported now, not after hours
        # Bigrams and titles beyond their places that may be needed, because these take none or are left out.
        spare = sum(map(len, sources.values())) + len(excluded)
        pieces = wikipedia.plan(self.inputs.wikipedia)
        site = wikipedia.read_site(pieces[0].path) if pieces else Wiki()
        made = _Steps(config, self.inputs, spare, site, pieces)
        views = made.of_views if self.inputs.pageviews else []
        self.runner.run([*(made.of_dump if pieces else []), *views])
        encoded = made.encode.results(EncodedPiece) if pieces else []
        self.statistics["wikipedia"] = {
            "kinds": sum_counts(piece.kinds for piece in encoded),
            "damage": [line for piece in encoded for line in piece.damage],
            "wikitext_characters": sum(piece.wikitext_characters for piece in encoded),
            "text_characters": sum(piece.text_characters for piece in encoded),
        }
        if pieces:
            self._count_words(made)
            vocabulary = workers.read_table(made.vocabulary)
            sources["unigram"] = list(word_candidates(vocabulary))
            sources["bigram"] = self._bigrams(made, vocabulary)
        if self.inputs.pageviews:
            sources["title"] = self._titles(made)
        return self._publish(merge.merge(sources, config.size, excluded))

    def _given(self) -> dict[str, list[RankedEntry]]:
        """Return the sources that are complete whatever their number: WordNet and the user's own queries."""
        config = self.config
        names: dict[str, int] = {}
        if config.wordnet:
            names = wordnet.names(wordnet.read_lemmas(config.wordnet), config.wordnet_lemmas)
        extra = [query for path in config.extra for query in querylist.load(path)]
        self.statistics |= {"wordnet": {"offered": len(names)}, "extra": {"offered": len(extra)}}
        return {
            "wordnet": [RankedEntry(name, count, float(count)) for name, count in names.items()],
            "extra": [RankedEntry(query, 0, 0.0) for query in extra],
        }

    def _count_words(self, made: "_Steps") -> None:
        words = made.words.results(FrequentWords)
        distinct, kept = sum(one.distinct for one in words), sum(one.kept for one in words)
        self.statistics["unigram"] = {
            "occurrences": sum(block.occurrences for block in workers.blocks_of(made.encode.folder)),
            "distinct": distinct,
            "offered": kept,
            "distribution": sum_counts(one.octaves for one in words),
            "dropped": {"too_rare": distinct - kept},
        }

    def _bigrams(self, made: "_Steps", vocabulary: pa.Table) -> list[RankedEntry]:
        ranked = made.ranks.results(RankedBigrams)
        limit = made.most_bigrams
        distinct, enough = sum(one.distinct for one in ranked), sum(one.enough for one in ranked)
        associated = sum(one.associated for one in ranked)
        self.statistics["bigram"] = {
            "distinct": distinct,
            "offered": associated,
            "distribution": sum_counts(one.bits for one in ranked),
            "dropped": {
                "too_rare": distinct - enough,
                "by_chance": enough - associated,
                "over_budget": max(associated - limit, 0),
            },
        }
        paths = [one.path for one in ranked]
        best = best_rows(paths, [("score", "descending"), ("pair", "ascending")], limit)
        return list(pair_candidates(best, vocabulary["word"].to_pylist()))

    def _titles(self, made: "_Steps") -> list[RankedEntry]:
        read = made.views.results(ViewedTitles)
        resolved = made.redirects.results(ViewedArticles)
        ranked = made.titles.results(RankedTitles)
        limit = made.most_titles
        offered = sum(one.enough for one in ranked)
        dropped = sum_counts([*(one.dropped for one in resolved), *(one.dropped for one in ranked)])
        self.statistics["title"] = {
            "views": sum(one.views for one in read),
            "malformed": sum(one.malformed for one in read),
            "damage": [line for one in read for line in one.damage],
            "distinct": sum(one.titles for one in resolved),
            "offered": offered,
            "distribution": sum_counts(one.octaves for one in ranked),
            "dropped": {**dropped, "over_budget": max(offered - limit, 0)},
        }
        paths = [one.path for one in ranked]
        best = best_rows(paths, [("views", "descending"), ("title", "ascending")], limit)
        rows = zip(best["title"].to_pylist(), best["views"].to_pylist(), strict=True)
        return [RankedEntry(titles.without_qualifier(title), count, float(count)) for title, count in rows]

    def _publish(self, merged: merge.MergedList) -> dict[str, Any]:
        listed = [query.query for query in merged.queries]
        dead = Matcher(listed).dead
        assert not dead, [listed[i] for i in dead]  # `merge` leaves out queries without a word
        workers.publish(merged.table(), self.config.out)
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


class _Steps:
    """The steps of one configuration, as the dump and the page views have them.

    Each lies in a folder named after the fingerprint of its options, its inputs and the steps before it.
    """

    def __init__(
        self, config: QueriesConfig, found: Inputs, spare: int, site: Wiki, pieces: list[DumpPiece]
    ) -> None:
        self._work, count = config.work, found.partitions
        files = found.infos(found.wikipedia)
        encode = digest(SCHEMA_VERSION, files, wikipedia.PIECE_BYTES, config.lang, count)
        words = digest(encode, config.min_count)
        self.most_bigrams = config.size + spare
        ranks = digest(words, config.min_bigram_count, self.most_bigrams)
        views = digest(SCHEMA_VERSION, found.infos(found.pageviews), config.lang, count)
        redirects = digest(views, encode)
        # A title may be a word or a bigram already, or share its name with another article.
        self.most_titles = 2 * config.size + spare
        ranked = digest(redirects, config.min_views, self.most_titles)

        folder = self._folder("encode", encode)
        self.encode = Tasks(
            label="encode", folder=folder, plan=partial(_plan_pieces, pieces),
            worker=workers.EncodeWorker(folder=folder, site=site, language=config.lang, partitions=count),
        )  # fmt: skip
        encoded, folder = folder, self._folder("words", words)
        self.words = Tasks(
            label="words", folder=folder, plan=partial(_plan_partitions, count),
            worker=workers.WordsWorker(
                folder=folder, encoded=encoded, partitions=count, min_count=config.min_count
            ),
        )  # fmt: skip
        self.vocabulary = storage.join(folder, "vocabulary.parquet")
        counted = self._folder("bigrams", words)
        self.bigrams = Tasks(
            label="bigrams", folder=counted, plan=partial(_plan_bigrams, encoded, folder, self.vocabulary),
            worker=workers.PairsWorker(folder=counted, vocabulary=self.vocabulary),
        )  # fmt: skip
        folder = self._folder("ranks", ranks)
        self.ranks = Tasks(
            label="rank bigrams", folder=folder, plan=partial(_plan_ranks, self.vocabulary),
            worker=workers.RankPairsWorker(
                folder=folder, encoded=encoded, counted=counted, vocabulary=self.vocabulary,
                min_count=config.min_bigram_count, limit=self.most_bigrams,
            ),
        )  # fmt: skip
        folder = self._folder("views", views)
        self.views = Tasks(
            label="page views", folder=folder, plan=partial(_plan_views, found.pageviews), is_known=True,
            worker=workers.ViewsWorker(folder=folder, language=config.lang, partitions=count),
        )  # fmt: skip
        encoded = encoded if pieces else ""
        viewed, folder = folder, self._folder("redirects", redirects)
        self.redirects = Tasks(
            label="redirects", folder=folder, plan=partial(_plan_partitions, count),
            worker=workers.ResolveWorker(
                folder=folder, views=viewed, encoded=encoded, partitions=count, site=site,
                language=config.lang,
            ),
        )  # fmt: skip
        resolved, folder = folder, self._folder("titles", ranked)
        self.titles = Tasks(
            label="titles", folder=folder, plan=partial(_plan_partitions, count),
            worker=workers.RankTitlesWorker(
                folder=folder, resolved=resolved, encoded=encoded, partitions=count,
                min_views=config.min_views, limit=self.most_titles,
            ),
        )  # fmt: skip

    @property
    def of_dump(self) -> list[Tasks]:
        """Return the steps from the dump to words and bigrams, in order."""
        return [self.encode, self.words, self.bigrams, self.ranks]

    @property
    def of_views(self) -> list[Tasks]:
        """Return the steps from page views to titles, in order; they follow those of the dump."""
        return [self.views, self.redirects, self.titles]

    def _folder(self, step: str, fingerprint: str) -> str:
        return storage.join(self._work, f"{step}-{fingerprint[:16]}")


def _plan_pieces(pieces: list[DumpPiece]) -> Work:
    return Work(tasks=pieces)


def _plan_partitions(count: int) -> Work:
    return Work(tasks=[TablePartition(name=partition_name(p), partition=p) for p in range(count)])


def _plan_bigrams(encoded: str, words: str, vocabulary: str) -> Work:
    """Join the frequent words and their counts, in alphabetical order: the vocabulary."""
    if not storage.exists(vocabulary):
        table = pa.concat_tables([workers.read_table(one.path) for one in results_in(words, FrequentWords)])
        workers.publish(table.sort_by("word"), vocabulary)
    return Work(tasks=workers.blocks_of(encoded))


def _plan_ranks(vocabulary: str) -> Work:
    return _plan_partitions(len(workers.pair_bounds(workers.read_table(vocabulary))) - 1)


def _plan_views(paths: list[str]) -> Work:
    return Work(tasks=[ViewsFile(name=f"{i:05d}", path=path) for i, path in enumerate(paths)])


def finished_summary(config: QueriesConfig, found: Inputs) -> dict[str, Any] | None:
    """Return the summary of the list that these options and inputs have given before, or None."""
    if not (storage.exists(config.summary) and storage.exists(config.out)):
        return None
    summary: dict[str, Any] = json.loads(storage.read_bytes(config.summary))
    same = summary["fingerprint"] == inputs.of_list(config, found)
    return summary if same and summary["sha256"] == storage.sha256_file(config.out) else None


def best_rows(paths: list[str], order: list[tuple[str, str]], limit: int) -> pa.Table:
    """Return the first `limit` rows of several files by an order, holding twice as many and one file."""
    tables: list[pa.Table] = []
    for path in paths:
        tables.append(workers.read_table(path))
        if sum(table.num_rows for table in tables) > 2 * limit:
            tables = [pa.concat_tables(tables).sort_by(order)[:limit]]
    return pa.concat_tables(tables).sort_by(order)[:limit]


def word_candidates(vocabulary: pa.Table) -> Iterator[RankedEntry]:
    """Yield the words of WORD_COUNTS, the most frequent first, then alphabetically."""
    ranked = vocabulary.sort_by([("count", "descending"), ("word", "ascending")])
    for word, count in zip(ranked["word"].to_pylist(), ranked["count"].to_pylist(), strict=True):
        yield RankedEntry(word, count, float(count))


def pair_candidates(ranked: pa.Table, words: list[str]) -> Iterator[RankedEntry]:
    """Yield bigrams of RANKED_PAIRS in their order; words[i] is that of id i+1."""
    columns = (ranked[name].to_pylist() for name in ("pair", "count", "score"))
    for pair, count, score in zip(*columns, strict=True):
        yield RankedEntry(f"{words[(pair >> 32) - 1]} {words[(pair & 0xFFFFFFFF) - 1]}", count, score)


def sum_counts(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """Return the sum of dictionaries of counts."""
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items()))
