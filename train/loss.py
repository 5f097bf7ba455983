"""Losses over the global batch: CLIP's symmetric cross-entropy of cosines (arXiv:2103.00020, figure 3)
and SigLIP's, which judges each pair by itself (arXiv:2303.15343).

Each rank holds B of the N = B x ranks samples. The N x N logits are never stored: each rank computes its B
rows in chunks, keeps CLIP's two log-sum-exps, and computes the chunks again in backward. At N = 32,768 one
fp32 matrix would be 4 GiB; a chunk of 4,096 rows is 0.5 GiB. Arithmetic is float32 (or
TF32, on CUDA where allowed).
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

CHUNK = 4_096

Loss = Callable[..., Tensor]
"""Of two sets of features, paired by row, and of the scalars that belong to all pairs."""


def world_size() -> int:
    """Return the number of ranks; 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return this process's rank; 0 without torch.distributed."""
    return dist.get_rank() if dist.is_initialized() else 0


def gather(x: Tensor) -> Tensor:
    """Concatenate every rank's [B, ...] to [N, ...], without gradients."""
    if world_size() == 1:
        return x
    gathered = x.new_empty((world_size() * x.shape[0], *x.shape[1:]))
    dist.all_gather(list(gathered.chunk(world_size())), x.contiguous())
    return gathered


def _sum_own_rows(x: Tensor) -> Tensor:
    """Sum every rank's [N, D] and return this rank's B rows."""
    if world_size() == 1:
        return x
    own = x.new_empty((x.shape[0] // world_size(), x.shape[1]))
    dist.reduce_scatter(own, list(x.chunk(world_size())))
    return own


def _chunks(rows: int, chunk: int) -> list[slice]:
    return [slice(start, min(start + chunk, rows)) for start in range(0, rows, chunk)]


def _refuse_unpaired(image: Tensor, text: Tensor) -> None:
    if image.shape != text.shape:
        raise ValueError(
            f"as many images as texts are needed, got {tuple(image.shape)} and {tuple(text.shape)}"
        )


class _ContrastiveLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, text: Tensor, scale: Tensor, chunk: int) -> Tensor:
        texts = gather(text)
        first = rank() * image.shape[0]
        labels = torch.arange(first, first + image.shape[0], device=image.device)
        row_lse = image.new_empty(image.shape[0])
        column_lse = image.new_full((texts.shape[0],), -torch.inf)
        matched = image.new_empty(image.shape[0])
        for rows in _chunks(image.shape[0], chunk):
            logits = scale * (image[rows] @ texts.T)
            row_lse[rows] = logits.logsumexp(dim=1)
            column_lse = torch.logaddexp(column_lse, logits.logsumexp(dim=0))
            matched[rows] = logits.gather(1, labels[rows, None])[:, 0]
        # Each rank saw its own rows of every column: together they are the column's sum.
        column_lse = gather(column_lse[None]).logsumexp(dim=0)
        ctx.save_for_backward(image, texts, scale, row_lse, column_lse, labels)
        ctx.chunk = chunk
        parts = (row_lse + column_lse[labels] - 2 * matched).sum()
        if world_size() > 1:
            dist.all_reduce(parts)
        return parts / (2 * texts.shape[0])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        image, texts, scale, row_lse, column_lse, labels = ctx.saved_tensors
        d_image, d_texts, d_scale = torch.empty_like(image), torch.zeros_like(texts), torch.zeros_like(scale)
        for rows in _chunks(image.shape[0], ctx.chunk):
            similarity = image[rows] @ texts.T
            logits = scale * similarity
            # d loss / d logits, times 2N: both softmaxes, less the two ones at the matching pair.
            g = (logits - row_lse[rows, None]).exp_().add_(logits.sub_(column_lse).exp_())
            g[torch.arange(g.shape[0], device=g.device), labels[rows]] -= 2
            d_image[rows] = g @ texts
            d_texts.addmm_(g.T, image[rows])
            d_scale += (g * similarity).sum()
        # DDP averages the ranks' gradients afterwards, so each hands over its share times the ranks.
        factor = gradients[0] * world_size() / (2 * texts.shape[0])
        d_text = _sum_own_rows(d_texts)
        return d_image * (scale * factor), d_text * (scale * factor), d_scale * factor, None


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor, chunk: int = CHUNK) -> Tensor:
    """Return the global batch's loss, the same on every rank; ValueError for other shapes.

    `image`, `text`: unit vectors [B, E] of this rank, float32, pair i on row i of both, B equal on all ranks;
    `scale`: the logits' factor. The mean of the ranks' gradients, as of DDP, is the global loss's gradient.
    """
    _refuse_unpaired(image, text)
    with torch.autocast(image.device.type, enabled=False):
        loss: Tensor = _ContrastiveLoss.apply(  # type: ignore[no-untyped-call]
            image.float(), text.float(), scale.float(), chunk
        )
    return loss


class _SigmoidLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, chunk: int) -> Tensor:
        texts = gather(text)
        first = rank() * image.shape[0]
        labels = torch.arange(first, first + image.shape[0], device=image.device)
        parts = image.new_zeros(())
        for rows in _chunks(image.shape[0], chunk):
            logits = scale * (image[rows] @ texts.T) + bias
            logits[torch.arange(logits.shape[0], device=logits.device), labels[rows]] *= -1
            parts += F.softplus(logits).sum()
        ctx.save_for_backward(image, texts, scale, bias, labels)
        ctx.chunk = chunk
        if world_size() > 1:
            dist.all_reduce(parts)
        return parts / texts.shape[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        image, texts, scale, bias, labels = ctx.saved_tensors
        d_image, d_texts = torch.empty_like(image), torch.zeros_like(texts)
        d_scale, d_bias = torch.zeros_like(scale), torch.zeros_like(bias)
        for rows in _chunks(image.shape[0], ctx.chunk):
            similarity = image[rows] @ texts.T
            g = (scale * similarity + bias).sigmoid_()  # d loss / d logits, times N
            own = (torch.arange(g.shape[0], device=g.device), labels[rows])
            g[own] = -torch.sigmoid(-(scale * similarity[own] + bias))
            d_image[rows] = g @ texts
            d_texts.addmm_(g.T, image[rows])
            d_scale += (g * similarity).sum()
            d_bias += g.sum()
        factor = gradients[0] * world_size() / texts.shape[0]
        d_text = _sum_own_rows(d_texts)
        return d_image * (scale * factor), d_text * (scale * factor), d_scale * factor, d_bias * factor, None


def sigmoid_loss(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, chunk: int = CHUNK) -> Tensor:
    """Return SigLIP's loss of the global batch, summed over texts, averaged over images; else as above.

    `bias`: added to the scaled cosines.
    """
    _refuse_unpaired(image, text)
    with torch.autocast(image.device.type, enabled=False):
        loss: Tensor = _SigmoidLoss.apply(  # type: ignore[no-untyped-call]
            image.float(), text.float(), scale.float(), bias.float(), chunk
        )
    return loss


def count_equal_pairs(keys: Tensor) -> int:
    """Return how many pairs of the global batch have equal keys; `keys`: this rank's int64 [B]."""
    _, counts = torch.unique(gather(keys), return_counts=True)
    return int((counts * (counts - 1) // 2).sum())
