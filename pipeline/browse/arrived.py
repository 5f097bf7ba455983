"""The last pictures that a crawl has fetched, from the files that it keeps while it is running."""

from typing import Any, Final

import pyarrow.compute as pc

from pipeline import extend, schemas, storage
from pipeline.fetch.parts import Fetched
from pipeline.flow import kept, markers
from pipeline.images.headers import sniff
from pipeline.run_folder import Layout

_PARTS: Final = 3  # files that are looked at
_MOST_BYTES: Final = 64 << 20  # of a part
Place = tuple[str, int, int]


def newest(root: str, most: int) -> list[tuple[dict[str, Any], Place]]:
    """Return (uid and address, place) of the last pictures of a run, the newest first.

    They are in the parts of running units, and in the staged images of finished units.
    """
    layout = extend.under_way(root) or Layout(root)
    rounds = layout.rounds()
    if not rounds:
        return []
    folder = layout.round(rounds[-1])
    found: list[tuple[dict[str, Any], Place]] = []
    parts = [path for unit in storage.list_files(storage.join(folder, "kept")) for path in _parts(unit)]
    for path in _latest(parts):
        found += _of_part(path)
    units = [path for path in storage.list_files(folder, ".json") if not path.endswith("results.json")]
    for path in _latest(units):
        if len(found) >= most:
            break
        found += _of_unit(folder, storage.stem(path), most)
    return found[:most]


def _parts(unit: str) -> list[str]:
    return storage.list_files(unit, kept.SUFFIX)


def _latest(paths: list[str]) -> list[str]:
    """Return the files that were written last; on an object store those of the last names."""
    if paths and not storage.is_local(paths[0]):
        return paths[::-1][:_PARTS]
    times = {path: storage.local_path(path).stat().st_mtime_ns for path in paths if storage.exists(path)}
    return sorted(times, key=lambda path: -times[path])[:_PARTS]


def _of_part(path: str) -> list[tuple[dict[str, Any], Place]]:
    if storage.file_info(path).size > _MOST_BYTES:
        return []
    with storage.open_input(path) as file:
        records = [
            (
                {"uid": str(header["key"]), "url": str(header.get("final_url", ""))},
                (path, offset, offset + size),
            )
            for header, offset, size in kept.scan(file, skip_bodies=True)
            if size
        ]
    return records[::-1]


def _of_unit(folder: str, name: str, most: int) -> list[tuple[dict[str, Any], Place]]:
    part = markers.read_marker(folder, name)
    if not isinstance(part, Fetched):
        return []
    table = schemas.read_table(
        part.path, ["uid", "final_url", "reason", "blob", "offset", "length", "fetched_at"]
    )
    table = table.filter(pc.equal(table["reason"], "")).sort_by([("fetched_at", "descending")]).slice(0, most)
    return [
        (
            {"uid": row["uid"].hex(), "url": row["final_url"]},
            (part.blob, row["offset"], row["offset"] + row["length"]),
        )
        for row in table.to_pylist()
    ]


def picture(place: Place) -> bytes | None:
    """Return a fetched picture, or None if it has gone."""
    try:
        data = storage.read_ranges([place])[0]
    except OSError:
        return None
    return data if sniff(data) == "jpeg" else None
