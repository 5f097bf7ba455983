"""The detector's networks: CLIP's anti-aliased ResNet, weight norm, GELU (arXiv 2103.00020, appendix C), and
EfficientNet-Lite0, which starts from published weights (`dedup.detector.lite`).

Weight norm takes the place of batch norm "to avoid leaking information about duplicates via batch
statistics": nothing in a forward pass depends on the other images of the batch.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from dedup.detector.lite import LiteTrunk
from pipeline.data.views import VIEWS
from train.image_transforms import normalise
from train.resnet import Bottleneck, Parts, Trunk

Forward = Callable[[Tensor], Tensor]

TEMPERATURE: Final = 0.07
"""Fixed, not learned (appendix C)."""
_POWER: Final = 3.0  # of generalised-mean pooling (Radenovic et al. 2018, arXiv 1711.02512)


@dataclass(frozen=True, kw_only=True)
class DetectorArchitecture(ABC):
    """Fix the sizes that every detector's network has."""

    step: ClassVar = 32
    """The side is a multiple of it."""

    side: int
    """Of the square images it takes, in pixels."""
    dims: int
    """Of the descriptor."""

    def __post_init__(self) -> None:
        """Refuse sizes that no such network can have."""
        if self.side < 32 or self.side % self.step:
            raise ValueError(f"--image-size {self.side} is not a multiple of {self.step}, from 32 on")

    @abstractmethod
    def trunk(self) -> "LiteTrunk | ResNetTrunk":
        """Return the network before its last layer, with any weights."""


@dataclass(frozen=True, kw_only=True)
class ResNetArchitecture(DetectorArchitecture):
    """Fix every size of a network whose trunk is a ResNet."""

    layers: tuple[int, int, int, int]
    width: int

    def trunk(self) -> "ResNetTrunk":
        """Return the ResNet."""
        return ResNetTrunk(self.layers, self.width, WEIGHT_NORM)


@dataclass(frozen=True, kw_only=True)
class LiteArchitecture(DetectorArchitecture):
    """Fix the sizes of a network whose trunk is EfficientNet-Lite0."""

    step: ClassVar = 16  # half of its stride: an odd grid is padded on both sides alike

    def trunk(self) -> LiteTrunk:
        """Return EfficientNet-Lite0."""
        return LiteTrunk()


ARCHITECTURES: Final[dict[str, DetectorArchitecture]] = {
    "RN50": ResNetArchitecture(side=224, layers=(3, 4, 6, 3), width=64, dims=512),
    # For a CPU: 1.2 million parameters, 64 MFLOP an image.
    "small": ResNetArchitecture(side=64, layers=(1, 1, 1, 1), width=24, dims=128),
    # For a CPU, from published weights: 3.0 million parameters, 134 MFLOP an image.
    "lite": LiteArchitecture(side=96, dims=128),
}


class WeightNormConv2d(nn.Module):
    """Convolve with filters of learned direction and length (Salimans & Kingma 2016, arXiv 1602.07868)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        # Values come from `initialise` or a file. To draw some without memory, where a file's sizes are
        # checked, torch would import its compiler, which takes 1.5 s.
        self.direction = nn.Parameter(torch.ones(outputs, inputs, kernel, kernel))
        self.gain = nn.Parameter(torch.ones(outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.stride, self.padding = stride, padding

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, outputs, H / stride, W / stride]."""
        length = torch.linalg.vector_norm(self.direction, dim=(1, 2, 3))
        weight = self.direction * (self.gain / length)[:, None, None, None]
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


def _no_norm(channels: int) -> nn.Module:
    return nn.Identity()


WEIGHT_NORM: Final = Parts(WeightNormConv2d, _no_norm, F.gelu)


class ResNetTrunk(Trunk):
    """Encode images as the generalised mean of the last stage's grid."""

    together: Final = 256
    """Pictures at a time for a CPU."""
    worth_compiling: Final = False
    layout: Final = torch.channels_last
    views: Final = VIEWS
    """In which evaluation images are described."""

    def pooled(self, pixels: Tensor) -> Tensor:
        """Map uint8 [B, N, N, 3] to float32 [B, channels]."""
        grid = self.features(normalise(pixels))
        # The generalised mean lets a small matching part count; GELU leaves values a little below 0.
        return grid.float().clamp(min=1e-3).pow(_POWER).mean(dim=(2, 3)).pow(1 / _POWER)


class DetectorNetwork(nn.Module):
    """Embed images as unit vectors."""

    def __init__(self, architecture: DetectorArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.trunk = architecture.trunk()
        self.head = nn.Linear(self.trunk.channels, architecture.dims)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map uint8 [B, side, side, 3] to float32 unit vectors [B, dims]."""
        return F.normalize(self.head(self.trunk.pooled(pixels)).float(), dim=1)

    def laid_out(self) -> "DetectorNetwork":
        """Return this network with its weights as the trunk computes fastest with them."""
        self.to(memory_format=self.trunk.layout)  # type: ignore[call-overload]
        return self

    def compiled(self) -> Forward:
        """Return this network with its present weights for a CPU, as TorchScript that oneDNN runs.

        Its values stay in the blocks that oneDNN computes with from one layer to the next.
        """
        side = self.architecture.side
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch.compile would need a C++ compiler
            example = torch.zeros(self.trunk.together, side, side, 3, dtype=torch.uint8)
            traced = torch.jit.trace(self, example, check_trace=False)  # type: ignore[no-untyped-call]
            frozen: Forward = torch.jit.optimize_for_inference(torch.jit.freeze(traced.eval()))
        return frozen

    @torch.inference_mode()
    def embed(
        self, thumbnails: npt.NDArray[np.uint8], batch: int | None = None, forward: Forward | None = None
    ) -> npt.NDArray[np.float32]:
        """Map uint8 [n, side, side, 3] to float32 unit vectors [n, dims], on the network's device.

        forward: the network as `compiled` gave it.
        """
        device = self.head.weight.device
        bf16 = device.type == "cuda"
        batch = batch or (256 if bf16 else self.trunk.together)
        found = [np.zeros((0, self.architecture.dims), np.float32)]
        for start in range(0, len(thumbnails), batch):
            pixels = torch.from_numpy(np.ascontiguousarray(thumbnails[start : start + batch])).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                found.append((forward or self)(pixels).cpu().numpy())
        return np.concatenate(found)

    def initialise(self, seed: int, pixels: Tensor) -> "DetectorNetwork":
        """Draw weights, and set gains and biases by a batch, uint8 [B, side, side, 3], as the weight norm's
        authors do (section 3): every convolution's output then has mean 0 and deviation 1. Residual branches
        start from zero.
        """  # fmt: skip
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, WeightNormConv2d):
                    module.direction.normal_(std=0.05, generator=generator)
            self.head.weight.normal_(std=self.head.in_features**-0.5, generator=generator)
            self.head.bias.zero_()
            with _standardising(self):
                self(pixels)
            for block in self.modules():
                if isinstance(block, Bottleneck):
                    assert isinstance(block.conv3, WeightNormConv2d)
                    block.conv3.gain.zero_()
                    block.conv3.bias.zero_()
        return self

    def fit_head(self, pixels: Tensor) -> "DetectorNetwork":
        """Let the last layer give the principal components of pictures, uint8 [n, side, side, 3].

        So a trunk with published weights describes well before the first step.
        """
        with torch.no_grad():
            pooled = torch.cat([self.trunk.pooled(part) for part in torch.split(pixels, 64)])
            mean = pooled.mean(dim=0)
            values, vectors = torch.linalg.eigh((pooled - mean).T @ (pooled - mean) / len(pooled))
            weight = vectors.flip(1)[:, : self.architecture.dims].T
            weight /= values.flip(0)[: self.architecture.dims].mean().sqrt()
            self.head.weight.copy_(weight)
            self.head.bias.copy_(-weight @ mean)
        return self


@contextmanager
def _standardising(network: nn.Module) -> Iterator[None]:
    """Let each convolution that is called set its gain and bias by its output, and give it accordingly."""

    def standardise(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        assert isinstance(module, WeightNormConv2d)
        deviation, mean = torch.std_mean(output, dim=(0, 2, 3))
        scale = 1 / deviation.clamp(min=1e-3)
        module.gain.mul_(scale)
        module.bias.sub_(mean).mul_(scale)
        return (output - mean[:, None, None]) * scale[:, None, None]

    hooks = [
        module.register_forward_hook(standardise)
        for module in network.modules()
        if isinstance(module, WeightNormConv2d)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class OnPairs(nn.Module):
    """Embed two views of the same images: the training loop calls this."""

    def __init__(self, network: DetectorNetwork) -> None:
        super().__init__()
        self.network = network
        self.last: tuple[Tensor, Tensor]  # for the log
        self.scale: Tensor
        self.register_buffer("scale", torch.tensor(1 / TEMPERATURE), persistent=False)

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map two batches of pixels, row i showing one image, to vectors [B, d] and the logits' factor []."""
        vectors = self.network(torch.cat([first, second]))
        a, b = vectors[: len(first)], vectors[len(first) :]
        self.last = (a.detach(), b.detach())
        return a, b, self.scale
