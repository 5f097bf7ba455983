"""/ai.txt: which kinds of files of a site may be put into data sets for training (Spawning, 2023-05-30).

Its grammar is that of robots.txt, its patterns are mostly endings: `Disallow: *.jpg`. So nobody can tell
which line is about an image whose URL has no image's ending, and a line that reserves some kind of image
reserves it. Other files are found under this name as well, prose above all: a line that is no rule says
nothing.
"""

import re
from typing import Final

from pipeline.http import robots
from pipeline.http.pathrules import PathRules
from pipeline.http.user_agent import ALIASES, TOKEN
from pipeline.images.headers import FORMATS

PATH: Final = "/ai.txt"
MAX_BYTES: Final = robots.MAX_BYTES
_ENDINGS: Final = frozenset((*FORMATS, "jpg", "jpe", "jfif", "tif", "apng"))
_ENDING: Final = re.compile(r"/?\*?\*\.(\w+)\$?")


class Permissions:
    """The rules of an ai.txt for us: `reserving(url)`, and `size` in characters."""

    def __init__(self, groups: list[list[tuple[str, bool]]]) -> None:
        self._groups = [PathRules(rules) for rules in groups]
        kinds = (
            (pattern, found[1].lower())
            for rules in groups
            for pattern, reserved in rules
            if reserved and (found := _ENDING.fullmatch(pattern))
        )
        self._kind = next((pattern for pattern, ending in kinds if ending in _ENDINGS), "")
        self.size = sum(rules.size for rules in self._groups)

    def reserving(self, href: str) -> str | None:
        """Return the pattern that reserves the image at a resolved URL, or None."""
        for rules in self._groups:
            if pattern := rules.reserving(href):
                return pattern
        path = href.partition("?")[0].partition("#")[0]
        return self._kind or None if path.rpartition(".")[2].lower() not in _ENDINGS else None


def parse(body: bytes) -> Permissions:
    """Read an ai.txt of any content; never raises.

    Our own group counts, or else the group for all, and those of the crawlers whose rules we take for ours.
    """
    said: dict[str, list[tuple[str, bool]]] = {}
    for agents, lines in robots.groups(robots.text_of(body)):
        for agent in agents:
            rules = (line.partition(": ") for line in lines)
            said.setdefault(agent, []).extend((pattern, kind == "disallow") for kind, _, pattern in rules)
    own = TOKEN if TOKEN in said else "*"
    return Permissions([said[agent] for agent in (own, *ALIASES) if agent in said])
