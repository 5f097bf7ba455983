"""Find the samples of a WebDataset shard by walking its tar headers, without copying the members.

Members with one key, the path up to the first dot of its last component, that stand together are one sample,
as webdataset reads them. Header fields: POSIX.1-1988 ustar, GNU long names, POSIX.1-2001 (pax) paths.
"""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.patterns import is_hidden

IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp")
COLUMNS = 6  # offset and size of the image, of the text, of the JSON; size 0 where there is none

_BLOCK = 512
_MAX_NAME = 1 << 16


class TarIndex(NamedTuple):
    """Hold one row of COLUMNS int64 per sample with an image and a text, in order; and what was wrong."""

    rows: NDArray[np.int64]
    left_out: Counter[str]
    """Samples without an image (`no_image`) or with neither text nor JSON (`no_caption`), and how often a key
    comes again after others (`again`): its parts do not stand together."""
    suffixes: Counter[str]
    """Of all members, from the first dot of their names on."""
    damage: str
    """Why the walk ended early, or empty."""


class _Member(NamedTuple):
    name: str
    offset: int
    size: int


def index(buffer: memoryview) -> TarIndex:
    """Return where each sample's parts are; a damaged archive gives the samples before the damage."""
    rows: list[list[int]] = []
    left_out: Counter[str] = Counter()
    suffixes: Counter[str] = Counter()
    damage = ""
    keys: set[str] = set()
    key: str | None = None
    row = [0] * COLUMNS
    try:
        for member in _members(buffer):
            folder, slash, base = member.name.rpartition("/")
            stem, dot, suffix = base.partition(".")
            if not dot or is_hidden(member.name):
                continue
            if (folder + slash + stem) != key:
                if key is not None:
                    rows.append(row)
                key, row = folder + slash + stem, [0] * COLUMNS
                left_out["again"] += key in keys
                keys.add(key)
            suffix = suffix.lower()
            suffixes[suffix] += 1
            column = 0 if suffix in IMAGES else {"txt": 2, "json": 4}.get(suffix, -1)
            if column >= 0 and not row[column + 1]:
                row[column], row[column + 1] = member.offset, member.size
    except ValueError as error:
        damage = str(error)
    if key is not None:
        rows.append(row)
    table = np.array(rows, np.int64).reshape(-1, COLUMNS)
    pictured, told = table[:, 1] > 0, (table[:, 3] > 0) | (table[:, 5] > 0)
    left_out["no_image"] = int((~pictured).sum())
    left_out["no_caption"] = int((pictured & ~told).sum())
    return TarIndex(table[pictured & told], +left_out, suffixes, damage)


def _members(buffer: memoryview) -> Iterator[_Member]:
    """Yield regular files; ValueError where the archive is cut or no archive."""
    end, position, long_name = len(buffer), 0, ""
    while position + _BLOCK <= end:
        header = bytes(buffer[position : position + _BLOCK])
        if header[0] == 0 and not any(header):
            return
        size, kind = _size(header[124:136]), header[156:157]
        data = position + _BLOCK
        if data + size > end:
            raise ValueError(f"a member at byte {position:,} reaches past the end: the archive is cut")
        if kind in (b"L", b"x"):
            if size > _MAX_NAME:
                raise ValueError(f"a name of {size:,} bytes at byte {position:,}")
            text = bytes(buffer[data : data + size])
            long_name = text.rstrip(b"\0").decode("utf-8", "replace") if kind == b"L" else _pax_path(text)
        elif kind in (b"0", b"\0"):
            yield _Member(long_name or _name(header), data, size)
            long_name = ""
        elif kind != b"g":
            long_name = ""
        position = data + size + (-size) % _BLOCK
    raise ValueError("no end-of-archive block: the archive is cut")


def _name(header: bytes) -> str:
    name = header[:100].partition(b"\0")[0]
    if header[257:263] == b"ustar\0" and header[345]:
        name = header[345:500].partition(b"\0")[0] + b"/" + name
    return name.decode("utf-8", "replace")


def _size(field: bytes) -> int:
    if field[0] & 0x80:  # GNU and star: binary above 8 GiB
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if not digits or digits.strip(b"01234567"):
        raise ValueError("not a tar header")
    return int(digits, 8)


def _pax_path(text: bytes) -> str:
    """Return the path of a pax header's records, each "LENGTH KEY=VALUE\\n", or an empty string."""
    position = 0
    while position < len(text):
        length, space, _ = text[position:].partition(b" ")
        if not space or not length.isdigit() or not int(length):
            break
        key, _, value = text[position + len(length) + 1 : position + int(length) - 1].partition(b"=")
        if key == b"path":
            return value.decode("utf-8", "replace")
        position += int(length)
    return ""
