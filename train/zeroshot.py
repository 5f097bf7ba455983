"""Zero-shot accuracy while training: a few prompts, a set kept decoded (arXiv:2103.00020, section 3.1).

`openwit eval` does the full evaluations; this one shows whether training works.
"""

import contextlib
import hashlib
import heapq
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from dedup import evalsets
from train.images import BadImage, Pixels, evaluation_image, normalise
from train.model import CLIP
from train.packing import pack_lists
from train.tokenizer import Tokenizer

PROMPTS = ("{}", "a photo of a {}.", "a photo of the {}.")
MOST = 10_000  # examples: a standard error of half a point
_BATCH = 256


class LabelledSet:
    """Hold the pictures of an evaluation set, ready for the model: uint8 [M, N, N, 3], and their classes."""

    def __init__(self, argument: str, size: int) -> None:
        self.name, path = evalsets.parse(argument)
        heap: list[tuple[int, int, bytes, str]] = []
        for index, example in enumerate(evalsets.read(path)):
            # Of a larger set, those of smallest hash: a fair sample, the same one every time.
            digest = hashlib.blake2b(example.example_id.encode(), digest_size=8).digest()
            entry = (-int.from_bytes(digest), index, example.image, example.label)
            if len(heap) < MOST:
                heapq.heappush(heap, entry)
            else:
                heapq.heappushpop(heap, entry)
        pixels: list[Pixels] = []
        labels: list[str] = []
        for _, _, image, label in sorted(heap, key=lambda entry: entry[1]):
            with contextlib.suppress(BadImage):
                pixels.append(evaluation_image(image, size))
                labels.append(label)
        self.classes = sorted(set(labels))
        if len(self.classes) < 2:
            raise ValueError(
                f"--eval {argument}: needs pictures of two classes or more, found {self.classes}"
            )
        self.pixels = torch.from_numpy(np.stack(pixels))
        self.labels = torch.tensor([self.classes.index(label) for label in labels])

    @property
    def chance(self) -> float:
        """Return the accuracy of always answering the commonest class."""
        return float(self.labels.bincount().max()) / len(self.labels)


def class_embeddings(model: CLIP, tokenizer: Tokenizer, classes: list[str], device: torch.device) -> Tensor:
    """Return unit vectors [classes, E]: the mean over the prompts of each class's embeddings."""
    embeddings = []
    for name in classes:
        captions = [tokenizer.caption(prompt.format(name.replace("_", " "))) for prompt in PROMPTS]
        embeddings.append(model.encode_text(pack_lists(captions).to(device)).mean(dim=0))
    return F.normalize(torch.stack(embeddings), dim=1)


@torch.no_grad()
def accuracy(
    model: CLIP, tokenizer: Tokenizer, labelled: LabelledSet, device: torch.device,
    autocast: Callable[[], AbstractContextManager[None]],
) -> float:  # fmt: skip
    """Return the share of pictures whose class has the most similar embedding."""
    training = model.training
    model.eval()
    try:
        right = 0
        with autocast():
            classes = class_embeddings(model, tokenizer, labelled.classes, device)
            for start in range(0, len(labelled.labels), _BATCH):
                images = normalise(labelled.pixels[start : start + _BATCH].to(device))
                guesses = (model.encode_image(images) @ classes.T).argmax(dim=1).cpu()
                right += int((guesses == labelled.labels[start : start + _BATCH]).sum())
        return right / len(labelled.labels)
    finally:
        model.train(training)
