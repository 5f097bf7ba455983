"""Time and memory of the loss at batches of 1K to 32K, beside plain cross-entropy over the whole matrix.

    python -m bench.train_loss [--batches 1024 4096 ...] [--device cuda|cpu] [--width 512]

Forward and backward, features in float32 (TF32 on a GPU), each size warmed up on a GPU. Memory is counted on
top of the features: on a GPU the allocator's peak, on a CPU the growth of a fresh process's peak. Plain
cross-entropy, which keeps the matrix in both directions, is measured up to --plain-limit.
"""

import argparse
import json
import multiprocessing
import resource
import time


def measure(kind: str, batch: int, width: int, device: str) -> dict[str, float]:
    """Return seconds and added GB of one forward and backward pass."""
    import torch
    from torch.nn import functional as F  # noqa: N812

    from train.loss import contrastive_loss

    def plain(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        labels = torch.arange(len(image), device=image.device)
        return (
            F.cross_entropy(scale * image @ text.T, labels) + F.cross_entropy(scale * text @ image.T, labels)
        ) / 2

    torch.set_float32_matmul_precision("high")
    loss = contrastive_loss if kind == "ours" else plain
    features = [
        F.normalize(torch.randn(batch, width, device=device), dim=1).requires_grad_() for _ in range(2)
    ]
    scale = torch.tensor(20.0, device=device, requires_grad=True)
    cuda = device == "cuda"
    warm = batch if cuda else 64
    loss(features[0][:warm], features[1][:warm], scale).backward()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() / 1e9 if cuda else _peak()
    repeats = 5 if cuda else 1
    began = time.perf_counter()
    for _ in range(repeats):
        loss(*features, scale).backward()
    if cuda:
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - began) / repeats
    after = torch.cuda.max_memory_allocated() / 1e9 if cuda else _peak()
    return {"seconds": round(seconds, 4), "added_gb": round(after - before, 3)}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _in_process(kind: str, batch: int, width: int, device: str) -> dict[str, float]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (kind, batch, width, device))


def main() -> None:
    """Measure and print one JSON object."""
    import torch

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batches", type=int, nargs="+", default=[1024, 2048, 4096, 8192, 16384, 32768])
    parser.add_argument("--plain-limit", type=int, default=32768)
    parser.add_argument("--width", type=int, default=512)
    options = parser.parse_args()
    run = measure if options.device == "cuda" else _in_process
    rows = []
    for batch in options.batches:
        row: dict[str, object] = {"batch": batch}
        for kind in ["ours", "plain"]:
            if kind == "ours" or batch <= options.plain_limit:
                row[kind] = run(kind, batch, options.width, options.device)
        rows.append(row)
    device = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    print(json.dumps({"bench": "train_loss", "device": device, "results": rows}, indent=1))


if __name__ == "__main__":
    main()
