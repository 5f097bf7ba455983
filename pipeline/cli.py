"""`openwit crawl`: check, run the stages, verify, and end with a table."""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import xxhash
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline import config as parser
from pipeline import extend, hashlist, manifest, pilot, querylist, run, storage, tombstones
from pipeline.command import guarded, job_name, worker_log
from pipeline.lock import lock
from pipeline.options import CrawlConfig, ImageOptions
from pipeline.progress import ShowProgress
from pipeline.run import Layout
from pipeline.terminal import terminal

_ASKED_FILES = 1000  # remote inputs whose size and version are asked for


def main(argv: Sequence[str], prog: str = "openwit crawl") -> int:
    """Run `openwit crawl`; return the exit code."""
    try:
        argv = extend.arguments(argv)
    except ValueError as error:
        parser.usage_error(prog, str(error))
    options, beam_flags = parser.parse(CrawlConfig, argv, prog=prog, beam=True)
    console = terminal()
    work = Layout(options.out.rstrip("/")).work
    return guarded(prog, console, work, lambda: crawl(options, beam_flags, console))


def crawl(options: CrawlConfig, beam_flags: tuple[str, ...], console: Console) -> int:
    """Run the stages that are asked for and not done; return 0 when the run is complete."""
    from pipeline import sources  # its readers are in the crawl extra

    if options.queries == querylist.ALL:
        options = replace(options, per_query=querylist.NO_CAP)
    check_scoring(options)
    if warning := too_small_for(options.model, options.images):
        console.print(Text.assemble(("note", "yellow"), f" {warning}"), soft_wrap=True)
    layout = Layout(options.out.rstrip("/"))
    whole = sources.plan(options.source, options.sources)
    pieces = pilot.sample(whole, options.sample, options.seed)
    inputs = inputs_of(pieces)
    queries = querylist.load(options.queries)
    semantics = with_contents(options, queries)
    prints = run.fingerprints(semantics, inputs)
    if options.extend:
        extend.check(options, inputs, semantics)
    if options.check:
        show_plan(console, options, pieces, inputs, queries, layout)
        return 0
    if not storage.exists(layout.work) and storage.list_files(layout.root):
        raise ValueError(f"{layout.root} is not empty and holds no run; choose another --out")
    with lock(layout.work):
        if unfinished := tombstones.pending(layout.root):
            raise ValueError(unfinished)
        if options.extend:
            return add(options, beam_flags, pieces, len(queries), inputs, prints, semantics, console)
        prepare(layout, options, inputs, prints, semantics, console)
        manifest.write_json(pilot.path_of(layout), {"read": len(pieces), "all": len(whole)})
        return begin(layout, options, beam_flags, pieces, queries, prints, semantics, console)


def begin(
    layout: Layout, options: CrawlConfig, beam_flags: tuple[str, ...], pieces: list[Any], queries: list[str],
    prints: dict[str, str], semantics: dict[str, dict[str, Any]], console: Console,
) -> int:  # fmt: skip
    """Write down the configuration and the queries, and run the stages."""
    storage_toml = parser.to_toml(parser.effective(options))
    storage.write_bytes(storage.join(layout.root, "config.toml"), storage_toml.encode())
    if not storage.exists(layout.queries):
        querylist.save(layout.queries, queries)
    return run_stages(options, beam_flags, layout, pieces, len(queries), prints, semantics, console)


def add(
    options: CrawlConfig, beam_flags: tuple[str, ...], pieces: list[Any], queries: int,
    inputs: list[storage.FileInfo], prints: dict[str, str], semantics: dict[str, dict[str, Any]],
    console: Console,
) -> int:  # fmt: skip
    """Extend a finished run by the pieces of its new sources."""
    from pipeline.crawl.extending import Base

    part, before, parts = extend.begin(options, inputs, semantics)
    base = Base(before, parts)
    return run_stages(options, beam_flags, part, pieces, queries, prints, semantics, console, base)


def check_scoring(options: CrawlConfig) -> None:
    """Raise ValueError for a scorer that cannot be had, or a condition on what it does not give."""
    if options.scorer:
        from pipeline.images import scoring

        scorer = scoring.load(options.scorer)
        if options.keep_if:
            scoring.KeepIf.parse(options.keep_if).require(scorer.columns)


def too_small_for(model: str, images: ImageOptions) -> str:
    """Return what is wrong with the stored size for a model, or ""; ValueError for an unknown model."""
    if not model:
        return ""
    from train.architectures import ARCHITECTURES

    if model not in ARCHITECTURES:
        raise ValueError(f"unknown model {model}{parser.nearest(model, list(ARCHITECTURES))}")
    side = ARCHITECTURES[model].image_size
    if images.resize_mode == "longer" or (images.resize_mode != "keep" and images.image_size < side):
        return f"{model} is trained at {side} pixels; store the shorter side at --image-size {side} or more"
    return ""


def inputs_of(pieces: list[Any]) -> list[storage.FileInfo]:
    """Return what identifies the input files.

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
            infos.append(storage.FileInfo(path, -1, ""))
        elif kind == "html":  # a folder or pattern
            _, pages = page_files(path)
            listing = xxhash.xxh3_128_hexdigest(repr(pages).encode())
            infos.append(storage.FileInfo(path, sum(size for _, size in pages), listing))
        else:
            infos.append(storage.file_info(path))
    return infos


def with_contents(options: CrawlConfig, queries: list[str]) -> dict[str, dict[str, Any]]:
    """Return the semantic options, with the contents of the files that they name in place of paths."""
    semantics = options.semantics()
    semantics["candidates"]["queries"] = xxhash.xxh3_128_hexdigest(
        "\n".join(queries).encode("utf-8", "replace")
    )
    if options.drop:
        semantics["fetch"]["drop"] = storage.sha256_file(options.drop)
    if options.hash_list:
        hashlist.load(options.hash_list)  # before anything is fetched
        semantics["fetch"]["hash_list"] = storage.sha256_file(options.hash_list)
    return semantics


def prepare(
    layout: Layout, options: CrawlConfig, inputs: list[storage.FileInfo], prints: dict[str, str],
    semantics: dict[str, dict[str, Any]], console: Console,
) -> None:  # fmt: skip
    """Begin a new run, or see what of an old one may be continued."""
    if not storage.exists(layout.stage("candidates", "inputs.list")):
        recorded = [list(info) for info in inputs]
        manifest.write_json(layout.stage("candidates", "inputs.list"), recorded)
        return
    changes = run.changed_inputs(layout, inputs)
    if changes:
        raise ValueError(extend.advice(layout, changes))
    stage, changed = run.first_changed_stage(layout, prints, semantics)
    extend.refuse_change(layout, retry=options.retry_failed, changed=changed)
    if stage == "finish" and run.read_json(layout.stage("fetch", "removed.stage")):
        raise ValueError(
            f"{changed} would need the fetched images, which were removed once the shards were verified; "
            "choose another --out, and --keep-staging to be able to change it"
        )
    if stage:
        console.print(f"Options changed ({changed}): starting again from {stage}.")
        run.discard_from(layout, stage)
        if stage == "candidates":
            storage.remove_tree(layout.queries)
            manifest.write_json(layout.stage("candidates", "inputs.list"), [list(info) for info in inputs])


def run_stages(
    options: CrawlConfig, beam_flags: tuple[str, ...], layout: Layout, pieces: list[Any], queries: int,
    prints: dict[str, str], semantics: dict[str, dict[str, Any]], console: Console,
    base: Any = None,
) -> int:  # fmt: skip
    """Run each wanted stage that has no marker; `base`: the crawl.Base that is extended."""
    from pipeline import crawl as stages
    from pipeline.stages.running import Runner
    from pipeline.stages.select import QueryTable

    started = time.monotonic()
    job = stages.Crawl(
        options, layout,
        Runner(
            flags=beam_flags, workers=options.workers, log=worker_log(layout.work),
            name=job_name("crawl", layout.root),
        ),
        QueryTable(path=layout.queries, seed=options.seed, queries=queries),
        ShowProgress(console, layout.work, options.log_json), base,
    )  # fmt: skip
    stages.resume(layout)
    if options.retry_failed and stages.reopen(job) == 0:
        console.print("Nothing that failed in passing is wanted by a query: the run stays as it is.")
    done: dict[str, dict[str, Any]] = {}
    steps = {
        "candidates": lambda: stages.candidates(job, pieces),
        "select": lambda: stages.select(job, done["candidates"]),
        "fetch": lambda: stages.fetch(job, done["select"]),
        "finish": lambda: finish(job, done, prints, semantics),
    }
    for stage in run.STAGES:
        found = run.done(layout, stage)
        if found is None and options.stage not in ("all", stage):
            raise ValueError(
                f"--stage {options.stage} needs the stage {stage}, which is not done in {layout.root}"
            )
        if found is None:
            run.begin(layout, stage, prints[stage], semantics[stage])
            found = run.finish_stage(layout, stage, steps[stage]())
        done[stage] = found
        if options.stage == stage:
            break
    if "finish" in done:
        show_result(console, Layout(layout.root), time.monotonic() - started)
        stages.retried(layout)
    return 0


def finish(
    job: Any, done: dict[str, dict[str, Any]], prints: dict[str, str], semantics: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Run the last stage, write manifest and report, verify the shards, and let the staged images go."""
    from pipeline import crawl as stages
    from pipeline import report

    found = stages.finish(job, done["candidates"], done["select"], done["fetch"])
    if job.base is None:
        manifest.write(job.layout, job.config, found, done, prints, semantics)
    else:
        entry = {"source": list(job.config.source), "sources": semantics["candidates"]["sources"]}
        stages.publish(job, found, done, {**entry, "fingerprints": prints})
    problems = manifest.stray_shards(job.layout)
    problems += manifest.verify_shards(job.layout, {f"{shard['name']}.tar" for shard in found["shards"]})
    if problems:
        raise RuntimeError(f"the shards do not match the manifest: {problems[0]}")
    report.write(Layout(job.layout.root))
    if not job.config.keep_staging:
        stages.remove_staging(job.layout, done["fetch"])
    storage.remove_tree(job.layout.stage("select", "stored"))  # of a run that was extended: its shards tell
    return {name: found[name] for name in ("samples", "captions")}


def show_plan(
    console: Console, options: CrawlConfig, pieces: list[Any], inputs: list[storage.FileInfo], queries:
    list[str], layout: Layout,
) -> None:  # fmt: skip
    """Print what a run would read and under which configuration."""
    size = sum(info.size for info in inputs if info.size > 0)
    console.print(
        f"{len(inputs)} files, {size / 1e6:,.1f} MB, in {len(pieces)} pieces; {len(queries)} queries"
    )
    known = [stage for stage in run.STAGES if run.done(layout, stage)] if storage.exists(layout.work) else []
    console.print(f"Stages done in {layout.root}: {', '.join(known) or 'none'}. Nothing was written.")
    sys.stdout.write(parser.to_toml(parser.effective(options)))


def show_result(console: Console, layout: Layout, seconds: float) -> None:
    """Print the final table."""
    found = run.read_json(layout.manifest)
    counts = found["counts"]
    # Not as the table's title, which would be folded to its width.
    console.print(layout.root, style="italic", highlight=False, soft_wrap=True, markup=False)
    table = Table()
    for name, justify in (("stage", "left"), ("what", "left"), ("count", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_row("candidates", "captions found", f"{counts['candidates']:,}")
    for stage, reasons in sorted(
        counts["rejected_by_stage"].items(), key=lambda item: run.STAGES.index(item[0])
    ):
        # Zero stands for images that are gone while their captions live on in the one they were merged into.
        for reason, count in sorted(reasons.items(), key=lambda item: -item[1]):
            table.add_row(stage, f"- {reason}", f"{count:,}")
    table.add_row("finish", "captions in shards", f"{counts['captions']:,}", style="bold")
    table.add_row("", "samples in shards", f"{counts['samples']:,}", style="bold")
    for number, (what, value) in enumerate(pilot.lines(found["pilot"]) if found.get("pilot") else []):
        table.add_row("pilot" if not number else "", what, value, style="cyan")
    console.print(table)
    for note in notes(layout, found):
        console.print(note, highlight=False, soft_wrap=True, markup=False)
    where = [("shards", f"{len(found['shards'])} in {layout.shards}"), ("rejected rows", layout.rejected),
             ("manifest", layout.manifest), ("report", f"{layout.report}/index.html"),
             ("time", f"{seconds:,.1f} s")]  # fmt: skip
    for name, value in where:
        console.print(f"{name:<14} {value}", highlight=False, soft_wrap=True, markup=False)


def notes(layout: Layout, found: dict[str, Any]) -> list[str]:
    """Return what a person should know beside the counts of a manifest, and do."""
    result = []
    if found.get("pilot"):
        result.append(f"`openwit plan --run {layout.root}` takes repeats and the cap on queries into account")
    if near := found.get("near_duplicates"):
        most = ", ".join(
            f"{row['site']} {row['removed']:,} of {row['images']:,}" for row in near["sites"][:3]
        )
        result.append(
            f"near-duplicates: {near['removed']:,} of {near['images']:,} images are merged into "
            f"{near['groups']:,} others{f'; most of {most}' if most else ''}"
        )
    if late := found["counts"]["rejected_by_stage"].get("fetch", {}).get("deferred", 0):
        result.append(
            f"{late:,} captions stand at images of sites that were slower than --unit-seconds and --rounds "
            "allow: the same command with --retry-failed asks for them"
        )
    return result
