"""Walk the members of anybody's tar archive, believing no size before the bytes are there.

Header fields: POSIX.1-1988 ustar, GNU long names and large sizes, POSIX.1-2001 (pax) paths and sizes. The
standard library's reader takes the memory that the header of a long name or of pax records asks for, and
time quadratic in their number.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple, Protocol

FREE: Final = 1 << 30
"""Bytes that any archive may unpack to,"""
RATIO: Final = 50
"""and as many times its size: pictures do not compress, captions do tenfold."""
_BLOCK: Final = 512
_MAX_RECORDS: Final = 1 << 16
"""Most bytes of a long name, or of the pax records of a member."""
_DIGITS: Final = 20  # of a pax record's length


class UnendedError(ValueError):
    """All members are whole, but the blocks of zeros behind them are missing."""


class Stream(Protocol):
    """The bytes of an archive, from its start."""

    def read(self, size: int) -> bytes:
        """Return `size` bytes, fewer only at the end."""
        ...

    def skip(self, size: int) -> None:
        """Pass over `size` bytes; ValueError if there are fewer."""
        ...


class Member(NamedTuple):
    """One member; `is_file`: regular, so that its bytes are its content; `is_folder`: there is none."""

    name: str
    size: int
    is_file: bool
    is_folder: bool


def members(stream: Stream) -> Iterator[Member]:
    """Yield members, the stream standing at their content; anyone who asks for the next has passed over it.

    ValueError for a file that is no archive, or for a cut archive: `UnendedError` if it ends where a member
    could begin.
    """
    name, size = "", -1
    while True:
        header = stream.read(_BLOCK)
        if not header:
            raise UnendedError("no end-of-archive block: the archive is cut")
        if len(header) < _BLOCK:
            raise ValueError("the archive is cut")
        if header[0] == 0 and not any(header):
            return
        _check(header)
        kind, declared = header[156:157], _number(header[124:136])
        if kind in b"Lx":
            if declared > _MAX_RECORDS:
                raise ValueError(f"a name of {declared:,} bytes")
            text = stream.read(declared)
            if len(text) < declared:
                raise ValueError("the archive is cut")
            stream.skip(-declared % _BLOCK)
            if kind == b"L":
                name = text.rstrip(b"\0").decode("utf-8", "replace")
            else:
                records = _pax(text)
                name = records.get(b"path", b"").decode("utf-8", "replace") or name
                size = _decimal(records.get(b"size", b""))
        elif kind in b"gK":
            stream.skip(declared + -declared % _BLOCK)
        else:
            if kind == b"S":  # old GNU sparse: its map may go on in blocks of its own
                block, flag = header, 482
                while len(block) == _BLOCK and block[flag]:
                    block, flag = stream.read(_BLOCK), 504
            length = declared if size < 0 else size
            own = name or _name(header)
            is_folder = kind == b"5" or (kind == b"\0" and own.endswith("/"))
            is_file = kind in b"0\0" or kind == b"7"
            yield Member(own, length, is_file and not is_folder, is_folder)
            stream.skip(-length % _BLOCK)
            name, size = "", -1


def _check(header: bytes) -> None:
    """Raise ValueError unless the header's checksum holds, over bytes or, as some have it, signed ones."""
    field = header[148:156].strip(b" \0")
    fields = header[:148] + b" " * 8 + header[156:]
    total = sum(fields)
    if not field or not field.isdigit() or set(field) & set(b"89"):
        raise ValueError("not a tar header")
    if int(field, 8) not in (total, total - 256 * sum(byte > 127 for byte in fields)):
        raise ValueError("the checksum of a tar header is wrong")


def _name(header: bytes) -> str:
    name = header[:100].partition(b"\0")[0]
    if header[257:263] == b"ustar\0" and header[345]:
        name = header[345:500].partition(b"\0")[0] + b"/" + name
    return name.decode("utf-8", "replace")


def _number(field: bytes) -> int:
    if field[0] == 0x80:  # GNU and star: binary above 8 GiB
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0") or b"0"
    if not digits.isdigit() or set(digits) & set(b"89"):
        raise ValueError("not a tar header")
    return int(digits, 8)


def _decimal(digits: bytes) -> int:
    return int(digits) if digits.isdigit() and len(digits) <= _DIGITS else -1


def _pax(text: bytes) -> dict[bytes, bytes]:
    """Return pax records, each "LENGTH KEY=VALUE\\n", up to the first that is none."""
    found, position = dict[bytes, bytes](), 0
    while position < len(text):
        space = text.find(b" ", position, position + _DIGITS)
        length = _decimal(text[position:space]) if space > position else 0
        if length <= space - position:
            break
        key, _, value = text[space + 1 : position + length - 1].partition(b"=")
        found[key] = value
        position += length
    return found
