"""Parts: the tasks and results of steps, as frozen dataclasses that name their own files.

A part is a task, the result of a task, or the result of a whole stage. In markers and lists of tasks it is
JSON with its kind; its files are noted relative to the folder where that lies, so that a run can be moved.

    @dataclass(frozen=True, kw_only=True)
    class Judged(Part):
        path: Annotated[str, File(CAPTION_ROWS)]
        rows: int
"""

import contextlib
import dataclasses
import importlib
import re
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import msgspec

from pipeline import storage

if TYPE_CHECKING:
    import pyarrow as pa

P = TypeVar("P", bound="Part")

_KINDS: dict[str, type["Part"]] = {}
_ROOM: Final = re.compile(r"(?:pipeline|queries|dedup)(?:\.[a-z_]+)*\.parts", re.ASCII)
"""Modules that JSON may name."""


@dataclass(frozen=True)
class File:
    """Mark a part's field as the path of a file, "" for none."""

    schema: "pa.Schema | None" = None
    """Of a table; None for anything else."""


Blob = Annotated[str, File()]
"""A file that is no table."""


def _name(kind: type["Part"]) -> str:
    return f"{kind.__module__}.{kind.__name__}"


@dataclass(frozen=True, kw_only=True)
class Part:
    """Describe a task, or its result; by itself a task that is nothing but its name."""

    name: str
    """Within its step."""

    def __init_subclass__(cls) -> None:
        """Make a kind known to `decode`."""
        _KINDS[_name(cls)] = cls


_KINDS[_name(Part)] = Part


@dataclass(frozen=True, kw_only=True)
class Counted(Part):
    """A part whose samples are counted by query."""

    counts: Blob
    """int64 [rows, Q], as `markers.write_vector` writes it."""


def encode(part: Part, folder: str) -> dict[str, Any]:
    """Return a part as a JSON object, for a file in a folder."""
    plain = _moved(part, partial(storage.relative, folder=folder))
    return {"kind": _name(type(part)), **msgspec.to_builtins(plain)}


def decode(value: Any, folder: str) -> Part:
    """Return the part that an object of `encode` stands for; ValueError if it is none of this version."""
    kind = _kind(value.get("kind")) if isinstance(value, dict) else None
    if kind is None:
        raise ValueError(
            f"{folder} was written by another version of openwit. Use that version; or, since a finished set "
            "needs its work/ folder for --extend and --retry-failed alone, remove that folder"
        )
    try:
        part = msgspec.convert({k: v for k, v in value.items() if k != "kind"}, kind)
    except msgspec.ValidationError as error:
        raise ValueError(f"{folder}: a damaged {kind.__name__}: {error}") from error
    return _moved(part, partial(storage.absolute, folder=folder))


def _kind(name: Any) -> type[Part] | None:
    """Return the kind of a name; a process that was sent a task may not have imported its module yet."""
    if not isinstance(name, str):
        return None
    module = name.rpartition(".")[0]
    if name not in _KINDS and _ROOM.fullmatch(module):
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(module)
    return _KINDS.get(name)


def only(part: Part | None, kind: type[P]) -> P:
    """Return a part that must be of a kind: a step's own code wrote it."""
    assert isinstance(part, kind), f"a {kind.__name__} is expected, not {part!r}"
    return part


def files(part: Part) -> Iterator[tuple[str, File]]:
    """Yield (path, File) of each file of a part, and of the parts in it."""
    for name, file in _places(type(part)):
        value = getattr(part, name)
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, Part):
                yield from files(one)
            elif one:
                assert file is not None
                yield one, file


def tables(part: Part, *columns: str) -> Iterator[str]:
    """Yield the paths of a part's tables that have any of these columns."""
    for path, file in files(part):
        if file.schema is not None and not {*columns}.isdisjoint(file.schema.names):
            yield path


def _moved(part: P, move: Callable[[str], str]) -> P:
    """Return a part with other paths of its files."""
    changes: dict[str, Any] = {}
    for name, _ in _places(type(part)):
        value = getattr(part, name)
        moved = tuple(_one_moved(one, move) for one in (value if isinstance(value, tuple) else (value,)))
        changes[name] = moved if isinstance(value, tuple) else moved[0]
    return dataclasses.replace(part, **changes)


def _one_moved(value: Any, move: Callable[[str], str]) -> Any:
    if isinstance(value, Part):
        return _moved(value, move)
    return move(value) if value else value


def _places(kind: type[Part]) -> tuple[tuple[str, File | None], ...]:
    """Return the fields of a kind that hold files or parts, each as it is, in a tuple, or optional."""
    if kind in _KNOWN:
        return _KNOWN[kind]
    hints = typing.get_type_hints(kind, include_extras=True)
    found = ((field.name, _place(hints[field.name])) for field in dataclasses.fields(kind))
    _KNOWN[kind] = tuple((name, place) for name, place in found if place is not _NEITHER)
    return _KNOWN[kind]


_NEITHER: Final = File()
_KNOWN: dict[type[Part], tuple[tuple[str, File | None], ...]] = {}


def _place(hint: Any) -> File | None:
    """Return the File that a hint names, None for parts, `_NEITHER` for anything else."""
    if isinstance(hint, type) and issubclass(hint, Part):
        return None
    marks = [mark for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, File)]
    if marks:
        return marks[0]
    inner = [_place(one) for one in typing.get_args(hint)]
    return next((place for place in inner if place is not _NEITHER), _NEITHER)
