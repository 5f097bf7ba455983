"""The small durable files by which stages speak to each other: markers, task lists, vectors."""

import json
from collections.abc import Iterable
from typing import TypeVar

import numpy as np
import zstandard

from pipeline import storage, untrusted
from pipeline.flow.parts import Part, decode, encode, only

P = TypeVar("P", bound=Part)


def marker_path(folder: str, name: str) -> str:
    """Return where a task's result is written, last, when all its files are in place."""
    return storage.join(folder, f"{name}.json")


def read_marker(folder: str, name: str) -> Part | None:
    """Return a finished task's result, or None."""
    path = marker_path(folder, name)
    return decode(untrusted.load_json(path), folder) if storage.exists(path) else None


def mark(folder: str, result: Part) -> None:
    """Write the marker of a task whose result is the same for every worker."""
    storage.write_bytes(marker_path(folder, result.name), dump(result, folder).encode())


def commit(folder: str, result: P) -> P:
    """Write a task's marker unless another attempt has; return the result that counts."""
    if storage.create_bytes(marker_path(folder, result.name), dump(result, folder).encode()):
        return result
    return only(read_marker(folder, result.name), type(result))


def dump(part: Part, folder: str) -> str:
    """Return a part as a line of JSON, for a file in a folder; equal parts are equal bytes."""
    return json.dumps(encode(part, folder), sort_keys=True, separators=(",", ":"))


def load(line: str, folder: str) -> Part:
    """Return the part of a line that `dump` wrote."""
    return decode(json.loads(line), folder)


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


def finished(folder: str) -> dict[str, Part]:
    """Return the results of a folder's finished tasks by name, from their markers."""
    markers = storage.read_many(storage.list_files(folder, ".json"))
    parts = (decode(untrusted.parse_json(data), folder) for data in markers)
    return {part.name: part for part in parts}
