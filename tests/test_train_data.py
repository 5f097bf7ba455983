"""Sources, order and loading: every sample once, exact shares, bad samples counted, webdataset's reading."""

import gzip
import io
import json
import pickle
import re
import tarfile
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tests import train_shards
from train import cli, data, image_transforms, shard_sources, squares, tar, vocabulary
from train.cache import Cache
from train.reader import Reader
from train.sampler import Sampler
from train.shard_sources import CountedShard, ShardSource
from train.tokenizer import Tokenizer

CPU = torch.device("cpu")


def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def resolve(tmp_path: Path, *names: object, **options: object) -> list[ShardSource]:
    arguments = {"weights": (), "drop": (), "keep": ()} | options
    return shard_sources.resolve([str(n) for n in names], cache=cache(tmp_path), **arguments)  # type: ignore[arg-type]


def numbers(
    found: list[ShardSource], sampler: Sampler, epoch: int, positions: range, tmp_path: Path
) -> list[int]:
    """Return the sample numbers at positions of an epoch."""
    shards: dict[str, shard_sources.OpenShard] = {}
    result = []
    for position in positions:
        source, shard, place = sampler.locate(epoch, position)
        path = found[source].shards[shard].path
        opened = shards.setdefault(path, shard_sources.OpenShard(path))
        result.append(int(str(opened.row(place)["uid"]), 16))
    return result


# ---- tar


def test_tar_walk_reads_what_webdataset_reads(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    path = tmp_path / "x.tar"
    long_name = "d" * 90 + "/" + "e" * 120
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as out:
        train_shards.member(out, "a/0001.jpg", b"one")
        train_shards.member(out, "a/0001.txt", b"caption one")
        train_shards.member(out, "a/0002.cls.extra", b"7")
        train_shards.member(out, "a/0002.PNG", b"two")
        train_shards.member(out, "a/0002.txt", b"caption two")
        out.addfile(tarfile.TarInfo("folder"), None)
        train_shards.member(out, f"{long_name}.jpg", b"three")
        train_shards.member(out, f"{long_name}.json", b'{"caption": "three"}')
        train_shards.member(out, "no-text.jpg", b"x")
        train_shards.member(out, "no-image.txt", b"x")
        train_shards.member(out, "b.v1.jpg", b"not the suffix jpg")
        train_shards.member(out, "b.v1.txt", b"not the suffix txt")
    theirs = []
    for sample in webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False):
        image = sample.get("jpg", sample.get("png"))
        text = sample.get("txt", sample.get("json"))
        if image is not None and text is not None:
            theirs.append((image, text))
    with shard_sources.OpenShard(str(path)) as shard:
        ours = [
            (shard.image(i), shard.text(i).encode() or b'{"caption": "three"}') for i in range(len(shard))
        ]
        assert ours == theirs and len(ours) == 3
        assert (
            shard.captions(2, shard.row(2)) == ["three"]
            and shard.left_out.total() == 3
            and shard.damage == ""
        )


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_tar_format_gives_the_same(form: int) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as out:
        for name in ["x" * 60 + "/" + "y" * 70 + "é", "short"]:
            if form == tarfile.USTAR_FORMAT:
                name = name.replace("é", "e")
            train_shards.member(out, f"{name}.jpg", b"abc")
            train_shards.member(out, f"{name}.txt", name.encode())
    data_ = buffer.getvalue()
    index = tar.index(memoryview(data_))
    assert index.damage == "" and len(index.rows) == 2
    for row in index.rows:
        assert data_[row[0] : row[0] + row[1]] == b"abc"


def test_cut_archives_give_what_is_whole(tmp_path: Path) -> None:
    whole = train_shards.write(tmp_path / "a.tar", range(6)).read_bytes()
    index = tar.index(memoryview(whole))
    assert len(index.rows) == 6
    for cut in [0, 100, 512, int(index.rows[3][0]) + 5, len(whole) // 2]:
        part = tar.index(memoryview(whole[:cut]))
        assert "cut" in part.damage
        assert len(part.rows) == sum(1 for r in index.rows if cut >= r[2] + r[3] or cut >= r[4] + r[5])
    assert tar.index(memoryview(b"\x01" * 2048)).damage == "not a tar header"


# ---- sources


def test_a_run_is_counted_by_its_manifest(tmp_path: Path) -> None:
    run = train_shards.write_run(tmp_path / "run", [5, 3])
    train_shards.write(run / "shards" / "99999.tar", range(50))  # not in the manifest: not part of the run
    [source] = resolve(tmp_path, run)
    assert [s.samples for s in source.shards] == [5, 3] and source.count == 8


def test_plain_patterns_braces_and_several_parts(tmp_path: Path) -> None:
    for index in range(4):
        train_shards.write(tmp_path / f"w/{index:03d}.tar", range(index + 1))
    assert [s.count for s in resolve(tmp_path, tmp_path / "w/*.tar")[0].shards] == [1, 2, 3, 4]
    assert [s.count for s in resolve(tmp_path, tmp_path / "w/{001..003}.tar")[0].shards] == [2, 3, 4]
    assert resolve(tmp_path, f"{tmp_path}/w/000.tar::{tmp_path}/w/003.tar")[0].count == 5
    assert resolve(tmp_path, tmp_path / "w")[0].count == 10
    (tmp_path / "w/sizes.json").write_text('{"000.tar": 1, "001.tar": 2, "002.tar": 3, "003.tar": 4}')
    (tmp_path / "w/002.tar").write_bytes(b"")  # sizes.json is believed: nothing is read to count
    assert resolve(tmp_path, tmp_path / "w")[0].count == 10


def test_compressed_and_remote_shards_are_brought_to_the_disk(tmp_path: Path) -> None:
    plain = train_shards.write(tmp_path / "a.tar", range(4))
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(plain.read_bytes()))
    [source] = resolve(tmp_path, tmp_path / "b.tar.gz")
    assert source.count == 4
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/0.tar", plain.read_bytes())
    [source] = resolve(tmp_path, "memory://bucket/*.tar")
    assert source.count == 4
    copies = cache(tmp_path)
    copy = copies.local("memory://bucket/0.tar")
    memory.rm("/bucket/0.tar")
    assert copies.local("memory://bucket/0.tar") == copy and copy.read_bytes() == plain.read_bytes()


def test_cache_drops_the_least_recently_used(tmp_path: Path) -> None:
    import os

    import fsspec

    memory = fsspec.filesystem("memory")
    small = Cache(tmp_path / "c", limit=2500)
    copies = []
    for index in range(3):
        memory.pipe(f"/many/{index}.tar", bytes(1000))
        copies.append(small.local(f"memory://many/{index}.tar"))
        os.utime(copies[-1], (index, index))
        if index == 1:
            small.local("memory://many/0.tar")
    assert [c.exists() for c in copies] == [True, False, True]


@pytest.mark.parametrize("form", ["run", "plain"])
def test_drop_and_keep_by_uid(tmp_path: Path, form: str) -> None:
    run = train_shards.write_run(tmp_path / "run", [6, 6])
    name: object = run
    if form == "plain":
        name = run / "shards" / "*.tar"
    else:
        for index in range(2):
            uids = [f"{n:032x}" for n in range(index * 6, index * 6 + 6)]
            pq.write_table(pa.table({"uid": uids}), run / "shards" / f"{index:05d}.parquet")
    pq.write_table(pa.table({"uid": [f"{n:032x}" for n in (1, 7, 99)]}), tmp_path / "drop.parquet")
    pq.write_table(pa.table({"uid": [f"{n:032x}" for n in (0, 1, 2, 8)]}), tmp_path / "keep.parquet")
    for options, expected in [
        ({"drop": [str(tmp_path / "drop.parquet")]}, {0, 2, 3, 4, 5, 6, 8, 9, 10, 11}),
        ({"keep": [str(tmp_path / "keep.parquet")]}, {0, 1, 2, 8}),
        ({"drop": [str(tmp_path / "drop.parquet")], "keep": [str(tmp_path / "keep.parquet")]}, {0, 2, 8}),
    ]:
        found = resolve(tmp_path, name, **options)
        sampler = Sampler(found, 0, 100)
        assert sorted(numbers(found, sampler, 0, range(sampler.epochs[0]), tmp_path)) == sorted(expected)
    pq.write_table(pa.table({"id": ["x"]}), tmp_path / "bad.parquet")
    with pytest.raises(ValueError, match="no column uid; it has id"):
        resolve(tmp_path, name, drop=[str(tmp_path / "bad.parquet")])


def test_what_cannot_be_trained_on_is_said(tmp_path: Path) -> None:
    (tmp_path / "half/shards").mkdir(parents=True)
    with pytest.raises(ValueError, match="finish it with `openwit crawl`"):
        resolve(tmp_path, tmp_path / "half")
    with pytest.raises(ValueError, match="nothing is there"):
        resolve(tmp_path, tmp_path / "none/*.tar")
    for name in (
        f"pipe:touch {tmp_path}/ran",
        f"pipe:touch {tmp_path}/ran; cat x.tar",
    ):  # as webdataset runs it
        with pytest.raises((ValueError, OSError)):
            resolve(tmp_path, name)
    assert not (tmp_path / "ran").exists()
    run = train_shards.write_run(tmp_path / "run", [4])
    with pytest.raises(ValueError, match="2 numbers for 1 --shards"):
        resolve(tmp_path, run, weights=(1, 2))
    with pytest.raises(ValueError, match="no sample to train on"):
        pq.write_table(pa.table({"uid": ["nobody"]}), tmp_path / "k.parquet")
        resolve(tmp_path, run, keep=[str(tmp_path / "k.parquet")])


def shard_of(path: Path, *members: tuple[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as out:
        for name, data in members:
            train_shards.member(out, name, data)
    return path


PICTURE = train_shards.jpeg("red")


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("0.jpg", PICTURE), ("0.cls", b"1"), ("1.jpg", PICTURE)],
         r"2 images without a caption; suffixes found: .jpg \(2\), .cls \(1\); wanted: .txt or .json, and"),
        ([("0.input.jpg", PICTURE), ("0.output.txt", b"a")],
         r"1 without an image; suffixes found: .input.jpg \(1\), .output.txt \(1\)"),
        ([("photo.v0.jpg", PICTURE), ("photo.v0.txt", b"a")], r"found: .v0.jpg \(1\), .v0.txt \(1\)"),
        ([("0.jpg", PICTURE), ("1.jpg", PICTURE), ("0.txt", b"a"), ("1.txt", b"b")],
         r"2 without an image; 2 images without a caption; 2 keys that come again \(the parts"),
        ([("0.jpg", PICTURE), ("0.txt", b"")], r"1 images without a caption"),
        ([("0.jpg", PICTURE), ("0.json", b'{"text": "a", "id": 3}')],
         r"1 whose .json has no caption \(it has id, text\)"),
        ([("0.jpg", PICTURE), ("0.json", b"[" * 100_000)], r"1 whose .json has no caption \(it has noth"),
        ([("0.jpg", PICTURE), ("0.json", b"{}"), ("0.txt", b" \n")],
         r"of 1 samples tried none can be trained on; the first has no caption"),
        ([("0.jpg", b"<html>"), ("0.txt", b"a")],
         r"of 1 samples tried none can be trained on; the first has a picture that cannot be read"),
        ([], "no sample to train on"),
    ],
    ids=["cls", "input", "dots", "by type", "empty", "json", "deep", "blank", "html", "nothing"],
)  # fmt: skip
def test_why_there_is_no_sample_is_said_by_check_too(
    members: list[tuple[str, bytes]], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = shard_of(tmp_path / "s/0.tar", *members)
    assert cli.main(["--shards", str(path), "--model", "tiny", "--out", str(tmp_path / "o"), "--check"]) == 2
    assert re.search(said, capsys.readouterr().err)


def test_samples_left_out_of_a_mixed_source_are_counted_with_their_causes(tmp_path: Path) -> None:
    good = [(f"{i}.{suffix}", data) for i in range(6) for suffix, data in (("jpg", PICTURE), ("txt", b"red"))]
    mixed = [
        *good, ("6.jpg", PICTURE), ("7.jpg", PICTURE), ("7.txt", b""), ("8.txt", b"alone"),
        ("9.jpg", PICTURE), ("9.json", b'{"caption": "blue"}'),
        ("a.jpg", PICTURE), ("a.json", b'{"alt": "x"}'),
        ("._b.jpg", PICTURE), ("__MACOSX/c.jpg", PICTURE),
    ]  # fmt: skip
    name = str(shard_of(tmp_path / "s/0.tar", *mixed))
    shard_of(tmp_path / "s/1.tar")
    (tmp_path / "s/2.tar").write_bytes(b"")
    [source] = resolve(tmp_path, tmp_path / "s")
    assert source.count == 7 and [shard.path for shard in source.shards] == [name]
    assert source.left_out.startswith(
        "1 without an image; 2 images without a caption; 1 whose .json has no caption (it has alt); suffixes"
    )
    assert source.left_out.endswith(f"{tmp_path}/s/2.tar: the file is empty")
    with pytest.raises(ValueError, match=r"2.tar: 1 shard, but no sample.*2.tar: the file is empty"):
        resolve(tmp_path, tmp_path / "s/2.tar")
    # Who asks for no captions, as the detector does, gets every picture with any text.
    [source] = resolve(tmp_path, name, captions=None)
    assert source.count == 8


def test_small_pictures_are_refused_unless_enlarging_is_asked_for(tmp_path: Path) -> None:
    [source] = resolve(tmp_path, train_shards.write_run(tmp_path / "run", [8]))
    shard_sources.refuse_small(source, 32, cache(tmp_path))
    with pytest.raises(ValueError, match=r"about 32 pixels for a model of 64.*--enlarge"):
        shard_sources.refuse_small(source, 64, cache(tmp_path))


# ---- order


def fake(counts: list[int], weight: float = 1.0) -> ShardSource:
    return ShardSource("s", tuple(CountedShard(str(i), n) for i, n in enumerate(counts)), weight)


@pytest.mark.parametrize("window", [3, 10, 1000])
def test_an_epoch_takes_every_sample_once_in_another_order(window: int) -> None:
    sampler = Sampler([fake([5, 1, 9]), fake([4])], 1, window)
    orders = [[sampler.locate(epoch, p) for p in range(sampler.epochs[0])] for epoch in range(2)]
    everything = {(0, s, p) for s, n in enumerate([5, 1, 9]) for p in range(n)} | {
        (1, 0, p) for p in range(4)
    }
    for order in orders:
        assert len(order) == 19 and set(order) == everything
    assert orders[0] != orders[1]
    again = Sampler([fake([5, 1, 9]), fake([4])], 1, window)
    assert [again.locate(1, p) for p in reversed(range(19))] == orders[1][::-1]
    other = Sampler([fake([5, 1, 9]), fake([4])], 2, window)
    assert [other.locate(0, p) for p in range(19)] != orders[0]


def test_weights_are_passes_of_each_epoch() -> None:
    sampler = Sampler([fake([10, 10], 0.5), fake([7], 3)], 0, 8)
    assert sampler.epochs[0] == 10 + 21
    epochs = [[sampler.locate(epoch, p) for p in range(31)] for epoch in range(2)]
    for order in epochs:
        assert Counter(s for s, _, _ in order) == {0: 10, 1: 21}
        assert set(Counter(x for x in order if x[0] == 1).values()) == {3}
    halves = [{x for x in order if x[0] == 0} for order in epochs]
    assert not halves[0] & halves[1] and len(halves[0] | halves[1]) == 20  # the other half, not any half


def test_every_window_mixes_the_sources_in_proportion() -> None:
    sampler = Sampler([fake([1000] * 9), fake([1000])], 0, 500)
    order = np.array([sampler.locate(0, p)[0] for p in range(10_000)])
    shares = order.reshape(20, 500).mean(axis=1)
    assert np.allclose(shares, 0.1)


def test_replacements_come_from_the_same_window() -> None:
    sampler = Sampler([fake([50] * 20)], 0, 100)

    for position in range(0, 1000, 37):
        found = {sampler.replacement(3, position, attempt) for attempt in range(1, 20)}
        assert {p // 100 for p in found} == {position // 100} and len(found) > 5


# ---- batches


def tokenizer() -> Tokenizer:
    words = vocabulary.count_words(
        f"a photo of {c} paint {n}" for c in train_shards.COLOURS for n in range(9)
    )
    return Tokenizer(vocabulary.learn_merges(words))


def pieces(
    found: list[ShardSource], tmp_path: Path, batch: int, ranks: int = 1, rank: int = 0, accumulate: int = 1
) -> data.Pieces:
    sampler = Sampler(found, 0, 20)
    shape = data.Shape(batch=batch, ranks=ranks, rank=rank, accumulate=accumulate, epochs=sampler.epochs)
    return data.Pieces(sampler, shape, tokenizer(), 32, "paper", cache(tmp_path))


def test_samples_are_seeded_together_as_numpy_seeds_them() -> None:
    for seed in (0, 7, (1 << 32) - 1, 1 << 40):
        sampler = Sampler([], seed, 100)
        for epoch, position in ((0, 0), (3, 255), (3, 256), (1, (1 << 32) - 1), (0, 1 << 40)):
            for attempt in (0, 2):
                expected = np.random.default_rng([seed, 3, epoch, position, attempt])
                drawn = sampler.random(epoch, position, attempt)
                assert drawn.bit_generator.state == expected.bit_generator.state


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_share_a_batch_exactly(ranks: int, tmp_path: Path) -> None:
    found = resolve(
        tmp_path, train_shards.write_run(tmp_path / "run", [21])
    )  # one shard, more ranks than shards
    whole = list(data.load(pieces(found, tmp_path, 8), 0, 4, 0, CPU))
    parts = [list(data.load(pieces(found, tmp_path, 8, ranks, r), 0, 4, 0, CPU)) for r in range(ranks)]
    assert len(whole) == 4 and {len(p) for p in parts} == {4}
    for step, batch in enumerate(whole):
        together = torch.cat([part[step].uids for part in parts])
        assert torch.equal(together, batch.uids)
        assert torch.equal(torch.cat([part[step].micro[0][0] for part in parts]), batch.micro[0][0])
    first_epoch = torch.cat([batch.uids for batch in whole[:2]])
    assert len(first_epoch.unique()) == 16  # 21 // 8 steps, no sample twice


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than this machine has cores
def test_workers_and_resuming_change_nothing(tmp_path: Path) -> None:
    found = resolve(tmp_path, train_shards.write_run(tmp_path / "run", [9, 8]))
    # Plans and pieces travel to workers that do not share memory, too.
    assert torch.equal(
        pickle.loads(pickle.dumps(pieces(found, tmp_path, 8)))[1].uids, pieces(found, tmp_path, 8)[1].uids
    )
    alone = list(data.load(pieces(found, tmp_path, 8, accumulate=2), 0, 5, 0, CPU))
    helped = list(data.load(pieces(found, tmp_path, 8, accumulate=2), 2, 5, 3, CPU))
    assert len(alone) == 5 and len(helped) == 3
    for left, right in zip(alone[2:], helped, strict=True):
        assert torch.equal(left.captions, right.captions) and left.tokens == right.tokens
        for (pixels, text), (other_pixels, other_text) in zip(left.micro, right.micro, strict=True):
            assert pixels.shape == (4, 32, 32, 3) and torch.equal(pixels, other_pixels)
            assert torch.equal(text.ids, other_text.ids) and torch.equal(text.ends, other_text.ends)


DOCUMENTED = (Path(__file__).resolve().parents[1] / "docs" / "reader.md").read_text()


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_the_documented_reader_resumes_at_the_very_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after any batch and continued by other numbers of ranks and workers, nothing changes."""
    monkeypatch.chdir(tmp_path)
    train_shards.write_run(tmp_path / "run", [19, 18])
    code = DOCUMENTED.split("```python\n")[1].split("```")[0]
    assert len(code.strip().splitlines()) < 20
    taken: list[tuple[int, list[str], list[str], torch.Tensor]] = []

    class Killed(Exception):  # noqa: N818
        pass

    def run(ranks: int, rank: int, workers: int, last: int) -> None:
        def train_step(images: torch.Tensor, captions: list[str], uids: list[str]) -> None:
            taken.append((rank, captions, uids, images))
            if len([one for one in taken if one[0] == rank]) == last:
                raise Killed

        own = code.replace("batch_size=1024", "batch_size=8, shuffle=20")
        own = own.replace("image_size=224", "image_size=32").replace("state.json", f"state{rank}.json")
        exec(own, {"RANK": rank, "RANKS": ranks, "WORKERS": workers, "train_step": train_step})

    run(1, 0, 0, 99)
    whole = [one[1:] for one in taken]
    assert len(whole) == 2 * (37 // 8)
    for ranks, workers, again in ((1, 2, 0), (2, 0, 1), (4, 0, 0)):
        taken.clear()
        for path in tmp_path.glob("state*.json"):
            path.unlink()
        for rank in range(ranks):
            with pytest.raises(Killed):
                run(ranks, rank, workers, 3)
        # The samples of the step that was killed are not in the state: they are taken again.
        taken[:] = [one for number, one in enumerate(taken) if number % 3 < 2]
        for rank in range(ranks):
            run(ranks, rank, again, 99)
        for step, (captions, uids, images) in enumerate(whole):
            parts = [[one for one in taken if one[0] == rank][step] for rank in range(ranks)]
            assert [text for part in parts for text in part[1]] == captions
            assert [uid for part in parts for uid in part[2]] == uids
            assert torch.equal(torch.cat([part[3] for part in parts]), images)


def test_a_reader_refuses_the_state_of_another_order(tmp_path: Path) -> None:
    run = str(train_shards.write_run(tmp_path / "run", [16]))
    state = Reader([run], batch_size=8, image_size=32, epochs=2).state_dict()
    assert json.loads(json.dumps(state)) == state
    other = Reader([run], batch_size=4, image_size=32, seed=1)
    with pytest.raises(ValueError, match=r"seed \(was 0, is 1\), batch_size \(was 8, is 4\)"):
        other.load_state_dict(state)
    same = Reader([run], batch_size=8, image_size=32, epochs=2)
    same.load_state_dict(state | {"batches": 3})
    assert (len(same), same.epoch, len(list(same))) == (4, 1, 1)


def test_squares_that_are_resized_on_the_device_are_the_workers_but_for_rounding(tmp_path: Path) -> None:
    for number, (width, height) in enumerate([(40, 32), (24, 24), (20, 31), (60, 47), (30, 33)]):
        train_shards.write(
            tmp_path / f"w/{number}.tar", range(number * 8, number * 8 + 8), width=width, height=height
        )
    sampler = Sampler(resolve(tmp_path, tmp_path / "w"), 0, 100)
    shape = data.Shape(batch=20, ranks=1, rank=0, accumulate=1, epochs=sampler.epochs)
    made = [
        data.Pieces(sampler, shape, tokenizer(), 24, "paper", cache(tmp_path), on_device=on_device)
        for on_device in (False, True)
    ]
    there, here = (list(data.load(one, 0, 2, 0, CPU)) for one in made)
    assert set(made[0][0].sides.tolist()) == {24}
    # Of 60 x 47 more would travel than it is worth.
    assert set(made[1][0].sides.tolist()) == {32, 24, 20, 30}
    for left, right in zip(there, here, strict=True):
        assert torch.equal(left.uids, right.uids) and left.counts == right.counts
        pixels, others = left.micro[0][0], right.micro[0][0]
        assert pixels.shape == others.shape == (20, 24, 24, 3) and others.dtype == torch.uint8
        assert (pixels.int() - others.int()).abs().max() <= 1
        same = (pixels == others).flatten(1).all(1)
        assert same.any() and not same.all()
    rgb = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    one = squares.resize(torch.from_numpy(rgb).flatten(), torch.tensor([32]), 24)[0]
    expected = np.asarray(Image.fromarray(rgb).resize((24, 24), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(one.numpy().astype(int) - expected).max() <= 1, "and Pillow's"


def test_captions_belong_to_their_pictures_and_all_are_used(tmp_path: Path) -> None:
    found = resolve(tmp_path, train_shards.write_run(tmp_path / "run", [16]))
    tok = tokenizer()
    seen = set()
    for batch in data.load(pieces(found, tmp_path, 16), 0, 6, 0, CPU):
        [(pixels, text)] = batch.micro
        starts = text.starts.tolist()
        for row, (start, stop) in enumerate(pairwise(starts)):
            caption = tok.decode(text.ids[start:stop].tolist())
            seen.add(caption)
            colour = next(c for c in train_shards.COLOURS if c in caption)
            mean = pixels[row].float().mean(dim=(0, 1))
            assert (mean - torch.tensor(train_shards.COLOURS[colour])).abs().max() < 30
    assert any("photo" in c for c in seen) and any("paint" in c for c in seen)


def test_bad_samples_are_replaced_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "w/0.tar"
    train_shards.write(path, range(12))
    with tarfile.open(path, "a", format=tarfile.USTAR_FORMAT) as out:
        good = train_shards.jpeg("red")
        for key, image, caption in [
            ("900", b"no image", b"text"),
            ("901", good[:-150], b"cut"),
            ("902", good, b"  "),
        ]:
            train_shards.member(out, f"{key}.jpg", image)
            train_shards.member(out, f"{key}.txt", caption)
    train_shards.write(tmp_path / "w/1.tar", range(20, 23))
    sizes = {"0.tar": 15, "1.tar": 5, "2.tar": 2}  # two more than 1.tar has; 2.tar is no archive
    (tmp_path / "w/2.tar").write_bytes(b"junk" * 500)
    (tmp_path / "w/sizes.json").write_text(json.dumps(sizes))
    found = resolve(tmp_path, tmp_path / "w")
    batches = list(data.load(pieces(found, tmp_path, 22), 0, 3, 0, CPU))
    for batch in batches:
        assert len(batch.micro[0][0]) == 22
        assert batch.counts["not_image"] >= 1 and batch.counts["no_caption"] >= 1
        assert batch.counts["truncated"] >= 1 and batch.counts["missing"] >= 4
    nothing = ShardSource("w", (CountedShard(str(tmp_path / "w/2.tar"), 9),))
    with pytest.raises(ValueError, match="samples in a row are bad"):
        next(data.load(pieces([nothing], tmp_path, 9), 0, 1, 0, CPU))


def test_batches_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="not a multiple of 3 processes"):
        data.Shape(batch=8, ranks=3, rank=0, accumulate=1, epochs=(100,))
    with pytest.raises(ValueError, match="fewer than one --batch-size of 8"):
        data.Shape(batch=8, ranks=1, rank=0, accumulate=1, epochs=(7,))
    shape = data.Shape(batch=32_768, ranks=8, rank=0, accumulate=2, epochs=(10**6,))
    assert (shape.micro, shape.piece, shape.pieces, shape.epoch_steps) == (2048, 256, 16, (30,))


# ---- pictures


def picture(width: int, height: int, form: str = "JPEG", **options: object) -> tuple[np.ndarray, bytes]:
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 / width, y * 255 / height, (x + y) % 256], -1).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return pixels, buffer.getvalue()


def test_stored_at_the_models_size_the_crop_is_free() -> None:
    pixels, encoded = picture(50, 32, "PNG")
    for seed in range(5):
        crop, _ = image_transforms.training_image(encoded, 32, "paper", np.random.default_rng(seed))
        left = int(np.random.default_rng(seed).integers(50 - 32 + 1))
        assert np.array_equal(crop, pixels[:, left : left + 32])


@pytest.mark.parametrize(("width", "height"), [(90, 60), (60, 90), (64, 64), (20, 31)])
def test_papers_crop_is_resize_then_crop(width: int, height: int) -> None:
    """Resizing only the crop must equal resizing all and then cropping, borders aside."""
    pixels, encoded = picture(width, height, "PNG")
    size = 32
    crop = image_transforms.training_image(encoded, size, "paper", np.random.default_rng(1))[0].astype(int)
    scale = size / min(width, height)
    resized = Image.fromarray(pixels).resize(
        (round(width * scale), round(height * scale)), Image.Resampling.BICUBIC
    )
    spare = max(resized.size) - size
    at = int(np.random.default_rng(1).integers(spare + 1))
    box = (at, 0, at + size, size) if width > height else (0, at, size, at + size)
    expected = np.array(resized.crop(box)).astype(int)
    assert crop.shape == (size, size, 3)
    assert np.abs(crop[..., :2] - expected[..., :2])[3:-3, 3:-3].max() <= 255 / min(width, height) + 2


@pytest.mark.parametrize("crop", image_transforms.CROPS)
@pytest.mark.parametrize(("width", "height"), [(32, 32), (200, 33), (33, 200), (8, 9), (1, 500)])
def test_crops_have_the_size_asked_for(crop: image_transforms.Crop, width: int, height: int) -> None:
    _, encoded = picture(width, height)
    for seed in range(3):
        pixels, enlarged = image_transforms.training_image(encoded, 32, crop, np.random.default_rng(seed))
        assert enlarged == (min(width, height) < 32)
        assert pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8


def test_the_fast_decoder_sees_what_pillow_sees() -> None:
    _, encoded = picture(64, 48, quality=95)
    with Image.open(io.BytesIO(encoded)) as image:
        exact = np.array(image).astype(int)
    assert np.abs(image_transforms.decode(encoded).astype(int) - exact).mean() < 3


def test_odd_pictures_decode_or_say_why() -> None:
    for mode in ["L", "CMYK", "RGBA", "P"]:
        buffer = io.BytesIO()
        Image.new(mode, (40, 40)).save(buffer, "JPEG" if mode in ("L", "CMYK") else "PNG")
        assert image_transforms.decode(buffer.getvalue()).shape == (40, 40, 3)
    with pytest.raises(image_transforms.BadImage) as caught:
        image_transforms.decode(b"<svg/>")
    assert caught.value.reason == "not_image"
    huge = io.BytesIO()
    Image.new("1", (9000, 9000)).save(huge, "PNG")
    with pytest.raises(image_transforms.BadImage) as caught:
        image_transforms.decode(huge.getvalue())
    assert caught.value.reason == "too_many_pixels"


def test_normalise_is_clips() -> None:
    pixels = torch.randint(0, 256, (2, 4, 4, 3), dtype=torch.uint8)
    expected = (pixels.float() / 255 - torch.tensor(image_transforms.MEAN)) / torch.tensor(
        image_transforms.STD
    )
    torch.testing.assert_close(
        image_transforms.normalise(pixels), expected.permute(0, 3, 1, 2), rtol=1e-5, atol=1e-6
    )


def test_evaluation_image_is_the_centre() -> None:
    pixels, encoded = picture(64, 32, "PNG")
    assert np.array_equal(image_transforms.evaluation_image(encoded, 32), pixels[:, 16:48])


@pytest.mark.parametrize(("width", "height"), [(690, 60), (60, 690), (500, 375), (97, 61)])
def test_evaluation_image_has_torchvisions_size_before_the_crop(width: int, height: int) -> None:
    pixels, encoded = picture(width, height, "PNG")
    short = min(width, height)
    wide, high = int(336 * width / short), int(336 * height / short)  # of torchvision's Resize
    left, top = round((wide - 336) / 2), round((high - 336) / 2)  # of its CenterCrop
    resized = Image.fromarray(pixels).resize((wide, high), Image.Resampling.BICUBIC)
    expected = np.asarray(resized.crop((left, top, left + 336, top + 336)))
    assert np.array_equal(image_transforms.evaluation_image(encoded, 336), expected)
