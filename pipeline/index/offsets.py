"""Where each sample's members lie in its tar, and files of such offsets that other readers take.

webshart reads NAME.json for NAME.tar, with offset and length of every member. Megatron-Energon reads
NAME.tar.idx: little-endian uint64, the offset of the first header of each sample, then that of the end.
"""

import contextlib
import json
import struct
from collections.abc import Iterator, Sequence
from typing import IO, Final, NamedTuple

from pipeline import storage, tarwalk
from pipeline.data.webdataset import IMAGE_SUFFIXES, split_name
from pipeline.patterns import is_hidden

_BLOCK: Final = 512


class Place(NamedTuple):
    """Where a sample's members lie in its tar, in bytes."""

    suffix: str
    offset: int
    length: int
    json_offset: int = 0
    json_length: int = 0
    text_offset: int = 0
    text_length: int = 0


class _Seekable:
    """A tar archive of which only headers are read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = file.seek(0, 2)
        self.position = file.seek(0)

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self.position += len(data)
        return data

    def skip(self, size: int) -> None:
        if self.position + size > self.size:
            raise ValueError("the archive is cut")
        self.position = self._file.seek(size, 1)


def places(file: IO[bytes]) -> Iterator[tuple[str, Place]]:
    """Yield key and place of each sample with a picture; ValueError for anything that is no plain tar
    archive."""
    stream = _Seekable(file)
    key, found = "", dict[str, tuple[int, int]]()
    try:
        for member in tarwalk.members(stream):
            name = split_name(member.name)
            if member.is_file and not is_hidden(member.name):
                if name.key != key:
                    yield from _place(key, found)
                    key, found = name.key, {}
                found.setdefault(name.suffix, (stream.position, member.size))
            stream.skip(member.size)
    except tarwalk.UnendedError:
        pass
    yield from _place(key, found)


def _place(key: str, found: dict[str, tuple[int, int]]) -> Iterator[tuple[str, Place]]:
    suffix = next((suffix for suffix in IMAGE_SUFFIXES if suffix in found), "")
    if suffix:
        nothing = (0, 0)
        yield key, Place(suffix, *found[suffix], *found.get("json", nothing), *found.get("txt", nothing))


def write_webshart(paths: Sequence[str], folder: str) -> int:
    """Write webshart's {"files": {NAME: {"offset", "length"}}} for each shard; return the files written."""
    for path in paths:
        files = dict[str, dict[str, int]]()
        with storage.open_input(path) as file:
            for key, found in places(file):
                parts = ((found.suffix, found.offset, found.length),
                         ("json", found.json_offset, found.json_length),
                         ("txt", found.text_offset, found.text_length))  # fmt: skip
                for suffix, offset, length in parts:
                    if length:
                        files[f"{key}.{suffix}"] = {"offset": offset, "length": length}
        info = storage.file_info(path)
        found_json = {"path": path.rpartition("/")[2], "filesize": info.size, "files": files}
        storage.write_bytes(
            storage.join(folder, f"{storage.stem(path)}.json"), json.dumps(found_json).encode()
        )
    return len(paths)


def write_energon(paths: Sequence[str], folder: str) -> int:
    """Write Megatron-Energon's index of each shard; return the files written."""
    for path in paths:
        with storage.open_input(path) as file:
            starts = list(_starts(_Seekable(file)))
        data = struct.pack(f"<{len(starts)}Q", *starts)
        storage.write_bytes(storage.join(folder, f"{storage.stem(path)}.tar.idx"), data)
    return len(paths)


def _starts(stream: _Seekable) -> Iterator[int]:
    """Yield the offset of the first header of each sample, then that after the last member."""
    key, end = "", 0
    with contextlib.suppress(tarwalk.UnendedError):
        for member in tarwalk.members(stream):
            name = split_name(member.name)
            if member.is_file and not is_hidden(member.name) and name.key != key:
                yield end
                key = name.key
            stream.skip(member.size)
            end = -(-stream.position // _BLOCK) * _BLOCK
    yield end
