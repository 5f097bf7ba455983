"""Zero-shot accuracy while training, on a set kept decoded (arXiv:2103.00020, section 3.1).

It is the number of `openwit eval --task zeroshot` without further options, for the same classes, prompts and
pictures: alike to the last example in fp32, about a tenth of a point apart where training runs in bf16; of a
set of more than MOST examples it is that of `--limit 10000`.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor

from pipeline.data import evalsets, named_sets
from pipeline.data.evalsets import Example
from pipeline.images.decode import Unreadable, named
from train.evaluation import classes, prompts
from train.evaluation.sets import decoders, examples, pictures
from train.evaluation.texts import class_embeddings
from train.hf_tokenizer import AnyTokenizer
from train.image_transforms import BadImage, Pixels, normalise
from train.model import CLIP
from train.predictive import Captioner, Predictor

MOST = 10_000  # examples: a standard error of half a point
_BATCH = 256
_THREADS = 4

log = logging.getLogger("train")


class LabelledSet:
    """Hold the pictures of an evaluation set, ready for the model: uint8 [M, N, N, 3], and their classes."""

    def __init__(self, argument: str, size: int) -> None:
        self.name, path = named_sets.parse(argument)
        pixels: list[Pixels] = []
        labels: list[str] = []
        unreadable: list[Unreadable] = []
        listed = evalsets.listing(path)
        if left_out := evalsets.left_out_of(listed):
            log.warning("--eval %s: %s", self.name, left_out)
        found = (_one_class(argument, one) for one in examples(path, MOST) if one.label)
        with decoders(size, _THREADS) as started:
            for example, picture in pictures(found, started):
                if isinstance(picture, BadImage):
                    unreadable.append(Unreadable(example.example_id, example.label, picture.reason))
                else:
                    pixels.append(picture)
                    labels.append(example.label)
        if unreadable:
            said = "--eval %s: %d of %d images cannot be decoded and are left out: %s"
            log.warning(said, self.name, len(unreadable), len(pixels) + len(unreadable), named(unreadable))
        if not pixels:
            raise ValueError(f"--eval {argument}: no picture with a label could be read")
        try:
            self.classes = classes.of(self.name, labels, "", numbered=evalsets.class_names(path))
        except ValueError as error:
            raise ValueError(f"--eval {error}") from error
        self.prompts = prompts.for_set(self.name)
        if said := classes.warning_of_codes(self.name, self.classes, self.prompts.single):
            log.warning("--eval %s", said)
        self.pixels = torch.from_numpy(np.stack(pixels))
        place = {label: number for number, label in enumerate(self.classes.labels)}
        self.labels = torch.tensor([place[label] for label in labels])

    @property
    def chance(self) -> float:
        """Return the accuracy of always answering the commonest class."""
        return float(self.labels.bincount().max()) / len(self.labels)


def _one_class(argument: str, example: Example) -> Example:
    if example.several_classes:
        raise ValueError(f"--eval {argument}: {example.example_id} has several classes; give one")
    return example


def _scorer(
    model: CLIP, tokenizer: AnyTokenizer, labelled: LabelledSet, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """Return the function from images [B, 3, N, N] to a score per class [B, C]."""
    names, length = labelled.classes.names, model.architecture.context_length
    if isinstance(model, Predictor):
        # A caption model is asked for a sentence, as captions are; of a bag only the name's own words count.
        sentence = labelled.prompts.single if isinstance(model, Captioner) else "{}"
        captions = [tokenizer.caption(prompts.fill(sentence, name), length) for name in names]
        return lambda images: model.class_scores(images, captions)
    spellings = labelled.classes.spellings
    texts = class_embeddings(model, tokenizer, spellings, labelled.prompts.ensemble, device)
    return lambda images: model.encode_image(images) @ texts.T


@torch.no_grad()
def accuracy(
    model: CLIP, tokenizer: AnyTokenizer, labelled: LabelledSet, device: torch.device,
    autocast: Callable[[], AbstractContextManager[None]],
) -> float:  # fmt: skip
    """Return the share of pictures whose class has the most similar embedding.

    Of a model that predicts captions: whose class is the likeliest prompt, or has the likeliest name.
    """
    training = model.training
    model.eval()
    try:
        right = 0
        with autocast():
            score = _scorer(model, tokenizer, labelled, device)
            for start in range(0, len(labelled.labels), _BATCH):
                images = normalise(labelled.pixels[start : start + _BATCH].to(device))
                guesses = score(images).argmax(dim=1).cpu()
                right += int((guesses == labelled.labels[start : start + _BATCH]).sum())
        return right / len(labelled.labels)
    finally:
        model.train(training)
