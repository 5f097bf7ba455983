"""The commands `openwit detector train` and `openwit detector embed`."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import track
from rich.table import Table

from dedup.detector.options import DetectorEmbedConfig, DetectorTrainConfig
from pipeline import config as parser
from pipeline import storage
from pipeline.cli_runtime import guarded
from pipeline.formats import count
from pipeline.terminal import output, terminal
from train.cli import Training, train

if TYPE_CHECKING:
    from dedup.detector import embed

_USAGE = """usage: openwit detector train|embed [OPTIONS]

  train      train the duplicate detector of CLIP's appendix C on your own images
  embed      describe shards and evaluation sets with it, and find each example's neighbours

`openwit overlap --detector FILE` uses it. `openwit detector train --help-all` explains every option.
"""
_NEEDED = "overlap,train"


def main(argv: Sequence[str]) -> int:
    """Run `openwit detector`; return 0 when complete, 1 when stopped early or failed, 2 for a usage error."""
    command, *rest = argv or [""]
    if command in ("-h", "--help", "--help-all"):
        sys.stdout.write(_USAGE)
        return 0
    if command not in ("train", "embed"):
        sys.stderr.write(f"openwit detector: error: give train or embed\n\n{_USAGE}")
        return 2
    return train_main(rest) if command == "train" else embed_main(rest)


def train_main(argv: Sequence[str]) -> int:
    """Run `openwit detector train`."""
    prog = "openwit detector train"
    config, _ = parser.parse(DetectorTrainConfig, argv, prog=prog)

    def load() -> Training[DetectorTrainConfig]:
        from dedup.detector.train import fit, prepare

        return prepare, fit

    return train(prog, config, load, _NEEDED)


def embed_main(argv: Sequence[str]) -> int:
    """Run `openwit detector embed`."""
    prog = "openwit detector embed"
    config, _ = parser.parse(DetectorEmbedConfig, argv, prog=prog)
    console = terminal()
    return guarded(prog, console, config.out, lambda: _embed(config, console))


def _embed(config: DetectorEmbedConfig, console: Console) -> int:
    from dedup.detector import embed

    detector, device = embed.load(config)
    files = embed.plan(config, detector)
    missing = files.missing
    if config.check:
        console.print(
            f"{count(len(files.shards), 'shard')} and {count(len(files.sets), 'set')}, {len(missing)} of "
            "them not described yet. Nothing was written."
        )
        sys.stdout.write(parser.to_toml(parser.effective(config)))
        return 0
    for _ in track(
        embed.describe(missing, detector, config), "describe", len(missing),
        console=console, disable=not console.is_terminal, transient=True,
    ):  # fmt: skip
        pass
    found = embed.neighbours(config, files, len(detector.views), device) if files.sets else None
    detector.close()
    _print_embedded(config, files, found)
    return 0


def _print_embedded(config: DetectorEmbedConfig, files: "embed.EmbedPlan", found: int | None) -> None:
    from dedup.detector import embed

    table = Table(title=config.out, title_justify="left")
    table.add_column("what")
    table.add_column("descriptors", justify="right")
    shards = sum(embed.rows_of(task.path) for task in files.shards)
    table.add_row(count(len(files.shards), "shard"), f"{shards:,}")
    for one, task in zip(config.sets, files.sets, strict=True):
        table.add_row(one.name, f"{embed.rows_of(task.path):,}")
    if found is not None:
        table.add_row(storage.join(config.out, "neighbours.parquet"), f"{found:,} pairs")
    output().print(table)
