"""The plan that `openwit crawl --check` prints, and the table at its end."""

import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline import checked_manifest, pilot, querylist, run_folder, storage
from pipeline import config as parser
from pipeline.checked_manifest import Manifest
from pipeline.formats import count, size
from pipeline.options import CrawlConfig
from pipeline.run_folder import Layout
from pipeline.terminal import show_places

_PLAIN: dict[str, Any] = {"highlight": False, "soft_wrap": True}  # how lines are printed


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
        for reason, number in sorted(reasons.items(), key=lambda item: -item[1]):
            named = reason
            if reason == "merged_into" and (merged := merged_images(layout)):  # whose captions are not lost
                named = f"{reason} ({count(merged, 'image')})"
            table.add_row(stage, f"- {named}", f"{number:,}")
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


def merged_images(layout: Layout) -> int | None:
    """Return the images that were merged into another, as the report counts them; None if it does not."""
    path = storage.join(layout.report, "report.json")
    found = json.loads(storage.read_bytes(path)).get("merged_images") if storage.exists(path) else None
    return found if isinstance(found, int) else None


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
