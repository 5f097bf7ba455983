"""The `srcset` attribute, by the HTML Standard's "parse a srcset attribute" (section 4.8.4.2.2)."""

import re
from typing import Final, NamedTuple

_SPACE: Final = "\t\n\f\r "
_SKIP: Final = re.compile(r"[\t\n\f\r ,]*")
_URL: Final = re.compile(r"[^\t\n\f\r ]+")
_NUMBER: Final = re.compile(r"-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_DESCRIPTORS: Final = re.compile(r"(?:[^,(]|\([^)]*(?:\)|\Z))*+")  # the standard does not nest parentheses
_DIGITS: Final = re.compile(r"\d{1,9}", re.ASCII)
MAX_CANDIDATES: Final = 256  # a page's author writes ten; the rest of a hostile list is not read


class ImageCandidate(NamedTuple):
    """One image of a list: `width` is 0 without a w descriptor, `density` is 1 without an x descriptor."""

    url: str
    width: int
    density: float


def parse(srcset: str) -> list[ImageCandidate]:
    """Return the valid candidates in order; URLs may contain commas, and nothing raises."""
    found: list[ImageCandidate] = []
    at = 0
    while len(found) < MAX_CANDIDATES:
        at = _end(_SKIP, srcset, at)
        match = _URL.match(srcset, at)
        if match is None:
            break
        url, at = match[0], match.end()
        descriptors: list[str] = []
        if url.endswith(","):
            url = url.rstrip(",")
        else:
            at, descriptors = _descriptors(srcset, at)
        size = _size(descriptors)
        if size is not None:
            found.append(ImageCandidate(url, *size))
    return found


def _descriptors(srcset: str, at: int) -> tuple[int, list[str]]:
    """Split up to the next comma outside parentheses; return where the next candidate starts."""
    match = _DESCRIPTORS.match(srcset, at)
    assert match is not None  # it may be empty
    return match.end() + 1, match[0].split()


def _size(descriptors: list[str]) -> tuple[int, float] | None:
    """Return (width, density), or None where the standard drops the candidate."""
    width: int | None = None
    density: float | None = None
    height = False
    for text in descriptors:
        value, unit = text[:-1], text[-1:]
        if unit == "w" and width is None and density is None and _DIGITS.fullmatch(value) and int(value) > 0:
            width = int(value)
        elif unit == "x" and width is None and density is None and not height and _NUMBER.fullmatch(value):
            density = float(value)
            if density < 0:
                return None
        elif unit == "h" and not height and density is None and _DIGITS.fullmatch(value) and int(value) > 0:
            height = True
        else:
            return None
    if height and width is None:
        return None
    return width or 0, 1.0 if density is None else density


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return at if match is None else match.end()
