"""Turn the cells of a list into JSON's values: text, numbers, lists, objects or null, and no error."""

import math
from typing import Any, Final

import pyarrow as pa

from pipeline import json_bytes
from pipeline.sources.records import scalar

_MAX_DEPTH: Final = 32
"""Levels of a nested cell that are kept; deeper levels are null."""
_INTEGERS: Final = range(-(1 << 63), 1 << 64)  # the limit of JSON's readers


def parsed(line: bytes | None) -> object:
    """Parse one line of JSON; None if it is none."""
    if line is None:
        return None
    try:
        return json_bytes.loads(line)
    except (ValueError, RecursionError):
        return None


def plain(value: object, depth: int = 0) -> object:
    """Return a value as JSON can hold it: dates, decimals and the like as text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if value in _INTEGERS else str(value)
    if isinstance(value, str):
        return scalar(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if depth >= _MAX_DEPTH:
        return None
    if isinstance(value, list | tuple):
        return [plain(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {scalar(_name(key)): plain(item, depth + 1) for key, item in value.items()}
    try:
        return scalar(str(value))
    except Exception:  # noqa: BLE001 - a type that we do not know must not end a file
        return None


def _name(key: object) -> str:
    return key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key)


def plain_column(column: pa.Array) -> list[object]:
    """Return a column of any Arrow type as JSON can hold it."""
    try:
        if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
            column = column.cast(pa.large_string())  # all at once, where all are UTF-8
    except pa.ArrowInvalid:
        pass
    try:
        values = column.to_pylist()
        return values if pa.types.is_large_string(column.type) else [plain(value) for value in values]
    except Exception:  # noqa: BLE001 - such as dates after the year 9999: then cell by cell
        return [_cell(column[i], 0) for i in range(len(column))]


def _cell(cell: Any, depth: int) -> object:
    """Return one cell, of a type whose values Python's own types cannot all hold."""
    if not cell.is_valid or depth >= _MAX_DEPTH:
        return None
    try:
        return plain(cell.as_py())
    except Exception:  # noqa: BLE001, S110 - the next lines find the values they can
        pass
    if isinstance(cell, pa.ExtensionScalar | pa.UnionScalar):
        return _cell(cell.value, depth + 1)
    if isinstance(cell, pa.DictionaryScalar):
        return _cell(cell.value, depth + 1)
    if isinstance(cell, pa.StructScalar):
        return {scalar(name): _cell(cell[i], depth + 1) for i, name in enumerate(_names(cell.type))}
    values = getattr(cell, "values", None)
    if isinstance(values, pa.Array):
        return [_cell(values[i], depth + 1) for i in range(len(values))]
    return _as_text(cell)


def _names(kind: pa.StructType) -> list[str]:
    return [kind.field(i).name for i in range(kind.num_fields)]


def _as_text(cell: Any) -> str | None:
    """Return the value as NumPy or Arrow write it, None if neither can."""
    column = pa.array([cell.value], cell.type) if hasattr(cell, "value") else None
    try:
        if column is not None and pa.types.is_temporal(cell.type):
            return str(column.to_numpy(zero_copy_only=False)[0]).replace("T", " ")
        return scalar(str(cell.cast(pa.string()).as_py()))
    except Exception:  # noqa: BLE001 - null, then
        return None
