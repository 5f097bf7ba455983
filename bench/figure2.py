"""CLIP's figure 2: zero-shot accuracy over samples seen, of three objectives on the same pool.

    python -m bench.figure2 OUT [--seen 300000] [--seeds 3] [--photographs 50000] [--test 2000] [--points 12]

CIFAR-10's photographs, each with captions as the web writes them: the name of its class among words of real
alt texts that have nothing to do with it. The tiny model is trained on them by `openwit train --objective`
caption, bag-of-words and contrastive, which differ in nothing else, with the same samples in the same order,
and is asked for the class of test photographs on the way.

OUT/figure2.html has the curves, the means of the seeds with 95%
intervals (Student's t), and how many times fewer samples than the caption model each objective takes to the
caption model's last accuracy (the paper: 3 and 12). The same command goes on where it was stopped. --jobs 9
trains nine models at a time, where a GPU or the CPUs are more than one tiny model can use.

The paper's contrastive curve also reads its captions as bags of words; this curve has CLIP's text tower.
"""

import argparse
import itertools
import json
import math
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from matplotlib.figure import Figure
from scipy import stats

from bench import train_cifar
from pipeline.charts import ONE, THREE, TWO, draw, percent_axis, short_axis

TEXTS = Path(__file__).resolve().parents[2] / "shared/data/text/img2dataset_test_10000.parquet"
OBJECTIVES = {"contrastive": ONE, "bag-of-words": TWO, "caption": THREE}
EVERY = 3  # captions of a photograph
AROUND = 5  # words of an alt text before the name at most, and after it
PAGE = Path(train_cifar.__file__).resolve().parents[1] / "pipeline/page.css"


class Curve(NamedTuple):
    """One objective's accuracies: samples seen [P], and shares [seeds, P]."""

    seen: np.ndarray
    shares: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Return the mean of the seeds [P]."""
        return self.shares.mean(axis=0)

    @property
    def half(self) -> np.ndarray:
        """Return half the width of the means' 95% intervals [P]; of one seed there is none."""
        seeds = len(self.shares)
        if seeds < 2:
            return np.full(len(self.seen), math.nan)
        return stats.t.ppf(0.975, seeds - 1) * self.shares.std(axis=0, ddof=1) / math.sqrt(seeds)

    def reaches(self, share: float) -> float:
        """Return after how many samples the mean comes to a share, between points by a line; NaN if never."""
        if self.mean.max() < share:
            return math.nan
        after = int(np.argmax(self.mean >= share))
        if not after:
            return float(self.seen[0])
        low, high = self.mean[after - 1 : after + 1]
        return float(np.interp(share, [low, high], self.seen[after - 1 : after + 1]))


def captions(label: str, number: int, texts: Sequence[list[str]]) -> list[str]:
    """Return captions of a photograph: its class's name among words of alt texts drawn by its number."""
    random = np.random.default_rng([2, number])
    found = []
    for _ in range(EVERY):
        words = texts[int(random.integers(len(texts)))]
        start = int(random.integers(max(1, len(words) - 2 * AROUND + 1)))
        place = start + int(random.integers(AROUND + 1))
        found.append(" ".join([*words[start:place], label, *words[place : start + 2 * AROUND]]))
    return found


def build(options: argparse.Namespace) -> None:
    """Write the pool and the test photographs, once."""
    if (options.out / "run/manifest.json").exists():
        return
    lines = pq.read_table(options.texts, columns=["TEXT"])["TEXT"].to_pylist()
    texts = [line.split() for line in lines if line and line.split()]
    pairs = train_cifar.unpack(options.archive, options.out / "all")[: options.photographs]
    for folder in sorted((options.out / "all/test").iterdir()):
        (options.out / "test" / folder.name).mkdir(parents=True)
        for photograph in sorted(folder.iterdir())[: options.test // 10]:
            photograph.rename(options.out / "test" / folder.name / photograph.name)
    train_cifar.write_run(pairs, options.out / "run", lambda label, number: captions(label, number, texts))


def train(options: argparse.Namespace, objective: str, seed: int) -> None:
    """Train one model, or the rest of its steps."""
    from train.clip_trainer import fit
    from train.options import TrainConfig

    batch = 128
    steps = options.seen // batch
    out = options.out / f"{objective}-{seed}"
    done = fit(
        TrainConfig(
            shards=(str(options.out / "run"),), out=str(out), model=options.model, objective=objective,
            seed=seed, batch_size=batch, max_steps=steps, epochs=1_000_000, resume=True,
            eval=(f"cifar10={options.out / 'test'}",), eval_every=max(1, steps // options.points),
            log_every=max(1, steps // 50), checkpoint_every=max(1, steps // options.points),
            keep_checkpoints=1, compile="off", workers=options.decoders, device=options.device,
        )
    )  # fmt: skip
    if done.steps < done.planned:
        raise SystemExit(f"{out.name} was stopped after step {done.steps:,}: the same command goes on")


def read(options: argparse.Namespace, objective: str) -> Curve:
    """Return the accuracies that the runs of one objective have logged."""
    shares = []
    for seed in range(options.seeds):
        log = (options.out / f"{objective}-{seed}/metrics.jsonl").read_text().splitlines()
        found = {line["step"]: line["accuracy/cifar10"] for line in map(json.loads, log) if _KEY in line}
        shares.append(list(found.values()))
    return Curve(np.array([128 * step for step in found]), np.array(shares))


_KEY = "accuracy/cifar10"


def page(options: argparse.Namespace, curves: dict[str, Curve], seconds: float) -> str:
    """Return the report: the figure, and a table of the end and of the samples to the same accuracy."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for name, curve in curves.items():
            colour = OBJECTIVES[name]
            axes.plot(curve.seen, curve.mean, color=colour, label=name, marker="o", markersize=3)
            if len(curve.shares) > 1:
                low, high = curve.mean - curve.half, curve.mean + curve.half
                axes.fill_between(curve.seen, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.axhline(0.1, color=TWO, linewidth=0.8, linestyle="--")
        axes.set_ylim(bottom=0)
        short_axis(axes.xaxis)
        percent_axis(axes.yaxis)
        axes.set_xlabel("samples seen")
        axes.set_ylabel("zero-shot accuracy")
        axes.legend(loc="upper left")

    svg = draw(paint, "Zero-shot accuracy over samples seen, by objective", size=(8.0, 4.6))
    rows = "".join(
        f"<tr><td>{row['objective']}</td><td>{row['accuracy']:.1%}{_half(row['half'])}</td>"
        f"<td>{_number(row['samples'], ',.0f')}</td><td>{_number(row['times'], '.1f')}</td></tr>"
        for row in table(curves)
    )
    said = (
        f"python -m bench.figure2 OUT --seen {options.seen} --seeds {options.seeds} --photographs "
        f"{options.photographs} --test {options.test} --points {options.points} --model {options.model}"
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Figure 2</title>"
        f"<style>{PAGE.read_text(encoding='utf-8')}</style><main><h1>Data efficiency of three objectives</h1>"
        f"<p>The same {options.photographs:,} photographs of CIFAR-10 in the same order, {options.seeds} "
        f"seeds, {options.test:,} test photographs; dashed: chance. Bands: 95% intervals of the mean.</p>"
        f"<figure>{svg}</figure><table><thead><tr><th>objective<th>accuracy at the end, %"
        "<th>samples to the caption model's last accuracy<th>times fewer</tr></thead>"
        f"<tbody>{rows}</tbody></table>"
        f"<p class=soft><code>{said}</code>, {seconds / 60:,.0f} minutes</p></main>"
    )


def _half(value: float | None) -> str:
    return "" if value is None else f" ± {100 * value:.1f}"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def table(curves: dict[str, Curve]) -> list[dict[str, Any]]:
    """Return each objective's last accuracy, and the images it needs for that of the caption model.

    None: half an interval of a single seed, and the images of an objective that never gets there.
    """
    goal = float(curves["caption"].mean.max())
    slowest = curves["caption"].reaches(goal)
    return [
        {"objective": name, "accuracy": float(curve.mean[-1]), "half": _known(float(curve.half[-1])),
         "samples": _known(curve.reaches(goal)), "times": _known(slowest / curve.reaches(goal))}
        for name, curve in curves.items()
    ]  # fmt: skip


def main() -> None:
    """Build, train the missing models, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--archive", type=Path, default=train_cifar.DEFAULT)
    parser.add_argument("--texts", type=Path, default=TEXTS, help="Parquet whose column TEXT has alt texts")
    parser.add_argument("--seen", type=int, default=300_000, help="samples that each model sees")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--photographs", type=int, default=50_000, help="of the pool")
    parser.add_argument("--test", type=int, default=2_000, help="test photographs")
    parser.add_argument("--points", type=int, default=12, help="evaluations of each run")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "cpu"))
    parser.add_argument("--jobs", type=int, default=1, help="models that are trained at a time")
    parser.add_argument("--decoders", type=int, help="processes that decode, of each model in training")
    options = parser.parse_args()
    began = time.monotonic()
    build(options)
    seeds, objectives = zip(*itertools.product(range(options.seeds), OBJECTIVES), strict=True)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=spawn) as pool:
        list(pool.map(train, itertools.repeat(options), objectives, seeds))
    curves = {objective: read(options, objective) for objective in OBJECTIVES}
    seconds = time.monotonic() - began
    report = {
        "seconds": round(seconds),
        "cpu_seconds": round(train_cifar.cpu_seconds()),
        "rows": table(curves),
    }
    report["curves"] = {  # type: ignore[assignment]
        name: {"seen": curve.seen.tolist(), "shares": curve.shares.tolist()} for name, curve in curves.items()
    }
    (options.out / "figure2.json").write_text(json.dumps(report, indent=1) + "\n")
    (options.out / "figure2.html").write_text(page(options, curves, seconds), encoding="utf-8")
    print(json.dumps({name: report[name] for name in ("seconds", "cpu_seconds", "rows")}, indent=1))
    print(options.out / "figure2.html")


if __name__ == "__main__":
    main()
