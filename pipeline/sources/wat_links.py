"""The image links of a WAT record, cut out of its JSON, and the words that stand in it.

An image link is found by the value of its first key, IMG@/src. `_wat.c` does it in C, with the same answers.
"""

import re
from typing import Any, Final, TypeAlias

import orjson

from pipeline.sources.records import MAX_TEXT, Kind
from pipeline.urls import MAX_LENGTH, PLAIN_HOST, PLAIN_PATH

try:
    from pipeline.sources import _wat
except ImportError:  # no compiler where it was installed
    _wat = None  # type: ignore[assignment]

Link: TypeAlias = tuple[str, tuple[tuple[Kind, str], ...]]
"""The URL that is fetched, and its texts."""

IMG: Final = b'"IMG@/src"'
"""The value of an image link's `path`."""

STRING: Final = rb'"(?:[^"\\]++|\\.)*+"'
"""A string of JSON."""
PAIRS: Final = rb"(?:," + STRING + rb":" + STRING + rb")*+"
"""Further keys of an object, with strings."""

_START: Final = b'{"path":'
_BEFORE: Final = (b"[" + _START, b"," + _START)  # of an array; a header that looks alike follows a colon
_REST: Final = re.compile(PAIRS + rb"\}")
_PLAIN_STRING: Final = rb'"((?:[^"\\\x00-\x1f]++|\\["\\/bfnrt]|\\u(?![dD][89a-fA-F])[0-9a-fA-F]{4})*+)"'
_PLAIN_REST: Final = re.compile(
    rb',"url":"(%b)?(%b)"(?:,"alt":%b)?(?:,"title":%b)?\}'
    % (PLAIN_HOST.encode(), PLAIN_PATH.encode(), _PLAIN_STRING, _PLAIN_STRING)
)
_SVG: Final = (b".svg", b".svgz")


def links(data: bytes, site: str) -> list[Link | int]:
    """Return the image links of a record in their order.

    A link that is written as most are, whose URL resolves to itself, is a Link. Of any other it is the
    offset at which the value of its `path` ends, for `parsed`. `site` is the origin of the page; without it
    no link is plain. ValueError where a text is no UTF-8.
    """
    if _wat is not None:
        return _wat.links(data, site, MAX_LENGTH, MAX_TEXT, "alt", "title")
    found: list[Link | int] = []
    at = data.find(IMG)
    while at >= 0:
        end = at + len(IMG)
        plain = _plain_link(data, end, site) if site and data.endswith(_BEFORE, 0, at) else None
        found.append(end if plain is None else plain)
        at = data.find(IMG, end)
    return found


def _plain_link(data: bytes, at: int, site: str) -> Link | None:
    match = _PLAIN_REST.match(data, at)
    if match is None:
        return None
    host, path, alt, title = match.groups()
    url = (host.decode() if host else site) + path.decode()
    if len(url) > MAX_LENGTH or path.partition(b"?")[0].lower().endswith(_SVG):
        return None
    if len(alt or b"") > MAX_TEXT or len(title or b"") > MAX_TEXT:
        return None
    texts: tuple[tuple[Kind, str], ...] = ()
    if alt and (text := _unescaped(alt).strip()):
        texts = (("alt", text),)
    if title and (text := _unescaped(title).strip()):
        texts = (*texts, ("title", text))
    return url, texts


def _unescaped(text: bytes) -> str:
    found: str = orjson.loads(b'"%b"' % text) if b"\\" in text else text.decode()
    return found


def parsed(data: bytes, at: int) -> dict[str, Any]:
    """Return the object of an image link whose `path` ends at `at`; LookupError where it looks unusual."""
    match = _REST.match(data, at)
    if match is None or not data.endswith(_BEFORE, 0, at - len(IMG)):
        raise LookupError
    link: dict[str, Any] = orjson.loads(_START + IMG + match[0])
    return link


def words(data: bytes, stop: int, wanted: tuple[bytes, ...]) -> list[bytes]:
    """Return the words, given in small letters, that stand in data[:stop] in any case."""
    if _wat is not None:
        return _wat.words(data, stop, wanted)
    said = data[:stop].lower()
    return [word for word in wanted if word in said]


def has(data: bytes, word: bytes) -> bool:
    """Return whether a word stands in `data`."""
    return word in data if _wat is None else _wat.has(data, word)
