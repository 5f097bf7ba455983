"""robots.txt (RFC 9309): the rules that hold for us.

protego matches the paths; which lines it gets to see is decided here, because its grouping deviates where it
matters: unknown lines end a group (RFC 9309, section 2.2.4: they must not), and a group's name matches any
agent that begins with it. Only the groups that concern us are kept, so a file of half a megabyte about other
robots costs nothing to remember.
"""

import asyncio
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from urllib.parse import quote

from protego import Protego

from pipeline.http import optout
from pipeline.http.optout import Refusal
from pipeline.http.pathrules import PathRules
from pipeline.http.user_agent import ALIASES, TOKEN
from pipeline.options.fetch import OPT_OUTS, OptOut

MAX_BYTES: Final = 500 << 10
"""Of a file; RFC 9309, section 2.5, asks for at least 500 KiB."""

MAX_CRAWL_DELAY: Final = 60.0
"""Seconds. Nothing of a site with a longer delay would be fetched in reasonable time."""

_LINE = re.compile(
    r"\s*(?:(?P<agent>user[ -]?agent)|(?P<allow>allow)|(?P<disallow>dis+al+ow|diasllow|disallaw)"
    r"|(?P<delay>crawl[ -]?delay)|(?P<signal>content-signals?)|(?P<usage>content-usage)"
    r"|(?P<licence>license))"
    r"\s*[:\s]\s*(?P<value>.*)",
    re.IGNORECASE,
)
_KINDS: Final = ("agent", "allow", "disallow", "delay", "signal", "usage", "licence")
_AGENT_NAME = re.compile(r"[A-Za-z0-9_-]+|\*")
_OTHER_LINE_ENDS = re.compile("[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_MAX_LICENCES: Final = 4  # files of terms that are asked for
_LARGE_TEXT: Final = 16 << 10  # characters; protego needs 0.2 s a MiB and would hold up the event loop


class Rules:
    """The rules of a robots.txt for us: `refusal(url)`, `crawl_delay` in seconds, and `size` in
    characters."""

    def __init__(self, text: str, said: "dict[str, _Said]") -> None:
        self._protego = Protego.parse(text)
        # Our own group, or else the group for all; an alias counts only where the file names it.
        own = TOKEN if TOKEN in said else "*"
        self._aliases = [alias for alias in ALIASES if alias in said]
        ours = [said[agent] for agent in (own, *self._aliases) if agent in said]
        self.crawl_delay = max((each.delay for each in ours), default=0.0)
        self._preferences: tuple[tuple[OptOut, PathRules], ...] = (
            ("content-signal", PathRules(rule for each in ours for rule in each.signals)),
            ("content-usage", PathRules(rule for each in ours for rule in each.usages)),
        )
        self.licences = tuple(dict.fromkeys(url for each in ours for url in each.licences))[:_MAX_LICENCES]
        """URLs of terms of Really Simple Licensing that hold for us."""
        self.size = len(text) + sum(rules.size for _, rules in self._preferences)

    def refusal(self, url: str, honoured: Collection[OptOut] = OPT_OUTS) -> Refusal | None:
        """Return the reason against fetching the absolute `url`, or None."""
        if not self._protego.can_fetch(url, TOKEN):
            return Refusal("robots_disallow", "")
        if "robots-alias" in honoured:
            for alias in self._aliases:
                if not self._protego.can_fetch(url, alias):
                    return Refusal(optout.reason("robots-alias"), f"robots.txt disallows it for {alias}")
        for signal, rules in self._preferences:
            if signal in honoured and (pattern := rules.reserving(url)):
                return Refusal(optout.reason(signal), f"robots.txt: {signal} for {pattern}"[:300])
        return None


@dataclass
class _Said:
    """The content of a robots.txt for one agent beside its rules."""

    delay: float = 0.0
    signals: list[tuple[str, bool]] = field(default_factory=list)
    usages: list[tuple[str, bool]] = field(default_factory=list)
    licences: list[str] = field(default_factory=list)


class RobotsVerdict(NamedTuple):
    """The rules of an authority, or why there are none for now (`reason` is then not empty)."""

    rules: Rules | None
    reason: str = ""
    detail: str = ""


def parse(body: bytes) -> Rules:
    """Read a robots.txt of any content; never raises.

    Of a longer file the first MAX_BYTES count, without the line that is cut.
    """
    kept: list[str] = []
    said: dict[str, _Said] = {}
    everywhere: list[str] = []
    for group, rules in groups(text_of(body), everywhere):
        ours = [agent for agent in ("*", TOKEN, *ALIASES) if agent in group]
        if not ours:
            continue
        kept += [f"user-agent: {agent}" for agent in ours] + rules
        # A group without rules still names its agents; protego would join it with the next group.
        kept += [] if rules else ["disallow:"]
        for agent in ours:
            known = said.setdefault(agent, _Said())
            known.delay = max(known.delay, group[agent].delay)
            known.signals += group[agent].signals
            known.usages += group[agent].usages
            known.licences += group[agent].licences
    for one in {"*", *said}:
        said.setdefault(one, _Said()).licences += everywhere
    return Rules("\n".join(kept), said)


def text_of(body: bytes) -> str:
    """Return the text of a file within MAX_BYTES, without a line that is cut."""
    if len(body) > MAX_BYTES:
        body = body[: max(body.rfind(b"\n", 0, MAX_BYTES), body.rfind(b"\r", 0, MAX_BYTES)) + 1]
    # It must be UTF-8; but a site that saved it as UTF-16 has stated its wishes all the same.
    encoding = "utf-16" if body[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return body.decode(encoding, "replace")


def verdict_for_status(status: int, body: bytes) -> RobotsVerdict:
    """Apply RFC 9309, section 2.3.1, to a final answer; 429 counts as 5xx, as the site asks for less."""
    if 200 <= status < 300:
        return RobotsVerdict(parse(body))
    if 400 <= status < 500 and status != 429:
        return RobotsVerdict(parse(b""))
    return RobotsVerdict(None, "robots_unavailable", f"robots.txt: HTTP {status}")


async def verdict_off_loop(status: int, body: bytes) -> RobotsVerdict:
    """Return `verdict_for_status`, large files in a thread."""
    if len(body) > _LARGE_TEXT:
        return await asyncio.to_thread(verdict_for_status, status, body)
    return verdict_for_status(status, body)


def groups(text: str, everywhere: list[str] | None = None) -> Iterator[tuple[dict[str, _Said], list[str]]]:
    """Yield each group: the settings for its agents, in lower case, and the rules as lines.

    A group is a run of user-agent lines and the rules after it (RFC 9309, section 2.2); whatever else stands
    between them does not separate them. A Crawl-delay, a preference and a License count for the agents named
    above it; a License before all of them goes to `everywhere`.
    """
    everywhere = [] if everywhere is None else everywhere
    agents: dict[str, _Said] = {}
    rules: list[str] = []
    for kind, value in _lines(text):
        if kind == "agent":
            if rules:
                yield agents, [rule for rule in rules if rule]
                agents, rules = {}, []
            if name := _AGENT_NAME.match(value):
                agents.setdefault(name[0].lower(), _Said())
        elif kind == "delay":
            for each in agents.values():
                each.delay = max(each.delay, _seconds(value))
        elif kind == "licence":
            for known in [each.licences for each in agents.values()] or [everywhere]:
                known.append(value)
        elif kind in ("signal", "usage"):
            for rule in _preference(kind, value):
                for each in agents.values():
                    (each.signals if kind == "signal" else each.usages).append(rule)
        elif agents:
            # An empty rule says nothing but ends the run of names all the same.
            rules.append(f"{kind}: {value}" if value else "")
    yield agents, [rule for rule in rules if rule]


def _preference(kind: str, value: str) -> Iterator[tuple[str, bool]]:
    """Yield the path pattern and whether it is reserved from training, if the line says something of it.

    `Content-Usage: [path] train-ai=n` (draft-ietf-aipref-attach), `Content-Signal: ai-train=no`
    (contentsignals.org).
    """
    first, rest = (*re.split(r"[ \t]+", value, maxsplit=1), "")[:2]
    path, preference = (first, rest) if first.startswith(("/", "*")) else ("/", value)
    preference = preference.lower()
    if kind == "usage":
        if (reserved := optout.usage_preference(preference)) is not None:
            yield path, reserved
        return
    for member in preference.split(","):
        key, _, choice = (part.strip() for part in member.partition("="))
        if key == "ai-train" and choice in ("yes", "no"):
            yield path, choice == "no"


def _lines(text: str) -> Iterator[tuple[str, str]]:
    for line in re.split(r"[\r\n]+", text):
        if found := _LINE.fullmatch(line.partition("#")[0]):
            # str.splitlines, which protego uses, knows more line ends than the RFC does.
            value = _OTHER_LINE_ENDS.sub(lambda end: quote(end[0]), found["value"].strip())
            yield next(kind for kind in _KINDS if found[kind]), value


def _seconds(value: str) -> float:
    try:
        return min(max(0.0, float(value)), MAX_CRAWL_DELAY)  # in this order NaN becomes 0
    except ValueError:
        return 0.0
