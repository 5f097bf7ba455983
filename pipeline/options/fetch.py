"""How images are fetched."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from tyro.conf import UseAppendAction

_LEAST_HELD_BYTES: Final = 500 << 10  # a robots.txt must fit as well (RFC 9309, section 2.5)


@dataclass(frozen=True, kw_only=True)
class FetchOptions:
    """How to fetch; none of it changes which images are right, so it is outside every fingerprint."""

    contact: str = ""
    """URL or mail address for the User-Agent, so that a site's owner can reach whoever crawls it."""
    timeout: float = 30.0
    """Seconds for one URL from connection to last byte, redirects included, waiting for its turn not."""
    connect_timeout: float = 10.0
    """Seconds for name, connection and TLS handshake."""
    read_timeout: float = 10.0
    """Seconds a server may stay silent."""
    min_rate: float = 1000.0
    """Bytes a second below which a body is given up, judged from --read-timeout on."""
    max_bytes: int = 20 << 20
    """Bytes of a body."""
    max_redirects: int = 5
    """Redirects followed within a site; 0 follows none."""
    max_inflight: int = 256
    """Requests at a time, in one process."""
    host_delay: float | None = None
    """Seconds between the starts of two requests to a site; by default 1, but 0 in --allow-network."""
    host_concurrency: int = 2
    """Requests at a time to a site."""
    allow_network: UseAppendAction[tuple[str, ...]] = ()
    """Network (CIDR) to open although it is not public, such as 127.0.0.0/8. May be given several times."""
    max_held_bytes: int = 256 << 20
    """Bytes of bodies held in one process, read or waiting to be decoded."""

    def __post_init__(self) -> None:
        """Refuse what cannot work; ValueError says what would."""
        for name in (
            "timeout",
            "connect_timeout",
            "read_timeout",
            "max_bytes",
            "max_inflight",
            "host_concurrency",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be more than 0, not {getattr(self, name)}")
        for name in ("min_rate", "max_redirects", "host_delay"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ValueError(f"{name} must not be negative, but is {value}")
        if self.max_held_bytes < max(self.max_bytes, _LEAST_HELD_BYTES):
            raise ValueError(
                f"max_held_bytes ({self.max_held_bytes}) must hold one body of max_bytes ({self.max_bytes})"
            )
        if not re.fullmatch(r"[!-'*-~]*", self.contact):
            raise ValueError(
                f"contact must be a URL or a mail address without spaces and brackets: {self.contact!r}"
            )
        for network in self.allow_network:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise ValueError(f"not a network in CIDR notation, such as 127.0.0.0/8: {error}") from None
