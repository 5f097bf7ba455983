"""Write and read shards: tar archives of samples, as WebDataset reads them, with reproducible bytes.

A sample is three members, `KEY.jpg`, `KEY.json` and `KEY.txt`, in that order. Headers are plain ustar
(POSIX.1-1988) with mode 0644, no owner and no time, byte for byte those of `tarfile` for such members, made
here because `tarfile` takes many times as long. The reader takes nothing else: no links, devices, extension
headers or other suffixes, and never unpickles. Every tar ends with two zero blocks; they tell a whole archive
from a part.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Final, NamedTuple

import orjson

BLOCK: Final = 512
_RECORD: Final = 20 * BLOCK  # tar pads archives to whole records of 20 blocks
_MAX_SIZE: Final = 8**11 - 1  # eleven octal digits
MAX_MEMBER: Final = 64 << 20
"""Most bytes of a member that the reader takes, far above any sample: a bound on memory."""
_SUFFIXES: Final = ("jpg", "json", "txt")
_KEY: Final = re.compile(r"[0-9]{1,32}")
_NAME: Final = re.compile(rf"{_KEY.pattern}\.({'|'.join(_SUFFIXES)})")
_OCTAL: Final = re.compile(rb"[0-7]+")
_FLOAT_DIGITS: Final = 6
_PADDING: Final = tuple(bytes(n) for n in range(BLOCK))
_ZERO_BLOCK: Final = bytes(BLOCK)


class ShardError(ValueError):
    """Say how an archive is cut or broken."""


class Sample(NamedTuple):
    """Hold one sample as stored; fields only."""

    key: str
    """Digits; of one length within a shard, so that their order is the order of the names."""
    jpg: bytes
    txt: str
    json: bytes


class ShardFile(NamedTuple):
    """Describe a written shard; fields only."""

    sha256: str
    bytes: int
    samples: int


def encode_json(row: Mapping[str, object]) -> bytes:
    """Return a row as JSON: keys sorted, floats to 6 significant digits, NaN and infinities as null."""
    return orjson.dumps(_rounded(row), option=orjson.OPT_SORT_KEYS)


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.{_FLOAT_DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(inner) for inner in value]
    return value


def write_shard(path: Path, samples: Iterable[Sample]) -> ShardFile:
    """Write an uncompressed tar of samples and return its SHA-256, size and count.

    Keys must be digits of one length and ascend (ValueError). The file is written in place: give a temporary
    path, as `storage.atomic_output` does, and publish it afterwards.
    """
    digest, size, count, last = hashlib.sha256(), 0, 0, ""
    with path.open("wb") as file:
        for sample in samples:
            _check_key(sample.key, last)
            block = _members(sample)
            digest.update(block)
            file.write(block)
            size, count, last = size + len(block), count + 1, sample.key
        end = bytes(2 * BLOCK + -(size + 2 * BLOCK) % _RECORD)
        digest.update(end)
        file.write(end)
    return ShardFile(digest.hexdigest(), size + len(end), count)


def _check_key(key: str, last: str) -> None:
    if not _KEY.fullmatch(key):
        raise ValueError(f"a key is 1 to 32 digits, not {key!r}")
    if last and (len(key) != len(last) or key <= last):
        raise ValueError(f"keys ascend and have one length: {key!r} cannot follow {last!r}")


def _members(sample: Sample) -> bytes:
    """Return the three members of a sample, headers and padding included."""
    parts: list[bytes] = []
    for suffix, data in (("jpg", sample.jpg), ("json", sample.json), ("txt", sample.txt.encode())):
        parts += (_header(f"{sample.key}.{suffix}".encode(), len(data)), data, _PADDING[-len(data) % BLOCK])
    return b"".join(parts)


# Of a header, around the size: mode, user and group; time; after the checksum (which counts itself as blanks)
# type, link, magic, version, names of user and group, device numbers, prefix and padding.
_BEFORE_SIZE: Final = b"0000644\0" + 2 * b"0000000\0"
_TIME: Final = b"00000000000\0"
_AFTER_CHECKSUM: Final = b"0" + bytes(100) + b"ustar\0" + b"00" + bytes(32 + 32 + 8 + 8 + 155 + 12)
_FIXED_SUM: Final = sum(_BEFORE_SIZE) + sum(_TIME) + 8 * ord(" ") + sum(_AFTER_CHECKSUM)


def _header(name: bytes, size: int) -> bytes:
    if size > _MAX_SIZE:
        raise ValueError(f"a member of {size:,} bytes does not fit a ustar archive")
    octal = b"%011o\0" % size
    checksum = b"%06o\0 " % (_FIXED_SUM + sum(name) + sum(octal))
    return b"".join((name.ljust(100, b"\0"), _BEFORE_SIZE, octal, _TIME, checksum, _AFTER_CHECKSUM))


def read_shard(file: IO[bytes], bad: Counter[str] | None = None) -> Iterator[Sample]:
    """Yield the samples of a shard from a stream of bytes (no seeking); ShardError if it is cut or broken.

    Members that are well-formed but do not belong are left out and counted in `bad`: `not_a_file` (a link, a
    device, an extension header), `bad_name` (not DIGITS.jpg, .json or .txt), `too_large` (over MAX_MEMBER),
    `bad_text` (not UTF-8), `duplicate` (a member twice) and `incomplete` (not all three members).
    """
    bad = Counter() if bad is None else bad
    key, parts = "", dict[str, bytes]()
    for name, data in _read_members(file, bad):
        member_key, suffix = name.split(".")
        if member_key != key:
            yield from _sample(key, parts, bad)
            key, parts = member_key, {}
        if suffix in parts:
            bad["duplicate"] += 1
        else:
            parts[suffix] = data
    yield from _sample(key, parts, bad)


def _sample(key: str, parts: Mapping[str, bytes], bad: Counter[str]) -> Iterator[Sample]:
    if not parts:
        return
    if len(parts) < len(_SUFFIXES):
        bad["incomplete"] += 1
        return
    try:
        text = parts["txt"].decode()
    except UnicodeDecodeError:
        bad["bad_text"] += 1
        return
    yield Sample(key, parts["jpg"], text, parts["json"])


def _read_members(file: IO[bytes], bad: Counter[str]) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each acceptable member; the rest is skipped and counted."""
    while (header := _read(file, BLOCK)) != _ZERO_BLOCK:
        name, size, kind = _parse_header(header)
        padding = -size % BLOCK
        if kind not in b"0\0":
            word = "not_a_file"
        elif not _NAME.fullmatch(name):
            word = "bad_name"
        elif size > MAX_MEMBER:
            word = "too_large"
        else:
            yield name, _read(file, size)
            _read(file, padding)
            continue
        bad[word] += 1
        for start in range(0, size + padding, MAX_MEMBER):
            _read(file, min(MAX_MEMBER, size + padding - start))
    if any(_read(file, BLOCK)):
        raise ShardError("a single zero block inside the archive")


def _parse_header(header: bytes) -> tuple[str, int, bytes]:
    """Return name, size and type flag of a member, after checking the header's checksum."""
    octal = header[124:136].strip(b" \0"), header[148:156].strip(b" \0")
    if not all(map(_OCTAL.fullmatch, octal)):
        raise ShardError("not a tar header")
    size, checksum = (int(field, 8) for field in octal)
    # Without the zeros, which are most of a header and add nothing.
    if checksum != 8 * ord(" ") + sum((header[:148] + header[156:]).translate(None, b"\0")):
        raise ShardError("the checksum of a tar header is wrong")
    prefix = b"/" if header[345:500].strip(b"\0") else b""
    return (prefix + header[:100].split(b"\0", 1)[0]).decode("latin-1"), size, header[156:157]


def _read(file: IO[bytes], size: int) -> bytes:
    """Return exactly `size` bytes, or raise ShardError."""
    data = file.read(size)
    while len(data) < size:
        more = file.read(size - len(data))
        if not more:
            raise ShardError("the archive is cut")
        data += more
    return data
