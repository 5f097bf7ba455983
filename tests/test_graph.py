"""Steps on this machine and on real Beam runners: the same files whatever runs them."""

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

from pipeline import balance, querylist, schemas
from pipeline.flow import local
from pipeline.flow.markers import finished, read_vector, write_vector
from pipeline.flow.parts import Part
from pipeline.flow.runner import Runner
from pipeline.flow.steps import Shuffle, Tasks, Thresholds, Work, results_in
from pipeline.select.parts import CaptionFiles, Deduplicated, Samples, SharedCaptions
from pipeline.select.workers import (
    AdmitWorker,
    DedupeShuffler,
    PairCounter,
    QueryTable,
    SampleQueryPairs,
    SharedCaptionShuffler,
    chosen,
    read_samples,
)
from tests.rows import caption_table, uid_of

pytestmark = pytest.mark.timeout(900)

QUERIES = [f"q{i}" for i in range(6)]
K = 3

RUNNERS = {
    "here": Runner(workers=1),
    "two processes": Runner(workers=2),
    "Beam": Runner(flags=("--runner=FnApiRunner",), workers=1),
    "Beam, two processes": Runner(flags=("--runner=FnApiRunner",), workers=2),
    "bundles repeated": Runner(flags=("--runner=FnApiRunner", "--direct_runner_bundle_repeat=2"), workers=1),
    "portable": Runner(
        flags=("--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK"), workers=1
    ),
}


def candidates_files(folder: Path) -> tuple[list[str], list[tuple[str, str, list[int]]]]:
    """Write three candidates files with URLs and captions in common; return them and all their rows."""
    generator = np.random.default_rng(3)
    rows = [
        (f"https://a.test/{u}", f"caption {c}", sorted(set(generator.integers(0, 6, 2).tolist())))
        for u, c in zip(
            generator.integers(0, 40, 120).tolist(), generator.integers(0, 200, 120).tolist(), strict=True
        )
    ]
    rows += [(f"https://b.test/{u}", "the same text everywhere", [0]) for u in range(4)]
    paths = []
    for part in range(3):
        path = str(folder / f"{part}.parquet")
        # As a stage would: within a file each (URL, caption) once, with one set of matches everywhere.
        own = {
            (url, caption): sorted({ord(caption[-1]) % 6, len(url) % 6}) for url, caption, _ in rows[part::3]
        }
        schemas.write_table(path, caption_table([(*key, matched) for key, matched in own.items()]))
        paths.append(path)
    return paths, [(url, caption, sorted({ord(caption[-1]) % 6, len(url) % 6})) for url, caption, _ in rows]


def plan_shared(deduplicated: str) -> Work:
    paths = tuple(one.path for one in results_in(deduplicated, Deduplicated))
    return Work(tasks=[CaptionFiles(name="all", paths=paths)], partitions=2)


def plan_samples(deduplicated: str, shared: str, path: str) -> Work:
    hashes = [read_vector(one.path) for one in results_in(shared, SharedCaptions)]
    write_vector(path, np.sort(np.concatenate(hashes)))
    return Work(tasks=results_in(deduplicated, Deduplicated))


def plan_thresholds(samples: str) -> Work:
    return Work(tasks=results_in(samples, Samples), rank=np.full(len(QUERIES), K, np.int64))


def select(folder: Path, runner: Runner, partitions: int) -> dict[str, str]:
    """Run the select graphs; return the sha256 of the tables that count, by name, and the thresholds."""
    paths, _ = candidates_files(folder)
    list_path = str(folder / "queries.parquet")
    querylist.save(list_path, QUERIES)
    queries = QueryTable(path=list_path, seed=5, queries=len(QUERIES))
    deduplicated, shared, samples, found = (
        str(folder / name) for name in ("dedup", "shared", "samples", "round")
    )
    inputs = [CaptionFiles(name=f"{number}", paths=(path,)) for number, path in enumerate(paths)]
    shared_path = str(folder / "shared_captions")
    steps = [
        Shuffle(
            label="by URL", folder=deduplicated, plan=partial(Work, tasks=inputs, partitions=partitions),
            shuffler=DedupeShuffler(folder=deduplicated, max_captions=4),
        ),
        Shuffle(
            label="by text", folder=shared, plan=partial(plan_shared, deduplicated),
            shuffler=SharedCaptionShuffler(folder=shared, limit=3),
        ),
        Tasks(
            label="admit", folder=samples, plan=partial(plan_samples, deduplicated, shared, shared_path),
            worker=AdmitWorker(folder=samples, queries=queries, shared=shared_path),
        ),
        Thresholds(
            label="thresholds", folder=found, plan=partial(plan_thresholds, samples),
            counter=PairCounter(queries=queries),
        ),
    ]  # fmt: skip
    runner.run(steps)
    admitted = steps[2].results(Samples)
    tables = [read_samples(one.path, one.shared).to_pylist() for one in admitted]
    rows = sorted((row["url"], row["caption"]) for table in tables for row in table)
    kept = set()
    for result in admitted:
        table = read_samples(result.path, result.shared)
        pairs = SampleQueryPairs.of(table, len(QUERIES))
        mask = chosen(pairs, queries.hashes, read_vector(f"{found}/thresholds"))
        kept |= set(table.filter(pairs.rows_of(mask, len(table)))["url"].to_pylist())
    digest = hashlib.sha256(repr((rows, sorted(kept))).encode()).hexdigest()
    return {
        "rows": digest,
        "counts": read_vector(f"{found}/counts").tolist(),
        "thresholds": read_vector(f"{found}/thresholds").tolist(),
        "kept": sorted(kept),
    }


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return select(tmp_path_factory.mktemp("reference"), RUNNERS["here"], 1)


def test_the_kept_samples_are_those_of_the_oracle(expected, tmp_path: Path) -> None:
    _, rows = candidates_files(tmp_path)
    captions = defaultdict(dict)
    for url, caption, matched in rows:
        captions[url][caption] = matched
    first = {url: sorted(own, key=schemas.caption_hash)[:4] for url, own in captions.items()}
    images = defaultdict(int)
    for own in first.values():
        for caption in own:
            images[caption] += 1
    matched = {
        url: set().union(*(captions[url][c] for c in own if images[c] <= 3)) for url, own in first.items()
    }
    hashes = balance.query_hashes(QUERIES, 5)
    kept = set()
    for query in range(len(QUERIES)):
        urls = [url for url, queries in matched.items() if query in queries]
        heads = np.array([int.from_bytes(uid_of(url)[:8], "big") for url in urls], np.uint64)
        priority = balance.priorities(heads, np.full(len(urls), hashes[query])).tolist()
        kept |= {url for _, url in sorted(zip(priority, urls, strict=True))[:K]}
    assert expected["kept"] == sorted(kept)
    assert len(kept) < len(matched), "the cap bites"


@pytest.mark.parametrize(
    ("runner", "partitions"),
    [*((runner, 5) for runner in RUNNERS), *((runner, 1) for runner in RUNNERS if "two" not in runner)],
)
def test_runner_workers_and_partitions_do_not_change_the_result(
    expected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runner: str, partitions: int
) -> None:
    monkeypatch.setattr(local, "ALONE", -1.0)  # however short the work: where there are workers, they do it
    monkeypatch.setattr(local, "_PAIRS", K)  # thresholds in several passes over the queries
    assert select(tmp_path, RUNNERS[runner], partitions) == expected


def test_whatever_a_runner_does_again_finds_what_was_shuffled(
    expected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shuffles go through files there, which stay until the job is over, up to its very last step."""
    original = FnApiRunner.run_via_runner_api

    def twice(self: FnApiRunner, *given: object) -> object:
        self._bundle_repeat = 1
        return original(self, *given)

    monkeypatch.setattr(FnApiRunner, "run_via_runner_api", twice)
    assert select(tmp_path, RUNNERS["portable"], 5) == expected
    assert not list(tmp_path.glob("*.spill"))


@dataclass(frozen=True, kw_only=True)
class Number(Part):
    """A number, or its square."""

    n: int


class _Loud:
    """A worker that leaves a trace each time it runs, and can be told to fail."""

    def __init__(self, folder: str, fail: str = "") -> None:
        self.folder, self.fail = folder, fail

    def open(self) -> "_Loud":
        return self

    def run(self, state: "_Loud", task: Number) -> Number:
        with (Path(self.folder) / "trace").open("a") as trace:
            trace.write(task.name + "\n")
        if task.name == self.fail:
            raise RuntimeError("the disk is full")
        return Number(name=task.name, n=task.n**2)


def test_finished_tasks_are_not_run_again(tmp_path: Path) -> None:
    folder, tasks = str(tmp_path), [Number(name=f"{n:03d}", n=n) for n in range(4)]
    with pytest.raises(Exception, match="the disk is full"):
        RUNNERS["here"].tasks("tasks", folder, tasks, _Loud(folder, fail="002"), Number)
    before = set(finished(folder))
    results = RUNNERS["here"].tasks("tasks", folder, tasks, _Loud(folder), Number)
    assert [one.n for one in results] == [0, 1, 4, 9]
    runs = (tmp_path / "trace").read_text().split()
    assert all(runs.count(name) == 1 for name in before)
    RUNNERS["here"].tasks("tasks", folder, tasks, _Loud(folder), Number)
    assert (tmp_path / "trace").read_text().split() == runs


def test_vectors_come_back(tmp_path: Path) -> None:
    for vector in (np.arange(7), np.full((2, 3), 2**64 - 1, np.uint64), np.zeros((1, 0), np.int64)):
        write_vector(str(tmp_path / "v"), vector)
        back = read_vector(str(tmp_path / "v"))
        assert back.dtype == vector.dtype and back.shape == vector.shape and (back == vector).all()
