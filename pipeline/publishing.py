"""Keep secrets out of published files: signed queries of web addresses, and the private contact."""

import shlex
import sys
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl, urlencode

Scalar = str | int | float | bool | None
Value = Scalar | tuple[Scalar, ...]
"""An option's value, as JSON and TOML have it."""
StageOptions = dict[str, dict[str, Value]]
"""By stage the options that decide its result."""

_WEB: Final = ("http://", "https://", "@http://", "@https://")
_SIGNING: Final = ("x-amz-", "x-goog-", "x-oss-", "x-cos-", "x-obs-")
# Of S3, Google, Azure's shared access signatures, CloudFront and Akamai, and others' names for a secret.
_SECRET: Final = frozenset(
    """signature awsaccesskeyid googleaccessid expires policy key-pair-id sig se sp sv sr st ss srt spr sip si
    skoid sktid skt ske sks skv token access_token auth authorization key api_key apikey password secret hdnts
    hdnea hmac hash""".split()  # noqa: SIM905 - a word list reads better as text
)


def public(path: str) -> str:
    """Return an address of the web without its query and fragment; any other path as it is."""
    return path.partition("#")[0].partition("?")[0] if path.startswith(_WEB) else path


def unsigned(path: str) -> str:
    """Return a web address without the parameters that sign a request: equal files get equal addresses."""
    if not path.startswith(_WEB) or "?" not in path:
        return path
    address, _, query = path.partition("?")
    kept = [(name, value) for name, value in parse_qsl(query, True) if not _signs(name.lower())]
    return f"{address}?{urlencode(kept)}" if kept else address


def _signs(name: str) -> bool:
    return name in _SECRET or name.startswith(_SIGNING)


def publishable(options: Mapping[str, Value]) -> dict[str, Value]:
    """Return options by name as files that are published may hold them."""
    return {name: _published(name, value, options) for name, value in options.items()}


def left_out(options: Mapping[str, Value]) -> list[str]:
    """Return the options of which `publishable` holds less, by name."""
    return [name for name, value in options.items() if _published(name, value, options) != value]


def _published(name: str, value: Value, options: Mapping[str, Value]) -> Value:
    if name in ("sign_with", "sign_manifest"):
        return ""
    if name == "contact":
        return value if options.get("publish_contact") else ""
    if isinstance(value, str):
        return public(value)
    if isinstance(value, tuple):
        return tuple(public(item) if isinstance(item, str) else item for item in value)
    return value


def typed() -> str:
    """Return the command line, to be typed again, without signatures, which expire."""
    return shlex.join(["openwit", *map(_typed, sys.argv[1:])])


def _typed(argument: str) -> str:
    name, equals, value = argument.partition("=")
    if name.startswith("--") and equals:
        return f"{name}={unsigned(value)}"
    return unsigned(argument)
