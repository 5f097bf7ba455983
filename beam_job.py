"""openwit's entry point: `openwit COMMAND ...`, or `python beam_job.py COMMAND ...` on a cluster."""

import importlib
import importlib.metadata
import logging
import sys
from collections.abc import Sequence
from typing import Final

from pipeline.terminal import LogFormatter, show_tracebacks_plainly

# command: module, function of (argv) -> exit code, what it does, the extra it needs
COMMANDS: Final[dict[str, tuple[str, str, str, str]]] = {
    "queries": ("queries.cli", "main", "build the query list from Wikipedia and WordNet", "crawl"),
    "crawl": ("pipeline.cli", "main", "find, balance, fetch and shard image-text pairs", "crawl"),
    "status": ("pipeline.status", "main", "say how far a run is, from its files", "crawl"),
    "verify": ("pipeline.verify", "main", "check a run's hashes, counts, and tar against Parquet", "crawl"),
    "compact": (
        "pipeline.compact",
        "main",
        "rewrite shards without what --extend dropped",
        "crawl",
    ),
    "takedown": ("pipeline.takedown.cli", "main", "remove samples from a run for good", "crawl"),
    "overlap": ("dedup.cli", "main", "compare a dataset with evaluation sets, and report", "overlap"),
    "detector": ("dedup.detector.cli", "main", "train and use the learned duplicate detector", "train"),
    "plan": ("pipeline.plan.cli", "main", "predict what a build costs and how long it takes", "crawl"),
    "train": ("train.cli", "main", "train CLIP on shards", "train"),
    "eval": ("train.evaluation.cli", "main", "measure checkpoints as CLIP's paper does", "train"),
    "export": ("train.cli", "export_main", "write a checkpoint's weights for other programs", "train"),
    "demo": ("pipeline.demo.run", "main", "serve a small web on loopback and run everything on it", "crawl"),
}


def usage() -> str:
    """Return the overview of all commands."""
    lines = [f"  {name:<10} {entry[2]}" for name, entry in COMMANDS.items()]
    return "\n".join(
        [
            "usage: openwit COMMAND [OPTIONS]",
            "",
            "Build a CLIP-style image-text dataset from the web, and train on it.",
            "",
            *lines,
            "",
            "`openwit COMMAND --help` explains every option; each takes --config FILE.toml as well.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Dispatch to a command; return 0 when it is complete, 2 after a usage error."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(usage() + "\n")
        return 0
    if arguments[0] == "--version":
        sys.stdout.write(f"openwit {importlib.metadata.version('openwit')}\n")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        from pipeline.config import nearest

        sys.stderr.write(
            f"openwit: error: unknown command {name}{nearest(name, list(COMMANDS))}\n\n{usage()}\n"
        )
        return 2
    # Before Beam is imported: it would install its own handler, and basicConfig would do nothing afterwards.
    show_tracebacks_plainly()
    shown = logging.StreamHandler()
    shown.setFormatter(LogFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[shown])
    for handler in logging.getLogger().handlers:
        # What Beam says on import where its gcp extra is not installed.
        handler.addFilter(lambda record: "apitools not found" not in record.getMessage())
    module, function, _, extra = COMMANDS[name]
    try:
        command = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("pipeline", "queries", "dedup", "train"):
            raise
        sys.stderr.write(f"openwit {name} needs {error.name}: pip install 'openwit[{extra}]'\n")
        return 2
    return int(command(rest))


if __name__ == "__main__":
    sys.exit(main())
