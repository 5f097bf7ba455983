"""The Beam shell: three graphs that wire plain functions, and how they are run.

Every graph reads its tasks from a file, so that it stays small and can be built before its inputs exist, and
leaves durable files with a marker written last, so that running it again skips what is done. Nothing else in
openwit imports Beam, but for job_server.py.
"""

import contextlib
import itertools
import json
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import apache_beam as beam
import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.utils.shared import Shared

from pipeline import storage
from pipeline.balance import I64, largest, smallest, thresholds
from pipeline.stages.files import (
    Result,
    Task,
    commit,
    finished,
    marker_path,
    read_lines,
    read_marker,
    read_vector,
    write_json,
    write_tasks,
    write_vector,
)
from pipeline.stages.heartbeat import heartbeat
from pipeline.stages.job_server import runner_of
from pipeline.stages.spill import Shuffler, SpilledShuffler, SpillWorker


# Beam checks annotated arguments against their classes while a graph is built: hence runtime_checkable.
@runtime_checkable
class Worker(Protocol):
    """Do one kind of task; picklable, what is expensive to load is in the state that `open` returns."""

    def open(self) -> object:
        """Return what is loaded once a process."""
        ...

    def run(self, state: Any, task: Task) -> Result:
        """Write the task's files and return its result, a JSON object; running it twice gives the same."""
        ...


@runtime_checkable
class Counter(Protocol):
    """Give the (query, priority) pairs of one task's samples."""

    def pairs(self, task: Task, counts: I64, rank: I64) -> tuple[np.ndarray, np.ndarray]:
        """Return the head pairs of `balance.head_pairs`."""
        ...


class _RunTask(beam.DoFn):
    """Run a task unless its marker says that it is done."""

    def __init__(self, worker: Worker, folder: str) -> None:
        self._worker, self._folder, self._shared = worker, folder, Shared()
        self._state: object = None

    def setup(self) -> None:
        self._state = self._shared.acquire(self._worker.open)

    def process(self, line: str) -> Iterator[str]:
        task = json.loads(line)
        result = read_marker(self._folder, task["name"])
        if result is None:
            with heartbeat(self._folder, task["name"]):
                result = {"name": task["name"], **self._worker.run(self._state, task)}
            result = commit(self._folder, task["name"], result)
        yield json.dumps(result, sort_keys=True)


def _write_results(results: list[str], path: str) -> None:
    storage.write_bytes(path, "".join(f"{line}\n" for line in sorted(results)).encode())


@dataclass
class Tasks(beam.PTransform):
    """Run every task of a file on its own; results go to results.jsonl."""

    folder: str
    worker: Worker

    def expand(self, start: beam.pvalue.PBegin) -> beam.PCollection:
        return (
            start
            | "TaskFile" >> beam.Create([storage.join(self.folder, "tasks.jsonl")])
            | "ReadTasks" >> beam.FlatMap(read_lines).with_output_types(str)
            | "Spread" >> beam.Reshuffle()
            | "Run" >> beam.ParDo(_RunTask(self.worker, self.folder)).with_output_types(str)
            | "Collect" >> beam.combiners.ToList()
            | "Write" >> beam.Map(_write_results, storage.join(self.folder, "results.jsonl"))
        )


def _reduce(group: tuple[int, Iterable[bytes]], shuffler: Shuffler, folder: str) -> str:
    partition, slices = group
    name = f"{partition:05d}"
    result = {"name": name, "partition": partition, **shuffler.reduce(partition, slices)}
    write_json(marker_path(folder, name), result)
    return json.dumps(result, sort_keys=True)


@dataclass
class Shuffle(beam.PTransform):
    """Split the tasks' tables into partitions and reduce each; slices cross the shuffle as bytes."""

    folder: str
    tasks: str
    shuffler: Shuffler

    def _split(self, line: str) -> Iterator[tuple[int, bytes]]:
        yield from self.shuffler.split(json.loads(line))

    def expand(self, start: beam.pvalue.PBegin) -> beam.PCollection:
        return (
            start
            | "TaskFile" >> beam.Create([self.tasks])
            | "ReadTasks" >> beam.FlatMap(read_lines).with_output_types(str)
            | "Spread" >> beam.Reshuffle()
            | "Split" >> beam.FlatMap(self._split).with_output_types(tuple[int, bytes])
            | "Group" >> beam.GroupByKey()
            | "Reduce" >> beam.Map(_reduce, self.shuffler, self.folder).with_output_types(str)
        )


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


def _load_counts(line: str) -> np.ndarray:
    return read_vector(json.loads(line)["counts"])


def _head_slices(
    line: str, counts: np.ndarray | None, counter: Counter, rank: str
) -> Iterator[tuple[int, bytes]]:
    assert counts is not None
    query, priority = counter.pairs(json.loads(line), counts[0], read_vector(rank))
    bucket = query % _BUCKETS
    order = np.argsort(bucket, kind="stable")
    query, priority, bucket = query[order], priority[order], bucket[order]
    starts = np.flatnonzero(np.append(True, bucket[1:] != bucket[:-1])[: len(bucket)])
    for start, stop in itertools.pairwise([*starts.tolist(), len(bucket)]):
        yield int(bucket[start]), query[start:stop].tobytes() + priority[start:stop].tobytes()


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


_Heads = tuple[int, tuple[np.ndarray, np.ndarray, np.ndarray]]  # a bucket and its `balance.largest`


def _write_thresholds(
    heads: list[_Heads], counts: np.ndarray | None, rank: str, folder: str, queries: int
) -> None:
    if counts is None:  # not a single sample
        counts = np.zeros((1, queries), np.int64)
    none = (np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.uint64))
    query, found, priority = map(np.concatenate, zip(none, *(found for _, found in heads), strict=True))
    table = thresholds(query, found, priority, counts[0], read_vector(rank))
    write_vector(storage.join(folder, "counts"), counts)
    write_vector(storage.join(folder, "thresholds"), table)


@dataclass
class Thresholds(beam.PTransform):
    """Sum the tasks' counts and find each query's threshold at its rank; writes `counts` and `thresholds`."""

    folder: str
    counter: Counter
    rank: str
    queries: int

    def expand(self, start: beam.pvalue.PBegin) -> beam.PCollection:
        tasks = (
            start
            | "TaskFile" >> beam.Create([storage.join(self.folder, "tasks.jsonl")])
            | "ReadTasks" >> beam.FlatMap(read_lines).with_output_types(str)
            | "Spread" >> beam.Reshuffle()
        )
        counts = (
            tasks
            | "LoadCounts" >> beam.Map(_load_counts)
            | "SumCounts" >> beam.CombineGlobally(_SumVectors()).with_fanout(16)
        )
        heads = (
            tasks
            | "HeadPairs"
            >> beam.FlatMap(
                _head_slices, beam.pvalue.AsSingleton(counts), self.counter, self.rank
            ).with_output_types(tuple[int, bytes])
            | "Smallest" >> beam.CombinePerKey(_Smallest(self.rank))
            | "Collect" >> beam.combiners.ToList()
        )
        return heads | "Write" >> beam.Map(
            _write_thresholds, beam.pvalue.AsSingleton(counts), self.rank, self.folder, self.queries
        )


@dataclass(frozen=True, kw_only=True)
class Runner:
    """Run graphs: locally on FnApiRunner, or wherever the Beam flags say."""

    flags: tuple[str, ...] = ()
    workers: int = 1
    log: str = ""
    """Local file for what worker processes write to stderr; they inherit ours without it."""
    name: str = ""
    """Of the jobs on a cluster, unless a flag gives one. Dataflow refuses a second job of the same name: so
    no new launcher begins a stage on which the job of a lost one is still at work."""

    @property
    def is_local(self) -> bool:
        """Return whether the graphs run on this machine, where memory between stages is not spilled."""
        named = [value for flag, value in itertools.pairwise((*self.flags, "")) if flag == "--runner"]
        named += [flag.removeprefix("--runner=") for flag in self.flags if flag.startswith("--runner=")]
        return all(name in ("DirectRunner", "FnApiRunner") for name in named)

    def options(self, tasks: int) -> PipelineOptions:
        """Return the pipeline options for a graph of so many tasks.

        FnApiRunner is named because plain DirectRunner tries to download another engine. One task gains
        nothing from processes, which cost two seconds to start.
        """
        flags = list(self.flags)
        if self.name and not any(flag.startswith("--job_name") for flag in flags):
            flags.append(f"--job_name={self.name}")
        if self.is_local:
            processes = min(self.workers, tasks)
            mode = "multi_processing" if processes > 1 else "in_memory"
            own = [f"--direct_running_mode={mode}", f"--direct_num_workers={max(processes, 1)}"]
            flags = [*own, *flags, "--runner=FnApiRunner"]  # the last one counts
        return PipelineOptions(flags)

    def run(self, graph: beam.PTransform, tasks: int) -> None:
        """Run a graph to its end; a failure raises."""
        quiet_beam()
        options = self.options(tasks)
        on_dataflow = options.view_as(StandardOptions).runner == "DataflowRunner"
        if on_dataflow:  # says where the job can be looked at
            logging.getLogger("apache_beam.runners.dataflow").setLevel(logging.INFO)
        pipeline = beam.Pipeline(runner=runner_of(options, self.flags), options=options)
        _ = pipeline | type(graph).__name__ >> graph
        level = logging.getLogger().level
        result = None
        try:
            with stderr_to("" if on_dataflow else self.log):
                result = pipeline.run()
                state = result.wait_until_finish()
        except KeyboardInterrupt:
            if result is not None and not self.is_local:
                with contextlib.suppress(Exception):
                    result.cancel()
            raise
        except Exception as error:  # of any type, from a worker: not for `except ValueError` of a command
            raise RuntimeError(str(error)) from error
        finally:
            logging.getLogger().setLevel(level)  # Beam's worker in this process has set it to INFO
        if state not in (None, "DONE"):
            raise RuntimeError(f"the job ended as {state}; the same command continues it")


@contextlib.contextmanager
def stderr_to(path: str) -> Iterator[None]:
    """Let file descriptor 2 write to a local file while worker processes are started and at work.

    Beam's workers log every step to the stderr that they inherit; what matters comes back as an exception.
    """
    if not path:
        yield
        return
    kept = os.dup(2)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:  # noqa: PTH123 - a descriptor is wanted
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def quiet_beam() -> None:
    """Keep Beam's own messages below WARNING out of the user's terminal."""
    for name in ("apache_beam", "root"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # It logs the traceback of what a task raised; the exception itself comes back and says what to do.
    logging.getLogger("apache_beam.runners.common").setLevel(logging.CRITICAL)
    logging.getLogger("apache_beam.runners.worker.worker_pool_main").setLevel(logging.ERROR)


def run_tasks(runner: Runner, folder: str, tasks: list[Task], worker: Worker) -> list[Result]:
    """Run the tasks that have no marker yet and return all results, in the order of the tasks."""
    done = finished(folder)
    missing = [task for task in tasks if task["name"] not in done]
    if missing:
        write_tasks(storage.join(folder, "tasks.jsonl"), missing)
        runner.run(Tasks(folder, worker), len(missing))
        lines = read_lines(storage.join(folder, "results.jsonl"))
        done |= {result["name"]: result for result in map(json.loads, lines)}
    return [done[task["name"]] for task in tasks]


def run_shuffle(
    runner: Runner, folder: str, inputs: list[Task], shuffler: Shuffler, partitions: int, at_once: int
) -> list[Result]:
    """Run a shuffle over ranges of at most `at_once` partitions each, skipping ranges already done.

    Several ranges share one split of the inputs, on disk. A partition without rows has no result.
    """
    bounds = [(low, min(low + at_once, partitions)) for low in range(0, partitions, at_once)]
    ranges = {f"range-{low:05d}-{high:05d}": (low, high) for low, high in bounds}
    missing = [name for name in ranges if read_marker(folder, name) is None]
    spill = f"{folder}.spill"
    if missing and len(ranges) > 1:
        worker = SpillWorker(folder=spill, shuffler=shuffler)
        named = [{"name": f"{number:06d}", "task": task} for number, task in enumerate(inputs)]
        inputs = run_tasks(runner, spill, named, worker)
    for name in missing:
        low, high = ranges[name]
        own = shuffler if len(ranges) == 1 else SpilledShuffler(shuffler=shuffler, low=low, high=high)
        tasks = storage.join(folder, f"{name}.tasks")
        count = write_tasks(tasks, inputs)
        runner.run(Shuffle(folder, tasks, own), max(count, high - low))
        write_json(marker_path(folder, name), {"name": name})
    storage.remove_tree(spill)
    return [result for name, result in sorted(finished(folder).items()) if not name.startswith("range-")]


def run_thresholds(runner: Runner, folder: str, tasks: list[Task], counter: Counter, rank: I64) -> None:
    """Write `counts` and `thresholds` for the samples of the tasks, unless they are there."""
    if storage.exists(storage.join(folder, "thresholds")):
        return
    write_vector(storage.join(folder, "rank"), rank)
    count = write_tasks(storage.join(folder, "tasks.jsonl"), tasks)
    runner.run(Thresholds(folder, counter, storage.join(folder, "rank"), len(rank)), count)
