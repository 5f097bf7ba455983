"""Answers to look at, drawn at random: classes of pictures (figure 21), and pictures of captions."""

import base64
import io
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from train.evaluation import sets
from train.evaluation.classes import Classes
from train.evaluation.features import Features
from train.evaluation.metrics import Bools, Scores, softmax, top
from train.image_transforms import BadImage, decode

_SIDE: Final = 160
_TOP: Final = 5


def draw(
    path: str, features: Features, logits: Scores, known: Classes, truth: Bools, count: int, seed: int
) -> list[dict[str, Any]]:
    """Return up to `count` of n examples in a random order that the seed decides: picture, label, classes.

    logits: [n, C]; truth: bool [n, C].
    """
    rows = np.random.default_rng([seed, len(features)]).permutation(len(features))[:count]
    files = sets.files_of_examples(path, [features.example_ids[row] for row in rows])
    chances = softmax(logits[rows])
    cards = []
    for row, chance, best in zip(rows, chances, top(chances, min(_TOP, chances.shape[1])), strict=True):
        names = [known.names[one] for one in np.flatnonzero(truth[row])]
        cards.append(
            {
                "id": features.example_ids[row],
                "picture": thumbnail(files.get(features.example_ids[row], b"")),
                "label": ", ".join(names),
                "right": bool(truth[row, best[0]]) if names else None,
                "top": [(known.names[one], float(chance[one]), bool(truth[row, one])) for one in best],
            }
        )
    return cards


def draw_captions(
    path: str, example_ids: list[str], captions: list[str], images: Tensor, texts: Tensor, owner: Tensor,
    count: int, seed: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """Return up to `count` of m captions, drawn by the seed, with the most similar and its own of n pictures.

    images [n, E] and texts [m, E]: unit vectors; owner: int64 [m], the picture of each caption.
    """
    drawn = np.random.default_rng([seed, len(captions)]).permutation(len(captions))[:count]
    similar = texts[drawn] @ images.T
    best = similar.topk(min(_TOP, len(example_ids)), dim=1).indices
    own = owner[drawn]
    rank = (similar >= similar.gather(1, own[:, None])).sum(dim=1)  # a tie is no success, as in `retrieval`
    shown = {example_ids[one] for one in torch.cat([best.flatten(), own]).tolist()}
    files = sets.files_of_examples(path, sorted(shown))
    small = {one: thumbnail(files.get(one, b"")) for one in shown}
    return [
        {
            "caption": captions[caption],
            "rank": int(rank[row]),
            "pictures": [
                (example_ids[one], small[example_ids[one]], float(similar[row, one]), one == int(own[row]))
                for one in dict.fromkeys([*best[row].tolist(), int(own[row])])
            ],
        }
        for row, caption in enumerate(drawn)
    ]


def thumbnail(data: bytes) -> str:
    """Return a small JPEG in base64, empty for anything that is not a picture."""
    try:
        image = Image.fromarray(decode(data, _SIDE))
    except BadImage:
        return ""
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode()
