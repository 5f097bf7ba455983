"""Keep a hostile page from holding the HTML parser for hours.

The standard's tree construction takes quadratic or cubic time on deep nesting: 20,000 open <div> take lexbor
1.4 s and 4,000 `<b id=N><p>` 15 s. So larger pages are scanned first, in linear time, and a page that nests
deeper than people write is reduced to its images and metadata before it is parsed.
"""

import re
from typing import Final

MAX_DEPTH: Final = 1000  # elements left open; browsers stop nesting at 512
MAX_TAGS: Final = 2000  # fewer than this cannot take longer than 2 s, however they nest
MAX_ATTRIBUTES: Final = 1000  # of one tag; 20,000 take 1.3 s
_SMALL: Final = 100_000  # characters: too short for 20,000 attributes

# A comment, a raw-text element, or a tag with its quoted attribute values. Possessive, so linear.
_TOKEN: Final = re.compile(
    r"<!--.*?(?:-->|\Z)"
    r"|<(?P<raw>script|style|textarea|title|xmp|iframe|noembed|noframes)\b.*?(?:</(?P=raw)|\Z)"
    r"|<(?P<end>/?)(?P<name>[a-z][^\s/><]*+)(?P<attributes>(?:[^\"'<>]|\"[^\"]*\"|'[^']*'|[\"'])*+)>?",
    re.IGNORECASE | re.DOTALL,
)
_QUOTED: Final = re.compile(r"\"[^\"]*\"|'[^']*'")
_VOID: Final = "area|base|br|col|embed|hr|img|input|link|meta|param|source|track|wbr"
_SELF_CLOSING: Final = "p|li|td|tr|th|dt|dd|option|optgroup|tbody|thead|tfoot|colgroup|html|head|body"
_NEVER_NESTED: Final = frozenset((*_VOID.split("|"), *_SELF_CLOSING.split("|")))
_KEPT: Final = frozenset(("img", "base", "meta"))


def tame(html: str) -> tuple[str, bool]:
    """Return the page, reduced to <img>, <base> and <meta> if its nesting is hostile; and whether it was."""
    if (len(html) <= _SMALL and html.count("<") <= MAX_TAGS) or not _is_hostile(html):
        return html, False
    kept = (
        match[0] if match[0].endswith(">") else match[0] + ">"
        for match in _TOKEN.finditer(html)
        if (match["name"] or "").lower() in _KEPT
        and not match["end"]
        and not _overloaded(match["attributes"])
    )
    return "".join(kept), True


def _is_hostile(html: str) -> bool:
    """Overestimate the depth: an end tag closes only the very element that was opened last."""
    stack: list[str] = []
    for match in _TOKEN.finditer(html):
        name = match["name"]
        if name is None:
            continue
        if _overloaded(match["attributes"]):
            return True
        name = name.lower()
        if name in _NEVER_NESTED:
            continue
        if not match["end"]:
            stack.append(name)
            if len(stack) > MAX_DEPTH:
                return True
        elif stack and stack[-1] == name:
            stack.pop()
    return False


def _overloaded(attributes: str) -> bool:
    if len(attributes) <= 2 * MAX_ATTRIBUTES:
        return False
    return len(_QUOTED.sub(" ", attributes).replace("/", " ").split()) > MAX_ATTRIBUTES
