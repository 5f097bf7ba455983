"""`openwit queries`: check, run the steps, and end with a table."""

import sys
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline import config as parser
from pipeline import storage
from pipeline.cli_runtime import guarded, job_name, worker_log
from pipeline.flow import beam_options
from pipeline.terminal import output, show_places, terminal
from queries.options import QueriesConfig


def main(argv: Sequence[str], prog: str = "openwit queries") -> int:
    """Run `openwit queries`; return the exit code."""
    options, beam_flags = parser.parse(QueriesConfig, argv, prog=prog, beam=True)
    console = terminal()
    return guarded(prog, console, options.work, lambda: run(options, beam_flags, console))


def run(config: QueriesConfig, beam_flags: Sequence[str] = (), console: Console | None = None) -> int:
    """Build the list; return 0 when it is complete, 1 when a part of the input could not be read."""
    from pipeline.flow.runner import Runner
    from pipeline.progress import ShowProgress
    from queries import job
    from queries.inputs import find_inputs

    console = console or terminal()
    started = time.monotonic()
    found = find_inputs(config)
    beam_options.require_shared(beam_flags, [config.out, *(file.path for file in found.files)])
    if config.check:
        show_plan(console, config, found)
        return 0
    summary = job.finished_summary(config, found)
    if summary is None:
        log, name = worker_log(config.work), job_name("queries", config.out)
        show = ShowProgress(console, config.work, config.log_json)
        runner = Runner(flags=tuple(beam_flags), workers=config.workers, log=log, name=name, watch=show)
        summary = job.QueryJob(config, found, runner).run()
    show_result(output(config.log_json), config, summary, time.monotonic() - started)
    return 1 if damage(summary) else 0


def damage(summary: dict[str, Any]) -> list[str]:
    """Return the faults that were passed over."""
    statistics = summary["statistics"]
    found: list[str] = statistics["wikipedia"]["damage"] + statistics.get("title", {}).get("damage", [])
    return found


def show_plan(console: Console, config: QueriesConfig, found: Any) -> None:
    """Print the inputs and the configuration of a run."""
    from queries import wikipedia

    pieces = wikipedia.plan(found.wikipedia)
    size = sum(info.size for info in found.files)
    console.print(
        f"{len(found.files)} files, {size / 1e6:,.1f} MB: {len(found.wikipedia)} of Wikipedia in "
        f"{len(pieces)} pieces, {len(found.pageviews)} of page views; {found.partitions} partitions. "
        "Nothing was written."
    )
    sys.stdout.write(parser.to_toml(parser.effective(config)))


def show_result(console: Console, config: QueriesConfig, summary: dict[str, Any], seconds: float) -> None:
    """Print the final table."""
    from queries.report import SOURCE_NAMES

    # Not as the table's title, which would be folded to its width.
    console.print(config.out, style="italic", highlight=False, soft_wrap=True, markup=False)
    table = Table()
    table.add_column("source")
    for name in ("offered", "in the list"):
        table.add_column(name, justify="right")
    for name, count in summary["composition"].items():
        offered = summary["statistics"].get(name, {}).get("offered", 0)
        table.add_row(SOURCE_NAMES[name], f"{offered:,}", f"{count:,}")
    table.add_row("all", "", f"{summary['queries']:,}", style="bold")
    console.print(table)
    for line in damage(summary)[:10]:
        console.print(Text.assemble(("not read:", "red"), f" {line}"), soft_wrap=True)
    where = [("list", config.out), ("report", config.report), ("time", f"{seconds:,.1f} s")]
    if storage.exists(config.work):
        where.insert(2, ("work", config.work))
    show_places(console, where)
