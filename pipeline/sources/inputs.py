"""Open the files of a source: local, on an object store, or downloaded from the web; decompressed by name."""

import contextlib
import email.utils
import http.client
import logging
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final, cast

from pipeline import storage
from pipeline.foreign_text import text_of

logger = logging.getLogger(__name__)

_USER_AGENT: Final = "openwit (reading a crawl's index and archive files)"
_TRIES: Final = 8
_TIMEOUT: Final = 60.0  # seconds without a byte
# data.commoncrawl.org answers 503, and lately 403, to clients that ask too fast.
_RETRIED: Final = frozenset((403, 408, 429, 500, 502, 503, 504))
_MAX_WAIT: Final = 300.0


def is_web(path: str) -> bool:
    """Return whether `path` is downloaded over HTTP."""
    return path.startswith(("https://", "http://"))


@contextlib.contextmanager
def open_stored(path: str) -> Iterator[IO[bytes]]:
    """Open `path` as stored, seekable; a file of the web is downloaded to a temporary one first.

    Raises OSError if it cannot be opened or, after several tries, downloaded.
    """
    if not is_web(path):
        with storage.open_input(path) as file:
            yield file
        return
    with tempfile.TemporaryFile(prefix="openwit-") as copy:
        download(path, cast(IO[bytes], copy))
        yield cast(IO[bytes], copy)


@contextlib.contextmanager
def open_plain(path: str) -> Iterator[IO[bytes]]:
    """Open a text file unpacked and as UTF-8, by its first bytes; reading may raise one of DAMAGED."""
    with open_stored(path) as file, text_of(file) as (plain, _):
        yield plain


def download(url: str, sink: IO[bytes], sleep: Callable[[float], None] = time.sleep) -> None:
    """Copy a file of the web to `sink`, one connection at a time, and rewind it; OSError when all tries fail.

    Waits before another try: what Retry-After asks for (at most 5 minutes), or 1, 2, 4 ... seconds.
    """
    error: Exception | None = None
    for attempt in range(_TRIES):
        if error is not None:
            wait = _retry_after(error) or float(1 << attempt >> 1)
            logger.warning("%s: %s; trying again in %.0f s", url, error, wait)
            sleep(min(wait, _MAX_WAIT))
        sink.seek(0)
        sink.truncate()
        try:
            _download_once(url, sink)
        except urllib.error.HTTPError as failure:
            failure.close()
            if failure.code not in _RETRIED:
                raise OSError(f"{url}: {failure}") from failure
            error = failure
        except (OSError, http.client.HTTPException) as failure:
            error = failure
        else:
            sink.seek(0)
            return
    raise OSError(f"{url}: gave up after {_TRIES} tries: {error}") from error


def _download_once(url: str, sink: IO[bytes]) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": _USER_AGENT})  # noqa: S310 - http(s), see is_web
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:  # noqa: S310
        shutil.copyfileobj(response, sink, 1 << 20)
        length = response.headers.get("Content-Length")
        if length is not None and length.isdigit() and sink.tell() != int(length):
            raise OSError(f"{sink.tell()} of {length} bytes")


def _retry_after(error: Exception) -> float:
    """Return the seconds that a Retry-After header asks for, 0 without one."""
    value = error.headers.get("Retry-After", "") if isinstance(error, urllib.error.HTTPError) else ""
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0


def file_size(path: str) -> int:
    """Return the stored bytes of a file that is not of the web."""
    return (
        Path(storage.local_path(path)).stat().st_size
        if storage.is_local(path)
        else storage.file_info(path).size
    )
