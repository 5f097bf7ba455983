"""Read files that a person names by an http(s) URL: lists, archives, Parquet, pages, shards.

By the crawl's own client and address policy, hop by hop: a redirect is a stranger's word, and may lead to an
address that only this machine can reach. No proxies of the environment, no other schemes; a body has a
largest size, a least rate and a longest time, and nothing that a server says goes into a message.
"""

import asyncio
import email.utils
import io
import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import IO, Any, Final, NamedTuple, TypeVar, cast

import aiohttp
from fsspec import AbstractFileSystem
from fsspec.spec import AbstractBufferedFile
from yarl import URL

from pipeline import urls
from pipeline.http import dns, errors, fd_limits
from pipeline.http.address_policy import ATTEMPTS, AddressPolicy, Attempts, check_url
from pipeline.http.client import Client, authority
from pipeline.http.response import REDIRECTS
from pipeline.options import FetchOptions
from pipeline.reasons import REASONS

logger = logging.getLogger(__name__)

MAX_BYTES: Final = 64 << 30
"""Bytes of one file; Common Crawl's archives have about one gigabyte."""
MAX_SECONDS: Final = 6 * 3600.0
"""For one file."""

_TRIES: Final = 8
# data.commoncrawl.org answers 503, and lately 403, to clients that ask too fast.
_RETRIED: Final = frozenset((403, 408, 429, 500, 502, 503, 504))
_ABSENT: Final = frozenset((401, 403, 404, 410))  # object stores answer 403 for a missing object
_TRANSIENT: Final = errors.SILENT | {"incomplete_body", "bad_http"}
_MAX_WAIT: Final = 300.0
_FREE: Final = 256 << 20  # bytes of disk that are left to others
_ANYWHERE: Final = ("0.0.0.0/0", "::/0")

T = TypeVar("T")
_options: FetchOptions | None = None


def configure(options: FetchOptions | None) -> None:
    """Read in this process by the address policy, contact and rates of a crawl's options.

    Without, as for commands that have no --allow-network, the authority of a URL that was named may be at any
    address, and where it redirects to must be public.
    """
    global _options
    _options = options


class NamedFileError(OSError):
    """A file cannot be had; `answered` is the last status or 0, `wait` the seconds that it asks for."""

    def __init__(
        self, message: str, answered: int = 0, wait: float = 0.0, *, transient: bool = False
    ) -> None:
        super().__init__(message)
        self.answered, self.wait, self.transient = answered, wait, transient


class _Answer(NamedTuple):
    status: int
    headers: dict[str, str]


def download(url: str, sink: IO[bytes], sleep: Callable[[float], None] = time.sleep) -> None:
    """Copy a file of the web to `sink`, one connection at a time, and rewind it; OSError when all tries fail.

    Waits before another try: the time that Retry-After asks for (at most 5 minutes), or 1, 2, 4 ... seconds.
    """
    _retried(lambda: _run(_get(url, sink)), sleep)
    sink.seek(0)


def _retried(
    action: Callable[[], T], sleep: Callable[[float], None] = time.sleep, final: frozenset[int] = frozenset()
) -> T:
    attempt = 0
    while True:
        try:
            return action()
        except NamedFileError as error:
            attempt += 1
            if not error.transient or error.answered in final:
                raise
            if attempt >= _TRIES:
                raise NamedFileError(f"gave up after {_TRIES} tries: {error}", error.answered) from None
            wait = min(error.wait or float(1 << attempt - 1), _MAX_WAIT)
            logger.warning("%s; trying again in %.0f s", error, wait)
            sleep(wait)


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, in its own thread if this thread has a loop that runs."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    found: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            found.append(asyncio.run(work))
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            raised.append(error)

    thread = threading.Thread(target=run, name="openwit-named-file")
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
    return found[0]


async def _get(url: str, sink: IO[bytes] | None, span: str = "") -> _Answer:
    """Follow a URL to its file and write that, or the `span` of bytes, to `sink` if any; NamedFileError."""
    options = _options or FetchOptions()
    try:
        href = urls.resolve(url)
    except urls.BadUrl as error:
        raise NamedFileError(f"{url}: {error}") from None
    start = authority(href)
    for _ in range(options.max_redirects + 1):
        is_open = _options is None and authority(href) == start
        hop = replace(options, allow_network=_ANYWHERE) if is_open else options
        policy = AddressPolicy.from_text(hop.allow_network)
        if reason := check_url(href, policy):
            raise NamedFileError(_refused(url, href, reason))
        answer = await _ask(url, href, hop, policy, sink, span)
        if answer.status not in REDIRECTS:
            return answer
        try:
            href = urls.resolve(answer.headers.get("location", ""), href)
        except urls.BadUrl as error:
            raise NamedFileError(
                f"{url} redirects to an address that is no http(s) URL: {error.reason}"
            ) from None
    raise NamedFileError(f"{url}: more than {options.max_redirects} redirects")


async def _ask(
    url: str, href: str, options: FetchOptions, policy: AddressPolicy, sink: IO[bytes] | None, span: str
) -> _Answer:
    """Send one request; write the body of a good answer to `sink`."""
    resolver = dns.Resolver(
        dns.source(options, None),
        at_once=fd_limits.lookups_at_once(options),
        max_failures=options.max_dns_failures,
    )
    client = Client(options, policy, resolver)
    attempts = Attempts()
    token = ATTEMPTS.set(attempts)
    try:
        headers = {"Connection": "close"} | ({"Range": f"bytes={span}"} if span else {})
        async with client.session.get(
            URL(href, encoded=True), headers=headers, allow_redirects=False
        ) as response:
            answer = _Answer(response.status, {k.lower(): v for k, v in response.headers.items()})
            if answer.status in REDIRECTS:
                return answer
            if answer.status not in (200, 206):
                said = f"{url}: the server answered with status {answer.status}"
                raise NamedFileError(
                    said, answer.status, _wait(answer.headers), transient=answer.status in _RETRIED
                )
            if sink is not None:
                await _copy(url, response, sink, options, is_whole=not span)
            return answer
    except NamedFileError:
        raise
    except Exception as error:  # noqa: BLE001 - the client raises many classes; each has a reason
        reason, _ = errors.of_exception(error, attempts)
        raise NamedFileError(_refused(url, href, reason), transient=reason in _TRANSIENT) from None
    finally:
        ATTEMPTS.reset(token)
        await client.close()
        await resolver.close()


def _refused(url: str, href: str, reason: str) -> str:
    meaning = REASONS[reason].meaning if reason in REASONS else "it failed"
    via = "" if href == url or authority(href) == authority(url) else f" redirects to {href[:300]}, which"
    advice = ""
    if reason in ("address_blocked", "port_blocked"):
        advice = "; a server of your own is opened with --allow-network"
    return f"{url}{via or ':'} cannot be read: {reason}, {meaning}{advice}"


async def _copy(
    url: str, response: aiohttp.ClientResponse, sink: IO[bytes], options: FetchOptions, *, is_whole: bool
) -> None:
    """Write a body to `sink` from its start, within size, rate and time."""
    declared = response.content_length
    most = MAX_BYTES
    if is_whole:
        most = min(most, max(0, shutil.disk_usage(tempfile.gettempdir()).free - _FREE))
    if (declared or 0) > most:
        raise NamedFileError(f"{url} has {declared:,} bytes; there is room for {most:,}")
    sink.seek(0)
    sink.truncate()
    clock = asyncio.get_running_loop().time
    started, size = clock(), 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        seconds = clock() - started
        if size > most:
            raise NamedFileError(f"{url} has more than {most:,} bytes, for which there is no room")
        if seconds > options.read_timeout and size < options.min_rate * seconds:
            raise NamedFileError(
                f"{url} comes too slowly: {size:,} bytes in {seconds:.0f} s; --min-rate {options.min_rate:g}"
            )
        if seconds > MAX_SECONDS:
            raise NamedFileError(f"{url} takes longer than {MAX_SECONDS / 3600:.0f} hours")
        sink.write(chunk)
    if declared is not None and size != declared:
        raise NamedFileError(f"{url}: {size} of {declared} bytes arrived", transient=True)


def _wait(headers: dict[str, str]) -> float:
    """Return the seconds that a Retry-After header asks for, 0 if it is missing."""
    value = headers.get("retry-after", "")
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0


class WebFiles(AbstractFileSystem):  # type: ignore[misc]
    """Files at http(s) URLs, for `pipeline.storage`: read whole or in ranges, never written nor listed."""

    protocol = ("http", "https")
    cachable = False

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path

    def unstrip_protocol(self, name: str) -> str:
        """Return the URL, which has its scheme."""
        return name

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Return size (None if the server does not tell it) and ETag; FileNotFoundError if there is none."""
        try:
            answer = _retried(lambda: _run(_get(path, None, "0-0")), final=_ABSENT)
        except NamedFileError as error:
            if error.answered in _ABSENT:
                raise FileNotFoundError(f"{path}: the server answered with status {error.answered}") from None
            if error.answered != 416:  # an empty file has no first byte
                raise
            return {"name": path, "size": 0, "type": "file", "ETag": "", "ranges": False}
        total = answer.headers.get("content-range", "").rpartition("/")[2]
        is_ranged = answer.status == 206 and total.isdigit()
        length = total if is_ranged else answer.headers.get("content-length", "")
        return {
            "name": path,
            "size": int(length) if length.isdigit() else None,
            "type": "file",
            "ETag": answer.headers.get("etag", "")[:200],
            "ranges": is_ranged,
        }

    def exists(self, path: str, **_: Any) -> bool:
        """Return whether there is such a file; OSError where that cannot be told."""
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def isdir(self, path: str) -> bool:
        """Return False: a URL's children are not known."""
        del path
        return False

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """Raise FileNotFoundError: servers do not list their files."""
        del detail
        raise FileNotFoundError(path)

    def find(self, path: str, **_: Any) -> list[str]:
        """Return nothing, as for a folder without files."""
        del path
        return []

    def glob(self, path: str, **_: Any) -> list[str]:
        """Raise ValueError: servers do not list their files."""
        raise ValueError(f"{path}: a URL cannot be a pattern; name each file, or give an @FILE list of them")

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """Return a file or a range of it."""
        with self.open(path, "rb") as file:
            file.seek(start or 0)
            data: bytes = file.read() if end is None else file.read(end - (start or 0))
            return data

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **options: Any) -> Any:
        if mode != "rb":
            raise ValueError(f"{path}: files at http(s) URLs can only be read")
        info = self.info(path)
        if info["ranges"]:
            return _Ranged(self, path, "rb", block_size or 8 << 20, size=info["size"])
        copy = tempfile.TemporaryFile(prefix="openwit-")  # noqa: SIM115 - the caller closes it
        try:
            download(path, cast(IO[bytes], copy))
        except BaseException:
            copy.close()
            raise
        return copy


class _Ranged(AbstractBufferedFile):  # type: ignore[misc]
    """A file of which ranges are asked for as they are read."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        sink = io.BytesIO()
        answer = _retried(lambda: _run(_get(self.path, cast(IO[bytes], sink), f"{start}-{end - 1}")))
        data = sink.getvalue()
        if answer.status != 206 or len(data) != end - start:
            raise NamedFileError(f"{self.path}: {len(data)} of the {end - start} bytes asked for came")
        return data
