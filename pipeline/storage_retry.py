"""Try again after a transient failure: object stores answer 503 under load, and connections break."""

import errno
import logging
import time
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

T = TypeVar("T")

log = logging.getLogger(__name__)

TRIES: Final = 7  # with 0.5, 1, 2 ... 16 seconds between them: 31 s, beside the client library's own tries
_FIRST_WAIT: Final = 0.5

# 409 is S3's answer to a conditional write that met another write (ConditionalRequestConflict).
_STATUSES: Final = frozenset((408, 409, 425, 429, 500, 502, 503, 504))
_CODES: Final = frozenset(("BadDigest", "IncompleteBody", "RequestTimeout", "XAmzContentSHA256Mismatch"))
_ERRNOS: Final = frozenset(
    (errno.EBUSY, errno.EIO, errno.EAGAIN, errno.ETIMEDOUT, errno.EPIPE, getattr(errno, "EREMOTEIO", -1))
)
_FINAL: Final = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
_CLIENTS: Final = frozenset(("aiohttp", "botocore", "aiobotocore", "requests", "urllib3"))
"""Packages whose errors without an HTTP status are those of a connection."""


def retried(action: Callable[[], T], sleep: Callable[[float], None] = time.sleep) -> T:
    """Return the result of `action`, which may be run twice; its last error when all tries fail."""
    for attempt in range(1, TRIES):
        try:
            return action()
        except Exception as error:
            if not is_transient(error):
                raise
            wait = _FIRST_WAIT * 2 ** (attempt - 1)
            log.info("%s; trying again in %.1f s", error, wait)
            sleep(wait)
    return action()


def is_transient(error: BaseException) -> bool:
    """Return whether a storage error may be gone at another try."""
    if isinstance(error, _FINAL):
        return False
    for one in _chain(error):
        response = getattr(one, "response", None)
        if isinstance(response, dict):  # botocore's ClientError
            code = response.get("Error", {}).get("Code")
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return code in _CODES or status in _STATUSES
        status = getattr(one, "status", None) or getattr(one, "code", None)  # aiohttp's, gcsfs's
        if str(status).isdigit():
            return int(str(status)) in _STATUSES
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    if type(error).__module__.partition(".")[0] in _CLIENTS:
        return True
    return isinstance(error, OSError) and error.errno in _ERRNOS


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
