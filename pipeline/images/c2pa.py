"""Read C2PA manifests (C2PA 2.x) as far as they say how a picture was made and whether it may be trained on.

A manifest store is a tree of JUMBF boxes (ISO/IEC 19566-5), its assertions CBOR or JSON. Nothing is fetched,
and no signature is checked: a forged refusal is believed, and so is a statement that a machine made the
picture. Sizes are bounded, and broken parts count as absent; never raises.
"""

import struct
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import orjson

from pipeline.images import odrl
from pipeline.images.embedded import boxes

_MAX_BOXES: Final = 2_000
_MAX_DEPTH: Final = 16
_MAX_ITEMS: Final = 20_000
_MAX_ASSERTION: Final = 1 << 20
_LENGTHS: Final = {24: ">B", 25: ">H", 26: ">I", 27: ">Q"}
_FLOATS: Final = {25: ">e", 26: ">f", 27: ">d"}
_LABELS: Final = ("c2pa.actions", "stds.iptc", "c2pa.metadata", "cawg.metadata", "stds.schema-org")
_TRAINING: Final = ("ai_training", "ai_generative_training", "data_mining")
_REFUSING: Final = {"notallowed": "notAllowed", "constrained": "constrained"}


class Assertion(NamedTuple):
    """A decoded assertion; fields only."""

    manifest: int
    """Place of its manifest in the store; the last is the active manifest, of the picture as it is."""
    label: str
    value: Any


class Store(NamedTuple):
    """The assertions of a manifest store; fields only."""

    assertions: tuple[Assertion, ...] = ()
    manifests: int = 0


def read(jumbf: bytes) -> Store:
    """Return the assertions of a manifest store that are read here."""
    found: list[Assertion] = []
    manifests, left = 0, _MAX_BOXES
    waiting = [(start, end, 0, -1, "") for kind, start, end in boxes(jumbf) if kind == b"jumb"]
    while waiting and left:
        start, end, depth, manifest, _ = waiting.pop(0)
        inner = list(_first(boxes(jumbf, start, end), left))
        left -= min(len(inner), left)
        label = _label(jumbf, inner)
        if depth == 1:  # below the store: its manifests, in order
            manifest, manifests = manifests, manifests + 1
        if depth < _MAX_DEPTH:
            waiting += [(a, b, depth + 1, manifest, label) for kind, a, b in inner if kind == b"jumb"]
        if _is_read(label):
            values = (_decoded(kind, jumbf[a : min(b, a + _MAX_ASSERTION)]) for kind, a, b in inner)
            found += (Assertion(manifest, label, value) for value in values if value is not None)
    return Store(tuple(found), manifests)


def _first(found: Iterator[tuple[bytes, int, int]], count: int) -> Iterator[tuple[bytes, int, int]]:
    for _, one in zip(range(count), found, strict=False):
        yield one


def _label(data: bytes, inner: list[tuple[bytes, int, int]]) -> str:
    """Return the label of a superbox: in its description, after the type and a byte of toggles."""
    if not inner or inner[0][0] != b"jumd":
        return ""
    _, start, end = inner[0]
    if end - start < 18 or not data[start + 16] & 2:
        return ""
    return data[start + 17 : min(end, start + 273)].split(b"\0", 1)[0].decode("utf-8", "replace")


def _name(label: str) -> str:
    """Return an assertion's name: c2pa.actions__1 is the second one of its kind."""
    return label.partition("__")[0]


def _is_read(label: str) -> bool:
    name = _name(label)
    return name == "jpt.rights" or name.startswith(_LABELS) or name.endswith("training-mining")


def _decoded(kind: bytes, data: bytes) -> Any:
    try:
        if kind == b"cbor":
            return cbor(data)
        return orjson.loads(data) if kind == b"json" else None
    except (ValueError, struct.error, RecursionError, OverflowError):
        return None


def cbor(data: bytes) -> Any:
    """Decode one item of CBOR (RFC 8949); ValueError or struct.error if it is malformed or too large."""
    left, position = _MAX_ITEMS, 0

    def argument(info: int) -> int:
        nonlocal position
        if info < 24:
            return info
        code = _LENGTHS.get(info)
        if code is None:
            raise ValueError("a reserved length")
        (value,) = struct.unpack_from(code, data, position)
        position += struct.calcsize(code)
        return int(value)

    def text(kind: int, info: int) -> bytes:
        nonlocal position
        if info == 31:
            parts = []
            while data[position : position + 1] != b"\xff":
                parts.append(item(_MAX_DEPTH * 2, kind))
            position += 1
            return b"".join(one if isinstance(one, bytes) else str(one).encode() for one in parts)
        length = argument(info)
        if length > len(data) - position:
            raise ValueError("longer than the data")
        position += length
        return data[position - length : position]

    def item(depth: int, wanted: int = -1) -> Any:
        nonlocal left, position
        left -= 1
        if left < 0 or depth > 4 * _MAX_DEPTH or position >= len(data):
            raise ValueError("too many items, too deep, or cut")
        kind, info = data[position] >> 5, data[position] & 31
        position += 1
        if wanted >= 0 and (kind != wanted or info == 31):
            raise ValueError("a chunk of another kind")
        if kind < 2:
            value = argument(info)
            return value if kind == 0 else -1 - value
        if kind == 2:
            return text(kind, info)
        if kind == 3:
            return text(kind, info).decode("utf-8", "replace")
        if kind == 4:
            return list(members(info, depth))
        if kind == 5:
            found = list(members(info, depth, 2))
            return {str(key): value for key, value in zip(found[::2], found[1::2], strict=False)}
        if kind == 6:  # a tag, whose content counts
            argument(info)
            return item(depth + 1)
        if info in _FLOATS:
            (value,) = struct.unpack_from(_FLOATS[info], data, position)
            position += struct.calcsize(_FLOATS[info])
            return value
        return {20: False, 21: True}.get(info if info < 24 else argument(info))

    def members(info: int, depth: int, each: int = 1) -> Iterator[Any]:
        nonlocal position
        count = -1 if info == 31 else argument(info) * each
        while count:
            if count < 0 and data[position : position + 1] == b"\xff":
                position += 1
                return
            count -= 1
            yield item(depth + 1)

    return item(0)


class SourceType(NamedTuple):
    """A digital source type that a manifest states; fields only."""

    term: str
    action: str
    is_active: bool
    """Whether it is the picture's own manifest, or that of something it was made from."""


def source_types(store: Store) -> Iterator[SourceType]:
    """Yield every digitalSourceType of actions and of metadata."""
    for one in store.assertions:
        is_active = one.manifest == store.manifests - 1
        for holder, value in _found(one.value, ("digitalSourceType", "Iptc4xmpExt:DigitalSourceType")):
            if isinstance(value, str):
                term = value.rstrip("/").rpartition("/")[2]
                yield SourceType(term, str(holder.get("action", "")), is_active)


def _found(value: Any, names: tuple[str, ...]) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield (object, value) of members of these names, however deep."""
    waiting, left = [value], _MAX_ITEMS
    while waiting and left:
        left -= 1
        one = waiting.pop()
        if isinstance(one, dict):
            for name in names:
                if name in one:
                    yield one, one[name]
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one


def refusal(store: Store) -> str:
    """Return a refusing entry of a training and data mining assertion (CAWG 1.1, C2PA 1.x), or "".

    Any manifest of the store counts: the pictures that this picture was made from have owners, too.
    `constrained` refuses, since it takes terms that nobody here has agreed to. So do rights declarations of
    JPEG Trust (`odrl`).
    """
    for one in store.assertions:
        if _name(one.label) == "jpt.rights" and (found := odrl.refusal(one.value)):
            return f"jpt.rights {found}"[:200]
        if not _name(one.label).endswith("training-mining") or not isinstance(one.value, dict):
            continue
        entries = one.value.get("entries", one.value)
        for name, entry in entries.items() if isinstance(entries, dict) else ():
            use = entry.get("use") if isinstance(entry, dict) else entry
            word = _REFUSING.get(str(use).replace("_", "").replace("-", "").lower())
            if word and str(name).rpartition(".")[2] in _TRAINING:
                return f"{name}: {word}"[:200]
    return ""
