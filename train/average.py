"""Weights averaged over time (EMA; Polyak and Juditsky 1992): they are evaluated and exported."""

import torch
from torch import Tensor, nn

from train.sharding import local


class Average:
    """Hold the moving average of a model's weights and statistics, by their names."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start from the model as it is; each update keeps the share `decay` of the average."""
        self.decay = decay
        self.tensors = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move towards the model; integer values are copied."""
        averages: list[Tensor] = []
        values: list[Tensor] = []
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                averages.append(local(self.tensors[name]))
                values.append(local(value))
            else:
                self.tensors[name].copy_(value)
        torch._foreach_lerp_(averages, values, 1 - self.decay)
