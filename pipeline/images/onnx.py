"""Run a network in ONNX that anybody may have made, in a child process with bounded time and memory.

A file in ONNX is a graph, not a program, but its reader is C++ and the file chooses the operations it asks
for. So it runs where pictures are decoded (`child`): killable, without files to write. Weights outside the
file are not read. One thread does the arithmetic: the same picture has the same score.
"""

import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.images.child import Child, ChildFailedError

Floats = npt.NDArray[np.float32]

_SECONDS: Final = 300.0
_MEMORY: Final = 4 << 30
_NOWHERE: Final = "/nonexistent"
_MOST_DIMENSIONS: Final = 8
_QUIET: Final = 4  # onnxruntime's level of fatal errors


@dataclass(frozen=True, kw_only=True)
class OnnxFile:
    """Name a network."""

    path: str


class Answer(NamedTuple):
    """Hold the output of a network; fields only."""

    shape: list[int]
    values: bytes
    """float32"""


class OnnxNetwork:
    """Ask a network of one input and one output."""

    def __init__(self, path: str, function: str = "pipeline.images.onnx:run") -> None:
        """Take a local file, which is read by the first question, and the function that the child runs."""
        self._path = path
        self._child = Child(function, OnnxFile(path=path), memory_bytes=_MEMORY, seconds=_SECONDS)

    def __call__(self, batch: Floats) -> Floats:
        """Return the first output, float32; ValueError if the network does not take the batch."""
        head = json.dumps(batch.shape).encode()
        request = len(head).to_bytes(4, "big") + head + np.ascontiguousarray(batch, np.float32).tobytes()
        try:
            fields, values = self._child.ask(request)
        except ChildFailedError as failure:
            raise ValueError(f"{self._path}: the network gives no answer: {failure.detail}") from None
        shape = fields.get("shape")
        if (
            not isinstance(shape, list)
            or len(shape) > _MOST_DIMENSIONS
            or not all(type(one) is int and one >= 0 for one in shape)
            or len(values) != 4 * math.prod(shape)
        ):
            raise ValueError(f"{self._path}: an answer that is no array")
        return np.frombuffer(values, np.float32).reshape(shape)

    def close(self) -> None:
        """End the child."""
        self._child.close()


def run(data: bytes, file: OnnxFile) -> Answer:
    """Return the answer to a request: the function that the child runs."""
    batch, network = asked(data), _session(file.path)
    [found, *_] = network.run(None, {network.get_inputs()[0].name: batch})
    values = np.ascontiguousarray(found, np.float32)
    return Answer(list(values.shape), values.tobytes())


def asked(data: bytes) -> Floats:
    """Return the batch of a request."""
    size = int.from_bytes(data[:4], "big")
    shape = json.loads(data[4 : 4 + size])
    return np.frombuffer(data, np.float32, offset=4 + size).reshape(shape)


@functools.lru_cache(maxsize=1)
def _session(path: str) -> Any:
    return session(Path(path).read_bytes())


def session(model: bytes) -> Any:
    """Return a session of onnxruntime: one thread, silent, on the CPU, and no weights of other files."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(_QUIET)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = _QUIET
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", _NOWHERE)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
