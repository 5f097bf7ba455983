"""`openwit crawl`: check, run the stages, verify, and end with a table."""

import contextlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import xxhash
from rich.console import Console
from rich.text import Text

from pipeline import (
    checked_manifest,
    crawl_checks,
    crawl_tables,
    extend,
    hashlist,
    manifest,
    outcome,
    pilot,
    publishing,
    querylist,
    restart,
    run_folder,
    storage,
    tombstones,
)
from pipeline import config as parser
from pipeline.checked_manifest import Extension
from pipeline.cli_runtime import guarded, job_name, stoppable, worker_log
from pipeline.data import shipped_detector
from pipeline.flow import beam_options
from pipeline.lock import lock
from pipeline.options import CrawlConfig, presets
from pipeline.progress import ShowProgress
from pipeline.publishing import StageOptions
from pipeline.run_folder import Layout
from pipeline.score import names as scorer_names
from pipeline.terminal import output, terminal

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

    ValueError for options that cannot be combined, or that would change results the run already has.
    """
    from pipeline import preview, sources  # their readers are in the crawl extra
    from pipeline.http import named

    named.configure(options.fetch)
    if options.queries == presets.ALL:
        options = replace(options, per_query=querylist.NO_CAP)
    if options.blur_faces and "blur-faces" not in options.scorer:
        options = replace(options, scorer=(*options.scorer, "blur-faces"))
    crawl_checks.check_paths(options)
    crawl_checks.check_scoring(options)
    crawl_checks.check_keys(options)
    if warning := crawl_checks.too_small_for(options.model, options.images):
        console.print(Text.assemble(("note", "yellow"), f" {warning}"), soft_wrap=True)
    layout = run_folder.current(options.out.rstrip("/"))
    whole = sources.plan(options.source, options.sources)
    pieces = pilot.sample(whole, options.sample, options.seed)
    read = (piece.path for piece in pieces)
    scored_by = [path for spec in options.scorer for path in scorer_names.files_of(spec)]
    yours = shipped_detector.users_file(options.detector)
    beam_options.require_shared(
        beam_flags, [options.out, *read, options.drop, options.hash_list, yours, *scored_by]
    )
    inputs = inputs_of(pieces)
    queries = querylist.load(options.queries)
    semantics = with_contents(options, queries)
    fingerprints = run_folder.fingerprints(semantics, inputs)
    if options.extend:
        extend.check(options, inputs, semantics)
    changed: list[restart.Change] = []
    lost: restart.Loss | None = None
    if not options.extend:
        changed, lost = crawl_checks.what_changed(layout, options, inputs, fingerprints, semantics)
    refused = restart.refusal(changed, lost) if lost and not options.restart else ""
    contact = crawl_checks.missing_contact(options, pieces, layout)
    if note := preview.without_captions(pieces, options):
        console.print(Text.assemble(("note", "yellow"), f" {note}"), soft_wrap=True)
    if options.check or options.check_all:
        crawl_tables.show_plan(console, options, pieces, inputs, queries, layout)
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
    """Return config.toml: the value of every option that is not private, and the flags to give beside it."""
    values = parser.effective(options)
    if options.queries == presets.ALL:
        values.pop("per_query")  # it caps nothing
    for name in ("restart", "check", "check_all", "retry_failed", "stage"):
        values.pop(name)  # the purpose of this command
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


def inputs_of(pieces: list[Any]) -> list[storage.FileInfo]:
    """Return the identity of the input files.

    Inputs on the web, and long lists on object stores, are identified by their URL alone: asking for each of
    Common Crawl's 90,000 paths would take longer than many runs.
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
    if options.detector:
        from pipeline.near import learned

        detector = learned.load(options.detector)  # before anything is fetched
        detector.close()
        semantics["finish"]["detector"] = detector.name
    return semantics


def prepare(
    layout: Layout, options: CrawlConfig, inputs: list[storage.FileInfo], changed: list[restart.Change],
    lost: restart.Loss | None, console: Console,
) -> Layout:  # fmt: skip
    """Begin a new run, or find the stage from which an old run continues; return the folder it works in.

    The caller has refused every change that would lose results without --restart.
    """
    if not layout.replaces:  # left by an exchange that was killed at its very end
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

    ValueError for a --stage if an earlier stage is not done.
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
    crawl_tables.show_result(output(options.log_json), Layout(layout.root), time.monotonic() - started)
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
