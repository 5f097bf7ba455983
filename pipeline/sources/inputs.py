"""Open the files of a source: local, on an object store, or downloaded from the web."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from pipeline import storage
from pipeline.foreign_text import text_of


def is_web(path: str) -> bool:
    """Return whether `path` is downloaded over HTTP."""
    return path.startswith(("https://", "http://"))


@contextlib.contextmanager
def open_stored(path: str) -> Iterator[IO[bytes]]:
    """Open `path` as stored, seekable; a file of the web is downloaded to a temporary file first.

    Raises OSError if it cannot be opened or, after several tries, downloaded.
    """
    if not is_web(path):
        with storage.open_input(path) as file:
            yield file
        return
    from pipeline.http.named import download

    with tempfile.TemporaryFile(prefix="openwit-") as copy:
        download(path, cast(IO[bytes], copy))
        yield cast(IO[bytes], copy)


@contextlib.contextmanager
def open_plain(path: str) -> Iterator[IO[bytes]]:
    """Open a text file unpacked and as UTF-8, by its first bytes; reading may raise one of DAMAGED."""
    with open_stored(path) as file, text_of(file) as (plain, _):
        yield plain


def file_size(path: str) -> int:
    """Return the stored bytes of a file that is not of the web."""
    return (
        Path(storage.local_path(path)).stat().st_size
        if storage.is_local(path)
        else storage.file_info(path).size
    )
