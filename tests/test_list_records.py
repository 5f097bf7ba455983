"""Every record of a list is a row or a counted reject, however the file is cut: counted by other readers."""

import csv
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.foreign_text import Lines
from pipeline.sources import Image, SourceOptions, delimited, plan, read

U = "http://example.com/"
NAMES = ["url", "caption", "k"]
# All line ends and separators of Unicode, the characters that the formats use, and look-alikes.
CHARACTERS = st.sampled_from(
    [*"\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\x00\ufeff\"',;\t\\{}[]:a é", "\U0001f6a2"]
)
TEXTS = st.text(CHARACTERS, max_size=12)
LINES = st.text(CHARACTERS | st.sampled_from("\n\r"), max_size=12)


def load(path: Path, options: SourceOptions) -> list[Image]:
    return [image for piece in plan([str(path)], options) for image in read(piece, options)]


def check_cuts(path: Path, count: int, kept: tuple[str, ...] = ()) -> list[Image]:
    """Return all rows, having checked their number and that no cut changes a row."""
    whole = load(path, SourceOptions(keep_columns=kept))
    assert len(whole) == count
    total = path.stat().st_size
    for size in {total // parts + 1 for parts in (2, 3, 5, 11)}:
        cut = load(path, SourceOptions(keep_columns=kept, piece_bytes=size))
        assert [i._replace(detail="") for i in cut] == [i._replace(detail="") for i in whole]
    return whole


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lists")


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(LINES, LINES), min_size=1, max_size=8), st.booleans(), st.sampled_from(["\n", "\r\n"])
)
def test_what_writers_of_csv_and_tsv_write_comes_back(
    folder: Path, rows: list[tuple[str, str]], everything: bool, end: str
) -> None:
    for format, delimiter in (("csv", ","), ("tsv", "\t")):
        out = io.StringIO(newline="")
        # The module does not quote CR where lines end in LF alone, though its reader ends a record there.
        is_all = everything or any("\r" in text for row in rows for text in row)
        quoting = csv.QUOTE_ALL if is_all else csv.QUOTE_MINIMAL
        writer = csv.writer(out, delimiter=delimiter, quoting=quoting, lineterminator=end)
        writer.writerows([NAMES, *((f"{U}{i}", caption, k) for i, (caption, k) in enumerate(rows))])
        text = out.getvalue()
        path = folder / f"written.{format}"
        path.write_bytes(text.encode())
        found = check_cuts(path, len(rows), ("k",))
        known = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))[1:]
        assert [[i.url, *(t for _, t in i.texts), i.extra and i.extra["k"]] for i in found] == [
            [url, *([caption] if caption.strip() else []), k] for url, caption, k in known
        ]


@settings(deadline=None, max_examples=300)
@given(st.text(CHARACTERS | st.sampled_from('\n,"'), max_size=60))
@example('a,27" b\nc,24" d\n')
@example('"a"b,c\n')
@example('"a""b\n"",c"\n,"\n')
def test_records_and_fields_are_those_of_the_csv_module(text: str) -> None:
    """Its records, for any text without CR, which ends a record there but is part of a text here."""
    text = text.lstrip("\ufeff")
    known = [row for row in csv.reader(io.StringIO(text, newline="")) if not is_blank(row)]
    found = list(delimited.records(Lines(io.BytesIO(text.encode())), "csv"))
    if found and found[-1].problem == delimited.UNCLOSED:  # there it is a row, here it is a reject
        known = known[: len(found) - 1]
        found = found[:-1]
    assert [row for record in found if not is_blank(row := delimited.fields(record, "csv"))] == known


def is_blank(row: list[str] | str) -> bool:
    """Return whether a row is one empty field, which a blank line is too."""
    return len(row) < 2 and not "".join(row).strip(" \t")


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=8))
def test_stray_quotes_swallow_nothing(folder: Path, rows: list[tuple[str, str]]) -> None:
    """Files of people who know no quoting: in csv a field may not begin with a quote, in tsv it may."""
    for format, delimiter in (("csv", ","), ("tsv", "\t")):
        texts = [tuple(text.replace(delimiter, " ") for text in row) for row in rows]
        if format == "csv":
            texts = [tuple("-" + text for text in row) for row in texts]
        lines = [delimiter.join(NAMES), *(delimiter.join((f"{U}{i}", *row)) for i, row in enumerate(texts))]
        path = folder / f"stray.{format}"
        path.write_bytes("\n".join(lines).encode())
        found = check_cuts(path, len(rows))
        assert [i.url for i in found] == [f"{U}{i}" for i in range(len(rows))]
        if format == "csv":
            assert [[t for _, t in i.texts] for i in found] == [[caption] for caption, _ in texts]


def test_arrow_reads_the_same_stray_quotes(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f'url,caption\n{U}1,a 27" monitor\n{U}2,"a ""red"" boat, ""blue"""\n{U}3,24" and 32"\n')
    known = pyarrow.csv.read_csv(path).to_pylist()
    assert [(i.url, i.texts[0][1]) for i in load(path, SourceOptions())] == [
        (row["url"], row["caption"]) for row in known
    ]


def test_tsv_quotes_go_over_lines_only_where_they_close(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text(
        f'url\tcaption\n{U}1\t"two\nlines, ""quoted"""\n{U}2\t"stray\n{U}3\tnot" closed"\n'
        f'{U}4\t"a\tb"\n{U}5\t"open\n'
    )
    found = load(path, SourceOptions())
    assert [(i.url, *(t for _, t in i.texts)) for i in found] == [
        (f"{U}1", 'two\nlines, "quoted"'), (f"{U}2", '"stray'), (f"{U}3", 'not" closed"'), (f"{U}4", "a\tb"),
        (f"{U}5", '"open'),
    ]  # fmt: skip


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.lists(TEXTS, max_size=3)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.dictionaries(st.sampled_from(["url", "caption", "k", "other"]), VALUES), min_size=1, max_size=8
    ),
    st.sampled_from(["\n", "\r\n", "\n\n \t\n"]),
)
def test_each_line_of_json_is_a_row_or_a_reject(
    folder: Path, rows: list[dict[str, object]], end: str
) -> None:
    rows = [{"url": U, "caption": "c", "k": 1}, *rows]
    data = end.join(json.dumps(row, ensure_ascii=False) for row in rows)
    known = [json.loads(line) for line in data.split("\n") if line.strip(" \t\r")]
    assert len(known) == len(rows)
    path = folder / "a.jsonl"
    path.write_bytes(data.encode())
    found = check_cuts(path, len(rows), ("k",))
    for image, row in zip(found, known, strict=True):
        if "url" in row:
            assert image.reason in (None, "bad_url", "bad_scheme") and image.extra is not None
            assert isinstance(row["url"], str) or image.reason == "bad_url"
        else:  # nothing in it that could be asked for
            assert image.reason == "bad_record" and "url" in image.detail


def test_an_absent_key_is_null_wherever_it_is_absent(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"url": f"{U}{i}"} for i in range(1500)]
    rows[1400] |= {"caption": "late", "licence": "cc"}
    path.write_text("\n".join(map(json.dumps, rows)))
    found = check_cuts(path, 1500, ("licence",))
    assert [i.url for i in found if i.texts] == [f"{U}1400"]
    assert [i.extra["licence"] for i in found if i.extra] == [None] * 1400 + ["cc"] + [None] * 99
    path.write_text(
        '{"url": "http://a.test/1", "title": "t"}\n{"url": "http://a.test/2", "caption": "c", "title": "t"}'
    )
    assert [[t for _, t in i.texts] for i in load(path, SourceOptions())] == [[], ["c"]]


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(st.none() | TEXTS, st.none() | TEXTS | st.just("x" * 70_000)), max_size=30),
    st.integers(1, 9),
)
def test_each_row_of_parquet_is_a_row(
    folder: Path, rows: list[tuple[str | None, str | None]], group: int
) -> None:
    path = folder / "a.parquet"
    table = pa.table(
        {
            "url": pa.array([r[0] for r in rows], pa.string()),
            "caption": pa.array([r[1] for r in rows], pa.string()),
        }
    )
    pq.write_table(table, path, row_group_size=group)
    found = check_cuts(path, len(rows))
    assert len(found) == pq.read_metadata(path).num_rows
    assert [[t for _, t in i.texts] for i in found] == [
        [caption[:10_000]] if caption and caption.strip() else [] for _, caption in rows
    ]
