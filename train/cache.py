"""Bring shards to the local disk: remote ones are downloaded once per machine, compressed ones unpacked."""

import fcntl
import gzip
import hashlib
import shutil
import tempfile
from pathlib import Path

from pipeline import storage

_CHUNK = 1 << 22


class Cache:
    """Keep copies of shards under `folder`, the least recently opened going first above `limit` bytes.

    Several processes may share a folder: a lock for each shard lets one of them fetch it.
    """

    def __init__(self, folder: Path | None = None, limit: int = 200 << 30) -> None:
        self.folder = folder or Path(tempfile.gettempdir()) / "openwit-shards"
        self.limit = limit

    def local(self, path: str) -> Path:
        """Return a local, uncompressed copy of a shard; the shard itself where it is that."""
        if storage.is_local(path) and not path.endswith((".gz", ".tgz")):
            return storage.local_path(path)
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        copy = self.folder / (hashlib.sha256(path.encode()).hexdigest()[:32] + ".tar")
        with copy.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if copy.exists():
                copy.touch()
            else:
                self._fetch(path, copy)
                self._evict(copy)
        return copy

    def _fetch(self, path: str, copy: Path) -> None:
        partial = copy.with_suffix(".part")
        with storage.open_input(path) as raw, partial.open("wb") as target:
            source = gzip.GzipFile(fileobj=raw) if path.endswith((".gz", ".tgz")) else raw
            shutil.copyfileobj(source, target, _CHUNK)
        partial.replace(copy)

    def _evict(self, newest: Path) -> None:
        copies = sorted(self.folder.glob("*.tar"), key=lambda p: p.stat().st_mtime_ns)
        total = sum(p.stat().st_size for p in copies)
        for old in copies:
            if total <= self.limit or old == newest:
                break
            total -= old.stat().st_size
            old.unlink()  # a process that reads it keeps its mapping
