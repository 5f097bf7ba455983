"""Read small files that anybody may have written, and show text that came from outside."""

import codecs
import dataclasses
import json
import re
import types
import typing
from typing import Any, Final, TypeVar

from pipeline import storage

R = TypeVar("R")

MAX_JSON: Final = 64 << 20
"""Most bytes of a JSON file that says something of a dataset: a manifest of a quarter million shards."""
MAX_ROW: Final = 1 << 20
"""Most bytes of the JSON of one sample."""
_DEEPEST: Final = 100  # levels; whatever walks a value recurses too
_LONGEST: Final = 600  # characters of a text that is shown
_MOST_SECONDS: Final = 1e11  # the year 5138: the limit of the calendar

# Never fails, so that it is linear: a string without an end ends with the data.
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
# A pair of surrogates stays; a lone surrogate is no character.
_ESCAPE: Final = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[dD][89a-fA-F][0-9a-fA-F]{2}|\\.",
    re.DOTALL,
)
_LONE: Final = len(r"\ud800")

# Controls, and characters that reorder or hide text: a caption must not rewrite the words around it. The two
# joiners U+200C and U+200D stay, which many scripts and emoji need.
_CONTROLS: Final = (
    r"\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\ud800-\udfff\U000e0000-\U000e0fff"
)
_INVISIBLE: Final = re.compile(rf"[\t\n{_CONTROLS}]")
_INVISIBLE_IN_LINES: Final = re.compile(f"[{_CONTROLS}]")
_MARKS: Final = r"[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff]"
_STACKED: Final = re.compile(f"({_MARKS}{{4}}){_MARKS}+")  # more than any script puts on one letter


def parse_json(data: bytes, most: int = MAX_JSON) -> Any:
    """Return the value of JSON in UTF-8; ValueError if it is none, too large or too deeply nested.

    Integers beyond 64 bits become floats, lone surrogates U+FFFD; NaN is taken, which Python's and pandas'
    writers leave.
    """
    if len(data) > most:
        raise ValueError(f"more than {most:,} bytes")
    if data.count(b"[") + data.count(b"{") > _DEEPEST:
        _refuse_deep(data)
    text = data.removeprefix(codecs.BOM_UTF8).decode()
    if "\\u" in text:
        text = _ESCAPE.sub(lambda found: "\\ufffd" if _is_lone(found[0]) else found[0], text)
    try:
        return _JSON.decode(text)
    except RecursionError:  # where the stack was deep already
        raise ValueError("nested too deeply") from None


def _is_lone(escape: str) -> bool:
    return len(escape) == _LONE and escape[2] in "dD"


def _number(digits: str) -> int | float:
    return int(digits) if len(digits) <= 18 else float(digits)


_JSON: Final = json.JSONDecoder(parse_int=_number)  # json.loads would make one for each text


def _refuse_deep(data: bytes) -> None:
    depth = 0
    for bracket in _STRING.sub(b"", data).translate(None, _NOT_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        if depth > _DEEPEST:
            raise ValueError("nested too deeply")


def read_json(path: str, most: int = MAX_JSON) -> Any:
    """Return the value of a JSON file, None if it is missing; ValueError that names it if it is no JSON."""
    return load_json(path, most) if storage.exists(path) else None


def load_json(path: str, most: int = MAX_JSON) -> Any:
    """Return the value of a JSON file that is there; ValueError that names it if it is no JSON."""
    with storage.open_input(path) as file:
        data = file.read(most + 1)
    try:
        return parse_json(data, most)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {_in_short(error)}") from error


def parse_row(data: bytes) -> dict[str, Any]:
    """Return the JSON object of one sample; ValueError for anything else."""
    row = parse_json(data, MAX_ROW)
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    return row


def _in_short(error: ValueError) -> str:
    return "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)


def visible(text: str, longest: int = _LONGEST) -> str:
    """Return text with controls, bidirectional overrides and the like as [U+202E], cut where it is long."""
    shown = _INVISIBLE.sub(_named, _STACKED.sub(r"\1", text[: 8 * longest]))
    return shown if len(shown) <= longest else f"{shown[:longest]}… ({len(text):,} characters)"


def visible_lines(text: str) -> str:
    """Return text that may have lines and tabs of its own, whole, otherwise as `visible` does."""
    return _INVISIBLE_IN_LINES.sub(_named, text)


def _named(found: re.Match[str]) -> str:
    return f"[U+{ord(found[0]):04X}]"


def record(kind: type[R], value: Any, place: str) -> R:
    """Return a dataclass of strings, numbers, lists and dicts from a JSON object, or ValueError."""
    hints = typing.get_type_hints(kind)
    known = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if not isinstance(value, dict) or not value.keys() <= known.keys():
        raise ValueError(f"{place} lacks the fields of this version of openwit")
    for name, field in known.items():
        is_optional = not (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if name not in value and is_optional:
            continue
        if name not in value or not _fits(value[name], hints[name]):
            raise ValueError(f"{place} has no usable {name!r}")
    return kind(**value)


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in arguments)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(item, arguments[1]) for item in value.values())
    if origin is list:
        return isinstance(value, list) and all(_fits(item, arguments[0]) for item in value)
    if hint is float:  # moments and durations, in seconds
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _MOST_SECONDS
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
