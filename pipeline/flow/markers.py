"""The small durable files by which stages speak to each other: markers, task lists, vectors."""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import zstandard

from pipeline import storage, untrusted
from pipeline.flow.parts import Part, decode, encode

Task = Any  # a Part
Result = Any


def marker_path(folder: str, name: str) -> str:
    """Return where a task's result is written, last, when all its files are in place."""
    return storage.join(folder, f"{name}.json")


def read_marker(folder: str, name: str) -> Any:
    """Return a finished task's result, or None."""
    path = marker_path(folder, name)
    return load(untrusted.load_json(path), folder) if storage.exists(path) else None


def mark(folder: str, result: Any) -> None:
    """Write the marker of a task that is done the same by whoever does it."""
    storage.write_bytes(marker_path(folder, name_of(result)), dump(result, folder).encode())


def commit(folder: str, result: Any) -> Any:
    """Write a task's marker unless another attempt has; return the result that counts."""
    if storage.create_bytes(marker_path(folder, name_of(result)), dump(result, folder).encode()):
        return result
    found = read_marker(folder, name_of(result))
    assert found is not None, "markers are removed by nobody while a stage runs"
    return found


def dump(part: Any, folder: str) -> str:
    """Return a part as a line of JSON, for a file in a folder; equal parts are equal bytes."""
    plain = encode(part, folder) if isinstance(part, Part) else part
    return json.dumps(plain, sort_keys=True, separators=(",", ":"))


def load(value: Any, folder: str) -> Any:
    """Return the part that a line's object stands for."""
    return decode(value, folder) if "kind" in value else value


def name_of(part: Any) -> str:
    """Return a part's name."""
    return part.name if isinstance(part, Part) else part["name"]


def write_json(path: str, value: object) -> None:
    """Publish JSON, sorted and indented by nothing, so that equal values are equal bytes."""
    storage.write_bytes(path, json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


def read_lines(path: str) -> list[str]:
    """Return the lines of a small text file."""
    return storage.read_bytes(path).decode().splitlines()


def write_vector(path: str, vector: np.ndarray) -> None:
    """Publish an int64 or uint64 array, compressed; its shape and type are in its header."""
    header = f"{vector.dtype.str} {' '.join(map(str, vector.shape))}\n".encode()
    storage.write_bytes(path, zstandard.compress(header + vector.tobytes()))


def read_vector(path: str) -> np.ndarray:
    """Return the array that `write_vector` wrote."""
    header, _, data = zstandard.decompress(storage.read_bytes(path)).partition(b"\n")
    dtype, *shape = header.decode().split()
    return np.frombuffer(data, dtype).reshape([int(n) for n in shape])


def write_lines(path: str, lines: Iterable[str]) -> None:
    """Publish a small text file."""
    storage.write_bytes(path, "".join(f"{line}\n" for line in lines).encode())


def finished(folder: str) -> dict[str, Any]:
    """Return the results of a folder's finished tasks by name, from their markers."""
    found = {}
    for data in storage.read_many(storage.list_files(folder, ".json")):
        value = untrusted.parse_json(data)
        if isinstance(value, dict) and "name" in value:
            found[value["name"]] = load(value, folder)
    return found
