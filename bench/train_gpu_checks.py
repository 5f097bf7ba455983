"""Check the code that only a GPU runs: the variable-length kernel, bf16, compiled blocks, TF32 in the loss.

    python -m bench.train_gpu_checks [--device cuda|cpu] [--model ViT-B-32] [--count 256]

Each is compared with the float32 computation in buckets, which the tests compare with the peers. Exits with
1 if one differs by more than its rounding allows. On a CPU, which has neither the kernel nor TF32, the rest.
"""

import argparse
import json
import sys

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from pipeline.data.architectures import ARCHITECTURES
from train import gradcache, packing
from train.clip_trainer import OnPixels, compile_blocks
from train.loss import contrastive_loss
from train.model import CLIP

COSINE = 0.999  # of an embedding in bf16 and in float32; of unrelated ones it is near 0
RELATIVE = 0.02  # of losses and gradients in bf16, computed in one piece or in two


def captions(count: int) -> list[list[int]]:
    """Return ids of captions of random lengths."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 78, (count,), generator=generator).tolist()
    rows = [torch.randint(512, 49_000, (n - 2,), generator=generator).tolist() for n in lengths]
    return [[49_406, *row, 49_407] for row in rows]


def loss_in_float64(image: Tensor, text: Tensor, scale: Tensor) -> float:
    """Return the loss by its definition."""
    logits = scale.double() * image.double() @ text.double().T
    labels = torch.arange(len(image), device=image.device)
    return float(F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def main() -> int:
    """Run the checks and print one JSON object; return 1 if one fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--count", type=int, default=256, help="captions and images")
    options = parser.parse_args()
    device, count = torch.device(options.device), options.count

    def bf16() -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16)

    torch.set_float32_matmul_precision("highest")
    torch.manual_seed(0)
    model = CLIP(ARCHITECTURES[options.model]).initialise(0).to(device)
    model.eval()  # of a ResNet: the statistics of half a batch are not those of the whole
    ids = captions(count)
    text = packing.pack_lists(ids).to(device)
    with torch.no_grad():
        exact = model.encode_text(text)
        with bf16():
            kernel = model.encode_text(text)
            compile_blocks(model)
            model.encode_text(packing.pack_lists(ids[: count // 5]).to(device))  # another shape before
            compiled = model.encode_text(text)
    torch.set_float32_matmul_precision("high")
    image = F.normalize(torch.randn(4096, 512, device=device), dim=1)
    # A pair's cosine is about 0.2: its logit, 11, is that of the best of 4,096 others, and the loss about 1.
    other = F.normalize(image + torch.randn(4096, 512, device=device) / 5, dim=1)
    scale = torch.tensor(50.0, device=device)
    tf32, double = float(contrastive_loss(image, other, scale)), loss_in_float64(image, other, scale)
    side = ARCHITECTURES[options.model].image_size
    pixels = torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, device=device)
    on_pixels, half = OnPixels(model, compiled=True), count // 2
    halves = [(pixels[s], packing.pack_lists(ids[s]).to(device)) for s in (slice(half), slice(half, None))]
    whole, split = [], []
    for found, batches in [(whole, [(pixels, text)]), (split, halves)]:
        model.zero_grad()
        found.append(float(gradcache.backward(on_pixels, batches, bf16)))
        for parameter in (model.logit_scale, model.text_projection):
            assert parameter.grad is not None
            found.append(float(parameter.grad.norm()))
    results = {
        "varlen_kernel": packing.use_varlen_kernel(device, torch.bfloat16),
        "varlen_cosine": float((exact * kernel).sum(dim=1).min()),
        "compiled_cosine": float((exact * compiled).sum(dim=1).min()),
        "loss_tf32": tf32,
        "loss_float64": double,
        "whole_batch_loss_and_gradients": whole,
        "two_halves_loss_and_gradients": split,
    }
    good = (
        min(results["varlen_cosine"], results["compiled_cosine"]) > COSINE  # type: ignore[type-var]
        and abs(tf32 - double) < 1e-3
        and all(abs(a - b) <= RELATIVE * abs(a) for a, b in zip(whole, split, strict=True))
    )
    print(json.dumps({"bench": "train_gpu_checks", "good": good} | results, indent=1))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
