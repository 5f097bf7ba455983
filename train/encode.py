"""A model for people's own code: pictures and texts in, unit vectors out."""

import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pipeline import storage
from pipeline.data.evalsets import Example
from pipeline.images.decode import BadImage, Pixels
from train.evaluation import models, sets
from train.evaluation.texts import class_embeddings, encode_texts
from train.image_transforms import normalise

Floats: TypeAlias = NDArray[np.float32]
Picture: TypeAlias = bytes | str | os.PathLike[str] | Image.Image | NDArray[np.uint8]
"""The bytes of a file, a path, a Pillow image, or uint8 [H, W, 3]."""
TEMPLATES: Final = ("a photo of a {}.",)
_WORKERS: Final = 2
_BATCH: Final = 64


class Model:
    """A CLIP model that is ready to encode; made by `openwit.load_model`.

    >>> model = openwit.load_model("model", device="cpu")
    >>> pictures = [sample.image for sample in openwit.open("run").samples()]
    >>> model.encode_image(pictures[:4]).shape
    (4, 64)
    >>> probabilities = model.zero_shot(pictures[:4], ["dog", "cat", "boat"])
    >>> probabilities.shape, bool(abs(probabilities.sum(axis=1) - 1).max() < 1e-5)
    ((4, 3), True)
    """

    def __init__(self, encoder: models.Encoder) -> None:
        """Take a loaded encoder."""
        self._encoder = encoder

    @property
    def name(self) -> str:
        """Return the model's name: architecture and step of a training run, else the file's or folder's.

        >>> openwit.load_model("model", device="cpu").name
        'model'
        """
        return self._encoder.name

    @property
    def image_size(self) -> int:
        """Return the side of the square that images are resized and cut to, in pixels.

        >>> openwit.load_model("model", device="cpu").image_size
        32
        """
        return self._encoder.size

    @property
    def context_length(self) -> int:
        """Return the most tokens of a text.

        >>> openwit.load_model("model", device="cpu").context_length
        77
        """
        return self._encoder.model.architecture.context_length

    @property
    def fingerprint(self) -> str:
        """Return a digest of weights and vocabulary, hex: equal for equal models.

        >>> model = openwit.load_model("model", device="cpu")
        >>> model.fingerprint == openwit.load_model("model", device="cpu").fingerprint
        True
        """
        return self._encoder.fingerprint

    @property
    def dims(self) -> int:
        """Return the length of the vectors.

        >>> openwit.load_model("model", device="cpu").dims
        64
        """
        return self._encoder.model.architecture.embed_dim

    def encode_image(self, images: Sequence[Picture]) -> Floats:
        """Return unit vectors float32 [images, E]; ValueError names the first that cannot be decoded.

        images: each the bytes of a file, a path, a Pillow image or uint8 [H, W, 3] of RGB. They are resized
        and cut as in `openwit eval`: the shorter side to `image_size`, bicubic, then the centre.

        >>> model = openwit.load_model("model", device="cpu")
        >>> model.encode_image(["copies/scene/0.jpg"]).shape
        (1, 64)
        """
        found, batch = [np.zeros((0, self.dims), np.float32)], list[Pixels]()
        with sets.decoders(self.image_size, min(_WORKERS, max(1, len(images)))) as decoders:
            for example, pixels in sets.pictures(_examples(images), decoders):
                if isinstance(pixels, BadImage):
                    raise ValueError(f"image {example.example_id} cannot be decoded: {pixels}")
                batch.append(pixels)
                if len(batch) == _BATCH:
                    found.append(self._encoded(batch))
                    batch = []
        return np.concatenate([*found, *([self._encoded(batch)] if batch else [])])

    @torch.no_grad()
    def _encoded(self, batch: list[Pixels]) -> Floats:
        images = normalise(torch.from_numpy(np.stack(batch)).to(self._encoder.device))
        with self._encoder.autocast():
            vectors: Floats = self._encoder.encode(images)[1].cpu().numpy()
        return vectors

    def encode_text(self, texts: Sequence[str]) -> Floats:
        """Return unit vectors float32 [texts, E]; a text longer than the model's context is cut.

        >>> model = openwit.load_model("model", device="cpu")
        >>> images = model.encode_image(["copies/scene/0.jpg", "copies/scene/1.jpg"])
        >>> (images @ model.encode_text(["a dog", "a boat", "a house"]).T).shape  # cosines
        (2, 3)
        """
        if isinstance(texts, str):
            raise ValueError("give a list of texts, not one text")
        if not texts:
            return np.zeros((0, self.dims), np.float32)
        one = self._encoder
        vectors: Floats = encode_texts(one.model, one.tokenizer, texts, one.device).float().cpu().numpy()
        return vectors

    def zero_shot(
        self, images: Sequence[Picture], classes: Sequence[str], templates: Sequence[str] = TEMPLATES
    ) -> Floats:
        """Return the probability of each class for each image, float32 [images, classes].

        classes: names as people say them; templates: sentences with {} for the name, whose mean is taken
        (section 3.1.4 of CLIP's paper).

        >>> model = openwit.load_model("model", device="cpu")
        >>> model.zero_shot(["copies/scene/0.jpg"], ["dog", "boat"], ["a photo of a {}."]).shape
        (1, 2)
        """
        one = self._encoder
        spelled = [(name,) for name in classes]
        weights = class_embeddings(one.model, one.tokenizer, spelled, templates, one.device)
        logits = one.scale * torch.from_numpy(self.encode_image(images)) @ weights.float().cpu().T
        probabilities: Floats = logits.softmax(dim=1).numpy()
        return probabilities

    def for_mteb(self) -> Any:
        """Return the model as an encoder of the package mteb, for MIEB's tasks; ImportError without it.

        >>> import mteb  # doctest: +SKIP
        >>> model = openwit.load_model("model")  # doctest: +SKIP
        >>> mteb.evaluate(model.for_mteb(), mteb.get_benchmark("MIEB(lite)").tasks)  # doctest: +SKIP
        """
        from train.mteb_encoder import MtebEncoder

        return MtebEncoder(self)


def load(path: str, device: str, vocab: str) -> Model:
    """Load a model as `openwit.load_model` says."""
    (source,) = models.sources((path,))
    return Model(models.ready(source, device=device, vocab=vocab))


def _examples(images: Sequence[Picture]) -> Iterator[Example]:
    if isinstance(images, bytes | str):
        raise ValueError("give a list of images, not one image")
    for number, image in enumerate(images):
        name = str(image) if isinstance(image, str | os.PathLike) else str(number)
        yield Example(name, _file(image))


def _file(image: Picture) -> bytes:
    """Return an image as a file, without loss: one way of decoding, bounded in time and memory, for all."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | os.PathLike):
        path = os.fspath(image)
        return storage.read_bytes(path) if isinstance(path, str) else Path(path).read_bytes()
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"an array must be uint8 [H, W, 3], not {image.dtype} {list(image.shape)}")
        image = Image.fromarray(image)
    file = io.BytesIO()
    plain = image if image.mode in ("RGB", "RGBA", "L", "P") else image.convert("RGB")
    plain.save(file, "PNG", compress_level=0)
    return file.getvalue()
