"""Weights leave in three formats and load in the programs they are for; they come back the same."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.data.architectures import ARCHITECTURES, Architecture
from tests import train_peers
from tests.test_train_model import SMALL_RESNET, SMALL_VIT, captions, packed, scrambled
from train import convert_weights, vocabulary, weights
from train.model import CLIP
from train.tokenizer import Tokenizer, installed_vocabulary

TEXTS = ["a photo of a red dress", "the red hat, worn twice!", "dresses & hats of 1999"] * 3


def own_tokenizer() -> Tokenizer:
    return Tokenizer(vocabulary.learn_merges(vocabulary.count_words(TEXTS)))


def with_vocabulary(architecture: Architecture, tokenizer: Tokenizer) -> Architecture:
    return replace(architecture, vocab_size=tokenizer.vocab_size)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_size_is_read_back_from_the_weights(name: str) -> None:
    with torch.device("meta"):
        state = CLIP(ARCHITECTURES[name]).state_dict()
    assert convert_weights.architecture_of(state) == ARCHITECTURES[name]


@pytest.mark.parametrize("architecture", [SMALL_VIT, SMALL_RESNET], ids=["vit", "resnet"])
@pytest.mark.parametrize("own", [True, False], ids=["own vocabulary", "CLIP's vocabulary"])
def test_open_clip_loads_our_export(architecture: Architecture, own: bool, tmp_path: Path) -> None:
    open_clip = train_peers.open_clip()
    tokenizer = own_tokenizer() if own else Tokenizer.load(installed_vocabulary() or Path())
    ours = scrambled(with_vocabulary(architecture, tokenizer))
    convert_weights.export(ours.state_dict(), ours.architecture, tokenizer, "open_clip", tmp_path)
    theirs = open_clip.create_model(f"local-dir:{tmp_path}").eval()
    if own:
        train_peers.transformers()
    ids = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(TEXTS)
    images = torch.randn(2, 3, architecture.image_size, architecture.image_size)
    text = packed_texts(tokenizer)
    with torch.no_grad():
        assert (ours.encode_image(images) - theirs.encode_image(images, normalize=True)).abs().max() < 1e-5
        assert (ours.encode_text(text) - theirs.encode_text(ids, normalize=True)).abs().max() < 1e-5
    assert weights.read(weights.weights_file(tmp_path)).keys() == ours.state_dict().keys()


def packed_texts(tokenizer: Tokenizer):  # type: ignore[no-untyped-def]
    from train.packing import pack_lists

    return pack_lists([tokenizer.caption(text) for text in TEXTS])


def test_transformers_loads_our_export(tmp_path: Path) -> None:
    transformers = train_peers.transformers()
    tokenizer = own_tokenizer()
    ours = scrambled(with_vocabulary(SMALL_VIT, tokenizer))
    convert_weights.export(ours.state_dict(), ours.architecture, tokenizer, "hf", tmp_path)
    theirs = transformers.CLIPModel.from_pretrained(tmp_path).eval()
    assert theirs.logit_scale.item() == pytest.approx(ours.logit_scale.item())
    inputs = transformers.CLIPTokenizer.from_pretrained(tmp_path)(TEXTS, padding=True, return_tensors="pt")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        out = theirs(pixel_values=images, **inputs)
        assert (ours.encode_image(images) - out.image_embeds).abs().max() < 1e-5
        assert (ours.encode_text(packed_texts(tokenizer)) - out.text_embeds).abs().max() < 1e-5
    back = convert_weights.to_native(weights.read(weights.weights_file(tmp_path)))
    assert all(torch.equal(value, back[name]) for name, value in ours.state_dict().items())
    assert convert_weights.architecture_of(back) == ours.architecture


def test_what_a_layout_cannot_say_is_refused_before_a_folder_is_made(tmp_path: Path) -> None:
    tokenizer, out = own_tokenizer(), tmp_path / "out"
    exact = replace(SMALL_VIT, activation="gelu")
    for architecture, layout, said in (
        (SMALL_RESNET, "hf", "no ResNet"),
        (exact, "openai", "only quick-gelu"),
        (SMALL_VIT, "onnx", "choose"),
    ):
        with pytest.raises(ValueError, match=said):
            convert_weights.export(
                CLIP(architecture).initialise(0).state_dict(), architecture, tokenizer, layout, out
            )
        assert not out.exists()


@pytest.mark.parametrize("architecture", [SMALL_VIT, SMALL_RESNET], ids=["vit", "resnet"])
def test_openai_layout_is_what_openais_loader_infers(architecture: Architecture, tmp_path: Path) -> None:
    """open_clip carries OpenAI's `build_model`, which infers every size from a released state dict."""
    open_clip = train_peers.open_clip()
    tokenizer = own_tokenizer()
    ours = scrambled(with_vocabulary(architecture, tokenizer))
    convert_weights.export(ours.state_dict(), ours.architecture, tokenizer, "openai", tmp_path)
    state = weights.read(weights.weights_file(tmp_path))
    assert {name: int(state[name]) for name in convert_weights._INTEGERS} == {
        "input_resolution": architecture.image_size,
        "context_length": 77,
        "vocab_size": tokenizer.vocab_size,
    }
    theirs = open_clip.model.build_model_from_openai_state_dict(dict(state), cast_dtype=torch.float32).float()
    # It rounds every weight to half precision, so load them again for an exact comparison.
    theirs.load_state_dict(convert_weights.to_native(state))
    theirs.eval()
    images = torch.randn(2, 3, architecture.image_size, architecture.image_size)
    ids = torch.zeros(len(TEXTS), 77, dtype=torch.long)
    for row, text in zip(ids, TEXTS, strict=True):
        tokens = tokenizer.caption(text)
        row[: len(tokens)] = torch.tensor(tokens)
    with torch.no_grad():
        assert (ours.encode_image(images) - theirs.encode_image(images, normalize=True)).abs().max() < 1e-5
        assert (
            ours.encode_text(packed_texts(tokenizer)) - theirs.encode_text(ids, normalize=True)
        ).abs().max() < 1e-5
    back = convert_weights.to_native(state)
    assert back.keys() == ours.state_dict().keys()


def test_prefixed_and_half_precision_weights_are_read(tmp_path: Path) -> None:
    ours = scrambled(SMALL_VIT)
    state = {f"module.{name}": value.half() for name, value in ours.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "epoch_3.pt")
    back = convert_weights.to_native(weights.read(tmp_path / "epoch_3.pt"))
    assert back.keys() == ours.state_dict().keys()
    assert all(value.dtype == torch.float32 for value in back.values())


class Evil:
    def __reduce__(self):  # type: ignore[no-untyped-def]
        return (Path.touch, (Path("/tmp/openwit-unpickled"),))


def test_pickles_of_objects_are_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"x": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="is not run here"):
        weights.read(tmp_path / "evil.pt")
    assert not Path("/tmp/openwit-unpickled").exists()


def test_foreign_weights_are_refused(tmp_path: Path) -> None:
    save_file({"layer.weight": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"not CLIP's weights.*layer\.weight"):
        convert_weights.to_native(weights.read(tmp_path / "x.safetensors"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds none of"):
        weights.weights_file(tmp_path / "empty")


@pytest.mark.parametrize(("architecture", "grid"), [(SMALL_VIT, 6), (SMALL_RESNET, 3)], ids=["vit", "resnet"])
def test_positions_are_interpolated_to_another_resolution(architecture: Architecture, grid: int) -> None:
    ours = scrambled(architecture)
    state = convert_weights.resize_positions(ours.state_dict(), grid)
    larger = replace(architecture, image_size=grid * architecture.image_size // architecture.grid)
    model = CLIP(larger).eval()
    model.load_state_dict(state)
    with torch.no_grad():
        features = model.encode_image(torch.randn(1, 3, larger.image_size, larger.image_size))
    assert torch.isfinite(features).all()
    name = "visual.attnpool.positional_embedding" if architecture.is_resnet else "visual.positional_embedding"
    assert torch.equal(state[name][0], ours.state_dict()[name][0])
    # A field that varies linearly over the grid still does, inside, after interpolation.
    ramp = (
        torch.arange(architecture.grid)
        .float()
        .repeat(architecture.grid)[:, None]
        .expand(-1, state[name].shape[1])
    )
    field = {name: torch.cat([torch.zeros(1, ramp.shape[1]), ramp])}
    row = convert_weights.resize_positions(field, grid)[name][1 : 1 + grid, 0]
    assert (row.diff() > 0).all() and row.mean() == pytest.approx(ramp.mean().item(), abs=1e-4)
    assert convert_weights.resize_positions(state, grid) is state


def test_logits_match_across_all_layouts() -> None:
    ours = scrambled(SMALL_VIT)
    ids = captions(SMALL_VIT, 3)
    images = torch.randn(3, 3, 32, 32)
    again = CLIP(SMALL_VIT)
    again.load_state_dict(convert_weights.from_hf(convert_weights.to_hf(ours.state_dict())))
    with torch.no_grad():
        for left, right in zip(ours(images, packed(ids)), again.eval()(images, packed(ids)), strict=True):
            assert torch.equal(left, right)
