"""The commands `openwit train` and `openwit export`, and `torchrun -m train`."""

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from pipeline import config as options
from train.config import ExportConfig, TrainConfig

if TYPE_CHECKING:
    from train.loop import Result
    from train.prepare import Prepared

_NEEDED = "this command needs torch and more: pip install 'openwit[train]'"


def main(argv: Sequence[str]) -> int:
    """Run `openwit train`; return 0 when complete, 1 when stopped early or failed, 2 for a usage error."""
    config, _ = options.parse(TrainConfig, argv, prog="openwit train")
    try:
        from train.loop import fit
        from train.prepare import prepare
        from train.steps import Diverged
    except ImportError as error:
        return _fail(f"{_NEEDED} ({error})")
    first = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(
        level=logging.INFO if first else logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=Console(stderr=True), show_path=False)],
    )
    try:
        if config.check:
            from train import distributed

            world = distributed.join(config.device)
            prepared = prepare(config, world)
            if world.rank == 0:
                _print_plan(prepared)
            distributed.leave()
            return 0
        result = fit(config)
    except ValueError as error:
        return _fail(str(error))
    except Diverged as error:
        _fail(str(error))
        return 1
    if first:
        _print_result(result)
    return 0 if result.complete else 1


def export_main(argv: Sequence[str]) -> int:
    """Run `openwit export`; return 0 when complete, 2 for a usage error."""
    config, _ = options.parse(ExportConfig, argv, prog="openwit export")
    try:
        from train import checkpoint, interchange
    except ImportError as error:
        return _fail(f"{_NEEDED} ({error})")
    try:
        loaded = checkpoint.load_model(config.checkpoint)
        files = interchange.export(
            loaded.model.state_dict(),
            loaded.state.architecture,
            loaded.tokenizer,
            config.format,
            Path(config.out),
        )
    except ValueError as error:
        return _fail(str(error), "openwit export")
    table = Table(
        "file", "MB", title=f"{loaded.state.model} after step {loaded.state.step:,} as {config.format}"
    )
    for path in files:
        table.add_row(str(path), f"{path.stat().st_size / 1e6:,.1f}")
    Console().print(table)
    return 0


def _fail(message: str, prog: str = "openwit train") -> int:
    sys.stderr.write(f"{prog}: error: {message}\n")
    return 2


def _print_plan(p: "Prepared") -> None:
    table = Table("source", "shards", "samples", "weight", "an epoch takes", title="plan")
    for source in p.plan.sources:
        table.add_row(
            source.name,
            f"{len(source.shards):,}",
            f"{source.count:,}",
            f"{source.weight:g}",
            f"{source.share:,}",
        )
    console = Console()
    console.print(table)
    console.print(
        f"{p.config.model} at {p.architecture.image_size} pixels, {p.tokenizer.vocab_size:,} tokens; "
        f"{p.shape.epoch_steps:,} steps an epoch, {p.steps:,} in all, {p.warmup:,} of warm-up; "
        f"micro-batches of {p.shape.micro:,} on each of {p.shape.ranks} processes"
    )
    console.print(options.to_toml(p.effective()), markup=False, highlight=False)


def _print_result(result: "Result") -> None:
    table = Table("what", "value", title="training")
    table.add_row("steps", f"{result.steps:,} of {result.planned:,}")
    table.add_row("loss", f"{result.loss:.4f}")
    table.add_row("time", f"{result.seconds / 60:.1f} min")
    for name, value in result.accuracy.items():
        table.add_row(f"zero-shot accuracy, {name}", f"{value:.1%} (chance {result.chance[name]:.1%})")
    for reason, count in result.counts.items():
        table.add_row(f"samples: {reason}", f"{count:,}")
    table.add_row("folder", result.out)
    Console().print(table)
