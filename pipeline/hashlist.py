"""Hashes of images that must not be stored: exact ones of the bytes, perceptual ones of the picture."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pipeline import storage

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

DISTANCE: Final = 31
"""Bits of 256 up to which two pictures count as the same: `pipeline.near.groups.RADIUS`, with the reason.

For PDQ it is the distance that Meta advises.
"""
MAX_DISTANCE: Final = 90
"""Unrelated pictures differ in 128 bits on average, with a standard deviation of 8: above this, all match."""

_HEX: Final = re.compile(r"[0-9a-f]+")
_KINDS: Final = {32: "md5", 64: "sha256"}


def look_bytes(digits: str) -> bytes:
    """Return the 32 bytes of a perceptual hash of 64 hex digits; ValueError for anything else."""
    if len(digits) != 64 or not _HEX.fullmatch(digits.lower()):
        raise ValueError(f"a perceptual hash has 64 hex digits, not {digits!r}")
    return bytes.fromhex(digits)


Looks = tuple[tuple[bytes, int], ...]
"""Perceptual hashes of 32 bytes, each with the bits up to which a picture counts as it."""


@dataclass(frozen=True, kw_only=True)
class HashList:
    """Hashes to refuse: SHA-256 and MD5 of the fetched bytes, perceptual hashes each with its distance."""

    sha256: frozenset[bytes] = frozenset()
    md5: frozenset[bytes] = frozenset()
    phashes: Looks = ()
    pdqs: Looks = ()
    _tables: dict[str, "tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]"] = field(
        init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        """Lay the perceptual hashes out for comparison: by kind uint8 [n, 32] and distances [n]."""
        if not self.phashes and not self.pdqs:  # as when only a default distance is asked for
            object.__setattr__(self, "_tables", {})
            return
        import numpy as np

        tables = {
            kind: (
                np.frombuffer(b"".join(value for value, _ in looks), np.uint8).reshape(-1, 32),
                np.array([radius for _, radius in looks], np.int64),
            )
            for kind, looks in (("phash", self.phashes), ("pdq", self.pdqs))
            if looks
        }
        object.__setattr__(self, "_tables", tables)

    def of_bytes(self, data: bytes, sha256: bytes) -> str:
        """Return which kind of hash lists these bytes, or ""."""
        if sha256 in self.sha256:
            return "sha256"
        if self.md5 and hashlib.md5(data, usedforsecurity=False).digest() in self.md5:
            return "md5"
        return ""

    def of_picture(self, phash: str, pdq: str = "") -> str:
        """Return the kind of hash and the distance if a picture is near a hash of the list, or "".

        phash, pdq: 64 hex digits, or "" for none.
        """
        if not self._tables:
            return ""
        import numpy as np

        for kind, digits in (("phash", phash), ("pdq", pdq)):
            if digits and kind in self._tables:
                bits, radii = self._tables[kind]
                own = np.frombuffer(bytes.fromhex(digits), np.uint8)
                distances = np.bitwise_count(bits ^ own).sum(axis=1, dtype=np.int64)
                near = np.flatnonzero(distances <= radii)
                if len(near):
                    return f"{kind}, {distances[near].min()} bits away"
        return ""


def parse(lines: Iterable[str], name: str) -> HashList:
    """Read one hash a line; ValueError names a line that is none, or a list without any.

    A line is `HEX`, of 64 digits for SHA-256 and 32 for MD5, with an optional file name after it as sha256sum
    and md5sum write it; or `sha256 HEX`, `md5 HEX`, `phash HEX [DISTANCE]`, or `pdq HEX [DISTANCE]`. `#`
    begins a comment.
    """
    exact: dict[str, set[bytes]] = {"sha256": set(), "md5": set()}
    looks: dict[str, dict[bytes, int]] = {"phash": {}, "pdq": {}}
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].lower().replace(",", " ").split()
        if not words:
            continue
        kind, *rest = words if words[0] in exact | looks else (_kind(words[0]), *words)
        try:
            if kind in looks:
                radius = int(rest[1]) if len(rest) > 1 else DISTANCE
                looks[kind][look_bytes(rest[0])] = check_distance(radius)
            elif kind in exact and rest and _kind(rest[0]) == kind:
                exact[kind].add(bytes.fromhex(rest[0]))
            else:
                raise ValueError(
                    "not 64 hex digits (SHA-256), 32 (MD5), `pdq HEX DISTANCE`, or `phash HEX DISTANCE`"
                )
        except (ValueError, IndexError) as error:
            raise ValueError(f"{name}, line {number}: {error}: {line.strip()[:80]!r}") from None
    if not any(exact.values()) and not any(looks.values()):
        raise ValueError(f"{name} lists no hash")
    return HashList(
        sha256=frozenset(exact["sha256"]),
        md5=frozenset(exact["md5"]),
        phashes=tuple(sorted(looks["phash"].items())),
        pdqs=tuple(sorted(looks["pdq"].items())),
    )


def load(path: str) -> HashList:
    """Read a list from a file; an empty path is an empty list."""
    if not path:
        return HashList()
    return parse(storage.read_bytes(path).decode("utf-8-sig", "replace").split("\n"), path)


def check_distance(radius: int) -> int:
    """Return a distance between perceptual hashes; ValueError where it would match anything."""
    if not 0 <= radius <= MAX_DISTANCE:
        raise ValueError(f"a distance between perceptual hashes is from 0 to {MAX_DISTANCE} bits")
    return radius


def _kind(word: str) -> str:
    return _KINDS.get(len(word), "") if _HEX.fullmatch(word) else ""
