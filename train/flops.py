"""Count a model's arithmetic, for the share of the device's peak that a run reaches (MFU).

One multiply-add is two FLOPs; a training step costs three forward passes (arXiv:2204.02311, appendix B).
Recomputation (checkpointing, gradient caching) is not counted as work done.
"""

import functools
from dataclasses import replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from train.architectures import Architecture
from train.model import CLIP

# Dense bf16 FLOP/s from the vendors' data sheets, by a part of the device's name.
_PEAK = {"H200": 989e12, "H100": 989e12, "GH200": 989e12, "B200": 2250e12, "A100": 312e12, "L40S": 362e12}


@functools.cache
def image_flops(architecture: Architecture) -> float:
    """Return FLOPs of one image's forward pass."""
    with torch.device("meta"):
        model = CLIP(replace(architecture, vocab_size=2, text_layers=1)).eval()
        images = torch.empty(1, 3, architecture.image_size, architecture.image_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.encode_image(images)
    return float(counter.get_total_flops())


def text_flops(architecture: Architecture, tokens: float, squares: float, captions: float) -> float:
    """Return FLOPs of the forward pass of captions with so many tokens, sum of squared lengths, and captions.

    Each block has 12 width^2 weights a token, and two products of length x length x width a caption.
    """
    a = architecture
    block = 24 * a.text_width**2 * tokens + 4 * a.text_width * squares
    return a.text_layers * block + 2 * a.text_width * a.embed_dim * captions


def peak_flops(device: torch.device) -> float | None:
    """Return the device's dense bf16 FLOP/s, or None where its data sheet is not listed."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in _PEAK.items() if part in name), None)
