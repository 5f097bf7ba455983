"""The three forms of evaluation data, their example ids, and the inputs that are refused."""

import io
import json
import math
import os
import tarfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dedup import training_set
from pipeline.data import evalsets, named_sets, webdataset
from pipeline.data.evalsets import Example
from pipeline.parquet import BoundedFile
from pipeline.shards import Sample, write_shard
from train import shard_sources
from train.cache import Cache


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


def touch(root: Path, *names: str) -> None:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(name.encode())


def test_links_are_followed_as_listed_and_never_round_in_a_circle(tmp_path):
    touch(tmp_path, "real/0.jpg", "real/deep/1.jpg", "elsewhere.png", "set/cat/0.jpg")
    (tmp_path / "set/dog").symlink_to("../real")
    (tmp_path / "set/wolf").symlink_to(tmp_path / "real")
    (tmp_path / "set/cat/2.png").symlink_to(tmp_path / "elsewhere.png")
    (tmp_path / "set/cat/up").symlink_to("..")
    (tmp_path / "real/self").symlink_to(".")
    (tmp_path / "set/cat/gone.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(tmp_path / "set/cat/pipe.jpg")
    (tmp_path / "link").symlink_to("set")
    for root in ("set", "link"):
        path = str(tmp_path / root)
        assert [(one.example_id, one.label) for one in evalsets.read(path)] == [
            ("cat/0.jpg", "cat"), ("cat/2.png", "cat"), ("dog/0.jpg", "dog"), ("dog/deep/1.jpg", "dog"),
            ("wolf/0.jpg", "wolf"), ("wolf/deep/1.jpg", "wolf"),
        ]  # fmt: skip
        assert evalsets.left_out_of(evalsets.listing(path)) == (
            "left out: 3 links to a folder that they are in, 2 links to nothing, or no files"
        )


def test_hidden_names_and_macosx_are_no_data_and_are_counted(tmp_path):
    touch(
        tmp_path / "set", "cat/0.jpg", "cat/._0.jpg", "cat/.hidden/1.jpg", ".ipynb_checkpoints/0.jpg",
        "__MACOSX/cat/._0.jpg", "cat/__MACOSX/2.png", "cat/Thumbs.db", ".DS_Store",
        "a.cat/..jpg/3.jpg", "x/4.JPEG",
    )  # fmt: skip
    listed = evalsets.listing(str(tmp_path / "set"))
    assert [evalsets.example_id_in(str(tmp_path / "set"), file) for file in listed.files] == [
        "cat/0.jpg", "x/4.JPEG",
    ]  # fmt: skip
    assert evalsets.left_out_of(listed) == (
        'left out: 2 below __MACOSX, 1 files with other suffixes, 4 images with a name that begins with "."'
    )
    # The set's own path may be hidden, and a folder may be called anything.
    touch(tmp_path / ".cache/set [1] {a}", "cat/0.jpg", "dog/1.jpg")
    path = str(tmp_path / ".cache/set [1] {a}")
    assert [one.example_id for one in evalsets.read(path)] == ["cat/0.jpg", "dog/1.jpg"]
    touch(tmp_path / "none", "cat/.0.jpg", "0.tar")
    with pytest.raises(
        ValueError, match=r"no images .*left out: 1 files.*for its shards give '.*none/\*.tar'"
    ):
        evalsets.files_of(str(tmp_path / "none"))


def test_hidden_members_of_archives_are_no_data(tmp_path, caplog):
    names = ["0.jpg", "0.cls", "._0.jpg", "__MACOSX/1.jpg", ".x/2.jpg", "./3.jpg", "./3.cls"]
    write_tar(tmp_path / "t.tar", [(name, b"0") for name in names])
    assert [one.example_id for one in evalsets.read(str(tmp_path / "t.tar"))] == ["t/0", "t/3"]
    assert "members left out: 2 hidden" in caplog.text
    write_tar(tmp_path / "._t.tar", [("9.jpg", b"x")])
    assert evalsets.files_of(str(tmp_path / "*.tar")) == [str(tmp_path / "t.tar")]
    assert "1 hidden files are left out" in caplog.text


@pytest.mark.parametrize("reader", ["eval", "overlap", "train"])
def test_braces_are_alike_everywhere_and_missing_files_are_counted(tmp_path, reader):
    for number in (0, 1, 2, 5):
        write_tar(tmp_path / f"s{number:03d}.tar", [("0.jpg", b"J"), ("0.txt", b"a cat")])

    def find(pattern: str) -> list[str]:
        path = str(tmp_path / pattern)
        if reader == "eval":
            return evalsets.files_of(path)
        if reader == "overlap":
            return training_set.find(path).shards
        cache = Cache(tmp_path / "cache")
        return [shard.path for shard in shard_sources.resolve([path], (), (), (), cache)[0].shards]

    def at(*numbers: int) -> list[str]:
        return [str(tmp_path / f"s{number:03d}.tar") for number in numbers]

    assert find("s{000..002}.tar") == at(0, 1, 2)
    assert find("{s000,s005}.tar") == at(0, 5)
    assert find(f"s{{000..001}}.tar::{tmp_path}/s005.tar") == at(0, 1, 5)
    with pytest.raises(
        ValueError, match=r"6 of the 10 files that .* names are missing, the first .*s003.tar.*s\*.tar"
    ):
        find("s{000..009}.tar")
    with pytest.raises(ValueError, match=r"1 of the 2 files"):
        find("{s,t}*.tar")
    with pytest.raises(ValueError, match=r"no files at|no .tar shards at|nothing is there"):
        find("t{000..009}.tar")
    with pytest.raises(ValueError, match="more than 1,000,000 files"):
        find("s{0..2000000}.tar")


def test_labels_are_examined(tmp_path):
    def labels(column: pa.Array) -> list[tuple[str, bool]]:
        pq.write_table(pa.table({"image": [b"A"] * len(column), "label": column}), tmp_path / "l.parquet")
        return [(one.label, one.several_classes) for one in evalsets.read(str(tmp_path / "l.parquet"))]

    assert labels(pa.array([0, -1, None, 12])) == [("0", False), ("", False), ("", False), ("12", False)]
    assert labels(pa.array([0.0, -1.0, None, 3e9, math.nan])) == [
        ("0", False), ("", False), ("", False), ("3000000000", False), ("", False),
    ]  # fmt: skip
    assert labels(pa.array([["hat", "dress"], ["hat"], [], None, ["a", "a"]])) == [
        ("hat|dress", True), ("hat", False), ("", False), ("", False), ("a", False),
    ]  # fmt: skip
    assert labels(pa.array([[1.0, 2.0]])) == [("1|2", True)]
    assert labels(pa.array([b"hat", b" "])) == [("hat", False), ("", False)]
    with pytest.raises(ValueError, match=r"l.parquet, row 1: the label 0.5 is no class"):
        labels(pa.array([1.0, 0.5]))
    with pytest.raises(ValueError, match=r"row 0: the class 'a\|b' holds"):
        labels(pa.array([["a|b", "c"]]))
    with pytest.raises(ValueError, match=r"row 0: the label is a group of fields"):
        labels(pa.array([{"name": "a"}]))
    cls = [b"3", b"-1", b"2.0", b"[0, 1]", b"\xef\xbb\xbfhat\n", b"", b"[odd"]
    write_tar(tmp_path / "t.tar", [(f"{i}.cls", data) for i, data in enumerate(cls)])
    assert [one.label for one in evalsets.read(str(tmp_path / "t.tar"))] == [
        "3", "", "2", "0|1", "hat", "", "[odd",
    ]  # fmt: skip


def features(value: object) -> dict[str, str]:
    return {"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}, "label": value}}})}


def test_names_of_numbered_classes_are_found_with_the_set(tmp_path):
    names = ["dress", "sun hat"]
    label = {"names": names, "_type": "ClassLabel"}
    path = str(tmp_path / "v.parquet")

    def named(metadata: dict[str, str]) -> tuple[str, ...]:
        table = pa.table({"image": [b"A"], "label": [1]})
        pq.write_table(table.replace_schema_metadata(metadata), path)
        return evalsets.class_names(path)

    assert named(features(label)) == ("dress", "sun hat")
    assert named(features({"feature": label, "_type": "List"})) == ("dress", "sun hat")
    assert named(features([label])) == ("dress", "sun hat")
    assert [one.label for one in evalsets.read(path)] == ["1"], "the data's own label stays"
    odd = ["{", "[]", "null", '{"info": 3}', '{"info": {"features": {"label": "x"}}}', "[" * 100_000]
    for text in odd:
        assert named({"huggingface": text}) == ()
    for value in ({"dtype": "int64", "_type": "Value"}, {"_type": "ClassLabel", "names": [1]}, []):
        assert named(features(value)) == ()
    pq.write_table(pa.table({"image": [b"A"], "label": [1]}), tmp_path / "w.parquet")
    named(features(label))
    with pytest.raises(ValueError, match="name their classes differently"):
        evalsets.class_names(str(tmp_path / "*.parquet"))

    touch(tmp_path, "wds/test/0.tar", "wds/1.tar", "far/away/2.tar", "folder/a/1.jpg")
    (tmp_path / "wds/classnames.txt").write_bytes(b"\xef\xbb\xbfdress\r\nsun hat\r\n")
    assert evalsets.class_names(str(tmp_path / "wds/test/*.tar")) == ("dress", "sun hat")
    assert evalsets.class_names(str(tmp_path / "wds/1.tar")) == ("dress", "sun hat")
    assert evalsets.class_names(str(tmp_path / "far/away/{2..2}.tar")) == ()
    assert evalsets.class_names(str(tmp_path / "folder")) == ()


def test_lines_end_as_editors_end_them(tmp_path):
    (tmp_path / "l.txt").write_bytes("\ufeffhat\r\na\u2028b\rsun\x0bhat\n\n  \nend".encode())
    assert evalsets.read_lines(str(tmp_path / "l.txt")) == ["hat", "a\u2028b", "sun\x0bhat", "end"]
    (tmp_path / "l.txt").write_bytes("hat".encode("utf-16"))
    with pytest.raises(ValueError, match=r"l.txt is not text in UTF-8"):
        evalsets.read_lines(str(tmp_path / "l.txt"))
    write_tar(tmp_path / "t.tar", [("0.jpg", b"J"), ("0.txt", "one\u2028line\r\ntwo\n".encode())])
    assert next(evalsets.read(str(tmp_path / "t.tar"))).captions == ("one\u2028line", "two")


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


def test_dots_in_the_names_of_shards_and_folders_stay_in_ids(tmp_path, caplog):
    for name, mode in (("clip.v1.tar", "w"), ("clip.v2.tar.gz", "w:gz"), ("clip.v2.TAR", "w")):
        write_tar(tmp_path / name, [("a.b/1.jpg", b"J"), ("1.v2.png", b"P"), ("1.txt", b"a hat")], mode)
    found = [one.example_id for one in evalsets.read(f"{tmp_path}/clip.v{{1.tar,2.tar.gz,2.TAR}}")]
    assert found == ["clip.v1/a.b/1", "clip.v2/a.b/1", "clip.v2/a.b/1"]
    assert "members left out: 1 second_dot" in caplog.text, "of WebDataset's sample 1 it is no picture"
    assert [one.uid for one in training_set.read(str(tmp_path / "clip.v1.tar"), False)] == ["clip.v1/a.b/1"]
    (tmp_path / "my.set").mkdir()
    (tmp_path / "my.set/1.v2.jpg").write_bytes(b"J")
    assert [one.example_id for one in evalsets.read(str(tmp_path / "my.set"))] == ["1.v2.jpg"]


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
        named_sets.parse(argument)


def test_names_are_unique():
    assert named_sets.parse("cifar-10.1=a=b") == ("cifar-10.1", "a=b")
    with pytest.raises(ValueError, match="x is given twice"):
        named_sets.parse_all(("x=a", "x=b"))


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


@pytest.mark.parametrize(
    "json", [b"[" * 100_000, b"{", b"[1]", b'{"label": ' + b"[" * 99 + b"1" + b"]" * 99 + b"}"]
)
def test_a_sample_whose_json_is_unusable_keeps_its_picture(tmp_path, caplog, json):
    write_tar(tmp_path / "s.tar", [("0.jpg", b"J"), ("0.json", json), ("0.txt", b"a cat")])
    [example] = evalsets.read(str(tmp_path / "s.tar"))
    assert (example.image, example.caption) == (b"J", "a cat")
    if b"label" not in json:
        assert "1 whose JSON is no usable row" in caplog.text


def test_labels_that_are_nested_without_end_are_text(tmp_path):
    write_tar(tmp_path / "s.tar", [("0.jpg", b"J"), ("0.cls", b"[" * 900 + b"]" * 900)])
    [example] = evalsets.read(str(tmp_path / "s.tar"))
    assert example.image == b"J"


def test_a_parquet_file_whose_rows_all_name_one_large_value_is_read_in_small_batches(tmp_path, monkeypatch):
    """400 rows of 8 MB are 3.2 GB; the file has 8 MB."""
    image = os.urandom(8 << 20)
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 400, pa.int32()), pa.array([image]))
    table = pa.table({"image": column, "label": [1] * 400})
    pq.write_table(table, tmp_path / "v.parquet", store_schema=False)
    batches = []
    real = BoundedFile.batches

    def counted(self, *args, **options):
        for batch in real(self, *args, **options):
            batches.append(batch.num_rows)
            yield batch

    monkeypatch.setattr(BoundedFile, "batches", counted)
    found = Counter(example.image == image for example in evalsets.read(str(tmp_path / "v.parquet")))
    assert found == {True: 400}
    assert max(batches) * len(image) <= 256 << 20
