"""WARC and WAT files: one pass over their records, from any byte range, past damage."""

import contextlib
import importlib
import io
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, Final, Generic, NamedTuple, TypeVar

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from pipeline.sources.inputs import file_size
from pipeline.storage import local_path

_zlib: Any = zlib
with contextlib.suppress(ImportError):
    _zlib = importlib.import_module("isal.isal_zlib")  # the same in half the time

_GZIP: Final = b"\x1f\x8b\x08"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_RECORD: Final = b"WARC/"
_BLOCK: Final = 1 << 16
_MAX_HEADER: Final = 1 << 16
_FED: Final = 1 << 14  # bytes given to an inflater at a time: those after the member are copied back


Loaded = TypeVar("Loaded")


class Damage(NamedTuple):
    """A stretch of an archive that could not be read, by the offset where it begins or was noticed."""

    offset: int
    why: str


def body(record: WarcRecord) -> bytes:
    """Return a record's block; OSError if it is empty or shorter than the record says."""
    declared: int = record.content_length
    data: bytes = record.reader.read()
    if not data or len(data) < declared:  # a header cut short declares nothing
        raise OSError(f"{len(data)} of {declared} bytes")
    return data


def boundaries(path: str, piece_bytes: int) -> list[int]:
    """Return the byte offsets at which a local archive may be cut; [] leaves it whole.

    One gzip member per record, as the WARC standard recommends (ISO 28500, annex D): any offset will do,
    since `records` starts at the first member after it. Not compressed: at records, found by their headers.
    """
    size = file_size(path)
    if size <= piece_bytes:
        return []
    with local_path(path).open("rb") as file:
        head = file.read(len(_ZSTD))
        if head.startswith(_GZIP):
            first_end = _member_end(file, 0)
            if first_end is None or not _starts_record(file, first_end):
                return []
            return list(range(piece_bytes, size, piece_bytes))
        return _walk(file, size, piece_bytes) if head.startswith(_RECORD[:4]) else []


class Member(NamedTuple):
    """A gzip member; without data where it is damaged, cut or too large, or the file is not gzip."""

    offset: int
    data: bytes = b""


def members(file: IO[bytes], start: int, end: int, most: int) -> Iterator[Member]:
    """Yield the gzip members that start in `start` <= offset < `end` (-1: the file's end).

    It ends with the first that is not whole. `most`: bytes of a member's data beside its record's headers.
    """
    file.seek(0)
    is_gzip = file.read(len(_GZIP)) == _GZIP
    at = _next_member(file, start) if start > 0 and is_gzip else start
    if at is None:
        return
    if not is_gzip:
        yield Member(start)
        return
    file.seek(at)
    held = memoryview(file.read(_BLOCK))
    while held and (end < 0 or at < end):
        inflater, data, used = _zlib.decompressobj(31), b"", 0
        try:
            while not inflater.eof and len(data) <= most + _MAX_HEADER:
                if used == len(held):
                    held = memoryview(bytes(held) + file.read(_BLOCK))
                fed = held[used : used + _FED]
                if not fed:
                    break
                data += inflater.decompress(fed, most + 2 * _MAX_HEADER)
                used += len(fed)
        except _zlib.error:
            data = b""
        if not inflater.eof:
            yield Member(at)
            return
        used -= len(inflater.unused_data)
        yield Member(at, data)
        at += used
        held = held[used:] or memoryview(file.read(_BLOCK))


def records(
    file: IO[bytes], start: int, end: int, types: WarcRecordType, load: Callable[[WarcRecord], Loaded]
) -> Iterator[Loaded | Damage]:
    """Yield `load(record)` for each record that starts in `start` <= offset < `end` (-1: the file's end).

    `load` reads the part that it needs of the record, and may raise OSError. A stretch that cannot be read is
    one Damage; reading goes on at the next record after it. LF-only headers, which some tools write, are
    read.
    """
    file.seek(0)
    is_gzip = file.read(len(_GZIP)) == _GZIP
    at = _next_member(file, start) if start > 0 and is_gzip else start
    while at is not None and (end < 0 or at < end):
        damage: Damage | None = None
        for loaded in _run(file, at, types, load):
            if isinstance(loaded, Damage):
                damage = loaded
            elif 0 <= end <= loaded.offset:
                return
            else:
                at = loaded.offset
                yield loaded.value
        if damage is None:
            cut = _first_damaged(file, at) if end < 0 and is_gzip else None
            if cut is not None:
                yield Damage(cut, "the file ends in the middle of a record")
            return
        if not is_gzip:
            yield damage
            return
        if damage.offset < 0:
            damage = damage._replace(offset=_first_damaged(file, at) or at)
        if 0 <= end <= damage.offset and _starts_record(file, damage.offset):
            return  # the next piece will find and tell it
        yield damage
        at = _next_member(file, damage.offset + 1)


class _At(NamedTuple, Generic[Loaded]):
    offset: int
    value: Loaded


def _run(
    file: IO[bytes], start: int, types: WarcRecordType, load: Callable[[WarcRecord], Loaded]
) -> Iterator[_At[Loaded] | Damage]:
    """Yield loaded records from `start` up to the end or a Damage; offset -1: between records."""
    file.seek(start)
    where = -1
    try:
        for record in ArchiveIterator(file, record_types=types, parse_http=False, quirks_mode=True):
            where = record.stream_pos
            yield _At(where, load(record))
            where = -1
    except OSError as error:
        yield Damage(where, str(error))


def _next_member(file: IO[bytes], at: int) -> int | None:
    """Return the first offset from `at` on where a gzip member holds a record; None if there is none.

    The three magic bytes occur by chance every 16 MiB, a member that inflates to WARC/ does not.
    """
    file.seek(at)
    held = b""
    while block := file.read(_BLOCK):
        held += block
        found = held.find(_GZIP)
        while found >= 0:
            if _starts_record(file, at + found):
                return at + found
            found = held.find(_GZIP, found + 1)
        at += len(held) - 2
        held = held[-2:]
        file.seek(at + len(held))
    return None


def _starts_record(file: IO[bytes], at: int) -> bool:
    file.seek(at)
    try:
        return zlib.decompressobj(31).decompress(file.read(1024), 16).lstrip(b"\r\n").startswith(_RECORD)
    except zlib.error:
        return False


def _member_end(file: IO[bytes], at: int) -> int | None:
    """Return where the gzip member that starts at `at` ends; None if it is damaged or cut."""
    file.seek(at)
    inflater = zlib.decompressobj(31)
    try:
        while not inflater.eof:
            block = file.read(_BLOCK)
            if not block:
                return None
            at += len(block)
            inflater.decompress(block, 0)
    except zlib.error:
        return None
    return at - len(inflater.unused_data)


def _first_damaged(file: IO[bytes], start: int) -> int | None:
    """Return the start of the first gzip member from `start` on that cannot be read, None if all can."""
    size = file.seek(0, io.SEEK_END)
    at = start
    while at < size:
        end = _member_end(file, at)
        if end is None:
            return at
        at = end
    return None


def _walk(file: IO[bytes], size: int, piece_bytes: int) -> list[int]:
    """Return record starts about `piece_bytes` apart in a file that is not compressed."""
    cuts: list[int] = []
    at = last = 0
    while at < size:
        if at - last >= piece_bytes:
            cuts.append(at)
            last = at
        file.seek(at)
        header = file.read(4096)
        blank = min((i for i in (header.find(b"\r\n\r\n"), header.find(b"\n\n")) if i >= 0), default=-1)
        fields = header[: max(blank, 0)].lower()
        length = fields.partition(b"content-length:")[2].split(b"\n")[0].strip()
        if not header.startswith(_RECORD) or not length.isdigit():
            break  # the rest stays with the last piece
        at += blank + (4 if header[blank : blank + 1] == b"\r" else 2) + int(length)
        file.seek(at)
        tail = file.read(8)
        at += len(tail) - len(tail.lstrip(b"\r\n"))
    return cuts
