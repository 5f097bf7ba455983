"""`openwit eval`: check, evaluate, and end with a table."""

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, get_args

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from pipeline import config as parser
from pipeline import storage
from pipeline.cli_runtime import guarded
from pipeline.terminal import output, show_places, terminal
from train.evaluation.options import EvalConfig, FitSplit

if TYPE_CHECKING:
    from train.evaluation.encoded_model import EncodingWatch
    from train.evaluation.evaluate import Evaluation

log = logging.getLogger("train.evaluation")


def main(argv: Sequence[str], prog: str = "openwit eval") -> int:
    """Run `openwit eval`; return 0 when complete, 2 for a usage error, 1 for any other failure."""
    config, _ = parser.parse(EvalConfig, argv, prog=prog)
    console = terminal()
    return guarded(prog, console, storage.join(config.out, "work"), lambda: run(config, console))


def run(config: EvalConfig, console: Console) -> int:
    """Evaluate, or print the plan."""
    if config.check:
        _show_plan(config, console)
        return 0
    from train.evaluation import evaluate  # imports torch

    started = time.monotonic()
    done = evaluate.run(config, watch_of(console))
    _show_result(done, output(), time.monotonic() - started)
    return 0


def watch_of(console: Console) -> "EncodingWatch":
    """Return the display of a step's progress: a bar on a terminal, else a line of the log."""

    @contextlib.contextmanager
    def watch(label: str, total: int | None) -> Iterator[Callable[[int], None]]:
        if not console.is_terminal:
            log.info("%s: %s", label, "?" if total is None else f"{total:,}")
            yield lambda done: None
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task(label, total=total)
            yield lambda done: progress.update(task, completed=done)

    return watch


def _show_plan(config: EvalConfig, console: Console) -> None:
    """Print the planned evaluations, after checking every input."""
    from pipeline.data import evalsets
    from train.evaluation import classes, known_sets, models, prompts, robustness

    table = Table("what", "path", "found", title="plan", title_justify="left")
    for source in models.sources(config.checkpoint):
        table.add_row(f"checkpoint {source.name}", source.path, models.describe(source.path))
    for one in config.sets:
        for split, path in (("", one.path), *((s, config.split(s, one.name)) for s in get_args(FitSplit))):
            if path:
                listed = evalsets.listing(path)
                unit = "images" if listed.form == "folder" else "files"
                names = evalsets.class_names(path)
                what = [f"{len(listed.files):,} {unit}", evalsets.left_out_of(listed)]
                what.append(f"names of {len(names):,} classes" if names else "")
                table.add_row(f"{one.name} {split}".strip(), path, "; ".join(filter(None, what)))
        given = config.for_set("templates", one.name)
        chosen = prompts.read(given) if given else prompts.for_set(one.name, config.language)
        table.add_row(
            f"{one.name} prompts", given or _origin(one.name, config.language),
            f"{len(chosen.ensemble)}, {chosen.single!r}",
        )  # fmt: skip
        if (known := known_sets.find(one.name)) and known.sizes[1]:
            fitted, scored = known.sizes
            says = f"{scored:,} images scored, {fitted:,} fitted on"
            table.add_row(f"{one.name} in the paper", known.title, f"{says}; {known.split}".rstrip("; "))
    for option in ("classes", "class_map", "subset", "compare", "features", "frames", "options", "actions"):
        for value in getattr(config, option):
            path = value.partition("=")[2] or value
            if not storage.exists(path):
                raise ValueError(f"--{option.replace('_', '-')} {path}: no such file")
    for path in filter(None, (config.bias_classes, config.bias_added)):
        table.add_row("bias classes", path, f"{len(classes.read_lines(path)):,}")
    if config.baseline:
        table.add_row("baseline", config.baseline, f"{len(robustness.read_baseline(config.baseline))} models")
    console.print(table)
    console.print("Nothing was written.")
    sys.stdout.write(parser.to_toml(parser.effective(config)))


def _origin(name: str, language: str) -> str:
    """Return where the prompts of a set are from that are not given."""
    from train.evaluation import known_sets

    known = known_sets.find(name)
    if known_sets.published(name, language):
        return known_sets.source()
    return f"openwit's own for {known.title}" if known else "openwit's generic ones"


def _show_result(done: "Evaluation", console: Console, seconds: float) -> None:
    """Print the final table."""
    from train.evaluation.report import main_name

    table = Table(title=done.config.out, title_justify="left")
    for name in ("task", "model", "set", "metric"):
        table.add_column(name)
    for name in ("value", "interval"):
        table.add_column(name, justify="right")
    for one in done.results:
        low, high = one.interval
        table.add_row(
            one.task, one.model, one.dataset, main_name(one),
            f"{one.value:.1%}" if one.value == one.value else "",
            f"{low:.1%} – {high:.1%}" if low == low else "",
        )  # fmt: skip
    console.print(table)
    out = done.config.out.rstrip("/")
    where = [("report", storage.join(out, "report.html")), ("results", storage.join(out, "results.json"))]
    if done.config.save_predictions:
        where.append(("predictions", storage.join(out, "predictions")))
    where.append(("time", f"{seconds:,.1f} s"))
    show_places(console, where)
