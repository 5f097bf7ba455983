"""The work of both kinds of encoder in their child process: pictures in, vectors out, and no file opened."""

import resource
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dedup.detector.encoder import EncoderSettings

Pixels = npt.NDArray[np.uint8]


class EncoderAnswer(NamedTuple):
    """The child's answer; fields only."""

    vectors: bytes = b""
    """float32 [n, dims], little-endian."""
    dims: int = 0


def no_more_files() -> None:
    """Let this process open nothing from here on, neither files nor sockets; its pipes stay."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))


def normalised(pixels: Pixels, settings: EncoderSettings) -> npt.NDArray[np.float32]:
    """Return pictures as the network wants them: uint8 [n, side, side, 3] to float32."""
    mean, deviation = (np.array(one, np.float32) for one in (settings.mean, settings.deviation))
    return np.asarray((pixels.astype(np.float32) / 255 - mean) / deviation, np.float32)


def answer_of(
    data: bytes,
    settings: EncoderSettings,
    described: Callable[[Pixels, EncoderSettings], np.ndarray[Any, Any]],
) -> EncoderAnswer:
    """Return the vectors of pictures, bytes of uint8 [n, side, side, 3]; ValueError for another result."""
    pixels = np.frombuffer(data, np.uint8).reshape(-1, settings.side, settings.side, 3)
    found = described(pixels, settings)
    if found.ndim < 2 or len(found) != len(pixels):
        raise ValueError(
            f"its result is of {list(found.shape)} for {len(pixels)} pictures, not a row for each"
        )
    vectors = np.ascontiguousarray(found.reshape(len(found), -1), "<f4")
    return EncoderAnswer(vectors.tobytes(), vectors.shape[1])
