"""The ways of choosing of the pool, and how a model is trained and measured on each."""

import argparse
import json
import logging
import multiprocessing
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import beam_job
from bench.curation import page
from bench.train_cifar import cpu_seconds
from pipeline import balance, checked_manifest, storage
from pipeline.captions.match import tokens
from pipeline.near.groups import hashes_of, near_pairs
from train import shard_sources, vocabulary
from train.cache import Cache
from train.clip_trainer import fit
from train.options import TrainConfig
from train.tokenizer import Tokenizer

ARMS = ("raw", "basic", "text", "balanced", "online", "score", "dedup", "random")
TEMPLATES = ("{}", "a photo of a {}.", "the {}")
TAIL = 0.06
SHARE = 0.5  # of the pool, by score, from which the score arm takes what text keeps


_bench: "Bench"  # of a process that trains


class Bench:
    """Hold the state that all arms share: the pool, the vocabulary, and the options."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.out = options, Path(options.out)
        self.run = options.run or str(self.out / "run")
        columns = ["uid", "caption", "matched_query_ids", "phash"]
        shards = checked_manifest.of(self.run).shards
        paths = [storage.sibling(storage.join(self.run, "shards", one.name), ".parquet") for one in shards]
        self.rows = pa.concat_tables(
            [pq.read_table(storage.open_input(path), columns=columns) for path in paths]
        )
        queries = pq.read_table(storage.open_input(storage.join(self.run, "query_counts.parquet")))
        self.queries = queries["query"].to_pylist()
        self.cap = options.per_query or cap_of(queries["matched"].to_numpy())
        classes = self.out / "classes.json"
        self.counts: dict[str, int] = json.loads(classes.read_text()) if classes.exists() else {}
        self.rare = page.rare(self.counts)
        self.texts = self.out / "templates.txt"
        if not self.texts.exists():
            self.texts.write_text("\n".join(TEMPLATES) + "\n")
        self.vocab = self.out / "vocabulary.txt.gz"
        if not self.vocab.exists():
            counts = vocabulary.count_words(self.rows["caption"].to_pylist()[:1_000_000])
            Tokenizer(vocabulary.learn_merges(counts)).save(self.vocab)

    def minutes(self) -> float | None:
        """Return the rest of --minutes."""
        return None if self.options.until is None else float(self.options.until - time.time()) / 60

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
        text: np.ndarray = basic & (has.value_lengths().to_numpy() > 0)
        if arm == "balanced":
            text &= self._balanced(text)
        return text

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
            return {"keep": (str(self.keep_file("text")),), "keep_if": f"top(score_clip, {SHARE})"}
        return {"keep": (str(self.keep_file(arm)),)}

    def score(self) -> None:
        """Score every pair by the text arm's own model, once."""
        model = self.out / "text-0" / "model"
        openwit(
            "score", "--run", self.run, "--scorer", f"clip-score={model}", "--workers", self.options.workers
        )

    def kinds(self, arm: str) -> dict[str, int]:
        """Count the kinds of the pairs that the trainer takes first; empty for a run of your own.

        Those of right pairs are counted apart for rare classes: `clean, rare` beside `clean`.
        """
        chosen = self.choice(arm)
        draws = shard_sources.Draws(cap=self.cap, seed=0, epochs=1) if "balance" in chosen else None
        [source] = shard_sources.resolve(
            (self.run,), (), (), chosen["keep"], Cache(None, 1 << 30), keep_if=chosen.get("keep_if", ""),
            captions=None, draws=draws,
        )  # fmt: skip
        found: Counter[str] = Counter()
        for place, (shard, count) in enumerate(zip(source.shards, source.counts(0), strict=True)):
            with storage.open_input(storage.sibling(shard.path, ".parquet")) as file:
                parquet = pq.ParquetFile(file)
                if "kind" not in parquet.schema_arrow.names:
                    return {}
                taken = parquet.read(["kind", "label"]).take(source.places(place, 0, 0, int(count)))
            for kind, label in zip(taken["kind"].to_pylist(), taken["label"].to_pylist(), strict=True):
                right_and_rare = kind in page.RIGHT and label in self.rare
                found[f"{kind}{page.RARE}" if right_and_rare else kind] += 1
        return dict(sorted(found.items()))

    def train(self, arm: str, seed: int) -> dict[str, Any] | None:
        """Train and measure an arm; None if time is up before that."""
        o, folder = self.options, self.out / f"{arm}-{seed}"
        config = TrainConfig(
            shards=(self.run,), out=str(folder / "model"), model=o.model, batch_size=o.batch_size, seed=seed,
            epochs=self.epochs(arm), max_steps=o.samples // o.batch_size, vocab=str(self.vocab), resume=True,
            checkpoint_every=o.checkpoint_every, eval_every=1_000_000_000, log_every=200, workers=o.decoders,
            max_minutes=self.minutes(), device=o.device, compile="off" if o.model == "tiny" else "auto",
            enlarge=True, **self.choice(arm),
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
            argv += ["--workers", max(1, o.decoders)] if o.decoders is not None else []
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


def _start(options: argparse.Namespace) -> None:
    """Prepare a process that trains."""
    global _bench
    logging.basicConfig(level=logging.WARNING)
    _bench = Bench(options)


def _train(arm: str, seed: int) -> tuple[dict[str, Any] | None, str]:
    """Train and measure an arm if there is time; return the result and its duration."""
    left, before, begun = _bench.minutes(), cpu_seconds(), time.monotonic()
    found = _bench.train(arm, seed) if left is None or left > 1 else None
    return found, f"{cpu_seconds() - before:,.0f} CPU s, {time.monotonic() - begun:,.0f} s"


def train_all(bench: Bench) -> Iterator[tuple[str, int, dict[str, Any] | None, str]]:
    """Train the missing arms, --jobs at a time; yield each as it ends, as `_train` returns it.

    All arms by the first seed come before the second: the finished arms can be compared at any time.
    """
    o, trained = bench.options, bench.out / "text-0.json"
    left = [(arm, seed) for seed in range(o.seeds) for arm in o.arms]
    left = [(arm, seed) for arm, seed in left if not (bench.out / f"{arm}-{seed}.json").exists()]
    scored = False
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(o.jobs, mp_context=spawn, initializer=_start, initargs=(o,)) as pool:
        running: dict[Future[tuple[dict[str, Any] | None, str]], tuple[str, int]] = {}
        while left or running:
            if trained.exists() and not scored and any(arm == "score" for arm, _ in left):
                bench.score()
                scored = True
            ready = [one for one in left if one[0] != "score" or scored][: o.jobs - len(running)]
            running |= {pool.submit(_train, *one): one for one in ready}
            left = [one for one in left if one not in ready]
            if not running:
                return  # the score arm is left, and time was up before the model that it needs
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield *running.pop(future), *future.result()
