"""Remove what was taken down from a run's work folder: rows, staged images, counts.

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

from pipeline import records, storage
from pipeline.data.descriptors import PACKED_BYTES
from pipeline.flow import kept
from pipeline.flow.markers import finished, read_marker, read_vector, write_vector
from pipeline.run import Layout, read_json
from pipeline.select.workers import Pairs, QueryTable
from pipeline.takedown import tables
from pipeline.tombstones import Tombstones

_BLOB: Final = re.compile(r"[\w-]+/[\w@-]+", re.ASCII)  # round-0/00000-0000@ATTEMPT, in the staging folder


def scrub(layout: Layout, stones: Tombstones) -> None:
    """Remove all rows and images of what was taken down from RUN/work."""
    candidates = layout.stage("candidates")
    _remove_strays(layout)
    for path in tables.find_files(layout.work, ".parquet"):
        folder = posixpath.dirname(path)
        if folder == candidates:
            _candidates(path, stones)
        elif posixpath.basename(folder).startswith("round-"):
            _fetched(layout, path, stones)
        else:
            if storage.exists(_counts(path)):
                _recount(layout, path, stones)
            tables.rewrite(path, stones)
    _kept(layout, stones)
    _sum_counts(layout)
    _scrub_logs(layout, stones)


def _remove_strays(layout: Layout) -> None:
    """Remove what is made again: attempts that came to no end, or not first, and the slices of shuffles."""
    for stage in storage.list_files(layout.work):
        for folder in storage.list_files(stage, ".spill"):
            storage.remove_tree(folder)
    for folder in storage.list_files(layout.stage("fetch")):
        if posixpath.basename(folder).startswith("round-"):
            results = finished(folder).values()
            # By name: the run may have been moved since.
            wanted = {storage.stem(result["fetched"]) for result in results}
            for path in storage.list_files(folder):
                stem, ending = posixpath.splitext(posixpath.basename(path))
                if ending in (".blob", ".parquet") and stem not in wanted:
                    storage.remove_tree(path)


def _candidates(path: str, stones: Tombstones) -> None:
    """Turn rows of a piece into `taken_down` ones; its marker says how many candidates there must be."""
    if path.endswith(".rejected.parquet"):
        return  # together with the accepted ones
    marker = read_marker(posixpath.dirname(path), storage.stem(path))
    if marker is None:
        return  # not finished: it will be made again
    accepted = records.read_table(path)
    rejected = records.read_table(storage.sibling(path, ".rejected.parquet"))
    gone = tables.hits(accepted, stones)
    old = tables.hits(rejected, stones)
    rest = tables.without(rejected, old, stones)
    if not gone.any() and rest.equals(rejected):
        return
    taken = pc.equal(rest["reason"], tables.REASON).to_numpy()
    rest = rest.filter(pa.array(~taken))
    left = len(accepted) - int(gone.sum()) + int(pc.sum(rest["candidates"]).as_py() or 0)
    rows = pa.concat_tables([rest, tables.taken_down_rows(marker["candidates"] - left)])
    # The rejected ones first: if it ends between the two, the accepted hits are found again.
    records.write_table(storage.sibling(path, ".rejected.parquet"), rows)
    records.write_table(path, accepted.filter(pa.array(~gone)))


def _fetched(layout: Layout, path: str, stones: Tombstones) -> None:
    """Overwrite the images of a fetched unit where they are staged, then forget their rows."""
    table = records.read_table(path, ["uid", "final_url", "blob", "offset", "length"])
    gone = table.filter(pa.array(tables.hits(table, stones)))
    places: dict[str, list[tuple[int, int]]] = {}
    for blob, offset, length in zip(
        *(gone[n].to_pylist() for n in ("blob", "offset", "length")), strict=True
    ):
        if length:
            places.setdefault(blob, []).append((offset, length + PACKED_BYTES))
    for blob, ranges in places.items():
        if not _BLOB.fullmatch(blob):
            raise ValueError(f"{path} names {blob!r} as the place of images, which is outside of the run")
        staged = storage.join(layout.staging, f"{blob}.blob")
        if storage.exists(staged):
            overwrite(staged, ranges)
    tables.rewrite(path, stones)


def kept_images(folder: str) -> list[str]:
    """Return the parts that hold images of units that are not finished, of a run or a part of it."""
    return [path for path in tables.find_files(folder, kept.SUFFIX) if _is_of_images(path)]


def _is_of_images(path: str) -> bool:
    folder, unit = kept.unit_of(path)
    return posixpath.basename(folder).startswith("round-") and read_marker(folder, unit) is None


def _kept(layout: Layout, stones: Tombstones) -> None:
    """Forget what unfinished units have kept of it. Pages, which name many images, are fetched again."""
    for path in tables.find_files(layout.work, kept.SUFFIX):
        if not _is_of_images(path):
            storage.remove_tree(path)
            continue
        before = kept.headers(path)
        table = tables.kept_rows(before)
        mask = tables.hits(table, stones)
        details = iter(tables.without(table, mask, stones)["detail"].to_pylist())
        after = [
            None if is_gone else {**header, "detail": next(details)}
            for header, is_gone in zip(before, mask.tolist(), strict=True)
        ]
        if after != before:
            kept.rewrite(path, after)


def overwrite(path: str, ranges: Iterable[tuple[int, int]]) -> None:
    """Put zeros over (offset, length) ranges of a file; what is beside them keeps its place."""
    with storage.open_input(path) as source, storage.atomic_output(path) as temporary:
        with temporary.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
        with temporary.open("r+b") as sink:
            for offset, length in ranges:
                sink.seek(offset)
                sink.write(bytes(length))


def _counts(path: str) -> str:
    return storage.sibling(path, ".counts")


def _recount(layout: Layout, path: str, stones: Tombstones) -> None:
    """Write the counts by query of a samples file, or of a merged one, as they will be."""
    table = records.read_table(path, ["uid", "url", "page_url", "matched"])
    gone = tables.hits(table, stones)
    if not gone.any():
        return
    counts = read_vector(_counts(path))
    pairs = Pairs.of(table.filter(pa.array(~gone)), counts.shape[1])
    now = pairs.counts(counts.shape[1])[None]
    folder = posixpath.basename(posixpath.dirname(path))
    if folder.startswith("merged-"):  # as fetch.merge.MergeShuffler counts
        seed = read_json(layout.stage("select", "begun.stage"))["options"]["seed"]
        queries = QueryTable(path=layout.queries, seed=seed, queries=counts.shape[1])
        limits = read_vector(storage.join(layout.tried(int(folder.removeprefix("merged-"))), "thresholds"))
        within = pairs.within(queries.hashes, limits)
        now = np.concatenate([now, pairs.counts(counts.shape[1], within)[None]])
    write_vector(_counts(path), now)


def _sum_counts(layout: Layout) -> None:
    """Write the sums over all files of samples and of each merge anew, where they were written before."""
    parts = {layout.stage("select", "samples"): [layout.tried(0)]}
    for path in tables.find_files(layout.stage("fetch"), "/counts"):
        folder = posixpath.dirname(path)
        kind, _, number = posixpath.basename(folder).partition("-")
        if kind == "tried":
            parts[layout.stage("select", "samples")].append(folder)
        elif kind == "arrived":
            parts[layout.stage("fetch", f"merged-{number}")] = [folder]
    for source, sums in parts.items():
        vectors = [read_vector(path) for path in tables.find_files(source, ".counts")]
        for folder in sums:
            path = storage.join(folder, "counts")
            if vectors and storage.exists(path):
                write_vector(path, np.stack(vectors).sum(axis=0, dtype=np.int64))


def _scrub_logs(layout: Layout, stones: Tombstones) -> None:
    """Take hosts out of the units' logs, and remove the workers' log, which may hold anything."""
    for path in tables.find_files(layout.stage("fetch"), ".jsonl"):
        lines = storage.read_bytes(path).decode().splitlines()
        rows = [json.loads(line) for line in lines]
        named = [row for row in rows if stones.has_host(str(row.get("site", "")))]
        for row in named:
            row["site"] = ""
        if named:
            text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
            storage.write_bytes(path, text.encode())
    storage.remove_tree(storage.join(layout.work, "workers.log"))
