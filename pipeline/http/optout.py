"""Opt-outs in the headers of an answer: who reserves an image from machine learning says so here.

X-Robots-Tag with noai and its kin and its successor Robots-Tag (draft-illyes-repext), tdm-reservation (TDM
Reservation Protocol, W3C community group report of 2024-05-10) and Content-Usage (draft-ietf-aipref-attach).
Any of them suffices. Where a value can be read in two ways, the reading that refuses stands.
"""

import re
from collections.abc import Callable, Collection, Iterable
from typing import Final, NamedTuple

from pipeline.http.user_agent import ALIASES, TOKEN
from pipeline.options.fetch import OPT_OUTS, OptOut

DIRECTIVES: Final = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none", "noml"})
"""Of X-Robots-Tag; `none` means noindex and nofollow."""

PAGE_DIRECTIVES: Final = frozenset({"noai", "noimageai", "noimageindex", "noml"})
"""Of a page, about its images. noindex is left out: it keeps the page, not its images, from search."""

# Their values follow a colon and may hold another: 25 Jun 2030 15:00:00 PST.
_VALUED: Final = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
_AGENTS: Final = frozenset({"*", TOKEN, *ALIASES})
_AGENT_NAME: Final = re.compile(r"[a-z0-9_*-][a-z0-9_.*-]*(?:/\S*)?")


class Refusal(NamedTuple):
    """Why a URL is not asked for, or its answer not taken: a word of `pipeline.reasons`, and a detail."""

    reason: str
    detail: str


def reason(signal: OptOut) -> str:
    """Return the word of `pipeline.reasons` for a signal."""
    return f"opt_out_{signal.replace('-', '_')}"


def check_headers(
    headers: Iterable[tuple[str, str]], honoured: Collection[OptOut] = OPT_OUTS
) -> Refusal | None:
    """Return the signal that opts the response out, with a detail such as `X-Robots-Tag: noai`, or None;
    never raises.

    `headers` are all (name, value) pairs, repeated names included.
    """
    for name, value in headers:
        signal, check = _CHECKS.get(name.strip().lower(), (None, None))
        if signal in honoured and check is not None and signal is not None:
            found = check(value.lower())
            if found is not None:
                return Refusal(reason(signal), f"{name.strip()}: {found}")
    return None


def check_page(metas: Iterable[tuple[str, str]], headers: Iterable[tuple[str, str]] = ()) -> str | None:
    """Return the signal that reserves the images of a page: a detail such as `meta robots: noai`; never
    raises.

    `metas` are the (name, content) pairs of its <meta>, `headers` those of its answer.
    """
    for name, value in headers:
        if name.strip().lower() == "x-robots-tag" and (found := robots_tag(value.lower(), PAGE_DIRECTIVES)):
            return f"X-Robots-Tag of the page: {found}"
        if name.strip().lower() == "tdm-reservation" and value.strip() == "1":
            return "tdm-reservation of the page: 1"
    for name, content in metas:
        name = name.strip().lower()
        words = set(re.split(r"[\s,;]+", content.lower())) & PAGE_DIRECTIVES
        if words and (name == "robots" or name in _AGENTS):
            return f"meta {name}: {min(words)}"
        if name == "tdm-reservation" and content.strip() == "1":
            return "meta tdm-reservation: 1"
    return None


def usage_preference(value: str) -> bool | None:
    """Return whether a Content-Usage value in lower case reserves training; None if it says nothing of it.

    It is a dictionary of structured fields (RFC 9651), parameters left aside: `train-ai=n`, or `ai=n` of the
    drafts in which `ai` was the wider category, unless `train-ai` is allowed by itself.
    """
    found: dict[str, set[str]] = {}
    for member in value.split(","):
        key, _, choice = member.partition(";")[0].partition("=")
        found.setdefault(key.strip(), set()).add(choice.strip().strip('"'))
    for key in ("train-ai", "ai"):
        choices = found.get(key, set())
        if "n" in choices:
            return True
        if "y" in choices:
            return False
    return None


def robots_tag(value: str, directives: frozenset[str] = DIRECTIVES) -> str | None:
    """Read `[agent:] directive, directive ..., agent: directive`; an agent holds until the next agent."""
    agent = "*"
    for part in re.split("[,;]", value):
        name, colon, rest = (piece.strip() for piece in part.partition(":"))
        if name in _VALUED:
            continue
        # A date in unavailable_after has commas and colons too, but no agent has spaces in its name.
        if colon and name not in DIRECTIVES and _AGENT_NAME.fullmatch(name):
            agent, part = name.partition("/")[0], rest
        found = next((word for word in re.split(r"[\s:]+", part) if word in directives), None)
        if found is not None and agent in _AGENTS:
            return found if agent == "*" else f"{agent}: {found}"
    return None


def _draft_robots_tag(value: str) -> str | None:
    """Read `agent;rule;rule, agent;rule`, also written agent=rule; without an agent it is for all."""
    rules: dict[str, set[str]] = {}
    for item in value.split(","):
        agent, *words = (word.strip() for word in re.split("[;=]", item))
        if agent in DIRECTIVES:  # the agent was left out, and the semicolon with it
            agent, words = "*", [agent, *words]
        found = {part.strip("?01\"'()") for word in words for part in word.split()} & DIRECTIVES
        rules.setdefault(agent or "*", set()).update(found)
    own = TOKEN if TOKEN in rules else "*"  # a product that is named has its own rules, perhaps none
    for agent in (own, *ALIASES):
        if found := rules.get(agent, set()):
            return min(found) if agent == "*" else f"{agent}: {min(found)}"
    return None


def _reservation(value: str) -> str | None:
    return "1" if value.strip() == "1" else None


def _usage(value: str) -> str | None:
    return "train-ai=n" if usage_preference(value) else None


_CHECKS: Final[dict[str, tuple[OptOut, Callable[[str], str | None]]]] = {
    "x-robots-tag": ("x-robots-tag", robots_tag),
    "robots-tag": ("x-robots-tag", _draft_robots_tag),
    "tdm-reservation": ("tdm-reservation", _reservation),
    "content-usage": ("content-usage", _usage),
}
