"""Embed prompts with the text tower; the training loop needs this and nothing else of the evaluation."""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from train.evaluation.prompts import fill
from train.hf_tokenizer import AnyTokenizer as Tokenizer
from train.model import CLIP
from train.packing import pack_lists

_CAPTIONS: Final = 1_024  # prompts encoded at once


@torch.no_grad()
def encode_texts(model: CLIP, tokenizer: Tokenizer, texts: Sequence[str], device: torch.device) -> Tensor:
    """Return unit vectors float32 [texts, E]."""
    length = model.architecture.context_length
    parts = []
    for start in range(0, len(texts), _CAPTIONS):
        captions = [tokenizer.caption(text, length) for text in texts[start : start + _CAPTIONS]]
        parts.append(model.encode_text(pack_lists(captions).to(device)))
    return torch.cat(parts)


def class_embeddings(
    model: CLIP, tokenizer: Tokenizer, spellings: Sequence[tuple[str, ...]], templates: Sequence[str],
    device: torch.device,
) -> Tensor:  # fmt: skip
    """Return unit vectors [classes, E]: the mean over the prompts of each class's embeddings.

    spellings: of each class its name, or several names.
    """
    texts = [fill(template, name) for names in spellings for name in names for template in templates]
    embeddings = encode_texts(model, tokenizer, texts, device)
    parts = torch.split(embeddings, [len(names) * len(templates) for names in spellings])
    return F.normalize(torch.stack([part.mean(dim=0) for part in parts]), dim=-1)
