"""Read anybody's WebDataset: tar archives whose consecutive members share a name up to the first dot.

openwit's own shards have a stricter and faster reader, `pipeline.shards`. This one takes what writers of the
field produce (directories, PAX and GNU long names) and only ever returns bytes of regular files: nothing is
extracted, followed or unpickled.
"""

import tarfile
from collections import Counter
from collections.abc import Iterator
from typing import IO, Final, NamedTuple

from pipeline.patterns import is_hidden

IMAGE_SUFFIXES: Final = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "ppm", "pgm")
"""Suffixes of members, and of files in folders, that are taken for images; the content decides."""
MAX_MEMBER: Final = 64 << 20
"""Most bytes of a member that is read, far above any sample: a bound on memory."""
_WANTED: Final = frozenset((*IMAGE_SUFFIXES, "json", "txt", "cls"))


class Sample(NamedTuple):
    """The members of one key, by suffix."""

    key: str
    parts: dict[str, bytes]

    @property
    def image(self) -> bytes | None:
        """Return the bytes of the first image member, or None."""
        return next((self.parts[suffix] for suffix in IMAGE_SUFFIXES if suffix in self.parts), None)


def read(file: IO[bytes], bad: Counter[str] | None = None) -> Iterator[Sample]:
    """Yield samples from a stream of bytes, without seeking; ValueError if the archive is cut or broken.

    Counted in `bad` and left out: `not_a_file`, `too_large`, `duplicate` (a member twice), `hidden` (below
    __MACOSX or a name that begins with "."). Members with suffixes that openwit has no use for are skipped
    without reading them.
    """
    bad = Counter() if bad is None else bad
    key, parts = "", dict[str, bytes]()
    try:
        with tarfile.open(fileobj=file, mode="r|*") as archive:
            for member in archive:
                name, _, suffix = _split(member.name)
                if not member.isfile():
                    bad["not_a_file"] += not member.isdir()
                    continue
                if suffix in _WANTED and is_hidden(member.name):
                    bad["hidden"] += 1
                    continue
                if name != key:
                    if parts:
                        yield Sample(key, parts)
                    key, parts = name, {}
                if suffix not in _WANTED:
                    continue
                if member.size > MAX_MEMBER:
                    bad["too_large"] += 1
                elif suffix in parts:
                    bad["duplicate"] += 1
                else:
                    content = archive.extractfile(member)
                    assert content is not None, "a regular file has content"
                    parts[suffix] = content.read()
    except (tarfile.TarError, EOFError, OverflowError, UnicodeError) as error:
        raise ValueError(f"not a whole tar archive ({error})") from error
    if parts:
        yield Sample(key, parts)


def _split(name: str) -> tuple[str, str, str]:
    """Return key and suffix as WebDataset defines them: at the first dot of the last path component."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, dot, suffix = base.partition(".")
    return folder + slash + stem, dot, suffix.lower()
