"""An evaluation's results.json computed again, by other programs than the evaluation itself.

open_clip encodes pictures and prompts and makes the zero-shot classifier; scikit-learn fits the probes and
computes the metrics, SciPy the intervals. Taken over from openwit are choices, not numbers: the decoded
pictures and their corruptions, the prompts, which training examples choose C, the published few-shot draws.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import stats
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression

from pipeline.data import evalsets
from tests import train_peers
from train.evaluation import corruptions, prompts
from train.evaluation.probe import COARSE
from train.evaluation.probe_tasks import validation_rows
from train.image_transforms import evaluation_image

CONFIDENCE = 0.95
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])  # openai/CLIP, clip.py
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])
Values = dict[str, Any]


class Split(NamedTuple):
    """A split's examples, decoded; fields only."""

    ids: list[str]
    targets: np.ndarray
    pixels: np.ndarray


class Encoded(NamedTuple):
    """A peer's results on pictures; fields only."""

    features: np.ndarray
    """float64 [n, D], before the projection."""
    scores: np.ndarray
    """float32 [n, classes]: zero-shot with the ensemble."""


def read(path: Path, names: list[str], size: int) -> Split:
    """Return a folder's examples in the order in which openwit reads them."""
    found = list(evalsets.read(str(path)))
    targets = np.array([names.index(one.label) for one in found])
    pixels = np.stack([evaluation_image(one.image, size) for one in found])
    return Split([one.example_id for one in found], targets, pixels)


class Peer:
    """An open_clip model of exported weights, and its zero-shot classifiers of a set's classes."""

    def __init__(self, exported: Path, dataset: str, names: list[str]) -> None:
        open_clip = train_peers.open_clip()
        self.model = open_clip.create_model(f"local-dir:{exported}").eval()
        tokenize = open_clip.get_tokenizer(f"local-dir:{exported}")
        self.size = int(np.max(self.model.visual.image_size))  # one number for ResNets, two for ViTs
        given = prompts.for_set(dataset)
        lists = {"ensemble": given.ensemble, "single_template": (given.single,), "class_name": ("{}",)}
        self.weights = {
            kind: open_clip.build_zero_shot_classifier(
                self.model, tokenize, [name.replace("_", " ") for name in names],
                [lambda name, line=line: line.replace("{}", name) for line in lines], device="cpu",
            )
            for kind, lines in lists.items()
        }  # fmt: skip
        self.scale = float(self.model.logit_scale.detach().exp())
        self.templates = len(given.ensemble), given.single

    @torch.no_grad()
    def features(self, pixels: np.ndarray) -> torch.Tensor:
        """Return the image tower's output before its projection; a ResNet's pool has none after it."""
        visual, parts = self.model.visual, []
        projection = getattr(visual, "proj", None)
        if projection is not None:
            visual.proj = None
        for start in range(0, len(pixels), 500):
            scaled = torch.from_numpy(pixels[start : start + 500]).float() / 255
            parts.append(self.model.encode_image(((scaled - MEAN) / STD).permute(0, 3, 1, 2)))
        if projection is not None:
            visual.proj = projection
        return torch.cat(parts)

    @torch.no_grad()
    def scores(self, features: torch.Tensor, kind: str = "ensemble") -> np.ndarray:
        """Return zero-shot logits of features."""
        projection = getattr(self.model.visual, "proj", None)
        embedded = features if projection is None else features @ projection
        embedded = torch.nn.functional.normalize(embedded, dim=-1)
        return np.asarray((self.scale * embedded @ self.weights[kind]).numpy())

    def encode(self, pixels: np.ndarray) -> Encoded:
        """Return features and ensemble scores."""
        found = self.features(pixels)
        return Encoded(found.double().numpy(), self.scores(found))


# ---- metrics and intervals


def exact(right: np.ndarray) -> tuple[float, float]:
    interval = stats.binomtest(int(right.sum()), len(right)).proportion_ci(CONFIDENCE, "exact")
    return interval.low, interval.high


def student(draws: Sequence[float]) -> tuple[float, float]:
    if len(draws) < 2:
        return math.nan, math.nan
    low, high = stats.t.interval(CONFIDENCE, len(draws) - 1, np.mean(draws), stats.sem(draws))
    return float(low), float(high)


def bootstrap(measure: Callable[[np.ndarray], float], n: int, count: int) -> tuple[float, float]:
    """Return percentile ends of a measure of drawn rows."""
    random = np.random.default_rng(1)
    drawn = [measure(random.integers(n, size=n)) for _ in range(count)]
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def of_difference(difference: np.ndarray) -> tuple[float, float]:
    return bootstrap(lambda rows: float(difference[rows].mean()), len(difference), 1_000)


def map11(scores: np.ndarray, targets: np.ndarray) -> float:
    """Return PASCAL VOC 2007's mean average precision from scikit-learn's curves; logits are ranked."""
    values = []
    for one in np.unique(targets):
        precision, recall, _ = sk.precision_recall_curve(targets == one, scores[:, one])
        precision, recall = precision[:-1], recall[:-1]  # the last point, 1 at 0, is no threshold's
        values.append(np.mean([precision[recall >= level - 5e-10].max() for level in np.linspace(0, 1, 11)]))
    return float(np.mean(values))


def auc(chances: np.ndarray, targets: np.ndarray) -> float:
    return float(np.mean([sk.roc_auc_score(targets == one, chances[:, one]) for one in np.unique(targets)]))


def softmax(scores: np.ndarray) -> np.ndarray:
    return np.asarray(torch.from_numpy(scores).double().softmax(dim=1).numpy())


def measured(scores: np.ndarray, targets: np.ndarray, most: int) -> tuple[Values, Values]:
    """Return metrics and intervals; ranked metrics are drawn `most` times."""
    first, chances, n = scores.argmax(axis=1), softmax(scores), len(targets)
    labels = np.arange(scores.shape[1])
    best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    values = {
        "acc1": sk.accuracy_score(targets, first),
        "mean_per_class_recall": sk.balanced_accuracy_score(targets, first),
        "roc_auc": auc(chances, targets), "map11": map11(scores, targets),
        "examples": n,
    }  # fmt: skip
    ends = {
        "acc1": exact(first == targets),
        "mean_per_class_recall": bootstrap(
            lambda rows: float(sk.recall_score(targets[rows], first[rows], average="macro")), n, 200
        ),
        "roc_auc": bootstrap(lambda rows: auc(chances[rows], targets[rows]), n, most),
        "map11": bootstrap(lambda rows: map11(scores[rows], targets[rows]), n, most),
    }
    if scores.shape[1] > 5:
        values["acc5"] = sk.top_k_accuracy_score(targets, scores, k=5, labels=labels)
        ends["acc5"] = exact((best == targets[:, None]).any(axis=1))
    return values, ends


def confused(targets: np.ndarray, answered: np.ndarray, names: list[str]) -> Values:
    """Return accuracy by class and the confusions of each class, from scikit-learn's matrix."""
    matrix = sk.confusion_matrix(targets, answered, labels=range(len(names)))
    recall = sk.recall_score(targets, answered, labels=range(len(names)), average=None)
    rows = [
        {"name": name, "examples": int(matrix[n].sum()), "accuracy": float(recall[n]),
         "mistakes": int(max(np.delete(matrix[n], n)))}
        for n, name in enumerate(names)
    ]  # fmt: skip
    shares = sk.confusion_matrix(targets, answered, labels=range(len(names)), normalize="true")
    return {
        "chance": float(np.bincount(targets).max() / len(targets)),
        "rows": sorted(rows, key=lambda row: (row["accuracy"], row["name"])), "matrix": matrix.tolist(),
        "shades": np.ceil(5 * shares).tolist(),
    }  # fmt: skip


# ---- the tasks


class Recomputed:
    """One model on one set: every task's row of results.json, computed again."""

    def __init__(
        self, peer: Peer, test: Split, train: Split, names: list[str], out: Path, dataset: str, most: int
    ) -> None:
        self.peer, self.test, self.train, self.names, self.most = peer, test, train, names, most
        self.clean = peer.encode(test.pixels)
        self.fit_on = peer.features(train.pixels).double().numpy()
        ids = train.ids
        self.held = validation_rows([[names[one]] for one in train.targets], ids, 0)
        self.draws = json.loads((out / "few_shot_draws.json").read_text())[dataset]
        place = {one: row for row, one in enumerate(ids)}
        self.drawn = [
            {count: [place[one] for ids in by_class.values() for one in ids[:count]]
             for count in self.draws["shots"]}
            for by_class in self.draws["draws"]
        ]  # fmt: skip
        self.few: dict[int, list[LogisticRegression]] = {}
        self.full: LogisticRegression | None = None

    def right(self, scores: np.ndarray) -> np.ndarray:
        return np.asarray(scores.argmax(axis=1) == self.test.targets)

    def zero_shot(self, theirs: dict[str, dict[str, bool]]) -> Values:
        """Return the zero-shot row; `theirs`: other predictions by name and example."""
        values, ends = measured(self.clean.scores, self.test.targets, self.most)
        features = self.peer.features(self.test.pixels)
        right = {kind: self.right(self.peer.scores(features, kind)) for kind in self.peer.weights}
        detail: Values = {kind: float(own.mean()) for kind, own in right.items()}
        detail["templates"], detail["template"] = self.peer.templates
        for kind in ("single_template", "ensemble"):
            gain = right[kind].astype(float) - right["class_name"]
            detail[f"gain_{kind}"], detail[f"gain_{kind}_interval"] = float(gain.mean()), of_difference(gain)
        values |= {f"acc1_{kind}": detail[kind] for kind in ("class_name", "single_template")}
        found: Values = {"metrics": values, "intervals": ends, "detail": {"prompts": detail}}
        found["detail"]["classes"] = confused(self.test.targets, self.clean.scores.argmax(axis=1), self.names)
        if theirs:
            beside = {name: self._beside(right["ensemble"], own) for name, own in theirs.items()}
            found["detail"]["compare"] = beside
        return found

    def _beside(self, ours: np.ndarray, given: dict[str, bool]) -> Values:
        theirs = np.array([given[one] for one in self.test.ids])
        by_class = [
            [float(side[self.test.targets == one].mean()) for one in range(len(self.names))]
            for side in (ours, theirs)
        ]
        pearson = stats.pearsonr(*by_class)
        return {
            "examples": len(ours), "ours": float(ours.mean()), "theirs": float(theirs.mean()),
            "ours_interval": exact(ours), "theirs_interval": exact(theirs),
            "difference": float(ours.mean() - theirs.mean()),
            "difference_interval": of_difference(ours.astype(float) - theirs),
            "agreement": sk.accuracy_score(ours, theirs), "pearson": pearson.statistic,
            "pearson_interval": tuple(pearson.confidence_interval(CONFIDENCE)),
            "spearman": stats.spearmanr(*by_class).statistic,
            "classes": [
                {"class": name, "examples": int((self.test.targets == number).sum()), "ours": a, "theirs": b}
                for number, (name, a, b) in enumerate(zip(self.names, *by_class, strict=True))
            ],
        }  # fmt: skip

    def probe(self, row: Values) -> Values:
        """Return the probe's row at the C that was chosen, and the validation accuracy of every C tried."""
        targets, held = self.train.targets, self.held
        self.full = logistic(self.fit_on, targets, row["metrics"]["c"])
        scores = self.full.decision_function(self.clean.features)
        values, ends = measured(scores, self.test.targets, self.most)
        zero = self.right(self.clean.scores).astype(float)
        gap = zero - self.right(scores)
        sweep = [
            [c, logistic(self.fit_on[~held], targets[~held], c).score(self.fit_on[held], targets[held])]
            for c, _ in row["detail"]["sweep"]
        ]
        detail = {
            "sweep": sweep, "c": best(sweep), "fitted_on": len(targets), "zero_shot": float(zero.mean()),
            "zero_shot_interval": exact(zero), "zero_shot_minus_probe": float(gap.mean()),
            "difference_interval": of_difference(gap),
        }  # fmt: skip
        return {"metrics": values | {"c": best(sweep)}, "intervals": ends, "detail": detail}

    def few_shot(self) -> Values:
        """Return the few-shot row: C of each probe by a sweep of whole decades, as the evaluation's."""
        values, spans, curve = {}, {}, []
        for count in self.draws["shots"]:
            self.few[count] = [self._swept(drawn[count]) for drawn in self.drawn]
            draws = [float(one.score(self.clean.features, self.test.targets)) for one in self.few[count]]
            mean, (low, high) = float(np.mean(draws)), student(draws)
            values[f"acc1_{count}_shot"], spans[f"acc1_{count}_shot"] = mean, (low, high)
            drawn = np.concatenate([one[count] for one in self.drawn])
            per_class = float(np.bincount(self.train.targets[drawn]).mean()) / len(self.drawn)
            curve.append({"shots": count, "per_class": per_class, "mean": mean, "low": low, "high": high,
                          "draws": draws})  # fmt: skip
        zero = float(self.right(self.clean.scores).mean())
        assert self.full is not None, "`probe` comes first"
        every = len(self.train.targets) / len(set(self.train.targets.tolist()))
        last = float(self.full.score(self.clean.features, self.test.targets))
        needed = worth(zero, [*((one["shots"], one["mean"]) for one in curve), (every, last)])
        if needed is not None:
            values["shots_to_match_zero_shot"] = needed
        detail = {"curve": curve, "zero_shot": zero, "shots_to_match": needed, "all_examples": every,
                  "all_examples_score": last}  # fmt: skip
        return {"metrics": values, "intervals": spans, "detail": detail}

    def _swept(self, rows: list[int]) -> LogisticRegression:
        features, targets = self.fit_on[rows], self.train.targets[rows]
        held, wanted = self.fit_on[self.held], self.train.targets[self.held]
        tried = {c: logistic(features, targets, c).score(held, wanted) for c in COARSE}
        peak = best(tried.items())
        for c in (peak / 10, peak * 10):
            if COARSE[0] <= c <= COARSE[-1]:
                tried[c] = logistic(features, targets, c).score(held, wanted)
        return logistic(features, targets, best(tried.items()))

    def robustness(self, row: Values) -> Values:
        """Return the row of a corruption of the set."""
        kind, level = row["detail"]["corruption"], row["detail"]["level"]
        pictures = zip(self.test.pixels, self.test.ids, strict=True)
        changed = np.stack([corruptions.corrupt(pixels, kind, level, 0, one) for pixels, one in pictures])
        shifted = self.peer.encode(changed)
        pairs = {"zero-shot": [(self.right(self.clean.scores), self.right(shifted.scores))]}
        for count, probes in self.few.items():
            pairs[f"{count}-shot"] = [self._both(one, shifted) for one in probes]
        if self.full is not None:
            pairs["probe"] = [self._both(self.full, shifted)]
        rows = [_predictor(name, found) for name, found in pairs.items()]
        for one in rows:
            one["relative"] = one["acc1"] - rows[-1]["acc1"] if len(rows) > 1 else None
        zero = rows[0]
        values = {"acc1": zero["acc1"], "acc1_source_classes": zero["acc1"], "drop": zero["drop"],
                  "source_acc1": zero["source_acc1"], "examples": len(self.test.ids)}  # fmt: skip
        ends = {"acc1": zero["acc1_interval"], "source_acc1": zero["source_acc1_interval"]}
        for one in rows[1:]:
            name = f"{one['predictor'].replace('-', '_')}_acc1"
            values[name], ends[name] = one["acc1"], one["acc1_interval"]
        if len(rows) > 1:
            values["relative_robustness"] = zero["relative"]
        detail = {"predictors": rows, "corruption": kind, "level": level, "line": None, "references": [],
                  "classes": len(self.names), "source_classes": len(self.names)}  # fmt: skip
        return {"metrics": values, "intervals": ends, "detail": detail}

    def _both(self, probe: LogisticRegression, shifted: Encoded) -> tuple[np.ndarray, np.ndarray]:
        sides = (probe.predict(one.features) == self.test.targets for one in (self.clean, shifted))
        return next(sides), next(sides)


def _predictor(name: str, pairs: list[tuple[np.ndarray, np.ndarray]]) -> Values:
    """Return a predictor's accuracies on the source and the shifted set, over draws if there are several."""
    (source, source_ends), (here, ends) = (_accuracy(side) for side in zip(*pairs, strict=True))
    n = len(pairs[0][0])
    return {
        "predictor": name, "drop": source - here, "effective": None,
        "source_all_acc1": source, "source_all_interval": source_ends,
        "source_acc1": source, "source_acc1_interval": source_ends, "source_counts": (round(source * n), n),
        "acc1": here, "acc1_interval": ends, "counts": (round(here * n), n),
        "acc1_source_classes": here, "acc1_source_classes_interval": ends,
    }  # fmt: skip


def _accuracy(draws: Sequence[np.ndarray]) -> tuple[float, tuple[float, float]]:
    shares = [float(one.mean()) for one in draws]
    return float(np.mean(shares)), exact(draws[0]) if len(draws) == 1 else student(shares)


def logistic(features: np.ndarray, targets: np.ndarray, c: float) -> LogisticRegression:
    """Return scikit-learn's probe at the minimum; its L-BFGS often stops at 1,000 iterations before it."""
    return LogisticRegression(C=c, solver="newton-cholesky", max_iter=200, tol=1e-8).fit(features, targets)


def best(tried: Any) -> float:
    """Return the C of highest accuracy, of equals the least."""
    return float(min(tried, key=lambda pair: (-pair[1], pair[0]))[0])


def worth(target: float, curve: list[tuple[int, float]]) -> float | None:
    """Return the shots at which a curve first reaches an accuracy, log-linear between its points."""
    if curve[0][1] >= target:
        return float(curve[0][0])
    for (few, low), (many, high) in pairwise(curve):
        if high >= target:
            return float(np.exp(np.interp(target, [low, high], np.log([few, many]))))
    return None


# ---- both side by side


class Pair(NamedTuple):
    """A number of results.json beside the other program's; fields only."""

    row: str
    name: str
    ours: float
    theirs: float

    @property
    def kind(self) -> str:
        """Return the allowed differences: none, a probe's fit, a probe's choice of C, a bootstrap's draws."""
        task = self.row.rpartition(" ")[2]
        drawn = ("recall", "roc_auc", "map11", "gain", "difference_interval")
        if task == "robustness":
            few, full = bool(re.search(r"\d[-_]shot", self.name)), "probe" in self.name
        else:
            few, full = task == "few-shot", task == "linear-probe"
        if ("interval" in self.name) and any(part in self.name for part in drawn):
            return "bootstrap intervals"
        if self.name.rpartition(".")[2] == "c" or "sweep" in self.name:
            return "choice of C"
        if few:
            return "few-shot"
        return "probes" if full or "relative" in self.name else "zero-shot, exact intervals"


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every number of nested lists and dictionaries with its path; entries of lists by their name."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            name = inner.get("predictor", number) if isinstance(inner, dict) else number
            yield from leaves(inner, f"{path}.{name}")
    elif isinstance(value, int | float | np.number) and not isinstance(value, bool):
        yield path, float(value)
    elif value is None:
        yield path, math.nan


def pairs(row: Values, theirs: Values) -> Iterator[Pair]:
    """Yield a row's numbers beside the other's; KeyError for a number that was not computed again."""
    title = f"{row['model']} {row['dataset']} {row['task']}"
    again = {"metrics.unreadable": 0.0} | dict(leaves(theirs))  # `read` has decoded every picture
    for part in ("metrics", "intervals", "detail"):
        for name, ours in leaves(row[part], part):
            yield Pair(title, name, ours, again[name])
