"""Exact neighbours by blocked products, and descriptors as files."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dedup.detector import detector_file, neighbours
from dedup.detector.cli import main
from dedup.detector.model import DetectorNetwork, ResNetArchitecture
from dedup.detector.neighbours import Described, NearestSearch
from dedup.detector.normalise import Normaliser
from pipeline.data.views import VIEWS, squeeze
from tests.scenes import jpeg, sample, scene, write_folder, write_run

TINY = ResNetArchitecture(side=32, layers=(1, 1, 1, 1), width=8, dims=16)


def random(count: int, dims: int, seed: int) -> Described:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, dims)).astype(np.float32)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    return Described(vectors.astype(np.float16), rng.uniform(0, 0.3, count).astype(np.float32))


def similarities(examples: Described, images: Described, views: int) -> np.ndarray:
    """Return [e, n] by the definition, in double precision."""
    products = examples.vectors.astype(np.float64) @ images.vectors.astype(np.float64).T
    products -= examples.biases[:, None] + images.biases.astype(np.float64)
    return products.reshape(len(products) // views, views, len(images.vectors)).max(1)


@given(
    st.integers(1, 9), st.sampled_from([1, 3]), st.lists(st.integers(0, 40), max_size=5), st.integers(1, 12),
    st.integers(0, 10**6),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_the_nearest_are_those_of_a_full_sort(examples, views, blocks, k, seed):
    shown, images = random(examples * views, 6, seed), random(sum(blocks), 6, seed + 1)
    one = NearestSearch(shown, views, k)
    start = 0
    for size in blocks:
        one.add(Described(images.vectors[start : start + size], images.biases[start : start + size]))
        start += size
    found = one.result()
    every = similarities(shown, images, views)
    expected = -np.sort(-every, axis=1)[:, :k]
    count = expected.shape[1]
    assert np.allclose(found.similarity[:, :count], expected, atol=1e-5)
    assert (found.row[:, count:] == -1).all() and np.isinf(found.similarity[:, count:]).all()
    for row in range(examples):
        places = found.row[row, :count]
        assert len(set(places.tolist())) == count
        assert np.allclose(every[row, places], found.similarity[row, :count], atol=1e-5)


def test_tiles_of_any_size_give_the_same(monkeypatch):
    shown, images = random(20, 8, 0), random(3000, 8, 1)
    results = []
    for tile in (1 << 20, 1 << 11):
        monkeypatch.setattr(neighbours, "_TILE_CPU", tile)
        one = NearestSearch(shown, 2, 5)
        one.add(images)
        results.append(one.result())
    assert np.array_equal(results[0].row, results[1].row)


def test_equal_images_keep_their_order():
    vector = np.ones((1, 4), np.float32) / 2
    images = Described(np.repeat(vector, 6, axis=0), np.zeros(6, np.float32))
    one = NearestSearch(Described(vector, np.zeros(1, np.float32)), 1, 3)
    for start in (0, 2, 4):
        one.add(Described(images.vectors[start : start + 2], images.biases[start : start + 2]))
    assert one.result().row.tolist() == [[0, 1, 2]]


@given(st.integers(0, 12), st.integers(1, 9), st.sampled_from([1, 2]), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_pairs_within_are_those_at_or_above_each_examples_floor(queries, examples, views, seed):
    asked, shown = random(queries, 5, seed), random(examples * views, 5, seed + 1)
    floors = np.random.default_rng(seed).uniform(-0.5, 0.5, examples).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "_TILE_CPU", seed % 100 + 1)
        hits = neighbours.within(asked, shown, views, floors)
    every = similarities(shown, asked, views).T
    clear = np.abs(every - floors) > 1e-5  # rounding decides on the others
    wanted = set(zip(*np.nonzero((every >= floors) & clear), strict=True))
    found = set(zip(hits.query.tolist(), hits.example.tolist(), strict=True))
    assert wanted <= found and not any(clear[pair] for pair in found - wanted)
    assert np.allclose(hits.similarity, every[hits.query, hits.example], atol=1e-5)
    for query, example, similarity, view in zip(*hits, strict=True):
        row = example * views + view
        one = asked.vectors[query].astype(np.float64) @ shown.vectors[row].astype(np.float64)
        assert one - asked.biases[query] - shown.biases[row] == pytest.approx(similarity, abs=1e-5)


@given(
    st.integers(0, 12), st.integers(1, 9), st.sampled_from([1, 2]), st.integers(1, 40), st.integers(0, 10**6)
)
@settings(max_examples=40, deadline=None)
def test_the_highest_pairs_are_the_first_of_all_sorted(queries, examples, views, count, seed):
    asked, shown = random(queries, 5, seed), random(examples * views, 5, seed + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "_TILE_CPU", seed % 100 + 1)
        hits = neighbours.highest(asked, shown, views, count)
    every = similarities(shown, asked, views).T
    assert np.allclose(hits.similarity, -np.sort(-every, axis=None)[:count], atol=1e-5)
    assert len(set(zip(hits.query.tolist(), hits.example.tolist(), strict=True))) == len(hits.query)
    assert np.allclose(hits.similarity, every[hits.query, hits.example], atol=1e-5)


# Descriptors as files


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Return a folder with a detector, a run of two shards and an evaluation set, two of it copies."""
    root = tmp_path_factory.mktemp("embed")
    thumbs = np.stack([squeeze(scene(n), 32) for n in range(300, 340)])
    network = DetectorNetwork(TINY).initialise(0, torch.from_numpy(thumbs)).eval()
    detector_file.write(
        str(root / "detector.safetensors"), network, Normaliser.fit(network.embed(thumbs)), {}
    )
    pictures = [scene(n) for n in range(12)] + [np.zeros((256, 256, 3), np.uint8)]
    samples = [
        sample(f"{n // 7:05d}{n % 7:04d}", rgb, f"https://a.test/{n}.jpg", "")
        for n, rgb in enumerate(pictures)
    ]
    write_run(root / "run", [samples[:7], samples[7:]])
    write_folder(root / "eval", {"a/3.jpg": scene(3), "a/8.jpg": scene(8), "b/x.jpg": scene(99)})
    (root / "eval/b/broken.jpg").write_bytes(b"no image")
    return root


def embed(root: Path, *more: str) -> int:
    return main(
        ["embed", "--detector", str(root / "detector.safetensors"), "--run", str(root / "run"), "--eval",
         f"set={root}/eval", "--out", str(root / "out"), "--neighbours", "3", "--workers", "1", *more]
    )  # fmt: skip


def test_embed_writes_descriptors_and_finds_the_copies(made, capfd):
    assert embed(made) == 0
    assert "1 image left out that cannot be decoded: 1 not_image" in capfd.readouterr().err
    files = sorted((made / "out/shards").glob("*.parquet"))
    assert [len(pq.read_table(file)) for file in files] == [7, 6]
    table = pq.read_table(files[0])
    assert table.schema.field("embedding").type.value_type == "halffloat"
    assert table["key"].to_pylist() == [f"00000{n:04d}" for n in range(7)]
    eval_table = pq.read_table(next((made / "out/eval").glob("set-*.parquet")))
    assert len(eval_table) == 3 * len(VIEWS), "the broken image is left out"
    rows = pq.read_table(made / "out/neighbours.parquet").to_pylist()
    first = {row["example_id"]: row for row in rows if row["rank"] == 1}
    assert first["a/3.jpg"]["key"] == "000000003" and first["a/8.jpg"]["key"] == "000010001"
    assert first["a/3.jpg"]["shard"].endswith("00000.tar")
    assert {row["rank"] for row in rows} == {1, 2, 3}
    black = "000010005"
    assert black not in {row["key"] for row in rows}, "a frame without detail is nobody's neighbour"
    # The bias is the images' own: of the whole similarity of a copy with itself only the biases are missing.
    assert 0 < first["a/3.jpg"]["similarity"] < 1


def test_descriptors_equal_those_of_the_detector(made):
    assert embed(made) == 0
    table = pq.read_table(sorted((made / "out/shards").glob("*.parquet"))[0])
    detector = detector_file.read(str(made / "detector.safetensors"))
    stored = np.array(table["embedding"].to_pylist(), np.float32)
    thumb = squeeze(_decoded(scene(2)), 32)[None]
    assert np.allclose(stored[2], detector.embed(thumb)[0], atol=2e-3)
    assert table["bias"][2].as_py() == pytest.approx(
        float(detector.biases(detector.embed(thumb))[0]), abs=1e-4
    )


def _decoded(rgb: np.ndarray) -> np.ndarray:
    from dedup.decode_images import decode_jpeg

    found = decode_jpeg(jpeg(rgb))
    assert found is not None
    return found


def test_only_new_shards_are_described(made, tmp_path):
    shards, out = tmp_path / "shards", tmp_path / "out"
    shards.mkdir()
    given = ("--run", str(shards / "*.tar"), "--out", str(out))
    shutil.copy2(made / "run/shards/00000.tar", shards)
    assert embed(made, *given) == 0
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*.parquet")}
    shutil.copy2(made / "run/shards/00001.tar", shards)
    assert embed(made, *given) == 0
    changed = {file.name for file, when in before.items() if file.stat().st_mtime_ns != when}
    assert changed == {"neighbours.parquet"} and len([*(out / "shards").iterdir()]) == 2
    found = pq.read_table(out / "neighbours.parquet")
    assert {Path(shard).name for shard in found["shard"].to_pylist()} == {"00000.tar", "00001.tar"}


def test_a_set_in_pieces_has_the_same_neighbours(made, tmp_path, monkeypatch):
    assert embed(made) == 0
    monkeypatch.setattr("dedup.detector.embed.VIEWS_AT_ONCE", 3 * len(VIEWS))
    assert embed(made, "--out", str(tmp_path / "pieces")) == 0
    assert len([*(tmp_path / "pieces/eval").iterdir()]) == 2
    found, wanted = (
        pq.read_table(root / "neighbours.parquet") for root in (tmp_path / "pieces", made / "out")
    )
    assert found.drop(["similarity"]).equals(wanted.drop(["similarity"]))
    assert np.allclose(found["similarity"], wanted["similarity"], atol=1e-6)


def test_a_beam_runner_writes_the_same_files(made, tmp_path):
    assert embed(made) == 0
    assert embed(made, "--out", str(tmp_path / "beam"), "--runner=FnApiRunner") == 0
    found, wanted = (
        {path.relative_to(root): path.read_bytes() for path in root.glob("[!w]*/*.parquet")}
        | {"neighbours": (root / "neighbours.parquet").read_bytes()}
        for root in (tmp_path / "beam", made / "out")
    )
    assert found == wanted and len(found) == 4


def test_a_killed_run_goes_on_and_leaves_the_same_bytes(made, tmp_path):
    pictures = [scene(n) for n in range(10)]
    shards = [
        [sample(f"{shard:05d}{n:04d}", pictures[n % 10], f"https://a.test/{shard}/{n}.jpg", "")
         for n in range(120)]
        for shard in range(6)
    ]  # fmt: skip
    write_run(tmp_path / "run", shards)
    command = [
        "embed", "--detector", str(made / "detector.safetensors"), "--run", str(tmp_path / "run"),
        "--eval", f"set={made}/eval", "--workers", "1",
    ]  # fmt: skip
    assert main([*command, "--out", str(tmp_path / "whole")]) == 0
    killed = tmp_path / "killed"
    with subprocess.Popen(
        [sys.executable, "-m", "dedup.detector", *command, "--out", str(killed)],
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[1],
    ) as process:
        while not list(killed.glob("work/described-*/0*.json")) and process.poll() is None:
            time.sleep(0.002)
        process.kill()
    assert process.returncode == -signal.SIGKILL, "killed while it described"
    done = [path.stem for path in killed.glob("work/described-*/0*.json")]
    before = {name: (killed / f"shards/{name}.parquet").stat().st_mtime_ns for name in done}
    assert 0 < len(before) < 6
    assert main([*command, "--out", str(killed)]) == 0
    after = {file.stem: file.stat().st_mtime_ns for file in (killed / "shards").glob("*.parquet")}
    assert len(after) == 6 and {name: after[name] for name in before} == before, "what was done was kept"
    whole = {file.relative_to(tmp_path / "whole"): file.read_bytes()
             for file in (tmp_path / "whole").rglob("*.parquet")}  # fmt: skip
    assert whole == {file.relative_to(killed): file.read_bytes() for file in killed.rglob("*.parquet")}


def test_check_writes_nothing(made, tmp_path, capsys):
    assert embed(made, "--out", str(tmp_path / "none"), "--check") == 0
    assert not (tmp_path / "none").exists()
    assert "neighbours = 3" in capsys.readouterr().out


def test_a_missing_detector_is_a_usage_error(made, capsys):
    with pytest.raises(SystemExit) as stopped:
        embed(made, "--detector", str(made / "nowhere"))
    assert stopped.value.code == 2
    assert "openwit detector train" in capsys.readouterr().err
