"""Is the data better? The same model on one pool chosen in different ways, at equal samples seen.

    python -m bench.curation OUT

On a CPU: the pool of `pool.py`, the tiny model, three seeds. On a GPU, a finished run, as DataComp-small:

    python -m bench.curation OUT --run RUN --eval imagenet=PATH --model ViT-B-32 --samples 12800000 \\
        --batch-size 4096 --seeds 1 --minutes 14

Arms: raw, basic (DataComp's rules for captions), text (basic, and a query in the caption), balanced (each
query contributes a cap at most), online (the same drawn again each epoch, `train --balance`), score (of text,
what is in the better half of the pool by the text arm's own model, `openwit score`), dedup (one of pictures
that look alike), random (as many of raw as balanced keeps: where a set of a given size is to be chosen from a
larger pool, as CLIP's was, balanced has to beat it).

First comes a line per arm with its kinds of pairs, right captions and noise; `--seeds 0` stops there.
Each trained arm is a line on the terminal with its time, and a file in OUT: the same command goes on where it
stopped, and --minutes stops it in time. --jobs 8 trains eight models at a time, where a GPU or the CPUs are
more than one tiny model can use. OUT/index.html compares: macro accuracy, that of frequent and of rare
classes, and each arm's difference to raw with a 95% interval by Student's t over the seeds.
"""

import argparse
import json
import logging
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq

from bench.curation import page, pool
from bench.curation.arms import ARMS, Bench, train_all

DATA = Path(__file__).resolve().parents[3] / "shared/data"


def parse(argv: list[str]) -> argparse.Namespace:
    """Return the options; `until` is the time at which --minutes are over."""
    parser = argparse.ArgumentParser(prog="python -m bench.curation")
    parser.add_argument("out")
    parser.add_argument("--run", default="", help="a finished run, in place of the pool that is made")
    parser.add_argument("--eval", action="append", default=[], help="NAME=PATH, needed with --run")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument(
        "--largest",
        type=int,
        default=4500,
        help="photographs of the most frequent class, where there are as many",
    )
    parser.add_argument("--exponent", type=float, default=1.3, help="of Zipf's law, by which classes follow")
    parser.add_argument(
        "--words", type=int, default=300, help="queries beside the classes, most frequent words"
    )
    parser.add_argument(
        "--per-query", type=int, help="by default such that rarer queries have 6%% of all matches"
    )
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=64_000, help="seen by each arm")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--minutes", type=float, help="stop in time, to be continued by the same command")
    parser.add_argument("--checkpoint-every", type=int, default=200)
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "cpu"))
    parser.add_argument("--jobs", type=int, default=1, help="models that are trained at a time")
    parser.add_argument("--workers", type=int, default=2, help="processes that score")
    parser.add_argument("--decoders", type=int, help="processes that decode, of each model in training")
    options = parser.parse_args(argv)
    options.until = None if options.minutes is None else time.time() + 60 * options.minutes
    if options.run and not options.eval:
        parser.error("--run needs --eval NAME=PATH")
    if "score" in options.arms and options.seeds and "text" not in options.arms:
        parser.error("the arm score needs the model of the arm text: add it to --arms")
    return options


def main(argv: list[str]) -> int:
    """Make the pool, train the missing arms, and write the page; 1 if time was up."""
    options = parse(argv)
    logging.basicConfig(level=logging.WARNING)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    if not options.run:
        if not (out / "run" / "manifest.json").exists():
            pool.write(out, options.data, options.largest, options.exponent, options.words)
        options.eval = [f"photographs={out / 'test'}"]
    bench = Bench(options)
    kinds = {arm: bench.kinds(arm) for arm in options.arms if arm != "score"}
    for arm, counts in kinds.items():
        sys.stdout.write(page.shares(arm, counts))
    sys.stdout.flush()
    for arm, seed, found, spent in train_all(bench):
        if found is None:
            sys.stdout.write(f"{arm}, seed {seed}: not finished; the same command goes on ({spent})\n")
            continue
        (out / f"{arm}-{seed}.json").write_text(json.dumps(found, indent=1))
        sys.stdout.write(f"{arm}, seed {seed}: macro {page.macro(found):.1%} ({spent})\n")
        sys.stdout.flush()
        compare(bench, kinds, argv)
    compare(bench, kinds, argv)
    sys.stdout.write(f"{out / 'index.html'}\n")
    wanted = (out / f"{arm}-{seed}.json" for seed in range(options.seeds) for arm in options.arms)
    return 0 if all(path.exists() for path in wanted) else 1


def compare(bench: Bench, kinds: dict[str, dict[str, int]], argv: list[str]) -> None:
    """Write the page of the finished arms."""
    out = bench.out
    results = [json.loads(path.read_text()) for path in sorted(out.glob("*-*.json"))]
    if "score" not in kinds and any(one["arm"] == "score" for one in results):
        kinds["score"] = bench.kinds("score")
        sys.stdout.write(page.shares("score", kinds["score"]))
    sizes = {path.stem: pq.ParquetFile(path).metadata.num_rows for path in out.glob("*.parquet")}
    sizes |= {arm: sum(counts.values()) for arm, counts in kinds.items() if counts}
    command = " ".join(argv)
    page.write(out / "index.html", results, sizes, bench.counts, kinds, command, len(bench.rows))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
