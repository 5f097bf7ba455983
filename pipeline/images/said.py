"""All statements of a picture and of the answer that brought it: terms, origin, and refusals."""

from typing import Final, NamedTuple

from pipeline.http import rsl
from pipeline.images import c2pa, embedded, rights, terms, xmp
from pipeline.images.origin import origin
from pipeline.rights.link_header import licences
from pipeline.rights.statements import encode


class Said(NamedTuple):
    """The statements about a picture; fields only."""

    rights: str = ""
    """As `rights.statements.encode` writes it."""
    synthetic: str = ""
    synthetic_source: str = ""
    prohibited: str = ""
    """The statement in its XMP that prohibits data mining, such as `plus:DataMining: DMI-PROHIBITED`."""
    refused: str = ""
    """The C2PA assertion that refuses training or data mining, such as `cawg.ai_training: notAllowed`."""
    terms: str = ""
    """The refusal by terms of Really Simple Licensing in its XMP, such as `reserves /`."""


NOTHING: Final = Said()


def read(data: bytes, links: str = "") -> Said:
    """Return the rights statements of a picture; links: the answer's header Link. Never raises."""
    found = embedded.find(data)
    properties = xmp.read(found.xmp) if found.xmp else {}
    targets = [one.target for one in licences(links) if not one.is_rsl] if links else []
    if not any(found) and not targets:
        return Said(prohibited=rights.prohibited(data))
    store = c2pa.read(found.jumbf) if found.jumbf else c2pa.Store()
    said = encode(terms.statements(found, properties, targets))
    prohibited, refused = rights.prohibited(data), c2pa.refusal(store)
    return Said(said, *origin(found, properties, store), prohibited, refused, rsl.embedded(found.xmp))
