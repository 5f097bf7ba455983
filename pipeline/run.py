"""A run's folder: where things lie, what has been done, and whether it may be continued.

Each stage's fingerprint covers its own semantic options, the schema version, its input files and the
fingerprint upstream. A change reruns from the first stage that it touches; changed inputs are refused.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from pipeline import storage, untrusted

STAGES = ("candidates", "select", "fetch", "finish")
EXTENSIONS = "extensions"
_MAX_JSON = 1 << 30  # bytes: a stage's summary names every unit
SCHEMA_VERSION = 2  # of the files under work/; raised when their meaning changes


@dataclass(frozen=True)
class Layout:
    """Name the places in a run's folder.

    An extension works in a folder of its own, with the same places in it; what is finished is the run's.
    """

    root: str
    extension: int = 0
    """0 for the run as first made, n for what its n-th extension adds."""

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
        """Return the folder of a round's thresholds; later ones follow from what was fetched."""
        return self.stage("fetch", f"tried-{number}") if number else self.stage("select", "round-0")

    @property
    def queries(self) -> str:
        """Return the run's own copy of the query list."""
        return storage.join(self.root, "work", "queries.parquet")

    @property
    def staging(self) -> str:
        """Return the folder below which the fetched images wait."""
        return self.stage("fetch")

    @property
    def shards(self) -> str:
        """Return the folder of the finished shards."""
        return storage.join(self.root, "shards")

    @property
    def rejected(self) -> str:
        """Return the folder of the rejected rows."""
        return storage.join(self.root, "rejected")

    @property
    def manifest(self) -> str:
        """Return the manifest's path."""
        return storage.join(self.root, "manifest.json")

    @property
    def report(self) -> str:
        """Return the folder of the report."""
        return storage.join(self.root, "report")

    @property
    def card(self) -> str:
        """Return the dataset card's path."""
        return storage.join(self.root, "README.md")

    @property
    def croissant(self) -> str:
        """Return the path of the machine-readable description."""
        return storage.join(self.root, "croissant.json")


def fingerprints(options: dict[str, dict[str, Any]], inputs: list[storage.FileInfo]) -> dict[str, str]:
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
    """Return what changed since the run began: files gone, added, or of another size or version."""
    recorded = read_json(layout.stage("candidates", "inputs.list"))
    if recorded is None:
        return []
    before, now = {info[0]: info for info in recorded}, {info.path: list(info) for info in inputs}
    lines = [f"{path} is gone" for path in before if path not in now]
    lines += [f"{path} is new" for path in now if path not in before]
    return lines + [f"{path} has changed" for path in now if path in before and before[path] != now[path]]


def first_changed_stage(
    layout: Layout, prints: dict[str, str], options: dict[str, dict[str, Any]]
) -> tuple[str, str]:
    """Return the first stage begun under another fingerprint, and which options differ; ("", "") if none."""
    for stage in STAGES:
        begun = read_json(layout.stage(stage, "begun.stage"))
        if begun is not None and begun["fingerprint"] != prints[stage]:
            old, new = begun["options"], json.loads(json.dumps(options[stage]))
            names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
            return stage, ", ".join(f"{name}: {old.get(name)!r} -> {new.get(name)!r}" for name in names)
    return "", ""


def discard_from(layout: Layout, stage: str) -> None:
    """Remove the outputs of a stage and of all that follow.

    The note of the fingerprint goes last: whoever is killed on the way finds it again, and begins again.
    """
    of_set = (layout.manifest, layout.card, layout.croissant, layout.report)
    for path in (*of_set, layout.shards, layout.rejected):
        storage.remove_tree(path)
    for later in reversed(STAGES[STAGES.index(stage) :]):
        for path in storage.list_files(layout.stage(later)):
            if not path.endswith("/begun.stage"):
                storage.remove_tree(path)
        storage.remove_tree(layout.stage(later))


def begin(layout: Layout, stage: str, fingerprint: str, options: dict[str, Any]) -> None:
    """Record under which fingerprint a stage's files are written."""
    path = layout.stage(stage, "begun.stage")
    if not storage.exists(path):
        value = {"fingerprint": fingerprint, "options": options}
        storage.write_bytes(path, json.dumps(value, sort_keys=True, indent=1).encode())


def done(layout: Layout, stage: str) -> dict[str, Any] | None:
    """Return a finished stage's summary, or None."""
    found: dict[str, Any] | None = read_json(layout.stage(stage, "done.stage"))
    return found


def finish_stage(layout: Layout, stage: str, summary: dict[str, Any]) -> dict[str, Any]:
    """Write a stage's marker, last of all its files."""
    storage.write_bytes(
        layout.stage(stage, "done.stage"), json.dumps(summary, sort_keys=True, indent=1).encode()
    )
    return summary
