"""`openwit crawl --extend RUN`: the additions a finished run allows, and how an extension begins."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Final

import msgspec

from pipeline import checked_manifest, manifest, restart, run_folder, schemas, storage
from pipeline import config as parser
from pipeline.checked_manifest import Manifest
from pipeline.options import CrawlConfig, SourceOptions
from pipeline.options.fetch import LATER
from pipeline.options.presets import ALL, last
from pipeline.publishing import StageOptions, Value
from pipeline.run_folder import EXTENSIONS, Layout, read_json
from pipeline.stages import Rounds

_BASE: Final = "base.json"  # the run's manifest before the extension, in the extension's folder
COUNTS: Final = "base_counts.parquet"  # and its query_counts.parquet
NEAR: Final = "base_near_duplicates.parquet"  # and its near_duplicates.parquet, if it has one
PUBLISHING: Final = "publishing.json"  # from when on files beside the shards are those of the extended run
HOW_READ: Final = frozenset(name for name, _ in parser.fields(SourceOptions))
_NOT_TAKEN_OVER: Final = frozenset(
    ("source", "out", "queries", "extend", "stage", "check", "check_all", "retry_failed", "restart", "preset",
     "contact", "publish_contact", "workers", "log_json")
)  # fmt: skip


def arguments(argv: Sequence[str]) -> list[str]:
    """Return the arguments of `openwit crawl`, after those that follow from --extend if it is given.

    The run's own options come first, so that options on the command line win, and can be compared. ValueError
    for a run that is not finished, or whose work folder is gone.
    """
    root = last(argv, "--extend").rstrip("/")
    if not root:
        return list(argv)
    stored = checked_manifest.of(root)
    if not storage.exists(Layout(root).queries):
        raise ValueError(_no_work(Layout(root)))
    flags = ["--out", root]
    takes_all = stored.configuration["queries"] == ALL
    flags += ["--queries", ALL if takes_all else Layout(root).queries]
    known = dict(parser.fields(CrawlConfig))
    for name, value in stored.configuration.items():
        if name in known and name not in _NOT_TAKEN_OVER and value is not None and value != "":
            if name == "opt_out":
                value = with_later_signals(value, stored.semantics.get("fetch", {}).get("opt_out"))
            repeated = hasattr(known[name].type, "__metadata__")
            flags += parser.flag(name, value, argv, repeated=repeated)
    return [*flags, *argv]


def with_later_signals(opt_out: Value, decided: Value) -> Value:
    """Return the opt-outs of a run, with those added since its version that it has not `decided` against."""
    if not isinstance(opt_out, list | tuple) or not isinstance(decided, list | tuple):
        return opt_out
    unknown = (name for name in LATER if name not in opt_out and f"no {name}" not in decided)
    return (*map(str, opt_out), *unknown)


def under_way(root: str) -> Layout | None:
    """Return the extension of a run that is begun and not finished, or None."""
    part = Layout(root, 1)
    while storage.exists(storage.join(part.work, _BASE)):
        if not run_folder.is_done(part, "finish"):
            return part
        part = Layout(root, part.extension + 1)
    return None


def layouts(root: str) -> tuple[Layout, ...]:
    """Return where a run and its finished extensions worked, in order."""
    found = [Layout(root)]
    while run_folder.is_done(following := Layout(root, len(found)), "finish"):
        found.append(following)
    return tuple(found)


def interrupted(root: str) -> str:
    """Return the advice about an extension that is not finished, or "" if there is none."""
    part = under_way(root)
    if part is None:
        return ""
    sources = " ".join(f"--source {path}" for path in _read_base(part).sources)
    return (
        f"an extension of this run is not finished; finish it with: openwit crawl --extend {root} {sources} "
        f"(or remove {part.work} to give it up)"
    )


@dataclass(frozen=True, kw_only=True)
class _Base:
    """The record made when an extension begins."""

    manifest: dict[str, Any]
    """Of the run before it, as JSON."""
    inputs: tuple[storage.FileInfo, ...]
    sources: tuple[str, ...]
    semantics: StageOptions


def _read_base(part: Layout) -> _Base:
    path = storage.join(part.work, _BASE)
    try:
        return msgspec.convert(read_json(path), _Base)
    except msgspec.ValidationError as error:
        what = checked_manifest.told(error)
        raise ValueError(
            f"{path} is damaged ({what}): remove {part.work} to give that extension up"
        ) from None


@lru_cache(maxsize=1)
def manifest_before(part: Layout) -> Manifest:
    """Return the manifest of a run as it was before an extension began."""
    return checked_manifest.decode(_read_base(part).manifest, storage.join(part.work, _BASE))


def check(options: CrawlConfig, inputs: list[storage.FileInfo], semantics: StageOptions) -> None:
    """Raise ValueError if an extension, or continuing the extension under way, is impossible."""
    root = options.out.rstrip("/")
    part = under_way(root)
    if part is not None:
        base = _read_base(part)
        if base.inputs != tuple(inputs) or base.semantics != semantics:
            raise ValueError(interrupted(root))
        return
    _check_run(root, options)
    refuse_differences(checked_manifest.of(root).semantics, semantics)
    _refuse_known(root, inputs)


def publishing(root: str) -> str:
    """Return the advice about an extension that stopped while it was published, or ""."""
    part = under_way(root)
    is_begun = part is not None and storage.exists(storage.join(part.work, PUBLISHING))
    return interrupted(root) if is_begun else ""


def begin(
    options: CrawlConfig, inputs: list[storage.FileInfo], semantics: StageOptions
) -> tuple[Layout, tuple[Layout, ...]]:
    """Begin an extension, or continue the extension under way, after `check`.

    Return where it works, and where the run before it worked.
    """
    root = options.out.rstrip("/")
    before = layouts(root)
    part = Layout(root, len(before))
    path = storage.join(part.work, _BASE)
    if not storage.exists(path):
        counts = storage.join(part.work, COUNTS)
        storage.copy_file(storage.join(root, "query_counts.parquet"), counts)
        if storage.exists(Layout(root).near_duplicates):
            storage.copy_file(Layout(root).near_duplicates, storage.join(part.work, NEAR))
        recorded = [list(info) for info in inputs]
        manifest.write_json(part.stage("candidates", "inputs.list"), recorded)
        base = _Base(
            manifest=checked_manifest.encode(checked_manifest.of(root)), inputs=tuple(inputs),
            sources=options.source, semantics=semantics,
        )  # fmt: skip
        manifest.write_json(path, asdict(base))
    manifest_before.cache_clear()
    manifest_before(part)
    return part, before


def _check_run(root: str, options: CrawlConfig) -> None:
    """Raise ValueError for a run that cannot be extended."""
    if options.sample < 1:
        raise ValueError(
            f"{root} is a pilot (--sample {options.sample:g}); crawl without it into a new --out"
        )
    if not run_folder.is_done(Layout(root), "finish") and storage.exists(Layout(root).work):
        raise ValueError(f"{root} is being made again by --retry-failed: run that command to its end first")
    for part in layouts(root):
        is_fetched = run_folder.is_done(part, "fetch")
        last = run_folder.done(part, Rounds).last if is_fetched else 0
        needed = (part.stage("select", "samples"), storage.join(part.tried(last), "thresholds"))
        if not is_fetched or not all(storage.exists(path) for path in needed):
            raise ValueError(_no_work(part))
    columns = schemas.read_table(storage.join(root, "query_counts.parquet")).column_names
    if "untried" not in columns:
        raise ValueError(
            f"{root} was made by a version of openwit that could not extend runs; crawl all the sources "
            "together into a new --out"
        )


def _no_work(part: Layout) -> str:
    return (
        f"--extend needs {part.work}, where the run noted which URLs it has tried; it is gone: crawl all "
        "sources together into a new --out"
    )


def refuse_differences(before: StageOptions, now: StageOptions) -> None:
    """Raise ValueError that names the options that decide the content and are not those of the run.

    How sources are read may differ: the added ones may be of another format.
    """
    names = list(map(str, restart.changes(before, now, without=HOW_READ)))
    if names:
        raise ValueError(
            f"an extension is made with the options of the run, but these differ: {', '.join(names)}; leave "
            "them out, or crawl all the sources together into a new --out"
        )


def recorded_inputs(root: str) -> list[list[Any]]:
    """Return (path, size, version) of every file that the run and its extensions have read."""
    found: list[list[Any]] = []
    for part in layouts(root):
        found += read_json(part.stage("candidates", "inputs.list")) or []
    return found


def _refuse_known(root: str, inputs: list[storage.FileInfo]) -> None:
    """Raise ValueError if a source is one of the run already."""
    known = {_spelled(info[0]) for info in recorded_inputs(root)}
    again = sorted(info.path for info in inputs if _spelled(info.path) in known)
    if again:
        shown = ", ".join(again[:5]) + (f" and {len(again) - 5} more" if len(again) > 5 else "")
        raise ValueError(f"{root} has read {shown} already: give only sources that are new")


def _spelled(path: str) -> str:
    return str(storage.local_path(path).resolve()) if storage.is_local(path) else path


def refuse_change(layout: Layout, *, retry: bool, changed: str) -> None:
    """Raise ValueError for a command that would build an extended run again; its first command is harmless.

    changed: the options that differ from those of the run.
    """
    if not storage.exists(storage.join(layout.root, EXTENSIONS)):
        return
    if message := interrupted(layout.root):
        raise ValueError(message)
    if retry:
        raise ValueError(
            "--retry-failed would write the shards of this run again, which has been extended since: run it "
            "before --extend"
        )
    if changed:
        raise ValueError(
            f"{changed} would build this run again, which has been extended since; choose another --out"
        )


def advice(layout: Layout, changes: list[str]) -> str:
    """Return the advice about sources that are not those of a run; `changes` as `run.changed_inputs` says."""
    shown = "; ".join(changes[:5]) + (f"; and {len(changes) - 5} more" if len(changes) > 5 else "")
    what = f"the sources are not those of this run ({shown}): "
    if not storage.exists(layout.manifest):
        return what + "put them back, or choose another --out"
    return what + (
        f"put them back, or choose another --out; --extend {layout.root} adds new sources to the finished run"
    )
