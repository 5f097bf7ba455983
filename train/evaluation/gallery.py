"""Predictions to look at: examples drawn at random, never picked, with the likeliest classes (figure 21)."""

import base64
import io
from typing import Any, Final

import numpy as np
from PIL import Image

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
