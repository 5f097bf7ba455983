"""The learned detector on a GPU or CPU: search against the matrix-product floor, embedding, training.

    python -m bench.detector_gpu [--device cuda|cpu] [--out FILE]

The floor is the same products alone, by torch.mm on the same tiles in the same run; the search adds the
comparison and keeps the nearest. From both follow the hours of 400 million images against 600,000 examples of
512 numbers. Vectors are random with planted neighbours, and the nearest found are checked against a full sort
of a sample. Prints JSON.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dedup.detector.model import ARCHITECTURES, DetectorNetwork, OnPairs
from dedup.detector.neighbours import Described, NearestSearch
from dedup.detector.train import forward_flops
from train.flops import peak_flops
from train.loss import contrastive_loss

IMAGES, EXAMPLES, DIMS = 400_000_000, 600_000, 512


def seconds(function: Callable[[], Any], device: torch.device, rounds: int = 3) -> float:
    """Return the time of the fastest of some rounds; of a CPU its own time."""
    best = float("inf")
    for _ in range(rounds):
        if device.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter() if device.type == "cuda" else time.process_time()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        spent = (time.perf_counter() if device.type == "cuda" else time.process_time()) - began
        best = min(best, spent)
    return best


def unit(count: int, dims: int, rng: np.random.Generator) -> Described:
    vectors = rng.standard_normal((count, dims), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Described(vectors.astype(np.float16), rng.uniform(0, 0.1, count).astype(np.float32))


def search(device: torch.device, examples: int, block: int) -> dict[str, Any]:
    """Measure one block of training images against the examples, after enough others to know the nearest."""
    rng = np.random.default_rng(0)
    shown, images = unit(examples, DIMS, rng), unit(block, DIMS, rng)
    images.vectors[:100] = shown.vectors[:100]  # planted
    one = NearestSearch(shown, 1, 20, device)
    one.add(images)
    found = one.result()
    sample = shown.vectors[:200].astype(np.float32) @ images.vectors.T.astype(np.float32)
    sample -= shown.biases[:200, None] + images.biases
    exact = np.allclose(-np.sort(-sample, axis=1)[:, :20], found.similarity[:200], atol=1e-5)
    one.add(images)  # the second time resembles a long search: hardly anything is better
    spent = seconds(lambda: one.add(images), device)
    kind = torch.float16 if device.type == "cuda" else torch.float32
    a = torch.from_numpy(shown.vectors).to(device, kind)
    b = torch.from_numpy(images.vectors).to(device, kind)
    rows, columns = (4096, 8192) if device.type == "cuda" else (1024, 1024)

    def floor() -> None:
        for i in range(0, len(b), columns):
            for j in range(0, len(a), rows):
                torch.mm(a[j : j + rows], b[i : i + columns].T)

    least = seconds(floor, device)
    scale = IMAGES / block * EXAMPLES / examples
    return {
        "examples": examples, "block": block, "dims": DIMS, "exact": bool(exact),
        "search_tflops": 2 * examples * block * DIMS / spent / 1e12,
        "floor_tflops": 2 * examples * block * DIMS / least / 1e12, "share_of_floor": least / spent,
        "hours_for_400m_x_600k": spent * scale / 3600, "floor_hours": least * scale / 3600,
    }  # fmt: skip


def network(name: str, device: torch.device, pairs: int) -> dict[str, Any]:
    """Measure embedding and training steps of one architecture."""
    architecture = ARCHITECTURES[name]
    side, bf16 = architecture.side, device.type == "cuda"
    batch = torch.randint(0, 256, (pairs, side, side, 3), dtype=torch.uint8)
    net = (
        DetectorNetwork(architecture).initialise(0, batch[:64]).to(device, memory_format=torch.channels_last)
    )  # type: ignore[call-overload]
    pixels = batch.to(device)
    if bf16:
        net.compile()
    on_pairs, optimizer = OnPairs(net).to(device), torch.optim.AdamW(net.parameters(), fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            first, second, scale = on_pairs(pixels, pixels.flip(2))
        contrastive_loss(first, second, scale).backward()
        optimizer.step()

    def embed() -> None:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            net(pixels)

    step()
    trained, embedded = seconds(step, device), seconds(embed, device)
    peak, flops = peak_flops(device), forward_flops(architecture)
    return {
        "model": name, "pairs": pairs, "pairs_per_second": pairs / trained,
        "images_per_second": pairs / embedded,
        "training_mfu": None if peak is None else 6 * pairs * flops / trained / peak,
        "memory_gb": torch.cuda.max_memory_allocated() / 1e9 if bf16 else None,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
        results = [search(device, 6_144, 2_048), network("small", device, 64)]
    else:
        results = [
            search(device, 600_000, 65_536), network("small", device, 4_096), network("RN50", device, 428),
        ]  # fmt: skip
    text = json.dumps(results, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
