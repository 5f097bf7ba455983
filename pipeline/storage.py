"""Read, list and publish files on any file system that fsspec knows.

Publishing is atomic: a reader sees the whole file or none. Locally that is a temporary file in the same
folder, fsync and rename; on an object store it is one PUT, or a multipart upload that is completed last.
Operations that fail there for a transient reason are tried again.
"""

import contextlib
import hashlib
import os
import posixpath
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from pipeline.storage_retry import retried

_READ_AHEAD: Final = 8 << 20  # bytes; s3fs itself would read 50 MiB for the footer of a Parquet file
_S3_TRIES: Final = 9
"""Tries of each request of an open file, 17 s in all; s3fs gives up after 5, within 2 s."""


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


def relative(path: str, folder: str) -> str:
    """Return a path as seen from a folder, so that both can be moved; as it is on another file system."""
    scheme, _, inner = path.rpartition("://")
    other, _, start = folder.rpartition("://")
    return posixpath.relpath(inner, start) if scheme == other else path


def absolute(path: str, folder: str) -> str:
    """Return the path that `relative` gave as seen from a folder."""
    if "://" in path or path.startswith("/"):
        return path
    scheme, mark, start = folder.rpartition("://")
    return f"{scheme}{mark}{posixpath.normpath(posixpath.join(start, path))}"


def stem(path: str) -> str:
    """Return a file's name without its last ending: "run.tar/00000.tar" -> "00000"."""
    return posixpath.splitext(posixpath.basename(path))[0]


def sibling(path: str, ending: str) -> str:
    """Return the file of the same stem beside another: ("a/0.tar", ".parquet") -> "a/0.parquet".

    The only way to get from a path to another: the name of a folder never matters.
    """
    return join(posixpath.dirname(path), stem(path) + ending)


def file_system(path: str) -> tuple[Any, str]:
    """Return fsspec's file system of `path`, and the path in it.

    Remote listings are not cached: they are made to see files that other processes have written.
    """
    from fsspec.core import url_to_fs  # imports asyncio; no help text needs it

    if is_local(path):
        return url_to_fs(path)  # type: ignore[no-any-return]
    if path.startswith(("http://", "https://")):
        from pipeline.http.named import WebFiles  # redirects are judged there, as the crawl judges them

        return WebFiles(), path
    fs, inner = url_to_fs(path, use_listings_cache=False)
    if "s3" in fs.protocol:
        fs.retries = _S3_TRIES
    return fs, inner


def open_input(path: str) -> IO[bytes]:
    """Open `path` for reading bytes, uncompressed as stored."""
    fs, inner = file_system(path)
    if is_local(path):
        return fs.open(inner, "rb")  # type: ignore[no-any-return]
    return retried(lambda: fs.open(inner, "rb", block_size=_READ_AHEAD))


def read_bytes(path: str) -> bytes:
    """Return the whole file."""
    if is_local(path):
        return local_path(path).read_bytes()
    fs, inner = file_system(path)
    return bytes(retried(lambda: fs.cat_file(inner)))


def read_many(paths: list[str]) -> list[bytes]:
    """Return whole files, all of one file system, in order; remote ones are read at the same time."""
    if not paths or is_local(paths[0]):
        return [read_bytes(path) for path in paths]
    fs, _ = file_system(paths[0])
    inner = [fs._strip_protocol(path) for path in paths]
    found = retried(lambda: fs.cat(inner, on_error="raise"))
    return [found[name] for name in inner]


def read_ranges(ranges: list[tuple[str, int, int]]) -> list[bytes]:
    """Return the bytes of (path, start, stop) ranges, all of one file system, in order."""
    if not ranges:
        return []
    paths, starts, stops = zip(*ranges, strict=True)
    if not is_local(paths[0]):
        fs, _ = file_system(paths[0])
        inner = [fs._strip_protocol(path) for path in paths]
        # By default errors come back among the bytes.
        return list(retried(lambda: fs.cat_ranges(inner, list(starts), list(stops), on_error="raise")))
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
    fs, inner = file_system(path)
    return bool(retried(lambda: fs.exists(inner)))


def is_pattern(path: str) -> bool:
    """Return whether a path is to be read as a pattern: brackets may be part of a name that exists."""
    return any(c in path for c in "*?[") and not exists(path)


def glob(pattern: str) -> list[str]:
    """Return the matching paths, sorted; a path that exists, brackets and all, is returned as is."""
    if exists(pattern):
        return [_named(pattern, file_system(pattern)[1])]
    if not any(c in pattern for c in "*?["):
        return []
    fs, inner = file_system(pattern)
    return sorted(_named(pattern, found) for found in retried(lambda: fs.glob(inner)))


def _named(like: str, inner: str) -> str:
    """Return a file system's own path with the scheme of `like`."""
    return inner if is_local(like) or "://" in inner else f"{like.split('://', 1)[0]}://{inner}"


def list_files(folder: str, suffix: str = "") -> list[str]:
    """Return the files directly inside `folder` that end in `suffix`, sorted; [] if there is no folder."""
    fs, inner = file_system(folder)
    try:
        found = retried(lambda: fs.ls(inner, detail=False))
    except (FileNotFoundError, NotADirectoryError):
        return []
    names = (posixpath.basename(str(path).rstrip("/")) for path in found if path.rstrip("/") != inner)
    return sorted(join(folder, name) for name in names if name.endswith(suffix))


def find_files(folder: str) -> list[str]:
    """Return the names of all files in a folder and below, relative to it, sorted; [] if there is none."""
    fs, inner = file_system(folder)
    found = retried(lambda: fs.find(inner))
    return sorted(str(path).removeprefix(inner.rstrip("/")).lstrip("/") for path in found)


def is_folder(path: str) -> bool:
    """Return whether a path is a folder that exists."""
    fs, inner = file_system(path)
    return bool(retried(lambda: fs.isdir(inner)))


def file_info(path: str) -> FileInfo:
    """Return size and a version tag: the store's ETag, or the local modification time in ns."""
    if is_local(path):
        stat = local_path(path).stat()
        return FileInfo(path, stat.st_size, str(stat.st_mtime_ns))
    fs, inner = file_system(path)
    info = retried(lambda: fs.info(inner))
    tag = info.get("ETag") or info.get("etag") or info.get("md5Hash") or info.get("mtime") or ""
    return FileInfo(path, int(info.get("size") or 0), str(tag).strip('"'))


@contextlib.contextmanager
def atomic_output(path: str) -> Iterator[Path]:
    """Yield a local temporary path; publish it under `path` when the block ends without an error."""
    target = local_path(path) if is_local(path) else None
    if target is not None:
        handle, temporary = _new_file_beside(target)
    else:
        handle, name = tempfile.mkstemp(suffix=".tmp")
        temporary = Path(name)
    os.close(handle)
    try:
        yield temporary
        if target is not None:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(target)
        else:
            fs, inner = file_system(path)
            # Not through an open file: closing a file after an error would publish a part.
            retried(lambda: fs.put_file(str(temporary), inner))
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: str, data: bytes) -> None:
    """Publish `data` under `path` atomically."""
    if is_local(path):
        with atomic_output(path) as temporary:
            temporary.write_bytes(data)
        return
    fs, inner = file_system(path)
    retried(lambda: fs.pipe_file(inner, data))


def create_bytes(path: str, data: bytes) -> bool:
    """Publish `data` under `path` unless something is there; return whether it was published.

    One of several writers at a time wins: by a hard link locally, by `If-None-Match: *` on S3 and
    `ifGenerationMatch=0` on Google's storage. A try whose answer was lost counts as another's: anyone who has
    to know who won reads the file.
    """
    try:
        if is_local(path):
            _create_local(local_path(path), data)
        else:
            fs, inner = file_system(path)
            retried(lambda: fs.pipe_file(inner, data, mode="create"))
    except FileExistsError:
        return False
    return True


def _create_local(path: Path, data: bytes) -> None:
    handle, temporary = _new_file_beside(path)
    try:
        with open(handle, "wb") as file:  # noqa: PTH123 - a descriptor
            file.write(data)
            file.flush()
            os.fsync(handle)
        os.link(temporary, path)
    finally:
        temporary.unlink()


def _new_file_beside(path: Path) -> tuple[int, Path]:
    """Make a hidden file in a file's folder, of the rights that the umask leaves; return its descriptor."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
        with contextlib.suppress(FileExistsError):
            return os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), temporary


def copy_file(source: str, target: str) -> None:
    """Publish a copy of a file; the target appears whole."""
    with open_input(source) as file, atomic_output(target) as path, path.open("wb") as sink:
        shutil.copyfileobj(file, sink, 1 << 20)


def link(source: str, target: str) -> None:
    """Publish a file under a second name, whole and without copying it where the file system can."""
    if is_local(source) and is_local(target):
        place = local_path(target)
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = place.parent / f".{place.name}.{os.getpid()}.tmp"
        try:
            temporary.unlink(missing_ok=True)
            os.link(local_path(source), temporary)
            temporary.replace(place)
        except OSError:  # not on this file system
            copy_file(source, target)
        finally:
            temporary.unlink(missing_ok=True)  # where both were one file, it is left
        return
    fs, inner = file_system(source)
    retried(lambda: fs.cp_file(inner, file_system(target)[1]))


def remove_tree(path: str) -> None:
    """Remove a file, or a folder and all in it, if it exists."""
    fs, inner = file_system(path)
    if exists(path):
        with contextlib.suppress(FileNotFoundError):
            retried(lambda: fs.rm(inner, recursive=True))


def sha256_file(path: str) -> str:
    """Return the hex SHA-256 of a file."""
    digest = hashlib.sha256()
    with open_input(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
