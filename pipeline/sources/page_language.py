"""The language that a page says it is in, for the identifier of captions to start from."""

import re
from collections.abc import Iterable
from operator import itemgetter
from typing import Final

_TAG: Final = re.compile(r"[a-z]{2,3}(?:-[a-z0-9]{1,8})*")
_MAX_TAG: Final = 35  # characters; BCP 47, section 4.4.1
_META_NAMES: Final = {"language": 0, "dc.language": 1, "dcterms.language": 2, "og:locale": 3}
"""And whose word counts before whose."""

HTML_LANG: Final = ("html@/lang", "html@/xml:lang")
"""The names, in lower case, under which a WAT file lists the attributes of <html> among the page's metas."""


def declared(
    attributes: Iterable[str],
    pragmas: Iterable[tuple[str, str]],
    headers: Iterable[tuple[str, str]],
    metas: Iterable[tuple[str, str]],
) -> str:
    """Return a language tag of BCP 47 in lower case, such as `pt-br`, or "" if a page names none or several.

    In the order of the HTML Standard (section 3.2.6.2): the lang attributes of <html>, `pragmas`, which are
    (http-equiv, content) of <meta>, and the `headers` of the answer; then (name, content) of `metas`, which
    the standard does not know and people write. Lists, and values that are no tag ("English"), are passed
    over.
    """
    named = [(_META_NAMES.get(name.strip().lower()), content) for name, content in metas]
    said = [
        *attributes,
        *(value for name, value in (*pragmas, *headers) if name.strip().lower() == "content-language"),
        *(value for rank, value in sorted((m for m in named if m[0] is not None), key=itemgetter(0))),
    ]
    for value in said:
        tag = value.strip()[: _MAX_TAG + 1].lower().replace("_", "-")
        if len(tag) <= _MAX_TAG and _TAG.fullmatch(tag):
            return tag
    return ""
