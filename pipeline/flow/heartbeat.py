"""Signs of life of tasks that take long: NAME.running beside the markers, so that they can be followed.

A short task leaves none. The file goes when its task ends; that of a worker that was killed stays, and is
known by the age of its last sign.
"""

import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, Final

from pipeline import storage, untrusted
from pipeline.periodic import every

log = logging.getLogger(__name__)

SUFFIX: Final = ".running"
_local = threading.local()  # the task of this thread: a process may run several


def interval(folder: str) -> float:
    """Return the seconds between two signs: writing to an object store costs money."""
    return 5.0 if storage.is_local(folder) else 60.0


@contextlib.contextmanager
def heartbeat(folder: str, name: str) -> Iterator[None]:
    """Leave signs of a task's life while the block runs; `count` adds to their numbers."""
    started, counts = time.time(), dict[str, int]()
    path = storage.join(folder, f"{name}{SUFFIX}")
    written: list[bool] = []

    def beat() -> None:
        sign = {
            "name": name, "host": socket.gethostname(), "pid": os.getpid(), "started": started,
            "beat": time.time(), **counts,
        }  # fmt: skip
        storage.write_bytes(path, json.dumps(sign).encode())
        written.append(True)

    def failed(error: Exception) -> None:
        log.info("%s could not be written: %s", path, error)

    _local.counts = counts
    try:
        with every(interval(folder), beat, failed):
            yield
    finally:
        _local.counts = None
        if written:
            with contextlib.suppress(Exception):
                storage.remove_tree(path)


def count(**numbers: int) -> None:
    """Add to the numbers of this thread's task; nothing happens outside a task."""
    counts = getattr(_local, "counts", None)
    if counts is not None:
        for name, number in numbers.items():
            counts[name] = counts.get(name, 0) + number


def signs(folder: str) -> list[dict[str, Any]]:
    """Return the last signs of life of a folder's running or killed tasks."""
    found = []
    for path in storage.list_files(folder, SUFFIX):
        with contextlib.suppress(FileNotFoundError, ValueError):  # it has just ended, or is no sign
            sign = untrusted.parse_json(storage.read_bytes(path))
            if _is_sign(sign):
                found.append(sign)
    return found


def _is_sign(value: Any) -> bool:
    """Return whether a file says what `heartbeat` writes."""
    kinds = {"name": str, "host": str, "started": int | float, "beat": int | float}
    return isinstance(value, dict) and all(isinstance(value.get(key), kind) for key, kind in kinds.items())
