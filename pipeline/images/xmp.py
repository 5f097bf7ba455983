"""Read the properties of an XMP packet (ISO 16684-1) from untrusted bytes; never raises, fetches nothing."""

import contextlib
import re
from typing import Final
from xml.parsers import expat

MAX_PACKET: Final = 1 << 20
"""Bytes of a packet that are read."""
_MAX_VALUES: Final = 4_000
_MAX_VALUE: Final = 4_000
_MAX_DEPTH: Final = 100
_RDF: Final = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_XML: Final = "http://www.w3.org/XML/1998/namespace"
_META: Final = "adobe:ns:meta/"
_BARE_AMPERSAND: Final = re.compile(rb"&(?!#\d{1,7};|#x[0-9a-fA-F]{1,6};|(?:amp|lt|gt|quot|apos);)")

PREFIXES: Final = {
    "http://purl.org/dc/elements/1.1/": "dc",
    "http://ns.adobe.com/xap/1.0/": "xmp",
    "http://ns.adobe.com/xap/1.0/rights/": "xmpRights",
    "http://creativecommons.org/ns#": "cc",
    "http://web.resource.org/cc/": "cc",
    "http://ns.adobe.com/photoshop/1.0/": "photoshop",
    "http://ns.useplus.org/ldf/xmp/1.0/": "plus",
    "http://iptc.org/std/Iptc4xmpExt/2008-02-29/": "iptcExt",
    "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/": "iptcCore",
    "http://www.w3.org/ns/tdmrep/": "tdm",
    "http://www.w3.org/ns/tdmrep#": "tdm",
    "http://ns.adobe.com/tiff/1.0/": "tiff",
    "http://purl.org/dc/terms/": "dcterms",
}
"""By namespace, as the keys of `read` begin; other namespaces are left out."""

Properties = dict[str, list[str]]


class _TooMuchError(Exception):
    """The packet is not worth more time."""


class _Reader:
    """Collect the texts of properties: those of a list's items belong to the property around it."""

    def __init__(self) -> None:
        self.found: Properties = {}
        self._names: list[str] = []
        self._text: list[str] = []
        self._left = _MAX_VALUES

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if len(self._names) >= _MAX_DEPTH:
            raise _TooMuchError
        self._names.append(_short(name))
        self._text = []
        for key, value in attributes.items():
            if key == f"{_RDF} resource":
                self._add(self._property(), value)
            else:
                self._add(_short(key), value)

    def text(self, data: str) -> None:
        self._text.append(data)

    def end(self, _: str) -> None:
        self._add(self._property(), "".join(self._text))
        self._text = []
        self._names.pop()

    def _property(self) -> str:
        return next((name for name in reversed(self._names) if name != "rdf"), "")

    def _add(self, name: str, value: str) -> None:
        value = value.strip()
        if value and name and name != "rdf":
            self._left -= 1
            if self._left < 0:
                raise _TooMuchError
            self.found.setdefault(name, []).append(value[:_MAX_VALUE])

    def refuse(self, *_: object) -> None:
        raise _TooMuchError


def _short(name: str) -> str:
    """Return `prefix:name`, "rdf" for elements that only hold values, "" for a namespace that is not read."""
    space, _, local = name.rpartition(" ")
    if space in (_RDF, _XML, _META):
        return "rdf" if space == _RDF and local in ("Bag", "Seq", "Alt", "li", "Description", "value") else ""
    prefix = PREFIXES.get(space)
    return f"{prefix}:{local}" if prefix else ""


def read(packet: bytes) -> Properties:
    """Return the properties of a packet by `prefix:name`, each with its texts; {} for anything that is no
    XML.

    Document types, and so entities, are refused. Entries before damage are returned.
    """
    packet = packet[:MAX_PACKET].strip(b"\0 \t\r\n")
    if b"<!DOCTYPE" in packet or b"<!ENTITY" in packet:
        return {}
    reader = _Reader()
    parser = expat.ParserCreate("utf-8" if packet[:2] not in (b"\xff\xfe", b"\xfe\xff") else None, " ")
    parser.StartElementHandler, parser.EndElementHandler = reader.start, reader.end
    parser.CharacterDataHandler = reader.text
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = reader.refuse
    parser.buffer_text = True
    with contextlib.suppress(expat.ExpatError, _TooMuchError, ValueError, LookupError):
        parser.Parse(_BARE_AMPERSAND.sub(b"&amp;", packet), True)
    return reader.found
