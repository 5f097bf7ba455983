"""The files that browse writes on request: lists of uids, small WebDatasets, views under a name."""

import json
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from pipeline import schemas, storage, untrusted
from pipeline.index.search import Search
from pipeline.shards import Sample, write_shard

FOLDER: Final = "selections"
"""Of a run, in which all this lies."""
MOST: Final = 10_000
"""Samples of a WebDataset that is written here: one shard."""
_VIEWS: Final = "views.json"
_READ: Final = 64  # pictures at a time
_LOCK: Final = threading.Lock()


def check_name(name: object) -> str:
    """Return a name that a file may have; ValueError."""
    if not isinstance(name, str):
        raise ValueError("name is missing")
    if not name.replace("-", "").replace("_", "").isalnum() or not name.isascii() or len(name) > 80:
        raise ValueError("a name has letters, digits, - and _")
    return name


def write_list(folder: str, name: str, uids: Iterable[str]) -> dict[str, Any]:
    """Write uids as Parquet, for --keep or --drop; return path and samples."""
    path = storage.join(folder, FOLDER, f"{name}.parquet")
    chosen = sorted(set(uids))
    schemas.write_table(path, pa.table({"uid": pa.array(chosen, pa.string())}))
    return {"path": path, "samples": len(chosen)}


def write_webdataset(folder: str, name: str, uids: Iterable[str], search: Search) -> dict[str, Any]:
    """Write the samples of a selection as one shard, in the order of the uids; ValueError if it is too much.

    Pictures and KEY.json are those of the set, byte for byte, and KEY.txt the first caption. A takedown of
    the run does not reach this copy.
    """
    chosen = list(dict.fromkeys(uids))
    if not 0 < len(chosen) <= MOST:
        raise ValueError(
            f"1 to {MOST:,} samples fit here, not {len(chosen):,}: save a list and train --keep it"
        )
    path = storage.join(folder, FOLDER, name, "00000.tar")
    with storage.atomic_output(path) as local:
        written = write_shard(Path(local), _samples(chosen, search))
    return {"path": path, "samples": written.samples}


def _samples(uids: list[str], search: Search) -> Iterator[Sample]:
    number = 0
    for start in range(0, len(uids), _READ):
        some = uids[start : start + _READ]
        rows = [row for uid in some if (row := search.sample(uid)) is not None and row["suffix"] in _JPEG]
        data = storage.read_ranges([search.place(row, part) for row in rows for part in ("", "json_")])
        for row, jpeg, stored in zip(rows, data[::2], data[1::2], strict=True):
            yield Sample(f"{number:09d}", jpeg, row["caption"].partition("\n")[0], stored or b"{}")
            number += 1


_JPEG: Final = ("jpg", "jpeg")


def views(folder: str) -> dict[str, str]:
    """Return the saved views: their addresses in the page, by name."""
    path = storage.join(folder, FOLDER, _VIEWS)
    if not storage.exists(path):
        return {}
    found = untrusted.load_json(path)
    pairs = found.items() if isinstance(found, dict) else []
    return {str(name): view for name, view in pairs if isinstance(view, str) and view.startswith("#/")}


def save_view(folder: str, name: str, view: object) -> dict[str, str]:
    """Save an address of the page under a name, or take the name away if it is empty; return all."""
    if not isinstance(view, str) or len(view) > 4000 or (view and not view.startswith("#/")):
        raise ValueError("a view is an address of this page, from # on")
    with _LOCK:
        found = {**views(folder), name: view}
        found = {key: value for key, value in sorted(found.items()) if value}
        text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
        storage.write_bytes(storage.join(folder, FOLDER, _VIEWS), text.encode())
    return found
