"""robots.txt (RFC 9309): what it says to us, and for how long that is remembered.

protego matches the paths; which lines it gets to see is decided here, because its grouping deviates where it
matters: unknown lines end a group (RFC 9309, section 2.2.4: they must not), and a group's name matches any
agent that begins with it. Only the groups that concern us are kept, so a file of half a megabyte about other
robots costs nothing to remember.
"""

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, NamedTuple
from urllib.parse import quote

from protego import Protego

TOKEN: Final = "openwit"  # noqa: S105 - the product token of RFC 9309: letters, "_" and "-" only
"""What robots.txt calls us."""

ALIASES: Final = ("img2dataset", "laiondownloader", "ccbot")
"""Agents whose groups are honoured too: a site that names them has decided about image-text datasets."""

MAX_BYTES: Final = 500 << 10
"""Of a file; RFC 9309, section 2.5, asks for at least 500 KiB."""

MAX_CRAWL_DELAY: Final = 60.0
"""Seconds. Nothing of a site with a longer one would be fetched in reasonable time."""

CACHE_SECONDS: Final = 24 * 3600.0
"""RFC 9309, section 2.4: not longer than 24 hours."""

RETRY_SECONDS: Final = 600.0
"""For how long an answer that was no answer stands."""

_LINE = re.compile(
    r"\s*(?:(?P<agent>user[ -]?agent)|(?P<allow>allow)|(?P<disallow>dis+al+ow|diasllow|disallaw)"
    r"|(?P<delay>crawl[ -]?delay))\s*[:\s]\s*(?P<value>.*)",
    re.IGNORECASE,
)
_AGENT_NAME = re.compile(r"[A-Za-z0-9_-]+|\*")
_OTHER_LINE_ENDS = re.compile("[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_LARGE_TEXT: Final = 16 << 10  # characters; protego needs 0.2 s a MiB and would hold up the event loop


class Rules:
    """What one robots.txt says to us: `allows(url)`, `crawl_delay` in seconds, and `size` in characters."""

    def __init__(self, text: str, named: frozenset[str], crawl_delay: float) -> None:
        self._protego = Protego.parse(text)
        # Our own token always counts, by its own group or by "*"; an alias only where the file names it.
        self._agents = (TOKEN, *(alias for alias in ALIASES if alias in named))
        self.crawl_delay = crawl_delay
        self.size = len(text)

    def allows(self, url: str) -> bool:
        """Return whether every group that concerns us allows the absolute `url`."""
        return all(self._protego.can_fetch(url, agent) for agent in self._agents)


class Verdict(NamedTuple):
    """The rules of an authority, or why there are none for now (`reason` is then not empty)."""

    rules: Rules | None
    reason: str = ""
    detail: str = ""


def parse(body: bytes) -> Rules:
    """Read a robots.txt of any content; never raises.

    Of a longer file the first MAX_BYTES count, without the line that is cut.
    """
    if len(body) > MAX_BYTES:
        body = body[: max(body.rfind(b"\n", 0, MAX_BYTES), body.rfind(b"\r", 0, MAX_BYTES)) + 1]
    kept: list[str] = []
    named: set[str] = set()
    delays: dict[str, float] = {}
    for group, rules in _groups(body.decode("utf-8-sig", "replace")):
        ours = [agent for agent in ("*", TOKEN, *ALIASES) if agent in group]
        if not ours:
            continue
        named.update(ours)
        kept += [f"user-agent: {agent}" for agent in ours] + rules
        # A group without rules still names its agents; protego would join it with the next one.
        kept += [] if rules else ["disallow:"]
        for agent in ours:
            delays[agent] = max(delays.get(agent, 0.0), group[agent])
    own = TOKEN if TOKEN in named else "*"
    delay = max(delays.get(agent, 0.0) for agent in (own, *ALIASES))
    return Rules("\n".join(kept), frozenset(named), delay)


def verdict_for_status(status: int, body: bytes) -> Verdict:
    """Apply RFC 9309, section 2.3.1, to a final answer; 429 counts as 5xx, as the site asks for less."""
    if 200 <= status < 300:
        return Verdict(parse(body))
    if 400 <= status < 500 and status != 429:
        return Verdict(parse(b""))
    return Verdict(None, "robots_unavailable", f"robots.txt: HTTP {status}")


async def verdict_off_loop(status: int, body: bytes) -> Verdict:
    """Return `verdict_for_status`, large files in a thread."""
    if len(body) > _LARGE_TEXT:
        return await asyncio.to_thread(verdict_for_status, status, body)
    return verdict_for_status(status, body)


def _groups(text: str) -> Iterator[tuple[dict[str, float], list[str]]]:
    """Yield each group: the Crawl-delay (or 0) by agent, in lower case, and the rules as lines.

    A group is a run of user-agent lines and the rules after it (RFC 9309, section 2.2); whatever else stands
    between them does not separate them. A Crawl-delay counts for the agents named above it.
    """
    delays: dict[str, float] = {}
    rules: list[str] = []
    for kind, value in _lines(text):
        if kind == "agent":
            if rules:
                yield delays, [rule for rule in rules if rule]
                delays, rules = {}, []
            if name := _AGENT_NAME.match(value):
                delays.setdefault(name[0].lower(), 0.0)
        elif kind == "delay":
            delays = {agent: max(delay, _seconds(value)) for agent, delay in delays.items()}
        elif delays:
            # An empty rule says nothing but ends the run of names all the same.
            rules.append(f"{kind}: {value}" if value else "")
    yield delays, [rule for rule in rules if rule]


def _lines(text: str) -> Iterator[tuple[str, str]]:
    for line in re.split(r"[\r\n]+", text):
        if found := _LINE.fullmatch(line.partition("#")[0]):
            # str.splitlines, which protego uses, knows more line ends than the RFC does.
            value = _OTHER_LINE_ENDS.sub(lambda end: quote(end[0]), found["value"].strip())
            yield next(kind for kind in ("agent", "allow", "disallow", "delay") if found[kind]), value


def _seconds(value: str) -> float:
    try:
        return min(max(0.0, float(value)), MAX_CRAWL_DELAY)  # in this order NaN becomes 0
    except ValueError:
        return 0.0


class RobotsCache:
    """Verdicts by authority (scheme, host, port), least recently used ones forgotten first.

    `max_characters` bounds the rules kept; parsed ones take some ten times that in memory.
    """

    def __init__(
        self,
        max_authorities: int = 50_000,
        max_characters: int = 8 << 20,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_authorities = max_authorities
        self._max_characters = max_characters
        self._clock = clock
        self._characters = 0
        self._verdicts: OrderedDict[str, tuple[float, Verdict]] = OrderedDict()
        self._loading: dict[str, asyncio.Event] = {}

    def known(self, authority: str) -> Verdict | None:
        """Return the verdict of `authority` if it was fetched and is not too old."""
        found = self._verdicts.get(authority)
        if found is None:
            return None
        expires, verdict = found
        if self._clock() >= expires:
            self._forget(authority)
            return None
        self._verdicts.move_to_end(authority)
        return verdict

    async def get(self, authority: str, load: Callable[[], Awaitable[Verdict]]) -> Verdict:
        """Return the verdict of `authority`, from `load` if need be; whoever asks meanwhile waits for it."""
        while (verdict := self.known(authority)) is None:
            if (loading := self._loading.get(authority)) is not None:
                await loading.wait()
                continue  # if that one was cancelled, one of the waiting takes over
            self._loading[authority] = asyncio.Event()
            try:
                verdict = await load()
                self._remember(authority, verdict)
                return verdict
            finally:
                self._loading.pop(authority).set()
        return verdict

    def _remember(self, authority: str, verdict: Verdict) -> None:
        age = RETRY_SECONDS if verdict.reason else CACHE_SECONDS
        self._verdicts[authority] = (self._clock() + age, verdict)
        self._characters += _size(verdict)
        while len(self._verdicts) > self._max_authorities or self._characters > self._max_characters:
            self._forget(next(iter(self._verdicts)))

    def _forget(self, authority: str) -> None:
        _, verdict = self._verdicts.pop(authority)
        self._characters -= _size(verdict)


def _size(verdict: Verdict) -> int:
    return verdict.rules.size if verdict.rules else 0
