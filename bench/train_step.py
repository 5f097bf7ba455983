"""Time of a training step, ours and open_clip's eager and compiled, alternating in one run on the same batch.

    python -m bench.train_step --models ViT-B-32 ViT-B-16 ViT-L-14 --batches 2048 1024 320 [--captions FILE]
    python -m bench.train_step --models ViT-B-32 --batches 32768 --accumulate 8 --only ours

    PYTHONPATH=OPEN_CLIP/src python -m bench.train_step --bucketed --captions FILE [--batches 16] [--steps 8]
                                                        [--pool 2048]

A step is forward, loss, backward, AdamW and the scale's clamp, in bf16 autocast on a GPU. Pictures are random
and on the device beforehand (ours as uint8, open_clip's normalised in float32, which spares it that work).
Captions are real with --captions (one per line), else of random lengths with the mean of web alt texts; ours
packs them, open_clip pads to 77. MFU counts three forward passes' FLOPs of the tokens that each computes.

With --bucketed, open_clip's main branch takes text of variable length from its length bucketing at its best:
batches of neighbours in a sorted pool of 2,048 captions (its default; --pool), each padded to its longest.
Ours takes batches as they come. Steps of all have other captions each time, and are averaged. A failure is
reported with its error, and the others are measured.
"""

import argparse
import gc
import itertools
import json
import random
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench import train_peers
from pipeline.data.architectures import ARCHITECTURES, RECIPES
from train import flops, gradcache
from train.clip_trainer import OnPixels, compile_blocks
from train.image_transforms import normalise
from train.model import CLIP
from train.optimizer import make_optimizer
from train.packing import pack_lists
from train.tokenizer import Tokenizer, installed_vocabulary

MEAN_TOKENS = 15.5  # of 10,000 web alt texts, start and end included

KINDS = ["ours", "open_clip", "open_clip_compiled", "open_clip_bucketed"]
POOL, CHUNK = 2_048, 128  # captions that open_clip sorts together, and keeps together, by default

Step = Callable[[], torch.Tensor]


def token_lists(path: Path | None, count: int) -> tuple[list[list[int]], str]:
    """Return captions as CLIP's ids, and where they are from."""
    vocabulary = installed_vocabulary()
    if path is not None and vocabulary is not None:
        tokenizer = Tokenizer.load(vocabulary)
        lines = path.read_text(encoding="utf-8").splitlines()
        return [tokenizer.caption(lines[i % len(lines)]) for i in range(count)], str(path.name)
    rng = np.random.default_rng(0)
    lengths = rng.geometric(1 / (MEAN_TOKENS - 2), count).clip(1, 75)
    return [[49406, *rng.integers(512, 49000, n).tolist(), 49407] for n in lengths], "random lengths"


def bucketed_tokens(lengths: list[int], batch: int, size: int) -> float:
    """Return to how many tokens open_clip's length bucketing pads a caption, in batches of one process.

    As it is by default, with pools of `size`: they are sorted and cut in runs of CHUNK, which are shuffled;
    batches of several runs are as long as the longest of them.
    """
    rng, order = random.Random(0), list[int]()
    for start in range(0, len(lengths) - size + 1, size):
        pool = sorted(lengths[start : start + size])
        chunks = [pool[i : i + CHUNK] for i in range(0, size, CHUNK)]
        rng.shuffle(chunks)
        order += itertools.chain(*chunks)
    starts = range(0, len(order) - batch + 1, batch)
    return float(np.mean([max(order[i : i + batch]) for i in starts]))


def spread(ids: list[list[int]], batch: int, count: int) -> list[list[list[int]]]:
    """Return `count` batches of a pool, evenly taken."""
    batches = [ids[start : start + batch] for start in range(0, len(ids) - batch + 1, batch)]
    return [batches[int((place + 0.5) * len(batches) / count)] for place in range(count)]


def autocast(device: str) -> Any:
    """Return bf16 autocast on a GPU, nothing on a CPU."""
    return torch.autocast(device, torch.bfloat16, enabled=device == "cuda")


def our_step(
    name: str, pixels: torch.Tensor, texts: list[list[list[int]]], options: argparse.Namespace
) -> Step:
    """Return our step; it takes one of the batches of captions after the other."""
    model = CLIP(ARCHITECTURES[name]).initialise(0).to(options.device).train()
    model.set_checkpointing(options.checkpointing)
    optimizer = make_optimizer(model, RECIPES[name])
    if options.compile:
        compile_blocks(model)
    on_pixels = OnPixels(model, options.compile)
    size = len(pixels) // options.accumulate
    packed = itertools.cycle(
        [
            [
                (pixels[i : i + size], pack_lists(ids[i : i + size]).to(options.device))
                for i in range(0, len(ids), size)
            ]
            for ids in texts
        ]
    )

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = gradcache.backward(on_pixels, next(packed), lambda: autocast(options.device))
        optimizer.step()
        model.clamp_scale()
        return loss

    return step


def open_clip_step(
    name: str, pixels: torch.Tensor, texts: list[list[list[int]]], options: argparse.Namespace,
    compiled: bool, variable: bool = False,
) -> Step:  # fmt: skip
    """Return open_clip's step, as its train_one_epoch takes it on one device; variable: no padding to 77."""
    open_clip = train_peers.open_clip()
    assert open_clip is not None
    text = {"force_custom_text": True} if variable else {}  # its other text tower always has 77 tokens
    model = open_clip.create_model(name, force_quick_gelu=True, output_dict=True, **text)
    model = model.to(options.device).train()
    if options.checkpointing:
        model.set_grad_checkpointing()
    recipe = RECIPES[name]
    gains = [p for n, p in model.named_parameters() if p.ndim < 2 or "bn" in n or "ln" in n or "bias" in n]
    small = {id(p) for p in gains}
    optimizer = torch.optim.AdamW(
        [
            {"params": gains, "weight_decay": 0.0},
            {
                "params": [p for p in model.parameters() if id(p) not in small],
                "weight_decay": recipe.weight_decay,
            },
        ],
        lr=recipe.lr, betas=(recipe.beta1, recipe.beta2), eps=recipe.eps,
    )  # fmt: skip
    loss_of = open_clip.loss.ClipLoss()
    batches = []
    for ids in texts:
        padded = torch.zeros(len(ids), max(map(len, ids)) if variable else 77, dtype=torch.long)
        for row, tokens in zip(padded, ids, strict=True):
            row[: len(tokens)] = torch.tensor(tokens)
        batches.append(padded.to(options.device))
    captions, images = itertools.cycle(batches), normalise(pixels)
    run = torch.compile(model) if compiled else model

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        with autocast(options.device):
            out = run(images, next(captions))
            loss: torch.Tensor = loss_of(out["image_features"], out["text_features"], out["logit_scale"])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, 4.6052)
        return loss.detach()

    return step


def seconds_of(step: Step, device: str) -> float:
    """Return the time of one step; on a CPU that of all its cores together, whatever else is running."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    if device == "cuda":
        torch.cuda.synchronize()
    began = clock()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - began


def bench(name: str, batch: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one model."""
    size = ARCHITECTURES[name].image_size
    pixels = torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8, device=options.device)
    ids, origin = token_lists(options.captions, max(batch, options.pool) if options.bucketed else batch)
    texts = spread(ids, batch, options.steps) if options.bucketed else [ids]
    near = spread(sorted(ids, key=len), batch, options.steps) if options.bucketed else []
    lengths = np.array([len(tokens) for tokens in itertools.chain(*texts)])
    makers: dict[str, Callable[[], Step]] = {"ours": lambda: our_step(name, pixels, texts, options)}
    if train_peers.open_clip() is not None:
        makers["open_clip"] = lambda: open_clip_step(name, pixels, texts, options, False)
        if options.compile:
            makers["open_clip_compiled"] = lambda: open_clip_step(name, pixels, texts, options, True)
        if options.bucketed:
            makers["open_clip_bucketed"] = lambda: open_clip_step(
                name, pixels, near, options, options.compile, True
            )
    steps, losses, memory, warming = dict[str, Step](), dict[str, float](), {}, {}
    for kind, make in makers.items():
        if kind in options.only:
            began = time.perf_counter()
            try:
                step = make()
                losses[kind] = [float(step()) for _ in range(options.warm)][-1]
            except Exception as error:  # noqa: BLE001 - of a device or a version that it does not know
                traceback.print_exc()
                warming[kind] = f"{type(error).__name__}: {error}"[:500]
                continue
            steps[kind], warming[kind] = step, round(time.perf_counter() - began, 1)
    times: dict[str, list[float]] = {kind: [] for kind in steps}
    for _ in range(options.steps):
        for kind, step in steps.items():
            if options.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            times[kind].append(seconds_of(step, options.device))
            if options.device == "cuda":
                memory[kind] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    peak = flops.peak_flops(torch.device(options.device))
    result: dict[str, Any] = {
        "model": name, "batch": batch, "accumulate": options.accumulate, "captions": origin,
        "tokens_mean": round(float(lengths.mean()), 2), "losses": losses, "peak_gb": memory,
        "seconds_to_warm": warming,
    }  # fmt: skip
    architecture = ARCHITECTURES[name]
    for kind, taken in times.items():
        median = float(np.mean(taken) if options.bucketed else np.median(taken))
        per = len(texts)
        tokens = (77 * batch, 77 * 77 * batch)
        if kind == "ours":
            tokens = (lengths.sum() / per, (lengths**2).sum() / per)
        elif kind == "open_clip_bucketed":
            longest = np.array([max(map(len, rows)) for rows in near])
            result["tokens_bucketed"] = round(float(longest.mean()), 2)
            tokens = (batch * longest.mean(), batch * (longest**2).mean())
        work = 3 * (batch * flops.image_flops(architecture) + flops.text_flops(architecture, *tokens, batch))
        result[kind] = {"step_seconds": round(median, 4), "samples_per_second": round(batch / median, 1)}
        if peak:
            result[kind]["mfu"] = round(work / median / peak, 4)
    return result


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--models", nargs="+", default=["ViT-B-32"])
    parser.add_argument("--batches", type=int, nargs="+", default=[32], help="one for each model")
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=None, help="yes on a GPU, no on a CPU"
    )
    parser.add_argument("--bucketed", action="store_true", help="open_clip's main: text of variable length")
    parser.add_argument("--pool", type=int, default=POOL, help="captions that open_clip sorts together")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warm", type=int, default=3)
    parser.add_argument("--captions", type=Path)
    parser.add_argument("--only", nargs="+", default=KINDS)
    parser.add_argument("--out", type=Path, help="write the JSON here as well, after every model")
    options = parser.parse_args()
    if options.compile is None:
        options.compile = options.device == "cuda"
    torch.set_float32_matmul_precision("high")
    device = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    report = {"bench": "train_step", "device": device, "torch": torch.__version__, "results": []}
    if options.bucketed:
        lengths = [len(tokens) for tokens in token_lists(options.captions, 4 * options.pool)[0]]
        report["tokens"] = float(np.mean(lengths))
        report["bucketed_tokens"] = {
            n: bucketed_tokens(lengths, n, options.pool) for n in (16, 128, 256, 512, 1024, 2048)
        }
    for name, batch in zip(options.models, options.batches, strict=True):
        report["results"].append(bench(name, batch, options))
        text = json.dumps(report, indent=1)
        if options.out:
            options.out.write_text(text + "\n")
        gc.collect()
        if options.device == "cuda":
            torch.cuda.empty_cache()
    print(text)


if __name__ == "__main__":
    main()
