"""The three forms of evaluation data, their example ids, and what is refused."""

import io
import tarfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dedup import evalsets, webdataset
from dedup.evalsets import Example
from pipeline.shards import Sample, write_shard


def write_tar(path: Path, members: list[tuple[str, bytes]], mode: str = "w") -> None:
    with tarfile.open(path, mode) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def test_a_folder_of_class_folders(tmp_path):
    for name in ("dog/b.JPG", "cat/x/a.png", "cat/notes.txt", "cat/été 1.webp", "top.jpg"):
        file = tmp_path / "set" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(name.encode())
    found = list(evalsets.read(str(tmp_path / "set") + "/"))
    assert [(e.example_id, e.label) for e in found] == [
        ("cat/x/a.png", "cat"),
        ("cat/été 1.webp", "cat"),
        ("dog/b.JPG", "dog"),
        ("top.jpg", ""),
    ]
    assert found[2].image == b"dog/b.JPG"


def test_a_folder_given_by_a_relative_path(tmp_path, monkeypatch):
    (tmp_path / "set/a").mkdir(parents=True)
    (tmp_path / "set/a/1.png").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    assert [e.example_id for e in evalsets.read("set")] == ["a/1.png"]
    assert [e.example_id for e in evalsets.read("./set/")] == ["a/1.png"]


def test_a_webdataset_glob(tmp_path):
    first = [
        ("s1.jpg", b"J"),
        ("s1.cls", b"3\n"),
        ("s2.png", b"P"),
        ("s2.json", b'{"label": 4, "group": "g"}'),
    ]
    write_tar(tmp_path / "test-000.tar", [*first, ("s2.txt", "a façade".encode())])
    write_tar(tmp_path / "test-001.tar", [("x/s1.webp", b"W"), ("x/s1.cls", b"dog")])
    found = list(evalsets.read(str(tmp_path / "test-*.tar")))
    assert found == [
        Example("test-000/s1", b"J", "3"),
        Example("test-000/s2", b"P", "4", "a façade", "g"),
        Example("test-001/x/s1", b"W", "dog"),
    ]


def test_a_compressed_webdataset(tmp_path):
    write_tar(tmp_path / "t.tar.gz", [("1.jpg", b"J"), ("1.cls", b"0")], "w:gz")
    assert list(evalsets.read(str(tmp_path / "t.tar.gz"))) == [Example("t/1", b"J", "0")]


def test_a_parquet_file(tmp_path):
    table = pa.table({"image": [b"A", None], "label": [7, 8], "caption": ["one", None], "group": ["g", "h"]})
    pq.write_table(table, tmp_path / "val.parquet")
    assert list(evalsets.read(str(tmp_path / "val.parquet"))) == [
        Example("val/0", b"A", "7", "one", "g"),
        Example("val/1", b"", "8", "", "h"),
    ]


def test_a_parquet_file_with_the_image_feature_of_datasets(tmp_path):
    pq.write_table(
        pa.table({"image": [{"bytes": b"A", "path": "a.jpg"}], "label": ["x"]}), tmp_path / "v.parquet"
    )
    assert list(evalsets.read(str(tmp_path / "v.parquet"))) == [Example("v/0", b"A", "x")]


def test_row_numbers_go_on_over_batches(tmp_path):
    pq.write_table(pa.table({"image": [b"A"] * 600, "label": [0] * 600}), tmp_path / "v.parquet")
    ids = [e.example_id for e in evalsets.read(str(tmp_path / "v.parquet"))]
    assert ids == [f"v/{i}" for i in range(600)]


def test_what_is_not_a_set_is_refused_with_a_reason(tmp_path):
    with pytest.raises(ValueError, match="neither a folder, nor a glob"):
        evalsets.form_of(str(tmp_path / "absent"))
    with pytest.raises(ValueError, match="no images"):
        evalsets.files_of(str(tmp_path))
    with pytest.raises(ValueError, match="no files at"):
        evalsets.files_of(str(tmp_path / "*.tar"))
    pq.write_table(pa.table({"img": [b"A"], "label": [0]}), tmp_path / "v.parquet")
    with pytest.raises(ValueError, match="no column 'image'"):
        list(evalsets.read(str(tmp_path / "v.parquet")))
    pq.write_table(pa.table({"image": ["a.jpg"], "label": [0]}), tmp_path / "w.parquet")
    with pytest.raises(ValueError, match="holds str, not bytes"):
        list(evalsets.read(str(tmp_path / "w.parquet")))


@pytest.mark.parametrize("argument", ["birdsnap", "=x", "a=", "../x=p", ".x=p", "a b=p"])
def test_names_that_could_not_be_files_are_refused(argument):
    with pytest.raises(ValueError):
        evalsets.parse(argument)


def test_names_are_unique():
    assert evalsets.parse("cifar-10.1=a=b") == ("cifar-10.1", "a=b")
    with pytest.raises(ValueError, match="x is given twice"):
        evalsets.parse_all(("x=a", "x=b"))


def test_the_reader_of_webdatasets_takes_only_files(tmp_path):
    path = tmp_path / "t.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(_directory("d"))
        link = tarfile.TarInfo("1.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        for name in ("2.jpg", "2.jpg", "2.pkl", "3" * 150 + ".jpg"):
            info = tarfile.TarInfo(name)
            info.size = 1
            archive.addfile(info, io.BytesIO(b"x"))
    bad: Counter[str] = Counter()
    with path.open("rb") as file:
        found = list(webdataset.read(file, bad))
    assert [s.key for s in found] == ["2", "3" * 150]
    assert found[0].parts == {"jpg": b"x"}
    assert bad == {"not_a_file": 1, "duplicate": 1}


def _directory(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE
    return info


def test_the_reader_of_webdatasets_says_when_an_archive_is_cut(tmp_path):
    write_tar(tmp_path / "t.tar", [("1.jpg", b"x" * 5000)])
    cut = (tmp_path / "t.tar").read_bytes()[:3000]
    with pytest.raises(ValueError, match="not a whole tar archive"):
        list(webdataset.read(io.BytesIO(cut)))
    with pytest.raises(ValueError, match="not a whole tar archive"):
        list(webdataset.read(io.BytesIO(b"no tar at all" * 100)))


def test_the_reader_of_webdatasets_reads_openwits_shards(tmp_path):
    write_shard(tmp_path / "0.tar", [Sample("00", b"J", "a dog", b"{}"), Sample("01", b"K", "a cat", b"{}")])
    with (tmp_path / "0.tar").open("rb") as file:
        found = list(webdataset.read(file))
    assert [(s.key, s.image, s.parts["txt"]) for s in found] == [
        ("00", b"J", b"a dog"),
        ("01", b"K", b"a cat"),
    ]
