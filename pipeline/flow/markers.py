"""The small durable files by which stages speak to each other: markers, task lists, vectors."""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import zstandard

from pipeline import storage, untrusted

Task = dict[str, Any]
Result = dict[str, Any]


def marker_path(folder: str, name: str) -> str:
    """Return where a task's result is written, last, when all its files are in place."""
    return storage.join(folder, f"{name}.json")


def read_marker(folder: str, name: str) -> Result | None:
    """Return a finished task's result, or None."""
    found: Result | None = untrusted.read_json(marker_path(folder, name))
    return found


def commit(folder: str, name: str, result: Result) -> Result:
    """Write a task's marker unless another attempt has; return the result that counts."""
    data = json.dumps(result, sort_keys=True, separators=(",", ":")).encode()
    if storage.create_bytes(marker_path(folder, name), data):
        written: Result = json.loads(data)  # as whoever continues the run will read it
        return written
    found = read_marker(folder, name)
    assert found is not None, "markers are removed by nobody while a stage runs"
    return found


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


def write_tasks(path: str, tasks: Iterable[Task]) -> int:
    """Publish a task file, one JSON object a line, and return how many there are."""
    lines = [json.dumps(task, sort_keys=True) for task in tasks]
    storage.write_bytes(path, "".join(f"{line}\n" for line in lines).encode())
    return len(lines)


def finished(folder: str) -> dict[str, Result]:
    """Return the results of a folder's finished tasks by name, from their markers."""
    found = {}
    for data in storage.read_many(storage.list_files(folder, ".json")):
        result = untrusted.parse_json(data)
        if "name" in result:
            found[result["name"]] = result
    return found
