"""Cut CSV and TSV files into records, and records into fields, as the csv module, pandas and Arrow do.

CSV (RFC 4180): a quote opens a field only at its start; within, a doubled quote is a quote and line ends are
text; characters after the closing quote are text again. TSV is written with quotes (csv, pandas,
spreadsheets) and without (CC12M, whose captions hold stray quotes), so there a quote counts only where it
encloses a whole field, and goes over line ends only where the lines it takes in are not rows on their own.
"""

import re
from collections import deque
from collections.abc import Iterator
from typing import Final, NamedTuple

from pipeline.foreign_text import MAX_LINE, Line, Lines

_INNER: Final = re.compile(rb'(?:[^"]|"")*+')
_CSV_FIELD: Final = re.compile(r'"((?:[^"]|"")*+)"?([^,]*)|([^,]*)')
_TSV_FIELD: Final = re.compile(r'"((?:[^"]|"")*+)"(?=\t|\Z)|([^\t]*)')

TOO_LONG: Final = "more than 1 MiB"
UNCLOSED: Final = "a quote opens a field and never closes"


class Record(NamedTuple):
    """A record with its line end; where it could not be read `data` is None and `problem` says why."""

    offset: int
    number: int
    """Of its first line."""
    data: bytes | None
    problem: str = ""


def records(lines: Lines, format: str, columns: int = 0) -> Iterator[Record]:
    """Yield the records of a csv or tsv file, except blank ones; `columns`: of its first record, if known."""
    return _csv_records(lines) if format == "csv" else _tsv_records(lines, columns)


def fields(record: Record, format: str) -> list[str] | str:
    """Return the fields of a record, or why it has none."""
    if record.data is None:
        return record.problem
    try:
        text = record.data.decode()
    except UnicodeDecodeError:
        return "not UTF-8"
    text = text.removesuffix("\n").removesuffix("\r")
    return _csv_fields(text) if format == "csv" else _tsv_fields(text)


def plain_fields(record: Record) -> list[str]:
    """Return the fields of a TSV record whose quotes enclose nothing."""
    text = (record.data or b"").decode().removesuffix("\n").removesuffix("\r")
    return [_unquoted(field) for field in text.split("\t")]


def _csv_records(lines: Lines) -> Iterator[Record]:
    while True:
        lines.skip_blank()
        line = lines.read()
        if line is None:
            return
        if line.data is None:
            yield Record(line.offset, line.number, None, TOO_LONG)
        elif line.data.strip(b" \t\r\n"):
            yield _csv_record(line, line.data, lines)


def _csv_record(line: Line, data: bytes, lines: Lines) -> Record:
    if b'"' not in data or not _csv_open(data, is_open=False):
        return Record(line.offset, line.number, data)
    parts, size = [data], len(data)
    while True:
        more = lines.read()
        if more is None:
            return Record(line.offset, line.number, None, UNCLOSED)
        size += len(more.data or b"")
        if more.data is None or size > MAX_LINE:
            return Record(line.offset, line.number, None, f"{TOO_LONG} after a quote: is it left open?")
        parts.append(more.data)
        if b'"' in more.data and not _csv_open(more.data, is_open=True):
            return Record(line.offset, line.number, b"".join(parts))


def _csv_open(data: bytes, *, is_open: bool) -> bool:
    """Return whether a quoted field goes on after a line, on which one was open or not."""
    at = 0
    if not is_open and data.startswith(b'"'):
        at, is_open = 1, True
    while True:
        if is_open:
            at = _end(_INNER, data, at)
            if at >= len(data):
                return True
        at = data.find(b',"', at) + 2
        if at < 2:
            return False
        is_open = True


def _end(pattern: re.Pattern[bytes], data: bytes, at: int) -> int:
    found = pattern.match(data, at)
    assert found is not None  # the pattern matches nothing, too
    return found.end()


def _csv_fields(text: str) -> list[str]:
    if '"' not in text:
        return text.split(",")
    found: list[str] = []
    at = 0
    while True:
        match = _CSV_FIELD.match(text, at)
        assert match is not None  # it matches nothing, too
        quoted, rest, plain = match.groups()
        found.append(plain if quoted is None else quoted.replace('""', '"') + rest)
        at = match.end()
        if at >= len(text):
            return found
        at += 1


def _tsv_records(lines: Lines, columns: int) -> Iterator[Record]:
    ahead: deque[Line] = deque()
    while True:
        if not ahead:
            lines.skip_blank(tabs=False)
        line = ahead.popleft() if ahead else lines.read()
        if line is None:
            return
        if line.data is None:
            yield Record(line.offset, line.number, None, TOO_LONG)
            continue
        if not line.data.strip(b" \r\n"):
            continue
        record = Record(line.offset, line.number, line.data)
        if b'"' in line.data and _tsv_open(line.data, 0):
            record = _tsv_record(line, line.data, lines, ahead, columns or line.data.count(b"\t") + 1)
        if not columns:
            first = fields(record, "tsv")
            columns = len(first) if isinstance(first, list) else 1
        yield record


def _tsv_record(first: Line, data: bytes, lines: Lines, ahead: deque[Line], columns: int) -> Record:
    """Return a record over several lines, or the first line alone and put the others back."""
    held: list[Line] = []
    alone = Record(first.offset, first.number, data)
    size = len(data)
    is_open = True
    while is_open:
        more = ahead.popleft() if ahead else lines.read()
        if more is None:
            break
        held.append(more)
        size += len(more.data or b"")
        if more.data is None or size > MAX_LINE:
            break
        if more.data.count(b"\t") == columns - 1 and b"://" in more.data:
            break  # a row: the quote was stray
        if b'"' in more.data:
            at = _end(_INNER, more.data, 0)
            if at < len(more.data):
                if not _closes(more.data, at):
                    break
                is_open = _tsv_open(more.data, at + 1)
    else:
        record = alone._replace(data=data + b"".join(line.data or b"" for line in held))
        found = fields(record, "tsv")
        if isinstance(found, list) and len(found) == columns:
            return record
    ahead.extendleft(reversed(held))
    return alone


def _closes(data: bytes, at: int) -> bool:
    """Return whether the quote at `at` ends a field."""
    return data[at + 1 : at + 2] in (b"\t", b"\n", b"") or data[at + 1 : at + 3] == b"\r\n"


def _tsv_open(data: bytes, at: int) -> bool:
    """Return whether a field that begins with a quote, at `at` or later, goes on after the line."""
    start = 0 if at == 0 and data.startswith(b'"') else data.find(b'\t"', at) + 1 or -1
    while start >= 0:
        end = _end(_INNER, data, start + 1)
        if end >= len(data):
            return True
        at = end + 1 if _closes(data, end) else start + 1
        start = data.find(b'\t"', at) + 1 or -1
    return False


def _tsv_fields(text: str) -> list[str]:
    if '"' not in text:
        return text.split("\t")
    found: list[str] = []
    at = 0
    while True:
        match = _TSV_FIELD.match(text, at)
        assert match is not None  # it matches nothing, too
        quoted, plain = match.groups()
        found.append(plain if quoted is None else quoted.replace('""', '"'))
        at = match.end()
        if at >= len(text):
            return found
        at += 1


def _unquoted(field: str) -> str:
    """Undo the quotes around a field; others are part of the text."""
    inner = field[1:-1]
    if len(field) >= 2 and field[0] == field[-1] == '"' and '"' not in inner.replace('""', ""):
        return inner.replace('""', '"')
    return field
