"""Near-duplicates inside a set: all verified pairs, stars instead of chains, nothing removed silently."""

import random
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import schemas
from pipeline.checked_manifest import SiteRemoval
from pipeline.fetch.parts import Merged
from pipeline.flow.runner import Runner
from pipeline.flow.steps import Shuffle, Work
from pipeline.near import groups
from pipeline.near.groups import BandShuffler, Member
from pipeline.near.parts import EDGES, NearPairs


def flipped(row: np.ndarray, bits: int, rng: np.random.Generator) -> np.ndarray:
    found = np.unpackbits(row)
    found[rng.choice(256, bits, replace=False)] ^= 1
    return np.packbits(found)


def test_a_band_is_shared_by_all_pairs_up_to_15_bits():
    rng = np.random.default_rng(0)
    for _ in range(300):
        a = rng.integers(0, 256, 32, dtype=np.uint8)
        pair = groups.band_keys(np.stack([a, flipped(a, 15, rng)]))
        assert (pair[0] == pair[1]).any()
    assert groups.band_keys(a[None]).shape == (1, 16)
    assert len(set(groups.band_keys(np.zeros((1, 32), np.uint8))[0])) == 16, "bands never meet each other"


def planted(count: int) -> tuple[list[bytes], np.ndarray, set[tuple[bytes, bytes]]]:
    """Return uids, hashes and the pairs within 31 bits that share a band: originals with 0 to 2 copies."""
    rng = np.random.default_rng(3)
    rows = []
    for _ in range(count):
        original = rng.integers(0, 256, 32, dtype=np.uint8)
        rows += [
            original,
            *(flipped(original, int(rng.integers(1, 16)), rng) for _ in range(rng.integers(0, 3))),
        ]
    hashes = np.stack(rows)
    uids = [bytes.fromhex(f"{n:032x}") for n in np.random.default_rng(4).permutation(len(rows))]
    bits = np.unpackbits(hashes, axis=1).astype(int)
    near = (bits[:, None] != bits[None]).sum(2) <= groups.RADIUS
    keys = groups.band_keys(hashes)
    meet = (keys[:, None] == keys[None]).any(2)
    pairs = {tuple(sorted((uids[a], uids[b]))) for a, b in np.argwhere(near & meet) if a != b}
    return uids, hashes, pairs


def write_images(path: Path, uids: list[bytes], hashes: np.ndarray, quality: int = 100) -> Merged:
    """Write the columns of a merged file that the shuffle reads, two captions an image."""
    order = sorted(range(len(uids)), key=lambda row: uids[row])
    twice = [row for row in order for _ in range(2)]
    table = pa.table(
        {
            "uid": pa.array([uids[row] for row in twice], pa.binary(16)),
            "phash": [hashes[row].tobytes().hex() for row in twice],
            "quality": [quality] * len(twice),
        }
    )
    schemas.write_table(str(path), table)
    return Merged(
        name=path.stem, round=0, path=str(path), rejects="", counts="", rows=len(twice), samples=len(uids),
        rejected={},
    )  # fmt: skip


def shuffled(folder: Path, tasks: list[Merged]) -> list[dict[str, object]]:
    """Return the edges that the shuffle writes for some files."""
    plan, shuffler = partial(Work, tasks=tasks, partitions=4), BandShuffler(folder=str(folder))
    step = Shuffle(label="pairs", folder=str(folder), plan=plan, shuffler=shuffler)
    Runner(workers=1).run([step])
    results = step.results(NearPairs)
    assert all(one.beyond == 0 for one in results)
    tables = [schemas.read_table(one.path) for one in results]
    return pa.concat_tables([EDGES.empty_table(), *tables]).to_pylist()


def test_the_shuffle_finds_every_pair_that_shares_a_band(tmp_path):
    uids, hashes, expected = planted(120)
    assert len(expected) > 60
    tasks = []
    for number, part in enumerate(np.array_split(np.arange(len(uids)), 3)):
        tasks.append(write_images(tmp_path / f"{number}.parquet", [uids[row] for row in part], hashes[part]))
    edges = shuffled(tmp_path / "edges", tasks)
    assert sorted((row["a"], row["b"]) for row in edges) == sorted(expected), "each pair once"
    by_uid = dict(zip(uids, hashes, strict=True))
    for row in edges:
        bits = np.unpackbits(by_uid[row["a"]] ^ by_uid[row["b"]]).sum()
        assert row["distance"] == bits <= groups.RADIUS


def test_images_of_one_hash_are_joined_to_the_first_alone(tmp_path):
    rng = np.random.default_rng(8)
    hashed = rng.integers(0, 256, 32, dtype=np.uint8)
    hashes = np.stack([hashed] * 6 + [flipped(hashed, 3, rng)] * 2)
    uids = [bytes([n]) * 16 for n in (5, 3, 9, 1, 7, 4, 8, 2)]
    edges = shuffled(tmp_path / "edges", [write_images(tmp_path / "0.parquet", uids, hashes)])
    found = sorted((row["a"][0], row["b"][0], row["distance"]) for row in edges)
    assert found == [(1, 2, 3), (1, 3, 0), (1, 4, 0), (1, 5, 0), (1, 7, 0), (1, 9, 0), (2, 8, 0)]


def test_pictures_without_detail_are_near_to_nothing(tmp_path):
    uids, hashes, _ = planted(40)
    task = write_images(tmp_path / "0.parquet", uids, hashes, quality=groups.MIN_QUALITY - 1)
    assert shuffled(tmp_path / "edges", [task]) == []


def test_pairs_are_found_whatever_the_block(monkeypatch):
    _, hashes, _ = planted(60)

    def found() -> set[tuple[int, int, int]]:
        columns = groups.near_pairs(hashes, 100)
        return {triple for part in columns for triple in zip(*(c.tolist() for c in part), strict=True)}

    bits = np.unpackbits(hashes, axis=1).astype(int)
    distance = (bits[:, None] != bits[None]).sum(2)
    expected = {(int(a), int(b), int(distance[a, b])) for a, b in np.argwhere(distance <= 100) if a < b}
    assert found() == expected
    monkeypatch.setattr(groups, "_BLOCK", 7 * len(hashes))
    assert found() == expected


def member(uid: str, pixels: int = 1, captions: int = 1) -> Member:
    return Member(uid, pixels, captions)


def test_a_chain_is_not_a_group():
    # b is near a and c, which are not near each other: c stays.
    chain = [member("a", 30), member("b", 20), member("c", 10)]
    assert groups.stars(chain, [("a", "b"), ("b", "c")]) == {"a": ["b"]}
    # Were b the largest, both would be its copies.
    assert groups.stars([member("b", 40), *chain[::2]], [("a", "b"), ("b", "c")]) == {"b": ["a", "c"]}


def test_the_representative_is_the_largest_then_the_best_described_then_the_first():
    edges = [("a", "b"), ("a", "c"), ("b", "c")]
    assert list(groups.stars([member("a", 5), member("b", 9), member("c", 5)], edges)) == ["b"]
    assert list(groups.stars([member("a", 5, 1), member("b", 5, 3), member("c", 5, 2)], edges)) == ["b"]
    assert list(groups.stars([member("c"), member("b"), member("a")], edges)) == ["a"]


def test_groups_are_bounded():
    edges = [("hub", f"m{n}") for n in range(10)]
    found = groups.stars([member("hub", 9), *(member(f"m{n}") for n in range(10))], edges, most=4)
    assert found == {"hub": ["m0", "m1", "m2"]}


nodes = st.integers(2, 12).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(1, 4), min_size=n, max_size=n),
        st.sets(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)).filter(lambda p: p[0] < p[1])),
    )
)


@given(nodes, st.integers(2, 5))
def test_stars_are_disjoint_verified_and_order_free(graph, most):
    pixels, pairs = graph
    members = [member(f"n{n:02d}", p) for n, p in enumerate(pixels)]
    edges = [(f"n{a:02d}", f"n{b:02d}") for a, b in pairs]
    found = groups.stars(members, edges, most)
    everyone = [uid for star, others in found.items() for uid in (star, *others)]
    assert len(everyone) == len(set(everyone))
    by_uid = {one.uid: one for one in members}
    for star, others in found.items():
        assert 1 <= len(others) < most
        for uid in others:
            assert tuple(sorted((star, uid))) in edges, "every member is verified against its representative"
            assert groups.rank(by_uid[star]) < groups.rank(by_uid[uid])
    if most > len(members):
        stay = {m.uid for m in members} - {uid for others in found.values() for uid in others}
        assert not any(a in stay and b in stay for a, b in edges), "no two that stay are near-duplicates"
    shuffled = random.Random(0)
    assert (
        groups.stars(shuffled.sample(members, len(members)), shuffled.sample(edges, len(edges)), most)
        == found
    )


def test_equal_hashes_share_the_edges_of_the_first():
    members = [
        Member("a", 9, 1, "a"), Member("b", 50, 1, "a"), Member("c", 5, 1, "c"), Member("d", 7, 1, "c"),
        Member("e", 1, 1),
    ]  # fmt: skip
    # b, the largest, is near c and d because a, which has its hash, is.
    assert groups.stars(members, [("a", "c")]) == {"b": ["a", "c", "d"]}
    assert groups.stars(members, [("a", "c")], most=3) == {"b": ["a", "d"]}
    assert groups.stars(members, []) == {"b": ["a"], "d": ["c"]}


def test_removals_are_never_silent():
    found = {"u0": ["u1", "u2"]}
    sites = [SiteRemoval(site="shop.com", images=4, removed=2)]
    groups.check_share(5, found, sites)
    with pytest.raises(
        ValueError, match=r"2 of 5 images would be removed.*shop.com \(2 of 4\).*of 3, is around u0"
    ):
        groups.check_share(5, found, sites, limit=0.3)
