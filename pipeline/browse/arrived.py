"""The last pictures that a crawl has fetched, and the sites that fail, from the files of a running crawl."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import pyarrow.compute as pc

from pipeline import extend, schemas, storage
from pipeline.fetch.parts import Fetched
from pipeline.flow import kept, markers
from pipeline.images.headers import sniff
from pipeline.index.values import site_of
from pipeline.report.funnel import is_opt_out
from pipeline.run_folder import Layout

_PARTS: Final = 3  # files that are looked at
_MOST_BYTES: Final = 64 << 20  # of a part
Place = tuple[str, int, int]


def newest(root: str, most: int) -> list[tuple[dict[str, Any], Place]]:
    """Return (uid and address, place) of the last pictures of a run, the newest first.

    They are in the parts of running units, and in the staged images of finished units.
    """
    folder = _last_round(root)
    found: list[tuple[dict[str, Any], Place]] = []
    for path in _parts(folder):
        found += _of_part(path)
    for name in _units(folder):
        if len(found) >= most:
            break
        found += _of_unit(folder, name, most)
    return found[:most]


def troubled(root: str, most: int) -> list[dict[str, Any]]:
    """Return the sites with the most failures in the files that were written last: site, failed, of, reason.

    Opt-outs and robots.txt are no failures; `reason` is a site's most frequent one.
    """
    folder = _last_round(root)
    asked, failed = Counter[str](), dict[str, Counter[str]]()
    for url, reason in (*_answers_of_parts(folder), *_answers_of_units(folder)):
        site = site_of(url)
        asked[site] += 1
        if site and reason and not is_opt_out(reason):
            failed.setdefault(site, Counter())[reason] += 1
    worst = sorted(failed.items(), key=lambda item: (-item[1].total(), item[0]))[:most]
    return [
        {"site": site, "failed": own.total(), "of": asked[site], "reason": own.most_common(1)[0][0]}
        for site, own in worst
    ]


def _answers_of_parts(folder: str) -> Iterator[tuple[str, str]]:
    """Yield URL and reason, "" for a picture, of what running units have asked for."""
    for path in _parts(folder):
        if storage.file_info(path).size <= _MOST_BYTES:
            with storage.open_input(path) as file:
                for header, _, _ in kept.scan(file, skip_bodies=True):
                    yield str(header.get("final_url", "")), str(header.get("reason", ""))


def _answers_of_units(folder: str) -> Iterator[tuple[str, str]]:
    for name in _units(folder):
        part = markers.read_marker(folder, name)
        if isinstance(part, Fetched):
            table = schemas.read_table(part.path, ["final_url", "reason"])
            yield from zip(table["final_url"].to_pylist(), table["reason"].to_pylist(), strict=True)


def _last_round(root: str) -> str:
    """Return the folder of the last round, or "" before the first."""
    layout = extend.under_way(root) or Layout(root)
    rounds = layout.rounds()
    return layout.round(rounds[-1]) if rounds else ""


def _parts(folder: str) -> list[str]:
    """Return the parts of running units that were written last."""
    units = storage.list_files(storage.join(folder, "kept")) if folder else []
    return _latest([path for unit in units for path in storage.list_files(unit, kept.SUFFIX)])


def _units(folder: str) -> list[str]:
    """Return the names of the finished units that were written last."""
    files = storage.list_files(folder, ".json") if folder else []
    return [
        storage.stem(path) for path in _latest([path for path in files if not path.endswith("results.json")])
    ]


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
