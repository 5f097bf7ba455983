"""How images are fetched."""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from tyro.conf import UseAppendAction

from pipeline.options.fields import decides

OptOut = Literal[
    "robots-alias",
    "content-signal",
    "content-usage",
    "tdmrep",
    "x-robots-tag",
    "tdm-reservation",
    "xmp",
    "page",
    "c2pa",
    "rsl",
    "ai-txt",
]
OPT_OUTS: Final[tuple[OptOut, ...]] = get_args(OptOut)
"""Signals by which a site may refuse machine learning, beside robots.txt; `x-y` is reason opt_out_x_y."""

_LEAST_HELD_BYTES: Final = 500 << 10  # a robots.txt must fit as well (RFC 9309, section 2.5)


def _of_pages(opt_out: tuple[str, ...]) -> tuple[str, ...]:
    """Return the opt-outs that are looked for while sources are read."""
    return tuple(name for name in opt_out if name == "page")


LATER: Final = ("c2pa", "rsl", "ai-txt")
"""Signals that earlier versions did not know: their runs may be extended, and honour them from then on."""


def _in_order(opt_out: tuple[str, ...]) -> tuple[str, ...]:
    """Return the value that decides the result: the first version's signals, and later signals left out."""
    without = (f"no {name}" for name in LATER if name not in opt_out)
    return (*sorted(name for name in opt_out if name not in LATER), *without)


def opt_outs_typed(told: Sequence[str]) -> tuple[str, ...]:
    """Return the signals, sorted, from a value of `_in_order`."""
    later = [name for name in LATER if f"no {name}" not in told]
    return tuple(sorted([*(name for name in told if not name.startswith("no ")), *later]))


@dataclass(frozen=True, kw_only=True)
class FetchOptions:
    """How to fetch; little of it changes which images are right, the rest is outside every fingerprint."""

    contact: str = ""
    """URL or mail address for the User-Agent, so that a site's owner can reach you."""
    publish_contact: bool = False
    """Name --contact in the dataset card and the manifest too, as whom to write to. Else no file that is
    published has it."""
    sign_with: str = ""
    """Private key of `openwit identity`, by which every request is signed (Web Bot Auth, RFC 9421), so that
    sites can verify who asks. A local file, on each machine that fetches; no file of the run names it."""
    timeout: float = 30.0
    """Seconds for one URL from connection to last byte, redirects included, waiting for its turn not."""
    connect_timeout: float = 10.0
    """Seconds for name, connection and TLS handshake."""
    read_timeout: float = 10.0
    """Seconds that a server may stay silent."""
    min_rate: float = 1000.0
    """Bytes per second below which a body is given up, judged from --read-timeout on."""
    max_bytes: int = decides("fetch", default=20 << 20)
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
    address_concurrency: int | None = None
    """Requests at a time to one address, in one process; by default 32, but unlimited in --allow-network."""
    dns_server: UseAppendAction[tuple[str, ...]] = ()
    """Name server to ask instead of the system's, such as 9.9.9.9 or [::1]:5353; may be repeated."""
    max_dns_failures: float = 0.5
    """Share of names without any answer above which the crawl stops, if even example.com gets none."""
    max_held_bytes: int = 256 << 20
    """Bytes of bodies held in one process, read or waiting to be decoded."""
    opt_out: tuple[OptOut, ...] = decides(default=OPT_OUTS, candidates=_of_pages, fetch=_in_order)
    """Opt-outs honoured beside robots.txt. Leaving one out takes images that their owner reserved: have a
    licence."""

    def __post_init__(self) -> None:
        """Raise ValueError, which names the alternative, for options that cannot work."""
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
        if not 0 < self.max_dns_failures <= 1:
            raise ValueError(f"max_dns_failures must be above 0 and up to 1, not {self.max_dns_failures}")
        if self.address_concurrency is not None and self.address_concurrency < 1:
            raise ValueError(f"address_concurrency must be at least 1, not {self.address_concurrency}")
        for text in self.dns_server:
            split_address(text)
        unknown = [name for name in self.opt_out if name not in OPT_OUTS]
        if unknown:
            raise ValueError(f"opt_out must be some of {', '.join(OPT_OUTS)}, not {unknown}")
        for network in self.allow_network:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise ValueError(f"not a network in CIDR notation, such as 127.0.0.0/8: {error}") from None


def split_address(text: str, default_port: int = 53) -> tuple[str, int]:
    """Read HOST or HOST:PORT, HOST a numeric address, IPv6 in brackets if a port follows; else ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]") or (":" in host and not host.endswith("]")):
        host, port = text, str(default_port)
    try:
        number = int(port)
        if not 0 < number < 1 << 16:
            raise ValueError("no port")
        return str(ipaddress.ip_address(host.strip("[]"))), number
    except ValueError:
        raise ValueError(
            f"dns_server must be a numeric address such as 9.9.9.9 or [::1]:5353, not {text!r}"
        ) from None


@dataclass(frozen=True, kw_only=True)
class UnitLimits:
    """Say how large a unit may grow."""

    unit_images: int = 2_000
    """Images in a work unit; a worker fetches one unit at a time, and continues inside it after a stop."""
    unit_rate: float = 100.0
    """Images per second that a unit aims at: if its sites take long, it holds more than --unit-images."""
    unit_seconds: float = 3_600.0
    """Time that a site may take of one round at its rate; its other images come in the next round."""
    unit_lanes: int = 1
    """Units of a round that a site may be in at most, each with an equal share of its rate."""

    def __post_init__(self) -> None:
        """Raise ValueError for limits that allow no unit."""
        if self.unit_images < 1 or self.unit_seconds <= 0 or self.unit_lanes < 1 or self.unit_rate <= 0:
            raise ValueError(
                "unit_images and unit_lanes must be at least 1, unit_seconds and unit_rate more than 0"
            )
