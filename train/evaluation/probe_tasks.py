"""The linear-probe and few-shot tasks, on a model's own features or on a foreign encoder's."""

import hashlib
import json
import logging
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from pipeline import storage
from pipeline.intervals import Interval
from train.evaluation import bootstrap, classes, fewshot, metrics, results
from train.evaluation.classes import Classes
from train.evaluation.encoded_model import EncodingWatch, labelled
from train.evaluation.features import Features
from train.evaluation.metrics import Bools
from train.evaluation.options import EvalConfig
from train.evaluation.probe import Choice, Probe, Problem, Targets
from train.evaluation.results import Result
from train.evaluation.scored_metrics import difference, score

log = logging.getLogger("train.evaluation")

_VALIDATION_SHARE: Final = 5  # one in five
_NAMED: Final = 10  # classes that a warning names
_FEW_SHOT_HALVINGS: Final = 1  # a decade apart: with a few examples a finer C is noise


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitting:
    """Hold the images that a probe is fitted on, chosen by, and scored on; probes are fitted once."""

    model: str
    dataset: str
    config: EvalConfig
    watch: EncodingWatch
    device: torch.device
    known: Classes
    train: Features
    validation: Features | None
    test: Features

    @cached_property
    def _parts(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the rows to fit on and, where no validation images were given, those kept from them."""
        rows = labelled(self.train)
        if self.validation is not None:
            return rows, rows[:0]
        held = validation_rows(
            [classes.split(self.train.labels[row], several=self.several) for row in rows],
            [self.train.example_ids[row] for row in rows], self.config.seed,
        )  # fmt: skip
        return rows[~held], rows[held]

    @property
    def several(self) -> bool:
        """Return whether examples may have several classes."""
        return self.config.several(self.dataset)

    def _targets(self, features: Features, rows: npt.NDArray[np.int64]) -> Targets:
        labels = [features.labels[row] for row in rows]
        found = {part for label in labels for part in classes.split(label, several=self.several)}
        if strange := sorted(found - set(self.known.labels)):
            raise ValueError(
                f"the images to fit on for {self.dataset} have the class {strange[0]!r}, which is not "
                "among its classes; name them all with --classes"
            )
        truth = classes.truth(labels, self.known.labels, several=self.several)
        return truth if self.several else truth.argmax(axis=1)

    @cached_property
    def members(self) -> Bools:
        """Return which classes each of the rows to fit on has: bool [n, C]."""
        if self.targets.ndim == 2:
            return self.targets.astype(np.bool_)
        return np.asarray(self.targets[:, None] == np.arange(len(self.known.labels)))

    @cached_property
    def targets(self) -> Targets:
        """Return the classes of the rows to fit on; ValueError if they are one class alone."""
        found = self._targets(self.train, self._parts[0])
        shown = set((np.nonzero(found)[1] if self.several else found).tolist())
        if len(shown) < 2:
            only = self.known.labels[shown.pop()] if shown else "none"
            raise ValueError(f"the images to fit on for {self.dataset} show only one class: {only!r}")
        missing = [label for number, label in enumerate(self.known.labels) if number not in shown]
        if missing:
            log.warning(
                "%s: no image to fit on shows %d of %d classes, which a probe can then never predict: %s%s",
                self.dataset, len(missing), len(self.known.labels), ", ".join(missing[:_NAMED]),
                ", ..." if len(missing) > _NAMED else "",
            )  # fmt: skip
        return found

    @cached_property
    def shots(self) -> dict[int, float]:
        """Return, by number of shots, the mean number of images of a class among those that it can have.

        Left out, with a warning, are numbers that no class has: they would repeat smaller numbers. ValueError
        if none is left.
        """
        sizes = self.members.sum(axis=0)
        sizes = sizes[sizes > 0]
        most, asked = int(sizes.max()), sorted(self.config.shots)
        kept = "" if self.validation is not None else " (a fifth of --train is kept to choose C by)"
        if beyond := [count for count in asked if count > most]:
            said = f"{self.dataset}: no class has more than {most} images to fit on{kept}: "
            if len(beyond) == len(asked):
                raise ValueError(f"{said}--shots {' '.join(map(str, asked))} cannot be drawn")
            log.warning("%s%s shots are left out", said, ", ".join(map(str, beyond)))
        for count in asked:
            short = int((sizes < count).sum())
            if count <= most and short:
                log.warning(
                    "%s: %d of %d classes have fewer than %d images to fit on%s: %d shots are fewer there",
                    self.dataset, short, len(sizes), count, kept, count,
                )  # fmt: skip
        return {count: float(np.minimum(sizes, count).mean()) for count in asked if count <= most}

    @cached_property
    def _held(self) -> tuple[npt.NDArray[np.float32], Targets]:
        if self.validation is None:
            rows = self._parts[1]
            return self.train.features[rows], self._targets(self.train, rows)
        rows = labelled(self.validation)
        return self.validation.features[rows], self._targets(self.validation, rows)

    def _problem(self, chosen: npt.NDArray[np.int64], tell: Any = None) -> Problem:
        """Return the problem of fitting on some of the rows: places in `targets`."""
        features = self.train.features[self._parts[0][chosen]]
        return Problem(
            features, self.targets[chosen], *self._held, len(self.known.labels), self.device,
            tell or (lambda: None),
        )  # fmt: skip

    @cached_property
    def full(self) -> tuple[Probe, Choice]:
        """Return the probe on all examples, and how its C was found; fitted again on both splits together."""
        done = iter(range(1, 100))
        with self.watch(f"{self.model}: probe {self.dataset}", 16) as tell:
            problem = self._problem(np.arange(len(self.targets)), lambda: tell(next(done)))
            choice = problem.sweep()
            held, wanted = self._held
            features = np.concatenate([self.train.features[self._parts[0]], held])
            both = Problem(features, np.concatenate([self.targets, wanted]), held, wanted,
                           len(self.known.labels), self.device)  # fmt: skip
            return both.probe(both.fit(choice.c)), choice

    def drawn(self, number: int) -> list[npt.NDArray[np.int64]]:
        """Return a draw: for each class places in `targets`, int64 [k], in the order they are taken."""
        return fewshot.draw(self.members, max(self.shots), self.config.seed, number)

    def example_ids(self, number: int) -> dict[str, list[str]]:
        """Return the ids of a draw by class."""
        rows = self._parts[0]
        return {
            label: [self.train.example_ids[rows[place]] for place in places]
            for label, places in zip(self.known.labels, self.drawn(number), strict=True)
        }

    @cached_property
    def few(self) -> dict[int, list[Probe]]:
        """Return by number of shots the probe of each draw; C is chosen on the validation examples."""
        shots, done = sorted(self.shots), 0
        found: dict[int, list[Probe]] = {count: [] for count in shots}
        with self.watch(f"{self.model}: few-shot {self.dataset}", len(shots) * self.config.draws) as tell:
            for number in range(self.config.draws):
                places = self.drawn(number)
                for count in shots:
                    chosen = fewshot.shots(places, count)
                    problem = self._problem(chosen)
                    choice = problem.sweep(halvings=_FEW_SHOT_HALVINGS)
                    found[count].append(problem.probe(choice.parameters))
                    done += 1
                    tell(done)
        return found


def validation_rows(labels: list[list[str]], example_ids: list[str], seed: int) -> npt.NDArray[np.bool_]:
    """Return bool [n]: a fifth of each class, those of smallest hash, but never a class's only example.

    labels: the classes of each example. One of several is held only while each of them may lose one more.
    ValueError if every class has a single example.
    """
    order = sorted(
        range(len(labels)),
        key=lambda row: hashlib.blake2b(f"{seed}/{example_ids[row]}".encode(), digest_size=8).digest(),
    )
    sizes = Counter(label for own in labels for label in own)
    wanted = {label: min(-(-size // _VALIDATION_SHARE), size - 1) for label, size in sizes.items()}
    held = np.zeros(len(labels), np.bool_)
    for row in order:
        if all(wanted[label] > 0 for label in labels[row]):
            held[row] = True
            for label in labels[row]:
                wanted[label] -= 1
    if not held.any():
        raise ValueError("no class has two examples to fit on: give --validation as well")
    return held


def probe_result(fitting: Fitting, zero_shot: Result | None) -> tuple[Result, npt.NDArray[np.float64], Bools]:
    """Return a set's probe result, beside zero-shot's if known, with logits [n, C] and truth [n, C] of all.

    ValueError for a set without labels.
    """
    found, config = fitting.test, fitting.config
    main = config.main_metric(fitting.dataset)
    fitted, choice = fitting.full
    logits = fitted.logits(found.features)
    truth = classes.truth(found.labels, fitting.known.labels, several=fitting.several)
    rows = labelled(found)
    if not len(rows):
        raise ValueError(f"{fitting.dataset} has no labels to score a probe with")
    seed = bootstrap.seed_of(config.seed, fitting.dataset)
    scored = score(logits[rows], truth[rows], main, config.confidence, seed)
    detail: dict[str, Any] = {"c": choice.c, "sweep": [[c, value] for c, value in choice.tried.items()],
                              "fitted_on": len(fitting.targets) + len(fitting._held[1])}  # fmt: skip
    if zero_shot is not None and zero_shot.replicates is not None:
        detail |= {"zero_shot": zero_shot.value, "zero_shot_interval": zero_shot.interval}
        detail["zero_shot_minus_probe"] = zero_shot.value - scored.metrics[main]
        detail["difference_interval"] = difference(zero_shot.replicates, scored.replicates, config.confidence)
    result = Result(
        dataset=fitting.dataset, model=fitting.model, task="linear-probe",
        metrics=scored.metrics | {"c": choice.c}, intervals=scored.intervals, main=main, detail=detail,
        replicates=scored.replicates, examples=results.digest(found.example_ids[row] for row in rows),
    )  # fmt: skip
    return result, logits, truth


def few_shot_result(fitting: Fitting, zero_shot: Result | None) -> Result:
    """Return the curve of the main metric over shots, and the shots that zero-shot is worth."""
    found, config = fitting.test, fitting.config
    main = config.main_metric(fitting.dataset)
    rows = labelled(found)
    truth = classes.truth(found.labels, fitting.known.labels, several=fitting.several)[rows]
    curve: list[dict[str, Any]] = []
    values: dict[str, float] = {}
    spans: dict[str, Interval] = {}
    for count, probes in fitting.few.items():
        drawn = [
            metrics.measures(one.logits(found.features[rows]), truth, ranked=main in metrics.RANKED)[main](
                None
            )
            for one in probes
        ]
        interval = bootstrap.of_mean(drawn, config.confidence)
        name = f"{main}_{count}_shot"
        values[name], spans[name] = float(np.mean(drawn)), interval
        curve.append({"shots": count, "per_class": fitting.shots[count], "mean": values[name],
                      "low": interval.low, "high": interval.high, "draws": drawn})  # fmt: skip
        if fitting.shots[count] < count:
            values[f"images_per_class_{count}_shot"] = fitting.shots[count]
    detail: dict[str, Any] = {"curve": curve}
    if zero_shot is not None:
        detail["zero_shot"] = zero_shot.value
        points = [(one["per_class"], one["mean"]) for one in curve]
        if "linear-probe" in config.task:
            points.append(_full_point(fitting, main, rows, truth))
            detail["all_examples"], detail["all_examples_score"] = points[-1]
        needed = fewshot.shots_to_match(zero_shot.value, points)
        detail["shots_to_match"] = needed
        if needed is not None:
            values["shots_to_match_zero_shot"] = needed
    last = f"{main}_{max(fitting.shots)}_shot"
    return Result(
        dataset=fitting.dataset, model=fitting.model, task="few-shot", metrics=values, intervals=spans,
        main=last, detail=detail,
    )  # fmt: skip


def _full_point(
    fitting: Fitting, main: str, rows: npt.NDArray[np.int64], truth: Bools
) -> tuple[float, float]:
    """Return figure 7's last point: examples of a class that the full probe is fitted on, and its value."""
    fitted, _ = fitting.full
    logits = fitted.logits(fitting.test.features[rows])
    value = metrics.measures(logits, truth, ranked=main in metrics.RANKED)[main](None)
    return (len(fitting.targets) + len(fitting._held[1])) / int(fitting.members.any(axis=0).sum()), value


def publish_draws(path: str, fittings: list[Fitting]) -> None:
    """Write which examples every draw holds, by set, draw and class, in the order in which they are taken."""
    sets: dict[str, Any] = {}
    for fitting in fittings:
        sets.setdefault(
            fitting.dataset,
            {"seed": fitting.config.seed, "shots": sorted(fitting.shots),
             "draws": [fitting.example_ids(number) for number in range(fitting.config.draws)]},
        )  # fmt: skip
    storage.write_bytes(path, (json.dumps(sets, indent=1) + "\n").encode())
