"""`openwit overlap`: check, run the steps, and end with a table."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dedup.options import OverlapConfig
from pipeline import config as parser
from pipeline import storage
from pipeline.cli_runtime import guarded, job_name, stoppable, worker_log
from pipeline.data import shipped_detector
from pipeline.flow import beam_options
from pipeline.formats import count, p_value
from pipeline.terminal import output, show_places, terminal

if TYPE_CHECKING:
    from dedup.findings import Findings  # needs the overlap extra
    from pipeline.flow.runner import Runner


def main(argv: Sequence[str], prog: str = "openwit overlap") -> int:
    """Run `openwit overlap`; return the exit code."""
    options, beam_flags = parser.parse(OverlapConfig, argv, prog=prog, beam=True)
    console = terminal()
    return guarded(prog, console, f"{options.out}/work", lambda: run(options, beam_flags, console))


def run(config: OverlapConfig, beam_flags: Sequence[str] = (), console: Console | None = None) -> int:
    """Run the analysis; return 0 when it is complete."""
    from dedup import overlap  # imports OpenCV

    console = console or terminal()
    started = time.monotonic()
    training, inputs, eval_inputs = overlap.prepare(config)
    read = (file.path for file in (*inputs, *eval_inputs))
    yours = shipped_detector.users_file(config.detector)
    beam_options.require_shared(beam_flags, [config.out, *read, yours])
    if config.check:
        show_plan(console, config, inputs, eval_inputs)
        return 0
    job = overlap.OverlapJob(
        config=config, training=training, inputs=inputs, eval_inputs=eval_inputs,
        runner=_runner(config, beam_flags, console),
    )  # fmt: skip
    show_result(output(config.log_json), config, overlap.run(job), time.monotonic() - started)
    return 0


def overlap_from_python(values: Mapping[str, Any]) -> "Findings":
    """Run an analysis with these options, by name; ValueError for anything that cannot be done."""
    from dedup import overlap

    config, console = parser.from_python(OverlapConfig, values), terminal()
    training, inputs, eval_inputs = overlap.prepare(config)
    runner = _runner(config, (), console)
    with stoppable():
        return overlap.run(
            overlap.OverlapJob(
                config=config, training=training, inputs=inputs, eval_inputs=eval_inputs, runner=runner
            )
        )


def _runner(config: OverlapConfig, beam_flags: Sequence[str], console: Console) -> "Runner":
    from pipeline.flow.runner import Runner
    from pipeline.progress import ShowProgress

    log, name = worker_log(f"{config.out}/work"), job_name("overlap", config.out)
    watch = ShowProgress(console, f"{config.out.rstrip('/')}/work", config.log_json)
    return Runner(flags=tuple(beam_flags), workers=config.workers, log=log, name=name, watch=watch)


def show_plan(
    console: Console,
    config: OverlapConfig,
    inputs: list[storage.FileInfo],
    eval_inputs: list[storage.FileInfo],
) -> None:
    """Print the inputs and the configuration of an analysis."""
    size, eval_size = (sum(info.size for info in files) / 1e6 for files in (inputs, eval_inputs))
    console.print(
        f"{count(len(inputs), 'shard')}, {size:,.1f} MB; {count(len(config.sets), 'set')} in "
        f"{count(len(eval_inputs), 'file')}, "
        f"{eval_size:,.1f} MB. Nothing was written."
    )
    sys.stdout.write(parser.to_toml(parser.effective(config)))


def notes(found: "Findings") -> list[str]:
    """Return notes on the table: images and sets that could not be decoded or measured."""
    from pipeline.images.decode import Unreadable, named  # imports Pillow

    lines = []
    for one in found.datasets:
        if lost := [Unreadable(x.example_id, "", x.reason) for x in one.unreadable_examples]:
            are = "are" if len(lost) > 1 else "is"
            lines.append(
                f"{one.name}: {len(lost):,} of {count(one.examples + len(lost), 'image')} cannot be decoded "
                f"and {are} left out of everything: {named(lost)}"
            )
        if one.recall_note:
            lines.append(f"{one.name}: the recall could not be measured: {one.recall_note}")
    if unreadable := found.counts.get("unreadable", 0):
        lost = [Unreadable(x.key, "", x.reason) for x in found.unreadable]
        lines.append(
            f"{count(unreadable, 'training image')} cannot be decoded and not be compared: {named(lost)}"
        )
    return lines


def show_result(console: Console, config: OverlapConfig, found: "Findings", seconds: float) -> None:
    """Print the final table; reversed is the recall where the evaluation image is the altered copy."""
    # Not as the table's title, which would be folded to its width.
    console.print(config.out, style="italic", highlight=False, soft_wrap=True, markup=False)
    table = Table()
    table.add_column("evaluation set")
    for name in (
        "examples",
        "overlap",
        "contamination",
        "All - Clean",
        "p (corrected)",
        "recall",
        "reversed",
    ):
        table.add_column(name, justify="right")
    for one in found.datasets:
        recalls = (known.get("mixed") for known in (one.recall, one.recall_reversed))
        table.add_row(
            one.name, f"{one.examples:,}", f"{one.overlap:,}", f"{one.contamination:.2%}",
            "" if one.delta is None else f"{100 * one.delta:+.2f}",
            "" if one.p_bonferroni is None else p_value(one.p_bonferroni),
            *("" if recall is None else f"{recall:.0%}" for recall in recalls),
            style="bold red" if one.significant else "",
        )  # fmt: skip
    console.print(table)
    for line in notes(found):
        console.print(Text(line, "yellow"), soft_wrap=True)
    out = config.out.rstrip("/")
    where = [("report", storage.join(out, "index.html")), ("matches", storage.join(out, "matches.parquet"))]
    if config.decontaminate:
        where.append(
            ("drop", f"{storage.join(out, 'drop.parquet')} ({count(found.dropped or 0, 'training image')})")
        )
    where.append(("time", f"{seconds:,.1f} s"))
    show_places(console, where)
