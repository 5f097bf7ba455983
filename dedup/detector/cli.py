"""The commands `openwit detector train` and `openwit detector embed`."""

import logging
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import track
from rich.table import Table

from dedup.detector.options import DetectorEmbedConfig, DetectorTrainConfig
from pipeline import config as options
from pipeline import storage
from pipeline.command import guarded, terminal

if TYPE_CHECKING:
    from dedup.detector import embed
    from dedup.detector.train import Prepared, Result

_USAGE = """usage: openwit detector train|embed [OPTIONS]

  train      train the duplicate detector of CLIP's appendix C on your own images
  embed      describe shards and evaluation sets with it, and find each example's neighbours

`openwit overlap --detector FILE` uses it. `openwit detector train --help` explains every option.
"""
_NEEDED = "this command needs torch and OpenCV: pip install 'openwit[overlap,train]'"


def main(argv: Sequence[str]) -> int:
    """Run `openwit detector`; return 0 when complete, 1 when stopped early or failed, 2 for a usage error."""
    command, *rest = argv or [""]
    if command in ("-h", "--help"):
        sys.stdout.write(_USAGE)
        return 0
    if command not in ("train", "embed"):
        sys.stderr.write(f"openwit detector: error: give train or embed\n\n{_USAGE}")
        return 2
    return train_main(rest) if command == "train" else embed_main(rest)


def train_main(argv: Sequence[str]) -> int:
    """Run `openwit detector train`."""
    prog = "openwit detector train"
    config, _ = options.parse(DetectorTrainConfig, argv, prog=prog)
    try:
        from dedup.detector.train import fit
        from train.steps import Diverged
    except ImportError as error:
        return _fail(prog, f"{_NEEDED} ({error})")
    first = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(
        level=logging.INFO if first else logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=Console(stderr=True), show_path=False)],
        force=True,
    )
    try:
        if config.check:
            return _check(config)
        result = fit(config)
    except ValueError as error:
        return _fail(prog, str(error))
    except Diverged as error:
        _fail(prog, str(error))
        return 1
    if first:
        _print_result(result)
    return 0 if result.complete else 1


def _check(config: DetectorTrainConfig) -> int:
    from dedup.detector.train import prepare
    from train import distributed

    world = distributed.join(config.device)
    prepared = prepare(config, world)
    if world.rank == 0:
        _print_plan(prepared)
    distributed.leave()
    return 0


def _fail(prog: str, message: str) -> int:
    sys.stderr.write(f"{prog}: error: {message}\n")
    return 2


def _print_plan(p: "Prepared") -> None:
    from dedup.detector.train import forward_flops

    table = Table("source", "shards", "images", "weight", "an epoch takes", title="plan")
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
        f"{p.config.model} at {p.architecture.side} pixels, {p.architecture.dims} numbers, "
        f"{forward_flops(p.architecture) / 1e6:,.0f} MFLOP an image; {p.steps:,} steps of {p.shape.batch:,} "
        f"pairs, {p.steps * p.shape.batch / p.plan.epoch_samples:,.1f} epochs, {p.warmup:,} steps of warm-up"
    )
    console.print(options.to_toml(p.effective()), markup=False, highlight=False)


def _print_result(result: "Result") -> None:
    table = Table("what", "value", title="training")
    table.add_row("steps", f"{result.steps:,} of {result.planned:,}")
    table.add_row("loss", f"{result.loss:.4f}")
    table.add_row("time", f"{result.seconds / 60:.1f} min")
    for name, value in result.accuracy.items():
        table.add_row(f"proxy accuracy, {name}", f"{value:.1%}")
    for reason, count in result.counts.items():
        table.add_row(f"images: {reason}", f"{count:,}")
    table.add_row("detector", result.detector if result.complete else "not yet; continue with --resume")
    Console().print(table)


def embed_main(argv: Sequence[str]) -> int:
    """Run `openwit detector embed`."""
    prog = "openwit detector embed"
    config, _ = options.parse(DetectorEmbedConfig, argv, prog=prog)
    try:
        import dedup.detector.embed  # noqa: F401 - whether it can be
    except ImportError as error:
        return _fail(prog, f"{_NEEDED} ({error})")
    console = terminal()
    return guarded(prog, console, config.out, lambda: _embed(config, console))


def _embed(config: DetectorEmbedConfig, console: Console) -> int:
    from dedup.detector import embed

    detector = embed.load(config)
    files = embed.plan(config, detector.name)
    missing = files.missing
    if config.check:
        console.print(
            f"{len(files.shards)} shards and {len(files.sets)} sets, {len(missing)} of them not described "
            "yet. Nothing was written."
        )
        sys.stdout.write(options.to_toml(options.effective(config)))
        return 0
    for _ in track(
        embed.describe(missing, detector, config), "describe", len(missing),
        console=console, disable=not console.is_terminal, transient=True,
    ):  # fmt: skip
        pass
    found = embed.neighbours(config, files, detector.network.head.weight.device) if files.sets else None
    _print_embedded(console, config, files, found)
    return 0


def _print_embedded(
    console: Console, config: DetectorEmbedConfig, files: "embed.Plan", found: int | None
) -> None:
    from dedup.detector import embed

    table = Table(title=config.out, title_justify="left")
    table.add_column("what")
    table.add_column("descriptors", justify="right")
    shards = sum(embed.rows_of(task.path) for task in files.shards)
    table.add_row(f"{len(files.shards):,} shards", f"{shards:,}")
    for one, task in zip(config.sets, files.sets, strict=True):
        table.add_row(one.name, f"{embed.rows_of(task.path):,}")
    if found is not None:
        table.add_row(storage.join(config.out, "neighbours.parquet"), f"{found:,} pairs")
    console.print(table)
