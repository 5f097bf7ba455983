"""Zero-shot accuracy while training: a few prompts, a set kept decoded (arXiv:2103.00020, section 3.1).

`openwit eval` does the full evaluations with the same classifier; this one shows whether training works.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import torch

from dedup import evalsets
from pipeline.images.decode import Unreadable, named
from train.evaluation.classes import display
from train.evaluation.sets import examples, pictures
from train.evaluation.texts import class_embeddings
from train.images import BadImage, Pixels, normalise
from train.model import CLIP
from train.tokenizer import Tokenizer

PROMPTS = ("{}", "a photo of a {}.", "a photo of the {}.")
MOST = 10_000  # examples: a standard error of half a point
_BATCH = 256
_THREADS = 4

log = logging.getLogger(__name__)


class LabelledSet:
    """Hold the pictures of an evaluation set, ready for the model: uint8 [M, N, N, 3], and their classes."""

    def __init__(self, argument: str, size: int) -> None:
        self.name, path = evalsets.parse(argument)
        pixels: list[Pixels] = []
        labels: list[str] = []
        unreadable: list[Unreadable] = []
        for example, picture in pictures(examples(path, MOST), size, _THREADS):
            if isinstance(picture, BadImage):
                unreadable.append(Unreadable(example.example_id, example.label, picture.reason))
            else:
                pixels.append(picture)
                labels.append(example.label)
        if unreadable:
            said = "--eval %s: %d of %d images cannot be decoded and are left out: %s"
            log.warning(said, self.name, len(unreadable), len(pixels) + len(unreadable), named(unreadable))
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
            names = [display(name) for name in labelled.classes]
            classes = class_embeddings(model, tokenizer, names, PROMPTS, device)
            for start in range(0, len(labelled.labels), _BATCH):
                images = normalise(labelled.pixels[start : start + _BATCH].to(device))
                guesses = (model.encode_image(images) @ classes.T).argmax(dim=1).cpu()
                right += int((guesses == labelled.labels[start : start + _BATCH]).sum())
        return right / len(labelled.labels)
    finally:
        model.train(training)
