"""Keep the images that a unit has fetched so far: a stop loses seconds of its work, not the unit.

Each attempt at a unit appends records to a part of its own, FOLDER/kept/UNIT/ATTEMPT.part, and begins with
the records of all parts that it finds there. Locally a record is with the system at once, so that no kill
loses it, and on the disk within seconds, for a power cut; an object store gets the records since the last
write as one more small object, ATTEMPT-NUMBER.part, twice a minute and when the attempt is stopped. When the
unit's marker is there its parts go.

A record is a header, JSON with a `key`, and a body, after their lengths and a checksum. Of a part that was
cut off or damaged the records before the damage count.
"""

import contextlib
import io
import json
import logging
import os
import signal
import struct
import tempfile
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, Self, TypeVar

from pipeline import json_bytes, storage
from pipeline.flow.markers import commit, marker_path
from pipeline.flow.parts import Part
from pipeline.periodic import every

P = TypeVar("P", bound=Part)

log = logging.getLogger(__name__)

SUFFIX: Final = ".part"
NO_VERDICTS: Final = frozenset({"internal_error", "dns_error"})
"""Reasons that are not kept: a process that is ended has errors of all kinds; and in an outage of names the
first lookups fail before it is noticed. To look a name up again asks no site for anything."""
_FOLDER: Final = "kept"
_MAGIC: Final = b"openwit part 1\n"
_FRAME: Final = struct.Struct("<III")  # bytes of header and body, CRC-32 of both

Header = dict[str, Any]


class Place(NamedTuple):
    """Where a record's body is: a file of this attempt, offset and length in bytes."""

    file: int
    offset: int
    length: int


class KeptRecord(NamedTuple):
    """One thing that was fetched."""

    header: Header
    place: Place


class Kept:
    """The records of a unit, those of earlier attempts and its own; a context manager.

    `records` holds the first record per key that earlier attempts kept, `spent` the seconds that they took
    and `requests` the requests that they sent.
    """

    def __init__(self, folder: str, unit: str, attempt: str) -> None:
        self.records: list[KeptRecord] = []
        self.spent, self.requests = 0.0, 0
        self._folder, self._attempt = folder_of(folder, unit), attempt
        self._files: list[IO[bytes]] = []
        self._lock = threading.RLock()  # one flush at a time; a signal may come in one
        self._size = self._flushed = self._objects = 0

    def __enter__(self) -> Self:
        """Read the existing parts, and begin a new part."""
        with contextlib.ExitStack() as stack:
            self._started = time.monotonic()
            self._is_local = storage.is_local(self._folder)
            root = storage.local_path(self._folder)
            if not self._is_local:
                root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="openwit-kept-")))
            self._read_parts(stack, root)
            self._sink = stack.enter_context(self._begin(root))
            self._files.append(stack.enter_context(Path(self._sink.name).open("rb")))
            self._write([_MAGIC])
            # A disk may take a while; a store asks for money.
            stack.enter_context(every(5.0 if self._is_local else 30.0, self.flush, self._failed))
            if not self._is_local:
                stack.enter_context(_on_term(self.flush))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Keep the images that have come since, if the unit is not finished."""
        try:
            if kind is not None:
                self.flush()
        except Exception as error:  # noqa: BLE001 - the reason of the stop counts
            self._failed(error)
        finally:
            self._stack.close()

    def add(self, header: Header, body: bytes, requests: int = 0) -> Place:
        """Append a record, after that many requests of this attempt; OSError if it cannot be written."""
        spent = round(self.spent + time.monotonic() - self._started, 3)
        self._write(_encoded({**header, "spent": spent, "requests": self.requests + requests}, body))
        return Place(len(self._files) - 1, self._size - len(body), len(body))

    def body(self, place: Place) -> bytes:
        """Return a record's body."""
        return os.pread(self._files[place.file].fileno(), place.length, place.offset)

    def flush(self) -> None:
        """Sync the added bytes to the disk."""
        with self._lock:
            size = self._size
            if size in (self._flushed, len(_MAGIC)):
                return
            if self._is_local:
                os.fsync(self._sink.fileno())
            else:
                start = max(self._flushed, len(_MAGIC))
                data = _MAGIC + os.pread(self._files[-1].fileno(), size - start, start)
                path = storage.join(self._folder, f"{self._attempt}-{self._objects:06d}{SUFFIX}")
                storage.write_bytes(path, data)
                self._objects += 1
            self._flushed = size

    def remove(self) -> None:
        """Remove the parts of all attempts: the unit's marker is there."""
        with contextlib.suppress(OSError):  # another attempt has just begun the part, and will do the same
            storage.remove_tree(self._folder)

    def _begin(self, root: Path) -> IO[bytes]:
        while True:
            root.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # another attempt has just removed the folder
                return (root / f"{self._attempt}{SUFFIX}").open("xb", buffering=0)

    def _write(self, parts: list[bytes]) -> None:
        size = sum(map(len, parts))
        written = os.writev(self._sink.fileno(), parts)
        left = memoryview(b"".join(parts) if written < size else b"")[written:]  # a full disk, mostly
        while left:
            left = left[os.write(self._sink.fileno(), left) :]
        self._size += size

    def _read_parts(self, stack: contextlib.ExitStack, root: Path) -> None:
        """Note the records of earlier attempts; of two with one key the first counts."""
        paths = storage.list_files(self._folder, SUFFIX)
        files = [storage.local_path(path) for path in paths] if self._is_local else [_gathered(paths, root)]
        known: set[object] = set()
        for path in files:
            with contextlib.suppress(FileNotFoundError):  # another attempt has just finished the unit
                file = stack.enter_context(path.open("rb"))
                self._files.append(file)
                for header, offset, length in scan(file):
                    self.spent = max(self.spent, header["spent"])
                    self.requests = max(self.requests, header["requests"])
                    if header["key"] not in known:
                        known.add(header["key"])
                        place = Place(len(self._files) - 1, offset, length)
                        self.records.append(KeptRecord(header, place))

    @staticmethod
    def _failed(error: Exception) -> None:
        log.warning("fetched images could not be kept yet: %s", error)


@contextlib.contextmanager
def _on_term(action: Callable[[], None]) -> Iterator[None]:
    """Let SIGTERM end this process after `action`, if it is one of a pool: the launcher has its own way."""
    alone = threading.current_thread() is threading.main_thread()
    if not alone or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(*_: object) -> None:
        with contextlib.suppress(Exception):
            action()
        os._exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def attempt(folder: str, name: str, work: Callable[[str, Kept], P]) -> P:
    """Do a unit and write its marker, then remove the kept records; return the result that counts.

    work: is given the suffix of this attempt's file names, and the records of earlier attempts.
    """
    own = uuid.uuid4().hex[:8]
    with Kept(folder, name, own) as store:
        result = commit(folder, work(f"@{own}", store))
        store.remove()  # only now, when the marker is there
    return result


def _encoded(header: Header, body: bytes) -> list[bytes]:
    data = json_bytes.dumps(header)
    return [_FRAME.pack(len(data), len(body), zlib.crc32(body, zlib.crc32(data))), data, body]


def _gathered(paths: list[str], root: Path) -> Path:
    """Return a local file with the whole records of all parts."""
    with (root / "earlier").open("wb") as sink:
        sink.write(_MAGIC)
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                data = storage.read_bytes(path)
                ends = [offset + length for _, offset, length in scan(io.BytesIO(data))]
                sink.write(data[len(_MAGIC) : max(ends, default=0)])
    return root / "earlier"


def folder_of(folder: str, unit: str) -> str:
    """Return where the parts of a unit of a step's folder are."""
    return storage.join(folder, _FOLDER, unit)


def is_finished(path: str) -> bool:
    """Return whether a part belongs to a unit that is finished, and so goes."""
    kept, _, unit = path.rpartition("/")[0].rpartition("/")
    return storage.exists(marker_path(kept.rpartition("/")[0], unit))


def scan(file: IO[bytes], *, skip_bodies: bool = False) -> Iterator[tuple[Header, int, int]]:
    """Yield header, offset and length of the body of each record up to the first that is not whole.

    skip_bodies: do not read them; their checksums are then not compared.
    """
    if file.read(len(_MAGIC)) != _MAGIC:
        return
    end = file.seek(0, os.SEEK_END)
    at = len(_MAGIC)
    while at + _FRAME.size <= end:
        file.seek(at)
        header_size, size, check = _FRAME.unpack(file.read(_FRAME.size))
        start = at + _FRAME.size + header_size
        at = start + size
        if at > end:
            return
        data = file.read(header_size)
        try:
            if not skip_bodies and zlib.crc32(data + file.read(size)) != check:
                return
            header = json.loads(data)
        except ValueError:
            return
        yield header, start, size


def headers(path: str) -> list[Header]:
    """Return the headers of a part's records."""
    return [header for header, _, _ in scan(io.BytesIO(storage.read_bytes(path)))]


def rewrite(path: str, changed: Sequence[Header | None]) -> None:
    """Give a part's records, in the order of `headers`, other headers; those with None go."""
    data = storage.read_bytes(path)
    written = [_MAGIC]
    for header, (_, offset, length) in zip(changed, scan(io.BytesIO(data)), strict=True):
        if header is not None:
            written += _encoded(header, data[offset : offset + length])
    storage.write_bytes(path, b"".join(written))


def count(folder: str) -> int:
    """Return how many records the unfinished units of a step's local folder have; 0 on an object store."""
    if not storage.is_local(folder):
        return 0
    keys = set()
    for unit in storage.list_files(storage.join(folder, _FOLDER)):
        name = unit.rpartition("/")[2]
        if not storage.exists(marker_path(folder, name)):
            for path in storage.list_files(unit, SUFFIX):
                with contextlib.suppress(OSError), storage.local_path(path).open("rb") as file:
                    keys |= {(name, header["key"]) for header, _, _ in scan(file, skip_bodies=True)}
    return len(keys)


def remove(folder: str) -> None:
    """Remove the files that late attempts have left of a finished step."""
    storage.remove_tree(storage.join(folder, _FOLDER))
