"""Zero-shot classification: the text tower makes a linear classifier of the class names (section 3.1).

The weights of a class are the mean of its prompts' unit embeddings, made a unit vector again. They depend on
no image: computed once, they are kept in a file and predict like any linear classifier.
"""

import hashlib
import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load, save

from pipeline import storage
from train.evaluation.models import Encoder
from train.evaluation.texts import class_embeddings

Floats = npt.NDArray[np.float32]


def classifier(
    encoder: Encoder, labels: Sequence[str], spellings: Sequence[tuple[str, ...]], templates: Sequence[str],
    path: str,
) -> Floats:  # fmt: skip
    """Return weights float32 [classes, E], read from `path` if they were made of the same, else saved there.

    The file is safetensors: `weights`, and labels, names and prompts in its metadata; of a class with several
    names all, joined by " | ".
    """
    names = [" | ".join(one) for one in spellings]
    made_from = [encoder.fingerprint, encoder.precision, list(labels), list(names), list(templates)]
    key = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()
    kept = _read(path, key)
    if kept is not None:
        return kept
    with encoder.autocast():
        found = class_embeddings(encoder.model, encoder.tokenizer, spellings, templates, encoder.device)
    weights: Floats = found.float().cpu().numpy()
    metadata = {"key": key, "model": encoder.name, "labels": json.dumps(list(labels)),
                "names": json.dumps(list(names)), "templates": json.dumps(list(templates))}  # fmt: skip
    storage.write_bytes(path, save({"weights": weights}, metadata))
    return weights


def _read(path: str, key: str) -> Floats | None:
    if not storage.exists(path):
        return None
    data = storage.read_bytes(path)
    length = int.from_bytes(data[:8], "little")
    if json.loads(data[8 : 8 + length]).get("__metadata__", {}).get("key") != key:
        return None
    return load(data)["weights"]


def logits(embeddings: Floats, weights: Floats, scale: float) -> Floats:
    """Return [n, classes]: cosines times the model's scale."""
    return scale * (embeddings @ weights.T)
