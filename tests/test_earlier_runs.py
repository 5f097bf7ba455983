"""A finished run of an earlier version is read, verified, searched, compacted, extended, taken down from.

`earlier/schema-4.tar.xz` is a crawl of three pictures by the last commit whose files under work/ had schema
4: its shards have no columns of terms, its manifest knows fewer options and signals. Left out are its two
pages of HTML, which are long.
"""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

import beam_job
import openwit
from pipeline.run_folder import SCHEMA_VERSION
from tests.crawling import samples
from tests.test_terms import ZERO, Site

pytestmark = pytest.mark.timeout(600)

CAPTIONS = {f"picture of a dog {n}" for n in range(3)}
NEW = {"licence", "licence_url", "licence_source", "creator", "copyright_notice"}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with tarfile.open(Path(__file__).parent / "earlier" / "schema-4.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)  # its command named its inputs relative to here
    return tmp_path / "run"


def test_it_is_of_an_earlier_version(run: Path) -> None:
    assert not NEW & set(pq.read_schema(run / "shards" / "00000.parquet").names)
    assert SCHEMA_VERSION > 4, "make a fixture of the version before, too, and say so above"


def test_it_is_read_verified_searched_and_compacted(run: Path, capsys: Any) -> None:
    found = openwit.open(str(run))
    assert {sample.caption for sample in found.samples()} == CAPTIONS and len(found) == 3
    assert beam_job.main(["verify", "--run", str(run)]) == 0
    assert beam_job.main(["status", "--run", str(run)]) == 0
    assert beam_job.main(["index", str(run)]) == 0
    assert beam_job.main(["compact", "--run", str(run), "--out", str(run.parent / "smaller")]) == 0
    assert {row["caption"] for row in samples(run.parent / "smaller")} == CAPTIONS
    assert beam_job.main(["verify", "--run", str(run.parent / "smaller")]) == 0
    assert beam_job.main(["summary", "--run", str(run)]) == 0
    assert (run / "report" / "eu-training-summary.html").exists()
    capsys.readouterr()


def test_it_is_extended_and_taken_down_from(run: Path, capsys: Any) -> None:
    site, pages = Site(), run.parent / "more"
    pages.mkdir()
    for name, color in (("new", "red"), ("no", "blue")):
        buffer = io.BytesIO()
        Image.new("RGB", (48, 40), color).save(buffer, "JPEG")
        site.answers[f"/{name}.jpg"] = (buffer.getvalue(), {})
    site.answers["/new.jpg"][1]["Link"] = f'<{ZERO}>; rel="license"'
    site.answers["/ai.txt"] = (b"User-Agent: *\nDisallow: /no", {})
    images = (f'<img src="{site.url}/{name}.jpg" alt="a {name} dog">' for name in ("new", "no"))
    (pages / "b.html").write_text("".join(images))
    command = ["crawl", "--extend", str(run), "--source", str(pages), "--workers", "1"]
    try:
        assert beam_job.main(command) == 0, capsys.readouterr().err
    finally:
        site.server.shutdown()
    rows = {row["caption"]: row for row in samples(run)}
    assert set(rows) == CAPTIONS | {"a new dog"}
    assert rows["a new dog"]["licence"] == "CC0-1.0" and not rows["picture of a dog 0"].get("licence")
    reasons = {
        row["url"].rpartition("/")[2]: row["reason"] for row in openwit.open(str(run)).rejected().to_pylist()
    }
    assert reasons == {"gone.jpg": "http_gone", "no.jpg": "opt_out_ai_txt"}, (
        "signals that it did not know hold"
    )
    assert beam_job.main(["verify", "--run", str(run)]) == 0
    url = rows["picture of a dog 1"]["url"]
    assert beam_job.main(["takedown", "--run", str(run), "--url", url]) == 0
    assert {row["caption"] for row in samples(run)} == set(rows) - {"picture of a dog 1"}
    assert beam_job.main(["verify", "--run", str(run)]) == 0
    assert json.loads((run / "manifest.json").read_text())["counts"]
    capsys.readouterr()


def test_one_that_was_not_finished_says_how_to_go_on(run: Path, capsys: Any) -> None:
    (run / "manifest.json").unlink()
    (run / "work" / "finish" / "done.stage").unlink()
    with pytest.raises(SystemExit) as stop:
        beam_job.main(["crawl", "--config", str(run / "config.toml"), "--out", str(run)])
    assert stop.value.code == 2 and "--restart" in capsys.readouterr().err
