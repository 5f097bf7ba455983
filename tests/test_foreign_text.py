"""Foreign text: packing and width by the first bytes, lines that end at LF alone, no cost for blanks."""

import bz2
import gzip
import io
import re
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from pipeline.foreign_text import DAMAGED, Lines, lines, listed, text_of, what_it_is

NOT_LINE_ENDS = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e"


def read(data: bytes) -> bytes:
    with text_of(io.BytesIO(data)) as (file, _):
        return file.read()


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress, bz2.compress])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_packing_and_width_are_known_by_the_first_bytes(
    pack: Callable[[bytes], bytes], encoding: str
) -> None:
    text = "url,caption\nhttp://a.test/1,crème \U0001f6a2 brûlée\n" * 9000
    with text_of(io.BytesIO(pack(text.encode(encoding)))) as (file, is_as_stored):
        read = Lines(file)
        found = b""
        while (line := read.read()) is not None:
            found += line.data or b""
    assert found.decode() == text
    assert is_as_stored == (pack is bytes and encoding.startswith("utf-8"))


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_what_precedes_damage_is_read_and_damage_is_told(pack: Callable[[bytes], bytes]) -> None:
    body = b"".join(b"line %d %d\n" % (i, i * 7919 % 1000) for i in range(20_000))
    for data in (pack(body)[:-4], pack(body) + b"garbage"):
        found = 0
        with pytest.raises(DAMAGED), text_of(io.BytesIO(data)) as (file, _):
            read = Lines(file)
            while (line := read.read()) is not None:
                found += len(line.data or b"")
        assert found > 0.9 * len(body)


@given(
    st.lists(
        st.text(
            st.characters(exclude_characters="\n\r", exclude_categories=["Cs"])
            | st.sampled_from(NOT_LINE_ENDS)
        )
    ),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
def test_only_line_feeds_end_a_line(texts: list[str], end: str, closed: bool) -> None:
    data = (end.join(texts) + (end if closed else "")).encode()
    read = Lines(io.BytesIO(data))
    found = []
    while (line := read.read()) is not None:
        assert line.data is not None and data[line.offset : line.offset + len(line.data)] == line.data
        found.append(line.data)
    start = 3 if data.startswith(b"\xef\xbb\xbf") else 0
    assert b"".join(found) == data[start:]
    assert all(line.endswith(b"\n") for line in found[:-1])
    assert all(line.count(b"\n") <= 1 for line in found)


def test_lines_of_small_files() -> None:
    text = f"a{NOT_LINE_ENDS}b\r\n\nc"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        assert lines(text.encode(encoding)) == [f"a{NOT_LINE_ENDS}b", "", "c"]
    assert lines(b"a\rb\r") == ["a", "b"]
    assert lines(b"") == []
    with pytest.raises(UnicodeDecodeError):
        lines(b"caf\xe9")


def test_blank_lines_cost_nothing_and_long_ones_are_not_held() -> None:
    """A gigabyte of line ends, packed into a megabyte, is passed over as fast as it is unpacked."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1) as file:
        file.write(b"first\n")
        for _ in range(64):
            file.write(b"\n" * (1 << 20))
        file.write(b" \t\r\nlast\n")
    with text_of(packed) as (text, _):
        assert list(listed(text, 100)) == [(1, "first"), (3 + (64 << 20), "last")]
    read = Lines(io.BytesIO(b"short\n" + b"x" * (3 << 20) + b"\nend"))
    found = [read.read(), read.read(), read.read(), read.read()]
    assert [line and line.data for line in found] == [b"short\n", None, b"end", None]
    assert found[1] is not None and found[1].number == 2


def test_lists_are_bounded() -> None:
    with pytest.raises(ValueError, match="line 2 is longer"):
        list(listed(io.BytesIO(b"a\n" + b"x" * (2 << 20)), 10))
    with pytest.raises(ValueError, match="more than 1 MiB"):
        list(listed(io.BytesIO(b"0123456789\n" * 200_000), 1 << 20))


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"PAR1\x15\x04", "Parquet"),
        (b"PK\x03\x04", "zip"),
        (b"<!DOCTYPE html><title>404", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"filedesc://old.arc 0.0.0.0", "ARC"),
        (b"url,caption\n", "^$"),
        (b"", "^$"),
    ],
)
def test_other_files_are_named(head: bytes, kind: str) -> None:
    assert re.search(kind, what_it_is(head))
