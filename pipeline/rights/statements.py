"""Statements on terms by pages, answers and pictures, and the terms that follow for a sample.

A statement says where it was found and its subject: this picture, or the page that shows it. Statements on
the picture count before statements on its page, and a bare link to a licence counts last. Statements of one
kind that differ are a `conflict`, and licence_source has each; nothing is inferred.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, Literal, NamedTuple

import orjson

from pipeline.rights.licences import identify
from pipeline.urls import without_credentials

About = Literal["terms", "image", "page", "link"]
"""link: a page links to a licence without naming its subject. terms: the page (`page`) links to terms for
machines (`licence`), which are asked for before its images are; no column is made of them."""

CONFLICT: Final = "conflict"
OTHER: Final = "other"
"""A licence is named that has no identifier; licence_url has it."""
MAX_TEXT: Final = 300
"""Characters kept of a name, a notice or a list of sources."""
MAX_URL: Final = 500
MAX_STATEMENTS: Final = 12
_VERSION: Final = re.compile(r"-\d\.\d.*")
_ORDER: Final[tuple[About, ...]] = ("image", "page", "link")
_KEPT_FIRST: Final[tuple[About, ...]] = ("terms", *_ORDER)


class Statement(NamedTuple):
    """One thing that is said; fields only."""

    about: About
    where: str
    """Such as `xmp cc:license` or `page rel=license`."""
    licence: str = ""
    """A URL or a name."""
    page: str = ""
    """URL of a page that tells of the terms, which may or may not be a licence."""
    creator: str = ""
    notice: str = ""


class Rights(NamedTuple):
    """The known terms of a sample; the columns of a shard by these names. All are "" where unknown."""

    licence: str = ""
    """Identifier of SPDX, Creative Commons or rightsstatements.org (RS-...); other; conflict."""
    licence_url: str = ""
    licence_source: str = ""
    """Where it says so; of a conflict, each with its licence."""
    creator: str = ""
    copyright_notice: str = ""


NOTHING: Final = Rights()
COLUMNS: Final = Rights._fields


def clean(text: str, limit: int = MAX_TEXT) -> str:
    """Return a text of a stranger as one line of characters that UTF-8 can hold, cut at `limit`."""
    text = text[: 4 * limit].encode("utf-8", "replace").decode()
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:limit]


def cleaned(statement: Statement) -> Statement:
    """Return a statement within its bounds."""
    licence, page = (without_credentials(text) for text in (statement.licence, statement.page))
    return statement._replace(
        licence=clean(licence, MAX_URL), page=clean(page, MAX_URL),
        creator=clean(statement.creator), notice=clean(statement.notice),
    )  # fmt: skip


def encode(statements: Iterable[Statement]) -> str:
    """Return statements as they travel: JSON, "" for none; the same ones give the same text."""
    found = {one for one in map(cleaned, statements) if any(one[2:])}
    kept = sorted(found, key=lambda one: (_KEPT_FIRST.index(one.about), one))[:MAX_STATEMENTS]
    return orjson.dumps([tuple(one) for one in kept]).decode() if kept else ""


@lru_cache(maxsize=4096)
def decode(text: str) -> tuple[Statement, ...]:
    """Return the statements that `encode` wrote."""
    return tuple(Statement(*one) for one in orjson.loads(text)) if text else ()


def union(texts: Iterable[str]) -> str:
    """Return all statements of several encoded ones."""
    distinct = sorted({text for text in texts if text})
    if len(distinct) < 2:
        return distinct[0] if distinct else ""
    return encode(one for text in distinct for one in decode(text))


def terms(text: str) -> list[tuple[str, str]]:
    """Return the terms for machines of an encoded list: the URL of each, and that of the page."""
    return [(one.licence, one.page) for one in decode(text) if one.about == "terms"]


@lru_cache(maxsize=4096)
def resolve(*texts: str) -> Rights:
    """Return the sum of encoded statements."""
    statements = [one for text in texts for one in decode(text) if one.about != "terms"]
    if not statements:
        return NOTHING
    creators = dict.fromkeys(one.creator for one in statements if one.creator and one.about == "image")
    notices: dict[str, None] = {}
    for about in _ORDER:
        notices = notices or dict.fromkeys(
            one.notice for one in statements if one.notice and one.about == about
        )
    licence, url, source = _licence(statements)
    return Rights(
        licence, url, source[:MAX_TEXT], "; ".join(creators)[:MAX_TEXT], "; ".join(notices)[:MAX_TEXT]
    )


def _licence(statements: list[Statement]) -> tuple[str, str, str]:
    """Return licence, URL and source, by the statements of the first kind that names a licence."""
    named = [one for one in statements if one.licence or identify(one.page)]
    by_kind = [(about, [one for one in named if one.about == about]) for about in _ORDER]
    said = [(about, found) for about, found in by_kind if found]
    if not said:
        pages = [one for one in statements if one.page]
        return ("", pages[0].page, pages[0].where) if pages else ("", "", "")
    found = said[0][1]
    names = {_name(one) for one in found}
    names -= {family for name in names if (family := _VERSION.sub("", name)) != name}  # the same, unnumbered
    others = [one for _, rest in said[1:] for one in rest if not _is_of(_name(one), names)]
    but = "".join(f"; not {one.where}={_name(one)}" for one in others)
    if len(names) > 1:
        each = dict.fromkeys(f"{one.where}={_name(one)}" for one in found)
        return CONFLICT, "", ", ".join(each) + but
    where = ", ".join(dict.fromkeys(one.where for one in found))
    [name] = names
    url = next((text for one in found for text in (one.licence, one.page) if "/" in text), "")
    is_known = any(identify(text) for one in found for text in (one.licence, one.page))
    return name if is_known else OTHER, url, where + but


def _is_of(name: str, names: set[str]) -> bool:
    return name in names or name in {_VERSION.sub("", one) for one in names}


def _name(statement: Statement) -> str:
    """Return the identifier of a statement's licence, or the name it gives."""
    return identify(statement.licence) or identify(statement.page) or statement.licence
