"""The findings of an overlap analysis, for report.json, the page and the final table.

The fields stand in the order of report.json.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dedup import statistics
from dedup.contamination import Conclusion, recall_at
from dedup.parts import FoundCopies
from dedup.picture_kinds import NAMED
from dedup.statistics import SweepPoint

_SWEEP_STEPS: Final = 13


@dataclass(frozen=True, kw_only=True)
class UnreadableExample:
    """An example that cannot be decoded."""

    example_id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class DetectorFindings:
    """The findings of the hashes or of the learned detector alone."""

    overlap: int
    alone: int
    """Examples that the other search did not find."""
    recall: dict[str, float]
    recall_reversed: dict[str, float]
    own_threshold: float | None = None
    """Of the learned detector, on its own scale."""


@dataclass(frozen=True, kw_only=True)
class Planted:
    """The number of a set's copies that were found, in both directions."""

    plain: FoundCopies
    """The training image is the copy."""
    reversed: FoundCopies
    """The evaluation image is."""


@dataclass(frozen=True, kw_only=True)
class Detectors:
    """The two ways of finding copies, beside each other."""

    hashes: DetectorFindings | None
    """None where hashes were not compared."""
    learned: DetectorFindings


@dataclass(frozen=True, kw_only=True)
class LookAlikes:
    """Examples of one kind that look like training images, or like anything, and are no overlap."""

    kind: str
    """As `picture_kinds.kind_of` names it."""
    examples: int
    """That do not overlap; those without detail are not even compared."""
    refused: int
    """Of these: that have a candidate, which was not the same picture."""
    example_id: str
    """The example whose candidate is the most similar, or the first."""
    uid: str
    """Of the candidate; empty without any."""
    reason: str
    """For which it was refused, likewise."""


@dataclass(frozen=True, kw_only=True)
class SetFindings:
    """The findings for one evaluation set; accuracies are None without predictions."""

    name: str
    examples: int
    overlap: int
    contamination: float
    """Share of the examples that overlap, with Wilson's 95% interval."""
    contamination_low: float
    contamination_high: float
    acc_all: float | None
    acc_overlap: float | None
    acc_clean: float | None
    delta: float | None
    """All - Clean."""
    p_value: float | None
    p_bonferroni: float | None
    p_holm: float | None
    fisher_p: float | None
    ci_low: float | None
    """99.5% interval of Overlap's accuracy, and the same as All - Clean."""
    ci_high: float | None
    delta_low: float | None
    delta_high: float | None
    significant: bool | None
    threshold: float
    smallest_detectable: float | None
    acc_clean_stratified: float | None
    stratified_share: float
    unreadable: int
    unreadable_examples: tuple[UnreadableExample, ...]
    low_information: int
    sweep: tuple[SweepPoint, ...]
    recall: dict[str, float]
    """By distortion the share of planted copies that were found: training images that are altered copies."""
    recall_reversed: dict[str, float]
    """The same where the evaluation image is the copy, such as a crop of a training image."""
    planted: int
    published: str | None
    """Date, as it was given."""
    published_after_crawl: bool | None
    recall_note: str | None
    """Why the recall could not be measured."""
    look_alikes: tuple[LookAlikes, ...] = ()
    detectors: Detectors | None = None
    """None without a learned detector."""


@dataclass(frozen=True, kw_only=True)
class UnreadableTraining:
    """A training image that cannot be decoded."""

    shard: str
    key: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class SetTexts:
    """How many texts of a set stand near a training caption."""

    name: str
    kind: str
    """caption or prompt"""
    texts: int
    pairs: int


@dataclass(frozen=True, kw_only=True)
class TextFindings:
    """The findings of the comparison of texts."""

    threshold: float
    """Jaccard similarity."""
    sketch: Mapping[str, Any]
    """Its parameters."""
    datasets: tuple[SetTexts, ...]


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All that report.json says."""

    datasets: tuple[SetFindings, ...]
    training_set: str
    shards: int
    counts: dict[str, int]
    unreadable: tuple[UnreadableTraining, ...]
    """Some of the training images that cannot be decoded."""
    declared_sets: int
    floor: float
    min_quality: float
    last_fetch: str | None
    seed: int
    text: TextFindings | None
    """None where texts were not compared."""
    dropped: int | None = None
    """Training images in drop.parquet; None where none was asked for."""

    def as_json(self) -> dict[str, Any]:
        """Return report.json; parts that were not asked for are left out."""
        found = asdict(self)
        for entry in found["datasets"]:
            if entry["detectors"] is None:
                del entry["detectors"]
            elif entry["detectors"]["hashes"] is None:
                del entry["detectors"]["hashes"]
            else:
                del entry["detectors"]["hashes"]["own_threshold"]
        if self.dropped is None:
            del found["dropped"]
        return found


def look_alikes(one: Conclusion, examples: pa.Table, matches: pa.Table) -> tuple[LookAlikes, ...]:
    """Return the named kinds of a set's examples that do not overlap, in the order of `NAMED`."""
    ids = one.dataset.example_ids
    clean = {ids[row] for row in np.flatnonzero(~one.overlap)}
    own = matches.filter(pc.equal(matches["dataset"], one.dataset.name)).sort_by(
        [("rank", "ascending"), ("similarity", "descending"), ("example_id", "ascending")]
    )
    best: dict[str, tuple[float, str, str]] = {}
    columns = (own[name].to_pylist() for name in ("example_id", "similarity", "uid", "refused"))
    for example_id, similarity, uid, refused in zip(*columns, strict=True):
        if refused and example_id in clean:
            best.setdefault(example_id, (similarity, uid, refused))
    mine = examples.filter(pc.equal(examples["dataset"], one.dataset.name))
    kinds: dict[str, list[str]] = {}
    for example_id, kind in zip(mine["example_id"].to_pylist(), mine["kind"].to_pylist(), strict=True):
        if kind and example_id in clean:
            kinds.setdefault(kind, []).append(example_id)
    found = []
    for kind in NAMED:
        if kind in kinds:
            first = min(kinds[kind], key=lambda name: (-best.get(name, (-1.0, "", ""))[0], name))
            _, uid, reason = best.get(first, (-1.0, "", ""))
            found.append(LookAlikes(
                kind=kind, examples=len(kinds[kind]), refused=sum(name in best for name in kinds[kind]),
                example_id=first, uid=uid, reason=reason,
            ))  # fmt: skip
    return tuple(found)


def of_set(
    one: Conclusion, copies: Planted, *, published: str | None = None,
    published_after_crawl: bool | None = None, detectors: Detectors | None = None,
    alike: tuple[LookAlikes, ...] = (),
) -> SetFindings:  # fmt: skip
    """Return the findings of a set at its threshold."""
    c, data = one.comparison, one.dataset
    low, high = c.interval or (None, None)
    delta_low, delta_high = c.delta_interval or (None, None)
    return SetFindings(
        name=data.name, examples=c.examples, overlap=c.overlap, contamination=c.contamination,
        contamination_low=c.contamination_interval.low, contamination_high=c.contamination_interval.high,
        acc_all=c.acc_all, acc_overlap=c.acc_overlap, acc_clean=c.acc_clean, delta=c.delta,
        p_value=c.p_value, p_bonferroni=one.p_bonferroni, p_holm=one.p_holm, fisher_p=c.fisher_p,
        ci_low=low, ci_high=high, delta_low=delta_low, delta_high=delta_high, significant=one.significant,
        threshold=round(one.threshold, 6), smallest_detectable=c.detectable,
        acc_clean_stratified=c.stratified.accuracy, stratified_share=c.stratified.covered,
        unreadable=len(data.unreadable),
        unreadable_examples=tuple(
            UnreadableExample(example_id=lost.example_id, reason=lost.reason) for lost in data.unreadable
        ),
        low_information=data.low_information,
        sweep=tuple(statistics.sweep(data.similarity, data.correct, _steps(one.threshold))),
        recall=recall_at(copies.plain.either, one.threshold),
        recall_reversed=recall_at(copies.reversed.either, one.threshold),
        planted=len(copies.plain.either.get("mixed", ())),
        published=published, published_after_crawl=published_after_crawl,
        recall_note=copies.plain.note or copies.reversed.note or None, detectors=detectors,
        look_alikes=alike,
    )  # fmt: skip


def _steps(threshold: float) -> Sequence[float]:
    return [round(float(step), 4) for step in np.linspace(threshold, 1, _SWEEP_STEPS)]
