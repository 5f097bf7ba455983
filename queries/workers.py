"""The tasks of the query job: each reads files, calls the plain functions, and writes files.

Encode pieces of the dump, add up words, count bigrams of blocks, rank them; read page views, resolve
redirects, rank titles. Every task can run on another machine, and running it twice writes the same bytes.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.flow.markers import read_vector, write_vector
from pipeline.flow.steps import results_in
from queries import ngrams, pageviews, partitions, titles, wikitext
from queries.parts import (
    RANKED_PAIRS,
    BlockBigrams,
    DumpPiece,
    EncodedPiece,
    FrequentWords,
    RankedBigrams,
    RankedTitles,
    TablePartition,
    TextBlock,
    ViewedArticles,
    ViewedTitles,
    ViewsFile,
)
from queries.token_blocks import TokenBlock, TokenEncoder
from queries.wikipedia import Wiki, read_pages

_PAGES_PER_FILE: Final = 1_000_000


def publish(table: pa.Table, path: str) -> str:
    """Write a Parquet file and return its path."""
    with storage.atomic_output(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    return path


def read_table(path: str) -> pa.Table:
    """Return a whole Parquet file."""
    with storage.open_input(path) as file:
        return pq.read_table(file)


def _octaves(values: npt.NDArray[np.int64]) -> dict[str, int]:
    """Return how many values lie in [2**i, 2**(i+1)), by i."""
    exponents, counts = np.unique(np.frexp(values.astype(np.float64))[1] - 1, return_counts=True)
    return {str(i): int(n) for i, n in zip(exponents, counts, strict=True)}


@dataclass(frozen=True, kw_only=True)
class EncodeWorker:
    """Turn a piece of the dump into blocks of text, and list its pages."""

    folder: str
    site: Wiki
    language: str
    partitions: int

    def open(self) -> titles.Judge:
        """Return the judge of page kinds."""
        return titles.Judge(self.language, self.site.main_page, self.site.namespaces)

    def run(self, judge: titles.Judge, task: DumpPiece) -> EncodedPiece:
        """Write words-*, stream-* and pages-*."""
        files = _PieceFiles(self, task.name)
        encoder = TokenEncoder()
        for page in read_pages(task, files.damage.append):
            if page.redirect is not None:
                files.add_page(page.title, page.redirect, "redirect")
                continue
            files.add_page(page.title, "", judge.of_page(page.title, page.text))
            text = wikitext.strip(
                page.text,
                images=self.site.images,
                categories=self.site.categories,
                language=self.site.domain.partition(".")[0] or self.language,
            )
            files.wikitext_characters += len(page.text)
            files.text_characters += len(text)
            for block in encoder.add(text):
                files.add_block(block)
        for block in encoder.finish():
            files.add_block(block)
        return files.finish()


@dataclass
class _PieceFiles:
    """Collect the results of a piece, and write them before they grow large."""

    worker: EncodeWorker
    name: str
    blocks: list[TextBlock] = field(default_factory=list)
    page_files: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    damage: list[str] = field(default_factory=list)
    wikitext_characters: int = 0
    text_characters: int = 0
    _pages: list[tuple[str, str, str]] = field(default_factory=list)

    def add_page(self, title: str, target: str, kind: str) -> None:
        self.kinds[kind] += 1
        self._pages.append((title, target.partition("#")[0], kind))
        if len(self._pages) >= _PAGES_PER_FILE:
            self._write_pages()

    def _write_pages(self) -> None:
        count, path = self.worker.partitions, self._path("pages", len(self.page_files), "parquet")
        columns = [list(column) for column in zip(*self._pages, strict=True)] or [[], [], []]
        table = pa.table(columns, titles.PAGES)
        cut = partitions.cut(table, partitions.of_strings(columns[0], count), count)
        partitions.write(path, [cut], titles.PAGES)
        self.page_files.append(path)
        self._pages = []

    def add_block(self, block: TokenBlock) -> None:
        count, number = self.worker.partitions, len(self.blocks)
        partition = partitions.of_strings(block.words, count)
        table = pa.table([block.words, block.counts], ngrams.WORD_COUNTS)
        words, stream = self._path("words", number, "parquet"), self._path("stream", number, "zst")
        partitions.write(words, [partitions.cut(table, partition, count)], ngrams.WORD_COUNTS)
        # The file holds the words by partition, so the ids follow.
        ids = np.zeros(len(block.words) + 1, np.uint32)
        ids[1 + np.argsort(partition, kind="stable")] = np.arange(1, len(block.words) + 1)
        write_vector(stream, ids[block.stream])
        self.blocks.append(
            TextBlock(
                name=f"{self.name}-{number:03d}", words=words, stream=stream,
                occurrences=int(block.counts.sum()),
            )
        )  # fmt: skip

    def _path(self, kind: str, number: int, suffix: str) -> str:
        return storage.join(self.worker.folder, f"{kind}-{self.name}-{number:03d}.{suffix}")

    def finish(self) -> EncodedPiece:
        self._write_pages()
        return EncodedPiece(
            name=self.name,
            blocks=tuple(self.blocks),
            pages=tuple(self.page_files),
            kinds=dict(sorted(self.kinds.items())),
            damage=tuple(self.damage),
            wikitext_characters=self.wikitext_characters,
            text_characters=self.text_characters,
        )


def blocks_of(encoded: str) -> list[TextBlock]:
    """Return the blocks of all encoded pieces in a folder, in order."""
    return [block for piece in results_in(encoded, EncodedPiece) for block in piece.blocks]


def pages_of(encoded: str) -> tuple[str, ...]:
    """Return the lists of pages of all encoded pieces in a folder, none where no dump is read."""
    pieces = results_in(encoded, EncodedPiece) if encoded else []
    return tuple(path for piece in pieces for path in piece.pages)


@dataclass(frozen=True, kw_only=True)
class WordsWorker:
    """Add up the counts of one partition of words."""

    folder: str
    encoded: str
    """Folder of the encoded pieces."""
    partitions: int
    min_count: int

    def open(self) -> tuple[str, ...]:
        """Return the files of words."""
        return tuple(block.words for block in blocks_of(self.encoded))

    def run(self, files: tuple[str, ...], task: TablePartition) -> FrequentWords:
        """Write NAME.parquet."""
        tables = (t for path in files for t in partitions.read_one(path, task.partition, self.partitions))
        words = ngrams.add_words(tables)
        kept = ngrams.frequent(words, self.min_count)
        return FrequentWords(
            name=task.name,
            path=publish(kept, storage.join(self.folder, f"{task.name}.parquet")),
            distinct=words.num_rows,
            kept=kept.num_rows,
            octaves=_octaves(words["count"].to_numpy()),
        )


class Vocabulary(dict[str, int]):
    """Map frequent words to ids."""

    bounds: npt.NDArray[np.int64]
    """Of the partitions of bigrams."""


def pair_bounds(vocabulary: pa.Table) -> npt.NDArray[np.int64]:
    """Return the bounds of the partitions of bigrams."""
    return ngrams.partition_bounds(vocabulary["count"].to_numpy())


@dataclass(frozen=True, kw_only=True)
class PairsWorker:
    """Count the bigrams of one block whose words are frequent."""

    folder: str
    vocabulary: str

    def open(self) -> Vocabulary:
        """Return the id of each frequent word."""
        table = read_table(self.vocabulary)
        words = table["word"].to_pylist()
        vocabulary = Vocabulary(zip(words, range(1, len(words) + 1), strict=True))
        vocabulary.bounds = pair_bounds(table)
        return vocabulary

    def run(self, vocabulary: Vocabulary, task: TextBlock) -> BlockBigrams:
        """Write NAME.parquet."""
        ids = ngrams.frequent_ids(read_table(task.words)["word"].to_pylist(), vocabulary)
        counted = ngrams.count_pairs(read_vector(task.stream), ids)
        path = storage.join(self.folder, f"{task.name}.parquet")
        cut = ngrams.cut_pairs(counted, vocabulary.bounds)
        # Ascending numbers: their differences are small.
        encoding = {"use_dictionary": False, "column_encoding": {"pair": "DELTA_BINARY_PACKED"}}
        partitions.write(path, [cut], ngrams.PAIR_COUNTS, **encoding)
        return BlockBigrams(name=task.name, path=path, rows=counted.pairs.size)


class _Counted:
    """The figures of all words and bigrams that ranking needs."""

    def __init__(self, vocabulary: pa.Table, words: int, files: tuple[str, ...]) -> None:
        self.word_counts: npt.NDArray[np.int64] = vocabulary["count"].to_numpy()
        self.partitions = len(pair_bounds(vocabulary)) - 1
        self.words = words
        """Occurrences of all words."""
        self.files = files

    def pairs(self, partition: int) -> Iterator[ngrams.Bigrams]:
        """Yield the counted bigrams of one partition."""
        for path in self.files:
            for table in partitions.read_one(path, partition, self.partitions):
                yield ngrams.Bigrams(table["pair"].to_numpy(), table["count"].to_numpy())


@dataclass(frozen=True, kw_only=True)
class RankPairsWorker:
    """Add up one partition of bigrams and keep the best."""

    folder: str
    encoded: str
    counted: str
    """Folder of the counted bigrams."""
    vocabulary: str
    min_count: int
    limit: int

    def open(self) -> _Counted:
        """Load the counts of words."""
        words = sum(block.occurrences for block in blocks_of(self.encoded))
        files = tuple(bigrams.path for bigrams in results_in(self.counted, BlockBigrams))
        return _Counted(read_table(self.vocabulary), words, files)

    def run(self, state: _Counted, task: TablePartition) -> RankedBigrams:
        """Write NAME.parquet."""
        counted = ngrams.merge_pairs(state.pairs(task.partition))
        best, scores, associated = ngrams.best_pairs(
            counted, state.word_counts, state.words, self.min_count, self.limit
        )
        bits, sizes = np.unique(np.floor(scores).astype(np.int64), return_counts=True)
        table = pa.table([best.pairs, best.counts, scores], RANKED_PAIRS)
        return RankedBigrams(
            name=task.name,
            path=publish(table, storage.join(self.folder, f"{task.name}.parquet")),
            distinct=counted.pairs.size,
            enough=int(np.count_nonzero(counted.counts >= self.min_count)),
            associated=associated,
            bits={str(bit): int(size) for bit, size in zip(bits, sizes, strict=True)},
        )


@dataclass(frozen=True, kw_only=True)
class ViewsWorker:
    """Read one file of page views."""

    folder: str
    language: str
    partitions: int

    def open(self) -> None:
        """Load nothing."""

    def run(self, state: None, task: ViewsFile) -> ViewedTitles:
        """Write NAME.parquet."""
        reader = pageviews.LineReader(self.language)
        totals: Counter[str] = Counter()
        path = storage.join(self.folder, f"{task.name}.parquet")
        partitions.write(path, self._batches(reader, task.path, totals), titles.VIEWS)
        return ViewedTitles(
            name=task.name, path=path, views=totals["views"], malformed=reader.malformed,
            damage=tuple(reader.damage),
        )  # fmt: skip

    def _batches(
        self, reader: pageviews.LineReader, path: str, totals: Counter[str]
    ) -> Iterator[list[pa.Table]]:
        for batch in reader.read(path):
            views: Counter[str] = Counter()
            for written, count in batch.items():
                title = pageviews.canonical_title(written, self.language)
                if title:
                    views[title] += count
            totals["views"] += views.total()
            table = pa.table([list(views), list(views.values())], titles.VIEWS)
            yield partitions.cut(table, partitions.of_strings(list(views), self.partitions), self.partitions)


@dataclass
class _Viewed:
    """The files of views and pages, and the judge of titles where needed."""

    files: tuple[str, ...]
    pages: tuple[str, ...]
    judge: titles.Judge


@dataclass(frozen=True, kw_only=True)
class ResolveWorker:
    """Resolve the redirects among one partition of viewed titles; without a dump, only judge the titles."""

    folder: str
    views: str
    """Folder of the page views that were read."""
    encoded: str
    """Folder of the encoded pieces; "" without a dump."""
    partitions: int
    site: Wiki
    language: str

    def open(self) -> _Viewed:
        """Return the judge of page kinds, and the files."""
        judge = titles.Judge(self.language, self.site.main_page, self.site.namespaces)
        files = tuple(viewed.path for viewed in results_in(self.views, ViewedTitles))
        return _Viewed(files, pages_of(self.encoded), judge)

    def run(self, state: _Viewed, task: TablePartition) -> ViewedArticles:
        """Write NAME.parquet, views by the article's title."""
        partition, count = task.partition, self.partitions
        views = titles.add_views([partitions.read(state.files, partition, count, titles.VIEWS)])
        if self.encoded:
            pages = partitions.read(state.pages, partition, count, titles.PAGES)
            resolved, dropped = titles.resolve(views, pages, state.judge)
        else:
            resolved, dropped = titles.judge_titles(views, state.judge)
        names = resolved["title"].to_pylist()
        path = storage.join(self.folder, f"{task.name}.parquet")
        cut = partitions.cut(resolved, partitions.of_strings(names, count), count)
        partitions.write(path, [cut], titles.VIEWS)
        return ViewedArticles(name=task.name, path=path, titles=views.num_rows, dropped=dropped)


@dataclass(frozen=True, kw_only=True)
class RankTitlesWorker:
    """Add up the views of one partition of articles and keep the most viewed."""

    folder: str
    resolved: str
    """Folder of the views by article."""
    encoded: str
    partitions: int
    min_views: int
    limit: int

    def open(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the files of views and of pages."""
        files = tuple(viewed.path for viewed in results_in(self.resolved, ViewedArticles))
        return files, pages_of(self.encoded)

    def run(self, state: tuple[tuple[str, ...], tuple[str, ...]], task: TablePartition) -> RankedTitles:
        """Write NAME.parquet."""
        partition, count = task.partition, self.partitions
        views = titles.add_views([partitions.read(state[0], partition, count, titles.VIEWS)])
        dropped: dict[str, int] = {}
        if self.encoded:
            pages = partitions.read(state[1], partition, count, titles.PAGES)
            views, dropped = titles.judge_articles(views, pages)
        ranked, few = titles.most_viewed(views, self.min_views, self.limit)
        return RankedTitles(
            name=task.name,
            path=publish(ranked, storage.join(self.folder, f"{task.name}.parquet")),
            enough=views.num_rows - few.get("too_few_views", 0),
            octaves=_octaves(ranked["views"].to_numpy()),
            dropped={**dropped, **few},
        )
