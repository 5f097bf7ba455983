"""The paper's baselines: captions predicted word for word, and as a bag of words."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from tests import eval_models
from tests.test_train_loop import config, lines, weights
from tests.test_train_model import SMALL_VIT, captions, packed
from tests.test_train_options import run  # noqa: F401
from train import checkpoint, predictive
from train.clip_trainer import fit
from train.options import TrainConfig
from train.predictive import BagOfWords, Captioner

OBJECTIVES = ["caption", "bag-of-words"]


def batch(count: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(count, 3, 32, 32, generator=generator), captions(SMALL_VIT, count)


def no_autocast() -> torch.autocast:
    return torch.autocast("cpu", enabled=False)


def naive_caption(model: Captioner, images: Tensor, ids: Tensor) -> tuple[Tensor, int]:
    """Compute each caption alone, with a whole matrix of attention: the sum and the number of tokens."""
    total, count = torch.zeros(()), 0
    for image, row in zip(images, ids, strict=True):
        tokens = row[: int(row.argmax()) + 1]
        x = model.token_embedding(tokens) + model.positional_embedding[: len(tokens)]
        first = model.visual(image[None])[0] @ model.text_projection.T
        x = torch.cat([x[:1] + first, x[1:]])
        x = model.transformer(x, packed(row[None]))
        logits = model.ln_final(x[:-1]) @ model.token_embedding.weight.T
        total = total + F.cross_entropy(logits, tokens[1:], reduction="sum")
        count += len(tokens) - 1
    return total, count


def naive_bag(model: BagOfWords, images: Tensor, ids: Tensor) -> tuple[Tensor, int]:
    """Compute the cross-entropy with the uniform distribution over each caption's words."""
    target = torch.zeros(len(ids), SMALL_VIT.vocab_size)
    for share, row in zip(target, ids, strict=True):
        share[row[1 : int(row.argmax())]] = 1
    target = target / target.sum(dim=1, keepdim=True).clamp(min=1)
    logits = model.visual(images) @ model.text_projection.T @ model.token_embedding.weight.T
    return F.cross_entropy(logits, target, reduction="sum"), len(ids)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_loss_and_gradient_are_the_definitions(objective: str, accumulate: int) -> None:
    made = predictive.MODELS[objective]
    ours, theirs = made(SMALL_VIT).initialise(0), made(SMALL_VIT).initialise(0)
    images, ids = batch()
    micro = [(i, packed(t)) for i, t in zip(images.chunk(accumulate), ids.chunk(accumulate), strict=True)]
    tokens = int((ids.argmax(dim=1) + 1).sum())
    assert isinstance(ours, predictive.Predictor)
    value = predictive.backward(ours, micro, no_autocast, ours.terms(tokens, len(ids)))
    naive = naive_caption if objective == "caption" else naive_bag
    total, count = naive(theirs, images, ids)  # type: ignore[arg-type]
    (total / count).backward()
    assert value.item() == pytest.approx(total.item() / count, rel=1e-5)
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None) == (not one.requires_grad), name
        if other.grad is not None:
            bound = 1e-5 * max(1e-3, float(other.grad.abs().max()))
            torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=bound, msg=name)


def test_classes_are_scored_by_likelihood_and_by_words() -> None:
    images, ids = batch(5)
    rows = [row[: int(row.argmax()) + 1].tolist() for row in ids[:3]]
    model = Captioner(SMALL_VIT).initialise(0).eval()
    scores = model.class_scores(images, rows)
    for image, own in zip(images, scores, strict=True):
        for row, score in zip(ids[:3], own, strict=True):
            expected, _ = naive_caption(model, image[None], row[None])
            assert score.item() == pytest.approx(-expected.item(), rel=1e-5)
    bag = BagOfWords(SMALL_VIT).initialise(0).eval()
    logits = bag.image_as_text(images) @ bag.token_embedding.weight.T
    words = sorted(set(rows[1][1:-1]))
    torch.testing.assert_close(bag.class_scores(images, rows)[:, 1], logits[:, words].mean(dim=1))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_predictive_run_learns_and_resumes_to_the_bit(
    objective: str,
    run: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    faces = eval_models.colours(tmp_path / "faces", 4)
    given = {"objective": objective, "max_steps": 24, "lr": 3e-3, "checkpoint_every": 12, "log_every": 4,
             "eval": (f"f={faces}",), "eval_every": 12, "ema": 0.5, "patch_dropout": 0.25}  # fmt: skip
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    result = fit(config(run, whole, **given))
    losses = [line["loss"] for line in lines(whole) if "loss" in line]
    assert losses[-1] < 0.8 * losses[0]  # type: ignore[operator]
    assert result.accuracy["f"] >= (0.5 if objective == "bag-of-words" else 0.25), "a bag learns sooner"
    shutil.copytree(whole, halved)
    shutil.rmtree(halved / "checkpoints/step-00000024")
    (halved / "checkpoints/latest").write_text("step-00000012")
    fit(config(run, halved, **given, resume=True))
    assert losses == [line["loss"] for line in lines(halved) if "loss" in line]
    left, right = weights(whole), weights(halved)
    assert all(torch.equal(one, right[name]) for name, one in left.items())
    with pytest.raises(ValueError, match=f"trained with --objective {objective}"):
        checkpoint.load_model(str(whole))
    assert math.isfinite(fit(config(run, tmp_path / "on", max_steps=1, init_from=str(whole))).loss)


def test_a_loss_of_another_objective_is_refused() -> None:
    with pytest.raises(ValueError, match="--loss siglip is of the contrastive objective"):
        TrainConfig(shards=("x",), out="y", objective="caption", loss="siglip")
