"""A model as an encoder of mteb, for the image benchmark MIEB (Xiao et al. 2025, arXiv 2504.10471)."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mteb.models.model_meta import ModelMeta
from torch import Tensor

if TYPE_CHECKING:
    from train.encode import Model


class MtebEncoder:
    """Encode mteb's batches: pictures, texts, or, where a row has both, the sum of their unit vectors."""

    def __init__(self, model: "Model") -> None:
        self._model = model
        sizes = {"embed_dim": model.dims, "max_tokens": float(model.context_length)}
        unknown = dict.fromkeys(
            ("release_date", "n_parameters", "memory_usage_mb", "license", "public_training_code",
             "public_training_data", "training_datasets", "languages", "open_weights")
        )  # fmt: skip
        self._meta = ModelMeta(
            loader=None, name=f"openwit/{model.name}", revision=model.fingerprint[:12], framework=["PyTorch"],
            similarity_fn_name="cosine", use_instructions=False, modalities=["image", "text"],
            **sizes, **unknown,
        )  # fmt: skip

    @property
    def mteb_model_meta(self) -> Any:
        """Return who the model is."""
        return self._meta

    def encode(self, inputs: Any, **kwargs: Any) -> np.ndarray:
        """Return float32 [rows, E] of a DataLoader of mteb's batches, dicts of lists `image` and `text`."""
        parts = []
        for batch in inputs:
            found = [
                encode(list(batch[name]))
                for name, encode in (("image", self._model.encode_image), ("text", self._model.encode_text))
                if name in batch
            ]
            if not found:
                raise ValueError(f"a batch of mteb has neither image nor text, but {', '.join(batch)}")
            parts.append(np.sum(found, axis=0))
        return np.concatenate(parts) if parts else np.zeros((0, self._model.dims), np.float32)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Return cosines [n, m] of [n, E] and [m, E]."""
        return _unit(embeddings1) @ _unit(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Return cosines [n] of [n, E] and [n, E]."""
        return (_unit(embeddings1) * _unit(embeddings2)).sum(dim=-1)


def _unit(vectors: Any) -> Tensor:
    return torch.nn.functional.normalize(torch.as_tensor(vectors, dtype=torch.float32), dim=-1)
