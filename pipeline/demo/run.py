"""`openwit demo`: serve a small web that openwit draws itself, and run the whole job on it."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from pipeline import config as parser
from pipeline.demo.server import serve
from pipeline.demo.web import Web, build, load
from pipeline.verify import main as verify


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Build a dataset from a small web served on loopback, in a few minutes and without a network."""

    out: str
    """Folder for the web and everything made from it. Run again to continue."""
    images: int = 1500
    """Pictures to draw."""
    sites: int = 150
    """Sites to put them on, each at a loopback address of its own."""
    per_query: int = 60
    """Samples that a query contributes at most; small, so that the balance can be seen at work."""
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


def main(argv: Sequence[str], prog: str = "openwit demo") -> int:
    """Run the demonstration; return the exit code."""
    options, _ = parser.parse(DemoConfig, argv, prog=prog)
    console = Console(stderr=True)
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
    return code or verify(["--run", str(out / "run")])


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
        "--queries", str(web.queries), "--source", str(web.warc), "--out", str(out),
        "--per-query", str(options.per_query), "--samples-per-shard", "250", "--seed", str(options.seed),
        "--allow-network", "127.0.0.0/8", "--timeout", "10",
    ]  # fmt: skip


def crawl(web: Web, out: Path, options: DemoConfig) -> int:
    """Crawl the web that is being served."""
    from pipeline.cli import main as crawl_main

    return crawl_main(crawl_arguments(web, out, options))
