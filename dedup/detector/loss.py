"""The detector's loss: CLIP's on pairs of views, and the entropy term of SSCD."""

import torch
from torch import Tensor

from train.loss import Loss, contrastive_loss

_NEAREST = 1e-6  # squared distance below which two vectors count as that far apart


def with_entropy(weight: float) -> Loss:
    """Return the contrastive loss plus `weight` times the entropy term."""

    def loss(first: Tensor, second: Tensor, scale: Tensor) -> Tensor:
        contrast = contrastive_loss(first, second, scale)
        return contrast + weight * entropy_term(first, second) if weight else contrast

    return loss


def entropy_term(first: Tensor, second: Tensor) -> Tensor:
    """Return minus the mean logarithm of each vector's distance to the nearest one of another photograph,
    where vectors at right angles are 1 apart.

    first, second: unit vectors [B, d] of this rank, row i of both of photograph i. Spread evenly, descriptors
    of unlike pictures are as far from each other everywhere, so that one threshold fits all: the estimator of
    Kozachenko and Leonenko, as in Pizzi et al. 2022 (arXiv 2202.10261, section 4.2).
    """
    vectors = torch.cat([first, second]).float()
    own = torch.arange(len(first), device=first.device).repeat(2)
    with torch.autocast(first.device.type, enabled=False):
        with torch.no_grad():
            cosines = vectors @ vectors.T
            cosines.masked_fill_(own[:, None] == own, -2)
            nearest = cosines.argmax(dim=1)
        squared = (vectors - vectors[nearest]).square().sum(dim=1)
        return -(squared / 2).clamp(min=_NEAREST).log().mean() / 2
