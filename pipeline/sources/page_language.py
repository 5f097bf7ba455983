"""The language that a page says it is in, for the identifier of captions to start from."""

import re
from collections.abc import Iterable
from typing import Final

_TAG: Final = re.compile(r"[a-z]{2,3}(?:-[a-z0-9]{1,8})*")
_MAX_TAG: Final = 35  # characters; BCP 47, section 4.4.1
_META_NAMES: Final = ("language", "dc.language", "dcterms.language", "og:locale")

HTML_LANG: Final = ("html@/lang", "html@/xml:lang")
"""The names, in lower case, under which a WAT file lists the attributes of <html> among the page's metas."""


def declared(
    attributes: Iterable[str],
    pragmas: Iterable[tuple[str, str]],
    headers: Iterable[tuple[str, str]],
    metas: Iterable[tuple[str, str]],
) -> str:
    """Return a language tag of BCP 47 in lower case, such as `pt-br`, or "" if a page names no single one.

    In the order of the HTML Standard (section 3.2.6.2): the lang attributes of <html>, `pragmas`, which are
    (http-equiv, content) of <meta>, and the `headers` of the answer; then (name, content) of `metas`, which
    the standard does not know and people write. What is no tag ("English") and lists are passed over.
    """
    names = {name: i for i, name in enumerate(_META_NAMES)}
    named = [(name.strip().lower(), content) for name, content in metas]
    said = [
        *attributes,
        *(value for name, value in (*pragmas, *headers) if name.strip().lower() == "content-language"),
        *(value for name, value in sorted(named, key=lambda m: names.get(m[0], 9)) if name in names),
    ]
    for value in said:
        tag = value.strip()[: _MAX_TAG + 1].lower().replace("_", "-")
        if len(tag) <= _MAX_TAG and _TAG.fullmatch(tag):
            return tag
    return ""
