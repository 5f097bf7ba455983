"""Checkpoints: written whole or not at all, without stopping training, read without unpickling.

OUT/checkpoints/latest                 the name of the newest complete checkpoint
OUT/checkpoints/step-00001000/         model.safetensors, optimizer.safetensors, with --ema
                                       average.safetensors, for CLIP bpe_vocab.txt.gz, and
                                       state.json, written last
"""

import json
import logging
import posixpath
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Generic, NamedTuple, TypeVar, get_args

import torch
from safetensors.torch import save
from torch import Tensor, nn

from pipeline import storage, untrusted
from pipeline.data.architectures import Activation, Architecture
from train import hf_tokenizer, sharding, weights
from train.hf_tokenizer import AnyTokenizer
from train.model import CLIP
from train.tokenizer import Tokenizer

log = logging.getLogger(__name__)

VOCABULARY = Tokenizer.file

CLIP_TOKENS: Final = 49_408
_NAME: Final = re.compile(r"step-[0-9]{1,20}")
_LONGEST_NAME: Final = 64
_LARGEST_STATE: Final = 4 << 20  # bytes; a configuration's are a few thousand
_STATE: Final[dict[str, Any]] = {
    "step": int, "model": str, "architecture": dict, "seconds": (int, float), "counts": dict, "config": dict,
}  # fmt: skip

A = TypeVar("A")
Tensors = dict[str, dict[str, Tensor]]
"""The tensors of a file, by its name without the suffix."""


@dataclass(frozen=True, kw_only=True)
class State(Generic[A]):
    """Hold the state that a run needs to continue, beside weights and moments."""

    step: int
    model: str
    architecture: A
    """The model's sizes, a dataclass of JSON's types."""
    seconds: float
    """Time trained so far."""
    counts: dict[str, int]
    """Bad samples by reason so far."""
    config: dict[str, Any]
    """The run's effective configuration."""


class NoCheckpoint(ValueError):  # noqa: N818
    """Say that no checkpoint of ours is at a path."""


class Loaded(NamedTuple):
    """Hold a model ready to use, its tokenizer, and the state it was saved in."""

    model: CLIP
    tokenizer: AnyTokenizer
    state: State[Architecture]


def moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
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

    def save(self, take: Callable[[], Tensors], state: State[Any]) -> None:
        """Write in the background the tensors that `take` copies; waits for the previous checkpoint."""
        self.wait()
        tensors = take()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._thread = threading.Thread(target=self._write, args=(tensors, state), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when nothing is being written; raises the exception of a failed write."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _write(self, tensors: Tensors, state: State[Any]) -> None:
        try:
            name = f"step-{state.step:08d}"
            folder = storage.join(self.folder, name)
            for file, data in self.files.items():
                storage.write_bytes(storage.join(folder, file), data)
            for file, own in tensors.items():
                storage.write_bytes(storage.join(folder, f"{file}.safetensors"), save(own))
            text = json.dumps(asdict(state), indent=1)
            storage.write_bytes(storage.join(folder, "state.json"), text.encode())
            storage.write_bytes(storage.join(self.folder, "latest"), name.encode())
            for old in complete(self.folder)[: -self.keep]:
                storage.remove_tree(storage.join(self.folder, old))
        except BaseException as error:  # noqa: BLE001 - handed to the training thread by wait()
            self._error = error


def copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy to main memory; from a GPU through pinned memory, without waiting for each.

    Tensors that are sharded over processes are made whole: then all of them must call this together.
    """
    copied = {}
    for name, tensor in tensors.items():
        value = sharding.whole(tensor.detach())
        copied[name] = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
        copied[name].copy_(value, non_blocking=True)
    return copied


def complete(folder: str) -> list[str]:
    """Return the names of the complete checkpoints in a `checkpoints` folder, oldest first."""
    names = [posixpath.basename(path) for path in storage.list_files(folder)]
    return [
        name for name in sorted(names)
        if _NAME.fullmatch(name) and storage.exists(storage.join(folder, name, "state.json"))
    ]  # fmt: skip


def find(path: str) -> str:
    """Return the checkpoint's folder that a run, its `checkpoints` or itself names; ValueError if none."""
    for folder in (storage.join(path, "checkpoints"), path):
        latest = storage.join(folder, "latest")
        if storage.exists(latest):
            with storage.open_input(latest) as file:
                name = file.read(_LONGEST_NAME).decode("utf-8", "replace").strip()
            if not _NAME.fullmatch(name):
                raise ValueError(f"{latest} names no checkpoint, but {name[:40]!r}")
            if not storage.exists(storage.join(folder, name, "state.json")):
                raise ValueError(f"{latest} names {name}, which is missing or incomplete")
            return storage.join(folder, name)
    if storage.exists(storage.join(path, "state.json")):
        return path
    raise NoCheckpoint(f"{path}: no checkpoint there; give a training run's folder or one of its checkpoints")


def is_own(path: str) -> bool:
    """Return whether a path holds a checkpoint of ours, however damaged, and not weights to import."""
    places = [storage.join(path, "checkpoints", "latest"), storage.join(path, "latest")]
    return any(storage.exists(place) for place in (*places, storage.join(path, "state.json")))


def read_values(folder: str) -> dict[str, Any]:
    """Return the fields of the state saved in a checkpoint; ValueError for anything else."""
    path = storage.join(folder, "state.json")
    values = untrusted.load_json(path, _LARGEST_STATE)
    for name, kind in _STATE.items():
        found = values.get(name) if isinstance(values, dict) else None
        if not isinstance(found, kind) or isinstance(found, bool):
            raise ValueError(f"{path} is not the state of a checkpoint: it has no usable {name!r}")
    if values["step"] < 0 or not all(isinstance(count, int) for count in values["counts"].values()):
        raise ValueError(f"{path} is not the state of a checkpoint: its step or counts are no numbers")
    return {name: values[name] for name in _STATE}


def read_state(folder: str) -> State[Architecture]:
    """Return the state saved in a checkpoint of CLIP; ValueError for anything else."""
    values = read_values(folder)
    try:
        values["architecture"] = architecture_from(values["architecture"])
    except (TypeError, KeyError, ValueError, ZeroDivisionError) as error:
        path = storage.join(folder, "state.json")
        raise ValueError(f"{path} does not hold the architecture of a CLIP: {error}") from error
    return State(**values)


def architecture_from(values: dict[str, Any]) -> Architecture:
    """Rebuild an architecture from JSON, where tuples became lists; TypeError or ValueError for no sizes."""
    given = values["vision_layers"]
    layers = tuple(given) if isinstance(given, list) and len(given) == 4 else given
    named = ("vision_layers", "activation", "logit_bias")
    sizes = [value for name, value in values.items() if name not in named]
    sizes += layers if isinstance(layers, tuple) else [layers]
    if not all(size is None or (isinstance(size, int) and size > 0) for size in sizes):
        raise ValueError("its sizes are no numbers above 0")
    if values.get("activation", "quick-gelu") not in get_args(Activation):
        raise ValueError(f"the activation {values['activation']!r} is not one of openwit's")
    if not isinstance(values.get("logit_bias", False), bool):
        raise ValueError("logit_bias is neither true nor false")
    return Architecture(**{**values, "vision_layers": layers})


def weights_file(folder: str) -> str:
    """Return the weights to evaluate and export: those averaged over time where the run has them."""
    average = storage.join(folder, "average.safetensors")
    return average if storage.exists(average) else storage.join(folder, "model.safetensors")


def read_model(folder: str) -> tuple[dict[str, Tensor], State[Architecture]]:
    """Return the weights and the state of a checkpoint of CLIP; ValueError unless they fit each other.

    Sizes are compared before a weight is read or a model is built.
    """
    state, path = read_state(folder), weights_file(folder)
    weights.refuse_others(path, state.architecture)
    return weights.tensors(path), state


def refuse_predictive(path: str, state: State[Architecture]) -> None:
    """Raise ValueError for a model that was trained to predict captions: it has nothing to compare."""
    objective = state.config.get("objective", "contrastive")
    if objective != "contrastive":
        raise ValueError(
            f"{path} was trained with --objective {objective}: its zero-shot accuracy is in metrics.jsonl "
            "(openwit train --eval), and a contrastive run may start from it with --init-from"
        )


def load_model(path: str, device: torch.device | str = "cpu") -> Loaded:
    """Load a run's newest checkpoint, or that at `path`, in evaluation mode; ValueError for any damage."""
    folder = find(path)
    tensors, state = read_model(folder)
    refuse_predictive(path, state)
    tokenizer = read_tokenizer(folder)
    if tokenizer.vocab_size != state.architecture.vocab_size:
        raise ValueError(
            f"{storage.join(folder, tokenizer.file)} has {tokenizer.vocab_size:,} tokens, the weights beside "
            f"it {state.architecture.vocab_size:,}"
        )
    model = CLIP(state.architecture)
    model.load_state_dict(tensors)
    return Loaded(model.to(device).eval(), tokenizer, state)


def vocabulary_file(tokenizer: AnyTokenizer) -> dict[str, bytes]:
    """Return the file that keeps a tokenizer beside a checkpoint, by name."""
    return {tokenizer.file: tokenizer.to_bytes()}


def read_tokenizer(folder: str) -> AnyTokenizer:
    """Return the tokenizer kept beside a checkpoint; ValueError if it is none."""
    other = storage.join(folder, hf_tokenizer.FILE)
    return hf_tokenizer.load(other if storage.exists(other) else storage.join(folder, VOCABULARY))


def vocabulary_beside(weights_path: str, tokens: int) -> Path | None:
    """Return the vocabulary beside others' weights if it has that many tokens, None without such a file.

    CLIP's own is found elsewhere, without the package that reads a tokenizer.json.
    """
    at = Path(weights_path)
    folder = at if at.is_dir() else at.parent
    names = [VOCABULARY, *([hf_tokenizer.FILE] if tokens != CLIP_TOKENS else [])]
    return next((folder / name for name in names if (folder / name).exists()), None)


def read_like(folder: str, file: str, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a checkpoint's tensors of one file; ValueError unless they are whole, finite and like these."""
    path = storage.join(folder, f"{file}.safetensors")
    weights.refuse_unlike(weights.header(path).tensors, wanted, path)
    return weights.tensors(path)


def restore_moments(folder: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put a checkpoint's moments into a model's optimiser, exactly as they were.

    ValueError unless they are whole, finite and of this model.
    """
    trained = [(name, one) for name, one in model.named_parameters() if one.requires_grad]
    wanted: dict[str, Tensor] = {}
    for name, parameter in trained:
        wanted |= {f"exp_avg.{name}": parameter, f"exp_avg_sq.{name}": parameter}
        wanted[f"step.{name}"] = torch.tensor(0.0)
    found = read_like(folder, "optimizer", wanted)
    for name, parameter in trained:
        # The fused kernel walks memory: moments must lie as their parameter does, channels last or not.
        state = {key: torch.empty_like(parameter.detach()) for key in ("exp_avg", "exp_avg_sq")}
        for key, tensor in state.items():
            sharding.fill(tensor, found[f"{key}.{name}"])
        state["step"] = found[f"step.{name}"].to(parameter.device)
        optimizer.state[parameter] = state
