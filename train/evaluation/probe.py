"""Linear probes: logistic regression on frozen features by L-BFGS (section 3.2, appendix A).

The objective is scikit-learn's: the sum of cross-entropies times C, plus half the squared weights, the bias
free; here divided by C n. L-BFGS is torch's, in double precision, where the features are. It works in
coordinates that change neither objective nor minimum, but need tens of iterations instead of thousands, as
features are far from round: centred, which moves the bias alone; turned to the features' principal axes, as
weights across them would only cost; each axis scaled by the curvature that its variance and C give it.

Where examples have several classes (VOC2007) each class is a logistic regression of its own, all with one C:
scikit-learn's OneVsRestClassifier.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from train.evaluation.metrics import map11

Floats = npt.NDArray[np.float32]
Targets = npt.NDArray[np.int64] | npt.NDArray[np.bool_]
"""Class numbers [n], or, where examples have several classes, which of them each has, [n, classes]."""

MAX_ITERATIONS: Final = 1_000  # "a maximum of 1,000 iterations" (appendix A.3)
COARSE: Final = tuple(10.0**power for power in (-6, -4, -2, 0, 2, 4, 6))
"""Where the sweep starts (appendix A.3)."""
HALVINGS: Final = 4  # a spacing of 2 decades halved 4 times: 8 steps a decade


class Probe(NamedTuple):
    """A linear classifier; fields only."""

    weights: npt.NDArray[np.float64]
    """[classes, D]."""
    bias: npt.NDArray[np.float64]
    """[classes]."""

    def logits(self, features: Floats) -> npt.NDArray[np.float64]:
        """Return [n, classes]."""
        return features @ self.weights.T + self.bias


class Choice(NamedTuple):
    """The result of a sweep; fields only."""

    c: float
    tried: dict[float, float]
    """Validation accuracy by C, in rising order of C; 11-point mAP where examples have several classes."""
    parameters: "Parameters"
    """Those of the best C."""


Parameters = npt.NDArray[np.float64]
"""[classes, axes + 1]: weights on the principal axes, and the bias."""


class Problem:
    """Hold examples to fit on, and search for the best C on validation examples, all on one device."""

    def __init__(
        self, train: Floats, targets: Targets, validation: Floats, wanted: Targets, classes: int,
        device: torch.device, tell: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """Take float32 [n, D] with n targets, and float32 [m, D] with m targets."""
        self.classes, self.tell = classes, tell
        features, self._validation = (
            torch.from_numpy(part).to(device, torch.float64) for part in (train, validation)
        )
        self._targets, self._wanted = (torch.from_numpy(part).to(device) for part in (targets, wanted))
        self._mean = features.mean(dim=0)
        self._basis, self._variance = _principal_axes(features - self._mean)
        self._train = (features - self._mean) @ self._basis

    def fit(self, c: float) -> Parameters:
        """Return the parameters for one C, found from zero.

        Where classes can be separated, a large C leaves nearly nothing to stop the weights' growth, and where
        the search ends depends on where it began: so it always begins at zero, as scikit-learn's does.
        """
        n, axes = self._train.shape
        device = self._train.device
        # Softmax's curvature, p (1 - p), is about 1 / classes; an axis adds its variance, 1 / C n.
        several = self._targets.ndim == 2
        curvature = 1 / 4 if several else 1 / self.classes
        scale = (curvature / (curvature * self._variance + 1 / (c * n))).sqrt()
        parameters = torch.zeros(self.classes, axes + 1, dtype=torch.float64, device=device)
        parameters.grad = torch.zeros_like(parameters)
        gradient = parameters.grad
        loss = _of_each_class(self._targets) if several else _of_one_class(self._targets)
        optimizer = torch.optim.LBFGS(
            [parameters], max_iter=MAX_ITERATIONS, tolerance_grad=1e-6, tolerance_change=1e-10,
            history_size=20, line_search_fn="strong_wolfe",
        )  # fmt: skip

        def closure() -> Tensor:  # a small problem's time is autograd's
            weights, bias = parameters[:, :axes] * scale, parameters[:, axes]
            value, error = loss(self._train @ weights.T + bias)
            gradient[:, :axes] = (error.T @ self._train + weights / (c * n)) * scale
            gradient[:, axes] = error.sum(dim=0)
            return value + weights.square().sum() / (2 * c * n)

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        found = parameters.detach().clone()
        found[:, :axes] *= scale
        result: Parameters = found.cpu().numpy()
        return result

    def probe(self, parameters: Parameters) -> Probe:
        """Return parameters as a classifier of features."""
        given = torch.from_numpy(parameters).to(self._basis)
        weights = given[:, :-1] @ self._basis.T
        bias = given[:, -1] - weights @ self._mean
        return Probe(weights.cpu().numpy(), bias.cpu().numpy())

    def score(self, parameters: Parameters) -> float:
        """Return the share of validation examples that parameters get right, or their 11-point mAP."""
        given = torch.from_numpy(parameters).to(self._basis)
        coordinates = (self._validation - self._mean) @ self._basis
        scores = coordinates @ given[:, :-1].T + given[:, -1]
        if self._wanted.ndim == 2:
            return map11(scores.cpu().numpy(), self._wanted.cpu().numpy())(None)
        return float((scores.argmax(dim=1) == self._wanted).double().mean())

    def sweep(self, coarse: Sequence[float] = COARSE, halvings: int = HALVINGS) -> Choice:
        """Return the best C on the validation examples, a grid refined around its peak; of equals the least.

        Seven values two decades apart, then half the spacing around the peak until there are eight steps a
        decade: "a parametric binary search" over 96 steps from 1e-6 to 1e6 (appendix A.3).
        """
        tried: dict[float, float] = {}
        found: list[Parameters] = []  # of the best so far

        def measure(c: float) -> None:
            if c not in tried and coarse[0] <= c <= coarse[-1]:
                parameters = self.fit(c)
                tried[c] = self.score(parameters)
                if _peak(tried) == c:
                    found[:] = [parameters]
                self.tell()

        for c in coarse:
            measure(c)
        step = 1.0  # half of the two decades
        for _ in range(halvings):
            best = _peak(tried)
            for c in (best * 10**-step, best * 10**step):
                measure(float(f"{c:.6g}"))
            step /= 2
        return Choice(_peak(tried), dict(sorted(tried.items())), found[0])


Loss = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Returns the mean loss of scores [n, classes], and its gradient by them."""


def _of_one_class(targets: Tensor) -> Loss:
    given = targets[:, None]
    minus_one = -torch.ones_like(given, dtype=torch.float64)

    def loss(scores: Tensor) -> tuple[Tensor, Tensor]:
        log_shares = F.log_softmax(scores, dim=1)
        error = log_shares.exp().scatter_add_(1, given, minus_one).div_(len(targets))
        return F.nll_loss(log_shares, targets), error

    return loss


def _of_each_class(targets: Tensor) -> Loss:
    given = targets.double()

    def loss(scores: Tensor) -> tuple[Tensor, Tensor]:
        value = F.binary_cross_entropy_with_logits(scores, given, reduction="sum") / len(given)
        return value, (scores.sigmoid() - given).div_(len(given))

    return loss


def _principal_axes(centred: Tensor) -> tuple[Tensor, Tensor]:
    """Return the axes along which features vary [D, axes], and the variance along each [axes]."""
    n, width = centred.shape
    if n < width:
        _, singular, rows = torch.linalg.svd(centred, full_matrices=False)
        basis, variance = rows.T, singular.square() / n
    else:
        variance, basis = torch.linalg.eigh(centred.T @ centred / n)
    varied = variance > 1e-12 * variance.max()
    return basis[:, varied], variance[varied]


def _peak(tried: dict[float, float]) -> float:
    return min(tried, key=lambda c: (-tried[c], c))
