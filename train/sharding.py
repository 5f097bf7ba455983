"""Weights, gradients and moments shared out over the processes (FSDP2; ZeRO-3, arXiv:1910.02054).

Each process holds its rows of every matrix, and all of a block's only while it computes the block. Scalars,
which have no rows, stay whole on every process. Checkpoints hold whole tensors: a run goes on with any number
of processes, shared out or not.
"""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

from train.model import CLIP, Block
from train.resnet import Bottleneck

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor
    from typing_extensions import TypeIs


def shard(model: CLIP, device: torch.device) -> None:
    """Share the model's parameters out over all processes, block by block; all processes must call it."""
    # Here, since it takes 0.7 s of CPU time, and the other functions know DTensor only if somebody made one.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for module in list(model.modules()):
        if isinstance(module, Block | Bottleneck):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh, ignored_params=set(_scalars(model)))


def _scalars(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.ndim == 0]


def average_scalars(model: nn.Module) -> None:
    """Average over the processes the gradients of everything that is not shared out."""
    for parameter in _scalars(model):
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()


def _is_shared(tensor: Tensor) -> "TypeIs[DTensor]":
    return "torch.distributed.tensor" in sys.modules and isinstance(tensor, dist.tensor.DTensor)


def local(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process holds."""
    return tensor.to_local() if _is_shared(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """Return a whole tensor of all processes' parts; all must call it together."""
    return tensor.full_tensor() if _is_shared(tensor) else tensor


def fill(tensor: Tensor, value: Tensor) -> None:
    """Copy a whole tensor's values into a tensor that may be sharded."""
    if _is_shared(tensor):
        from torch.distributed.tensor import distribute_tensor

        value = value.to(tensor.device)
        value = distribute_tensor(value, tensor.device_mesh, tensor.placements, src_data_rank=None).to_local()
    local(tensor).copy_(value)


def norm(gradients: Iterable[Tensor]) -> Tensor:
    """Return the length [] of all gradients together, the same on every process."""
    shared: list[Tensor] = []
    alone: list[Tensor] = []
    for gradient in gradients:
        (shared if _is_shared(gradient) else alone).append(local(gradient))
    squares = nn.utils.get_total_norm(shared).square()
    dist.all_reduce(squares)
    return (squares + nn.utils.get_total_norm(alone).square()).sqrt()


def clip(gradients: Iterable[Tensor], most: float) -> None:
    """Shorten all gradients together to a length of at most `most`, as torch's clip_grad_norm_ does."""
    found = list(gradients)
    factor = (most / (norm(found) + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_([local(gradient) for gradient in found], factor)
