"""Read text files of strangers: unpacked by their first bytes, UTF-16 as UTF-8, cut at line feeds alone.

Names mislead (a plain list is called .csv.gz, a compressed list .csv): the magic bytes decide. A line ends at
LF or CRLF, or at CR where the file has no LF at all (old spreadsheets on a Mac), but not where
`str.splitlines` sees an end, too: at U+2028, NEL, VT, FF and the separators FS, GS and RS, which captions
hold.
"""

import bz2
import codecs
import contextlib
import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Final, NamedTuple, cast

import pyarrow as pa

# Exceptions of reading a damaged or truncated compressed stream.
DAMAGED: Final = (EOFError, OSError, zlib.error)

MAX_LINE: Final = 1 << 20
"""Largest number of bytes of a line that is held; the rest of a longer line is skipped."""

_HEAD: Final = 64
_BLOCK: Final = 1 << 18
_STEP: Final = 1 << 15
_BZIP2: Final = re.compile(rb"BZh[1-9]1AY&SY")
_BOMS: Final = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before that of UTF-16, with which it begins
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_BLANK: Final = re.compile(rb"(?:[ \t\r]*+\n)++")
_BEFORE_BLANK: Final = re.compile(rb"\n(?=[ \t\r]*+\n)")
_EMPTY: Final = re.compile(rb"(?:[ \r]*+\n)++")  # a line of tabs is a row of empty fields

# The kinds of file that are no text, and the advice for each.
_KINDS: Final = (
    (b"PAR1", "a Parquet file: read it with --source-format parquet"),
    (b"PK\x03\x04", "a zip archive or an Excel sheet: unpack it, or save it as CSV"),
    (b"\xd0\xcf\x11\xe0", "an Excel sheet: save it as CSV"),
    (b"\xfd7zXZ\x00", "packed with xz: unpack it, or pack it with gzip or zstd"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive: unpack it"),
    (b"ARROW1", "an Arrow (Feather) file: save it as Parquet"),
    (b"Obj\x01", "an Avro file: save it as Parquet"),
    (b"ORC", "an ORC file: save it as Parquet"),
    (b"%PDF-", "a PDF"),
    (b"SQLite format 3\x00", "an SQLite database: save the table as Parquet or CSV"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself: run `git lfs pull`"),
    (b"WARC/", "a WARC file: read it with --source-format warc, or wat"),
    (
        b"filedesc://",
        "an ARC file, as crawlers wrote before WARC: `warcio recompress OLD.arc.gz NEW.warc.gz`",
    ),
)
_HTML: Final = re.compile(rb"\s*<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE)


def what_it_is(head: bytes) -> str:
    """Return the kind of an unpacked file by its first bytes, with advice; "" for text."""
    for magic, kind in _KINDS:
        if head.startswith(magic):
            return kind
    return "an HTML page" if _HTML.match(head) else ""


@contextlib.contextmanager
def unpacked(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """Yield a seekable file's bytes unpacked (gzip, zstd, bzip2); reading may raise one of DAMAGED."""
    file.seek(0)
    head = file.read(_HEAD)
    file.seek(0)
    if head.startswith(b"\x1f\x8b"):
        with gzip.GzipFile(fileobj=file) as plain:
            yield io.BufferedReader(_Raw(plain.read1), _BLOCK)
    elif head.startswith(b"\x28\xb5\x2f\xfd"):
        # Not zstandard's reader, to which a file that is cut short looks whole.
        stored = pa.PythonFile(_Raw(file.read), mode="r")  # which closes the file it is given
        frames = pa.CompressedInputStream(stored, "zstd")
        yield io.BufferedReader(_Raw(lambda size: bytes(frames.read(min(size, _STEP)))), _BLOCK)
    elif _BZIP2.match(head):
        with bz2.BZ2File(file) as packed:
            yield io.BufferedReader(_Raw(packed.read1), _BLOCK)
    else:
        yield file


@contextlib.contextmanager
def text_of(file: IO[bytes]) -> Iterator[tuple[IO[bytes], bool]]:
    """Yield a seekable file's bytes unpacked and as UTF-8, and whether they are so as stored.

    UTF-16 and UTF-32 are known by their byte-order mark, UTF-16 also by the zeros of its ASCII.
    """
    with unpacked(file) as plain:
        if plain is file:
            head = plain.read(_HEAD)
            plain.seek(0)
        else:
            head = cast(io.BufferedReader, plain).peek(_HEAD)[:_HEAD]
        encoding = _wide(head)
        if encoding:
            yield io.BufferedReader(_Raw(_as_utf8(plain, encoding)), _BLOCK), False
        else:
            yield plain, plain is file


def _wide(head: bytes) -> str:
    """Return the encoding of a text whose characters are two or four bytes wide, else ""."""
    for mark, encoding in _BOMS:
        if head.startswith(mark) and len(head) > len(mark):
            return encoding
    head = head[: len(head) & ~1]
    for zeros, others, encoding in (
        (head[1::2], head[::2], "utf-16-le"),
        (head[::2], head[1::2], "utf-16-be"),
    ):
        if len(head) >= 4 and not any(zeros) and all(others):
            return encoding
    return ""


class _Raw(io.RawIOBase):
    """A file of the bytes that a function returns, b"" at the end; bytes before damage precede the error."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill a part of `buffer`; 0 at the end."""
        data = self._read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _as_utf8(file: IO[bytes], encoding: str) -> Callable[[int], bytes]:
    """Return a reader of another encoding's bytes as UTF-8; invalid bytes become U+FFFD."""
    decoder = codecs.getincrementaldecoder(encoding)("replace")

    def read(size: int) -> bytes:
        while True:
            block = _some(file, max(size >> 2, 1))  # a character has at most twice the bytes in UTF-8
            data = decoder.decode(block, final=not block).encode("utf-8", "replace")
            if data or not block:
                return data

    return read


def _some(file: IO[bytes], size: int) -> bytes:
    """Read once: a buffered reader that fills its buffer would lose the bytes before damage."""
    read: Callable[[int], bytes] = getattr(file, "read1", file.read)
    return read(size)


class Line(NamedTuple):
    """A line with its end; `data` is None where it is longer than the limit."""

    offset: int
    number: int
    data: bytes | None


class Lines:
    """Read lines singly, from byte `start` of a seekable file; no more than a line is held."""

    def __init__(self, file: IO[bytes], start: int = 0, limit: int = MAX_LINE) -> None:
        self._file, self._limit = file, limit
        self._block, self._at = b"", 0
        self._is_first, self._returns = start == 0, False
        self.offset = start
        """Of the next line."""
        self.number = 1
        """Of the next line, counted from where reading began."""

    def read(self) -> Line | None:
        """Return the next line, None at the end."""
        offset, number, size = self.offset, self.number, 0
        parts: list[bytes] = []
        while self._at < len(self._block) or self._fill():
            end = self._block.find(b"\n", self._at) + 1
            stop = end or len(self._block)
            size += stop - self._at
            if size <= self._limit + 1:
                parts.append(self._block[self._at : stop])
            else:
                parts.clear()
            self._at = stop
            if end:
                break
        if not size:
            return None
        self.offset += size
        self.number += 1
        return Line(offset, number, (parts[0] if len(parts) == 1 else b"".join(parts)) if parts else None)

    def read_held(self) -> bytes:
        """Return the whole lines that are held before a blank one; b"" where the next line has to be read."""
        found = _BEFORE_BLANK.search(self._block, self._at)
        stop = (found.start() if found else self._block.rfind(b"\n", self._at)) + 1
        held = self._block[self._at : stop]
        self._at = max(self._at, stop)
        self.offset += len(held)
        self.number += held.count(b"\n")
        return held

    def skip_blank(self, *, tabs: bool = True) -> None:
        """Pass over lines of nothing but spaces and, with `tabs`, tabs; a megabyte may unpack to billions."""
        blank = _BLANK if tabs else _EMPTY
        while self._at < len(self._block) or self._fill():
            found = blank.match(self._block, self._at)
            if found is None:
                return
            self.number += self._block.count(b"\n", self._at, found.end())
            self.offset += found.end() - self._at
            self._at = found.end()

    def _fill(self) -> bool:
        self._block, self._at = _some(self._file, _BLOCK), 0
        if self._is_first:
            self._is_first = False
            self._returns = b"\r" in self._block and b"\n" not in self._block
            if self._block.startswith(codecs.BOM_UTF8):
                self._at = len(codecs.BOM_UTF8)
                self.offset += self._at
        if self._returns:
            self._block = self._block.replace(b"\r", b"\n")
        return self._at < len(self._block)

    @property
    def ends_at_returns(self) -> bool:
        """Return whether the file's lines end at CR, as far as it has been read."""
        return self._returns


def listed(file: IO[bytes], most: int) -> Iterator[tuple[int, str]]:
    """Yield (number, line) of the lines of a list that are not blank, without white space at their ends.

    `file`: as `text_of` yields it. UnicodeDecodeError for anything that is no UTF-8; ValueError for a line of
    more than 1 MiB, and for more than `most` bytes, of which blank lines are none.
    """
    read = Lines(file)
    size = 0
    while True:
        read.skip_blank()
        number, data = read.number, read.read_held()
        if not data:
            line = read.read()
            if line is None:
                return
            if line.data is None:
                raise ValueError(f"line {number} is longer than {MAX_LINE >> 20} MiB")
            data = line.data
        size += len(data)
        if size > most:
            raise ValueError(f"more than {most >> 20} MiB of text")
        for place, text in enumerate(data.decode().split("\n"), number):
            if text := text.strip():
                yield place, text


def lines(data: bytes) -> list[str]:
    """Return the lines of a small text file without their ends: UTF-8 with or without a mark, or UTF-16.

    Raises UnicodeDecodeError for anything that is not text.
    """
    with text_of(io.BytesIO(data)) as (file, _):
        text = file.read().decode("utf-8-sig")
    if "\n" not in text:
        text = text.replace("\r", "\n")
    found = [line.removesuffix("\r") for line in text.split("\n")]
    return found if found[-1] else found[:-1]
