"""A run as files and as Parquet: the same samples, without the dropped samples."""

import io
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

import beam_job
import openwit
from pipeline.data import evalsets
from tests import finished_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("convert") / "run"
    finished_run.build(folder, [f"a dog number {n}" for n in range(13)])
    return folder


def test_files_are_the_members_of_the_shards(run: Path, tmp_path: Path) -> None:
    argv = ["convert", str(run), "--format", "files", "--out", str(tmp_path / "files")]
    assert beam_job.main([*argv, "--check"]) == 0 and not (tmp_path / "files").exists()
    assert beam_job.main(argv) == 0
    for sample in openwit.open(str(run)).samples():
        base = tmp_path / "files" / sample.key[:5] / sample.key
        assert base.with_suffix(".jpg").read_bytes() == sample.image
        assert base.with_suffix(".txt").read_text() == sample.caption
        assert json.loads(base.with_suffix(".json").read_text())["uid"] == sample.row["uid"]
    assert len(list((tmp_path / "files").rglob("*.jpg"))) == 13
    assert pq.read_table(tmp_path / "files" / "00000.parquet")["key"].to_pylist()[9] == "000000009"
    shutil.rmtree(tmp_path / "files" / "00001")
    (tmp_path / "files" / "00001.parquet").unlink()
    before = (tmp_path / "files" / "00000.parquet").stat().st_mtime_ns
    assert beam_job.main(argv) == 0 and len(list((tmp_path / "files" / "00001").iterdir())) == 9
    assert (tmp_path / "files" / "00000.parquet").stat().st_mtime_ns == before, "what is there stays"


def test_parquet_holds_pictures_that_others_show(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "parquet"
    assert beam_job.main(["convert", str(run), "--format", "parquet", "--out", str(out)]) == 0
    table = pq.read_table(out)
    assert len(table) == 13 and table.column_names[0] == "image" and "caption" in table.column_names
    for row, sample in zip(table.to_pylist(), openwit.open(str(run)).samples(), strict=True):
        assert row["image"] == {"bytes": sample.image, "path": f"{sample.key}.jpg"}
        assert Image.open(io.BytesIO(row["image"]["bytes"])).size == (128, 96)
    described = json.loads(pq.read_schema(out / "00000.parquet").metadata[b"huggingface"])
    assert described["info"]["features"]["image"] == {"_type": "Image"}
    assert next(evalsets.read(str(out / "00000.parquet"))).caption == "a dog number 0", (
        "an evaluation set, too"
    )
