"""Read the manifest of a finished run as anybody may have written it: only what has its form is let in.

Names of shards become paths that commands read, hash and write anew, so they are digits and .tar.
"""

import re
from collections.abc import Callable
from typing import Any, Final

from pipeline import storage, untrusted
from pipeline.reasons import REASONS
from pipeline.run_folder import STAGES

SHARD_NAME: Final = re.compile(r"[0-9]{1,18}\.tar", re.ASCII)
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_MOST: Final = 2**63

Form = Callable[[Any, str], None]
"""Raises ValueError that names a place unless the value there has the form."""


def _a(what: str, holds: Callable[[Any], bool]) -> Form:
    def form(value: Any, place: str) -> None:
        if not holds(value):
            raise ValueError(f"{place or 'it'} is not {what}")

    return form


def _object(required: dict[str, Form], optional: dict[str, Form] | None = None) -> Form:
    known = required | (optional or {})

    def form(value: Any, place: str) -> None:
        _dict(value, place)
        prefix = f"{place}." if place else ""
        for name in required.keys() - value.keys():
            raise ValueError(f"{prefix}{name} is missing")
        for name in known.keys() & value.keys():
            known[name](value[name], f"{prefix}{name}")

    return form


def _each(inner: Form, key: Callable[[str], bool] | None = None) -> Form:
    """Return the form of an object of any names, or of those for which `key` holds."""

    def form(value: Any, place: str) -> None:
        _dict(value, place)
        for name, item in value.items():
            if key is not None and not key(name):
                raise ValueError(f"{place} has {name!r}, which this version of openwit does not know")
            inner(item, f"{place}.{name}")

    return form


def _list(inner: Form) -> Form:
    def form(value: Any, place: str) -> None:
        if not isinstance(value, list):
            raise ValueError(f"{place} is not a list")
        for index, item in enumerate(value):
            inner(item, f"{place}[{index}]")

    return form


def _or_none(inner: Form) -> Form:
    def form(value: Any, place: str) -> None:
        if value is not None:
            inner(value, place)

    return form


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | bool | int | float)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and SHARD_NAME.fullmatch(value) is not None


_dict: Final = _a("an object", lambda v: isinstance(v, dict))
_text: Final = _a("a text", lambda v: isinstance(v, str))
_count: Final = _a("a count", lambda v: isinstance(v, int) and not isinstance(v, bool) and 0 <= v < _MOST)
_integer: Final = _a("an integer", lambda v: isinstance(v, int) and not isinstance(v, bool))
_bool: Final = _a("true or false", lambda v: isinstance(v, bool))
_digest: Final = _a("a SHA-256 in hex", lambda v: isinstance(v, str) and bool(_DIGEST.fullmatch(v)))
_option: Final = _a(
    "an option's value", lambda v: _is_scalar(v) or (isinstance(v, list) and all(map(_is_scalar, v)))
)
_name: Final = _a("the name of a shard, digits and .tar", _is_name)
_crawled: Final = _object({"first": _or_none(_text), "last": _or_none(_text)})
_extensions: Final = _list(_object({"source": _list(_text)}))
_counts: Final = _object(
    {
        **dict.fromkeys(("candidates", "captions", "samples", "rejected"), _count),
        "rejected_by_stage": _each(_each(_count, REASONS.__contains__), STAGES.__contains__),
    }
)

_PART: Final = _object(
    {"shards": _list(_object({"name": _name}, {"samples": _count}))},
    {"crawled": _crawled, "extensions": _list(_dict)},
)
_WHOLE: Final = _object(
    {
        "shards": _list(
            _object({"name": _name, "samples": _count, "bytes": _count, "sha256": _digest,
                     "parquet_sha256": _digest})
        ),
        "configuration": lambda value, place: (
            _each(_option)(value, place),
            _object({"queries": _text, "per_query": _count, "source": _list(_text)})(value, place),
        )[0],
        "seed": _integer, "crawled": _crawled, "rejected_sampled": _bool,
        "counts": _counts,
        "queries": _each(_count),
        "rounds": _list(_object({"images": _count, "bytes": _count, "reasons": _each(_count)})),
    },
    {
        "semantics": _object(dict.fromkeys(STAGES, _dict)), "versions": _each(_text), "images_seen": _count,
        "extensions": _extensions, "pilot": _or_none(_dict),
        "near_duplicates": _or_none(
            _object(
                {
                    **dict.fromkeys(("removed", "images", "groups"), _count),
                    "sites": _list(_object({"site": _text, "removed": _count, "images": _count})),
                }
            )
        ),
    },
)  # fmt: skip


def read(root: str, *, whole: bool = True) -> dict[str, Any] | None:
    """Return a run's manifest, None if it has none; ValueError if it is not one that openwit writes.

    whole: ask for everything that a command on runs needs; False for the list of shards alone, each with its
    samples where they are counted, which is what a reader of the images needs.
    """
    path = storage.join(root, "manifest.json")
    found = untrusted.read_json(path)
    if found is None and not storage.exists(path):
        return None
    return check(found, path, whole=whole)


def of(root: str, *, whole: bool = True) -> dict[str, Any]:
    """Return a run's manifest, as `read`; ValueError also where there is none."""
    found = read(root, whole=whole)
    if found is None:
        raise ValueError(
            f"{root} is not a finished run (it has no manifest.json): finish it with its command"
        )
    return found


def check(found: Any, path: str, *, whole: bool = True) -> dict[str, Any]:
    """Return a manifest's value if it is one; ValueError that names the first place that is not."""
    try:
        (_WHOLE if whole else _PART)(found, "")
        names = [shard["name"] for shard in found["shards"]]
        if len(set(names)) < len(names):
            raise ValueError("shards names a shard twice")
    except ValueError as error:
        raise ValueError(f"{path} is not the manifest of a run of openwit: {error}") from None
    manifest: dict[str, Any] = found
    return manifest


def check_counts(counts: Any, path: str) -> None:
    """Raise ValueError unless a value is what a manifest says of candidates, captions and samples."""
    try:
        _counts(counts, "counts")
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def check_names(names: Any, path: str) -> list[str]:
    """Return names of shards that a file lists; ValueError if one is no such name."""
    if not isinstance(names, list) or not all(map(_is_name, names)):
        raise ValueError(f"{path} must list shards as digits and .tar")
    return names
