"""The meaning of a status or an exception of the HTTP client, as a word of `pipeline.reasons`."""

import asyncio
import errno
import ssl
from typing import Final

import aiohttp
from aiohttp import http_exceptions

from pipeline.http.address_policy import Attempts

UNREACHABLE: Final = frozenset(
    {
        "dns_error",
        "connect_error",
        "connect_timeout",
        "tls_error",
        "address_blocked",
        "port_blocked",
        "bad_url",
    }
)
"""Reasons that lie in the authority: each of its URLs would fare the same."""

SILENT: Final = frozenset(
    {"dns_error", "connect_error", "connect_timeout", "read_timeout", "total_timeout", "disconnected"}
)
"""Reasons that, several in a row, say that a server is down."""


class ConnectionDropped(Exception):  # noqa: N818 - an event of the protocol
    """The peer closed or reset the connection before the headers of its answer."""


def of_status(status: int) -> str:
    """Return the reason for a final status; 200 alone is success ("")."""
    if status == 200:
        return ""
    if status in (404, 410):
        return "http_gone"
    if status in (401, 403, 451):
        return "http_denied"
    if status in (429, 503):
        return "http_throttled"
    return "http_server_error" if 500 <= status < 600 else "http_error"


def of_exception(error: Exception, attempts: Attempts) -> tuple[str, str]:
    """Return reason and detail; `attempts` are the connections made for the request that failed."""
    return _reason(error, attempts), f"{type(error).__name__}: {error}"[:300]


def _reason(error: Exception, attempts: Attempts) -> str:
    match error:
        case aiohttp.ClientConnectorDNSError():
            return "dns_error"
        case aiohttp.ClientConnectorSSLError() | aiohttp.ClientConnectorCertificateError() | ssl.SSLError():
            return "tls_error"
        case aiohttp.ClientConnectorError():
            # Several refusals are merged into one plain OSError, so the record counts, not the class.
            if attempts.blocked and not attempts.opened:
                return attempts.blocked
            out_of_files = error.os_error.errno in (errno.EMFILE, errno.ENFILE)
            return "internal_error" if out_of_files else "connect_error"
        case aiohttp.ConnectionTimeoutError():
            return "connect_timeout" if attempts.opened else attempts.blocked or "dns_error"
        case aiohttp.SocketTimeoutError():
            return "read_timeout"
        case TimeoutError():
            return "total_timeout"
        case aiohttp.InvalidURL():
            return "bad_url"
        case aiohttp.ClientPayloadError():
            return "incomplete_body" if _ended_early(error) else "bad_http"
        case aiohttp.ClientResponseError() | http_exceptions.HttpProcessingError():
            return "bad_http"
        case (
            ConnectionDropped()
            | aiohttp.ClientConnectionError()
            | ConnectionError()
            | asyncio.IncompleteReadError()
        ):
            return "disconnected"
        # Hosts that yarl or the idna codec refuse, past aiohttp's own classes.
        case ValueError() | IndexError() if not attempts.opened:
            return "bad_url"
        case _:
            return "internal_error"


def _ended_early(error: aiohttp.ClientPayloadError) -> bool:
    """Return whether the body stopped short, rather than being malformed."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, http_exceptions.ContentLengthError | OSError):
            return True
        if isinstance(cause, http_exceptions.TransferEncodingError):
            return "not enough data" in str(cause).lower()
        if isinstance(cause, http_exceptions.BadHttpMessage) and not isinstance(
            cause, http_exceptions.PayloadEncodingError
        ):
            return False  # trailers without end: whether aiohttp wraps them depends on when they arrive
        cause = cause.__cause__
    return True
