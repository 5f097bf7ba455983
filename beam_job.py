"""openwit's entry point: `openwit COMMAND ...`, or `python beam_job.py COMMAND ...` on a cluster."""

import atexit
import contextlib
import importlib
import logging
import os
import sys
import threading
from collections.abc import Sequence
from typing import Final, NoReturn

from pipeline import extras
from pipeline.verbosity import take_verbosity, verbosity

# command: module, function of (argv) -> exit code, its purpose, the extras it needs
COMMANDS: Final[dict[str, tuple[str, str, str, str]]] = {
    "queries": ("queries.cli", "main", "build the query list from Wikipedia and WordNet", "crawl"),
    "crawl": ("pipeline.cli", "main", "find, balance, fetch and shard image-text pairs", "crawl"),
    "status": ("pipeline.status", "main", "show the progress of a run", ""),
    "verify": ("pipeline.verify", "main", "check a run's hashes, counts, and tar against Parquet", ""),
    "summary": ("pipeline.report.eu_summary.cli", "main", "write a run's EU summary, with answers", "crawl"),
    "identity": ("pipeline.identity", "main", "make a key for signed requests or manifests", "sign"),
    "compact": (
        "pipeline.compact",
        "main",
        "rewrite shards without the samples that --extend dropped",
        "crawl",
    ),
    "score": ("pipeline.score.cli", "main", "score a run's samples for --keep-if", "crawl"),
    "takedown": ("pipeline.takedown.cli", "main", "remove samples from a run", "crawl"),
    "index": ("pipeline.index.cli", "main", "index a dataset for browse", "crawl"),
    "browse": ("pipeline.browse.cli", "main", "look at a dataset in the browser", "crawl"),
    "convert": (
        "pipeline.convert",
        "main",
        "write a run as files, or as Parquet with images",
        "crawl",
    ),
    "push": ("pipeline.hub", "push_main", "send a finished run to the Hugging Face Hub", "crawl,hf"),
    "pull": ("pipeline.hub", "pull_main", "fetch a run from the Hugging Face Hub, and check it", "crawl,hf"),
    "overlap": ("dedup.cli", "main", "compare a dataset with evaluation sets, and report", "overlap"),
    "detector": (
        "dedup.detector.cli",
        "main",
        "train and use the learned duplicate detector",
        "overlap,train",
    ),
    "plan": ("pipeline.plan.cli", "main", "predict what a build costs and how long it takes", ""),
    "train": ("train.cli", "main", "train CLIP on shards", "train"),
    "eval": ("train.evaluation.cli", "main", "measure checkpoints as CLIP's paper does", "train"),
    "export": ("train.cli", "export_main", "write a checkpoint's weights for other programs", "train"),
    "demo": (
        "pipeline.demo.run",
        "main",
        "build a dataset from a small web on loopback and train on it",
        "all",
    ),
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
            "openwit help COMMAND        the options that most runs need (--help does the same)",
            "openwit COMMAND --help-all  every option",
            "openwit completion SHELL    a script that completes commands and options in bash, zsh or fish",
            "openwit --version",
            "",
            "Every command takes --config FILE.toml, --quiet (errors and the result alone) and --verbose.",
        ]
    )


def unknown(name: str) -> str:
    """Return the message for a first argument that is no command: name the nearest, or where options go."""
    from pipeline.config import fields, nearest

    if not name.startswith("-"):
        return f"unknown command {name}{nearest(name, [*COMMANDS, 'help', 'completion'])}"
    from pipeline import reference
    from pipeline.options import presets

    if line := presets.IMG2DATASET.advice(name):
        return f"{line}: openwit crawl --source urls.parquet --out run ..."
    option = name.partition("=")[0].removeprefix("--").replace("-", "_")
    takers = [c for c in reference.CONFIGS if option in dict(fields(reference.config_of(c)))]
    if takers:
        return f"{name} comes after a command: openwit {takers[0]} {name} ..."
    return f"unknown option {name}; a command comes first"


def completion(arguments: Sequence[str]) -> int:
    """Print the completion script for a shell."""
    shells = ("bash", "zsh", "fish")
    if len(arguments) != 1 or arguments[0] not in shells:
        sys.stderr.write(
            "openwit completion: error: give bash, zsh or fish, such as\n"
            "  openwit completion bash > ~/.local/share/bash-completion/completions/openwit\n"
        )
        return 2
    from pipeline import config, reference

    commands = {name: reference.config_of(name) for name in reference.CONFIGS}
    sys.stdout.write(config.completion(commands, arguments[0]))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Dispatch to a command; return 0 when it is complete, 2 after a usage error."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["help"] and len(arguments) > 1:
        arguments = [*arguments[1:], "--help"]
    if not arguments or arguments[0] in ("-h", "--help", "--help-all", "help"):
        sys.stdout.write(usage() + "\n")
        return 0
    if arguments[0] in ("-V", "--version"):
        from importlib import metadata

        sys.stdout.write(f"openwit {metadata.version('openwit')}\n")
        return 0
    if arguments[0] == "completion":
        return completion(arguments[1:])
    name, *rest = take_verbosity(arguments)
    if name not in COMMANDS:
        sys.stderr.write(f"openwit: error: {unknown(name)}\n\n{usage()}\n")
        return 2
    if {"-h", "--help", "--help-all"} & set(rest):
        from pipeline import reference  # it needs the options alone, not the packages of the work

        reference.show_help(name, rest)
    from pipeline.terminal import LogFormatter, show_tracebacks_plainly

    # Before Beam is imported: it would install its own handler, and basicConfig would do nothing afterwards.
    show_tracebacks_plainly()
    shown = logging.StreamHandler()
    shown.setFormatter(LogFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[shown])
    if verbosity() == "verbose":
        for package in ("pipeline", "queries", "dedup", "train"):
            logging.getLogger(package).setLevel(logging.DEBUG)
    for handler in logging.getLogger().handlers:
        # Beam's warning on import where its gcp extra is not installed.
        handler.addFilter(lambda record: "apitools not found" not in record.getMessage())
    module, function, _, needed = COMMANDS[name]
    prog = f"openwit {name}"
    if not {"-h", "--help", "--help-all"} & set(rest) and (package := extras.missing(needed)):
        sys.stderr.write(extras.sentence(prog, package, needed))
        return 2
    try:
        return int(getattr(importlib.import_module(module), function)(rest))
    except Exception as error:
        if not (line := extras.advice(prog, error, needed)):
            raise
        sys.stderr.write(line)
        return 2


def console() -> NoReturn:
    """Run a command as a process of its own, and end it with its exit code.

    The process ends without the destructors of C++ libraries: where Arrow's threads are still at their last
    breath, these abort it, with status 134 after all was done (apache/arrow#34314, open since 2023).
    """
    try:
        code: object = main()
    except SystemExit as stop:
        code = stop.code
    except BrokenPipeError:  # `| head` has seen enough
        code = 1
    if not isinstance(code, int):
        if code is not None:
            sys.stderr.write(f"{code}\n")
        code = int(code is not None)
    # As Python's own end: the threads of pools of processes first, or these wait for work and we for them.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody reads it any more, or it is closed
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    console()
