"""The overlap job: sample, index, match, conclude. Each step lies in a folder named by its inputs.

Only the conclusions depend on thresholds and predictions, so that deciding on them costs seconds; other sets
cost a search, but never a fetch.
"""

import datetime
import hashlib
import json
import logging
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from dedup import contamination, findings, index, match_shards, report, search, training_set
from dedup.contamination import Conclusion
from dedup.findings import (
    DetectorFindings,
    Detectors,
    Findings,
    Planted,
    SetTexts,
    TextFindings,
    UnreadableTraining,
)
from dedup.near_captions import PARAMETERS
from dedup.options import OverlapConfig
from dedup.parts import FOUND, FoundCopies, Joining, MatchedShard, PlantedCopies, TrainingShard
from dedup.training_set import TrainingSet
from pipeline import safe_html, schemas, storage
from pipeline.config import named
from pipeline.flow.parts import Part, only
from pipeline.flow.runner import Runner
from pipeline.flow.steps import Tasks, Work

log = logging.getLogger(__name__)

VERSION: Final = 17  # of descriptors, views, verification and the steps' files; raised when they change
_SAMPLED_SHARDS: Final = 8
_NAMED: Final = 100  # training images that cannot be decoded
_OWN_FILES: Final = ("report.json", "work")


@dataclass(frozen=True, kw_only=True)
class OverlapJob:
    """One overlap analysis."""

    config: OverlapConfig
    training: TrainingSet
    inputs: list[storage.FileInfo]
    """Of the training side."""
    eval_inputs: list[storage.FileInfo]
    runner: Runner

    @property
    def out(self) -> str:
        """Return the folder of the result."""
        return self.config.out.rstrip("/")

    def folder(self, step: str, digest: str) -> str:
        """Return the folder of a step whose inputs have this digest."""
        return storage.join(self.out, "work", f"{step}-{digest}")


def prepare(config: OverlapConfig) -> tuple[TrainingSet, list[storage.FileInfo], list[storage.FileInfo]]:
    """Return the training set and the identity of all inputs; ValueError where something is missing."""
    from dedup.detector import encoder
    from pipeline.data import evalsets, shipped_detector

    training = training_set.find(config.run)
    eval_files: set[str] = set()
    for one in config.sets:
        listed = evalsets.listing(one.path)
        eval_files.update(listed.files)
        if left_out := evalsets.left_out_of(listed):
            log.warning("%s: %s", one.name, left_out)
    if config.detector:
        shipped_detector.found(config.detector)
        if encoder.is_encoder(config.detector):
            encoder.settings(config.detector)
    for option in ("predictions",):
        for name, path in named(getattr(config, option), option):
            if not storage.exists(path):
                raise ValueError(f"--{option} {name}: there is no file {path}")
    if config.thresholds:
        contamination.read_thresholds(config.thresholds, [one.name for one in config.sets])
    return (
        training,
        [storage.file_info(p) for p in training.shards],
        [storage.file_info(p) for p in sorted(eval_files)],
    )


def check_output(out: str) -> None:
    """Refuse a folder that holds something else."""
    root = out.rstrip("/")
    if storage.list_files(root) and not any(storage.exists(storage.join(root, name)) for name in _OWN_FILES):
        raise ValueError(f"{root} is not empty and holds no overlap report; choose another --out")


def run(job: OverlapJob) -> Findings:
    """Run the steps that are not done and publish the result; return the contents of report.json."""
    check_output(job.out)
    if job.config.hashes and not job.config.device:
        search.warn_without_kernel()
    config = job.config
    steps = _Steps(job)
    steps.run(job.runner)
    files = index.joined(steps.index.folder)
    examples = schemas.read_table(files.examples)
    for one in config.sets:  # before the search, which is long
        contamination.unreadable_of(examples.filter(pc.equal(examples["dataset"], one.name)))
    results, planted = _match(job, steps)
    columns = [name for name in FOUND.names if name != "preview"]
    pairs = pa.concat_tables([schemas.read_table(result.found, columns) for result in results])
    matches = contamination.ranked(pairs, config.neighbours)
    predictions = dict(named(config.predictions, "predictions"))
    thresholds = (
        contamination.read_thresholds(config.thresholds, [s.name for s in config.sets])
        if config.thresholds
        else {}
    )
    concluded = contamination.conclude(
        contamination.datasets(examples, matches, predictions), thresholds, config.floor, config.tests
    )
    detectors = _detectors(job, concluded, matches, planted, steps.thresholds) if config.detector else {}
    found = replace(
        _found(job, concluded, planted, results, detectors, examples, matches),
        dropped=_publish(job, concluded, matches), text=_publish_texts(job, results),
    )  # fmt: skip
    path = storage.join(job.out, "index.html")
    linked = [(storage.join(config.run, "report", "index.html"), "the training set")]
    evaluated = sorted({file.rpartition("/predictions/")[0] for file in predictions.values()} - {""})
    linked += [(storage.join(folder, "report.html"), "the evaluation") for folder in evaluated]
    links = [one for target, text in linked for one in safe_html.link(path, target, text)]
    page = report.render(found, concluded, matches, results, files, config.gallery, links)
    storage.write_bytes(path, page.encode())
    for target, _ in linked:
        safe_html.link_back(target, path, "the overlap with evaluation sets")
    # Last: a finished analysis is known by it.
    storage.write_bytes(
        storage.join(job.out, "report.json"),
        (json.dumps(found.as_json(), indent=1, allow_nan=False) + "\n").encode(),
    )
    return found


def _sampled(job: OverlapJob) -> list[storage.FileInfo]:
    """Return the shards that stand for all, chosen by hash."""
    shards = sorted(
        job.inputs, key=lambda info: xxhash.xxh3_64_intdigest(info.path.encode(), seed=job.config.seed)
    )
    return sorted(shards[:_SAMPLED_SHARDS])


def _digest(*made_from: object) -> str:
    return hashlib.sha256(json.dumps([VERSION, *made_from], default=list).encode()).hexdigest()[:12]


class _Steps:
    """The steps before the search, as a configuration has them."""

    def __init__(self, job: OverlapJob) -> None:
        config, self._chosen = job.config, _sampled(job)
        sample = _digest(self._chosen)
        self.digest = _digest(sample, job.eval_inputs, config.eval, config.min_quality)
        """Of the inputs of the search."""
        folder = job.folder("sample", sample)
        sampling = Tasks(
            label="sample", folder=folder, plan=partial(_plan_sample, self._chosen),
            worker=match_shards.SampleWorker(folder=folder, is_run=job.training.is_run),
        )  # fmt: skip
        self.whitening = Tasks(
            label="whitening", folder=job.folder("whitening", sample), plan=_plan_joining,
            worker=match_shards.WhiteningWorker(sample=folder, training_set=config.run),
        )  # fmt: skip
        examples = job.folder("examples", self.digest)
        describing = Tasks(
            label="evaluation sets", folder=examples, plan=partial(index.plan, config.sets),
            worker=index.IndexWorker(folder=examples, min_quality=config.min_quality),
        )  # fmt: skip
        folder = job.folder("index", self.digest)
        self.index = Tasks(
            label="index", folder=folder, plan=_plan_joining,
            worker=index.JoinWorker(folder=folder, examples=examples, whitening=self.whitening.folder),
        )  # fmt: skip
        self._all = [sampling, self.whitening, *_joining(describing, self.index)]
        self._joined = [examples]
        self.learned = self.thresholds = ""
        """Folders of the detector's index and thresholds."""
        if config.detector:
            self._add_detector(job)

    def _add_detector(self, job: OverlapJob) -> None:
        from dedup.detector import detector_file, learned_search  # imports torch

        config, indexed = job.config, self.index.folder
        detector, size = detector_file.of_any_kind(config.detector), sum(info.size for info in job.inputs)
        detector.close()
        learned = _digest(self.digest, detector.name, [view._asdict() for view in detector.views])
        self.digest = _digest(learned, self._chosen, config.detector_precision, size)
        rows = job.folder("rows", learned)
        describing = Tasks(
            label="learned detector", folder=rows, plan=partial(learned_search.plan, indexed),
            worker=learned_search.ExampleWorker(folder=rows, index=indexed, detector=config.detector),
        )  # fmt: skip
        self.learned = job.folder("learned", learned)
        joining = Tasks(
            label="learned index", folder=self.learned, plan=_plan_joining,
            worker=learned_search.LearnedJoinWorker(folder=self.learned, rows=rows, dims=detector.dims),
        )  # fmt: skip
        pairs = job.folder("pairs", self.digest)
        sampling = Tasks(
            label="unrelated pairs", folder=pairs, plan=partial(_plan_sample, self._chosen),
            worker=learned_search.LearnedSampleWorker(
                index=indexed, learned=self.learned, detector=config.detector, is_run=job.training.is_run,
                min_quality=config.min_quality,
            ),
        )  # fmt: skip
        self.thresholds = job.folder("thresholds", self.digest)
        settling = Tasks(
            label="thresholds", folder=self.thresholds, plan=_plan_joining,
            worker=learned_search.ThresholdWorker(
                index=indexed, pairs=pairs, size=size, precision=config.detector_precision
            ),
        )  # fmt: skip
        self._all += [*_joining(describing, joining), sampling, settling]
        self._joined.append(rows)

    def run(self, runner: Runner) -> None:
        """Do the unfinished part, and remove the files that have been joined."""
        runner.run(self._all)
        for folder in self._joined:
            storage.remove_tree(folder)


def _joining(step: Tasks, join: Tasks) -> list[Tasks]:
    """Return a step and the step that joins its files, or the latter alone if they are joined already."""
    return [join] if join.is_done else [step, join]


def _plan_joining() -> Work:
    return Work(tasks=[Joining(name="all")])


def _plan_sample(chosen: list[storage.FileInfo]) -> Work:
    return Work(tasks=[TrainingShard(name=f"{n:02d}", path=info.path) for n, info in enumerate(chosen)])


def _detectors(
    job: OverlapJob,
    concluded: list[Conclusion],
    matches: pa.Table,
    planted: dict[str, Planted],
    thresholds: str,
) -> dict[str, Detectors]:
    """Return by set the findings of the hashes and of the learned detector alone."""
    from dedup.detector import learned_search

    own, result = learned_search.read_thresholds(thresholds), {}
    for one in concluded:
        name, copies = one.dataset.name, planted[one.dataset.name]
        hashes, learned = (contamination.found_by(one, matches, by) for by in ("hashes", "learned"))
        by_hashes = DetectorFindings(
            overlap=len(hashes), alone=len(hashes - learned),
            recall=contamination.recall_at(copies.plain.hashes, one.threshold),
            recall_reversed=contamination.recall_at(copies.reversed.hashes, one.threshold),
        )  # fmt: skip
        result[name] = Detectors(
            hashes=by_hashes if job.config.hashes else None,
            learned=DetectorFindings(
                overlap=len(learned), alone=len(learned - hashes),
                recall=contamination.recall_at(copies.plain.learned, one.threshold),
                recall_reversed=contamination.recall_at(copies.reversed.learned, one.threshold),
                own_threshold=own.get(name),
            ),
        )  # fmt: skip
    return result


def _match(job: OverlapJob, steps: _Steps) -> tuple[list[MatchedShard], dict[str, Planted]]:
    """Match every shard and the planted copies; return the shards' results and each set's copies."""
    config = job.config
    text_threshold = config.text_threshold if config.text else None
    semantics = (
        config.floor, config.min_quality, config.planted, config.seed, text_threshold, config.hashes,
        config.training_crops,
    )  # fmt: skip
    folder = job.folder("match", _digest(steps.digest, *semantics))
    worker = match_shards.MatchWorker(
        folder=folder, index=steps.index.folder, whitening=steps.whitening.folder,
        is_run=job.training.is_run, floor=config.floor, min_quality=config.min_quality,
        planted=config.planted, seed=config.seed, text_threshold=text_threshold, detector=config.detector,
        learned=steps.learned, thresholds=steps.thresholds, hashes=config.hashes, crops=config.training_crops,
        device=config.device,
    )  # fmt: skip
    # A shard's task is named by its version too: a set that has grown is matched where it has grown.
    shards = [
        TrainingShard(
            name=f"shard-{hashlib.sha256(repr(tuple(info)).encode()).hexdigest()[:20]}", path=info.path
        )
        for info in job.inputs
    ]
    sets = [one.name for one in config.sets]
    planted = [
        PlantedCopies(name=f"plant-{way}-{name}", dataset=name, reversed=way == "reversed")
        for name in sets
        for way in ("plain", "reversed")
        if config.planted
    ]
    done = job.runner.tasks("training images", folder, [*shards, *planted], worker, Part)
    matched = [only(part, MatchedShard) for part in done[: len(shards)]]
    copies: dict[str, dict[bool, FoundCopies]] = {name: {} for name in sets}
    for task, part in zip(planted, done[len(shards) :], strict=True):
        copies[task.dataset][task.reversed] = only(part, FoundCopies)
    none = FoundCopies(name="")
    return matched, {
        name: Planted(plain=ways.get(False, none), reversed=ways.get(True, none))
        for name, ways in copies.items()
    }


def _found(
    job: OverlapJob, concluded: list[Conclusion], planted: dict[str, Planted],
    results: list[MatchedShard], detectors: dict[str, Detectors], examples: pa.Table, matches: pa.Table,
) -> Findings:  # fmt: skip
    config = job.config
    published = dict(named(config.published, "published"))
    counts: Counter[str] = Counter()
    for result in results:
        counts.update(result.counts)
    lost = [
        UnreadableTraining(shard=info.path, key=key, reason=reason)
        for info, result in zip(job.inputs, results, strict=True)
        for key, reason in result.unreadable
    ]
    return Findings(
        datasets=tuple(
            findings.of_set(
                one, planted[name], published=published.get(name),
                published_after_crawl=_is_after(published.get(name), job.training.last_fetch),
                detectors=detectors.get(name), alike=findings.look_alikes(one, examples, matches),
            )
            for one in concluded
            for name in [one.dataset.name]
        ),
        training_set=config.run, shards=len(job.inputs), counts=dict(sorted(counts.items())),
        unreadable=tuple(lost[:_NAMED]), declared_sets=config.tests, floor=config.floor,
        min_quality=config.min_quality, last_fetch=job.training.last_fetch or None, seed=config.seed,
        text=None,
    )  # fmt: skip


def _is_after(published: str | None, last_fetch: str) -> bool | None:
    """Return whether a set was published after the last fetch; None where either date is not known."""
    if not published or not last_fetch:
        return None
    return datetime.date.fromisoformat(published) > datetime.datetime.fromisoformat(last_fetch).date()


def _publish(job: OverlapJob, concluded: list[Conclusion], matches: pa.Table) -> int | None:
    """Write the matches, the lists of examples and what to drop; return how many images that is."""
    schemas.write_table(storage.join(job.out, "matches.parquet"), matches)
    for one in concluded:
        ids = one.dataset.example_ids
        for kind, wanted in (("overlap", one.overlap), ("clean", ~one.overlap)):
            lines = [f"{ids[row]}\n" for row in np.flatnonzero(wanted)]
            storage.write_bytes(
                storage.join(job.out, kind, f"{one.dataset.name}.txt"), "".join(lines).encode()
            )
    path = storage.join(job.out, "drop.parquet")
    if job.config.decontaminate:
        table = drop_table(
            matches, [one for one in concluded if one.dataset.name in job.config.decontaminate]
        )
        schemas.write_table(path, table)
        return len(table)
    storage.remove_tree(path)  # one of an earlier run would not belong to this report
    return None


def _publish_texts(job: OverlapJob, results: list[MatchedShard]) -> TextFindings | None:
    """Write text_matches.parquet; return how many texts of each set have a near caption, if it is asked."""
    path = storage.join(job.out, "text_matches.parquet")
    if not job.config.text:
        storage.remove_tree(path)
        return None
    falling = [(name, "descending" if name in ("kind", "jaccard") else "ascending")
               for name in ("dataset", "kind", "text", "jaccard", "uid", "caption")]  # fmt: skip
    table = pa.concat_tables([schemas.read_table(result.texts) for result in results]).sort_by(falling)
    schemas.write_table(path, table)
    found: dict[tuple[str, str], set[str]] = {}
    pairs: dict[tuple[str, str], int] = {}
    columns = (table[name].to_pylist() for name in ("dataset", "kind", "text"))
    for dataset, kind, text in zip(*columns, strict=True):
        found.setdefault((dataset, kind), set()).add(text)
        pairs[dataset, kind] = pairs.get((dataset, kind), 0) + 1
    sets = tuple(
        SetTexts(
            name=one.name, kind=kind, texts=len(found.get((one.name, kind), ())),
            pairs=pairs.get((one.name, kind), 0),
        )
        for one in job.config.sets
        for kind in ("caption", "prompt")
    )  # fmt: skip
    return TextFindings(threshold=job.config.text_threshold, sketch=PARAMETERS, datasets=sets)


def drop_table(matches: pa.Table, concluded: list[Conclusion]) -> pa.Table:
    """Return uid, url and the sets of the training images that overlap, one row each, sorted by uid."""
    thresholds = {one.dataset.name: one.threshold for one in concluded}
    rows: dict[str, tuple[str, set[str]]] = {}
    columns = (matches[name].to_pylist() for name in ("dataset", "uid", "url", "similarity", "verified"))
    for name, uid, url, similarity, verified in zip(*columns, strict=True):
        if name in thresholds and verified and round(similarity, 4) >= thresholds[name]:
            rows.setdefault(uid, (url, set()))[1].add(name)
    return pa.table(
        {
            "uid": pa.array(sorted(rows), pa.string()),
            "url": pa.array([rows[uid][0] for uid in sorted(rows)], pa.string()),
            "datasets": pa.array([sorted(rows[uid][1]) for uid in sorted(rows)], pa.list_(pa.string())),
        }
    )
