"""From matches to published results: which examples overlap, at which threshold, and the statistics."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dedup import statistics
from dedup.parts import MATCHES
from dedup.statistics import ALPHA, Comparison
from pipeline import schemas, untrusted
from pipeline.images.decode import Unreadable, named


def ranked(found: pa.Table, neighbours: int) -> pa.Table:
    """Return MATCHES: each example's best training images, verified ones first, then by similarity.

    Verified pairs come first, so that look-alikes never push a copy out of the list.
    """
    rising = ("uid", "shard", "key")
    order = [
        ("dataset", "ascending"),
        ("example_id", "ascending"),
        ("verified", "descending"),
        ("similarity", "descending"),
        *((name, "ascending") for name in rising),
    ]
    table = found.sort_by(order)
    names = pc.binary_join_element_wise(table["dataset"], table["example_id"], "/").combine_chunks()
    codes = names.dictionary_encode().indices.to_numpy() if len(table) else np.zeros(0, np.int64)
    starts = np.ones(len(codes), bool)
    starts[1:] = codes[1:] != codes[:-1]
    first = np.maximum.accumulate(np.where(starts, np.arange(len(codes)), 0)) if len(codes) else codes
    rank = np.arange(len(codes)) - first + 1
    table = table.append_column("rank", pa.array(rank, pa.int32()))
    table = table.filter(pa.array(rank <= neighbours))
    return table.select([f.name for f in MATCHES]).cast(MATCHES)


class Dataset(NamedTuple):
    """An evaluation set's examples in order, and the facts known of each; fields only."""

    name: str
    example_ids: list[str]
    labels: list[str]
    low_information: int
    similarity: npt.NDArray[np.float64]
    """[n]: similarity of the most similar verified training image; -inf if there is none."""
    correct: npt.NDArray[np.bool_] | None
    unreadable: list[Unreadable]
    """Examples beside these n that cannot be decoded: nobody knows whether they overlap."""


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """One evaluation set at its threshold."""

    dataset: Dataset
    threshold: float
    overlap: npt.NDArray[np.bool_]
    comparison: Comparison
    p_bonferroni: float | None = None
    p_holm: float | None = None

    @property
    def significant(self) -> bool | None:
        """Return whether Overlap is better than Clean after Bonferroni's correction; None if not tested."""
        return None if self.p_bonferroni is None else self.p_bonferroni <= ALPHA


def datasets(examples: pa.Table, matches: pa.Table, predictions: dict[str, str]) -> list[Dataset]:
    """Return the sets in the order of the examples, with their best verified similarity and predictions.

    RuntimeError for a set of which nothing can be decoded.
    """
    verified = matches.filter(matches["verified"])
    best: dict[tuple[str, str], float] = {}
    columns = (verified[name].to_pylist() for name in ("dataset", "example_id", "similarity"))
    for name, example_id, similarity in zip(*columns, strict=True):
        # Stored with 4 digits in single precision: as decimals they compare with a threshold as they look.
        best[name, example_id] = max(best.get((name, example_id), -np.inf), round(similarity, 4))
    found = []
    for name in dict.fromkeys(examples["dataset"].to_pylist()):
        own = examples.filter(pc.equal(examples["dataset"], name))
        unreadable = unreadable_of(own)
        own = own.filter(pc.not_equal(own["state"], "unreadable"))
        ids: list[str] = own["example_id"].to_pylist()
        similarity = np.array([best.get((name, one), -np.inf) for one in ids], np.float64)
        labels: list[str] = own["label"].to_pylist()
        correct = None
        if name in predictions:
            correct, predicted_labels = read_predictions(
                predictions[name], name, ids, {one.example_id for one in unreadable}
            )
            labels = labels if any(labels) else predicted_labels
        flat = own["state"].to_pylist().count("low_information")
        found.append(Dataset(name, ids, labels, flat, similarity, correct, unreadable))
    return found


def unreadable_of(examples: pa.Table) -> list[Unreadable]:
    """Return the examples of a set that cannot be decoded; RuntimeError if that is all of them."""
    lost = examples.filter(pc.equal(examples["state"], "unreadable"))
    columns = (lost[name].to_pylist() for name in ("example_id", "label", "reason"))
    found = [Unreadable(*row) for row in zip(*columns, strict=True)]
    if found and len(found) == len(examples):
        name = examples["dataset"][0].as_py()
        raise RuntimeError(f"{name}: none of its {len(found):,} images can be decoded: {named(found)}")
    return found


def read_predictions(
    path: str, name: str, ids: list[str], unreadable: Collection[str] = ()
) -> tuple[npt.NDArray[np.bool_], list[str]]:
    """Return whether each of n examples was classified correctly, bool [n], and labels.

    Of those that are `unreadable` nothing is read. ValueError if any other is missing.
    """
    table = schemas.read_table(path)
    if missing := {"example_id", "correct"} - set(table.column_names):
        raise ValueError(f"{path} has no column {sorted(missing)[0]!r}, as predictions must")
    if unreadable:
        table = table.filter(pc.invert(pc.is_in(table["example_id"], pa.array(list(unreadable)))))
    given = table["example_id"].to_pylist()
    if table["correct"].null_count or not pa.types.is_boolean(table["correct"].type):
        raise ValueError(f"{path}: the column correct must be true or false for every example")
    place = {one: row for row, one in enumerate(given)}
    if len(place) < len(given):
        raise ValueError(f"{path} holds an example_id twice")
    absent = [one for one in ids if one not in place]
    unknown = [one for one in given if one not in set(ids)] if len(place) > len(ids) - len(absent) else []
    if absent or unknown:
        example = absent[0] if absent else unknown[0]
        raise ValueError(
            f"{path} and the set {name} do not hold the same examples: {len(absent)} without a prediction, "
            f"{len(unknown)} unknown, such as {example!r}; predict on the same files"
        )
    rows = [place[one] for one in ids]
    labels = table["label"].to_pylist() if "label" in table.column_names else [""] * len(given)
    correct = np.array(table["correct"].to_pylist(), bool)
    return correct[rows], [str(labels[row]) for row in rows]


def read_thresholds(path: str, names: Iterable[str]) -> dict[str, float]:
    """Return the thresholds of a file that the report exported; ValueError if it is anything else."""
    value = untrusted.load_json(path)
    table = value.get("thresholds", value) if isinstance(value, dict) else None
    if not isinstance(table, dict):
        raise ValueError(f'{path} must hold {{"thresholds": {{"NAME": similarity, ...}}}}')
    known = set(names)
    for name, threshold in table.items():
        if name not in known:
            raise ValueError(f"{path} names the set {name!r}; given are {', '.join(sorted(known))}")
        if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
            raise ValueError(f"{path}: the threshold of {name} must be from 0 to 1, not {threshold!r}")
    return {name: float(threshold) for name, threshold in table.items()}


def conclude(
    found: list[Dataset], thresholds: dict[str, float], floor: float, tests: int
) -> list[Conclusion]:
    """Return each set's comparison, with p-values corrected for the declared number of sets."""
    drafts = []
    for one in found:
        threshold = max(thresholds.get(one.name, floor), floor)
        overlap = one.similarity >= threshold
        drafts.append(
            (one, threshold, overlap, statistics.compare(overlap, one.correct, one.labels, tests=tests))
        )
    tested = [draft[3].p_value for draft in drafts if draft[3].p_value is not None]
    corrected = iter(zip(statistics.bonferroni(tested, tests), statistics.holm(tested, tests), strict=True))
    conclusions = []
    for one, threshold, overlap, comparison in drafts:
        bonferroni, holm = next(corrected) if comparison.p_value is not None else (None, None)
        conclusions.append(
            Conclusion(
                dataset=one, threshold=threshold, overlap=overlap, comparison=comparison,
                p_bonferroni=bonferroni, p_holm=holm,
            )
        )  # fmt: skip
    return conclusions


def found_by(conclusion: Conclusion, matches: pa.Table, column: str) -> set[str]:
    """Return the examples of a set that `hashes` or `learned` finds at its threshold."""
    own = matches.filter(pc.and_(pc.equal(matches["dataset"], conclusion.dataset.name), matches["verified"]))
    pairs = zip(own["example_id"].to_pylist(), own[column].to_pylist(), strict=True)
    return {name for name, value in pairs if value is not None and round(value, 4) >= conclusion.threshold}


def recall_at(similarities: Mapping[str, Sequence[float]], threshold: float) -> dict[str, float]:
    """Return by distortion the share of planted copies that were verified at or above a threshold."""
    return {
        name: sum(value >= threshold for value in values) / len(values)
        for name, values in sorted(similarities.items())  # markers do not keep their order
        if values
    }
