"""Folders of this machine that are ours alone: nobody else can have put a file or a link there."""

import atexit
import os
import shutil
import stat
import tempfile
from functools import cache
from pathlib import Path


def folder(name: str) -> Path:
    """Return a folder of one's own below $XDG_CACHE_HOME or ~/.cache, made with mode 0700.

    Without a home folder that can be written to, it is a new temporary folder that this process removes.
    ValueError if somebody else owns it or may look into it.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        place = (Path(base) if base else Path.home() / ".cache") / "openwit" / name
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
    except (OSError, RuntimeError):
        return _temporary(name)
    check(place, others=0o077)
    return place


def check(place: Path, others: int = 0o022) -> None:
    """Raise ValueError unless a folder is ours and gives nobody else the rights `others` (bits of a mode)."""
    found = place.stat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise ValueError(f"{place} belongs to somebody else: give another folder, or remove it")
    if stat.S_IMODE(found.st_mode) & others:
        raise ValueError(f"{place} is open to other users of this machine: chmod 700 {place}")


@cache
def _temporary(name: str) -> Path:
    place, owner = Path(tempfile.mkdtemp(prefix=f"openwit-{name}-")), os.getpid()

    def remove() -> None:
        if os.getpid() == owner:
            shutil.rmtree(place, ignore_errors=True)

    atexit.register(remove)
    return place


def opener(path: str, flags: int) -> int:
    """Open a file for `open(..., opener=opener)`: never through a link that somebody may have planted."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
