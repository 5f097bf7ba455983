"""Sizes against the published table, values against open_clip and transformers, packing against padding."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pipeline.data.architectures import ARCHITECTURES, RECIPES, Architecture
from tests import train_peers
from train import flops, packing
from train.model import CLIP, INITIAL_SCALE, MAX_SCALE
from train.optimizer import warmup_steps

# millions of parameters (all, image tower, text tower without token embeddings), GFLOPs (image, 77 tokens)
TABLE = {
    "RN50": (102.01, 38.32, 38.39, 11.59, 5.96),
    "RN101": (119.69, 56.26, 38.13, 19.01, 5.96),
    "RN50x4": (178.30, 87.14, 59.54, 41.16, 9.27),
    "RN50x16": (290.98, 167.33, 85.70, 145.74, 13.30),
    "RN50x64": (623.26, 420.38, 152.28, 520.25, 23.55),
    "ViT-B-32": (151.28, 87.85, 38.13, 8.82, 5.96),
    "ViT-B-16": (149.62, 86.19, 38.13, 35.13, 5.96),
    "ViT-L-14": (427.62, 303.97, 85.70, 162.03, 13.30),
    "ViT-L-14-336": (427.94, 304.29, 85.70, 381.92, 13.30),
}
SMALL_VIT = Architecture(
    embed_dim=64,
    image_size=32,
    vision_layers=2,
    vision_width=128,
    patch_size=8,
    text_width=128,
    text_layers=2,
    vocab_size=1000,
)
SMALL_RESNET = replace(SMALL_VIT, vision_layers=(1, 2, 1, 1), vision_width=16, image_size=64, patch_size=None)


def scrambled(architecture: Architecture, seed: int = 0) -> CLIP:
    """Return a model with no weight or statistic at a special value, such as a zeroed last norm."""
    model = CLIP(architecture).initialise(seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point() and value.dim() == 1:
                value.add_(torch.rand(value.shape, generator=generator) * 0.2 + 0.05)
                assert "running_var" not in name or value.min() > 0
    return model


def captions(architecture: Architecture, count: int, seed: int = 0) -> torch.Tensor:
    """Return ids [count, 77] of random captions of many lengths, padded with zeros after the end token."""
    generator = torch.Generator().manual_seed(seed)
    end = architecture.vocab_size - 1
    ids = torch.zeros(count, 77, dtype=torch.long)
    for row in ids:
        length = int(torch.randint(2, 78, (1,), generator=generator))
        row[:length] = torch.randint(1, end - 1, (length,), generator=generator)
        row[length - 1] = end
    return ids


def packed(ids: torch.Tensor) -> packing.PackedText:
    """Pack padded captions tightly."""
    lengths = ids.argmax(dim=-1) + 1
    return packing.pack_lists([row[:n].tolist() for row, n in zip(ids, lengths, strict=True)])


@pytest.mark.parametrize("name", TABLE)
def test_parameters_and_flops_are_the_published_ones(name: str) -> None:
    total, visual, text, image_gf, text_gf = TABLE[name]
    architecture = ARCHITECTURES[name]
    with torch.device("meta"):
        model = CLIP(architecture)
    count = sum(p.numel() for p in model.parameters())
    in_visual = sum(p.numel() for p in model.visual.parameters())
    in_text = count - in_visual - model.token_embedding.weight.numel()
    assert [round(n / 1e6, 2) for n in (count, in_visual, in_text)] == [total, visual, text]
    assert round(flops.image_flops(architecture) / 1e9, 2) == image_gf
    assert round(flops.text_flops(architecture, 77, 77 * 77, 1) / 1e9, 2) == text_gf


@pytest.mark.parametrize(
    "architecture", [*ARCHITECTURES.values(), SMALL_VIT, SMALL_RESNET], ids=[*ARCHITECTURES, "vit", "resnet"]
)
def test_image_flops_agree_with_the_counter(architecture: Architecture) -> None:
    with torch.device("meta"):
        visual = CLIP(replace(architecture, vocab_size=2, text_layers=1)).eval().visual
        images = torch.empty(1, 3, architecture.image_size, architecture.image_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        visual(images)
    assert counter.get_total_flops() == flops.image_flops(architecture)


def test_text_flops_agree_with_the_counter() -> None:
    model = CLIP(SMALL_VIT).initialise(0)
    text = packing.pack_padded(captions(SMALL_VIT, 3))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        model.encode_text(text)
    assert counter.get_total_flops() == flops.text_flops(SMALL_VIT, 3 * 77, 3 * 77 * 77, 3)


def test_recipes_are_the_papers() -> None:
    assert set(RECIPES) == set(ARCHITECTURES) == {*TABLE, "tiny"}
    for name in TABLE:
        recipe = RECIPES[name]
        assert (recipe.batch_size, recipe.warmup, recipe.weight_decay, recipe.beta1) == (
            32_768,
            2_000,
            0.2,
            0.9,
        )
        assert (recipe.beta2, recipe.eps) == ((0.98, 1e-6) if name.startswith("ViT") else (0.999, 1e-8))
    assert RECIPES["ViT-L-14-336"].lr == 2e-5 and RECIPES["ViT-L-14-336"].epochs == 1


def test_warm_up_is_the_papers_in_runs_of_its_size() -> None:
    images, batch = 400_000_000, 32_768
    assert warmup_steps(2_000, 32 * images // batch) == warmup_steps(2_000, images // batch) == 2_000
    assert [warmup_steps(2_000, steps) for steps in (9_999, 100, 5)] == [999, 10, 0]
    assert warmup_steps(100, 5_000) == 100


def test_initial_weights_have_the_papers_spread_and_follow_the_seed() -> None:
    model = CLIP(ARCHITECTURES["ViT-B-32"]).initialise(3)
    block = model.transformer.resblocks[0]
    expected = {
        model.token_embedding.weight: 0.02,
        model.positional_embedding: 0.01,
        model.text_projection: 512**-0.5,
        block.attn.in_proj_weight: 512**-0.5,
        block.attn.out_proj.weight: 512**-0.5 * 24**-0.5,
        block.mlp.c_fc.weight: 1024**-0.5,
        block.mlp.c_proj.weight: 512**-0.5 * 24**-0.5,
        model.visual.proj: 768**-0.5,
    }
    for weight, std in expected.items():
        assert weight.std().item() == pytest.approx(std, rel=0.02)
    assert model.logit_scale.item() == pytest.approx(INITIAL_SCALE)
    again, other = CLIP(SMALL_VIT).initialise(3).state_dict(), CLIP(SMALL_VIT).initialise(4).state_dict()
    for name, value in CLIP(SMALL_VIT).initialise(3).state_dict().items():
        assert torch.equal(value, again[name])
    assert not torch.equal(again["visual.conv1.weight"], other["visual.conv1.weight"])
    resnet = CLIP(SMALL_RESNET).initialise(0)
    assert all(not block.bn3.weight.any() for stage, i in resnet.visual.blocks for block in [stage[i]])
    assert all(torch.isfinite(v).all() for v in resnet.state_dict().values())


def test_initial_weights_are_drawn_as_open_clip_draws_them() -> None:
    open_clip = train_peers.open_clip()
    wide = replace(SMALL_VIT, vision_width=256, text_width=256, vocab_size=900)
    ours = CLIP(wide).initialise(0).state_dict()
    torch.manual_seed(0)
    theirs = open_clip.CLIP(
        wide.embed_dim,
        {"image_size": wide.image_size, "patch_size": wide.patch_size, "width": 256, "head_width": 64,
         "layers": wide.vision_layers},
        {"context_length": wide.context_length, "vocab_size": 900, "width": 256, "heads": 4,
         "layers": wide.text_layers},
        quick_gelu=True,
    ).state_dict()  # fmt: skip
    assert ours.keys() == theirs.keys() - {"attn_mask"}
    for name, value in ours.items():
        assert value.shape == theirs[name].shape
        if value.numel() < 4096:  # a normalisation, a bias, the scale
            assert value.std(correction=0) == pytest.approx(theirs[name].std(correction=0).item(), rel=0.3)
        else:
            assert value.std().item() == pytest.approx(theirs[name].std().item(), rel=0.03), name
            # Uniform and normal draws differ in their tails.
            assert value.abs().max().item() == pytest.approx(theirs[name].abs().max().item(), rel=0.25), name


def test_scale_is_clamped_to_one_and_a_hundred() -> None:
    model = CLIP(SMALL_VIT).initialise(0)
    for value, expected in [(9.0, MAX_SCALE), (-1.0, 0.0), (2.0, 2.0)]:
        torch.nn.init.constant_(model.logit_scale, value)
        model.clamp_scale()
        assert model.logit_scale.item() == pytest.approx(expected)
    assert torch.tensor(MAX_SCALE).exp().item() == pytest.approx(100)


@pytest.mark.parametrize("architecture", [SMALL_VIT, SMALL_RESNET], ids=["vit", "resnet"])
def test_checkpointing_changes_memory_not_gradients(architecture: Architecture) -> None:
    images = torch.randn(4, 3, architecture.image_size, architecture.image_size)
    text = packed(captions(architecture, 4))
    gradients = []
    for on in [False, True]:
        model = CLIP(architecture).initialise(0).train()
        model.set_checkpointing(on)
        image, caption, scale = model(images, text)
        (scale * (image * caption).sum()).backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed, rtol=0, atol=1e-6)


@pytest.mark.parametrize("count", [1, 5, 200])
def test_packed_text_equals_padded_text(count: int) -> None:
    model = scrambled(SMALL_VIT)
    ids = captions(SMALL_VIT, count)
    tight, padded = packed(ids), packing.pack_padded(ids)
    assert len(tight.ids) < len(padded.ids)
    with torch.no_grad():
        difference = model.encode_text(tight) - model.encode_text(padded)
    assert difference.abs().max() < 1e-5


def test_packed_gradients_equal_padded_gradients() -> None:
    ids = captions(SMALL_VIT, 40)
    target = torch.randn(40, 64, generator=torch.Generator().manual_seed(1))
    gradients = []
    for text in [packed(ids), packing.pack_padded(ids)]:
        model = scrambled(SMALL_VIT)
        (model.encode_text(text) * target).sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, value in gradients[0].items():
        torch.testing.assert_close(value, gradients[1][name], rtol=1e-4, atol=1e-5)


def test_variable_length_kernel_gets_what_the_buckets_get(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CUDA kernel cannot run here: a plain loop with its signature checks the arguments we pass."""

    def loop(q, k, v, cu_q, cu_k, max_q, max_k):  # type: ignore[no-untyped-def]
        assert cu_q.dtype == torch.int32 and max_q == max_k == (cu_q[1:] - cu_q[:-1]).max()
        outputs = []
        for start, stop in zip(cu_q[:-1].tolist(), cu_q[1:].tolist(), strict=True):
            parts = [t[start:stop].transpose(0, 1)[None] for t in (q, k, v)]
            y = torch.nn.functional.scaled_dot_product_attention(*parts, is_causal=True)
            outputs.append(y[0].transpose(0, 1))
        return torch.cat(outputs)

    model, text = scrambled(SMALL_VIT), packed(captions(SMALL_VIT, 30))
    with torch.no_grad():
        bucketed = model.encode_text(text)
        monkeypatch.setattr(packing, "use_varlen_kernel", lambda device, dtype: True)
        monkeypatch.setattr(packing, "_varlen_kernel", lambda: loop)
        torch.testing.assert_close(model.encode_text(text), bucketed, rtol=0, atol=1e-6)


def test_buckets_waste_little_on_web_captions() -> None:
    lengths = torch.from_numpy(np.random.default_rng(0).geometric(1 / 14, 4096).clip(2, 77))
    text = packing.pack(torch.ones(int(lengths.sum()), dtype=torch.int32), lengths)
    assert text.longest == 77 and len(text.shapes) == packing.BUCKETS
    assert len(text.pad) < 1.5 * len(text.ids) < 77 / 3 * len(lengths)


def test_wrong_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="add up to the 5 tokens"):
        packing.pack(torch.ones(5, dtype=torch.int32), torch.tensor([2, 2]))
    with pytest.raises(ValueError, match="positive"):
        packing.pack(torch.ones(2, dtype=torch.int32), torch.tensor([2, 0]))


def _compare_with_open_clip(name: str, architecture: Architecture, peer: torch.nn.Module) -> None:
    """Load weights both ways and compare image features, text features and logits."""
    ours = scrambled(architecture, 1)
    images = torch.randn(2, 3, architecture.image_size, architecture.image_size)
    ids = captions(architecture, 2)
    for direction in ["ours to theirs", "theirs to ours"]:
        if direction == "ours to theirs":
            peer.load_state_dict(ours.state_dict(), strict=True)
        else:
            with torch.no_grad():
                for value in ours.state_dict().values():
                    value.zero_()
                for p in peer.parameters():
                    p.mul_(1.01)
            ours.load_state_dict(peer.state_dict(), strict=True)
        with torch.no_grad():
            image, text, scale = ours(images, packed(ids))
            their_image, their_text = (
                peer.encode_image(images, normalize=True),
                peer.encode_text(ids, normalize=True),
            )
        assert (image - their_image).abs().max() < 1e-5, (name, direction)
        assert (text - their_text).abs().max() < 1e-5, (name, direction)
        logits = (image @ text.T - their_image @ their_text.T).abs().max()
        assert logits < 1e-5, (name, direction)
        assert scale.item() == pytest.approx(peer.logit_scale.exp().item())


@pytest.mark.parametrize(
    "name", [n if n in ("RN50", "ViT-B-32") else pytest.param(n, marks=pytest.mark.slow) for n in TABLE]
)
def test_forward_equals_open_clip(name: str) -> None:
    open_clip = train_peers.open_clip()
    _compare_with_open_clip(
        name, ARCHITECTURES[name], open_clip.create_model(name, force_quick_gelu=True).eval()
    )


@pytest.mark.parametrize("name", ["ViT-B-32", pytest.param("ViT-L-14-336", marks=pytest.mark.slow)])
def test_forward_equals_transformers(name: str) -> None:
    transformers = train_peers.transformers()
    from train import convert_weights
    from train.tokenizer import Tokenizer

    architecture = ARCHITECTURES[name]
    ours = scrambled(architecture, 1)
    config = convert_weights._hf_config(architecture, Tokenizer([("a", "b")] * 48_894))
    config["text_config"]["eos_token_id"] = architecture.vocab_size - 1
    peer = transformers.CLIPModel(transformers.CLIPConfig(**config)).eval()
    missing, unexpected = peer.load_state_dict(convert_weights.to_hf(ours.state_dict()), strict=False)
    assert not unexpected and not missing
    ids, images = (
        captions(architecture, 3),
        torch.randn(3, 3, architecture.image_size, architecture.image_size),
    )
    with torch.no_grad():
        image, text, scale = ours(images, packed(ids))
        theirs = peer(input_ids=ids, pixel_values=images)
    assert (image - theirs.image_embeds).abs().max() < 1e-5
    assert (text - theirs.text_embeds).abs().max() < 1e-5
    assert ((scale * text @ image.T) - theirs.logits_per_text).abs().max() < 1e-3  # at a scale above 14
    back = convert_weights.to_native(peer.state_dict())
    assert back.keys() == ours.state_dict().keys()
    assert all(torch.equal(value, back[key]) for key, value in ours.state_dict().items())
