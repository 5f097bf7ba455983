"""`openwit crawl`: check, run the stages, verify, and end with a table."""

import contextlib
import importlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import xxhash
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline import (
    checked_manifest,
    extend,
    hashlist,
    manifest,
    outcome,
    pilot,
    publishing,
    querylist,
    restart,
    run_folder,
    scorer_names,
    storage,
    tombstones,
)
from pipeline import config as parser
from pipeline.checked_manifest import Extension, Manifest
from pipeline.cli_runtime import guarded, job_name, stoppable, worker_log
from pipeline.flow import beam_options
from pipeline.formats import count, size
from pipeline.http.user_agent import NO_CONTACT
from pipeline.keep_if import KeepIf
from pipeline.lock import lock
from pipeline.options import CrawlConfig, ImageOptions, presets
from pipeline.progress import ShowProgress
from pipeline.publishing import StageOptions
from pipeline.run_folder import Layout
from pipeline.terminal import output, show_places, terminal

_PLAIN: dict[str, Any] = {"highlight": False, "soft_wrap": True}  # how lines are printed
_ASKED_FILES = 1000  # remote inputs whose size and version are asked for


def main(argv: Sequence[str], prog: str = "openwit crawl") -> int:
    """Run `openwit crawl`; return the exit code."""
    try:
        argv = extend.arguments(argv)
    except ValueError as error:
        parser.usage_error(prog, str(error))
    options, beam_flags = parser.parse(
        CrawlConfig, argv, prog=prog, beam=True, implied=presets.implied, other=presets.IMG2DATASET,
    )  # fmt: skip
    console = terminal()
    work = Layout(options.out.rstrip("/")).work
    return guarded(prog, console, work, lambda: crawl(options, beam_flags, console))


def crawl_from_python(values: Mapping[str, Any]) -> None:
    """Run a crawl with these options, by name, as one command would; ValueError for anything that cannot be
    done."""
    with contextlib.redirect_stdout(sys.stderr), stoppable():
        crawl(parser.from_python(CrawlConfig, values), (), terminal())


def crawl(options: CrawlConfig, beam_flags: tuple[str, ...], console: Console) -> int:
    """Run the stages that are asked for and not done; return 0 when the run is complete, 1 if it is empty.

    ValueError for options that cannot be done, or that would change what the run has already.
    """
    from pipeline import preview, sources  # their readers are in the crawl extra
    from pipeline.http import named

    named.configure(options.fetch)
    if options.queries == presets.ALL:
        options = replace(options, per_query=querylist.NO_CAP)
    if options.blur_faces and "blur-faces" not in options.scorer:
        options = replace(options, scorer=(*options.scorer, "blur-faces"))
    check_paths(options)
    check_scoring(options)
    check_keys(options)
    if warning := too_small_for(options.model, options.images):
        console.print(Text.assemble(("note", "yellow"), f" {warning}"), soft_wrap=True)
    layout = run_folder.current(options.out.rstrip("/"))
    whole = sources.plan(options.source, options.sources)
    pieces = pilot.sample(whole, options.sample, options.seed)
    read = (piece.path for piece in pieces)
    scored_by = [path for spec in options.scorer for path in scorer_names.files_of(spec)]
    beam_options.require_shared(beam_flags, [options.out, *read, options.drop, options.hash_list, *scored_by])
    inputs = inputs_of(pieces)
    queries = querylist.load(options.queries)
    semantics = with_contents(options, queries)
    fingerprints = run_folder.fingerprints(semantics, inputs)
    if options.extend:
        extend.check(options, inputs, semantics)
    changed: list[restart.Change] = []
    lost: restart.Loss | None = None
    if not options.extend:
        changed, lost = what_changed(layout, options, inputs, fingerprints, semantics)
    refused = restart.refusal(changed, lost) if lost and not options.restart else ""
    contact = missing_contact(options, pieces, layout)
    if note := preview.without_captions(pieces, options):
        console.print(Text.assemble(("note", "yellow"), f" {note}"), soft_wrap=True)
    if options.check or options.check_all:
        show_plan(console, options, pieces, inputs, queries, layout)
        if lost and not refused:
            console.print(f"--restart: {restart.describe(changed, lost)}", **_PLAIN)
    if refused or contact:
        raise ValueError(refused or contact)
    if options.check or options.check_all:
        return 0
    if not storage.exists(layout.work) and storage.list_files(layout.root):
        raise ValueError(f"{layout.root} is not empty and holds no run; choose another --out")
    with lock(layout.work, publishing.typed()):
        if unfinished := tombstones.pending(layout.root):
            raise ValueError(unfinished)
        if options.extend:
            return add(options, beam_flags, pieces, len(queries), inputs, fingerprints, semantics, console)
        layout = prepare(layout, options, inputs, changed, lost, console)
        manifest.write_json(pilot.path_of(layout), {"read": len(pieces), "all": len(whole)})
        return begin(layout, options, beam_flags, pieces, queries, fingerprints, semantics, console)


def begin(
    layout: Layout, options: CrawlConfig, beam_flags: tuple[str, ...], pieces: list[Any], queries: list[str],
    fingerprints: dict[str, str], semantics: StageOptions, console: Console,
) -> int:  # fmt: skip
    """Write down the configuration and the queries, and run the stages."""
    storage.write_bytes(layout.config, repeating(options).encode())
    if not storage.exists(layout.queries):
        querylist.save(layout.queries, queries)
    return run_stages(options, beam_flags, layout, pieces, len(queries), fingerprints, semantics, console)


def repeating(options: CrawlConfig) -> str:
    """Return config.toml: every option's value but what is private, and what to give beside it."""
    values = parser.effective(options)
    if options.queries == presets.ALL:
        values.pop("per_query")  # it caps nothing
    for name in ("restart", "check", "check_all", "retry_failed", "stage"):
        values.pop(name)  # what this one command was for
    names = [f"--{name.replace('_', '-')}" for name in publishing.left_out(values)]
    head = ""
    if names:
        head = (
            f"# Left out, as this file may be published: the private part of {', '.join(names)}, which is a\n"
            "# contact or the query of a web address. Give it again to repeat the run; flags win.\n"
        )
    return head + parser.to_toml(publishing.publishable(values))


def add(
    options: CrawlConfig, beam_flags: tuple[str, ...], pieces: list[Any], queries: int,
    inputs: list[storage.FileInfo], fingerprints: dict[str, str], semantics: StageOptions,
    console: Console,
) -> int:  # fmt: skip
    """Extend a finished run by the pieces of its new sources."""
    from pipeline.extend.steps import Base

    part, parts = extend.begin(options, inputs, semantics)
    base = Base(part, parts)
    return run_stages(options, beam_flags, part, pieces, queries, fingerprints, semantics, console, base)


def check_paths(options: CrawlConfig) -> None:
    """Raise ValueError for a query list that is missing, or a folder that cannot be made."""
    if options.queries != presets.ALL and not storage.exists(options.queries):
        raise ValueError(
            f"--queries {options.queries}: there is no such file; `all` takes every row without a list"
        )
    if (
        options.queries != presets.ALL
        and storage.is_local(options.queries)
        and storage.is_folder(options.queries)
    ):
        raise ValueError(f"--queries {options.queries} is a folder, where a file is needed")
    if storage.is_local(options.out):
        folder = storage.local_path(options.out).absolute()
        for path in (folder, *folder.parents):
            if path.exists() and not path.is_dir():
                raise ValueError(f"--out {options.out}: {path} is a file, not a folder")


def what_changed(
    layout: Layout,
    options: CrawlConfig,
    inputs: list[storage.FileInfo],
    fingerprints: dict[str, str],
    semantics: StageOptions,
) -> tuple[list[restart.Change], restart.Loss | None]:
    """Return the options that are not those of the run, and what beginning again costs, None if nothing is.

    ValueError for what --restart does not allow either: other sources, or a run that has been extended.
    """
    if sources := run_folder.changed_inputs(layout, inputs):
        raise ValueError(extend.advice(layout, sources))
    stage = run_folder.first_changed_stage(layout, fingerprints)
    changed = restart.changes(run_folder.begun_options(layout), semantics) if stage else []
    extend.refuse_change(layout, retry=options.retry_failed, changed="; ".join(map(str, changed)))
    if stage == "finish" and run_folder.read_json(layout.stage("fetch", "removed.stage")):
        raise ValueError(
            f"{'; '.join(map(str, changed))} would need the fetched images, which went when the shards "
            "were verified; choose another --out, and --keep-staging to be able to change it"
        )
    if stage:
        return changed, restart.loss(layout, stage)
    if options.restart and run_folder.is_done(layout, "finish"):
        counts = checked_manifest.of(layout.root).counts
        found = outcome.worst(counts)
        if not counts.samples and found is not None:
            empty = "candidates" if found[0].stage == "candidates" else "fetch"
            return [], restart.loss(layout, empty)
    return [], None


def missing_contact(options: CrawlConfig, pieces: list[Any], layout: Layout) -> str:
    """Return the advice about a contact that this command will need and does not have, or ""."""
    from pipeline import preview

    stages = {"all": run_folder.STAGES}.get(options.stage, (options.stage,))
    pages = any(piece.format == "pages" for piece in pieces)
    fetching = {"fetch", "candidates"} if pages else {"fetch"}
    part = extend.under_way(layout.root) or layout if not options.extend else None
    left = [
        s for s in fetching & {*stages} if part is None or not run_folder.is_done(part, s) or options.restart
    ]
    if options.fetch.contact or not (left or options.retry_failed):
        return ""
    return NO_CONTACT if preview.needs_contact(pieces, options) else ""


def check_keys(options: CrawlConfig) -> None:
    """Raise ValueError for keys that cannot be used, or one for both purposes (Web Bot Auth forbids that)."""
    from pipeline import keys
    from pipeline.http import signing

    if options.images.iscc:
        importlib.import_module("iscc_lib")  # of an extra, which whoever catches the error names
    signers = [keys.load(path) for path in (options.fetch.sign_with, options.sign_manifest) if path]
    if options.fetch.sign_with:
        signing.Signer(signers[0])
    if len({key.thumbprint for key in signers}) < len(signers):
        raise ValueError(
            "--sign-with and --sign-manifest need keys of their own: `openwit identity` makes one"
        )


def check_scoring(options: CrawlConfig) -> None:
    """Raise ValueError for a scorer that cannot be had, or a condition on what it does not give."""
    if not options.scorer:
        return
    from pipeline.images import scoring

    scorer = scoring.load(*options.scorer)
    if options.keep_if:
        condition = KeepIf.parse(options.keep_if)
        condition.require(scorer.columns)
        condition.refuse_shares()


def too_small_for(model: str, images: ImageOptions) -> str:
    """Return the fault of the stored size for a model, or ""; ValueError for an unknown model."""
    if not model:
        return ""
    from pipeline.data.architectures import ARCHITECTURES

    if model not in ARCHITECTURES:
        raise ValueError(f"unknown model {model}{parser.nearest(model, list(ARCHITECTURES))}")
    side = ARCHITECTURES[model].image_size
    if images.resize_mode == "longer" or (images.resize_mode != "keep" and images.image_size < side):
        return f"{model} is trained at {side} pixels; store the shorter side at --image-size {side} or more"
    return ""


def inputs_of(pieces: list[Any]) -> list[storage.FileInfo]:
    """Return the identity of the input files.

    Those of the web, and of long lists on object stores, are taken to be what their URL says: asking for each
    of Common Crawl's 90,000 paths would take longer than many a run.
    """
    from pipeline.sources.inputs import is_web
    from pipeline.sources.plan import page_files

    infos = []
    files = sorted({(piece.path, piece.format) for piece in pieces})
    remote = sum(not storage.is_local(path) for path, _ in files)
    for path, kind in files:
        if is_web(path) or (remote > _ASKED_FILES and not storage.is_local(path)):
            infos.append(storage.FileInfo(publishing.unsigned(path), -1, ""))
        elif kind == "html":  # a folder or pattern
            _, pages = page_files(path)
            listing = xxhash.xxh3_128_hexdigest(repr(pages).encode())
            infos.append(storage.FileInfo(path, sum(size for _, size in pages), listing))
        else:
            infos.append(storage.file_info(path))
    return infos


def with_contents(options: CrawlConfig, queries: list[str]) -> StageOptions:
    """Return the semantic options, with the contents of the files that they name in place of paths."""
    semantics = options.semantics()
    semantics["candidates"]["queries"] = xxhash.xxh3_128_hexdigest(
        "\n".join(queries).encode("utf-8", "replace")
    )
    if options.scorer:
        from pipeline.images import scoring

        found = tuple(map(scoring.identity, options.scorer))
        semantics["fetch"]["scorer"] = found if len(found) > 1 else found[0]
    if options.drop:
        semantics["fetch"]["drop"] = storage.sha256_file(options.drop)
    if options.hash_list:
        hashlist.load(options.hash_list)  # before anything is fetched
        semantics["fetch"]["hash_list"] = storage.sha256_file(options.hash_list)
    return semantics


def prepare(
    layout: Layout, options: CrawlConfig, inputs: list[storage.FileInfo], changed: list[restart.Change],
    lost: restart.Loss | None, console: Console,
) -> Layout:  # fmt: skip
    """Begin a new run, or see what of an old one may be continued; return where it works.

    The caller has refused what would lose something without --restart.
    """
    if not layout.replaces:  # what an exchange left that was killed at its very end
        storage.remove_tree(replace(layout, replaces=True).published)
    recorded = [list(info) for info in inputs]
    noted = layout.stage("candidates", "inputs.list")
    if not storage.exists(noted):
        manifest.write_json(noted, recorded)
        return layout
    if lost is None:
        if options.restart:
            console.print("Nothing to restart: no option differs from those of the run.")
        return layout
    console.print(f"{restart.describe(changed, lost)}.", **_PLAIN)
    layout = run_folder.keep_until_replaced(layout)
    run_folder.discard_from(layout, lost.stage)
    if lost.stage == "candidates":
        manifest.write_json(noted, recorded)
    return layout


def run_stages(
    options: CrawlConfig, beam_flags: tuple[str, ...], layout: Layout, pieces: list[Any], queries: int,
    fingerprints: dict[str, str], semantics: StageOptions, console: Console,
    base: Any = None,
) -> int:  # fmt: skip
    """Run each wanted stage that has no marker; `base`: the crawl.Base that is extended.

    ValueError for a --stage before which another one is not done.
    """
    from pipeline.candidates.steps import candidates
    from pipeline.crawl import Crawl
    from pipeline.fetch import retry_failed
    from pipeline.fetch.steps import fetch
    from pipeline.flow.runner import Runner
    from pipeline.select.steps import select
    from pipeline.select.workers import QueryTable

    started = time.monotonic()
    runner = Runner(
        flags=beam_flags, workers=options.workers, log=worker_log(layout.work),
        name=job_name("crawl", layout.root), at_once=options.partitions_at_once,
        watch=ShowProgress(console, layout.work, options.log_json),
    )  # fmt: skip
    table = QueryTable(path=layout.queries, seed=options.seed, queries=queries, rule=options.rule)
    job = Crawl(options, layout, table, base)
    retry_failed.resume(layout)
    if options.retry_failed and retry_failed.reopen(job) == 0:
        console.print("No query needs an image that failed for a transient reason: the run stays as it is.")
    if base is None:  # a round more is of a set beside the finished one
        layout = run_folder.current(layout.root)
        job = replace(job, layout=layout)
    stages: dict[str, Callable[[], run_folder.Stage]] = {
        "candidates": lambda: candidates(job, runner, pieces),
        "select": lambda: select(job, runner),
        "fetch": lambda: fetch(job, runner),
        "finish": lambda: complete(job, runner, fingerprints, semantics),
    }
    for number, stage in enumerate(run_folder.STAGES):
        if not run_folder.is_done(layout, stage):
            if options.stage not in ("all", stage):
                raise ValueError(
                    f"--stage {options.stage} needs the stage {stage}, which is not done in {layout.root}"
                )
            run_folder.begin(layout, stage, fingerprints[stage], semantics[stage])
            run_folder.finish_stage(layout, stages[stage]())
        if options.stage == stage and stage != run_folder.STAGES[-1]:
            done, after = ", ".join(run_folder.STAGES[: number + 1]), run_folder.STAGES[number + 1]
            console.print(f"Done: {done}. Next: the same command with --stage {after}, or without it.")
            return 0
    show_result(output(options.log_json), Layout(layout.root), time.monotonic() - started)
    retry_failed.retried(layout)
    return judge_result(console, Layout(layout.root), {piece.format for piece in pieces})


def complete(
    job: Any, runner: Any, fingerprints: dict[str, str], semantics: StageOptions
) -> run_folder.Stage:  # fmt: skip
    """Run the last stage, write manifest and report, verify the shards, and let the staged images go."""
    from pipeline import attestation, keys, report
    from pipeline.extend.steps import publish
    from pipeline.fetch.steps import remove_staging
    from pipeline.finish.steps import finish
    from pipeline.stages import Finished, Rounds

    found = finish(job, runner)
    if job.base is None:
        made = manifest.of_crawl(job.layout, job.config, found, fingerprints, semantics)
        manifest.write(job.layout.manifest, made)
    else:
        read = {name: value for name, value in semantics["candidates"].items() if name in extend.HOW_READ}
        sources = tuple(map(publishing.public, job.config.source))
        publish(job, found, Extension(source=sources, sources=read, fingerprints=fingerprints))
    problems = manifest.stray_shards(job.layout)
    problems += manifest.verify_shards(job.layout, {f"{shard.name}.tar" for shard in found.shards})
    if problems:
        raise RuntimeError(f"the shards do not match the manifest: {problems[0]}")
    report.write(job.layout if job.base is None else Layout(job.layout.root))
    run_folder.publish_next(job.layout)
    if job.config.sign_manifest:
        attestation.sign(Layout(job.layout.root), keys.load(job.config.sign_manifest))
    if not job.config.keep_staging:
        remove_staging(job.layout, run_folder.done(job.layout, Rounds))
    storage.remove_tree(job.layout.stage("select", "stored"))  # of a run that was extended: its shards tell
    return Finished(samples=found.samples, captions=found.captions)


def judge_result(console: Console, layout: Layout, formats: set[str]) -> int:
    """Print each fault; return 1 for a run without a sample, else 0."""
    counts = checked_manifest.of(layout.root).counts
    if empty := outcome.nothing(counts):
        console.print(Text.assemble(("failed", "red"), f" {empty}"), soft_wrap=True)
        return 1
    for warning in outcome.warnings(counts, formats):
        console.print(Text.assemble(("warning", "yellow"), f" {warning}"), soft_wrap=True)
    return 0


def show_plan(
    console: Console, options: CrawlConfig, pieces: list[Any], inputs: list[storage.FileInfo], queries:
    list[str], layout: Layout,
) -> None:  # fmt: skip
    """Print the inputs of a run and its expected outcome, then the options that differ from the defaults."""
    from pipeline import preview
    from pipeline.candidates.judge import CaptionJudge
    from pipeline.captions.language import Identifier
    from pipeline.captions.match import MatchAll, Matcher

    known = [stage for stage in run_folder.STAGES if run_folder.is_done(layout, stage)]
    matcher = MatchAll() if queries == querylist.EVERYTHING else Matcher(queries, options.rule)
    identifier = Identifier()
    judge = CaptionJudge(
        matcher, options.text, identifier, options.lang, options.mask_contacts, options.sources.empty_captions
    )
    found = preview.look(pieces, options, judge)
    total = sum(info.size for info in inputs if info.size > 0)
    rows = "" if found.rows is None else f", {count(found.rows, 'row')}"
    wanted = count(len(queries), "query", "queries")
    if isinstance(matcher, Matcher) and matcher.dead:
        wanted += (
            f", of which {len(matcher.dead):,} can match no caption, such as {queries[matcher.dead[0]]!r}"
        )
    if queries == querylist.EVERYTHING:
        wanted = "none: every row is wanted"
    lines = [
        ("sources", f"{count(len(inputs), 'file')}, {size(total)}, in {count(len(pieces), 'piece')}{rows}"),
        *(("columns", line) for line in found.columns),
        ("queries", wanted),
        ("captions", preview.verdicts(found)),
        *preview.expectations(found, options, layout.root),
        ("contact", options.fetch.contact or "none"),
        ("done", f"{', '.join(known) or 'nothing'} in {layout.root}; nothing was written"),
    ]  # fmt: skip
    for name, line in lines:
        console.print(f"{name:<9} {line}", **_PLAIN)
    values = parser.effective(options)
    for name in ("check", "check_all"):
        values.pop(name)
    if queries == querylist.EVERYTHING:
        values.pop("per_query")
    if not options.check_all:
        defaults = parser.defaults(CrawlConfig)
        values = {n: value for n, value in values.items() if n not in defaults or defaults[n] != value}
        sys.stdout.write("# Options that are not the defaults; --check-all prints all of them.\n")
    sys.stdout.write(parser.to_toml(values))


def show_result(console: Console, layout: Layout, seconds: float) -> None:
    """Print the final table."""
    stored = checked_manifest.of(layout.root)
    counts = stored.counts
    # Not as the table's title, which would be folded to its width.
    console.print(layout.root, style="italic", highlight=False, soft_wrap=True, markup=False)
    table = Table()
    for name, justify in (("stage", "left"), ("what", "left"), ("count", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_row("candidates", "captions found", f"{counts.candidates:,}")
    for stage, reasons in sorted(
        counts.rejected_by_stage.items(), key=lambda item: run_folder.STAGES.index(item[0])
    ):
        # Zero stands for images that are gone while their captions live on in the one they were merged into.
        for reason, number in sorted(reasons.items(), key=lambda item: -item[1]):
            table.add_row(stage, f"- {reason}", f"{number:,}")
    table.add_row("finish", "captions in shards", f"{counts.captions:,}", style="bold")
    table.add_row("", "samples in shards", f"{counts.samples:,}", style="bold")
    for number, (what, value) in enumerate(pilot.lines(stored.pilot) if stored.pilot else []):
        table.add_row("pilot" if not number else "", what, value, style="cyan")
    console.print(table)
    for note in notes(layout, stored):
        console.print(note, highlight=False, soft_wrap=True, markup=False)
    where = [("shards", f"{len(stored.shards)} in {layout.shards}"), ("rejected rows", layout.rejected),
             ("manifest", layout.manifest), ("report", f"{layout.report}/index.html"),
             ("time", f"{seconds:,.1f} s")]  # fmt: skip
    show_places(console, where)


def notes(layout: Layout, stored: Manifest) -> list[str]:
    """Return advice for a person beside the counts of a manifest."""
    result = []
    if stored.pilot:
        result.append(f"`openwit plan --run {layout.root}` takes repeats and the cap on queries into account")
    if near := stored.near_duplicates:
        most = ", ".join(f"{row.site} {row.removed:,} of {row.images:,}" for row in near.sites[:3])
        result.append(
            f"near-duplicates: {near.removed:,} of {near.images:,} images are merged into "
            f"{near.groups:,} others{f'; most of {most}' if most else ''}"
        )
    if late := stored.counts.rejected_by_stage.get("fetch", {}).get("deferred", 0):
        result.append(
            f"{late:,} captions stand at images of sites that were slower than --unit-seconds and --rounds "
            "allow: the same command with --retry-failed asks for them"
        )
    return result
