"""The options of the crawl. Importing this module needs nothing but the core's packages."""

import os
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

import tyro

from pipeline.captions.match import Rule
from pipeline.captions.text import TextRules
from pipeline.config import effective
from pipeline.options.fetch import FetchOptions, UnitLimits
from pipeline.options.fields import decides, deciding
from pipeline.options.images import ImageOptions
from pipeline.options.sources import SourceOptions
from pipeline.publishing import StageOptions
from pipeline.rights import licences

Stage = Literal["all", "candidates", "select", "fetch", "finish"]


def _before_near(dedup: str) -> str:
    """Return the meaning of --dedup while images are fetched: near-duplicates are found among the images that
    have arrived."""
    return "off" if dedup == "off" else "exact"


def _scorers(specs: tuple[str, ...]) -> str | tuple[str, ...]:
    """Return --scorer as older runs noted it, when only a single scorer was allowed."""
    return specs if len(specs) > 1 else "".join(specs)


@dataclass(frozen=True, kw_only=True)
class CrawlConfig:
    """Build image-text shards from a URL list, Common Crawl, WARC files, HTML or sitemaps.

    Run the same command again to continue where it stopped.
    """

    COMMON: ClassVar = frozenset(
        {
            "queries",
            "source",
            "out",
            "contact",
            "preset",
            "per_query",
            "lang",
            "image_size",
            "keep_columns",
            "sample",
            "workers",
            "check",
        }
    )
    """Options that --help explains."""
    EXAMPLES: ClassVar = (
        "openwit crawl --queries queries.txt --source urls.parquet --out run --contact you@example.org",
        "openwit crawl --preset img2dataset --source urls.parquet --out run --contact you@example.org",
    )
    """Lines of the help."""

    queries: str
    """Query list: Parquet from `openwit queries`, .txt with one per line, or a .json list. `all` takes all
    that arrives: --per-query caps nothing, and --lang, the caption filters (--min-chars to --boilerplate),
    --shared-captions, --placeholder-captions and --dedup are off unless they are given."""
    source: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Where candidates come from: a file, folder, glob or @LIST of paths. May be given several times."""
    out: str
    """Folder of the run. A run that stopped is continued by the same command."""
    preset: str = ""
    """The published filters of another recipe, over which options that are given win: img2dataset (every
    row), clip (Radford 2021), metaclip (Xu 2023), laion400m (Schuhmann 2021), coyo (COYO-700M), cc12m
    (Changpinyo 2021), align (Jia 2021), datacomp-basic (Gadre 2023). clip and metaclip need --queries, the
    others take all captions. Filters that need a model of words or pictures are left out; docs/presets.md
    lists each. Robots.txt and opt-outs are honoured, and bytes, pixels and time bounded, under every
    preset."""
    restart: bool = False
    """Let a changed option start the run again, which fetches images again. A finished set stays as it is
    until the new set is verified. A finished run without a sample is always started again."""
    stage: Stage = "all"
    """Run this stage only; the stages before it must be finished."""
    check: bool = False
    """Match the inputs, look at the first thousand captions, print the plan and the options that differ from
    the defaults, and write nothing."""
    check_all: bool = False
    """As --check, and print every option's value."""

    sources: SourceOptions = decides("candidates", default=SourceOptions)
    sample: float = decides("candidates", default=1.0)
    """Share of the source pieces to take, by hash: a pilot that measures the yields before the whole."""
    text: TextRules = decides("candidates", default=TextRules)
    lang: str = decides("candidates", default="en")
    """Language of captions that is kept; `any` keeps all. A caption goes where it is improbable (below 3%)
    by fastText lid.176 and by its page: its declared language, its other captions, its country's domain."""
    rule: Rule = decides("candidates", "select", default="openwit")
    """How captions are matched with queries. openwit: words, whatever their case, between any punctuation.
    metaclip: as MetaCLIP's code does, where case counts, seven marks (,.;:?!`) and white space alone part
    words, and a query that holds such a mark, such as "St. Louis", matches nothing."""
    mask_contacts: bool = decides("candidates", default=False)
    """Replace mail addresses and telephone, identity, bank and card numbers in captions."""

    per_query: int = decides("select", default=20_000)
    """Samples that a query contributes at most (CLIP, section 2.2)."""
    headroom: float = decides("select", default=1.25)
    """How many times --per-query the first round tries, since not every page is still there."""
    rounds: int = decides("fetch", default=3)
    """Rounds of fetching at most. Later rounds fetch the next samples for queries that are still short, and
    try transient failures again."""
    max_captions: int = decides("candidates", default=16)
    """Captions that a sample keeps at most, those of smallest hash."""
    shared_captions: int = decides("select", default=10)
    """Drop texts that stand at more than this many images, as ALIGN and COYO do; 0 keeps them."""
    placeholder_captions: int = decides("fetch", default=10)
    """Drop images that stand under at least this many captions that share few words; 0 keeps them."""
    dedup: Literal["exact", "near", "off"] = decides("finish", default="exact", fetch=_before_near)
    """exact: images of the same bytes become one sample with the captions of all. near: so do images that
    look alike, by 31 or fewer different bits of their 256-bit hashes."""
    detector: str = decides("finish", default="")
    """Detector by which --dedup near also finds images that look alike while their hashes do not, such as
    mirrored ones and crops: lite, or another as `openwit overlap --detector` has. All pairs are compared."""
    dedup_limit: float = 0.5
    """Share of the images that `--dedup near` may remove; if it were more, the run stops before that."""
    drop: str = decides("fetch", default="")
    """Parquet file whose column uid names samples that must not be in the set."""
    hash_list: str = decides("fetch", default="")
    """File of hashes of images that must not be stored, one per line: `sha256 HEX`, `md5 HEX` (as sha256sum
    and md5sum write them too), `pdq HEX [DISTANCE]` as safety organisations exchange it, or `phash HEX
    [DISTANCE]`. Looked at before anything is written."""
    seed: int = decides("select", default=0)
    """Decides which samples each query keeps, and their order."""

    images: ImageOptions = decides("fetch", default=ImageOptions)
    scorer: tyro.conf.UseAppendAction[tuple[str, ...]] = decides("fetch", default=(), fetch=_scorers)
    """Adds score_* columns: NAME=FILES of the built-in ones that `openwit score --help` lists, such as
    clip-score=CHECKPOINT, or MODULE:CLASS of your own. May be given several times."""
    blur_faces: bool = False
    """Blur faces before images are stored, as `--scorer blur-faces` does; their boxes are the column faces.
    Costs some 60 ms an image."""
    keep_if: str = decides("fetch", default="")
    """Condition on scores that a sample must satisfy, such as "score_clip >= 0.28"."""
    licence: str = decides("fetch", default="")
    """Licences that are kept, between commas: cc0, cc-pdm, cc-by, cc-by-sa, cc-by-nd, cc-by-nc, cc-by-nc-sa,
    cc-by-nc-nd of any version, or identifiers such as CC-BY-4.0. Images that state none, or several that
    differ, are rejected. By default all are kept, and the columns licence and licence_source say what is
    known."""
    drop_synthetic: bool = decides("fetch", default=False)
    """Leave out pictures of which IPTC, C2PA or a generator's own mark says that a machine made them or parts
    of them. Few generated pictures still say so: the column synthetic has those that do."""
    fetch: FetchOptions = field(default_factory=FetchOptions)

    model: str = ""
    """Model that the set is for, such as ViT-L-14-336: warns where the images are stored too small for it."""
    samples_per_shard: int = decides("finish", default=10_000)
    """Samples in a shard at most; shards are filled evenly."""
    retry_failed: bool = False
    """Give a finished run one more round, each time the command is run: transient failures and deferred
    images are tried again where a query is still short."""
    extend: str = ""
    """Folder of a finished run to which the sources are added: only URLs that it has not tried are fetched,
    into new shards. The options that decide the content are those of that run; leave out --queries and
    --out."""
    rejected: Literal["all", "sample"] | None = decides("finish", default=None)
    """Rows in rejected/: all, or about 100,000 of each reason; by default all up to 10 million candidates."""
    keep_staging: bool = False
    """Keep the fetched images after the shards have been verified."""

    sign_manifest: str = ""
    """Private key of `openwit identity` by which the finished manifest is signed (in-toto statement, DSSE):
    manifest.dsse.json beside it, which `openwit verify` checks offline. No file of the run names the key."""
    log_json: str = ""
    """Local file to which progress is appended, a JSON object per line; - is standard output."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Processes on this machine; on a cluster Beam's own flags decide."""
    units: UnitLimits = field(default_factory=UnitLimits)
    partition_rows: int = 1_000_000
    """Rows in a partition of a shuffle."""
    partitions_at_once: int = 2
    """Partitions that this machine holds in memory at a time; a cluster has all at once."""

    def __post_init__(self) -> None:
        """Raise ValueError, which names the alternative, for options that cannot be carried out."""
        if not self.source:
            raise ValueError("give at least one --source: a file, folder, glob or @LIST of paths")
        if self.extend and (self.retry_failed or self.restart or self.stage != "all"):
            raise ValueError("--extend cannot be combined with --retry-failed, --restart or --stage")
        if self.restart and self.retry_failed:
            raise ValueError("--restart starts again, --retry-failed continues: give only one of them")
        if self.extend and self.extend.rstrip("/") != self.out.rstrip("/"):
            raise ValueError("--extend adds to the run's own folder: leave --out out")
        for name in ("per_query", "rounds", "max_captions", "samples_per_shard", "workers", "partition_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("shared_captions", "placeholder_captions", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, but is {getattr(self, name)}")
        if not self.headroom >= 1:
            raise ValueError(f"headroom must be at least 1, not {self.headroom}")
        if not 0 < self.sample <= 1:
            raise ValueError(f"sample must be a share above 0 and up to 1, not {self.sample}")
        if not 0 < self.dedup_limit <= 1:
            raise ValueError(f"dedup_limit must be a share above 0 and up to 1, not {self.dedup_limit}")
        if self.detector and self.dedup != "near":
            raise ValueError("--detector finds near-duplicates: give --dedup near as well")
        licences.wanted(self.licence)
        if self.keep_if and not self.scorer:
            raise ValueError("--keep-if needs a --scorer that gives the scores")

    def semantics(self) -> StageOptions:
        """Return by stage the options that change its result; the others are outside the fingerprints."""
        values = effective(self)
        found: StageOptions = {stage: {} for stage in get_args(Stage)[1:]}
        for stage, name, told in deciding(CrawlConfig):
            found[stage][name] = told(values[name])
        return found
