"""Really Simple Licensing (RSL 1.0, 2025-12-10): whether terms for machines let images be trained on.

A file of terms is named by `License:` in robots.txt, or by rel=license with the type application/rsl+xml in
an answer's `Link` or in a page that shows the image; or it stands in a <script> of the page, or in an image's
XMP. Its <content> elements name URLs; each <license> in it is an offer, and a single offer that allows
training for nothing is enough. An offer that must be paid for, or that holds only for some users or
countries, is none: nobody here has agreed to it.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple
from urllib.parse import urlsplit
from xml.parsers import expat

from pipeline.http.pathrules import PathRules
from pipeline.urls import BadUrl, resolve

MAX_BYTES: Final = 500 << 10
"""Of a file, as for robots.txt."""
NAMESPACE: Final = b"https://rslstandard.org/rsl"
_TRAINING: Final = frozenset({"all", "ai-all", "ai-train", "train-ai"})
_FREE: Final = frozenset({"", "free", "attribution"})
_MAX_ELEMENTS: Final = 20_000
_MAX_DEPTH: Final = 50


class Term(NamedTuple):
    """The contents of one <content>; fields only."""

    authority: str
    """scheme://host of its URLs."""
    pattern: str
    reserved: bool


class _Offer:
    """One <license>."""

    def __init__(self) -> None:
        self.permitted: set[str] | None = None
        self.prohibited: set[str] = set()
        self.is_conditional = False
        self.payments: list[str] = []

    def allows(self) -> bool:
        if self.is_conditional or self.prohibited & _TRAINING:
            return False
        if self.permitted is not None and not self.permitted & _TRAINING:
            return False
        return not self.payments or any(payment in _FREE for payment in self.payments)


class _Parser:
    def __init__(self, base: str) -> None:
        self.terms: list[Term] = []
        self._base = base
        self._names: list[str] = []
        self._text: list[str] = []
        self._url, self._offers, self._offer = "", list[_Offer](), _Offer()
        self._kind, self._left = "", _MAX_ELEMENTS

    def start(self, name: str, attributes: dict[str, str]) -> None:
        name = name.rpartition(" ")[2].lower()
        self._left -= 1
        if self._left < 0 or len(self._names) >= _MAX_DEPTH:
            raise ValueError("too many elements")
        self._names.append(name)
        self._text = []
        if name == "content":
            self._url, self._offers = attributes.get("url", "/"), []
        elif name == "license":
            self._offer = _Offer()
        elif name in ("permits", "prohibits"):
            self._kind = attributes.get("type", "usage").strip().lower()
        elif name == "payment":
            self._offer.payments.append(attributes.get("type", "").strip().lower())

    def data(self, text: str) -> None:
        self._text.append(text)

    def end(self, _: str) -> None:
        name = self._names.pop()
        words = set("".join(self._text).lower().replace(",", " ").split())
        self._text = []
        if name == "content":
            self._add(bool(self._offers) and not any(offer.allows() for offer in self._offers))
        elif name == "license":
            self._offers.append(self._offer)
        elif name in ("permits", "prohibits"):
            if self._kind != "usage":
                self._offer.is_conditional |= bool(words) and words != {"all"}
            elif name == "permits":
                self._offer.permitted = (self._offer.permitted or set()) | words
            else:
                self._offer.prohibited |= words

    def _add(self, reserved: bool) -> None:
        url = self._url.strip() or "/"
        try:
            parts = urlsplit(url if "//" in url else self._base)
            # A pattern's own characters would not all survive a parser of URLs.
            path = "/" + url.split("//", 1)[1].partition("/")[2] if "//" in url else url
            authority = "/".join(resolve(f"{parts.scheme or 'https'}://{parts.netloc}/").split("/")[:3])
        except (BadUrl, ValueError):
            return
        self.terms.append(Term(authority, path if path.startswith(("/", "*")) else f"/{path}", reserved))

    def refuse(self, *_: object) -> None:
        raise ValueError("a document type")


def parse(body: bytes, base: str) -> list[Term] | None:
    """Read a file of terms that was found at `base`; None if it is no XML with <rsl>; never raises."""
    found = _Parser(base)
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler, parser.EndElementHandler = found.start, found.end
    parser.CharacterDataHandler = found.data
    parser.StartDoctypeDeclHandler = found.refuse
    parser.buffer_text = True
    try:
        parser.Parse(body[:MAX_BYTES], True)
    except (expat.ExpatError, ValueError, LookupError):
        return None
    return found.terms if b"rsl" in body else None


def reserving(body: bytes, *hrefs: str) -> str:
    """Return the reservation, by terms that stand in a page, of it or its image, both resolved, or ""."""
    terms = parse(body, hrefs[0])
    if terms is None:
        return "terms that cannot be read"
    for href in hrefs:
        try:
            url = resolve(href)
        except BadUrl:
            continue
        if pattern := rules(terms, "/".join(url.split("/")[:3])).reserving(url):
            return f"reserves {pattern}"
    return ""


def embedded(packet: bytes) -> str:
    """Return the refusal by terms inside an image's XMP, or "": whatever URL they name, they are its own."""
    if NAMESPACE not in packet:
        return ""
    terms = parse(packet.strip(b"\0 \t\r\n"), "https://image.invalid/")
    if terms is None:
        return "terms that cannot be read"
    return next((f"reserves {term.pattern}" for term in terms if term.reserved), "")


def rules(terms: Iterable[Term], authority: str) -> PathRules:
    """Return the reservation of terms at an authority: the longest pattern decides, then the strictest."""
    host = authority.partition("//")[2]
    own = [term for term in terms if term.authority.partition("//")[2] == host]
    return PathRules((term.pattern, term.reserved) for term in own)
