"""Read, list and publish files on any file system that fsspec knows.

Publishing is atomic: a reader sees the whole file or none. Locally that is a temporary file in the same
folder, fsync and rename; on an object store a single PUT is atomic by itself.
"""

import contextlib
import hashlib
import os
import posixpath
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import fsspec
from fsspec.core import url_to_fs


class FileInfo(NamedTuple):
    """Identify one version of an input file; fields only, compared in fingerprints."""

    path: str
    size: int
    etag: str


def is_local(path: str) -> bool:
    """Return whether `path` is on the local file system."""
    return "://" not in path or path.startswith("file://")


def local_path(path: str) -> Path:
    """Return a local path without its scheme."""
    return Path(path.removeprefix("file://"))


def join(base: str, *parts: str) -> str:
    """Join path parts with one slash each, keeping a scheme."""
    return posixpath.join(base, *parts)


def open_input(path: str, **options: object) -> IO[bytes]:
    """Open `path` for reading bytes, uncompressed as stored."""
    return fsspec.open(path, "rb", **options).open()  # type: ignore[no-any-return]


def read_bytes(path: str) -> bytes:
    """Return the whole file."""
    with open_input(path) as file:
        return file.read()


def read_ranges(ranges: list[tuple[str, int, int]]) -> list[bytes]:
    """Return the bytes of (path, start, stop) ranges, all of one file system, in order."""
    if not ranges:
        return []
    fs, _ = url_to_fs(ranges[0][0])
    paths, starts, stops = zip(*ranges, strict=True)
    if not is_local(paths[0]):
        return list(fs.cat_ranges(list(paths), list(starts), list(stops)))
    found: list[bytes] = []
    with contextlib.ExitStack() as stack:
        files: dict[str, IO[bytes]] = {}
        for path, start, stop in ranges:
            if path not in files:
                files[path] = stack.enter_context(local_path(path).open("rb"))
            files[path].seek(start)
            found.append(files[path].read(stop - start))
    return found


def exists(path: str) -> bool:
    """Return whether a file or folder exists."""
    fs, inner = url_to_fs(path)
    return bool(fs.exists(inner))


def glob(pattern: str) -> list[str]:
    """Return the matching paths, sorted; a path without wildcards that exists is returned as is."""
    fs, inner = url_to_fs(pattern)
    found = fs.glob(inner) if any(c in pattern for c in "*?[") else ([inner] if fs.exists(inner) else [])
    if is_local(pattern):
        return sorted(found)
    scheme = pattern.split("://", 1)[0]
    return sorted(p if "://" in p else f"{scheme}://{p}" for p in found)


def list_files(folder: str, suffix: str = "") -> list[str]:
    """Return the files directly inside `folder` whose names end in `suffix`, sorted; [] if there is none."""
    return glob(join(folder, f"*{suffix}")) if exists(folder) else []


def file_info(path: str) -> FileInfo:
    """Return size and a version tag: the store's ETag, or the local modification time in ns."""
    if is_local(path):
        stat = local_path(path).stat()
        return FileInfo(path, stat.st_size, str(stat.st_mtime_ns))
    fs, inner = url_to_fs(path)
    info = fs.info(inner)
    tag = info.get("ETag") or info.get("etag") or info.get("md5Hash") or info.get("mtime") or ""
    return FileInfo(path, int(info.get("size") or 0), str(tag).strip('"'))


@contextlib.contextmanager
def atomic_output(path: str) -> Iterator[Path]:
    """Yield a local temporary path; publish it under `path` when the block ends without an error."""
    if is_local(path):
        target = local_path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = target.parent
    else:
        target, folder = None, Path(tempfile.gettempdir())
    handle, name = tempfile.mkstemp(prefix=f".{posixpath.basename(path)}.", suffix=".tmp", dir=folder)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        if target is not None:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(target)
        else:
            with temporary.open("rb") as source, fsspec.open(path, "wb").open() as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: str, data: bytes) -> None:
    """Publish `data` under `path` atomically."""
    with atomic_output(path) as temporary:
        temporary.write_bytes(data)


def remove_tree(path: str) -> None:
    """Remove a folder and all in it, if it exists."""
    fs, inner = url_to_fs(path)
    if fs.exists(inner):
        fs.rm(inner, recursive=True)


def sha256_file(path: str) -> str:
    """Return the hex SHA-256 of a file."""
    digest = hashlib.sha256()
    with open_input(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
