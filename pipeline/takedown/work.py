"""Remove the named samples from a run's work folder: rows, staged images, counts.

In the files of the first stage the rows become `taken_down`, so that no candidate is lost; the files of later
stages forget them. Every step can be repeated: a takedown that was killed is finished by doing it again.
"""

import json
import posixpath
import re
import shutil
from collections.abc import Iterable
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import run_folder, schemas, storage
from pipeline.candidates.parts import JudgedPiece
from pipeline.data.descriptors import PACKED_BYTES
from pipeline.fetch.parts import Fetched, Merged
from pipeline.flow import kept
from pipeline.flow.markers import finished, read_vector, write_vector
from pipeline.flow.parts import Counted, Part, files, only
from pipeline.flow.steps import TASKS, leftovers, tasks_in
from pipeline.run_folder import Layout
from pipeline.select.parts import Samples
from pipeline.select.workers import QueryTable, SampleQueryPairs, read_samples
from pipeline.takedown import tables
from pipeline.tombstones import Tombstones

_BLOB: Final = re.compile(r"[\w-]+/[\w@-]+", re.ASCII)  # round-0/00000-0000@ATTEMPT, in the staging folder


def scrub(layout: Layout, tombstones: Tombstones) -> None:
    """Remove all rows and images of everything that was taken down from RUN/work."""
    parts = parts_of(layout)
    _remove_leftovers(layout, parts)
    for part in parts:
        if isinstance(part, JudgedPiece):
            _candidates(part, tombstones)
        elif isinstance(part, Fetched):
            _fetched(layout, part, tombstones)
            _scrub_log(part.log, tombstones)
        else:
            for path in filter(storage.exists, tables.named_in(part)):
                if isinstance(part, Samples | Merged):
                    _recount(layout, part, tombstones)
                tables.rewrite(path, tombstones)
    _kept(layout, tombstones)
    _sum_counts(layout)
    storage.remove_tree(storage.join(layout.work, "workers.log"))  # which may hold anything


def parts_of(layout: Layout) -> list[Part]:
    """Return the results of the finished tasks of all stages; ValueError if another version left them."""
    folders = {posixpath.dirname(path) for path in tables.find_files(layout.work, ".json")}
    return [part for folder in sorted(folders - {layout.work}) for part in finished(folder).values()]


def _remove_leftovers(layout: Layout, parts: list[Part]) -> None:
    """Remove files that can be made again: of attempts that did not finish, or not first, and slices of
    shuffles."""
    for stage in storage.list_files(layout.work):
        for folder in storage.list_files(stage, ".spill"):
            storage.remove_tree(folder)
    known = {path for part in parts for path, _ in files(part)}
    for folder in {posixpath.dirname(path) for path in tables.find_files(layout.work, TASKS)}:
        for path in leftovers(folder, known):
            storage.remove_tree(path)


def _candidates(piece: JudgedPiece, tombstones: Tombstones) -> None:
    """Turn rows of a piece into `taken_down` ones: it says how many candidates there must be."""
    accepted, rejected = schemas.read_table(piece.path), schemas.read_table(piece.rejects)
    gone = tables.hits(accepted, tombstones)
    old = tables.hits(rejected, tombstones)
    rest = tables.without(rejected, old, tombstones)
    if not gone.any() and rest.equals(rejected):
        return
    taken = pc.equal(rest["reason"], tables.REASON).to_numpy()
    rest = rest.filter(pa.array(~taken))
    left = len(accepted) - int(gone.sum()) + int(pc.sum(rest["candidates"]).as_py() or 0)
    tombs = tables.taken_down_rows(piece.candidates - left).select(rest.column_names)  # older: fewer
    rows = pa.concat_tables([rest, tombs])
    # The rejected ones first: if it ends between the two, the accepted hits are found again.
    schemas.write_table(piece.rejects, rows)
    schemas.write_table(piece.path, accepted.filter(pa.array(~gone)))


def _fetched(layout: Layout, unit: Fetched, tombstones: Tombstones) -> None:
    """Overwrite the images of a fetched unit where they are staged, then forget their rows."""
    table = schemas.read_table(unit.path, ["uid", "final_url", "blob", "offset", "length"])
    gone = table.filter(pa.array(tables.hits(table, tombstones)))
    places: dict[str, list[tuple[int, int]]] = {}
    for blob, offset, length in zip(
        *(gone[n].to_pylist() for n in ("blob", "offset", "length")), strict=True
    ):
        if length:
            places.setdefault(blob, []).append((offset, length + PACKED_BYTES))
    for blob, ranges in places.items():
        if not _BLOB.fullmatch(blob):
            raise ValueError(
                f"{unit.path} names {blob!r} as the place of images, which is outside of the run"
            )
        staged = storage.join(layout.staging, f"{blob}.blob")
        if storage.exists(staged):
            overwrite(staged, ranges)
    tables.rewrite(unit.path, tombstones)


def kept_images(layout: Layout) -> list[str]:
    """Return the files that hold images of units that are not finished."""
    return [
        path
        for number in layout.rounds()
        for path in tables.find_files(layout.round(number), kept.SUFFIX)
        if not kept.is_finished(path)
    ]


def _kept(layout: Layout, tombstones: Tombstones) -> None:
    """Remove the matching images from unfinished units. Pages, which name many images, are fetched again."""
    images = set(kept_images(layout))
    for path in tables.find_files(layout.work, kept.SUFFIX):
        if path not in images:
            storage.remove_tree(path)
            continue
        before = kept.headers(path)
        table = tables.kept_rows(before)
        mask = tables.hits(table, tombstones)
        details = iter(tables.without(table, mask, tombstones)["detail"].to_pylist())
        after = [
            None if is_gone else {**header, "detail": next(details)}
            for header, is_gone in zip(before, mask.tolist(), strict=True)
        ]
        if after != before:
            kept.rewrite(path, after)


def overwrite(path: str, ranges: Iterable[tuple[int, int]]) -> None:
    """Put zeros over (offset, length) ranges of a file; bytes beside them keep their place."""
    with storage.open_input(path) as source, storage.atomic_output(path) as temporary:
        with temporary.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
        with temporary.open("r+b") as sink:
            for offset, length in ranges:
                sink.seek(offset)
                sink.write(bytes(length))


def _recount(layout: Layout, part: Samples | Merged, tombstones: Tombstones) -> None:
    """Write the counts by query of a samples file, or of a merged file, as they will be."""
    shared = part.shared if isinstance(part, Samples) else ""
    table = read_samples(part.path, shared, ["uid", "url", "page_url", "matched"])
    gone = tables.hits(table, tombstones)
    if not gone.any():
        return
    queries = read_vector(part.counts).shape[1]
    pairs = SampleQueryPairs.of(table.filter(pa.array(~gone)), queries)
    now = pairs.counts(queries)[None]
    if isinstance(part, Merged):  # as fetch.merge.MergeShuffler counts
        hashes = QueryTable(
            path=layout.queries, seed=run_folder.seed(layout), queries=queries, rule=run_folder.rule(layout)
        ).hashes
        within = pairs.within(hashes, read_vector(storage.join(layout.tried(part.round), "thresholds")))
        now = np.concatenate([now, pairs.counts(queries, within)[None]])
    write_vector(part.counts, now)


def _sum_counts(layout: Layout) -> None:
    """Write the sums of counts by query again, where they were written before."""
    rounds = layout.rounds()
    for number in [*rounds, len(rounds)]:
        for folder in (layout.tried(number), layout.arrived(number)):
            path = storage.join(folder, "counts")
            if storage.exists(path):
                _sum(layout, path, [only(task, Counted).counts for task in tasks_in(folder)], number)


def _sum(layout: Layout, path: str, counts: list[str], number: int) -> None:
    if not counts and number:  # a round that only retries takes over the tried images of the previous round
        storage.copy_file(storage.join(layout.tried(number - 1), "counts"), path)
    elif counts and all(map(storage.exists, counts)):
        write_vector(path, np.stack([read_vector(one) for one in counts]).sum(axis=0, dtype=np.int64))


def _scrub_log(path: str, tombstones: Tombstones) -> None:
    """Take hosts out of a unit's log."""
    rows = [json.loads(line) for line in storage.read_bytes(path).decode().splitlines()]
    named = [row for row in rows if tombstones.has_host(str(row.get("site", "")))]
    for row in named:
        row["site"] = ""
    if named:
        text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
        storage.write_bytes(path, text.encode())
