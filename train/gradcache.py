"""Large batches on small devices, exactly: gradient caching (Gao et al. 2021, arXiv:2101.06983).

Features of all micro-batches are computed without a graph, the loss once on all of them, and each micro-batch
again with a graph, into which the cached gradients are fed. Accumulating each micro-batch's own loss would
contrast with fewer negatives. One more forward pass, a third more arithmetic; memory for one micro-batch.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from train.loss import Loss, contrastive_loss

MicroBatch = tuple[Any, ...]  # normalised images [M, 3, N, N] and captions, or whatever `model` takes
Autocast = Callable[[], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def _frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Let batch norms use a batch's statistics without adding them to the running ones a second time."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
        norm.num_batches_tracked, norm.kept = None, norm.num_batches_tracked  # type: ignore[assignment]
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
            norm.num_batches_tracked = norm.kept  # type: ignore[assignment]
            del norm.kept


@contextlib.contextmanager
def synchronised(model: nn.Module, *, last: bool) -> Iterator[None]:
    """Let the ranks exchange gradients after the last micro-batch alone, where the model is DDP's."""
    waiting = isinstance(model, DistributedDataParallel) and not last
    with model.no_sync() if waiting else contextlib.nullcontext():  # type: ignore[operator]
        yield


def backward(
    model: nn.Module, batches: Sequence[MicroBatch], autocast: Autocast, loss_of: Loss = contrastive_loss
) -> Tensor:
    """Add the gradient of the loss over all ranks' micro-batches to the parameters; return the loss [].

    `model(images, text)` gives features and scalars, as CLIP does; wrapped for data parallelism, the ranks
    synchronise once. Batch norms see micro-batches: a ResNet's gradients are not quite the full batch's.
    """
    if len(batches) == 1:
        with autocast():
            outputs = model(*batches[0])
        loss = loss_of(*outputs)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()
    features: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad(), autocast():
        for batch in batches:
            image, text, *scalars = model(*batch)
            features.append((image, text))
    image = torch.cat([pair[0] for pair in features]).requires_grad_()
    text = torch.cat([pair[1] for pair in features]).requires_grad_()
    scalars = [scalar.detach().requires_grad_() for scalar in scalars]
    loss = loss_of(image, text, *scalars)
    d_image, d_text, *d_scalars = torch.autograd.grad(loss, [image, text, *scalars])
    start = 0
    with _frozen_statistics(model):
        for index, batch in enumerate(batches):
            last = index == len(batches) - 1
            with synchronised(model, last=last):
                with autocast():
                    image, text, *scalars = model(*batch)
                rows = slice(start, start + image.shape[0])
                # A stand-in whose gradient is the cached gradient; the scalars belong to all, and count once.
                stand_in = (image * d_image[rows]).sum() + (text * d_text[rows]).sum()
                for scalar, gradient in zip(scalars, d_scalars, strict=True):
                    stand_in = stand_in + scalar * gradient * last
                stand_in.backward()
            start = rows.stop
    return loss.detach()
