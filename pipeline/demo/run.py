"""`openwit demo`: serve a small web that openwit draws itself, and run the whole job on it."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.table import Table

from pipeline import config as parser
from pipeline.demo.server import serve
from pipeline.demo.web import Web, build, load
from pipeline.terminal import Terminal
from pipeline.verify import main as verify
from train.evaluation.options import Task

EVALUATION_SETS = ("clean", "contaminated")
"""Drawn with the web; the second holds altered copies of its pictures."""


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Build a dataset from a small web served on loopback, in a few minutes and without a network."""

    out: str
    """Folder for the web and everything made from it. Run again to continue."""
    images: int = 1500
    """Pictures to draw."""
    sites: int = 150
    """Sites to put them on, each at a loopback address of its own."""
    per_query: int = 12
    """Samples that a query contributes at most; small, so that the balance can be seen at work."""
    train_minutes: float = 2.0
    """Minutes of training a tiny CLIP on the CPU; 0 leaves training out."""
    seed: int = 0
    """Decides the drawings and the balance."""
    fresh: bool = False
    """Remove what an earlier demo left in --out first."""
    check: bool = False
    """Print what would be done and write nothing."""

    def __post_init__(self) -> None:
        """Refuse a web too small to show anything."""
        if self.sites < 12 or self.images < 4 * self.sites:
            raise ValueError("give at least 12 --sites and four times as many --images")
        if self.train_minutes < 0:
            raise ValueError("train_minutes must not be negative")


def main(argv: Sequence[str], prog: str = "openwit demo") -> int:
    """Run the demonstration; return the exit code."""
    options, _ = parser.parse(DemoConfig, argv, prog=prog)
    console = Terminal(stderr=True)
    out = Path(options.out)
    if options.check:
        console.print(f"{options.images} pictures on {options.sites} sites, crawled into {out}/run.")
        console.print("Nothing was written.")
        return 0
    if options.fresh and out.exists():
        shutil.rmtree(out)
    web = the_web(out / "web", options, console)
    with serve(web):
        code = crawl(web, out / "run", options)
    code = code or verify(["--run", str(out / "run")])
    for step in () if code else (overlap, train, measure):
        code = code or step(web, out, options)
    if not code:
        show(console, out, options)
    return code


def overlap(web: Web, out: Path, options: DemoConfig) -> int:
    """Compare the set with the two evaluation sets that came with the web, one with planted copies.

    What copies do to an accuracy is shown with that of a classifier that remembers what it has seen.
    """
    from dedup.cli import main as overlap_main
    from pipeline.demo.neighbour import write_predictions

    arguments = ["--run", str(out / "run"), "--out", str(out / "overlap")]
    arguments += ["--planted", "10", "--neighbours", "5"]  # a demonstration's worth
    for name in EVALUATION_SETS:
        predictions = out / "predictions" / f"{name}.parquet"
        write_predictions(out / "run", web, name, predictions)
        arguments += [
            "--eval",
            f"{name}={web.folder / 'eval' / name}",
            "--predictions",
            f"{name}={predictions}",
        ]
    return overlap_main(arguments)


def train(web: Web, out: Path, options: DemoConfig) -> int:
    """Train a tiny model on the shards just built and measure it on drawings that are not among them."""
    if not options.train_minutes:
        return 0
    from train.cli import main as train_main

    return train_main(
        [
            "--shards", str(out / "run"), "--model", "tiny", "--out", str(out / "model"), "--resume",
            "--max-minutes", str(options.train_minutes), "--epochs", "20", "--seed", str(options.seed),
            "--eval", f"clean={web.folder / 'eval' / 'clean'}",
        ]
    )  # fmt: skip


def measure(web: Web, out: Path, options: DemoConfig) -> int:
    """Measure the trained model in every way there is, beside the classifier that remembers."""
    if not options.train_minutes:
        return 0
    from pipeline.demo import measured
    from train.evaluation.cli import main as eval_main

    sets = out / "sets"
    labelled = measured.write_labelled(sets / "labelled", options.seed)
    renditions = measured.write_renditions(sets / "renditions.parquet", options.seed)
    colours, others = measured.write_lists(sets)
    arguments = [
        "--checkpoint", f"tiny={out / 'model'}", "--out", str(out / "evaluation"), "--save-predictions",
        "--data", f"clean={web.folder / 'eval' / 'clean'}", "--train", f"clean={labelled}",
        "--data", f"renditions={renditions}", "--corruptions", "all", "--seed", str(options.seed),
        "--bias-classes", str(colours), "--bias-added", str(others),
        "--compare", f"nearest={out / 'predictions' / 'clean.parquet'}",
    ]  # fmt: skip
    for task in get_args(Task):
        arguments += ["--task", task]
    return eval_main(arguments)


def show(console: Console, out: Path, options: DemoConfig) -> None:
    """Name what there is to look at."""
    table = Table(title="openwit demo", title_justify="left")
    table.add_column("what")
    table.add_column("where")
    table.add_row("the dataset, on one page", str(out / "run" / "report" / "index.html"))
    table.add_row("shards for WebDataset", str(out / "run" / "shards"))
    table.add_row("why the others are not in them", str(out / "run" / "rejected"))
    table.add_row("counts, configuration, hashes", str(out / "run" / "manifest.json"))
    table.add_row("overlap with evaluation sets", str(out / "overlap" / "index.html"))
    if options.train_minutes:
        table.add_row("the trained model", str(out / "model"))
        table.add_row("what the model can do", str(out / "evaluation" / "report.html"))
    console.print(table)


def the_web(folder: Path, options: DemoConfig, console: Console) -> Web:
    """Return the web of an earlier demo in the same folder, or draw one."""
    if (folder / "web.json").exists():
        return load(folder)
    shutil.rmtree(folder, ignore_errors=True)
    with console.status(f"drawing {options.images} pictures for {options.sites} sites"):
        return build(folder, seed=options.seed, n_images=options.images, n_sites=options.sites)


def crawl_arguments(web: Web, out: Path, options: DemoConfig) -> list[str]:
    """Return what the demo hands to `openwit crawl`; the same works from a shell while the web is served."""
    return [
        "--queries", str(web.queries), "--source", web.sitemap, "--source-format", "pages", "--out", str(out),
        "--per-query", str(options.per_query), "--samples-per-shard", "250", "--seed", str(options.seed),
        "--allow-network", "127.0.0.0/8", "--timeout", "10",
    ]  # fmt: skip


def crawl(web: Web, out: Path, options: DemoConfig) -> int:
    """Crawl the web that is being served."""
    from pipeline.cli import main as crawl_main

    return crawl_main(crawl_arguments(web, out, options))
