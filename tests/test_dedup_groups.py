"""Near-duplicates inside a set: all verified pairs, stars instead of chains, nothing removed silently."""

import random
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import schemas
from pipeline.checked_manifest import SiteRemoval
from pipeline.extend.parts import STORED_ROWS, Stored
from pipeline.fetch.parts import Merged
from pipeline.flow.runner import Runner
from pipeline.flow.steps import Shuffle, Tasks, Work
from pipeline.near import groups
from pipeline.near.groups import BandShuffler
from pipeline.near.parts import EDGES, GROUPS, Groups, GroupTask, NearPairs
from pipeline.near.stars import MAX_GROUP, find_stars
from pipeline.near.workers import GroupWorker


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
    """Write the columns of a merged file that the shuffle reads, two captions per image."""
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


def shuffled(folder: Path, tasks: list[Merged | Stored]) -> list[dict[str, object]]:
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
    bucket = np.sort(np.random.default_rng(5).integers(0, 9, len(hashes)).astype(np.int32))

    def found() -> set[tuple[int, int, int]]:
        columns = groups.near_pairs(bucket, hashes, 110)
        return {triple for part in columns for triple in zip(*(c.tolist() for c in part), strict=True)}

    bits = np.unpackbits(hashes, axis=1).astype(int)
    distance = (bits[:, None] != bits[None]).sum(2)
    together = (distance <= 110) & (bucket[:, None] == bucket)
    expected = {(int(a), int(b), int(distance[a, b])) for a, b in np.argwhere(together) if a < b}
    assert found() == expected and expected
    monkeypatch.setattr(groups, "_BLOCK", 7)
    assert found() == expected


def test_the_first_of_each_hash_is_that_of_its_bucket():
    hashes = np.zeros((6, 32), np.uint8)
    hashes[[1, 4], 31] = 9
    bucket = np.array([3, 3, 3, 4, 4, 4], np.int32)
    assert groups.first_of_each(bucket, hashes).tolist() == [0, 1, 0, 3, 4, 3]
    assert groups.first_of_each(bucket[:0], hashes[:0]).tolist() == []


def test_what_shares_a_band_with_too_many_is_counted(monkeypatch):
    monkeypatch.setattr(groups, "MAX_BUCKET", 3)
    hashes = np.zeros((6, 32), np.uint8)
    hashes[:, 31] = (0, 1, 1, 2, 4, 8)
    uids = pa.array([bytes([n]) * 16 for n in range(6)], pa.binary(16))
    edges, beyond = groups.bucket_edges(np.zeros(6, np.int32), uids, hashes, np.zeros(6, bool))
    rows = [(row["a"][0], row["b"][0], row["distance"]) for row in edges.to_pylist()]
    assert (rows, beyond) == ([(0, 1, 1), (0, 3, 1), (1, 2, 0), (1, 3, 2)], 2)


class Member(NamedTuple):
    """An image in a pair."""

    uid: str
    pixels: int
    captions: int
    like: str = ""
    """The smallest uid with the same hash, which has the edges of all; empty: it is its own."""


def rank(member: Member) -> tuple[int, int, str]:
    return -member.pixels, -member.captions, member.uid


def plain_stars(members: list[Member], edges: list[tuple[str, str]], most: int) -> dict[str, list[str]]:
    """Return the members of each group by representative, sorted: with all pairs in dictionaries."""
    order = sorted(members, key=rank)
    place = {member.uid: number for number, member in enumerate(order)}
    alike: dict[str, list[str]] = {}
    for member in order:
        alike.setdefault(member.like or member.uid, []).append(member.uid)
    neighbours: dict[str, list[str]] = {}
    for a, b in edges:
        neighbours.setdefault(a, []).append(b)
        neighbours.setdefault(b, []).append(a)
    taken: set[str] = set()
    groups: dict[str, list[str]] = {}
    for member in order:
        if member.uid in taken:
            continue
        taken.add(member.uid)
        own = member.like or member.uid
        near = {uid for hashed in {own, *neighbours.get(own, ())} for uid in alike.get(hashed, ())}
        chosen = sorted(near - taken, key=place.__getitem__)[: most - 1]
        if chosen:
            taken.update(chosen)
            groups[member.uid] = sorted(chosen)
    return groups


def raw(uid: str) -> bytes:
    return uid.encode().ljust(16, b"\0")


def tables(members: list[Member], edges: list[tuple[str, str]]) -> tuple[list[pa.Table], list[pa.Table]]:
    """Return edges as the shuffle leaves them, in two files, and the images, in two others."""
    rows = [(raw(a), raw(b), 9) for a, b in (sorted(pair) for pair in edges)]
    rows += [(raw(one.like), raw(one.uid), 0) for one in members if one.like not in ("", one.uid)]
    images = sorted((raw(one.uid), one.pixels, 1) for one in members for _ in range(one.captions))
    names = pa.schema(
        [("uid", pa.binary(16)), ("original_width", pa.int32()), ("original_height", pa.int32())]
    )
    return (
        [schemas.to_table(sorted(rows[n::2]), EDGES) for n in range(2)],
        # All rows of an image lie in one file.
        [schemas.to_table([row for row in images if row[0][0] % 2 == n], names) for n in range(2)],
    )


def stars(members: list[Member], edges: list[tuple[str, str]], most: int = MAX_GROUP) -> dict[str, list[str]]:
    """Return the groups that `find_stars` finds; they are those of the plain way."""
    pairs, images = tables(members, edges)
    count = sum(map(len, pairs))
    found = find_stars(lambda: pairs, lambda: images, count, most=most)
    groups: dict[str, list[str]] = {}
    for row in found.groups.to_pylist():
        groups.setdefault(row["representative"].rstrip(b"\0").decode(), []).append(
            row["uid"].rstrip(b"\0").decode()
        )
    expected = plain_stars(members, edges, most)
    assert groups == expected and found.count == len(expected)
    assert found.groups["uid"].to_pylist() == sorted(found.groups["uid"].to_pylist())
    if expected:
        around, largest = min(expected.items(), key=lambda item: (-len(item[1]), item[0]))
        assert (found.largest, found.around) == (len(largest) + 1, raw(around).hex())
    return groups


def member(uid: str, pixels: int = 1, captions: int = 1) -> Member:
    return Member(uid, pixels, captions)


def test_a_chain_is_not_a_group():
    # b is near a and c, which are not near each other: c stays.
    chain = [member("a", 30), member("b", 20), member("c", 10)]
    assert stars(chain, [("a", "b"), ("b", "c")]) == {"a": ["b"]}
    # Were b the largest, both would be its copies.
    assert stars([member("b", 40), *chain[::2]], [("a", "b"), ("b", "c")]) == {"b": ["a", "c"]}


def test_the_representative_is_the_largest_then_the_best_described_then_the_first():
    edges = [("a", "b"), ("a", "c"), ("b", "c")]
    assert list(stars([member("a", 5), member("b", 9), member("c", 5)], edges)) == ["b"]
    assert list(stars([member("a", 5, 1), member("b", 5, 3), member("c", 5, 2)], edges)) == ["b"]
    assert list(stars([member("c"), member("b"), member("a")], edges)) == ["a"]


def test_groups_are_bounded():
    edges = [("hub", f"m{n}") for n in range(10)]
    found = stars([member("hub", 9), *(member(f"m{n}") for n in range(10))], edges, most=4)
    assert found == {"hub": ["m0", "m1", "m2"]}


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[Member], list[tuple[str, str]]]:
    """Draw images, some of one hash, and pairs between the first of each hash."""
    count = draw(st.integers(2, 12))
    names = [f"n{n:02d}" for n in range(count)]
    hashed = draw(st.lists(st.integers(0, count - 1), min_size=count, max_size=count))
    first = {value: names[hashed.index(value)] for value in hashed}
    pixels = draw(st.lists(st.integers(1, 3), min_size=count, max_size=count))
    captions = draw(st.lists(st.integers(1, 2), min_size=count, max_size=count))
    members = [Member(*row) for row in zip(names, pixels, captions, map(first.get, hashed), strict=True)]
    firsts = sorted(set(first.values()))
    pairs = [(a, b) for a in firsts for b in firsts if a < b]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    in_pair = {name for edge in edges for name in edge} | {m.uid for m in members if hashed.count(
        hashed[names.index(m.uid)]) > 1}  # fmt: skip
    return [one for one in members if one.uid in in_pair], edges


@given(graphs(), st.integers(2, 5), st.sampled_from((2, 1 << 22)))
def test_stars_are_disjoint_verified_and_order_free(graph, most, at_a_time):
    members, edges = graph
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.near.stars._SORTED", at_a_time)  # in several pieces, or in one
        found = stars(members, edges, most)
        everyone = [uid for star, others in found.items() for uid in (star, *others)]
        assert len(everyone) == len(set(everyone))
        by_uid = {one.uid: one for one in members}
        for star, others in found.items():
            assert 1 <= len(others) < most
            for uid in others:
                firsts = tuple(sorted((by_uid[star].like, by_uid[uid].like)))
                assert firsts in edges or firsts[0] == firsts[1], "every member is near its representative"
                assert rank(by_uid[star]) < rank(by_uid[uid])
        if most > len(members):
            stay = {m.uid for m in members} - {uid for others in found.values() for uid in others}
            assert not any(a in stay and b in stay for a, b in edges), "no two that stay are near-duplicates"
        shuffled = random.Random(0)
        assert (
            stars(shuffled.sample(members, len(members)), shuffled.sample(edges, len(edges)), most) == found
        )


def test_equal_hashes_share_the_edges_of_the_first():
    members = [
        Member("a", 9, 1, "a"), Member("b", 50, 1, "a"), Member("c", 5, 1, "c"), Member("d", 7, 1, "c"),
        Member("e", 1, 1),
    ]  # fmt: skip
    # b, the largest, is near c and d because a, which has its hash, is.
    assert stars(members, [("a", "c")]) == {"b": ["a", "c", "d"]}
    assert stars(members, [("a", "c")], most=3) == {"b": ["a", "d"]}
    assert stars(members, []) == {"b": ["a"], "d": ["c"]}


def test_what_stays_takes_in_what_is_near_and_is_taken_in_by_none():
    members = [member("a", 90), member("b", 5), member("c", 50), member("d", 70), member("e", 60)]
    pairs, images = tables(members, [("a", "b"), ("a", "c"), ("c", "d"), ("b", "c"), ("d", "e")])
    stay = pa.table({"uid": pa.array([raw("b"), raw("c"), raw("z")], pa.binary(16))})
    before = schemas.to_table([(raw("x"), raw("c")), (raw("y"), raw("q"))], GROUPS)

    def found(*more: object) -> list[tuple[str, str]]:
        rows = find_stars(lambda: pairs, lambda: images, 5, *more).groups.to_pylist()  # type: ignore[arg-type]
        return [tuple(row[name].rstrip(b"\0").decode() for name in GROUPS.names) for row in rows]

    assert found() == [("b", "a"), ("c", "a"), ("e", "d")]
    # b and c stay, though they are small and near each other; the larger takes in the image that both are
    # near.
    assert found(lambda: [stay]) == [("a", "c"), ("d", "c")]
    assert found(lambda: [stay], before) == [("a", "c"), ("d", "c"), ("x", "c"), ("y", "q")]


def test_of_an_extended_run_new_images_alone_have_pairs(tmp_path):
    rng = np.random.default_rng(9)
    hashed = [rng.integers(0, 256, 32, dtype=np.uint8) for _ in range(2)]
    uids = [bytes([n]) * 16 for n in range(1, 7)]
    # 1, 3 and 5 are stored and alike; 6 was dropped by an earlier extension; 2 and 4 are new.
    rows = {1: hashed[0], 3: hashed[0], 5: flipped(hashed[0], 4, rng), 6: hashed[1]}
    shard = pa.table({
        "uid": [uids[n - 1].hex() for n in (6, 5, 3, 1)], "quality": pa.array([100] * 4, pa.int16()),
        "phash": [rows[n].tobytes().hex() for n in (6, 5, 3, 1)],
    })  # fmt: skip
    schemas.write_table(str(tmp_path / "shard.parquet"), shard)
    stays = [(uids[n - 1], [], bytes(32)) for n in (1, 3, 5)]
    schemas.write_table(str(tmp_path / "stored.parquet"), schemas.to_table(stays, STORED_ROWS))
    stored = Stored(
        name="00000", path=str(tmp_path / "stored.parquet"), shard=str(tmp_path / "shard.parquet"), counts="",
        samples=3,
    )  # fmt: skip
    new = np.stack([hashed[0], hashed[1]])
    edges = shuffled(
        tmp_path / "edges", [stored, write_images(tmp_path / "0.parquet", [uids[1], uids[3]], new)]
    )
    found = sorted((row["a"][0], row["b"][0], row["distance"]) for row in edges)
    assert found == [(1, 2, 0)], "3 and 5 have the look of 1 as well, which 2 goes to"


def test_removals_are_never_silent():
    found = Groups(
        name="groups", path="", pairs=2, beyond=0, removed=2, groups=1, largest=3, around="u0"
    )  # fmt: skip
    sites = [SiteRemoval(site="shop.com", images=4, removed=2)]
    groups.check_share(5, found, sites)
    with pytest.raises(
        ValueError, match=r"2 of 5 images would be removed.*shop.com \(2 of 4\).*of 3, is around u0"
    ):
        groups.check_share(5, found, sites, limit=0.3)


def test_one_worker_joins_the_pairs(tmp_path):
    members = [Member("a", 9, 1, "a"), Member("b", 50, 2, "a"), Member("c", 5, 1, "c"), Member("e", 1, 1)]
    pairs, images = tables(members, [("a", "c")])
    paths = {"pairs": pairs, "merged": images}
    written = {}
    for name, found in paths.items():
        written[name] = tuple(f"{tmp_path}/{name}-{n}.parquet" for n in range(len(found)))
        for path, table in zip(written[name], found, strict=True):
            schemas.write_table(path, table)
    task = GroupTask(name="groups", edges=2, beyond=1, **written)
    folder = str(tmp_path / "groups")
    step = Tasks(
        label="groups",
        folder=folder,
        plan=partial(Work, tasks=[task]),
        worker=GroupWorker(path=f"{folder}/groups"),
    )
    Runner(flags=("--runner=FnApiRunner",), workers=1).run([step])
    [found] = step.results(Groups)
    assert schemas.read_table(found.path).to_pylist() == [
        {"uid": raw(uid), "representative": raw("b")} for uid in ("a", "c")
    ]
    assert (found.pairs, found.beyond, found.removed, found.groups, found.largest) == (2, 1, 2, 1, 3)
