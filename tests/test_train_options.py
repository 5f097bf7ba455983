"""Features beside CLIP's recipe, each against open_clip or torch's own, resumed, exported."""

import shutil
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.data import architectures
from pipeline.data.architectures import ARCHITECTURES, Architecture
from tests import eval_models, train_peers, train_shards
from tests.test_train_loop import arguments, config, equal, lines, prepared, spawn, weights
from tests.test_train_model import SMALL_RESNET, SMALL_VIT, captions, packed, scrambled
from train import checkpoint, cli, data, flops, gradcache
from train.average import Average
from train.caption_fields import CaptionFields
from train.clip_trainer import fit
from train.evaluation import models
from train.evaluation.options import EvalConfig
from train.loss import contrastive_loss, sigmoid_loss
from train.model import CLIP

CLOSE = 1e-5
VIT = {"vision_layers": 2, "patch_size": 8, "vision_width": 64, "text_width": 64, "embed_dim": 32}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a run's folder; `tiny` is a small ViT."""
    small = replace(ARCHITECTURES["tiny"], **VIT)
    monkeypatch.setitem(architectures.ARCHITECTURES, "tiny", small)
    return train_shards.write_run(tmp_path / "run", [20, 24, 20])


def peer(architecture: Architecture, **options: object) -> torch.nn.Module:
    """Return open_clip's model of an architecture, with the same random weights as `scrambled` gives."""
    a = architecture
    vision = {"image_size": a.image_size, "width": a.vision_width, "layers": a.vision_layers, **options}
    if a.patch_size:
        vision["patch_size"] = a.patch_size
    else:
        vision["layers"] = list(a.vision_layers)  # type: ignore[arg-type]
    text = {"context_length": 77, "vocab_size": a.vocab_size, "width": a.text_width, "heads": a.text_heads,
            "layers": a.text_layers}  # fmt: skip
    bias = {"init_logit_bias": -10.0} if a.logit_bias else {}
    model = train_peers.open_clip().CLIP(a.embed_dim, vision, text, quick_gelu=True, **bias)
    model.load_state_dict(scrambled(a).state_dict())
    return model.train()


def step_of(
    model: CLIP, architecture: Architecture, loss: Callable[..., Tensor], accumulate: int = 1
) -> float:
    """Add the gradients of one batch; return its loss."""
    images, ids = batch(architecture)
    micro = [(i, packed(t)) for i, t in zip(images.chunk(accumulate), ids.chunk(accumulate), strict=True)]
    return float(gradcache.backward(model, micro, lambda: torch.autocast("cpu", enabled=False), loss))


def batch(architecture: Architecture, count: int = 8) -> tuple[Tensor, Tensor]:
    """Return random images and padded captions."""
    size = architecture.image_size
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, size, size, generator=generator), captions(architecture, count)


def peers_step(model: torch.nn.Module, architecture: Architecture, loss: torch.nn.Module) -> float:
    """Add open_clip's gradients of the same batch; return its loss."""
    images, ids = batch(architecture)
    image, text, *scalars = model(images, ids)
    value = loss(image, text, *scalars)
    value.backward()
    return value.item()


def assert_same(ours: CLIP, theirs: torch.nn.Module) -> None:
    """Compare gradients, within CLOSE of the largest of a parameter, and which parameters have a gradient."""
    found = dict(theirs.named_parameters())
    largest = max(float(one.grad.abs().max()) for one in found.values() if one.grad is not None)
    for name, parameter in ours.named_parameters():
        expected = found.pop(name).grad
        if expected is None:
            assert parameter.grad is None, name
        else:
            bound = CLOSE * max(largest / 100, float(expected.abs().max()))  # some are only rounding
            torch.testing.assert_close(parameter.grad, expected, rtol=0, atol=bound, msg=name)
    assert not found


SIGMOID_VIT = replace(SMALL_VIT, logit_bias=True)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_siglip_equals_open_clips_in_loss_and_gradient(accumulate: int) -> None:
    ours, theirs = scrambled(SIGMOID_VIT).train(), peer(SIGMOID_VIT)
    value = step_of(ours, SIGMOID_VIT, sigmoid_loss, accumulate)
    expected = peers_step(theirs, SIGMOID_VIT, train_peers.open_clip().loss.SigLipLoss())
    assert value == pytest.approx(expected, rel=CLOSE)
    assert ours.logit_bias is not None and ours.logit_bias.grad is not None
    assert_same(ours, theirs)


@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_siglip_in_chunks_is_the_formula(chunk: int) -> None:
    generator = torch.Generator().manual_seed(0)
    image, text = (F.normalize(torch.randn(10, 8, generator=generator), dim=1) for _ in range(2))
    scale, bias = torch.tensor(20.0), torch.tensor(-7.0)
    leaves = [x.clone().requires_grad_() for x in (image, text, scale, bias)]
    exact = [x.double().requires_grad_() for x in (image, text, scale, bias)]
    value = sigmoid_loss(*leaves, chunk=chunk)
    signs = 2 * torch.eye(10, dtype=torch.double) - 1
    formula = -F.logsigmoid(signs * (exact[2] * exact[0] @ exact[1].T + exact[3])).sum() / 10
    assert value.item() == pytest.approx(formula.item(), rel=1e-6)
    (2 * value).backward()
    (2 * formula).backward()
    for left, right in zip(leaves, exact, strict=True):
        torch.testing.assert_close(left.grad, right.grad.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tower", ["image", "text"])
@pytest.mark.parametrize("architecture", [SMALL_VIT, SMALL_RESNET], ids=["vit", "resnet"])
def test_a_locked_tower_equals_open_clips(architecture: Architecture, tower: str) -> None:
    ours, theirs = scrambled(architecture).train(), peer(architecture)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    ours.lock(tower)  # type: ignore[arg-type]
    if tower == "image":
        theirs.lock_image_tower()
        theirs.visual.eval()  # its statistics are to stay, too, which open_clip has an option for
    else:
        theirs.lock_text_tower()
    value = step_of(ours, architecture, contrastive_loss)
    expected = peers_step(theirs, architecture, train_peers.open_clip().loss.ClipLoss())
    assert value == pytest.approx(expected, rel=CLOSE)
    assert_same(ours, theirs)
    for name, after in ours.state_dict().items():
        if name.startswith("visual.") and tower == "image":
            assert torch.equal(before[name], after), "batch statistics stay too"


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_patch_dropout_equals_open_clips(share: float) -> None:
    ours, theirs = scrambled(SMALL_VIT).train(), peer(SMALL_VIT, patch_dropout=share)
    images, ids = batch(SMALL_VIT)
    cells = SMALL_VIT.grid**2
    torch.manual_seed(5)  # open_clip draws from the global generator
    expected = peers_step(theirs, SMALL_VIT, train_peers.open_clip().loss.ClipLoss())
    torch.manual_seed(5)
    kept = torch.randn(len(images), cells).topk(max(1, int(cells * (1 - share)))).indices
    micro = [(i, packed(t), k) for i, t, k in zip(images.chunk(2), ids.chunk(2), kept.chunk(2), strict=True)]
    value = gradcache.backward(ours, micro, lambda: torch.autocast("cpu", enabled=False))
    assert value.item() == pytest.approx(expected, rel=CLOSE)
    assert_same(ours, theirs)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        ours.visual(images[:1], kept[:1])
    assert counter.get_total_flops() == flops.image_flops(SMALL_VIT, kept.shape[1])


@pytest.mark.parametrize("architecture", [SMALL_VIT, SMALL_RESNET], ids=["vit", "resnet"])
def test_recomputed_activations_give_open_clips_gradients(architecture: Architecture) -> None:
    ours, theirs = scrambled(architecture).train(), peer(architecture)
    ours.set_checkpointing(True)
    theirs.set_grad_checkpointing(True)
    value = step_of(ours, architecture, contrastive_loss)
    assert value == pytest.approx(
        peers_step(theirs, architecture, train_peers.open_clip().loss.ClipLoss()), rel=CLOSE
    )
    assert_same(ours, theirs)


def test_the_average_is_torchs() -> None:
    model = CLIP(SMALL_RESNET).initialise(0).train()
    ours = Average(model, 0.9)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    theirs.update_parameters(model)  # its first update copies
    for seed in range(3):
        with torch.no_grad():
            for value in model.state_dict().values():
                value.add_(torch.randn(value.shape, generator=torch.Generator().manual_seed(seed)).to(value))
        ours.update(model)
        theirs.update_parameters(model)
    for name, expected in theirs.module.state_dict().items():
        if expected.is_floating_point():
            torch.testing.assert_close(ours.tensors[name], expected, rtol=1e-6, atol=1e-7, msg=name)
        else:
            assert torch.equal(ours.tensors[name], model.state_dict()[name]), "counts are copied"


# ---- captions


def test_caption_fields_are_drawn_as_open_clip_draws_them() -> None:
    """open_clip orders fields by drawing without replacement, and takes the first that is not empty."""
    fields = CaptionFields.parse(["a=3", "b=1", "c=2", "txt=0", "d=0"])
    rows: list[dict[str, object]] = [
        {"a": "A", "b": "B", "c": "C", "d": "D"}, {"a": " ", "b": "B", "c": "C"}, {"d": "D", "c": ""}, {},
    ]  # fmt: skip
    shares = [{"A": 1 / 2, "B": 1 / 6, "C": 1 / 3}, {"B": 1 / 3, "C": 2 / 3}, {"T": 1.0}, {"T": 1.0}]
    random = np.random.default_rng(0)
    for row, expected in zip(rows, shares, strict=True):
        drawn = Counter(fields.draw(row, "T", random) for _ in range(3_000))
        assert drawn.keys() == expected.keys()
        assert all(abs(drawn[text] / 3_000 - share) < 0.04 for text, share in expected.items())
    assert fields.draw({"d": ["", "E"]}, "", random) == "E" and fields.draw({"a": 3}, "\n", random) is None


@pytest.mark.parametrize("arguments", [["=1"], ["a=x"], ["a=-1"], ["a=nan"], ["a", "a=2"], ["a=0", "b=0"]])
def test_caption_fields_that_cannot_be_meant(arguments: list[str]) -> None:
    with pytest.raises(ValueError, match="--captions"):
        CaptionFields.parse(arguments)


# ---- runs


OPTIONS: dict[str, dict[str, object]] = {
    "image": {"lock": "image"},
    "all": {
        "loss": "siglip",
        "ema": 0.8,
        "lock": "text",
        "checkpointing": True,
        "accumulate": 2,
        "patch_dropout": 0.5,
        "captions": ("caption=1", "captions=2"),
    },
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_run_with_the_option_resumes_to_the_bit(name: str, run: Path, tmp_path: Path) -> None:
    given = {"max_steps": 5, "checkpoint_every": 2, "keep_checkpoints": 9, "log_every": 1, **OPTIONS[name]}
    fit(config(run, tmp_path / "first", max_steps=1))
    start = {"init_from": str(tmp_path / "first")}
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    fit(config(run, whole, **given, **start))
    shutil.copytree(whole, halved)
    for gone in ("step-00000004", "step-00000005"):
        shutil.rmtree(halved / "checkpoints" / gone)
    (halved / "checkpoints/latest").write_text("step-00000002")
    fit(config(run, halved, **given, resume=True))
    ends = [tmp_path / side / "checkpoints/step-00000005" for side in ("whole", "halved")]
    files = [sorted(end.glob("*.safetensors")) for end in ends]
    for one, other in zip(*files, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
    assert [line["loss"] for line in lines(whole)] == [line["loss"] for line in lines(halved)]
    assert ("average.safetensors" in {one.name for one in files[0]}) == ("ema" in given)
    before, after = weights(tmp_path / "first"), weights(whole)
    same = {name for name in before if torch.equal(before[name], after[name])}
    own = {name for name in before if name.startswith("visual.") == (given["lock"] == "image")}
    assert same == own - {"logit_scale"}
    changed = next(iter(OPTIONS[name]))
    with pytest.raises(ValueError, match=f"these are others now: .*{changed}"):
        fit(config(run, halved, **{k: v for k, v in given.items() if k != changed}, resume=True))


def test_the_average_is_evaluated_and_exported(run: Path, tmp_path: Path) -> None:
    fit(config(run, tmp_path / "out", max_steps=3, ema=0.5, log_every=1))
    folder = Path(checkpoint.find(str(tmp_path / "out")))
    average, plain = (load_file(folder / f"{name}.safetensors") for name in ("average", "model"))
    assert not equal(average, plain)
    assert equal(dict(checkpoint.load_model(str(tmp_path / "out")).model.state_dict()), average)
    export = ["--checkpoint", str(tmp_path / "out"), "--format", "open_clip", "--out", str(tmp_path / "x")]
    assert cli.export_main(export) == 0
    assert equal(load_file(tmp_path / "x/open_clip_model.safetensors"), average)
    going = prepared(config(run, tmp_path / "b", init_from=str(tmp_path / "out")))
    assert going.initial is not None and equal(going.initial, average)


def test_a_siglip_run_is_evaluated_and_exported(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fit(config(run, out, max_steps=2, loss="siglip"))
    loaded = checkpoint.load_model(str(out))
    assert loaded.model.logit_bias is not None and loaded.model.logit_bias != -10
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = loaded.model.encode_image(images)
    evaluation = EvalConfig(checkpoint=(str(out),), data=("x=x",), task=("zeroshot",), out="y")
    for layout in ("open_clip", "openai", "hf"):
        export = ["--checkpoint", str(out), "--format", layout, "--out", str(tmp_path / layout)]
        assert cli.export_main(export) == 0
        encoder = models.load(models.ModelSource("x", str(tmp_path / layout)), evaluation)
        torch.testing.assert_close(encoder.encode(images)[1], expected, rtol=0, atol=CLOSE)
        assert (encoder.model.logit_bias is not None) == (layout == "open_clip")
    peers = train_peers.open_clip()
    model, _, _ = peers.create_model_and_transforms(f"local-dir:{tmp_path / 'open_clip'}")
    assert model.logit_bias.item() == loaded.model.logit_bias.item()


def test_siglip_starts_from_weights_of_either_kind(run: Path, tmp_path: Path) -> None:
    fit(config(run, tmp_path / "soft", max_steps=1))
    setup = prepared(config(run, tmp_path / "x", init_from=str(tmp_path / "soft"), loss="siglip"))
    assert setup.initial is not None and setup.architecture.logit_bias
    assert float(setup.initial["logit_bias"]) == -10
    assert float(setup.initial["logit_scale"]) == pytest.approx(2.302585)
    fit(config(run, tmp_path / "sigmoid", max_steps=1, init_from=str(tmp_path / "soft"), loss="siglip"))
    back = prepared(config(run, tmp_path / "y", init_from=str(tmp_path / "sigmoid")))
    assert back.initial is not None and "logit_bias" not in back.initial


def test_the_plan_says_what_an_option_costs(run: Path, tmp_path: Path) -> None:
    fit(config(run, tmp_path / "first", max_steps=1))
    whole = prepared(config(run, tmp_path / "a"))
    locked = prepared(config(run, tmp_path / "b", init_from=str(tmp_path / "first"), lock="image", ema=0.9))
    assert 3 * locked.image_flops == whole.image_flops
    assert "the image tower is locked; weights averaged in a second copy" in locked.summary()


def test_patches_are_the_samples_own(run: Path, tmp_path: Path) -> None:
    """Another at each epoch, and the same on any number of processes and in micro-batches of any size."""
    setup = prepared(config(run, tmp_path / "a", patch_dropout=0.75))
    assert "4 of 16 patches" in setup.summary() and setup.kept == 4

    def kept(ranks: int, accumulate: int) -> Tensor:
        shapes = [replace(setup.shape, ranks=ranks, rank=r, accumulate=accumulate) for r in range(ranks)]
        steps = [
            [batch.micro for batch in data.load(pieces_of(shape), 0, 5, 0, torch.device("cpu"))]
            for shape in shapes
        ]
        return torch.stack([
            torch.cat([kept for rank in steps for _, _, kept in rank[step]]) for step in range(5)
        ])  # fmt: skip

    def pieces_of(shape: data.Shape) -> data.Pieces:
        return data.Pieces(setup.sampler, shape, setup.tokenizer, 32, "paper", setup.cache, patches=(4, 16))

    alone = kept(1, 1)
    assert alone.shape == (5, 16, 4) and torch.equal(alone, kept(2, 2))
    assert len({tuple(row) for row in alone.flatten(0, 1).tolist()}) > 60
    assert bool((alone.diff(dim=-1) > 0).all()) and int(alone.max()) == 15 and int(alone.min()) == 0


@pytest.mark.slow
def test_a_run_shared_out_over_processes_is_the_run_of_one(tmp_path: Path) -> None:
    """Losses, the average's accuracy, and checkpoints that go on with another number of processes."""
    run = train_shards.write_run(tmp_path / "run", [20, 24, 20])
    faces = eval_models.colours(tmp_path / "faces", 2)
    common = ["--max-steps", "4", "--log-every", "1", "--checkpoint-every", "2", "--ema", "0.5",
              "--grad-clip", "1", "--loss", "siglip", "--eval", f"f={faces}"]  # fmt: skip
    for name, more in (("fsdp", ["--fsdp"]), ("ddp", [])):
        spawn_two([*arguments(run, tmp_path / name), *common, *more])
    left, right = (
        [line["loss"] for line in lines(tmp_path / name) if "loss" in line] for name in ("fsdp", "ddp")
    )
    assert left == pytest.approx(right, rel=1e-5) and len(left) == 4
    both = [(tmp_path / name / "checkpoints/step-00000002") for name in ("fsdp", "ddp")]
    for file in ("model", "average", "optimizer"):
        tensors = [load_file(folder / f"{file}.safetensors") for folder in both]
        assert tensors[0].keys() == tensors[1].keys()
        for name, one in tensors[0].items():
            torch.testing.assert_close(one, tensors[1][name], rtol=1e-3, atol=1e-4, msg=f"{file} {name}")
    (tmp_path / "fsdp/checkpoints/latest").write_text("step-00000002")
    shutil.rmtree(tmp_path / "fsdp/checkpoints/step-00000004")
    shutil.copytree(tmp_path / "fsdp", tmp_path / "again")
    spawn_two([*arguments(run, tmp_path / "again"), *common, "--fsdp", "--resume"])
    assert [line["loss"] for line in lines(tmp_path / "again") if "loss" in line] == left, "to the bit"
    assert cli.main([*arguments(run, tmp_path / "fsdp"), *common, "--resume"]) == 0
    alone = [line["loss"] for line in lines(tmp_path / "fsdp") if "loss" in line]
    assert alone == pytest.approx(left, rel=0.1), "batch norms see the whole batch"


def spawn_two(command: list[str]) -> None:
    """Run `openwit train` in two processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": "2",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    processes = [spawn(command, **environment, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(2)]
    for process in processes:
        errors = process.communicate(timeout=240)[1]
        assert process.returncode == 0, errors[-3000:]


def test_a_resnet_has_no_patches(tmp_path: Path) -> None:
    run = train_shards.write_run(tmp_path / "run", [20, 24, 20])
    with pytest.raises(ValueError, match="--patch-dropout leaves out patches of a ViT, and tiny is a ResNet"):
        prepared(config(run, tmp_path / "a", patch_dropout=0.5))


def test_captions_of_fields_that_are_not_there_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no caption"):
        prepared(config(run, tmp_path / "a", captions=("recaption",)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"patch_dropout": 1.0}, "at least 0 and below 1"),
        ({"patch_dropout": 0.5, "lock": "image", "init_from": "x"}, "--lock image trains none"),
        ({"captions": ("a=b",)}, "give NAME=WEIGHT"),
        ({"lock": "image"}, "give its weights with --init-from"),
        ({"ema": 1.0}, "must lie between 0 and 1"),
    ],
)
def test_options_that_cannot_be_meant(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(Path("x"), Path("y"), **given)
