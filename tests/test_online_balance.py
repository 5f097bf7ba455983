"""Online balance: MetaCLIP's probabilities, drawn again each epoch, the same for any ranks and stops."""

import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from tests import train_shards
from train import online_balance, shard_sources
from train.cache import Cache
from train.data import Shape
from train.online_balance import OnlineBalance
from train.sampler import Sampler
from train.shard_sources import Draws, ShardSource

SIZES = [700, 400, 900]
QUERIES = ["dog", "cat", "umbrella", "rare thing", "nobody's"]
SHARES = (0.8, 0.3, 0.1, 0.01, 0)


def contained(seed: int = 0) -> np.ndarray:
    """Return which sample contains which query, bool [samples, queries]."""
    return np.random.default_rng(seed).random((sum(SIZES), len(QUERIES))) < SHARES


def uid(number: int) -> str:
    return f"{(number * 0x9E3779B97F4A7C15 + 12345) % 2**64:016x}{number:016x}"


def write(folder: Path) -> list[str]:
    """Write the Parquet files of a run's shards, and its query counts; return their paths."""
    (folder / "shards").mkdir(parents=True)
    found, first, paths, shards = contained(), 0, [], []
    for index, size in enumerate(SIZES):
        rows = range(first, first + size)
        table = pa.table(
            {
                "uid": [uid(row) for row in rows],
                "key": [f"{row:09d}" for row in rows],
                "matched_query_ids": pa.array(
                    [np.flatnonzero(found[row]).tolist() for row in rows], pa.list_(pa.int32())
                ),
            }
        )
        paths.append(str(folder / "shards" / f"{index:05d}.parquet"))
        pq.write_table(table, paths[-1])
        shards.append({"name": f"{index:05d}.tar", "samples": size})
        first += size
    counts = {"query_id": pa.array(range(len(QUERIES)), pa.int32()), "query": QUERIES}
    pq.write_table(pa.table(counts), folder / "query_counts.parquet")
    (folder / "manifest.json").write_text(json.dumps({"shards": shards}))
    return paths


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write(tmp_path_factory.mktemp("balance") / "run")


def draws(paths: list[str], cap: int, epochs: int, seed: int = 0) -> OnlineBalance:
    return online_balance.of_shards(paths, [None] * 3, QUERIES, cap, seed=seed, epochs=epochs)


def taken(found: OnlineBalance, epoch: int) -> np.ndarray:
    """Return, for an epoch, the samples that it uses, bool [samples]."""
    masks = []
    for shard, size in enumerate(SIZES):
        mask = np.zeros(size, bool)
        mask[found.drawn(shard, epoch)] = True
        masks.append(mask)
    return np.concatenate(masks)


def test_samples_are_taken_with_metaclips_probabilities(paths: list[str]) -> None:
    found, epochs, cap = contained(), 60, 100
    share = np.minimum(1, cap / np.maximum(found.sum(axis=0), 1))
    expected = 1 - np.prod(np.where(found, 1 - share, 1), axis=1)
    draw = draws(paths, cap, epochs)
    times = sum(taken(draw, epoch).astype(int) for epoch in range(epochs))
    assert (times[expected == 1] == epochs).all() and not times[expected == 0].any()
    # Chi-square over groups of samples that contain the same queries: independent draws give one per group.
    squares, groups = 0.0, 0
    for pattern in np.unique(found, axis=0):
        members = (found == pattern).all(axis=1)
        p, n = expected[members][0], members.sum() * epochs
        if 0 < p < 1:
            squares += (times[members].sum() - n * p) ** 2 / (n * p * (1 - p))
            groups += 1
    assert groups >= 6 and 1e-4 < stats.chi2.sf(squares, groups) < 1 - 1e-4
    # And over how often single samples come: binomial, so that epochs are independent of each other.
    common = (found == [1, 0, 0, 0, 0]).all(axis=1)
    p = expected[common][0]
    spread = ((times[common] - epochs * p) ** 2 / (epochs * p * (1 - p))).sum()
    assert 1e-4 < stats.chi2.sf(spread, common.sum()) < 1 - 1e-4


def test_draws_are_counted_and_repeat(paths: list[str]) -> None:
    one, again, other = draws(paths, 50, 4), draws(paths, 50, 2), draws(paths, 50, 4, seed=1)
    for epoch in range(2):
        assert (taken(one, epoch) == taken(again, epoch)).all()
        assert (taken(one, epoch) != taken(other, epoch)).any()
    assert (taken(one, 0) != taken(one, 1)).any()
    for epoch in range(4):
        assert [len(one.drawn(shard, epoch)) for shard in range(3)] == one.sizes[epoch].tolist()


def test_more_room_takes_all_that_contain_a_query(paths: list[str]) -> None:
    everything = draws(paths, 10_000, 1)
    assert (taken(everything, 0) == contained().any(axis=1)).all()
    assert not any(len(part.query) for part in everything.shards)  # certain samples are not held


def test_counts_are_of_the_samples_that_are_kept(paths: list[str]) -> None:
    kept = [np.arange(0, 60, dtype=np.int32), np.empty(0, np.int32), np.array([5, 7], np.int32)]
    found = online_balance.of_shards(paths, kept, QUERIES, 62, seed=0, epochs=1)
    has = np.split(contained(), np.cumsum(SIZES)[:-1])
    for shard, places in enumerate(kept):
        assert found.drawn(shard, 0).tolist() == [p for p in places if has[shard][p].any()]


def source(paths: list[str], cap: int, epochs: int) -> ShardSource:
    folder = Path(paths[0]).parents[1]
    cache = Cache(folder.parent / "cache", 1 << 30)
    [found] = shard_sources.resolve(
        [str(folder)], (), (), (), cache, draws=Draws(cap=cap, seed=0, epochs=epochs)
    )
    return found


def test_an_epoch_is_its_draw_whatever_reads_it(paths: list[str]) -> None:
    epochs = 3
    sampler = Sampler([source(paths, 60, epochs)], 0, 100)
    balance = sampler.sources[0].balance
    assert balance is not None and len(set(sampler.epochs)) > 1
    travelled = pickle.loads(pickle.dumps(sampler))
    batch = 32
    whole = Shape(batch=batch, ranks=1, rank=0, accumulate=1, epochs=sampler.epochs)
    for epoch, size in enumerate(sampler.epochs):
        order = [sampler.locate(epoch, position) for position in range(size)]
        drawn = {(0, s, p) for s in range(3) for p in balance.drawn(s, epoch).tolist()}
        assert len(order) == len(drawn) and set(order) == drawn
        assert [travelled.locate(epoch, position) for position in (size - 1, 0, 7)] == [
            order[size - 1], order[0], order[7]
        ]  # fmt: skip
    ends = np.cumsum(whole.epoch_steps)
    assert [whole.epoch_of(int(end)) for end in ends] == [(1, 0), (2, 0), (3, 0)]
    assert [whole.epoch_of(int(end) - 1) for end in ends] == [
        (epoch, steps - 1) for epoch, steps in enumerate(whole.epoch_steps)
    ]


def test_what_is_no_run_is_refused(paths: list[str], tmp_path: Path) -> None:
    cache, draw = Cache(tmp_path / "cache", 1 << 30), Draws(cap=5, seed=0, epochs=1)
    plain = train_shards.write_run(tmp_path / "plain", [8])
    with pytest.raises(ValueError, match=r"no query_counts.parquet: give the folder of a finished run"):
        shard_sources.resolve([str(plain)], (), (), (), cache, draws=draw)
    table = pq.read_table(paths[0])
    wrong = str(tmp_path / "x.parquet")
    pq.write_table(table.drop_columns(["matched_query_ids"]), wrong)
    with pytest.raises(ValueError, match="has no columns uid and matched_query_ids"):
        online_balance.of_shards([wrong], [None], QUERIES, 5, seed=0, epochs=1)
    with pytest.raises(ValueError, match=r"query ids that query_counts.parquet does not have"):
        online_balance.of_shards(paths[:1], [None], QUERIES[:2], 5, seed=0, epochs=1)
    pq.write_table(table.set_column(0, "uid", pa.array(["x"] * len(table))), wrong)
    with pytest.raises(ValueError, match="not hexadecimal"):
        online_balance.of_shards([wrong], [None], QUERIES, 5, seed=0, epochs=1)
