"""Another round for transient failures: `--retry-failed` on a run that is finished.

The round takes those images of the last round whose failure may have passed and that a query would still
keep, at the thresholds that hold, so it tries nothing new; then everything that arrived is merged and
balanced again. Where the staged images were removed, they are taken back out of the shards first; an image
that `--dedup near` merged into an image of the set then stays merged.
"""

from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import checked_manifest, run_folder, schemas, storage
from pipeline.crawl import Crawl
from pipeline.data.descriptors import NOT_DESCRIBED
from pipeline.fetch.parts import Restored
from pipeline.fetch.units import worth_retrying
from pipeline.flow.markers import mark, read_vector, write_json, write_vector
from pipeline.run_folder import Layout, read_json
from pipeline.shards import read_shard
from pipeline.stages import Rounds

_RETRIES: Final = "retries.stage"
_COMMAND: Final = "retrying.stage"
"""Number of the round of a `--retry-failed` that has not come to its end."""

_RESTORED: Final = "restored"
_GROUPS: Final = "near-groups.parquet"
NO_BYTES: Final = -1
"""Length of an image that was merged by its looks before a retry, and went when the shards were verified."""


def reopen(crawl: Crawl) -> int | None:
    """Give a finished run another round; return how many images it will try.

    ValueError for a run that cannot have another round.

    0 leaves everything as it is; None stands for a run that is not finished and only has to be continued, or
    whose last `--retry-failed` did all but say so.
    """
    layout = crawl.layout
    if not (run_folder.is_done(layout, "fetch") and run_folder.is_done(layout, "finish")):
        return None
    fetched = run_folder.done(layout, Rounds)
    if read_json(layout.stage("fetch", _COMMAND)) == fetched.last:
        return None
    count = _retried(crawl, fetched)
    if not count:
        return 0
    if storage.exists(layout.stage("fetch", "removed.stage")):
        if crawl.config.dedup == "near":
            _keep_groups(layout)
        restore(crawl, fetched)
        storage.remove_tree(layout.stage("fetch", "removed.stage"))
    number = fetched.last + 1
    for folder_of in (layout.tried, layout.units, layout.round, layout.merged, layout.arrived):
        storage.remove_tree(folder_of(number))  # of a round that found nothing to do
    write_json(layout.stage("fetch", _RETRIES), sorted({*retries(layout), number}))
    write_json(layout.stage("fetch", _COMMAND), number)
    _open(layout)
    return count


def resume(layout: Layout) -> None:
    """Complete the work of a `reopen` that was killed."""
    if not run_folder.is_done(layout, "fetch") or run_folder.is_done(layout, "finish"):
        return
    if read_json(layout.stage("fetch", _COMMAND)) == run_folder.done(layout, Rounds).last + 1:
        _open(layout)


def retried(layout: Layout) -> None:
    """Note that a command has come to its end: the next `--retry-failed` begins a new round."""
    storage.remove_tree(layout.stage("fetch", _COMMAND))


def _open(layout: Layout) -> None:
    # The set stays until another is verified. Its stage's marker first: its files are about to go.
    layout = run_folder.keep_until_replaced(layout)
    run_folder.reopen(layout, "finish")
    run_folder.discard_from(layout, "finish")
    run_folder.reopen(layout, "fetch")


def retries(layout: Layout) -> list[int]:
    """Return the numbers of the rounds that only retry, ascending."""
    return read_json(layout.stage("fetch", _RETRIES)) or []


def repeat_thresholds(layout: Layout, number: int) -> None:
    """Let a round try up to the thresholds of the round before: nothing but its retries."""
    for name in ("rank", "counts", "thresholds"):  # the last says that they are all there
        write_vector(
            storage.join(layout.tried(number), name),
            read_vector(storage.join(layout.tried(number - 1), name)),
        )


def _retried(crawl: Crawl, fetched: Rounds) -> int:
    """Return how many images of the last round another round would try."""
    arrived = read_vector(storage.join(crawl.layout.arrived(fetched.last), "thresholds"))
    count = 0
    for unit in fetched.rounds[-1].units:
        tried, rows = schemas.read_table(unit.path), schemas.read_table(unit.unit)
        count += int(worth_retrying(tried, rows, crawl.queries.hashes, arrived).sum())
    return count


def merged_before(layout: Layout) -> str:
    """Return the file of the groups of near-duplicates that a retry leaves as they are, or ""."""
    path = layout.stage("fetch", _GROUPS)
    return path if storage.exists(path) else ""


def _keep_groups(layout: Layout) -> None:
    """Note which near-duplicates were merged into an image of the set; only that image has bytes."""
    shards = checked_manifest.of(layout.root).shards
    rows = (storage.sibling(storage.join(layout.shards, shard.name), ".parquet") for shard in shards)
    kept = [uid for path in rows for uid in schemas.read_table(path, ["uid"])["uid"].to_pylist()]
    stays = pa.array(map(bytes.fromhex, kept), pa.binary(schemas.UID_BYTES))
    groups = schemas.read_table(layout.near_groups)
    groups = groups.filter(pc.is_in(groups["representative"], value_set=stays))
    schemas.write_table(layout.stage("fetch", _GROUPS), groups)


def restore(crawl: Crawl, fetched: Rounds) -> None:
    """Stage the shards' images again, and let the tables of everything that was fetched point to them.

    Fetched images that were not needed are gone; their rows become `over_cap`. An image merged into another,
    or rejected with a whole group, keeps its row without an image. Takes 40 bytes per image of the set.
    """
    layout = crawl.layout
    key = "uid" if crawl.config.dedup == "off" else "sha256"
    described = crawl.config.images.describe == "now"
    shards = checked_manifest.of(layout.root).shards
    tables = [_restore_shard(layout, shard.name, described) for shard in shards]
    places = pa.concat_tables([_PLACES.empty_table(), *tables]).sort_by("uid")
    merged = [schemas.read_table(one.path, ["uid", "sha256"]) for one in fetched.rounds[-1].merged]
    over = _values(pa.concat_tables(merged)[key]) if merged else np.zeros(0, object)
    groups = merged_before(layout) if crawl.config.dedup == "near" else ""
    members = (
        schemas.read_table(groups)["uid"].combine_chunks() if groups else pa.array([], places["uid"].type)
    )
    alike = [table.filter(pc.is_in(table["uid"], value_set=members)) for table in merged]
    staged = _Places(places, key, members, pa.concat_tables(alike)[key] if alike else places[key])
    for unit in fetched.units:
        schemas.write_table(unit.path, staged.point(schemas.read_table(unit.path), over))


def forget_restored(layout: Layout) -> None:
    """Remove the images that `restore` has staged."""
    storage.remove_tree(layout.stage("fetch", _RESTORED))


_PLACES: Final = pa.schema(
    [
        pa.field("uid", pa.binary(schemas.UID_BYTES)),
        pa.field("sha256", pa.binary(32)),
        pa.field("blob", pa.string()),
        pa.field("offset", pa.int64()),
        pa.field("length", pa.int64()),
    ]
)


def _restore_shard(layout: Layout, name: str, described: bool) -> pa.Table:
    """Write a shard's images and descriptors as a blob; return where each is."""
    tar = storage.join(layout.shards, name)
    stem = storage.stem(name)
    columns = ["uid", "sha256", *(["descriptor"] if described else [])]
    rows = schemas.read_table(storage.sibling(tar, ".parquet"), columns)
    uids, digests, *stored = (rows[column].to_pylist() for column in rows.column_names)
    descriptors = stored[0] if described else [NOT_DESCRIBED] * len(rows)
    places: list[tuple[Any, ...]] = []
    folder = layout.stage("fetch", _RESTORED)
    restored = Restored(name=stem, blob=storage.join(folder, f"{stem}.blob"))
    with (
        storage.open_input(tar) as source,
        storage.atomic_output(restored.blob) as path,
        path.open("wb") as sink,
    ):
        for uid, digest, descriptor, sample in zip(
            uids, digests, descriptors, read_shard(source), strict=True
        ):
            place = (f"{_RESTORED}/{stem}", sink.tell(), len(sample.jpg))
            places.append((bytes.fromhex(uid), bytes.fromhex(digest), *place))
            sink.write(sample.jpg + descriptor)
    mark(folder, restored)
    return schemas.to_table(places, _PLACES)


def _values(column: pa.ChunkedArray) -> np.ndarray:
    """Return fixed-size binary values, without nulls, as sorted distinct ones that numpy can search."""
    width = column.type.byte_width
    return np.unique(np.array(column.drop_null().to_pylist(), dtype=f"S{width}"))


def _among(values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return np.isin(wanted, values, assume_unique=False)


class _Places:
    """Where the images of the set are staged again."""

    def __init__(self, places: pa.Table, key: str, members: pa.Array, alike: pa.ChunkedArray) -> None:
        """Take where images are, and uids and keys of those that were merged into them by their looks."""
        self._places = places
        self._key = key
        self._uids = np.array(places["uid"].to_pylist(), dtype=f"S{schemas.UID_BYTES}")
        self._kept = _values(pa.chunked_array([*places[key].chunks, *alike.chunks], alike.type))
        self._members = members

    def point(self, table: pa.Table, over: np.ndarray) -> pa.Table:
        """Return the rows of a fetched unit with the images' new places; `over`: keys of all that merged."""
        arrived = pc.equal(table["reason"], "").to_numpy()
        uids = np.array(table["uid"].to_pylist(), dtype=self._uids.dtype)
        at = np.minimum(np.searchsorted(self._uids, uids), max(len(self._uids) - 1, 0))
        here = arrived & (self._uids[at] == uids) if len(self._uids) else np.zeros(len(table), bool)
        keys = np.array([value or b"" for value in table[self._key].to_pylist()], dtype=over.dtype)
        gone = arrived & ~here & _among(over, keys) & ~_among(self._kept, keys)
        rows = self._places.take(pa.array(np.where(here, at, 0))) if len(self._places) else None
        columns = {name: table[name] for name in table.column_names}
        for name, none in (("blob", ""), ("offset", 0), ("length", 0)):
            columns[name] = none if rows is None else pc.if_else(pa.array(here), rows[name], none)
            if rows is None:
                columns[name] = pa.array([none] * len(table), table.schema.field(name).type)
        is_member = pc.and_(pa.array(arrived & ~here), pc.is_in(table["uid"], value_set=self._members))
        columns["length"] = pc.if_else(is_member, pa.scalar(NO_BYTES, pa.int64()), columns["length"])
        columns["reason"] = pc.if_else(pa.array(gone), "over_cap", table["reason"])
        columns["detail"] = pc.if_else(pa.array(gone), "fetched, not needed", table["detail"])
        return pa.table(columns, schema=table.schema)
