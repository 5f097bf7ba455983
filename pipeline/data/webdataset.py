"""Read anybody's WebDataset: tar archives whose consecutive members share a name up to the first dot.

openwit's own shards have a stricter and faster reader, `pipeline.shards`. This reader takes all that writers
of the field produce (directories, PAX and GNU long names) and only ever returns bytes of regular files:
nothing is extracted, followed or unpickled.
"""

import bz2
import gzip
import io
import lzma
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import IO, Any, Final, NamedTuple

from pipeline import tarwalk
from pipeline.images.headers import SUFFIXES
from pipeline.patterns import is_hidden
from pipeline.tarwalk import FREE, RATIO

IMAGE_SUFFIXES: Final = SUFFIXES
"""Suffixes of members, and of files in folders, that are taken for images; the content decides."""
MAX_MEMBER: Final = 64 << 20
"""Most bytes of a member that is read, far above any sample: a bound on memory."""
_CHUNK: Final = 1 << 20
_PACKED: Final[dict[bytes, Callable[[Any], Any]]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file), b"BZh": bz2.BZ2File, b"\xfd7zXZ\0": lzma.LZMAFile,
}  # fmt: skip
_WANTED: Final = frozenset((*IMAGE_SUFFIXES, "json", "txt", "cls"))


class WebDatasetSample(NamedTuple):
    """The members of one key, by suffix."""

    key: str
    parts: dict[str, bytes]

    @property
    def image(self) -> bytes | None:
        """Return the bytes of the first image member, or None."""
        return next((self.parts[suffix] for suffix in IMAGE_SUFFIXES if suffix in self.parts), None)


def read(file: IO[bytes], bad: Counter[str] | None = None) -> Iterator[WebDatasetSample]:
    """Yield samples from a stream of bytes, without seeking; ValueError if the archive is cut or broken.

    It may be compressed as .gz, .bz2 or .xz. Counted in `bad` and left out: `not_a_file`, `too_large`,
    `duplicate` (a member twice), `hidden` (below __MACOSX or a name that begins with "."), `second_dot` (a
    picture called 1.v2.jpg: of the sample 1, whose picture would be 1.jpg). Members with other suffixes that
    openwit has no use for are skipped.
    """
    bad = Counter() if bad is None else bad
    key, parts = "", dict[str, bytes]()
    stream = _Stream(file)
    try:
        for member in tarwalk.members(stream):
            content, sample = _content(stream, member, bad), split_name(member.name)
            if not member.is_file or is_hidden(member.name):
                continue
            if sample.key != key:
                if parts:
                    yield WebDatasetSample(key, parts)
                key, parts = sample.key, {}
            if content is not None and sample.suffix in parts:
                bad["duplicate"] += 1
            elif content is not None:
                parts[sample.suffix] = content
    except tarwalk.UnendedError:
        pass  # some writers leave the end out, and every member is whole
    except (EOFError, OSError, zlib.error, lzma.LZMAError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk or the network
        raise ValueError(f"not a whole tar archive ({error})") from error
    if parts:
        yield WebDatasetSample(key, parts)


def _content(stream: "_Stream", member: tarwalk.Member, bad: Counter[str]) -> bytes | None:
    """Return the content of a wanted member, having passed over it; None for any other."""
    is_wanted = member.is_file and split_name(member.name).suffix in _WANTED
    if not member.is_file:
        bad["not_a_file"] += not member.is_folder
    elif is_wanted and is_hidden(member.name):
        bad["hidden"] += 1
    elif is_wanted and member.size > MAX_MEMBER:
        bad["too_large"] += 1
    elif is_wanted:
        content = stream.read(member.size)
        if len(content) < member.size:
            raise ValueError("the archive is cut")
        return content
    elif _is_image(member.name) and not is_hidden(member.name):
        bad["second_dot"] += 1
    stream.skip(member.size)
    return None


def _is_image(name: str) -> bool:
    return name.rpartition(".")[2].lower() in IMAGE_SUFFIXES


class _Name(NamedTuple):
    key: str
    suffix: str


def split_name(name: str) -> _Name:
    """Return key and suffix as WebDataset defines them: at the first dot of the last path component."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, _, suffix = base.partition(".")
    return _Name(folder + slash + stem, suffix.lower())


class _Stream:
    """An archive that may be compressed, unpacked to no more than archives of pictures do."""

    def __init__(self, file: IO[bytes]) -> None:
        self._raw = _Counted(file)
        buffered = io.BufferedReader(self._raw, _CHUNK)
        start = buffered.peek(6)
        opens = next((opens for magic, opens in _PACKED.items() if start.startswith(magic)), None)
        self._file: IO[bytes] = buffered if opens is None else opens(buffered)
        self._given = 0

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._given += len(data)
        if self._given > FREE + RATIO * self._raw.count:
            raise ValueError(f"it unpacks to more than {self._given / 1e9:,.1f} GB")
        return data

    def skip(self, size: int) -> None:
        while size:
            passed = len(self.read(min(size, _CHUNK)))
            if not passed:
                raise ValueError("the archive is cut")
            size -= passed


class _Counted(io.RawIOBase):
    """Count the bytes that are read of a file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.count = file, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self.count += len(data)
        return len(data)
