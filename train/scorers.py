"""Scores of pictures and captions from a CLIP: how well they fit, and how a head on its features judges.

They are asked for by name, `--scorer clip-score=CHECKPOINT`; pipeline.images.scoring has the names. Pictures
are prepared as for evaluation. On a CPU one thread does the arithmetic, as the processes beside it do theirs,
so a score does not depend on the number of processes.
"""

import contextlib
import functools
import io
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from pipeline import storage
from pipeline.images import text_areas
from pipeline.images.decode import Pixels
from pipeline.images.onnx import OnnxNetwork
from pipeline.images.pixels import square
from pipeline.images.scoring import fingerprint_of
from train import weights
from train.evaluation import models
from train.evaluation.texts import encode_texts
from train.image_transforms import normalise

Floats = npt.NDArray[np.float32]
_VERSION: Final = 1  # raised when the same weights give other scores
_LARGEST_HEAD: Final = 64 << 20  # bytes; LAION's largest has 4 million


class Towers:
    """Encode pictures and captions by one model; the pictures of the last batch are remembered."""

    def __init__(self, path: str) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model, self._tokenizer = models.read(path)
        self.fingerprint = models.fingerprint_of(model, self._tokenizer)
        self._model = model.to(self._device).eval()
        self._last: tuple[list[Pixels], Tensor] | None = None

    @property
    def width(self) -> int:
        """Return the width of the embeddings."""
        return self._model.architecture.embed_dim

    @property
    def side(self) -> int:
        """Return the side of the squares that pictures become, in pixels."""
        return self._model.architecture.image_size

    def images(self, images: list[Pixels]) -> Tensor:
        """Return unit vectors [n, E] of pictures, float32 on the CPU."""
        if self._last is None or self._last[0] is not images:
            side = self._model.architecture.image_size
            squares = np.stack([square(Image.fromarray(pixels), side) for pixels in images])
            with torch.no_grad(), _one_thread():
                found = self._model.encode_image(normalise(torch.from_numpy(squares).to(self._device)))
            self._last = images, found.float().cpu()
        return self._last[1]

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Return unit vectors [n, E] of captions, float32 on the CPU."""
        with _one_thread():
            return encode_texts(self._model, self._tokenizer, texts, self._device).cpu()


@functools.lru_cache(maxsize=2)
def _towers(path: str) -> Towers:
    """Return the model at a path; two scorers of the same model share it, and its encodings."""
    return Towers(path)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class ClipScore:
    """Score how well a picture and its captions fit: the cosine of the best caption, from -1 to 1.

    Schuhmann et al. 2021 (LAION-400M) keep 0.3 and more by OpenAI's ViT-B/32; Gadre et al. 2023 (DataComp)
    the best 30% by ViT-L/14. A sample without a caption has no score.
    """

    columns: tuple[str, ...] = ("score_clip",)

    def __init__(self, checkpoint: str) -> None:
        """Load the model of a training run, or weights of open_clip, OpenAI or Hugging Face."""
        self._towers = _towers(checkpoint)
        self.fingerprint = fingerprint_of(_VERSION, self._towers.fingerprint)

    def score(self, images: list[Pixels], captions: list[list[str]]) -> Mapping[str, Floats]:
        """Return the only column."""
        return {self.columns[0]: best_cosines(self._towers.images(images), captions, self._towers)}


def best_cosines(images: Tensor, captions: list[list[str]], towers: Towers) -> Floats:
    """Return for each picture the cosine of its best caption, float32 [n]; NaN where there is none."""
    flat = [text for texts in captions for text in texts]
    scores = np.full(len(captions), np.nan, np.float32)
    if not flat:
        return scores
    row = np.repeat(np.arange(len(captions)), [len(texts) for texts in captions])
    # Summed element by element: a product of matrices may add in another order for another batch.
    cosines = (images[torch.from_numpy(row)].double() * towers.texts(flat).double()).sum(dim=1)
    np.fmax.at(scores, row, cosines.float().numpy())
    return scores


class DataFilter(ClipScore):
    """Score quality by a CLIP that was trained for it: on few, good pairs, as a data filtering network is.

    Fang et al. 2023 (DFN, arXiv:2309.17425) keep the best 15% by a ViT-B/32 trained on pairs of high quality;
    it is the same cosine, of another model, in a column of its own.
    """

    columns = ("score_dfn",)


class MaskedClipScore:
    """Score how well a picture and its captions fit when the text in the picture is painted over.

    Maini et al. 2024 (T-MARS, arXiv:2307.03132): a CLIP gives pictures of their own caption high scores, from
    which nothing but reading is learned. `score_text_area` is the share of the picture that is text.
    """

    columns = ("score_clip_masked", "score_text_area")

    def __init__(self, checkpoint: str, detector: str) -> None:
        """Load the model; detector: of text, in ONNX, such as PaddleOCR's ch_PP-OCRv4_det_infer.onnx."""
        self._towers = _towers(checkpoint)
        self._detector = OnnxNetwork(detector)
        self.fingerprint = fingerprint_of(_VERSION, self._towers.fingerprint, storage.sha256_file(detector))

    def score(self, images: list[Pixels], captions: list[list[str]]) -> Mapping[str, Floats]:
        """Return both columns."""
        masks = [text_areas.mask_of(image, self._detector) for image in images]
        masked = [text_areas.painted_over(*one) for one in zip(images, masks, strict=True)]
        scores = best_cosines(self._towers.images(masked), captions, self._towers)
        return {
            self.columns[0]: scores,
            self.columns[1]: np.array([mask.mean() for mask in masks], np.float32),
        }


class Aesthetic:
    """Score how pleasing a picture is: a linear head on the CLIP embeddings that it was fitted on.

    Schuhmann et al. 2022 (LAION-5B) fitted such heads for ratings from 1 to 10; openwit ships none. A head is
    safetensors or npz: `weight` [1, E] and `bias` [1], or a sequence of such pairs under any names, as of
    improved-aesthetic-predictor, without any function between its layers.
    """

    columns = ("score_aesthetic",)

    def __init__(self, checkpoint: str, head: str) -> None:
        """Load the model and the head; ValueError unless they fit."""
        self._towers = _towers(checkpoint)
        self._head = read_head(head, self._towers.width)
        self.fingerprint = fingerprint_of(_VERSION, self._towers.fingerprint, storage.sha256_file(head))

    def score(self, images: list[Pixels], captions: list[list[str]]) -> Mapping[str, Floats]:
        """Return the only column."""
        embeddings = self._towers.images(images).numpy().astype(np.float64)
        return {self.columns[0]: (embeddings @ self._head.weight + self._head.bias).astype(np.float32)}


class Head(NamedTuple):
    """Hold a linear head: float64 [E], and its bias; fields only."""

    weight: npt.NDArray[np.float64]
    bias: float


def read_head(path: str, width: int) -> Head:
    """Return the product of a file's layers, none run; ValueError unless they lead from `width` to 1."""
    arrays = _arrays(path)
    matrices = [name for name, value in arrays.items() if value.ndim == 2]
    weight, bias = np.eye(width), np.zeros(width)
    for name in matrices:
        layer, shift = arrays[name], arrays.get(name.removesuffix("weight") + "bias")
        if layer.shape[1] != len(weight) or (shift is not None and shift.shape != layer.shape[:1]):
            raise ValueError(
                f"{path}: {name} has the shape {[*layer.shape]} and takes vectors of {layer.shape[1]}; "
                f"those before it have {len(weight)}"
            )
        weight, bias = layer @ weight, layer @ bias + (0 if shift is None else shift)
    if not matrices or len(bias) != 1:
        raise ValueError(f"{path} is no head: matrices that lead from {width} numbers to 1 are wanted")
    return Head(weight[0], float(bias[0]))


def _arrays(path: str) -> dict[str, npt.NDArray[np.float64]]:
    """Return the arrays of a file of weights by name, in the order of their numbers."""
    if not storage.exists(path):
        raise ValueError(f"{path}: no such file")
    if storage.file_info(path).size > _LARGEST_HEAD:
        raise ValueError(f"{path} has more than {_LARGEST_HEAD:,} bytes, which no head needs")
    if path.endswith(".npz"):
        found = _npz(path)
    else:
        found = {name: value.double().numpy() for name, value in weights.tensors(path).items()}
    order = sorted(found, key=lambda name: [int(p) if p.isdigit() else -1 for p in name.split(".")])
    return {name: found[name].astype(np.float64) for name in order}


def _npz(path: str) -> dict[str, npt.NDArray[np.float64]]:
    """Return the arrays of an npz, without its pickles; ValueError for anything that is none."""
    data = io.BytesIO(storage.read_bytes(path))
    try:
        with zipfile.ZipFile(data) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > _LARGEST_HEAD:
            raise ValueError(f"it unpacks to {unpacked:,} bytes")
        found = {name: value.astype(np.float64) for name, value in np.load(data, allow_pickle=False).items()}
    except (ValueError, TypeError, OSError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is no npz of arrays: {error}") from error
    for name, value in found.items():
        if not np.isfinite(value).all():
            raise ValueError(f"{path}: {name} holds numbers that are not finite (NaN or infinity)")
    return found
