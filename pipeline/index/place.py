"""Where the index of a dataset lies: in a run's folder, or in this machine's cache."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from pipeline import private, storage
from pipeline.index import build, foreign, vectors
from pipeline.index.search import Search
from pipeline.run_folder import Layout

FOLDER: Final = "index"
FILE: Final = "index.sqlite"


class Dataset(NamedTuple):
    """A finished run, or the tar archives of a glob."""

    name: str
    layout: Layout | None
    shards: tuple[str, ...] = ()


def dataset(path: str) -> Dataset:
    """Return the dataset of a folder or glob; ValueError if there is none."""
    layout = Layout(path.rstrip("/"))
    if not storage.is_pattern(path) and storage.exists(layout.manifest):
        return Dataset(layout.root, layout)
    if not storage.is_pattern(path) and storage.is_folder(path):
        if storage.exists(layout.work):
            return Dataset(layout.root, layout)  # a crawl that is under way
        path = storage.join(path, "*.tar")
    shards = tuple(storage.glob(path))
    if not shards:
        raise ValueError(f"{path}: no finished run, and no .tar files")
    return Dataset(path, None, shards)


def local_file(of: Dataset) -> Path:
    """Return the local file of a dataset's index: in the run's folder if that is local, else in the cache."""
    if of.layout is not None and storage.is_local(of.name):
        return storage.local_path(of.name) / FOLDER / FILE
    return private.folder("indexes") / f"{hashlib.sha256(of.name.encode()).hexdigest()[:24]}.sqlite"


def published(of: Dataset) -> str:
    """Return where the index of a remote run lies for others, or ""."""
    if of.layout is None or storage.is_local(of.name):
        return ""
    return storage.join(of.name, FOLDER, FILE)


def forget(layout: Layout) -> None:
    """Delete samples that a run no longer has from its index, if any: from the file, not only from view."""
    of = Dataset(layout.root, layout)
    remote = published(of)
    if local_file(of).exists() or (remote and storage.exists(remote)):
        path, _ = renew(of, lambda done, total, rows: None)
        search = Search(path)
        vectors.forget(path, search)
        search.close()


def renew(of: Dataset, progress: Callable[[int, int, int], None]) -> tuple[Path, list[str]]:
    """Build the index or bring it up to date; return its local file, and a sentence per unreadable archive.

    The index of a remote run is copied from the run's folder if this machine has none, and back afterwards.
    """
    path, remote = local_file(of), published(of)
    if remote and not path.exists() and storage.exists(remote):
        storage.copy_file(remote, str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    if of.layout is None:
        return path, foreign.index_shards(path, of.name, of.shards, progress)
    before = path.stat().st_mtime_ns if path.exists() else 0
    build.index_run(path, of.layout, progress)
    if remote and path.stat().st_mtime_ns != before:
        storage.copy_file(str(path), remote)
    return path, []
