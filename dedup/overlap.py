"""The overlap job: sample, index, match, conclude. Every step leaves durable files, named by what made them.

Only the last step depends on thresholds and predictions, so that deciding on them costs seconds; other sets
cost a search, but never a fetch.
"""

import datetime
import hashlib
import json
import logging
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from dedup import conclusions, index, report, shard_matching, training
from dedup.conclusions import Conclusion
from dedup.options import OverlapConfig
from dedup.search import Whitening
from dedup.text import PARAMETERS
from dedup.training import TrainingSet
from pipeline import records, storage
from pipeline.config import named
from pipeline.data.views import VIEWS
from pipeline.flow.markers import read_marker, write_json
from pipeline.flow.runner import Runner

log = logging.getLogger(__name__)

VERSION: Final = 7  # of descriptors, views and verification; raised when they change
_SAMPLED_SHARDS: Final = 8
_NAMED: Final = 100  # training images that cannot be decoded
_OWN_FILES: Final = ("report.json", "work")


@dataclass(frozen=True, kw_only=True)
class Job:
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

    def folder(self, step: str, *made_from: object) -> str:
        """Return a step's folder; its name changes with what the step is made from."""
        digest = hashlib.sha256(json.dumps([VERSION, *made_from], default=list).encode()).hexdigest()
        return storage.join(self.out, "work", f"{step}-{digest[:12]}")


def prepare(config: OverlapConfig) -> tuple[TrainingSet, list[storage.FileInfo], list[storage.FileInfo]]:
    """Return the training set and the identity of all inputs; ValueError where something is missing."""
    from pipeline.data import evalsets

    found = training.find(config.run)
    eval_files: set[str] = set()
    for one in config.sets:
        listed = evalsets.listing(one.path)
        eval_files.update(listed.files)
        if left_out := evalsets.left_out_of(listed):
            log.warning("%s: %s", one.name, left_out)
    if config.detector and not storage.exists(config.detector):
        raise ValueError(
            f"--detector: there is no file {config.detector}; `openwit detector train` writes one"
        )
    for option in ("predictions",):
        for name, path in named(getattr(config, option), option):
            if not storage.exists(path):
                raise ValueError(f"--{option} {name}: there is no file {path}")
    if config.thresholds:
        conclusions.read_thresholds(config.thresholds, [one.name for one in config.sets])
    return (
        found,
        [storage.file_info(p) for p in found.shards],
        [storage.file_info(p) for p in sorted(eval_files)],
    )


def check_output(out: str) -> None:
    """Refuse a folder that holds something else."""
    root = out.rstrip("/")
    if storage.list_files(root) and not any(storage.exists(storage.join(root, name)) for name in _OWN_FILES):
        raise ValueError(f"{root} is not empty and holds no overlap report; choose another --out")


def run(job: Job) -> dict[str, Any]:
    """Run the steps that are not done and publish the result; return what report.json holds."""
    check_output(job.out)
    config = job.config
    whitening = _whitening(job)
    index_folder = _index(job, whitening)
    examples = index.read_examples(index_folder)
    for one in config.sets:  # before the search, which is long
        conclusions.unreadable_of(examples.filter(pc.equal(examples["dataset"], one.name)))
    learned_folder = _learned(job, index_folder) if config.detector else ""
    results, planted = _match(job, whitening, index_folder, learned_folder)
    recall = {name: result["recall"] for name, result in planted.items()}
    found = _found(results)
    matches = conclusions.ranked(found, config.neighbours)
    predictions = dict(named(config.predictions, "predictions"))
    thresholds = (
        conclusions.read_thresholds(config.thresholds, [s.name for s in config.sets])
        if config.thresholds
        else {}
    )
    concluded = conclusions.conclude(
        conclusions.datasets(examples, matches, predictions), thresholds, config.floor, config.tests
    )
    summary = _summary(job, concluded, recall, results)
    for entry in summary["datasets"]:
        entry["recall_note"] = planted.get(entry["name"], {}).get("note") or None
    if config.detector:
        _add_detectors(summary, concluded, matches, planted, learned_folder)
    _publish(job, concluded, matches, summary)
    _publish_texts(job, results, summary)
    page = report.render(summary, concluded, matches, results, index_folder, config.gallery)
    storage.write_bytes(storage.join(job.out, "index.html"), page.encode())
    # Last: it is what a finished analysis is known by.
    storage.write_bytes(
        storage.join(job.out, "report.json"), (json.dumps(summary, indent=1, allow_nan=False) + "\n").encode()
    )
    return summary


def _sampled(job: Job) -> list[storage.FileInfo]:
    """Return the shards that stand for all, chosen by hash."""
    shards = sorted(
        job.inputs, key=lambda info: xxhash.xxh3_64_intdigest(info.path.encode(), seed=job.config.seed)
    )
    return sorted(shards[:_SAMPLED_SHARDS])


def _whitening(job: Job) -> str:
    """Fit the whitening to a hash sample of the shards, once; return its path."""
    chosen = _sampled(job)
    folder = job.folder("sample", chosen)
    path = storage.join(folder, "whitening")
    if not storage.exists(path):
        tasks = [{"name": f"{n:02d}", "shard": info.path} for n, info in enumerate(chosen)]
        done = job.runner.tasks(
            "sample", folder, tasks, shard_matching.SampleWorker(folder=folder, is_run=job.training.is_run)
        )
        colours = np.concatenate([shard_matching.load_sample(result["path"]) for result in done])
        if len(colours) < 2:
            raise ValueError(
                f"fewer than two images of {job.config.run} can be decoded; there is nothing to compare"
            )
        index.save_whitening(path, Whitening.fit(colours), len(colours))
    return path


def _index(job: Job, whitening: str) -> str:
    """Describe the evaluation sets, and join them into one index; return its folder."""
    config = job.config
    folder = job.folder("index", job.eval_inputs, config.eval, config.min_quality, whitening)
    if read_marker(folder, "joined") is None:
        parts = storage.join(folder, "parts")
        worker = index.IndexWorker(folder=parts, min_quality=config.min_quality)
        done = job.runner.tasks("evaluation sets", parts, index.plan(config.sets), worker)
        index.join(folder, done, index.load_whitening(whitening))
        write_json(storage.join(folder, "joined.json"), {"name": "joined"})
        storage.remove_tree(parts)
    return folder


def _learned(job: Job, index_folder: str) -> str:
    """Describe the index by the learned detector and set its thresholds; return the folder."""
    from dedup.detector import candidates, weights  # imports torch

    config = job.config
    detector = weights.read(config.detector)
    shards = _sampled(job)
    made_from = (detector.name, index_folder, [view._asdict() for view in VIEWS], shards)
    folder = job.folder("learned", *made_from, config.detector_precision, sum(i.size for i in job.inputs))
    if read_marker(folder, "described") is None:
        compared = index.Index(index_folder)
        parts = storage.join(folder, "parts")
        example_worker = candidates.ExampleWorker(folder=parts, index=index_folder, detector=config.detector)
        done = job.runner.tasks("learned detector", parts, candidates.plan(len(compared)), example_worker)
        candidates.join(folder, done, detector.dims)
        worker = candidates.SampleWorker(
            folder=folder, index=index_folder, detector=config.detector, is_run=job.training.is_run,
            min_quality=config.min_quality,
        )  # fmt: skip
        tasks = [{"name": f"{n:02d}", "shard": info.path} for n, info in enumerate(shards)]
        sampled = job.runner.tasks("thresholds", storage.join(folder, "sample"), tasks, worker)
        size = sum(info.size for info in job.inputs)
        candidates.save_thresholds(folder, compared, sampled, size, config.detector_precision)
        write_json(storage.join(folder, "described.json"), {"name": "described"})
        storage.remove_tree(parts)
    return folder


def _add_detectors(
    summary: dict[str, Any], concluded: list[Conclusion], matches: pa.Table,
    planted: dict[str, dict[str, Any]], learned_folder: str,
) -> None:  # fmt: skip
    """Add to each set's entry what the hashes and the learned detector found on their own."""
    from dedup.detector import candidates

    own = candidates.read_thresholds(learned_folder)
    for entry, one in zip(summary["datasets"], concluded, strict=True):
        found = {by: conclusions.found_by(one, matches, by) for by in ("hashes", "learned")}
        entry["detectors"] = {
            by: {
                "overlap": len(found[by]),
                "alone": len(found[by] - found["hashes" if by == "learned" else "learned"]),
                "recall": conclusions.recall_at(planted.get(one.dataset.name, {}).get(by, {}), one.threshold),
            }
            for by in found
        }
        entry["detectors"]["learned"]["own_threshold"] = own.get(one.dataset.name)


def _match(
    job: Job, whitening: str, index_folder: str, learned_folder: str
) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Match every shard and the planted copies; return the shards' results and each set's copies'."""
    config = job.config
    text_threshold = config.text_threshold if config.text else None
    semantics = (config.floor, config.min_quality, config.planted, config.seed, text_threshold)
    folder = job.folder("match", index_folder, learned_folder, *semantics)
    worker = shard_matching.MatchWorker(
        folder=folder, index=index_folder, whitening=whitening, is_run=job.training.is_run,
        floor=config.floor, min_quality=config.min_quality, planted=config.planted, seed=config.seed,
        text_threshold=text_threshold, detector=config.detector, described=learned_folder,
    )  # fmt: skip
    # A shard's task is named by its version too: a set that has grown is matched where it has grown.
    tasks: list[dict[str, Any]] = [
        {"name": f"shard-{hashlib.sha256(repr(tuple(info)).encode()).hexdigest()[:20]}", "shard": info.path}
        for info in job.inputs
    ]
    planted = (
        [{"name": f"plant-{one.name}", "plant": one.name} for one in config.sets] if config.planted else []
    )
    done = job.runner.tasks("training images", folder, [*tasks, *planted], worker)
    copies = {task["plant"]: result for task, result in zip(planted, done[len(tasks) :], strict=True)}
    return done[: len(tasks)], copies


def _found(results: list[dict[str, Any]]) -> pa.Table:
    columns = [name for name in shard_matching.FOUND.names if name != "preview"]
    tables = [records.read_table(result["path"], columns) for result in results]
    return pa.concat_tables(tables)


def _summary(
    job: Job,
    concluded: list[Conclusion],
    recall: dict[str, dict[str, list[float]]],
    results: list[dict[str, Any]],
) -> dict[str, Any]:
    config = job.config
    published = dict(named(config.published, "published"))
    datasets = []
    for one in concluded:
        name = one.dataset.name
        entry = conclusions.as_json(one)
        entry["recall"] = conclusions.recall_at(recall.get(name, {}), one.threshold)
        entry["planted"] = len(recall.get(name, {}).get("mixed", []))
        entry["published"] = published.get(name)
        entry["published_after_crawl"] = _is_after(published.get(name), job.training.last_fetch)
        datasets.append(entry)
    counts: dict[str, int] = {}
    lost = [
        {"shard": info.path, "key": key, "reason": reason}
        for info, result in zip(job.inputs, results, strict=True)
        for key, reason in result["unreadable"]
    ]
    for result in results:
        for word, count in result["counts"].items():
            counts[word] = counts.get(word, 0) + count
    return {
        "datasets": datasets,
        "training_set": config.run, "shards": len(job.inputs), "counts": dict(sorted(counts.items())),
        "unreadable": lost[:_NAMED],
        "declared_sets": config.tests, "floor": config.floor, "min_quality": config.min_quality,
        "last_fetch": job.training.last_fetch or None, "seed": config.seed, "text": None,
    }  # fmt: skip


def _is_after(published: str | None, last_fetch: str) -> bool | None:
    """Return whether a set was published after the last fetch; None where either date is not known."""
    if not published or not last_fetch:
        return None
    return datetime.date.fromisoformat(published) > datetime.datetime.fromisoformat(last_fetch).date()


def _publish(job: Job, concluded: list[Conclusion], matches: pa.Table, summary: dict[str, Any]) -> None:
    records.write_table(storage.join(job.out, "matches.parquet"), matches)
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
        records.write_table(path, table)
        summary["dropped"] = len(table)
    else:
        storage.remove_tree(path)  # one of an earlier run would not belong to this report


def _publish_texts(job: Job, results: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    """Write text_matches.parquet and add to the summary how many texts of each set have a near caption."""
    path = storage.join(job.out, "text_matches.parquet")
    if not job.config.text:
        storage.remove_tree(path)
        return
    falling = [(name, "descending" if name in ("kind", "jaccard") else "ascending")
               for name in ("dataset", "kind", "text", "jaccard", "uid", "caption")]  # fmt: skip
    table = pa.concat_tables([records.read_table(result["text_path"]) for result in results]).sort_by(falling)
    records.write_table(path, table)
    found: dict[tuple[str, str], set[str]] = {}
    pairs: dict[tuple[str, str], int] = {}
    columns = (table[name].to_pylist() for name in ("dataset", "kind", "text"))
    for dataset, kind, text in zip(*columns, strict=True):
        found.setdefault((dataset, kind), set()).add(text)
        pairs[dataset, kind] = pairs.get((dataset, kind), 0) + 1
    sets = [
        {"name": one.name, "kind": kind, "texts": len(found.get((one.name, kind), ())),
         "pairs": pairs.get((one.name, kind), 0)}
        for one in job.config.sets
        for kind in ("caption", "prompt")
    ]  # fmt: skip
    summary["text"] = {"threshold": job.config.text_threshold, "sketch": PARAMETERS, "datasets": sets}


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
