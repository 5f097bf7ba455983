"""AdamW as the paper trains, and its schedule (arXiv:2103.00020, section 2.5)."""

import math
from typing import Final

import torch
from torch import nn

from pipeline.data.architectures import Recipe

_PAPERS_SIZE: Final = 10_000  # steps; its shortest run, L/14's epoch at 336 pixels, has 12,207


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Split parameters: decay applies to "all weights that are not gains or biases"."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        # Gains, biases, the class embedding and the scale are those with fewer than two dimensions.
        (decayed if parameter.ndim >= 2 and "bias" not in name else plain).append(parameter)
    groups = [decayed, plain]
    if any(hasattr(parameter, "full_tensor") for parameter in decayed):
        # Sharded over processes, as scalars are not: a kernel takes only one of the kinds.
        groups = [decayed, [p for p in plain if p.ndim], [p for p in plain if not p.ndim]]
    return [
        {"params": own, "weight_decay": 0.0 if place else weight_decay} for place, own in enumerate(groups)
    ]


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """Return AdamW with the recipe's betas and epsilon, in one fused kernel."""
    return torch.optim.AdamW(
        parameter_groups(model, recipe.weight_decay),
        lr=recipe.lr,
        betas=(recipe.beta1, recipe.beta2),
        eps=recipe.eps,
        fused=True,
    )


def warmup_steps(recipe: int, steps: int) -> int:
    """Return the steps of warm-up: the recipe's, but at most a tenth of runs shorter than the paper's."""
    return recipe if steps >= _PAPERS_SIZE else min(recipe, steps // 10)


def learning_rate(step: int, steps: int, lr: float, warmup: int) -> float:
    """Return the rate of a step counted from 0: linear to `lr` over `warmup` steps, then a cosine to 0."""
    if step < warmup:
        return lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return lr * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
