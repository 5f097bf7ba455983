"""Files that an argument names: a path, a glob, a brace list such as {00000..00099}, or several with ::."""

import itertools
import logging
import os
import posixpath
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from pipeline import storage

log = logging.getLogger(__name__)

_MOST: Final = 1_000_000  # names that braces may write out
_THREADS: Final = 16
ARCHIVES: Final = (".tar", ".tar.gz", ".tgz")
"""The endings of shards' names."""


def find(argument: str, folder_suffix: str = "") -> list[str]:
    """Return the files that an argument names, in order; none where nothing is there.

    folder_suffix: of a folder its files that end so are meant. Names written out by braces that are missing
    raise ValueError with their number: anyone who writes them out counts on them.
    """
    names = expand(argument)
    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(lambda name: _files(name, folder_suffix), names))
    missing = [name for name, files in zip(names, found, strict=True) if not files]
    if missing and len(missing) < len(names):
        pattern = re.sub(r"\{[^{}]*\}", "*", argument)
        raise ValueError(
            f"{len(missing):,} of the {len(names):,} files that {argument} names are missing, the first "
            f"{missing[0]}: name the files that exist, or take all of them with {pattern!r}"
        )
    return [file for files in found for file in files]


def expand(argument: str) -> list[str]:
    """Return the paths of an argument's braces and ::; ValueError for braces without end."""
    # Not by fsspec, to which :: means something else.
    if storage.is_local(argument) and os.path.exists(storage.local_path(argument)):  # noqa: PTH110
        return [argument]
    names: list[str] = []
    for part in argument.split("::"):
        if "{" not in part:
            names.append(part)
            continue
        from braceexpand import braceexpand

        try:
            names += itertools.islice(braceexpand(part), _MOST + 1)
        except ValueError as error:
            raise ValueError(f"{part}: {error}") from error
    if len(names) > _MOST:
        raise ValueError(f"{argument} names more than {_MOST:,} files")
    return names


def is_hidden(relative: str) -> bool:
    """Return whether a path leads through a name that holds no data: `.hidden`, or __MACOSX.

    File managers, notebooks and archivers leave such files beside people's own.
    """
    if not (relative.startswith(".") or "/." in relative or "__MACOSX" in relative):
        return False  # most names, and a shard has thousands
    parts = relative.split("/")
    return any(part == "__MACOSX" or (part.startswith(".") and part not in (".", "..")) for part in parts)


def archive_stem(path: str) -> str:
    """Return a shard's name without its endings: "a/clip.v2.tar.gz" -> "clip.v2"."""
    name = posixpath.basename(path)
    ending = next((one for one in ARCHIVES if name.lower().endswith(one)), "")
    return name[: len(name) - len(ending)]


def _files(name: str, folder_suffix: str) -> list[str]:
    if folder_suffix and not name.endswith(ARCHIVES) and (listed := storage.list_files(name, folder_suffix)):
        return _shown(name, listed)
    found = storage.glob(name)
    return _shown(name, found) if any(c in name for c in "*?[") else found


def _shown(asked: str, found: list[str]) -> list[str]:
    """Return the paths without hidden files, unless the pattern names a hidden file."""
    if posixpath.basename(asked).startswith("."):
        return found
    shown = [path for path in found if not is_hidden(posixpath.basename(path)) and "/__MACOSX/" not in path]
    if len(shown) < len(found):
        log.warning("%s: %d hidden files are left out", asked, len(found) - len(shown))
    return shown
