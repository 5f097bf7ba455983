"""Checkpoints: written whole or not at all, without stopping training, read without unpickling.

OUT/checkpoints/latest                 the name of the newest complete checkpoint
OUT/checkpoints/step-00001000/         model.safetensors, optimizer.safetensors, for CLIP bpe_vocab.txt.gz,
                                       and state.json, written last
"""

import json
import logging
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from pipeline import storage
from train.architectures import Architecture
from train.model import CLIP
from train.tokenizer import Tokenizer

log = logging.getLogger(__name__)

VOCABULARY = "bpe_vocab.txt.gz"

A = TypeVar("A")


@dataclass(frozen=True, kw_only=True)
class State(Generic[A]):
    """Hold what a run needs to go on, beside weights and moments."""

    step: int
    model: str
    architecture: A
    """The model's sizes, a dataclass of what JSON can hold."""
    seconds: float
    """Time trained so far."""
    counts: dict[str, int]
    """Bad samples by reason so far."""
    config: dict[str, Any]
    """The run's effective configuration."""


class Loaded(NamedTuple):
    """Hold a model ready to use, its tokenizer, and the state it was saved in."""

    model: CLIP
    tokenizer: Tokenizer
    state: State[Architecture]


def _moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Name the optimiser's tensors after their parameters."""
    return {
        f"{key}.{name}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


class Writer:
    """Write checkpoints of one run; the step waits only for a copy in main memory."""

    def __init__(self, out: str, files: dict[str, bytes], keep: int) -> None:
        """Prepare to write below `out`, and with every checkpoint these small files."""
        self.folder = storage.join(out, "checkpoints")
        self.files, self.keep = files, keep
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, state: State[Any]) -> None:
        """Copy everything and write it in the background; waits for the checkpoint before."""
        self.wait()
        tensors = [_copies(model.state_dict()), _copies(_moments(model, optimizer))]
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._thread = threading.Thread(target=self._write, args=(*tensors, state), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when nothing is being written; raises what the writing raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _write(self, weights: dict[str, Tensor], moments: dict[str, Tensor], state: State[Any]) -> None:
        try:
            name = f"step-{state.step:08d}"
            folder = storage.join(self.folder, name)
            for file, data in self.files.items():
                storage.write_bytes(storage.join(folder, file), data)
            storage.write_bytes(storage.join(folder, "model.safetensors"), save(weights))
            storage.write_bytes(storage.join(folder, "optimizer.safetensors"), save(moments))
            text = json.dumps(asdict(state), indent=1)
            storage.write_bytes(storage.join(folder, "state.json"), text.encode())
            storage.write_bytes(storage.join(self.folder, "latest"), name.encode())
            for old in complete(self.folder)[: -self.keep]:
                storage.remove_tree(storage.join(self.folder, old))
        except BaseException as error:  # noqa: BLE001 - handed to the training thread by wait()
            self._error = error


def _copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy to main memory; from a GPU through pinned memory, without waiting for each."""
    copies = {}
    for name, tensor in tensors.items():
        value = tensor.detach()
        copies[name] = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
        copies[name].copy_(value, non_blocking=True)
    return copies


def complete(folder: str) -> list[str]:
    """Return the names of the complete checkpoints in a `checkpoints` folder, oldest first."""
    return [path.split("/")[-2] for path in storage.glob(storage.join(folder, "step-*", "state.json"))]


def find(path: str) -> str:
    """Return the checkpoint's folder that a run, its `checkpoints` or itself names; ValueError if none."""
    for folder in (storage.join(path, "checkpoints"), path):
        latest = storage.join(folder, "latest")
        if storage.exists(latest):
            return storage.join(folder, storage.read_bytes(latest).decode().strip())
    if storage.exists(storage.join(path, "state.json")):
        return path
    raise ValueError(f"{path}: no checkpoint there; give a training run's folder or one of its checkpoints")


def read_values(folder: str) -> dict[str, Any]:
    """Return the fields of the state saved in a checkpoint."""
    values: dict[str, Any] = json.loads(storage.read_bytes(storage.join(folder, "state.json")))
    return values


def read_state(folder: str) -> State[Architecture]:
    """Return the state saved in a checkpoint of CLIP."""
    values = read_values(folder)
    values["architecture"] = architecture_from(values["architecture"])
    return State(**values)


def architecture_from(values: dict[str, Any]) -> Architecture:
    """Rebuild an architecture from JSON, where tuples became lists."""
    layers: int | Sequence[int] = values["vision_layers"]
    return Architecture(**{**values, "vision_layers": layers if isinstance(layers, int) else tuple(layers)})


def read_tensors(folder: str, name: str) -> dict[str, Tensor]:
    """Return the tensors of one file of a checkpoint."""
    return load(storage.read_bytes(storage.join(folder, name)))


def load_model(path: str, device: torch.device | str = "cpu") -> Loaded:
    """Load a run's newest checkpoint, or the one at `path`, in evaluation mode."""
    folder = find(path)
    state = read_state(folder)
    model = CLIP(state.architecture)
    model.load_state_dict(read_tensors(folder, "model.safetensors"))
    return Loaded(model.to(device).eval(), read_tokenizer(folder), state)


def vocabulary_file(tokenizer: Tokenizer) -> dict[str, bytes]:
    """Return the file that keeps a tokenizer beside a checkpoint, by name."""
    with tempfile.TemporaryDirectory() as local:
        tokenizer.save(Path(local) / VOCABULARY)
        return {VOCABULARY: (Path(local) / VOCABULARY).read_bytes()}


def read_tokenizer(folder: str) -> Tokenizer:
    """Return the tokenizer kept beside a checkpoint."""
    with tempfile.TemporaryDirectory() as local:
        copy = Path(local) / VOCABULARY
        copy.write_bytes(storage.read_bytes(storage.join(folder, VOCABULARY)))
        return Tokenizer.load(copy)


def restore(folder: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put a checkpoint's weights and moments into a model and its optimiser, exactly as they were."""
    model.load_state_dict(read_tensors(folder, "model.safetensors"))
    moments = read_tensors(folder, "optimizer.safetensors")
    for name, parameter in model.named_parameters():
        # The fused kernel walks memory: moments must lie as their parameter does, channels last or not.
        state = {key: torch.empty_like(parameter.detach()) for key in ("exp_avg", "exp_avg_sq")}
        for key, tensor in state.items():
            tensor.copy_(moments[f"{key}.{name}"])
        state["step"] = moments[f"step.{name}"].to(parameter.device)
        optimizer.state[parameter] = state
