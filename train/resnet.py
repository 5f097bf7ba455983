"""CLIP's ResNet: three-convolution stem, pooled strides, attention pooling (arXiv:2103.00020, section 2.4).

Parameter names are those of OpenAI's released state dicts.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint


class Parts(NamedTuple):
    """Hold the dimensions of a ResNet; fields only."""

    conv: Callable[..., nn.Module]
    """Takes inputs, outputs, kernel size, stride and padding; adds no bias if a norm does."""
    norm: Callable[[int], nn.Module]
    activation: Callable[[Tensor], Tensor]


def _conv(inputs: int, outputs: int, kernel: int, **options: Any) -> nn.Module:
    return nn.Conv2d(inputs, outputs, kernel, bias=False, **options)


BATCH_NORM = Parts(_conv, nn.BatchNorm2d, F.relu)
"""CLIP's image towers."""


class Bottleneck(nn.Module):
    """Apply 1x1, 3x3, 1x1 convolutions around a shortcut; a stride is an average pool before the last."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, parts: Parts = BATCH_NORM) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = parts.conv(inputs, width, 1)
        self.bn1 = parts.norm(width)
        self.conv2 = parts.conv(width, width, 3, padding=1)
        self.bn2 = parts.norm(width)
        self.conv3 = parts.conv(width, outputs, 1)
        self.bn3 = parts.norm(outputs)
        self.activation = parts.activation
        self.stride = stride
        self.downsample: nn.Module | None = None
        if stride > 1 or inputs != outputs:
            # "-1" has no parameters; its name keeps the released state dict's numbering of the next layers.
            self.downsample = nn.Sequential(
                OrderedDict(
                    [
                        ("-1", nn.AvgPool2d(stride)),
                        ("0", parts.conv(inputs, outputs, 1)),
                        ("1", parts.norm(outputs)),
                    ]
                )
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, 4 * width, H / stride, W / stride]."""
        y = self.activation(self.bn1(self.conv1(x)))
        y = self.activation(self.bn2(self.conv2(y)))
        if self.stride > 1:
            y = F.avg_pool2d(y, self.stride)
        y = self.bn3(self.conv3(y))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.activation(y + shortcut)


class AttentionPool(nn.Module):
    """Pool a grid by attention whose query is the grid's mean (section 2.4)."""

    def __init__(self, grid: int, channels: int, heads: int, outputs: int) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.empty(grid * grid + 1, channels))
        self.k_proj = nn.Linear(channels, channels)
        self.q_proj = nn.Linear(channels, channels)
        self.v_proj = nn.Linear(channels, channels)
        self.c_proj = nn.Linear(channels, outputs)
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, outputs]."""
        tokens = x.flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)
        tokens = tokens + self.positional_embedding.to(tokens.dtype)
        q, k, v = (
            projection(part).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection, part in [
                (self.q_proj, tokens[:, :1]),
                (self.k_proj, tokens),
                (self.v_proj, tokens),
            ]
        )
        pooled = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(1)
        return self.c_proj(pooled)  # type: ignore[no-any-return]


class Trunk(nn.Module):
    """Encode images as a grid of features: CLIP's ResNet before its pooling."""

    def __init__(self, layers: tuple[int, int, int, int], width: int, parts: Parts = BATCH_NORM) -> None:
        super().__init__()
        self.conv1 = parts.conv(3, width // 2, 3, stride=2, padding=1)
        self.bn1 = parts.norm(width // 2)
        self.conv2 = parts.conv(width // 2, width // 2, 3, padding=1)
        self.bn2 = parts.norm(width // 2)
        self.conv3 = parts.conv(width // 2, width, 3, padding=1)
        self.bn3 = parts.norm(width)
        self.activation = parts.activation
        inputs = width
        for stage, depth in enumerate(layers):
            channels = width * 2**stage
            blocks = []
            for index in range(depth):
                blocks.append(Bottleneck(inputs, channels, 2 if stage and not index else 1, parts))
                inputs = channels * Bottleneck.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.channels = inputs
        self.checkpointing = False

    @property
    def blocks(self) -> list[tuple[nn.Sequential, int]]:
        """Return where each residual block lives: its stage and its index there."""
        stages = [stage for stage in self.children() if isinstance(stage, nn.Sequential)]
        return [(stage, index) for stage in stages for index in range(len(stage))]

    def features(self, x: Tensor) -> Tensor:
        """Map images [B, 3, N, N] to the last stage's grid [B, 32 * width, N / 32, N / 32]."""
        x = self.activation(self.bn1(self.conv1(x)))
        x = self.activation(self.bn2(self.conv2(x)))
        x = self.activation(self.bn3(self.conv3(x)))
        x = F.avg_pool2d(x, 2)
        for stage, index in self.blocks:
            block = stage[index]
            x = (
                checkpoint(block, x, use_reentrant=False)
                if self.checkpointing and self.training
                else block(x)
            )
        return x


class ModifiedResNet(Trunk):
    """Encode images [B, 3, N, N] as features [B, outputs]."""

    def __init__(
        self, layers: tuple[int, int, int, int], outputs: int, heads: int, image_size: int, width: int
    ) -> None:
        super().__init__(layers, width)
        self.attnpool = AttentionPool(image_size // 32, self.channels, heads, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, 3, N, N] to features [B, outputs]."""
        return self.attnpool(self.features(x))  # type: ignore[no-any-return]

    def initialise(self) -> None:
        """Draw the released code's weights: attention pooling by width, residual branches from zero."""
        nn.init.normal_(self.attnpool.positional_embedding, std=self.attnpool.c_proj.in_features**-0.5)
        for name in ["q_proj", "k_proj", "v_proj", "c_proj"]:
            nn.init.normal_(getattr(self.attnpool, name).weight, std=self.attnpool.c_proj.in_features**-0.5)
        for stage, index in self.blocks:
            block = stage[index]
            assert isinstance(block, Bottleneck) and isinstance(block.bn3, nn.BatchNorm2d)
            nn.init.zeros_(block.bn3.weight)
