"""Decisions of the stages' drivers: which steps run, on which inputs, and the next stage's results.

No step does its work here: a runner plans each step and leaves the results that a test gives it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import extend, querylist, run_folder, schemas, storage
from pipeline.candidates.parts import JudgedPiece
from pipeline.candidates.steps import candidates
from pipeline.checked_manifest import Crawled
from pipeline.crawl import SLICE_ROWS, Crawl, gather
from pipeline.extend.parts import DroppedSamples, Stored, StoredCounts
from pipeline.extend.steps import Base
from pipeline.fetch.parts import UNIT_ROWS, Fetched, Merged, Round, Unit, Units
from pipeline.fetch.rounds import cut_units, thresholds
from pipeline.fetch.steps import fetch
from pipeline.finish.parts import Balanced, Group, RejectedRows
from pipeline.finish.steps import finish
from pipeline.flow import kept
from pipeline.flow.markers import read_vector, write_json, write_vector
from pipeline.flow.parts import Part
from pipeline.flow.runner import Runner
from pipeline.flow.steps import Step, Thresholds, Work, plan, write_results
from pipeline.manifest import Shard
from pipeline.near.parts import GROUPS, SITES, Groups, NearMerged
from pipeline.near.steps import merge_near
from pipeline.options import CrawlConfig, FetchOptions
from pipeline.run_folder import Layout
from pipeline.schemas import Piece
from pipeline.select.parts import Deduplicated, Samples, SharedCaptions, Untried
from pipeline.select.steps import select
from pipeline.select.workers import QueryTable
from pipeline.stages import Candidates, Rounds, Selected
from tests import finished_run

QUERIES = ["dog", "cat", "boat"]


@dataclass(frozen=True, kw_only=True)
class Recorder(Runner):
    """Plan the steps that are not done, and let each be done with the results that are given for it."""

    given: Mapping[str, Sequence[Part]] = field(default_factory=dict)
    """By the step's label."""
    jobs: list[list[str]] = field(default_factory=list)
    """Labels of the steps of each call."""
    work: dict[str, Work] = field(default_factory=dict)
    """The plans, by label."""

    def run(self, steps: Sequence[Step]) -> None:
        self.jobs.append([step.label for step in steps])
        for step in steps:
            if step.is_done:
                continue
            self.work[step.label] = plan(step)
            if isinstance(step, Thresholds):
                for name in ("counts", "thresholds"):
                    vector = np.full((1, len(QUERIES)), 9) if name == "counts" else ones(np.uint64)
                    write_vector(storage.join(step.folder, name), vector)
            else:
                write_results(step.folder, self.given.get(step.label, ()))

    def names(self, label: str) -> list[str]:
        """Return the names of a step's tasks."""
        return [task.name for task in self.work[label].tasks]


def ones(dtype: Any = np.int64) -> np.ndarray:
    return np.ones(len(QUERIES), dtype)


def crawl_of(folder: Path, base: Base | None = None, extension: int = 0, **options: Any) -> Crawl:
    given: dict[str, Any] = {"fetch": FetchOptions(contact="me@example.org"), "dedup": "exact", **options}
    config = CrawlConfig(queries="q.txt", source=("pages",), out=str(folder), **given)
    layout = Layout(str(folder), extension)
    return Crawl(config, layout, QueryTable(path=layout.queries, seed=0, queries=len(QUERIES)), base)


def fetched(crawl: Crawl, number: int, name: str, **reasons: int) -> Fetched:
    base = storage.join(crawl.layout.round(number), name)
    return Fetched(
        name=name, unit=f"{base}.unit", path=f"{base}.parquet", blob=f"{base}.blob", log=f"{base}.jsonl",
        images=sum(reasons.values()), bytes=100, seconds=1.0,
        reasons={"" if reason == "arrived" else reason: count for reason, count in reasons.items()},
    )  # fmt: skip


def unit(crawl: Crawl, number: int, name: str, images: int, seconds: float = 0.0) -> Unit:
    path = storage.join(crawl.layout.units(number), f"{name}.parquet")
    return Unit(name=name, path=path, images=images, seconds=seconds)


def merged(crawl: Crawl, number: int, samples: int = 5) -> Merged:
    base = storage.join(crawl.layout.merged(number), "000000")
    return Merged(
        name="000000", counts=f"{base}.counts", round=number, path=f"{base}.parquet",
        rejects=f"{base}.rejects.parquet", rows=samples, samples=samples, rejected={},
    )  # fmt: skip


def samples_of(crawl: Crawl, samples: int = 20, **rejected: int) -> Samples:
    base = storage.join(crawl.layout.stage("select", "samples"), "000000")
    write_vector(f"{base}.counts", ones()[None] * samples)
    return Samples(
        name="000000", counts=f"{base}.counts", path=f"{base}.parquet", rejects=f"{base}.rejects.parquet",
        rows=samples, samples=samples, rejected=rejected,
    )  # fmt: skip


def selected(crawl: Crawl) -> None:
    """Let select be done."""
    samples = samples_of(crawl)
    write_results(crawl.layout.stage("select", "samples"), [samples])
    Recorder().run([thresholds(crawl, 0)])
    stage = Selected(deduplicated=(), samples=(samples,), count=20, reasons={"too_many_captions": 4})
    run_folder.finish_stage(crawl.layout, stage)


# ---- candidates


def piece_of(folder: Path, name: str, kind: str = "html", pages: int = 0) -> Piece:
    path = folder / name
    path.write_bytes(bytes(1000))
    return Piece(kind, str(path), 0, pages or -1, "", name)


def judged(name: str, candidates: int, **rejected: int) -> JudgedPiece:
    return JudgedPiece(
        name=name, path=f"{name}.parquet", rejects=f"{name}.rejects.parquet", images=candidates,
        candidates=candidates, rows=candidates - sum(rejected.values()), rejected=rejected,
    )  # fmt: skip


def test_pieces_that_are_judged_are_not_judged_again_when_more_come(tmp_path: Path) -> None:
    crawl = crawl_of(tmp_path / "run")
    pieces = [piece_of(tmp_path, "a", "wat"), piece_of(tmp_path, "b", "wat")]
    first, second = judged("000000", 10, language=3), judged("000001", 5, language=1, svg=1)
    one = candidates(crawl, Recorder(given={"candidates": [first]}), pieces[:1])
    assert (one.candidates, one.rows, one.reasons) == (10, 7, {"language": 3})
    more = Recorder(given={"candidates": [first, second]})
    both = candidates(crawl, more, pieces)
    assert more.names("candidates") == ["000000", "000001"], "the step that was done has more to do"
    assert (both.candidates, both.rows, both.reasons) == (15, 10, {"language": 4, "svg": 1})
    again = Recorder()
    assert candidates(crawl, again, pieces) == both and not again.work
    assert candidates(crawl, again, pieces[:1]) == one and not again.work


def test_how_long_pieces_take_is_known_of_local_ones_alone(tmp_path: Path) -> None:
    local = [piece_of(tmp_path, "a", "wat"), piece_of(tmp_path, "pages", "html", pages=50)]
    for name, pieces, seconds in (
        ("local", local, 1000 / 1e7 + 50 / 500),
        ("remote", [*local, Piece("wat", "s3://bucket/a.wat.gz", 0, -1, "", "a")], float("inf")),
    ):
        given = [judged(f"{number:06d}", 1) for number in range(len(pieces))]
        recorder = Recorder(given={"candidates": given})
        candidates(crawl_of(tmp_path / name), recorder, pieces)
        assert recorder.work["candidates"].seconds == pytest.approx(seconds)


# ---- select


def judged_pieces(crawl: Crawl, pieces: int = 1, rows: int = 10, **reasons: int) -> None:
    """Let candidates be done, with the given numbers of pieces and of rows."""
    folder = crawl.layout.stage("candidates")
    found = tuple(judged(storage.join(folder, f"{number:06d}"), rows) for number in range(pieces))
    stage = Candidates(pieces=found, images=9, candidates=rows * pieces, rows=rows * pieces, reasons=reasons)
    run_folder.finish_stage(crawl.layout, stage)


def of_select(crawl: Crawl) -> Recorder:
    base = storage.join(crawl.layout.stage("select", "deduplicated"), "000000")
    deduplicated = Deduplicated(
        name="000000", path=f"{base}.parquet", rejects=f"{base}.rejects.parquet", rows=8,
        rejected={"duplicate": 2},
    )  # fmt: skip
    folder = crawl.layout.stage("select", "shared")
    texts = [[3, 1], [2, 3]]
    shared = [
        SharedCaptions(name=f"{n}", path=storage.join(folder, f"{n}"), shared=2) for n in range(len(texts))
    ]
    for part, hashes in zip(shared, texts, strict=True):
        write_vector(part.path, np.array(hashes, np.uint64))
    return Recorder(given={
        "deduplicate": [deduplicated], "shared captions": shared,
        "count": [samples_of(crawl, 7, shared_caption=1)],
    })  # fmt: skip


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, ["deduplicate", "shared captions", "count", "thresholds, round 0", "units, round 0"]),
        ({"stage": "select"}, ["deduplicate", "shared captions", "count", "thresholds, round 0"]),
        ({"shared_captions": 0}, ["deduplicate", "count", "thresholds, round 0", "units, round 0"]),
    ],
)
def test_select_is_one_job(tmp_path: Path, options: dict[str, Any], steps: list[str]) -> None:
    """With the first units, unless fetch is another command's; without a look at texts that nobody wants."""
    crawl = crawl_of(tmp_path, **options)
    judged_pieces(crawl)
    recorder = of_select(crawl)
    found = select(crawl, recorder)
    assert recorder.jobs == [steps]
    dropped = read_vector(crawl.layout.stage("select", "shared_captions")).tolist()
    assert dropped == ([1, 2, 3] if "shared captions" in steps else [])
    assert found.count == 7 and found.reasons == {"duplicate": 2, "shared_caption": 1}
    assert [one.name for one in found.deduplicated] == recorder.names("count") == ["000000"]


def test_partitions_and_split_tasks_follow_from_the_rows(tmp_path: Path) -> None:
    crawl = crawl_of(tmp_path, partition_rows=1000, per_query=10, headroom=1.25)
    judged_pieces(crawl, pieces=5, rows=500)
    recorder = of_select(crawl)
    select(crawl, recorder)
    assert recorder.work["deduplicate"].partitions == recorder.work["shared captions"].partitions == 3
    # A task has enough rows for slices of SLICE_ROWS in each partition.
    assert [len(task.paths) for task in recorder.work["deduplicate"].tasks] == [2, 2, 1]  # type: ignore[attr-defined]
    rank = recorder.work["thresholds, round 0"].rank
    assert rank is not None and rank.tolist() == [13] * len(QUERIES)


def test_files_are_gathered_until_there_are_enough_rows() -> None:
    assert gather([], SLICE_ROWS) == []
    tasks = gather([("a", 5), ("b", 5), ("c", 20), ("d", 1)], 10)
    assert [(task.name, task.paths) for task in tasks] == [
        ("000000", ("a", "b")), ("000001", ("c",)), ("000002", ("d",)),
    ]  # fmt: skip


# ---- fetch


ROUND_0 = ["fetch, round 0", "merge, round 0", "arrived, round 0"]
ROUND_1 = ["thresholds, round 1", "units, round 1"]


def of_fetch(crawl: Crawl, rounds: int = 1) -> Recorder:
    """Return a runner that fetches two units in each of the first rounds; there is nothing after them."""
    given: dict[str, list[Part]] = {}
    for number in range(rounds):
        names = [f"{number:05d}-0000", f"{number:05d}-0001"]
        units = (unit(crawl, number, names[0], 30, seconds=2.0), unit(crawl, number, names[1], 400))
        given[f"units, round {number}"] = [Units(name="000000", units=units)]
        given[f"fetch, round {number}"] = [
            fetched(crawl, number, names[0], arrived=20, http_gone=10),
            fetched(crawl, number, names[1], arrived=399, http_gone=1),
        ]
        given[f"merge, round {number}"] = [merged(crawl, number)]
    return Recorder(given=given)


def test_fetching_ends_when_nothing_is_left_to_try(tmp_path: Path) -> None:
    crawl = crawl_of(tmp_path, rounds=3)
    selected(crawl)
    recorder = of_fetch(crawl)
    remains = Path(kept.folder_of(crawl.layout.round(0), "00000-0000"))
    remains.mkdir(parents=True)
    found = fetch(crawl, recorder)
    assert recorder.jobs == [["units, round 0"], [*ROUND_0, *ROUND_1]], "a round is one job"
    [one] = found.rounds
    assert (one.images, one.bytes, one.reasons) == (430, 200, {"": 419, "http_gone": 11})
    assert [part.name for part in one.units] == recorder.names("fetch, round 0")
    assert recorder.work["fetch, round 0"].seconds == pytest.approx(2.0 + 400 * 0.005), "the slower of both"
    assert not remains.exists(), "what was kept of units is let go with the round"


def test_the_last_round_cuts_no_units_and_merges_what_came_of_all(tmp_path: Path) -> None:
    crawl = crawl_of(tmp_path, rounds=2)
    selected(crawl)
    recorder = of_fetch(crawl, rounds=3)
    assert [one.name for one in fetch(crawl, recorder).rounds] == ["0", "1"]
    assert recorder.jobs[-1] == ["fetch, round 1", "merge, round 1", "arrived, round 1"]
    units = ["00000-0000", "00000-0001", "00001-0000", "00001-0001"]
    assert recorder.names("merge, round 1") == units
    assert recorder.names("units, round 1") == ["000000", *units[:2]], "what failed may be tried again"


def test_a_crawl_that_has_nothing_to_fetch_has_a_round(tmp_path: Path) -> None:
    """The later stages find its tables, which are empty."""
    crawl = crawl_of(tmp_path)
    selected(crawl)
    recorder = Recorder()
    [one] = fetch(crawl, recorder).rounds
    assert (one.images, one.units, one.reasons) == (0, (), {})
    assert recorder.jobs[-1] == [*ROUND_0, *ROUND_1]


def test_a_round_that_only_retries_takes_the_thresholds_of_the_last(tmp_path: Path) -> None:
    """It comes on top of --rounds."""
    crawl = crawl_of(tmp_path, rounds=1)
    selected(crawl)
    write_vector(storage.join(crawl.layout.tried(0), "thresholds"), ones(np.uint64) * 77)
    write_json(crawl.layout.stage("fetch", "retries.stage"), [1])
    recorder = of_fetch(crawl, rounds=2)
    assert len(fetch(crawl, recorder).rounds) == 2
    assert recorder.jobs[1] == [*ROUND_0, "units, round 1"]
    repeated = read_vector(storage.join(crawl.layout.tried(1), "thresholds"))
    assert repeated.tolist() == [77] * len(QUERIES)


def test_nobody_is_asked_before_there_is_a_contact(tmp_path: Path) -> None:
    crawl = crawl_of(tmp_path, fetch=FetchOptions())
    selected(crawl)
    recorder = of_fetch(crawl)
    for one in recorder.given["units, round 0"][0].units:  # type: ignore[attr-defined]
        rows = schemas.to_table([_unit_row("https://somebody.example/a.jpg")], UNIT_ROWS)
        schemas.write_table(one.path, rows)
    with pytest.raises(ValueError, match="--contact"):
        fetch(crawl, recorder)
    assert recorder.jobs == [["units, round 0"]]


def _unit_row(url: str) -> tuple[object, ...]:
    empty: dict[str, object] = {"uid": bytes(16), "url": url, "fetch_url": url, "matched": []}
    return tuple(
        empty.get(one.name, 0 if str(one.type).startswith(("int", "uint", "float")) else "")
        for one in UNIT_ROWS
    )


def test_a_round_that_is_done_is_not_done_again(tmp_path: Path) -> None:
    crawl = crawl_of(tmp_path, rounds=2)
    selected(crawl)
    found = fetch(crawl, of_fetch(crawl, rounds=2))
    again = Recorder()
    assert fetch(crawl, again) == found
    assert not again.work


# ---- finish


def fetched_rounds(crawl: Crawl, rounds: int = 1, units: int = 2) -> None:
    """Let all before finish be done."""
    judged_pieces(crawl, pieces=33, rows=3, language=200_000, svg=5)
    selected(crawl)
    querylist.save(crawl.layout.queries, QUERIES)
    done = []
    for number in range(rounds):
        parts = tuple(fetched(crawl, number, f"{number:05d}-{n:04d}", arrived=1) for n in range(units))
        last = merged(crawl, number)
        write_results(crawl.layout.merged(number), [last])
        done.append(
            Round(name=f"{number}", units=parts, merged=(last,), images=units, bytes=9, reasons={"": units})
        )
    write_vector(storage.join(crawl.layout.arrived(rounds - 1), "thresholds"), ones(np.uint64))
    run_folder.finish_stage(crawl.layout, Rounds(rounds=tuple(done)))


def of_finish(crawl: Crawl, kinds: Sequence[dict[str, str]] = ({},)) -> Recorder:
    folder = crawl.layout.stage("finish", "samples")
    balanced = []
    for number, extra in enumerate(kinds):
        base = storage.join(folder, f"{number:06d}")
        write_vector(f"{base}.counts", np.stack([ones(), 2 * ones()]))
        balanced.append(Balanced(
            name=f"{number:06d}", counts=f"{base}.counts", path=f"{base}.parquet",
            rejects=f"{base}.rejects.parquet", samples=4, captions=6, extra=extra,
            fetched=(f"2026-03-0{1 + number}", f"2026-03-0{5 - number}"),
        ))  # fmt: skip
    group = Group(name="000000", path=storage.join(crawl.layout.stage("finish", "groups"), "g"), samples=8)
    base = storage.join(crawl.layout.stage("finish", "untried"), "000000")
    write_vector(f"{base}.counts", 3 * ones()[None])
    untried = Untried(name="000000", counts=f"{base}.counts", rejects=f"{base}.parquet", rejected={})
    return Recorder(given={
        "balance": balanced, "mix": [group], "not fetched": [untried],
        "shards": [Shard(name="00000", samples=8, bytes=1, sha256="a" * 64, parquet_sha256="b" * 64)],
        "rejected rows": [RejectedRows(name="a", counts={"fetch/http_gone": 2}, rows=2)],
    })  # fmt: skip


FINISH = ["balance", "mix", "shards", "not fetched", "rejected rows"]


def test_finish_is_one_job_and_adds_up_what_its_steps_left(tmp_path: Path) -> None:
    crawl = crawl_of(tmp_path)
    fetched_rounds(crawl)
    recorder = of_finish(crawl, [{}, {}])
    found = finish(crawl, recorder)
    assert recorder.jobs == [FINISH]
    assert (found.samples, found.captions, found.dropped) == (8, 12, 0)
    assert found.rejected == {"fetch/http_gone": 2} and not found.rejected_sampled
    assert found.crawled == Crawled(first="2026-03-01", last="2026-03-05"), (
        "the first and the last moment of all"
    )
    assert found.near_duplicates is None
    sizes = json.loads(storage.read_bytes(storage.join(crawl.layout.shards, "sizes.json")))
    assert sizes == {"00000.tar": 8}
    counts = schemas.read_table(crawl.layout.query_counts)
    assert counts["matched"].to_pylist() == [20] * 3 and counts["untried"].to_pylist() == [3] * 3
    assert counts["kept"].to_pylist() == [2] * 3 and counts["present"].to_pylist() == [4] * 3


def test_a_kept_column_that_is_text_in_one_file_is_text_in_all(tmp_path: Path) -> None:
    crawl = crawl_of(tmp_path)
    fetched_rounds(crawl)
    recorder = of_finish(crawl, [{"b": "number", "a": "number"}, {"a": "text"}, {"b": "number"}])
    finish(crawl, recorder)
    [task] = recorder.work["shards"].tasks
    assert task.extra == (("a", "text"), ("b", "number"))  # type: ignore[attr-defined]


def test_rejected_rows_of_all_stages_are_published_in_batches(tmp_path: Path) -> None:
    crawl = crawl_of(tmp_path)
    fetched_rounds(crawl, rounds=2, units=40)
    recorder = of_finish(crawl)
    finish(crawl, recorder)
    assert recorder.names("rejected rows") == [
        "candidates-00000", "candidates-00001", "select-00000", "finish-00000", "fetch-00000", "fetch-00001",
    ]  # fmt: skip
    tasks: Any = {task.name: task for task in recorder.work["rejected rows"].tasks}
    assert [len(tasks[f"candidates-0000{n}"].tables) for n in (0, 1)] == [32, 1]
    assert [len(tasks[f"fetch-0000{n}"].units) for n in (0, 1)] == [64, 16]
    assert len(tasks["finish-00000"].tables) == 2, "of merging and of the balance"
    arrived = {one.name[:5]: one.arrived for name in tasks for one in tasks[name].units}
    later = storage.join(crawl.layout.arrived(0), "thresholds")
    assert arrived == {"00000": later, "00001": ""}, "the last round's failures were not taken up again"
    assert all(task.share == {} for task in tasks.values()), "few rows are published in full"


def test_of_too_many_rejected_rows_a_share_is_published(tmp_path: Path) -> None:
    crawl = crawl_of(tmp_path, rejected="sample")
    fetched_rounds(crawl)
    recorder = of_finish(crawl)
    assert finish(crawl, recorder).rejected_sampled
    shares: Any = recorder.work["rejected rows"].tasks[0]
    assert shares.share == {"language": 0.5, "svg": 1.0, "too_many_captions": 1.0}


# ---- near-duplicates


NEAR = [
    "near-duplicate pairs", "near-duplicate groups", "merge near-duplicates",
    "arrived, without near-duplicates",
]  # fmt: skip


def with_near(crawl: Crawl, recorder: Recorder, gone: int) -> None:
    """Let `gone` of the last round's five images be near-duplicates of another image."""
    base = storage.join(crawl.layout.stage("finish", "near"), "000000")
    sites = schemas.to_table([("a.test", 5, gone)], SITES)
    schemas.write_table(f"{base}.sites.parquet", sites)
    path = storage.join(crawl.layout.stage("finish", "near-groups"), "groups.parquet")
    pairs = [(bytes([n]) * 16, bytes(16)) for n in range(1, gone + 1)]
    schemas.write_table(path, schemas.to_table(pairs, GROUPS))
    left = NearMerged(
        name="000000", counts=f"{base}.counts", round=0, path=f"{base}.parquet",
        rejects=f"{base}.rejects.parquet", rows=5 - gone, samples=5 - gone, rejected={},
        sites=f"{base}.sites.parquet",
    )  # fmt: skip
    assert isinstance(recorder.given, dict)
    recorder.given["near-duplicate groups"] = [
        Groups(
            name="groups",
            path=path,
            pairs=gone,
            beyond=0,
            removed=gone,
            groups=1,
            largest=gone + 1,
            around="00",
        )
    ]
    recorder.given["merge near-duplicates"] = [left]


def test_near_duplicates_take_a_job_before_the_last(tmp_path: Path) -> None:
    crawl = crawl_of(tmp_path, dedup="near", dedup_limit=0.5)
    fetched_rounds(crawl)
    recorder = of_finish(crawl)
    with_near(crawl, recorder, gone=2)
    found = finish(crawl, recorder)
    assert recorder.jobs == [NEAR, FINISH]
    near = found.near_duplicates
    assert near is not None
    assert (near.images, near.removed, near.groups, near.largest_group, near.pairs) == (5, 2, 1, 3, 2)
    tables: Any = recorder.work["balance"].tasks
    assert [type(task) for task in tables] == [NearMerged], "what is balanced has no near-duplicates"
    rejects: Any = next(task for task in recorder.work["rejected rows"].tasks if task.name == "finish-00000")
    assert len(rejects.tables) == 3, "of merging, of near-duplicates, and of the balance"
    assert schemas.read_table(crawl.layout.near_duplicates)["removed"].to_pylist() == [2]


def test_more_near_duplicates_than_allowed_end_the_run_before_anything_is_written(tmp_path: Path) -> None:
    crawl = crawl_of(tmp_path, dedup="near", dedup_limit=0.5)
    fetched_rounds(crawl)
    recorder = Recorder()
    with_near(crawl, recorder, gone=3)
    with pytest.raises(ValueError, match="--dedup-limit"):
        merge_near(crawl, recorder, 0)
    assert not storage.exists(crawl.layout.near_duplicates) and recorder.jobs == [NEAR]


# ---- extensions


def extension_of(folder: Path, shards: Sequence[str], **options: Any) -> Crawl:
    """Return the crawl that extends a run of these shards."""
    first, part = crawl_of(folder), Layout(str(folder), 1)
    fetched_rounds(first)
    write_vector(first.layout.stage("select", "shared_captions"), np.array([5], np.uint64))
    run = finished_run.build(folder / "finished", ["a dog"], QUERIES)
    before = json.loads(storage.read_bytes(run.manifest))
    before["shards"] = [{**before["shards"][0], "name": name} for name in shards]
    noted = {"manifest": before, "inputs": [], "sources": [], "semantics": {}}
    write_json(storage.join(part.work, "base.json"), noted)
    storage.copy_file(run.query_counts, storage.join(part.work, extend.COUNTS))
    return crawl_of(folder, Base(part, (first.layout,)), 1, **options)


def test_an_extension_counts_what_the_run_has(tmp_path: Path) -> None:
    crawl = extension_of(tmp_path, ["00000.tar", "00007.tar"])
    assert crawl.base is not None and crawl.base.next_shard == 8
    judged_pieces(crawl)
    recorder = of_select(crawl)
    base = storage.join(crawl.layout.stage("select", "stored"), "00000")
    stored = Stored(
        name="00000", counts=f"{base}.counts", path=f"{base}.parquet", shard=f"{base}.shard", samples=3
    )
    assert isinstance(recorder.given, dict)
    recorder.given["stored samples"] = [stored]
    select(crawl, recorder)
    assert recorder.jobs[0][2:] == ["count", "stored samples", "thresholds, round 0", "units, round 0"]
    assert recorder.names("stored samples") == ["00000", "00007"]
    kinds = [type(task).__name__ for task in recorder.work["deduplicate"].tasks]
    assert kinds == ["CaptionFiles", "Known"], "URLs of the run are told apart from new ones"
    assert recorder.names("thresholds, round 0") == ["000000", "00000"], "they compete for the places"
    shared = read_vector(crawl.layout.stage("select", "shared_captions")).tolist()
    assert shared == [1, 2, 3, 5], "a text that was dropped stays dropped"
    units = [type(task) for task in recorder.work["units, round 0"].tasks]
    assert units == [Samples], "what is there is not fetched again"


@pytest.mark.parametrize(("dedup", "compared"), [("exact", ["00000-0000", "00000-0001", "00000"]),
                                                 ("off", ["00000-0000", "00000-0001"])])  # fmt: skip
def test_an_extension_compares_images_with_those_of_the_run(
    tmp_path: Path, dedup: str, compared: list[str]
) -> None:
    crawl = extension_of(tmp_path, ["00000.tar"], rounds=1, dedup=dedup)
    base = storage.join(crawl.layout.stage("select", "stored"), "00000")
    stored = Stored(
        name="00000", counts=f"{base}.counts", path=f"{base}.parquet", shard=f"{base}.shard", samples=3
    )
    write_results(crawl.layout.stage("select", "stored"), [stored])
    selected(crawl)
    recorder = of_fetch(crawl)
    counted = StoredCounts(name="00000", counts=f"{base}.counts", path=f"{base}.parquet")
    assert isinstance(recorder.given, dict)
    recorder.given["stored samples, round 0"] = [counted]
    fetch(crawl, recorder)
    assert recorder.jobs[-1] == [*ROUND_0[:2], "stored samples, round 0", ROUND_0[2]]
    assert recorder.names("merge, round 0") == compared
    assert recorder.names("arrived, round 0") == ["000000", "00000"]


def test_an_extension_drops_from_the_run_what_no_query_keeps_any_more(tmp_path: Path) -> None:
    crawl = extension_of(tmp_path, ["00004.tar"])
    write_results(crawl.layout.stage("select", "stored"), [])
    fetched_rounds(crawl)
    recorder = of_finish(crawl)
    base = storage.join(crawl.layout.stage("finish", "dropped"), "00004")
    write_vector(f"{base}.counts", np.stack([5 * ones(), 6 * ones()]))
    gone = DroppedSamples(
        name="00004", counts=f"{base}.counts", path=f"{base}.parquet", rejects=f"{base}.rejects.parquet",
        dropped=1, captions=2,
    )  # fmt: skip
    assert isinstance(recorder.given, dict)
    recorder.given["drop"] = [gone]
    found = finish(crawl, recorder)
    assert recorder.jobs == [["balance", "mix", "shards", "drop", "not fetched", "rejected rows"]]
    assert (found.dropped, found.dropped_captions, found.dropped_rows) == (1, 2, (f"{base}.parquet",))
    [shard] = recorder.names("shards")
    assert shard == "00005", "shards of the run keep their names"
    assert all(name.startswith("extension-001-") for name in recorder.names("rejected rows"))
    assert not storage.exists(storage.join(crawl.layout.shards, "sizes.json")), "readers still see the run"


def test_cut_units_knows_what_was_tried_before(tmp_path: Path) -> None:
    crawl = crawl_of(tmp_path)
    first, second = (cut_units(crawl, number).shuffler for number in (0, 1))  # type: ignore[attr-defined]
    assert (first.previous, first.arrived) == ("", "")
    assert second.previous == storage.join(crawl.layout.tried(0), "thresholds")
    assert second.arrived == storage.join(crawl.layout.arrived(0), "thresholds")
