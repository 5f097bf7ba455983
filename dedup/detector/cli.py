"""The commands `openwit detector train` and `openwit detector embed`."""

import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from dedup.detector.options import DetectorEmbedConfig, DetectorTrainConfig
from pipeline import config as parser
from pipeline import storage
from pipeline.cli_runtime import guarded, job_name, worker_log
from pipeline.data import shipped_detector
from pipeline.flow import beam_options
from pipeline.formats import count
from pipeline.lock import lock
from pipeline.terminal import output, terminal
from train.cli import Training, train

if TYPE_CHECKING:
    from dedup.detector.parts import EmbeddedFiles
    from pipeline.flow.runner import Runner

_USAGE = """usage: openwit detector train|embed [OPTIONS]

  train      train the duplicate detector of CLIP's appendix C on your own images
  embed      describe shards and evaluation sets with it, and find each example's neighbours

`openwit overlap --detector FILE` uses it; `--detector lite`, which ships with openwit, needs no training.
`openwit detector train --help-all` explains every option.
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
    config, beam_flags = parser.parse(DetectorEmbedConfig, argv, prog=prog, beam=True)
    console = terminal()
    return guarded(prog, console, config.work, lambda: _embed(config, beam_flags, console))


def _embed(config: DetectorEmbedConfig, beam_flags: Sequence[str], console: Console) -> int:
    from dedup.detector import detector_file, embed

    workers = config.workers if beam_flags else detector_file.processes(config.device, config.workers)
    files = embed.plan(config)
    read = [task.path for task in files.shards] + [one.path for one in config.sets]
    yours = shipped_detector.users_file(config.detector)
    beam_options.require_shared(beam_flags, [config.out, yours, *read])
    if config.check:
        console.print(
            f"{count(len(files.shards), 'shard')} and {count(len(config.sets), 'set')}, {files.missing} of "
            f"{count(len(files.shards) + len(files.sets), 'task')} not done yet. Nothing was written."
        )
        sys.stdout.write(parser.to_toml(parser.effective(config)))
        return 0
    with lock(config.work):
        found, pairs = embed.run(files, _runner(config, beam_flags, workers, console))
    _print_embedded(config, found, pairs, console)
    return 0


def _runner(
    config: DetectorEmbedConfig, beam_flags: Sequence[str], workers: int, console: Console
) -> "Runner":
    from pipeline.flow.runner import Runner
    from pipeline.progress import ShowProgress

    return Runner(
        flags=tuple(beam_flags), workers=workers, log=worker_log(config.work),
        name=job_name("detector-embed", config.out), watch=ShowProgress(console, config.work),
    )  # fmt: skip


def _print_embedded(
    config: DetectorEmbedConfig, found: "EmbeddedFiles", pairs: int, console: Console
) -> None:
    table = Table(title=config.out, title_justify="left")
    table.add_column("what")
    table.add_column("descriptors", justify="right")
    table.add_row(count(len(found.shards), "shard"), f"{sum(one.rows for one in found.shards):,}")
    for name in (one.name for one in config.sets):
        table.add_row(name, f"{sum(one.rows for one in found.sets if one.source == name):,}")
    if found.sets:
        table.add_row(storage.join(config.out, "neighbours.parquet"), f"{pairs:,} pairs")
    output().print(table)
    reasons = sum((Counter(one.reasons) for one in (*found.shards, *found.sets)), Counter[str]())
    if reasons:
        said = ", ".join(f"{number:,} {reason}" for reason, number in sorted(reasons.items()))
        console.print(f"{count(reasons.total(), 'image')} left out that cannot be decoded: {said}")
