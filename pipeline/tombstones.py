"""Samples that were taken down, as hashes: later stages refuse them, and the list itself names nobody.

A URL stands as its uid, a domain as a digest of the same kind, an image as the SHA-256 of its bytes and,
where its look was named, as its perceptual hash with a distance.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from pipeline import hashlist, storage, untrusted, urls
from pipeline.hashlist import HashList

FILE: Final = "tombstones.json"
PENDING: Final = "takedown.json"
_MAX_JSON: Final = 1 << 30  # bytes: a digest for each image
"""The tombstones that a running takedown is about to apply."""


def domain_digest(name: str) -> str:
    """Return 32 hex digits for a domain or host name in lower case."""
    return hashlib.sha256(name.encode()).hexdigest()[:32]


@dataclass(frozen=True, kw_only=True)
class Tombstones:
    """The digests of URLs, domains and images that must not come back."""

    urls: frozenset[str] = frozenset()
    """uids of canonical URLs, of images or of pages."""
    domains: frozenset[str] = frozenset()
    """`domain_digest` of names; their subdomains are included."""
    images: HashList = field(default_factory=HashList)

    def __bool__(self) -> bool:
        """Return whether there is anything to refuse."""
        return bool(self.urls or self.domains or self.images.sha256 or self.images.phashes)

    def has_url(self, url: str) -> bool:
        """Return whether a URL, or the site that it is on, was taken down; False for anything that is no
        URL."""
        if not url or not (self.urls or self.domains):
            return False
        try:
            return urls.uid(urls.canonical(url)) in self.urls or self.has_host(urls.host(url))
        except urls.BadUrl:
            return False

    def has_host(self, name: str) -> bool:
        """Return whether a host, or a domain above it, was taken down."""
        if not self.domains:
            return False
        labels = name.split(".")
        return any(domain_digest(".".join(labels[i:])) in self.domains for i in range(len(labels)))

    def __or__(self, other: "Tombstones") -> "Tombstones":
        """Return both together; of two distances of one picture the larger."""
        phashes: dict[bytes, int] = {}
        for value, radius in (*self.images.phashes, *other.images.phashes):
            phashes[value] = max(radius, phashes.get(value, 0))
        images = HashList(
            sha256=self.images.sha256 | other.images.sha256, phashes=tuple(sorted(phashes.items()))
        )
        return Tombstones(urls=self.urls | other.urls, domains=self.domains | other.domains, images=images)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON that `from_json` reads."""
        return {
            "format": "openwit tombstones", "format_version": 1,
            "urls": sorted(self.urls), "domains": sorted(self.domains),
            "sha256": sorted(value.hex() for value in self.images.sha256),
            "phash": [[value.hex(), radius] for value, radius in self.images.phashes],
        }  # fmt: skip

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "Tombstones":
        """Return the value of which `to_json` wrote the JSON."""
        images = HashList(
            sha256=frozenset(bytes.fromhex(value) for value in found["sha256"]),
            phashes=tuple((bytes.fromhex(value), radius) for value, radius in found["phash"]),
        )
        return cls(urls=frozenset(found["urls"]), domains=frozenset(found["domains"]), images=images)


def request(
    *,
    url: Iterable[str] = (),
    domain: Iterable[str] = (),
    sha256: Iterable[str] = (),
    phash: Iterable[str] = (),
    distance: int = hashlist.DISTANCE,
) -> Tombstones:
    """Return the tombstones for a request of removal; ValueError for a line that is not understood."""
    digests = []
    for value in sha256:
        digest = value.lower()
        if len(digest) != 64 or digest.strip("0123456789abcdef"):
            raise ValueError(f"a SHA-256 has 64 hex digits, not {value!r}")
        digests.append(bytes.fromhex(digest))
    looks = {hashlist.look_bytes(value): hashlist.check_distance(distance) for value in phash}
    return Tombstones(
        urls=frozenset(urls.uid(twin) for one in url for twin in _twins(urls.canonical(one))),
        domains=frozenset(domain_digest(_domain(name)) for name in domain),
        images=HashList(sha256=frozenset(digests), phashes=tuple(sorted(looks.items()))),
    )


def _twins(url: str) -> tuple[str, str]:
    """Return a URL under http and https: a request for removal covers both."""
    rest = url.partition("://")[2]
    return f"http://{rest}", f"https://{rest}"


def _domain(name: str) -> str:
    """Return a domain as hosts are spelled in URLs; a whole public suffix would be half the web."""
    bare = name.strip().removeprefix("*").lstrip(".").rstrip(".")
    try:
        host = urls.host(f"http://{bare}/")
    except urls.BadUrl as error:
        raise ValueError(f"{name!r} is not a domain: {error}") from None
    if "/" in bare or "@" in bare:
        raise ValueError(f"--domain takes a name such as example.org, not {name!r}")
    if urls.is_public_suffix(host):
        raise ValueError(f"{host} is not one site but a public suffix, under which anybody can have a site")
    return host


def load(root: str) -> Tombstones:
    """Return a run's tombstones, none if nothing was ever taken down; ValueError for a damaged file."""
    path = storage.join(root, FILE)
    found = untrusted.read_json(path, _MAX_JSON)
    try:
        return Tombstones() if found is None else Tombstones.from_json(found)
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path} was not written by `openwit takedown`") from None


def pending(root: str) -> str:
    """Return the advice about a takedown that was interrupted, or "" if there is none."""
    if not storage.exists(storage.join(root, PENDING)):
        return ""
    return f"a takedown was interrupted; finish it with: openwit takedown --run {root}"


def save(root: str, tombstones: Tombstones) -> None:
    """Publish a run's tombstones."""
    text = json.dumps(tombstones.to_json(), indent=1) + "\n"
    storage.write_bytes(storage.join(root, FILE), text.encode())
