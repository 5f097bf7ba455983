"""Run a TorchScript encoder, in the child process of `dedup.detector.encoder`."""

import io
import zipfile
from typing import Any

import numpy as np
import torch

from dedup.detector.encoder import EncoderSettings
from dedup.detector.encoder_answer import EncoderAnswer, Pixels, answer_of, no_more_files, normalised

_loaded: dict[str, Any] = {}


def answer(data: bytes, settings: EncoderSettings) -> EncoderAnswer:
    """Load the model that follows b"M", or describe the pictures that follow b"E"."""
    if data[:1] == b"M":
        _load(data[1:])
        return EncoderAnswer()
    return answer_of(data[1:], settings, _described)


def _load(model: bytes) -> None:
    torch.set_num_threads(1)
    # Facts about the processor are read by torch from files, at its first products.
    torch.nn.functional.conv2d(torch.zeros(1, 3, 8, 8), torch.zeros(4, 3, 3, 3)).flatten(1) @ torch.ones(144)
    try:
        names = zipfile.ZipFile(io.BytesIO(model)).namelist()
    except zipfile.BadZipFile as error:
        raise ValueError(f"it is no TorchScript archive ({error})") from error
    if not any("/code/" in name for name in names):
        raise ValueError(
            "it holds no program, as a pickled checkpoint does; torch.jit.save writes TorchScript"
        )
    no_more_files()
    load: Any = torch.jit.load  # it has no annotations
    _loaded["module"] = load(io.BytesIO(model), map_location="cpu").eval()


@torch.inference_mode()
def _described(pixels: Pixels, settings: EncoderSettings) -> np.ndarray[Any, Any]:
    given = torch.from_numpy(np.ascontiguousarray(normalised(pixels, settings).transpose(0, 3, 1, 2)))
    try:
        found = _loaded["module"](given)
    except RuntimeError as error:  # after a page of its program
        raise ValueError(str(error).strip().splitlines()[-1]) from error
    if not isinstance(found, torch.Tensor):
        raise ValueError(f"it gives a {type(found).__name__} instead of a tensor")
    return np.asarray(found.float().numpy())
