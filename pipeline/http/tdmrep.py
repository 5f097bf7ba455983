"""/.well-known/tdmrep.json: which paths of a site are reserved from text and data mining.

TDM Reservation Protocol, W3C community group report of 2024-05-10, section 6.1: a JSON list of objects with
`location`, a path pattern as in robots.txt, and `tdm-reservation`, 1 or 0. Anything else says nothing.
"""

import json
from typing import Final

from pipeline.http.pathrules import PathRules

PATH: Final = "/.well-known/tdmrep.json"
MAX_BYTES: Final = 500 << 10
"""Of a file, as for robots.txt."""


def parse(body: bytes) -> PathRules:
    """Read a tdmrep.json; never raises."""
    try:
        found = json.loads(body.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        return PathRules()
    rules = found if isinstance(found, list) else [found]
    return PathRules(
        (location, str(rule.get("tdm-reservation")) == "1")
        for rule in rules
        if isinstance(rule, dict)
        and isinstance(location := rule.get("location"), str)
        and location.startswith(("/", "*"))
        and str(rule.get("tdm-reservation")) in ("0", "1")
    )
