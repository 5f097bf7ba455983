"""Where the fetcher may connect to: web ports on public addresses, and ranges that the user opened.

URLs and redirects come from strangers, and names resolve to whatever their owners like, so only the code that
makes sockets sees every address: a resolver is never asked about IP literals, and a check before the
connection is undone by the next DNS answer (rebinding). `socket_factory` is that place; `check_url` only says
no earlier and more clearly. Server-side request forgery: OWASP Top 10 2021, A10.
"""

import contextvars
import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from pipeline import urls

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
AddressInfo = tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[object, ...]]
"""An entry of getaddrinfo: family, type, protocol, canonical name, socket address."""

WEB_PORTS: Final = frozenset({80, 443, 8000, 8080, 8443, 8888})
"""A crawler must not be made to speak to mail, database or shell servers."""

RECEIVE_BUFFER: Final = 64 << 10
"""Bytes the kernel may hold for a connection, so that no flooding server can occupy the event loop."""

# `ipaddress.is_global` differs between Python versions and holds for ranges that lead elsewhere, so IPv6 is
# an allow-list: global unicast (RFC 4291, section 2.4) without ranges that embed IPv4 or are for documents.
_GLOBAL_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
_V6_DENIED: Final = (
    ipaddress.IPv6Network("2001::/23"),  # IETF protocol assignments, Teredo among them (RFC 2928, RFC 4380)
    ipaddress.IPv6Network("2001:db8::/32"),  # documentation (RFC 3849)
    ipaddress.IPv6Network("2002::/16"),  # 6to4 (RFC 3056)
    ipaddress.IPv6Network("3fff::/20"),  # documentation (RFC 9637)
)
_V4_DENIED: Final = (
    ipaddress.IPv4Network("192.0.0.0/24"),  # IETF protocol assignments (RFC 6890)
    ipaddress.IPv4Network("192.88.99.0/24"),  # 6to4 relays (RFC 7526)
    ipaddress.IPv4Network("168.63.129.16/32"),  # Azure's platform service, on a public address
)


class AddressBlocked(OSError):  # noqa: N818 - the connector tries the next address only after an OSError
    """The policy refuses the connection; `reason` is a word of `pipeline.reasons`."""

    def __init__(self, reason: str, address: str) -> None:
        super().__init__(f"{reason}: {address}")
        self.reason = reason


@dataclass
class Attempts:
    """The outcome of one request's connections, written where the sockets are made."""

    opened: int = 0
    address: str = ""
    """The last address to which a connection was tried."""
    blocked: str = ""
    """The reason of the last refusal."""


ATTEMPTS: Final[contextvars.ContextVar[Attempts | None]] = contextvars.ContextVar("ATTEMPTS", default=None)
"""Set by anyone who wants to know; tasks started below share the object."""


class AddressPolicy:
    """Judge numeric addresses and ports; `allow` opens networks that would be refused, on any port."""

    def __init__(self, allow: tuple[Network, ...] = ()) -> None:
        self._allow = allow

    @classmethod
    def from_text(cls, networks: tuple[str, ...]) -> "AddressPolicy":
        """Read networks such as 127.0.0.0/8; ValueError names the text that is not a network."""
        try:
            return cls(tuple(ipaddress.ip_network(text) for text in networks))
        except ValueError as error:
            raise ValueError(f"not a network in CIDR notation, such as 127.0.0.0/8: {error}") from None

    @property
    def opens_any(self) -> bool:
        """Return whether any network is opened."""
        return bool(self._allow)

    def opens(self, ip: str) -> bool:
        """Return whether `ip` is in a network that the user opened."""
        address = _address(ip)
        return address is not None and any(address in network for network in self._allow)

    def check(self, ip: str, port: int | None = None) -> str | None:
        """Return `address_blocked`, `port_blocked`, or None if a connection is allowed."""
        if self.opens(ip):
            return None
        address = _address(ip)
        if address is None or not _is_public(address):
            return "address_blocked"
        return None if port is None or port in WEB_PORTS else "port_blocked"


def check_url(url: str, policy: AddressPolicy) -> str | None:
    """Return why `url` is not to be fetched, or None: scheme, validity, address literals, ports.

    Reasons: `bad_url`, `bad_scheme`, `data_url`, `address_blocked`, `port_blocked`. The addresses of names
    are judged when they are connected to; so are their ports where networks are opened.
    """
    try:
        href = urls.resolve(url)
    except urls.BadUrl as error:
        return error.reason
    host, port = split_authority(href)
    if _address(host) is not None:
        return policy.check(host, port)
    return None if port in WEB_PORTS or policy.opens_any else "port_blocked"


def split_authority(href: str) -> tuple[str, int]:
    """Return host (IPv6 without brackets) and port of a URL as `urls.resolve` returns it."""
    scheme, _, authority, *_ = href.split("/", 3)
    host, colon, port = authority.rpartition(":")
    if not colon or authority.endswith("]"):
        host, port = authority, "443" if scheme == "https:" else "80"
    return host.strip("[]"), int(port)


def socket_factory(
    policy: AddressPolicy, on_socket: Callable[[socket.socket], None] = lambda _: None
) -> Callable[[AddressInfo], socket.socket]:
    """Return a maker of TCP sockets, for aiohttp's connector, that raises AddressBlocked by `policy`.

    `on_socket` is told of each.
    """

    def make(info: AddressInfo) -> socket.socket:
        family, kind, protocol, _, (ip, port, *_) = info
        attempts = ATTEMPTS.get() or Attempts()
        reason = policy.check(str(ip), int(str(port)))
        if reason is not None:
            attempts.blocked = reason
            raise AddressBlocked(reason, str(ip))
        made = socket.socket(family, kind, protocol)
        # Before the connection, since the window is negotiated with it.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        attempts.opened += 1
        attempts.address = str(ip)
        on_socket(made)
        return made

    return make


@lru_cache(maxsize=1 << 12)
def _address(text: str) -> Address | None:
    """Parse an IP address; an IPv4 address inside an IPv6 address (::ffff:0:0/96) is read as IPv4."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        return address in _GLOBAL_UNICAST and not any(address in network for network in _V6_DENIED)
    if not address.is_global or address.is_multicast or address.is_reserved:
        return False
    return not any(address in network for network in _V4_DENIED)
