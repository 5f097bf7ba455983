"""Take any encoder as a detector: an ONNX or TorchScript file, with a TOML of a few lines beside it.

SSCD (Pizzi et al. 2022), a DINO or a company's own drops in. NAME.onnx, or NAME.pt as `torch.jit.save` writes
it, is described by NAME.toml:

    side = 288                          # pictures are squeezed to squares of this side
    mean = [0.485, 0.456, 0.406]        # of red, green and blue from 0 to 1; left out: 0
    deviation = [0.229, 0.224, 0.225]   # left out: 1
    similarity = "cosine"               # or "signs", where only the signs of the numbers count
    views = "whole"                     # or "all": evaluation images are shown from all sides

A file from elsewhere is not trusted. No pickle is read: ONNX is a graph, and a TorchScript archive keeps its
constants in a form that torch reads without Python. But a TorchScript file is a program: it can call every
operator of torch, among them those that read, map and write files, as soon as it is loaded; either kind can
loop, crash or take all memory. So it runs in a child process that opens no file and no socket once it has the
model, has bounded memory and is killed when it is slow (`pipeline.images.child`). Its answers are checked
like any other input.
"""

import hashlib
import importlib.util
import math
import tomllib
from dataclasses import dataclass, fields
from pathlib import PurePosixPath
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from pipeline import storage
from pipeline.data.views import VIEWS, View
from pipeline.images.child import Child, ChildFailedError

F32 = npt.NDArray[np.float32]

_RUNTIMES: Final = {
    ".onnx": ("onnxruntime", "dedup.detector.onnx_child:answer", "openwit[onnx]"),
    ".pt": ("torch", "dedup.detector.torchscript_child:answer", "openwit[train]"),
    ".ts": ("torch", "dedup.detector.torchscript_child:answer", "openwit[train]"),
    ".torchscript": ("torch", "dedup.detector.torchscript_child:answer", "openwit[train]"),
}
_LARGEST: Final = 2 << 30  # bytes of a model
_MOST_SIDE: Final = 1024
_MOST_DIMS: Final = 1 << 14
_PIXELS: Final = 1 << 21  # of a request: 25 squares of 288, 8 MiB
_SECONDS: Final = 120.0  # of a request; SSCD takes 0.1 for a picture
_MEMORY: Final = 3 << 30  # beside the model
_CAUSES: Final = {
    "decode_timeout": "it took too long over a few pictures",
    "decode_memory": "it took too much memory",
    "decode_crash": "the process that ran it died",
}


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """The contents of the TOML beside an encoder."""

    side: int
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    deviation: tuple[float, ...] = (1.0, 1.0, 1.0)
    similarity: Literal["cosine", "signs"] = "cosine"
    views: Literal["whole", "all"] = "whole"

    def __post_init__(self) -> None:
        """Raise ValueError for options that contradict each other."""
        if type(self.side) is not int or not 8 <= self.side <= _MOST_SIDE:
            raise ValueError(f"side must be a whole number from 8 to {_MOST_SIDE:,}, not {self.side!r}")
        for name in ("mean", "deviation"):
            values = getattr(self, name)
            if len(values) != 3 or not all(type(v) in (int, float) and math.isfinite(v) for v in values):
                raise ValueError(f"{name} must be three numbers, of red, green and blue, not {list(values)}")
        if min(self.deviation) <= 0:
            raise ValueError(f"deviation must be above 0, not {list(self.deviation)}")
        for name, words in (("similarity", ("cosine", "signs")), ("views", ("whole", "all"))):
            if getattr(self, name) not in words:
                raise ValueError(f"{name} must be {' or '.join(words)}, not {getattr(self, name)!r}")


def is_encoder(path: str) -> bool:
    """Return whether a file is, by its name, an encoder from elsewhere and not a detector of our own."""
    return PurePosixPath(path).suffix.lower() in _RUNTIMES


def settings(path: str) -> EncoderSettings:
    """Return the settings in the TOML beside an encoder; ValueError, in one line, if it cannot be used."""
    package, _, extra = _RUNTIMES[PurePosixPath(path).suffix.lower()]
    if importlib.util.find_spec(package) is None:
        raise ValueError(f"--detector {path} needs {package}: pip install '{extra}'")
    beside = _toml(path)
    if not storage.exists(beside):
        raise ValueError(
            f"--detector {path}: there is no {beside}; write one that says side = 288, or whatever side its "
            "pictures have, and mean and deviation if it wants them"
        )
    known = [field.name for field in fields(EncoderSettings)]
    try:
        given = tomllib.loads(storage.read_bytes(beside).decode())
        if unknown := sorted(set(given) - set(known)):
            raise ValueError(f"{unknown[0]!r} is none of {', '.join(known)}")
        if "side" not in given:
            raise ValueError("side is missing: the side, in pixels, of the squares that the encoder takes")
        lists: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in given.items()}
        return EncoderSettings(**lists)
    except (ValueError, TypeError) as error:  # of bytes that are no text, no TOML, or no settings
        raise ValueError(f"{beside}: {' '.join(str(error).split())}") from error


def _toml(path: str) -> str:
    return path[: -len(PurePosixPath(path).suffix)] + ".toml"


class EncoderDetector:
    """An encoder in a child process: a `LearnedDetector` without a training mean or a background."""

    def __init__(self, path: str) -> None:
        """Start the child and load the model; ValueError, in one line, if that fails."""
        self.path, self.settings = path, settings(path)
        model = storage.read_bytes(path)
        if len(model) > _LARGEST:
            raise ValueError(f"--detector {path}: {len(model):,} bytes are more than {_LARGEST:,}")
        made_from = hashlib.sha256(model + repr(self.settings).encode())
        self.name, self.side = made_from.hexdigest()[:16], self.settings.side
        self.views: tuple[View, ...] = VIEWS if self.settings.views == "all" else VIEWS[:1]
        _, function, _ = _RUNTIMES[PurePosixPath(path).suffix.lower()]
        self._child = Child(function, self.settings, memory_bytes=_MEMORY + 6 * len(model), seconds=_SECONDS)
        self._ask(b"M" + model)
        grey = np.full((1, self.side, self.side, 3), 128, np.uint8)
        grey[:, ::2] = 90
        self.dims = self._vectors(grey).shape[1]

    def embed(self, thumbnails: npt.NDArray[np.uint8]) -> F32:
        """Return unit vectors: uint8 [n, side, side, 3] to float32 [n, dims]; ValueError if it fails."""
        step = max(1, _PIXELS // (self.side * self.side))
        parts = [np.zeros((0, self.dims), np.float32)]
        parts += [self._vectors(thumbnails[n : n + step]) for n in range(0, len(thumbnails), step)]
        vectors = np.concatenate(parts)
        if self.settings.similarity == "signs":
            vectors = np.where(vectors > 0, np.float32(1), np.float32(-1))
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.maximum(length, 1e-6), np.float32)

    def biases(self, vectors: F32) -> F32:
        """Return zeros, [n, dims] to [n]: the common part of its training images is not known."""
        return np.zeros(len(vectors), np.float32)

    def close(self) -> None:
        """End the child."""
        self._child.close()

    def _vectors(self, thumbnails: npt.NDArray[np.uint8]) -> F32:
        answer, data = self._ask(b"E" + np.ascontiguousarray(thumbnails).tobytes())
        dims = answer.get("dims")
        if type(dims) is not int or not 0 < dims <= _MOST_DIMS or len(data) != 4 * dims * len(thumbnails):
            raise self._failed(f"its result is not of 1 to {_MOST_DIMS:,} numbers per picture")
        vectors = np.frombuffer(data, "<f4").reshape(len(thumbnails), dims)
        if not np.isfinite(vectors).all():
            raise self._failed("its result has numbers that are not finite")
        if getattr(self, "dims", dims) != dims:
            raise self._failed(f"its result had {self.dims} numbers per picture, and now has {dims}")
        return np.asarray(vectors, np.float32)

    def _ask(self, request: bytes) -> tuple[dict[str, Any], bytes]:
        try:
            return self._child.ask(request)
        except ChildFailedError as failure:
            cause = _CAUSES.get(failure.reason, "it cannot be used")
            raise self._failed(f"{cause} ({' '.join(failure.detail.split())})") from failure

    def _failed(self, cause: str) -> ValueError:
        self._child.close()
        return ValueError(f"--detector {self.path}: {cause}")
