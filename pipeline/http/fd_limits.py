"""Open files: connections are files, and where a system allows few of them we wait rather than fail."""

import contextlib
import resource
import socket
from typing import Final

from pipeline.options import FetchOptions

RESERVED: Final = 96
"""Files of the process that are none of the client's: the runner's channels, tables, the decode child."""

_SHARES: Final = 8
"""Of the rest: two for requests and for lookups, which may be of IPv6 and IPv4, four for idle connections."""


def requests_at_once(options: FetchOptions) -> int:
    """Return how many requests may be in flight: --max-inflight, or the limit on open files."""
    return min(options.max_inflight, _share(options))


def lookups_at_once(options: FetchOptions) -> int:
    """Return how many names may be asked for at a time: at least as many as requests are in flight."""
    return _share(options)


class Sockets:
    """The sockets that a client has made, to know whether it may keep more of them idle."""

    def __init__(self, options: FetchOptions) -> None:
        self._most = 4 * _share(options)
        self._made: list[socket.socket] = []

    def add(self, made: socket.socket) -> None:
        """Watch a new socket."""
        self._made.append(made)

    def are_many(self) -> bool:
        """Return whether the next connection must be closed after its answer."""
        if len(self._made) > self._most:
            self._made = [made for made in self._made if made.fileno() >= 0]
        return len(self._made) > self._most


def _share(options: FetchOptions) -> int:
    """Return one of the shares, as large as the options ask for or as the system lets this process have."""
    wanted = max(64, options.max_inflight)
    return max(4, min(wanted, (_allow(RESERVED + _SHARES * wanted) - RESERVED) // _SHARES))


def _allow(files: int) -> int:
    """Raise the limit on open files to `files` if need be and may be; return the limit, at most `files`."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = (files if limit == resource.RLIM_INFINITY else min(limit, files) for limit in limits)
    if soft < hard:
        with contextlib.suppress(OSError, ValueError):  # some systems allow less than they say
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, limits[1]))
            return hard
    return soft
