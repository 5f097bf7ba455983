"""Predict a picture's caption: the baselines that the paper began with (arXiv:2103.00020, section 2.3).

`caption`: a transformer language model says the caption word for word, the picture's embedding standing where
the text starts. `bag-of-words`: the embedding says at once which words the caption has, in no order (Joulin
et al. 2016, arXiv:1511.02251). Both have CLIP's very parameters and image tower: the objective alone differs.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from pipeline.data.architectures import Architecture
from train.gradcache import Autocast, synchronised
from train.loss import world_size
from train.model import CLIP
from train.packing import PackedText, pack_lists

_TOKENS = 4_096  # whose distribution over the vocabulary is held at once
_CAPTIONS = 2_048  # scored at once


class Predictor(CLIP):
    """Hold the common part of both objectives."""

    unused: tuple[str, ...]
    """Prefixes of the parameters that the objective has no use for."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture)
        for name, parameter in self.named_parameters():
            if name.startswith(self.unused):
                parameter.requires_grad_(False)

    def image_as_text(self, images: Tensor, kept: Tensor | None = None) -> Tensor:
        """Map normalised images [B, 3, N, N] to vectors of the text's width [B, D]."""
        more = () if kept is None else (kept,)
        return self.visual(images, *more) @ self.text_projection.T  # type: ignore[no-any-return]

    def terms(self, tokens: int, captions: int) -> int:
        """Return the number of terms of which the loss is the mean, for tokens in captions."""
        raise NotImplementedError

    def text_flops(self, tokens: int, captions: int) -> float:
        """Return FLOPs of predicting, beside those of a text tower, if it is used."""
        a = self.architecture
        return 2 * a.text_width * (a.embed_dim * captions + a.vocab_size * self.terms(tokens, captions))

    def class_scores(self, images: Tensor, captions: Sequence[list[int]]) -> Tensor:
        """Return how well each of C captions, ids with start and end, fits each image: [B, C]."""
        raise NotImplementedError


class Captioner(Predictor):
    """Predict each token of a caption from the picture and the tokens before."""

    unused = ("logit_scale",)

    def forward(self, images: Tensor, text: PackedText, kept: Tensor | None = None) -> Any:
        """Return minus the log-likelihood of all captions, summed []."""
        return self.surprises(self.image_as_text(images, kept), text).sum()

    def terms(self, tokens: int, captions: int) -> int:
        """Return how many tokens are predicted: all but the starts."""
        return tokens - captions

    def surprises(self, pictures: Tensor, text: PackedText) -> Tensor:
        """Return minus the log-probability of each token but the starts, in order; pictures: [B, D]."""
        x = self.token_embedding(text.ids) + self.positional_embedding[text.positions]
        x = x.index_add(0, text.starts[:-1].long(), pictures.to(x.dtype))
        x = self.transformer(x, text)
        follows = text.positions[1:] > 0
        x, targets = self.ln_final(x[:-1][follows]), text.ids[1:][follows]
        parts = zip(torch.split(x, _TOKENS), torch.split(targets, _TOKENS), strict=True)
        return torch.cat([_cross_entropy(own, self.token_embedding.weight, words) for own, words in parts])

    @torch.no_grad()
    def class_scores(self, images: Tensor, captions: Sequence[list[int]]) -> Tensor:
        """Return each caption's log-likelihood given each image [B, C]."""
        pictures, found = self.image_as_text(images), []
        for some in torch.split(pictures, max(1, _CAPTIONS // len(captions))):
            text = pack_lists([*captions] * len(some)).to(images.device)
            own = self.surprises(some.repeat_interleave(len(captions), dim=0), text)
            counts = text.starts.diff().long() - 1
            numbers = torch.arange(len(counts), device=own.device).repeat_interleave(counts)
            sums = torch.zeros(len(counts), device=own.device).index_add(0, numbers, own)
            found.append(-sums.view(len(some), -1))
        return torch.cat(found)


class BagOfWords(Predictor):
    """Predict which tokens are in a caption, whatever their order."""

    unused = ("logit_scale", "transformer.", "positional_embedding", "ln_final.")

    def forward(self, images: Tensor, text: PackedText, kept: Tensor | None = None) -> Any:
        """Return minus the mean log-probability of a caption's distinct tokens, summed over captions []."""
        logits = self.image_as_text(images, kept) @ self.token_embedding.weight.T
        chances = logits.float().log_softmax(dim=1)
        inner = text.positions > 0
        inner[text.ends] = False
        lengths = text.starts.diff().long()
        captions = torch.arange(len(lengths), device=inner.device).repeat_interleave(lengths)[inner]
        pairs = torch.unique(captions * self.architecture.vocab_size + text.ids[inner])
        captions, words = pairs // self.architecture.vocab_size, pairs % self.architecture.vocab_size
        counts = torch.bincount(captions, minlength=len(lengths))
        return -(chances[captions, words] / counts[captions]).sum()

    def terms(self, tokens: int, captions: int) -> int:
        """Return how many captions there are."""
        return captions

    @torch.no_grad()
    def class_scores(self, images: Tensor, captions: Sequence[list[int]]) -> Tensor:
        """Return the mean logit of each caption's words for each image [B, C]."""
        weights = self.token_embedding.weight
        words = torch.stack([weights[sorted(set(ids[1:-1]))].mean(dim=0) for ids in captions])
        return self.image_as_text(images) @ words.T


def _cross_entropy(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of each row [n], whose logits are computed again in backward."""

    def compute(x: Tensor, weight: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(x, weight).float(), targets, reduction="none")

    if not torch.is_grad_enabled():
        return compute(x, weight)
    return checkpoint(compute, x, weight, use_reentrant=False)  # type: ignore[no-any-return]


def backward(model: nn.Module, batches: Sequence[tuple[Any, ...]], autocast: Autocast, terms: int) -> Tensor:
    """Add the gradient of the mean over all ranks' terms to the parameters; return that mean [].

    `model` gives a micro-batch's sum; `terms`: how many those of this rank's micro-batches have together.
    """
    total = torch.tensor(0.0)
    for index, batch in enumerate(batches):
        with synchronised(model, last=index == len(batches) - 1):
            with autocast():
                part = model(*batch)
            if not index:
                total = torch.stack([part.detach() * 0, part.detach() * 0 + terms])
                if world_size() > 1:
                    dist.all_reduce(total)
                count = total[1]
                total = total[0]
            # DDP averages the ranks' gradients afterwards, so each hands over its share times the ranks.
            (part * (world_size() / count)).backward()
        total = total + part.detach() / count
    if world_size() > 1:
        dist.all_reduce(total)
    return total


MODELS: dict[str, type[CLIP]] = {"contrastive": CLIP, "caption": Captioner, "bag-of-words": BagOfWords}
"""The model that is trained, by --objective."""
