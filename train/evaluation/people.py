"""People beside the model (section 4, table 2): their answers, alone and by majority vote."""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pipeline import storage
from train.evaluation import bootstrap


class Answer(NamedTuple):
    """A person's answer to an example; fields only."""

    example_id: str
    person: str
    answer: str
    """A label of the set; empty: "I don't know"."""


def read(path: str) -> dict[int, list[Answer]]:
    """Return the answers by how many examples of each class the person was shown.

    The CSV has example_id, person, answer and optionally shots, else 0: a row for each image that a person
    saw, with an empty answer where they did not know. ValueError.
    """
    reader = csv.DictReader(io.StringIO(storage.read_bytes(path).decode("utf-8-sig")))
    columns = reader.fieldnames or []
    if missing := [name for name in ("example_id", "person", "answer") if name not in columns]:
        raise ValueError(f"{path} has no column {missing[0]}; answers have example_id, person, answer")
    found: dict[int, list[Answer]] = {}
    seen: set[tuple[int, str, str]] = set()
    for number, row in enumerate(reader, 2):
        shots = (row.get("shots") or "0").strip()
        if not shots.isascii() or not shots.isdigit():
            raise ValueError(f"{path}, line {number}: shots must be a whole number, not {shots!r}")
        one = Answer(*((row[name] or "").strip() for name in ("example_id", "person", "answer")))
        place = (int(shots), one.example_id, one.person)
        if place in seen:
            raise ValueError(f"{path}, line {number}: {one.person} has answered {one.example_id} twice")
        seen.add(place)
        found.setdefault(int(shots), []).append(one)
    if not found:
        raise ValueError(f"{path} holds no answers")
    return found


def shares(answers: Sequence[Answer], labels: Mapping[str, str]) -> dict[str, float]:
    """Return by example the share of its answers that are right; examples without a label are left out."""
    by_example = _by_example(answers, labels)
    return {one: votes[labels[one]] / votes.total() for one, votes in by_example.items()}


def score(
    answers: Sequence[Answer], labels: Mapping[str, str], confidence: float, seed: int
) -> dict[str, Any]:
    """Return table 2's four accuracies with their intervals, over the examples that have a label.

    accuracy: of all answers, where "I don't know" is wrong; on guesses: of the others alone. majority: of the
    answer that most people give, which may be "I don't know"; on guesses: the most frequent of the others, of
    examples where somebody guesses. Of k equally frequent answers each counts 1/k. Intervals draw examples.
    """
    by_example = _by_example(answers, labels)
    table = []
    for one, votes in by_example.items():
        guesses = Counter({answer: count for answer, count in votes.items() if answer})
        right = labels[one]
        table.append((votes[right], votes.total(), _vote(votes, right), votes[right], guesses.total(),
                      _vote(guesses, right) if guesses else 0.0, float(bool(guesses))))  # fmt: skip
    columns = np.array(table, np.float64).T
    ones = np.ones(len(table))
    parts = {"accuracy": (columns[0], columns[1]), "majority": (columns[2], ones),
             "accuracy_on_guesses": (columns[3], columns[4]),
             "majority_on_guesses": (columns[5], columns[6])}  # fmt: skip
    asked = {one.person for one in answers if one.example_id in by_example}
    found: dict[str, Any] = {"examples": len(table), "people": len(asked), "answers": int(columns[1].sum()),
                             "guesses": int(columns[4].sum())}  # fmt: skip
    for name, (hits, total) in parts.items():
        drawn = bootstrap.replicates(lambda w, h=hits, t=total: _ratio(h, t, w), len(table), seed)  # type: ignore[misc]
        found[name] = _ratio(hits, total, ones)
        found[f"{name}_interval"] = bootstrap.percentile(drawn, confidence)
    return found


def _by_example(answers: Sequence[Answer], labels: Mapping[str, str]) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = {}
    for one in answers:
        if labels.get(one.example_id):
            found.setdefault(one.example_id, Counter())[one.answer] += 1
    return found


def _vote(votes: Counter[str], right: str) -> float:
    """Return 1 where the right answer is the most frequent, 1/k where k are equally frequent."""
    most = max(votes.values())
    return 1 / sum(count == most for count in votes.values()) if votes[right] == most else 0.0


def _ratio(hits: np.ndarray, total: np.ndarray, weights: np.ndarray) -> float:
    whole = float(weights @ total)
    return float(weights @ hits) / whole if whole else float("nan")
