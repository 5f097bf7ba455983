"""Move weights between our layout, OpenAI's, open_clip's and Hugging Face's.

Ours is OpenAI's, whose names and shapes open_clip shares. OpenAI's own archives add three integers;
open_clip's training checkpoints may prefix every name with "module."; Hugging Face renames all, splits the
attention's input projection in three and transposes the two final projections.
"""

import io
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from pipeline import storage
from pipeline.data.architectures import Activation, Architecture
from train.hf_tokenizer import AnyTokenizer, HuggingFaceTokenizer
from train.image_transforms import MEAN, STD
from train.model import INITIAL_BIAS

State = dict[str, Tensor]
FORMATS = ("open_clip", "openai", "hf")
_OLD_END = 2  # Hugging Face's mark of CLIP's early configurations
_INTEGERS = ("input_resolution", "context_length", "vocab_size")  # in OpenAI's archives beside the weights

# (ours, Hugging Face's), tried in order; \1 is the index of a block.
_HF_BLOCK = [
    (r"attn\.out_proj\.", "self_attn.out_proj."),
    (r"ln_1\.", "layer_norm1."),
    (r"ln_2\.", "layer_norm2."),
    (r"mlp\.c_fc\.", "mlp.fc1."),
    (r"mlp\.c_proj\.", "mlp.fc2."),
]
_HF_NAMES = {
    "logit_scale": "logit_scale",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",  # their spelling
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "visual.proj": "visual_projection.weight",
}
_TRANSPOSED = ("text_projection.weight", "visual_projection.weight")


def to_hf(state: State) -> State:
    """Rename our weights as Hugging Face's CLIPModel; raises ValueError for a ResNet, which it has not."""
    if "visual.proj" not in state:
        raise ValueError("Hugging Face's CLIPModel has no ResNet image tower; export to open_clip or openai")
    renamed: State = {}
    for name, value in state.items():
        block = re.fullmatch(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)", name)
        if block is None:
            target = _HF_NAMES[name]
            renamed[target] = value.T.contiguous() if target in _TRANSPOSED else value
            continue
        tower = "vision_model" if block[1] else "text_model"
        prefix, rest = f"{tower}.encoder.layers.{block[2]}.", block[3]
        if rest.startswith("attn.in_proj_"):
            for part, projection in zip(value.chunk(3), "qkv", strict=True):
                renamed[f"{prefix}self_attn.{projection}_proj.{rest[13:]}"] = part.clone()
            continue
        for ours, theirs in _HF_BLOCK:
            rest = re.sub(f"^{ours}", theirs, rest)
        renamed[prefix + rest] = value
    return renamed


def from_hf(state: State) -> State:
    """Rename the weights of Hugging Face's CLIPModel as ours; ValueError for a missing tensor."""
    names = {theirs: ours for ours, theirs in _HF_NAMES.items()}
    renamed: State = {}
    for name, value in state.items():
        if name.endswith(".position_ids"):  # a constant that older releases saved
            continue
        block = re.fullmatch(r"(vision|text)_model\.encoder\.layers\.(\d+)\.(.+)", name)
        if block is None:
            if name not in names:
                raise ValueError(f"{name} is not a weight of a CLIPModel")
            renamed[names[name]] = value.T.contiguous() if name in _TRANSPOSED else value
            continue
        prefix = f"{'visual.' if block[1] == 'vision' else ''}transformer.resblocks.{block[2]}."
        projection = re.fullmatch(r"self_attn\.([qkv])_proj\.(weight|bias)", block[3])
        if projection is not None:
            if projection[1] == "q":
                parts = [state[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
                renamed[f"{prefix}attn.in_proj_{projection[2]}"] = torch.cat(parts)
            continue
        rest = block[3]
        for ours, theirs in _HF_BLOCK:
            rest = re.sub(f"^{re.escape(theirs)}", ours.replace("\\", ""), rest)
        renamed[prefix + rest] = value
    return renamed


def to_native(state: State) -> State:
    """Return the weights of any of the layouts under our names, as float32; ValueError for others."""
    state = {name.removeprefix("module."): value for name, value in state.items()}
    if "text_model.final_layer_norm.weight" in state:
        state = from_hf(state)
    if "visual.conv1.weight" not in state or "text_projection" not in state:
        some = ", ".join(list(state)[:3])
        raise ValueError(
            f"these are not CLIP's weights in OpenAI's, open_clip's or Hugging Face's layout: {some}"
        )
    return {
        name: value.float() if value.is_floating_point() else value
        for name, value in state.items()
        if name not in _INTEGERS and name != "attn_mask"
    }


def with_activation(architecture: Architecture, activation: Activation) -> Architecture:
    """Return the same sizes with an activation, which no weight tells."""
    return replace(architecture, activation=activation)


def architecture_of(state: Mapping[str, Tensor]) -> Architecture:
    """Infer every size from weights' shapes; KeyError, IndexError or ValueError where they are no CLIP's."""
    text_width = state["ln_final.weight"].shape[0]
    text: dict[str, Any] = {
        "embed_dim": state["text_projection"].shape[1],
        "text_width": text_width,
        "text_layers": _count(state, r"transformer\.resblocks\.(\d+)\."),
        "context_length": state["positional_embedding"].shape[0],
        "vocab_size": state["token_embedding.weight"].shape[0],
        "logit_bias": "logit_bias" in state,
    }
    if "visual.proj" in state:
        width, _, patch, _ = state["visual.conv1.weight"].shape
        grid = round((state["visual.positional_embedding"].shape[0] - 1) ** 0.5)
        layers = _count(state, r"visual\.transformer\.resblocks\.(\d+)\.")
        return Architecture(
            image_size=grid * patch, vision_layers=layers, vision_width=width, patch_size=patch, **text
        )
    grid = round((state["visual.attnpool.positional_embedding"].shape[0] - 1) ** 0.5)
    one, two, three, four = (_count(state, rf"visual\.layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4))
    return Architecture(
        image_size=grid * 32,
        vision_layers=(one, two, three, four),
        vision_width=state["visual.conv3.weight"].shape[0],
        **text,
    )


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return len({match[1] for match in map(re.compile(pattern).match, state) if match})


def resize_positions(state: State, grid: int) -> State:
    """Interpolate the image tower's position embeddings (bicubic) to a grid of `grid` x `grid` positions."""
    resnet = "visual.attnpool.positional_embedding"
    name = resnet if resnet in state else "visual.positional_embedding"
    first, rest = state[name][:1], state[name][1:]
    side = round(len(rest) ** 0.5)
    if side == grid:
        return state
    square = rest.T.reshape(1, -1, side, side)
    square = F.interpolate(square, size=(grid, grid), mode="bicubic", antialias=True, align_corners=False)
    return {**state, name: torch.cat([first, square.flatten(2)[0].T])}


def export(
    state: State, architecture: Architecture, tokenizer: AnyTokenizer, layout: str, out: Path
) -> list[Path]:
    """Write weights, configuration and vocabulary for `open_clip`, `openai` or `hf`; return the files.

    ValueError for a model that the layout cannot say; then nothing is made.
    """
    if layout not in FORMATS:
        raise ValueError(f"--format {layout}: choose one of {', '.join(FORMATS)}")
    if layout == "openai" and architecture.activation != "quick-gelu":
        raise ValueError("OpenAI's code knows only quick-gelu, and this model has the exact GELU: export to "
                         "open_clip or hf")  # fmt: skip
    if layout != "open_clip":  # their code has no bias: it moves all logits alike, and so no rank or softmax
        state = {name: value for name, value in state.items() if name != "logit_bias"}
    if layout == "hf" and tokenizer.end == _OLD_END and tokenizer.end != architecture.vocab_size - 1:
        raise ValueError(f"Hugging Face's CLIPModel takes the end token {_OLD_END} for an old model's: it "
                         "reads captions elsewhere: export to open_clip")  # fmt: skip
    state = {name: value.contiguous() for name, value in (to_hf(state) if layout == "hf" else state).items()}
    out.mkdir(parents=True, exist_ok=True)
    before = set(out.iterdir())
    if layout == "open_clip":
        _write_weights(out / "open_clip_model.safetensors", state)
        _write_json(out / "open_clip_config.json", _open_clip_config(architecture, tokenizer))
        if not tokenizer.is_clips:
            _write_hf_tokenizer(tokenizer, architecture, out)
    elif layout == "openai":
        a = architecture
        numbers = {
            name: torch.tensor(value)
            for name, value in zip(_INTEGERS, (a.image_size, a.context_length, a.vocab_size), strict=True)
        }
        buffer = io.BytesIO()
        torch.save({**state, **numbers}, buffer)
        storage.write_bytes(str(out / "model.pt"), buffer.getvalue())
    else:
        _write_weights(out / "model.safetensors", state)
        _write_json(out / "config.json", _hf_config(architecture, tokenizer))
        _write_json(out / "preprocessor_config.json", _hf_preprocessor(architecture))
        _write_hf_tokenizer(tokenizer, architecture, out)
    storage.write_bytes(str(out / tokenizer.file), tokenizer.to_bytes())
    return sorted(set(out.iterdir()) - before)


def _write_weights(path: Path, state: State) -> None:
    # Not by save_file, whose files are for their owner alone.
    storage.write_bytes(str(path), save(state, {"format": "pt"}))


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _open_clip_config(a: Architecture, tokenizer: AnyTokenizer) -> dict[str, Any]:
    vision: dict[str, Any] = {"image_size": a.image_size, "width": a.vision_width}
    if isinstance(a.vision_layers, tuple):
        vision["layers"] = list(a.vision_layers)
    else:
        vision |= {"layers": a.vision_layers, "patch_size": a.patch_size}
    text: dict[str, Any] = {
        "context_length": a.context_length,
        "vocab_size": a.vocab_size,
        "width": a.text_width,
        "heads": a.text_heads,
        "layers": a.text_layers,
    }
    if not tokenizer.is_clips:
        # open_clip's tokenizer reads CLIP's vocabulary; with a name set it reads this folder's.
        text["hf_tokenizer_name"] = "local"
    if tokenizer.end != a.vocab_size - 1:  # else it reads at the highest id
        text |= {"pool_type": "eos", "eos_id": tokenizer.end}
    return {
        "model_cfg": {
            "embed_dim": a.embed_dim,
            **({"init_logit_bias": INITIAL_BIAS} if a.logit_bias else {}),
            "quick_gelu": a.activation == "quick-gelu",
            "vision_cfg": vision,
            "text_cfg": text,
        },
        "preprocess_cfg": {"mean": list(MEAN), "std": list(STD), "interpolation": "bicubic"},
    }


def _hf_config(a: Architecture, tokenizer: AnyTokenizer) -> dict[str, Any]:
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": a.embed_dim,
        "text_config": {
            "model_type": "clip_text_model",
            "hidden_act": a.activation.replace("-", "_"),
            "hidden_size": a.text_width,
            "intermediate_size": 4 * a.text_width,
            "max_position_embeddings": a.context_length,
            "num_attention_heads": a.text_heads,
            "num_hidden_layers": a.text_layers,
            "projection_dim": a.embed_dim,
            "vocab_size": a.vocab_size,
            "bos_token_id": tokenizer.start,
            "eos_token_id": tokenizer.end,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_act": a.activation.replace("-", "_"),
            "hidden_size": a.vision_width,
            "image_size": a.image_size,
            "intermediate_size": 4 * a.vision_width,
            "num_attention_heads": a.vision_heads,
            "num_hidden_layers": a.vision_layers,
            "patch_size": a.patch_size,
            "projection_dim": a.embed_dim,
        },
    }


def _hf_preprocessor(a: Architecture) -> dict[str, Any]:
    return {
        "image_processor_type": "CLIPImageProcessor",
        "crop_size": {"height": a.image_size, "width": a.image_size},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(MEAN),
        "image_std": list(STD),
        "resample": 3,
        "size": {"shortest_edge": a.image_size},
    }


def _write_hf_tokenizer(tokenizer: AnyTokenizer, a: Architecture, out: Path) -> None:
    if isinstance(tokenizer, HuggingFaceTokenizer):
        storage.write_bytes(str(out / tokenizer.file), tokenizer.to_bytes())
        end, start = tokenizer.token(tokenizer.end), tokenizer.token(tokenizer.start)
        about = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": start, "eos_token": end,
                 "pad_token": end, "model_max_length": a.context_length}  # fmt: skip
        _write_json(out / "tokenizer_config.json", about)
        return
    vocabulary = json.dumps(tokenizer.vocabulary(), ensure_ascii=False)
    (out / "vocab.json").write_text(vocabulary, encoding="utf-8")
    merges = "\n".join(["#version: 0.2", *(f"{left} {right}" for left, right in tokenizer.merges)])
    (out / "merges.txt").write_text(merges + "\n", encoding="utf-8")
    _write_json(
        out / "tokenizer_config.json",
        {
            "tokenizer_class": "CLIPTokenizer",
            "bos_token": "<|startoftext|>",
            "eos_token": "<|endoftext|>",
            "unk_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
            "model_max_length": a.context_length,
        },
    )
