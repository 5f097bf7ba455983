"""`openwit takedown`: remove samples from a run, and refuse them from then on.

The plan is written down first, in RUN/takedown.json, and then done in steps that can be repeated; a killed
takedown is finished by the next. The file names nothing but digests.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import msgspec
import pyarrow as pa
from rich.console import Console

from pipeline import (
    checked_manifest,
    extend,
    finished_set,
    hashlist,
    manifest,
    run_folder,
    schemas,
    storage,
)
from pipeline import config as parser
from pipeline.checked_manifest import Counts
from pipeline.cli_runtime import guarded
from pipeline.flow import kept
from pipeline.formats import count
from pipeline.index import place
from pipeline.lock import lock
from pipeline.options.finished import TakedownConfig
from pipeline.run_folder import Layout, read_json
from pipeline.score import files as score_files
from pipeline.takedown import published, tables, work
from pipeline.terminal import output, terminal
from pipeline.tombstones import PENDING, Tombstones
from pipeline.tombstones import load as load_tombstones
from pipeline.tombstones import save as save_tombstones


def main(argv: Sequence[str], prog: str = "openwit takedown") -> int:
    """Take down; return 0 when every file of the run is clean."""
    options, _ = parser.parse(TakedownConfig, argv, prog=prog)
    console = terminal()
    layout = Layout(options.run.rstrip("/"))
    return guarded(prog, console, layout.work, lambda: takedown(options, layout, console))


def takedown(options: TakedownConfig, layout: Layout, console: Console) -> int:
    """Finish an interrupted takedown, then do the request; ValueError where that cannot be done."""
    is_finished = storage.exists(layout.manifest)
    if not is_finished and not storage.exists(layout.work):
        raise ValueError(f"{layout.root} holds no run")
    is_known = is_finished or run_folder.current(layout.root).replaces
    if is_known and storage.exists(layout.stage("finish")) and not run_folder.is_done(layout, "finish"):
        raise ValueError(
            "the crawl stopped just before its end: run its command again first, then this command"
        )
    if message := extend.interrupted(layout.root):
        raise ValueError(message)
    for part in extend.layouts(layout.root):
        work.parts_of(part)  # those of another version are refused before anything is done
    asked = options.request()
    _check_reports(options.overlap)
    if options.check:
        tombstones = expanded(layout, load_tombstones(layout.root) | asked)
        _, samples = removed(layout, tombstones)
        output().print(f"{count(samples, 'sample')} would be removed. Nothing was written.")
        return 0
    # The command as typed, which the lock would note, names the very sample to forget.
    with lock(layout.work, f"openwit takedown --run {options.run}"):
        unfinished = _read_pending(layout)
        if not asked and unfinished is None:
            raise ValueError("say what to remove: --url, --domain, --sha256 or --phash")
        if unfinished is not None:
            apply(layout, unfinished)
            console.print("Finished the takedown that was interrupted.")
        if asked:
            tombstones = expanded(layout, load_tombstones(layout.root) | asked)
            counts, samples = removed(layout, tombstones)
            apply(layout, write_down(layout, tombstones, counts, options.overlap))
            output().print(
                f"{count(samples, 'sample')} removed from {layout.root}; "
                "the named images are refused from now on",
                soft_wrap=True,
            )
    return 0


def expanded(layout: Layout, tombstones: Tombstones) -> Tombstones:
    """Return the tombstones with every image of the run that they mean, and every copy of its bytes.

    An image is found by its URL, its page, where it was redirected, its bytes or its look.
    """
    paths = [path for path in tables.find_files(layout.root, ".parquet") if "uid" in tables.columns_of(path)]
    paths += [path for part in extend.layouts(layout.root) for path in work.kept_images(part)]
    uids: set[str] = set()
    for path in paths:
        table = _identities(path)
        gone = tables.hits(table, tombstones) | tables.image_hits(table, tombstones)
        uids.update(_hex(value) for value in table["uid"].filter(pa.array(gone)).to_pylist())
    uids.discard("")  # of rejected rows without a valid URL
    tombstones |= Tombstones(urls=frozenset(uids))
    digests: set[bytes] = set()
    for path in paths:
        table = _identities(path)
        if "sha256" in table.column_names:
            found = table["sha256"].filter(pa.array(tables.hits(table, tombstones))).to_pylist()
            digests.update(bytes.fromhex(_hex(value)) for value in found if value)
    if not digests - tombstones.images.sha256:
        return tombstones
    return expanded(layout, tombstones | Tombstones(images=hashlist.HashList(sha256=frozenset(digests))))


def _identities(path: str) -> pa.Table:
    if path.endswith(kept.SUFFIX):
        return tables.kept_rows(kept.headers(path))
    names = tables.columns_of(path)
    return schemas.read_table(
        path, [name for name in ("uid", *tables.URL_COLUMNS, "sha256", "phash") if name in names]
    )


def _hex(value: bytes | str) -> str:
    return value.hex() if isinstance(value, bytes) else value


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The result of a takedown for a finished set."""

    counts: Counts
    """Of the manifest as it will be."""
    shards: tuple[str, ...]
    """NNNNN.tar that are written again."""

    def __post_init__(self) -> None:
        """Raise ValueError for anything but a plan."""
        if not all(map(checked_manifest.SHARD_NAME.fullmatch, self.shards)):
            raise ValueError("shards must be digits and .tar")
        if tables.REASON not in self.counts.rejected_by_stage.get("candidates", {}):
            raise ValueError(f"counts has no candidates that are {tables.REASON}")

    @property
    def taken_down(self) -> int:
        """Return how many candidates are taken down, with those of before."""
        return self.counts.rejected_by_stage["candidates"][tables.REASON]


@dataclass(frozen=True, kw_only=True)
class Pending:
    """The plan, written down before anything is done, in RUN/takedown.json."""

    tombstones: dict[str, Any]
    """As `Tombstones.to_json` returns it."""
    published: Plan | None
    """None where no set is finished."""
    overlap: tuple[str, ...]
    """Folders of reports."""


def removed(layout: Layout, tombstones: Tombstones) -> tuple[Plan | None, int]:
    """Return the plan for a finished set and how many samples it loses."""
    if not storage.exists(layout.manifest):
        return None, 0
    counts, shards = published.planned_counts(layout, tombstones)
    before = checked_manifest.of(layout.root).counts.samples
    return Plan(counts=counts, shards=tuple(shards)), before - counts.samples


def write_down(layout: Layout, tombstones: Tombstones, plan: Plan | None, overlap: Sequence[str]) -> Pending:
    """Publish the plan: from here on the takedown will be finished, whatever happens."""
    pending = Pending(tombstones=tombstones.to_json(), published=plan, overlap=tuple(overlap))
    manifest.write_json(storage.join(layout.root, PENDING), asdict(pending))
    return pending


def _read_pending(layout: Layout) -> Pending | None:
    """Return the plan of an interrupted takedown, None if there is none; ValueError for anything else."""
    path = storage.join(layout.root, PENDING)
    found = read_json(path)
    if found is None:
        return None
    try:
        pending = msgspec.convert(found, Pending)
        Tombstones.from_json(pending.tombstones)
    except msgspec.ValidationError as error:
        raise ValueError(
            f"{path} was not written by `openwit takedown`: {checked_manifest.told(error)}"
        ) from None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} was not written by `openwit takedown` ({error})") from None
    _check_reports(pending.overlap)
    return pending


def _check_reports(folders: Sequence[str]) -> None:
    """Raise ValueError for a folder that `openwit overlap` has not written to: files are removed there."""
    for folder in folders:
        if not any(storage.exists(storage.join(folder, name)) for name in ("matches.parquet", "work")):
            raise ValueError(f"{folder} is not the folder of an `openwit overlap` report")


def apply(layout: Layout, pending: Pending) -> None:
    """Carry the plan out; doing it again, wholly or from the middle, gives the same files."""
    tombstones = Tombstones.from_json(pending.tombstones)
    save_tombstones(layout.root, tombstones)
    plan = pending.published
    for part in extend.layouts(layout.root):
        if storage.exists(part.work):
            _forget_finish(part, is_finished=plan is not None)
            work.scrub(part, tombstones)
    if plan is not None:
        state = finished_set.load(layout, checked_manifest.of(layout.root))
        shards = [published.scrub_shard(state, name, tombstones) for name in plan.shards]
        published.scrub_rejected(layout, tombstones, plan.taken_down)
        published.scrub_manifest(layout, tombstones, shards, plan.counts)
        score_files.rewrite(layout.root, lambda path: tables.rewrite(path, tombstones))
        place.forget(layout)
        if storage.exists(storage.join(layout.root, "report")):
            from pipeline import report  # draws

            report.write(layout)
    for folder in pending.overlap:
        _scrub_overlap(folder.rstrip("/"), tombstones)
    storage.remove_tree(storage.join(layout.root, PENDING))


def _forget_finish(layout: Layout, *, is_finished: bool) -> None:
    """Remove the last stage's own files: a finished run needs them no more, another makes them again."""
    if not is_finished:
        run_folder.discard_from(layout, "finish")
        return
    run_folder.forget_files(layout, "finish")


def _scrub_overlap(folder: str, tombstones: Tombstones) -> None:
    """Remove rows from an overlap report's tables; its page goes, and the same command makes it again."""
    for path in tables.find_files(folder, ".parquet"):
        tables.rewrite(path, tombstones)
    for name in ("index.html", "report.json"):
        storage.remove_tree(storage.join(folder, name))
