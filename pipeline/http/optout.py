"""Opt-outs in response headers: who reserves an image from machine learning says so here.

Three signals: X-Robots-Tag with noai and its kin, tdm-reservation (TDM Reservation Protocol, W3C community
group report of 2024-05-10), and Content-Usage (IETF draft-ietf-aipref-attach). Any of them suffices. Where a
value can be read in two ways, the one that refuses stands.
"""

import re
from collections.abc import Iterable
from typing import Final

from pipeline.http.robots import ALIASES, TOKEN

DIRECTIVES: Final = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none", "noml"})
"""Of X-Robots-Tag; `none` means noindex and nofollow."""

# Their values follow a colon and may hold one: 25 Jun 2030 15:00:00 PST.
_VALUED: Final = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
_AGENTS: Final = frozenset({"*", TOKEN, *ALIASES})
_AGENT_NAME: Final = re.compile(r"[a-z0-9_*-][a-z0-9_.*-]*(?:/\S*)?")


def check_headers(headers: Iterable[tuple[str, str]]) -> str | None:
    """Return the directive that opts the response out, such as `X-Robots-Tag: noai`, or None; never raises.

    `headers` are all (name, value) pairs, repeated names included.
    """
    checks = {"x-robots-tag": _robots_tag, "tdm-reservation": _reservation, "content-usage": _usage}
    for name, value in headers:
        check = checks.get(name.strip().lower())
        found = check(value.lower()) if check else None
        if found is not None:
            return f"{name.strip()}: {found}"
    return None


def _robots_tag(value: str) -> str | None:
    """Read `[agent:] directive, directive ..., agent: directive`; an agent holds until the next one."""
    agent = "*"
    for part in re.split("[,;]", value):
        name, colon, rest = (piece.strip() for piece in part.partition(":"))
        if name in _VALUED:
            continue
        # A date in unavailable_after has commas and colons too, but no agent has spaces in its name.
        if colon and name not in DIRECTIVES and _AGENT_NAME.fullmatch(name):
            agent, part = name.partition("/")[0], rest
        found = next((word for word in re.split(r"[\s:]+", part) if word in DIRECTIVES), None)
        if found is not None and agent in _AGENTS:
            return found if agent == "*" else f"{agent}: {found}"
    return None


def _reservation(value: str) -> str | None:
    return "1" if value.strip() == "1" else None


def _usage(value: str) -> str | None:
    """Read a dictionary of structured fields (RFC 9651) for train-ai=n, parameters left aside."""
    for member in value.split(","):
        key, _, choice = member.partition(";")[0].partition("=")
        if key.strip() == "train-ai" and choice.strip().strip('"') == "n":
            return "train-ai=n"
    return None
