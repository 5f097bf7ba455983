"""The contents of the shards: exact counts over all rows, and the few rows worth looking at.

One pass over the Parquet files, a shard at a time.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import schemas, storage, urls
from pipeline.captions import contacts
from pipeline.finished_set import FinishedSet
from pipeline.report.totals import Totals, counts_by, value_counts

MOST_WORDS: Final = 60
"""Captions of more words are counted with this length."""
MOST_COUNTED: Final = 16
"""Samples with more captions or queries are counted with this number."""
LONGEST_SIDE: Final = 8_192
"""Images whose shorter side is longer, in pixels, are counted with this size."""
ASPECTS_PER_OCTAVE: Final = 8
ASPECT_OCTAVES: Final = 4
"""Width over height is counted from 1:16 to 16:1."""
_ROWS: Final = 6  # to look at by each measure
_TEXTS: Final = 1 << 16  # different captions whose repetitions are counted

_COLUMNS: Final = (
    "key", "uid", "url", "caption", "captions", "query_ids", "matched_query_ids", "source", "lang",
    "lang_score", "format", "bytes", "original_width", "original_height", "fetched_at", "licence",
    "synthetic",
)  # fmt: skip

_Values = Callable[[pa.Table], np.ndarray]


class Measure(NamedTuple):
    """A measure that makes rows worth looking at; its extreme rows are shown. Fields only."""

    name: str
    title: str
    unit: str
    values: _Values
    smallest: bool = False


class Extreme(NamedTuple):
    """A row at the end of a measure; the order of the tuple is the order on the page."""

    rank: float
    key: str
    shard: str
    value: float


def _lengths(table: pa.Table, column: str) -> np.ndarray:
    return np.asarray(pc.list_value_length(table[column]).to_numpy(), np.int64)


def _longest(table: pa.Table) -> np.ndarray:
    return np.asarray(pc.utf8_length(table["caption"]).to_numpy(), np.int64)


def _sides(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Return width and height as served, at least 1: int64."""
    width, height = (np.asarray(table[f"original_{n}"].to_numpy(), np.int64) for n in ("width", "height"))
    return np.maximum(width, 1), np.maximum(height, 1)


def _shorter_side(table: pa.Table) -> np.ndarray:
    shorter: np.ndarray = np.minimum(*_sides(table))
    return shorter


def _pixels(table: pa.Table) -> np.ndarray:
    width, height = _sides(table)
    pixels: np.ndarray = width * height
    return pixels


def _aspect(table: pa.Table) -> np.ndarray:
    width, height = _sides(table)
    aspect: np.ndarray = width / height
    return aspect


def _bits_a_pixel(table: pa.Table) -> np.ndarray:
    bits: np.ndarray = 8 * np.asarray(table["bytes"].to_numpy(), np.int64) / _pixels(table)
    return bits


MEASURES: Final = (
    Measure("longest_caption", "Longest captions", "characters", _longest),
    Measure("shortest_caption", "Shortest captions", "characters", _longest, smallest=True),
    Measure("most_captions", "Most captions", "captions", lambda t: _lengths(t, "captions")),
    Measure("most_queries", "Most queries in the text", "queries",
            lambda t: _lengths(t, "matched_query_ids")),
    Measure("least_certain_language", "Least certain language", "certainty",
            lambda t: t["lang_score"].to_numpy(), smallest=True),
    Measure("smallest", "Smallest images", "pixels on the shorter side", _shorter_side, smallest=True),
    Measure("largest", "Largest images", "pixels", _pixels),
    Measure("widest", "Widest images", "width over height", _aspect),
    Measure("tallest", "Tallest images", "width over height", _aspect, smallest=True),
    Measure("emptiest", "Emptiest images", "bits a pixel as served", _bits_a_pixel, smallest=True),
)  # fmt: skip


def _scores(names: Iterable[str]) -> tuple[Measure, ...]:
    def values(name: str) -> _Values:
        return lambda table: table[name].to_numpy()

    return tuple(
        Measure(name, f"Lowest {name.removeprefix('score_')}", name, values(name), smallest=True)
        for name in sorted(names)
        if name.startswith("score_")
    )


@dataclass
class SampleFigures:
    """The contents of the shards; counts are exact."""

    samples: int = 0
    captions: int = 0
    words: int = 0
    text_bytes: int = 0  # UTF-8
    image_bytes: int = 0  # as fetched
    by_words: np.ndarray = field(default_factory=lambda: np.zeros(MOST_WORDS + 1, np.int64))
    by_captions: np.ndarray = field(default_factory=lambda: np.zeros(MOST_COUNTED + 1, np.int64))
    by_queries: np.ndarray = field(default_factory=lambda: np.zeros(MOST_COUNTED + 1, np.int64))
    by_side: np.ndarray = field(default_factory=lambda: np.zeros(LONGEST_SIDE + 1, np.int64))
    by_aspect: np.ndarray = field(
        default_factory=lambda: np.zeros(2 * ASPECT_OCTAVES * ASPECTS_PER_OCTAVE, np.int64)
    )
    languages: dict[str, int] = field(default_factory=dict)
    formats: dict[str, int] = field(default_factory=dict)
    sources: dict[str, int] = field(default_factory=dict)
    sites: pa.Table = field(default_factory=lambda: _SITES().table())
    extremes: list[tuple[Measure, list[Extreme]]] = field(default_factory=list)
    repeated: list[tuple[str, int]] = field(default_factory=list)
    scores: dict[str, tuple[float, float, float]] = field(default_factory=dict)  # smallest, mean, largest
    contacts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(contacts.KINDS, 0))
    """Captions with a contact or number, by kind."""
    licences: dict[str, int] = field(default_factory=dict)
    synthetic: dict[str, int] = field(default_factory=dict)
    """Samples by these columns' values, if the shards have them."""
    first: datetime | None = None
    last: datetime | None = None
    """When the first and the last image was fetched."""


def _SITES() -> Totals:  # noqa: N802 - a schema
    return Totals({"site": pa.string()}, {"samples": pa.int64(), "content": pa.int64()})


def read(state: FinishedSet) -> SampleFigures:
    """Return the sums over all shards of a finished set, read in turn."""
    summary = Summary()
    for shard in state.shards:
        with storage.open_input(storage.join(state.folder, f"{shard}.parquet")) as file:
            names = pq.read_schema(file).names
        columns = [name for name in names if name in _COLUMNS or name.startswith("score_")]
        summary.add(shard, state.rows(shard, columns))
    return summary.found()


class Summary:
    """Sum up shards in turn."""

    def __init__(self) -> None:
        self._found = SampleFigures()
        self._totals = {
            name: Totals({name: pa.string()}, {"samples": pa.int64()})
            for name in ("lang", "format", "source", "licence", "synthetic")
        }
        self._sites = _SITES()
        self._texts = RepeatedTexts()
        self._extremes: dict[Measure, list[Extreme]] = {}
        self._ranges: dict[Measure, tuple[float, float]] = {}
        self._score_sums: dict[str, float] = {}

    def add(self, shard: str, table: pa.Table) -> None:
        """Add the rows of a shard, named as its files are without their suffix."""
        found = self._found
        if not len(table):
            return
        captions = pc.list_flatten(table["captions"])
        words = pc.list_value_length(pc.utf8_split_whitespace(captions)).to_numpy()
        words = words * (pc.binary_length(captions).to_numpy() > 0)  # it splits no text into one
        found.samples += len(table)
        found.captions += len(captions)
        found.words += int(words.sum())
        found.text_bytes += int(pc.sum(pc.binary_length(captions)).as_py() or 0)
        found.image_bytes += int(pc.sum(table["bytes"]).as_py() or 0)
        found.by_words += _bins(words, MOST_WORDS + 1)
        found.by_captions += _bins(_lengths(table, "captions"), MOST_COUNTED + 1)
        found.by_queries += _bins(_lengths(table, "query_ids"), MOST_COUNTED + 1)
        found.by_side += _bins(_shorter_side(table), LONGEST_SIDE + 1)
        aspect = np.floor(ASPECTS_PER_OCTAVE * (np.log2(_aspect(table)) + ASPECT_OCTAVES))
        found.by_aspect += _bins(aspect, len(found.by_aspect))
        for name, totals in self._totals.items():
            if name in table.column_names:
                values = pc.fill_null(pc.cast(table[name], pa.string()), "")
                totals.add(value_counts(values, name))
        self._sites.add(_content_by_site(table))
        self._texts.add(captions)
        self._add_contacts(captions)
        if "fetched_at" in table.column_names:
            first, last = pc.min_max(table["fetched_at"]).as_py().values()
            found.first, found.last = min(found.first or first, first), max(found.last or last, last)
        self._look(shard, table)

    def _add_contacts(self, captions: pa.Array | pa.ChunkedArray) -> None:
        likely = captions.filter(pc.match_substring_regex(captions, contacts.LIKELY))
        for text in likely.to_pylist():
            for kind in contacts.kinds(text):
                self._found.contacts[kind] += 1

    def _look(self, shard: str, table: pa.Table) -> None:
        """Keep the extreme rows of each measure; rows of a shard are in the order of their keys."""
        for measure in (*MEASURES, *_scores(table.column_names)):
            values = np.asarray(measure.values(table), np.float64)
            low, high = self._ranges.get(measure, (np.inf, -np.inf))
            self._ranges[measure] = min(low, float(values.min())), max(high, float(values.max()))
            if measure.name.startswith("score_"):
                self._score_sums[measure.name] = self._score_sums.get(measure.name, 0.0) + float(values.sum())
            rank = values if measure.smallest else -values
            rows = np.lexsort((np.arange(len(rank)), rank))[: _ROWS + 1]
            keys = table["key"].take(pa.array(rows)).to_pylist()
            own = [
                Extreme(float(rank[row]), key, shard, float(values[row]))
                for row, key in zip(rows.tolist(), keys, strict=True)
            ]
            self._extremes[measure] = sorted([*self._extremes.get(measure, []), *own])[: _ROWS + 1]

    def found(self) -> SampleFigures:
        """Return the sums; measures at whose end more rows are equal than are shown have no extremes."""
        found = self._found
        found.languages, found.formats, found.sources = (
            counts_by(self._totals[name].table(), name, "samples") for name in ("lang", "format", "source")
        )
        found.licences, found.synthetic = (
            counts_by(self._totals[name].table(), name, "samples") for name in ("licence", "synthetic")
        )
        found.sites = self._sites.table()
        found.extremes = [
            (measure, rows[:_ROWS])
            for measure, rows in self._extremes.items()
            if self._ranges[measure][0] < self._ranges[measure][1]
            and (len(rows) <= _ROWS or rows[0].rank < rows[_ROWS].rank)
        ]
        found.repeated = self._texts.most(_ROWS * 2)
        found.scores = {
            measure.name: (low, self._score_sums[measure.name] / found.samples, high)
            for measure, (low, high) in sorted(self._ranges.items(), key=lambda item: item[0].name)
            if measure.name in self._score_sums
        }
        return found


def _bins(values: np.ndarray, count: int) -> np.ndarray:
    """Return how many values, whole numbers, fall in each of 0..count-1; those beyond count as the last."""
    return np.bincount(np.clip(values, 0, count - 1).astype(np.int64), minlength=count)


def _content_by_site(table: pa.Table) -> pa.Table:
    """Return one row a sample: its site, 1, and the bytes of its image as fetched and of its captions."""
    lists = pa.concat_arrays(table["captions"].chunks)
    ends = np.concatenate([[0], np.cumsum(pc.binary_length(lists.flatten()).to_numpy(zero_copy_only=False))])
    places = np.concatenate([[0], np.cumsum(lists.value_lengths().to_numpy(zero_copy_only=False))])
    text = ends[places[1:]] - ends[places[:-1]]
    content = np.asarray(table["bytes"].to_numpy(), np.int64) + text.astype(np.int64)
    sites = sites_of(table["url"])
    return pa.table({"site": sites, "samples": np.ones(len(table), np.int64), "content": content})


_START: Final = r"^(?P<start>[A-Za-z][A-Za-z0-9+.-]*://[^/?#\\]*)"


def sites_of(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the site of each URL; each distinct authority is looked at once."""
    starts = pc.fill_null(pc.struct_field(pc.extract_regex(column, _START), 0), "")
    encoded = pc.dictionary_encode(starts).combine_chunks()
    names = pa.array([_site(text) for text in encoded.dictionary.to_pylist()], pa.string())
    return pa.chunked_array([names.take(encoded.indices)])


def _site(start: str) -> str:
    """Return the site of a URL's start, scheme and authority; the text itself where it is no URL."""
    try:
        return urls.site(urls.canonical(f"{start}/"))
    except urls.BadUrl:
        return re.sub(r"^.*://", "", start) or "no URL"


class RepeatedTexts:
    """Count how often the same text occurs, for a sample of texts by hash when there are too many.

    A text that is in the sample is counted exactly, each time it occurs.
    """

    def __init__(self, most: int = _TEXTS) -> None:
        self._most = most
        self._below = 1 << 64  # hashes below it are counted
        self._totals = Totals({"text": pa.string()}, {"samples": pa.int64()})

    def add(self, texts: pa.Array | pa.ChunkedArray) -> None:
        """Count the texts of an array."""
        column = texts if isinstance(texts, pa.ChunkedArray) else pa.chunked_array([texts])
        counted = value_counts(column, "text")
        self._totals.add(self._sampled(counted))
        while self._totals.rows > 2 * self._most and len(self._totals.table()) > self._most:
            self._below //= 2
            kept, self._totals = self._totals.table(), Totals({"text": pa.string()}, {"samples": pa.int64()})
            self._totals.add(self._sampled(kept))

    def _sampled(self, table: pa.Table) -> pa.Table:
        if self._below >= 1 << 64:
            return table
        mask = [schemas.caption_hash(text) < self._below for text in table["text"].to_pylist()]
        return table.filter(pa.array(mask, pa.bool_()))

    def most(self, count: int) -> list[tuple[str, int]]:
        """Return the texts that occur most, with how often; those that occur once are left out."""
        found = counts_by(self._totals.table(), "text", "samples")
        return [pair for pair in found.items() if pair[1] > 1][:count]
