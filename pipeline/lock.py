"""Keep a second launcher out of a folder, and say who holds it.

Locally the kernel decides, so that a killed launcher holds nothing. On an object store the lock is an object
that only one process can create and that its holder writes again every 20 s; a lock that has been silent for
two minutes may be taken over. The lock saves work, no more: the first to write a marker decides which result
counts.
"""

import _thread
import contextlib
import json
import logging
import os
import shlex
import socket
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Final

from pipeline import private, storage, untrusted
from pipeline.periodic import every

log = logging.getLogger(__name__)

_BEGUN: Final = time.time()  # before this process holds any lock
_BEAT: Final = 20.0  # seconds
_SILENT: Final = 120.0  # seconds: several beats, and the difference that two machines' clocks may have
_LOCAL_TRIES: Final = 10  # 0.1 s apart: `openwit status` holds the lock for an instant


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Say who is, or was last, running in a folder. Times are seconds since 1970."""

    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    command: str = field(default_factory=lambda: shlex.join(["openwit", *sys.argv[1:]]))
    """The command as typed, to be typed again."""
    started: float = field(default_factory=time.time)
    beat: float = field(default_factory=time.time)
    """Last sign of life; locally not renewed."""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __str__(self) -> str:
        """Return where the holder is."""
        return f"process {self.pid} on {self.host}"

    @property
    def is_dead(self) -> bool:
        """Return whether this machine knows that the holder, one of its processes, has ended."""
        if self.host != socket.gethostname():
            return False
        if self.pid == os.getpid():  # a container that was started again has its name and number
            return self.started < _BEGUN
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False


def holder(work: str) -> tuple[Holder | None, bool]:
    """Return who was last running in a folder, or None, and whether they are alive."""
    path = storage.join(work, "lock")
    if not storage.exists(path):
        return None, False
    found = _read(path)
    if not storage.is_local(work):
        return found, found is not None and not _may_be_taken(found)
    import fcntl

    with storage.local_path(path).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return found, True
    return found, False


@contextlib.contextmanager
def lock(work: str, command: str = "") -> Iterator[None]:
    """Hold a folder's lock during the block; ValueError says who holds it already.

    work: the folder of unfinished work, as `Layout.work`; command: what to note instead of everything that
    was typed.
    """
    own = Holder(command=command) if command else Holder()
    if storage.is_local(work):
        with _local_lock(work, own):
            yield
    else:
        with _remote_lock(work, own):
            yield


def _read(path: str) -> Holder | None:
    try:
        return untrusted.record(Holder, untrusted.parse_json(storage.read_bytes(path)), path)
    except (FileNotFoundError, ValueError):  # gone; or written by another version
        return None


def _encoded(holder: Holder) -> bytes:
    return json.dumps(asdict(holder), sort_keys=True).encode()


@contextlib.contextmanager
def _local_lock(work: str, own: Holder) -> Iterator[None]:
    """Hold the kernel's lock, and remove the half-written files of a killed launcher."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    folder = storage.local_path(work)
    known = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a+b", opener=private.opener) as file:
        for left in reversed(range(_LOCAL_TRIES)):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if not left:
                    raise ValueError(_busy(work, _read(str(folder / "lock")))) from None
                time.sleep(0.1)
        file.truncate(0)
        file.write(_encoded(own))
        file.flush()
        if known:
            for path in folder.parent.rglob(".*.tmp*"):
                path.unlink()
        yield


def _busy(work: str, found: Holder | None) -> str:
    who = f" ({found})" if found else ""
    return f"another openwit{who} is at work in {work.removesuffix('/work')}"


@contextlib.contextmanager
def _remote_lock(work: str, own: Holder) -> Iterator[None]:
    path = storage.join(work, "lock")
    while not storage.create_bytes(path, _encoded(own)):
        found = _read(path)
        if found is not None and found.id == own.id:
            break  # the answer to an earlier try was lost
        if found is not None and not _may_be_taken(found):
            wait = max(1, round(found.beat + _SILENT - time.time()))
            raise ValueError(f"{_busy(work, found)}; if it was killed, this command works in {wait} s")
        storage.remove_tree(path)
    try:
        with every(_BEAT, lambda: _beat(path, own), lambda error: _not_renewed(path, error)):
            yield
    finally:
        found = _read(path)
        if found is not None and found.id == own.id:
            storage.remove_tree(path)


def _may_be_taken(found: Holder) -> bool:
    return found.is_dead or time.time() - found.beat > _SILENT


def _beat(path: str, own: Holder) -> None:
    """Renew the lock; interrupt the main thread, and raise StopIteration, if somebody else has taken it."""
    found = _read(path)
    if found is not None and found.id != own.id:
        log.error("%s has been taken over by %s; stopping here", path, found)
        _thread.interrupt_main()
        raise StopIteration
    storage.write_bytes(path, _encoded(replace(own, beat=time.time())))


def _not_renewed(path: str, error: Exception) -> None:
    log.warning("the lock %s could not be renewed: %s", path, error)
