"""Rules for parts of a site: path patterns as in robots.txt, the most specific one decides.

robots.txt itself is protego's; this is for anything that is attached to paths elsewhere, where of two equally
specific rules the reserving rule wins (in robots.txt the allowing rule does).
"""

from collections.abc import Iterable
from typing import Final
from urllib.parse import quote

_KEPT: Final = "%/:?#[]@!$&'()*+,;=~-._"
_MAX_WILDCARDS: Final = 2000
"""Patterns with * or $ are tried in turn; if there are too many, those that reserve are kept."""


class PathRules:
    """Say which paths are reserved: pairs of pattern (`*` any characters, `$` the end) and bool."""

    def __init__(self, rules: Iterable[tuple[str, bool]] = ()) -> None:
        self._prefixes: dict[int, dict[str, bool]] = {}
        wildcards: dict[str, bool] = {}
        for pattern, reserved in rules:
            pattern = quote(pattern, safe=_KEPT)
            is_prefix = "*" not in pattern and not pattern.endswith("$")
            known = self._prefixes.setdefault(len(pattern), {}) if is_prefix else wildcards
            known[pattern] = reserved or known.get(pattern, False)
        kept = sorted(wildcards.items(), key=lambda rule: (not rule[1], -len(rule[0])))[:_MAX_WILDCARDS]
        # Longest first, as RFC 9309, section 2.2.2; of equal length, those that reserve.
        self._wildcards = sorted(kept, key=lambda rule: (-len(rule[0]), not rule[1], rule[0]))
        self._lengths = sorted(self._prefixes, reverse=True)
        self.size = sum(length * len(known) for length, known in self._prefixes.items())
        self.size += sum(len(pattern) for pattern, _ in self._wildcards)

    def reserving(self, href: str) -> str | None:
        """Return the pattern that reserves a resolved URL, or None."""
        if not self.size:
            return None
        path = "/" + href.split("/", 3)[3]
        prefix = next((path[:n] for n in self._lengths if path[:n] in self._prefixes[n]), "")
        wildcard, reserved = next((rule for rule in self._wildcards if matches(rule[0], path)), ("", False))
        prefix_reserved = self._prefixes[len(prefix)][prefix] if prefix else False
        if len(prefix) == len(wildcard):
            return (prefix if prefix_reserved else wildcard) if prefix_reserved or reserved else None
        if len(prefix) > len(wildcard):
            return prefix if prefix_reserved else None
        return wildcard if reserved else None


def matches(pattern: str, path: str) -> bool:
    """Return whether `pattern` fits the beginning of `path`; time is linear in both."""
    anchored = pattern.endswith("$")
    first, *others = pattern.removesuffix("$").split("*")
    if not path.startswith(first):
        return False
    position = len(first)
    for part in others[:-1] if anchored else others:
        found = path.find(part, position)
        if found < 0:
            return False
        position = found + len(part)
    if not anchored:
        return True
    if not others:
        return position == len(path)
    return len(path) - len(others[-1]) >= position and path.endswith(others[-1])
