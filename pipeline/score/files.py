"""Scores beside a finished run: RUN/scores/NAME/ holds a table for each shard, and scores.json, written last.

The shards stay as they are. A table has the rows of its shard in their order: uid, key, score_*. scores.json
says by which scorer they are, and of which bytes: scores of a shard that was written again by another crawl
do not count.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import checked_manifest, manifest, schemas, storage, untrusted
from pipeline.checked_manifest import Count, Manifest
from pipeline.flow.parts import Part

FOLDER: Final = "scores"
FILE: Final = "scores.json"
WORK: Final = "work"
"""Folder of everything that is not finished, beside the sets."""
_NAME: Final = re.compile(r"\w[\w.-]*", re.ASCII)
_COLUMN: Final = re.compile(r"score_\w+", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class ScoredShard(Part):
    """A shard that was scored; `name` is NNNNN."""

    rows: Count
    of: str
    """SHA-256 of the shard's tar."""
    sha256: tuple[str, ...]
    """Of the tables of scores, one for each scorer in the order given."""


@dataclass(frozen=True, kw_only=True)
class ScoreTable:
    """A table of scores, and which bytes they are of."""

    name: str
    """NNNNN.parquet"""
    rows: Count
    sha256: str
    of: str
    """SHA-256 of the shard's tar."""

    def __post_init__(self) -> None:
        """Raise ValueError for anything but a name, such as a path."""
        if not checked_manifest.SHARD_NAME.fullmatch(storage.stem(self.name) + ".tar"):
            raise ValueError("name is not digits and .parquet")


@dataclass(frozen=True, kw_only=True)
class ScoreSet:
    """All scores of a run by one scorer."""

    format: str = "openwit scores"
    format_version: int = 1
    scorer: str
    """As given, without private parts."""
    fingerprint: str
    """Of all that the values depend on."""
    columns: tuple[str, ...]
    tables: tuple[ScoreTable, ...]

    def __post_init__(self) -> None:
        """Refuse columns that are no scores: ValueError."""
        if not self.columns or not all(map(_COLUMN.fullmatch, self.columns)):
            raise ValueError("columns must be names that begin with score_")

    def stale(self, shards: Manifest) -> list[str]:
        """Return the shards, NNNNN, that have no scores, or scores of other bytes."""
        known = {storage.stem(table.name): table.of for table in self.tables}
        return [stem for one in shards.shards if known.get(stem := storage.stem(one.name)) != one.sha256]


def folder(root: str, name: str, *parts: str) -> str:
    """Return the folder of a set of scores, or a path in it."""
    return storage.join(root, FOLDER, name, *parts)


def names(root: str) -> list[str]:
    """Return the names of the sets that a run has, finished or not."""
    found = {path.partition("/")[0] for path in storage.find_files(storage.join(root, FOLDER))}
    return sorted(name for name in found - {WORK} if _NAME.fullmatch(name))


def read(root: str, name: str) -> ScoreSet | None:
    """Return a set of scores, None where it is not finished; ValueError if openwit did not write it."""
    path = folder(root, name, FILE)
    found = untrusted.read_json(path)
    if found is None:
        return None
    try:
        return msgspec.convert(found, ScoreSet)
    except msgspec.ValidationError as error:
        raise ValueError(
            f"{path} was not written by `openwit score`: {checked_manifest.told(error)}"
        ) from None


def write(root: str, name: str, scores: ScoreSet) -> None:
    """Publish scores.json, after the tables that it names."""
    manifest.write_json(folder(root, name, FILE), asdict(scores))


def by_column(root: str, wanted: Sequence[str]) -> dict[str, str]:
    """Return the name of the set that has each column, of those wanted that are in any.

    ValueError where it does not cover the run's shards as they are.
    """
    found: dict[str, str] = {}
    for name in names(root):
        scores = read(root, name)
        columns = [column for column in wanted if scores is not None and column in scores.columns]
        if scores is not None and columns and (stale := scores.stale(checked_manifest.of(root))):
            raise ValueError(
                f"{folder(root, name)} lacks {len(stale)} of the run's shards, or is of other shards: run "
                f"`openwit score --run {root} --scorer {scores.scorer}` again"
            )
        found |= dict.fromkeys(columns, name)
    return found


def rewrite(root: str, change: Callable[[str], object]) -> None:
    """Remove rows of all tables by `change`, which is given their paths, after it was done to the shards.

    Unfinished scores are removed. Doing it again gives the same files.
    """
    storage.remove_tree(storage.join(root, FOLDER, WORK))
    for name in names(root):
        scores = read(root, name)
        if scores is None:
            storage.remove_tree(folder(root, name))
            continue
        shards = {storage.stem(shard.name): shard.sha256 for shard in checked_manifest.of(root).shards}
        tables = []
        for table in scores.tables:
            path = folder(root, name, table.name)
            change(path)
            uids = schemas.read_table(path, ["uid"])
            stem = storage.stem(table.name)
            is_same = stem in shards and uids.equals(_uids(root, stem))
            of = shards[stem] if is_same else table.of
            tables.append(replace(table, rows=len(uids), sha256=storage.sha256_file(path), of=of))
        write(root, name, replace(scores, tables=tuple(tables)))


def copy(source: str, target: str) -> None:
    """Write the scores of a run for another run with some of its samples, under the same keys."""
    shards = checked_manifest.of(target).shards
    for name in names(source):
        scores = read(source, name)
        if scores is None or scores.stale(checked_manifest.of(source)):
            continue
        tables = []
        for shard in shards:
            stem = storage.stem(shard.name)
            path, kept = f"{stem}.parquet", _uids(target, stem)
            rows = schemas.read_table(folder(source, name, path))
            mask = pc.is_in(rows["uid"], value_set=kept["uid"].combine_chunks())
            schemas.write_table(folder(target, name, path), rows.filter(mask))
            digest = storage.sha256_file(folder(target, name, path))
            tables.append(ScoreTable(name=path, rows=len(kept), sha256=digest, of=shard.sha256))
        write(target, name, replace(scores, tables=tuple(tables)))


def problems(root: str) -> list[str]:
    """Return the faults of a run's scores; [] if nothing."""
    found = []
    for name in names(root):
        scores = read(root, name)
        if scores is None:
            continue  # not finished, and read by nobody
        if stale := scores.stale(checked_manifest.of(root)):
            found.append(
                f"{folder(root, name)} lacks {len(stale)} of the run's shards, or is of other shards"
            )
        for table in scores.tables:
            path = folder(root, name, table.name)
            if not storage.exists(path):
                found.append(f"{path} is missing")
            elif storage.sha256_file(path) != table.sha256:
                found.append(f"{path} has another sha256 than {FILE}")
            elif (stem := storage.stem(table.name)) not in stale and not schemas.read_table(
                path, ["uid"]
            ).equals(_uids(root, stem)):
                found.append(f"{path} does not have the rows of its shard")
    return found


def _uids(root: str, shard: str) -> pa.Table:
    return schemas.read_table(storage.join(root, "shards", f"{shard}.parquet"), ["uid"])
