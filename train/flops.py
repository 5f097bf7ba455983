"""Count a model's arithmetic, for the share of the device's peak that a run reaches (MFU).

One multiply-add is two FLOPs; a training step costs three forward passes (arXiv:2204.02311, appendix B).
Recomputation (checkpointing, gradient caching) is not counted as work done.
"""

from typing import TYPE_CHECKING

from pipeline.data.architectures import Architecture

if TYPE_CHECKING:
    import torch

# Dense bf16 FLOP/s from the vendors' data sheets, by a part of the device's name.
_PEAK = {"H200": 989e12, "H100": 989e12, "GH200": 989e12, "B200": 2250e12, "A100": 312e12, "L40S": 362e12}


def image_flops(architecture: Architecture, kept: int | None = None) -> float:
    """Return FLOPs of one image's forward pass: matrix products, convolutions and attention.

    kept: of a ViT the patches that it looks at, None for all.
    """
    a = architecture
    if isinstance(a.vision_layers, tuple):
        return _resnet_flops(a, a.vision_layers)
    assert a.patch_size is not None
    patches = kept or a.grid**2
    positions = patches + 1
    embedding = 2 * patches * 3 * a.patch_size**2 * a.vision_width
    block = 24 * a.vision_width**2 * positions + 4 * a.vision_width * positions**2
    return embedding + a.vision_layers * block + 2 * a.vision_width * a.embed_dim


def _resnet_flops(a: Architecture, layers: tuple[int, int, int, int]) -> float:
    """Return FLOPs of a modified ResNet: stem, bottlenecks (pooled after the 3x3), attention pool."""
    width, grid = a.vision_width, a.image_size // 2
    half = width // 2
    total = 2 * 9 * grid**2 * (3 * half + half**2 + half * width)
    grid, inputs = grid // 2, width
    for stage, depth in enumerate(layers):
        channels = width * 2**stage
        outputs = 4 * channels
        for index in range(depth):
            total += 2 * grid**2 * (inputs * channels + 9 * channels**2)
            grid = grid // 2 if stage and not index else grid
            shortcut = 0 if index else inputs * outputs
            total += 2 * grid**2 * (channels * outputs + shortcut)
            inputs = outputs
    tokens = grid**2 + 1
    # The query is one token's; keys, values and the two products are over all.
    pool = 2 * inputs**2 * (2 * tokens + 1) + 4 * inputs * tokens + 2 * inputs * a.embed_dim
    return total + pool


def text_flops(architecture: Architecture, tokens: float, squares: float, captions: float) -> float:
    """Return FLOPs of the forward pass of captions with that many tokens, sum of squared lengths, and
    captions.

    Each block has 12 width^2 weights a token, and two products of length x length x width a caption.
    """
    a = architecture
    block = 24 * a.text_width**2 * tokens + 4 * a.text_width * squares
    return a.text_layers * block + 2 * a.text_width * a.embed_dim * captions


def peak_flops(device: "torch.device") -> float | None:
    """Return the device's dense bf16 FLOP/s, or None where its data sheet is not listed."""
    if device.type != "cuda":
        return None
    import torch

    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in _PEAK.items() if part in name), None)
