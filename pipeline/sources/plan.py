"""Turn the user's arguments (paths, globs, folders, @FILE lists, URLs) into pieces for parallel reading."""

import posixpath
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final
from urllib.parse import quote, urlsplit

from pipeline import storage
from pipeline.foreign_text import DAMAGED, listed, unpacked, what_it_is
from pipeline.options.sources import SourceOptions, format_of, format_of_list
from pipeline.schemas import Piece
from pipeline.sources import archive, columns, table
from pipeline.sources.inputs import is_web, open_plain, open_stored
from pipeline.urls import BadUrl, resolve, without_credentials

_WILD: Final = frozenset("*?[")
_LISTS: Final = ("parquet", "csv", "tsv", "jsonl", "txt")
_MAX_LIST: Final = 256 << 20  # bytes, for a million paths
_MAX_PAGES: Final = 1000  # HTML files in a piece, so that small files spread over workers too


def plan(sources: Sequence[str], options: SourceOptions) -> list[Piece]:
    """Return the pieces of all sources, in their order; the same files give the same pieces.

    Raises ValueError where a pattern matches nothing, a format is unknown or a column is missing; OSError
    where a file cannot be opened. Files of the web are not looked at: each is one piece.
    """
    if options.base_url is not None:
        try:
            resolve(options.base_url)
        except BadUrl as error:
            raise ValueError(f"--base-url {options.base_url!r} is not an http(s) URL: {error}") from None
    pieces: list[Piece] = []
    seen: set[str] = set()
    for path in _expand(sources, options):
        if "://" in path and (shown := without_credentials(path)) != path:
            raise ValueError(
                f"the source {shown} was given with a user name or password, which the run's files would "
                "show; let the store's own configuration hold it"
            )
        if path not in seen:
            seen.add(path)
            pieces += _cut(path, options)
    if not pieces:
        raise ValueError("the sources are empty: nothing to read")
    return pieces


def page_files(path: str) -> tuple[str, list[tuple[str, int]]]:
    """Return the folder of `path` (folder, glob or file) and its HTML files: sorted relative names, sizes."""
    fs, inner = storage.file_system(path)
    if storage.is_pattern(path):
        root = posixpath.dirname(inner[: min(inner.index(c) for c in _WILD if c in inner)])
        found = fs.glob(inner, detail=True)
    elif fs.isdir(inner):
        root, found = inner, fs.find(inner, detail=True)
        found = {name: info for name, info in found.items() if format_of(name) == "html"}
    else:
        root, found = posixpath.dirname(inner), {inner: fs.info(inner)}
    root = root.rstrip("/")
    files = sorted(
        (name.removeprefix(root).lstrip("/"), int(info["size"] or 0))
        for name, info in found.items()
        if info["type"] == "file"
    )
    return fs.unstrip_protocol(root) if not storage.is_local(path) else root, files


@lru_cache(maxsize=8)  # every piece of a folder asks for the same listing
def listed_pages(path: str) -> tuple[str, tuple[str, ...]]:
    """Return the folder and the relative names of its HTML files."""
    root, files = page_files(path)
    return root, tuple(name for name, _ in files)


def page_url(base_url: str, relative: str) -> str:
    """Return the URL of a file of a folder that was served under `base_url`."""
    return f"{base_url.rstrip('/')}/{quote(relative)}"


def _expand(sources: Sequence[str], options: SourceOptions) -> Iterator[str]:
    for source in sources:
        if source.startswith("@"):
            for line in _list_lines(source[1:]):
                path = options.source_prefix + line
                yield from [path] if _is_remote_archive(path) else _matches(path, options)
        else:
            yield from _matches(source, options)


def _list_lines(path: str) -> list[str]:
    try:
        with open_plain(path) as file:
            return [line for _, line in listed(file, _MAX_LIST) if not line.startswith("#")]
    except UnicodeDecodeError:
        raise ValueError(f"@{path} is not a list of paths: it is not text") from None
    except FileNotFoundError:
        raise ValueError(f"@{path}: there is no such list") from None
    except ValueError as error:
        raise ValueError(f"@{path} is not a list of paths: {error}") from None


def _is_remote_archive(path: str) -> bool:
    """Return whether a path of a list is taken as it is: asking for 90,000 of a store would take an hour."""
    return not storage.is_local(path) and format_of(path) in ("wat", "warc") and not _WILD & set(path)


def _matches(path: str, options: SourceOptions) -> list[str]:
    """Return the files that `path` stands for; HTML stays a folder or pattern, read in batches of files."""
    if is_web(path):
        return [path]
    if storage.is_folder(path):
        return _files_in(path, options)
    found = storage.glob(path)
    if not found:
        raise ValueError(f"{path}: no such file, and as a pattern it matches nothing")
    if storage.is_pattern(path):
        folders = [p for p in found if storage.is_folder(p)]
        if not folders and {_format(p, options) for p in found} == {"html"}:
            return [path]
        found = [file for p in found for file in (_files_in(p, options) if p in folders else [p])]
    return found


def _files_in(folder: str, options: SourceOptions) -> list[str]:
    """Return the lists in a folder, as Spark writes them; or the folder, if it is one of HTML files."""
    wanted = options.source_format
    if wanted == "html" or (wanted == "auto" and options.base_url is not None):
        return [folder]
    by_format: dict[str | None, list[str]] = {}
    for name in storage.find_files(folder):
        if not any(part.startswith(("_", ".")) for part in name.split("/")):  # _SUCCESS, .part-0.crc
            by_format.setdefault(format_of(name), []).append(storage.join(folder, name))
    if wanted != "auto":
        found = by_format.get(wanted, [])
        others = {"jsonl": ".json", "txt": ".txt"}  # Spark and BigQuery call the former so
        if wanted in others:
            named = (p for p in by_format.get(None, []) if others[wanted] in posixpath.basename(p))
            found = sorted([*found, *named])
        if not found:
            raise ValueError(f"{folder}: no {wanted} files in this folder; name them with a pattern")
        return found
    kinds = [kind for kind in by_format if kind is not None]
    if len(kinds) == 1 and kinds[0] in _LISTS:
        return by_format[kinds[0]]
    if len(kinds) > 1 and "html" not in kinds:
        raise ValueError(
            f"{folder} holds files of several formats ({', '.join(kinds)}): give --source-format"
        )
    if not kinds and by_format:
        names = ", ".join(posixpath.basename(path) for path in by_format[None][:3])
        raise ValueError(f"{folder}: the names in it ({names}) do not tell the format; give --source-format")
    return [folder]


def _format(path: str, options: SourceOptions) -> str:
    if options.source_format != "auto":
        return options.source_format
    known = format_of_list(path)
    if known is None:
        raise ValueError(f"{path}: the name does not tell the format; give --source-format")
    return known


def _cut(path: str, options: SourceOptions) -> list[Piece]:
    is_named = is_web(path) or _is_remote_archive(path)
    if not is_named and (storage.is_folder(path) or storage.is_pattern(path)):
        return _cut_pages(path, options)
    format = _format(path, options)
    if format == "pages":
        return [_piece(format, path, 0, -1)]
    if format == "html" and not is_web(path):
        return _cut_pages(path, options)
    if is_web(path):
        return [_piece(format, path, 0, -1)]
    if format in ("wat", "warc"):
        if storage.is_local(path):
            _refuse_other_kinds(path)
        bounds = archive.boundaries(path, options.piece_bytes) if storage.is_local(path) else []
    else:
        if columns.listed(path, format, options) is None:
            return []  # an empty file
        bounds = table.boundaries(path, format, options.piece_bytes)
    starts = [0, *bounds]
    return [_piece(format, path, s, e) for s, e in zip(starts, [*bounds, -1], strict=True)]


def _refuse_other_kinds(path: str) -> None:
    """Raise ValueError for a file that is known to be something else than an archive of WARC records."""
    with open_stored(path) as file:
        try:
            with unpacked(file) as plain:
                kind = what_it_is(plain.read(64))
        except DAMAGED:
            return  # told when it is read
    if kind and not kind.startswith("a WARC file"):
        raise ValueError(f"{path} is {kind}")


def _cut_pages(path: str, options: SourceOptions) -> list[Piece]:
    if options.base_url is None:
        raise ValueError(f"{path}: give --base-url, the URL under which these HTML files were served")
    _, files = page_files(path)
    if not files:
        raise ValueError(f"{path}: no .html files; for other files give a pattern or --source-format")
    pieces: list[Piece] = []
    start = size = 0
    for i, (_, length) in enumerate(files, 1):
        size += length
        if size >= options.piece_bytes or i - start >= _MAX_PAGES or i == len(files):
            pieces.append(_piece("html", path, start, i)._replace(base_url=options.base_url))
            start, size = i, 0
    return pieces


def _piece(format: str, path: str, start: int, end: int) -> Piece:
    name = urlsplit(path).path if is_web(path) else path
    return Piece(format, path, start, end, "", posixpath.basename(name.rstrip("/")) or path)
