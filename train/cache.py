"""Bring shards to the local disk: remote ones are downloaded once per machine, compressed ones unpacked."""

import fcntl
import gzip
import hashlib
import zlib
from pathlib import Path
from typing import IO

from pipeline import private, storage
from pipeline.tarwalk import FREE, RATIO

_CHUNK = 1 << 20
_PACKED = (".gz", ".tgz")


class Cache:
    """Keep copies of shards under `folder`, the least recently opened going first above `limit` bytes.

    A copy is of one version of a shard: its path, size, and ETag or time. Several processes may share a
    folder, which must be ours: a lock for each shard lets one of them fetch it.
    """

    def __init__(self, folder: Path | None = None, limit: int = 200 << 30) -> None:
        self._folder = folder
        self._versions: dict[str, storage.FileInfo] = {}  # asked for once, while the copy is there
        self.limit = limit

    @property
    def folder(self) -> Path:
        """Return the folder, made if need be; ValueError if others may write to it."""
        if self._folder is None:
            self._folder = private.folder("shards")
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        private.check(self._folder)
        return self._folder

    def local(self, path: str) -> Path:
        """Return a local, uncompressed copy of a shard; the shard itself where it is that.

        ValueError if it cannot be unpacked, or grows beyond `limit` or beyond the ratio of any pictures.
        """
        if storage.is_local(path) and not path.endswith(_PACKED):
            return storage.local_path(path)
        version = self._versions.get(path)
        if version is None or not self._copy_of(version).exists():
            version = self._versions[path] = storage.file_info(path)
        copy = self._copy_of(version)
        with open(copy.with_suffix(".lock"), "wb", opener=private.opener) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if copy.exists():
                copy.touch()
            else:
                self._evict(copy, version.size)
                self._fetch(path, version.size, copy)
                self._evict(copy, 0)
        return copy

    def _copy_of(self, version: storage.FileInfo) -> Path:
        digest = hashlib.sha256("\0".join(map(str, version)).encode()).hexdigest()[:32]
        return self.folder / f"{digest}.tar"

    def _fetch(self, path: str, size: int, copy: Path) -> None:
        partial = copy.with_suffix(".part")
        try:
            with (
                storage.open_input(path) as raw,
                open(partial, "wb", opener=private.opener) as target,
            ):
                if path.endswith(_PACKED):
                    most = min(self.limit, FREE + RATIO * size)
                    with gzip.GzipFile(fileobj=raw) as source:
                        _copy(source, target, most, f"{path} unpacks to")
                else:
                    _copy(raw, target, self.limit, f"{path} has")
            partial.replace(copy)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path} cannot be unpacked: {error}") from error
        finally:
            partial.unlink(missing_ok=True)

    def _evict(self, newest: Path, room: int) -> None:
        """Remove the copies opened longest ago, so that `room` bytes fit as well."""
        copies = sorted(newest.parent.glob("*.tar"), key=lambda p: p.stat().st_mtime_ns)
        total = room + sum(p.stat().st_size for p in copies)
        for old in copies:
            if total <= self.limit or old == newest:
                break
            total -= old.stat().st_size
            old.unlink()  # a process that reads it keeps its mapping


def _copy(source: IO[bytes] | gzip.GzipFile, target: IO[bytes], most: int, what: str) -> None:
    """Copy everything; ValueError as soon as it is more than `most` bytes."""
    left = most
    while chunk := source.read(_CHUNK):
        left -= len(chunk)
        if left < 0:
            raise ValueError(
                f"{what} more than {most / 1e9:,.1f} GB: it holds no pictures, or --cache-gb is too small"
            )
        target.write(chunk)
