"""Retrieval in both directions, several captions per image: recall at k (section 3.1, table 13).

An image is found if any of its captions is among the k most similar texts; a caption, if its image is among
the k most similar images. Similarities are computed in chunks: memory grows with chunk x N, never N x N.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

CHUNK: Final = 1_024
AT: Final = (1, 5, 10)


def ranks(
    images: Tensor, texts: Tensor, owner: Tensor, chunk: int = CHUNK
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return ranks from 0: of each image's best caption [n], and of each caption's image [m].

    ValueError if an image has no caption.

    `images` [n, E] and `texts` [m, E] are unit vectors, `owner` int64 [m] the image of each caption; each
    image has one at least. Of equal similarities the right one comes last: a tie is never a success.
    """
    n, m = len(images), len(texts)
    if not n or len(owner.bincount(minlength=n)) > n or not bool(owner.bincount(minlength=n).all()):
        raise ValueError("every image needs a caption")
    image_ranks, text_ranks = np.empty(n, np.int64), np.empty(m, np.int64)
    for start in range(0, n, chunk):
        block = images[start : start + chunk] @ texts.T
        rows = torch.arange(start, start + len(block), device=owner.device)
        own = owner[None] == rows[:, None]
        best = block.masked_fill(~own, -torch.inf).amax(dim=1, keepdim=True)
        # Only captions of other images can stand before an image's own best.
        image_ranks[start : start + chunk] = ((block >= best) & ~own).sum(dim=1).cpu().numpy()
    for start in range(0, m, chunk):
        block = texts[start : start + chunk] @ images.T
        right = block.gather(1, owner[start : start + chunk, None])
        text_ranks[start : start + chunk] = ((block >= right).sum(dim=1) - 1).cpu().numpy()
    return image_ranks, text_ranks
