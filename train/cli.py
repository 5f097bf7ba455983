"""The commands `openwit train` and `openwit export`, and `torchrun -m train`."""

import errno
import logging
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rich.logging import RichHandler
from rich.markup import escape
from rich.table import Table

from pipeline import config as parser
from pipeline import extras
from pipeline.terminal import Terminal, complaint, output
from pipeline.untrusted import visible_lines
from pipeline.verbosity import verbosity
from train.options import ExportConfig, RunConfig, TrainConfig

if TYPE_CHECKING:
    from train.distributed import World
    from train.shard_sources import ShardSource
    from train.training_run import Setup, TrainingResult

C = TypeVar("C", bound=RunConfig)
Training = tuple[Callable[[C, "World"], "Setup"], Callable[[C], "TrainingResult"]]
"""The function that prepares a run, and the function that does it."""

_EPOCHS = 4  # whose samples the plan lists
_ELSEWHERE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT)
"""Errors that are of the path given."""
NEEDED = "train"
"""The extra of both commands."""


def main(argv: Sequence[str]) -> int:
    """Run `openwit train`; return 0 when complete, 1 when stopped early or failed, 2 for a usage error."""
    prog = "openwit train"
    config, _ = parser.parse(TrainConfig, argv, prog=prog)

    def load() -> Training[TrainConfig]:
        from train.clip_trainer import check, fit

        return check, fit

    return train(prog, config, load, NEEDED)


def train(prog: str, config: C, load: Callable[[], Training[C]], needed: str) -> int:
    """Carry out any command that trains; return its exit code.

    load: imports and returns the functions that prepare and do such a run; needed: their extras.
    """
    try:
        prepare, fit = load()
        from train import distributed
        from train.trainer import Diverged
    except ImportError as error:
        return missing(prog, error, needed)
    first = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(
        level=logging.INFO if first and verbosity() != "quiet" else logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=Terminal(stderr=True), show_path=False)],
        force=True,
    )
    try:
        if config.check:
            setup = distributed.joined(config.device, lambda world: prepare(config, world))
            if first:
                _print_plan(setup)
            return 0
        result = fit(config)
    except ValueError as error:
        return fail(prog, str(error))
    except OSError as error:
        return fail_to_write(prog, error)
    except Diverged as error:
        fail(prog, str(error))
        return 1
    if first:
        _print_result(result)
    return 0 if result.complete else 1


def export_main(argv: Sequence[str]) -> int:
    """Run `openwit export`; return 0 when complete, 2 for a usage error."""
    prog = "openwit export"
    config, _ = parser.parse(ExportConfig, argv, prog=prog)
    try:
        from train import checkpoint, convert_weights
    except ImportError as error:
        return missing(prog, error, NEEDED)
    try:
        loaded = checkpoint.load_model(config.checkpoint)
        files = convert_weights.export(
            loaded.model.state_dict(),
            loaded.state.architecture,
            loaded.tokenizer,
            config.format,
            Path(config.out),
        )
    except ValueError as error:
        return fail(prog, str(error))
    except OSError as error:
        return fail_to_write(prog, error)
    table = Table(
        "file", "MB", title=f"{loaded.state.model} after step {loaded.state.step:,} as {config.format}"
    )
    for path in files:
        table.add_row(str(path), f"{path.stat().st_size / 1e6:,.1f}")
    output().print(table)
    return 0


def missing(prog: str, error: ImportError, needed: str) -> int:
    """Print which package is missing and how to install it, and return 2; raise any other failure."""
    if not (line := extras.advice(prog, error, needed)):
        raise error
    sys.stderr.write(visible_lines(line))
    return 2


def fail(prog: str, message: str) -> int:
    """Print the error, and return 2."""
    sys.stderr.write(f"{prog}: error: {complaint(message)}\n")
    return 2


def fail_to_write(prog: str, error: OSError) -> int:
    """Say which file could not be read or written; return 2 where another path mends it, else 1."""
    fail(prog, f"{error.filename or 'a file'}: {error.strerror or error}")
    return 2 if error.errno in _ELSEWHERE else 1


def _listed(source: "ShardSource") -> str:
    """Return the samples of an epoch, or of the first epochs where they differ."""
    shares = [f"{source.share(epoch):,}" for epoch in range(min(source.epochs, _EPOCHS))]
    return ", ".join(shares) + (", ..." if source.epochs > _EPOCHS else "")


def _print_plan(setup: "Setup") -> None:
    table = Table("source", "shards", "samples", "weight", "an epoch takes", "left out", title="plan")
    for source in setup.sampler.sources:
        table.add_row(
            escape(source.name),
            f"{len(source.shards):,}",
            f"{source.count:,}",
            f"{source.weight:g}",
            _listed(source),
            escape(source.left_out) or "nothing",
        )
    console = output()
    console.print(table)
    console.print(setup.summary())
    console.print(parser.to_toml(setup.effective()), markup=False, highlight=False)


def _print_result(result: "TrainingResult") -> None:
    table = Table("what", "value", title="training")
    table.add_row("steps", f"{result.steps:,} of {result.planned:,}")
    if math.isfinite(result.loss):
        table.add_row("loss", f"{result.loss:.4f}")
    table.add_row("time", f"{result.seconds / 60:.1f} min")
    for name, value in result.accuracy.items():
        chance = f" (chance {result.chance[name]:.1%})" if name in result.chance else ""
        table.add_row(f"accuracy, {name}", f"{value:.1%}{chance}")
    for reason, count in result.counts.items():
        table.add_row(f"samples: {reason}", f"{count:,}")
    table.add_row("folder", result.out)
    if not result.complete:
        table.add_row("next", "continue with --resume")
    output().print(table)
