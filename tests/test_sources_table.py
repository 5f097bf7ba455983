"""URL lists: the usual column names, every format read back, bad rows counted, and any cut exact."""

import csv
import datetime
import gzip
import io
import json
import random
import tracemalloc
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.foreign_text import MAX_LINE
from pipeline.reasons import REASONS
from pipeline.sources import Image, SourceOptions, plan, read
from pipeline.sources.columns import find_columns

U = "http://example.com/"
ROWS = [(f"{U}1.jpg", "one"), (f"{U}2.jpg", 'two, with "quotes"'), (f"{U}3.jpg", "línea")]


def load(path: Path, **options: object) -> list[Image]:
    chosen = SourceOptions(**options)  # type: ignore[arg-type]
    return [image for piece in plan([str(path)], chosen) for image in read(piece, chosen)]


def pairs(images: list[Image]) -> list[tuple[str, str]]:
    return [(i.url, " | ".join(text for _, text in i.texts)) for i in images]


def write_parquet(path: Path, rows: list[tuple[str, str]]) -> None:
    pq.write_table(pa.table({"url": [r[0] for r in rows], "caption": [r[1] for r in rows]}), path)


def csv_bytes(rows: list[tuple[str, str]], delimiter: str = ",", header: bool = True) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter)
    writer.writerows(([("url", "caption")] if header else []) + rows)
    return out.getvalue().encode()


def jsonl_bytes(rows: list[tuple[str, str]]) -> bytes:
    return b"".join(json.dumps({"url": u, "caption": c}).encode() + b"\n" for u, c in rows)


@pytest.mark.parametrize(
    ("names", "url", "caption"),
    [
        (["URL", "TEXT", "similarity"], "URL", "TEXT"),  # LAION
        (["uid", "url", "text", "original_width"], "url", "text"),  # DataComp
        (["id", "url", "text", "width"], "url", "text"),  # COYO
        (["url", "caption", "key", "status"], "url", "caption"),  # img2dataset
        (
            ["page_url", "image_url", "caption_reference_description"],
            "image_url",
            "caption_reference_description",
        ),
        (["Image URL", "Alt-Text"], "Image URL", "Alt-Text"),
        (["title", "url", "ALTTEXT"], "url", "ALTTEXT"),  # a caption before a title
    ],
)
def test_the_usual_columns_are_found(names: list[str], url: str, caption: str) -> None:
    assert find_columns(names, SourceOptions())[:2] == (url, caption)


def test_named_columns_win_and_unknown_ones_are_an_error_that_lists_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"url": "x", "caption": "y", "link": U + "l.jpg", "name": "n"}) + "\n")
    assert pairs(load(path, url_col="link", caption_col="name")) == [(U + "l.jpg", "n")]
    for options in ({"url_col": "nope"}, {"caption_col": "nope"}, {"keep_columns": ("nope",)}):
        with pytest.raises(ValueError, match=r"'nope'.*'url', 'caption', 'link', 'name'"):
            load(path, **options)
    path.write_text('{"href": 1, "b": 2}\n')
    with pytest.raises(ValueError, match=r"'href', 'b'.*--url-col"):
        load(path)
    path.write_text('{"url": 1, "b": 2}\n')
    with pytest.raises(ValueError, match=r"'url', 'b'.*--caption-col"):
        load(path)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.csv", csv_bytes(ROWS)),
        ("a.csv", b"\xef\xbb\xbf" + csv_bytes(ROWS).rstrip()),  # byte-order mark, no last line end
        ("a.csv", csv_bytes(ROWS, header=False)),
        ("a.tsv", csv_bytes(ROWS, "\t")),
        ("a.tsv", csv_bytes(ROWS, "\t", header=False)),  # CC12M
        ("a.tsv", "".join(f"{c}\t{u}\n" for u, c in ROWS).encode()),  # CC3M
        ("a.jsonl", jsonl_bytes(ROWS)),
        ("a.ndjson", b"\n".join(jsonl_bytes(ROWS).splitlines()) + b"\r\n\n"),
    ],
)
@pytest.mark.parametrize(
    ("ending", "compress"), [("", bytes), (".gz", gzip.compress), (".zst", zstandard.compress)]
)
def test_text_formats_are_read_back(
    tmp_path: Path, name: str, data: bytes, ending: str, compress: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / (name + ending)
    path.write_bytes(compress(data))
    assert pairs(load(path)) == ROWS


def test_parquet_is_read_back_with_its_types(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    when = datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC)
    table = {
        "URL": [U + "1.jpg", U + "2.jpg", None],
        "TEXT": [["one", "uno", None, " "], [], None],
        "when": [when, None, None],
        "price": [Decimal("1.50"), None, None],
        "score": [0.5, float("nan"), None],
        "raw": [b"\xffa", None, None],
        "box": [{"x": [1, 2]}, None, None],
    }
    pq.write_table(pa.table(table), path)
    kept = ("when", "price", "score", "raw", "box")
    first, second, third = load(path, keep_columns=kept)
    assert first.texts == (("caption", "one"), ("caption", "uno"))
    assert json.loads(json.dumps(first.extra)) == {
        "when": "2024-01-02 00:00:00+00:00",
        "price": "1.50",
        "score": 0.5,
        "raw": "\ufffda",
        "box": {"x": [1, 2]},
    }
    assert (second.texts, second.reason, second.extra) == ((), None, dict.fromkeys(kept))
    assert (third.reason, third.texts) == ("bad_url", ())


def test_bad_rows_are_counted_with_their_line_and_end_nothing(tmp_path: Path) -> None:
    good = json.dumps({"url": U + "1.jpg", "caption": "one"}).encode()
    bad = [b"{", b"[1]", b"\xff\xfe", b'{"url": "' + b"x" * MAX_LINE + b'"}', b'{"other": 1}', b"[" * 100_000]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([good, *(line for b in bad for line in (b, good))]))
    images = load(path)
    assert [i.reason for i in images] == [None, *["bad_record", None] * len(bad)]
    assert "line 2" in images[1].detail and "1 MiB" in images[1].detail
    assert "'other'" in images[9].detail

    path = tmp_path / "a.csv"
    path.write_bytes(b'url,caption\n%s,one\nx\n%s,\xff\n\n%s,"a""b"\n"open' % ((U.encode() + b"1.jpg",) * 3))
    images = load(path)
    assert [i.reason for i in images] == [None, "bad_record", "bad_record", None, "bad_record"]
    assert "line 3: 1 fields instead of 2" in images[1].detail
    assert images[3].texts == (("caption", 'a"b'),)


def test_a_lone_surrogate_becomes_the_replacement_character(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"url": "{U}\\ud800.jpg", "caption": "c\\ud83d", "k": ["\\udc00"]}}\n')
    (image,) = load(path, keep_columns=("k",))
    assert image == Image(U + "%EF%BF%BD.jpg", (("caption", "c\ufffd"),), "", {"k": ["\ufffd"]})


def test_tsv_quotes_are_text_unless_they_enclose_the_field(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text(f'url\tcaption\n{U}1\t"a" and "b"\n{U}2\t5" pipe\n{U}3\t"say ""hi"""\n')
    assert [c for _, c in pairs(load(path))] == ['"a" and "b"', '5" pipe', 'say "hi"']


def test_a_truncated_file_ends_in_one_bad_record(tmp_path: Path) -> None:
    rows = [(f"{U}{i}.jpg", f"caption {i * 7919 % 1000}") for i in range(2000)]
    whole = gzip.compress(jsonl_bytes(rows))
    path = tmp_path / "a.jsonl.gz"
    for size in (len(whole) - 4, len(whole) // 2):
        path.write_bytes(whole[:size])
        images = load(path)
        assert [i.reason for i in images].count("bad_record") == 1
        assert images[-1].reason == "bad_record" and "ends early" in images[-1].detail
        assert pairs(images[:-1]) == rows[: len(images) - 1]
    path.write_bytes(whole[:5000] + b"xxxxxxxx" + whole[5008:])
    assert load(path)[-1].reason == "bad_record"


def test_a_damaged_row_group_leaves_the_others(tmp_path: Path) -> None:
    rows = [(f"{U}{i}.jpg", f"caption {i}") for i in range(30)]
    path = tmp_path / "a.parquet"
    table = pa.table({"url": [r[0] for r in rows], "caption": [r[1] for r in rows]})
    pq.write_table(table, path, row_group_size=10, compression="zstd", use_dictionary=False)
    offset = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[offset : offset + 40] = b"\xff" * 40
    path.write_bytes(data)
    images = load(path)
    assert pairs([i for i in images if i.reason is None]) == rows[:10] + rows[20:]
    assert [i.detail[:11] for i in images if i.reason] == ["row group 1"]


def test_a_huge_row_group_is_not_held_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    noise = random.Random(0)
    urls = [f"{U}{noise.randbytes(400).hex()}.jpg" for _ in range(60_000)]
    pq.write_table(
        pa.table({"url": urls, "caption": urls}), path, 10**6, compression="none", use_dictionary=False
    )
    assert path.stat().st_size > 90 << 20 and pq.ParquetFile(path).num_row_groups == 1
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()
    tracemalloc.start()
    try:
        (piece,) = plan([str(path)], SourceOptions(piece_bytes=1 << 40))
        found = sum(1 for image in read(piece, SourceOptions()) if image.reason is None)
        held = tracemalloc.get_traced_memory()[1] + pool.bytes_allocated() - before
    finally:
        tracemalloc.stop()
    assert found == len(urls)
    assert held < 48 << 20


def test_what_a_list_should_not_hold(tmp_path: Path) -> None:
    """Blank lines, NUL, another encoding, and a small file that unpacks to a long line."""
    path = tmp_path / "a.tsv"
    path.write_bytes(f"url\tcaption\n\n   \n{U}1\ta\x00b\n{U}\x002\tc\n{U}3\td\n".encode())
    assert [(i.url, i.reason) for i in load(path)] == [
        (f"{U}1", None), (f"{U}%002", None), (f"{U}3", None),
    ]  # fmt: skip
    path = tmp_path / "utf16.csv"
    path.write_bytes(csv_bytes(ROWS).decode().encode("utf-16"))
    assert pairs(load(path)) == ROWS
    path = tmp_path / "a.jsonl.gz"
    good = jsonl_bytes(ROWS[:1])
    path.write_bytes(gzip.compress(good + b'{"url": "' + b" " * (200 << 20) + b'"}\n' + good))
    assert path.stat().st_size < 1 << 20
    tracemalloc.start()
    try:
        assert [i.reason for i in load(path)] == [None, "bad_record", None]
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_no_parquet_and_no_text_are_errors_of_the_plan(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"not parquet")
    with pytest.raises(ValueError, match="not a parquet file"):
        plan([str(path)], SourceOptions())


MIXED = [
    *ROWS,
    (f"{U}4.jpg", 'new\nline, "quoted\r\n" and ""'),
    (f"{U}5.jpg", "\n\n"),
    (f"{U}6.jpg", "x" * 50),
    (f"{U}7.jpg", '"'),
    (f"{U}8.jpg", "last"),
]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "b.csv", "a.tsv", "a.parquet"])
def test_every_cut_reads_every_row_once(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    flat = [(u, c.replace("\n", " ").replace("\r", " ").strip() or "-") for u, c in MIXED]
    if name == "a.parquet":
        columns = {"url": [u for u, _ in MIXED], "caption": [c for _, c in MIXED]}
        pq.write_table(pa.table(columns), path, row_group_size=2)
    else:
        data = {
            "a.jsonl": jsonl_bytes(MIXED),
            "a.csv": csv_bytes(MIXED),
            "b.csv": csv_bytes(MIXED, header=False),
            "a.tsv": csv_bytes(flat, "\t"),
        }[name]
        path.write_bytes(data)
    whole = load(path)
    assert len(whole) == len(MIXED) and all(i.reason is None for i in whole)
    counts = set()
    step = 29 if name == "a.parquet" else 1  # there a file is cut at row groups, not bytes
    for size in range(1, path.stat().st_size + 2, step):
        options = SourceOptions(piece_bytes=size)
        pieces = plan([str(path)], options)
        counts.add(len(pieces))
        assert [i for piece in pieces for i in read(piece, options)] == whole
    assert len(counts) > 2


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=200)
    | st.text('url,caption"\n\r\t{}[]:http://x.y', max_size=120).map(str.encode)
    | st.text('",\n{"u:1', max_size=80).map(
        lambda t: b'url,caption\n{"url":"x","caption":"y"}\n' + t.encode()
    ),
    st.sampled_from(["csv", "tsv", "jsonl"]),
    st.integers(1, 40),
)
def test_any_bytes_are_a_list_and_cuts_agree(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, format: str, piece_bytes: int
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any.{format}"
    path.write_bytes(data)
    try:
        whole = load(path)
    except ValueError as error:
        assert any(words in str(error) for words in ("column", "nothing to read", "is damaged"))
        return
    assert all(i.reason is None or i.reason in REASONS for i in whole)
    cut = load(path, piece_bytes=piece_bytes)
    assert [i._replace(detail="") for i in cut] == [i._replace(detail="") for i in whole]


def test_a_real_list(tmp_path: Path) -> None:
    path = Path(__file__).resolve().parents[2] / "shared/data/text/img2dataset_test_10000.parquet"
    if not path.exists():
        pytest.skip("no sample data beside the checkout")
    images = load(path)
    assert len(images) == 10_000
    assert sum(i.reason is None for i in images) > 9_900
    assert {kind for i in images for kind, _ in i.texts} == {"caption"}


URLS = [f"{U}{i}.jpg" for i in range(40)]


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\n\n \t\n"], ids=["lf", "crlf", "blank"])
def test_text_is_a_list_of_urls_one_a_line(tmp_path: Path, packed: bool, end: bytes) -> None:
    path = tmp_path / ("urls.txt.gz" if packed else "urls.txt")
    data = b"\xef\xbb\xbf" + end.join(url.encode() for url in [*URLS, "no url", "ftp://a.example/x.jpg"])
    path.write_bytes(gzip.compress(data) if packed else data)
    for piece_bytes in (7, 70, 1 << 20):
        found = load(path, empty_captions=True, piece_bytes=piece_bytes)
        assert [i.url for i in found if not i.reason] == URLS
        assert [i.reason for i in found[40:]] == ["bad_url", "bad_scheme"], "every line is a row"
        assert all(i.texts == (("caption", ""),) for i in found)
    with pytest.raises(ValueError, match=r"--empty-captions.*--source-format pages.*@"):
        load(path)
    with pytest.raises(ValueError, match="no columns"):
        load(path, empty_captions=True, keep_columns=("n",))


def test_what_is_no_list_of_urls_is_told(tmp_path: Path) -> None:
    for data, says in ((b"http://a.example/b.jpg\ta cat\n", "source-format tsv"), (b"PAR1....", "Parquet")):
        (tmp_path / "a.txt").write_bytes(data)
        with pytest.raises(ValueError, match=says):
            load(tmp_path / "a.txt", empty_captions=True)
    (tmp_path / "part-0.parquet").write_bytes(b"")
    write_parquet(tmp_path / "part-0.parquet", ROWS)
    assert pairs(load(tmp_path)) == ROWS, "a .txt beside others in a folder is no list"
    (tmp_path / "a.txt").write_text("\n".join(URLS))
    assert len(load(tmp_path, source_format="txt", empty_captions=True)) == len(URLS)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_a_list_without_captions_is_taken_where_empty_ones_are(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    table = pa.table({"url": URLS, "width": list(range(40))})
    if kind == "parquet":
        pq.write_table(table, path)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    else:
        comma = "," if kind == "csv" else "\t"
        lines = ["url" + comma + "width", *(f"{u}{comma}{i}" for i, u in enumerate(URLS))]
        path.write_text("\n".join(lines))
    found = load(path, empty_captions=True, keep_columns=("width",), piece_bytes=200)
    assert [(i.url, i.texts, int(str((i.extra or {})["width"]))) for i in found] == [
        (url, (("caption", ""),), i) for i, url in enumerate(URLS)
    ]
    with pytest.raises(ValueError, match=r"no column looks like captions.*'url', 'width'.*--empty-captions"):
        load(path)


def test_a_caption_that_comes_late_in_jsonl_is_not_lost(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"url": f"{U}{i}"} for i in range(3000)]
    rows[2500]["caption"] = "a late one"
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = load(tmp_path / "a.jsonl", empty_captions=True)
    assert [text for i in found for _, text in i.texts if text] == ["a late one"]
