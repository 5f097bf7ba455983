"""Terms stated by a picture's own metadata, and by the answer that brought it."""

from collections.abc import Iterable

from pipeline.images.embedded import Embedded, exif_texts, iptc_texts
from pipeline.images.xmp import Properties
from pipeline.rights.licences import identify
from pipeline.rights.statements import Statement

_LICENCES = ("cc:license", "xmpRights:UsageTerms", "dcterms:license")
_PAGES = ("xmpRights:WebStatement", "plus:LicensorURL", "cc:morePermissions")
_CREATORS = ("dc:creator", "cc:attributionName", "photoshop:Credit")


def statements(found: Embedded, xmp: Properties, links: Iterable[str] = ()) -> list[Statement]:
    """Return the rights statements of the picture; links: targets of the answer's `Link` with rel=license.

    xmpRights:WebStatement names a page about the terms, xmpRights:UsageTerms describes them: they name a
    licence only where it can be told. Of several names of creators the first property counts, as of XMP, IPTC
    and Exif (Metadata Working Group, 2010).
    """
    said = [Statement("image", "HTTP Link", link) for link in links]
    for name in _LICENCES:
        said += (
            Statement("image", f"xmp {name}", text)
            for text in xmp.get(name, ())
            if name == "cc:license" or identify(text)
        )
    said += (Statement("image", f"xmp {name}", page=text) for name in _PAGES for text in xmp.get(name, ()))
    iptc, exif = iptc_texts(found.iptc), exif_texts(found.exif)
    png = {key.lower(): text for key, text in reversed(found.texts) if text}
    creator = next((("xmp " + name, "; ".join(xmp[name])) for name in _CREATORS if xmp.get(name)), None)
    creators = [
        creator, ("iptc creator", iptc.get("creator")), ("exif Artist", exif.get("artist")),
        ("png Author", png.get("author")),
    ]  # fmt: skip
    notices = [
        ("xmp dc:rights", "; ".join(dict.fromkeys(xmp.get("dc:rights", ())))),
        ("iptc notice", iptc.get("notice")), ("exif Copyright", exif.get("copyright")),
        ("png Copyright", png.get("copyright")),
    ]  # fmt: skip
    said += (Statement("image", where, creator=text) for where, text in _first(creators))
    for where, text in _first(notices):
        said.append(Statement("image", where, licence=text if identify(text) else "", notice=text))
    if licence := png.get("license", ""):
        said.append(Statement("image", "png License", licence))
    return said


def _first(found: Iterable[tuple[str, str | None] | None]) -> list[tuple[str, str]]:
    """Return the first statement, as a list of at most a single entry."""
    return next(([(one[0], one[1])] for one in found if one and one[1]), [])
