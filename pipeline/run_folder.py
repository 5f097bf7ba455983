"""A run's folder: the places of its files, the stages that are done, and whether the run may be continued.

Each stage's fingerprint covers its own semantic options, the schema version, its input files and the
fingerprint upstream. A change reruns from the first stage that it touches; changed inputs are refused.
"""

import hashlib
import itertools
import json
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

import msgspec

from pipeline import storage, untrusted
from pipeline.captions.match import Rule
from pipeline.flow.parts import Part, decode, encode, only
from pipeline.publishing import StageOptions, Value

STAGES = ("candidates", "select", "fetch", "finish")
EXTENSIONS = "extensions"
_BEGUN = "begun.stage"
_DONE = "done.stage"
_NEXT = "next"  # folder of a set that will replace the finished one
_MAX_JSON = 1 << 30  # bytes: a stage's summary names every unit
PUBLISHED_FOLDERS = ("shards", "rejected", "report")  # the published files of a run, without extensions
PUBLISHED_FILES = (
    *("query_counts.parquet", "near_duplicates.parquet", "config.toml", "README.md", "croissant.json"),
    "manifest.json",
)
SCHEMA_VERSION = 5  # of the files under work/; raised when their meaning changes


@dataclass(frozen=True, kw_only=True)
class Stage(Part):
    """The result of a finished stage."""

    name: str = "done"
    stage: ClassVar[str]


S = TypeVar("S", bound=Stage)


@dataclass(frozen=True)
class Layout:
    """Name the places in a run's folder.

    An extension works in a folder of its own, with the same places in it; its finished set is the run's.
    """

    root: str
    extension: int = 0
    """0 for the run as first made, n for its n-th extension."""
    replaces: bool = False
    """Whether the set is made beside a finished set, which stays until the new set is verified."""

    @property
    def work(self) -> str:
        """Return the folder of all that is not the finished set."""
        if self.extension:
            return storage.join(self.root, EXTENSIONS, str(self.extension))
        return storage.join(self.root, "work")

    @property
    def prefix(self) -> str:
        """Return how the names of rejected rows' files begin."""
        return f"extension-{self.extension:03d}-" if self.extension else ""

    def stage(self, name: str, *parts: str) -> str:
        """Return a stage's folder, or a path in it."""
        return storage.join(self.work, name, *parts)

    def tried(self, number: int) -> str:
        """Return the folder of a round's thresholds; after round 0 they depend on the fetched images."""
        return self.stage("fetch", f"tried-{number}") if number else self.stage("select", "round-0")

    def units(self, number: int) -> str:
        """Return the folder of a round's units."""
        return self.stage("fetch", f"units-{number}")

    def round(self, number: int) -> str:
        """Return the folder of a round's fetched images."""
        return self.stage("fetch", f"round-{number}")

    def merged(self, number: int) -> str:
        """Return the folder of all that had arrived after a round."""
        return self.stage("fetch", f"merged-{number}")

    def arrived(self, number: int) -> str:
        """Return the folder of the thresholds of all that had arrived after a round."""
        return self.stage("fetch", f"arrived-{number}")

    def rounds(self) -> list[int]:
        """Return the numbers of the rounds that were begun."""
        return list(itertools.takewhile(lambda n: storage.exists(self.round(n)), itertools.count()))

    @property
    def queries(self) -> str:
        """Return the run's own copy of the query list."""
        return storage.join(self.root, "work", "queries.parquet")

    @property
    def staging(self) -> str:
        """Return the folder below which the fetched images wait."""
        return self.stage("fetch")

    @property
    def published(self) -> str:
        """Return the folder of all published files: the run's, or the folder beside it that replaces it."""
        return storage.join(self.root, _NEXT) if self.replaces else self.root

    @property
    def shards(self) -> str:
        """Return the folder of the finished shards."""
        return storage.join(self.published, "shards")

    @property
    def rejected(self) -> str:
        """Return the folder of the rejected rows."""
        return storage.join(self.published, "rejected")

    @property
    def manifest(self) -> str:
        """Return the manifest's path."""
        return storage.join(self.published, "manifest.json")

    @property
    def report(self) -> str:
        """Return the folder of the report."""
        return storage.join(self.published, "report")

    @property
    def card(self) -> str:
        """Return the dataset card's path."""
        return storage.join(self.published, "README.md")

    @property
    def croissant(self) -> str:
        """Return the path of the machine-readable description."""
        return storage.join(self.published, "croissant.json")

    @property
    def query_counts(self) -> str:
        """Return the path of the counts by query."""
        return storage.join(self.published, "query_counts.parquet")

    @property
    def near_duplicates(self) -> str:
        """Return the path of the counts, by site, of samples that `--dedup near` removed."""
        return storage.join(self.published, "near_duplicates.parquet")

    @property
    def near_groups(self) -> str:
        """Return the path of the table of which images are merged by their looks."""
        return self.stage("finish", "near-groups", "groups")

    @property
    def config(self) -> str:
        """Return the path of the options that repeat the run."""
        return storage.join(self.published, "config.toml")


def current(root: str) -> Layout:
    """Return the folder a run works in; a set that will replace the finished set is made beside it."""
    layout = Layout(root)
    return replace(layout, replaces=storage.exists(_note(root)) and not is_done(layout, "finish"))


def _note(root: str) -> str:
    return storage.join(Layout(root).work, "replaces.stage")


def keep_until_replaced(layout: Layout) -> Layout:
    """Note that a finished set, if there is any, stays until another is verified; return where to work."""
    if layout.replaces or not storage.exists(layout.manifest):
        return layout
    storage.write_bytes(_note(layout.root), b"true")
    return replace(layout, replaces=True)


def publish_next(layout: Layout) -> Layout:
    """Put a verified new set in the place of the finished set; return its folder.

    Anyone who is killed on the way does it again: the new set stays whole beside the run until all of it is
    in place too, and the manifest, which makes readers see a set, goes first and comes last.
    """
    if not layout.replaces:
        return layout
    old = replace(layout, replaces=False)
    storage.remove_tree(old.manifest)
    for folder in PUBLISHED_FOLDERS:
        new = storage.find_files(storage.join(layout.published, folder))
        for name in new:
            place = storage.join(folder, name)
            storage.link(storage.join(layout.published, place), storage.join(old.root, place))
        for name in set(storage.find_files(storage.join(old.root, folder))) - set(new):
            storage.remove_tree(storage.join(old.root, folder, name))
    for name in PUBLISHED_FILES:  # the manifest last
        source, target = storage.join(layout.published, name), storage.join(old.root, name)
        if storage.exists(source):
            storage.link(source, target)
        else:
            storage.remove_tree(target)
    # The set first: without it, and with the note, the last stage would be done again.
    storage.remove_tree(_note(layout.root))
    storage.remove_tree(layout.published)
    return old


def fingerprints(options: StageOptions, inputs: list[storage.FileInfo]) -> dict[str, str]:
    """Return each stage's fingerprint, hex; `options` holds the semantic options by stage."""
    upstream = _digest([SCHEMA_VERSION, [list(info) for info in inputs]])
    found = {}
    for stage in STAGES:
        upstream = _digest([upstream, stage, options[stage]])
        found[stage] = upstream
    return found


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=list).encode()).hexdigest()


def read_json(path: str) -> Any:
    """Return the value of a JSON file of a run, or None if there is none; ValueError if it is no JSON."""
    return untrusted.read_json(path, _MAX_JSON)


def changed_inputs(layout: Layout, inputs: list[storage.FileInfo]) -> list[str]:
    """Return the inputs that changed since the run began: files gone, added, or of another size or
    version."""
    recorded = read_json(layout.stage("candidates", "inputs.list"))
    if recorded is None:
        return []
    before, now = {info[0]: info for info in recorded}, {info.path: list(info) for info in inputs}
    lines = [f"{path} is gone" for path in before if path not in now]
    lines += [f"{path} is new" for path in now if path not in before]
    return lines + [f"{path} has changed" for path in now if path in before and before[path] != now[path]]


def first_changed_stage(layout: Layout, fingerprints: dict[str, str]) -> str:
    """Return the first stage that was begun under another fingerprint, or ""."""
    for stage in STAGES:
        begun = _begun(layout, stage)
        if begun is not None and begun.fingerprint != fingerprints[stage]:
            return stage
    return ""


@dataclass(frozen=True)
class _Begun:
    """The record made when a stage begins."""

    fingerprint: str
    options: dict[str, Value]


def _begun(layout: Layout, stage: str) -> _Begun | None:
    path = layout.stage(stage, _BEGUN)
    try:
        return msgspec.convert(read_json(path), _Begun | None)
    except msgspec.ValidationError as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def begun_options(layout: Layout) -> StageOptions:
    """Return the semantic options under which stages were begun, by stage."""
    found = {stage: _begun(layout, stage) for stage in STAGES}
    return {stage: begun.options for stage, begun in found.items() if begun is not None}


def seed(layout: Layout) -> int:
    """Return the seed of a run whose select was begun."""
    begun = _begun(layout, "select")
    assert begun is not None
    found = begun.options["seed"]
    assert isinstance(found, int)
    return found


def rule(layout: Layout) -> Rule:
    """Return the rule by which a run's captions were matched."""
    begun = _begun(layout, "select")
    return "metaclip" if begun is not None and begun.options.get("rule") == "metaclip" else "openwit"


def discard_from(layout: Layout, stage: str) -> None:
    """Remove the outputs of a stage and of all that follow; a finished set that is replaced stays.

    The note of the fingerprint goes last: anyone who is killed on the way finds it again, and begins again.
    """
    if layout.replaces:
        storage.remove_tree(layout.published)
    else:
        of_set = (layout.manifest, layout.card, layout.croissant, layout.report)
        for path in (*of_set, layout.shards, layout.rejected):
            storage.remove_tree(path)
    if stage == STAGES[0]:
        storage.remove_tree(layout.queries)  # before the record that the list is another
    for later in reversed(STAGES[STAGES.index(stage) :]):
        for path in storage.list_files(layout.stage(later)):
            if path != layout.stage(later, _BEGUN):
                storage.remove_tree(path)
        storage.remove_tree(layout.stage(later))


def forget_files(layout: Layout, stage: str) -> None:
    """Remove the files of a finished stage that nothing needs any more."""
    for path in storage.list_files(layout.stage(stage)):
        if path not in (layout.stage(stage, _BEGUN), layout.stage(stage, _DONE)):
            storage.remove_tree(path)


def begin(layout: Layout, stage: str, fingerprint: str, options: dict[str, Value]) -> None:
    """Record under which fingerprint a stage's files are written."""
    path = layout.stage(stage, _BEGUN)
    if not storage.exists(path):
        value = {"fingerprint": fingerprint, "options": options}
        storage.write_bytes(path, json.dumps(value, sort_keys=True, indent=1).encode())


def is_done(layout: Layout, stage: str) -> bool:
    """Return whether a stage is finished."""
    return storage.exists(layout.stage(stage, _DONE))


def done(layout: Layout, kind: type[S]) -> S:
    """Return the result of a finished stage."""
    found = untrusted.load_json(layout.stage(kind.stage, _DONE), _MAX_JSON)
    return only(decode(found, layout.stage(kind.stage)), kind)


def finish_stage(layout: Layout, result: Stage) -> None:
    """Write a stage's marker, last of all its files."""
    data = json.dumps(encode(result, layout.stage(result.stage)), sort_keys=True, indent=1).encode()
    storage.write_bytes(layout.stage(result.stage, _DONE), data)


def reopen(layout: Layout, stage: str) -> None:
    """Mark a stage as not finished."""
    storage.remove_tree(layout.stage(stage, _DONE))
