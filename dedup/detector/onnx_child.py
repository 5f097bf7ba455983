"""Run an ONNX encoder, in the child process of `dedup.detector.encoder`."""

from typing import Any, Final

import numpy as np

from dedup.detector.encoder import EncoderSettings
from dedup.detector.encoder_answer import EncoderAnswer, Pixels, answer_of, no_more_files, normalised
from pipeline.images import onnx

_session: dict[str, Any] = {}
_TYPES: Final = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(float16)": np.float16}


def answer(data: bytes, settings: EncoderSettings) -> EncoderAnswer:
    """Load the model that follows b"M", or describe the pictures that follow b"E"."""
    if data[:1] == b"M":
        _load(data[1:])
        return EncoderAnswer()
    return answer_of(data[1:], settings, _described)


def _load(model: bytes) -> None:
    import onnxruntime  # noqa: F401 - before no more files can be opened

    no_more_files()
    session = onnx.session(model)
    if len(session.get_inputs()) != 1:
        raise ValueError(f"it takes {len(session.get_inputs())} inputs instead of one, pictures")
    [taken] = session.get_inputs()
    if taken.type not in _TYPES or len(taken.shape) != 4 or 3 not in (taken.shape[1], taken.shape[3]):
        raise ValueError(f"it takes {taken.type} of {taken.shape} instead of pictures")
    _session.update(session=session, taken=taken)


def _described(pixels: Pixels, settings: EncoderSettings) -> np.ndarray[Any, Any]:
    session, taken = _session["session"], _session["taken"]
    first = taken.shape[1] == 3
    sides = [side for side in (taken.shape[2:] if first else taken.shape[1:3]) if isinstance(side, int)]
    if any(side != settings.side for side in sides):
        raise ValueError(f"it takes sides of {sides}, but its TOML says side = {settings.side}")
    kind = _TYPES[taken.type]
    given = pixels if kind is np.uint8 else normalised(pixels, settings).astype(kind)
    if first:
        given = np.ascontiguousarray(given.transpose(0, 3, 1, 2))
    batch = taken.shape[0] if isinstance(taken.shape[0], int) else len(given)
    parts = []
    for start in range(0, len(given), batch):
        part = given[start : start + batch]
        missing = np.repeat(part[-1:], batch - len(part), axis=0)  # of a model with a batch of fixed size
        found = session.run(None, {taken.name: np.concatenate([part, missing])})[0]
        parts.append(np.asarray(found)[: len(part)])
    return np.concatenate(parts)
