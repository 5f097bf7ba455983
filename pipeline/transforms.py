"""The stages of a crawl as transforms for Beam pipelines of your own.

    with beam.Pipeline() as p:
        found = p | ReadCandidates(["pages/*.warc.gz"])
        matched = found["accepted"] | MatchQueries("queries.txt")
        chosen = matched["accepted"] | KeepSmallest(20_000, "queries.txt")
        pictures = chosen | FetchImages(FetchOptions(contact="you@example.org"))
        pictures["accepted"] | WriteWebDataset("gs://bucket/shards", shards=1000)

They call the functions that `openwit crawl` calls, and keep every query's same samples, but leave nothing to
continue from: a pipeline that fails begins again. Each that refuses something gives two collections:
`accepted`, and `rejected` with a reason of docs/reasons.md for each row.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import apache_beam as beam
import numpy as np

from pipeline import balance, querylist, schemas, sources, storage, urls
from pipeline.candidates.judge import CaptionJudge, judged, refuse_reserved, without_credentials
from pipeline.captions import language
from pipeline.captions.match import Matcher
from pipeline.fetch import worker
from pipeline.fetch.terms import Terms
from pipeline.http.fetch_thread import FetchLoop
from pipeline.http.user_agent import NO_CONTACT
from pipeline.images.decoder import Decoder
from pipeline.options import FetchOptions, ImageOptions, SourceOptions, TextRules
from pipeline.shards import Sample as ShardSample
from pipeline.shards import encode_json, write_shard
from pipeline.sources import Image, Kind, Piece

ACCEPTED: Final = "accepted"
REJECTED: Final = "rejected"


class Candidate(NamedTuple):
    """A text that stands with an image; fields only.

    >>> openwit.Candidate("http://example.com/1.jpg", "a dog on the beach", "alt", "", "").text
    'a dog on the beach'
    """

    url: str
    text: str
    kind: Kind = "caption"
    """alt, title, figcaption, og or caption."""
    page_url: str = ""
    page_lang: str = ""


class Sample(NamedTuple):
    """An image with its captions; fields only: the output of `MatchQueries` and `KeepSmallest`.

    >>> texts = [openwit.Candidate("http://example.com/1.jpg", "a red house at the lake")]
    >>> with beam.Pipeline(runner="FnApiRunner") as p:
    ...     matched = p | beam.Create(texts) | openwit.MatchQueries("queries.txt")
    ...     shown = matched["accepted"] | beam.Map(lambda sample: print(sample.uid[:8], sample.url))
    777d479c http://example.com/1.jpg
    """

    uid: str
    """32 hex digits, of the canonical URL."""
    url: str
    captions: list[str]
    """The smallest by hash."""
    queries: list[int]
    """Places in the query list: those that match, or, once samples are chosen, those that keep it."""


class Picture(NamedTuple):
    """A sample that was fetched; fields only: the output of `FetchImages`.

    >>> options = openwit.FetchOptions(allow_network=("127.0.0.0/8",))
    >>> with beam.Pipeline(runner="FnApiRunner") as p:
    ...     found = p | openwit.ReadCandidates(["urls.csv"])
    ...     matched = found["accepted"] | openwit.MatchQueries("queries.txt")
    ...     pictures = matched["accepted"] | openwit.FetchImages(options)
    ...     shown = pictures["accepted"] | beam.Map(lambda picture: print(picture.captions, picture.width))
    ['a red house at the lake'] 340
    """

    uid: str
    url: str
    captions: list[str]
    queries: list[int]
    jpeg: bytes
    width: int
    height: int


class Rejected(NamedTuple):
    """A rejected candidate and its reason; fields only: the second output of each filter.

    >>> texts = [openwit.Candidate("http://example.com/1.jpg", "IMG_0001.jpg")]
    >>> with beam.Pipeline(runner="FnApiRunner") as p:
    ...     matched = p | beam.Create(texts) | openwit.MatchQueries("queries.txt")
    ...     shown = matched["rejected"] | beam.Map(lambda row: print(row.text, row.reason))
    IMG_0001.jpg file_name
    """

    url: str
    text: str
    reason: str
    detail: str


for _type in (Candidate, Sample, Picture, Rejected):
    beam.coders.registry.register_coder(_type, beam.coders.RowCoder)


@dataclass
class ReadCandidates(beam.PTransform):
    """Read (image, text) pairs from Common Crawl's WAT and WARC files, HTML folders and URL lists.

    ValueError if a source is missing or has no known format.

    >>> with beam.Pipeline(runner="FnApiRunner") as p:
    ...     found = p | openwit.ReadCandidates(["list.csv"])
    ...     shown = found["accepted"] | beam.Map(lambda row: print(row.url, row.text))
    http://example.com/1.jpg a red house at the lake
    """

    source: Sequence[str]
    options: SourceOptions = field(default_factory=SourceOptions)
    formats: tuple[str, ...] = ImageOptions().formats

    def __post_init__(self) -> None:
        """Find the files, so that a missing file is reported now."""
        super().__init__()
        self._pieces = sources.plan(list(self.source), self.options)

    def _read(self, piece: Piece) -> Iterator[Any]:
        for image in sources.read(piece, self.options, self.formats):
            image = without_credentials(refuse_reserved(image))
            texts = image.texts or (("caption", ""),)
            for kind, text in texts:
                if image.reason or not image.texts:
                    reason = image.reason or "no_caption"
                    row = Rejected(image.url, text, reason, image.detail)
                    yield beam.pvalue.TaggedOutput(REJECTED, row)
                else:
                    yield Candidate(image.url, text, kind, image.page_url, image.page_lang)

    def expand(self, start: beam.pvalue.PBegin) -> Any:  # a type hint of Beam's is of one collection
        """Return the candidates, and the rows of a source that are none."""
        return (
            start
            | beam.Create(self._pieces)
            | beam.Reshuffle()
            | beam.FlatMap(self._read).with_outputs(REJECTED, main=ACCEPTED)
        )


class _Match(beam.DoFn):
    """Judge captions; yield (uid, (hash, caption, URL, queries))."""

    def __init__(self, queries: str, rules: TextRules, lang: str) -> None:
        self._queries, self._rules, self._lang = queries, rules, lang

    def setup(self) -> None:
        """Load the matcher and the language model."""
        matcher, identifier = Matcher(querylist.load(self._queries)), language.Identifier()
        self._judge = CaptionJudge(matcher, self._rules, identifier, self._lang, mask=False)

    def process(self, one: Candidate) -> Iterator[Any]:
        """Yield the accepted caption, or a rejected row."""
        image = Image(one.url, ((one.kind, one.text),), one.page_url, page_lang=one.page_lang)
        [(row, accepted)] = judged(image, "", self._judge, None, self._judge.page([image]))
        schema = schemas.CAPTION_ROWS if accepted else schemas.REJECTED_ROWS
        found: dict[str, Any] = dict(zip(schema.names, row, strict=True))
        if accepted:
            own = (found["caption_hash"], found["caption"], found["url"], found["matched"])
            yield found["uid"].hex(), own
        else:
            rejected = Rejected(found["url"], found["caption"], found["reason"], found["detail"])
            yield beam.pvalue.TaggedOutput(REJECTED, rejected)


def _join(group: tuple[str, Iterable[tuple[int, str, str, list[int]]]], most: int) -> Sample:
    """Make a sample of all rows of a URL: each caption once, at most that many, the smallest by hash."""
    uid, rows = group
    known, addresses = {}, set()
    for number, caption, url, matched in rows:
        known[number, caption] = matched
        addresses.add(url)
    kept = sorted(known)[:most]
    queries = sorted({query for key in kept for query in known[key]})
    return Sample(uid, min(addresses), [caption for _, caption in kept], queries)


@dataclass
class MatchQueries(beam.PTransform):
    """Clean and filter captions, identify their language, match them to queries; one sample for each URL.

    queries: a list as `openwit crawl` takes it, at a path that every worker can read. The language that a
    page declares counts; a crawl also looks at the page's other captions.

    >>> texts = [openwit.Candidate("http://example.com/1.jpg", "a red house at the lake", "alt", "", "")]
    >>> with beam.Pipeline(runner="FnApiRunner") as p:
    ...     matched = p | beam.Create(texts) | openwit.MatchQueries("queries.txt")
    ...     kept = matched["accepted"] | openwit.KeepSmallest(20_000, "queries.txt")
    ...     shown = kept | beam.Map(lambda sample: print(sample.captions, sample.queries))
    ['a red house at the lake'] [0, 1]
    """

    queries: str
    rules: TextRules = field(default_factory=TextRules)
    lang: str = "en"
    max_captions: int = 16

    def expand(self, candidates: beam.PCollection) -> Any:  # a type hint of Beam's is of one collection
        """Return the samples, and the captions that match no query."""
        match = beam.ParDo(_Match(self.queries, self.rules, self.lang))
        judged = candidates | match.with_outputs(REJECTED, main=ACCEPTED)
        samples = (
            judged[ACCEPTED]
            | beam.GroupByKey()
            | beam.Map(_join, self.max_captions).with_output_types(Sample)
        )
        return {ACCEPTED: samples, REJECTED: judged[REJECTED]}


class _Priorities(beam.DoFn):
    """Yield (query, (priority, uid)) for each query of a sample."""

    def __init__(self, queries: str, seed: int) -> None:
        self._queries, self._seed = queries, seed

    def setup(self) -> None:
        """Load the hashes of the queries."""
        normalised = querylist.normalised(querylist.load(self._queries), "openwit")
        self._hashes = balance.query_hashes(normalised, self._seed)

    def process(self, sample: Sample) -> Iterator[tuple[int, tuple[bytes, str]]]:
        """Yield a pair for each query, each with its uniform 64-bit priority."""
        own = np.array([int(sample.uid[:16], 16)] * len(sample.queries), np.uint64)
        found = balance.priorities(own, self._hashes[np.array(sample.queries, np.int64)])
        for query, priority in zip(sample.queries, found.tolist(), strict=True):
            yield query, (priority.to_bytes(8, "big"), sample.uid)  # Beam's integers have a sign


def _keepers(group: tuple[int, list[tuple[bytes, str]]]) -> Iterator[tuple[str, int]]:
    query, smallest = group
    for _, uid in smallest:
        yield uid, query


def _kept(group: tuple[str, dict[str, Iterable[Any]]]) -> Iterator[Sample]:
    found = group[1]
    queries = sorted(found["queries"])
    for sample in found["samples"]:
        if queries:
            yield sample._replace(queries=queries)


@dataclass
class KeepSmallest(beam.PTransform):
    """Keep of each query the `k` samples of smallest priority h(seed, uid, query): CLIP's cap, exactly.

    A sample stays if any of its queries keeps it; `queries` then has those. The priorities are those of
    `openwit crawl --seed`. A query's k smallest are held in one worker's memory, some 100 bytes each.

    >>> openwit.KeepSmallest(20_000, "queries.txt").k
    20000
    """

    k: int
    queries: str
    seed: int = 0

    def expand(self, samples: beam.PCollection) -> beam.PCollection:
        """Return the samples that are kept."""
        keepers = (
            samples
            | beam.ParDo(_Priorities(self.queries, self.seed)).with_output_types(
                tuple[int, tuple[bytes, str]]
            )
            | beam.combiners.Top.SmallestPerKey(self.k)
            | beam.FlatMap(_keepers).with_output_types(tuple[str, int])
        )
        by_uid = samples | "Key" >> beam.Map(_by_uid).with_output_types(tuple[str, Sample])
        both = {"queries": keepers, "samples": by_uid}
        return both | beam.CoGroupByKey() | beam.FlatMap(_kept).with_output_types(Sample)


def _by_uid(sample: Sample) -> tuple[str, Sample]:
    return sample.uid, sample


def _by_site(sample: Sample) -> tuple[str, Sample]:
    return urls.site(sample.url), sample


class _Fetch(beam.DoFn):
    """Fetch the images of one site, at its rate."""

    def __init__(self, fetch: FetchOptions, images: ImageOptions) -> None:
        self._options, self._images = fetch, images

    def setup(self) -> None:
        """Start the event loop, and the process that decodes."""
        self._loop, self._decoder = FetchLoop(self._options), Decoder(self._images)

    def teardown(self) -> None:
        """End both."""
        self._loop.close()
        self._decoder.close()

    def process(self, group: tuple[str, Iterable[Sample]]) -> Iterator[Any]:
        """Yield a picture for each image that arrives, and a rejected row for each other."""
        samples = {sample.uid: sample for sample in group[1]}
        wanted = ((uid, sample.url) for uid, sample in sorted(samples.items()))
        for uid, outcome in self._loop.run(wanted):
            sample = samples[str(uid)]
            uid_bytes, terms = bytes.fromhex(sample.uid), Terms(self._options.opt_out)
            row = worker.receive_safely(uid_bytes, outcome, self._decoder, worker.Refused(), terms)
            if row.processed is not None and not row.reason:
                yield Picture(*sample, row.processed.jpeg, row.processed.width, row.processed.height)
                continue
            for text in sample.captions:
                yield beam.pvalue.TaggedOutput(REJECTED, Rejected(sample.url, text, row.reason, row.detail))


@dataclass
class FetchImages(beam.PTransform):
    """Fetch, decode and resize images, politely: one worker for each site, with its robots.txt and its rate.

    ValueError for options without a contact, unless everything is inside their `allow_network`. A site that
    is down, or asks to be left alone, gives rejected rows. Nothing is asked for a second time later.

    >>> openwit.FetchImages(openwit.FetchOptions(contact="you@example.org")).images.image_size
    256
    """

    fetch: FetchOptions
    images: ImageOptions = field(default_factory=ImageOptions)

    def __post_init__(self) -> None:
        """Refuse to fetch without saying who asks."""
        super().__init__()
        if not self.fetch.contact and not self.fetch.allow_network:
            raise ValueError(NO_CONTACT)

    def expand(self, samples: beam.PCollection) -> Any:  # a type hint of Beam's is of one collection
        """Return pictures, and the failed fetches."""
        return (
            samples
            | beam.Map(_by_site).with_output_types(tuple[str, Sample])
            | beam.GroupByKey()
            | beam.ParDo(_Fetch(self.fetch, self.images)).with_outputs(REJECTED, main=ACCEPTED)
        )


def _shard_of(picture: Picture, shards: int) -> tuple[int, Picture]:
    return int(picture.uid, 16) * shards >> 128, picture


@dataclass
class WriteWebDataset(beam.PTransform):
    """Write pictures as that many WebDataset shards, NNNNN.tar, by ranges of uid; return their paths.

    Members are KEY.jpg, KEY.json and KEY.txt; KEY is the number of the shard and of the sample. A shard is in
    one worker's memory while it is written; one without a picture is left out.

    >>> openwit.WriteWebDataset("shards", shards=10).folder
    'shards'
    """

    folder: str
    shards: int

    def _write(self, group: tuple[int, Iterable[Picture]]) -> str:
        number, pictures = group
        path = storage.join(self.folder, f"{number:05d}.tar")
        with storage.atomic_output(path) as temporary:
            write_shard(
                temporary, (_stored(f"{number:05d}{i:06d}", one) for i, one in enumerate(sorted(pictures)))
            )
        return path

    def expand(self, pictures: beam.PCollection) -> beam.PCollection:
        """Return the paths of the shards."""
        return (
            pictures
            | beam.Map(_shard_of, self.shards).with_output_types(tuple[int, Picture])
            | beam.GroupByKey()
            | beam.Map(self._write).with_output_types(str)
        )


def _stored(key: str, picture: Picture) -> ShardSample:
    row = picture._asdict()
    del row["jpeg"]
    return ShardSample(key, picture.jpeg, picture.captions[0], encode_json({"key": key, **row}))
