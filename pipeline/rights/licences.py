"""Tell a licence from its URL or name, as an identifier of SPDX, Creative Commons or rightsstatements.org.

Only a text that names a single licence is read: `https://creativecommons.org/licenses/by/4.0/deed.de` is
CC-BY-4.0, and so is "CC BY 4.0". "Free to use", or a page about licences, is none.
"""

import difflib
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

_CC: Final = re.compile(
    r"(?:https?:)?//(?:[a-z]+\.)?creativecommons\.org/(?:"
    r"licen[cs]es/(?P<code>[a-z+-]+)(?:/(?P<version>\d\.\d)(?:/(?P<place>[a-z]{2,8})\b(?!\.))?)?"
    r"|publicdomain/(?P<public>zero|mark|certification)(?:/(?P<number>\d\.\d))?)",
    re.IGNORECASE,
)
_CC_PLACES_NOT: Final = ("deed", "legalcode", "rdf")
_PUBLIC: Final = {"zero": "CC0", "mark": "CC-PDM", "certification": "CC-PDDC"}
_OTHER: Final = (
    (re.compile(r"(?:https?:)?//(?:www\.)?spdx\.org/licenses/([A-Za-z0-9.+-]+?)(?:\.html|\.json)?/?"), "{}"),
    (re.compile(r"(?:https?:)?//(?:www\.)?opensource\.org/licenses?/([A-Za-z0-9.+-]+?)(?:\.php)?/?"), "{}"),
    (re.compile(r"(?:https?:)?//(?:www\.)?apache\.org/licenses/LICENSE-(\d\.\d)(?:\.\w+)?"), "Apache-{}"),
    (re.compile(r"(?:https?:)?//(?:www\.)?gnu\.org/(?:licenses|copyleft)/fdl-(\d\.\d)(?:\.\w+)?"), "GFDL-{}"),
    (re.compile(r"(?:https?:)?//(?:www\.)?gnu\.org/licenses/gpl-(\d\.\d)(?:\.\w+)?"), "GPL-{}"),
    (re.compile(r"(?:https?:)?//rightsstatements\.org/(?:vocab|page)/([A-Za-z-]+/\d\.\d)/?\??.*"), "RS-{}"),
)  # fmt: skip
_CODE: Final = ("by", "by-sa", "by-nd", "by-nc", "by-nc-sa", "by-nc-nd")
_ORDERS: Final = {"by-nd-nc": "by-nc-nd", "by-sa-nc": "by-nc-sa", "nc-sa-by": "by-nc-sa"}
_NAME: Final = re.compile(
    r"(?:the )?(?:cc|creative commons)[ -]?(?P<words>0|zero|[a-z][a-z, -]*?)[ -]*(?P<version>\d\.\d)?"
    r"(?: (?:international|unported|generic|universal)| deed| \((?:cc[ -])?[a-z0-9 .-]{1,12}\)| licen[cs]e)*",
)
_WORDS: Final = {
    "by": "by", "attribution": "by", "sa": "sa", "sharealike": "sa", "nd": "nd", "noderivs": "nd",
    "noderivatives": "nd", "noderivativeworks": "nd", "nc": "nc", "noncommercial": "nc",
}  # fmt: skip
_MAX_TEXT: Final = 300
_VERSION: Final = re.compile(r"-\d.*")

FAMILIES: Final = ("cc0", "cc-pdm", "cc-pddc", *(f"cc-{code}" for code in _CODE))
"""Values of --licence beside an identifier: any version of these."""


@lru_cache(maxsize=4096)
def identify(said: str) -> str:
    """Return the identifier of the licence that a URL or a name means, such as `CC-BY-SA-4.0`, or ""."""
    said = said.strip()[:_MAX_TEXT]
    if found := _CC.match(said):
        return _creative_commons(found)
    for pattern, name in _OTHER:
        if (found := pattern.fullmatch(said)) and found[1].lower() not in ("index", "alphabetical"):
            return name.format(found[1].replace("/", "-"))
    return "" if "/" in said else _named(said.lower())


def _creative_commons(found: re.Match[str]) -> str:
    if public := found["public"]:
        return "-".join(filter(None, (_PUBLIC[public.lower()], found["number"])))
    code = found["code"].lower().strip("-")
    code = _ORDERS.get(code, code)
    if code == "publicdomain":
        return "CC-PDDC"
    if code not in _CODE:  # retired ones: sampling+, nc, sa ...
        return f"CC-{code.upper()}-{found['version']}" if found["version"] else ""
    place = (found["place"] or "").upper()
    if place.lower() in _CC_PLACES_NOT:
        place = ""
    return "-".join(filter(None, ("CC", code.upper(), found["version"], place)))


def _named(name: str) -> str:
    """Return the identifier for a name such as `cc by-sa 4.0` or `creative commons attribution 4.0`."""
    found = _NAME.fullmatch(" ".join(name.replace("_", "-").split()))
    if found is None:
        return ""
    words, version = found["words"].strip(" -,"), found["version"]
    if words in ("0", "zero"):
        return "CC0-1.0"
    words = words.replace("share alike", "sharealike").replace("share-alike", "sharealike")
    words = re.sub(r"\bnon[ -]commercial\b", "noncommercial", words)
    words = re.sub(r"\bno[ -](deriv\w*)(?: works)?\b", r"no\1", words)
    parts = [_WORDS.get(word) for word in re.split(r"[ ,-]+", words) if word]
    code = "-".join(part or "?" for part in parts)
    code = _ORDERS.get(code, code)
    return "-".join(filter(None, ("CC", code.upper(), version))) if code in _CODE else ""


def family(identifier: str) -> str:
    """Return an identifier without its version, in lower case: `cc-by` for CC-BY-3.0-DE."""
    return _VERSION.sub("", identifier.lower())


def is_among(identifier: str, wanted: Iterable[str]) -> bool:
    """Return whether a licence is one of `wanted`, each an identifier or a family of `FAMILIES`."""
    own = {identifier.lower(), family(identifier)}
    return bool(identifier) and any(one.lower() in own for one in wanted)


def wanted(text: str) -> tuple[str, ...]:
    """Read --licence: names between commas; ValueError for a name that no licence has."""
    names = tuple(dict.fromkeys(name.strip().lower() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in FAMILIES and not re.fullmatch(r"[a-z0-9.+-]*\d[a-z0-9.+-]*|mit|rs-[a-z-]+", name):
            near = difflib.get_close_matches(name, FAMILIES, 1, 0.4)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(
                f"--licence takes {', '.join(FAMILIES)}, or identifiers such as CC-BY-4.0, not {name!r}{hint}"
            )
    if text.strip(" ,") == "" and text:
        raise ValueError("--licence names no licence")
    return names
