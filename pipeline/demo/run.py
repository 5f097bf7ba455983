"""`openwit demo`: serve a small web that openwit draws itself, and run the whole job on it."""

import json
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

from rich.console import Console

from pipeline import checked_manifest, storage
from pipeline import config as parser
from pipeline.checked_manifest import ManifestShard
from pipeline.data.architectures import RECIPES
from pipeline.demo.options import DemoConfig
from pipeline.terminal import Terminal, output
from pipeline.verify import main as verify_main
from train.evaluation.options import Task

if TYPE_CHECKING:
    from pipeline.demo.web import Web

EVALUATION_SETS = ("clean", "contaminated")
"""Drawn with the web; the second holds altered copies of its pictures."""
_DONE: Final = "done.json"
"""In --out: with which options the model was trained and measured, so that it is not done again unasked."""


Step = Callable[["Web", Path, DemoConfig], int]


def main(argv: Sequence[str], prog: str = "openwit demo") -> int:
    """Run the demonstration; return the exit code."""
    options, _ = parser.parse(DemoConfig, argv, prog=prog)
    console = Terminal(stderr=True)
    out = Path(options.out)
    images, sites = options.size
    steps = steps_of(options)
    if options.check:
        told = output()
        told.print(f"{images:,} pictures on {sites} sites, crawled into {out}/run; then:", highlight=False)
        for what, _ in steps[1:]:
            told.print(f"- {what}", highlight=False)
        told.print("Nothing was written.")
        return 0
    from pipeline.demo.server import serve  # draws

    if options.fresh and out.exists():
        shutil.rmtree(out)
    started = time.monotonic()
    web = the_web(out / "web", options, console)
    for number, (what, step) in enumerate(steps, 1):
        minutes = (time.monotonic() - started) / 60
        console.rule(f"{number} of {len(steps)}: {what} ({minutes:.1f} min so far)", align="left")
        if step is crawl:
            with serve(web):
                code = step(web, out, options)
        else:
            code = step(web, out, options)
        if code:
            return code
        if step is crawl:
            page = (out / "run" / "report" / "index.html").resolve()
            console.print(f"Look at it now: {page.as_uri()}", style="bold", soft_wrap=True, highlight=False)
    show(output(), out, options, time.monotonic() - started)
    return 0


def steps_of(options: DemoConfig) -> list[tuple[str, Step]]:
    """Return the steps in their order."""
    steps: list[tuple[str, Step]] = [
        ("crawl the web", crawl),
        ("verify the dataset", verify),
        ("compare it with evaluation sets", overlap),
    ]
    if options.minutes:
        steps.append((f"train a tiny CLIP on it for {options.minutes:g} min", train))
        steps.append(("measure the model in every way" if options.full else "measure the model", measure))
    return steps


def verify(web: "Web", out: Path, options: DemoConfig) -> int:
    """Check the run's hashes, counts and accounting."""
    return verify_main(["--run", str(out / "run")])


def overlap(web: "Web", out: Path, options: DemoConfig) -> int:
    """Compare the set with the two evaluation sets that came with the web, one with planted copies.

    The effect of copies on an accuracy is shown by a classifier that remembers every image it has seen.
    """
    from dedup.cli import main as overlap_main
    from pipeline.demo.nearest_neighbour import write_predictions

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


def train(web: "Web", out: Path, options: DemoConfig) -> int:
    """Train a tiny model on the shards just built and measure it on drawings that are not among them."""
    from train.cli import main as train_main

    hashes = [shard.sha256 for shard in _shards(out)]  # which say what was trained on
    wanted = {"minutes": options.minutes, "seed": options.seed, "shards": hashes}
    done = _done(out).get("train")
    if done == wanted:
        return _said(f"trained before, for {options.minutes:g} min; --fresh begins again")
    more = options.minutes
    if done and {**done, "minutes": 0} == {**wanted, "minutes": 0} and more > done["minutes"]:
        more -= done["minutes"]
        _said(f"trained before, for {done['minutes']:g} min; {more:g} min more")
    elif done:  # on another dataset
        shutil.rmtree(out / "model", ignore_errors=True)
    samples = sum(shard.samples for shard in _shards(out))
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        code = train_main(
            [
                "--shards", str(out / "run"), "--model", "tiny", "--out", str(out / "model"), "--resume",
                "--max-minutes", str(more), "--epochs", "20", "--seed", str(options.seed),
                "--batch-size", str(max(2, min(RECIPES["tiny"].batch_size, samples // 2))),
                "--eval", f"clean={web.folder / 'eval' / 'clean'}",
            ]
        )  # fmt: skip
    finally:  # the training's output is not for the steps after it
        root.handlers[:], level = before
        root.setLevel(level)
    if not code:
        _note(out, {"train": wanted})
    return code


def measure(web: "Web", out: Path, options: DemoConfig) -> int:
    """Measure the trained model: zero-shot, or with --full every way, beside a classifier that remembers."""
    from train.evaluation.cli import main as eval_main

    wanted = {"full": options.full, "train": _done(out).get("train")}
    if _done(out).get("measure") == wanted and (out / "evaluation" / "report.html").exists():
        return _said("measured before; --fresh begins again")
    arguments = ["--checkpoint", f"tiny={out / 'model'}", "--out", str(out / "evaluation"),
                 "--data", f"clean={web.folder / 'eval' / 'clean'}", "--seed", str(options.seed),
                 "--save-predictions"]  # fmt: skip
    arguments += everything(web, out, options) if options.full else ["--task", "zeroshot"]
    code = eval_main(arguments)
    if not code:
        _note(out, {"measure": wanted})
    return code


def everything(web: "Web", out: Path, options: DemoConfig) -> list[str]:
    """Return the arguments of `openwit eval` for all tasks but geolocation, having drawn the sets they need.

    Drawn pictures were taken nowhere.
    """
    from pipeline.demo import labelled_sets

    sets = out / "sets"
    labelled = labelled_sets.write_labelled(sets / "labelled", options.seed)
    renditions = labelled_sets.write_renditions(sets / "renditions.parquet", options.seed)
    colours, others = labelled_sets.write_lists(sets)
    tasks = [word for task in get_args(Task) if task != "geolocation" for word in ("--task", task)]
    return [
        *tasks, "--train", f"clean={labelled}", "--data", f"renditions={renditions}", "--corruptions", "all",
        "--bias-classes", str(colours), "--bias-added", str(others),
        "--compare", f"nearest={out / 'predictions' / 'clean.parquet'}",
    ]  # fmt: skip


def _done(out: Path) -> dict[str, Any]:
    path = out / _DONE
    return dict(json.loads(path.read_bytes())) if path.exists() else {}


def _note(out: Path, what: dict[str, Any]) -> None:
    storage.write_bytes(str(out / _DONE), json.dumps({**_done(out), **what}).encode())


def _said(text: str) -> int:
    Terminal(stderr=True).print(text, highlight=False, soft_wrap=True)
    return 0


def _shards(out: Path) -> tuple[ManifestShard, ...]:
    return checked_manifest.of(str(out / "run")).shards


def show(console: Console, out: Path, options: DemoConfig, seconds: float) -> None:
    """Name every page and file there is to look at, last of all."""
    console.print(f"openwit demo, {seconds / 60:.1f} min", style="italic", highlight=False)
    rows = [
        ("the dataset, on one page", "run/report/index.html"),
        ("overlap with evaluation sets", "overlap/index.html"),
        ("how training went", "model/report.html"),
        ("accuracy of the model", "evaluation/report.html"),
        ("shards for WebDataset", "run/shards"),
        ("why the others are not in them", "run/rejected"),
        ("counts, configuration, hashes", "run/manifest.json"),
        ("the trained model", "model"),
    ]
    for what, where in rows:
        if (out / where).exists():
            console.print(f"{what:<31} {out / where}", highlight=False, soft_wrap=True)
    console.print("Open the pages in a browser. `openwit demo --help` lists its options.", highlight=False)
    if not options.full:
        console.print(
            "`--full` draws a larger web and measures the model in every way: give it another --out.",
            highlight=False,
        )


def the_web(folder: Path, options: DemoConfig, console: Console) -> "Web":
    """Return the web of an earlier demo in the same folder, or draw a new web."""
    from pipeline.demo.web import build, load

    if (folder / "web.json").exists():
        return load(folder)
    shutil.rmtree(folder, ignore_errors=True)
    images, sites = options.size
    with console.status(f"drawing {images:,} pictures for {sites} sites"):
        return build(folder, seed=options.seed, n_images=images, n_sites=sites)


def crawl_arguments(web: "Web", out: Path, options: DemoConfig) -> list[str]:
    """Return the arguments of the demo for `openwit crawl`; the same works from a shell while the web is
    served."""
    return [
        "--queries", str(web.queries), "--source", web.sitemap, "--source-format", "pages", "--out", str(out),
        "--per-query", str(options.per_query), "--samples-per-shard", "250", "--seed", str(options.seed),
        "--allow-network", "127.0.0.0/8", "--timeout", "10",
    ]  # fmt: skip


def crawl(web: "Web", out: Path, options: DemoConfig) -> int:
    """Crawl the web that is being served."""
    from pipeline.cli import main as crawl_main

    return crawl_main(crawl_arguments(web, out / "run", options))
