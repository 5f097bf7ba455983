"""All that a picture and the answer that brought it say of it: terms, origin, and what is refused."""

from typing import Final, NamedTuple

from pipeline.images import embedded, rights, terms, xmp
from pipeline.rights.link_header import licences
from pipeline.rights.statements import encode


class Said(NamedTuple):
    """What is said of a picture; fields only."""

    rights: str = ""
    """As `rights.statements.encode` writes it."""
    synthetic: str = ""
    synthetic_source: str = ""
    prohibited: str = ""
    """What in its metadata prohibits data mining, such as `plus:DataMining: DMI-PROHIBITED`."""


NOTHING: Final = Said()


def read(data: bytes, links: str = "") -> Said:
    """Return what is said of a picture; links: the answer's header Link. Never raises."""
    found = embedded.find(data)
    properties = xmp.read(found.xmp) if found.xmp else {}
    targets = [one.target for one in licences(links) if not one.is_rsl] if links else []
    said = terms.statements(found, properties, targets) if any(found) or targets else []
    return Said(encode(said), "", "", rights.prohibited(data))
