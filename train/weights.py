"""Weights of any origin, read without running anything of theirs: whole, finite and of a CLIP's sizes.

Sizes are compared before memory is taken: a header of a kilobyte can name terabytes. Whatever is wrong with a
file is one sentence that names it. safetensors: 8 bytes of header length, JSON, tensors without gaps
(https://github.com/huggingface/safetensors#format).
"""

import json
import logging
import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeVar

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from pipeline import storage, untrusted
from pipeline.data.architectures import Activation, Architecture
from train import convert_weights
from train.convert_weights import State
from train.image_transforms import MEAN, STD
from train.model import CLIP

log = logging.getLogger("train")

A = TypeVar("A")
Asked = Literal["auto"] | Activation

_LARGEST_HEADER: Final = 16 << 20  # bytes; that of the largest CLIP is a quarter of a megabyte
_DTYPES: Final = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip
_WRAPPERS: Final = ("state_dict", "model_state_dict", "model")  # under which trainers keep the weights
_FILES: Final = ("open_clip_model.safetensors", "model.safetensors", "model.pt", "pytorch_model.bin")


class Header(NamedTuple):
    """Hold the header of a safetensors file: its tensors, on the meta device, and its metadata."""

    tensors: State
    metadata: dict[str, str]


class Weights(NamedTuple):
    """Hold weights under our names, float32, and the architecture that they are of."""

    state: State
    architecture: Architecture


def load(path: str, asked: Asked = "auto") -> Weights:
    """Return imported weights: a file, or a folder of open_clip's or Hugging Face's; ValueError for damage.

    asked: the activation; auto is that of the configuration beside them, else OpenAI's quick-gelu.
    """
    if not storage.is_local(path):
        raise ValueError(f"{path}: weights to import must lie on this machine: copy them here first")
    at = storage.local_path(path)
    file = weights_file(at)
    state = _native(read(file), file)
    architecture = _architecture(state, file)
    refuse_misfit(state, CLIP, architecture, str(file))
    folder = at if at.is_dir() else at.parent
    said = configured(folder, architecture)
    if asked == "auto" and said is None:
        log.warning(
            "%s: no configuration lies beside these weights: OpenAI's quick-gelu is assumed (most of "
            "open_clip's own models need --activation gelu)", path,
        )  # fmt: skip
    chosen = (said or "quick-gelu") if asked == "auto" else asked
    return Weights(state, convert_weights.with_activation(architecture, chosen))


def weights_file(path: Path) -> Path:
    """Return the file of weights that a file or folder stands for; ValueError if there is none."""
    if not path.is_dir():
        if not path.exists():
            raise ValueError(f"{path}: no such file or folder")
        return path
    found = [path / name for name in _FILES if (path / name).exists()]
    if not found:
        raise ValueError(f"{path} holds none of {', '.join(_FILES)}")
    return found[0]


def read(path: Path) -> State:
    """Return the tensors of a file of weights, anyone who wrote it; ValueError for any damage.

    `.pt` and `.bin` go through torch's restricted reader, which builds tensors and plain containers alone;
    OpenAI's TorchScript archives are programs and are refused.
    """
    with path.open("rb") as file:
        head = file.read(512)
    _refuse_text(head, str(path))
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return tensors(str(path))
    if head[:2] == b"PK":
        _refuse_archive(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError as error:
        raise ValueError(f"{path}: more memory than there is ({error})") from error
    except Exception as error:
        raise ValueError(
            f"{path} is not a plain file of weights ({type(error).__name__}): it is cut or damaged, or a "
            "pickle of objects, which is a program and is not run here: save its state_dict with "
            "safetensors.torch.save_file"
        ) from error
    for _ in range(2):
        inner = [
            found[key] for key in _WRAPPERS if isinstance(found, dict) and isinstance(found.get(key), dict)
        ]
        found = inner[0] if inner else found
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ValueError(f"{path} holds no weights by name, but {type(found).__name__}")
    for name, value in found.items():
        _refuse_odd(name, value, path)
    state = dict(found)
    refuse_not_finite(state, str(path))
    return state


def _refuse_text(head: bytes, path: str) -> None:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        raise ValueError(f"{path} is empty")
    if start.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path} is a pointer of git-lfs, not the weights: fetch them with `git lfs pull`")
    if start.startswith(b"<"):
        raise ValueError(f"{path} is a web page, not weights: the download went wrong")
    if start.startswith(b"{"):
        raise ValueError(f"{path} is JSON, not weights: the download went wrong, or give the weights' file")


def _refuse_archive(path: Path) -> None:
    """Refuse a zip archive that is cut, is a program, or unpacks to more than lies in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise ValueError(f"{path} is cut or damaged: the download is not whole ({error})") from error
    if any("/code/" in one.filename or one.filename.endswith("/constants.pkl") for one in members):
        raise ValueError(
            f"{path} is a TorchScript archive, which is a program and is not run here: save its state_dict "
            "with safetensors.torch.save_file"
        )
    if any(one.compress_type != zipfile.ZIP_STORED or one.file_size > one.compress_size for one in members):
        raise ValueError(f"{path}: its parts are compressed, as torch never writes them")


def _refuse_odd(name: str, value: object, path: Path) -> None:
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.device.type != "cpu":
        raise ValueError(f"{path}: {name} is no plain tensor, but {type(value).__name__}")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise ValueError(f"{path}: {name} is larger than its stored bytes")


def header(path: str) -> Header:
    """Return the header of a safetensors file, checked against its size; ValueError for any damage."""
    if not storage.exists(path):
        raise ValueError(f"{path}: no such file")
    size = storage.file_info(path).size
    with storage.open_input(path) as file:
        start = file.read(8)
        _refuse_text(start + file.read(504), path)
        length = int.from_bytes(start, "little")
        if length > _LARGEST_HEADER or size < 8:
            raise ValueError(f"{path} is no safetensors file: its header would have {length:,} bytes")
        if size < 8 + length:
            raise ValueError(f"{path} is cut in its header: the download is not whole")
        file.seek(8)
        data = file.read(length)
    try:
        found = untrusted.parse_json(data, _LARGEST_HEADER)
        metadata = found.pop("__metadata__", {})
        tensors = {str(name): _described(name, one) for name, one in found.items()}
        spans = sorted(tuple(one["data_offsets"]) for one in found.values())
    except (ValueError, AttributeError, TypeError, KeyError, RuntimeError) as error:
        raise ValueError(f"{path} is no safetensors file: {error}") from error
    end = spans[-1][1] if spans else 0
    if 8 + length + end != size:
        what = "cut" if size < 8 + length + end else "longer than it says"
        raise ValueError(
            f"{path} is {what}: {size:,} bytes where its header has {8 + length + end:,}; download it again"
        )
    if any(one[0] != before[1] for before, one in zip([(0, 0), *spans], spans, strict=False)):
        raise ValueError(f"{path} is no safetensors file: its tensors overlap or leave gaps")
    texts = {str(key): str(value) for key, value in metadata.items()} if isinstance(metadata, dict) else {}
    return Header(tensors, texts)


def _described(name: str, one: dict[str, Any]) -> Tensor:
    """Return a tensor of the meta device as a header describes it; ValueError where it cannot be."""
    shape, (start, stop) = one["shape"], one["data_offsets"]
    if one["dtype"] not in _DTYPES:
        raise ValueError(f"{name} has the type {one['dtype']!r}")
    numbers = [*shape, start, stop]
    if not all(
        isinstance(number, int) and not isinstance(number, bool) and number >= 0 for number in numbers
    ):
        raise ValueError(f"the place of {name} is not valid")
    dtype = _DTYPES[one["dtype"]]
    if math.prod(shape) * dtype.itemsize != stop - start:
        raise ValueError(f"{name} takes {stop - start:,} bytes, which its shape does not")
    return torch.empty(shape, dtype=dtype, device="meta")


def tensors(path: str) -> State:
    """Return the tensors of a safetensors file; ValueError for any damage and for NaN and infinity."""
    header(path)
    try:
        state = load_safetensors(storage.read_bytes(path))
    except Exception as error:  # safetensors' own class derives from Exception alone
        raise ValueError(f"{path} is no safetensors file: {error}") from error
    refuse_not_finite(state, path)
    return state


def refuse_not_finite(state: Mapping[str, Tensor], path: str) -> None:
    """Raise ValueError if a weight is NaN or infinite: nothing computed with it would mean anything."""
    for name, value in state.items():
        if value.is_floating_point() and value.numel() and not bool(value.float().isfinite().all()):
            raise ValueError(f"{path}: {name} holds numbers that are not finite (NaN or infinity)")


def refuse_misfit(
    state: Mapping[str, Tensor], make: Callable[[A], nn.Module], architecture: A, path: str
) -> None:
    """Raise ValueError unless tensors, of any device, are just those of a model of this architecture."""
    with torch.device("meta"):
        wanted = make(architecture).state_dict()
    refuse_unlike(state, wanted, path)


def refuse_unlike(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: str) -> None:
    """Raise ValueError unless tensors, of any device, have just these names, shapes and kinds of number."""
    for name, value in wanted.items():
        if name not in state:
            raise ValueError(f"{path} is not whole: it lacks {name}, or it is no model of this kind")
        found = state[name]
        if found.shape != value.shape:
            raise ValueError(
                f"{path}: {name} has the shape {[*found.shape]} where {[*value.shape]} is wanted"
            )
        if found.is_floating_point() != value.is_floating_point():
            raise ValueError(f"{path}: {name} has the type {found.dtype} where {value.dtype} is wanted")
    if more := [name for name in state if name not in wanted]:
        raise ValueError(f"{path} has {more[0]}, which is of another kind of model")


def _native(state: State, path: Path) -> State:
    """Return weights under our names, whatever prefix a trainer put before all of them."""
    ends = ("visual.conv1.weight", "text_model.final_layer_norm.weight")
    prefixes = [name.removesuffix(end) for name in state for end in ends if name.endswith(f".{end}")]
    if prefixes and all(name.startswith(prefixes[0]) for name in state):
        state = {name.removeprefix(prefixes[0]): value for name, value in state.items()}
    try:
        state = convert_weights.to_native(state)
    except (KeyError, RuntimeError, IndexError) as error:
        raise ValueError(f"{path} is no CLIP of OpenAI's, open_clip's or Hugging Face's: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    for name in {"logit_scale", "logit_bias"} & state.keys():
        if state[name].numel() == 1:  # some keep it as a vector of one
            state[name] = state[name].reshape(())
    return state


def _architecture(state: Mapping[str, Tensor], path: Path | str) -> Architecture:
    try:
        return convert_weights.architecture_of(state)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path} is no CLIP of these layouts: {what}") from error


def refuse_others(path: str, architecture: Architecture) -> None:
    """Raise ValueError unless a checkpoint's weights are of this architecture; no weight is read."""
    found = header(path).tensors
    inferred = convert_weights.with_activation(_architecture(found, path), architecture.activation)
    if inferred != architecture:
        ours, theirs = vars(architecture), vars(inferred)
        name = next(name for name in ours if ours[name] != theirs[name])
        raise ValueError(
            f"{path} does not fit the state.json beside it: {name} is {ours[name]} there and {theirs[name]} "
            "in the weights"
        )
    refuse_misfit(found, CLIP, architecture, path)


def configured(folder: Path, architecture: Architecture) -> Activation | None:
    """Return the activation that a configuration beside weights asks for, None if it is missing.

    open_clip's own models mostly have the exact GELU: the wrong one costs points and looks like a poor model.
    ValueError for a feature that openwit's CLIP lacks, rather than numbers of another model.
    """
    given = _json(folder / "open_clip_config.json")
    if isinstance(model := given.get("model_cfg"), dict):
        _refuse_asked(folder / "open_clip_config.json", _open_clip_wanted(architecture), given)
        return "quick-gelu" if model.get("quick_gelu") else "gelu"
    given = _json(folder / "config.json")
    if not (isinstance(given.get("text_config"), dict) or given.get("model_type") == "clip"):
        return None
    _refuse_asked(folder / "config.json", _hf_wanted(architecture), given)
    _refuse_asked(
        folder / "preprocessor_config.json", {"image_mean": [list(MEAN)], "image_std": [list(STD)]},
        _json(folder / "preprocessor_config.json"),
    )  # fmt: skip
    acts = {_at(given, f"{tower}_config.hidden_act") or "quick_gelu" for tower in ("text", "vision")}
    if len(acts) > 1 or not acts <= {"quick_gelu", "gelu"}:
        raise ValueError(
            f"{folder / 'config.json'} asks for the activation {' and '.join(sorted(map(str, acts)))}"
        )
    return "quick-gelu" if "quick_gelu" in acts else "gelu"


_NONE: Final = (None, False, 0, 0.0, "")  # an option that is off


def _open_clip_wanted(a: Architecture) -> dict[str, Any]:
    """Return by key the values of open_clip's configuration that fit our model; others there must be off."""
    layers = list(a.vision_layers) if isinstance(a.vision_layers, tuple) else a.vision_layers
    return {
        **({"model_cfg.init_logit_bias": ...} if a.logit_bias else {}),
        "model_cfg.embed_dim": [a.embed_dim], "model_cfg.quick_gelu": [True],
        "model_cfg.vision_cfg": ..., "model_cfg.text_cfg": ...,
        "model_cfg.init_logit_scale": ..., "model_cfg.output_dict": ..., "model_cfg.cast_dtype": ...,
        "model_cfg.vision_cfg.image_size": [a.image_size, [a.image_size, a.image_size]],
        "model_cfg.vision_cfg.layers": [layers], "model_cfg.vision_cfg.width": [a.vision_width],
        "model_cfg.vision_cfg.patch_size": [a.patch_size], "model_cfg.vision_cfg.head_width": [64],
        "model_cfg.vision_cfg.mlp_ratio": [4], "model_cfg.vision_cfg.patch_dropout": ...,
        "model_cfg.vision_cfg.pool_type": ["tok"], "model_cfg.vision_cfg.pos_embed_type": ["learnable"],
        "model_cfg.vision_cfg.output_tokens": ...,
        "model_cfg.text_cfg.context_length": [a.context_length],
        "model_cfg.text_cfg.vocab_size": [a.vocab_size],
        "model_cfg.text_cfg.width": [a.text_width], "model_cfg.text_cfg.heads": [a.text_heads],
        "model_cfg.text_cfg.layers": [a.text_layers], "model_cfg.text_cfg.mlp_ratio": [4],
        "model_cfg.text_cfg.pool_type": ["argmax", "eos"],
        "model_cfg.text_cfg.eos_id": ..., "model_cfg.text_cfg.proj_type": ["linear"],
        "model_cfg.text_cfg.hf_tokenizer_name": ..., "model_cfg.text_cfg.output_tokens": ...,
        "preprocess_cfg.mean": [list(MEAN)], "preprocess_cfg.std": [list(STD)],
        "preprocess_cfg.interpolation": ["bicubic"], "preprocess_cfg.resize_mode": ["shortest"],
        "preprocess_cfg.size": ..., "preprocess_cfg.mode": ["RGB"], "preprocess_cfg.fill_color": ...,
    }  # fmt: skip


def _hf_wanted(a: Architecture) -> dict[str, Any]:
    """Return by key the values that Hugging Face's configuration must have, if any, to fit our model."""
    wanted: dict[str, Any] = {"model_type": ["clip"], "projection_dim": [a.embed_dim]}
    for tower, width, layers, heads in (
        ("text_config", a.text_width, a.text_layers, a.text_heads),
        ("vision_config", a.vision_width, a.vision_layers, a.vision_heads),
    ):
        wanted |= {
            f"{tower}.hidden_size": [width], f"{tower}.num_hidden_layers": [layers],
            f"{tower}.num_attention_heads": [heads], f"{tower}.intermediate_size": [4 * width],
            f"{tower}.layer_norm_eps": [1e-5],
        }  # fmt: skip
    return wanted | {
        "text_config.vocab_size": [a.vocab_size], "text_config.max_position_embeddings": [a.context_length],
        "vision_config.image_size": [a.image_size], "vision_config.patch_size": [a.patch_size],
    }  # fmt: skip


def _refuse_asked(path: Path, wanted: dict[str, Any], given: dict[str, Any]) -> None:
    """Raise ValueError where a configuration asks for something that our model has not.

    wanted: by dotted key the values that may stand there; `...` for any. Of open_clip's groups, which have a
    key here, every other key must be off as well.
    """
    for key, values in wanted.items():
        found = _at(given, key)
        if values is not ... and found not in _NONE and found not in values:
            raise ValueError(
                f"{path} asks for {key} = {json.dumps(found)[:80]}, and openwit's CLIP has {values[0]}"
            )
    for group in ("model_cfg", "model_cfg.vision_cfg", "model_cfg.text_cfg"):
        more = _at(given, group)
        for name, found in more.items() if isinstance(more, dict) else ():
            if f"{group}.{name}" not in wanted and found not in (*_NONE, {}, []):
                raise ValueError(
                    f"{path} asks for {group}.{name} = {json.dumps(found)[:80]}, which openwit's CLIP lacks"
                )


def _at(value: Any, key: str) -> Any:
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _json(path: Path) -> dict[str, Any]:
    value = untrusted.read_json(str(path), _LARGEST_HEADER)
    return value if isinstance(value, dict) else {}
