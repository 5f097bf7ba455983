"""The manifest of a finished run as dataclasses, and the only codec that reads and writes it.

Anybody may have written a manifest, so a value is let in only if it has the expected form. Names of shards
become paths that commands read, hash and write again, so they are digits and .tar.
"""

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta

from pipeline import storage, untrusted
from pipeline.captions.match import Rule
from pipeline.publishing import Value
from pipeline.reasons import REASONS
from pipeline.run_folder import STAGES

SHARD_NAME: Final = re.compile(r"[0-9]{1,18}\.tar", re.ASCII)
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_ERROR: Final = re.compile(r"(.*?)(?: - at (?:`key` in )?`\$\.?(.*)`)?", re.DOTALL)

Count = Annotated[int, Meta(ge=0)]
M = TypeVar("M")


@dataclass(frozen=True, kw_only=True)
class ListedShard:
    """A shard by its name, as a reader of the images needs it."""

    name: str
    """NNNNN.tar"""
    samples: Count | None = None
    """None where they are not counted."""

    def __post_init__(self) -> None:
        """Raise ValueError for anything but a name, such as a path."""
        if not SHARD_NAME.fullmatch(self.name):
            raise ValueError("name is not the name of a shard, digits and .tar")


@dataclass(frozen=True, kw_only=True)
class ManifestShard(ListedShard):
    """A shard whose files can be verified."""

    samples: Count
    bytes: Count
    sha256: str
    parquet_sha256: str

    def __post_init__(self) -> None:
        """Raise ValueError for anything but a name or a hash."""
        super().__post_init__()
        for name in ("sha256", "parquet_sha256"):
            if not _DIGEST.fullmatch(getattr(self, name)):
                raise ValueError(f"{name} is not a SHA-256 in hex")


@dataclass(frozen=True, kw_only=True)
class Crawled:
    """First and last moment of fetching, ISO 8601; None for a run without samples."""

    first: str | None
    last: str | None


@dataclass(frozen=True, kw_only=True)
class Counts:
    """The outcome of the candidates: each is a caption of a sample, or rejected."""

    candidates: Count
    captions: Count
    samples: Count
    rejected: Count
    rejected_by_stage: dict[str, dict[str, Count]]
    """Candidates by stage, then by reason."""

    def __post_init__(self) -> None:
        """Refuse stages and reasons that are not in the closed sets: ValueError."""
        for stage, reasons in self.rejected_by_stage.items():
            _refuse_unknown("rejected_by_stage", {stage}, STAGES)
            _refuse_unknown(f"rejected_by_stage.{stage}", reasons, REASONS)

    @property
    def by_stage_and_reason(self) -> dict[str, int]:
        """Return rejected candidates by "stage/reason"."""
        return {
            f"{stage}/{reason}": count
            for stage, reasons in self.rejected_by_stage.items()
            for reason, count in reasons.items()
        }


def _refuse_unknown(place: str, names: Any, known: Any) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{place} has {name!r}, which this version of openwit does not know")


@dataclass(frozen=True, kw_only=True)
class ManifestRound:
    """The result of a round of fetching."""

    images: Count
    bytes: Count
    reasons: dict[str, Count]

    @property
    def good(self) -> int:
        """Return how many images arrived as good ones."""
        return self.reasons.get("", 0)


@dataclass(frozen=True, kw_only=True)
class QueryTotals:
    """The numbers of queries: all, with a match, at their limit, and short although URLs are left to try."""

    queries: Count = 0
    matched: Count = 0
    full: Count = 0
    short: Count = 0


@dataclass(frozen=True, kw_only=True)
class SiteRemoval:
    """How much of a site is removed."""

    site: str
    images: Count
    removed: Count


@dataclass(frozen=True, kw_only=True)
class NearDuplicates:
    """The samples that `--dedup near` removed from a set."""

    pairs: Count = 0
    beyond: Count = 0
    """Different hashes that were not compared, since too many share a band."""
    images: Count
    """Before."""
    removed: Count
    groups: Count
    largest_group: Count = 0
    sites: tuple[SiteRemoval, ...]
    """The sites that lose images, largest loss first."""


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """How many pieces of a source a pilot has read, and how many there are."""

    read: Count
    all: Count


@dataclass(frozen=True, kw_only=True)
class WholeSource:
    """The expected numbers for all pieces at a pilot's rates: an upper bound."""

    candidates: Count
    tries: Count
    samples: Count
    received_bytes: Count
    stored_bytes: Count


@dataclass(frozen=True, kw_only=True)
class PilotYields:
    """The numbers of one piece of a pilot, and the share that each step kept; a share of nothing is None."""

    pieces: Pieces
    candidates_per_piece: float
    matched_share: float | None
    fetched_share: float | None
    kept_share: float | None
    received_bytes_per_try: float | None
    stored_bytes_per_sample: float | None
    whole: WholeSource


@dataclass(frozen=True, kw_only=True)
class Extension:
    """The samples that `--extend` added to a run and those it dropped."""

    source: tuple[str, ...]
    sources: dict[str, Value] = field(default_factory=dict)
    """Options of how they were read."""
    fingerprints: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    samples: Count = 0
    captions: Count = 0
    candidates: Count = 0
    dropped: Count = 0
    dropped_captions: Count = 0
    rounds: Count = 0
    shards: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ShardList:
    """The part of a manifest that a reader of the images needs."""

    shards: tuple[ListedShard, ...]
    crawled: Crawled | None = None
    extensions: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        """Refuse a shard that is named twice: ValueError."""
        _refuse_twice(self.shards)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All contents of manifest.json; fields that older versions did not write have a default."""

    format: str = "openwit run"
    format_version: int = 1
    configuration: dict[str, Value]
    """Options by name, without the things that is private."""
    semantics: dict[str, dict[str, Value]] = field(default_factory=dict)
    """By stage the options that decide its result."""
    fingerprints: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    seed: int
    crawled: Crawled
    counts: Counts
    rejected_sampled: bool
    images_seen: Count = 0
    rounds: tuple[ManifestRound, ...]
    queries: QueryTotals
    near_duplicates: NearDuplicates | None = None
    shards: tuple[ManifestShard, ...]
    pilot: PilotYields | None = None
    extensions: tuple[Extension, ...] = ()
    compacted: bool = False
    others: dict[str, Any] = field(default_factory=dict)
    """Fields that a later version may have added: they are written back as they were read."""

    def __post_init__(self) -> None:
        """Raise ValueError for a manifest that commands could not work with."""
        _refuse_twice(self.shards)
        for name, is_one in _NEEDED.items():
            if name not in self.configuration:
                raise ValueError(f"configuration.{name} is missing")
            if not is_one(self.configuration[name]):
                raise ValueError(f"configuration.{name} is not a value of --{name.replace('_', '-')}")
        if self.semantics:
            _refuse_unknown("semantics", self.semantics, STAGES)

    @property
    def rule(self) -> Rule:
        """Return the rule by which captions were matched."""
        return "metaclip" if self.configuration.get("rule") == "metaclip" else "openwit"

    @property
    def per_query(self) -> int:
        """Return the largest number of samples that a query contributes."""
        value = self.configuration["per_query"]
        assert isinstance(value, int)
        return value

    @property
    def source(self) -> tuple[str, ...]:
        """Return the sources that the run was begun with."""
        value = self.configuration["source"]
        assert isinstance(value, tuple)
        return value  # type: ignore[return-value]  # checked above


def _refuse_twice(shards: tuple[ListedShard, ...]) -> None:
    if len({shard.name for shard in shards}) < len(shards):
        raise ValueError("shards names a shard twice")


_NEEDED: Final[dict[str, Callable[[Value], bool]]] = {
    "queries": lambda value: isinstance(value, str),
    "per_query": lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0,
    "source": lambda value: isinstance(value, tuple) and all(isinstance(path, str) for path in value),
}
_FIELDS: Final = frozenset(one.name for one in dataclasses.fields(Manifest)) - {"others"}


def read(root: str) -> Manifest | None:
    """Return a run's manifest, None if it has none; ValueError if openwit did not write it."""
    path = storage.join(root, "manifest.json")
    found = untrusted.read_json(path)
    if found is None and not storage.exists(path):
        return None
    return decode(found, path)


def of(root: str) -> Manifest:
    """Return a run's manifest, as `read`; ValueError also where there is none."""
    found = read(root)
    if found is None:
        raise ValueError(_unfinished(root))
    return found


def shards_of(root: str) -> ShardList:
    """Return the part of a run's manifest about its shards; ValueError if it is missing or damaged."""
    path = storage.join(root, "manifest.json")
    found = untrusted.read_json(path)
    if found is None and not storage.exists(path):
        raise ValueError(_unfinished(root))
    return decode_shards(found, path)


def _unfinished(root: str) -> str:
    return f"{root} is not a finished run (it has no manifest.json): finish it with its command"


def decode(value: Any, path: str) -> Manifest:
    """Return the manifest that a JSON value is; ValueError that names the first place that is not."""
    if not isinstance(value, dict):
        return _converted(value, Manifest, path)
    others = {name: one for name, one in value.items() if name not in _FIELDS}
    return _converted({**value, "others": others}, Manifest, path)


def decode_shards(value: Any, path: str) -> ShardList:
    """Return the part of a manifest that lists its shards; ValueError as `decode`."""
    return _converted(value, ShardList, path)


def encode(manifest: Manifest) -> dict[str, Any]:
    """Return the JSON object of a manifest; a run that was not extended or compacted does not say so."""
    found = dataclasses.asdict(manifest)
    others = found.pop("others")
    for name in ("extensions", "compacted"):
        if not found[name]:
            del found[name]
    return {**found, **others}


def _converted(value: Any, kind: type[M], path: str) -> M:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ValueError(f"{path} is not the manifest of a run of openwit: {told(error)}") from None


def told(error: msgspec.ValidationError) -> str:
    """Return msgspec's message about a value, after its place."""
    found = _ERROR.fullmatch(str(error))
    assert found is not None
    what, place = found[1], found[2] or ""
    if what.startswith(("Expected", "Object", "Invalid")):
        return f"{place or 'it'}: {what[0].lower()}{what[1:]}"
    return f"{place}.{what}" if place else what  # of __post_init__, which names the field
