"""The Beam shell: steps as one graph, which wires plain functions; `beam_runner` runs it.

Every step reads its tasks from a file, so that a graph stays small and can be built before its inputs exist,
and leaves durable files with a marker written last, so that finished tasks are skipped when it runs again.
Nothing else in openwit imports Beam, but for beam_runner.py and beam_job_server.py.
"""

import functools
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.utils.shared import Shared

from pipeline import storage
from pipeline.balance import I64, largest, smallest, thresholds
from pipeline.flow.markers import dump, load, read_vector, write_vector
from pipeline.flow.parts import Counted, Part, only
from pipeline.flow.spill import Range, Spill, SpillWorker, ranges_of, read_slices, spill_folder
from pipeline.flow.steps import (
    Shuffle,
    Step,
    Tasks,
    Thresholds,
    Work,
    noted,
    plan,
    rank_path,
    write_results,
)
from pipeline.flow.worker import Counter, Shuffler, Worker, reduce_partition, run_task


@dataclass
class Plan(beam.PTransform):
    """Plan a step once its input reports the previous step done, and spread its tasks over the workers.

    Yields each task as a line of JSON, for a shuffle after the number of partitions. The launcher has
    planned the first step of a job, and those whose work is known to it alone.
    """

    step: Step
    is_planned: bool

    def _tasks(self, _: object) -> Iterator[str]:
        if not self.is_planned:
            plan(self.step)
        numbers, lines = noted(self.step)
        for line in lines:
            yield f"{numbers['partitions']} {line}" if isinstance(self.step, Shuffle) else line

    def expand(self, before: beam.PCollection) -> beam.PCollection:
        return (
            before | "Plan" >> beam.FlatMap(self._tasks).with_output_types(str) | "Spread" >> beam.Reshuffle()
        )


class _State:
    """A worker's state, whatever it is: Beam's Shared needs an object that it can refer to weakly."""

    def __init__(self, value: object) -> None:
        self.value = value


class _RunTask(beam.DoFn):
    """Run a task unless its marker says that it is done."""

    def __init__(self, worker: Worker, folder: str) -> None:
        self._worker, self._folder, self._shared = worker, folder, Shared()
        self._state = _State(None)

    def setup(self) -> None:
        self._state = self._shared.acquire(lambda: _State(self._worker.open()))

    def process(self, line: str) -> Iterator[tuple[int, str]]:
        task = load(line, self._folder)
        yield 0, dump(run_task(self._worker, self._state.value, self._folder, task), self._folder)


def _split(line: str, shuffler: Shuffler, folder: str) -> Iterator[tuple[int, bytes]]:
    partitions, _, task = line.partition(" ")
    yield from shuffler.split(load(task, folder), int(partitions))


def _reduce(group: tuple[int, Iterable[bytes]], shuffler: Shuffler, folder: str) -> tuple[int, str]:
    return 0, dump(reduce_partition(shuffler, folder, *group), folder)


def _hash(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()[:32]


def _spilled(
    line: str, task: Part, shuffler: Any, folder: str, partitions: int = 1
) -> Iterator[tuple[int, str]]:
    """Write the slices of the task in a line; yield each partition and where its slices lie."""
    worker = SpillWorker(folder=spill_folder(folder), shuffler=shuffler, partitions=partitions)
    for partition, ranges in ranges_of([worker.run(None, Spill(name=_hash(line), task=task))]).items():
        yield partition, json.dumps(ranges)


def _ranges(lines: Iterable[str]) -> list[Range]:
    return sorted((path, start, stop) for line in lines for path, start, stop in json.loads(line))


def _spill(line: str, shuffler: Shuffler, folder: str) -> Iterator[tuple[int, str]]:
    partitions, _, task = line.partition(" ")
    yield from _spilled(line, load(task, folder), shuffler, folder, int(partitions))


def _reduce_spilled(group: tuple[int, Iterable[str]], shuffler: Shuffler, folder: str) -> tuple[int, str]:
    slices = read_slices(_ranges(group[1]))
    return 0, dump(reduce_partition(shuffler, folder, group[0], slices), folder)


def _nothing(_: object) -> tuple[int, str]:
    return 0, ""


def _write_results(group: tuple[int, Iterable[str]], folder: str) -> str:
    write_results(folder, (load(line, folder) for line in group[1] if line))
    return folder


@dataclass
class Collect(beam.PTransform):
    """Write the results of a step when all are there; yields its folder, once.

    Takes the report that the previous step is done, and the results.
    """

    folder: str

    def expand(self, given: Any) -> beam.PCollection:  # two collections: Beam has no type for that
        before, results = given
        nothing = before | "Nothing" >> beam.Map(_nothing).with_output_types(tuple[int, str])
        return (
            (results, nothing)  # a step without tasks ends, too
            | beam.Flatten()
            | beam.GroupByKey()
            | "Write" >> beam.Map(_write_results, self.folder).with_output_types(str)
        )


@dataclass
class RunTasks(beam.PTransform):
    """Do each task of a step on its own."""

    step: Tasks
    is_planned: bool

    def expand(self, before: beam.PCollection) -> beam.PCollection:
        do = _RunTask(self.step.worker, self.step.folder)
        results = (
            before
            | Plan(self.step, self.is_planned)
            | "Run" >> beam.ParDo(do).with_output_types(tuple[int, str])
        )
        return (before, results) | Collect(self.step.folder)


@dataclass
class RunShuffle(beam.PTransform):
    """Split the tables of a step's tasks and reduce each partition.

    Slices cross the shuffle as bytes; or lie in files, and where they lie crosses it.
    """

    step: Shuffle
    is_planned: bool
    is_spilled: bool

    def expand(self, before: beam.PCollection) -> beam.PCollection:
        step = self.step
        split, item, reduce = (
            (_spill, tuple[int, str], _reduce_spilled) if self.is_spilled
            else (_split, tuple[int, bytes], _reduce)
        )  # fmt: skip
        results = (
            before
            | Plan(step, self.is_planned)
            | "Split" >> beam.FlatMap(split, step.shuffler, step.folder).with_output_types(item)
            | "Group" >> beam.GroupByKey()
            | "Reduce" >> beam.Map(reduce, step.shuffler, step.folder).with_output_types(tuple[int, str])
        )
        return (before, results) | Collect(step.folder)


class _SumVectors(beam.CombineFn):
    """Add int64 arrays of one shape: counts for all queries travel as one vector, not as 500,000 keys."""

    def create_accumulator(self) -> np.ndarray | None:
        return None

    def add_input(self, total: np.ndarray | None, vector: np.ndarray) -> np.ndarray:
        return vector.copy() if total is None else total + vector

    def merge_accumulators(self, totals: Iterable[np.ndarray | None]) -> np.ndarray | None:
        found = [t for t in totals if t is not None]
        return sum(found[1:], found[0]) if found else None

    def extract_output(self, total: np.ndarray | None) -> np.ndarray | None:
        return total


# Of query ids. 100,000 of 500,000 queries with more than 25,000 samples are 30 GB of pairs: 7 MB a bucket.
_BUCKETS = 4096


def _counted(line: str, folder: str) -> Counted:
    return only(load(line, folder), Counted)


def _load_counts(line: str, folder: str) -> np.ndarray:
    return read_vector(_counted(line, folder).counts)


def _with_chunk(line: str, folder: str) -> tuple[int, str]:
    return int(_hash(line), 16) % 16, _counted(line, folder).counts


def _sum_files(group: tuple[int, Iterable[str]], prefix: str) -> tuple[int, str]:
    path = f"{prefix}{group[0]}"
    write_vector(path, functools.reduce(np.add, map(read_vector, sorted(group[1]))))
    return 0, path


def _second(pair: tuple[int, str]) -> str:
    return pair[1]


@dataclass(frozen=True)
class _Heads:
    """Split a task's head pairs by bucket, as a shuffler does its tables."""

    counter: Counter
    counts: np.ndarray
    rank: str

    def split(self, task: Counted, _: int) -> Iterator[tuple[int, bytes]]:
        query, priority = self.counter.pairs(task, self.counts[0], read_vector(self.rank))
        bucket = query % _BUCKETS
        order = np.argsort(bucket, kind="stable")
        query, priority, bucket = query[order], priority[order], bucket[order]
        starts = np.flatnonzero(np.append(True, bucket[1:] != bucket[:-1])[: len(bucket)])
        for start, stop in itertools.pairwise([*starts.tolist(), len(bucket)]):
            yield int(bucket[start]), query[start:stop].tobytes() + priority[start:stop].tobytes()


def _head_slices(
    line: str, counts: np.ndarray, counter: Counter, rank: str, folder: str
) -> Iterator[tuple[int, bytes]]:
    yield from _Heads(counter, counts, rank).split(_counted(line, folder), _BUCKETS)


def _spill_heads(
    line: str, counts: str, counter: Counter, rank: str, folder: str
) -> Iterator[tuple[int, str]]:
    yield from _spilled(line, _counted(line, folder), _Heads(counter, read_vector(counts), rank), folder)


def _smallest_spilled(group: tuple[int, Iterable[str]], rank: str) -> "_BucketHeads":
    combine = _Smallest(rank)
    found = functools.reduce(combine.add_input, read_slices(_ranges(group[1])), combine.create_accumulator())
    return group[0], combine.extract_output(found)


def _pairs_of(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    n = len(data) // 12  # 4 bytes of query, 8 of priority
    return np.frombuffer(data, np.int32, n), np.frombuffer(data, np.uint64, n, offset=4 * n)


class _Smallest(beam.CombineFn):
    """Find each query's `rank`-th smallest priority: bounded arrays, merged before and after the shuffle."""

    def __init__(self, rank: str) -> None:
        self._rank_path = rank
        self._rank: I64 | None = None

    def _merge(self, parts: Iterable[bytes]) -> bytes:
        if self._rank is None:
            self._rank = read_vector(self._rank_path)
        arrays = [_pairs_of(part) for part in parts]
        query = np.concatenate([a[0] for a in arrays] or [np.zeros(0, np.int32)])
        priority = np.concatenate([a[1] for a in arrays] or [np.zeros(0, np.uint64)])
        query, priority = smallest(query, priority, self._rank)
        return query.tobytes() + priority.tobytes()

    def create_accumulator(self) -> list[bytes]:
        return []

    def add_input(self, parts: list[bytes], part: bytes) -> list[bytes]:
        parts.append(part)
        return [self._merge(parts)] if len(parts) >= 16 else parts

    def merge_accumulators(self, accumulators: Iterable[list[bytes]]) -> list[bytes]:
        return [self._merge(part for parts in accumulators for part in parts)]

    def extract_output(self, parts: list[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return largest(*_pairs_of(self._merge(parts)))


_BucketHeads = tuple[int, tuple[np.ndarray, np.ndarray, np.ndarray]]  # a bucket and its `balance.largest`


def _write_thresholds(
    _: object, heads: list[_BucketHeads], sums: list[np.ndarray | str], rank: str, folder: str
) -> str:
    ranks = read_vector(rank)
    [counts] = sums or [np.zeros((1, len(ranks)), np.int64)]  # not a single task
    if isinstance(counts, str):
        counts = read_vector(counts)
    none = (np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.uint64))
    query, found, priority = map(np.concatenate, zip(none, *(found for _, found in heads), strict=True))
    table = thresholds(query, found, priority, counts[0], ranks)
    write_vector(storage.join(folder, "counts"), counts)
    write_vector(storage.join(folder, "thresholds"), table)
    return folder


@dataclass
class RunThresholds(beam.PTransform):
    """Sum the tasks' counts and find each query's threshold at its rank; writes `counts` and `thresholds`.

    Vectors and pairs cross the shuffle as such; or lie in files, and where they lie crosses it.
    """

    step: Thresholds
    is_planned: bool
    is_spilled: bool

    def expand(self, before: beam.PCollection) -> beam.PCollection:
        step, rank = self.step, rank_path(self.step)
        tasks = before | Plan(step, self.is_planned)
        counts, heads = self._through_files(tasks) if self.is_spilled else self._through_shuffle(tasks)
        given = beam.pvalue.AsList(heads), beam.pvalue.AsList(counts)
        return before | "Write" >> beam.Map(_write_thresholds, *given, rank, step.folder)

    def _through_shuffle(self, tasks: beam.PCollection) -> tuple[beam.PCollection, beam.PCollection]:
        step, rank = self.step, rank_path(self.step)
        counts = (
            tasks
            | "LoadCounts" >> beam.Map(_load_counts, step.folder)
            | "SumCounts" >> beam.CombineGlobally(_SumVectors()).with_fanout(16).without_defaults()
        )
        given = beam.pvalue.AsSingleton(counts), step.counter, rank, step.folder
        heads = (
            tasks
            | "HeadPairs" >> beam.FlatMap(_head_slices, *given).with_output_types(tuple[int, bytes])
            | "Smallest" >> beam.CombinePerKey(_Smallest(rank))
        )
        return counts, heads

    def _through_files(self, tasks: beam.PCollection) -> tuple[beam.PCollection, beam.PCollection]:
        step, rank = self.step, rank_path(self.step)
        counts = tasks | "Chunk" >> beam.Map(_with_chunk, step.folder).with_output_types(tuple[int, str])
        for name in ("chunk", "total"):
            prefix = storage.join(spill_folder(step.folder), name)
            counts = (
                counts
                | f"Group_{name}" >> beam.GroupByKey()
                | f"Sum_{name}" >> beam.Map(_sum_files, prefix).with_output_types(tuple[int, str])
            )
        counts = counts | "Path" >> beam.Map(_second).with_output_types(str)
        given = beam.pvalue.AsSingleton(counts), step.counter, rank, step.folder
        heads = (
            tasks
            | "HeadPairs" >> beam.FlatMap(_spill_heads, *given).with_output_types(tuple[int, str])
            | "Group" >> beam.GroupByKey()
            | "Smallest" >> beam.Map(_smallest_spilled, rank)
        )
        return counts, heads


def _graph(step: Step, *, is_planned: bool, is_spilled: bool) -> beam.PTransform:
    if isinstance(step, Shuffle):
        return RunShuffle(step, is_planned, is_spilled)
    if isinstance(step, Thresholds):
        return RunThresholds(step, is_planned, is_spilled)
    return RunTasks(step, is_planned)


@dataclass
class Steps(beam.PTransform):
    """Do steps in order: each begins when the files of the previous step are there.

    is_spilled: shuffled values go through files, which stay until the job is over, for runners that hold all
    values of a group in memory (github.com/apache/beam/issues/18848, of Spark's 30184); Flink's also refuses
    a value of more than some MB (20655).
    """

    steps: tuple[Step, ...]
    is_spilled: bool = False

    def expand(self, start: beam.pvalue.PBegin) -> beam.PCollection:
        done = start | beam.Impulse()
        for number, step in enumerate(self.steps):
            is_planned = step.is_known or not number
            if is_planned:  # its plan may be as long as its list of tasks, and is no longer needed
                step = replace(step, plan=_planned)
            done = done | step.label >> _graph(step, is_planned=is_planned, is_spilled=self.is_spilled)
        return done


def _planned() -> Work:
    raise AssertionError("the launcher has planned it")
