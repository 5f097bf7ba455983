"""Run steps on this machine, without Beam: in this process while they are short, else in a pool of processes.

It executes our steps and nothing more: no scheduling beyond the next task, no network, no retries (the same
command continues). A Beam runner given by --runner writes the same files.
"""

import contextlib
import itertools
import multiprocessing
import os
import pickle
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from pipeline import storage
from pipeline.balance import I64, U64, largest, smallest, thresholds
from pipeline.flow.markers import finished, read_vector, write_vector
from pipeline.flow.parts import Counted, Part, only
from pipeline.flow.spill import Range, Slices, Spill, SpillWorker, ranges_of, read_slices, spill_folder
from pipeline.flow.steps import Shuffle, Step, Tasks, Thresholds, Work, rank_path, write_results
from pipeline.flow.worker import Counter, Shuffler, Worker, partition_name, reduce_partition, run_task
from pipeline.processes import end_with_parent

T = TypeVar("T")

ALONE: Final = 2.0
"""Seconds of work that start no process: to start two and open a worker's state there takes as long."""
_PAIRS: Final = 20_000_000
"""(query, priority) pairs held while thresholds are found, 12 bytes each."""


class Pool:
    """Call functions in this process or, once they have taken `ALONE` seconds, in processes that it keeps."""

    def __init__(self, workers: int, log: str = "") -> None:
        self.workers, self._log = max(workers, 1), log
        self._executor: ProcessPoolExecutor | None = None

    def run(
        self, calls: Sequence[Callable[[], T]], *, seconds: float = 0.0, at_once: int | None = None
    ) -> list[T]:
        """Return the results of picklable calls, in their order; RuntimeError if one fails.

        seconds: how long all of them are expected to take; calls of unknown length begin in this process.
        at_once: how many may run at a time where their memory is the limit, not the cores.
        """
        most = min(self.workers, at_once or self.workers)
        patience = ALONE if self._executor is None else ALONE / 10
        results: list[T] = []
        started = time.monotonic()
        try:
            with stderr_to(self._log):
                for number, call in enumerate(calls):
                    is_long = max(seconds, time.monotonic() - started) > patience
                    if most > 1 and is_long and len(calls) - number > 1:
                        return results + self._in_processes(calls[number:], most)
                    results.append(call())
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a worker process died, perhaps for want of memory (--workers 1 takes less); "
                "the same command continues"
            ) from error
        except Exception as error:  # of any type, from a worker: not for `except ValueError` of a command
            raise RuntimeError(_message(error)) from error
        finally:
            _Opened.close()
        return results

    def _in_processes(self, calls: Sequence[Callable[[], T]], most: int) -> list[T]:
        pool = self._executor = self._executor or self._start()
        results: dict[int, T] = {}
        running: dict[Future[T], int] = {}
        todo = iter(enumerate(calls))
        try:
            while True:
                for number, call in itertools.islice(todo, most - len(running)):
                    running[pool.submit(_logged, call)] = number
                if not running:
                    return [results[number] for number in range(len(calls))]
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    results[running.pop(future)] = future.result()
        except BaseException:
            self.close()
            raise

    def _start(self) -> ProcessPoolExecutor:
        # A fork of this process would take over the locks of its threads. The server that forks instead has
        # none, and has loaded the modules that every worker needs.
        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        context = multiprocessing.get_context(method)
        context.set_forkserver_preload([__name__])
        return ProcessPoolExecutor(self.workers, context, initializer=_begin, initargs=(self._log,))

    def close(self) -> None:
        """Kill the processes; their files are either whole or invisible."""
        executor, self._executor = self._executor, None
        if executor is not None:
            for child in multiprocessing.active_children():
                child.kill()
            executor.shutdown(wait=False, cancel_futures=True)


def _message(error: Exception) -> str:
    text = str(error)
    return text if text and isinstance(error, OSError | ValueError | RuntimeError) else repr(error)


def _logged(call: Callable[[], T]) -> T:
    """Return a call's result in a process of the pool; some exceptions could not be sent back as they are."""
    try:
        return call()
    except Exception as error:  # noqa: BLE001 - it comes back as RuntimeError; the log has the rest
        traceback.print_exc()
        raise RuntimeError(_message(error)) from None


def _begin(log: str) -> None:
    """Prepare a process of the pool: its standard error, Ctrl-C (the launcher decides), and its end."""
    if log:
        with contextlib.suppress(OSError), Path(log).open("ab") as file:
            os.dup2(file.fileno(), 2)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


class _Opened:
    """The state of the worker that this process used last: it is opened once for all of a step's tasks."""

    key: bytes = b""
    state: object = None

    @classmethod
    def of(cls, worker: Worker) -> object:
        """Return a worker's state; that of another worker is let go first, since it may hold processes."""
        key = pickle.dumps(worker)
        if key != cls.key:
            cls.close()
            cls.key, cls.state = key, worker.open()
        return cls.state

    @classmethod
    def close(cls) -> None:
        """Let the state go."""
        cls.key, cls.state = b"", None


def _run_task(worker: Worker, folder: str, task: Part) -> Part:
    return run_task(worker, _Opened.of(worker), folder, task)


def run(pool: Pool, step: Step, work: Work, at_once: int) -> None:
    """Run the unfinished tasks of a step; it is done when its results are written.

    at_once: partitions of a shuffle that are in memory at a time.
    """
    if isinstance(step, Tasks):
        results = _run_tasks(pool, step.folder, work.tasks, step.worker, work.seconds)
    elif isinstance(step, Shuffle):
        results = _run_shuffle(pool, step, work, at_once)
    else:
        assert isinstance(step, Thresholds) and work.rank is not None, "the plan gives it"
        _run_thresholds(pool, step, [only(task, Counted) for task in work.tasks], work.rank)
        return
    write_results(step.folder, results)
    if isinstance(step, Shuffle):
        storage.remove_tree(spill_folder(step.folder))


def _run_tasks(
    pool: Pool, folder: str, tasks: Sequence[Part], worker: Worker, seconds: float = 0.0
) -> list[Part]:
    """Run the tasks that have no marker yet and return all results."""
    done = finished(folder)
    missing = [task for task in tasks if task.name not in done]
    calls = [partial(_run_task, worker, folder, task) for task in missing]
    done |= {result.name: result for result in pool.run(calls, seconds=seconds)}
    return [done[task.name] for task in tasks]


def _reduce(shuffler: Shuffler, folder: str, partition: int, ranges: list[Range]) -> Part:
    return reduce_partition(shuffler, folder, partition, read_slices(ranges))


def _reduce_whole(shuffler: Shuffler, folder: str, inputs: Sequence[Part]) -> Part | None:
    slices = [data for task in inputs for _, data in shuffler.split(task, 1)]
    return reduce_partition(shuffler, folder, 0, slices) if slices else None


def _run_shuffle(pool: Pool, step: Shuffle, work: Work, at_once: int) -> list[Part]:
    """Split the inputs, reduce each partition that has rows and no marker yet, and return all results.

    Several partitions are split to disk, and `at_once` of them are in memory at a time; a single partition
    holds the same rows in memory as its reduction does.
    """
    folder, shuffler = step.folder, step.shuffler
    done = finished(folder)
    if work.partitions == 1:
        if not done:
            results = pool.run([partial(_reduce_whole, shuffler, folder, work.tasks)])
            return [result for result in results if result is not None]
        return list(done.values())
    spill = spill_folder(step.folder)
    tasks = [Spill(name=f"{number:06d}", task=task) for number, task in enumerate(work.tasks)]
    spiller = SpillWorker(folder=spill, shuffler=shuffler, partitions=work.partitions)
    slices = ranges_of([only(one, Slices) for one in _run_tasks(pool, spill, tasks, spiller)])
    missing = {partition: own for partition, own in slices.items() if partition_name(partition) not in done}
    calls = [partial(_reduce, shuffler, folder, partition, own) for partition, own in missing.items()]
    return [*done.values(), *pool.run(calls, at_once=at_once)]


def _head_pairs(
    counter: Counter, task: Counted, counts: str, rank: str, low: int, high: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return a task's head pairs of the queries low..high-1."""
    found = np.array(read_vector(counts)[0])
    found[:low] = found[high:] = 0
    return counter.pairs(task, found, read_vector(rank))


def _run_thresholds(pool: Pool, step: Thresholds, tasks: Sequence[Counted], rank: I64) -> None:
    """Sum the tasks' counts and find each query's threshold at its rank; writes `counts` and `thresholds`."""
    folder, counter = step.folder, step.counter
    counts = np.zeros((1, len(rank)), np.int64)
    for number, task in enumerate(tasks):
        own = read_vector(task.counts)
        counts = counts + own if number else own
    paths = storage.join(folder, "counts"), rank_path(step)
    write_vector(paths[0], counts)
    heads: list[tuple[np.ndarray, I64, U64]] = []
    for low, high in _bounds(np.where(counts[0] > rank, rank, 0)):
        pairs = pool.run([partial(_head_pairs, counter, task, *paths, low, high) for task in tasks])
        query, priority = map(np.concatenate, zip(*pairs, strict=True))
        heads.append(largest(*smallest(query, priority, rank)))
    none = (np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.uint64))
    query, found, priority = map(np.concatenate, zip(none, *heads, strict=True))
    table = thresholds(query, found, priority, counts[0], rank)
    write_vector(storage.join(folder, "thresholds"), table)


def _bounds(pairs: I64) -> Iterator[tuple[int, int]]:
    """Cut the queries into ranges of at most `_PAIRS` pairs, or of one query; none without pairs."""
    total = np.cumsum(pairs)
    low = 0
    while low < len(pairs) and total[-1] > (before := int(total[low - 1]) if low else 0):
        high = max(low + 1, int(np.searchsorted(total, before + _PAIRS, side="right")))
        yield low, high
        low = high


@contextlib.contextmanager
def stderr_to(path: str) -> Iterator[None]:
    """Let file descriptor 2 write to a local file while workers are running; nothing happens without a path.

    Decoders, codecs and Beam's workers write there; results and exceptions come back another way.
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
