"""The contents of lists: cells of any type, cells of any size, folders of parts, names with brackets."""

import datetime
import decimal
import json
import resource
import uuid
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import querylist, storage
from pipeline.parquet import BATCH_BYTES, BoundedFile, cut, pages
from pipeline.sources import Image, SourceOptions, plan, read
from pipeline.sources.cells import plain, plain_column
from pipeline.sources.columns import listed

U = "http://example.com/"
FAR = 3_000_000  # days: the year 10183
COLUMNS: dict[str, tuple[pa.Array, object]] = {
    "date after 9999": (pa.array([FAR], pa.date32()), "10183-09-21"),
    "date before 1": (pa.array([-900_000_000], pa.date32()), "-2462147-09-11"),
    "timestamp far away": (pa.array([2**62], pa.timestamp("us")), "148108-07-06 14:00:27.387904"),
    "zone that is none": (pa.array([0], pa.timestamp("us", "No/Where")), "1970-01-01 00:00:00.000000"),
    "long duration": (pa.array([2**62], pa.duration("s")), "4611686018427387904 seconds"),
    "time": (pa.array([1_000_000], pa.time64("us")), "00:00:01"),
    "decimal": (pa.array([decimal.Decimal("1.50")], pa.decimal256(60, 2)), "1.50"),
    "uuid": (
        pa.ExtensionArray.from_storage(pa.uuid(), pa.array([uuid.UUID(int=1).bytes], pa.binary(16))),
        "00000000-0000-0000-0000-000000000001",
    ),
    "json": (pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a":1}'])), '{"a":1}'),
    "bool8": (pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1], pa.int8())), 1),
    "tensor": (pa.FixedShapeTensorArray.from_numpy_ndarray(np.ones((1, 2), np.float32)), [1.0, 1.0]),
    "half float": (pa.array(np.array([1.5], np.float16)), 1.5),
    "infinity": (pa.array([float("inf")]), None),
    "large integer": (pa.array([2**64 - 1], pa.uint64()), 2**64 - 1),
    "binary view": (pa.array([b"\xff"], pa.binary_view()), "\ufffd"),
    "text that is no UTF-8": (pa.array([b"\xff"]).view(pa.string()), "\ufffd"),
    "map": (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int32())), [["a", 1]]),
    "map of far dates": (
        pa.array([[("a", FAR)]], pa.map_(pa.string(), pa.int32())).cast(pa.map_(pa.string(), pa.date32())),
        [{"key": "a", "value": "10183-09-21"}],
    ),
    "struct of a far date": (
        pa.array([{"d": FAR}], pa.struct([("d", pa.int32())])).cast(pa.struct([("d", pa.date32())])),
        {"d": "10183-09-21"},
    ),
    "list of far dates": (
        pa.array([[FAR, None]], pa.list_(pa.int32())).cast(pa.list_(pa.date32())),
        ["10183-09-21", None],
    ),
    "list view": (pa.array([[1]], pa.list_view(pa.int8())), [1]),
    "dictionary": (pa.array(["x"]).dictionary_encode(), "x"),
    "union": (
        pa.UnionArray.from_sparse(pa.array([1], pa.int8()), [pa.array([1]), pa.array(["x"])]),
        "x",
    ),
    "months": (pa.array([pa.MonthDayNano([1, 2, 3])]), [1, 2, 3]),
    "runs": (pa.RunEndEncodedArray.from_arrays(pa.array([1], pa.int32()), pa.array(["x"])), "x"),
    "nothing": (pa.array([None]), None),
}


def load(path: Path | str, **options: object) -> list[Image]:
    chosen = SourceOptions(**options)  # type: ignore[arg-type]
    return [image for piece in plan([str(path)], chosen) for image in read(piece, chosen)]


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_of_any_type_is_text_or_null(name: str) -> None:
    column, value = COLUMNS[name]
    found = plain_column(cut(column, 1000, 10))
    assert found == [value]
    assert json.loads(orjson.dumps(found)) == [value]


@pytest.mark.parametrize("name", COLUMNS)
def test_what_parquet_can_hold_is_carried_along(name: str, tmp_path: Path) -> None:
    column, value = COLUMNS[name]
    path = tmp_path / "a.parquet"
    try:
        pq.write_table(pa.table({"url": [U], "caption": ["c"], "k": column}), path)
    except (pa.ArrowException, NotImplementedError):
        pytest.skip("Parquet has no such type")
    (image,) = load(path, keep_columns=("k",))
    assert (image.url, image.texts) == (U, (("caption", "c"),))
    assert image.extra is not None
    orjson.dumps(image.extra)
    if name not in ("infinity", "map of far dates"):
        assert image.extra == {"k": value} or image.extra["k"] is not None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.decimals()
    | st.dates() | st.times() | st.timedeltas() | st.uuids() | st.complex_numbers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(deadline=None)
@given(VALUES)
def test_any_value_becomes_json(value: object) -> None:
    orjson.dumps(plain(value))


def test_a_nested_cell_ends_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    deep = "[" * 900 + "]" * 900
    path.write_text(
        f'{{"url": "{U}1", "caption": "c", "k": {deep}}}\n{{"url": "{U}2", "caption": {deep}, "k": 1}}'
    )
    first, second = load(path, keep_columns=("k",))
    assert first.reason is None and orjson.dumps(first.extra)
    assert (second.url, second.texts) == (f"{U}2", ())


def test_one_value_for_many_rows_is_not_unpacked_for_each(tmp_path: Path) -> None:
    """200 rows that name one caption of 16 MB are 2 KB as stored and 3.2 GB as rows."""
    path = tmp_path / "a.parquet"
    for kind in (pa.string(), pa.binary(), pa.list_(pa.string())):
        large: object = "dog " * 4_000_000
        if kind == pa.binary():
            large = str(large).encode()
        values = pa.array([[large] if pa.types.is_list(kind) else large], kind)
        caption = values.take(pa.array([0] * 4))
        pq.write_table(pa.table({"url": [U] * 4, "caption": caption}), path, compression="zstd")
        with path.open("rb") as file:
            bounded = BoundedFile(file)
            for batch in bounded.batches(["url", "caption"], 0):
                assert batch.nbytes < BATCH_BYTES
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        images = load(path)
        assert [len(image.texts[0][1]) for image in images] == [10_000] * 4
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10


def test_large_cells_come_in_small_batches(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = [chr(65 + i) * (8 << 20) for i in range(24)]
    table = pa.table({"url": [U] * 24, "caption": texts})
    pq.write_table(table, path, compression="zstd", use_dictionary=False, write_batch_size=1)
    with path.open("rb") as file:
        bounded = BoundedFile(file)
        chunk = bounded.metadata.row_group(0).column(1)
        found = list(pages(file, chunk))
        assert sum(page.values for page in found) == 24
        assert sum(page.unpacked for page in found) <= chunk.total_uncompressed_size
        sizes = [batch.nbytes for batch in bounded.batches(["caption"], 0)]
        assert len(sizes) > 1 and max(sizes) <= BATCH_BYTES
        small = BoundedFile(file, max_page=1 << 20)
        with pytest.raises(ValueError, match="a page of the column 'caption' has"):
            list(small.batches(["caption"], 0))
    assert [len(image.texts[0][1]) for image in load(path)] == [10_000] * 24


def test_a_folder_of_parts_is_read_as_spark_writes_it(tmp_path: Path) -> None:
    folder = tmp_path / "list [v1].parquet"
    for year, name in (
        ("2023", "part-0.parquet"),
        ("2024", "part-0.parquet"),
        ("__HIVE_DEFAULT_PARTITION__", "p.parquet"),
    ):
        part = folder / f"year={year}" / name
        part.parent.mkdir(parents=True)
        pq.write_table(pa.table({"url": [U + year], "caption": ["c"]}), part)
    (folder / "_SUCCESS").touch()
    (folder / "._SUCCESS.crc").touch()
    found = load(folder, keep_columns=("year",))
    assert [image.extra for image in found] == [{"year": "2023"}, {"year": "2024"}, {"year": None}]
    (folder / "other.csv").write_text(f"url,caption\n{U},c\n")
    with pytest.raises(ValueError, match=r"several formats.*--source-format"):
        load(folder)
    assert len(load(folder, source_format="parquet")) == 3
    part = tmp_path / "json/part-0.json"
    part.parent.mkdir()
    part.write_text(f'{{"url": "{U}", "caption": "c"}}\n')
    with pytest.raises(ValueError, match="--source-format"):
        load(part.parent)
    assert len(load(part.parent, source_format="jsonl")) == 1


def test_a_path_that_exists_is_no_pattern(tmp_path: Path) -> None:
    folder = tmp_path / "in [v1]?*"
    folder.mkdir()
    path = folder / "urls[1].csv"
    path.write_text(f"url,caption\n{U}1.jpg,c\n")
    assert [image.url for image in load(path)] == [f"{U}1.jpg"]
    assert [image.url for image in load(folder)] == [f"{U}1.jpg"]
    assert storage.glob(str(path)) == [str(path)]
    (folder / "q[1].txt").write_text("a cat\n\n a dog \n")
    assert querylist.load(str(folder / "q[1].txt")) == ["a cat", "a dog"]
    pages = tmp_path / "site [v1]"
    pages.mkdir()
    (pages / "a.html").write_text("<img src=a.jpg alt=a>")
    (image,) = load(pages, base_url=U)
    assert image.page_url == f"{U}a.html"
    (tmp_path / "b1.csv").write_text(f"url,caption\n{U}2.jpg,c\n")
    assert [image.url for image in load(tmp_path / "b[12].csv")] == [f"{U}2.jpg"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b'[{"url": "x", "caption": "y"}]', r"JSON array.*jq"),
        ("a.jsonl", b'[\n{"url": "x"},\n{"url": "y"}\n]', r"JSON array|columns"),
        ("a.jsonl", b'{\n "url": "x",\n "caption": "y"\n}', r"one line.*jq"),
        ("a.csv", b"PAR1....", "--source-format parquet"),
        ("a.csv", b"PK\x03\x04xl/", "Excel"),
        ("a.tsv", b"<!doctype html><title>Not found</title>", "HTML page"),
        ("a.parquet", b"url,caption\n", "not a parquet file"),
        ("a.csv", b"url;caption\nx;y\n", "separated by ';'"),
        ("a.csv", b"url\tcaption\nx\ty\n", "--source-format tsv"),
        ("a.warc.gz", b"filedesc://x.arc 0.0.0.0 2000 text/plain 76\n", "warcio recompress"),
        ("a.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    ],
)
def test_other_files_are_told_apart(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        load(path)


def test_columns_that_hold_no_text_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    picture = pa.array([{"bytes": b"x", "path": "p"}])
    for columns, message in (
        ({"image": picture, "caption": ["c"]}, "holds pictures"),
        ({"url": [["a", "b"]], "caption": ["c"]}, "holds lists.*explode"),
        ({"url": [U], "caption": picture}, "holds pictures"),
    ):
        pq.write_table(pa.table(columns), path)
        with pytest.raises(ValueError, match=message):
            load(path)
    path = tmp_path / "a.jsonl"
    path.write_text('{"url": ["a"], "caption": "c"}\n')
    with pytest.raises(ValueError, match="holds lists"):
        load(path)
    path.write_text(f'{{"url": "{U}", "caption": "c"}}\n{{"url": {{"a": 1}}, "caption": "c"}}\n')
    assert [i.reason for i in load(path)] == [None, "bad_url"]


def test_the_first_line_may_be_too_long(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    long = '{"url": "' + "x" * (2 << 20) + '"}\n'
    path.write_text(long)
    assert [i.reason for i in load(path)] == ["bad_record"]
    path.write_text(long + f'{{"url": "{U}", "caption": "c"}}\n')
    assert [i.reason for i in load(path)] == ["bad_record", None]
    path = tmp_path / "a.csv"
    path.write_text("x" * (2 << 20) + "\n")
    with pytest.raises(ValueError, match=r"first line.*1 MiB"):
        load(path)


def test_the_columns_of_a_list_can_be_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,URL,TEXT\n")
    found = listed(str(path), "csv", SourceOptions())
    assert found is not None
    assert (found.names, found.columns.url, found.columns.caption) == (("id", "URL", "TEXT"), "URL", "TEXT")


def test_times_of_an_ordinary_kind_are_as_python_writes_them() -> None:
    when = datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC)
    assert plain_column(pa.array([when])) == ["2024-01-02 00:00:00+00:00"]


def test_batches_do_not_grow_within_a_row_group(tmp_path: Path) -> None:
    """A column that begins with a dictionary and continues without it, as most writers' columns do."""
    path = tmp_path / "a.parquet"
    table = pa.table({"url": [f"{U}{i:08d}/{'x' * 40}.jpg" for i in range(60_000)]})
    pq.write_table(table, path)
    with path.open("rb") as file:
        bounded = BoundedFile(file)
        assert bounded.metadata.num_row_groups == 1
        batches = list(bounded.batches(["url"], 0))
    assert pa.Table.from_batches(batches) == table
    assert sum(batch.nbytes for batch in batches) < 2 * table.nbytes
