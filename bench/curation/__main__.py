"""Is the data better? The same model on one pool chosen in different ways, at equal samples seen.

    python -m bench.curation OUT

On a CPU: the pool of `pool.py`, the tiny model, three seeds. On a GPU, a finished run, as DataComp-small:

    python -m bench.curation OUT --run RUN --eval imagenet=PATH --model ViT-B-32 --samples 12800000 \\
        --batch-size 4096 --seeds 1 --minutes 14

Arms: raw, basic (DataComp's rules for captions), text (basic, and a query in the caption), balanced (each
query contributes a cap at most), online (the same drawn again each epoch, `train --balance`), score (the best
half by the text arm's own model, `openwit score`), dedup (one of pictures that look alike), random (as many
of raw as balanced keeps: where a set of a given size is to be chosen from a larger pool, as CLIP's was,
balanced has to beat it).

Each trained arm is a line on the terminal with its time, and a file in OUT: the same command goes on where it
stopped, and --minutes stops it in time. OUT/index.html compares: macro accuracy, that of frequent and of rare
classes, and each arm's difference to raw with a 95% interval by Student's t over the seeds.
"""

import argparse
import json
import logging
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import beam_job
from bench.curation import page, pool
from bench.train_cifar import cpu_seconds
from pipeline import balance, checked_manifest, storage
from pipeline.captions.match import tokens
from pipeline.near.groups import hashes_of, near_pairs
from train import vocabulary
from train.clip_trainer import fit
from train.options import TrainConfig
from train.tokenizer import Tokenizer

DATA = Path(__file__).resolve().parents[3] / "shared/data"
ARMS = ("raw", "basic", "text", "balanced", "online", "score", "dedup", "random")
TEMPLATES = ("{}", "a photo of a {}.", "the {}")
TAIL = 0.06
SHARE = 0.5  # of the text arm that the score arm keeps


class Bench:
    """Hold the state that all arms share: the pool, the vocabulary, and the options."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.out = options, Path(options.out)
        self.run = options.run or str(self.out / "run")
        self.started = time.monotonic()
        columns = ["uid", "caption", "matched_query_ids", "phash"]
        shards = checked_manifest.of(self.run).shards
        paths = [storage.sibling(storage.join(self.run, "shards", one.name), ".parquet") for one in shards]
        self.rows = pa.concat_tables(
            [pq.read_table(storage.open_input(path), columns=columns) for path in paths]
        )
        queries = pq.read_table(storage.open_input(storage.join(self.run, "query_counts.parquet")))
        self.queries = queries["query"].to_pylist()
        self.cap = options.per_query or cap_of(queries["matched"].to_numpy())
        self.texts = self.out / "templates.txt"
        self.texts.write_text("\n".join(TEMPLATES) + "\n")
        self.vocab = self.out / "vocabulary.txt.gz"
        if not self.vocab.exists():
            counts = vocabulary.count_words(self.rows["caption"].to_pylist()[:1_000_000])
            Tokenizer(vocabulary.learn_merges(counts)).save(self.vocab)

    def minutes(self) -> float | None:
        """Return the rest of --minutes."""
        if self.options.minutes is None:
            return None
        return float(self.options.minutes - (time.monotonic() - self.started) / 60)

    def kept(self, arm: str) -> np.ndarray:
        """Return which rows an arm may take, bool [n]."""
        captions = self.rows["caption"].to_pylist()
        everything = np.ones(len(captions), bool)
        if arm == "raw":
            return everything
        if arm == "random":
            order = np.random.default_rng(0).permutation(len(captions))
            everything[order[self.kept("balanced").sum() :]] = False
            return everything
        if arm == "dedup":
            return unlike(self.rows["phash"].to_pylist())
        basic = np.array([len(text.split()) > 2 and len(text) > 5 for text in captions])
        if arm == "basic":
            return basic
        has = self.rows["matched_query_ids"].combine_chunks()
        text = basic & (has.value_lengths().to_numpy() > 0)
        return text & self._balanced(text) if arm == "balanced" else text

    def _balanced(self, text: np.ndarray) -> np.ndarray:
        """Return the rows that each query keeps of those that are left, by the crawl's own priorities."""
        lists = self.rows["matched_query_ids"].combine_chunks().filter(pa.array(text))
        query = lists.flatten().to_numpy().astype(np.int32)
        row = np.repeat(np.flatnonzero(text), lists.value_lengths().to_numpy())
        hashes = balance.query_hashes([" ".join(tokens(name)) for name in self.queries], 0)
        uids = np.array([int(uid[:16], 16) for uid in self.rows["uid"].to_pylist()], np.uint64)
        priority = balance.priorities(uids[row], hashes[query])
        order = np.lexsort((priority, query))
        first = np.searchsorted(query[order], query[order], side="left")
        taken = order[np.arange(len(order)) - first < self.cap]
        kept = np.zeros(len(text), bool)
        kept[row[taken]] = True
        return kept

    def keep_file(self, arm: str) -> Path:
        """Return the file of an arm's uids, written once."""
        path = self.out / f"{arm}.parquet"
        if not path.exists():
            uids = self.rows["uid"].filter(pa.array(self.kept(arm)))
            pq.write_table(pa.table({"uid": uids}), path)
        return path

    def epochs(self, arm: str) -> int:
        """Return at least as many passes as --samples takes."""
        like = {"online": "balanced", "score": "text"}.get(arm, arm)
        size = pq.ParquetFile(self.keep_file(like)).metadata.num_rows
        size = int(size * SHARE) if arm == "score" else size
        return 2 + int(1.5 * self.options.samples / max(1, size))

    def choice(self, arm: str) -> dict[str, Any]:
        """Return the trainer's options that make an arm."""
        if arm == "online":
            return {"keep": (str(self.keep_file("text")),), "balance": self.cap}
        if arm == "score":
            model = self.out / "text-0" / "model"
            openwit(
                "score",
                "--run",
                self.run,
                "--scorer",
                f"clip-score={model}",
                "--workers",
                self.options.workers,
            )
            return {"keep": (str(self.keep_file("text")),), "keep_if": f"top(score_clip, {SHARE})"}
        return {"keep": (str(self.keep_file(arm)),)}

    def train(self, arm: str, seed: int) -> dict[str, Any] | None:
        """Train and measure an arm; None if time is up before that."""
        o, folder = self.options, self.out / f"{arm}-{seed}"
        config = TrainConfig(
            shards=(self.run,), out=str(folder / "model"), model=o.model, batch_size=o.batch_size, seed=seed,
            epochs=self.epochs(arm), max_steps=o.samples // o.batch_size, vocab=str(self.vocab), resume=True,
            checkpoint_every=o.checkpoint_every, eval_every=1_000_000_000, log_every=200, workers=o.decoders,
            max_minutes=self.minutes(), device=o.device, enlarge=True, **self.choice(arm),
        )  # fmt: skip
        result = fit(config)
        if result.steps < result.planned:
            return None
        assert result.planned == config.max_steps, "--epochs was too few"
        found = {}
        for one in o.eval:
            name = one.partition("=")[0]
            argv = [
                "--task",
                "zeroshot",
                "--checkpoint",
                folder / "model",
                "--data",
                one,
                "--device",
                o.device,
            ]
            argv += ["--templates", self.texts, "--out", folder / "eval", "--save-predictions"]
            openwit("eval", *argv, "--gallery", 0)
            table = pq.read_table(folder / "eval" / "predictions" / f"{name}.parquet")
            right: dict[str, list[bool]] = defaultdict(list)
            for label, correct in zip(table["label"].to_pylist(), table["correct"].to_pylist(), strict=True):
                right[label].append(correct)
            found[name] = {label: [sum(own), len(own)] for label, own in sorted(right.items())}
        return {"arm": arm, "seed": seed, "loss": result.loss, "seconds": result.seconds, "classes": found}


def cap_of(counts: np.ndarray) -> int:
    """Return the cap below which queries have 6% of all matches, as MetaCLIP sets it (Xu et al. 2023)."""
    ordered = np.sort(counts[counts > 0])
    return int(ordered[np.searchsorted(np.cumsum(ordered), TAIL * ordered.sum())])


def unlike(hashes: list[str]) -> np.ndarray:
    """Return one of pictures that look alike, the first: bool [n]."""
    kept = np.ones(len(hashes), bool)
    found = [(a, b) for a, b, _ in near_pairs(np.zeros(len(hashes), np.int32), hashes_of(hashes))]
    first = np.concatenate([np.minimum(a, b) for a, b in found] or [np.zeros(0, np.int64)])
    second = np.concatenate([np.maximum(a, b) for a, b in found] or [np.zeros(0, np.int64)])
    for place in np.lexsort((first, second)):
        if kept[first[place]]:
            kept[second[place]] = False
    return kept


def openwit(*arguments: object) -> None:
    """Run a command of openwit; stop where it fails."""
    if beam_job.main([str(one) for one in arguments]):
        raise SystemExit(f"openwit {arguments[0]} failed")


def main(argv: list[str]) -> int:
    """Make the pool, train the missing arms, and write the page; 1 if time was up."""
    parser = argparse.ArgumentParser(prog="python -m bench.curation")
    parser.add_argument("out")
    parser.add_argument("--run", default="", help="a finished run, in place of the pool that is made")
    parser.add_argument("--eval", action="append", default=[], help="NAME=PATH, needed with --run")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument(
        "--largest", type=int, default=4500, help="photographs of the pool's most frequent class"
    )
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
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--decoders", type=int)
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    if options.run and not options.eval:
        parser.error("--run needs --eval NAME=PATH")
    if not options.run:
        if not (out / "run" / "manifest.json").exists():
            pool.write(out, options.data, options.largest, options.words)
        options.eval = [f"photographs={out / 'test'}"]
    bench, complete = Bench(options), True
    left_over = sum(
        not (out / f"{arm}-{seed}.json").exists() for seed in range(options.seeds) for arm in options.arms
    )
    # All arms by the first seed before the second: the finished arms can be compared at any time.
    for seed in range(options.seeds):
        for arm in options.arms:
            path = out / f"{arm}-{seed}.json"
            if path.exists() or not complete:
                continue
            if arm == "score" and not (out / "text-0.json").exists():
                parser.error("the arm score needs the model of the arm text")
            left = bench.minutes()
            before, begun = cpu_seconds(), time.monotonic()
            found = bench.train(arm, seed) if left is None or left > 1 else None
            spent = f"{cpu_seconds() - before:,.0f} CPU s, {time.monotonic() - begun:,.0f} s"
            if found is None:
                complete = False
                sys.stdout.write(f"{arm}, seed {seed}: not finished; the same command goes on ({spent})\n")
                continue
            path.write_text(json.dumps(found, indent=1))
            left_over -= 1
            rest = left_over * (time.monotonic() - begun) / 60
            said = f"macro {page.macro(found):.1%} ({spent}; at this rate {rest:.0f} minutes are left)"
            sys.stdout.write(f"{arm}, seed {seed}: {said}\n")
            sys.stdout.flush()
    results = [json.loads(path.read_text()) for path in sorted(out.glob("*-*.json"))]
    sizes = {path.stem: pq.ParquetFile(path).metadata.num_rows for path in out.glob("*.parquet")}
    counts = json.loads((out / "classes.json").read_text()) if (out / "classes.json").exists() else {}
    page.write(out / "index.html", results, sizes, counts, " ".join(argv), len(bench.rows))
    sys.stdout.write(f"{out / 'index.html'}\n")
    return 0 if complete else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
