"""Probes against scikit-learn's logistic regression: minimum, predictions; the sweep; few-shot draws."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests import eval_models
from train.evaluation import fewshot, sets
from train.evaluation.features import encode
from train.evaluation.metrics import map11
from train.evaluation.models import Encoder
from train.evaluation.probe import COARSE, Problem
from train.evaluation.probe_tasks import validation_rows

pytestmark = pytest.mark.usefixtures("one_thread")

linear_model = pytest.importorskip("sklearn.linear_model")
CLOTHING = Path(__file__).resolve().parents[2] / "shared/data/images/clothing_cc0"
CPU = torch.device("cpu")


def blobs(n: int, width: int, classes: int, seed: int = 0, spread: float = 2.0):
    """Return features far from round: means away from zero, scales over three decades, correlated."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(classes, width))
    targets = random.integers(classes, size=n)
    features = (centres[targets] + spread * random.normal(size=(n, width))) * np.logspace(
        -1.5, 1.5, width
    ) + 5
    features[:, 0] += features[:, -1]
    return features.astype(np.float32), targets.astype(np.int64)


def fitted(features, targets, classes, c):
    problem = Problem(features, targets, features, targets, classes, CPU)
    return problem.probe(problem.fit(c))


def objective(weights, bias, features, targets, c):
    logits = features.astype(float) @ weights.T + bias
    losses = np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(targets)), targets]
    return losses.sum() * c + 0.5 * (weights**2).sum()


@pytest.mark.parametrize("c", [1e-4, 1e-2, 1.0, 100.0])
def test_the_minimum_is_scikit_learns(c):
    features, targets = blobs(400, 12, 3)
    reference = linear_model.LogisticRegression(C=c, max_iter=20_000, tol=1e-8, solver="newton-cholesky")
    reference.fit(features.astype(float), targets)
    probe = fitted(features, targets, 3, c)
    theirs = objective(reference.coef_, reference.intercept_, features, targets, c)
    ours = objective(probe.weights, probe.bias, features, targets, c)
    assert ours == pytest.approx(theirs, rel=1e-7)
    assert np.abs(probe.weights - reference.coef_).max() < 1e-3 * np.abs(reference.coef_).max()
    difference = probe.logits(features) - reference.decision_function(features.astype(float))
    difference -= difference.mean(axis=1, keepdims=True)  # softmax does not see a common shift
    assert np.abs(difference).max() < 1e-2


def test_fewer_examples_than_features():
    features, targets = blobs(12, 64, 3)
    targets = np.arange(12) % 3
    reference = linear_model.LogisticRegression(C=0.5, max_iter=20_000, tol=1e-8)
    reference.fit(features.astype(float), targets)
    probe = fitted(features, targets, 3, 0.5)
    theirs = objective(reference.coef_, reference.intercept_, features, targets, 0.5)
    assert objective(probe.weights, probe.bias, features, targets, 0.5) == pytest.approx(theirs, rel=1e-6)


def test_constant_features_carry_no_weight():
    features, targets = blobs(100, 5, 2)
    features[:, 2] = 7
    assert np.abs(fitted(features, targets, 2, 1.0).weights[:, 2]).max() < 1e-9


def test_the_sweep_finds_the_peak_to_an_eighth_of_a_decade():
    features, targets = blobs(60, 40, 3, spread=3.0)
    held, wanted = blobs(1_500, 40, 3, spread=3.0)
    problem = Problem(features, targets, held, wanted, 3, CPU)
    choice = problem.sweep()
    assert choice.c == min(choice.tried, key=lambda c: (-choice.tried[c], c))
    assert (
        set(COARSE) < set(choice.tried)
        and len(choice.tried) <= 15
        and list(choice.tried) == sorted(choice.tried)
    )
    near = sorted(abs(np.log10(c / choice.c)) for c in choice.tried)[1]
    assert near == pytest.approx(0.125, abs=1e-3)
    again = problem.fit(choice.c)
    assert choice.tried[choice.c] == problem.score(again) and np.array_equal(choice.parameters, again)


@pytest.mark.skipif(not CLOTHING.exists(), reason="needs the sample data beside the checkout")
def test_on_photographs_accuracy_is_scikit_learns_within_a_tenth_of_a_point():
    encoder = Encoder(
        name="m", path="", model=eval_models.model(), tokenizer=eval_models.tokenizer(), device=CPU,
        precision="fp32", fingerprint="",
    )  # fmt: skip
    with sets.decoders(encoder.size, 2) as decoders:
        train = encode(encoder, "train", sets.examples(str(CLOTHING / "train"), 400), 64, decoders)
        test = encode(encoder, "test", sets.examples(str(CLOTHING / "validation")), 64, decoders)
    names = sorted(set(train.labels))
    targets, wanted = (np.array([names.index(one) for one in part.labels]) for part in (train, test))
    for c in (0.01, 1.0):
        reference = linear_model.LogisticRegression(C=c, max_iter=5_000, tol=1e-6)
        reference.fit(train.features.astype(float), targets)
        theirs = reference.predict(test.features.astype(float))
        guesses = fitted(train.features, targets, len(names), c).logits(test.features).argmax(axis=1)
        assert abs((guesses == wanted).mean() - (theirs == wanted).mean()) <= 0.001
        assert (guesses == theirs).mean() >= 0.997


# ---- few-shot


def test_draws_hold_k_of_each_class_nested_and_seeded():
    targets = np.random.default_rng(0).integers(5, size=200)
    members = targets[:, None] == np.arange(5)
    drawn = fewshot.draw(members, 16, seed=3, number=1)
    assert [len(rows) for rows in drawn] == [16] * 5
    assert all((targets[rows] == one).all() and len(set(rows)) == 16 for one, rows in enumerate(drawn))
    few, many = (set(fewshot.shots(drawn, count)) for count in (2, 8))
    assert few < many and len(few) == 10
    again, other = (fewshot.draw(members, 16, seed=3, number=number) for number in (1, 2))
    assert all((a == b).all() for a, b in zip(drawn, again, strict=True))
    assert any((a != b).any() for a, b in zip(drawn, other, strict=True))
    few = np.array([[True, False], [True, False], [True, True]])
    drawn = fewshot.draw(few, 16, 0, 0)
    assert drawn[1].tolist() == [2], "a small class gives what it has"
    assert sorted(fewshot.shots(drawn, 16)) == [0, 1, 2], "an example of both is taken once"


def test_shots_to_match_are_interpolated_in_the_logarithm():
    curve = [(1, 0.2), (2, 0.4), (4, 0.5), (8, 0.45), (16, 0.7)]
    assert fewshot.shots_to_match(0.4, curve) == pytest.approx(2)
    assert fewshot.shots_to_match(0.45, curve) == pytest.approx(2 * 2**0.5)
    assert fewshot.shots_to_match(0.6, curve) == pytest.approx(8 * 2**0.6)
    assert fewshot.shots_to_match(0.1, curve) == 1
    assert fewshot.shots_to_match(0.9, curve) is None


def test_a_fifth_of_each_class_is_held_out():
    labels = [["a"]] * 50 + [["b"]] * 10 + [["c"]]
    ids = [f"{number}.jpg" for number in range(61)]
    held = validation_rows(labels, ids, 0)
    assert (held[:50].sum(), held[50:60].sum(), held[60]) == (10, 2, False)
    order = np.random.default_rng(0).permutation(61)
    moved = validation_rows([labels[row] for row in order], [ids[row] for row in order], 0)
    assert (moved == held[order]).all(), "it depends on ids, not on order"
    assert (validation_rows(labels, ids, 1) != held).any()
    with pytest.raises(ValueError, match="--validation"):
        validation_rows([["a"], ["b"]], ["1", "2"], 0)
    several = [["a", "b"], ["a"], ["b"], ["a", "c"], *[["a"]] * 6]
    held = validation_rows(several, [str(number) for number in range(10)], 0)
    kept = {label for own, out in zip(several, held, strict=True) for label in own if not out}
    assert kept == {"a", "b", "c"} and 1 <= held.sum() <= 3


# ---- several classes per example


@pytest.mark.parametrize("c", [0.01, 1.0])
def test_with_several_classes_the_minimum_is_scikit_learns_one_against_the_rest(c):
    multiclass = pytest.importorskip("sklearn.multiclass")
    random = np.random.default_rng(5)
    features = random.normal(size=(240, 12)).astype(np.float32)
    truth = features @ random.normal(size=(12, 6)) + random.normal(size=(240, 6)) > 1.5
    fit, held = slice(0, 160), slice(160, 240)
    problem = Problem(features[fit], truth[fit], features[held], truth[held], 6, CPU)
    own = problem.probe(problem.fit(c)).logits(features[held])
    peer = multiclass.OneVsRestClassifier(linear_model.LogisticRegression(C=c, tol=1e-10, max_iter=10_000))
    theirs = peer.fit(features[fit].astype(np.float64), truth[fit]).decision_function(features[held])
    np.testing.assert_allclose(own, theirs, atol=1e-4)
    assert map11(own, truth[held])(None) == pytest.approx(map11(theirs, truth[held])(None), abs=1e-6)
    choice = problem.sweep(halvings=1)
    assert choice.tried[choice.c] == max(choice.tried.values()) > 0.5
