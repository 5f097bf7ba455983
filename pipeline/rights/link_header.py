"""The header Link (RFC 8288), as far as it speaks of licences."""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

MAX_HEADER: Final = 8192
"""Characters that are read of all such headers of an answer."""
RSL: Final = "application/rsl+xml"
_LINK: Final = re.compile(
    r"<([^<>]{1,2000})>((?:\s*;\s*[\w*-]+(?:\s*=\s*(?:\"[^\"]{0,500}\"|[^\s;,\"]{1,500}))?)*)"
)
_PARAMETER: Final = re.compile(r";\s*(rel|type)\s*=\s*(?:\"([^\"]*)\"|([^\s;,\"]+))", re.IGNORECASE)


class Licence(NamedTuple):
    """A link with rel=license; fields only."""

    target: str
    is_rsl: bool
    """Whether it leads to terms for machines, of Really Simple Licensing."""


def licences(value: str) -> Iterator[Licence]:
    """Yield the links with rel=license of a header; several may be joined by commas."""
    for target, parameters in _LINK.findall(value[:MAX_HEADER]):
        said = {
            name.lower(): (one or two).lower() for name, one, two in reversed(_PARAMETER.findall(parameters))
        }
        if "license" in said.get("rel", "").split():
            yield Licence(target.strip(), said.get("type", "").partition(";")[0].strip() == RSL)
